use polylora_kernels::extent::EXTENT_ALIGN;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{Digest, Site};

/// A base of one site whose weight is given.
#[derive(Debug)]
struct OneSite {
    catalog: SiteCatalog,
    weight: Vec<f32>,
}

impl OneSite {
    fn new(in_width: usize, out_width: usize, weight: Vec<f32>) -> Self {
        let site = Site { id: SiteId(0), name: "m".into(), in_width, out_width, group: 0, offset: 0 };
        Self { catalog: SiteCatalog::new(vec![site]), weight }
    }
}

impl BaseModel for OneSite {
    fn catalog(&self) -> &SiteCatalog {
        &self.catalog
    }

    fn digest(&self) -> Digest {
        Digest([1; 32])
    }

    fn dora_row_norms(&self, site: SiteId, delta: LowRank<'_>) -> Vec<f32> {
        let Site { in_width, out_width, .. } = *self.catalog.site(site);
        let merged = merged(&self.weight, delta, in_width, out_width);
        merged.chunks(in_width).map(|row| row.iter().map(|v| v * v).sum::<f64>().sqrt() as f32).collect()
    }
}

/// `W + scale * B A` in f64, `[out_width, in_width]`.
fn merged(weight: &[f32], delta: LowRank<'_>, in_width: usize, out_width: usize) -> Vec<f64> {
    let mut merged: Vec<f64> = weight.iter().map(|&v| v.into()).collect();
    for o in 0..out_width {
        for i in 0..in_width {
            let product: f64 = (0..delta.rank)
                .map(|r| f64::from(delta.b[o * delta.rank + r]) * f64::from(delta.a[r * in_width + i]))
                .sum();
            merged[o * in_width + i] += f64::from(delta.scale) * product;
        }
    }
    merged
}

/// `g * W + B' A` as the extent has it, in f64.
fn effective(weight: &[f32], extent: &HostExtent, in_width: usize, out_width: usize) -> Vec<f64> {
    let values = extent.values();
    let mut result: Vec<f64> = weight.iter().map(|&v| v.into()).collect();
    let Some(slot) = extent.layout().slot(SiteId(0)) else { return result };
    for o in 0..out_width {
        for i in 0..in_width {
            let gain = slot.gain.map_or(1.0, |at| f64::from(values[at + o]));
            let product = (0..slot.shape.rank).map(|r| {
                f64::from(values[slot.b + r * out_width + o]) * f64::from(values[slot.a + r * in_width + i])
            });
            result[o * in_width + i] = gain * result[o * in_width + i] + product.sum::<f64>();
        }
    }
    result
}

fn numbers(count: usize) -> impl Strategy<Value = Vec<f32>> {
    vec(-2.0f32..2.0, count)
}

/// A base and values for it; magnitudes when `dora`.
fn site(dora: bool) -> impl Strategy<Value = (OneSite, SiteValues)> {
    (1usize..9, 1usize..9, 1usize..5).prop_flat_map(move |(in_width, out_width, rank)| {
        let magnitude = vec(0.1f32..3.0, out_width);
        let tensors =
            (numbers(in_width * out_width), numbers(rank * in_width), numbers(out_width * rank), magnitude);
        (tensors, 0.1f32..4.0, proptest::option::of(numbers(out_width))).prop_map(
            move |((weight, a, b, magnitude), scale, bias)| {
                let magnitude = dora.then_some(magnitude);
                let values =
                    SiteValues { site: SiteId(0), in_width, out_width, rank, scale, a, b, magnitude, bias };
                (OneSite::new(in_width, out_width, weight), values)
            },
        )
    })
}

fn extent_of(base: &OneSite, values: SiteValues) -> HostExtent {
    let folded: Vec<FoldedSite> = values.fold(base).unwrap().into_iter().collect();
    lay_out(&folded, &base.catalog)
}

fn close(found: &[f64], expected: &[f64]) -> Result<(), TestCaseError> {
    for (found, expected) in found.iter().zip(expected) {
        prop_assert!((found - expected).abs() <= 2e-5 * (1.0 + expected.abs()), "{found} {expected}");
    }
    prop_assert_eq!(found.len(), expected.len());
    Ok(())
}

proptest! {
    #[test]
    fn folded_lora_is_w_plus_scaled_ba((base, values) in site(false)) {
        let (i, o) = (values.in_width, values.out_width);
        let delta = LowRank { a: &values.a, b: &values.b, rank: values.rank, scale: values.scale };
        let expected = merged(&base.weight, delta, i, o);
        close(&effective(&base.weight, &extent_of(&base, values.clone()), i, o), &expected)?;
    }

    #[test]
    fn folded_dora_has_rows_of_the_magnitudes_length((base, values) in site(true)) {
        let (i, o) = (values.in_width, values.out_width);
        let delta = LowRank { a: &values.a, b: &values.b, rank: values.rank, scale: values.scale };
        let mut expected = merged(&base.weight, delta, i, o);
        let shortest = expected.chunks(i).map(|row| row.iter().map(|v| v * v).sum::<f64>().sqrt()).fold(f64::MAX, f64::min);
        prop_assume!(shortest > 1e-2);
        for (row, &m) in expected.chunks_mut(i).zip(values.magnitude.as_ref().unwrap()) {
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            row.iter_mut().for_each(|v| *v *= f64::from(m) / norm);
        }
        let found = effective(&base.weight, &extent_of(&base, values.clone()), i, o);
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert!((found - expected).abs() <= 2e-3 * (1.0 + expected.abs()), "{found} {expected}");
        }
    }

    #[test]
    fn a_bias_is_stored_as_it_is_whatever_the_gain((base, values) in site(true)) {
        let extent = match values.clone().fold(&base) {
            Ok(folded) => lay_out(&folded.into_iter().collect::<Vec<_>>(), &base.catalog),
            Err(_) => return Ok(()),
        };
        let stored = extent.layout().slot(SiteId(0)).and_then(|s| s.bias);
        let stored = stored.map(|at| extent.values()[at..at + values.out_width].to_vec());
        prop_assert_eq!(stored, values.bias);
    }

    #[test]
    fn a_zero_factor_takes_no_memory((base, mut values) in site(false), which in 0..3) {
        match which {
            0 => values.a.fill(0.0),
            1 => values.b.fill(-0.0),
            _ => values.scale = 0.0,
        }
        let bias = values.bias.take();
        prop_assert!(values.clone().fold(&base).unwrap().is_none());
        values.bias = bias.clone();
        let extent = extent_of(&base, values.clone());
        let wanted = bias.map_or(0, |b| b.len().next_multiple_of(EXTENT_ALIGN));
        prop_assert_eq!(extent.layout().len(), wanted);
    }

    #[test]
    fn widening_is_exact(value in any::<f32>()) {
        let f16 = half::f16::from_f32(value);
        let bf16 = half::bf16::from_f32(value);
        let same = |found: Vec<f32>, expected: f32| found.len() == 1 && found[0].to_bits() == expected.to_bits();
        prop_assert!(same(StoredDtype::F32.widen(&value.to_le_bytes()), value));
        prop_assert!(same(StoredDtype::F16.widen(&f16.to_le_bytes()), f16.to_f32()));
        prop_assert!(same(StoredDtype::Bf16.widen(&bf16.to_le_bytes()), bf16.to_f32()));
    }
}

fn tiny(weight: Vec<f32>, b: Vec<f32>, scale: f32, magnitude: Option<Vec<f32>>) -> (OneSite, SiteValues) {
    let values = SiteValues {
        site: SiteId(0),
        in_width: 1,
        out_width: 2,
        rank: 1,
        scale,
        a: vec![1.0],
        b,
        magnitude,
        bias: None,
    };
    (OneSite::new(1, 2, weight), values)
}

#[test]
fn a_gain_of_one_everywhere_is_not_stored() {
    let (base, values) = tiny(vec![3.0, -4.0], vec![0.0, 0.0], 1.0, Some(vec![3.0, 4.0]));
    assert!(values.fold(&base).unwrap().is_none());
    let (base, values) = tiny(vec![3.0, -4.0], vec![0.0, 0.0], 1.0, Some(vec![3.0, 8.0]));
    let shape = values.fold(&base).unwrap().unwrap().shape;
    assert_eq!((shape.rank, shape.has_gain), (0, true));
}

#[test]
fn a_weight_without_length_gives_no_gain() {
    let (base, values) = tiny(vec![1.0, 0.0], vec![0.0, 0.0], 1.0, Some(vec![1.0, 2.0]));
    assert_eq!(values.fold(&base).unwrap_err(), FoldFault::Gain { row: 1, magnitude: 2.0, norm: 0.0 });
}

#[test]
fn a_product_beyond_f32_is_refused() {
    let (base, values) = tiny(vec![1.0, 1.0], vec![1.0, 1e38], 16.0, None);
    assert_eq!(values.fold(&base).unwrap_err(), FoldFault::Overflow { index: 1, value: 1e38, factor: 16.0 });
}
