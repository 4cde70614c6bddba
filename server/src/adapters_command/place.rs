//! Where the registry is: behind a server that runs, or in the directory of one that does not.

use std::fmt;
use std::path::PathBuf;

use ureq::http::Uri;

use super::AdaptersCommandError;
use crate::cli::TargetFlags;
use crate::settings::Setting;

/// Where a server listens by default.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";
const URL_VARIABLE: &str = "POLYLORA_URL";
const KEY_VARIABLE: &str = "POLYLORA__API_KEY";
const ADMIN_KEY_VARIABLE: &str = "POLYLORA__ADMIN_API_KEY";

/// Where the registry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind a server.
    Server(ServerPlace),
    /// In a state directory.
    Directory(PathBuf),
}

/// A server, and the keys for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPlace {
    /// Its address.
    pub url: ServerUrl,
    /// The key for reading.
    pub api_key: Option<Key>,
    /// The key for changes.
    pub admin_api_key: Option<Key>,
}

/// A key for a server. It never shows in messages.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

/// The address of a server, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    text: String,
    is_local: bool,
}

impl Place {
    /// Lays flags over variables over defaults. A variable that is empty is none.
    ///
    /// # Errors
    /// [`AdaptersCommandError`] for two places at once, and for what is no address or no key.
    pub fn read(
        flags: TargetFlags,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, AdaptersCommandError> {
        let variable = |name| variable(name).filter(|value| !value.trim().is_empty());
        match (flags.url, flags.state_dir) {
            (Some(_), Some(_)) => Err(AdaptersCommandError::TwoPlaces),
            (None, Some(directory)) => Ok(Self::Directory(directory)),
            (url, None) => {
                let url = url.or_else(|| variable(URL_VARIABLE)).unwrap_or_else(|| DEFAULT_URL.to_owned());
                let key = |flag: Option<Key>, name| match (flag, variable(name)) {
                    (None, Some(keys)) => Key::first(&keys, name).map(Some),
                    (flag, _) => Ok(flag),
                };
                Ok(Self::Server(ServerPlace {
                    url: ServerUrl::read(&url)?,
                    api_key: key(flags.api_key, KEY_VARIABLE)?,
                    admin_api_key: key(flags.admin_api_key, ADMIN_KEY_VARIABLE)?,
                }))
            }
        }
    }
}

impl Key {
    /// The header that presents it.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// The first of the keys in a variable, which a server takes all of, with spaces between them.
    fn first(keys: &str, variable: &'static str) -> Result<Self, AdaptersCommandError> {
        keys.split(' ')
            .find(|key| !key.is_empty())
            .and_then(Self::parse)
            .ok_or(AdaptersCommandError::Key { variable })
    }
}

impl Setting for Key {
    const EXPECTED: &'static str = "a key of visible ASCII characters that is not empty";
    const SECRET: bool = true;

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Self(text.to_owned()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl ServerUrl {
    /// Reads an address: `http://host:port`, perhaps with the path under which a proxy has the server.
    ///
    /// # Errors
    /// [`AdaptersCommandError::Url`].
    pub fn read(text: &str) -> Result<Self, AdaptersCommandError> {
        let wrong = |expected| AdaptersCommandError::Url { found: text.to_owned(), expected };
        let uri: Uri = text.trim().parse().map_err(|_| wrong("an address such as http://127.0.0.1:8080"))?;
        let (Some("http" | "https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong("http:// or https:// and a host"));
        };
        // Whoever puts a password there would find it in error messages.
        if authority.as_str().contains('@') {
            let found = "…".to_owned();
            return Err(AdaptersCommandError::Url {
                found,
                expected: "no user in it: keys have flags of their own",
            });
        }
        if uri.query().is_some() || text.contains('#') || uri.host().is_none_or(str::is_empty) {
            return Err(wrong("scheme, host, perhaps port and path, and nothing behind them"));
        }
        let host = uri.host().unwrap_or_default();
        let is_local = host == "localhost" || host == "[::1]" || host.starts_with("127.");
        Ok(Self { text: text.trim().trim_end_matches('/').to_owned(), is_local })
    }

    /// Whether it means this machine.
    pub fn is_local(&self) -> bool {
        self.is_local
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: TargetFlags, variables: &[(&str, &str)]) -> Result<Place, AdaptersCommandError> {
        let find =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Place::read(flags, &find)
    }

    fn server(flags: TargetFlags, variables: &[(&str, &str)]) -> ServerPlace {
        match read(flags, variables).expect("a place") {
            Place::Server(place) => place,
            other => panic!("expected a server, found {other:?}"),
        }
    }

    #[test]
    fn flags_lie_over_variables_and_those_over_the_default() {
        assert_eq!(server(TargetFlags::default(), &[]).url.to_string(), DEFAULT_URL);
        let variables = [
            ("POLYLORA_URL", "https://a.example/lora/"),
            ("POLYLORA__API_KEY", " first second"),
            ("POLYLORA__ADMIN_API_KEY", ""),
        ];
        let place = server(TargetFlags::default(), &variables);
        assert_eq!(place.url.to_string(), "https://a.example/lora");
        assert_eq!(
            (place.api_key.map(|key| key.bearer()), place.admin_api_key),
            (Some("Bearer first".into()), None)
        );
        let flags = TargetFlags {
            url: Some("http://b:1".into()),
            api_key: Key::parse("flag"),
            ..TargetFlags::default()
        };
        let place = server(flags, &variables);
        assert_eq!(
            (place.url.to_string(), place.api_key.map(|key| key.bearer())),
            ("http://b:1".into(), Some("Bearer flag".into()))
        );
    }

    #[test]
    fn a_directory_is_meant_whatever_the_variables_say_but_not_two_places() {
        let directory = || TargetFlags { state_dir: Some("s".into()), ..TargetFlags::default() };
        let variables = [("POLYLORA_URL", "http://a")];
        assert_eq!(read(directory(), &variables).expect("a place"), Place::Directory("s".into()));
        let error =
            read(TargetFlags { url: Some("http://a".into()), ..directory() }, &[]).expect_err("two places");
        assert!(error.is_usage() && error.to_string().contains("exclude each other"));
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_is_expected() {
        for right in ["http://localhost", "https://[::1]:8080/", "HTTP://a", "http://127.0.0.1:8080/a/b"] {
            assert!(ServerUrl::read(right).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "localhost:8080",
            "ftp://a",
            "http://",
            "http://a b",
            "http://a?x",
            "http://a#x",
            "/a",
            "\u{1b}",
        ] {
            let error = ServerUrl::read(wrong).expect_err(wrong);
            assert!(error.is_usage() && error.to_string().contains("expected"), "{error}");
            assert!(!error.to_string().contains('\u{1b}'));
        }
        let error = ServerUrl::read("http://me:s3cret@a").expect_err("a user").to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn only_this_machine_is_local() {
        let is_local = |text| ServerUrl::read(text).expect(text).is_local();
        assert!(
            is_local("http://127.0.0.1:8080") && is_local("http://localhost") && is_local("http://[::1]:1")
        );
        assert!(!is_local("http://localhost.example") && !is_local("https://a.example"));
    }

    #[test]
    fn a_key_shows_nowhere() {
        let place = read(TargetFlags::default(), &[("POLYLORA__API_KEY", "s3cret")]).expect("a place");
        assert!(!format!("{place:?}").contains("s3cret"));
        let error =
            read(TargetFlags::default(), &[("POLYLORA__API_KEY", "s3cr\u{e9}t")]).expect_err("no key");
        assert!(error.is_usage() && !error.to_string().contains("s3cr"), "{error}");
    }
}
