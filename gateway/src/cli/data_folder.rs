//! The folder of `--data`: made for its owner alone, and looked at before anything in it is believed.

use std::{io, path::Path};

use causeway_host::{
    files::{folder_risk, make_private_folder},
    path_risk::path_risk,
};

use rustix::process::geteuid;

use super::Failure;

/// Advice where the folder cannot be used.
const HINT: &str = "--data must be a folder that this user may write";

/// Makes the folder if need be. One that others may change, or replace, is refused, or told where somebody may have meant it so.
pub(super) fn open(folder: &Path) -> Result<(), Failure> {
    open_as(folder, geteuid().as_raw())
}

fn open_as(folder: &Path, own: u32) -> Result<(), Failure> {
    make_private_folder(folder).map_err(|error| unread(folder, &error))?;
    check_path(folder, own)?;
    check_folder(folder, own)
}

fn cannot(folder: &Path) -> Failure {
    Failure::new(format!("cannot use {} as --data", folder.display()))
}

fn unread(folder: &Path, error: &io::Error) -> Failure {
    cannot(folder).because(error).hint(HINT)
}

/// Refuses a folder that others may replace.
fn check_path(folder: &Path, own: u32) -> Result<(), Failure> {
    let shown = folder.display();
    if let Some(risk) = path_risk(folder, own).map_err(|error| unread(folder, &error))? {
        if risk.is_grave() {
            let hint = risk.hint();
            return Err(cannot(folder).because(&risk).hint(format!(
                "whoever can replace it decides what this gateway believes: {hint}"
            )));
        }
        let hint = risk.hint();
        tracing::warn!(folder = %shown, hint, "others may replace what this gateway keeps: {risk}");
    }
    Ok(())
}

/// Refuses a folder in which others may change what is there.
fn check_folder(folder: &Path, own: u32) -> Result<(), Failure> {
    let shown = folder.display();
    match folder_risk(folder, own).map_err(|error| unread(folder, &error))? {
        None => Ok(()),
        Some(risk) if risk.is_grave() => Err(cannot(folder).because(&risk).hint(
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
        assert!(
            check_folder(&folder, OWN).is_ok(),
            "another user's alone is warned of"
        );
        set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        let refused = format!("{:?}", check_folder(&folder, OWN).unwrap_err());
        assert!(refused.contains("0777") && refused.contains("0700"), "{refused}");
        let fine = above.path().join("fine");
        open(&fine).unwrap();
        symlink(&fine, &link).unwrap();
        let _ = lchown(&link, Some(OTHER), None);
        let refused = format!("{:?}", check_folder(&link, OWN).unwrap_err());
        assert!(refused.contains("symbolic link"), "{refused}");
    }

    #[test]
    fn a_gateway_does_not_start_in_a_folder_that_others_may_replace() {
        let own = geteuid().as_raw();
        let made = tempfile::tempdir().unwrap();
        let above = made.path().join("above");
        let folder = above.join("between/data");
        open_as(&folder, own).unwrap();
        set_permissions(&above, Permissions::from_mode(0o777)).unwrap();
        let refused = format!("{:?}", open_as(&folder, own).unwrap_err());
        for part in ["everybody may write", "/above above it", "chmod o-w"] {
            assert!(refused.contains(part), "{refused}");
        }
        // As /tmp is: who owns what lies there is looked at in its turn.
        set_permissions(&above, Permissions::from_mode(0o1777)).unwrap();
        open_as(&folder, own).unwrap();
        set_permissions(&above, Permissions::from_mode(0o755)).unwrap();
        if chown(above.join("between"), Some(OTHER), None).is_ok() {
            let refused = format!("{:?}", open_as(&folder, own).unwrap_err());
            assert!(refused.contains("user 4243's"), "{refused}");
        }
    }
}
