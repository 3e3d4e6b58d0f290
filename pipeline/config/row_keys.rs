//! Which settings change rows, as the claim and the records of an output hold them.

use std::collections::BTreeMap;

use recaption_input::{captions::CaptionPick, fetch::FetchSettings, read::ROWS_PER_SHARD};

use super::{
    RunConfig,
    sections::{ImagesName, OutputFormatName},
};

impl RunConfig {
    /// Settings that are no row keys and yet may be why a sample is rejected, with their values: when one changes, a retry
    /// processes such samples again ([`RejectReason::setting`](recaption_schemas::RejectReason::setting)).
    #[must_use]
    pub fn reject_settings(&self) -> BTreeMap<String, String> {
        let fetch = self.input.read.fetcher.as_ref().map(|fetcher| fetcher.settings());
        let values = fetch.into_iter().flat_map(|fetch| {
            [
                ("fetch.allow_private", fetch.allow_private.to_string()),
                ("fetch.max_bytes", fetch.max_bytes.to_string()),
            ]
        });
        let decode = ("input.decode_bytes", self.input.decode.budget_bytes.to_string());
        values.chain([decode]).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The keys that change rows, with their values: two runs may share an output only if these are equal. Keys that a
    /// strategy does not read, and those that only change speed, are not among them; nor is the execution provider, whose
    /// floats agree but for rounding: the record of the run names it. `itm_top_k` is 0 where nothing is matched.
    #[must_use]
    pub fn row_keys(
        &self,
        model_digest: &str,
        scorer_digest: Option<&str>,
        (max_tokens, itm_top_k): (usize, usize),
    ) -> BTreeMap<String, String> {
        let mut keys = BTreeMap::new();
        let mut put = |name: &str, value: String| keys.insert(name.to_owned(), value);
        put("model.captioner", model_digest.to_owned());
        // Absent without one, as in outputs that are older than scorers.
        if let Some(digest) = scorer_digest {
            put("model.scorer", digest.to_owned());
        }
        self.caption.put_row_keys(self.resources.seed, &mut put);
        put("caption.min_tokens", self.caption.min_tokens.to_string());
        put("caption.max_tokens", max_tokens.to_string());
        put("filter.min_similarity", self.filter.min_similarity.map_or("off".into(), |v| v.to_string()));
        // Absent without matching, as in outputs that are older than it.
        if itm_top_k > 0 {
            put("score.itm_top_k", itm_top_k.to_string());
        }
        if self.score.match_original {
            put("score.match_original", true.to_string());
        }
        if let Some(least) = self.filter.min_itm {
            put("filter.min_itm", least.to_string());
        }
        let images = if self.output.embed_images { ImagesName::Embed } else { ImagesName::None };
        put("output.images", images.as_str().into());
        // Absent by default, as in outputs that are older than these keys.
        if self.output.webdataset {
            put("output.format", OutputFormatName::Webdataset.as_str().into());
        }
        if let Some(blend) = self.output.blend {
            put("blend.synthetic", blend.synthetic.to_string());
            put("run.seed", blend.seed.to_string());
        }
        self.put_input_keys(&mut put);
        // Rules that are off are not among them: an output made before there were rules stays the same.
        for (name, value) in self.filter.rules.row_keys() {
            put(name, value);
        }
        keys
    }

    fn put_input_keys(&self, mut put: impl FnMut(&str, String) -> Option<String>) {
        let (read, decode) = (&self.input.read, &self.input.decode);
        put("input.format", read.format.as_str().into());
        // Columns that are found by their usual names are left out, as are other defaults that came later than outputs.
        if let Some(fetcher) = &read.fetcher
            && fetcher.settings().opt_out != FetchSettings::default().opt_out
        {
            put("fetch.opt_out", fetcher.settings().opt_out.join(", "));
        }
        for (name, column) in [
            ("input.image_column", &read.columns.image),
            ("input.caption_column", &read.columns.caption),
            ("input.url_column", &read.columns.url),
            ("input.key_column", &read.columns.key),
        ] {
            if let Some(column) = column {
                put(name, column.clone());
            }
        }
        if read.captions.pick != CaptionPick::default() {
            put("input.caption_pick", read.captions.pick.as_str().to_owned());
        }
        if read.captions.pick == CaptionPick::Random {
            put("run.seed", self.resources.seed.to_string());
        }
        if !read.image_suffixes.is_empty() {
            put("input.image_suffixes", read.image_suffixes.join(", "));
        }
        if read.rows_per_shard != ROWS_PER_SHARD {
            put("input.rows_per_shard", read.rows_per_shard.to_string());
        }
        put("input.max_pixels", decode.max_pixels.to_string());
        put("input.min_side", decode.min_side.to_string());
        put("input.exif_orientation", decode.exif_orientation.to_string());
        put("input.max_member_bytes", read.tar.max_member_bytes.to_string());
    }
}
