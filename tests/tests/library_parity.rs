//! The real model through the library against what sentence-transformers and PEFT computed, and the laws of a mixed batch.

use polylora_tests::{Bench, Golden, largest_difference};
use proptest::prelude::*;
use std::sync::OnceLock;

/// Golden data and the model with all adapters, loaded once.
fn loaded() -> &'static (Golden, Bench) {
    static LOADED: OnceLock<(Golden, Bench)> = OnceLock::new();
    LOADED.get_or_init(|| {
        let golden = Golden::read();
        let bench = Bench::new(&golden.adapters);
        (golden, bench)
    })
}

#[test]
fn token_ids_are_those_of_sentence_transformers() {
    let (golden, bench) = loaded();
    for (text, ids) in golden.sentences.iter().zip(&golden.ids) {
        assert_eq!(&bench.model.tokenizer().encode(text, true).expect("encodes"), ids);
    }
    assert_eq!(bench.model.max_tokens(), 256);
}

#[test]
fn base_and_each_adapter_alone_give_the_golden_embeddings() {
    let (golden, bench) = loaded();
    for adapter in std::iter::once(None).chain((0..golden.adapters.len()).map(Some)) {
        let name = adapter.map(|a| golden.adapters[a].as_str());
        let rows: Vec<_> = golden.ids.iter().map(|ids| (ids.as_slice(), adapter)).collect();
        let (got, launches) = bench.embed(&rows);
        let error = largest_difference(&got, &golden.embeddings(name));
        assert!(error <= 2e-4, "{name:?}: {error}");
        assert_eq!(launches == 0, adapter.is_none());
    }
}

#[test]
fn all_adapters_and_the_base_mixed_in_one_batch_give_the_golden_embeddings() {
    let (golden, bench) = loaded();
    let kinds = golden.adapters.len() + 1;
    let adapter_of = |i: usize| (i % kinds).checked_sub(1);
    let rows: Vec<_> =
        golden.ids.iter().enumerate().map(|(i, ids)| (ids.as_slice(), adapter_of(i))).collect();
    let (got, _) = bench.embed(&rows);
    for (i, row) in got.iter().enumerate() {
        let name = adapter_of(i).map(|a| golden.adapters[a].as_str());
        let error = largest_difference(std::slice::from_ref(row), &golden.embeddings(name)[i..=i]);
        assert!(error <= 2e-4, "sentence {i} through {name:?}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn mixed_batch_equals_each_row_alone_to_the_bit(
        rows in proptest::collection::vec((0usize..64, proptest::option::of(0usize..7)), 1..10),
    ) {
        let (golden, bench) = loaded();
        let rows: Vec<_> = rows.into_iter().map(|(i, a)| (golden.ids[i].as_slice(), a)).collect();
        let (together, _) = bench.embed(&rows);
        for (row, got) in rows.iter().zip(&together) {
            prop_assert_eq!(&bench.embed(&[*row]).0[0], got);
        }
        let backwards: Vec<_> = rows.iter().rev().copied().collect();
        let (mut reversed, _) = bench.embed(&backwards);
        reversed.reverse();
        prop_assert_eq!(reversed, together);
    }
}
