//! Patterns that do not compile, names that are given twice, ports that are not there, and routes that no request gets to.

use std::collections::BTreeMap;

use super::{
    super::{
        diagnostic::Diagnostic,
        fields::Spanned,
        model::Protocol,
        raw::{Port, Route, Service},
        routes::RouteMatch,
    },
    Context, named,
};
use crate::request_path::{PathPattern, PatternError};

/// Different patterns of one file: each is compiled, and kept by every gateway.
const MAX_PATTERNS: usize = 1000;

pub(super) fn check(context: &Context<'_>) {
    patterns(context);
    for service in &context.file.services {
        names(context, service);
        ports(context, service);
        mirrors(context, service);
        reach(context, service);
    }
}

/// Compiles every pattern once, however often it is used.
fn patterns<'a>(context: &Context<'a>) {
    let services = &context.file.services;
    let routes = services.iter().flat_map(|service| &service.routes);
    let of_routes = routes.filter_map(|route| route.value.conditions.as_ref());
    let lists = services
        .iter()
        .flat_map(|service| [&service.allow, &service.deny].into_iter().flatten());
    let entries = lists.flat_map(|entries| &entries.items);
    let conditions = of_routes.chain(entries.map(|entry| &entry.value.requests));
    let mut known: BTreeMap<&'a str, Result<PathPattern, PatternError>> = BTreeMap::new();
    for pattern in conditions.filter_map(|conditions| conditions.pattern.as_ref()) {
        let text = pattern.text.value.as_str();
        if known.len() >= MAX_PATTERNS && !known.contains_key(text) {
            let message = format!("the file has more than {MAX_PATTERNS} different patterns for paths");
            let found = Diagnostic::error("too-many", &pattern.text.span, message);
            context
                .sink
                .push(found.hint("use `path_prefix` where it will do"));
            return;
        }
        let compiled = known.entry(text).or_insert_with(|| PathPattern::new(text));
        match compiled {
            Ok(compiled) => {
                // It was empty: each is looked at once.
                let _ = pattern.compiled.set(compiled.clone());
            }
            Err(error) => {
                let hint = match error {
                    PatternError::Syntax(_) => {
                        "the syntax is that of https://docs.rs/regex, for ASCII: without look-around and back-references"
                    }
                    PatternError::TooLarge => {
                        "count fewer repetitions, put `^` before it, or use `path_prefix`"
                    }
                };
                let message = format!("this is not a pattern for paths: {error}");
                let found = Diagnostic::error("bad-pattern", &pattern.text.span, message);
                context.sink.push(found.hint(hint));
            }
        }
    }
}

fn names(context: &Context<'_>, service: &Service) {
    let mut seen = BTreeMap::new();
    for name in service
        .routes
        .iter()
        .filter_map(|route| route.value.name.as_ref())
    {
        if let Some(first) = seen.insert(name.value.as_str(), &name.span) {
            let message = format!(
                "two routes of `{}` have the name `{}`",
                service.name.value, name.value
            );
            let found = Diagnostic::error("duplicate-route", &name.span, message)
                .related(first, "first given here")
                .hint("the access log and the metrics tell routes apart by their names");
            context.sink.push(found);
        }
    }
}

/// A route for one port names one at which requests are looked at.
fn ports(context: &Context<'_>, service: &Service) {
    let conditions = service
        .routes
        .iter()
        .filter_map(|route| route.value.conditions.as_ref());
    for wanted in conditions.filter_map(|conditions| conditions.port.as_ref()) {
        let is_wanted = |port: &&Port| port.name.as_ref().is_some_and(|name| name.value == wanted.value);
        let port = service.ports.iter().find(is_wanted);
        let protocol = port.and_then(|port| port.protocol.as_ref());
        let found = match (port, protocol) {
            (None, _) if service.has_all_ports => {
                let message = format!("`{}` has no port `{}`", service.name.value, wanted.value);
                let names = service.ports.iter().filter_map(|port| port.name.as_ref());
                let names: Vec<&str> = names.map(|name| name.value.as_str()).collect();
                let hint = match names.is_empty() {
                    true => "a service with one `port` has no names for it: write `ports: { http: 8080 }`"
                        .to_owned(),
                    false => format!("it has {}", named(&names)),
                };
                let nearest = context.sink.nearest(wanted.value.as_str(), names);
                Diagnostic::error("unknown-port", &wanted.span, message)
                    .did_you_mean(nearest)
                    .hint(hint)
            }
            (Some(_), Some(protocol)) if !protocol.value.is_http() => {
                let message = format!("requests at port `{}` are not looked at", wanted.value);
                Diagnostic::error("routes-need-http", &wanted.span, message)
                    .related(&protocol.span, "what is spoken there")
                    .hint("name a port of `protocol: http` or `grpc`")
            }
            _ => continue,
        };
        context.sink.push(found);
    }
}

/// Protocols of the requests that a route is for, where they stand.
fn spoken<'a>(service: &'a Service, route: &'a Route) -> impl Iterator<Item = &'a Spanned<Protocol>> {
    let port = route
        .conditions
        .as_ref()
        .and_then(|conditions| conditions.port.as_ref());
    let is_for = move |own: &&Port| {
        let name = own.name.as_ref().map(|name| &name.value);
        port.is_none_or(|port| name == Some(&port.value))
    };
    let protocols = service
        .ports
        .iter()
        .filter(is_for)
        .filter_map(|port| port.protocol.as_ref());
    protocols.filter(|protocol| protocol.value.is_http())
}

/// Copies go to a service that is there and speaks as the one that they are of, and not where the requests go in any case.
fn mirrors(context: &Context<'_>, service: &Service) {
    for route in &service.routes {
        let Some(mirror) = &route.value.mirror else {
            continue;
        };
        let name = mirror.value.service.as_ref().unwrap_or(&service.name.value);
        if *name == service.name.value {
            if mirror.value.tags.is_empty() {
                let message = "these copies go where the requests go";
                let found = Diagnostic::error("mirrors-itself", &mirror.span, message);
                let hint = "name another `service`, or `tags` of instances that take no requests";
                context.sink.push(found.hint(hint));
            }
            continue;
        }
        let Some(other) = context.services.get(name) else {
            let known = context.services.keys().map(|service| service.as_str());
            let message = format!("there is no service `{name}`");
            let found = Diagnostic::error("unknown-service", &mirror.span, message)
                .did_you_mean(context.sink.nearest(name.as_str(), known))
                .hint("services are declared under `services`");
            context.sink.push(found);
            continue;
        };
        // Copies go to the primary port of another service.
        let others = other.ports.first().and_then(|port| port.protocol.as_ref());
        if let Some(others) = others
            && spoken(service, &route.value).any(|own| own.value != others.value)
        {
            let message = format!("`{name}` does not speak the protocol of these requests");
            let found = Diagnostic::error("mirror-speaks-otherwise", &mirror.span, message)
                .related(&others.span, "it speaks this one")
                .hint("copies go to a service with the same `protocol`");
            context.sink.push(found);
        }
    }
}

/// Warns of routes behind one that takes all their requests.
fn reach(context: &Context<'_>, service: &Service) {
    let compiled = service.routes.iter().map(|route| {
        let conditions = route.value.conditions.as_ref()?;
        Some((conditions.compiled()?, &route.span))
    });
    let routes: Vec<Option<(RouteMatch, _)>> = compiled.collect();
    for (number, route) in routes.iter().enumerate() {
        let Some((matches, span)) = route else { continue };
        let mut earlier = routes.iter().take(number).flatten();
        if let Some((_, first)) = earlier.find(|(earlier, _)| earlier.covers(matches)) {
            let message = format!("no request gets to this route of `{}`", service.name.value);
            let found = Diagnostic::warning("unreachable-route", span, message)
                .related(first, "all of its requests match this one, which comes first")
                .hint("move it before that one, or remove it");
            context.sink.push(found);
        }
    }
}
