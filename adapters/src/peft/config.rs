//! adapter_config.json as PEFT's LoraConfig means it (PEFT 0.21, `peft.LoraConfig`).

use std::path::{Path, PathBuf};

use super::{
    fields::Fields,
    json::Json,
    known_fields::{INIT_REASON, INITS_THAT_KEEP_THE_BASE, KNOWN_PEFT, Rule, rule},
    pattern_map::PatternMap,
    patterns::Pattern,
    targets::{Choice, Layers, Targets},
};
use crate::AdapterError;

/// Highest rank of a site. Nothing real comes near: at such a rank a full fine-tune is smaller.
pub const MAX_RANK: usize = 4096;
/// Most entries of layers_to_transform.
const MAX_LAYERS: usize = 8192;
/// Most entries of layers_pattern.
const MAX_LAYER_PATTERNS: usize = 16;
/// PEFT's default of both `r` and `lora_alpha`.
const DEFAULT_RANK: usize = 8;
const DEFAULT_ALPHA: f64 = 8.0;

/// What of a configuration has an effect.
#[derive(Clone, Debug)]
pub(super) struct LoraConfig {
    file: PathBuf,
    /// The base model's name in training: for people.
    pub(super) base_model: Option<String>,
    /// What it was trained for, as far as it can be shown: for people.
    pub(super) task_type: Option<String>,
    pub(super) targets: Targets,
    /// target_modules as the file has it, for errors.
    pub(super) targets_shown: String,
    /// Whether DoRA's magnitudes belong to it.
    pub(super) use_dora: bool,
    /// Whether the biases of targeted modules belong to it.
    pub(super) trains_bias: bool,
    use_rslora: bool,
    rank: usize,
    /// Of the modules that no alpha_pattern names.
    pub(super) alpha: f64,
    rank_pattern: PatternMap<usize>,
    alpha_pattern: PatternMap<f64>,
}

/// How strongly one module is adapted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Strength {
    pub(super) rank: usize,
    /// alpha/r, or alpha/sqrt(r) with rsLoRA.
    pub(super) scale: f32,
}

impl LoraConfig {
    /// Reads the configuration that `bytes` of `file` hold, and refuses whatever would be computed otherwise here.
    pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Self, AdapterError> {
        let fields = Fields::parse(file, bytes)?;
        peft_type_is_lora(file, &fields)?;
        every_field_is_known(file, &fields)?;
        init_keeps_the_base(&fields)?;
        let targets_shown = fields.required("target_modules", TARGETS_EXPECTED)?.to_string();
        let rank = fields.get("r").map(|r| fields.rank("r", r, MAX_RANK)).transpose()?;
        let alpha = fields.get("lora_alpha").map(|a| fields.number("lora_alpha", a)).transpose()?;
        let rank_of = |field: &str, value: &Json| fields.rank(field, value, MAX_RANK);
        let alpha_of = |field: &str, value: &Json| fields.number(field, value);
        Ok(Self {
            file: file.to_owned(),
            base_model: fields.text("base_model_name_or_path")?.map(str::to_owned),
            task_type: task_type(&fields),
            targets: targets(file, &fields)?,
            targets_shown,
            use_dora: fields.switch("use_dora")?,
            trains_bias: trains_bias(&fields)?,
            use_rslora: fields.switch("use_rslora")?,
            rank: rank.unwrap_or(DEFAULT_RANK),
            alpha: alpha.unwrap_or(DEFAULT_ALPHA),
            rank_pattern: PatternMap::parse(file, &fields, "rank_pattern", rank_of)?,
            alpha_pattern: PatternMap::parse(file, &fields, "alpha_pattern", alpha_of)?,
        })
    }

    /// Rank and effective scale of the modules called `names` (with any prefix that a task head adds).
    pub(super) fn strengths(&self, names: &[&str]) -> Result<Vec<Strength>, AdapterError> {
        let (ranks, alphas) = (self.rank_pattern.values_for(names)?, self.alpha_pattern.values_for(names)?);
        let strengths = names.iter().zip(ranks.into_iter().zip(alphas)).map(|(name, (rank, alpha))| {
            let (rank, alpha) = (rank.unwrap_or(self.rank), alpha.unwrap_or(self.alpha));
            let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
            let scale = (alpha / divisor) as f32;
            if !scale.is_finite() {
                let (file, module) = (self.file.clone(), (*name).to_owned());
                return Err(AdapterError::ScaleNotFinite { file, module, alpha, rank, found: scale });
            }
            Ok(Strength { rank, scale })
        });
        strengths.collect()
    }
}

/// It has no effect, so a value that is no string is no defect.
fn task_type(fields: &Fields) -> Option<String> {
    match fields.get("task_type") {
        Some(Json::Text(text)) => Some(crate::error::excerpt(text)),
        _ => None,
    }
}

fn peft_type_is_lora(file: &Path, fields: &Fields) -> Result<(), AdapterError> {
    match fields.required("peft_type", "\"LORA\"")? {
        Json::Text(text) if text == "LORA" => Ok(()),
        other => Err(AdapterError::PeftTypeUnsupported { file: file.to_owned(), found: other.to_string() }),
    }
}

fn every_field_is_known(file: &Path, fields: &Fields) -> Result<(), AdapterError> {
    for (field, value) in fields.iter().filter(|(_, value)| value.is_set()) {
        match rule(field) {
            Some(Rule::Read | Rule::WithoutEffect) => {}
            Some(Rule::Refused(reason)) => return Err(fields.unsupported(field, value, reason)),
            None => {
                return Err(AdapterError::FieldUnknown {
                    file: file.to_owned(),
                    field: crate::error::excerpt(field),
                    found: value.to_string(),
                    known: KNOWN_PEFT,
                });
            }
        }
    }
    Ok(())
}

fn init_keeps_the_base(fields: &Fields) -> Result<(), AdapterError> {
    match fields.get("init_lora_weights") {
        None | Some(Json::Bool(_)) => Ok(()),
        Some(Json::Text(init)) if INITS_THAT_KEEP_THE_BASE.contains(&init.to_lowercase().as_str()) => Ok(()),
        Some(other) => Err(fields.unsupported("init_lora_weights", other, INIT_REASON)),
    }
}

fn trains_bias(fields: &Fields) -> Result<bool, AdapterError> {
    match fields.get("bias") {
        None => Ok(false),
        Some(Json::Text(text)) if text == "none" => Ok(false),
        Some(Json::Text(text)) if text == "lora_only" => Ok(true),
        Some(all @ Json::Text(text)) if text == "all" => Err(fields.unsupported(
            "bias",
            all,
            "biases of modules without LoRA are not replaced; use \"lora_only\"",
        )),
        Some(other) => Err(fields.invalid("bias", other, "\"none\" or \"lora_only\"")),
    }
}

const TARGETS_EXPECTED: &str = "a list of module names, a regular expression or \"all-linear\"";

fn targets(file: &Path, fields: &Fields) -> Result<Targets, AdapterError> {
    let layers = layers(file, fields)?;
    let chosen = match fields.required("target_modules", TARGETS_EXPECTED)? {
        Json::Text(text) => {
            if let Some(field) =
                ["layers_to_transform", "layers_pattern"].into_iter().find(|f| fields.get(f).is_some())
            {
                let found = fields.required(field, "")?;
                return Err(fields.invalid(field, found, "null, because target_modules is a string"));
            }
            match text.eq_ignore_ascii_case("all-linear") {
                true => Choice::AllLinear,
                false => Choice::Pattern(Pattern::whole(file, "target_modules", text)?),
            }
        }
        list => Choice::Names(
            fields.texts("target_modules", list, TARGETS_EXPECTED)?.into_iter().collect(),
            layers,
        ),
    };
    let excluded = match fields.get("exclude_modules").filter(|v| v.is_set()) {
        None => None,
        Some(Json::Text(text)) => Some(Choice::Pattern(Pattern::whole(file, "exclude_modules", text)?)),
        Some(list) => {
            let names =
                fields.texts("exclude_modules", list, "a list of module names or a regular expression")?;
            Some(Choice::Names(names.into_iter().collect(), None))
        }
    };
    Ok(Targets { file: file.to_owned(), chosen, excluded })
}

/// The layers that are wanted; `None` for all. An empty list means all, as it does to PEFT.
fn layers(file: &Path, fields: &Fields) -> Result<Option<Layers>, AdapterError> {
    const EXPECTED: &str = "a layer number or a list of them";
    let wanted = fields.get("layers_to_transform");
    let texts = match fields.get("layers_pattern").filter(|v| v.is_set()) {
        None => vec![],
        Some(found) if wanted.is_none() => {
            return Err(fields.invalid("layers_pattern", found, "layers_to_transform beside it"));
        }
        Some(Json::Text(text)) => vec![text.clone()],
        Some(list) => fields.texts("layers_pattern", list, "a module name or a list of them")?,
    };
    let Some(wanted) = wanted else { return Ok(None) };
    let numbers = match wanted {
        Json::List(list) if list.is_empty() => return Ok(None),
        Json::List(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    bounded(fields, "layers_to_transform", wanted, (numbers.len(), MAX_LAYERS))?;
    let numbers = numbers.iter().map(|number| match number {
        Json::Integer(number) => {
            u64::try_from(*number).map_err(|_| fields.invalid("layers_to_transform", wanted, EXPECTED))
        }
        _ => Err(fields.invalid("layers_to_transform", wanted, EXPECTED)),
    });
    let indices = numbers.collect::<Result<_, _>>()?;
    let patterns = match texts.is_empty() {
        true => vec![Pattern::layer(file, "layers_pattern", None)?],
        false => {
            let found = fields.get("layers_pattern").unwrap_or(&Json::Null);
            bounded(fields, "layers_pattern", found, (texts.len(), MAX_LAYER_PATTERNS))?;
            texts.iter().map(|t| Pattern::layer(file, "layers_pattern", Some(t))).collect::<Result<_, _>>()?
        }
    };
    Ok(Some(Layers { indices, patterns }))
}

fn bounded(
    fields: &Fields,
    field: &str,
    found: &Json,
    (len, max): (usize, usize),
) -> Result<(), AdapterError> {
    if len <= max {
        return Ok(());
    }
    Err(fields.invalid(field, found, format!("at most {max} entries")))
}
