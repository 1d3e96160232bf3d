//! Temporary files and directories that a program can remove when a signal ends it, which runs no
//! destructors.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

static PATHS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn paths() -> MutexGuard<'static, Vec<PathBuf>> {
    PATHS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A path that [`remove_all`] removes for as long as this lives.
#[derive(Debug)]
pub struct Tracked(PathBuf);

impl Tracked {
    /// Tracks a file or directory.
    pub fn new(path: &Path) -> Self {
        paths().push(path.to_owned());
        Self(path.to_owned())
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let mut paths = paths();
        if let Some(index) = paths.iter().position(|path| *path == self.0) {
            paths.swap_remove(index);
        }
    }
}

/// Removes everything that is tracked. The caller is about to end the process.
pub fn remove_all() {
    for path in paths().drain(..) {
        // What cannot be removed stays; it is too late to report it.
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tracked_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let [kept, file, directory] = ["kept", "file", "directory"].map(|n| dir.path().join(n));
        fs::write(&kept, "").unwrap();
        fs::write(&file, "").unwrap();
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("inside"), "").unwrap();
        let tracked = [&file, &directory].map(|path| Tracked::new(path));
        drop(Tracked::new(&kept));
        remove_all();
        assert!(kept.exists() && !file.exists() && !directory.exists());
        drop(tracked);
    }
}
