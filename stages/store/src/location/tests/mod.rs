//! Listings of a store that repeats its first page.

mod ranges;

use futures::{StreamExt, stream::BoxStream};
use object_store::memory::InMemory;

use super::{list::MAX_LISTED, *};
use crate::{StoreSettings, Stores};

fn location() -> Location {
    let mut stores = Stores::new(StoreSettings::default());
    let dir = tempfile::tempdir().expect("a folder");
    stores.locate(&dir.path().to_string_lossy()).expect("a location")
}

/// A store whose listings repeat the same page without end.
#[derive(Debug)]
struct Endless(InMemory);

impl std::fmt::Display for Endless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Endless")
    }
}

impl Endless {
    fn pages() -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let meta = |i: u64| ObjectMeta {
            location: Path::from(format!("a/{i}")),
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: 1,
            e_tag: None,
            version: None,
        };
        futures::stream::iter((0..1000).cycle().map(move |i| Ok(meta(i)))).boxed()
    }
}

#[async_trait::async_trait]
impl ObjectStore for Endless {
    async fn put_opts(
        &self,
        location: &Path,
        payload: object_store::PutPayload,
        options: object_store::PutOptions,
    ) -> object_store::Result<object_store::PutResult> {
        self.0.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: object_store::PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        self.0.put_multipart_opts(location, options).await
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: object_store::GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        self.0.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        Self::pages()
    }

    async fn list_with_delimiter(
        &self,
        prefix: Option<&Path>,
    ) -> object_store::Result<object_store::ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: object_store::CopyOptions,
    ) -> object_store::Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn listings_that_repeat_or_grow_too_large_are_errors() {
    let location = Location { store: Arc::new(Endless(InMemory::new())), ..location() };
    let error = location.list_bounded(MAX_LISTED, Some).await.expect_err("the same page again").to_string();
    assert!(error.contains("starts over with a/0 after 1000 objects"), "{error}");
    let error = location.list_bounded(10, Some).await.expect_err("too many").to_string();
    assert!(error.contains("more than 10 objects"), "{error}");
}
