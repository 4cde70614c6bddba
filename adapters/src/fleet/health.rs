//! Whether a version could answer, and answers as it did when it was registered.

use std::sync::Arc;

use polylora_registry::{Change, Phase, Source, Version, VersionId};

use super::{Fleet, FleetError, Ticket};

/// Least cosine between the probe text's embedding now and at registration.
const LEAST_COSINE: f64 = 0.999;

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What, in a word.
    pub name: &'static str,
    /// Whether it is well; `None` when it was not or could not be checked.
    pub is_ok: Option<bool>,
    /// What was found.
    pub detail: String,
}

/// A version's health.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthReport {
    /// Who.
    pub version: Arc<Version>,
    /// All that was checked.
    pub checks: Vec<HealthCheck>,
}

impl HealthReport {
    /// Whether nothing that was checked is ill.
    pub fn is_healthy(&self) -> bool {
        self.checks.iter().all(|check| check.is_ok != Some(false))
    }
}

impl Fleet {
    /// Checks a version without computing with it: its base, its files, its values, its effect. Reads files; blocks.
    pub fn check(&self, version: &Arc<Version>) -> HealthReport {
        let check = |name, is_ok, detail: String| HealthCheck { name, is_ok, detail };
        let base = self.bases.of(&version.base.digest).is_some();
        let mut checks = vec![check("base", Some(base), format!("registered for {}", version.base.name))];
        let files = match &version.source {
            Source::Virtual { parts } => check("files", None, format!("made of {} others", parts.len())),
            Source::Folder { path, stamp } => match self.stamp(path) {
                Some(now) if now == *stamp => {
                    check("files", Some(true), format!("{}, unchanged", path.display()))
                }
                Some(_) => check(
                    "files",
                    Some(false),
                    format!("{}: changed since it was registered", path.display()),
                ),
                None => check("files", Some(false), format!("{}: gone", path.display())),
            },
        };
        checks.push(files);
        let loads = match version.phase {
            Phase::Retired => check("values", None, "retired".to_owned()),
            Phase::Registered | Phase::Errored { .. } => match self.load(&Ticket::Version(version.id)) {
                Ok(_) => {
                    let content = &version.content;
                    let detail =
                        format!("finite, {} sites of ranks {:?} matched", content.sites, content.ranks);
                    check("values", Some(true), detail)
                }
                Err(error) => check("values", Some(false), error.to_string()),
            },
        };
        checks.push(loads);
        let effect = version.content.has_effect;
        let detail = if effect { "changes results" } else { "changes nothing: it answers as the base does" };
        checks.push(check("effect", Some(effect), detail.to_owned()));
        HealthReport { version: Arc::clone(version), checks }
    }

    /// Compares an embedding of the probe text with the one that was recorded; records it when there is none.
    ///
    /// # Errors
    /// [`FleetError`] when it cannot be stored.
    pub fn check_probe(&self, id: VersionId, probe: &[f32]) -> Result<HealthCheck, FleetError> {
        let recorded = self.version_by_id(id).and_then(|version| version.probe.clone());
        let (is_ok, detail) = match recorded {
            Some(recorded) => {
                let cosine = cosine(&recorded, probe);
                (
                    Some(cosine >= LEAST_COSINE),
                    format!("cosine {cosine:.6} with the embedding at registration"),
                )
            }
            None => {
                self.change(Change::Probe { id, probe: probe.to_vec() })?;
                (Some(true), "recorded".to_owned())
            }
        };
        Ok(HealthCheck { name: "probe", is_ok, detail })
    }

    /// The versions that answer, or are tried, and could not, with the reason: whoever asks for them would get an error. Looks
    /// at no file's content, so that a thousand of them are no work.
    pub fn unservable(&self) -> Vec<(Arc<Version>, String)> {
        let registry = self.store.read();
        let in_service = registry
            .names()
            .flat_map(|(_, alias)| alias.active.into_iter().chain(alias.split.map(|split| split.candidate)))
            .filter_map(|id| registry.version(id));
        in_service
            .filter_map(|version| Some((Arc::clone(version), self.fault_at_a_glance(version)?)))
            .collect()
    }

    fn fault_at_a_glance(&self, version: &Version) -> Option<String> {
        if self.bases.of(&version.base.digest).is_none() {
            return Some(format!("it is registered for the base model {}", version.base.name));
        }
        match (&version.phase, &version.source) {
            (Phase::Errored { reason }, _) => Some(reason.clone()),
            (_, Source::Folder { path, .. }) if self.stamp(path).is_none() => {
                Some(format!("{}: its files are gone", path.display()))
            }
            _ => None,
        }
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return 0.0;
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}
