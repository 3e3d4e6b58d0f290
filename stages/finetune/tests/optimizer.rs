//! Losses and updates against their formulas in f64, and parameter groups.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod common;

use burn::tensor::{Device, Int, Tensor, TensorData};
use common::{data, small};
use recaption_finetune::{
    model::{Parameters, host},
    objective::{cross_entropy, info_nce},
    open_clip::OpenClip,
    optim::{AdamW, AdamWSettings, Freeze, Group, average, clip, groups},
    random::Random,
};
use recaption_onnx::checkpoint::{Init, ModelConfig, Parameter};

fn numbers(seed: u64, n: usize, scale: f32) -> Vec<f32> {
    let mut random = Random::new(seed, &[]);
    (0..n).map(|_| scale * random.normal() as f32).collect()
}

fn tensor<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let apart = (f64::from(*got) - want).abs();
        assert!(apart <= tolerance * want.abs().max(1.0), "{what}, element {i}: {got}, not {want}");
    }
}

/// Computes the log-softmax of a row.
fn log_softmax(row: &[f32]) -> Vec<f64> {
    let most = row.iter().copied().fold(f32::MIN, f32::max);
    let total: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
    row.iter().map(|x| f64::from(x - most) - total.ln()).collect()
}

#[test]
fn cross_entropy_equals_its_formula() {
    let (rows, vocabulary) = (6, 11);
    let logits = numbers(1, rows * vocabulary, 4.0);
    let labels: [i64; 6] = [3, 0, 10, 1, 0, 7];
    for smoothing in [0.0, 0.1, 0.9] {
        for total in [4, 9] {
            let mut want = 0.0;
            for (row, label) in logits.chunks(vocabulary).zip(labels).filter(|(_, label)| *label != 0) {
                let logp = log_softmax(row);
                // q(k) = (1 - s) [k = label] + s / V
                let q = |k: usize| {
                    (1.0 - smoothing) * f64::from(u8::from(k == label as usize))
                        + smoothing / vocabulary as f64
                };
                want -= logp.iter().enumerate().map(|(k, logp)| q(k) * logp).sum::<f64>();
            }
            let ids = Tensor::<1, Int>::from_data(TensorData::new(labels.to_vec(), [rows]), &Device::flex());
            let got = cross_entropy(tensor(&logits, [rows, vocabulary]), ids, total, smoothing);
            close(&format!("smoothing {smoothing}"), &host(&got), &[want / total as f64], 1e-6);
        }
    }
}

#[test]
fn info_nce_equals_its_formula() {
    let (n, width) = (5, 8);
    let unit = |seed| {
        let mut values = numbers(seed, n * width, 1.0);
        for row in values.chunks_mut(width) {
            let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter_mut().for_each(|v| *v /= norm);
        }
        values
    };
    let (image, text) = (unit(1), unit(2));
    for log_scale in [0.0_f32, 2.6593, 4.605_170_2] {
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let scale = f64::from(log_scale).exp();
        let one_way = |a: &[f32], b: &[f32]| {
            let loss = |(i, a): (usize, &[f32])| {
                let logits: Vec<f64> = b.chunks(width).map(|b| scale * dot(a, b)).collect();
                let most = logits.iter().copied().fold(f64::MIN, f64::max);
                most + logits.iter().map(|l| (l - most).exp()).sum::<f64>().ln() - logits[i]
            };
            a.chunks(width).enumerate().map(loss).sum::<f64>() / n as f64
        };
        let want = 0.5 * (one_way(&image, &text) + one_way(&text, &image));
        let got = info_nce(tensor(&image, [n, width]), tensor(&text, [n, width]), tensor(&[log_scale], [1]));
        close(&format!("log scale {log_scale}"), &host(&got), &[want], 1e-5);
    }
}

#[test]
fn clipping_keeps_gradients_within_the_limit() {
    let gradients = vec![Some(tensor(&[3.0, 0.0], [2])), None, Some(tensor(&[4.0], [1]))];
    for (limit, factor) in
        [(None, 1.0), (Some(5.1), 1.0), (Some(5.0), 5.0 / (5.0 + 1e-6)), (Some(1.0), 1.0 / (5.0 + 1e-6))]
    {
        let (norm, got) = clip(&gradients, limit);
        assert_eq!(norm, 5.0);
        assert!((got - factor).abs() < 1e-12, "limit {limit:?}: {got}, not {factor}");
    }
    assert_eq!(clip(&[None, None], Some(1.0)), (0.0, 1.0));
    let (norm, factor) = clip(&[Some(tensor(&[f32::NAN], [1]))], Some(1.0));
    assert!(norm.is_nan(), "{norm} {factor}");
}

#[test]
fn adamw_equals_its_formula_by_group() {
    let s = AdamWSettings { beta1: 0.9, beta2: 0.98, epsilon: 1e-6, weight_decay: 0.2 };
    let group = |trained, lr_scale, decay| Group { trained, lr_scale, decay };
    let treatment =
        [group(true, 1.0, true), group(true, 0.25, false), group(false, 1.0, true), group(true, 1.0, true)];
    let n = 5;
    let begin: Vec<Vec<f32>> = (0..4).map(|i| numbers(i, n, 1.0)).collect();
    let mut values: Vec<Tensor<1>> = begin.iter().map(|v| tensor(v, [n])).collect();
    let mut want: Vec<Vec<f64>> = begin.iter().map(|v| v.iter().map(|x| f64::from(*x)).collect()).collect();
    let mut moments = vec![vec![[0.0_f64; 2]; n]; 4];
    let mut optimizer = AdamW::new(s, treatment.to_vec());
    let factor = 0.5;
    for t in 1..=7_i32 {
        let found: Vec<Vec<f32>> = (0..4).map(|i| numbers(100 * t as u64 + i, n, 0.1)).collect();
        let lr = 1e-2 * f64::from(t);
        // The last parameter never has a gradient.
        let gradients = found.iter().enumerate().map(|(i, g)| (i != 3).then(|| tensor(g, [n]))).collect();
        values = optimizer.step(&values, gradients, lr, factor);
        for i in 0..2 {
            let lr = lr * treatment[i].lr_scale;
            let decay = if treatment[i].decay { s.weight_decay } else { 0.0 };
            for j in 0..n {
                let g = f64::from(found[i][j]) * factor;
                let [m, v] = &mut moments[i][j];
                *m = s.beta1 * *m + (1.0 - s.beta1) * g;
                *v = s.beta2 * *v + (1.0 - s.beta2) * g * g;
                let (m, v) = (*m / (1.0 - s.beta1.powi(t)), *v / (1.0 - s.beta2.powi(t)));
                want[i][j] = want[i][j] * (1.0 - lr * decay) - lr * m / (v.sqrt() + s.epsilon);
            }
        }
    }
    for (i, (got, want)) in values.iter().zip(&want).enumerate() {
        close(&format!("parameter {i}"), &host(got), want, 1e-6);
    }
    assert!(
        host(&values[2]) == begin[2] && host(&values[3]) == begin[3],
        "what is frozen or has no gradient moved"
    );
    assert!(optimizer.state.moments[2].is_none() && optimizer.state.moments[3].is_none());
}

#[test]
fn average_equals_its_formula() {
    let (old, new) = (numbers(1, 4, 1.0), numbers(2, 4, 1.0));
    let got = average(vec![tensor(&old, [4])], &[tensor(&new, [4])], 0.75);
    let want: Vec<f64> =
        old.iter().zip(&new).map(|(o, n)| 0.75 * f64::from(*o) + 0.25 * f64::from(*n)).collect();
    close("average", &host(&got[0]), &want, 1e-6);
}

#[test]
fn temperature_is_clamped_and_keeps_training() {
    let parameter = |name: &str| Parameter { name: name.into(), shape: Vec::new(), init: Init::Zeros };
    let list = vec![parameter("logit_scale"), parameter("other")];
    let device = Device::flex().autodiff();
    for trained in [true, false] {
        for (value, held) in [(9.0, 4.5), (-3.0, 0.0), (2.0, 2.0)] {
            let mut parameters =
                Parameters::new(list.clone(), vec![vec![value], vec![value]], &[trained, true], &device);
            parameters.clamp("logit_scale", 0.0, 4.5);
            parameters.clamp("nobody", 0.0, 1.0);
            assert_eq!(parameters.to_host(), [[held], [value]]);
            let loss = parameters.vector("logit_scale") * 3.0 + parameters.vector("other");
            let found = parameters.take_gradients(&mut loss.backward());
            let found: Vec<Option<Vec<f32>>> = found.iter().map(|g| g.as_ref().map(host)).collect();
            assert_eq!(found, [trained.then(|| vec![3.0]), Some(vec![1.0])], "trained: {trained}");
        }
    }
}

#[test]
fn freeze_parses_known_parts() {
    for good in
        ["image", "pooler", "text", "decoder", "temperature", "image:0", "image:12", "text:3", "decoder:1"]
    {
        good.parse::<Freeze>().unwrap_or_else(|e| panic!("{good}: {e}"));
    }
    for (bad, words) in [
        ("", "expected image"),
        ("Image", "expected image"),
        ("visual", "expected image"),
        ("image:", "not a number of layers"),
        ("image:-1", "not a number of layers"),
        ("image:1:2", "not a number of layers"),
        ("pooler:1", "has no layers"),
        ("temperature:0", "has no layers"),
    ] {
        let error = bad.parse::<Freeze>().expect_err(bad);
        assert!(error.contains(words) && error.contains(&format!("`{bad}`")), "{bad}: {error}");
    }
}

/// Returns the names of the frozen parameters.
fn frozen(config: &ModelConfig, freeze: &[&str]) -> Vec<String> {
    let freeze: Vec<Freeze> = freeze.iter().map(|f| f.parse().expect(f)).collect();
    let list = config.parameters();
    let groups = groups(config, &list, &freeze, 1.0);
    list.into_iter().zip(groups).filter(|(_, g)| !g.trained).map(|(p, _)| p.name).collect()
}

#[test]
fn every_parameter_belongs_to_one_part() {
    let mut config = small(2);
    config["recaption"] = serde_json::json!({"pooler": "cascade"});
    let configs = [
        ModelConfig::parse(&small(2).to_string()).expect("a configuration"),
        ModelConfig::parse(&config.to_string()).expect("a configuration"),
        OpenClip::read(&data("coca/nopool")).expect("a checkpoint").config,
    ];
    for config in &configs {
        let parts = ["image", "pooler", "text", "decoder", "temperature"].map(|part| frozen(config, &[part]));
        let mut all: Vec<&String> = parts.iter().flatten().collect();
        all.sort();
        let list = config.parameters();
        let mut wanted: Vec<&String> = list.iter().map(|p| &p.name).collect();
        wanted.sort();
        assert_eq!(all, wanted);
        assert_eq!(parts[4], ["logit_scale"]);
        assert!(parts[0].iter().all(|n| n.starts_with("visual.")), "{:?}", parts[0]);
        assert!(parts[1].iter().any(|n| n.starts_with("visual.attn_pool")) || config.vision.pooler.is_none());
        assert!(parts[2].iter().all(|n| n.starts_with("text.")), "{:?}", parts[2]);
        assert!(parts[3].iter().all(|n| n.starts_with("text_decoder.")), "{:?}", parts[3]);
        // The first blocks are part of the whole, and none is what comes before them.
        let lower = frozen(config, &["image:1"]);
        assert!(lower.iter().all(|n| parts[0].contains(n)) && lower.len() < parts[0].len());
        assert!(
            lower.iter().any(|n| n.contains("resblocks.0."))
                && !lower.iter().any(|n| n.contains("resblocks.1."))
        );
        let before = frozen(config, &["image:0"]);
        assert!(
            before.contains(&"visual.conv1.weight".to_owned())
                && !before.iter().any(|n| n.contains("resblocks"))
        );
    }
}

#[test]
fn weight_decay_applies_to_matrices_only() {
    let config = ModelConfig::parse(&small(2).to_string()).expect("a configuration");
    let list = config.parameters();
    let groups = groups(&config, &list, &[], 0.5);
    for (parameter, group) in list.iter().zip(&groups) {
        assert_eq!(group.decay, parameter.shape.len() >= 2, "{}: {:?}", parameter.name, parameter.shape);
        assert!(
            group.trained && group.lr_scale > 0.0 && group.lr_scale <= 1.0,
            "{}: {group:?}",
            parameter.name
        );
    }
}
