//! Checks of what the files of the dashboard are, and of how they are served.

use std::collections::BTreeSet;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;

/// Most bytes of all files together: they lie in the memory of every gateway.
const MAX_BYTES: usize = 160 * 1024;

async fn answer(method: &str, path: &str, tag: Option<&HeaderValue>) -> Response {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(tag) = tag {
        request = request.header(header::IF_NONE_MATCH, tag);
    }
    let request = request.body(Body::empty()).unwrap();
    routes::<()>().oneshot(request).await.unwrap()
}

#[tokio::test]
async fn every_file_is_served_as_what_it_is_under_a_strict_policy() {
    for asset in ASSETS {
        let response = answer("GET", asset.path, None).await;
        assert_eq!(response.status(), StatusCode::OK, "{}", asset.path);
        let headers = response.headers().clone();
        let is = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or("")
        };
        assert_eq!(is("content-type"), asset.content_type);
        assert_eq!(is("x-content-type-options"), "nosniff");
        assert_eq!(is("referrer-policy"), "no-referrer");
        assert_eq!(is("cache-control"), "no-cache");
        assert_eq!(is("cross-origin-resource-policy"), "same-origin");
        assert_eq!(
            is("content-security-policy"),
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, asset.text.as_bytes());
    }
}

#[tokio::test]
async fn what_a_browser_has_is_not_sent_again() {
    let first = answer("GET", "/dashboard/app.js", None).await;
    let tag = first.headers()[header::ETAG].clone();
    let again = answer("GET", "/dashboard/app.js", Some(&tag)).await;
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    assert!(again.into_body().collect().await.unwrap().to_bytes().is_empty());
    let several = HeaderValue::from_str(&format!("\"other\", W/{}", tag.to_str().unwrap())).unwrap();
    let again = answer("GET", "/dashboard/app.js", Some(&several)).await;
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    let other = answer("GET", "/dashboard/api.js", Some(&tag)).await;
    assert_eq!(other.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_head_has_the_length_and_no_body_and_nothing_else_is_there() {
    let head = answer("HEAD", "/", None).await;
    assert_eq!(head.status(), StatusCode::OK);
    let length = head.headers()[header::CONTENT_LENGTH]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(length, ASSETS[0].text.len().to_string());
    assert!(head.into_body().collect().await.unwrap().to_bytes().is_empty());
    for path in [
        "/dashboard/",
        "/dashboard/other.js",
        "/dashboard/../mod.rs",
        "/index.html",
    ] {
        assert_eq!(
            answer("GET", path, None).await.status(),
            StatusCode::NOT_FOUND,
            "{path}"
        );
        assert!(!has(path));
    }
    let post = answer("POST", "/", None).await;
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[test]
fn the_files_are_small_and_listed() {
    let bytes: usize = ASSETS.iter().map(|asset| asset.text.len()).sum();
    assert!(bytes <= MAX_BYTES, "{bytes} bytes");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/dashboard/assets");
    let there = std::fs::read_dir(folder).unwrap();
    let there: BTreeSet<String> = there
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let listed: BTreeSet<String> = ASSETS
        .iter()
        .map(|asset| match asset.path {
            "/" => "index.html".to_owned(),
            path => path.trim_start_matches("/dashboard/").to_owned(),
        })
        .collect();
    assert_eq!(there, listed);
    let lines = ASSETS
        .iter()
        .map(|asset| (asset.path, asset.text.lines().count()));
    let long: Vec<_> = lines.filter(|(_, lines)| *lines > 500).collect();
    assert!(long.is_empty(), "a file has at most 500 lines: {long:?}");
}

#[test]
fn no_file_refers_to_anything_outside() {
    for asset in ASSETS {
        // Names of vocabularies, which nobody fetches.
        let text = asset.text.replace("http://www.w3.org/2000/svg", "");
        for outside in ["://", "url(", "@import", "srcset", "\"//", "'//"] {
            assert!(!text.contains(outside), "{} has `{outside}`", asset.path);
        }
    }
    // Whatever is loaded is one of the files.
    let loaded = |text: &'static str, mark: &'static str| {
        text.split(mark)
            .skip(1)
            .filter_map(|rest| rest.split(['"', '\'']).next())
    };
    for asset in ASSETS {
        let imported = loaded(asset.text, "from './").map(|name| format!("/dashboard/{name}"));
        let linked = ["src=\"", "href=\""]
            .into_iter()
            .flat_map(|mark| loaded(asset.text, mark));
        let linked = linked.filter(|path| !path.starts_with('#')).map(str::to_owned);
        for path in imported.chain(linked) {
            assert!(has(&path), "{} loads {path}", asset.path);
        }
    }
}

#[test]
fn no_file_makes_markup_or_code_of_text() {
    for asset in ASSETS {
        for means in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "createContextualFragment",
            "DOMParser",
            "srcdoc",
            "eval(",
            "Function(",
            "import(",
            "localStorage",
            "sessionStorage",
            "document.cookie",
            "indexedDB",
            "<style",
            " style=",
            " onclick=",
            "javascript:",
        ] {
            assert!(!asset.text.contains(means), "{} has `{means}`", asset.path);
        }
        // A script within the page would not run under the policy.
        let scripts = asset.text.matches("<script").count();
        assert_eq!(
            scripts,
            asset
                .text
                .matches("<script type=\"module\" src=\"/dashboard/")
                .count()
        );
    }
}
