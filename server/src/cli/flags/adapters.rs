//! Flags of `polylora adapters`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use polylora_registry::{AdapterName, BasisPoints, Digest, Selector};

use crate::adapters_command::{AdapterRef, Key, Part};
use crate::settings::parse_setting;

/// Flags of `polylora adapters`.
#[derive(Debug, Args)]
pub struct AdaptersFlags {
    /// Whom to ask.
    #[command(flatten)]
    pub target: TargetFlags,
    /// Print JSON, as the API has it, instead of text.
    #[arg(id = "adapters_json", long = "json", global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub action: AdaptersAction,
}

/// Flags that say where the registry is.
///
/// clap tells the values of global flags to the commands above, too: they must not be taken for flags of `serve` that are
/// called the same, hence ids of their own.
#[derive(Debug, Default, Args)]
pub struct TargetFlags {
    /// Address of a running server [default: POLYLORA_URL, else http://127.0.0.1:8080].
    #[arg(
        id = "adapters_url", long = "url", global = true,
        value_name = "URL", value_parser = parse_setting::<String>
    )]
    pub url: Option<String>,
    /// State directory of a server that does not run, instead of --url.
    #[arg(
        id = "adapters_state_dir", long = "state-dir", global = true,
        value_name = "DIR", value_parser = parse_setting::<PathBuf>
    )]
    pub state_dir: Option<PathBuf>,
    /// Key for reading. Other users of the machine can read a flag: rather set POLYLORA__API_KEY.
    #[arg(
        id = "adapters_api_key", long = "api-key", global = true,
        value_name = "KEY", value_parser = parse_setting::<Key>
    )]
    pub api_key: Option<Key>,
    /// Key for changes. Other users of the machine can read a flag: rather set POLYLORA__ADMIN_API_KEY.
    #[arg(
        id = "adapters_admin_api_key", long = "admin-api-key", global = true,
        value_name = "KEY", value_parser = parse_setting::<Key>
    )]
    pub admin_api_key: Option<Key>,
}

/// What is done with adapters.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum AdaptersAction {
    /// List the adapters, each with the version that answers, else its newest.
    List {
        /// List every version.
        #[arg(long)]
        all: bool,
    },
    /// Show all that is known of an adapter, and its versions.
    Show {
        /// Adapter; with @VERSION that version, and a number means the version of that number.
        #[arg(value_name = "NAME[@VERSION]", value_parser = parse_setting::<AdapterRef>)]
        adapter: AdapterRef,
    },
    /// Register an adapter, or a new version of one (needs a running server).
    Register(RegisterFlags),
    /// Have a version answer from the next request on.
    ///
    /// A server loads it first. On a state directory nothing is loaded: `verify` tells whether its files are there.
    Promote {
        /// Adapter.
        #[arg(value_name = "NAME", value_parser = parse_setting::<AdapterName>)]
        name: AdapterName,
        /// Version, number or #digest [default: the candidate of the A/B test].
        #[arg(value_name = "VERSION", value_parser = parse_setting::<Selector>)]
        version: Option<Selector>,
        /// Compare and swap.
        #[command(flatten)]
        expect: ExpectFlag,
    },
    /// Have the version answer that answered before the active one.
    Rollback {
        /// Adapter.
        #[arg(value_name = "NAME", value_parser = parse_setting::<AdapterName>)]
        name: AdapterName,
        /// Compare and swap.
        #[command(flatten)]
        expect: ExpectFlag,
    },
    /// Begin, change or end an A/B test.
    Ab {
        /// Adapter.
        #[arg(value_name = "NAME", value_parser = parse_setting::<AdapterName>)]
        name: AdapterName,
        /// Version that is tried: version, number or #digest.
        #[arg(
            value_name = "CANDIDATE", value_parser = parse_setting::<Selector>,
            required_unless_present = "end", conflicts_with = "end"
        )]
        candidate: Option<Selector>,
        /// Its share of the traffic.
        #[arg(
            value_name = "PERCENT", value_parser = parse_setting::<BasisPoints>,
            required_unless_present = "end", conflicts_with = "end"
        )]
        percent: Option<BasisPoints>,
        /// End the test: what is active answers all requests.
        #[arg(long)]
        end: bool,
        /// Compare and swap.
        #[command(flatten)]
        expect: ExpectFlag,
    },
    /// Keep an adapter in host memory, or no longer.
    Pin {
        /// Adapter.
        #[arg(value_name = "NAME", value_parser = parse_setting::<AdapterName>)]
        name: AdapterName,
        /// No longer.
        #[arg(long)]
        off: bool,
    },
    /// Check an adapter, or all; the exit status is 1 when something is not healthy.
    ///
    /// A server checks base, files, values, effect and the probe text. On a state directory only the files are looked at:
    /// whether they are gone, changed or unchanged since they were registered.
    Verify {
        /// Adapter, with @VERSION or by number that version alone [default: all that are not retired].
        #[arg(value_name = "NAME[@VERSION]", value_parser = parse_setting::<AdapterRef>)]
        adapter: Option<AdapterRef>,
    },
    /// Take an adapter, or one version of it, out of service.
    Retire {
        /// Adapter.
        #[arg(value_name = "NAME", value_parser = parse_setting::<AdapterName>)]
        name: AdapterName,
        /// Only this version, which must be neither active nor tried: version, number or #digest.
        #[arg(long, value_name = "VERSION", value_parser = parse_setting::<Selector>)]
        version: Option<Selector>,
        /// Compare and swap.
        #[command(flatten)]
        expect: ExpectFlag,
    },
    /// Delete an adapter, or one version of it, for good; its files stay.
    Delete {
        /// Adapter.
        #[arg(value_name = "NAME", value_parser = parse_setting::<AdapterName>)]
        name: AdapterName,
        /// Only this version, which must be neither active nor tried: version, number or #digest.
        #[arg(long, value_name = "VERSION", value_parser = parse_setting::<Selector>)]
        version: Option<Selector>,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
        /// Compare and swap.
        #[command(flatten)]
        expect: ExpectFlag,
    },
}

/// Compare and swap.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub struct ExpectFlag {
    /// Change nothing unless the version that is active has this digest.
    #[arg(long = "expect", value_name = "DIGEST", value_parser = parse_setting::<Digest>)]
    pub digest: Option<Digest>,
}

/// Flags of `polylora adapters register`.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct RegisterFlags {
    /// Name, new or that of an adapter that gets a new version.
    #[arg(value_name = "NAME", value_parser = parse_setting::<AdapterName>)]
    pub name: AdapterName,
    /// Folder with PEFT's two files, as the server sees it: an absolute path, one that begins with . (here), or one
    /// within the server's folder of adapters.
    #[arg(
        value_name = "PATH", value_parser = parse_setting::<String>,
        required_unless_present = "parts", conflicts_with = "parts"
    )]
    pub path: Option<String>,
    /// Make it a weighted sum of others instead; once for each part.
    #[arg(id = "parts", long = "virtual", value_name = "NAME[@VERSION]=WEIGHT", value_parser = parse_setting::<Part>)]
    pub parts: Vec<Part>,
    /// Semantic version [default: the next patch].
    #[arg(long, value_name = "VERSION", value_parser = parse_setting::<semver::Version>)]
    pub version: Option<semver::Version>,
    /// Domain that it is for; may be given several times.
    #[arg(long, value_name = "DOMAIN", value_parser = parse_setting::<String>)]
    pub domain: Vec<String>,
    /// What it was trained to do [default: what its files say].
    #[arg(long, value_name = "TYPE", value_parser = parse_setting::<String>)]
    pub task_type: Option<String>,
    /// Whether it answers at once.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = ActivateChoice::IfVacant)]
    pub activate: ActivateChoice,
}

/// Whether a version that is registered answers at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ActivateChoice {
    /// Not before it is promoted.
    Never,
    /// When nobody answers under the name.
    #[default]
    IfVacant,
    /// From the next request on.
    Now,
}

impl ActivateChoice {
    /// As the API has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::IfVacant => "if_vacant",
            Self::Now => "now",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        flags: AdaptersFlags,
    }

    fn parsed(line: &str) -> Result<AdaptersFlags, clap::Error> {
        Alone::try_parse_from(["adapters"].into_iter().chain(line.split_whitespace()))
            .map(|alone| alone.flags)
    }

    fn action(line: &str) -> AdaptersAction {
        parsed(line).unwrap_or_else(|error| panic!("{line}: {error}")).action
    }

    fn name(text: &str) -> AdapterName {
        AdapterName::new(text).expect("a name")
    }

    #[test]
    fn the_definition_holds() {
        Alone::command().debug_assert();
    }

    #[test]
    fn whom_to_ask_is_said_before_or_behind_what_to_do() {
        for line in ["--url http://a:1 --json list", "list --json --url http://a:1"] {
            let flags = parsed(line).expect(line);
            assert_eq!((flags.target.url.as_deref(), flags.json), (Some("http://a:1"), true), "{line}");
        }
        let flags = parsed("pin law --state-dir s --admin-api-key k").expect("parsed");
        assert_eq!(flags.target.state_dir, Some(PathBuf::from("s")));
        assert!(flags.target.admin_api_key.is_some() && !format!("{flags:?}").contains("\"k\""));
    }

    #[test]
    fn every_action_is_read() {
        let none = ExpectFlag::default;
        assert_eq!(action("list --all"), AdaptersAction::List { all: true });
        let version = Selector::parse("1.2.0");
        assert_eq!(
            action("promote law 1.2.0"),
            AdaptersAction::Promote { name: name("law"), version: version.clone(), expect: none() }
        );
        let digest = Digest([0xab; 32]);
        assert_eq!(
            action(&format!("rollback law --expect {digest}")),
            AdaptersAction::Rollback { name: name("law"), expect: ExpectFlag { digest: Some(digest) } }
        );
        let percent = BasisPoints::from_percent(12.5);
        let (name, end, expect) = (name("law"), false, none());
        assert_eq!(
            action("ab law 1.2.0 12.5"),
            AdaptersAction::Ab { name: name.clone(), candidate: version.clone(), percent, end, expect }
        );
        assert!(matches!(
            action("ab law --end"),
            AdaptersAction::Ab { end: true, candidate: None, percent: None, .. }
        ));
        assert_eq!(action("pin law --off"), AdaptersAction::Pin { name: name.clone(), off: true });
        assert_eq!(action("verify"), AdaptersAction::Verify { adapter: None });
        assert!(matches!(
            action("retire law --version v1.2.0"),
            AdaptersAction::Retire { version: Some(_), .. }
        ));
        assert_eq!(
            action("delete law --version 1.2.0 -y"),
            AdaptersAction::Delete { name, version, yes: true, expect: none() }
        );
    }

    #[test]
    fn an_adapter_comes_from_a_folder_or_is_a_sum() {
        let register = |line: &str| match action(line) {
            AdaptersAction::Register(flags) => flags,
            other => panic!("expected register, found {other:?}"),
        };
        let flags = register(
            "register law dir --version 1.2.0 --domain law --domain tax --task-type T --activate now",
        );
        assert_eq!((flags.path.as_deref(), flags.domain.len()), (Some("dir"), 2));
        assert_eq!(
            (flags.version, flags.activate),
            (Some(semver::Version::new(1, 2, 0)), ActivateChoice::Now)
        );
        let flags = register("register both --virtual law=0.5 --virtual tax@1.0.0=0.5");
        assert_eq!((flags.path, flags.parts.len(), flags.activate), (None, 2, ActivateChoice::IfVacant));
    }

    #[test]
    fn what_does_not_fit_is_a_usage_error_that_names_it() {
        for (line, said) in [
            ("", "Usage"),
            ("register law", "PATH"),
            ("register law dir --virtual a=1", "cannot be used with"),
            ("register law --virtual a", "expected an adapter and its weight"),
            ("register law dir --version 1.2", "expected a semantic version"),
            ("register law dir --activate soon", "if-vacant"),
            ("ab law", "CANDIDATE"),
            ("ab law 1.2.0", "PERCENT"),
            ("ab law 1.2.0 --end", "cannot be used with"),
            ("ab law 1.2.0 200", "expected a percentage from 0 to 100"),
            ("promote", "NAME"),
            ("promote law latest", "expected a version"),
            ("rollback law --expect abc", "expected a digest"),
            ("show a/b", "expected the name of an adapter"),
            ("pin ..", "expected the name of an adapter"),
        ] {
            let error = parsed(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(said), "{line}: {error}");
        }
        let error = parsed("list --api-key \u{e9}s3cret").expect_err("a key that is none");
        assert!(!error.kind().to_string().contains("s3cret"));
    }
}
