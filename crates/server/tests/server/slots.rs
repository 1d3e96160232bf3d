//! Caches of slots in files.

use serde_json::{Value, json};

use crate::process::{QUESTION, Server, chat};

fn act(server: &Server, slot: usize, action: &str, name: &str) -> (u16, Value) {
    let path = format!("/slots/{slot}?action={action}");
    let response = server.post(&path, &json!({"filename": name})).send();
    let response = response.unwrap();
    (response.status().as_u16(), response.json().unwrap())
}

#[test]
fn a_saved_slot_goes_on_in_another_server() {
    let directory = tempfile::tempdir().unwrap();
    let flags = format!("-np 2 --slot-save-path {}", directory.path().display());
    let mut body = chat(QUESTION);
    body["id_slot"] = 1.into();
    let server = Server::start(&flags);
    let expected = server.ask("/v1/chat/completions", &body);
    server.wait_until_idle();
    let (status, saved) = act(&server, 1, "save", "norway.bin");
    assert_eq!(status, 200, "{saved}");
    let bytes = std::fs::metadata(directory.path().join("norway.bin"));
    assert_eq!(saved["n_written"], bytes.unwrap().len());
    assert_eq!(
        (&saved["id_slot"], &saved["filename"]),
        (&json!(1), &json!("norway.bin"))
    );
    drop(server);

    let server = Server::start(&flags);
    let (status, restored) = act(&server, 1, "restore", "norway.bin");
    assert_eq!(status, 200, "{restored}");
    assert_eq!(restored["n_restored"], saved["n_saved"]);
    assert_eq!(restored["n_read"], saved["n_written"]);
    let answer = server.ask("/v1/chat/completions", &body);
    assert_eq!(answer["choices"], expected["choices"]);
    let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    assert!(cached.unwrap() > 0, "{answer}");

    std::fs::write(directory.path().join("damaged"), "llama-diffusion2").unwrap();
    std::fs::create_dir(directory.path().join("directory")).unwrap();
    for (action, name, expected) in [
        ("restore", "damaged", 400),
        ("restore", "nowhere", 404),
        ("restore", "directory", 404),
        ("save", "directory", 500),
        ("save", "../outside", 400),
        ("restore", "/etc/passwd", 400),
        ("restore", "", 400),
    ] {
        let (status, error) = act(&server, 1, action, name);
        assert_eq!(status, expected, "{action} {name}: {error}");
        let message = error["error"]["message"].as_str().unwrap();
        let place = directory.path().to_str().unwrap();
        assert!(!message.contains(place), "{message}");
    }
    #[cfg(unix)]
    {
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("norway.bin", link).unwrap();
        assert_eq!(act(&server, 1, "restore", "link").0, 404);
    }
    server.ask("/v1/chat/completions", &body);
}

#[test]
fn a_directory_that_does_not_exist_is_an_error() {
    let mut server =
        std::process::Command::new(assert_cmd::cargo::cargo_bin!("llama-diffusion-server"));
    let output = server
        .args(["--port", "0", "--slot-save-path", "/nowhere/at/all"])
        .output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("--slot-save-path: /nowhere/at/all is not a directory"),
        "{message}"
    );
}
