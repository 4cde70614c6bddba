//! The kinds of value that say who may call the server: keys and origins.

use std::fmt;

use axum::http::{HeaderValue, Uri};
use sha2::{Digest, Sha256};

use super::lists::Several;
use super::value::Setting;

/// A key that clients must present. It never shows in messages or logs.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// What keys are compared by: equally long for every key.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl Setting for ApiKey {
    const EXPECTED: &'static str = "a key of visible ASCII characters that is not empty";
    const SECRET: bool = true;

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Self(text.to_owned()))
    }
}

impl Several for ApiKey {
    /// At spaces, which no key has; a comma may be part of one.
    fn split(text: &str) -> Vec<String> {
        text.split(' ').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// Whose pages may call the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Everybody's: `*`.
    Any,
    /// Those of one origin, as browsers write it: `scheme://host[:port]`.
    Exact(HeaderValue),
}

impl Setting for Origin {
    const EXPECTED: &'static str =
        "* or an origin such as https://app.example or http://localhost:3000, without a path";

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text == "*" {
            return Some(Self::Any);
        }
        let (scheme, rest) = text.split_once("://")?;
        // A browser sends it in lower case and without a slash at the end; anything else would never match.
        let is_plain = !rest.is_empty() && !rest.contains(['/', '?', '#', '@', '*', ' ']);
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        let is_scheme =
            !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        let is_uri = text.parse::<Uri>().is_ok_and(|uri| uri.host().is_some());
        if !(is_plain && is_lower && is_scheme && is_uri) {
            return None;
        }
        HeaderValue::from_str(text).ok().map(Self::Exact)
    }
}

impl Several for Origin {
    /// At commas, or as the JSON list that vLLM's flag takes.
    fn split(text: &str) -> Vec<String> {
        let json = text.trim_start().starts_with('[').then(|| serde_json::from_str(text).ok()).flatten();
        json.unwrap_or_else(|| text.split(',').map(|part| part.trim().to_owned()).collect())
    }
}

/// The origins of one flag: one, several with commas, or vLLM's JSON list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins(pub Vec<Origin>);

impl Setting for Origins {
    const EXPECTED: &'static str = Origin::EXPECTED;

    fn parse(text: &str) -> Option<Self> {
        Origin::split(text).iter().map(|part| Origin::parse(part)).collect::<Option<_>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_shows_nowhere() {
        let key = ApiKey::parse("s3cret").expect("a key");
        assert!(!format!("{key:?}").contains("s3cret"));
        assert_eq!(ApiKey::parse(""), None);
        assert_eq!(ApiKey::parse("two words"), None);
    }

    #[test]
    fn origins_are_taken_as_browsers_send_them_and_nothing_else() {
        for right in ["https://a.example", "http://localhost:3000", "http://[::1]:8080", "app.x+y://host"] {
            assert!(matches!(Origin::parse(right), Some(Origin::Exact(_))), "{right}");
        }
        assert_eq!(Origin::parse("*"), Some(Origin::Any));
        for wrong in [
            "https://a.example/",
            "a.example",
            "https://A.example",
            "https://*.example",
            "https://u@a",
            "://a",
            "",
            "https://",
        ] {
            assert_eq!(Origin::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_flag_takes_commas_and_vllms_list() {
        let two = Some(Origins(vec![
            Origin::parse("http://a").expect("an origin"),
            Origin::parse("http://b").expect("an origin"),
        ]));
        assert_eq!(Origins::parse("http://a, http://b"), two);
        assert_eq!(Origins::parse(r#"["http://a", "http://b"]"#), two);
        assert_eq!(Origins::parse(r#"["*"]"#), Some(Origins(vec![Origin::Any])));
        assert_eq!(Origins::parse(r#"["http://a""#), None);
    }
}
