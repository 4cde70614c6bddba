//! Answers as people read them.

use super::display::{percent, plain};
use super::tables::{described, health, versions};
use super::{AdaptersCommandError, Answer, Entry};
use crate::cli::AdaptersAction;

/// What came of `action`, in words.
///
/// # Errors
/// [`AdaptersCommandError::Unexpected`] when the answer is not as the API has it.
pub fn text(action: &AdaptersAction, answer: &Answer) -> Result<String, AdaptersCommandError> {
    Ok(match action {
        AdaptersAction::List { .. } | AdaptersAction::Retire { .. } => versions(&answer.entries("adapters")?),
        AdaptersAction::Show { .. } => {
            let entry = answer.entry()?;
            format!("{}\n\n{}", described(&entry), versions(&answer.entries("versions")?))
        }
        AdaptersAction::Register(_) => registered(&answer.entry()?),
        AdaptersAction::Promote { .. } | AdaptersAction::Rollback { .. } => {
            let entry = answer.entry()?;
            format!("{} answers from now on", plain(&entry.tag))
        }
        AdaptersAction::Ab { .. } => tried(&answer.entry()?),
        AdaptersAction::Pin { .. } => {
            let entry = answer.entry()?;
            let state = if entry.pinned { "is pinned" } else { "is not pinned" };
            format!("{} {state}", plain(&entry.adapter_id))
        }
        AdaptersAction::Verify { .. } => health(&answer.health()?),
        AdaptersAction::Delete { .. } => {
            let tags = answer.entries("deleted")?;
            tags.iter().map(|entry| format!("deleted {}\n", plain(&entry.tag))).collect()
        }
    })
}

fn registered(entry: &Entry) -> String {
    let (tag, name, version) = (plain(&entry.tag), plain(&entry.adapter_id), plain(&entry.adapter_version));
    match entry.active {
        true => format!("registered {tag}, which answers from now on"),
        false => format!("registered {tag}; `polylora adapters promote {name} {version}` has it answer"),
    }
}

fn tried(entry: &Entry) -> String {
    let (tag, name) = (plain(&entry.tag), plain(&entry.adapter_id));
    match (entry.ab_percent, entry.active) {
        (Some(_), _) => format!("{tag} answers {} of the requests for {name}", percent(entry.ab_percent)),
        (None, true) => format!("{tag} answers all requests for {name}"),
        (None, false) => format!("{name} has no A/B test, and no version that answers"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::adapters_command::fakes::entry;

    #[test]
    fn whoever_registers_is_told_whether_it_answers() {
        assert_eq!(
            registered(&Entry { active: true, ..entry("law", 1) }),
            "registered law@1.1.0#abababab, which answers from now on"
        );
        assert_eq!(
            registered(&entry("law", 1)),
            "registered law@1.1.0#abababab; `polylora adapters promote law 1.1.0` has it answer"
        );
    }

    #[test]
    fn a_test_that_cannot_be_ended_is_no_error() {
        assert_eq!(tried(&entry("law", 1)), "law has no A/B test, and no version that answers");
    }

    #[test]
    fn all_that_was_deleted_is_told() {
        let action = AdaptersAction::Delete {
            name: polylora_registry::AdapterName::new("law").expect("a name"),
            version: None,
            yes: true,
            expect: Default::default(),
        };
        let answer = Answer::new("DELETE /x", json!({ "deleted": [entry("law", 1), entry("law", 2)] }));
        let told = text(&action, &answer).expect("an answer as the API has it");
        assert_eq!(told, "deleted law@1.1.0#abababab\ndeleted law@1.2.0#abababab\n");
        assert!(text(&action, &Answer::new("DELETE /x", json!({}))).is_err());
    }

    #[test]
    fn nothing_that_a_server_says_commands_the_terminal() {
        let odd = "a\u{1b}]0;x\u{7}\u{9b}b\nc\u{202e}";
        let mut entry = entry(odd, 1);
        (entry.adapter_version, entry.tag) = (odd.into(), odd.into());
        for text in [registered(&entry), tried(&entry)] {
            assert!(!text.contains(['\u{1b}', '\u{7}', '\u{9b}', '\n', '\u{202e}']), "{text:?}");
        }
    }
}
