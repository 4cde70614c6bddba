//! What a row gives depends on its own past and adapter alone, to the last bit on the CPU.

use polylora_kernels::device::DTypeSpec;
use polylora_models::WantedLogits;
use proptest::prelude::*;

use crate::fixture::{FAMILIES, cpu, golden};
use crate::speaker::{Speaker, Turn, most_likely};

fn prompts(family: &str) -> Vec<Vec<u32>> {
    golden(family).prompts.into_iter().map(|prompt| prompt.input_ids).collect()
}

/// The logits of every token of `prompt` when it comes in pieces that end at `cuts`.
fn in_pieces(speaker: &Speaker, prompt: &[u32], cuts: &[usize], adapter: Option<usize>) -> Vec<Vec<f32>> {
    let (mut cache, mut start, mut logits) = (speaker.cache(), 0, vec![]);
    for end in cuts.iter().copied().chain([prompt.len()]).filter(|end| *end <= prompt.len()) {
        if end > start {
            let tokens = &prompt[start..end];
            let turn = Turn { sequence: 0, tokens, context: start, adapter, logits: WantedLogits::All };
            logits.extend(speaker.step(&[turn], &mut cache));
            start = end;
        }
    }
    logits
}

fn any_family() -> impl Strategy<Value = &'static str> {
    prop::sample::select(FAMILIES.to_vec())
}

fn any_dtype() -> impl Strategy<Value = DTypeSpec> {
    prop::sample::select(vec![DTypeSpec::F32, DTypeSpec::Bf16])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_prompt_in_pieces_gives_the_bits_of_the_whole(
        (family, dtype) in (any_family(), any_dtype()),
        prompt in 0usize..6,
        mut cuts in prop::collection::vec(1usize..52, 0..6),
        adapter in prop::option::of(0usize..2),
    ) {
        cuts.sort_unstable();
        let speaker = Speaker::new(family, &cpu(dtype));
        let prompt = &prompts(family)[prompt];
        let whole = in_pieces(&speaker, prompt, &[], adapter);
        prop_assert_eq!(in_pieces(&speaker, prompt, &cuts, adapter), whole);
    }

    #[test]
    fn batch_mates_and_their_adapters_do_not_change_a_bit(
        (family, dtype) in (any_family(), any_dtype()),
        rows in prop::collection::vec((0usize..6, prop::option::of(0usize..2), 0usize..8), 1..8),
    ) {
        let speaker = Speaker::new(family, &cpu(dtype));
        let prompts = prompts(family);
        let mut cache = speaker.cache();
        // Some have a past in the cache, the others come new; then all take a step together.
        let halves: Vec<(&[u32], &[u32], Option<usize>)> = rows
            .iter()
            .map(|(prompt, adapter, past)| {
                let prompt = &prompts[*prompt];
                let (before, new) = prompt.split_at((*past).min(prompt.len() - 1));
                (before, new, *adapter)
            })
            .collect();
        for (sequence, (tokens, _, adapter)) in halves.iter().copied().enumerate() {
            if !tokens.is_empty() {
                let turn = Turn { sequence, tokens, context: 0, adapter, logits: WantedLogits::Nothing };
                prop_assert!(speaker.step(&[turn], &mut cache).is_empty());
            }
        }
        let turns: Vec<Turn> = halves
            .iter()
            .enumerate()
            .map(|(sequence, (before, tokens, adapter))| Turn {
                sequence, tokens, context: before.len(), adapter: *adapter, logits: WantedLogits::Last,
            })
            .collect();
        let together = speaker.step(&turns, &mut cache);
        for ((prompt, adapter, _), found) in rows.iter().zip(together) {
            prop_assert_eq!(speaker.last_logits(&prompts[*prompt], *adapter), found);
        }
    }

    #[test]
    fn which_blocks_hold_a_past_does_not_matter(
        family in any_family(),
        order in Just((0..24u32).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let speaker = Speaker::new(family, &cpu(DTypeSpec::F32));
        let prompt = &prompts(family)[3];
        let mut cache = speaker.cache();
        let (before, new) = prompt.split_at(20);
        let mut found = vec![];
        for (tokens, context) in [(before, 0), (new, 20)] {
            let turn = Turn { sequence: 0, tokens, context, adapter: Some(0), logits: WantedLogits::Last };
            found = speaker.step_in(&[turn], &mut cache, |_| order.clone());
        }
        prop_assert_eq!(found.remove(0), speaker.last_logits(prompt, Some(0)));
    }
}

#[test]
fn a_sequence_goes_on_in_copied_blocks_as_in_its_own() {
    let speaker = Speaker::new("llama", &cpu(DTypeSpec::F32));
    let prompt = &prompts("llama")[2];
    let mut cache = speaker.cache();
    let (before, new) = prompt.split_at(14);
    let turn = |sequence, tokens, context| Turn {
        sequence,
        tokens,
        context,
        adapter: None,
        logits: WantedLogits::Last,
    };
    speaker.step(&[turn(0, before, 0)], &mut cache);
    let copies: Vec<(u32, u32)> = Speaker::blocks(0).into_iter().zip(Speaker::blocks(1)).take(4).collect();
    cache.copy_blocks(&copies);
    let found = speaker.step(&[turn(1, new, 14), turn(0, new, 14)], &mut cache);
    let whole = speaker.last_logits(prompt, None);
    assert_eq!(found, [whole.clone(), whole]);
}

#[test]
fn sixteen_bits_stay_close() {
    for family in FAMILIES {
        let wide = Speaker::new(family, &cpu(DTypeSpec::F32));
        for dtype in [DTypeSpec::Bf16, DTypeSpec::F16] {
            let narrow = Speaker::new(family, &cpu(dtype));
            for prompt in prompts(family) {
                for adapter in [None, Some(0)] {
                    let (wide, narrow) =
                        (wide.last_logits(&prompt, adapter), narrow.last_logits(&prompt, adapter));
                    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
                    let cosine = dot(&wide, &narrow) / (dot(&wide, &wide) * dot(&narrow, &narrow)).sqrt();
                    assert!(cosine > 0.998, "{family} in {dtype}: cosine {cosine}");
                }
            }
        }
    }
}

#[test]
fn int8_weights_stay_close() {
    let (wide, narrow) =
        (Speaker::new("llama", &cpu(DTypeSpec::F32)), Speaker::new("llama", &cpu(DTypeSpec::Int8)));
    let agree = prompts("llama").into_iter().filter(|prompt| {
        let [wide, narrow] = [&wide, &narrow].map(|speaker| most_likely(&speaker.last_logits(prompt, None)));
        wide == narrow
    });
    assert!(agree.count() >= 4);
}

#[test]
fn a_step_whose_rows_want_nothing_gives_no_logits_and_still_remembers() {
    let speaker = Speaker::new("qwen3", &cpu(DTypeSpec::F32));
    let prompt = &prompts("qwen3")[0];
    let mut cache = speaker.cache();
    let (before, new) = prompt.split_at(3);
    let turn = |tokens, context, logits| Turn { sequence: 0, tokens, context, adapter: None, logits };
    assert!(speaker.step(&[turn(before, 0, WantedLogits::Nothing)], &mut cache).is_empty());
    let found = speaker.step(&[turn(new, 3, WantedLogits::Last)], &mut cache);
    assert_eq!(found, [speaker.last_logits(prompt, None)]);
}
