//! How many images fit into a budget of memory, computed before anything is allocated.

use super::{settings::CaptionSettings, slot_decoder::SlotDecoder};
use crate::runtime::RuntimeError;

/// Returns the number of slots that `cache_bytes` holds, at most `max_slots`. Each slot has its caches, and `batches`
/// encoded batches of `encode_batch` images wait for slots with their cross-attention keys and values.
///
/// # Errors
/// When a single image does not fit.
pub(super) fn fitting_slots(
    decoder: &dyn SlotDecoder,
    settings: &CaptionSettings,
    encode_batch: usize,
    batches: u64,
) -> Result<usize, RuntimeError> {
    let (slot, cross) = (decoder.slot_bytes() as u64, batches * decoder.cross_bytes() as u64);
    let batch = encode_batch.min(settings.max_slots) as u64;
    let fitting = if settings.cache_bytes / batch >= slot + cross {
        (settings.cache_bytes - batch * cross) / slot
    } else {
        settings.cache_bytes / (slot + cross)
    };
    if fitting == 0 {
        return Err(RuntimeError::Input(format!(
            "one image needs {:.1} MB for its {} rows of caches and its cross-attention keys and values, but cache_bytes allows {:.1} MB (per copy of the model): raise it, or use fewer beams, candidates or tokens",
            (slot + cross) as f64 / 1e6,
            settings.rows_per_image(),
            settings.cache_bytes as f64 / 1e6
        )));
    }
    let slots = settings.max_slots.min(usize::try_from(fitting).unwrap_or(usize::MAX));
    if slots < settings.max_slots {
        tracing::info!(
            images = slots,
            requested = settings.max_slots,
            "cache_bytes holds fewer images than batch_size"
        );
    }
    Ok(slots)
}
