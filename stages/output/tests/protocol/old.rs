//! The commit protocol of versions before 0.2: parts of one name for all attempts, records that are deleted before parts are
//! replaced, and a last record that wins. It is kept to show that the exploration finds its faults.

use std::{future::Future, pin::Pin, rc::Rc, sync::Arc};

use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, path::Path};
use recaption_schemas::sha256_hex;
use serde_json::{Value, json};

use super::{
    explore::Program,
    store::{ModelStore, Objects},
};

const CAPTIONS: &str = "out/captions/part-0.parquet";
const REJECTS: &str = "out/rejects/part-0.parquet";

fn record(configuration: &str) -> String {
    format!("out/_recaption/shards/0.1-{configuration}.json")
}

/// A worker of the old protocol with one shard.
pub(crate) fn program(configuration: &'static str, who: u32, overwrite: bool) -> Program {
    Rc::new(move |store| -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            let _ = work(store, configuration, who, overwrite).await;
        })
    })
}

async fn work(
    store: Arc<ModelStore>,
    configuration: &str,
    who: u32,
    overwrite: bool,
) -> object_store::Result<()> {
    use futures::TryStreamExt;
    let folder = Path::from("out/_recaption/shards");
    let there: Vec<_> = store.list(Some(&folder)).try_collect().await?;
    let own = record(configuration);
    let stale: Vec<Path> = there
        .into_iter()
        .map(|meta| meta.location)
        .filter(|place| place.as_ref() != own || overwrite)
        .collect();
    if !overwrite && store.get(&Path::from(own.clone())).await.is_ok() {
        return Ok(());
    }
    for place in &stale {
        store
            .delete(place)
            .await
            .or_else(|e| if matches!(e, Error::NotFound { .. }) { Ok(()) } else { Err(e) })?;
    }
    let part = |table: &str| format!("{table} {configuration} {who}").into_bytes();
    let (captions, rejects) = (part("captions"), part("rejects"));
    store.put(&Path::from(CAPTIONS), captions.clone().into()).await?;
    store.put(&Path::from(REJECTS), rejects.clone().into()).await?;
    let says = json!({ CAPTIONS: sha256_hex(&captions), REJECTS: sha256_hex(&rejects) });
    let (place, bytes) = (Path::from(own), says.to_string().into_bytes());
    match store.put_opts(&place, bytes.clone().into(), PutMode::Create.into()).await {
        Err(Error::AlreadyExists { .. }) => {}
        other => return other.map(drop),
    }
    if store.get(&place).await?.bytes().await? == bytes {
        return Ok(());
    }
    store.put(&place, bytes.into()).await?;
    for (path, wanted) in [(CAPTIONS, &captions), (REJECTS, &rejects)] {
        if store.get(&Path::from(path)).await?.bytes().await? != *wanted {
            store.delete(&place).await?;
            return Ok(());
        }
    }
    Ok(())
}

/// Returns a part that does not match its record when all workers are dead: the old planner compared record names only, so
/// it would not repair it.
pub(crate) fn problem_of(objects: &Objects) -> Option<String> {
    for (path, bytes) in objects.iter().filter(|(path, _)| path.starts_with("out/_recaption/shards/")) {
        let says: Value = serde_json::from_slice(bytes).expect("a record");
        for part in [CAPTIONS, REJECTS] {
            let sum = objects.get(part).map(|bytes| sha256_hex(bytes));
            if sum.as_deref() != says[part].as_str() {
                return Some(format!("{path} stands, and {part} does not match its record"));
            }
        }
    }
    None
}
