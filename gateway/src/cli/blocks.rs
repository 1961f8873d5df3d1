//! Files that hold blocks of services alone, `services: { orders: … }`, for the commands that take topologies.

use std::path::Path;

use causeway_control::{reload::LoadError, topology::base};
use causeway_federation::topology::{
    ChangeableParts, MAX_FILE_BYTES, Parsed, ServiceBlocks, applied::TopologyRefusal, parse, settled,
};

use super::{
    Exit, Failure,
    input::{GivenText, load},
    validate,
};

/// Tells whether a text holds blocks of services alone. Whatever else is wrong with it is for its other readers to say.
pub(super) fn holds(given: &GivenText) -> bool {
    given.text.len() <= MAX_FILE_BYTES
        && !matches!(ServiceBlocks::read(base::split(&given.text).1, ""), Ok(None))
}

/// The text that is to be handed in, whole or blocks. `None` when it cannot be used, which has been said then.
pub(super) fn handed(path: &Path) -> Result<Option<GivenText>, Failure> {
    let told = |text: String| {
        crate::output::tell(&text);
        Ok(None)
    };
    let given = match GivenText::read(path) {
        Ok(given) => given,
        Err(error) => return told(error.render(validate::style())),
    };
    if !holds(&given) {
        return match given.check() {
            Ok(_) => Ok(Some(given)),
            Err(error) => told(error.render(validate::style())),
        };
    }
    match ServiceBlocks::read(&given.text, &given.name) {
        Ok(_) => Ok(Some(given)),
        Err(findings) => told(findings.render(validate::style())),
    }
}

/// The topology of `into` with the blocks of `given` in it; `None`: `given` holds a whole topology.
pub(super) fn merged(given: &GivenText, into: &Path) -> Result<Option<Result<Parsed, LoadError>>, Failure> {
    if !holds(given) {
        return Ok(None);
    }
    let before = match load(into) {
        Ok(before) => before,
        Err(error) => return Ok(Some(Err(error))),
    };
    let name = format!("{} in {}", given.name, into.display());
    let invalid = |findings| Ok(Some(Err(LoadError::Invalid(findings))));
    let onto = (&**before.warnings.text(), &before.topology);
    let blocks = base::split(&given.text).1;
    match settled(onto, blocks, &given.name, &ChangeableParts::Everything) {
        Ok(text) => Ok(Some(
            parse(&text, &name).map_err(|findings| LoadError::Invalid(Box::new(findings))),
        )),
        Err(TopologyRefusal::Invalid(findings)) => invalid(findings),
        Err(refusal) => Err(Failure::new(refusal.to_string())
            .exit(Exit::BadInput)
            .hint(refusal.hint())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_checked_in_the_topology_that_they_belong_to() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let given = |path: &Path| GivenText::read(path).unwrap();
        let whole = write(
            "whole.yaml",
            "version: 1\ntrust_domain: a.b\nzones: { east: { gateways: [gw:7800] } }\nservices:\n  orders: { port: 80 }\n",
        );
        let block = write(
            "orders.yaml",
            "services:\n  orders:\n    port: 80\n    early: true\n",
        );
        let merged_topology = merged(&given(&block), &whole).unwrap().unwrap().unwrap().topology;
        assert!(merged_topology.services["orders"].early);
        let bad = write(
            "bad.yaml",
            "services:\n  orders:\n    port: 80\n    allow: [carts]\n    speed: 9\n",
        );
        let error = merged(&given(&bad), &whole).unwrap().unwrap().unwrap_err();
        let shown = error.render(causeway_federation::topology::Style::Plain);
        assert!(
            shown.contains("speed") && shown.contains("bad.yaml in "),
            "{shown}"
        );
        assert!(merged(&given(&whole), &whole).unwrap().is_none());
        assert_eq!(handed(&block).unwrap().unwrap().text, given(&block).text);
        assert!(holds(&given(&block)) && !holds(&given(&whole)));
    }
}
