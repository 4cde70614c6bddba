//! An [`AdapterStore`] as the engine's source of adapters.

use polylora_adapters::{AdapterStore, LoadError, LoadedAdapter, ServedAdapter};

use crate::adapter_source::{AdapterMemory, AdapterSource, FoundAdapter};
use crate::{AdapterInfo, EmbedError};

impl AdapterSource for AdapterStore {
    fn find(&self, name: &str) -> Result<FoundAdapter, EmbedError> {
        let found = AdapterStore::find(self, name)?;
        Ok(found.map_or(FoundAdapter::NotLoaded, FoundAdapter::Loaded))
    }

    fn load(&self, name: &str) -> Result<LoadedAdapter, EmbedError> {
        Ok(AdapterStore::load(self, name)?)
    }

    fn list(&self) -> Vec<AdapterInfo> {
        self.infos().into_iter().map(AdapterInfo::from).collect()
    }

    fn memory(&self) -> AdapterMemory {
        let stats = AdapterStore::memory(self);
        let whole = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        AdapterMemory { adapters: whole(stats.adapters), bytes: whole(stats.bytes) }
    }
}

impl From<LoadError> for EmbedError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Unknown { name } => Self::UnknownAdapter { name },
            LoadError::Refused { name, reason } => Self::AdapterInvalid { name, reason: reason.to_string() },
        }
    }
}

impl From<ServedAdapter> for AdapterInfo {
    fn from(served: ServedAdapter) -> Self {
        Self {
            name: served.name.to_string(),
            root: served.path.display().to_string(),
            max_rank: served.max_rank,
            digest: served.digest.map(|digest| digest.to_hex()),
            created: served.created,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use polylora_adapters::{AdapterDirectory, BaseModel, Digest, LowRank, SiteCatalog, StoreOptions};
    use polylora_kernels::extent::SiteId;

    use super::*;

    struct Siteless(SiteCatalog);

    impl BaseModel for Siteless {
        fn catalog(&self) -> &SiteCatalog {
            &self.0
        }

        fn digest(&self) -> Digest {
            Digest([0; 32])
        }

        fn dora_row_norms(&self, _site: SiteId, _delta: LowRank<'_>) -> Vec<f32> {
            vec![]
        }
    }

    #[test]
    fn an_unknown_adapter_and_a_refused_one_are_told_apart_and_neither_is_listed() {
        let directory = tempfile::tempdir().unwrap();
        let broken = directory.path().join("broken");
        std::fs::create_dir(&broken).unwrap();
        std::fs::write(broken.join("adapter_config.json"), "{").unwrap();
        let base = Siteless(SiteCatalog::new(vec![]));
        let opened = AdapterDirectory::open(directory.path(), base.catalog()).unwrap();
        let store = AdapterStore::new(opened, Arc::new(base), StoreOptions::new(1 << 20));
        let source: &dyn AdapterSource = &store;
        let unknown = EmbedError::UnknownAdapter { name: "nobody".to_owned() };
        assert_eq!(source.find("nobody").unwrap_err(), unknown);
        assert_eq!(source.load("nobody").unwrap_err(), unknown);
        for refused in [source.find("broken").map(drop), source.load("broken").map(drop)] {
            let Err(EmbedError::AdapterInvalid { name, reason }) = refused else { panic!("{refused:?}") };
            assert_eq!(name, "broken");
            assert!(reason.contains("adapter_config.json"), "{reason}");
        }
        assert_eq!(source.list(), []);
        assert_eq!(source.memory(), AdapterMemory::default());
    }
}
