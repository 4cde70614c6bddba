//! The body of `POST /v1/embeddings` from any bytes: it is refused with an error of the client's, or read.

use serde::Deserialize;
use serde_json::Value;

use crate::state::ModelNames;
use crate::wire::body::parse_object;
use crate::wire::openai::{EmbeddingsRequest, ReadingRules};

/// What must be there; what else a body has is skipped, as the server skips it.
#[derive(Deserialize)]
struct Body {
    input: Value,
}

/// Checks that a body is read only where it is a JSON object, and that what is read is no more than it says.
pub fn check(bytes: &[u8]) {
    let names = ModelNames::new(&["base".to_owned()], "all-MiniLM-L6-v2", &[]);
    let rules = ReadingRules { names: &names, auto_truncate: false, max_tokens: 128 };
    let request = parse_object::<EmbeddingsRequest>(bytes).and_then(|body| body.read(rules));
    match request {
        Err(error) => assert!(error.status().is_client_error(), "{error:?}"),
        Ok(read) => {
            let text = std::str::from_utf8(bytes).expect("only UTF-8 is read");
            let body: Body = serde_json::from_str(text).expect("only JSON with an input is read");
            let input = body.input;
            let expected = match &input {
                Value::Array(list) if list.iter().any(|element| !element.is_number()) => list.len(),
                Value::Array(list) => usize::from(!list.is_empty()),
                _ => 1,
            };
            assert_eq!(read.engine.inputs.len(), expected, "{input}");
            if let Some(adapter) = read.engine.adapter {
                assert!(
                    adapter != "base" && adapter != "all-MiniLM-L6-v2" && adapter.len() <= 256,
                    "{adapter}"
                );
            }
        }
    }
}
