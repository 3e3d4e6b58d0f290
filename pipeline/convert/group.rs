//! One group of files: the rows of its shards in order, cut into files, then the record.

use std::{collections::BTreeMap, sync::Arc};

use recaption_output::{
    second_pass::SourceDataset,
    webdataset::{image_suffix, sample_key},
};

use super::{
    inputs::InputShards,
    job::ConvertJob,
    plan::{Group, PlannedFile},
    record::{GroupRecord, MAX_REPORTED, MissingImage, WrittenFile},
    samples::{Sample, ShardRows, SourceRow},
    sink::Sink,
    target::Target,
};

/// What all groups share.
pub(super) struct Converter {
    /// The request.
    pub job: ConvertJob,
    /// What is read.
    pub source: SourceDataset,
    /// Where it is written.
    pub target: Target,
    /// Where images are read, if they are needed.
    pub inputs: Option<Arc<InputShards>>,
}

/// Converts a group. With a record of an `earlier` attempt, no file of it is replaced by one of fewer images.
///
/// # Errors
/// When a part of the source cannot be read, or a file cannot be written.
pub(super) async fn convert_group(
    converter: &Converter,
    group: &Group,
    earlier: Option<GroupRecord>,
) -> anyhow::Result<GroupRecord> {
    let mut files = GroupFiles::new(converter, group, earlier.as_ref());
    let result = files.write(group).await;
    let gives_up = files.gives_up;
    if result.is_err() {
        files.abort().await;
    }
    let (written, suffixes) = (files.written, files.suffixes);
    let record = match (result, earlier) {
        (Ok(()), _) => GroupRecord {
            fingerprint: group.fingerprint(&converter.source.shards),
            files: written,
            suffixes,
            missing_rows: files.missing_rows,
            missing: files.missing,
        },
        (Err(error), Some(earlier)) if gives_up => {
            tracing::warn!(
                error = error.to_string(),
                "keeping files of an earlier conversion, which have more images"
            );
            keep_earlier(group, earlier, written, suffixes)
        }
        (Err(error), _) => return Err(error),
    };
    converter.target.record(group.number(), &record).await?;
    Ok(record)
}

/// Returns the record of a group whose first files were written again and whose others are those of an earlier attempt.
fn keep_earlier(
    group: &Group,
    mut earlier: GroupRecord,
    written: Vec<WrittenFile>,
    suffixes: BTreeMap<String, u64>,
) -> GroupRecord {
    for (file, new) in earlier.files.iter_mut().zip(written) {
        *file = new;
    }
    for (suffix, samples) in suffixes {
        earlier.suffixes.entry(suffix).or_insert(samples);
    }
    let rows: u64 = group.files.iter().map(|file| file.rows).sum();
    earlier.missing_rows = rows.saturating_sub(earlier.files.iter().map(|file| file.samples).sum());
    // Those that are there now are rows of the first files.
    let most = usize::try_from(earlier.missing_rows).unwrap_or(usize::MAX);
    earlier.missing.drain(..earlier.missing.len().saturating_sub(most));
    earlier
}

/// The files of a group that is being written.
struct GroupFiles<'a> {
    converter: &'a Converter,
    planned: std::vec::IntoIter<PlannedFile>,
    /// Images that may be missing in each file before an earlier attempt had more; empty without one.
    may_miss: std::vec::IntoIter<u64>,
    open: Option<OpenFile>,
    written: Vec<WrittenFile>,
    suffixes: BTreeMap<String, u64>,
    missing_rows: u64,
    /// The first of the missing rows.
    missing: Vec<MissingImage>,
    /// Whether writing ended because an earlier attempt had more images.
    gives_up: bool,
}

/// The file that is being written.
struct OpenFile {
    sink: Sink,
    /// Number of rows that it still takes.
    left: u64,
    /// Number of images that may still be missing.
    may_miss: u64,
}

impl<'a> GroupFiles<'a> {
    fn new(converter: &'a Converter, group: &Group, earlier: Option<&GroupRecord>) -> Self {
        let earlier = earlier.into_iter().flat_map(|record| &record.files);
        let may_miss =
            group.files.iter().zip(earlier).map(|(planned, file)| planned.rows.saturating_sub(file.samples));
        Self {
            converter,
            planned: group.files.clone().into_iter(),
            may_miss: may_miss.collect::<Vec<_>>().into_iter(),
            open: None,
            written: Vec::new(),
            suffixes: BTreeMap::new(),
            missing_rows: 0,
            missing: Vec::new(),
            gives_up: false,
        }
    }

    async fn write(&mut self, group: &Group) -> anyhow::Result<()> {
        let Converter { job, source, inputs, target } = self.converter;
        for shard in group.shards.iter().filter_map(|at| source.shards.get(*at)) {
            let mut rows = ShardRows::open(&source.location, shard, inputs.as_ref()).await?;
            let blend = job.blend.map(|blend| blend.of_shard(&shard.url));
            while let Some(row) = rows.next().await? {
                if self.open.is_none()
                    && let Some(file) = self.planned.next()
                {
                    let sink = Sink::open(job, &target.location, file, &rows.schema())?;
                    let may_miss = self.may_miss.next().unwrap_or(u64::MAX);
                    self.open = Some(OpenFile { sink, left: file.rows, may_miss });
                }
                let (batch, at) = (&row.batch.rows, row.row);
                let text = match &blend {
                    Some(blend) => blend.text(batch.key(at), batch.caption(at), batch.org_caption(at)),
                    None => batch.text(at).unwrap_or_else(|| batch.caption(at)),
                };
                let text = text.to_owned();
                self.push(&shard.id, row, text).await?;
            }
        }
        self.close().await
    }

    async fn push(&mut self, shard: &str, mut row: SourceRow, text: String) -> anyhow::Result<()> {
        let image = std::mem::replace(&mut row.image, Ok(bytes::Bytes::new()));
        if let Some(OpenFile { sink, left, may_miss }) = &mut self.open {
            *left -= 1;
            match image {
                Ok(image) => {
                    if !image.is_empty() {
                        *self.suffixes.entry(image_suffix(&image).to_owned()).or_default() += 1;
                    }
                    let key = sample_key(shard, row.key());
                    sink.push(Sample { row, image, shard: shard.to_owned(), key, text }).await?;
                }
                Err(detail) => {
                    let url = row.batch.rows.shard(row.row).to_owned();
                    let key = row.key().to_owned();
                    tracing::debug!(shard = url, key, detail, "image not available");
                    let Some(still) = may_miss.checked_sub(1) else {
                        self.gives_up = true;
                        anyhow::bail!(
                            "an image that was there before is not available: {key} of {url}: {detail}"
                        );
                    };
                    *may_miss = still;
                    self.missing_rows += 1;
                    if self.missing.len() < MAX_REPORTED {
                        self.missing.push(MissingImage { shard: url, key, detail });
                    }
                }
            }
        }
        if self.open.as_ref().is_some_and(|open| open.left == 0) {
            self.close().await?;
        }
        Ok(())
    }

    async fn close(&mut self) -> anyhow::Result<()> {
        if let Some(OpenFile { sink, .. }) = self.open.take() {
            self.written.push(sink.finish().await?);
        }
        Ok(())
    }

    async fn abort(&mut self) {
        if let Some(OpenFile { sink, .. }) = self.open.take() {
            sink.abort().await;
        }
    }
}
