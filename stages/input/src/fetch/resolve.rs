//! Host names -> addresses that may be fetched from.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::is_public;

/// A name that resolves to an address outside the public internet.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{name}` leads to {address}, which is not an address of the public internet; set {setting} = true to fetch from it"
)]
pub(super) struct Forbidden {
    name: String,
    address: IpAddr,
    setting: &'static str,
}

/// Resolves names to checked addresses only. The client connects to these, without a second lookup between check and
/// connection.
pub(super) struct PublicResolver {
    /// The resolver whose results are checked.
    pub(super) inner: Arc<dyn Resolve>,
    /// Whether the check is off.
    pub(super) allow_private: bool,
    /// Name of that setting in errors.
    pub(super) setting: &'static str,
}

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (text, allow_private, setting) = (name.as_str().to_owned(), self.allow_private, self.setting);
        let resolving = self.inner.resolve(name);
        Box::pin(async move {
            let found: Vec<SocketAddr> = resolving.await?.collect();
            // One such address among others is refused too: it is an attack and not a mirror.
            match found.iter().find(|address| !allow_private && !is_public(address.ip())) {
                Some(address) => Err(Forbidden { name: text, address: address.ip(), setting }.into()),
                None => Ok(Box::new(found.into_iter()) as Addrs),
            }
        })
    }
}

/// The resolver of the operating system.
pub(super) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
