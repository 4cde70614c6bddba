//! The number formats of the CPU with the real model: how near they are to f32, and that a row is what it is alone.

use std::num::NonZeroUsize;

use polylora_kernels::device::{DTypeSpec, DeviceSpec, open};
use polylora_kernels::{LoraBatch, team};
use polylora_models::EmbeddingModel;
use polylora_server::bench_command::{Agreement, Sentences};
use polylora_tests::{Golden, Server, minilm_dir};
use serde_json::json;

const ALL: [DTypeSpec; 3] = [DTypeSpec::F32, DTypeSpec::Bf16, DTypeSpec::Int8];
const NEAR: [(DTypeSpec, f64); 2] = [(DTypeSpec::Bf16, 0.9999), (DTypeSpec::Int8, 0.99)];

/// The real model, for two threads also where there is one core.
fn model(dtype: DTypeSpec) -> EmbeddingModel {
    team::set_threads(NonZeroUsize::new(2).expect("above zero")).expect("nobody asked for others");
    let on = open(DeviceSpec::Cpu, dtype).expect("a cpu");
    assert_eq!(on.dtype_name(), dtype.to_string(), "the CPU computes in what is asked for");
    EmbeddingModel::load(&minilm_dir(), &on).expect("the real model loads")
}

fn embed(model: &EmbeddingModel, rows: &[&[u32]]) -> Vec<Vec<f32>> {
    model.embed(rows, &LoraBatch::base()).expect("embeds")
}

/// How near `dtype` is to f32 on the sentences of `polylora bench`.
fn agreement(dtype: DTypeSpec) -> Agreement {
    let sentences = Sentences::builtin();
    let embedded = |dtype| {
        let model = model(dtype);
        let ids = |text: &String| model.tokenizer().encode(text, true).expect("encodes");
        let ids: Vec<Vec<u32>> = sentences.texts.iter().map(ids).collect();
        embed(&model, &ids.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    let agreement = Agreement::between(&sentences, &embedded(DTypeSpec::F32), &embedded(dtype));
    eprintln!("{dtype}: {agreement:?}");
    agreement
}

/// Real texts of many lengths, from one word to the model's limit.
fn mixed_lengths(model: &EmbeddingModel) -> Vec<Vec<u32>> {
    let texts = Sentences::builtin().texts;
    let mut mixed: Vec<String> = texts.iter().step_by(5).cloned().collect();
    mixed.extend([2, 3, 5, 9, 40].map(|sentences| texts[..sentences].join(" ")));
    mixed.push("a".into());
    let rows = mixed.iter().map(|text| model.tokenizer().encode(text, true).expect("encodes"));
    let rows: Vec<Vec<u32>> = rows.collect();
    let (shortest, longest) = (rows.iter().map(Vec::len).min(), rows.iter().map(Vec::len).max());
    assert_eq!((shortest, longest), (Some(3), Some(model.max_tokens())));
    rows
}

#[test]
fn bf16_is_within_1e_4_of_f32_in_cosine_on_real_sentences() {
    let agreement = agreement(DTypeSpec::Bf16);
    assert!(agreement.lowest_cosine >= 0.9999, "{agreement:?}");
    // What is no different at all is not bf16.
    assert!(agreement.lowest_cosine < 0.999_999_9, "{agreement:?}");
}

#[test]
fn int8_is_within_1e_2_of_f32_in_cosine_on_real_sentences() {
    let agreement = agreement(DTypeSpec::Int8);
    assert!(agreement.lowest_cosine >= 0.99, "{agreement:?}");
    assert!(agreement.lowest_cosine < 0.9999, "{agreement:?}");
}

#[test]
fn top_1_of_retrieval_is_the_same_in_every_dtype() {
    for dtype in ALL {
        let retrieval = agreement(dtype).retrieval;
        assert_eq!(retrieval.same_top_1, retrieval.queries, "{dtype}: {retrieval:?}");
        // A model that finds little would keep its first place by chance.
        assert!(retrieval.right_top_1 >= 15, "{dtype}: {retrieval:?}");
    }
}

#[test]
fn batch_mates_do_not_change_a_row_in_any_dtype() {
    for dtype in ALL {
        let model = model(dtype);
        assert_eq!(team::threads(), 2);
        let rows = mixed_lengths(&model);
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let bits = |rows: &[&[u32]]| -> Vec<Vec<u32>> {
            embed(&model, rows).iter().map(|row| row.iter().map(|v| v.to_bits()).collect()).collect()
        };
        let alone: Vec<Vec<u32>> =
            team::with_threads(NonZeroUsize::MIN, || rows.iter().flat_map(|row| bits(&[row])).collect());
        let backwards: Vec<usize> = (0..rows.len()).rev().collect();
        let repeated: Vec<usize> = (0..3 * rows.len()).map(|i| i * 7 % rows.len()).collect();
        let few = [rows.len() - 1, 0, rows.len() - 2];
        for threads in [1, 2] {
            let threads = NonZeroUsize::new(threads).expect("above zero");
            for batch in [&backwards[..], &repeated, &few, &few[1..2]] {
                let texts: Vec<&[u32]> = batch.iter().map(|row| rows[*row]).collect();
                let got = team::with_threads(threads, || bits(&texts));
                for (row, got) in batch.iter().zip(&got) {
                    let tokens = rows[*row].len();
                    let batch = batch.len();
                    assert!(
                        got == &alone[*row],
                        "{dtype}: {tokens} tokens among {batch} texts on {threads} threads"
                    );
                }
            }
        }
    }
}

#[test]
fn each_dtype_is_served_over_http_as_near_to_f32_as_through_the_library() {
    let (sentences, golden) = (Sentences::builtin(), Golden::read());
    let exact = Server::start(&["--dtype", "f32"]).embed("minilm", json!(sentences.texts));
    for (dtype, nearest) in NEAR {
        let dtype = dtype.to_string();
        let server = Server::start(&["--dtype", &dtype, "--threads", "2"]);
        let log = server.log();
        let said = log.iter().filter(|line| line.contains("computing on cpu") && line.contains(&dtype));
        assert_eq!(said.count(), 1, "{log:?}");
        assert_eq!(server.get("/v1/models").body["data"][0]["dtype"], dtype.as_str());
        let agreement =
            Agreement::between(&sentences, &exact, &server.embed("minilm", json!(sentences.texts)));
        assert!(agreement.lowest_cosine >= nearest, "{dtype}: {agreement:?}");
        assert_eq!(agreement.retrieval.same_top_1, agreement.retrieval.queries, "{dtype}: {agreement:?}");
        let one = server.embed_bits("minilm", json!(golden.sentences[0]));
        let all = server.embed_bits("minilm", json!(golden.sentences));
        assert_eq!(one[..], all[..1], "{dtype}: a text alone and among others");
    }
}
