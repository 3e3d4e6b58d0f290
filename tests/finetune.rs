//! `recaption finetune`: passes all arguments to `recaption-finetune` and its exit status to the caller. The program here is a
//! script; the real one is another package's.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, MutexGuard, PoisonError},
};

use support::{Place, program::recaption};

/// Prints its own path and each argument, and exits with 7.
const SCRIPT: &str = "#!/bin/sh\nprintf '<%s>\\n' \"$0\" \"$@\"\nexit 7\n";

/// Serialises the tests: a program cannot be started while a child that another test just forked has it open for writing.
fn lock() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies the program into a folder of its own.
fn copy(place: &Place) -> PathBuf {
    let to = place.path("bin/recaption");
    fs::create_dir_all(place.path("bin")).expect("folders can be made");
    fs::copy(env!("CARGO_BIN_EXE_recaption"), &to).expect("the program can be copied");
    to
}

fn executable(place: &Place, name: &str, script: &str) -> PathBuf {
    let path = place.write(name, script);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions can be set");
    path
}

fn call(program: &Path, path: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", path).output().expect("the program starts")
}

fn lines_and_code(output: &Output) -> (Vec<&str>, Option<i32>) {
    (std::str::from_utf8(&output.stdout).expect("text").lines().collect(), output.status.code())
}

#[test]
fn arguments_reach_the_program_beside_this_one() {
    let _lock = lock();
    let place = Place::new();
    let program = copy(&place);
    let beside = executable(&place, "bin/recaption-finetune", SCRIPT);
    executable(&place, "path/recaption-finetune", SCRIPT);
    let path = place.path("path").display().to_string();
    let typed = [
        "finetune",
        "config.toml",
        "--help",
        "-h",
        "--set",
        "a=b c",
        "--log-level",
        "no such",
        "",
        "--",
        "--version",
        "-7",
    ];
    let output = call(&program, &path, &typed);
    let mut expected = vec![format!("<{}>", beside.display())];
    expected.extend(typed[1..].iter().map(|word| format!("<{word}>")));
    assert_eq!(lines_and_code(&output), (expected.iter().map(String::as_str).collect(), Some(7)));
    // Also after flags of this program, and with flags that both programs have.
    let output = call(&program, &path, &["--log-level", "debug", "finetune", "--log-format", "x"]);
    assert_eq!(lines_and_code(&output).0[1..], ["<--log-format>", "<x>"]);
    assert_eq!(lines_and_code(&call(&program, &path, &["finetune"])).0.len(), 1);
    // `finetune` elsewhere is an ordinary argument.
    assert_eq!(call(&program, &path, &["inspect", "finetune"]).status.code(), Some(1));
}

#[test]
fn program_is_searched_in_path() {
    let _lock = lock();
    let place = Place::new();
    let program = copy(&place);
    place.write("first/recaption-finetune", SCRIPT);
    fs::create_dir_all(place.path("second/recaption-finetune")).expect("folders can be made");
    let found = executable(&place, "third/recaption-finetune", SCRIPT);
    let path = ["first", "second", "third"].map(|name| place.path(name).display().to_string()).join(":");
    let output = call(&program, &path, &["finetune", "--steps", "3"]);
    let expected = format!("<{}>", found.display());
    assert_eq!(lines_and_code(&output), (vec![expected.as_str(), "<--steps>", "<3>"], Some(7)));
}

#[test]
fn signal_exit_is_passed_on() {
    let _lock = lock();
    let place = Place::new();
    let program = copy(&place);
    executable(&place, "bin/recaption-finetune", "#!/bin/sh\nkill -TERM $$\n");
    assert_eq!(call(&program, "/usr/bin:/bin", &["finetune"]).status.signal(), Some(15));
}

#[test]
fn missing_program_is_a_one_line_error() {
    let _lock = lock();
    let place = Place::new();
    let program = copy(&place);
    let output = call(&program, &place.path("nothing").display().to_string(), &["finetune", "--help"]);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for words in [
        "recaption-finetune",
        place.path("bin").to_str().expect("text"),
        "PATH",
        "cargo build --release -p recaption-finetune",
        "make install FINETUNE=1",
    ] {
        assert!(stderr.contains(words), "{stderr}\nlacks {words}");
    }
    recaption().args(["help", "finetune"]).ends(0).prints("recaption-finetune");
    recaption().arg("--help").ends(0).prints("finetune");
}
