//! Five hundred clients at once over thirteen adapters of which four fit into the arena, with all that clients do wrong in
//! between: what comes back, and what is left behind.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use polylora_tests::{RawClient, SmallServer, at_once};

const CLIENTS: usize = 500;
const ADAPTERS: usize = 13;
/// Adapters that fit into the arena.
const ROOM: usize = 4;
const ROUNDS: usize = 6;
/// Requests that the server lets in: fewer than the whole requests of all rounds whose clients go away, so that permits
/// which such clients keep would be missed by the others.
const PERMITS: usize = 1000;
const PAYLOAD_LIMIT: usize = 16 << 10;
/// Resident memory that may come on top after the first round.
const MOST_GROWTH: usize = 64 << 20;
const TEXTS: [&str; 6] = [
    "the capital and the count",
    "glucose through countries",
    "obligation after maturity with guarantees",
    "michaelis kinetics equation reverse",
    "the danube",
    "select right before double indian antibodies which not the employer produc calculated",
];

/// What a client does wrong, and the status that it gets.
enum Mischief {
    /// A body that is refused; the connection stays.
    Body(&'static [u8], u16),
    /// Bytes that are answered with this status, if at all; the connection ends.
    Bytes(Vec<u8>, u16),
}

fn mischief(number: usize) -> Mischief {
    let announced = format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        100 * PAYLOAD_LIMIT
    );
    let chunked = format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n{}\r\n",
        PAYLOAD_LIMIT + 1,
        " ".repeat(PAYLOAD_LIMIT + 1)
    );
    match number % 8 {
        0 => Mischief::Body(br#"{"input": ["a", "b""#, 400),
        1 => Mischief::Body(br#"{"input": {"text": 5}}"#, 400),
        2 => Mischief::Body(br#"{"input": "a", "model": "domain_99"}"#, 404),
        3 => Mischief::Body(b"{\"input\": \"\xff\xfe\"}", 400),
        4 => Mischief::Body(br#"{"input": [[999999]], "model": "domain_03"}"#, 400),
        5 => Mischief::Bytes(announced.into_bytes(), 413),
        6 => Mischief::Bytes(chunked.into_bytes(), 413),
        _ => Mischief::Bytes(b"\x16\x03\x01 this is no HTTP\r\n\r\n".to_vec(), 400),
    }
}

/// One client of one round: two requests of which each reply must be right, something wrong between them, and a request
/// that it does not wait for.
fn behave(small: &SmallServer, golden: &[(String, Vec<String>)], number: usize, round: usize) {
    let mut client = RawClient::new(&small.server.url);
    let ask = |client: &mut RawClient, number: usize| {
        let (model, expected) = &golden[(number * 5 + round) % golden.len()];
        let text = (number + round) % TEXTS.len();
        let count = if number.is_multiple_of(3) { 3 } else { 1 };
        let picked: Vec<usize> = (0..count).map(|i| (text + i) % TEXTS.len()).collect();
        let texts: Vec<&str> = picked.iter().map(|&i| TEXTS[i]).collect();
        let reply = client.post(&SmallServer::body(model, &texts)).expect("a reply");
        assert_eq!(reply.status, 200, "{model}: {}", reply.text());
        let wanted: Vec<&String> = picked.iter().map(|&i| &expected[i]).collect();
        assert_eq!(reply.embeddings().iter().collect::<Vec<_>>(), wanted, "{model}, texts {picked:?}");
    };
    ask(&mut client, number);
    match mischief(number + round) {
        Mischief::Body(body, status) => {
            let reply = client.post(body).expect("a refusal");
            assert_eq!(reply.status, status, "{}", reply.text());
        }
        Mischief::Bytes(bytes, status) => {
            let mut rude = RawClient::new(&small.server.url);
            rude.send(&bytes).expect("sent");
            match rude.reply() {
                Ok(reply) => assert_eq!(reply.status, status, "{}", reply.text()),
                Err(error) => assert!(status == 400 && is_hang_up(error.kind()), "{error}"),
            }
        }
    }
    ask(&mut client, number + 1);
    let (model, _) = &golden[(number * 3 + round) % golden.len()];
    // Within the head, amid the body, and, every other time, when all is sent.
    let share = [0.1, 1.0, 0.8, 1.0][number % 4];
    client.cut_off(&SmallServer::body(model, &TEXTS), share).expect("sent");
}

fn is_hang_up(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// Waits until the engine has nothing left of clients that are gone.
fn settle(small: &SmallServer) {
    let gauges = ["polylora_requests_in_flight", "polylora_queue_rows", "polylora_pool_leases"];
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let left: Vec<(&str, f64)> =
            gauges.map(|name| (name, small.server.metric(name))).into_iter().filter(|g| g.1 != 0.0).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "clients that are gone left {left:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn five_hundred_clients_get_their_goldens_beside_every_kind_of_mischief_and_leave_nothing_behind() {
    let roomy = SmallServer::start(ADAPTERS, &[]);
    let golden: Vec<(String, Vec<String>)> = roomy
        .models()
        .into_iter()
        .map(|model| {
            let embeddings = roomy.alone(&model, &TEXTS);
            (model, embeddings)
        })
        .collect();
    for (index, (model, embeddings)) in golden.iter().enumerate() {
        assert!(
            golden[..index].iter().all(|(_, others)| others[0] != embeddings[0]),
            "{model} is another's twin"
        );
    }
    drop(roomy);

    let [memory, permits, payload] =
        [SmallServer::memory_for(ROOM), PERMITS, PAYLOAD_LIMIT].map(|bound| bound.to_string());
    let small = SmallServer::start(
        ADAPTERS,
        &["--lora-memory", &memory, "--max-concurrent-requests", &permits, "--payload-limit", &payload],
    );
    let metric = |name: &str| small.server.metric(name);
    let clients: Vec<usize> = (0..CLIENTS).collect();
    let mut resident = vec![];
    for round in 0..ROUNDS {
        at_once(CLIENTS, &clients, |&number| behave(&small, &golden, number, round));
        settle(&small);
        resident.extend(small.server.resident_bytes());
    }
    let cut_when_sent = CLIENTS / 2 * ROUNDS;
    assert!(cut_when_sent > PERMITS, "too few clients go away for a permit that they keep to be missed");
    assert!(metric("polylora_requests_total{outcome=\"cancelled\"}") > 0.0, "no client went away in time");
    assert!(metric("polylora_rows_deferred_total") > 0.0, "no row ever had to wait for a place");
    assert!(metric("polylora_pool_adapters") <= ROOM as f64);
    let evictions = metric("polylora_pool_evictions_total");
    assert!(evictions > (ADAPTERS - ROOM) as f64, "{evictions} evictions");
    // A lease that was never given back would keep its adapter's place: each of the thirteen still finds one.
    for (model, expected) in &golden {
        assert_eq!(small.alone(model, &TEXTS), *expected, "{model}, after all");
    }
    let since = metric("polylora_pool_evictions_total") - evictions;
    assert!(
        since >= (ADAPTERS - ROOM) as f64,
        "{since} evictions for {ADAPTERS} adapters with room for {ROOM}"
    );
    assert_eq!(metric("polylora_worker_restarts_total"), 0.0);
    if let (Some(first), Some(last)) = (resident.first(), resident.last()) {
        assert!(last.saturating_sub(*first) <= MOST_GROWTH, "memory grows from round to round: {resident:?}");
    }
    assert_eq!(small.server.stop().code(), Some(0));
}
