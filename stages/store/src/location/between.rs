//! A listing of the names between two others: what of a large folder is of interest, for the price of a page.

use std::time::Duration;

use futures::{TryStreamExt, stream::BoxStream};
use object_store::ObjectMeta;

use super::Location;
use crate::{ErrorKind, RetryPolicy, StoreError};

/// Further attempts at a listing that ends early.
const RETRIES: RetryPolicy = RetryPolicy::new(4, Duration::from_secs(1), Duration::from_secs(1));

/// The names that were listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamesBetween {
    /// Names of objects directly in the folder, in their order.
    pub names: Vec<String>,
    /// Whether there may be more names after the last one, because as many as allowed were listed.
    pub is_cut: bool,
}

impl Location {
    /// Returns whether [`Location::list_between`] reads only the pages with these names. Other stores list the whole folder.
    #[must_use]
    pub fn can_list_between(&self) -> bool {
        let is_ordered =
            ["s3://", "s3a://", "gs://", "memory:"].iter().any(|base| self.base.starts_with(base));
        // Directory buckets of S3 have no order.
        is_ordered && !self.base.ends_with("--x-s3")
    }

    /// Lists the names in this folder that are greater than `after` and less than `until`, at most `max` of them where the
    /// store can list a part of a folder. Returns none where there is no such folder.
    ///
    /// # Errors
    /// Returns an error when the store fails for good.
    pub async fn list_between(
        &self,
        (after, until): (&str, &str),
        max: usize,
    ) -> Result<NamesBetween, StoreError> {
        if !self.can_list_between() {
            let metas = self.list().await?;
            let mut names: Vec<String> = metas.iter().filter_map(|meta| self.name_in(meta)).collect();
            names.retain(|name| name.as_str() > after && name.as_str() < until);
            names.sort_unstable();
            return Ok(NamesBetween { names, is_cut: false });
        }
        let mut budget = RETRIES.budget();
        loop {
            let listing = self.store.list_with_offset(Some(&self.path), &self.child(after).path);
            let source = match self.names_until(listing, until, max).await {
                Ok(names) => return Ok(names),
                Err(error) => error,
            };
            let transient = ErrorKind::of(&source) == ErrorKind::Transient;
            let Some(pause) = transient.then(|| budget.next_pause(None)).flatten() else {
                return Err(StoreError::Store { url: self.url(), source });
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads a listing up to a name. What follows is not requested.
    async fn names_until(
        &self,
        mut listing: BoxStream<'static, object_store::Result<ObjectMeta>>,
        until: &str,
        max: usize,
    ) -> object_store::Result<NamesBetween> {
        let mut found = NamesBetween::default();
        while let Some(meta) = listing.try_next().await? {
            let Some(name) = self.name_in(&meta) else { continue };
            if name.as_str() >= until {
                break;
            }
            found.names.push(name);
            if found.names.len() == max {
                found.is_cut = true;
                break;
            }
        }
        Ok(found)
    }

    /// Returns the name of an object directly in this folder.
    fn name_in(&self, meta: &ObjectMeta) -> Option<String> {
        let name = meta.location.as_ref().strip_prefix(self.path.as_ref())?;
        let name = name.strip_prefix('/').unwrap_or(name);
        (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    async fn folder() -> Location {
        let folder = Location::nowhere().child("folder");
        for name in ["a.json", "b.1.json", "b.2.json", "b-1.json", "c.json", "d/e.json"] {
            let path = folder.child(name).path;
            folder.store.put(&path, "x".into()).await.expect("put");
        }
        folder
    }

    #[tokio::test]
    async fn names_between_two_others_are_listed() {
        let folder = folder().await;
        let list = async |after, until, max| folder.list_between((after, until), max).await.expect("listed");
        let found = list("a", "b/", 10).await;
        assert_eq!(found.names, ["a.json", "b-1.json", "b.1.json", "b.2.json"]);
        assert!(!found.is_cut);
        assert_eq!(list("b", "b/", 10).await.names, ["b-1.json", "b.1.json", "b.2.json"]);
        let cut = list("a", "z", 2).await;
        assert_eq!((cut.names.len(), cut.is_cut), (2, true));
        assert_eq!(list("x", "z", 10).await, NamesBetween::default());
        assert_eq!(list("c", "z", 10).await.names, ["c.json"], "no names of folders below");
    }

    #[tokio::test]
    async fn folders_of_a_file_system_are_listed_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut stores = crate::Stores::new(crate::StoreSettings::default());
        let folder = stores.locate(&dir.path().display().to_string()).expect("a location");
        assert!(!folder.can_list_between());
        let missing = folder.child("missing").list_between(("a", "z"), 1).await.expect("listed");
        assert_eq!(missing, NamesBetween::default());
        for name in ["a.json", "b.json", "c.json"] {
            std::fs::write(dir.path().join(name), "x").expect("written");
        }
        let found = folder.list_between(("a", "c"), 1).await.expect("listed");
        assert_eq!(found.names, ["a.json", "b.json"]);
    }
}
