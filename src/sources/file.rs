//! The pricing file as a source: reads it, watches it, and sends what it became.
//!
//! A change is noticed by notification (inotify on the directory the file is named in and on the
//! one it really is in, because a ConfigMap is swapped by renaming the `..data` link and never
//! touches the file's own name) and, where notifications do not arrive (network file systems, a
//! watch that could not be set), by looking at the metadata twice a second. Either way the answer
//! to "did it change" is the content, and the secret files that the document names belong to it.
//!
//! A half-written file never becomes a table: what was read counts only when the metadata is still
//! the same a moment later (a write in between leaves a later change time). The document is parsed
//! meanwhile, so that the wait costs no time; of a large document only what differs from the text
//! before (`pricing::Memory`), so that it costs little else. Where notifications arrive, a file that somebody
//! writes in place is not even looked at before it is closed, however long the writer pauses.
//!
//! Failure keeps the last good table (R6): a file that is missing, unreadable or unusable becomes
//! one [`Update::Failed`] and one warning per change of cause, is tried again for ever, and says so
//! when it is well again. The source never reads less than the whole file, holds at most one update
//! in hand, and stops with the process.

mod notices;
mod told;

use self::notices::{Notices, directory};
use self::told::Told;
use crate::lifecycle::{Tasks, work_behind};
use crate::pricing::{self, Document, Memory, Unusable};
use crate::table::Update;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinError;
use tokio::time::Instant;
use tracing::info;

/// How often metadata is looked at; half of the second within which a change is live.
const POLL: Duration = Duration::from_millis(500);
/// What was read must still be there this much later; far above the granularity of change times.
const SETTLE: Duration = Duration::from_millis(60);
/// Name of this source in `/routes`.
pub const NAME: &str = "file";

/// The pricing file.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    first: Option<Loaded>,
}

/// A document as it was read before its source began.
#[derive(Debug)]
pub struct Loaded {
    /// The document.
    pub document: Document,
    /// Its text, and what the next text is read from.
    memory: Memory,
}

/// Why the pricing file is not a document.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("{} cannot be read, check that it exists and may be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is a directory, a pipe or a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// It is too large.
    #[error("{} has more than {} bytes", path.display(), pricing::MAX_BYTES)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is no text.
    #[error("{} is not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// It is no document that could be served.
    #[error("{} was refused", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Unusable,
    },
    /// Reading it failed inside this process.
    #[error("reading {} was interrupted", path.display())]
    Interrupted {
        /// The file.
        path: PathBuf,
        /// How.
        #[source]
        source: JoinError,
    },
}

/// Identity and state of a file, cheap to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Stamps of every file that the document consists of, `None` where there is none.
type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// What can be seen of the files, with everything that blocks. Moved to a blocking thread and back.
struct Eyes {
    path: PathBuf,
    /// Secret files that the latest document names.
    files: Vec<PathBuf>,
    /// Stamps when the latest look was taken for true.
    stamps: Stamps,
    /// The content that was sent last; `None` after a failure.
    content: Option<Content>,
    /// What was parsed before the first look, which need not parse the same again.
    first: Option<Document>,
    /// The latest text that was a document, sent or not.
    memory: Memory,
    notices: Notices,
}

/// Which content a document was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    /// [`Memory::edition`] of the text.
    edition: u64,
    /// Digest of the secret files.
    secrets: u64,
}

/// One look at files that have changed.
struct Look {
    at: Instant,
    stamps: Stamps,
    seen: Seen,
}

/// What a look found.
enum Seen {
    /// A document.
    New(Box<Document>, Content),
    /// Touched, but the same content as before.
    Same,
    /// The document names other files than were looked at: look again.
    OtherFiles(Vec<PathBuf>),
    /// No document.
    Failure(LoadError),
}

/// Reads, parses and validates the file once.
///
/// # Errors
/// When it cannot be read or nothing sound can be made of it.
pub fn load_once(path: &Path) -> Result<Loaded, LoadError> {
    let mut memory = memory(path);
    let document = parse(path, &mut memory, read(path)?)?;
    Ok(Loaded { document, memory })
}

impl FileSource {
    /// The file at `path`, which need not exist yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            first: None,
        }
    }

    /// The same, with what was read of it already. It is looked at all the same, as at any change,
    /// but not parsed twice.
    #[must_use]
    pub fn starting_with(self, first: Option<Loaded>) -> Self {
        Self { first, ..self }
    }

    /// Loads the file once, unless it was read already, and sends it (`--watch=false`).
    ///
    /// # Errors
    /// As [`load_once`]; nothing is sent then.
    pub async fn once(&self, updates: &mpsc::Sender<Update>) -> Result<(), LoadError> {
        let document = match &self.first {
            Some(loaded) => loaded.document.clone(),
            None => {
                let path = self.path.clone();
                let loaded = work_behind(move || load_once(&path)).await;
                loaded
                    .map_err(|source| interrupted(&self.path, source))??
                    .document
            }
        };
        let update = Told::default().loaded(&self.path, document);
        if updates.send(update).await.is_err() {
            info!(config.path = %self.path.display(), "nobody takes the pricing file any more");
        }
        Ok(())
    }

    /// Sends the file now and whenever it changes, until shutdown begins or nobody listens.
    pub async fn run(self, updates: mpsc::Sender<Update>, tasks: Tasks) {
        tokio::select! {
            () = tasks.stopping() => {}
            () = self.watch(updates) => {}
        }
    }

    /// Sends the file now and whenever it changes, until nobody listens.
    async fn watch(self, updates: mpsc::Sender<Update>) {
        let bell = Arc::new(Notify::new());
        let mut told = Told::default();
        let mut eyes = Eyes::new(self.path.clone(), &bell);
        if let Some(Loaded { document, memory }) = self.first {
            eyes.first = Some(document);
            eyes.memory = memory;
        }
        loop {
            let step = step(eyes, &bell).await;
            let update = match step {
                Ok((returned, seen)) => {
                    eyes = returned;
                    match seen {
                        Some(Seen::New(document, _)) => Some(told.loaded(&self.path, *document)),
                        Some(Seen::Failure(error)) => told.failed(&self.path, &error),
                        Some(Seen::Same | Seen::OtherFiles(_)) | None => None,
                    }
                }
                Err(source) => {
                    eyes = Eyes::new(self.path.clone(), &bell);
                    told.failed(&self.path, &interrupted(&self.path, source))
                }
            };
            if let Some(update) = update
                && updates.send(update).await.is_err()
            {
                return;
            }
            tokio::select! {
                () = bell.notified() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }
}

/// Looks once, waits until it can be taken for true, and says what is new.
async fn step(mut eyes: Eyes, bell: &Notify) -> Result<(Eyes, Option<Seen>), JoinError> {
    let (returned, look) = work_behind(move || {
        let look = if eyes.see_a_writer() {
            None
        } else {
            eyes.look()
        };
        (eyes, look)
    })
    .await?;
    eyes = returned;
    let Some(look) = look else {
        return Ok((eyes, None));
    };
    tokio::time::sleep_until(look.at + SETTLE).await;
    let (eyes, written, seen) = work_behind(move || {
        // Its close rings the bell.
        let written = eyes.see_a_writer();
        let seen = if written { None } else { eyes.confirm(look) };
        (eyes, written, seen)
    })
    .await?;
    if !written && matches!(seen, None | Some(Seen::OtherFiles(_))) {
        bell.notify_one();
    }
    Ok((eyes, seen))
}

impl Eyes {
    fn new(path: PathBuf, bell: &Arc<Notify>) -> Self {
        Self {
            memory: memory(&path),
            path,
            files: Vec::new(),
            stamps: Stamps::new(),
            content: None,
            first: None,
            notices: Notices::new(bell),
        }
    }

    /// Whether one of the files is being written.
    fn see_a_writer(&self) -> bool {
        self.notices.are_being_written(&self.path, &self.files)
    }

    /// Reads the files if they may have changed.
    fn look(&mut self) -> Option<Look> {
        // The watches come first: whatever changes after this line rings the bell.
        self.notices.follow(&self.path, &self.files);
        let stamps = stamps(&self.path, &self.files);
        if stamps == self.stamps {
            return None;
        }
        let at = Instant::now();
        let seen = match read(&self.path) {
            Ok(text) => self.parse(text),
            Err(error) => Seen::Failure(error),
        };
        Some(Look { at, stamps, seen })
    }

    fn parse(&mut self, text: String) -> Seen {
        let secrets = digest(&self.files);
        let latest = self.memory.text() == Some(text.as_str());
        let edition = self.memory.edition();
        if latest && self.content == Some(Content { edition, secrets }) {
            return Seen::Same;
        }
        let parsed = match self.first.take() {
            // Secret files may have changed since they were read: such a document is read again.
            Some(first) if latest && first.files.is_empty() => Ok(first),
            Some(_) | None => parse(&self.path, &mut self.memory, text),
        };
        let files = match &parsed {
            Ok(document) => document.files.as_slice(),
            Err(LoadError::Unusable { source, .. }) => source.files.as_slice(),
            Err(
                LoadError::Read { .. }
                | LoadError::NotAFile { .. }
                | LoadError::TooLarge { .. }
                | LoadError::NotText { .. }
                | LoadError::Interrupted { .. },
            ) => self.files.as_slice(),
        };
        if files != self.files {
            return Seen::OtherFiles(files.to_vec());
        }
        match parsed {
            Ok(document) => {
                let edition = self.memory.edition();
                Seen::New(Box::new(document), Content { edition, secrets })
            }
            Err(error) => Seen::Failure(error),
        }
    }

    /// What was seen, if the files are still as they were.
    fn confirm(&mut self, look: Look) -> Option<Seen> {
        if stamps(&self.path, &self.files) != look.stamps {
            return None;
        }
        self.stamps = look.stamps;
        match &look.seen {
            Seen::New(_, content) => self.content = Some(*content),
            Seen::Same => {}
            Seen::OtherFiles(files) => {
                self.files.clone_from(files);
                self.stamps.clear();
            }
            Seen::Failure(error) => {
                self.content = None;
                // A read that failed may succeed next time although nothing shows a change.
                if matches!(error, LoadError::Read { .. }) {
                    self.stamps.clear();
                }
            }
        }
        Some(look.seen)
    }
}

fn read(path: &Path) -> Result<String, LoadError> {
    let failed = |source| LoadError::Read {
        path: path.to_owned(),
        source,
    };
    // Asked before opening: opening a pipe would wait for a writer.
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(LoadError::NotAFile {
            path: path.to_owned(),
        });
    }
    let most = u64::try_from(pricing::MAX_BYTES).unwrap_or(u64::MAX);
    // Room for all of it and the end, so that it is read into one piece that fits.
    let room = usize::try_from(metadata.len()).unwrap_or(pricing::MAX_BYTES);
    let mut bytes = Vec::with_capacity(room.min(pricing::MAX_BYTES) + 1);
    File::open(path)
        .and_then(|file| file.take(most.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(failed)?;
    if bytes.len() > pricing::MAX_BYTES {
        return Err(LoadError::TooLarge {
            path: path.to_owned(),
        });
    }
    String::from_utf8(bytes).map_err(|_invalid| LoadError::NotText {
        path: path.to_owned(),
    })
}

/// A memory of the document at that path.
fn memory(path: &Path) -> Memory {
    let name = path.file_name().unwrap_or(path.as_os_str());
    Memory::new(&name.to_string_lossy(), directory(path))
}

fn parse(path: &Path, memory: &mut Memory, text: String) -> Result<Document, LoadError> {
    memory.read(text).map_err(|source| LoadError::Unusable {
        path: path.to_owned(),
        source,
    })
}

fn stamps(path: &Path, files: &[PathBuf]) -> Stamps {
    std::iter::once(path)
        .chain(files.iter().map(PathBuf::as_path))
        .map(|file| (file.to_owned(), fs::metadata(file).ok().map(|m| stamp(&m))))
        .collect()
}

fn stamp(metadata: &fs::Metadata) -> Stamp {
    Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        length: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

/// Digest of the content of the secret files.
fn digest(files: &[PathBuf]) -> u64 {
    const MOST: u64 = 1024 * 1024;
    let mut hasher = DefaultHasher::new();
    for file in files {
        let mut bytes = Vec::new();
        let regular = fs::metadata(file).is_ok_and(|metadata| metadata.is_file());
        let read = regular
            && File::open(file)
                .and_then(|file| file.take(MOST).read_to_end(&mut bytes))
                .is_ok();
        hasher.write_u8(u8::from(read));
        hasher.write_usize(bytes.len());
        hasher.write(&bytes);
    }
    hasher.finish()
}

fn interrupted(path: &Path, source: JoinError) -> LoadError {
    LoadError::Interrupted {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
