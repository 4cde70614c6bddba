//! How a transfer shows itself: a bar on a terminal, else one line.

use std::io::IsTerminal;

use indicatif::{BinaryBytes, ProgressBar, ProgressStyle as BarStyle};

use crate::hub_config::ProgressStyle;

/// Files below this size come and go without being shown.
const QUIET_BYTES: u64 = 1 << 20;

/// The progress of one file.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Begins to show a transfer of `total` bytes, `None` where that is not known.
    pub(crate) fn begin(style: ProgressStyle, label: &str, total: Option<u64>) -> Self {
        let large = total.is_none_or(|total| total >= QUIET_BYTES);
        let on_terminal = style == ProgressStyle::Auto && std::io::stderr().is_terminal();
        let bar = match (large && on_terminal, total) {
            (false, _) => {
                let size = total.map_or_else(String::new, |total| format!(" ({})", BinaryBytes(total)));
                if large {
                    tracing::info!("fetching {label}{size}");
                } else {
                    tracing::debug!("fetching {label}{size}");
                }
                ProgressBar::hidden()
            }
            (true, Some(total)) => {
                let line =
                    "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
                ProgressBar::new(total).with_style(bar_style(line))
            }
            (true, None) => ProgressBar::new_spinner().with_style(bar_style("{spinner} {msg} {elapsed}")),
        };
        bar.set_message(label.to_owned());
        Self { bar }
    }

    /// The transfer begins, or goes on, with `bytes` on disk: they do not count as speed.
    pub(crate) fn from(&self, bytes: u64) {
        self.bar.set_position(bytes);
        self.bar.reset_eta();
    }

    /// `bytes` are on disk now.
    pub(crate) fn at(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// Something is still going on.
    pub(crate) fn alive(&self) {
        self.bar.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn bar_style(line: &str) -> BarStyle {
    BarStyle::with_template(line).unwrap_or_else(|_| BarStyle::default_bar()).progress_chars("=> ")
}
