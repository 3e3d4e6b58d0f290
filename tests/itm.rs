//! A scorer with a matching head (ITM): which candidates are matched and chosen, the column `itm`, its threshold in a run and in a
//! second pass, and what else shows it.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{collections::BTreeMap, path::PathBuf};

use recaption_image::{DecodeOptions, prepare};
use recaption_onnx::{
    ModelFolder, Precision, export,
    runtime::{ImageEncoder, MatchImage, MatchStart, Matcher, SessionOptions},
    tokenizer::Tokenizer,
};
use recaption_schemas::MatchProbability;
use support::{
    Place, data, model,
    output::{self, Bits, Caption},
    program::{Call, recaption},
};

const SAMPLED: [&str; 3] = ["caption.strategy=sample", "caption.candidates=6", "caption.temperature=1.7"];

/// Exports the reference case of a BLIP that scores.
fn scorer(place: &Place) -> ModelFolder {
    export(&data("blip/retrieval"), &place.path("scorer"), Precision::Fp32).expect("a scorer")
}

fn run(place: &Place, input: &PathBuf, output: &str) -> Call {
    let call = place.run(input, output).arg("--scorer").arg(place.path("scorer"));
    SAMPLED.iter().fold(call, |call, setting| call.set(setting))
}

fn rows(place: &Place, output: &str) -> Vec<Caption> {
    output::read(&place.path(output)).captions
}

fn configuration(place: &Place, output: &str) -> BTreeMap<String, String> {
    output::commits(&place.path(output))[0].configuration.clone()
}

/// The scorer by itself, one image at a time.
struct Reference {
    images: ImageEncoder,
    matcher: Matcher,
    tokenizer: Tokenizer,
    folder: ModelFolder,
}

impl Reference {
    fn new(folder: ModelFolder) -> Self {
        let options = SessionOptions::on_cpu(1);
        Self {
            images: ImageEncoder::load(&folder, &options).expect("an image encoder"),
            matcher: Matcher::load(&folder, &options, MatchStart::Enc).expect("a matcher"),
            tokenizer: Tokenizer::load(&folder).expect("a tokenizer"),
            folder,
        }
    }

    fn probabilities(&mut self, image: &[u8], texts: &[&str]) -> Vec<f32> {
        let prepared = prepare(image, None, &self.folder.spec.preprocessing, &DecodeOptions::default())
            .expect("an image");
        let tokens = self.images.image_tokens(prepared.pixels.as_slice()).expect("tokens");
        let ids: Vec<Vec<i64>> =
            texts.iter().map(|text| self.tokenizer.encode(text).expect("ids").ids).collect();
        let texts: Vec<&[i64]> = ids.iter().map(Vec::as_slice).collect();
        let logits =
            self.matcher.match_all(&[MatchImage { tokens: &tokens, texts: &texts }]).expect("logits");
        logits[0].iter().map(|logits| MatchProbability::of_logits(*logits).expect("finite").get()).collect()
    }
}

/// The texts of a row's candidates, the most similar first, each once.
fn distinct(row: &Caption, most: usize) -> Vec<&str> {
    let mut texts: Vec<&str> = Vec::new();
    for (text, _, _) in &row.candidates {
        if !texts.contains(&text.as_str()) {
            texts.push(text);
        }
    }
    texts.truncate(most);
    texts
}

#[test]
fn best_match_of_the_most_similar_is_chosen() {
    let place = Place::new();
    let mut reference = Reference::new(scorer(&place));
    let input = place.draw("in", 1, 16);
    for (output, most) in [("default", 4), ("two", 2), ("all", 6)] {
        let call = run(&place, &input, output).set("output.images=embed");
        let call = if most == 4 { call } else { call.set(&format!("score.itm_top_k={most}")) };
        call.ends(0);
        assert_eq!(configuration(&place, output)["score.itm_top_k"], most.to_string());
        let rows = rows(&place, output);
        assert_eq!(rows.len(), 16);
        for row in &rows {
            let (image, _) = row.image.as_ref().expect("the stored image");
            let texts = distinct(row, most);
            let probabilities = reference.probabilities(image, &texts);
            let best = probabilities.iter().copied().reduce(f32::max).expect("a candidate");
            // Bit for bit: a probability does not depend on other images.
            assert_eq!(row.itm.map(Bits::get), Some(best), "{row:?}");
            let at = probabilities.iter().position(|one| *one == best).expect("the best");
            assert_eq!(row.caption, texts[at], "{row:?} {probabilities:?}");
            let similarity = row.candidates.iter().find(|(text, _, _)| *text == row.caption).map(|one| one.1);
            assert_eq!(Some(row.similarity), similarity, "the chosen caption's own");
        }
        let not_most_similar = rows.iter().filter(|row| row.caption != row.candidates[0].0).count();
        assert!(not_most_similar > 0, "matching makes a difference with {most}");
    }
}

#[test]
fn matches_do_not_depend_on_batch_or_threads() {
    let place = Place::new();
    scorer(&place);
    let input = place.draw("in", 2, 15);
    let run = |output: &str, threads: &str, batch: &str, sessions: &str| {
        let call = run(&place, &input, output).args(["--threads", threads, "--batch-size", batch]);
        call.set(&format!("model.sessions={sessions}")).ends(0);
        output::read(&place.path(output))
    };
    let one = run("one", "1", "1", "1");
    assert!(one.captions.len() == 30 && one.captions.iter().all(|row| row.itm.is_some()));
    assert_eq!(one, run("many", "2", "8", "1"));
    assert_eq!(one, run("two", "2", "8", "2"));
}

#[test]
fn top_k_of_0_turns_matching_off() {
    let place = Place::new();
    scorer(&place);
    let input = place.draw("in", 1, 8);
    run(&place, &input, "off").set("score.itm_top_k=0").ends(0);
    run(&place, &input, "one").set("score.itm_top_k=1").ends(0);
    let (off, one) = (rows(&place, "off"), rows(&place, "one"));
    assert!(!configuration(&place, "off").contains_key("score.itm_top_k"), "as in outputs that are older");
    for (off, one) in off.iter().zip(&one) {
        assert_eq!((&off.caption, &off.caption), (&one.caption, &one.candidates[0].0));
        assert!(off.itm.is_none() && one.itm.is_some_and(|itm| (0.0..=1.0).contains(&itm.get())));
        assert_eq!(off.candidates, one.candidates);
    }
    // Rows would differ, so an output is not continued with another number.
    run(&place, &input, "one").set("score.itm_top_k=2").ends(2).warns("`score.itm_top_k` was 1, is 2");
    run(&place, &input, "off").ends(2).warns("score.itm_top_k");
    run(&place, &input, "off").set("score.itm_top_k=0").ends(0).prints("\"shards_skipped\":1");
}

#[test]
fn captions_below_min_itm_are_rejected() {
    let place = Place::new();
    scorer(&place);
    let input = place.draw("in", 1, 16);
    run(&place, &input, "all").ends(0);
    let all = rows(&place, "all");
    let mut probabilities: Vec<f32> = all.iter().map(|row| row.itm.expect("matched").get()).collect();
    probabilities.sort_by(f32::total_cmp);
    let least = probabilities[8];
    run(&place, &input, "some").set(&format!("filter.min_itm={least}")).ends(0);
    let some = output::read(&place.path("some"));
    let kept: Vec<&Caption> = all.iter().filter(|row| row.itm.expect("matched").get() >= least).collect();
    assert_eq!(some.captions.iter().collect::<Vec<_>>(), kept, "the threshold itself is kept");
    assert_eq!(some.captions.len() + some.rejects.len(), 16);
    for reject in &some.rejects {
        let row = all.iter().find(|row| row.key == reject.key).expect("a row");
        assert_eq!((reject.reason.as_str(), reject.caption.as_ref()), ("below_itm", Some(&row.caption)));
        assert_eq!((reject.similarity, &reject.org_caption), (Some(row.similarity), &row.org_caption));
        assert!(reject.detail.contains("is below filter.min_itm"), "{reject:?}");
    }
    assert_eq!(configuration(&place, "some")["filter.min_itm"], least.to_string());
    run(&place, &input, "some").ends(2).warns("`filter.min_itm`");
    // Text rules and the threshold of similarity come first: what they exclude is not matched.
    let similarity = all[3].similarity.get();
    run(&place, &input, "both").set(&format!("filter.min_similarity={similarity}")).ends(0);
    let both = output::read(&place.path("both"));
    assert!(both.captions.iter().all(|row| row.similarity.get() >= similarity && row.itm.is_some()));
    assert!(both.rejects.iter().all(|reject| reject.reason == "below_similarity"), "{:?}", both.rejects);
    let words = all[0].caption.split_whitespace().count();
    run(&place, &input, "ruled").set(&format!("rules.max_words={words}")).ends(0);
    let ruled = output::read(&place.path("ruled"));
    assert!(!ruled.captions.is_empty());
    assert!(
        ruled.captions.iter().all(|row| row.caption.split_whitespace().count() <= words && row.itm.is_some())
    );
}

#[test]
fn second_pass_selects_by_itm() {
    let place = Place::new();
    scorer(&place);
    let input = place.draw("in", 2, 8);
    run(&place, &input, "out").ends(0);
    let mut probabilities: Vec<f32> =
        rows(&place, "out").iter().map(|row| row.itm.expect("matched").get()).collect();
    probabilities.sort_by(f32::total_cmp);
    let filter = |arguments: &[&str], to: &str| {
        let call = recaption().dir(place.root()).args(["filter", "out", "--to", to, "--log-format", "text"]);
        let call = call.args(arguments);
        (call.ends(0), output::read(&place.path(to)))
    };
    let (said, top) = filter(&["--by", "itm", "--keep-top", "0.25"], "top");
    assert!(top.captions.iter().all(|row| row.itm.is_some_and(|itm| itm.get() >= probabilities[12])));
    assert_eq!((top.captions.len(), top.rejects.len()), (4, 12));
    assert!(top.rejects.iter().all(|reject| reject.reason == "below_itm"), "{:?}", top.rejects);
    said.prints("threshold itm >=").prints("as below_itm");
    let least = probabilities[6].to_string();
    let (_, above) = filter(&["--min-itm", &least], "above");
    assert_eq!(above.captions.len(), 10);
    assert!(above.rejects.iter().all(|reject| reject.detail.contains(&format!("below --min-itm {least}"))));
    // The same rows as those of a run with the threshold.
    run(&place, &input, "direct").set(&format!("filter.min_itm={least}")).ends(0);
    assert_eq!(above.captions, rows(&place, "direct"));
}

#[test]
fn scorers_without_a_head_cannot_be_held_to_min_itm() {
    let place = Place::new();
    let input = place.draw("in", 1, 2);
    let refused = place.run(&input, "out").set("filter.min_itm=0.5").ends(2);
    refused.warns("`filter.min_itm` = 0.5").warns("model.scorer has no matching head");
    assert!(!place.path("out").exists());
    place.run(&input, "set").set("score.itm_top_k=3").ends(0).warns("`score.itm_top_k` is set");
    place.run(&input, "plain").ends(0).never_says("itm_top_k");
    assert_eq!(rows(&place, "set"), rows(&place, "plain"), "the key changes nothing");
    // The other way round, too.
    scorer(&place);
    run(&place, &input, "off")
        .set("filter.min_itm=0.5")
        .set("score.itm_top_k=0")
        .ends(2)
        .warns("score.itm_top_k");
}

#[test]
fn commands_show_the_probability() {
    let place = Place::new();
    scorer(&place);
    let input = place.draw("in", 1, 6);
    run(&place, &input, "out").set("output.format=webdataset").ends(0);
    let rows = rows(&place, "out");
    let mean = rows.iter().map(|row| f64::from(row.itm.expect("matched").get())).sum::<f64>() / 6.0;
    let with_scorer = |call: Call| {
        let call = call.arg("--scorer").arg(place.path("scorer"));
        SAMPLED.iter().fold(call, |call, setting| call.set(setting))
    };
    let call =
        recaption().dir(place.root()).arg("preview").arg("--model").arg(model()).arg("--input").arg(&input);
    let preview = with_scorer(call).args(["--log-format", "json"]).ends(0).report();
    let shown = preview["captions"].as_array().expect("captions");
    let shown: Vec<Option<f32>> = shown.iter().map(|row| row["itm"].as_f64().map(|itm| itm as f32)).collect();
    assert_eq!(shown, rows.iter().map(|row| row.itm.map(Bits::get)).collect::<Vec<_>>());
    let call = recaption().arg("eval").arg(model()).arg(&input).args(["--log-format", "json"]);
    let measured = with_scorer(call).ends(0).report();
    assert!((measured["itm"].as_f64().expect("a mean") - mean).abs() < 1e-6, "{measured} {mean}");
    let image = place.write("a.jpg", support::shards::jpeg(1));
    let said = with_scorer(recaption().arg("caption").arg(model()).arg(&image)).ends(0);
    let [_, _, caption, itm] = said.stdout.trim_end().split('\t').collect::<Vec<_>>()[..] else {
        panic!("four columns: {}", said.stdout)
    };
    assert!(!caption.is_empty() && itm.parse::<f32>().is_ok_and(|itm| (0.0..=1.0).contains(&itm)), "{itm}");
    recaption().dir(place.root()).args(["report", "out"]).ends(0);
    let page = std::fs::read_to_string(place.path("report.html")).expect("a page");
    assert!(page.contains("mean matching probability (itm)</dt><dd>") && page.contains("--by itm"), "no itm");
    assert!(page.contains(&format!("{mean:.3}</dd>")), "the mean of all rows");
}

#[test]
fn original_captions_are_matched_on_request() {
    let place = Place::new();
    let mut reference = Reference::new(scorer(&place));
    let input = place.draw("in", 1, 16);
    let matched = |output: &str| run(&place, &input, output).set("score.match_original=true");
    matched("out").set("output.images=embed").ends(0);
    run(&place, &input, "plain").set("output.images=embed").ends(0);
    let (with, without) = (rows(&place, "out"), rows(&place, "plain"));
    assert_eq!(with.len(), 16);
    for (row, plain) in with.iter().zip(&without) {
        let (image, _) = row.image.as_ref().expect("the stored image");
        let original = row.org_caption.as_deref().expect("scenes have alt texts");
        // Bit for bit, as for generated captions.
        let probability = reference.probabilities(image, &[original])[0];
        assert_eq!(row.org_itm.map(Bits::get), Some(probability), "{row:?}");
        // Nothing else differs, and the column is there on request alone.
        assert_eq!(&Caption { org_itm: None, ..row.clone() }, plain);
    }
    assert_eq!(configuration(&place, "out")["score.match_original"], "true");
    assert!(!configuration(&place, "plain").contains_key("score.match_original"));
    run(&place, &input, "out").set("output.images=embed").ends(2).warns("score.match_original");

    // A second pass by it.
    let filter = |from: &str, to: &str, by: &[&str]| {
        let call = recaption().dir(place.root()).args(["filter", from, "--to", to, "--log-format", "text"]);
        call.args(["--by", "org_itm"]).args(by)
    };
    filter("out", "top", &["--keep-top", "0.5"]).ends(0).prints("threshold org_itm >= ").prints("below_itm");
    let least = output::read(&place.path("top"))
        .captions
        .iter()
        .filter_map(|row| row.org_itm.map(Bits::get))
        .fold(1.0, f32::min);
    let above = with.iter().filter(|row| row.org_itm.is_some_and(|itm| itm.get() >= least)).count();
    assert!(above >= 8 && output::read(&place.path("top")).captions.len() == above);
    filter("out", "above", &["--min-itm", &least.to_string()]).ends(0);
    assert_eq!(output::read(&place.path("above")).captions.len(), above);
    filter("plain", "none", &["--keep-top", "0.5"])
        .ends(1)
        .warns("no column `org_itm`, which a run with `score.match_original = true` adds");
    filter("out", "none", &["--min-similarity", "0.5"]).ends(2).warns("use --min-itm");
}

#[test]
fn matching_originals_needs_a_scorer_that_matches() {
    let place = Place::new();
    scorer(&place);
    let input = place.draw("in", 1, 4);
    run(&place, &input, "off")
        .set("score.match_original=true")
        .set("score.itm_top_k=0")
        .ends(2)
        .warns("`score.match_original` needs a scorer that matches");
    place
        .run(&input, "own")
        .set("score.match_original=true")
        .ends(2)
        .warns("`score.match_original` = true: model.scorer has no matching head (ITM)");
}

#[test]
fn webdataset_carries_the_probability_of_the_original() {
    let place = Place::new();
    scorer(&place);
    let input = place.draw("in", 1, 6);
    run(&place, &input, "out").set("score.match_original=true").set("output.format=webdataset").ends(0);
    let rows = rows(&place, "out");
    let folder = std::fs::read_dir(place.path("out/webdataset")).expect("a folder");
    let tars: Vec<PathBuf> = folder.map(|entry| entry.expect("an entry").path()).collect();
    let mut archive = tar::Archive::new(std::fs::File::open(&tars[0]).expect("a tar"));
    let mut found = 0;
    for member in archive.entries().expect("members") {
        let member = member.expect("a member");
        if !member.path_bytes().ends_with(b".json") {
            continue;
        }
        let entry: serde_json::Value = serde_json::from_reader(member).expect("JSON");
        let row = rows.iter().find(|row| entry["key"] == row.key.as_str()).expect("its row");
        let probability = row.org_itm.expect("matched").get();
        assert_eq!(entry["org_itm"].as_f64().map(|itm| itm as f32), Some(probability));
        found += 1;
    }
    assert_eq!(found, 6);
}
