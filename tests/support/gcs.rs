//! Google Cloud Storage as object_store speaks to it (the XML API), in memory: uploads, uploads in pieces, ranges, listing
//! by pages, deletion. `x-goog-if-generation-match` is enforced, and every request is remembered.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use percent_encoding::percent_decode_str;

/// Objects on one page of a listing: few, so that every story turns pages.
const PAGE: usize = 3;
/// Largest request body, bytes.
const MOST: usize = 64 << 20;

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// GET, PUT and so on.
    pub(crate) method: String,
    /// Bucket and key.
    pub(crate) path: String,
    /// What follows the question mark.
    pub(crate) query: BTreeMap<String, String>,
    /// `x-goog-if-generation-match`.
    pub(crate) generation_match: Option<String>,
    /// The answer's status.
    pub(crate) status: u16,
}

#[derive(Clone)]
struct Object {
    bytes: Arc<Vec<u8>>,
    generation: u64,
    put: chrono::DateTime<chrono::Utc>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    generation: u64,
    asked: Vec<Asked>,
    lose_completion: bool,
    held_back: Option<(&'static str, Duration)>,
}

/// The stub, as long as the test program lives.
#[derive(Clone)]
pub(crate) struct Stub {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Stub {
    /// An empty one on a free port.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let stub = Self { port, state: Arc::default() };
        let serving = stub.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let stub = serving.clone();
                // A client that hangs up is no failure of the stub's.
                thread::spawn(move || drop(stub.converse(&stream)));
            }
        });
        stub
    }

    /// Its port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// Uploads in pieces that were neither completed nor given up.
    pub(crate) fn open_uploads(&self) -> usize {
        self.state().uploads.len()
    }

    /// The answer to the next completion of an upload is lost; the object is there.
    pub(crate) fn lose_the_next_completion(&self) {
        self.state().lose_completion = true;
    }

    /// Answers to writes of objects whose names end so come later, after the write.
    pub(crate) fn hold_back_answers(&self, ending: &'static str, by: Duration) {
        self.state().held_back = Some((ending, by));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn converse(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        while let Some(request) = Request::read(&mut reader)? {
            let answer = self.answer(&request);
            self.state().asked.push(Asked {
                method: request.method.clone(),
                path: request.path.clone(),
                query: request.query.clone(),
                generation_match: request.headers.get("x-goog-if-generation-match").cloned(),
                status: answer.status,
            });
            let completes = request.method == "POST" && request.query.contains_key("uploadId");
            if completes && std::mem::take(&mut self.state().lose_completion) {
                return Ok(());
            }
            let held_back = self.state().held_back;
            if let Some((ending, by)) = held_back
                && request.method == "PUT"
                && request.path.ends_with(ending)
            {
                thread::sleep(by);
            }
            answer.send(stream, request.method == "HEAD")?;
        }
        Ok(())
    }

    fn answer(&self, request: &Request) -> Answer {
        let mut state = self.state();
        let upload = request.query.get("uploadId");
        let piece = request.query.get("partNumber").and_then(|n| n.parse().ok());
        match (request.method.as_str(), upload, piece) {
            ("GET", None, None) if request.query.contains_key("list-type") => state.list(request),
            ("GET" | "HEAD", None, None) => state.get(request),
            ("PUT", None, None) if request.headers.contains_key("x-goog-copy-source") => Answer::status(501),
            ("PUT", None, None) => state.put(request, request.body.clone()),
            ("PUT", Some(upload), Some(piece)) => match state.uploads.get_mut(upload) {
                Some(pieces) => {
                    pieces.insert(piece, request.body.clone());
                    Answer::status(200).header("ETag", format!("\"{upload}.{piece}\""))
                }
                None => Answer::status(404),
            },
            ("POST", None, None) if request.query.contains_key("uploads") => {
                state.generation += 1;
                let upload = format!("upload-{}", state.generation);
                state.uploads.insert(upload.clone(), BTreeMap::new());
                Answer::xml(format!(
                    "<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
                ))
            }
            ("POST", Some(upload), None) => state.complete(request, upload),
            ("DELETE", Some(upload), None) => {
                Answer::status(if state.uploads.remove(upload).is_some() { 204 } else { 404 })
            }
            ("DELETE", None, None) => {
                Answer::status(if state.objects.remove(&request.path).is_some() { 204 } else { 404 })
            }
            _ => Answer::status(400),
        }
    }
}

impl State {
    fn put(&mut self, request: &Request, bytes: Vec<u8>) -> Answer {
        let now = self.objects.get(&request.path).map_or(0, |object| object.generation);
        let wanted = request.headers.get("x-goog-if-generation-match");
        if wanted.is_some_and(|wanted| *wanted != now.to_string()) {
            return Answer::status(412);
        }
        self.generation += 1;
        let object = Object { bytes: Arc::new(bytes), generation: self.generation, put: chrono::Utc::now() };
        let answer = Answer::status(200).of(&object);
        self.objects.insert(request.path.clone(), object);
        answer
    }

    /// The pieces that the client names, in its order.
    fn complete(&mut self, request: &Request, upload: &str) -> Answer {
        let Some(pieces) = self.uploads.get(upload) else { return Answer::status(404) };
        let named = String::from_utf8_lossy(&request.body).into_owned();
        let numbers = named.split("<PartNumber>").skip(1);
        let mut bytes = Vec::new();
        for number in numbers {
            let number = number.split('<').next().and_then(|n| n.parse().ok());
            match number.and_then(|n: u32| pieces.get(&n)) {
                Some(piece) => bytes.extend_from_slice(piece),
                None => return Answer::status(400),
            }
        }
        let answer = self.put(request, bytes);
        self.uploads.remove(upload);
        let etag = answer.headers.iter().find(|(name, _)| *name == "ETag").map(|(_, tag)| tag.clone());
        Answer {
            body: format!(
                "<CompleteMultipartUploadResult><ETag>{}</ETag></CompleteMultipartUploadResult>",
                etag.unwrap_or_default()
            )
            .into_bytes(),
            ..answer
        }
    }

    fn get(&self, request: &Request) -> Answer {
        let Some(object) = self.objects.get(&request.path) else { return Answer::status(404) };
        if request.headers.get("if-match").is_some_and(|tag| *tag != object.etag()) {
            return Answer::status(412);
        }
        let length = object.bytes.len();
        let Some(range) = request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")) else {
            return Answer { body: object.bytes.to_vec(), ..Answer::status(200).of(object) };
        };
        let (first, last) = range.split_once('-').unwrap_or_default();
        let (from, to) = match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(from), Ok(last)) => (from, (last + 1).min(length)),
            (Ok(from), Err(_)) => (from, length),
            (Err(_), Ok(tail)) => (length.saturating_sub(tail), length),
            (Err(_), Err(_)) => return Answer::status(400),
        };
        if from >= to {
            return Answer::status(416);
        }
        let answer = Answer { body: object.bytes[from..to].to_vec(), ..Answer::status(206).of(object) };
        answer.header("Content-Range", format!("bytes {from}-{}/{length}", to - 1))
    }

    fn list(&self, request: &Request) -> Answer {
        let query = |name: &str| request.query.get(name).cloned().unwrap_or_default();
        let bucket = format!("{}/", request.path);
        let prefix = format!("{bucket}{}", query("prefix"));
        let delimiter = query("delimiter");
        let after = [query("start-after"), query("continuation-token")].into_iter().max().unwrap_or_default();
        let most = query("max-keys").parse().unwrap_or(PAGE).min(PAGE);
        let begin = Bound::Excluded(format!("{bucket}{after}"));
        let (mut body, mut listed, mut last) = (String::new(), 0, String::new());
        let mut folders: Vec<String> = Vec::new();
        let mut more = false;
        for (path, object) in self.objects.range((begin, Bound::Unbounded)) {
            let Some(rest) = path.strip_prefix(&prefix) else { continue };
            let key = &path[bucket.len()..];
            if listed == most {
                more = true;
                break;
            }
            last = key.to_owned();
            if let Some(end) = Some(&delimiter).filter(|d| !d.is_empty()).and_then(|d| rest.find(d.as_str()))
            {
                let folder = format!("{}{}", query("prefix"), &rest[..=end]);
                // What lies in a folder counts as one, and is not seen again on the next page.
                if folders.last() != Some(&folder) && !after.starts_with(&folder) {
                    folders.push(folder);
                    listed += 1;
                }
                continue;
            }
            listed += 1;
            let _ = write!(
                body,
                "<Contents><Key>{}</Key><Size>{}</Size><LastModified>{}</LastModified><ETag>{}</ETag></Contents>",
                escaped(key),
                object.bytes.len(),
                object.put.format("%Y-%m-%dT%H:%M:%S%.3fZ"),
                escaped(&object.etag())
            );
        }
        for folder in &folders {
            let _ = write!(body, "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escaped(folder));
        }
        if more {
            let _ = write!(body, "<NextContinuationToken>{}</NextContinuationToken>", escaped(&last));
        }
        Answer::xml(format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>{body}</ListBucketResult>"))
    }
}

impl Object {
    fn etag(&self) -> String {
        format!("\"{:x}\"", self.generation)
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    /// The next request of a connection; none when the client is done.
    fn read(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").map_or(Ok(0), |n| n.parse::<usize>());
        let length = length.ok().filter(|length| *length <= MOST).ok_or(io::ErrorKind::InvalidData)?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let decode =
            |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        let path = percent_decode_str(path.trim_start_matches('/')).decode_utf8_lossy().into_owned();
        Ok(Some(Self { method, path, query: query.collect(), headers, body }))
    }
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    fn xml(body: String) -> Self {
        Self { body: body.into_bytes(), ..Self::status(200) }
    }

    fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    fn of(self, object: &Object) -> Self {
        self.header("ETag", object.etag())
            .header("x-goog-generation", object.generation.to_string())
            .header("Last-Modified", object.put.format("%a, %d %b %Y %H:%M:%S GMT").to_string())
    }

    fn send(&self, mut stream: &TcpStream, head: bool) -> io::Result<()> {
        let mut text = format!("HTTP/1.1 {} Said\r\nContent-Length: {}\r\n", self.status, self.body.len());
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        stream.write_all(text.as_bytes())?;
        if !head {
            stream.write_all(&self.body)?;
        }
        stream.flush()
    }
}
