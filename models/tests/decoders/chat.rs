//! Conversations are rendered as transformers renders them.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use polylora_kernels::device::DTypeSpec;
use polylora_models::{ChatEnding, ChatError, ChatInput, TemplateValue};

use crate::fixture::{FAMILIES, cpu, golden, load};

fn input(messages: TemplateValue, mut variables: BTreeMap<String, TemplateValue>) -> ChatInput<'static> {
    let prompted = variables.remove("add_generation_prompt").is_some_and(|value| value.is_true());
    ChatInput {
        messages,
        tools: variables.remove("tools"),
        documents: None,
        ending: if prompted { ChatEnding::GenerationPrompt } else { ChatEnding::Nothing },
        variables,
        template: None,
        now: UNIX_EPOCH,
    }
}

#[test]
fn conversations_and_tools_become_the_texts_and_ids_of_transformers() {
    let mut rendered = 0;
    for family in FAMILIES {
        let model = load(family, &cpu(DTypeSpec::F32));
        for chat in golden(family).chat {
            let input = input(chat.messages, chat.kwargs);
            let text = model.chat().expect("templates").render(&input).expect("renders");
            assert_eq!(text, chat.rendered, "{family}");
            let ids = model.tokenizer().encode_as_is(&text).expect("encodes");
            assert_eq!(ids, chat.input_ids, "{family}: {text}");
            rendered += 1;
        }
    }
    assert_eq!(rendered, 32);
}

#[test]
fn a_template_that_raises_gives_its_message() {
    let model = load("mistral", &cpu(DTypeSpec::F32));
    let twice = r#"[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]"#;
    let messages = serde_json::from_str(twice).expect("messages");
    let error = model.chat().expect("templates").render(&input(messages, BTreeMap::new()));
    let message = "roles must alternate user/assistant".to_owned();
    assert_eq!(error, Err(ChatError::Raised { message }));
}
