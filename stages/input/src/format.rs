//! What an input is: by the configured format, by the names of its files, and by its first bytes.
//!
//! Below both [`crate::shards`], which picks files by name, and [`crate::read`], which parses them. Nothing is opened here.

use std::str::FromStr;

use crate::webdataset::is_image_suffix;

/// The configured format of the inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputFormat {
    /// Detected for every shard by name and first bytes.
    #[default]
    Auto,
    /// Tar files, compressed or not.
    Webdataset,
    /// Parquet files with image bytes.
    Parquet,
    /// Lists of URLs, whose images are fetched.
    UrlList,
    /// Folders of image files.
    Folder,
}

impl InputFormat {
    /// Returns the name by which it is configured.
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
            .ok_or_else(|| format!("unknown input format `{text}`"))
    }
}

/// The syntax of a list of URLs in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// Comma-separated values with a header row.
    Csv,
    /// Tab-separated values with a header row.
    Tsv,
    /// One JSON object per line.
    JsonLines,
    /// One URL per line.
    Text,
}

impl ListKind {
    /// Detects the syntax from a file name, with or without the suffix of a compression.
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

/// The syntax of a Hugging Face imagefolder's metadata file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetadataKind {
    /// `metadata.jsonl`.
    JsonLines,
    /// `metadata.csv`.
    Csv,
    /// `metadata.parquet`.
    Parquet,
}

impl MetadataKind {
    /// Detects a metadata file by its name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "metadata.jsonl" => Some(Self::JsonLines),
            "metadata.csv" => Some(Self::Csv),
            "metadata.parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// Returns whether a file name is that of a tar or Parquet shard, which is taken from a folder.
#[must_use]
pub fn is_shard_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [".tar", ".tar.gz", ".tgz", ".tar.zst", ".parquet"].iter().any(|suffix| name.ends_with(suffix))
}

/// Returns whether a file name is that of a Parquet file.
#[must_use]
pub fn is_parquet_name(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".parquet")
}

/// Returns whether a file name is that of a list of URLs. `.txt` is not: it may be a caption.
#[must_use]
pub fn is_list_name(name: &str) -> bool {
    ListKind::of_name(name).is_some_and(|kind| kind != ListKind::Text)
}

/// Returns whether a file name has the suffix of an image, decoded or not.
#[must_use]
pub fn is_image_name(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, suffix)| is_image_suffix(&suffix.to_lowercase()))
}

/// First bytes of a Parquet file.
pub(crate) const PARQUET_MAGIC: &[u8] = b"PAR1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_give_the_format() {
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
