//! The page, which is part of the program.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use rust_embed::{Embed, EmbeddedFile};

/// What the page may load: its own files, and what it makes itself.
const POLICY: &str = "default-src 'self'; img-src 'self' data: blob:; \
                      object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'";

#[derive(Embed)]
#[folder = "page/"]
struct Files;

/// The file of a path, if the page has one.
pub fn file(path: &str) -> Option<EmbeddedFile> {
    match path.trim_start_matches('/') {
        "" => Files::get("index.html"),
        name => Files::get(name),
    }
}

/// Answers with a file. `path` is where it was found.
pub fn respond(path: &str, file: EmbeddedFile, headers: &HeaderMap) -> Response {
    let hash = file.metadata.sha256_hash();
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{hash}\"");
    let known = headers.get(IF_NONE_MATCH).map(HeaderValue::as_bytes);
    let fixed = [
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (CONTENT_TYPE, HeaderValue::from_static(kind(path))),
    ];
    if known == Some(tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, fixed, [(ETAG, tag)]).into_response();
    }
    (fixed, [(ETAG, tag)], file.data.into_owned()).into_response()
}

/// The type of a file, by its name.
fn kind(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, end)| end) {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json; charset=utf-8",
        _ => "text/html; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_a_type() {
        let files: Vec<_> = Files::iter().collect();
        assert!(files.iter().any(|name| name == "index.html"));
        for name in files {
            let end = name.rsplit_once('.').unwrap().1;
            assert!(
                ["html", "js", "css", "svg", "json"].contains(&end),
                "{name}"
            );
        }
        assert!(file("/").is_some() && file("/main.js").is_some());
        for outside in [
            "/../Cargo.toml",
            "/..%2fCargo.toml",
            "/nowhere",
            "//etc/passwd",
        ] {
            assert!(file(outside).is_none(), "{outside}");
        }
    }

    #[test]
    fn a_file_that_the_browser_has_is_not_sent_again() {
        let first = respond("/main.js", file("/main.js").unwrap(), &HeaderMap::new());
        assert_eq!(
            first.headers()[CONTENT_TYPE],
            "text/javascript; charset=utf-8"
        );
        let mut headers = HeaderMap::new();
        headers.insert(IF_NONE_MATCH, first.headers()[ETAG].clone());
        let again = respond("/main.js", file("/main.js").unwrap(), &headers);
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    }
}
