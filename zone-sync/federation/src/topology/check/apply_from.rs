//! `apply_from`: where a topology says who may do what, it matters who may change it.

use super::{
    super::{diagnostic::Diagnostic, permissions::DefaultPermission},
    Context,
};

pub(super) fn check(context: &Context<'_>) {
    let file = context.file;
    if file.apply_from.is_some() {
        return;
    }
    let zones: Vec<&str> = file.zones.iter().map(|zone| zone.name.value.as_str()).collect();
    let example = zones.first().unwrap_or(&"east");
    if let Some(domain) = file.trust_domains.first() {
        let message = "with `trust_domains` there must be `apply_from`: whoever applies the next topology decides whose CA counts \
                       for which zone";
        let hint = format!("name the zones whose operators may apply: `apply_from: [{example}]`");
        let found = Diagnostic::error("apply-from-missing", &domain.name.span, message.to_owned());
        context.sink.push(found.hint(hint));
        return;
    }
    // Where there is one zone, nobody else could apply.
    if zones.len() < 2 {
        return;
    }
    let denied = file.permissions.default == DefaultPermission::Deny;
    let permitting = file
        .services
        .iter()
        .find(|service| denied || service.allow.is_some());
    if let Some(service) = permitting {
        let message =
            "there are permissions, and the operators of every zone may apply a topology without them";
        let hint = format!("name the zones whose operators may apply: `apply_from: [{example}]`");
        let found = Diagnostic::warning("anybody-applies", &service.name.span, message.to_owned());
        context.sink.push(found.hint(hint));
    }
}
