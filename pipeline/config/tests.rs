//! Layers, validation, and the README's table.

use super::{KEYS, Layers, RunConfig, nearest};

fn layers(toml: &str) -> Layers {
    let mut layers = Layers::default();
    layers.add_toml(toml, "job.toml").expect("valid file");
    layers
}

const COMPLETE: &str =
    "[model]\ncaptioner = \"m\"\n[input]\nshards = \"a.tar\"\n[output]\nurl = \"o\"\n[run]\nthreads = 3\n";

#[test]
fn later_layers_win() {
    let mut all = layers(COMPLETE);
    assert_eq!(RunConfig::build(&all).expect("complete").threads, 3);
    let variables =
        [("RECAPTION_RUN__THREADS".to_owned(), "5".to_owned()), ("RECAPTION_HOME".into(), "x".into())];
    all.add_environment(variables.into_iter()).expect("known key");
    assert_eq!(RunConfig::build(&all).expect("complete").threads, 5);
    all.add_assignment("run.threads=7").expect("known key");
    assert_eq!(RunConfig::build(&all).expect("complete").threads, 7);
}

#[test]
fn assignments_are_toml_and_bare_words_are_strings() {
    let mut all = layers(COMPLETE);
    all.add_assignment(r#"input.shards = ["x.tar", "y.tar"]"#).expect("list");
    all.add_assignment("output.images=embed").expect("bare word");
    all.add_assignment("filter.min_similarity=0").expect("a whole number is a number");
    let config = RunConfig::build(&all).expect("complete");
    assert_eq!(config.shards, ["x.tar", "y.tar"]);
    assert_eq!(config.filter.min_similarity, Some(0.0));
    assert_eq!(config.images, super::Images::Embed);
}

#[test]
fn unknown_keys_suggest_the_nearest() {
    let error =
        Layers::default().add_toml("[run]\nbatchsize = 3\n", "job.toml").expect_err("unknown").to_string();
    assert!(error.contains("job.toml") && error.contains("`run.batch_size`"), "{error}");
    assert_eq!(nearest("caption.min_similarity"), "filter.min_similarity");
    let error = Layers::default().add_toml("threads = 3\n", "job.toml").expect_err("no section").to_string();
    assert!(error.contains("run.threads"), "{error}");
}

#[test]
fn wrong_values_say_what_is_expected() {
    for (assignment, word) in [
        ("run.threads=0", "from 1 to 4096"),
        ("run.threads=\"two\"", "whole number"),
        ("filter.min_similarity=2", "from -1 to 1"),
        ("output.images=all", "one of none, embed"),
        ("input.shards=[1]", "list of strings"),
        ("run.threads", "section.key=value"),
    ] {
        let error = Layers::default().add_assignment(assignment).expect_err(assignment).to_string();
        assert!(error.contains(word), "{assignment}: {error}");
    }
}

#[test]
fn what_is_missing_or_not_built_is_said() {
    let error = RunConfig::build(&Layers::default()).expect_err("empty").to_string();
    assert!(error.contains("model.captioner") && error.contains("--model"), "{error}");
    for assignment in [
        "caption.strategy=beam",
        "model.provider=cuda",
        "model.scorer=x",
        "caption.candidates=2",
        "caption.prompt=a",
    ] {
        let mut all = layers(COMPLETE);
        all.add_assignment(assignment).expect("known key");
        let error = RunConfig::build(&all).expect_err(assignment).to_string();
        assert!(error.contains("not built yet"), "{assignment}: {error}");
    }
}

#[test]
fn speed_does_not_change_the_fingerprint_and_rows_do() {
    let keys = |assignment: &str| {
        let mut all = layers(COMPLETE);
        all.add_assignment(assignment).expect(assignment);
        RunConfig::build(&all).expect("complete").row_keys("digest", 20)
    };
    let base = keys("run.threads=3");
    for same in
        ["run.threads=1", "run.batch_size=4", "model.sessions=2", "input.concurrent_shards=9", "run.seed=4"]
    {
        assert_eq!(keys(same), base, "{same}");
    }
    for other in
        ["caption.min_tokens=3", "filter.min_similarity=0.1", "output.images=embed", "input.max_pixels=9"]
    {
        assert_ne!(keys(other), base, "{other}");
    }
}

#[test]
fn secrets_in_patterns_are_not_described() {
    let mut all = layers(COMPLETE);
    all.add_assignment(r#"input.shards=["https://u:pw@h/a.tar?sig=secret"]"#).expect("list");
    let described = format!("{:?}", all.describe());
    assert!(!described.contains("secret") && !described.contains("pw"), "{described}");
}

#[test]
fn the_readme_lists_every_key() {
    let readme = include_str!("../../README.md");
    let table: Vec<&str> =
        readme.lines().filter(|line| line.starts_with("| `") && line.contains('.')).collect();
    let expected: Vec<String> =
        KEYS.iter().map(|k| format!("| `{}` | {} | {} |", k.name, k.default, k.help)).collect();
    let rows: Vec<&str> = table
        .into_iter()
        .filter(|line| KEYS.iter().any(|k| line.starts_with(&format!("| `{}`", k.name))))
        .collect();
    assert_eq!(rows, expected, "the README's table should read:\n{}", expected.join("\n"));
}
