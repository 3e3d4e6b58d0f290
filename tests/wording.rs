//! The words of the program, as snapshots, so that a change of wording is reviewed as a diff: help texts and errors of
//! configuration. `INSTA_UPDATE=always cargo test --test wording` accepts new ones.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use insta::assert_snapshot;
use support::{Place, program::recaption};

/// Commands that the program lists in its help.
fn commands() -> Vec<String> {
    let help = recaption().arg("--help").ends(0).stdout;
    let list = help.split("Commands:\n").nth(1).expect("a list of commands");
    let list = list.lines().take_while(|line| line.starts_with("  "));
    list.map(|line| line.split_whitespace().next().expect("a name").to_owned()).collect()
}

#[test]
fn help_of_the_program_and_of_every_command() {
    assert_snapshot!("help", recaption().arg("--help").ends(0).stdout);
    let commands = commands();
    assert!(commands.len() > 10, "{commands:?}");
    // `finetune` passes its flags on to another program, and `help` is clap's.
    for command in commands.iter().filter(|name| !["finetune", "help"].contains(&name.as_str())) {
        assert_snapshot!(format!("help-{command}"), recaption().args([command, "--help"]).ends(0).stdout);
    }
}

/// Command lines that are refused as bad usage, words separated by spaces.
const REFUSED: &[&str] = &[
    "run",
    "run --model m",
    "run --model m --output o",
    "run nowhere.toml",
    "run typo.toml",
    "run section.toml",
    "run flat.toml",
    "run value.toml",
    "run broken.toml",
    "run --model m --input i.tar --output o --set run.bach_size=4",
    "run --model m --input i.tar --output o --set run.threads",
    "run --model m --input i.tar --output o --set run.threads=many",
    "run --model m --input i.tar --output o --set run.threads=0",
    "run --model m --input i.tar --output o --threads 0",
    "run --model m --input i.tar --output o --min-similarity 2",
    "run --model m --input i.tar --output o --set caption.top_p=1.5",
    "run --model m --input i.tar --output o --set rules.min_words=-1",
    "run --model m --input i.tar --output o --set rules.banned_words=[1]",
    "run --model m --input i.tar --output o --set output.images=all",
    "run --model m --input i.tar --output o --set model.cuda_graphs=yes",
    "run --model m --input i.tar --output o --device gpu",
    "run --model m --input i.tar --output o --provider gpu",
    "run --model m --input i.tar --output o --set caption.candidates=2",
    "run --model m --input i.tar --output o --set caption.max_tokens=1",
    "run --model m --input i.tar --output o --set rules.min_words=5 --set rules.max_words=4",
    "run --model m --input i.tar --output o --since 2999-01-01",
    "run --model m --input i.tar --output o --modle x",
    "run --input a.jpg b.jpg",
    "run --input a.jpg b.jpg c.jpg",
    "run photos",
    "run s3://bucket/0.tar",
    "caption a.jpg b.jpg",
];

#[test]
fn configuration_errors_name_origin_and_remedy() {
    let place = Place::new();
    place.write("typo.toml", "[model]\ncaptoiner = \"m\"\n");
    place.write("section.toml", "[ouput]\nurl = \"o\"\n");
    place.write("flat.toml", "threads = 4\n");
    place.write("value.toml", "[caption]\nstrategy = \"greedi\"\n");
    place.write("broken.toml", "[model\n");
    place.write("a.jpg", [0xff, 0xd8]);
    place.write("b.jpg", [0xff, 0xd8]);
    std::fs::create_dir(place.path("photos")).expect("a folder");
    let call =
        |words: &str| recaption().args(["--log-format", "text"]).args(words.split(' ')).dir(&place.path(""));
    let mut story = String::new();
    for words in REFUSED {
        story += &format!("$ recaption {words}\n{}\n", call(words).ends(2).stderr.trim_end());
    }
    let said = call("run --model m --input i.tar --output o").env("RECAPTION_RUN__THREAD", "1").ends(2);
    story += &format!("$ RECAPTION_RUN__THREAD=1 recaption run ...\n{}\n", said.stderr.trim_end());
    assert_snapshot!("configuration-errors", story);
}

#[test]
fn effective_values_are_shown_with_their_origin() {
    let place = Place::new();
    place.write("job.toml", "[model]\ncaptioner = \"m\"\n[caption]\nstrategy = \"beam\"\n");
    let said = recaption()
        .args([
            "config",
            "show",
            "job.toml",
            "--set",
            "run.seed=3",
            "--input",
            "https://u:word@h/a.tar?sig=secret",
        ])
        .env("RECAPTION_RUN__THREADS", "2")
        .env("RECAPTION_FINETUNE_RUN__SEED", "9")
        .dir(&place.path(""))
        .ends(0);
    assert_snapshot!("config-show", said.stdout);
}

/// A call's streams without what differs between two runs: paths, times, rates, sums.
fn stable(words: &str, root: &str, call: &support::program::Said) -> String {
    let line = |line: &str| -> String {
        let line = line.replace(root, "DIR");
        for start in ["time ", "busy ", "bottleneck ", "last run ", "setting   model", "model  "] {
            if line.starts_with(start) {
                return format!("{start}...");
            }
        }
        // Sums and versions of libraries are hexadecimal or long numbers.
        let word = |word: &str| {
            let core: String = word.chars().filter(char::is_ascii_alphanumeric).collect();
            if core.len() >= 12 && core.chars().all(|c| c.is_ascii_hexdigit()) {
                "#".into()
            } else {
                word.to_owned()
            }
        };
        line.split(' ').map(word).collect::<Vec<String>>().join(" ")
    };
    let stream = |text: &str| text.lines().map(line).collect::<Vec<String>>().join("\n");
    format!("$ recaption {words}\n{}\n{}\n\n", stream(&call.stderr), stream(&call.stdout))
}

#[test]
fn reports_and_logs_of_a_run_and_what_follows() {
    let place = Place::new();
    let input = place.draw("in", 2, 4);
    place.write("in/00002.tar", b"<html>not found</html>".repeat(100));
    let root = place.root().display().to_string();
    let one =
        |call: support::program::Call| call.args(["--log-format", "text"]).env("RECAPTION_RUN__THREADS", "1");
    let settings =
        ["--set", "input.concurrent_shards=1", "--set", "rules.max_words=6", "--set", "run.claim_seconds=0"];
    let mut story = String::new();
    let said = one(place.run(&input, "out").args(settings)).ends(3);
    story += &stable("run", &root, &said);
    let said = one(place.run(&input, "out").args(settings)).ends(4);
    story += &stable("run, again", &root, &said);
    let out = place.path("out");
    let call = |command: &str| recaption().dir(place.root()).arg(command).arg(&out);
    story += &stable("status", &root, &one(call("status")).ends(0));
    story += &stable("retry", &root, &one(call("retry")).ends(4));
    story += &stable("inspect", &root, &one(call("inspect")).ends(0));
    let best = place.path("best");
    let filter = call("filter").arg("--to").arg(&best).args(["--keep-top", "0.5"]);
    story += &stable("filter --keep-top 0.5", &root, &one(filter).ends(0));
    let status = recaption().dir(place.root()).arg("status").arg(&best);
    story += &stable("status of a filtered dataset", &root, &one(status).ends(1));
    let same = one(place.run(&input, "in")).ends(2);
    story += &stable("run into its own input", &root, &same);
    assert_snapshot!("reports-and-logs", story);
}
