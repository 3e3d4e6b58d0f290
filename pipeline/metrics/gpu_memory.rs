//! Memory of GPUs, as `nvidia-smi` prints it.
//!
//! ONNX Runtime knows its own arenas only, and a run shares its GPU with whatever else is on it. `nvidia-smi` comes with the
//! driver; where it is missing, or a GPU is divided (MIG), there is no metric.

use std::process::Command;

const MIB: u64 = 1 << 20;

/// Memory of one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GpuMemory {
    /// Its number, as CUDA counts.
    pub(super) device: u32,
    pub(super) used_bytes: u64,
    pub(super) total_bytes: u64,
}

/// Returns the memory of the GPUs of these numbers, as far as it is known. May take seconds.
pub(super) fn query(devices: &[u32]) -> Vec<GpuMemory> {
    let mut command = Command::new("nvidia-smi");
    command.args(["--query-gpu=index,uuid,memory.used,memory.total", "--format=csv,noheader,nounits"]);
    let Ok(output) = command.output() else { return Vec::new() };
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    parse(&String::from_utf8_lossy(&output.stdout), visible.as_deref(), devices)
}

/// Finds the rows of `devices`, whose numbers are positions in `visible` (`CUDA_VISIBLE_DEVICES`) where that is set.
fn parse(table: &str, visible: Option<&str>, devices: &[u32]) -> Vec<GpuMemory> {
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').map(str::trim).collect()).collect();
    let memory = |device: &u32| {
        let place = usize::try_from(*device).ok()?;
        let number = device.to_string();
        let id = match visible {
            Some(ids) => ids.split(',').nth(place)?.trim(),
            None => number.as_str(),
        };
        let matches = |row: &&Vec<&str>| match row.as_slice() {
            [index, uuid, ..] => *index == id || (id.starts_with("GPU-") && uuid.starts_with(id)),
            _ => false,
        };
        let row = rows.iter().find(matches)?;
        let bytes = |at: usize| Some(row.get(at)?.parse::<u64>().ok()? * MIB);
        Some(GpuMemory { device: *device, used_bytes: bytes(2)?, total_bytes: bytes(3)? })
    };
    devices.iter().filter_map(memory).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "0, GPU-aa11, 100, 81559\n1, GPU-bb22, 200, 81559\n2, GPU-cc33, [N/A], [N/A]\n";

    fn used(visible: Option<&str>, devices: &[u32]) -> Vec<(u32, u64)> {
        let found = parse(TABLE, visible, devices);
        found.iter().map(|gpu| (gpu.device, gpu.used_bytes / MIB)).collect()
    }

    #[test]
    fn numbers_are_those_that_cuda_sees() {
        assert_eq!(used(None, &[0, 1]), [(0, 100), (1, 200)]);
        assert_eq!(used(Some("1,0"), &[0, 1]), [(0, 200), (1, 100)]);
        assert_eq!(used(Some("GPU-bb"), &[0]), [(0, 200)]);
        assert_eq!(used(None, &[2, 3]), [], "no value, no metric");
        assert_eq!(parse("", None, &[0]), []);
    }
}
