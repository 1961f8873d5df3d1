//! Routes as an operator reads them: in the changes between two topologies, and in what a gateway shows of its services.

use std::fmt;

use super::{
    diff::{duration, split},
    model::Service,
    routes::{Mirror, Route, RouteAction, RouteRewrite},
};

/// The routes of a service in their order, each in a line: `canary: GET of /beta and below -> all to {version=v2}, timeout 2s`.
pub(super) fn all(service: &Service) -> Vec<String> {
    service.routes.iter().map(ToString::to_string).collect()
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one(self))
    }
}

fn one(route: &Route) -> String {
    let Route {
        label,
        matches,
        split: arms,
        sticky,
        criticality,
        timeout,
        rewrite,
        request_headers,
        response_headers,
        action,
        mirror,
    } = route;
    let mut parts = vec![match action {
        RouteAction::Forward => match arms {
            Some(arms) => split(arms),
            None => "the service's split".to_owned(),
        },
        RouteAction::Redirect(redirect) => {
            let to = RouteRewrite {
                host: redirect.host.clone(),
                path_prefix: redirect.path_prefix.clone(),
            };
            format!("redirect {} to {}", redirect.status, place(&to))
        }
        RouteAction::Answer(answer) => format!("answer {} {:?}", answer.status, answer.body),
    }];
    parts.extend(sticky.as_ref().map(|sticky| format!("sticky by {sticky}")));
    parts.extend(criticality.map(|criticality| criticality.word().to_owned()));
    parts.extend(timeout.map(|timeout| format!("timeout {}", duration(timeout))));
    if *rewrite != RouteRewrite::default() {
        parts.push(format!("rewritten to {}", place(rewrite)));
    }
    for (of, changes) in [("request", request_headers), ("response", response_headers)] {
        if !changes.is_empty() {
            parts.push(format!("{of} headers: {changes}"));
        }
    }
    parts.extend(
        mirror
            .as_ref()
            .map(|mirror| format!("{} % mirrored to {}", mirror.percent, copied_to(mirror))),
    );
    format!("{label}: {matches} -> {}", parts.join(", "))
}

fn copied_to(mirror: &Mirror) -> String {
    match &mirror.service {
        Some(service) if mirror.tags.is_empty() => service.to_string(),
        Some(service) => format!("{service}{}", mirror.tags),
        None => mirror.tags.to_string(),
    }
}

/// `5 % to shadow{version=v3}`.
impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} % to {}", self.percent, copied_to(self))
    }
}

/// `shop.example/new`.
fn place(rewrite: &RouteRewrite) -> String {
    let host = rewrite.host.as_deref().unwrap_or_default();
    let path = match rewrite.path_prefix.as_deref() {
        Some("") => "/",
        Some(path) => path,
        None => "",
    };
    format!("{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::super::{diff, parse};

    const ZONES: &str = "version: 1\ntrust_domain: acme.internal\nzones: { east: { gateways: [] } }\nservices:\n  orders:\n    port: 80\n    protocol: http\n    routes:\n";
    const CANARY: &str = "    - { name: canary, match: { methods: [GET], path_prefix: /beta, header: { x-canary: '1' } }, split: [{ tags: { version: v2 } }], timeout: 2s }\n";
    const MOVED: &str = "    - { name: moved, match: { path_prefix: /old }, redirect: { status: 308, host: shop.example, path_prefix: / } }\n";

    fn changes(before: &[&str], after: &[&str]) -> Vec<String> {
        let topology = |routes: &[&str]| {
            let text = format!("{ZONES}{}", routes.concat());
            parse(&text, "a").unwrap().topology
        };
        let diff = diff(&topology(before), &topology(after));
        diff.changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn routes_are_told_one_by_one() {
        let hidden = "    - { match: { host: a.b }, request_headers: { set: { x-a: '1' }, remove: [x-b] }, rewrite: { host: c.d } }\n";
        assert_eq!(
            changes(&[MOVED, hidden], &[CANARY, hidden]),
            [
                "- service orders: route: moved: any request of /old and below -> redirect 308 to shop.example/",
                "+ service orders: route: canary: GET of /beta and below with x-canary: 1 -> all to {version=v2}, timeout 2s",
            ]
        );
        assert_eq!(
            changes(&[CANARY], &[CANARY, hidden]),
            [
                "+ service orders: route: routes[1]: any request at a.b -> the service's split, rewritten to c.d, \
                 request headers: set x-a: 1, remove x-b"
            ]
        );
    }

    #[test]
    fn another_order_is_a_change() {
        let changes = changes(&[CANARY, MOVED], &[MOVED, CANARY]);
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert!(
            changes[0].starts_with("~ service orders: routes: canary: GET"),
            "{changes:?}"
        );
    }
}
