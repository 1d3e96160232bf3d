//! A directory for files that all tests of a process share.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

const PREFIX: &str = "llama-diffusion-tests-";
/// No test still runs after this time.
const OLD: Duration = Duration::from_secs(3600);

/// Creates a directory that a static can hold, and removes those that earlier processes left: no static is dropped.
///
/// # Panics
/// The directory for temporary files is not writable.
pub fn shared_dir() -> TempDir {
    remove_old(&std::env::temp_dir());
    tempfile::Builder::new().prefix(PREFIX).tempdir().unwrap()
}

fn remove_old(parent: &Path) {
    for entry in std::fs::read_dir(parent).unwrap().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let modified = entry.metadata().and_then(|data| data.modified());
        let age = modified.ok().and_then(|time| time.elapsed().ok());
        if is_ours && age.is_some_and(|age| age > OLD) {
            let _ = std::fs::remove_dir_all(entry.path()); // another process removes it at this moment
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn only_old_directories_of_tests_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let left = |name: &str, age: Duration| {
            let dir = parent.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("model.gguf"), "GGUF").unwrap();
            let time = SystemTime::now().checked_sub(age).unwrap();
            File::open(&dir).unwrap().set_modified(time).unwrap();
            dir
        };
        let old = left("llama-diffusion-tests-a", 2 * OLD);
        let new = left("llama-diffusion-tests-b", Duration::ZERO);
        let other = left("other", 2 * OLD);
        remove_old(parent.path());
        assert!(!old.exists() && new.exists() && other.exists());
    }
}
