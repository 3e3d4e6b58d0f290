//! Memory that belongs to a session's device: allocating it, and moving tensors within it without the host.
//!
//! Generic over the memory, so that the way of a GPU can be taken on the CPU: tests do. Whatever is moved is moved by graphs
//! (`graphs`) that run where the tensors lie. Sessions have streams of their own; every run ends with its stream drained,
//! so one session may read what another one wrote.

mod graphs;

pub use graphs::OPSET;
use ort::{
    memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType},
    session::{RunOptions, Session},
    value::{DynTensor, Tensor, TensorElementType},
};

use super::{RuntimeError, SessionOptions, session};
use crate::export::graph::DType;

/// Where tensors lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// The host's memory, treated as if it were a device's.
    Cpu,
    /// Memory of a GPU.
    Cuda(u32),
}

impl Memory {
    /// ONNX Runtime's description of it.
    pub fn info(self) -> ort::Result<MemoryInfo<'static>> {
        let (device, number) = match self {
            Self::Cpu => (AllocationDevice::CPU, 0),
            Self::Cuda(number) => (AllocationDevice::CUDA, i32::try_from(number).unwrap_or(i32::MAX)),
        };
        MemoryInfo::new(device, number, AllocatorType::Device, MemoryType::Default)
    }

    /// As ONNX Runtime's run options name its arena.
    fn arena(self) -> String {
        match self {
            Self::Cpu => "cpu:0".to_owned(),
            Self::Cuda(number) => format!("gpu:{number}"),
        }
    }
}

/// A column of numbers on the host, `[n]`, to be bound to an input.
fn numbers(values: impl Iterator<Item = usize>) -> ort::Result<Tensor<i64>> {
    let values: Vec<i64> = values.map(|v| v as i64).collect();
    Tensor::from_array(([values.len()], values))
}

/// Images whose keys and values one run copies, at most: what bounds the index of elements that it makes.
const LOAD_BATCH: usize = 64;

/// The cross-attention keys and values of a decoder, `tensors` times `[N, tokens, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrossShape {
    /// Keys and values of all layers.
    pub tensors: usize,
    /// Tokens of an image.
    pub tokens: usize,
    /// Width of a token.
    pub width: usize,
}

/// One cache of self-attention keys or values, `[R, heads, L, size]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Heads.
    pub heads: usize,
    /// Size of a head.
    pub size: usize,
}

/// Moves a decoder's tensors on one device, and owns the arena that they come from.
pub struct Movers {
    memory: Memory,
    gather: Session,
    /// Copies all rows of an encoded batch in their order.
    load: Session,
    /// Copies chosen rows.
    load_chosen: Session,
    /// In their order; what `copy` was built for.
    caches: Vec<CacheShape>,
    /// Made when beams are first copied.
    copy: Option<Session>,
    dtype: DType,
    options: SessionOptions,
}

impl Movers {
    /// Builds the graphs; all tensors are of `dtype`.
    ///
    /// # Errors
    /// When ONNX Runtime refuses a graph.
    pub fn load(
        memory: Memory,
        options: &SessionOptions,
        dtype: DType,
        cross: CrossShape,
        caches: Vec<CacheShape>,
    ) -> Result<Self, RuntimeError> {
        Ok(Self {
            memory,
            gather: session::create_in_memory("gather", graphs::gather(dtype), options)?,
            load: session::create_in_memory("load", graphs::load(dtype, cross, false), options)?,
            load_chosen: session::create_in_memory("load", graphs::load(dtype, cross, true), options)?,
            caches,
            copy: None,
            dtype,
            options: *options,
        })
    }

    /// Allocates tensors that can be moved.
    pub fn allocator(&self) -> ort::Result<Allocator> {
        Allocator::new(&self.gather, self.memory.info()?)
    }

    /// Gives memory that was freed back to the device, so that other sessions can have it: an arena keeps it else.
    pub fn shrink(&mut self) -> ort::Result<()> {
        let mut options = RunOptions::new()?;
        options.set("memory.enable_memory_arena_shrinkage", self.memory.arena())?;
        let row = self.row(&[1])?;
        let inputs = ort::inputs!["from" => row, "rows" => numbers(0..1)?];
        self.gather.run_with_options(inputs, &options)?;
        Ok(())
    }

    /// Zeros on the host, as ONNX Runtime allocates them.
    fn row(&self, shape: &[usize]) -> ort::Result<DynTensor> {
        let kind = match self.dtype {
            DType::F16 => TensorElementType::Float16,
            _ => TensorElementType::Float32,
        };
        DynTensor::new(&Allocator::default(), kind, shape)
    }

    /// A new tensor whose row `i` is row `rows[i]` of `old`, which may lie on the host.
    pub fn gathered(
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
        binding.bind_input("rows", &numbers(rows)?)?;
        binding.bind_output("gathered", &mut new)?;
        binding.synchronize_inputs()?;
        self.gather.run_binding(&binding)?;
        Ok(new)
    }

    /// A new tensor of zeros.
    pub fn zeros(&mut self, allocator: &Allocator, shape: &[usize]) -> ort::Result<DynTensor> {
        let mut one = shape.to_vec();
        one[0] = 1;
        // One row is sent and spread on the device.
        let row = self.row(&one)?;
        self.gathered(allocator, &row, std::iter::repeat_n(0, shape[0]))
    }

    /// Writes rows of `from` into rows of `to`, in place, for every pair `(to, from)` and all tensors.
    pub fn load_rows(
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
        let session = if whole { &mut self.load } else { &mut self.load_chosen };
        let mut binding = session.create_binding()?;
        binding.bind_input("to_rows", &numbers(rows.iter().map(|(to, _)| *to))?)?;
        if !whole {
            binding.bind_input("from_rows", &numbers(rows.iter().map(|(_, from)| *from))?)?;
        }
        for (i, (to, from)) in to.iter_mut().zip(from).enumerate() {
            binding.bind_input(graphs::to(i), to)?;
            binding.bind_input(graphs::from(i), from)?;
            binding.bind_output(graphs::moved(i), to)?;
        }
        binding.synchronize_inputs()?;
        session.run_binding(&binding)?;
        Ok(())
    }

    /// Copies positions `0..length` of row `from` to row `to`, in place, for every pair `(from, to)` and all caches. No row
    /// may be read and written.
    pub fn copy_rows(
        &mut self,
        caches: &mut [DynTensor],
        rows: &[(usize, usize)],
        length: usize,
    ) -> Result<(), RuntimeError> {
        if self.copy.is_none() {
            let graph = graphs::copy(self.dtype, &self.caches);
            self.copy = Some(session::create_in_memory("copy", graph, &self.options)?);
        }
        let Some(copy) = &mut self.copy else { return Ok(()) };
        let mut run = || -> ort::Result<()> {
            let mut binding = copy.create_binding()?;
            binding.bind_input("from_rows", &numbers(rows.iter().map(|(from, _)| *from))?)?;
            binding.bind_input("to_rows", &numbers(rows.iter().map(|(_, to)| *to))?)?;
            binding.bind_input("length", &numbers(std::iter::once(length))?)?;
            for (i, cache) in caches.iter_mut().enumerate() {
                binding.bind_input(graphs::to(i), cache)?;
                binding.bind_output(graphs::moved(i), cache)?;
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
