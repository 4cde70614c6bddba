//! The names of the base model, and what a name in a request stands for.

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelRef<'a> {
    /// The base model.
    Base,
    /// An adapter of that name, if there is one: the engine knows.
    Adapter(&'a str),
}

impl<'a> ModelRef<'a> {
    /// The adapter's name; `None` for the base.
    pub fn adapter(self) -> Option<&'a str> {
        match self {
            Self::Base => None,
            Self::Adapter(name) => Some(name),
        }
    }
}

/// The names of the base model, the leading one first, none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelNames {
    names: Vec<String>,
    /// How many of them, from the first, are not only the catalogue's.
    own: usize,
}

/// An adapter has a name that is the base model's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the adapter `{name}` has a name of the base model: rename its folder, or change --served-model-name"
)]
pub struct NameClash {
    /// The name.
    pub name: String,
}

/// Those of the names that the user chose which are the language model's: beside an embedding model they are all that one's.
pub fn chosen_for_llm(chosen: &[String], is_beside_embedding: bool) -> &[String] {
    if is_beside_embedding { &[] } else { chosen }
}

impl ModelNames {
    /// The names: those that the user chose, then the model's own, then the catalogue's.
    pub fn new(chosen: &[String], own: &str, catalogue: &[String]) -> Self {
        let mut names: Vec<String> = Vec::new();
        let mut add = |name: &str| {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
            names.len()
        };
        chosen.iter().for_each(|name| {
            add(name);
        });
        let own = add(own);
        catalogue.iter().for_each(|name| {
            add(name);
        });
        Self { names, own }
    }

    /// Gives the catalogue's names that adapters have, served or refused, to the adapters, with a warning each.
    ///
    /// # Errors
    /// [`NameClash`] for an adapter with a name that the user or the model itself gave the base.
    pub fn yielding_to(mut self, adapters: &[String]) -> Result<Self, NameClash> {
        if let Some(clash) = adapters.iter().find(|name| self.is_own(name)) {
            return Err(NameClash { name: clash.clone() });
        }
        self.names.retain(|name| {
            let stays = !adapters.contains(name);
            if !stays {
                tracing::warn!(
                    name,
                    "an adapter has this name of the catalogue's: it stands for the adapter, not for the base model"
                );
            }
            stays
        });
        Ok(self)
    }

    /// Says whether the user or the model itself, not only the catalogue, gave this name.
    fn is_own(&self, name: &str) -> bool {
        self.names[..self.own].iter().any(|known| known == name)
    }

    /// The name that leads in lists and stands in replies where none was asked for.
    pub fn primary(&self) -> &str {
        &self.names[0]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// What a name stands for. What is no name of the base is an adapter's, never silently the base's.
    pub fn resolve<'a>(&self, name: &'a str) -> ModelRef<'a> {
        let is_base = |name: &str| self.iter().any(|known| known == name);
        match name.split_once(':') {
            _ if is_base(name) => ModelRef::Base,
            // SGLang's way to name an adapter, with the base before it.
            Some((base, adapter)) if is_base(base) && !adapter.is_empty() => ModelRef::Adapter(adapter),
            _ => ModelRef::Adapter(name),
        }
    }
}
