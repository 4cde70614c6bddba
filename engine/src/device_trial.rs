//! Whether a device is worth another runner: it is not when it loses whatever it gets.
//!
//! A row may cost a runner wherever it runs, and a client may send it again and again. So batches without a success are no
//! proof alone: after some of them in a row the device gets a row that no client has made.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::RowOutput;
use crate::runner::{Batch, BatchRow, RowOutcome, RunError, Runner};

/// Batches in a row that lost the device and brought no row, before it is tried.
pub(crate) const MAX_LOST_BATCHES: u32 = 3;

/// What the last batches did to a device.
#[derive(Debug, Default)]
pub(crate) struct DeviceTrial {
    /// Batches in a row that lost it and brought nothing.
    lost_batches: u32,
    /// Whether the batch that is under way lost it.
    has_lost: bool,
    /// Whether it brought a row.
    has_computed: bool,
}

impl DeviceTrial {
    /// A part of the batch was computed.
    pub(crate) fn computed(&mut self) {
        self.has_computed = true;
    }

    /// A part of the batch lost the device.
    pub(crate) fn lost(&mut self) {
        self.has_lost = true;
    }

    /// The batch is over. Says whether the device is to be tried: it was lost [`MAX_LOST_BATCHES`] times in a row.
    pub(crate) fn is_due(&mut self) -> bool {
        let batch = std::mem::take(self);
        self.lost_batches = match (batch.has_computed, batch.has_lost) {
            (true, _) => 0,
            (false, true) => batch.lost_batches + 1,
            // Everybody had left, or the rows failed and the device did not.
            (false, false) => batch.lost_batches,
        };
        if self.lost_batches < MAX_LOST_BATCHES {
            return false;
        }
        self.lost_batches = 0;
        true
    }
}

/// Has `runner` compute the shortest row there is, through the base model.
///
/// # Errors
/// What it did instead.
pub(crate) fn try_device(runner: &mut dyn Runner) -> Result<(), RunError> {
    let row = BatchRow { ids: Arc::from([0]), adapter: None, output: RowOutput::Embedding };
    let found = match catch_unwind(AssertUnwindSafe(|| runner.run(&Batch { rows: vec![row] }))) {
        Ok(Ok(output)) => match &output.rows[..] {
            [RowOutcome::Embedding(values)] if values.iter().all(|value| value.is_finite()) => return Ok(()),
            _ => "a row of the base model was not computed".to_owned(),
        },
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it panicked".to_owned(),
    };
    let reason = format!("{MAX_LOST_BATCHES} batches in a row lost it, and then one of its own: {found}");
    Err(RunError::DeviceLost { reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays batches that computed, lost the device, both, or neither, and says after which the device was tried.
    fn tried(batches: &[(bool, bool)]) -> Vec<usize> {
        let mut trial = DeviceTrial::default();
        let due = |(index, &(computes, loses)): (usize, &(bool, bool))| {
            if loses {
                trial.lost();
            }
            if computes {
                trial.computed();
            }
            trial.is_due().then_some(index)
        };
        batches.iter().enumerate().filter_map(due).collect()
    }

    #[test]
    fn batches_in_a_row_that_lost_the_device_and_brought_nothing_have_it_tried() {
        let (good, lost, both, neither) = ((true, false), (false, true), (true, true), (false, false));
        assert_eq!(tried(&[lost, lost, lost]), [2]);
        assert_eq!(tried(&[lost, lost, neither, lost, lost, lost, lost]), [3, 6]);
        for spared in [good, both] {
            assert_eq!(tried(&[lost, lost, spared, lost, lost]), [0usize; 0]);
        }
        assert_eq!(tried(&[neither; 9]), [0usize; 0]);
    }
}
