//! A tiny random BERT against embeddings that sentence-transformers and PEFT computed, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use polylora_adapters::{AdapterManifest, BaseModel, FileTrust, LoadedAdapter};
use polylora_kernels::device::{DTypeSpec, DeviceSpec, open};
use polylora_kernels::{AdapterMemory, LoraBatch, PlacedAdapter, segments_of};
use polylora_models::{EmbeddingModel, ModelError};
use proptest::prelude::*;
use safetensors::SafeTensors;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/encoders/bert")
}

fn model(dtype: DTypeSpec) -> EmbeddingModel {
    EmbeddingModel::load(&fixture().join("model"), &open(DeviceSpec::Cpu, dtype).expect("a cpu"))
        .expect("loads")
}

fn adapter(model: &EmbeddingModel) -> LoadedAdapter {
    let manifest =
        AdapterManifest::inspect(&fixture().join("adapters/a1"), FileTrust::WithinFolder, model.catalog());
    manifest.expect("inspects").load(model).expect("loads")
}

fn sentences() -> Vec<String> {
    let text = fs::read_to_string(fixture().join("../sentences.json")).expect("sentences");
    serde_json::from_str(&text).expect("a list")
}

fn golden(name: &str) -> Vec<Vec<f32>> {
    let bytes = fs::read(fixture().join("golden.safetensors")).expect("golden");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = tensors.tensor(name).expect("a golden tensor");
    let values: Vec<f32> =
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4"))).collect();
    values.chunks_exact(tensor.shape()[1]).map(<[f32]>::to_vec).collect()
}

fn tokens(model: &EmbeddingModel) -> Vec<Vec<u32>> {
    sentences().iter().map(|s| model.tokenizer().encode(s, true).expect("encodes")).collect()
}

/// One batch: each row with or without the adapter.
fn embed(
    model: &EmbeddingModel,
    rows: &[(&[u32], bool)],
    adapter: &LoadedAdapter,
    memory: Option<AdapterMemory>,
) -> Vec<Vec<f32>> {
    let mut memory = memory.unwrap_or(AdapterMemory::HostAlias);
    memory.store(0, &adapter.extent);
    let placed = PlacedAdapter { extent: adapter.extent.clone(), offset: 0 };
    let segments = segments_of(rows.iter().map(|(ids, on)| (ids.len(), on.then_some(0))));
    let ids: Vec<&[u32]> = rows.iter().map(|r| r.0).collect();
    model.embed(&ids, &LoraBatch::new(segments, vec![placed], memory)).expect("embeds")
}

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b).flat_map(|(x, y)| {
        assert_eq!(x.len(), y.len());
        x.iter().zip(y)
    });
    pairs.map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

#[test]
fn token_ids_are_those_of_sentence_transformers() {
    let text = fs::read_to_string(fixture().join("input_ids.json")).expect("ids");
    let golden: Vec<Vec<u32>> = serde_json::from_str(&text).expect("lists");
    assert_eq!(tokens(&model(DTypeSpec::F32)), golden);
}

#[test]
fn base_and_adapter_alone_and_mixed_give_the_golden_embeddings() {
    let model = model(DTypeSpec::F32);
    let (ids, adapter) = (tokens(&model), adapter(&model));
    let (base, tuned) = (golden("base"), golden("a1"));
    let all = |on: bool| ids.iter().map(|i| (i.as_slice(), on)).collect::<Vec<_>>();
    assert!(largest_difference(&embed(&model, &all(false), &adapter, None), &base) <= 2e-4);
    assert!(largest_difference(&embed(&model, &all(true), &adapter, None), &tuned) <= 2e-4);
    let mixed: Vec<_> = ids.iter().enumerate().map(|(i, ids)| (ids.as_slice(), i % 2 == 1)).collect();
    let want: Vec<_> =
        (0..ids.len()).map(|i| if i % 2 == 1 { tuned[i].clone() } else { base[i].clone() }).collect();
    assert!(largest_difference(&embed(&model, &mixed, &adapter, None), &want) <= 2e-4);
    // The same through an arena, as a device of its own has it: the reference computes.
    let arena = AdapterMemory::arena(model.device(), model.dtype(), adapter.extent.layout().len());
    assert!(largest_difference(&embed(&model, &mixed, &adapter, Some(arena)), &want) <= 2e-4);
}

#[test]
fn sixteen_bit_dtypes_stay_close() {
    let reference = golden("base");
    for dtype in [DTypeSpec::F16, DTypeSpec::Bf16] {
        let model = model(dtype);
        let ids = tokens(&model);
        let rows: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let got = model.embed(&rows, &LoraBatch::base()).expect("embeds");
        for (g, w) in got.iter().zip(&reference) {
            let cosine: f32 = g.iter().zip(w).map(|(a, b)| a * b).sum();
            assert!(cosine > 0.999, "{dtype}: cosine {cosine}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn batch_mates_do_not_change_a_bit_of_an_embedding(
        rows in proptest::collection::vec((0usize..16, any::<bool>()), 1..12),
    ) {
        let model = model(DTypeSpec::F32);
        let (ids, adapter) = (tokens(&model), adapter(&model));
        let together: Vec<_> = rows.iter().map(|(i, on)| (ids[*i].as_slice(), *on)).collect();
        let got = embed(&model, &together, &adapter, None);
        for (row, got) in together.iter().zip(got) {
            prop_assert_eq!(&embed(&model, &[*row], &adapter, None)[0], &got);
        }
    }
}

#[test]
fn the_base_models_digest_is_of_its_content() {
    let digest = model(DTypeSpec::F32).digest();
    assert_eq!(digest, model(DTypeSpec::Bf16).digest());
    let copy = copied();
    // A field that does not change the forward pass.
    edit(copy.path(), "config.json", |c| c["torch_dtype"] = "float16".into());
    assert_eq!(load(copy.path()).expect("loads").digest(), digest);
    edit(copy.path(), "config.json", |c| c["layer_norm_eps"] = 1e-5.into());
    assert_ne!(load(copy.path()).expect("loads").digest(), digest);
}

#[test]
fn what_is_not_supported_is_refused_with_field_and_numbers() {
    type Edit = fn(&mut serde_json::Value);
    let cases: [(&str, Edit, &[&str]); 12] = [
        (
            "sentence_bert_config.json",
            |c| c["max_seq_length"] = 2.into(),
            &["max_seq_length", "2", "special"],
        ),
        ("config.json", |c| c["model_type"] = "t5".into(), &["model_type", "t5", "bert"]),
        ("config.json", |c| c["hidden_act"] = "swish".into(), &["hidden_act", "swish"]),
        (
            "config.json",
            |c| c["position_embedding_type"] = "relative_key".into(),
            &["relative_key", "absolute"],
        ),
        ("config.json", |c| c["num_attention_heads"] = 5.into(), &["num_attention_heads", "5", "48"]),
        (
            "config.json",
            |c| c["intermediate_size"] = 95.into(),
            &["intermediate.dense.weight", "[96, 48]", "[95, 48]"],
        ),
        ("config.json", |c| c["num_hidden_layers"] = 4.into(), &["encoder.layer.3", "missing"]),
        ("config.json", |c| c["vocab_size"] = "many".into(), &["config.json", "vocab_size"]),
        ("config.json", |c| c["hidden_size"] = 0.into(), &["hidden_size", "0"]),
        (
            "modules.json",
            |c| c[2]["type"] = "sentence_transformers.models.Dense".into(),
            &["modules.json", "Dense"],
        ),
        (
            "1_Pooling/config.json",
            |c| c["pooling_mode_cls_token"] = true.into(),
            &["pooling_mode", "cls_token and mean"],
        ),
        ("modules.json", |c| c[1]["path"] = "../1_Pooling".into(), &["path", "../1_Pooling"]),
    ];
    for (file, change, words) in cases {
        let copy = copied();
        edit(copy.path(), file, change);
        let message = load(copy.path()).err().expect("refused").to_string();
        for word in words {
            assert!(message.contains(word), "{file}: `{message}` does not say {word}");
        }
    }
}

#[test]
fn damaged_files_are_errors_and_never_panics() {
    let whole = fs::read(fixture().join("model/model.safetensors")).expect("weights");
    let damages: [fn(Vec<u8>) -> Vec<u8>; 4] = [
        |_| vec![],
        |b| b[..b.len() - 100].to_vec(),
        |mut b| {
            b[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
            b
        },
        |mut b| {
            let half = (b.len() / 8) * 4;
            b[half..].chunks_exact_mut(4).for_each(|v| v.copy_from_slice(&f32::NAN.to_le_bytes()));
            b
        },
    ];
    for damage in damages {
        let copy = copied();
        fs::write(copy.path().join("model.safetensors"), damage(whole.clone())).expect("writes");
        assert!(matches!(load(copy.path()), Err(ModelError::Weights { .. })));
    }
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let copy = copied();
        fs::remove_file(copy.path().join(file)).expect("removes");
        let message = load(copy.path()).err().expect("refused").to_string();
        assert!(message.contains(file), "{message}");
        if file != "model.safetensors" {
            fs::write(copy.path().join(file), "{").expect("writes");
            assert!(load(copy.path()).is_err());
        }
    }
}

#[test]
fn shards_with_an_index_give_the_same_model() {
    let copy = copied();
    let bytes = fs::read(copy.path().join("model.safetensors")).expect("weights");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut map = serde_json::Map::new();
    for half in 0..2 {
        let file = format!("model-0000{}-of-00002.safetensors", half + 1);
        let part: Vec<_> = tensors
            .tensors()
            .into_iter()
            .enumerate()
            .filter(|(i, _)| i % 2 == half)
            .map(|(_, t)| t)
            .collect();
        map.extend(part.iter().map(|(name, _)| (name.clone(), file.clone().into())));
        fs::write(copy.path().join(file), safetensors::serialize(part, None).expect("serialises"))
            .expect("writes");
    }
    fs::remove_file(copy.path().join("model.safetensors")).expect("removes");
    let index = serde_json::json!({ "weight_map": map });
    fs::write(copy.path().join("model.safetensors.index.json"), index.to_string()).expect("writes");
    let sharded = load(copy.path()).expect("loads");
    let ids = tokens(&sharded);
    let rows: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    assert!(
        largest_difference(&sharded.embed(&rows, &LoraBatch::base()).expect("embeds"), &golden("base"))
            <= 2e-4
    );
    // A shard outside the directory is not read.
    edit(copy.path(), "model.safetensors.index.json", |c| {
        c["weight_map"]["embeddings.word_embeddings.weight"] = "../secret.safetensors".into();
    });
    assert!(load(copy.path()).err().expect("refused").to_string().contains("../secret"));
}

#[test]
fn rows_outside_the_model_are_refused() {
    let model = model(DTypeSpec::F32);
    for rows in [vec![], vec![vec![]], vec![vec![1; 49]], vec![vec![600]]] {
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        assert!(model.embed(&rows, &LoraBatch::base()).is_err(), "{rows:?}");
    }
}

fn load(dir: &Path) -> Result<EmbeddingModel, ModelError> {
    EmbeddingModel::load(dir, &open(DeviceSpec::Cpu, DTypeSpec::F32).expect("a cpu"))
}

fn copied() -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    fs::create_dir(copy.path().join("1_Pooling")).expect("a folder");
    let names =
        ["config.json", "modules.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"];
    let more = ["sentence_bert_config.json", "config_sentence_transformers.json", "tokenizer_config.json"];
    for name in names.into_iter().chain(more) {
        let bytes = fs::read(fixture().join("model").join(name)).expect("a fixture");
        fs::write(copy.path().join(name), bytes).expect("writes");
    }
    copy
}

fn edit(dir: &Path, file: &str, change: impl Fn(&mut serde_json::Value)) {
    let text = fs::read_to_string(dir.join(file)).expect("reads");
    let mut value = serde_json::from_str(&text).expect("json");
    change(&mut value);
    fs::write(dir.join(file), value.to_string()).expect("writes");
}

/// All tensors of a file, widened to f32.
fn tensors(path: &Path) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let bytes = fs::read(path).expect("a file");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let floats = tensors.tensors().into_iter().filter(|(_, t)| t.dtype() == safetensors::Dtype::F32);
    let values =
        |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4"))).collect();
    floats.map(|(name, t)| (name, t.shape().to_vec(), values(t.data()))).collect()
}

fn write(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|t| t.2.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), data)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data);
        (name.clone(), view.expect("a view"))
    });
    fs::write(path, safetensors::serialize(views, None).expect("serialises")).expect("writes");
}

#[test]
fn an_adapter_equals_its_weights_merged_into_the_base() {
    let factors = tensors(&fixture().join("adapters/a1/adapter_model.safetensors"));
    let config = fs::read(fixture().join("adapters/a1/adapter_config.json")).expect("a config");
    let config: serde_json::Value = serde_json::from_slice(&config).expect("json");
    let number = |key: &str| config[key].as_f64().expect("a number") as f32;
    assert_eq!((&config["use_rslora"], &config["use_dora"]), (&false.into(), &false.into()));
    let scale = number("lora_alpha") / number("r");
    let copy = copied();
    let path = copy.path().join("model.safetensors");
    let mut weights = tensors(&path);
    let mut merged = 0;
    for (name, shape, a) in factors.iter().filter(|(name, ..)| name.contains("lora_A")) {
        let module = name.strip_prefix("base_model.model.").and_then(|n| n.strip_suffix(".lora_A.weight"));
        let module = module.expect("a module");
        let b = factors.iter().find(|t| t.0 == name.replace("lora_A", "lora_B")).expect("B");
        let weight = weights.iter_mut().find(|t| t.0 == format!("{module}.weight")).expect("a weight");
        let (rank, inputs) = (shape[0], shape[1]);
        for (at, w) in weight.2.iter_mut().enumerate() {
            let (o, i) = (at / inputs, at % inputs);
            let delta: f64 = (0..rank).map(|j| b.2[o * rank + j] as f64 * a[j * inputs + i] as f64).sum();
            *w = (*w as f64 + scale as f64 * delta) as f32;
        }
        merged += 1;
    }
    assert!(merged > 0);
    write(&path, &weights);
    let (merged, model) = (load(copy.path()).expect("loads"), model(DTypeSpec::F32));
    let (ids, adapter) = (tokens(&model), adapter(&model));
    let rows: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let through: Vec<_> = rows.iter().map(|r| (*r, true)).collect();
    let error = largest_difference(
        &embed(&model, &through, &adapter, None),
        &merged.embed(&rows, &LoraBatch::base()).expect("embeds"),
    );
    assert!(error <= 1e-5, "{error}");
}

#[test]
fn an_adapter_whose_b_is_zero_is_the_base_and_launches_nothing() {
    let copy = tempfile::tempdir().expect("a folder");
    let source = fixture().join("adapters/a1");
    fs::copy(source.join("adapter_config.json"), copy.path().join("adapter_config.json")).expect("copies");
    let mut factors = tensors(&source.join("adapter_model.safetensors"));
    factors.iter_mut().filter(|t| t.0.contains("lora_B")).for_each(|t| t.2.fill(0.0));
    write(&copy.path().join("adapter_model.safetensors"), &factors);
    let model = model(DTypeSpec::F32);
    let manifest = AdapterManifest::inspect(copy.path(), FileTrust::WithinFolder, model.catalog());
    let still = manifest.expect("inspects").load(&model).expect("loads");
    assert!(still.extent.layout().is_empty());
    let ids = tokens(&model);
    let rows: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let placed = PlacedAdapter { extent: still.extent.clone(), offset: 0 };
    let segments = segments_of(rows.iter().map(|r| (r.len(), Some(0))));
    let lora = LoraBatch::new(segments, vec![placed], AdapterMemory::HostAlias);
    let base = model.embed(&rows, &LoraBatch::base()).expect("embeds");
    assert_eq!(model.embed(&rows, &lora).expect("embeds"), base);
    assert_eq!(lora.launches(), 0);
}

#[test]
fn loading_again_changes_no_bit() {
    let (first, second) = (model(DTypeSpec::F32), model(DTypeSpec::F32));
    let (one, two) = (adapter(&first), adapter(&second));
    assert_eq!(one.digest, two.digest);
    assert_eq!(one.extent.values(), two.extent.values());
    let ids = tokens(&first);
    let rows: Vec<_> = ids.iter().map(|i| (i.as_slice(), true)).collect();
    assert_eq!(embed(&first, &rows, &one, None), embed(&second, &rows, &two, None));
}

#[test]
fn the_model_can_be_shared_by_threads() {
    fn shared<T: Send + Sync>(_: &Arc<T>) {}
    shared(&Arc::new(model(DTypeSpec::F32)));
}
