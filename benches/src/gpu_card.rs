//! What cards give by their makers' data sheets.

/// A card's peaks. Dense, not sparse, rates; a card seldom reaches them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    /// Its name in tables.
    pub name: &'static str,
    /// Words that a driver's name for it has.
    words: &'static [&'static str],
    /// Memory, bytes a second.
    pub bandwidth: f64,
    /// Matrix units in bf16 and f16, operations a second.
    pub flops16: f64,
    /// f32 outside the matrix units, operations a second.
    pub flops32: f64,
}

const fn card(
    name: &'static str,
    words: &'static [&'static str],
    terabytes: f64,
    teraflops16: f64,
    teraflops32: f64,
) -> Card {
    Card {
        name,
        words,
        bandwidth: terabytes * 1e12,
        flops16: teraflops16 * 1e12,
        flops32: teraflops32 * 1e12,
    }
}

impl Card {
    /// The cards that are known; of several that fit a name the first is meant.
    pub const KNOWN: [Card; 9] = [
        card("H200", &["H200"], 4.8, 989.0, 67.0),
        card("H100 PCIe", &["H100", "PCIe"], 2.0, 756.0, 51.0),
        card("H100 NVL", &["H100", "NVL"], 3.9, 835.0, 60.0),
        card("H100 SXM", &["H100"], 3.35, 989.0, 67.0),
        card("A100 80GB", &["A100", "80GB"], 2.0, 312.0, 19.5),
        card("A100 40GB", &["A100", "40GB"], 1.555, 312.0, 19.5),
        card("L40S", &["L40S"], 0.864, 362.0, 91.6),
        card("L4", &["L4"], 0.3, 121.0, 30.3),
        card("RTX 4090", &["RTX", "4090"], 1.008, 165.0, 82.6),
    ];

    /// The card that `device` (a driver's name, perhaps with more around it) means.
    pub fn named(device: &str) -> Option<&'static Card> {
        static KNOWN: [Card; 9] = Card::KNOWN;
        let words: Vec<&str> = device.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        KNOWN.iter().find(|card| card.words.iter().all(|word| words.contains(word)))
    }

    /// Operations a second on values of so many bytes.
    pub fn flops(&self, value: usize) -> f64 {
        if value == 2 { self.flops16 } else { self.flops32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_names_find_their_card_and_no_other() {
        for (device, name) in [
            ("cuda:0 (NVIDIA H200)", "H200"),
            ("NVIDIA H100 80GB HBM3", "H100 SXM"),
            ("NVIDIA H100 PCIe", "H100 PCIe"),
            ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
            ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
            ("wgpu (NVIDIA L4)", "L4"),
            ("NVIDIA L40S", "L40S"),
            ("wgpu:1 (NVIDIA GeForce RTX 4090)", "RTX 4090"),
        ] {
            assert_eq!(Card::named(device).map(|c| c.name), Some(name), "{device}");
        }
        for device in ["cpu (avx512)", "wgpu (llvmpipe (LLVM 19, 256 bits))", "NVIDIA L400", ""] {
            assert_eq!(Card::named(device), None, "{device}");
        }
    }
}
