//! Check of the descriptors that clients, listeners and connections to instances take: whether there are some, and who has most.

use causeway_host::descriptors::{DescriptorShares, Descriptors, HolderCount};
use causeway_proxy::egress::{BindFailure, Egress};
use causeway_telemetry::Check;

/// Advice where there are too few.
const RAISE: &str = "raise the hard limit on open files (LimitNOFILE=, `ulimit -Hn`)";

/// Fails while clients or services find no descriptor; those that are kept for the gateway itself let it be repaired.
pub(super) fn check(egress: Egress) -> impl Fn() -> Check + Send + Sync {
    move || {
        let descriptors = egress.descriptors();
        let shares = descriptors.shares();
        let failures = egress.bind_failures();
        let unheard: Vec<_> = failures
            .iter()
            .filter(|failure| failure.lacks_descriptors)
            .collect();
        let text = match (unheard.first(), descriptors.has_room()) {
            (None, true) => return none_lacks(descriptors, shares),
            (None, false) => format!(
                "none is left: new clients are closed (`no_descriptors`){}",
                most(descriptors)
            ),
            (Some(first), has_room) => none_to_listen(first, unheard.len(), has_room),
        };
        let limit = shares
            .limit
            .map_or_else(String::new, |limit| format!(", of which there are {limit}"));
        fail(
            text,
            format!(
                "raise the hard limit on open files{limit} (LimitNOFILE=, `ulimit -Hn`), or take services away"
            ),
        )
    }
}

fn none_lacks(descriptors: &Descriptors, shares: DescriptorShares) -> Check {
    if descriptors.lacked_lately() {
        let text = format!(
            "there are some again; within the last minute none was left, and new clients were closed (`no_descriptors`){}",
            most(descriptors)
        );
        return warn(text, RAISE);
    }
    if let Some(HolderCount { holder, held }) = descriptors.crowded_lately() {
        let text = format!(
            "few were left within the last minute, and {holder} has its share of them, {held}: more are refused (`crowded`); others are \
             served"
        );
        let hint =
            format!("is {holder} meant to have so many connections? the access log names them; else {RAISE}");
        return warn(text, hint);
    }
    let text = match shares.limit {
        Some(limit) => format!(
            "{} of {limit} open files are kept for the gateway itself",
            shares.kept
        ),
        None => "open files have no limit".to_owned(),
    };
    Check::ok("clients", "descriptors", text)
}

fn none_to_listen(first: &BindFailure, count: usize, has_room: bool) -> String {
    let text = format!(
        "none is left for {count} listeners, such as {} ({})",
        first.address, first.serves
    );
    match has_room {
        true => text,
        false => format!("{text}, nor for new clients (`no_descriptors`)"),
    }
}

/// Says who has most.
fn most(descriptors: &Descriptors) -> String {
    descriptors
        .largest_holder()
        .map_or_else(String::new, |HolderCount { holder, held }| {
            format!("; {holder} has most, {held}")
        })
}

fn warn(text: String, hint: impl Into<String>) -> Check {
    Check::warn("clients", "descriptors", text, hint)
}

fn fail(text: String, hint: String) -> Check {
    Check::fail("clients", "descriptors", text, hint)
}
