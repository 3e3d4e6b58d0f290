//! What can be opened at all: a pipe, a device or a socket would wait for somebody, or never end.

use std::os::unix::fs::FileTypeExt;

use object_store::Error;

use recaption_store::{Location, StoreKind, user_message};

/// Why a shard cannot be looked at.
#[derive(Debug)]
pub(super) struct Absent {
    /// In words.
    pub why: String,
    /// Whether there is nothing that could be read, and not only no way to it.
    pub is_absent: bool,
}

impl From<Error> for Absent {
    fn from(error: Error) -> Self {
        Self { why: user_message(&error), is_absent: matches!(error, Error::NotFound { .. }) }
    }
}

/// Refuses what is there on this machine and no file.
pub(super) async fn check(location: &Location) -> Result<(), Absent> {
    match irregular(location).await {
        Some(what) => {
            Err(Absent { why: format!("{}: it is {what}, no regular file", location.url()), is_absent: true })
        }
        None => Ok(()),
    }
}

/// What stands in a file's place on this machine, where it is none.
pub(super) async fn irregular(location: &Location) -> Option<&'static str> {
    if location.kind != StoreKind::Local {
        return None;
    }
    let path = location.local_path();
    // Not on a thread of the runtime: a file system may hang.
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
    async fn devices_and_sockets_are_told_by_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("s.tar");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        std::fs::write(dir.path().join("f.tar"), "x").expect("a file");
        let mut stores = Stores::default();
        let mut check = async |path: &str| check(&stores.locate(path).expect("a path")).await;
        let error = check(&socket.to_string_lossy()).await.expect_err("a socket");
        assert!(error.is_absent && error.why.contains("s.tar: it is a socket"), "{error:?}");
        assert!(check("/dev/zero").await.expect_err("a device").why.contains("a device"));
        assert!(check(&dir.path().join("f.tar").to_string_lossy()).await.is_ok());
    }
}
