mod store;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use object_store::{ObjectMeta, ObjectStoreExt};
use recaption_input::shards::ShardRef;
use recaption_output::commits::{CommitLog, Workers};
use recaption_store::{Location, StoreSettings, Stores};

use self::store::{CountingStore, Requests};
use super::{listing::Group, *};
use crate::run::ArrayTask;

const LEASE: Duration = Duration::from_secs(60);

/// An output, and the shards that its workers have.
struct Output {
    place: Location,
    shards: Vec<ShardRef>,
    requests: Requests,
    /// Who read each shard.
    readers: Mutex<HashMap<usize, Vec<usize>>>,
    /// How often each shard was reported as another worker's.
    reports: Mutex<HashMap<usize, usize>>,
}

fn shards(count: usize) -> Vec<ShardRef> {
    let place = Location::nowhere();
    let shard = |number: usize| {
        let location = place.child(&format!("in/{number:06}.tar"));
        let meta = ObjectMeta {
            location: location.path.clone(),
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: 1,
            e_tag: Some("tag".into()),
            version: None,
        };
        ShardRef::of_object(location, &meta)
    };
    (0..count).map(shard).collect()
}

impl Output {
    fn in_memory(count: usize) -> Arc<Self> {
        let store = CountingStore::default();
        let requests = store.requests.clone();
        let mut place = Location::nowhere();
        place.store = Arc::new(store);
        Self::at(place, requests, count)
    }

    fn at(place: Location, requests: Requests, count: usize) -> Arc<Self> {
        let (readers, reports) = (Mutex::default(), Mutex::default());
        Arc::new(Self { place, shards: shards(count), requests, readers, reports })
    }

    async fn join(&self) -> Arc<Workers> {
        let workers = Workers::join(&self.place, LEASE).await.expect("joined");
        // However slow this machine is, no worker counts as stuck.
        let progress = AtomicU64::new(0);
        workers.report_progress(move || progress.fetch_add(1, Relaxed));
        Arc::new(workers)
    }

    fn claims(&self, workers: &Arc<Workers>) -> (Arc<Tasks>, WorkerClaims) {
        let tasks = Arc::new(Tasks::of_shards(self.shards.iter().cloned()));
        let log = CommitLog::new(self.place.clone());
        let claims =
            WorkerClaims::new(log, self.place.clone(), Arc::clone(&tasks), Some(Arc::clone(workers)));
        (tasks, claims)
    }

    /// Puts the commit record of a shard.
    async fn commit(&self, shard: usize) {
        let shard = &self.shards[shard];
        let name = format!("{}.{}-.json", shard.id.as_str(), shard.fingerprint());
        let record = self.place.child("_recaption/shards").child(&name);
        if self.place.kind == recaption_store::StoreKind::Local {
            let path = record.local_path();
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("created");
            std::fs::write(path, "{}").expect("written");
        } else {
            record.store.put(&record.path, "{}".into()).await.expect("put");
        }
    }

    fn note_reader(&self, shard: usize, worker: usize) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.entry(shard).or_default().push(worker);
    }

    fn note_report(&self, shard: usize) {
        *self.reports.lock().unwrap_or_else(PoisonError::into_inner).entry(shard).or_default() += 1;
    }

    /// Works as one worker with two readers until the source ends; each shard takes `pace`.
    async fn work(self: Arc<Self>, number: usize, source: Arc<ShardSource>, pace: Duration) {
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..2 {
            let (output, source) = (Arc::clone(&self), Arc::clone(&source));
            readers.spawn(async move {
                loop {
                    match source.next().await {
                        Next::Read(shard) => {
                            output.note_reader(shard, number);
                            tokio::time::sleep(pace).await;
                            output.commit(shard).await;
                        }
                        Next::CommittedByOther(shard) => {
                            output.note_report(shard);
                        }
                        Next::Claimed(_) => unreachable!("all are waited for"),
                        Next::Nothing => return,
                    }
                }
            });
        }
        while let Some(reader) = readers.join_next().await {
            reader.expect("no panic");
        }
    }

    /// Runs workers with sources of their own until all have ended. Every shard must be read once, and reported by all other
    /// workers. Returns how many shards each worker read.
    async fn run(
        self: &Arc<Self>,
        paces: &[u64],
        source: impl Fn(usize, &Tasks, WorkerClaims) -> ShardSource,
    ) -> Vec<usize> {
        let mut all = Vec::new();
        for number in 0..paces.len() {
            let workers = self.join().await;
            let (tasks, claims) = self.claims(&workers);
            all.push((workers, Arc::new(source(number, &tasks, claims))));
        }
        let mut running = tokio::task::JoinSet::new();
        for (number, (_, source)) in all.iter().enumerate() {
            let pace = Duration::from_millis(paces[number]);
            running.spawn(Arc::clone(self).work(number, Arc::clone(source), pace));
        }
        while let Some(worker) = running.join_next().await {
            worker.expect("no panic");
        }
        for (_, source) in &all {
            assert!(source.is_empty(), "{source:?}");
        }
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(readers.len(), self.shards.len(), "shards were left");
        assert!(readers.values().all(|readers| readers.len() == 1), "shards were read twice: {readers:?}");
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let others = paces.len() - 1;
        assert!((0..self.shards.len()).all(|shard| reports.get(&shard).copied().unwrap_or(0) == others));
        (0..paces.len())
            .map(|number| readers.values().filter(|readers| readers.contains(&number)).count())
            .collect()
    }
}

/// The source of a task of an array job.
fn dealt(number: usize, count: usize, output: &Output, claims: WorkerClaims) -> ShardSource {
    let task = ArrayTask { index: number as u32, count: count as u32, steal: true };
    let (own, others): (Vec<usize>, Vec<usize>) =
        (0..output.shards.len()).partition(|shard| task.owns(&output.shards[*shard].id));
    ShardSource::dealt(own, others, Some(claims))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_an_array_need_about_one_claim_per_shard() {
    const SHARDS: usize = 3000;
    let output = Output::in_memory(SHARDS);
    let paces = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 20];
    let read = output.run(&paces, |number, _, claims| dealt(number, paces.len(), &output, claims)).await;
    let claims = output.requests.of("put", "claims");
    assert!(claims <= SHARDS * 11 / 10, "{claims} claims for {SHARDS} shards");
    let lists = output.requests.of("list", "claims") + output.requests.of("list", "shards");
    let groups = SHARDS.div_ceil(900) * paces.len();
    assert!(lists < 30 * groups, "{lists} listings of {groups} groups");
    assert!(read[11] < SHARDS / 24, "the slow task was helped: {read:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_without_tasks_need_about_one_claim_per_shard() {
    const SHARDS: usize = 2000;
    let output = Output::in_memory(SHARDS);
    output.run(&[1; 10], |_, tasks, claims| ShardSource::fixed(0..tasks.len(), Some(claims))).await;
    let claims = output.requests.of("put", "claims");
    assert!(claims <= SHARDS * 13 / 10, "{claims} claims for {SHARDS} shards");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_share_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stores = Stores::new(StoreSettings::default());
    let place = stores.locate(&folder.path().display().to_string()).expect("a location");
    let output = Output::at(place, Requests::default(), 300);
    output.run(&[2, 2, 10], |number, _, claims| dealt(number, 3, &output, claims)).await;
}

/// Of shards that are sparse among many records, one listing tells about one.
#[tokio::test]
async fn sparse_shards_are_looked_at_together() {
    const APART: usize = 1500;
    const SPARSE: usize = 6;
    let output = Output::in_memory(APART * SPARSE);
    let done = 3 * APART;
    for shard in (0..output.shards.len()).filter(|shard| shard % APART != 0 || *shard == done) {
        output.commit(shard).await;
    }
    let workers = output.join().await;
    let (_, claims) = output.claims(&workers);
    let poll = claims.poll(Group((0..SPARSE).map(|n| n * APART).collect())).await;
    assert!(poll.unknown.0.is_empty(), "{poll:?}");
    assert_eq!(poll.committed, [done], "{poll:?}");
    assert_eq!(poll.claimed.len() + poll.held.len(), SPARSE - 1, "{poll:?}");
    assert_eq!(output.requests.of("list", "shards"), 1);
}
