//! A worker of the model: a run's plan in a few lines, and the program's own commit code.

use std::{collections::BTreeMap, future::Future, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use object_store::ObjectStoreExt;
use recaption_output::commits::{
    CommitError, CommitLog, CommitRequest, CommitResult, CommitStart, Committer, ExistingPart,
    ExistingRecord, RecordName, ShardState, configuration_fingerprint,
};
use recaption_schemas::{COMMIT_FORMAT, Counts, PartInfo, ShardCommit, ShardId, part_name, sha256_hex};
use recaption_store::{Location, StoreError, Stores};

use super::{
    explore::{Program, run_alone},
    store::{ModelStore, Objects},
};

/// The command of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `run`: shards that are not done.
    Run,
    /// `run --overwrite`: the same, whatever configuration the output has.
    Overwrite,
    /// `retry`: shards that are done, whose kept rows are copied to new parts.
    Retry,
    /// `run --retire`: shards that are not done; others are deleted.
    Retire,
}

/// Whether two attempts give the same rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    Same,
    /// They differ, as those of URL lists whose servers respond differently.
    Random,
}

/// A command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub kind: Kind,
    pub configuration: &'static str,
    pub shards: &'static [&'static str],
    pub rows: Rows,
    /// Version of the inputs.
    pub input: &'static str,
}

impl Job {
    fn configuration(&self) -> BTreeMap<String, String> {
        [("a.b".to_owned(), self.configuration.to_owned())].into()
    }

    fn name(&self) -> RecordName {
        RecordName {
            input: self.input.to_owned(),
            configuration: configuration_fingerprint(&self.configuration()),
        }
    }
}

fn output(store: Arc<ModelStore>) -> Location {
    thread_local! {
        static PLACE: Location = Stores::default().locate("gs://b/out").expect("an address");
    }
    let mut place = PLACE.with(Location::clone);
    place.store = store;
    place
}

/// Returns the program of a job. `who` identifies the attempt.
pub(crate) fn program(job: &Job, who: u32) -> Program {
    let job = *job;
    Rc::new(move |store| -> Pin<Box<dyn Future<Output = ()>>> {
        let out = output(store);
        Box::pin(async move {
            // Only the objects that it leaves count.
            let _ = work(&out, &job, who).await;
        })
    })
}

/// Plans and processes as `pipeline/run/plan.rs` and `pipeline/run/job.rs` do.
async fn work(out: &Location, job: &Job, who: u32) -> Result<(), CommitError> {
    let commit_log = CommitLog::new(out.clone());
    let mut survey = commit_log.scan().await?;
    let (name, configuration) = (job.name(), job.configuration());
    if job.kind != Kind::Overwrite {
        let others = match commit_log.configuration().await? {
            Some(claim) => claim.fingerprint != name.configuration,
            None => survey
                .records()
                .any(|(_, s)| s.summary.is_some() && s.name.configuration != name.configuration),
        };
        if others {
            return Ok(());
        }
    }
    let (mut todo, mut leftovers) = (Vec::new(), Vec::new());
    for url in job.shards {
        let mut found = survey.take(url, &name);
        match found.done.take() {
            Some(standing) if job.kind == Kind::Retry => todo.push((*url, found, Some(standing))),
            Some(_) => leftovers.push(found),
            None => todo.push((*url, found, None)),
        }
    }
    let mut foreign = BTreeMap::new();
    let mut records: Vec<(String, Vec<ExistingRecord>)> = survey.take_records().into_iter().collect();
    records.sort_by(|a, b| a.0.cmp(&b.0));
    for (shard, standing) in records {
        let parts = survey.parts_of(&shard);
        foreign.insert(shard, (standing, parts));
    }
    let committer = commit_log.committer(configuration, job.kind == Kind::Overwrite).await?;
    // As if no other worker were known to live: frozen ones count as dead.
    for found in &leftovers {
        commit_log.delete_stale(&found.stale_records, &found.orphaned_parts, None).await?;
    }
    for (url, found, former) in todo {
        match shard(out, &committer, (job, url, who), found, former).await {
            // The shard failed; others continue.
            Err(CommitError::Store(_)) => {}
            other => drop(other?),
        }
    }
    if job.kind == Kind::Retire {
        commit_log.delete_shards(&foreign).await?;
    }
    Ok(())
}

/// Commits a shard as `pipeline/run/shard_writer.rs` does.
async fn shard(
    out: &Location,
    committer: &Committer,
    (job, url, who): (&Job, &str, u32),
    found: ShardState,
    done: Option<ExistingRecord>,
) -> Result<CommitResult, CommitError> {
    let id = ShardId::from_url(url);
    let ShardState { mut replaces, stale_records, mut orphaned_parts, .. } = found;
    let mut previous = None;
    if let Some(standing) = done {
        previous = committer.commit_log.find(&standing.file, &standing.name).await?;
        for part in standing.summary.iter().flat_map(|facts| facts.parts()) {
            let modified = chrono::DateTime::UNIX_EPOCH;
            orphaned_parts.push(ExistingPart { path: part.path.clone(), bytes: part.bytes, modified });
        }
        replaces = Some(standing);
    }
    // As if frozen for an hour at any step: every commit is slow.
    committer.begin().await?;
    let start = CommitStart::now().earlier(Duration::from_secs(3600));
    let who = if job.rows == Rows::Same { 0 } else { who };
    let rows = format!("{url} {} {} {who}", job.configuration, job.input);
    let commit = ShardCommit {
        format: COMMIT_FORMAT,
        shard: url.to_owned(),
        size: 1,
        etag: None,
        fingerprint: job.name().fingerprint(),
        configuration: job.configuration(),
        model: String::new(),
        counts: Counts::default(),
        damaged: None,
        captions: put(out, "captions", &id, (&rows, &job.name())).await?,
        rejects: put(out, "rejects", &id, (&rows, &job.name())).await?,
        webdataset: None,
        settings: BTreeMap::new(),
    };
    let request = CommitRequest {
        shard: id.as_str(),
        commit: &commit,
        replaces: replaces.as_ref(),
        previous: previous.as_ref(),
        stale_records: &stale_records,
        orphaned_parts: &orphaned_parts,
    };
    committer.commit(&request, start).await
}

/// Puts a part with the name that `stages/output/src/part_writer.rs` gives it.
async fn put(
    out: &Location,
    table: &str,
    id: &ShardId,
    (rows, name): (&str, &RecordName),
) -> Result<PartInfo, StoreError> {
    let bytes = format!("{table} {rows}");
    let sha256 = sha256_hex(bytes.as_bytes());
    let digest = sha256_hex(format!("{sha256} {}", name.fingerprint()).as_bytes());
    let path = format!("{table}/{}", part_name(id.as_str(), &digest[..16]));
    let place = out.child(&path);
    let info = PartInfo { path, rows: 0, bytes: bytes.len() as u64, sha256: Some(sha256) };
    let put = place.store.put(&place.path, bytes.into_bytes().into()).await;
    put.map(|_| info).map_err(|source| StoreError::Store { url: place.url(), source })
}

fn records(objects: &Objects) -> Vec<(&String, ShardCommit)> {
    let all = objects.iter().filter(|(path, _)| path.starts_with("out/_recaption/shards/"));
    all.map(|(path, bytes)| (path, serde_json::from_slice(bytes).expect("a record"))).collect()
}

fn parts(objects: &Objects) -> Vec<&String> {
    let is_part = |path: &&String| path.starts_with("out/captions/") || path.starts_with("out/rejects/");
    objects.keys().filter(is_part).collect()
}

/// Returns the problem of a store: a part that does not match its record, at any moment; and after the command `last`, when all
/// workers are dead, any row that is missing or doubled.
pub(crate) fn problem_of(objects: &Objects, last: &Job) -> Option<String> {
    if let Some(fault) = wrong_part(objects, false) {
        return Some(fault);
    }
    let mut after = objects.clone();
    run_alone(&program(last, 999), &mut after);
    wrong_part(&after, true).or_else(|| incomplete(&after, last))
}

/// Returns a part that does not match its record, or, when no worker is active, is missing.
fn wrong_part(objects: &Objects, also_missing: bool) -> Option<String> {
    for (path, commit) in records(objects) {
        for part in [&commit.captions, &commit.rejects] {
            match objects.get(&format!("out/{}", part.path)) {
                Some(bytes) if Some(sha256_hex(bytes)) != part.sha256 => {
                    return Some(format!("{} does not match its record", part.path));
                }
                None if also_missing => return Some(format!("{path}: {} is missing", part.path)),
                _ => {}
            }
        }
    }
    None
}

fn incomplete(objects: &Objects, last: &Job) -> Option<String> {
    let records = records(objects);
    let mut named: Vec<String> = Vec::new();
    for url in last.shards {
        let of_shard: Vec<_> = records.iter().filter(|(_, commit)| commit.shard == **url).collect();
        let [(_, commit)] = of_shard.as_slice() else {
            return Some(format!("{url} has {} records after the last command", of_shard.len()));
        };
        if commit.fingerprint != last.name().fingerprint() {
            return Some(format!("the record of {url} is of another configuration or input"));
        }
        let rows = |table: &str, part: &PartInfo| {
            let text = String::from_utf8_lossy(&objects[&format!("out/{}", part.path)]).into_owned();
            text.trim_start_matches(table).to_owned()
        };
        if rows("captions", &commit.captions) != rows("rejects", &commit.rejects) {
            return Some(format!("the parts of {url} are of two attempts: rows are lost and doubled"));
        }
        named.extend([&commit.captions, &commit.rejects].map(|part| format!("out/{}", part.path)));
    }
    let doubled: Vec<_> = parts(objects).into_iter().filter(|path| !named.contains(path)).collect();
    (!doubled.is_empty()).then(|| format!("a reader of the folders sees rows twice: {doubled:?}"))
}
