//! One file over HTTP: time limits, resumption, and a bound on what is taken.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response, StatusCode, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy};

use crate::error::StorageError;
use crate::hub_config::HubConfig;
use crate::progress::Progress;
use crate::source_error::SourceError;

/// How often a transfer is begun or resumed without a single new byte before it is given up.
const MAX_FRUITLESS: u32 = 3;

/// How often a transfer is resumed at all.
const MAX_RESUMES: u32 = 50;

/// Pause before a transfer is resumed, times the number of fruitless attempts so far.
const PAUSE: Duration = Duration::from_millis(500);

/// An HTTP client with the limits and credentials of a [`HubConfig`].
pub(crate) struct Transfer {
    agent: Agent,
    authorization: Option<String>,
}

/// A file to be fetched.
pub(crate) struct Request<'a> {
    /// Name for messages.
    pub(crate) file: &'a str,
    /// Its address.
    pub(crate) url: &'a str,
    /// Where its bytes go; what is there already is resumed.
    pub(crate) part: &'a Path,
    /// Its size, where that is known beforehand.
    pub(crate) size: Option<u64>,
    /// Most bytes to take.
    pub(crate) limit: u64,
}

/// How one request for a body ended.
enum Step {
    Done,
    Broken(String),
}

impl Transfer {
    pub(crate) fn new(config: &HubConfig) -> Result<Self, SourceError> {
        let limits = &config.limits;
        let mut tls = TlsConfig::builder();
        if let Some(bundle) = &config.ca_bundle {
            tls = tls.root_certs(read_bundle(bundle)?);
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .accept_encoding("identity")
            .user_agent(concat!("polylora/", env!("CARGO_PKG_VERSION")))
            .proxy(if config.proxy_from_env { Proxy::try_from_env() } else { None })
            .timeout_resolve(Some(limits.connect))
            .timeout_connect(Some(limits.connect))
            .timeout_recv_response(Some(limits.answer))
            .timeout_per_read(Some(limits.stall))
            .tls_config(tls.build())
            .build()
            .new_agent();
        Ok(Self { agent, authorization: config.token.as_ref().map(|token| token.bearer()) })
    }

    /// Fetches a small document of at most `limit` bytes.
    pub(crate) fn document(&self, url: &str, limit: u64) -> Result<Vec<u8>, SourceError> {
        let mut response = self.get(url, 0)?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(SourceError::Status { url: url.to_owned(), status: status.as_u16() });
        }
        let mut text = Vec::new();
        let bad = |reason: String| SourceError::BadAnswer { url: url.to_owned(), reason };
        let read = response.body_mut().as_reader().take(limit + 1).read_to_end(&mut text);
        read.map_err(|e| bad(e.to_string()))?;
        if text.len() as u64 > limit {
            return Err(bad(format!("the answer is longer than {limit} bytes")));
        }
        Ok(text)
    }

    /// Fetches a file into `request.part`, resuming what is there, and returns whether anything old was kept.
    ///
    /// On success the part holds what the server says the file is, of whatever size: judging it is the caller's. On failure
    /// it keeps what arrived, so that the next call goes on from there.
    pub(crate) fn fetch(&self, request: &Request<'_>, progress: &Progress) -> Result<bool, SourceError> {
        let length = |part: &Path| std::fs::metadata(part).map_or(0, |meta| meta.len());
        let mut total = None;
        let mut fruitless = 0;
        let mut resumed = false;
        let mut arrived = false;
        let mut reason = String::new();
        for _ in 0..=MAX_RESUMES {
            let start = length(request.part);
            if request.size.is_some_and(|size| start > size) {
                truncate(request.part)?;
                continue;
            }
            resumed |= start > 0;
            if start > 0 && request.size == Some(start) {
                return Ok(resumed);
            }
            progress.from(start);
            reason = match self.step(request, start, &mut total, progress) {
                Ok(Step::Done) => return Ok(resumed),
                Ok(Step::Broken(why)) => why,
                // It was there a moment ago: worth another try. At the first contact it is not.
                Err(SourceError::Unreachable { reason, .. }) if arrived => reason,
                Err(e) => return Err(e),
            };
            let more = length(request.part) > start;
            arrived |= more;
            fruitless = if more { 0 } else { fruitless + 1 };
            if fruitless >= MAX_FRUITLESS {
                break;
            }
            tracing::debug!("{}: {reason}; resuming", request.file);
            std::thread::sleep(PAUSE * fruitless);
        }
        let received = length(request.part);
        let expected = request.size.or(total);
        Err(SourceError::Truncated { file: request.file.to_owned(), received, expected, reason })
    }

    /// One request for the bytes from `start` on.
    fn step(
        &self,
        request: &Request<'_>,
        start: u64,
        total: &mut Option<u64>,
        progress: &Progress,
    ) -> Result<Step, SourceError> {
        let response = self.get(request.url, start)?;
        let status = response.status();
        let start = match status {
            StatusCode::PARTIAL_CONTENT if range_start(response.headers()) == Some(start) => start,
            StatusCode::OK => 0,
            // The server has another idea of the file than what is here: begin anew.
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if start > 0 => {
                truncate(request.part)?;
                return Ok(Step::Broken(format!("the server did not resume at byte {start}")));
            }
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Ok(Step::Broken(format!("status {}", status.as_u16())));
            }
            _ => {
                let url = request.url.to_owned();
                return Err(SourceError::Status { url, status: status.as_u16() });
            }
        };
        if let Some(length) = response.body().content_length() {
            let end = start.saturating_add(length);
            if end > request.limit {
                return Err(too_large(request, end));
            }
            *total = Some(end);
        }
        let taken = take_body(request, response, start, progress)?;
        match (taken.broken, *total) {
            (None, Some(end)) if taken.total < end => {
                Ok(Step::Broken(format!("the body ended at byte {}", taken.total)))
            }
            (None, _) => Ok(Step::Done),
            (Some(why), _) => Ok(Step::Broken(why)),
        }
    }

    fn get(&self, url: &str, start: u64) -> Result<Response<Body>, SourceError> {
        let mut request = self.agent.get(url);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        request.call().map_err(|e| SourceError::Unreachable { endpoint: origin(url), reason: cause(&e) })
    }
}

/// What was written of a body.
struct Taken {
    /// Size of the part now.
    total: u64,
    /// Why reading ended before the body did.
    broken: Option<String>,
}

fn take_body(
    request: &Request<'_>,
    response: Response<Body>,
    start: u64,
    progress: &Progress,
) -> Result<Taken, SourceError> {
    let write_error = |e| StorageError::io("write", request.part)(e);
    let mut file = OpenOptions::new()
        .create(true)
        .append(start > 0)
        .truncate(start == 0)
        .write(true)
        .open(request.part)
        .map_err(write_error)?;
    let mut body = response.into_body().into_reader();
    let mut block = vec![0; 256 << 10];
    let mut total = start;
    loop {
        let count = match body.read(&mut block) {
            Ok(0) => return Ok(Taken { total, broken: None }),
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Ok(Taken { total, broken: Some(one_line(&e.to_string())) }),
        };
        total += count as u64;
        if total > request.limit {
            drop(file);
            return Err(too_large(request, total));
        }
        file.write_all(&block[..count]).map_err(write_error)?;
        progress.at(total);
    }
}

/// The error for a body beyond the limit; its part is of no use and is deleted.
fn too_large(request: &Request<'_>, found: u64) -> SourceError {
    let deleted = crate::staging::remove(request.part);
    match deleted {
        Err(e) => e.into(),
        Ok(()) => SourceError::TooLarge { file: request.file.to_owned(), found, expected: request.limit },
    }
}

fn truncate(part: &Path) -> Result<(), StorageError> {
    File::create(part).map(drop).map_err(StorageError::io("write", part))
}

/// The first byte of a `Content-Range: bytes 7-99/100`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

fn read_bundle(path: &Path) -> Result<RootCerts, SourceError> {
    let bad = |reason: String| SourceError::Setting {
        setting: "SSL_CERT_FILE",
        reason: format!("{}: {reason}", path.display()),
    };
    let text = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
    let certificates: Vec<_> = parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(bad("it holds no certificate in PEM form".to_owned()));
    }
    Ok(RootCerts::from(certificates))
}

/// Scheme and host of an address.
fn origin(url: &str) -> String {
    url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/")
}

fn cause(error: &ureq::Error) -> String {
    match error {
        ureq::Error::HostNotFound => "its host name is not known (DNS)".to_owned(),
        ureq::Error::Io(e) => one_line(&e.to_string()),
        ureq::Error::Timeout(limit) => format!("no answer in time ({limit})"),
        other => one_line(&other.to_string()),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
