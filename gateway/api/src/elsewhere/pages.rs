//! Pages that may be asked of another zone, and where a request is meant. Pure.

use causeway_federation::name::ZoneName;
use http::{Method, StatusCode, Uri};

use crate::admin::ApiError;

/// Longest path of a page with its query, in bytes.
pub(crate) const MAX_PATH_BYTES: usize = 4096;

/// Right that another zone's gateway needs to read a page for somebody who has shown no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageRight {
    /// To be a gateway of the federation: it is about zones and services. Instances are left out of it.
    Federation,
    /// A grant of `--admin-allow`.
    Granted,
}

/// A page that may be asked for elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KnownPage {
    path: &'static str,
    right: PageRight,
    /// It has a parameter `zone` that means something else.
    has_zone: bool,
}

const fn page(path: &'static str, right: PageRight) -> KnownPage {
    KnownPage {
        path,
        right,
        has_zone: false,
    }
}

const PAGES: [KnownPage; 16] = [
    page("/v1/zones", PageRight::Federation),
    page("/v1/services", PageRight::Federation),
    page("/v1/instances", PageRight::Granted),
    page("/v1/tunnels", PageRight::Federation),
    page("/v1/exports", PageRight::Federation),
    page("/v1/loads", PageRight::Federation),
    page("/v1/catalog", PageRight::Federation),
    page("/v1/shifts", PageRight::Federation),
    page("/v1/checks", PageRight::Federation),
    page("/v1/topology", PageRight::Federation),
    page("/v1/topology/history", PageRight::Federation),
    page("/v1/trust", PageRight::Federation),
    KnownPage {
        has_zone: true,
        ..page("/v1/explain", PageRight::Federation)
    },
    page("/v1/settings", PageRight::Granted),
    page("/v1/events", PageRight::Federation),
    page("/v1/figures", PageRight::Federation),
];

/// Page that is asked for: a path of the list, and its query without the words that say where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AskedPage {
    pub(crate) path: String,
    pub(crate) right: PageRight,
}

impl AskedPage {
    /// Reads what another gateway asks for. `None`: it is no page of the list, is too long, or says where in its turn.
    pub(crate) fn told(path: &str) -> Option<Self> {
        let uri: Uri = path.parse().ok()?;
        let is_path = uri.authority().is_none() && uri.scheme().is_none() && path.starts_with('/');
        let known = known(uri.path()).filter(|_| is_path && path.len() <= MAX_PATH_BYTES)?;
        let says_where = pairs(&uri).any(|(key, _)| known.says_where(key));
        (!says_where).then(|| Self {
            path: path.to_owned(),
            right: known.right,
        })
    }
}

impl KnownPage {
    fn says_where(&self, key: &str) -> bool {
        matches!(key, "at" | "all") || (key == "zone" && !self.has_zone)
    }
}

/// Zones that a request is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meant {
    /// The own one, which is asked as it stands.
    Here,
    At(ZoneName, AskedPage),
    Everywhere(AskedPage),
}

fn known(path: &str) -> Option<KnownPage> {
    PAGES.into_iter().find(|page| page.path == path)
}

fn pairs(uri: &Uri) -> impl Iterator<Item = (&str, &str)> {
    let parts = uri.query().unwrap_or_default().split('&');
    parts
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('=').unwrap_or((part, "")))
}

/// Reads where a request is meant.
///
/// # Errors
/// It is no page that can be asked for elsewhere, or says two things at once.
pub(crate) fn meant(method: &Method, uri: &Uri) -> Result<Meant, ApiError> {
    let page = known(uri.path());
    let elsewhere = |key: &str| page.map_or(matches!(key, "at" | "all"), |page| page.says_where(key));
    if !pairs(uri).any(|(key, _)| elsewhere(key)) {
        return Ok(Meant::Here);
    }
    let Some(page) = page.filter(|_| method == Method::GET) else {
        return Err(nowhere(uri.path()));
    };
    let (mut at, mut all, mut rest) = (None, false, Vec::new());
    for (key, value) in pairs(uri) {
        match key {
            "all" if matches!(value, "" | "true") => all = true,
            "all" if value == "false" => {}
            "all" => return Err(ApiError::bad_request("`all` is true or false")),
            _ if page.says_where(key) && at.is_some() => {
                return Err(ApiError::bad_request(
                    "a request is for one zone, or with `all=true` for every one",
                ));
            }
            _ if page.says_where(key) => {
                let zone = ZoneName::new(value);
                at = Some(zone.map_err(|error| ApiError::bad_request(error.to_string()))?);
            }
            "" => {}
            _ if value.is_empty() => rest.push(key.to_owned()),
            _ => rest.push(format!("{key}={value}")),
        }
    }
    let path = match rest.is_empty() {
        true => page.path.to_owned(),
        false => format!("{}?{}", page.path, rest.join("&")),
    };
    if path.len() > MAX_PATH_BYTES {
        let error = format!("what is asked of other zones has at most {MAX_PATH_BYTES} bytes");
        return Err(ApiError::new(StatusCode::URI_TOO_LONG, error));
    }
    let asked = AskedPage {
        path,
        right: page.right,
    };
    match (at, all) {
        (Some(_), true) => Err(ApiError::bad_request(
            "`all=true` is for every zone, and one is named beside it",
        )),
        (Some(zone), false) => Ok(Meant::At(zone, asked)),
        (None, true) => Ok(Meant::Everywhere(asked)),
        (None, false) => Ok(Meant::Here),
    }
}

fn nowhere(path: &str) -> ApiError {
    let path: String = path.chars().take(200).collect();
    let pages: Vec<_> = PAGES.iter().map(|page| page.path).collect();
    ApiError::bad_request(format!("{path} cannot be asked of another zone"))
        .hint(format!("these can be read so: {}", pages.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(request: &str) -> Result<Meant, String> {
        let (method, uri) = request.split_once(' ').unwrap();
        meant(&method.parse().unwrap(), &uri.parse().unwrap()).map_err(|error| error.error)
    }

    fn path(request: &str) -> (String, String) {
        match read(request).unwrap() {
            Meant::Here => ("here".to_owned(), String::new()),
            Meant::At(zone, page) => (zone.to_string(), page.path),
            Meant::Everywhere(page) => ("all".to_owned(), page.path),
        }
    }

    #[test]
    fn a_request_says_where_it_is_meant_and_the_rest_is_asked_there() {
        for (request, place, asked) in [
            ("GET /v1/zones", "here", ""),
            ("GET /v1/zones?all=false", "here", ""),
            ("GET /v1/zones?all=true", "all", "/v1/zones"),
            ("GET /v1/zones?zone=west", "west", "/v1/zones"),
            (
                "GET /v1/topology?text=true&at=west",
                "west",
                "/v1/topology?text=true",
            ),
            ("GET /v1/explain?service=orders&zone=west", "here", ""),
            (
                "GET /v1/explain?service=orders&zone=west&at=north",
                "north",
                "/v1/explain?service=orders&zone=west",
            ),
            ("PUT /v1/topology?generation=6", "here", ""),
            ("GET /readyz?verbose", "here", ""),
        ] {
            assert_eq!(path(request), (place.to_owned(), asked.to_owned()), "{request}");
        }
    }

    #[test]
    fn nothing_but_a_page_of_the_list_is_asked_elsewhere() {
        for request in [
            "PUT /v1/topology?at=west",
            "DELETE /v1/instances/orders/a?all=true",
            "POST /v1/topology/diff?all",
            "HEAD /v1/zones?all=true",
            "GET /metrics?at=west",
            "GET /v1/socket?all=true",
            "GET /v1/instances/orders/a?all=true",
        ] {
            assert!(
                read(request).unwrap_err().contains("cannot be asked"),
                "{request}"
            );
        }
        for request in [
            "GET /v1/zones?all=true&zone=west",
            "GET /v1/zones?at=east&zone=west",
            "GET /v1/zones?all=maybe",
            "GET /v1/zones?zone=No%20Zone",
            "GET /v1/zones?zone=",
        ] {
            assert!(read(request).is_err(), "{request}");
        }
    }

    #[test]
    fn what_another_gateway_asks_for_is_of_the_list_and_for_this_zone_alone() {
        assert_eq!(
            AskedPage::told("/v1/instances").unwrap().right,
            PageRight::Granted
        );
        assert_eq!(
            AskedPage::told("/v1/explain?service=orders&zone=west")
                .unwrap()
                .right,
            PageRight::Federation
        );
        for path in [
            "/v1/zones?all=true",
            "/v1/zones?zone=north",
            "/v1/explain?service=orders&at=north",
            "/v1/socket",
            "/metrics",
            "v1/zones",
            "http://evil.example/v1/zones",
            "/v1/zones/",
            "",
            &format!("/v1/zones?{}", "x".repeat(MAX_PATH_BYTES)),
        ] {
            assert_eq!(AskedPage::told(path), None, "{path}");
        }
    }
}
