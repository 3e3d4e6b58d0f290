//! `ShardRef -> Sample`: streams one shard and hands on its samples. A shard is never in memory.
//!
//! Async, on tokio; parsing a chunk blocks for microseconds. Bounded by the channel's capacity and by the byte budget
//! that every sample draws on until its bytes are dropped. What cannot become a sample becomes a reject here; a broken
//! tail is one reject. Nothing is dropped.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use object_store::{GetOptions, GetRange, ObjectStoreExt};
use recaption_schemas::{Damage, FailureClass, Reject, RejectReason, redact_text};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{
    shards::ShardRef,
    store::StoreKind,
    tar::{Cut, MemberData, TarEnd, TarError, TarLimits, TarParser},
    webdataset::{Assembler, ImageMember, RawSample, Tail},
};

/// Local files are read in pieces of this size, bytes; other stores stream as they like.
const LOCAL_CHUNK: u64 = 1 << 20;
/// Unit of the byte budget, bytes.
const BUDGET_UNIT: usize = 1024;

/// A sample with its image's bytes, on its way to the decoder.
pub struct Sample {
    /// Number of the shard within the run.
    pub shard: usize,
    /// Position in the shard.
    pub index: u64,
    /// Webdataset key.
    pub key: String,
    /// Stored image.
    pub image: Bytes,
    /// The image member's suffix, lower case.
    pub suffix: String,
    /// What the input said.
    pub org_caption: Option<String>,
    /// The sample's own JSON.
    pub meta: Option<String>,
    /// Where the image came from.
    pub url: Option<String>,
    /// Share of the byte budget, given back when dropped.
    pub held: Option<OwnedSemaphorePermit>,
}

/// Bytes that samples may hold between reader and decoder.
#[derive(Clone)]
pub struct ByteBudget {
    semaphore: Arc<Semaphore>,
    units: u32,
}

impl ByteBudget {
    /// A budget of `bytes`, at least one unit.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let units = u32::try_from(bytes / BUDGET_UNIT).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 4);
        Self { semaphore: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Waits for room for `bytes`; a sample larger than the whole budget takes all of it.
    pub async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(BUDGET_UNIT)).unwrap_or(u32::MAX).min(self.units);
        Arc::clone(&self.semaphore).acquire_many_owned(units).await.ok()
    }
}

/// What a shard turned out to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardEnd {
    /// Samples handed on, rejects of the reader included.
    pub samples: u64,
    /// Members that are no samples.
    pub ignored_members: u64,
    /// Set when the shard could be read only in part.
    pub damage: Option<Damage>,
}

/// Why a shard could not be read.
#[derive(Debug, thiserror::Error)]
#[error("shard {url}: {what}")]
pub struct ReadError {
    /// The shard, redacted.
    pub url: String,
    /// What happened.
    pub what: String,
    /// Whether another attempt may go better.
    pub class: FailureClass,
}

/// What the reader found, in the shard's order.
pub enum Found {
    /// A sample to decode.
    Sample(Sample),
    /// A sample that ends here.
    Reject {
        /// Number of the shard within the run.
        shard: usize,
        /// Position in the shard.
        index: u64,
        /// Why.
        reject: Reject,
    },
}

/// Streams `shard`, the run's shard `number`, and sends everything found; a closed channel stops the reading, and `None`
/// comes back. Adds the bytes that arrive to `bytes_read`.
///
/// # Errors
/// When the shard is missing or unreadable, is no tar at all, or changed while it was read. Rows already sent are
/// then worth nothing: the shard is not committed.
pub async fn read_shard(
    number: usize,
    shard: &ShardRef,
    limits: TarLimits,
    budget: &ByteBudget,
    bytes_read: &AtomicU64,
    to: &mpsc::Sender<Found>,
) -> Result<Option<ShardEnd>, ReadError> {
    // Errors of web servers quote the address, with its secrets.
    let error = |what: String, class| ReadError { url: shard.url.clone(), what: redact_text(&what), class };
    if let Some(why) = &shard.missing {
        return Err(error(why.clone(), FailureClass::Transport));
    }
    let mut chunks = open(shard).await.map_err(|e| error(e.to_string(), FailureClass::Transport))?;
    let mut state = State {
        shard: number,
        parser: TarParser::new(limits),
        assembler: Assembler::new(),
        emitted: 0,
        damage: None,
    };
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| error(e.to_string(), FailureClass::Transport))?;
        bytes_read.fetch_add(chunk.len() as u64, Relaxed);
        state.parser.push(chunk);
        loop {
            match state.parser.next_member() {
                Ok(Some(member)) => {
                    if let Some(raw) = state.assembler.push(member)
                        && !state.emit(raw, budget, to).await
                    {
                        return Ok(None);
                    }
                }
                Ok(None) => break,
                Err(e @ TarError::NotATar { .. }) => return Err(error(e.to_string(), FailureClass::Data)),
                Err(e) => {
                    let offset = match &e {
                        TarError::Damaged { offset, .. } => *offset,
                        _ => state.parser.offset(),
                    };
                    state.damage = Some(Damage { offset, detail: e.to_string() });
                    return state.finish(None, shard.size, budget, to).await;
                }
            }
        }
    }
    match state.parser.finish() {
        Ok(TarEnd::Clean { trailing, .. }) => {
            if let Some(trailing) = trailing {
                state.damage = Some(Damage { offset: trailing.offset, detail: trailing.to_string() });
            }
            state.finish(None, shard.size, budget, to).await
        }
        Ok(TarEnd::Truncated { offset, received, cut }) => {
            state.damage = Some(Damage {
                offset,
                detail: format!("the tar ends too early, after {received} bytes: {cut}"),
            });
            state.finish(Some(&cut), shard.size, budget, to).await
        }
        Err(e) => Err(error(e.to_string(), FailureClass::Data)),
    }
}

struct State {
    shard: usize,
    parser: TarParser,
    assembler: Assembler,
    emitted: u64,
    damage: Option<Damage>,
}

impl State {
    async fn emit(&mut self, raw: RawSample, budget: &ByteBudget, to: &mpsc::Sender<Found>) -> bool {
        self.emitted += 1;
        let index = raw.index;
        let bytes = raw.bytes_held();
        let found = match judge(self.shard, raw) {
            Ok(mut sample) => {
                sample.held = budget.take(bytes).await;
                Found::Sample(sample)
            }
            Err(reject) => Found::Reject { shard: self.shard, index, reject },
        };
        to.send(found).await.is_ok()
    }

    /// The last sample, and the broken tail if there is one.
    async fn finish(
        mut self,
        cut: Option<&Cut>,
        size: u64,
        budget: &ByteBudget,
        to: &mpsc::Sender<Found>,
    ) -> Result<Option<ShardEnd>, ReadError> {
        // Damage after the end marker is no business of the sample before it.
        let tail = match &self.damage {
            Some(_) if !self.parser.has_ended() => Tail::Broken { cut_file: cut.and_then(Cut::file_name) },
            _ => Tail::Whole,
        };
        let cut_key = cut.and_then(Cut::file_name).map(key_of);
        let mut tail_key = cut_key.clone().unwrap_or_default();
        if let Some(raw) = self.assembler.finish(tail) {
            // A sample one of whose members is cut, or whose image never came, is the broken tail's own. One that has
            // its image is kept: at most a sidecar of it is missing, and the commit record says where.
            if raw.cut && (cut_key.as_ref() == Some(&raw.key) || raw.image.is_none()) {
                tail_key = raw.key;
            } else if !self.emit(raw, budget, to).await {
                return Ok(None);
            }
        }
        if let Some(damage) = &self.damage {
            let left = size.saturating_sub(damage.offset);
            let detail =
                format!("{} (byte {} of {size}, {left} bytes not read)", damage.detail, damage.offset);
            let reject = Reject {
                key: tail_key,
                reason: RejectReason::DamagedShard,
                detail,
                caption: None,
                similarity: None,
                org_caption: None,
            };
            let index = self.emitted;
            self.emitted += 1;
            if to.send(Found::Reject { shard: self.shard, index, reject }).await.is_err() {
                return Ok(None);
            }
        }
        let ignored_members = self.assembler.ignored().total();
        Ok(Some(ShardEnd { samples: self.emitted, ignored_members, damage: self.damage }))
    }
}

fn key_of(name: &str) -> String {
    match crate::webdataset::split_name(name) {
        crate::webdataset::NameClass::Part { key, .. } => key.to_owned(),
        _ => name.to_owned(),
    }
}

/// A raw sample that can be decoded, or why not.
fn judge(shard: usize, raw: RawSample) -> Result<Sample, Reject> {
    let json = raw.json.as_deref().and_then(|t| serde_json::from_str::<serde_json::Value>(t).ok());
    let field = |name: &str| json.as_ref()?.get(name)?.as_str().map(str::to_owned);
    let url = field("url");
    let org_caption = raw.caption.clone().or_else(|| field("caption"));
    let reject = |reason, detail| Reject {
        key: raw.key.clone(),
        reason,
        detail,
        caption: None,
        similarity: None,
        org_caption: org_caption.clone(),
    };
    if raw.duplicate {
        return Err(reject(
            RejectReason::DuplicateKey,
            "an earlier sample of this shard has the same key".into(),
        ));
    }
    let Some(image) = &raw.image else {
        let others = match raw.other_suffixes.as_slice() {
            [] => "no member with an image suffix".into(),
            list => format!("no member with an image suffix; it has: {}", list.join(", ")),
        };
        return Err(reject(RejectReason::MissingImage, others));
    };
    match image_bytes(image) {
        Ok(bytes) => Ok(Sample {
            shard,
            index: raw.index,
            image: bytes,
            suffix: image.suffix.clone(),
            org_caption,
            url,
            meta: raw.json,
            key: raw.key,
            held: None,
        }),
        Err((reason, detail)) => Err(reject(reason, detail)),
    }
}

fn image_bytes(image: &ImageMember) -> Result<Bytes, (RejectReason, String)> {
    match &image.data {
        MemberData::Bytes(bytes) => Ok(bytes.clone()),
        MemberData::TooLarge { .. } => {
            Err((RejectReason::TooLarge, image.data.why_no_bytes().unwrap_or_default()))
        }
        MemberData::Link { .. } | MemberData::Sparse => {
            Err((RejectReason::MissingImage, image.data.why_no_bytes().unwrap_or_default()))
        }
    }
}

/// The shard's bytes in order. An object that changes meanwhile is an error, not a mixture.
async fn open(shard: &ShardRef) -> object_store::Result<BoxStream<'static, object_store::Result<Bytes>>> {
    let location = shard.location.clone();
    match location.kind {
        StoreKind::Bucket | StoreKind::Hub | StoreKind::Http => {
            // A web server may take it for something else.
            let etag = if location.kind == StoreKind::Http { None } else { shard.etag.clone() };
            let options = GetOptions::new().with_if_match(etag);
            Ok(location.store.get_opts(&location.path, options).await?.into_stream())
        }
        StoreKind::Local => {
            let (size, etag) = (shard.size, shard.etag.clone());
            location.store.head(&location.path).await?;
            let pieces = futures::stream::iter((0..size).step_by(LOCAL_CHUNK as usize));
            Ok(pieces
                .then(move |from| {
                    let (location, etag) = (location.clone(), etag.clone());
                    async move {
                        let range = GetRange::Bounded(from..size.min(from + LOCAL_CHUNK));
                        let options = GetOptions::new().with_range(Some(range)).with_if_match(etag);
                        location.store.get_opts(&location.path, options).await?.bytes().await
                    }
                })
                .boxed())
        }
    }
}
