//! The listener: an address or a Unix socket, with limits against slow clients.

use std::future::{Ready, ready};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::time::Duration;

use axum::Router;
use axum_server::accept::{Accept, DefaultAcceptor, NoDelayAcceptor};
#[cfg(feature = "tls")]
use axum_server::tls_rustls::RustlsAcceptor;
use axum_server::{Address, Control, Handle, Server};
use llama_diffusion::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;
use tokio_io_timeout::TimeoutWriter;

use crate::args::{HttpArgs, Tls};

/// How long a request's header may take, and a connection may be idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a header.
const HEADER_BYTES: usize = 64 << 10;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Where the server listens.
pub enum Listener {
    /// On an address.
    Tcp(tokio::net::TcpListener),
    /// On a Unix socket, whose file is removed at the end.
    #[cfg(unix)]
    Unix(tokio::net::UnixListener, SocketFile),
}

/// Removes the file of a socket.
#[cfg(unix)]
pub struct SocketFile(std::path::PathBuf);

#[cfg(unix)]
impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0); // somebody else has
    }
}

impl Listener {
    /// Where it listens, for people.
    pub fn name(&self, tls: Option<&Tls>) -> String {
        let scheme = tls.map_or("http", |_| "https");
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("{scheme}://{address}"),
                Err(error) => error.to_string(),
            },
            #[cfg(unix)]
            Self::Unix(_, SocketFile(path)) => format!("unix:{}", path.display()),
        }
    }
}

/// Whether only this machine reaches a host.
pub fn is_local(host: &str) -> bool {
    let address = (host, 0).to_socket_addrs();
    host.ends_with(".sock")
        || address.is_ok_and(|mut all| all.all(|address| address.ip().is_loopback()))
}

/// Opens the listener.
///
/// # Errors
/// The address does not exist or is in use.
pub fn open(args: &HttpArgs) -> Result<Listener> {
    let name = format!("--host {} --port {}", args.host, args.port);
    let error = |error: io::Error| Error::Input {
        name: name.clone(),
        problem: error.to_string(),
    };
    #[cfg(unix)]
    if args.host.ends_with(".sock") {
        return open_unix(args.host.as_ref()).map_err(error);
    }
    let addresses = (args.host.as_str(), args.port).to_socket_addrs();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses.map_err(error)? {
        match open_tcp(address, args.reuse_port) {
            Ok(listener) => return Ok(Listener::Tcp(listener)),
            Err(failed) => last = failed,
        }
    }
    Err(error(last))
}

fn open_tcp(address: SocketAddr, reuse_port: bool) -> io::Result<tokio::net::TcpListener> {
    let socket = match address.is_ipv4() {
        true => TcpSocket::new_v4()?,
        false => TcpSocket::new_v6()?,
    };
    // Otherwise a server could not start again for a minute.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    #[cfg(unix)]
    socket.set_reuseport(reuse_port)?;
    #[cfg(not(unix))]
    let _ = reuse_port;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A socket that nobody listens on is what a server left that was killed.
#[cfg(unix)]
fn open_unix(path: &std::path::Path) -> io::Result<Listener> {
    let listener = match tokio::net::UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            tokio::net::UnixListener::bind(path)?
        }
        listener => listener?,
    };
    Ok(Listener::Unix(listener, SocketFile(path.to_owned())))
}

/// What clients may do.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// How long a client may read nothing.
    pub stall: Duration,
}

/// Closes connections beyond these limits.
#[derive(Clone)]
struct Limited<A> {
    inner: A,
    control: Control,
    limits: Limits,
}

impl<A, I, S> Accept<I, S> for Limited<A>
where
    I: AsyncWrite,
    A: Accept<I, S, Stream = I, Service = S, Future = Ready<io::Result<(I, S)>>>,
{
    type Stream = Pin<Box<TimeoutWriter<I>>>;
    type Service = S;
    type Future = Ready<io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        if self.control.connection_count() > self.limits.connections {
            return ready(Err(io::Error::other("there are too many connections")));
        }
        let accepted = self.inner.accept(stream, service).into_inner();
        ready(accepted.map(|(stream, service)| {
            let mut stream = TimeoutWriter::new(stream);
            stream.set_timeout(Some(self.limits.stall));
            (Box::pin(stream), service)
        }))
    }
}

/// Serves until `control` ends it, by HTTPS if there is `tls`.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: Listener,
    router: Router,
    tls: Option<Tls>,
    control: &Control,
    limits: Limits,
) -> io::Result<()> {
    match listener {
        Listener::Tcp(listener) => {
            let server = Server::<SocketAddr>::from_listener(listener);
            let acceptor = NoDelayAcceptor::new();
            run(server, acceptor, router, tls, control, limits).await
        }
        #[cfg(unix)]
        Listener::Unix(listener, _file) => {
            let server = Server::<std::os::unix::net::SocketAddr>::from_listener(listener);
            let acceptor = DefaultAcceptor::new();
            run(server, acceptor, router, tls, control, limits).await
        }
    }
}

async fn run<A, Acc>(
    server: Server<A>,
    acceptor: Acc,
    router: Router,
    tls: Option<Tls>,
    control: &Control,
    limits: Limits,
) -> io::Result<()>
where
    A: Address + Send + 'static,
    A::Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Acc: Accept<
            A::Stream,
            Router,
            Stream = A::Stream,
            Service = Router,
            Future = Ready<io::Result<(A::Stream, Router)>>,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    // An idle connection of HTTP/2 would have no time limit.
    let mut server = server
        .http1_only()
        .first_request_timeout(HEADER_TIMEOUT)
        .handle(Handle::with_control(control.clone()));
    server
        .http_builder()
        .http1()
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        // As llama-server writes names: some clients compare them letter by letter.
        .title_case_headers(true);
    let acceptor = Limited {
        inner: acceptor,
        control: control.clone(),
        limits,
    };
    let service = router.into_make_service();
    match tls {
        #[cfg(feature = "tls")]
        Some(tls) => {
            let acceptor = RustlsAcceptor::new(tls).acceptor(acceptor);
            server.acceptor(acceptor).serve(service).await
        }
        #[cfg(not(feature = "tls"))]
        Some(none) => match none {},
        None => server.acceptor(acceptor).serve(service).await,
    }
}
