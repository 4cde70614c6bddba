//! Which tensors belong to which sites, and whether all of them fit.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use polylora_kernels::extent::{ExtentLayout, SiteId, SiteShape};

use super::{
    config::LoraConfig,
    tensor_file::TensorEntry,
    tensor_name::{TensorKind, TensorName},
};
use crate::{AdapterError, Module, SiteCatalog, error::excerpt};

/// What an adapter brings to one site; every shape was checked.
#[derive(Clone, Debug)]
pub(super) struct SitePlan {
    pub(super) site: SiteId,
    /// The site's name in the catalogue.
    pub(super) name: String,
    pub(super) in_width: usize,
    pub(super) out_width: usize,
    pub(super) tensors: SiteTensors,
}

/// The tensors of one module, at the rank and scale that the configuration gives it.
#[derive(Clone, Debug)]
pub(super) struct SiteTensors {
    pub(super) rank: usize,
    /// alpha/r, or alpha/sqrt(r) with rsLoRA.
    pub(super) scale: f32,
    pub(super) a: TensorEntry,
    pub(super) b: TensorEntry,
    pub(super) magnitude: Option<TensorEntry>,
    pub(super) bias: Option<TensorEntry>,
}

/// The plans of all targeted sites, by name. Tensors of [ignored](Module::Ignored) modules are checked as all others
/// are, but have no plan, because they have no effect.
pub(super) fn plan(
    file: &Path,
    entries: impl Iterator<Item = TensorEntry>,
    config: &LoraConfig,
    catalog: &SiteCatalog,
) -> Result<Vec<SitePlan>, AdapterError> {
    something_is_targeted(config, catalog)?;
    let mut naming = Naming::new(file, catalog);
    let mut parts: BTreeMap<&str, Parts> = BTreeMap::new();
    for entry in entries {
        let (module, kind) = naming.resolve(&entry, config)?;
        parts.entry(module).or_default().put(file, kind, entry)?;
    }
    let mut plans = vec![];
    for (name, module) in catalog.modules() {
        let full_name = format!("{}{name}", naming.prefix.unwrap_or_default());
        let found = parts.remove(name);
        match (config.targets.select(&full_name, module)?, module, found) {
            (true, Module::Embedding(_), _) => {
                let (file, module) = (config.targets.file.clone(), full_name);
                return Err(AdapterError::EmbeddingTargeted { file, module });
            }
            (false, _, Some(found)) => {
                let (file, tensor) = (file.to_owned(), found.any_name());
                return Err(AdapterError::TensorNotTargeted { file, tensor, module: full_name });
            }
            (true, Module::Site(site), found) => {
                let (in_width, out_width) = (site.in_width, site.out_width);
                let fit = Fit { file, config, name: full_name, in_width, out_width };
                let tensors = fit.check(found.unwrap_or_default(), naming.adapter.as_deref())?;
                plans.push(SitePlan { site: site.id, name: name.to_owned(), in_width, out_width, tensors });
            }
            (true, Module::Ignored(ignored), Some(found)) => {
                let (in_width, out_width) = (ignored.in_width, ignored.out_width);
                let fit = Fit { file, config, name: full_name, in_width, out_width };
                fit.check(found, naming.adapter.as_deref())?;
            }
            (true, Module::Ignored(_), None) | (false, _, None) => {}
        }
    }
    plans.sort_by(|l, r| l.name.cmp(&r.name));
    Ok(plans)
}

/// Size in bytes of an extent that holds everything that `plans` may bring.
pub(super) fn extent_bytes(plans: &[SitePlan], catalog: &SiteCatalog) -> usize {
    let shapes = plans.iter().map(|plan| SiteShape {
        site: plan.site,
        in_width: plan.in_width,
        out_width: plan.out_width,
        rank: plan.tensors.rank,
        has_gain: plan.tensors.magnitude.is_some(),
        has_bias: plan.tensors.bias.is_some(),
    });
    ExtentLayout::new(shapes.collect(), |site| catalog.site(site).group).len() * size_of::<f32>()
}

fn something_is_targeted(config: &LoraConfig, catalog: &SiteCatalog) -> Result<(), AdapterError> {
    for prefix in [""].into_iter().chain(catalog.prefixes().iter().map(String::as_str)) {
        for (name, module) in catalog.modules() {
            if config.targets.select(&format!("{prefix}{name}"), module)? {
                return Ok(());
            }
        }
    }
    Err(AdapterError::TargetsMatchNothing {
        file: config.targets.file.clone(),
        found: config.targets_shown.clone(),
        example: example(catalog),
    })
}

fn example(catalog: &SiteCatalog) -> String {
    catalog.modules().next().map(|(name, _)| name.to_owned()).unwrap_or_default()
}

/// How the names of one file are built: all alike.
struct Naming<'a> {
    file: &'a Path,
    catalog: &'a SiteCatalog,
    modules: HashMap<&'a str, Module<'a>>,
    /// The prefix before module names, once a tensor has shown it.
    prefix: Option<&'a str>,
    /// The adapter's name within tensor names, once a tensor has shown whether there is one.
    infix_known: bool,
    adapter: Option<String>,
}

impl<'a> Naming<'a> {
    fn new(file: &'a Path, catalog: &'a SiteCatalog) -> Self {
        let modules = catalog.modules().collect();
        Self { file, catalog, modules, prefix: None, infix_known: false, adapter: None }
    }

    /// The module, by its name in the catalogue, and the kind of a tensor.
    fn resolve(&mut self, entry: &TensorEntry, config: &LoraConfig) -> Result<(&'a str, TensorKind), AdapterError> {
        let (file, tensor) = (self.file.to_owned(), entry.name.clone());
        let unexpected = |expected| AdapterError::TensorUnexpected { file: file.clone(), tensor: tensor.clone(), expected };
        let name = TensorName::parse(&entry.name).ok_or_else(|| {
            unexpected("names such as base_model.model.MODULE.lora_A.weight, and no weights of the base model")
        })?;
        match name.kind {
            TensorKind::Embedding => return Err(AdapterError::EmbeddingTensor { file, tensor }),
            TensorKind::BiasOfB => return Err(unexpected("no bias of B (lora_bias is not supported)")),
            TensorKind::Magnitude if !config.use_dora => {
                return Err(unexpected("no magnitudes, because use_dora is not true in the configuration"));
            }
            TensorKind::Bias if !config.trains_bias => {
                return Err(unexpected("no biases, because bias is not \"lora_only\" in the configuration"));
            }
            _ => {}
        }
        let (prefix, module) = self.module(name.module).ok_or_else(|| AdapterError::ModuleUnknown {
            file: file.clone(),
            tensor: tensor.clone(),
            module: excerpt(name.module),
            modules: self.modules.len(),
            example: example(self.catalog),
        })?;
        let mixed = |part, found: &str, expected: &str| AdapterError::NamingMixed {
            file: file.clone(),
            tensor: tensor.clone(),
            part,
            found: found.to_owned(),
            expected: expected.to_owned(),
        };
        match self.prefix {
            Some(expected) if expected != prefix => return Err(mixed("prefix", prefix, expected)),
            _ => self.prefix = Some(prefix),
        }
        if name.kind != TensorKind::Bias {
            if self.infix_known && self.adapter.as_deref() != name.adapter {
                let expected = self.adapter.as_deref().unwrap_or_default();
                return Err(mixed("adapter name", name.adapter.unwrap_or_default(), expected));
            }
            (self.infix_known, self.adapter) = (true, name.adapter.map(str::to_owned));
        }
        Ok((module, name.kind))
    }

    /// The prefix and the name of the catalogue that `name` is made of.
    fn module(&self, name: &str) -> Option<(&'a str, &'a str)> {
        let prefixes = [""].into_iter().chain(self.catalog.prefixes().iter().map(String::as_str));
        prefixes.into_iter().find_map(|prefix| {
            let (name, _) = self.modules.get_key_value(name.strip_prefix(prefix)?)?;
            Some((prefix, *name))
        })
    }
}

/// The tensors of one module.
#[derive(Default)]
struct Parts(BTreeMap<TensorKind, TensorEntry>);

impl Parts {
    fn put(&mut self, file: &Path, kind: TensorKind, entry: TensorEntry) -> Result<(), AdapterError> {
        let tensor = entry.name.clone();
        match self.0.insert(kind, entry) {
            None => Ok(()),
            Some(other) => Err(AdapterError::TensorDuplicate { file: file.to_owned(), tensor, other: other.name }),
        }
    }

    fn any_name(&self) -> String {
        self.0.values().next().map(|entry| entry.name.clone()).unwrap_or_default()
    }
}

/// What the tensors of one module are held against.
struct Fit<'a> {
    file: &'a Path,
    config: &'a LoraConfig,
    /// With any prefix.
    name: String,
    in_width: usize,
    out_width: usize,
}

impl Fit<'_> {
    fn check(&self, mut parts: Parts, adapter: Option<&str>) -> Result<SiteTensors, AdapterError> {
        let (rank, scale) = self.config.rank_and_scale(&self.name)?;
        let mut take = |kind| {
            parts.0.remove(&kind).ok_or_else(|| AdapterError::TensorMissing {
                file: self.file.to_owned(),
                tensor: TensorName::write(&self.name, kind, adapter),
                module: self.name.clone(),
            })
        };
        let (a, b) = (take(TensorKind::A)?, take(TensorKind::B)?);
        let magnitude = self.config.use_dora.then(|| take(TensorKind::Magnitude)).transpose()?;
        let bias = parts.0.remove(&TensorKind::Bias);
        let &[a_rank, a_width] = a.shape.as_slice() else { return Err(self.shape(&a, "[rank, in width]")) };
        self.width(&a, "in", a_width, self.in_width)?;
        self.rank(&a, a_rank, rank)?;
        let &[b_width, b_rank] = b.shape.as_slice() else { return Err(self.shape(&b, "[out width, rank]")) };
        self.width(&b, "out", b_width, self.out_width)?;
        self.rank(&b, b_rank, rank)?;
        if let Some(magnitude) = &magnitude {
            // [1, out] and [out, 1] are how some versions and converters write a column of norms.
            let width = match magnitude.shape[..] {
                [width] | [width, 1] | [1, width] => width,
                _ => return Err(self.shape(magnitude, "[out width]")),
            };
            self.width(magnitude, "out", width, self.out_width)?;
        }
        if let Some(bias) = &bias {
            let &[width] = bias.shape.as_slice() else { return Err(self.shape(bias, "[out width]")) };
            self.width(bias, "out", width, self.out_width)?;
        }
        Ok(SiteTensors { rank, scale, a, b, magnitude, bias })
    }

    fn shape(&self, entry: &TensorEntry, expected: &'static str) -> AdapterError {
        let (tensor, found) = (entry.name.clone(), entry.shape.clone());
        AdapterError::ShapeMismatch { file: self.file.to_owned(), tensor, found, expected }
    }

    fn width(&self, entry: &TensorEntry, side: &'static str, found: usize, expected: usize) -> Result<(), AdapterError> {
        if found == expected {
            return Ok(());
        }
        let (tensor, shape) = (entry.name.clone(), entry.shape.clone());
        Err(AdapterError::WidthMismatch { file: self.file.to_owned(), tensor, side, shape, found, expected })
    }

    fn rank(&self, entry: &TensorEntry, found: usize, expected: usize) -> Result<(), AdapterError> {
        if found == expected {
            return Ok(());
        }
        let (tensor, shape) = (entry.name.clone(), entry.shape.clone());
        Err(AdapterError::RankMismatch { file: self.file.to_owned(), tensor, shape, found, expected })
    }
}
