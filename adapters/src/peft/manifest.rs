//! An adapter's folder in two steps: what can be known without its numbers, then the numbers.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use polylora_registry::FilesStamp;

use super::{
    chat_files::{CHAT_TEMPLATE_FILE, ChatFiles, TOKENIZER_CONFIG_FILE},
    config::LoraConfig,
    fit::SiteTensors,
    folder::{self, CONFIG_FILE, FileIdentity, FileTrust, PICKLE_FILE, WEIGHTS_FILE},
    sites::{SitePlan, extent_bytes, plan},
    tensor_file::{TensorEntry, TensorFile},
    tensor_name::TensorKind,
};
use crate::{
    AdapterError, BaseModel, ChatFault, LoadedAdapter, OwnChat, SiteCatalog,
    digest::AdapterDigest,
    error::excerpt,
    weights::{FoldFault, SiteValues, first_not_finite, lay_out},
};

/// Longest configuration that is read, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// The state of an adapter's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdapterIdentity {
    /// adapter_config.json.
    pub config: FileIdentity,
    /// adapter_model.safetensors.
    pub weights: FileIdentity,
    /// chat_template.jinja, where there is one.
    pub chat_template: Option<FileIdentity>,
    /// tokenizer_config.json, where there is one.
    pub tokenizer_config: Option<FileIdentity>,
}

impl From<AdapterIdentity> for FilesStamp {
    fn from(identity: AdapterIdentity) -> Self {
        Self {
            config: identity.config.into(),
            weights: identity.weights.into(),
            chat_template: identity.chat_template.map(Into::into),
            tokenizer_config: identity.tokenizer_config.map(Into::into),
        }
    }
}

/// An adapter whose configuration and tensor headers were checked against a base model, but whose numbers were not
/// read yet.
#[derive(Clone, Debug)]
pub struct AdapterManifest {
    folder: PathBuf,
    trust: FileTrust,
    identity: AdapterIdentity,
    base_model: Option<String>,
    task_type: Option<String>,
    alpha: f64,
    ranks: BTreeSet<usize>,
    target_modules: BTreeSet<String>,
    bytes: usize,
    targets: usize,
}

impl AdapterManifest {
    /// Reads adapter_config.json and the header of adapter_model.safetensors in `folder`, and checks all that can be
    /// checked without the numbers: fields, kind, targets, names, shapes, ranks, dtypes, offsets.
    ///
    /// # Errors
    /// Whatever is wrong with the adapter, or with reading it.
    pub fn inspect(folder: &Path, trust: FileTrust, catalog: &SiteCatalog) -> Result<Self, AdapterError> {
        let opened = OpenedAdapter::open(folder, trust, catalog)?;
        Ok(Self {
            folder: folder.to_owned(),
            trust,
            identity: opened.identity,
            base_model: opened.base_model,
            task_type: opened.task_type,
            alpha: opened.alpha,
            ranks: opened.plans.iter().map(|plan| plan.tensors.strength.rank).collect(),
            target_modules: opened.plans.iter().map(|plan| last_component(&plan.name)).collect(),
            bytes: extent_bytes(&opened.plans, catalog),
            targets: opened.plans.len(),
        })
    }

    /// Reads the adapter's numbers for `base`: opens each file once, inspects what it opened as [`Self::inspect`]
    /// does, since the files may have changed, and hashes the very bytes whose values it keeps.
    ///
    /// The values are f32, with scale and DoRA's gain folded into `B`; sites without effect are left out. So are
    /// ignored modules, from the digest too: they change no result.
    ///
    /// # Errors
    /// As for [`Self::inspect`]; values that are not finite, as stored or once folded; and a chat template that the base
    /// cannot use.
    pub fn load(&self, base: &dyn BaseModel) -> Result<LoadedAdapter, AdapterError> {
        let opened = OpenedAdapter::open(&self.folder, self.trust, base.catalog())?;
        let files = match base.holds_conversations() {
            true => ChatFiles::read(&self.folder, self.trust)?,
            false => ChatFiles::default(),
        };
        let chat = base.own_chat(&files).map_err(|ChatFault { file, reason }| {
            AdapterError::ChatUnusable { file: self.folder.join(file), reason: excerpt(&reason) }
        })?;
        opened.load(base, chat.map(|chat| (chat, files)))
    }

    /// Whether the files are no longer those that were inspected (or can no longer be opened).
    pub fn is_stale(&self) -> bool {
        Self::identity_now(&self.folder, self.trust) != Some(self.identity)
    }

    /// The state of the files that lie in `folder` now; `None` when they cannot be opened.
    pub fn identity_now(folder: &Path, trust: FileTrust) -> Option<AdapterIdentity> {
        let identity = |name| identity_of(folder, name, trust);
        Some(AdapterIdentity {
            config: identity(CONFIG_FILE)?,
            weights: identity(WEIGHTS_FILE)?,
            chat_template: identity(CHAT_TEMPLATE_FILE),
            tokenizer_config: identity(TOKENIZER_CONFIG_FILE),
        })
    }

    /// The adapter's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The state of the files that were inspected.
    pub fn identity(&self) -> AdapterIdentity {
        self.identity
    }

    /// The name of the base model in training, if the configuration tells: for people, nothing is judged by it.
    pub fn base_model(&self) -> Option<&str> {
        self.base_model.as_deref()
    }

    /// The highest rank among its sites.
    pub fn max_rank(&self) -> usize {
        self.ranks.last().copied().unwrap_or(0)
    }

    /// The ranks among its sites, each once, ascending.
    pub fn ranks(&self) -> Vec<usize> {
        self.ranks.iter().copied().collect()
    }

    /// The last components of its sites' names (`query`, `value`), each once, sorted.
    pub fn target_modules(&self) -> Vec<String> {
        self.target_modules.iter().cloned().collect()
    }

    /// What it was trained for, if the configuration tells (`FEATURE_EXTRACTION`), cut where it is longer than anything
    /// real: for people, nothing is judged by it.
    pub fn task_type(&self) -> Option<&str> {
        self.task_type.as_deref()
    }

    /// lora_alpha of the configuration, before any alpha_pattern.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The most memory that its extent takes, in bytes. Sites that turn out to be without effect take none.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of sites it targets.
    pub fn targets(&self) -> usize {
        self.targets
    }
}

/// An adapter whose files are open and whose header was checked.
struct OpenedAdapter {
    identity: AdapterIdentity,
    base_model: Option<String>,
    task_type: Option<String>,
    alpha: f64,
    tensors: TensorFile,
    plans: Vec<SitePlan>,
}

impl OpenedAdapter {
    fn open(folder: &Path, trust: FileTrust, catalog: &SiteCatalog) -> Result<Self, AdapterError> {
        let config_file = folder::open(folder, CONFIG_FILE, trust)?
            .ok_or_else(|| AdapterError::ConfigMissing { file: folder.join(CONFIG_FILE) })?;
        let config_identity = config_file.identity;
        let config = LoraConfig::parse(
            &config_file.path.clone(),
            &folder::read_whole(config_file, MAX_CONFIG_BYTES)?,
        )?;
        let weights_file = match folder::open(folder, WEIGHTS_FILE, trust)? {
            Some(file) => file,
            None if folder.join(PICKLE_FILE).exists() => {
                return Err(AdapterError::PickleOnly { file: folder.join(PICKLE_FILE) });
            }
            None => return Err(AdapterError::WeightsMissing { file: folder.join(WEIGHTS_FILE) }),
        };
        let identity = AdapterIdentity {
            config: config_identity,
            weights: weights_file.identity,
            chat_template: identity_of(folder, CHAT_TEMPLATE_FILE, trust),
            tokenizer_config: identity_of(folder, TOKENIZER_CONFIG_FILE, trust),
        };
        let tensors = TensorFile::read_header(weights_file)?;
        let plans = plan(tensors.path(), tensors.entries().cloned(), &config, catalog)?;
        let LoraConfig { base_model, task_type, alpha, .. } = config;
        Ok(Self { identity, base_model, task_type, alpha, tensors, plans })
    }

    fn load(
        mut self,
        base: &dyn BaseModel,
        chat: Option<(OwnChat, ChatFiles)>,
    ) -> Result<LoadedAdapter, AdapterError> {
        let mut digest = AdapterDigest::new(base.digest(), self.plans.len());
        let mut sites = vec![];
        for plan in &self.plans {
            let SiteTensors { strength, a, b, magnitude, bias } = &plan.tensors;
            let optional = usize::from(magnitude.is_some()) + usize::from(bias.is_some());
            digest.site(&plan.name, strength.scale, 2 + optional);
            let out = [plan.out_width];
            let mut reader = TensorReader { file: &mut self.tensors, digest: &mut digest };
            let values = SiteValues {
                site: plan.site,
                in_width: plan.in_width,
                out_width: plan.out_width,
                rank: strength.rank,
                scale: strength.scale,
                a: reader.read(TensorKind::A, &[strength.rank, plan.in_width], a)?,
                b: reader.read(TensorKind::B, &[plan.out_width, strength.rank], b)?,
                magnitude: magnitude
                    .as_ref()
                    .map(|m| reader.read(TensorKind::Magnitude, &out, m))
                    .transpose()?,
                bias: bias.as_ref().map(|bias| reader.read(TensorKind::Bias, &out, bias)).transpose()?,
            };
            sites.extend(
                values.fold(base).map_err(|fault| fold_error(self.tensors.path(), &plan.tensors, fault))?,
            );
        }
        let extent = Arc::new(lay_out(&sites, base.catalog()));
        if let Some((_, files)) = &chat {
            digest.chat(files);
        }
        Ok(LoadedAdapter { digest: digest.finish(), extent, chat: chat.map(|(chat, _)| chat) })
    }
}

/// Reads tensors once, for the digest and for their values.
struct TensorReader<'a> {
    file: &'a mut TensorFile,
    digest: &'a mut AdapterDigest,
}

impl TensorReader<'_> {
    fn read(
        &mut self,
        kind: TensorKind,
        shape: &[usize],
        entry: &TensorEntry,
    ) -> Result<Vec<f32>, AdapterError> {
        let bytes = self.file.read(entry)?;
        self.digest.tensor(kind.digest_name(), entry.dtype.name(), shape, &bytes);
        let values = entry.dtype.widen(&bytes);
        match first_not_finite(&values) {
            None => Ok(values),
            Some((index, value)) => {
                let (file, tensor) = (self.file.path().to_owned(), entry.name.clone());
                Err(AdapterError::NotFinite { file, tensor, index, value })
            }
        }
    }
}

/// The state of one file; `None` when it cannot be opened.
fn identity_of(folder: &Path, name: &str, trust: FileTrust) -> Option<FileIdentity> {
    folder::open(folder, name, trust).ok().flatten().map(|file| file.identity)
}

/// What follows the last dot of a module's name.
fn last_component(name: &str) -> String {
    name.rsplit('.').next().unwrap_or(name).to_owned()
}

fn fold_error(file: &Path, tensors: &SiteTensors, fault: FoldFault) -> AdapterError {
    let file = file.to_owned();
    match fault {
        FoldFault::Gain { row, magnitude, norm } => {
            let tensor = tensors.magnitude.as_ref().unwrap_or(&tensors.b).name.clone();
            AdapterError::GainNotFinite { file, tensor, row, magnitude, norm }
        }
        FoldFault::Overflow { index, value, factor } => {
            AdapterError::ScaledOverflow { file, tensor: tensors.b.name.clone(), index, value, factor }
        }
    }
}
