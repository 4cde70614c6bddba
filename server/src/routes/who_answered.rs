//! The headers that say which version of an adapter answered, or why none did.

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use polylora_engine::ServedBy;

/// The header that names who answered: `name@version#digest8`.
const ADAPTER: HeaderName = HeaderName::from_static("x-polylora-adapter");
/// The header that says why the base model answered in place of an adapter.
const FALLBACK_REASON: HeaderName = HeaderName::from_static("x-polylora-fallback-reason");
/// Bytes of a text that go into a header.
const MOST_HEADER_BYTES: usize = 1000;

/// Says in headers which version of an adapter answered, or why none did.
pub(super) fn name_who_answered(
    response: &mut Response,
    served_by: Option<&ServedBy>,
    fallback_reason: Option<&str>,
) {
    let headers = response.headers_mut();
    if let Some(served_by) = served_by {
        headers.insert(ADAPTER, in_a_header(&served_by.tag));
    }
    if let Some(reason) = fallback_reason {
        headers.insert(FALLBACK_REASON, in_a_header(reason));
    }
}

/// A text as a header's value: what is not plain ASCII is written as URLs write it.
fn in_a_header(text: &str) -> HeaderValue {
    let mut value = String::new();
    for byte in text.bytes().take(MOST_HEADER_BYTES) {
        match byte {
            b' '..=b'~' if byte != b'%' => value.push(char::from(byte)),
            _ => value.push_str(&format!("%{byte:02X}")),
        }
    }
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}
