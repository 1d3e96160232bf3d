//! `rpc-server` and `--rpc` of the command-line tool, from outside.
#![cfg(all(feature = "rpc", feature = "demo-model"))]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::rpc::{Server, deserted};
use crate::common::{self, text};

const QUESTION: &str = "What is the capital of Norway?";
const ANSWER: &str = "The capital of Norway is Oslo.\n";

fn cli(args: &[&str]) -> Command {
    let mut command = common::process();
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    cli(args).output().unwrap()
}

fn assert_answers(output: &Output) {
    let error = text(&output.stderr);
    assert_eq!(text(&output.stdout), ANSWER, "{error}");
    assert_eq!(output.status.code(), Some(0), "{error}");
}

/// It ends with one line of error that contains all of these.
fn assert_fails(output: &Output, parts: &[&str]) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    for part in ["error: "].iter().chain(parts) {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

fn wait_for(server: &Server, part: &str) {
    let start = Instant::now();
    while !server.log().contains(part) {
        let log = server.log();
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{part:?} is not in {log:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_question_is_answered_by_one_server_and_by_two() {
    let servers = [Server::start(), Server::start()];
    let ask = |rpc: &str, more: &[&str]| {
        run(&[&["--rpc", rpc, "-p", QUESTION, "-s", "1", "-t", "1"], more].concat())
    };
    let both = format!("{},{}", servers[0].endpoint, servers[1].endpoint);
    assert_answers(&ask(&servers[0].endpoint, &[]));
    assert_answers(&ask(&both, &[]));
    assert_answers(&ask(&both, &["-ts", "1,3"]));
    assert_answers(&ask(&both, &["-dev", "RPC1"]));
    let list = run(&["--list-devices", "--rpc", &both]);
    for (i, server) in servers.iter().enumerate() {
        let line = format!("  RPC{i}: {} (", server.endpoint);
        assert!(text(&list.stdout).contains(&line), "{}", text(&list.stdout));
    }
    wait_for(&servers[1], " has left");
    let by_variable = cli(&["-p", QUESTION, "-s", "1", "-t", "1"])
        .env("LLAMA_ARG_RPC", &servers[1].endpoint)
        .output();
    assert_answers(&by_variable.unwrap());
}

#[test]
fn clients_at_the_same_time_are_all_served() {
    let server = Server::start();
    let args = [
        "--rpc",
        &server.endpoint,
        "-p",
        QUESTION,
        "-s",
        "1",
        "-t",
        "1",
    ];
    let start = |_| -> Child {
        cli(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let clients: Vec<Child> = (0..3).map(start).collect();
    for client in clients {
        assert_answers(&client.wait_with_output().unwrap());
    }
}

#[test]
fn a_server_that_dies_in_a_chat_is_an_error() {
    let mut server = Server::start();
    let mut chat = cli(&["--rpc", &server.endpoint, "-cnv", "-s", "1", "-t", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = chat.stdin.take().unwrap();
    let mut output = chat.stdout.take().unwrap();
    writeln!(input, "{QUESTION}").unwrap();
    let mut answer = vec![0; ANSWER.len()];
    output.read_exact(&mut answer).unwrap();
    assert_eq!(text(&answer), ANSWER);
    server.kill();
    writeln!(input, "{QUESTION}").unwrap();
    drop(input);
    let mut error = String::new();
    chat.stderr
        .take()
        .unwrap()
        .read_to_string(&mut error)
        .unwrap();
    let part = format!(
        "RPC server {}: the server closed the connection",
        server.endpoint
    );
    assert!(error.contains(&part), "{error}");
    assert_eq!(chat.wait().unwrap().code(), Some(1), "{error}");
}

#[test]
fn servers_that_cannot_be_used_are_named() {
    let nobody = deserted();
    let ask = |rpc: &str| run(&["--rpc", rpc, "-p", QUESTION, "-t", "1"]);
    assert_fails(&ask(&nobody), &[&nobody, "nothing listens there"]);
    assert_fails(&ask("gpu-box"), &["'gpu-box' is not HOST:PORT"]);
    let output = run(&["--rpc", &nobody, "--rpc-timeout", "0", "-p", QUESTION]);
    assert_eq!(output.status.code(), Some(1));
}

/// Requests that no client sends; ggml's server aborts on some of them.
#[test]
fn a_malformed_request_ends_nothing_but_its_client() {
    let mut server = Server::start();
    let hello = [&[14, 24, 0, 0, 0, 0, 0, 0, 0][..], &[0; 24]].concat();
    let request = |command: u8, payload: &[u8]| {
        [
            &[command][..],
            &(payload.len() as u64).to_le_bytes(),
            payload,
        ]
        .concat()
    };
    let endpoint = server.endpoint.clone();
    let send = |bytes: &[u8]| -> Vec<u8> {
        let mut stream = TcpStream::connect(&endpoint).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        reply
    };
    // Nothing, half of a greeting, another protocol.
    for bytes in [
        &b""[..],
        &hello[..5],
        b"GET / HTTP/1.1\r\nHost: gpu-box:50052\r\n\r\n",
    ] {
        assert_eq!(send(bytes), b"");
    }
    let alloc = request(0, &[&[0; 4][..], &4096_u64.to_le_bytes()].concat());
    let reply = send(&[&hello[..], &alloc].concat());
    let buffer = &reply[44..52];
    // A tensor of bytes in no buffer, in one of another client, of an unknown type.
    let tensor = |buffer: &[u8], ty: u32| {
        let mut tensor = vec![0; 296];
        tensor[0] = 1;
        tensor[8..12].copy_from_slice(&ty.to_le_bytes());
        tensor[12..20].copy_from_slice(buffer);
        for dimension in 0..4 {
            tensor[20 + 4 * dimension] = 1;
            tensor[36 + 4 * dimension] = 4;
        }
        tensor[220..228].copy_from_slice(&1_u64.to_le_bytes());
        tensor
    };
    let get =
        |tensor: &[u8], size: u64| request(8, &[tensor, &[0; 8], &size.to_le_bytes()].concat());
    let graph = |op: u32| {
        let mut node = tensor(&[0; 8], 0);
        node[52..56].copy_from_slice(&op.to_le_bytes());
        node[220..228].fill(0);
        let parts = [
            &0_u32.to_le_bytes()[..],
            &1_u32.to_le_bytes(),
            &1_u64.to_le_bytes(),
            &1_u32.to_le_bytes(),
            &node,
        ];
        request(10, &parts.concat())
    };
    let aborts = [graph(4), graph(99_999), request(10, &[0xff; 64])];
    let malformed = [
        get(&tensor(buffer, 0), 4),
        get(&tensor(&[0; 8], 0), u64::MAX),
        get(&tensor(&[0; 8], 9999), 4),
        request(99, &[]),
        request(0, &[1; 3]),
        [&[6][..], &u64::MAX.to_le_bytes()].concat(), // more than there is
        alloc[..7].to_vec(),
    ];
    for bytes in malformed.iter().chain(&aborts) {
        send(&[&hello[..], bytes].concat());
        assert!(server.is_running());
    }
    wait_for(&server, "its worker ended (signal: ");
    let args = [
        "--rpc",
        &server.endpoint,
        "-p",
        QUESTION,
        "-s",
        "1",
        "-t",
        "1",
    ];
    assert_answers(&run(&args));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let parts = ["--port: ", "another program uses port ", &port];
    assert_fails(&run(&["rpc-server", "-p", &port]), &parts);
    let parts = ["--host: 'no-such-host.invalid'"];
    assert_fails(&run(&["rpc-server", "-H", "no-such-host.invalid"]), &parts);
    assert_fails(
        &run(&["rpc-server", "-d", "CUDA7"]),
        &["there is no 'CUDA7'"],
    );
}

#[test]
fn only_the_loopback_interface_is_listened_on_without_a_warning() {
    let local = Server::start();
    assert!(local.endpoint.starts_with("127.0.0.1:"));
    assert!(!local.log().contains("WARN"), "{}", local.log());
    let open = Server::with(&["-H", "0.0.0.0", "-p", "0"]);
    assert!(open.log().contains("WARN"), "{}", open.log());
    assert!(open.log().contains("no passwords"), "{}", open.log());
}

#[cfg(unix)]
#[test]
fn signals_end_a_server_and_its_workers() {
    for (signal, status) in [("-TERM", 143), ("-INT", 130)] {
        let mut server = Server::start();
        let mut client = TcpStream::connect(&server.endpoint).unwrap();
        let hello = [&[14, 24, 0, 0, 0, 0, 0, 0, 0][..], &[0; 24]].concat();
        client.write_all(&hello).unwrap();
        client.read_exact(&mut [0; 36]).unwrap();
        wait_for(&server, " is connected");
        let sent = Command::new("kill")
            .args([signal, &server.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        assert_eq!(server.wait().code(), Some(status));
        // The worker is gone as well: nobody holds the connection.
        client
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
}
