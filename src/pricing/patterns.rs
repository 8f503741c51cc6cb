//! The pattern of a route: which path it guards, as far as it shows without compiling it.
//!
//! The table compiles patterns and has the last word (`route.rs`); here only what is certain is
//! reported, with its place in the file. A broken pattern that begins with a plain segment still
//! says which path to close (R3); one that does not says nothing, and then the whole document is
//! refused.

use super::findings::Findings;
use super::read::Section;
use super::tree::Value;
use crate::offer::quoted;
use std::sync::Arc;

/// Longest pattern, in bytes.
const MAX_PATTERN: usize = 2_048;
/// Most segments of a pattern.
const MAX_SEGMENTS: usize = 64;

/// The pattern text, with a leading slash; `None` when nothing says which path to close.
pub(super) fn pattern(section: &Section<'_>, findings: &mut Findings) -> Option<Arc<str>> {
    let Some(text) = section.filled("pattern", findings) else {
        if !matches!(
            section.node("pattern").map(|node| &node.value),
            Some(Value::List(_) | Value::Map(_))
        ) {
            findings.error(
                section.at("pattern"),
                section.place.key("pattern"),
                "missing_pattern",
                "the route has no pattern, so nothing says which path it guards: write one such \
                 as \"/services/app/*\""
                    .to_owned(),
            );
        }
        return None;
    };
    let Some(why) = broken(text.text) else {
        return Some(text.text.into());
    };
    text.error(
        findings,
        "invalid_pattern",
        format!("pattern {} {why}", quoted(text.text)),
    );
    if has_no_prefix(text.text) || text.text.contains("://") || text.text.len() > MAX_PATTERN {
        findings.hint("nothing says which path to close, so the whole document is refused");
        return None;
    }
    let slash = if text.text.starts_with('/') { "" } else { "/" };
    Some(format!("{slash}{}", text.text).into())
}

/// What is wrong with a pattern, as far as it shows without compiling it.
fn broken(pattern: &str) -> Option<&'static str> {
    let Some(path) = pattern.strip_prefix('/') else {
        return Some("does not begin with \"/\": write the path from its root");
    };
    if pattern.len() > MAX_PATTERN || pattern.split('/').count() > MAX_SEGMENTS {
        return Some("is too long: write at most 2048 bytes and 64 segments");
    }
    if pattern.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Some("contains a space or control character: write a space as %20");
    }
    // As in the predecessor, only a `*` beyond a final `/*` makes the segments globs.
    let body = path.strip_suffix("/*").unwrap_or(path);
    let globs = body.contains('*') && body != "*";
    let body = body.strip_suffix('/').unwrap_or(body);
    if body.contains('#') || (!globs && body.contains('?')) {
        return Some("contains what ends a path: remove the query or fragment");
    }
    if !globs && body.contains('\\') {
        return Some("contains a backslash, which servers read as a slash: write \"/\"");
    }
    let mut segments = body.split('/');
    if !body.is_empty() && segments.clone().any(|s| matches!(s, "" | "." | "..")) {
        return Some("contains an empty or dot segment, which no request keeps: remove it");
    }
    if bad_escape(body) {
        return Some("has a percent sign that begins no escape: write it as %25");
    }
    if globs && body.contains("**") && !body.contains(['\\', '[']) {
        return Some("contains \"**\", which matches one segment: write \"/*\" at its end instead");
    }
    if globs && segments.any(unclosed) {
        return Some("has an unclosed \"[\" or a trailing \"\\\": close it within its segment");
    }
    None
}

fn bad_escape(path: &str) -> bool {
    path.split('%').skip(1).any(|after| {
        let mut digits = after.bytes().take(2);
        digits.len() < 2 || !digits.all(|b| b.is_ascii_hexdigit())
    })
}

/// Whether a glob segment ends inside a class or an escape.
fn unclosed(segment: &str) -> bool {
    let mut letters = segment.chars();
    let mut inside = false;
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if letters.next().is_none() => return true,
            '[' => inside = true,
            ']' => inside = false,
            _ => {}
        }
    }
    inside
}

/// Whether no whole plain segment stands at the beginning, so that closing the literal prefix of
/// the pattern would close everything.
fn has_no_prefix(pattern: &str) -> bool {
    let path = pattern.strip_prefix('/').unwrap_or(pattern);
    let first = path.split('/').next().unwrap_or_default();
    let plain = |b: u8| b > b' ' && b != 0x7f && !b"*?[\\#%".contains(&b);
    matches!(first, "" | "." | "..") || !first.bytes().all(plain)
}
