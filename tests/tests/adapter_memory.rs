//! What adapters cost, what happens when there is no room for all, and what a replaced one gives.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use polylora_tests::{Golden, RandomAdapter, Server, at_once, copy_folder, fixtures, largest_difference};
use serde_json::json;
use tempfile::TempDir;

const BASE: &str = "all-MiniLM-L6-v2";
const ADAPTERS: usize = 13;
const RANK: usize = 8;
/// The most that 13 adapters of rank 8 may add to the resident memory.
const MEMORY_LIMIT: usize = 64 << 20;
/// Times that a replaced adapter is looked for, a tenth of a second apart.
const LOOKS: usize = 200;

fn name(index: usize) -> String {
    format!("domain_{index:02}")
}

fn thirteen_adapters() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    for index in 0..ADAPTERS {
        RandomAdapter { seed: 100 + index as u64, rank: RANK }.write(&folder.path().join(name(index)));
    }
    folder
}

fn serve(folder: &Path, arguments: &[&str]) -> Server {
    Server::start(&[&["--adapters-dir", folder.to_str().expect("Unicode")], arguments].concat())
}

#[test]
fn thirteen_adapters_cost_their_own_bytes_and_base_traffic_launches_none() {
    let (folder, golden) = (thirteen_adapters(), Golden::read());
    let server = serve(folder.path(), &[]);
    // The memory of the computation itself is there after a batch of the size that follows.
    for _ in 0..3 {
        server.embed(BASE, json!(golden.sentences));
    }
    assert_eq!(server.metric("polylora_lora_launches_total"), 0.0, "a batch of the base launched LoRA");
    assert_eq!(server.metric("polylora_adapters_resident"), ADAPTERS as f64, "all are read at the start");
    let before = server.resident_bytes().expect("Linux tells");
    for index in 0..ADAPTERS {
        server.embed(&name(index), json!(golden.sentences));
    }
    let grown = server.resident_bytes().expect("Linux tells").saturating_sub(before);
    assert_eq!(server.metric("polylora_adapters_resident"), ADAPTERS as f64);
    assert_eq!(server.metric("polylora_pool_adapters"), ADAPTERS as f64);
    let own = (ADAPTERS * RandomAdapter { seed: 0, rank: RANK }.weights() * size_of::<f32>()) as f64;
    let counted = server.metric("polylora_adapter_bytes");
    assert!(own <= counted && counted < 1.25 * own, "{counted} bytes are counted for weights of {own}");
    assert!(grown <= MEMORY_LIMIT, "13 adapters took {grown} bytes of memory");
    assert!(server.metric("polylora_lora_launches_total") > 0.0);
    let launches = server.metric("polylora_lora_launches_total");
    server.embed(BASE, json!(golden.sentences));
    assert_eq!(server.metric("polylora_lora_launches_total"), launches);
}

#[test]
fn without_room_for_all_every_reply_is_the_same_to_the_bit() {
    let (folder, golden) = (thirteen_adapters(), Golden::read());
    let jobs: Vec<(usize, usize)> =
        (0..ADAPTERS * 8).map(|i| (i * 5 % ADAPTERS, i * 7 % golden.sentences.len())).collect();
    let embed = |server: &Server, &(adapter, sentence): &(usize, usize)| {
        server.embed_bits(&name(adapter), json!(golden.sentences[sentence]))
    };
    let roomy = serve(folder.path(), &[]);
    let expected: Vec<_> = jobs.iter().map(|job| embed(&roomy, job)).collect();
    drop(roomy);
    let one = RandomAdapter { seed: 0, rank: RANK }.weights() * size_of::<f32>();
    // Room for four on the device and for two in the host's cache.
    let (device, host) = ((4 * one + one / 2).to_string(), (2 * one + one / 2).to_string());
    let tight = serve(folder.path(), &["--lora-memory", &device, "--host-cache-bytes", &host]);
    for round in 0..3 {
        let got = at_once(32, &jobs, |job| embed(&tight, job));
        for ((got, expected), (adapter, sentence)) in got.iter().zip(&expected).zip(&jobs) {
            assert!(got == expected, "round {round}, adapter {adapter}, sentence {sentence}");
        }
    }
    assert!(tight.metric("polylora_pool_adapters") <= 4.0);
    assert!(tight.metric("polylora_adapters_resident") <= 2.0);
    let loads = tight.metric("polylora_adapter_loads_total");
    assert!(loads > ADAPTERS as f64, "{loads} loads: nothing was evicted, so nothing was tested");
    assert_eq!(tight.metric("polylora_worker_restarts_total"), 0.0);
}

#[test]
fn an_adapter_that_no_eviction_makes_room_for_is_refused_with_both_sizes() {
    let folder = thirteen_adapters();
    let server = serve(folder.path(), &["--lora-memory", "65536"]);
    let reply = server.post("/v1/embeddings", &json!({ "model": name(0), "input": "a text" }));
    assert_eq!((reply.status, reply.code()), (400, "adapter_too_large"), "{}", reply.text);
    assert!(reply.message().contains("65536"), "{}", reply.message());
    assert_eq!(server.embed(BASE, json!("a text")).len(), 1);
}

#[test]
fn same_content_under_two_names_is_the_same_to_the_bit() {
    let folder = TempDir::new().expect("a folder");
    for name in ["one", "other"] {
        RandomAdapter { seed: 7, rank: RANK }.write(&folder.path().join(name));
    }
    let server = serve(folder.path(), &[]);
    assert_eq!(server.embed_bits("one", json!("a text")), server.embed_bits("other", json!("a text")));
    // Content is known by its digest, and lies in the pool once.
    assert_eq!(server.metric("polylora_pool_adapters"), 1.0);
}

/// Runs `replace` while four clients use another adapter, then asks until `law` gives what it should; the others'
/// embeddings must be right all the time, and `law`'s always the old or the new.
fn replace_under_load(replace: impl FnOnce(&Path, &Path)) {
    let (folder, elsewhere, golden) =
        (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"), Golden::read());
    let (old, new) = (RandomAdapter { seed: 1, rank: RANK }, RandomAdapter { seed: 2, rank: 4 });
    old.write(&folder.path().join("law"));
    new.write(&folder.path().join("law_as_it_will_be"));
    new.write(&elsewhere.path().join("law"));
    copy_folder(&fixtures("minilm/adapters/qv_r8"), &folder.path().join("other"));
    let server = serve(folder.path(), &[]);
    let law = || server.embed_bits("law", json!(golden.sentences));
    let (before, after) = (law(), server.embed_bits("law_as_it_will_be", json!(golden.sentences)));
    assert_ne!(before, after);
    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let expected = golden.embeddings(Some("qv_r8"));
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (server, golden, expected) = (&server, &golden, &expected);
            let (done, asked) = (&done, &asked);
            scope.spawn(move || {
                for sentence in (client * 16..64).cycle() {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let got = server.embed("other", json!(golden.sentences[sentence]));
                    let error = largest_difference(&got, &expected[sentence..=sentence]);
                    assert!(error <= 2e-4, "the other adapter, sentence {sentence}: {error}");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Ends the clients also when an assertion fails, or the scope would wait for them for ever.
        let _stop = Stop(&done);
        replace(folder.path(), elsewhere.path());
        let mut looks = 0;
        loop {
            let reply = server.post("/v1/embeddings", &json!({ "model": "law", "input": golden.sentences }));
            if reply.status == 200 {
                let bits: Vec<Vec<u32>> =
                    reply.embeddings().iter().map(|row| row.iter().map(|v| v.to_bits()).collect()).collect();
                if bits == after {
                    break;
                }
                assert!(bits == before, "neither the old content nor the new");
            } else {
                // Only where the folder was away for a moment.
                assert_eq!(reply.code(), "adapter_invalid", "{}", reply.text);
            }
            looks += 1;
            assert!(looks < LOOKS, "the new content is not served: {:?}", server.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    assert!(asked.into_inner() > 0);
    assert!(law() == after, "the old content came back");
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_replaced_folder_gives_new_embeddings_and_disturbs_nobody() {
    replace_under_load(|folder, elsewhere| {
        fs::rename(folder.join("law"), elsewhere.join("old")).expect("moved away");
        fs::rename(elsewhere.join("law"), folder.join("law")).expect("moved in");
    });
}

#[test]
fn replaced_files_in_a_folder_give_new_embeddings_and_disturb_nobody() {
    replace_under_load(|folder, elsewhere| {
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::rename(elsewhere.join("law").join(file), folder.join("law").join(file)).expect("moved in");
        }
    });
}
