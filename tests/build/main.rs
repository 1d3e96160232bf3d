//! What build.rs decides, finds and builds.

#[path = "../../build/options.rs"]
mod options;
#[path = "../../build/source.rs"]
mod source;
#[cfg(unix)]
#[path = "../../build/tools.rs"]
mod tools;

mod amx;
mod choices;
mod missing;
mod sources;
