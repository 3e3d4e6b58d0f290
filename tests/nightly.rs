//! `examples/cron/nightly.sh`: cron mails what it prints, so a perfect night prints nothing.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use support::{Place, model, shards::scenes};

/// A place with shards, a configuration, and the environment that cron gives its jobs.
fn place() -> Place {
    let place = Place::new();
    place.draw("in", 2, 3);
    let config = format!(
        "[model]\ncaptioner = \"{}\"\n[input]\nshards = [\"{}/*.tar\"]\n[output]\nurl = \"{}\" # here\n",
        model().display(),
        place.path("in").display(),
        place.path("out").display(),
    );
    place.write("nightly.toml", config);
    place
}

fn night_with(place: &Place, config: &Path) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_recaption"));
    let mut command = Command::new("/bin/bash");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cron/nightly.sh")).arg(config);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", place.root()).current_dir(place.root());
    command
        .env("RECAPTION_BIN", program.parent().expect("a folder"))
        .env("LOG", place.path("log/night.jsonl"));
    command.env("CREDENTIALS", place.path("no-credentials"));
    command.env("ORT_DYLIB_PATH", std::env::var_os("ORT_DYLIB_PATH").unwrap_or_default());
    command.output().expect("bash starts")
}

fn night(place: &Place) -> Output {
    night_with(place, &place.path("nightly.toml"))
}

/// Standard output, standard error and exit code.
fn ended(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

#[track_caller]
fn is_silent(output: &Output) {
    assert_eq!(ended(output), (String::new(), String::new(), Some(0)));
}

#[test]
fn perfect_nights_print_nothing_and_log_json_lines() {
    let place = place();
    is_silent(&night(&place));
    place.write("in/00002.tar", scenes(2, 3));
    is_silent(&night(&place));
    let log = fs::read_to_string(place.path("log/night.jsonl")).expect("a log");
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let done: Vec<&Value> = lines.iter().filter_map(|line| line.get("shards_done")).collect();
    assert_eq!(done, [2, 1], "one report per night");
}

#[test]
fn damaged_shards_are_mailed_once() {
    let place = place();
    let whole = scenes(2, 3);
    place.write("in/00002.tar", &whole[..whole.len() / 2]);
    let (stdout, stderr, code) = ended(&night(&place));
    assert_eq!((stderr.as_str(), code), ("", Some(3)), "{stdout}");
    assert!(stdout.contains("found damaged") && stdout.contains("night.jsonl"), "{stdout}");
    is_silent(&night(&place));
}

#[test]
fn missing_shards_are_mailed_once() {
    let place = place();
    let config = fs::read_to_string(place.path("nightly.toml")).expect("a configuration");
    let missing = place.path("in/00009.tar");
    place.write("nightly.toml", config.replace("*.tar\"]", &format!("*.tar\", \"{}\"]", missing.display())));
    let (stdout, _, code) = ended(&night(&place));
    assert_eq!(code, Some(3), "{stdout}");
    assert!(stdout.contains("00009.tar"), "{stdout}");
    is_silent(&night(&place));
}

#[test]
fn refused_configurations_are_mailed_with_their_error() {
    let place = place();
    let config = fs::read_to_string(place.path("nightly.toml")).expect("a configuration");
    place.write("nightly.toml", format!("{config}[run]\nthraeds = 2\n"));
    let (stdout, _, code) = ended(&night(&place));
    assert_eq!(code, Some(2), "{stdout}");
    assert!(stdout.contains("thraeds"), "{stdout}");
}

#[test]
fn missing_configurations_are_one_error() {
    let place = place();
    let (stdout, stderr, code) = ended(&night_with(&place, Path::new("cron/nope.toml")));
    assert_eq!((stdout.as_str(), code), ("", Some(2)));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("cannot read the configuration cron/nope.toml"), "{stderr}");
}
