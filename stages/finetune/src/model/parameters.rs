//! A CoCa's parameters as leaves of the autodiff graph, by open_clip's names.
//!
//! Every parameter is a flat vector, so that optimizer, average, clipping and checkpoints treat all alike; a shape is a view.
//! The table of names and shapes is recaption_onnx's, which the exporter is tested against too.

use std::collections::HashMap;

use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use recaption_onnx::checkpoint::Parameter;

/// All parameters, on one device.
#[derive(Clone, Debug)]
pub struct Parameters {
    list: Vec<Parameter>,
    values: Vec<Tensor<1>>,
    by_name: HashMap<String, usize>,
    /// Type of matrix products; the leaves stay f32.
    compute: DType,
}

impl Parameters {
    /// Creates parameters with the given values, f32, row-major, in the order of `list`. `trained[i]` is whether the i-th gets a
    /// gradient.
    ///
    /// # Panics
    /// Panics when the lists differ in length, or a value has another number of elements than its shape.
    #[must_use]
    pub fn new(list: Vec<Parameter>, values: Vec<Vec<f32>>, trained: &[bool], device: &Device) -> Self {
        assert_eq!((list.len(), list.len()), (values.len(), trained.len()), "one value and one flag each");
        let by_name = list.iter().enumerate().map(|(i, p)| (p.name.clone(), i)).collect();
        let leaves = list.iter().zip(values).zip(trained);
        let values = leaves.map(|((p, v), trained)| leaf(v, p, device).set_require_grad(*trained)).collect();
        Self { list, values, by_name, compute: DType::F32 }
    }

    /// Sets the type of matrix products, such as bf16; activations follow.
    #[must_use]
    pub fn computing_in(mut self, compute: DType) -> Self {
        self.compute = compute;
        self
    }

    /// Returns the type of matrix products and of the activations between them.
    #[must_use]
    pub fn compute(&self) -> DType {
        self.compute
    }

    /// Returns names, shapes and initialisation, in order.
    #[must_use]
    pub fn list(&self) -> &[Parameter] {
        &self.list
    }

    /// Returns the number of values in all parameters.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.iter().map(|p| p.shape.iter().product::<usize>()).sum()
    }

    /// Returns the flat values `[n]`, in order.
    #[must_use]
    pub fn values(&self) -> &[Tensor<1>] {
        &self.values
    }

    /// Returns the same values without autodiff.
    #[must_use]
    pub fn without_autodiff(&self) -> Self {
        let values = self.values.iter().map(|v| v.clone().without_autodiff()).collect();
        Self { values, ..self.clone() }
    }

    /// Replaces the values, in order.
    pub fn replace(&mut self, values: Vec<Tensor<1>>) {
        debug_assert_eq!(values.len(), self.values.len());
        self.values = values;
    }

    /// Sets the flat value of a parameter that is not trained; ignores an unknown name.
    pub fn set(&mut self, name: &str, value: Tensor<1>) {
        if let Some(at) = self.by_name.get(name) {
            debug_assert!(!self.values[*at].is_require_grad(), "{name} is trained");
            // A leaf on the same device as before, with or without autodiff.
            self.values[*at] = if self.values[*at].is_autodiff() { value.autodiff() } else { value };
        }
    }

    /// Clamps every element of a parameter to `low..=high`; ignores an unknown name.
    pub fn clamp(&mut self, name: &str, low: f32, high: f32) {
        if let Some(at) = self.by_name.get(name) {
            let trained = self.values[*at].is_require_grad();
            let value = self.values[*at].clone().without_autodiff().clamp(low, high);
            self.values[*at] = value.autodiff().set_require_grad(trained);
        }
    }

    /// Copies all values to the host, in order.
    #[must_use]
    pub fn to_host(&self) -> Vec<Vec<f32>> {
        self.values.iter().map(host).collect()
    }

    /// Takes the gradients, in order; `None` for parameters that are frozen or not in the loss.
    #[must_use]
    pub fn take_gradients(&self, gradients: &mut Gradients) -> Vec<Option<Tensor<1>>> {
        self.values.iter().map(|v| v.grad_remove(gradients)).collect()
    }

    fn find(&self, name: &str) -> (&Parameter, &Tensor<1>) {
        let at = self.by_name.get(name).unwrap_or_else(|| panic!("no parameter is called `{name}`"));
        (&self.list[*at], &self.values[*at])
    }

    /// Returns whether there is a parameter of that name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Returns a parameter as a vector `[n]`, f32.
    ///
    /// # Panics
    /// Panics when no parameter has that name: the model and the table contradict each other, which tests exclude.
    #[must_use]
    pub fn vector(&self, name: &str) -> Tensor<1> {
        self.find(name).1.clone()
    }

    /// Returns a parameter as a matrix `[rows, columns]`, in the type of matrix products; dimensions after the first are columns.
    ///
    /// # Panics
    /// Panics as [`Parameters::vector`] does.
    #[must_use]
    pub fn matrix(&self, name: &str) -> Tensor<2> {
        let (parameter, value) = self.find(name);
        let rows = parameter.shape[0];
        let columns = parameter.shape[1..].iter().product::<usize>();
        self.lower(value.clone().reshape([rows, columns]))
    }

    /// Casts a tensor to the type of matrix products.
    #[must_use]
    pub fn lower<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if x.dtype() == self.compute { x } else { x.cast(self.compute) }
    }
}

/// Creates a leaf of the autodiff graph.
fn leaf(values: Vec<f32>, parameter: &Parameter, device: &Device) -> Tensor<1> {
    let n = values.len();
    assert_eq!(n, parameter.shape.iter().product::<usize>(), "{}", parameter.name);
    Tensor::from_data(TensorData::new(values, [n]), device)
}

/// Copies a flat tensor to the host, as f32.
#[must_use]
pub fn host(x: &Tensor<1>) -> Vec<f32> {
    x.to_data_as::<f32>().try_into_vec::<f32>().unwrap_or_default()
}
