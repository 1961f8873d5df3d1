//! The folder of `--data`: made for its owner alone, and looked at before anything in it is believed.

use std::path::Path;

use causeway_host::files::{folder_risk, make_private_folder};

use rustix::process::geteuid;

use super::Failure;

/// Advice where the folder cannot be used.
const HINT: &str = "--data must be a folder that this user may write";

/// Makes the folder if need be. One that others may change is refused, or told where somebody may have meant it so.
pub(super) fn open(folder: &Path) -> Result<(), Failure> {
    open_as(folder, geteuid().as_raw())
}

fn open_as(folder: &Path, own: u32) -> Result<(), Failure> {
    let shown = folder.display();
    let cannot = || Failure::new(format!("cannot use {shown} as --data"));
    make_private_folder(folder).map_err(|error| cannot().because(&error).hint(HINT))?;
    let risk = folder_risk(folder, own).map_err(|error| cannot().because(&error).hint(HINT))?;
    match risk {
        None => Ok(()),
        Some(risk) if risk.is_grave() => Err(cannot().because(&risk).hint(
            "whoever may write there decides what this gateway believes: take a folder of its own, with mode 0700",
        )),
        Some(risk) => {
            let hint = format!("`chown` it to the gateway's user, and `chmod 700 {shown}`");
            tracing::warn!(folder = %shown, hint, "others may change what this gateway keeps: {risk}");
            Ok(())
        }
    }
}

/// Failure to keep the trust document there.
pub(super) fn trust_unkept(folder: &Path) -> Failure {
    let shown = folder.display();
    Failure::new(format!("cannot keep the trust document in {shown}")).hint(HINT)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{Permissions, set_permissions},
        os::unix::fs::{PermissionsExt as _, chown, lchown, symlink},
    };

    use super::*;

    /// User of the gateway, and another one.
    const OWN: u32 = 4242;
    const OTHER: u32 = 4243;

    #[test]
    fn a_gateway_does_not_start_in_a_folder_that_others_may_change() {
        let above = tempfile::tempdir().unwrap();
        let (folder, link) = (above.path().join("data"), above.path().join("link"));
        open(&folder).unwrap();
        // Only root can give a folder away; for anybody else it is another user's than the gateway's as it is.
        let _ = chown(&folder, Some(OTHER), None);
        assert!(open_as(&folder, OWN).is_ok(), "another user's alone is warned of");
        set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        let refused = format!("{:?}", open_as(&folder, OWN).unwrap_err());
        assert!(refused.contains("0777") && refused.contains("0700"), "{refused}");
        let fine = above.path().join("fine");
        open(&fine).unwrap();
        symlink(&fine, &link).unwrap();
        let _ = lchown(&link, Some(OTHER), None);
        let refused = format!("{:?}", open_as(&link, OWN).unwrap_err());
        assert!(refused.contains("symbolic link"), "{refused}");
    }
}
