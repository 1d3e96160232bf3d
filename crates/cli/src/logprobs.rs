//! `--logprobs`: how likely each token of an answer is, in the form of llama-server's
//! `completion_probabilities`.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use llama_diffusion::diffusion::{Scorer, TokenScore};
use llama_diffusion::{Error, Result, Token, Vocab};
use serde::Serialize;

/// The file.
pub struct Logprobs {
    path: PathBuf,
    out: BufWriter<File>,
}

/// A token and its log-probability.
#[derive(Serialize)]
struct Likely {
    id: Token,
    token: String,
    bytes: Vec<u8>,
    logprob: f32,
}

/// A line of the file.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    token: Likely,
    top_logprobs: Vec<Likely>,
    entropy: f32,
    source: Scorer,
}

impl Likely {
    fn new(vocab: &Vocab, id: Token, logprob: f32) -> Result<Self> {
        let bytes = vocab.piece(id, true)?;
        Ok(Self {
            id,
            token: String::from_utf8_lossy(&bytes).into_owned(),
            bytes,
            logprob,
        })
    }
}

impl Logprobs {
    /// Creates the file. An existing one with that name is replaced.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            out: BufWriter::new(file),
        })
    }

    /// Writes the tokens of an answer, as they were scored.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, vocab: &Vocab, scores: &[TokenScore]) -> Result<()> {
        for score in scores {
            let top = score.top.iter();
            let line = Line {
                token: Likely::new(vocab, score.token, score.logprob)?,
                top_logprobs: top
                    .map(|(token, logprob)| Likely::new(vocab, *token, *logprob))
                    .collect::<Result<_>>()?,
                entropy: score.entropy,
                source: score.by,
            };
            let written = serde_json::to_writer(&mut self.out, &line)
                .map_err(io::Error::from)
                .and_then(|()| self.out.write_all(b"\n"));
            written.map_err(|source| self.error(source))?;
        }
        let flushed = self.out.flush();
        flushed.map_err(|source| self.error(source))
    }

    fn error(&self, source: io::Error) -> Error {
        Error::Io {
            path: self.path.clone(),
            source,
        }
    }
}
