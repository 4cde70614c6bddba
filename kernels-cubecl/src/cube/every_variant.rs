//! Every variant of the table compiles for the device at hand and runs over one row.

use burn::tensor::{DType, TensorData};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use super::kernels::lookup::LoraTablesLaunch;
use super::kernels::{attention, embed, linear_end, pool, shrink};
use super::poisoned_outputs::device;
use super::variant::{Form, KernelVariant, variants};

/// Columns of the one row: whole vectors, and a head of at least one.
const WIDTH: usize = 16;

/// Buffers that any kernel can take for anything: zeros, but for a table that says one row, from 0 to 1.
struct Room {
    floats: CubeTensor,
    out: CubeTensor,
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
