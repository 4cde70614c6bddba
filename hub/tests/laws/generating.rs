//! Models that generate text: the catalogue names them, and the Hub lists their files.

use polylora_hub::{Catalogue, ModelUse, PullError, Puller, Source, SourceError, Token};

use crate::fake_hub::FakeHub;
use crate::tiny_model::{COMMIT, Machine, catalogue_text};

/// What a language model in two shards has, and what stays on the Hub.
const FILES: [&str; 8] = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
];
const LEFT: [&str; 2] = ["onnx/model.onnx", "original/consolidated.00.pth"];

/// A catalogue with the embedding model `tiny` and the language model `speaker`, which is the repository of the fake Hub.
fn puller(machine: &Machine, gated: bool) -> Puller {
    let embedding = catalogue_text("").replace("acme/tiny", "acme/embedding");
    let text = format!(
        "{embedding}\n[[model]]\nname = \"speaker\"\nuse = \"generation\"\ngated = {gated}\n\
         aliases = [\"acme/tiny\"]\nhub = {{ repo = \"acme/tiny\" }}\n"
    );
    Puller::new(Catalogue::parse(&text).unwrap(), machine.config.clone()).wanting(ModelUse::Generation)
}

fn hub() -> (FakeHub, Machine) {
    let content = |name: &str| match name.ends_with(".json") {
        true => format!("{{\"of\": \"{name}\"}}").into_bytes(),
        false => name.repeat(1000).into_bytes(),
    };
    let named = FILES.iter().chain(&LEFT).map(|name| ((*name).to_owned(), content(name)));
    let hub = FakeHub::publishing(named.collect());
    let mut machine = Machine::new();
    machine.config.endpoint.clone_from(&hub.endpoint);
    (hub, machine)
}

fn names_in(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

#[test]
fn a_catalogued_language_model_comes_with_its_shards_and_is_found_again() {
    let (hub, machine) = hub();
    let model = puller(&machine, false).resolve("speaker").unwrap();
    assert_eq!((model.name.as_str(), model.source), ("speaker", Source::Hub));
    assert_eq!(model.path, machine.models().join("speaker"));
    assert_eq!(names_in(&model.path), FILES);
    let marker = std::fs::read_to_string(model.path.join(".polylora-model.json")).unwrap();
    assert!(marker.contains(COMMIT), "{marker}");
    let requests = hub.state().asked.len();
    let again = puller(&machine, false).resolve("acme/tiny").unwrap();
    assert_eq!((again.path, again.source), (model.path, Source::Store));
    assert_eq!(hub.state().asked.len(), requests);
}

#[test]
fn a_damaged_shard_is_seen_by_the_hubs_own_hash() {
    let (hub, machine) = hub();
    let shard = FILES[4];
    hub.state().files.get_mut(shard).unwrap()[9] ^= 1;
    let error = puller(&machine, false).resolve("speaker").unwrap_err();
    let text = error.to_string();
    let PullError::NoSource { attempts, .. } = error else { panic!("{text}") };
    assert!(
        matches!(&attempts.last().unwrap().reason, SourceError::WrongHash { file, .. } if file == shard),
        "{text}"
    );
    assert!(text.contains("--llm DIR") && !text.contains("1_Pooling"), "{text}");
}

#[test]
fn a_gated_model_says_where_its_terms_are_and_what_to_set() {
    let (hub, mut machine) = hub();
    hub.state().authorization = Some("Bearer hf_good".to_owned());
    let said = |machine: &Machine| puller(machine, true).resolve("speaker").unwrap_err().to_string();
    let page = format!("{}/acme/tiny", hub.endpoint);
    let text = said(&machine);
    assert!(text.contains("gated") && text.contains(&page), "{text}");
    assert!(text.contains("HF_TOKEN") && text.contains("none is set"), "{text}");
    machine.config.token = Token::new("hf_bad");
    let text = said(&machine);
    assert!(text.contains("may not read it") && !text.contains("hf_bad"), "{text}");
    machine.config.token = Token::new("hf_good");
    assert_eq!(names_in(&puller(&machine, true).resolve("speaker").unwrap().path), FILES);
}

#[test]
fn a_name_for_the_other_use_is_sent_to_its_flag() {
    let (hub, machine) = hub();
    let error = puller(&machine, false).resolve("tiny").unwrap_err();
    assert!(matches!(error, PullError::OtherUse { flag: "--embedding-model", .. }), "{error}");
    let embedding = puller(&machine, false).wanting(ModelUse::Embedding);
    let error = embedding.resolve("acme/tiny").unwrap_err();
    assert_eq!(error.to_string(), "model `speaker` generates text: pass it as --llm");
    let error = puller(&machine, false).resolve("nobody").unwrap_err();
    assert!(matches!(&error, PullError::Unknown { known, .. } if known == &["speaker"]), "{error}");
    assert!(hub.state().asked.is_empty());
}

#[test]
fn a_snapshot_that_only_generates_is_no_embedding_model() {
    let (hub, mut machine) = hub();
    let root = machine.dir.path().join("hf");
    let repo = root.join("models--acme--tiny");
    let snapshot = repo.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::write(repo.join("refs/main"), COMMIT).unwrap();
    for (name, bytes) in &hub.state().published {
        if !name.contains('/') {
            std::fs::write(snapshot.join(name), bytes).unwrap();
        }
    }
    machine.config.hub_cache = Some(root);
    let uncatalogued = |wanted| {
        let text = catalogue_text("").replace("tiny", "else");
        Puller::new(Catalogue::parse(&text).unwrap(), machine.config.clone()).wanting(wanted)
    };
    // Nobody looked for modules.json: to generate, that is no matter; pooling would be a guess.
    let model = uncatalogued(ModelUse::Generation).pull("acme/tiny").unwrap();
    assert_eq!((model.source, names_in(&model.path)), (Source::HubCache, FILES.map(str::to_owned).to_vec()));
    assert_eq!(uncatalogued(ModelUse::Generation).pull("acme/tiny").unwrap().source, Source::Store);
    assert_eq!(uncatalogued(ModelUse::Embedding).pull("acme/tiny").unwrap().source, Source::Hub);
    // A snapshot without one of the shards was a download that broke off.
    std::fs::remove_dir_all(machine.models()).unwrap();
    std::fs::remove_file(snapshot.join(FILES[3])).unwrap();
    assert_eq!(uncatalogued(ModelUse::Generation).pull("acme/tiny").unwrap().source, Source::Hub);
}
