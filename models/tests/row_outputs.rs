//! What rows become: the law between token states, raw embeddings and golden ones, over a tiny random BERT.

use std::fs;
use std::path::{Path, PathBuf};

use polylora_adapters::{AdapterManifest, BaseModel, FileTrust, LoadedAdapter};
use polylora_kernels::device::{DTypeSpec, DeviceSpec, open};
use polylora_kernels::{AdapterMemory, LoraBatch, PlacedAdapter, segments_of};
use polylora_models::{EmbeddingModel, RowOutput};
use proptest::prelude::*;
use safetensors::SafeTensors;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/encoders/bert")
}

fn load(dir: &Path) -> EmbeddingModel {
    EmbeddingModel::load(dir, &open(DeviceSpec::Cpu, DTypeSpec::F32).expect("a cpu")).expect("loads")
}

fn model() -> EmbeddingModel {
    load(&fixture().join("model"))
}

fn adapter(model: &EmbeddingModel) -> LoadedAdapter {
    let folder = fixture().join("adapters/a1");
    let manifest = AdapterManifest::inspect(&folder, FileTrust::WithinFolder, model.catalog());
    manifest.expect("inspects").load(model).expect("loads")
}

fn golden(name: &str) -> Vec<Vec<f32>> {
    let bytes = fs::read(fixture().join("golden.safetensors")).expect("golden");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = tensors.tensor(name).expect("a golden tensor");
    let values: Vec<f32> =
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4"))).collect();
    values.chunks_exact(tensor.shape()[1]).map(<[f32]>::to_vec).collect()
}

fn tokens() -> Vec<Vec<u32>> {
    let text = fs::read_to_string(fixture().join("input_ids.json")).expect("ids");
    serde_json::from_str(&text).expect("lists")
}

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b).flat_map(|(x, y)| {
        assert_eq!(x.len(), y.len());
        x.iter().zip(y)
    });
    pairs.map(|(x, y)| (x - y).abs()).fold(0.0, |most, d| if d > most || d.is_nan() { d } else { most })
}

/// What each row asks for, one batch over the base and the adapter.
fn compute(
    model: &EmbeddingModel,
    rows: &[(&[u32], bool, RowOutput)],
    adapter: &LoadedAdapter,
    mut memory: AdapterMemory,
) -> Vec<Vec<f32>> {
    memory.store(0, &adapter.extent);
    let placed = PlacedAdapter { extent: adapter.extent.clone(), offset: 0 };
    let segments = segments_of(rows.iter().map(|(ids, on, _)| (ids.len(), on.then_some(0))));
    let (ids, outputs): (Vec<&[u32]>, Vec<RowOutput>) = rows.iter().map(|r| (r.0, r.2)).unzip();
    model.compute(&ids, &outputs, &LoraBatch::new(segments, vec![placed], memory)).expect("computes")
}

fn mean(tokens: &[f32], width: usize) -> Vec<f32> {
    let count = (tokens.len() / width) as f32;
    (0..width).map(|column| tokens.iter().skip(column).step_by(width).sum::<f32>() / count).collect()
}

fn normalised(vector: &[f32]) -> Vec<f32> {
    let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    vector.iter().map(|v| v / norm).collect()
}

#[test]
fn tokens_averaged_by_hand_are_the_raw_embedding_and_normalised_the_golden_one() {
    let model = model();
    let (ids, adapter, width) = (tokens(), adapter(&model), model.width());
    for (on, golden) in [(false, golden("base")), (true, golden("a1"))] {
        let of = |output| {
            let rows: Vec<_> = ids.iter().map(|ids| (ids.as_slice(), on, output)).collect();
            compute(&model, &rows, &adapter, AdapterMemory::HostAlias)
        };
        let (states, raw) = (of(RowOutput::Tokens), of(RowOutput::Raw));
        for (states, ids) in states.iter().zip(&ids) {
            assert_eq!(states.len(), ids.len() * width);
        }
        let means: Vec<_> = states.iter().map(|states| mean(states, width)).collect();
        assert!(largest_difference(&means, &raw) <= 1e-5);
        let from_raw: Vec<_> = raw.iter().map(|raw| normalised(raw)).collect();
        assert!(largest_difference(&from_raw, &golden) <= 2e-4);
        assert_eq!(of(RowOutput::Normalized), of(RowOutput::Embedding));
        assert!(raw.iter().any(|raw| (raw.iter().map(|v| v * v).sum::<f32>().sqrt() - 1.0).abs() > 0.01));
    }
}

#[test]
fn a_model_without_normalisation_gives_raw_embeddings_unless_they_are_asked_to_be_normalised() {
    let copy = tempfile::tempdir().expect("a folder");
    fs::create_dir(copy.path().join("1_Pooling")).expect("a folder");
    let names = ["config.json", "model.safetensors", "tokenizer.json", "sentence_bert_config.json"];
    for name in names.into_iter().chain(["1_Pooling/config.json", "tokenizer_config.json"]) {
        fs::copy(fixture().join("model").join(name), copy.path().join(name)).expect("copies");
    }
    let text = fs::read_to_string(fixture().join("model/modules.json")).expect("reads");
    let mut modules: Vec<serde_json::Value> = serde_json::from_str(&text).expect("a list");
    assert!(modules.pop().is_some_and(|last| last["path"] == "2_Normalize"));
    let text = serde_json::to_string(&modules).expect("json");
    fs::write(copy.path().join("modules.json"), text).expect("writes");
    let (plain, whole) = (load(copy.path()), model());
    let ids = tokens();
    let rows: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let of = |model: &EmbeddingModel, output| {
        model.compute(&rows, &vec![output; rows.len()], &LoraBatch::base()).expect("computes")
    };
    assert_eq!(of(&plain, RowOutput::Embedding), of(&whole, RowOutput::Raw));
    assert_eq!(of(&plain, RowOutput::Normalized), of(&whole, RowOutput::Embedding));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_batch_mates_become_does_not_change_a_bit_of_what_a_row_becomes(
        rows in proptest::collection::vec((0usize..16, any::<bool>(), 0usize..4), 1..12),
    ) {
        let outputs = [RowOutput::Embedding, RowOutput::Normalized, RowOutput::Raw, RowOutput::Tokens];
        let model = model();
        let (ids, adapter) = (tokens(), adapter(&model));
        let together: Vec<_> =
            rows.iter().map(|(i, on, output)| (ids[*i].as_slice(), *on, outputs[*output])).collect();
        let got = compute(&model, &together, &adapter, AdapterMemory::HostAlias);
        for (row, got) in together.iter().zip(got) {
            prop_assert_eq!(&compute(&model, &[*row], &adapter, AdapterMemory::HostAlias)[0], &got);
        }
    }
}
