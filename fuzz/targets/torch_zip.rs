//! Any bytes as a torch file, and as the pickle in one: no panic, no hang, and no tensor that is larger than its file.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use recaption_onnx::checkpoint::{TensorReader, torch_zip::Pickle};

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    if first & 1 == 0 {
        // As itself: checksums of a zip would stop most mutations before the pickle.
        drop(Pickle::parse(data));
        return;
    }
    let path = format!("/dev/shm/recaption-fuzz-{}.bin", std::process::id());
    std::fs::File::create(&path).and_then(|mut file| file.write_all(data)).expect("a file");
    if let Ok(reader) = TensorReader::open(path.as_ref()) {
        for name in reader.names() {
            let shape = reader.shape(name).expect("a tensor has a shape").to_vec();
            if let Ok(values) = reader.get(name, &shape) {
                assert!(values.len() <= data.len());
            }
        }
    }
});
