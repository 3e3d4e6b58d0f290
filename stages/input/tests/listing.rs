//! What patterns on a bucket name, over a store in memory.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

use std::sync::Arc;

use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use recaption_input::{
    format::InputFormat,
    shards::{ListError, ShardRef, ShardSource, list_shards},
};
use recaption_store::Stores;

const JPEG: &[u8] = b"\xff\xd8\xff\xe0 and so on";

/// A bucket with these objects.
async fn bucket(objects: &[&str]) -> Stores {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    for name in objects {
        memory.put(&Path::from(*name), JPEG.into()).await.expect("memory");
    }
    Stores::default().wrapped(Arc::new(move |_| Arc::clone(&memory)))
}

async fn list(stores: &mut Stores, pattern: &str) -> Result<Vec<ShardRef>, ListError> {
    list_shards(stores, &[pattern.to_owned()], InputFormat::Auto).await
}

fn urls(shards: &[ShardRef]) -> Vec<&str> {
    shards.iter().map(|shard| shard.url.as_str()).collect()
}

#[tokio::test]
async fn bucket_prefix_without_a_slash_is_a_folder() {
    let mut stores = bucket(&["photos/a.jpg", "photos/2024/b.jpg", "tars/0.tar", "photos2/c.jpg"]).await;
    for pattern in ["s3://data/photos", "s3://data/photos/"] {
        let shards = list(&mut stores, pattern).await.expect(pattern);
        assert_eq!(urls(&shards), ["s3://data/photos/", "s3://data/photos/2024/"], "{pattern}");
        assert!(shards.iter().all(|shard| matches!(shard.source, ShardSource::Folder { .. })), "{shards:?}");
    }
    assert_eq!(urls(&list(&mut stores, "s3://data/tars").await.expect("a folder")), ["s3://data/tars/0.tar"]);
    let error = list(&mut stores, "s3://data/photo").await.expect_err("neither an object nor a folder");
    assert!(matches!(error, ListError::AllUnavailable { shards: 1, .. }), "{error}");
}

#[tokio::test]
async fn object_comes_before_a_folder_of_its_name() {
    let mut stores = bucket(&["photos", "photos/a.jpg"]).await;
    let shards = list(&mut stores, "s3://data/photos").await.expect("an object");
    assert_eq!(urls(&shards), ["s3://data/photos"]);
    assert!(matches!(shards[0].source, ShardSource::Object(_)), "{shards:?}");
}

#[tokio::test]
async fn missing_shard_among_others_is_unavailable() {
    let mut stores = bucket(&["0.tar", "2.tar"]).await;
    let shards = list(&mut stores, "s3://data/{0..2}.tar").await.expect("two of three shards");
    let missing: Vec<_> =
        shards.iter().map(|shard| shard.lookup_error().map(|error| error.is_missing)).collect();
    assert_eq!(missing, [None, Some(true), None]);
    assert_eq!((shards[1].size(), shards[1].tag(), shards[0].size()), (0, None, JPEG.len() as u64));
}
