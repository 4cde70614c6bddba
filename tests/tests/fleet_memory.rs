//! What a thousand adapters that come and go leave behind: nothing.

use polylora_tests::{BertSize, RandomAdapter, SMALL_BASE, Server, fixtures};
use serde_json::json;
use tempfile::TempDir;

/// Loads and unloads after which memory is looked at first: by then everything that is made once is there.
const WARM: usize = 200;
/// Loads and unloads in between.
const ROUNDS: usize = 1_000;
/// Folders that they go through.
const FOLDERS: usize = 8;
/// The most that resident memory may grow, as a share.
const MOST_GROWTH: f64 = 0.05;

#[test]
fn a_thousand_loads_and_unloads_leave_resident_memory_where_it_was() {
    let folder = TempDir::new().expect("a folder");
    for index in 0..FOLDERS {
        // Half a megabyte each, so that a thousand that stayed could not be overlooked.
        let own = folder.path().join(format!("content_{index}"));
        RandomAdapter { seed: index as u64, rank: 64 }.write_for(BertSize::TINY, &own);
    }
    let model = fixtures("encoders/bert/model");
    let server = Server::start(&[
        "--embedding-model",
        model.to_str().expect("Unicode"),
        "--served-model-name",
        SMALL_BASE,
        "--lora-resolver",
        folder.path().to_str().expect("Unicode"),
        "--allow-runtime-lora-updating",
        "--log-level",
        "warn,polylora_server::serve=info",
    ]);
    let round = |number: usize| {
        let path = format!("content_{}", number % FOLDERS);
        let loaded =
            server.post("/v1/load_lora_adapter", &json!({ "lora_name": "guest", "lora_path": path }));
        assert_eq!(loaded.status, 200, "{}", loaded.text);
        server.embed("guest", json!(["the capital", "and the count"]));
        let unloaded = server.post("/v1/unload_lora_adapter", &json!({ "lora_name": "guest" }));
        assert_eq!(unloaded.status, 200, "{}", unloaded.text);
    };
    (0..WARM).for_each(round);
    let before = server.resident_bytes().expect("Linux tells") as f64;
    (0..ROUNDS).for_each(round);
    let after = server.resident_bytes().expect("Linux tells") as f64;
    server.embed(SMALL_BASE, json!("after all"));
    for gauge in ["polylora_host_cache_adapters", "polylora_host_cache_bytes", "polylora_pool_adapters"] {
        assert_eq!(server.metric(gauge), 0.0, "{gauge}");
    }
    let growth = after / before - 1.0;
    eprintln!("{ROUNDS} loads and unloads: {before} bytes before, {after} after ({:+.2} %)", 100.0 * growth);
    assert!(growth <= MOST_GROWTH, "resident memory grew from {before} to {after} bytes");
}
