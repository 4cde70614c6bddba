//! A coalescing allocator over a range of elements: where in the device's buffer an adapter's values lie.
//!
//! It only counts; the buffer itself belongs to whoever owns the device.

use std::collections::{BTreeMap, BTreeSet};

use polylora_kernels::extent::EXTENT_ALIGN;

/// A contiguous range of elements in an arena; both numbers are multiples of [`EXTENT_ALIGN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// First element.
    pub offset: usize,
    /// Number of elements.
    pub len: usize,
}

impl Extent {
    /// One past the last element.
    pub fn end(&self) -> usize {
        self.offset + self.len
    }
}

/// Best-fit allocator with immediate coalescing; every operation but [`Arena::check_integrity`] is O(log n) in the
/// number of ranges.
///
/// Best fit, and the lowest offset among equals: adapters come in few sizes (one per rank and set of targets), so a
/// freed place is soon asked for again at exactly its size, and large holes stay whole for large adapters.
#[derive(Debug)]
pub struct Arena {
    capacity: usize,
    free_by_offset: BTreeMap<usize, usize>,
    free_by_len: BTreeSet<(usize, usize)>,
    live: BTreeMap<usize, usize>,
    free: usize,
}

impl Arena {
    /// An empty arena of `capacity` elements, rounded down to a multiple of [`EXTENT_ALIGN`].
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity - capacity % EXTENT_ALIGN;
        let mut arena = Self {
            capacity,
            free_by_offset: BTreeMap::new(),
            free_by_len: BTreeSet::new(),
            live: BTreeMap::new(),
            free: 0,
        };
        if capacity > 0 {
            arena.add_hole(Extent { offset: 0, len: capacity });
        }
        arena
    }

    /// What [`Arena::allocate`] takes for `len` elements: the next multiple of [`EXTENT_ALIGN`], at least one, so
    /// that an adapter without values still has a place of its own. `None` when that overflows.
    pub fn rounded(len: usize) -> Option<usize> {
        len.max(1).checked_next_multiple_of(EXTENT_ALIGN)
    }

    /// Takes a range for `len` elements (see [`Arena::rounded`]), or `None` when no hole is long enough.
    pub fn allocate(&mut self, len: usize) -> Option<Extent> {
        let len = Self::rounded(len)?;
        let &(hole_len, offset) = self.free_by_len.range((len, 0)..).next()?;
        self.remove_hole(Extent { offset, len: hole_len });
        if hole_len > len {
            self.add_hole(Extent { offset: offset + len, len: hole_len - len });
        }
        self.live.insert(offset, len);
        Some(Extent { offset, len })
    }

    /// Gives a range back and joins it with the holes on both sides.
    ///
    /// # Panics
    /// When `extent` is not a range that is in use: whoever frees twice would free what another now owns.
    pub fn free(&mut self, extent: Extent) {
        let live = self.live.remove(&extent.offset);
        assert_eq!(live, Some(extent.len), "{extent:?} is not in use in this arena");
        let mut hole = extent;
        let before = self.free_by_offset.range(..extent.offset).next_back();
        let before =
            before.map(|(&offset, &len)| Extent { offset, len }).filter(|h| h.end() == extent.offset);
        if let Some(left) = before {
            self.remove_hole(left);
            hole = Extent { offset: left.offset, len: left.len + hole.len };
        }
        if let Some(&len) = self.free_by_offset.get(&extent.end()) {
            self.remove_hole(Extent { offset: extent.end(), len });
            hole.len += len;
        }
        self.add_hole(hole);
    }

    /// Elements in all.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Elements in use.
    pub fn used(&self) -> usize {
        self.capacity - self.free
    }

    /// Elements of the longest hole; 0 when the arena is full.
    pub fn largest_free(&self) -> usize {
        self.free_by_len.last().map_or(0, |&(len, _)| len)
    }

    /// Share of the free elements that lies outside the longest hole: 0 for one hole or none, towards 1 for crumbs.
    pub fn fragmentation(&self) -> f64 {
        if self.free == 0 {
            return 0.0;
        }
        1.0 - self.largest_free() as f64 / self.free as f64
    }

    /// Checks that holes and used ranges tile the arena, that no two holes touch and that both indices agree. O(n).
    ///
    /// # Panics
    /// When they do not.
    pub fn check_integrity(&self) {
        let by_len: BTreeMap<usize, usize> = self.free_by_len.iter().map(|&(len, at)| (at, len)).collect();
        assert_eq!(by_len, self.free_by_offset, "the two indices of holes disagree");
        assert_eq!(
            self.free_by_offset.values().sum::<usize>(),
            self.free,
            "the count of free elements is off"
        );
        let holes = self.free_by_offset.iter().map(|(&at, &len)| (at, len, true));
        let mut ranges: Vec<_> = holes.chain(self.live.iter().map(|(&at, &len)| (at, len, false))).collect();
        ranges.sort_unstable();
        let (mut at, mut after_hole) = (0, false);
        for (offset, len, is_hole) in ranges {
            assert_eq!(offset, at, "a gap or an overlap");
            assert!(len > 0 && len % EXTENT_ALIGN == 0, "a range of {len} elements at {offset}");
            assert!(!(is_hole && after_hole), "two holes touch at {offset}");
            (at, after_hole) = (offset + len, is_hole);
        }
        assert_eq!(at, self.capacity, "the ranges do not reach the end");
    }

    fn add_hole(&mut self, hole: Extent) {
        self.free_by_offset.insert(hole.offset, hole.len);
        self.free_by_len.insert((hole.len, hole.offset));
        self.free += hole.len;
    }

    fn remove_hole(&mut self, hole: Extent) {
        self.free_by_offset.remove(&hole.offset);
        self.free_by_len.remove(&(hole.len, hole.offset));
        self.free -= hole.len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(usize),
        Free(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0usize..200).prop_map(Step::Allocate),
            2 => any::<prop::sample::Index>().prop_map(Step::Free),
        ]
    }

    /// One flag per element: slow and obviously right.
    struct Naive(Vec<bool>);

    impl Naive {
        /// The lengths of all maximal runs of free elements, by offset.
        fn holes(&self) -> Vec<Extent> {
            let mut holes: Vec<Extent> = vec![];
            for (at, _) in self.0.iter().enumerate().filter(|(_, used)| !**used) {
                match holes.last_mut() {
                    Some(hole) if hole.end() == at => hole.len += 1,
                    _ => holes.push(Extent { offset: at, len: 1 }),
                }
            }
            holes
        }

        fn set(&mut self, extent: Extent, used: bool) {
            for flag in &mut self.0[extent.offset..extent.end()] {
                assert_ne!(*flag, used, "an element of {extent:?} already was so");
                *flag = used;
            }
        }
    }

    proptest! {
        #[test]
        fn it_does_what_one_flag_per_element_says(capacity in 0usize..1500, steps in prop::collection::vec(step(), 0..120)) {
            let mut arena = Arena::new(capacity);
            let mut naive = Naive(vec![false; arena.capacity()]);
            let mut live = vec![];
            for step in steps {
                match step {
                    Step::Allocate(len) => {
                        let need = len.max(1).next_multiple_of(EXTENT_ALIGN);
                        let best = naive.holes().into_iter().filter(|h| h.len >= need).min_by_key(|h| h.len);
                        let got = arena.allocate(len);
                        prop_assert_eq!(got, best.map(|hole| Extent { offset: hole.offset, len: need }));
                        if let Some(extent) = got {
                            prop_assert_eq!(extent.offset % EXTENT_ALIGN, 0);
                            naive.set(extent, true);
                            live.push(extent);
                        }
                    }
                    Step::Free(index) if !live.is_empty() => {
                        let extent = live.swap_remove(index.index(live.len()));
                        naive.set(extent, false);
                        arena.free(extent);
                    }
                    Step::Free(_) => {}
                }
                arena.check_integrity();
                let holes = naive.holes();
                let free: usize = holes.iter().map(|h| h.len).sum();
                let largest = holes.iter().map(|h| h.len).max().unwrap_or(0);
                prop_assert_eq!(arena.largest_free(), largest);
                prop_assert_eq!(arena.used(), arena.capacity() - free);
                prop_assert!((0.0..1.0).contains(&arena.fragmentation()));
                prop_assert_eq!(arena.fragmentation() > 0.0, holes.len() > 1);
            }
            live.drain(..).for_each(|extent| arena.free(extent));
            arena.check_integrity();
            prop_assert_eq!(arena.largest_free(), arena.capacity());
        }
    }

    #[test]
    #[should_panic(expected = "is not in use")]
    fn freeing_twice_is_a_broken_invariant() {
        let mut arena = Arena::new(64);
        let extent = arena.allocate(16).expect("it fits");
        arena.free(extent);
        arena.free(extent);
    }

    #[test]
    fn an_absurd_length_is_refused_without_overflow() {
        let mut arena = Arena::new(usize::MAX);
        assert_eq!(arena.allocate(usize::MAX), None);
        assert_eq!(arena.allocate(usize::MAX - 15), Some(Extent { offset: 0, len: usize::MAX - 15 }));
        arena.check_integrity();
    }
}
