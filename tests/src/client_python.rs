//! A Python with the clients that the tests use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::{repository, run_needed};

const INSTALL_PYTHON: &str = "install Python 3 with venv and pip (Debian: apt install python3-venv) and let pip reach \
                              a package index, or set POLYLORA_TEST_PYTHON to a Python that has the packages of \
                              tests/clients/requirements.txt";
const IMPORTS: [&str; 2] = ["-c", "import openai, schemathesis, selenium"];

/// A Python that has the packages of requirements.txt: that of the environment, or one made once in `folder`.
///
/// # Panics
/// With what to install when there is none.
pub fn client_python(folder: &Path) -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| match std::env::var_os("POLYLORA_TEST_PYTHON").filter(|path| !path.is_empty()) {
        Some(python) => {
            run_needed(Command::new(&python).args(IMPORTS), INSTALL_PYTHON);
            python.into()
        }
        None => own_python(&folder.join("clients")),
    })
}

fn own_python(folder: &Path) -> PathBuf {
    let requirements = repository().join("tests/clients/requirements.txt");
    let wanted = fs::read(&requirements).expect("requirements.txt");
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    // What was installed last time; written last, so that a broken installation is made anew.
    let installed = folder.join("requirements.txt");
    let works = || Command::new(&python).args(IMPORTS).output().is_ok_and(|o| o.status.success());
    if fs::read(&installed).is_ok_and(|text| text == wanted) && works() {
        return python;
    }
    run_needed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder), INSTALL_PYTHON);
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&requirements);
    run_needed(&mut install, INSTALL_PYTHON);
    fs::write(&installed, wanted).expect("written");
    python
}
