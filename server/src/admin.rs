//! Who may change the fleet, and the record of who did.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use crate::api_keys::ApiKeys;
use crate::auth::bearer_token;
use crate::connections::Peer;
use crate::request_log::RequestId;
use crate::settings::Settings;
use crate::state::AppState;
use crate::wire::error::ApiError;

/// Bytes after which the record of changes begins anew; the one before is kept beside it.
const MOST_AUDIT_BYTES: u64 = 64 << 20;
const AUDIT_FILE: &str = "audit.jsonl";

/// The rules about changes.
#[derive(Debug, Default)]
pub struct AdminRules {
    keys: ApiKeys,
    runtime_updating: bool,
    audit: Audit,
}

/// Somebody with an admin key.
#[derive(Clone, Debug)]
pub struct Admin(pub Actor);

/// Somebody who may load and unload adapters: with an admin key, or on this machine where that is allowed.
#[derive(Clone, Debug)]
pub struct Updater(pub Actor);

/// Who makes a change.
#[derive(Clone, Debug)]
pub struct Actor {
    /// His address.
    peer: String,
    /// The request.
    request_id: String,
    /// By which right.
    by: &'static str,
}

/// The record of changes: a line of JSON each, in the state directory, and in the log.
#[derive(Debug, Default)]
pub struct Audit {
    file: Option<(PathBuf, Mutex<File>)>,
}

impl AdminRules {
    /// What the settings say.
    ///
    /// # Errors
    /// When the record of changes cannot be opened.
    pub fn new(settings: &Settings) -> io::Result<Self> {
        let audit = Audit::open(settings.state_dir.0.as_deref())?;
        Ok(Self { audit, ..Self::unrecorded(settings) })
    }

    /// What the settings say, without a file that records changes.
    pub fn unrecorded(settings: &Settings) -> Self {
        let keys = ApiKeys::given(&settings.admin_api_key);
        Self { keys, runtime_updating: settings.allow_runtime_lora_updating, audit: Audit::default() }
    }

    /// Whether the request bears an admin key.
    pub fn opens(&self, headers: &HeaderMap) -> bool {
        self.keys.are_needed() && bearer_token(headers).is_some_and(|token| self.keys.open_to(token))
    }

    /// Whether somebody without a key may load and unload.
    pub fn may_update(&self, headers: &HeaderMap, peer: Option<Peer>) -> bool {
        // Behind a proxy on this machine everybody comes from it.
        // And a page in a browser on it, whoever wrote it, says where it comes from.
        let is_a_proxys = |name: &str| {
            ["forwarded", "via", "x-real-ip", "origin"].contains(&name)
                || name.starts_with("x-forwarded-")
                || name.starts_with("x-envoy-")
        };
        let is_forwarded = headers.keys().any(|name| is_a_proxys(name.as_str()));
        self.runtime_updating
            && !is_forwarded
            && names_this_machine(headers)
            && peer.is_some_and(|Peer(peer)| peer.ip().to_canonical().is_loopback())
    }

    /// The record of changes.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    fn refusal(&self, headers: &HeaderMap) -> ApiError {
        if !self.keys.are_needed() {
            let message = "this server takes no changes: it runs without --admin-api-key";
            return ApiError::invalid(StatusCode::FORBIDDEN, "admin_off", message);
        }
        let message = match bearer_token(headers) {
            Some(_) => "the key is no admin key of the server's",
            None => "an admin key is needed: send `Authorization: Bearer KEY`",
        };
        ApiError::invalid(StatusCode::UNAUTHORIZED, "invalid_admin_key", message)
    }
}

impl Audit {
    fn open(state_dir: Option<&Path>) -> io::Result<Self> {
        let Some(directory) = state_dir else { return Ok(Self::default()) };
        fs::create_dir_all(directory)?;
        let path = directory.join(AUDIT_FILE);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(Self { file: Some((path, Mutex::new(file))) })
    }

    /// Notes that `actor` did, or tried, `action` on the adapter `name`.
    pub fn note(&self, actor: &Actor, action: &'static str, name: &str, outcome: Result<Value, &ApiError>) {
        let (is_done, detail) = match outcome {
            Ok(detail) => (true, detail),
            Err(error) => (false, json!({"code": error.code(), "message": error.message()})),
        };
        let Actor { peer, request_id, by } = actor;
        tracing::info!(target: "polylora_server::audit", action, adapter = name, done = is_done, %detail, peer, request_id, by, "admin");
        let Some((path, file)) = &self.file else { return };
        let at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let line = json!({
            "at": at, "action": action, "adapter": name, "done": is_done, "detail": detail,
            "peer": peer, "request_id": request_id, "by": by,
        });
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = write_line(path, &mut file, &line) {
            tracing::error!(%error, path = %path.display(), "the record of changes could not be written");
        }
    }
}

/// Whether the request is for a name of this machine. A page in a browser whose own name is led to a loopback address (DNS
/// rebinding) sends that name.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|authority| {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let is_loopback = |host: &str| host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
        host.eq_ignore_ascii_case("localhost") || is_loopback(host)
    })
}

fn write_line(path: &Path, file: &mut File, line: &Value) -> io::Result<()> {
    if file.metadata()?.len() > MOST_AUDIT_BYTES {
        fs::rename(path, path.with_extension("1.jsonl"))?;
        *file = OpenOptions::new().create(true).append(true).open(path)?;
    }
    // One write: a line is there whole, or not at all.
    file.write_all(format!("{line}\n").as_bytes())
}

impl Actor {
    fn of(parts: &Parts, by: &'static str) -> Self {
        let peer = parts.extensions.get::<Peer>().map_or_else(String::new, |Peer(peer)| peer.to_string());
        let request_id =
            parts.extensions.get::<RequestId>().map_or_else(String::new, |RequestId(id)| id.clone());
        Self { peer, request_id, by }
    }
}

impl FromRequestParts<Arc<AppState>> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<AppState>) -> Result<Self, ApiError> {
        match state.admin().opens(&parts.headers) {
            true => Ok(Self(Actor::of(parts, "admin key"))),
            false => Err(state.admin().refusal(&parts.headers)),
        }
    }
}

impl FromRequestParts<Arc<AppState>> for Updater {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<AppState>) -> Result<Self, ApiError> {
        let rules = state.admin();
        if rules.opens(&parts.headers) {
            return Ok(Self(Actor::of(parts, "admin key")));
        }
        if rules.may_update(&parts.headers, parts.extensions.get::<Peer>().copied()) {
            return Ok(Self(Actor::of(parts, "runtime updating from this machine")));
        }
        if rules.keys.are_needed() || rules.runtime_updating {
            let message = "loading adapters needs an admin key, or --allow-runtime-lora-updating and a client on the server's machine";
            return Err(ApiError::invalid(StatusCode::FORBIDDEN, "runtime_updating_refused", message));
        }
        let message = "this server loads no adapters at run time: start it with --allow-runtime-lora-updating, or with --admin-api-key";
        Err(ApiError::invalid(StatusCode::FORBIDDEN, "runtime_updating_off", message))
    }
}
