//! What all shards of a run have in common in the output.

use std::{collections::HashMap, sync::Arc};

use recaption_output::commits::Committer;
use recaption_schemas::{AddedColumns, Blend, CAPTION_SCHEMA_VERSION, metadata_keys};
use recaption_store::Location;

use super::{model::RunModel, plan::Settings, progress::WriteMeter};
use crate::config::RunConfig;

/// The output of a run.
pub(crate) struct Output {
    /// Where it is.
    pub location: Location,
    /// Commits its shards; knows the keys that change rows.
    pub committer: Committer,
    /// Settings that do not change rows and yet may cause rejects.
    pub settings: Settings,
    /// Captioner's digest.
    pub model: String,
    /// Scorer's digest, where it is not the captioner.
    pub scorer: Option<String>,
    /// Generation parameters and seed, a JSON object.
    pub decode: String,
    /// Whether the original caption is matched, so that there is a column for it.
    pub match_original: bool,
    /// Whether rows carry the stored image.
    pub embed: bool,
    /// Counts what is written.
    pub meter: Arc<WriteMeter>,
    /// Whether a webdataset is written beside the tables.
    pub webdataset: bool,
    /// The blend in the `text` column.
    pub blend: Option<Blend>,
}

impl Output {
    /// Describes the output of a run with this configuration and these models.
    #[must_use]
    pub(crate) fn new(
        config: &RunConfig,
        model: &RunModel,
        location: &Location,
        committer: Committer,
    ) -> Arc<Self> {
        let decode = generation_parameters(config, &committer);
        Arc::new(Self {
            location: location.clone(),
            committer,
            settings: config.reject_settings(),
            model: model.folder.digest.clone(),
            scorer: model.scorer.as_ref().map(|scorer| scorer.digest.clone()),
            decode: decode.to_string(),
            match_original: config.score.match_original,
            embed: config.output.embed_images,
            meter: Arc::default(),
            webdataset: config.output.webdataset,
            blend: config.output.blend,
        })
    }

    /// Returns whether rows carry the stored image on their way to the parts.
    #[must_use]
    pub(super) fn carries_images(&self) -> bool {
        self.embed || self.webdataset
    }

    /// Columns that the configuration adds to the captions part.
    #[must_use]
    pub(super) fn part_columns(&self) -> AddedColumns {
        AddedColumns { org_itm: self.match_original, image: self.embed }
    }

    /// Columns that it adds to rows on their way to the parts: with images where a webdataset alone has them.
    #[must_use]
    pub(super) fn row_columns(&self) -> AddedColumns {
        AddedColumns { image: self.carries_images(), ..self.part_columns() }
    }

    /// Key-value metadata of every part.
    #[must_use]
    pub(super) fn metadata(&self) -> HashMap<String, String> {
        let always: [(&str, &str); 3] = [
            (metadata_keys::SCHEMA_VERSION, CAPTION_SCHEMA_VERSION),
            (metadata_keys::MODEL, &self.model),
            (metadata_keys::DECODE, &self.decode),
        ];
        let scorer = self.scorer.as_deref().map(|digest| (metadata_keys::SCORER, digest));
        let blend = self.blend.map(|blend| (metadata_keys::BLEND.to_owned(), blend.to_metadata()));
        let texts = always.into_iter().chain(scorer).map(|(k, v)| (k.to_owned(), v.to_owned()));
        texts.chain(blend).collect()
    }
}

/// The `caption.*` keys that change rows, numbers as numbers, and the seed.
fn generation_parameters(config: &RunConfig, committer: &Committer) -> serde_json::Value {
    let keys = committer.configuration.iter().filter_map(|(key, value)| {
        let number: Option<serde_json::Value> =
            (key != "caption.prompt").then(|| value.parse().ok()).flatten();
        Some((key.strip_prefix("caption.")?.to_owned(), number.unwrap_or_else(|| value.as_str().into())))
    });
    serde_json::Value::Object(keys.chain([("seed".to_owned(), config.resources.seed.into())]).collect())
}
