//! Asks before something is deleted.

use std::io::{BufRead, Write};

use super::AdaptersCommandError;
use crate::cli::AdaptersAction;

/// What is to be asked before the action; nothing for one that can be undone, or that was confirmed by a flag.
pub fn question(action: &AdaptersAction) -> Option<String> {
    match action {
        AdaptersAction::Delete { name, version, yes: false, .. } => Some(match version {
            Some(version) => format!("Delete version {version} of {name}?"),
            None => format!("Delete {name} and all its versions?"),
        }),
        _ => None,
    }
}

/// Asks on a terminal.
///
/// # Errors
/// [`AdaptersCommandError::NotAsked`] without one, [`AdaptersCommandError::Declined`] unless the reply is yes.
pub fn ask(
    question: &str,
    is_terminal: bool,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<(), AdaptersCommandError> {
    if !is_terminal {
        return Err(AdaptersCommandError::NotAsked);
    }
    write!(output, "{question} [y/N] ").and_then(|()| output.flush()).map_err(AdaptersCommandError::Ask)?;
    let mut reply = String::new();
    input.read_line(&mut reply).map_err(AdaptersCommandError::Ask)?;
    match reply.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(AdaptersCommandError::Declined),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ExpectFlag;

    fn asked(reply: &str) -> (Result<(), AdaptersCommandError>, String) {
        let mut shown = vec![];
        let result = ask("Delete law?", true, &mut reply.as_bytes(), &mut shown);
        (result, String::from_utf8(shown).expect("text"))
    }

    #[test]
    fn only_yes_is_yes() {
        for yes in ["y\n", "YES\n", " y"] {
            assert!(asked(yes).0.is_ok(), "{yes}");
        }
        for no in ["", "\n", "n\n", "yess\n"] {
            assert!(matches!(asked(no).0, Err(AdaptersCommandError::Declined)), "{no}");
        }
        assert_eq!(asked("").1, "Delete law? [y/N] ");
        assert!(matches!(
            ask("?", true, &mut &b"\xff\n"[..], &mut vec![]),
            Err(AdaptersCommandError::Ask(_))
        ));
    }

    #[test]
    fn without_a_terminal_nothing_is_asked_or_done() {
        let mut shown = vec![];
        let result = ask("?", false, &mut &b"y\n"[..], &mut shown);
        assert!(result.is_err_and(|error| error.is_usage()) && shown.is_empty());
    }

    #[test]
    fn deleting_is_asked_about_unless_it_was_confirmed() {
        let name = polylora_registry::AdapterName::new("law").expect("a name");
        let version = polylora_registry::Selector::parse("1.0.0");
        let delete = |version, yes| AdaptersAction::Delete {
            name: name.clone(),
            version,
            yes,
            expect: ExpectFlag::default(),
        };
        assert_eq!(question(&delete(None, false)).as_deref(), Some("Delete law and all its versions?"));
        assert_eq!(question(&delete(version, false)).as_deref(), Some("Delete version 1.0.0 of law?"));
        assert_eq!(question(&delete(None, true)), None);
        assert_eq!(question(&AdaptersAction::List { all: false }), None);
    }
}
