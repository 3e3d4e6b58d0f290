//! One worker process: the program's own planning, claims, retries and commits around a captioner that only sleeps.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::anyhow;
use futures::{TryStreamExt, future::join_all};
use object_store::ObjectStoreExt;
use recaption::run::{ArrayTask, Next, ShardSource, Stop, Task, Tasks, WorkerClaims, retry_rounds};
use recaption_output::commits::{CommitLog, CommitRequest, CommitResult, Committer, Workers};
use recaption_schemas::{COMMIT_FORMAT, Counts, PartInfo, ShardCommit, sha256_hex};
use recaption_store::Location;

use super::{machine::Device, world::World};

/// Images of a simulated shard, as its record has them.
const IMAGES: u64 = 10_000;

/// A process on a machine. Dropping the future of [`Process::run`] kills it.
pub(crate) struct Process {
    world: Arc<World>,
    output: Location,
    /// In an array job, which task of it this is.
    task: Option<ArrayTask>,
    device: Device,
    stop: Arc<Stop>,
}

/// How an attempt at a shard ended.
enum Attempt {
    /// Committed, by this worker or another.
    Done,
    /// Failed for a transient reason: it is tried again when all others are done.
    Failed,
}

impl Process {
    /// Runs `recaption run` on a machine of this number and speed, until nothing is left or `stop` is requested.
    ///
    /// # Errors
    /// Those that end the program with an exit code that schedulers retry.
    pub(crate) async fn run(
        world: Arc<World>,
        (index, speed): (u32, f64),
        stop: Arc<Stop>,
    ) -> anyhow::Result<()> {
        let (output, counters) = world.output();
        let process = Self {
            world: Arc::clone(&world),
            output,
            task: world.task(index),
            device: Device::new(speed),
            stop,
        };
        let result = process.work().await;
        world.seen().retried += counters.retried();
        result
    }

    async fn work(&self) -> anyhow::Result<()> {
        let workers = Workers::join(&self.output, self.world.lease).await.ok().map(Arc::new);
        let plan = match self.stop.unless_requested(self.world.plan()).await {
            Some(plan) => plan?,
            None => return Ok(()),
        };
        let commit_log = CommitLog::new(self.output.clone());
        let committer = commit_log.committer(self.world.configuration.clone(), false).await?;
        if let Some(workers) = &workers {
            workers.report_progress(self.device.progress());
        }
        let begin: Vec<usize> = (0..plan.tasks.len()).collect();
        let failed = retry_rounds(
            &self.stop,
            begin,
            |shard: &usize| Some(*shard),
            async |round, begin| {
                let claims = WorkerClaims::new(
                    commit_log.clone(),
                    self.output.clone(),
                    Arc::clone(&plan.tasks),
                    workers.clone(),
                );
                let source = match self.task.filter(|_| round == 1) {
                    Some(task) => {
                        let is_own = |shard: &usize| plan.owners.get(*shard) == Some(&task.index);
                        let (own, others): (Vec<usize>, Vec<usize>) = begin.into_iter().partition(is_own);
                        ShardSource::dealt(own, others, Some(claims))
                    }
                    None => ShardSource::fixed(begin, Some(claims)),
                };
                if self.task.is_none() && workers.as_ref().is_some_and(|workers| workers.has_others()) {
                    source.note_other_workers();
                }
                let lanes = (0..self.world.lanes).map(|_| self.lane(&source, &plan.tasks, &committer));
                let failed: anyhow::Result<Vec<_>> = join_all(lanes).await.into_iter().collect();
                Ok(failed?.into_iter().flatten().collect())
            },
        );
        let failed = failed.await?;
        if let Some(workers) = workers.and_then(Arc::into_inner) {
            workers.leave().await;
        }
        // Exit code 3: the scheduler starts the program again.
        anyhow::ensure!(failed.is_empty() || self.stop.requested(), "{} shards failed", failed.len());
        Ok(())
    }

    /// Takes shards until none is left. Returns those that failed.
    async fn lane(
        &self,
        source: &ShardSource,
        tasks: &Tasks,
        committer: &Committer,
    ) -> anyhow::Result<Vec<usize>> {
        let mut failed = Vec::new();
        loop {
            let next = tokio::select! {
                biased;
                () = self.stop.wait_requested() => return Ok(failed),
                next = source.next() => next,
            };
            let number = match next {
                Next::Read(number) => number,
                Next::CommittedByOther(_) | Next::Claimed(_) => continue,
                Next::Nothing => return Ok(failed),
            };
            let task = tasks.get(number).ok_or_else(|| anyhow!("no shard has the number {number}"))?;
            if let Attempt::Failed = self.shard(&task, committer).await? {
                self.world.seen().failed += 1;
                if let Some(claims) = source.claims() {
                    claims.release(number).await;
                }
                failed.push(number);
            }
        }
    }

    /// Reads, captions and commits a shard.
    async fn shard(&self, task: &Task, committer: &Committer) -> anyhow::Result<Attempt> {
        let number = self.world.bucket.inputs().number(task.shard.location.path.as_ref());
        let number = number.ok_or_else(|| anyhow!("{} is no input", task.shard.url))?;
        let attempt = Unfinished::new(&self.world);
        if let Err(error) = self.caption(task, self.world.seconds(number)).await {
            tracing::debug!(%error, "shard cannot be read");
            attempt.end();
            return Ok(Attempt::Failed);
        }
        self.world.seen().captioned[number] += 1;
        let committed = self.commit(task, committer).await;
        attempt.end();
        let mut seen = self.world.seen();
        match committed {
            Ok(CommitResult::Created) => seen.last_commit = self.world.bucket.elapsed().as_secs_f64(),
            Ok(CommitResult::AlreadyExists | CommitResult::CommittedByOther) => seen.twice += 1,
            Err(error) => {
                tracing::debug!(%error, "shard cannot be written");
                return Ok(Attempt::Failed);
            }
        }
        Ok(Attempt::Done)
    }

    /// Reads a shard's bytes, and captions as many images as each piece of it holds.
    async fn caption(&self, task: &Task, seconds: f64) -> object_store::Result<()> {
        let got = self.output.store.get(&task.shard.location.path).await?;
        let bytes = got.meta.size.max(1) as f64;
        let mut body = got.into_stream();
        while let Some(piece) = body.try_next().await? {
            self.device.work(seconds * piece.len() as f64 / bytes).await;
        }
        Ok(())
    }

    /// Puts two parts and the record, as the writer of a shard does.
    async fn commit(&self, task: &Task, committer: &Committer) -> anyhow::Result<CommitResult> {
        let begun = committer.begin().await?;
        let (captions, rejects) = (self.put(task, "captions").await?, self.put(task, "rejects").await?);
        let commit = ShardCommit {
            format: COMMIT_FORMAT,
            shard: task.shard.url.clone(),
            size: task.shard.size(),
            etag: task.shard.tag(),
            fingerprint: task.name.fingerprint(),
            configuration: committer.configuration.clone(),
            model: "simulated".to_owned(),
            counts: Counts { read: IMAGES, captioned: IMAGES, ..Counts::default() },
            damaged: None,
            captions,
            rejects,
            webdataset: None,
            settings: BTreeMap::new(),
        };
        let request = CommitRequest {
            shard: task.shard.id.as_str(),
            commit: &commit,
            replaces: task.replaces.as_ref(),
            previous: None,
            stale_records: &task.stale_records,
            orphaned_parts: &task.orphaned_parts,
        };
        Ok(committer.commit(&request, begun).await?)
    }

    async fn put(&self, task: &Task, table: &str) -> anyhow::Result<PartInfo> {
        // The same rows in every attempt: captions are deterministic.
        let bytes = format!("{table} of {}", task.shard.url).into_bytes();
        let sha256 = sha256_hex(&bytes);
        let digest = sha256_hex(format!("{sha256} {}", task.name.fingerprint()).as_bytes());
        let path = format!("{table}/{}", task.shard.id.part_name(&digest[..16]));
        let size = bytes.len() as u64;
        let rows = if table == "captions" { IMAGES } else { 0 };
        self.output.store.put(&self.output.child(&path).path, bytes.into()).await?;
        Ok(PartInfo { path, rows, bytes: size, sha256: Some(sha256) })
    }
}

/// An attempt that counts as lost when it is dropped before its end: its machine is gone.
struct Unfinished<'a> {
    world: &'a World,
    ended: bool,
}

impl<'a> Unfinished<'a> {
    fn new(world: &'a World) -> Self {
        Self { world, ended: false }
    }

    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.world.seen().lost_attempts += 1;
        }
    }
}
