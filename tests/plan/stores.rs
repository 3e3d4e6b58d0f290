//! Plans over buckets: permissions, missing buckets, and stores without conditional puts.

use std::{fmt, path::Path, process::Command, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory,
    path::Path as StorePath,
};
use recaption::{
    config::{Layers, RunConfig},
    plan::{ForecastRequest, PlanJob, PlanReport, Subject, plan_over},
    run::{ExitCode, RunOptions},
};
use recaption_store::Stores;
use serde_json::json;

use super::{
    has_one_problem, problems,
    support::{
        Place,
        bucket::Bucket,
        flaky::{Faults, Flaky, Refusal},
        model,
        services::{Service, request},
        shards::scenes,
    },
};

#[test]
fn buckets_are_probed_and_left_as_they_were() {
    let bucket = Bucket::moto();
    (0..2).for_each(|n| bucket.put(&format!("in/{n:05}.tar"), scenes(n, 4)));
    let planned = bucket.command("plan", "in", &bucket.url("out")).ends(0).report();
    assert_eq!(
        (&planned["shards"]["pending"], &planned["images"]["pending"]),
        (&json!(2), &json!(8)),
        "{planned:#}"
    );
    assert!(bucket.list("out").is_empty(), "something was left");
    bucket.run("in", "out").ends(0);
    let before = bucket.list("out");
    assert_eq!(bucket.command("plan", "in", &bucket.url("out")).ends(0).report()["shards"]["done"], json!(2));
    assert_eq!(bucket.list("out"), before);

    has_one_problem(
        bucket.command("plan", "in", "s3://nowhere/out"),
        "output",
        &["no such bucket", "cannot be written"],
    );
    let call = bucket.command("plan", "in", &bucket.url("new")).arg("--input").arg("s3://nowhere/in/");
    let said = call.ends(2);
    let found = problems(&said);
    assert!(
        found.iter().any(|(subject, text)| subject == "input" && text.contains("s3://nowhere")),
        "{found:?}"
    );
    said.never_says("tests-secret");
}

#[test]
fn buckets_without_permission_are_problems() {
    // moto asks for no credentials at the first two requests, one of which makes the bucket, and checks them from then on.
    let service = Service::start(|port, dir| {
        let python = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("cargo's folder");
        let mut command = Command::new(python.join("test-services/python/bin/moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).current_dir(dir);
        command.env("INITIAL_NO_AUTH_ACTION_COUNT", "2");
        command
    });
    assert_eq!(request(service.port(), "PUT", "/shards", &[]).ok(), Some(200), "a bucket");
    let (place, bucket) = (Place::new(), Bucket::s3(service.port()));
    let input = place.draw("in", 1, 2);
    let mut call = bucket.command("plan", "in", &bucket.url("out"));
    call = call.arg("--input").arg(&input);
    let said = call.ends(2);
    let found = problems(&said);
    for subject in ["output", "input"] {
        let fits = |(about, text): &&(String, String)| about == subject && text.contains("s3://shards");
        said.check(found.iter().any(|problem| fits(&problem)), &format!("a problem of the {subject}"));
    }
    said.check(said.report()["shards"]["pending"] == json!(1), "the folder is planned all the same");
    said.never_says("tests-secret");
}

/// Plans in this process, with `store` in place of every bucket.
fn plan_with(store: Arc<dyn ObjectStore>, input: &Path) -> PlanReport {
    let mut layers = Layers::default();
    let mut set = |key, value: String| layers.set(key, value, "test").expect("a key");
    set("model.captioner", model().display().to_string());
    set("input.shards", input.display().to_string());
    set("output.url", "s3://bucket/out".to_owned());
    let config = RunConfig::build(&layers).expect("a configuration");
    let wrap = move |inner: Arc<dyn ObjectStore>| {
        if inner.to_string().contains("S3") { Arc::clone(&store) } else { inner }
    };
    let stores = Stores::default().wrapped(Arc::new(wrap));
    let job = PlanJob {
        config: &config,
        missing: Vec::new(),
        options: RunOptions::default(),
        forecast: ForecastRequest::default(),
    };
    runtime().block_on(plan_over(stores, job))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// How a store treats conditions of puts.
#[derive(Clone, Copy, Debug)]
enum Conditions {
    /// As an error.
    Refused,
    /// As if there were none.
    Ignored,
    /// It supports those of new objects, not those of replaced ones.
    CreateOnly,
}

/// A store that lacks conditional puts, around one that has them.
#[derive(Debug)]
struct Unconditional(InMemory, Conditions);

#[test]
fn stores_without_conditional_puts_are_problems() {
    let place = Place::new();
    let input = place.draw("in", 1, 2);
    for conditions in [Conditions::Refused, Conditions::Ignored, Conditions::CreateOnly] {
        let store = Arc::new(Unconditional(InMemory::new(), conditions));
        let report = plan_with(store.clone(), &input);
        let found = report.problems.iter().map(|problem| (problem.subject, problem.what.as_str()));
        let found: Vec<_> = found.collect();
        assert!(
            matches!(found[..], [(Subject::Output, what)] if what.contains("no conditional puts")),
            "{conditions:?}: {found:?}"
        );
        assert_eq!(report.exit_code(), ExitCode::Usage);
        let left = runtime().block_on(store.0.list(None).collect::<Vec<_>>());
        assert!(left.is_empty(), "{conditions:?}: {left:?}");
    }
    let report = plan_with(Arc::new(InMemory::new()), &input);
    assert_eq!((report.exit_code(), report.problems), (ExitCode::Done, Vec::new()));
}

#[test]
fn denied_and_full_stores_are_problems() {
    let place = Place::new();
    let input = place.draw("in", 1, 2);
    for (refusal, words) in [(Refusal::Denied, "access is denied"), (Refusal::Full, "no space left")] {
        // From the first write on; and only after the object is there.
        for from in 0..3 {
            let silence = std::time::Duration::ZERO;
            let faults = Faults { rate: 0.0, silence, seed: 1, refusal: Some((from, refusal)) };
            let memory = Arc::new(InMemory::new());
            let report = plan_with(Flaky::new(faults).around(memory.clone()), &input);
            let found: Vec<String> = report.problems.iter().map(|problem| problem.what.clone()).collect();
            assert!(found.len() == 1 && found[0].contains(words), "{words} from {from}: {found:?}");
            let left = runtime().block_on(memory.list(None).collect::<Vec<_>>());
            assert!(left.is_empty(), "{words} from {from}: {left:?}");
        }
    }
}

impl fmt::Display for Unconditional {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[async_trait]
impl ObjectStore for Unconditional {
    async fn put_opts(&self, at: &StorePath, payload: PutPayload, mut opts: PutOptions) -> Result<PutResult> {
        let refused = Error::NotImplemented { operation: "put_opts".into(), implementer: "test".into() };
        match (self.1, &opts.mode) {
            (_, PutMode::Overwrite) | (Conditions::CreateOnly, PutMode::Create) => {}
            (Conditions::Ignored, _) => opts.mode = PutMode::Overwrite,
            _ => return Err(refused),
        }
        self.0.put_opts(at, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        at: &StorePath,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(at, opts).await
    }

    async fn get_opts(&self, at: &StorePath, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        at: BoxStream<'static, Result<StorePath>>,
    ) -> BoxStream<'static, Result<StorePath>> {
        self.0.delete_stream(at)
    }

    fn list(&self, prefix: Option<&StorePath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&StorePath>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &StorePath, to: &StorePath, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}
