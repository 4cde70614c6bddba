//! Flags that bound what clients may take up.

use std::num::NonZeroUsize;

use clap::Args;

use super::put;
use crate::settings::{Settings, Timeout, parse_setting};

/// Bounds on texts, connections and time.
#[derive(Debug, Default, Args)]
pub struct LimitFlags {
    /// Most characters in one text; longer ones are refused before they are tokenised [default: 200000].
    #[arg(long, value_name = "N", value_parser = parse_setting::<NonZeroUsize>)]
    pub max_input_chars: Option<NonZeroUsize>,
    /// Most open connections; more are answered 429 and closed [default: 4096].
    #[arg(long, value_name = "N", value_parser = parse_setting::<NonZeroUsize>)]
    pub max_connections: Option<NonZeroUsize>,
    /// Most connections that wait in the system to be accepted [default: 1024].
    #[arg(long, value_name = "N", value_parser = parse_setting::<NonZeroUsize>)]
    pub connection_backlog: Option<NonZeroUsize>,
    /// Seconds that a client has to send a request's head, or to shake hands over TLS [default: 10].
    #[arg(long, value_name = "SECS", value_parser = parse_setting::<Timeout>)]
    pub header_read_timeout: Option<Timeout>,
    /// Seconds that a client has to send a request's body; then it is answered 408 [default: 30].
    #[arg(long, value_name = "SECS", value_parser = parse_setting::<Timeout>)]
    pub body_read_timeout: Option<Timeout>,
    /// Seconds that a connection stays open without a request, or with a reply that its client does not read
    /// [default: 75].
    #[arg(long, value_name = "SECS", value_parser = parse_setting::<Timeout>)]
    pub idle_timeout: Option<Timeout>,
}

impl LimitFlags {
    /// Lays the flags that were given over the settings.
    pub fn lay_over(self, settings: &mut Settings) {
        put(&mut settings.max_input_chars, self.max_input_chars);
        put(&mut settings.max_connections, self.max_connections);
        put(&mut settings.connection_backlog, self.connection_backlog);
        put(&mut settings.header_read_timeout, self.header_read_timeout);
        put(&mut settings.body_read_timeout, self.body_read_timeout);
        put(&mut settings.idle_timeout, self.idle_timeout);
    }
}
