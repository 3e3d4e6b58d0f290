//! Commit records under lost responses and concurrent workers.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use object_store::{
    ObjectStore, ObjectStoreExt,
    memory::InMemory,
    path::Path,
    throttle::{ThrottleConfig, ThrottledStore},
};
use recaption_output::commits::{CommitError, CommitLog, CommitRequest, CommitResult, RecordName};
use recaption_schemas::{COMMIT_FORMAT, Counts, PartInfo, ShardCommit, ShardId, part_name, sha256_hex};
use recaption_store::{Location, StoreSettings, Stores};

const URL: &str = "s3://bucket/list.csv";

fn id() -> ShardId {
    ShardId::from_url(URL)
}

fn name() -> RecordName {
    RecordName { input: "0123".into(), configuration: "4567".into() }
}

fn output() -> (Arc<dyn ObjectStore>, Location) {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let inner = Arc::clone(&memory);
    let mut stores = Stores::default().wrapped(Arc::new(move |_| Arc::clone(&inner)));
    let location = stores.locate("/out").expect("a path");
    (memory, location)
}

/// Returns a record of parts with these bytes.
fn commit(captions: &[u8], rejected: u64) -> ShardCommit {
    let part = |table: &str, bytes: &[u8]| PartInfo {
        path: format!("{table}/{}", part_name(id().as_str(), &sha256_hex(bytes)[..16])),
        rows: 0,
        bytes: bytes.len() as u64,
        sha256: Some(sha256_hex(bytes)),
    };
    ShardCommit {
        format: COMMIT_FORMAT,
        shard: URL.into(),
        size: 1,
        etag: None,
        fingerprint: name().fingerprint(),
        configuration: [].into(),
        model: "m".into(),
        counts: Counts { rejected, ..Counts::default() },
        damaged: None,
        captions: part("captions", captions),
        rejects: part("rejects", b"r"),
        webdataset: None,
        settings: [].into(),
    }
}

async fn put(store: &Arc<dyn ObjectStore>, name: &str, bytes: &[u8]) {
    store.put(&Path::from(format!("out/{name}")), bytes.to_vec().into()).await.expect("memory");
}

/// Puts a record's parts.
async fn put_parts(store: &Arc<dyn ObjectStore>, commit: &ShardCommit, captions: &[u8]) {
    put(store, &commit.captions.path, captions).await;
    put(store, &commit.rejects.path, b"r").await;
}

async fn is_there(store: &Arc<dyn ObjectStore>, name: &str) -> bool {
    store.head(&Path::from(format!("out/{name}"))).await.is_ok()
}

fn record() -> String {
    format!("_recaption/shards/{}.{}.json", id(), name().fingerprint())
}

#[tokio::test]
async fn an_existing_record_of_equal_content_is_this_one() {
    let (store, out) = output();
    let (commit_log, one, id) = (CommitLog::new(out), commit(b"a", 1), id());
    put_parts(&store, &one, b"a").await;
    let request = CommitRequest::first(id.as_str(), &one);
    assert_eq!(commit_log.commit(&request, || false).await.expect("memory"), CommitResult::Created);
    assert_eq!(commit_log.commit(&request, || false).await.expect("memory"), CommitResult::AlreadyExists);
}

#[tokio::test]
async fn the_second_worker_deletes_its_own_parts() {
    let (store, out) = output();
    let (commit_log, id) = (CommitLog::new(out), id());
    let (theirs, ours) = (commit(b"theirs", 1), commit(b"ours", 1));
    put_parts(&store, &theirs, b"theirs").await;
    commit_log.commit(&CommitRequest::first(id.as_str(), &theirs), || false).await.expect("memory");
    put_parts(&store, &ours, b"ours").await;
    let second =
        commit_log.commit(&CommitRequest::first(id.as_str(), &ours), || false).await.expect("memory");
    assert_eq!(second, CommitResult::CommittedByOther);
    assert_eq!(commit_log.find(id.as_str(), &name()).await.expect("memory"), Some(theirs.clone()));
    assert!(!is_there(&store, &ours.captions.path).await, "a plain reader would see rows twice");
    assert!(is_there(&store, &theirs.captions.path).await && is_there(&store, &theirs.rejects.path).await);
}

#[tokio::test]
async fn unusable_records_are_named_and_replaced() {
    let (store, out) = output();
    let (commit_log, one, id) = (CommitLog::new(out), commit(b"a", 1), id());
    let other = ShardCommit { shard: "s3://bucket/other.tar".into(), ..one.clone() };
    let other = serde_json::to_vec(&other).expect("JSON");
    for (bytes, fault) in [(&b"{ half"[..], "not a commit record"), (&other[..], "another shard")] {
        put(&store, &record(), bytes).await;
        put_parts(&store, &one, b"a").await;
        let mut survey = commit_log.scan().await.expect("memory");
        let all: Vec<_> = survey.records().map(|(_, record)| record.clone()).collect();
        assert!(all[0].problem.as_ref().is_some_and(|f| f.contains(fault)), "{all:?}");
        let mut request = CommitRequest::first(id.as_str(), &one);
        // Whether a scan found it before or not.
        let found = survey.take(URL, &name());
        request.replaces = found.replaces.as_ref();
        assert_eq!(commit_log.commit(&request, || false).await.expect("memory"), CommitResult::Created);
        assert_eq!(commit_log.find(id.as_str(), &name()).await.expect("memory"), Some(one.clone()));
    }
}

#[tokio::test]
async fn missing_and_changed_parts_are_found() {
    let (store, out) = output();
    let (commit_log, one, id) = (CommitLog::new(out), commit(b"a", 1), id());
    put_parts(&store, &one, b"a").await;
    commit_log.commit(&CommitRequest::first(id.as_str(), &one), || false).await.expect("memory");
    assert!(commit_log.scan().await.expect("memory").done(URL, &name()).is_some());
    put(&store, &one.captions.path, b"longer").await;
    let mut survey = commit_log.scan().await.expect("memory");
    assert!(survey.done(URL, &name()).is_none());
    let found = survey.take(URL, &name());
    let problem = found.replaces.as_ref().and_then(|record| record.problem.clone());
    assert!(problem.as_ref().is_some_and(|f| f.contains("has 6 bytes instead of 1")), "{problem:?}");
    store.delete(&Path::from(format!("out/{}", one.rejects.path))).await.expect("memory");
    put(&store, &one.captions.path, b"a").await;
    let problem =
        commit_log.scan().await.expect("memory").take(URL, &name()).replaces.and_then(|s| s.problem.clone());
    assert!(problem.as_ref().is_some_and(|f| f.contains("is missing")), "{problem:?}");
    // When the shard is redone, the new record replaces the old one and no other.
    let again = commit(b"again", 1);
    put_parts(&store, &again, b"again").await;
    let request =
        CommitRequest { replaces: found.replaces.as_ref(), ..CommitRequest::first(id.as_str(), &again) };
    assert_eq!(commit_log.commit(&request, || false).await.expect("memory"), CommitResult::Created);
    let late = commit(b"late", 1);
    put_parts(&store, &late, b"late").await;
    let request =
        CommitRequest { replaces: found.replaces.as_ref(), ..CommitRequest::first(id.as_str(), &late) };
    assert_eq!(commit_log.commit(&request, || false).await.expect("memory"), CommitResult::CommittedByOther);
    assert_eq!(commit_log.find(id.as_str(), &name()).await.expect("memory"), Some(again));
}

#[tokio::test]
async fn records_of_parts_deleted_meanwhile_are_withdrawn() {
    let (store, out) = output();
    let (commit_log, one, id) = (CommitLog::new(out), commit(b"a", 1), id());
    put(&store, &one.captions.path, b"a").await;
    let error =
        commit_log.commit(&CommitRequest::first(id.as_str(), &one), || true).await.expect_err("no rejects");
    assert!(error.to_string().contains("another program deletes files"), "{error}");
    assert!(!is_there(&store, &record()).await);
}

#[tokio::test]
async fn the_first_commit_fixes_the_configuration() {
    let (store, out) = output();
    let commit_log = CommitLog::new(out);
    let configuration = |value: &str| [("a.b".to_owned(), value.to_owned())].into();
    let one = commit_log.committer(configuration("1"), false).await.expect("memory");
    let two = commit_log.committer(configuration("2"), false).await.expect("memory");
    let overwriting = commit_log.committer(configuration("3"), true).await.expect("memory");
    let begun = one.begin().await.expect("memory");
    let refused = two.begin().await.expect_err("claimed");
    assert!(
        matches!(&refused, CommitError::ConfigurationMismatch(claim) if claim.configuration["a.b"] == "1"),
        "{refused}"
    );
    // A configuration that was written after planning is not replaced either.
    assert!(matches!(overwriting.begin().await, Err(CommitError::ConfigurationMismatch(_))));
    let overwriting = commit_log.committer(configuration("3"), true).await.expect("memory");
    overwriting.begin().await.expect("replaced");
    assert!(matches!(one.begin().await, Err(CommitError::ConfigurationMismatch(_))), "the old job ends");
    // A worker that was frozen after its check finds out when it continues.
    let (commit, id) = (commit(b"a", 1), id());
    put_parts(&store, &commit, b"a").await;
    let begun = begun.earlier(Duration::from_secs(3600));
    let woken = one.commit(&CommitRequest::first(id.as_str(), &commit), begun).await;
    assert!(matches!(woken, Err(CommitError::ConfigurationMismatch(_))));
    assert!(!is_there(&store, &record()).await && !is_there(&store, &commit.captions.path).await);
}

/// Shards of one worker begin at different times; whichever replaces the configuration, none of them is refused.
#[tokio::test(start_paused = true)]
async fn a_worker_that_overwrites_is_not_refused_by_itself() {
    let slow = ThrottleConfig { wait_get_per_byte: Duration::from_millis(10), ..ThrottleConfig::default() };
    let memory: Arc<dyn ObjectStore> = Arc::new(ThrottledStore::new(InMemory::new(), slow));
    let settings = StoreSettings { timeout: Duration::from_secs(600), ..StoreSettings::default() };
    let mut stores = Stores::new(settings).wrapped(Arc::new(move |_| Arc::clone(&memory)));
    let commit_log = CommitLog::new(stores.locate("/out").expect("a path"));
    let configuration = |value: &str| [("a.b".to_owned(), value.to_owned())].into();
    commit_log.committer(configuration("1"), false).await.expect("memory").begin().await.expect("memory");
    let overwriting = commit_log.committer(configuration("2"), true).await.expect("memory");
    let begun = futures::future::join_all((0..60).map(async |n| {
        tokio::time::sleep(Duration::from_millis(100 * n)).await;
        overwriting.begin().await.map(drop)
    }));
    for (n, begun) in begun.await.into_iter().enumerate() {
        begun.unwrap_or_else(|error| panic!("shard {n}: {error}"));
    }
    let found = commit_log.configuration().await.expect("memory").expect("a configuration");
    assert_eq!(found.configuration["a.b"], "2");
}

#[tokio::test]
async fn deleted_shards_leave_nothing_and_recommitted_ones_stay() {
    let (store, out) = output();
    let (commit_log, one, id) = (CommitLog::new(out), commit(b"a", 1), id());
    let all = async || {
        let mut survey = commit_log.scan().await.expect("memory");
        let records = survey.take_records().into_iter();
        let with_parts = records.map(|(shard, record)| {
            let parts = survey.parts_of(&shard);
            (shard, (record, parts))
        });
        with_parts.collect::<BTreeMap<_, _>>()
    };
    put_parts(&store, &one, b"a").await;
    commit_log.commit(&CommitRequest::first(id.as_str(), &one), || false).await.expect("memory");
    let before = all().await;
    // Another worker committed the shard again after this was decided.
    let again = ShardCommit { fingerprint: "89ab-4567".into(), ..commit(b"b", 1) };
    put_parts(&store, &again, b"b").await;
    commit_log.commit(&CommitRequest::first(id.as_str(), &again), || false).await.expect("memory");
    commit_log.delete_shards(&before).await.expect("memory");
    assert_eq!(commit_log.list().await.expect("memory")[id.as_str()].len(), 2);
    assert!(is_there(&store, &one.captions.path).await);

    commit_log.delete_shards(&all().await).await.expect("memory");
    let objects = store.list_with_delimiter(Some(&Path::from("out"))).await.expect("memory");
    assert!(objects.objects.is_empty() && objects.common_prefixes.is_empty(), "{objects:?}");

    // A run that dies in between leaves a pending deletion.
    put_parts(&store, &one, b"a").await;
    put(&store, &format!("_recaption/removals/{id}.json"), b"{}").await;
    assert_eq!(commit_log.pending_deletions().await.expect("memory"), [id.as_str()]);
    let survey = commit_log.scan().await.expect("memory");
    commit_log.finish_deletion(id.as_str(), &survey.parts_of(id.as_str())).await.expect("memory");
    let objects = store.list_with_delimiter(Some(&Path::from("out"))).await.expect("memory");
    assert!(objects.objects.is_empty() && objects.common_prefixes.is_empty(), "{objects:?}");
}

#[tokio::test]
async fn outputs_of_old_versions_keep_their_names() {
    let (store, out) = output();
    let commit_log = CommitLog::new(out);
    let old = ShardId::old_from_url(URL);
    let part =
        |table: &str| PartInfo { path: format!("{table}/part-{old}.parquet"), ..commit(b"a", 1).rejects };
    let one = ShardCommit { captions: part("captions"), rejects: part("rejects"), ..commit(b"a", 1) };
    put_parts(&store, &one, b"r").await;
    let bytes = serde_json::to_vec(&one).expect("JSON");
    put(&store, &format!("_recaption/shards/{old}.{}.json", name().fingerprint()), &bytes).await;
    let mut survey = commit_log.scan().await.expect("memory");
    assert!(survey.done(URL, &name()).is_some());
    // When it changed, it gets new names, and nothing stays under the old ones.
    let changed = RecordName { input: "9999".into(), ..name() };
    let found = survey.take(URL, &changed);
    assert_eq!(
        (found.done.is_none(), found.stale_records.len(), found.orphaned_parts.len()),
        (true, 1, 2),
        "{found:?}"
    );
    commit_log.delete_stale(&found.stale_records, &found.orphaned_parts, None).await.expect("memory");
    let left = store.list_with_delimiter(Some(&Path::from("out/captions"))).await.expect("memory");
    assert!(left.objects.is_empty());
    assert!(commit_log.list().await.expect("memory").is_empty());
}
