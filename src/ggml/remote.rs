//! Devices of other machines, by ggml's RPC backend: as a client, and as the server.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::device::Device;
use super::plugins::register;
use super::rpc::{self, NewServer};
use super::threads::within_affinity;
use crate::error::{Error, Result};
use crate::parameter::Parameter;
use crate::sys;

/// The default time that a server may be silent: a graph over a long prompt may take minutes on a
/// slow machine.
pub const RPC_TIMEOUT: Duration = Duration::from_secs(300);

/// ggml's RPC backend, which has procedures but no devices.
struct Backend(sys::ggml_backend_reg_t);

impl Backend {
    fn find() -> Result<Self> {
        register()?;
        // SAFETY: a terminated string.
        let found = unsafe { sys::ggml_backend_reg_by_name(c"RPC".as_ptr()) };
        if found.is_null() {
            let problem = match cfg!(feature = "rpc") {
                true => "the backend was not found: put libggml-rpc beside the program",
                false => {
                    "this build knows no other machines: build it with the feature `rpc` (cargo \
                     build --features rpc)"
                }
            };
            return Err(Error::parameter(Parameter::RpcServer, problem));
        }
        Ok(Self(found))
    }

    fn procedure(&self, name: &CStr) -> Result<NonNull<c_void>> {
        // SAFETY: a registered backend and a terminated string.
        let found = unsafe { sys::ggml_backend_reg_get_proc_address(self.0, name.as_ptr()) };
        NonNull::new(found).ok_or_else(|| {
            Error::Ggml(format!("the RPC backend has no {}", name.to_string_lossy()))
        })
    }

    /// Makes ggml connect to an address, and returns the devices there.
    fn connect(&self, address: &str) -> Result<Vec<Device>> {
        type AddServer = unsafe extern "C" fn(*const c_char) -> sys::ggml_backend_reg_t;
        let add = self.procedure(c"ggml_backend_rpc_add_server")?;
        let text = CString::new(address).unwrap_or_default();
        // SAFETY: ggml documents this name with this signature; the string is terminated. What it
        // returns is registered for the life of the process.
        unsafe {
            let add: AddServer = std::mem::transmute(add);
            let reg = add(text.as_ptr());
            if reg.is_null() {
                return Ok(Vec::new());
            }
            sys::ggml_backend_register(reg);
            let count = sys::ggml_backend_reg_dev_count(reg);
            Ok((0..count)
                .filter_map(|i| Device::from_raw(sys::ggml_backend_reg_dev_get(reg, i)))
                .collect())
        }
    }
}

/// Runs a function whose new threads receive no signals. They inherit this thread's mask: ggml's
/// client would treat a system call that a signal interrupts as the end of its server.
#[cfg(unix)]
fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: sets of signals are plain data, and the calls fill them.
    let before = unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        let mut before = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut before);
        before
    };
    let started = start();
    // SAFETY: the set that this thread had.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    started
}

#[cfg(not(unix))]
fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    start()
}

impl Device {
    /// Connects to a server on another machine, llama.cpp's `rpc-server` or this project's, and
    /// returns its devices, which are among [`all`](Self::all) from now on. A server that is
    /// already connected is not connected again; a lost one is, as new devices.
    ///
    /// `endpoint` is `HOST:PORT`, or `[ADDRESS]:PORT` for IPv6. If the server is silent for longer
    /// than `timeout` it counts as lost, and what runs on it fails with [`Error::Rpc`]; see
    /// [`RPC_TIMEOUT`]. The protocol neither encrypts nor authenticates: use it only in networks
    /// that you trust.
    ///
    /// # Errors
    /// The endpoint does not have this form, nothing answers there, or what answers is not a server
    /// of this version of the protocol; or this build has no RPC (feature `rpc`).
    pub fn add_rpc_server(endpoint: &str, timeout: Duration) -> Result<Vec<Self>> {
        let backend = Backend::find()?;
        if timeout.is_zero() {
            let problem = "it is 0: give the server time to answer";
            return Err(Error::parameter(Parameter::RpcTimeout, problem));
        }
        // Only one thread at a time connects, because others may want the same server.
        static CONNECTING: Mutex<()> = Mutex::new(());
        let _connecting = CONNECTING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(devices) = Self::connected(endpoint) {
            return Ok(devices);
        }
        let server = NewServer::connect(endpoint, timeout)?;
        server.probe()?;
        let devices = without_signals(|| backend.connect(&server.address().to_string()))?;
        let Some(device) = devices.first() else {
            return Err(Error::Rpc {
                server: endpoint.to_owned(),
                problem: "it has no devices".into(),
            });
        };
        server.probe()?;
        // ggml's client connects again whenever none of its objects is left, and stops the process
        // if it cannot: this one stays.
        std::mem::forget(without_signals(|| device.backend(1))?);
        server.finish()?;
        Ok(devices)
    }

    /// The devices of a server that answers.
    fn connected(endpoint: &str) -> Option<Vec<Self>> {
        let server = rpc::connected(endpoint)?;
        let all = Self::all().into_iter();
        let devices: Vec<Self> = all
            .filter(|device| device.server().is_some_and(|s| std::ptr::eq(&*s, &*server)))
            .collect();
        // It may be lost without anybody having noticed.
        let answers = devices.first()?.settle().is_ok();
        answers.then_some(devices)
    }
}

/// Serves this machine's devices to one client after another, on a port of the loopback interface.
/// Never returns on success: a malformed request may end the process. Writes to the standard
/// output.
///
/// # Errors
/// The port is taken, a device cannot be started, or this build has no RPC (feature `rpc`).
pub fn serve_rpc(port: u16, devices: &[Device], threads: usize) -> Result<()> {
    type StartServer = unsafe extern "C" fn(
        *const c_char,
        *const c_char,
        usize,
        usize,
        *mut sys::ggml_backend_dev_t,
    );
    let start = Backend::find()?.procedure(c"ggml_backend_rpc_start_server")?;
    let endpoint = CString::new(format!("127.0.0.1:{port}")).unwrap_or_default();
    let mut devices: Vec<_> = devices.iter().map(Device::as_ptr).collect();
    // SAFETY: ggml documents this name with this signature: an endpoint, no cache directory,
    // threads, and an array with its length.
    unsafe {
        let start: StartServer = std::mem::transmute(start);
        start(
            endpoint.as_ptr(),
            std::ptr::null(),
            within_affinity(threads),
            devices.len(),
            devices.as_mut_ptr(),
        );
    }
    Err(Error::Ggml(format!("port {port} could not be served")))
}

#[cfg(all(test, not(feature = "rpc")))]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_the_feature_says_which_one_it_needs() {
        let refused = Device::add_rpc_server("127.0.0.1:50052", RPC_TIMEOUT).unwrap_err();
        assert!(refused.to_string().contains("--features rpc"), "{refused}");
    }
}
