//! The fleet under everything at once, through the real server: two hundred clients over thirteen adapters of which four fit
//! into the arena, while versions are promoted, rolled back, tried, pinned, retired, replaced in place and deleted, and the
//! server is killed (`kill -9`) at random points and started again.
//!
//! Every reply equals the golden of the version that its header names; no acknowledged registration is lost, no number is
//! given twice, no place is leaked. `POLYLORA_CHAOS_KILLS` sets how often the server is killed; docs/fleet.md has the count of
//! the longest run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use polylora_tests::{BertSize, RandomAdapter, RawClient, Reply, SMALL_BASE, Server, SmallServer, fixtures};
use serde_json::{Value, json};
use tempfile::TempDir;

const CLIENTS: usize = 200;
const NAMES: usize = 13;
/// Versions that each name's folder has.
const VERSIONS: usize = 3;
/// Adapters that fit into the arena.
const ROOM: usize = 4;
/// Kills where the environment does not say.
const KILLS: usize = 6;
/// Names whose folders are replaced in place.
const REPLACED: usize = 3;
/// Names after those that are deleted and registered again.
const DELETED: usize = 3;
const KEY: &str = "chaos";
const TEXTS: [&str; 3] =
    ["the capital and the count", "the danube", "obligation after maturity with guarantees"];

/// Numbers that look random and are the same in every run, but for the order in which threads draw them.
struct Dice(AtomicU64);

impl Dice {
    fn roll(&self, sides: usize) -> usize {
        let mut state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((state ^ (state >> 31)) % sides as u64) as usize
    }
}

/// The folders, and what each content answers.
struct World {
    adapters: TempDir,
    state: TempDir,
    /// By the digest's first eight digits: the embeddings of the texts.
    golden: HashMap<String, Vec<String>>,
}

fn name(index: usize) -> String {
    format!("domain_{index:02}")
}

fn seed(index: usize, version: usize) -> u64 {
    (index * 10 + version) as u64
}

fn write(folder: &Path, seed: u64) {
    RandomAdapter { seed: 9000 + seed, rank: 8 }.write_for(BertSize::TINY, folder);
}

impl World {
    fn new() -> Self {
        let (adapters, state, all) =
            (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
        for index in 0..NAMES {
            for version in 1..=VERSIONS {
                let folder = adapters.path().join(name(index)).join(format!("v{version}.0.0"));
                write(&folder, seed(index, version));
                write(&all.path().join(format!("content_{}", seed(index, version))), seed(index, version));
            }
            // What replaces a version's files in place.
            write(&all.path().join(format!("content_{}", seed(index, 9))), seed(index, 9));
        }
        let roomy = start(all.path(), None, &[]);
        let golden = entries(&roomy.get("/api/adapters/registry")).into_iter().map(|entry| {
            let model = entry["adapter_id"].as_str().unwrap();
            let embeddings = TEXTS.iter().map(|text| {
                let reply = RawClient::new(&roomy.url).post(&SmallServer::body(model, &[*text])).unwrap();
                reply.embeddings().remove(0)
            });
            (entry["digest"].as_str().unwrap()[..8].to_owned(), embeddings.collect::<Vec<_>>())
        });
        let golden: HashMap<_, _> = golden.collect();
        assert_eq!(golden.len(), NAMES * (VERSIONS + 1), "every content has a digest of its own");
        let distinct: BTreeSet<_> = golden.values().map(|embeddings| &embeddings[0]).collect();
        assert_eq!(distinct.len(), golden.len(), "and answers of its own");
        Self { adapters, state, golden }
    }

    fn start(&self) -> Server {
        let memory = SmallServer::memory_for(ROOM).to_string();
        start(
            self.adapters.path(),
            Some(self.state.path()),
            &["--lora-memory", &memory, "--max-cpu-loras", "9"],
        )
    }
}

fn start(adapters: &Path, state: Option<&Path>, more: &[&str]) -> Server {
    let model = fixtures("encoders/bert/model");
    let own = [
        "--embedding-model",
        model.to_str().unwrap(),
        "--served-model-name",
        SMALL_BASE,
        "--adapters-dir",
        adapters.to_str().unwrap(),
        "--state-dir",
        state.map_or("none", |path| path.to_str().unwrap()),
        "--max-concurrent-requests",
        "1000",
        "--log-level",
        "error,polylora_server::serve=info",
    ];
    Server::launch(&[&own, more].concat(), |command| {
        command.env("POLYLORA__ADMIN_API_KEY", KEY);
    })
    .unwrap_or_else(|log| panic!("the server did not start:\n{}", log.join("\n")))
}

fn entries(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.body["adapters"].as_array().unwrap().clone()
}

/// What the operators know for certain.
#[derive(Default)]
struct Ledger {
    /// Every number ever seen, and whose it is.
    numbers: BTreeMap<u64, (String, String)>,
    /// Numbers of versions that were acknowledged and not asked to be deleted since.
    owed: BTreeSet<u64>,
}

impl Ledger {
    /// Takes a listing in, and checks it against what is known.
    fn compare(&mut self, listing: &[Value]) {
        let mut listed = BTreeSet::new();
        for entry in listing {
            let (id, tag) = (entry["id"].as_u64().unwrap(), entry["tag"].as_str().unwrap().to_owned());
            let who = (tag, entry["digest"].as_str().unwrap().to_owned());
            let known = self.numbers.entry(id).or_insert_with(|| who.clone());
            assert_eq!(*known, who, "number {id} was given twice");
            assert!(listed.insert(id), "number {id} is listed twice");
        }
        let lost: Vec<_> = self.owed.difference(&listed).map(|id| &self.numbers[id]).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        self.owed.extend(listed);
    }
}

/// A server that comes and goes.
struct House {
    url: RwLock<String>,
    /// Raised before the server is killed, lowered once its successor serves.
    is_down: AtomicBool,
}

impl House {
    fn url(&self) -> String {
        self.url.read().unwrap().clone()
    }
}

/// A request of an operator's; `None` when the server was killed under it.
fn operate(house: &House, method: &str, path: &str, body: Option<Value>) -> Option<(u16, Value)> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)));
    let agent: ureq::Agent = config.proxy(None).build().into();
    let url = format!("{}{path}", house.url());
    let bearer = format!("Bearer {KEY}");
    let result = match (method, body) {
        ("DELETE", _) => agent.delete(&url).header("authorization", &bearer).call(),
        ("GET", _) => agent.get(&url).header("authorization", &bearer).call(),
        (_, body) => agent.post(&url).header("authorization", &bearer).send_json(body.unwrap_or(json!({}))),
    };
    let mut response = result.ok()?;
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string().ok()?;
    Some((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

/// One change by chance, and what its outcome means for the ledger.
fn meddle(world: &World, house: &House, dice: &Dice, ledger: &Mutex<Ledger>) {
    let index = dice.roll(NAMES);
    let (name, version) = (name(index), format!("{}.0.0", 1 + dice.roll(VERSIONS)));
    let path = |what: &str| format!("/api/adapters/{name}/{what}");
    let post = |what: &str, body: Value| operate(house, "POST", &path(what), Some(body));
    let is_deleted = (REPLACED..REPLACED + DELETED).contains(&index);
    let outcome = match dice.roll(10) {
        0 | 1 => post("promote", json!({ "version": version })),
        2 => post("rollback", json!({})),
        3 => post("ab", json!({ "candidate": version, "percent": dice.roll(101) })),
        4 => operate(house, "DELETE", &path("ab"), None),
        5 => post("pin", json!({ "pinned": dice.roll(2) == 0 })),
        6 if is_deleted => post("retire", json!({ "version": version })),
        7 if is_deleted => {
            // Until the answer is there it may have happened or not: nothing is owed of this name.
            let mut ledger = ledger.lock().unwrap();
            let of_name = format!("{name}@");
            let Ledger { numbers, owed } = &mut *ledger;
            owed.retain(|id| !numbers[id].0.starts_with(&of_name));
            let outcome = operate(house, "DELETE", &format!("/api/adapters/{name}"), None);
            drop(ledger);
            outcome
        }
        8 if index < REPLACED => {
            let folder = world.adapters.path().join(&name).join("v1.0.0");
            replace(&folder, if dice.roll(2) == 0 { seed(index, 1) } else { seed(index, 9) });
            None
        }
        _ => {
            let folder = PathBuf::from(&name).join(format!("v{version}"));
            let metadata = json!({ "adapter_id": name, "custom_metadata": { "adapter_path": folder } });
            let body = json!({ "adapter_metadata": metadata, "activate": "if_vacant" });
            let mut ledger = ledger.lock().unwrap();
            let outcome = operate(house, "POST", "/api/adapters/register", Some(body));
            if let Some((201, entry)) = &outcome {
                let (id, tag) = (entry["id"].as_u64().unwrap(), entry["tag"].as_str().unwrap().to_owned());
                let who = (tag, entry["digest"].as_str().unwrap().to_owned());
                assert_eq!(*ledger.numbers.entry(id).or_insert_with(|| who.clone()), who);
                ledger.owed.insert(id);
            }
            outcome
        }
    };
    if let Some((status, body)) = outcome {
        // 400: files that are being replaced. 404, 409: what others did before.
        assert!([200, 201, 400, 404, 409].contains(&status), "{name}: {status} {body}");
    }
}

/// Puts another content into a folder, by renaming a finished one into its place.
fn replace(folder: &Path, seed: u64) {
    let next = folder.with_file_name(".next");
    let old = folder.with_file_name(".old");
    fs::remove_dir_all(&next).ok();
    fs::remove_dir_all(&old).ok();
    write(&next, seed);
    fs::rename(folder, &old).unwrap();
    fs::rename(&next, folder).unwrap();
    fs::remove_dir_all(&old).ok();
}

/// What a client got in all.
#[derive(Debug, Default)]
struct Tally {
    right: AtomicUsize,
    absent: AtomicUsize,
    hung_up: AtomicUsize,
}

/// Asks until the end, each time for a name by chance.
fn ask(world: &World, house: &House, dice: &Dice, tally: &Tally, is_over: &AtomicBool) {
    let mut client = (String::new(), RawClient::new(""));
    while !is_over.load(Ordering::Relaxed) {
        let url = house.url();
        if client.0 != url {
            client = (url.clone(), RawClient::new(&url));
        }
        let (index, text) = (dice.roll(NAMES), dice.roll(TEXTS.len()));
        let model = name(index);
        let body = json!({
            "model": model, "input": TEXTS[text], "encoding_format": "base64", "user": format!("u{}", dice.roll(50)),
        });
        let was_down = house.is_down.load(Ordering::SeqCst);
        match client.1.post(body.to_string().as_bytes()) {
            Ok(reply) if reply.status == 200 => {
                let tag = reply.header("x-polylora-adapter").expect("a reply names who answered").to_owned();
                let (who, digest) = tag.rsplit_once('#').expect("a digest");
                assert!(who.starts_with(&format!("{model}@")), "{model} was answered by {tag}");
                let golden = world.golden.get(digest).unwrap_or_else(|| panic!("{tag} is nobody"));
                assert_eq!(reply.embeddings(), [golden[text].clone()], "{tag} does not answer as it must");
                tally.right.fetch_add(1, Ordering::Relaxed);
            }
            Ok(reply) => {
                let may_be_absent = index < REPLACED + DELETED && [400, 404].contains(&reply.status);
                assert!(may_be_absent || reply.status == 503, "{model}: {} {}", reply.status, reply.text());
                tally.absent.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                let is_down = was_down || house.is_down.load(Ordering::SeqCst) || house.url() != url;
                assert!(is_down, "{model}: {error}");
                tally.hung_up.fetch_add(1, Ordering::Relaxed);
                client = (String::new(), RawClient::new(""));
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

#[test]
fn every_reply_is_its_versions_golden_and_nothing_acknowledged_is_lost_whatever_happens_meanwhile() {
    let kills =
        std::env::var("POLYLORA_CHAOS_KILLS").ok().map_or(KILLS, |n| n.parse().expect("a number of kills"));
    let world = World::new();
    let first = world.start();
    let house = House { url: RwLock::new(first.url.clone()), is_down: AtomicBool::new(false) };
    let (dice, ledger, tally) = (Dice(AtomicU64::new(7)), Mutex::new(Ledger::default()), Tally::default());
    ledger.lock().unwrap().compare(&entries(&first.get("/api/adapters/registry?versions=all")));
    assert_eq!(ledger.lock().unwrap().owed.len(), NAMES * VERSIONS);
    let mut served = Some(first);
    let is_over = AtomicBool::new(false);
    let over = Over(&is_over);
    thread::scope(|scope| {
        let over = over;
        for _ in 0..CLIENTS {
            scope.spawn(|| ask(&world, &house, &dice, &tally, &is_over));
        }
        let operator = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                if !house.is_down.load(Ordering::SeqCst) {
                    meddle(&world, &house, &dice, &ledger);
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        for _ in 0..kills {
            thread::sleep(Duration::from_millis(100 + dice.roll(900) as u64));
            assert!(!operator.is_finished(), "the operator has found something wrong");
            house.is_down.store(true, Ordering::SeqCst);
            // SIGKILL, whatever is going on.
            drop(served.take());
            let server = served.insert(world.start());
            *house.url.write().unwrap() = server.url.clone();
            house.is_down.store(false, Ordering::SeqCst);
            // The operator's changes and the listing exclude each other: what is listed is what is known.
            let mut ledger = ledger.lock().unwrap();
            let listing = server.get("/api/adapters/registry?versions=all");
            ledger.compare(&entries(&listing));
        }
        thread::sleep(Duration::from_secs(1));
        drop(over);
    });
    let server = served.unwrap();
    let [right, absent, hung_up] =
        [&tally.right, &tally.absent, &tally.hung_up].map(|count| count.load(Ordering::Relaxed));
    eprintln!(
        "{kills} kills: {right} replies equal to their goldens, {absent} absent or starting, {hung_up} broken off"
    );
    assert!(right > 100 * (kills + 1), "only {right} replies came");
    assert!(server.metric("polylora_pool_evictions_total") > 0.0, "nothing was ever evicted");
    nothing_is_left(&house, &server);
    assert_eq!(server.stop().code(), Some(0));
}

/// Ends the clients also when something panics before they are told to.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Deletes all there is: leases, places and memory must come back.
fn nothing_is_left(house: &House, server: &Server) {
    for index in 0..NAMES {
        let deleted = operate(house, "DELETE", &format!("/api/adapters/{}", name(index)), None);
        assert!(deleted.is_some_and(|(status, _)| [200, 404].contains(&status)));
    }
    let gauges = [
        "polylora_requests_in_flight",
        "polylora_pool_leases",
        "polylora_host_cache_adapters",
        "polylora_host_cache_bytes",
        "polylora_adapters_registered",
    ];
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        // A batch, so that the pool's figures are new.
        server.embed(SMALL_BASE, json!("after all"));
        let mut left: Vec<_> = gauges.map(|name| (name, server.metric(name))).into_iter().collect();
        left.extend(
            ["polylora_pool_adapters", "polylora_pool_bytes"].map(|name| (name, server.metric(name))),
        );
        left.retain(|(_, value)| *value != 0.0);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {left:?}");
        thread::sleep(Duration::from_millis(50));
    }
}
