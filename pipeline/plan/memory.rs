//! The memory that a run takes, by the sizes that the run itself computes.

use recaption_caption::score_group;
use recaption_onnx::{
    caption::{CaptionSettings, SlotMemory},
    runtime::{Execution, SessionOptions},
};
use recaption_output::ROW_GROUP_BYTES;
use serde::Serialize;

use super::{
    images::Images,
    machine::MachineMemory,
    models::Models,
    problem::{Findings, Subject},
    work::Work,
};
use crate::{
    config::RunConfig,
    run::{MIN_CAPTION_QUEUE, RunModel, copies_and_threads},
};

/// Memory of a row group of Parquet as a multiple of its compressed bytes, at most (measured: 1.3 to 2.3).
const ROW_GROUP_FACTOR: f64 = 2.3;
/// Memory of the program and of ONNX Runtime without a model, measured on Linux.
const BASE_BYTES: u64 = 80 << 20;
/// Bytes in memory of an output row without an image, before it is compressed.
const ROW_BYTES_IN_MEMORY: u64 = 1024;

/// A use of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    /// What for.
    pub what: &'static str,
    /// Bytes.
    pub bytes: u64,
    /// Whether that is an upper bound, which a run seldom reaches.
    pub is_bound: bool,
    /// Whether it is memory of each GPU and not of the machine.
    pub on_gpu: bool,
}

/// The memory of a run and of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What takes memory.
    pub uses: Vec<MemoryUse>,
    /// What a run takes in any case.
    pub needed_bytes: u64,
    /// What it takes at most, with all bounds reached.
    pub most_bytes: u64,
    /// The same on each GPU; 0 on the CPU.
    pub gpu_bytes: u64,
    /// What the machine has; `None` where that is unknown.
    pub machine: Option<MachineMemory>,
}

/// Returns the slots of one copy of the model. Settings that leave no room for a single image are a problem.
pub(super) fn slots_of(config: &RunConfig, models: &Models, findings: &mut Findings) -> Option<SlotMemory> {
    let (model, execution) = (models.model.as_ref()?, *models.executions.first()?);
    let (copies, threads) = copies_and_threads(config, model, execution);
    let options = SessionOptions { execution, ..SessionOptions::on_cpu(threads) };
    let cache_bytes = model.settings.cache_bytes / copies as u64;
    let settings = CaptionSettings { cache_bytes, ..model.settings.clone() };
    match SlotMemory::of(&model.folder, &options, &settings) {
        Ok(slots) => Some(slots),
        Err(error) => {
            let place = format!("run.cache_bytes = {}", config.resources.cache_bytes);
            findings.add(
                Subject::Memory,
                place,
                error.to_string(),
                "raise run.cache_bytes, or lower what it says",
            );
            None
        }
    }
}

/// Adds up the memory that a run takes, and compares it with the machine's.
pub(super) fn memory_of(
    config: &RunConfig,
    models: &Models,
    slots: Option<SlotMemory>,
    (work, images): (&Work, &Images),
    findings: &mut Findings,
) -> Option<Memory> {
    let (model, execution) = (models.model.as_ref()?, *models.executions.first()?);
    let mut uses = of_models(config, (model, execution), slots);
    uses.extend(of_data(config, work, images));
    let sum = |keep: &dyn Fn(&MemoryUse) -> bool| {
        uses.iter().filter(|one| keep(one)).map(|one| one.bytes).fold(0, u64::saturating_add)
    };
    let memory = Memory {
        needed_bytes: sum(&|one| !one.on_gpu && !one.is_bound),
        most_bytes: sum(&|one| !one.on_gpu),
        gpu_bytes: sum(&|one| one.on_gpu),
        machine: MachineMemory::read(),
        uses,
    };
    compare(&memory, findings);
    Some(memory)
}

/// What the models take: on the CPU each copy has its weights and slots; on a GPU they are in its memory.
fn of_models(
    config: &RunConfig,
    (model, execution): (&RunModel, Execution),
    slots: Option<SlotMemory>,
) -> Vec<MemoryUse> {
    let (copies, _) = copies_and_threads(config, model, execution);
    let (copies, on_gpu) = (copies as u64, execution.is_gpu());
    let weights: u64 = model.folders().flat_map(|folder| &folder.spec.files).map(|file| file.size).sum();
    let slot_bytes = slots.map_or(0, |slots| slots.total_bytes());
    let pixels = |side: u32| u64::from(side) * u64::from(side) * 3;
    let scorer = model.scorer_preprocessing().map_or(0, |wanted| pixels(wanted.size));
    let image = pixels(model.folder.spec.preprocessing.size) + scorer;
    let queue = model.settings.max_slots.max(MIN_CAPTION_QUEUE) + 2 * config.resources.threads;
    let mut uses = vec![
        MemoryUse { what: "the program and ONNX Runtime", bytes: BASE_BYTES, is_bound: false, on_gpu: false },
        MemoryUse {
            what: "weights of the models",
            bytes: copies.saturating_mul(weights),
            is_bound: false,
            on_gpu,
        },
        MemoryUse {
            what: "images in slots, with those that wait for one",
            bytes: copies.saturating_mul(slot_bytes),
            is_bound: false,
            on_gpu,
        },
        MemoryUse {
            what: "decoded images that wait for the captioner",
            bytes: (queue as u64).saturating_mul(image),
            is_bound: false,
            on_gpu: false,
        },
    ];
    if let Some(fusion) =
        model.scorer.as_ref().filter(|_| model.itm_top_k(config) > 0).and_then(|s| s.fusion().ok())
    {
        // Twice: by image, and together for the call.
        let tokens = 2 * size_of::<f32>() * fusion.image_tokens * fusion.image_width;
        let bytes = copies.saturating_mul((score_group(execution.is_gpu()) * tokens) as u64);
        uses.push(MemoryUse {
            what: "tokens of images that are matched",
            bytes,
            is_bound: false,
            on_gpu: false,
        });
    }
    uses
}

/// What the samples take on their way.
fn of_data(config: &RunConfig, work: &Work, images: &Images) -> Vec<MemoryUse> {
    let bound = |what, bytes| MemoryUse { what, bytes, is_bound: true, on_gpu: false };
    let readers = config.input.concurrent_shards as u64;
    let mut uses = vec![
        bound("encoded images (input.buffer_bytes)", config.input.buffer_bytes as u64),
        bound("images being decoded (input.decode_bytes)", config.input.decode.budget_bytes),
    ];
    if images.row_group_bytes > 0 {
        let group = (images.row_group_bytes as f64 * ROW_GROUP_FACTOR) as u64;
        let open = readers.min(work.pending.len() as u64);
        let what = "row groups of Parquet inputs, one for each of input.concurrent_shards";
        uses.push(MemoryUse { what, bytes: open.saturating_mul(group), is_bound: false, on_gpu: false });
    }
    let shards = (work.pending.len() as u64).max(1);
    let per_shard = images.pending / shards;
    let rows = per_shard.saturating_mul(ROW_BYTES_IN_MEMORY);
    let stored = if config.output.embed_images { pending_bytes(work) / shards } else { 0 };
    let part = rows.saturating_add(stored).min(ROW_GROUP_BYTES as u64);
    uses.push(bound(
        "rows that wait for their part, of the shards being read",
        readers.min(shards).saturating_mul(part),
    ));
    let fetch = config.input.read.fetcher.as_ref().map(|fetcher| fetcher.settings());
    if let Some(fetch) = fetch.filter(|_| images.lists.images > 0) {
        let bytes = (fetch.concurrency as u64).saturating_mul(fetch.max_bytes);
        uses.push(bound("images being fetched (fetch.concurrency times fetch.max_bytes)", bytes));
    }
    uses
}

pub(super) fn pending_bytes(work: &Work) -> u64 {
    work.pending.iter().map(|pending| pending.shard.bytes()).fold(0, u64::saturating_add)
}

fn compare(memory: &Memory, findings: &mut Findings) {
    let Some(machine) = &memory.machine else {
        findings.note("the memory of this machine is unknown");
        return;
    };
    let remedy = "lower model.sessions, run.batch_size, run.cache_bytes or input.concurrent_shards, or use a larger machine";
    let shown = |bytes| indicatif::HumanBytes(bytes).to_string();
    if memory.needed_bytes > machine.limit_bytes {
        let (needed, limit) = (shown(memory.needed_bytes), shown(machine.limit_bytes));
        let what = format!("a run needs {needed} of memory, and this machine has {limit}");
        findings.add(Subject::Memory, machine.limited_by, what, remedy);
    } else if memory.most_bytes > machine.free_bytes {
        let (most, free) = (shown(memory.most_bytes), shown(machine.free_bytes));
        findings.note(format!(
            "a run takes up to {most} of memory, and {free} are free now: if it is killed, lower input.decode_bytes, input.buffer_bytes or model.sessions"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_memory_is_a_problem_and_too_little_free_a_note() {
        let memory = |needed_bytes, most_bytes| Memory {
            uses: Vec::new(),
            needed_bytes,
            most_bytes,
            gpu_bytes: 0,
            machine: Some(MachineMemory { limit_bytes: 1000, free_bytes: 500, limited_by: "control group" }),
        };
        for (needed, most, problems, notes) in
            [(100, 400, 0, 0), (100, 600, 0, 1), (900, 900, 0, 1), (1001, 1001, 1, 0)]
        {
            let mut findings = Findings::default();
            compare(&memory(needed, most), &mut findings);
            assert_eq!((findings.problems.len(), findings.notes.len()), (problems, notes), "{needed} {most}");
        }
    }
}
