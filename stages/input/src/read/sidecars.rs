//! Captions and JSON files beside images, matched by name.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use object_store::ObjectMeta;

use super::context::ReadContext;
use crate::{
    shards::{FileRole, FolderFiles},
    webdataset::{CAPTION_SUFFIXES, JSON_SUFFIX, split_stem},
};

/// Most suffixes that are logged for a role.
const MAX_LOGGED_SUFFIXES: usize = 12;

/// The captions and JSON files of a folder.
pub(super) struct Sidecars<'a> {
    /// By stem and suffix, the suffix in lower case.
    by_name: HashMap<(String, String), &'a ObjectMeta>,
    used: HashSet<(String, String)>,
    /// Suffixes in use, by role.
    suffixes: BTreeMap<&'static str, BTreeSet<String>>,
}

impl<'a> Sidecars<'a> {
    /// Collects the sidecars of a folder.
    pub(super) fn of_folder(files: &'a FolderFiles) -> Self {
        let sidecars = files.files.iter().filter(|(role, _)| *role == FileRole::Sidecar);
        let by_name = sidecars.map(|(_, meta)| {
            let (stem, suffix) = split_stem(meta.location.filename().unwrap_or_default());
            ((stem.to_owned(), suffix), meta)
        });
        let by_name = by_name.collect();
        Self { by_name, used: HashSet::new(), suffixes: BTreeMap::new() }
    }

    /// Returns the caption and the JSON file of an image.
    pub(super) fn of_image(&mut self, image: &str) -> (Option<ObjectMeta>, Option<ObjectMeta>) {
        let (stem, suffix) = split_stem(image);
        self.suffixes.entry("image").or_default().insert(suffix);
        let mut find = |role: &'static str, suffixes: &[&str]| {
            for stem in [image, stem] {
                for suffix in suffixes {
                    let name = (stem.to_owned(), (*suffix).to_owned());
                    let Some(meta) = self.by_name.get(&name) else { continue };
                    self.used.insert(name);
                    self.suffixes.entry(role).or_default().insert((*suffix).to_owned());
                    return Some((*meta).clone());
                }
            }
            None
        };
        (find("caption", &CAPTION_SUFFIXES), find("meta", &[JSON_SUFFIX]))
    }

    /// Counts the files that belong to no image, and logs which suffixes are used. `metadata_files` is the number of metadata
    /// files that describe the folder.
    pub(super) fn close(self, context: ReadContext<'_>, metadata_files: usize) {
        let unused = self.by_name.len() - self.used.len();
        context.counts.update(|counts| counts.ignore("text or JSON without an image", unused as u64));
        let role = |role: &str| match self.suffixes.get(role) {
            Some(suffixes) => {
                let listed: Vec<String> =
                    suffixes.iter().take(MAX_LOGGED_SUFFIXES).map(|s| format!(".{s}")).collect();
                format!("{role}={}", listed.join(", "))
            }
            None => format!("{role}=none"),
        };
        let (image, caption, meta) = (role("image"), role("caption"), role("meta"));
        let used = format!("{image} {caption} {meta} metadata files={metadata_files}");
        context.settings.usage_log.log("folder", &used);
    }
}
