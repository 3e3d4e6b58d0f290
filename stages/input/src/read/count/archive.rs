//! Samples of a tar, by its headers: members' data is not read, except what lies between two headers that are near each other.

use bytes::Bytes;
use recaption_messages::ReadError;

use super::{
    rows,
    sample_count::{CountMethod, SampleCount, extrapolate},
    start::{collect, has_ranges, open_start},
};
use crate::{
    format::{InputFormat, PARQUET_MAGIC},
    read::{archive::last_sample, context::ReadContext, decompress::Decompressor, open, sniff},
    tar::{BLOCK_BYTES, TarEnd, TarError, TarLimits, TarParser},
    webdataset::Assembler,
};

/// Bytes of one request: a header, and most often those of the sidecars after it.
const WINDOW_BYTES: u64 = 64 << 10;
/// Size up to which a tar is read whole instead.
const MAX_WHOLE_BYTES: u64 = 4 << 20;
/// Requests after which the rest is estimated.
const MAX_WINDOWS: u32 = 64;
/// Bytes that are read of a tar in which nothing can be jumped over: it is compressed, or its server sends it whole.
const MAX_STREAMED_BYTES: u64 = 8 << 20;

/// Counts the samples of an archive, or estimates them from its beginning.
pub(super) async fn count(context: ReadContext<'_>) -> Result<SampleCount, ReadError> {
    let start = open_start(context, WINDOW_BYTES).await?;
    let start = collect(context, start, WINDOW_BYTES).await?;
    if start.is_empty() {
        return Err(
            context.data_error(&TarError::NotATar { looks_like: crate::tar::LooksLike::Empty }.to_string())
        );
    }
    if context.settings.format == InputFormat::Auto && start.starts_with(PARQUET_MAGIC) {
        return rows::count(context).await;
    }
    if start.len() < BLOCK_BYTES
        && let Some(what) = sniff::not_a_tar(&start)
    {
        return Err(context.data_error(&what));
    }
    let stream = Decompressor::detect(&start).map_err(|e| unpack_error(context, &e))?;
    let is_whole = start.len() as u64 >= context.shard.size();
    if stream.is_compressed() || !(is_whole || has_ranges(context).await?) {
        count_streamed(context, stream).await
    } else {
        count_plain(context, start).await
    }
}

fn unpack_error(context: ReadContext<'_>, error: &std::io::Error) -> ReadError {
    context.data_error(&format!("cannot be unpacked: {error}"))
}

/// The samples of an archive so far.
struct Headers {
    parser: TarParser,
    assembler: Assembler,
    samples: u64,
    /// Bytes of the archive up to the end of the last complete sample.
    bytes: u64,
    damage: Option<TarError>,
}

impl Headers {
    fn new() -> Self {
        // Every member is too large to be kept.
        let parser = TarParser::new(TarLimits { max_member_bytes: 0 });
        Self { parser, assembler: Assembler::new(), samples: 0, bytes: 0, damage: None }
    }

    /// Counts the samples that the next bytes complete.
    ///
    /// # Errors
    /// When it is not a tar.
    fn push(&mut self, bytes: Bytes) -> Result<(), TarError> {
        self.parser.push(bytes);
        loop {
            match self.parser.next_member() {
                Ok(Some(member)) => {
                    let start = member.offset;
                    if self.assembler.push(member).is_some() {
                        self.samples += 1;
                        self.bytes = start;
                    }
                }
                Ok(None) => return Ok(()),
                Err(error @ TarError::NotATar { .. }) => return Err(error),
                Err(error) => {
                    self.damage = Some(error);
                    return Ok(());
                }
            }
        }
    }

    /// Returns whether no further bytes can add a sample.
    fn is_over(&self) -> bool {
        self.damage.is_some() || self.parser.has_ended()
    }

    /// Ends the count at the end of the archive, as a run does: what is damaged at its end is one sample more.
    fn finish(mut self) -> Result<SampleCount, TarError> {
        let (damage, cut) = match (&self.damage, self.parser.finish()) {
            (Some(error), _) => (Some(error.to_string()), None),
            (None, Ok(TarEnd::Truncated { cut, .. })) => {
                (Some(format!("the tar ends too early: {cut}")), Some(cut))
            }
            (None, Ok(TarEnd::Clean { .. })) => (None, None),
            (None, Err(error)) => return Err(error),
        };
        let (last, _) = last_sample(&mut self.assembler, damage.is_some(), cut.as_ref());
        let samples = self.samples + u64::from(last.is_some()) + u64::from(damage.is_some());
        Ok(SampleCount { damage, ..SampleCount::exact(samples, CountMethod::ArchiveHeaders) })
    }

    /// Estimates the samples of an archive of `size` bytes of which `read` were seen.
    fn estimate(&self, read: u64, size: u64) -> SampleCount {
        // A first sample that has not ended yet counts as one.
        let (samples, bytes) = if self.samples > 0 { (self.samples, self.bytes) } else { (1, read) };
        SampleCount::estimate(extrapolate(samples, bytes, size), CountMethod::ArchiveHeaders)
    }
}

async fn count_plain(context: ReadContext<'_>, start: Bytes) -> Result<SampleCount, ReadError> {
    let failed = |error: TarError| context.data_error(&error.to_string());
    let size = context.shard.size();
    let (mut headers, mut at) = (Headers::new(), start.len() as u64);
    headers.push(start).map_err(failed)?;
    let window = if size <= MAX_WHOLE_BYTES { size } else { WINDOW_BYTES };
    let mut windows = 1;
    while !headers.is_over() {
        at += headers.parser.jump(size - at);
        if at >= size {
            break;
        }
        if windows == MAX_WINDOWS {
            return Ok(headers.estimate(at, size));
        }
        let end = size.min(at + window);
        let bytes = collect(context, open::open_range(context, at..end).await?, end - at).await?;
        (at, windows) = (end, windows + 1);
        headers.push(bytes).map_err(failed)?;
    }
    // What was jumped over last may complete a member.
    headers.push(Bytes::new()).map_err(failed)?;
    headers.finish().map_err(failed)
}

async fn count_streamed(
    context: ReadContext<'_>,
    mut stream: Decompressor,
) -> Result<SampleCount, ReadError> {
    let failed = |error: TarError| context.data_error(&error.to_string());
    let size = context.shard.size();
    let mut pieces = open_start(context, MAX_STREAMED_BYTES).await?;
    let (mut headers, mut packed_bytes) = (Headers::new(), 0);
    while packed_bytes < MAX_STREAMED_BYTES
        && !headers.is_over()
        && let Some(mut packed) = open::next(&mut pieces, context).await?
    {
        packed_bytes += packed.len() as u64;
        while !packed.is_empty() && !headers.is_over() {
            let bytes = stream.next(&mut packed).map_err(|e| unpack_error(context, &e))?;
            headers.push(bytes).map_err(failed)?;
            tokio::task::yield_now().await;
        }
    }
    if packed_bytes < size && !headers.is_over() {
        // Of the bytes that were unpacked, those up to the last complete sample.
        let unpacked = headers.parser.received();
        let share = headers.bytes as f64 / unpacked.max(1) as f64;
        let (samples, bytes) = match headers.samples {
            0 => (1, packed_bytes),
            samples => (samples, (packed_bytes as f64 * share) as u64),
        };
        return Ok(SampleCount::estimate(extrapolate(samples, bytes, size), CountMethod::ArchiveHeaders));
    }
    while !headers.is_over() {
        let bytes = stream.finish().map_err(|e| unpack_error(context, &e))?;
        if bytes.is_empty() {
            break;
        }
        headers.push(bytes).map_err(failed)?;
    }
    headers.finish().map_err(failed)
}

#[cfg(test)]
mod tests {
    use recaption_store::Stores;

    use super::*;
    use crate::{
        read::{count_samples, settings::ReadSettings},
        shards::list_shards,
    };

    /// A tar of `samples` samples, each an image of `image_bytes` and a caption.
    fn tar_of(samples: usize, image_bytes: usize) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for sample in 0..samples {
            for (suffix, bytes) in [("jpg", vec![b'x'; image_bytes]), ("txt", b"a caption".to_vec())] {
                let mut header = tar::Header::new_ustar();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                tar.append_data(&mut header, format!("{sample:05}.{suffix}"), bytes.as_slice())
                    .expect("a member");
            }
        }
        tar.into_inner().expect("a tar")
    }

    async fn counted(name: &str, bytes: &[u8]) -> Result<SampleCount, ReadError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        let settings = ReadSettings::default();
        let patterns = [path.display().to_string()];
        let shards = list_shards(&mut Stores::default(), &patterns, settings.format).await.expect("a shard");
        count_samples(&shards[0], &settings).await
    }

    #[tokio::test]
    async fn small_and_few_large_samples_are_counted() {
        for (samples, image_bytes) in [(1, 10), (300, 700), (9, 1 << 20), (40, 200_000)] {
            let count = counted("a.tar", &tar_of(samples, image_bytes)).await.expect("a count");
            assert_eq!((count.samples, count.is_exact), (samples as u64, true), "{samples} of {image_bytes}");
            assert_eq!(count.damage, None);
        }
    }

    #[tokio::test]
    async fn long_archives_are_estimated() {
        let tar = tar_of(400, 100_000);
        let count = counted("a.tar", &tar).await.expect("a count");
        assert!(!count.is_exact && (396..=404).contains(&count.samples), "{count:?}");
        let mut packed = zstd::encode_all(tar.as_slice(), 1).expect("zstd");
        let count = counted("a.tar.zst", &packed).await.expect("a count");
        assert_eq!((count.samples, count.is_exact), (400, true), "all of it fits the bound");
        packed.truncate(packed.len() / 2);
        assert!(counted("a.tar.zst", &packed).await.expect_err("cut").to_string().contains("unpacked"));
    }

    #[tokio::test]
    async fn damage_counts_as_in_a_run() {
        let tar = tar_of(5, 2_000);
        let sample = tar.len() / 5;
        let count = counted("a.tar", &tar[..3 * sample + 900]).await.expect("a count");
        assert!(count.damage.is_some() && count.samples == 4, "{count:?}");
        let error = counted("a.tar", b"<html>not a tar</html>").await.expect_err("HTML").to_string();
        assert!(error.contains("HTML"), "{error}");
        assert!(counted("a.tar", b"").await.is_err());
    }
}
