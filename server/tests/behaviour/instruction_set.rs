//! What `POLYLORA_CPU_ISA` forces, through the program itself.

use std::path::Path;
use std::process::{Command, Output};

use polylora_kernels::device::{DTypeSpec, DeviceSpec, open};

/// The program with a cache of its own and nobody to fetch a model from, told to use an instruction set.
fn run(home: &Path, isa: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_polylora"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("POLYLORA_")) {
            command.env_remove(name);
        }
    }
    let command = command.args(arguments).env("POLYLORA_CPU_ISA", isa).env("POLYLORA_HOME", home);
    command.env("HF_HUB_OFFLINE", "1").env_remove("RUST_LOG").output().expect("the program runs")
}

#[test]
fn an_instruction_set_that_there_is_not_is_refused_by_every_command_before_a_model_is_fetched() {
    let home = tempfile::tempdir().expect("a folder");
    let has: Vec<_> = polylora_kernels_cpu::isa::Isa::available().iter().map(|isa| isa.name()).collect();
    let missing = ["avx2", "avxvnni", "avx512", "amx"].into_iter().find(|name| !has.contains(name));
    let unknown = "POLYLORA_CPU_ISA is `sse9`, expected one of scalar, avx2, avxvnni, avx512, amx".to_owned();
    let mut cases = vec![("sse9", unknown)];
    match missing {
        Some(name) => {
            let machine = format!("POLYLORA_CPU_ISA asks for {name}, this machine has {}", has.join(", "));
            cases.push((name, machine));
        }
        None => {
            eprintln!("NOT RUN: this machine has every instruction set, so none can be asked for in vain")
        }
    }
    for (isa, said) in cases {
        for arguments in
            [&["serve", "--port", "0", "--device", "cpu"][..], &["embed", "--device", "cpu", "a"], &["bench"]]
        {
            let output = run(home.path(), isa, arguments);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
            assert!(output.stdout.is_empty(), "{arguments:?}");
            let lines: Vec<&str> = stderr.lines().filter(|line| !line.contains(" INFO ")).collect();
            let because = format!("  because: {said}");
            assert_eq!(lines, ["error: opening the device `cpu` failed", because.as_str()], "{arguments:?}");
        }
    }
}

#[test]
fn the_start_says_in_one_line_which_path_is_taken() {
    let home = tempfile::tempdir().expect("a folder");
    for (dtype, words) in [
        ("f32", "computing on cpu (scalar), f32 by plain loops, 1 thread"),
        ("bf16", "computing on cpu (scalar), bf16 by plain loops, 1 thread"),
        ("int8", "computing on cpu (scalar), int8 by plain loops with f32 activations, 1 thread"),
    ] {
        let arguments = ["serve", "--port", "0", "--device", "cpu", "--threads", "1", "--dtype", dtype];
        // There is no model, so it ends after the line.
        let model = ["--embedding-model", "./none"];
        let output = run(home.path(), "scalar", &[&arguments[..], &model].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let lines: Vec<&str> = stderr.lines().filter(|line| line.contains("computing on")).collect();
        assert!(matches!(lines[..], [line] if line.trim_end().ends_with(words)), "{dtype}: {stderr}");
    }
    let widest = open(DeviceSpec::Cpu, DTypeSpec::F32).expect("a cpu");
    let output =
        run(home.path(), "", &["serve", "--port", "0", "--device", "cpu", "--embedding-model", "./none"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("computing on {}, ", widest.name)));
}
