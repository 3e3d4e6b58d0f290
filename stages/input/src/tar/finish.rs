//! The end of the input: whether the archive is complete, and if not, what is truncated.
//!
//! Reads the state of [`super::parser`] without changing it.

use super::parser::{BLOCK, State, TarParser};
use super::{Cut, LooksLike, Member, MemberKind, TarEnd, TarError, Trailing};

impl TarParser {
    /// Returns how the archive ended. Call it once, at the end of the input, when [`Self::next_member`] returns `None`.
    ///
    /// # Errors
    /// [`TarError::NotATar`] when the input is empty, or short and known to be something else; [`TarError::Undrained`] when
    /// members were not taken; and an earlier error.
    pub fn finish(&mut self) -> Result<TarEnd, TarError> {
        let cut = match &self.state {
            State::Failed(error) => return Err(error.clone()),
            _ if self.input.waiting() > 0 => {
                return Err(TarError::Undrained { bytes: self.input.waiting() as u64 });
            }
            State::Ended { offset, marker, trailing } => {
                return Ok(TarEnd::Clean {
                    offset: *offset,
                    marker: *marker,
                    trailing: trailing.or_else(|| self.trailing_partial()),
                });
            }
            State::Header | State::Padding { left: 0 } => self.cut_at_header()?,
            State::Record { size, gathered, .. } => {
                Cut::Record { got: gathered.len() as u64, expected: *size }
            }
            State::SparseMap { member, stored } => cut_member(member, 0, *stored),
            State::Gather { name, size, gathered, .. } => {
                Cut::Member { name: name.clone(), is_file: true, got: gathered.len() as u64, expected: *size }
            }
            State::SkipMember { member, stored, left } => cut_member(member, stored - left, *stored),
            State::Padding { left } => Cut::Padding { missing: *left },
        };
        Ok(TarEnd::Truncated { offset: self.tail_offset(), received: self.input.received(), cut })
    }

    /// Returns an incomplete block after the end marker that is not zeros.
    fn trailing_partial(&self) -> Option<Trailing> {
        let found = self.input.partial().iter().any(|byte| *byte != 0);
        found.then(|| Trailing {
            offset: self.input.offset() - self.input.partial().len() as u64,
            is_tar: false,
        })
    }

    /// Returns what is truncated if the input ended before or inside a header.
    fn cut_at_header(&self) -> Result<Cut, TarError> {
        let got = self.input.partial().len();
        if self.input.offset() == got as u64 {
            let looks_like = LooksLike::of(self.input.partial());
            // A tar that is truncated within its first name looks like text.
            if !matches!(looks_like, LooksLike::DamagedTar | LooksLike::Text | LooksLike::Unknown(_)) {
                return Err(TarError::NotATar { looks_like });
            }
        }
        Ok(match got {
            0 if self.pending.offset.is_some() => Cut::RecordWithoutMember,
            0 => Cut::NoEndMarker,
            got => Cut::Header { got },
        })
    }

    /// Returns the start of the member that is being parsed.
    fn tail_offset(&self) -> u64 {
        let here = match &self.state {
            State::Gather { offset, .. } => *offset,
            State::SparseMap { member, .. } | State::SkipMember { member, .. } => member.offset,
            State::Record { gathered, .. } => self.input.offset() - gathered.len() as u64 - BLOCK,
            State::Header | State::Padding { .. } | State::Ended { .. } | State::Failed(_) => {
                self.input.offset() - self.input.partial().len() as u64
            }
        };
        self.pending.offset.unwrap_or(here)
    }
}

fn cut_member(member: &Member, got: u64, expected: u64) -> Cut {
    let is_file = matches!(member.kind, MemberKind::File(_));
    Cut::Member { name: member.name.clone(), is_file, got, expected }
}
