//! A driver of `recaption worker`: writes requests, reads answers, and fails with everything it knows when one does not come.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::program::Call;

/// Longest wait for an answer, or for the end of a worker.
const PATIENCE: Duration = Duration::from_secs(120);

/// A worker under way.
pub(crate) struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<Value>,
    stderr: Arc<Mutex<String>>,
}

/// How a worker ended.
pub(crate) struct Ended {
    /// The exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    /// Answers that nobody had taken.
    pub(crate) rest: Vec<Value>,
    /// Its log.
    pub(crate) stderr: String,
}

impl Worker {
    /// Starts a worker, which the call describes.
    pub(crate) fn start(call: Call) -> Self {
        let mut command: Command = call.into_command();
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let (stdout, mut errors) =
            (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let answer = serde_json::from_str(&line).unwrap_or_else(|_| json!({"no JSON": line}));
                if sender.send(answer).is_err() {
                    return;
                }
            }
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let log = Arc::clone(&stderr);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = errors.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
                log.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Self { stdin: child.stdin.take(), child, answers, stderr }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first line, which must say that it is ready.
    #[track_caller]
    pub(crate) fn ready(&self) -> Value {
        let ready = self.next();
        assert_eq!(ready["type"], "ready", "{ready}\n{}", self.log());
        ready
    }

    /// Writes a line.
    #[track_caller]
    pub(crate) fn line(&mut self, line: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("an open pipe");
        let written = stdin.write_all(line.as_ref()).and_then(|()| stdin.write_all(b"\n"));
        written.and_then(|()| stdin.flush()).expect("the worker reads");
    }

    /// Writes a request.
    #[track_caller]
    pub(crate) fn request(&mut self, request: Value) {
        self.line(request.to_string());
    }

    /// The next answer.
    #[track_caller]
    pub(crate) fn next(&self) -> Value {
        match self.answers.recv_timeout(PATIENCE) {
            Ok(answer) => answer,
            Err(error) => panic!("no answer ({error}); the log:\n{}", self.log()),
        }
    }

    /// An answer that comes within `time`.
    pub(crate) fn next_within(&self, time: Duration) -> Option<Value> {
        self.answers.recv_timeout(time).ok()
    }

    /// The answers to `count` requests, by their id as text.
    #[track_caller]
    pub(crate) fn answers(&self, count: usize) -> BTreeMap<String, Value> {
        let id =
            |answer: &Value| answer["id"].as_str().map_or_else(|| answer["id"].to_string(), str::to_owned);
        let answers: BTreeMap<String, Value> =
            (0..count).map(|_| self.next()).map(|answer| (id(&answer), answer)).collect();
        assert_eq!(answers.len(), count, "an id came twice: {answers:#?}");
        answers
    }

    /// Requests a shard and waits for its answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: Value) -> Value {
        self.request(request);
        self.next()
    }

    /// Ends its input.
    pub(crate) fn close(&mut self) {
        self.stdin = None;
    }

    /// `kill -TERM`.
    pub(crate) fn terminate(&self) {
        signal(self.id(), "TERM");
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
    }

    /// Waits for its end, with its input open if it is.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Ended {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "the worker does not end; the log:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        };
        let rest = self.answers.iter().collect();
        assert!(status.signal().is_none_or(|signal| signal == 9), "{status}\n{}", self.log());
        Ended { code: status.code(), rest, stderr: self.log() }
    }

    /// Closes its input and waits for its end, which must be this exit code.
    #[track_caller]
    pub(crate) fn ends(mut self, code: i32) -> Ended {
        self.close();
        let ended = self.wait();
        assert_eq!(ended.code, Some(code), "the rest {:#?}\n{}", ended.rest, ended.stderr);
        ended
    }
}

/// Sends a signal by its name.
pub(crate) fn signal(process: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status();
    assert!(status.expect("`kill` starts").success(), "`kill -{name} {process}` failed");
}

/// Whether a process runs: it is there, and no zombie.
pub(crate) fn is_running(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}
