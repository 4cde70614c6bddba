//! The library's own rate, which servers are held against: texts in, vectors out, tokenising included.

use std::time::Duration;

use polylora_adapters::LoadedAdapter;

use crate::{BenchError, RowLength, Rows, Subject, WordPool, passes};

/// Batches that the library is given.
#[derive(Clone, Copy, Debug)]
pub struct LibraryLoad {
    /// Texts in a batch.
    pub texts: usize,
    /// Tokens of each, special ones included.
    pub tokens: usize,
    /// About how long it is measured.
    pub budget: Duration,
}

impl LibraryLoad {
    /// Texts a second through the base.
    ///
    /// # Errors
    /// When a text is not taken.
    pub fn rate(self, subject: &Subject, pool: &mut WordPool) -> Result<f64, BenchError> {
        self.measure(subject, pool, |ids| subject.embed_base(ids))
    }

    /// Texts a second when they go round `adapters`.
    ///
    /// # Errors
    /// When a text is not taken, or there is no memory for the adapters.
    pub fn adapted_rate(
        self,
        subject: &Subject,
        adapters: &[LoadedAdapter],
        pool: &mut WordPool,
    ) -> Result<f64, BenchError> {
        let placed = subject.place(adapters)?;
        let adapter_of: Vec<Option<usize>> =
            (0..self.texts).map(|text| Some(text % adapters.len())).collect();
        self.measure(subject, pool, |ids| subject.embed_placed(ids, &placed, &adapter_of))
    }

    fn measure(
        self,
        subject: &Subject,
        pool: &mut WordPool,
        embed: impl Fn(&[Vec<u32>]) -> Result<Vec<Vec<f32>>, BenchError>,
    ) -> Result<f64, BenchError> {
        let rows = Rows::new(pool, subject.model.tokenizer(), self.texts, RowLength::Each(self.tokens))?;
        let times = passes(self.budget, || embed(&subject.encode(&rows.texts)?).map(drop))?;
        Ok(self.texts as f64 * 1e3 / times.median())
    }
}
