//! What a request asks of sampling, with what the model's makers suggest where it is silent.

use polylora_generation::SamplingParams;
use polylora_models::GenerationConfig;

use crate::{GenerateError, SamplingRequest};

/// What bounds the request besides its own words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SequenceBounds<'a> {
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// Tokens that prompt and output may have together.
    pub(crate) context: usize,
    /// Number of token ids.
    pub(crate) vocab_size: usize,
    /// The ids that end the model's texts.
    pub(crate) eos: &'a [u32],
}

/// The checked parameters of a request for `copies` sequences.
///
/// As in vLLM, `generation_config.json` brings its numbers where the request names none, and its `do_sample: false` is not
/// looked at: OpenAI's default temperature of 1 holds.
///
/// # Errors
/// The field that cannot be, or numbers that the context has no room for.
pub(crate) fn sampling_params(
    request: &SamplingRequest,
    copies: usize,
    suggested: &GenerationConfig,
    bounds: SequenceBounds<'_>,
) -> Result<SamplingParams, GenerateError> {
    let SequenceBounds { prompt, context, vocab_size, eos } = bounds;
    if prompt == 0 {
        return Err(GenerateError::EmptyPrompt);
    }
    let left = context.saturating_sub(prompt);
    let max_tokens = match request.max_tokens {
        Some(asked) if asked > left => {
            return Err(GenerateError::TooLong { prompt, max_tokens: asked, context });
        }
        None if left == 0 => return Err(GenerateError::TooLong { prompt, max_tokens: 1, context }),
        Some(asked) => asked,
        None => suggested.max_new_tokens.map_or(left, |most| left.min(most as usize)),
    };
    let default = SamplingParams::default();
    let count = |field, asked: Option<usize>| {
        asked.map(u32::try_from).transpose().map_err(|_| GenerateError::Sampling {
            field,
            reason: format!("{field} must be 0 to {}", polylora_generation::MAX_LOGPROBS),
        })
    };
    let params = SamplingParams {
        n: copies,
        temperature: request.temperature.or(suggested.temperature).unwrap_or(default.temperature),
        top_p: request.top_p.or(suggested.top_p).unwrap_or(default.top_p),
        top_k: request.top_k.or(suggested.top_k.map(i64::from)).unwrap_or(default.top_k),
        min_p: request.min_p.or(suggested.min_p).unwrap_or(default.min_p),
        repetition_penalty: request
            .repetition_penalty
            .or(suggested.repetition_penalty)
            .unwrap_or(default.repetition_penalty),
        presence_penalty: request.presence_penalty.unwrap_or(default.presence_penalty),
        frequency_penalty: request.frequency_penalty.unwrap_or(default.frequency_penalty),
        logit_bias: request.logit_bias.iter().copied().collect(),
        seed: request.seed,
        min_tokens: request.min_tokens,
        max_tokens: Some(max_tokens),
        stop: request.stop.clone(),
        stop_token_ids: request.stop_token_ids.clone(),
        ignore_eos: request.ignore_eos,
        include_stop_str_in_output: request.include_stop_str_in_output,
        logprobs: count("logprobs", request.logprobs)?,
        prompt_logprobs: count("prompt_logprobs", request.prompt_logprobs)?,
        skip_special_tokens: request.skip_special_tokens,
        spaces_between_special_tokens: default.spaces_between_special_tokens,
    };
    params
        .check(vocab_size, eos)
        .map_err(|error| GenerateError::Sampling { field: error.field(), reason: error.to_string() })?;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: SequenceBounds<'_> = SequenceBounds { prompt: 10, context: 32, vocab_size: 100, eos: &[7] };

    fn of(request: &SamplingRequest) -> Result<SamplingParams, GenerateError> {
        let suggested = GenerationConfig {
            temperature: Some(0.7),
            top_k: Some(20),
            max_new_tokens: Some(15),
            ..GenerationConfig::default()
        };
        sampling_params(request, 1, &suggested, BOUNDS)
    }

    #[test]
    fn the_request_goes_before_the_models_makers_and_they_before_the_defaults() {
        let params = of(&SamplingRequest { temperature: Some(0.0), ..SamplingRequest::default() }).unwrap();
        assert_eq!((params.temperature, params.top_k, params.top_p), (0.0, 20, 1.0));
        assert_eq!(params.max_tokens, Some(15));
    }

    #[test]
    fn what_the_context_has_no_room_for_is_refused_with_the_numbers() {
        let long = SamplingRequest { max_tokens: Some(23), ..SamplingRequest::default() };
        assert_eq!(of(&long), Err(GenerateError::TooLong { prompt: 10, max_tokens: 23, context: 32 }));
        let fits = SamplingRequest { max_tokens: Some(22), ..SamplingRequest::default() };
        assert_eq!(of(&fits).unwrap().max_tokens, Some(22));
        let full = SequenceBounds { prompt: 32, ..BOUNDS };
        let refused = sampling_params(&SamplingRequest::default(), 1, &GenerationConfig::default(), full);
        assert_eq!(refused, Err(GenerateError::TooLong { prompt: 32, max_tokens: 1, context: 32 }));
        let none = SequenceBounds { prompt: 0, ..BOUNDS };
        let refused = sampling_params(&SamplingRequest::default(), 1, &GenerationConfig::default(), none);
        assert_eq!(refused, Err(GenerateError::EmptyPrompt));
    }

    #[test]
    fn a_value_out_of_bounds_is_told_by_its_field() {
        for (request, field) in [
            (SamplingRequest { top_p: Some(0.0), ..SamplingRequest::default() }, "top_p"),
            (SamplingRequest { logprobs: Some(21), ..SamplingRequest::default() }, "logprobs"),
            (SamplingRequest { logit_bias: vec![(100, 1.0)], ..SamplingRequest::default() }, "logit_bias"),
            (SamplingRequest { max_tokens: Some(0), ..SamplingRequest::default() }, "max_tokens"),
        ] {
            let Err(GenerateError::Sampling { field: found, reason }) = of(&request) else {
                panic!("{field}")
            };
            assert!(found == field && reason.contains(field), "{reason}");
        }
    }
}
