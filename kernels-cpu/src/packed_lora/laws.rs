//! Where `B`'s panels are found.

use super::*;

#[test]
fn panels_asked_for_one_after_the_other_are_those_asked_for_alone() {
    let inputs = 4;
    // No span, one, two that share a panel, none again, and one up to the end.
    let spans: Vec<(Range<usize>, Vec<f32>, Vec<f32>)> = [(70..110, 3), (110..200, 6), (300..401, 2)]
        .into_iter()
        .map(|(columns, rank): (Range<usize>, usize)| {
            let values = |n: usize| (0..n).map(|i| i as f32 * 0.1 + 1.0).collect();
            (columns.clone(), values(rank * inputs), values(rank * columns.len()))
        })
        .collect();
    let spans: Vec<LoraSpan<'_>> = spans
        .iter()
        .map(|(columns, a, b)| LoraSpan {
            columns: columns.clone(),
            rank: a.len() / inputs,
            a,
            b,
            gain: None,
            bias: None,
        })
        .collect();
    for format in [WeightFormat::Bf16, WeightFormat::Int8] {
        let packed = PackedLora::pack(&spans, 401, inputs, format).expect("a low-rank part");
        let panels = 401usize.div_ceil(PANEL);
        for first in 0..panels {
            let mut last = LastExpand::default();
            for index in first..panels {
                let one =
                    |panel: ExpandPanel| (panel.first, panel.steps, panel.data, panel.scale, panel.group);
                let (got, want) = (packed.expand_after(index, &mut last), packed.expand(index));
                assert_eq!(got.map(one), want.map(one), "panel {index} after panel {first}, {format:?}");
            }
            // A panel that is not the next one.
            let (got, want) = (packed.expand_after(first, &mut last), packed.expand(first));
            assert_eq!(got.map(|p| p.data), want.map(|p| p.data), "panel {first} once more");
        }
    }
}
