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
    output: Option<SiteId>,
    ignored: Vec<IgnoredModule>,
    embeddings: Vec<String>,
    tied: Vec<String>,
    prefixes: Vec<String>,
}

/// What a module name means to a base model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module<'a> {
    /// A projection that is computed.
    Site(&'a Site),
    /// The projection to logits: a site that "all-linear" leaves out, as PEFT does.
    Output(&'a Site),
    /// A linear module without effect here.
    Ignored(&'a IgnoredModule),
    /// An embedding table.
    Embedding(&'a str),
    /// A linear module whose weight is an embedding table's.
    Tied(&'a str),
}

impl SiteCatalog {
    /// A catalogue of `sites` (in order of their ids).
    ///
    /// # Panics
    /// When a site's id is not its index.
    pub fn new(sites: Vec<Site>) -> Self {
        assert!(sites.iter().enumerate().all(|(i, s)| s.id.0 as usize == i), "site ids must be indices");
        Self { sites, output: None, ignored: vec![], embeddings: vec![], tied: vec![], prefixes: vec![] }
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

    /// Says which of the sites projects to logits.
    pub fn with_output(mut self, output: SiteId) -> Self {
        self.output = Some(output);
        self
    }

    /// Adds names of linear modules that share the weight of an embedding table, so that adapters on them are refused by name.
    pub fn with_tied(mut self, tied: Vec<String>) -> Self {
        self.tied = tied;
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
        let sites = self.sites.iter().map(|s| {
            let module = if self.output == Some(s.id) { Module::Output(s) } else { Module::Site(s) };
            (s.name.as_str(), module)
        });
        let ignored = self.ignored.iter().map(|m| (m.name.as_str(), Module::Ignored(m)));
        let embeddings = self.embeddings.iter().map(|n| (n.as_str(), Module::Embedding(n)));
        let tied = self.tied.iter().map(|n| (n.as_str(), Module::Tied(n)));
        sites.chain(ignored).chain(embeddings).chain(tied)
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
