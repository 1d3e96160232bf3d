//! A folder of files instead of the page. Nothing outside of it is read: links that lead there are not
//! followed.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use llama_diffusion::{Error, Result};
use tower_http::services::ServeDir;
use tower_http::services::fs::{Backend, TokioBackend, TokioFile};

type Pending<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// A folder.
#[derive(Clone)]
pub struct Folder {
    /// Without links.
    root: PathBuf,
}

impl Folder {
    /// A folder that exists.
    ///
    /// # Errors
    /// It does not exist.
    pub fn new(path: &Path) -> Result<Self> {
        let refuse = |problem| Error::Input {
            name: "--path".into(),
            problem: format!("{}: {problem}", path.display()),
        };
        let root = path.canonicalize();
        let root = root.map_err(|error| refuse(error.to_string()))?;
        match root.is_dir() {
            true => Ok(Self { root }),
            false => Err(refuse("it is not a folder".into())),
        }
    }

    /// Answers with a file, if there is one. `prefix` is the path that all paths begin with.
    pub async fn respond(&self, prefix: &str, request: Request) -> Option<Response> {
        let files = ServeDir::with_backend(&self.root, self.clone());
        let answer = files
            .redirect_path_prefix(prefix)
            .try_call(request)
            .await
            .ok()?;
        let is_found = answer.status() != StatusCode::NOT_FOUND;
        is_found.then(|| answer.map(Body::new))
    }

    /// A path without links, if it is that of a file or a folder inside.
    async fn inside(self, path: PathBuf) -> io::Result<PathBuf> {
        let path = tokio::fs::canonicalize(path).await?;
        let data = tokio::fs::metadata(&path).await?;
        // Others, such as pipes, may never end.
        let is_plain = data.is_file() || data.is_dir();
        match is_plain && path.starts_with(&self.root) {
            true => Ok(path),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Backend for Folder {
    type File = TokioFile;
    type Metadata = Metadata;
    type OpenFuture = Pending<TokioFile>;
    type MetadataFuture = Pending<Metadata>;

    fn open(&self, path: PathBuf) -> Pending<TokioFile> {
        let path = self.clone().inside(path);
        Box::pin(async { TokioBackend.open(path.await?).await })
    }

    fn metadata(&self, path: PathBuf) -> Pending<Metadata> {
        let path = self.clone().inside(path);
        Box::pin(async { TokioBackend.metadata(path.await?).await })
    }
}
