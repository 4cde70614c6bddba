//! Text generation: the library beside transformers, PEFT and vLLM, and the real server under streams.
//!
//! A model's folder is given (`--llm DIR`, as `shared/peers/make_llm.py` writes one); adapters are random and written for everybody. In
//! every round our number formats and the peers take turns with the same prompts, one text and eight at once, with and without
//! eight adapters; a figure is the median of its rounds. What reading the weights and what the arithmetic of the prompts would
//! take is measured in the same rounds. Then a step by the length of the text, and streams of `/v1/completions` for 1, 8 and 32
//! clients over 13 adapters by Zipf's law. The tables go into RESULTS.md (unless `--quick`), the aims with what became of them below.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use polylora_benches::{
    BenchError, DTypeKind, DecoderFolder, GenerateCase, GenerateFigures, GenerateFloor, GenerateLine,
    GeneratePeer, GenerateSetup, GenerateSubject, Generator, HttpServer, Passes, PeerEngine, Random, Report,
    RunOptions, StreamFigures, StreamLoad, Through, own_binary, read_rate, results_file, write_part,
};
use polylora_kernels::device::{DTypeSpec, DeviceSpec, open};
use polylora_models::LanguageModel;

/// Text generation beside its peers, and under streams.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// The model: a folder in the Hugging Face layout, or one with such a `model` within.
    #[arg(long, value_name = "DIR")]
    llm: PathBuf,
    /// Number formats of the library, in place of --dtype; the server's is the first.
    #[arg(long, value_delimiter = ',', default_values_t = [DTypeSpec::Bf16, DTypeSpec::Int8, DTypeSpec::F32])]
    dtypes: Vec<DTypeSpec>,
    /// Python with transformers and PEFT: DIR/venv/bin/python of `benches/peers.sh`.
    #[arg(long, value_name = "PATH")]
    peer_python: Option<PathBuf>,
    /// Python with vLLM's build for CPUs.
    #[arg(long, value_name = "PATH")]
    vllm_python: Option<PathBuf>,
    /// What peers compute in, bf16 or f32: first the faster one on this machine. In a further one only vLLM runs, without adapters.
    #[arg(long, value_delimiter = ',', default_values_t = [DTypeSpec::Bf16])]
    peer_dtypes: Vec<DTypeSpec>,
    /// The program [default: that of this build].
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Tokens of each prompt.
    #[arg(long, default_value_t = 128)]
    prompt: usize,
    /// Tokens that follow it.
    #[arg(long, default_value_t = 64)]
    new: usize,
    /// Lengths of a text that a step is timed at.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256, 1024, 2048])]
    lengths: Vec<usize>,
    /// Clients of the server; 0 leaves it out.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32])]
    clients: Vec<usize>,
    /// Tokens of each prompt of theirs.
    #[arg(long, default_value_t = 16)]
    load_prompt: usize,
    /// Seconds of each load.
    #[arg(long, default_value_t = 20.0)]
    load_seconds: f64,
    /// Rounds of the loads.
    #[arg(long, default_value_t = 3)]
    load_rounds: usize,
    /// One short round, to try the program: figures are meaningless, and RESULTS.md stays as it is.
    #[arg(long)]
    quick: bool,
    /// Further arguments of `polylora serve`.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    server_arg: Vec<String>,
}

/// Texts of the larger batch, and adapters that they go through.
const BATCH: usize = 8;
/// Ranks of the adapters; peers have those of the first.
const RANKS: [usize; 2] = [8, 16];
/// Adapters of the server.
const SERVED: usize = 13;

/// All that takes turns.
struct Turns {
    subjects: Vec<(DTypeKind, GenerateSubject)>,
    peers: Vec<GeneratePeer>,
    figures: GenerateFigures,
    lengths: Vec<Vec<f64>>,
    /// The first tokens of eight texts that our f32, or else the first format, and peers in their first format drew alike, of
    /// how many.
    alike: Option<[usize; 2]>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = Options::parse();
    if options.quick {
        (options.rounds, options.load_rounds, options.load_seconds, options.new) = (1, 1, 3.0, 4);
        options.run.seconds = options.run.seconds.min(0.2);
    }
    options.clients.retain(|clients| *clients > 0);
    let encoder = options.run.start()?;
    let place = tempfile::tempdir()?;
    let folder = DecoderFolder::new(&options.llm, place.path())?;
    let adapters = write_adapters(&folder, place.path())?;
    let mut turns = Turns::start(&options, &folder, &adapters)?;
    for round in 0..options.rounds.max(1) {
        turns.round(&options, round as u64, folder.config.vocab_size)?;
    }
    let Turns { mut figures, peers, lengths, alike, subjects } = turns;
    figures.floors =
        subjects.iter().map(|(dtype, subject)| (*dtype, floor(subject, options.prompt))).collect();
    let medians = lengths.into_iter().map(|times| Passes::of(times).median());
    figures.lengths = kept_lengths(&options, &folder).into_iter().zip(medians).collect();
    let mut versions: Vec<String> = peers.iter().map(|peer| peer.versions.clone()).collect();
    versions.dedup();
    // Their memory and their threads are for the server now.
    drop((subjects, peers));
    figures.streams = streams(&options, &encoder, &folder, place.path())?;

    let mut report = Report::new(options.run.json).keeping();
    tell(&options, &folder, &figures, &versions, alike, &mut report)?;
    if !options.quick {
        write_part(&results_file(), "generate", report.kept())?;
    }
    Ok(())
}

/// By rank, the adapters' folder and names.
fn write_adapters(
    folder: &DecoderFolder,
    place: &Path,
) -> Result<Vec<(usize, PathBuf, Vec<String>)>, BenchError> {
    // Sites do not depend on weights, so none are read.
    let on = open(DeviceSpec::Cpu, DTypeSpec::Bf16)?;
    let model = LanguageModel::with_random_weights(folder.config.clone(), &on, 1, 0)?;
    let write = |rank: usize, count: usize| {
        let own = place.join(format!("rank-{rank}-{count}"));
        let names = folder.write_adapters(&model, &own, count, rank)?;
        Ok((rank, own, names))
    };
    let mut sets = RANKS.iter().map(|rank| write(*rank, BATCH)).collect::<Result<Vec<_>, BenchError>>()?;
    sets.push(write(RANKS[0], SERVED)?);
    Ok(sets)
}

impl Turns {
    fn start(
        options: &Options,
        folder: &DecoderFolder,
        adapters: &[(usize, PathBuf, Vec<String>)],
    ) -> Result<Self, BenchError> {
        let sets = adapters.iter().take(RANKS.len());
        let sets: Vec<(usize, &Path, &[String])> =
            sets.map(|(rank, own, names)| (*rank, own.as_path(), names.as_slice())).collect();
        let lengths = kept_lengths(options, folder);
        let text = options.prompt + options.new;
        let setup = GenerateSetup {
            model: folder,
            adapters: &sets,
            longest: text.max(lengths.iter().max().copied().unwrap_or(0) + 1),
            tokens: BATCH * text,
            texts: BATCH,
        };
        let mut subjects = vec![];
        for dtype in &options.dtypes {
            let kind = compared("--dtypes", *dtype)?;
            subjects.push((kind, GenerateSubject::load(&setup, *dtype)?));
        }
        let mut peers = vec![];
        let formats = options.peer_dtypes.iter().map(|dtype| compared("--peer-dtypes", *dtype));
        let formats = formats.collect::<Result<Vec<DTypeKind>, BenchError>>()?;
        let transformers = formats.iter().take(1).map(|dtype| (PeerEngine::Transformers, *dtype));
        let vllm = formats.iter().map(|dtype| (PeerEngine::Vllm, *dtype));
        for (engine, dtype) in transformers.chain(vllm) {
            let python = match engine {
                PeerEngine::Transformers => &options.peer_python,
                PeerEngine::Vllm => &options.vllm_python,
            };
            let Some(python) = python else { continue };
            let (_, own, names) = sets[0];
            let is_first = formats.first() == Some(&dtype);
            let ways = [None, Some((own, names))].into_iter();
            for adapted in ways.filter(|adapted| is_first || adapted.is_none()) {
                let form = (dtype, options.run.threads());
                match GeneratePeer::start(python, engine, &folder.dir, adapted, form) {
                    Ok(mut peer) => {
                        // What compiles for a shape when it comes first has done so then.
                        for texts in [1, BATCH] {
                            peer.generate(&GenerateCase {
                                prompts: vec![vec![1; options.prompt]; texts],
                                new: 2,
                            })?;
                        }
                        peers.push(peer);
                    }
                    Err(error) => eprintln!("{} is left out: {error}", engine.name(adapted.is_some())),
                }
            }
        }
        let (prompt, batch) = (options.prompt, BATCH);
        let figures = GenerateFigures { prompt, batch, ..GenerateFigures::default() };
        let lengths = vec![vec![]; lengths.len()];
        Ok(Self { subjects, peers, figures, lengths, alike: None })
    }

    fn round(&mut self, options: &Options, round: u64, vocabulary: usize) -> Result<(), BenchError> {
        let mut random = Random::new(round);
        let mut prompt =
            |tokens: usize| -> Vec<u32> { (0..tokens).map(|_| random.below(vocabulary) as u32).collect() };
        let mut case = |texts: usize| GenerateCase {
            prompts: (0..texts).map(|_| prompt(options.prompt)).collect(),
            new: options.new.max(2),
        };
        let [one, many] = [case(1), case(BATCH)];
        self.figures.bandwidths.push(read_rate(options.run.budget())?);
        let mut ours: Option<Vec<u32>> = None;
        for (dtype, subject) in &mut self.subjects {
            subject.peak.measure(options.run.budget())?;
            let cases = [(&one, Through::Base), (&many, Through::Base)];
            let adapted = RANKS.map(|rank| (&many, Through::Rank(rank)));
            for (case, through) in cases.into_iter().chain(adapted) {
                let times = subject.generate(case, through)?;
                line(&mut self.figures, Generator::Ours(*dtype), case, through).note(&times);
                let is_wanted = case.prompts.len() == BATCH && through == Through::Base;
                if is_wanted && (ours.is_none() || *dtype == DTypeKind::F32) {
                    ours = Some(times.tokens.iter().map(|tokens| tokens[0]).collect());
                }
            }
        }
        let first = self.peers.first().map(|peer| peer.dtype);
        for peer in &mut self.peers {
            let generator = match peer.engine {
                PeerEngine::Transformers => Generator::Transformers(peer.dtype),
                PeerEngine::Vllm => Generator::Vllm(peer.dtype),
            };
            let through = if peer.is_adapted { Through::Rank(RANKS[0]) } else { Through::Base };
            for case in [&one, &many] {
                if peer.is_adapted && case.prompts.len() < BATCH {
                    continue;
                }
                let times = peer.generate(case)?;
                line(&mut self.figures, generator, case, through).note(&times);
                let is_wanted = !peer.is_adapted && Some(peer.dtype) == first && case.prompts.len() == BATCH;
                if let Some(ours) = ours.as_ref().filter(|_| is_wanted) {
                    let alike = ours.iter().zip(&times.tokens).filter(|(own, theirs)| **own == theirs[0]);
                    let [so_far, of] = self.alike.unwrap_or_default();
                    self.alike = Some([so_far + alike.count(), of + BATCH]);
                }
            }
        }
        let lengths = &options.lengths[..self.lengths.len()];
        let first = self.subjects.first_mut().filter(|_| !lengths.is_empty());
        if let Some((_, subject)) = first {
            let longest = prompt(lengths.iter().max().copied().unwrap_or(1));
            let found = subject.steps_at(&longest, lengths)?;
            self.lengths.iter_mut().zip(found).for_each(|(times, ms)| times.push(ms));
        }
        Ok(())
    }
}

/// A number format that is compared, of an option.
fn compared(option: &str, dtype: DTypeSpec) -> Result<DTypeKind, BenchError> {
    let reason = || std::io::Error::other(format!("{option} {dtype}: f32, bf16 and int8 are compared"));
    Ok(DTypeKind::of(dtype).ok_or_else(reason)?)
}

/// The line of a case, made where it is new.
fn line<'a>(
    figures: &'a mut GenerateFigures,
    generator: Generator,
    case: &GenerateCase,
    through: Through,
) -> &'a mut GenerateLine {
    let batch = case.prompts.len();
    let is_it =
        |line: &GenerateLine| (line.generator, line.batch, line.through) == (generator, batch, through);
    let at = figures.lines.iter().position(is_it).unwrap_or_else(|| {
        figures.lines.push(GenerateLine { generator, batch, through, rounds: vec![], fastest: vec![] });
        figures.lines.len() - 1
    });
    &mut figures.lines[at]
}

/// The lengths up to the first that the model has no place for.
fn kept_lengths(options: &Options, folder: &DecoderFolder) -> Vec<usize> {
    let most = folder.config.positions();
    options.lengths.iter().copied().take_while(|length| *length < most).collect()
}

fn floor(subject: &GenerateSubject, prompt: usize) -> GenerateFloor {
    GenerateFloor {
        step_bytes: subject.size.step_bytes(),
        prompt_flops: subject.size.prompt_flops(prompt),
        peak: subject.peak.seen().map_or(f64::NAN, |[median, ..]| median * 1e9),
    }
}

/// By clients, what they saw of the server.
fn streams(
    options: &Options,
    encoder: &Path,
    folder: &DecoderFolder,
    place: &Path,
) -> Result<Vec<(usize, StreamFigures)>, Box<dyn Error>> {
    if options.clients.is_empty() {
        return Ok(vec![]);
    }
    let own = place.join(format!("rank-{}-{SERVED}", RANKS[0]));
    let mut arguments = vec![
        "--device=cpu".to_owned(),
        format!("--embedding-model={}", encoder.display()),
        format!("--llm={}", folder.dir.display()),
        format!("--adapters-dir={}", own.display()),
        format!("--dtype={}", options.dtypes.first().unwrap_or(&DTypeSpec::Bf16)),
    ];
    arguments.extend(options.run.threads.map(|threads| format!("--threads={threads}")));
    arguments.extend(options.server_arg.iter().cloned());
    let server = HttpServer::start(&options.binary.clone().map_or_else(own_binary, Ok)?, &arguments)?;
    let mut rounds = vec![vec![]; options.clients.len()];
    for round in 0..options.load_rounds.max(1) {
        for (number, clients) in options.clients.iter().enumerate() {
            let load = StreamLoad {
                clients: *clients,
                time: Duration::from_secs_f64(options.load_seconds.clamp(0.1, 600.0)),
                prompt: options.load_prompt,
                new: options.new.max(2),
                vocabulary: folder.config.vocab_size,
                adapters: (0..SERVED).map(|number| format!("adapter{number}")).collect(),
                seed: (round * options.clients.len() + number) as u64,
            };
            rounds[number].push(load.run(&server)?);
        }
    }
    let middle = rounds.iter().map(|rounds| StreamFigures::middle(rounds));
    Ok(options.clients.iter().copied().zip(middle).collect())
}

fn tell(
    options: &Options,
    folder: &DecoderFolder,
    figures: &GenerateFigures,
    versions: &[String],
    alike: Option<[usize; 2]>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let config = &folder.config;
    let peers = if versions.is_empty() { "none ran".to_owned() } else { versions.join("; ") };
    report.note(&format!(
        "`cargo bench -p polylora-benches --bench generate`: {} of {:.0} M parameters, {} threads; prompts of {} tokens, {} new ones, \
         greedy; {} rounds, all in turn. Peers: {peers}. *Of the product*: the time that the prompts' operations would take at the \
         rate of our product of matrices. *Of the floor*: the time that reading the weights once would take at the {:.1} GB/s \
         that memory is read at; {:.2} GB in bf16. *The fastest step*: the same of the fastest step and the fastest pass over memory, \
         round by round.",
        config.family.name(),
        config.parameters() as f64 / 1e6,
        options.run.threads(),
        options.prompt,
        options.new.max(2),
        options.rounds.max(1),
        figures.bandwidth() / 1e9,
        2.0 * config.parameters_of_a_step() as f64 / 1e9,
    ))?;
    for row in figures.rows() {
        report.row(&row)?;
    }
    if let Some([alike, of]) = alike {
        report.note(&format!(
            "First tokens that we and a peer draw alike (weights are random): {alike} of {of}."
        ))?;
    }
    if !figures.lengths.is_empty() {
        report.note("A step of one text by its length, in the first format:")?;
    }
    for row in figures.length_rows() {
        report.row(&row)?;
    }
    if !figures.streams.is_empty() {
        report.note(&format!(
            "The server, streams of `/v1/completions` over {SERVED} adapters of rank {} by Zipf's law, unique prompts of {} \
             tokens, native clients on the same cores, {} rounds of {} s:",
            RANKS[0],
            options.load_prompt,
            options.load_rounds.max(1),
            options.load_seconds
        ))?;
    }
    for (clients, found) in &figures.streams {
        report.row(&found.row(*clients))?;
    }
    report.note("Aims:")?;
    for aim in figures.aims() {
        report.row(&aim.row())?;
    }
    Ok(())
}
