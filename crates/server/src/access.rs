//! Who may use the server: keys, and the pages of browsers.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use crate::args::Origins;
use crate::page;
use crate::protocol::error::{ApiError, ErrorKind};
use crate::reply::error_at;
use crate::state::State;

/// Paths that need no key.
const PUBLIC: [&str; 4] = ["/health", "/v1/health", "/models", "/v1/models"];

/// Who may use the server.
pub struct Access {
    /// Hashes of the keys; without any, everybody may.
    keys: Vec<[u8; 32]>,
    origins: Origins,
    /// Whether only this machine reaches the server, so that other names in `Host` are a page's trick.
    is_local: bool,
}

/// The number of the key that a request has: whose request it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner(pub u64);

impl Access {
    /// Access by these keys, for pages of these origins.
    pub fn new(keys: &[String], origins: Origins, is_local: bool) -> Self {
        let mut hashes: Vec<[u8; 32]> = Vec::new();
        for key in keys {
            let hash = Sha256::digest(key.as_bytes()).into();
            // A key with two numbers would have the number of another one.
            if !hashes.contains(&hash) {
                hashes.push(hash);
            }
        }
        Self {
            keys: hashes,
            origins,
            is_local,
        }
    }

    /// Whose request it is, if it has one of the keys. Every key is compared, in constant time.
    fn owner(&self, headers: &HeaderMap) -> Option<Owner> {
        if self.keys.is_empty() {
            return Some(Owner::default());
        }
        let given: [u8; 32] = Sha256::digest(given_key(headers)).into();
        let mut found = Choice::from(0);
        let mut owner = 0;
        for (number, key) in (0_u64..).zip(&self.keys) {
            let is_it = key.ct_eq(&given);
            owner |= number * u64::from(is_it.unwrap_u8());
            found |= is_it;
        }
        bool::from(found).then_some(Owner(owner))
    }

    /// Whether pages of an origin may use the server.
    pub fn allows(&self, origin: &HeaderValue) -> bool {
        match (&self.origins, origin.to_str()) {
            (Origins::All, _) => true,
            (_, Err(_)) => false,
            (Origins::Some { origins, localhost }, Ok(origin)) => {
                let host = origin.split_once("://").map(|(_, host)| host);
                origins.iter().any(|allowed| allowed == origin)
                    || (*localhost && host.is_some_and(is_loopback))
            }
        }
    }

    /// Whether a request came by a name of this machine. The address of a request may have a name as well.
    fn is_host_known(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        // With keys a page that does not know one gets nothing anyway.
        if !self.is_local || !self.keys.is_empty() {
            return true;
        }
        let mut hosts = headers.get_all(HOST).iter();
        // No browser omits the name.
        uri.authority()
            .is_none_or(|name| is_loopback(name.as_str()))
            && hosts.all(|host| host.to_str().is_ok_and(is_loopback))
    }
}

/// The key of a request, by any of the headers that clients use.
fn given_key(headers: &HeaderMap) -> &[u8] {
    let header = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    match headers.get(AUTHORIZATION).map(HeaderValue::as_bytes) {
        Some(value) => value.strip_prefix(b"Bearer ").unwrap_or(value),
        None => header("x-api-key").unwrap_or_default(),
    }
}

/// Whether a host, with or without a port, is this machine.
fn is_loopback(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, "0"),
        Some((address, port)) => (address, port.strip_prefix(':').unwrap_or("none")),
        None => host.rsplit_once(':').unwrap_or((host, "0")),
    };
    let is_address = name
        .parse()
        .is_ok_and(|address: IpAddr| address.is_loopback());
    let name = name.to_ascii_lowercase();
    let is_name = name == "localhost" || name.ends_with(".localhost");
    (is_address || is_name) && port.parse::<u16>().is_ok()
}

/// Lets a request through, or answers 401 or 403.
pub async fn check(
    Shared(state): Shared<Arc<State>>,
    mut request: Request,
    next: Next,
) -> Response {
    let access = &state.access;
    if !access.is_host_known(request.uri(), request.headers()) {
        let message = "the name in the header Host is not one of this machine: use localhost, or start the server with --api-key";
        return refuse(&request, ErrorKind::Permission, message);
    }
    let origin = request.headers().get(ORIGIN);
    if origin.is_some_and(|origin| !access.allows(origin)) {
        let message = "pages of this origin may not use the server: start it with --cors-origins";
        return refuse(&request, ErrorKind::Permission, message);
    }
    let path = request.uri().path();
    let is_page = state.config.folder.is_none() && page::file(path).is_some();
    let is_public = request.method() != Method::POST && (is_page || is_public(path));
    match access.owner(request.headers()) {
        Some(owner) => {
            request.extensions_mut().insert(owner);
            next.run(request).await
        }
        None if is_public => next.run(request).await,
        None => {
            let message = "the API key is missing or wrong";
            refuse(&request, ErrorKind::Authentication, message)
        }
    }
}

fn refuse(request: &Request, kind: ErrorKind, message: &str) -> Response {
    error_at(request.uri().path(), &ApiError::new(kind, message))
}

fn is_public(path: &str) -> bool {
    PUBLIC.contains(&path) || path.starts_with("/v1/models/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(keys: &[&str], origins: &[&str]) -> Access {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        let origins = Origins::Some {
            localhost: origins.contains(&"localhost"),
            origins: origins.iter().map(ToString::to_string).collect(),
        };
        Access::new(&keys, origins, true)
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn keys_come_by_any_header() {
        let access = access(&["one", "two"], &[]);
        let owner = |pairs: &[_]| access.owner(&headers(pairs)).map(|Owner(number)| number);
        assert_eq!(owner(&[("authorization", "Bearer one")]), Some(0));
        assert_eq!(owner(&[("authorization", "two")]), Some(1));
        assert_eq!(owner(&[("x-api-key", "two")]), Some(1));
        for wrong in ["", "Bearer ", "Bearer on", "Bearer one ", "Basic one"] {
            assert_eq!(owner(&[("authorization", wrong)]), None, "{wrong}");
        }
        assert_eq!(owner(&[]), None);
    }

    #[test]
    fn a_key_that_is_given_twice_has_one_number() {
        let access = access(&["one", "two", "two", "three"], &[]);
        let owner = |key| access.owner(&headers(&[("x-api-key", key)]));
        let numbers = ["one", "two", "three"].map(|key| owner(key).unwrap().0);
        assert_eq!(numbers, [0, 1, 2]);
    }

    #[test]
    fn names_of_this_machine() {
        for host in [
            "localhost",
            "localhost:8080",
            "127.0.0.1:80",
            "[::1]:80",
            "[::1]",
            "a.localhost",
            "LocalHost:80",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "localhost.evil.org",
            "evil.org:80",
            "10.0.0.1",
            "[::2]:80",
            "",
            "127.0.0.1.evil.org",
            "localhost:80.evil.org",
            "[::1].evil.org",
            "[::1]:80.evil.org",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn every_name_of_a_request_counts() {
        let known = |address: &str, hosts: &[&'static str]| {
            let mut named = HeaderMap::new();
            for host in hosts {
                named.append(HOST, HeaderValue::from_static(host));
            }
            access(&[], &[]).is_host_known(&address.parse().unwrap(), &named)
        };
        assert!(known("/props", &[]) && known("/props", &["localhost"]));
        assert!(known("http://localhost:80/props", &["localhost:80"]));
        assert!(!known("/props", &["localhost", "evil.org"]));
        assert!(!known("http://evil.org/props", &[]));
        assert!(!known("http://evil.org/props", &["localhost"]));
    }

    #[test]
    fn origins() {
        let local = access(&[], &["localhost", "https://a.org"]);
        let allows = |origin| local.allows(&HeaderValue::from_static(origin));
        assert!(allows("http://localhost:3000") && allows("https://a.org"));
        for foreign in [
            "https://b.org",
            "null",
            "https://a.org.evil",
            "http://localhost.evil.org",
            "http://localhost:80.evil.org",
        ] {
            assert!(!allows(foreign), "{foreign}");
        }
        assert!(!access(&[], &[]).allows(&HeaderValue::from_static("http://localhost")));
    }

    #[test]
    fn foreign_names_are_refused_where_no_key_is_needed() {
        let foreign = headers(&[("host", "evil.org")]);
        let address = Uri::from_static("/props");
        assert!(!access(&[], &[]).is_host_known(&address, &foreign));
        assert!(access(&["k"], &[]).is_host_known(&address, &foreign));
    }
}
