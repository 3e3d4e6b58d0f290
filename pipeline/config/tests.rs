//! Layers, validation, and the generated reference.

use recaption_onnx::{
    caption::{EarlyStopping, Strategy},
    runtime::{Devices, Execution, Provider},
};

use super::{Layers, RunConfig, description, reference};

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
    assert_eq!(RunConfig::build(&all).expect("complete").resources.threads, 3);
    let variables =
        [("RECAPTION_RUN__THREADS".to_owned(), "5".to_owned()), ("RECAPTION_HOME".into(), "x".into())];
    all.add_environment(variables.into_iter()).expect("known key");
    assert_eq!(RunConfig::build(&all).expect("complete").resources.threads, 5);
    all.add_assignment("run.threads=7").expect("known key");
    assert_eq!(RunConfig::build(&all).expect("complete").resources.threads, 7);
}

#[test]
fn assignments_are_toml_and_bare_words_are_strings() {
    let mut all = layers(COMPLETE);
    all.add_assignment(r#"input.shards = ["x.tar", "y.tar"]"#).expect("list");
    all.add_assignment("output.images=embed").expect("bare word");
    all.add_assignment("filter.min_similarity=0").expect("a whole number is a number");
    let config = RunConfig::build(&all).expect("complete");
    assert_eq!(config.input.shards, ["x.tar", "y.tar"]);
    assert_eq!(config.filter.min_similarity, Some(0.0));
    assert!(config.output.embed_images);
}

#[test]
fn unknown_keys_suggest_the_nearest() {
    let error =
        Layers::default().add_toml("[run]\nbatchsize = 3\n", "job.toml").expect_err("unknown").to_string();
    assert!(error.contains("job.toml") && error.contains("`run.batch_size`"), "{error}");
    assert_eq!(description().nearest("caption.min_similarity"), "filter.min_similarity");
    let error = Layers::default().add_toml("threads = 3\n", "job.toml").expect_err("no section").to_string();
    assert!(error.contains("run.threads"), "{error}");
}

#[test]
fn wrong_values_say_what_is_expected() {
    for (assignment, word) in [
        ("run.threads=0", "from 1 to 4096"),
        ("run.threads=\"two\"", "whole number"),
        ("filter.min_similarity=2", "from -1 to 1"),
        ("filter.min_itm=1.5", "from 0 to 1"),
        ("output.images=all", "one of none, embed"),
        ("input.shards=[1]", "list of strings"),
        ("run.threads", "section.key=value"),
    ] {
        let error = Layers::default().add_assignment(assignment).expect_err(assignment).to_string();
        assert!(error.contains(word), "{assignment}: {error}");
    }
}

#[test]
fn missing_required_key_names_its_flag() {
    let error = RunConfig::build(&Layers::default()).expect_err("empty").to_string();
    assert!(error.contains("model.captioner") && error.contains("--model"), "{error}");
}

#[test]
fn batch_size_follows_the_provider() {
    let build = |assignments: &[&str]| {
        let mut all = layers(COMPLETE);
        assignments.iter().for_each(|a| all.add_assignment(a).expect(a));
        RunConfig::build(&all).expect("valid")
    };
    let config = build(&[]);
    assert_eq!((config.model.provider, config.model.devices.clone()), (Provider::Auto, Devices::default()));
    let gpu = Execution::Cuda { device: 3 };
    assert_eq!((config.batch_size(Execution::Cpu), config.batch_size(gpu)), (32, 256));
    for (name, provider) in [
        ("cpu", Provider::Cpu),
        ("cuda", Provider::Cuda),
        ("tensorrt", Provider::TensorRt),
        ("auto", Provider::Auto),
    ] {
        let config = build(&[&format!("model.provider={name}"), "model.device=3", "run.batch_size=7"]);
        assert_eq!(
            (config.model.provider, config.model.devices.clone()),
            (provider, Devices::Numbered(vec![3]))
        );
        assert_eq!((config.batch_size(Execution::Cpu), config.batch_size(gpu)), (7, 7));
    }
    for (text, devices) in [
        ("model.device=0,2", Devices::Numbered(vec![0, 2])),
        ("model.device=[0, 2]", Devices::Numbered(vec![0, 2])),
        ("model.device=all", Devices::All),
    ] {
        assert_eq!(build(&[text]).model.devices, devices, "{text}");
    }
    for (text, word) in
        [("model.device=-1", "numbers"), ("model.device=1,1", "GPU 1 twice"), ("model.device=gpu", "all")]
    {
        let error = Layers::default().add_assignment(text).expect_err(text).to_string();
        assert!(error.contains(word), "{text}: {error}");
    }
    let error = Layers::default().add_assignment("model.provider=gpu").expect_err("unknown").to_string();
    assert!(error.contains("one of auto, cpu, cuda, tensorrt"), "{error}");
}

#[test]
fn strategies_take_their_own_keys() {
    let build = |assignments: &[&str]| {
        let mut all = layers(COMPLETE);
        assignments.iter().for_each(|a| all.add_assignment(a).expect(a));
        RunConfig::build(&all)
    };
    let sample =
        build(&["caption.strategy=sample", "caption.top_p=0.9", "caption.candidates=4"]).expect("valid");
    let Strategy::Sample(settings) = sample.caption.strategy else { panic!("{:?}", sample.caption) };
    assert_eq!((settings.top_p, settings.temperature, sample.caption.candidates), (0.9, 1.0, 4));
    let beam =
        build(&["caption.strategy=beam", "caption.early_stopping=true", "caption.top_k=3"]).expect("valid");
    let Strategy::Beam(settings) = beam.caption.strategy else { panic!("{:?}", beam.caption) };
    assert_eq!((settings.beams, settings.early_stopping), (6, EarlyStopping::Always));
    assert_eq!(beam.caption.ignored, ["caption.top_k"]);
    for (assignments, word) in [
        (&["caption.candidates=2"][..], "`sample` or `beam`"),
        (&["caption.strategy=beam", "caption.beams=3", "caption.candidates=4"], "caption.beams"),
    ] {
        let error = build(assignments).expect_err("too many candidates").to_string();
        assert!(error.contains(word), "{error}");
    }
    // What a strategy does not look at changes no row.
    let keys = |assignments: &[&str]| build(assignments).expect("valid").row_keys("digest", None, (20, 0));
    assert_eq!(keys(&["caption.temperature=2", "run.seed=3"]), keys(&[]));
    assert_ne!(keys(&["caption.strategy=sample", "run.seed=3"]), keys(&["caption.strategy=sample"]));
    assert_ne!(keys(&["caption.prompt=a photo of"]), keys(&[]));
}

#[test]
fn speed_does_not_change_the_fingerprint_and_rows_do() {
    let keys = |assignment: &str| {
        let mut all = layers(COMPLETE);
        all.add_assignment(assignment).expect(assignment);
        RunConfig::build(&all).expect("complete").row_keys("digest", None, (20, 0))
    };
    let base = keys("run.threads=3");
    for same in [
        "run.threads=1",
        "run.batch_size=4",
        "model.sessions=2",
        "model.provider=cuda",
        "model.device=1",
        "input.concurrent_shards=9",
        "run.seed=4",
    ] {
        assert_eq!(keys(same), base, "{same}");
    }
    for other in
        ["caption.min_tokens=3", "filter.min_similarity=0.1", "output.images=embed", "input.max_pixels=9"]
    {
        assert_ne!(keys(other), base, "{other}");
    }
}

#[test]
fn rules_are_off_and_out_of_the_fingerprint_until_they_are_set() {
    let keys = |assignments: &[&str]| {
        let mut all = layers(COMPLETE);
        assignments.iter().for_each(|a| all.add_assignment(a).expect(a));
        RunConfig::build(&all).expect("complete").row_keys("digest", None, (20, 0))
    };
    let base = keys(&[]);
    assert!(base.keys().all(|key| !key.starts_with("rules.")), "{base:?}");
    assert_eq!(keys(&["rules.junk=false", "rules.duplicates=false", "rules.banned_words=[]"]), base);
    let set = keys(&["rules.max_repeats=2", "rules.junk=true", r#"rules.banned_words=["Text", "a  Logo"]"#]);
    let added: Vec<String> =
        set.iter().filter(|(key, _)| !base.contains_key(*key)).map(|(k, v)| format!("{k} = {v}")).collect();
    let wanted = [
        r#"rules.banned_words = ["a logo", "text"]"#,
        "rules.junk = true",
        "rules.max_repeats = 2",
        "rules.ngram = 3",
    ];
    assert_eq!(added, wanted);
}

#[test]
fn matching_is_a_row_key_where_it_is_done() {
    let build = |assignments: &[&str]| {
        let mut all = layers(COMPLETE);
        assignments.iter().for_each(|a| all.add_assignment(a).expect(a));
        RunConfig::build(&all)
    };
    let keys =
        |assignments: &[&str], most| build(assignments).expect("valid").row_keys("digest", None, (20, most));
    let base = keys(&[], 0);
    assert!(!base.contains_key("score.itm_top_k") && !base.contains_key("filter.min_itm"), "{base:?}");
    assert_eq!(keys(&["score.itm_top_k=2"], 0), base, "a scorer without a matching head does not read it");
    let matched = keys(&["filter.min_itm=0.5"], 4);
    assert_eq!((matched["score.itm_top_k"].as_str(), matched["filter.min_itm"].as_str()), ("4", "0.5"));
    let error =
        build(&["filter.min_itm=0.5", "score.itm_top_k=0"]).expect_err("nothing is matched").to_string();
    assert!(error.contains("score.itm_top_k"), "{error}");
}

#[test]
fn contradictory_rules_are_rejected() {
    for (assignments, words) in [
        (&["rules.min_words=5", "rules.max_words=4"][..], "no caption keeps both"),
        (&["rules.ngram=2"], "set `rules.max_repeats` too"),
        (&["rules.banned_words=[\"ok\", \"?!\"]"], "\"?!\", which has no letter or digit"),
    ] {
        let mut all = layers(COMPLETE);
        assignments.iter().for_each(|a| all.add_assignment(a).expect(a));
        let error = RunConfig::build(&all).expect_err("nonsense").to_string();
        assert!(error.contains(words) && error.contains("--set rules."), "{error}");
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
fn committed_reference_is_the_generated_one() {
    let committed = include_str!("../../docs/src/configuration-reference.md");
    assert!(
        committed == reference(),
        "run: recaption config reference > docs/src/configuration-reference.md"
    );
}

#[test]
fn every_key_is_documented() {
    for key in description().keys() {
        assert!(key.help.ends_with('.') && key.help.len() > 10, "{}: {:?}", key.name, key.help);
        assert!(!key.default.is_empty(), "{}", key.name);
    }
    assert_eq!(description().keys().len(), 74);
}
