//! `rpc-server`: serves the devices of this machine to programs on others.
//!
//! ggml's server handles one client after another, and a malformed request ends its process. Here
//! every client has a worker, a process of its own: this program with `--worker`. It listens on the
//! loopback interface, and what arrives for the client is passed on. If a worker is lost, nothing
//! else is.

mod worker;

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use llama_diffusion::{Device, DeviceKind, Error, Result};

use llama_diffusion_flags::numbers::whole;
use llama_diffusion_flags::streams::say;
use worker::Worker;

/// What is served, and at which address.
#[derive(Clone, Debug, clap::Args)]
pub struct RpcServerArgs {
    /// Address to listen on. Everyone who can reach it can use the devices, and may be able to do
    /// more than that: the protocol has no passwords, and is not made for shared networks
    #[arg(short = 'H', long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,

    /// Port to listen on; 0 is a free one
    #[arg(short, long, value_name = "N", default_value = "50052", value_parser = whole(0..=u16::MAX))]
    port: u16,

    /// Threads of the CPU. Default: one for each core
    #[arg(short, long, value_name = "N", value_parser = whole(1..=512_usize))]
    threads: Option<usize>,

    /// Devices to serve, separated by commas. Default: all GPUs, or the CPU if there are none
    #[arg(short, long, value_name = "NAMES")]
    device: Option<String>,

    /// Serve one client, whose data comes through this port of the loopback interface
    #[arg(long, value_name = "PORT", hide = true)]
    worker: Option<u16>,
}

/// Maximum number of clients at once: each has a process.
const MAX_CLIENTS: usize = 16;

/// Serves until the program is interrupted.
///
/// # Errors
/// The program cannot listen on the address, or a device does not exist.
pub fn run(args: &RpcServerArgs) -> Result<()> {
    let devices = args.devices()?;
    if let Some(port) = args.worker {
        return worker::serve(port, &devices, args.threads());
    }
    let listener = args.listen()?;
    let address = listener.local_addr().map_err(|e| args.refused(&e))?;
    if !address.ip().is_loopback() {
        tracing::warn!(
            "{} can be reached from other machines. The protocol has no passwords and no encryption: \
             whoever reaches this port can use the devices, and may take over this program. Use it \
             only in a network that you trust",
            address.ip()
        );
    }
    for device in &devices {
        let (free, total) = device.memory();
        let (name, what) = (device.name(), device.description());
        say(format_args!(
            "{name}: {what} ({} MiB, {} MiB free)",
            total >> 20,
            free >> 20
        ));
    }
    say(format_args!("listening on {address}"));
    accept(args, &listener)
}

fn accept(args: &RpcServerArgs, listener: &TcpListener) -> Result<()> {
    /// If there are no files or threads for a client now, there may be some a little later.
    const PAUSE: Duration = Duration::from_millis(100);
    let count = Arc::new(AtomicUsize::new(0));
    loop {
        let (stream, client) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a client was not accepted: {error}");
                thread::sleep(PAUSE);
                continue;
            }
        };
        if count.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS {
            count.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!("{client} was refused: there are {MAX_CLIENTS} clients already");
            continue;
        }
        let (args, clients) = (args.clone(), Arc::clone(&count));
        let serve = move || {
            if let Err(problem) = serve_client(&args, stream, client) {
                tracing::warn!("{client}: {problem}");
            }
            clients.fetch_sub(1, Ordering::Relaxed);
        };
        if let Err(error) = thread::Builder::new().spawn(serve) {
            count.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!("{client} was refused: {error}");
        }
    }
}

/// The first request of a client: its number and its size, which ggml keeps for all versions, and
/// the capabilities of the client.
const HELLO: [u8; 9] = [14, 24, 0, 0, 0, 0, 0, 0, 0];

/// Serves a client to its end.
fn serve_client(args: &RpcServerArgs, stream: TcpStream, client: SocketAddr) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    stream.set_nodelay(true)?;
    // A connection gets a worker only after it has identified itself as a client.
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut hello = [0; HELLO.len() + 24];
    (&stream).read_exact(&mut hello)?;
    if hello[..HELLO.len()] != HELLO {
        return Err(io::Error::other(
            "it is not a client of this version of the protocol",
        ));
    }
    stream.set_read_timeout(None)?;
    let mut worker = Worker::start(args)?;
    worker.stream.write_all(&hello)?;
    say(format_args!("{client} is connected"));
    let passed = pass(&stream, &worker.stream);
    match worker.end() {
        None => passed?,
        Some(status) => {
            return Err(io::Error::other(format!(
                "its worker ended ({status}): the client sent a request that ggml refuses, or a \
                 device failed"
            )));
        }
    }
    say(format_args!("{client} has left"));
    Ok(())
}

/// Passes bytes in both directions until both sides have closed the connection.
fn pass(mut client: &TcpStream, mut worker: &TcpStream) -> io::Result<()> {
    thread::scope(|scope| {
        let replies = move || {
            let _ = io::copy(&mut worker, &mut client);
            // From now on nobody reads what the client sends. It may already be closed.
            let _ = client.shutdown(Shutdown::Both);
        };
        thread::Builder::new().spawn_scoped(scope, replies)?;
        // A client that breaks off counts as one that ends.
        let _ = io::copy(&mut client, &mut worker);
        let _ = worker.shutdown(Shutdown::Write);
        Ok(())
    })
}

impl RpcServerArgs {
    fn devices(&self) -> Result<Vec<Device>> {
        let all = Device::all();
        let of = |kinds: &[DeviceKind]| -> Vec<Device> {
            let is_one = |device: &&Device| kinds.contains(&device.kind());
            all.iter().filter(is_one).copied().collect()
        };
        match &self.device {
            Some(names) => names
                .split(',')
                .map(|name| Device::by_name(name.trim()))
                .collect(),
            None => match of(&[DeviceKind::Gpu, DeviceKind::IntegratedGpu]) {
                gpus if gpus.is_empty() => Ok(of(&[DeviceKind::Cpu])),
                gpus => Ok(gpus),
            },
        }
    }

    fn threads(&self) -> usize {
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or_else(cores)
    }

    fn listen(&self) -> Result<TcpListener> {
        // An IPv6 address may have the brackets of an endpoint.
        let bare = self.host.strip_prefix('[');
        let host = bare.and_then(|host| host.strip_suffix(']'));
        let host = host.unwrap_or(&self.host);
        match host.parse::<IpAddr>() {
            Ok(address) => TcpListener::bind((address, self.port)),
            Err(_) => TcpListener::bind((host, self.port)),
        }
        .map_err(|error| self.refused(&error))
    }

    fn refused(&self, error: &io::Error) -> Error {
        let (name, problem) = match error.kind() {
            io::ErrorKind::AddrInUse => (
                "--port",
                format!("another program uses port {}: give another one", self.port),
            ),
            io::ErrorKind::PermissionDenied => (
                "--port",
                format!("port {} needs privileges: give one above 1023", self.port),
            ),
            _ => (
                "--host",
                format!("'{}' is not an address to listen on: {error}", self.host),
            ),
        };
        Error::Input {
            name: name.into(),
            problem,
        }
    }
}
