//! The status page: plain files that are in the program. Nothing runs inline and no other host is asked, and the browser is
//! told to see to both.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use polylora_adapters::DigestBuilder;

use crate::state::AppState;

/// Where the page's files are; the page itself is at `/`.
const FILES: [PageFile; 7] = [
    PageFile { path: "/page/page.css", kind: "text/css; charset=utf-8", text: include_str!("page/page.css") },
    PageFile { path: "/page/icon.svg", kind: "image/svg+xml", text: include_str!("page/icon.svg") },
    PageFile { path: "/page/page.js", kind: SCRIPT, text: include_str!("page/page.js") },
    PageFile { path: "/page/server.js", kind: SCRIPT, text: include_str!("page/server.js") },
    PageFile { path: "/page/live.js", kind: SCRIPT, text: include_str!("page/live.js") },
    PageFile { path: "/page/chat.js", kind: SCRIPT, text: include_str!("page/chat.js") },
    PageFile { path: "/page/compare.js", kind: SCRIPT, text: include_str!("page/compare.js") },
];
const SCRIPT: &str = "text/javascript; charset=utf-8";
const FRONT: PageFile =
    PageFile { path: "/", kind: "text/html; charset=utf-8", text: include_str!("page/index.html") };

/// Only files of this server, no frame around it, nothing sent elsewhere.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
);

/// A file of the page.
#[derive(Clone, Copy)]
struct PageFile {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

/// The routes of the page's files.
pub(crate) fn routes() -> Router<Arc<AppState>> {
    FILES.into_iter().fold(Router::new(), |router, file| {
        let tag = file.tag();
        router.route(file.path, get(move |headers: HeaderMap| async move { file.answer(&headers, &tag) }))
    })
}

/// The page itself.
pub(crate) fn front(headers: &HeaderMap) -> Response {
    static TAG: LazyLock<HeaderValue> = LazyLock::new(|| FRONT.tag());
    FRONT.answer(headers, &TAG)
}

/// Whether there is nothing to hide in what a path answers to that request: the page is the same for everybody.
pub(crate) fn is_public(path: &str, headers: &HeaderMap) -> bool {
    FILES.iter().any(|file| file.path == path) || path == FRONT.path && prefers_html(headers)
}

/// Whether a client asks for HTML by name, and for JSON no more than for that: browsers do.
pub(crate) fn prefers_html(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (mut html, mut json) = (0.0, 0.0);
    for range in ranges.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let quality: f32 = quality.map_or(1.0, |quality| quality.trim().parse().unwrap_or(0.0));
        if kind.eq_ignore_ascii_case("text/html") {
            html = quality;
        } else if kind.eq_ignore_ascii_case("application/json") {
            json = quality;
        }
    }
    html > 0.0 && html >= json
}

impl PageFile {
    /// Another content has another tag.
    fn tag(&self) -> HeaderValue {
        let digest = DigestBuilder::new("polylora page").field(self.text.as_bytes()).finish().to_hex();
        HeaderValue::try_from(format!("\"{}\"", &digest[..32]))
            .expect("hexadecimal digits make a header value")
    }

    /// The file, or that the browser's copy is still the same.
    fn answer(&self, headers: &HeaderMap, tag: &HeaderValue) -> Response {
        let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        let mine = tag.to_str().unwrap_or_default();
        let is_same = known.is_some_and(|known| {
            known
                .split(',')
                .map(|tag| tag.trim().trim_start_matches("W/"))
                .any(|tag| tag == mine || tag == "*")
        });
        let mut response = match is_same {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => ([(header::CONTENT_TYPE, self.kind)], self.text).into_response(),
        };
        let fixed: [(HeaderName, HeaderValue); 6] = [
            (header::ETAG, tag.clone()),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::VARY, HeaderValue::from_static("accept")),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        ];
        response.headers_mut().extend(fixed);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_html_and_others_what_they_got() {
        let of = |accept: &str| {
            let value = HeaderValue::from_str(accept).unwrap();
            prefers_html(&HeaderMap::from_iter([(header::ACCEPT, value)]))
        };
        for browser in [
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "text/html",
            "TEXT/HTML; charset=utf-8",
            "application/json;q=0.5, text/html;q=0.9",
            "*/*, text/html",
        ] {
            assert!(of(browser), "{browser}");
        }
        for other in [
            "*/*",
            "",
            "application/json",
            "text/*",
            "text/html;q=0",
            "text/html;q=many",
            "application/json, text/html;q=0.9",
            "text/htmlx",
        ] {
            assert!(!of(other), "{other}");
        }
        assert!(!prefers_html(&HeaderMap::new()));
    }

    #[test]
    fn nothing_in_the_page_is_inline_or_from_elsewhere() {
        for attribute in [" style=", " onclick", " onload", " onsubmit", "<style", "javascript:"] {
            assert!(!FRONT.text.contains(attribute), "{attribute}");
        }
        assert_eq!(
            FRONT.text.matches("<script").count(),
            FRONT.text.matches("<script type=\"module\" src=").count()
        );
        for file in FILES.iter().chain([&FRONT]) {
            // The name of a namespace is nothing that is fetched.
            let text = file.text.replace("http://www.w3.org/2000/svg", "");
            for elsewhere in
                ["http:", "https:", "url(", "@import", "innerHTML", "outerHTML", "insertAdjacent", "eval("]
            {
                assert!(!text.contains(elsewhere), "{}: {elsewhere}", file.path);
            }
        }
    }
}
