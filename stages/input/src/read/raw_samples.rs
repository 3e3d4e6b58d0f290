//! Assembled samples -> samples or rejects. Webdataset shards and folders of images share this.

use bytes::Bytes;
use recaption_messages::{ReadStop, Sample};
use recaption_schemas::{OriginalCaption, Reject, RejectReason};

use super::{context::ReadContext, places::Reservoir};
use crate::{
    captions::captions_and_url,
    json::Document,
    keys::DUPLICATE_KEY,
    tar::MemberData,
    webdataset::{Assembler, ImageMember, RawSample},
};

/// Sends assembled samples on, or rejects them.
pub(super) struct RawSamples<'a> {
    context: ReadContext<'a>,
    pub(super) assembler: Assembler,
    /// Number of samples so far, rejects included.
    pub(super) count: u64,
    /// Number of samples with a duplicate key.
    duplicates: u64,
    /// Number of samples with invalid JSON.
    invalid_json: u64,
    /// Where only some samples are wanted, which.
    selection: Option<Selection>,
}

/// Some samples of a shard.
#[derive(Debug)]
pub(super) enum Selection {
    /// The first ones, this many.
    First(u64),
    /// Any, which are kept until the end of the shard.
    Any(Reservoir<RawSample>),
}

impl<'a> RawSamples<'a> {
    /// Creates a shard's samples.
    pub(super) fn new(context: ReadContext<'a>) -> Self {
        let assembler = Assembler::with_preferred_images(context.settings.image_suffixes.clone());
        Self { context, assembler, count: 0, duplicates: 0, invalid_json: 0, selection: None }
    }

    /// Limits the samples to some.
    pub(super) fn with_selection(self, selection: Option<Selection>) -> Self {
        Self { selection, ..self }
    }

    /// Returns whether no further sample is wanted.
    pub(super) fn is_enough(&self) -> bool {
        matches!(self.selection, Some(Selection::First(most)) if self.count >= most)
    }

    /// Sends the samples on that were kept until the end of the shard; returns the number of those that are not wanted.
    pub(super) async fn send_chosen(&mut self) -> Result<u64, ReadStop> {
        let Some(Selection::Any(chosen)) = &mut self.selection else { return Ok(0) };
        let chosen = chosen.take();
        let left = self.count - chosen.len() as u64;
        for raw in chosen {
            self.send_one(raw).await?;
        }
        Ok(left)
    }

    /// Sends a sample on, or rejects it, unless it is not wanted.
    pub(super) async fn send(&mut self, raw: RawSample) -> Result<(), ReadStop> {
        if self.is_enough() {
            return Ok(());
        }
        self.count += 1;
        match &mut self.selection {
            Some(Selection::Any(chosen)) => chosen.offer(raw),
            _ => self.send_one(raw).await?,
        }
        Ok(())
    }

    async fn send_one(&mut self, raw: RawSample) -> Result<(), ReadStop> {
        self.duplicates += u64::from(raw.is_duplicate);
        let context = self.context;
        let (index, bytes) = (raw.index, raw.bytes_held());
        let texts = SampleTexts::of(context, &raw);
        if let Some(error) = &texts.json_error {
            self.invalid_json += 1;
            if self.invalid_json == 1 {
                let (shard, key) = (&context.shard.url, &raw.key);
                tracing::warn!(
                    shard,
                    key,
                    error,
                    "invalid sidecar JSON; further ones of this shard are only counted"
                );
            }
        }
        context.counts.update(|counts| {
            counts.unreadable_json += u64::from(texts.json_error.is_some());
            for suffix in &raw.extra_images {
                counts.extra_image(format!("{}.{suffix}", raw.key));
            }
            counts.extra_images += raw.extra_image_count - raw.extra_images.len() as u64;
        });
        context.counts.count_caption(texts.caption.as_ref());
        if context.keep_previous(index, &raw.key).await? {
            return Ok(());
        }
        match validate_sample(context.number, raw, texts) {
            Ok(mut sample) => {
                sample.permit = context.clock.while_blocked(context.budget.acquire(bytes)).await;
                context.send_with_permit(sample).await?;
            }
            Err(reject) => context.reject(index, *reject).await?,
        }
        Ok(())
    }

    /// Counts the members that belong to no sample, and logs which were used.
    pub(super) fn close(&self) {
        let (context, ignored) = (self.context, self.assembler.ignored());
        context.counts.update(|counts| {
            counts.ignore("directory", ignored.directories);
            counts.ignore("webdataset metadata", ignored.meta);
            counts.ignore("hidden", ignored.hidden);
            counts.ignore("neither file nor link", ignored.other);
        });
        if self.count > 0 {
            context.settings.usage_log.log("tar", &self.assembler.members().to_string());
        }
        if self.duplicates > 0 {
            tracing::warn!(
                shard = context.shard.url,
                samples = self.duplicates,
                "samples with a repeated key are rejected as duplicate_key: {SORT_REMEDY}"
            );
        }
    }
}

/// What to do about members of a sample that are not adjacent.
const SORT_REMEDY: &str = "members of a sample must be neighbours; `mkdir DIR && tar -xf SHARD.tar -C DIR && tar --sort=name -cf \
                    SORTED.tar -C DIR .` makes them so";

/// The texts of a sample.
struct SampleTexts {
    caption: Option<OriginalCaption>,
    url: Option<String>,
    /// Valid JSON.
    meta: Option<String>,
    /// Why the sidecar JSON is invalid.
    json_error: Option<String>,
}

impl SampleTexts {
    fn of(context: ReadContext<'_>, raw: &RawSample) -> Self {
        let (document, json_error) = match raw.json.as_deref().map(|json| Document::read(json.as_bytes())) {
            Some(Ok(document)) => (Some(document), None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        let (captions, url) = document.as_ref().map(captions_and_url).unwrap_or_default();
        let text = raw.caption.as_deref().and_then(OriginalCaption::new);
        let caption = text.or_else(|| context.settings.captions.pick(&raw.key, &captions));
        Self { caption, url, meta: document.map(Document::into_text), json_error }
    }
}

/// Returns a sample that can be decoded, or its reject.
fn validate_sample(shard: usize, raw: RawSample, texts: SampleTexts) -> Result<Sample, Box<Reject>> {
    let image = match &raw.image {
        _ if raw.is_duplicate && raw.image.is_none() => {
            let what = format!("{DUPLICATE_KEY}, and this part of it has no image: {SORT_REMEDY}");
            Err((RejectReason::DuplicateKey, what))
        }
        _ if raw.is_duplicate => Err((RejectReason::DuplicateKey, DUPLICATE_KEY.to_owned())),
        None => {
            let others = match raw.other_suffixes.as_slice() {
                [] => "no member with an image suffix".into(),
                list => format!("no member with an image suffix; it has: {}", list.join(", ")),
            };
            Err((RejectReason::MissingImage, others))
        }
        Some(image) => image_bytes(image).map(|bytes| (bytes, image.suffix.clone())),
    };
    match image {
        Ok((image, suffix)) => Ok(Sample {
            shard,
            index: raw.index,
            image,
            suffix,
            org_caption: texts.caption,
            url: texts.url,
            meta: texts.meta,
            key: raw.key,
            permit: None,
        }),
        Err((reason, detail)) => {
            let caption = texts.caption.map(String::from);
            Err(Box::new(Reject::new(raw.key, reason, detail).with_org_caption(caption)))
        }
    }
}

/// Returns the bytes of an image, or the reason and detail of the reject of one without.
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
