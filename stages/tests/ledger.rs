//! Commit records where answers are lost and where workers meet.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

use std::sync::Arc;

use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use recaption_stages::{
    commits::{Committed, Ledger},
    schemas::{COMMIT_FORMAT, Counts, PartInfo, ShardCommit, sha256_hex},
    store::{Location, StoreError, Stores},
};

const SHARD: &str = "00000-0badcafe";

fn output() -> (Arc<dyn ObjectStore>, Location) {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let inner = Arc::clone(&memory);
    let mut stores = Stores::default().wrapped(Arc::new(move |_| Arc::clone(&inner)));
    let location = stores.locate("/out").expect("a path");
    (memory, location)
}

/// A record of parts with these bytes.
fn commit(captions: &[u8], rejected: u64) -> ShardCommit {
    let part = |path: &str, bytes: &[u8]| PartInfo {
        path: format!("{path}/part-{SHARD}.parquet"),
        rows: 0,
        bytes: bytes.len() as u64,
        sha256: Some(sha256_hex(bytes)),
    };
    ShardCommit {
        format: COMMIT_FORMAT,
        shard: "list.csv".into(),
        size: 1,
        etag: None,
        fingerprint: "0123-4567".into(),
        configuration: [].into(),
        model: "m".into(),
        counts: Counts { rejected, ..Counts::default() },
        damaged: None,
        captions: part("captions", captions),
        rejects: part("rejects", b"r"),
    }
}

async fn put(store: &Arc<dyn ObjectStore>, name: &str, bytes: &[u8]) {
    store.put(&Path::from(format!("out/{name}")), bytes.to_vec().into()).await.expect("memory");
}

#[tokio::test]
async fn a_record_that_is_there_and_says_the_same_is_this_one() {
    let (_, out) = output();
    let ledger = Ledger::new(out);
    assert_eq!(ledger.commit(SHARD, &commit(b"a", 1)).await.expect("memory"), Committed::Now);
    assert_eq!(ledger.commit(SHARD, &commit(b"a", 1)).await.expect("memory"), Committed::Before);
}

#[tokio::test]
async fn a_record_of_other_rows_gives_way_to_the_one_whose_parts_are_there() {
    let (store, out) = output();
    let ledger = Ledger::new(out);
    // Another worker was first; then this one's parts took the place of its parts.
    ledger.commit(SHARD, &commit(b"theirs", 1)).await.expect("memory");
    put(&store, &format!("captions/part-{SHARD}.parquet"), b"ours").await;
    put(&store, &format!("rejects/part-{SHARD}.parquet"), b"r").await;
    let ours = commit(b"ours", 2);
    assert_eq!(ledger.commit(SHARD, &ours).await.expect("memory"), Committed::Instead);
    let names = ledger.list().await.expect("memory").remove(SHARD).expect("a record");
    assert_eq!(ledger.find(SHARD, &names[0]).await.expect("memory"), Some(ours));

    // And where the other's parts came last, no record is left beside parts that it does not describe.
    put(&store, &format!("captions/part-{SHARD}.parquet"), b"theirs").await;
    let error = ledger.commit(SHARD, &commit(b"ours", 3)).await.expect_err("other parts");
    assert!(matches!(&error, StoreError::Record { what, .. } if what.contains("another worker")), "{error}");
    assert!(ledger.list().await.expect("memory").is_empty(), "the shard is done again");
}

#[tokio::test]
async fn a_record_that_is_no_record_is_replaced() {
    let (store, out) = output();
    let ledger = Ledger::new(out);
    put(&store, &format!("_recaption/shards/{SHARD}.0123-4567.json"), b"{ half").await;
    put(&store, &format!("captions/part-{SHARD}.parquet"), b"a").await;
    put(&store, &format!("rejects/part-{SHARD}.parquet"), b"r").await;
    assert_eq!(ledger.commit(SHARD, &commit(b"a", 1)).await.expect("memory"), Committed::Instead);
}

#[tokio::test]
async fn a_shard_that_is_removed_leaves_nothing_and_one_that_was_done_again_stays() {
    let (store, out) = output();
    let ledger = Ledger::new(out);
    ledger.commit(SHARD, &commit(b"a", 1)).await.expect("memory");
    let before = ledger.list().await.expect("memory");
    let fill = async || {
        put(&store, &format!("captions/part-{SHARD}.parquet"), b"a").await;
        put(&store, &format!("rejects/part-{SHARD}.parquet"), b"r").await;
    };
    fill().await;
    // Another worker did it again after this was decided.
    let again = ShardCommit { fingerprint: "89ab-4567".into(), ..commit(b"a", 1) };
    ledger.commit(SHARD, &again).await.expect("memory");
    ledger.remove_shards(&before).await.expect("memory");
    assert_eq!(ledger.list().await.expect("memory")[SHARD].len(), 2);
    assert!(store.head(&Path::from(format!("out/captions/part-{SHARD}.parquet"))).await.is_ok());

    ledger.remove_shards(&ledger.list().await.expect("memory")).await.expect("memory");
    let objects = store.list_with_delimiter(Some(&Path::from("out"))).await.expect("memory");
    assert!(objects.objects.is_empty() && objects.common_prefixes.is_empty(), "{objects:?}");

    // A run that dies in between leaves a note of what it was about.
    fill().await;
    put(&store, &format!("_recaption/removals/{SHARD}.json"), b"{}").await;
    assert_eq!(ledger.removals().await.expect("memory"), [SHARD]);
    ledger.finish_removal(SHARD).await.expect("memory");
    let objects = store.list_with_delimiter(Some(&Path::from("out"))).await.expect("memory");
    assert!(objects.objects.is_empty() && objects.common_prefixes.is_empty(), "{objects:?}");
}
