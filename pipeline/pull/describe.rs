//! What a checkpoint is, for `recaption inspect`.

use std::path::Path;

use recaption_onnx::{checkpoint::Checkpoint, model::Architecture};

/// Describes the checkpoint in `dir`.
///
/// # Errors
/// When a file is missing, malformed or not supported.
pub(crate) fn describe(dir: &Path) -> anyhow::Result<String> {
    let checkpoint = Checkpoint::open(dir)?;
    let c = &checkpoint.config;
    let kind = match c.architecture() {
        Architecture::Coca => "CoCa, captions and scores",
        Architecture::Siglip => "SigLIP, scores",
        _ => "CLIP, scores",
    };
    let weights = checkpoint.tensors.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
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
