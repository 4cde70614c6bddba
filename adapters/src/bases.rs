//! The base models of one process, and which of them an adapter's files are for.

use std::sync::Arc;

use polylora_registry::BaseRef;

use crate::{AdapterManifest, AdapterSource, BaseModel, Digest, Refusal, SiteCatalog};

/// A base model under its name.
#[derive(Clone)]
pub struct Base {
    /// The model.
    pub model: Arc<dyn BaseModel>,
    /// Its name and digest.
    pub reference: BaseRef,
}

impl Base {
    /// `model` under `name`.
    pub fn new(name: String, model: Arc<dyn BaseModel>) -> Self {
        let digest = model.digest();
        Self { model, reference: BaseRef { name, digest } }
    }
}

/// The base models that adapters may be for; at least one.
pub(crate) struct Bases(Vec<Base>);

impl Bases {
    /// # Panics
    /// When there are none.
    pub(crate) fn new(bases: Vec<Base>) -> Self {
        assert!(!bases.is_empty(), "a fleet is of at least one base model");
        Self(bases)
    }

    /// The base model with that digest.
    pub(crate) fn of(&self, digest: &Digest) -> Option<&Base> {
        self.0.iter().find(|base| base.reference.digest == *digest)
    }

    /// Their names, to be read in a sentence.
    pub(crate) fn names(&self) -> String {
        self.0.iter().map(|base| base.reference.name.as_str()).collect::<Vec<_>>().join(" and ")
    }

    /// Their sites.
    pub(crate) fn catalogs(&self) -> Vec<&SiteCatalog> {
        self.0.iter().map(|base| base.model.catalog()).collect()
    }

    /// Checks a folder against each base model in turn: the first whose sites it fits.
    ///
    /// # Errors
    /// Why it fits none, see [`AdapterSource::inspect_for`].
    pub(crate) fn inspect(&self, source: &AdapterSource) -> Result<(&Base, AdapterManifest), Refusal> {
        let (index, manifest) = source.inspect_for(&self.catalogs())?;
        Ok((&self.0[index], manifest))
    }
}
