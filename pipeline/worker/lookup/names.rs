//! What a request names: a place in a store, and which part of it.

use std::collections::HashMap;

use recaption_input::{
    format::InputFormat,
    shards::{is_folder, secret_urls},
};
use recaption_schemas::{part_url, redact_url};
use recaption_store::{Location, StoreError, StoreKind, Stores};

use crate::{config::InputConfig, run::RunReport};

/// Separates a list's URL from the number of a part.
const PART: &str = "#part=";
/// Number of open stores from which on those of presigned URLs are closed.
const MAX_OPEN_STORES: usize = 64;

/// A shard by its name; nothing was looked up yet.
#[derive(Clone, Debug)]
pub(in crate::worker) struct NamedShard {
    /// Its object, its list, or its folder.
    pub location: Location,
    /// Number of the part of a list; 0 too for what is not one.
    pub part: usize,
    /// Whether it is a folder of images.
    pub is_folder: bool,
}

impl NamedShard {
    /// Returns the canonical URL, redacted, as commit records have it.
    pub(in crate::worker) fn url(&self) -> String {
        let url = self.location.url();
        if self.is_folder { format!("{}/", url.trim_end_matches('/')) } else { part_url(&url, self.part) }
    }
}

/// Finds the place that a request names.
#[derive(Debug)]
pub(in crate::worker) struct Names {
    stores: Stores,
    /// URLs of the configured inputs that have secrets, by their redacted form.
    secrets: HashMap<String, String>,
    format: InputFormat,
}

impl Names {
    /// Takes the secrets of the configured inputs, whose shards are named without them.
    ///
    /// # Errors
    /// A file of patterns that cannot be read, or a malformed range.
    pub(in crate::worker) async fn new(mut stores: Stores, input: &InputConfig) -> anyhow::Result<Self> {
        let secrets = secret_urls(&mut stores, &input.shards).await?;
        Ok(Self { stores, secrets, format: input.read.format })
    }

    /// Returns the place that `shard`, a URL or path, names.
    ///
    /// # Errors
    /// An unknown scheme, a malformed URL, or a store that cannot be opened.
    pub(in crate::worker) fn locate(&mut self, shard: &str) -> Result<NamedShard, StoreError> {
        if self.stores.open_stores() > MAX_OPEN_STORES {
            self.stores.close_unused_presigned();
        }
        let (url, part) = split_part(shard);
        let is_plain = redact_url(url) == url;
        let url = self.secrets.get(url).filter(|_| is_plain).map_or(url, String::as_str);
        let location = self.stores.locate(url)?;
        let is_folder = part == 0
            && location.kind != StoreKind::Http
            && (is_folder(url) || self.format == InputFormat::Folder);
        Ok(NamedShard { location, part, is_folder })
    }

    /// Notes in the worker's report how many requests to stores were retried.
    pub(in crate::worker) fn finish(&self, report: &mut RunReport) {
        report.requests_retried = self.stores.retried();
    }
}

/// Splits off the number of a part. A file on this machine whose name looks like one is that file.
fn split_part(shard: &str) -> (&str, usize) {
    let part = shard.rsplit_once(PART).and_then(|(list, number)| {
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        Some((list, number.parse().ok().filter(|_| is_number)?))
    });
    let is_file = || !shard.contains("://") && std::path::Path::new(shard).exists();
    part.filter(|_| !is_file()).unwrap_or((shard, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(secrets: &[(&str, &str)]) -> Names {
        let secrets = secrets.iter().map(|(url, secret)| ((*url).to_owned(), (*secret).to_owned()));
        Names { stores: Stores::default(), secrets: secrets.collect(), format: InputFormat::Auto }
    }

    fn url(shard: &str) -> String {
        names(&[]).locate(shard).expect("a shard").url()
    }

    #[test]
    fn one_shard_has_one_url() {
        assert_eq!(url("/data/../data/a.tar"), "file:///data/a.tar");
        assert_eq!(url("file:///data/a.tar"), "file:///data/a.tar");
        assert_eq!(url("https://u:p@h.example/a.tar?sig=s"), "https://h.example/a.tar");
        assert_eq!(url("/data/l.csv#part=12"), "file:///data/l.csv#part=12");
        assert_eq!(url("/data/l.csv#part=0"), "file:///data/l.csv");
        assert_eq!(url("/data/photos/"), "file:///data/photos/");
        assert_eq!(url("https://h.example/l.csv?sig=s#part=3"), "https://h.example/l.csv#part=3");
    }

    #[test]
    fn relative_paths_start_in_the_working_directory() {
        let directory = std::env::current_dir().expect("a directory");
        assert_eq!(url("in/a.tar"), url(&directory.join("in/a.tar").display().to_string()));
    }

    #[test]
    fn secrets_of_the_configuration_are_added() {
        let mut names = names(&[("https://h.example/a.tar", "https://h.example/a.tar?sig=s")]);
        let [plain, other, signed] =
            ["https://h.example/a.tar", "https://h.example/b.tar", "https://h.example/a.tar?sig=s"]
                .map(|url| names.locate(url).expect("a shard").location.store);
        assert!(std::sync::Arc::ptr_eq(&plain, &signed), "it is opened with its signature");
        assert!(!std::sync::Arc::ptr_eq(&plain, &other));
    }

    #[test]
    fn unknown_schemes_are_no_places() {
        assert!(names(&[]).locate("ftp://h/a.tar").is_err());
    }
}
