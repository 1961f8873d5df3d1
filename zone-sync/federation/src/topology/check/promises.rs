//! Promises have to be about something: zones and services that there are, and a criticality that something has.

use super::{
    super::{diagnostic::Diagnostic, model::Criticality, raw::PromisedNames},
    Context,
    references::{service_exists, zone_exists},
};

pub(super) fn check(context: &Context<'_>) {
    for promise in &context.file.promises {
        if let PromisedNames::Named(zones) = &promise.value.lose {
            for zone in zones {
                zone_exists(context, &zone.value, &zone.span);
            }
        }
        match &promise.value.keep {
            PromisedNames::Named(services) => {
                for service in services {
                    service_exists(context, &service.value, &service.span);
                }
            }
            PromisedNames::Word(Some(Criticality::Critical)) if !has_critical(context) => {
                let message = "nothing is critical, so that this promise keeps nothing";
                let found = Diagnostic::warning("promise-of-nothing", &promise.span, message);
                context.sink.push(
                    found.hint("give a service or a route `criticality: critical`, or write `keep: all`"),
                );
            }
            PromisedNames::Word(_) => {}
        }
    }
}

fn has_critical(context: &Context<'_>) -> bool {
    let is_critical = |criticality: Option<Criticality>| criticality == Some(Criticality::Critical);
    context.file.services.iter().any(|service| {
        let mut routes = service.routes.iter();
        // A caller may say so of a request.
        let by_callers = service.criticality_from.is_some();
        is_critical(service.criticality)
            || by_callers
            || routes.any(|route| is_critical(route.value.criticality))
    })
}
