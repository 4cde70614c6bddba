//! Linear layers: Burn's product, LoRA's shrink, and one kernel for all that follows.

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::tensor::CubeTensor;

use super::kernels::row_norm::NormShape;
use super::layer_end::LayerEnd;
use super::lora::{LoraLaunch, span_lanes};
use super::row_shape::{lanes, row_shape};
use super::tensors::{contiguous, elem_type, empty};
use crate::Activation;
use crate::lora::LoraOperand;
use crate::ops::linear::{LinearAddArgs, LinearAddNormArgs, LinearArgs, LinearOps};
use crate::reference;
use crate::weight::PreparedWeight;

impl LinearOps for CubeBackend {
    fn linear(args: LinearArgs<Self>) -> FloatTensor<Self> {
        let Some(weight) = served(&args) else {
            return reference::linear::linear::<Self>(args);
        };
        let (activation, rows) = (args.activation, args.x.shape()[0]);
        let end = computed(args, weight, None);
        if rows == 0 || (end.bias.is_none() && end.lora.is_none() && activation == Activation::Identity) {
            return end.product;
        }
        end.finish(activation)
    }

    fn linear_add(args: LinearAddArgs<Self>) -> FloatTensor<Self> {
        let LinearAddArgs { linear, residual } = &args;
        let alike = residual.dtype == linear.x.dtype && linear.activation == Activation::Identity;
        let (Some(weight), true) = (served(linear), alike) else {
            return reference::linear::linear_add::<Self>(args);
        };
        let rows = linear.x.shape()[0];
        let end = computed(args.linear, weight, Some(args.residual));
        if rows == 0 { end.product } else { end.finish(Activation::Identity) }
    }

    fn linear_add_norm(args: LinearAddNormArgs<Self>) -> FloatTensor<Self> {
        let Some((weight, shape)) = served_norm(&args) else {
            return reference::linear::linear_add_norm::<Self>(args);
        };
        let rows = args.linear.x.shape()[0];
        let end = computed(args.linear, weight, Some(args.residual));
        if rows == 0 {
            return end.product;
        }
        end.add_norm(args.norm, shape)
    }
}

/// The weight, when kernels serve the call.
fn served(args: &LinearArgs<CubeBackend>) -> Option<CubeTensor> {
    let dtype = args.x.dtype;
    elem_type(dtype)?;
    let PreparedWeight::Plain(weight) = &args.weight else {
        return None;
    };
    let arena = match &args.lora {
        LoraOperand::Absent => None,
        LoraOperand::Arena { values, .. } => Some(values),
        LoraOperand::Host(..) => return None,
    };
    let bias = args.bias.as_option();
    let alike = [Some(weight), arena, bias].into_iter().flatten().all(|tensor| tensor.dtype == dtype);
    alike.then(|| weight.clone())
}

fn served_norm(args: &LinearAddNormArgs<CubeBackend>) -> Option<(CubeTensor, NormShape)> {
    let weight = served(&args.linear)?;
    let LinearAddNormArgs { residual, norm, linear } = args;
    let alike = [residual, &norm.gamma, &norm.beta].into_iter().all(|tensor| tensor.dtype == linear.x.dtype);
    if !alike || linear.activation != Activation::Identity {
        return None;
    }
    // The end reads vectors of one lane when a span says so, which asks for the most room.
    let width = weight.shape()[0];
    let narrowest = match &linear.lora {
        LoraOperand::Arena { group, .. } => lanes([width]).min(span_lanes(group)),
        _ => lanes([width]),
    };
    Some((weight, row_shape(width, narrowest)?))
}

/// The product, and what waits to be added to it.
fn computed(args: LinearArgs<CubeBackend>, weight: CubeTensor, residual: Option<CubeTensor>) -> LayerEnd {
    let LinearArgs { x, bias, lora, .. } = args;
    let x = contiguous(x);
    let (rows, width) = (x.shape()[0], weight.shape()[0]);
    let lora = LoraLaunch::of(lora);
    if let Some(lora) = &lora {
        lora.check(rows, x.shape()[1], width);
    }
    // Dense, which Burn's own choice is not on CUDA: it pads rows.
    let out = empty(&x, [rows, width].into(), x.dtype);
    let product = if rows == 0 { out } else { product(&x, weight, out) };
    let hidden = lora.as_ref().and_then(|lora| lora.shrink(&x));
    let lanes = lanes([width]).min(lora.as_ref().map_or(width, LoraLaunch::lanes));
    let (bias, residual) = (bias.into_option().map(contiguous), residual.map(contiguous));
    LayerEnd { product, bias, lora, hidden, residual, lanes }
}

/// `x W^T` into `out`, `[T, out]`, by Burn: tuned on GPUs; on a software rasteriser, where tuning takes minutes, its
/// heuristics.
fn product(x: &CubeTensor, weight: CubeTensor, out: CubeTensor) -> CubeTensor {
    let software = x.client.properties().identity.physical.is_none();
    let strategy = if software { MatmulStrategy::Cube } else { MatmulStrategy::default() };
    let dtype = x.dtype;
    let transposed = CubeBackend::float_swap_dims(weight, 0, 1);
    matmul(x.clone(), transposed, Some(out), strategy, dtype)
        .unwrap_or_else(|error| panic!("no kernel multiplies {:?} in {dtype:?}: {error:?}", x.shape()))
}
