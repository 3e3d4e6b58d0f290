//! Text rules in a run: captions that violate one are rejected with a reason, counted, and never chosen.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use serde_json::json;
use support::{
    Place,
    output::{self, commits},
};

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

#[test]
fn rule_violations_are_rejects_with_rule_and_setting() {
    let place = Place::new();
    let input = place.draw("in", 2, 20);
    place.run(&input, "all").ends(0);
    let all = output::read(&place.path("all")).captions;
    let mut lengths: Vec<usize> = all.iter().map(|row| words(&row.caption)).collect();
    lengths.sort_unstable();
    let most = lengths[lengths.len() / 2];
    assert!(lengths[0] <= most && most < lengths[lengths.len() - 1], "{lengths:?}");

    let output = place.run(&input, "ruled").set(&format!("rules.max_words={most}")).ends(0);
    let ruled = output::read(&place.path("ruled"));
    let (keep, refuse): (Vec<_>, Vec<_>) = all.into_iter().partition(|row| words(&row.caption) <= most);
    assert_eq!(ruled.captions, keep, "what keeps the rule is not changed by it");
    for (reject, row) in ruled.rejects.iter().zip(&refuse) {
        assert_eq!((&reject.key, reject.reason.as_str()), (&row.key, "caption_rule"));
        assert_eq!((reject.caption.as_ref(), reject.similarity), (Some(&row.caption), Some(row.similarity)));
        let length = words(&row.caption);
        assert_eq!(reject.detail, format!("rules.max_words = {most} (the caption has {length} words)"));
    }
    assert_eq!(ruled.rejects.len(), refuse.len());
    assert_eq!(output.report()["counts"]["reasons"], json!({"caption_rule": refuse.len()}));
    for commit in commits(&place.path("ruled")) {
        assert_eq!(commit.configuration["rules.max_words"], most.to_string());
    }
}

#[test]
fn rules_are_off_by_default_and_fixed_per_output() {
    let place = Place::new();
    let input = place.draw("in", 1, 4);
    place.run(&input, "out").ends(0);
    let commit = &commits(&place.path("out"))[0];
    assert!(commit.configuration.keys().all(|key| !key.starts_with("rules.")), "{:?}", commit.configuration);
    // A rule set to its default changes nothing; any other value is another configuration.
    let again = place.run(&input, "out").set("rules.junk=false").ends(0);
    assert_eq!(again.report()["shards_skipped"], json!(1));
    place.run(&input, "out").set("rules.junk=true").ends(2).warns("`rules.junk` was unset, is true");
    // The captioner's sentences are language.
    let output = place.run(&input, "language").set("rules.junk=true").set("rules.duplicates=true").ends(0);
    assert_eq!(output.report()["counts"]["captioned"], json!(4));
    place.run(&input, "refused").set("rules.ngram=2").ends(2).warns("rules.max_repeats");
}

#[test]
fn banned_words_reject_their_samples() {
    let place = Place::new();
    let input = place.draw("in", 1, 12);
    place.run(&input, "all").ends(0);
    let all = output::read(&place.path("all")).captions;
    let word = all[0].caption.split_whitespace().last().expect("a word").trim_end_matches('.').to_owned();
    let shout = word.to_uppercase();
    place.run(&input, "out").set(&format!("rules.banned_words=[{shout:?}]")).ends(0);
    let rows = output::read(&place.path("out"));
    let has = |text: &str| text.split(|c: char| !c.is_alphanumeric()).any(|w| w == word);
    assert!(rows.captions.iter().all(|row| !has(&row.caption)));
    let detail = format!("rules.banned_words = {word:?} (the caption holds {word:?})");
    assert!(rows.rejects.iter().all(|reject| reject.detail == detail), "{:?}", rows.rejects);
    assert_eq!(rows.rejects.len(), all.iter().filter(|row| has(&row.caption)).count());
}
