//! Shifts that lie over no split, or over one in which their steps mean nothing.

use super::{
    super::{
        diagnostic::Diagnostic,
        fields::{Listed, Spanned},
        model::SplitArm,
        shift::Shift,
    },
    Context,
};

pub(super) fn check(context: &Context<'_>) {
    for service in &context.file.services {
        if let Some(shift) = &service.shift
            && shift.value.state.is_active()
        {
            active(context, service.split.as_ref(), shift);
        }
    }
}

fn active(context: &Context<'_>, split: Option<&Listed<Spanned<SplitArm>>>, shift: &Spanned<Shift>) {
    let to = &shift.value.plan.to;
    let Some(split) = split else {
        let message = "a shift goes from a `split`, and this service has none";
        let found = Diagnostic::error("shift-from-nothing", &shift.span, message);
        context
            .sink
            .push(found.hint("add `split: [{ tags: { version: v1 } }]`, or remove `shift`"));
        return;
    };
    let others = || split.items.iter().filter(|arm| arm.value.tags != *to);
    if let Some(arm) = others().find(|arm| to.matches(&arm.value.tags)) {
        let (arm_tags, span) = (&arm.value.tags, &arm.span);
        let message = format!("an instance with {to} also belongs to the arm {arm_tags} of the split");
        let found = Diagnostic::error("shift-overlaps", &shift.span, message)
            .related(span, "this arm takes it, too")
            .hint("have the arms tell instances apart, such as `version: v1` and `version: v2`");
        context.sink.push(found);
    } else if split.complete && others().all(|arm| arm.value.weight == 0) {
        let message = format!("{to} has all of the traffic already, so there is nothing to shift");
        let found = Diagnostic::error("shift-from-nothing", &shift.span, message);
        context.sink.push(found.hint("remove `shift`"));
    }
}
