//! Copies weights to a device: staged in pinned host memory, so that the copy to the device runs
//! while the host fetches the next part from the file.

use std::ptr::NonNull;

use super::backend::Backend;
use super::buffer::Buffer;
use super::device::{BufferType, Device};
use super::guard::guarded;
use super::tensor::Tensor;
use crate::error::{Error, Result};
use crate::parallel;
use crate::sys;

/// Bytes of a stage: large enough that the cost of starting a copy is negligible.
const STAGE: usize = 16 << 20;
/// One is filled while the device reads another; the third bridges a slow page of the file.
const STAGES: usize = 3;
/// Threads that fill a stage: a disk answers several page faults at once, memory is not faster with
/// more.
const FILLERS: usize = 4;

/// Pinned memory, and the event that signals when the device has read it.
struct Stage {
    memory: Buffer,
    event: Option<NonNull<sys::ggml_backend_event>>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(event) = self.event {
            // SAFETY: owned.
            unsafe { sys::ggml_backend_event_free(event.as_ptr()) }
        }
    }
}

/// Copies to the memory of one device. Dropping it waits for pending copies.
pub(crate) struct Uploader {
    stages: Vec<Stage>,
    bytes: usize,
    next: usize,
    backend: Backend,
}

impl Uploader {
    /// For memory of this type; `None` if the device copies no faster from pinned memory: then
    /// [`Tensor::write`] is as good.
    pub(crate) fn new(memory: BufferType) -> Result<Option<Self>> {
        let Some(device) = memory.device() else {
            return Ok(None);
        };
        match device.pinned_memory() {
            Some(pinned) if device.buffer_type() == memory => {
                Self::staged(device, pinned, STAGE).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// With stages of `bytes` in memory of the type `pinned`.
    fn staged(device: Device, pinned: BufferType, bytes: usize) -> Result<Self> {
        let backend = device.backend(1)?;
        let stage = |_| -> Result<Stage> {
            Ok(Stage {
                memory: pinned.allocate(bytes, "staging weights", "free some memory")?,
                event: device.new_event(),
            })
        };
        Ok(Self {
            stages: (0..STAGES).map(stage).collect::<Result<_>>()?,
            bytes,
            next: 0,
            backend,
        })
    }

    /// Fills a tensor. `values` may be reused on return; the tensor is filled after
    /// [`finish`](Self::finish).
    pub(crate) fn write(&mut self, tensor: &Tensor, values: &[u8]) -> Result<()> {
        if values.len() != tensor.nbytes()
            || tensor.buffer_type() != Some(self.backend.device().buffer_type())
        {
            return Err(Error::Ggml(format!(
                "{} bytes do not fill {}",
                values.len(),
                tensor.label()
            )));
        }
        for (i, part) in values.chunks(self.bytes).enumerate() {
            self.wait_for(self.next)?;
            let stage = &mut self.stages[self.next];
            // SAFETY: the stage is host memory of `bytes` bytes that nobody else uses: its last
            // copy is complete.
            let into = unsafe { std::slice::from_raw_parts_mut(stage.memory.base(), self.bytes) };
            fill(&mut into[..part.len()], part);
            // SAFETY: the span lies inside the tensor; the stage stays as it is until the event.
            guarded("copying weights to a device", || unsafe {
                sys::ggml_backend_tensor_set_async(
                    self.backend.raw.as_ptr(),
                    tensor.raw.as_ptr(),
                    stage.memory.base().cast(),
                    i * self.bytes,
                    part.len(),
                );
                if let Some(event) = stage.event {
                    sys::ggml_backend_event_record(event.as_ptr(), self.backend.raw.as_ptr());
                }
            })?;
            self.next = (self.next + 1) % STAGES;
        }
        Ok(())
    }

    /// Waits until the device has read a stage.
    fn wait_for(&self, stage: usize) -> Result<()> {
        let Some(event) = self.stages[stage].event else {
            return self.finish();
        };
        // SAFETY: a live event; one that was never recorded counts as complete.
        guarded("waiting for a copy to a device", || unsafe {
            sys::ggml_backend_event_synchronize(event.as_ptr());
        })
    }

    /// Waits until all tensors are filled.
    ///
    /// # Errors
    /// The device is lost.
    pub(crate) fn finish(&self) -> Result<()> {
        self.backend.synchronize()
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        // A failure cannot be handled here, and whoever fills tensors has already waited.
        let _ = self.finish();
    }
}

/// Copies, large spans with several threads.
fn fill(into: &mut [u8], from: &[u8]) {
    const LEAST: usize = 1 << 20; // a thread starts in the time of copying less
    let share = into.len().div_ceil(FILLERS).max(LEAST);
    let shares = into.chunks_mut(share).zip(from.chunks(share));
    let threads = shares.len();
    parallel::map(shares, threads, |(into, from)| into.copy_from_slice(from));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::context::Context;
    use crate::gguf::TensorType;

    #[test]
    fn tensors_arrive_whole_whatever_their_size() {
        const BYTES: usize = 5000;
        let device = Device::cpu().unwrap();
        // The CPU copies at once: everything but the overlap is the same.
        let mut uploader = Uploader::staged(device, device.buffer_type(), BYTES).unwrap();
        let sizes = [1, BYTES - 1, BYTES, BYTES + 1, 7 * BYTES + 3];
        let context = Context::new(sizes.len()).unwrap();
        let tensors = sizes.map(|n| context.tensor(TensorType::I8, &[n], "bytes").unwrap());
        let values = sizes.map(|n| (0..n).map(|i| (i * 131 % 251) as u8).collect::<Vec<_>>());
        assert!(
            uploader.write(&tensors[0], &values[0]).is_err(),
            "no memory"
        );
        context
            .allocate(device.buffer_type(), "a test", "")
            .unwrap();
        for (tensor, values) in tensors.iter().zip(&values) {
            uploader.write(tensor, values).unwrap();
        }
        assert!(uploader.write(&tensors[0], &values[1]).is_err(), "too long");
        uploader.finish().unwrap();
        for (tensor, values) in tensors.iter().zip(&values) {
            let mut got = vec![0_u8; values.len()];
            tensor.read(0, &mut got).unwrap();
            assert_eq!(&got, values);
        }
        assert!(Uploader::new(device.buffer_type()).unwrap().is_none());
    }

    #[test]
    fn large_copies_are_whole() {
        for len in [0, 1, (1 << 20) + 1, (9 << 20) + 5] {
            let from: Vec<u8> = (0..len).map(|i| (i * 31 % 253) as u8).collect();
            let mut into = vec![0; len];
            fill(&mut into, &from);
            assert_eq!(into, from);
        }
    }
}
