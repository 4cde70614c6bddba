//! The command line: `polylora [serve]`, `polylora embed`, `polylora pull`, `polylora bench`, `polylora adapters`.

mod flags;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use flags::{
    ActivateChoice, AdaptersAction, AdaptersFlags, BenchFlags, EmbedFlags, EngineFlags, ExpectFlag,
    FleetFlags, LimitFlags, OutputFormat, PullFlags, RegisterFlags, SecurityFlags, ServeFlags, TargetFlags,
    TraceFlags,
};

/// One embedding model in memory, many LoRA adapters beside it, all of them in the same batch.
///
/// Without a command the server starts: `polylora --port 9000` is `polylora serve --port 9000`.
#[derive(Debug, Parser)]
#[command(
    name = "polylora",
    args_conflicts_with_subcommands = true,
    after_help = "Every setting can also be given in a TOML file (--config, or POLYLORA_CONFIG) and as an environment \
                  variable, e.g. POLYLORA__PORT=9000 or POLYLORA__MAX_BATCH_TOKENS=8192. Flags win over variables, \
                  variables over the file."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Box<ServeFlags>,
}

impl Cli {
    /// What is to be done; serving where no command was given.
    pub fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Serve(self.serve))
    }
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve embeddings over HTTP (what happens without a command, too).
    Serve(Box<ServeFlags>),
    /// Embed texts without a server and print one embedding a line.
    Embed(Box<EmbedFlags>),
    /// Fetch a model of the catalogue, verify it and keep it for later.
    Pull(PullFlags),
    /// Measure this machine's CPU: peaks, and the model's speed and exactness in each number format.
    Bench(BenchFlags),
    /// List, register, promote, test, check, retire and delete adapters.
    Adapters(Box<AdaptersFlags>),
}

/// Parses the arguments of the process, the program's name first. `devices` are the kinds of device that this build has,
/// for `--version`.
///
/// # Errors
/// clap's error, which also carries the texts of `--help` and `--version`; its `exit` prints it with the right status.
pub fn parse<I, T>(arguments: I, devices: &[&str]) -> Result<Cli, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    // clap wants a text that lives as long as the program; this runs once.
    let version: &'static str = version_text(devices).leak();
    let matches = Cli::command().version(version).try_get_matches_from(arguments)?;
    Cli::from_arg_matches(&matches)
}

/// The version, and the kinds of device that this build can use.
pub fn version_text(devices: &[&str]) -> String {
    format!("{} (devices: {})", env!("CARGO_PKG_VERSION"), devices.join(", "))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::path::Path;

    use clap::error::ErrorKind;

    use super::*;
    use crate::bench_command::BenchDtype;
    use crate::settings::{ByteSize, DeviceChoice, DtypeChoice, Settings};

    fn command(arguments: &[&str]) -> Result<Command, clap::Error> {
        parse([&["polylora"], arguments].concat(), &["cpu"]).map(Cli::into_command)
    }

    fn served(arguments: &[&str]) -> Settings {
        let mut settings = Settings::default();
        match command(arguments).expect("parsed") {
            Command::Serve(flags) => flags.lay_over(&mut settings),
            other => panic!("expected serve, found {other:?}"),
        }
        settings
    }

    #[test]
    fn the_definition_holds_and_help_is_there_for_every_command() {
        Cli::command().debug_assert();
        for arguments in [
            &["--help"][..],
            &["serve", "--help"],
            &["embed", "--help"],
            &["pull", "--help"],
            &["bench", "--help"],
            &["adapters", "--help"],
            &["adapters", "promote", "--help"],
            &["-h"],
        ] {
            let error = command(arguments).expect_err("help");
            assert_eq!((error.kind(), error.exit_code()), (ErrorKind::DisplayHelp, 0), "{arguments:?}");
        }
        let help = command(&["--help"]).expect_err("help").to_string();
        for said in ["embed", "pull", "bench", "--embedding-model", "POLYLORA__PORT", "--api-key", "512MiB"] {
            assert!(help.contains(said), "{said}");
        }
    }

    #[test]
    fn version_names_the_devices() {
        let error = command(&["--version"]).expect_err("version");
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::DisplayVersion, 0));
        assert!(error.to_string().contains(env!("CARGO_PKG_VERSION")) && error.to_string().contains("cpu"));
    }

    #[test]
    fn no_command_is_serve() {
        assert_eq!(served(&[]), Settings::default());
        assert_eq!(served(&["--port", "9000"]), served(&["serve", "--port", "9000"]));
    }

    #[test]
    fn flags_lie_over_the_settings_beneath() {
        let settings = served(&[
            "--served-model-name",
            "a",
            "b",
            "--served-model-name",
            "c",
            "--dtype",
            "half",
            "--device",
            "cuda:1",
            "--lora-memory",
            "64MiB",
            "--strict-adapters",
            "--skip-warmup",
            "--kernel-cache-dir",
            "/k",
            "--threads",
            "2",
            "--log-level",
            "debug",
        ]);
        assert_eq!(settings.served_model_name, ["a", "b", "c"]);
        assert_eq!((settings.dtype, settings.device), (DtypeChoice::F16, DeviceChoice::Cuda(Some(1))));
        assert_eq!(settings.lora_memory, ByteSize(64 << 20));
        assert!(settings.strict_adapters && settings.skip_warmup);
        assert_eq!(settings.kernel_cache_dir.as_deref(), Some(Path::new("/k")));
        assert_eq!(settings.host, Settings::default().host);
    }

    #[test]
    fn truncation_is_switched_in_four_ways() {
        for (arguments, expected) in [
            (&["--auto-truncate"][..], true),
            (&["--auto-truncate", "true"], true),
            (&["--auto-truncate", "false"], false),
            (&["--no-auto-truncate"], false),
            (&["--auto-truncate", "--port", "1"], true),
        ] {
            assert_eq!(served(arguments).auto_truncate, expected, "{arguments:?}");
        }
        assert!(command(&["--auto-truncate", "--no-auto-truncate"]).is_err());
    }

    #[test]
    fn a_wrong_flag_or_value_is_a_usage_error_that_names_it() {
        for (arguments, said) in [
            (&["--prot", "1"][..], "--prot"),
            (&["--port", "70000"], "found `70000`, expected a port number"),
            (&["--device", "tpu"], "found `tpu`, expected auto, cpu"),
            (&["--threads", "0"], "expected a whole number from 1"),
            (&["pull"], "<NAME>"),
            (&["bench", "--dtype", "f32,f16"], "found `f16`, expected f32, bf16 or int8"),
            (&["bench", "--batch", "1,,2"], "expected a whole number from 1"),
            (&["bench", "--random-weights", "c.json", "--tokens", "1"], "cannot be used with"),
            (&["bench", "--rank", "0", "--random-weights", "c.json"], "expected a whole number from 1"),
            (&["bench", "--seconds", "0"], "found `0`, expected a number of seconds from 0.01 to 60"),
            (&["--port", "1", "pull", "x"], "pull"),
        ] {
            let error = command(arguments).expect_err("refused");
            assert_eq!(error.exit_code(), 2, "{arguments:?}");
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn bench_takes_lists_with_commas() {
        let bench = |arguments: &[&str]| match command(arguments).expect("parsed") {
            Command::Bench(flags) => flags,
            other => panic!("expected bench, found {other:?}"),
        };
        let numbers = |list: &[NonZeroUsize]| list.iter().map(|n| n.get()).collect::<Vec<_>>();
        let flags = bench(&["bench"]);
        assert_eq!(flags.dtype, [BenchDtype::F32, BenchDtype::Bf16, BenchDtype::Int8]);
        assert_eq!((numbers(&flags.batch), numbers(&flags.tokens)), (vec![1, 10, 32, 100], vec![16, 128]));
        assert_eq!((flags.seconds.0.as_secs_f64(), flags.json), (1.0, false));
        let flags = bench(&["bench", "--dtype", "int8", "--batch", "7,8", "--seconds", "0.25", "--json"]);
        assert_eq!((flags.dtype, numbers(&flags.batch)), (vec![BenchDtype::Int8], vec![7, 8]));
        assert_eq!((flags.seconds.0.as_millis(), flags.json), (250, true));
        let named = |flags: BenchFlags| flags.model;
        assert_eq!(
            named(bench(&["bench", "--model", "x"])),
            named(bench(&["bench", "--embedding-model", "x"]))
        );
    }

    #[test]
    fn flags_of_adapters_are_not_taken_for_those_of_serve() {
        for arguments in [
            &["adapters", "--state-dir", "s", "--api-key", "a", "--admin-api-key", "b", "list", "--json"][..],
            &["adapters", "list", "--json", "--state-dir", "s", "--api-key", "a", "--admin-api-key", "b"],
        ] {
            match command(arguments).expect("parsed") {
                Command::Adapters(flags) => {
                    assert!(
                        flags.json && flags.target.api_key.is_some() && flags.target.admin_api_key.is_some()
                    );
                    assert_eq!(flags.target.state_dir.as_deref(), Some(Path::new("s")));
                }
                other => panic!("expected adapters, found {other:?}"),
            }
        }
        let register = ["adapters", "register", "law", "dir", "--version", "1.2.0"];
        assert!(
            matches!(command(&register), Ok(Command::Adapters(_))),
            "--version is not the program's here"
        );
    }

    #[test]
    fn embed_takes_texts_and_an_adapter() {
        let Command::Embed(flags) = command(&["embed", "--adapter", "law", "one", "two"]).expect("parsed")
        else {
            panic!("expected embed")
        };
        assert_eq!((flags.adapter.as_deref(), flags.texts.len()), (Some("law"), 2));
        assert_eq!(flags.format, OutputFormat::Json);
    }
}
