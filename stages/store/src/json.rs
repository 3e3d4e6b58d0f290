//! Small JSON documents in a store.

use object_store::{ObjectStoreExt, PutPayload};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Location, StoreError};

/// Reads a small JSON document, if there is one.
///
/// # Errors
/// When it cannot be read or parsed.
pub async fn read_json<T: DeserializeOwned>(place: &Location) -> Result<Option<T>, StoreError> {
    let store_error = |source| StoreError::Store { url: place.url(), source };
    let bytes = match place.store.get(&place.path).await {
        Ok(got) => got.bytes().await.map_err(store_error)?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(store_error(source)),
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed
        .map(Some)
        .map_err(|e| StoreError::Record { url: place.url(), what: format!("malformed record: {e}") })
}

/// Writes a small JSON document.
///
/// # Errors
/// When the store refuses.
pub async fn write_json(place: &Location, value: &impl Serialize) -> Result<(), StoreError> {
    let payload = PutPayload::from(to_json(place, value)?);
    let put = place.store.put(&place.path, payload).await;
    put.map(drop).map_err(|source| StoreError::Store { url: place.url(), source })
}

/// Serialises `value`, indented and with a final newline. `place` is named in errors.
///
/// # Errors
/// When `value` has no JSON form.
pub fn to_json(place: &Location, value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|e| StoreError::Record { url: place.url(), what: e.to_string() })?;
    bytes.push(b'\n');
    Ok(bytes)
}
