//! Where tensors and graphs are described.

use std::cell::Cell;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use super::arena::Arena;
use super::buffer::{Allocation, Buffer};
use super::device::BufferType;
use super::tensor::{Tensor, shape};
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::sys;

/// A place where tensors and graphs are described. It holds no tensor data.
pub(crate) struct Context {
    pub(super) arena: Arc<Arena>,
    capacity: usize,
    /// Name of the tensors that are made from now on.
    label: Cell<Option<&'static CStr>>,
    /// Building a graph writes to the arena without a lock: a context stays on one thread.
    not_sync: PhantomData<Cell<()>>,
}

/// Each of our operations makes at most this number of tensors.
const TENSORS_PER_OP: usize = 4;

impl Context {
    /// Room for `capacity` tensors, and for graphs of the same number of nodes.
    pub(crate) fn new(capacity: usize) -> Result<Self> {
        // SAFETY: plain size queries without arguments that could be wrong.
        let bytes = unsafe {
            sys::ggml_tensor_overhead() * (capacity + TENSORS_PER_OP)
                + sys::ggml_graph_overhead_custom(capacity, false)
        };
        super::headroom::check("graph description", bytes)?; // ggml aborts without
        // SAFETY: ggml allocates the arena itself when `mem_buffer` is null.
        let raw = unsafe {
            sys::ggml_init(sys::ggml_init_params {
                mem_size: bytes,
                mem_buffer: std::ptr::null_mut(),
                no_alloc: true,
            })
        };
        let raw = NonNull::new(raw).ok_or_else(|| Error::OutOfMemory {
            what: "graph description".into(),
            device: "the host".into(),
            bytes,
            advice: "free some memory".into(),
        })?;
        Ok(Self {
            arena: Arc::new(Arena {
                raw,
                keep: Mutex::default(),
            }),
            capacity,
            label: Cell::new(None),
            not_sync: PhantomData,
        })
    }

    /// Sets the name of the results of the operations that follow; errors and profiles show it.
    pub(crate) fn label(&self, label: &'static CStr) {
        self.label.set(Some(label));
    }

    pub(super) fn raw(&self) -> *mut sys::ggml_context {
        self.arena.raw.as_ptr()
    }

    /// Rejects a tensor beyond the capacity of the arena: ggml would abort.
    pub(super) fn ensure_room(&self) -> Result<()> {
        // SAFETY: queries of a live context.
        let (used, size, tensor) = unsafe {
            (
                sys::ggml_used_mem(self.raw()),
                sys::ggml_get_mem_size(self.raw()),
                sys::ggml_tensor_overhead(),
            )
        };
        if used + TENSORS_PER_OP * tensor > size {
            return Err(Error::Ggml(format!(
                "a graph needs more than the {} tensors that were planned for it",
                self.capacity
            )));
        }
        Ok(())
    }

    /// A new tensor without data.
    pub(crate) fn tensor(&self, ty: TensorType, ne: &[usize], name: &str) -> Result<Tensor> {
        self.ensure_room()?;
        let full = shape(ne);
        if full.contains(&0) || !full[0].is_multiple_of(ty.block_len()) {
            return Err(Error::Ggml(format!(
                "{name}: no tensor of type {} can have the shape {ne:?}",
                ty.name()
            )));
        }
        let dims = full.map(|n| n as i64);
        // SAFETY: `dims` has four entries and the arena has room.
        let raw = unsafe {
            sys::ggml_new_tensor(self.raw(), ty.id() as sys::ggml_type, 4, dims.as_ptr())
        };
        Ok(self.own(raw)?.named(name))
    }

    /// Takes over a tensor that ggml just created in this context.
    pub(super) fn own(&self, raw: *mut sys::ggml_tensor) -> Result<Tensor> {
        let raw = NonNull::new(raw).ok_or_else(|| Error::Ggml("no room for a tensor".into()))?;
        if let Some(label) = self.label.get() {
            // SAFETY: as in `Tensor::named`.
            unsafe { sys::ggml_set_name(raw.as_ptr(), label.as_ptr()) };
        }
        Ok(Tensor {
            raw,
            arena: Arc::clone(&self.arena),
        })
    }

    /// Remembers the arena of an operand, so that it lives as long as this context.
    pub(super) fn reads(&self, operand: &Tensor) -> *mut sys::ggml_tensor {
        if !Arc::ptr_eq(&operand.arena, &self.arena) {
            let mut keep = self.arena.keep();
            if !keep.arenas.iter().any(|a| Arc::ptr_eq(a, &operand.arena)) {
                keep.arenas.push(Arc::clone(&operand.arena));
            }
        }
        operand.raw.as_ptr()
    }

    /// Gives every tensor of this context memory in one buffer of the given type.
    pub(crate) fn allocate(&self, ty: BufferType, what: &str, advice: &str) -> Result<Arc<Buffer>> {
        self.place(Allocation::Real, ty, what, advice)
    }

    /// Gives every tensor of this context a placement in one buffer of the given type.
    pub(crate) fn place(
        &self,
        allocation: Allocation,
        ty: BufferType,
        what: &str,
        advice: &str,
    ) -> Result<Arc<Buffer>> {
        self.check_sizes(ty, what, advice)?;
        let buffer = Arc::new(match allocation {
            Allocation::Real => self.allocate_tensors(ty, what, advice)?,
            Allocation::Measured => self.stand_in(ty)?,
        });
        self.keep(&buffer);
        Ok(buffer)
    }

    /// Rejects a tensor that is too large for the device, whatever memory it has: Vulkan limits what
    /// a shader can address. ggml would abort when it plans a graph that reads the tensor.
    fn check_sizes(&self, ty: BufferType, what: &str, advice: &str) -> Result<()> {
        let Some(device) = ty.device().filter(|_| !ty.is_host()) else {
            return Ok(());
        };
        // SAFETY: tensors of a live context and a live device; pure queries.
        unsafe {
            let mut tensor = sys::ggml_get_first_tensor(self.raw());
            while !tensor.is_null() {
                if !sys::ggml_backend_dev_supports_op(device.as_ptr(), tensor) {
                    let name = CStr::from_ptr((*tensor).name.as_ptr()).to_string_lossy();
                    return Err(Error::OutOfMemory {
                        what: format!("the tensor {name} of {what}"),
                        device: ty.name(),
                        bytes: sys::ggml_nbytes(tensor),
                        advice: format!("a tensor of this device must be smaller: {advice}"),
                    });
                }
                tensor = sys::ggml_get_next_tensor(self.raw(), tensor);
            }
        }
        Ok(())
    }

    /// Bytes of a buffer for every tensor of this context that has no memory.
    fn bytes_in(&self, ty: BufferType) -> usize {
        // SAFETY: a live context and type; a pure query.
        unsafe { sys::ggml_backend_alloc_ctx_tensors_from_buft_size(self.raw(), ty.as_ptr()) }
    }

    /// Memory of a type for every tensor that has none.
    fn allocate_tensors(&self, ty: BufferType, what: &str, advice: &str) -> Result<Buffer> {
        let bytes = self.bytes_in(ty);
        // A size near the address space makes ggml's aligned allocation overflow.
        let raw = if bytes > isize::MAX as usize / 2 {
            std::ptr::null_mut()
        } else {
            // SAFETY: a live context and type.
            unsafe { sys::ggml_backend_alloc_ctx_tensors_from_buft(self.raw(), ty.as_ptr()) }
        };
        Buffer::taken(raw, ty, bytes, what, advice)
    }

    /// Gives every tensor of a context without views a placement in memory of a type, but no
    /// memory: graphs that read them can be measured, but not computed.
    fn stand_in(&self, ty: BufferType) -> Result<Buffer> {
        let buffer = Buffer::stand_in(ty, self.bytes_in(ty))?;
        // SAFETY: tensors of a live context, whose arena keeps the buffer alive.
        unsafe {
            let mut tensor = sys::ggml_get_first_tensor(self.raw());
            while !tensor.is_null() {
                (*tensor).buffer = buffer.raw.as_ptr();
                tensor = sys::ggml_get_next_tensor(self.raw(), tensor);
            }
        }
        Ok(buffer)
    }

    /// Keeps a buffer alive as long as the tensors of this context.
    pub(crate) fn keep(&self, buffer: &Arc<Buffer>) {
        self.arena.keep().buffers.push(Arc::clone(buffer));
    }
}
