//! For tests: model folders with one wrong constant or node.

use std::path::{Path, PathBuf};

use prost::Message;

use crate::{
    ModelFolder, Precision, export,
    export::graph::DType,
    proto::{GraphProto, ModelProto, NodeProto, TensorProto},
};

/// Returns the path of a reference case of `tests/data/coca`.
pub(crate) fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/coca").join(name)
}

/// An exported checkpoint in a temporary folder.
pub(crate) struct Exported {
    dir: tempfile::TempDir,
    /// The exported model.
    pub model: ModelFolder,
}

impl Exported {
    pub(crate) fn new(name: &str, precision: Precision) -> Self {
        Self::of(&case(name), precision)
    }

    /// Exports any checkpoint.
    pub(crate) fn of(checkpoint: &Path, precision: Precision) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let model = export(checkpoint, &dir.path().join("model"), precision).expect("export");
        Self { dir, model }
    }

    /// Returns a copy, replacing an earlier one, that `change` was applied to.
    pub(crate) fn changed(&self, change: &dyn Fn(&ModelFolder)) -> ModelFolder {
        let copy = self.dir.path().join("changed");
        std::fs::create_dir_all(&copy).expect("folder");
        for entry in std::fs::read_dir(&self.model.dir).expect("folder") {
            let path = entry.expect("file").path();
            // Replaced, not rewritten: sessions may have mapped the file.
            let target = copy.join(path.file_name().expect("name"));
            let _ = std::fs::remove_file(&target);
            std::fs::copy(&path, target).expect("copied");
        }
        let model = ModelFolder::open(&copy).expect("a model");
        change(&model);
        model
    }
}

/// A constant in the weights file.
#[derive(Clone, Debug)]
pub(crate) struct Constant {
    pub name: String,
    pub dims: Vec<usize>,
    pub dtype: i32,
    pub file: String,
    pub offset: usize,
    pub length: usize,
}

/// Returns the constants of a graph that are in the weights file.
pub(crate) fn constants(model: &ModelFolder, graph: &str) -> Vec<Constant> {
    let proto = ModelProto::decode(&*std::fs::read(model.path(graph)).expect("a graph")).expect("ONNX");
    let tensors = proto.graph.expect("a graph").initializer;
    let constant = |tensor: &TensorProto| {
        let entry =
            |key: &str| tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value().to_owned());
        Some(Constant {
            name: tensor.name().to_owned(),
            dims: tensor.dims.iter().map(|d| *d as usize).collect(),
            dtype: tensor.data_type(),
            file: entry("location")?,
            offset: entry("offset")?.parse().expect("a number"),
            length: entry("length")?.parse().expect("a number"),
        })
    };
    tensors.iter().filter_map(constant).collect()
}

impl Constant {
    fn width(&self) -> usize {
        self.length / self.dims.iter().product::<usize>()
    }

    /// Changes the values of the constant, given and returned as f32.
    pub(crate) fn edit(&self, model: &ModelFolder, change: impl FnOnce(&mut [f32])) {
        let path = model.path(&self.file);
        let mut bytes = std::fs::read(&path).expect("weights");
        let own = &mut bytes[self.offset..self.offset + self.length];
        let kind = [DType::F32, DType::F16, DType::I8].into_iter().find(|t| t.code() == self.dtype);
        let mut values: Vec<f32> = own
            .chunks_exact(self.width())
            .map(|b| match kind.expect("a known type") {
                DType::F32 => f32::from_le_bytes(b.try_into().expect("four bytes")),
                DType::F16 => half::f16::from_le_bytes(b.try_into().expect("two bytes")).to_f32(),
                _ => f32::from(b[0].cast_signed()),
            })
            .collect();
        change(&mut values);
        for (b, v) in own.chunks_exact_mut(self.width()).zip(values) {
            match kind.expect("a known type") {
                DType::F32 => b.copy_from_slice(&v.to_le_bytes()),
                DType::F16 => b.copy_from_slice(&half::f16::from_f32(v).to_le_bytes()),
                _ => b[0] = (v as i8).cast_unsigned(),
            }
        }
        std::fs::write(&path, bytes).expect("written");
    }

    /// Negates row `row` of a matrix, or a whole vector; doubles the scales of quantised weights.
    pub(crate) fn corrupt(&self, model: &ModelFolder, row: usize) {
        let width = self.dims.last().copied().expect("a dimension");
        self.edit(model, |values| {
            let factor = if self.name.ends_with(".scale") { 2.0 } else { -1.0 };
            values[row * width..(row + 1) * width].iter_mut().for_each(|v| *v *= factor);
        });
    }

    /// Returns a row that every text or image uses: of embeddings the start token's or the second position's.
    pub(crate) fn needed_row(&self, model: &ModelFolder) -> usize {
        let rows: usize = self.dims[..self.dims.len() - 1].iter().product();
        if self.name.contains("token_embedding") {
            model.spec.special_ids.start as usize
        } else if self.name.contains("positional_embedding") {
            1
        } else {
            rows / 2
        }
    }
}

/// Changes a graph.
pub(crate) fn edit_graph(model: &ModelFolder, file: &str, change: impl FnOnce(&mut GraphProto)) {
    let path = model.path(file);
    let mut proto = ModelProto::decode(&*std::fs::read(&path).expect("a graph")).expect("ONNX");
    change(proto.graph.as_mut().expect("a graph"));
    std::fs::write(&path, proto.encode_to_vec()).expect("written");
}

/// Swaps keys and values of the first cross-attention in the decoder.
pub(crate) fn swap_cross(graph: &mut GraphProto) {
    let mut swapped = 0;
    for input in graph.node.iter_mut().flat_map(|node| &mut node.input) {
        let other = match input.as_str() {
            "cross_key_0" => "cross_value_0",
            "cross_value_0" => "cross_key_0",
            _ => continue,
        };
        *input = other.to_owned();
        swapped += 1;
    }
    assert!(swapped >= 2, "the decoder reads no cross keys and values");
}

/// Multiplies the `scale` of the first attention that has one.
pub(crate) fn rescale_attention(graph: &mut GraphProto, factor: f32) {
    let mut attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
    let scale = attributes.find(|a| a.name() == "scale").expect("an attention");
    scale.f = Some(scale.f() * factor);
}

/// Makes every row of the decoder's self-attentions as long as the longest one; rows at equal positions stay correct.
pub(crate) fn lengthen_rows(graph: &mut GraphProto) {
    let attention = |node: &&mut NodeProto| node.op_type() == "GroupQueryAttention";
    let lengths = graph.node.iter_mut().find(attention).expect("a self-attention").input[5].clone();
    let node = |op: &str, inputs: &[&str], output: &str| NodeProto {
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    };
    let longest = [
        node("Sub", &[&lengths, &lengths], "wrong_zeros"),
        node("ReduceMax", &[&lengths], "wrong_longest"),
        node("Add", &["wrong_zeros", "wrong_longest"], "wrong_lengths"),
    ];
    graph.node.iter_mut().filter(attention).for_each(|node| node.input[5] = "wrong_lengths".to_owned());
    let made = graph.node.iter().position(|node| node.output.contains(&lengths)).expect("a node");
    graph.node.splice(made + 1..made + 1, longest);
}
