//! Exit codes, by which schedulers decide whether to start a command again: the page agrees with the program, and every command
//! ends with the code of its class of failure.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    thread,
};

use recaption::run::ExitCode;
use support::{
    Place, checkpoint, model,
    program::{Call, recaption},
};

/// Rows of the first table of a page, cell by cell.
fn table(page: &str) -> Vec<Vec<String>> {
    let lines =
        page.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    lines.skip(2).map(cells).collect()
}

#[test]
fn page_and_program_agree_on_the_codes() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/exit-codes.md");
    let rows = table(&fs::read_to_string(page).expect("the page"));
    let wanted: Vec<Vec<String>> = ExitCode::ALL
        .iter()
        .map(|code| {
            let retry = if code.is_retryable() { "yes" } else { "no" };
            vec![(*code as u8).to_string(), code.as_str().to_owned(), retry.to_owned()]
        })
        .collect();
    let shown: Vec<Vec<String>> = rows.iter().map(|row| row[..3].to_vec()).collect();
    assert_eq!(shown, wanted);
    let operations = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/operations.md");
    let operations = fs::read_to_string(operations).expect("the page");
    let codes = operations.split("## Exit codes").nth(1).expect("a section");
    let codes: Vec<String> = table(codes).iter().map(|row| row[0].clone()).collect();
    assert_eq!(codes, ["0", "1", "2", "3", "4"]);
}

/// Commands that read an output, each with the arguments that it needs.
fn readers(place: &Place, output: &str) -> BTreeMap<&'static str, Call> {
    let call = |name: &str| recaption().dir(place.root()).arg(name).arg(output);
    let new = |name: &str| place.path(name);
    BTreeMap::from([
        ("status", call("status")),
        ("retry", call("retry")),
        ("finalize", call("finalize")),
        ("filter", call("filter").args(["--keep-top", "0.5", "--to"]).arg(new("filtered"))),
        ("report", call("report").arg("--out").arg(new("page.html"))),
        ("convert", call("convert").args(["--to", "parquet", "--out"]).arg(new("converted"))),
    ])
}

/// A configured command over these inputs and this output.
fn configured(place: &Place, name: &str, input: &str, output: &str) -> Call {
    let call = recaption().dir(place.root()).arg(name).arg("--model").arg(model());
    call.arg("--input").arg(input).arg("--output").arg(output)
}

/// A port at which nobody listens.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

#[test]
fn wrong_addresses_are_never_retried() {
    let place = Place::new();
    let input = place.draw("in", 1, 2).display().to_string();
    for (_, call) in readers(&place, "ftp://host/out") {
        call.ends(2).warns("unknown scheme");
    }
    for name in ["run", "plan"] {
        configured(&place, name, &input, "ftp://host/out").ends(2);
        configured(&place, name, "ftp://host/0.tar", "out").ends(2);
        // Nothing makes a web server or the hub writable.
        configured(&place, name, &input, "https://host.example/out").ends(2);
        configured(&place, name, &input, "hf://datasets/org/name").ends(2);
    }
    recaption().dir(place.root()).args(["finalize", "https://host.example/out", "--input", &input]).ends(2);
}

#[test]
fn unreachable_stores_are_retried() {
    let place = Place::new();
    let input = place.draw("in", 1, 2).display().to_string();
    let endpoint = format!("http://127.0.0.1:{}", closed_port());
    let away = |call: Call| {
        call.env("AWS_ENDPOINT", &endpoint)
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("RECAPTION_STORE__RETRIES", "0")
            .env("RECAPTION_STORE__TIMEOUT_SECONDS", "1")
    };
    for (_, call) in readers(&place, "s3://bucket/out") {
        away(call).ends(1);
    }
    away(configured(&place, "run", &input, "s3://bucket/out")).ends(1);
    away(configured(&place, "run", "s3://bucket/in/*.tar", "out")).ends(1);
    // It lists all that would make a run fail, and has one code for that.
    away(configured(&place, "plan", &input, "s3://bucket/out")).ends(2);
}

/// A server that answers every request with this status.
fn refuse_all(status: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 8192];
            let _ = stream.read(&mut request);
            let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    port
}

#[test]
fn refused_credentials_are_retried_a_limited_time() {
    let place = Place::new();
    let input = place.draw("in", 1, 2).display().to_string();
    for status in [401, 403] {
        let endpoint = format!("http://127.0.0.1:{}", refuse_all(status));
        let refused = |call: Call| {
            call.env("AWS_ENDPOINT", &endpoint)
                .env("AWS_ALLOW_HTTP", "true")
                .env("AWS_REGION", "us-east-1")
                .env("AWS_ACCESS_KEY_ID", "key")
                .env("AWS_SECRET_ACCESS_KEY", "wrong")
        };
        for (_, call) in readers(&place, "s3://bucket/out") {
            refused(call).ends(1);
        }
        refused(configured(&place, "run", &input, "s3://bucket/out")).ends(1).warns("credentials");
    }
}

#[test]
fn missing_models_and_libraries_are_retried_a_limited_time() {
    let place = Place::new();
    let input = place.draw("in", 1, 2).display().to_string();
    for name in ["run", "preview"] {
        // A volume that is not mounted yet looks like this.
        let call = recaption().dir(place.root()).arg(name).args(["--model", "nowhere", "--input", &input]);
        call.args(["--output", "out"]).ends(1).warns("nowhere");
        configured(&place, name, &input, "out").env("ORT_DYLIB_PATH", "/nonexistent").ends(1);
    }
    recaption().dir(place.root()).args(["export", "--checkpoint", "nowhere", "--out", "m"]).ends(1);
    let full = recaption().dir(place.root()).arg("export").arg("--checkpoint").arg(checkpoint());
    full.args(["--out", "/dev/full/model"]).ends(1);
}
