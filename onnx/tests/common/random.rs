//! Small CoCa checkpoints with random weights, of every pooler and wiring.

use std::{collections::HashMap, path::Path};

use recaption_onnx::checkpoint::{Checkpoint, Init, ModelConfig};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

/// `recaption.pooler` and `recaption.multimodal_input`.
pub(crate) type Wiring = (&'static str, &'static str);

/// All of them.
pub(crate) const WIRINGS: [Wiring; 6] = [
    ("released", "unimodal"),
    ("parallel", "unimodal"),
    ("cascade", "unimodal"),
    ("released", "embeddings"),
    ("parallel", "embeddings"),
    ("cascade", "embeddings"),
];

/// A configuration of 16 wide embeddings and two layers everywhere; an image tower of `vision_width` 16 has packed poolers.
/// Poolers' heads are 4 wide, which the exporter pads.
pub(crate) fn config((pooler, input): Wiring, vision_width: usize) -> Value {
    json!({
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 16, "patch_size": 4, "width": vision_width, "head_width": 8, "layers": 2,
                "attentional_pool": true, "attn_pooler_queries": 5, "attn_pooler_heads": 4},
            "text_cfg": {"context_length": 12, "vocab_size": 40, "width": 16, "heads": 2, "layers": 2, "embed_cls": true},
            "multimodal_cfg": {"context_length": 12, "width": 16, "heads": 2, "layers": 2}
        },
        "preprocess_cfg": {},
        "recaption": {"pooler": pooler, "multimodal_input": input}
    })
}

/// Normal numbers by Box and Muller over a linear congruential generator.
pub(crate) struct Normal(pub u64);

impl Normal {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as f64 + 0.5) / (1_u64 << 31) as f64
    }

    pub(crate) fn next(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Writes `config` and weights for it into `dir`. Every number is moved off its beginning, so that no gain is one and no
/// bias nothing: a tensor that a graph forgets shows.
pub(crate) fn write_checkpoint(dir: &Path, config: &Value, seed: u64) {
    let text = config.to_string();
    let parsed = ModelConfig::parse(&text).expect("a valid configuration");
    let mut normal = Normal(seed);
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = parsed
        .parameters()
        .into_iter()
        .map(|p| {
            let bytes = (0..p.count())
                .flat_map(|_| {
                    let n = normal.next();
                    let value = match p.init {
                        Init::Normal(std) => n * f64::from(std),
                        Init::Ones => 1.0 + 0.2 * n,
                        Init::Zeros => 0.2 * n,
                        Init::Constant(value) => f64::from(value) * (1.0 + 0.2 * n),
                    };
                    (value as f32).to_le_bytes()
                })
                .collect();
            (p.name, p.shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("consistent tensor"))
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let file = safetensors::serialize(views, Some(metadata)).expect("serialised");
    std::fs::write(dir.join(Checkpoint::WEIGHTS), file).expect("written");
    std::fs::write(dir.join(Checkpoint::CONFIG), text).expect("written");
}
