//! RPC servers on this machine: those of the command-line tool, and a proxy that misbehaves.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

/// `llama-diffusion-cli rpc-server`, which ends when this is dropped.
pub struct Server {
    process: Child,
    pub endpoint: String,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// On a port that the system chooses.
    pub fn start() -> Self {
        Self::with(&["-p", "0", "-t", "1"])
    }

    pub fn with(args: &[&str]) -> Self {
        let mut process = super::process()
            .arg("rpc-server")
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let endpoint = loop {
            let line = lines.next().expect("the server ended").unwrap();
            if let Some(address) = line.strip_prefix("listening on ") {
                break address.to_owned();
            }
            log.lock().unwrap().push_str(&(line + "\n"));
        };
        let rest = Arc::clone(&log);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                rest.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self {
            process,
            endpoint,
            log,
        }
    }

    /// Its output so far, without the address.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Kills it, and with it the workers of its clients.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.process.wait().unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a proxy does with the bytes of a server's replies.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    None,
    /// Closes the connection after this many.
    Cut(usize),
    /// Sends nothing more after this many, and keeps the connection.
    Hang(usize),
    /// Inverts the bits of this one.
    Flip(usize),
}

/// Passes on the bytes of clients and a server, with a fault. Returns the address, and counts the
/// bytes of all replies.
pub fn proxy(server: &str, fault: Fault) -> (String, Arc<Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let (server, count) = (server.to_owned(), Arc::new(Mutex::new(0)));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(&server).unwrap();
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
            let counted = Arc::clone(&counted);
            thread::spawn(move || misbehave(server, client, fault, &counted));
        }
    });
    (endpoint, count)
}

fn misbehave(mut server: TcpStream, mut client: TcpStream, fault: Fault, count: &Mutex<usize>) {
    let (mut chunk, mut seen) = (vec![0; 1 << 16], 0);
    // A signal ends no connection.
    let mut next = |chunk: &mut [u8]| loop {
        match server.read(chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read.unwrap_or(0),
        }
    };
    loop {
        let read = next(&mut chunk);
        if read == 0 {
            break;
        }
        let within = |at: usize| at.checked_sub(seen).filter(|at| *at < read);
        match fault {
            Fault::Cut(at) | Fault::Hang(at) if within(at).is_some() => {
                let _ = client.write_all(&chunk[..at - seen]);
                if matches!(fault, Fault::Hang(_)) {
                    // Until the client gives up.
                    while next(&mut chunk) > 0 {}
                }
                break;
            }
            Fault::Flip(at) => {
                if let Some(at) = within(at) {
                    chunk[at] = !chunk[at];
                }
            }
            _ => {}
        }
        seen += read;
        *count.lock().unwrap() += read;
        if client.write_all(&chunk[..read]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

/// Listens, and calls this with each client.
pub fn listen(serve: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for client in listener.incoming() {
            serve(client.unwrap());
        }
    });
    endpoint
}

/// A port where nobody listens.
pub fn deserted() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}
