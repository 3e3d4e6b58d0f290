//! Members of a tar, packed or not -> samples.

use bytes::Bytes;
use recaption_schemas::{Damage, OriginalCaption, Reject, RejectReason};

use super::{Reading, open, open::First, unpack::Unpack};
use crate::{
    json::Document,
    label::DUPLICATE_KEY,
    tar::{Cut, MemberData, TarEnd, TarError, TarParser},
    told,
    webdataset::{Assembler, ImageMember, NameClass, RawSample, Tail, split_name},
};
use recaption_messages::{ReadStop, Sample, ShardContents};

/// An object without a byte: no tar ends like that.
pub fn read_empty(reading: Reading<'_>) -> Result<ShardContents, ReadStop> {
    match TarParser::new(reading.settings.tar).finish() {
        Err(e) => Err(reading.data(&e.to_string()).into()),
        Ok(_) => Err(reading.data("it is empty").into()),
    }
}

/// Reads an archive whose first bytes are there already.
pub async fn read(reading: Reading<'_>, first: First) -> Result<ShardContents, ReadStop> {
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
            Step::Broken => return archive.finish(None).await,
        }
    }
    archive.end().await
}

/// What came of some bytes.
enum Step {
    On,
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

    async fn push(&mut self, bytes: Bytes) -> Result<Step, ReadStop> {
        self.parser.push(bytes);
        loop {
            match self.parser.next_member() {
                Ok(Some(member)) => {
                    if let Some(raw) = self.samples.assembler.push(member) {
                        self.samples.emit(raw).await?;
                    }
                }
                Ok(None) => return Ok(Step::On),
                Err(e @ TarError::NotATar { .. }) => return Err(self.reading.data(&e.to_string()).into()),
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
    async fn unpack_error(mut self, error: &std::io::Error) -> Result<ShardContents, ReadStop> {
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
            Err(_) => Err(self.reading.data(&what).into()),
        }
    }

    /// The input is at its end.
    async fn end(mut self) -> Result<ShardContents, ReadStop> {
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
            Err(e) => Err(self.reading.data(&e.to_string()).into()),
        }
    }

    /// The last sample, and the broken tail if there is one.
    async fn finish(mut self, cut: Option<&Cut>) -> Result<ShardContents, ReadStop> {
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
            } else {
                self.samples.emit(raw).await?;
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
            self.reading.reject_tail(index, tail_key, detail).await?;
        }
        self.samples.close();
        Ok(ShardContents { damage: self.damage, ..ShardContents::whole(self.samples.emitted) })
    }
}

/// Members into samples, and samples on their way.
pub(super) struct Samples<'a> {
    pub reading: Reading<'a>,
    pub assembler: Assembler,
    pub emitted: u64,
    /// Samples of a key that was there before.
    again: u64,
    unreadable: u64,
}

impl<'a> Samples<'a> {
    pub fn new(reading: Reading<'a>) -> Self {
        let assembler = Assembler::preferring(reading.settings.image_suffixes.clone());
        Self { reading, assembler, emitted: 0, again: 0, unreadable: 0 }
    }

    /// Sends a sample on.
    pub async fn emit(&mut self, raw: RawSample) -> Result<(), ReadStop> {
        self.emitted += 1;
        self.again += u64::from(raw.duplicate);
        let reading = self.reading;
        let (index, bytes) = (raw.index, raw.bytes_held());
        let told = Told::by(reading, &raw);
        if let Some(why) = &told.unreadable {
            self.unreadable += 1;
            if self.unreadable == 1 {
                let (shard, key) = (&reading.shard.url, &raw.key);
                tracing::warn!(
                    shard,
                    key,
                    why,
                    "sidecar JSON cannot be read; more of this shard are only counted"
                );
            }
        }
        reading.tally.count(|counts| {
            counts.unreadable_json += u64::from(told.unreadable.is_some());
            for suffix in &raw.extra_images {
                counts.extra_image(format!("{}.{suffix}", raw.key));
            }
            counts.extra_images += raw.extra_image_count - raw.extra_images.len() as u64;
        });
        reading.tally.caption(told.caption.as_ref());
        if reading.keep_previous(index, &raw.key).await? {
            return Ok(());
        }
        match validate_sample(reading.number, raw, told) {
            Ok(mut sample) => {
                sample.permit = reading.budget.acquire(bytes).await;
                reading.send_held(sample).await?;
            }
            Err(reject) => reading.reject(index, *reject).await?,
        }
        Ok(())
    }

    /// All members were taken: counts what belongs to no sample, and says what was used.
    fn close(&self) {
        let (reading, ignored) = (self.reading, self.assembler.ignored());
        reading.tally.count(|counts| {
            counts.ignore("directory", ignored.directories);
            counts.ignore("webdataset metadata", ignored.meta);
            counts.ignore("hidden", ignored.hidden);
            counts.ignore("neither file nor link", ignored.other);
        });
        if self.emitted > 0 {
            reading.settings.announced.say("tar", &self.assembler.members().to_string());
        }
        if self.again > 0 {
            tracing::warn!(
                shard = reading.shard.url,
                samples = self.again,
                "keys that come again are rejected as duplicate_key: {SORT}"
            );
        }
    }
}

/// What to do about members of one sample that are not neighbours.
const SORT: &str = "members of a sample must be neighbours; `mkdir DIR && tar -xf SHARD.tar -C DIR && tar --sort=name -cf \
                    SORTED.tar -C DIR .` makes them so";

/// What the members beside the image say.
struct Told {
    caption: Option<OriginalCaption>,
    url: Option<String>,
    /// Valid JSON.
    meta: Option<String>,
    /// Why there is none though there is a sidecar.
    unreadable: Option<String>,
}

impl Told {
    fn by(reading: Reading<'_>, raw: &RawSample) -> Self {
        let (document, unreadable) = match raw.json.as_deref().map(|json| Document::read(json.as_bytes())) {
            Some(Ok(document)) => (Some(document), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        let (captions, url) = document.as_ref().map(told::of_object).unwrap_or_default();
        let text = raw.caption.as_deref().and_then(OriginalCaption::new);
        let caption = text.or_else(|| reading.settings.captions.pick(&raw.key, &captions));
        Self { caption, url, meta: document.map(Document::into_text), unreadable }
    }
}

fn key_of(name: &str) -> String {
    match split_name(name) {
        NameClass::Part { key, .. } => key.to_owned(),
        _ => name.to_owned(),
    }
}

/// Returns a sample that can be decoded, or the reject that says why not.
fn validate_sample(shard: usize, raw: RawSample, told: Told) -> Result<Sample, Box<Reject>> {
    let refused = match &raw.image {
        _ if raw.duplicate && raw.image.is_none() => {
            let what = format!("{DUPLICATE_KEY}, and this part of it has no image: {SORT}");
            Err((RejectReason::DuplicateKey, what))
        }
        _ if raw.duplicate => Err((RejectReason::DuplicateKey, DUPLICATE_KEY.to_owned())),
        None => {
            let others = match raw.other_suffixes.as_slice() {
                [] => "no member with an image suffix".into(),
                list => format!("no member with an image suffix; it has: {}", list.join(", ")),
            };
            Err((RejectReason::MissingImage, others))
        }
        Some(image) => image_bytes(image).map(|bytes| (bytes, image.suffix.clone())),
    };
    match refused {
        Ok((image, suffix)) => Ok(Sample {
            shard,
            index: raw.index,
            image,
            suffix,
            org_caption: told.caption,
            url: told.url,
            meta: told.meta,
            key: raw.key,
            permit: None,
        }),
        Err((reason, detail)) => Err(Box::new(Reject {
            key: raw.key,
            reason,
            detail,
            caption: None,
            similarity: None,
            org_caption: told.caption.map(String::from),
        })),
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
