//! The push parser: a state machine over blocks.
//!
//! Each step consumes what its state needs from the chunks at hand, and returns whether a member is complete, more steps are
//! possible, or more input is needed. Data within one chunk is not copied; members that are too large or not needed are skipped
//! as they stream by.

use bytes::Bytes;
use recaption_schemas::name_text;

use super::header::{self, BLOCK_BYTES, Header, HeaderError};
use super::input::Input;
use super::pax::PaxFields;
use super::{
    DamageKind, EndMarker, LooksLike, MAX_RECORD_BYTES, Member, MemberData, MemberKind, TarError, TarLimits,
    Trailing,
};

pub(super) const BLOCK: u64 = BLOCK_BYTES as u64;

/// Splits a stream of chunks into the members of a tar.
///
/// ```text
/// for each chunk of the stream:
///     parser.push(chunk)
///     while let Some(member) = parser.next_member()? { ... }
/// let end = parser.finish()?
/// ```
///
/// An error is final: every later call returns it again, and chunks that are pushed after it are counted ([`Self::received`])
/// and dropped.
#[derive(Debug)]
pub struct TarParser {
    limits: TarLimits,
    pub(super) input: Input,
    pub(super) state: State,
    /// Fields of the next member from long names and PAX headers.
    pub(super) pending: Pending,
    global: PaxFields,
}

#[derive(Debug)]
pub(super) enum State {
    /// Before a header or the end marker.
    Header,
    /// In the data of a long name or PAX header.
    Record {
        kind: RecordKind,
        size: u64,
        gathered: Vec<u8>,
    },
    /// In the blocks of a GNU sparse map, between the header and `stored` bytes of data.
    SparseMap {
        member: Member,
        stored: u64,
    },
    /// In the data of a file that is kept.
    Gather {
        name: String,
        offset: u64,
        size: u64,
        gathered: Vec<u8>,
    },
    /// In the data of a member that is skipped.
    SkipMember {
        member: Member,
        stored: u64,
        left: u64,
    },
    /// In the padding up to the next block.
    Padding {
        left: u64,
    },
    /// After the end marker, which starts at `offset`.
    Ended {
        offset: u64,
        marker: EndMarker,
        trailing: Option<Trailing>,
    },
    Failed(TarError),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum RecordKind {
    LongName,
    LongLink,
    PaxLocal,
    PaxGlobal,
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Start of the first of these headers.
    pub(super) offset: Option<u64>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: PaxFields,
}

/// The result of a step.
enum Step {
    Member(Member),
    /// Another step is possible.
    Continue,
    NeedsInput,
}

impl TarParser {
    /// Creates a parser at the start of an archive.
    pub fn new(limits: TarLimits) -> Self {
        Self {
            limits,
            input: Input::default(),
            state: State::Header,
            pending: Pending::default(),
            global: PaxFields::default(),
        }
    }

    /// Adds the next bytes of the archive, of any length. Take all members before the next push: the queue of chunks is not
    /// bounded.
    pub fn push(&mut self, chunk: Bytes) {
        match self.state {
            State::Failed(_) => self.input.push_unread(&chunk),
            _ => self.input.push(chunk),
        }
    }

    /// Returns the next complete member; `None` if more input is needed or the archive has ended ([`Self::has_ended`]).
    ///
    /// # Errors
    /// [`TarError::NotATar`] when the first block is not a tar header, [`TarError::Damaged`] when a later header or an extended
    /// header is invalid. Members returned before are valid.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        loop {
            match self.step() {
                Ok(Step::Member(member)) => return Ok(Some(member)),
                Ok(Step::Continue) => {}
                Ok(Step::NeedsInput) => return Ok(None),
                Err(error) => {
                    self.input.clear();
                    self.state = State::Failed(error.clone());
                    return Err(error);
                }
            }
        }
    }

    /// Skips up to `max` bytes of a member that is not kept, without seeing them, and returns how many. Only after
    /// [`Self::next_member`] returned `None`: the parser then stands at the end of its input.
    pub(crate) fn jump(&mut self, max: u64) -> u64 {
        let State::SkipMember { left, .. } = &mut self.state else { return 0 };
        let skipped = (*left).min(max);
        *left -= skipped;
        self.input.jump(skipped);
        skipped
    }

    /// Returns the number of bytes consumed so far.
    pub fn offset(&self) -> u64 {
        self.input.offset()
    }

    /// Returns the number of bytes pushed so far.
    pub fn received(&self) -> u64 {
        self.input.received()
    }

    /// Returns whether the end marker was parsed. The rest of the input holds no members; only pushing it shows whether something
    /// follows ([`Trailing`]).
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended { .. })
    }

    /// Returns the bytes that the parser holds: chunks that are not parsed yet, and the incomplete member or record.
    pub fn bytes_held(&self) -> usize {
        let gathered = match &self.state {
            State::Record { gathered, .. } | State::Gather { gathered, .. } => gathered.capacity(),
            _ => 0,
        };
        gathered + self.input.waiting()
    }

    fn step(&mut self) -> Result<Step, TarError> {
        match std::mem::replace(&mut self.state, State::Header) {
            State::Header => self.header(),
            State::Record { kind, size, gathered } => self.record(kind, size, gathered),
            State::SparseMap { member, stored } => Ok(self.sparse_map(member, stored)),
            State::Gather { name, offset, size, gathered } => {
                Ok(self.gather_member(name, offset, size, gathered))
            }
            State::SkipMember { member, stored, left } => Ok(self.skip_member(member, stored, left)),
            State::Padding { left } => {
                let left = self.input.skip(left);
                Ok(if left == 0 { Step::Continue } else { self.wait(State::Padding { left }) })
            }
            State::Ended { offset, marker, trailing } => Ok(self.after_end(offset, marker, trailing)),
            State::Failed(error) => Err(error),
        }
    }

    /// Stays in `state` until more input arrives.
    fn wait(&mut self, state: State) -> Step {
        self.state = state;
        Step::NeedsInput
    }

    fn header(&mut self) -> Result<Step, TarError> {
        let Some(block) = self.input.take_block() else { return Ok(Step::NeedsInput) };
        let start = self.input.offset() - BLOCK;
        match Header::decode(&block) {
            Ok(Some(header)) => self.begin(&header, start),
            Ok(None) if self.pending.offset.is_some() => {
                Err(self.damaged(start, DamageKind::RecordWithoutMember))
            }
            Ok(None) => {
                self.state = State::Ended { offset: start, marker: EndMarker::OneBlock, trailing: None };
                Ok(Step::Continue)
            }
            Err(HeaderError::Checksum { .. }) if start == 0 => {
                Err(TarError::NotATar { looks_like: LooksLike::of(&block) })
            }
            Err(error) => Err(self.damaged(start, error.into())),
        }
    }

    /// Begins the member or record after a valid header.
    fn begin(&mut self, header: &Header<'_>, start: u64) -> Result<Step, TarError> {
        let size = header.size().map_err(|error| self.damaged(start, error.into()))?;
        let record = match header.type_flag() {
            b'L' => RecordKind::LongName,
            b'K' => RecordKind::LongLink,
            // `X` is that of Solaris.
            b'x' | b'X' => RecordKind::PaxLocal,
            b'g' => RecordKind::PaxGlobal,
            _ => return Ok(self.begin_member(header, start, size)),
        };
        if size > MAX_RECORD_BYTES {
            return Err(self.damaged(start, DamageKind::RecordTooLarge { size }));
        }
        if !matches!(record, RecordKind::PaxGlobal) {
            self.pending.offset.get_or_insert(start);
        }
        self.state = State::Record { kind: record, size, gathered: Vec::new() };
        Ok(Step::Continue)
    }

    /// Begins a member. Its name is that of PAX records, else GNU's long name, else the header's. As in Python, directories,
    /// links, devices and FIFOs have no data, whatever their size (tars of hard links claim one), and unknown types have.
    fn begin_member(&mut self, header: &Header<'_>, start: u64, header_size: u64) -> Step {
        let pending = std::mem::take(&mut self.pending);
        let pax = pending.pax.or(&self.global);
        let name = pax.path.or(pending.long_name).unwrap_or_else(|| header.name());
        let mut name = name_text(&name);
        let size = pax.size.unwrap_or(header_size);
        let offset = pending.offset.unwrap_or(start);
        let flag = header.type_flag();
        let (kind, stored) = match flag {
            b'S' => (MemberKind::File(MemberData::Sparse), size),
            // v7 marks directories only by the slash.
            0 if name.ends_with('/') => (MemberKind::Directory, 0),
            0 | b'0' | b'7' if pax.sparse => (MemberKind::File(MemberData::Sparse), size),
            0 | b'0' | b'7' if size > self.limits.max_member_bytes => {
                (MemberKind::File(MemberData::TooLarge { size }), size)
            }
            0 | b'0' | b'7' => {
                self.state = State::Gather { name, offset, size, gathered: Vec::new() };
                return Step::Continue;
            }
            b'1' | b'2' => {
                let target =
                    pax.link_path.or(pending.long_link).unwrap_or_else(|| header.link_name().to_vec());
                (MemberKind::File(MemberData::Link { hard: flag == b'1', target: lossy(target) }), 0)
            }
            b'5' => (MemberKind::Directory, 0),
            b'3' | b'4' | b'6' => (MemberKind::Other { type_flag: flag }, 0),
            _ => (MemberKind::Other { type_flag: flag }, size),
        };
        if kind == MemberKind::Directory {
            name.truncate(name.trim_end_matches('/').len());
        }
        let member = Member { name, offset, size: stored, kind };
        self.state = if flag == b'S' && header.sparse_map_follows() {
            State::SparseMap { member, stored }
        } else {
            State::SkipMember { member, stored, left: stored }
        };
        Step::Continue
    }

    fn record(&mut self, kind: RecordKind, size: u64, mut gathered: Vec<u8>) -> Result<Step, TarError> {
        let Some(record) = self.input.gather(size, &mut gathered) else {
            return Ok(self.wait(State::Record { kind, size, gathered }));
        };
        match kind {
            RecordKind::LongName => self.pending.long_name = Some(header::cut_at_nul(&record).to_vec()),
            RecordKind::LongLink => self.pending.long_link = Some(header::cut_at_nul(&record).to_vec()),
            RecordKind::PaxLocal | RecordKind::PaxGlobal => {
                let fields = PaxFields::parse(&record).map_err(|error| {
                    let start = self.input.offset() - size - BLOCK;
                    self.damaged(start, error.into())
                })?;
                let whole = if matches!(kind, RecordKind::PaxLocal) {
                    &mut self.pending.pax
                } else {
                    &mut self.global
                };
                *whole = fields.or(whole);
            }
        }
        self.state = State::Padding { left: padding(size) };
        Ok(Step::Continue)
    }

    fn sparse_map(&mut self, member: Member, stored: u64) -> Step {
        match self.input.take_block() {
            None => self.wait(State::SparseMap { member, stored }),
            Some(block) if header::sparse_map_continues(&block) => {
                self.state = State::SparseMap { member, stored };
                Step::Continue
            }
            Some(_) => {
                self.state = State::SkipMember { member, stored, left: stored };
                Step::Continue
            }
        }
    }

    fn gather_member(&mut self, name: String, offset: u64, size: u64, mut gathered: Vec<u8>) -> Step {
        match self.input.gather(size, &mut gathered) {
            None => self.wait(State::Gather { name, offset, size, gathered }),
            Some(bytes) => {
                self.state = State::Padding { left: padding(size) };
                Step::Member(Member { name, offset, size, kind: MemberKind::File(MemberData::Bytes(bytes)) })
            }
        }
    }

    fn skip_member(&mut self, member: Member, stored: u64, left: u64) -> Step {
        let left = self.input.skip(left);
        if left > 0 {
            return self.wait(State::SkipMember { member, stored, left });
        }
        self.state = State::Padding { left: padding(stored) };
        Step::Member(member)
    }

    /// Searches the rest for the second block of zeros, then for anything that is not zeros.
    fn after_end(&mut self, offset: u64, mut marker: EndMarker, mut trailing: Option<Trailing>) -> Step {
        while trailing.is_none() {
            let Some(block) = self.input.take_block() else { break };
            let start = self.input.offset() - BLOCK;
            match Header::decode(&block) {
                Ok(None) if start == offset + BLOCK => marker = EndMarker::TwoBlocks,
                Ok(None) => {}
                found => trailing = Some(Trailing { offset: start, is_tar: found.is_ok() }),
            }
        }
        if trailing.is_some() {
            self.input.skip(u64::MAX);
        }
        self.wait(State::Ended { offset, marker, trailing })
    }

    fn damaged(&self, start: u64, kind: DamageKind) -> TarError {
        TarError::Damaged { offset: self.pending.offset.unwrap_or(start), kind }
    }
}

/// Returns the length of the padding after data of `size` bytes.
fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK) - size
}

/// Returns bytes as text, with U+FFFD where they are not UTF-8; without a copy if they are.
fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
