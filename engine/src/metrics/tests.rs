//! Laws of the engine's figures.

use super::*;
use crate::EmbedError;
use crate::traffic::MAX_ADAPTERS_TOLD_APART;

#[test]
fn every_name_of_the_table_is_rendered() {
    let metrics = Metrics::new("all-MiniLM-L6-v2");
    metrics.request().end::<()>(&Err(EmbedError::NoInputs));
    drop(metrics.request());
    metrics.request().end(&Ok(()));
    metrics.set_device_memory(Some(DeviceMemory { reserved: 64, in_use: 16 }));
    metrics.warmed_up(2.5);
    metrics.traffic.domain(Some("law")).request();
    let adapters = AdapterMemory { adapters: 3, bytes: 12 };
    metrics.render(Holdings { adapters, memo_bytes: 7 });
    metrics.traffic.domain(Some("law")).request();
    let text = metrics.render(Holdings { adapters, memo_bytes: 7 });
    let table = include_str!("../metrics.rs").lines().filter_map(|line| line.strip_prefix("//! | `"));
    let names: Vec<_> = table.map(|line| line.split(['`', '{']).next().unwrap()).collect();
    assert_eq!(names.len(), text.lines().filter(|line| line.starts_with("# TYPE")).count());
    for name in names {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
    }
    for line in [
        "polylora_requests_total{outcome=\"client_error\"} 1",
        "polylora_requests_total{outcome=\"cancelled\"} 1",
        "polylora_requests_total{outcome=\"ok\"} 1",
        "polylora_errors_total{code=\"no_inputs\"} 1",
        "polylora_requests_in_flight 0",
        "polylora_adapter_requests_total{adapter=\"law\"} 2",
        "polylora_adapter_queue_rows{adapter=\"(base)\"} 0",
        "vllm:num_requests_waiting{model_name=\"all-MiniLM-L6-v2\"} 0",
        "polylora_memo_bytes 7",
        "polylora_adapters_resident 3",
        "polylora_adapter_bytes 12",
        "polylora_device_memory_bytes{kind=\"reserved\"} 64",
        "polylora_device_memory_bytes{kind=\"in_use\"} 16",
        "polylora_warmup_seconds 2.5",
        "polylora_kernel_launches_total{kernel=\"sgmv_shrink\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn readers_that_meet_count_every_request_once() {
    let metrics = Metrics::new("all-MiniLM-L6-v2");
    let law = metrics.traffic.domain(Some("law"));
    for round in 1..=200 {
        (0..1000).for_each(|_| law.request());
        let meet = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    meet.wait();
                    metrics.count_traffic();
                });
            }
        });
        assert_eq!(metrics.adapter_requests.with_label_values(&["law"]).get(), round * 1000);
    }
}

#[test]
fn adapters_named_like_the_base_or_the_others_are_counted_apart() {
    let metrics = Metrics::new("all-MiniLM-L6-v2");
    let names = [None, Some("(base)"), Some("other")];
    for (requests, name) in (1..).zip(names) {
        (0..requests).for_each(|_| metrics.traffic.domain(name).request());
    }
    for number in 0..MAX_ADAPTERS_TOLD_APART {
        metrics.traffic.domain(Some(&format!("a{number}"))).request();
    }
    metrics.count_traffic();
    let counted = ["(base)", "./(base)", "./other", "other"]
        .map(|label| metrics.adapter_requests.with_label_values(&[label]).get());
    assert_eq!(counted, [1, 2, 3, 2]);
}

#[test]
fn evictions_go_on_counting_when_a_runner_is_built_anew() {
    let metrics = Metrics::new("all-MiniLM-L6-v2");
    let mut before = PoolUsage::default();
    for evictions in [3, 5, 2] {
        let now = PoolUsage { evictions, leases: 1, ..PoolUsage::default() };
        metrics.change_pool(std::mem::replace(&mut before, now), now);
    }
    let text = metrics.render(Holdings { adapters: AdapterMemory { adapters: 0, bytes: 0 }, memo_bytes: 0 });
    for line in ["polylora_pool_evictions_total 7", "polylora_pool_leases 1"] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}
