//! The process that serves one client.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use llama_diffusion::internal::serve_rpc;
use llama_diffusion::{Device, Result};

use super::RpcServerArgs;

/// The work of a worker: serves the client that connects to the port, until the parent is gone.
///
/// # Errors
/// The port is taken, or a device does not start.
pub(super) fn serve(port: u16, devices: &[Device], threads: usize) -> Result<()> {
    let end_with_parent = || {
        // The parent writes nothing: the read returns when the parent ends.
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(0);
    };
    thread::Builder::new()
        .spawn(end_with_parent)
        .map_err(|source| llama_diffusion::Error::Io {
            path: "thread".into(),
            source,
        })?;
    serve_rpc(port, devices, threads)
}

/// A worker, and the connection to it.
pub(super) struct Worker {
    process: Child,
    pub(super) stream: TcpStream,
}

impl Worker {
    /// Starts one.
    ///
    /// # Errors
    /// No process or port is available, or a device does not start.
    pub(super) fn start(args: &RpcServerArgs) -> io::Result<Self> {
        /// Another program may take the port before the worker does.
        const ATTEMPTS: usize = 3;
        let mut last = io::Error::other("no worker");
        for _ in 0..ATTEMPTS {
            let port = free_port()?;
            let mut process = spawn(args, port)?;
            match connect(&mut process, port) {
                Ok(stream) => return Ok(Self { process, stream }),
                Err(error) => last = error,
            }
            end(&mut process);
        }
        Err(last)
    }

    /// Ends it; returns how it had ended by itself, if it had.
    pub(super) fn end(mut self) -> Option<ExitStatus> {
        /// A process that aborts closes its connections before it is gone.
        const DEATH: Duration = Duration::from_millis(500);
        let start = Instant::now();
        while start.elapsed() < DEATH {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

fn end(process: &mut Child) {
    // It may already have ended.
    let _ = process.kill();
    let _ = process.wait();
}

fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

fn spawn(args: &RpcServerArgs, port: u16) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["rpc-server", "--worker", &port.to_string()])
        .args(["--threads", &args.threads().to_string()]);
    if let Some(names) = &args.device {
        command.args(["--device", names]);
    }
    command
        .env("GGML_NO_BACKTRACE", "1") // it would have a debugger print the stack
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
}

/// Connects as soon as the worker listens.
fn connect(process: &mut Child, port: u16) -> io::Result<TcpStream> {
    /// A GPU may take seconds to start.
    const PATIENCE: Duration = Duration::from_secs(60);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let start = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(_) if start.elapsed() < PATIENCE => {}
            Err(error) => return Err(error),
        }
        if let Some(status) = process.try_wait()? {
            return Err(io::Error::other(format!(
                "its worker did not start ({status})"
            )));
        }
        thread::sleep(Duration::from_millis(5));
    }
}
