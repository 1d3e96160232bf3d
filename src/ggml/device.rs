//! Devices, and the kinds of memory that they have.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use super::plugins::register;
use super::rpc::{self, Server};
use crate::error::{Error, Result};
use crate::host_memory::HostMemory;
use crate::parameter::Parameter;
use crate::sys;

/// The kind of a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The host's processor.
    Cpu,
    /// A GPU with memory of its own.
    Gpu,
    /// A GPU that shares the host's memory.
    IntegratedGpu,
    /// A helper of the CPU (BLAS, AMX).
    Accelerator,
}

/// A processor that ggml can use. Devices live as long as the process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Device(NonNull<sys::ggml_backend_device>);

// SAFETY: devices are registered once and never freed, and their queries take no locks of ours.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

impl Device {
    /// Every device, in ggml's order, without those of a server that was lost and added again. None
    /// if this build cannot run on this processor, which [`cpu`](Self::cpu) reports.
    pub fn all() -> Vec<Self> {
        if register().is_err() {
            return Vec::new();
        }
        // SAFETY: indices below the count are valid.
        let all: Vec<Self> = unsafe {
            (0..sys::ggml_backend_dev_count())
                .filter_map(|i| Self::from_raw(sys::ggml_backend_dev_get(i)))
                .collect()
        };
        let is_current = |device: &Self| device.server().is_none_or(|s| !s.is_superseded());
        all.into_iter().filter(is_current).collect()
    }

    /// A device that ggml has registered.
    pub(super) fn from_raw(raw: sys::ggml_backend_dev_t) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }

    /// The host's processor.
    pub fn cpu() -> Result<Self> {
        register()?;
        Self::all()
            .into_iter()
            .find(|d| d.kind() == DeviceKind::Cpu)
            .ok_or_else(|| {
                Error::device(
                    "CPU",
                    "no backend for it was found: put libggml-cpu beside the program, or beside the shared \
                     library that it uses",
                )
            })
    }

    /// The device with this name, as [`name`](Self::name) returns it; case does not matter.
    pub fn by_name(name: &str) -> Result<Self> {
        register()?;
        let all = Self::all();
        all.iter()
            .copied()
            .find(|d| d.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| {
                let names: Vec<String> = all.iter().map(Self::name).collect();
                Error::parameter(
                    Parameter::Devices,
                    format!("there is no '{name}'; there are: {}", names.join(", ")),
                )
            })
    }

    fn text(raw: *const std::ffi::c_char) -> String {
        if raw.is_null() {
            return String::new();
        }
        // SAFETY: ggml returns terminated strings that live as long as the device.
        unsafe { CStr::from_ptr(raw) }
            .to_string_lossy()
            .into_owned()
    }

    /// Short name, such as `CPU` or `CUDA0`.
    pub fn name(&self) -> String {
        // SAFETY: a live device.
        Self::text(unsafe { sys::ggml_backend_dev_name(self.0.as_ptr()) })
    }

    /// A description of the device, such as the processor's model, or `HOST:PORT` of its RPC
    /// server.
    pub fn description(&self) -> String {
        rpc::rename(self.own_description())
    }

    fn own_description(&self) -> String {
        // SAFETY: a live device.
        Self::text(unsafe { sys::ggml_backend_dev_description(self.0.as_ptr()) })
    }

    /// The RPC server of the device.
    pub(crate) fn server(&self) -> Option<Arc<Server>> {
        // ggml describes such a device by the address of its server.
        (rpc::in_use() && self.is_remote())
            .then(|| rpc::find(&self.own_description()))
            .flatten()
    }

    /// Whether the device belongs to an RPC server.
    pub(crate) fn is_remote(&self) -> bool {
        self.registry() == "RPC"
    }

    /// # Errors
    /// The RPC server of the device is lost.
    pub(super) fn check(&self) -> Result<()> {
        self.server().map_or(Ok(()), |server| server.check())
    }

    /// Waits until the RPC server of the device has finished all its work.
    ///
    /// # Errors
    /// The server is lost.
    pub(crate) fn settle(&self) -> Result<()> {
        let Some(server) = self.server() else {
            return Ok(());
        };
        // Servers answer in order.
        self.memory();
        server.check()
    }

    /// Free and total memory in bytes; both are 0 if the device does not report them. For the host
    /// it is the memory that this process may use, within its container.
    pub fn memory(&self) -> (usize, usize) {
        // ggml reports all of the host's memory as free.
        let host = (self.kind() == DeviceKind::Cpu).then(HostMemory::read);
        if let Some(host) = host.flatten() {
            return (host.available, host.total);
        }
        let (mut free, mut total) = (0, 0);
        // SAFETY: both pointers are to live variables.
        unsafe { sys::ggml_backend_dev_memory(self.0.as_ptr(), &mut free, &mut total) };
        (free, total)
    }

    /// The kind of backend, such as `CUDA`.
    pub(crate) fn registry(&self) -> String {
        // SAFETY: a live device; every device has a registry.
        Self::text(unsafe {
            sys::ggml_backend_reg_name(sys::ggml_backend_dev_backend_reg(self.0.as_ptr()))
        })
    }

    /// The kind of processor.
    pub fn kind(&self) -> DeviceKind {
        // SAFETY: a live device.
        match unsafe { sys::ggml_backend_dev_type(self.0.as_ptr()) } {
            sys::GGML_BACKEND_DEVICE_TYPE_CPU => DeviceKind::Cpu,
            sys::GGML_BACKEND_DEVICE_TYPE_GPU => DeviceKind::Gpu,
            sys::GGML_BACKEND_DEVICE_TYPE_IGPU => DeviceKind::IntegratedGpu,
            _ => DeviceKind::Accelerator,
        }
    }

    /// The device itself, for calls of libllama.
    pub(crate) fn as_ptr(&self) -> sys::ggml_backend_dev_t {
        self.0.as_ptr()
    }

    /// The memory that graphs on this device use.
    pub(crate) fn buffer_type(&self) -> BufferType {
        // SAFETY: a live device; every device has a buffer type.
        BufferType(unsafe { sys::ggml_backend_dev_buffer_type(self.0.as_ptr()) })
    }

    /// Memory types in which this device keeps some weights rearranged to multiply them faster.
    pub(crate) fn extra_buffer_types(&self) -> Vec<BufferType> {
        type GetExtra =
            unsafe extern "C" fn(sys::ggml_backend_dev_t) -> *mut sys::ggml_backend_buffer_type_t;
        let Some(get) = self.procedure(c"ggml_backend_dev_get_extra_bufts") else {
            return Vec::new();
        };
        // SAFETY: ggml documents this name with this signature: a null-terminated array or null.
        unsafe {
            let get: GetExtra = std::mem::transmute(get);
            let mut next = get(self.0.as_ptr());
            let mut types = Vec::new();
            while !next.is_null() && !(*next).is_null() {
                types.push(BufferType(*next));
                next = next.add(1);
            }
            types
        }
    }

    pub(super) fn procedure(&self, name: &CStr) -> Option<NonNull<c_void>> {
        // SAFETY: a live device and a terminated string.
        unsafe {
            let reg = sys::ggml_backend_dev_backend_reg(self.0.as_ptr());
            NonNull::new(sys::ggml_backend_reg_get_proc_address(reg, name.as_ptr()))
        }
    }

    /// Host memory from which this device copies asynchronously.
    pub(super) fn pinned_memory(&self) -> Option<BufferType> {
        let caps = self.capabilities();
        if !(caps.async_ && caps.host_buffer && caps.events) {
            return None;
        }
        // SAFETY: a live device.
        let pinned = unsafe { sys::ggml_backend_dev_host_buffer_type(self.0.as_ptr()) };
        (!pinned.is_null()).then_some(BufferType(pinned))
    }

    /// An event that backends of this device record, if they have events.
    pub(super) fn new_event(&self) -> Option<NonNull<sys::ggml_backend_event>> {
        // SAFETY: a live device.
        NonNull::new(unsafe { sys::ggml_backend_event_new(self.0.as_ptr()) })
    }

    fn properties(&self) -> sys::ggml_backend_dev_props {
        // SAFETY: fills a plain struct.
        unsafe {
            let mut props = std::mem::zeroed::<sys::ggml_backend_dev_props>();
            sys::ggml_backend_dev_get_props(self.0.as_ptr(), &mut props);
            props
        }
    }

    fn capabilities(&self) -> sys::ggml_backend_dev_caps {
        self.properties().caps
    }

    /// The position of the device on its bus, the same in every backend; not all have one.
    pub(super) fn id(&self) -> Option<String> {
        let id = Self::text(self.properties().device_id);
        (!id.is_empty()).then_some(id)
    }

    /// Whether weights can be used in place in host memory, such as a mapped file.
    pub(crate) fn takes_host_pointers(&self) -> bool {
        self.capabilities().buffer_from_host_ptr
    }
}

/// A kind of memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BufferType(sys::ggml_backend_buffer_type_t);

// SAFETY: buffer types are static descriptions.
unsafe impl Send for BufferType {}
// SAFETY: as above.
unsafe impl Sync for BufferType {}

impl std::fmt::Debug for BufferType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

impl BufferType {
    /// The description itself, for calls of libllama.
    pub(crate) fn as_ptr(&self) -> sys::ggml_backend_buffer_type_t {
        self.0
    }

    /// The kind of a buffer; `None` without one.
    pub(super) fn of(buffer: sys::ggml_backend_buffer_t) -> Option<Self> {
        // SAFETY: not null, so a buffer that a tensor's arena keeps alive.
        (!buffer.is_null()).then(|| Self(unsafe { sys::ggml_backend_buffer_get_type(buffer) }))
    }

    /// The device whose memory this is.
    pub(crate) fn device(&self) -> Option<Device> {
        // SAFETY: a live description.
        NonNull::new(unsafe { sys::ggml_backend_buft_get_device(self.0) }).map(Device)
    }

    /// Whether the host can read and write this memory itself: values lie there as in the file.
    pub(crate) fn is_host(&self) -> bool {
        // SAFETY: a live description.
        unsafe { sys::ggml_backend_buft_is_host(self.0) }
    }

    /// Name, such as `CPU`, `CUDA0` or `RPC0[192.168.0.5:50052]`.
    pub(crate) fn name(&self) -> String {
        // SAFETY: a live description.
        rpc::rename(Device::text(unsafe { sys::ggml_backend_buft_name(self.0) }))
    }

    /// # Errors
    /// The RPC server that has this memory is lost.
    pub(super) fn check(&self) -> Result<()> {
        match rpc::in_use() {
            true => self.device().map_or(Ok(()), |device| device.check()),
            false => Ok(()),
        }
    }
}
