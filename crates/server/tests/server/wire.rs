//! HTTP letter by letter.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::process::Server;

/// An idle connection of HTTP/2 would have no time limit: the server speaks HTTP/1.1 alone.
#[test]
fn clients_of_http_2_are_refused_at_once() {
    let server = Server::start_loading("");
    let address = server.base.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // The preface and the frame of settings of a client that knows that the server has HTTP/2.
    socket
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    let mut answer = Vec::new();
    let ended = socket.read_to_end(&mut answer);
    let is_reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
    assert!(
        ended.is_ok() || ended.as_ref().is_err_and(is_reset),
        "{ended:?} {answer:?}"
    );
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
        "{answer:?}"
    );
}

/// As llama-server writes them: some clients compare them letter by letter.
#[test]
fn names_of_headers_begin_with_capital_letters() {
    let server = Server::start_loading("");
    let address = server.base.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    socket
        .write_all(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    for name in [
        "\r\nContent-Type: ",
        "\r\nContent-Length: ",
        "\r\nX-Content-Type-Options: ",
    ] {
        assert!(answer.contains(name), "{answer}");
    }
}

/// Otherwise it would hold a connection, and its answer, for ever.
#[test]
fn a_client_that_reads_nothing_is_cut_off() {
    const REQUESTS: usize = 2000;
    let server = Server::start_loading("--timeout 1");
    let address = server.base.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    let limit = Some(Duration::from_secs(60));
    socket.set_read_timeout(limit).unwrap();
    socket.set_write_timeout(limit).unwrap();
    let request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n";
    socket.write_all(&request.repeat(REQUESTS)).unwrap();
    thread::sleep(Duration::from_secs(5));
    let (mut bytes, mut part) = (0, vec![0; 1 << 20]);
    // It ends, or is reset.
    while let Ok(read @ 1..) = socket.read(&mut part) {
        bytes += read;
    }
    let all = REQUESTS
        * server
            .get("/openapi.json")
            .send()
            .unwrap()
            .bytes()
            .unwrap()
            .len();
    assert!(bytes < all / 2, "{bytes} of {all}");
}
