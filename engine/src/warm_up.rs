//! Warming up: the owner thread computes the plan's shapes before it takes the first job.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::metrics::{Metrics, seconds};
use crate::runner::{RunError, Runner};
use crate::runner_builder::panic_message;
use crate::status::Status;
use crate::warm_up_plan::{WarmUpBounds, WarmUpShape};

/// Has `runner` compute what it wants to have computed within `bounds`, one shape after the other; `None` warms nothing
/// up. Ends early when the engine is stopped.
pub(crate) fn warm_up(
    runner: &mut dyn Runner,
    bounds: Option<WarmUpBounds>,
    status: &Status,
    metrics: &Metrics,
) -> Result<(), RunError> {
    let began = Instant::now();
    let plan = bounds.map(|bounds| runner.warm_up_plan(&bounds)).unwrap_or_default();
    for (index, shape) in plan.iter().enumerate() {
        if status.is_stopping() || status.is_aborted() {
            return Ok(());
        }
        let (number, count, tokens) = (index + 1, plan.len(), shape.tokens());
        match shape.rank {
            None => tracing::info!("warming up {number}/{count}: {tokens} tokens"),
            Some(rank) => {
                tracing::info!("warming up {number}/{count}: {tokens} tokens, adapter of rank {rank}")
            }
        }
        compute(runner, shape)?;
    }
    let took = if plan.is_empty() { Duration::ZERO } else { began.elapsed() };
    if !plan.is_empty() {
        tracing::info!(seconds = took.as_secs_f32(), "warmed up");
    }
    metrics.warmed_up(seconds(took));
    Ok(())
}

/// A shape that fails here would fail as a request's batch, too.
fn compute(runner: &mut dyn Runner, shape: &WarmUpShape) -> Result<(), RunError> {
    let tokens = shape.tokens();
    let failed = |reason: &str| RunError::Start {
        reason: format!(
            "warming up with a batch of {tokens} tokens failed: {}; smaller batches (--max-batch-tokens) need less \
             memory",
            shortened(reason)
        ),
    };
    match catch_unwind(AssertUnwindSafe(|| runner.warm_up(shape))) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failed(&error.to_string())),
        Err(panic) => Err(failed(&format!("it panicked: {}", panic_message(panic.as_ref())))),
    }
}

/// The first line of a device's report and the cause that it gives last; a page of kernels that were skipped for it lies
/// between.
fn shortened(report: &str) -> String {
    let mut lines = report.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let rest: Vec<&str> = lines.collect();
    let root = rest.iter().rposition(|line| *line == "Caused by:").and_then(|at| rest.get(at + 1));
    root.map_or_else(|| first.to_owned(), |root| format!("{first} ({root})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_report_is_told_by_its_head_and_its_root() {
        let report =
            "it failed\nCaused by:\n  many at once\n  skipped\nCaused by:\n  no memory\nNo backtrace";
        assert_eq!(shortened(report), "it failed (no memory)");
        assert_eq!(shortened("one line"), "one line");
        assert_eq!(shortened("two\nlines"), "two");
        assert_eq!(shortened(""), "");
    }
}
