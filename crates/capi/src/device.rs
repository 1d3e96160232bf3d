//! The devices that models can run on.

use std::ffi::c_char;
use std::mem::offset_of;
use std::time::Duration;

use super::border::{Failure, StructOutput, Versioned, c_str, guard, output};
use super::error::{diffusion_error, diffusion_status};
use llama_diffusion::{Device, DeviceKind, RPC_TIMEOUT};

/// What kind of processor a device is.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum diffusion_device_type {
    /// The host's processor.
    Cpu = 0,
    /// A GPU with memory of its own.
    Gpu = 1,
    /// A GPU that shares the host's memory.
    IntegratedGpu = 2,
    /// An accelerator that assists the CPU.
    Accelerator = 3,
}

/// Size of `diffusion_device.name`.
pub const DIFFUSION_DEVICE_NAME_SIZE: usize = 64;
/// Size of `diffusion_device.description`.
pub const DIFFUSION_DEVICE_DESCRIPTION_SIZE: usize = 256;

/// A device.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_device {
    /// Set it to `sizeof(diffusion_device)` before the call.
    pub struct_size: usize,
    /// Bytes of its memory that are free now; 0 if the device does not report it.
    pub memory_free: u64,
    /// Total bytes of its memory.
    pub memory_total: u64,
    /// Its name in `diffusion_model_params.devices`, such as "CUDA0". Terminated by a zero byte,
    /// truncated if it is too long.
    pub name: [c_char; DIFFUSION_DEVICE_NAME_SIZE],
    /// What it is, such as the model of the processor, or the endpoint of its RPC server.
    /// Terminated and truncated as `name`.
    pub description: [c_char; DIFFUSION_DEVICE_DESCRIPTION_SIZE],
    /// A `diffusion_device_type`.
    pub kind: i32,
    /// 1 for a software GPU, a driver that computes on the host's processor (Mesa's llvmpipe),
    /// which is used only if `diffusion_model_params.devices` names it. 0 otherwise.
    pub is_software: i32,
}

// SAFETY: integers in C's layout, the size first.
unsafe impl Versioned for diffusion_device {
    const NAME: &'static str = "diffusion_device";
    const FIRST_SIZE: usize = offset_of!(Self, is_software) + size_of::<i32>();
}

fn array<const SIZE: usize>(text: &str) -> [c_char; SIZE] {
    let mut array = [0; SIZE];
    for (to, from) in array[..SIZE - 1].iter_mut().zip(text.bytes()) {
        *to = from as c_char;
    }
    array
}

/// Fails where this build cannot run.
fn devices() -> Result<Vec<Device>, Failure> {
    Device::cpu()?;
    Ok(Device::all())
}

/// The number of devices. Any thread may call it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_device_count(
    count: *mut usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        let count = output(count, "count")?;
        // SAFETY: by the rules of the header.
        unsafe { count.write(devices()?.len()) };
        Ok(())
    })
}

/// Describes a device. Any thread may call it.
///
/// `index`: from 0 to `diffusion_device_count` - 1.
///
/// Errors: `NOT_FOUND` for any other index.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_device_get(
    index: usize,
    device: *mut diffusion_device,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        let out = unsafe { StructOutput::new(device, "device") }?;
        let all = devices()?;
        let device = all.get(index).ok_or_else(|| {
            let problem = format!("index: is {index}, but there are {} devices", all.len());
            Failure::new(diffusion_status::NotFound, problem)
        })?;
        let (free, total) = device.memory();
        let kind = match device.kind() {
            DeviceKind::Cpu => diffusion_device_type::Cpu,
            DeviceKind::Gpu => diffusion_device_type::Gpu,
            DeviceKind::IntegratedGpu => diffusion_device_type::IntegratedGpu,
            DeviceKind::Accelerator => diffusion_device_type::Accelerator,
        };
        out.write(&diffusion_device {
            struct_size: 0,
            memory_free: free as u64,
            memory_total: total as u64,
            name: array(&device.name()),
            description: array(&device.description()),
            kind: kind as i32,
            is_software: device.is_software().into(),
        });
        Ok(())
    })
}

/// Connects to an RPC server on another machine: llama.cpp's `rpc-server`, or `llama-diffusion-cli
/// rpc-server`. From then on `diffusion_device_count` includes its devices, with the endpoint as
/// their description. A server that is already connected is not connected again. A server that was
/// lost is, and its devices are new ones. Any thread may call it.
///
/// If the server is lost or silent for too long, work on its devices fails with
/// `DIFFUSION_STATUS_BACKEND`, and models stored there can only be freed: add the server again and
/// reload them. The protocol neither encrypts nor authenticates: use it only in networks that you
/// trust.
///
/// `endpoint`: "HOST:PORT", such as "gpu-box:50052" or, for IPv6, "`[::1]:50052`".
///
/// `timeout_ms`: how long the server may be silent, in milliseconds. 0 is the default, 300,000: a
/// pass over a long prompt may take minutes on a slow machine.
///
/// Errors: `BACKEND` if nothing answers there, or something other than a server of this version of
/// the protocol.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_rpc_add_server(
    endpoint: *const c_char,
    timeout_ms: u32,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        let endpoint = unsafe { c_str(endpoint, "endpoint") }?;
        let timeout = match timeout_ms {
            0 => RPC_TIMEOUT,
            milliseconds => Duration::from_millis(milliseconds.into()),
        };
        Device::add_rpc_server(endpoint, timeout)?;
        Ok(())
    })
}
