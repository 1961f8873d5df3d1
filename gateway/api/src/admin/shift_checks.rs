//! Checks of shifts that are under way.

use causeway_telemetry::Check;

use super::view::ShiftView;

/// Tells of each shift that is under way, with a warning for one that does not go on by itself. What has ended is `shift status`'s.
pub(super) fn shifts_under_way(shifts: &[ShiftView]) -> Vec<Check> {
    let under_way = shifts
        .iter()
        .filter(|shift| matches!(shift.state.as_str(), "running" | "paused"));
    under_way.map(under_way_check).collect()
}

fn under_way_check(shift: &ShiftView) -> Check {
    let ShiftView {
        service,
        to,
        percent,
        driver,
        ..
    } = shift;
    let warn = |message: String, hint: String| Check::warn("shifts", service.clone(), message, hint);
    if shift.driver_gone {
        return warn(
            format!("it stays at {percent} % to {to}: {driver}, which drives it, cannot be heard"),
            format!(
                "`causeway shift resume {service}` takes it over, `causeway shift abort {service}` ends it"
            ),
        );
    }
    if shift.taken_back {
        return warn(
            format!("this gateway has taken its share of {to} back: its own requests have broken the gate"),
            format!(
                "{driver} aborts it when it hears of that; `causeway shift status {service}` has the figures"
            ),
        );
    }
    if shift.state == "paused" {
        let because = shift.because.as_deref().unwrap_or("nobody says why");
        return warn(
            format!("paused at {percent} % to {to}: {because}"),
            format!("`causeway shift resume {service}` goes on, `causeway shift abort {service}` goes back"),
        );
    }
    Check::ok("shifts", service.clone(), format!("at {percent} % to {to}"))
}

#[cfg(test)]
mod tests {
    use causeway_telemetry::Status;

    use super::*;

    fn shift(state: &str, driver_gone: bool, taken_back: bool) -> ShiftView {
        let shift = serde_json::json!({
            "service": "orders", "to": { "version": "v2" }, "steps": [5, 25], "every": "5m", "abort_if": [], "min_requests": 0,
            "state": state, "step": 2, "percent": 25, "because": "by hand at east/gw1", "begun": "", "since": "", "driver": "east/gw1",
            "driver_gone": driver_gone, "taken_back": taken_back, "from": [], "requests": 0, "against": [], "gateways": [],
        });
        serde_json::from_value(shift).unwrap()
    }

    #[test]
    fn a_shift_that_does_not_go_on_is_told_with_what_to_do() {
        let told = |state, gone, back| shifts_under_way(&[shift(state, gone, back)]).pop();
        let well = told("running", false, false).unwrap();
        assert_eq!(
            (well.status, well.message.starts_with("at 25 % to ")),
            (Status::Ok, true)
        );
        for (state, gone, back, part) in [
            ("running", true, false, "cannot be heard"),
            ("running", false, true, "taken its share"),
            ("paused", false, false, "by hand at east/gw1"),
        ] {
            let warned = told(state, gone, back).unwrap();
            assert_eq!(warned.status, Status::Warn);
            assert!(
                warned.message.contains(part) && warned.hint.is_some(),
                "{warned:?}"
            );
        }
        assert!(told("aborted", true, true).is_none() && told("done", false, false).is_none());
    }
}
