//! Changes of single logits that can be taken back.

/// Logits of one position, and what stood where they were changed.
#[derive(Debug)]
pub(crate) struct LogitEdits<'a> {
    logits: &'a mut [f32],
    log: &'a mut Vec<(u32, f32)>,
}

impl<'a> LogitEdits<'a> {
    /// `log` is memory that is used again.
    pub fn new(logits: &'a mut [f32], log: &'a mut Vec<(u32, f32)>) -> Self {
        log.clear();
        Self { logits, log }
    }

    /// The logits as they are now.
    pub fn logits(&self) -> &[f32] {
        self.logits
    }

    /// Changes the logit of `token`; a token without a finite one is passed over. A finite logit stays finite,
    /// whatever factors a user asked for.
    pub fn change(&mut self, token: u32, change: impl FnOnce(f32) -> f32) {
        if let Some(logit) = self.logits.get_mut(token as usize).filter(|logit| logit.is_finite()) {
            self.log.push((token, *logit));
            *logit = change(*logit).clamp(f32::MIN, f32::MAX);
        }
    }

    /// Forbids `token`. A logit that is NaN or infinite stays, so that it is found.
    pub fn forbid(&mut self, token: u32) {
        if let Some(logit) = self.logits.get_mut(token as usize).filter(|logit| logit.is_finite()) {
            self.log.push((token, *logit));
            *logit = f32::NEG_INFINITY;
        }
    }

    /// Makes all logits what they were.
    pub fn take_back(self) {
        for &(token, logit) in self.log.iter().rev() {
            self.logits[token as usize] = logit;
        }
    }
}
