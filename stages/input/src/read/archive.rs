//! Members of a tar, compressed or not -> samples.

use bytes::Bytes;
use recaption_messages::{ReadStop, ShardContents};
use recaption_schemas::Damage;

use super::{
    context::ReadContext,
    decompress::Decompressor,
    open::{self, ShardStart},
    raw_samples::{RawSamples, Selection},
};
use crate::{
    tar::{Cut, TarEnd, TarError, TarParser},
    webdataset::{Assembler, NameClass, RawSample, Tail, split_name},
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
    Ok(read_some(context, start, None).await?.0)
}

/// Reads an archive from its beginning, as far as a selection of its samples needs; returns the number of all its samples too,
/// if it was read to its end.
pub(super) async fn read_some(
    context: ReadContext<'_>,
    start: ShardStart,
    selection: Option<Selection>,
) -> Result<(ShardContents, Option<u64>), ReadStop> {
    let stream = Decompressor::detect(&start.bytes);
    let mut stream = stream.map_err(|e| context.data_error(&format!("cannot be unpacked: {e}")))?;
    let mut archive = Archive::new(context, stream.is_compressed(), selection);
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
                Progress::Enough => return Ok((ShardContents::whole(archive.samples.count), None)),
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
            Progress::Enough => return Ok((ShardContents::whole(archive.samples.count), None)),
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
    /// Nothing: no further sample is wanted.
    Enough,
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
    fn new(context: ReadContext<'a>, is_compressed: bool, selection: Option<Selection>) -> Self {
        let parser = TarParser::new(context.settings.tar);
        Self {
            context,
            parser,
            samples: RawSamples::new(context).with_selection(selection),
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
                        if self.samples.is_enough() {
                            return Ok(Progress::Enough);
                        }
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
    async fn finish_undecompressed(
        mut self,
        error: &std::io::Error,
    ) -> Result<(ShardContents, Option<u64>), ReadStop> {
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
    async fn finish_input(mut self) -> Result<(ShardContents, Option<u64>), ReadStop> {
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
    async fn finish(mut self, cut: Option<&Cut>) -> Result<(ShardContents, Option<u64>), ReadStop> {
        // Damage after the end marker does not concern the sample before it.
        let is_cut = self.damage.is_some() && !self.parser.has_ended();
        let (last, tail_key) = last_sample(&mut self.samples.assembler, is_cut, cut);
        if let Some(raw) = last {
            self.samples.send(raw).await?;
        }
        let left = self.samples.send_chosen().await?;
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
        let contents = ShardContents::whole(self.samples.count - left);
        Ok((ShardContents { damage: self.damage, ..contents }, Some(self.samples.count)))
    }
}

/// Ends the last sample of an archive, which may be cut there; returns it if it is kept, and the key of the archive's damaged
/// tail. A sample with a truncated member or without an image belongs to the damaged tail. One with its image is kept: it lacks a
/// sidecar at most, and the commit record has the position of the damage.
pub(super) fn last_sample(
    assembler: &mut Assembler,
    is_cut: bool,
    cut: Option<&Cut>,
) -> (Option<RawSample>, String) {
    let tail = if is_cut { Tail::Damaged { cut_file: cut.and_then(Cut::file_name) } } else { Tail::Complete };
    let cut_key = cut.and_then(Cut::file_name).map(key_of);
    match assembler.finish(tail) {
        Some(raw) if raw.is_truncated && (cut_key.as_ref() == Some(&raw.key) || raw.image.is_none()) => {
            (None, raw.key)
        }
        raw => (raw, cut_key.unwrap_or_default()),
    }
}

/// Returns the key of the sample that a member belongs to.
fn key_of(name: &str) -> String {
    match split_name(name) {
        NameClass::Part { key, .. } => key.to_owned(),
        _ => name.to_owned(),
    }
}
