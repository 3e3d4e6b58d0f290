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
    record::{GroupRecord, MissingImage, WrittenFile},
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

/// Converts a group.
///
/// # Errors
/// When a part of the source cannot be read, or a file cannot be written.
pub(super) async fn convert_group(converter: &Converter, group: &Group) -> anyhow::Result<GroupRecord> {
    let mut files = GroupFiles::new(converter, group);
    if let Err(error) = files.write(group).await {
        files.abort().await;
        return Err(error);
    }
    let record = GroupRecord {
        fingerprint: group.fingerprint(&converter.source.shards),
        files: files.written,
        suffixes: files.suffixes,
        missing: files.missing,
    };
    converter.target.record(group.number(), &record).await?;
    Ok(record)
}

/// The files of a group that is being written.
struct GroupFiles<'a> {
    converter: &'a Converter,
    planned: std::vec::IntoIter<PlannedFile>,
    /// The open file, and the number of rows that it still takes.
    open: Option<(Sink, u64)>,
    written: Vec<WrittenFile>,
    suffixes: BTreeMap<String, u64>,
    missing: Vec<MissingImage>,
}

impl<'a> GroupFiles<'a> {
    fn new(converter: &'a Converter, group: &Group) -> Self {
        Self {
            converter,
            planned: group.files.clone().into_iter(),
            open: None,
            written: Vec::new(),
            suffixes: BTreeMap::new(),
            missing: Vec::new(),
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
                    self.open = Some((sink, file.rows));
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
        if let Some((sink, left)) = &mut self.open {
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
                    self.missing.push(MissingImage { shard: url, key, detail });
                }
            }
        }
        if self.open.as_ref().is_some_and(|(_, left)| *left == 0) {
            self.close().await?;
        }
        Ok(())
    }

    async fn close(&mut self) -> anyhow::Result<()> {
        if let Some((sink, _)) = self.open.take() {
            self.written.push(sink.finish().await?);
        }
        Ok(())
    }

    async fn abort(&mut self) {
        if let Some((sink, _)) = self.open.take() {
            sink.abort().await;
        }
    }
}
