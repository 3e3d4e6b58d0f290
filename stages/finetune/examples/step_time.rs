//! Times training steps on a checkpoint: `step_time CHECKPOINT INPUTS.safetensors --batch 64 --steps 20 --warmup 3`.
//!
//! Prints JSON with the median of a step in seconds and the losses. `benchmarks/training.py` runs it beside torch.

use std::{path::PathBuf, time::Instant};

use anyhow::Context;
use burn::tensor::DType;
use clap::Parser;
use recaption_finetune::{
    batch::Batch,
    model::{Coca, Parameters},
    objective::{Weights, gradients},
    open_clip::OpenClip,
    optim::{AdamW, AdamWSettings, clip, groups},
};
use safetensors::SafeTensors;

#[derive(Parser)]
struct Args {
    /// open_clip directory.
    checkpoint: PathBuf,
    /// `images` u8 [N,S,S,3] and `text` i64 [N,T].
    inputs: PathBuf,
    #[arg(long, default_value_t = 64)]
    batch: usize,
    #[arg(long, default_value_t = 20)]
    steps: usize,
    #[arg(long, default_value_t = 3)]
    warmup: usize,
    /// `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// `fp32` or `bf16`.
    #[arg(long, default_value = "fp32")]
    precision: String,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let device = recaption_finetune::device::open(&args.device)?;
    let compute = match args.precision.as_str() {
        "fp32" => DType::F32,
        "bf16" => DType::BF16,
        other => anyhow::bail!("--precision {other}: expected fp32 or bf16"),
    };
    let read = OpenClip::read(&args.checkpoint)?;
    let trained = vec![true; read.list.len()];
    let parameters = Parameters::new(read.list, read.values, &trained, &device).computing_in(compute);
    let mut model = Coca::new(read.config, parameters).context("no CoCa")?;
    let batches = batches(&args)?;
    let settings = AdamWSettings { beta1: 0.9, beta2: 0.98, epsilon: 1e-6, weight_decay: 0.2 };
    let mut optimizer = AdamW::new(settings, groups(&model.config, model.parameters.list(), &[], 1.0));
    let weights = Weights { contrastive: 1.0, caption: 2.0, label_smoothing: 0.0 };
    let (mut times, mut losses) = (Vec::new(), Vec::new());
    for i in 0..args.warmup + args.steps {
        let start = Instant::now();
        let step = gradients(&model, &batches[i % batches.len()], args.batch, &weights, &device);
        let (_, factor) = clip(&step.gradients, Some(1.0));
        let values = optimizer.step(model.parameters.values(), step.gradients, 1e-3, factor);
        model.parameters.replace(values);
        losses.push([step.contrastive, step.caption]);
        if i >= args.warmup {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    println!(
        "{}",
        serde_json::json!({"seconds_per_step_median": times[times.len() / 2], "seconds_per_step_least": times[0], "losses": losses})
    );
    Ok(())
}

/// All whole batches of the inputs.
fn batches(args: &Args) -> anyhow::Result<Vec<Batch>> {
    let bytes = std::fs::read(&args.inputs)?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let (images, text) = (tensors.tensor("images")?, tensors.tensor("text")?);
    let ids: Vec<i64> = text.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
    let image = images.data().len() / images.shape()[0];
    let mut all = Batch::default();
    for (i, row) in ids.chunks_exact(text.shape()[1]).enumerate() {
        let end = row.iter().rposition(|id| *id != 0).map_or(0, |at| at + 1);
        all.push(i.to_string(), &images.data()[i * image..(i + 1) * image], row[..end].to_vec());
    }
    let mut batches = all.parts(args.batch);
    batches.retain(|b| b.len() == args.batch);
    anyhow::ensure!(!batches.is_empty(), "fewer than {} inputs", args.batch);
    Ok(batches)
}
