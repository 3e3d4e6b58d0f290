//! A name -> the object's size and version tag.

use std::collections::HashMap;

use futures::{StreamExt, stream};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStoreExt, path::Path};
use recaption_store::{Folder, Location, StoreKind, is_unversioned};

use super::{
    regular::check_regular,
    shard::{LookupError, ShardRef, ShardSource},
    unversioned::version_by_content,
    version::ObjectVersion,
};

/// Lookups in flight.
const CONCURRENT_LOOKUPS: usize = 32;
/// Number of shards in one folder of a bucket from which on the folder is listed instead.
const MIN_SHARDS_TO_LIST: usize = 64;

/// Looks up shards. Many in one folder of a bucket are found by listing it, a thousand objects per request.
pub(super) async fn look_up(locations: Vec<Location>) -> Vec<ShardRef> {
    let mut counts: HashMap<Folder, (usize, Location)> = HashMap::new();
    for location in locations.iter().filter(|l| matches!(l.kind, StoreKind::Bucket | StoreKind::Hub)) {
        let key = location.folder();
        let folder = location.at(key.1.clone());
        counts.entry(key).or_insert((0, folder)).0 += 1;
    }
    let mut listed: HashMap<Folder, HashMap<Path, ObjectMeta>> = HashMap::new();
    for (key, (_, folder)) in counts.into_iter().filter(|(_, (count, _))| *count >= MIN_SHARDS_TO_LIST) {
        // A folder that cannot be listed may still be read by name.
        if let Ok(found) = folder.store.list_with_delimiter(Some(&folder.path)).await {
            let metas = found.objects.into_iter().map(|meta| (meta.location.clone(), meta));
            listed.insert(key, metas.collect());
        }
    }
    // Listings may lag behind: an object that is not listed is looked up by name.
    let known = locations.into_iter().map(|location| {
        let meta = listed.get(&location.folder()).and_then(|folder| folder.get(&location.path).cloned());
        (location, meta)
    });
    stream::iter(known.collect::<Vec<_>>())
        .map(|(location, meta)| async move {
            match meta {
                Some(meta) => ShardRef::of_object(location, &meta),
                None => match version_of(&location).await {
                    Ok(version) => ShardRef::new(location, ShardSource::Object(version)),
                    Err(error) => ShardRef::unavailable(location, error),
                },
            }
        })
        .buffered(CONCURRENT_LOOKUPS)
        .collect()
        .await
}

/// Returns the version of an object. A web server may reject HEAD (a presigned GET does); one byte is requested then.
async fn version_of(location: &Location) -> Result<ObjectVersion, LookupError> {
    check_regular(location).await?;
    let meta = match location.store.head(&location.path).await {
        Ok(meta) => meta,
        Err(_) if location.kind == StoreKind::Http => {
            let options = GetOptions::new().with_range(Some(GetRange::Bounded(0..1)));
            location.store.get_opts(&location.path, options).await.map(|r| r.meta)?
        }
        Err(error) => return Err(error.into()),
    };
    if location.kind == StoreKind::Http && is_unversioned(&meta) {
        return Ok(version_by_content(location, &meta).await?);
    }
    Ok(ObjectVersion::of_meta(&meta, location.kind))
}
