//! The place of a sample's caption.

use serde::{Deserialize, Serialize};

/// Begins the name of [`Caption::Matched`]; the threshold follows.
const MATCHED: &str = "itm>=";

/// Place of a sample's caption.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Caption {
    /// The caption member of a shard (`txt`), or the synthetic `caption` of an output.
    Text,
    /// The `org_caption` of an output; the caption member of a shard.
    Original,
    /// A key of the sample's own JSON.
    Json(String),
    /// Both texts of an output's row, as samples of their own: `caption` where its `itm`, and `org_caption` where its `org_itm`, is
    /// at least this, [0, 1].
    Matched(f32),
}

impl TryFrom<String> for Caption {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "text" => Ok(Self::Text),
            "original" => Ok(Self::Original),
            _ => match (text.strip_prefix("json."), text.strip_prefix(MATCHED)) {
                (Some(key), _) if !key.is_empty() => Ok(Self::Json(key.to_owned())),
                (_, Some(least)) => match least.trim().parse::<f32>() {
                    Ok(least) if (0.0..=1.0).contains(&least) => Ok(Self::Matched(least)),
                    _ => Err(format!("`{text}`: expected a number from 0 to 1 after {MATCHED}")),
                },
                _ => Err(format!("`{text}` names no caption")),
            },
        }
    }
}

impl From<Caption> for String {
    fn from(caption: Caption) -> Self {
        match caption {
            Caption::Text => "text".into(),
            Caption::Original => "original".into(),
            Caption::Json(key) => format!("json.{key}"),
            Caption::Matched(least) => format!("{MATCHED}{least}"),
        }
    }
}

impl Caption {
    /// Returns the caption of a sample, trimmed.
    ///
    /// # Errors
    /// Fails with the reason, as [`DataCounts`](super::DataCounts) counts it.
    pub(super) fn find(
        &self,
        text: Option<&str>,
        original: Option<&str>,
        json: Option<&str>,
    ) -> Result<String, &'static str> {
        let found = match self {
            Self::Text => text.map(str::to_owned),
            Self::Original => original.map(str::to_owned),
            Self::Json(key) => {
                let json = json.ok_or("no_json")?;
                let value: serde_json::Value = serde_json::from_str(json).map_err(|_| "malformed_json")?;
                value.get(key).and_then(serde_json::Value::as_str).map(str::to_owned)
            }
            // Shards have no probabilities; the recipe was checked.
            Self::Matched(_) => return Err("no_itm"),
        };
        trimmed(found.as_deref().ok_or("no_caption")?)
    }
}

/// Returns a text without spaces around it.
///
/// # Errors
/// Fails with the reason on a text of spaces.
pub(super) fn trimmed(text: &str) -> Result<String, &'static str> {
    let trimmed = text.trim();
    if trimmed.is_empty() { Err("no_caption") } else { Ok(trimmed.to_owned()) }
}
