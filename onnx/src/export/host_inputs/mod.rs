//! Which memory a graph's values are in on a GPU, checked before a graph is written or loaded.
//!
//! ONNX Runtime's CUDA kernels read some inputs in host memory. If such an input is computed from data on the device, the
//! runtime inserts a copy (a Memcpy node) for every run, and at least one kernel read a wrong value from it:
//! `GroupQueryAttention` with a `total_sequence_length` reduced from positions produced wrong captions. The reverse, a value
//! computed on the host that a kernel reads on the device, costs a copy too, and both rule out CUDA graphs. So in every graph
//! of this crate, what a kernel reads in host memory derives from initializers, shapes and declared host inputs only, and
//! nothing that is computed on the host is read as data.
//!
//! An operator that is not in [`OPERATORS`] is an error: look up its kernel before adding it.

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
    // There is no kernel for GPUs: int8 models run on CPUs only.
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
    operator("ReduceMean", &[1]),
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

/// Operators that ONNX Runtime computes on the host when all their inputs are there
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
    /// An operator is not in the table.
    #[error(
        "graph `{graph}`, node `{node}`: {operator} is not in the table of inputs read in host memory; add it"
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

/// Which memory a value is in on a GPU.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Known before the graph runs, and copied to wherever it is read.
    Constant,
    /// Host memory.
    Host,
    /// Device memory.
    Device,
}

/// Checks a graph whose inputs named in `host_inputs` are bound in host memory, and all others on the device.
///
/// # Errors
/// See [`GraphError`]; the first violation in the order of nodes.
pub(crate) fn check(graph: &GraphProto, host_inputs: &HashSet<String>) -> Result<(), Box<GraphError>> {
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

/// Returns the memory of a node's outputs, after checking its inputs.
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
mod tests;
