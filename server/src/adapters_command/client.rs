//! One request to a server and its reply, whatever that is.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::{Method, Request, StatusCode, header};

use super::{AdaptersCommandError, Answer, Key, ServerPlace};

/// How long a server may take: it reads whole adapters before it answers for them.
const REPLY_TIMEOUT: Duration = Duration::from_secs(300);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of a reply: thousands of versions with all that is said of them.
const MOST_REPLY_BYTES: u64 = 256 << 20;
/// Characters of a reply that is no JSON, in messages.
const SHOWN_CHARS: usize = 120;

/// Speaks to one server.
pub struct Client {
    place: ServerPlace,
    agent: Agent,
}

impl Client {
    /// A client of the server at `place`; nothing is sent yet.
    pub fn new(place: ServerPlace) -> Self {
        // No redirect is followed: it could lead a key elsewhere, and make a change into a reading.
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(REPLY_TIMEOUT))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("polylora/", env!("CARGO_PKG_VERSION")));
        if place.url.is_local() {
            config = config.proxy(None);
        }
        Self { place, agent: config.build().into() }
    }

    /// Reads what is under `path` of the adapters' API.
    ///
    /// # Errors
    /// [`AdaptersCommandError`] when the server cannot be asked, refuses, or answers without JSON.
    pub fn get(&self, path: &str) -> Result<Answer, AdaptersCommandError> {
        // Whoever may change may also read.
        let key = self.place.api_key.as_ref().or(self.place.admin_api_key.as_ref());
        self.send(Method::GET, path, key, None)
    }

    /// Asks for a change.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post(&self, path: &str, body: Value) -> Result<Answer, AdaptersCommandError> {
        self.send(Method::POST, path, self.place.admin_api_key.as_ref(), Some(body))
    }

    /// Asks for an end, with those values of the query that are there.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn delete(
        &self,
        path: &str,
        query: [(&str, Option<String>); 2],
    ) -> Result<Answer, AdaptersCommandError> {
        let mut path = path.to_owned();
        for (key, value) in query.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            let mark = if path.contains('?') { '&' } else { '?' };
            path = format!("{path}{mark}{key}={}", encoded(&value));
        }
        self.send(Method::DELETE, &path, self.place.admin_api_key.as_ref(), None)
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        key: Option<&Key>,
        body: Option<Value>,
    ) -> Result<Answer, AdaptersCommandError> {
        let asked = asked(method.as_str(), path);
        let url = || self.place.url.to_string();
        let unexpected = |reason| AdaptersCommandError::Unexpected { request: asked.clone(), reason };
        let mut request = Request::builder().method(method).uri(format!("{}/api/adapters/{path}", url()));
        if let Some(key) = key {
            request = request.header(header::AUTHORIZATION, key.bearer());
        }
        let sent = match body {
            Some(body) => request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.to_string().into_bytes())
                .map_err(ureq::Error::from)
                .and_then(|request| self.agent.run(request)),
            None => request.body(()).map_err(ureq::Error::from).and_then(|request| self.agent.run(request)),
        };
        let read = sent.and_then(|reply| {
            let (parts, mut body) = reply.into_parts();
            Ok((parts, body.with_config().limit(MOST_REPLY_BYTES).read_to_vec()?))
        });
        let (parts, bytes) = match read {
            Ok(reply) => reply,
            Err(ureq::Error::BodyExceedsLimit(most)) => {
                return Err(unexpected(format!("it has more than {most} bytes")));
            }
            Err(source) => {
                return Err(AdaptersCommandError::Unreachable { url: url(), source: Box::new(source) });
            }
        };
        if parts.status.is_success() {
            let value = serde_json::from_slice(&bytes);
            let value = value
                .map_err(|error| unexpected(format!("{error}; it begins with `{}`", beginning(&bytes))))?;
            return Ok(Answer::new(asked, value));
        }
        if let (true, Some(place)) = (parts.status.is_redirection(), parts.headers.get(header::LOCATION)) {
            let place = String::from_utf8_lossy(place.as_bytes());
            return Err(unexpected(format!("it leads to {place}: give the address of the server itself")));
        }
        Err(refusal(parts.status, &bytes))
    }
}

/// A text as one component of a URL.
pub fn encoded(text: &str) -> String {
    let mut url = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
            true => url.push(char::from(byte)),
            false => write!(url, "%{byte:02X}").expect("a String takes all"),
        }
    }
    url
}

/// What was asked, for errors.
pub fn asked(method: &str, path: &str) -> String {
    format!("{method} /api/adapters/{path}")
}

/// The error that the server tells, in OpenAI's form or any other.
fn refusal(status: StatusCode, bytes: &[u8]) -> AdaptersCommandError {
    let error = serde_json::from_slice::<Value>(bytes).ok().and_then(|value| value.get("error").cloned());
    let text = |key| error.as_ref().and_then(|error| error.get(key)?.as_str()).map(str::to_owned);
    let message = text("message").unwrap_or_else(|| match beginning(bytes) {
        nothing if nothing.is_empty() => status.canonical_reason().unwrap_or("no reason").to_owned(),
        beginning => beginning,
    });
    AdaptersCommandError::Refused { status: status.as_u16(), code: text("code"), message }
}

fn beginning(bytes: &[u8]) -> String {
    // A character has at most four bytes.
    let shown = &bytes[..bytes.len().min(4 * SHOWN_CHARS)];
    String::from_utf8_lossy(shown).trim().chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters_command::ServerUrl;
    use crate::adapters_command::fakes::FakeServer;

    fn place(url: &str) -> ServerPlace {
        ServerPlace { url: ServerUrl::read(url).expect("an address"), api_key: None, admin_api_key: None }
    }

    fn got(status: &'static str, body: &str) -> Result<Answer, AdaptersCommandError> {
        let server = FakeServer::start(vec![(status, body.to_owned())]);
        let answer = Client::new(place(&server.url)).get("registry");
        server.received();
        answer
    }

    #[test]
    fn a_reply_that_is_no_json_is_shown_by_its_beginning() {
        let page = format!("<html>\u{1b}[31m{}", "x".repeat(1000));
        let error = got("200 OK", &page).expect_err("no JSON").to_string();
        let start = "the reply to GET /api/adapters/registry is unexpected: expected value at line 1 column 1; it begins \
                     with `<html>\\u{1b}[31mxxx";
        assert!(error.starts_with(start) && error.len() < 300, "{error}");
        assert!(matches!(got("200 OK", ""), Err(AdaptersCommandError::Unexpected { .. })));
        assert!(matches!(got("204 No Content", ""), Err(AdaptersCommandError::Unexpected { .. })));
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_server() {
        let said = |status, body| got(status, body).expect_err("refused").to_string();
        let body = r#"{"error": {"message": "version 1.0.0 is in service", "type": "x", "param": null, "code": "in_service"}}"#;
        assert_eq!(said("409 Conflict", body), "the server refuses with 409: version 1.0.0 is in service");
        assert!(said("401 Unauthorized", "{}").contains("POLYLORA__ADMIN_API_KEY"));
        let body = r#"{"error": {"message": "off", "code": "admin_off"}}"#;
        assert!(said("403 Forbidden", body).contains("start it with an admin key"));
        assert_eq!(said("502 Bad Gateway", "<p>down</p>"), "the server refuses with 502: <p>down</p>");
        assert_eq!(said("503 Service Unavailable", ""), "the server refuses with 503: Service Unavailable");
        for odd in ["[]", "null", r#"{"error": 3}"#, r#"{"error": {"message": 3, "code": []}}"#] {
            assert_eq!(said("500 Internal Server Error", odd), format!("the server refuses with 500: {odd}"));
        }
    }

    #[test]
    fn no_redirect_is_followed() {
        let error = got("302 Found\r\nlocation: http://elsewhere/", "").expect_err("a redirect").to_string();
        assert!(
            error.ends_with("it leads to http://elsewhere/: give the address of the server itself"),
            "{error}"
        );
    }

    #[test]
    fn a_server_that_is_not_there_or_speaks_something_else_is_told_with_its_address() {
        let free =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let error = Client::new(place(&format!("http://{free}"))).get("registry").expect_err("nobody");
        assert_eq!(
            error.to_string(),
            format!("the server at http://{free} cannot be asked (--url, POLYLORA_URL)")
        );
        assert!(std::error::Error::source(&error).is_some());
        assert!(matches!(got("what", "x"), Err(AdaptersCommandError::Unreachable { .. })));
    }

    #[test]
    fn a_name_is_one_component_of_a_url() {
        assert_eq!(encoded("law@1.2.0"), "law@1.2.0");
        assert_eq!(encoded("a b/c#?%é"), "a%20b%2Fc%23%3F%25%C3%A9");
    }
}
