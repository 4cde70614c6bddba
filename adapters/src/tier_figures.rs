//! What single adapters do in a tier of memory: how often they were found there, read into it, and had to leave.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Most keys that are counted by themselves: more than that are versions that are long gone.
const MOST_COUNTED: usize = 16_384;

/// One adapter's figures in one tier, since the tier was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierFigures {
    /// Times that it was found there.
    pub hits: u64,
    /// Times that it was brought there, or failed to be.
    pub loads: u64,
    /// Time that this took in all, in microseconds.
    pub load_micros: u64,
    /// Times that it had to leave.
    pub evictions: u64,
}

/// Figures by key. At most [`MOST_COUNTED`] keys have some; of others nothing is known.
#[derive(Debug)]
pub(crate) struct FiguresByKey<K> {
    of: HashMap<K, TierFigures>,
}

impl<K> Default for FiguresByKey<K> {
    fn default() -> Self {
        Self { of: HashMap::new() }
    }
}

impl<K: Hash + Eq + Clone> FiguresByKey<K> {
    pub(crate) fn of(&self, key: &K) -> TierFigures {
        self.of.get(key).copied().unwrap_or_default()
    }

    pub(crate) fn hit(&mut self, key: &K) {
        self.change(key, |figures| figures.hits += 1);
    }

    pub(crate) fn loaded(&mut self, key: &K, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.change(key, |figures| {
            figures.loads += 1;
            figures.load_micros = figures.load_micros.saturating_add(micros);
        });
    }

    pub(crate) fn evicted(&mut self, key: &K) {
        self.change(key, |figures| figures.evictions += 1);
    }

    /// Forgets the figures of all other keys.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(&K) -> bool) {
        self.of.retain(|key, _| is_kept(key));
    }

    fn change(&mut self, key: &K, change: impl FnOnce(&mut TierFigures)) {
        if let Some(figures) = self.of.get_mut(key) {
            change(figures);
        } else if self.of.len() < MOST_COUNTED {
            change(self.of.entry(key.clone()).or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_bounded_and_make_room_when_keys_are_gone() {
        let mut figures = FiguresByKey::<usize>::default();
        for key in 0..2 * MOST_COUNTED {
            figures.hit(&key);
            figures.loaded(&key, Duration::from_micros(3));
            figures.evicted(&key);
        }
        let once = TierFigures { hits: 1, loads: 1, load_micros: 3, evictions: 1 };
        assert_eq!((figures.of(&0), figures.of(&MOST_COUNTED)), (once, TierFigures::default()));
        figures.retain(|key| *key > 0);
        figures.hit(&MOST_COUNTED);
        assert_eq!((figures.of(&0), figures.of(&MOST_COUNTED).hits), (TierFigures::default(), 1));
    }
}
