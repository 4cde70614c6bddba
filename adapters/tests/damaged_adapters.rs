//! Whatever the bytes are: an answer, no panic, and no memory beyond the file's own size.

mod bounded_reading;
mod peft_files;

use std::fs;

use bounded_reading::{FIXED_BYTES, alone, bound, control, read_within, within, write};
use peft_files::{
    LAYERS, MadeUpBase, Stored, adapter, bad, read_config, safetensors_in_order, safetensors_of,
};
use polylora_adapters::{AdapterError, AdapterManifest, FileTrust, MAX_HEADER_BYTES};
use proptest::{prelude::*, sample::subsequence};
use safetensors::Dtype;
use serde_json::json;

#[test]
fn a_lying_header_allocates_nothing() {
    let _alone = alone();
    let (config, good) = control();
    let base = MadeUpBase::new();
    let folder = tempfile::tempdir().unwrap();
    for length in [u64::MAX, 1 << 60, 1 << 40, MAX_HEADER_BYTES + 1, MAX_HEADER_BYTES, good.len() as u64] {
        let mut lying = good.clone();
        lying[..8].copy_from_slice(&length.to_le_bytes());
        write(folder.path(), &config, &lying);
        let error = read_within(folder.path(), &base, FIXED_BYTES).unwrap_err();
        assert!(
            matches!(error, AdapterError::HeaderTooLong { .. } | AdapterError::HeaderBeyondFile { .. }),
            "{error}"
        );
    }
    let name = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight";
    for (shape, end) in
        [(json!([1u64 << 40, 384]), 1u64 << 50), (json!([1u64 << 62, 4]), 64), (json!([u64::MAX]), u64::MAX)]
    {
        let header = json!({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).to_string();
        let lying = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 64]].concat();
        write(folder.path(), &config, &lying);
        assert!(read_within(folder.path(), &base, FIXED_BYTES).is_err());
    }
}

#[test]
fn a_file_of_holes_is_refused_before_its_bytes_are_read() {
    let _alone = alone();
    let (config, _) = control();
    let base = MadeUpBase::new();
    let folder = tempfile::tempdir().unwrap();
    let name = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight";
    let end = 1u64 << 36;
    let header =
        json!({name: {"dtype": "F32", "shape": [end / 1536, 384], "data_offsets": [0, end / 1536 * 1536]}})
            .to_string();
    let begin = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    write(folder.path(), &config, &begin);
    let path = folder.path().join("adapter_model.safetensors");
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(begin.len() as u64 + end / 1536 * 1536).unwrap();
    let error = read_within(folder.path(), &base, FIXED_BYTES).unwrap_err();
    assert!(
        matches!(error, AdapterError::TensorMissing { .. } | AdapterError::RankMismatch { .. }),
        "{error}"
    );
}

#[test]
fn headers_of_many_small_things_stay_within_their_bound() {
    let _alone = alone();
    let (config, _) = control();
    let base = MadeUpBase::new();
    let folder = tempfile::tempdir().unwrap();
    let many_tensors: String = (0..70_000)
        .map(|i| format!(r#""t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}},"#))
        .collect();
    for header in [
        format!("{{{}}}", many_tensors.trim_end_matches(',')),
        format!(r#"{{"t":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(1 << 20)),
        format!(r#"{{"__metadata__":{{"x":[{}1]}}}}"#, "1,".repeat(1 << 20)),
        format!(r#"{{"{}":1}}"#, "t".repeat(1 << 20)),
        "[".repeat(1 << 20),
        " ".repeat(1 << 20),
    ] {
        let weights = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
        write(folder.path(), &config, &weights);
        assert!(read_within(folder.path(), &base, bound(&config, &weights)).is_err());
    }
}

#[test]
fn every_cut_of_a_file_is_refused() {
    let _alone = alone();
    let (config, good) = control();
    let base = MadeUpBase::new();
    let folder = tempfile::tempdir().unwrap();
    for end in (0..900).chain((900..good.len()).step_by(97)) {
        write(folder.path(), &config, &good[..end]);
        assert!(read_within(folder.path(), &base, bound(&config, &good)).is_err(), "{end}");
    }
    for end in 0..config.len() - 2 {
        write(folder.path(), &config[..end], &good);
        let error = read_within(folder.path(), &base, bound(&config, &good)).unwrap_err();
        assert!(matches!(error, AdapterError::ConfigNotJson { .. }), "{end}: {error}");
    }
}

/// A change of a byte string: replace, insert, remove, cut.
#[derive(Clone, Debug)]
enum Damage {
    Replace(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Cut(prop::sample::Index),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Damage::Replace(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Damage::Insert(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
            Damage::Remove(at) => drop(bytes.remove(at.index(bytes.len()))),
            Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    // Digits, brackets and quotes reach deeper than bytes that break the JSON at once.
    let byte = || prop_oneof![any::<u8>(), prop::sample::select(b"0123456789{}[]\",:.-eE_".to_vec())];
    prop_oneof![
        4 => (at(), byte()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        1 => (at(), byte()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        1 => at().prop_map(Damage::Remove),
        1 => at().prop_map(Damage::Cut),
    ]
}

/// A module of 384 by 384 of some layer, a rank, a dtype.
fn adapters() -> impl Strategy<Value = (Vec<String>, usize, Dtype, Vec<u16>)> {
    let names: Vec<String> = (0..LAYERS)
        .flat_map(|l| ["query", "key", "value"].map(|m| format!("encoder.layer.{l}.attention.self.{m}")))
        .collect();
    let dtype = prop::sample::select(vec![Dtype::F32, Dtype::F16, Dtype::BF16]);
    (subsequence(names, 1..6).prop_shuffle(), 1usize..12, dtype, prop::collection::vec(0u16..0x3c00, 64))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_weights_give_an_answer(damages in prop::collection::vec(damage(), 1..4), header_only in any::<bool>()) {
        let _alone = alone();
        let (config, mut weights) = control();
        let base = MadeUpBase::new();
        let folder = tempfile::tempdir().unwrap();
        let tail = if header_only { weights.split_off(816) } else { vec![] };
        damages.iter().for_each(|d| d.apply(&mut weights));
        weights.extend(tail);
        write(folder.path(), &config, &weights);
        let _ = read_within(folder.path(), &base, bound(&config, &weights));
    }

    #[test]
    fn damaged_configurations_give_an_answer(damages in prop::collection::vec(damage(), 1..4), which in 0..3) {
        let _alone = alone();
        let source = adapter(["patterns", "regex_layers_r4", "dora_r8"][which as usize]);
        let mut config = fs::read(source.join("adapter_config.json")).unwrap();
        let weights = fs::read(source.join("adapter_model.safetensors")).unwrap();
        let base = MadeUpBase::new();
        let folder = tempfile::tempdir().unwrap();
        damages.iter().for_each(|d| d.apply(&mut config));
        write(folder.path(), &config, &weights);
        // Inspected only: the numbers are sound, and a debug build would spend its time on DoRA's norms.
        let _ = within(4 * FIXED_BYTES, || AdapterManifest::inspect(folder.path(), FileTrust::WithinFolder, &base.catalog));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_safetensors_crate_writes_loads((modules, rank, dtype, bits) in adapters(), own_order in any::<bool>()) {
        let _alone = alone();
        let mut tensors = vec![];
        for module in &modules {
            for (part, shape) in [("lora_A", [rank, 384]), ("lora_B", [384, rank])] {
                let name = format!("base_model.model.{module}.{part}.weight");
                let count = shape[0] * shape[1];
                let bytes = (0..count).flat_map(|i| {
                    let bits = bits[i % bits.len()];
                    if dtype == Dtype::F32 { (u32::from(bits) << 16).to_le_bytes().to_vec() } else { bits.to_le_bytes().to_vec() }
                });
                tensors.push(Stored { name, dtype, shape: shape.to_vec(), bytes: bytes.collect() });
            }
        }
        let mut config = read_config(&bad("_good_control"));
        config["target_modules"] = json!(modules);
        config["layers_to_transform"] = json!(null);
        config["r"] = json!(rank);
        let base = MadeUpBase::new();
        let folder = tempfile::tempdir().unwrap();
        let weights = if own_order { safetensors_in_order(&tensors) } else { safetensors_of(&tensors) };
        let config = config.to_string().into_bytes();
        write(folder.path(), &config, &weights);
        let loaded = read_within(folder.path(), &base, bound(&config, &weights)).unwrap();
        let silent = bits.iter().all(|&b| b == 0);
        prop_assert_eq!(loaded.extent.layout().slots().len(), if silent { 0 } else { modules.len() });
    }
}
