//! Adapters with faults that know what they break: whatever they come to, an adapter is refused by an error that names its
//! file, or loads to finite values; no panic, and memory in proportion to the files.

mod bounded_reading;
mod peft_files;

use std::{fs, path::Path};

use bounded_reading::{alone, bound, read_within};
use peft_files::{MadeUpBase, adapter, bad};
use proptest::{prelude::*, sample::Index};
use serde_json::{Map, Value, json};

const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// An adapter taken apart so far that each piece can be wrong by itself.
#[derive(Clone, Debug)]
struct Pieces {
    /// Names and JSON texts, in order; a name may stand twice.
    fields: Vec<(String, String)>,
    tensors: Vec<Tensor>,
    data: Vec<u8>,
    /// What the length field says instead of the truth.
    length: Option<u64>,
    /// Bytes that stand for a whole file, by index in [`FILES`].
    instead: [Option<Vec<u8>>; 2],
    /// Kinds of file that stand for a file.
    kinds: [Kind; 2],
}

#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    offsets: [u64; 2],
    /// JSON instead of the entry.
    raw: Option<String>,
}

/// What lies where a file should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Missing,
    Folder,
    LinkOut,
    LinkToItself,
    LinkToNothing,
    LinkToTheOther,
}

/// One fault.
#[derive(Clone, Debug)]
enum Fault {
    Field(String, String),
    FieldTwice(Index),
    NoField(Index),
    Bytes(bool, Vec<u8>),
    Dtype(Index, String),
    Width(Index, Index, u64),
    Shape(Index, Vec<u64>),
    Offset(Index, bool, u64),
    Name(Index, String),
    NoTensor(Index),
    TensorTwice(Index),
    RawEntry(Index, String),
    Number(Index, u32),
    DataCut(Index),
    DataAdded(u8),
    Length(u64),
    Kind(bool, Kind),
}

impl Pieces {
    fn read(folder: &Path) -> Self {
        let config: Map<String, Value> =
            serde_json::from_slice(&fs::read(folder.join(FILES[0])).unwrap()).unwrap();
        let weights = fs::read(folder.join(FILES[1])).unwrap();
        let (length, rest) = weights.split_first_chunk().unwrap();
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        let header: Map<String, Value> = serde_json::from_slice(header).unwrap();
        let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__").map(|(name, entry)| {
            let numbers = |field: &str| serde_json::from_value::<Vec<u64>>(entry[field].clone()).unwrap();
            let offsets = numbers("data_offsets").try_into().unwrap();
            let dtype = entry["dtype"].as_str().unwrap().to_owned();
            Tensor { name, dtype, shape: numbers("shape"), offsets, raw: None }
        });
        Self {
            fields: config.into_iter().map(|(name, value)| (name, value.to_string())).collect(),
            tensors: tensors.collect(),
            data: data.to_vec(),
            length: None,
            instead: [None, None],
            kinds: [Kind::File; 2],
        }
    }

    fn suffer(&mut self, fault: Fault) {
        let tensor =
            |index: &Index, tensors: &[Tensor]| (!tensors.is_empty()).then(|| index.index(tensors.len()));
        match fault {
            Fault::Field(name, value) => match self.fields.iter_mut().find(|field| field.0 == name) {
                Some(field) => field.1 = value,
                None => self.fields.push((name, value)),
            },
            Fault::FieldTwice(at) if !self.fields.is_empty() => {
                self.fields.push(self.fields[at.index(self.fields.len())].clone());
            }
            Fault::NoField(at) if !self.fields.is_empty() => {
                drop(self.fields.remove(at.index(self.fields.len())))
            }
            Fault::FieldTwice(_) | Fault::NoField(_) => {}
            Fault::Bytes(weights, bytes) => self.instead[usize::from(weights)] = Some(bytes),
            Fault::Length(length) => self.length = Some(length),
            Fault::Kind(weights, kind) => self.kinds[usize::from(weights)] = kind,
            Fault::DataCut(at) => self.data.truncate(at.index(self.data.len() + 1)),
            Fault::DataAdded(byte) => self.data.push(byte),
            Fault::Number(at, bits) => {
                let numbers = self.data.as_chunks_mut::<4>().0;
                if !numbers.is_empty() {
                    let at = at.index(numbers.len());
                    numbers[at] = bits.to_le_bytes();
                }
            }
            Fault::Dtype(at, dtype) => self.change(at, |t| t.dtype = dtype),
            Fault::Shape(at, shape) => self.change(at, |t| t.shape = shape),
            Fault::Width(at, dimension, width) => self.change(at, |t| {
                if !t.shape.is_empty() {
                    let dimension = dimension.index(t.shape.len());
                    t.shape[dimension] = width;
                }
            }),
            Fault::Offset(at, end, offset) => self.change(at, |t| t.offsets[usize::from(end)] = offset),
            Fault::Name(at, name) => self.change(at, |t| t.name = name),
            Fault::RawEntry(at, raw) => self.change(at, |t| t.raw = Some(raw)),
            Fault::NoTensor(at) => {
                if let Some(at) = tensor(&at, &self.tensors) {
                    self.tensors.remove(at);
                }
            }
            Fault::TensorTwice(at) => {
                if let Some(at) = tensor(&at, &self.tensors) {
                    self.tensors.push(self.tensors[at].clone());
                }
            }
        }
    }

    fn change(&mut self, at: Index, change: impl FnOnce(&mut Tensor)) {
        if !self.tensors.is_empty() {
            let at = at.index(self.tensors.len());
            change(&mut self.tensors[at]);
        }
    }

    fn files(&self) -> [Vec<u8>; 2] {
        let object = |pairs: Vec<String>| format!("{{{}}}", pairs.join(","));
        let config =
            object(self.fields.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect());
        let header = object(self.tensors.iter().map(Tensor::entry).collect());
        let length = self.length.unwrap_or(header.len() as u64);
        let weights = [&length.to_le_bytes()[..], header.as_bytes(), &self.data].concat();
        let [own_config, own_weights] = self.instead.clone();
        [own_config.unwrap_or(config.into_bytes()), own_weights.unwrap_or(weights)]
    }
}

impl Tensor {
    fn entry(&self) -> String {
        let entry =
            json!({"dtype": self.dtype, "shape": self.shape, "data_offsets": self.offsets}).to_string();
        format!("{}:{}", json!(self.name), self.raw.as_ref().unwrap_or(&entry))
    }
}

/// Lays `bytes` out at `folder/name` as `kind` says; `outside` is a folder beside it.
fn lay(folder: &Path, outside: &Path, name: &str, kind: Kind, bytes: &[u8]) {
    let path = folder.join(name);
    #[cfg(unix)]
    let link = |to: &Path| std::os::unix::fs::symlink(to, &path).unwrap();
    // Elsewhere what would be a link is missing.
    #[cfg(not(unix))]
    let link = |_: &Path| ();
    match kind {
        Kind::File => fs::write(&path, bytes).unwrap(),
        Kind::Missing => {}
        Kind::Folder => fs::create_dir(&path).unwrap(),
        Kind::LinkOut => {
            fs::write(outside.join(name), bytes).unwrap();
            link(&outside.join(name));
        }
        Kind::LinkToItself => link(Path::new(name)),
        Kind::LinkToNothing => link(Path::new("nothing")),
        Kind::LinkToTheOther => link(Path::new(FILES[usize::from(name == FILES[0])])),
    }
}

fn odd_number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..8,
        prop::sample::select(vec![
            383,
            384,
            385,
            768,
            4096,
            4097,
            1 << 20,
            1 << 31,
            1 << 32,
            1 << 40,
            1 << 62
        ]),
        prop::sample::select(vec![i64::MAX as u64, u64::MAX - 1, u64::MAX]),
        any::<u64>(),
    ]
}

fn odd_json() -> impl Strategy<Value = String> {
    let deep = (0usize..200_000, prop::sample::select(vec!["[", "{\"a\":"])).prop_map(|(depth, open)| {
        let close = if open == "[" { "]" } else { "}" };
        format!("{}1{}", open.repeat(depth), close.repeat(depth))
    });
    prop_oneof![
        6 => prop::sample::select(vec![
            "null", "true", "0", "-1", "1.5", "1e308", "1e999", "\"\"", "[]", "{}", "[null]", "[[]]", "{\"query\":0}",
            "4097", "18446744073709551615", "340282366920938463463374607431768211456", "\"all-linear\"", "\"(\"",
            "\"(a+)+$\"", "\".*\"", "[\"query\"]", "[\"query\",\"key\"]", "{\"query\":4096}", "{\".*\":1e308}",
            "\"lora_only\"", "\"\\ud800\"", "[0,1,2,99]", "nul", "'", "",
        ]).prop_map(str::to_owned),
        2 => any::<String>().prop_map(|text| json!(text).to_string()),
        1 => odd_number().prop_map(|number| number.to_string()),
        1 => deep,
    ]
}

fn field_name() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "r",
        "lora_alpha",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "use_dora",
        "bias",
        "peft_type",
        "init_lora_weights",
        "modules_to_save",
        "base_model_name_or_path",
        "lora_dropout",
        "fan_in_fan_out",
    ]);
    prop_oneof![8 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

fn tensor_name() -> impl Strategy<Value = String> {
    let module = prop::sample::select(vec![
        "encoder.layer.0.attention.self.query",
        "encoder.layer.5.attention.self.key",
        "encoder.layer.6.output.dense",
        "encoder.layer.18446744073709551616.output.dense",
        "pooler.dense",
        "embeddings.word_embeddings",
        "",
    ]);
    let part = prop::sample::select(vec![
        "lora_A.weight",
        "lora_B.weight",
        "lora_A.default.weight",
        "lora_magnitude_vector",
        "lora_embedding_A",
        "bias",
        "lora_A",
        "",
    ]);
    let prefix = prop::sample::select(vec!["base_model.model.", "base_model.model.bert.", "", "base_model."]);
    let made = (prefix, module, part).prop_map(|(prefix, module, part)| format!("{prefix}{module}.{part}"));
    prop_oneof![4 => made, 1 => any::<String>(), 1 => Just("n".repeat(600)), 1 => Just("__metadata__".to_owned())]
}

fn fault() -> impl Strategy<Value = Fault> {
    let at = any::<Index>;
    let dtype =
        prop::sample::select(vec!["F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "f32", ""]);
    let bits = prop_oneof![
        prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::MIN, f32::MAX, 1e-45, -0.0])
            .prop_map(f32::to_bits),
        any::<u32>(),
    ];
    let kind = prop::sample::select(vec![
        Kind::Missing,
        Kind::Folder,
        Kind::LinkOut,
        Kind::LinkToItself,
        Kind::LinkToNothing,
        Kind::LinkToTheOther,
    ]);
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        6 => (field_name(), odd_json()).prop_map(|(name, value)| Fault::Field(name, value)),
        1 => at().prop_map(Fault::FieldTwice),
        1 => at().prop_map(Fault::NoField),
        1 => (any::<bool>(), bytes()).prop_map(|(weights, bytes)| Fault::Bytes(weights, bytes)),
        2 => (at(), dtype).prop_map(|(at, dtype)| Fault::Dtype(at, dtype.to_owned())),
        2 => (at(), at(), odd_number()).prop_map(|(at, dimension, width)| Fault::Width(at, dimension, width)),
        2 => (at(), prop::collection::vec(odd_number(), 0..10)).prop_map(|(at, shape)| Fault::Shape(at, shape)),
        3 => (at(), any::<bool>(), odd_number()).prop_map(|(at, end, offset)| Fault::Offset(at, end, offset)),
        2 => (at(), tensor_name()).prop_map(|(at, name)| Fault::Name(at, name)),
        1 => at().prop_map(Fault::NoTensor),
        1 => at().prop_map(Fault::TensorTwice),
        2 => (at(), odd_json()).prop_map(|(at, raw)| Fault::RawEntry(at, raw)),
        3 => (at(), bits).prop_map(|(at, bits)| Fault::Number(at, bits)),
        1 => at().prop_map(Fault::DataCut),
        1 => any::<u8>().prop_map(Fault::DataAdded),
        1 => odd_number().prop_map(Fault::Length),
        2 => (any::<bool>(), kind).prop_map(|(weights, kind)| Fault::Kind(weights, kind)),
    ]
}

/// Reads the pieces as an adapter and holds the answer against the law; whether it loaded.
fn answer(pieces: &Pieces) -> bool {
    let _alone = alone();
    let root = tempfile::tempdir().unwrap();
    let (folder, outside) = (root.path().join("adapter"), root.path().join("outside"));
    fs::create_dir(&folder).unwrap();
    fs::create_dir(&outside).unwrap();
    let files = pieces.files();
    for ((name, kind), bytes) in FILES.iter().zip(pieces.kinds).zip(&files) {
        lay(&folder, &outside, name, kind, bytes);
    }
    let base = MadeUpBase::new();
    match read_within(&folder, &base, bound(&files[0], &files[1])) {
        Ok(loaded) => {
            assert!(loaded.extent.values().iter().all(|value| value.is_finite()));
            assert!(!pieces.kinds.contains(&Kind::LinkOut), "a link was followed out of the folder");
            true
        }
        Err(error) => {
            let message = error.to_string();
            let named = FILES.iter().any(|file| message.contains(&folder.join(file).display().to_string()));
            assert!(named, "no file of the folder is named: {message}");
            assert!(!message.contains(['\n', '\r']), "more than one line: {message:?}");
            assert!(message.len() < 8 << 10, "{} bytes", message.len());
            false
        }
    }
}

#[test]
fn adapters_without_a_fault_load() {
    for folder in [bad("_good_control"), adapter("bias_lora_only_r4"), adapter("patterns")] {
        assert!(answer(&Pieces::read(&folder)), "{}", folder.display());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_faulty_adapter_is_refused_by_name_or_loads_to_finite_values(
        faults in prop::collection::vec(fault(), 1..4), with_bias in prop::bool::weighted(0.2),
    ) {
        let folder = if with_bias { adapter("bias_lora_only_r4") } else { bad("_good_control") };
        let mut pieces = Pieces::read(&folder);
        faults.into_iter().for_each(|fault| pieces.suffer(fault));
        answer(&pieces);
    }

    #[test]
    fn one_number_of_any_bits_is_refused_or_kept_finite(at in any::<Index>(), bits in any::<u32>()) {
        let mut pieces = Pieces::read(&bad("_good_control"));
        pieces.suffer(Fault::Number(at, bits));
        let loaded = answer(&pieces);
        // Scaled by alpha over rank, which is two, the largest numbers overflow.
        let value = f32::from_bits(bits);
        prop_assert!(loaded || !(value * 2.0).is_finite(), "{value} was refused");
        prop_assert!(!loaded || value.is_finite(), "{value} was loaded");
    }
}
