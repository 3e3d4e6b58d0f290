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
    let complete = ["run", "--model", "m", "--input", "i.tar", "--output", "o"];
    fn with<'a>(complete: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
        [complete, more].concat()
    }
    let run = |more: &[&'static str]| with(&complete, more);
    let cases: Vec<Vec<&str>> = vec![
        vec!["run"],
        vec!["run", "--model", "m"],
        vec!["run", "--model", "m", "--output", "o"],
        vec!["run", "nowhere.toml"],
        vec!["run", "typo.toml"],
        vec!["run", "section.toml"],
        vec!["run", "flat.toml"],
        vec!["run", "value.toml"],
        vec!["run", "broken.toml"],
        run(&["--set", "run.bach_size=4"]),
        run(&["--set", "run.threads"]),
        run(&["--set", "run.threads=many"]),
        run(&["--set", "run.threads=0"]),
        run(&["--threads", "0"]),
        run(&["--min-similarity", "2"]),
        run(&["--set", "caption.top_p=1.5"]),
        run(&["--set", "rules.min_words=-1"]),
        run(&["--set", "rules.banned_words=[1]"]),
        run(&["--set", "output.images=all"]),
        run(&["--set", "model.cuda_graphs=yes"]),
        run(&["--device", "gpu"]),
        run(&["--provider", "gpu"]),
        run(&["--set", "caption.candidates=2"]),
        run(&["--set", "caption.max_tokens=1"]),
        run(&["--set", "rules.min_words=5", "--set", "rules.max_words=4"]),
        run(&["--since", "2999-01-01"]),
        run(&["--modle", "x"]),
        vec!["run", "--input", "a.jpg", "b.jpg"],
        vec!["run", "--input", "a.jpg", "b.jpg", "c.jpg"],
        vec!["run", "photos"],
        vec!["run", "s3://bucket/0.tar"],
        vec!["caption", "a.jpg", "b.jpg"],
    ];
    let mut story = String::new();
    for case in cases {
        let said =
            recaption().args(["--log-format", "text"]).args(&case).dir(place.path("").as_path()).ends(2);
        story += &format!("$ recaption {}\n{}\n", case.join(" "), said.stderr.trim_end());
    }
    let variable = recaption()
        .args(["--log-format", "text"])
        .args(complete)
        .env("RECAPTION_RUN__THREAD", "1")
        .dir(place.path("").as_path())
        .ends(2);
    story += &format!("$ RECAPTION_RUN__THREAD=1 recaption run ...\n{}\n", variable.stderr.trim_end());
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
        .dir(place.path("").as_path())
        .ends(0);
    assert_snapshot!("config-show", said.stdout);
}
