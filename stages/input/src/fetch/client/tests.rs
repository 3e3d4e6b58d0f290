//! Redirects, where the first hop is let through and the next is not.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

use reqwest::dns::{Addrs, Name, Resolving};

use super::*;

/// Says of every name that it is this machine.
struct Here;

impl Resolve for Here {
    fn resolve(&self, _: Name) -> Resolving {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Box::pin(async move { Ok(Box::new(std::iter::once(address)) as Addrs) })
    }
}

/// A server whose every path `/TARGET` redirects to `TARGET`; counts what it is asked.
fn redirects() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&asked);
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
    (port, asked)
}

/// A fetcher that judges addresses as ever, but whose names all lead here, unjudged: as if here were a public host.
fn strict() -> Fetcher {
    let settings = FetchSettings { retries: 0, timeout: Duration::from_secs(5), ..FetchSettings::default() };
    let fetcher = Fetcher::new(settings).expect("a client");
    let client = Client::builder().no_proxy().redirect(Policy::none()).dns_resolver(Arc::new(Here));
    Fetcher { client: client.build().expect("a client"), ..fetcher }
}

#[tokio::test]
async fn a_public_host_cannot_redirect_into_the_own_network() {
    let (port, asked) = redirects();
    let fetcher = strict();
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
    let asked = asked.lock().expect("no panic");
    assert_eq!((asked.len(), asked.iter().any(|path| path == "again")), (8, false), "{asked:?}");
}

#[tokio::test]
async fn redirects_are_counted() {
    let (port, asked) = redirects();
    let error = strict().fetch(&format!("http://round.example:{port}//")).await.expect_err("no end");
    assert_eq!(error.to_string(), "more than 5 redirects");
    assert_eq!(asked.lock().expect("no panic").len(), 6);
}
