//! The request target: one parser, many views; and the pattern language.
//!
//! Stub: to be written in full; the signatures below are the contract.

use std::borrow::Cow;

/// A request target, split and checked (design section 4).
#[derive(Debug, Clone)]
pub struct Target<'a> {
    raw: &'a str,
    path: &'a str,
}

/// Why a target has no single meaning: 400 `ambiguous_target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No leading slash, empty, or an authority that is not the forwarded host.
    #[error("request target is not a path")]
    Form,
}

/// Class of ambiguity, the label of `ambiguous_targets_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AmbiguityClass {
    /// Target form: no leading slash, absolute form of another authority, fragment.
    Form,
}

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
}

/// Why a pattern cannot compile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Does not start with a slash.
    #[error("pattern does not start with \"/\"")]
    NoLeadingSlash,
}

impl<'a> Target<'a> {
    /// Splits and checks a target. `authority` is the forwarded host for absolute-form targets.
    ///
    /// # Errors
    /// See [`TargetError`].
    pub fn parse(_raw: &'a str, _authority: Option<&str>) -> Result<Self, TargetError> {
        todo!()
    }
    /// The target as received, query included.
    #[must_use]
    pub const fn raw(&self) -> &'a str {
        self.raw
    }
    /// The path as received (no query).
    #[must_use]
    pub const fn path(&self) -> &'a str {
        self.path
    }
    /// Whether the path has exactly one view (no `%`, `;`, `\`, `//`, dot segment).
    #[must_use]
    pub fn is_plain(&self) -> bool {
        todo!()
    }
    /// The distinct views of the path, the raw one first; a plain target has one.
    #[must_use]
    pub fn views(&self) -> Vec<Cow<'_, str>> {
        todo!()
    }
    /// The class under which an ambiguity of this target is counted.
    #[must_use]
    pub fn class(&self) -> AmbiguityClass {
        todo!()
    }
}

impl TargetError {
    /// The class under which this error is counted.
    #[must_use]
    pub const fn class(self) -> AmbiguityClass {
        AmbiguityClass::Form
    }
}

impl AmbiguityClass {
    /// Label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        "form"
    }
}

impl Pattern {
    /// Compiles pattern text (compat 1.3: exact, `/*` suffix, per-segment globs).
    ///
    /// # Errors
    /// See [`PatternError`].
    pub fn parse(_text: &str) -> Result<Self, PatternError> {
        todo!()
    }
    /// The text it was compiled from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// Whether one view of a path matches.
    #[must_use]
    pub fn matches(&self, _view: &str) -> bool {
        todo!()
    }
}

/// Normalises a host: lower case, no port, no trailing dot. `None` when it is not exactly one host.
#[must_use]
pub fn normalize_host(_text: &str) -> Option<Cow<'_, str>> {
    todo!()
}
