//! Servers on other machines that run graphs for this process, by ggml's RPC protocol. Nothing here
//! calls ggml: [`remote`](super::remote) makes ggml's client connect to the relays of this module.

mod connection;
mod protocol;
mod relay;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use connection::Connection;
use relay::{Link, Listening};

use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// A server that this process is or was connected to.
pub(crate) struct Server {
    /// The user's name for it.
    endpoint: String,
    /// ggml's name for it: the address of the relay.
    local: String,
    link: Arc<Link>,
    /// Held while graphs are computed: ggml lets servers keep the last graph of a device, and sends
    /// it once for consecutive computations, but two threads may confuse whose graph is the last
    /// one.
    turn: Mutex<()>,
}

/// All servers since the process started. One that was added again comes after its predecessor,
/// whose devices may still be in use.
static SERVERS: Mutex<Vec<Arc<Server>>> = Mutex::new(Vec::new());
/// Whether there are any.
static IN_USE: AtomicBool = AtomicBool::new(false);

fn servers() -> MutexGuard<'static, Vec<Arc<Server>>> {
    SERVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this process has added a server.
pub(super) fn in_use() -> bool {
    IN_USE.load(Ordering::Acquire)
}

/// The server of a relay.
pub(super) fn find(local: &str) -> Option<Arc<Server>> {
    let all = servers();
    all.iter().find(|server| server.local == local).cloned()
}

/// The last server that was added with this name, if it is not lost.
pub(super) fn connected(endpoint: &str) -> Option<Arc<Server>> {
    let all = servers();
    let last = all.iter().rfind(|server| server.endpoint == endpoint)?;
    last.check().is_ok().then(|| Arc::clone(last))
}

/// Replaces the address of a relay in a name of ggml, `ADDRESS` or `DEVICE[ADDRESS]`, by the
/// endpoint of the server. Other names do not change.
pub(super) fn rename(name: String) -> String {
    if !in_use() {
        return name;
    }
    let address = match name.split_once('[') {
        Some((_, rest)) => rest.trim_end_matches(']'),
        None => &name,
    };
    match find(address) {
        Some(server) => name.replace(address, &server.endpoint),
        None => name,
    }
}

/// Starts a relay at an address that no relay had before: ggml treats equal addresses as one
/// server.
fn listen(link: &Arc<Link>) -> io::Result<Listening> {
    static USED: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());
    let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    // Ports that the system offers again are held until it offers another one.
    let mut again = Vec::new();
    loop {
        let listening = relay::listen(link)?;
        if !used.contains(&listening.address) {
            used.push(listening.address);
            return Ok(listening);
        }
        again.push(listening);
    }
}

/// A server whose devices ggml does not know yet. The relay listens while this lives.
pub(super) struct NewServer {
    server: Server,
    listening: Listening,
}

impl NewServer {
    /// Connects to a server and starts its relay.
    ///
    /// # Errors
    /// The endpoint has no host or port, nothing answers there within the time, or what answers is
    /// not a server of this version.
    pub(super) fn connect(endpoint: &str, timeout: Duration) -> Result<Self> {
        let failed = |problem: String| Error::Rpc {
            server: endpoint.to_owned(),
            problem,
        };
        let (host, port) = connection::parse(endpoint).ok_or_else(|| {
            let problem =
                format!("'{endpoint}' is not HOST:PORT, such as 192.168.0.5:50052 or [::1]:50052");
            Error::parameter(Parameter::RpcServer, problem)
        })?;
        let mut connection = Connection::open(host, port, timeout).map_err(failed)?;
        let devices = connection
            .devices()
            .map_err(|error| failed(connection::problem(&error, timeout)))?;
        let start = || {
            let link = Arc::new(Link::new(connection, devices, timeout)?);
            let listening = listen(&link)?;
            Ok((link, listening))
        };
        let (link, listening) = start()
            .map_err(|error: io::Error| failed(format!("its relay did not start: {error}")))?;
        let server = Server {
            endpoint: endpoint.to_owned(),
            local: listening.address.to_string(),
            link,
            turn: Mutex::new(()),
        };
        Ok(Self { server, listening })
    }

    /// The address that ggml connects to.
    pub(super) fn address(&self) -> SocketAddr {
        self.listening.address
    }

    /// Checks that ggml can connect, because it would stop the process otherwise.
    ///
    /// # Errors
    /// The process has no more files, for example.
    pub(super) fn probe(&self) -> Result<()> {
        relay::probe(self.address()).map_err(|error| {
            self.server
                .error(&format!("its relay cannot be reached: {error}"))
        })
    }

    /// Registers the server; nobody else can connect to its relay from now on.
    ///
    /// # Errors
    /// It is already lost.
    pub(super) fn finish(self) -> Result<()> {
        self.server.check()?;
        servers().push(Arc::new(self.server));
        IN_USE.store(true, Ordering::Release);
        Ok(())
    }
}

impl Server {
    fn error(&self, problem: &str) -> Error {
        Error::Rpc {
            server: self.endpoint.clone(),
            problem: problem.to_owned(),
        }
    }

    /// # Errors
    /// The server is lost, and with it everything on it.
    pub(super) fn check(&self) -> Result<()> {
        self.link.check().map_err(|problem| {
            self.error(&format!(
                "{problem}. Its part of the model is lost: connect again, and load the model again"
            ))
        })
    }

    /// Whether it was lost and added again.
    pub(super) fn is_superseded(&self) -> bool {
        let all = servers();
        let last = all.iter().rfind(|other| other.endpoint == self.endpoint);
        last.is_some_and(|last| last.local != self.local)
    }
}

/// Servers that a graph runs on.
#[derive(Clone, Default)]
pub(crate) struct Servers(Vec<Arc<Server>>);

impl FromIterator<Arc<Server>> for Servers {
    fn from_iter<I: IntoIterator<Item = Arc<Server>>>(servers: I) -> Self {
        let mut servers: Vec<_> = servers.into_iter().collect();
        // One order for all, so that no two threads wait for each other.
        servers.sort_by_key(Arc::as_ptr);
        servers.dedup_by_key(|server| Arc::as_ptr(server));
        Self(servers)
    }
}

impl Servers {
    /// Waits until no other thread computes on them.
    pub(crate) fn turns(&self) -> Vec<MutexGuard<'_, ()>> {
        let turns = self.0.iter().map(|server| server.turn.lock());
        turns
            .map(|turn| turn.unwrap_or_else(PoisonError::into_inner))
            .collect()
    }

    /// # Errors
    /// One of them is lost.
    pub(crate) fn check(&self) -> Result<()> {
        self.0.iter().try_for_each(|server| server.check())
    }
}
