//! Model files in Hugging Face's cache. Nothing is downloaded: if a file is missing, the error
//! shows the command that downloads it.

use std::cmp::Reverse;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// The quantization that llama.cpp uses if the name has none.
const DEFAULT_QUANT: &str = "Q4_K_M";

/// The file of a repository, `USER/MODEL` or `USER/MODEL:QUANT`, in the cache of this user: the one
/// named `file`, else the one of the quantization.
///
/// # Errors
/// The name is not one of a repository, the file is missing, or several files match.
pub fn find(repo: &str, file: Option<&str>) -> Result<PathBuf> {
    let variable = |name: &str| env::var_os(name).map(PathBuf::from);
    find_in(&cache_dir(variable, env::home_dir()), repo, file)
}

/// Variables that name the cache, or a directory that contains it, in the order of llama.cpp.
const CACHE_VARIABLES: [(&str, &str); 5] = [
    ("LLAMA_CACHE", ""),
    ("HF_HUB_CACHE", ""),
    ("HUGGINGFACE_HUB_CACHE", ""),
    ("HF_HOME", "hub"),
    ("XDG_CACHE_HOME", "huggingface/hub"),
];

/// The cache of Hugging Face's files. An empty variable counts as not set.
fn cache_dir(variable: impl Fn(&str) -> Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    let named = CACHE_VARIABLES.iter().find_map(|(name, below)| {
        let dir = variable(name).filter(|dir| !dir.as_os_str().is_empty())?;
        // Joining an empty path would add a trailing slash.
        Some(match below.is_empty() {
            true => dir,
            false => dir.join(below),
        })
    });
    named.unwrap_or_else(|| home.unwrap_or_default().join(".cache/huggingface/hub"))
}

fn find_in(cache: &Path, repo: &str, file: Option<&str>) -> Result<PathBuf> {
    let (name, quant) = match repo.split_once(':') {
        Some((name, quant)) => (name, quant),
        None => (repo, DEFAULT_QUANT),
    };
    let parts = name.split_once('/');
    let is_repo = parts.is_some_and(|(user, model)| {
        !user.is_empty() && !model.is_empty() && !model.contains('/') && !quant.is_empty()
    });
    if !is_repo {
        return Err(error(format!(
            "'{repo}' does not name a model: give USER/MODEL or USER/MODEL:QUANT"
        )));
    }
    let dir = cache.join(format!("models--{}", name.replace('/', "--")));
    let mut present = Vec::new();
    for snapshot in snapshots(&dir) {
        let mut files = Vec::new();
        files_below(&snapshot, "", &mut files);
        files.sort();
        present.extend(files.iter().filter(|path| is_model(path)).cloned());
        files.retain(|path| match file {
            Some(file) => path == file,
            None => is_model(path) && has_quant(path, quant),
        });
        match &files[..] {
            [] => {}
            [path] => return Ok(snapshot.join(path)),
            several => {
                return Err(error(format!(
                    "{name} has several files of '{quant}', name one of them: {}",
                    several.join(", ")
                )));
            }
        }
    }
    let pattern = match file {
        Some(file) => format!("'{file}'"),
        None => format!("--include '*{quant}*.gguf'"),
    };
    present.sort();
    present.dedup();
    let has = match present.is_empty() {
        true => String::new(),
        false => format!(" (it has {})", present.join(", ")),
    };
    Err(error(format!(
        "{} has no such file of {name}{has}, and nothing is downloaded. Fetch it with: \
         hf download {name} {pattern}",
        cache.display()
    )))
}

fn error(problem: String) -> Error {
    Error::parameter(Parameter::Repository, problem)
}

/// The snapshots of a repository: the one that its main branch points to, then the others, the
/// latest first.
fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let modified = |path: &PathBuf| fs::metadata(path).and_then(|m| m.modified()).ok();
    let main = fs::read_to_string(dir.join("refs/main")).unwrap_or_default();
    let entries = fs::read_dir(dir.join("snapshots")).into_iter().flatten();
    let paths = entries.flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = paths.filter(|path| path.is_dir()).collect();
    found.sort_by_key(|path| {
        let is_main = path.ends_with(main.trim()) && !main.trim().is_empty();
        Reverse((is_main, modified(path), path.clone()))
    });
    found
}

/// Whether a path is that of a model; of a split one, that of its first part.
fn is_model(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let Some(stem) = path.strip_suffix(".gguf") else {
        return false;
    };
    let mut words = stem.split(['-', '.', '_', '/']);
    let is_other = words.any(|word| ["mmproj", "imatrix"].contains(&word));
    !is_other && part_number(stem).is_none_or(|number| number == 1)
}

/// The number of a part: 2 for `model-00002-of-00003`.
fn part_number(stem: &str) -> Option<usize> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (_, number) = rest.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let is_part = is_number(number) && is_number(count);
    is_part.then(|| number.parse().ok()).flatten()
}

/// Whether a quantization appears in the name of a file or its directory as a whole word, so that
/// `F16` does not match BF16, nor `Q2_K` Q2_K_S, nor `K_M` Q4_K_M.
fn has_quant(path: &str, quant: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let quant = quant.to_ascii_lowercase();
    let mut found = path.match_indices(&quant);
    found.any(|(start, _)| {
        let (before, after) = (&path[..start], &path[start + quant.len()..]);
        let ends = after.starts_with(['-', '.', '/']);
        match before.chars().next_back() {
            None | Some('-' | '.' | '/') => ends,
            Some('_') => {
                let piece = before.rsplit(['-', '.', '/']).next();
                ends && !piece.is_some_and(|piece| piece.split('_').any(begins_a_type))
            }
            Some(_) => false,
        }
    })
}

/// Whether a word is the first one of the name of a type, such as `q4` of Q4_K_M.
fn begins_a_type(word: &str) -> bool {
    let digits = word.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let letters = &word[..word.len() - digits.len()];
    let is_type = ["q", "iq", "tq", "f", "bf", "mxfp", "nvfp"].contains(&letters);
    is_type && digits.starts_with(|c: char| c.is_ascii_digit())
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
    fn the_cache_is_where_llama_cpp_and_hugging_face_s_own_tools_have_it() {
        let dir = |set: &[(&str, &str)], home: Option<&str>| {
            let variable = |name: &str| {
                let (_, value) = set.iter().find(|(n, _)| *n == name)?;
                Some(PathBuf::from(value))
            };
            let found = cache_dir(variable, home.map(PathBuf::from));
            found.into_os_string().into_string().unwrap()
        };
        let home = Some("/home/u");
        // Each takes precedence over those after it.
        let mut set = vec![
            ("LLAMA_CACHE", "/llama"),
            ("HF_HUB_CACHE", "/hub"),
            ("HUGGINGFACE_HUB_CACHE", "/old"),
            ("HF_HOME", "/hf"),
            ("XDG_CACHE_HOME", "/xdg"),
        ];
        for expected in [
            "/llama",
            "/hub",
            "/old",
            "/hf/hub",
            "/xdg/huggingface/hub",
            "/home/u/.cache/huggingface/hub",
        ] {
            assert_eq!(dir(&set, home), expected, "{set:?}");
            if let Some((_, value)) = set.first_mut() {
                *value = "";
                assert_ne!(dir(&set, home), expected, "{set:?}");
                set.remove(0);
            }
        }
        assert_eq!(dir(&[], None), ".cache/huggingface/hub");
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
        // The second part alone is not a model.
        fs::remove_file(snapshot.join(names[2])).unwrap();
        let missing = find("me/tiny:q8_0", None).unwrap_err().to_string();
        assert!(missing.contains("no such file"), "{missing}");
        assert!(!missing.contains("00002"), "{missing}");
        let missing = find("me/none", Some("a.gguf")).unwrap_err().to_string();
        assert!(
            missing.ends_with("hf download me/none 'a.gguf'"),
            "{missing}"
        );
        for bad in ["tiny", "/tiny", "a/b/c", "", "me/tiny:"] {
            assert!(
                find(bad, None)
                    .unwrap_err()
                    .to_string()
                    .contains("USER/MODEL"),
                "{bad}"
            );
        }
    }

    /// A cache of snapshots with these files; `main` is the one that refs/main names.
    fn cache_with(snapshots: &[(&str, &[&str])], main: Option<&str>) -> tempfile::TempDir {
        let cache = tempfile::tempdir().unwrap();
        let dir = cache.path().join("models--a--b");
        for (snapshot, names) in snapshots {
            for name in *names {
                let path = dir.join("snapshots").join(snapshot).join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
        }
        if let Some(main) = main {
            fs::create_dir_all(dir.join("refs")).unwrap();
            fs::write(dir.join("refs/main"), main).unwrap();
        }
        cache
    }

    #[test]
    fn a_quantization_is_a_whole_name() {
        let names = [
            "x-BF16.gguf",
            "x-F16.gguf",
            "x-Q2_K_S.gguf",
            "x-Q2_K.gguf",
            "king-of-q8_0.gguf",
            "UD-Q3_K_XL/x-UD-Q3_K_XL-00001-of-00002.gguf",
            "UD-Q3_K_XL/x-UD-Q3_K_XL-00002-of-00002.gguf",
            "x.i1_IQ4_XS.gguf",
            "mmproj-Q5_0.gguf",
            "imatrix-Q5_1.gguf",
        ];
        let cache = cache_with(&[("1", &names)], None);
        let found = |quant: &str| {
            let path = find_in(cache.path(), &format!("a/b:{quant}"), None).ok()?;
            let name = path.file_name()?.to_str()?.to_owned();
            Some(name)
        };
        for (quant, name) in [
            ("F16", names[1]),
            ("bf16", names[0]),
            ("Q2_K", names[3]),
            ("Q2_K_S", names[2]),
            ("Q8_0", names[4]),
            ("Q3_K_XL", "x-UD-Q3_K_XL-00001-of-00002.gguf"),
            ("UD-Q3_K_XL", "x-UD-Q3_K_XL-00001-of-00002.gguf"),
            ("IQ4_XS", names[7]),
        ] {
            assert_eq!(found(quant).as_deref(), Some(name), "{quant}");
        }
        for quant in [
            "16", "K", "K_S", "K_XL", "XS", "Q2", "Q3_K", "Q4_XS", "0", "Q5_0", "Q5_1",
        ] {
            assert_eq!(found(quant), None, "{quant}");
        }
        let error = find_in(cache.path(), "a/b:Q6_K", None).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("x-BF16.gguf, x-F16.gguf"), "{error}");
    }

    #[test]
    fn what_is_ambiguous_is_listed() {
        let names: &[&str] = &["x-Q8_0.gguf", "y-Q8_0.gguf"];
        let cache = cache_with(&[("1", names)], None);
        let error = find_in(cache.path(), "a/b:Q8_0", None).unwrap_err();
        let error = error.to_string();
        let expected = "name one of them: x-Q8_0.gguf, y-Q8_0.gguf";
        assert!(error.ends_with(expected), "{error}");
        let path = find_in(cache.path(), "a/b", Some("y-Q8_0.gguf")).unwrap();
        assert!(path.ends_with("1/y-Q8_0.gguf"));
    }

    #[test]
    fn the_main_branch_takes_precedence_over_other_snapshots() {
        let both: &[(&str, &[&str])] =
            &[("1", &["x-F16.gguf"]), ("2", &["x-F16.gguf", "F32.gguf"])];
        for main in ["1", "2\n"] {
            let cache = cache_with(both, Some(main));
            let path = find_in(cache.path(), "a/b:F16", None).unwrap();
            assert!(path.ends_with(format!("{}/x-F16.gguf", main.trim())));
            // What only another snapshot has is found as well.
            let path = find_in(cache.path(), "a/b:F32", None).unwrap();
            assert!(path.ends_with("2/F32.gguf"));
        }
    }
}
