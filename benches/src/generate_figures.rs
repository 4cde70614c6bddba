//! What the comparison of text generators comes to: its tables and its aims, reckoned from the times. Pure: no model, no clock.

use polylora_kernels::device::DTypeSpec;

use crate::timing::median;
use crate::{Aim, GenerateTimes, Row, StreamFigures, Through};

/// Who generated, and in what form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Generator {
    /// The library, in this number format.
    Ours(DTypeKind),
    /// transformers or PEFT, in this one.
    Transformers(DTypeKind),
    /// vLLM, in this one.
    Vllm(DTypeKind),
}

/// A number format that is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DTypeKind {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    #[default]
    Bf16,
    /// 8-bit integers for the weights of linear layers.
    Int8,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct GenerateLine {
    /// Who.
    pub generator: Generator,
    /// Texts at once.
    pub batch: usize,
    /// Through which adapters.
    pub through: Through,
    /// Of each round: milliseconds to the first token, and of a step after it.
    pub rounds: Vec<[f64; 2]>,
    /// Of each round: milliseconds of the fastest step, where steps were timed one by one.
    pub fastest: Vec<f64>,
}

/// What our side is held against in one number format.
#[derive(Clone, Copy, Debug)]
pub struct GenerateFloor {
    /// Bytes of weights that a step reads.
    pub step_bytes: f64,
    /// Operations of a prompt.
    pub prompt_flops: f64,
    /// The product of matrices, in operations a second.
    pub peak: f64,
}

/// All that was measured.
#[derive(Clone, Debug, Default)]
pub struct GenerateFigures {
    /// Tokens of each prompt.
    pub prompt: usize,
    /// The larger batch.
    pub batch: usize,
    /// The lines.
    pub lines: Vec<GenerateLine>,
    /// Of each round: bytes of memory that are read a second, at the fastest pass.
    pub bandwidths: Vec<f64>,
    /// By format.
    pub floors: Vec<(DTypeKind, GenerateFloor)>,
    /// Milliseconds of a step by the length of the text, in bf16.
    pub lengths: Vec<(usize, f64)>,
    /// The server's streams, by clients.
    pub streams: Vec<(usize, StreamFigures)>,
}

impl DTypeKind {
    /// Of a format that is compared; `None` for any other.
    pub fn of(dtype: DTypeSpec) -> Option<Self> {
        match dtype {
            DTypeSpec::F32 => Some(Self::F32),
            DTypeSpec::Bf16 => Some(Self::Bf16),
            DTypeSpec::Int8 => Some(Self::Int8),
            _ => None,
        }
    }

    /// Its name, as options have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

impl GenerateLine {
    /// Notes a round.
    pub fn note(&mut self, times: &GenerateTimes) {
        self.rounds.push([times.first_ms, times.step_ms]);
        self.fastest.extend(times.fastest_step_ms);
    }

    /// The median of the rounds: milliseconds to the first token (0), or of a step (1); no number where there is none.
    fn ms(&self, which: usize) -> f64 {
        median(self.rounds.iter().map(|round| round[which]).collect())
    }
}

impl GenerateFigures {
    /// Bytes of memory that are read a second: the median of the rounds.
    pub fn bandwidth(&self) -> f64 {
        median(self.bandwidths.clone())
    }

    /// The share of its floor that a line's steps reach: round by round, the fastest pass over memory beside the fastest step,
    /// so that a neighbour on the machine slows both or neither; the median of the rounds.
    fn share_of_floor(&self, line: &GenerateLine) -> f64 {
        let Some(floor) = self.floor(line.generator) else { return f64::NAN };
        let rounds = self.bandwidths.iter().zip(&line.fastest);
        median(rounds.map(|(bandwidth, ms)| floor.step_bytes / bandwidth * 1e3 / ms).collect())
    }

    fn floor(&self, generator: Generator) -> Option<GenerateFloor> {
        let is_it = |(dtype, _): &&(DTypeKind, GenerateFloor)| generator == Generator::Ours(*dtype);
        self.floors.iter().find(is_it).map(|(_, floor)| *floor)
    }

    /// The table's lines.
    pub fn rows(&self) -> Vec<Row> {
        self.lines.iter().map(|line| self.row(line)).collect()
    }

    fn row(&self, line: &GenerateLine) -> Row {
        let (name, dtype) = match line.generator {
            Generator::Ours(dtype) => ("polylora", dtype),
            Generator::Transformers(dtype) if line.through == Through::Base => ("transformers", dtype),
            Generator::Transformers(dtype) => ("PEFT", dtype),
            Generator::Vllm(dtype) => ("vLLM", dtype),
        };
        let floor = self.floor(line.generator);
        let through = match line.through {
            Through::Base => "none".to_owned(),
            Through::Rank(rank) => format!("8 of rank {rank}"),
        };
        let share = |of: Option<f64>| of.map_or("-".to_owned(), |share| format!("{:.0} %", 100.0 * share));
        let prompts = floor.map(|f| line.batch as f64 * f.prompt_flops / f.peak / (line.ms(0) / 1e3));
        let steps = floor.map(|f| f.step_bytes / self.bandwidth() / (line.ms(1) / 1e3));
        let fastest = floor.map(|_| self.share_of_floor(line));
        Row::default()
            .text("generator", format!("{name} {}", dtype.name()))
            .number("texts", line.batch as f64, 0)
            .text("adapters", through)
            .number("prompts ms", line.ms(0), 1)
            .number("tokens/s", (line.batch * self.prompt) as f64 * 1e3 / line.ms(0), 0)
            .text("of the product", share(prompts))
            .number("step ms", line.ms(1), 2)
            .number("new tokens/s", line.batch as f64 * 1e3 / line.ms(1), 1)
            .text("of the floor", share(steps))
            .text("the fastest step", share(fastest))
    }

    /// The lines of steps by length.
    pub fn length_rows(&self) -> Vec<Row> {
        let first = self.lengths.first().map_or(f64::NAN, |(_, ms)| *ms);
        let row = |(length, ms): &(usize, f64)| {
            let row = Row::default().number("tokens before", *length as f64, 0).number("ms", *ms, 2);
            row.number("times the first", ms / first, 3)
        };
        self.lengths.iter().map(row).collect()
    }

    /// What was hoped for. A figure that was not measured misses its aim, but nobody is held against a peer that did not run.
    pub fn aims(&self) -> Vec<Aim> {
        let (bf16, int8) = (Generator::Ours(DTypeKind::Bf16), Generator::Ours(DTypeKind::Int8));
        let (one, many, base) = (1, self.batch, Through::Base);
        let step = |generator, batch, through| self.ms(generator, batch, through, 1);
        let first = |generator, batch, through| self.ms(generator, batch, through, 0);
        let mut aims = vec![Aim::at_least(
            "bf16, 1 text: what reading the weights takes / a step, each at its fastest in a round",
            self.line(bf16, one, base).map_or(f64::NAN, |line| self.share_of_floor(line)),
            0.85,
        )];
        for dtype in [DTypeKind::Bf16, DTypeKind::F32] {
            let (vllm, name) = (Generator::Vllm(dtype), dtype.name());
            if !self.has(vllm) {
                continue;
            }
            aims.extend([
                Aim::at_least(
                    format!("bf16, {many} texts: new tokens/s / vLLM's in {name}"),
                    step(vllm, many, base) / step(bf16, many, base),
                    1.2,
                ),
                Aim::at_least(
                    format!("bf16, {many} texts: prompts, tokens/s / vLLM's in {name}"),
                    first(vllm, many, base) / first(bf16, many, base),
                    1.2,
                ),
                Aim::at_least(
                    format!("bf16, 1 text: prompt, tokens/s / vLLM's in {name}"),
                    first(vllm, one, base) / first(bf16, one, base),
                    1.2,
                ),
            ]);
        }
        for (rank, most) in [(8, 0.14), (16, 0.25)] {
            let through = Through::Rank(rank);
            aims.push(Aim::at_most(
                format!("bf16, {many} texts: a step with 8 adapters of rank {rank} takes more"),
                step(bf16, many, through) / step(bf16, many, base) - 1.0,
                most,
            ));
        }
        aims.push(Aim::at_most(
            format!("bf16, {many} texts: prompts with 8 adapters of rank 8 take more"),
            first(bf16, many, Through::Rank(8)) / first(bf16, many, base) - 1.0,
            0.12,
        ));
        aims.push(Aim::at_least(
            "1 text: new tokens/s, int8 / bf16",
            step(bf16, one, base) / step(int8, one, base),
            1.7,
        ));
        let length = |wanted| self.lengths.iter().find(|(l, _)| *l == wanted).map_or(f64::NAN, |(_, ms)| *ms);
        aims.push(Aim::at_most("ms of a step after 1,024 tokens / after 64", length(1024) / length(64), 1.5));
        let streams = |clients| self.streams.iter().find(|(c, _)| *c == clients).map(|(_, figures)| figures);
        let rate = |clients| streams(clients).map_or(f64::NAN, |figures| figures.tokens_per_s);
        aims.push(Aim::at_least("server: tokens/s, 8 streams / 1", rate(8) / rate(1), 3.0));
        aims.push(Aim::at_least(
            "server, 8 streams: tokens that follow another stream's",
            streams(8).map_or(f64::NAN, |figures| figures.interleaved),
            0.5,
        ));
        aims
    }

    fn has(&self, generator: Generator) -> bool {
        self.lines.iter().any(|line| line.generator == generator && !line.rounds.is_empty())
    }

    fn ms(&self, generator: Generator, batch: usize, through: Through, which: usize) -> f64 {
        self.line(generator, batch, through).map_or(f64::NAN, |line| line.ms(which))
    }

    fn line(&self, generator: Generator, batch: usize, through: Through) -> Option<&GenerateLine> {
        let is_it =
            |line: &&GenerateLine| (line.generator, line.batch, line.through) == (generator, batch, through);
        self.lines.iter().find(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verdict;

    fn line(generator: Generator, batch: usize, through: Through, rounds: [f64; 2]) -> GenerateLine {
        GenerateLine { generator, batch, through, rounds: vec![rounds], fastest: vec![rounds[1]] }
    }

    fn measured() -> GenerateFigures {
        let (bf16, int8) = (Generator::Ours(DTypeKind::Bf16), Generator::Ours(DTypeKind::Int8));
        let (base, vllm) = (Through::Base, Generator::Vllm(DTypeKind::Bf16));
        let stream =
            |tokens_per_s| StreamFigures { tokens_per_s, interleaved: 0.8, ..StreamFigures::default() };
        GenerateFigures {
            prompt: 128,
            batch: 8,
            lines: vec![
                line(bf16, 1, base, [60.0, 17.5]),
                line(bf16, 8, base, [480.0, 20.0]),
                line(bf16, 8, Through::Rank(8), [520.0, 22.0]),
                line(bf16, 8, Through::Rank(16), [600.0, 26.0]),
                line(int8, 1, base, [40.0, 10.0]),
                line(vllm, 1, base, [92.0, 44.0]),
                line(vllm, 8, base, [700.0, 43.0]),
            ],
            bandwidths: vec![50e9],
            floors: vec![(
                DTypeKind::Bf16,
                GenerateFloor { step_bytes: 0.75e9, prompt_flops: 4e10, peak: 1e12 },
            )],
            lengths: vec![(64, 17.0), (1024, 20.0)],
            streams: vec![(1, stream(45.0)), (8, stream(200.0))],
        }
    }

    #[test]
    fn every_aim_is_judged_by_its_own_figures() {
        let verdicts: Vec<Verdict> = measured().aims().iter().map(Aim::verdict).collect();
        let (met, missed) = (Verdict::Met, Verdict::Missed);
        assert_eq!(verdicts, [met, met, met, met, met, missed, met, met, met, met, met]);
    }

    #[test]
    fn nobody_is_held_against_a_peer_that_did_not_run_but_all_else_is_missed() {
        let aims = GenerateFigures::default().aims();
        assert_eq!(aims.len(), measured().aims().len() - 3);
        assert!(aims.iter().all(|aim| aim.verdict() == Verdict::Missed));
    }
}
