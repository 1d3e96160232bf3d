//! The page, which is part of the program.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use axum::body::Bytes;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, VARY,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
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
    let is_packed = accepts_gzip(headers);
    let hash = file.metadata.sha256_hash();
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    // The two forms of a file are different bytes.
    let tag = format!("\"{hash}{}\"", if is_packed { "-gzip" } else { "" });
    let fixed = [
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (CONTENT_TYPE, HeaderValue::from_static(kind(path))),
        (VARY, HeaderValue::from_static("accept-encoding")),
    ];
    if is_known(headers, &tag) {
        return (StatusCode::NOT_MODIFIED, fixed, [(ETAG, tag)]).into_response();
    }
    match is_packed {
        true => {
            let encoding = [(CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
            (fixed, encoding, [(ETAG, tag)], packed(hash, &file)).into_response()
        }
        false => (fixed, [(ETAG, tag)], file.data.into_owned()).into_response(),
    }
}

/// Whether the client has the form of the file with this tag. Proxies may have marked it as weak.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get_all(IF_NONE_MATCH).into_iter();
    let known = known.filter_map(|value| value.to_str().ok());
    let mut tags = known.flat_map(|value| value.split(',').map(str::trim));
    tags.any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

/// Whether a client reads gzip: it names it, or anything, with a weight above 0.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).into_iter();
    let values = values.filter_map(|value| value.to_str().ok());
    let entries = values.flat_map(|value| value.split(','));
    let mut any = false;
    for entry in entries {
        let (name, weight) = entry.split_once(';').unwrap_or((entry, ""));
        let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
        let is_accepted = weight.trim().parse().is_ok_and(|weight: f32| weight > 0.0);
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => return is_accepted,
            "*" => any = is_accepted,
            _ => {}
        }
    }
    any
}

/// The compressed file with this hash, which is kept.
fn packed(hash: String, file: &EmbeddedFile) -> Bytes {
    static PACKED: Mutex<BTreeMap<String, Bytes>> = Mutex::new(BTreeMap::new());
    let mut packed = PACKED.lock().unwrap_or_else(PoisonError::into_inner);
    let pack = || {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let written = encoder.write_all(&file.data);
        // A vector takes everything.
        written
            .and_then(|()| encoder.finish())
            .unwrap_or_default()
            .into()
    };
    packed.entry(hash).or_insert_with(pack).clone()
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
        // The same tag does not stand for the other form.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let packed = respond("/main.js", file("/main.js").unwrap(), &headers);
        assert_eq!(packed.status(), StatusCode::OK);
        assert_eq!(packed.headers()[CONTENT_ENCODING], "gzip");
        let both = format!(
            "{}, W/{}",
            first.headers()[ETAG].to_str().unwrap(),
            packed.headers()[ETAG].to_str().unwrap()
        );
        headers.insert(IF_NONE_MATCH, both.parse().unwrap());
        let again = respond("/main.js", file("/main.js").unwrap(), &headers);
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    }

    #[test]
    fn a_file_is_compressed_only_for_those_who_read_that() {
        for (accepted, expected) in [
            ("gzip, deflate, br", true),
            ("br;q=1.0, GZIP;q=0.5", true),
            ("*", true),
            ("gzip;q=0, *", false),
            ("*;q=0", false),
            ("gzip; q=0.0", false),
            ("br", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            assert_eq!(accepts_gzip(&headers), expected, "{accepted}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
        for name in Files::iter() {
            let file = Files::get(&name).unwrap();
            let packed = packed(format!("test {name}"), &file);
            let mut unpacked = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(packed.as_ref());
            std::io::Read::read_to_end(&mut decoder, &mut unpacked).unwrap();
            assert_eq!(unpacked, file.data.as_ref(), "{name}");
        }
    }
}
