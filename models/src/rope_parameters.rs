//! What config.json says of rotary position embeddings: the form of the Hub (`rope_theta`, `rope_scaling`) and that of
//! transformers 5 (`rope_parameters`).

use crate::ModelError;
use crate::config_fields::ConfigFields;

/// The base of the frequencies where no field says another.
const DEFAULT_THETA: f64 = 10_000.0;

/// Frequencies of rotary position embeddings (RoPE, arXiv 2104.09864).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeParameters {
    /// Base of the geometric sequence of wavelengths.
    pub theta: f64,
    /// How the frequencies are changed for longer contexts than those of pre-training.
    pub scaling: RopeScaling,
}

/// How the frequencies are changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All divided by a factor (position interpolation, arXiv 2306.15595).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The slow ones divided by a factor, as Llama 3.1 does (arXiv 2407.21783).
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Wavelengths above `original_positions` by this are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_positions` by this stay.
        high_freq_factor: f64,
        /// Positions of pre-training.
        original_positions: usize,
    },
    /// Slow ones divided, fast ones kept, a ramp between them (YaRN, arXiv 2309.00071).
    Yarn {
        /// The divisor.
        factor: f64,
        /// Positions of pre-training.
        original_positions: usize,
        /// Factor on cosines and sines.
        attention_factor: f64,
        /// Rotations over the original positions above which a frequency stays.
        beta_fast: f64,
        /// Rotations below which it is divided.
        beta_slow: f64,
        /// Whether the ends of the ramp are whole dimensions.
        truncate: bool,
    },
}

impl RopeParameters {
    /// Reads the fields of a config whose position table has `positions` rows.
    pub(crate) fn read(config: &ConfigFields, positions: usize) -> Result<Self, ModelError> {
        let name = if config.get("rope_scaling").is_some() { "rope_scaling" } else { "rope_parameters" };
        let theta_range = 1.0 + f64::EPSILON..=1e15;
        let theta = config.number("rope_theta", theta_range.clone())?.unwrap_or(DEFAULT_THETA);
        only_whole_heads(config)?;
        let Some(fields) = config.object(name)? else {
            return Ok(Self { theta, scaling: RopeScaling::Default });
        };
        only_whole_heads(&fields)?;
        for layer_type in ["full_attention", "sliding_attention"] {
            if fields.has(layer_type) {
                return fields.refuse(layer_type, "one set of parameters for all layers");
            }
        }
        let theta = fields.number("rope_theta", theta_range)?.unwrap_or(theta);
        Ok(Self { theta, scaling: scaling(config, &fields, positions)? })
    }

    /// Positions that the frequencies are made for, of a config that names `positions`.
    ///
    /// As vLLM has it: config.json of YaRN and of linear interpolation may still name the positions of pre-training.
    pub fn positions(&self, positions: usize) -> usize {
        let times = |original: usize, factor: f64| (original as f64 * factor) as usize;
        match self.scaling {
            RopeScaling::Default | RopeScaling::Llama3 { .. } => positions,
            RopeScaling::Linear { factor } => times(positions, factor),
            RopeScaling::Yarn { factor, original_positions, .. } => {
                positions.max(times(original_positions, factor))
            }
        }
    }
}

fn only_whole_heads(fields: &ConfigFields) -> Result<(), ModelError> {
    match fields.number("partial_rotary_factor", 0.0..=1.0)? {
        None | Some(1.0) => Ok(()),
        Some(_) => fields.refuse("partial_rotary_factor", "1 (the whole head is rotated)"),
    }
}

fn scaling(
    config: &ConfigFields,
    fields: &ConfigFields,
    positions: usize,
) -> Result<RopeScaling, ModelError> {
    let factors = 1.0..=1e6;
    // Older files call it `type`.
    let key = if fields.get("rope_type").is_some() { "rope_type" } else { "type" };
    let original_positions = || {
        // Beside the parameters it wins, as in transformers.
        let range = 1..=1 << 24;
        let outer = config.size("original_max_position_embeddings", range.clone())?;
        let inner = fields.size("original_max_position_embeddings", range)?;
        Ok(outer.or(inner).unwrap_or(positions))
    };
    match fields.text(key)? {
        None | Some("default") => Ok(RopeScaling::Default),
        Some("linear") => Ok(RopeScaling::Linear { factor: fields.needed_number("factor", factors)? }),
        Some("llama3") => {
            let low_freq_factor = fields.needed_number("low_freq_factor", 1e-3..=1e6)?;
            let high_freq_factor = fields.needed_number("high_freq_factor", 1e-3..=1e6)?;
            if high_freq_factor <= low_freq_factor {
                return fields
                    .refuse("high_freq_factor", &format!("above low_freq_factor {low_freq_factor}"));
            }
            let factor = fields.needed_number("factor", factors)?;
            let original_positions = original_positions()?;
            Ok(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions })
        }
        Some("yarn") => {
            let original_positions = original_positions()?;
            let factor = fields.number("factor", factors)?;
            let factor = factor.unwrap_or(positions as f64 / original_positions as f64);
            let beta = |name| fields.number(name, 0.0..=1e6).map(|beta| beta.filter(|beta| *beta != 0.0));
            Ok(RopeScaling::Yarn {
                factor,
                original_positions,
                attention_factor: attention_factor(fields, factor)?,
                beta_fast: beta("beta_fast")?.unwrap_or(32.0),
                beta_slow: beta("beta_slow")?.unwrap_or(1.0),
                truncate: fields.flag("truncate")?.unwrap_or(true),
            })
        }
        Some(_) => fields.refuse(key, "`default`, `linear`, `llama3`, `yarn`"),
    }
}

/// YaRN's factor on cosines and sines: stated, or from the factor, in DeepSeek's form where both `mscale` are given.
fn attention_factor(fields: &ConfigFields, factor: f64) -> Result<f64, ModelError> {
    let scale = |name| fields.number(name, 0.0..=1e6).map(|scale| scale.filter(|scale| *scale != 0.0));
    let (stated, mscale, mscale_all_dim) =
        (fields.number("attention_factor", 1e-3..=1e3)?, scale("mscale")?, scale("mscale_all_dim")?);
    let grown = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    Ok(match (stated, mscale, mscale_all_dim) {
        (Some(stated), ..) => stated,
        (None, Some(mscale), Some(all)) => grown(mscale) / grown(all),
        _ => grown(1.0),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(config: Value) -> Result<RopeParameters, ModelError> {
        RopeParameters::read(&ConfigFields::of("config.json", config), 128)
    }

    #[test]
    fn both_styles_of_the_file_mean_the_same() {
        let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4,
                            "original_max_position_embeddings": 32});
        let hub = read(json!({"rope_theta": 500000.0, "rope_scaling": llama3})).expect("reads");
        let mut v5 = llama3.clone();
        v5["rope_theta"] = json!(500000.0);
        assert_eq!(hub, read(json!({"rope_parameters": v5})).expect("reads"));
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_positions: 32,
        };
        assert_eq!(hub, RopeParameters { theta: 5e5, scaling });
        let plain = RopeParameters { theta: 1e4, scaling: RopeScaling::Default };
        for same in
            [json!({}), json!({"rope_scaling": null}), json!({"rope_parameters": {"rope_type": "default"}})]
        {
            assert_eq!(read(same).expect("reads"), plain);
        }
    }

    #[test]
    fn yarns_attention_factor_is_stated_or_grows_with_the_logarithm_of_the_factor() {
        let factor = |more: Value| {
            let mut scaling = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
            scaling.as_object_mut().expect("fields").extend(more.as_object().expect("fields").clone());
            match read(json!({"rope_scaling": scaling})).expect("reads").scaling {
                RopeScaling::Yarn { attention_factor, .. } => attention_factor,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(factor(json!({})), 0.1 * 4f64.ln() + 1.0);
        assert_eq!(factor(json!({"attention_factor": 0.5, "mscale": 1, "mscale_all_dim": 2})), 0.5);
        let both = factor(json!({"mscale": 2.0, "mscale_all_dim": 1.0}));
        assert_eq!(both, (0.2 * 4f64.ln() + 1.0) / (0.1 * 4f64.ln() + 1.0));
        assert_eq!(factor(json!({"mscale": 2.0})), factor(json!({})));
    }

    #[test]
    fn a_file_that_names_the_positions_of_pre_training_gets_those_that_yarn_reaches() {
        let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
        assert_eq!(read(json!({"rope_scaling": yarn})).expect("reads").positions(32), 128);
        assert_eq!(read(json!({"rope_scaling": yarn})).expect("reads").positions(200), 200);
        let linear = json!({"type": "linear", "factor": 2});
        assert_eq!(read(json!({"rope_scaling": linear})).expect("reads").positions(32), 64);
    }

    #[test]
    fn what_is_not_served_is_refused_by_its_own_name() {
        for (config, words) in [
            (json!({"rope_scaling": {"type": "longrope"}}), ["`rope_scaling.type`", "`longrope`"]),
            (
                json!({"rope_parameters": {"rope_type": "dynamic"}}),
                ["`rope_parameters.rope_type`", "`dynamic`"],
            ),
            (json!({"rope_scaling": {"type": "linear"}}), ["`rope_scaling.factor`", "missing"]),
            (json!({"rope_scaling": {"type": "linear", "factor": 0}}), ["`rope_scaling.factor`", "0"]),
            (json!({"rope_scaling": [1]}), ["`rope_scaling`", "[1]"]),
            (json!({"rope_theta": 0}), ["`rope_theta`", "0"]),
            (json!({"partial_rotary_factor": 0.5}), ["`partial_rotary_factor`", "0.5"]),
            (json!({"rope_parameters": {"full_attention": {}}}), ["`rope_parameters.full_attention`", "{}"]),
            (
                json!({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}}),
                ["`rope_scaling.high_freq_factor`", "above"],
            ),
        ] {
            let message = read(config).expect_err("refused").to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    }
}
