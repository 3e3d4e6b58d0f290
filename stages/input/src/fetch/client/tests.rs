//! Redirects from a public host to addresses that are refused.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

use reqwest::dns::{Addrs, Name, Resolving};

use recaption_schemas::RejectReason;

use super::*;

/// Resolves every name to this machine.
struct Loopback;

impl Resolve for Loopback {
    fn resolve(&self, _: Name) -> Resolving {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Box::pin(async move { Ok(Box::new(std::iter::once(address)) as Addrs) })
    }
}

/// Starts a server whose every path `/TARGET` redirects to `TARGET`. Returns its port and the targets requested.
fn redirecting_server() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let requested = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&requested);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines();
            let first = lines.next().and_then(Result::ok).unwrap_or_default();
            lines.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            let target = first.split(' ').nth(1).unwrap_or_default()[1..].to_owned();
            all.lock().expect("no panic").push(target.clone());
            let head = format!("Location: {target}\r\nContent-Length: 0\r\nConnection: close");
            write!(stream, "HTTP/1.1 302 Found\r\n{head}\r\n\r\n").expect("sent");
        }
    });
    (port, requested)
}

/// Returns a fetcher that checks literal addresses, but resolves every name to this machine without a check, as if it were a
/// public host.
fn fetcher_with_loopback_names() -> Fetcher {
    let settings = FetchSettings { retries: 0, timeout: Duration::from_secs(5), ..FetchSettings::default() };
    let fetcher = Fetcher::new(settings).expect("a client");
    let client = Client::builder().no_proxy().redirect(Policy::none()).dns_resolver(Arc::new(Loopback));
    Fetcher { client: client.build().expect("a client"), ..fetcher }
}

#[tokio::test]
async fn redirects_into_the_local_network_are_refused() {
    let (port, requested) = redirecting_server();
    let fetcher = fetcher_with_loopback_names();
    for target in [
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "http://[fd00:ec2::254]/".to_owned(),
        "http://[::ffff:127.0.0.1]/".to_owned(),
        format!("http://127.0.0.1:{port}/again"),
        format!("http://2130706433:{port}/again"),
        format!("//0x7f.1:{port}/again"),
        format!("http://public.example:{port}/http://10.0.0.1/"),
    ] {
        let error =
            fetcher.fetch(&format!("http://public.example:{port}/{target}")).await.expect_err(&target);
        assert_eq!(error.reason(), RejectReason::UrlRefused, "{target}: {error}");
        assert!(error.to_string().contains("public internet"), "{target}: {error}");
    }
    let requested = requested.lock().expect("no panic");
    assert_eq!((requested.len(), requested.iter().any(|path| path == "again")), (8, false), "{requested:?}");
}

#[tokio::test]
async fn redirects_are_limited() {
    let (port, requested) = redirecting_server();
    let error = fetcher_with_loopback_names()
        .fetch(&format!("http://round.example:{port}//"))
        .await
        .expect_err("no end");
    assert_eq!(error.to_string(), "more than 5 redirects");
    assert_eq!(requested.lock().expect("no panic").len(), 6);
}
