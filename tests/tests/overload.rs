//! Ten times more requests than the server can answer: who is let in is answered rightly, the others are told to come again.
//!
//! Laws only; how fast all this is, `cargo bench -p polylora-benches --bench overload` tells.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use polylora_tests::{RawClient, RawReply, SMALL_BASE, SmallServer, at_once};
use serde_json::Value;

/// Requests that are let in at once.
const PERMITS: usize = 16;
/// Texts of a request: so many that the rate stays moderate.
const TEXTS: usize = 64;
/// Requests from which the rate at full load is reckoned.
const FULL_LOAD: usize = 20 * PERMITS;
/// How many times that rate is asked for.
const FACTOR: f64 = 10.0;
/// Requests of the open loop, at least and at most, and its length between.
const REQUESTS: [usize; 2] = [400, 2500];
const SECONDS: f64 = 1.0;
/// Connections: many more than requests that are inside, so that one is always free when a request is due.
const CONNECTIONS: usize = 8 * PERMITS;

/// A reply is the right one, or says that the server is busy and when to come again.
#[derive(Debug, PartialEq)]
enum Outcome {
    Right,
    Busy,
}

fn outcome(reply: &RawReply, golden: &[String]) -> Outcome {
    match reply.status {
        200 => {
            assert!(reply.embeddings() == golden, "wrong embeddings under overload");
            Outcome::Right
        }
        429 => {
            let seconds: Option<u64> = reply.header("retry-after").and_then(|value| value.parse().ok());
            assert!(
                seconds.is_some_and(|s| s > 0),
                "429 does not say when to come again: {:?}",
                reply.headers
            );
            let body: Value = serde_json::from_slice(&reply.body).expect("an error object");
            assert_eq!(body["error"]["code"], "rate_limit_exceeded", "{body}");
            Outcome::Busy
        }
        other => panic!("{other}: {}", reply.text()),
    }
}

#[test]
fn under_ten_times_the_load_the_admitted_are_answered_rightly_and_the_others_told_to_come_again() {
    let small = SmallServer::start(2, &["--max-concurrent-requests", &PERMITS.to_string()]);
    let words =
        ["glucose", "capital", "danube", "obligation", "kinetics", "guarantees", "countries", "equation"];
    let texts: Vec<String> = (0..TEXTS)
        .map(|text| (0..20).map(|word| words[(text * 3 + word * 7) % 8]).collect::<Vec<_>>().join(" "))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let models = [SMALL_BASE, "domain_00", "domain_01"];
    let asked: Vec<(Vec<u8>, Vec<String>)> =
        models.iter().map(|model| (SmallServer::body(model, &texts), small.alone(model, &texts))).collect();

    // As many clients as are let in: nobody is refused.
    let numbers: Vec<usize> = (0..PERMITS).collect();
    let began = Instant::now();
    at_once(PERMITS, &numbers, |&number| {
        let mut client = RawClient::new(&small.server.url);
        for request in 0..FULL_LOAD / PERMITS {
            let (body, golden) = &asked[(number + request) % asked.len()];
            let reply = client.post(body).expect("a reply");
            assert_eq!(outcome(&reply, golden), Outcome::Right, "{PERMITS} clients with {PERMITS} permits");
        }
    });
    let rate = FACTOR * FULL_LOAD as f64 / began.elapsed().as_secs_f64();

    let planned = ((rate * SECONDS) as usize).clamp(REQUESTS[0], REQUESTS[1]);
    let (next, connections) = (AtomicUsize::new(0), (0..CONNECTIONS).collect::<Vec<usize>>());
    let began = Instant::now();
    let outcomes = at_once(CONNECTIONS, &connections, |_| {
        let mut client = RawClient::new(&small.server.url);
        let mut seen = vec![];
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= planned {
                return seen;
            }
            let due = began + Duration::from_secs_f64(number as f64 / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let (body, golden) = &asked[number % asked.len()];
            seen.push(outcome(&client.post(body).expect("a reply, be it a refusal"), golden));
        }
    });
    // The burst is over: the first request that comes is taken.
    let mut client = RawClient::new(&small.server.url);
    for (body, golden) in &asked {
        let reply = client.post(body).expect("a reply");
        assert_eq!(outcome(&reply, golden), Outcome::Right, "after the burst");
    }
    let outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
    let busy = outcomes.iter().filter(|o| **o == Outcome::Busy).count();
    assert_eq!(outcomes.len(), planned, "a request was lost");
    assert!(busy > 0, "nobody was refused: {planned} requests at {rate:.0} a second were no overload");
    assert!(planned - busy >= PERMITS, "{} of {planned} were let in", planned - busy);
    // Refused at the door or, when all came in at once, by the engine; either way once.
    let refused = "polylora_http_requests_total{route=\"/v1/embeddings\",status=\"429\"}";
    assert_eq!(small.server.metric(refused), busy as f64);
    assert_eq!(small.server.metric("polylora_requests_in_flight"), 0.0);
    assert_eq!(small.server.metric("polylora_queue_rows"), 0.0);
}
