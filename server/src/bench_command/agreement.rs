//! How far a number format moves embeddings of real sentences: cosine to f32, and what a small search finds.

use polylora_kernels::LoraBatch;
use polylora_models::EmbeddingModel;
use serde::Serialize;

use crate::assemble::AssembleError;

/// Sentences of many domains, some of them queries.
const BUILTIN: &str = include_str!("sentences.txt");
/// What marks a query; the line after it says the same.
const QUERY: &str = "> ";

/// Sentences, and the pairs among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentences {
    /// The sentences.
    pub texts: Vec<String>,
    /// Index of each query and of the sentence that says the same.
    pub pairs: Vec<(usize, usize)>,
}

impl Sentences {
    /// The sentences of the program: 64, with 16 pairs.
    pub fn builtin() -> Self {
        Self::read(BUILTIN)
    }

    /// A sentence a line; empty lines and lines after `#` are none.
    fn read(text: &str) -> Self {
        let (mut texts, mut pairs) = (vec![], vec![]);
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if line.starts_with(QUERY) {
                pairs.push((texts.len(), texts.len() + 1));
            }
            texts.push(line.strip_prefix(QUERY).unwrap_or(line).to_owned());
        }
        Self { texts, pairs }
    }
}

/// How near the embeddings of one number format are to those of another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// The lowest cosine of a sentence's two embeddings.
    pub lowest_cosine: f64,
    /// The mean of the cosines.
    pub mean_cosine: f64,
    /// What searches find.
    pub retrieval: Retrieval,
}

/// What searches among all other sentences find first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Retrieval {
    /// Queries.
    pub queries: usize,
    /// Queries that find the same sentence first as in f32.
    pub same_top_1: usize,
    /// Queries that find the sentence that says the same first.
    pub right_top_1: usize,
}

impl Agreement {
    /// Compares `found` with `exact`, the embeddings of the sentences in f32; both have one for each sentence.
    pub fn between(sentences: &Sentences, exact: &[Vec<f32>], found: &[Vec<f32>]) -> Self {
        let cosines: Vec<f64> = exact.iter().zip(found).map(|(a, b)| cosine(a, b)).collect();
        let first = |embeddings: &[Vec<f32>], query: usize| top_1(embeddings, query);
        let count = |right: &dyn Fn((usize, usize)) -> bool| {
            sentences.pairs.iter().filter(|pair| right(**pair)).count()
        };
        Self {
            lowest_cosine: lowest(&cosines),
            mean_cosine: cosines.iter().sum::<f64>() / cosines.len() as f64,
            retrieval: Retrieval {
                queries: sentences.pairs.len(),
                same_top_1: count(&|(query, _)| first(found, query) == first(exact, query)),
                right_top_1: count(&|(query, same)| first(found, query) == Some(same)),
            },
        }
    }
}

/// The embeddings of the sentences, in one batch.
///
/// # Errors
/// When the tokenizer or the model refuses one.
pub fn embed(model: &EmbeddingModel, sentences: &Sentences) -> Result<Vec<Vec<f32>>, AssembleError> {
    let step = "embedding the sentences";
    let ids = sentences.texts.iter().map(|text| model.tokenizer().encode(text, true));
    let ids: Vec<Vec<u32>> = ids.collect::<Result<_, _>>().map_err(AssembleError::at(step))?;
    let rows: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    model.embed(&rows, &LoraBatch::base()).map_err(AssembleError::at(step))
}

/// The lowest, which is what is no number where there is any.
fn lowest(cosines: &[f64]) -> f64 {
    let nan = cosines.iter().find(|cosine| cosine.is_nan());
    nan.copied().unwrap_or_else(|| cosines.iter().copied().fold(1.0, f64::min))
}

/// The sentence nearest to a query's, the query's own left out.
fn top_1(embeddings: &[Vec<f32>], query: usize) -> Option<usize> {
    let others = (0..embeddings.len()).filter(|other| *other != query);
    others.max_by(|a, b| {
        let near = |other: usize| cosine(&embeddings[query], &embeddings[other]);
        near(*a).total_cmp(&near(*b))
    })
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| *x as f64 * *y as f64).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_64_different_sentences_and_16_queries() {
        let sentences = Sentences::builtin();
        assert_eq!((sentences.texts.len(), sentences.pairs.len()), (64, 16));
        assert_eq!(sentences.texts.iter().collect::<BTreeSet<_>>().len(), 64);
        let queries: Vec<usize> = sentences.pairs.iter().map(|pair| pair.0).collect();
        assert!(sentences.pairs.iter().all(|(_, same)| *same < 64 && !queries.contains(same)));
        assert!(sentences.texts.iter().all(|text| text.trim() == text && !text.starts_with('>')));
    }

    #[test]
    fn equal_embeddings_agree_and_moved_ones_are_counted() {
        let sentences = Sentences::read("# two pairs\n> a\nb\n\n> c\nd\n");
        let exact = vec![vec![1.0, 0.0], vec![0.9, 0.1], vec![0.0, 1.0], vec![0.1, 0.9]];
        let same = Agreement::between(&sentences, &exact, &exact);
        assert!(same.lowest_cosine > 1.0 - 1e-12);
        assert_eq!(same.retrieval, Retrieval { queries: 2, same_top_1: 2, right_top_1: 2 });
        let mut moved = exact.clone();
        moved[0] = vec![0.0, 1.0];
        let agreement = Agreement::between(&sentences, &exact, &moved);
        assert_eq!((agreement.lowest_cosine, agreement.mean_cosine > 0.7), (0.0, true));
        assert_eq!(agreement.retrieval, Retrieval { queries: 2, same_top_1: 0, right_top_1: 0 });
        moved[0] = vec![f32::NAN, 1.0];
        assert!(Agreement::between(&sentences, &exact, &moved).lowest_cosine.is_nan());
    }
}
