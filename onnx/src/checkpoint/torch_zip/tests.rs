//! torch's own files, damaged ones, and pickles that no torch writes.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

use safetensors::Dtype;

use super::{Pickle, archive::Place, state_dict};
use crate::checkpoint::{TensorReader, entry::Entry};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/torch").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(data(name)).expect("a fixture")
}

/// Opens a file with these bytes; an error is its text.
fn open(bytes: &[u8]) -> Result<TensorReader, String> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("written");
    TensorReader::open(file.path()).map_err(|error| error.to_string())
}

/// Names, types, shapes and bytes of all tensors.
fn contents(path: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let reader = TensorReader::open(path).expect("a file of tensors");
    let of = |name: &str| {
        let (dtype, shape) = (reader.dtype(name).expect("a type"), reader.shape(name).expect("a shape"));
        (name.to_owned(), (dtype, shape.to_vec(), reader.bytes(name).expect("bytes")))
    };
    reader.names().map(of).collect()
}

#[test]
fn tensors_of_every_kind_equal_safetensors() {
    let expected = contents(&data("tricky.safetensors"));
    assert_eq!(expected.len(), 21);
    for name in ["tricky.pt", "parallel.pt", "protocol4.pt"] {
        assert_eq!(contents(&data(name)), expected, "{name}");
    }
}

#[test]
fn buffers_of_whole_numbers_are_no_parameters() {
    let reader = TensorReader::open(&data("tricky.pt")).expect("a file");
    let floats: Vec<String> = reader.names().map(str::to_owned).collect();
    let floats = floats.iter().filter(|name| reader.get(name, reader.shape(name).expect("a shape")).is_ok());
    assert_eq!(floats.count(), 14);
    reader.finish().expect("what is left are buffers");
    let without = 48 + 8 + 10 + 48 + 9 + 24 + 12 + 1 + 6 + 5 + 5 + 6 + 4;
    assert_eq!(reader.parameters(), without);
}

#[test]
fn other_things_than_tensors_are_refused_by_name() {
    for (name, want) in [
        ("hostile.bin", "data.pkl asks for `posix.system`; only tensors are read"),
        ("hostile4.bin", "data.pkl asks for `posix.system`; only tensors are read"),
        ("text.bin", "`text` is not a tensor"),
        ("module.bin", "data.pkl asks for `torch.nn.modules.linear.Linear`"),
        ("script.pt", "TorchScript"),
        ("old.bin", "from before version 1.6"),
        ("big_endian.bin", "big-endian"),
        ("compressed.bin", "is compressed"),
    ] {
        let error = TensorReader::open(&data(name)).expect_err(name).to_string();
        assert!(error.contains(want) && error.contains(name), "{name}: {error}");
    }
    assert!(!Path::new("RECAPTION_HOSTILE_WAS_RUN").exists());
}

#[test]
fn truncated_files_are_errors() {
    let whole = bytes("tricky.pt");
    for length in (0..whole.len()).step_by(13) {
        open(&whole[..length]).expect_err("a truncated file");
    }
    let error = open(&whole[..whole.len() - 1]).expect_err("truncated");
    assert!(error.contains("truncated"), "{error}");
}

#[test]
fn damaged_bytes_never_panic() {
    let whole = bytes("small.bin");
    for at in 0..whole.len() {
        for flipped in [0x01, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= flipped;
            if let Ok(reader) = open(&damaged) {
                for name in reader.names() {
                    // Values may differ; no more memory than the file has may be used.
                    assert!(reader.bytes(name).is_ok_and(|bytes| bytes.len() <= whole.len()));
                }
            }
        }
    }
}

#[test]
fn damaged_pickles_are_told_by_their_checksum() {
    let mut damaged = bytes("small.bin");
    let at = damaged.windows(6).position(|window| window == b"weight").expect("the name");
    damaged[at] ^= 1;
    let error = open(&damaged).expect_err("damaged");
    assert!(error.contains("its checksum differs"), "{error}");
}

/// A pickle of one tensor `t`: a storage of `count` floats, and a view of it.
fn one_tensor(count: u32, offset: u32, shape: &[u32], strides: &[u32]) -> Vec<u8> {
    let number = |n: &u32| [b"J".as_slice(), &n.to_le_bytes()].concat();
    let numbers = |list: &[u32]| {
        let items: Vec<u8> = list.iter().flat_map(number).collect();
        [b"(".as_slice(), &items, b"t"].concat()
    };
    let mut out =
        b"\x80\x02}X\x01\0\0\0tctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
            .to_vec();
    out.extend(b"X\x01\0\0\x000X\x03\0\0\0cpu");
    out.extend(number(&count));
    out.extend(b"tQ");
    out.extend(number(&offset));
    out.extend(numbers(shape));
    out.extend(numbers(strides));
    out.extend(b"\x89NtRs.");
    out
}

/// Interprets a pickle whose storages all have 64 bytes, in a file of 1,000.
fn read(pickle: &[u8]) -> Result<BTreeMap<String, Entry>, String> {
    let parsed = Pickle::parse(pickle).map_err(|error| error.to_string())?;
    state_dict::tensors(&parsed, |key| (key == "0").then_some(Place { start: 100, len: 64 }), 1000)
}

#[test]
fn views_lie_within_their_storage() {
    let entry = &read(&one_tensor(16, 4, &[2, 3], &[4, 1])).expect("a view")["t"];
    assert_eq!((entry.start, entry.len, entry.strides.as_deref()), (116, 24, Some([4, 1].as_slice())));
    let contiguous = &read(&one_tensor(16, 4, &[3, 4], &[4, 1])).expect("a view")["t"];
    assert_eq!((contiguous.start, contiguous.len, contiguous.strides.as_deref()), (116, 48, None));
    let big = i32::MAX.cast_unsigned();
    for (count, offset, shape, strides, want) in [
        (17, 0, &[17][..], &[1][..], "its storage has 64 bytes"),
        (16, 9, &[2, 4], &[4, 1], "ends behind its storage"),
        (16, 0, &[2, 2], &[16, 1], "ends behind its storage"),
        (16, big, &[1], &[1], "ends behind its storage"),
        (16, 0, &[2, 2], &[big, big], "ends behind its storage"),
        (16, 0, &[big, big, big, big], &[0, 0, 0, 0], "larger than the file"),
        (16, 0, &[300], &[0], "larger than the file"),
        (16, 0, &[4], &[1, 1], "more dimensions than strides"),
        (16, 0, &[u32::MAX], &[1], "no whole numbers"),
    ] {
        let error = read(&one_tensor(count, offset, shape, strides)).expect_err(want);
        assert!(error.contains(want), "{shape:?} {strides:?}: {error}");
    }
}

#[test]
fn odd_pickles_are_refused() {
    let deep = [b"\x80\x02".as_slice(), &b"]".repeat(100_000), &b"a".repeat(99_999), b"."].concat();
    for (pickle, want) in [
        (b"".as_slice(), "truncated"),
        (b"\x80\x02", "truncated"),
        (b"\x80\x02.", "a value is missing"),
        (b"\x80\x09N.", "protocol"),
        (b"\x80\x02N.", "holds no dictionary"),
        (deep.as_slice(), "holds no dictionary"),
        (b"\x80\x02}K\x01Ns.", "a key that is no text"),
        (b"\x80\x02}(N.", "holds no dictionary"),
        (b"\x80\x02N(u.", "what is no dictionary"),
        (b"\x80\x02h\x07.", "before it is made"),
        (b"\x80\x02c__builtin__\neval\n.", "asks for `__builtin__.eval`"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.", "asks for `builtins.exec`"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "other arguments than torch writes"),
        (b"\x80\x02(S'x'\no.", "instruction 0x53"),
        (b"\x80\x02ctorch\nSize\n)\x81.", "instruction 0x81"),
        (b"\x80\x02X\xff\xff\xff\xffa.", "truncated"),
        (b"\x80\x02X\x01\0\0\0\xff.", "not UTF-8"),
        (b"\x80\x02N}b.", "attributes of what is no dictionary"),
        (b"\x80\x02)Q.", "not a storage"),
        (b"\x80\x02c\x1b[31mred\nevil\n.", "asks for `\\u{1b}[31mred.evil`"),
    ] {
        let error = read(pickle).expect_err(want);
        assert!(error.contains(want), "{want}: {error}");
    }
}
