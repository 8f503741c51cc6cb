//! Notifications about a handful of files, by watching the directories they live in.
//!
//! A file that is renamed over, deleted or swapped behind a link is another inode, so its own watch
//! would go silent with it; the directory tells. Which directories matter is asked again before
//! every look, because links and directories are replaced too. Nothing here is relied upon: where
//! a watch cannot be set, polling notices the change a little later.

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Notify;
use tracing::{debug, info};

/// Directory watches; without them polling alone notices changes.
pub(super) struct Notices {
    pub(super) watcher: Option<RecommendedWatcher>,
    /// Watched directories, with the device and inode that the watch hangs on.
    watched: BTreeMap<PathBuf, (u64, u64)>,
}

impl Notices {
    pub(super) fn new(bell: &Arc<Notify>) -> Self {
        let bell = Arc::clone(bell);
        // Every event is a reason to look, errors and lost events included; but not that somebody
        // read a file, because that somebody is this source.
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| event.kind.is_access()) {
                bell.notify_one();
            }
        });
        let watcher = watcher
            .map_err(|error| {
                info!(%error, "file notifications are not available, changes are polled");
            })
            .ok();
        Self {
            watcher,
            watched: BTreeMap::new(),
        }
    }

    /// Watches the directories in which a change of these files would show, and no others.
    pub(super) fn follow(&mut self, path: &Path, files: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let mut wanted = BTreeMap::new();
        for file in std::iter::once(path).chain(files.iter().map(PathBuf::as_path)) {
            let real = fs::canonicalize(file).ok();
            for directory in [Some(file), real.as_deref()]
                .into_iter()
                .flatten()
                .map(directory)
            {
                if let Ok(metadata) = fs::metadata(directory) {
                    wanted.insert(directory.to_owned(), (metadata.dev(), metadata.ino()));
                }
            }
        }
        self.watched.retain(|directory, identity| {
            let keep = wanted.get(directory) == Some(identity);
            if !keep && let Err(error) = watcher.unwatch(directory) {
                // The usual case: the directory is gone, and its watch with it.
                debug!(path = %directory.display(), %error, "directory no longer watched");
            }
            keep
        });
        for (directory, identity) in wanted {
            if self.watched.contains_key(&directory) {
                continue;
            }
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(directory, identity);
                }
                Err(error) => {
                    debug!(path = %directory.display(), %error, "directory is polled");
                }
            }
        }
    }
}

/// The directory a file is named in.
pub(super) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
