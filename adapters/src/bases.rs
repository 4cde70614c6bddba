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

    /// Whether that is what PEFT wrote as `base_model_name_or_path` of an adapter for it: its name, behind an organisation or a
    /// folder.
    fn goes_by(&self, told: &str) -> bool {
        let name =
            |text: &str| text.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().map(str::to_lowercase);
        name(told) == name(&self.reference.name)
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

    /// Checks a folder against each base model in turn: the first whose sites it fits, unless it fits the one that it names, too.
    ///
    /// # Errors
    /// Why it fits none, see [`AdapterSource::inspect_for`].
    pub(crate) fn inspect(&self, source: &AdapterSource) -> Result<(&Base, AdapterManifest), Refusal> {
        let (index, manifest) = source.inspect_for(&self.catalogs())?;
        let first = &self.0[index];
        // Models of one family and size have the same sites. Those before the first have others.
        let is_named = |base: &&Base| manifest.base_model().is_some_and(|told| base.goes_by(told));
        match self.0[index..].iter().find(is_named) {
            Some(named) if !std::ptr::eq(named, first) => {
                Ok(source.inspect(named.model.catalog()).map_or((first, manifest), |own| (named, own)))
            }
            _ => Ok((first, manifest)),
        }
    }
}
