//! The end of the input: was the archive at its end too, and if not, what is cut?
//!
//! The second half of [`super::parser`], which it only reads from: nothing here moves the parser.

use super::parser::{BLOCK, State, TarParser};
use super::{Cut, LooksLike, Member, MemberKind, TarEnd, TarError, Trailing};

impl TarParser {
    /// To be called once, when the input is at its end and [`Self::next_member`] gave `None`:
    /// how the archive ended.
    ///
    /// # Errors
    /// [`TarError::NotATar`] when there was no input at all, or a little that is known to be
    /// something else; [`TarError::Undrained`] when members were not taken; and an earlier error.
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
            State::PassOver { member, stored, left } => cut_member(member, stored - left, *stored),
            State::Padding { left } => Cut::Padding { missing: *left },
        };
        Ok(TarEnd::Truncated { offset: self.tail_offset(), received: self.input.received(), cut })
    }

    /// The last bytes after the end marker, where they are not a whole block.
    fn trailing_partial(&self) -> Option<Trailing> {
        let found = self.input.partial().iter().any(|byte| *byte != 0);
        found.then(|| Trailing {
            offset: self.input.offset() - self.input.partial().len() as u64,
            is_tar: false,
        })
    }

    /// The input ended where a header was to begin, or inside it.
    fn cut_at_header(&self) -> Result<Cut, TarError> {
        let got = self.input.partial().len();
        if self.input.offset() == got as u64 {
            let looks_like = LooksLike::of(self.input.partial());
            // A tar that is cut within its first name is text too.
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

    /// Where the member starts that is being read.
    fn tail_offset(&self) -> u64 {
        let here = match &self.state {
            State::Gather { offset, .. } => *offset,
            State::SparseMap { member, .. } | State::PassOver { member, .. } => member.offset,
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
