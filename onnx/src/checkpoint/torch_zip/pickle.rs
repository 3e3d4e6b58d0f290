//! A pickle as data: the instructions that `torch.save` writes for dictionaries of tensors, interpreted over plain values.
//!
//! Values live in flat tables and refer to each other by index, so that no nesting of a hostile file can exhaust the stack,
//! and a value that is shared is stored once. Every instruction makes at most one value: memory is bounded by the pickle's
//! length. Instructions and protocols: CPython's `Lib/pickletools.py`; how tensors are written: torch's
//! `torch/serialization.py` and `torch/_utils.py`.

use std::collections::HashMap;

use super::values::{Pickle, PickleError, Value};

impl<'a> Pickle<'a> {
    /// Interprets a pickle of protocol 2 to 5.
    ///
    /// # Errors
    /// See [`PickleError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PickleError> {
        let values = Self {
            root: Value::None,
            sequences: Vec::new(),
            mappings: Vec::new(),
            storages: Vec::new(),
            tensors: Vec::new(),
        };
        let mut machine = Machine {
            bytes,
            at: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            copied: 0,
            values,
        };
        while !machine.step()? {}
        machine.values.root = machine.pop()?;
        Ok(machine.values)
    }
}

/// The stack machine.
pub(super) struct Machine<'a> {
    pub(super) bytes: &'a [u8],
    at: usize,
    pub(super) stack: Vec<Value<'a>>,
    /// Lengths of the stack where marks were set.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    /// Pairs that were copied from lists into dictionaries.
    pub(super) copied: usize,
    pub(super) values: Pickle<'a>,
}

/// What an instruction gives.
pub(super) type Step<T> = Result<T, PickleError>;

impl<'a> Machine<'a> {
    pub(super) fn malformed(&self, what: &'static str) -> PickleError {
        PickleError::Malformed { what, at: self.at }
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or(PickleError::Truncated)?;
        let bytes = self.bytes.get(self.at..end).ok_or(PickleError::Truncated)?;
        self.at = end;
        Ok(bytes)
    }

    /// Reads a little-endian number of `width` bytes, at most 8.
    fn number(&mut self, width: usize) -> Step<u64> {
        Ok(self.take(width)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn length(&mut self, width: usize) -> Step<usize> {
        usize::try_from(self.number(width)?).map_err(|_| PickleError::Truncated)
    }

    fn text(&mut self, width: usize) -> Step<&'a str> {
        let length = self.length(width)?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|_| self.malformed("a text is not UTF-8"))
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or(PickleError::Truncated)?;
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).map_err(|_| self.malformed("a name is not UTF-8"))
    }

    /// Takes the topmost value; those below the last mark are out of reach.
    pub(super) fn pop(&mut self) -> Step<Value<'a>> {
        let bottom = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= bottom {
            return Err(self.malformed("a value is missing"));
        }
        self.stack.pop().ok_or(PickleError::Truncated)
    }

    pub(super) fn top(&self) -> Step<Value<'a>> {
        let bottom = self.marks.last().copied().unwrap_or(0);
        self.stack[bottom.min(self.stack.len())..]
            .last()
            .copied()
            .ok_or_else(|| self.malformed("a value is missing"))
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Value<'a>>> {
        let mark = self.marks.pop().ok_or_else(|| self.malformed("a mark is missing"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn push_sequence(&mut self, items: Vec<Value<'a>>) {
        self.values.sequences.push(items);
        self.stack.push(Value::Sequence(self.values.sequences.len() - 1));
    }

    pub(super) fn push_mapping(&mut self, pairs: Vec<(Value<'a>, Value<'a>)>) {
        self.values.mappings.push(pairs);
        self.stack.push(Value::Mapping(self.values.mappings.len() - 1));
    }

    /// Interprets one instruction; returns whether it was the last one.
    fn step(&mut self) -> Step<bool> {
        let at = self.at;
        let instruction = self.take(1)?[0];
        match instruction {
            b'.' => return Ok(true),
            // PROTO, FRAME
            0x80 => {
                if !(2..=5).contains(&self.number(1)?) {
                    return Err(self.malformed("the pickle's protocol is not 2 to 5"));
                }
            }
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => self.stack.push(self.top()?),
            b'N' | 0x88 | 0x89 | b'J' | b'K' | b'M' | 0x8a | b'G' => self.scalar(instruction)?,
            b'X' | 0x8c | 0x8d | b'U' | b'T' | b'C' | b'B' => self.string(instruction)?,
            b')' | b't' | 0x85..=0x87 | b']' | b'l' | b'a' | b'e' => self.sequence(instruction)?,
            b'}' | b'd' | b's' | b'u' => self.mapping(instruction)?,
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memo(instruction)?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (Value::Text(name), Value::Text(module)) = (self.pop()?, self.pop()?) else {
                    return Err(self.malformed("a function's name is no text"));
                };
                self.global(module, name)?;
            }
            b'Q' => self.persistent()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            _ => return Err(PickleError::Instruction { instruction, at }),
        }
        Ok(false)
    }

    /// NONE, NEWTRUE, NEWFALSE, BININT, BININT1, BININT2, LONG1, BINFLOAT.
    fn scalar(&mut self, instruction: u8) -> Step<()> {
        let value = match instruction {
            b'N' => Value::None,
            b'J' => {
                let bytes = self.take(4)?.first_chunk().ok_or(PickleError::Truncated)?;
                Value::Int(i32::from_le_bytes(*bytes).into())
            }
            b'K' | b'M' => {
                let width = if instruction == b'K' { 1 } else { 2 };
                Value::Int(self.number(width)?.cast_signed())
            }
            0x8a => {
                let width = self.length(1)?;
                let bytes = self.take(width)?;
                // Two's complement; the sign is extended to 64 bits.
                let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
                let mut wide = [fill; 8];
                match wide.get_mut(..width) {
                    Some(low) => {
                        low.copy_from_slice(bytes);
                        Value::Int(i64::from_le_bytes(wide))
                    }
                    None => Value::Other,
                }
            }
            b'G' => {
                self.take(8)?;
                Value::Other
            }
            _ => Value::Other,
        };
        self.stack.push(value);
        Ok(())
    }

    /// BINUNICODE, SHORT_BINUNICODE, BINUNICODE8; SHORT_BINSTRING, BINSTRING, SHORT_BINBYTES, BINBYTES.
    fn string(&mut self, instruction: u8) -> Step<()> {
        let value = match instruction {
            b'X' => Value::Text(self.text(4)?),
            0x8c => Value::Text(self.text(1)?),
            0x8d => Value::Text(self.text(8)?),
            b'U' | b'C' | b'T' | b'B' => {
                let width = if matches!(instruction, b'U' | b'C') { 1 } else { 4 };
                let length = self.length(width)?;
                let bytes = self.take(length)?;
                // Python 2 wrote its texts as byte strings.
                match std::str::from_utf8(bytes) {
                    Ok(text) if matches!(instruction, b'U' | b'T') => Value::Text(text),
                    _ => Value::Other,
                }
            }
            _ => Value::Other,
        };
        self.stack.push(value);
        Ok(())
    }

    /// EMPTY_TUPLE, TUPLE, TUPLE1 to TUPLE3, EMPTY_LIST, LIST, APPEND, APPENDS.
    fn sequence(&mut self, instruction: u8) -> Step<()> {
        match instruction {
            b'a' | b'e' => {
                let items = if instruction == b'a' { vec![self.pop()?] } else { self.pop_to_mark()? };
                let Value::Sequence(list) = self.top()? else {
                    return Err(self.malformed("something is appended to what is no list"));
                };
                self.values.sequences[list].extend(items);
            }
            0x85..=0x87 => {
                let mut items: Vec<_> = (0x85..=instruction).map(|_| self.pop()).collect::<Result<_, _>>()?;
                items.reverse();
                self.push_sequence(items);
            }
            b't' | b'l' => {
                let items = self.pop_to_mark()?;
                self.push_sequence(items);
            }
            _ => self.push_sequence(Vec::new()),
        }
        Ok(())
    }

    /// EMPTY_DICT, DICT, SETITEM, SETITEMS.
    fn mapping(&mut self, instruction: u8) -> Step<()> {
        let items = match instruction {
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            b'u' | b'd' => self.pop_to_mark()?,
            _ => Vec::new(),
        };
        if items.len() % 2 != 0 {
            return Err(self.malformed("a key has no value"));
        }
        let pairs = items.as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value));
        if matches!(instruction, b's' | b'u') {
            let Value::Mapping(target) = self.top()? else {
                return Err(self.malformed("a value is set in what is no dictionary"));
            };
            self.values.mappings[target].extend(pairs);
        } else {
            self.push_mapping(pairs.collect());
        }
        Ok(())
    }

    /// BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET.
    fn memo(&mut self, instruction: u8) -> Step<()> {
        let width = if matches!(instruction, b'q' | b'h') { 1 } else { 4 };
        let index = match instruction {
            0x94 => self.memo.len() as u64,
            _ => self.number(width)?,
        };
        let index = u32::try_from(index).map_err(|_| self.malformed("too many values"))?;
        if matches!(instruction, b'h' | b'j') {
            let value = self.memo.get(&index).copied();
            self.stack.push(value.ok_or_else(|| self.malformed("a value is used before it is made"))?);
        } else {
            let top = self.top()?;
            self.memo.insert(index, top);
        }
        Ok(())
    }
}
