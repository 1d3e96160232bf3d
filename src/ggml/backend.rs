//! Devices, the backends that run graphs on them, and buffers in their memory.

use std::ffi::{CStr, CString, c_void};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::{fs, io};

use super::guard::guarded;
use super::rpc::{self, Server};
use super::tensor::{Context, Tensor};
use crate::error::{Error, Result};
use crate::gguf::Mapping;
use crate::host_memory::HostMemory;
use crate::sys;

/// What kind of processor a device is.
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

// SAFETY: devices are registered once, are never freed, and their queries take no locks of ours.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

/// Finds the backends: those linked in register by themselves, plug-ins are loaded from beside this
/// code. ggml's own search would look beside the program, which may be a host that knows nothing of
/// plug-ins, and run what lies in the current directory, such as that of a downloaded model. It is
/// left out, but for the one file that the user may name in `GGML_BACKEND_PATH`.
///
/// # Errors
/// The processor cannot run them.
pub(super) fn register() -> Result<()> {
    super::processor::check()?;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        super::log::capture();
        if cfg!(feature = "dynamic-backends")
            && let Some(dir) = own_file().as_deref().and_then(Path::parent)
            && let Ok(dir) = c_path(dir)
        {
            // SAFETY: a terminated string.
            unsafe { sys::ggml_backend_load_all_from_path(dir.as_ptr()) };
        }
    });
    Ok(())
}

/// The file that holds this code: the program or, as far as Linux tells, a shared library in one of
/// another language.
fn own_file() -> Option<PathBuf> {
    if !cfg!(target_os = "linux") {
        return std::env::current_exe().ok();
    }
    // `dladdr` would give the name that a program was called by, maybe relative to another directory.
    let here = own_file as *const () as usize;
    let maps = fs::read("/proc/self/maps").ok()?;
    String::from_utf8_lossy(&maps).lines().find_map(|line| {
        // START-END PERMISSIONS OFFSET DEVICE INODE PATH
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let mapped = address(start)?..address(end)?;
        let path = &rest[rest.find('/')?..];
        mapped.contains(&here).then(|| PathBuf::from(path))
    })
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::parameter("backend directory", "the path contains a zero byte"))
}

/// Loads plug-in backends from a directory, beside those that were found already. They must come
/// from the same build as this crate, one with the feature `dynamic-backends`: others bring another
/// ggml.
pub fn load_backends(dir: &Path) -> Result<()> {
    let text = c_path(dir)?;
    if !dir.is_dir() {
        return Err(Error::parameter(
            "backend directory",
            format!("{} is not a directory", dir.display()),
        ));
    }
    if !cfg!(feature = "dynamic-backends") {
        return Err(Error::parameter(
            "backend directory",
            "this build has its backends linked in and takes no plug-ins: they need one with the \
             feature `dynamic-backends`",
        ));
    }
    register()?;
    // SAFETY: a terminated string.
    unsafe { sys::ggml_backend_load_all_from_path(text.as_ptr()) };
    Ok(())
}

impl Device {
    /// Every device, in ggml's order. Those of a server that was lost and added again are left out.
    /// None if this build cannot run on this processor, which [`cpu`](Self::cpu) reports.
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
                Error::Ggml(
                    "no CPU backend was found: put libggml-cpu beside the program, or beside the \
                     shared library that it uses"
                        .into(),
                )
            })
    }

    /// The device of this name, as [`name`](Self::name) gives it; case does not matter.
    pub fn by_name(name: &str) -> Result<Self> {
        register()?;
        let all = Self::all();
        all.iter()
            .copied()
            .find(|d| d.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| {
                let names: Vec<String> = all.iter().map(Self::name).collect();
                Error::parameter(
                    "device",
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

    /// What the device is, such as the processor's model, or `HOST:PORT` of the RPC server that has it.
    pub fn description(&self) -> String {
        rpc::rename(self.own_description())
    }

    fn own_description(&self) -> String {
        // SAFETY: a live device.
        Self::text(unsafe { sys::ggml_backend_dev_description(self.0.as_ptr()) })
    }

    /// The RPC server that has the device.
    pub(crate) fn server(&self) -> Option<Arc<Server>> {
        // ggml describes such a device by the address of its server.
        (rpc::in_use() && self.is_remote())
            .then(|| rpc::find(&self.own_description()))
            .flatten()
    }

    /// Whether an RPC server has the device.
    pub(crate) fn is_remote(&self) -> bool {
        self.registry() == "RPC"
    }

    /// # Errors
    /// The RPC server that has the device is lost.
    pub(super) fn check(&self) -> Result<()> {
        self.server().map_or(Ok(()), |server| server.check())
    }

    /// Waits until the RPC server that has the device has done all that was asked of it.
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

    /// Free and total memory in bytes; both are 0 if the device does not report them. For the host it
    /// is what this process may have, in its container.
    pub fn memory(&self) -> (usize, usize) {
        // ggml takes all of the host's memory to be free.
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

    /// What kind of processor it is.
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

    /// Whether the device can run this node where its operands are.
    pub(crate) fn supports(&self, node: &Tensor) -> bool {
        // SAFETY: a live device and node.
        unsafe { sys::ggml_backend_dev_supports_op(self.0.as_ptr(), node.raw.as_ptr()) }
    }

    /// Host memory from which this device copies by itself, while the host does something else.
    pub(super) fn pinned_memory(&self) -> Option<BufferType> {
        let caps = self.capabilities();
        if !(caps.async_ && caps.host_buffer && caps.events) {
            return None;
        }
        // SAFETY: a live device.
        let pinned = unsafe { sys::ggml_backend_dev_host_buffer_type(self.0.as_ptr()) };
        (!pinned.is_null()).then_some(BufferType(pinned))
    }

    /// An event that backends of this device record, where it has such.
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

    /// Where the device is on its bus, the same in every backend; not all have it.
    pub(super) fn id(&self) -> Option<String> {
        let id = Self::text(self.properties().device_id);
        (!id.is_empty()).then_some(id)
    }

    /// Whether weights can be used where they lie in host memory, such as a mapped file.
    pub(crate) fn takes_host_pointers(&self) -> bool {
        self.capabilities().buffer_from_host_ptr
    }

    /// A buffer over a mapped file, without a copy.
    pub(crate) fn map(&self, mapping: &Arc<Mapping>, largest_tensor: usize) -> Result<Arc<Buffer>> {
        let bytes: &[u8] = mapping.as_ref();
        // SAFETY: the buffer keeps the mapping alive; it is used for weights, which are only read.
        let raw = unsafe {
            sys::ggml_backend_dev_buffer_from_host_ptr(
                self.0.as_ptr(),
                bytes.as_ptr().cast_mut().cast(),
                bytes.len(),
                largest_tensor,
            )
        };
        let raw = NonNull::new(raw)
            .ok_or_else(|| Error::Ggml(format!("{} cannot use a mapped file", self.name())))?;
        Ok(Arc::new(Buffer {
            raw,
            stands_for: None,
            _mapping: Some(Arc::clone(mapping)),
        }))
    }

    /// A new backend; the CPU's computes with `threads` threads.
    pub(crate) fn backend(&self, threads: usize) -> Result<Backend> {
        let what = format!("the device {} could not be started", self.name());
        // SAFETY: a live device; null parameters are the default.
        let raw = guarded(&what, || unsafe {
            sys::ggml_backend_dev_init(self.0.as_ptr(), std::ptr::null())
        })?;
        let backend = Backend {
            raw: NonNull::new(raw).ok_or(Error::Ggml(what))?,
            device: *self,
            is_broken: AtomicBool::new(false),
        };
        // The procedure is asked for by name because a CPU plug-in is not linked.
        if let Some(set) = self.procedure(c"ggml_backend_set_n_threads") {
            // SAFETY: ggml documents this name with this signature.
            unsafe {
                let set: unsafe extern "C" fn(sys::ggml_backend_t, i32) = std::mem::transmute(set);
                set(
                    backend.raw.as_ptr(),
                    i32::try_from(threads).unwrap_or(i32::MAX),
                );
            }
        }
        Ok(backend)
    }
}

/// Whether tensors get memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allocation {
    /// They do.
    Real,
    /// They only get a place: graphs that read them can be measured, not computed.
    Measured,
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

    /// A buffer of `bytes` bytes.
    pub(super) fn allocate(&self, bytes: usize, what: &str, advice: &str) -> Result<Buffer> {
        // SAFETY: a live description.
        let raw = unsafe { sys::ggml_backend_buft_alloc_buffer(self.0, bytes) };
        self.buffer(raw, bytes, what, advice)
    }

    /// Name as `-ot` takes it, such as `CPU`, `CUDA0` or `RPC0[192.168.0.5:50052]`.
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

    /// Memory of this type for every tensor of a context that has none.
    pub(super) fn allocate_context(
        &self,
        context: &Context,
        what: &str,
        advice: &str,
    ) -> Result<Buffer> {
        // SAFETY: a live context and type; a pure query.
        let bytes =
            unsafe { sys::ggml_backend_alloc_ctx_tensors_from_buft_size(context.raw(), self.0) };
        // A size near the address space makes ggml's aligned allocation overflow.
        let raw = if bytes > isize::MAX as usize / 2 {
            std::ptr::null_mut()
        } else {
            // SAFETY: a live context and type.
            unsafe { sys::ggml_backend_alloc_ctx_tensors_from_buft(context.raw(), self.0) }
        };
        self.buffer(raw, bytes, what, advice)
    }

    /// Gives every tensor of a context without views a place in memory of this type, but no memory:
    /// graphs that read them can be measured, not computed.
    pub(super) fn stand_in_for_context(&self, context: &Context) -> Result<Buffer> {
        // SAFETY: a live context and type: a pure query, and a buffer of no bytes, which ggml makes
        // without asking the backend. The tensors' arena keeps the buffer alive.
        unsafe {
            let bytes = sys::ggml_backend_alloc_ctx_tensors_from_buft_size(context.raw(), self.0);
            let raw = sys::ggml_backend_buft_alloc_buffer(self.0, 0);
            let raw = NonNull::new(raw).ok_or_else(|| Error::Ggml("no empty buffer".into()))?;
            let mut tensor = sys::ggml_get_first_tensor(context.raw());
            while !tensor.is_null() {
                (*tensor).buffer = raw.as_ptr();
                tensor = sys::ggml_get_next_tensor(context.raw(), tensor);
            }
            Ok(Buffer {
                raw,
                stands_for: Some(bytes),
                _mapping: None,
            })
        }
    }

    /// Takes a buffer that was asked for; null is none.
    fn buffer(
        &self,
        raw: *mut sys::ggml_backend_buffer,
        bytes: usize,
        what: &str,
        advice: &str,
    ) -> Result<Buffer> {
        let raw = NonNull::new(raw).map_or_else(
            || {
                self.check()?;
                Err(Error::OutOfMemory {
                    what: what.into(),
                    device: self.name(),
                    bytes,
                    advice: advice.into(),
                })
            },
            Ok,
        )?;
        Ok(Buffer {
            raw,
            stands_for: None,
            _mapping: None,
        })
    }

    /// Whether the device can run a node that a throw-away context built with its first
    /// operand in memory of this type.
    pub(crate) fn supports(&self, device: Device, weight: &Tensor, node: &Tensor) -> bool {
        // SAFETY: an empty buffer marks where the weight would be; both are unset again before it
        // is freed, and the tensors belong to a throw-away context of this thread.
        unsafe {
            let buffer = sys::ggml_backend_buft_alloc_buffer(self.0, 0);
            if buffer.is_null() {
                return false;
            }
            (*weight.raw.as_ptr()).buffer = buffer;
            let fits = device.supports(node);
            (*weight.raw.as_ptr()).buffer = std::ptr::null_mut();
            sys::ggml_backend_buffer_free(buffer);
            fits
        }
    }
}

/// Memory on a device.
pub(crate) struct Buffer {
    raw: NonNull<sys::ggml_backend_buffer>,
    /// The bytes that tensors would take, if this only marks their place.
    stands_for: Option<usize>,
    /// The file whose pages the buffer uses.
    _mapping: Option<Arc<Mapping>>,
}

// SAFETY: a buffer is a handle; its contents are written by its one owner (weights while loading,
// caches and inputs by their session).
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: owned; every tensor in it keeps the buffer alive through its arena.
        unsafe { sys::ggml_backend_buffer_free(self.raw.as_ptr()) }
    }
}

impl Buffer {
    /// Marks the contents as weights: operations then run where their weights are.
    pub(crate) fn mark_weights(&self) {
        // SAFETY: a live buffer.
        unsafe {
            sys::ggml_backend_buffer_set_usage(
                self.raw.as_ptr(),
                sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS,
            );
        }
    }

    /// Keeps a buffer in host memory from being swapped out, until it is freed. Others are left alone.
    ///
    /// # Errors
    /// The system does not allow it.
    pub(crate) fn lock(&self) -> io::Result<()> {
        // SAFETY: a live buffer.
        if !unsafe { sys::ggml_backend_buffer_is_host(self.raw.as_ptr()) } {
            return Ok(());
        }
        #[cfg(unix)]
        {
            // SAFETY: a live buffer; locking changes nothing of its contents.
            let refused = unsafe {
                libc::mlock(
                    sys::ggml_backend_buffer_get_base(self.raw.as_ptr()),
                    self.size(),
                )
            };
            if refused == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        }
        #[cfg(not(unix))]
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The first byte, of a buffer in host memory.
    pub(super) fn base(&self) -> *mut u8 {
        // SAFETY: a live buffer.
        unsafe { sys::ggml_backend_buffer_get_base(self.raw.as_ptr()) }.cast()
    }

    /// Size in bytes, also of one that only marks a place.
    pub(crate) fn size(&self) -> usize {
        // SAFETY: a live buffer.
        self.stands_for
            .unwrap_or_else(|| unsafe { sys::ggml_backend_buffer_get_size(self.raw.as_ptr()) })
    }

    /// Places a tensor at a byte offset of this buffer.
    pub(crate) fn place(&self, tensor: &Tensor, offset: usize) -> Result<()> {
        if offset
            .checked_add(tensor.nbytes())
            .is_none_or(|end| end > self.size())
        {
            return Err(Error::Ggml(format!(
                "{} lies outside of its buffer",
                tensor.label()
            )));
        }
        // SAFETY: the tensor's bytes lie inside the buffer; it has no memory yet.
        let status = unsafe {
            let base = sys::ggml_backend_buffer_get_base(self.raw.as_ptr()).cast::<u8>();
            sys::ggml_backend_tensor_alloc(
                self.raw.as_ptr(),
                tensor.raw.as_ptr(),
                base.add(offset).cast(),
            )
        };
        if status == sys::GGML_STATUS_SUCCESS {
            Ok(())
        } else {
            Err(Error::Ggml(format!(
                "{} could not be placed in its buffer",
                tensor.label()
            )))
        }
    }
}

/// A stream of work on a device.
pub(crate) struct Backend {
    pub(super) raw: NonNull<sys::ggml_backend>,
    device: Device,
    is_broken: AtomicBool,
}

// SAFETY: work is submitted only by executors and uploaders, and those that share a backend have one
// owner and hence one thread at a time.
unsafe impl Send for Backend {}
// SAFETY: as above: a shared reference submits nothing without its owner.
unsafe impl Sync for Backend {}

impl Drop for Backend {
    fn drop(&mut self) {
        let what = format!("releasing the device {}", self.device.name());
        // SAFETY: owned.
        if let Err(error) = guarded(&what, || unsafe {
            sys::ggml_backend_free(self.raw.as_ptr())
        }) {
            tracing::warn!("{error}");
        }
    }
}

impl Backend {
    /// The device it runs on.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// Waits for all that was submitted.
    ///
    /// # Errors
    /// The device is lost.
    pub(super) fn synchronize(&self) -> Result<()> {
        let what = format!("waiting for the device {}", self.device.name());
        // SAFETY: a live backend.
        guarded(&what, || unsafe {
            sys::ggml_backend_synchronize(self.raw.as_ptr());
        })
    }

    /// Marks that a computation ended in the middle: no other one may follow it.
    pub(super) fn break_down(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
    }

    /// Whether a computation ended in the middle.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plug_ins_are_looked_for_beside_the_file_that_holds_this_code() {
        assert_eq!(own_file(), std::env::current_exe().ok());
    }

    #[cfg(not(feature = "dynamic-backends"))]
    #[test]
    fn plug_ins_are_refused_where_the_backends_are_linked_in() {
        let refused = load_backends(Path::new(".")).unwrap_err().to_string();
        assert!(refused.contains("`dynamic-backends`"), "{refused}");
    }
}
