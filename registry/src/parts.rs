//! What virtual adapters are made of: nothing that is missing, out of service, or made of them.

use std::collections::BTreeSet;

use crate::{ChangeError, Registry, Source, Version, VersionId};

impl Registry {
    /// Refuses parts that may not be served, and parts that are made of `whole`.
    pub(crate) fn parts_fit(&self, source: &Source, whole: Option<&Version>) -> Result<(), ChangeError> {
        let mut open: Vec<_> = source.parts().collect();
        for part in &open {
            self.servable(self.numbered(*part)?)?;
        }
        let mut seen = BTreeSet::new();
        while let (Some(whole), Some(id)) = (whole, open.pop()) {
            let part = self.numbered(id)?;
            if part.id == whole.id || part.source.parts().any(|inner| inner == whole.id) {
                let (name, label, of) = (whole.name.clone(), whole.label.clone(), part.name.clone());
                return Err(ChangeError::PartOf { name, label, of });
            }
            if seen.insert(id) {
                open.extend(part.source.parts());
            }
        }
        Ok(())
    }

    /// Refuses what virtual adapters outside `doomed` are made of.
    pub(crate) fn parts_of_none(&self, doomed: &[VersionId]) -> Result<(), ChangeError> {
        let others = self.versions().filter(|version| !doomed.contains(&version.id));
        for whole in others {
            if let Some(part) = whole.source.parts().find(|part| doomed.contains(part)) {
                let part = self.numbered(part)?;
                let (name, label, of) = (part.name.clone(), part.label.clone(), whole.name.clone());
                return Err(ChangeError::PartOf { name, label, of });
            }
        }
        Ok(())
    }
}

impl Source {
    fn parts(&self) -> impl Iterator<Item = VersionId> {
        let parts = match self {
            Self::Folder { .. } => &[][..],
            Self::Virtual { parts } => parts,
        };
        parts.iter().map(|part| part.id)
    }
}
