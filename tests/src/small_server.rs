//! The real binary with the small BERT of `fixtures/encoders`: a request takes well under a millisecond, so thousands of them
//! fit into a test.

use serde_json::json;
use tempfile::TempDir;

use crate::{BertSize, RandomAdapter, RawReply, Server, fixtures};

/// The name of its base model.
pub const SMALL_BASE: &str = "base";

/// A server of the small model with random adapters `domain_00`, `domain_01`, …
pub struct SmallServer {
    /// The server.
    pub server: Server,
    _folder: TempDir,
    adapters: usize,
}

impl SmallServer {
    /// Starts it with so many adapters of rank 8 and further arguments.
    pub fn start(adapters: usize, arguments: &[&str]) -> Self {
        let folder = TempDir::new().expect("a folder");
        for index in 0..adapters {
            let own = folder.path().join(domain(index));
            RandomAdapter { seed: 500 + index as u64, rank: RANK }.write_for(BertSize::TINY, &own);
        }
        let model = fixtures("encoders/bert/model");
        let own = [
            "--embedding-model",
            model.to_str().expect("Unicode"),
            "--served-model-name",
            SMALL_BASE,
            "--adapters-dir",
            folder.path().to_str().expect("Unicode"),
            "--log-level",
            "warn,polylora_server::serve=info",
        ];
        let server = Server::start(&[&own, arguments].concat());
        Self { server, _folder: folder, adapters }
    }

    /// The base and the adapters.
    pub fn models(&self) -> Vec<String> {
        std::iter::once(SMALL_BASE.to_owned()).chain((0..self.adapters).map(domain)).collect()
    }

    /// The bytes of `--lora-memory` that hold `adapters` of its adapters and not one more.
    pub fn memory_for(adapters: usize) -> usize {
        let one = RandomAdapter { seed: 0, rank: RANK }.weights_for(BertSize::TINY) * size_of::<f32>();
        adapters * one + one / 2
    }

    /// The body of a request for embeddings in base64.
    pub fn body(model: &str, texts: &[&str]) -> Vec<u8> {
        json!({ "model": model, "input": texts, "encoding_format": "base64" }).to_string().into_bytes()
    }

    /// The embeddings of texts asked for alone, one after the other.
    ///
    /// # Panics
    /// When a reply is none.
    pub fn alone(&self, model: &str, texts: &[&str]) -> Vec<String> {
        let embed = |text: &&str| {
            let body = String::from_utf8(Self::body(model, &[*text])).expect("JSON");
            let reply = self.server.post_text("/v1/embeddings", &body);
            assert_eq!(reply.status, 200, "{model}: {}", reply.text);
            let reply = RawReply { status: reply.status, headers: vec![], body: reply.text.into_bytes() };
            reply.embeddings().remove(0)
        };
        texts.iter().map(embed).collect()
    }
}

/// Rank of the adapters.
const RANK: usize = 8;

fn domain(index: usize) -> String {
    format!("domain_{index:02}")
}
