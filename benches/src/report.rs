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
}

impl Report {
    /// A report, as JSON lines or as a Markdown table.
    pub fn new(as_json: bool) -> Self {
        Self { as_json, head: None }
    }

    /// A line of words around the tables; nothing among JSON lines.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn note(&mut self, words: &str) -> Result<(), BenchError> {
        if !self.as_json {
            self.head = None;
            writeln!(stdout().lock(), "\n{words}\n")?;
        }
        Ok(())
    }

    /// Writes a row; under a new head when its columns are others than before.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn row(&mut self, row: &Row) -> Result<(), BenchError> {
        let mut out = stdout().lock();
        if self.as_json {
            writeln!(out, "{}", row.json())?;
            return Ok(());
        }
        let head: Vec<&str> = row.0.iter().map(|(name, _)| *name).collect();
        if self.head.as_ref() != Some(&head) {
            writeln!(out, "| {} |", head.join(" | "))?;
            writeln!(out, "|{}", "--:|".repeat(head.len()))?;
            self.head = Some(head);
        }
        let cells = row.0.iter().map(|(_, cell)| match cell {
            Cell::Text(text) => text.clone(),
            Cell::Number { value, decimals } => format!("{value:.decimals$}"),
        });
        writeln!(out, "| {} |", cells.collect::<Vec<_>>().join(" | "))?;
        Ok(())
    }
}
