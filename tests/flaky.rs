//! Stores that fail all the time: the rows are the same as without faults, none lost, none twice.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{io::Write, path::Path, sync::Arc, time::Duration};

use object_store::{ObjectStore, ObjectStoreExt, PutPayload, memory::InMemory, path::Path as StorePath};
use recaption::{
    config::{Layers, RunConfig},
    run::{Reporter, RunOptions, RunReport, Stop, run_over},
};
use recaption_store::{RetryPolicy, RetryingStore, StoreSettings, Stores};
use support::{
    Dice, Place,
    flaky::{Faults, Flaky, Refusal},
    model, output,
    shards::Pack,
};

/// Short timeouts and pauses, so that silent connections do not take long.
fn impatient() -> StoreSettings {
    StoreSettings {
        retry: RetryPolicy::new(12, Duration::from_millis(1), Duration::from_millis(20)),
        timeout: Duration::from_millis(400),
        ..StoreSettings::default()
    }
}

fn faults(rate: f64, seed: u64) -> Flaky {
    Flaky::new(Faults { rate, silence: Duration::from_millis(600), seed, refusal: None })
}

fn config(input: &Path, out: &Path) -> RunConfig {
    let mut layers = Layers::default();
    let mut set = |key, value: &Path| {
        layers.set(key, value.to_str().expect("UTF-8").to_owned(), "test").expect("a key");
    };
    set("model.captioner", model());
    set("input.shards", input);
    set("output.url", out);
    layers.set("input.concurrent_shards", 8, "test").expect("a key");
    RunConfig::build(&layers).expect("a configuration")
}

fn run(stores: Stores, config: &RunConfig) -> RunReport {
    try_run(stores, config).expect("a run that ends")
}

fn try_run(stores: Stores, config: &RunConfig) -> anyhow::Result<RunReport> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let stop = Arc::new(Stop::default());
    let run = run_over(stores, config, RunOptions::default(), &stop, &Reporter::Silent);
    // A run that never ends should not need a person to notice.
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(300), run).await })
        .expect("a run that ends within five minutes")
}

#[test]
fn a_thousand_store_faults_change_no_row() {
    let place = Place::new();
    let input = place.draw("in", 500, 2);
    run(Stores::default(), &config(&input, &place.path("undisturbed")));
    let flaky = faults(0.3, 7);
    let wrapped = flaky.clone();
    let stores = Stores::new(impatient()).wrapped(Arc::new(move |inner| wrapped.around(inner)));
    let report = run(stores, &config(&input, &place.path("disturbed")));
    let counts = flaky.counts();
    let total: u64 = counts.values().sum();
    // Past the test harness, which keeps what tests print to itself.
    let _ = writeln!(
        std::io::stderr(),
        "{total} faults survived: {counts:?}; {} requests took another attempt",
        report.requests_retried
    );
    assert!(total >= 1000, "{counts:?}");
    for kind in ["error", "silence", "lost answer", "broken body", "short body"] {
        assert!(counts.contains_key(kind), "no {kind} among {counts:?}");
    }
    assert_eq!((report.shards_done, report.shards_failed.len(), report.shards_incomplete), (500, 0, 0));
    assert_eq!(
        output::part_bytes(&place.path("disturbed")),
        output::part_bytes(&place.path("undisturbed")),
        "byte for byte"
    );
    assert_eq!(output::commits(&place.path("disturbed")), output::commits(&place.path("undisturbed")));
    assert_eq!(output::read(&place.path("disturbed")), output::read(&place.path("undisturbed")));
}

#[test]
fn full_or_forbidden_outputs_end_the_run_and_keep_commits() {
    const WRITES: u64 = 150;
    let place = Place::new();
    let input = place.draw("in", 200, 2);
    run(Stores::default(), &config(&input, &place.path("undisturbed")));
    for (name, refusal, words) in [
        ("full", Refusal::Full, "no space left: make room, then run the same command again"),
        ("denied", Refusal::Denied, "access is denied: check the credentials"),
    ] {
        let refusal = Some((WRITES, refusal));
        let flaky = Flaky::new(Faults { rate: 0.0, silence: Duration::ZERO, seed: 0, refusal });
        let wrapped = flaky.clone();
        // Patient: on a busy disk a write that is tried twice counts twice.
        let settings = StoreSettings { timeout: Duration::from_secs(60), ..impatient() };
        let stores = Stores::new(settings).wrapped(Arc::new(move |inner| wrapped.around(inner)));
        let config = config(&input, &place.path(name));
        let error = try_run(stores, &config).expect_err("a run that cannot end");
        let error = format!("{error:#}");
        assert!(error.contains("the output cannot be written") && error.contains(words), "{error}");
        assert!(flaky.writes() < WRITES + 200, "{} writes were tried: it went on", flaky.writes());
        let kept = output::commits(&place.path(name)).len();
        assert!((1..=WRITES as usize / 3).contains(&kept), "three writes a shard: {kept}");
        let report = run(Stores::default(), &config);
        assert_eq!((report.shards_skipped, report.shards_done), (kept, 200 - kept));
        assert_eq!(output::read(&place.path(name)), output::read(&place.path("undisturbed")));
    }
}

/// A part is named by its content: an attempt that fails must not delete the equal part of an earlier record.
#[test]
fn failed_attempts_keep_equal_parts_of_a_record() {
    let place = Place::new();
    let config = config(&place.draw("in", 1, 4), &place.path("out"));
    run(Stores::default(), &config);
    let whole = output::part_bytes(&place.path("out"));
    let lost = output::commits(&place.path("out"))[0].rejects.path.clone();
    let kept = place.path("out").join(&output::commits(&place.path("out"))[0].captions.path);
    let mut failures = 0;
    for writes in 0..20 {
        let _ = std::fs::remove_file(place.path("out").join(&lost));
        let refusal = Some((writes, Refusal::Denied));
        let flaky = Flaky::new(Faults { rate: 0.0, silence: Duration::ZERO, seed: 0, refusal });
        let stores = Stores::new(impatient()).wrapped(Arc::new(move |inner| flaky.around(inner)));
        failures += usize::from(try_run(stores, &config).is_err());
        assert!(kept.is_file(), "after {writes} writes");
    }
    assert!((2..20).contains(&failures), "{failures} of 20 attempts failed");
    run(Stores::default(), &config);
    assert_eq!(output::part_bytes(&place.path("out")), whole);
}

#[test]
fn too_many_failures_stop_the_run_with_reasons() {
    let place = Place::new();
    for shard in 0..40 {
        let mut pack = Pack::new();
        for sample in 0..50 {
            pack = pack.file(&format!("{sample:03}.jpg"), b"no picture at all");
        }
        place.write(&format!("in/{shard:05}.tar"), pack.close());
    }
    let mut config = config(&place.path("in"), &place.path("out"));
    let error = try_run(Stores::default(), &config).expect_err("a run that stops");
    let error = format!("{error:#}");
    assert!(error.contains("run.max_failure_ratio = 0.5") && error.contains("1000 corrupt_image"), "{error}");
    config.resources.max_failure_ratio = 1.0;
    let report = run(Stores::default(), &config);
    assert_eq!(report.shards_done + report.shards_skipped, 40);
}

fn retrying(inner: Arc<dyn ObjectStore>) -> RetryingStore {
    RetryingStore::new(inner, impatient(), Arc::default())
}

#[tokio::test]
async fn broken_bodies_are_resumed_where_they_stopped() {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (path, bytes) = (StorePath::from("big"), Dice::new(1).noise(300_000));
    inner.put(&path, PutPayload::from(bytes.clone())).await.expect("a put");
    for seed in 0..40 {
        let store = retrying(faults(0.6, seed).around(Arc::clone(&inner)));
        let whole = store.get(&path).await.expect("a get").bytes().await.expect("all bytes");
        assert!(whole == bytes, "seed {seed}: other bytes");
        let part = store.get_range(&path, 1000..200_000).await.expect("a range");
        assert!(part == bytes[1000..200_000], "seed {seed}: another range");
    }
}

#[tokio::test]
async fn objects_that_change_while_read_are_errors() {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let path = StorePath::from("shard");
    inner.put(&path, PutPayload::from(vec![7; 100_000])).await.expect("a put");
    let store = retrying(Arc::new(Breaking { inner, path: path.clone(), at: At::MiddleOfAnother }));
    let error = store.get(&path).await.expect("a get").bytes().await.expect_err("another object");
    assert!(error.to_string().contains("changed while it was read"), "{error}");
}

#[tokio::test]
async fn connections_broken_after_the_last_byte_are_complete() {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let path = StorePath::from("shard");
    inner.put(&path, PutPayload::from(vec![7; 100_000])).await.expect("a put");
    let store = retrying(Arc::new(Breaking { inner, path: path.clone(), at: At::End }));
    let bytes = store.get(&path).await.expect("a get").bytes().await.expect("all bytes");
    assert!(bytes == vec![7; 100_000]);
}

use breaking::{At, Breaking};

/// Breaks the first body.
mod breaking {
    use std::{fmt, sync::Arc};

    use async_trait::async_trait;
    use futures::{StreamExt, stream::BoxStream};
    use object_store::{
        CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
        ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
        path::Path,
    };

    /// Where a body breaks.
    #[derive(Clone, Copy, Debug)]
    pub(crate) enum At {
        /// In the middle, after which the object is another one.
        MiddleOfAnother,
        /// Behind the last byte, as clients do that ask for the rest where there is none.
        End,
    }

    #[derive(Debug)]
    pub(crate) struct Breaking {
        pub inner: Arc<dyn ObjectStore>,
        pub path: Path,
        pub at: At,
    }

    impl fmt::Display for Breaking {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Breaking")
        }
    }

    #[async_trait]
    impl ObjectStore for Breaking {
        async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
            let got = self.inner.get_opts(location, options.clone()).await?;
            if options.range.is_some() {
                return Ok(got);
            }
            let (meta, range, attributes, extensions) =
                (got.meta.clone(), got.range.clone(), got.attributes.clone(), got.extensions.clone());
            let bytes = got.bytes().await?;
            let (keep, error) = match self.at {
                At::MiddleOfAnother => {
                    self.inner.put(&self.path, PutPayload::from(vec![255; bytes.len()])).await?;
                    let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                    (bytes.len() / 2, Error::Generic { store: "breaking", source: Box::new(reset) })
                }
                At::End => (bytes.len(), Error::NotSupported { source: "416 Range Not Satisfiable".into() }),
            };
            let stream = futures::stream::iter([Ok(bytes.slice(..keep)), Err(error)]).boxed();
            Ok(GetResult { payload: GetResultPayload::Stream(stream), meta, range, attributes, extensions })
        }

        async fn put_opts(&self, at: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
            self.inner.put_opts(at, payload, opts).await
        }

        async fn put_multipart_opts(
            &self,
            at: &Path,
            opts: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.inner.put_multipart_opts(at, opts).await
        }

        fn delete_stream(&self, all: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.inner.delete_stream(all)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.inner.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.inner.copy_opts(from, to, options).await
        }
    }
}
