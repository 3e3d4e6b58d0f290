//! What describes a whole dataset: numbers of samples for loaders of webdatasets, and the card that Hugging Face `datasets` reads.

use std::collections::BTreeMap;

use object_store::ObjectStoreExt;
use recaption_store::{Location, StoreError, to_json};
use serde_json::json;

use super::{
    folder::{METADATA_COLUMNS, TRAIN, below},
    group::Converter,
    job::{ColumnPreset, TargetFormat},
    record::{Records, WrittenFile},
};

/// Fields of the `.json` member of a webdataset's samples.
const JSON_FIELDS: [(&str, &str); 12] = [
    ("key", "string"),
    ("shard", "string"),
    ("caption", "string"),
    ("similarity", "float64"),
    ("org_caption", "string"),
    ("org_similarity", "float64"),
    ("text", "string"),
    ("width", "int64"),
    ("height", "int64"),
    ("sha256", "string"),
    ("url", "string"),
    ("meta", "string"),
];

/// Writes what describes the dataset; what is there is replaced.
///
/// # Errors
/// When the store fails.
pub(super) async fn describe(converter: &Converter, records: &Records) -> anyhow::Result<()> {
    let target = &converter.target.location;
    let files: Vec<&WrittenFile> = records.values().flat_map(|group| &group.files).collect();
    match converter.job.format {
        TargetFormat::Webdataset => {
            let sizes: serde_json::Map<String, serde_json::Value> =
                files.iter().map(|file| (file.path.clone(), file.samples.into())).collect();
            put_json(target, "sizes.json", &sizes.into()).await?;
            put_json(target, "dataset.json", &wids_index(&files)).await?;
        }
        TargetFormat::Sidecar => return Ok(()),
        TargetFormat::Hf | TargetFormat::Parquet => {}
    }
    let mut suffixes: BTreeMap<&str, u64> = BTreeMap::new();
    for (suffix, samples) in records.values().flat_map(|group| &group.suffixes) {
        *suffixes.entry(suffix).or_default() += samples;
    }
    let suffixes: Vec<&str> = suffixes.into_keys().collect();
    put(target, "README.md", card(converter, &files, &suffixes).into_bytes()).await
}

/// Returns the index that the `wids` library of webdataset reads.
fn wids_index(files: &[&WrittenFile]) -> serde_json::Value {
    let shards = files.iter().map(|file| {
        json!({"url": file.path, "nsamples": file.samples, "filesize": file.bytes, "sha256": file.sha256})
    });
    json!({"wids_version": 1, "name": "recaption", "shardlist": shards.collect::<Vec<_>>()})
}

/// Returns the dataset card: files and features for `load_dataset`, and how the dataset was made.
fn card(converter: &Converter, files: &[&WrittenFile], suffixes: &[&str]) -> String {
    let job = &converter.job;
    let samples: u64 = files.iter().map(|file| file.samples).sum();
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let data_files = match job.format {
        TargetFormat::Webdataset => "\"*.tar\"".to_owned(),
        TargetFormat::Parquet => "\"*.parquet\"".to_owned(),
        TargetFormat::Hf | TargetFormat::Sidecar => format!("{TRAIN}/**"),
    };
    let features = features(job.format, job.columns, suffixes);
    let features = if features.is_empty() { String::new() } else { format!("  features:\n{features}") };
    let mut card = format!(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {data_files}\ndataset_info:\n{features}  \
         splits:\n  - name: train\n    num_bytes: {bytes}\n    num_examples: {samples}\n  download_size: {bytes}\n  dataset_size: {bytes}\n---\n\n# Recaptioned images\n\n{samples} images with synthetic captions, made by Recaption. \
         `caption` is the synthetic caption, `org_caption` the original one, `text` the one to train with.\n\n| setting | value |\n|---|---|\n"
    );
    for (key, value) in &converter.source.configuration {
        let value = value.replace('|', "\\|").replace(['\n', '\r'], " ");
        card.push_str(&format!("| `{key}` | {value} |\n"));
    }
    if let Some(blend) = job.blend {
        card.push_str(&format!(
            "| `blend.synthetic` of the texts | {}, seed {} |\n",
            blend.synthetic, blend.seed
        ));
    }
    card
}

/// Returns the features in YAML. Empty where readers find them by themselves, or samples differ in their image's suffix.
fn features(format: TargetFormat, columns: ColumnPreset, suffixes: &[&str]) -> String {
    let value = |(name, dtype): &(&str, &str)| format!("  - name: {name}\n    dtype: {dtype}\n");
    match (format, suffixes) {
        (TargetFormat::Webdataset, [suffix]) => {
            let fields =
                JSON_FIELDS.iter().map(|(name, dtype)| format!("    - name: {name}\n      dtype: {dtype}\n"));
            let json: String = fields.collect();
            let texts = [("txt", "string"), ("__key__", "string"), ("__url__", "string")];
            let [txt, key, url] = texts.each_ref().map(value);
            format!("{}{txt}  - name: json\n    struct:\n{json}{key}{url}", value(&(*suffix, "image")))
        }
        (TargetFormat::Hf, _) => {
            std::iter::once(&("image", "image")).chain(&METADATA_COLUMNS).map(value).collect()
        }
        (TargetFormat::Parquet, _) if columns == ColumnPreset::Hf => {
            [("image", "image"), ("text", "string")].iter().map(value).collect()
        }
        _ => String::new(),
    }
}

async fn put_json(target: &Location, name: &str, value: &serde_json::Value) -> anyhow::Result<()> {
    let bytes = to_json(target, value)?;
    put(target, name, bytes).await
}

async fn put(target: &Location, name: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
    let location = below(target, name)?;
    let put = location.store.put(&location.path, bytes.into()).await;
    put.map(drop).map_err(|source| StoreError::Store { url: location.url(), source }.into())
}
