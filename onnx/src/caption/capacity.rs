//! How many images fit into a budget of memory, computed before anything is allocated.

use super::settings::CaptionSettings;
use crate::{
    model::ModelFolder,
    runtime::{Decoder, RuntimeError, SessionOptions, SlotBytes},
};

/// Encoded batches that are in memory while all slots of a device are occupied: one waits while the next is encoded.
const DEVICE_ENCODED_BATCHES: u64 = 2;

/// The memory that generating takes in one copy of a model: a generator allocates exactly this, when all slots are occupied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotMemory {
    /// Images in flight, at least 1.
    pub slots: usize,
    /// Bytes of one slot: self-attention caches, cross-attention keys and values, logits.
    pub slot_bytes: u64,
    /// Bytes of encoded images that wait for slots.
    pub encoded_bytes: u64,
}

impl SlotMemory {
    /// Returns the slots that `settings.cache_bytes` holds, at most `settings.max_slots`, of a model that is not loaded. Each slot
    /// has its caches, and encoded batches wait for slots with their cross-attention keys and values.
    ///
    /// # Errors
    /// When a single image does not fit, or the settings do not fit the model.
    pub fn of(
        model: &ModelFolder,
        options: &SessionOptions,
        settings: &CaptionSettings,
    ) -> Result<Self, RuntimeError> {
        let bytes = Decoder::slot_bytes_of(model, settings.cache_length(), settings.rows_per_image())?;
        let batches = if options.memory().is_some() { DEVICE_ENCODED_BATCHES } else { 1 };
        let batch = options.execution.encode_batch(model).min(settings.max_slots) as u64;
        fit(bytes, settings, batch, batches)
    }

    /// Returns the bytes of all slots and of the images that wait for them.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        (self.slots as u64).saturating_mul(self.slot_bytes).saturating_add(self.encoded_bytes)
    }
}

fn fit(
    bytes: SlotBytes,
    settings: &CaptionSettings,
    batch: u64,
    batches: u64,
) -> Result<SlotMemory, RuntimeError> {
    let (slot, cross) = (bytes.slot as u64, batches * bytes.cross as u64);
    let whole_batch = settings.cache_bytes / batch >= slot + cross;
    let fitting = if whole_batch {
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
    let waiting = if whole_batch { batch } else { fitting };
    Ok(SlotMemory { slots, slot_bytes: slot, encoded_bytes: waiting.min(batch) * cross })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_waiting_batches_fit_the_budget() {
        let bytes = SlotBytes { slot: 1000, cross: 100 };
        let with = |cache_bytes, max_slots| CaptionSettings {
            cache_bytes,
            ..CaptionSettings::greedy(20, 1, max_slots)
        };
        let all = fit(bytes, &with(u64::MAX, 32), 8, 1).expect("it fits");
        assert_eq!(all, SlotMemory { slots: 32, slot_bytes: 1000, encoded_bytes: 800 });
        assert_eq!(all.total_bytes(), 32_800);
        for budget in [1_100, 5_000, 8_800, 20_000, 40_000] {
            for batches in [1, 2] {
                let Ok(memory) = fit(bytes, &with(budget, 32), 8, batches) else {
                    assert!(budget < 1_200, "{budget}");
                    continue;
                };
                assert!(memory.total_bytes() <= budget, "{memory:?} in {budget}");
            }
        }
        let error = fit(bytes, &with(1_099, 32), 8, 1).expect_err("too little").to_string();
        assert!(error.contains("raise it"), "{error}");
    }
}
