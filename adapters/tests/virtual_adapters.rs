//! Laws of virtual adapters: the weighted sum of adapters' effects as one adapter.

mod peft_files;

use std::{collections::BTreeSet, sync::LazyLock};

use peft_files::{
    HIDDEN, MadeUpBase, Stored, adapter, control, load, pair, read_config, read_tensors, sites,
};
use polylora_adapters::{
    AdapterManifest, BaseModel, ComposeError, Digest, DigestBuilder, FileTrust, LoadedAdapter, MAX_PARTS,
    MAX_RANK, Site, SiteCatalog, compose,
};
use proptest::prelude::*;

type Parts<'a> = &'a [(LoadedAdapter, f32)];

fn fixture(name: &str) -> LoadedAdapter {
    let base = MadeUpBase::new();
    AdapterManifest::inspect(&adapter(name), FileTrust::WithinFolder, &base.catalog)
        .unwrap()
        .load(&base)
        .unwrap()
}

fn composed(parts: Parts) -> LoadedAdapter {
    compose(parts, &MadeUpBase::new()).unwrap()
}

fn refusal(parts: Parts) -> ComposeError {
    compose(parts, &MadeUpBase::new()).expect_err("it is refused")
}

/// Adapters without a bias: of different ranks, on different sites, one with DoRA.
static WITHOUT_BIAS: LazyLock<Vec<LoadedAdapter>> =
    LazyLock::new(|| ["qv_r8", "patterns", "dora_r8", "regex_layers_r4"].map(fixture).to_vec());

/// A fixture with some tensors filled anew.
fn changed(name: &str, value: impl Fn(&Stored) -> Option<f32>) -> LoadedAdapter {
    let mut tensors = read_tensors(&adapter(name));
    for tensor in &mut tensors {
        if let Some(value) = value(tensor) {
            let count = tensor.shape.iter().product();
            *tensor = Stored::f32(tensor.name.clone(), &tensor.shape, &vec![value; count]);
        }
    }
    load(&read_config(&adapter(name)), &tensors).unwrap()
}

/// The fixture with biases, all of them `value`.
fn biases(value: f32) -> LoadedAdapter {
    changed("bias_lora_only_r4", |t| t.name.ends_with(".bias").then_some(value))
}

/// Numbers in -1..1 that depend on `seed` and the place.
fn random(seed: u32, count: usize) -> Vec<f64> {
    let mut state = (u64::from(seed) << 17) | 0x9e37_79b9;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 30) - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// One site of a base model with weights and a bias of its own, and a row that goes through it.
struct Row<'a> {
    site: &'a Site,
    x: Vec<f64>,
    /// `W x`, `[out_width]`.
    wx: Vec<f64>,
    /// The base's bias, `[out_width]`.
    bias: Vec<f64>,
}

/// A value and the sum of the magnitudes it was added up from.
type Sum = (f64, f64);

impl<'a> Row<'a> {
    fn new(site: &'a Site) -> Self {
        let x = random(3 * site.id.0, site.in_width);
        let w = random(3 * site.id.0 + 1, site.in_width * site.out_width);
        let wx = w.chunks(site.in_width).map(|row| row.iter().zip(&x).map(|(w, x)| w * x).sum()).collect();
        Self { site, x, wx, bias: random(3 * site.id.0 + 2, site.out_width) }
    }

    /// `g * (W x) + B' (A x) + b`, `[out_width]`.
    fn through(&self, adapter: &LoadedAdapter) -> Vec<Sum> {
        let values = adapter.extent.values();
        let Some(slot) = adapter.extent.layout().slot(self.site.id) else {
            return self.wx.iter().zip(&self.bias).map(|(wx, b)| (wx + b, wx.abs() + b.abs())).collect();
        };
        let (in_width, out_width) = (self.site.in_width, self.site.out_width);
        let ax = |r: usize| -> Sum {
            let terms =
                self.x.iter().enumerate().map(|(i, x)| f64::from(values[slot.a + r * in_width + i]) * x);
            terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
        };
        let ax: Vec<Sum> = (0..slot.shape.rank).map(ax).collect();
        let y = |o: usize| {
            let gain = slot.gain.map_or(1.0, |at| f64::from(values[at + o]));
            let bias = slot.bias.map_or(self.bias[o], |at| f64::from(values[at + o]));
            let start = (gain * self.wx[o] + bias, (gain * self.wx[o]).abs() + bias.abs());
            ax.iter().enumerate().fold(start, |(sum, size), (r, ax)| {
                let b = f64::from(values[slot.b + r * out_width + o]);
                (sum + b * ax.0, size + b.abs() * ax.1)
            })
        };
        (0..out_width).map(y).collect()
    }
}

/// Holds `sum` against `y + sum_i w_i (y_i - y)`, which is computed without it, at every site.
fn adds_up(parts: Parts, sum: &LoadedAdapter) {
    let catalog = MadeUpBase::new().catalog;
    for site in catalog.sites() {
        let row = Row::new(site);
        let base: Vec<Sum> =
            row.wx.iter().zip(&row.bias).map(|(wx, b)| (wx + b, wx.abs() + b.abs())).collect();
        let mut expected = base.clone();
        for (part, weight) in parts {
            let weight = f64::from(*weight);
            for ((y, of_part), of_base) in expected.iter_mut().zip(row.through(part)).zip(&base) {
                y.0 += weight * (of_part.0 - of_base.0);
                y.1 += weight.abs() * (of_part.1 + of_base.1);
            }
        }
        for (o, (found, expected)) in row.through(sum).into_iter().zip(expected).enumerate() {
            let error = (found.0 - expected.0).abs();
            let bound = f64::from(f32::EPSILON) * expected.1;
            assert!(error <= bound, "{}: row {o}: {} {} {bound}", site.name, found.0, expected.0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn the_effect_is_the_weighted_sum_of_the_parts_effects(
        weights in proptest::collection::vec(prop_oneof![-2.0f32..2.0, Just(0.0), Just(1.0)], 4)
    ) {
        let parts: Vec<(LoadedAdapter, f32)> = WITHOUT_BIAS.iter().cloned().zip(weights).collect();
        adds_up(&parts, &composed(&parts));
    }
}

#[test]
fn it_acts_where_any_part_acts_and_ranks_add_up() {
    let [qv, patterns, dora] = [0, 1, 2].map(|i| WITHOUT_BIAS[i].clone());
    let sum = composed(&[(qv.clone(), 0.5), (patterns.clone(), 0.25), (dora.clone(), 0.25)]);
    let everywhere: BTreeSet<u32> = [&qv, &patterns, &dora].iter().flat_map(|part| sites(part)).collect();
    assert_eq!(sites(&sum), everywhere.into_iter().collect::<Vec<_>>());
    let (mut alone, mut shared) = (0, 0);
    for slot in sum.extent.layout().slots() {
        let shapes = [&qv, &patterns, &dora].map(|part| part.extent.layout().slot(slot.shape.site));
        let ranks: Vec<usize> = shapes.iter().flatten().map(|s| s.shape.rank).collect();
        assert_eq!(slot.shape.rank, ranks.iter().sum::<usize>());
        assert_eq!(slot.shape.has_gain, shapes[2].is_some(), "only DoRA brings a gain");
        if ranks.len() == 1 { alone += 1 } else { shared += 1 }
    }
    assert!(alone > 0 && shared > 0, "both kinds of sites are there");
}

#[test]
fn a_weight_belongs_to_its_part_and_the_order_of_parts_is_only_identity() {
    let [qv, dora] = [0, 2].map(|i| WITHOUT_BIAS[i].clone());
    let there = [(qv.clone(), 0.75), (dora.clone(), 0.25)];
    let turned = [there[1].clone(), there[0].clone()];
    let swapped = [(qv, 0.25), (dora, 0.75)];
    let digests = [&there, &turned, &swapped].map(|parts| composed(parts).digest);
    assert!(digests[0] != digests[1] && digests[0] != digests[2] && digests[1] != digests[2]);
    adds_up(&there, &composed(&turned));
    adds_up(&swapped, &composed(&swapped));
    let [there, swapped] = [there, swapped].map(|parts| composed(&parts));
    assert_eq!(there.extent.layout(), swapped.extent.layout());
    assert_ne!(there.extent.values(), swapped.extent.values());
}

#[test]
fn one_part_of_weight_one_is_the_part_itself_under_another_digest() {
    for name in ["qv_r8", "attn_r16", "patterns", "dora_r8", "bias_lora_only_r4", "all_linear_r4_rslora"] {
        let part = fixture(name);
        let sum = composed(&[(part.clone(), 1.0)]);
        assert_eq!(sum.extent.layout(), part.extent.layout(), "{name}");
        assert_eq!(sum.extent.values(), part.extent.values(), "{name}");
        assert_ne!(sum.digest, part.digest, "{name}");
    }
}

#[test]
fn a_gain_too_small_to_be_told_from_none_stays_as_it_is() {
    let part = changed("dora_r8", |t| t.name.contains("magnitude").then_some(1e-20));
    let slot = part.extent.layout().slots().iter().find_map(|s| s.gain).unwrap();
    assert!((0.0..1e-18).contains(&part.extent.values()[slot]));
    // Beside a part without a gain, too.
    for parts in [&[(part.clone(), 1.0)][..], &[(part.clone(), 1.0), (WITHOUT_BIAS[0].clone(), -0.5)]] {
        let sum = composed(parts);
        for slot in part.extent.layout().slots() {
            let at = sum.extent.layout().slot(slot.shape.site).unwrap().gain.unwrap();
            let (found, width) = (&sum.extent.values()[at..], slot.shape.out_width);
            assert_eq!(found[..width], part.extent.values()[slot.gain.unwrap()..][..width]);
        }
    }
}

#[test]
fn parts_of_weight_zero_are_left_out_but_are_part_of_the_identity() {
    let [qv, patterns] = [0, 1].map(|i| WITHOUT_BIAS[i].clone());
    let alone = composed(&[(qv.clone(), 0.5)]);
    // A bias without weight asks for nothing of the others.
    for zero in [0.0, -0.0] {
        let sum =
            composed(&[(patterns.clone(), zero), (qv.clone(), 0.5), (fixture("bias_lora_only_r4"), zero)]);
        assert_eq!(sum.extent.layout(), alone.extent.layout());
        assert_eq!(sum.extent.values(), alone.extent.values());
        assert_ne!(sum.digest, alone.digest);
    }
}

#[test]
fn a_sum_without_effect_is_empty() {
    let qv = &WITHOUT_BIAS[0];
    for weight in [0.0, -0.0] {
        let sum = composed(&[(qv.clone(), weight)]);
        assert!(sum.extent.layout().is_empty() && sum.extent.values().is_empty(), "{weight:e}");
        let nothing = composed(&[(sum, 3.0)]);
        assert!(nothing.extent.layout().is_empty());
    }
}

#[test]
fn biases_add_up_where_every_part_has_one_and_nothing_of_the_bases_is_left() {
    let [bias, other] = [fixture("bias_lora_only_r4"), biases(0.5)];
    // A weight of 1 in f32, but not to the last bit.
    let tenths = vec![(bias.clone(), 0.1f32); 10];
    let tilted = [(bias.clone(), 1.5), (other.clone(), -0.5)];
    for parts in [&[(bias.clone(), 0.25), (other.clone(), 0.75)][..], &tilted] {
        adds_up(parts, &composed(parts));
    }
    let sum = composed(&tenths);
    for slot in bias.extent.layout().slots() {
        let at = sum.extent.layout().slot(slot.shape.site).unwrap().bias.unwrap();
        let stored = &bias.extent.values()[slot.bias.unwrap()..][..slot.shape.out_width];
        for (found, stored) in sum.extent.values()[at..].iter().zip(stored) {
            assert!((found - stored).abs() <= 1e-6 * stored.abs(), "{found} {stored}");
        }
    }
}

#[test]
fn a_bias_that_would_mix_with_the_bases_is_refused_by_the_sites_name() {
    let [bias, qv] = [fixture("bias_lora_only_r4"), WITHOUT_BIAS[0].clone()];
    let site = "encoder.layer.0.attention.self.query".to_owned();
    let expected = |with, parts, sum| ComposeError::Bias { site: site.clone(), with, parts, sum };
    assert_eq!(refusal(&[(bias.clone(), 0.5)]), expected(1, 1, 0.5));
    assert_eq!(refusal(&[(bias.clone(), 0.75), (bias.clone(), 0.5)]), expected(2, 2, 1.25));
    assert_eq!(refusal(&[(bias.clone(), 0.5), (qv.clone(), 0.5)]), expected(1, 2, 1.0));
    // A part that has no effect at all where another has a bias lacks one, too.
    let (mut config, _) = control();
    config["target_modules"] = vec!["key"].into();
    let modules = (0..3).map(|layer| format!("encoder.layer.{layer}.attention.self.key"));
    let elsewhere = load(&config, &modules.flat_map(|module| pair(&module, 2)).collect::<Vec<_>>()).unwrap();
    assert!(sites(&bias).iter().all(|site| !sites(&elsewhere).contains(site)));
    assert_eq!(refusal(&[(bias, 0.5), (elsewhere, 0.5)]), expected(1, 2, 1.0));
}

#[test]
fn the_digest_is_over_base_parts_and_weights_in_order() {
    let [qv, dora] = [0, 2].map(|i| WITHOUT_BIAS[i].clone());
    let expected = DigestBuilder::new("polylora virtual adapter, layout 1")
        .field(&MadeUpBase::new().digest.0)
        .number(2)
        .field(&qv.digest.0)
        .field(&0.25f32.to_le_bytes())
        .field(&dora.digest.0)
        .field(&(-1.5f32).to_le_bytes())
        .finish();
    let parts = [(qv, 0.25), (dora, -1.5)];
    assert_eq!(composed(&parts).digest, expected);
    let other = MadeUpBase { digest: Digest([8; 32]), ..MadeUpBase::new() };
    assert_ne!(compose(&parts, &other).unwrap().digest, expected);
}

#[test]
fn parts_are_one_to_the_most_that_are_added_up() {
    let qv = &WITHOUT_BIAS[0];
    assert_eq!(refusal(&[]), ComposeError::NoParts);
    let most = vec![(qv.clone(), 0.125); MAX_PARTS];
    assert_eq!(composed(&most).extent.layout().slots()[0].shape.rank, 8 * MAX_PARTS);
    let more = vec![(qv.clone(), 0.125); MAX_PARTS + 1];
    assert_eq!(refusal(&more), ComposeError::TooManyParts { found: MAX_PARTS + 1 });
}

#[test]
fn weights_are_finite() {
    let qv = &WITHOUT_BIAS[0];
    for weight in [f32::INFINITY, f32::NEG_INFINITY] {
        let error = refusal(&[(qv.clone(), 1.0), (qv.clone(), weight)]);
        assert_eq!(error, ComposeError::Weight { part: 1, found: weight });
    }
    let error = refusal(&[(qv.clone(), f32::NAN)]);
    assert!(matches!(error, ComposeError::Weight { part: 0, found } if found.is_nan()));
}

#[test]
fn a_sum_of_ranks_over_the_limit_is_refused_by_the_sites_name() {
    const RANK: usize = MAX_RANK / 8;
    let (mut config, _) = control();
    config["r"] = RANK.into();
    let modules = (0..3).map(|layer| format!("encoder.layer.{layer}.attention.self.query"));
    let tensors: Vec<Stored> = modules.flat_map(|module| pair(&module, RANK)).collect();
    let part = load(&config, &tensors).unwrap();
    let most = composed(&vec![(part.clone(), 0.125); 8]);
    assert_eq!(most.extent.layout().slots()[0].shape.rank, MAX_RANK);
    let site = "encoder.layer.0.attention.self.query".to_owned();
    assert_eq!(refusal(&vec![(part, 0.125); 9]), ComposeError::Rank { site, found: 9 * RANK });
}

#[test]
fn values_that_a_weight_makes_infinite_are_refused() {
    let (config, mut tensors) = control();
    let b = tensors.iter_mut().find(|t| t.name.contains("layer.1.") && t.name.contains("lora_B")).unwrap();
    let mut values = vec![1.0; HIDDEN * 2];
    // Row 5, rank 1: transposed it stands at 384 + 5.
    values[5 * 2 + 1] = -1e38;
    *b = Stored::f32(b.name.clone(), &[HIDDEN, 2], &values);
    let part = load(&config, &tensors).unwrap();
    let site = "encoder.layer.1.attention.self.query".to_owned();
    let expected = ComposeError::NotFinite { site, what: "B", index: HIDDEN + 5, value: f32::NEG_INFINITY };
    assert_eq!(refusal(&[(part.clone(), 1e10)]), expected);
    assert!(compose(&[(part, 1.0)], &MadeUpBase::new()).is_ok());
    let gains = changed("dora_r8", |t| {
        if t.name.contains("magnitude") { Some(1e3) } else { t.name.contains("lora_B").then_some(0.0) }
    });
    let error = refusal(&[(gains, f32::MAX / 100.0)]);
    assert!(matches!(error, ComposeError::NotFinite { what: "gain", index: 0, .. }), "{error}");
    let error = refusal(&[(biases(1e36), 1024.0), (biases(0.5), -1023.0)]);
    assert!(matches!(error, ComposeError::NotFinite { what: "bias", index: 0, .. }), "{error}");
}

#[test]
fn an_adapter_of_another_base_model_is_refused_and_not_looked_up() {
    let parts = [(WITHOUT_BIAS[0].clone(), 1.0)];
    let whole = MadeUpBase::new();
    let smaller = SiteCatalog::new(whole.catalog.sites()[..6].to_vec());
    let mut wider = whole.catalog.sites().to_vec();
    wider[2].out_width += 1;
    for (catalog, site) in [(smaller, 6), (SiteCatalog::new(wider), 2)] {
        let base = MadeUpBase { catalog, digest: whole.digest() };
        assert_eq!(compose(&parts, &base).unwrap_err(), ComposeError::ForeignSite { part: 0, site });
    }
}
