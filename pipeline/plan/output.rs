//! The output of a run: whether it can be written, on conditions, and who else uses it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use recaption_output::{layout::RUN_LOCK, locate_output};
use recaption_store::{Location, StoreError, StoreKind, Stores, lock_holder, probe_writes};

use super::problem::{Findings, Subject};
use crate::{config::RunConfig, run::refuse_output_among_inputs};

/// Folder of everything in an output that is not a part.
const INTERNAL: &str = "_recaption";

/// How the problem of an output begins that cannot be written.
pub(super) const UNWRITABLE: &str = "it cannot be written";

/// Finds the output and writes a small object there, which is deleted; `None` if there is no such place.
pub(super) async fn find_output(
    stores: &mut Stores,
    config: &RunConfig,
    findings: &mut Findings,
) -> Option<Location> {
    if config.output.url.is_empty() {
        return None;
    }
    let output = match locate_output(stores, &config.output.url) {
        Ok(output) => output,
        Err(error) => {
            let (place, what) = parts_of(&error);
            findings.add(Subject::Output, place, what, "give a folder or a bucket prefix as output.url");
            return None;
        }
    };
    if let Err(error) = refuse_output_among_inputs(stores, config, &output) {
        findings.add(Subject::Output, output.url(), error.to_string(), "choose another output");
    }
    probe(&output, findings).await;
    match lock_holder(&output.child(RUN_LOCK)).await {
        Ok(None) => {}
        Ok(Some(holder)) => findings.note(format!(
            "the output is locked by {holder}: `recaption run --lock` would do nothing until that run ends"
        )),
        Err(error) => findings.note(format!("whether the output is locked is unknown: {error}")),
    }
    Some(output)
}

/// Writes and deletes a small object.
async fn probe(output: &Location, findings: &mut Findings) {
    let object = output.child(INTERNAL).child(&format!("probe-{:016x}.txt", fastrand::u64(..)));
    let missing = match output.kind {
        StoreKind::Local => missing_folders(&output.child(INTERNAL).local_path()),
        _ => Vec::new(),
    };
    let probed = probe_writes(&object).await;
    for folder in &missing {
        // Folders that a run that began meanwhile has filled stay.
        let _ = fs::remove_dir(folder);
    }
    match probed {
        Ok(true) => {}
        Ok(false) if output.kind == StoreKind::Local => findings.note(
            "the output's file system has no hard links: workers on several machines could replace each other's records",
        ),
        Ok(false) => findings.add(
            Subject::Output,
            output.url(),
            "the store has no conditional puts: several workers could commit one shard twice, and --lock cannot lock",
            "use a store with conditional puts (If-None-Match, If-Match), or write to one and copy the output",
        ),
        Err(error) => {
            let (_, what) = parts_of(&error);
            let what = format!("{UNWRITABLE}: {what}");
            findings.add(Subject::Output, output.url(), what, "allow writing and deleting there, or choose another output");
        }
    }
}

/// Returns a folder and those around it that do not exist, the innermost first.
fn missing_folders(folder: &Path) -> Vec<PathBuf> {
    folder.ancestors().take_while(|folder| !folder.exists()).map(Path::to_owned).collect()
}

/// Returns the URL of an error and the rest of its text.
pub(super) fn parts_of(error: &StoreError) -> (String, String) {
    let url = match error {
        StoreError::Url { url, .. } | StoreError::Record { url, .. } | StoreError::Store { url, .. } => url,
    };
    let text = error.to_string();
    let what = text.strip_prefix(&format!("{url}: ")).unwrap_or(&text).to_owned();
    (url.clone(), what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn probing_leaves_no_folder() {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("a/b");
        let output = Stores::default().locate(&path.display().to_string()).expect("a path");
        let mut findings = Findings::default();
        probe(&output, &mut findings).await;
        assert_eq!(findings.problems, []);
        assert!(fs::read_dir(root.path()).expect("a folder").next().is_none(), "something was left");
    }
}
