//! What a checkpoint is, for `recaption inspect`.

use std::path::Path;

use recaption_onnx::checkpoint::{AnyCheckpoint, BlipCheckpoint, BlipTask, Checkpoint};

/// Describes the checkpoint in `dir`.
///
/// # Errors
/// When a file is missing, malformed or not supported.
pub(crate) fn describe(dir: &Path) -> anyhow::Result<String> {
    match AnyCheckpoint::open(dir)? {
        AnyCheckpoint::OpenClip(checkpoint) => describe_open_clip(dir, &checkpoint),
        AnyCheckpoint::Blip(checkpoint) => describe_blip(dir, &checkpoint),
    }
}

fn describe_blip(dir: &Path, checkpoint: &BlipCheckpoint) -> anyhow::Result<String> {
    let c = &checkpoint.config;
    let kind = match c.task {
        BlipTask::Captions => "BLIP, captions; another model scores them",
        BlipTask::Retrieval { .. } => "BLIP, scores and matches texts with images (ITM)",
    };
    let weights = BlipCheckpoint::weights(dir)?;
    let weights = weights.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (v, t) = (&c.vision, &c.text);
    let (parameters, digest) = (checkpoint.tensors.parameters(), checkpoint.tensors.sha256()?);
    let mut text = format!(
        "checkpoint     {kind}\nweights        {weights}, {parameters} parameters, sha256 {digest}\n"
    );
    text += &format!(
        "image          {} pixels, patches of {}, width {}, {} layers\n",
        v.image_size, v.patch_size, v.width, v.layers
    );
    text += &format!(
        "text           {} entries, {} tokens, width {}, {} layers\n",
        t.vocab_size, t.context_length, t.width, t.layers
    );
    let tokenizer = match (dir.join(BlipCheckpoint::TOKENIZER).exists(), checkpoint.tokenizer()?.is_some()) {
        (true, _) => "tokenizer.json",
        (false, true) => "built at export from the vocabulary",
        (false, false) => "none: `verify` works, `run` and `caption` need one",
    };
    Ok(text + &format!("tokenizer      {tokenizer}\n"))
}

fn describe_open_clip(dir: &Path, checkpoint: &Checkpoint) -> anyhow::Result<String> {
    let c = &checkpoint.config;
    let kind = if c.decoder.is_some() { "CoCa, captions and scores" } else { "CLIP, scores" };
    let weights = Checkpoint::weights(dir);
    let weights = weights.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (v, t) = (&c.vision, &c.text);
    let mut text = format!(
        "checkpoint     {kind}\nweights        {weights}, {} parameters, sha256 {}\n",
        checkpoint.tensors.parameters(),
        checkpoint.tensors.sha256()?
    );
    text += &format!(
        "image          {} pixels, patches of {}, width {}, {} layers\n",
        v.image_size, v.patch_size, v.width, v.layers
    );
    text += &format!(
        "text           {} entries, {} tokens, width {}, {} layers\n",
        t.vocab_size, t.context_length, t.width, t.layers
    );
    let tokenizer = match (dir.join(Checkpoint::TOKENIZER).exists(), checkpoint.tokenizer()?.is_some()) {
        (true, _) => "tokenizer.json",
        (false, true) => "built at export from the vocabulary",
        (false, false) => "none: `verify` works, `run` and `caption` need one",
    };
    Ok(text + &format!("tokenizer      {tokenizer}\n"))
}
