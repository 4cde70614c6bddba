//! The fleet of adapters that the settings ask for.

use std::num::NonZeroUsize;

use polylora_adapters::{Base, Fleet, FleetOptions, FleetParts, RefusedFolder, Roots};

use crate::assemble::{AssembleError, NamedAdapter};
use crate::settings::Settings;

/// Opens the registry and takes in the adapters of the settings' folders, or the one that a command names.
///
/// # Errors
/// [`AssembleError`]; with `settings.strict_adapters`, or one adapter, also for adapters that are refused.
pub(crate) fn open_fleet(
    settings: &Settings,
    extra: &[NamedAdapter],
    bases: Vec<Base>,
    counts_packed: bool,
) -> Result<Fleet, AssembleError> {
    let single = match extra {
        [NamedAdapter { name, path }] => Some((name, path)),
        _ => None,
    };
    let step = || match (single, &settings.adapters_dir) {
        (Some((_, path)), _) => format!("checking the adapter {}", path.display()),
        (None, Some(folder)) => format!("checking the adapters in {}", folder.display()),
        (None, None) => "opening the registry of adapters".to_owned(),
    };
    let roots = match single {
        Some((name, path)) => Roots::single(name, path).map_err(AssembleError::at(step()))?,
        None => Roots::new(settings.adapters_dir.as_deref(), settings.lora_resolver.as_deref())
            .map_err(AssembleError::at(step()))?,
    };
    let whole = NonZeroUsize::get;
    let defaults = FleetOptions::new(settings.host_cache_bytes.0);
    let options = FleetOptions {
        counts_packed,
        most_in_host_cache: settings.max_cpu_loras.map(whole),
        max_rank: settings.max_lora_rank.map_or(defaults.max_rank, whole),
        ..defaults
    };
    let state_dir = settings.state_dir.0.as_deref().filter(|_| single.is_none());
    let parts = FleetParts { bases, state_dir, roots };
    let fleet = Fleet::open(parts, options).map_err(AssembleError::at(step()))?;
    if state_dir.is_none() && !settings.admin_api_key.is_empty() {
        tracing::warn!("what is registered ends with the process: --state-dir DIR keeps it");
    }
    let refused = fleet.refused();
    if (settings.strict_adapters || single.is_some()) && !refused.is_empty() {
        return Err(AssembleError::at(step())(all_refused(&refused)));
    }
    Ok(fleet)
}

/// How many are refused and why: one by its own words, several as a list.
fn all_refused(refused: &[RefusedFolder]) -> String {
    match refused {
        [one] => format!("1 adapter is refused: {one}"),
        several => {
            let lines: String = several.iter().map(|folder| format!("\n  {folder}")).collect();
            format!("{} adapters are refused:{lines}", several.len())
        }
    }
}
