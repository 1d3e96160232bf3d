//! A folder of files instead of the page.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use reqwest::StatusCode;

use crate::process::{QUESTION, Server, chat};

/// The status and the body of a path as it is written.
fn raw(server: &Server, path: &str) -> (u16, String) {
    let address = server.base.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (status, body.to_owned())
}

#[cfg(unix)]
#[test]
fn files_of_a_folder_are_shown_and_no_others() {
    use std::os::unix::fs::symlink;

    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("site");
    fs::create_dir_all(root.join("inner")).unwrap();
    fs::write(root.join("index.html"), "<p>own</p>").unwrap();
    fs::write(root.join("inner/a b.txt"), "text").unwrap();
    fs::write(directory.path().join("secret.txt"), "secret").unwrap();
    fs::create_dir(directory.path().join("site-two")).unwrap();
    fs::write(directory.path().join("site-two/secret.txt"), "secret").unwrap();
    symlink("../secret.txt", root.join("link.txt")).unwrap();
    symlink("..", root.join("up")).unwrap();
    symlink("inner/a b.txt", root.join("good.txt")).unwrap();
    let pipe = Command::new("mkfifo").arg(root.join("pipe")).status();
    assert!(pipe.unwrap().success());
    let server = Server::start(&format!("--path {}", root.display()));
    for (path, body) in [
        ("/", "<p>own</p>"),
        ("/index.html", "<p>own</p>"),
        ("/inner/a%20b.txt", "text"),
        ("/good.txt", "text"),
        // It leads out and in again.
        ("/up/site/inner/a%20b.txt", "text"),
    ] {
        assert_eq!(raw(&server, path), (200, body.to_owned()), "{path}");
    }
    let page = server.get("/").send().unwrap();
    assert_eq!(page.headers()["content-type"], "text/html");
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    for path in [
        "/link.txt",
        "/up/secret.txt",
        "/../secret.txt",
        "/inner/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/%2e%2e%2fsecret.txt",
        "/..%2fsecret.txt",
        "/..%5csecret.txt",
        "/%2e%2e/site-two/secret.txt",
        "//secret.txt",
        "/index.html%00",
        "/pipe",
        "/inner/",
        "/nothing",
        "/main.js",
        &format!("/{}", directory.path().join("secret.txt").display()),
        &format!("/%2f{}", directory.path().join("secret.txt").display()),
    ] {
        let (status, body) = raw(&server, path);
        assert_eq!(status, 404, "{path}: {body}");
        assert!(body.contains("File Not Found"), "{path}: {body}");
    }
    // The endpoints take precedence, and other methods are refused.
    server.ask("/v1/chat/completions", &chat(QUESTION));
    assert_eq!(server.json("/health")["status"], "ok");
    let posted = server.post("/index.html", &chat("")).send().unwrap();
    assert_eq!(posted.status(), StatusCode::NOT_FOUND);
}

#[test]
fn files_need_the_key_and_have_the_prefix() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("inner")).unwrap();
    fs::write(directory.path().join("inner/index.html"), "own").unwrap();
    let path = directory.path().display();
    let server = Server::start_loading(&format!("--path {path} --api-key k --api-prefix /api"));
    let get = |path: &str| server.get(path).bearer_auth("k").send().unwrap();
    assert_eq!(get("/api/inner").text().unwrap(), "own"); // by /api/inner/
    assert_eq!(get("/inner/").status(), StatusCode::NOT_FOUND);
    let keyless = server.get("/api/inner/").send().unwrap();
    assert_eq!(keyless.status(), StatusCode::UNAUTHORIZED);
}

#[test]
fn a_folder_that_does_not_exist_is_an_error_of_the_flag() {
    let program = assert_cmd::cargo::cargo_bin!("llama-diffusion-server");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for (path, problem) in [("nowhere", "No such file"), (file, "not a folder")] {
        let output = Command::new(program)
            .args(["--port", "0", "--path", path])
            .output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("--path") && said.contains(problem), "{said}");
    }
}
