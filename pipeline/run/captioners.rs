//! The captioners of a run: one or several per device, each on threads of its own.
//!
//! A GPU that fails, while its models are loaded or later, is left out with an error, and the images that it had are captioned
//! by the others. A failure of the last one ends the run.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
};

use anyhow::{Context, anyhow};
use crossbeam_channel::Receiver;
use recaption_caption::{CaptionError, CaptionWorker, CaptionWorkerSettings, ImageQueue};
use recaption_messages::{Closed, PreparedSample, SampleResult, ShardEvent};
use recaption_onnx::runtime::{Execution, SessionOptions};
use tokio::sync::mpsc;

use super::{
    RunModel,
    context::{RunContext, RunState},
    devices::{Device, Devices},
    panic_guard::PanicGuard,
};
use crate::config::RunConfig;

/// What the copies of the models may weigh together. A copy per thread is fastest (nothing waits for the slowest thread of
/// an operator; measured on two cores with coca_ViT-B-32: 1.2 to 1.3 times one copy with two threads).
const COPIES_BYTES: u64 = 4 << 30;

/// Copies of the models per device and threads of each, using every core once. On a GPU one copy keeps the card busy, and what
/// is left to its threads is arithmetic on shapes.
pub(crate) fn copies_and_threads(
    config: &RunConfig,
    model: &RunModel,
    execution: Execution,
) -> (usize, usize) {
    if execution.is_gpu() {
        return (config.model.sessions.unwrap_or(1), 1);
    }
    let folders = std::iter::once(&model.folder).chain(&model.scorer);
    let bytes: u64 = folders.flat_map(|folder| &folder.spec.files).map(|f| f.size).sum();
    let fitting = usize::try_from(COPIES_BYTES / bytes.max(1)).unwrap_or(usize::MAX);
    let automatic = fitting.min(config.resources.threads);
    let copies = config.model.sessions.unwrap_or(automatic).max(1);
    (copies, (config.resources.threads / copies).max(1))
}

/// Loads the models on every device that works, side by side, and starts the captioners' threads.
///
/// # Errors
/// When the models can be loaded on none.
pub(super) async fn start_captioners(
    context: RunContext<'_>,
    mut settings: CaptionWorkerSettings,
    state: &Arc<RunState>,
    prepared: Receiver<PreparedSample>,
    events: &mpsc::Sender<ShardEvent>,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let RunContext { config, model, devices, .. } = context;
    let execution = devices.all().first().map_or(Execution::Cpu, |device| device.execution);
    let (copies, threads) = copies_and_threads(config, model, execution);
    settings.caption.cache_bytes /= copies as u64;
    let mut loading = tokio::task::JoinSet::new();
    for (number, device) in devices.all().iter().enumerate().filter(|(_, device)| device.is_working()) {
        let options = SessionOptions {
            execution: device.execution,
            cuda_graphs: config.model.cuda_graphs,
            ..SessionOptions::on_cpu(threads)
        };
        for _ in 0..copies {
            let (folder, scorer, settings) = (model.folder.clone(), model.scorer.clone(), settings.clone());
            loading.spawn_blocking(move || {
                (number, CaptionWorker::load(&folder, scorer.as_ref(), &options, settings))
            });
        }
    }
    let mut loaded = Vec::new();
    while let Some(captioner) = loading.join_next().await {
        let (number, captioner) = captioner.context("loading the model broke down")?;
        match captioner {
            Ok(captioner) => {
                let counters = Arc::clone(&state.progress.caption);
                loaded.push((number, captioner.with_counters(counters)));
            }
            Err(error) => leave_out(devices, &devices.all()[number], error)?,
        }
    }
    let queue =
        if devices.all().len() > 1 { ImageQueue::with_requeue(prepared) } else { ImageQueue::new(prepared) };
    let start = |(number, captioner): (usize, CaptionWorker)| {
        let (queue, devices) = (queue.clone(), Arc::clone(devices));
        let (state, events) = (Arc::clone(state), events.clone());
        let work = move || caption_all(captioner, (&devices, number), &queue, &state, &events);
        Ok(std::thread::Builder::new().name("caption".into()).spawn(work)?)
    };
    state.progress.caption.set_workers(loaded.len());
    tracing::debug!(copies, devices = devices.working(), threads_per_copy = threads, "models loaded");
    let working = |(number, _): &(usize, CaptionWorker)| devices.all()[*number].is_working();
    loaded.into_iter().filter(working).map(start).collect()
}

/// What one captioner's thread does.
fn caption_all(
    captioner: CaptionWorker,
    (devices, number): (&Arc<Devices>, usize),
    queue: &ImageQueue,
    state: &Arc<RunState>,
    events: &mpsc::Sender<ShardEvent>,
) {
    let _guard = PanicGuard::new(state, "a captioning thread");
    let device = &devices.all()[number];
    let emit = |result: SampleResult| {
        device.images.fetch_add(1, Relaxed);
        state.progress.caption_queue.set(queue.waiting());
        if state.stop.is_aborted() {
            return Err(Closed);
        }
        events.blocking_send(ShardEvent::Sample(Box::new(result))).map_err(|_| Closed)
    };
    let Err(failure) = captioner.run(queue, emit) else { return };
    match leave_out(devices, device, failure.error) {
        Ok(()) => {
            let images = queue.requeue(failure.unfinished);
            tracing::warn!(images, "images of the failed GPU are captioned by the others");
        }
        Err(error) => state.fail(error.context("captioning failed")),
    }
}

/// Continues without a device, if there are others.
fn leave_out(devices: &Devices, device: &Device, error: CaptionError) -> anyhow::Result<()> {
    let name = device.execution.device().map_or_else(|| "the CPU".to_owned(), |n| format!("GPU {n}"));
    let was_working = device.is_working();
    device.fail(&error.to_string());
    if devices.working() == 0 {
        return Err(anyhow::Error::new(error).context(match devices.all().len() {
            1 => anyhow!("{name} failed"),
            n => anyhow!("{name} failed, and none of the {n} GPUs is left"),
        }));
    }
    if was_working {
        tracing::error!(device = name, %error, "GPU failed; continuing with the others");
    }
    Ok(())
}
