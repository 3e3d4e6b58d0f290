//! What all processes of a simulation share: the bucket, the shards' work, plans, and what was seen.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use fastrand::Rng;
use futures::future::join_all;
use object_store::ObjectStore;
use recaption::run::{ArrayTask, Plan, RunOptions, Task, Tasks};
use recaption_input::{
    format::InputFormat,
    read::{ReadSettings, Splitter},
    shards::list_shards,
};
use recaption_output::commits::CommitLog;
use recaption_schemas::ShardId;
use recaption_store::{Location, RetryingStore, StoreCounters, StoreSettings, Stores};
use tokio::{sync::OnceCell, time::sleep};

use super::{
    client::{Client, Network, normal},
    limits::RequestKind,
    machine::Presence,
    objects::{Bucket, INPUTS, Inputs},
};

/// URL of the bucket. Nothing is ever sent there: the bucket is simulated.
const BUCKET: &str = "s3://simulated";
/// Folder of the output.
pub(crate) const OUTPUT: &str = "out";

/// How long the shards take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Work {
    /// Number of shards.
    pub shards: usize,
    /// Bytes of a shard.
    pub shard_bytes: u64,
    /// Mean seconds that an average machine takes for one.
    pub shard_seconds: f64,
    /// Standard deviation of the logarithm of that time.
    pub spread: f64,
}

/// What became of the attempts at shards.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// How often each shard was captioned to its end.
    pub captioned: Vec<u32>,
    /// Seconds at which the last record was put.
    pub last_commit: f64,
    /// Seconds at which the last process ended that had nothing left to do.
    pub last_end: f64,
    /// Shards that a worker found committed by another after captioning them too.
    pub twice: u64,
    /// Attempts at shards that failed for a transient reason.
    pub failed: u64,
    /// Attempts that ended with the machine.
    pub lost_attempts: u64,
    /// Processes that ended with an error.
    pub crashed: Vec<String>,
    /// Plans that were made, and those that processes shared.
    pub plans: u64,
    /// Longest time that a process took to plan.
    pub planning: f64,
    /// Further attempts at requests by [`RetryingStore`].
    pub retried: u64,
    /// When machines could have worked.
    pub presences: Vec<Presence>,
}

/// The shards that a process has to do, and what planning found.
#[derive(Debug)]
pub(crate) struct SharedPlan {
    /// The shards.
    pub tasks: Arc<Tasks>,
    /// The task of an array job that each belongs to.
    pub owners: Vec<u32>,
    /// Requests that the planning process made, with the time after its start.
    requests: Vec<(Duration, RequestKind, String)>,
}

/// Everything that is shared. One thread uses it.
pub(crate) struct World {
    /// The store.
    pub bucket: Arc<Bucket>,
    /// Attempts and timeouts of requests.
    pub settings: StoreSettings,
    /// Duration after which a worker without heartbeat counts as dead.
    pub lease: Duration,
    /// Shards that one process does at a time.
    pub lanes: usize,
    /// Keys that change rows.
    pub configuration: BTreeMap<String, String>,
    workers: u32,
    is_dealt: bool,
    network: Network,
    seconds: Vec<f64>,
    output: Location,
    plan_window: Duration,
    plans: Mutex<HashMap<u64, Arc<OnceCell<Arc<SharedPlan>>>>>,
    known: Mutex<HashMap<ShardId, Arc<Task>>>,
    seen: Mutex<Seen>,
}

/// What a world is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// The shards.
    pub work: Work,
    /// Between every process and the store.
    pub network: Network,
    /// Attempts and timeouts of requests.
    pub settings: StoreSettings,
    /// Duration after which a worker without heartbeat counts as dead.
    pub lease: Duration,
    /// Shards that one process does at a time.
    pub lanes: usize,
    /// Whether the processes are the tasks of an array job: each begins with its own share of the shards.
    pub is_dealt: bool,
    /// Processes that start within this time share one plan in memory. Each makes the plan's requests.
    pub plan_window: Duration,
}

impl World {
    /// Creates a world around a bucket.
    ///
    /// # Errors
    /// When no client of the bucket's kind can be built.
    pub(crate) fn new(
        bucket: Bucket,
        (setting, workers): (Setting, usize),
        random: &mut Rng,
    ) -> anyhow::Result<Self> {
        let Setting { work, network, settings, lease, lanes, is_dealt, plan_window } = setting;
        let mut draw = || {
            let normal = normal(|| random.f64());
            work.shard_seconds * (work.spread * normal - work.spread * work.spread / 2.0).exp()
        };
        let keys = ["caption.beams", "caption.max_tokens", "caption.prompt", "model", "run.seed"];
        Ok(Self {
            bucket: Arc::new(bucket),
            settings,
            lease,
            lanes,
            workers: u32::try_from(workers)?,
            is_dealt,
            configuration: keys.into_iter().map(|key| (key.to_owned(), "1".to_owned())).collect(),
            network,
            seconds: (0..work.shards).map(|_| draw()).collect(),
            output: Stores::default().locate(&format!("{BUCKET}/{OUTPUT}"))?,
            plan_window,
            plans: Mutex::default(),
            known: Mutex::default(),
            seen: Mutex::new(Seen { captioned: vec![0; work.shards], ..Seen::default() }),
        })
    }

    /// Returns the seconds that an average machine takes for a shard.
    pub(crate) fn seconds(&self, shard: usize) -> f64 {
        self.seconds.get(shard).copied().unwrap_or(0.0)
    }

    /// Returns the name of a shard's files.
    pub(crate) fn shard_id(&self, number: usize) -> ShardId {
        ShardId::from_url(&format!("{BUCKET}/{}", Inputs::key(number)))
    }

    /// Returns the seconds that an average machine takes for all shards.
    pub(crate) fn total_seconds(&self) -> f64 {
        self.seconds.iter().sum()
    }

    /// Returns the longest time of a shard.
    pub(crate) fn longest_seconds(&self) -> f64 {
        self.seconds.iter().copied().fold(0.0, f64::max)
    }

    /// Returns the task of an array job that a machine runs; `None` where there is no such job.
    pub(crate) fn task(&self, index: u32) -> Option<ArrayTask> {
        self.is_dealt.then_some(ArrayTask { index, count: self.workers, steal: true })
    }

    /// Returns what was seen so far.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the output as a new process sees it, and what counts its requests.
    pub(crate) fn output(&self) -> (Location, Arc<StoreCounters>) {
        let (store, counters) = self.store(self.client());
        let mut output = self.output.clone();
        output.store = store;
        (output, counters)
    }

    fn client(&self) -> Client {
        Client::new(Arc::clone(&self.bucket), self.network, self.settings.retry)
    }

    fn store(&self, client: Client) -> (Arc<dyn ObjectStore>, Arc<StoreCounters>) {
        let counters = Arc::default();
        (Arc::new(RetryingStore::new(Arc::new(client), self.settings, Arc::clone(&counters))), counters)
    }

    /// Plans for a process. Processes that start at about the same time see the same objects and would make the same plan, so
    /// they share one in memory; each makes all its requests.
    ///
    /// # Errors
    /// As [`Plan::make`].
    pub(crate) async fn plan(&self) -> anyhow::Result<Arc<SharedPlan>> {
        let began = self.bucket.elapsed();
        let window = began.as_millis() / self.plan_window.as_millis().max(1);
        let cell = {
            let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
            plans.retain(|key, _| *key + 1 >= window as u64);
            Arc::clone(plans.entry(window as u64).or_default())
        };
        let made = Cell::new(false);
        let plan = cell
            .get_or_try_init(|| async {
                made.set(true);
                self.make_plan().await.map(Arc::new)
            })
            .await?;
        let plan = Arc::clone(plan);
        if !made.get() {
            let client = self.client();
            let repeated = plan.requests.iter().map(async |(offset, kind, path)| {
                sleep(*offset).await;
                client.repeat(*kind, path).await
            });
            // A page that is refused too often is asked for again by the listing as a whole: here it is left out.
            join_all(repeated).await;
        }
        let mut seen = self.seen();
        seen.plans += 1;
        seen.planning = seen.planning.max((self.bucket.elapsed() - began).as_secs_f64());
        Ok(plan)
    }

    /// Plans as a new process would.
    ///
    /// # Errors
    /// As [`Plan::make`].
    pub(crate) async fn plan_afresh(&self) -> anyhow::Result<SharedPlan> {
        self.make_plan().await
    }

    /// Lists the inputs, reads the output's records, and compares, as a run does.
    async fn make_plan(&self) -> anyhow::Result<SharedPlan> {
        let recording = super::client::Recording::default();
        let client = self.client().recorded(Arc::clone(&recording));
        let wrapped = client.clone();
        let mut stores = Stores::new(self.settings)
            .wrapped(Arc::new(move |_| Arc::new(wrapped.clone()) as Arc<dyn ObjectStore>));
        let output = stores.locate(&format!("{BUCKET}/{OUTPUT}"))?;
        let commit_log = CommitLog::new(output.clone());
        let patterns = [format!("{BUCKET}/{INPUTS}/")];
        let listing = list_shards(&mut stores, &patterns, InputFormat::Webdataset);
        let (shards, scan, removals) =
            tokio::join!(listing, commit_log.scan(), commit_log.pending_deletions());
        let read = ReadSettings { format: InputFormat::Webdataset, ..ReadSettings::default() };
        let splitter = Splitter { settings: &read, output: &output, can_write: true };
        let plan = Plan::make(
            shards?,
            (scan?, &*removals?),
            (&commit_log, splitter),
            (self.configuration.clone(), &BTreeMap::new()),
            (&RunOptions::default(), 0),
        )
        .await
        .context("planning failed")?;
        let tasks = Arc::new(plan.todo.iter().map(|task| self.intern(task)).collect());
        let owner = |task: &Arc<Task>| self.task(0).map_or(0, |first| first.owner(&task.shard.id));
        let owners = plan.todo.iter().map(owner).collect();
        let requests = std::mem::take(&mut *recording.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(SharedPlan { tasks, owners, requests })
    }

    /// Returns the task of an earlier plan where it is the same, so that many plans fit into memory.
    fn intern(&self, task: &Arc<Task>) -> Arc<Task> {
        let is_plain = |task: &Task| {
            task.replaces.is_none() && task.stale_records.is_empty() && task.orphaned_parts.is_empty()
        };
        if !is_plain(task) {
            return Arc::clone(task);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(task.shard.id.clone()).or_insert_with(|| Arc::clone(task)))
    }
}
