//! The tool on a pseudo-terminal.

use std::ffi::OsStr;
use std::io::Read as _;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

/// A program that runs on a pseudo-terminal. It is killed when this is dropped.
pub struct Pty {
    pub output: Receiver<Vec<u8>>,
    pub master: Box<dyn MasterPty + Send>,
    child: Box<dyn Child + Send + Sync>,
}

/// A program, without the settings of the user's environment, on a terminal of this kind.
pub fn command(program: impl AsRef<OsStr>, term: &str) -> CommandBuilder {
    let mut command = CommandBuilder::new(program);
    for (name, _) in std::env::vars() {
        if name.starts_with("LLAMA_") || name == "NO_COLOR" {
            command.env_remove(name);
        }
    }
    command.env("TERM", term);
    command.cwd(env!("CARGO_MANIFEST_DIR"));
    command
}

pub fn size(columns: usize, rows: usize) -> PtySize {
    PtySize {
        cols: u16::try_from(columns).unwrap(),
        rows: u16::try_from(rows).unwrap(),
        ..PtySize::default()
    }
}

impl Pty {
    pub fn run(command: CommandBuilder, size: PtySize) -> Self {
        let pty = native_pty_system().openpty(size).unwrap();
        let child = pty.slave.spawn_command(command).unwrap();
        let mut reader = pty.master.try_clone_reader().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // Linux reports the end of the program as an error.
            while let Ok(count @ 1..) = reader.read(&mut chunk) {
                if sender.send(chunk[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            output,
            master: pty.master,
            child,
        }
    }

    /// What the program writes next; an error if it has ended, or hangs.
    pub fn receive(&self) -> Result<Vec<u8>, RecvTimeoutError> {
        self.output.recv_timeout(Duration::from_secs(60))
    }

    pub fn process_id(&self) -> u32 {
        self.child.process_id().unwrap()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.process_id().to_string();
        let status = Command::new("kill").args([name, &pid]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end of the program. Returns its exit status.
    pub fn status(&mut self) -> u32 {
        self.child.wait().unwrap().exit_code()
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // It has ended, unless a test failed.
        let _ = self.child.kill();
    }
}
