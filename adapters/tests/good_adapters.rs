//! Every kind of adapter loads with the ranks, scales and values that its files give.

mod peft_files;

use peft_files::{HIDDEN, INTERMEDIATE, MadeUpBase, Stored, adapter, catalog, read_tensors};
use polylora_adapters::{AdapterManifest, BaseModel, FileTrust, LoadedAdapter, LowRank};
use polylora_kernels::extent::SiteSlot;
use safetensors::Dtype;

fn load(name: &str) -> (AdapterManifest, LoadedAdapter) {
    let base = MadeUpBase::new();
    let manifest = AdapterManifest::inspect(&adapter(name), FileTrust::WithinFolder, &base.catalog).unwrap();
    let loaded = manifest.load(&base).unwrap();
    assert_eq!(manifest.bytes(), loaded.extent.bytes(), "{name}: no site of these is without effect");
    assert_eq!(manifest.targets(), loaded.extent.layout().slots().len());
    assert_eq!(manifest.base_model(), Some("sentence-transformers/all-MiniLM-L6-v2"));
    assert!(!manifest.is_stale());
    (manifest, loaded)
}

/// The values of `module`'s tensor `tail`, widened by way of the half crate.
fn stored(tensors: &[Stored], module: &str, tail: &str) -> Vec<f32> {
    let name = format!("base_model.model.{module}.{tail}");
    let tensor = tensors.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no {name}"));
    match tensor.dtype {
        Dtype::F32 => tensor.bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        Dtype::F16 => {
            tensor.bytes.chunks(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        }
        Dtype::BF16 => {
            tensor.bytes.chunks(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// Holds every slot against the files: `expected` gives rank and scale by the module's name, and what is not
/// targeted.
fn check(name: &str, expected: impl Fn(&str) -> Option<(usize, f32)>) {
    let (manifest, loaded) = load(name);
    let tensors = read_tensors(&adapter(name));
    let base = MadeUpBase::new();
    let (mut targets, mut max_rank) = (0, 0);
    for site in catalog().sites() {
        let slot = loaded.extent.layout().slot(site.id);
        let Some((rank, scale)) = expected(&site.name) else {
            assert!(slot.is_none(), "{name}: {} is not targeted", site.name);
            continue;
        };
        let slot = slot.unwrap_or_else(|| panic!("{name}: {} is targeted", site.name));
        (targets, max_rank) = (targets + 1, max_rank.max(rank));
        assert_eq!(
            (slot.shape.rank, slot.shape.in_width, slot.shape.out_width),
            (rank, site.in_width, site.out_width)
        );
        let a = stored(&tensors, &site.name, "lora_A.weight");
        let b = stored(&tensors, &site.name, "lora_B.weight");
        let delta = LowRank { a: &a, b: &b, rank, scale };
        let gain = name.starts_with("dora").then(|| {
            let magnitude = stored(&tensors, &site.name, "lora_magnitude_vector");
            let norms = base.dora_row_norms(site.id, delta);
            magnitude.iter().zip(&norms).map(|(m, n)| m / n).collect::<Vec<f32>>()
        });
        let bias = name.starts_with("bias").then(|| stored(&tensors, &site.name, "base_layer.bias"));
        slot_holds(&loaded, slot, delta, gain.as_deref(), bias.as_deref());
    }
    assert_eq!((manifest.targets(), manifest.max_rank()), (targets, max_rank), "{name}");
}

fn slot_holds(
    loaded: &LoadedAdapter,
    slot: &SiteSlot,
    delta: LowRank<'_>,
    gain: Option<&[f32]>,
    bias: Option<&[f32]>,
) {
    let (values, out) = (loaded.extent.values(), slot.shape.out_width);
    assert_eq!(&values[slot.a..][..delta.a.len()], delta.a);
    for o in 0..out {
        for r in 0..delta.rank {
            let expected = delta.b[o * delta.rank + r] * delta.scale * gain.map_or(1.0, |g| g[o]);
            let found = values[slot.b + r * out + o];
            assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{found} {expected}");
        }
    }
    assert_eq!(slot.gain.map(|at| &values[at..at + out]), gain);
    assert_eq!(slot.bias.map(|at| &values[at..at + out]), bias);
}

#[test]
fn a_list_of_names_targets_every_layer() {
    check("qv_r8", |name| (name.ends_with("query") || name.ends_with("value")).then_some((8, 2.0)));
}

#[test]
fn a_dotted_name_targets_only_what_ends_with_it_and_f16_is_widened() {
    check("attn_r16", |name| name.contains(".attention.").then_some((16, 2.0)));
}

#[test]
fn rslora_divides_by_the_root_and_the_pooler_is_left_out() {
    check("all_linear_r4_rslora", |_| Some((4, 4.0)));
}

#[test]
fn the_first_pattern_that_matches_gives_rank_and_alpha() {
    check("patterns", |name| match name {
        "encoder.layer.0.attention.self.query" => Some((2, 3.5)),
        name if name.ends_with("query") => Some((6, 2.0)),
        name if name.ends_with("value") => Some((6, 4.0)),
        "encoder.layer.4.intermediate.dense" | "encoder.layer.5.intermediate.dense" => Some((3, 5.0 / 3.0)),
        name if name.ends_with("intermediate.dense") => Some((3, 4.0)),
        _ => None,
    });
}

#[test]
fn a_string_of_targets_is_a_regular_expression_for_the_whole_name() {
    check("regex_layers_r4", |name| {
        let odd = [".1.", ".3.", ".5."].iter().any(|layer| name.contains(layer));
        (odd && (name.ends_with("self.query") || name.ends_with("self.key"))).then_some((4, 2.5))
    });
}

#[test]
fn dora_brings_gains() {
    check("dora_r8", |name| {
        (name.ends_with("query") || name.ends_with("value") || name.ends_with("output.dense"))
            .then_some((8, 2.0))
    });
}

#[test]
fn trained_biases_come_along() {
    check("bias_lora_only_r4", |name| {
        (name.ends_with("query") || name.ends_with("value")).then_some((4, 2.0))
    });
}

#[test]
fn the_extent_is_as_large_as_ranks_and_widths_say() {
    let (manifest, _) = load("attn_r16");
    assert_eq!(manifest.bytes(), 6 * 4 * 16 * 2 * HIDDEN * 4);
    let (manifest, _) = load("dora_r8");
    let query = 8 * 2 * HIDDEN + HIDDEN;
    let output = 8 * (INTERMEDIATE + HIDDEN) + HIDDEN;
    assert_eq!(manifest.bytes(), 6 * (3 * query + output) * 4);
}
