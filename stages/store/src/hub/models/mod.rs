//! Models on the Hugging Face hub, downloaded into the cache that huggingface_hub uses too: `hf://ORG/NAME[@REVISION]`.
//!
//! A revision is resolved to its commit by one request, which also lists the files; every file is of that commit. What the
//! cache has is not requested again, whoever downloaded it. Without a connection, or with `HF_HUB_OFFLINE`, the commit that
//! the revision had when it was last pulled completely is taken from the cache.

mod cache;
mod download;
mod error;
mod files;
mod name;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use object_store::Error;
use serde::Deserialize;

use self::cache::HubCache;
pub use self::{
    error::PullError,
    files::{FileChoice, PullProgress, PulledFile, PulledModel},
    name::HubModel,
};
use super::{HubSettings, client::HubClient};
use crate::{ErrorKind, StoreSettings};

/// Values of `HF_HUB_OFFLINE` that mean yes, as huggingface_hub reads them.
const TRUE_VALUES: [&str; 4] = ["1", "ON", "YES", "TRUE"];

/// The hub's JSON of a model's revision.
#[derive(Deserialize)]
struct Revision {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

/// The hub's JSON of one of a model's files.
#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// Downloads models into the cache.
pub struct HubModels {
    client: HubClient,
    cache: HubCache,
    settings: StoreSettings,
    /// Why the hub is not asked: the user's wish, or that it could not be reached a moment ago.
    offline: OnceLock<String>,
}

impl std::fmt::Debug for HubModels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubModels").field("offline", &self.offline.get()).finish_non_exhaustive()
    }
}

impl HubModels {
    /// Reads the settings from an environment: those of [`HubSettings::from_lookup`]; the cache's folder from `HF_HUB_CACHE`,
    /// `HUGGINGFACE_HUB_CACHE`, `HF_HOME/hub`, `XDG_CACHE_HOME/huggingface/hub` or `~/.cache/huggingface/hub`; and
    /// `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// Returns an error for settings that cannot be used, and where no cache folder can be told.
    pub fn from_lookup(
        lookup: impl Fn(&str) -> Option<String>,
        settings: StoreSettings,
    ) -> Result<Self, PullError> {
        let hub = HubSettings::from_lookup(&lookup).map_err(PullError::Settings)?;
        let cache = HubCache::from_lookup(&lookup)?;
        let is_true =
            |name: &str| lookup(name).map(|v| TRUE_VALUES.contains(&v.trim().to_uppercase().as_str()));
        let is_offline = is_true("HF_HUB_OFFLINE").unwrap_or(false);
        let offline = OnceLock::new();
        if is_offline {
            offline.get_or_init(|| "HF_HUB_OFFLINE is set".to_owned());
        }
        let client = HubClient::new(hub, settings)
            .map_err(|source| PullError::Hub { model: "hf://".to_owned(), source })?;
        Ok(Self { client, cache, settings, offline })
    }

    /// Downloads the chosen files of a model, as far as the cache lacks them. Which commit a branch has is remembered by
    /// [`Self::remember`].
    ///
    /// # Errors
    /// Returns an error when the model, the revision or a required file does not exist or may not be read, when a download
    /// fails after retries or is not what its checksum says, when the cache cannot be written, and when it lacks the model and
    /// there is no connection.
    pub async fn pull(
        &self,
        model: &HubModel,
        choices: &[FileChoice],
        progress: &(dyn Fn(PullProgress<'_>) + Sync),
    ) -> Result<PulledModel, PullError> {
        let cached = self.cache.model(model);
        if let Some(why) = self.offline.get() {
            let commit = cached.commit(model.revision());
            let found = commit.and_then(|commit| cached.snapshot(&commit, choices));
            return found.ok_or_else(|| self.cache.offline_error(model, why));
        }
        if name::is_commit(model.revision())
            && let Some(found) = cached.snapshot(model.revision(), choices)
            && choices
                .iter()
                .all(|choice| choice.files(|file| found.files.iter().any(|f| f.name == file)).is_some())
        {
            return Ok(found);
        }
        let revision = match self.revision(model).await {
            Ok(revision) => revision,
            Err(error) => return self.without_hub(model, &cached, choices, error),
        };
        // All are chosen before the first is downloaded.
        let mut chosen = Vec::new();
        for choice in choices {
            match choice.files(|file| revision.siblings.iter().any(|sibling| sibling.rfilename == file)) {
                Some(form) => chosen.extend(form),
                None if choice.is_required => return Err(missing(model, choice, &revision)),
                None => {}
            }
        }
        let mut files = Vec::new();
        for file in chosen {
            files.push(self.file(model, &cached, &revision.sha, file, progress).await?);
        }
        Ok(PulledModel { dir: cached.snapshot_dir(&revision.sha), commit: revision.sha, files })
    }

    /// Remembers the commit of a model's revision, which is then taken without a connection. To be called once all files that
    /// are needed are in the cache: until then the commit before it works offline.
    ///
    /// # Errors
    /// Returns an error when the cache cannot be written.
    pub fn remember(&self, model: &HubModel, commit: &str) -> Result<(), PullError> {
        self.cache.model(model).write_ref(model.revision(), commit)
    }

    /// Resolves a model's revision to its commit and the list of its files.
    async fn revision(&self, model: &HubModel) -> Result<Revision, Error> {
        let parts = ["api", "models"].into_iter().chain(model.parts()).chain(["revision", model.revision()]);
        let url = self.client.url(parts)?;
        let (revision, _) = self.client.json::<Revision>(url, &model.to_string()).await?;
        if !name::is_commit(&revision.sha) {
            return Err(super::invalid_response("the revision's commit is not a hash"));
        }
        Ok(revision)
    }

    /// Takes the model from the cache where the hub cannot be reached.
    fn without_hub(
        &self,
        model: &HubModel,
        cached: &cache::CachedModel,
        choices: &[FileChoice],
        error: Error,
    ) -> Result<PulledModel, PullError> {
        if !ErrorKind::of(&error).is_retryable() {
            return Err(PullError::Hub { model: model.to_string(), source: error });
        }
        let error = crate::user_message(&error);
        let why = self.offline.get_or_init(|| format!("the hub cannot be reached ({error})"));
        let commit = cached.commit(model.revision());
        let found = commit.and_then(|commit| cached.snapshot(&commit, choices));
        let found = found.ok_or_else(|| self.cache.offline_error(model, why))?;
        tracing::warn!(%model, commit = found.commit, error, "hub cannot be reached; using the cached files");
        Ok(found)
    }
}

fn missing(model: &HubModel, choice: &FileChoice, revision: &Revision) -> PullError {
    let forms: Vec<String> = choice.forms.iter().map(|form| form.join(" with ")).collect();
    PullError::MissingFile {
        model: model.to_string(),
        wanted: forms.join(" or "),
        present: revision.siblings.iter().map(|sibling| sibling.rfilename.clone()).collect(),
    }
}
