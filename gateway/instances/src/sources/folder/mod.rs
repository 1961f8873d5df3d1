//! Instances from a folder: each of its `*.yaml` files holds `instances:` as a topology writes them. A change of the folder
//! is taken up at once; what the files come to is decided in `files`.

mod files;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use causeway_federation::{
    registry::InstanceSource,
    topology::{MAX_FILE_BYTES, Style},
};
use causeway_host::watch::watch_folder;
use tokio::{sync::Notify, time::MissedTickBehavior};

use self::files::{Files, News};
use super::{SourceFeed, Troubles};
use crate::Instances;

/// Files that are read; further ones, in the order of their names, are left out, and that is said.
const MAX_FILES: usize = 1_000;
/// Interval at which the folder is read without being told to, for what the system does not tell, such as network file systems.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Content of each file by its name, or why it cannot be read.
type Contents = BTreeMap<String, Result<String, String>>;

pub(super) struct FolderSource {
    folder: PathBuf,
    files: Files,
    feed: SourceFeed,
    troubles: Troubles,
}

impl FolderSource {
    pub(super) fn new(folder: PathBuf, instances: Instances, troubles: Troubles) -> Self {
        Self {
            folder,
            files: Files::default(),
            feed: SourceFeed::new(InstanceSource::Folder, instances, troubles.clone()),
            troubles,
        }
    }

    /// Follows the folder.
    pub(super) async fn follow(mut self) {
        let changed = Arc::new(Notify::new());
        let mut watcher = None;
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if watcher.is_none() {
                // Tried again at every look: the folder may not be there yet.
                watcher = watch_folder(&self.folder, changed.clone()).ok();
            }
            tokio::select! {
                () = changed.notified() => {}
                _ = look.tick() => {}
            }
            self.read().await;
        }
    }

    /// Reads the folder, and takes up what is new in it.
    pub(super) async fn read(&mut self) {
        let folder = self.folder.clone();
        let read = tokio::task::spawn_blocking(move || read_folder(&folder)).await;
        let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
        let place = format!("folder: {}", self.folder.display());
        let contents = match read {
            Ok(contents) => contents,
            Err(error) => {
                let trouble = format!("it cannot be read, and what it held is kept: {error}");
                if self.troubles.set(place, Some(trouble)) {
                    tracing::error!(folder = %self.folder.display(), %error,
                        "the folder of instances cannot be read; what it held is kept");
                }
                return;
            }
        };
        self.troubles.set(place, None);
        for news in self.files.take(contents) {
            self.tell(news);
        }
        self.feed.hand_over(self.files.registrations()).await;
    }

    fn tell(&self, news: News) {
        let place = |file: &str| format!("folder: {}", self.folder.join(file).display());
        match news {
            News::Taken { file, count } => {
                tracing::info!(file = place(&file), count, "took up a file of instances");
                self.troubles.set(place(&file), None);
            }
            News::Gone { file } => {
                tracing::info!(
                    file = place(&file),
                    "a file of instances is gone, and its instances with it"
                );
                self.troubles.set(place(&file), None);
            }
            News::Refused {
                file,
                summary,
                details,
            } => {
                tracing::error!(
                    file = place(&file),
                    "a file of instances is refused and what it said before is kept: {summary}\n{details}"
                );
                self.troubles.set(
                    place(&file),
                    Some(format!("{summary}; what it said before is kept")),
                );
            }
            News::Twice { file, also_in, key } => {
                let trouble = format!("{key} is in {also_in} already, which counts");
                if self
                    .troubles
                    .set(format!("{}: {key}", place(&file)), Some(trouble.clone()))
                {
                    tracing::warn!(file = place(&file), "{trouble}");
                }
            }
            News::TwiceNoMore { file, key } => {
                self.troubles.set(format!("{}: {key}", place(&file)), None);
            }
        }
    }
}

/// Every file of instances in the folder. Hidden files are what editors and ConfigMaps work with.
fn read_folder(folder: &Path) -> io::Result<Contents> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_yaml = name.ends_with(".yaml") || name.ends_with(".yml");
        if is_yaml && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort_unstable();
    let left_out = names.split_off(names.len().min(MAX_FILES));
    let mut contents: Contents = BTreeMap::new();
    for name in names {
        let content = read_file(&folder.join(&name)).map_err(|error| error.to_string());
        contents.insert(name, content);
    }
    if let Some(first) = left_out.into_iter().next() {
        let why =
            format!("the folder has more than {MAX_FILES} files; this one and those after it are left out");
        contents.insert(first, Err(why));
    }
    Ok(contents)
}

/// A little more than the limit, so that the parser can say that it is exceeded; never a whole disk.
fn read_file(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let limit = MAX_FILE_BYTES as u64 + 1;
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// Style in which findings are shown in the log.
const STYLE: Style = Style::Plain;
