//! The names that PEFT gives to an adapter's tensors.

/// What stands before every name in an adapter's file.
pub(super) const NAME_PREFIX: &str = "base_model.model.";

/// What a tensor is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TensorKind {
    /// `A`.
    A,
    /// `B`.
    B,
    /// DoRA's magnitudes.
    Magnitude,
    /// The trained bias that replaces the base's.
    Bias,
    /// A bias of `B` itself (lora_bias).
    BiasOfB,
    /// LoRA on an embedding.
    Embedding,
}

/// A tensor's name, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TensorName<'a> {
    /// The module's name, with any prefix that a task head adds.
    pub(super) module: &'a str,
    pub(super) kind: TensorKind,
    /// The adapter's name in training, where the file still has it (`lora_A.default.weight`). A bias has no place
    /// for one.
    pub(super) adapter: Option<&'a str>,
}

impl<'a> TensorName<'a> {
    /// Takes `name` apart; `None` when it is not a name of PEFT's for LoRA.
    pub(super) fn parse(name: &'a str) -> Option<Self> {
        let rest = name.strip_prefix(NAME_PREFIX)?;
        let (module, kind, adapter) = match rest.find(".lora_") {
            Some(at) => {
                let tail: Vec<&str> = rest[at + 1..].split('.').collect();
                let (kind, adapter) = match tail[..] {
                    ["lora_A", "weight"] => (TensorKind::A, None),
                    ["lora_A", adapter, "weight"] => (TensorKind::A, Some(adapter)),
                    ["lora_B", "weight"] => (TensorKind::B, None),
                    ["lora_B", adapter, "weight"] => (TensorKind::B, Some(adapter)),
                    ["lora_B", "bias"] => (TensorKind::BiasOfB, None),
                    ["lora_B", adapter, "bias"] => (TensorKind::BiasOfB, Some(adapter)),
                    ["lora_magnitude_vector"] | ["lora_magnitude_vector", "weight"] => {
                        (TensorKind::Magnitude, None)
                    }
                    ["lora_magnitude_vector", adapter] | ["lora_magnitude_vector", adapter, "weight"] => {
                        (TensorKind::Magnitude, Some(adapter))
                    }
                    ["lora_embedding_A" | "lora_embedding_B", ..] => (TensorKind::Embedding, None),
                    _ => return None,
                };
                (&rest[..at], kind, adapter)
            }
            None => {
                let module = rest.strip_suffix(".bias")?;
                (module.strip_suffix(".base_layer").unwrap_or(module), TensorKind::Bias, None)
            }
        };
        (!module.is_empty()).then_some(Self { module, kind, adapter })
    }

    /// The name of a tensor that is missing, written as its siblings are.
    pub(super) fn write(module: &str, kind: TensorKind, adapter: Option<&str>) -> String {
        let infix = adapter.map(|name| format!(".{name}")).unwrap_or_default();
        match kind {
            TensorKind::A => format!("{NAME_PREFIX}{module}.lora_A{infix}.weight"),
            TensorKind::B => format!("{NAME_PREFIX}{module}.lora_B{infix}.weight"),
            TensorKind::Magnitude => format!("{NAME_PREFIX}{module}.lora_magnitude_vector{infix}"),
            TensorKind::Bias => format!("{NAME_PREFIX}{module}.base_layer.bias"),
            TensorKind::BiasOfB => format!("{NAME_PREFIX}{module}.lora_B{infix}.bias"),
            TensorKind::Embedding => format!("{NAME_PREFIX}{module}.lora_embedding_A{infix}"),
        }
    }
}

impl TensorKind {
    /// The kind's name in digests.
    pub(super) fn digest_name(self) -> &'static str {
        match self {
            TensorKind::A => "lora_A",
            TensorKind::B => "lora_B",
            TensorKind::Magnitude => "magnitude",
            TensorKind::Bias => "bias",
            TensorKind::BiasOfB => "lora_B.bias",
            TensorKind::Embedding => "lora_embedding",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_peft_versions_are_taken_apart() {
        let parse = |tail: &str| {
            TensorName::parse(&format!("base_model.model.m.q{tail}"))
                .map(|n| (n.kind, n.adapter.map(String::from)))
        };
        for (tail, kind) in [
            (".lora_A.weight", TensorKind::A),
            (".lora_B.weight", TensorKind::B),
            (".lora_magnitude_vector", TensorKind::Magnitude),
            (".lora_magnitude_vector.weight", TensorKind::Magnitude),
            (".base_layer.bias", TensorKind::Bias),
            (".bias", TensorKind::Bias),
            (".lora_B.bias", TensorKind::BiasOfB),
            (".lora_embedding_A", TensorKind::Embedding),
        ] {
            assert_eq!(parse(tail), Some((kind, None)), "{tail}");
        }
        for tail in [
            ".lora_A.x.weight",
            ".lora_B.x.weight",
            ".lora_magnitude_vector.x.weight",
            ".lora_magnitude_vector.x",
        ] {
            assert_eq!(parse(tail).unwrap().1.as_deref(), Some("x"), "{tail}");
        }
        for tail in
            ["", ".weight", ".lora_A", ".lora_A.a.b.weight", ".lora_C.weight", ".lora_A.bias", ".lora_"]
        {
            assert_eq!(parse(tail), None, "{tail}");
        }
        for name in
            ["m.q.lora_A.weight", "base_model.model.lora_A.weight", "base_model.model..lora_A.weight", ""]
        {
            assert_eq!(TensorName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_written_name_parses_to_what_it_was_written_from() {
        for kind in [TensorKind::A, TensorKind::B, TensorKind::Magnitude, TensorKind::BiasOfB] {
            for adapter in [None, Some("default")] {
                let name = TensorName::write("m.q", kind, adapter);
                assert_eq!(TensorName::parse(&name), Some(TensorName { module: "m.q", kind, adapter }));
            }
        }
    }
}
