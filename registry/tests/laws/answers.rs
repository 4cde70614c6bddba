//! Who answers to a request, by the oracle.

use polylora_registry::{ResolveError, Selector, SplitKey};

use crate::makers::name;
use crate::oracle::Oracle;

impl Oracle {
    /// Who answers to `model`, or the name of the error.
    pub fn resolve(&self, model: &str, key: Option<SplitKey>) -> Result<u64, &'static str> {
        let id = match self.name(model) {
            Some(found) => {
                let active = found.active.ok_or("Inactive")?;
                let is_in = |&(candidate, share): &(u64, u16)| {
                    let (share, row) =
                        (share.try_into().expect("a share"), self.row(candidate).expect("listed"));
                    key.is_some_and(|key| key.falls_within(share, &name(model), row.digest))
                };
                found.split.filter(is_in).map_or(active, |(candidate, _)| candidate)
            }
            None => {
                let (name, selector) = Selector::split(model).ok_or("UnknownName")?;
                self.name(name).ok_or("UnknownName")?;
                self.pick(name, &selector).map_err(|_| "UnknownVersion")?
            }
        };
        if self.unservable(id).is_empty() { Ok(id) } else { Err("Retired") }
    }
}

/// The name of a resolution's error.
pub fn word(error: &ResolveError) -> &'static str {
    match error {
        ResolveError::UnknownName { .. } | ResolveError::Name(_) => "UnknownName",
        ResolveError::UnknownVersion { .. } => "UnknownVersion",
        ResolveError::Inactive { .. } => "Inactive",
        ResolveError::Retired { .. } => "Retired",
    }
}
