//! Launches of what follows a linear layer's product.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::grid::grid;
use super::kernels::column::ColumnShape;
use super::kernels::linear_end::{linear_add_norm_end, linear_end};
use super::kernels::lookup::LoraTablesLaunch;
use super::kernels::row_norm::NormShape;
use super::lora::LoraLaunch;
use super::tensors::{contiguous, elem_type, empty};
use super::variant::{END_UNITS, Form, KernelVariant, end_rows};
use crate::Activation;
use crate::weight::NormTensors;

/// Rows that a workgroup takes of batches without adapters.
const BASE_TILE: usize = 4;

/// A product and what waits to be added to it.
pub(crate) struct LayerEnd {
    /// `W x`, `[T, outputs]`, with no other owner.
    pub(crate) product: CubeTensor,
    /// Bias, `[outputs]`.
    pub(crate) bias: Option<CubeTensor>,
    /// Adapters.
    pub(crate) lora: Option<LoraLaunch>,
    /// What their shrink gave.
    pub(crate) hidden: Option<CubeTensor>,
    /// Added after the activation, `[T, outputs]`.
    pub(crate) residual: Option<CubeTensor>,
    /// Lanes in which columns are read.
    pub(crate) lanes: usize,
}

/// The buffers of a launch, with some other one where there is nothing.
struct Buffers {
    residual: CubeTensor,
    bias: CubeTensor,
    arena: CubeTensor,
    hidden: CubeTensor,
    tables: LoraTablesLaunch,
}

impl LayerEnd {
    /// `activation(g (W x) + B h + bias) + residual`, `[T, outputs]`.
    pub(crate) fn finish(self, activation: Activation) -> CubeTensor {
        let (rows, width) = (self.product.shape()[0], self.product.shape()[1]);
        let tile_rows = self.tile_rows(None);
        let shape = ColumnShape {
            rows: end_rows(tile_rows, None),
            lora: self.lora.is_some(),
            bias: self.bias.is_some(),
            activation,
            residual: self.residual.is_some(),
        };
        let variant = self.variant(Form::LinearEnd { tile_rows, shape });
        let groups = self.groups(tile_rows, shape.rows);
        let Buffers { residual, bias, arena, hidden, tables } = self.buffers(None);
        linear_end::launch(
            &self.product.client,
            grid(groups, (width / self.lanes).div_ceil(END_UNITS)),
            variant.admit(),
            self.product.clone().into_buffer_arg(),
            residual.into_buffer_arg(),
            bias.into_buffer_arg(),
            arena.into_buffer_arg(),
            hidden.into_buffer_arg(),
            tables,
            rows as u32,
            width as u32,
            tile_rows,
            shape,
            variant.elem,
            variant.lanes,
        );
        self.product
    }

    /// `norm(linear + residual)`, `[T, outputs]`.
    pub(crate) fn add_norm(self, norm: NormTensors<CubeBackend>, row: NormShape) -> CubeTensor {
        let (rows, width) = (self.product.shape()[0], self.product.shape()[1]);
        assert_eq!(
            (norm.gamma.shape()[0], norm.beta.shape()[0]),
            (width, width),
            "a norm as wide as the product"
        );
        let tile_rows = self.tile_rows(Some(row));
        let shape = ColumnShape {
            rows: end_rows(tile_rows, Some(row)),
            lora: self.lora.is_some(),
            bias: true,
            activation: Activation::Identity,
            residual: true,
        };
        let variant = self.variant(Form::AddNorm { tile_rows, shape, row });
        let groups = self.groups(tile_rows, shape.rows);
        let zeros = self.bias.is_none().then(|| self.zeros(width));
        let Buffers { residual, bias, arena, hidden, tables } = self.buffers(zeros);
        linear_add_norm_end::launch(
            &self.product.client,
            grid(groups, 1),
            variant.admit(),
            self.product.clone().into_buffer_arg(),
            residual.into_buffer_arg(),
            bias.into_buffer_arg(),
            arena.into_buffer_arg(),
            hidden.into_buffer_arg(),
            tables,
            contiguous(norm.gamma).into_buffer_arg(),
            contiguous(norm.beta).into_buffer_arg(),
            norm.epsilon,
            rows as u32,
            width as u32,
            tile_rows,
            shape,
            row,
            variant.elem,
            variant.lanes,
        );
        self.product
    }

    fn tile_rows(&self, row: Option<NormShape>) -> usize {
        self.lora.as_ref().map_or_else(|| end_rows(BASE_TILE, row), LoraLaunch::tile_rows)
    }

    /// Workgroups along the rows.
    fn groups(&self, tile_rows: usize, rows: usize) -> usize {
        match &self.lora {
            Some(lora) => lora.tiles() * tile_rows.div_ceil(rows),
            None => self.product.shape()[0].div_ceil(rows),
        }
    }

    fn variant(&self, form: Form) -> KernelVariant {
        let elem = elem_type(self.product.dtype).expect("a dtype of ours");
        KernelVariant { elem, lanes: self.lanes, form }
    }

    fn zeros(&self, width: usize) -> CubeTensor {
        let (device, client) = (self.product.device.clone(), self.product.client.clone());
        burn_cubecl::ops::numeric::zeros_client(client, device, [width].into(), self.product.dtype)
    }

    fn buffers(&self, bias: Option<CubeTensor>) -> Buffers {
        let width = self.product.shape()[1];
        assert!(
            self.bias.as_ref().is_none_or(|bias| bias.shape()[0] == width),
            "a bias as wide as the product"
        );
        let like = |residual: &CubeTensor| residual.shape() == self.product.shape();
        assert!(self.residual.as_ref().is_none_or(like), "a residual as large as the product");
        // As wide as a vector of any dtype: bindings narrower than their element are refused.
        let nothing = |dtype| empty(&self.product, [16].into(), dtype);
        let floats = || nothing(self.product.dtype);
        let bias = bias.or_else(|| self.bias.clone());
        let (arena, tables) = match &self.lora {
            Some(lora) => (lora.arena.clone(), lora.tables(lora.tiles())),
            None => {
                let numbers = || nothing(DType::I32).into_buffer_arg();
                (floats(), LoraTablesLaunch::new(numbers(), numbers(), 0, 0, 0, 0, 0))
            }
        };
        let hidden = self.hidden.clone().unwrap_or_else(|| nothing(DType::F32));
        let residual = self.residual.clone().unwrap_or_else(floats);
        Buffers { residual, bias: bias.unwrap_or_else(floats), arena, hidden, tables }
    }
}
