//! Separate scorers: their similarities, what they leave unchanged, and errors of unusable ones.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{fs, path::PathBuf};

use recaption_image::{DecodeOptions, prepare};
use recaption_onnx::{
    ModelFolder, Precision, export,
    runtime::{ImageEncoder, SessionOptions, TextEncoder},
    tokenizer::Tokenizer,
};
use support::{
    Place, checkpoint, data, model,
    output::{self, Caption},
    program::recaption,
};

const CIRCULAR: &str = "circular";

/// A random CLIP with the bundled captioner's tokenizer, whose vocabulary it shares. It wants smaller images.
fn clip(place: &Place) -> ModelFolder {
    let from = place.path("clip");
    fs::create_dir(&from).expect("a folder");
    for name in ["open_clip_config.json", "open_clip_model.safetensors"] {
        fs::copy(data("clip/plain").join(name), from.join(name)).expect("a copy");
    }
    fs::copy(checkpoint().join("tokenizer.json"), from.join("tokenizer.json")).expect("a copy");
    export(&from, &place.path("scorer"), Precision::Fp32).expect("a CLIP can be exported")
}

/// The scorer by itself, one image and one text at a time.
struct Reference {
    images: ImageEncoder,
    texts: TextEncoder,
    tokenizer: Tokenizer,
    folder: ModelFolder,
}

impl Reference {
    fn new(folder: ModelFolder) -> Self {
        let options = SessionOptions::on_cpu(1);
        Self {
            images: ImageEncoder::load(&folder, &options).expect("an image encoder"),
            texts: TextEncoder::load(&folder, &options).expect("a text encoder"),
            tokenizer: Tokenizer::load(&folder).expect("a tokenizer"),
            folder,
        }
    }

    fn similarity(&mut self, image: &[u8], text: &str) -> f32 {
        let options = DecodeOptions::default();
        let prepared = prepare(image, None, &self.folder.spec.preprocessing, &options).expect("an image");
        let image = self.images.encode(prepared.pixels.as_slice()).expect("features").features;
        let ids = self.tokenizer.encode(text).expect("ids").ids;
        let text = self.texts.encode(&[&ids]).expect("features");
        image.iter().zip(&text).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
    }
}

fn without_similarity(row: &Caption) -> (&str, &str, usize) {
    (&row.key, &row.caption, row.candidates.len())
}

#[test]
fn similarities_equal_the_scorers_own() {
    let place = Place::new();
    let scorer = clip(&place);
    let digest = scorer.digest.clone();
    let input = place.draw("in", 1, 20);
    place.run(&input, "self").ends(0).warns(CIRCULAR).warns("--scorer");
    let run = || place.run(&input, "scored").arg("--scorer").arg(place.path("scorer"));
    run().set("output.images=embed").ends(0).never_says(CIRCULAR);
    let (own, scored) = (output::read(&place.path("self")), output::read(&place.path("scored")));
    let mut reference = Reference::new(scorer);
    assert_eq!(scored.captions.len(), 20);
    for (row, own) in scored.captions.iter().zip(&own.captions) {
        assert_eq!(without_similarity(row), without_similarity(own), "a scorer does not caption");
        let (image, _) = row.image.as_ref().expect("the stored image");
        let original = row.org_caption.as_deref().expect("an original caption");
        // Bit for bit: a row does not depend on the batch it was scored in.
        assert_eq!(row.similarity.get(), reference.similarity(image, &row.caption), "{row:?}");
        assert_eq!(
            row.org_similarity.map(output::Bits::get),
            Some(reference.similarity(image, original)),
            "{row:?}"
        );
        assert_ne!(row.similarity, own.similarity);
    }
    // The scorer's digest is part of the output's configuration; without a scorer there is none.
    let configuration = |output: &str| output::commits(&place.path(output))[0].configuration.clone();
    assert_eq!(configuration("scored").get("model.scorer"), Some(&digest));
    assert_eq!(configuration("self").get("model.scorer"), None);
    assert_eq!(output::runs(&place.path("scored"))[0]["scorer"], digest.as_str());
    place.run(&input, "scored").set("output.images=embed").ends(2).warns("`model.scorer` was");
}

#[test]
fn scores_are_independent_of_batches() {
    let place = Place::new();
    clip(&place);
    let input = place.draw("in", 2, 15);
    let run = |output: &str, threads: &str, batch: &str| {
        let call = place.run(&input, output).arg("--scorer").arg(place.path("scorer"));
        call.args(["--threads", threads, "--batch-size", batch]).ends(0);
        output::read(&place.path(output))
    };
    assert_eq!(run("one", "1", "1"), run("many", "3", "16"));
}

#[test]
fn coca_can_score_another_cocas_captions() {
    let place = Place::new();
    // The same weights in fp16: another folder with the same input size that nearly agrees, but is not another scorer.
    export(checkpoint(), &place.path("half"), Precision::Fp16).expect("fp16");
    let input = place.draw("in", 1, 6);
    place.run(&input, "self").ends(0);
    place.run(&input, "scored").arg("--scorer").arg(place.path("half")).ends(0).warns(CIRCULAR);
    let (own, scored) = (output::read(&place.path("self")), output::read(&place.path("scored")));
    for (a, b) in own.captions.iter().zip(&scored.captions) {
        assert!((a.similarity.get() - b.similarity.get()).abs() < 0.01, "{a:?} {b:?}");
    }
    // A captioner that is named as its own scorer is not another scorer.
    place.run(&input, "named").arg("--scorer").arg(model()).ends(0).warns(CIRCULAR);
    assert_eq!(output::read(&place.path("named")), own);
}

#[test]
fn caption_command_scores_single_images() {
    let place = Place::new();
    let scorer = clip(&place);
    let image = place.write("a.jpg", support::shards::jpeg(1));
    let call = recaption().arg("caption").arg(model()).arg(&image).arg("--scorer").arg(place.path("scorer"));
    let output = call.ends(0);
    let [_, similarity, caption] = output.stdout.trim_end().split('\t').collect::<Vec<_>>()[..] else {
        panic!("three columns: {}", output.stdout)
    };
    let wanted = Reference::new(scorer).similarity(&support::shards::jpeg(1), caption);
    assert_eq!(similarity, format!("{wanted:.4}"));
}

#[test]
fn unusable_scorers_and_captioners_are_errors() {
    let place = Place::new();
    clip(&place);
    let input = place.draw("in", 1, 1);
    let bare: PathBuf = place.path("bare");
    export(&data("clip/plain"), &bare, Precision::Fp32).expect("export works without a tokenizer");
    let run = |scorer: &PathBuf| place.run(&input, "out").arg("--scorer").arg(scorer).ends(1);
    run(&bare).warns("model.scorer").warns("has no tokenizer.json").warns("vocab.json and merges.txt");
    run(&data("clip/plain")).warns("is an open_clip checkpoint; export it first");
    run(&place.path("nowhere")).warns("recaption export");
    let no_decoder = "scores captions but cannot generate them";
    let call = recaption().arg("run").arg("--model").arg(place.path("scorer")).arg("--input").arg(&input);
    call.arg("--output").arg(place.path("out")).ends(1).warns(no_decoder);
    let image = place.write("a.jpg", support::shards::jpeg(1));
    recaption().arg("caption").arg(place.path("scorer")).arg(&image).ends(1).warns(no_decoder);
    recaption().arg("inspect").arg(place.path("scorer")).ends(0).prints("clip (fp32").prints("two towers");
    let golden = data("clip/plain/golden.safetensors");
    recaption().arg("verify").arg(place.path("scorer")).arg(golden).ends(0).prints("image_features");
}
