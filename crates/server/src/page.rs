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
use sha2::{Digest as _, Sha256};

use crate::comments;

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
    let sent = sent(path, file);
    // The two forms of a file are different bytes.
    let tag = format!("\"{}{}\"", sent.hash, if is_packed { "-gzip" } else { "" });
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
            (fixed, encoding, [(ETAG, tag)], sent.packed).into_response()
        }
        false => (fixed, [(ETAG, tag)], sent.plain).into_response(),
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

/// A file as it is sent, in both forms.
#[derive(Clone)]
struct Sent {
    plain: Bytes,
    packed: Bytes,
    /// Of the plain form: another version of this program may send another one of the same file.
    hash: String,
}

/// What is sent of a file, which is kept.
fn sent(path: &str, file: EmbeddedFile) -> Sent {
    static KEPT: Mutex<BTreeMap<(&str, [u8; 32]), Sent>> = Mutex::new(BTreeMap::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (kind(path), file.metadata.sha256_hash());
    let prepare = || {
        let plain = without_comments(path, file.data.into_owned());
        let hash = Sha256::digest(&plain);
        Sent {
            packed: packed(&plain).into(),
            hash: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            plain: plain.into(),
        }
    };
    kept.entry(key).or_insert_with(prepare).clone()
}

/// A file as browsers need it.
fn without_comments(path: &str, data: Vec<u8>) -> Vec<u8> {
    let has_slashes = match path.rsplit_once('.') {
        Some((_, "js")) => true,
        Some((_, "css")) => false,
        _ => return data,
    };
    match String::from_utf8(data) {
        Ok(source) => comments::removed(&source, has_slashes).into_bytes(),
        Err(error) => error.into_bytes(),
    }
}

fn packed(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(data);
    // A vector takes everything.
    written.and_then(|()| encoder.finish()).unwrap_or_default()
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
    }

    #[test]
    fn both_forms_of_a_file_are_the_same_text() {
        for name in Files::iter() {
            let sent = sent(&name, Files::get(&name).unwrap());
            let mut unpacked = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(sent.packed.as_ref());
            std::io::Read::read_to_end(&mut decoder, &mut unpacked).unwrap();
            assert_eq!(unpacked, sent.plain, "{name}");
            if !has_comments(&name) {
                let source = Files::get(&name).unwrap().data;
                assert_eq!(sent.plain, source.as_ref(), "{name}");
            }
        }
    }

    fn has_comments(name: &str) -> bool {
        name.ends_with(".js") || name.ends_with(".css")
    }

    /// What `comments` takes for granted, and what it leaves.
    #[test]
    fn no_line_that_begins_like_a_comment_is_part_of_something_else() {
        for name in Files::iter().filter(|name| has_comments(name)) {
            let source = Files::get(&name).unwrap();
            let source = std::str::from_utf8(&source.data).unwrap();
            let sent = sent(&name, Files::get(&name).unwrap()).plain;
            let sent = std::str::from_utf8(&sent).unwrap();
            assert_eq!(sent.lines().count(), source.lines().count(), "{name}");
            for line in sent.lines() {
                let count = |part: &str| line.matches(part).count();
                let ends = |part: &str| line.rfind(part);
                assert!(
                    count("`") % 2 == 0,
                    "{name}: a template's second line: {line}"
                );
                assert!(
                    count("${") <= count("}"),
                    "{name}: a template's second line: {line}"
                );
                assert!(
                    !line.ends_with('\\'),
                    "{name}: a string's second line: {line}"
                );
                assert!(
                    ends("/*") <= ends("*/"),
                    "{name}: a comment's second line: {line}"
                );
                let start = line.trim_start();
                assert!(!start.starts_with("//"), "{name}: {line}");
                let is_comment = start.starts_with("/*") && line.trim_end().ends_with("*/");
                assert!(!is_comment, "{name}: {line}");
            }
        }
    }
}
