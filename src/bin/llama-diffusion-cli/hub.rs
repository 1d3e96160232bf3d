//! Model files in Hugging Face's cache. Nothing is downloaded: who has no network, or no wish that
//! a program uses it, is told the command that does it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use llama_diffusion::{Error, Result};

/// The quantization that llama.cpp takes if `-hf` names none.
const DEFAULT_QUANT: &str = "Q4_K_M";

/// The file of `-hf USER/MODEL[:QUANT]` and `-hff FILE` in the cache of this user.
///
/// # Errors
/// The name is not one of a repository, or the file is not there.
pub fn find(repo: &str, file: Option<&str>) -> Result<PathBuf> {
    let cache = cache_dir(|name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    });
    find_in(&cache, repo, file)
}

/// As huggingface_hub looks for it.
fn cache_dir(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    variable("HF_HUB_CACHE")
        .or_else(|| Some(variable("HF_HOME")?.join("hub")))
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| Some(variable("HOME")?.join(".cache/huggingface/hub")))
        .unwrap_or_else(|| PathBuf::from(".cache/huggingface/hub"))
}

fn find_in(cache: &Path, repo: &str, file: Option<&str>) -> Result<PathBuf> {
    let (name, quant) = match repo.split_once(':') {
        Some((name, quant)) => (name, quant),
        None => (repo, DEFAULT_QUANT),
    };
    let error = |problem: String| Error::InvalidParameter {
        parameter: "-hf".into(),
        problem,
    };
    let is_repo = name
        .split_once('/')
        .is_some_and(|(user, model)| !user.is_empty() && !model.is_empty() && !model.contains('/'));
    if !is_repo {
        return Err(error(format!(
            "'{repo}' is no repository: give USER/MODEL or USER/MODEL:QUANT"
        )));
    }
    let wanted = |path: &str| match file {
        Some(file) => path == file,
        None => is_first_part_of(path, quant),
    };
    let snapshots = cache
        .join(format!("models--{}", name.replace('/', "--")))
        .join("snapshots");
    let mut found: Vec<PathBuf> = subdirectories(&snapshots)
        .iter()
        .flat_map(|snapshot| {
            let mut files = Vec::new();
            files_below(snapshot, "", &mut files);
            files.retain(|path| wanted(path));
            files.into_iter().map(|path| snapshot.join(path))
        })
        .collect();
    found.sort();
    let pattern = match file {
        Some(file) => format!("'{file}'"),
        None => format!("--include '*{quant}*.gguf'"),
    };
    found.into_iter().next().ok_or_else(|| {
        error(format!(
            "{} has no such file of {name}, and this tool downloads nothing. Fetch it with: \
             hf download {name} {pattern}",
            cache.display()
        ))
    })
}

/// Whether a path is a GGUF file of that quantization, and the part to begin with of a split one.
fn is_first_part_of(path: &str, quant: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let later_part = path.contains("-of-") && !path.contains("-00001-of-");
    path.ends_with(".gguf")
        && !path.contains("mmproj")
        && !later_part
        && path.contains(&quant.to_ascii_lowercase())
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// Paths of files relative to a snapshot, with slashes, as in the repository.
fn files_below(dir: &Path, prefix: &str, files: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true => files_below(&entry.path(), &format!("{name}/"), files),
            false => files.push(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_hugging_face_s_own_tools_have_it() {
        let dir = |set: &[(&str, &str)]| {
            cache_dir(|name| {
                let (_, value) = set.iter().find(|(n, _)| *n == name)?;
                Some(PathBuf::from(value))
            })
        };
        let home = ("HOME", "/home/u");
        assert_eq!(dir(&[home]), Path::new("/home/u/.cache/huggingface/hub"));
        assert_eq!(dir(&[home, ("HF_HOME", "/hf")]), Path::new("/hf/hub"));
        let both = [home, ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")];
        assert_eq!(dir(&both), Path::new("/c"));
    }

    #[test]
    fn a_quantization_a_named_file_or_the_command_that_fetches_it() {
        let cache = tempfile::tempdir().unwrap();
        let snapshot = cache.path().join("models--me--tiny/snapshots/abc");
        fs::create_dir_all(snapshot.join("sub")).unwrap();
        let names = [
            "tiny-Q4_K_M.gguf",
            "tiny-Q8_0-00002-of-00002.gguf",
            "tiny-Q8_0-00001-of-00002.gguf",
            "mmproj-Q8_0.gguf",
            "sub/other.gguf",
        ];
        for name in names {
            fs::write(snapshot.join(name), "").unwrap();
        }
        let find = |repo, file| find_in(cache.path(), repo, file);
        assert_eq!(find("me/tiny", None).unwrap(), snapshot.join(names[0]));
        assert_eq!(find("me/tiny:q8_0", None).unwrap(), snapshot.join(names[2]));
        let named = find("me/tiny", Some("sub/other.gguf")).unwrap();
        assert_eq!(named, snapshot.join(names[4]));

        let missing = find("me/tiny:F16", None).unwrap_err().to_string();
        assert!(
            missing.ends_with("hf download me/tiny --include '*F16*.gguf'"),
            "{missing}"
        );
        let missing = find("me/none", Some("a.gguf")).unwrap_err().to_string();
        assert!(
            missing.ends_with("hf download me/none 'a.gguf'"),
            "{missing}"
        );
        for bad in ["tiny", "/tiny", "a/b/c", ""] {
            assert!(
                find(bad, None)
                    .unwrap_err()
                    .to_string()
                    .contains("USER/MODEL"),
                "{bad}"
            );
        }
    }
}
