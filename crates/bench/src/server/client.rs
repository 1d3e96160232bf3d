//! Requests to the server. Errors name its address.

use std::io;
use std::time::Duration;

use llama_diffusion::{Error, Result};
use serde_json::Value;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it may be silent. llama-server sends a sign of life every 30 seconds.
const SILENCE: Duration = Duration::from_secs(600);

/// A server.
pub struct Client {
    agent: Agent,
    /// Without a slash at the end.
    base: String,
}

impl Client {
    /// A client of the server at `url`, for a number of streams at once.
    ///
    /// # Errors
    /// The address cannot be one of a server.
    pub fn new(url: &str, streams: usize) -> Result<Self> {
        let base = url.trim_end_matches('/');
        // What clients call the base URL.
        let base = base.strip_suffix("/v1").unwrap_or(base);
        let wrong = |problem: &str| Error::Input {
            name: url.to_owned(),
            problem: problem.to_owned(),
        };
        let uri: Uri = base.parse().map_err(|_| {
            wrong("this is not the address of a server: give one such as http://127.0.0.1:8080")
        })?;
        match (uri.scheme_str(), uri.host()) {
            (Some("http"), Some(_)) => {}
            (Some("https"), _) => {
                return Err(wrong(
                    "this tool has no TLS: give the http address at which the server itself listens",
                ));
            }
            _ => {
                return Err(wrong(
                    "give the address with http://, such as http://127.0.0.1:8080",
                ));
            }
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // One between them would be measured as well.
            .proxy(None)
            .max_redirects(0)
            .max_idle_connections(streams + 1)
            .max_idle_connections_per_host(streams + 1)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(SILENCE));
        Ok(Self {
            agent: config.build().new_agent(),
            base: base.to_owned(),
        })
    }

    /// The address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The JSON of a path.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub fn get(&self, path: &str, key: Option<&str>) -> Result<Value> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(key) = key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let response = request.call().map_err(|error| self.unreachable(&error))?;
        match response.status().as_u16() {
            200 => self.json(path, response),
            _ => Err(self.refusal(path, response)),
        }
    }

    /// Sends a body. With a `limit` on its time, the connection is closed when it is over.
    ///
    /// # Errors
    /// The server cannot be reached, or the time is over.
    pub fn post(
        &self,
        path: &str,
        key: Option<&str>,
        body: &Value,
        limit: Option<Duration>,
    ) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        request = request.header("Content-Type", "application/json");
        if let Some(key) = key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let request = request.config().timeout_global(limit).build();
        request.send(body.to_string())
    }

    /// An error of the connection.
    pub fn unreachable(&self, error: &ureq::Error) -> Error {
        self.broken(&error.to_string())
    }

    /// An error while an answer is read.
    pub fn interrupted(&self, error: &io::Error) -> Error {
        self.broken(&error.to_string())
    }

    fn broken(&self, why: &str) -> Error {
        Error::Input {
            name: self.base.clone(),
            problem: format!(
                "{why}: start llama-diffusion-server, or give its address to --server"
            ),
        }
    }

    /// What a server said that did not answer with 200.
    pub fn refusal(&self, path: &str, response: Response<Body>) -> Error {
        let status = response.status().as_u16();
        let said = response.into_body().read_to_string().unwrap_or_default();
        let json: Option<Value> = serde_json::from_str(&said).ok();
        let message = json
            .as_ref()
            .and_then(|json| json["error"]["message"].as_str());
        let advice = match status {
            401 => ": give a key with --api-key",
            _ => "",
        };
        self.error(
            path,
            &format!("status {status}: {}{advice}", message.unwrap_or(&said)),
        )
    }

    /// An answer that this tool cannot read.
    pub fn error(&self, path: &str, problem: &str) -> Error {
        Error::Input {
            name: format!("{}{path}", self.base),
            problem: problem.to_owned(),
        }
    }

    fn json(&self, path: &str, response: Response<Body>) -> Result<Value> {
        let text = response.into_body().read_to_string();
        let text = text.map_err(|error| self.unreachable(&error))?;
        let not_json = |_| {
            self.error(
                path,
                "the answer is not JSON: is this llama-diffusion-server?",
            )
        };
        serde_json::from_str(&text).map_err(not_json)
    }
}
