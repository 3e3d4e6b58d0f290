//! The sections about models and captions.

use recaption_config::{TextList, section};
use recaption_onnx::caption::{BeamSettings, SampleSettings};

use super::{DeviceList, EarlyStoppingName, ProviderName, StrategyName};

/// Candidates that are matched. With a BLIP of base size, an image's keys and values cost 16 GFLOP and a candidate of 16 ids 3.5, where
/// its two image encoders take 222: four candidates add an eighth, and more are seldom told apart by similarity alone.
const DEFAULT_ITM_TOP_K: usize = 4;

section! {
    /// `[model]`
    pub struct ModelSection {
        /// Model folder made by `recaption export`.
        #[schemars(extend("x-required" = true, "x-flag" = "--model MODEL"))]
        pub captioner: String = String::new(),
        /// Model folder of the scorer, which computes similarity: a CLIP, a SigLIP, an ALBEF, a BLIP that scores or another CoCa.
        #[schemars(extend("x-default" = "the captioner", "x-flag" = "--scorer MODEL"))]
        pub scorer: String = String::new(),
        /// Execution provider; `auto` uses CUDA if it works, else the CPU.
        #[schemars(extend("x-flag" = "--provider PROVIDER"))]
        pub provider: ProviderName = ProviderName::Auto,
        /// GPU numbers, such as `0` or `0,1,2`, or `all`; a run puts one captioner on each, other commands use the first.
        #[schemars(extend("x-default" = "0", "x-expected" = "GPU numbers or \"all\"", "x-flag" = "--device N"))]
        pub device: DeviceList = DeviceList::default(),
        /// Whether decoding steps on a GPU are captured as CUDA graphs and replayed, which saves kernel launches.
        pub cuda_graphs: bool = true,
        /// Copies of the model that work side by side; 0 chooses by model size on a CPU, and one on a GPU.
        #[schemars(range(min = 0, max = 1024))]
        pub sessions: usize = 0,
    }
}

section! {
    /// `[caption]`
    pub struct CaptionSection {
        /// How tokens are chosen.
        pub strategy: StrategyName = StrategyName::Greedy,
        /// Number of beams, for strategy `beam`.
        #[schemars(range(min = 1, max = 64))]
        pub beams: usize = BeamSettings::default().beams,
        /// Captions per image, of which the most similar is chosen; at most `caption.beams` for `beam`, and 1 for `greedy`.
        #[schemars(range(min = 1, max = 256))]
        pub candidates: usize = 1,
        /// Temperature, for strategy `sample`.
        #[schemars(range(min = 1e-6, max = 1e6))]
        pub temperature: f64 = f64::from(SampleSettings::default().temperature),
        /// Tokens that are sampled from, the most probable first, for strategy `sample`; 0 is all.
        #[schemars(range(min = 0), extend("x-unit" = "tokens"))]
        pub top_k: usize = SampleSettings::default().top_k,
        /// Probability mass that is sampled from, for strategy `sample`.
        #[schemars(range(min = 1e-9, max = 1.0))]
        pub top_p: f64 = f64::from(SampleSettings::default().top_p),
        /// Penalty on tokens that were already generated, for strategy `sample`; 1 is off.
        #[schemars(range(min = 1e-6, max = 1e6))]
        pub repetition_penalty: f64 = f64::from(SampleSettings::default().repetition_penalty),
        /// Exponent of the length in beam scores, for strategy `beam`.
        #[schemars(range(min = -100.0, max = 100.0))]
        pub length_penalty: f64 = f64::from(BeamSettings::default().length_penalty),
        /// When `beam` stops: `false` by Hugging Face's heuristic, `true` once there are as many finished captions as beams,
        /// `never` when no unfinished beam can win at any length.
        pub early_stopping: EarlyStoppingName = EarlyStoppingName::Heuristic,
        /// Fewest tokens before the end token.
        #[schemars(range(min = 0), extend("x-unit" = "tokens"))]
        pub min_tokens: usize = 1,
        /// Most generated tokens, end token included.
        #[schemars(range(min = 1), extend("x-unit" = "tokens", "x-default" = "context length - 1"))]
        pub max_tokens: Option<usize> = None,
        /// Text that the model is given as the beginning of every caption.
        pub prompt: String = String::new(),
        /// Whether captions begin with the prompt.
        pub keep_prompt: bool = false,
    }
}

section! {
    /// `[score]`
    pub struct ScoreSection {
        /// Candidates of an image, the most similar first, that a scorer with a matching head (ITM) matches with it: the one that matches best is chosen; 0 turns matching off.
        #[schemars(range(min = 0, max = 256))]
        pub itm_top_k: usize = DEFAULT_ITM_TOP_K,
        /// Whether such a scorer matches the original caption too, which adds the column `org_itm`.
        pub match_original: bool = false,
    }
}

section! {
    /// `[filter]`
    pub struct FilterSection {
        /// Captions whose similarity to the image is lower are rejected.
        #[schemars(range(min = -1.0, max = 1.0), extend("x-default" = "off", "x-flag" = "--min-similarity X"))]
        pub min_similarity: Option<f64> = None,
        /// Captions whose probability of matching the image (`itm`) is lower are rejected; for a scorer with a matching head.
        #[schemars(range(min = 0.0, max = 1.0), extend("x-default" = "off"))]
        pub min_itm: Option<f64> = None,
    }
}

section! {
    /// `[rules]`
    pub struct RulesSection {
        /// Fewest words.
        #[schemars(range(min = 0), extend("x-unit" = "words", "x-default" = "off"))]
        pub min_words: Option<usize> = None,
        /// Most words.
        #[schemars(range(min = 1), extend("x-unit" = "words", "x-default" = "off"))]
        pub max_words: Option<usize> = None,
        /// Fewest characters.
        #[schemars(range(min = 0), extend("x-unit" = "characters", "x-default" = "off"))]
        pub min_chars: Option<usize> = None,
        /// Most characters.
        #[schemars(range(min = 1), extend("x-unit" = "characters", "x-default" = "off"))]
        pub max_chars: Option<usize> = None,
        /// Most times that any n-gram of words may occur.
        #[schemars(range(min = 1), extend("x-default" = "off"))]
        pub max_repeats: Option<usize> = None,
        /// Length of the n-grams of `rules.max_repeats`.
        #[schemars(range(min = 1, max = 64), extend("x-unit" = "words", "x-default" = "3"))]
        pub ngram: Option<usize> = None,
        /// Whole words and phrases that may not occur, in any case.
        pub banned_words: TextList = TextList::default(),
        /// Whether file names, URLs, camera names, codes and texts without a letter are rejected.
        pub junk: bool = false,
        /// Whether of equal candidates only the best may be chosen.
        pub duplicates: bool = false,
    }
}
