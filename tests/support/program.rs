//! The program under test. A call that ends otherwise than the story wants fails with the command, the directory, the
//! exit status and both streams.

use std::{
    ffi::{OsStr, OsString},
    fmt::Write,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// The program, not called yet.
pub(crate) fn recaption() -> Call {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recaption"));
    // What a developer has set for runs of his own must not reach the tests'.
    for (name, _) in std::env::vars_os() {
        let foreign =
            ["RECAPTION_", "AWS_", "AZURE_", "GOOGLE_", "SLURM_", "CLOUD_RUN_", "JOB_COMPLETION_INDEX"];
        if foreign.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    Call { command }
}

/// A call in the making.
pub(crate) struct Call {
    command: Command,
}

impl Call {
    /// Adds an argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Adds `--set key=value`.
    pub(crate) fn set(self, assignment: &str) -> Self {
        self.arg("--set").arg(assignment)
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Works in `dir`.
    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// The command, for a story that needs its streams.
    pub(crate) fn into_command(self) -> Command {
        self.command
    }

    /// Runs it to its end, which must be this exit code.
    #[track_caller]
    pub(crate) fn ends(mut self, code: i32) -> Said {
        let began = Instant::now();
        let output = self.command.stdin(Stdio::null()).output().expect("the program starts");
        let said = Said::new(&self.command, output, began.elapsed());
        said.check(said.status.code() == Some(code), &format!("exit code {code} was expected"));
        said
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> Running {
        let child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        Running { command: self.command, child, began: Instant::now() }
    }
}

/// A call under way.
pub(crate) struct Running {
    command: Command,
    child: Child,
    began: Instant,
}

impl Running {
    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
    }

    /// `kill -INT`, as Ctrl-C sends it.
    pub(crate) fn interrupt(&self) {
        let status = Command::new("kill").arg("-INT").arg(self.id().to_string()).status();
        assert!(status.expect("`kill` starts").success(), "`kill -INT` failed");
    }

    /// Waits for its end. Streams are read only then: for calls that say less than a pipe holds.
    pub(crate) fn wait(self) -> Said {
        let output = self.child.wait_with_output().expect("a child can be waited for");
        Said::new(&self.command, output, self.began.elapsed())
    }
}

/// How a call ended, and what it said.
pub(crate) struct Said {
    /// The exit status.
    pub(crate) status: ExitStatus,
    /// Data.
    pub(crate) stdout: String,
    /// Logs.
    pub(crate) stderr: String,
    /// From start to end.
    pub(crate) took: Duration,
    story: String,
}

impl Said {
    fn new(command: &Command, output: Output, took: Duration) -> Self {
        let mut said = Self {
            status: output.status,
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
            took,
            story: String::new(),
        };
        said.story = said.tell(command);
        said
    }

    fn tell(&self, command: &Command) -> String {
        let mut words: Vec<OsString> = command
            .get_envs()
            .filter_map(|(name, value)| Some(format!("{}={}", name.display(), value?.display()).into()))
            .collect();
        words.push(command.get_program().to_owned());
        words.extend(command.get_args().map(OsStr::to_owned));
        let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let dir = command.get_current_dir().map_or_else(|| ".".into(), |dir| dir.display().to_string());
        let mut story = String::new();
        let rule = "=".repeat(78);
        let _ = write!(
            story,
            "\n{rule}\ncommand    {}\ndirectory  {dir}\nstatus     {} after {:.1} s\nstdout     ---\n{}\nstderr     ---\n{}\n{rule}\n",
            words.join(" "),
            self.status,
            self.took.as_secs_f64(),
            self.stdout,
            self.stderr
        );
        story
    }

    /// Fails with the whole story where `holds` is false.
    #[track_caller]
    pub(crate) fn check(&self, holds: bool, expected: &str) {
        assert!(holds, "{expected}, but:\n{}", self.story);
    }

    /// Stderr must contain this.
    #[track_caller]
    pub(crate) fn warns(&self, words: &str) -> &Self {
        self.check(self.stderr.contains(words), &format!("stderr was expected to hold {words:?}"));
        self
    }

    /// Stdout must contain this.
    #[track_caller]
    pub(crate) fn prints(&self, words: &str) -> &Self {
        self.check(self.stdout.contains(words), &format!("stdout was expected to hold {words:?}"));
        self
    }

    /// Neither stream may contain this.
    #[track_caller]
    pub(crate) fn never_says(&self, words: &str) -> &Self {
        let silent = !self.stdout.contains(words) && !self.stderr.contains(words);
        self.check(silent, &format!("neither stream was expected to hold {words:?}"));
        self
    }

    /// Stderr line by line, each of which must be one JSON object.
    #[track_caller]
    pub(crate) fn log(&self) -> Vec<Value> {
        let parsed =
            self.stderr.lines().map(|line| serde_json::from_str::<Value>(line).ok().filter(Value::is_object));
        let lines: Option<Vec<Value>> = parsed.collect();
        self.check(lines.is_some(), "every line of stderr was expected to be a JSON object");
        lines.unwrap_or_default()
    }

    /// Stdout as one JSON document: the report of a run that logs JSON.
    #[track_caller]
    pub(crate) fn report(&self) -> Value {
        let report = serde_json::from_str(&self.stdout);
        self.check(report.is_ok(), "stdout was expected to be one JSON document");
        report.unwrap_or_default()
    }
}
