//! Texts to token ids. A short request is tokenised where it came in, as handing it over would take longer; others on
//! threads of their own, so that neither the async threads nor the device's wait for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rayon::prelude::*;
use tokio::sync::oneshot;

use crate::{EmbedError, EmbedInput, StartError, TextToken, TruncationSide};

/// A tokenizer.
pub trait Tokenize: Send + Sync + 'static {
    /// Ids of `text` with the model's special tokens, cut to `limit` ids when given; special tokens survive the cut.
    ///
    /// # Errors
    /// The tokenizer's own words, without the text.
    fn encode(&self, text: &str, limit: Option<usize>) -> Result<Vec<u32>, String>;

    /// As [`encode`](Self::encode) with a limit, but the beginning of the text is cut off instead of its end.
    ///
    /// # Errors
    /// The tokenizer's own words, without the text.
    fn encode_tail(&self, text: &str, limit: usize) -> Result<Vec<u32>, String>;

    /// The tokens of a text of any length, with special ones where asked for.
    ///
    /// # Errors
    /// The tokenizer's own words, without the text.
    fn tokens(&self, text: &str, special_tokens: bool) -> Result<Vec<TextToken>, String>;

    /// The text of token ids.
    ///
    /// # Errors
    /// The tokenizer's own words.
    fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String>;

    /// Number of token ids, added ones included.
    fn vocab_size(&self) -> usize;
}

/// What one request asks of the tokenizer.
#[derive(Debug)]
pub(crate) struct TokenizeJob {
    /// Texts, or ids that are taken as they are.
    pub(crate) inputs: Vec<EmbedInput>,
    /// Goes in front of each text.
    pub(crate) prompt: Option<Arc<str>>,
    /// Cut what is too long; otherwise it is refused.
    pub(crate) truncate: bool,
    /// Where it is cut.
    pub(crate) truncation_side: TruncationSide,
}

/// What the ids must keep to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBounds {
    /// Tokens in one row, special tokens included.
    pub(crate) max_tokens: usize,
    /// Rows of the model's embedding table.
    pub(crate) vocab_size: usize,
}

/// The tokenizer and its threads.
pub(crate) struct TokenizePool {
    threads: rayon::ThreadPool,
    encoder: Arc<RowEncoder>,
}

impl TokenizePool {
    /// Starts `threads` threads.
    pub(crate) fn start(
        tokenizer: Arc<dyn Tokenize>,
        bounds: TokenBounds,
        threads: usize,
    ) -> Result<Self, StartError> {
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("tokenize-{index}"))
            .build()
            .map_err(|error| StartError::Thread { purpose: "tokenizer", reason: error.to_string() })?;
        Ok(Self { threads, encoder: Arc::new(RowEncoder { tokenizer, bounds }) })
    }

    /// One row of ids per input. A job whose caller has gone is not begun.
    pub(crate) async fn encode(&self, job: TokenizeJob) -> Result<Vec<Arc<[u32]>>, EmbedError> {
        if job.is_short() {
            return self.encoder.encode_caught(&job);
        }
        let (reply, rows) = oneshot::channel();
        let encoder = Arc::clone(&self.encoder);
        self.threads.spawn(move || {
            if !reply.is_closed() {
                let _ = reply.send(encoder.encode_caught(&job));
            }
        });
        rows.await.unwrap_or_else(|_| Err(panicked()))
    }

    /// Does `work` on one of the threads, unless its caller has gone before it begins.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Tokenize) -> Result<T, EmbedError> + Send + 'static,
    ) -> Result<T, EmbedError> {
        let (reply, answer) = oneshot::channel();
        let encoder = Arc::clone(&self.encoder);
        self.threads.spawn(move || {
            if !reply.is_closed() {
                let work = || work(encoder.tokenizer.as_ref());
                let _ = reply.send(catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(panicked())));
            }
        });
        answer.await.unwrap_or_else(|_| Err(panicked()))
    }

    /// What ids must keep to.
    pub(crate) fn bounds(&self) -> TokenBounds {
        self.encoder.bounds
    }
}

fn panicked() -> EmbedError {
    EmbedError::Internal { reason: "the tokenizer panicked".to_owned() }
}

struct RowEncoder {
    tokenizer: Arc<dyn Tokenize>,
    bounds: TokenBounds,
}

impl TokenizeJob {
    /// Whether it is done sooner than another thread is awake.
    fn is_short(&self) -> bool {
        let prompt = self.prompt.as_ref().map_or(0, |prompt| prompt.len());
        let bytes = |input: &EmbedInput| match input {
            EmbedInput::Text(text) => prompt + text.len(),
            EmbedInput::Tokens(ids) => size_of_val(ids.as_slice()),
        };
        self.inputs.len() <= INPUTS_A_TASK && self.inputs.iter().map(bytes).sum::<usize>() <= SHORT_BYTES
    }
}

impl RowEncoder {
    /// A panic that left the tokenizer would end a thread, or the process.
    fn encode_caught(&self, job: &TokenizeJob) -> Result<Vec<Arc<[u32]>>, EmbedError> {
        catch_unwind(AssertUnwindSafe(|| self.encode_all(job))).unwrap_or_else(|_| Err(panicked()))
    }

    fn encode_all(&self, job: &TokenizeJob) -> Result<Vec<Arc<[u32]>>, EmbedError> {
        let encode = |(index, input)| self.encode(index, input, job);
        // Never on the threads of whoever calls.
        if job.inputs.len() <= INPUTS_A_TASK {
            return job.inputs.iter().enumerate().map(encode).collect();
        }
        let inputs = job.inputs.par_iter().enumerate().with_min_len(INPUTS_A_TASK);
        // All of them first, so that the error told is that of the first faulty input, not of the fastest thread.
        let rows: Vec<Result<_, _>> = inputs.map(encode).collect();
        rows.into_iter().collect()
    }

    fn encode(&self, index: usize, input: &EmbedInput, job: &TokenizeJob) -> Result<Arc<[u32]>, EmbedError> {
        let max = self.bounds.max_tokens;
        let limit = job.truncate.then_some(max);
        let ids: Arc<[u32]> = match input {
            EmbedInput::Tokens(ids) => {
                let kept = ids.len().min(limit.unwrap_or(usize::MAX));
                match job.truncation_side {
                    TruncationSide::Right => ids[..kept].into(),
                    TruncationSide::Left => ids[ids.len() - kept..].into(),
                }
            }
            EmbedInput::Text(text) => {
                let encoded = match &job.prompt {
                    Some(prompt) => self.encode_text(&format!("{prompt}{text}"), limit, job.truncation_side),
                    None => self.encode_text(text, limit, job.truncation_side),
                };
                encoded.map_err(|reason| EmbedError::Tokenize { index, reason })?.into()
            }
        };
        if ids.is_empty() {
            let reason = "it gives no tokens".to_owned();
            return Err(EmbedError::Tokenize { index, reason });
        }
        if ids.len() > max {
            return Err(EmbedError::TooLong { index, tokens: ids.len(), max });
        }
        let vocab_size = self.bounds.vocab_size;
        match ids.iter().find(|&&id| id as usize >= vocab_size) {
            Some(&token) => Err(EmbedError::TokenOutOfVocabulary { index, token, vocab_size }),
            None => Ok(ids),
        }
    }

    fn encode_text(
        &self,
        text: &str,
        limit: Option<usize>,
        side: TruncationSide,
    ) -> Result<Vec<u32>, String> {
        match (limit, side) {
            (Some(limit), TruncationSide::Left) => self.tokenizer.encode_tail(text, limit),
            (limit, _) => self.tokenizer.encode(text, limit),
        }
    }
}

/// Inputs below which a second thread costs more than it brings.
const INPUTS_A_TASK: usize = 8;

/// Bytes of input that are tokenised at once: microseconds of an async thread, and a fraction of a millisecond for texts
/// whose every character is a token of its own.
const SHORT_BYTES: usize = 2048;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Mutex;
    use std::thread::{self, ThreadId};

    use super::*;

    /// One id per byte between 1 and 2.
    struct Bytes;

    impl Tokenize for Bytes {
        fn encode(&self, text: &str, limit: Option<usize>) -> Result<Vec<u32>, String> {
            assert!(!text.contains("panic"));
            if text.contains("bad") {
                return Err("bad text".to_owned());
            }
            let room = limit.unwrap_or(usize::MAX).saturating_sub(2);
            let inner = text.bytes().take(room).map(u32::from);
            Ok(std::iter::once(1).chain(inner).chain([2]).collect())
        }

        fn encode_tail(&self, text: &str, limit: usize) -> Result<Vec<u32>, String> {
            let inner = &text.as_bytes()[text.len().saturating_sub(limit - 2)..];
            Ok(std::iter::once(1).chain(inner.iter().map(|&byte| byte.into())).chain([2]).collect())
        }

        fn tokens(&self, _: &str, _: bool) -> Result<Vec<TextToken>, String> {
            unreachable!("a job asks for ids")
        }

        fn decode(&self, _: &[u32], _: bool) -> Result<String, String> {
            unreachable!("a job asks for ids")
        }

        fn vocab_size(&self) -> usize {
            256
        }
    }

    fn encode(
        inputs: Vec<EmbedInput>,
        prompt: Option<&str>,
        truncate: bool,
    ) -> Result<Vec<Vec<u32>>, EmbedError> {
        encode_with(Arc::new(Bytes), inputs, prompt, truncate)
    }

    fn encode_with(
        tokenizer: Arc<dyn Tokenize>,
        inputs: Vec<EmbedInput>,
        prompt: Option<&str>,
        truncate: bool,
    ) -> Result<Vec<Vec<u32>>, EmbedError> {
        let bounds = TokenBounds { max_tokens: 6, vocab_size: 120 };
        let pool = TokenizePool::start(tokenizer, bounds, 3).unwrap();
        let truncation_side = TruncationSide::Right;
        let job = TokenizeJob { inputs, prompt: prompt.map(Arc::from), truncate, truncation_side };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(pool.encode(job)).map(|rows| rows.iter().map(|row| row.to_vec()).collect())
    }

    fn text(text: &str) -> EmbedInput {
        EmbedInput::Text(text.to_owned())
    }

    #[test]
    fn a_prompt_goes_before_texts_and_never_before_token_ids() {
        let rows = encode(vec![text("a"), EmbedInput::Tokens(vec![9])], Some("q:"), false).unwrap();
        assert_eq!(rows, [vec![1, 113, 58, 97, 2], vec![9]]);
    }

    #[test]
    fn truncation_cuts_texts_between_their_special_tokens_and_token_ids_at_the_end() {
        let inputs = || vec![text("aaaaaaa"), EmbedInput::Tokens(vec![5; 7])];
        let rows = encode(inputs(), None, true).unwrap();
        assert_eq!(rows, [vec![1, 97, 97, 97, 97, 2], vec![5; 6]]);
        let refused = encode(inputs(), None, false).unwrap_err();
        assert_eq!(refused, EmbedError::TooLong { index: 0, tokens: 9, max: 6 });
        let refused = encode(inputs().split_off(1), None, false).unwrap_err();
        assert_eq!(refused, EmbedError::TooLong { index: 0, tokens: 7, max: 6 });
    }

    #[test]
    fn ids_beyond_the_embedding_table_are_refused_wherever_they_come_from() {
        let too_high = |index, token| EmbedError::TokenOutOfVocabulary { index, token, vocab_size: 120 };
        assert_eq!(encode(vec![EmbedInput::Tokens(vec![120])], None, true), Err(too_high(0, 120)));
        assert_eq!(encode(vec![text("w"), text("z")], None, true), Err(too_high(1, 122)));
    }

    #[test]
    fn the_first_faulty_input_is_told_however_many_threads_find_one() {
        let mut inputs = vec![text("ok"); 500];
        for index in [77, 200, 499] {
            inputs[index] = text("bad");
        }
        let error = encode(inputs, None, true).unwrap_err();
        assert_eq!(error, EmbedError::Tokenize { index: 77, reason: "bad text".to_owned() });
    }

    #[test]
    fn order_is_kept_over_many_threads() {
        let rows =
            encode((0..1000).map(|i| EmbedInput::Tokens(vec![i % 120])).collect(), None, false).unwrap();
        assert!(rows.iter().enumerate().all(|(i, row)| *row == [i as u32 % 120]));
    }

    #[test]
    fn a_tokenizer_that_panics_fails_its_request_only() {
        assert_eq!(encode(vec![text("panic")], None, true), Err(panicked()));
        assert_eq!(encode(vec![text("panic"); 2 * INPUTS_A_TASK], None, true), Err(panicked()));
    }

    #[test]
    fn short_requests_are_tokenised_where_they_come_in_and_all_others_on_the_tokenizers_threads() {
        struct Witness(Mutex<HashSet<ThreadId>>);
        impl Tokenize for Witness {
            fn encode(&self, _: &str, _: Option<usize>) -> Result<Vec<u32>, String> {
                self.0.lock().unwrap().insert(thread::current().id());
                Ok(vec![1])
            }

            fn encode_tail(&self, text: &str, limit: usize) -> Result<Vec<u32>, String> {
                self.encode(text, Some(limit))
            }

            fn tokens(&self, _: &str, _: bool) -> Result<Vec<TextToken>, String> {
                unreachable!("a job asks for ids")
            }

            fn decode(&self, _: &[u32], _: bool) -> Result<String, String> {
                unreachable!("a job asks for ids")
            }

            fn vocab_size(&self) -> usize {
                2
            }
        }
        let here = thread::current().id();
        let seen = |inputs: Vec<EmbedInput>, prompt: Option<&str>| {
            let witness = Arc::new(Witness(Mutex::default()));
            encode_with(witness.clone(), inputs, prompt, true).unwrap();
            std::mem::take(&mut *witness.0.lock().unwrap())
        };
        let long = "x".repeat(SHORT_BYTES);
        assert_eq!(seen(vec![text("a"); INPUTS_A_TASK], None), HashSet::from([here]));
        assert_eq!(seen(vec![text(&long)], None), HashSet::from([here]));
        for (inputs, prompt) in [
            (vec![text("a"); INPUTS_A_TASK + 1], None),
            (vec![text(&long), text("a")], None),
            (vec![text(&long)], Some("a")),
            (vec![EmbedInput::Tokens(vec![1; SHORT_BYTES]), text("a")], None),
        ] {
            let threads = seen(inputs, prompt);
            assert!(!threads.is_empty() && !threads.contains(&here));
        }
    }
}
