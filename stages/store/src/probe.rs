//! Whether a location can be written: by writing a small object there and deleting it.

use object_store::{Error, ObjectStoreExt, PutMode, PutResult, UpdateVersion};

use crate::{Location, StoreError, StoreKind, lacks_conditional_put};

/// Content of the object, for whoever finds one that a killed process left.
const CONTENT: &[u8] = b"written by `recaption plan` to see whether this place can be written; delete it\n";

/// Puts a small object at `object`, where there must be none, and deletes it. Returns whether the store honours the conditions
/// of puts: one of an object that exists already must fail, and in a bucket one must replace exactly the object that was read.
///
/// # Errors
/// Returns an error when the object cannot be put or deleted. An object that was put before that is deleted if possible.
pub async fn probe_writes(object: &Location) -> Result<bool, StoreError> {
    let store_error = |source| StoreError::Store { url: object.url(), source };
    let first = match object.store.put_opts(&object.path, CONTENT.into(), PutMode::Create.into()).await {
        // Not the probe's object.
        Err(error @ (Error::AlreadyExists { .. } | Error::Precondition { .. })) => {
            return Err(store_error(error));
        }
        first => first,
    };
    let honoured = match first {
        Ok(first) => honours_conditions(object, first).await,
        Err(error) => Err(error),
    };
    let probed = match honoured {
        Err(error) if lacks_conditional_put(&error) => {
            object.store.put(&object.path, CONTENT.into()).await.map(|_| false)
        }
        probed => probed,
    };
    let deleted = object.delete().await;
    // The first error is the one to report.
    let has_conditional_puts = probed.map_err(store_error)?;
    deleted.map(|()| has_conditional_puts)
}

/// Puts the object twice more, each time on a condition. `first` is the result of its first put.
async fn honours_conditions(object: &Location, first: PutResult) -> Result<bool, Error> {
    let put = |mode: PutMode| object.store.put_opts(&object.path, CONTENT.into(), mode.into());
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
