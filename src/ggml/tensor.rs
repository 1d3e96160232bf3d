//! Arenas of tensor descriptions and handles into them.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::ptr::NonNull;
#[cfg(test)]
use std::sync::Weak;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::backend::{Allocation, Buffer, BufferType};
use super::guard::guarded;
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::sys;

/// Dimensions of a tensor, fastest first, always four as in ggml (unused ones are 1).
pub(crate) type Shape = [usize; 4];

/// Fills a shape up to four dimensions.
pub(crate) fn shape(ne: &[usize]) -> Shape {
    let mut full = [1; 4];
    full[..ne.len()].copy_from_slice(ne);
    full
}

/// The memory behind a [`Context`]: descriptions of tensors and graphs, and the buffers that
/// hold the data of those tensors that were given one for good.
pub(super) struct Arena {
    raw: NonNull<sys::ggml_context>,
    /// What the tensors of this arena point to: it must live as long as any handle to them.
    keep: Mutex<Keep>,
}

#[derive(Default)]
struct Keep {
    buffers: Vec<Arc<Buffer>>,
    /// Arenas whose tensors are operands or view sources of this arena's tensors.
    arenas: Vec<Arc<Arena>>,
}

// SAFETY: tensor descriptions are written only through a `Context`, which is not `Sync`, and by
// the scheduler that owns the graph; through an `Arena` handle they are only read.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    fn keep(&self) -> MutexGuard<'_, Keep> {
        self.keep.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the arena owns `raw`; every tensor handle keeps the arena alive.
        unsafe { sys::ggml_free(self.raw.as_ptr()) }
    }
}

/// A place where tensors and graphs are described. No tensor data is kept in it.
pub(crate) struct Context {
    pub(super) arena: Arc<Arena>,
    capacity: usize,
    /// Name of the tensors that are made from now on.
    label: Cell<Option<&'static CStr>>,
    /// Building a graph writes to the arena without a lock: a context stays with one thread.
    not_sync: PhantomData<Cell<()>>,
}

/// An operation of ours makes at most this many tensors.
const TENSORS_PER_OP: usize = 4;

impl Context {
    /// Room for `capacity` tensors, and for graphs of as many nodes.
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

    /// Names the results of the operations that are described from now on: errors and profiles
    /// show it.
    pub(crate) fn label(&self, label: &'static CStr) {
        self.label.set(Some(label));
    }

    pub(super) fn raw(&self) -> *mut sys::ggml_context {
        self.arena.raw.as_ptr()
    }

    /// Refuses a tensor more than the arena was made for: ggml would abort.
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

    /// Takes a tensor that ggml just created in this context.
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

    /// Gives every tensor of this context a place in one buffer of the given type.
    pub(crate) fn place(
        &self,
        allocation: Allocation,
        ty: BufferType,
        what: &str,
        advice: &str,
    ) -> Result<Arc<Buffer>> {
        let buffer = Arc::new(match allocation {
            Allocation::Real => ty.allocate_context(self, what, advice)?,
            Allocation::Measured => ty.stand_in_for_context(self)?,
        });
        self.keep(&buffer);
        Ok(buffer)
    }

    /// Keeps a buffer alive as long as the tensors of this context.
    pub(crate) fn keep(&self, buffer: &Arc<Buffer>) {
        self.arena.keep().buffers.push(Arc::clone(buffer));
    }
}

/// A handle to a tensor; keeps its arena (and the buffers given to the arena) alive.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(super) raw: NonNull<sys::ggml_tensor>,
    pub(super) arena: Arc<Arena>,
}

// SAFETY: a handle reads the description only; see `Arena`.
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

impl Tensor {
    pub(super) fn desc(&self) -> &sys::ggml_tensor {
        // SAFETY: the arena that holds the description lives as long as the handle.
        unsafe { self.raw.as_ref() }
    }

    /// Elements along each dimension, fastest first.
    pub(crate) fn ne(&self) -> Shape {
        self.desc().ne.map(|n| n as usize)
    }

    /// Bytes from one element to the next along each dimension.
    pub(crate) fn nb(&self) -> Shape {
        self.desc().nb
    }

    /// The element type, or `None` for one this crate does not know.
    pub(crate) fn ty(&self) -> Option<TensorType> {
        // C enums are signed on some systems.
        #[allow(clippy::unnecessary_cast)]
        TensorType::from_id(self.desc().type_ as u32)
    }

    /// Whether the elements are of this type.
    pub(crate) fn is(&self, ty: TensorType) -> bool {
        self.ty() == Some(ty)
    }

    /// Bytes that the tensor spans.
    pub(crate) fn nbytes(&self) -> usize {
        // SAFETY: reads the description only.
        unsafe { sys::ggml_nbytes(self.raw.as_ptr()) }
    }

    /// Whether elements follow each other without gaps.
    pub(crate) fn is_contiguous(&self) -> bool {
        // SAFETY: reads the description only.
        unsafe { sys::ggml_is_contiguous(self.raw.as_ptr()) }
    }

    /// Sets the name that errors and profiles show; longer ones are cut by ggml.
    pub(crate) fn named(self, name: &str) -> Self {
        if let Ok(name) = CString::new(name) {
            // SAFETY: ggml copies the string into the description, cut to its room. The handle was
            // just made, nobody else reads the name yet.
            unsafe { sys::ggml_set_name(self.raw.as_ptr(), name.as_ptr()) };
        }
        self
    }

    /// Marks a result that the host reads: its memory is not reused by later nodes.
    pub(crate) fn output(self) -> Self {
        // SAFETY: sets a flag of the description, before any allocation.
        unsafe { sys::ggml_set_output(self.raw.as_ptr()) };
        self
    }

    /// What to call the tensor in an error.
    pub(super) fn label(&self) -> String {
        // SAFETY: ggml keeps the name terminated within the description.
        let name = unsafe { CStr::from_ptr(self.desc().name.as_ptr()) };
        let ty = self.ty().map_or("?", TensorType::name);
        format!("{}[{ty} {:?}]", name.to_string_lossy(), self.ne())
    }

    /// The kind of memory in which the tensor's data lies, if it has any.
    pub(crate) fn buffer_type(&self) -> Option<BufferType> {
        // SAFETY: `view_src` points into an arena that this tensor's arena keeps alive.
        let source = unsafe { self.desc().view_src.as_ref() }.unwrap_or(self.desc());
        BufferType::of(source.buffer)
    }

    /// The memory of the tensor's context, to see when it is freed.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> Weak<Buffer> {
        Arc::downgrade(&self.arena.keep().buffers[0])
    }

    /// Whether the tensor has memory in a buffer.
    fn has_data(&self) -> bool {
        let holds = |t: &sys::ggml_tensor| !t.buffer.is_null() && !t.data.is_null();
        // SAFETY: `view_src` points into an arena that this tensor's arena keeps alive.
        holds(self.desc()) || unsafe { self.desc().view_src.as_ref() }.is_some_and(holds)
    }

    fn check_span(&self, offset: usize, bytes: usize) -> Result<()> {
        if !self.has_data() {
            return Err(Error::Ggml(format!("{} has no memory yet", self.label())));
        }
        if offset
            .checked_add(bytes)
            .is_none_or(|end| end > self.nbytes())
        {
            return Err(Error::Ggml(format!(
                "{bytes} bytes at {offset} lie outside of {}",
                self.label()
            )));
        }
        Ok(())
    }

    /// # Errors
    /// The RPC server that has the tensor's memory is lost: nothing was copied, or zeros.
    fn check_memory(&self) -> Result<()> {
        self.buffer_type().map_or(Ok(()), |memory| memory.check())
    }

    /// Copies host values into the tensor's memory, from its byte `offset` on.
    pub(crate) fn write<T: Plain>(&self, offset: usize, values: &[T]) -> Result<()> {
        let bytes = size_of_val(values);
        self.check_span(offset, bytes)?;
        if bytes > 0 {
            // SAFETY: the span lies inside the tensor, and `Plain` values have no padding.
            transfer(bytes, || unsafe {
                sys::ggml_backend_tensor_set(
                    self.raw.as_ptr(),
                    values.as_ptr().cast(),
                    offset,
                    bytes,
                )
            })?;
        }
        self.check_memory()
    }

    /// Copies `rows` rows of `width` values into the tensor: row r to byte `offset + r * stride`.
    pub(crate) fn write_rows<T: Plain>(
        &self,
        offset: usize,
        stride: usize,
        width: usize,
        rows: &[T],
    ) -> Result<()> {
        let (count, bytes) = (rows.len() / width, width * size_of::<T>());
        if count == 0 {
            return Ok(());
        }
        self.check_span(offset, (count - 1) * stride + bytes)?;
        // SAFETY: every row lies inside the tensor and inside `rows`.
        transfer(count * bytes, || unsafe {
            sys::ggml_backend_tensor_set_2d(
                self.raw.as_ptr(),
                rows.as_ptr().cast(),
                offset,
                bytes,
                count,
                stride,
                bytes,
            );
        })?;
        self.check_memory()
    }

    /// Copies the tensor's memory to the host, from its byte `offset` on.
    pub(crate) fn read<T: Plain>(&self, offset: usize, values: &mut [T]) -> Result<()> {
        let bytes = size_of_val(values);
        self.check_span(offset, bytes)?;
        if bytes > 0 {
            // SAFETY: the span lies inside the tensor, and every bit pattern is a valid `Plain`.
            transfer(bytes, || unsafe {
                sys::ggml_backend_tensor_get(
                    self.raw.as_ptr(),
                    values.as_mut_ptr().cast(),
                    offset,
                    bytes,
                )
            })?;
        }
        self.check_memory()
    }

    /// Sets every byte of the tensor to zero.
    pub(crate) fn zero(&self) -> Result<()> {
        let bytes = self.nbytes();
        self.check_span(0, bytes)?;
        // SAFETY: the span is the tensor itself.
        guarded("clearing a tensor", || unsafe {
            sys::ggml_backend_tensor_memset(self.raw.as_ptr(), 0, 0, bytes);
        })?;
        self.check_memory()
    }
}

/// What went between host and tensors.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Transfers {
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
}

thread_local! {
    static TRANSFERRED: Cell<Transfers> = const {
        Cell::new(Transfers { bytes: 0, time: Duration::ZERO })
    };
}

fn transfer(bytes: usize, copy: impl FnOnce()) -> Result<()> {
    let start = Instant::now();
    guarded("copying to or from a device", copy)?;
    let before = TRANSFERRED.get();
    TRANSFERRED.set(Transfers {
        bytes: before.bytes.wrapping_add(bytes),
        time: before.time + start.elapsed(),
    });
    Ok(())
}

/// What this thread wrote to and read from tensors since it started.
pub(crate) fn transferred() -> Transfers {
    TRANSFERRED.get()
}

/// Values without padding whose every bit pattern is valid.
pub(crate) trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for i32 {}
impl Plain for i64 {}
impl Plain for u8 {}
impl Plain for u16 {}
