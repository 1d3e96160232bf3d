//! HTTPS: a server with a certificate of its own, and clients that trust that one alone.

#[path = "../server/process.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod process;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use process::{ANSWER, QUESTION, Server, chat, endless};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto};
use tempfile::TempDir;

type Connection = StreamOwned<ClientConnection, TcpStream>;

/// A key and its certificate, in files.
struct Files {
    directory: TempDir,
    certificate: CertificateDer<'static>,
}

impl Files {
    fn new() -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("cert.pem"), cert.pem()).unwrap();
        fs::write(
            directory.path().join("key.pem"),
            signing_key.serialize_pem(),
        )
        .unwrap();
        Self {
            directory,
            certificate: cert.der().clone(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn flags(&self) -> String {
        let (key, certificate) = (self.path("key.pem"), self.path("cert.pem"));
        format!("--ssl-key-file {key} --ssl-cert-file {certificate}")
    }

    /// A server that has loaded its model.
    fn server(&self, flags: &str) -> Server {
        let server = Server::start_loading(&format!("{} {flags}", self.flags()));
        assert!(server.base.starts_with("https://"), "{}", server.base);
        let start = Instant::now();
        while status(&self.ask(&server, "GET /health HTTP/1.1\r\nConnection: close\r\n")) != 200 {
            assert!(start.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn connect(&self, server: &Server) -> Connection {
        self.connect_with(server, &[b"h2", b"http/1.1"])
    }

    fn connect_with(&self, server: &Server, protocols: &[&[u8]]) -> Connection {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        StreamOwned::new(connection, connect(server))
    }

    /// Sends a head, and reads all that comes.
    fn ask(&self, server: &Server, head: &str) -> String {
        let mut connection = self.connect(server);
        write!(connection, "{head}Host: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }
}

fn connect(server: &Server) -> TcpStream {
    let socket = TcpStream::connect(server.base.strip_prefix("https://").unwrap()).unwrap();
    let limit = Some(Duration::from_secs(60));
    socket.set_read_timeout(limit).unwrap();
    socket.set_write_timeout(limit).unwrap();
    socket
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// An answer whose length is known.
fn answer(connection: &mut Connection) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let (_, rest) = head.split_once("\r\nContent-Length: ").unwrap();
    let (length, _) = rest.split_once("\r\n").unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    connection.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

fn post(path: &str, body: &str, more: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{more}\r\n{body}"
    )
}

#[test]
fn a_chat_over_tls() {
    let files = Files::new();
    let server = files.server("");
    let mut connection = files.connect(&server);
    // One connection for two requests.
    for more in ["", "Connection: close\r\n"] {
        let request = post("/v1/chat/completions", &chat(QUESTION).to_string(), more);
        connection.write_all(request.as_bytes()).unwrap();
        let answer = answer(&mut connection);
        assert_eq!(status(&answer), 200);
        assert!(answer.contains(ANSWER), "{answer}");
    }
    assert_eq!(connection.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    // HTTP/2 alone is not spoken, nor is HTTP without TLS.
    let mut connection = files.connect_with(&server, &[b"h2"]);
    let refused = connection.write(b"PRI").unwrap_err().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
    let mut plain = connect(&server);
    plain
        .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer); // it may be reset
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    // Nobody else's certificate is taken for it.
    let mut foreign = Files::new().connect(&server);
    let refused = foreign.write(b"GET").unwrap_err().to_string();
    assert!(refused.contains("certificate"), "{refused}");
}

#[test]
fn a_client_that_still_writes_gets_its_answer() {
    const BODY: usize = 20 << 20;
    let files = Files::new();
    let server = files.server("--max-body 1");
    let mut connection = files.connect(&server);
    write!(
        connection,
        "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY}\r\n\r\n"
    )
    .unwrap();
    let part = vec![b'x'; 1 << 20];
    for _ in 0..BODY / part.len() {
        connection.write_all(&part).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    let mut answer = [0; 12];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

/// The stream ends as such, and then the connection does, by an alert.
#[test]
fn an_answer_in_progress_ends_before_the_server_does() {
    let files = Files::new();
    let mut server = files.server("--drain-timeout 1");
    let mut body = endless();
    body["stream"] = true.into();
    let mut connection = files.connect(&server);
    let request = post("/v1/chat/completions", &body.to_string(), "");
    connection.write_all(request.as_bytes()).unwrap();
    let mut first = [0; 15];
    connection.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    let start = Instant::now();
    server.signal("-TERM");
    let mut rest = String::new();
    connection.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]\n\n"), "{rest}");
    assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
    assert_eq!(server.wait(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// How long a connection lives after something was sent.
fn lives(mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> u64 {
    let start = Instant::now();
    let mut part = [0; 4096];
    while read(&mut part).is_ok_and(|count| count > 0) {}
    start.elapsed().as_secs()
}

#[test]
fn slow_clients_are_cut_off() {
    let files = Files::new();
    let server = files.server("");
    thread::scope(|scope| {
        let silent = scope.spawn(|| {
            let mut socket = connect(&server);
            lives(|part| socket.read(part))
        });
        let halfway = scope.spawn(|| {
            let mut connection = files.connect(&server);
            connection
                .write_all(b"GET /health HTTP/1.1\r\nHost:")
                .unwrap();
            lives(|part| connection.read(part))
        });
        let idle = scope.spawn(|| {
            let mut connection = files.connect(&server);
            connection
                .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .unwrap();
            lives(|part| connection.read(part))
        });
        // A handshake has 10 seconds, a header and an idle connection have 30.
        assert!((9..20).contains(&silent.join().unwrap()));
        assert!((29..45).contains(&halfway.join().unwrap()));
        assert!((29..45).contains(&idle.join().unwrap()));
    });
}

/// What a server that does not start says.
fn refused(flags: &[&str]) -> String {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("llama-diffusion-server"));
    let output = command.args(["--port", "0"]).args(flags).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn wrong_files_are_errors_of_their_flags() {
    let files = Files::new();
    let (key, certificate) = (&*files.path("key.pem"), &*files.path("cert.pem"));
    let (empty, garbage, nowhere) = (files.path("empty"), files.path("garbage"), files.path("no"));
    let other = files.path("other.pem");
    fs::write(&empty, "").unwrap();
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(
        &garbage,
        damaged.to_owned() + &damaged.replace("CERTIFICATE", "PRIVATE KEY"),
    )
    .unwrap();
    fs::write(&other, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let name = |path: &str| Path::new(path).file_name().unwrap().to_owned();
    for (key, certificate, flag, problem) in [
        (&*nowhere, certificate, "--ssl-key-file", "No such file"),
        (key, &*nowhere, "--ssl-cert-file", "No such file"),
        (
            &*empty,
            certificate,
            "--ssl-key-file",
            "no private key in PEM",
        ),
        (key, &*empty, "--ssl-cert-file", "no certificate in PEM"),
        (certificate, key, "--ssl-cert-file", "no certificate in PEM"),
        (
            certificate,
            certificate,
            "--ssl-key-file",
            "no private key in PEM",
        ),
        (&*garbage, certificate, "--ssl-key-file", "private key"),
        (key, &*garbage, "--ssl-cert-file", "invalid"),
        (
            &*other,
            certificate,
            "--ssl-key-file",
            "not the key of the certificate",
        ),
    ] {
        let said = refused(&["--ssl-key-file", key, "--ssl-cert-file", certificate]);
        let line = said.lines().find(|line| line.contains("error: ")).unwrap();
        assert!(line.contains(flag) && line.contains(problem), "{said}");
        let path = if flag.contains("key") {
            key
        } else {
            certificate
        };
        assert!(line.contains(name(path).to_str().unwrap()), "{said}");
    }
    let said = refused(&["--ssl-key-file", key]);
    assert!(said.contains("--ssl-cert-file"), "{said}");
    let said = refused(&["--ssl-cert-file", certificate]);
    assert!(said.contains("--ssl-key-file"), "{said}");
}
