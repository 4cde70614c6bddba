//! polylora's own cache: whole models or none, whoever is at it.

use std::process::Command;

use polylora_hub::{PullError, Source};

use crate::fake_hub::FakeHub;
use crate::tiny_model::{Machine, assert_whole, catalogue_text, content, write_files};

/// Set in the children of `two_processes_at_once_leave_one_whole_model`: home and endpoint.
const CHILD: &str = "POLYLORA_HUB_TEST_CHILD";

fn machine_with(hub: &FakeHub) -> Machine {
    let mut machine = Machine::new();
    machine.config.endpoint.clone_from(&hub.endpoint);
    machine
}

#[test]
fn many_threads_at_once_fetch_once() {
    let hub = FakeHub::start();
    let machine = machine_with(&hub);
    let sources: Vec<Source> = std::thread::scope(|scope| {
        let pulls: Vec<_> =
            (0..6).map(|_| scope.spawn(|| machine.puller().pull("tiny").unwrap().source)).collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
    });
    assert_eq!(sources.iter().filter(|source| **source == Source::Hub).count(), 1);
    assert_eq!(hub.asked_for("model.safetensors").len(), 1);
    assert_whole(&machine.models().join("tiny"));
}

#[test]
fn two_processes_at_once_leave_one_whole_model() {
    if let Ok(told) = std::env::var(CHILD) {
        let (home, endpoint) = told.split_once('|').unwrap();
        let mut machine = Machine::new();
        machine.config.home = home.into();
        machine.config.endpoint = endpoint.to_owned();
        assert_whole(&machine.puller().pull("tiny").unwrap().path);
        return;
    }
    let hub = FakeHub::start();
    let machine = machine_with(&hub);
    let told = format!("{}|{}", machine.config.home.display(), hub.endpoint);
    let children: Vec<_> = (0..2)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "in_the_store::two_processes_at_once_leave_one_whole_model"])
                .env(CHILD, &told)
                .output_in_thread()
        })
        .collect();
    for child in children {
        let output = child.join().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
    assert_eq!(hub.asked_for("model.safetensors").len(), 1);
    assert_whole(&machine.models().join("tiny"));
}

trait OutputInThread {
    fn output_in_thread(&mut self) -> std::thread::JoinHandle<std::process::Output>;
}

impl OutputInThread for Command {
    fn output_in_thread(&mut self) -> std::thread::JoinHandle<std::process::Output> {
        let child =
            self.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        std::thread::spawn(move || child.wait_with_output().unwrap())
    }
}

#[test]
fn a_damaged_model_is_mended_and_only_the_damage_is_fetched() {
    let hub = FakeHub::start();
    let machine = machine_with(&hub);
    let model = machine.puller().pull("tiny").unwrap();
    std::fs::write(model.path.join("model.safetensors"), b"short").unwrap();
    std::fs::write(model.path.join("stray"), b"").unwrap();
    hub.state().asked.clear();
    let mended = machine.puller().pull("tiny").unwrap();
    assert_eq!(mended.source, Source::Hub);
    assert_whole(&mended.path);
    let fetched: Vec<_> = hub.state().asked.iter().map(|asked| asked.path.clone()).collect();
    assert!(fetched.iter().all(|path| path.ends_with("model.safetensors") || path.ends_with("vocab.txt")));
    assert_eq!(hub.asked_for("model.safetensors").len(), 1);
}

#[test]
fn a_file_that_became_a_link_is_not_trusted() {
    let hub = FakeHub::start();
    let machine = machine_with(&hub);
    let model = machine.puller().pull("tiny").unwrap();
    let outside = machine.dir.path().join("outside");
    std::fs::write(&outside, content("tokenizer.json")).unwrap();
    std::fs::remove_file(model.path.join("tokenizer.json")).unwrap();
    std::os::unix::fs::symlink(&outside, model.path.join("tokenizer.json")).unwrap();
    let mended = machine.puller().pull("tiny").unwrap();
    assert_eq!(mended.source, Source::Hub);
    assert!(!std::fs::symlink_metadata(mended.path.join("tokenizer.json")).unwrap().is_symlink());
    assert!(outside.exists());
}

#[test]
fn files_put_there_by_hand_serve_when_their_hashes_are_right() {
    let machine = Machine::new();
    write_files(&machine.models().join("tiny"));
    let model = machine.puller().pull("tiny").unwrap();
    assert_eq!(model.source, Source::Store);
    assert_whole(&model.path);

    let machine = Machine::new();
    write_files(&machine.models().join("tiny"));
    std::fs::write(machine.models().join("tiny/tokenizer.json"), b"{\"version\": \"6.6\"}").unwrap();
    assert!(matches!(machine.puller().pull("tiny"), Err(PullError::NoSource { .. })));
}

#[test]
fn another_hash_in_the_catalogue_makes_the_model_be_fetched_anew() {
    let hub = FakeHub::start();
    let machine = machine_with(&hub);
    machine.puller().pull("tiny").unwrap();
    let other = b"{\"version\": \"2.0\"}".to_vec();
    let text = catalogue_text("")
        .replace(&crate::tiny_model::sha256(&content("tokenizer.json")), &crate::tiny_model::sha256(&other));
    hub.state().files.insert("tokenizer.json".to_owned(), other.clone());
    let model = machine.puller_over(&text).pull("tiny").unwrap();
    assert_eq!(model.source, Source::Hub);
    assert_eq!(std::fs::read(model.path.join("tokenizer.json")).unwrap(), other);
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let mut machine = Machine::new();
    let file = machine.dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    machine.config.home = file.join("home");
    let error = machine.puller().pull("tiny").unwrap_err();
    assert!(matches!(error, PullError::Storage(_)));
    let text = error.to_string();
    assert!(text.contains(file.to_str().unwrap()) && text.contains("POLYLORA_HOME"), "{text}");
}
