//! Rows -> parts -> commit: the task of one open shard. It encodes, uploads, and in the end commits.

use recaption_messages::ReadError;
use recaption_output::{
    WriteError,
    commits::{CommitError, CommitRequest, CommitResult},
};
use recaption_schemas::{
    COMMIT_FORMAT, Counts, Damage, FailureClass, RejectReason, ShardCommit, redact_text,
};
use recaption_store::{ErrorKind, StoreError};
use tokio::sync::mpsc;

use super::output::Output;
use super::parts::{PartError, Parts, ToPart};
use super::{
    plan::{Settings, differences},
    task::Task,
};

/// Why a shard failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShardFailure {
    /// Data or transport.
    pub class: FailureClass,
    /// What happened.
    pub error: String,
    /// Whether another attempt in this run may succeed.
    pub is_retryable: bool,
    /// Whether every other shard would fail the same way: the output is full, or rejects writes.
    pub ends_run: bool,
    /// Where the output has another configuration by now: the keys that differ.
    pub mismatch: Option<String>,
}

impl ShardFailure {
    /// An output that does not take what is written.
    fn of_output(shard: &str, fault: ErrorKind, error: &dyn std::fmt::Display) -> Self {
        Self {
            class: FailureClass::Transport,
            error: redact_text(&format!("shard {shard}: {error}")),
            is_retryable: fault.is_retryable(),
            ends_run: matches!(fault, ErrorKind::Full | ErrorKind::Permanent),
            mismatch: None,
        }
    }

    /// A shard whose writer panicked, which is a defect.
    pub(super) fn panicked(shard: &str) -> Self {
        Self {
            class: FailureClass::Data,
            error: format!("shard {shard}: internal error: its writer panicked"),
            is_retryable: false,
            ends_run: false,
            mismatch: None,
        }
    }

    /// A shard that was abandoned, because it failed elsewhere or the run stops.
    fn abandoned() -> Self {
        Self {
            class: FailureClass::Transport,
            error: String::new(),
            is_retryable: false,
            ends_run: false,
            mismatch: None,
        }
    }

    /// A shard that could not be read.
    pub(crate) fn of_input(error: &ReadError) -> Self {
        Self {
            class: error.class,
            error: error.to_string(),
            is_retryable: error.is_retryable,
            ends_run: false,
            mismatch: None,
        }
    }
}

/// How a shard was committed.
#[derive(Debug)]
pub(crate) enum ShardOutcome {
    /// By this worker.
    Committed {
        /// Its record.
        commit: Box<ShardCommit>,
        /// Whether its record was new.
        committed: CommitResult,
    },
    /// By another worker, before this one began it.
    CommittedByOther,
    /// By another worker, while this one processed it too.
    ProcessedTwice,
    /// Not yet: another worker claims it, and the shard was not to be waited for.
    ClaimedByOther,
}

/// How a shard ended.
#[derive(Debug)]
pub(crate) struct ShardResult {
    /// Number within the run.
    pub shard: usize,
    /// Its commit record, or why there is none.
    pub outcome: Result<ShardOutcome, ShardFailure>,
}

/// Writes one shard: uploads both parts, makes them visible, commits, and deletes what is obsolete.
pub(super) async fn write_shard(
    output: &Output,
    task: &Task,
    mut batches: mpsc::Receiver<ToPart>,
) -> Result<ShardOutcome, ShardFailure> {
    let url = &task.shard.url;
    let _open = output.meter.open();
    let unwritten = |e: PartError| match e {
        PartError::Write(e) => ShardFailure::of_output(url, e.kind(), &e),
        PartError::Earlier(e) => ShardFailure::of_output(url, ErrorKind::Exhausted, &e),
    };
    let mut parts = Parts::open(output, task).await.map_err(unwritten)?;
    match parts.fill(&mut batches).await {
        Ok(Some((counts, damaged))) => finish(output, task, parts, counts, damaged).await,
        Ok(None) => {
            parts.abort().await;
            Err(ShardFailure::abandoned())
        }
        Err(error) => {
            parts.abort().await;
            Err(unwritten(error))
        }
    }
}

/// All rows are there: the output is this configuration's still, the parts become visible, the record is put.
async fn finish(
    output: &Output,
    task: &Task,
    parts: Parts,
    counts: Counts,
    damaged: Option<Damage>,
) -> Result<ShardOutcome, ShardFailure> {
    let (url, id) = (&task.shard.url, &task.shard.id);
    let committing = output.meter.commit();
    let unwritten = |e: WriteError| ShardFailure::of_output(url, e.kind(), &e);
    let begun = match output.committer.begin().await {
        Ok(begun) => begun,
        Err(error) => {
            parts.abort().await;
            return Err(refused(output, url, error));
        }
    };
    let (captions, rejects, webdataset) = parts.finish().await.map_err(unwritten)?;
    let samples = webdataset.as_ref().map_or(counts.captioned, |part| part.rows);
    let is_complete = [captions.rows, samples] == [counts.captioned; 2] && rejects.rows == counts.rejected;
    if !counts.balanced() || !is_complete {
        let what = format!(
            "internal error: row counts do not match: {counts:?}, {captions:?}, {rejects:?}, {webdataset:?}"
        );
        return Err(ShardFailure::of_output(url, ErrorKind::Exhausted, &what));
    }
    let commit = ShardCommit {
        format: COMMIT_FORMAT,
        shard: url.clone(),
        size: task.shard.size(),
        etag: task.shard.tag(),
        fingerprint: task.name.fingerprint(),
        configuration: output.committer.configuration.clone(),
        model: output.model.clone(),
        settings: settings_of(output, &counts),
        counts,
        damaged,
        captions,
        rejects,
        webdataset,
    };
    let request = CommitRequest {
        shard: id.as_str(),
        commit: &commit,
        replaces: task.replaces.as_ref(),
        previous: task.keep.as_ref().filter(|_| task.replaces.is_some()).map(|keep| &*keep.commit),
        stale_records: &task.stale_records,
        orphaned_parts: &task.orphaned_parts,
    };
    let committed = output.committer.commit(&request, begun).await;
    Ok(match committed.map_err(|e| refused(output, url, e))? {
        CommitResult::CommittedByOther => ShardOutcome::ProcessedTwice,
        committed => {
            committing.done(commit.captions.bytes + commit.rejects.bytes);
            ShardOutcome::Committed { commit: Box::new(commit), committed }
        }
    })
}

/// The settings that may be why samples of this shard were rejected.
fn settings_of(output: &Output, counts: &Counts) -> Settings {
    let reasons = RejectReason::ALL.iter().filter(|reason| counts.reasons.contains_key(reason.as_str()));
    let names = reasons.filter_map(|reason| reason.setting());
    let with_value = |(name, _): (&str, _)| Some((name.to_owned(), output.settings.get(name)?.clone()));
    names.filter_map(with_value).collect()
}

fn refused(output: &Output, url: &str, error: CommitError) -> ShardFailure {
    match error {
        CommitError::Store(e) => {
            // A record that cannot be read, or parts that somebody removed, are this shard's trouble alone.
            let fault = if matches!(e, StoreError::Record { .. }) { ErrorKind::Exhausted } else { e.kind() };
            ShardFailure::of_output(url, fault, &e)
        }
        CommitError::ConfigurationMismatch(claim) => {
            let differences = differences(&claim.configuration, &output.committer.configuration);
            let failure =
                ShardFailure::of_output(url, ErrorKind::Permanent, &"the output has another configuration");
            ShardFailure { mismatch: Some(differences), ..failure }
        }
    }
}
