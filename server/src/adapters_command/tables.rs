//! Tables, and lines of keys and values.

use comfy_table::{CellAlignment, Table};
use serde_json::Value;

use super::display::{list, percent, plain, share, size};
use super::{Entry, EntryPart, HealthList};

/// Columns of a list of versions, and whether they are figures.
const COLUMNS: [(&str, bool); 11] = [
    ("NAME", false),
    ("VERSION", false),
    ("ID", true),
    ("STATUS", false),
    ("ACTIVE", false),
    ("A/B", true),
    ("RANKS", true),
    ("SIZE", true),
    ("REQUESTS", true),
    ("SUCCESS", true),
    ("LATENCY", true),
];
const HEALTH_COLUMNS: [(&str, bool); 4] =
    [("ADAPTER", false), ("CHECK", false), ("RESULT", false), ("DETAIL", false)];

/// A table of versions.
pub fn versions(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "no adapter is registered".to_owned();
    }
    let mark = |is_so| if is_so { "yes" } else { "" };
    let row = |entry: &Entry| {
        let metrics = &entry.metrics;
        [
            entry.adapter_id.clone(),
            entry.adapter_version.clone(),
            entry.id.to_string(),
            entry.status.clone(),
            mark(entry.active).to_owned(),
            percent(entry.ab_percent),
            list(&entry.ranks),
            size(entry.bytes),
            metrics.requests.to_string(),
            share(metrics.success_rate),
            latency(entry),
        ]
    };
    table(COLUMNS, entries.iter().map(row))
}

/// All that is known of a version, a line each.
pub fn described(entry: &Entry) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let yes = |is_so| if is_so { "yes" } else { "no" }.to_owned();
    let part = |part: &EntryPart| format!("{} of version {}", part.weight, part.id);
    let parts: Option<Vec<_>> = entry.virtual_of.as_ref().map(|parts| parts.iter().map(part).collect());
    let metrics = &entry.metrics;
    let mut lines: Vec<(String, String)> = [
        ("name", entry.adapter_id.clone()),
        ("version", entry.adapter_version.clone()),
        ("id", entry.id.to_string()),
        ("tag", entry.tag.clone()),
        ("digest", entry.digest.clone()),
        ("base model", format!("{} ({})", entry.base_model, entry.base_model_digest)),
        ("status", entry.status.clone()),
        ("reason", or_none(&entry.reason)),
        ("active", yes(entry.active)),
        ("A/B", entry.ab_percent.map_or_else(|| "-".to_owned(), |_| percent(entry.ab_percent))),
        ("pinned", yes(entry.pinned)),
        ("created", entry.created_at.clone()),
        ("previous version", entry.previous_version.map_or_else(|| "-".to_owned(), |id| id.to_string())),
        ("source", parts.map_or_else(|| or_none(&entry.source), |parts| list(&parts))),
        ("domains", list(&entry.domains)),
        ("task type", or_none(&entry.task_type)),
        ("ranks", list(&entry.ranks)),
        ("targets", list(&entry.targets)),
        ("size", size(entry.bytes)),
        ("requests", format!("{}, {} of them failed", metrics.requests, metrics.errors)),
        ("success", share(metrics.success_rate)),
        ("latency", latency(entry)),
        ("last used", or_none(&metrics.last_used)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    let groups = [
        ("training", &entry.training),
        ("thresholds", &entry.thresholds),
        ("metadata", &entry.custom_metadata),
    ];
    for (group, values) in groups {
        lines.extend(values.iter().map(|(key, value)| (format!("{group} {key}"), words(value))));
    }
    let mut table = bare();
    table.add_rows(lines.iter().map(|(key, value)| [plain(key), plain(value)]));
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    table.trim_fmt()
}

/// A table of what was checked.
pub fn health(health: &HealthList) -> String {
    if health.adapters.is_empty() {
        return "no version to be checked".to_owned();
    }
    let rows = health.adapters.iter().flat_map(|adapter| {
        adapter.checks.iter().map(|check| {
            let result = match check.ok {
                Some(true) => "ok",
                Some(false) => "BAD",
                None => "-",
            };
            [adapter.tag.clone(), check.name.clone(), result.to_owned(), check.detail.clone()]
        })
    });
    table(HEALTH_COLUMNS, rows)
}

/// Nothing before the first request that succeeded.
fn latency(entry: &Entry) -> String {
    match entry.metrics.requests > entry.metrics.errors {
        true => format!("{:.1} ms", entry.metrics.latency_ema_ms),
        false => "-".to_owned(),
    }
}

/// A text without its quotation marks, and all else as JSON.
fn words(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn table<const N: usize>(columns: [(&str, bool); N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = bare();
    table.set_header(columns.map(|(title, _)| title));
    table.add_rows(rows.map(|row| row.map(|text| plain(&text).into_owned())));
    for (column, (_, is_figure)) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2));
        column.set_cell_alignment(if is_figure { CellAlignment::Right } else { CellAlignment::Left });
    }
    table.trim_fmt()
}

/// Columns without lines around them: what `cut` and `awk` like.
fn bare() -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters_command::fakes::entry;
    use crate::adapters_command::{Health, HealthItem};

    fn law() -> Entry {
        let mut law = entry("law", 1);
        law.active = true;
        law.metrics.requests = 1200;
        law.metrics.errors = 12;
        law.metrics.success_rate = Some(0.99);
        law.metrics.latency_ema_ms = 3.21;
        law
    }

    #[test]
    fn a_list_is_a_table_without_lines() {
        let mut trial = entry("법률", 10);
        trial.ab_percent = Some(12.5);
        trial.ranks = vec![4, 16];
        trial.bytes = 512;
        insta::assert_snapshot!(versions(&[law(), trial]), @r#"
        NAME  VERSION  ID  STATUS  ACTIVE     A/B  RANKS     SIZE  REQUESTS  SUCCESS  LATENCY
        law   1.1.0     1  ready   yes                 8  1.3 MiB      1200   99.0 %   3.2 ms
        법률  1.10.0   10  ready           12.5 %  4, 16    512 B         0        -        -
        "#);
        assert_eq!(versions(&[]), "no adapter is registered");
    }

    #[test]
    fn a_version_is_described_with_all_that_is_known() {
        let mut law = law();
        law.status = "errored".into();
        law.reason = Some("adapter_model.safetensors: \u{1b}[2Jgone\nfor good".into());
        law.ab_percent = Some(10.0);
        law.pinned = true;
        law.previous_version = Some(3);
        law.domains = vec!["law".into(), "tax".into()];
        law.task_type = Some("FEATURE_EXTRACTION".into());
        law.training.insert("samples".into(), 100.into());
        law.thresholds.insert("match".into(), 0.5.into());
        law.custom_metadata.insert("by\u{1b}".into(), "\u{202e}evil".into());
        law.metrics.last_used = Some("2026-11-28T00:00:00.000Z".into());
        insta::assert_snapshot!(described(&law), @r#"
        name               law
        version            1.1.0
        id                 1
        tag                law@1.1.0#abababab
        digest             abababababababababababababababababababababababababababababababab
        base model         mini (cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd)
        status             errored
        reason             adapter_model.safetensors: \u{1b}[2Jgone\nfor good
        active             yes
        A/B                10 %
        pinned             yes
        created            2026-11-27T23:40:05.123Z
        previous version   3
        source             /srv/adapters/law
        domains            law, tax
        task type          FEATURE_EXTRACTION
        ranks              8
        targets            query, value
        size               1.3 MiB
        requests           1200, 12 of them failed
        success            99.0 %
        latency            3.2 ms
        last used          2026-11-28T00:00:00.000Z
        training samples   100
        thresholds match   0.5
        metadata by\u{1b}  \u{202e}evil
        "#);
    }

    #[test]
    fn a_sum_is_shown_with_its_parts() {
        let mut sum = entry("both", 3);
        let part = |id, weight| EntryPart { id, weight };
        (sum.source, sum.virtual_of) = (None, Some(vec![part(1, 0.1), part(2, -0.5)]));
        assert!(described(&sum).contains("0.1 of version 1, -0.5 of version 2"));
    }

    #[test]
    fn health_is_a_table_of_what_was_checked() {
        let check =
            |name: &str, ok, detail: &str| HealthItem { name: name.into(), ok, detail: detail.into() };
        let checks = vec![
            check("base", Some(true), "registered for mini"),
            check("files", Some(false), "/srv/law: gone\u{7}"),
            check("probe", None, "not checked"),
        ];
        let law =
            Health { adapter_id: "law".into(), tag: "law@1.0.0#abababab".into(), healthy: false, checks };
        let list = HealthList { healthy: false, adapters: vec![law] };
        insta::assert_snapshot!(health(&list), @r#"
        ADAPTER             CHECK  RESULT  DETAIL
        law@1.0.0#abababab  base   ok      registered for mini
        law@1.0.0#abababab  files  BAD     /srv/law: gone\u{7}
        law@1.0.0#abababab  probe  -       not checked
        "#);
        assert_eq!(health(&HealthList { healthy: true, adapters: vec![] }), "no version to be checked");
    }

    #[test]
    fn nothing_that_a_server_says_commands_the_terminal() {
        let odd = "a\u{1b}]0;x\u{7}\u{9b}b\nc\u{202e}";
        let mut entry = entry(odd, 1);
        (entry.adapter_version, entry.status, entry.tag) = (odd.into(), odd.into(), odd.into());
        (entry.digest, entry.created_at) = (odd.into(), odd.into());
        let is_tame = |text: &str| !text.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}']);
        for text in [versions(std::slice::from_ref(&entry)), described(&entry)] {
            assert!(is_tame(&text), "{text:?}");
        }
        assert_eq!(versions(&[entry]).lines().count(), 2, "a row is one line");
    }
}
