//! The file itself: whose it is, who may read it, and what to say when it cannot be used.

use super::schema::{self, SchemaError};
use crate::ledger::{OpenError, beside};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// One verifier per file. The lock file stays; only its lock means something.
pub(super) fn take_lock(path: &Path) -> Result<File, OpenError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(beside(path, ".lock"))
        .map_err(|source| cannot_write(path, source))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut process = String::new();
            let named = (&file).take(20).read_to_string(&mut process).is_ok()
                && process.trim().parse::<u32>().is_ok();
            let holder = if named {
                format!(" (process {})", process.trim())
            } else {
                String::new()
            };
            return Err(OpenError::InUse {
                path: path.display().to_string(),
                holder,
            });
        }
        Err(TryLockError::Error(source)) => return Err(cannot_write(path, source)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|source| cannot_write(path, source))?;
    Ok(file)
}

/// An empty file that only we can read, where there is none.
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
}

pub(super) fn cannot_write(path: &Path, source: io::Error) -> OpenError {
    OpenError::CannotWrite {
        path: path.display().to_string(),
        source: Box::new(source),
    }
}

pub(super) fn explain(path: &Path, error: SchemaError) -> OpenError {
    let path = path.display().to_string();
    match error {
        // Who opens a ledger to serve migrates it.
        SchemaError::Foreign | SchemaError::Older { .. } => OpenError::Foreign { path },
        SchemaError::Newer { found } => OpenError::NewerSchema {
            path,
            found,
            understood: schema::UNDERSTOOD,
        },
        SchemaError::Sqlite(error) => {
            // Primary result codes: sqlite.org/rescode.html.
            match sqlite_code(&error) {
                // CORRUPT, NOTADB
                Some(11 | 26) => OpenError::Damaged {
                    path,
                    source: Box::new(error),
                },
                // PERM, READONLY, CANTOPEN
                Some(3 | 8 | 14) => OpenError::CannotWrite {
                    path,
                    source: Box::new(error),
                },
                Some(_) | None => OpenError::Unavailable {
                    path,
                    source: Box::new(error),
                },
            }
        }
    }
}

/// The primary result code, when SQLite itself failed.
fn sqlite_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<u32>().ok().map(|extended| extended & 0xff)
}
