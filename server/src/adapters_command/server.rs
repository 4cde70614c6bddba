//! Actions through the API of a server that runs.

use std::path::{Component, Path, absolute};

use serde::Serialize;
use serde_json::{Value, json};

use super::client::{Client, asked, encoded};
use super::{AdapterRef, AdaptersCommandError, Answer, Part, ServerPlace};
use crate::cli::{AdaptersAction, ExpectFlag, RegisterFlags};
use crate::wire::adapter_entry::as_written;

/// A server that runs.
pub struct Server(Client);

impl Server {
    /// The server at `place`; nothing is sent yet.
    pub fn new(place: ServerPlace) -> Self {
        Self(Client::new(place))
    }

    /// Asks the server.
    ///
    /// # Errors
    /// [`AdaptersCommandError`] when it cannot be asked, refuses, or answers what the API does not have.
    pub fn answer(&self, action: &AdaptersAction) -> Result<Answer, AdaptersCommandError> {
        let expected =
            |ExpectFlag { digest }: &ExpectFlag| ("expected_digest", digest.map(|digest| digest.to_hex()));
        match action {
            AdaptersAction::List { all: false } => self.0.get("registry"),
            AdaptersAction::List { all: true } => self.0.get("registry?versions=all"),
            AdaptersAction::Show { adapter } => self.0.get(&of(adapter, "metadata")),
            AdaptersAction::Register(flags) => self.0.post("register", registration(flags)),
            AdaptersAction::Promote { name, version, expect } => {
                let version = ("version", version.as_ref().map(ToString::to_string));
                self.0.post(&of(name, "promote"), texts([version, expected(expect)]))
            }
            AdaptersAction::Rollback { name, expect } => {
                self.0.post(&of(name, "rollback"), texts([expected(expect)]))
            }
            AdaptersAction::Ab {
                name,
                candidate: Some(candidate),
                percent: Some(percent),
                end: _,
                expect,
            } => {
                let mut body = texts([("candidate", Some(candidate.to_string())), expected(expect)]);
                body["percent"] = json!(percent.percent());
                self.0.post(&of(name, "ab"), body)
            }
            AdaptersAction::Ab { name, expect, .. } => {
                self.0.delete(&of(name, "ab"), [("version", None), expected(expect)])
            }
            AdaptersAction::Pin { name, off } => self.0.post(&of(name, "pin"), json!({ "pinned": !off })),
            AdaptersAction::Verify { adapter } => self.verify(adapter.as_ref()),
            AdaptersAction::Retire { name, version, expect } => {
                let version = ("version", version.as_ref().map(ToString::to_string));
                self.0.post(&of(name, "retire"), texts([version, expected(expect)]))
            }
            AdaptersAction::Delete { name, version, yes: _, expect } => {
                let version = ("version", version.as_ref().map(ToString::to_string));
                self.0.delete(&encoded(name.as_str()), [version, expected(expect)])
            }
        }
    }

    /// Has one version checked, or all of a name, or all there are, unless they are retired.
    fn verify(&self, adapter: Option<&AdapterRef>) -> Result<Answer, AdaptersCommandError> {
        let listed = match adapter {
            Some(adapter) if adapter.split().is_some() || adapter.number().is_some() => {
                let path = of(adapter, "health");
                return Answer::of_health(&asked("GET", &path), vec![self.0.get(&path)?.into_value()]);
            }
            Some(adapter) => self.0.get(&of(adapter, "versions"))?,
            None => self.0.get("registry?versions=all")?,
        };
        let mut reports = vec![];
        for entry in listed.entries("adapters")?.iter().filter(|entry| entry.status != "retired") {
            let version = format!("{}@{}", entry.adapter_id, entry.adapter_version);
            reports.push(self.0.get(&of(&version, "health"))?.into_value());
        }
        Answer::of_health(&asked("GET", "…/health"), reports)
    }
}

/// What is sent to register.
fn registration(flags: &RegisterFlags) -> Value {
    let part =
        |part: &Part| json!({ "adapter_id": part.adapter.as_str(), "weight": as_written(part.weight) });
    let parts: Vec<Value> = flags.parts.iter().map(part).collect();
    let metadata = there([
        ("adapter_id", json!(flags.name)),
        ("adapter_version", json!(flags.version)),
        ("domains", some(&flags.domain)),
        ("task_type", json!(flags.task_type)),
        ("virtual_of", some(&parts)),
        (
            "custom_metadata",
            json!(flags.path.as_ref().map(|path| json!({ "adapter_path": from_here(path) }))),
        ),
    ]);
    json!({ "adapter_metadata": metadata, "activate": flags.activate.word() })
}

/// The list, unless it is empty.
fn some<T: Serialize>(items: &[T]) -> Value {
    if items.is_empty() { Value::Null } else { json!(items) }
}

/// A path that begins with a dot is meant from where the user is; another one the server reads by itself.
fn from_here(path: &str) -> String {
    let first = Path::new(path).components().next();
    let is_from_here = matches!(first, Some(Component::CurDir | Component::ParentDir));
    let made = is_from_here.then(|| absolute(path).ok()).flatten();
    made.as_deref().and_then(Path::to_str).unwrap_or(path).to_owned()
}

/// An object of the fields that are there.
fn there<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let there = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(there.map(|(key, value)| (key.to_owned(), value)).collect())
}

fn texts<const N: usize>(fields: [(&str, Option<String>); N]) -> Value {
    there(fields.map(|(key, text)| (key, json!(text))))
}

/// What is asked of an adapter.
fn of(adapter: &impl ToString, what: &str) -> String {
    format!("{}/{what}", encoded(&adapter.to_string()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::adapters_command::fakes::{FakeServer, Received, entry};
    use crate::adapters_command::{Place, render};
    use crate::cli::AdaptersFlags;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: AdaptersFlags,
    }

    /// What a command line comes to at a server with those replies: the text, and what was asked.
    fn told(line: &str, replies: Vec<Value>) -> (Result<String, AdaptersCommandError>, Vec<Received>) {
        let replies = replies.into_iter().map(|reply| ("200 OK", reply.to_string()));
        let server = FakeServer::start(replies.collect());
        let words = ["adapters", "--url", &server.url, "--api-key", "reader", "--admin-api-key", "writer"];
        let flags = Line::parse_from(words.into_iter().chain(line.split(' '))).flags;
        let Place::Server(place) = Place::read(flags.target, &|_| None).expect("a place") else {
            panic!("expected a server")
        };
        let answer = Server::new(place).answer(&flags.action);
        (answer.and_then(|answer| render::text(&flags.action, &answer)), server.received())
    }

    fn asked_for(line: &str, reply: Value) -> (String, Value) {
        let (text, mut received) = told(line, vec![reply]);
        text.expect("an answer");
        let Received { line, authorization, body } = received.remove(0);
        let key = if line.starts_with("GET") { "Bearer reader" } else { "Bearer writer" };
        assert_eq!(authorization.as_deref(), Some(key), "{line}");
        (line, body)
    }

    #[test]
    fn each_action_is_the_request_that_the_api_has() {
        let one = || json!(entry("law", 1));
        let list = || json!({ "adapters": [entry("law", 1)], "total": 1 });
        let mut shown = one();
        shown["versions"] = json!([entry("law", 1)]);
        let digest = "ab".repeat(32);
        for (line, reply, path, body) in [
            ("list", list(), "GET /api/adapters/registry", Value::Null),
            ("list --all", list(), "GET /api/adapters/registry?versions=all", Value::Null),
            ("show law", shown, "GET /api/adapters/law/metadata", Value::Null),
            ("promote law 1.2.0", one(), "POST /api/adapters/law/promote", json!({ "version": "1.2.0" })),
            ("promote law", one(), "POST /api/adapters/law/promote", json!({})),
            (
                &format!("rollback law --expect {digest}"),
                one(),
                "POST /api/adapters/law/rollback",
                json!({ "expected_digest": digest }),
            ),
            ("ab law 7 10", one(), "POST /api/adapters/law/ab", json!({ "candidate": "7", "percent": 10.0 })),
            ("ab law --end", one(), "DELETE /api/adapters/law/ab", Value::Null),
            ("pin law", one(), "POST /api/adapters/law/pin", json!({ "pinned": true })),
            ("pin law --off", one(), "POST /api/adapters/law/pin", json!({ "pinned": false })),
            ("retire law", list(), "POST /api/adapters/law/retire", json!({})),
            ("delete é -y", json!({ "deleted": [] }), "DELETE /api/adapters/%C3%A9", Value::Null),
            (
                &format!("delete law --version #abababab -y --expect {digest}"),
                json!({ "deleted": [entry("law", 1)] }),
                &format!("DELETE /api/adapters/law?version=%23abababab&expected_digest={digest}"),
                Value::Null,
            ),
        ] {
            assert_eq!(asked_for(line, reply), (path.to_owned(), body), "{line}");
        }
    }

    #[test]
    fn a_folder_is_registered_with_what_is_said_of_it() {
        let line =
            "register law law-new --version 1.2.0 --domain law --domain tax --task-type T --activate now";
        let (path, body) = asked_for(line, json!(entry("law", 1)));
        assert_eq!(path, "POST /api/adapters/register");
        let metadata = json!({
            "adapter_id": "law", "adapter_version": "1.2.0", "domains": ["law", "tax"], "task_type": "T",
            "custom_metadata": { "adapter_path": "law-new" },
        });
        assert_eq!(body, json!({ "adapter_metadata": metadata, "activate": "now" }));
    }

    #[test]
    fn a_sum_is_registered_with_its_parts() {
        let line = "register both --virtual law=0.1 --virtual tax@1.0.0=-0.5";
        let (_, body) = asked_for(line, json!(entry("both", 3)));
        let parts =
            json!([{ "adapter_id": "law", "weight": 0.1 }, { "adapter_id": "tax@1.0.0", "weight": -0.5 }]);
        let metadata = json!({ "adapter_id": "both", "virtual_of": parts });
        assert_eq!(body, json!({ "adapter_metadata": metadata, "activate": "if_vacant" }));
    }

    #[test]
    fn only_a_path_with_a_dot_before_it_is_the_callers() {
        let here = std::env::current_dir().expect("a place");
        assert_eq!(Path::new(&from_here("./law")), here.join("law"));
        assert!(Path::new(&from_here("../law")).is_absolute());
        for same in ["law", "a/../law", "/srv/law", ".hidden"] {
            assert_eq!(from_here(same), same);
        }
    }

    #[test]
    fn all_versions_are_verified_but_retired_ones() {
        let mut retired = entry("law", 2);
        retired.status = "retired".into();
        let listed = json!({ "adapters": [entry("law", 1), retired, entry("tax", 3)], "total": 3 });
        let health = |ok: bool| {
            json!({
                "adapter_id": "law", "tag": "law@1.1.0#abababab", "healthy": ok,
                "checks": [{ "name": "files", "ok": ok, "detail": "/a: gone" }],
            })
        };
        let (text, received) = told("verify", vec![listed.clone(), health(true), health(false)]);
        assert!(text.expect("a table").contains("BAD"));
        let lines: Vec<_> = received.into_iter().map(|request| request.line).collect();
        let of = |version: &str| format!("GET /api/adapters/{version}/health");
        assert_eq!(
            lines,
            ["GET /api/adapters/registry?versions=all".into(), of("law@1.1.0"), of("tax@1.3.0")]
        );
        let (_, received) = told("verify law", vec![listed, health(true), health(true)]);
        assert_eq!(received[0].line, "GET /api/adapters/law/versions");
        let (_, received) = told("verify law@1.1.0", vec![health(true)]);
        assert_eq!(received[0].line, of("law@1.1.0"));
    }

    #[test]
    fn what_the_api_does_not_have_is_an_error_that_says_what() {
        let (text, _) = told("list", vec![json!({ "adapters": [{ "adapter_id": "law" }] })]);
        let error = text.expect_err("unexpected").to_string();
        assert_eq!(
            error,
            "the reply to GET /api/adapters/registry is unexpected: `adapters[0]`: missing field `id`"
        );
        let (text, _) = told("verify law@1.0.0", vec![json!({ "healthy": "perhaps" })]);
        assert!(text.expect_err("unexpected").to_string().contains("GET /api/adapters/law@1.0.0/health"));
    }
}
