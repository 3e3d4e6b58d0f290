//! The name of a model on the hub.

use std::{fmt, str::FromStr};

use crate::hub::address::{escape_revision, is_valid_name, parse_revision};

/// Prefix of a model's URL.
const SCHEME: &str = "hf://";
/// How open_clip and timm write the same.
const OPEN_CLIP_SCHEME: &str = "hf-hub:";
/// First parts of URLs of other things than models.
const OTHER_KINDS: [&str; 3] = ["datasets", "spaces", "buckets"];
/// Length of a commit's hash, in hexadecimal digits.
const COMMIT_DIGITS: usize = 40;

/// A model on the hub at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    /// `ORG/NAME`.
    name: String,
    /// A branch, tag or commit; `main` if absent.
    revision: Option<String>,
}

/// Returns whether a revision is a commit's whole hash.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == COMMIT_DIGITS && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl HubModel {
    /// Parses a URL of a model, `hf://ORG/NAME[@REVISION]`; `None` for anything that does not begin with `hf://` or
    /// open_clip's `hf-hub:`, such as a path.
    ///
    /// # Errors
    /// Returns what is wrong in a URL, and what to write instead.
    pub fn parse_url(text: &str) -> Result<Option<Self>, String> {
        if let Some(name) = text.strip_prefix(OPEN_CLIP_SCHEME) {
            return Err(format!(
                "`{text}` is open_clip's way to name a model; write {SCHEME}{}",
                name.trim_matches('/')
            ));
        }
        text.starts_with(SCHEME).then(|| text.parse()).transpose()
    }

    /// Returns the same model at a commit.
    #[must_use]
    pub fn at_commit(&self, commit: &str) -> Self {
        Self { name: self.name.clone(), revision: Some(commit.to_owned()) }
    }

    /// Returns organisation and name.
    pub(super) fn parts(&self) -> impl Iterator<Item = &str> {
        self.name.split('/')
    }

    /// Returns `ORG/NAME`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the branch, tag or commit.
    #[must_use]
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

/// Parses `ORG/NAME[@REVISION]`, with or without `hf://` before it.
impl FromStr for HubModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = "a model on the hub is written ORG/NAME[@REVISION]";
        if text.starts_with(OPEN_CLIP_SCHEME) {
            return Self::parse_url(text)?.ok_or_else(|| usage.to_owned());
        }
        let bare = text.strip_prefix(SCHEME).unwrap_or(text);
        let (name, revision) = match bare.split_once('@') {
            Some((name, revision)) => (name, Some(parse_revision(revision)?)),
            None => (bare.trim_end_matches('/'), None),
        };
        match name.split('/').collect::<Vec<_>>().as_slice() {
            [kind, ..] if OTHER_KINDS.contains(kind) => {
                Err(format!("{usage}; this names one of the hub's {kind}"))
            }
            [organisation, model] if is_valid_name(organisation) && is_valid_name(model) => {
                Ok(Self { name: name.to_owned(), revision })
            }
            [_, _, _, ..] => Err(format!("{usage}, without the path of a file")),
            _ => Err(usage.to_owned()),
        }
    }
}

/// Writes the canonical URL, `hf://ORG/NAME[@REVISION]`.
impl fmt::Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.name)?;
        match &self.revision {
            Some(revision) => write!(f, "@{}", escape_revision(revision)),
            None => Ok(()),
        }
    }
}
