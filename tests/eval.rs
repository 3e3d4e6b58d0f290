//! `recaption eval`: metrics of captions, on images whose captions are known.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use recaption::scenes::{descriptive, sample};
use serde_json::Value;
use support::{
    Place, model, output,
    program::{Call, recaption},
    shards::{Pack, SEED, jpeg},
};

const SCENES: u32 = 24;

fn eval(shards: &[&std::path::Path]) -> Call {
    recaption().arg("eval").arg(model()).args(shards).args(["--log-format", "json"])
}

fn report(call: Call, code: i32) -> Value {
    call.ends(code).report()
}

fn number(report: &Value, pointer: &str) -> f64 {
    report
        .pointer(pointer)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("no number at {pointer} of {report:#}"))
}

/// Shards whose original captions are the model's own: every metric is at its best.
#[test]
fn captions_of_the_model_itself_score_best() {
    let place = Place::new();
    let drawn = place.draw("drawn", 1, SCENES);
    place.run(&drawn, "out").ends(0);
    let mut pack = Pack::new();
    for row in output::read(&place.path("out")).captions {
        let n = row.key.parse::<u64>().expect("a number") % 1_000_000;
        let (scene, _) = sample(SEED, n);
        let picture = recaption::scenes::draw(&scene, recaption::scenes::IMAGE_SIZE);
        let mut file = std::io::Cursor::new(Vec::new());
        image::DynamicImage::ImageRgb8(picture)
            .write_to(&mut file, image::ImageFormat::Png)
            .expect("a picture");
        let key = &row.key;
        pack = pack
            .file(&format!("{key}.png"), file.into_inner())
            .file(&format!("{key}.txt"), &row.caption)
            .file(&format!("{key}.json"), scene.to_json());
    }
    let shard = place.write("own/00000.tar", pack.close());
    let measured = report(eval(&[&shard]), 0);
    assert_eq!((number(&measured, "/captions"), number(&measured, "/references/captions")), (24.0, 24.0));
    // JPEG and PNG may differ in a caption or two.
    for metric in ["/references/rouge_l", "/references/bleu/0", "/references/bleu/3"] {
        let value = number(&measured, metric);
        assert!((0.9..=1.0 + 1e-9).contains(&value), "{metric}: {value}");
    }
    assert!(number(&measured, "/references/cider_d") > 7.0, "{measured:#}");
    assert!((number(&measured, "/similarity") - number(&measured, "/org_similarity")).abs() < 0.02);
    assert_eq!(number(&measured, "/retrieval/pairs"), 24.0);
    let [one, ten] =
        ["/retrieval/image_to_text/0", "/retrieval/image_to_text/2"].map(|at| number(&measured, at));
    assert!(one > 0.5 && ten >= one && ten <= 1.0, "{measured:#}");
    assert_eq!(number(&measured, "/scenes/captions"), 24.0);
    assert!(number(&measured, "/scenes/colour") > number(&measured, "/scenes/objects") / 2.0, "{measured:#}");
    let output = recaption().arg("eval").arg(model()).arg(&shard).args(["--log-format", "text"]).ends(0);
    for words in
        ["CIDEr-D", "BLEU-1 to 4", "ROUGE-L", "R@1, 5, 10", "distinct-1, 2", "scored by the captioner itself"]
    {
        output.prints(words);
    }
}

/// References of a sample's JSON count beside its caption, and one that is right is enough.
#[test]
fn references_of_the_json_count() {
    let place = Place::new();
    let mut with = Pack::new();
    let mut without = Pack::new();
    for n in 0..8 {
        let (scene, _) = sample(SEED + 1, n);
        let truth = serde_json::json!({ "captions": [descriptive(&scene)] }).to_string();
        with = with
            .file(&format!("{n}.jpg"), jpeg(n))
            .file(&format!("{n}.txt"), "nothing alike")
            .file(&format!("{n}.json"), truth);
        without = without.file(&format!("{n}.jpg"), jpeg(n)).file(&format!("{n}.txt"), "nothing alike");
    }
    let [with, without] =
        [("with.tar", with), ("without.tar", without)].map(|(name, pack)| place.write(name, pack.close()));
    let [rich, poor] = [&with, &without].map(|shard| report(eval(&[shard]), 0));
    assert!(number(&rich, "/references/rouge_l") > 0.5, "{rich:#}");
    assert_eq!(number(&poor, "/references/rouge_l"), 0.0);
}

/// On scenes, junk among the original captions is known, and so are exactly right captions.
#[test]
fn scenes_measure_how_well_the_scorer_detects_junk() {
    let place = Place::new();
    let drawn = place.draw("drawn", 1, 60);
    let measured = report(eval(&[&drawn]), 0);
    let [informative, junk] =
        ["/scenes/originals_true", "/scenes/originals_junk"].map(|at| number(&measured, at));
    assert!(informative > junk && junk > 0.0 && informative + junk == 60.0, "{measured:#}");
    assert!((0.9..=1.0).contains(&number(&measured, "/scenes/junk_auc")), "{measured:#}");
    for (share, count) in [("exact_short", "short"), ("exact_descriptive", "descriptive")] {
        let [share, count] = [share, count].map(|name| number(&measured, &format!("/scenes/{name}")));
        assert_eq!(share, count / 60.0, "{measured:#}");
    }
    recaption()
        .arg("scenes")
        .arg("--out")
        .arg(place.path("short"))
        .args(["--samples", "9", "--caption", "short"])
        .ends(0);
    let measured = report(eval(&[&place.path("short")]), 0);
    assert_eq!(
        (number(&measured, "/scenes/originals_true"), &measured["scenes"]["junk_auc"]),
        (9.0, &Value::Null),
        "{measured:#}"
    );
}

#[test]
fn rejects_and_failed_shards_are_reported() {
    let place = Place::new();
    let whole =
        place.write("whole.tar", Pack::new().file("a.jpg", jpeg(1)).file("b.jpg", b"no picture").close());
    let none = place.path("none.tar");
    let measured = report(eval(&[&whole, &none]), 3);
    assert_eq!(number(&measured, "/captions"), 1.0);
    assert_eq!(measured["rejects"].as_object().map(|r| r.values().filter_map(Value::as_u64).sum()), Some(1));
    assert!(
        measured["shards_failed"].as_object().is_some_and(|f| f.keys().any(|k| k.ends_with("none.tar"))),
        "{measured:#}"
    );
    assert!(measured["references"].is_null() && measured["retrieval"].is_null(), "{measured:#}");
    let empty = place.write("empty.tar", Pack::new().close());
    eval(&[&empty]).ends(1).warns("nothing to measure");
}
