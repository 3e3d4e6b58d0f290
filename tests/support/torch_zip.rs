//! Writes the tensors of a safetensors file as `torch.save` would: one storage each, a pickle of protocol 2, a zip of stored
//! entries. That torch writes the same kind of file is shown by the files of `tests/data/torch`, which torch wrote.

use flate2::Crc;
use serde_json::Value;

/// Returns the bytes of a state dict with the tensors of `safetensors` and an int64 buffer `name`, if any.
pub(crate) fn from_safetensors(safetensors: &[u8], buffer: Option<&str>) -> Vec<u8> {
    let header_len = u64::from_le_bytes(safetensors[..8].try_into().expect("eight bytes"));
    let (header, data) = safetensors[8..].split_at(usize::try_from(header_len).expect("a length"));
    let header: Value = serde_json::from_slice(header).expect("a directory");
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    let mut entries = Vec::new();
    let tensors = header.as_object().expect("tensors").iter().filter(|(name, _)| *name != "__metadata__");
    for (name, tensor) in tensors {
        let numbers = |key: &str| -> Vec<usize> {
            let list = tensor[key].as_array().expect("a list").iter();
            list.map(|n| usize::try_from(n.as_u64().expect("a number")).expect("small")).collect()
        };
        let (class, size) = match tensor["dtype"].as_str() {
            Some("F32") => ("FloatStorage", 4),
            Some("F16") => ("HalfStorage", 2),
            Some("BF16") => ("BFloat16Storage", 2),
            other => panic!("{other:?}"),
        };
        let offsets = numbers("data_offsets");
        let bytes = &data[offsets[0]..offsets[1]];
        add(&mut pickle, name, class, entries.len(), bytes.len() / size, &numbers("shape"));
        entries.push((format!("model/data/{}", entries.len()), bytes.to_vec()));
    }
    if let Some(name) = buffer {
        add(&mut pickle, name, "LongStorage", entries.len(), 3, &[1, 3]);
        entries.push((format!("model/data/{}", entries.len()), vec![7; 24]));
    }
    pickle.extend(b"u.");
    entries.insert(0, ("model/data.pkl".into(), pickle));
    entries.push(("model/byteorder".into(), b"little".to_vec()));
    entries.push(("model/version".into(), b"3\n".to_vec()));
    zip(&entries)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend(u32::try_from(text.len()).expect("short").to_le_bytes());
    out.extend(text.as_bytes());
}

fn number(out: &mut Vec<u8>, number: usize) {
    out.push(b'J');
    out.extend(u32::try_from(number).expect("small").to_le_bytes());
}

fn add(out: &mut Vec<u8>, name: &str, class: &str, key: usize, count: usize, shape: &[usize]) {
    text(out, name);
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(out, "storage");
    out.extend(format!("ctorch\n{class}\n").as_bytes());
    text(out, &key.to_string());
    text(out, "cpu");
    number(out, count);
    out.extend(b"tQ");
    number(out, 0);
    let strides: Vec<usize> = (0..shape.len()).map(|at| shape[at + 1..].iter().product()).collect();
    for list in [shape, &strides] {
        out.push(b'(');
        list.iter().for_each(|side| number(out, *side));
        out.push(b't');
    }
    out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
}

/// A zip file of stored entries.
fn zip(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let mut crc = Crc::new();
        crc.update(bytes);
        let size = u32::try_from(bytes.len()).expect("small");
        let mut fields = vec![0; 10];
        fields[0] = 20;
        fields.extend(crc.sum().to_le_bytes());
        fields.extend([size.to_le_bytes(), size.to_le_bytes()].concat());
        fields.extend(u16::try_from(name.len()).expect("short").to_le_bytes());
        fields.extend([0, 0]);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&fields);
        directory.extend([0; 10]);
        directory.extend(u32::try_from(out.len()).expect("small").to_le_bytes());
        directory.extend(name.as_bytes());
        out.extend(b"PK\x03\x04");
        out.extend(&fields);
        out.extend(name.as_bytes());
        out.extend(bytes);
    }
    let count = u16::try_from(entries.len()).expect("few").to_le_bytes();
    let (start, size) = (out.len(), directory.len());
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([count, count].concat());
    out.extend(u32::try_from(size).expect("small").to_le_bytes());
    out.extend(u32::try_from(start).expect("small").to_le_bytes());
    out.extend([0, 0]);
    out
}
