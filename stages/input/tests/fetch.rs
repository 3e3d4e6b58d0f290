//! Fetching from untrusted servers, on loopback: names of local addresses, slow hosts, limits of concurrency.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use recaption_input::{
    fetch::{FetchError, FetchSettings, Fetcher},
    read::{InputFormat, ReadRequest, ReadSettings, read_shard},
    shards::list_shards,
};
use recaption_messages::{ByteBudget, ReadCounters, ReadSink};
use recaption_schemas::RejectReason;
use recaption_store::Stores;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Starts a server that passes every connection and its requested path to `answer`.
fn serve(answer: impl Fn(TcpStream, String) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines();
                let first = lines.next().and_then(Result::ok).unwrap_or_default();
                lines.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
                answer(stream, first.split(' ').nth(1).unwrap_or_default().to_owned());
            });
        }
    });
    address
}

fn send(mut stream: &TcpStream, head: &str, body: &[u8]) {
    // A client that hung up is the story, not a failure.
    let _ =
        write!(stream, "HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").and_then(|()| stream.write_all(body));
}

fn near() -> FetchSettings {
    FetchSettings {
        allow_private: true,
        retries: 0,
        timeout: Duration::from_secs(5),
        max_bytes: 1000,
        ..FetchSettings::default()
    }
}

/// Resolves names to the given addresses, in turn.
struct Says(Mutex<Vec<SocketAddr>>);

impl Resolve for Says {
    fn resolve(&self, _: Name) -> Resolving {
        let mut all = self.0.lock().expect("no panic");
        let now = if all.len() > 1 { all.remove(0) } else { all[0] };
        Box::pin(async move { Ok(Box::new(std::iter::once(now)) as Addrs) })
    }
}

#[tokio::test]
async fn names_of_local_addresses_are_refused() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let server = serve(move |stream, _| {
        counted.fetch_add(1, SeqCst);
        send(&stream, "200 OK\r\nContent-Length: 2", b"ok");
    });
    let strict = FetchSettings { allow_private: false, ..near() };
    let resolver = Arc::new(Says(Mutex::new(vec![server])));
    let fetcher = Fetcher::with_resolver(strict, resolver).expect("a client");
    let error =
        fetcher.fetch(&format!("http://images.example:{}/x", server.port())).await.expect_err("private");
    assert_eq!(error.reason(), RejectReason::UrlRefused);
    assert_eq!(
        error.to_string(),
        "`images.example` leads to 127.0.0.1, which is not an address of the public internet; set \
         allow_private = true to fetch from it"
    );
    assert_eq!(asked.load(SeqCst), 0, "nobody connected");
    // The same name with leave: the address that was checked is the one that is connected to.
    let fetcher = Fetcher::with_resolver(near(), Arc::new(Says(Mutex::new(vec![server])))).expect("a client");
    let fetched = fetcher.fetch(&format!("http://images.example:{}/x", server.port())).await.expect("bytes");
    assert_eq!((&fetched.bytes[..], asked.load(SeqCst)), (&b"ok"[..], 1));
}

/// Finds no address at first, and then a local one.
struct Later(AtomicUsize, SocketAddr);

impl Resolve for Later {
    fn resolve(&self, _: Name) -> Resolving {
        let (first, address) = (self.0.fetch_add(1, SeqCst) == 0, self.1);
        Box::pin(async move {
            if first { Err("not now".into()) } else { Ok(Box::new(std::iter::once(address)) as Addrs) }
        })
    }
}

/// Every attempt resolves the name again, and checks the result.
#[tokio::test]
async fn names_are_checked_at_every_attempt() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let server = serve(move |stream, _| {
        counted.fetch_add(1, SeqCst);
        send(&stream, "200 OK\r\nContent-Length: 2", b"ok");
    });
    let settings = FetchSettings { allow_private: false, retries: 3, ..near() };
    let resolver = Arc::new(Later(AtomicUsize::new(0), server));
    let fetcher = Fetcher::with_resolver(settings, Arc::clone(&resolver) as Arc<_>).expect("a client");
    let error =
        fetcher.fetch(&format!("http://images.example:{}/x", server.port())).await.expect_err("private");
    assert_eq!(error.reason(), RejectReason::UrlRefused, "{error}");
    assert!(error.to_string().contains("leads to 127.0.0.1"), "{error}");
    assert_eq!((resolver.0.load(SeqCst), asked.load(SeqCst)), (2, 0), "nobody connected");
}

#[tokio::test]
async fn redirect_into_the_local_network_is_refused() {
    let server = serve(|stream, path| match path.as_str() {
        "/start" => send(&stream, "302 Found\r\nLocation: http://169.254.169.254/latest/meta-data", b""),
        _ => send(&stream, "302 Found\r\nLocation: file:///etc/passwd", b""),
    });
    // The first hop is allowed by name, as a public host would be.
    let fetcher = Fetcher::new(FetchSettings { max_redirects: 3, ..near() }).expect("a client");
    let error = fetcher.fetch(&format!("http://{server}/other")).await.expect_err("no file");
    assert!(matches!(&error, FetchError::Refused(why) if why.contains("`file` is not fetched")), "{error}");
    let strict = FetchSettings { allow_private: false, ..near() };
    let fetcher = Fetcher::new(strict).expect("a client");
    for literal in
        ["http://169.254.169.254/latest", "http://[fd00:ec2::254]/", "http://0/", "http://127.1:80/"]
    {
        let error = fetcher.fetch(literal).await.expect_err(literal);
        assert_eq!(error.reason(), RejectReason::UrlRefused, "{literal}: {error}");
    }
}

#[tokio::test]
async fn bodies_are_bounded_in_size_and_time() {
    let server = serve(|stream, path| match path.as_str() {
        "/announced" => send(&stream, "200 OK\r\nContent-Length: 5000", &[0; 5000]),
        "/unannounced" => send(&stream, "200 OK", &[0; 5000]),
        "/cut" => send(&stream, "200 OK\r\nContent-Length: 900", &[0; 100]),
        _ => {
            send(&stream, "200 OK\r\nContent-Length: 900", b"");
            let mut stream = stream;
            while stream.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        }
    });
    let fetcher =
        Fetcher::new(FetchSettings { timeout: Duration::from_millis(600), ..near() }).expect("a client");
    let reason = async |path: &str| {
        let error = fetcher.fetch(&format!("http://{server}{path}")).await.expect_err(path);
        (error.reason(), error.to_string())
    };
    assert_eq!(reason("/announced").await.0, RejectReason::TooLarge);
    assert_eq!(reason("/unannounced").await.0, RejectReason::TooLarge);
    assert_eq!(reason("/cut").await.0, RejectReason::FetchFailed);
    let began = Instant::now();
    let (slow, why) = reason("/drip").await;
    assert_eq!((slow, why.as_str()), (RejectReason::FetchFailed, "no answer in time (1 attempts)"));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn requests_per_host_and_retry_after_are_honoured() {
    let (now, peak, late) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let (busy, most) = (Arc::clone(&now), Arc::clone(&peak));
    let server = serve(move |stream, path| {
        if path == "/late" && late.fetch_add(1, SeqCst) == 0 {
            return send(&stream, "429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0", b"");
        }
        most.fetch_max(busy.fetch_add(1, SeqCst) + 1, SeqCst);
        thread::sleep(Duration::from_millis(30));
        busy.fetch_sub(1, SeqCst);
        send(&stream, "200 OK\r\nContent-Length: 2", b"ok");
    });
    let fetcher = Fetcher::new(FetchSettings { per_host: 3, retries: 1, ..near() }).expect("a client");
    let all = (0..30).map(|n| {
        let (fetcher, url) = (fetcher.clone(), format!("http://{server}/{n}"));
        tokio::spawn(async move { fetcher.fetch(&url).await })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.expect("no panic").expect("bytes");
    }
    assert_eq!(peak.load(SeqCst), 3, "three at once, and no more");
    let began = Instant::now();
    fetcher.fetch(&format!("http://{server}/late")).await.expect("bytes");
    assert!(began.elapsed() >= Duration::from_secs(1), "Retry-After is kept: {:?}", began.elapsed());
}

#[tokio::test]
async fn lists_share_fetch_permits_without_deadlock() {
    for permits in [1, 3] {
        let (now, peak) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let most = Arc::clone(&peak);
        let server = serve(move |stream, _| {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            thread::sleep(Duration::from_millis(10));
            now.fetch_sub(1, SeqCst);
            send(&stream, "200 OK\r\nContent-Length: 2", b"ok");
        });
        let folder = tempfile::tempdir().expect("a folder");
        let lists = ["a.txt", "b.txt"].map(|name| folder.path().join(name).display().to_string());
        for list in &lists {
            std::fs::write(list, format!("http://{server}/x\n").repeat(20)).expect("a file");
        }
        let shards = list_shards(&mut Stores::default(), &lists, InputFormat::UrlList).await.expect("lists");
        let fetcher = Fetcher::new(FetchSettings { concurrency: permits, per_host: 100, ..near() });
        let settings = ReadSettings { fetcher: Some(fetcher.expect("a client")), ..ReadSettings::default() };
        let (budget, counters) = (ByteBudget::new(1 << 20), ReadCounters::default());
        let (to, mut from) = tokio::sync::mpsc::channel(1);
        let reading = async {
            let sink = ReadSink::Ordered(to);
            let read = |number: usize| {
                read_shard(ReadRequest {
                    number,
                    shard: &shards[number],
                    settings: &settings,
                    budget: &budget,
                    counters: &counters,
                    previous: None,
                    sink: &sink,
                })
            };
            tokio::join!(read(0), read(1))
        };
        let taking = async {
            let mut found = 0;
            while from.recv().await.is_some() {
                found += 1;
            }
            found
        };
        let both = async { tokio::join!(reading, taking) };
        let ((one, two), found) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("an end");
        assert_eq!(one.expect("a list").samples + two.expect("a list").samples, 40);
        assert_eq!((found, peak.load(SeqCst)), (40, permits));
    }
}
