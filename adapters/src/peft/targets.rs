//! Which modules an adapter is for.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use super::patterns::Pattern;
use crate::{AdapterError, Module};

/// The configuration's choice of modules: target_modules, layers_to_transform, layers_pattern, exclude_modules.
#[derive(Clone, Debug)]
pub(super) struct Targets {
    pub(super) file: PathBuf,
    pub(super) chosen: Choice,
    pub(super) excluded: Option<Choice>,
}

/// A choice of modules by their names.
#[derive(Clone, Debug)]
pub(super) enum Choice {
    /// Every linear module but the one that gives logits ("all-linear").
    AllLinear,
    /// Those whose whole name matches.
    Pattern(Pattern),
    /// Those with one of the names, and those whose name ends with a dot and one of the names, as far as their
    /// layers are wanted.
    Names(HashSet<String>, Option<Layers>),
}

/// Layers that are wanted.
#[derive(Clone, Debug)]
pub(super) struct Layers {
    pub(super) indices: HashSet<u64>,
    /// How a module's layer is found: the first that matches decides.
    pub(super) patterns: Vec<Pattern>,
}

impl Targets {
    /// Whether the module called `name` (with any prefix that a task head adds) is targeted.
    pub(super) fn select(&self, name: &str, module: Module<'_>) -> Result<bool, AdapterError> {
        if let Some(excluded) = &self.excluded
            && excluded.takes(&self.file, name, module)?
        {
            return Ok(false);
        }
        self.chosen.takes(&self.file, name, module)
    }
}

impl Choice {
    fn takes(&self, file: &Path, name: &str, module: Module<'_>) -> Result<bool, AdapterError> {
        match self {
            Choice::AllLinear => Ok(matches!(module, Module::Site(_) | Module::Ignored(_))),
            Choice::Pattern(pattern) => pattern.matches(file, name),
            // A name that is given in full is taken whatever its layer.
            Choice::Names(names, _) if names.contains(name) => Ok(true),
            Choice::Names(names, layers) => {
                let ends_with_one = name.match_indices('.').any(|(at, _)| names.contains(&name[at + 1..]));
                match layers {
                    Some(layers) if ends_with_one => layers.contain(file, name),
                    _ => Ok(ends_with_one),
                }
            }
        }
    }
}

impl Layers {
    fn contain(&self, file: &Path, name: &str) -> Result<bool, AdapterError> {
        for pattern in &self.patterns {
            if let Some(index) = pattern.layer_index(file, name)? {
                return Ok(self.indices.contains(&index));
            }
        }
        Ok(false)
    }
}
