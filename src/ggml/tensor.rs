//! Handles to tensors.

use std::ffi::{CStr, CString};
use std::ptr::NonNull;
use std::sync::Arc;
#[cfg(test)]
use std::sync::Weak;

use super::arena::Arena;
use super::buffer::Buffer;
use super::device::{BufferType, Device};
use super::guard::guarded;
use super::transfer::{Plain, transfer};
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::sys;

/// Dimensions of a tensor, fastest first, always four as in ggml (unused ones are 1).
pub(crate) type Shape = [usize; 4];

/// Extends a shape to four dimensions.
pub(crate) fn shape(ne: &[usize]) -> Shape {
    let mut full = [1; 4];
    full[..ne.len()].copy_from_slice(ne);
    full
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

    /// The element type, or `None` for one that this crate does not know.
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

    /// Sets the name that errors and profiles show; ggml truncates longer ones.
    pub(crate) fn named(self, name: &str) -> Self {
        if let Ok(name) = CString::new(name) {
            // SAFETY: ggml copies the string into the description, truncated to its size. The
            // handle was just made, and nobody else reads the name yet.
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

    /// The name of the tensor in an error.
    pub(super) fn label(&self) -> String {
        // SAFETY: ggml keeps the name terminated within the description.
        let name = unsafe { CStr::from_ptr(self.desc().name.as_ptr()) };
        let ty = self.ty().map_or("?", TensorType::name);
        format!("{}[{ty} {:?}]", name.to_string_lossy(), self.ne())
    }

    /// The kind of memory that holds the tensor's data, if it has any.
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

    /// Whether the host can read and write the tensor's memory itself.
    pub(crate) fn is_in_host_memory(&self) -> bool {
        !self.desc().data.is_null() && self.buffer_type().is_some_and(|memory| memory.is_host())
    }

    /// Lends the tensor's first F32 values, which are in memory of the host. As with [`write`](Self::write),
    /// the owner of the memory sees to it that nothing else uses it meanwhile.
    pub(crate) fn lend(&mut self, count: usize) -> Result<&mut [f32]> {
        self.check_span(0, count * size_of::<f32>())?;
        if !self.is(TensorType::F32) || !self.is_contiguous() || !self.is_in_host_memory() {
            let problem = format!("{} is not an F32 array of the host", self.label());
            return Err(Error::Ggml(problem));
        }
        let data = self.desc().data.cast::<f32>();
        // SAFETY: the span lies inside the tensor, whose buffer lives as long as this handle and is
        // aligned for F32; `&mut self` and the owner of the memory keep others from it.
        Ok(unsafe { std::slice::from_raw_parts_mut(data, count) })
    }

    /// Sets every byte of the tensor to zero.
    pub(crate) fn zero(&self) -> Result<()> {
        self.zero_range(0, self.nbytes())
    }

    /// Sets `bytes` bytes from byte `offset` on to zero.
    pub(crate) fn zero_range(&self, offset: usize, bytes: usize) -> Result<()> {
        self.check_span(offset, bytes)?;
        // SAFETY: the span lies inside the tensor.
        guarded("clearing a tensor", || unsafe {
            sys::ggml_backend_tensor_memset(self.raw.as_ptr(), 0, offset, bytes);
        })?;
        self.check_memory()
    }

    /// Places the tensor at a byte offset of a buffer.
    pub(crate) fn place_in(&self, buffer: &Buffer, offset: usize) -> Result<()> {
        if offset
            .checked_add(self.nbytes())
            .is_none_or(|end| end > buffer.size())
        {
            return Err(Error::Ggml(format!(
                "{} lies outside of its buffer",
                self.label()
            )));
        }
        // SAFETY: the tensor's bytes lie inside the buffer; it has no memory yet.
        let status = unsafe {
            sys::ggml_backend_tensor_alloc(
                buffer.raw.as_ptr(),
                self.raw.as_ptr(),
                buffer.base().add(offset).cast(),
            )
        };
        if status == sys::GGML_STATUS_SUCCESS {
            Ok(())
        } else {
            Err(Error::Ggml(format!(
                "{} could not be placed in its buffer",
                self.label()
            )))
        }
    }

    /// Whether the device can run this node with its operands in their present memory.
    pub(crate) fn runs_on(&self, device: Device) -> bool {
        // SAFETY: a live device and node.
        unsafe { sys::ggml_backend_dev_supports_op(device.as_ptr(), self.raw.as_ptr()) }
    }

    /// Whether the device takes this node over from the CPU, and copies weights in host memory for it.
    pub(crate) fn is_offloaded_to(&self, device: Device) -> bool {
        // SAFETY: a live device and node; a pure query.
        unsafe { sys::ggml_backend_dev_offload_op(device.as_ptr(), self.raw.as_ptr()) }
    }

    /// Whether the device can run this node, built by a temporary context, with its first operand,
    /// `weight`, in memory of this type.
    pub(crate) fn runs_on_with(&self, device: Device, weight: &Self, memory: BufferType) -> bool {
        // SAFETY: an empty buffer marks where the weight would be; both are unset again before it
        // is freed, and the tensors belong to a temporary context of this thread.
        unsafe {
            let buffer = sys::ggml_backend_buft_alloc_buffer(memory.as_ptr(), 0);
            if buffer.is_null() {
                return false;
            }
            (*weight.raw.as_ptr()).buffer = buffer;
            let fits = self.runs_on(device);
            (*weight.raw.as_ptr()).buffer = std::ptr::null_mut();
            sys::ggml_backend_buffer_free(buffer);
            fits
        }
    }
}
