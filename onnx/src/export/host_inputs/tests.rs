//! Graphs that break the rules on host memory, and graphs that keep them.

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
        assert!(matches!(*error, GraphError::DeviceDataReadOnHost { input: i, .. } if i == input), "{error}");
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
