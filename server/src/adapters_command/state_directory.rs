//! Actions on the registry of a server that does not run.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use polylora_registry::{AdapterName, Change, Event, REGISTRY_FILE, RegistryStore, Usage, VersionId};
use serde_json::json;

use super::registry_view::RegistryView;
use super::{AdaptersCommandError, Answer, files};
use crate::cli::AdaptersAction;
use crate::wire::adapter_entry::AdapterEntry;

/// What answers come from, for errors.
const ASKED: &str = "the state directory";

/// The registry in a state directory, held open so that no server starts on it meanwhile.
pub struct StateDirectory {
    store: RegistryStore,
    usage: BTreeMap<VersionId, Usage>,
}

impl StateDirectory {
    /// Opens the registry under `path`.
    ///
    /// # Errors
    /// [`AdaptersCommandError`] when there is none, a server has it open, or it cannot be read.
    pub fn open(path: &Path) -> Result<Self, AdaptersCommandError> {
        // A slip in a path must not make a new one.
        if !path.join(REGISTRY_FILE).is_file() {
            return Err(AdaptersCommandError::NoState { path: path.to_owned(), file: REGISTRY_FILE });
        }
        let (store, usage) = RegistryStore::open(path)?;
        Ok(Self { store, usage })
    }

    /// Does what is asked.
    ///
    /// # Errors
    /// [`AdaptersCommandError`]; nothing has changed then.
    pub fn answer(&self, action: &AdaptersAction) -> Result<Answer, AdaptersCommandError> {
        match action.clone() {
            AdaptersAction::List { all } => Ok(self.view(|view| Answer::list(ASKED, &view.list(all)))),
            AdaptersAction::Show { adapter } => self.view(|view| {
                let version = view.found(&adapter)?;
                let mut shown = json!(view.entry(version));
                shown["versions"] = json!(view.entries_of(version.name.as_str()));
                Ok(Answer::new(ASKED, shown))
            }),
            AdaptersAction::Register(_) => Err(AdaptersCommandError::NeedsServer),
            AdaptersAction::Promote { name, version, expect } => {
                self.change(Change::Promote { name: name.clone(), version, expect: expect.digest })?;
                self.main_entry(&name)
            }
            AdaptersAction::Rollback { name, expect } => {
                self.change(Change::Rollback { name: name.clone(), expect: expect.digest })?;
                self.main_entry(&name)
            }
            AdaptersAction::Ab { name, candidate: Some(candidate), percent: Some(share), end: _, expect } => {
                let (of, expect) = (name.clone(), expect.digest);
                self.change(Change::Split { name: of, candidate: candidate.clone(), share, expect })?;
                self.view(|view| {
                    let tried = view.selected(name.as_str(), &candidate)?;
                    Ok(Answer::new(ASKED, json!(view.entry(tried))))
                })
            }
            AdaptersAction::Ab { name, expect, .. } => {
                self.change(Change::EndSplit { name: name.clone(), expect: expect.digest })?;
                self.main_entry(&name)
            }
            AdaptersAction::Pin { name, off } => {
                self.change(Change::Pin { name: name.clone(), is_pinned: !off })?;
                self.main_entry(&name)
            }
            AdaptersAction::Verify { adapter } => self.view(|view| {
                let versions = view.to_be_checked(adapter.as_ref())?;
                let reports = versions.into_iter().map(|version| json!(files::check(version)));
                Answer::of_health(ASKED, reports.collect())
            }),
            AdaptersAction::Retire { name, version, expect } => {
                self.change(Change::Retire { name: name.clone(), version, expect: expect.digest })?;
                Ok(self.view(|view| Answer::list(ASKED, &view.entries_of(name.as_str()))))
            }
            AdaptersAction::Delete { name, version, yes: _, expect } => {
                let before = self.view(|view| view.entries_of(name.as_str()));
                // As when a server is asked: what is deleted does not come back by itself at its next start.
                let delete = Change::Delete { name, version, is_buried: true, expect: expect.digest };
                let events = self.change(delete)?;
                let is_gone = |entry: &AdapterEntry| {
                    events.iter().any(|event| matches!(event, Event::Deleted { id, .. } if id.0 == entry.id))
                };
                let deleted: Vec<_> = before.into_iter().filter(is_gone).collect();
                Ok(Answer::new(ASKED, json!({ "deleted": deleted })))
            }
        }
    }

    fn change(&self, change: Change) -> Result<Vec<Event>, AdaptersCommandError> {
        Ok(self.store.change(change, SystemTime::now().into())?)
    }

    /// What `read` makes of the registry.
    fn view<T>(&self, read: impl FnOnce(RegistryView<'_>) -> T) -> T {
        read(RegistryView { registry: &self.store.read(), usage: &self.usage })
    }

    /// What is active under a name now, else its newest version.
    fn main_entry(&self, name: &AdapterName) -> Result<Answer, AdaptersCommandError> {
        self.view(|view| Ok(Answer::new(ASKED, json!(view.entry(view.main_version(name.as_str())?)))))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use polylora_registry::{BasisPoints, ChangeError, Digest, Selector, StateError, StoreError};
    use tempfile::TempDir;

    use super::*;
    use crate::adapters_command::fakes::register;
    use crate::adapters_command::{AdapterRef, render};
    use crate::cli::{ActivateChoice, ExpectFlag, RegisterFlags};
    use crate::settings::parse_setting;

    /// Versions 1.0.0 (active) and 1.0.1 of `law`, and 1.0.0 of `tax`, in a closed state directory.
    fn directory() -> TempDir {
        let directory = tempfile::tempdir().expect("a folder");
        let (store, _) = RegistryStore::open(&directory.path().join("state")).expect("a new state");
        for (name, content) in [("law", 1), ("law", 2), ("tax", 3)] {
            register(&store, name, content, &directory.path().join(content.to_string()));
        }
        directory
    }

    fn open(directory: &TempDir) -> Result<StateDirectory, AdaptersCommandError> {
        StateDirectory::open(&directory.path().join("state"))
    }

    /// What one run of the command gives.
    fn done(directory: &TempDir, action: AdaptersAction) -> Result<Answer, AdaptersCommandError> {
        open(directory)?.answer(&action)
    }

    fn said(directory: &TempDir, action: AdaptersAction) -> String {
        let answer = done(directory, action.clone()).expect("done");
        render::text(&action, &answer).expect("an answer as the API has it")
    }

    fn name(text: &str) -> AdapterName {
        AdapterName::new(text).expect("a name")
    }

    fn version(text: &str) -> Option<Selector> {
        Some(Selector::parse(text).expect("a version"))
    }

    fn adapter(text: &str) -> AdapterRef {
        parse_setting(text).expect("an adapter")
    }

    fn promote(text: &str, expect: Option<Digest>) -> AdaptersAction {
        AdaptersAction::Promote {
            name: name("law"),
            version: version(text),
            expect: ExpectFlag { digest: expect },
        }
    }

    fn tags(answer: &Answer, key: &str) -> Vec<String> {
        answer.entries(key).expect("versions").into_iter().map(|entry| entry.tag).collect()
    }

    #[test]
    fn a_list_has_one_line_a_name_or_all_versions() {
        let directory = directory();
        let listed = |all| tags(&done(&directory, AdaptersAction::List { all }).expect("a list"), "adapters");
        assert_eq!(listed(false), ["law@1.0.0#01010101", "tax@1.0.0#03030303"]);
        assert_eq!(listed(true), ["law@1.0.0#01010101", "law@1.0.1#02020202", "tax@1.0.0#03030303"]);
    }

    #[test]
    fn an_adapter_is_shown_by_name_by_version_and_by_number() {
        let directory = directory();
        for (text, id) in [("law", 1), ("law@1.0.1", 2), ("law@#02020202", 2), ("3", 3)] {
            let shown = done(&directory, AdaptersAction::Show { adapter: adapter(text) }).expect(text);
            assert_eq!(shown.entry().expect("an entry").id, id, "{text}");
            assert_eq!(tags(&shown, "versions").len(), if id == 3 { 1 } else { 2 });
        }
        let error = |text| done(&directory, AdaptersAction::Show { adapter: adapter(text) }).expect_err(text);
        assert_eq!(error("lew").to_string(), "no adapter is registered under the name \"lew\"");
        assert_eq!(error("lew@1.0.0").to_string(), "no adapter is registered under the name \"lew\"");
        assert_eq!(
            error("law@2.0.0").to_string(),
            "adapter \"law\" has no version 2.0.0; it has 1.0.0, 1.0.1"
        );
        assert_eq!(error("9").to_string(), "no version has the number 9");
    }

    #[test]
    fn what_is_promoted_answers_after_the_directory_is_opened_again() {
        let directory = directory();
        assert_eq!(said(&directory, promote("1.0.1", None)), "law@1.0.1#02020202 answers from now on");
        let rollback = AdaptersAction::Rollback { name: name("law"), expect: ExpectFlag::default() };
        assert_eq!(said(&directory, rollback), "law@1.0.0#01010101 answers from now on");
    }

    #[test]
    fn a_change_that_expects_another_active_version_is_refused() {
        let directory = directory();
        let conflict = done(&directory, promote("1.0.1", Some(Digest([2; 32])))).expect_err("refused");
        assert!(matches!(
            conflict,
            AdaptersCommandError::Store(StoreError::Refused(ChangeError::Conflict { .. }))
        ));
        assert!(done(&directory, promote("1.0.1", Some(Digest([1; 32])))).is_ok());
    }

    #[test]
    fn an_ab_test_begins_and_ends() {
        let directory = directory();
        let ab = |candidate: Option<Selector>, end| AdaptersAction::Ab {
            name: name("law"),
            percent: candidate.as_ref().and_then(|_| BasisPoints::from_percent(12.5)),
            candidate,
            end,
            expect: ExpectFlag::default(),
        };
        assert_eq!(
            said(&directory, ab(version("1.0.1"), false)),
            "law@1.0.1#02020202 answers 12.5 % of the requests for law"
        );
        let listed = done(&directory, AdaptersAction::List { all: true }).expect("a list");
        let shares: Vec<_> =
            listed.entries("adapters").expect("versions").into_iter().map(|entry| entry.ab_percent).collect();
        assert_eq!(shares, [None, Some(12.5), None]);
        assert_eq!(said(&directory, ab(None, true)), "law@1.0.0#01010101 answers all requests for law");
    }

    #[test]
    fn pins_stay() {
        let directory = directory();
        let pin = |off| AdaptersAction::Pin { name: name("law"), off };
        assert_eq!(said(&directory, pin(false)), "law is pinned");
        let shown = done(&directory, AdaptersAction::Show { adapter: adapter("law") }).expect("shown");
        assert!(shown.entry().expect("an entry").pinned);
        assert_eq!(said(&directory, pin(true)), "law is not pinned");
    }

    #[test]
    fn what_is_in_service_is_neither_retired_nor_deleted_alone_but_with_its_name() {
        let directory = directory();
        let retire =
            |version| AdaptersAction::Retire { name: name("law"), version, expect: ExpectFlag::default() };
        let delete = |version| AdaptersAction::Delete {
            name: name("law"),
            version,
            yes: true,
            expect: ExpectFlag::default(),
        };
        for action in [retire(version("1.0.0")), delete(version("1.0.0"))] {
            let error = done(&directory, action).expect_err("refused").to_string();
            assert!(error.contains("is in service"), "{error}");
        }
        let retired = done(&directory, retire(version("1.0.1"))).expect("retired");
        let statuses: Vec<_> =
            retired.entries("adapters").expect("versions").into_iter().map(|entry| entry.status).collect();
        assert_eq!(statuses, ["registered", "retired"]);
        assert_eq!(said(&directory, delete(version("1.0.1"))), "deleted law@1.0.1#02020202\n");
        assert_eq!(said(&directory, delete(None)), "deleted law@1.0.0#01010101\n");
        let left = done(&directory, AdaptersAction::List { all: true }).expect("a list");
        assert_eq!(tags(&left, "adapters"), ["tax@1.0.0#03030303"]);
    }

    #[test]
    fn files_are_compared_with_their_stamps_unless_they_are_retired() {
        let directory = directory();
        let verify = |text: Option<&str>| {
            let answer =
                done(&directory, AdaptersAction::Verify { adapter: text.map(adapter) }).expect("checked");
            let health = answer.health().expect("health");
            assert_eq!(answer.verdict().is_ok(), health.healthy);
            health.adapters.into_iter().map(|adapter| (adapter.tag, adapter.healthy)).collect::<Vec<_>>()
        };
        let tag = |text: &str, healthy| (text.to_owned(), healthy);
        assert_eq!(verify(None).iter().filter(|(_, healthy)| *healthy).count(), 3);
        fs::remove_dir_all(directory.path().join("2")).expect("removed");
        assert_eq!(verify(Some("law")), [tag("law@1.0.0#01010101", true), tag("law@1.0.1#02020202", false)]);
        assert_eq!(verify(Some("law@1.0.0")), [tag("law@1.0.0#01010101", true)]);
        let version = version("1.0.1");
        let retire = AdaptersAction::Retire { name: name("law"), version, expect: ExpectFlag::default() };
        done(&directory, retire).expect("retired");
        assert_eq!(verify(Some("law")), [tag("law@1.0.0#01010101", true)]);
        assert_eq!(verify(Some("2")), [tag("law@1.0.1#02020202", false)], "who asks for it is told");
    }

    #[test]
    fn a_directory_that_a_server_has_open_is_left_alone() {
        let directory = directory();
        let _server = open(&directory).expect("open");
        let error = open(&directory).err().expect("in use");
        assert!(matches!(error, AdaptersCommandError::State(StateError::InUse { .. })), "{error}");
    }

    #[test]
    fn a_slip_in_the_path_makes_no_state_directory() {
        let folder = tempfile::tempdir().expect("a folder");
        for path in [folder.path().to_owned(), folder.path().join("missing")] {
            let error = StateDirectory::open(&path).err().expect("no state");
            assert!(matches!(error, AdaptersCommandError::NoState { .. }), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn registering_needs_a_server() {
        let flags = RegisterFlags {
            name: name("law"),
            path: Some("law".into()),
            parts: vec![],
            version: None,
            domain: vec![],
            task_type: None,
            activate: ActivateChoice::Now,
        };
        let error = done(&directory(), AdaptersAction::Register(flags)).expect_err("refused");
        assert!(error.is_usage() && error.to_string().contains("running server"), "{error}");
    }
}
