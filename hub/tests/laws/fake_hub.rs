//! A Hub on 127.0.0.1: serves files and a file list, can misbehave, and remembers what it was asked.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::tiny_model::{COMMIT, files, sha256};

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

#[derive(Default)]
pub struct State {
    /// What the file list tells: the files as they should be.
    pub published: Vec<(String, Vec<u8>)>,
    /// Contents by file name in the repository.
    pub files: HashMap<String, Vec<u8>>,
    /// Bodies of that file end after this many bytes; how many more of them will.
    pub cut: Option<(String, usize, usize)>,
    /// Answers 503 to everything but the first N requests.
    pub dies_after: Option<usize>,
    /// `Range` is ignored.
    pub no_ranges: bool,
    /// Requests without this `Authorization` get 401.
    pub authorization: Option<String>,
    /// That file is somewhere else: at this address, with the same path.
    pub moved: Option<(String, String)>,
    /// The file list gives names alone.
    pub bare_list: bool,
    pub asked: Vec<Asked>,
}

#[derive(Clone)]
pub struct FakeHub {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl FakeHub {
    /// Serves the tiny model as `acme/tiny`.
    pub fn start() -> Self {
        let files = files().into_iter().map(|(path, bytes)| (path.to_owned(), bytes));
        Self::publishing(files.collect())
    }

    /// Serves these files as `acme/tiny`.
    pub fn publishing(published: Vec<(String, Vec<u8>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let files = published.iter().cloned().collect();
        let state = Arc::new(Mutex::new(State { files, published, ..State::default() }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || answer(stream, &state));
            }
        });
        Self { endpoint, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What was asked for the file, oldest first.
    pub fn asked_for(&self, file: &str) -> Vec<Asked> {
        let end = format!("/{file}");
        self.state().asked.iter().filter(|asked| asked.path.ends_with(&end)).cloned().collect()
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    while let Some((name, value)) = lines.next()?.ok()?.split_once(": ") {
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let (range, authorization) = (headers.remove("range"), headers.remove("authorization"));
    let mut state = state.lock().unwrap();
    state.asked.push(Asked {
        path: path.clone(),
        range: range.clone(),
        authorization: authorization.clone(),
    });
    let refused = state.authorization.is_some() && state.authorization != authorization;
    let dead = state.dies_after.is_some_and(|count| state.asked.len() > count);
    let list = "/api/models/acme/tiny/revision/main?blobs=true";
    let prefix = format!("/acme/tiny/resolve/{COMMIT}/");
    if let Some((file, elsewhere)) = &state.moved
        && path.ends_with(file.as_str())
    {
        let line = format!("302 Found\r\nLocation: {elsewhere}{path}");
        return status(&mut stream, &line);
    }
    let body = match path.strip_prefix(&prefix) {
        _ if refused => return status(&mut stream, "401 Unauthorized"),
        _ if dead => return status(&mut stream, "503 Service Unavailable"),
        _ if path == list => file_list(&state),
        Some(file) if state.files.contains_key(file) => state.files[file].clone(),
        _ => return status(&mut stream, "404 Not Found"),
    };
    let start =
        range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let (head, rest) = match start {
        Some(start) if !state.no_ranges && start < body.len() => {
            let (last, total) = (body.len() - 1, body.len());
            let head = format!("206 Partial Content\r\nContent-Range: bytes {start}-{last}/{total}");
            (head, &body[start..])
        }
        Some(_) if !state.no_ranges => return status(&mut stream, "416 Range Not Satisfiable"),
        _ => ("200 OK".to_owned(), &body[..]),
    };
    let mut sent = rest;
    if let Some((file, length, times)) = &mut state.cut
        && *times > 0
        && path.ends_with(file.as_str())
    {
        *times -= 1;
        sent = &rest[..rest.len().min(*length)];
    }
    drop(state);
    let length = rest.len();
    write!(stream, "HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n").ok()?;
    stream.write_all(sent).ok()
}

fn status(stream: &mut TcpStream, line: &str) -> Option<()> {
    write!(stream, "HTTP/1.1 {line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()
}

/// As the Hub gives it: SHA-256 for weights, git blob ids for the rest.
fn file_list(state: &State) -> Vec<u8> {
    let mut siblings = Vec::new();
    // Of what the model should be, not of what is served: that is what lets damage be seen.
    for (path, bytes) in &state.published {
        let size = bytes.len();
        siblings.push(match (state.bare_list, path.ends_with(".safetensors")) {
            (true, _) => serde_json::json!({ "rfilename": path }),
            (false, true) => serde_json::json!({
                "rfilename": path, "size": size, "blobId": "0".repeat(40),
                "lfs": { "sha256": sha256(bytes), "size": size, "pointerSize": 130 },
            }),
            (false, false) => {
                serde_json::json!({ "rfilename": path, "size": size, "blobId": git_blob_id(bytes) })
            }
        });
    }
    siblings.push(serde_json::json!({ "rfilename": "README.md", "size": 3, "blobId": "1".repeat(40) }));
    serde_json::to_vec(&serde_json::json!({ "sha": COMMIT, "siblings": siblings })).unwrap()
}

pub fn git_blob_id(bytes: &[u8]) -> String {
    use sha1::{Digest, Sha1};
    let mut hash = Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
