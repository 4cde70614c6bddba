//! The sites of a base model: the type is here, each model family fills it.

use polylora_kernels::extent::SiteId;

/// One projection that LoRA may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its number: its index in the catalogue.
    pub id: SiteId,
    /// Full Hugging Face module name, e.g. `encoder.layer.0.attention.self.query`.
    pub name: String,
    /// Width of the input.
    pub in_width: usize,
    /// Width of the output.
    pub out_width: usize,
    /// Sites with equal groups share an input and lie in one fused weight.
    pub group: u32,
    /// First output column within the fused weight.
    pub offset: usize,
}

/// A linear module of the checkpoint that this model does not compute (`pooler.dense` under mean pooling):
/// adapters may bring it without effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredModule {
    /// Full module name.
    pub name: String,
    /// Width of the input.
    pub in_width: usize,
    /// Width of the output.
    pub out_width: usize,
}

/// All sites of a base model and what else its checkpoint names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteCatalog {
    sites: Vec<Site>,
    ignored: Vec<IgnoredModule>,
    embeddings: Vec<String>,
    prefixes: Vec<String>,
}

/// What a module name means to a base model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module<'a> {
    /// A projection that is computed.
    Site(&'a Site),
    /// A linear module without effect here.
    Ignored(&'a IgnoredModule),
    /// An embedding table.
    Embedding(&'a str),
}

impl SiteCatalog {
    /// A catalogue of `sites` (in order of their ids).
    ///
    /// # Panics
    /// When a site's id is not its index.
    pub fn new(sites: Vec<Site>) -> Self {
        assert!(sites.iter().enumerate().all(|(i, s)| s.id.0 as usize == i), "site ids must be indices");
        Self { sites, ignored: vec![], embeddings: vec![], prefixes: vec![] }
    }

    /// Adds linear modules that adapters may bring without effect.
    pub fn with_ignored(mut self, ignored: Vec<IgnoredModule>) -> Self {
        self.ignored = ignored;
        self
    }

    /// Adds names of embedding tables, so that adapters on them are refused by name.
    pub fn with_embeddings(mut self, embeddings: Vec<String>) -> Self {
        self.embeddings = embeddings;
        self
    }

    /// Adds prefixes (`bert.`) that task heads of the same family put before the module names.
    pub fn with_prefixes(mut self, prefixes: Vec<String>) -> Self {
        self.prefixes = prefixes;
        self
    }

    /// All sites, by id.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The site with number `id`.
    ///
    /// # Panics
    /// When `id` is of another catalogue.
    pub fn site(&self, id: SiteId) -> &Site {
        &self.sites[id.0 as usize]
    }

    /// Every linear or embedding module of the checkpoint: what target patterns are judged against.
    pub fn modules(&self) -> impl Iterator<Item = (&str, Module<'_>)> {
        let sites = self.sites.iter().map(|s| (s.name.as_str(), Module::Site(s)));
        let ignored = self.ignored.iter().map(|m| (m.name.as_str(), Module::Ignored(m)));
        let embeddings = self.embeddings.iter().map(|n| (n.as_str(), Module::Embedding(n)));
        sites.chain(ignored).chain(embeddings)
    }

    /// The module of that exact name.
    pub fn module(&self, name: &str) -> Option<Module<'_>> {
        self.modules().find(|(n, _)| *n == name).map(|(_, m)| m)
    }

    /// Prefixes that may stand before the module names.
    pub fn prefixes(&self) -> &[String] {
        &self.prefixes
    }
}
