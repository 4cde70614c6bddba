//! A request's rows through the memo: what is known is not computed, and what others compute now is waited for.

use std::sync::Arc;
use std::time::Duration;

use polylora_adapters::LoadedAdapter;

use crate::embedding_path::EmbeddingPath;
use crate::memo::{Claim, Embedding, Known, Memo};
use crate::row_gather::JobReply;
use crate::traffic::DomainTraffic;
use crate::{EmbedError, RowOutput};

/// Rows on their way to a device, and what they share.
pub(crate) struct RowsToRun {
    /// Token ids of each.
    pub(crate) rows: Vec<Arc<[u32]>>,
    /// The memo's claims on them, one for each row, or none at all.
    pub(crate) claims: Vec<Claim>,
    /// The adapter of all of them.
    pub(crate) adapter: Option<LoadedAdapter>,
    /// What each of them becomes.
    pub(crate) output: RowOutput,
    /// Where they are counted.
    pub(crate) traffic: Arc<DomainTraffic>,
}

impl EmbeddingPath {
    /// One embedding per row: from the memo, from whoever computes the same row now, or from the device.
    pub(crate) async fn run_memoised(&self, memo: &Memo, job: RowsToRun) -> Result<JobReply, EmbedError> {
        let digest = job.adapter.as_ref().map(|adapter| adapter.digest);
        let keys: Vec<_> = job.rows.iter().map(|ids| memo.key(digest, job.output, ids)).collect();
        let mut found: Vec<Option<Embedding>> = vec![None; keys.len()];
        let (mut queue, mut compute) = (Duration::ZERO, Duration::ZERO);
        let mut open: Vec<usize> = (0..keys.len()).collect();
        let mut computed = 0;
        // Again for rows whose claimant has left; those are then claimed here.
        while !open.is_empty() {
            let (mut claims, mut claimed, mut awaited) = (Vec::new(), Vec::new(), Vec::new());
            for index in std::mem::take(&mut open) {
                match memo.look_up(keys[index]) {
                    Known::Embedding(embedding) => found[index] = Some(embedding),
                    Known::Awaited(result) => awaited.push((index, result)),
                    Known::Missing(claim) => {
                        claims.push(claim);
                        claimed.push(index);
                    }
                }
            }
            computed += claims.len();
            self.metrics.memo_misses.inc_by(claims.len() as u64);
            // Own rows first: two requests that wait for each other's rows both get on.
            if !claims.is_empty() {
                let rows = claimed.iter().map(|&index| Arc::clone(&job.rows[index])).collect();
                let (adapter, output, traffic) = (job.adapter.clone(), job.output, Arc::clone(&job.traffic));
                let reply = self.run(RowsToRun { rows, claims, adapter, output, traffic }).await?;
                (queue, compute) = (queue + reply.queue, compute + reply.compute);
                // Each was kept as it came; this request waits for the last of them.
                for (index, embedding) in claimed.into_iter().zip(reply.embeddings) {
                    found[index] = Some(embedding.into());
                }
            }
            for (index, mut result) in awaited {
                let outcome = result.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
                match outcome {
                    Some(embedding) => found[index] = Some(embedding?),
                    None => open.push(index),
                }
            }
        }
        let embeddings: Vec<Vec<f32>> = found.into_iter().flatten().map(|found| found.to_vec()).collect();
        assert_eq!(embeddings.len(), keys.len(), "every row was found or computed");
        self.metrics.memo_hits.inc_by((keys.len() - computed) as u64);
        Ok(JobReply { embeddings, queue, compute })
    }
}
