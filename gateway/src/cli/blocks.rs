//! Files that hold blocks of services alone, `services: { orders: … }`, for the commands that take topologies.

use std::{fs, path::Path};

use causeway_control::{
    reload::{LoadError, load},
    topology::base,
};
use causeway_federation::topology::{
    ChangeableParts, MAX_FILE_BYTES, Parsed, ServiceBlocks, applied::TopologyRefusal, parse, settled,
};

use super::{Exit, Failure, validate};

/// The text of a file, if it holds blocks of services alone and these can be read. Whatever else is wrong with the file is for its other readers to
/// say.
pub(super) fn text(path: &Path) -> Option<String> {
    // Only to see what it is; a file that is too long is no file of blocks.
    let about = fs::metadata(path).ok()?;
    if about.len() > MAX_FILE_BYTES as u64 {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    let is = !matches!(ServiceBlocks::read(base::split(&text).1, ""), Ok(None));
    is.then_some(text)
}

/// The text of a file that is to be handed in, whole or blocks. `None` when it cannot be used, which has been said then.
pub(super) fn handed(path: &Path) -> Result<Option<String>, Failure> {
    let Some(text) = text(path) else {
        let checked = super::topology::checked(path)?;
        return Ok(checked.map(|parsed| parsed.warnings.text().to_string()));
    };
    match ServiceBlocks::read(&text, &path.display().to_string()) {
        Ok(_) => Ok(Some(text)),
        Err(findings) => {
            crate::output::tell(&findings.render(validate::style()));
            Ok(None)
        }
    }
}

/// The topology of `into` with the blocks of `path` in it; `None`: `path` holds a whole topology.
pub(super) fn merged(path: &Path, into: &Path) -> Result<Option<Result<Parsed, LoadError>>, Failure> {
    let Some(blocks) = text(path) else {
        return Ok(None);
    };
    let before = match load(into) {
        Ok(before) => before,
        Err(error) => return Ok(Some(Err(error))),
    };
    let name = format!("{} in {}", path.display(), into.display());
    let invalid = |findings| Ok(Some(Err(LoadError::Invalid(findings))));
    let onto = (&**before.warnings.text(), &before.topology);
    let blocks = base::split(&blocks).1;
    match settled(
        onto,
        blocks,
        &path.display().to_string(),
        &ChangeableParts::Everything,
    ) {
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
            fs::write(&path, text).unwrap();
            path
        };
        let whole = write(
            "whole.yaml",
            "version: 1\ntrust_domain: a.b\nzones: { east: { gateways: [gw:7800] } }\nservices:\n  orders: { port: 80 }\n",
        );
        let block = write(
            "orders.yaml",
            "services:\n  orders:\n    port: 80\n    early: true\n",
        );
        let merged_topology = merged(&block, &whole).unwrap().unwrap().unwrap().topology;
        assert!(merged_topology.services["orders"].early);
        let bad = write(
            "bad.yaml",
            "services:\n  orders:\n    port: 80\n    allow: [carts]\n    speed: 9\n",
        );
        let error = merged(&bad, &whole).unwrap().unwrap().unwrap_err();
        let shown = error.render(causeway_federation::topology::Style::Plain);
        assert!(
            shown.contains("speed") && shown.contains("bad.yaml in "),
            "{shown}"
        );
        assert!(merged(&whole, &whole).unwrap().is_none());
        assert_eq!(handed(&block).unwrap(), text(&block));
        assert_eq!(text(&whole), None);
    }
}
