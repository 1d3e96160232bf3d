//! A session's cache on the host: copied, restored, saved to a file.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use super::{Sequence, Session};
use crate::diffusion::{EndTokens, Token};
use crate::error::{Error, Result};
use crate::model::{CacheRows, CacheSnapshot, KvType};
use crate::parameter::Parameter;
use crate::temporary::Tracked;

/// What a session has encoded: tokens, and their keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The fingerprint of the model.
    fingerprint: u64,
    tokens: Vec<Token>,
    /// `None` for the masked families, which cache nothing.
    cache: Option<CacheSnapshot>,
}

impl Session {
    /// Copies what is cached to the host. A canvas that is being denoised is not part of it.
    ///
    /// # Errors
    /// The device fails.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let (tokens, cache) = match &self.sequence {
            Sequence::Canvas(denoiser) => (denoiser.cached(), Some(denoiser.snapshot()?)),
            Sequence::Masked(denoiser) => (denoiser.prefix(), None),
        };
        Ok(Snapshot {
            fingerprint: self.model.fingerprint(),
            tokens: tokens.to_vec(),
            cache,
        })
    }

    /// Replaces the cache by a snapshot: answers are then those of the session that the snapshot
    /// was taken of.
    ///
    /// # Errors
    /// The snapshot belongs to another model, its context is larger or its KV cache has another
    /// type, or the device fails. The cache is empty then.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.reset()?;
        if snapshot.fingerprint != self.model.fingerprint() {
            return Err(Error::parameter(
                Parameter::Snapshot,
                "it is of another model, or of other metadata",
            ));
        }
        match (&mut self.sequence, &snapshot.cache) {
            (Sequence::Canvas(denoiser), Some(cache)) => denoiser.restore(cache),
            (Sequence::Masked(denoiser), None) => denoiser.set_prefix(&snapshot.tokens),
            // Excluded by the fingerprint.
            (Sequence::Canvas(_), None) | (Sequence::Masked(_), Some(_)) => Err(Error::parameter(
                Parameter::Snapshot,
                "it is of a model of another family",
            )),
        }
    }

    /// Another session that has encoded the same tokens. It has memory of its own.
    ///
    /// # Errors
    /// There is not enough memory, or the device fails.
    pub fn fork(&self) -> Result<Self> {
        let end: EndTokens = self.end.clone();
        let mut fork = Self::new(&self.model, end, &self.params)?;
        fork.restore(&self.snapshot()?)?;
        Ok(fork)
    }
}

/// The first bytes of a file. The number is the version of the format.
const MAGIC: [u8; 16] = *b"llama-diffusion2";
/// More tokens than any context holds.
const MAX_TOKENS: u64 = i32::MAX as u64;

impl Snapshot {
    /// The encoded tokens.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        let cache = self.cache.as_ref();
        let rows = cache.into_iter().flat_map(|cache| {
            let both = [&cache.full, &cache.sliding].into_iter();
            both.chain(&cache.checkpoints)
        });
        rows.map(CacheRows::bytes).sum()
    }

    /// Writes the snapshot to a file: completely, or not at all.
    ///
    /// The numbers are little-endian: a magic of 16 bytes; U64 fingerprint of the model, I64 type
    /// of the cache (−1 if there is none), U64 number of tokens; the tokens, I32; for the layers of
    /// either kind U64 first position, number of arrays, and for each its length in bytes and its
    /// bytes; U64 number of checkpoints, and for each its end, U64, and the sliding layers in the
    /// same form; at the end the XXH3 hash of everything before, U64.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(Error::io(path))?;
        let tracked = Tracked::new(file.path());
        let mut out = HashedWriter {
            inner: BufWriter::new(file.as_file_mut()),
            hash: Xxh3::new(),
        };
        self.write(&mut out).map_err(Error::io(path))?;
        drop(out);
        let persisted = file.persist(path).map_err(|error| error.error);
        drop(tracked);
        persisted.map(drop).map_err(Error::io(path))
    }

    fn write(&self, out: &mut HashedWriter<impl Write>) -> std::io::Result<()> {
        out.bytes(&MAGIC)?;
        out.number(self.fingerprint)?;
        let ty = self.cache.as_ref().map_or(-1, |cache| cache.ty as i64);
        out.bytes(&ty.to_le_bytes())?;
        out.number(self.tokens.len() as u64)?;
        for token in &self.tokens {
            out.bytes(&token.to_le_bytes())?;
        }
        if let Some(cache) = &self.cache {
            write_rows(out, &cache.full)?;
            write_rows(out, &cache.sliding)?;
            out.number(cache.checkpoints.len() as u64)?;
            for rows in &cache.checkpoints {
                out.number(rows.positions.end as u64)?;
                write_rows(out, rows)?;
            }
        }
        let hash = out.hash.digest();
        out.number(hash)?;
        out.inner.flush()
    }

    /// Reads a file that [`save`](Self::save) wrote. [`Session::restore`] checks whether it fits a
    /// session.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] for a file of another kind or version, or a damaged one.
    pub fn load(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let size = file.metadata().map_err(Error::io(path))?.len();
        let mut input = HashedReader {
            inner: BufReader::new(file),
            hash: Xxh3::new(),
            left: size,
        };
        Self::read(&mut input).map_err(|problem| Error::File {
            path: path.to_owned(),
            problem,
        })
    }

    fn read(input: &mut HashedReader<impl Read>) -> Result<Self, String> {
        if input.bytes(MAGIC.len())? != MAGIC {
            return Err("not a saved session of this version: remove it to start again".into());
        }
        let fingerprint = input.number()?;
        let ty = match input.number()? as i64 {
            -1 => None,
            ty => Some(
                KvType::ALL
                    .into_iter()
                    .find(|known| *known as i64 == ty)
                    .ok_or_else(|| format!("type {ty} of the KV cache is not known"))?,
            ),
        };
        let count = input.number()?;
        if count > MAX_TOKENS {
            return Err(format!("{count} tokens are more than a context holds"));
        }
        let tokens = input.bytes(count as usize * size_of::<Token>())?;
        let tokens = tokens.chunks_exact(size_of::<Token>());
        let token = |bytes: &[u8]| bytes.try_into().map_or(-1, Token::from_le_bytes);
        let tokens: Vec<Token> = tokens.map(token).collect();
        let end = tokens.len();
        let cache = match ty {
            Some(ty) => Some(CacheSnapshot {
                tokens: tokens.clone(),
                ty,
                full: read_rows(input, end)?,
                sliding: read_rows(input, end)?,
                checkpoints: read_checkpoints(input)?,
            }),
            None => None,
        };
        let expected = input.hash.digest();
        if input.number()? != expected || input.left > 0 {
            return Err("damaged: its checksum is wrong. Remove it".into());
        }
        Ok(Self {
            fingerprint,
            tokens,
            cache,
        })
    }
}

fn write_rows(out: &mut HashedWriter<impl Write>, rows: &CacheRows) -> std::io::Result<()> {
    out.number(rows.positions.start as u64)?;
    out.number(rows.rows.len() as u64)?;
    for array in &rows.rows {
        out.number(array.len() as u64)?;
        out.bytes(array)?;
    }
    Ok(())
}

fn read_checkpoints(input: &mut HashedReader<impl Read>) -> Result<Vec<CacheRows>, String> {
    let mut checkpoints = Vec::new();
    for _ in 0..input.number()? {
        let end = usize::try_from(input.number()?).unwrap_or(usize::MAX);
        checkpoints.push(read_rows(input, end)?);
    }
    Ok(checkpoints)
}

fn read_rows(input: &mut HashedReader<impl Read>, end: usize) -> Result<CacheRows, String> {
    let start = usize::try_from(input.number()?).unwrap_or(usize::MAX);
    let positions: Range<usize> = start.min(end)..end;
    let arrays = input.number()?;
    let mut rows = Vec::new();
    for _ in 0..arrays {
        let bytes = usize::try_from(input.number()?).unwrap_or(usize::MAX);
        rows.push(input.bytes(bytes)?);
    }
    Ok(CacheRows { positions, rows })
}

struct HashedWriter<W> {
    inner: W,
    hash: Xxh3,
}

impl<W: Write> HashedWriter<W> {
    fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.inner.write_all(bytes)
    }

    fn number(&mut self, number: u64) -> std::io::Result<()> {
        self.bytes(&number.to_le_bytes())
    }
}

struct HashedReader<R> {
    inner: R,
    hash: Xxh3,
    /// Bytes of the file that are not read yet: a length beyond them is rejected.
    left: u64,
}

impl<R: Read> HashedReader<R> {
    fn bytes(&mut self, count: usize) -> Result<Vec<u8>, String> {
        let truncated = || "truncated: remove it".to_owned();
        self.left = self.left.checked_sub(count as u64).ok_or_else(truncated)?;
        let mut bytes = vec![0; count];
        self.inner.read_exact(&mut bytes).map_err(|_| truncated())?;
        self.hash.update(&bytes);
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u64, String> {
        let mut number = [0; 8];
        number.copy_from_slice(&self.bytes(8)?);
        Ok(u64::from_le_bytes(number))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::Arc;

    use super::*;
    use crate::gguf::TensorType;
    use crate::synthetic::{Geometry, WeightTypes, write_synthetic};
    use crate::{Model, SessionParams};

    fn session() -> Session {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        let types = WeightTypes::Uniform(TensorType::F32);
        write_synthetic(&path, &Geometry::tiny(), types, 7).unwrap();
        let go_on = &mut |_| ControlFlow::Continue(());
        let model = Arc::new(Model::load(&path, &Default::default(), go_on).unwrap());
        let params = SessionParams {
            context: Some(256),
            threads: Some(1),
            ..SessionParams::default()
        };
        Session::new(&model, EndTokens::default(), &params).unwrap()
    }

    type Forge = fn(&mut CacheSnapshot);

    /// A checksum does not say who wrote a file.
    #[test]
    fn a_snapshot_with_impossible_contents_is_refused() {
        const WINDOW: &str = "another sliding window";
        const LAYERS: &str = "other layers";
        let forgeries: [(Forge, &str); 9] = [
            (|cache| cache.full.positions.start = 1, WINDOW),
            (|cache| cache.sliding.positions.start += 1, WINDOW),
            (|cache| cache.sliding.positions.start -= 1, WINDOW),
            (|cache| drop(cache.full.rows.pop()), LAYERS),
            (|cache| drop(cache.sliding.rows.pop()), LAYERS),
            (|cache| cache.full.rows.push(Vec::new()), LAYERS),
            (|cache| cache.full.rows[1].push(0), LAYERS),
            (|cache| cache.sliding.rows[1].truncate(1), LAYERS),
            (|cache| cache.tokens[3] = 320, "vocabulary of 320"),
        ];
        let mut ours = session();
        let tokens: Vec<Token> = (5..35).collect();
        ours.prefill(&tokens).unwrap();
        let snapshot = ours.snapshot().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("session");
        for (number, (forge, why)) in forgeries.into_iter().enumerate() {
            let mut forged = snapshot.clone();
            let cache = forged.cache.as_mut().unwrap();
            forge(cache);
            forged.tokens.clone_from(&cache.tokens);
            forged.save(&path).unwrap();
            for forged in [Snapshot::load(&path).unwrap(), forged] {
                let error = ours.restore(&forged).unwrap_err().to_string();
                assert!(error.contains(why), "{number}: {error}");
                assert!(ours.cached().is_empty(), "{number}");
            }
            ours.restore(&snapshot).unwrap();
            assert_eq!(ours.snapshot().unwrap(), snapshot, "{number}");
        }
        let other = Snapshot {
            cache: None,
            ..snapshot
        };
        let error = ours.restore(&other).unwrap_err().to_string();
        assert!(error.contains("another family"), "{error}");
    }
}
