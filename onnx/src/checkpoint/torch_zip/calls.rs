//! Instructions that name functions and classes. They are interpreted for the closed list of names, and nothing is called.

use super::{
    globals::Global,
    pickle::{Machine, Step},
    values::{PickleError, Storage, Tensor, Value},
};

/// Longest name of a refused function in an error, in characters.
const MAX_NAME_CHARS: usize = 100;
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 16;

impl<'a> Machine<'a> {
    /// GLOBAL, STACK_GLOBAL: a name of the closed list.
    pub(super) fn global(&mut self, module: &str, name: &str) -> Step<()> {
        let Some(global) = Global::of(module, name) else {
            let full = format!("{module}.{name}");
            let shown: String = full.chars().flat_map(char::escape_default).take(MAX_NAME_CHARS).collect();
            return Err(PickleError::Global(shown));
        };
        self.stack.push(Value::Global(global));
        Ok(())
    }

    /// BINPERSID: a storage, as `("storage", class, key, device, count)`.
    pub(super) fn persistent(&mut self) -> Step<()> {
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
    pub(super) fn reduce(&mut self) -> Step<()> {
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
    pub(super) fn build(&mut self) -> Step<()> {
        self.pop()?;
        match self.top()? {
            Value::Mapping(_) => Ok(()),
            _ => Err(self.malformed("attributes of what is no dictionary")),
        }
    }
}
