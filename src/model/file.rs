//! A model on disk: one GGUF file, or all parts of a split one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::ggml::convert::is_finite;
use crate::gguf::keys::{SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS};
use crate::gguf::{FileTensor, Gguf, MetadataOverride, Value};

/// A model's file or files: metadata from the first part, tensors from all of them.
#[derive(Debug)]
pub struct ModelFile {
    /// Never empty.
    parts: Vec<Gguf>,
    /// The part that holds each tensor.
    part_of: HashMap<String, usize>,
    overrides: Vec<MetadataOverride>,
}

impl ModelFile {
    /// Opens the model at `path`: a GGUF file, or the first part (`…-00001-of-000NN.gguf`) of a
    /// split model, whose other parts are found by their names.
    ///
    /// # Errors
    /// Whatever [`Gguf::open`] reports of any part, a part that is not the first, a missing part,
    /// and parts that do not belong together.
    pub fn open(path: &Path) -> Result<Self> {
        let first = Gguf::open(path)?;
        let count = match first.value(SPLIT_COUNT) {
            Some(_) => split_number(&first, SPLIT_COUNT)?,
            None => 1,
        };
        if count <= 1 {
            return Ok(Self::from_gguf(first));
        }
        let mut file = Self {
            parts: Vec::new(),
            part_of: HashMap::new(),
            overrides: Vec::new(),
        };
        let names = PartNames::of(&first, count)?;
        file.push(first)?;
        for no in 1..count {
            let path = names.path(no);
            let part = Gguf::open(&path).map_err(|error| match error {
                Error::Io { path, source } if source.kind() == ErrorKind::NotFound => Error::Gguf {
                    path,
                    problem: format!("part {} of {count} of this split model is missing", no + 1),
                },
                other => other,
            })?;
            let found = split_number(&part, SPLIT_NO)?;
            if found != no {
                return Err(part.metadata_error(
                    SPLIT_NO,
                    format!("is {found}, expected {no} in a file of this name"),
                ));
            }
            file.push(part)?;
        }
        file.check_tensor_count()?;
        Ok(file)
    }

    /// A model in a single file that is already open.
    pub fn from_gguf(gguf: Gguf) -> Self {
        let part_of = gguf
            .tensors()
            .map(|tensor| (tensor.info.name.clone(), 0))
            .collect();
        Self {
            parts: vec![gguf],
            part_of,
            overrides: Vec::new(),
        }
    }

    fn push(&mut self, part: Gguf) -> Result<()> {
        for tensor in part.tensors() {
            match self.part_of.entry(tensor.info.name.clone()) {
                Entry::Vacant(entry) => entry.insert(self.parts.len()),
                Entry::Occupied(entry) => {
                    let other = self.parts[*entry.get()].path().display();
                    let problem = format!("is in {other} too");
                    return Err(tensor_error(part.path(), entry.key(), problem));
                }
            };
        }
        self.parts.push(part);
        Ok(())
    }

    fn check_tensor_count(&self) -> Result<()> {
        let found = self.part_of.len();
        match self.metadata().value(SPLIT_TENSORS) {
            // libllama, which reads the same file for the vocabulary, accepts no other type.
            Some(Value::I32(count)) if usize::try_from(count) == Ok(found) => Ok(()),
            Some(value) => {
                let problem = format!(
                    "is {value}, but the parts have {found} tensors (i32 {found} was expected)"
                );
                Err(self.metadata().metadata_error(SPLIT_TENSORS, problem))
            }
            None => Err(self
                .metadata()
                .metadata_error(SPLIT_TENSORS, "is missing in a split model")),
        }
    }

    /// Replaces metadata of the file.
    ///
    /// # Errors
    /// The key cannot be overridden, or the value has another type.
    pub fn override_metadata(&mut self, overrides: &[MetadataOverride]) -> Result<()> {
        for item in overrides {
            let encoded = item.encode(self.metadata())?;
            self.parts[0].override_value(&item.key, encoded);
        }
        self.overrides.extend_from_slice(overrides);
        Ok(())
    }

    /// What was passed to [`override_metadata`](Self::override_metadata).
    pub fn metadata_overrides(&self) -> &[MetadataOverride] {
        &self.overrides
    }

    /// The first part, which has the metadata.
    pub fn metadata(&self) -> &Gguf {
        &self.parts[0]
    }

    /// All parts; a model that is not split has one.
    pub fn parts(&self) -> &[Gguf] {
        &self.parts
    }

    /// The tensor of that name and the index of the part that holds it.
    pub fn tensor(&self, name: &str) -> Option<(usize, FileTensor<'_>)> {
        let part = *self.part_of.get(name)?;
        Some((part, self.parts.get(part)?.tensor(name)?))
    }

    /// All tensors with the index of their part, in the order of their data.
    pub fn tensors(&self) -> impl Iterator<Item = (usize, FileTensor<'_>)> {
        let parts = self.parts.iter().enumerate();
        parts.flat_map(|(part, gguf)| gguf.tensors().map(move |tensor| (part, tensor)))
    }

    /// Bytes of the data of all tensors.
    pub fn tensor_bytes(&self) -> usize {
        self.tensors()
            .map(|(_, tensor)| tensor.info.range.len())
            .sum()
    }

    /// An error of a pass over this model. If logits are not finite and a tensor is the cause, it
    /// names the tensor; the whole file is read to find it.
    pub fn explain(&self, error: Error) -> Error {
        let Error::NotFinite { .. } = error else {
            return error;
        };
        let damaged = self
            .tensors()
            .find(|(_, tensor)| !is_finite(tensor.info.ty, tensor.data));
        damaged.map_or(error, |(_, tensor)| self.not_finite(&tensor.info.name))
    }

    pub(crate) fn not_finite(&self, name: &str) -> Error {
        let problem =
            "has a value that is not finite: the file is damaged, fetch or convert it again";
        self.tensor_error(name, problem)
    }

    /// An [`Error::Tensor`] about a tensor of this model.
    pub(crate) fn tensor_error(&self, name: &str, problem: impl Into<String>) -> Error {
        let part = self
            .part_of
            .get(name)
            .and_then(|&part| self.parts.get(part));
        tensor_error(part.unwrap_or(self.metadata()).path(), name, problem)
    }
}

fn tensor_error(path: &Path, name: &str, problem: impl Into<String>) -> Error {
    Error::Tensor {
        path: path.to_owned(),
        tensor: name.to_owned(),
        problem: problem.into(),
    }
}

/// A key about splitting. libllama stops the process if `split.no` of a later part is not a u16.
fn split_number(gguf: &Gguf, key: &str) -> Result<u16> {
    match gguf.value(key) {
        Some(Value::U16(number)) => Ok(number),
        Some(value) => Err(gguf.metadata_error(key, format!("is {value}, expected a u16"))),
        None => Err(gguf.metadata_error(key, "is missing in a split model, expected a u16")),
    }
}

/// The names of the parts of a split model.
struct PartNames {
    /// The common beginning of all names, with the directory.
    prefix: PathBuf,
    count: u16,
}

impl PartNames {
    /// Derives them from the first part.
    fn of(first: &Gguf, count: u16) -> Result<Self> {
        let no = split_number(first, SPLIT_NO)?;
        let wrong = |problem| Error::Gguf {
            path: first.path().to_owned(),
            problem,
        };
        let suffix = part_suffix(no, count);
        let name = first.path().file_name().and_then(|name| name.to_str());
        let stem = name
            .and_then(|name| name.strip_suffix(&suffix))
            .ok_or_else(|| {
                wrong(format!(
                    "this is part {} of {count}, so its name must end in '{suffix}'",
                    no.saturating_add(1)
                ))
            })?;
        let names = Self {
            prefix: first.path().with_file_name(stem),
            count,
        };
        if no != 0 {
            let first = names.path(0);
            return Err(wrong(format!(
                "this is part {} of a split model: give the first part, {}",
                no.saturating_add(1),
                first.display()
            )));
        }
        Ok(names)
    }

    /// The path of part `no`, counted from 0.
    fn path(&self, no: u16) -> PathBuf {
        let mut path = self.prefix.clone().into_os_string();
        path.push(part_suffix(no, self.count));
        path.into()
    }
}

fn part_suffix(no: u16, count: u16) -> String {
    format!("-{:05}-of-{count:05}.gguf", u32::from(no) + 1)
}
