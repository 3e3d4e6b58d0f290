//! Where a graph's values live on a GPU, checked before a graph is written or loaded.
//!
//! ONNX Runtime's CUDA kernels read some inputs in host memory. If such an input is computed from data on the device, the
//! runtime inserts a copy (a Memcpy node) for every run, and at least one kernel was seen to read a wrong value from it:
//! `GroupQueryAttention` with a `total_sequence_length` reduced from positions wrote wrong captions. The reverse, a value
//! computed on the host that a kernel reads on the device, costs a copy too, and both forbid CUDA graphs. So every graph of
//! this crate keeps the two worlds apart: what a kernel reads in host memory derives from initializers, shapes and declared
//! host inputs alone, and nothing that is computed on the host is read as data.
//!
//! An operator that is not in [`OPERATORS`] is an error: whoever adds one looks up its kernel first.

use std::collections::{HashMap, HashSet};

use crate::proto::{GraphProto, NodeProto};

/// An operator and the inputs that its CUDA kernel reads in host memory.
struct Operator {
    /// Name; `com.microsoft` operators share no name with standard ones here.
    name: &'static str,
    /// Indices of the inputs.
    host_inputs: &'static [usize],
}

const fn operator(name: &'static str, host_inputs: &'static [usize]) -> Operator {
    Operator { name, host_inputs }
}

/// Every operator that this crate's graphs use.
///
/// Source: the kernels' registrations in ONNX Runtime 1.31, `InputMemoryType(OrtMemTypeCPUInput, i)` in
/// `onnxruntime/core/providers/cuda` and `onnxruntime/contrib_ops/cuda`.
const OPERATORS: &[Operator] = &[
    operator("Abs", &[]),
    operator("Add", &[]),
    operator("And", &[]),
    operator("ArgMax", &[]),
    operator("Attention", &[]),
    operator("BiasGelu", &[]),
    operator("Cast", &[]),
    operator("Concat", &[]),
    operator("CumSum", &[1]),
    operator("Div", &[]),
    operator("Equal", &[]),
    operator("Exp", &[]),
    operator("Expand", &[1]),
    operator("Gather", &[]),
    operator("GatherElements", &[]),
    operator("GatherND", &[]),
    operator("Gelu", &[]),
    operator("Gemm", &[]),
    operator("Greater", &[]),
    operator("GreaterOrEqual", &[]),
    // total_sequence_length.
    operator("GroupQueryAttention", &[6]),
    operator("Identity", &[]),
    operator("LayerNormalization", &[]),
    operator("Less", &[]),
    operator("LessOrEqual", &[]),
    operator("LogSoftmax", &[]),
    operator("MatMul", &[]),
    // No kernel for a GPU: int8 models run on CPUs alone.
    operator("MatMulIntegerToFloat", &[]),
    operator("Max", &[]),
    operator("Min", &[]),
    operator("Mul", &[]),
    // past_sequence_length.
    operator("MultiHeadAttention", &[8]),
    operator("Not", &[]),
    operator("Or", &[]),
    operator("Pad", &[1, 2]),
    operator("QuantizeLinear", &[]),
    operator("QuickGelu", &[]),
    operator("Range", &[0, 1, 2]),
    operator("ReduceL2", &[1]),
    operator("ReduceMax", &[1]),
    operator("ReduceMin", &[1]),
    operator("ReduceSum", &[1]),
    operator("Reshape", &[1]),
    operator("ScatterElements", &[]),
    operator("Shape", &[]),
    operator("Sigmoid", &[]),
    operator("SkipLayerNormalization", &[]),
    operator("Slice", &[1, 2, 3, 4]),
    operator("Split", &[1]),
    operator("Squeeze", &[1]),
    operator("Sub", &[]),
    operator("TopK", &[1]),
    operator("Transpose", &[]),
    operator("Unsqueeze", &[1]),
    operator("Where", &[]),
];

/// Operators that ONNX Runtime computes on the host when all that they read is there
/// (`GetCpuPreferredNodes` in `onnxruntime/core/framework/fallback_cpu_capability.cc`).
const SHAPE_ARITHMETIC: &[&str] = &[
    "Add",
    "Cast",
    "Concat",
    "Div",
    "Gather",
    "Max",
    "Min",
    "Mul",
    "Reshape",
    "Slice",
    "Squeeze",
    "Sub",
    "Unsqueeze",
];

/// Why a graph may not run on a GPU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A kernel would read device data in host memory.
    #[error(
        "graph `{graph}`, node `{node}`: input {input} (`{value}`) of {operator} is read in host memory on a GPU, but is computed from device data"
    )]
    DeviceDataReadOnHost {
        /// The graph.
        graph: String,
        /// The node.
        node: String,
        /// Its operator.
        operator: String,
        /// Index of the input.
        input: usize,
        /// Name of the value.
        value: String,
    },
    /// A value that is computed on the host is read as data on the device.
    #[error(
        "graph `{graph}`, node `{node}`: input {input} (`{value}`) of {operator} is computed on the host, but is read on the device: every run would copy it"
    )]
    HostDataReadOnDevice {
        /// The graph.
        graph: String,
        /// The node.
        node: String,
        /// Its operator.
        operator: String,
        /// Index of the input.
        input: usize,
        /// Name of the value.
        value: String,
    },
    /// Nothing is known of an operator's kernel.
    #[error(
        "graph `{graph}`, node `{node}`: it is not known which inputs {operator} reads in host memory; add it to the table"
    )]
    UnknownOperator {
        /// The graph.
        graph: String,
        /// The node.
        node: String,
        /// The operator.
        operator: String,
    },
}

/// Where a value lives on a GPU.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Known before the graph runs; has a copy wherever it is needed.
    Constant,
    /// The host's memory.
    Host,
    /// The device's memory.
    Device,
}

/// Checks a graph whose inputs named in `host_inputs` are bound in host memory, and all others on the device.
///
/// # Errors
/// See [`GraphError`]; the first violation in the order of nodes.
pub fn check(graph: &GraphProto, host_inputs: &HashSet<String>) -> Result<(), Box<GraphError>> {
    let mut places: HashMap<&str, Place> = HashMap::new();
    for input in &graph.input {
        let place = if host_inputs.contains(input.name()) { Place::Host } else { Place::Device };
        places.insert(input.name(), place);
    }
    for constant in &graph.initializer {
        places.insert(constant.name(), Place::Constant);
    }
    for node in &graph.node {
        let place = place_of(graph, node, &places)?;
        places.extend(node.output.iter().map(|output| (output.as_str(), place)));
    }
    Ok(())
}

/// Where a node's outputs live, after its inputs were checked.
fn place_of(
    graph: &GraphProto,
    node: &NodeProto,
    places: &HashMap<&str, Place>,
) -> Result<Place, Box<GraphError>> {
    let names = || (graph.name().to_owned(), node.name().to_owned(), node.op_type().to_owned());
    let Some(known) = OPERATORS.iter().find(|o| o.name == node.op_type()) else {
        let (graph, node, operator) = names();
        return Err(Box::new(GraphError::UnknownOperator { graph, node, operator }));
    };
    if node.op_type() == "Shape" {
        return Ok(Place::Host);
    }
    let place = |value: &String| places.get(value.as_str()).copied().unwrap_or(Place::Device);
    let present = || node.input.iter().enumerate().filter(|(_, value)| !value.is_empty());
    // Host inputs of the node itself (the axes of a Squeeze) must be constants for it to be computed on the host.
    let on_host = SHAPE_ARITHMETIC.contains(&node.op_type())
        && present().all(|(i, value)| match place(value) {
            Place::Constant => true,
            Place::Host => !known.host_inputs.contains(&i),
            Place::Device => false,
        })
        && present().any(|(_, value)| place(value) == Place::Host);
    if on_host {
        return Ok(Place::Host);
    }
    for (input, value) in present() {
        let read_on_host = known.host_inputs.contains(&input);
        let (graph, node, operator) = names();
        let value_name = value.clone();
        match place(value) {
            Place::Device if read_on_host => {
                return Err(Box::new(GraphError::DeviceDataReadOnHost {
                    graph,
                    node,
                    operator,
                    input,
                    value: value_name,
                }));
            }
            Place::Host if !read_on_host => {
                return Err(Box::new(GraphError::HostDataReadOnDevice {
                    graph,
                    node,
                    operator,
                    input,
                    value: value_name,
                }));
            }
            _ => {}
        }
    }
    Ok(Place::Device)
}

#[cfg(test)]
mod tests {
    use super::{
        super::graph::{Attr, DType, Dim, GraphBuilder, Value},
        *,
    };

    fn cache(g: &mut GraphBuilder) -> Value {
        g.input("past", DType::F16, &[Dim::Named("rows"), Dim::Named("cache")])
    }

    /// The defect that wrote wrong captions: the longest row, reduced from positions on the device.
    #[test]
    fn total_length_from_device_data_is_rejected() {
        let mut g = GraphBuilder::new("decoder");
        let past = cache(&mut g);
        let positions = g.input("positions", DType::I64, &[Dim::Named("rows")]);
        let last = g.op("Cast", &[&positions], &[("to", Attr::Int(6))]);
        let longest = g.op("ReduceMax", &[&last], &[("keepdims", Attr::Int(0))]);
        let one = g.int32(1);
        let total = g.op("Add", &[&longest, &one], &[]);
        let none = GraphBuilder::none();
        g.microsoft_op("GroupQueryAttention", &[&past, &none, &none, &past, &past, &last, &total], &[], &[]);
        let error = g.finish().expect_err("device data on the host").to_string();
        for word in ["decoder", "GroupQueryAttention", "input 6", "host memory"] {
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn total_length_from_a_shape_is_accepted() {
        let mut g = GraphBuilder::new("decoder");
        let past = cache(&mut g);
        let length = g.op("Shape", &[&past], &[("start", Attr::Int(1)), ("end", Attr::Int(2))]);
        let total = g.op("Squeeze", &[&length], &[]);
        let total = g.op("Cast", &[&total], &[("to", Attr::Int(6))]);
        let none = GraphBuilder::none();
        g.microsoft_op("GroupQueryAttention", &[&past, &none, &none, &past, &past, &past, &total], &[], &[]);
        g.finish().expect("host data on the host");
    }

    #[test]
    fn shapes_and_counts_from_device_data_are_rejected() {
        for (operator, input) in [("Reshape", 1), ("Expand", 1), ("Slice", 2), ("TopK", 1), ("Pad", 1)] {
            let mut g = GraphBuilder::new("g");
            let (x, n) = (cache(&mut g), g.input("n", DType::I64, &[Dim::Fixed(1)]));
            let n = g.op("Add", &[&n, &n], &[]);
            let zero = g.ints(&[0]);
            let inputs: Vec<&Value> = (0..=input)
                .map(|i| {
                    if i == 0 {
                        &x
                    } else if i == input {
                        &n
                    } else {
                        &zero
                    }
                })
                .collect();
            g.op(operator, &inputs, &[]);
            let error = g.finish().expect_err(operator);
            assert!(
                matches!(*error, GraphError::DeviceDataReadOnHost { input: i, .. } if i == input),
                "{error}"
            );
        }
    }

    #[test]
    fn declared_host_inputs_may_be_shapes() {
        let mut g = GraphBuilder::new("g");
        let x = cache(&mut g);
        let n = g.host_input("n", DType::I64, &[Dim::Fixed(2)]);
        g.op("Reshape", &[&x, &n], &[]);
        g.finish().expect("a host input");
    }

    #[test]
    fn host_data_read_on_the_device_is_rejected() {
        let mut g = GraphBuilder::new("g");
        let x = cache(&mut g);
        let length = g.op("Shape", &[&x], &[]);
        let real = g.op("Cast", &[&length], &[("to", Attr::Int(10))]);
        g.op("Add", &[&x, &real], &[]);
        let error = g.finish().expect_err("host data on the device");
        assert!(matches!(*error, GraphError::HostDataReadOnDevice { .. }), "{error}");
    }

    #[test]
    fn unknown_operators_are_rejected() {
        let mut g = GraphBuilder::new("g");
        let x = cache(&mut g);
        g.op("Einsum", &[&x, &x], &[]);
        let error = g.finish().expect_err("unknown").to_string();
        assert!(error.contains("Einsum"), "{error}");
    }
}
