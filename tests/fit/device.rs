//! GPUs of limited memory, for tests on machines without one: devices of ggml that keep their
//! buffers in host memory and compute on the CPU. They reject a buffer beyond their limit, as a GPU
//! does.
//!
//! The structures are those of ggml-backend-impl.h, which `src/sys.rs` does not bind.

#![allow(unsafe_code, reason = "ggml is C")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

type Function = Option<unsafe extern "C" fn()>;

#[repr(C)]
struct BufferType {
    get_name: unsafe extern "C" fn(*mut BufferType) -> *const c_char,
    alloc_buffer: unsafe extern "C" fn(*mut BufferType, usize) -> *mut Buffer,
    alloc_buffer_n: Function,
    get_alignment: unsafe extern "C" fn(*mut BufferType) -> usize,
    get_max_size: Function,
    get_alloc_size: Function,
    get_alloc_size_n: Function,
    is_host: Function,
    device: *mut Device,
    context: *mut c_void,
}

#[repr(C)]
struct BufferFunctions {
    free_buffer: unsafe extern "C" fn(*mut Buffer),
    get_base: unsafe extern "C" fn(*mut Buffer) -> *mut c_void,
    init_tensor: Function,
    memset_tensor: unsafe extern "C" fn(*mut Buffer, *mut c_void, u8, usize, usize),
    set_tensor: unsafe extern "C" fn(*mut Buffer, *mut c_void, *const c_void, usize, usize),
    get_tensor: unsafe extern "C" fn(*mut Buffer, *const c_void, *mut c_void, usize, usize),
    set_tensor_2d: Function,
    get_tensor_2d: Function,
    cpy_tensor: Function,
    clear: unsafe extern "C" fn(*mut Buffer, u8),
    reset: Function,
}

#[repr(C)]
struct Buffer {
    functions: BufferFunctions,
    buffer_type: *mut BufferType,
    context: *mut c_void,
    size: usize,
    usage: c_int,
}

#[repr(C)]
struct Backend {
    guid: *const [u8; 16],
    get_name: unsafe extern "C" fn(*mut Backend) -> *const c_char,
    free: unsafe extern "C" fn(*mut Backend),
    /// Asynchronous copies, synchronization, plans.
    before_compute: [Function; 10],
    graph_compute: unsafe extern "C" fn(*mut Backend, *mut c_void) -> c_int,
    /// Events, optimization.
    after_compute: [Function; 3],
    device: *mut Device,
    /// The CPU's backend.
    context: *mut c_void,
}

#[repr(C)]
struct Properties {
    name: *const c_char,
    description: *const c_char,
    memory_free: usize,
    memory_total: usize,
    kind: c_int,
    id: *const c_char,
    capabilities: [bool; 5],
}

#[repr(C)]
struct Device {
    get_name: unsafe extern "C" fn(*mut Device) -> *const c_char,
    get_description: unsafe extern "C" fn(*mut Device) -> *const c_char,
    get_memory: unsafe extern "C" fn(*mut Device, *mut usize, *mut usize),
    get_type: unsafe extern "C" fn(*mut Device) -> c_int,
    get_props: unsafe extern "C" fn(*mut Device, *mut Properties),
    init_backend: unsafe extern "C" fn(*mut Device, *const c_char) -> *mut Backend,
    get_buffer_type: unsafe extern "C" fn(*mut Device) -> *mut BufferType,
    get_host_buffer_type: Function,
    buffer_from_host_ptr: Function,
    supports_op: unsafe extern "C" fn(*mut Device, *const c_void) -> bool,
    supports_buft: unsafe extern "C" fn(*mut Device, *mut BufferType) -> bool,
    offload_op: Function,
    events: [Function; 3],
    registry: *mut Registry,
    context: *mut c_void,
}

#[repr(C)]
struct Registry {
    api_version: c_int,
    get_name: unsafe extern "C" fn(*mut Registry) -> *const c_char,
    get_device_count: unsafe extern "C" fn(*mut Registry) -> usize,
    get_device: unsafe extern "C" fn(*mut Registry, usize) -> *mut Device,
    get_proc_address: Function,
    context: *mut c_void,
}

unsafe extern "C" {
    fn ggml_backend_device_register(device: *mut Device);
    fn ggml_backend_dev_by_type(kind: c_int) -> *mut c_void;
    fn ggml_backend_dev_backend_reg(device: *mut c_void) -> *mut c_void;
    fn ggml_backend_reg_get_proc_address(registry: *mut c_void, name: *const c_char)
    -> *mut c_void;
    fn ggml_backend_dev_init(device: *mut c_void, params: *const c_char) -> *mut c_void;
    fn ggml_backend_dev_supports_op(device: *mut c_void, op: *const c_void) -> bool;
    fn ggml_backend_dev_buffer_type(device: *mut c_void) -> *mut c_void;
    fn ggml_backend_free(backend: *mut c_void);
    fn ggml_backend_graph_compute(backend: *mut c_void, graph: *mut c_void) -> c_int;
    fn ggml_backend_buft_alloc_buffer(buffer_type: *mut c_void, size: usize) -> *mut c_void;
    fn ggml_backend_buft_get_alignment(buffer_type: *mut c_void) -> usize;
    fn ggml_backend_buffer_get_base(buffer: *mut c_void) -> *mut c_void;
    fn ggml_backend_buffer_free(buffer: *mut c_void);
    fn ggml_backend_buffer_init(
        buffer_type: *mut BufferType,
        functions: BufferFunctions,
        context: *mut c_void,
        size: usize,
    ) -> *mut Buffer;
    fn ggml_get_data(tensor: *const c_void) -> *mut c_void;
    fn ggml_nbytes(tensor: *const c_void) -> usize;
}

const CPU: c_int = 0;
const GPU: c_int = 1;

/// A GPU whose memory a test sets. It lives as long as the process, as all devices do.
pub struct LimitedGpu {
    name: CString,
    limit: AtomicUsize,
    tensor_limit: AtomicUsize,
    used: AtomicUsize,
    peak: AtomicUsize,
    buffer_type: *mut BufferType,
}

// SAFETY: the pointer is to a description that never changes.
unsafe impl Sync for LimitedGpu {}
// SAFETY: as above.
unsafe impl Send for LimitedGpu {}

impl LimitedGpu {
    /// Registers the device with ggml. It has no memory yet.
    pub fn register(name: &str) -> &'static Self {
        let gpu = Box::leak(Box::new(Self {
            name: CString::new(name).unwrap(),
            limit: AtomicUsize::new(0),
            tensor_limit: AtomicUsize::new(usize::MAX),
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            buffer_type: null_mut(),
        }));
        let registry = Box::leak(Box::new(Registry {
            api_version: 3,
            get_name: registry_name,
            get_device_count: registry_count,
            get_device: registry_device,
            get_proc_address: None,
            context: null_mut(),
        }));
        let device = Box::leak(Box::new(Device {
            get_name: device_name,
            get_description: device_name,
            get_memory: device_memory,
            get_type: device_type,
            get_props: device_properties,
            init_backend: device_backend,
            get_buffer_type: device_buffer_type,
            get_host_buffer_type: None,
            buffer_from_host_ptr: None,
            supports_op: device_supports,
            supports_buft: device_has,
            offload_op: None,
            events: [None; 3],
            registry,
            context: null_mut(),
        }));
        gpu.buffer_type = Box::leak(Box::new(BufferType {
            get_name: buffer_type_name,
            alloc_buffer: allocate,
            alloc_buffer_n: None,
            get_alignment: alignment,
            get_max_size: None,
            get_alloc_size: None,
            get_alloc_size_n: None,
            is_host: None,
            device,
            context: null_mut(),
        }));
        device.context = (&raw mut *gpu).cast();
        // SAFETY: a complete device that is never freed.
        unsafe { ggml_backend_device_register(device) };
        gpu
    }

    /// Gives the device this amount of memory, all of it free.
    pub fn limit(&self, bytes: usize) {
        assert_eq!(self.used(), 0, "the test before has left something");
        self.limit.store(bytes, SeqCst);
        self.tensor_limit.store(usize::MAX, SeqCst);
        self.peak.store(0, SeqCst);
    }

    /// Gives tensors a maximum size, until memory is limited again.
    pub fn limit_tensors(&self, bytes: usize) {
        self.tensor_limit.store(bytes, SeqCst);
    }

    /// Bytes that are allocated.
    pub fn used(&self) -> usize {
        self.used.load(SeqCst)
    }

    /// The maximum number of bytes allocated at a time since the limit was set.
    pub fn peak(&self) -> usize {
        self.peak.load(SeqCst)
    }
}

unsafe fn gpu(device: *mut Device) -> &'static LimitedGpu {
    // SAFETY: `register` has put it there.
    unsafe { &*(*device).context.cast() }
}

unsafe extern "C" fn registry_name(_: *mut Registry) -> *const c_char {
    c"Limited".as_ptr()
}

unsafe extern "C" fn registry_count(_: *mut Registry) -> usize {
    0
}

unsafe extern "C" fn registry_device(_: *mut Registry, _: usize) -> *mut Device {
    null_mut()
}

unsafe extern "C" fn device_name(device: *mut Device) -> *const c_char {
    // SAFETY: a device of ours.
    unsafe { gpu(device) }.name.as_ptr()
}

unsafe extern "C" fn device_memory(device: *mut Device, free: *mut usize, total: *mut usize) {
    // SAFETY: a device of ours; ggml passes pointers to variables.
    unsafe {
        *total = gpu(device).limit.load(SeqCst);
        *free = *total - gpu(device).used();
    }
}

unsafe extern "C" fn device_type(_: *mut Device) -> c_int {
    GPU
}

unsafe extern "C" fn device_properties(device: *mut Device, properties: *mut Properties) {
    // SAFETY: a device of ours; ggml passes a pointer to a variable.
    unsafe {
        let name = device_name(device);
        *properties = Properties {
            name,
            description: name,
            memory_free: 0,
            memory_total: 0,
            kind: GPU,
            id: null(),
            capabilities: [false; 5],
        };
        let (free, total) = (
            &raw mut (*properties).memory_free,
            &raw mut (*properties).memory_total,
        );
        device_memory(device, free, total);
    }
}

unsafe extern "C" fn device_backend(device: *mut Device, _: *const c_char) -> *mut Backend {
    static GUID: [u8; 16] = *b"limited test gpu";
    // SAFETY: the CPU's device is there, and ggml documents the procedure with this signature.
    let cpu = unsafe {
        let cpu = ggml_backend_dev_by_type(CPU);
        let backend = ggml_backend_dev_init(cpu, null());
        let registry = ggml_backend_dev_backend_reg(cpu);
        let set_threads =
            ggml_backend_reg_get_proc_address(registry, c"ggml_backend_set_n_threads".as_ptr());
        let set_threads: unsafe extern "C" fn(*mut c_void, c_int) =
            std::mem::transmute(set_threads);
        set_threads(backend, 1);
        backend
    };
    Box::into_raw(Box::new(Backend {
        guid: &raw const GUID,
        get_name: backend_name,
        free: free_backend,
        before_compute: [None; 10],
        graph_compute: compute,
        after_compute: [None; 3],
        device,
        context: cpu,
    }))
}

unsafe extern "C" fn device_buffer_type(device: *mut Device) -> *mut BufferType {
    // SAFETY: a device of ours.
    unsafe { gpu(device) }.buffer_type
}

unsafe extern "C" fn device_supports(device: *mut Device, op: *const c_void) -> bool {
    // SAFETY: a device of ours, and a node of a graph.
    unsafe {
        ggml_nbytes(op) <= gpu(device).tensor_limit.load(SeqCst)
            && ggml_backend_dev_supports_op(ggml_backend_dev_by_type(CPU), op)
    }
}

unsafe extern "C" fn device_has(device: *mut Device, buffer_type: *mut BufferType) -> bool {
    // SAFETY: a device of ours.
    unsafe { gpu(device) }.buffer_type == buffer_type
}

unsafe extern "C" fn backend_name(backend: *mut Backend) -> *const c_char {
    // SAFETY: a backend of ours.
    unsafe { device_name((*backend).device) }
}

unsafe extern "C" fn free_backend(backend: *mut Backend) {
    // SAFETY: a backend of ours, which ggml does not use any more.
    unsafe { ggml_backend_free(Box::from_raw(backend).context) };
}

unsafe extern "C" fn compute(backend: *mut Backend, graph: *mut c_void) -> c_int {
    // SAFETY: a backend of ours; the CPU reaches what the graph reads, as it lies in host memory.
    unsafe { ggml_backend_graph_compute((*backend).context, graph) }
}

unsafe extern "C" fn buffer_type_name(buffer_type: *mut BufferType) -> *const c_char {
    // SAFETY: a buffer type of ours.
    unsafe { device_name((*buffer_type).device) }
}

unsafe fn cpu_memory() -> *mut c_void {
    // SAFETY: the CPU's device is there.
    unsafe { ggml_backend_dev_buffer_type(ggml_backend_dev_by_type(CPU)) }
}

unsafe extern "C" fn alignment(_: *mut BufferType) -> usize {
    // SAFETY: a live buffer type.
    unsafe { ggml_backend_buft_get_alignment(cpu_memory()) }
}

unsafe extern "C" fn allocate(buffer_type: *mut BufferType, size: usize) -> *mut Buffer {
    // SAFETY: a buffer type of ours; the functions fit the buffer.
    unsafe {
        let gpu = gpu((*buffer_type).device);
        let more = |used: usize| {
            used.checked_add(size)
                .filter(|sum| *sum <= gpu.limit.load(SeqCst))
        };
        let Ok(before) = gpu.used.fetch_update(SeqCst, SeqCst, more) else {
            return null_mut();
        };
        gpu.peak.fetch_max(before + size, SeqCst);
        let functions = BufferFunctions {
            free_buffer,
            get_base: base,
            init_tensor: None,
            memset_tensor,
            set_tensor,
            get_tensor,
            set_tensor_2d: None,
            get_tensor_2d: None,
            cpy_tensor: None,
            clear,
            reset: None,
        };
        let host = ggml_backend_buft_alloc_buffer(cpu_memory(), size);
        ggml_backend_buffer_init(buffer_type, functions, host, size)
    }
}

unsafe extern "C" fn free_buffer(buffer: *mut Buffer) {
    // SAFETY: a buffer of ours, which ggml does not use any more.
    unsafe {
        let gpu = gpu((*(*buffer).buffer_type).device);
        gpu.used.fetch_sub((*buffer).size, SeqCst);
        ggml_backend_buffer_free((*buffer).context);
    }
}

unsafe extern "C" fn base(buffer: *mut Buffer) -> *mut c_void {
    // SAFETY: a buffer of ours.
    unsafe { ggml_backend_buffer_get_base((*buffer).context) }
}

/// # Safety
/// A tensor with data, of more than `offset` bytes.
unsafe fn bytes(tensor: *const c_void, offset: usize) -> *mut u8 {
    // SAFETY: as the caller promises.
    unsafe { ggml_get_data(tensor).cast::<u8>().add(offset) }
}

unsafe extern "C" fn memset_tensor(
    _: *mut Buffer,
    tensor: *mut c_void,
    value: u8,
    offset: usize,
    size: usize,
) {
    // SAFETY: ggml has checked the range.
    unsafe { bytes(tensor, offset).write_bytes(value, size) }
}

unsafe extern "C" fn set_tensor(
    _: *mut Buffer,
    tensor: *mut c_void,
    data: *const c_void,
    offset: usize,
    size: usize,
) {
    // SAFETY: ggml has checked the range.
    unsafe { bytes(tensor, offset).copy_from_nonoverlapping(data.cast(), size) }
}

unsafe extern "C" fn get_tensor(
    _: *mut Buffer,
    tensor: *const c_void,
    data: *mut c_void,
    offset: usize,
    size: usize,
) {
    // SAFETY: ggml has checked the range.
    unsafe { bytes(tensor, offset).copy_to_nonoverlapping(data.cast(), size) }
}

unsafe extern "C" fn clear(buffer: *mut Buffer, value: u8) {
    // SAFETY: a buffer of ours, of this size.
    unsafe { base(buffer).cast::<u8>().write_bytes(value, (*buffer).size) }
}
