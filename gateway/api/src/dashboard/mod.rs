//! The dashboard at `/`: a page, its style and its modules, as they lie in `assets/`, within the program. They hold no data and are
//! served to everybody; what the page shows it asks the admin API for, under the rules that hold for everybody else.
//!
//! Written by hand, without a generator: what is in `assets/` is what a browser gets. Adding a file: its line in [`ASSETS`].

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// Content security policy of the page: it loads what is listed here from where it came from itself, and asks the API there. No
/// script, style or handler within the page, no frame around it, nothing from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// File of the dashboard.
#[derive(Debug, Clone, Copy)]
struct Asset {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

macro_rules! asset {
    ($path:literal, $content_type:expr, $file:literal) => {
        Asset {
            path: $path,
            content_type: $content_type,
            text: include_str!(concat!("assets/", $file)),
        }
    };
}

const ASSETS: &[Asset] = &[
    asset!("/", HTML, "index.html"),
    asset!("/dashboard/style.css", STYLE, "style.css"),
    asset!("/dashboard/icon.svg", PICTURE, "icon.svg"),
    asset!("/dashboard/app.js", SCRIPT, "app.js"),
    asset!("/dashboard/api.js", SCRIPT, "api.js"),
    asset!("/dashboard/difference.js", SCRIPT, "difference.js"),
    asset!("/dashboard/dom.js", SCRIPT, "dom.js"),
    asset!("/dashboard/explain.js", SCRIPT, "explain.js"),
    asset!("/dashboard/format.js", SCRIPT, "format.js"),
    asset!("/dashboard/map.js", SCRIPT, "map.js"),
    asset!("/dashboard/model.js", SCRIPT, "model.js"),
    asset!("/dashboard/parts.js", SCRIPT, "parts.js"),
    asset!("/dashboard/services.js", SCRIPT, "services.js"),
    asset!("/dashboard/shifts.js", SCRIPT, "shifts.js"),
    asset!("/dashboard/timeline.js", SCRIPT, "timeline.js"),
    asset!("/dashboard/topology.js", SCRIPT, "topology.js"),
    asset!("/dashboard/traffic.js", SCRIPT, "traffic.js"),
    asset!("/dashboard/zones.js", SCRIPT, "zones.js"),
];

/// Tells whether a path is one of the dashboard's, which hold nothing that is not in the program itself.
pub(crate) fn has(path: &str) -> bool {
    ASSETS.iter().any(|asset| asset.path == path)
}

/// Routes of all files; `HEAD` as `GET`.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        let tag = tag(asset.text);
        let serve = move |headers: HeaderMap| {
            let response = serve(*asset, &tag, &headers);
            async { response }
        };
        router.route(asset.path, get(serve))
    })
}

fn serve(asset: Asset, tag: &HeaderValue, asked: &HeaderMap) -> Response {
    // Asked each time, and answered with nothing but "as before" until the program is another one.
    let fixed = [
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    let known = asked.get_all(header::IF_NONE_MATCH).iter();
    let mut response = match known.into_iter().any(|list| names(list, tag)) {
        true => (StatusCode::NOT_MODIFIED, fixed).into_response(),
        false => (fixed, [(header::CONTENT_TYPE, asset.content_type)], asset.text).into_response(),
    };
    response.headers_mut().insert(header::ETAG, tag.clone());
    response
}

/// Tells whether an `If-None-Match` has a tag among its own.
fn names(list: &HeaderValue, tag: &HeaderValue) -> bool {
    let parts = list
        .as_bytes()
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii);
    parts
        .map(|part| part.strip_prefix(b"W/").unwrap_or(part))
        .any(|part| part == tag.as_bytes() || part == b"*")
}

/// Makes an entity tag that another text has hardly ever: FNV-1a of 64 bits. Whoever could choose the texts has written the program.
fn tag(text: &str) -> HeaderValue {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    HeaderValue::from_str(&format!("\"{hash:016x}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

#[cfg(test)]
mod tests;
