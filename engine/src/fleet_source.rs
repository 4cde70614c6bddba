//! A [`Fleet`] as the engine's source of adapters.

use std::time::Duration;

use polylora_adapters::{Answering, Fleet, FleetFound, LoadError, Ticket, Version, VersionId};

use crate::adapter_source::{AdapterMemory, AdapterQuery, AdapterSource, FoundAdapter, ServedAdapter};
use crate::{AdapterInfo, EmbedError, ServedBy};

impl AdapterSource for Fleet {
    fn find(&self, query: &AdapterQuery<'_>) -> Result<FoundAdapter, EmbedError> {
        Ok(match Fleet::find(self, query.name, query.split_key)? {
            FleetFound::Loaded(answering) => FoundAdapter::Loaded(answering.into()),
            FleetFound::NotLoaded(ticket) => FoundAdapter::NotLoaded(ticket),
        })
    }

    fn load(&self, ticket: &Ticket) -> Result<ServedAdapter, EmbedError> {
        Ok(Fleet::load(self, ticket)?.into())
    }

    fn list(&self) -> Vec<AdapterInfo> {
        self.served().into_iter().map(|version| info(&version, self.is_loaded(&version))).collect()
    }

    fn memory(&self) -> AdapterMemory {
        let stats = Fleet::memory(self);
        let whole = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        AdapterMemory { adapters: whole(stats.adapters), bytes: whole(stats.bytes) }
    }

    fn answered(&self, id: VersionId, is_ok: bool, took: Duration) {
        self.count(id, is_ok, took);
    }
}

impl From<Answering> for ServedAdapter {
    fn from(answering: Answering) -> Self {
        let Answering { adapter, version } = answering;
        Self { adapter, served_by: ServedBy { id: version.id, tag: version.tag() } }
    }
}

impl From<LoadError> for EmbedError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Unknown { name, .. } => Self::UnknownAdapter { name },
            LoadError::Refused { name, reason } => Self::AdapterInvalid { name, reason: reason.to_string() },
            LoadError::Store { .. } => Self::Internal { reason: error.to_string() },
        }
    }
}

pub(crate) fn info(version: &Version, is_loaded: bool) -> AdapterInfo {
    let folder = version.source.folder();
    AdapterInfo {
        name: version.name.to_string(),
        root: folder.map_or_else(|| "virtual".to_owned(), |path| path.display().to_string()),
        max_rank: version.content.ranks.last().copied().unwrap_or(0),
        digest: Some(version.digest.to_hex()),
        is_loaded,
        created: version.created_at.0 / 1000,
    }
}

#[cfg(test)]
mod tests {
    use polylora_adapters::{Base, BaseModel, Digest, FleetOptions, FleetParts, LowRank, Roots, SiteCatalog};
    use polylora_kernels::extent::SiteId;

    use std::sync::Arc;

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
        let parts = FleetParts {
            bases: vec![Base::new("siteless".to_owned(), Arc::new(Siteless(SiteCatalog::new(vec![]))))],
            state_dir: None,
            roots: Roots::new(Some(directory.path()), None).unwrap(),
        };
        let fleet = Fleet::open(parts, FleetOptions::new(1 << 20)).unwrap();
        let source: &dyn AdapterSource = &fleet;
        let find = |name| source.find(&AdapterQuery { name, split_key: None });
        let Ok(FoundAdapter::NotLoaded(ticket)) = find("nobody") else {
            panic!("it may have come meanwhile")
        };
        let unknown = EmbedError::UnknownAdapter { name: "nobody".to_owned() };
        assert_eq!(source.load(&ticket).unwrap_err(), unknown);
        assert_eq!(find("no/body").unwrap_err(), EmbedError::UnknownAdapter { name: "no/body".to_owned() });
        let Err(EmbedError::AdapterInvalid { name, reason }) = find("broken") else {
            panic!("it is refused")
        };
        assert_eq!(name, "broken");
        assert!(reason.contains("adapter_config.json"), "{reason}");
        assert_eq!(source.list(), []);
        assert_eq!(source.memory(), AdapterMemory::default());
    }
}
