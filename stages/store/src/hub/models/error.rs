//! Why a model cannot be had.

use std::path::PathBuf;

use object_store::Error;

use crate::user_message;

/// Most files that an error lists.
const MAX_LISTED: usize = 8;

/// Why a model cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Settings of the environment that cannot be used.
    #[error("{0}")]
    Settings(String),
    /// The hub refused, or failed after retries.
    #[error("{model}: {}", hub_message(source))]
    Hub {
        /// The model, or one of its files.
        model: String,
        /// The hub's error.
        source: Error,
    },
    /// The model has no file of a required part.
    #[error("{model} has no {wanted}{}", listed(present))]
    MissingFile {
        /// The model.
        model: String,
        /// The files that were looked for.
        wanted: String,
        /// Names of the files that it has.
        present: Vec<String>,
    },
    /// The bytes are not what the hub announced.
    #[error("{model}/{file}: {what}; nothing of it was kept, the same command downloads it again")]
    Damaged {
        /// The model.
        model: String,
        /// The file.
        file: String,
        /// What differs.
        what: String,
    },
    /// The cache lacks the model, and there is no connection.
    #[error(
        "{model} is not in the cache {cache}, and {why}; run `recaption pull {name}` where there is a connection"
    )]
    Offline {
        /// The model.
        model: String,
        /// The model without `hf://`.
        name: String,
        /// The cache's folder.
        cache: PathBuf,
        /// Why the hub was not asked, or what it answered.
        why: String,
    },
    /// The cache cannot be read or written.
    #[error("{path}: {source}{}", disk_advice(source))]
    Disk {
        /// File or folder.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
}

/// Returns the hub's error without what a store client says about credentials in general.
fn hub_message(error: &Error) -> String {
    match error {
        Error::Unauthenticated { source, .. } | Error::PermissionDenied { source, .. } => source.to_string(),
        Error::NotFound { source, .. } => format!("{source}; check the name and the revision"),
        other => user_message(other),
    }
}

fn listed(present: &[String]) -> String {
    if present.is_empty() {
        return "; it has no files".to_owned();
    }
    let shown: Vec<String> =
        present.iter().take(MAX_LISTED).map(|name| name.escape_debug().to_string()).collect();
    let more = if present.len() > MAX_LISTED { " and more" } else { "" };
    format!("; it has {}{more}", shown.join(", "))
}

fn disk_advice(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind as Kind;
    match error.kind() {
        Kind::StorageFull | Kind::QuotaExceeded => {
            "; make room or set HF_HUB_CACHE to another disk, then run the same command again: it goes on where it stopped"
        }
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => {
            "; set HF_HUB_CACHE to a folder that can be written"
        }
        _ => "",
    }
}
