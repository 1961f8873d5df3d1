//! Texts that are handed in by somebody who may change only some of a topology.

use super::{EditError, EditedKey, ServiceBlocks, block::is_same, entry};
use crate::{
    name::ServiceName,
    topology::{
        BeyondRights, ChangeableParts, Topology, applied::TopologyRefusal, diagnostic::Sink, diff, parse,
        touches, tree,
    },
};

/// Longest block in bytes that somebody may hand in who may change only blocks: they cannot fill the file for all others.
pub const MAX_OWN_BLOCK_BYTES: usize = 64 * 1024;
/// Keys of a service that are the federation's, as they are written: also one that says what `defaults` say would keep a later change of these
/// from it.
const KEYS_OF_THE_FEDERATION: [&str; 6] = ["class", "port", "ports", "protocol", "run_in", "criticality"];

/// Makes the text that is to be in force of what was handed in: a whole topology, or blocks of services that are put into the text that is. Of
/// somebody who may change only blocks nothing else is taken, of a whole topology either: comments, `defaults` and anchors stay as they are.
///
/// # Errors
/// When more is touched than may be, or the blocks cannot be put in.
pub fn settled(
    (text, in_force): (&str, &Topology),
    handed: &str,
    file_name: &str,
    may: &ChangeableParts,
) -> Result<String, TopologyRefusal> {
    let invalid = |findings| TopologyRefusal::Invalid(Box::new(findings));
    let blocks = ServiceBlocks::read(handed, file_name).map_err(invalid)?;
    let ChangeableParts::Blocks(services) = may else {
        return match blocks {
            None => Ok(handed.to_owned()),
            Some(blocks) => Ok(blocks.put_into(text)?),
        };
    };
    let (blocks, whole) = match blocks {
        Some(blocks) => (blocks, None),
        None => {
            let whole = parse(handed, file_name).map_err(invalid)?.topology;
            let touched = touches(in_force, &whole);
            may.allow(&touched)?;
            (ServiceBlocks::of(handed, touched.services), Some(whole))
        }
    };
    let beyond = |touched: String| BeyondRights {
        touched: vec![touched],
        services: services.clone(),
    };
    if let Some(name) = blocks.names().find(|name| !services.contains(*name)) {
        return Err(beyond(format!("service {name}")).into());
    }
    if blocks.longest() > MAX_OWN_BLOCK_BYTES {
        return Err(TopologyRefusal::LongBlock);
    }
    let merged = blocks.put_into(text)?;
    let after = parse(&merged, file_name).map_err(invalid)?.topology;
    may.allow(&touches(in_force, &after))?;
    for name in blocks.names() {
        if let Some(key) = differing_key(text, &merged, name) {
            return Err(beyond(format!("{key} of service {name}")).into());
        }
    }
    // What a block means may hang on what it stands in.
    let meant = whole.filter(|whole| !diff(whole, &after).is_empty());
    match meant.and(blocks.names().next()) {
        Some(name) => Err(EditError::ByHand(EditedKey::Block(name.clone())).into()),
        None => Ok(merged),
    }
}

/// The first key of the federation's that one text has otherwise than another.
fn differing_key(before: &str, after: &str, service: &ServiceName) -> Option<&'static str> {
    let block = |text| {
        let root = tree::parse(text, &Sink::default())?;
        let services = entry(&root, "services")?.value.clone();
        Some(entry(&services, service.as_str())?.value.clone())
    };
    let (before, after) = (block(before)?, block(after)?);
    let differs = |key: &&str| match (entry(&before, key), entry(&after, key)) {
        (Some(before), Some(after)) => !is_same(&before.value, &after.value),
        (None, None) => false,
        _ => true,
    };
    KEYS_OF_THE_FEDERATION.into_iter().find(|key| differs(key))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const TEXT: &str = "\
version: 1
trust_domain: acme.internal
# Not above five.
defaults: [{ class: shop, run_in: [east] }]
zones:
  east: { gateways: [gw.east:7800] }
services:
  orders: { port: 80, class: shop, split: [{ tags: { version: v1 } }] }
  ledger: { port: 81 }
";

    fn handed(text: &str, may: &ChangeableParts) -> Result<String, TopologyRefusal> {
        let in_force = parse(TEXT, "").unwrap().topology;
        settled((TEXT, &in_force), text, "handed.yaml", may)
    }

    fn team() -> ChangeableParts {
        ChangeableParts::Blocks(BTreeSet::from([ServiceName::new("orders").unwrap()]))
    }

    #[test]
    fn a_team_changes_the_block_of_its_service_by_itself_or_in_the_whole_file() {
        let after = TEXT.replace("version: v1", "version: v2");
        let block = "services: { orders: { port: 80, class: shop, split: [{ tags: { version: v2 } }] } }";
        assert_eq!(handed(block, &team()).unwrap(), after);
        assert_eq!(handed(&after, &team()).unwrap(), after);
        // What says nothing is not taken either, and whoever may change everything is asked for nothing.
        let without = after.replace("# Not above five.\n", "");
        assert_eq!(handed(&without, &team()).unwrap(), after);
        assert_eq!(handed(&without, &ChangeableParts::Everything).unwrap(), without);
        assert_eq!(handed(block, &ChangeableParts::Everything).unwrap(), after);
    }

    #[test]
    fn nothing_else_is_changed_by_who_may_change_one_service() {
        for (text, place) in [
            ("services: { ledger: { port: 81 } }".to_owned(), "service ledger"),
            ("services: { carts: { port: 82 } }".to_owned(), "service carts"),
            (
                TEXT.replace("port: 81", "port: 81, early: true"),
                "service ledger",
            ),
            (TEXT.replace("gw.east:7800", "gw.evil:7800"), "zone east"),
            (
                TEXT.replace("  ledger: { port: 81 }\n", ""),
                "service ledger, which is gone",
            ),
            (TEXT.replace("port: 80", "port: 8080"), "ports of service orders"),
            (
                TEXT.replace("port: 80", "port: 80, criticality: critical"),
                "criticality of service orders",
            ),
            // These mean what was meant before, and would keep a later change of `defaults` away.
            (
                "services: { orders: { port: 80, split: [{ tags: { version: v2 } }], run_in: [east] } }"
                    .to_owned(),
                "class of service orders",
            ),
            (
                "services: { orders: { port: 80, class: shop, run_in: [east], early: true } }".to_owned(),
                "run_in of service orders",
            ),
        ] {
            let refused = handed(&text, &team()).unwrap_err();
            assert!(matches!(refused, TopologyRefusal::BeyondRights(_)), "{refused}");
            assert!(refused.to_string().contains(place), "{refused}");
        }
    }

    #[test]
    fn what_is_latent_in_a_whole_file_is_not_taken() {
        let text = TEXT
            .replace("defaults: [", "defaults: [{ name: 'new-*', allow: [orders] }, ")
            .replace("version: v1", "version: v2");
        let merged = handed(&text, &team()).unwrap();
        assert_eq!(merged, TEXT.replace("version: v1", "version: v2"));
    }

    #[test]
    fn nobody_fills_the_file_with_one_block() {
        let long = "x".repeat(MAX_OWN_BLOCK_BYTES);
        let block =
            format!("services:\n  orders:\n    port: 80\n    class: shop\n    # {long}\n    early: true\n");
        assert!(matches!(handed(&block, &team()), Err(TopologyRefusal::LongBlock)));
        assert!(handed(&block, &ChangeableParts::Everything).is_ok());
    }
}
