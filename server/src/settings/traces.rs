//! Where spans of requests are sent.

use axum::http::Uri;

use super::value::Setting;

/// Path of a collector's traces where the address has none.
const TRACES_PATH: &str = "/v1/traces";

/// Address of an OpenTelemetry collector that takes traces as OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracesEndpoint(String);

impl TracesEndpoint {
    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is this machine, which no proxy leads to.
    pub fn is_local(&self) -> bool {
        let uri: Option<Uri> = self.0.parse().ok();
        uri.as_ref()
            .and_then(Uri::host)
            .is_some_and(|host| host == "localhost" || host == "[::1]" || host.starts_with("127."))
    }
}

impl Setting for TracesEndpoint {
    const EXPECTED: &'static str =
        "an address such as http://localhost:4318/v1/traces (OTLP as protobuf over HTTP; gRPC is not spoken)";

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let uri: Uri = text.parse().ok()?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return None;
        }
        let path = if uri.path_and_query().is_none_or(|path| path == "/") { TRACES_PATH } else { "" };
        Some(Self(format!("{}{path}", if path.is_empty() { text } else { text.trim_end_matches('/') })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_path_gets_the_usual_one_and_grpc_is_refused() {
        for (text, whole) in [
            ("http://localhost:4318", "http://localhost:4318/v1/traces"),
            ("https://collector.example/", "https://collector.example/v1/traces"),
            ("http://localhost:4318/otlp?key=1", "http://localhost:4318/otlp?key=1"),
        ] {
            assert_eq!(TracesEndpoint::parse(text).map(|endpoint| endpoint.0).as_deref(), Some(whole));
        }
        assert!(TracesEndpoint::parse("http://[::1]:4318").is_some_and(|endpoint| endpoint.is_local()));
        assert!(!TracesEndpoint::parse("http://localhost.example").is_some_and(|it| it.is_local()));
        for wrong in ["grpc://localhost:4317", "localhost:4317", "/v1/traces", "http://", ""] {
            assert_eq!(TracesEndpoint::parse(wrong), None, "{wrong}");
        }
    }
}
