//! Samples at places of a tar that is not compressed, without reading what is between them.
//!
//! Reading begins at a multiple of 512 bytes and looks for a header. The sample that this header belongs to may have begun before,
//! so that the next one is taken. Places are read side by side and independently of each other; only places that lead to the same
//! sample are settled afterwards, in order: the sample does not depend on what arrives first.

use std::collections::HashSet;

use bytes::{Buf, Bytes, BytesMut};
use futures::{StreamExt, stream};
use recaption_messages::{ReadError, ReadStop, ShardContents};
use recaption_schemas::Damage;

use super::{
    archive::last_sample,
    context::ReadContext,
    open::{self, ByteStream},
    places::Places,
    raw_samples::RawSamples,
};
use crate::{
    tar::{BLOCK_BYTES, Cut, Member, MemberKind, TarEnd, TarError, TarParser, is_header},
    webdataset::{Assembler, NameClass, RawSample, split_name},
};

/// Bytes of the first request at a place.
pub(super) const FIRST_WINDOW_BYTES: u64 = 128 << 10;
/// Bytes of a later request, at most; each is twice as large as the one before.
const MAX_WINDOW_BYTES: u64 = 8 << 20;
/// Places read at the same time.
const CONCURRENT_PLACES: usize = 8;
/// Samples behind a place that are tried if the first one is another place's.
const MAX_STEPS: usize = 64;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Reads the samples at some places. Also returns bytes of the tar from sample to sample, and how many samples they are.
pub(super) async fn read(
    context: ReadContext<'_>,
    places: &Places,
) -> Result<(ShardContents, (u64, u64)), ReadStop> {
    let blocks = context.shard.size() / BLOCK;
    let offsets: Vec<u64> = places.offsets(blocks).map(|block| block * BLOCK).collect();
    let nothing = HashSet::new();
    let mut found = stream::iter(offsets)
        .map(|offset| {
            let taken = &nothing;
            async move { (offset, find(context, offset, taken).await) }
        })
        .buffered(CONCURRENT_PLACES);
    let (mut samples, mut taken) = (RawSamples::new(context), HashSet::new());
    let (mut damage, mut bytes, mut measured) = (None, 0, 0);
    while let Some((offset, found)) = found.next().await {
        let mut found = found?;
        if found.sample.as_ref().is_some_and(|(begin, _)| taken.contains(begin)) {
            found = find(context, offset, &taken).await?;
        }
        if let Some(found) = found.damage {
            damage.get_or_insert(found);
        }
        if let Some(end) = found.end
            && let Some((begin, _)) = &found.sample
        {
            (bytes, measured) = (bytes + (end - begin), measured + 1);
        }
        let Some((begin, mut raw)) = found.sample else { continue };
        if taken.insert(begin) {
            raw.index = samples.count;
            samples.send(raw).await?;
        }
    }
    let mut contents = ShardContents::whole(samples.count);
    if let Some((damage, key)) = damage {
        context.reject_tail(contents.samples, key, damage.detail.clone()).await?;
        contents.samples += 1;
        contents.damage = Some(damage);
    }
    Ok((contents, (bytes, measured)))
}

/// What is at a place.
#[derive(Default)]
struct Found {
    /// The sample, and the byte of the shard at which it begins.
    sample: Option<(u64, RawSample)>,
    /// The byte at which the next sample begins, if there is one.
    end: Option<u64>,
    /// Damage of the archive, and the key of the sample that is cut there.
    damage: Option<(Damage, String)>,
}

/// Returns the first whole sample behind an offset that is not taken, or else the first of the shard.
async fn find(context: ReadContext<'_>, offset: u64, taken: &HashSet<u64>) -> Result<Found, ReadError> {
    let found = find_behind(context, offset, taken).await?;
    if offset == 0 || found.sample.is_some() || found.damage.is_some() {
        return Ok(found);
    }
    find_behind(context, 0, taken).await
}

async fn find_behind(
    context: ReadContext<'_>,
    offset: u64,
    taken: &HashSet<u64>,
) -> Result<Found, ReadError> {
    let mut cursor = Cursor { context, next: offset, window: FIRST_WINDOW_BYTES, pieces: None };
    let Some((base, bytes)) = find_header(&mut cursor).await? else { return Ok(Found::default()) };
    let mut walk = Walk::new(context, base);
    walk.parser.push(bytes);
    loop {
        match walk.step(taken) {
            Some(found) => return Ok(found),
            None => match cursor.next().await? {
                Some(bytes) => walk.parser.push(bytes),
                None => return Ok(walk.finish(taken)),
            },
        }
    }
}

/// Returns the offset of the next header, and the bytes from there on that have arrived.
async fn find_header(cursor: &mut Cursor<'_>) -> Result<Option<(u64, Bytes)>, ReadError> {
    let (mut held, mut at) = (BytesMut::new(), cursor.next);
    loop {
        while let Some(block) = held.first_chunk() {
            if is_header(block) {
                return Ok(Some((at, held.freeze())));
            }
            held.advance(BLOCK_BYTES);
            at += BLOCK;
        }
        match cursor.next().await? {
            Some(piece) => held.extend_from_slice(&piece),
            None => return Ok(None),
        }
    }
}

/// The bytes of a shard from some offset on, in growing requests.
struct Cursor<'a> {
    context: ReadContext<'a>,
    next: u64,
    window: u64,
    pieces: Option<ByteStream>,
}

impl Cursor<'_> {
    /// Returns the next bytes; `None` at the end of the shard.
    async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            if let Some(pieces) = &mut self.pieces {
                if let Some(piece) = open::next(pieces, self.context).await? {
                    self.next += piece.len() as u64;
                    return Ok(Some(piece));
                }
                self.pieces = None;
            }
            let size = self.context.shard.size();
            if self.next >= size {
                return Ok(None);
            }
            let range = self.next..size.min(self.next + self.window);
            self.window = (self.window * 2).min(MAX_WINDOW_BYTES);
            self.pieces = Some(open::open_range(self.context, range).await?);
        }
    }
}

/// What is known of the sample that reading may have begun in.
enum Torn {
    /// Nothing is torn: reading began at the first byte, or the sample is behind.
    No,
    /// Its members are not met yet.
    Ahead,
    /// The key of its last members.
    Key(String),
    /// As `Key`, if the key of its first member is not the one that its header has: names in extended headers may be torn off.
    Renamed(String),
}

/// Members from a header on, up to a whole sample.
struct Walk {
    parser: TarParser,
    assembler: Assembler,
    /// Offset of the first header.
    base: u64,
    torn: Torn,
    /// Where the sample begins whose members are arriving.
    begin: u64,
    steps: usize,
}

impl Walk {
    fn new(context: ReadContext<'_>, base: u64) -> Self {
        let settings = context.settings;
        Self {
            parser: TarParser::new(settings.tar),
            assembler: Assembler::with_preferred_images(settings.image_suffixes.clone()),
            base,
            torn: if base == 0 { Torn::No } else { Torn::Ahead },
            begin: base,
            steps: 0,
        }
    }

    /// Takes the members that have arrived; returns the outcome, or `None` if more bytes are needed.
    fn step(&mut self, taken: &HashSet<u64>) -> Option<Found> {
        loop {
            match self.parser.next_member() {
                Ok(Some(member)) => {
                    if let Some(found) = self.take(member, taken) {
                        return Some(found);
                    }
                }
                Ok(None) if self.parser.has_ended() => return Some(self.finish(taken)),
                Ok(None) => return None,
                Err(error) => return Some(self.damaged(&error, taken)),
            }
        }
    }

    /// Takes a member, which may complete a sample.
    fn take(&mut self, member: Member, taken: &HashSet<u64>) -> Option<Found> {
        let headers = self.parser.offset().saturating_sub(member.offset + member.size);
        if self.is_torn(&member, headers > BLOCK) {
            return None;
        }
        let (at, before) = (self.base + member.offset, self.assembler.samples());
        let done = self.assembler.push(member);
        let begin = self.begin;
        if self.assembler.samples() > before {
            self.begin = at;
        }
        let raw = done?;
        self.steps += 1;
        if !taken.contains(&begin) {
            return Some(Found { sample: Some((begin, raw)), end: Some(at), damage: None });
        }
        (self.steps >= MAX_STEPS).then(Found::default)
    }

    /// Returns whether a member belongs to the sample that reading may have begun in.
    fn is_torn(&mut self, member: &Member, is_extended: bool) -> bool {
        let is_file = matches!(member.kind, MemberKind::File(_));
        let key = match split_name(&member.name) {
            NameClass::Part { key, .. } if is_file => key,
            _ => return !matches!(self.torn, Torn::No),
        };
        let next = match &self.torn {
            Torn::No => return false,
            Torn::Ahead => Torn::Key(key.to_owned()),
            Torn::Key(torn) | Torn::Renamed(torn) if torn == key => return true,
            Torn::Key(_) if is_extended => Torn::Renamed(key.to_owned()),
            Torn::Key(_) | Torn::Renamed(_) => Torn::No,
        };
        self.torn = next;
        !matches!(self.torn, Torn::No)
    }

    /// Ends at the end of the shard, or of the archive.
    fn finish(&mut self, taken: &HashSet<u64>) -> Found {
        match self.parser.finish() {
            Ok(TarEnd::Clean { offset, .. }) => {
                let (raw, _) = last_sample(&mut self.assembler, false, None);
                let sample = raw.map(|raw| (self.begin, raw));
                let sample = sample.filter(|(begin, _)| !taken.contains(begin));
                Found { sample, end: Some(self.base + offset), damage: None }
            }
            Ok(TarEnd::Truncated { offset, received, cut }) => {
                let what = format!("the tar ends too early, after {} bytes: {cut}", self.base + received);
                self.cut(offset, what, Some(&cut), taken)
            }
            Err(error) => self.damaged(&error, taken),
        }
    }

    fn damaged(&mut self, error: &TarError, taken: &HashSet<u64>) -> Found {
        match error {
            TarError::Damaged { offset, kind } => {
                self.cut(*offset, format!("damaged at byte {}: {kind}", self.base + offset), None, taken)
            }
            _ => self.cut(self.parser.offset(), error.to_string(), None, taken),
        }
    }

    /// Ends where the archive is damaged.
    fn cut(&mut self, offset: u64, detail: String, cut: Option<&Cut>, taken: &HashSet<u64>) -> Found {
        let (raw, key) = last_sample(&mut self.assembler, true, cut);
        let sample = raw.map(|raw| (self.begin, raw)).filter(|(begin, _)| !taken.contains(begin));
        let damage = Damage { offset: self.base + offset, detail };
        Found { sample, end: None, damage: Some((damage, key)) }
    }
}
