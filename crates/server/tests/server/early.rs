//! Answers to requests whose body nobody reads.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::process::{Server, endless};

const BODY: usize = 20 << 20;

/// Sends a head and a large body, and then reads the answer slowly. Returns its status.
fn status(server: &Server, head: &str) -> u16 {
    let address = server.base.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    let limit = Some(Duration::from_secs(60));
    socket.set_read_timeout(limit).unwrap();
    socket.set_write_timeout(limit).unwrap();
    write!(socket, "{head}\r\n").unwrap();
    let part = vec![b'x'; 1 << 20];
    let is_chunked = head.contains("chunked");
    for _ in 0..BODY / part.len() {
        if is_chunked {
            write!(socket, "{:x}\r\n", part.len()).unwrap();
        }
        socket.write_all(&part).unwrap();
        if is_chunked {
            socket.write_all(b"\r\n").unwrap();
        }
        thread::sleep(Duration::from_millis(5));
    }
    if is_chunked {
        socket.write_all(b"0\r\n\r\n").unwrap();
    }
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        assert_eq!(socket.read(&mut byte).unwrap(), 1, "{answer:?}");
        answer.push(byte[0]);
        thread::sleep(Duration::from_micros(200));
    }
    let answer = String::from_utf8(answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn head(method: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY}\r\n{more}")
}

#[test]
fn a_client_that_still_writes_gets_its_answer() {
    let server = Server::start("-np 1 --queue 0 --max-body 1");
    let chats = "/v1/chat/completions";
    let foreign = head("POST", chats, "Origin: https://evil.org\r\n");
    let chunked = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n";
    for (head, expected) in [
        (foreign, 403),
        (head("POST", "/nowhere", ""), 404),
        (head("PUT", chats, ""), 405),
        (head("POST", "/tokenize", ""), 413),
        (chunked.to_owned(), 413),
        (head("POST", "/slots/9?action=erase", ""), 400),
        (head("POST", "/v1/embeddings", ""), 501),
        (head("POST", "/tokenize", "Connection: close\r\n"), 413),
    ] {
        assert_eq!(status(&server, &head), expected, "{head}");
    }
    thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let request = server.post(chats, &endless());
            request.timeout(Duration::from_secs(3)).send()
        });
        while server.json("/slots")[0]["is_processing"] != true {}
        assert_eq!(status(&server, &head("POST", chats, "")), 503);
        assert!(busy.join().unwrap().unwrap_err().is_timeout());
    });
}

#[test]
fn so_does_one_without_a_key() {
    let server = Server::start_loading("--api-key k");
    assert_eq!(status(&server, &head("POST", "/tokenize", "")), 401);
}

/// The server waits for its template, which nobody writes.
#[cfg(unix)]
#[test]
fn so_does_one_while_the_model_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let template = directory.path().join("template");
    let made = std::process::Command::new("mkfifo").arg(&template).status();
    assert!(made.unwrap().success());
    let server = Server::start_loading(&format!("--chat-template-file {}", template.display()));
    assert_eq!(status(&server, &head("POST", "/tokenize", "")), 503);
}
