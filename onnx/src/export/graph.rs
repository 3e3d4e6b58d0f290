//! Builds one ONNX graph: nodes, initializers, inputs and outputs. Independent of the models.

use std::collections::HashSet;

use prost::Message;

use super::{
    host_inputs::{self, GraphError},
    weights::{Stored, WEIGHTS_FILE},
};
use crate::{
    model::Precision,
    proto::{
        AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
        TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
        attribute_proto::AttributeType,
        tensor_proto,
        tensor_shape_proto::{Dimension, dimension},
        type_proto,
    },
};

/// ONNX operator set. 23 has `Attention`; TensorRT 10.14 and ONNX Runtime 1.23 parse it.
pub(crate) const OPSET: i64 = 23;
/// ONNX's file format version that goes with [`OPSET`].
const IR_VERSION: i64 = 11;
/// Domain of ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";

/// Element types that graphs exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DType {
    /// Unsigned byte.
    U8,
    /// Signed byte.
    I8,
    /// Half precision.
    F16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// Boolean.
    Bool,
}

impl DType {
    /// Returns ONNX's number of the type.
    #[must_use]
    pub(crate) fn code(self) -> i32 {
        use tensor_proto::DataType as D;
        (match self {
            Self::U8 => D::Uint8,
            Self::I8 => D::Int8,
            Self::F16 => D::Float16,
            Self::F32 => D::Float,
            Self::F64 => D::Double,
            Self::I32 => D::Int32,
            Self::I64 => D::Int64,
            Self::Bool => D::Bool,
        }) as i32
    }

    /// Returns the type of activations in a precision, and of all weights but int8's linear layers.
    #[must_use]
    pub(crate) fn of(precision: Precision) -> Self {
        match precision {
            Precision::Fp32 | Precision::Int8 => Self::F32,
            Precision::Fp16 => Self::F16,
        }
    }
}

/// One dimension of an input or output.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dim {
    /// A fixed size.
    Fixed(usize),
    /// A named dimension of any size.
    Named(&'static str),
}

/// A value in the graph, by name. Its shape is not checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Value(String);

/// Attribute of a node: an integer, a real number, integers or text.
pub(crate) enum Attr<'a> {
    Int(i64),
    Float(f32),
    Ints(&'a [i64]),
    Text(&'a str),
}

/// A graph under construction.
pub(crate) struct GraphBuilder {
    graph: GraphProto,
    next: usize,
    microsoft: bool,
    /// Graph inputs that are bound in host memory.
    host_inputs: HashSet<String>,
}

impl GraphBuilder {
    /// Starts an empty graph.
    #[must_use]
    pub(crate) fn new(name: &str) -> Self {
        Self {
            graph: GraphProto { name: Some(name.to_owned()), ..GraphProto::default() },
            next: 0,
            microsoft: false,
            host_inputs: HashSet::new(),
        }
    }

    /// Declares a graph input.
    pub(crate) fn input(&mut self, name: &str, dtype: DType, shape: &[Dim]) -> Value {
        self.graph.input.push(value_info(name, dtype, Some(shape)));
        Value(name.to_owned())
    }

    /// Declares a graph input that stays in host memory on a GPU, for values that kernels read there: shapes, ends of slices.
    pub(crate) fn host_input(&mut self, name: &str, dtype: DType, shape: &[Dim]) -> Value {
        self.host_inputs.insert(name.to_owned());
        self.input(name, dtype, shape)
    }

    /// Declares a graph input of any rank and shape.
    pub(crate) fn input_of_any_shape(&mut self, name: &str, dtype: DType) -> Value {
        self.graph.input.push(value_info(name, dtype, None));
        Value(name.to_owned())
    }

    /// Declares a graph output of any rank and shape, see [`GraphBuilder::declare_output`].
    pub(crate) fn declare_output_of_any_shape(&mut self, name: &str, dtype: DType) -> Value {
        self.graph.output.push(value_info(name, dtype, None));
        Value(name.to_owned())
    }

    /// Makes `value` a graph output called `name`.
    pub(crate) fn output(&mut self, name: &str, value: &Value, dtype: DType, shape: &[Dim]) {
        self.graph.output.push(value_info(name, dtype, Some(shape)));
        self.push_node("Identity", "", &[value], &[name.to_owned()], &[]);
    }

    /// Declares a graph output that a node writes directly, see [`GraphBuilder::op_into`].
    pub(crate) fn declare_output(&mut self, name: &str, dtype: DType, shape: &[Dim]) -> Value {
        self.graph.output.push(value_info(name, dtype, Some(shape)));
        Value(name.to_owned())
    }

    /// Adds a weight in the weights file.
    pub(crate) fn weight(&mut self, name: &str, dtype: DType, stored: &Stored) -> Value {
        if !self.graph.initializer.iter().any(|t| t.name.as_deref() == Some(name)) {
            let entry = |key: &str, value: String| StringStringEntryProto {
                key: Some(key.to_owned()),
                value: Some(value),
            };
            self.graph.initializer.push(TensorProto {
                name: Some(name.to_owned()),
                data_type: Some(dtype.code()),
                dims: stored.shape.iter().map(|d| *d as i64).collect(),
                data_location: Some(tensor_proto::DataLocation::External as i32),
                external_data: vec![
                    entry("location", WEIGHTS_FILE.to_owned()),
                    entry("offset", stored.offset.to_string()),
                    entry("length", stored.len.to_string()),
                ],
                ..TensorProto::default()
            });
        }
        Value(name.to_owned())
    }

    /// Adds a constant in the graph itself; `raw` is row-major, little-endian.
    pub(crate) fn inline(&mut self, dtype: DType, dims: &[i64], raw: Vec<u8>) -> Value {
        let same = |t: &&TensorProto| {
            t.data_type == Some(dtype.code())
                && t.dims == dims
                && t.raw_data.as_deref() == Some(raw.as_slice())
        };
        if let Some(name) = self.graph.initializer.iter().find(same).and_then(|t| t.name.clone()) {
            return Value(name);
        }
        let name = self.fresh("const");
        self.graph.initializer.push(TensorProto {
            name: Some(name.clone()),
            data_type: Some(dtype.code()),
            dims: dims.to_vec(),
            raw_data: Some(raw),
            ..TensorProto::default()
        });
        Value(name)
    }

    /// Adds a small vector of 64-bit integers (shapes, axes, indices).
    pub(crate) fn ints(&mut self, values: &[i64]) -> Value {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.inline(DType::I64, &[values.len() as i64], raw)
    }

    /// Adds a scalar 64-bit integer.
    pub(crate) fn int(&mut self, value: i64) -> Value {
        self.inline(DType::I64, &[], value.to_le_bytes().to_vec())
    }

    #[cfg(test)]
    pub(crate) fn int32(&mut self, value: i32) -> Value {
        self.inline(DType::I32, &[], value.to_le_bytes().to_vec())
    }

    /// Adds a scalar of the given real type.
    pub(crate) fn real(&mut self, dtype: DType, value: f32) -> Value {
        let raw = match dtype {
            DType::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
            DType::F64 => f64::from(value).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        };
        self.inline(dtype, &[], raw)
    }

    /// Adds a scalar byte.
    pub(crate) fn byte(&mut self, value: u8) -> Value {
        self.inline(DType::U8, &[], vec![value])
    }

    /// Adds a `[1, 1]` matrix of `true`.
    pub(crate) fn true_column(&mut self) -> Value {
        self.inline(DType::Bool, &[1, 1], vec![1])
    }

    /// Returns a new name, for a further output of a node.
    pub(crate) fn name(&mut self, what: &str) -> Value {
        Value(self.fresh(what))
    }

    fn fresh(&mut self, op: &str) -> String {
        self.next += 1;
        format!("{}_{}", op.to_ascii_lowercase(), self.next)
    }

    fn push_node(
        &mut self,
        op: &str,
        domain: &str,
        inputs: &[&Value],
        outputs: &[String],
        attrs: &[(&str, Attr<'_>)],
    ) {
        self.microsoft |= domain == MICROSOFT;
        let name = self.fresh(&format!("node_{op}"));
        self.graph.node.push(NodeProto {
            name: Some(name),
            op_type: Some(op.to_owned()),
            domain: (!domain.is_empty()).then(|| domain.to_owned()),
            input: inputs.iter().map(|v| v.0.clone()).collect(),
            output: outputs.to_vec(),
            attribute: attrs.iter().map(|(name, attr)| attribute(name, attr)).collect(),
            ..NodeProto::default()
        });
    }

    /// Adds a node of the standard operator set with one output.
    pub(crate) fn op(&mut self, op: &str, inputs: &[&Value], attrs: &[(&str, Attr<'_>)]) -> Value {
        let output = self.fresh(op);
        self.push_node(op, "", inputs, std::slice::from_ref(&output), attrs);
        Value(output)
    }

    /// Adds a node of the standard operator set with several outputs.
    pub(crate) fn op_with_outputs<const N: usize>(
        &mut self,
        op: &str,
        inputs: &[&Value],
        attrs: &[(&str, Attr<'_>)],
    ) -> [Value; N] {
        let outputs: [String; N] = std::array::from_fn(|_| self.fresh(op));
        self.push_node(op, "", inputs, &outputs, attrs);
        outputs.map(Value)
    }

    /// Adds a node of the standard operator set that writes into `output`.
    pub(crate) fn op_into(
        &mut self,
        op: &str,
        inputs: &[&Value],
        output: &Value,
        attrs: &[(&str, Attr<'_>)],
    ) {
        self.push_node(op, "", inputs, std::slice::from_ref(&output.0), attrs);
    }

    /// Adds a node of ONNX Runtime's own operator set, whose first output is a new value and whose others are given.
    pub(crate) fn microsoft_op(
        &mut self,
        op: &str,
        inputs: &[&Value],
        further_outputs: &[&Value],
        attrs: &[(&str, Attr<'_>)],
    ) -> Value {
        let first = self.fresh(op);
        let mut outputs = vec![first.clone()];
        outputs.extend(further_outputs.iter().map(|v| v.0.clone()));
        self.push_node(op, MICROSOFT, inputs, &outputs, attrs);
        Value(first)
    }

    /// Returns the value of an absent optional input.
    #[must_use]
    pub(crate) fn none() -> Value {
        Value(String::new())
    }

    /// Checks the graph by [`host_inputs`] and serialises it as a model file.
    ///
    /// # Errors
    /// When it could not run on a GPU without copies between host and device.
    pub(crate) fn finish(self) -> Result<Vec<u8>, Box<GraphError>> {
        self.finish_as(OPSET)
    }

    /// Serialises the graph as [`GraphBuilder::finish`] does, with another operator set than [`OPSET`].
    ///
    /// # Errors
    /// As [`GraphBuilder::finish`].
    pub(crate) fn finish_as(self, version: i64) -> Result<Vec<u8>, Box<GraphError>> {
        host_inputs::check(&self.graph, &self.host_inputs)?;
        let opset = |domain: &str, version| OperatorSetIdProto {
            domain: Some(domain.to_owned()),
            version: Some(version),
        };
        let mut opset_import = vec![opset("", version)];
        if self.microsoft {
            opset_import.push(opset(MICROSOFT, 1));
        }
        Ok(ModelProto {
            ir_version: Some(IR_VERSION),
            opset_import,
            producer_name: Some("recaption".to_owned()),
            producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            graph: Some(self.graph),
            ..ModelProto::default()
        }
        .encode_to_vec())
    }
}

fn attribute(name: &str, attr: &Attr<'_>) -> AttributeProto {
    let mut proto = AttributeProto { name: Some(name.to_owned()), ..AttributeProto::default() };
    let kind = match attr {
        Attr::Int(v) => {
            proto.i = Some(*v);
            AttributeType::Int
        }
        Attr::Float(v) => {
            proto.f = Some(*v);
            AttributeType::Float
        }
        Attr::Ints(v) => {
            proto.ints = v.to_vec();
            AttributeType::Ints
        }
        Attr::Text(v) => {
            proto.s = Some(v.as_bytes().to_vec());
            AttributeType::String
        }
    };
    proto.r#type = Some(kind as i32);
    proto
}

/// Returns the description of an input or output; `shape` is `None` if even the rank is open.
fn value_info(name: &str, dtype: DType, shape: Option<&[Dim]>) -> ValueInfoProto {
    let dims = |shape: &[Dim]| {
        shape
            .iter()
            .map(|d| Dimension {
                value: Some(match d {
                    Dim::Fixed(n) => dimension::Value::DimValue(*n as i64),
                    Dim::Named(name) => dimension::Value::DimParam((*name).to_owned()),
                }),
                ..Dimension::default()
            })
            .collect()
    };
    let shape = shape.map(|shape| TensorShapeProto { dim: dims(shape) });
    let tensor = type_proto::Tensor { elem_type: Some(dtype.code()), shape };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}
