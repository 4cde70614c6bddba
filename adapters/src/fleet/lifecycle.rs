//! What an operator does: register, test, promote, go back, retire, delete, pin.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use polylora_registry::{
    About, Activate, AdapterName, Change, Content, Event, NewVersion, Phase, Selector, Source, StoreError,
    Version, VersionId, VirtualPart,
};

use super::examination::Holding;
use super::{Answering, Fleet, LoadError, PathError, Ticket};
use crate::{ComposeError, Digest, LoadedAdapter, Refusal, compose};

/// Why a change did not happen.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The registry refuses it, or cannot store it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The path is not one that may be read.
    #[error(transparent)]
    Path(#[from] PathError),
    /// What the files hold cannot be served.
    #[error("the adapter is refused: {reason}")]
    Refused {
        /// File, tensor or field, found and expected.
        reason: Arc<Refusal>,
    },
    /// A version that is to answer, or to be part of another, cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A part of a virtual adapter is nobody.
    #[error("no adapter {part:?} is registered for the virtual adapter to be made of")]
    UnknownPart {
        /// As it was asked for.
        part: String,
    },
    /// The parts do not make a sum.
    #[error(transparent)]
    Compose(#[from] ComposeError),
}

/// A folder to be registered.
#[derive(Clone, Debug)]
pub struct RegisterFolder {
    /// The name.
    pub name: AdapterName,
    /// The folder, within the roots.
    pub path: PathBuf,
    /// Its semantic version; `None` takes the next patch.
    pub label: Option<semver::Version>,
    /// What is said of it, over what its files say.
    pub about: About,
    /// Whether it answers at once.
    pub activate: Activate,
}

/// A weighted list of others to be registered as one.
#[derive(Clone, Debug)]
pub struct RegisterVirtual {
    /// The name.
    pub name: AdapterName,
    /// Names or `name@version`, each with its weight. They stand for the versions that answer now.
    pub parts: Vec<(String, f32)>,
    /// Its semantic version; `None` takes the next patch.
    pub label: Option<semver::Version>,
    /// What is said of it.
    pub about: About,
    /// Whether it answers at once.
    pub activate: Activate,
}

impl Fleet {
    /// Reads a folder and registers what it holds. Blocks while it is read.
    ///
    /// # Errors
    /// [`FleetError`].
    pub fn register_folder(&self, request: RegisterFolder) -> Result<Arc<Version>, FleetError> {
        let folder = self.roots.resolve(&request.path)?;
        let lock = self.name_lock(&request.name);
        let _one_at_a_time = lock.lock();
        let examined = self.examine(&self.roots.source(&folder));
        let (loaded, held) = examined.map_err(|reason| FleetError::Refused { reason: Arc::new(reason) })?;
        let new = self.new_version(&request.name, held);
        let about = over(new.about, request.about);
        let new = NewVersion { label: request.label, about, activate: request.activate, ..new };
        self.register(new, loaded)
    }

    /// Registers a weighted sum of other versions, which they stay part of.
    ///
    /// # Errors
    /// [`FleetError`].
    pub fn register_virtual(&self, request: RegisterVirtual) -> Result<Arc<Version>, FleetError> {
        let (mut parts, mut loaded): (Vec<VirtualPart>, Vec<(LoadedAdapter, f32)>) = (vec![], vec![]);
        for (part, weight) in request.parts {
            let version = self.store.read().resolve(&part, None).cloned();
            let version = version.map_err(|_| FleetError::UnknownPart { part })?;
            let Answering { adapter, version } = self.load(&Ticket::Version(version.id))?;
            parts.push(VirtualPart { id: version.id, weight });
            loaded.push((adapter, weight));
        }
        let of = parts.first().and_then(|part| self.version_by_id(part.id));
        let base = of.map_or(Err(ComposeError::NoParts.into()), |version| {
            self.base_of(&version).map_err(FleetError::from)
        })?;
        let made = compose(&loaded, &*base.model)?;
        let layout = made.extent.layout();
        let site_name =
            |site| base.model.catalog().site(site).name.rsplit('.').next().unwrap_or_default().to_owned();
        let mut ranks: Vec<_> = layout.slots().iter().map(|slot| slot.shape.rank).collect();
        let mut targets: Vec<_> = layout.slots().iter().map(|slot| site_name(slot.shape.site)).collect();
        ranks.sort_unstable();
        ranks.dedup();
        targets.sort_unstable();
        targets.dedup();
        let content = Content {
            ranks,
            targets,
            sites: layout.slots().len(),
            bytes: made.extent.bytes() as u64,
            has_effect: !layout.is_empty(),
        };
        let source = Source::Virtual { parts };
        let held = Holding {
            digest: made.digest,
            content,
            source,
            base: base.reference.clone(),
            about: request.about,
        };
        let new = self.new_version(&request.name, held);
        let new = NewVersion { label: request.label, activate: request.activate, ..new };
        self.register(new, made)
    }

    /// Makes a change. A version that is to answer from now on is loaded first, so that nobody is led to one that cannot be.
    /// Blocks while it is.
    ///
    /// # Errors
    /// [`FleetError`]; nothing has changed then.
    pub fn operate(&self, change: Change) -> Result<Vec<Event>, FleetError> {
        let planned = self.store.read().plan(&change, super::now()).map_err(StoreError::from)?;
        for event in &planned {
            let to_answer = match event {
                Event::Activated { id, .. } => Some(*id),
                Event::Divided { split: Some(split), .. } => Some(split.candidate),
                _ => None,
            };
            if let Some(id) = to_answer {
                self.load(&Ticket::Version(id))?;
            }
        }
        Ok(self.change(change)?)
    }

    /// The version that `selector` means, or the one that answers under the name.
    pub fn version(&self, name: &str, selector: Option<&Selector>) -> Option<Arc<Version>> {
        let registry = self.store.read();
        match selector {
            Some(selector) => registry.select(name, selector).cloned(),
            None => registry.alias(name)?.active.and_then(|id| registry.version(id)).cloned(),
        }
    }

    /// The version of that number.
    pub fn version_by_id(&self, id: VersionId) -> Option<Arc<Version>> {
        self.store.read().version(id).cloned()
    }

    fn register(&self, new: NewVersion, loaded: LoadedAdapter) -> Result<Arc<Version>, FleetError> {
        let (name, digest) = (new.name.clone(), loaded.digest);
        self.cache.insert(&digest, loaded);
        self.change(Change::Register(Box::new(new)))?;
        let registered = self.store.read().by_content(name.as_str(), digest).cloned();
        let gone =
            || LoadError::Unknown { name: name.to_string(), reason: "it was deleted meanwhile".to_owned() };
        let registered = registered.ok_or_else(gone)?;
        tracing::info!(adapter = ?name, version = registered.tag(), bytes = registered.content.bytes, "adapter registered");
        self.note_look(registered.id, None);
        self.turned_away.lock().remove(name.as_str());
        self.misses.lock().remove(name.as_str());
        Ok(registered)
    }

    /// What follows from events outside the registry: memory comes back, pins move.
    pub(super) fn follow(&self, events: &[Event]) {
        let is_gone = |event: &Event| matches!(event, Event::Deleted { .. } | Event::Retired { .. });
        let moves_pins = |event: &Event| matches!(event, Event::Activated { .. } | Event::Pinned { .. });
        if events.iter().any(is_gone) {
            self.let_go_of_the_gone();
        }
        if events.iter().any(|event| is_gone(event) || moves_pins(event)) {
            self.apply_pins();
        }
    }

    /// Has what answers under pinned names stay in the host cache, and nothing else.
    pub(super) fn apply_pins(&self) {
        let wanted: HashSet<Digest> = {
            let registry = self.store.read();
            let pinned = registry.names().filter(|(_, alias)| alias.pinned);
            pinned
                .filter_map(|(_, alias)| registry.version(alias.active?))
                .map(|version| version.digest)
                .collect()
        };
        let mut pinned = self.pinned.lock();
        for digest in pinned.difference(&wanted) {
            // Unpinning cannot fail: there is one pin less.
            let _ = self.cache.set_pinned(digest, false);
        }
        for digest in wanted.difference(&pinned) {
            if let Err(error) = self.cache.set_pinned(digest, true) {
                tracing::warn!(%digest, %error, "an adapter is not pinned");
            }
        }
        *pinned = wanted;
    }

    /// Gives back the memory of versions that are deleted or retired; whoever has one leased keeps it until then.
    fn let_go_of_the_gone(&self) {
        let kept: HashSet<Digest> = {
            let registry = self.store.read();
            let in_service = registry.versions().filter(|version| version.phase != Phase::Retired);
            in_service.map(|version| version.digest).collect()
        };
        for digest in self.cache.keys() {
            if !kept.contains(&digest) {
                self.cache.forget(&digest);
            }
        }
        for pool in self.pools.lock().iter() {
            for digest in pool.residents() {
                if !kept.contains(&digest) {
                    pool.let_go(&digest);
                }
            }
        }
        let (ids, digests): (HashSet<VersionId>, HashSet<Digest>) =
            self.store.read().versions().map(|version| (version.id, version.digest)).unzip();
        self.cache.keep_figures_of(|digest| digests.contains(digest));
        for pool in self.pools.lock().iter() {
            pool.keep_figures_of(|digest| digests.contains(digest));
        }
        self.looks.lock().retain(|id, _| ids.contains(id));
        self.traffic.forget_all_but(&ids);
    }
}

/// What the files say, and over it what was given.
fn over(files: About, given: About) -> About {
    let mut training = files.training;
    training.extend(given.training);
    About {
        domains: given.domains,
        task_type: given.task_type.or(files.task_type),
        training,
        thresholds: given.thresholds,
        custom: given.custom,
    }
}
