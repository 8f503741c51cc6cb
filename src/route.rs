//! The request target: one parser, many views; and the pattern language.
//!
//! The gate and the upstream may read one target differently, and that is how path gates are
//! bypassed. So a target is read in every way an upstream might read it: [`Target::parse`] refuses
//! what has no single meaning at all, [`Target::views`] lists every reading of the rest, and the
//! table decides over all of them (design section 4). The bytes themselves are never rewritten:
//! what is forwarded is what came.
//!
//! It is not a URL parser and knows no offers. It allocates nothing for a plain target, which is
//! nearly every target; a hostile one costs a bounded number of views of a bounded length.
//!
//! Invariants: every view starts with `/`; the raw path is the first view; the number of views never
//! exceeds [`MAX_VIEWS`]; a trailing slash stays in the text and is ignored by [`Pattern`].

mod glob;
mod host;
mod pattern;
mod views;

pub use glob::Glob;
pub use host::normalize_host;
pub use pattern::{Pattern, PatternError, Segment, Specificity, Tail, literal_prefix};
pub use views::MAX_VIEWS;

use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// A request target, split and checked (design section 4).
#[derive(Debug, Clone)]
pub struct Target<'a> {
    raw: &'a str,
    path: &'a str,
    features: Features,
    /// Every reading of the path, the raw one first; empty when there is no other.
    readings: Vec<String>,
}

/// What a path contains that lets it be read in more than one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Features {
    escape: bool,
    encoded_slash: bool,
    encoded_percent: bool,
    backslash: bool,
    parameter: bool,
    double_slash: bool,
    dot_segment: bool,
}

/// Why a target has no single meaning: 400 `ambiguous_target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No leading slash and no absolute form either, or empty.
    #[error("request target is not a path: it must start with \"/\"")]
    Form,
    /// Absolute form whose authority is not the forwarded host.
    #[error("request target names another authority than the forwarded host")]
    Authority,
    /// A fragment, which some servers cut and some keep.
    #[error("request target contains \"#\": encode it as %23")]
    Fragment,
    /// A control byte, space or tab, literally.
    #[error("request target contains a control byte or a space: encode a space as %20")]
    Control,
    /// A percent sign that starts no escape.
    #[error("request target contains a bad percent escape: encode a percent sign as %25")]
    Escape,
    /// An encoded NUL, CR, LF or other control byte, at any depth of encoding.
    #[error("request target contains an encoded control byte")]
    EncodedControl,
    /// Escapes that are not UTF-8 (overlong forms included).
    #[error("request target contains escapes that are not UTF-8")]
    Utf8,
    /// Longer, deeper or more escaped than any honest path.
    #[error("request target is too long: at most 16 KiB, 256 segments and 2048 escapes")]
    Cost,
    /// More readings than are worth deciding about.
    #[error("request target can be read in more than 128 ways: send the resolved path")]
    Readings,
}

/// Class of ambiguity, the label of `ambiguous_targets_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AmbiguityClass {
    /// Target form: no leading slash, absolute form of another authority.
    Form,
    /// A fragment.
    Fragment,
    /// Control bytes, literal or encoded.
    Control,
    /// Bad percent escapes or escapes that are not UTF-8.
    Escape,
    /// Too long, too deep, too many escapes.
    Cost,
    /// An encoded slash.
    EncodedSlash,
    /// An encoded percent sign.
    DoubleEncoding,
    /// A backslash, literal or encoded.
    Backslash,
    /// A dot segment, literal or encoded.
    DotSegment,
    /// `;parameters`.
    Parameter,
    /// `//`.
    DoubleSlash,
    /// Any other escape.
    Encoding,
    /// Letter case alone.
    Case,
}

/// Longest path in bytes.
const MAX_PATH: usize = 16 * 1024;
/// Most slashes and backslashes in a path.
const MAX_SEGMENTS: usize = 256;
/// Most percent escapes in a path.
const MAX_ESCAPES: usize = 2048;

impl<'a> Target<'a> {
    /// Splits and checks a target. `authority` is the forwarded host for absolute-form targets.
    ///
    /// The query is opaque but for control bytes; only the path before the first `?` has views.
    ///
    /// # Errors
    /// See [`TargetError`].
    pub fn parse(raw: &'a str, authority: Option<&str>) -> Result<Self, TargetError> {
        // Without an early exit, so that it takes many bytes at a time; honest targets have none.
        let control = raw
            .bytes()
            .fold(false, |found, byte| found | (byte <= b' ') | (byte == 0x7f));
        if control {
            return Err(TargetError::Control);
        }
        let origin_form = if raw.starts_with('/') {
            raw
        } else {
            reduce(raw, authority)?
        };
        let path = match origin_form.split_once('?') {
            Some((path, _query)) => path,
            None => origin_form,
        };
        let mut features = scan(path)?;
        let mut readings = Vec::new();
        if features.readable_differently() {
            readings = views::readings(path)?;
            features.backslash |= readings.iter().any(|text| text.contains('\\'));
            features.parameter |= readings.iter().any(|text| text.contains(';'));
            features.double_slash |= readings.iter().any(|text| text.contains("//"));
            features.dot_segment |= readings.iter().any(|text| views::has_dot_segment(text));
        }
        Ok(Self {
            raw,
            path,
            features,
            readings,
        })
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
    pub const fn is_plain(&self) -> bool {
        !self.features.readable_differently()
    }

    /// Whether the path hides structure: an encoded `/`, a `\`, a `%25` or a dot segment. Such a
    /// target is never priced when its views differ (design section 4, step 3).
    #[must_use]
    pub const fn hides_structure(&self) -> bool {
        let Features {
            encoded_slash,
            encoded_percent,
            backslash,
            dot_segment,
            ..
        } = self.features;
        encoded_slash || encoded_percent || backslash || dot_segment
    }

    /// The distinct views of the path, the raw one first; a plain target has one.
    #[must_use]
    pub fn views(&self) -> Vec<Cow<'_, str>> {
        if self.is_plain() {
            return vec![Cow::Borrowed(self.path)];
        }
        self.readings
            .iter()
            .map(|text| Cow::Borrowed(text.as_str()))
            .collect()
    }

    /// The class under which an ambiguity of this target is counted: the most telling feature.
    #[must_use]
    pub const fn class(&self) -> AmbiguityClass {
        let features = &self.features;
        if features.encoded_slash {
            AmbiguityClass::EncodedSlash
        } else if features.encoded_percent {
            AmbiguityClass::DoubleEncoding
        } else if features.backslash {
            AmbiguityClass::Backslash
        } else if features.dot_segment {
            AmbiguityClass::DotSegment
        } else if features.parameter {
            AmbiguityClass::Parameter
        } else if features.double_slash {
            AmbiguityClass::DoubleSlash
        } else if features.escape {
            AmbiguityClass::Encoding
        } else {
            AmbiguityClass::Case
        }
    }
}

impl Features {
    /// Whether there is more than one way to read the path.
    const fn readable_differently(&self) -> bool {
        self.escape || self.backslash || self.parameter || self.double_slash || self.dot_segment
    }
}

/// What a path contains, and the bounds on its cost.
fn scan(path: &str) -> Result<Features, TargetError> {
    if is_featureless(path) {
        return Ok(Features::default());
    }
    scan_closely(path)
}

/// Whether a path is too short to cost anything and holds no byte or pair of bytes that
/// [`scan_closely`] looks for. Almost every path is like that, and a pass without branches takes many
/// bytes at a time.
fn is_featureless(path: &str) -> bool {
    let bytes = path.as_bytes();
    let special = bytes.iter().fold(false, |found, byte| {
        found | (*byte == b'#') | (*byte == b'\\') | (*byte == b';') | (*byte == b'%')
    });
    let pairs = bytes.iter().zip(bytes.iter().skip(1));
    let segment = pairs.fold(false, |found, (byte, next)| {
        found | ((*byte == b'/') & ((*next == b'/') | (*next == b'.')))
    });
    bytes.len() <= MAX_SEGMENTS && !special && !segment
}

/// One pass over the path byte by byte.
fn scan_closely(path: &str) -> Result<Features, TargetError> {
    if path.len() > MAX_PATH {
        return Err(TargetError::Cost);
    }
    let mut found = Features::default();
    let (mut segments, mut escapes) = (0_usize, 0_usize);
    let mut bytes = path.bytes();
    // Bytes since the last slash, and whether all of them were dots.
    let (mut length, mut dots) = (1_usize, false);
    while let Some(byte) = bytes.next() {
        if byte == b'/' {
            found.double_slash |= length == 0;
            found.dot_segment |= dots && (1..=2).contains(&length);
            segments += 1;
            (length, dots) = (0, true);
            continue;
        }
        length += 1;
        dots &= byte == b'.';
        match byte {
            b'#' => return Err(TargetError::Fragment),
            b'\\' => {
                found.backslash = true;
                segments += 1;
            }
            b';' => found.parameter = true,
            b'%' => {
                let (Some(high), Some(low)) = (bytes.next(), bytes.next()) else {
                    return Err(TargetError::Escape);
                };
                if !high.is_ascii_hexdigit() || !low.is_ascii_hexdigit() {
                    return Err(TargetError::Escape);
                }
                escapes += 1;
                found.escape = true;
                match (high, low.to_ascii_lowercase()) {
                    (b'2', b'f') => found.encoded_slash = true,
                    (b'2', b'5') => found.encoded_percent = true,
                    _ => {}
                }
            }
            _ => {}
        }
    }
    found.dot_segment |= dots && (1..=2).contains(&length);
    if segments > MAX_SEGMENTS || escapes > MAX_ESCAPES {
        return Err(TargetError::Cost);
    }
    Ok(found)
}

/// Decodes every escape once; what is no escape stays (a decoded `100%` is honest).
fn decode(text: &str) -> Result<Cow<'_, str>, TargetError> {
    let decoded = match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => decoded,
        Err(_not_utf8) => return Err(TargetError::Utf8),
    };
    if decoded.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err(TargetError::EncodedControl);
    }
    Ok(decoded)
}

/// Reduces an absolute-form target to path and query, if it names the forwarded host.
fn reduce<'a>(raw: &'a str, authority: Option<&str>) -> Result<&'a str, TargetError> {
    let rest = ["http://", "https://"]
        .into_iter()
        .find_map(|scheme| {
            let (head, rest) = raw.split_at_checked(scheme.len())?;
            head.eq_ignore_ascii_case(scheme).then_some(rest)
        })
        .ok_or(TargetError::Form)?;
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (named, rest) = rest.split_at_checked(end).ok_or(TargetError::Form)?;
    let named = normalize_host(named).ok_or(TargetError::Authority)?;
    let forwarded = authority
        .and_then(normalize_host)
        .ok_or(TargetError::Authority)?;
    if named != forwarded {
        return Err(TargetError::Authority);
    }
    match rest.chars().next() {
        Some('/') => Ok(rest),
        None | Some('?') => Ok("/"),
        Some(_) => Err(TargetError::Form),
    }
}

impl TargetError {
    /// The class under which this error is counted.
    #[must_use]
    pub const fn class(self) -> AmbiguityClass {
        match self {
            Self::Form | Self::Authority => AmbiguityClass::Form,
            Self::Fragment => AmbiguityClass::Fragment,
            Self::Control | Self::EncodedControl => AmbiguityClass::Control,
            Self::Escape | Self::Utf8 => AmbiguityClass::Escape,
            Self::Cost | Self::Readings => AmbiguityClass::Cost,
        }
    }
}

impl AmbiguityClass {
    /// Every class, so that each has its series from the start.
    pub const ALL: [Self; 13] = [
        Self::Form,
        Self::Fragment,
        Self::Control,
        Self::Escape,
        Self::Cost,
        Self::EncodedSlash,
        Self::DoubleEncoding,
        Self::Backslash,
        Self::DotSegment,
        Self::Parameter,
        Self::DoubleSlash,
        Self::Encoding,
        Self::Case,
    ];

    /// Label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Fragment => "fragment",
            Self::Control => "control",
            Self::Escape => "escape",
            Self::Cost => "cost",
            Self::EncodedSlash => "encoded_slash",
            Self::DoubleEncoding => "double_encoding",
            Self::Backslash => "backslash",
            Self::DotSegment => "dot_segment",
            Self::Parameter => "parameter",
            Self::DoubleSlash => "double_slash",
            Self::Encoding => "encoding",
            Self::Case => "case",
        }
    }
}

#[cfg(test)]
mod tests;
