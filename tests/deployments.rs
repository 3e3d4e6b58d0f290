//! `examples/slurm`, `kubernetes`, `aws-batch`, `skypilot` and `docker`: their scripts run here, with programs that stand for
//! the schedulers', and their manifests are held against the schemas of those who read them.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
};

use recaption::run::ExitCode;
use support::Place;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// A folder of programs that stand for others, and a journal of how they were called.
struct Stubs {
    place: Place,
}

impl Stubs {
    /// `programs` are names with their scripts; each call is a line of the journal.
    fn new(programs: &[(&str, &str)]) -> Self {
        let place = Place::new();
        for (name, script) in programs {
            let journal = place.path("journal");
            let text = format!("#!/bin/bash\necho {name} \"$@\" >> {}\n{script}\n", journal.display());
            place.write(&format!("bin/{name}"), text);
            let path = place.path("bin").join(name);
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a program");
        }
        place.write("journal", "");
        Self { place }
    }

    /// Runs a script with bash; the stubs come first on its path.
    fn bash(&self, script: &Path, variables: &[(&str, &str)]) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.place.path("bin").display());
        let mut command = Command::new("/bin/bash");
        command.arg(script).env_clear().env("PATH", path).envs(variables.iter().copied());
        command.current_dir(self.place.root()).output().expect("bash starts")
    }

    /// The calls so far; forgets them.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.place.path("journal")).expect("a journal");
        self.place.write("journal", "");
        text.lines().map(str::to_owned).collect()
    }
}

/// The array's script, with the stubs in place of `/opt/recaption/bin`.
fn array_script(stubs: &Stubs) -> PathBuf {
    let text = fs::read_to_string(example("slurm/recaption.sbatch")).expect("the script");
    let bin = stubs.place.path("bin").display().to_string();
    stubs.place.write("recaption.sbatch", text.replace("/opt/recaption/bin", &bin));
    stubs.place.path("recaption.sbatch")
}

const TASK: [(&str, &str); 2] = [("SLURM_ARRAY_JOB_ID", "7"), ("SLURM_ARRAY_TASK_ID", "3")];

#[test]
fn slurm_tasks_requeue_themselves_after_retryable_codes() {
    let programs = [("recaption", "exit $CODE"), ("squeue", "echo $STATE"), ("scontrol", "")];
    let stubs = Stubs::new(&programs);
    let script = array_script(&stubs);
    let run = |code: &str, state: &str, restarts: &str| {
        let more = [("CODE", code), ("STATE", state), ("SLURM_RESTART_COUNT", restarts)];
        let output = stubs.bash(&script, &[&TASK[..], &more[..]].concat());
        assert_eq!(output.status.code(), code.parse().ok(), "the task ends as recaption does");
        stubs.calls().iter().any(|call| call == "scontrol requeue 7_3")
    };
    for code in ExitCode::ALL {
        let number = (code as u8).to_string();
        assert_eq!(run(&number, "RUNNING", "0"), code.is_retryable(), "exit code {number}");
    }
    assert!(run("137", "RUNNING", "9"), "a killed process");
    assert!(!run("1", "RUNNING", "10"), "no more than MAX_RESTARTS");
    assert!(!run("1", "COMPLETING", "0"), "a cancelled task");
    assert!(!run("1", "", "0"), "a task that Slurm does not know");
}

#[test]
fn slurm_tasks_ask_again_where_the_controller_does_not_answer() {
    // Each fails as often as its variable says.
    let fails =
        |name: &str| format!("echo >> {name}; [ $(wc -l < {name}) -gt ${{{name}_FAILS}} ] || exit 1; ");
    let (squeue, scontrol) = (fails("SQUEUE") + "echo $STATE", fails("SCONTROL"));
    let run = |state: &str, squeue_fails: &str, scontrol_fails: &str| {
        let programs =
            [("recaption", "exit 1"), ("squeue", &*squeue), ("scontrol", &*scontrol), ("sleep", "")];
        let stubs = Stubs::new(&programs);
        let more = [("STATE", state), ("SQUEUE_FAILS", squeue_fails), ("SCONTROL_FAILS", scontrol_fails)];
        let output = stubs.bash(&array_script(&stubs), &[&TASK[..], &more[..]].concat());
        assert_eq!(output.status.code(), Some(1), "the task ends as recaption does");
        let calls = stubs.calls();
        let count = |name: &str| calls.iter().filter(|call| call.starts_with(name)).count();
        (count("squeue"), count("scontrol"))
    };
    assert_eq!(run("RUNNING", "0", "0"), (1, 1));
    assert_eq!(run("RUNNING", "4", "1"), (5, 2));
    assert_eq!(run("RUNNING", "9", "0"), (5, 0), "a state that is not known");
    assert_eq!(run("RUNNING", "0", "9"), (1, 2));
    assert_eq!(run("", "0", "0"), (1, 0), "an answer, though an empty one");
}

#[test]
fn slurm_tasks_pass_sigterm_on_and_wait() {
    // Ends a while after the signal, as a run that finishes its shards does.
    let recaption = "trap 'sleep 0.3; exit 1' TERM; sleep 0.5; kill -TERM $PPID; while :; do sleep 0.1; done";
    let stubs = Stubs::new(&[("recaption", recaption), ("squeue", "echo RUNNING"), ("scontrol", "")]);
    let output = stubs.bash(&array_script(&stubs), &TASK);
    let calls = stubs.calls();
    assert_eq!(output.status.code(), Some(1), "the code of recaption, not of the signal: {calls:?}");
    assert_eq!(calls[0], "recaption run recaption.toml --threads 1");
    assert_eq!(calls.last().map(String::as_str), Some("scontrol requeue 7_3"));
}

#[test]
fn slurm_finalize_waits_for_the_array() {
    let stubs =
        Stubs::new(&[("sbatch", "case $* in *recaption.sbatch*) echo '12;cluster';; *) echo 13;; esac")]);
    let output = stubs.bash(&example("slurm/submit.sh"), &[]);
    assert!(output.status.success(), "{output:?}");
    let calls = stubs.calls();
    assert!(calls[0].ends_with("recaption.sbatch recaption.toml"), "{calls:?}");
    assert!(calls[1].starts_with("sbatch --parsable --dependency=afterany:12 "), "{calls:?}");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("array 12, then finalize 13;"));
}

/// The block below `run: |` of a SkyPilot task.
fn skypilot_script(name: &str) -> String {
    let text = fs::read_to_string(example("skypilot").join(name)).expect("a task");
    let block = text.split_once("\nrun: |\n").expect("a block").1;
    block.lines().map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line))).collect()
}

#[test]
fn skypilot_jobs_retry_retryable_codes_alone() {
    let stubs = Stubs::new(&[("sudo", "exit $CODE"), ("sleep", "")]);
    stubs.place.write("job.sh", skypilot_script("recaption.yaml"));
    let settings = [
        ("IMAGE", "image"),
        ("INPUT", "s3://b/*.tar"),
        ("OUTPUT", "s3://b/out"),
        ("ATTEMPTS", "3"),
        ("AWS_REGION", "eu-north-1"),
    ];
    for code in ExitCode::ALL {
        let number = (code as u8).to_string();
        let more = [("CODE", number.as_str()), ("SKYPILOT_JOB_RANK", "2"), ("SKYPILOT_NUM_JOBS", "8")];
        let output = stubs.bash(&stubs.place.path("job.sh"), &[&settings[..], &more[..]].concat());
        assert_eq!(output.status.code(), Some(i32::from(code as u8)));
        let runs: Vec<_> =
            stubs.calls().into_iter().filter(|call| call.starts_with("sudo docker run")).collect();
        assert_eq!(runs.len(), if code.is_retryable() { 3 } else { 1 }, "exit code {number}");
        assert!(runs[0].contains(" --env AWS_REGION=eu-north-1 "), "sudo keeps no variables: {runs:?}");
        assert!(
            runs[0].ends_with("--input s3://b/*.tar --output s3://b/out --task-index 2 --task-count 8"),
            "{runs:?}"
        );
    }
}

/// Answers one request with a status, and returns the request's first line.
fn answer_once(listener: TcpListener, status: &'static str) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        // To its end, which may come in another packet: a connection that is closed before that is reset, and its answer lost.
        let (mut request, mut part) = (Vec::new(), [0; 512]);
        while !request.ends_with(b"\r\n\r\n") {
            let read = stream.read(&mut part).expect("a request");
            assert_ne!(read, 0, "half a request");
            request.extend_from_slice(&part[..read]);
        }
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok").expect("an answer");
        String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned()
    })
}

#[test]
fn containers_are_healthy_while_healthz_answers() {
    let stubs = Stubs::new(&[]);
    let script = fs::read_to_string(example("docker/healthcheck.sh")).expect("the script");
    let check = |command: &str, address: &str| {
        stubs.place.write("cmdline", format!("{}\0", command.replace(' ', "\0")));
        let cmdline = stubs.place.path("cmdline").display().to_string();
        stubs.place.write("check.sh", script.replace("/proc/1/cmdline", &cmdline));
        stubs
            .bash(&stubs.place.path("check.sh"), &[("RECAPTION_RUN__METRICS_ADDR", address)])
            .status
            .success()
    };
    for (status, is_healthy) in [("200 OK", true), ("503 Service Unavailable", false)] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("0.0.0.0:{}", listener.local_addr().expect("an address").port());
        let server = answer_once(listener, status);
        assert_eq!(check("recaption run job.toml", &address), is_healthy, "{status}");
        assert_eq!(server.join().expect("a server"), "GET /healthz HTTP/1.1");
        // The server is gone.
        assert!(!check("recaption run job.toml", &address));
        assert!(check("recaption finalize s3://b/out", &address), "a command without metrics");
    }
    assert!(check("recaption run job.toml", ""), "no metrics are served");
}

/// Kubernetes' schemas, botocore's model, hadolint, shellcheck, and this program: commands, keys, variables. Copies with mistakes
/// are refused.
#[test]
fn examples_are_accepted_by_those_who_read_them() {
    let python = support::services::python("python3");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check_deployments.py");
    let mut command = Command::new(python);
    command.arg(script).args(["--installed", "--recaption", env!("CARGO_BIN_EXE_recaption")]);
    let output = command.output().expect("Python starts");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(report.lines().filter(|line| line.starts_with("ok ")).count(), 5, "{report}");
}
