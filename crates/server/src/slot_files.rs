//! Caches of slots in files, in one directory: saved and restored by name.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use llama_diffusion::{Error, Result as Outcome, Snapshot};
use serde_json::{Value, json};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::blocking::blocking;
use crate::body::read_body;
use crate::engine::scheduler::Refusal;
use crate::protocol::error::{ApiError, ErrorKind};
use crate::protocol::value;
use crate::state::State;

/// Characters of a name.
const MAX_NAME: usize = 128;

/// The directory of the files.
pub struct SlotFiles {
    directory: PathBuf,
    /// One file at a time is read or written: the threads for it also read requests.
    turn: Arc<Mutex<()>>,
}

impl SlotFiles {
    /// Files in a directory that exists.
    ///
    /// # Errors
    /// It does not exist.
    pub fn new(directory: PathBuf) -> Outcome<Self> {
        match fs::metadata(&directory).is_ok_and(|data| data.is_dir()) {
            true => Ok(Self {
                directory,
                turn: Arc::default(),
            }),
            false => Err(Error::Input {
                name: "--slot-save-path".into(),
                problem: format!("{} is not a directory: make it", directory.display()),
            }),
        }
    }

    async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Works on a file, on a thread for such work.
    async fn with<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&Path) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = self.turn().await;
        let path = self.directory.join(name);
        let work = move || {
            // Also if the client has hung up.
            let _turn = turn;
            work(&path)
        };
        blocking(work).await
    }
}

/// Saves the cache of a slot, or restores it.
///
/// # Errors
/// 501: there is no directory. 400: the name or the file cannot be used. 404: there is no such file.
/// 503: the slot is in use. 500: the disk or the device fails.
pub async fn act(state: &State, slot: usize, saves: bool, body: Body) -> Result<Value, ApiError> {
    let off = || {
        let message = "this is turned off: start the server with --slot-save-path";
        ApiError::new(ErrorKind::NotSupported, message)
    };
    let files = state.config.slot_files.as_ref().ok_or_else(off)?;
    let body = read_body(body, state.config.max_body).await?;
    let name = name(&value::body(&body)?)?;
    match saves {
        true => save(state, files, slot, name).await,
        false => restore(state, files, slot, name).await,
    }
}

async fn save(
    state: &State,
    files: &SlotFiles,
    slot: usize,
    name: String,
) -> Result<Value, ApiError> {
    let start = Instant::now();
    let saved = state.engine.save(slot).await;
    let saved: Snapshot = saved.map_err(|refusal| refused(slot, refusal))?;
    let tokens = saved.tokens().len();
    let bytes = files.with(&name, move |path| {
        saved.save(path).map_err(|error| failed(path, &error))?;
        let size = fs::metadata(path).map(|data| data.len());
        Ok(size.unwrap_or_default())
    });
    Ok(json!({
        "id_slot": slot,
        "filename": name,
        "n_saved": tokens,
        "n_written": bytes.await?,
        "timings": {"save_ms": milliseconds(start)},
    }))
}

async fn restore(
    state: &State,
    files: &SlotFiles,
    slot: usize,
    name: String,
) -> Result<Value, ApiError> {
    let start = Instant::now();
    let (saved, bytes) = files.with(&name, load).await?;
    let tokens = saved.tokens().len();
    let restored = state.engine.restore(slot, saved).await;
    restored.map_err(|refusal| match refusal {
        Refusal::Failed(error @ Error::InvalidParameter { .. }) => {
            wrong(format!("the file '{name}' does not fit: {error}"))
        }
        refusal => refused(slot, refusal),
    })?;
    Ok(json!({
        "id_slot": slot,
        "filename": name,
        "n_restored": tokens,
        "n_read": bytes,
        "timings": {"restore_ms": milliseconds(start)},
    }))
}

/// Reads a file and its size. Only a regular file is opened: another one could block, or lie elsewhere.
fn load(path: &Path) -> Result<(Snapshot, u64), ApiError> {
    let data = fs::symlink_metadata(path).ok();
    match data.filter(fs::Metadata::is_file) {
        None => {
            let message = format!("there is no file '{}'", name_of(path));
            Err(ApiError::new(ErrorKind::NotFound, message))
        }
        Some(data) => match Snapshot::load(path) {
            Ok(saved) => Ok((saved, data.len())),
            Err(Error::File { problem, .. }) => {
                Err(wrong(format!("the file '{}': {problem}", name_of(path))))
            }
            Err(error) => Err(failed(path, &error)),
        },
    }
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// A failure of the disk. Where the directory lies is not the client's business.
fn failed(path: &Path, error: &Error) -> ApiError {
    tracing::error!("{error}");
    let problem = match error {
        Error::Io { source, .. } => source.to_string(),
        other => other.to_string(),
    };
    let message = format!("the file '{}': {problem}", name_of(path));
    ApiError::new(ErrorKind::Server, message)
}

/// What a client reads of a slot that cannot be saved, restored or erased.
pub fn refused(slot: usize, refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::InUse => {
            let message = format!("slot {slot} is in use");
            ApiError::new(ErrorKind::Unavailable, message).retry_after(1)
        }
        Refusal::Failed(error) => ApiError::new(ErrorKind::Server, error.to_string()),
        Refusal::Ended => {
            let message = "the server is about to end";
            ApiError::new(ErrorKind::Unavailable, message).retry_after(5)
        }
    }
}

/// The name of a file: never a path.
fn name(body: &serde_json::Map<String, Value>) -> Result<String, ApiError> {
    let name = body.get("filename").and_then(Value::as_str);
    let is_plain = |name: &&str| {
        let mut bytes = name.bytes();
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=MAX_NAME).contains(&name.len()) && !name.starts_with('.') && bytes.all(known)
    };
    name.filter(is_plain).map(str::to_owned).ok_or_else(|| {
        let problem = format!(
            "give a name of 1 to {MAX_NAME} letters, digits, '.', '_' or '-' that does not begin with '.'"
        );
        ApiError::field("filename", problem)
    })
}

fn wrong(message: String) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, message)
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: Value) -> Result<String, ApiError> {
        let body = json!({"filename": name});
        super::name(body.as_object().unwrap())
    }

    #[test]
    fn a_name_is_never_a_path() {
        for good in ["a", "slot-0_x.bin", "A.b.c", &"x".repeat(MAX_NAME)] {
            assert_eq!(named(good.into()).unwrap(), good);
        }
        let long = "x".repeat(MAX_NAME + 1);
        for bad in [
            "",
            ".",
            "..",
            ".hidden",
            "../x",
            "a/b",
            "a\\b",
            "/etc/passwd",
            "a\0b",
            "a b",
            "é",
            "a:b",
            "a\n",
            &long,
        ] {
            let error = named(bad.into()).unwrap_err();
            assert_eq!(error.status(), 400, "{bad:?}");
            assert_eq!(error.param.as_deref(), Some("filename"));
        }
        for other in [json!(1), json!(null), json!(["a"])] {
            assert_eq!(named(other).unwrap_err().status(), 400);
        }
        assert_eq!(name(&serde_json::Map::new()).unwrap_err().status(), 400);
    }
}
