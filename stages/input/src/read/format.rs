//! What a shard is: by its name where that says it, by its first bytes otherwise, or told.

use std::str::FromStr;

use crate::webdataset::is_image_suffix;

/// What `input.format` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputFormat {
    /// Recognised shard by shard.
    #[default]
    Auto,
    /// Tars, packed or not.
    Webdataset,
    /// Parquet with image bytes.
    Parquet,
    /// Lists of addresses, whose images are fetched.
    UrlList,
    /// Folders of image files.
    Folder,
}

impl InputFormat {
    /// As it is configured.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Webdataset => "webdataset",
            Self::Parquet => "parquet",
            Self::UrlList => "url_list",
            Self::Folder => "folder",
        }
    }
}

impl FromStr for InputFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Auto, Self::Webdataset, Self::Parquet, Self::UrlList, Self::Folder]
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| format!("no input format is called `{text}`"))
    }
}

/// Text that lists addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// Values between commas, with a row of names.
    Csv,
    /// Values between tabs, with a row of names.
    Tsv,
    /// One JSON object per line.
    JsonLines,
    /// One address per line.
    Text,
}

impl ListKind {
    /// By a file's name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
        match name.rsplit_once('.')?.1 {
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "txt" => Some(Self::Text),
            _ => None,
        }
    }
}

/// Whether a file's name says that it is a shard, so that it is taken from a folder.
#[must_use]
pub fn is_shard_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [".tar", ".tar.gz", ".tgz", ".tar.zst", ".parquet"].iter().any(|ending| name.ends_with(ending))
}

/// Whether a file's name says that it is Parquet.
pub fn is_parquet_name(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".parquet")
}

/// Whether a file's name says that it is a list of addresses. Plain text does not: it may be a picture's caption.
#[must_use]
pub fn is_list_name(name: &str) -> bool {
    ListKind::of_name(name).is_some_and(|kind| kind != ListKind::Text)
}

/// Whether a file's name says that it is an image.
#[must_use]
pub fn is_image_name(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, suffix)| is_image_suffix(&suffix.to_lowercase()))
}

/// First bytes of a Parquet file.
pub const PARQUET_MAGIC: &[u8] = b"PAR1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_files_are() {
        for name in ["00000.tar", "a.TAR", "x.tar.gz", "x.tgz", "x.tar.zst", "part-0.parquet"] {
            assert!(is_shard_name(name), "{name}");
        }
        for name in ["x.jpg", "x.txt", "x.gz", "tar", "x.json"] {
            assert!(!is_shard_name(name), "{name}");
        }
        assert_eq!(ListKind::of_name("urls.csv.gz"), Some(ListKind::Csv));
        assert_eq!(ListKind::of_name("urls.NDJSON"), Some(ListKind::JsonLines));
        assert_eq!(ListKind::of_name("urls.parquet"), None);
        assert!(is_list_name("urls.tsv") && !is_list_name("00.txt"));
        assert!(is_image_name("a/b.JPG") && is_image_name("b.webp") && !is_image_name("b.json"));
    }
}
