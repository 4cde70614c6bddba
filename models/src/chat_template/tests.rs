use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

fn value(json: Json) -> TemplateValue {
    serde_json::from_value(json).expect("a value")
}

fn input(messages: Json) -> ChatInput<'static> {
    ChatInput {
        messages: value(messages),
        tools: None,
        documents: None,
        ending: ChatEnding::GenerationPrompt,
        variables: BTreeMap::new(),
        template: None,
        now: UNIX_EPOCH + Duration::from_secs(1_750_000_000),
    }
}

/// The templates of a folder with these files.
fn templates(files: &[(&str, &str)]) -> ChatTemplates {
    read(files).expect("reads").expect("templates")
}

fn read(files: &[(&str, &str)]) -> Result<Option<ChatTemplates>, ModelError> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, content).expect("writes");
    }
    ChatTemplates::read(folder.path())
}

fn rendered(template: &str, messages: Json) -> Result<String, ChatError> {
    templates(&[("chat_template.jinja", template)]).render(&input(messages))
}

fn hello() -> Json {
    json!([{"role": "user", "content": "Hello"}])
}

#[test]
fn the_file_wins_over_the_config_and_named_ones_are_chosen_by_name_or_by_tools() {
    let config = r#"{"chat_template": [{"name": "default", "template": "plain"},
                                       {"name": "tool_use", "template": "tools"}]}"#;
    let both = templates(&[("tokenizer_config.json", config)]);
    let with = |tools: Option<Json>, template| {
        both.render(&ChatInput { tools: tools.map(value), template, ..input(hello()) })
    };
    assert_eq!(with(None, None).expect("renders"), "plain");
    assert_eq!(with(Some(json!([])), None).expect("renders"), "tools");
    assert_eq!(with(Some(json!([])), Some("default")).expect("renders"), "plain");
    let names = vec!["default".to_owned(), "tool_use".to_owned()];
    assert_eq!(with(None, Some("rag")), Err(ChatError::Unknown { name: "rag".into(), names }));
    let file = [
        ("tokenizer_config.json", config),
        ("chat_template.jinja", "file"),
        ("chat_templates/rag.jinja", "rag"),
    ];
    let file = templates(&file);
    assert_eq!(file.render(&input(hello())).expect("renders"), "file");
    let rag = ChatInput { template: Some("rag"), ..input(hello()) };
    assert_eq!(file.render(&rag).expect("renders"), "rag");
    assert!(read(&[("tokenizer_config.json", "{}")]).expect("reads").is_none());
    assert!(read(&[("tokenizer_config.json", r#"{"chat_template": 3}"#)]).is_err());
}

#[test]
fn special_tokens_are_variables_however_they_are_written() {
    let files = [
        (
            "chat_template.jinja",
            "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ additional_special_tokens[0] }}",
        ),
        ("special_tokens_map.json", r#"{"unk_token": "U", "eos_token": "old"}"#),
        (
            "tokenizer_config.json",
            r#"{"bos_token": {"content": "B", "lstrip": false}, "eos_token": "E",
                                      "additional_special_tokens": ["A"]}"#,
        ),
    ];
    assert_eq!(templates(&files).render(&input(hello())).expect("renders"), "BEUA");
}

#[test]
fn an_adapters_template_has_the_special_tokens_of_its_base() {
    let base = templates(&[
        ("chat_template.jinja", "base"),
        ("tokenizer_config.json", r#"{"bos_token": "B", "eos_token": "E"}"#),
    ]);
    let of = |template: Option<&str>, config: Option<&str>| {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let files = ChatFiles { template: text(template), tokenizer_config: text(config) };
        ChatTemplates::of_adapter(&files, Some(&base))
    };
    assert!(of(None, None).expect("reads").is_none());
    assert!(of(None, Some(r#"{"eos_token": "own"}"#)).expect("reads").is_none());
    let tokens = "{{ bos_token ~ eos_token }}";
    let config = format!(r#"{{"eos_token": "own", "chat_template": "{tokens}!"}}"#);
    for (template, config, expected) in [
        (Some(tokens), None, "BE"),
        (Some(tokens), Some(config.as_str()), "Bown"),
        (None, Some(config.as_str()), "Bown!"),
    ] {
        let own = of(template, config).expect("reads").expect("templates");
        assert_eq!(own.render(&input(hello())).expect("renders"), expected);
    }
    for (template, config, file) in [
        (Some("{% for %}"), None, CHAT_TEMPLATE_FILE),
        (None, Some(r#"{"chat_template": "{{ x"}"#), TOKENIZER_CONFIG_FILE),
        (None, Some(r#"{"chat_template": 3}"#), TOKENIZER_CONFIG_FILE),
        (Some("fine"), Some("no json"), TOKENIZER_CONFIG_FILE),
    ] {
        assert_eq!(of(template, config).expect_err("refused").file, file, "{template:?} {config:?}");
    }
}

#[test]
fn what_transformers_offers_is_there() {
    for (template, expected) in [
        ("{% for m in messages %}\n  {% if true %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}", "user\n"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ messages[0]['content'].upper().strip('H') }}", "ELLO"),
        ("{{ messages[0].content[1:3] }}{{ messages[::-1][0].role }}", "eluser"),
        ("{{ strftime_now('%Y') }}", "2025"),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "1",
        ),
        ("{{ tools is none }}{{ documents is none }}{{ enable_thinking is defined }}", "TrueTrueFalse"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "Hello"),
        ("{{ '<b>' }}{{ messages[0].missing }}", "<b>"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f('a') }}{{ none }}", "[a]None"),
    ] {
        assert_eq!(rendered(template, hello()).expect(template), expected, "{template}");
    }
}

#[test]
fn keys_keep_the_order_that_the_client_wrote() {
    let message = r#"{"role": "user", "content": "Hello", "a": {"z": 1, "b": 2}}"#;
    let messages = serde_json::from_str::<TemplateValue>(&format!("[{message}]")).expect("messages");
    let templates = templates(&[("chat_template.jinja", "{{ messages[0] | tojson }}")]);
    assert_eq!(templates.render(&ChatInput { messages, ..input(json!([])) }).expect("renders"), message);
}

#[test]
fn variables_of_the_caller_are_seen_and_do_not_hide_the_messages() {
    let variables = [("enable_thinking", json!(false)), ("messages", json!("mine"))];
    let variables = variables.map(|(name, json)| (name.to_owned(), value(json))).into_iter().collect();
    let template =
        templates(&[("chat_template.jinja", "{{ enable_thinking is false }} {{ messages[0].role }}")]);
    let text = template.render(&ChatInput { variables, ..input(hello()) });
    assert_eq!(text.expect("renders"), "True user");
}

#[test]
fn an_exception_of_the_template_is_its_message() {
    let template =
        "{% macro check(m) %}{{ raise_exception('no ' ~ m.role) }}{% endmacro %}{{ check(messages[0]) }}";
    let message = "no user".to_owned();
    assert_eq!(rendered(template, hello()), Err(ChatError::Raised { message }));
}

#[test]
fn a_template_that_fails_says_its_name_and_why() {
    for (template, word) in [
        ("{{ messages[0].missing.more }}", "undefined"),
        ("{% if %}", "syntax"),
        ("{{ 1 | no_such_filter }}", "no_such_filter"),
        ("{{ strftime_now('%!') }}", "strftime_now"),
        ("{% include 'other' %}", "include"),
    ] {
        let error = rendered(template, hello()).expect_err("fails").to_string();
        assert!(error.contains("`default`") && error.contains(word), "{error}");
    }
}

#[test]
fn a_template_without_end_or_bound_is_stopped() {
    for template in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ 'x' * 99999999999 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ '%0999999999d' | format(1) }}",
    ] {
        assert!(matches!(rendered(template, hello()), Err(ChatError::Failed { .. })), "{template}");
    }
}

#[test]
fn a_list_nested_by_a_loop_ends_no_process() {
    let nest = "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}";
    assert!(rendered(&format!("{nest}{{{{ ns.x | tojson }}}}"), hello()).is_err());
}

#[test]
fn a_final_message_is_left_open_as_the_template_shows_it() {
    let chat = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I am "}]);
    let parts =
        json!([{"role": "assistant", "content": [{"type": "text", "text": "I am "}, {"type": "image"}]}]);
    for (template, messages, expected) in [
        (
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}",
            &chat,
            "<user>Hi<end><assistant>I am ",
        ),
        ("{% for m in messages %}<{{ m.content | trim }}>{% endfor %}", &chat, "<Hi><I am"),
        (
            "{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}",
            &parts,
            "[I am ",
        ),
    ] {
        let templates = templates(&[("chat_template.jinja", template)]);
        let input = ChatInput { ending: ChatEnding::FinalMessage, ..input(messages.clone()) };
        assert_eq!(templates.render(&input).expect("renders"), expected, "{template}");
    }
    let silent = templates(&[("chat_template.jinja", "{{ messages[0].role }}")]);
    for messages in [chat, json!([]), json!([{"role": "user"}]), json!("text")] {
        let input = ChatInput { ending: ChatEnding::FinalMessage, ..input(messages) };
        assert!(matches!(silent.render(&input), Err(ChatError::Continue { .. })));
    }
}

proptest! {
    #[test]
    fn no_template_and_no_message_panics(template in "(\\{\\{|\\{%|%\\}|\\}\\}|messages|\\[|\\]|if|for|in|[a-z|.' 0-9:-]){0,24}",
                                         content in "\\PC{0,20}") {
        if let Ok(Some(templates)) = read(&[("chat_template.jinja", &template)]) {
            let _ = templates.render(&input(json!([{"role": "user", "content": content}])));
        }
    }
}
