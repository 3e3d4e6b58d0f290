//! One object of `open_clip_config.json`: typed getters that remember which keys were asked for.

use serde_json::{Map, Value};

use super::Parsed;

/// Largest width, count or length that is believed: far beyond real models, far below an overflow.
const MAX_SIZE: usize = 1 << 20;

/// One object of the configuration; every key must be asked for, or it is unknown.
pub(super) struct Section<'a> {
    pub name: &'static str,
    pub map: &'a Map<String, Value>,
    known: std::cell::RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// Of the keys in `map`.
    pub fn new(name: &'static str, map: &'a Map<String, Value>) -> Self {
        Self { name, map, known: Vec::new().into() }
    }

    /// Of the object `name` in `parent`.
    pub fn of(parent: &'a Map<String, Value>, name: &'static str) -> Parsed<Self> {
        match parent.get(name) {
            Some(Value::Object(map)) => Ok(Self::new(name, map)),
            Some(other) => Err(format!("`{name}` must be an object, is {other}")),
            None => Err(format!("`{name}` is missing")),
        }
    }

    pub fn get(&self, key: &'static str) -> Option<&'a Value> {
        self.known.borrow_mut().push(key);
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub fn bad(&self, key: &str, value: &Value, want: &str) -> String {
        format!("`{}.{key}` = {value} is not supported: expected {want}", self.name)
    }

    pub fn size(&self, key: &'static str, default: Option<usize>) -> Parsed<usize> {
        match (self.get(key), default) {
            (Some(v), _) => v
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .filter(|n| (1..=MAX_SIZE).contains(n))
                .ok_or_else(|| self.bad(key, v, "a positive whole number")),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(format!("`{}.{key}` is missing", self.name)),
        }
    }

    /// A number, or a pair of equal numbers.
    pub fn square(&self, key: &'static str, default: usize) -> Parsed<usize> {
        let want = "a whole number, or two equal ones (only square images and patches)";
        match self.get(key) {
            Some(v @ Value::Array(pair)) => match pair.as_slice() {
                [a, b] if a == b => a
                    .as_u64()
                    .and_then(|n| usize::try_from(n).ok())
                    .filter(|n| (1..=MAX_SIZE).contains(n))
                    .ok_or_else(|| self.bad(key, v, want)),
                _ => Err(self.bad(key, v, want)),
            },
            _ => self.size(key, Some(default)),
        }
    }

    /// Width of the MLP: open_clip's `int(width * mlp_ratio)`.
    pub fn mlp_width(&self, width: usize) -> Parsed<usize> {
        let ratio = self.number("mlp_ratio", 4.0)?;
        let scaled = (width as f64 * ratio) as usize;
        if (1..=MAX_SIZE).contains(&scaled) {
            return Ok(scaled);
        }
        Err(format!("`{}.mlp_ratio` = {ratio} is not supported: it makes the MLP {scaled} wide", self.name))
    }

    pub fn flag(&self, key: &'static str, default: bool) -> Parsed<bool> {
        match self.get(key) {
            Some(v) => v.as_bool().ok_or_else(|| self.bad(key, v, "true or false")),
            None => Ok(default),
        }
    }

    pub fn number(&self, key: &'static str, default: f64) -> Parsed<f64> {
        match self.get(key) {
            Some(v) => v.as_f64().filter(|n| n.is_finite()).ok_or_else(|| self.bad(key, v, "a number")),
            None => Ok(default),
        }
    }

    /// A number that single precision holds, or none.
    pub fn single(&self, key: &'static str) -> Parsed<Option<f32>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        match v.as_f64().map(|n| n as f32).filter(|n| n.is_finite()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.bad(key, v, "a number or null")),
        }
    }

    /// These keys must have one of their default values.
    pub fn defaults(&self, list: &[(&'static str, Vec<Value>)]) -> Parsed<()> {
        for (key, allowed) in list {
            self.known.borrow_mut().push(key);
            if let Some(v) = self.map.get(*key)
                && !v.is_null()
                && !allowed.contains(v)
            {
                let want: Vec<String> = allowed.iter().map(Value::to_string).collect();
                return Err(self.bad(key, v, &format!("the default, {}", want.join(" or "))));
            }
        }
        Ok(())
    }

    /// These keys do not change the graph.
    pub fn skip(&self, keys: &[&'static str]) {
        self.known.borrow_mut().extend(keys);
    }

    /// Fails on the first key that was never asked for.
    pub fn finish(self) -> Parsed<()> {
        let known = self.known.borrow();
        match self.map.keys().find(|k| !known.contains(&k.as_str())) {
            Some(key) => Err(format!(
                "`{}.{key}` = {} is not an option of open_clip 3.3.0 that this exporter knows; it might change the model",
                self.name, self.map[key]
            )),
            None => Ok(()),
        }
    }
}
