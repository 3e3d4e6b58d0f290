//! Servers of others, which `scripts/test_services.py` installs: started on a free port, ended by their process id when
//! the story ends.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often another port is tried when someone else was quicker.
const PORTS: usize = 5;

/// A server that runs, with a folder of its own.
pub(crate) struct Service {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Service {
    /// Starts what `command` makes of a port and a folder, and waits until it answers HTTP.
    pub(crate) fn start(command: impl Fn(u16, &Path) -> Command) -> Self {
        let mut said = String::new();
        for _ in 0..PORTS {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let port = free_port();
            let log = dir.path().join("log.txt");
            let file = File::create(&log).expect("a log can be written");
            let mut command = command(port, dir.path());
            let child = command
                .stdin(Stdio::null())
                .stdout(file.try_clone().expect("a log can be shared"))
                .stderr(file)
                .spawn()
                .unwrap_or_else(|e| panic!("{command:?} cannot be started: {e}"));
            let mut service = Self { child, port, dir };
            if service.comes_up() {
                return service;
            }
            said = fs::read_to_string(&log).unwrap_or_default();
        }
        panic!("no server of {PORTS} came up; the last one said:\n{said}");
    }

    /// moto: S3 without signatures.
    pub(crate) fn moto() -> Self {
        Self::start(|port, dir| {
            let mut command = Command::new(python("moto_server"));
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).current_dir(dir);
            command
        })
    }

    /// s3s-fs: S3 with signatures, over the service's folder.
    pub(crate) fn s3s(access_key: &str, secret_key: &str) -> Self {
        Self::start(|port, dir| {
            let root = dir.join("root");
            fs::create_dir(&root).expect("folders can be made");
            let mut command = Command::new(installed("s3s/bin/s3s-fs", "test-s3s"));
            command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
            command.args(["--access-key", access_key, "--secret-key", secret_key]).arg(root);
            command
        })
    }

    /// azurite: Azure's blobs, in memory.
    pub(crate) fn azurite() -> Self {
        Self::start(|port, dir| {
            let script = "azurite/node_modules/azurite/dist/src/blob/main.js";
            let mut command = Command::new("node");
            command.arg(installed(script, "test-services")).args(["--blobPort", &port.to_string()]);
            // It knows fewer versions of the API than its clients.
            command.args([
                "--inMemoryPersistence",
                "--disableTelemetry",
                "--skipApiVersionCheck",
                "--silent",
            ]);
            command.current_dir(dir);
            command
        })
    }

    /// mitmproxy before the server at `target`, with the mistakes of `faults.py`; `settings` are the script's own. What
    /// it did comes to [`Service::path`]`("journal.jsonl")`.
    pub(crate) fn faults(target: u16, settings: &[(&str, String)]) -> Self {
        Self::start(|port, dir| {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/faults.py");
            let mut command = Command::new(python("mitmdump"));
            command.args(["--quiet", "--mode", &format!("reverse:http://127.0.0.1:{target}")]);
            command.args(["--listen-host", "127.0.0.1", "--listen-port", &port.to_string()]);
            command.args(["--set", "keep_host_header=true", "--set", "connection_strategy=lazy"]);
            command.arg("--set").arg(format!("confdir={}", dir.join("mitmproxy").display()));
            command.arg("--scripts").arg(script);
            command.env("FAULTS_JOURNAL", dir.join("journal.jsonl"));
            command.envs(settings.iter().map(|(name, value)| (*name, value)));
            command
        })
    }

    /// Its port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A path in its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Whether it answered before it ended or patience did.
    fn comes_up(&mut self) -> bool {
        let began = Instant::now();
        while self.child.try_wait().expect("a child can be asked").is_none() {
            if request(self.port, "GET", "/", &[]).is_ok_and(|status| status > 0) {
                // The answer may be another server's, which was quicker at this port: then this one has ended.
                return self.child.try_wait().expect("a child can be asked").is_none();
            }
            assert!(began.elapsed() < PATIENCE, "no answer after {PATIENCE:?}; {}", self.log());
            sleep(Duration::from_millis(50));
        }
        false
    }

    /// What it said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log.txt")).unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // One that ended by itself needs no killing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request without a body; the answer's status.
pub(crate) fn request(
    port: u16,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> std::io::Result<u16> {
    ask(port, method, target, headers).map(|(status, _)| status)
}

/// One request without a body; the answer's status and all of its text.
pub(crate) fn ask(
    port: u16,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, answer))
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// A program of the Python that `scripts/test_services.py` made.
pub(crate) fn python(program: &str) -> PathBuf {
    installed(&format!("python/bin/{program}"), "test-services")
}

/// A file that `scripts/test_services.py` installed.
fn installed(file: &str, target: &str) -> PathBuf {
    let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("cargo's own folder");
    let path = target_dir.join("test-services").join(file);
    assert!(path.exists(), "{} is not installed: `make {target}` does it", path.display());
    path
}
