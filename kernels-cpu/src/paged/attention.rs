//! Causal attention over remembered keys and values.
//!
//! A row's keys are taken in chunks of whole blocks, counted from the sequence's start, each with a softmax of its own; the
//! chunks are added up in order (arXiv 1805.02867, 2205.14135). Both are fixed by the row's position alone, so it does not
//! matter to a bit how many rows come at once, nor which thread takes which chunk.

use std::cell::RefCell;
use std::ops::Range;

use super::batch::{KvHeads, PagedBatch, PagedSequence};
use super::chunk::{ChunkCall, ChunkScratch, QueryRows, RowStates, add_row, attend};
use super::panels::{KvPanels, PanelLayout};
use super::softmax::ScoreGrid;
use super::store::check_cache;
use crate::element::Element;
use crate::isa::Isa;
use crate::packed_matrix::PANEL;
use crate::shared_out::SharedOut;
use crate::target::{LANES, Target, dispatch};
use crate::team::{self, PARTS};
use crate::tile::TileKernel;

/// Keys of a chunk, where a block has not more: with their values they stay in the second level of the cache.
const CHUNK_KEYS: usize = 512;
/// Tiles of rows that a task takes over one chunk, so that its keys and values come from memory once for all of them.
const SPAN_TILES: usize = 8;

/// One causal attention.
#[derive(Clone, Copy, Debug)]
pub struct PagedAttentionCall<'a, E> {
    /// Queries, `[T, query * width]`.
    pub q: &'a [E],
    /// Keys and values, those of the batch's rows among them.
    pub cache: &'a KvPanels,
    /// Where the rows belong.
    pub batch: &'a PagedBatch,
    /// Heads.
    pub heads: KvHeads,
    /// Factor on the scores, `1 / sqrt(width)`; positive.
    pub scale: f32,
    /// How many positions a row sees, its own included; without it, all up to its own.
    pub window: Option<usize>,
}

/// Writes the context, `[T, query * width]`, on the threads of the team.
///
/// # Panics
/// When a length does not fit, the cache is of another shape or dtype, or the window is of no position.
pub fn attention_paged<E: Element>(isa: Isa, call: PagedAttentionCall<'_, E>, out: &mut [E]) {
    isa.require();
    let PagedAttentionCall { q, cache, batch, heads, scale, window } = call;
    check_cache::<E>(cache, heads, batch);
    let columns = heads.query * heads.width;
    for (name, len) in [("q", q.len()), ("out", out.len())] {
        assert_eq!(len, batch.rows() * columns, "{name} is not [{}, {columns}]", batch.rows());
    }
    assert!(window != Some(0), "a window of no position");
    if out.is_empty() {
        return;
    }
    // Not in tiles, which would read keys and values behind a sequence's end.
    let kernel = TileKernel::choose(isa.min(Isa::Avx512), E::FORMAT);
    let layout = cache.layout();
    let chunk = (CHUNK_KEYS / batch.block_size()).max(1) * batch.block_size();
    let out = SharedOut(out.as_mut_ptr());
    let job = Job {
        call,
        kernel,
        layout,
        chunk,
        sharing: heads.sharing(),
        factor: scale * std::f32::consts::LOG2_E,
        out,
    };
    let spans = spans(&job);
    let threads = team::threads();
    if threads > 1 && spans.len() < threads * PARTS && spans.iter().any(|span| span.chunks.len() > 1) {
        return by_chunks(isa, &job, &spans);
    }
    team::for_each(spans.len(), |at| with_scratch(|scratch| whole_span(isa, &job, &spans[at], scratch)));
}

/// A call with what it is computed with.
struct Job<'a, E> {
    call: PagedAttentionCall<'a, E>,
    kernel: TileKernel,
    layout: PanelLayout,
    /// Positions of a chunk, whole blocks.
    chunk: usize,
    /// Heads of queries that share a head of keys.
    sharing: usize,
    factor: f32,
    out: SharedOut<E>,
}

/// Some rows of one sequence and one head of keys. A row is a position and one of the heads of queries that share the head of
/// keys: row `r` is position `context + r / sharing`.
struct Span<'a> {
    sequence: &'a PagedSequence,
    /// The sequence's first row in the batch.
    first_row: usize,
    head: usize,
    rows: Range<usize>,
    /// Chunks that one of them sees.
    chunks: Range<usize>,
}

/// The call cut into spans, the longest first.
fn spans<'a, E>(job: &Job<'a, E>) -> Vec<Span<'a>> {
    let most = SPAN_TILES * job.kernel.max_rows();
    let mut spans = vec![];
    let mut first_row = 0;
    for sequence in job.call.batch.sequences() {
        let count = sequence.rows * job.sharing;
        for head in 0..job.call.heads.kv {
            for first in (0..count).step_by(most) {
                let rows = first..count.min(first + most);
                let mut span = Span { sequence, first_row, head, rows: rows.clone(), chunks: 0..0 };
                let (low, high) = (seen(job, &span, rows.start).0, seen(job, &span, rows.end - 1).1);
                span.chunks = low / job.chunk..high.div_ceil(job.chunk);
                spans.push(span);
            }
        }
        first_row += sequence.rows;
    }
    spans.sort_by_key(|span| std::cmp::Reverse(span.rows.len() * span.chunks.len()));
    spans
}

/// The first position that a row sees, and one more than the last.
#[inline(always)]
fn seen<E>(job: &Job<'_, E>, span: &Span<'_>, row: usize) -> (usize, usize) {
    let end = span.sequence.context + row / job.sharing + 1;
    (job.call.window.map_or(0, |window| end.saturating_sub(window)), end)
}

/// Memory of a thread, kept from call to call.
#[derive(Default)]
struct Scratch {
    queries: QueryRows,
    seen: Vec<(usize, usize)>,
    states: RowStates,
    chunk: ChunkScratch,
}

thread_local! {
    static SCRATCH: RefCell<Option<Box<Scratch>>> = const { RefCell::new(None) };
}

fn with_scratch(run: impl FnOnce(&mut Scratch)) {
    let mut scratch = SCRATCH.take().unwrap_or_default();
    run(&mut scratch);
    SCRATCH.set(Some(scratch));
}

/// Few spans over many keys: each chunk is a task, and another pass adds them up as [`whole_span`] would have.
fn by_chunks<E: Element>(isa: Isa, job: &Job<'_, E>, spans: &[Span<'_>]) {
    let stride = LANES + job.layout.columns;
    let mut tasks = vec![];
    let mut at = 0;
    for span in spans {
        for chunk in span.chunks.clone() {
            tasks.push((span, chunk, at));
            at += span.rows.len() * stride;
        }
    }
    let mut parts = vec![0f32; at];
    let to = SharedOut(parts.as_mut_ptr());
    let to = &to;
    team::for_each(tasks.len(), |task| {
        let (span, chunk, at) = tasks[task];
        with_scratch(|scratch| {
            begin(isa, job, span, scratch);
            add_chunk(isa, job, span, chunk, scratch);
            let states = scratch.states.values();
            // SAFETY: each task has its own part of the memory, as long as its rows' states.
            unsafe { std::ptr::copy_nonoverlapping(states.as_ptr(), to.0.add(at), states.len()) };
        });
    });
    let mut starts = vec![0];
    for span in spans {
        starts.push(starts[starts.len() - 1] + span.chunks.len() * span.rows.len() * stride);
    }
    team::for_each(spans.len(), |at| {
        let parts = &parts[starts[at]..starts[at + 1]];
        with_scratch(|scratch| add_parts(isa, job, &spans[at], parts, scratch));
    });
}

dispatch! {
    /// A span from its queries to its context.
    fn whole_span<E: Element>(job: &Job<'_, E>, span: &Span<'_>, scratch: &mut Scratch) = whole_span_body
}

dispatch! {
    /// Readies the span's queries; its rows have seen nothing.
    fn begin<E: Element>(job: &Job<'_, E>, span: &Span<'_>, scratch: &mut Scratch) = begin_body
}

dispatch! {
    /// Adds what the span's rows see in one chunk.
    fn add_chunk<E: Element>(job: &Job<'_, E>, span: &Span<'_>, chunk: usize, scratch: &mut Scratch) = add_chunk_body
}

dispatch! {
    /// Adds up what the span's rows saw in each chunk, and writes its context.
    fn add_parts<E: Element>(job: &Job<'_, E>, span: &Span<'_>, parts: &[f32], scratch: &mut Scratch) = add_parts_body
}

// No closure below: a closure would be compiled for the baseline.

#[inline(always)]
fn whole_span_body<I: Target, E: Element>(job: &Job<'_, E>, span: &Span<'_>, scratch: &mut Scratch) {
    begin_body::<I, E>(job, span, scratch);
    for chunk in span.chunks.clone() {
        add_chunk_body::<I, E>(job, span, chunk, scratch);
    }
    finish::<I, E>(job, span, &scratch.states);
}

#[inline(always)]
fn begin_body<I: Target, E: Element>(job: &Job<'_, E>, span: &Span<'_>, scratch: &mut Scratch) {
    let rows = span.rows.len();
    scratch.states.reset(rows, job.layout.columns);
    scratch.queries.reserve(rows, &job.layout, &job.kernel);
    scratch.seen.clear();
    for (at, row) in span.rows.clone().enumerate() {
        scratch.seen.push(seen(job, span, row));
        let q = &job.call.q[place(job, span, row)..][..job.call.heads.width];
        scratch.queries.fill::<E>(at, q, &job.kernel);
    }
}

#[inline(always)]
fn add_chunk_body<I: Target, E: Element>(
    job: &Job<'_, E>,
    span: &Span<'_>,
    chunk: usize,
    scratch: &mut Scratch,
) {
    let block_size = job.call.batch.block_size();
    let rows = span.rows.len();
    let mut first = 0;
    while first < rows {
        let count = job.kernel.rows_of(rows, first);
        let seen = &scratch.seen[first..first + count];
        // What the rows see begins and ends the later, the later their position is.
        let start = seen[0].0.max(chunk * job.chunk);
        let end = seen[count - 1].1.min((chunk + 1) * job.chunk);
        if start < end {
            let grid = ScoreGrid {
                layout: job.layout,
                block_size,
                first_block: start / block_size,
                rows: count,
                end,
            };
            let call = ChunkCall {
                cache: job.call.cache,
                kernel: &job.kernel,
                head: span.head,
                blocks: &span.sequence.blocks,
                queries: &scratch.queries,
                first_row: first,
                seen,
                grid,
                factor: job.factor,
            };
            let partial = attend::<I>(&call, &mut scratch.chunk);
            scratch.states.add::<I>(first, count, &partial, job.factor);
        }
        first += count;
    }
}

#[inline(always)]
fn add_parts_body<I: Target, E: Element>(
    job: &Job<'_, E>,
    span: &Span<'_>,
    parts: &[f32],
    scratch: &mut Scratch,
) {
    let (rows, columns) = (span.rows.len(), job.layout.columns);
    scratch.states.reset(rows, columns);
    let stride = scratch.states.stride();
    for chunk in parts.chunks_exact(rows * stride) {
        let states = scratch.states.values_mut();
        for (state, part) in states.chunks_exact_mut(stride).zip(chunk.chunks_exact(stride)) {
            // SAFETY: both are states of these columns, whose panels follow one another.
            unsafe {
                let context = part.as_ptr().add(LANES);
                add_row::<I>(state.as_mut_ptr(), columns, (part[0], part[1]), (context, PANEL), job.factor);
            }
        }
    }
    finish::<I, E>(job, span, &scratch.states);
}

#[inline(always)]
fn finish<I: Target, E: Element>(job: &Job<'_, E>, span: &Span<'_>, states: &RowStates) {
    for (at, row) in span.rows.clone().enumerate() {
        // SAFETY: the context has as many values as the queries, and these columns are this span's alone.
        unsafe { states.finish::<I, E>(at, job.call.heads.width, job.out.0.add(place(job, span, row))) };
    }
}

/// Where a row's query, and its context, begin.
#[inline(always)]
fn place<E>(job: &Job<'_, E>, span: &Span<'_>, row: usize) -> usize {
    let KvHeads { query, width, .. } = job.call.heads;
    let head = span.head * job.sharing + row % job.sharing;
    ((span.first_row + row / job.sharing) * query + head) * width
}
