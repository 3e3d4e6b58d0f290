//! Sidecars beside the images of folders, where trainers such as kohya's expect them. No image is read or copied.
//!
//! The folders are the input, so nothing in them is replaced that has other content, unless that is asked for. They change by it:
//! the next run over them finds changed shards.

use std::collections::{HashMap, HashSet};

use anyhow::Context;
use bytes::Bytes;
use object_store::{ObjectStoreExt, path::Path};
use recaption_input::webdataset::IMAGE_SUFFIXES;
use recaption_output::{CaptionRows, second_pass::SourceDataset};
use recaption_schemas::{name_bytes, name_text};
use recaption_store::{Location, StoreError, StoreKind, Stores};

use super::{
    folder::sidecar_lines,
    job::ConvertJob,
    record::{ConvertReport, MissingImage},
    samples::ShardRows,
};
use crate::config::ConfigError;

/// Writes the sidecars of all rows.
///
/// # Errors
/// When a shard of the source is no folder, or a store fails.
pub(super) async fn write_sidecars(
    job: &ConvertJob,
    source: &SourceDataset,
    mut stores: Stores,
) -> anyhow::Result<ConvertReport> {
    let mut folders = Vec::with_capacity(source.shards.len());
    for shard in &source.shards {
        let folder = stores.locate(&shard.url)?;
        let is_writable = matches!(folder.kind, StoreKind::Local | StoreKind::Bucket);
        if !shard.url.ends_with('/') || !is_writable {
            let what = format!(
                "{} is no folder of images that can be written to; name a place for copies of the images with --out",
                shard.url
            );
            return Err(ConfigError { origin: "--to sidecar".to_owned(), what }.into());
        }
        folders.push(folder);
    }
    let mut report = ConvertReport::begin(job, source, None);
    for (shard, folder) in source.shards.iter().zip(folders) {
        let images = ImageFolder::list(folder).await?;
        let mut rows = ShardRows::open(&source.location, shard, None).await?;
        let blend = job.blend.map(|blend| blend.of_shard(&shard.url));
        while let Some(row) = rows.next().await? {
            let (batch, at) = (&row.batch.rows, row.row);
            let text = match &blend {
                Some(blend) => blend.text(batch.key(at), batch.caption(at), batch.org_caption(at)),
                None => batch.text(at).unwrap_or_else(|| batch.caption(at)),
            };
            match write_one(job, &images, (batch, at), text).await? {
                Ok(bytes) => {
                    report.samples += 1;
                    report.bytes += bytes;
                }
                Err(detail) => {
                    let (shard, key) = (shard.url.clone(), row.key().to_owned());
                    report.miss(&[MissingImage { shard, key, detail }]);
                }
            }
        }
    }
    Ok(report)
}

/// The images of a folder.
struct ImageFolder {
    folder: Location,
    /// Names of images by key: their stems and whole names.
    images: HashMap<String, Vec<Path>>,
    /// All files of the folder: none is replaced unasked.
    taken: HashSet<Path>,
}

impl ImageFolder {
    async fn list(folder: Location) -> anyhow::Result<Self> {
        let (_, objects) = folder.list_level().await?;
        let (mut images, mut taken): (HashMap<String, Vec<Path>>, _) = (HashMap::new(), HashSet::new());
        for meta in objects {
            taken.insert(meta.location.clone());
            let Some((stem, ending)) = meta.location.filename().and_then(|name| name.rsplit_once('.')) else {
                continue;
            };
            let key = |name: &str| name_text(&name_bytes(name));
            if IMAGE_SUFFIXES.contains(&ending.to_lowercase().as_str()) {
                let (stem, name) = (key(stem), key(meta.location.filename().unwrap_or_default()));
                images.entry(stem).or_default().push(meta.location.clone());
                images.entry(name).or_default().push(meta.location);
            }
        }
        Ok(Self { folder, images, taken })
    }

    /// Returns the place of the sidecar of the image with this key.
    fn sidecar_of(&self, key: &str, suffix: &str) -> anyhow::Result<Result<Location, String>> {
        let image = match self.images.get(key).map(Vec::as_slice) {
            Some([image]) => image,
            Some([..]) => return Ok(Err(format!("several images would share the sidecar {key}.{suffix}"))),
            None => return Ok(Err("its folder has no such image any more".to_owned())),
        };
        let stem = image.as_ref().rsplit_once('.').map_or(image.as_ref(), |(stem, _)| stem);
        let name = stem.rsplit('/').next().unwrap_or(stem);
        let sharing = self.images.get(&name_text(&name_bytes(name))).map_or(0, Vec::len);
        if sharing > 1 {
            return Ok(Err(format!("several images would share the sidecar {name}.{suffix}")));
        }
        let path = Path::parse(format!("{stem}.{suffix}")).context("a listed name is no path")?;
        Ok(Ok(self.folder.at(path)))
    }
}

/// Writes one sidecar, unless it is there. Returns its bytes, or why it is not written.
async fn write_one(
    job: &ConvertJob,
    images: &ImageFolder,
    (rows, row): (&CaptionRows, usize),
    text: &str,
) -> anyhow::Result<Result<u64, String>> {
    let place = match images.sidecar_of(rows.key(row), &job.suffix)? {
        Ok(place) => place,
        Err(why) => return Ok(Err(why)),
    };
    let lines = Bytes::from(sidecar_lines(job.captions, text, (rows, row)));
    let failed = |source| StoreError::Store { url: place.url(), source };
    let bytes = lines.len() as u64;
    if images.taken.contains(&place.path) {
        let got = place.store.get(&place.path).await.map_err(failed)?;
        if got.bytes().await.map_err(failed)? == lines {
            return Ok(Ok(bytes));
        }
        if !job.overwrite {
            let name = place.path.filename().unwrap_or_default();
            return Ok(Err(format!("{name} is there with other content; replace it with --overwrite")));
        }
    }
    place.store.put(&place.path, lines.into()).await.map_err(failed)?;
    Ok(Ok(bytes))
}
