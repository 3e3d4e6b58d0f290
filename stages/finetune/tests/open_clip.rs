//! Losses, gradients and twenty steps against open_clip and torch (scripts/make_training_goldens.py).

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use recaption_finetune::{
    batch::Batch,
    model::{Coca, Parameters, host},
    objective::{Weights, gradients},
    open_clip::OpenClip,
    optim::{AdamW, AdamWSettings, clip, groups},
    run::validate,
};
use safetensors::SafeTensors;

const WEIGHTS: Weights = Weights { contrastive: 1.0, caption: 2.0, label_smoothing: 0.0 };

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data")
}

fn model(case: &str, device: &Device) -> Coca {
    let read = OpenClip::read(&data().join("coca").join(case)).expect("a checkpoint");
    let trained = vec![true; read.list.len()];
    let parameters = Parameters::new(read.list, read.values, &trained, device);
    Coca::new(read.config, parameters).expect("a CoCa")
}

struct Fixture {
    bytes: Vec<u8>,
    settings: serde_json::Value,
}

impl Fixture {
    fn of(case: &str) -> Self {
        let dir = data().join("training").join(case);
        let bytes = std::fs::read(dir.join("training.safetensors")).expect("the fixture");
        let settings = std::fs::read(dir.join("training.json")).expect("its settings");
        Self { bytes, settings: serde_json::from_slice(&settings).expect("JSON") }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("safetensors")
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        let tensors = self.tensors();
        let bytes = tensors.tensor(name).expect(name).data();
        bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn batch(&self, suffix: &str) -> Batch {
        let tensors = self.tensors();
        let text = tensors.tensor(&format!("text{suffix}")).expect("text");
        let ids: Vec<i64> = text.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
        let rows = ids.chunks_exact(text.shape()[1]);
        let ids: Vec<Vec<i64>> = rows
            .map(|row| row[..row.iter().rposition(|id| *id != 0).map_or(0, |at| at + 1)].to_vec())
            .collect();
        Batch {
            keys: (0..ids.len()).map(|i| i.to_string()).collect(),
            pixels: tensors.tensor(&format!("images{suffix}")).expect("images").data().to_vec(),
            ids,
        }
    }
}

fn close(what: &str, got: f64, want: f32, tolerance: f64) {
    let want = f64::from(want);
    assert!((got - want).abs() <= tolerance * want.abs().max(1.0), "{what}: {got}, not {want}");
}

fn losses_and_gradients(case: &str) {
    let device = Device::flex().autodiff();
    let (model, fixture) = (model(case, &device), Fixture::of(case));
    let batch = fixture.batch("");
    // At once, in parts of unlike size, and one by one.
    for part in [6, 4, 1] {
        let step = gradients(&model, &batch, part, &WEIGHTS, &device);
        close("contrastive loss", step.contrastive, fixture.f32("contrastive_loss")[0], 1e-5);
        close("caption loss", step.caption, fixture.f32("caption_loss")[0], 1e-5);
        let every = fixture.settings["grad_row_step"].as_u64().expect("a number") as usize;
        let above = fixture.settings["grad_row_step_above"].as_u64().expect("a number") as usize;
        let mut worst = (0.0, String::new());
        let list = model.parameters.list();
        for (parameter, gradient) in list.iter().zip(&step.gradients) {
            let want = fixture.f32(&format!("grad.{}", parameter.name));
            let all = host(gradient.as_ref().expect(&parameter.name));
            let columns = all.len() / parameter.shape.first().copied().unwrap_or(1);
            let got: Vec<f32> = if all.len() > above {
                all.chunks_exact(columns).step_by(every).flatten().copied().collect()
            } else {
                all
            };
            assert_eq!(got.len(), want.len(), "{}", parameter.name);
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
            let apart = norm(&mut got.iter().zip(&want).map(|(a, b)| f64::from(a - b)));
            let size = norm(&mut want.iter().map(|v| f64::from(*v)));
            let relative = apart / size;
            if relative > worst.0 {
                worst = (relative, parameter.name.clone());
            }
        }
        println!("{case}, in parts of {part}: worst gradient {} off by {:.1e} of its norm", worst.1, worst.0);
        assert!(worst.0 <= 1e-4, "{worst:?}");
    }
}

fn twenty_steps(case: &str) {
    let device = Device::flex().autodiff();
    let (mut model, fixture) = (model(case, &device), Fixture::of(case));
    let settings = AdamWSettings { beta1: 0.9, beta2: 0.98, epsilon: 1e-6, weight_decay: 0.2 };
    let groups = groups(&model.config, model.parameters.list(), &[], 1.0);
    let mut optimizer = AdamW::new(settings, groups);
    let want = fixture.f32("losses");
    let batches: Vec<Batch> = (0..4).map(|k| fixture.batch(&format!("_{k}"))).collect();
    let mut worst: f64 = 0.0;
    for (i, want) in want.chunks_exact(2).enumerate() {
        let step = gradients(&model, &batches[i % 4], 6, &WEIGHTS, &device);
        for (got, want) in [step.contrastive, step.caption].into_iter().zip(want) {
            worst = worst.max((got - f64::from(*want)).abs() / f64::from(want.abs()));
        }
        let (norm, factor) = clip(&step.gradients, Some(1.0));
        close("gradient norm", norm, fixture.f32("gradient_norms")[i], 1e-3);
        let values = optimizer.step(model.parameters.values(), step.gradients, 1e-3, factor);
        model.parameters.replace(values);
    }
    println!("{case}: losses of 20 steps differ by {worst:.1e} at most, relative");
    assert!(worst <= 1e-4, "{worst:e}");
}

/// Validation in parts equals validation at once, and its losses equal open_clip's.
#[test]
fn validation_is_independent_of_parts() {
    let device = Device::flex().autodiff();
    let plain = Device::flex();
    let (model, fixture) = (model("layerscale", &device), Fixture::of("layerscale"));
    let batches = [fixture.batch("")];
    for part in [6, 4, 1] {
        let found = validate(&model, &batches, part, &WEIGHTS, &plain);
        close("contrastive loss", found.contrastive, fixture.f32("contrastive_loss")[0], 1e-5);
        close("caption loss", found.caption, fixture.f32("caption_loss")[0], 1e-5);
        assert_eq!((found.samples, found.exact), (6, 0.0), "random weights caption nothing");
    }
    let both = [fixture.batch(""), fixture.batch("_1")];
    let [a, b] = both.clone().map(|batch| validate(&model, &[batch], 6, &WEIGHTS, &plain));
    let mean = validate(&model, &both, 6, &WEIGHTS, &plain);
    close("mean of two batches", mean.contrastive, ((a.contrastive + b.contrastive) / 2.0) as f32, 1e-6);
}

#[test]
fn losses_and_gradients_equal_open_clip() {
    ["odd", "layerscale", "nopool"].into_iter().for_each(losses_and_gradients);
}

#[test]
fn twenty_steps_of_adamw_equal_torch() {
    ["odd", "layerscale", "nopool"].into_iter().for_each(twenty_steps);
}
