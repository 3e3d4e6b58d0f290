//! The monitor's numbers as text, in the order of the declarations.

use std::sync::atomic::Ordering::Relaxed;

use recaption_schemas::RejectReason;
use recaption_store::StoreOperation;

use super::{
    exposition::Exposition,
    families::{
        BUILD_INFO, COMMITS, CPU_SECONDS, DEVICE_IMAGES, DEVICE_MEMORY_TOTAL, DEVICE_MEMORY_USED, DEVICE_UP,
        INPUT_BYTES, MODEL_CALLS, PROCESS_START, QUEUE_CAPACITY, QUEUE_LENGTH, REJECTS, RESIDENT_MEMORY,
        RUN_INFO, RUN_PROGRESS, RUN_REMAINING, RUN_START, SAMPLES, SHARDS, SLOTS_OFFERED, SLOTS_USED,
        STAGE_BUSY, STAGE_BYTES, STAGE_SAMPLES, STORE_REQUESTS, STORE_RETRIES, Scope, TOKENS, WORKERS,
    },
    monitor::Monitor,
    process::{ProcessUsage, unix_seconds},
};
use crate::run::{Progress, QueueGauge, Stage};

/// Returns the metrics that are served.
pub(super) fn served_text(monitor: &Monitor) -> String {
    let mut out = Exposition::new(Scope::Served, None);
    write_all(monitor, &mut out);
    out.into_text()
}

/// Writes all metrics but those of the last run.
pub(super) fn write_all(monitor: &Monitor, out: &mut Exposition) {
    let progress = monitor.progress();
    write_run(monitor, out);
    write_samples(progress, out);
    write_stages(progress, out);
    write_captioners(progress, out);
    write_devices(monitor, out);
    write_shards(monitor, out);
    write_stores(monitor, out);
    write_process(out);
}

fn write_run(monitor: &Monitor, out: &mut Exposition) {
    let progress = monitor.progress();
    out.family(&BUILD_INFO).sample(&[env!("CARGO_PKG_VERSION")], 1);
    let mut info = out.family(&RUN_INFO);
    if let Some(facts) = monitor.facts() {
        let devices = progress.devices.as_ref().and_then(|devices| devices.all().first());
        let provider = devices.map_or("", |device| device.execution.as_str());
        info.sample(&[&facts.output, &facts.model, &facts.scorer, provider], 1);
    }
    out.single(&RUN_START, unix_seconds(monitor.started));
    out.single(&RUN_PROGRESS, progress.fraction());
    let mut remaining = out.family(&RUN_REMAINING);
    if let Some(seconds) = progress.remaining_seconds() {
        remaining.sample(&[], seconds);
    }
}

fn write_samples(progress: &Progress, out: &mut Exposition) {
    let outcomes = &progress.outcomes;
    let mut samples = out.family(&SAMPLES);
    samples.sample(&["captioned"], outcomes.captioned());
    samples.sample(&["rejected"], outcomes.rejected());
    samples.sample(&["kept"], outcomes.kept());
    let mut rejects = out.family(&REJECTS);
    for reason in RejectReason::ALL {
        rejects.sample(&[reason.as_str()], outcomes.rejected_for(reason));
    }
}

fn write_stages(progress: &Progress, out: &mut Exposition) {
    let stages = Stage::ALL.into_iter().zip(progress.reading().stages);
    let mut samples = out.family(&STAGE_SAMPLES);
    stages.clone().for_each(|(stage, reading)| samples.sample(&[stage.as_str()], reading.samples));
    let mut bytes = out.family(&STAGE_BYTES);
    stages.clone().for_each(|(stage, reading)| bytes.sample(&[stage.as_str()], reading.bytes));
    let mut busy = out.family(&STAGE_BUSY);
    stages.for_each(|(stage, reading)| busy.sample(&[stage.as_str()], reading.busy_seconds));
    let queues: [(Stage, &QueueGauge); 3] = [
        (Stage::Decode, &progress.decode_queue),
        (Stage::Caption, &progress.caption_queue),
        (Stage::Write, &progress.write_queue),
    ];
    let mut lengths = out.family(&QUEUE_LENGTH);
    queues.iter().for_each(|(stage, queue)| lengths.sample(&[stage.as_str()], queue.length()));
    let mut capacities = out.family(&QUEUE_CAPACITY);
    queues.iter().for_each(|(stage, queue)| capacities.sample(&[stage.as_str()], queue.capacity()));
}

fn write_captioners(progress: &Progress, out: &mut Exposition) {
    let counters = &progress.caption;
    out.single(&SLOTS_USED, counters.slots_used.load(Relaxed));
    out.single(&SLOTS_OFFERED, counters.slots_offered.load(Relaxed));
    out.single(&TOKENS, counters.tokens.load(Relaxed));
    let mut calls = out.family(&MODEL_CALLS);
    calls.histogram(&["image_encoder"], &counters.image_encoder.counts());
    calls.histogram(&["decoder_step"], &counters.decoder_step.counts());
    calls.histogram(&["scorer"], &counters.scorer.counts());
}

fn write_devices(monitor: &Monitor, out: &mut Exposition) {
    let devices = monitor.progress().devices.as_ref().map(|devices| devices.all()).unwrap_or_default();
    let name = |number: Option<u32>| number.map_or_else(|| "cpu".to_owned(), |number| number.to_string());
    let mut up = out.family(&DEVICE_UP);
    for device in devices {
        up.sample(&[&name(device.execution.device())], u8::from(device.is_working()));
    }
    let mut images = out.family(&DEVICE_IMAGES);
    for device in devices {
        images.sample(&[&name(device.execution.device())], device.images.load(Relaxed));
    }
    let memory = monitor.gpu_memory();
    let mut used = out.family(&DEVICE_MEMORY_USED);
    memory.iter().for_each(|gpu| used.sample(&[&gpu.device.to_string()], gpu.used_bytes));
    let mut total = out.family(&DEVICE_MEMORY_TOTAL);
    memory.iter().for_each(|gpu| total.sample(&[&gpu.device.to_string()], gpu.total_bytes));
}

fn write_shards(monitor: &Monitor, out: &mut Exposition) {
    let (progress, planned) = (monitor.progress(), monitor.planned_shards());
    let (done, failed) = (progress.committed.load(Relaxed), progress.failed.load(Relaxed));
    let open = progress.write.open_shards();
    let left_out = monitor.left_out();
    let pending = planned.todo.saturating_sub(done + failed + open + left_out);
    let mut shards = out.family(&SHARDS);
    for (state, count) in [
        ("skipped", planned.skipped),
        ("not_selected", planned.not_selected + left_out),
        ("pending", pending),
        ("open", open),
        ("done", done),
        ("failed", failed),
    ] {
        shards.sample(&[state], count);
    }
    out.single(&INPUT_BYTES, planned.bytes);
    out.family(&COMMITS).histogram(&[], &progress.write.commits().counts());
}

fn write_stores(monitor: &Monitor, out: &mut Exposition) {
    let stores = monitor.stores();
    let mut requests = out.family(&STORE_REQUESTS);
    for operation in StoreOperation::ALL {
        requests.sample(&[operation.as_str()], stores.requests(operation));
    }
    out.single(&STORE_RETRIES, stores.retried());
    out.single(&WORKERS, monitor.workers());
}

/// Where the operating system has no `/proc`, these metrics have no samples.
fn write_process(out: &mut Exposition) {
    let usage = ProcessUsage::now();
    let mut write = |family, value: Option<f64>| {
        let mut samples = out.family(family);
        if let Some(value) = value {
            samples.sample(&[], value);
        }
    };
    write(&RESIDENT_MEMORY, usage.as_ref().map(|usage| usage.resident_bytes as f64));
    write(&CPU_SECONDS, usage.as_ref().map(|usage| usage.cpu_seconds));
    write(&PROCESS_START, usage.as_ref().map(|usage| usage.start_seconds));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::families::ALL;

    #[test]
    fn every_declared_metric_is_written_once() {
        let text = served_text(&Monitor::default());
        for family in ALL.iter().filter(|family| family.scope != Scope::File) {
            let line = format!("# TYPE {} {}\n", family.name, family.kind.as_str());
            assert_eq!(text.matches(&line).count(), 1, "{line}\n{text}");
        }
    }
}
