//! The longest piece of a vocabulary that a word begins with, found in one walk along the word.

use std::collections::BTreeMap;

/// Pieces of ASCII by their bytes. A node's children lie side by side, in the order of their bytes.
#[derive(Clone, Debug)]
pub(crate) struct PieceTrie {
    nodes: Vec<Node>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    /// A bit for each byte that goes on.
    children: u128,
    /// Index of the first child.
    first: u32,
    /// The piece that ends here.
    id: Option<u32>,
}

impl PieceTrie {
    /// A trie of `pieces`, which are ASCII.
    pub(crate) fn new(pieces: &BTreeMap<&[u8], u32>) -> Self {
        let sorted: Vec<(&[u8], u32)> = pieces.iter().map(|(piece, id)| (*piece, *id)).collect();
        let mut nodes = vec![Node::default()];
        // Nodes in the order of their making, with the pieces below each; those share so many first bytes.
        let mut below = vec![(&sorted[..], 0)];
        for index in 0.. {
            let Some(&(mut pieces, depth)) = below.get(index) else { break };
            if let Some(((piece, id), longer)) =
                pieces.split_first().filter(|((piece, _), _)| piece.len() == depth)
            {
                assert!(piece.is_ascii(), "a piece is not ASCII");
                nodes[index].id = Some(*id);
                pieces = longer;
            }
            nodes[index].first = nodes.len() as u32;
            for same in pieces.chunk_by(|(one, _), (two, _)| one[depth] == two[depth]) {
                nodes[index].children |= 1 << same[0].0[depth];
                nodes.push(Node::default());
                below.push((same, depth + 1));
            }
        }
        Self { nodes }
    }

    /// Length in bytes and id of the longest piece that `word`, which is ASCII, begins with.
    pub(crate) fn longest(&self, word: &[u8]) -> Option<(usize, u32)> {
        let mut node = &self.nodes[0];
        let mut longest = None;
        for (index, byte) in word.iter().enumerate() {
            let bit = 1u128 << byte;
            if node.children & bit == 0 {
                break;
            }
            let smaller = (node.children & (bit - 1)).count_ones();
            node = &self.nodes[(node.first + smaller) as usize];
            longest = node.id.map(|id| (index + 1, id)).or(longest);
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_longest_piece_is_the_one_that_trying_all_finds(
            pieces in proptest::collection::btree_set("[a-c\u{0}\u{7f}]{1,5}", 0..40), word in "[a-d\u{0}\u{7f}]{0,8}",
        ) {
            let pieces: BTreeMap<&[u8], u32> = pieces.iter().map(String::as_bytes).zip(7..).collect();
            let found = PieceTrie::new(&pieces).longest(word.as_bytes());
            let ends = (1..=word.len()).rev();
            let expected = ends.clone().find_map(|end| Some((end, *pieces.get(&word.as_bytes()[..end])?)));
            prop_assert_eq!(found, expected);
        }
    }
}
