//! Every defect is refused with its own error, and the error names what was found and what was expected.

mod peft_files;

use std::{collections::BTreeSet, fs};

use peft_files::{MadeUpBase, bad, catalog, fixtures};
use polylora_adapters::{AdapterError, AdapterManifest, FileTrust};

/// Inspects a folder, then loads it.
fn refusal(name: &str) -> Option<(AdapterError, bool)> {
    let manifest = match AdapterManifest::inspect(&bad(name), FileTrust::WithinFolder, &catalog()) {
        Ok(manifest) => manifest,
        Err(e) => return Some((e, false)),
    };
    manifest.load(&MadeUpBase::new()).err().map(|e| (e, true))
}

/// Whether an error is of the kind that is expected.
type IsThatKind = fn(&AdapterError) -> bool;

/// Folder, kind of its error, facts that the message must have, whether only the numbers show it.
const TABLE: &[(&str, IsThatKind, &[&str], bool)] = &[
    (
        "wrong_hidden_size",
        |e| matches!(e, AdapterError::WidthMismatch { side: "in", found: 256, expected: 384, .. }),
        &["query.lora_A.weight", "[2, 256]", "384"],
        false,
    ),
    (
        "rank_mismatch",
        |e| matches!(e, AdapterError::RankMismatch { found: 2, expected: 8, .. }),
        &["query.lora_A.weight", "rank 2", "rank 8"],
        false,
    ),
    (
        "rank_mismatch_a_b",
        |e| matches!(e, AdapterError::RankMismatch { found: 3, expected: 2, .. }),
        &["layer.0.attention.self.query.lora_B.weight", "[384, 3]", "rank 2"],
        false,
    ),
    (
        "missing_tensor",
        |e| matches!(e, AdapterError::TensorMissing { .. }),
        &["\"base_model.model.encoder.layer.0.attention.self.query.lora_B.weight\"", "missing"],
        false,
    ),
    (
        "truncated",
        |e| matches!(e, AdapterError::OffsetsOutsideFile { end: 18432, available: 18332, .. }),
        &["15360..18432", "18332"],
        false,
    ),
    (
        "truncated_header",
        |e| matches!(e, AdapterError::HeaderBeyondFile { available: 192, .. }),
        &["808", "192"],
        false,
    ),
    (
        "empty_file",
        |e| matches!(e, AdapterError::FileTooShort { found: 0, expected: 8, .. }),
        &["0 bytes", "at least 8"],
        false,
    ),
    (
        "nan_weights",
        |e| matches!(e, AdapterError::NotFinite { index: 7, value, .. } if value.is_nan()),
        &["layer.0.attention.self.query.lora_B.weight", "NaN", "flat index 7"],
        true,
    ),
    (
        "inf_weights",
        |e| matches!(e, AdapterError::NotFinite { index: 391, value, .. } if *value == f32::INFINITY),
        &["layer.0.attention.self.query.lora_A.weight", "inf", "flat index 391"],
        true,
    ),
    (
        "unknown_target_module",
        |e| matches!(e, AdapterError::TargetsMatchNothing { .. }),
        &["`target_modules`", "query_proj", "encoder.layer.0.attention.self.query"],
        false,
    ),
    (
        "layer_out_of_range",
        |e| matches!(e, AdapterError::ModuleUnknown { .. }),
        &["encoder.layer.17.attention.self.query", "lora_A.weight", "40"],
        false,
    ),
    (
        "huge_header",
        |e| matches!(e, AdapterError::HeaderTooLong { found, .. } if *found == 1 << 60),
        &["1152921504606846976", "16777216"],
        false,
    ),
    (
        "header_longer_than_file",
        |e| matches!(e, AdapterError::HeaderBeyondFile { found: 19249, available: 19240, .. }),
        &["19249", "19240"],
        false,
    ),
    (
        "overlapping_offsets",
        |e| matches!(e, AdapterError::OffsetsOverlap { found: 0, expected: 3072, .. }),
        &["lora_A.weight", "lora_B.weight", "3072"],
        false,
    ),
    (
        "shape_overflow",
        |e| matches!(e, AdapterError::ShapeOverflow { .. }),
        &["lora_A.weight", "8589934592"],
        false,
    ),
    (
        "offsets_outside_file",
        |e| matches!(e, AdapterError::OffsetsOutsideFile { available: 64, .. }),
        &["lora_A.weight", "1099511627776", "64"],
        false,
    ),
    ("config_not_json", |e| matches!(e, AdapterError::ConfigNotJson { .. }), &["line 1"], false),
    ("config_missing", |e| matches!(e, AdapterError::ConfigMissing { .. }), &["missing"], false),
    (
        "config_zero_rank",
        |e| matches!(e, AdapterError::RankOutOfRange { .. }),
        &["`r`", "rank 0", "1 to 4096"],
        false,
    ),
    (
        "config_negative_rank",
        |e| matches!(e, AdapterError::RankOutOfRange { .. }),
        &["`r`", "rank -2", "1 to 4096"],
        false,
    ),
    (
        "config_rank_is_string",
        |e| matches!(e, AdapterError::FieldInvalid { .. }),
        &["`r`", "\"two\"", "an integer"],
        false,
    ),
    (
        "config_absurd_rank",
        |e| matches!(e, AdapterError::RankOutOfRange { .. }),
        &["`r`", "1099511627776", "1 to 4096"],
        false,
    ),
    (
        "peft_type_unsupported",
        |e| matches!(e, AdapterError::PeftTypeUnsupported { .. }),
        &["`peft_type`", "PREFIX_TUNING", "LORA"],
        false,
    ),
    (
        "integer_weights",
        |e| matches!(e, AdapterError::DtypeUnsupported { .. }),
        &["lora_A.weight", "I32", "F32, F16 or BF16"],
        false,
    ),
    (
        "pickle_only",
        |e| matches!(e, AdapterError::PickleOnly { .. }),
        &["adapter_model.bin", "safe_serialization=True"],
        false,
    ),
];

#[test]
fn every_defect_has_its_error_with_the_facts() {
    for (name, is_that_kind, facts, in_numbers) in TABLE {
        let (error, at_load) = refusal(name).unwrap_or_else(|| panic!("{name} was accepted"));
        let message = error.to_string();
        assert!(is_that_kind(&error), "{name}: {error:?}");
        assert_eq!(at_load, *in_numbers, "{name}: {message}");
        let file =
            if message.contains("adapter_config.json") { "adapter_config.json" } else { "adapter_model." };
        let place = format!("bad/{name}/{file}");
        assert!(message.contains(&place), "{name}: {message}");
        for fact in *facts {
            assert!(message.contains(fact), "{name}: {fact:?} is not in: {message}");
        }
    }
}

#[test]
fn the_table_covers_every_folder_and_the_control_is_accepted() {
    let folders = fs::read_dir(fixtures().join("bad")).unwrap().map(|entry| entry.unwrap());
    let folders =
        folders.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().into_string().unwrap());
    let mut tested: BTreeSet<String> = TABLE.iter().map(|row| row.0.to_owned()).collect();
    tested.insert("_good_control".into());
    assert_eq!(folders.collect::<BTreeSet<_>>(), tested);
    assert!(refusal("_good_control").is_none());
}
