//! `--prompt-cache`: the tokens of a session and their keys and values, kept in a file from one run
//! to the next.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use llama_diffusion::{Error, Generation, Result, Session, Snapshot, Token};

use crate::args::Saves;

/// The file, and when it is written.
pub struct PromptCache {
    path: PathBuf,
    saves: Saves,
    /// The contents of the file, until a session has them.
    snapshot: Option<Snapshot>,
}

impl PromptCache {
    /// Reads the file, if it exists. An empty one counts as new, as in llama.cpp.
    ///
    /// # Errors
    /// It is not the file of a session, it is damaged, or a new one cannot be created.
    pub fn read(path: &Path, saves: Saves) -> Result<Self> {
        let snapshot = match size(path)? {
            Some(1..) => Some(Snapshot::load(path)?),
            Some(0) | None => {
                match saves {
                    Saves::Never => tracing::warn!(
                        "{}: there is no such file, or it is empty: --prompt-cache-ro has nothing \
                         to read",
                        path.display()
                    ),
                    Saves::Prompt | Saves::Answers => check_folder(path)?,
                }
                None
            }
        };
        Ok(Self {
            path: path.to_owned(),
            saves,
            snapshot,
        })
    }

    /// Restores the contents of the file in a session.
    ///
    /// # Errors
    /// It belongs to another model, or does not fit the session.
    pub fn restore(&mut self, session: &mut Session) -> Result<()> {
        let Some(snapshot) = self.snapshot.take() else {
            return Ok(());
        };
        session.restore(&snapshot).map_err(|error| match error {
            Error::InvalidParameter { problem, .. } => refuse(
                &self.path,
                format!("{problem}. Give another file for --prompt-cache, or remove this one"),
            ),
            error => error,
        })
    }

    /// Called after a prompt was encoded; `reused` of its `count` tokens were cached before.
    ///
    /// # Errors
    /// The device fails, or the file cannot be written.
    pub fn prompt_encoded(&mut self, session: &Session, reused: usize, count: usize) -> Result<()> {
        if self.saves == Saves::Prompt {
            self.saves = Saves::Never;
            if reused < count {
                session.snapshot()?.save(&self.path)?;
            }
        }
        Ok(())
    }

    /// Called after a prompt was answered. The session does not cache the final canvas: if the file
    /// should contain the answer, the canvas is encoded, too.
    ///
    /// # Errors
    /// As [`prompt_encoded`](Self::prompt_encoded).
    pub fn answered(
        &self,
        session: &mut Session,
        prompt: &[Token],
        answer: &Generation,
    ) -> Result<()> {
        if self.saves != Saves::Answers {
            return Ok(());
        }
        let (cached, limits) = (session.cached().len(), session.limits());
        let written = cached.checked_sub(prompt.len());
        let rest = written.and_then(|written| answer.tokens.get(written..));
        let rest = rest.unwrap_or_default();
        let rest = &rest[..rest.len().min(limits.context - cached)];
        for pass in rest.chunks(limits.pass) {
            session.denoiser().prefill(pass)?;
        }
        session.snapshot()?.save(&self.path)
    }
}

/// Size of a file in bytes, if it exists.
fn size(path: &Path) -> Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(is) if is.is_file() => Ok(Some(is.len())),
        Ok(_) => Err(refuse(
            path,
            "it is not a regular file: give a file for --prompt-cache",
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Rejects a file that cannot be created, before minutes of loading.
fn check_folder(path: &Path) -> Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => Err(refuse(
            path,
            "its directory does not exist: make it, or give another file for --prompt-cache",
        )),
        _ => Ok(()),
    }
}

fn refuse(path: &Path, problem: impl Into<String>) -> Error {
    Error::File {
        path: path.to_owned(),
        problem: problem.into(),
    }
}
