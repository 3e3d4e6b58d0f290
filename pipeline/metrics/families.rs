//! Every metric, declared once. The text that is served and the table of the documentation are made from these.

use std::fmt::Write;

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Grows only, but for a restart.
    Counter,
    /// Any number.
    Gauge,
    /// Durations by size.
    Histogram,
}

/// Where a metric is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Served and in the file.
    Both,
    /// Served only: means nothing after the run, or node exporter has a metric of this name itself.
    Served,
    /// In the file only.
    File,
}

/// A metric.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) scope: Scope,
    /// One sentence, without line breaks.
    pub(super) help: &'static str,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $scope:ident: $help:literal;)*) => {
        $(pub(super) const $constant: Family = Family {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            scope: Scope::$scope,
            help: $help,
        };)*

        /// All metrics, in the order in which they are written.
        pub(super) const ALL: &[Family] = &[$($constant),*];
    };
}

families! {
    BUILD_INFO = Gauge "recaption_build_info" ["version"] Both: "Version of the program; the value is 1.";
    RUN_INFO = Gauge "recaption_run_info" ["output", "model", "scorer", "provider"] Served:
        "What the run computes with, and where its rows go; the value is 1.";
    RUN_START = Gauge "recaption_run_start_time_seconds" [] Both: "Unix time at which the run started.";
    RUN_PROGRESS = Gauge "recaption_run_progress_ratio" [] Served:
        "Estimated share of the work that is done, 0 to 1, by bytes of input.";
    RUN_REMAINING = Gauge "recaption_run_remaining_seconds" [] Served:
        "Estimated seconds until the run ends; missing as long as no sample has ended.";
    SAMPLES = Counter "recaption_samples_total" ["outcome"] Both:
        "Samples that ended: captioned, rejected, or kept from an earlier run. Samples of a shard that is retried count again.";
    REJECTS = Counter "recaption_rejects_total" ["reason"] Both: "Samples that were rejected, by reason.";
    STAGE_SAMPLES = Counter "recaption_stage_samples_total" ["stage"] Both: "Samples that passed a stage.";
    STAGE_BYTES = Counter "recaption_stage_bytes_total" ["stage"] Both:
        "Bytes that passed a stage: read from the input, encoded images, pixels, parts that were committed.";
    STAGE_BUSY = Counter "recaption_stage_busy_seconds_total" ["stage"] Both:
        "Seconds of a fully busy stage: its rate is the share of the stage's workers that work. The bottleneck is the busiest stage.";
    QUEUE_LENGTH = Gauge "recaption_queue_length" ["queue"] Served: "Samples that wait for a stage.";
    QUEUE_CAPACITY = Gauge "recaption_queue_capacity" ["queue"] Served:
        "Samples that may wait for a stage before the stage in front of it waits.";
    SLOTS_USED = Counter "recaption_decoder_slots_used_total" [] Both:
        "Slots with an image in them, summed over the decoder's steps. Divided by the slots offered: the fill of the batch.";
    SLOTS_OFFERED = Counter "recaption_decoder_slots_offered_total" [] Both: "All slots, summed over the decoder's steps.";
    TOKENS = Counter "recaption_tokens_total" [] Both: "Tokens of finished candidates, end tokens included.";
    MODEL_CALLS = Histogram "recaption_model_call_duration_seconds" ["call"] Both:
        "Duration of calls of the models: image encoder, decoder step, scorer.";
    DEVICE_UP = Gauge "recaption_device_up" ["device"] Both: "Whether a device works; 0 once it has failed.";
    DEVICE_IMAGES = Counter "recaption_device_images_total" ["device"] Both: "Images whose captions a device finished.";
    DEVICE_MEMORY_USED = Gauge "recaption_device_memory_used_bytes" ["device"] Served:
        "Memory of a GPU in use, by all processes.";
    DEVICE_MEMORY_TOTAL = Gauge "recaption_device_memory_total_bytes" ["device"] Served: "Memory of a GPU.";
    SHARDS = Gauge "recaption_shards" ["state"] Both:
        "Shards by state: skipped because an earlier run had done them, pending, open, done, failed, not_selected.";
    INPUT_BYTES = Gauge "recaption_input_bytes" [] Both: "Bytes of the shards that the run processes.";
    COMMITS = Histogram "recaption_commit_duration_seconds" [] Both:
        "Time from a shard's last row to its commit record, ends of uploads included.";
    STORE_REQUESTS = Counter "recaption_store_requests_total" ["operation"] Both:
        "Requests to stores, retries included; not those that cloud clients repeat by themselves.";
    STORE_RETRIES = Counter "recaption_store_retries_total" [] Both: "Requests to stores that were repeated.";
    WORKERS = Gauge "recaption_workers" [] Served: "Living workers of the output, this one included.";
    RESIDENT_MEMORY = Gauge "process_resident_memory_bytes" [] Served: "Resident memory size in bytes.";
    CPU_SECONDS = Counter "process_cpu_seconds_total" [] Served: "Total user and system CPU time spent in seconds.";
    PROCESS_START = Gauge "process_start_time_seconds" [] Served: "Start time of the process since unix epoch in seconds.";
    LAST_END = Gauge "recaption_last_run_timestamp_seconds" [] File: "Unix time at which the last run ended.";
    LAST_DURATION = Gauge "recaption_last_run_duration_seconds" [] File: "Duration of the last run.";
    LAST_EXIT = Gauge "recaption_last_run_exit_code" [] File: "Exit code of the last run.";
    LAST_SUCCESS = Gauge "recaption_last_success_timestamp_seconds" [] File:
        "Unix time at which the last run ended that left no new failure: with exit code 0 or 4. Missing as long as none did.";
}

/// Returns the page `docs/src/metrics-reference.md`.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(
        "# Metrics reference\n\n<!-- Generated by `recaption config metrics`; do not edit. -->\n\n\
         Of `recaption run` and `recaption retry`; [Monitoring](monitoring.md) says how to get and read them. *Served* is \
         `--metrics-addr`, *file* is `--metrics-file`, where every metric has the label `output` too.\n\n\
         | metric | type | labels | where | meaning |\n|---|---|---|---|---|\n",
    );
    for family in ALL {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let place = match family.scope {
            Scope::Both => "served, file",
            Scope::Served => "served",
            Scope::File => "file",
        };
        let (name, kind, help) = (family.name, family.kind.as_str(), family.help);
        // Writing to a string cannot fail.
        let _ = writeln!(page, "| `{name}` | {kind} | {} | {place} | {help} |", labels.join(", "));
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The conventions of Prometheus: names in base units, `_total` for counters and only for them, one help text.
    #[test]
    fn names_follow_the_conventions() {
        let mut seen = HashSet::new();
        for family in ALL {
            let name = family.name;
            assert!(seen.insert(name), "{name} is declared twice");
            let letters = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            assert!(letters && (name.starts_with("recaption_") || name.starts_with("process_")), "{name}");
            assert_eq!(name.ends_with("_total"), family.kind == Kind::Counter, "{name}");
            assert!(family.kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
            assert!(family.help.ends_with('.') && !family.help.contains('\n'), "{name}: {}", family.help);
            assert!(!family.labels.contains(&"le") && !family.labels.contains(&"job"), "{name}");
        }
    }
}
