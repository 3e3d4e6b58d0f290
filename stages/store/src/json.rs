//! Small JSON documents in a store.

use object_store::{ObjectStoreExt, PutPayload};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Location, StoreError};

/// Reads a small JSON document. Returns `None` where there is none.
///
/// # Errors
/// Returns an error when the document cannot be read or parsed.
pub async fn read_json<T: DeserializeOwned>(location: &Location) -> Result<Option<T>, StoreError> {
    let store_error = |source| StoreError::Store { url: location.url(), source };
    let bytes = match location.store.get(&location.path).await {
        Ok(got) => got.bytes().await.map_err(store_error)?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(store_error(source)),
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed
        .map(Some)
        .map_err(|e| StoreError::Record { url: location.url(), what: format!("malformed record: {e}") })
}

/// Writes a small JSON document; an existing one is replaced.
///
/// # Errors
/// Returns an error when the store fails.
pub async fn write_json(location: &Location, value: &impl Serialize) -> Result<(), StoreError> {
    let payload = PutPayload::from(to_json(location, value)?);
    let put = location.store.put(&location.path, payload).await;
    put.map(drop).map_err(|source| StoreError::Store { url: location.url(), source })
}

/// Serialises `value`, indented and with a final newline. `location` is named in errors.
///
/// # Errors
/// Returns an error when `value` has no JSON form.
pub fn to_json(location: &Location, value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|e| StoreError::Record { url: location.url(), what: e.to_string() })?;
    bytes.push(b'\n');
    Ok(bytes)
}
