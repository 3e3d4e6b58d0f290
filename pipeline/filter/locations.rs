//! Opens the source and the output of a second pass, which must not overlap.

use recaption_output::{open_output, overlap};
use recaption_store::{Location, StoreKind, Stores};

use super::job::FilterJob;
use crate::config::ConfigError;

/// Opens source and output.
///
/// # Errors
/// When one of them cannot be used, or one lies inside the other: the source is never written to.
pub(super) fn open_locations(stores: &mut Stores, job: &FilterJob) -> anyhow::Result<(Location, Location)> {
    let source = stores.locate(&job.source)?;
    if source.kind == StoreKind::Http {
        let what = "a web server cannot be listed, and the shards of an output are found by listing";
        return Err(ConfigError { origin: source.url(), what: what.to_owned() }.into());
    }
    let output = open_output(stores, &job.output)?;
    if overlap(&source, &output) {
        let what = format!(
            "{} and the source {} overlap; write the new dataset to a location outside its source",
            output.url(),
            source.url()
        );
        return Err(ConfigError { origin: "--to".to_owned(), what }.into());
    }
    Ok((source, output))
}
