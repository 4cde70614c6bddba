//! The status page of the real binary in headless Chromium, at the size of a desktop and of a phone.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use polylora_tests::{
    BertSize, RandomAdapter, Server, Shared, assert_held, copy_folder, fixtures, script_law,
};
use tempfile::TempDir;

const SCRIPT: &str = "tests/clients/status_page.py";
const KEY: &str = "sk-of-the-tests";
/// With this variable set, a machine without Chromium fails these tests instead of not running them.
const REQUIRED: &str = "POLYLORA_REQUIRE_CHROMIUM";
/// Names that are folders' and would be markup on a careless page; one is as long as a folder's name can be.
const MARKUP: [&str; 2] = ["<img src=x onerror='window.injected=1'>", "\"><b>bold<script>window.injected=1"];
const LONGEST_NAME: usize = 255;

/// A server of the small model with adapters of its own.
struct SmallServer {
    server: Server,
    _adapters: TempDir,
}

static SERVER: Shared<SmallServer> = Shared::new(|| start(&["--auto-truncate", "false"]));

fn start(arguments: &[&str]) -> SmallServer {
    let adapters = TempDir::new().expect("a folder");
    copy_folder(&fixtures("encoders/bert/adapters/a1"), &adapters.path().join("a1"));
    let long = "n".repeat(LONGEST_NAME);
    for (seed, name) in ["b2", MARKUP[0], MARKUP[1], &long].into_iter().enumerate() {
        // What Windows has no folders for is not tested there.
        if cfg!(unix) || !name.contains(['<', '"']) {
            RandomAdapter { seed: 70 + seed as u64, rank: 8 }
                .write_for(BertSize::TINY, &adapters.path().join(name));
        }
    }
    let model = fixtures("encoders/bert/model");
    let own = ["--embedding-model", model.to_str().expect("Unicode"), "--served-model-name", "small"];
    let folder = ["--adapters-dir", adapters.path().to_str().expect("Unicode")];
    SmallServer { server: Server::start(&[&own[..], &folder[..], arguments].concat()), _adapters: adapters }
}

/// Chromium and its driver; `None`, said loudly, where they are missing.
fn chromium() -> Option<[PathBuf; 2]> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find =
        |name: &str| std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    let found = find("chromium").zip(find("chromedriver")).map(|(browser, driver)| [browser, driver]);
    if found.is_none() {
        let required = std::env::var_os(REQUIRED).is_some_and(|value| !value.is_empty() && value != "0");
        let missing = "the status page in a browser: no chromium or no chromedriver in PATH (Debian: apt install \
                       chromium chromium-driver)";
        assert!(!required, "{REQUIRED} is set, but {missing}");
        // Past the test runner, which keeps what tests print through macros to itself.
        let _ = writeln!(std::io::stderr(), "NOT RUN: {missing}");
    }
    found
}

/// Has the script try a law in a browser, one browser at a time: some laws count what the page asks the server for.
fn assert_law(law: &str, server: &Server, [browser, driver]: &[PathBuf; 2]) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut command = script_law(folder, SCRIPT, law, &server.url);
    command.env("POLYLORA_KEY", KEY).env("POLYLORA_CHROMIUM", browser).env("POLYLORA_CHROMEDRIVER", driver);
    assert_held(&mut command, law);
}

macro_rules! laws {
    ($($law:ident)*) => {$(
        #[test]
        fn $law() {
            if let Some(chromium) = chromium() {
                assert_law(stringify!($law), &SERVER.get().server, &chromium);
            }
        }
    )*};
}

laws! {
    the_page_shows_live_numbers_and_compares_at_desktop_and_phone_size
    names_of_adapters_are_text_whatever_they_contain
    a_refusal_is_told_in_words
    nobody_asks_while_nobody_looks
}

#[test]
fn a_key_is_asked_for_and_kept_in_the_tab() {
    if let Some(chromium) = chromium() {
        let locked = start(&["--api-key", KEY]);
        assert_law("a_key_is_asked_for_and_kept_in_the_tab", &locked.server, &chromium);
    }
}
