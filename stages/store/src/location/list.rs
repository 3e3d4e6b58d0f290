//! Listings of everything below a location.

use futures::TryStreamExt;
use object_store::{Error, ObjectMeta};

use super::{
    Location, StoreKind,
    ranges::{LIST_RETRIES, RangeError, RangeListing, too_many},
};
use crate::{ErrorKind, StoreError, user_message};

/// Most objects of one listing: some gigabytes of memory, and 10,000 requests.
pub(super) const MAX_LISTED: usize = 10_000_000;

impl Location {
    /// Lists all objects below this location, in no order. Returns none where there is no such folder. A listing that
    /// ends early starts over, or goes on where it ended.
    ///
    /// # Errors
    /// Returns an error when the store fails for good, or lists more than 10 million objects.
    pub async fn list(&self) -> Result<Vec<ObjectMeta>, StoreError> {
        self.list_as(Some).await
    }

    /// As [`Location::list`], but returns only what `keep` makes of each object: a million descriptions are 250 MB. Buckets of
    /// S3 and Google Cloud Storage with many objects are listed in several ranges of keys at once.
    ///
    /// # Errors
    /// As [`Location::list`].
    pub async fn list_as<T: Send>(
        &self,
        mut keep: impl FnMut(ObjectMeta) -> Option<T> + Send,
    ) -> Result<Vec<T>, StoreError> {
        let failed = |source| StoreError::Store { url: self.url(), source };
        if self.can_list_ranges() {
            match RangeListing::new(self, MAX_LISTED, &mut keep).run().await {
                Ok(all) => return Ok(all),
                Err(RangeError::Store(source)) => return Err(failed(source)),
                Err(RangeError::Unordered) => {
                    tracing::debug!(folder = self.url(), "store lists out of order; listing page by page");
                }
            }
        }
        let mut budget = LIST_RETRIES.budget();
        loop {
            let error = match self.list_bounded(MAX_LISTED, &mut keep).await {
                Ok(all) => return Ok(all),
                Err(Error::NotFound { .. }) if self.kind == StoreKind::Local => return Ok(Vec::new()),
                Err(error) => error,
            };
            let transient = ErrorKind::of(&error) == ErrorKind::Transient;
            let Some(pause) = transient.then(|| budget.next_pause(None)).flatten() else {
                return Err(failed(error));
            };
            tracing::warn!(folder = self.url(), error = user_message(&error), "listing failed; retrying");
            tokio::time::sleep(pause).await;
        }
    }

    /// Returns whether the store lists in the order of keys and can begin after any of them. Azure cannot in accounts with
    /// hierarchical names, and S3's directory buckets (Express One Zone) have no order.
    fn can_list_ranges(&self) -> bool {
        // In memory every listing begins with the first key.
        self.can_list_between() && !self.base.starts_with("memory:")
    }

    /// Lists at most `max` objects below this location. A store that repeats its first page is an error: its listing
    /// would never end.
    pub(super) async fn list_bounded<T>(
        &self,
        max: usize,
        mut keep: impl FnMut(ObjectMeta) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut listing = self.store.list(Some(&self.path));
        let (mut all, mut first, mut count) = (Vec::new(), None, 0);
        while let Some(meta) = listing.try_next().await? {
            if first.as_ref() == Some(&meta.location) {
                let what = format!(
                    "the listing starts over with {} after {count} objects: the store's paging is broken",
                    meta.location
                );
                return Err(Error::Generic { store: "listing", source: what.into() });
            }
            if count == max {
                return Err(too_many(max));
            }
            count += 1;
            first = first.or_else(|| Some(meta.location.clone()));
            all.extend(keep(meta));
        }
        Ok(all)
    }
}
