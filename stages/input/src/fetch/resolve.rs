//! Names -> addresses that may be asked.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::is_public;

/// A name that leads into the own network.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` leads to {address}, which is not an address of the public internet")]
pub(super) struct Forbidden {
    name: String,
    address: IpAddr,
}

/// Lets a client connect to judged addresses only: there is no second look-up between the judgement and the connection.
pub(super) struct Guard {
    /// Who resolves.
    pub inner: Arc<dyn Resolve>,
    /// Whether nothing is judged.
    pub allow_private: bool,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (text, allow_private) = (name.as_str().to_owned(), self.allow_private);
        let resolving = self.inner.resolve(name);
        Box::pin(async move {
            let found: Vec<SocketAddr> = resolving.await?.collect();
            // One address of the own network among others is a trap, not a mirror.
            match found.iter().find(|address| !allow_private && !is_public(address.ip())) {
                Some(address) => Err(Forbidden { name: text, address: address.ip() }.into()),
                None => Ok(Box::new(found.into_iter()) as Addrs),
            }
        })
    }
}

/// Names as this machine resolves them.
pub(super) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
