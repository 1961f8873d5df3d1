//! Folders whose files a process believes: `--data`, an identity, a CA's. Each is looked at before anything in it is read.

use std::{io, path::Path};

use causeway_host::{
    files::{folder_risk, make_private_folder},
    path_risk::path_risk,
};

use rustix::process::geteuid;

use super::Failure;

/// Advice where the folder cannot be used.
const HINT: &str = "--data must be a folder that this user may write";

/// Folder that a process believes, by what it is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum KeptFolder {
    Data,
    Identity,
    Ca,
}

impl KeptFolder {
    /// Flag that names it.
    fn flag(self) -> &'static str {
        match self {
            Self::Data => "--data",
            Self::Identity => "--identity",
            Self::Ca => "--ca",
        }
    }

    /// Says what is decided by whoever can change it.
    fn stake(self) -> &'static str {
        match self {
            Self::Data => "what this gateway believes",
            Self::Identity => "who this process is, and whom it trusts",
            Self::Ca => "who is let into the federation",
        }
    }

    /// Refuses a folder that others may change, or replace, or tells of it where somebody may have meant it so.
    ///
    /// # Errors
    /// Fails where nobody can have meant it so, or the folder cannot be looked at.
    pub(super) fn check(self, folder: &Path) -> Result<(), Failure> {
        self.check_as(folder, geteuid().as_raw())
    }

    fn check_as(self, folder: &Path, own: u32) -> Result<(), Failure> {
        if !folder.try_exists().unwrap_or(true) {
            // Whoever reads it says so, and what to do.
            return Ok(());
        }
        self.check_path(folder, own)?;
        self.check_folder(folder, own)
    }

    fn cannot(self, folder: &Path) -> Failure {
        Failure::new(format!("cannot use {} as {}", folder.display(), self.flag()))
    }

    fn unread(self, folder: &Path, error: &io::Error) -> Failure {
        self.cannot(folder).because(error).hint(format!(
            "{} must be a folder that this user may read",
            self.flag()
        ))
    }

    /// Refuses a folder that others may replace.
    fn check_path(self, folder: &Path, own: u32) -> Result<(), Failure> {
        let risk = path_risk(folder, own).map_err(|error| self.unread(folder, &error))?;
        let Some(risk) = risk else { return Ok(()) };
        let (hint, stake) = (risk.hint(), self.stake());
        if risk.is_grave() {
            let hint = format!("whoever can replace it decides {stake}: {hint}");
            return Err(self.cannot(folder).because(&risk).hint(hint));
        }
        let shown = folder.display();
        tracing::warn!(folder = %shown, hint, "whoever may replace this folder decides {stake}: {risk}");
        Ok(())
    }

    /// Refuses a folder in which others may change what is there.
    fn check_folder(self, folder: &Path, own: u32) -> Result<(), Failure> {
        let risk = folder_risk(folder, own).map_err(|error| self.unread(folder, &error))?;
        let Some(risk) = risk else { return Ok(()) };
        let (shown, stake) = (folder.display(), self.stake());
        if risk.is_grave() {
            let hint =
                format!("whoever may write there decides {stake}: take a folder of its own, with mode 0700");
            return Err(self.cannot(folder).because(&risk).hint(hint));
        }
        let hint = format!("`chown` it to the user of this process, and `chmod go-w {shown}`");
        tracing::warn!(folder = %shown, hint, "whoever may change this folder decides {stake}: {risk}");
        Ok(())
    }
}

/// Makes the folder of `--data` for its owner alone if need be, and looks at it.
///
/// # Errors
/// Fails as [`KeptFolder::check`] does, and where it cannot be made.
pub(super) fn open_data(folder: &Path) -> Result<(), Failure> {
    open_data_as(folder, geteuid().as_raw())
}

fn open_data_as(folder: &Path, own: u32) -> Result<(), Failure> {
    let data = KeptFolder::Data;
    make_private_folder(folder).map_err(|error| data.cannot(folder).because(&error).hint(HINT))?;
    data.check_as(folder, own)
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
        open_data(&folder).unwrap();
        // Only root can give a folder away; for anybody else it is another user's than the gateway's as it is.
        let _ = chown(&folder, Some(OTHER), None);
        assert!(
            KeptFolder::Data.check_folder(&folder, OWN).is_ok(),
            "another user's alone is warned of"
        );
        set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        let refused = format!("{:?}", KeptFolder::Data.check_folder(&folder, OWN).unwrap_err());
        assert!(refused.contains("0777") && refused.contains("0700"), "{refused}");
        let fine = above.path().join("fine");
        open_data(&fine).unwrap();
        symlink(&fine, &link).unwrap();
        let _ = lchown(&link, Some(OTHER), None);
        let refused = format!("{:?}", KeptFolder::Data.check_folder(&link, OWN).unwrap_err());
        assert!(refused.contains("symbolic link"), "{refused}");
    }

    #[test]
    fn a_gateway_does_not_start_in_a_folder_that_others_may_replace() {
        let own = geteuid().as_raw();
        let made = tempfile::tempdir().unwrap();
        let above = made.path().join("above");
        let folder = above.join("between/data");
        open_data_as(&folder, own).unwrap();
        set_permissions(&above, Permissions::from_mode(0o777)).unwrap();
        let refused = format!("{:?}", open_data_as(&folder, own).unwrap_err());
        for part in ["everybody may write", "/above above it", "chmod o-w"] {
            assert!(refused.contains(part), "{refused}");
        }
        // As /tmp is: who owns what lies there is looked at in its turn.
        set_permissions(&above, Permissions::from_mode(0o1777)).unwrap();
        open_data_as(&folder, own).unwrap();
        set_permissions(&above, Permissions::from_mode(0o755)).unwrap();
        if chown(above.join("between"), Some(OTHER), None).is_ok() {
            let refused = format!("{:?}", open_data_as(&folder, own).unwrap_err());
            assert!(refused.contains("user 4243's"), "{refused}");
        }
    }

    #[test]
    fn an_identity_and_a_ca_in_a_folder_that_others_may_replace_are_refused_with_what_is_at_stake() {
        let own = geteuid().as_raw();
        let made = tempfile::tempdir().unwrap();
        let above = made.path().join("above");
        let folder = above.join("east");
        make_private_folder(&folder).unwrap();
        for (kept, flag, stake) in [
            (KeptFolder::Identity, "--identity", "whom it trusts"),
            (KeptFolder::Ca, "--ca", "who is let into the federation"),
        ] {
            set_permissions(&above, Permissions::from_mode(0o755)).unwrap();
            kept.check_as(&folder, own).unwrap();
            kept.check_as(&made.path().join("missing"), own).unwrap();
            set_permissions(&above, Permissions::from_mode(0o777)).unwrap();
            let refused = format!("{:?}", kept.check_as(&folder, own).unwrap_err());
            for part in [flag, stake, "chmod o-w"] {
                assert!(refused.contains(part), "{refused}");
            }
        }
    }
}
