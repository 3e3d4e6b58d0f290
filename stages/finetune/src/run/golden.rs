//! Golden files: burn's outputs, for `recaption verify`.

use std::path::Path;

use anyhow::Context;
use burn::tensor::{DType, Device, Tensor};
use recaption_onnx::{checkpoint::Dtype, model::SpecialIds};

use crate::{
    batch::Batch,
    file::write_atomically,
    model::Coca,
    stored_tensor::{FileTensor, StoredTensor},
};

/// Writes burn's outputs for `batch` as a golden file that `recaption verify` reads, with its settings in a `.json` beside it.
///
/// # Errors
/// Fails when the files cannot be written.
pub fn write_golden(path: &Path, model: &Coca, batch: &Batch, device: &Device) -> anyhow::Result<()> {
    let c = &model.config;
    let inputs = batch.to_device(c, device);
    let [n, length] = inputs.texts.ids.dims();
    let output = model.without_autodiff().forward(inputs.patches, &inputs.texts, true, true);
    let ids: Vec<i64> = inputs.texts.ids.cast(DType::I64).into_data_as::<i64>().try_into_vec()?;
    let text = output.text_features.context("no text features")?;
    let logits = output.logits.context("no logits")?;
    let side = c.vision.image_size;
    let floats = |x: Tensor<2>, shape: &[usize]| -> anyhow::Result<FileTensor> {
        let values: Vec<f32> = x.into_data_as::<f32>().try_into_vec()?;
        Ok(FileTensor::Floats(StoredTensor::new("golden", shape, &values, Dtype::F32)?))
    };
    let tensors = vec![
        ("images", FileTensor::Bytes(Dtype::U8, vec![n, side, side, 3], batch.pixels.clone())),
        ("text", FileTensor::integers(&[n, length], &ids)),
        ("image_features", floats(output.image_features, &[n, c.embed_dim])?),
        ("text_features", floats(text, &[n, c.embed_dim])?),
        ("logits", floats(logits, &[n, length - 1, c.text.vocab_size])?),
    ];
    write_atomically(path, &safetensors::serialize(tensors, None)?)?;
    let special = SpecialIds::of_vocabulary(c.text.vocab_size);
    let settings = serde_json::json!({ "sot": special.start, "eos": special.end, "pad": special.pad });
    Ok(write_atomically(&path.with_extension("json"), format!("{settings}\n").as_bytes())?)
}
