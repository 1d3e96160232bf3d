//! A relay between ggml's RPC client and a server, in this process.
//!
//! ggml's client stops the process when a server is lost, is silent, or sends invalid data. The
//! relay is the server that ggml sees: it passes requests on. When the real one is lost it records
//! why and answers in its place, with zeros of the right size. ggml's code then runs to its end,
//! and its caller [asks](Link::check) whether the results are valid.

use std::collections::HashMap;
use std::io::{self, BufReader, Read as _, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use super::connection::{CHUNK, Connection, DeviceFacts, check_reply, problem};
use super::protocol::{Command, HEADER, Reply, Version, number};

/// Requests up to this size are read completely, and so are graphs: all but those with data of
/// tensors.
const SMALL: u64 = 4096;
/// Stands for the address of a lost buffer: never read, but ggml needs it aligned and not null.
const NOWHERE: u64 = 1 << 30;

/// The link to a server. Once it is lost it stays lost.
pub(super) struct Link {
    lost: OnceLock<String>,
    devices: Vec<DeviceFacts>,
    timeout: Duration,
    /// For the first of ggml's connections that has work for the server.
    connection: Mutex<Option<Connection>>,
}

impl Link {
    pub(super) fn new(
        connection: Connection,
        devices: Vec<DeviceFacts>,
        timeout: Duration,
    ) -> io::Result<Self> {
        connection.set_timeout(timeout)?;
        Ok(Self {
            lost: OnceLock::new(),
            devices,
            timeout,
            connection: Mutex::new(Some(connection)),
        })
    }

    /// Why the server is lost, if it is.
    pub(super) fn check(&self) -> Result<(), &str> {
        self.lost.get().map_or(Ok(()), |problem| Err(problem))
    }

    fn take_connection(&self) -> Option<Connection> {
        let connection = self.connection.lock();
        connection.unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Smallest alignment of all devices, a power of two.
    fn alignment(&self) -> u64 {
        let alignments = self.devices.iter().map(|device| device.alignment);
        alignments.min().unwrap_or(1)
    }

    /// What the server has already sent.
    fn known(&self, command: Command, request: &[u8]) -> Option<Vec<u8>> {
        let device = || {
            let index = u32::from_le_bytes(request.try_into().ok()?);
            self.devices.get(index as usize)
        };
        match command {
            Command::Hello => Some(Version::OURS.hello_reply().to_vec()),
            Command::DeviceCount => Some((self.devices.len() as u32).to_le_bytes().to_vec()),
            Command::GetAlignment => Some(device()?.alignment.to_le_bytes().to_vec()),
            Command::GetMaxSize => Some(device()?.max_size.to_le_bytes().to_vec()),
            _ => None,
        }
    }
}

/// The address of a relay, which listens until this is dropped. Established connections stay.
pub(super) struct Listening {
    pub(super) address: SocketAddr,
    done: Arc<AtomicBool>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

/// Starts a relay on a port of the loopback interface.
///
/// # Errors
/// No port or no thread is available.
pub(super) fn listen(link: &Arc<Link>) -> io::Result<Listening> {
    const PAUSE: Duration = Duration::from_millis(1);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    // So that the thread can see when it is done.
    listener.set_nonblocking(true)?;
    let done = Arc::new(AtomicBool::new(false));
    let (link, stop) = (Arc::clone(link), Arc::clone(&done));
    let accept = move || {
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((client, _)) => {
                    let link = Arc::clone(&link);
                    let serve = move || {
                        // It ends when ggml closes its end.
                        let _ = Relay::new(client, link).and_then(Relay::run);
                    };
                    // Without a thread the client is dropped: `probe` has already detected that.
                    let _ = thread::Builder::new().name("rpc relay".into()).spawn(serve);
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    };
    thread::Builder::new()
        .name("rpc accept".into())
        .spawn(accept)?;
    Ok(Listening { address, done })
}

/// Connects to a relay as ggml will, because a failure there would stop the process.
///
/// # Errors
/// The relay does not answer.
pub(super) fn probe(address: SocketAddr) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&Command::DeviceCount.header(0))?;
    stream.read_exact(&mut [0; 12])
}

/// The last graph of each device, by its number. A server keeps them too, and can be asked to run
/// the last one again without receiving it. But it drops all of them when any buffer is freed,
/// which ggml's client does not know: then the graph is sent again.
#[derive(Default)]
struct Graphs(HashMap<[u8; 4], Graph>);

struct Graph {
    request: Vec<u8>,
    is_kept: bool,
}

impl Graphs {
    /// The request to send in place of a request.
    fn renew(&mut self, command: Command, request: Vec<u8>) -> (Command, Vec<u8>) {
        let device = request.first_chunk().copied().unwrap_or_default();
        match command {
            Command::GraphCompute => {
                let graph = Graph {
                    request: request.clone(),
                    is_kept: true,
                };
                self.0.insert(device, graph);
            }
            Command::FreeBuffer => self.0.values_mut().for_each(|graph| graph.is_kept = false),
            Command::GraphRecompute => {
                if let Some(graph) = self.0.get_mut(&device).filter(|graph| !graph.is_kept) {
                    graph.is_kept = true;
                    return (Command::GraphCompute, graph.request.clone());
                }
            }
            _ => {}
        }
        (command, request)
    }
}

/// One connection of ggml's client.
struct Relay {
    client: BufReader<TcpStream>,
    server: Option<Connection>,
    link: Arc<Link>,
    graphs: Graphs,
    chunk: Vec<u8>,
}

impl Relay {
    fn new(client: TcpStream, link: Arc<Link>) -> io::Result<Self> {
        client.set_nonblocking(false)?; // some systems hand down what the listener has
        client.set_nodelay(true)?;
        Ok(Self {
            client: BufReader::with_capacity(CHUNK, client),
            server: None,
            link,
            graphs: Graphs::default(),
            chunk: vec![0; CHUNK],
        })
    }

    /// Until ggml closes the connection.
    fn run(mut self) -> io::Result<()> {
        loop {
            let mut header = [0; HEADER];
            self.client.read_exact(&mut header)?;
            let unknown =
                || io::Error::other("ggml's client asks for what this relay does not know");
            let command = Command::from_number(header[0]).ok_or_else(unknown)?;
            let size = number(&header, 1).unwrap_or_default();
            self.relay(command, size)?;
        }
    }

    /// Passes a request on, and its reply back. Errors are those of ggml's side.
    fn relay(&mut self, command: Command, size: u64) -> io::Result<()> {
        let mut request = Vec::new();
        let is_whole = size <= SMALL || command == Command::GraphCompute;
        if is_whole {
            request.resize(size as usize, 0);
            self.client.read_exact(&mut request)?;
        }
        let (command, request) = self.graphs.renew(command, request);
        let size = if is_whole { request.len() as u64 } else { size };
        if let Some(reply) = self.link.known(command, &request) {
            return self.answer(&reply);
        }
        self.connect();
        self.pass(|server| server.writer.write_all(&command.header(size)));
        self.pass(|server| server.writer.write_all(&request));
        if !is_whole {
            self.stream(size)?;
        }
        match command.reply() {
            Reply::None => {
                // More requests of this kind may already wait: sending them together costs less.
                if self.client.buffer().is_empty() {
                    self.pass(|server| server.writer.flush());
                }
                Ok(())
            }
            Reply::Bytes(size) => {
                let mut reply = vec![0; size];
                let alignment = self.link.alignment();
                self.pass(|server| {
                    server.writer.flush()?;
                    server.reply(&mut reply)?;
                    check_reply(command, &request, &reply, alignment)
                });
                if self.server.is_none() {
                    stand_in(command, &mut reply);
                }
                self.answer(&reply)
            }
            Reply::AsAsked => {
                let size = number(&request, request.len().saturating_sub(8)).unwrap_or_default();
                self.fetch(size)
            }
        }
    }

    /// Ensures a connection to the server, unless it is lost.
    fn connect(&mut self) {
        if self.server.is_none() && self.link.check().is_ok() {
            self.server = self.link.take_connection();
            if self.server.is_none() {
                self.lose("another program uses the connection to it".into());
            }
        }
    }

    fn lose(&mut self, problem: String) {
        tracing::debug!("RPC server: {problem}");
        self.server = None;
        // The first reason counts.
        let _ = self.link.lost.set(problem);
    }

    /// Runs a function with the server, unless it is lost; if that fails, the server is lost.
    fn pass<T>(&mut self, work: impl FnOnce(&mut Connection) -> io::Result<T>) -> Option<T> {
        match work(self.server.as_mut()?) {
            Ok(done) => Some(done),
            Err(error) => {
                let problem = problem(&error, self.link.timeout);
                self.lose(problem);
                None
            }
        }
    }

    /// Passes on the payload of a large request.
    fn stream(&mut self, size: u64) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let mut chunk = std::mem::take(&mut self.chunk);
            let part = left.min(CHUNK as u64) as usize;
            let read = self.client.read_exact(&mut chunk[..part]);
            if read.is_ok() {
                self.pass(|server| server.writer.write_all(&chunk[..part]));
            }
            self.chunk = chunk;
            read?;
            left -= part as u64;
        }
        Ok(())
    }

    /// Passes back data of a tensor; what is missing when the server is lost is zero.
    fn fetch(&mut self, size: u64) -> io::Result<()> {
        self.pass(|server| {
            server.writer.flush()?;
            match server.reply_size()? == size {
                true => Ok(()),
                false => Err(io::ErrorKind::InvalidData.into()),
            }
        });
        self.client.get_mut().write_all(&size.to_le_bytes())?;
        let mut left = size;
        while left > 0 {
            let mut chunk = std::mem::take(&mut self.chunk);
            let part = left.min(CHUNK as u64) as usize;
            let read = self.pass(|server| server.reader.read_exact(&mut chunk[..part]));
            if read.is_none() {
                chunk[..part].fill(0);
            }
            let written = self.client.get_mut().write_all(&chunk[..part]);
            self.chunk = chunk;
            written?;
            left -= part as u64;
        }
        Ok(())
    }

    fn answer(&mut self, reply: &[u8]) -> io::Result<()> {
        let size = (reply.len() as u64).to_le_bytes();
        self.client.get_mut().write_all(&[&size, reply].concat())
    }
}

/// The replies of a lost server: no memory, but all data is there.
fn stand_in(command: Command, reply: &mut [u8]) {
    reply.fill(0);
    match command {
        Command::BufferGetBase => reply.copy_from_slice(&NOWHERE.to_le_bytes()),
        Command::SetTensorHash | Command::CopyTensor => reply.fill(1),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_is_sent_again_when_the_server_has_forgotten_it() {
        let mut graphs = Graphs::default();
        let again = |device: u8| (Command::GraphRecompute, vec![device, 0, 0, 0]);
        let graph = |device: u8| (Command::GraphCompute, vec![device, 0, 0, 0, 7]);
        let mut renew = |(command, request)| graphs.renew(command, request);
        for device in [0, 1] {
            assert_eq!(renew(graph(device)), graph(device));
            assert_eq!(renew(again(device)), again(device));
        }
        renew((Command::FreeBuffer, vec![5; 8]));
        for device in [0, 1] {
            assert_eq!(renew(again(device)), graph(device));
            assert_eq!(renew(again(device)), again(device));
        }
    }
}
