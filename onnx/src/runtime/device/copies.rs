//! The graphs that copy a decoder's tensors on one device.

use ort::{
    memory::Allocator,
    session::{RunOptions, Session},
    value::{DynTensor, Tensor, TensorElementType},
};

use super::{
    graphs,
    shapes::{CacheShape, CrossShape},
};
use crate::{
    export::graph::DType,
    runtime::{error::RuntimeError, memory::Memory, options::SessionOptions, session::create_in_memory},
};

/// Returns a host tensor of indices, `[n]`, to be bound to an input.
fn indices(values: impl Iterator<Item = usize>) -> ort::Result<Tensor<i64>> {
    let values: Vec<i64> = values.map(|v| v as i64).collect();
    Tensor::from_array(([values.len()], values))
}

/// Largest number of images that one run copies; it bounds the size of the run's element index.
pub(super) const LOAD_BATCH: usize = 64;

/// Copies a decoder's tensors on one device, and owns the arena that they are allocated from.
#[derive(Debug)]
pub(in crate::runtime) struct DeviceCopyGraphs {
    memory: Memory,
    gather: Session,
    /// Copies all rows of an encoded batch in their order.
    load_all: Session,
    /// Copies given rows.
    load_rows: Session,
    /// Shapes of the caches, in their order.
    caches: Vec<CacheShape>,
    /// Built when beams are first copied.
    copy: Option<Session>,
    dtype: DType,
    options: SessionOptions,
}

impl DeviceCopyGraphs {
    /// Builds the graphs; all tensors are of `dtype`.
    ///
    /// # Errors
    /// When ONNX Runtime cannot load a graph.
    pub(in crate::runtime) fn load(
        memory: Memory,
        options: &SessionOptions,
        dtype: DType,
        cross: CrossShape,
        caches: Vec<CacheShape>,
    ) -> Result<Self, RuntimeError> {
        Ok(Self {
            memory,
            gather: create_in_memory("gather", graphs::gather(dtype), options)?,
            load_all: create_in_memory("load", graphs::load(dtype, cross, false), options)?,
            load_rows: create_in_memory("load", graphs::load(dtype, cross, true), options)?,
            caches,
            copy: None,
            dtype,
            options: *options,
        })
    }

    /// Returns the allocator of tensors that these graphs can copy.
    pub(in crate::runtime) fn allocator(&self) -> ort::Result<Allocator> {
        Allocator::new(&self.gather, self.memory.info()?)
    }

    /// Returns freed memory from the arena to the device, so that other sessions can use it.
    pub(in crate::runtime) fn shrink_arena(&mut self) -> ort::Result<()> {
        let mut options = RunOptions::new()?;
        options.set("memory.enable_memory_arena_shrinkage", self.memory.arena())?;
        let row = self.host_zeros(&[1])?;
        let inputs = ort::inputs!["from" => row, "rows" => indices(0..1)?];
        self.gather.run_with_options(inputs, &options)?;
        Ok(())
    }

    /// Allocates a tensor on the host, zeroed by ONNX Runtime.
    fn host_zeros(&self, shape: &[usize]) -> ort::Result<DynTensor> {
        let kind = match self.dtype {
            DType::F16 => TensorElementType::Float16,
            _ => TensorElementType::Float32,
        };
        DynTensor::new(&Allocator::default(), kind, shape)
    }

    /// Returns a new tensor whose row `i` is row `rows[i]` of `old`, which may be in host memory.
    pub(in crate::runtime) fn gathered(
        &mut self,
        allocator: &Allocator,
        old: &DynTensor,
        rows: impl ExactSizeIterator<Item = usize>,
    ) -> ort::Result<DynTensor> {
        let mut shape: Vec<usize> = old.shape().iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
        if let Some(first) = shape.first_mut() {
            *first = rows.len();
        }
        let mut new = DynTensor::new(allocator, *old.data_type(), shape)?;
        let mut binding = self.gather.create_binding()?;
        binding.bind_input("from", old)?;
        binding.bind_input("rows", &indices(rows)?)?;
        binding.bind_output("gathered", &mut new)?;
        binding.synchronize_inputs()?;
        self.gather.run_binding(&binding)?;
        Ok(new)
    }

    /// Returns a new tensor of zeros.
    pub(in crate::runtime) fn zeros(
        &mut self,
        allocator: &Allocator,
        shape: &[usize],
    ) -> ort::Result<DynTensor> {
        let mut one = shape.to_vec();
        one[0] = 1;
        // One row is uploaded and repeated on the device.
        let row = self.host_zeros(&one)?;
        self.gathered(allocator, &row, std::iter::repeat_n(0, shape[0]))
    }

    /// Copies rows of `from` into rows of `to`, in place, for every pair `(to, from)` and all tensors.
    pub(in crate::runtime) fn load_rows(
        &mut self,
        to: &mut [DynTensor],
        from: &[DynTensor],
        rows: &[(usize, usize)],
    ) -> ort::Result<()> {
        rows.chunks(LOAD_BATCH).try_for_each(|rows| self.load_batch(to, from, rows))
    }

    fn load_batch(
        &mut self,
        to: &mut [DynTensor],
        from: &[DynTensor],
        rows: &[(usize, usize)],
    ) -> ort::Result<()> {
        let encoded = from.first().map_or(0, |tensor| tensor.shape()[0]);
        let whole = rows.len() as i64 == encoded && rows.iter().enumerate().all(|(i, (_, from))| i == *from);
        let session = if whole { &mut self.load_all } else { &mut self.load_rows };
        let mut binding = session.create_binding()?;
        binding.bind_input("to_rows", &indices(rows.iter().map(|(to, _)| *to))?)?;
        if !whole {
            binding.bind_input("from_rows", &indices(rows.iter().map(|(_, from)| *from))?)?;
        }
        for (i, (to, from)) in to.iter_mut().zip(from).enumerate() {
            binding.bind_input(graphs::target_name(i), to)?;
            binding.bind_input(graphs::source_name(i), from)?;
            binding.bind_output(graphs::copied_name(i), to)?;
        }
        binding.synchronize_inputs()?;
        session.run_binding(&binding)?;
        Ok(())
    }

    /// Copies positions `0..length` of row `from` to row `to`, in place, for every pair `(from, to)` and all caches. A row
    /// may not be both read and written.
    ///
    /// # Errors
    /// When the graph cannot be built or fails.
    pub(in crate::runtime) fn copy_rows(
        &mut self,
        caches: &mut [DynTensor],
        rows: &[(usize, usize)],
        length: usize,
    ) -> Result<(), RuntimeError> {
        if self.copy.is_none() {
            let graph = graphs::copy(self.dtype, &self.caches);
            self.copy = Some(create_in_memory("copy", graph, &self.options)?);
        }
        let Some(copy) = &mut self.copy else { return Ok(()) };
        let mut run = || -> ort::Result<()> {
            let mut binding = copy.create_binding()?;
            binding.bind_input("from_rows", &indices(rows.iter().map(|(from, _)| *from))?)?;
            binding.bind_input("to_rows", &indices(rows.iter().map(|(_, to)| *to))?)?;
            binding.bind_input("length", &indices(std::iter::once(length))?)?;
            for (i, cache) in caches.iter_mut().enumerate() {
                binding.bind_input(graphs::target_name(i), cache)?;
                binding.bind_output(graphs::copied_name(i), cache)?;
            }
            binding.synchronize_inputs()?;
            copy.run_binding(&binding)?;
            Ok(())
        };
        run().map_err(|source| RuntimeError::Run {
            graph: "decoder (copying caches)",
            rows: rows.len(),
            source,
        })
    }
}
