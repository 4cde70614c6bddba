//! The invariants of ARCHITECTURE.md that a program can check.

use std::fs;
use std::path::{Path, PathBuf};

use polylora_tests::repository;

/// Folders of crates in the order of their dependencies; a crate may depend on those before it.
const LAYERS: [&str; 8] =
    ["registry", "generation", "kernels-cpu", "kernels-cubecl", "adapters", "models", "engine", "server"];
/// Lines a source file may have.
const MOST_LINES: usize = 400;

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                found.push((path, text));
            }
        }
    }
    let mut found = vec![];
    walk(&repository().join(folder), &mut found);
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

fn manifest(folder: &str) -> toml::Table {
    let text = fs::read_to_string(repository().join(folder).join("Cargo.toml")).expect("a manifest");
    text.parse().expect("TOML")
}

fn package(folder: &str) -> &str {
    if folder == "kernels-cubecl" { "kernels" } else { folder }
}

fn depends_on(folder: &str) -> Vec<String> {
    let manifest = manifest(folder);
    let own = |key: &str| key.strip_prefix("polylora-").map(str::to_owned);
    let tables =
        ["dependencies", "build-dependencies"].into_iter().filter_map(|t| manifest.get(t)?.as_table());
    tables.flat_map(|t| t.keys().filter_map(|k| own(k))).collect()
}

#[test]
fn crates_depend_in_one_direction() {
    for (i, folder) in LAYERS.iter().enumerate() {
        let mut allowed: Vec<&str> = LAYERS[..i].iter().map(|f| package(f)).collect();
        if *folder == "server" {
            allowed.push("hub");
        }
        for dependency in depends_on(folder) {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{folder} depends on {dependency}, allowed: {allowed:?}"
            );
        }
    }
    assert!(depends_on("hub").is_empty(), "hub depends on no other crate");
}

#[test]
fn the_lower_crates_know_nothing_of_the_upper_ones() {
    let forbidden: [(&str, &[&str]); 6] = [
        ("registry", &["burn", "tokio", "axum", "notify", "safetensors"]),
        ("kernels-cpu", &["burn", "serde", "tokio", "axum"]),
        ("kernels-cubecl", &["serde", "tokio", "axum", "moka"]),
        ("adapters", &["tokio", "axum", "burn-store", "tokenizers"]),
        ("models", &["tokio", "axum", "ureq", "hf-hub", "prometheus"]),
        ("engine", &["axum", "serde", "serde_json", "ureq", "tower"]),
    ];
    for (folder, crates) in forbidden {
        let manifest = manifest(folder);
        let dependencies = manifest["dependencies"].as_table().expect("a table");
        for name in crates {
            assert!(!dependencies.contains_key(*name), "{folder} depends on {name}");
        }
    }
}

#[test]
fn backend_features_appear_only_in_the_kernels() {
    let folders = ["registry", "generation", "kernels-cpu", "adapters", "models", "hub", "engine", "server"];
    for folder in folders.into_iter().chain(["tests", "benches"]) {
        for (path, text) in sources(folder) {
            for backend in ["wgpu", "cuda", "vulkan", "cube"] {
                let cfg = format!("feature = \"{backend}\"");
                assert!(!text.contains(&cfg), "{}: {cfg}", path.display());
            }
        }
    }
}

#[test]
fn unsafe_code_is_in_the_cpu_kernels_only() {
    let keyword = concat!("un", "safe");
    let folders =
        ["registry", "generation", "kernels-cubecl", "adapters", "models", "hub", "engine", "server"];
    for folder in folders.into_iter().chain(["tests", "benches"]) {
        for (path, text) in sources(folder) {
            for marker in [format!("{keyword} {{"), format!("{keyword} fn"), format!("allow({keyword}_code")]
            {
                assert!(!text.contains(&marker), "{}: {marker}", path.display());
            }
        }
    }
}

#[test]
fn a_scheduler_has_no_clock_no_tensor_and_no_async() {
    for file in [
        "registry/src/registry.rs",
        "registry/src/plan.rs",
        "registry/src/split.rs",
        "engine/src/scheduler.rs",
        "engine/src/batch_policy.rs",
        "engine/src/bisection.rs",
        "engine/src/recent.rs",
        "generation/src/generation_scheduler.rs",
        "generation/src/generation_scheduler/commit.rs",
        "generation/src/generation_scheduler/plan.rs",
    ] {
        let text = fs::read_to_string(repository().join(file)).expect("a scheduler");
        let code = text.split("#[cfg(test)]").next().expect("code");
        for word in ["Instant::now", "SystemTime", "async ", "await", "tokio", "burn", "thread::"] {
            assert!(!code.contains(word), "{file} has `{word}`");
        }
    }
}

#[test]
fn source_files_have_one_reason_to_exist() {
    for folder in LAYERS.into_iter().chain(["hub", "tests", "benches"]) {
        for (path, text) in sources(folder) {
            let lines = text.lines().count();
            let is_test = path.components().any(|c| c.as_os_str() == "tests") && folder != "tests"
                || path.starts_with(repository().join("tests/tests"));
            assert!(is_test || lines <= MOST_LINES, "{} has {lines} lines", path.display());
            let name = path.file_stem().and_then(|s| s.to_str()).expect("a name");
            assert!(!["utils", "util", "helpers", "common", "misc"].contains(&name), "{}", path.display());
        }
    }
}

#[test]
fn no_stub_and_no_switched_off_test_is_left() {
    let attribute = concat!("#[ig", "nore");
    for folder in LAYERS.into_iter().chain(["hub", "tests", "benches"]) {
        for (path, text) in sources(folder) {
            for word in [concat!("to", "do!("), concat!("unimplemen", "ted!("), attribute] {
                assert!(!text.contains(word), "{}: {word}", path.display());
            }
        }
    }
}

#[test]
fn the_readmes_test_command_is_what_ci_runs() {
    let read = |file: &str| fs::read_to_string(repository().join(file)).expect("a file");
    let (readme, ci) = (read("README.md"), read(".ci/run"));
    let command = "cargo test --workspace --features wgpu";
    assert!(readme.contains(command), "README.md does not say `{command}`");
    assert!(ci.contains(command), ".ci/run does not run `{command}`");
    assert!(readme.contains("cargo run --release"));
}

#[test]
fn burn_and_cubecl_are_pinned_exactly() {
    let workspace = manifest(".");
    let dependencies = workspace["workspace"]["dependencies"].as_table().expect("a table");
    let mut seen = 0;
    for (name, dependency) in dependencies {
        if name.starts_with("burn") || name.starts_with("cubecl") {
            let version = dependency.get("version").and_then(|v| v.as_str()).expect("a version");
            assert!(version.starts_with('='), "{name} is {version}");
            seen += 1;
        }
    }
    assert!(seen >= 4);
    assert!(repository().join("Cargo.lock").is_file());
}
