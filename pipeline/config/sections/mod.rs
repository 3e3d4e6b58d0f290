//! Every configuration key of `recaption`, once: its name, type, unit, range, default and meaning.
//!
//! A section mirrors the configuration file, one field per key. The reference table, the JSON schema and the help texts of flags are
//! generated from here; what the sections mean together is decided in [`RunConfig::build`](super::RunConfig::build).

mod captioner;
mod input;
mod names;
mod run;

use std::sync::OnceLock;

pub use captioner::{CaptionSection, FilterSection, ModelSection, RulesSection, ScoreSection};
pub use input::{AUTO_COLUMN, FetchSection, InputSection};
pub use names::{
    DeviceList, EarlyStoppingName, FormatName, ImagesName, OutputFormatName, PickName, ProviderName,
    StrategyName,
};
pub use run::{BlendSection, OutputSection, RunSection, StoreSection};

use recaption_config::{Description, section};

section! {
    /// Configuration of `recaption`.
    pub struct Settings {
        /// The models, and the hardware that they run on.
        pub model: ModelSection = ModelSection::default(),
        /// How captions are generated.
        pub caption: CaptionSection = CaptionSection::default(),
        /// How captions are scored.
        pub score: ScoreSection = ScoreSection::default(),
        /// The thresholds that captions must reach.
        pub filter: FilterSection = FilterSection::default(),
        /// Rules on the text of a caption. All are off by default; a candidate that violates one is not chosen.
        pub rules: RulesSection = RulesSection::default(),
        /// What is read, and how.
        pub input: InputSection = InputSection::default(),
        /// How the images of URL lists are fetched.
        pub fetch: FetchSection = FetchSection::default(),
        /// What is written, and where.
        pub output: OutputSection = OutputSection::default(),
        /// Whether a blend of synthetic and original captions is written.
        pub blend: BlendSection = BlendSection::default(),
        /// How the work is done.
        pub run: RunSection = RunSection::default(),
        /// Requests to object stores and web servers that hold shards or the output.
        pub store: StoreSection = StoreSection::default(),
    }
}

impl recaption_config::Settings for Settings {
    const ENVIRONMENT: &'static str = "RECAPTION_";
    const FOREIGN_ENVIRONMENTS: &'static [&'static str] = &["RECAPTION_FINETUNE_"];

    fn description() -> &'static Description {
        static DESCRIPTION: OnceLock<Description> = OnceLock::new();
        DESCRIPTION.get_or_init(Description::of::<Self>)
    }
}
