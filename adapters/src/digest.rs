//! The digest of an adapter's content: the identity of its weights, whatever they are called.

use polylora_registry::{Digest, DigestBuilder};

use crate::ChatFiles;

/// First field of every digest: another layout of fields gets another string, so that digests of different layouts
/// never meet in one cache.
const ADAPTER_DOMAIN: &str = "polylora adapter content, layout 1";

/// The digest of an adapter over `base`: add each site in the order of its name, each tensor in the order of its
/// kind.
#[derive(Debug)]
pub(crate) struct AdapterDigest(DigestBuilder);

impl AdapterDigest {
    pub(crate) fn new(base: Digest, sites: usize) -> Self {
        Self(DigestBuilder::new(ADAPTER_DOMAIN).field(&base.0).number(sites as u64))
    }

    /// Begins the site `name`, whose effective scale is `scale` and which brings `tensors` tensors.
    pub(crate) fn site(&mut self, name: &str, scale: f32, tensors: usize) {
        self.update(|d| {
            d.field(name.as_bytes()).field(&scale.to_bits().to_le_bytes()).number(tensors as u64)
        });
    }

    /// Adds a tensor of the site that was begun last: its bytes as the file has them.
    pub(crate) fn tensor(&mut self, kind: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
        self.update(|d| {
            let d = d.field(kind.as_bytes()).field(dtype.as_bytes()).number(shape.len() as u64);
            shape.iter().fold(d, |d, &width| d.number(width as u64)).field(bytes)
        });
    }

    /// Adds the texts for conversations, after all sites: what is said through the adapter depends on them.
    pub(crate) fn chat(&mut self, files: &ChatFiles) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (template, config) = (text(&files.template), text(&files.tokenizer_config));
        self.update(|d| d.field(b"chat").field(template.as_bytes()).field(config.as_bytes()));
    }

    pub(crate) fn finish(self) -> Digest {
        self.0.finish()
    }

    fn update(&mut self, add: impl FnOnce(DigestBuilder) -> DigestBuilder) {
        let builder = std::mem::replace(&mut self.0, DigestBuilder::new(""));
        self.0 = add(builder);
    }
}
