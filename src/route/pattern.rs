//! The pattern language (compat 1.3), with a stricter compiler than the predecessor's.
//!
//! - No `*`: the exact path. A trailing slash makes no difference.
//! - `/*` at the end and no other `*`: the subtree of whole segments. `/a/*` covers `/a`, `/a/` and
//!   `/a/b`, never `/ab`.
//! - Any other `*`: globs per segment ([`Glob`]); a last segment `*` takes one or more segments, else
//!   the number of segments must be equal.
//!
//! The predecessor let a malformed glob match nothing, so its path was free. Here whatever can never
//! match is an error that says what would do, and its [`literal_prefix`] is what gets closed (R3).
//! Percent escapes are decoded at compile time, so `/caf%C3%A9` and `/café` are one pattern.

use super::glob::{Glob, GlobError};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::sync::Arc;

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Arc<str>,
    segments: Arc<[Segment]>,
    tail: Tail,
    specificity: Specificity,
}

/// One segment of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Decoded text, compared as it is.
    Literal(Box<str>),
    /// A glob.
    Glob(Glob),
}

/// What follows the segments of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tail {
    /// Nothing.
    Exact,
    /// Anything or nothing (`/*`).
    Subtree,
    /// One or more segments (the last `*` of a glob pattern).
    Greedy,
}

/// Precedence among one owner's patterns; the greater wins: exact, then the longest prefix, then the
/// longest literal part (Gateway API's order). Lengths in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Specificity {
    /// Whether it has no wildcard at all.
    pub exact: bool,
    /// Characters before the first wildcard.
    pub prefix: u16,
    /// All literal characters.
    pub literal: u16,
}

/// Why a pattern cannot compile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Does not start with a slash.
    #[error("pattern does not start with \"/\": write \"/{0}\"")]
    NoLeadingSlash(String),
    /// Longer than any target may be deep.
    #[error("pattern is too long: at most 2048 bytes and 64 segments")]
    TooLong,
    /// `?` or `#`, which end a path.
    #[error(
        "pattern contains \"{0}\", which ends a path: patterns match paths without query, remove it and what follows"
    )]
    QueryOrFragment(char),
    /// A space or control character.
    #[error("pattern contains a space or control character: write a space as %20")]
    Control,
    /// A percent sign that starts no escape, or escapes that are not UTF-8.
    #[error("segment \"{0}\" has a bad percent escape: write a percent sign as %25")]
    Escape(String),
    /// An escape whose character has no single meaning in a path.
    #[error(
        "segment \"{0}\" encodes a slash, backslash or control character, which no request may: write separate segments"
    )]
    EncodedSeparator(String),
    /// An escape behind an escape.
    #[error("segment \"{0}\" is percent-encoded twice, which no request may be: encode once")]
    DoubleEncoding(String),
    /// `//`.
    #[error("pattern contains an empty segment (\"//\"): write a single slash")]
    EmptySegment,
    /// `.` or `..`.
    #[error(
        "pattern contains the dot segment \"{0}\", which no request keeps: write the path it leads to"
    )]
    DotSegment(String),
    /// A backslash outside a glob.
    #[error("segment \"{0}\" contains a backslash, which servers read as a slash: write \"/\"")]
    Backslash(String),
    /// Not a glob.
    #[error(
        "segment \"{0}\" is a malformed glob and would never match: close every \"[\" with \"]\", and put \"\\\" before a literal special character"
    )]
    Glob(String),
    /// `**`.
    #[error(
        "segment \"{0}\" contains \"**\", which matches one segment only: write \"/*\" at the end for a subtree"
    )]
    DoubleStar(String),
    /// `[z-a]`.
    #[error("segment \"{0}\" has a range that holds nothing: write the lower character first")]
    EmptyRange(String),
}

/// Longest pattern in bytes; keeps [`Specificity`] within 16 bits.
const MAX_PATTERN: usize = 2048;
/// Most segments of a pattern.
const MAX_SEGMENTS: usize = 64;
/// Characters that make a segment a glob, in a pattern that has a `*` of its own.
const GLOB_CHARACTERS: [char; 4] = ['*', '?', '[', '\\'];

impl Pattern {
    /// Compiles pattern text (compat 1.3: exact, `/*` suffix, per-segment globs).
    ///
    /// # Errors
    /// See [`PatternError`].
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        Self::shared(&text.into())
    }

    /// As [`Pattern::parse`], of a text that is kept instead of a copy.
    ///
    /// # Errors
    /// See [`PatternError`].
    pub fn shared(text: &Arc<str>) -> Result<Self, PatternError> {
        let Some(path) = text.strip_prefix('/') else {
            return Err(PatternError::NoLeadingSlash(text.to_string()));
        };
        if text.len() > MAX_PATTERN || text.split('/').count() > MAX_SEGMENTS {
            return Err(PatternError::TooLong);
        }
        if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(PatternError::Control);
        }
        let (body, tail, globs) = split_tail(path);
        let body = body.strip_suffix('/').unwrap_or(body);
        let forbidden: &[char] = if globs { &['#'] } else { &['#', '?'] };
        if let Some(found) = body.chars().find(|character| forbidden.contains(character)) {
            return Err(PatternError::QueryOrFragment(found));
        }
        let segments = if body.is_empty() {
            Arc::default()
        } else {
            body.split('/')
                .map(|segment| Segment::parse(segment, globs))
                .collect::<Result<Arc<[Segment]>, _>>()?
        };
        Ok(Self {
            text: text.clone(),
            specificity: Specificity::of(&segments, tail),
            segments,
            tail,
        })
    }

    /// The pattern that covers the subtree of a literal path (`/services/foo`).
    ///
    /// # Errors
    /// See [`PatternError`].
    pub fn subtree(path: &str) -> Result<Self, PatternError> {
        let mut text = path.trim_end_matches('/').to_owned();
        text.push_str("/*");
        if path.contains('*') {
            return Err(PatternError::Glob(path.to_owned()));
        }
        Self::parse(&text)
    }

    /// The pattern of everything, `/*`.
    #[must_use]
    pub fn root() -> Self {
        Self {
            text: "/*".into(),
            segments: Arc::default(),
            tail: Tail::Subtree,
            specificity: Specificity::of(&[], Tail::Subtree),
        }
    }

    /// The text it was compiled from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same text, shared.
    #[must_use]
    pub const fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Its segments, without the tail.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// What follows the segments.
    #[must_use]
    pub const fn tail(&self) -> Tail {
        self.tail
    }

    /// The literal segments before the first wildcard.
    pub fn literal_segments(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().map_while(|segment| match segment {
            Segment::Literal(text) => Some(&**text),
            Segment::Glob(_) => None,
        })
    }

    /// The whole literal segments it starts with, as a path (`/services/foo`; `/` when none).
    #[must_use]
    pub fn literal_prefix(&self) -> String {
        let mut prefix = String::new();
        for segment in self.literal_segments() {
            prefix.push('/');
            prefix.push_str(segment);
        }
        if prefix.is_empty() {
            prefix.push('/');
        }
        prefix
    }

    /// Whether it has any upper-case ASCII letter, so that a lower-cased view never matches it.
    #[must_use]
    pub fn has_uppercase(&self) -> bool {
        self.text.bytes().any(|byte| byte.is_ascii_uppercase())
    }

    /// Its precedence among one owner's patterns.
    #[must_use]
    pub const fn specificity(&self) -> Specificity {
        self.specificity
    }

    /// Whether one view of a path matches; its trailing slash is ignored, except that a greedy tail
    /// takes it for an empty segment, as the predecessor did.
    #[must_use]
    pub fn matches(&self, view: &str) -> bool {
        self.matches_by(view, Segment::matches)
    }

    /// As [`Pattern::matches`] when ASCII letters have no case.
    #[must_use]
    pub fn matches_folded(&self, view: &str) -> bool {
        self.matches_by(view, Segment::matches_folded)
    }

    fn matches_by(&self, view: &str, matches: impl Fn(&Segment, &str) -> bool) -> bool {
        let view = view.strip_prefix('/').unwrap_or(view);
        let (body, slash) = match view.strip_suffix('/') {
            Some(body) => (body, true),
            None => (view, false),
        };
        let mut rest = (!view.is_empty())
            .then(|| body.split('/'))
            .into_iter()
            .flatten();
        for segment in &*self.segments {
            let Some(found) = rest.next() else {
                return false;
            };
            if !matches(segment, found) {
                return false;
            }
        }
        match self.tail {
            Tail::Subtree => true,
            Tail::Exact => rest.next().is_none(),
            Tail::Greedy => slash || rest.next().is_some(),
        }
    }
}

impl Specificity {
    fn of(segments: &[Segment], tail: Tail) -> Self {
        let wild = |segment: &Segment| matches!(segment, Segment::Glob(_));
        let (mut prefix, mut literal, mut in_prefix) = (0, 0, true);
        for segment in segments {
            // The slash before the segment.
            literal += 1;
            prefix += usize::from(in_prefix);
            let (start, all) = match segment {
                Segment::Literal(text) => (text.chars().count(), text.chars().count()),
                Segment::Glob(glob) => (glob.literal_prefix_len(), glob.literal_len()),
            };
            literal += all;
            prefix += if in_prefix { start } else { 0 };
            in_prefix &= !wild(segment);
        }
        if tail != Tail::Exact {
            literal += 1;
            prefix += usize::from(in_prefix);
        }
        Self {
            exact: tail == Tail::Exact && !segments.iter().any(wild),
            prefix: u16::try_from(prefix).unwrap_or(u16::MAX),
            literal: u16::try_from(literal).unwrap_or(u16::MAX),
        }
    }
}

impl Segment {
    fn parse(text: &str, globs: bool) -> Result<Self, PatternError> {
        let is_glob = globs && text.contains(GLOB_CHARACTERS);
        let decoded = decode(text, is_glob)?;
        match &*decoded {
            "" => return Err(PatternError::EmptySegment),
            "." | ".." => return Err(PatternError::DotSegment(text.to_owned())),
            _ => {}
        }
        if has_escape(&decoded) {
            return Err(PatternError::DoubleEncoding(text.to_owned()));
        }
        if !is_glob {
            if decoded.contains('\\') {
                return Err(PatternError::Backslash(text.to_owned()));
            }
            return Ok(Self::Literal(decoded.into()));
        }
        Glob::parse(&decoded)
            .map(Self::Glob)
            .map_err(|error| match error {
                GlobError::Malformed => PatternError::Glob(text.to_owned()),
                GlobError::DoubleStar => PatternError::DoubleStar(text.to_owned()),
                GlobError::EmptyRange => PatternError::EmptyRange(text.to_owned()),
            })
    }

    /// Whether one segment of a view matches.
    #[must_use]
    pub fn matches(&self, segment: &str) -> bool {
        match self {
            Self::Literal(text) => **text == *segment,
            Self::Glob(glob) => glob.matches(segment),
        }
    }

    fn matches_folded(&self, segment: &str) -> bool {
        match self {
            Self::Literal(text) => text.eq_ignore_ascii_case(segment),
            Self::Glob(glob) => glob.matches_folded(segment),
        }
    }
}

/// The whole literal segments that a pattern text starts with, whether or not it compiles.
///
/// This is what a pattern that does not compile closes (R3). Always starts with `/`; a missing
/// leading slash is supplied, because that is what its author meant.
#[must_use]
pub fn literal_prefix(text: &str) -> String {
    let mut prefix = String::new();
    for segment in text
        .strip_prefix('/')
        .unwrap_or(text)
        .split('/')
        .take(MAX_SEGMENTS)
    {
        let literal = match Segment::parse(segment, true) {
            Ok(Segment::Literal(literal)) if !literal.contains(['#', '?', ' ']) => literal,
            Ok(_) | Err(_) => break,
        };
        prefix.push('/');
        prefix.push_str(&literal);
    }
    if prefix.is_empty() {
        prefix.push('/');
    }
    prefix
}

/// Splits off the tail; the flag says whether segments may be globs.
fn split_tail(path: &str) -> (&str, Tail, bool) {
    let head = if path == "*" {
        Some("")
    } else {
        path.strip_suffix("/*")
    };
    match head {
        Some(head) if !head.contains('*') => (head, Tail::Subtree, false),
        Some(head) => (head, Tail::Greedy, true),
        None => (path, Tail::Exact, path.contains('*')),
    }
}

/// Whether a decoded text could be decoded once more.
fn has_escape(decoded: &str) -> bool {
    decoded.split('%').skip(1).any(|after| {
        let mut digits = after.bytes().take(2);
        digits.len() == 2 && digits.all(|digit| digit.is_ascii_hexdigit())
    })
}

/// Decodes the escapes of one segment. In a glob, what an escape stands for is literal.
fn decode(text: &str, is_glob: bool) -> Result<Cow<'_, str>, PatternError> {
    let bad = || PatternError::Escape(text.to_owned());
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('%') {
        bytes.extend_from_slice(plain.as_bytes());
        let (digits, after) = escaped.split_at_checked(2).ok_or_else(bad)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(bad());
        }
        for byte in percent_decode_str(&format!("%{digits}")) {
            if matches!(byte, b'/' | b'\\' | 0..b' ' | 0x7f) {
                return Err(PatternError::EncodedSeparator(text.to_owned()));
            }
            if is_glob && matches!(byte, b'*' | b'?' | b'[' | b']' | b'-' | b'^') {
                bytes.push(b'\\');
            }
            bytes.push(byte);
        }
        rest = after;
    }
    bytes.extend_from_slice(rest.as_bytes());
    match String::from_utf8(bytes) {
        Ok(decoded) => Ok(Cow::Owned(decoded)),
        Err(_not_utf8) => Err(bad()),
    }
}
