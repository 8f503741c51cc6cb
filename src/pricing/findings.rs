//! What was noticed while a document was read: collected, never thrown.
//!
//! A [`Place`] is the way from the root to a value, kept as a chain on the stack and written out
//! only for a finding: a document of 100,000 sound routes formats not one path.

use super::{Finding, Severity};
use crate::offer::Problem;
use std::fmt;
use std::ops::Range;

/// Most warnings that are kept; errors are kept all, because each closes something.
pub(super) const MAX_WARNINGS: usize = 10_000;

/// A place in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// 1-based.
    pub(super) line: usize,
    /// 1-based, in characters.
    pub(super) column: usize,
}

/// The way from the root of the document to a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'p> {
    parent: Option<&'p Self>,
    step: Step<'p>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'p> {
    Root,
    Key(&'p str),
    Index(usize),
}

/// The findings so far, and whether one of them refuses the document.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Finding>,
    warnings: usize,
    unusable: bool,
}

impl Position {
    /// The first character.
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

impl<'p> Place<'p> {
    /// The document itself.
    pub(super) const ROOT: Place<'static> = Place {
        parent: None,
        step: Step::Root,
    };

    /// The value of a key below this place.
    pub(super) const fn key(&'p self, key: &'p str) -> Self {
        Self {
            parent: Some(self),
            step: Step::Key(key),
        }
    }

    /// An item of the list at this place.
    pub(super) const fn item(&'p self, index: usize) -> Self {
        Self {
            parent: Some(self),
            step: Step::Index(index),
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match (self.step, self.parent.map(|p| p.step)) {
            (Step::Root, _) => Ok(()),
            (Step::Key(key), Some(Step::Root) | None) => f.write_str(key),
            (Step::Key(key), Some(Step::Key(_) | Step::Index(_))) => write!(f, ".{key}"),
            (Step::Index(index), _) => write!(f, "[{index}]"),
        }
    }
}

impl Findings {
    /// Something wrong; closes the route it is in, or (in the settings) refuses the document.
    pub(super) fn error(
        &mut self,
        at: Position,
        place: Place<'_>,
        code: &'static str,
        message: String,
    ) {
        self.push(Severity::Error, at, place, code, message, None);
    }

    /// Something worth knowing.
    pub(super) fn warn(
        &mut self,
        at: Position,
        place: Place<'_>,
        code: &'static str,
        message: String,
    ) {
        self.warnings += 1;
        if self.warnings <= MAX_WARNINGS {
            self.push(Severity::Warning, at, place, code, message, None);
        }
    }

    /// Adds what to do to the latest finding.
    pub(super) fn hint(&mut self, hint: impl Into<String>) {
        if let Some(last) = self.list.last_mut() {
            last.hint = Some(hint.into());
        }
    }

    /// A mark to ask [`Findings::errors_since`] from.
    pub(super) const fn mark(&self) -> usize {
        self.list.len()
    }

    /// The errors noticed since `mark`, as problems of what was being read.
    pub(super) fn errors_since(&self, mark: usize) -> Vec<Problem> {
        let mut errors: Vec<&Finding> = self
            .list
            .iter()
            .skip(mark)
            .filter(|finding| finding.severity == Severity::Error)
            .collect();
        errors.sort_by_key(|finding| (finding.line, finding.column));
        errors
            .iter()
            .map(|finding| Problem {
                code: finding.code,
                message: finding.message.clone(),
            })
            .collect()
    }

    /// Whether any error was noticed since `mark`.
    pub(super) fn any_error_since(&self, mark: usize) -> bool {
        self.list
            .iter()
            .skip(mark)
            .any(|finding| finding.severity == Severity::Error)
    }

    /// What was noticed in this range of marks.
    pub(super) fn noticed(&self, marks: Range<usize>) -> &[Finding] {
        self.list.get(marks).unwrap_or_default()
    }

    /// Takes back what was noticed since `mark`.
    pub(super) fn take_since(&mut self, mark: usize) -> Vec<Finding> {
        self.list.split_off(mark.min(self.list.len()))
    }

    /// Adds what was noticed before, which is within [`MAX_WARNINGS`].
    pub(super) fn add(&mut self, findings: impl Iterator<Item = Finding>) {
        self.list.extend(findings);
    }

    /// Whether the document is refused.
    pub(super) const fn refused(&self) -> bool {
        self.unusable
    }

    /// Refuses the document for what was noticed.
    pub(super) const fn refuse(&mut self) {
        self.unusable = true;
    }

    /// All findings in the order of the document, and whether the document is refused.
    pub(super) fn finish(mut self) -> (Vec<Finding>, bool) {
        if self.warnings > MAX_WARNINGS {
            let message = format!(
                "{} more warnings are not listed",
                self.warnings - MAX_WARNINGS
            );
            self.push(
                Severity::Warning,
                Position::START,
                Place::ROOT,
                "more_warnings",
                message,
                None,
            );
        }
        self.list
            .sort_by_key(|finding| (finding.line, finding.column));
        (self.list, self.unusable)
    }

    fn push(
        &mut self,
        severity: Severity,
        at: Position,
        place: Place<'_>,
        code: &'static str,
        message: String,
        hint: Option<String>,
    ) {
        self.list.push(Finding {
            severity,
            code,
            line: at.line,
            column: at.column,
            path: place.to_string(),
            message,
            hint,
        });
    }
}
