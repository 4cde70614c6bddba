//! The Hub as a source.

use polylora_hub::{PullError, Source, SourceError, Token};

use crate::fake_hub::FakeHub;
use crate::tiny_model::{COMMIT, Machine, assert_whole, catalogue_text, content};

const WEIGHTS: &str = "model.safetensors";

fn machine_with(hub: &FakeHub) -> Machine {
    let mut machine = Machine::new();
    machine.config.endpoint.clone_from(&hub.endpoint);
    machine
}

/// Why the Hub did not serve.
fn hub_reason(error: PullError) -> SourceError {
    match error {
        PullError::NoSource { attempts, .. } => {
            attempts.into_iter().find(|attempt| attempt.source == Source::Hub).unwrap().reason
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_good_download_is_found_again_without_a_request() {
    let hub = FakeHub::start();
    let machine = machine_with(&hub);
    let model = machine.puller().pull("acme/tiny").unwrap();
    assert_eq!((model.name.as_str(), model.source), ("tiny", Source::Hub));
    assert_whole(&model.path);
    assert_eq!(model.path, machine.models().join("tiny"));
    let requests = hub.state().asked.len();
    let again = machine.puller().resolve("tiny").unwrap();
    assert_eq!((again.path, again.source), (model.path, Source::Store));
    assert_eq!(hub.state().asked.len(), requests);
    assert!(!machine.models().join(".staging/tiny").exists());
}

#[test]
fn wrong_hash_is_deleted_and_said() {
    let hub = FakeHub::start();
    let mut wrong = content(WEIGHTS);
    wrong[7] ^= 1;
    hub.state().files.insert(WEIGHTS.to_owned(), wrong.clone());
    let machine = machine_with(&hub);
    let error = machine.puller().pull("tiny").unwrap_err();
    let text = error.to_string();
    match hub_reason(error) {
        SourceError::WrongHash { file, expected, found } => {
            assert_eq!(file, WEIGHTS);
            assert!(expected[0].starts_with(&crate::tiny_model::sha256(&content(WEIGHTS))));
            assert!(found.starts_with(&crate::tiny_model::sha256(&wrong)));
        }
        other => panic!("{other}"),
    }
    assert!(text.contains("--embedding-model DIR"), "{text}");
    assert!(!machine.models().join("tiny").exists());
    let parts = std::fs::read_dir(machine.models().join(".staging/tiny/parts")).unwrap().count();
    assert_eq!(parts, 0, "the wrong bytes were kept");
}

#[test]
fn a_body_that_ends_early_is_resumed_where_it_ended() {
    let hub = FakeHub::start();
    hub.state().cut = Some((WEIGHTS.to_owned(), 6000, 2));
    let model = machine_with(&hub).puller().pull("tiny").map(|model| model.source);
    assert_eq!(model.unwrap(), Source::Hub);
    let ranges: Vec<_> = hub.asked_for(WEIGHTS).into_iter().map(|asked| asked.range).collect();
    assert_eq!(ranges, [None, Some("bytes=6000-".to_owned()), Some("bytes=12000-".to_owned())]);
}

#[test]
fn a_pull_that_broke_off_is_resumed_by_the_next() {
    let hub = FakeHub::start();
    hub.state().cut = Some((WEIGHTS.to_owned(), 6000, 1));
    hub.state().dies_after = Some(2);
    let machine = machine_with(&hub);
    let reason = hub_reason(machine.puller().pull("tiny").unwrap_err());
    assert!(
        matches!(reason, SourceError::Truncated { received: 6000, expected: Some(20000), .. }),
        "{reason}"
    );
    hub.state().dies_after = None;
    hub.state().asked.clear();
    let model = machine.puller().pull("tiny").unwrap();
    assert_whole(&model.path);
    assert_eq!(hub.asked_for(WEIGHTS)[0].range.as_deref(), Some("bytes=6000-"));
    assert_eq!(hub.asked_for("resolve/0123456789abcdef0123456789abcdef01234567/config.json").len(), 0);
}

#[test]
fn a_server_that_does_not_resume_is_asked_for_the_whole() {
    let hub = FakeHub::start();
    hub.state().cut = Some((WEIGHTS.to_owned(), 6000, 1));
    hub.state().no_ranges = true;
    assert_whole(&machine_with(&hub).puller().pull("tiny").unwrap().path);
}

#[test]
fn a_resumption_into_other_bytes_is_fetched_whole() {
    let hub = FakeHub::start();
    let machine = machine_with(&hub);
    hub.state().cut = Some((WEIGHTS.to_owned(), 6000, 1));
    hub.state().dies_after = Some(2);
    machine.puller().pull("tiny").unwrap_err();
    let parts: Vec<_> =
        std::fs::read_dir(machine.models().join(".staging/tiny/parts")).unwrap().flatten().collect();
    assert_eq!(parts.len(), 1);
    std::fs::write(parts[0].path(), vec![9; 6000]).unwrap();
    hub.state().dies_after = None;
    assert_whole(&machine.puller().pull("tiny").unwrap().path);
}

#[test]
fn a_body_beyond_the_size_is_not_taken() {
    let hub = FakeHub::start();
    hub.state().files.insert("config.json".to_owned(), vec![b' '; 1 << 20]);
    let reason = hub_reason(machine_with(&hub).puller().pull("tiny").unwrap_err());
    assert!(
        matches!(&reason, SourceError::TooLarge { file, expected: 22, .. } if file == "config.json"),
        "{reason}"
    );
    hub.state().files.insert("config.json".to_owned(), b"{}".to_vec());
    let reason = hub_reason(machine_with(&hub).puller().pull("tiny").unwrap_err());
    assert!(matches!(&reason, SourceError::WrongHash { found, .. } if found.contains("2 bytes")), "{reason}");
}

#[test]
fn an_endpoint_where_nobody_listens_is_named() {
    let machine = Machine::new();
    let reason = hub_reason(machine.puller().pull("tiny").unwrap_err());
    match reason {
        SourceError::Unreachable { endpoint, .. } => assert_eq!(endpoint, machine.config.endpoint),
        other => panic!("{other}"),
    }
}

#[test]
fn offline_asks_nobody() {
    let hub = FakeHub::start();
    let mut machine = machine_with(&hub);
    machine.config.offline = true;
    let reason = hub_reason(machine.puller().pull("tiny").unwrap_err());
    assert!(matches!(reason, SourceError::Disabled { setting: "HF_HUB_OFFLINE" }), "{reason}");
    assert_eq!(hub.state().asked.len(), 0);
}

#[test]
fn the_token_opens_what_is_gated() {
    let hub = FakeHub::start();
    hub.state().authorization = Some("Bearer hf_x".to_owned());
    let mut machine = machine_with(&hub);
    let error = machine.puller().pull("tiny").unwrap_err();
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
    assert!(matches!(hub_reason(error), SourceError::Status { status: 401, .. }));
    machine.config.token = Token::new("hf_x");
    assert_whole(&machine.puller().pull("tiny").unwrap().path);
}

#[test]
fn the_token_does_not_follow_a_file_to_another_host() {
    let storage = FakeHub::start();
    storage.state().cut = Some((WEIGHTS.to_owned(), 6000, 1));
    let hub = FakeHub::start();
    let elsewhere = storage.endpoint.replace("127.0.0.1", "localhost");
    hub.state().moved = Some((WEIGHTS.to_owned(), elsewhere));
    let mut machine = machine_with(&hub);
    machine.config.token = Token::new("hf_x");
    assert_whole(&machine.puller().pull("tiny").unwrap().path);
    let there = storage.asked_for(WEIGHTS);
    assert_eq!(there.len(), 2);
    assert_eq!(there[1].range.as_deref(), Some("bytes=6000-"));
    assert!(there.iter().all(|asked| asked.authorization.is_none()));
    assert!(hub.asked_for(WEIGHTS).iter().all(|asked| asked.authorization.as_deref() == Some("Bearer hf_x")));
}

#[test]
fn an_uncatalogued_repository_is_checked_against_the_hubs_own_hashes() {
    let hub = FakeHub::start();
    let machine = machine_with(&hub);
    let other = catalogue_text("").replace("tiny", "else");
    for file in [WEIGHTS, "tokenizer.json"] {
        let good = content(file);
        let mut wrong = good.clone();
        wrong[3] ^= 1;
        hub.state().files.insert(file.to_owned(), wrong);
        let reason = hub_reason(machine.puller_over(&other).pull("acme/tiny").unwrap_err());
        assert!(matches!(&reason, SourceError::WrongHash { file: said, .. } if said == file), "{reason}");
        hub.state().files.insert(file.to_owned(), good);
    }
    let model = machine.puller_over(&other).pull("acme/tiny").unwrap();
    assert_eq!((model.name.as_str(), model.source), ("acme/tiny", Source::Hub));
    assert_eq!(model.path, machine.models().join("acme--tiny"));
    assert_whole(&model.path);
    let marker = std::fs::read_to_string(model.path.join(".polylora-model.json")).unwrap();
    assert!(marker.contains(COMMIT), "{marker}");
    assert_eq!(machine.puller_over(&other).pull("acme/tiny").unwrap().source, Source::Store);
}

#[test]
fn a_list_without_hashes_still_refuses_a_page_in_place_of_json() {
    let hub = FakeHub::start();
    hub.state().bare_list = true;
    let other = catalogue_text("").replace("tiny", "else");
    assert_whole(&machine_with(&hub).puller_over(&other).pull("acme/tiny").unwrap().path);
    hub.state().files.insert("tokenizer.json".to_owned(), b"<html>please log in</html>".to_vec());
    let reason = hub_reason(machine_with(&hub).puller_over(&other).pull("acme/tiny").unwrap_err());
    assert!(matches!(reason, SourceError::NotJson { .. }), "{reason}");
}
