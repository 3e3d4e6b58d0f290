//! The request of a conversion.

use recaption_schemas::Blend;
use recaption_store::StoreSettings;

/// What a trainer loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetFormat {
    /// Numbered tars with image, `.txt` and `.json` of every sample.
    Webdataset,
    /// Images, and a text file beside each.
    Sidecar,
    /// A Hugging Face image folder: images, and `metadata.parquet` in every folder.
    Hf,
    /// Numbered Parquet files.
    Parquet,
}

impl TargetFormat {
    /// Returns the name on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webdataset => "webdataset",
            Self::Sidecar => "sidecar",
            Self::Hf => "hf",
            Self::Parquet => "parquet",
        }
    }
}

/// The columns of [`TargetFormat::Parquet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnPreset {
    /// Those of the output.
    Recaption,
    /// Those of LAION's metadata.
    Laion,
    /// Those of img2dataset's metadata.
    Img2dataset,
    /// Image and text, as Hugging Face `datasets` shows them.
    Hf,
}

impl ColumnPreset {
    /// Returns the name on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recaption => "recaption",
            Self::Laion => "laion",
            Self::Img2dataset => "img2dataset",
            Self::Hf => "hf",
        }
    }
}

/// The lines of a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SidecarCaptions {
    /// The text of the row.
    Chosen,
    /// All candidates, the best first.
    All,
    /// The chosen caption and the original one.
    Both,
}

impl SidecarCaptions {
    /// Returns the name on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::All => "all",
            Self::Both => "both",
        }
    }
}

/// What a conversion reads and writes.
#[derive(Clone, Debug)]
pub struct ConvertJob {
    /// The output of a run, or of a second pass.
    pub source: String,
    /// Where the dataset is written; `None` writes sidecars beside the images.
    pub target: Option<String>,
    /// The format.
    pub format: TargetFormat,
    /// The columns of Parquet files.
    pub columns: ColumnPreset,
    /// The lines of sidecars.
    pub captions: SidecarCaptions,
    /// The suffix of sidecars, without the dot.
    pub suffix: String,
    /// Most samples in one file or folder, at least 1.
    pub rows_per_shard: u64,
    /// Draws the texts of rows; `None` takes the `text` column, or the chosen caption where there is none.
    pub blend: Option<Blend>,
    /// Where the images are, if not where the output says.
    pub inputs: Vec<String>,
    /// Converts an output whose last run did not finish.
    pub allow_partial: bool,
    /// Replaces another conversion at the target, and sidecars of other content.
    pub overwrite: bool,
    /// Timeouts and retries of all stores.
    pub stores: StoreSettings,
}

impl ConvertJob {
    /// Returns whether images are copied.
    #[must_use]
    pub fn needs_images(&self) -> bool {
        match self.format {
            TargetFormat::Webdataset | TargetFormat::Hf => true,
            TargetFormat::Sidecar => self.target.is_some(),
            TargetFormat::Parquet => self.columns == ColumnPreset::Hf,
        }
    }
}
