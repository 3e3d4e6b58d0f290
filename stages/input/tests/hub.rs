//! The Hugging Face hub against a stub on this machine: a hub that redirects to a CDN on another port.

#![allow(clippy::expect_used, missing_docs)]

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use futures::TryStreamExt;
use object_store::{
    Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload, path::Path,
};
use recaption_input::{read::InputFormat, shards::list_shards};
use recaption_store::{Dataset, ErrorKind, Hub, HubSettings, RetryPolicy, StoreKind, StoreSettings, Stores};
use url::Url;

const TOKEN: &str = "hf_very_secret";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// One request.
#[derive(Clone, Debug)]
struct Request {
    method: String,
    target: String,
    headers: HashMap<String, String>,
}

impl Request {
    fn authorized(&self) -> bool {
        self.headers.get("authorization").is_some_and(|value| value == &format!("Bearer {TOKEN}"))
    }

    /// Returns status, range and bytes of the requested part of `file`.
    fn part(&self, file: &[u8]) -> (String, String, Vec<u8>) {
        let range = self.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
        let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
            return ("200 OK".into(), String::new(), file.to_vec());
        };
        let (from, to) = match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) => (first, (last + 1).min(file.len())),
            (Ok(first), Err(_)) => (first, file.len()),
            (Err(_), last) => (file.len().saturating_sub(last.unwrap_or(0)), file.len()),
        };
        if from >= file.len() {
            let range = format!("Content-Range: bytes */{}\r\n", file.len());
            return ("416 Range Not Satisfiable".into(), range, Vec::new());
        }
        let range = format!("Content-Range: bytes {from}-{}/{}\r\n", to - 1, file.len());
        ("206 Partial Content".into(), range, file[from..to].to_vec())
    }
}

/// A response: status, headers, body, and how many bytes of it are sent.
struct Reply(String, Vec<u8>, usize);

impl Reply {
    fn new(status: &str, headers: &str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let sent = body.len();
        Self(format!("{status}\r\n{headers}"), body, sent)
    }
}

/// A server for the duration of a test.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Starts a server that answers with `answer`, given the request and the number of requests before it.
    fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, remembered) = (Arc::new(answer), Arc::clone(&asked));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, asked) = (Arc::clone(&answer), Arc::clone(&remembered));
                // A client that hangs up is no failure of the server's.
                thread::spawn(move || drop(serve(&stream, &*answer, &asked)));
            }
        });
        Self { port, asked }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, what: &str) -> usize {
        self.asked().iter().filter(|request| request.target.contains(what)).count()
    }
}

fn serve(
    mut stream: &TcpStream,
    answer: &dyn Fn(&Request, usize) -> Reply,
    asked: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HashMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let request = Request { method, target, headers };
    let before = {
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.push(request.clone());
        asked.len() - 1
    };
    let Reply(head, body, sent) = answer(&request, before);
    write!(stream, "HTTP/1.1 {head}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    if request.method != "HEAD" {
        stream.write_all(&body[..sent])?;
    }
    stream.flush()
}

fn large(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(100_000).collect()
}

/// Starts a CDN that needs no token, at `/blob/NAME?signature`.
fn cdn() -> Server {
    Server::start(|request, before| {
        if request.headers.contains_key("authorization") {
            return Reply::new("400 Bad Request", "", "a token does not belong here");
        }
        if request.method != "GET" {
            return Reply::new("403 Forbidden", "", "");
        }
        let path = request.target.split('?').next().unwrap_or_default();
        let name = path.strip_prefix("/blob/").unwrap_or_default();
        if name == "empty" {
            let (status, range, _) = request.part(b"");
            return Reply::new(&status, &range, "");
        }
        let (status, range, body) = request.part(&large(name));
        let mut reply = Reply::new(&status, &format!("{range}ETag: \"the CDN's own\"\r\n"), body);
        // The first whole reading breaks off.
        if before == 0 && reply.1.len() == 100_000 {
            reply.2 = 1234;
        }
        reply
    })
}

/// The hub: dataset `o/n`, files below `data`.
fn hub(cdn: &Server, answers: HubAnswers) -> Server {
    let (cdn, port) = (cdn.url(), Arc::new(Mutex::new(0_u16)));
    let own = Arc::clone(&port);
    let server = Server::start(move |request, before| {
        if let Some(reply) = answers(request, before) {
            return reply;
        }
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let tree = format!("/api/datasets/o/n/tree/{COMMIT}/data");
        let resolve = format!("/datasets/o/n/resolve/{COMMIT}/");
        if path == "/api/datasets/o/n/revision/main" {
            return Reply::new("200 OK", "", format!(r#"{{"id":"o/n","sha":"{COMMIT}"}}"#));
        }
        if path == tree && matches!(query, "recursive=true&limit=1000" | "recursive=false&limit=1000") {
            let port = *own.lock().unwrap_or_else(PoisonError::into_inner);
            let link = format!("Link: <http://127.0.0.1:{port}{tree}?cursor=2%2C>; rel=\"next\"\r\n");
            return Reply::new("200 OK", &link, PAGES[0]);
        }
        if path == tree && query == "cursor=2%2C" {
            return Reply::new("200 OK", "", PAGES[1]);
        }
        match path.strip_prefix(&resolve) {
            Some("data/small.tar") => {
                let (status, range, body) = request.part(b"0123456789");
                Reply::new(&status, &format!("{range}ETag: W/\"git-small\"\r\n"), body)
            }
            Some(name @ ("data/a.tar" | "data/b%20c.tar" | "data/empty")) => {
                let name = name.trim_start_matches("data/");
                let size = if name == "empty" { 0 } else { 100_000 };
                let headers = format!(
                    "Location: {cdn}/blob/{name}?X-Amz-Signature=signed\r\nETag: \"of the redirect\"\r\nX-Linked-Etag: \"sha-{name}\"\r\nX-Linked-Size: {size}\r\n"
                );
                Reply::new("302 Found", &headers, "")
            }
            Some("data/unsized.tar") => {
                Reply::new("302 Found", &format!("Location: {cdn}/blob/unsized.tar\r\n"), "")
            }
            Some("moved.tar") => {
                Reply::new("307 Temporary Redirect", &format!("Location: {resolve}data/small.tar\r\n"), "")
            }
            Some("round.tar") => Reply::new("302 Found", &format!("Location: {resolve}round.tar\r\n"), ""),
            _ => Reply::new("404 Not Found", "X-Error-Message: Entry not found\r\n", ""),
        }
    });
    *port.lock().unwrap_or_else(PoisonError::into_inner) = server.port;
    server
}

const PAGES: [&str; 2] = [
    r#"[{"type":"directory","oid":"t","size":0,"path":"data/sub"},
        {"type":"file","oid":"pointer","size":134,"path":"data/a.tar","lfs":{"oid":"sha-a.tar","size":100000,"pointerSize":134}},
        {"type":"file","oid":"git-notes","size":3,"path":"data/notes.txt"},
        {"type":"file","oid":"x","size":3,"path":"elsewhere/x.tar"}]"#,
    r#"[{"type":"file","oid":"pointer","size":134,"path":"data/b c.tar","lfs":{"oid":"sha-b%20c.tar","size":100000}},
        {"type":"file","oid":"git-small","size":10,"path":"data/small.tar"},
        {"type":"file","oid":"git-deep","size":10,"path":"data/sub/deep.tar"}]"#,
];

type HubAnswers = Box<dyn Fn(&Request, usize) -> Option<Reply> + Send + Sync>;

fn usual() -> HubAnswers {
    Box::new(|_, _| None)
}

fn settings() -> StoreSettings {
    StoreSettings {
        retry: RetryPolicy::new(3, Duration::from_millis(2), Duration::from_millis(10)),
        timeout: Duration::from_secs(5),
        ..StoreSettings::default()
    }
}

fn environment(endpoint: String) -> impl Fn(&str) -> Option<String> + Send + Sync + Clone {
    move |name| match name {
        "HF_ENDPOINT" => Some(endpoint.clone()),
        "HF_TOKEN" => Some(TOKEN.into()),
        _ => None,
    }
}

fn open(server: &Server) -> Hub {
    let url = Url::parse("hf://datasets/o/n").expect("url");
    let (dataset, _) = Dataset::parse(&url).expect("dataset");
    let hub = HubSettings::from_lookup(environment(server.url())).expect("settings");
    Hub::new(dataset, hub, settings()).expect("hub")
}

fn stores(server: &Server) -> Stores {
    Stores::new(settings()).with_environment(Arc::new(environment(server.url())))
}

fn clean(error: &Error) {
    let text = format!("{error} {error:?}");
    assert!(!text.contains(TOKEN) && !text.contains("signed"), "{text}");
}

#[tokio::test]
async fn shards_are_listed_over_pages() {
    let cdn = cdn();
    let hub = hub(&cdn, usual());
    let patterns = ["hf://datasets/o/n/data/*.tar".to_owned()];
    let shards = list_shards(&mut stores(&hub), &patterns, InputFormat::Auto).await.expect("shards");
    let found: Vec<_> =
        shards.iter().map(|s| (s.url.as_str(), s.size(), s.tag().unwrap_or_default())).collect();
    assert_eq!(
        found,
        [
            ("hf://datasets/o/n/data/a.tar", 100_000, "sha-a.tar".to_owned()),
            ("hf://datasets/o/n/data/b c.tar", 100_000, "sha-b%20c.tar".to_owned()),
            ("hf://datasets/o/n/data/small.tar", 10, "git-small".to_owned()),
        ]
    );
    for (shard, content) in shards.iter().zip([large("a.tar"), large("b%20c.tar"), b"0123456789".to_vec()]) {
        assert_eq!(shard.location.kind, StoreKind::Hub);
        assert!(shard.modified().is_none(), "the hub has no time of change");
        // The first download breaks off and is resumed with the same entity tag.
        let options = GetOptions::new().with_if_match(shard.tag());
        let got = shard.location.store.get_opts(&shard.location.path, options).await.expect(&shard.url);
        assert_eq!(got.meta.e_tag, shard.tag());
        assert_eq!(got.bytes().await.expect(&shard.url), content);
    }
    assert!(hub.asked().iter().all(Request::authorized), "{:?}", hub.asked());
    assert!(cdn.asked().iter().all(|request| !request.headers.contains_key("authorization")));
    assert_eq!(hub.count("/revision/"), 1, "one commit for everything");
}

#[tokio::test]
async fn shards_are_found_by_name() {
    let cdn = cdn();
    let hub = hub(&cdn, usual());
    let patterns = ["hf://datasets/o/n/data/{a,small}.tar".to_owned()];
    let shards = list_shards(&mut stores(&hub), &patterns, InputFormat::Auto).await.expect("shards");
    let tags: Vec<_> = shards.iter().map(|s| (s.size(), s.tag().unwrap_or_default())).collect();
    assert_eq!(tags, [(100_000, "sha-a.tar".to_owned()), (10, "git-small".to_owned())]);
}

#[tokio::test]
async fn ranges_match_the_listing() {
    let cdn = cdn();
    let server = hub(&cdn, usual());
    let hub = open(&server);
    let listed: Vec<ObjectMeta> = hub.list(Some(&Path::from("data"))).try_collect().await.expect("list");
    assert_eq!(listed.len(), 5, "{listed:?}");
    let listed = listed.into_iter().find(|meta| meta.location.as_ref() == "data/a.tar").expect("a.tar");
    let (path, content) = (listed.location.clone(), large("a.tar"));
    assert_eq!(hub.head(&path).await.expect("head"), listed);
    assert_eq!(cdn.asked().len(), 0, "the hub knows");
    for (range, bytes) in [
        (GetRange::Bounded(5..17), 5..17),
        (GetRange::Bounded(99_990..200_000), 99_990..100_000),
        (GetRange::Offset(99_000), 99_000..100_000),
        (GetRange::Suffix(7), 99_993..100_000),
    ] {
        let options = GetOptions::new().with_range(Some(range)).with_if_match(listed.e_tag.clone());
        let got = hub.get_opts(&path, options).await.expect("range");
        assert_eq!((&got.meta, &got.range), (&listed, &(bytes.start as u64..bytes.end as u64)));
        assert_eq!(got.bytes().await.expect("bytes"), content[bytes]);
    }
    let other = GetOptions::new().with_if_match(Some("another".to_owned()));
    let error = hub.get_opts(&path, other).await.expect_err("another object");
    assert!(matches!(error, Error::Precondition { .. }), "{error}");
}

#[tokio::test]
async fn missing_sizes_are_looked_up() {
    let cdn = cdn();
    let server = hub(&cdn, usual());
    let hub = open(&server);
    for (path, size, e_tag) in [
        ("data/unsized.tar", 100_000, None),
        ("data/empty", 0, Some("sha-empty")),
        ("data/small.tar", 10, Some("git-small")),
        ("moved.tar", 10, Some("git-small")),
    ] {
        let meta = hub.head(&Path::from(path)).await.expect(path);
        assert_eq!((meta.size, meta.e_tag.as_deref()), (size, e_tag), "{path}");
    }
    let got = hub.get(&Path::from("data/empty")).await.expect("empty");
    assert_eq!(got.bytes().await.expect("empty").len(), 0);
    let steady = stores(&server).locate("hf://datasets/o/n/data/empty").expect("place");
    let got = steady.store.get(&steady.path).await.expect("empty");
    assert_eq!(got.bytes().await.expect("empty").len(), 0);
    // Of one commit nothing changes, so an unknown entity tag is as good as any.
    let options = GetOptions::new().with_if_match(Some("some".to_owned()));
    hub.get_opts(&Path::from("data/unsized.tar"), options).await.expect("unsized");
}

#[tokio::test]
async fn missing_files_are_not_found() {
    let cdn = cdn();
    let server = hub(&cdn, usual());
    let hub = open(&server);
    for error in [
        hub.get(&Path::from("data/none.tar")).await.expect_err("none"),
        hub.head(&Path::from("data/none.tar")).await.expect_err("none"),
    ] {
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }
    let listed: Vec<ObjectMeta> = hub.list(Some(&Path::from("none"))).try_collect().await.expect("list");
    assert!(listed.is_empty());
    let error = hub.get(&Path::from("round.tar")).await.expect_err("round");
    assert!(error.to_string().contains("redirects more than"), "{error}");
    assert_eq!(ErrorKind::of(&error), ErrorKind::Permanent);
}

#[tokio::test]
async fn gated_datasets_are_explained_without_the_token() {
    let cdn = cdn();
    for (status, denied) in [("401 Unauthorized", false), ("403 Forbidden", true)] {
        let server = hub(
            &cdn,
            Box::new(move |request, _| {
                let quoted = format!(
                    "X-Error-Code: GatedRepo\r\nX-Error-Message: Access is restricted for {TOKEN}\r\n"
                );
                request.target.starts_with("/datasets/").then(|| Reply::new(status, &quoted, ""))
            }),
        );
        let hub = open(&server);
        let path = Path::from("data/a.tar");
        for error in [hub.get(&path).await.expect_err("gated"), hub.head(&path).await.expect_err("gated")] {
            let text = error.to_string();
            assert!(text.contains("HF_TOKEN") && text.contains("gated"), "{text}");
            assert!(text.contains("Access is restricted"), "{text}");
            assert_eq!(matches!(error, Error::PermissionDenied { .. }), denied, "{text}");
            assert_eq!(matches!(error, Error::Unauthenticated { .. }), !denied, "{text}");
            assert_eq!(ErrorKind::of(&error), ErrorKind::Permanent);
            clean(&error);
        }
        let debug = format!("{hub:?} {hub}");
        assert!(!debug.contains(TOKEN), "{debug}");
    }
}

#[tokio::test]
async fn busy_hub_is_retried_a_bounded_number_of_times() {
    let cdn = cdn();
    let server = hub(
        &cdn,
        Box::new(|request, before| match request.target.contains("small") {
            true => Some(Reply::new("503 Service Unavailable", "", "")),
            false => (before % 2 == 0).then(|| Reply::new("429 Too Many Requests", "Retry-After: 0\r\n", "")),
        }),
    );
    let hub = open(&server);
    let got = hub.get(&Path::from("data/a.tar")).await.expect("after some attempts");
    assert_eq!(got.meta.size, 100_000);
    let error = hub.get(&Path::from("data/small.tar")).await.expect_err("busy");
    assert!(error.to_string().contains("status code: 503"), "{error}");
    assert_eq!(ErrorKind::of(&error), ErrorKind::Exhausted);
    assert_eq!(server.count("small"), 4);
}

#[tokio::test]
async fn broken_connections_are_transient() {
    let cdn = cdn();
    let server = hub(&cdn, usual());
    // The first whole reading breaks off, and nothing steady is around this store.
    let got = open(&server).get(&Path::from("data/a.tar")).await.expect("begins");
    let error = got.bytes().await.expect_err("breaks off");
    assert_eq!(ErrorKind::of(&error), ErrorKind::Transient, "{error:?}");
    clean(&error);

    let nobody = Server { port: 1, asked: Arc::default() };
    let error = open(&nobody).get(&Path::from("data/a.tar")).await.expect_err("nobody there");
    assert_eq!(ErrorKind::of(&error), ErrorKind::Transient, "{error:?}");
    clean(&error);
}

#[tokio::test]
async fn pages_on_other_hosts_are_not_requested() {
    let cdn = cdn();
    let link = format!("Link: <{}/next>; rel=\"next\"\r\n", cdn.url());
    let server = hub(
        &cdn,
        Box::new(move |request, _| {
            request.target.contains("/tree/").then(|| Reply::new("200 OK", &link, PAGES[0]))
        }),
    );
    let listed: Result<Vec<ObjectMeta>, _> =
        open(&server).list(Some(&Path::from("data"))).try_collect().await;
    let error = listed.expect_err("elsewhere");
    assert!(error.to_string().contains("next page"), "{error}");
    assert_eq!(ErrorKind::of(&error), ErrorKind::Permanent);
    assert_eq!(cdn.asked().len(), 0);
}

#[tokio::test]
async fn writes_are_rejected() {
    let server = hub(&cdn(), usual());
    let hub = open(&server);
    let error = hub.put(&Path::from("x"), PutPayload::from_static(b"x")).await.expect_err("put");
    assert!(
        matches!(error, Error::NotSupported { .. }) && error.to_string().contains("read only"),
        "{error}"
    );
    let error = hub.delete(&Path::from("x")).await.expect_err("delete");
    assert!(matches!(error, Error::NotSupported { .. }), "{error}");
    assert_eq!(server.asked().len(), 0);
}

#[tokio::test]
async fn missing_page_fails_the_listing() {
    let server = hub(
        &cdn(),
        Box::new(|request, _| {
            request.target.contains("cursor=2").then(|| Reply::new("404 Not Found", "", "gone"))
        }),
    );
    let listed: Result<Vec<ObjectMeta>, _> =
        open(&server).list(Some(&Path::from("data"))).try_collect().await;
    assert!(listed.is_err(), "{} of the files, as if these were all", listed.unwrap_or_default().len());
}
