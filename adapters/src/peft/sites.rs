//! Which tensors belong to which sites, and whether all of them fit.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use polylora_kernels::extent::{ExtentLayout, SiteId, SiteShape};

use super::{
    config::LoraConfig,
    fit::{Fit, Parts, SiteTensors},
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
    let mut targeted = vec![];
    for (name, module) in catalog.modules() {
        let full_name = format!("{}{name}", naming.prefix.unwrap_or_default());
        let found = parts.remove(name);
        match (config.targets.select(&full_name, module)?, module, found) {
            (true, Module::Embedding(_), _) => {
                let (file, module) = (config.targets.file.clone(), full_name);
                return Err(AdapterError::EmbeddingTargeted { file, module });
            }
            (true, Module::Tied(_), _) => {
                let (file, module) = (config.targets.file.clone(), full_name);
                return Err(AdapterError::TiedTargeted { file, module });
            }
            (false, _, Some(found)) => {
                let (file, tensor) = (file.to_owned(), found.any_name());
                return Err(AdapterError::TensorNotTargeted { file, tensor, module: full_name });
            }
            (true, Module::Ignored(_), None) | (false, _, None) => {}
            (true, _, found) => targeted.push((full_name, module, found.unwrap_or_default())),
        }
    }
    let names: Vec<&str> = targeted.iter().map(|(full_name, ..)| full_name.as_str()).collect();
    let strengths = config.strengths(&names)?;
    let mut plans = vec![];
    for ((name, module, parts), strength) in targeted.iter().zip(strengths) {
        let (in_width, out_width) = match module {
            Module::Site(site) | Module::Output(site) => (site.in_width, site.out_width),
            Module::Ignored(ignored) => (ignored.in_width, ignored.out_width),
            Module::Embedding(_) | Module::Tied(_) => continue,
        };
        let (use_dora, adapter) = (config.use_dora, naming.adapter.as_deref());
        let fit = Fit { file, strength, use_dora, name, in_width, out_width, adapter };
        let tensors = fit.check(parts.clone())?;
        if let Module::Site(site) | Module::Output(site) = module {
            plans.push(SitePlan { site: site.id, name: site.name.clone(), in_width, out_width, tensors });
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
        rank: plan.tensors.strength.rank,
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
    fn resolve(
        &mut self,
        entry: &TensorEntry,
        config: &LoraConfig,
    ) -> Result<(&'a str, TensorKind), AdapterError> {
        let (file, tensor) = (self.file.to_owned(), entry.name.clone());
        let unexpected = |expected| AdapterError::TensorUnexpected {
            file: file.clone(),
            tensor: tensor.clone(),
            expected,
        };
        let name = TensorName::parse(&entry.name).ok_or_else(|| {
            unexpected(
                "names such as base_model.model.MODULE.lora_A.weight, and no weights of the base model",
            )
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
