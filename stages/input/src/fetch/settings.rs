//! Limits of fetching.

use std::time::Duration;

/// How images are fetched, and what is not.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchSettings {
    /// Time limit of one attempt, body included.
    pub timeout: Duration,
    /// Retries after a transient failure.
    pub retries: u32,
    /// Largest image, bytes.
    pub max_bytes: u64,
    /// Images fetched at the same time, over all lists.
    pub concurrency: usize,
    /// Requests to one host at the same time, over all lists.
    pub per_host: usize,
    /// `User-Agent` header.
    pub user_agent: String,
    /// Whether addresses outside the public internet may be fetched.
    pub allow_private: bool,
    /// Name under which the caller configures `allow_private`, for messages.
    pub allow_private_setting: &'static str,
    /// Directives of `X-Robots-Tag` that opt an image out.
    pub opt_out: Vec<String>,
    /// Redirects followed for one image.
    pub max_redirects: usize,
}

impl Default for FetchSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(20),
            retries: 2,
            max_bytes: 32 << 20,
            concurrency: 64,
            per_host: 8,
            user_agent: concat!("recaption/", env!("CARGO_PKG_VERSION")).to_owned(),
            allow_private: false,
            allow_private_setting: "allow_private",
            opt_out: ["noai", "noimageai", "noindex", "noimageindex"].map(str::to_owned).to_vec(),
            max_redirects: 5,
        }
    }
}
