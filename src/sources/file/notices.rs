//! Notifications about a handful of files, by watching the directories they live in.
//!
//! A file that is renamed over, deleted or swapped behind a link is another inode, so its own watch
//! would go silent with it; the directory tells. Which directories matter is asked again before
//! every look, because links and directories are replaced too. Nothing here is relied upon: where
//! a watch cannot be set, polling notices the change a little later.
//!
//! Notifications also tell what metadata cannot: that a file is still being written, however long
//! its writer pauses. A beginning of a document often is a document by itself.

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tracing::{debug, info};

/// A writer that neither writes nor closes for so long has forgotten its file.
const PATIENCE: Duration = Duration::from_secs(10);

/// Directory watches; without them polling alone notices changes.
pub(super) struct Notices {
    pub(super) watcher: Option<RecommendedWatcher>,
    writers: Writers,
    /// Watched directories, with the device and inode that the watch hangs on.
    watched: BTreeMap<PathBuf, (u64, u64)>,
}

/// Files in the watched directories that were written and not closed, with the time of the latest
/// write.
#[derive(Debug, Clone, Default)]
struct Writers(Arc<Mutex<HashMap<PathBuf, Instant>>>);

impl Notices {
    pub(super) fn new(bell: &Arc<Notify>) -> Self {
        let bell = Arc::clone(bell);
        let writers = Writers::default();
        let seen = writers.clone();
        // Every event is a reason to look, errors and lost events included; but not that somebody
        // read a file, because that somebody is this source.
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let only_read = event.is_ok_and(|event| {
                seen.note(&event);
                event.kind.is_access() && event.kind != CLOSED
            });
            if !only_read {
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
            writers,
            watched: BTreeMap::new(),
        }
    }

    /// Whether somebody has begun to write one of these files and has not closed it.
    pub(super) fn are_being_written(&self, path: &Path, files: &[PathBuf]) -> bool {
        std::iter::once(path)
            .chain(files.iter().map(PathBuf::as_path))
            .any(|file| {
                let names = [std::path::absolute(file), fs::canonicalize(file)];
                names.iter().flatten().any(|name| self.writers.has(name))
            })
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

/// What tells that a writer is done.
const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));

impl Writers {
    fn note(&self, event: &Event) {
        let mut writers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (event.kind, event.paths.as_slice()) {
            (EventKind::Modify(ModifyKind::Data(_)), [path]) => {
                // Closes can be lost when events are.
                writers.retain(|_, at| at.elapsed() < PATIENCE);
                writers.insert(path.clone(), Instant::now());
            }
            (EventKind::Create(CreateKind::File), [path]) if is_new_file(path) => {
                writers.insert(path.clone(), Instant::now());
            }
            // A file that is renamed while it is open is still open.
            (EventKind::Modify(ModifyKind::Name(RenameMode::Both)), [from, to]) => {
                if let Some(at) = writers.remove(from) {
                    writers.insert(to.clone(), at);
                }
            }
            (
                EventKind::Modify(ModifyKind::Name(RenameMode::To)) | EventKind::Remove(_),
                [path],
            ) => {
                writers.remove(path);
            }
            (kind, [path]) if kind == CLOSED => {
                writers.remove(path);
            }
            _ => {}
        }
    }

    fn has(&self, path: &Path) -> bool {
        let writers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writers.get(path).is_some_and(|at| at.elapsed() < PATIENCE)
    }
}

/// Whether a name was made by opening a new file; a link has no writer that would close it.
fn is_new_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1)
}

/// The directory a file is named in.
pub(super) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
