//! What the generation engine counts, under vLLM's names where it has one (<https://docs.vllm.ai>, "Production metrics"); these have
//! its label `model_name`, too.
//!
//! | name | kind | what |
//! |---|---|---|
//! | `vllm:num_requests_running` | gauge | sequences that hold blocks of the KV cache |
//! | `vllm:num_requests_waiting` | gauge | requests that wait for them |
//! | `vllm:kv_cache_usage_perc` | gauge | share of the blocks that sequences hold, 0 to 1 |
//! | `vllm:prefix_cache_queries_total`, `vllm:prefix_cache_hits_total` | counter | tokens looked up in the prefix cache, and found |
//! | `vllm:num_preemptions_total` | counter | times that a sequence lost its blocks to an older one |
//! | `vllm:prompt_tokens_total`, `vllm:generation_tokens_total` | counter | tokens of prompts that were computed or found, and tokens drawn |
//! | `vllm:request_success_total{finished_reason}` | counter | copies that ended: `stop`, `length`, `abort` |
//! | `vllm:time_to_first_token_seconds` | histogram | from submitted to the first token |
//! | `vllm:inter_token_latency_seconds` | histogram | between a request's tokens |
//! | `vllm:e2e_request_latency_seconds` | histogram | from submitted to the end |
//! | `vllm:request_queue_time_seconds` | histogram | from submitted to the first step |
//! | `vllm:request_prefill_time_seconds`, `vllm:request_decode_time_seconds` | histogram | from there to the first token, and from that to the last |
//! | `vllm:request_inference_time_seconds` | histogram | both together |
//! | `vllm:request_prompt_tokens`, `vllm:request_generation_tokens` | histogram | tokens of a request's prompt, and those of all its copies |
//! | `polylora_generation_worker_restarts_total` | counter | runners that were lost and built again |
//! | `polylora_generation_steps_total`, `polylora_generation_step_seconds` | counter, histogram | forward passes |
//! | `polylora_generation_step_tokens` | histogram | tokens in one |
//! | `polylora_generation_errors_total{code}` | counter | requests that failed, by `GenerateError::code` |
//! | `polylora_generation_lora_launches_total` | counter | linear layers that ran with an adapter's part |
//! | `polylora_adapter_fallbacks_total` | counter | requests that the base model answered because their adapter could not be loaded; together with the embedding engine's, where there is one |

use std::time::Duration;

use polylora_generation::SchedulerStats;
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder};

use super::phases::{PhaseTimes, Phases, TokenWait};
use crate::AdapterFallbacks;
use crate::lately::Lately;
use crate::metrics::{Maker, seconds};
use crate::traffic::Traffic;

/// The metrics; the module's table says what each is.
pub(crate) struct GenerationMetrics {
    registry: Registry,
    running: IntGauge,
    waiting: IntGauge,
    kv_cache_usage: Gauge,
    prefix_queries: IntCounter,
    prefix_hits: IntCounter,
    preemptions: IntCounter,
    prompt_tokens: IntCounter,
    generation_tokens: IntCounter,
    success: IntCounterVec,
    errors: IntCounterVec,
    first_token: Histogram,
    inter_token: Histogram,
    end_to_end: Histogram,
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
    inference: Histogram,
    request_prompt_tokens: Histogram,
    request_generation_tokens: Histogram,
    steps: IntCounter,
    step_seconds: Histogram,
    step_tokens: Histogram,
    lora_launches: IntCounter,
    /// Requests that the base model answered in place of an adapter.
    pub(crate) adapter_fallbacks: AdapterFallbacks,
    /// For whoever builds runners.
    pub(crate) worker_restarts: IntCounter,
    /// Who asks for what now.
    pub(crate) traffic: Traffic,
    /// Requests that ended and tokens that were computed, and how long requests took.
    pub(crate) lately: Lately,
}

impl GenerationMetrics {
    /// All at zero, with `model` for vLLM's label, but for `fallbacks`, which others may count, too.
    pub(crate) fn new(model: &str, fallbacks: &AdapterFallbacks) -> Self {
        let make = Maker::of_model(model);
        Self {
            running: make.gauge("vllm:num_requests_running", "Sequences that hold blocks of the KV cache"),
            waiting: make.gauge("vllm:num_requests_waiting", "Requests that wait for them"),
            kv_cache_usage: make
                .float_gauge("vllm:kv_cache_usage_perc", "Share of the blocks that sequences hold"),
            prefix_queries: make
                .counter("vllm:prefix_cache_queries_total", "Tokens looked up in the prefix cache"),
            prefix_hits: make.counter("vllm:prefix_cache_hits_total", "Those of them that were found"),
            preemptions: make.counter(
                "vllm:num_preemptions_total",
                "Times that a sequence lost its blocks to an older one",
            ),
            prompt_tokens: make.counter("vllm:prompt_tokens_total", "Tokens of prompts"),
            generation_tokens: make.counter("vllm:generation_tokens_total", "Tokens drawn"),
            success: make.counters("vllm:request_success_total", "Copies that ended", "finished_reason"),
            errors: make.counters(
                "polylora_generation_errors_total",
                "Requests that failed, by code",
                "code",
            ),
            first_token: make
                .long_seconds("vllm:time_to_first_token_seconds", "From submitted to the first token"),
            inter_token: make.seconds("vllm:inter_token_latency_seconds", "Between a request's tokens"),
            end_to_end: make.long_seconds("vllm:e2e_request_latency_seconds", "From submitted to the end"),
            queue: make.long_seconds("vllm:request_queue_time_seconds", "From submitted to the first step"),
            prefill: make
                .long_seconds("vllm:request_prefill_time_seconds", "From the first step to the first token"),
            decode: make.long_seconds("vllm:request_decode_time_seconds", "From the first token to the last"),
            inference: make
                .long_seconds("vllm:request_inference_time_seconds", "From the first step to the last token"),
            request_prompt_tokens: make.sizes("vllm:request_prompt_tokens", "Tokens of a request's prompt"),
            request_generation_tokens: make
                .sizes("vllm:request_generation_tokens", "Tokens drawn for a request"),
            steps: make.counter("polylora_generation_steps_total", "Forward passes"),
            step_seconds: make.seconds("polylora_generation_step_seconds", "One forward pass"),
            step_tokens: make.sizes("polylora_generation_step_tokens", "Tokens in one forward pass"),
            lora_launches: make.counter(
                "polylora_generation_lora_launches_total",
                "Linear layers that ran with an adapter's part",
            ),
            worker_restarts: make.counter(
                "polylora_generation_worker_restarts_total",
                "Runners that were lost and built again",
            ),
            traffic: Traffic::new(),
            lately: Lately::new(),
            adapter_fallbacks: make.fallbacks(fallbacks),
            registry: make.registry,
        }
    }

    /// A step was computed.
    pub(crate) fn stepped(&self, tokens: usize, took: Duration, lora_launches: u64) {
        self.steps.inc();
        self.step_seconds.observe(seconds(took));
        self.step_tokens.observe(tokens as f64);
        self.lora_launches.inc_by(lora_launches);
        self.lately.worked(0, tokens);
    }

    /// What the scheduler has now.
    pub(crate) fn scheduled(&self, stats: &SchedulerStats) {
        let whole = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.running.set(whole(stats.running));
        self.waiting.set(whole(stats.waiting));
        self.kv_cache_usage.set(stats.used_blocks as f64 / stats.blocks.max(1) as f64);
        for (counter, total) in [
            (&self.prefix_queries, stats.prefix_queries),
            (&self.prefix_hits, stats.prefix_hits),
            (&self.preemptions, stats.preemptions),
        ] {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }

    /// A request's first step began.
    pub(crate) fn left_the_queue(&self, after: Duration) {
        self.queue.observe(seconds(after));
    }

    /// A prompt of so many tokens was computed, or found in the cache.
    pub(crate) fn read_prompt(&self, tokens: usize) {
        self.prompt_tokens.inc_by(tokens as u64);
    }

    /// A token was drawn.
    pub(crate) fn drew(&self, TokenWait { is_first, waited }: TokenWait) {
        self.generation_tokens.inc();
        if is_first { &self.first_token } else { &self.inter_token }.observe(seconds(waited));
    }

    /// A copy ended for that reason.
    pub(crate) fn ended(&self, reason: &'static str) {
        self.success.with_label_values(&[reason]).inc();
    }

    /// A request is over, with so many tokens of its prompt and drawn.
    pub(crate) fn over(&self, phases: &Phases, (prompt, drawn): (usize, usize)) {
        let PhaseTimes { prefill, decode, .. } = phases.times();
        self.prefill.observe(seconds(prefill));
        self.decode.observe(seconds(decode));
        self.inference.observe(seconds(prefill + decode));
        self.request_prompt_tokens.observe(prompt as f64);
        self.request_generation_tokens.observe(drawn as f64);
        let after = phases.elapsed();
        self.end_to_end.observe(seconds(after));
        self.lately.worked(1, 0);
        self.lately.answered(after);
    }

    /// A request failed.
    pub(crate) fn failed(&self, code: &'static str) {
        self.errors.with_label_values(&[code]).inc();
    }

    /// All metrics in Prometheus' text format 0.0.4.
    pub(crate) fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| {
            tracing::error!(%error, "the metrics could not be rendered");
            String::new()
        })
    }
}
