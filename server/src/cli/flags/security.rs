//! Flags that say who may call the server, and how privately.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::{put, put_some};
use crate::settings::{ApiKey, Origins, Settings, parse_setting};

/// Keys, TLS and origins.
#[derive(Debug, Default, Args)]
pub struct SecurityFlags {
    /// Keys of which clients must send one as `Authorization: Bearer KEY`. Other users of the machine can read a flag:
    /// rather set POLYLORA__API_KEY, or use --api-key-file.
    #[arg(
        long, value_name = "KEY", num_args = 1.., action = ArgAction::Append, value_parser = parse_setting::<ApiKey>
    )]
    pub api_key: Vec<ApiKey>,
    /// File with further keys, one a line; `#` begins a comment. Read again on SIGHUP.
    #[arg(long, value_name = "FILE", value_parser = parse_setting::<PathBuf>)]
    pub api_key_file: Option<PathBuf>,
    /// Let /metrics be read without a key.
    #[arg(long)]
    pub public_metrics: bool,
    /// PEM file with the certificate and its chain: connections are then TLS, with --tls-key.
    #[arg(long, alias = "ssl-certfile", value_name = "FILE", value_parser = parse_setting::<PathBuf>)]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key.
    #[arg(long, alias = "ssl-keyfile", value_name = "FILE", value_parser = parse_setting::<PathBuf>)]
    pub tls_key: Option<PathBuf>,
    /// Origins whose pages may call the server from a browser (CORS), or `*` [default: none].
    #[arg(
        long, value_name = "ORIGIN", num_args = 1.., action = ArgAction::Append, value_parser = parse_setting::<Origins>
    )]
    pub allowed_origins: Vec<Origins>,
}

impl SecurityFlags {
    /// Lays the flags that were given over the settings.
    pub fn lay_over(self, settings: &mut Settings) {
        put(&mut settings.api_key, (!self.api_key.is_empty()).then_some(self.api_key));
        put_some(&mut settings.api_key_file, self.api_key_file);
        put(&mut settings.public_metrics, self.public_metrics.then_some(true));
        put_some(&mut settings.tls_cert, self.tls_cert);
        put_some(&mut settings.tls_key, self.tls_key);
        let origins: Vec<_> = self.allowed_origins.into_iter().flat_map(|Origins(list)| list).collect();
        put(&mut settings.allowed_origins, (!origins.is_empty()).then_some(origins));
    }
}
