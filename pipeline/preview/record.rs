//! `preview.json`: what a preview measured, for people's scripts and for `recaption plan --preview FILE`.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// Version of the record's format.
pub const PREVIEW_FORMAT: u32 = 1;

/// What a preview read and measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PreviewRecord {
    /// Version of the format, [`PREVIEW_FORMAT`].
    pub format: u32,
    /// Recaption's version.
    pub version: String,
    /// When the preview ended, RFC 3339.
    pub date: String,
    /// Seed of the sample.
    pub seed: u64,
    /// Samples: captioned and rejected ones.
    pub images: u64,
    /// Samples with a caption.
    pub captioned: u64,
    /// Samples without one.
    pub rejected: u64,
    /// Rejects by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Seconds of reading, decoding and captioning the sample; loading the models is not among them.
    pub seconds: f64,
    /// `images` divided by `seconds`; 0 without images.
    pub images_per_second: f64,
    /// Mean bytes of a captioned sample's stored image; `None` if no sample was captioned.
    pub bytes_per_image: Option<f64>,
    /// Mean bytes of the shard that a sample takes, with headers and sidecars, in tars that are not compressed; `None` without
    /// such tars. The bytes of a tar divided by it estimate its samples.
    pub tar_bytes_per_sample: Option<f64>,
    /// Samples of the shards that were looked at, where their number is known: rows of tables and lists, images of folders, and
    /// tars that were read whole. By URL, redacted.
    pub shard_samples: BTreeMap<String, u64>,
    /// Shards of the input; each part of a long list is one.
    pub shards: u64,
    /// Shards that could not be read, with the error, by URL, redacted.
    pub shards_failed: BTreeMap<String, String>,
    /// Bytes of the input.
    pub input_bytes: u64,
    /// Bytes of it that were read.
    pub bytes_read: u64,
    /// Keys that change rows, as commit records have them.
    pub configuration: BTreeMap<String, String>,
    /// Captioner's digest.
    pub model: String,
    /// Scorer's digest, where it is not the captioner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scorer: Option<String>,
    /// Decoding and CPU threads.
    pub threads: u64,
    /// Execution provider.
    pub provider: String,
    /// Numbers of the GPUs; empty for the CPU.
    pub devices: Vec<u32>,
}

impl PreviewRecord {
    /// Reads the record of an earlier preview.
    ///
    /// # Errors
    /// When the file cannot be read, is no record of a preview, or is of another version of the format.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        let unfit = |what: String| ConfigError { origin: shown.to_string(), what };
        let record: Self = serde_json::from_str(&text)
            .map_err(|error| unfit(format!("not the preview.json of a preview: {error}")))?;
        if record.format != PREVIEW_FORMAT {
            let what = format!("format {}, expected {PREVIEW_FORMAT}: repeat the preview", record.format);
            return Err(unfit(what).into());
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> PreviewRecord {
        PreviewRecord {
            format: PREVIEW_FORMAT,
            version: "0.0.0".into(),
            date: String::new(),
            seed: 0,
            images: 3,
            captioned: 2,
            rejected: 1,
            reasons: [("too_small".to_owned(), 1)].into(),
            seconds: 1.5,
            images_per_second: 2.0,
            bytes_per_image: Some(10.0),
            tar_bytes_per_sample: None,
            shard_samples: BTreeMap::new(),
            shards: 1,
            shards_failed: BTreeMap::new(),
            input_bytes: 100,
            bytes_read: 10,
            configuration: BTreeMap::new(),
            model: "m".into(),
            scorer: None,
            threads: 2,
            provider: "cpu".into(),
            devices: Vec::new(),
        }
    }

    #[test]
    fn records_are_read_as_written_and_other_files_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("preview.json");
        std::fs::write(&path, serde_json::to_string(&record()).expect("JSON")).expect("written");
        assert_eq!(PreviewRecord::read(&path).expect("a record"), record());
        let other = PreviewRecord { format: 2, ..record() };
        std::fs::write(&path, serde_json::to_string(&other).expect("JSON")).expect("written");
        let error = PreviewRecord::read(&path).expect_err("another format").to_string();
        assert!(error.contains("format 2, expected 1"), "{error}");
        std::fs::write(&path, "{}").expect("written");
        let error = PreviewRecord::read(&path).expect_err("no record").to_string();
        assert!(error.contains("not the preview.json of a preview"), "{error}");
    }
}
