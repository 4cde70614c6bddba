//! PEFT adapters with random weights, made in a temporary folder and loaded through the PEFT loader.

use std::fs;
use std::path::Path;

use polylora_adapters::{CONFIG_FILE, LoadedAdapter, WEIGHTS_FILE};
use polylora_models::EmbeddingModel;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use crate::{BenchError, EncoderSize, Random, Targets, load_adapter};

/// Largest weight: small enough that the embeddings stay sound, and no adapter is without effect.
const LARGEST: f32 = 0.02;
/// Ends of [`rank_ladder`].
const LOWEST_RANK: usize = 4;
const HIGHEST_RANK: usize = 64;

/// An adapter on `targets` for each of `ranks`, each with weights of its own.
///
/// # Errors
/// When a temporary folder cannot be written.
pub fn random_adapters(
    model: &EmbeddingModel,
    size: EncoderSize,
    targets: Targets,
    ranks: &[usize],
) -> Result<Vec<LoadedAdapter>, BenchError> {
    let make = |(number, rank): (usize, &usize)| {
        let folder = tempfile::tempdir()?;
        write(folder.path(), size, targets, *rank, Random::new(number as u64))?;
        load_adapter(folder.path(), model)
    };
    ranks.par_iter().enumerate().map(make).collect()
}

/// Writes such adapters as folders within `folder`, as a server finds them; their names.
///
/// # Errors
/// When they cannot be written.
pub fn write_random_adapters(
    folder: &Path,
    size: EncoderSize,
    targets: Targets,
    ranks: &[usize],
) -> Result<Vec<String>, BenchError> {
    let make = |(number, rank): (usize, &usize)| {
        let name = format!("adapter-{number}");
        let own = folder.join(&name);
        fs::create_dir(&own)?;
        write(&own, size, targets, *rank, Random::new(number as u64))?;
        Ok(name)
    };
    ranks.par_iter().enumerate().map(make).collect()
}

/// `count` ranks from 4 to 64 at equal steps: of 13 adapters every one is 5 above the one before.
pub fn rank_ladder(count: usize) -> Vec<usize> {
    let steps = count.saturating_sub(1).max(1);
    (0..count).map(|rung| LOWEST_RANK + rung * (HIGHEST_RANK - LOWEST_RANK) / steps).collect()
}

fn write(
    folder: &Path,
    size: EncoderSize,
    targets: Targets,
    rank: usize,
    random: Random,
) -> Result<(), BenchError> {
    let modules = targets.modules(size);
    let layers = 0..size.layers;
    let sites = layers.flat_map(|layer| {
        let name = move |module: &str| format!("encoder.layer.{layer}.{module}");
        modules.iter().map(move |(module, in_width, out_width)| (name(module), [*in_width, *out_width]))
    });
    let names: Vec<&str> = modules.iter().map(|(module, ..)| *module).collect();
    write_peft(folder, sites, (&names, None), (rank, random))
}

/// Writes an adapter of `rank` on modules of a model, each with its name and the widths of its input and output; `targets` are
/// what `target_modules` says of them, `task` is `task_type`.
pub(crate) fn write_peft(
    folder: &Path,
    modules: impl IntoIterator<Item = (String, [usize; 2])>,
    (targets, task): (&[&str], Option<&str>),
    (rank, mut random): (usize, Random),
) -> Result<(), BenchError> {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = vec![];
    for (module, [in_width, out_width]) in modules {
        for (part, shape) in [("lora_A", [rank, in_width]), ("lora_B", [out_width, rank])] {
            let name = format!("base_model.model.{module}.{part}.weight");
            let values = (0..shape[0] * shape[1]).flat_map(|_| random.symmetric(LARGEST).to_le_bytes());
            tensors.push((name, shape.to_vec(), values.collect()));
        }
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
    let views: Vec<_> = views.collect::<Result<_, BenchError>>()?;
    fs::write(folder.join(WEIGHTS_FILE), safetensors::serialize(views, None)?)?;
    let config = json!({
        "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": targets, "task_type": task,
    });
    fs::write(folder.join(CONFIG_FILE), serde_json::to_vec(&config)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ladder_goes_from_4_to_64_without_a_rank_twice() {
        let thirteen = rank_ladder(13);
        assert_eq!((thirteen.len(), thirteen[0], thirteen[1], thirteen[12]), (13, 4, 9, 64));
        assert!(rank_ladder(2) == [4, 64] && rank_ladder(1) == [4] && rank_ladder(0).is_empty());
        assert!((2..=61).all(|count| rank_ladder(count).windows(2).all(|pair| pair[0] < pair[1])));
    }
}
