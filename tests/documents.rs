//! README and the book: every command in them runs or is checked as far as it can be here, and every link leads somewhere.
//!
//! Shell blocks of a page run in order, in one shell and one temporary folder. It holds what the pages assume: `photos`,
//! `shards`, `models/coca`, `models/scorer`, and links to the repository's folders; `s3://my-bucket/shards` and `hf://org/model`
//! are on servers of this machine. A TOML block with `file=NAME` is stored before what follows it. A block with `needs=` is not run.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
};

use recaption_onnx::{Bundled, Precision, export};
use support::{
    Place,
    documents::{Block, anchors, blocks, invocations, links, pages, paths_in_code, repository, text},
    hub::{Habits, HubStub},
    model,
    program::recaption,
    services::Service,
    shards::{jpeg, scenes},
};

/// Lines of README at most.
const README_LINES: usize = 150;
/// What a block may lack here. `finetune` runs where the training program lies beside `recaption`.
const NEEDS: &[&str] = &["build", "download", "finetune", "gpu", "root", "scheduler"];
/// The example whose commands are run as those of the documentation are.
const CAPFILT: &str = "examples/capfilt/README.md";
/// Folders of the repository that commands of the pages name.
const LINKED: &[&str] = &["examples", "onnx", "scripts", "stages", "tests"];

macro_rules! pages_with_commands {
    ($($name:ident: $page:literal,)*) => {
        /// Pages whose commands run.
        const RUN: &[&str] = &[$($page),*];
        $(#[test]
        fn $name() {
            run_page($page);
        })*
    };
}

pages_with_commands! {
    commands_of_readme_run: "README.md",
    commands_of_array_jobs_run: "docs/src/array-jobs.md",
    commands_of_capfilt_run: "examples/capfilt/README.md",
    commands_of_captioning_run: "docs/src/captioning.md",
    commands_of_configuration_run: "docs/src/configuration.md",
    commands_of_evaluation_run: "docs/src/evaluation.md",
    commands_of_exit_codes_run: "docs/src/exit-codes.md",
    commands_of_filtering_run: "docs/src/filtering.md",
    commands_of_fine_tuning_run: "docs/src/fine-tuning.md",
    commands_of_inputs_run: "docs/src/inputs.md",
    commands_of_monitoring_run: "docs/src/monitoring.md",
    commands_of_operations_run: "docs/src/operations.md",
    commands_of_output_run: "docs/src/output.md",
    commands_of_plan_run: "docs/src/plan.md",
    commands_of_preview_run: "docs/src/preview.md",
    commands_of_pull_run: "docs/src/pull.md",
    commands_of_quickstart_run: "docs/src/quickstart.md",
    commands_of_report_run: "docs/src/report.md",
    commands_of_scaling_run: "docs/src/scaling.md",
    commands_of_trainers_run: "docs/src/trainers.md",
    commands_of_troubleshooting_run: "docs/src/troubleshooting.md",
    commands_of_verification_run: "docs/src/verification.md",
    commands_of_walkthrough_run: "docs/src/walkthrough.md",
    commands_of_worker_protocol_run: "docs/src/worker-protocol.md",
}

/// The training program, where it was built too.
fn has_finetune() -> bool {
    Path::new(env!("CARGO_BIN_EXE_recaption")).with_file_name("recaption-finetune").is_file()
}

fn is_run(block: &Block) -> bool {
    match block.needs.as_deref() {
        None => true,
        Some("finetune") => has_finetune(),
        Some(_) => false,
    }
}

/// A folder with everything that the pages assume.
fn prepared() -> Place {
    let place = Place::new();
    for folder in LINKED {
        symlink(repository().join(folder), place.path(folder)).expect("a link");
    }
    fs::create_dir_all(place.path("target/release")).expect("a folder");
    let program = Path::new(env!("CARGO_BIN_EXE_recaption"));
    for name in ["recaption", "recaption-finetune"] {
        if program.with_file_name(name).is_file() {
            symlink(program.with_file_name(name), place.path("target/release").join(name)).expect("a link");
        }
    }
    for (n, name) in ["1.jpg", "2.jpg", "Screenshot 2024-01-01 at 10.15.21.jpg"].iter().enumerate() {
        place.write(&format!("photos/{name}"), jpeg(n as u64));
    }
    place.draw("shards", 2, 4);
    Bundled::Dsc.write_checkpoint(&place.path("checkpoint")).expect("a checkpoint");
    export(&place.path("checkpoint"), &place.path("models/coca"), Precision::Fp32).expect("a model");
    symlink(model(), place.path("models/scorer")).expect("a link");
    place
}

/// Writes an object to a server that checks no signatures.
fn put(port: u16, target: &str, body: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a server");
    write!(
        stream,
        "PUT {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .and_then(|()| stream.write_all(body))
    .expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{target}: {answer}");
}

/// A hub that serves the bundled captioner of descriptive captions as `org/model`.
fn hub(place: &Place) -> HubStub {
    let files = fs::read_dir(place.path("checkpoint")).expect("a checkpoint");
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.expect("an entry");
        (entry.file_name().into_string().expect("UTF-8"), fs::read(entry.path()).expect("a file"))
    };
    HubStub::start(files.map(read).collect(), Habits::default())
}

/// The shell script that the blocks of a page make together.
fn script(blocks: &[Block]) -> String {
    let mut script = String::from("set -euo pipefail\n");
    for block in blocks {
        script.push_str(&format!("printf '\\n### {}\\n' >&2\n", block.place));
        match (&block.file, block.language.as_str()) {
            (Some(file), _) => {
                script.push_str(&format!("cat > {file} <<'END OF FILE'\n{}END OF FILE\n", block.text))
            }
            (None, "sh") if is_run(block) => script.push_str(&block.text),
            _ => {}
        }
    }
    script
}

fn run_page(page: &str) {
    let blocks = blocks(page);
    let place = prepared();
    let mut command = Command::new("bash");
    command.arg(place.write("page.sh", script(&blocks))).current_dir(place.root());
    for (name, _) in std::env::vars_os() {
        let foreign = ["RECAPTION_", "AWS_", "AZURE_", "GOOGLE_"];
        if foreign.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", place.path("target/release").display()));
    let hub = text(page).contains("hf://org/model").then(|| hub(&place));
    if let Some(hub) = &hub {
        command.env("HF_ENDPOINT", hub.url()).env("HF_HOME", place.path("huggingface"));
    }
    let server = text(page).contains("s3://my-bucket").then(Service::moto);
    if let Some(server) = &server {
        put(server.port(), "/my-bucket", b"");
        for shard in 0..2 {
            put(server.port(), &format!("/my-bucket/shards/{shard:05}.tar"), &scenes(shard, 4));
        }
        command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", server.port()));
        command.env("AWS_ALLOW_HTTP", "true");
    }
    let output = command.output().expect("bash starts");
    assert!(
        output.status.success(),
        "{page}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn every_page_with_commands_is_run() {
    let with_commands: BTreeSet<String> = pages()
        .into_iter()
        .filter(|page| page == "README.md" || page == CAPFILT || page.starts_with("docs/"))
        .filter(|page| {
            blocks(page)
                .iter()
                .any(|b| b.language == "sh" && b.needs.as_deref().is_none_or(|n| n == "finetune"))
        })
        .collect();
    let run: BTreeSet<String> = RUN.iter().map(ToString::to_string).collect();
    assert_eq!(with_commands, run, "the list of this file and the pages differ");
}

#[test]
fn blocks_say_what_they_need_and_are_counted() {
    let mut counts = BTreeMap::new();
    for page in pages() {
        for block in blocks(&page) {
            let needs = block.needs.as_deref();
            assert!(needs.is_none_or(|n| NEEDS.contains(&n)), "{}: unknown need {needs:?}", block.place);
            let known = ["", "sh", "toml", "json", "python", "rust", "text", "console"];
            assert!(known.contains(&block.language.as_str()), "{}: {:?}", block.place, block.language);
            assert!(
                block.language != "toml" || block.file.is_some() || !page.starts_with("docs/"),
                "{}: a configuration needs file=NAME and a command that reads it",
                block.place
            );
            if block.language == "sh" {
                *counts.entry(block.needs.unwrap_or_else(|| "nothing".into())).or_insert(0) += 1;
            }
        }
    }
    println!("shell blocks by what they need: {counts:?}");
    let left_out: i32 = counts.iter().filter(|(needs, _)| *needs != "nothing").map(|(_, n)| n).sum();
    assert!(counts["nothing"] > left_out, "more blocks are left out than run: {counts:?}");
}

#[test]
fn shell_blocks_parse() {
    for block in pages().iter().flat_map(|page| blocks(page)).filter(|block| block.language == "sh") {
        let output = Command::new("bash").args(["-n", "-c", &block.text]).output().expect("bash starts");
        assert!(output.status.success(), "{}: {}", block.place, String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn commands_and_flags_in_blocks_exist() {
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut seen = 0;
    for block in pages().iter().flat_map(|page| blocks(page)).filter(|block| block.language == "sh") {
        for call in invocations(&block.text) {
            // The other program's flags are checked where it runs.
            if call.subcommand == "finetune" {
                continue;
            }
            seen += 1;
            let help = helps.entry(call.subcommand.clone()).or_insert_with(|| {
                let words = (!call.subcommand.is_empty()).then_some(call.subcommand.as_str());
                recaption().args(words).arg("--help").ends(0).stdout
            });
            for flag in &call.flags {
                let known = help.split(|c: char| c.is_whitespace() || ",=[]`".contains(c));
                let known = known.chain(["--help", "--version"]).any(|word| word == flag);
                assert!(known, "{}: `recaption {}` has no {flag}", block.place, call.subcommand);
            }
        }
    }
    assert!(seen > 50, "only {seen} calls were found");
}

#[test]
fn make_targets_in_blocks_exist() {
    let makefile = text("Makefile");
    for block in pages().iter().flat_map(|page| blocks(page)).filter(|block| block.language == "sh") {
        for line in block.text.lines().filter_map(|line| line.strip_prefix("make ")) {
            let target = line.split_whitespace().next().unwrap_or_default();
            let known = makefile.lines().any(|line| {
                line.split(':').next().is_some_and(|names| {
                    !line.starts_with('\t') && names.split_whitespace().any(|name| name == target)
                })
            });
            assert!(known, "{}: Makefile has no target {target}", block.place);
        }
    }
}

#[test]
fn links_and_anchors_resolve() {
    let mut broken = Vec::new();
    for page in pages() {
        let folder = Path::new(&page).parent().expect("a folder");
        for link in links(&page) {
            let (file, anchor) = link.split_once('#').map_or((link.as_str(), None), |(f, a)| (f, Some(a)));
            let target = if file.is_empty() { Path::new(&page).to_owned() } else { folder.join(file) };
            let Ok(found) = repository().join(&target).canonicalize() else {
                broken.push(format!("{page}: {link}"));
                continue;
            };
            let relative =
                found.strip_prefix(repository()).expect("within the repository").display().to_string();
            if anchor.is_some_and(|anchor| !anchors(&relative).contains(anchor)) {
                broken.push(format!("{page}: {link} has no such heading"));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

/// A page that waits for its numbers holds a word in capitals with a hyphen or between signs that no prose has.
#[test]
fn no_placeholder_is_left_in_a_page() {
    let marks = ["@@", "-OUTPUT", "_OUTPUT\n", "_FACTS", "TODO", "FIXME", "TBD", "XXX"];
    for page in pages() {
        let text = std::fs::read_to_string(repository().join(&page)).expect("a page");
        for mark in marks {
            assert!(!text.contains(mark), "{page}: `{mark}` is a placeholder");
        }
    }
}

#[test]
fn paths_in_inline_code_exist() {
    let is_history = |page: &&String| *page == "CHANGELOG.md";
    let mut missing = Vec::new();
    for page in pages().iter().filter(|page| !is_history(page)) {
        for path in paths_in_code(page) {
            // From the root, or from the page's folder: `tests/protocol.rs` in a crate's README.
            let folder = Path::new(page).parent().expect("a folder");
            if ![repository().join(&path), repository().join(folder).join(&path)].iter().any(|p| p.exists()) {
                missing.push(format!("{page}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "files that do not exist:\n{}", missing.join("\n"));
}

#[test]
fn readmes_of_crates_name_files_that_exist() {
    let mut missing = Vec::new();
    let mut crates = 0;
    for page in pages().iter().filter(|page| page.ends_with("README.md")) {
        let folder = repository().join(page).parent().expect("a folder").join("src");
        if page == "README.md" || !folder.is_dir() {
            continue;
        }
        crates += 1;
        let text = text(page);
        let mut lines = text.lines();
        assert!(lines.any(|line| line.starts_with("| file |")), "{page}: a table of files is missing");
        for line in lines.take_while(|line| line.starts_with('|')) {
            let files = line.split('|').nth(1).unwrap_or_default();
            for file in files.split('`').skip(1).step_by(2) {
                let file = file.trim_start_matches("src/");
                if !folder.join(file).exists() {
                    missing.push(format!("{page}: src/{file}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "files that do not exist:\n{}", missing.join("\n"));
    assert!(crates >= 9, "only {crates} crates have a README");
}

#[test]
fn readme_is_short() {
    let lines = text("README.md").lines().count();
    assert!(lines <= README_LINES, "README has {lines} lines; move details to docs/src");
}

#[test]
fn summary_lists_every_page_of_the_book() {
    let listed: BTreeSet<String> =
        links("docs/src/SUMMARY.md").into_iter().map(|link| format!("docs/src/{link}")).collect();
    let pages: BTreeSet<String> = pages()
        .into_iter()
        .filter(|page| page.starts_with("docs/src/") && page != "docs/src/SUMMARY.md")
        .collect();
    assert_eq!(listed, pages);
}

/// Quoted words between two marks of a file.
fn quoted_between(file: &str, from: &str, to: &str) -> BTreeSet<String> {
    let file = text(file);
    let rest = file.split_once(from).expect("a beginning").1;
    let list = rest.split_once(to).expect("an end").0;
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn cargo_deny_and_the_script_allow_the_same_licences() {
    let script = quoted_between("scripts/check_dependencies.py", "ALLOWED = {", "}");
    assert_eq!(quoted_between("deny.toml", "allow = [", "]"), script);
    let exceptions: BTreeSet<String> = quoted_between("deny.toml", "exceptions = [", "\n]")
        .into_iter()
        .filter(|word| word != "MPL-2.0")
        .collect();
    assert_eq!(exceptions, quoted_between("scripts/check_dependencies.py", "USED_AS_IT_IS = {", "}"));
}

#[test]
fn toolchain_workflow_and_manifest_agree() {
    let manifest = quoted_between("Cargo.toml", "rust-version = ", "\n");
    let toolchain = quoted_between("rust-toolchain.toml", "channel = ", "\n");
    let version = manifest.first().expect("a version");
    assert!(toolchain.first().is_some_and(|t| t == version || t.starts_with(&format!("{version}."))));
    assert!(text(".github/workflows/ci.yml").contains("bash .ci/run"), "the workflow runs .ci/run");
}
