//! Base and adapters give what transformers and PEFT give.

use std::io::Write;

use polylora_kernels::device::{DTypeSpec, DeviceSpec, OpenDevice, open};
use polylora_models::WantedLogits;

use crate::fixture::{FAMILIES, cpu, golden, golden_rows, llm, load};
use crate::speaker::{Speaker, Turn, error};

/// Of the largest logit.
const TOLERANCE: f32 = 1e-3;

fn assert_golden(family: &str, on: &OpenDevice) {
    let speaker = Speaker::new(family, on);
    let golden = golden(family);
    let prompts: Vec<&[u32]> = golden.prompts.iter().map(|prompt| prompt.input_ids.as_slice()).collect();
    let file = llm(family).join("golden.safetensors");
    assert_eq!(golden.runs.len(), 3);
    for (name, run) in &golden.runs {
        let adapter = speaker.adapter(name);
        assert_eq!(adapter.is_none(), name == "base");
        let turn = |(sequence, tokens), logits| Turn { sequence, tokens, context: 0, adapter, logits };
        let turns: Vec<_> =
            prompts.iter().copied().enumerate().map(|p| turn(p, WantedLogits::Last)).collect();
        let last = speaker.step(&turns, &mut speaker.cache());
        let wrong = error(&last, &golden_rows(&file, &format!("{name}.last_logits")));
        assert!(wrong <= TOLERANCE, "{family}, {name}: last logits differ by {wrong}");

        let whole = turn((0, prompts[run.full_prompt_index]), WantedLogits::All);
        let all = speaker.step(&[whole], &mut speaker.cache());
        let wrong = error(&all, &golden_rows(&file, &format!("{name}.all_logits")));
        assert!(wrong <= TOLERANCE, "{family}, {name}: all logits differ by {wrong}");

        let spoken = speaker.greedy(&prompts, adapter, run.greedy[0].tokens.len());
        for (spoken, greedy) in spoken.iter().zip(&run.greedy) {
            let (tokens, logprobs): (Vec<u32>, Vec<f32>) = spoken.iter().copied().unzip();
            assert_eq!(tokens, greedy.tokens, "{family}, {name}");
            let wrong = logprobs.iter().zip(&greedy.logprobs).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
            assert!(wrong <= 5e-3, "{family}, {name}: logprobs differ by {wrong}");
        }
    }
}

#[test]
fn llama_speaks_as_transformers_has_it() {
    assert_golden("llama", &cpu(DTypeSpec::F32));
}

#[test]
fn mistral_speaks_as_transformers_has_it() {
    assert_golden("mistral", &cpu(DTypeSpec::F32));
}

#[test]
fn qwen2_speaks_as_transformers_has_it() {
    assert_golden("qwen2", &cpu(DTypeSpec::F32));
}

#[test]
fn qwen2_with_yarn_speaks_as_transformers_has_it() {
    assert_golden("qwen2_yarn", &cpu(DTypeSpec::F32));
}

#[test]
fn qwen3_speaks_as_transformers_has_it() {
    assert_golden("qwen3", &cpu(DTypeSpec::F32));
}

#[test]
fn llama_and_qwen3_speak_the_same_on_wgpu() {
    match open(DeviceSpec::Wgpu(None), DTypeSpec::F32) {
        Ok(gpu) => ["llama", "qwen3"].into_iter().for_each(|family| assert_golden(family, &gpu)),
        Err(error) => {
            let required =
                std::env::var_os("POLYLORA_REQUIRE_WGPU").is_some_and(|v| !v.is_empty() && v != "0");
            assert!(!required, "POLYLORA_REQUIRE_WGPU is set: {error}");
            let _ = writeln!(std::io::stderr(), "NOT RUN: decoders on wgpu: {error}");
        }
    }
}

#[test]
fn texts_and_ids_are_those_of_the_tokenizer_of_transformers() {
    for family in FAMILIES {
        let (model, golden) = (load(family, &cpu(DTypeSpec::F32)), golden(family));
        let tokenizer = model.tokenizer();
        for prompt in &golden.prompts {
            assert_eq!(tokenizer.encode(&prompt.text, false).expect("encodes"), prompt.input_ids, "{family}");
        }
        for greedy in golden.runs.values().flat_map(|run| &run.greedy) {
            let decoded = |skip| tokenizer.decode(&greedy.tokens, skip).expect("decodes");
            assert_eq!(
                (decoded(true), decoded(false)),
                (greedy.text.clone(), greedy.text_with_special.clone())
            );
        }
    }
}

#[test]
fn tokens_that_end_a_text_are_those_of_the_files() {
    for (family, ends) in [("llama", vec![508, 511]), ("mistral", vec![2]), ("qwen3", vec![509, 511])] {
        assert_eq!(load(family, &cpu(DTypeSpec::F32)).end_token_ids(), ends, "{family}");
    }
}
