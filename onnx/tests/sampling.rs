//! Sampling from the image to the token: the first tokens of 20,000 candidates of one image against the warped softmax of the
//! decoder's logits, by chi-squared.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod common;

use common::bundled;
use recaption_onnx::{
    ModelFolder, Precision,
    caption::{Admission, CaptionSettings, Captioner, SampleSettings, Strategy},
    export,
    runtime::{Decoder, ImageEncoder, RowUpdate, SessionOptions},
};

const SAMPLES: usize = 20_000;
const HOST: SessionOptions = SessionOptions::on_cpu(1);

struct Subject {
    _dir: tempfile::TempDir,
    model: ModelFolder,
    pixels: Vec<u8>,
    /// Beginning of the image's greedy caption: words whose repetition a penalty forbids, and behind which many may follow.
    prompt: Vec<i64>,
    /// Logits of what follows start token and prompt.
    logits: Vec<f64>,
}

impl Subject {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let model = export(&bundled(), &dir.path().join("model"), Precision::Fp32).expect("export");
        let side = model.spec.image_size as usize;
        // A red square on grey, not quite where the captioner expects one.
        let pixels: Vec<u8> = (0..side * side)
            .flat_map(|i| {
                let (x, y) = (i % side, i / side);
                let inside = (30..52).contains(&x) && (22..44).contains(&y);
                if inside { [214, 40, 40] } else { [150, 150, 150] }
            })
            .collect();
        let greedy = first(&model, &pixels, CaptionSettings::greedy(12, 4, 1)).remove(0);
        let prompt = greedy[..2].to_vec();
        let encoded = ImageEncoder::load(&model, &HOST).expect("encoder").encode(&pixels).expect("encode");
        let mut decoder = Decoder::load(&model, &HOST, 8, 1).expect("decoder");
        decoder.resize(1, &[]).expect("a slot");
        decoder.load_image(0, &encoded, 0).expect("an image");
        let read = std::iter::once(model.spec.special_ids.start).chain(prompt.iter().copied());
        let mut logits = Vec::new();
        for (position, id) in read.enumerate() {
            let row = decoder.step(&[Some(RowUpdate { id, position })]).expect("step");
            logits = row.iter().map(|v| f64::from(*v)).collect();
        }
        Self { _dir: dir, model, pixels, prompt, logits }
    }

    /// Probabilities of the next token, warped in Hugging Face's order.
    fn expected(&self, s: &SampleSettings) -> Vec<f64> {
        let special = self.model.spec.special_ids;
        let mut z = self.logits.clone();
        let mut previous: Vec<i64> =
            std::iter::once(special.start).chain(self.prompt.iter().copied()).collect();
        previous.sort_unstable();
        previous.dedup();
        let penalty = f64::from(s.repetition_penalty);
        for id in previous.into_iter().map(|id| id as usize) {
            z[id] = if z[id] < 0.0 { z[id] * penalty } else { z[id] / penalty };
        }
        z[special.pad as usize] = f64::NEG_INFINITY;
        z.iter_mut().for_each(|v| *v /= f64::from(s.temperature));
        let mut order: Vec<usize> = (0..z.len()).collect();
        order.sort_by(|a, b| z[*b].total_cmp(&z[*a]));
        if s.top_k > 0 {
            let least = z[order[s.top_k - 1]];
            z.iter_mut().filter(|v| **v < least).for_each(|v| *v = f64::NEG_INFINITY);
        }
        let weights: Vec<f64> = z.iter().map(|v| (v - z[order[0]]).exp()).collect();
        let total: f64 = weights.iter().sum();
        let (mut p, mut before) = (vec![0.0; z.len()], 0.0);
        for id in order {
            if before < f64::from(s.top_p) * total {
                p[id] = weights[id];
            }
            before += weights[id];
        }
        let kept: f64 = p.iter().sum();
        p.iter().map(|v| v / kept).collect()
    }
}

/// Ids of every candidate of one image.
fn first(model: &ModelFolder, pixels: &[u8], settings: CaptionSettings) -> Vec<Vec<i64>> {
    let mut captioner = Captioner::load(model, &HOST, settings).expect("captioner");
    captioner.admit(&[Admission { ticket: 0, seed: 99 }], pixels).expect("admitted");
    loop {
        if let Some(done) = captioner.step().expect("step").pop() {
            return done.candidates.into_iter().map(|c| c.ids).collect();
        }
    }
}

fn check(subject: &Subject, name: &str, sample: SampleSettings) {
    let settings = CaptionSettings {
        strategy: Strategy::Sample(sample),
        candidates: SAMPLES,
        prompt: subject.prompt.clone(),
        // One token that is sampled, and the end token.
        ..CaptionSettings::greedy(2, 0, 1)
    };
    let drawn = first(&subject.model, &subject.pixels, settings);
    assert_eq!(drawn.len(), SAMPLES);
    let p = subject.expected(&sample);
    let mut counts = vec![0_u32; p.len()];
    for ids in drawn {
        let id = ids[0] as usize;
        assert!(p[id] > 0.0, "{name}: token {id} cannot be sampled");
        counts[id] += 1;
    }
    // Rare tokens are pooled, so that every cell expects at least 10.
    let mut cells: Vec<(f64, f64)> = Vec::new();
    let mut pooled = (0.0, 0.0);
    for (p, n) in p.iter().zip(&counts) {
        let cell = (p * SAMPLES as f64, f64::from(*n));
        if cell.0 >= 10.0 { cells.push(cell) } else { pooled = (pooled.0 + cell.0, pooled.1 + cell.1) }
    }
    if pooled.0 >= 10.0 {
        cells.push(pooled);
    }
    let chi: f64 = cells.iter().map(|(expected, n)| (n - expected).powi(2) / expected).sum();
    let freedom = (cells.len() - 1) as f64;
    // Mean and deviation of chi-squared; four deviations are exceeded about once in 10,000 times.
    let bound = freedom + 4.0 * (2.0 * freedom).sqrt();
    println!("{name}: chi-squared {chi:.1} with {freedom} degrees of freedom, bound {bound:.1}");
    assert!(cells.len() > 2 && chi < bound, "{name}: {chi} over {bound} in {} cells", cells.len());
}

#[test]
fn first_tokens_follow_the_warped_softmax() {
    let subject = Subject::new();
    // Hot, so that a sure captioner leaves something to count.
    let hot = SampleSettings { temperature: 3.0, ..SampleSettings::default() };
    check(&subject, "temperature 3", hot);
    check(&subject, "top-k 12", SampleSettings { top_k: 12, ..hot });
    check(&subject, "top-p 0.8", SampleSettings { top_p: 0.8, ..hot });
    check(&subject, "repetition penalty 1.8", SampleSettings { repetition_penalty: 1.8, ..hot });
    check(&subject, "repetition penalty 0.6", SampleSettings { repetition_penalty: 0.6, ..hot });
}
