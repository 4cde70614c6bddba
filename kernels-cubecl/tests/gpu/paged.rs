//! Paged keys and values on every GPU there is, against the reference on the CPU.

use burn::tensor::{DType, Tensor, TensorData};
use polylora_kernels::launches::Kernel;
use polylora_kernels::{
    HeadNorms, KvHeads, KvLayer, KvMemoryError, KvShape, PagedAttention, PagedRows, PagedSequence, QkvForm,
    RmsNorm, Rotary, attention_paged, copy_blocks, largest_buffer, store_kv,
};

use super::devices::{Gpu, on_every_gpu};
use super::values::{assert_close, matrix, read, tolerance, vector};

/// Sequences with contexts that were stored before, over blocks in descending order.
struct Case {
    shape: KvShape,
    sequences: Vec<PagedSequence>,
    window: Option<usize>,
    norms: bool,
}

impl Case {
    fn new(heads: KvHeads, block_size: usize, lengths: &[(usize, usize)], window: Option<usize>) -> Self {
        let mut next = 0;
        let sequences = lengths.iter().map(|(context, rows)| {
            let count = (context + rows).div_ceil(block_size) as u32;
            next += count;
            PagedSequence { rows: *rows, context: *context, blocks: (next - count..next).rev().collect() }
        });
        let sequences = sequences.collect();
        let shape = KvShape { blocks: next as usize + 1, block_size, heads };
        Self { shape, sequences, window, norms: heads.width.is_multiple_of(2) }
    }

    fn cache(&self, gpu: &Gpu) -> KvLayer {
        KvLayer::plain(self.shape, &gpu.device, gpu.dtype).expect("memory")
    }

    fn form(&self, gpu: &Gpu) -> QkvForm {
        let heads = self.shape.heads;
        let positions = self.sequences.iter().map(|s| s.context + s.rows).max().unwrap_or(0);
        let half = heads.width / 2;
        let table = |f: fn(f32) -> f32| {
            let angle = |i: usize| f((i / half) as f32 * 100f32.powf(-((i % half) as f32) / half as f32));
            let data =
                TensorData::new((0..positions * half).map(angle).collect::<Vec<_>>(), [positions, half]);
            Tensor::<2>::from_data(data, (&gpu.device, DType::F32))
        };
        let norm = |seed| RmsNorm { gamma: gpu.put(vector(seed, heads.width)), epsilon: 1e-6 };
        QkvForm {
            heads,
            rotary: Rotary { cos: table(f32::cos), sin: table(f32::sin) },
            head_norms: self.norms.then(|| HeadNorms { q: norm(71), k: norm(72) }),
        }
    }

    /// The context of the new rows, and all keys and values.
    fn run(&self, gpu: &Gpu, cache: &mut KvLayer) -> (Vec<f32>, Vec<f32>) {
        let (heads, form) = (self.shape.heads, self.form(gpu));
        let rows =
            |sequences: &[PagedSequence]| PagedRows::new(sequences, self.shape.block_size, &gpu.device);
        for (seed, sequence) in (30..).zip(&self.sequences).filter(|(_, s)| s.context > 0) {
            let before =
                PagedSequence { rows: sequence.context, context: 0, blocks: sequence.blocks.clone() };
            let qkv = gpu.put(matrix(seed, sequence.context, heads.qkv_columns()));
            store_kv(qkv, cache, &rows(&[before]), &form);
        }
        let rows = rows(&self.sequences);
        let q = store_kv(gpu.put(matrix(20, rows.rows(), heads.qkv_columns())), cache, &rows, &form);
        let scale = 1.0 / (heads.width as f32).sqrt();
        let attention = PagedAttention { heads, scale, window: self.window };
        (read(attention_paged(q, cache, &rows, attention)), cache.to_f32())
    }
}

fn check(gpu: &Gpu, case: &Case) {
    let oracle = gpu.reference();
    let (got, held) = case.run(gpu, &mut case.cache(gpu));
    let (want, want_held) = case.run(&oracle, &mut case.cache(&oracle));
    let what = format!("{} {:?} {:?} {:?}", gpu.name, case.shape, case.sequences, case.window);
    // A norm and a rotation, then queries and keys rounded once.
    let close = 8.0 * tolerance(gpu.dtype, 1);
    assert_close(&held, &want_held, close, &what);
    assert_close(&got, &want, close + tolerance(gpu.dtype, case.shape.heads.width), &what);
}

#[test]
fn paged_attention_equals_its_reference_for_heads_of_every_width() {
    on_every_gpu(|gpu| {
        for (query, kv, width) in [
            (4, 4, 64),
            (6, 2, 80),
            (9, 1, 20),
            (7, 1, 128),
            (2, 2, 7),
            (16, 2, 33),
            (4, 1, 256),
            (3, 1, 130),
        ] {
            let heads = KvHeads { query, kv, width };
            check(gpu, &Case::new(heads, 16, &[(0, 40), (37, 1), (5, 20)], None));
        }
    });
}

#[test]
fn prompts_and_decodes_of_every_length_equal_their_reference() {
    on_every_gpu(|gpu| {
        let heads = KvHeads { query: 4, kv: 2, width: 24 };
        for block_size in [1, 5, 16, 64] {
            check(gpu, &Case::new(heads, block_size, &[(0, 1), (0, 2), (1, 1), (31, 33), (255, 1)], None));
        }
        // Several chunks of keys, the last of one key; a window that begins in the middle of one, and one of single keys.
        for window in [None, Some(300), Some(1), Some(17)] {
            check(gpu, &Case::new(heads, 16, &[(512, 1), (600, 1), (90, 70)], window));
        }
    });
}

#[test]
fn blocks_that_a_window_has_left_behind_are_not_read_by_a_gpu() {
    on_every_gpu(|gpu| {
        let heads = KvHeads { query: 2, kv: 1, width: 16 };
        for rows in [1, 6] {
            let mut case = Case::new(heads, 8, &[(600, rows)], Some(40));
            let mut cache = case.cache(gpu);
            let (want, _) = case.run(gpu, &mut cache);
            // What stands for them is no number.
            let poison = case.shape.blocks as u32 - 1;
            let nan = Tensor::<2>::full([8, heads.qkv_columns()], f32::NAN, (&gpu.device, gpu.dtype));
            let whole = PagedSequence { rows: 8, context: 0, blocks: vec![poison] };
            store_kv(nan, &mut cache, &PagedRows::new(&[whole], 8, &gpu.device), &case.form(gpu));
            let sequence = &mut case.sequences[0];
            sequence.blocks[..(600 + 1 - 40) / 8].fill(poison);
            sequence.context = 600;
            let rows = PagedRows::new(&case.sequences, 8, &gpu.device);
            let qkv = gpu.put(matrix(20, rows.rows(), heads.qkv_columns()));
            let q = store_kv(qkv, &mut cache, &rows, &case.form(gpu));
            let attention = PagedAttention { heads, scale: 0.25, window: Some(40) };
            assert_eq!(read(attention_paged(q, &cache, &rows, attention)), want, "{}", gpu.name);
        }
    });
}

#[test]
fn blocks_are_copied_on_a_gpu() {
    on_every_gpu(|gpu| {
        for (block_size, width) in [(16, 64), (3, 5)] {
            let case =
                Case::new(KvHeads { query: 2, kv: 2, width }, block_size, &[(0, 5 * block_size)], None);
            let mut cache = case.cache(gpu);
            let (_, before) = case.run(gpu, &mut cache);
            copy_blocks(&mut cache, &[(1, 0), (2, 5)]);
            let after = cache.to_f32();
            let len = before.len() / 6;
            for (block, from) in [1, 1, 2, 3, 4, 2].into_iter().enumerate() {
                assert_eq!(after[block * len..][..len], before[from * len..][..len], "{} {block}", gpu.name);
            }
        }
    });
}

#[test]
fn paged_kernels_run_and_not_the_reference() {
    const PAGED: [Kernel; 5] = [
        Kernel::StoreKv,
        Kernel::AttentionPrompt,
        Kernel::DecodeChunk,
        Kernel::DecodeSum,
        Kernel::CopyBlocks,
    ];
    on_every_gpu(|gpu| {
        let case = Case::new(KvHeads { query: 4, kv: 2, width: 32 }, 16, &[(0, 3), (0, 1)], None);
        let mut cache = case.cache(gpu);
        let before = PAGED.map(Kernel::launches);
        case.run(gpu, &mut cache);
        copy_blocks(&mut cache, &[(0, 2)]);
        let after = PAGED.map(Kernel::launches);
        let grown: Vec<_> = before.iter().zip(after).map(|(before, after)| after - before).collect();
        assert_eq!(grown, [1; 5], "{}", gpu.name);
    });
}

#[test]
fn more_blocks_than_one_buffer_holds_are_refused_with_the_most_there_can_be() {
    on_every_gpu(|gpu| {
        let heads = KvHeads { query: 8, kv: 8, width: 128 };
        let most = largest_buffer(&gpu.device, gpu.dtype);
        let block = KvLayer::block_bytes(16, heads, &gpu.device, gpu.dtype);
        let shape = KvShape { blocks: most / block + 1, block_size: 16, heads };
        let refused = KvLayer::new(shape, &gpu.device, gpu.dtype).expect_err("refused");
        let bytes = shape.blocks * block;
        assert_eq!(refused, KvMemoryError::Buffer { bytes, most, blocks: most / block });
    });
}
