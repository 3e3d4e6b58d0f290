//! The disk space of a run's output.

use recaption_store::{Location, StoreKind};
use serde::Serialize;

use super::{
    images::Images,
    machine::free_disk,
    memory::pending_bytes,
    problem::{Findings, Subject},
    work::Work,
};
use crate::{config::RunConfig, preview::PreviewRecord};

/// Bytes of an output row without an image, before any shard is done: texts, candidates and digests, compressed.
const ROW_BYTES: u64 = 400;

/// Disk space for the output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Bytes of the parts of the pending shards, or of those that --limit reads; an estimate.
    pub needed_bytes: u64,
    /// Free bytes of the file system.
    pub free_bytes: u64,
}

/// What takes disk space.
#[derive(Clone, Copy)]
pub(super) struct DiskUse<'a> {
    /// Shards that are done and pending.
    pub(super) work: &'a Work,
    /// Their images.
    pub(super) images: &'a Images,
    /// Number of images that are read.
    pub(super) to_read: u64,
    /// A preview of such a run.
    pub(super) preview: Option<&'a PreviewRecord>,
}

/// Compares the output's size with the free disk space, where the output is on this machine.
pub(super) fn disk_of(
    config: &RunConfig,
    output: Option<&Location>,
    pending: DiskUse<'_>,
    findings: &mut Findings,
) -> Option<Disk> {
    let output = output.filter(|output| output.kind == StoreKind::Local)?;
    let DiskUse { work, images, to_read, .. } = pending;
    let free_bytes = free_disk(&output.local_path())?;
    let (bytes, rows) = work
        .done
        .iter()
        .fold((0_u64, 0_u64), |(bytes, rows), done| (bytes + done.part_bytes, rows + done.samples));
    let per_row = bytes.checked_div(rows).unwrap_or(ROW_BYTES);
    // The parts of shards that are done hold their images already.
    let copies = u64::from(config.output.embed_images) + u64::from(config.output.webdataset);
    let stored = if rows == 0 { pending.stored_bytes(copies, findings) } else { 0 };
    let all_bytes = images.pending.saturating_mul(per_row).saturating_add(stored);
    let needed_bytes =
        (all_bytes as f64 * share_read(to_read, images.pending, work.pending.len())).round() as u64;
    if needed_bytes > free_bytes {
        let shown = |bytes| indicatif::HumanBytes(bytes).to_string();
        let what =
            format!("the output needs about {}, and {} are free", shown(needed_bytes), shown(free_bytes));
        findings.add(
            Subject::Disk,
            output.url(),
            what,
            "make room, or choose an output on another disk or in a bucket",
        );
    }
    Some(Disk { needed_bytes, free_bytes })
}

impl DiskUse<'_> {
    /// Returns the bytes of all pending images, which are stored `copies` times. Shards hold the bytes of theirs; those that lists
    /// name are as large as those of the preview.
    fn stored_bytes(self, copies: u64, findings: &mut Findings) -> u64 {
        let lists = self.images.lists;
        let mut bytes = pending_bytes(self.work).saturating_sub(lists.bytes);
        if copies > 0 && lists.images > 0 {
            match self.preview.and_then(|preview| preview.bytes_per_image) {
                Some(mean) => bytes = bytes.saturating_add((lists.images as f64 * mean) as u64),
                None => findings.note(
                    "the size of images that lists name is unknown: their disk space is that of the rows alone; give a preview as --preview",
                ),
            }
        }
        bytes.saturating_mul(copies)
    }
}

/// Returns the share of the pending images that is read until there are `to_read`: shards are read whole.
fn share_read(to_read: u64, pending: u64, shards: usize) -> f64 {
    if to_read >= pending {
        return 1.0;
    }
    let per_shard = pending as f64 / shards.max(1) as f64;
    let read_shards = (to_read as f64 / per_shard).ceil();
    (read_shards / shards.max(1) as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limited_runs_need_the_space_of_whole_shards() {
        for (to_read, pending, shards, share) in [
            (100, 100, 4, 1.0),
            (50, 100, 4, 0.5),
            (26, 100, 4, 0.5),
            (1, 100, 4, 0.25),
            (0, 0, 0, 1.0),
            (1, 3, 9, 1.0 / 3.0),
        ] {
            let found = share_read(to_read, pending, shards);
            assert!((found - share).abs() < 1e-9, "{to_read} of {pending} in {shards}: {found}");
        }
    }
}
