//! Where a model's weights come from: a checkpoint, or random numbers.

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::ModelError;
use crate::stored_values::widened;

/// Gives tensors by name, each of the shape that the config implies.
pub(crate) trait WeightSource {
    /// Takes a tensor in the dtype that the source has it in: one that checkpoints may store weights in.
    ///
    /// # Errors
    /// When it is missing, of another shape, not of floats, or not finite.
    fn take_data(&mut self, name: &str, shape: &[usize]) -> Result<TensorData, ModelError>;
}

impl dyn WeightSource + '_ {
    /// Takes a tensor, brought to `device` in `dtype`.
    ///
    /// # Errors
    /// As [`WeightSource::take_data`].
    pub(crate) fn take<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        (device, dtype): (&Device, DType),
    ) -> Result<Tensor<D>, ModelError> {
        let data = self.take_data(name, &shape)?;
        if data.dtype() == dtype {
            return Ok(Tensor::from_data(data, (device, dtype)));
        }
        let wide = TensorData::new(widened(&data), shape);
        let tensor = Tensor::<D>::from_data(wide, (device, DType::F32));
        Ok(if dtype == DType::F32 { tensor } else { tensor.cast(dtype) })
    }

    /// Takes a tensor as plain values.
    ///
    /// # Errors
    /// As [`WeightSource::take_data`].
    pub(crate) fn take_values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        Ok(widened(&self.take_data(name, shape)?))
    }
}
