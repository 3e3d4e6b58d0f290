//! One object of a JSON configuration: typed getters that record which keys were read.

use serde_json::{Map, Value};

/// A value, or a message naming the key that is wrong.
pub(in crate::checkpoint) type Parsed<T> = Result<T, String>;

/// Largest width, count or length that is accepted: far beyond real models, far below an overflow.
const MAX_SIZE: usize = 1 << 20;

/// One object of the configuration; a key that is never read is unknown.
pub(in crate::checkpoint) struct Section<'a> {
    /// Name of the object, for messages.
    name: &'static str,
    /// Its keys and values.
    pub(in crate::checkpoint) map: &'a Map<String, Value>,
    known: std::cell::RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// Wraps the keys of `map`.
    pub(in crate::checkpoint) fn new(name: &'static str, map: &'a Map<String, Value>) -> Self {
        Self { name, map, known: Vec::new().into() }
    }

    /// Wraps the object `name` in `parent`.
    ///
    /// # Errors
    /// When there is no such object.
    pub(in crate::checkpoint) fn of(parent: &'a Map<String, Value>, name: &'static str) -> Parsed<Self> {
        match parent.get(name) {
            Some(Value::Object(map)) => Ok(Self::new(name, map)),
            Some(other) => Err(format!("`{name}` must be an object, is {other}")),
            None => Err(format!("`{name}` is missing")),
        }
    }

    /// Returns a value that is not null.
    pub(in crate::checkpoint) fn get(&self, key: &'static str) -> Option<&'a Value> {
        self.known.borrow_mut().push(key);
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Returns the message for an unsupported value.
    pub(in crate::checkpoint) fn unsupported(&self, key: &str, value: &Value, want: &str) -> String {
        format!("`{}.{key}` = {value} is not supported: expected {want}", self.name)
    }

    /// Returns a positive whole number, or the default.
    pub(in crate::checkpoint) fn size(&self, key: &'static str, default: Option<usize>) -> Parsed<usize> {
        match (self.get(key), default) {
            (Some(v), _) => v
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .filter(|n| (1..=MAX_SIZE).contains(n))
                .ok_or_else(|| self.unsupported(key, v, "a positive whole number")),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(format!("`{}.{key}` is missing", self.name)),
        }
    }

    /// Returns the side of a square: a number, or a pair of equal numbers.
    pub(in crate::checkpoint) fn square(&self, key: &'static str, default: usize) -> Parsed<usize> {
        let want = "a whole number, or two equal ones (only square images and patches)";
        match self.get(key) {
            Some(v @ Value::Array(pair)) => match pair.as_slice() {
                [a, b] if a == b => a
                    .as_u64()
                    .and_then(|n| usize::try_from(n).ok())
                    .filter(|n| (1..=MAX_SIZE).contains(n))
                    .ok_or_else(|| self.unsupported(key, v, want)),
                _ => Err(self.unsupported(key, v, want)),
            },
            _ => self.size(key, Some(default)),
        }
    }

    /// Returns the width of the MLP: open_clip's `int(width * mlp_ratio)`.
    pub(in crate::checkpoint) fn mlp_width(&self, width: usize) -> Parsed<usize> {
        let ratio = self.number("mlp_ratio", 4.0)?;
        let scaled = (width as f64 * ratio) as usize;
        if (1..=MAX_SIZE).contains(&scaled) {
            return Ok(scaled);
        }
        Err(format!("`{}.mlp_ratio` = {ratio} is not supported: it makes the MLP {scaled} wide", self.name))
    }

    /// Returns a boolean, or the default.
    pub(in crate::checkpoint) fn flag(&self, key: &'static str, default: bool) -> Parsed<bool> {
        match self.get(key) {
            Some(v) => v.as_bool().ok_or_else(|| self.unsupported(key, v, "true or false")),
            None => Ok(default),
        }
    }

    /// Returns a finite number, or the default.
    pub(in crate::checkpoint) fn number(&self, key: &'static str, default: f64) -> Parsed<f64> {
        match self.get(key) {
            Some(v) => {
                v.as_f64().filter(|n| n.is_finite()).ok_or_else(|| self.unsupported(key, v, "a number"))
            }
            None => Ok(default),
        }
    }

    /// Returns a number within the range of f32, if there is one.
    pub(in crate::checkpoint) fn optional_f32(&self, key: &'static str) -> Parsed<Option<f32>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        match v.as_f64().map(|n| n as f32).filter(|n| n.is_finite()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.unsupported(key, v, "a number or null")),
        }
    }

    /// Checks that keys, if present, have one of their allowed values.
    pub(in crate::checkpoint) fn require(&self, list: &[(&'static str, Vec<Value>)]) -> Parsed<()> {
        for (key, allowed) in list {
            self.known.borrow_mut().push(key);
            if let Some(v) = self.map.get(*key)
                && !v.is_null()
                && !allowed.contains(v)
            {
                let want: Vec<String> = allowed.iter().map(Value::to_string).collect();
                return Err(self.unsupported(key, v, &format!("the default, {}", want.join(" or "))));
            }
        }
        Ok(())
    }

    /// Marks keys that do not change the graph as read.
    pub(in crate::checkpoint) fn skip(&self, keys: &[&'static str]) {
        self.known.borrow_mut().extend(keys);
    }

    /// Fails on the first key that was never read.
    pub(in crate::checkpoint) fn finish(self) -> Parsed<()> {
        let known = self.known.borrow();
        match self.map.keys().find(|k| !known.contains(&k.as_str())) {
            Some(key) => Err(format!(
                "`{}.{key}` = {} is not an option of open_clip 3.3.0 or 4.2 that this exporter knows; it might change the model",
                self.name, self.map[key]
            )),
            None => Ok(()),
        }
    }
}
