//! A Hugging Face hub on this machine: models' revisions and files, bytes from a second server that needs no token.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use sha2::{Digest, Sha256};

/// The commit of every model here.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// A token that may read gated models.
pub(crate) const TOKEN: &str = "hf_test_token";

/// What the hub does beside serving files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Habits {
    /// Files need the token.
    pub(crate) gated: bool,
    /// So many bodies of large files break off in the middle.
    pub(crate) breaks: usize,
    /// So many responses come too late to be useful: status 503.
    pub(crate) busy: usize,
    /// Large files have other bytes than their hash.
    pub(crate) damaged: bool,
    /// Ranges are ignored.
    pub(crate) whole: bool,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// GET or HEAD.
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// The `Authorization` header.
    pub(crate) authorization: Option<String>,
    /// The `Range` header.
    pub(crate) range: Option<String>,
}

#[derive(Default)]
struct State {
    asked: Vec<(bool, Asked)>,
    breaks: usize,
    busy: usize,
}

/// The hub and its CDN.
pub(crate) struct HubStub {
    port: u16,
    state: Arc<Mutex<State>>,
}

/// Files from this size on are stored apart, as Git LFS does.
const LARGE: usize = 10_000;

impl HubStub {
    /// Serves one model, `org/model`, at the branch `main`.
    pub(crate) fn start(files: BTreeMap<String, Vec<u8>>, habits: Habits) -> Self {
        let state = State { breaks: habits.breaks, busy: habits.busy, ..State::default() };
        let (state, files) = (Arc::new(Mutex::new(state)), Arc::new(files));
        let cdn = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let cdn_port = cdn.local_addr().expect("an address").port();
        let hub = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = hub.local_addr().expect("an address").port();
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let (files, state, habits) = (Arc::clone(&files), Arc::clone(&state), habits.clone());
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (files, state, habits) = (Arc::clone(&files), Arc::clone(&state), habits.clone());
                    thread::spawn(move || {
                        let server =
                            Server { files: &files, state: &state, habits: &habits, cdn_port, is_cdn };
                        // A client that hangs up is no failure of the server's.
                        drop(server.serve(&stream));
                    });
                }
            });
        }
        Self { port, state }
    }

    /// Its address, for `HF_ENDPOINT`.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// All requests so far: whether they came to the CDN, and what they were.
    pub(crate) fn asked(&self) -> Vec<(bool, Asked)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).asked.clone()
    }

    /// Number of downloads that began, of the file.
    pub(crate) fn downloads(&self, file: &str) -> usize {
        let is_download = |(is_cdn, asked): &&(bool, Asked)| {
            let place = if *is_cdn { format!("/blob/{file}?") } else { format!("/{file}") };
            asked.method == "GET" && (asked.target.ends_with(&place) || asked.target.contains(&place))
        };
        self.asked().iter().filter(is_download).count()
    }
}

struct Server<'a> {
    files: &'a BTreeMap<String, Vec<u8>>,
    state: &'a Mutex<State>,
    habits: &'a Habits,
    cdn_port: u16,
    is_cdn: bool,
}

impl Server<'_> {
    fn serve(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        let mut words = first.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut asked = Asked { method, target, authorization: None, range: None };
        for line in lines {
            let line = line?;
            let Some((name, value)) = line.split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "authorization" => asked.authorization = Some(value.to_owned()),
                "range" => asked.range = Some(value.to_owned()),
                _ => {}
            }
        }
        let busy = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.asked.push((self.is_cdn, asked.clone()));
            let busy = state.busy > 0;
            state.busy = state.busy.saturating_sub(1);
            busy
        };
        let (head, body, sent) = match (busy, self.is_cdn) {
            (true, _) => ("503 Busy\r\n".to_owned(), Vec::new(), 0),
            (false, true) => self.blob(&asked),
            (false, false) => self.hub(&asked),
        };
        write!(stream, "HTTP/1.1 {head}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
        if asked.method != "HEAD" {
            stream.write_all(&body[..sent])?;
        }
        stream.flush()
    }

    fn hub(&self, asked: &Asked) -> (String, Vec<u8>, usize) {
        let plain =
            |status: &str, body: String| (format!("{status}\r\n"), body.clone().into_bytes(), body.len());
        let revisions = ["main", COMMIT].map(|revision| format!("/api/models/org/model/revision/{revision}"));
        if revisions.contains(&asked.target) {
            let siblings: Vec<String> =
                self.files.keys().map(|name| format!(r#"{{"rfilename":"{name}"}}"#)).collect();
            return plain("200 OK", format!(r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#, siblings.join(",")));
        }
        let name = asked.target.strip_prefix(&format!("/org/model/resolve/{COMMIT}/"));
        let Some((name, bytes)) = name.and_then(|name| self.files.get_key_value(name)) else {
            return ("404 Not Found\r\nX-Error-Message: Repository not found\r\n".to_owned(), Vec::new(), 0);
        };
        if self.habits.gated && asked.authorization.as_deref() != Some(&format!("Bearer {TOKEN}")) {
            return ("401 Unauthorized\r\nX-Error-Code: GatedRepo\r\n".to_owned(), Vec::new(), 0);
        }
        let hash = recaption_schemas::hex(&Sha256::digest(bytes));
        if bytes.len() < LARGE {
            let head = format!("200 OK\r\nETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\n", &hash[..40]);
            return (head, bytes.clone(), bytes.len());
        }
        let head = format!(
            "302 Found\r\nLocation: http://127.0.0.1:{}/blob/{name}?signature\r\nX-Linked-Etag: \"{hash}\"\r\nX-Linked-Size: {}\r\nX-Repo-Commit: {COMMIT}\r\n",
            self.cdn_port,
            bytes.len()
        );
        (head, Vec::new(), 0)
    }

    fn blob(&self, asked: &Asked) -> (String, Vec<u8>, usize) {
        let name = asked.target.trim_start_matches("/blob/").split('?').next().unwrap_or_default();
        let Some(mut bytes) = self.files.get(name).cloned() else {
            return ("404 Not Found\r\n".to_owned(), Vec::new(), 0);
        };
        if asked.authorization.is_some() {
            return ("400 A token does not belong here\r\n".to_owned(), Vec::new(), 0);
        }
        if self.habits.damaged {
            bytes[0] ^= 1;
        }
        let from = asked
            .range
            .as_deref()
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let (head, body) = match from.filter(|_| !self.habits.whole) {
            Some(from) => {
                let range = format!("Content-Range: bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                (format!("206 Partial Content\r\n{range}\r\n"), bytes[from..].to_vec())
            }
            None => ("200 OK\r\n".to_owned(), bytes),
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let breaks = state.breaks > 0;
        state.breaks = state.breaks.saturating_sub(1);
        let sent = if breaks { body.len() / 2 } else { body.len() };
        (head, body, sent)
    }
}
