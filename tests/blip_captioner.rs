//! A BLIP as the captioner of runs and commands: another model must score its captions.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::fs;

use recaption_onnx::{CaptionModel, CaptionOptions, Precision, export};
use support::{
    Place, data, model,
    output::{self, Rows},
    program::{Call, recaption},
};

/// Exports the reference case with the bundled tokenizer, by the program itself.
fn blip(place: &Place) {
    let export = recaption().arg("export").arg("--checkpoint").arg(data("blip/tied"));
    export.arg("--out").arg(place.path("blip")).ends(0).prints("fp32");
}

fn run(place: &Place, input: &str, output: &str) -> Call {
    let call = recaption().dir(place.root()).arg("run").arg("--model").arg(place.path("blip"));
    call.arg("--input").arg(place.path(input)).arg("--output").arg(place.path(output))
}

fn scored(call: Call) -> Call {
    call.arg("--scorer").arg(model())
}

#[test]
fn rows_are_the_models_captions_with_the_scorers_similarity() {
    let place = Place::new();
    blip(&place);
    place.draw("in", 1, 12);
    scored(run(&place, "in", "out")).set("output.images=embed").ends(0).never_says("circular");
    let rows: Rows = output::read(&place.path("out"));
    assert_eq!(rows.captions.len(), 12);
    let mut captioner = CaptionModel::open(place.path("blip")).expect("a captioner");
    for row in &rows.captions {
        let (image, _) = row.image.as_ref().expect("the stored image");
        let caption = captioner.caption(image).expect("a caption");
        assert_eq!(row.caption, caption.text, "{row:?}");
        assert!(caption.tokens <= 19);
    }
    // Shorter captions are other rows, so the run into the same output is refused.
    scored(run(&place, "in", "out")).set("output.images=embed").set("caption.max_tokens=5").ends(2);
    scored(run(&place, "in", "beams")).set("caption.strategy=beam").set("caption.beams=3").ends(0);
    let beams = output::read(&place.path("beams"));
    assert!(beams.captions.iter().zip(&rows.captions).any(|(a, b)| a.caption != b.caption));
}

#[test]
fn commands_without_a_scorer_say_what_to_do() {
    let place = Place::new();
    blip(&place);
    place.draw("in", 1, 2);
    let image = place.write("a.jpg", support::shards::jpeg(1));
    const WORDS: &str = "is a BLIP captioner, which has no embeddings to compute similarity with";
    run(&place, "in", "out").ends(1).warns("model.captioner").warns(WORDS).warns("--scorer MODEL");
    assert!(!place.path("out").exists());
    recaption().arg("caption").arg(place.path("blip")).arg(&image).ends(1).warns(WORDS);
    let preview = recaption().dir(place.root()).arg("preview").arg("--model").arg(place.path("blip"));
    preview.arg("--input").arg(place.path("in")).ends(1).warns(WORDS);
    // Nor can it score another captioner's captions.
    let scores = place.run(place.path("in"), "other").arg("--scorer").arg(place.path("blip"));
    scores.ends(1).warns("model.scorer").warns(WORDS);
}

#[test]
fn single_images_and_previews_are_captioned() {
    let place = Place::new();
    blip(&place);
    place.draw("in", 1, 4);
    let image = place.write("a.jpg", support::shards::jpeg(1));
    let call = recaption().arg("caption").arg(place.path("blip")).arg(&image);
    let said =
        scored(call).args(["--set", "caption.prompt=a picture", "--set", "caption.keep_prompt=true"]).ends(0);
    let [_, similarity, caption] = said.stdout.trim_end().split('\t').collect::<Vec<_>>()[..] else {
        panic!("three columns: {}", said.stdout)
    };
    assert!(similarity.parse::<f32>().is_ok_and(|s| (-1.0..=1.0).contains(&s)), "{similarity}");
    let options =
        CaptionOptions { prompt: "a picture".into(), keep_prompt: true, ..CaptionOptions::default() };
    let mut captioner = CaptionModel::open_with(place.path("blip"), &options).expect("a captioner");
    assert_eq!(caption, captioner.caption(&fs::read(&image).expect("the image")).expect("a caption").text);
    assert!(caption.starts_with("a picture"), "{caption}");
    let preview = recaption().dir(place.root()).arg("preview").arg("--model").arg(place.path("blip"));
    scored(preview.arg("--input").arg(place.path("in"))).ends(0);
}

#[test]
fn inspect_and_verify_know_it() {
    let place = Place::new();
    blip(&place);
    let inspect = recaption().arg("inspect").arg(place.path("blip")).ends(0);
    inspect.prints("blip").prints("Squash").prints("10 tokens for the decoder").prints("no embedding");
    let verify = recaption().arg("verify").arg(place.path("blip")).arg(data("blip/tied/golden.safetensors"));
    verify.ends(0).prints("vision_hidden").prints("beams_all_448").never_says("FAIL");
    // A checkpoint is no model.
    let call = recaption().dir(place.root()).arg("run").arg("--model").arg(data("blip/tied"));
    let call = call.arg("--input").arg(place.root()).arg("--output").arg(place.path("out"));
    call.ends(1).warns("is a BLIP checkpoint; export it first");
    let half = export(&data("blip/tied"), &place.path("half"), Precision::Fp16).expect("fp16");
    let verify = recaption().arg("verify").arg(&half.dir).arg(data("blip/tied/golden.safetensors"));
    verify.ends(0).prints("unchecked beams_all").never_says("FAIL");
}
