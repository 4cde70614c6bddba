//! How the layers are laid over each other, and what is said when one has a slip in it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::Settings;

/// Variables that start so are settings; anything after it that is no setting is refused.
pub const ENVIRONMENT_PREFIX: &str = "POLYLORA__";
/// The variable that names the TOML file where `--config` does not.
pub const CONFIG_VARIABLE: &str = "POLYLORA_CONFIG";

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("the configuration file {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file has a mistake.
    #[error("{}, line {line}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Line of the mistake, from 1.
        line: usize,
        /// Key, found and expected.
        reason: String,
    },
    /// A variable has a mistake.
    #[error("environment variable {variable}: {reason}")]
    Variable {
        /// Name of the variable.
        variable: String,
        /// Found and expected.
        reason: String,
    },
    /// The layers fit one by one and not together.
    #[error("the settings do not fit together: {reason}")]
    Together {
        /// What does not fit.
        reason: String,
    },
}

/// vLLM's variable for `allow_runtime_lora_updating`: 1 or true switch it on.
pub const VLLM_RUNTIME_UPDATING: &str = "VLLM_ALLOW_RUNTIME_LORA_UPDATING";

/// The part of the environment that concerns the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    config: Option<PathBuf>,
    allows_updating: bool,
    settings: BTreeMap<String, String>,
}

impl Environment {
    /// Takes the variables that are the server's out of an environment.
    ///
    /// # Errors
    /// [`SettingsError::Variable`] for one that is no Unicode text.
    pub fn from_variables<I, K, V>(variables: I) -> Result<Self, SettingsError>
    where
        I: IntoIterator<Item = (K, V)>,
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let mut environment = Self::default();
        for (name, value) in variables {
            let (name, value) = (name.into(), value.into());
            let Some(name) = name.to_str() else { continue };
            if name == CONFIG_VARIABLE {
                environment.config = (!value.is_empty()).then(|| value.into());
            } else if name == VLLM_RUNTIME_UPDATING {
                environment.allows_updating =
                    value.to_str().is_some_and(|text| ["1", "true", "True"].contains(&text));
            } else if name.starts_with(ENVIRONMENT_PREFIX) {
                let value = value.into_string().map_err(|_| SettingsError::Variable {
                    variable: name.to_owned(),
                    reason: "found bytes that are no UTF-8, expected text".into(),
                })?;
                environment.settings.insert(name.to_owned(), value);
            }
        }
        Ok(environment)
    }
}

/// The settings under the flags: defaults, then the file, then the environment.
///
/// `config` is the file that `--config` names; without it [`CONFIG_VARIABLE`] may name one.
///
/// # Errors
/// [`SettingsError`] for a file that cannot be read, an unknown key, a value of the wrong kind; it names the key, what
/// was found, what was expected, and where.
pub fn load(config: Option<&Path>, environment: &Environment) -> Result<Settings, SettingsError> {
    let mut table = match config.or(environment.config.as_deref()) {
        Some(path) => read_file(path)?,
        None => Table::new(),
    };
    if environment.allows_updating {
        table.insert("allow_runtime_lora_updating".to_owned(), Value::Boolean(true));
    }
    for (variable, value) in &environment.settings {
        let key = variable[ENVIRONMENT_PREFIX.len()..].to_ascii_lowercase();
        let value = Value::String(value.clone());
        Settings::deserialize(Table::from_iter([(key.clone(), value.clone())])).map_err(|error| {
            SettingsError::Variable { variable: variable.clone(), reason: one_line(error.message()) }
        })?;
        table.insert(key, value);
    }
    Settings::deserialize(table)
        .map_err(|error| SettingsError::Together { reason: one_line(error.message()) })
}

fn read_file(path: &Path) -> Result<Table, SettingsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| SettingsError::Unreadable { path: path.to_owned(), source })?;
    let mistake = |key: Option<String>, error: &toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|&byte| byte == b'\n').count();
        let reason = one_line(error.message());
        let reason = match key {
            Some(key) => format!("`{key}`: {reason}"),
            None => reason,
        };
        SettingsError::File { path: path.to_owned(), line, reason }
    };
    let deserializer = toml::Deserializer::parse(&text).map_err(|error| mistake(None, &error))?;
    serde_path_to_error::deserialize::<_, Settings>(deserializer).map_err(|error| {
        let key = error.path().iter().next().is_some().then(|| error.path().to_string());
        mistake(key, error.inner())
    })?;
    text.parse().map_err(|error| mistake(None, &error))
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::{ByteSize, DeviceChoice};
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::from_variables(variables.iter().copied()).expect("Unicode")
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        file
    }

    fn said(config: Option<&Path>, variables: &[(&str, &str)]) -> String {
        load(config, &environment(variables)).expect_err("refused").to_string()
    }

    #[test]
    fn nothing_said_is_the_defaults() {
        assert_eq!(load(None, &Environment::default()).expect("defaults"), Settings::default());
    }

    #[test]
    fn the_environment_lies_over_the_file_and_the_file_over_the_defaults() {
        let file = file(
            "port = 7000\nhost = \"0.0.0.0\"\npayload_limit = \"4MiB\"\nserved_model_name = [\"a\", \"b\"]\n",
        );
        let settings = load(
            Some(file.path()),
            &environment(&[
                ("POLYLORA__PORT", "9000"),
                ("POLYLORA__MAX_BATCH_TOKENS", "4096"),
                ("POLYLORA__DEVICE", "cuda:1"),
                ("POLYLORA__AUTO_TRUNCATE", "false"),
                ("HOME", "/nowhere"),
            ]),
        )
        .expect("settings");
        assert_eq!((settings.port, settings.host.as_str()), (9000, "0.0.0.0"));
        assert_eq!(settings.payload_limit, ByteSize(4 << 20));
        assert_eq!(settings.max_batch_tokens.map(|tokens| tokens.get()), Some(4096));
        assert_eq!(settings.device, DeviceChoice::Cuda(Some(1)));
        assert_eq!(settings.served_model_name, ["a", "b"]);
        assert!(!settings.auto_truncate);
        assert_eq!(settings.max_concurrent_requests, Settings::default().max_concurrent_requests);
    }

    #[test]
    fn names_in_a_variable_are_split_at_commas() {
        let settings =
            load(None, &environment(&[("POLYLORA__SERVED_MODEL_NAME", "a, b/c")])).expect("settings");
        assert_eq!(settings.served_model_name, ["a", "b/c"]);
    }

    #[test]
    fn the_file_may_be_named_by_the_environment_and_the_flag_wins() {
        let (by_variable, by_flag) = (file("port = 1"), file("port = 2"));
        let environment = environment(&[("POLYLORA_CONFIG", by_variable.path().to_str().expect("Unicode"))]);
        assert_eq!(load(None, &environment).expect("settings").port, 1);
        assert_eq!(load(Some(by_flag.path()), &environment).expect("settings").port, 2);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name_and_place() {
        let file = file("port = 1\nprot = 2\n");
        let message = said(Some(file.path()), &[]);
        assert!(message.starts_with(&format!("{}, line 2: ", file.path().display())), "{message}");
        assert!(message.contains("unknown field `prot`") && message.contains("`port`"), "{message}");
        let message = said(None, &[("POLYLORA__PROT", "2")]);
        assert!(
            message.starts_with("environment variable POLYLORA__PROT: unknown field `prot`"),
            "{message}"
        );
    }

    #[test]
    fn a_bad_value_is_refused_with_key_found_and_expected() {
        let file = file("host = \"::1\"\n\nport = 70000\n");
        let message = said(Some(file.path()), &[]);
        assert!(message.contains("line 3: `port`: found `70000`, expected a port number"), "{message}");
        let message = said(None, &[("POLYLORA__MAX_BATCH_TOKENS", "many")]);
        assert_eq!(
            message,
            "environment variable POLYLORA__MAX_BATCH_TOKENS: found `many`, expected a whole number from 1"
        );
    }

    #[test]
    fn a_file_that_is_no_toml_or_not_there_is_said_in_one_line() {
        let broken = file("port = = 1");
        let message = said(Some(broken.path()), &[]);
        assert!(message.contains("line 1") && !message.contains('\n'), "{message}");
        let message = said(Some(Path::new("/nowhere/polylora.toml")), &[]);
        assert!(message.contains("/nowhere/polylora.toml"), "{message}");
    }

    #[test]
    fn a_bad_key_is_refused_without_showing_it() {
        let message = said(None, &[("POLYLORA__API_KEY", "tab\there")]);
        assert!(message.contains("POLYLORA__API_KEY") && !message.contains("here"), "{message}");
        assert!(said(None, &[("POLYLORA__API_KEY", "")]).contains("not empty"));
    }

    #[test]
    fn every_key_of_the_environment_can_be_set() {
        let file = file(
            r#"
            host = "::1"
            port = 0
            embedding_model = "models/mini"
            adapters_dir = "adapters"
            strict_adapters = true
            served_model_name = "one"
            device = "cpu"
            dtype = "bfloat16"
            threads = 2
            max_client_batch_size = 3
            max_concurrent_requests = 4
            max_batch_tokens = 5
            mode = "pooled"
            pool_size = 2
            batching = "per-domain"
            tick_ms = 0
            embedding_cache_bytes = "1MiB"
            kernel_cache_dir = "kernels"
            skip_warmup = true
            auto_truncate = false
            api_key = "k"
            api_key_file = "keys"
            public_metrics = true
            tls_cert = "cert.pem"
            tls_key = "key.pem"
            allowed_origins = "https://a.example, http://localhost:3000"
            max_input_chars = 7
            max_connections = 8
            connection_backlog = 9
            header_read_timeout = 0.5
            body_read_timeout = 10
            idle_timeout = "11.5"
            lora_memory = 1024
            host_cache_bytes = "1GB"
            state_dir = "state"
            watch = true
            lora_resolver = "more"
            max_loras = 2
            max_cpu_loras = 3
            max_lora_rank = 64
            warmup = "top:3"
            on_adapter_error = "base"
            admin_api_key = "root"
            allow_runtime_lora_updating = true
            ab_header = "x-user"
            adapter_check_interval = 5
            auto_rollback_factor = 1.5
            auto_rollback_window = 60
            llm = "models/speaker"
            max_model_len = 9
            kv_cache_memory_bytes = "1MiB"
            gpu_memory_utilization = 0.5
            block_size = 10
            max_num_seqs = 11
            max_num_batched_tokens = 12
            no_enable_prefix_caching = true
            payload_limit = "1kB"
            shutdown_timeout = 6
            otlp_traces_endpoint = "http://localhost:4318"
            log_format = "json"
            log_level = "debug"
            "#,
        );
        let settings = load(Some(file.path()), &Environment::default()).expect("settings");
        let table: Table = std::fs::read_to_string(file.path()).expect("text").parse().expect("TOML");
        let variables = table.iter().map(|(key, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (format!("{ENVIRONMENT_PREFIX}{}", key.to_ascii_uppercase()), text)
        });
        let environment = Environment::from_variables(variables).expect("Unicode");
        assert_eq!(load(None, &environment).expect("settings"), settings);
    }
}
