//! How sequences end, and what of their text is given out.

use polylora_generation::*;
use proptest::prelude::*;

use crate::doors::ByteLevel;

const EOS: u32 = 100;
const STOP: u32 = 3;

/// All events of `tokens`, up to the end.
fn events(params: &SamplingParams, door: &ByteLevel, tokens: &[u32]) -> Vec<TextEvent> {
    let mut text = SequenceText::new(params, &[EOS], &[], door);
    let mut events = Vec::new();
    for &token in tokens {
        events.push(text.push(token, door));
        assert_eq!(text.tokens(), events.len());
        if events[events.len() - 1].finish.is_some() {
            break;
        }
    }
    events
}

fn text_of(events: &[TextEvent]) -> String {
    events.iter().map(|event| event.text_delta.as_str()).collect()
}

/// The end and the text of `tokens` by looking at the whole text after each token.
fn plain(params: &SamplingParams, door: &ByteLevel, tokens: &[u32]) -> (usize, String, Option<FinishReason>) {
    let special = SpecialTokens::of(params);
    let mut shown: Vec<u32> = Vec::new();
    let mut silent = 0;
    for (index, &token) in tokens.iter().enumerate() {
        let count = index + 1;
        let may_stop = count > params.min_tokens;
        let mut end = (Some(count) == params.max_tokens).then_some(FinishReason::Length);
        let mut is_shown = true;
        if may_stop && token == EOS && !params.ignore_eos {
            (end, is_shown) = (Some(FinishReason::Stop(StopMatch::EndOfSequence(EOS))), false);
        } else if may_stop && params.stop_token_ids.contains(&token) {
            end = Some(FinishReason::Stop(StopMatch::Token(token)));
            is_shown = params.include_stop_str_in_output;
        }
        if is_shown {
            shown.push(token);
        }
        let whole = door.text_of(&shown, special);
        if !may_stop {
            silent = whole.len();
        }
        for to in silent + 1..=whole.len() {
            let mut found: Vec<&String> =
                params.stop.iter().filter(|stop| whole.as_bytes()[..to].ends_with(stop.as_bytes())).collect();
            found.sort_by_key(|stop| stop.len());
            if let Some(stop) = found.pop() {
                let cut = if params.include_stop_str_in_output { to } else { to - stop.len() };
                let reason = FinishReason::Stop(StopMatch::Text(stop.clone()));
                return (count, whole[..cut].to_owned(), Some(reason));
            }
        }
        if end.is_some() {
            return (count, whole, end);
        }
    }
    (tokens.len(), door.text_of(&shown, special), None)
}

fn door() -> ByteLevel {
    ByteLevel::of_texts(&["a", "b", "ab", "ba", "é", " aab"])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn text_and_end_are_those_of_a_look_at_the_whole_text(
        tokens in prop::collection::vec(prop_oneof![12 => 0u32..6, 1 => Just(EOS)], 0..40),
        stop in prop::collection::vec("[ab é<]{2,7}", 0..4),
        has_stop_token in any::<bool>(),
        flags in any::<[bool; 3]>(),
        (min_tokens, max_tokens) in (0usize..12, prop::option::of(12usize..40)),
    ) {
        let [ignore_eos, include_stop_str_in_output, skip_special_tokens] = flags;
        let stop_token_ids = if has_stop_token { vec![STOP] } else { vec![] };
        let params = SamplingParams {
            stop, stop_token_ids, ignore_eos, include_stop_str_in_output, skip_special_tokens, min_tokens,
            max_tokens, ..SamplingParams::default()
        };
        let door = door();
        let events = events(&params, &door, &tokens);
        let (count, text, finish) = plain(&params, &door, &tokens);
        prop_assert_eq!(events.len(), count);
        prop_assert_eq!(events.last().and_then(|event| event.finish.clone()), finish.clone());
        let given = text_of(&events);
        if finish.is_some() {
            prop_assert_eq!(given, text);
        } else {
            // Without an end some of it may wait; closing gives the rest.
            let mut open = SequenceText::new(&params, &[EOS], &[], &door);
            let before: String = tokens.iter().map(|&token| open.push(token, &door).text_delta).collect();
            prop_assert_eq!(&before, &given);
            prop_assert_eq!(before + &open.close(&door), text);
            prop_assert_eq!(open.close(&door), "", "closed once");
        }
    }

    #[test]
    fn offsets_count_the_characters_before_a_token(texts in prop::collection::vec("[aé€😀]{0,5}", 1..30)) {
        let door = ByteLevel::of_texts(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let mut before = 0;
        for (event, text) in events(&SamplingParams::default(), &door, &door.tokens()).iter().zip(&texts) {
            prop_assert_eq!(event.text_offset, before);
            before += text.chars().count();
        }
    }
}

#[test]
fn an_end_of_sequence_token_has_no_text_even_when_special_tokens_have() {
    for include_stop_str_in_output in [false, true] {
        let params = SamplingParams {
            skip_special_tokens: false,
            include_stop_str_in_output,
            ..SamplingParams::default()
        };
        let events = events(&params, &door(), &[0, EOS, 1]);
        assert_eq!(text_of(&events), "a");
        let end = FinishReason::Stop(StopMatch::EndOfSequence(EOS));
        assert_eq!((events.len(), events[1].finish.clone()), (2, Some(end)));
    }
}

#[test]
fn an_ignored_end_of_sequence_token_is_a_token_like_others() {
    let params = SamplingParams { skip_special_tokens: false, ignore_eos: true, ..SamplingParams::default() };
    let events = events(&params, &door(), &[0, EOS, 1]);
    assert_eq!((text_of(&events).as_str(), events.len()), ("a<100>b", 3));
}

#[test]
fn a_stop_token_ends_and_shows_its_text_only_on_demand() {
    for (include_stop_str_in_output, text) in [(false, "a"), (true, "aba")] {
        let params = SamplingParams {
            stop_token_ids: vec![STOP],
            include_stop_str_in_output,
            ..SamplingParams::default()
        };
        let events = events(&params, &door(), &[0, STOP, 0]);
        assert_eq!(text_of(&events), text);
        assert_eq!(events[1].finish, Some(FinishReason::Stop(StopMatch::Token(STOP))));
    }
}

#[test]
fn held_back_text_is_given_out_when_the_sequence_ends_otherwise() {
    let params = SamplingParams { stop: vec!["abba".into()], ..SamplingParams::default() };
    let by_length = SamplingParams { max_tokens: Some(2), ..params.clone() };
    let by_length = events(&by_length, &door(), &[4, 2]);
    assert_eq!((by_length[0].text_delta.as_str(), by_length[1].text_delta.as_str()), ("é", "ab"));
    assert_eq!(by_length[1].finish, Some(FinishReason::Length));
    let by_eos = events(&params, &door(), &[2, EOS]);
    assert_eq!((by_eos[0].text_delta.as_str(), by_eos[1].text_delta.as_str()), ("", "ab"));
}

#[test]
fn a_stop_string_goes_before_the_length_that_is_reached_with_it() {
    let params = SamplingParams { stop: vec!["bb".into()], max_tokens: Some(3), ..SamplingParams::default() };
    let events = events(&params, &door(), &[0, 1, 1]);
    assert_eq!(text_of(&events), "a");
    assert_eq!(events[2].finish, Some(FinishReason::Stop(StopMatch::Text("bb".into()))));
}

#[test]
fn half_a_character_at_the_end_is_given_out_replaced() {
    let door = ByteLevel::new(vec![b"x\xE2".to_vec()]);
    let params = SamplingParams { max_tokens: Some(1), ..SamplingParams::default() };
    assert_eq!(text_of(&events(&params, &door, &[0])), "x\u{FFFD}");
}

#[test]
#[should_panic(expected = "after the end")]
fn a_token_after_the_end_is_a_broken_invariant() {
    let door = door();
    let mut text = SequenceText::new(&SamplingParams::default(), &[EOS], &[], &door);
    assert!(text.push(EOS, &door).finish.is_some());
    text.push(0, &door);
}

#[test]
fn reasons_have_the_names_of_the_api() {
    let stop = FinishReason::Stop(StopMatch::EndOfSequence(EOS));
    assert_eq!(
        [stop.name(), FinishReason::Length.name(), FinishReason::Abort.name()],
        ["stop", "length", "abort"]
    );
}
