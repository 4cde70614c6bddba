//! What the tests of this command stand on: entries, registries, and a server that answers by heart.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread::{self, JoinHandle};

use polylora_registry::{
    About, Activate, AdapterName, BaseRef, Change, Content, Digest, NewVersion, RegistryStore, Source,
    Timestamp,
};
use serde_json::json;

use super::{Entry, EntryMetrics, files};

/// A version of an adapter, number `id`.
pub fn entry(name: &str, id: u64) -> Entry {
    Entry {
        adapter_id: name.into(),
        id,
        adapter_version: format!("1.{id}.0"),
        digest: "ab".repeat(32),
        tag: format!("{name}@1.{id}.0#abababab"),
        base_model: "mini".into(),
        base_model_digest: "cd".repeat(32),
        domain: None,
        domains: vec![],
        task_type: None,
        status: "ready".into(),
        reason: None,
        active: false,
        ab_percent: None,
        pinned: false,
        created_at: "2026-11-27T23:40:05.123Z".into(),
        previous_version: None,
        ranks: vec![8],
        targets: vec!["query".into(), "value".into()],
        bytes: 1_327_104,
        source: Some("/srv/adapters/law".into()),
        virtual_of: None,
        training: Default::default(),
        thresholds: Default::default(),
        custom_metadata: Default::default(),
        metrics: EntryMetrics::default(),
    }
}

/// Writes an adapter's files and registers them as the content number `content`.
pub fn register(store: &RegistryStore, name: &str, content: u8, folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    fs::write(folder.join("adapter_config.json"), "{}").expect("written");
    fs::write(folder.join("adapter_model.safetensors"), [content]).expect("written");
    let new = NewVersion {
        name: AdapterName::new(name).expect("a name"),
        label: None,
        digest: Digest([content; 32]),
        content: Content {
            ranks: vec![8],
            targets: vec!["query".into()],
            sites: 6,
            bytes: 2048,
            has_effect: true,
        },
        source: Source::Folder { path: folder.to_owned(), stamp: files::stamp(folder) },
        base: BaseRef { name: "mini".into(), digest: Digest([255; 32]) },
        about: About::default(),
        activate: Activate::IfVacant,
    };
    store.change(Change::Register(Box::new(new)), Timestamp(0)).expect("registered");
}

/// A request as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// Method and path.
    pub line: String,
    /// The key that it bears.
    pub authorization: Option<String>,
    /// Its body, `null` for none.
    pub body: serde_json::Value,
}

/// A server that gives one reply after the other and ends: status, then body.
pub struct FakeServer {
    /// Where it listens.
    pub url: String,
    thread: JoinHandle<Vec<Received>>,
}

impl FakeServer {
    pub fn start(replies: Vec<(&'static str, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let thread = thread::spawn(move || {
            let serve = |(status, body): (&str, String)| {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
                let received = receive(&mut reader);
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
                stream.write_all((head + &body).as_bytes()).expect("sent");
                received
            };
            replies.into_iter().map(serve).collect()
        });
        Self { url, thread }
    }

    /// What arrived, once all replies are given.
    pub fn received(self) -> Vec<Received> {
        self.thread.join().expect("the server ends")
    }
}

fn receive(reader: &mut impl BufRead) -> Received {
    let mut next = || {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    };
    let line = next().trim_end_matches(" HTTP/1.1").to_owned();
    let headers: Vec<String> = std::iter::from_fn(|| Some(next()).filter(|line| !line.is_empty())).collect();
    let header = |name: &str| {
        let fields = headers.iter().filter_map(|line| line.split_once(": "));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
    };
    let length = header("content-length").map_or(0, |length| length.parse().expect("a length"));
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    let body = if length == 0 { json!(null) } else { serde_json::from_slice(&body).expect("JSON") };
    Received { line, authorization: header("authorization"), body }
}
