//! A pickle as data: the instructions that `torch.save` writes for dictionaries of tensors, interpreted over plain values.
//!
//! Values live in flat tables and refer to each other by index, so that no nesting of a hostile file can exhaust the stack,
//! and a value that is shared is stored once. Every instruction makes at most one value: memory is bounded by the pickle's
//! length. Instructions and protocols: CPython's `Lib/pickletools.py`; how tensors are written: torch's
//! `torch/serialization.py` and `torch/_utils.py`.

use std::collections::HashMap;

use safetensors::Dtype;

use super::globals::Global;

/// Longest name of a refused function in an error, in characters.
const MAX_NAME_CHARS: usize = 100;

/// Most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 16;

/// Why a pickle is refused.
#[derive(Debug, thiserror::Error)]
pub enum PickleError {
    /// It names a function or class that is not on the closed list.
    #[error("data.pkl asks for `{0}`; only tensors are read, and nothing of the file was executed")]
    Global(String),
    /// It has an instruction that no file of tensors needs.
    #[error("data.pkl has instruction {instruction:#04x} at byte {at}, which no dictionary of tensors needs")]
    Instruction {
        /// The instruction.
        instruction: u8,
        /// Where it is.
        at: usize,
    },
    /// It ends before its last instruction.
    #[error("data.pkl is truncated")]
    Truncated,
    /// It is malformed.
    #[error("data.pkl is malformed at byte {at}: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Behind which byte.
        at: usize,
    },
}

/// A value, or the index of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// `None`.
    None,
    /// A whole number of at most 64 bits.
    Int(i64),
    /// A text.
    Text(&'a str),
    /// A boolean, a float, bytes, a large number, a type: nothing that a tensor depends on.
    Other,
    /// Index of a tuple or list.
    Sequence(usize),
    /// Index of a dictionary.
    Mapping(usize),
    /// A name of the closed list.
    Global(Global),
    /// Index of a storage.
    Storage(usize),
    /// Index of a tensor.
    Tensor(usize),
}

/// A storage: numbers of one type in an entry of the zip file.
#[derive(Clone, Debug)]
pub(super) struct Storage<'a> {
    /// Type of its numbers.
    pub(super) dtype: Dtype,
    /// Name of its entry.
    pub(super) key: &'a str,
    /// How many numbers it has.
    pub(super) count: u64,
}

/// A tensor: a view of a storage, in elements.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    /// Index of the storage.
    pub(super) storage: usize,
    /// First element.
    pub(super) offset: u64,
    /// Shape, row-major; empty of a scalar.
    pub(super) shape: Vec<u64>,
    /// Distance of neighbours, for each dimension.
    pub(super) strides: Vec<u64>,
}

/// A pickle's values.
#[derive(Debug)]
pub struct Pickle<'a> {
    pub(super) root: Value<'a>,
    pub(super) sequences: Vec<Vec<Value<'a>>>,
    pub(super) mappings: Vec<Vec<(Value<'a>, Value<'a>)>>,
    pub(super) storages: Vec<Storage<'a>>,
    pub(super) tensors: Vec<Tensor>,
}

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
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Lengths of the stack where marks were set.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    /// Pairs that were copied from lists into dictionaries.
    copied: usize,
    values: Pickle<'a>,
}

type Step<T> = Result<T, PickleError>;

impl<'a> Machine<'a> {
    fn malformed(&self, what: &'static str) -> PickleError {
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
    fn pop(&mut self) -> Step<Value<'a>> {
        let bottom = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= bottom {
            return Err(self.malformed("a value is missing"));
        }
        self.stack.pop().ok_or(PickleError::Truncated)
    }

    fn top(&self) -> Step<Value<'a>> {
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

    fn push_mapping(&mut self, pairs: Vec<(Value<'a>, Value<'a>)>) {
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

    fn global(&mut self, module: &str, name: &str) -> Step<()> {
        let Some(global) = Global::of(module, name) else {
            let full = format!("{module}.{name}");
            let shown: String = full.chars().flat_map(char::escape_default).take(MAX_NAME_CHARS).collect();
            return Err(PickleError::Global(shown));
        };
        self.stack.push(Value::Global(global));
        Ok(())
    }

    /// BINPERSID: a storage, as `("storage", class, key, device, count)`.
    fn persistent(&mut self) -> Step<()> {
        let Value::Sequence(id) = self.pop()? else { return Err(self.malformed("not a storage")) };
        let (dtype, key, count) = match self.values.sequences[id].as_slice() {
            [
                Value::Text("storage"),
                Value::Global(Global::Storage(dtype)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(count),
                ..,
            ] => (*dtype, *key, *count),
            _ => return Err(self.malformed("not a storage of numbers")),
        };
        let count = u64::try_from(count).map_err(|_| self.malformed("a storage's size is negative"))?;
        self.values.storages.push(Storage { dtype, key, count });
        self.stack.push(Value::Storage(self.values.storages.len() - 1));
        Ok(())
    }

    /// REDUCE: a function of the closed list and its arguments. It is interpreted, never called.
    fn reduce(&mut self) -> Step<()> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        let (Value::Global(global), Value::Sequence(arguments)) = (function, arguments) else {
            return Err(self.malformed("a call of what is no function"));
        };
        // No more of them matter, and copying a long tuple again and again would take long.
        let arguments: Vec<_> = self.values.sequences[arguments].iter().take(4).copied().collect();
        match (global, arguments.as_slice()) {
            (Global::OrderedDict, []) => self.push_mapping(Vec::new()),
            (Global::OrderedDict, [Value::Sequence(pairs)]) => {
                let pair = |value: &Value<'a>| match value {
                    Value::Sequence(pair) => match self.values.sequences[*pair].as_slice() {
                        [key, value] => Some((*key, *value)),
                        _ => None,
                    },
                    _ => None,
                };
                let pairs: Option<Vec<_>> = self.values.sequences[*pairs].iter().map(pair).collect();
                let pairs = pairs.ok_or_else(|| self.malformed("a dictionary of what are no pairs"))?;
                self.copied += pairs.len();
                if self.copied > self.bytes.len() {
                    return Err(self.malformed("one list becomes many dictionaries"));
                }
                self.push_mapping(pairs);
            }
            (
                Global::Tensor,
                [
                    Value::Storage(storage),
                    Value::Int(offset),
                    Value::Sequence(shape),
                    Value::Sequence(strides),
                    ..,
                ],
            ) => {
                let tensor = self.tensor(*storage, *offset, *shape, *strides)?;
                self.values.tensors.push(tensor);
                self.stack.push(Value::Tensor(self.values.tensors.len() - 1));
            }
            (Global::Parameter, [tensor @ Value::Tensor(_), ..]) => self.stack.push(*tensor),
            (Global::Size, [size @ Value::Sequence(_)]) => self.stack.push(*size),
            (Global::Constant, _) => self.stack.push(Value::Other),
            _ => return Err(self.malformed("a function has other arguments than torch writes")),
        }
        Ok(())
    }

    fn tensor(&self, storage: usize, offset: i64, shape: usize, strides: usize) -> Step<Tensor> {
        let numbers = |index: usize| -> Option<Vec<u64>> {
            let item = |value: &Value<'a>| match value {
                Value::Int(number) => u64::try_from(*number).ok(),
                _ => None,
            };
            let items = Some(&self.values.sequences[index]).filter(|items| items.len() <= MAX_DIMENSIONS)?;
            items.iter().map(item).collect()
        };
        let wrong =
            || self.malformed("a tensor's offset, shape or strides are no whole numbers, or too many");
        let offset = u64::try_from(offset).map_err(|_| wrong())?;
        let (shape, strides) = numbers(shape).zip(numbers(strides)).ok_or_else(wrong)?;
        if shape.len() != strides.len() {
            return Err(self.malformed("a tensor has more dimensions than strides, or fewer"));
        }
        Ok(Tensor { storage, offset, shape, strides })
    }

    /// BUILD: attributes. torch sets `_metadata` of a state dict, which holds versions; it is dropped.
    fn build(&mut self) -> Step<()> {
        self.pop()?;
        match self.top()? {
            Value::Mapping(_) => Ok(()),
            _ => Err(self.malformed("attributes of what is no dictionary")),
        }
    }
}
