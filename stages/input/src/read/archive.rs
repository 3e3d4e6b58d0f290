//! Members of a tar, compressed or not -> samples.

use bytes::Bytes;
use recaption_messages::{ReadStop, ShardContents};
use recaption_schemas::Damage;

use super::{
    context::ReadContext,
    decompress::Decompressor,
    open::{self, ShardStart},
    raw_samples::RawSamples,
};
use crate::{
    tar::{Cut, TarEnd, TarError, TarParser},
    webdataset::{NameClass, Tail, split_name},
};

/// Returns the error of an empty shard.
pub(super) fn read_empty(context: ReadContext<'_>) -> Result<ShardContents, ReadStop> {
    match TarParser::new(context.settings.tar).finish() {
        Err(e) => Err(context.data_error(&e.to_string()).into()),
        Ok(_) => Err(context.data_error("it is empty").into()),
    }
}

/// Reads an archive.
pub(super) async fn read(context: ReadContext<'_>, start: ShardStart) -> Result<ShardContents, ReadStop> {
    let stream = Decompressor::detect(&start.bytes);
    let mut stream = stream.map_err(|e| context.data_error(&format!("cannot be unpacked: {e}")))?;
    let mut archive = Archive::new(context, stream.is_compressed());
    let (mut piece, mut rest) = (Some(start.bytes), start.rest);
    while let Some(mut packed) = piece {
        archive.packed_bytes += packed.len() as u64;
        while !packed.is_empty() {
            let bytes = match stream.next(&mut packed) {
                Ok(bytes) => bytes,
                Err(e) => return archive.finish_undecompressed(&e).await,
            };
            match archive.push(bytes).await? {
                // Highly compressed data must not occupy the thread.
                Progress::MoreInput if archive.is_compressed => tokio::task::yield_now().await,
                Progress::MoreInput => {}
                Progress::Damaged => return archive.finish(None).await,
            }
        }
        piece = open::next(&mut rest, context).await?;
    }
    loop {
        let bytes = match stream.finish() {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => bytes,
            Err(e) => return archive.finish_undecompressed(&e).await,
        };
        match archive.push(bytes).await? {
            Progress::MoreInput => {}
            Progress::Damaged => return archive.finish(None).await,
        }
    }
    archive.finish_input().await
}

/// What follows some bytes.
enum Progress {
    /// More bytes.
    MoreInput,
    /// Nothing: the rest of the archive cannot be read.
    Damaged,
}

/// An archive that is being read.
struct Archive<'a> {
    context: ReadContext<'a>,
    parser: TarParser,
    samples: RawSamples<'a>,
    damage: Option<Damage>,
    is_compressed: bool,
    packed_bytes: u64,
}

impl<'a> Archive<'a> {
    fn new(context: ReadContext<'a>, is_compressed: bool) -> Self {
        let parser = TarParser::new(context.settings.tar);
        Self {
            context,
            parser,
            samples: RawSamples::new(context),
            damage: None,
            is_compressed,
            packed_bytes: 0,
        }
    }

    async fn push(&mut self, bytes: Bytes) -> Result<Progress, ReadStop> {
        self.parser.push(bytes);
        loop {
            match self.parser.next_member() {
                Ok(Some(member)) => {
                    if let Some(raw) = self.samples.assembler.push(member) {
                        self.samples.send(raw).await?;
                    }
                }
                Ok(None) => return Ok(Progress::MoreInput),
                Err(e @ TarError::NotATar { .. }) => {
                    return Err(self.context.data_error(&e.to_string()).into());
                }
                Err(e) => {
                    let offset = match &e {
                        TarError::Damaged { offset, .. } => *offset,
                        _ => self.parser.offset(),
                    };
                    self.damage = Some(Damage { offset, detail: e.to_string() });
                    return Ok(Progress::Damaged);
                }
            }
        }
    }

    /// Ends an archive whose compressed stream is damaged or truncated. As in a truncated tar, the samples before that are kept.
    async fn finish_undecompressed(mut self, error: &std::io::Error) -> Result<ShardContents, ReadStop> {
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
            Err(_) => Err(self.context.data_error(&what).into()),
        }
    }

    /// Ends the archive at the end of its input.
    async fn finish_input(mut self) -> Result<ShardContents, ReadStop> {
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
            Err(e) => Err(self.context.data_error(&e.to_string()).into()),
        }
    }

    /// Sends the last sample, and rejects the damaged tail if there is one.
    async fn finish(mut self, cut: Option<&Cut>) -> Result<ShardContents, ReadStop> {
        // Damage after the end marker does not concern the sample before it.
        let tail = match &self.damage {
            Some(_) if !self.parser.has_ended() => Tail::Damaged { cut_file: cut.and_then(Cut::file_name) },
            _ => Tail::Complete,
        };
        let cut_key = cut.and_then(Cut::file_name).map(key_of);
        let mut tail_key = cut_key.clone().unwrap_or_default();
        if let Some(raw) = self.samples.assembler.finish(tail) {
            // A sample with a truncated member or without an image belongs to the damaged tail. One with its image is kept: it
            // lacks a sidecar at most, and the commit record has the position of the damage.
            if raw.is_truncated && (cut_key.as_ref() == Some(&raw.key) || raw.image.is_none()) {
                tail_key = raw.key;
            } else {
                self.samples.send(raw).await?;
            }
        }
        if let Some(damage) = &self.damage {
            let size = self.context.shard.size();
            let place = if self.is_compressed {
                // The offset in the decompressed tar, and roughly where that is in the object.
                format!(
                    "byte {} of the unpacked tar, {} of {size} bytes read",
                    damage.offset, self.packed_bytes
                )
            } else {
                let left = size.saturating_sub(damage.offset);
                format!("byte {} of {size}, {left} bytes not read", damage.offset)
            };
            let detail = format!("{} ({place})", damage.detail);
            let index = self.samples.count;
            self.samples.count += 1;
            self.context.reject_tail(index, tail_key, detail).await?;
        }
        self.samples.close();
        Ok(ShardContents { damage: self.damage, ..ShardContents::whole(self.samples.count) })
    }
}

/// Returns the key of the sample that a member belongs to.
fn key_of(name: &str) -> String {
    match split_name(name) {
        NameClass::Part { key, .. } => key.to_owned(),
        _ => name.to_owned(),
    }
}
