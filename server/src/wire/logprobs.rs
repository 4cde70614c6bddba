//! Log-probabilities in the shapes of completions, of conversations and of vLLM's `prompt_logprobs`.

use polylora_engine::{GeneratedToken, TopToken};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

/// What stands for a probability of zero, whose logarithm JSON cannot say.
const LOWEST: f32 = -9999.0;

/// How tokens are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenNames {
    /// By id, as `token_id:7`, and not by their text.
    pub by_id: bool,
}

impl TokenNames {
    fn of(self, id: u32, text: &str) -> String {
        if self.by_id { format!("token_id:{id}") } else { text.to_owned() }
    }
}

/// As completions have them: lists of one value a token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// Characters of the choice's text before the token.
    text_offset: Vec<usize>,
    /// `null` for the first token of a prompt.
    token_logprobs: Vec<Option<f32>>,
    tokens: Vec<String>,
    /// The token itself and the likeliest others, by name.
    #[schema(value_type = Vec<serde_json::Value>)]
    top_logprobs: Vec<Option<NamedLogprobs>>,
}

impl CompletionLogprobs {
    /// Adds tokens whose text begins `shift` characters into the choice's.
    pub fn extend(&mut self, tokens: &[GeneratedToken], shift: usize, names: TokenNames) {
        for token in tokens {
            self.text_offset.push(shift + token.text_offset);
            self.token_logprobs.push(token.logprob.map(told));
            self.tokens.push(names.of(token.id, &token.text));
            self.top_logprobs.push(token.logprob.map(|logprob| {
                let mut named = NamedLogprobs::default();
                named.add(names.of(token.id, &token.text), logprob);
                for top in &token.top {
                    named.add(names.of(top.id, &top.text), top.logprob);
                }
                named
            }));
        }
    }
}

/// An object of tokens and log-probabilities in the order in which they were added.
#[derive(Clone, Debug, Default, PartialEq)]
struct NamedLogprobs(Vec<(String, f32)>);

impl NamedLogprobs {
    /// Of tokens with one name, which an object cannot tell apart, the first stays.
    fn add(&mut self, name: String, logprob: f32) {
        if !self.0.iter().any(|(known, _)| *known == name) {
            self.0.push((name, told(logprob)));
        }
    }
}

impl Serialize for NamedLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, logprob)| (name, logprob)))
    }
}

/// As conversations have them: one object a token.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ChatLogprobs {
    content: Vec<ChatTokenLogprob>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
struct ChatTokenLogprob {
    token: String,
    logprob: f32,
    /// The token's text in UTF-8.
    bytes: Vec<u8>,
    /// The likeliest tokens in its place, as many as were asked for.
    top_logprobs: Vec<ChatTopLogprob>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
struct ChatTopLogprob {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl ChatLogprobs {
    /// Those of `tokens`.
    pub fn of(tokens: &[GeneratedToken], names: TokenNames) -> Self {
        let top = |top: &TopToken| ChatTopLogprob {
            token: names.of(top.id, &top.text),
            logprob: told(top.logprob),
            bytes: top.text.clone().into_bytes(),
        };
        let one = |token: &GeneratedToken| ChatTokenLogprob {
            token: names.of(token.id, &token.text),
            logprob: token.logprob.map_or(LOWEST, told),
            bytes: token.text.clone().into_bytes(),
            top_logprobs: token.top.iter().map(top).collect(),
        };
        Self { content: tokens.iter().map(one).collect() }
    }
}

/// As vLLM has them for the tokens of a prompt: an object by token id each, `null` for the first token.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(value_type = Vec<serde_json::Value>)]
pub struct PromptLogprobs(Vec<Option<RankedLogprobs>>);

impl PromptLogprobs {
    /// Those of `tokens`.
    pub fn of(tokens: &[GeneratedToken]) -> Self {
        let one = |token: &GeneratedToken| {
            let logprob = token.logprob?;
            let own = Ranked { logprob: told(logprob), rank: token.rank, decoded_token: token.text.clone() };
            let mut ranked = vec![(token.id, own)];
            for (place, top) in token.top.iter().enumerate().filter(|(_, top)| top.id != token.id) {
                let other = Ranked {
                    logprob: told(top.logprob),
                    rank: Some(place + 1),
                    decoded_token: top.text.clone(),
                };
                ranked.push((top.id, other));
            }
            Some(RankedLogprobs(ranked))
        };
        Self(tokens.iter().map(one).collect())
    }
}

#[derive(Clone, Debug, PartialEq)]
struct RankedLogprobs(Vec<(u32, Ranked)>);

impl Serialize for RankedLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (id, ranked) in &self.0 {
            map.serialize_entry(&id.to_string(), ranked)?;
        }
        map.end()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Ranked {
    logprob: f32,
    rank: Option<usize>,
    decoded_token: String,
}

/// A log-probability that JSON can say.
pub(super) fn told(logprob: f32) -> f32 {
    logprob.max(LOWEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(logprob: Option<f32>) -> GeneratedToken {
        let top = |id, text: &str, logprob| TopToken { id, text: text.into(), logprob };
        let tops = vec![top(8, "b", -0.25), top(7, "a", -1.5), top(9, "b", f32::NEG_INFINITY)];
        let top = if logprob.is_some() { tops } else { vec![] };
        GeneratedToken {
            id: 7,
            text: "a".into(),
            logprob,
            rank: logprob.map(|_| 2),
            top,
            text_offset: 3,
            ..Default::default()
        }
    }

    #[test]
    fn completions_have_lists_with_the_token_itself_first() {
        let mut logprobs = CompletionLogprobs::default();
        logprobs.extend(&[token(None), token(Some(-1.5))], 10, TokenNames::default());
        let json = serde_json::to_string(&logprobs).expect("JSON");
        insta::assert_snapshot!(json, @r#"{"text_offset":[13,13],"token_logprobs":[null,-1.5],"tokens":["a","a"],"top_logprobs":[null,{"a":-1.5,"b":-0.25}]}"#);
        let mut by_id = CompletionLogprobs::default();
        by_id.extend(&[token(Some(f32::NAN))], 0, TokenNames { by_id: true });
        let json = serde_json::to_string(&by_id).expect("JSON");
        insta::assert_snapshot!(json, @r#"{"text_offset":[3],"token_logprobs":[-9999.0],"tokens":["token_id:7"],"top_logprobs":[{"token_id:7":-9999.0,"token_id:8":-0.25,"token_id:9":-9999.0}]}"#);
    }

    #[test]
    fn conversations_have_an_object_a_token() {
        let json = serde_json::to_string(&ChatLogprobs::of(&[token(Some(-1.5))], TokenNames::default()));
        insta::assert_snapshot!(json.expect("JSON"), @r#"{"content":[{"token":"a","logprob":-1.5,"bytes":[97],"top_logprobs":[{"token":"b","logprob":-0.25,"bytes":[98]},{"token":"a","logprob":-1.5,"bytes":[97]},{"token":"b","logprob":-9999.0,"bytes":[98]}]}]}"#);
    }

    #[test]
    fn prompts_have_an_object_by_id_with_ranks() {
        let json = serde_json::to_string(&PromptLogprobs::of(&[token(None), token(Some(-1.5))]));
        insta::assert_snapshot!(json.expect("JSON"), @r#"[null,{"7":{"logprob":-1.5,"rank":2,"decoded_token":"a"},"8":{"logprob":-0.25,"rank":1,"decoded_token":"b"},"9":{"logprob":-9999.0,"rank":3,"decoded_token":"b"}}]"#);
    }
}
