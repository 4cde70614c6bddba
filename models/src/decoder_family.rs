//! In what few facts the decoder families differ.

use crate::ModelError;
use crate::config_fields::ConfigFields;
use crate::{llama, mistral, qwen2, qwen3};

/// A family of decoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecoderFamily {
    /// Llama 2 and 3 and what follows their form: SmolLM2, TinyLlama, Yi.
    Llama,
    /// Mistral 7B.
    Mistral,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
}

/// The facts of a family. The file of a family holds them.
#[derive(Debug)]
pub(crate) struct FamilyFacts {
    /// `model_type` of config.json.
    pub(crate) model_type: &'static str,
    /// The class with the head, then the one without, in `architectures` of config.json.
    pub(crate) architectures: [&'static str; 2],
    /// Where config.json does not say `max_position_embeddings`.
    pub(crate) default_positions: usize,
    /// Where config.json does not say `head_dim`; without it, the width divided by the heads.
    pub(crate) default_head_width: Option<usize>,
    /// Which projections have biases.
    pub(crate) biases: FamilyBiases,
    /// Whether heads of queries and keys are normed before they are rotated.
    pub(crate) head_norms: bool,
    /// Which layers see a window only.
    pub(crate) windows: WindowRule,
}

/// Which projections of a family have biases.
#[derive(Debug)]
pub(crate) struct FamilyBiases {
    /// Queries, keys and values.
    pub(crate) qkv: BiasRule,
    /// Output of the attention.
    pub(crate) output: BiasRule,
    /// The feed-forward layer's.
    pub(crate) mlp: BiasRule,
}

/// Whether a projection has a bias.
#[derive(Debug)]
pub(crate) enum BiasRule {
    /// Never.
    Never,
    /// Always.
    Always,
    /// When this field of config.json is true.
    Field(&'static str),
}

/// Which layers see no further back than a window.
#[derive(Debug)]
pub(crate) enum WindowRule {
    /// None.
    Never,
    /// All, by `sliding_window` unless that is null; where it is absent, by so many positions.
    All(usize),
    /// With `use_sliding_window`, those that `layer_types` names, or all from `max_window_layers` on.
    ByLayer,
}

/// Longest window, and largest index of a layer that is asked about.
const MOST: usize = 1 << 24;

impl DecoderFamily {
    /// All families.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    pub(crate) fn facts(self) -> &'static FamilyFacts {
        match self {
            Self::Llama => &llama::FACTS,
            Self::Mistral => &mistral::FACTS,
            Self::Qwen2 => &qwen2::FACTS,
            Self::Qwen3 => &qwen3::FACTS,
        }
    }

    /// Its name in `model_type` of config.json.
    pub fn name(self) -> &'static str {
        self.facts().model_type
    }

    /// The family that config.json names by `model_type`, or else by `architectures`. A class with another head (for
    /// classification, say) is refused.
    pub(crate) fn of(config: &ConfigFields) -> Result<Self, ModelError> {
        let names: Vec<_> = Self::ALL.iter().map(|family| format!("`{}`", family.name())).collect();
        let classes = config.texts("architectures")?.unwrap_or_default();
        let of_class =
            |family: &Self| family.facts().architectures.iter().any(|class| classes.contains(class));
        let Some(named) = config.text("model_type")? else {
            let found = Self::ALL.into_iter().find(of_class);
            return found.ok_or_else(|| config.refusal("model_type", &names.join(", ")));
        };
        let Some(family) = Self::ALL.into_iter().find(|family| family.name() == named) else {
            return config.refuse("model_type", &names.join(", "));
        };
        if classes.is_empty() || of_class(&family) {
            return Ok(family);
        }
        let [with_head, without] = family.facts().architectures;
        config.refuse("architectures", &format!("`{with_head}` or `{without}`"))
    }
}

impl BiasRule {
    pub(crate) fn read(&self, config: &ConfigFields) -> Result<bool, ModelError> {
        match self {
            Self::Never => Ok(false),
            Self::Always => Ok(true),
            Self::Field(name) => Ok(config.flag(name)?.unwrap_or(false)),
        }
    }
}

impl WindowRule {
    /// The window of each of `layers` layers: how many positions a row sees, its own included.
    pub(crate) fn read(
        &self,
        config: &ConfigFields,
        layers: usize,
    ) -> Result<Vec<Option<usize>>, ModelError> {
        let everywhere = |window| Ok(vec![window; layers]);
        match self {
            Self::Never => everywhere(None),
            Self::All(default) => {
                let window = config.size("sliding_window", 1..=MOST)?;
                everywhere(if config.has("sliding_window") { window } else { Some(*default) })
            }
            Self::ByLayer => {
                let used = config.flag("use_sliding_window")?.unwrap_or(false);
                let window = if used { config.size("sliding_window", 1..=MOST)? } else { None };
                let from = config.size("max_window_layers", 0..=MOST)?.unwrap_or(28);
                match config.texts("layer_types")? {
                    None => Ok((0..layers).map(|layer| window.filter(|_| layer >= from)).collect()),
                    Some(types) => by_type(config, &types, layers, window),
                }
            }
        }
    }
}

fn by_type(
    config: &ConfigFields,
    types: &[&str],
    layers: usize,
    window: Option<usize>,
) -> Result<Vec<Option<usize>>, ModelError> {
    if types.len() != layers {
        return config.refuse("layer_types", &format!("one type for each of {layers} layers"));
    }
    let windows = types.iter().map(|kind| match *kind {
        "full_attention" => Ok(None),
        // Without a window, transformers' layer of that type sees everything.
        "sliding_attention" => Ok(window),
        _ => config.refuse("layer_types", "`full_attention` and `sliding_attention`"),
    });
    windows.collect()
}
