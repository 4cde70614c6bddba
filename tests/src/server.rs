//! The real binary as a server on a port of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use polylora_kernels::device::built_in;
use serde_json::{Value, json};

use crate::{polylora, repository};

/// A cold machine may load the model slowly; nothing waits so long when all is well.
const START_LIMIT: Duration = Duration::from_secs(180);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The program, built once with the profile of these tests.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let mut command = Command::new(env!("CARGO"));
        // What `cargo test --workspace` has built already: the same packages and the same backends, so the same features of
        // dependencies, so nothing is compiled twice. Alone, this test binary has it built here.
        command.args(["test", "--quiet", "--workspace", "--no-run"]);
        let backends: Vec<&str> = built_in().iter().copied().filter(|name| *name != "cpu").collect();
        if !backends.is_empty() {
            command.args(["--features", &backends.join(",")]);
        }
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        let status = command.current_dir(repository()).status().expect("cargo runs");
        assert!(status.success(), "the server does not build");
        let own = std::env::current_exe().expect("a path");
        let profile = own.parent().and_then(Path::parent).expect("target/profile/deps/test");
        profile.join(format!("polylora{}", std::env::consts::EXE_SUFFIX))
    })
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    log: Arc<Mutex<Vec<String>>>,
}

/// Status and JSON body of a reply; the body is `Null` where it is not JSON.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Value,
    /// The body as text.
    pub text: String,
}

impl Reply {
    /// The embeddings in the order of `data`, whether they came as numbers or as base64.
    ///
    /// # Panics
    /// When the body is no list of embeddings.
    pub fn embeddings(&self) -> Vec<Vec<f32>> {
        let rows = self.body["data"].as_array().unwrap_or_else(|| panic!("no data: {}", self.text));
        let embedding = |row: &Value| match &row["embedding"] {
            Value::String(text) => floats(&STANDARD.decode(text).expect("base64")),
            Value::Array(numbers) => numbers.iter().map(|v| v.as_f64().expect("a number") as f32).collect(),
            other => panic!("no embedding: {other}"),
        };
        rows.iter().map(embedding).collect()
    }

    /// The `code` of an OpenAI error object, empty where the body is none.
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    /// The `message` of an OpenAI error object, empty where the body is none.
    pub fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }
}

impl Server {
    /// Starts `polylora serve ARGS` on a free port, on the CPU where they name no device, and waits until it is healthy.
    ///
    /// # Panics
    /// With the server's log when it does not start.
    pub fn start(arguments: &[&str]) -> Self {
        Self::try_start(arguments)
            .unwrap_or_else(|log| panic!("the server did not start:\n{}", log.join("\n")))
    }

    /// As [`Server::start`]; the log when the server ends instead of serving.
    pub fn try_start(arguments: &[&str]) -> Result<Self, Vec<String>> {
        Self::launch(arguments, |_| {})
    }

    /// As [`Server::try_start`], with what else the command is to have, such as variables of its environment.
    pub fn launch(arguments: &[&str], configure: impl FnOnce(&mut Command)) -> Result<Self, Vec<String>> {
        let mut command = polylora();
        command.args(["serve", "--port", "0"]).args(arguments);
        if !arguments.contains(&"--device") {
            command.args(["--device", "cpu"]);
        }
        configure(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the server runs");
        let log = Arc::new(Mutex::new(vec![]));
        let lines = follow(&mut child, &log);
        let deadline = Instant::now() + START_LIMIT;
        let address = loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(" serving address=") => break address_in(&line),
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let _ = child.wait();
                    return Err(log.lock().expect("the log").clone());
                }
                Err(RecvTimeoutError::Timeout) => {
                    let _ = child.kill();
                    return Err(log.lock().expect("the log").clone());
                }
            }
        };
        let address = address.unwrap_or_else(|| panic!("no address in the log: {log:?}"));
        Ok(Self { child, url: format!("http://{address}"), log })
    }

    /// The server's log lines so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("the log").clone()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes, where the system tells (Linux).
    pub fn resident_bytes(&self) -> Option<usize> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
    }

    /// GET.
    pub fn get(&self, path: &str) -> Reply {
        read(agent().get(format!("{}{path}", self.url)).call())
    }

    /// POST of a JSON body.
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_text(path, &body.to_string())
    }

    /// POST of any body as `application/json`.
    pub fn post_text(&self, path: &str, body: &str) -> Reply {
        let request = agent().post(format!("{}{path}", self.url)).header("content-type", "application/json");
        read(request.send(body))
    }

    /// Embeds `input` (text, list or ids) under a model name.
    ///
    /// # Panics
    /// When the reply is not 200.
    pub fn embed(&self, model: &str, input: Value) -> Vec<Vec<f32>> {
        let reply = self.post("/v1/embeddings", &json!({ "model": model, "input": input }));
        assert_eq!(reply.status, 200, "{model}: {}", reply.text);
        reply.embeddings()
    }

    /// As [`Server::embed`], to the bit: through base64, which is shorter than numbers, too.
    pub fn embed_bits(&self, model: &str, input: Value) -> Vec<Vec<u32>> {
        let body = json!({ "model": model, "input": input, "encoding_format": "base64" });
        let reply = self.post("/v1/embeddings", &body);
        assert_eq!(reply.status, 200, "{model}: {}", reply.text);
        reply.embeddings().iter().map(|row| row.iter().map(|v| v.to_bits()).collect()).collect()
    }

    /// The ids in `/v1/models`.
    pub fn model_ids(&self) -> Vec<String> {
        let reply = self.get("/v1/models");
        let list = reply.body["data"].as_array().unwrap_or_else(|| panic!("no list: {}", reply.text));
        list.iter().map(|model| model["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// The value of a metric; its labels, where it has any but the model's name, are part of the name.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text;
        let value = text.lines().find_map(|line| {
            let (found, value) = line.split_once(' ')?;
            if without_model(found) == name { value.parse().ok() } else { None }
        });
        value.unwrap_or_else(|| panic!("no metric {name} in:\n{text}"))
    }

    /// Asks the server to stop (SIGTERM) and waits for its end.
    pub fn stop(mut self) -> ExitStatus {
        self.terminate();
        self.wait()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let status =
            Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().expect("kill runs");
        assert!(status.success());
    }

    /// Waits for the server's end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not stop: {:?}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Collects both outputs of the child, line by line.
fn follow(child: &mut Child, log: &Arc<Mutex<Vec<String>>>) -> Receiver<String> {
    let (sender, lines) = channel();
    let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let streams: [Box<dyn std::io::Read + Send>; 2] = [Box::new(out), Box::new(err)];
    for stream in streams {
        let (sender, log) = (sender.clone(), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                log.lock().expect("the log").push(line.clone());
                // After the start nobody listens any more.
                let _ = sender.send(line);
            }
        });
    }
    lines
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    assert!(bytes.len().is_multiple_of(4), "{} bytes are no list of f32", bytes.len());
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4"))).collect()
}

fn address_in(line: &str) -> Option<String> {
    let rest = &line[line.find("127.0.0.1:")?..];
    Some(rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.' || *c == ':').collect())
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(120)))
        .proxy(None);
    config.build().into()
}

fn read(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Reply {
    let mut response = result.expect("the server answers");
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(256 << 20).read_to_string().expect("a body");
    Reply { status, body: serde_json::from_str(&body).unwrap_or(Value::Null), text: body }
}

/// A metric's name and labels without vLLM's `model_name`.
fn without_model(metric: &str) -> String {
    let Some((before, labels)) = metric.split_once("model_name=\"") else { return metric.to_owned() };
    let after = labels.split_once('"').map_or("", |(_, after)| after);
    format!("{before}{after}").replace("{}", "").replace(",}", "}").replace("{,", "{")
}
