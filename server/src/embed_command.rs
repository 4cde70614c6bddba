//! `polylora embed`: texts in, one embedding a line out, through the same engine as the server's.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use polylora_engine::{EmbedError, EmbedInput, EmbedRequest, EmbeddingService};

use crate::assemble::{AssembleError, Assembly, NamedAdapter, start_engine};
use crate::cli::OutputFormat;
use crate::settings::{NoEmbeddingModel, Settings};

/// Most texts in one request to the engine: enough for full batches, few enough that lines come out while others go in.
const MOST_TEXTS_A_REQUEST: usize = 256;

/// Why texts could not be embedded.
#[derive(Debug, thiserror::Error)]
pub enum EmbedCommandError {
    /// Nothing to embed, and a person at the keyboard.
    #[error("there is nothing to embed: give texts as arguments, or lines on standard input")]
    NoTexts,
    /// The folder has no name that could be the adapter's.
    #[error("{} has no last component that could name the adapter: give the folder by its name", path.display())]
    AdapterName {
        /// The folder.
        path: PathBuf,
    },
    /// The engine does not start.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The settings say that no model makes embeddings.
    #[error(transparent)]
    NoModel(#[from] NoEmbeddingModel),
    /// A text has no characters.
    #[error("text {number} is empty")]
    EmptyText {
        /// Number of the text or line, from 1.
        number: usize,
    },
    /// The engine refuses.
    #[error("embedding texts {first} to {last} failed")]
    Embed {
        /// Number of the first text of the request, from 1.
        first: usize,
        /// Number of its last.
        last: usize,
        /// Why.
        source: EmbedError,
    },
    /// Standard input cannot be read.
    #[error("standard input cannot be read")]
    Read(#[source] io::Error),
    /// Standard output cannot be written.
    #[error("standard output cannot be written")]
    Write(#[source] io::Error),
}

/// What is embedded, and how it is printed.
#[derive(Clone, Debug)]
pub struct EmbedJob {
    /// A name or a folder.
    pub adapter: Option<String>,
    /// How embeddings are printed.
    pub format: OutputFormat,
    /// The texts; none for the lines of standard input.
    pub texts: Vec<String>,
}

/// An adapter as the user writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdapterArgument {
    /// The name of one in the folder of adapters.
    Name(String),
    /// A folder.
    Folder(PathBuf),
}

impl AdapterArgument {
    /// A text with a path separator or a leading dot is a folder; a plain word is a name where there is a folder of
    /// adapters, and else a folder if it has an adapter_config.json.
    pub fn read(text: &str, adapters_dir: Option<&Path>) -> Self {
        let path = Path::new(text);
        let is_path = text.starts_with('.') || text.contains(std::path::is_separator);
        if is_path || (adapters_dir.is_none() && path.join("adapter_config.json").is_file()) {
            Self::Folder(path.to_owned())
        } else {
            Self::Name(text.to_owned())
        }
    }
}

/// Embeds the job's texts and prints them on standard output.
///
/// # Errors
/// [`EmbedCommandError`]. A reader of the output that goes away is none.
pub async fn embed(mut settings: Settings, job: EmbedJob) -> Result<(), EmbedCommandError> {
    if job.texts.is_empty() && io::stdin().is_terminal() {
        return Err(EmbedCommandError::NoTexts);
    }
    let (name, extra) =
        match job.adapter.map(|text| AdapterArgument::read(&text, settings.adapters_dir.as_deref())) {
            None => (None, None),
            Some(AdapterArgument::Name(name)) => (Some(name), None),
            Some(AdapterArgument::Folder(path)) => {
                let name = folder_name(&path)?;
                (Some(name.clone()), Some(NamedAdapter { name, path }))
            }
        };
    settings.embedding_model.needed()?;
    // What a configuration file has for a server.
    settings.llm = None;
    // One pass or a few: each kernel is compiled when it is needed.
    settings.skip_warmup = true;
    let truncate = settings.auto_truncate;
    let texts_a_request = settings.max_client_batch_size.get().min(MOST_TEXTS_A_REQUEST);
    let starting = tokio::task::spawn_blocking(move || start_engine(&settings, extra.as_slice()));
    let Assembly { embedding, .. } = starting.await.map_err(AssembleError::at("starting the engine"))??;
    let service = embedding.ok_or(NoEmbeddingModel)?;
    let request = EmbedRequest { adapter: name, truncate, ..EmbedRequest::default() };
    let printing = Printing { template: request, texts_a_request, format: job.format };
    let mut out = io::stdout().lock();
    let printed = if job.texts.is_empty() {
        let lines = io::BufReader::new(io::stdin()).lines();
        print_embeddings(service.as_ref(), printing, lines, &mut out).await
    } else {
        print_embeddings(service.as_ref(), printing, job.texts.into_iter().map(Ok), &mut out).await
    };
    service.shutdown(Duration::ZERO).await;
    printed
}

/// How texts are embedded and printed.
#[derive(Clone, Debug)]
pub struct Printing {
    /// Says everything but the inputs.
    pub template: EmbedRequest,
    /// Texts in one request to the engine, at least 1.
    pub texts_a_request: usize,
    /// How embeddings are printed.
    pub format: OutputFormat,
}

/// Embeds texts as they come and prints each embedding on a line of its own.
///
/// # Errors
/// [`EmbedCommandError`]; the embeddings of the texts before one that is empty or cannot be read are printed first. An
/// `out` whose reader went away ends it without error.
pub async fn print_embeddings(
    service: &dyn EmbeddingService,
    printing: Printing,
    texts: impl Iterator<Item = io::Result<String>>,
    out: &mut impl Write,
) -> Result<(), EmbedCommandError> {
    let Printing { template, texts_a_request, format } = printing;
    let mut texts = texts.enumerate().peekable();
    let mut done = 0;
    while texts.peek().is_some() {
        let (mut inputs, mut flaw) = (Vec::new(), None);
        for (index, text) in texts.by_ref().take(texts_a_request) {
            match text {
                Ok(text) if !text.is_empty() => inputs.push(EmbedInput::Text(text)),
                Ok(_) => flaw = Some(EmbedCommandError::EmptyText { number: index + 1 }),
                Err(error) => flaw = Some(EmbedCommandError::Read(error)),
            }
            if flaw.is_some() {
                break;
            }
        }
        if let Some(flaw) = flaw.take_if(|_| inputs.is_empty()) {
            return Err(flaw);
        }
        let (first, last) = (done + 1, done + inputs.len());
        done = last;
        let request = EmbedRequest { inputs, ..template.clone() };
        let reply = service.embed(request).await.map_err(|source| EmbedCommandError::Embed {
            first,
            last,
            source,
        })?;
        let written = reply
            .embeddings
            .iter()
            .try_for_each(|row| print_row(row, format, out))
            .and_then(|()| out.flush());
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.map_err(EmbedCommandError::Write)?,
        }
        if let Some(flaw) = flaw {
            return Err(flaw);
        }
    }
    Ok(())
}

fn print_row(row: &[f32], format: OutputFormat, out: &mut impl Write) -> io::Result<()> {
    match format {
        OutputFormat::Json => serde_json::to_writer(&mut *out, row).map_err(io::Error::from)?,
        OutputFormat::Text => {
            for (index, value) in row.iter().enumerate() {
                write!(out, "{}{value}", if index == 0 { "" } else { " " })?;
            }
        }
    }
    out.write_all(b"\n")
}

/// The folder's own name, also for `.` and `..`.
fn folder_name(path: &Path) -> Result<String, EmbedCommandError> {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    full.file_name()
        .and_then(|name| name.to_str())
        .map(str::to_owned)
        .ok_or_else(|| EmbedCommandError::AdapterName { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_name_and_a_path_is_a_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().to_str().expect("Unicode");
        assert_eq!(AdapterArgument::read("law", Some(dir.path())), AdapterArgument::Name("law".into()));
        assert_eq!(AdapterArgument::read("law", None), AdapterArgument::Name("law".into()));
        assert_eq!(AdapterArgument::read("./law", Some(dir.path())), AdapterArgument::Folder("./law".into()));
        assert_eq!(AdapterArgument::read(folder, None), AdapterArgument::Folder(folder.into()));
    }
}
