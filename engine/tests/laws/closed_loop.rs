//! What the order of rows does to the slowest of many clients: a closed loop in virtual time around the real scheduler.
//!
//! Each client sends its next row a moment after the reply to the one before. A batch takes a fixed time and a time for each
//! token; replies go out one after the other and reach their clients after random times, some of them long. Nothing here
//! measures this machine.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use polylora_adapters::Digest;
use polylora_engine::{BatchLimits, Batching, Commit, Domain, Row, Scheduler};
use proptest::prelude::*;

/// Tokens of a row.
const TOKENS: usize = 16;
/// Nanoseconds that a batch takes beside its tokens.
const BATCH_NANOS: u64 = 400_000;
/// Nanoseconds that a token takes: bf16 on two cores.
const TOKEN_NANOS: u64 = 23_000;
/// Nanoseconds between two replies of a batch.
const REPLY_NANOS: u64 = 60_000;

struct Sent {
    client: usize,
    domain: Domain,
    at: u64,
}

impl Row for Sent {
    fn domain(&self) -> Domain {
        self.domain
    }

    fn tokens(&self) -> usize {
        TOKENS
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Random numbers that are the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A moment on the way: mostly below a millisecond, one in fifty up to six.
    fn way(&mut self) -> u64 {
        let long = if self.next().is_multiple_of(50) { self.next() % 6_000_000 } else { 0 };
        self.next() % 1_000_000 + long
    }
}

/// The 99th percentile of latency over clients / throughput, and the mean rows of a batch.
fn tail(clients: usize, domains: usize, most_tokens: usize, seed: u64) -> (f64, f64) {
    let bound = |n| NonZeroUsize::new(n).unwrap();
    let mut scheduler = Scheduler::new(BatchLimits {
        max_batch_tokens: bound(most_tokens),
        max_batch_rows: bound(2048),
        max_waiting_rows: bound(65_536),
        batching: Batching::Mixed,
    });
    let (start, mut random) = (Instant::now(), Random(seed | 1));
    let mut coming: BinaryHeap<_> =
        (0..clients).map(|client| Reverse((random.way(), client, 0u64))).collect();
    let (mut now, mut latencies, mut batches) = (0u64, vec![], 0usize);
    let wanted = clients * 60;
    while latencies.len() < wanted {
        while let Some(&Reverse((arrives, client, sent))) = coming.peek()
            && (arrives <= now || scheduler.is_empty())
        {
            coming.pop();
            now = now.max(arrives);
            let domain = match client % domains {
                0 => Domain::Base,
                number => Domain::Adapter(Digest([number as u8; 32])),
            };
            let row = Sent { client, domain, at: sent };
            assert!(scheduler.enqueue(row, start + Duration::from_nanos(arrives)).is_ok());
        }
        let batch = scheduler.next_batch(start + Duration::from_nanos(now)).expect("a row waits");
        now += BATCH_NANOS + TOKEN_NANOS * batch.tokens as u64;
        batches += 1;
        scheduler.commit(Commit { deferred: vec![], adapters_placed: domains.saturating_sub(1) });
        let mut replied = now;
        for picked in batch.rows {
            replied += REPLY_NANOS;
            let received = replied + random.way();
            if picked.row.at > 0 {
                latencies.push(received - picked.row.at);
            }
            coming.push(Reverse((received + random.way(), picked.row.client, received)));
        }
    }
    let done = latencies.len();
    latencies.drain(..done / 10);
    latencies.sort_unstable();
    let fair = clients as f64 * now as f64 / (done + clients) as f64;
    (latencies[latencies.len() * 99 / 100] as f64 / fair, (done + clients) as f64 / batches as f64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn the_slowest_of_many_clients_waits_hardly_longer_than_all_of_them(
        clients in 90usize..300, domains in 1usize..14, seed in 1u64..1_000_000,
    ) {
        let (tail, _) = tail(clients, domains, 1024, seed);
        prop_assert!(tail <= 1.3, "{} clients, {} domains: {}", clients, domains, tail);
    }
}

#[test]
fn batches_grow_with_the_number_of_clients_up_to_the_budget() {
    let rows = [1, 8, 40, 100, 500].map(|clients| tail(clients, 5, 1024, 7).1);
    assert!(rows.windows(2).all(|pair| pair[0] < pair[1]), "{rows:?}");
    assert!(rows[0] <= 1.0 && rows[4] > 55.0, "{rows:?}");
}
