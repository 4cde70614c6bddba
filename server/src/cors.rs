//! Which pages may call the server from a browser.

use std::time::Duration;

use axum::http::{HeaderValue, Method};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer, ExposeHeaders};

use crate::settings::Origin;

/// How long a browser may keep an answer to its preflight.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3600);

/// The layer that answers preflights and marks replies, where any origin is allowed. Credentials of browsers (cookies) are
/// never asked for: keys come in a header.
pub fn layer(origins: &[Origin]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let exact: Option<Vec<HeaderValue>> = origins
        .iter()
        .map(|origin| match origin {
            Origin::Any => None,
            Origin::Exact(origin) => Some(origin.clone()),
        })
        .collect();
    let layer = CorsLayer::new()
        .allow_origin(exact.map_or_else(AllowOrigin::any, AllowOrigin::list))
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        // A `*` would leave out Authorization.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(ExposeHeaders::any())
        .max_age(PREFLIGHT_AGE);
    Some(layer)
}
