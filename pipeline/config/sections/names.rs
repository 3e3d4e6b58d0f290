//! Values that are names, and what each means to the libraries.

use std::borrow::Cow;

use recaption_config::derive::{
    schemars::{JsonSchema, Schema, SchemaGenerator, json_schema},
    serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error},
};
use recaption_input::{captions::CaptionPick, read::InputFormat};
use recaption_onnx::{
    caption::EarlyStopping,
    runtime::{Devices, Provider},
};

/// Declares an enumeration of names, each with what it stands for.
macro_rules! names {
    ($(#[$meta:meta])* $name:ident => $target:ty { $($(#[$doc:meta])* $variant:ident = $text:literal => $value:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(crate = "recaption_config::derive::serde")]
        #[schemars(crate = "recaption_config::derive::schemars")]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// The name in the configuration.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl From<$name> for $target {
            fn from(name: $name) -> Self {
                match name { $($name::$variant => $value,)* }
            }
        }
    };
}

names! {
    /// An execution provider.
    ProviderName => Provider {
        /// CUDA if it works, else the CPU.
        Auto = "auto" => Provider::Auto,
        /// The CPU.
        Cpu = "cpu" => Provider::Cpu,
        /// NVIDIA GPUs.
        Cuda = "cuda" => Provider::Cuda,
        /// NVIDIA GPUs, with image encoders compiled by TensorRT.
        TensorRt = "tensorrt" => Provider::TensorRt,
    }
}

names! {
    /// A decoding strategy. Its settings are keys of their own.
    StrategyName => &'static str {
        /// The most probable token, always.
        Greedy = "greedy" => "greedy",
        /// Beam search.
        Beam = "beam" => "beam",
        /// Drawn at random.
        Sample = "sample" => "sample",
    }
}

names! {
    /// When a beam search stops.
    EarlyStoppingName => EarlyStopping {
        /// When the best unfinished beam, at its present length, cannot win.
        Heuristic = "false" => EarlyStopping::Heuristic,
        /// Once there are as many finished captions as beams.
        Always = "true" => EarlyStopping::Always,
        /// When no unfinished beam can win at any length.
        Never = "never" => EarlyStopping::Never,
    }
}

names! {
    /// A format of shards.
    FormatName => InputFormat {
        /// Detected shard by shard.
        Auto = "auto" => InputFormat::Auto,
        /// Tar archives, compressed or not.
        Webdataset = "webdataset" => InputFormat::Webdataset,
        /// Parquet with image bytes.
        Parquet = "parquet" => InputFormat::Parquet,
        /// Lists of URLs, whose images are fetched.
        UrlList = "url_list" => InputFormat::UrlList,
        /// Folders of image files.
        Folder = "folder" => InputFormat::Folder,
    }
}

names! {
    /// A choice among several original captions.
    PickName => CaptionPick {
        /// The first.
        First = "first" => CaptionPick::First,
        /// The one with the most characters.
        Longest = "longest" => CaptionPick::Longest,
        /// One that depends on seed and key.
        Random = "random" => CaptionPick::Random,
    }
}

names! {
    /// Whether rows carry the stored image.
    ImagesName => bool {
        /// They do not.
        None = "none" => false,
        /// They do.
        Embed = "embed" => true,
    }
}

names! {
    /// A format of the output.
    OutputFormatName => &'static str {
        /// Parquet alone.
        Parquet = "parquet" => "parquet",
        /// Parquet, and per shard a tar of images, texts and JSON.
        Webdataset = "webdataset" => "webdataset",
        /// Text files beside images: only made by `recaption convert`.
        Sidecar = "sidecar" => "sidecar",
        /// An image folder with `metadata.parquet`: only made by `recaption convert`.
        Hf = "hf" => "hf",
    }
}

/// GPU numbers: `0`, `"0,1"`, `[0, 1]` or `"all"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceList(pub Devices);

impl Serialize for DeviceList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_string())
    }
}

impl<'de> Deserialize<'de> for DeviceList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => text,
            toml::Value::Array(numbers) => {
                numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            }
            other => other.to_string(),
        };
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

impl JsonSchema for DeviceList {
    fn schema_name() -> Cow<'static, str> {
        "DeviceList".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let number = || json_schema!({ "type": "integer", "minimum": 0 });
        json_schema!({ "anyOf": [
            number(),
            { "type": "array", "items": number(), "minItems": 1, "uniqueItems": true },
            { "type": "string", "pattern": r"^\s*(all|\d+(\s*,\s*\d+)*)\s*$" },
        ] })
    }
}
