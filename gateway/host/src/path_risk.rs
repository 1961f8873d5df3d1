//! Risk that another user puts another folder in the place of one: that may be done by whoever may write to a folder on the way to it, or
//! owns one, or a link. The rules are those of OpenSSH's `safe_path`, but for sticky folders such as `/tmp`, in which nobody can
//! replace what is another's.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

/// Most links on the way to a folder, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// Write permission of all others, of the group, and the sticky bit.
const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;
const STICKY: u32 = 0o1000;
const ROOT: u32 = 0;
/// User that the kernel names where this user namespace has no number for the real one; it may be anybody.
const OVERFLOW_USER: u32 = 65_534;
/// Number of users where all have theirs.
const ALL_USERS: &str = "4294967295";

/// Way in which somebody else can put another folder in the place of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathRisk {
    #[error("{} on the way to it is a symbolic link of user {user}", path.display())]
    LinkOf { path: PathBuf, user: u32 },
    #[error("{} above it is user {user}'s, who may put another one in its place", path.display())]
    Of { path: PathBuf, user: u32 },
    #[error("everybody may write to {} above it (mode {mode:04o}), and put another one in its place", path.display())]
    Open {
        path: PathBuf,
        mode: u32,
        /// It is the folder for temporary files, which nothing is meant to last in.
        is_temporary: bool,
    },
    /// `known`: there is another user in that group.
    #[error("group {group} may write to {} above it (mode {mode:04o}), and put another one in its place", path.display())]
    OfGroup {
        path: PathBuf,
        group: u32,
        mode: u32,
        known: bool,
    },
}

impl PathRisk {
    /// Tells whether another user can do it for certain, and nobody can have meant it so.
    #[must_use]
    pub fn is_grave(&self) -> bool {
        match self {
            Self::LinkOf { .. } | Self::Of { .. } => true,
            Self::Open { is_temporary, .. } => !is_temporary,
            Self::OfGroup { known, .. } => *known,
        }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::LinkOf { path, .. } => format!("name the folder that {} leads to itself", path.display()),
            Self::Of { .. } => "take a folder below one that is root's, such as /var/lib/causeway".to_owned(),
            Self::Open { path, .. } => format!("`chmod o-w {}`, or take a folder elsewhere", path.display()),
            Self::OfGroup { path, .. } => {
                format!("`chmod g-w {}`, or take a folder elsewhere", path.display())
            }
        }
    }
}

/// Folder or link on the way.
#[derive(Debug, Clone)]
struct Step {
    path: PathBuf,
    is_link: bool,
    user: u32,
    group: u32,
    mode: u32,
}

impl Step {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            is_link: found.is_symlink(),
            user: found.uid(),
            group: found.gid(),
            mode: found.mode() & 0o7777,
        })
    }
}

/// Users who are believed, and what is known of groups.
#[derive(Debug)]
struct Beliefs<'a> {
    own: u32,
    /// Not everybody has a number here.
    in_user_namespace: bool,
    temporary: PathBuf,
    /// Of passwd(5) and group(5).
    users: &'a str,
    groups: &'a str,
}

/// Looks whether others than the user `own`, and root, can put another folder in the place of this one. What is in the folder itself, and
/// who may write there, is another question.
///
/// # Errors
/// It cannot be looked at.
pub fn path_risk(folder: &Path, own: u32) -> io::Result<Option<PathRisk>> {
    // Where these are not to be read, no other member of a group is known.
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (users, groups) = (read("/etc/passwd"), read("/etc/group"));
    let beliefs = Beliefs {
        own,
        in_user_namespace: !read("/proc/self/uid_map").contains(ALL_USERS),
        temporary: fs::canonicalize(std::env::temp_dir()).unwrap_or_default(),
        users: &users,
        groups: &groups,
    };
    Ok(gravest(&way_to(folder)?, &beliefs))
}

fn gravest(way: &[Step], beliefs: &Beliefs<'_>) -> Option<PathRisk> {
    let risks: Vec<_> = way.iter().filter_map(|step| judge(step, beliefs)).collect();
    let grave = risks.iter().find(|risk| risk.is_grave()).cloned();
    grave.or_else(|| risks.into_iter().next())
}

/// Lists the links on the way to a folder and the folders above it, as the kernel goes through them.
fn way_to(folder: &Path) -> io::Result<Vec<Step>> {
    let mut rest = names(&std::path::absolute(folder)?);
    let mut here = PathBuf::from("/");
    let mut way = vec![Step::of(&here)?];
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&name);
        let step = Step::of(&next)?;
        if step.is_link {
            links += 1;
            if links > MAX_LINKS {
                return Err(rustix::io::Errno::LOOP.into());
            }
            let target = fs::read_link(&next)?;
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            for name in names(&target).into_iter().rev() {
                rest.push_front(name);
            }
        } else {
            here = next;
        }
        way.push(step);
    }
    // The folder itself is the last that is no link; in an odd way, such as by `..`, it stands earlier.
    way.retain(|step| step.is_link || step.path != here);
    Ok(way)
}

/// Names on a path; `..` is one, because where it leads is known only on the way.
fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.map(OsStr::to_owned).collect()
}

fn judge(step: &Step, beliefs: &Beliefs<'_>) -> Option<PathRisk> {
    let Step {
        user, group, mode, ..
    } = *step;
    let path = || step.path.clone();
    let is_believed =
        user == beliefs.own || user == ROOT || beliefs.in_user_namespace && user == OVERFLOW_USER;
    if !is_believed {
        return Some(match step.is_link {
            true => PathRisk::LinkOf { path: path(), user },
            false => PathRisk::Of { path: path(), user },
        });
    }
    if step.is_link || mode & STICKY != 0 {
        return None;
    }
    if mode & OTHERS_WRITE != 0 {
        let is_temporary = step.path == beliefs.temporary;
        return Some(PathRisk::Open {
            path: path(),
            mode,
            is_temporary,
        });
    }
    if mode & GROUP_WRITES == 0 || group == ROOT {
        return None;
    }
    let known = match others_in(group, beliefs) {
        Some(false) => return None,
        others => others.is_some(),
    };
    Some(PathRisk::OfGroup {
        path: path(),
        group,
        mode,
        known,
    })
}

/// Tells whether anybody but the own user and root is in a group; `None`: this host does not know it.
fn others_in(group: u32, beliefs: &Beliefs<'_>) -> Option<bool> {
    // `name:password:user:group:…`
    let users = beliefs.users.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let user: u32 = fields.nth(1)?.parse().ok()?;
        let group: u32 = fields.next()?.parse().ok()?;
        Some((name, user, group))
    });
    let users: Vec<_> = users.collect();
    let is_other = |user: u32| user != beliefs.own && user != ROOT;
    // `name:password:group:member,member`
    let members = beliefs.groups.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let found: u32 = fields.next()?.parse().ok()?;
        (found == group).then(|| fields.next().unwrap_or_default())
    })?;
    let is_member = |name: &str| members.split(',').any(|member| member.trim() == name);
    let mut of_group = users
        .iter()
        .filter(|(name, _, primary)| *primary == group || is_member(name));
    Some(of_group.any(|(_, user, _)| is_other(*user)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const USERS: &str =
        "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbob:x:1001:100::/home/bob:\n";
    const GROUPS: &str =
        "root:x:0:\nalice:x:1000:\nusers:x:100:alice\nstaff:x:50:alice,bob\nold:x:60:carol\n";
    const ALICE: u32 = 1000;

    fn beliefs() -> Beliefs<'static> {
        Beliefs {
            own: ALICE,
            in_user_namespace: false,
            temporary: "/tmp".into(),
            users: USERS,
            groups: GROUPS,
        }
    }

    fn folder(path: &str, user: u32, group: u32, mode: u32) -> Step {
        Step {
            path: path.into(),
            is_link: false,
            user,
            group,
            mode,
        }
    }

    #[test]
    fn whoever_may_replace_a_folder_is_found_on_the_way_to_it() {
        let link = |user| Step {
            is_link: true,
            ..folder("/l", user, user, 0o777)
        };
        for (step, grave) in [
            (folder("/", 0, 0, 0o755), None),
            (folder("/home/alice", ALICE, ALICE, 0o775), None),
            (folder("/var", 0, 0, 0o775), None),
            // Sticky: nobody can replace what is ours.
            (folder("/tmp", 0, 0, 0o1777), None),
            (folder("/var/spool", 0, 50, 0o1775), None),
            (folder("/srv", 1001, 100, 0o755), Some(true)),
            (folder("/srv", 1001, 100, 0o1777), Some(true)),
            (folder("/srv", 0, 0, 0o777), Some(true)),
            (folder("/tmp", 0, 0, 0o777), Some(false)),
            // Bob is in `users` by passwd, and in `staff` by group; nobody known is in `old`, and 70 is not known at all.
            (folder("/srv", 0, 100, 0o775), Some(true)),
            (folder("/srv", 0, 50, 0o2775), Some(true)),
            (folder("/srv", 0, 60, 0o775), None),
            (folder("/srv", 0, 70, 0o2775), Some(false)),
            (link(0), None),
            (link(ALICE), None),
            (link(1001), Some(true)),
        ] {
            let found = judge(&step, &beliefs());
            assert_eq!(
                found.as_ref().map(PathRisk::is_grave),
                grave,
                "{step:?}: {found:?}"
            );
        }
        // In a container that knows few users, those of its host have no numbers.
        let unknown = folder("/", OVERFLOW_USER, OVERFLOW_USER, 0o755);
        assert!(judge(&unknown, &beliefs()).is_some());
        let inside = Beliefs {
            in_user_namespace: true,
            ..beliefs()
        };
        assert!(judge(&unknown, &inside).is_none());
    }

    #[test]
    fn the_gravest_risk_is_told() {
        let way = [
            folder("/srv", 0, 70, 0o775),
            folder("/srv/a", 0, 0, 0o755),
            folder("/srv/a/b", 1001, 100, 0o755),
        ];
        let path = PathBuf::from("/srv/a/b");
        assert_eq!(gravest(&way, &beliefs()), Some(PathRisk::Of { path, user: 1001 }));
        assert!(matches!(
            gravest(&way[..2], &beliefs()),
            Some(PathRisk::OfGroup { group: 70, .. })
        ));
        assert_eq!(gravest(&[], &beliefs()), None);
    }

    #[test]
    fn the_way_goes_through_links_and_back_and_leaves_the_folder_itself_out() {
        let made = tempfile::tempdir().unwrap();
        let above = fs::canonicalize(made.path()).unwrap();
        fs::create_dir_all(above.join("real/deep/data")).unwrap();
        symlink("real/deep", above.join("link")).unwrap();
        symlink(above.join("link/data"), above.join("far")).unwrap();
        let below = |path: &Path| -> Vec<String> {
            let way = way_to(path).unwrap();
            let below = way.iter().filter_map(|step| step.path.strip_prefix(&above).ok());
            below.map(|path| path.display().to_string()).collect()
        };
        assert_eq!(below(&above.join("real/deep/data")), ["", "real", "real/deep"]);
        assert_eq!(below(&above.join("link/data")), ["", "link", "real", "real/deep"]);
        assert_eq!(
            below(&above.join("link/../deep/data")),
            ["", "link", "real", "real/deep", "real/deep"]
        );
        // From the root once more, for each absolute link.
        let far = below(&above.join("far"));
        assert!(
            far.starts_with(&["".into(), "far".into()])
                && far.ends_with(&["real".into(), "real/deep".into()]),
            "{far:?}"
        );
        symlink("loop", above.join("loop")).unwrap();
        assert!(way_to(&above.join("loop")).is_err());
    }

    #[test]
    fn a_folder_below_one_that_is_open_is_at_risk_until_that_is_sticky() {
        let made = tempfile::tempdir().unwrap();
        let (above, own) = (made.path().join("above"), rustix::process::geteuid().as_raw());
        let data = above.join("data");
        fs::create_dir_all(&data).unwrap();
        for (mode, grave) in [(0o755, false), (0o777, true), (0o1777, false)] {
            fs::set_permissions(&above, fs::Permissions::from_mode(mode)).unwrap();
            let risk = path_risk(&data, own).unwrap();
            assert_eq!(risk.is_some_and(|risk| risk.is_grave()), grave, "{mode:o}");
        }
    }
}
