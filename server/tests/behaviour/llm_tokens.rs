//! vLLM's `/tokenize` and `/detokenize`, beside text-embeddings-inference's `/tokenize`.

use serde_json::json;

use crate::fake_llm::{CONTEXT, LLM, VOCABULARY};
use crate::llm_server::LlmServer;

#[tokio::test]
async fn the_fields_say_whose_tokens_are_meant() {
    let server = LlmServer::new();
    let text = server.reply("/tokenize", &json!({"prompt": "a bb", "model": LLM})).await;
    assert_eq!(text, json!({"count": 3, "max_model_len": CONTEXT, "tokens": [1, 1, 2], "token_strs": null}));
    let body = json!({"prompt": "a bb", "add_special_tokens": false, "return_token_strs": true});
    let text = server.reply("/tokenize", &body).await;
    assert_eq!(
        text,
        json!({"count": 2, "max_model_len": CONTEXT, "tokens": [1, 2], "token_strs": ["a", "bb"]})
    );
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "model": "pirate"});
    let chat = server.reply("/tokenize", &body).await;
    assert_eq!((&chat["count"], &chat["tokens"]), (&json!(3), &json!([5, 2, 10])));
    // And the embedding model's, as ever.
    for body in [json!({"inputs": "a bb"}), json!({"inputs": "a bb", "prompt": "ignored there"})] {
        assert_eq!(server.reply("/tokenize", &body).await[0][0]["text"], "[CLS]");
    }
}

#[tokio::test]
async fn ids_become_text_again() {
    let server = LlmServer::new();
    assert_eq!(server.reply("/detokenize", &json!({"tokens": [7, 8]})).await, json!({"prompt": "7 8"}));
    for (body, code, param) in [
        (json!({}), "missing_required_parameter", "tokens"),
        (json!({"tokens": "a"}), "invalid_value", "tokens"),
        (json!({"tokens": [7, -1]}), "invalid_value", "tokens[1]"),
        (json!({"tokens": [VOCABULARY]}), "token_out_of_vocabulary", "tokens"),
    ] {
        let reply = server.post("/detokenize", &body).await;
        assert_eq!(reply.error(), (400, code.into(), Some(param.into())), "{body}");
    }
}

#[tokio::test]
async fn errors_of_vllms_body_are_told_in_openais_words() {
    let server = LlmServer::new();
    for (body, status, code, param) in [
        (json!({"prompt": 7}), 400, "invalid_value", "prompt"),
        (json!({"prompt": ""}), 400, "empty_prompt", "prompt"),
        (json!({"prompt": "a", "model": "nobody"}), 404, "model_not_found", "model"),
        (json!({"prompt": "a", "model": "law"}), 404, "model_not_found", "model"),
        (json!({"messages": []}), 400, "invalid_value", "messages"),
        (
            json!({"messages": [{"role": "user", "content": "a"}], "prompt": "a"}),
            400,
            "invalid_value",
            "prompt",
        ),
    ] {
        let reply = server.post("/tokenize", &body).await;
        assert_eq!(reply.error(), (status, code.into(), Some(param.into())), "{body}: {}", reply.text);
    }
    // Without either field the body is the other dialect's, and so are the words.
    let other = server.post("/tokenize", &json!({})).await;
    assert_eq!((other.status.as_u16(), &other.json()["error_type"]), (422, &json!("Validation")));
}
