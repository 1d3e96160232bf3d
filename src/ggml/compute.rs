//! Graphs that are built and allocated once and computed many times.

use std::ffi::CStr;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Instant;

use super::backend::Backend;
use super::context::Context;
use super::device::Device;
use super::guard::guarded;
use super::headroom;
use super::huge_pages;
use super::log::{self, Captures};
use super::profile::{Times, Watch};
use super::rpc::Servers;
use super::tensor::Tensor;
use crate::error::{Error, Result};
use crate::sys;

/// A graph under construction.
pub(crate) struct Graph {
    context: Context,
    raw: NonNull<sys::ggml_cgraph>,
}

// SAFETY: the graph lies in its context's arena and is used by the thread that owns it alone.
unsafe impl Send for Graph {}

impl Graph {
    /// An empty graph with room for `capacity` nodes.
    pub(crate) fn new(capacity: usize) -> Result<Self> {
        let context = Context::new(capacity)?;
        // SAFETY: the context was made with room for a graph of this capacity.
        let raw = unsafe { sys::ggml_new_graph_custom(context.raw(), capacity, false) };
        let raw = NonNull::new(raw).ok_or_else(|| Error::Ggml("no room for a graph".into()))?;
        Ok(Self { context, raw })
    }

    /// The context that describes the nodes.
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// Adds a result and everything that it needs and that is not in the graph yet. Nodes run in
    /// the order in which they were added.
    pub(crate) fn add(&self, result: &Tensor) {
        // SAFETY: the tensor and what it depends on are alive (see `Arena`).
        unsafe { sys::ggml_build_forward_expand(self.raw.as_ptr(), self.context.reads(result)) };
    }

    /// The memory of its nodes, each buffer once or more often.
    fn buffers(&self) -> impl Iterator<Item = NonNull<sys::ggml_backend_buffer>> {
        // SAFETY: a live graph.
        let count = unsafe { sys::ggml_graph_n_nodes(self.raw.as_ptr()) };
        let mut last = None;
        (0..count).filter_map(move |i| {
            // SAFETY: an index below the number of nodes, which the graph keeps.
            let buffer = unsafe { (*sys::ggml_graph_node(self.raw.as_ptr(), i)).buffer };
            let buffer = NonNull::new(buffer).filter(|buffer| last != Some(*buffer));
            last = buffer.or(last);
            buffer
        })
    }

    /// Address, operation and label of the nodes, in the order in which they run.
    fn nodes(&self) -> impl Iterator<Item = (usize, sys::ggml_op, String)> {
        // SAFETY: a live graph.
        let count = unsafe { sys::ggml_graph_n_nodes(self.raw.as_ptr()) };
        (0..count).map(|i| {
            // SAFETY: an index below the number of nodes, which the graph keeps; ggml keeps names
            // terminated.
            unsafe {
                let node = sys::ggml_graph_node(self.raw.as_ptr(), i);
                let label = CStr::from_ptr((*node).name.as_ptr());
                (
                    node as usize,
                    (*node).op,
                    label.to_string_lossy().into_owned(),
                )
            }
        })
    }
}

/// Where graphs run.
pub(crate) struct Backends {
    /// The last one is the CPU's.
    list: Vec<Backend>,
    /// Whether another device computes large products of matrices in host memory, which are copied
    /// to it for each pass.
    op_offload: bool,
}

impl Backends {
    pub(crate) fn new(list: Vec<Backend>, op_offload: bool) -> Self {
        Self { list, op_offload }
    }
}

impl From<Vec<Backend>> for Backends {
    /// With large products offloaded, as libllama does.
    fn from(list: Vec<Backend>) -> Self {
        Self::new(list, true)
    }
}

impl Deref for Backends {
    type Target = [Backend];

    fn deref(&self) -> &[Backend] {
        &self.list
    }
}

/// Runs one kind of graph: keeps the last one allocated, so that computing it again costs only the
/// computation.
pub(crate) struct Executor {
    scheduler: NonNull<sys::ggml_backend_sched>,
    graph: Option<Graph>,
    backends: Arc<Backends>,
    servers: Servers,
    capacity: usize,
    purpose: &'static str,
    times: Option<Times>,
    captures: Captures,
}

/// What ggml allocates for a scheduler without checking: mainly tensors for the inputs, at most 30,
/// of as many parts as the graph has nodes, and their copies.
fn scheduler_bytes(nodes: usize) -> usize {
    // SAFETY: plain size queries without arguments that could be wrong.
    let (tensor, graph) = unsafe {
        (
            sys::ggml_tensor_overhead(),
            sys::ggml_graph_overhead_custom(nodes, false),
        )
    };
    let ids = 4 * size_of::<i32>();
    nodes * 2 * 30 * (tensor + ids) + graph
}

/// A scheduler for graphs of at most `capacity` nodes and the same number of leaves.
fn new_scheduler(backends: &Backends, capacity: usize) -> Result<NonNull<sys::ggml_backend_sched>> {
    headroom::check("scheduler", scheduler_bytes(2 * capacity))?;
    let mut raw: Vec<_> = backends.iter().map(|b| b.raw.as_ptr()).collect();
    // SAFETY: ggml copies the array; whoever owns the scheduler keeps the backends.
    let scheduler = unsafe {
        sys::ggml_backend_sched_new(
            raw.as_mut_ptr(),
            std::ptr::null_mut(),
            raw.len() as i32,
            2 * capacity,
            false,
            backends.op_offload,
        )
    };
    NonNull::new(scheduler).ok_or_else(|| Error::Ggml("no scheduler".into()))
}

/// The bytes that the nodes of a graph of at most `capacity` nodes would need on each device. What
/// the graph reads needs a placement, but no memory.
pub(crate) fn measure(
    backends: &Backends,
    capacity: usize,
    build: impl FnOnce(&Graph) -> Result<()>,
) -> Result<Vec<(Device, usize)>> {
    let graph = Graph::new(capacity)?;
    build(&graph)?;
    let mut sizes = vec![0; backends.len()];
    let scheduler = new_scheduler(backends, capacity)?;
    // SAFETY: a live scheduler and graph; `sizes` has an element for each backend. The scheduler is
    // used for nothing else: it holds plans for buffers that it does not have.
    unsafe {
        sys::ggml_backend_sched_reserve_size(
            scheduler.as_ptr(),
            graph.raw.as_ptr(),
            sizes.as_mut_ptr(),
        );
        sys::ggml_backend_sched_free(scheduler.as_ptr());
    }
    let devices = backends.iter().map(Backend::device);
    Ok(devices.zip(sizes).collect())
}

// SAFETY: the scheduler holds no state of a thread; one thread at a time owns the executor.
unsafe impl Send for Executor {}

impl Drop for Executor {
    fn drop(&mut self) {
        // SAFETY: owned; freed before the backends, and with it the memory of the graph's nodes.
        unsafe { sys::ggml_backend_sched_free(self.scheduler.as_ptr()) }
    }
}

impl Executor {
    /// For graphs of at most `capacity` nodes and inputs; `purpose` names them in errors.
    pub(crate) fn new(
        backends: &Arc<Backends>,
        capacity: usize,
        purpose: &'static str,
    ) -> Result<Self> {
        Ok(Self {
            scheduler: new_scheduler(backends, capacity)?,
            graph: None,
            backends: Arc::clone(backends),
            servers: backends
                .iter()
                .filter_map(|b| b.device().server())
                .collect(),
            capacity,
            purpose,
            times: None,
            captures: Captures::default(),
        })
    }

    /// Replaces the graph by the one that `build` describes, and allocates its nodes. Returns the
    /// result of `build`.
    pub(crate) fn load<T>(
        &mut self,
        build: impl Fn(&Graph) -> Result<T>,
        advice: &str,
    ) -> Result<T> {
        // The memory of the previous graph's nodes is reused.
        self.unload();
        let graph = Graph::new(self.capacity)?;
        let built = build(&graph)?;
        let scheduler = self.scheduler.as_ptr();
        // SAFETY: a live scheduler and graph.
        let allocated = guarded("placing a graph", || unsafe {
            sys::ggml_backend_sched_reset(scheduler);
            sys::ggml_backend_sched_alloc_graph(scheduler, graph.raw.as_ptr())
        })?;
        if !allocated {
            drop((built, graph));
            return Err(self.refused(|graph| build(graph).map(drop), advice));
        }
        headroom::check(self.purpose, 0)?; // for ggml's working memory
        graph.buffers().for_each(huge_pages::advise_buffer);
        self.graph = Some(graph);
        Ok(built)
    }

    /// Releases the graph, and with it what it reads.
    pub(crate) fn unload(&mut self) {
        self.graph = None;
    }

    /// The error of a graph whose nodes could not be allocated.
    fn refused(&mut self, build: impl Fn(&Graph) -> Result<()>, advice: &str) -> Error {
        let asked = self.renew().and_then(|()| {
            self.servers.check()?;
            // Built again: the previous scheduler put copies of its own among the other graph's
            // sources, and they were freed with it.
            measure(&self.backends, self.capacity, build)
        });
        let sizes = match asked {
            Ok(sizes) => sizes,
            Err(error) => return error,
        };
        let largest = sizes.into_iter().max_by_key(|(_, bytes)| *bytes);
        let (device, bytes) =
            largest.map_or((String::new(), 0), |(device, bytes)| (device.name(), bytes));
        Error::OutOfMemory {
            what: format!("the {} graph", self.purpose),
            device,
            bytes,
            advice: advice.into(),
        }
    }

    /// Replaces the scheduler: after a failed allocation it holds plans for buffers that it does
    /// not have.
    fn renew(&mut self) -> Result<()> {
        let scheduler = new_scheduler(&self.backends, self.capacity)?;
        // SAFETY: owned, and replaced by the new one.
        unsafe { sys::ggml_backend_sched_free(self.scheduler.as_ptr()) };
        self.scheduler = scheduler;
        Ok(())
    }

    /// From now on [`compute`](Self::compute) waits for each run of nodes with the same label, and
    /// measures its time.
    pub(crate) fn start_timing(&mut self) {
        self.times = Some(Times::default());
    }

    /// Stops the measurement; returns the times since it began.
    pub(crate) fn end_timing(&mut self) -> Times {
        self.times.take().unwrap_or_default()
    }

    /// Computes the loaded graph and waits for it.
    pub(crate) fn compute(&mut self) -> Result<()> {
        let graph = self
            .graph
            .as_ref()
            .ok_or_else(|| Error::Ggml(format!("no {} graph is loaded", self.purpose)))?;
        if self.backends.iter().any(Backend::is_broken) {
            return Err(Error::Ggml(format!(
                "computing the {} graph: a pass of this session failed before; start a new one",
                self.purpose
            )));
        }
        let scheduler = self.scheduler.as_ptr();
        let what = format!("computing the {} graph", self.purpose);
        let run = || {
            // SAFETY: the graph was allocated by this scheduler.
            guarded(&what, || unsafe {
                sys::ggml_backend_sched_graph_compute(scheduler, graph.raw.as_ptr())
            })
        };
        let _turns = self.servers.turns();
        let before = log::captures();
        let ended = match &mut self.times {
            Some(times) => Watch::new(graph.nodes(), times).over(scheduler, run),
            None => run(),
        };
        self.captures += log::captures() - before;
        match ended {
            // For ggml, work on another machine is done as soon as it is sent.
            Ok(sys::GGML_STATUS_SUCCESS) => {
                self.backends.iter().try_for_each(|b| b.device().settle())
            }
            Ok(status) => {
                self.servers.check()?;
                Err(Error::Ggml(format!("{what} failed with status {status}")))
            }
            Err(error) => {
                // Half of the graph may be queued: the results of later work would be wrong.
                self.backends.iter().for_each(Backend::break_down);
                Err(error)
            }
        }
    }

    /// Queues work that follows the graph on a device, waits for it, and records its time under a
    /// label.
    pub(crate) fn then(
        &mut self,
        label: &CStr,
        device: Device,
        queue: impl FnOnce(&Backend) -> Result<()>,
    ) -> Result<()> {
        let backend = self.backends.iter().find(|b| b.device() == device);
        let backend = backend
            .ok_or_else(|| Error::Ggml(format!("nothing runs on the device {}", device.name())))?;
        let start = Instant::now();
        let queued = queue(backend);
        backend.synchronize()?;
        queued?;
        if let Some(times) = &mut self.times {
            times.add(label, start.elapsed());
        }
        Ok(())
    }

    /// What backends captured while this executor computed.
    pub(crate) fn captures(&self) -> Captures {
        self.captures
    }

    /// Memory reserved for intermediate results on each device, in bytes.
    pub(crate) fn compute_bytes(&self) -> impl Iterator<Item = (Device, usize)> {
        self.backends.iter().map(|backend| {
            // SAFETY: the scheduler was made with these backends.
            let bytes = unsafe {
                let scheduler = self.scheduler.as_ptr();
                sys::ggml_backend_sched_get_buffer_size(scheduler, backend.raw.as_ptr())
            };
            (backend.device(), bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::TensorType;

    #[test]
    fn a_graph_without_memory_is_an_error_and_the_next_one_works() {
        let device = Device::cpu().unwrap();
        let backends = Arc::new(vec![device.backend(1).unwrap()].into());
        let mut executor = Executor::new(&backends, 8, "test").unwrap();
        // A product of a column and a row: 256 TB, more than the address space.
        let context = Context::new(2).unwrap();
        let [many, few] = [1 << 23, 2].map(|rows| {
            let tensor = context.tensor(TensorType::F32, &[1, rows], "a column");
            tensor.unwrap()
        });
        let memory = device.buffer_type();
        context.allocate(memory, "a test", "").unwrap();
        few.write(0, &[3.0_f32, 4.0]).unwrap();
        let square = |graph: &Graph, column: &Tensor| {
            let product = graph.context().mul_mat(column, column)?.output();
            graph.add(&product);
            Ok(product)
        };
        for _ in 0..2 {
            match executor.load(|graph| square(graph, &many), "buy some") {
                Err(Error::OutOfMemory { bytes, advice, .. }) => {
                    assert!(
                        bytes >= 1 << 48 && advice == "buy some",
                        "{bytes}, {advice}"
                    );
                }
                Err(other) => panic!("{other}"),
                Ok(_) => panic!("there was room"),
            }
            assert!(executor.compute().is_err(), "nothing is loaded");
            let product = executor.load(|graph| square(graph, &few), "").unwrap();
            executor.compute().unwrap();
            let mut got = [0.0_f32; 4];
            product.read(0, &mut got).unwrap();
            assert_eq!(got, [9.0, 12.0, 12.0, 16.0]);
        }
    }
}
