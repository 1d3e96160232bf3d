//! The settings of HTTP, as the flags have them.

use std::time::Duration;

use crate::folder::Folder;
use crate::slot_files::SlotFiles;

/// The settings of HTTP.
pub struct Config {
    /// Path that all paths begin with.
    pub prefix: String,
    /// Whether `/slots` works.
    pub slots: bool,
    /// Where caches of slots are saved.
    pub slot_files: Option<SlotFiles>,
    /// Whether there is a page.
    pub page: bool,
    /// Files in its place.
    pub folder: Option<Folder>,
    /// Whether `/metrics` works.
    pub metrics: bool,
    /// Tags of the model.
    pub tags: Vec<String>,
    /// Bytes of a body.
    pub max_body: usize,
    /// After which silence a stream has a comment.
    pub ping: Option<Duration>,
    /// Whether prompts are cached unless a request says more.
    pub caches_prompts: bool,
}
