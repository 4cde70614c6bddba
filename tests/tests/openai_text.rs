//! openai-python from the package index against the real binary, which only generates text.

use std::fs;
use std::path::Path;

use polylora_tests::{Server, Shared, assert_held, fixtures, repository, script_law};

const SCRIPT: &str = "tests/clients/openai_text.py";

static SERVER: Shared<Server> = Shared::new(|| {
    let fixture = fixtures("llms/qwen3");
    let (model, adapters) = (fixture.join("model"), fixture.join("adapters"));
    Server::start(&[
        "--embedding-model",
        "none",
        "--llm",
        model.to_str().expect("Unicode"),
        "--adapters-dir",
        adapters.to_str().expect("Unicode"),
        "--kv-cache-memory-bytes",
        "4MiB",
    ])
});

fn assert_law(law: &str) {
    let server = SERVER.get();
    let golden = fixtures("llms/qwen3").join("golden.json");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    assert_held(script_law(folder, SCRIPT, law, &server.url).env("POLYLORA_GOLDEN", golden), law);
}

macro_rules! laws {
    ($($law:ident)*) => {$(
        #[test]
        fn $law() {
            assert_law(stringify!($law));
        }
    )*};
}

laws! {
    a_prompt_is_completed
    token_ids_are_completed
    several_prompts_are_completed_in_order
    log_probabilities_come_with_the_tokens
    a_conversation_is_answered
    a_completion_is_streamed
    a_conversation_is_streamed
    an_adapter_is_a_model
    an_adapter_can_be_named_in_the_extra_body
    models_are_listed
    an_unknown_model_is_not_found
    what_cannot_be_is_a_bad_request
    embeddings_are_refused_with_what_can_be_asked
    a_stream_can_be_left
    many_at_once_get_their_own
}

#[test]
fn every_law_of_the_script_is_tried() {
    let script = fs::read_to_string(repository().join(SCRIPT)).expect("the script");
    let own = include_str!("openai_text.rs");
    let laws: Vec<&str> =
        script.lines().filter_map(|line| line.strip_prefix("def ")?.strip_suffix("():")).collect();
    assert!(laws.len() >= 15, "{laws:?}");
    for law in laws.into_iter().filter(|name| *name != "client") {
        assert!(own.contains(law), "{law} is not tried");
    }
}
