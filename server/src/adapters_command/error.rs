//! Why a command on adapters did not succeed.

use std::io;
use std::path::PathBuf;

use polylora_registry::{StateError, StoreError, VersionId};

use super::display::plain;

/// Why a command on adapters did not succeed. Texts that came from elsewhere are shown without control characters.
#[derive(Debug, thiserror::Error)]
pub enum AdaptersCommandError {
    /// A server and a directory at once.
    #[error(
        "--url and --state-dir exclude each other: a server that runs, or the directory of one that does not"
    )]
    TwoPlaces,
    /// The text is no address of a server.
    #[error("found `{}` as the server's address (--url, POLYLORA_URL), expected {expected}", plain(found))]
    Url {
        /// What was found.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The variable holds no key. The value itself may be a secret and is not shown.
    #[error("environment variable {variable}: expected a key of visible ASCII characters")]
    Key {
        /// Name of the variable.
        variable: &'static str,
    },
    /// Only a server can do it.
    #[error(
        "registering needs a running server, which alone can check an adapter against the base model: give --url \
         instead of --state-dir, or put the adapter into the server's folder of adapters before it starts"
    )]
    NeedsServer,
    /// Nobody could be asked.
    #[error("deleting cannot be undone, and standard input is no terminal to ask on: give --yes")]
    NotAsked,
    /// Somebody said no.
    #[error("nothing was deleted")]
    Declined,
    /// The directory has no state.
    #[error("{} is no state directory: there is no {file} in it", path.display())]
    NoState {
        /// The directory.
        path: PathBuf,
        /// The file that makes it one.
        file: &'static str,
    },
    /// The state cannot be opened.
    #[error(transparent)]
    State(#[from] StateError),
    /// The change is refused, or cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody has the name.
    #[error("no adapter is registered under the name {name:?}")]
    UnknownName {
        /// As it was asked for.
        name: String,
    },
    /// The name has no such version.
    #[error("adapter {name:?} has no version {version}; it has {known}")]
    UnknownVersion {
        /// The name.
        name: String,
        /// As it was asked for.
        version: String,
        /// The versions that there are.
        known: String,
    },
    /// No version has the number.
    #[error("no version has the number {id}")]
    UnknownId {
        /// The number.
        id: VersionId,
    },
    /// No reply came.
    #[error("the server at {url} cannot be asked (--url, POLYLORA_URL)")]
    Unreachable {
        /// Its address.
        url: String,
        /// What went wrong.
        source: Box<ureq::Error>,
    },
    /// The server says no.
    #[error("the server refuses with {status}: {}{}", plain(message), hint(*status, code.as_deref()))]
    Refused {
        /// The status of its reply.
        status: u16,
        /// The error's code.
        code: Option<String>,
        /// What it says.
        message: String,
    },
    /// The reply is not what the API has.
    #[error("the reply to {request} is unexpected: {}", plain(reason))]
    Unexpected {
        /// What was asked.
        request: String,
        /// What was found and expected.
        reason: String,
    },
    /// Something was checked and is not well.
    #[error("{ill} of {checked} versions {} not healthy", if *ill == 1 { "is" } else { "are" })]
    Unhealthy {
        /// Versions that are not well.
        ill: usize,
        /// Versions that were looked at.
        checked: usize,
    },
    /// The question could not be asked or the reply to it not read.
    #[error("the terminal cannot be asked")]
    Ask(#[source] io::Error),
    /// Standard output cannot be written.
    #[error("standard output cannot be written")]
    Write(#[source] io::Error),
}

impl AdaptersCommandError {
    /// Whether something was asked for that cannot be.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::TwoPlaces | Self::Url { .. } | Self::Key { .. } | Self::NeedsServer | Self::NotAsked
        )
    }
}

/// What the caller can do about it, where the server cannot know the flags of this program.
fn hint(status: u16, code: Option<&str>) -> &'static str {
    match (status, code) {
        (401, _) => {
            " (keys are read from POLYLORA__API_KEY, --api-key, and for changes POLYLORA__ADMIN_API_KEY, --admin-api-key)"
        }
        (403, Some("admin_off")) => " (start it with an admin key: POLYLORA__ADMIN_API_KEY, --admin-api-key)",
        (409, Some("conflict")) => " (`polylora adapters show` tells what is active)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_reaches_the_terminal_without_control_characters() {
        let error = AdaptersCommandError::Refused {
            status: 400,
            code: None,
            message: "a\u{1b}[31mred\u{9b}0m\nline".into(),
        };
        assert_eq!(error.to_string(), "the server refuses with 400: a\\u{1b}[31mred\\u{9b}0m\\nline");
        let request = "GET /x".into();
        let error = AdaptersCommandError::Unexpected { request, reason: "\u{7}".into() };
        assert_eq!(error.to_string(), "the reply to GET /x is unexpected: \\u{7}");
    }

    #[test]
    fn a_missing_key_is_told_with_where_keys_come_from() {
        let error = AdaptersCommandError::Refused { status: 401, code: None, message: "no".into() };
        assert!(error.to_string().contains("POLYLORA__ADMIN_API_KEY"));
        assert!(!error.is_usage());
    }

    #[test]
    fn one_is_and_two_are() {
        let said = |ill| AdaptersCommandError::Unhealthy { ill, checked: 3 }.to_string();
        assert_eq!(said(1), "1 of 3 versions is not healthy");
        assert_eq!(said(2), "2 of 3 versions are not healthy");
    }
}
