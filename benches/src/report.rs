//! Results as a table for people, or as JSON lines for programs.

use std::io::{Write, stdout};

use serde_json::{Map, Value};

use crate::{BenchError, Passes};

/// One line of results: names and values, in order.
#[derive(Clone, Debug, Default)]
pub struct Row(Vec<(&'static str, Cell)>);

#[derive(Clone, Debug)]
enum Cell {
    Text(String),
    Number { value: f64, decimals: usize },
}

impl Row {
    /// Adds words.
    #[must_use]
    pub fn text(mut self, name: &'static str, value: impl ToString) -> Self {
        self.0.push((name, Cell::Text(value.to_string())));
        self
    }

    /// Adds a number, shown with so many decimals.
    #[must_use]
    pub fn number(mut self, name: &'static str, value: f64, decimals: usize) -> Self {
        self.0.push((name, Cell::Number { value, decimals }));
        self
    }

    /// Adds the cores that other programs used, where that is known.
    #[must_use]
    pub fn others(self, cores: Option<f64>) -> Self {
        match cores {
            Some(cores) => self.number("others' cores", cores, 2),
            None => self.text("others' cores", "?"),
        }
    }

    /// Adds median, fastest and slowest pass in milliseconds, and how many there were.
    #[must_use]
    pub fn passes(self, times: &Passes) -> Self {
        self.number("ms", times.median(), 2)
            .number("min", times.min(), 2)
            .number("max", times.max(), 2)
            .number("passes", times.sorted().len() as f64, 0)
    }

    fn json(&self) -> Value {
        let cell = |cell: &Cell| match cell {
            Cell::Text(text) => Value::from(text.as_str()),
            Cell::Number { value, .. } => Value::from((value * 1e4).round() / 1e4),
        };
        Value::Object(
            self.0.iter().map(|(name, value)| ((*name).to_owned(), cell(value))).collect::<Map<_, _>>(),
        )
    }
}

/// Rows of one kind, written as they come.
#[derive(Debug, Default)]
pub struct Report {
    as_json: bool,
    head: Option<Vec<&'static str>>,
    kept: Option<String>,
}

impl Report {
    /// A report, as JSON lines or as a Markdown table.
    pub fn new(as_json: bool) -> Self {
        Self { as_json, ..Self::default() }
    }

    /// Also keeps what a Markdown report would have, for [`Report::kept`].
    #[must_use]
    pub fn keeping(mut self) -> Self {
        self.kept = Some(String::new());
        self
    }

    /// Everything so far as Markdown; empty when it is not kept.
    pub fn kept(&self) -> &str {
        self.kept.as_deref().unwrap_or_default()
    }

    /// A line of words around the tables; nothing among JSON lines.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn note(&mut self, words: &str) -> Result<(), BenchError> {
        self.head = None;
        self.markdown(&format!("\n{words}\n\n"))
    }

    /// Writes a row; under a new head when its columns are others than before.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn row(&mut self, row: &Row) -> Result<(), BenchError> {
        if self.as_json {
            writeln!(stdout().lock(), "{}", row.json())?;
        }
        let head: Vec<&str> = row.0.iter().map(|(name, _)| *name).collect();
        if self.head.as_ref() != Some(&head) {
            self.markdown(&format!("| {} |\n|{}\n", head.join(" | "), "--:|".repeat(head.len())))?;
            self.head = Some(head);
        }
        let cells = row.0.iter().map(|(_, cell)| match cell {
            Cell::Text(text) => text.clone(),
            Cell::Number { value, decimals } => format!("{value:.decimals$}"),
        });
        self.markdown(&format!("| {} |\n", cells.collect::<Vec<_>>().join(" | ")))
    }

    fn markdown(&mut self, text: &str) -> Result<(), BenchError> {
        if let Some(kept) = &mut self.kept {
            kept.push_str(text);
        }
        if !self.as_json {
            stdout().lock().write_all(text.as_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_markdown_with_a_head_for_each_kind_of_row_also_beside_json() {
        let mut report = Report::new(true).keeping();
        report.row(&Row::default().number("a", 1.0, 1)).expect("written");
        report.row(&Row::default().number("a", 2.0, 1)).expect("written");
        report.note("words").expect("written");
        report.row(&Row::default().text("b", "x")).expect("written");
        let expected = "| a |\n|--:|\n| 1.0 |\n| 2.0 |\n\nwords\n\n| b |\n|--:|\n| x |\n";
        assert_eq!(report.kept(), expected);
        assert_eq!(Report::new(true).kept(), "");
    }
}
