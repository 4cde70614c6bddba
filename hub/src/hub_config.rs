//! Settings of a pull, read once from the environment and passed on as values.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The Hub itself, where `HF_ENDPOINT` names no other.
const HUB_ENDPOINT: &str = "https://huggingface.co";

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Neither `POLYLORA_HOME` nor a home directory is known.
    #[error(
        "neither POLYLORA_HOME nor HOME is set: set POLYLORA_HOME to the folder where models are to be kept"
    )]
    NoHome,
    /// `HF_ENDPOINT` is no HTTP address.
    #[error("HF_ENDPOINT is `{found}`, expected an address that begins with http:// or https://")]
    Endpoint {
        /// Its value.
        found: String,
    },
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressStyle {
    /// A bar when stderr is a terminal, else one log line a file.
    Auto,
    /// One log line a file.
    Lines,
}

/// How long a source is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimits {
    /// For the address of a host, and for a connection to it: each.
    pub connect: Duration,
    /// For the first bytes of an answer.
    pub answer: Duration,
    /// For the next bytes of a body; the transfer is then resumed.
    pub stall: Duration,
    /// For one run of pip as a whole.
    pub pip: Duration,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            stall: Duration::from_secs(20),
            pip: Duration::from_secs(30 * 60),
        }
    }
}

/// A Hub access token. Its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a token; `None` for one that is empty or could not stand in a header.
    pub fn new(token: &str) -> Option<Self> {
        let token = token.trim();
        (!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
            .then(|| Self(token.to_owned()))
    }

    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Settings of a pull.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Root of polylora's own cache; models lie in `models/` below it.
    pub home: PathBuf,
    /// The Hugging Face cache on this disk; `None` skips it.
    pub hub_cache: Option<PathBuf>,
    /// Address of the Hub, without a slash at the end.
    pub endpoint: String,
    /// Sent to the endpoint's host and to no other.
    pub token: Option<Token>,
    /// The Hub is not asked. pip has its own settings and is not affected.
    pub offline: bool,
    /// Certificates (PEM) that are trusted instead of the compiled-in ones.
    pub ca_bundle: Option<PathBuf>,
    /// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` are honoured.
    pub proxy_from_env: bool,
    /// Commands that may be this machine's pip, each with its leading arguments, tried in order; empty skips wheels.
    pub pip_commands: Vec<Vec<OsString>>,
    /// Time limits.
    pub limits: TimeLimits,
    /// How progress is shown.
    pub progress: ProgressStyle,
}

impl HubConfig {
    /// Settings without any environment: everything below `home`, the public Hub, pip by its usual names.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        let pip = |words: &[&str]| words.iter().map(OsString::from).collect();
        Self {
            home: home.into(),
            hub_cache: None,
            endpoint: HUB_ENDPOINT.to_owned(),
            token: None,
            offline: false,
            ca_bundle: None,
            proxy_from_env: false,
            pip_commands: vec![pip(&["pip"]), pip(&["pip3"]), pip(&["python3", "-m", "pip"])],
            limits: TimeLimits::default(),
            progress: ProgressStyle::Auto,
        }
    }

    /// Settings from the process's environment; see [`HubConfig::from_lookup`].
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_lookup(|name| std::env::var_os(name))
    }

    /// Settings from variables given by `lookup`. An empty variable counts as not set.
    ///
    /// `POLYLORA_HOME` (default `~/.cache/polylora`); and with the meaning that Hugging Face's own tools give them
    /// `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE` (1, true, yes, on), and
    /// `XDG_CACHE_HOME` for the default of `HF_HOME`. `SSL_CERT_FILE` or `REQUESTS_CA_BUNDLE` names trusted certificates.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let value = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let text = |name: &str| value(name).and_then(|value| value.into_string().ok());
        let user_home = value("HOME").or_else(|| value("USERPROFILE")).map(PathBuf::from);
        let folder = |name: &str| value(name).map(|path| expand(PathBuf::from(path), user_home.as_ref()));

        let home = folder("POLYLORA_HOME")
            .or_else(|| user_home.as_ref().map(|home| home.join(".cache").join("polylora")))
            .ok_or(ConfigError::NoHome)?;
        let cache_home =
            folder("XDG_CACHE_HOME").or_else(|| user_home.as_ref().map(|home| home.join(".cache")));
        let hf_home = folder("HF_HOME").or_else(|| cache_home.map(|cache| cache.join("huggingface")));
        let hub_cache = folder("HF_HUB_CACHE").or_else(|| hf_home.as_ref().map(|home| home.join("hub")));
        let token_path = folder("HF_TOKEN_PATH").or_else(|| hf_home.as_ref().map(|home| home.join("token")));
        let token = text("HF_TOKEN").as_deref().and_then(Token::new).or_else(|| {
            let token = std::fs::read_to_string(token_path?).ok()?;
            Token::new(&token)
        });
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| HUB_ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(ConfigError::Endpoint { found: endpoint });
        }
        Ok(Self {
            hub_cache,
            token,
            endpoint,
            offline: text("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
            ca_bundle: folder("SSL_CERT_FILE").or_else(|| folder("REQUESTS_CA_BUNDLE")),
            proxy_from_env: true,
            ..Self::new(home)
        })
    }
}

fn is_true(value: &str) -> bool {
    matches!(value.trim().to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
}

/// Writes out a leading `~`, as Hugging Face's tools do for these variables.
fn expand(path: PathBuf, user_home: Option<&PathBuf>) -> PathBuf {
    match (path.strip_prefix("~"), user_home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<HubConfig, ConfigError> {
        HubConfig::from_lookup(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn folders_follow_the_variables_from_special_to_general() {
        let c = config(&[("HOME", "/h")]).unwrap();
        assert_eq!(c.home, Path::new("/h/.cache/polylora"));
        assert_eq!(c.hub_cache.as_deref(), Some(Path::new("/h/.cache/huggingface/hub")));
        let c = config(&[("HOME", "/h"), ("HF_HOME", "~/hf"), ("POLYLORA_HOME", "/p")]).unwrap();
        assert_eq!(c.home, Path::new("/p"));
        assert_eq!(c.hub_cache.as_deref(), Some(Path::new("/h/hf/hub")));
        let c = config(&[("HOME", "/h"), ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/x")]).unwrap();
        assert_eq!(c.hub_cache.as_deref(), Some(Path::new("/x")));
        assert_eq!(config(&[]).unwrap_err(), ConfigError::NoHome);
        assert_eq!(config(&[("HOME", ""), ("POLYLORA_HOME", "")]).unwrap_err(), ConfigError::NoHome);
    }

    #[test]
    fn offline_means_what_the_hub_tools_mean() {
        for (value, offline) in
            [("1", true), ("TRUE", true), ("Yes", true), ("on", true), ("0", false), ("", false)]
        {
            let c = config(&[("HOME", "/h"), ("HF_HUB_OFFLINE", value)]).unwrap();
            assert_eq!(c.offline, offline, "{value:?}");
        }
    }

    #[test]
    fn an_endpoint_is_an_http_address() {
        let c = config(&[("HOME", "/h"), ("HF_ENDPOINT", "https://mirror.example/hf/")]).unwrap();
        assert_eq!(c.endpoint, "https://mirror.example/hf");
        assert!(matches!(
            config(&[("HOME", "/h"), ("HF_ENDPOINT", "ftp://x")]),
            Err(ConfigError::Endpoint { found }) if found == "ftp://x"
        ));
    }

    #[test]
    fn a_token_is_never_shown() {
        let c = config(&[("HOME", "/h"), ("HF_TOKEN", " hf_secret\n")]).unwrap();
        assert_eq!(c.token.as_ref().unwrap().bearer(), "Bearer hf_secret");
        assert!(!format!("{c:?}").contains("secret"));
        assert_eq!(Token::new("two\nlines"), None);
    }

    #[test]
    fn the_token_of_a_login_is_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_filed\n").unwrap();
        let c = config(&[("HOME", "/h"), ("HF_HOME", dir.path().to_str().unwrap())]).unwrap();
        assert_eq!(c.token.unwrap().bearer(), "Bearer hf_filed");
    }
}
