//! Flags of the listener and of who may use it.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use llama_diffusion::{Error, Result};
use llama_diffusion_flags::input;
use llama_diffusion_flags::numbers::whole;

use crate::folder::Folder;
use crate::response_store::Limits;

/// The listener and its limits.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub struct HttpArgs {
    /// Address to listen on; a path that ends in .sock is a Unix socket
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub host: String,

    /// Port to listen on; 0 is any that is free
    #[arg(long, value_name = "PORT", default_value = "8080", value_parser = whole(0..=u16::MAX))]
    pub port: u16,

    /// Let several servers listen on the same port
    #[arg(long, value_parser = BoolishValueParser::new())]
    pub reuse_port: bool,

    /// Names of the model, separated by commas; the alphabetically first one is its id. Default:
    /// the name of the file
    #[arg(short, long, value_name = "NAMES", value_delimiter = ',')]
    alias: Vec<String>,

    /// Tags of the model, separated by commas: they are listed with it, and have no other effect
    #[arg(long, value_name = "TAGS", value_delimiter = ',')]
    pub tags: Vec<String>,

    /// Keys, separated by commas: each request must have one of them
    #[arg(
        long,
        value_name = "KEYS",
        value_delimiter = ',',
        hide_env_values = true
    )]
    api_key: Vec<String>,

    /// File with such keys, one a line; lines that begin with # are comments
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,

    /// Prefix of all paths
    #[arg(
        long,
        value_name = "PREFIX",
        default_value = "",
        hide_default_value = true
    )]
    api_prefix: String,

    /// Origins of web pages that may use the server, separated by commas; localhost is every port of
    /// this machine, * is any
    #[arg(
        long,
        value_name = "ORIGINS",
        value_delimiter = ',',
        default_value = "localhost"
    )]
    cors_origins: Vec<String>,

    /// Show what the slots do at /slots, which is the default
    #[arg(long, overrides_with = "no_slots")]
    #[allow(dead_code, reason = "only overrides its opposite")]
    slots: bool,

    /// Do not show them
    #[arg(long, overrides_with = "slots", value_parser = BoolishValueParser::new())]
    no_slots: bool,

    /// Show counters for Prometheus at /metrics
    #[arg(long, value_parser = BoolishValueParser::new())]
    pub metrics: bool,

    /// Serve no page at /
    #[arg(long, value_parser = BoolishValueParser::new())]
    no_ui: bool,

    /// Folder of files to serve instead of the page. With --api-key they need a key
    #[arg(long, value_name = "PATH")]
    path: Option<PathBuf>,

    /// Seconds for which a client may read nothing of its answer before it is cancelled
    #[arg(long, value_name = "N", default_value = "60", value_parser = whole(1..=86_400_u64))]
    timeout: u64,

    /// Seconds between the comments that keep a silent stream open, -1 for none
    #[arg(long, value_name = "N", default_value = "30", value_parser = whole(-1..=86_400_i64))]
    sse_ping_interval: i64,

    /// Threads for HTTP; -1 is 2
    #[arg(long, value_name = "N", default_value = "-1", value_parser = whole(-1..=1024))]
    threads_http: i32,

    /// Maximum size of the body of a request, in MiB
    #[arg(long, value_name = "MIB", default_value = "16", value_parser = whole(1..=1024_usize))]
    max_body: usize,

    /// Maximum number of connections at once
    #[arg(long, value_name = "N", default_value = "1024", value_parser = whole(1..=1_000_000_usize))]
    pub max_connections: usize,

    /// Maximum number of responses of /v1/responses that are stored in memory, so that requests can
    /// build on them by previous_response_id; 0 stores none. If there are more, the API key that
    /// holds the most loses its least recently used one
    #[arg(long, value_name = "N", default_value = "256", value_parser = whole(0..=1_000_000_usize))]
    responses_kept: usize,

    /// Approximate memory for these responses and what they answer, in MiB; 0 stores none
    #[arg(long, value_name = "MIB", default_value = "64", value_parser = whole(0..=1_usize << 30))]
    responses_ram: usize,

    /// Maximum number of requests with one API key that wait or run at once; further ones are
    /// refused with 429. Default: no limit
    #[arg(long, value_name = "N", value_parser = whole(1..=1_000_000_usize))]
    max_per_key: Option<usize>,

    /// Seconds that answers in progress have when the server is asked to end
    #[arg(long, value_name = "N", default_value = "3", value_parser = whole(0..=86_400_u64))]
    drain_timeout: u64,
}

/// The origins of web pages that may use the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Any.
    All,
    /// These, and pages of this machine if `localhost`.
    Some {
        /// Such as `https://example.org`.
        origins: Vec<String>,
        /// Whether pages of this machine may use it.
        localhost: bool,
    },
}

impl HttpArgs {
    /// The names of the model in the order of the alphabet.
    pub fn aliases(&self) -> Vec<String> {
        let names = self.alias.iter().map(|name| name.trim().to_owned());
        let mut names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The keys, of the flag and of the file.
    ///
    /// # Errors
    /// The file cannot be read, or a flag is given without a key: nobody shall believe that an open
    /// server asks for one.
    pub fn keys(&self) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        if !self.api_key.is_empty() {
            let given = self.api_key.iter().map(|key| key.trim());
            add_keys(&mut keys, given, "--api-key")?;
        }
        if let Some(path) = &self.api_key_file {
            let text = input::file(path)?;
            let lines = text.lines().map(str::trim);
            let lines = lines.filter(|line| !line.starts_with('#'));
            add_keys(&mut keys, lines, &path.display().to_string())?;
        }
        Ok(keys)
    }

    /// The path that all paths begin with: empty, or with a slash before it and none after it.
    pub fn prefix(&self) -> String {
        match self.api_prefix.trim_matches('/') {
            "" => String::new(),
            prefix => format!("/{prefix}"),
        }
    }

    /// Which web pages may use the server.
    pub fn origins(&self) -> Origins {
        let given = self.cors_origins.iter().map(|origin| origin.trim());
        match given.clone().any(|origin| origin == "*") {
            true => Origins::All,
            false => Origins::Some {
                localhost: given.clone().any(|origin| origin == "localhost"),
                origins: given
                    .filter(|origin| !origin.is_empty() && *origin != "localhost")
                    .map(|origin| origin.trim_end_matches('/').to_owned())
                    .collect(),
            },
        }
    }

    /// Whether the slots are shown.
    pub fn has_slots(&self) -> bool {
        !self.no_slots
    }

    /// Whether the program's own page is at `/`.
    pub fn has_page(&self) -> bool {
        !self.no_ui && self.path.is_none()
    }

    /// The folder that takes its place.
    ///
    /// # Errors
    /// It does not exist.
    pub fn folder(&self) -> Result<Option<Folder>> {
        let path = self.path.as_deref().filter(|_| !self.no_ui);
        path.map(Folder::new).transpose()
    }

    /// How long a client may read nothing.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// After which silence a stream has a comment.
    pub fn ping(&self) -> Option<Duration> {
        let seconds = u64::try_from(self.sse_ping_interval).ok();
        seconds
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs)
    }

    /// Threads for HTTP.
    pub fn threads(&self) -> usize {
        usize::try_from(self.threads_http)
            .ok()
            .filter(|threads| *threads > 0)
            .unwrap_or(2)
    }

    /// Bytes of a body.
    pub fn max_body(&self) -> usize {
        self.max_body << 20
    }

    /// How many responses are stored.
    pub fn responses(&self) -> Limits {
        Limits {
            count: self.responses_kept,
            bytes: self.responses_ram.saturating_mul(1 << 20),
        }
    }

    fn has_keys(&self) -> bool {
        !self.api_key.is_empty() || self.api_key_file.is_some()
    }

    /// Answers for one key at once.
    pub fn max_per_key(&self) -> usize {
        self.max_per_key
            .filter(|_| self.has_keys())
            .unwrap_or(usize::MAX)
    }

    /// A flag that has no effect without another one.
    pub fn warning(&self) -> Option<String> {
        let idle = self.max_per_key.is_some() && !self.has_keys();
        idle.then(|| "--max-per-key has no effect without --api-key".into())
    }

    /// How long answers may go on when the server ends.
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_secs(self.drain_timeout)
    }
}

/// Adds the keys that `source` gives.
fn add_keys<'k>(
    keys: &mut Vec<String>,
    given: impl Iterator<Item = &'k str>,
    source: &str,
) -> Result<()> {
    let before = keys.len();
    keys.extend(given.filter(|key| !key.is_empty()).map(str::to_owned));
    match keys.len() > before {
        true => Ok(()),
        false => Err(Error::Input {
            name: source.into(),
            problem: "has no key: give one, or omit the flag for a server that asks for none"
                .into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        http: HttpArgs,
    }

    fn keys(args: &[&str]) -> Result<Vec<String>> {
        let args = ["server"].into_iter().chain(args.iter().copied());
        Flags::parse_from(args).http.keys()
    }

    #[test]
    fn a_flag_without_a_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let file = path.to_str().unwrap();
        assert_eq!(keys(&[]).unwrap(), Vec::<String>::new());
        assert_eq!(keys(&["--api-key", "a, b"]).unwrap(), ["a", "b"]);
        for given in ["", ",", " "] {
            let error = keys(&["--api-key", given]).unwrap_err().to_string();
            assert!(error.starts_with("--api-key: has no key: "), "{error}");
        }
        for (text, expected) in [
            ("a\n# b\n\nc", &["a", "c"][..]),
            ("", &[]),
            ("# a\n \n", &[]),
        ] {
            std::fs::write(&path, text).unwrap();
            match keys(&["--api-key-file", file]) {
                Ok(keys) => assert_eq!(keys, expected),
                Err(error) => {
                    assert!(expected.is_empty());
                    assert!(error.to_string().contains("keys: has no key: "), "{error}");
                }
            }
            let both = keys(&["--api-key", "d", "--api-key-file", file]);
            assert_eq!(both.is_ok(), !expected.is_empty());
        }
    }
}
