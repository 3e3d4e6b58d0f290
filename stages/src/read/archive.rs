//! Members of a tar, packed or not -> samples.

use bytes::Bytes;
use recaption_schemas::{Damage, Reject, RejectReason};

use super::{Found, ReadError, Reading, Sample, ShardEnd, Stays, open, open::First, unpack::Unpack};
use crate::{
    tar::{Cut, MemberData, TarEnd, TarError, TarParser},
    webdataset::{Assembler, ImageMember, NameClass, RawSample, Tail, split_name},
};

/// An object without a byte: no tar ends like that.
pub fn read_empty(reading: Reading<'_>) -> Result<Option<ShardEnd>, ReadError> {
    match TarParser::new(reading.settings.tar).finish() {
        Err(e) => Err(reading.data(&e.to_string())),
        Ok(_) => Err(reading.data("it is empty")),
    }
}

/// Reads an archive whose first bytes are there already.
pub async fn read(reading: Reading<'_>, first: First) -> Result<Option<ShardEnd>, ReadError> {
    let unpack = Unpack::recognise(&first.bytes);
    let mut unpack = unpack.map_err(|e| reading.data(&format!("cannot be unpacked: {e}")))?;
    let mut archive = Archive::new(reading, unpack.is_packed());
    let (mut piece, mut rest) = (Some(first.bytes), first.rest);
    while let Some(mut packed) = piece {
        archive.packed_bytes += packed.len() as u64;
        while !packed.is_empty() {
            let bytes = match unpack.next(&mut packed) {
                Ok(bytes) => bytes,
                Err(e) => return archive.unpack_error(&e).await,
            };
            match archive.push(bytes).await? {
                // What unpacks to much must leave room for others, and hear of a stop.
                Step::On if archive.packed => tokio::task::yield_now().await,
                Step::On => {}
                Step::Nobody => return Ok(None),
                Step::Broken => return archive.finish(None).await,
            }
        }
        piece = open::next(&mut rest, reading).await?;
    }
    loop {
        let bytes = match unpack.finish() {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => bytes,
            Err(e) => return archive.unpack_error(&e).await,
        };
        match archive.push(bytes).await? {
            Step::On => {}
            Step::Nobody => return Ok(None),
            Step::Broken => return archive.finish(None).await,
        }
    }
    archive.end().await
}

/// What came of some bytes.
enum Step {
    On,
    /// Nobody takes samples any more.
    Nobody,
    /// The rest cannot be read.
    Broken,
}

/// An archive under way.
pub(super) struct Archive<'a> {
    reading: Reading<'a>,
    parser: TarParser,
    samples: Samples<'a>,
    damage: Option<Damage>,
    packed: bool,
    packed_bytes: u64,
}

impl<'a> Archive<'a> {
    fn new(reading: Reading<'a>, packed: bool) -> Self {
        let parser = TarParser::new(reading.settings.tar);
        Self { reading, parser, samples: Samples::new(reading), damage: None, packed, packed_bytes: 0 }
    }

    async fn push(&mut self, bytes: Bytes) -> Result<Step, ReadError> {
        self.parser.push(bytes);
        loop {
            match self.parser.next_member() {
                Ok(Some(member)) => {
                    if let Some(raw) = self.samples.assembler.push(member)
                        && !self.samples.emit(raw).await?
                    {
                        return Ok(Step::Nobody);
                    }
                }
                Ok(None) => return Ok(Step::On),
                Err(e @ TarError::NotATar { .. }) => return Err(self.reading.data(&e.to_string())),
                Err(e) => {
                    let offset = match &e {
                        TarError::Damaged { offset, .. } => *offset,
                        _ => self.parser.offset(),
                    };
                    self.damage = Some(Damage { offset, detail: e.to_string() });
                    return Ok(Step::Broken);
                }
            }
        }
    }

    /// The packed stream is damaged or cut: what came before stands, as in a tar that is cut.
    async fn unpack_error(mut self, error: &std::io::Error) -> Result<Option<ShardEnd>, ReadError> {
        let what = format!("the packed stream cannot be unpacked after {} bytes: {error}", self.packed_bytes);
        match self.parser.finish() {
            Ok(TarEnd::Truncated { offset, cut, .. }) => {
                self.damage = Some(Damage { offset, detail: what });
                self.finish(Some(&cut)).await
            }
            Ok(TarEnd::Clean { offset, .. }) => {
                self.damage = Some(Damage { offset, detail: what });
                self.finish(None).await
            }
            Err(_) => Err(self.reading.data(&what)),
        }
    }

    /// The input is at its end.
    async fn end(mut self) -> Result<Option<ShardEnd>, ReadError> {
        match self.parser.finish() {
            Ok(TarEnd::Clean { trailing, .. }) => {
                if let Some(trailing) = trailing {
                    self.damage = Some(Damage { offset: trailing.offset, detail: trailing.to_string() });
                }
                self.finish(None).await
            }
            Ok(TarEnd::Truncated { offset, received, cut }) => {
                self.damage = Some(Damage {
                    offset,
                    detail: format!("the tar ends too early, after {received} bytes: {cut}"),
                });
                self.finish(Some(&cut)).await
            }
            Err(e) => Err(self.reading.data(&e.to_string())),
        }
    }

    /// The last sample, and the broken tail if there is one.
    async fn finish(mut self, cut: Option<&Cut>) -> Result<Option<ShardEnd>, ReadError> {
        // Damage after the end marker is no business of the sample before it.
        let tail = match &self.damage {
            Some(_) if !self.parser.has_ended() => Tail::Broken { cut_file: cut.and_then(Cut::file_name) },
            _ => Tail::Whole,
        };
        let cut_key = cut.and_then(Cut::file_name).map(key_of);
        let mut tail_key = cut_key.clone().unwrap_or_default();
        if let Some(raw) = self.samples.assembler.finish(tail) {
            // A sample one of whose members is cut, or whose image never came, is the broken tail's own. One that has
            // its image is kept: at most a sidecar of it is missing, and the commit record says where.
            if raw.cut && (cut_key.as_ref() == Some(&raw.key) || raw.image.is_none()) {
                tail_key = raw.key;
            } else if !self.samples.emit(raw).await? {
                return Ok(None);
            }
        }
        if let Some(damage) = &self.damage {
            let size = self.reading.shard.size;
            let place = if self.packed {
                // An offset in what is unpacked, and about where that is in the object.
                format!(
                    "byte {} of the unpacked tar, {} of {size} bytes read",
                    damage.offset, self.packed_bytes
                )
            } else {
                let left = size.saturating_sub(damage.offset);
                format!("byte {} of {size}, {left} bytes not read", damage.offset)
            };
            let detail = format!("{} ({place})", damage.detail);
            let index = self.samples.emitted;
            self.samples.emitted += 1;
            if !self.reading.reject_tail(index, tail_key, detail).await? {
                return Ok(None);
            }
        }
        let ignored_members = self.samples.assembler.ignored().total();
        Ok(Some(ShardEnd { samples: self.samples.emitted, ignored_members, damage: self.damage }))
    }
}

/// Members into samples, and samples on their way.
pub(super) struct Samples<'a> {
    pub reading: Reading<'a>,
    pub assembler: Assembler,
    pub emitted: u64,
}

impl<'a> Samples<'a> {
    pub fn new(reading: Reading<'a>) -> Self {
        Self { reading, assembler: Assembler::new(), emitted: 0 }
    }

    /// Hands a sample on; `false` when nobody takes it.
    pub async fn emit(&mut self, raw: RawSample) -> Result<bool, ReadError> {
        self.emitted += 1;
        let (index, bytes) = (raw.index, raw.bytes_held());
        if let Stays::Told(taken) = self.reading.stays(index, &raw.key).await? {
            return Ok(taken);
        }
        let found = match judge(self.reading.number, raw) {
            Ok(mut sample) => {
                sample.held = self.reading.budget.take(bytes).await;
                Found::Sample(sample)
            }
            Err(reject) => Found::Reject { shard: self.reading.number, index, reject },
        };
        Ok(self.reading.to.send(found).await.is_ok())
    }
}

fn key_of(name: &str) -> String {
    match split_name(name) {
        NameClass::Part { key, .. } => key.to_owned(),
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
