//! Fetching over long lists: bounded pauses, closed connections, errors without secrets.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use recaption_input::{
    columns::Columns,
    fetch::{FetchError, FetchSettings, Fetcher},
    format::ListKind,
    lists::ListParser,
};
use recaption_schemas::RejectReason;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Starts a server that keeps connections. Returns the numbers of open connections and of requests too.
fn serve(head: &'static str) -> (SocketAddr, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (open, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opened, counted) = (Arc::clone(&open), Arc::clone(&asked));
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (open, asked) = (Arc::clone(&opened), Arc::clone(&counted));
            open.fetch_add(1, SeqCst);
            thread::spawn(move || {
                let lines = BufReader::new(stream.try_clone().expect("a stream")).lines();
                for line in lines.map_while(Result::ok) {
                    if line.is_empty() {
                        asked.fetch_add(1, SeqCst);
                        if write!(stream, "HTTP/1.1 {head}\r\nContent-Length: 2\r\n\r\nok").is_err() {
                            break;
                        }
                    }
                }
                open.fetch_sub(1, SeqCst);
            });
        }
    });
    (address, open, asked)
}

/// Resolves every name to one server.
struct All(SocketAddr);

impl Resolve for All {
    fn resolve(&self, _: Name) -> Resolving {
        let address = self.0;
        Box::pin(async move { Ok(Box::new(std::iter::once(address)) as Addrs) })
    }
}

fn near() -> FetchSettings {
    FetchSettings {
        allow_private: true,
        retries: 0,
        timeout: Duration::from_secs(5),
        ..FetchSettings::default()
    }
}

#[tokio::test]
async fn pause_between_attempts_is_bounded() {
    let (server, _, asked) = serve("503 Service Unavailable\r\nRetry-After: 0");
    let fetcher = Fetcher::new(FetchSettings { retries: 100, ..near() }).expect("a client");
    let error = fetcher.fetch(&format!("http://{server}/x")).await.expect_err("503");
    assert!(matches!(error, FetchError::Failed { attempts: 101, .. }), "{error}");
    assert_eq!(asked.load(SeqCst), 101);
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let (server, open, _) = serve("200 OK");
    let fetcher = Fetcher::with_resolver(near(), Arc::new(All(server))).expect("a client");
    for host in 0..300 {
        fetcher.fetch(&format!("http://h{host}.example:{}/x", server.port())).await.expect("bytes");
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    let open = open.load(SeqCst);
    assert!(open <= 8, "{open} connections are open, none in use");
}

#[tokio::test]
async fn opt_out_after_a_date_is_found() {
    let (server, ..) =
        serve("200 OK\r\nX-Robots-Tag: unavailable_after: Friday, 25-Jun-30 15:00:00 GMT, noai");
    let error = Fetcher::new(near()).expect("a client").fetch(&format!("http://{server}/x")).await;
    assert_eq!(error.map(|_| ()).map_err(|e| e.reason()), Err(RejectReason::OptedOut));
}

#[tokio::test]
async fn errors_of_malformed_urls_hold_no_secrets() {
    let fetcher = Fetcher::new(near()).expect("a client");
    let leaks = async |url: &str| {
        let error = fetcher.fetch(url).await.expect_err(url);
        assert_eq!(error.reason(), RejectReason::UrlRefused, "{url}: {error}");
        error.to_string().contains("hunter2").then(|| error.to_string())
    };
    let mut found = Vec::new();
    for url in [
        "http:user:hunter2@h.example/x",
        "//h.example/x?sig=hunter2",
        "h.example/x?sig=hunter2",
        "http://user:hunter2/x@h.example/",
        "ftp://u:hunter2@h.example/x",
    ] {
        found.extend(leaks(url).await);
    }
    let long = format!("http://127.0.0.1:1/{}?sig=hunter2", "x".repeat(100_000));
    found.extend(leaks(&long).await.map(|text| text.chars().take(200).collect()));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn byte_order_mark_is_not_part_of_a_column_name() {
    for (text, chunk) in (1..8).flat_map(|n| {
        [("\u{feff}url,caption\nhttp://a,b\n", n), ("\u{feff}\"url\",\"a,b\"\nhttp://a,b\n", n)]
    }) {
        let mut parser = ListParser::new(ListKind::Csv, Columns::default());
        let mut rows = Vec::new();
        for piece in text.as_bytes().chunks(chunk) {
            rows.extend(parser.push(piece).unwrap_or_else(|why| panic!("chunks of {chunk}: {why}")));
        }
        assert_eq!(rows.len(), 1, "chunks of {chunk}");
    }
}
