//! The number of a shard's samples, and how it was found out.

/// How the samples of a shard were counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CountMethod {
    /// The footer of a Parquet file.
    ParquetFooter,
    /// The rows of a list.
    ListRows,
    /// The listing of a folder.
    FolderListing,
    /// The headers of an archive.
    ArchiveHeaders,
}

/// The number of a shard's samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleCount {
    /// Number of samples, rejects included.
    pub samples: u64,
    /// Whether they were counted to the end; otherwise the number is an estimate.
    pub is_exact: bool,
    /// How they were counted.
    pub method: CountMethod,
    /// Compressed bytes of the largest row group, of the columns that are read; 0 if it is not Parquet.
    pub row_group_bytes: u64,
    /// Why the shard can be read only in part, if that was seen.
    pub damage: Option<String>,
}

impl SampleCount {
    pub(super) fn exact(samples: u64, method: CountMethod) -> Self {
        Self { samples, is_exact: true, method, row_group_bytes: 0, damage: None }
    }

    pub(super) fn estimate(samples: u64, method: CountMethod) -> Self {
        Self { is_exact: false, ..Self::exact(samples, method) }
    }
}

/// Returns the number of samples of `size` bytes, where the first `bytes` held `samples`.
pub(super) fn extrapolate(samples: u64, bytes: u64, size: u64) -> u64 {
    let whole = u128::from(samples) * u128::from(size) / u128::from(bytes.max(1));
    u64::try_from(whole).unwrap_or(u64::MAX).max(1)
}
