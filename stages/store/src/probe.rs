//! Whether a location can be written: by writing a small object there and deleting it.

use object_store::{Error, ObjectStoreExt, PutMode, UpdateVersion};

use crate::{Location, StoreError, StoreKind, lacks_conditional_put};

/// Content of the object, for whoever finds one that a killed process left.
const CONTENT: &[u8] = b"written by `recaption plan` to see whether this place can be written; delete it\n";

/// Puts a small object at `object`, where there must be none, and deletes it. Returns whether the store honours the conditions
/// of puts: one of an object that exists already must fail, and in a bucket one must replace exactly the object that was read.
///
/// # Errors
/// Returns an error when the object cannot be put or deleted.
pub async fn probe_writes(object: &Location) -> Result<bool, StoreError> {
    let has_conditional_puts = match put_on_conditions(object).await {
        Ok(honoured) => honoured,
        Err(error) if lacks_conditional_put(&error) => {
            let put = object.store.put(&object.path, CONTENT.into()).await;
            put.map_err(|source| StoreError::Store { url: object.url(), source })?;
            false
        }
        Err(source) => return Err(StoreError::Store { url: object.url(), source }),
    };
    object.delete().await?;
    Ok(has_conditional_puts)
}

/// Puts an object three times: each time on a condition.
async fn put_on_conditions(object: &Location) -> Result<bool, Error> {
    let put = |mode: PutMode| object.store.put_opts(&object.path, CONTENT.into(), mode.into());
    let first = put(PutMode::Create).await?;
    match put(PutMode::Create).await {
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
        // The condition was ignored.
        Ok(_) => return Ok(false),
        Err(error) => return Err(error),
    }
    // A file system has a lock in place of this one.
    if object.kind == StoreKind::Local {
        return Ok(true);
    }
    put(PutMode::Update(UpdateVersion::from(first))).await.map(|_| true)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::Stores;

    #[tokio::test]
    async fn probes_leave_nothing_behind() {
        let memory = Arc::new(InMemory::new());
        let store: Arc<dyn object_store::ObjectStore> = memory.clone();
        let mut stores = Stores::default().wrapped(Arc::new(move |_| Arc::clone(&store)));
        let object = stores.locate("/out/_recaption/probe.json").expect("a path");
        for kind in [StoreKind::Local, StoreKind::Bucket] {
            assert!(probe_writes(&Location { kind, ..object.clone() }).await.expect("memory"));
        }
        assert!(object.list().await.expect("memory").is_empty());
        memory.put(&object.path, "x".into()).await.expect("memory");
        assert!(probe_writes(&object).await.is_err(), "an existing object is not touched");
    }
}
