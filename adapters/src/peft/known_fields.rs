//! The fields of adapter_config.json that PEFT's LoRA writes, and what becomes of each here.
//!
//! A configuration may ask for things that change what the adapter computes. Whatever is neither computed nor known to
//! be without effect is refused by name: a wrong embedding would look like any other.

/// The newest PEFT version whose fields are all known.
pub(super) const KNOWN_PEFT: &str = "0.21.2";

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Its value is read and obeyed.
    Read,
    /// It has no effect on what a saved adapter computes.
    WithoutEffect,
    /// Refused when it is set, with a reason.
    Refused(&'static str),
}

/// The rule for `field`; `None` when no known version writes it.
pub(super) fn rule(field: &str) -> Option<Rule> {
    use Rule::{Read, Refused, WithoutEffect};
    Some(match field {
        "peft_type"
        | "r"
        | "lora_alpha"
        | "target_modules"
        | "exclude_modules"
        | "layers_to_transform"
        | "layers_pattern"
        | "rank_pattern"
        | "alpha_pattern"
        | "use_rslora"
        | "use_dora"
        | "bias"
        | "init_lora_weights"
        | "base_model_name_or_path" => Read,

        // Training, origin and ways of computing the same.
        "lora_dropout" | "task_type" | "auto_mapping" | "revision" | "inference_mode" | "peft_version"
        | "runtime_config" | "megatron_config" | "megatron_core" | "merge_weights" => WithoutEffect,
        // How the weights were initialised: judged by init_lora_weights alone, as PEFT does.
        "loftq_config" | "eva_config" | "corda_config" | "lora_ga_config" => WithoutEffect,
        // Only with use_qalora, and only for tied embeddings: both refused themselves.
        "qalora_group_size" | "ensure_weight_tying" => WithoutEffect,

        "modules_to_save" => {
            Refused("whole modules saved beside the adapter would replace the base model's; train without it")
        }
        "lora_bias" => Refused("a bias of B is not computed; train without it"),
        "fan_in_fan_out" => Refused("weights stored as (in, out) are not read"),
        "target_parameters" => Refused("only modules are adapted, not single parameters"),
        "trainable_token_indices" => Refused("trained token embeddings would replace the base model's"),
        "layer_replication" => Refused("the base model's layers are not repeated"),
        "alora_invocation_tokens" | "alora_invocation_string" => {
            Refused("an adapter acts on all tokens, not only on those after an invocation (aLoRA)")
        }
        "use_qalora" => Refused("inputs are not pooled in groups (QALoRA)"),
        "use_bdlora" => Refused("block-diagonal factors (BD-LoRA) are not computed"),
        "arrow_config" => Refused("routing among adapters (Arrow) is not computed"),
        "kasa_config" => Refused("KaSA changes the base weights and adds a diagonal between A and B"),
        "velora_config" => Refused("VeLoRA is not supported"),
        "monteclora_config" => Refused("MonteCLoRA is not supported"),
        "enable_lora" => Refused("LoRA on parts of a merged projection is not computed"),
        _ => return None,
    })
}

/// The initialisations that leave the base model's weights as they are, in lower case.
pub(super) const INITS_THAT_KEEP_THE_BASE: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// Why any other initialisation is refused.
pub(super) const INIT_REASON: &str = "an initialisation other than true, false, \"gaussian\", \"eva\", \"orthogonal\" and \
     \"mica\" changes the base model's weights (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) or is not known; convert the adapter \
     with save_pretrained(folder, path_initial_model_for_weight_conversion=...)";
