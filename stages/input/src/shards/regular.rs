//! Rejects pipes, devices and sockets: reading one may block, or never end.

use std::os::unix::fs::FileTypeExt;

use object_store::Error;

use recaption_store::{Location, StoreKind, user_message};

use super::shard::LookupError;

impl From<Error> for LookupError {
    fn from(error: Error) -> Self {
        Self { message: user_message(&error), is_missing: matches!(error, Error::NotFound { .. }) }
    }
}

/// Rejects a path of this machine that exists and is not a file.
pub(super) async fn check_regular(location: &Location) -> Result<(), LookupError> {
    match irregular_kind(location).await {
        Some(kind) => {
            let message = format!("{}: it is {kind}, not a regular file", location.url());
            Err(LookupError { message, is_missing: true })
        }
        None => Ok(()),
    }
}

/// Returns what a path of this machine is, if it exists and is not a file or a folder.
pub(super) async fn irregular_kind(location: &Location) -> Option<&'static str> {
    if location.kind != StoreKind::Local {
        return None;
    }
    let path = location.local_path();
    // On a blocking thread: a file system may hang.
    let kind = tokio::task::spawn_blocking(move || std::fs::metadata(path).map(|meta| meta.file_type()));
    let kind = kind.await.ok()?.ok()?;
    if kind.is_fifo() {
        Some("a named pipe (FIFO)")
    } else if kind.is_socket() {
        Some("a socket")
    } else if kind.is_char_device() || kind.is_block_device() {
        Some("a device")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use recaption_store::Stores;

    #[tokio::test]
    async fn devices_and_sockets_are_rejected() {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("s.tar");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        std::fs::write(dir.path().join("f.tar"), "x").expect("a file");
        let mut stores = Stores::default();
        let mut check = async |path: &str| check_regular(&stores.locate(path).expect("a path")).await;
        let error = check(&socket.to_string_lossy()).await.expect_err("a socket");
        assert!(error.is_missing && error.message.contains("s.tar: it is a socket"), "{error:?}");
        assert!(check("/dev/zero").await.expect_err("a device").message.contains("a device"));
        assert!(check(&dir.path().join("f.tar").to_string_lossy()).await.is_ok());
    }
}
