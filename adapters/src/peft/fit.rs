//! Whether the tensors of one module fit it.

use std::{collections::BTreeMap, path::Path};

use super::{
    config::Strength,
    tensor_file::TensorEntry,
    tensor_name::{TensorKind, TensorName},
};
use crate::AdapterError;

/// The tensors of one module, at the rank and scale that the configuration gives it.
#[derive(Clone, Debug)]
pub(super) struct SiteTensors {
    pub(super) strength: Strength,
    pub(super) a: TensorEntry,
    pub(super) b: TensorEntry,
    pub(super) magnitude: Option<TensorEntry>,
    pub(super) bias: Option<TensorEntry>,
}

/// The tensors of one module, as they were found.
#[derive(Clone, Default)]
pub(super) struct Parts(BTreeMap<TensorKind, TensorEntry>);

impl Parts {
    /// Adds a tensor.
    pub(super) fn put(
        &mut self,
        file: &Path,
        kind: TensorKind,
        entry: TensorEntry,
    ) -> Result<(), AdapterError> {
        let tensor = entry.name.clone();
        match self.0.insert(kind, entry) {
            None => Ok(()),
            Some(other) => {
                Err(AdapterError::TensorDuplicate { file: file.to_owned(), tensor, other: other.name })
            }
        }
    }

    /// The name of one of the tensors.
    pub(super) fn any_name(&self) -> String {
        self.0.values().next().map(|entry| entry.name.clone()).unwrap_or_default()
    }
}

/// What the tensors of one module are held against.
pub(super) struct Fit<'a> {
    pub(super) file: &'a Path,
    pub(super) strength: Strength,
    pub(super) use_dora: bool,
    /// With any prefix.
    pub(super) name: &'a str,
    pub(super) in_width: usize,
    pub(super) out_width: usize,
    /// The adapter's name within tensor names, where they have one: for naming those that are missing.
    pub(super) adapter: Option<&'a str>,
}

impl Fit<'_> {
    /// Takes the module's tensors out of `parts` and checks that none is missing and each has its shape.
    pub(super) fn check(&self, mut parts: Parts) -> Result<SiteTensors, AdapterError> {
        let rank = self.strength.rank;
        let mut take = |kind| {
            parts.0.remove(&kind).ok_or_else(|| AdapterError::TensorMissing {
                file: self.file.to_owned(),
                tensor: TensorName::write(self.name, kind, self.adapter),
                module: self.name.to_owned(),
            })
        };
        let (a, b) = (take(TensorKind::A)?, take(TensorKind::B)?);
        let magnitude = self.use_dora.then(|| take(TensorKind::Magnitude)).transpose()?;
        let bias = parts.0.remove(&TensorKind::Bias);
        let &[a_rank, a_width] = a.shape.as_slice() else { return Err(self.shape(&a, "[rank, in width]")) };
        self.width(&a, "in", a_width, self.in_width)?;
        self.rank(&a, a_rank, rank)?;
        let &[b_width, b_rank] = b.shape.as_slice() else { return Err(self.shape(&b, "[out width, rank]")) };
        self.width(&b, "out", b_width, self.out_width)?;
        self.rank(&b, b_rank, rank)?;
        if let Some(magnitude) = &magnitude {
            // [1, out] and [out, 1] are how some versions and converters write a column of norms.
            let width = match magnitude.shape[..] {
                [width] | [width, 1] | [1, width] => width,
                _ => return Err(self.shape(magnitude, "[out width]")),
            };
            self.width(magnitude, "out", width, self.out_width)?;
        }
        if let Some(bias) = &bias {
            let &[width] = bias.shape.as_slice() else { return Err(self.shape(bias, "[out width]")) };
            self.width(bias, "out", width, self.out_width)?;
        }
        Ok(SiteTensors { strength: self.strength, a, b, magnitude, bias })
    }

    fn shape(&self, entry: &TensorEntry, expected: &'static str) -> AdapterError {
        let (tensor, found) = (entry.name.clone(), entry.shape.clone());
        AdapterError::ShapeMismatch { file: self.file.to_owned(), tensor, found, expected }
    }

    fn width(
        &self,
        entry: &TensorEntry,
        side: &'static str,
        found: usize,
        expected: usize,
    ) -> Result<(), AdapterError> {
        if found == expected {
            return Ok(());
        }
        let (tensor, shape) = (entry.name.clone(), entry.shape.clone());
        Err(AdapterError::WidthMismatch { file: self.file.to_owned(), tensor, side, shape, found, expected })
    }

    fn rank(&self, entry: &TensorEntry, found: usize, expected: usize) -> Result<(), AdapterError> {
        if found == expected {
            return Ok(());
        }
        let (tensor, shape) = (entry.name.clone(), entry.shape.clone());
        Err(AdapterError::RankMismatch { file: self.file.to_owned(), tensor, shape, found, expected })
    }
}
