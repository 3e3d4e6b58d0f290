//! Which members of a shard's samples were used, and which were ignored.

use std::{collections::BTreeSet, fmt};

use super::RawSample;

/// Most suffixes that are listed per role.
const LISTED: usize = 12;

/// Suffixes by role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    image: BTreeSet<String>,
    caption: BTreeSet<String>,
    json: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

impl Members {
    /// Adds the suffixes of a sample.
    pub(super) fn add(&mut self, raw: &RawSample, caption: Option<String>, json: Option<String>) {
        put(&mut self.image, raw.image.as_ref().map(|image| image.suffix.clone()));
        put(&mut self.caption, caption);
        put(&mut self.json, json);
        for suffix in &raw.other_suffixes {
            put(&mut self.ignored, Some(suffix.clone()));
        }
    }
}

fn put(set: &mut BTreeSet<String>, suffix: Option<String>) {
    if let Some(suffix) = suffix.filter(|_| set.len() <= LISTED) {
        set.insert(suffix);
    }
}

impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles = [
            ("image", &self.image),
            ("caption", &self.caption),
            ("meta", &self.json),
            ("ignored", &self.ignored),
        ];
        for (at, (role, suffixes)) in roles.into_iter().enumerate() {
            let listed: Vec<String> =
                suffixes.iter().take(LISTED).map(|suffix| format!(".{suffix}")).collect();
            let listed = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
            let more = if suffixes.len() > LISTED { ", ..." } else { "" };
            write!(f, "{}{role}={listed}{more}", if at > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}
