//! Names of a checkpoint's files.

/// File with `model_cfg` and `preprocess_cfg`.
pub(super) const CONFIG: &str = "open_clip_config.json";
/// File with the weights.
pub(super) const WEIGHTS: &str = "open_clip_model.safetensors";
/// File with the weights as `torch.save` writes them.
pub(super) const TORCH_WEIGHTS: &str = "open_clip_pytorch_model.bin";
/// File with the tokenizer.
pub(super) const TOKENIZER: &str = "tokenizer.json";
