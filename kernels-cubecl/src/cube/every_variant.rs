//! Every variant of the table compiles for the device at hand and runs over one row.

use burn::tensor::{DType, TensorData};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use super::kernels::lookup::LoraTablesLaunch;
use super::kernels::paged_lookup::PagedShapeLaunch;
use super::kernels::paged_store::StoreShapeLaunch;
use super::kernels::{
    attention, embed, gated, linear_end, paged_decode, paged_prompt, paged_store, pool, rms_norm, shrink,
};
use super::paged_forms::PagedForm;
use super::poisoned_outputs::device;
use super::variant::{Form, KernelVariant, variants};

/// Columns of the one row: whole vectors, and a head of at least one.
const WIDTH: usize = 16;

/// Buffers that any kernel can take for anything: zeros, but for a table that says one row, from 0 to 1.
struct Room {
    floats: CubeTensor,
    out: CubeTensor,
    cache: CubeTensor,
    pooled: CubeTensor,
    hidden: CubeTensor,
    zeros: CubeTensor,
    bounds: CubeTensor,
}

impl Room {
    fn new(device: &CubeDevice, dtype: DType) -> Self {
        use burn::backend::ops::{FloatTensorOps, IntTensorOps};
        let zeros = |dtype: DType| {
            let data = TensorData::new(vec![0f32; 64 * WIDTH], [64 * WIDTH]);
            CubeBackend::float_cast(CubeBackend::float_from_data(data, device), dtype.into())
        };
        let ints = |values: Vec<i32>| {
            let shape = [values.len()];
            CubeBackend::int_from_data(TensorData::new(values, shape), device)
        };
        Self {
            floats: zeros(dtype),
            out: zeros(dtype),
            cache: zeros(dtype),
            pooled: zeros(DType::F32),
            hidden: zeros(DType::F32),
            zeros: ints(vec![0; 64]),
            // Bounds 0 and 1, then the query tile (0, 0, 1).
            bounds: ints(vec![0, 1, 0, 0, 1, 0, 0, 0]),
        }
    }

    /// Tables without a tile.
    fn tables(&self) -> LoraTablesLaunch {
        let zeros = || self.zeros.clone().into_buffer_arg();
        LoraTablesLaunch::new(zeros(), zeros(), 0, 0, 0, 0, 0)
    }

    fn run(&self, variant: &KernelVariant) {
        let KernelVariant { elem, lanes, form } = *variant;
        let (client, dim, one) = (&self.out.client.clone(), variant.cube_dim(), CubeCount::Static(1, 1, 1));
        let f = || self.floats.clone().into_buffer_arg();
        let h = || self.hidden.clone().into_buffer_arg();
        let i = || self.bounds.clone().into_buffer_arg();
        let out = self.out.clone().into_buffer_arg();
        let (rows, width) = (1, WIDTH as u32);
        match form {
            Form::Paged(form) => self.run_paged(variant, form),
            Form::Sgmv(shape) => {
                let inputs = width;
                shrink::sgmv_shrink::launch(
                    client,
                    one,
                    dim,
                    f(),
                    f(),
                    self.tables(),
                    h(),
                    inputs,
                    shape,
                    elem,
                    lanes,
                );
            }
            Form::Bgmv { units } => {
                let inputs = width;
                shrink::bgmv_shrink::launch(
                    client,
                    one,
                    dim,
                    f(),
                    f(),
                    self.tables(),
                    h(),
                    inputs,
                    units,
                    elem,
                    lanes,
                );
            }
            Form::LinearEnd { tile_rows, shape } => linear_end::linear_end::launch(
                client,
                one,
                dim,
                out,
                f(),
                f(),
                f(),
                h(),
                self.tables(),
                rows,
                width,
                tile_rows,
                shape,
                elem,
                lanes,
            ),
            Form::AddNorm { tile_rows, shape, row } => linear_end::linear_add_norm_end::launch(
                client,
                one,
                dim,
                out,
                f(),
                f(),
                f(),
                h(),
                self.tables(),
                f(),
                f(),
                1e-5,
                rows,
                width,
                tile_rows,
                shape,
                row,
                elem,
                lanes,
            ),
            Form::EmbedNorm(row) => embed::embed_norm::launch(
                client,
                one,
                dim,
                f(),
                f(),
                i(),
                i(),
                f(),
                f(),
                1e-5,
                out,
                rows,
                width,
                width,
                width,
                row,
                elem,
                lanes,
            ),
            Form::Embed => {
                embed::embed::launch(client, one, dim, f(), i(), out, rows, width, width, elem, lanes);
            }
            Form::RmsNorm { units } => rms_norm::rms_norm::launch(
                client,
                one,
                dim,
                f(),
                f(),
                1e-5,
                out,
                rows,
                width,
                width,
                units,
                elem,
                lanes,
            ),
            Form::Gated { activation } => {
                let stride = 2 * width;
                gated::gated::launch(
                    client,
                    one,
                    dim,
                    f(),
                    out,
                    rows,
                    width,
                    stride,
                    activation,
                    elem,
                    lanes,
                );
            }
            Form::Attention(shape) => {
                attention::attention::launch(client, one, dim, f(), i(), out, 1, 4, 0.5, 2, 1, shape, elem);
            }
            Form::Pool { pooling, row } => {
                let pooled = self.pooled.clone().into_buffer_arg();
                pool::pool_rows::launch(
                    client,
                    one,
                    dim,
                    f(),
                    i(),
                    pooled,
                    1,
                    width,
                    1,
                    pooling,
                    row,
                    elem,
                    lanes,
                );
            }
        }
    }
}

impl Room {
    /// One row at position 0, a head of four columns.
    fn run_paged(&self, variant: &KernelVariant, form: PagedForm) {
        let KernelVariant { elem, lanes, .. } = *variant;
        let (client, dim, one) = (&self.out.client.clone(), variant.cube_dim(), CubeCount::Static(1, 1, 1));
        let f = || self.floats.clone().into_buffer_arg();
        let angles = || self.hidden.clone().into_buffer_arg();
        let (context, stats) =
            (|| self.hidden.clone().into_buffer_arg(), || self.pooled.clone().into_buffer_arg());
        // From 0 on it says the tile of a prompt (0, 1, 0, 0).
        let prompt = self.bounds.clone().into_buffer_arg();
        let zeros = self.zeros.clone().into_buffer_arg();
        let out = self.out.clone().into_buffer_arg();
        let cache = self.cache.clone().into_buffer_arg();
        let heads = PagedShapeLaunch::new(1, 1, 4, 0.5, 1, u32::MAX);
        match form {
            PagedForm::Store { norms } => {
                let shape = StoreShapeLaunch::new(1, 1, 1, 4, 2, 1e-6, 1e-6);
                paged_store::store_kv::launch(
                    client,
                    one,
                    dim,
                    f(),
                    zeros,
                    angles(),
                    angles(),
                    f(),
                    f(),
                    cache,
                    out,
                    shape,
                    norms,
                    elem,
                );
            }
            PagedForm::Prompt(shape) => paged_prompt::attention_prompt::launch(
                client,
                one,
                dim,
                f(),
                cache,
                prompt,
                out,
                heads,
                0,
                1,
                1,
                shape,
                elem,
            ),
            PagedForm::DecodeChunk(shape) => paged_decode::decode_chunk::launch(
                client,
                one,
                dim,
                f(),
                cache,
                zeros,
                context(),
                stats(),
                heads,
                0,
                1,
                1,
                shape,
                elem,
                lanes,
            ),
            PagedForm::DecodeSum => paged_decode::decode_sum::launch(
                client,
                one,
                dim,
                context(),
                stats(),
                zeros,
                out,
                heads,
                0,
                1,
                elem,
            ),
            PagedForm::CopyBlocks => {
                paged_store::copy_blocks::launch(client, one, dim, cache, zeros, 1, 1, 256, elem, lanes);
            }
        }
    }
}

#[test]
fn every_variant_of_the_devices_dtypes_compiles_and_runs_over_one_row() {
    use burn::backend::Backend;
    let Some(device) = device() else { return };
    for (dtype, kind) in
        [(DType::F32, FloatKind::F32), (DType::F16, FloatKind::F16), (DType::BF16, FloatKind::BF16)]
    {
        if !CubeBackend::supports_dtype(&device, dtype) {
            continue;
        }
        let room = Room::new(&device, dtype);
        let mine = variants().into_iter().filter(|variant| variant.elem == ElemType::Float(kind));
        for (at, variant) in mine.enumerate() {
            room.run(&variant);
            // A kernel that does not compile tells at the next read.
            if at % 16 == 15 {
                read(&room.pooled, variant);
            }
        }
        read(&room.pooled, "the last ones");
    }
}

fn read(tensor: &CubeTensor, upto: impl std::fmt::Debug) {
    use burn::backend::ops::FloatTensorOps;
    let data = burn::tensor::read_sync(CubeBackend::float_into_data(tensor.clone()));
    let values = data.unwrap_or_else(|error| panic!("up to {upto:?}: {error:?}"));
    assert!(values.iter::<f32>().all(f32::is_finite), "up to {upto:?}: a value is not finite");
}
