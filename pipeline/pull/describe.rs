//! What a checkpoint is, for `recaption inspect`.

use std::path::Path;

use recaption_onnx::{
    checkpoint::{AnyCheckpoint, BlipTask, Checkpoint},
    model::Architecture,
};

/// Sizes of a tower: of the image side pixels and patches, of the text side entries and tokens.
struct Tower {
    sizes: (usize, usize),
    width: usize,
    layers: usize,
}

/// Describes the checkpoint in `dir`.
///
/// # Errors
/// When a file is missing, malformed or not supported.
pub(crate) fn describe(dir: &Path) -> anyhow::Result<String> {
    let checkpoint = AnyCheckpoint::open(dir)?;
    let tensors = checkpoint.tensors();
    let weights = tensors.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (image, text) = towers(&checkpoint);
    let tokenizer = match (dir.join(Checkpoint::TOKENIZER).exists(), checkpoint.tokenizer()?.is_some()) {
        (true, _) => "tokenizer.json",
        (false, true) => "built at export from the vocabulary",
        (false, false) => "none: `verify` works, `run` and `caption` need one",
    };
    Ok([
        format!("checkpoint     {}", kind(&checkpoint)),
        format!(
            "weights        {weights}, {} parameters, sha256 {}",
            tensors.parameters(),
            tensors.sha256()?
        ),
        format!(
            "image          {} pixels, patches of {}, width {}, {} layers",
            image.sizes.0, image.sizes.1, image.width, image.layers
        ),
        format!(
            "text           {} entries, {} tokens, width {}, {} layers",
            text.sizes.0, text.sizes.1, text.width, text.layers
        ),
        format!("tokenizer      {tokenizer}\n"),
    ]
    .join("\n"))
}

fn kind(checkpoint: &AnyCheckpoint) -> &'static str {
    match checkpoint {
        AnyCheckpoint::OpenClip(checkpoint) => match checkpoint.config.architecture() {
            Architecture::Coca => "CoCa, captions and scores",
            Architecture::Siglip => "SigLIP, scores",
            _ => "CLIP, scores",
        },
        AnyCheckpoint::Blip(checkpoint) => match checkpoint.config.task {
            BlipTask::Captions => "BLIP, captions; another model scores them",
            BlipTask::Retrieval { .. } => "BLIP, scores and matches texts with images (ITM)",
        },
        AnyCheckpoint::Albef(_) => "ALBEF, scores and matches texts with images (ITM)",
    }
}

/// Returns the image's and the text's tower.
fn towers(checkpoint: &AnyCheckpoint) -> (Tower, Tower) {
    let (v, t) = match checkpoint {
        AnyCheckpoint::OpenClip(checkpoint) => {
            let (v, t) = (&checkpoint.config.vision, &checkpoint.config.text);
            let image = Tower { sizes: (v.image_size, v.patch_size), width: v.width, layers: v.layers };
            let text = Tower { sizes: (t.vocab_size, t.context_length), width: t.width, layers: t.layers };
            return (image, text);
        }
        AnyCheckpoint::Blip(checkpoint) => (&checkpoint.config.vision, &checkpoint.config.text),
        AnyCheckpoint::Albef(checkpoint) => (&checkpoint.config.vision, &checkpoint.config.text),
    };
    (
        Tower { sizes: (v.image_size, v.patch_size), width: v.width, layers: v.layers },
        Tower { sizes: (t.vocab_size, t.context_length), width: t.width, layers: t.layers },
    )
}
