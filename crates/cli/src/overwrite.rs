//! Rejects outputs that would overwrite an input or another output: a mistyped name must not cost a
//! model or a prompt.

use std::fs;
use std::path::{Path, PathBuf};

use llama_diffusion::model::file::ModelFile;
use llama_diffusion::{Error, Result};

use crate::args::{Args, Named};

/// Rejects an output file that is also another file of the command line.
///
/// # Errors
/// The file that would be lost.
pub fn check(args: &Args) -> Result<()> {
    let written = args.written_files();
    if written.is_empty() {
        return Ok(());
    }
    let models = args.model_files();
    let parts = models.iter().flat_map(|path| model_files(path));
    let read: Vec<Named> = parts.chain(args.read_files()).collect();
    for (index, (flag, path)) in written.iter().enumerate() {
        let before = written[..index].iter();
        let taken = read
            .iter()
            .map(|(what, other)| (format!("is {what} itself"), other))
            .chain(before.map(|(flag, other)| (format!("is the file of {flag}, too"), other)))
            .find(|(_, other)| is_same(path, other));
        if let Some((is_taken, _)) = taken {
            return Err(Error::Input {
                name: path.display().to_string(),
                problem: format!("{is_taken}: give another name for {flag}"),
            });
        }
    }
    Ok(())
}

/// All parts of a model. Errors of the model are reported when it is loaded.
fn model_files(path: &Path) -> Vec<Named> {
    let paths = match ModelFile::open(path) {
        Ok(file) => file
            .parts()
            .iter()
            .map(|part| part.path().to_owned())
            .collect(),
        Err(_) => vec![path.to_owned()],
    };
    paths.into_iter().map(|path| ("the model", path)).collect()
}

/// Whether two paths lead to one file. What is not a regular file, such as a terminal, has nothing
/// to lose.
fn is_same(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a_is), Ok(b_is)) => a_is.is_file() && b_is.is_file() && are_same(a, &a_is, b, &b_is),
        (Err(_), Err(_)) => future_path(a).is_some_and(|path| future_path(b) == Some(path)),
        _ => false,
    }
}

#[cfg(unix)]
fn are_same(_: &Path, a: &fs::Metadata, _: &Path, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    // Hard links, too.
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn are_same(a: &Path, _: &fs::Metadata, b: &Path, _: &fs::Metadata) -> bool {
    fs::canonicalize(a).is_ok_and(|path| fs::canonicalize(b).is_ok_and(|other| other == path))
}

/// The path of a file that does not exist yet.
fn future_path(path: &Path) -> Option<PathBuf> {
    let parent = match path.parent()? {
        empty if empty.as_os_str().is_empty() => Path::new("."),
        parent => parent,
    };
    Some(fs::canonicalize(parent).ok()?.join(path.file_name()?))
}
