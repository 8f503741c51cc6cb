//! A document that is read again and again, each time from the text that was read before.
//!
//! Remembered is the latest text that was usable, with what was made of it; a text that is refused
//! leaves it as it was, so the repaired one differs little from it again. What comes out is always
//! what [`super::parse`] would have made of the text, and unchanged routes are the same `Arc`. The
//! text may contain credentials (`upstreamAuth`) and is never shown (R13).

use super::edition::{self, Edition, Home};
use super::{Document, Unusable};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A document and what is needed to read its next text fast.
pub struct Memory {
    file: Arc<str>,
    directory: PathBuf,
    latest: Option<Latest>,
    /// Usable texts so far.
    editions: u64,
    /// How many of them were read by their difference.
    followed: u64,
}

/// The latest usable text.
struct Latest {
    text: String,
    edition: Edition,
}

impl Memory {
    /// Nothing was read yet. `file` and `directory` as for [`super::parse`].
    #[must_use]
    pub fn new(file: &str, directory: &Path) -> Self {
        Self {
            file: file.into(),
            directory: directory.to_owned(),
            latest: None,
            editions: 0,
            followed: 0,
        }
    }

    /// Parses and validates the next text.
    ///
    /// # Errors
    /// As [`super::parse`].
    pub fn read(&mut self, text: String) -> Result<Document, Unusable> {
        let home = Home {
            file: &self.file,
            directory: &self.directory,
        };
        if let Some(latest) = &mut self.latest
            && let Some(document) = latest.edition.follow(&latest.text, &text, home)
        {
            latest.text = text;
            self.editions += 1;
            self.followed += 1;
            return Ok(document);
        }
        let before = self.latest.as_ref().map(|latest| &latest.edition);
        let (document, edition) = edition::whole(&text, home, before)?;
        self.latest = Some(Latest { text, edition });
        self.editions += 1;
        Ok(document)
    }

    /// The latest text that was usable.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.latest.as_ref().map(|latest| latest.text.as_str())
    }

    /// How many usable texts were read: the number of the latest.
    #[must_use]
    pub const fn edition(&self) -> u64 {
        self.editions
    }
}

/// Without the text (R13).
impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("file", &self.file)
            .field("editions", &self.editions)
            .field("followed", &self.followed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
