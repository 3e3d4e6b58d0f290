//! The place of a sample's caption.

use serde::{Deserialize, Serialize};

/// Place of a sample's caption.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Caption {
    /// The caption member of a shard (`txt`), or the synthetic `caption` of an output.
    Text,
    /// The `org_caption` of an output; the caption member of a shard.
    Original,
    /// A key of the sample's own JSON.
    Json(String),
}

impl TryFrom<String> for Caption {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "text" => Ok(Self::Text),
            "original" => Ok(Self::Original),
            _ => match text.strip_prefix("json.") {
                Some(key) if !key.is_empty() => Ok(Self::Json(key.to_owned())),
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
        };
        let found = found.ok_or("no_caption")?;
        let trimmed = found.trim();
        if trimmed.is_empty() { Err("no_caption") } else { Ok(trimmed.to_owned()) }
    }
}
