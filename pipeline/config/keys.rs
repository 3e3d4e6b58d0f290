//! Every configuration key, once: its name, type, default and meaning. The README's table is checked against it.

/// What a key's value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A string.
    Text,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// A string or a list of strings.
    TextList,
    /// A whole number in this range.
    Integer(i64, i64),
    /// A number in this range.
    Real(f64, f64),
    /// `true` or `false`.
    Flag,
    /// A GPU's number, a list of numbers (`[0, 1]`, `"0,1"`), or `"all"`.
    Devices,
}

/// A configuration key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// Default, as the documentation says it.
    pub default: &'static str,
    /// Meaning.
    pub help: &'static str,
}

const fn key(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key { name, kind, default, help }
}

const ANY: i64 = i64::MAX;

/// All keys, in the order of the documentation.
pub const KEYS: &[Key] = &[
    key("model.captioner", Kind::Text, "required", "model folder made by `recaption export`"),
    key(
        "model.scorer",
        Kind::Text,
        "the captioner",
        "model folder that judges similarity, a CLIP or another CoCa",
    ),
    key(
        "model.provider",
        Kind::Choice(&["auto", "cpu", "cuda", "tensorrt"]),
        "auto",
        "what computes; `auto` is cuda where everything for it is there, else cpu",
    ),
    key(
        "model.device",
        Kind::Devices,
        "0",
        "numbers of the GPUs, such as `0` or `0,1,2`, or `all`: each gets a captioner",
    ),
    key(
        "model.cuda_graphs",
        Kind::Flag,
        "true",
        "whether decoding steps on a GPU are captured once and replayed, which saves their launches",
    ),
    key(
        "model.sessions",
        Kind::Integer(0, 1024),
        "0",
        "copies of the model that work side by side; 0 chooses by its size, on a GPU one",
    ),
    key("caption.strategy", Kind::Choice(&["greedy", "beam", "sample"]), "greedy", "how tokens are chosen"),
    key("caption.beams", Kind::Integer(1, 64), "6", "beams of `beam`"),
    key(
        "caption.candidates",
        Kind::Integer(1, 256),
        "1",
        "captions per image, the most similar is chosen; at most the beams for `beam`",
    ),
    key("caption.temperature", Kind::Real(1e-6, 1e6), "1.0", "temperature of `sample`"),
    key("caption.top_k", Kind::Integer(0, ANY), "0", "tokens that `sample` chooses from; 0 is all"),
    key("caption.top_p", Kind::Real(1e-9, 1.0), "1.0", "probability mass that `sample` chooses from"),
    key(
        "caption.repetition_penalty",
        Kind::Real(1e-6, 1e6),
        "1.0",
        "penalty on tokens already said, `sample`",
    ),
    key("caption.length_penalty", Kind::Real(-100.0, 100.0), "1.0", "exponent of the length in beam scores"),
    key(
        "caption.early_stopping",
        Kind::Choice(&["false", "true", "never"]),
        "false",
        "when `beam` ends: `false` by Hugging Face's rule, `true` with as many ends as beams, `never` when nothing can win any more",
    ),
    key("caption.min_tokens", Kind::Integer(0, ANY), "1", "fewest tokens before the end token"),
    key(
        "caption.max_tokens",
        Kind::Integer(1, ANY),
        "context - 1",
        "most generated tokens, end token included",
    ),
    key("caption.prompt", Kind::Text, "empty", "text that the model is given as the caption's beginning"),
    key("caption.keep_prompt", Kind::Flag, "false", "whether captions begin with the prompt"),
    key("filter.min_similarity", Kind::Real(-1.0, 1.0), "off", "captions below this similarity are rejected"),
    key("rules.min_words", Kind::Integer(0, ANY), "off", "fewest words of a chosen caption"),
    key("rules.max_words", Kind::Integer(1, ANY), "off", "most words"),
    key("rules.min_chars", Kind::Integer(0, ANY), "off", "fewest characters"),
    key("rules.max_chars", Kind::Integer(1, ANY), "off", "most characters"),
    key("rules.max_repeats", Kind::Integer(1, ANY), "off", "most times that any n-gram of words may occur"),
    key("rules.ngram", Kind::Integer(1, 64), "3", "words of an n-gram of `rules.max_repeats`"),
    key(
        "rules.banned_words",
        Kind::TextList,
        "none",
        "whole words and phrases that may not occur, in any case",
    ),
    key(
        "rules.junk",
        Kind::Flag,
        "false",
        "refuses file names, addresses, camera names, codes, texts without a letter",
    ),
    key("rules.duplicates", Kind::Flag, "false", "of equal candidates only the best may be chosen"),
    key(
        "input.shards",
        Kind::TextList,
        "required",
        "URLs, paths, `{00000..00099}` ranges, globs, folders, `@FILE` with one of these per line",
    ),
    key(
        "input.format",
        Kind::Choice(&["auto", "webdataset", "parquet", "url_list", "folder"]),
        "auto",
        "what the shards are; `auto` detects it from name and first bytes, and the log says what was chosen",
    ),
    key(
        "input.image_column",
        Kind::Text,
        "auto",
        "column of image bytes in Parquet; `auto` is `image`, `jpg` and their like",
    ),
    key(
        "input.caption_column",
        Kind::Text,
        "auto",
        "column of the original caption; `auto` is `caption`, `text`, `txt`, `alt_text`, `captions`, in any case",
    ),
    key(
        "input.caption_pick",
        Kind::Choice(&["first", "longest", "random"]),
        "first",
        "which of several original captions is taken; `random` by `run.seed` and the key; all stay in `meta`",
    ),
    key(
        "input.url_column",
        Kind::Text,
        "auto",
        "column of the image's address; `auto` is `url`, `image_url`, in any case",
    ),
    key(
        "input.key_column",
        Kind::Text,
        "auto",
        "column that declares keys; `auto` is `key`, `__key__`; without one the image's path, else the row's number",
    ),
    key(
        "input.image_suffixes",
        Kind::TextList,
        "none",
        "which of several images of one webdataset sample is captioned: suffixes, the best first, before the usual order",
    ),
    key(
        "input.rows_per_shard",
        Kind::Integer(0, ANY),
        "10000",
        "rows of a list of addresses that make one shard; 0 splits no list",
    ),
    key(
        "input.max_pixels",
        Kind::Integer(1, ANY),
        "89478485",
        "largest width x height; more is rejected unread",
    ),
    key("input.min_side", Kind::Integer(0, 1 << 20), "0", "smallest shorter side, pixels"),
    key("input.exif_orientation", Kind::Flag, "true", "whether images are turned upright before captioning"),
    key(
        "input.max_member_bytes",
        Kind::Integer(1, ANY),
        "268435456",
        "largest archive member that is read, bytes",
    ),
    key("input.concurrent_shards", Kind::Integer(1, 1024), "2", "shards read at the same time"),
    key(
        "input.buffer_bytes",
        Kind::Integer(1 << 20, ANY),
        "268435456",
        "image bytes held between reading and decoding",
    ),
    key(
        "input.decode_bytes",
        Kind::Integer(1 << 20, ANY),
        "1073741824",
        "memory for images in decoding, all threads together; others wait, and one that needs more alone is rejected",
    ),
    key(
        "fetch.timeout_seconds",
        Kind::Real(0.1, 3600.0),
        "20",
        "of lists of addresses: seconds for one attempt at an image",
    ),
    key("fetch.retries", Kind::Integer(0, 100), "2", "further attempts where another may go better"),
    key("fetch.concurrency", Kind::Integer(1, 4096), "64", "images fetched at the same time, of all lists"),
    key("fetch.per_host", Kind::Integer(1, 4096), "8", "requests to one host at the same time, of all lists"),
    key(
        "fetch.max_bytes",
        Kind::Integer(1, ANY),
        "33554432",
        "largest image that is fetched, bytes; so many times `fetch.concurrency` may be in memory",
    ),
    key("fetch.user_agent", Kind::Text, "recaption/VERSION", "how the program calls itself"),
    key(
        "fetch.allow_private",
        Kind::Flag,
        "false",
        "whether addresses of the own network may be asked, also after redirects",
    ),
    key(
        "fetch.opt_out",
        Kind::TextList,
        "noai, noimageai, noindex, noimageindex",
        "directives of `X-Robots-Tag` on which an image is left alone; an empty list asks nobody",
    ),
    key("output.url", Kind::Text, "required", "folder or bucket prefix of the output"),
    key("output.images", Kind::Choice(&["none", "embed"]), "none", "whether rows carry the stored image"),
    key("output.format", Kind::Choice(&["parquet"]), "parquet", "what the output is"),
    key("run.seed", Kind::Integer(0, ANY), "0", "seed of sampling"),
    key("run.threads", Kind::Integer(1, 4096), "all cores", "threads that decode images and run the model"),
    key(
        "run.batch_size",
        Kind::Integer(1, 4096),
        "32, on a GPU 256",
        "images decoded together by one copy of the model",
    ),
    key(
        "run.cache_bytes",
        Kind::Integer(1 << 20, ANY),
        "4 GiB",
        "memory for attention caches, all copies of the model together; fewer images are decoded together when it is short",
    ),
    key(
        "run.max_failure_ratio",
        Kind::Real(0.0, 1.0),
        "0.5",
        "share of failed samples, of at least 1,000 and in more than one shard, beyond which the run stops; 1 is off",
    ),
    key(
        "run.self_test",
        Kind::Flag,
        "true",
        "whether a GPU must compute what the CPU computes before a run begins",
    ),
    key(
        "run.lock_seconds",
        Kind::Integer(1, 86_400),
        "600",
        "with `--lock` on a bucket: seconds after which the lock of a run that is not heard of any more is past",
    ),
    key(
        "run.claim_seconds",
        Kind::Integer(0, 86_400),
        "20",
        "seconds after which the shards of a worker that is not heard of any more are others' to do; 0 shares nothing out",
    ),
    key("store.retries", Kind::Integer(0, 100), "8", "further attempts at a request that may go better"),
    key(
        "store.timeout_seconds",
        Kind::Real(0.1, 3600.0),
        "30",
        "seconds in which an answer of a store, or the next bytes of one, are due",
    ),
    key(
        "store.min_bytes_per_second",
        Kind::Integer(0, ANY),
        "1024",
        "least throughput of what is read, over `store.timeout_seconds`; slower reads are retried, and fail like silent connections",
    ),
];

/// The key of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.name == name)
}

/// The known key that a mistyped one most likely means.
#[must_use]
pub fn nearest(name: &str) -> &'static str {
    let last = |n: &str| n.rsplit('.').next().unwrap_or_default().to_owned();
    // A right key in a wrong section is nearer than a wrong key in a right one.
    KEYS.iter()
        .max_by(|a, b| {
            let score = |k: &Key| {
                strsim::jaro_winkler(k.name, name)
                    .max(0.98 * strsim::jaro_winkler(&last(k.name), &last(name)))
            };
            score(a).total_cmp(&score(b))
        })
        .map_or("", |k| k.name)
}
