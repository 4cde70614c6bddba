//! The metrics say what happened.

use polylora_engine::*;

use super::hash_device::LETTERS;
use super::speaker::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_figures_are_those_of_what_was_done() {
    let (engine, control) = start(configs()).await;
    let prompt = [7; 10];
    reply(&engine, request(1, &prompt, 6)).await.unwrap();
    // Two full blocks of the same prompt under the same adapter; none under another.
    assert_eq!(reply(&engine, request(1, &prompt, 6)).await.unwrap().cached_tokens, 8);
    assert_eq!(reply(&engine, request(2, &prompt, 6)).await.unwrap().cached_tokens, 0);
    let mut copies = request(2, &prompt, 6);
    copies.copies = 3;
    copies.sampling.temperature = Some(1.0);
    assert_eq!(reply(&engine, copies).await.unwrap().cached_tokens, 8);
    let mut stopped = request(0, &prompt, 6);
    stopped.sampling.stop_token_ids = LETTERS.collect();
    reply(&engine, stopped).await.unwrap();
    let refused = engine.generate(request(0, &[], 1)).await;
    assert!(refused.is_err());
    let mut expected = vec![
        ("vllm:prompt_tokens_total", 50.0),
        ("vllm:generation_tokens_total", 6.0 * 6.0 + 1.0),
        ("vllm:prefix_cache_queries_total", 50.0),
        ("vllm:prefix_cache_hits_total", 16.0),
        ("vllm:num_preemptions_total", 0.0),
        ("vllm:request_success_total{finished_reason=\"length\"}", 6.0),
        ("vllm:request_success_total{finished_reason=\"stop\"}", 1.0),
        ("vllm:request_success_total{finished_reason=\"abort\"}", 0.0),
        ("vllm:time_to_first_token_seconds_count", 5.0),
        ("vllm:inter_token_latency_seconds_count", 32.0),
        ("vllm:e2e_request_latency_seconds_count", 5.0),
        ("vllm:request_queue_time_seconds_count", 5.0),
        ("vllm:request_prefill_time_seconds_count", 5.0),
        ("vllm:request_decode_time_seconds_count", 5.0),
        ("vllm:request_inference_time_seconds_count", 5.0),
        ("vllm:request_prompt_tokens_sum", 50.0),
        ("vllm:request_generation_tokens_sum", 6.0 * 6.0 + 1.0),
        ("polylora_generation_errors_total{code=\"empty_prompt\"}", 1.0),
        ("polylora_generation_worker_restarts_total", 0.0),
        ("polylora_generation_lora_launches_total", 4.0 * 6.0),
    ];
    let steps = control.steps.lock();
    let tokens: usize = steps.iter().flat_map(|step| &step.rows).map(|row| row.tokens.len()).sum();
    expected.push(("polylora_generation_steps_total", steps.len() as f64));
    expected.push(("polylora_generation_step_seconds_count", steps.len() as f64));
    expected.push(("polylora_generation_step_tokens_sum", tokens as f64));
    for (name, value) in expected {
        assert_eq!(metric(&engine, name), value, "{name}");
    }
    assert!(is_empty(&engine));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_step_is_computed_the_gauges_say_who_runs_and_who_waits() {
    let (engine, control) = start(GenerationConfigs { max_running: some(2), ..configs() }).await;
    control.hold();
    let clients: Vec<_> = (0..5).map(|i| client(&engine, request(i, &[3; 8], 10))).collect();
    // All five have come by then.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    control.allow(2);
    crate::harness::until("two run", || metric(&engine, "vllm:num_requests_running") == 2.0).await;
    assert_eq!(metric(&engine, "vllm:num_requests_waiting"), 3.0);
    assert!(metric(&engine, "vllm:kv_cache_usage_perc") > 0.0);
    control.let_go();
    for client in clients {
        client.await.unwrap().unwrap();
    }
    assert!(is_empty(&engine));
}
