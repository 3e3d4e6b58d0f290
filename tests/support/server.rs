//! A web server of a few lines: files by path, ranges, and a memory of what it was asked.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
};

/// What a server does with a path.
#[derive(Clone)]
pub(crate) enum Answer {
    /// Hands out these bytes.
    File(Vec<u8>),
    /// Hands them out, but refuses HEAD, as a presigned GET does.
    OnlyGet(Vec<u8>),
    /// Hands them out whole, whatever part is asked for; so many times it announces all and sends half.
    Whole(Arc<AtomicU64>, Vec<u8>),
    /// Answers with this status.
    Status(u16),
    /// Answers so many times with a status, and then hands out the bytes.
    Late(Arc<AtomicU64>, u16, Vec<u8>),
    /// Hands out the bytes with further headers.
    With(&'static str, Vec<u8>),
    /// Sends elsewhere.
    Redirect(String),
    /// Announces all bytes and sends half of them, so many times.
    Cut(Arc<AtomicU64>, Vec<u8>),
}

/// `n`, to be counted down.
pub(crate) fn times(n: u64) -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(n))
}

fn count_down(left: &AtomicU64) -> bool {
    left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok()
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// GET or HEAD.
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// The `Authorization` header.
    pub(crate) authorization: Option<String>,
}

/// A server on this machine, as long as the test program lives.
pub(crate) struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Serves `answers` by path; 404 for everything else.
    pub(crate) fn start(answers: HashMap<String, Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answers, remembered) = (Arc::new(answers), Arc::clone(&asked));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, asked) = (Arc::clone(&answers), Arc::clone(&remembered));
                // A client that hangs up is no failure of the server's.
                thread::spawn(move || drop(serve(&stream, &answers, &asked)));
            }
        });
        Self { port, asked }
    }

    /// Its port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A request and its range.
fn hear(stream: &TcpStream) -> std::io::Result<(Request, Option<String>)> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut range, mut authorization) = (None, None);
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => range = value.strip_prefix("bytes=").map(str::to_owned),
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok((Request { method, target, authorization }, range))
}

fn serve(
    mut stream: &TcpStream,
    answers: &HashMap<String, Answer>,
    asked: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let (request, mut range) = hear(stream)?;
    let method = request.method.clone();
    let path = request.target.split('?').next().unwrap_or_default().to_owned();
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    let (mut more, mut cut) = ("", false);
    let bytes = match answers.get(&path) {
        Some(Answer::Late(left, status, _)) if count_down(left) => return refuse(stream, *status),
        Some(Answer::Late(_, _, bytes)) => bytes,
        Some(Answer::With(headers, bytes)) => {
            more = headers;
            bytes
        }
        Some(Answer::Redirect(to)) => {
            return write!(
                stream,
                "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        Some(Answer::Cut(left, bytes)) => {
            cut = count_down(left);
            bytes
        }
        Some(Answer::Whole(left, bytes)) => {
            range = None;
            cut = method == "GET" && count_down(left);
            bytes
        }
        Some(Answer::File(bytes)) => bytes,
        Some(Answer::OnlyGet(bytes)) if method == "GET" => bytes,
        Some(Answer::OnlyGet(_)) => return refuse(stream, 403),
        Some(Answer::Status(status)) => return refuse(stream, *status),
        None => return refuse(stream, 404),
    };
    let (from, to) = range.and_then(|range| bounds(&range, bytes.len())).unwrap_or((0, bytes.len()));
    let status = if to - from == bytes.len() { "200 OK" } else { "206 Partial Content" };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\nAccept-Ranges: bytes\r\nETag: \"{:x}\"\r\nLast-Modified: Thu, 19 Oct 2023 12:00:00 GMT\r\n{more}Connection: close\r\n\r\n",
        to - from,
        to.max(1) - 1,
        bytes.len(),
        bytes.len()
    )?;
    if method == "GET" {
        let to = if cut { from + (to - from) / 2 } else { to };
        stream.write_all(&bytes[from..to])?;
    }
    stream.flush()
}

fn refuse(mut stream: &TcpStream, status: u16) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    stream.flush()
}

/// `first-last` or `first-`, as half open.
fn bounds(range: &str, length: usize) -> Option<(usize, usize)> {
    let (first, last) = range.split_once('-')?;
    let first = first.parse().ok().filter(|first| *first < length)?;
    let last = last.parse().map_or(length, |last: usize| (last + 1).min(length));
    Some((first, last))
}
