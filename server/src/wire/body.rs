//! A JSON body, or an error object that says what is wrong with it and where.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::error::ApiError;
use crate::state::AppState;

/// Bytes of a body over the limit that are read all the same, so that its sender can read the refusal.
const MOST_DISCARDED_BYTES: usize = 32 << 20;
/// How long they are read.
const LONGEST_DISCARDING: Duration = Duration::from_secs(3);

/// Extracts a JSON object; refuses with an OpenAI error object.
#[derive(Clone, Debug)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<AppState>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<AppState>) -> Result<Self, ApiError> {
        parse_object(&json_bytes(request, state).await?).map(Self)
    }
}

/// The body of a request that says of it that it is JSON.
pub(super) async fn json_bytes(request: Request, state: &AppState) -> Result<Bytes, ApiError> {
    is_json(request.headers())?;
    let (parts, body) = request.into_parts();
    read_body(&parts.headers, body, state.payload_limit()).await
}

/// The whole body, of at most `limit` bytes.
///
/// # Errors
/// 413 for a larger one, 400 for one that breaks off.
pub(crate) async fn read_body(headers: &HeaderMap, mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || {
        let message =
            format!("the body is larger than {limit} bytes (--payload-limit): send fewer or shorter inputs");
        ApiError::invalid(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message)
    };
    // Who waits for `100 Continue` sends nothing when it does not come.
    let waits = headers.contains_key(header::EXPECT);
    if content_length(headers).is_some_and(|length| length > limit as u64) {
        if !waits {
            discard(body).await;
        }
        return Err(too_large());
    }
    let mut read = Pieces::default();
    while let Some(data) = next_data(&mut body).await {
        let data = data.map_err(|_| {
            let message = "the body could not be read to its end";
            ApiError::invalid(StatusCode::BAD_REQUEST, "body_unreadable", message)
        })?;
        if read.len() + data.len() > limit {
            discard(body).await;
            return Err(too_large());
        }
        read.add(data);
    }
    Ok(read.whole())
}

/// What was read of a body; one that came in one piece is not copied.
#[derive(Default)]
struct Pieces {
    first: Bytes,
    all: Vec<u8>,
}

impl Pieces {
    fn len(&self) -> usize {
        self.first.len().max(self.all.len())
    }

    fn add(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.first = data;
            return;
        }
        if self.all.is_empty() {
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&data);
    }

    fn whole(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.into() }
    }
}

/// Reads and throws away what is left of a refused body, within bounds: the connection of a client that sends all before
/// it reads would break under its hands, and it would never see why.
pub(crate) async fn discard(mut body: Body) {
    let reading = async {
        let mut bytes = 0;
        while let Some(Ok(data)) = next_data(&mut body).await {
            bytes += data.len();
            if bytes > MOST_DISCARDED_BYTES {
                break;
            }
        }
    };
    // Whether it came to the end or not, the refusal follows.
    let _ = tokio::time::timeout(LONGEST_DISCARDING, reading).await;
}

async fn next_data(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
    // The other kind of frame is trailers, which say nothing here.
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}

/// Parses a JSON object.
///
/// # Errors
/// 400 with the field, the line and the column, and what was expected.
pub fn parse_object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // serde would take an array for a struct, field by field.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|&byte| byte == b'[') {
        return Err(bad_json("the body is a list, expected a JSON object"));
    }
    // serde_json looks at the bytes of those strings only that are kept.
    let text = std::str::from_utf8(bytes).map_err(|error| {
        bad_json(&format!("the body is no valid JSON: byte {} is not UTF-8", error.valid_up_to()))
    })?;
    // Keeping track of the path takes time that only a faulty body is worth.
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(value);
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().iter().next().is_some().then(|| error.path().to_string());
        let inner = error.into_inner();
        match (inner.classify(), field) {
            (Category::Data, Some(field)) => {
                let message = wrong_value(&format!("`{field}`"), &inner);
                ApiError::invalid(StatusCode::BAD_REQUEST, "invalid_value", message).naming(field)
            }
            (Category::Data, None) => {
                let message = wrong_value("the body", &inner);
                ApiError::invalid(StatusCode::BAD_REQUEST, "invalid_value", message)
            }
            (Category::Syntax | Category::Eof | Category::Io, _) => {
                bad_json(&format!("the body is no valid JSON: {inner}"))
            }
        }
    })?;
    json.end().map_err(|error| bad_json(&format!("the body is no valid JSON: {error}")))?;
    Ok(value)
}

/// What a value must be, what it is and where, in JSON's words rather than serde's.
fn wrong_value(what: &str, error: &serde_json::Error) -> String {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let told = error.to_string();
    let reason = told.strip_suffix(&place).unwrap_or(&told);
    let mismatch = reason.strip_prefix("invalid type: ").or_else(|| reason.strip_prefix("invalid value: "));
    // From the right: what was found is the client's and may say "expected" itself.
    match mismatch.and_then(|mismatch| mismatch.rsplit_once(", expected ")) {
        Some((found, expected)) => {
            let found = match found {
                "map" => "an object",
                "sequence" => "a list",
                other => other,
            };
            format!("{what} must be {expected}{place}; found {found}")
        }
        None => format!("{what}: {told}"),
    }
}

fn bad_json(message: &str) -> ApiError {
    ApiError::invalid(StatusCode::BAD_REQUEST, "invalid_json", message)
}

fn is_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence =
        content_type.unwrap_or("none").split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(ApiError::invalid(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!(
            "the content type is {essence}, expected application/json: send `Content-Type: application/json`"
        ),
    ))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
