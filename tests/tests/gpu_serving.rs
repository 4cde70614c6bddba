//! The real binary on a device that wgpu reaches: a card, or a software rasteriser, which runs the same kernels.

use std::path::PathBuf;

use polylora_kernels::device::{DTypeSpec, DeviceSpec, Preparation, is_cpu, open, preparation};
use polylora_tests::{
    Bench, BertSize, Golden, RandomAdapter, Server, at_once, copy_folder, fixtures, golden_rows,
    largest_difference, wgpu_or_not_run,
};
use serde_json::json;
use tempfile::TempDir;

const BASE: &str = "tiny";
const TOLERANCE: f32 = 1e-4;
const CLIENTS: usize = 8;
const LORA_KERNELS: [&str; 4] = ["sgmv_shrink", "bgmv_shrink", "sgmv_expand", "bgmv_expand"];

fn encoder() -> PathBuf {
    fixtures("encoders/bert")
}

fn sentences() -> Vec<String> {
    let text = std::fs::read_to_string(fixtures("encoders/sentences.json")).expect("sentences");
    serde_json::from_str(&text).expect("a list")
}

/// The adapter of the fixture, and others of several ranks.
fn adapters() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    copy_folder(&encoder().join("adapters/a1"), &folder.path().join("a1"));
    for rank in [3, 8, 40] {
        let adapter = RandomAdapter { seed: rank as u64, rank };
        adapter.write_for(BertSize::TINY, &folder.path().join(format!("r{rank}")));
    }
    folder
}

fn start(arguments: &[&str]) -> Server {
    let model = encoder().join("model");
    let model = ["--embedding-model", model.to_str().expect("Unicode"), "--served-model-name", BASE];
    Server::start(&[&model, arguments].concat())
}

fn launches(server: &Server, kernel: &str) -> f64 {
    server.metric(&format!("polylora_kernel_launches_total{{kernel=\"{kernel}\"}}"))
}

fn warmed_shapes(server: &Server) -> usize {
    server.log().iter().filter(|line| line.contains("warming up ")).count()
}

/// Every sentence through every model, as requests of one text each, many at a time.
fn embed_all(server: &Server, models: &[&str]) -> Vec<Vec<f32>> {
    let sentences = sentences();
    let jobs: Vec<(&str, &str)> = sentences
        .iter()
        .flat_map(|sentence| models.iter().map(move |model| (*model, sentence.as_str())))
        .collect();
    let embedded = at_once(CLIENTS, &jobs, |(model, sentence)| server.embed(model, json!([sentence])));
    embedded.into_iter().flatten().collect()
}

#[test]
fn mixed_adapters_on_a_gpu_give_the_golden_embeddings_through_our_kernels() {
    if wgpu_or_not_run("serving on a GPU").is_none() {
        return;
    }
    const MODELS: [&str; 5] = [BASE, "a1", "r3", "r8", "r40"];
    let (folder, cache) = (adapters(), TempDir::new().expect("a folder"));
    let adapters_dir = ["--adapters-dir", folder.path().to_str().expect("Unicode")];
    let cache_dir = ["--kernel-cache-dir", cache.path().to_str().expect("Unicode")];
    let gpu = start(&[&["--device", "wgpu"], &adapters_dir[..], &cache_dir].concat());
    assert!(warmed_shapes(&gpu) > 0, "nothing was warmed up: {:?}", gpu.log());
    assert!(gpu.metric("polylora_warmup_seconds") > 0.0);
    // The probe is a batch of the base.
    for kernel in LORA_KERNELS {
        assert_eq!(launches(&gpu, kernel), 0.0, "{kernel} counts launches of warming up");
    }
    let got = embed_all(&gpu, &MODELS);
    let rows_of = |all: &[Vec<f32>], model: &str| -> Vec<Vec<f32>> {
        let at = MODELS.iter().position(|name| *name == model).expect("a model");
        all.iter().skip(at).step_by(MODELS.len()).cloned().collect()
    };
    let golden = encoder().join("golden.safetensors");
    for (model, name) in [(BASE, "base"), ("a1", "a1")] {
        let error = largest_difference(&rows_of(&got, model), &golden_rows(&golden, name));
        assert!(error <= TOLERANCE, "{model} is {error} off what sentence-transformers and PEFT gave");
    }
    // What the others give is known from the CPU.
    let cpu = start(&adapters_dir);
    let error = largest_difference(&got, &embed_all(&cpu, &MODELS));
    assert!(error <= TOLERANCE, "the GPU is {error} off the CPU");
    assert!(gpu.metric("polylora_lora_launches_total") > 0.0);
    for kernel in ["embed_norm", "attention", "add_norm", "pool", "sgmv_shrink", "sgmv_expand"] {
        assert!(launches(&gpu, kernel) > 0.0, "{kernel} was not launched");
        assert_eq!(launches(&cpu, kernel), 0.0, "{kernel} was launched on the CPU");
    }
    // Three tokens through one adapter: a tile of one row each.
    let before = launches(&gpu, "bgmv_shrink");
    gpu.embed("r8", json!("a"));
    assert!(launches(&gpu, "bgmv_shrink") > before, "a short text took no BGMV");
    for kind in ["reserved", "in_use"] {
        assert!(gpu.metric(&format!("polylora_device_memory_bytes{{kind=\"{kind}\"}}")) > 0.0, "{kind}");
    }
    assert_eq!(gpu.metric("polylora_worker_restarts_total"), 0.0);
}

#[test]
fn a_server_without_adapters_launches_no_lora_kernel() {
    if wgpu_or_not_run("serving the base on a GPU").is_none() {
        return;
    }
    let gpu = start(&["--device", "wgpu", "--skip-warmup"]);
    assert_eq!((warmed_shapes(&gpu), gpu.metric("polylora_warmup_seconds")), (0, 0.0));
    embed_all(&gpu, &[BASE]);
    assert!(launches(&gpu, "attention") > 0.0 && launches(&gpu, "bias_activation") > 0.0);
    for kernel in LORA_KERNELS {
        assert_eq!(launches(&gpu, kernel), 0.0, "{kernel}");
    }
}

#[test]
fn what_a_gpu_cannot_do_is_said_and_done_another_way() {
    if wgpu_or_not_run("bf16 and a kernel cache that cannot be written").is_none() {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("file");
    std::fs::write(&file, b"").expect("written");
    let gpu = start(&[
        "--device",
        "wgpu",
        "--dtype",
        "bf16",
        "--skip-warmup",
        "--kernel-cache-dir",
        file.to_str().expect("Unicode"),
    ]);
    let warned = |words: &str| gpu.log().iter().any(|line| line.contains("WARN") && line.contains(words));
    assert!(warned("compiled kernels are not kept (--kernel-cache-dir)"), "{:?}", gpu.log());
    assert!(warned("does not compute in bf16: weights and adapters are converted to f32"), "{:?}", gpu.log());
    assert_eq!(gpu.get("/v1/models").body["data"][0]["dtype"], json!("f32"));
    assert!(gpu.log().iter().any(|line| line.contains(" serving") && line.contains("f32")));
    let golden = golden_rows(&encoder().join("golden.safetensors"), "base");
    let error = largest_difference(&embed_all(&gpu, &[BASE]), &golden);
    assert!(error <= TOLERANCE, "{error}");
}

#[test]
fn auto_takes_a_card_or_the_cpu_and_never_a_software_adapter() {
    let found = open(DeviceSpec::Auto, DTypeSpec::F32).expect("at least the cpu");
    let real = preparation(&found.device) == Preparation::CompilingAndTuning;
    assert!(is_cpu(&found.device) || real, "auto took {}", found.name);
    let server = start(&["--device", "auto", "--skip-warmup"]);
    let told = server.log().iter().any(|line| line.contains(" serving") && line.contains(&found.name));
    assert!(told, "the server does not compute on {}: {:?}", found.name, server.log());
    if is_cpu(&found.device) {
        assert!(!server.get("/metrics").text.contains("polylora_device_memory_bytes{"));
    }
}

#[test]
fn the_real_model_with_all_adapters_mixed_gives_the_golden_embeddings_on_a_gpu() {
    let Some(device) = wgpu_or_not_run("MiniLM on a GPU") else {
        return;
    };
    // Short ones: a software rasteriser takes a second for a few hundred tokens.
    const SENTENCES: usize = 16;
    let golden = Golden::read();
    let bench = Bench::on(&device, &golden.adapters);
    let kinds = golden.adapters.len() + 1;
    let mut order: Vec<usize> = (0..golden.ids.len()).collect();
    order.sort_by_key(|&i| golden.ids[i].len());
    let picked: Vec<(usize, Option<usize>)> =
        order.into_iter().take(SENTENCES).enumerate().map(|(n, i)| (i, (n % kinds).checked_sub(1))).collect();
    let rows: Vec<_> = picked.iter().map(|&(i, adapter)| (golden.ids[i].as_slice(), adapter)).collect();
    let (got, launches) = bench.embed(&rows);
    assert!(launches > 0);
    for (&(i, adapter), row) in picked.iter().zip(&got) {
        let name = adapter.map(|a| golden.adapters[a].as_str());
        let error = largest_difference(std::slice::from_ref(row), &golden.embeddings(name)[i..=i]);
        assert!(error <= 2e-4, "sentence {i} through {name:?}: {error}");
    }
}

#[test]
fn a_device_that_is_not_there_is_refused_by_name() {
    let model = encoder().join("model");
    let arguments = ["--embedding-model", model.to_str().expect("Unicode"), "--device", "wgpu:99"];
    let log = Server::try_start(&arguments).err().expect("no such device").join("\n");
    assert!(log.contains("wgpu:99") || log.contains("--features wgpu"), "{log}");
}

#[test]
fn token_states_and_raw_embeddings_of_a_gpu_are_the_cpus_from_one_batch() {
    if wgpu_or_not_run("token states on a GPU").is_none() {
        return;
    }
    let folder = adapters();
    let adapters_dir = ["--adapters-dir", folder.path().to_str().expect("Unicode")];
    let servers = ["wgpu", "cpu"].map(|device| start(&[&["--device", device], &adapters_dir[..]].concat()));
    let sentences = sentences();
    let ways = [("/embed", true), ("/embed", false), ("/embed_all", true)];
    let jobs: Vec<_> = sentences.iter().flat_map(|text| ways.map(|way| (text, way))).collect();
    for path in ["", "/r8"] {
        let [gpu, cpu] = servers.each_ref().map(|server| {
            at_once(CLIENTS, &jobs, |(text, (endpoint, normalize))| {
                let body = json!({ "inputs": text, "normalize": normalize });
                let reply = server.post(&format!("{path}{endpoint}"), &body);
                assert_eq!(reply.status, 200, "{}", reply.text);
                let rows = if *endpoint == "/embed" { reply.body } else { reply.body[0].clone() };
                serde_json::from_value::<Vec<Vec<f32>>>(rows).expect("vectors")
            })
        });
        for ((gpu, cpu), (text, way)) in gpu.iter().zip(&cpu).zip(&jobs) {
            let error = largest_difference(gpu, cpu);
            assert!(error <= 10.0 * TOLERANCE, "{path} {way:?} {text}: {error}");
        }
    }
}
