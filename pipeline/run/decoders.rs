//! The decoding stage of a run: samples to rayon's threads, prepared samples to the captioners.
//!
//! At most [`DECODES_PER_THREAD`] images per thread are in decoding. A full captioner queue makes the threads wait, and this
//! stage with them. An image that cannot be decoded goes to the collector as a reject.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use anyhow::{Context, anyhow};
use crossbeam_channel::Sender;
use recaption_image::{PrepareSettings, prepare_sample};
use recaption_messages::{PreparedSample, Sample, SampleResult, ShardEvent};
use tokio::sync::{Semaphore, mpsc};

use super::{context::RunState, progress::DecodeCounters};

/// Images in decoding per decoding thread: one at work, one ready.
const DECODES_PER_THREAD: usize = 2;

/// The decoding threads, and where their results go.
pub(super) struct Decoders {
    state: Arc<RunState>,
    pool: rayon::ThreadPool,
    settings: Arc<PrepareSettings>,
    to_captioners: Sender<PreparedSample>,
    events: mpsc::Sender<ShardEvent>,
}

impl Decoders {
    /// Starts `threads` decoding threads.
    ///
    /// # Errors
    /// When the operating system starts none.
    pub(super) fn start(
        state: &Arc<RunState>,
        threads: usize,
        settings: PrepareSettings,
        to_captioners: Sender<PreparedSample>,
        events: mpsc::Sender<ShardEvent>,
    ) -> anyhow::Result<Self> {
        let on_panic = Arc::clone(state);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("decode-{i}"))
            .panic_handler(move |_| on_panic.fail(anyhow!("a decoding thread panicked")))
            .build()
            .context("cannot start the decoding threads")?;
        state.progress.decode.clock.set_workers(threads);
        Ok(Self { state: Arc::clone(state), pool, settings: Arc::new(settings), to_captioners, events })
    }

    /// Decodes all samples, until their channel is closed.
    pub(super) async fn run(self, mut samples: mpsc::Receiver<Sample>) {
        let most = self.pool.current_num_threads() * DECODES_PER_THREAD;
        let in_flight = Arc::new(Semaphore::new(most));
        while let Some(sample) = samples.recv().await {
            if self.state.stop.is_aborted() {
                continue;
            }
            let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else { return };
            let progress = &self.state.progress;
            progress.decode_queue.set(samples.len());
            progress.caption_queue.set(self.to_captioners.len());
            let (state, settings) = (Arc::clone(&self.state), Arc::clone(&self.settings));
            let (to_captioners, events) = (self.to_captioners.clone(), self.events.clone());
            self.pool.spawn(move || {
                match decode(sample, &settings, &state.progress.decode) {
                    // A closed channel means that the run is over; the shard is then not committed.
                    Ok(prepared) => drop(to_captioners.send(prepared)),
                    Err(rejected) => drop(events.blocking_send(ShardEvent::Sample(rejected))),
                }
                drop(permit);
            });
        }
        // Wait for the images in decoding, then drop the pool on a thread that may block.
        let _ = in_flight.acquire_many(u32::try_from(most).unwrap_or(1)).await;
        let _ = tokio::task::spawn_blocking(move || drop(self.pool)).await;
    }
}

/// Decodes one image, and counts it.
fn decode(
    sample: Sample,
    settings: &PrepareSettings,
    counters: &DecodeCounters,
) -> Result<PreparedSample, Box<SampleResult>> {
    let _working = counters.clock.work();
    counters.samples.fetch_add(1, Relaxed);
    counters.bytes.fetch_add(sample.image.len() as u64, Relaxed);
    prepare_sample(sample, settings)
}
