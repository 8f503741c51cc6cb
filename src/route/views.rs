//! The views of a path: every text an upstream might route by.
//!
//! Upstreams compose the same few steps in different orders: Tomcat strips `;parameters` before it
//! decodes and Jetty after, Go and `new URL` take `%2e%2e` for a dot segment but `%2f` for a letter,
//! a proxy in between resolves once and its server once more. So the views are a closure: every step
//! is applied to the result of every other, with at most two decodings on the way. A step that
//! changes nothing adds nothing, so an honest path with one escape has two views, not a hundred; a
//! path with more than [`MAX_VIEWS`] readings has no meaning at all.

use super::{TargetError, decode};

/// Most views of a path.
pub const MAX_VIEWS: usize = 128;
/// How often some chain of proxy and server decodes a path.
const DECODINGS: usize = 2;

/// The steps besides decoding; `None` where one changes nothing.
const REWRITES: [fn(&str) -> Option<String>; 6] = [
    backslash_as_slash,
    cut_decoded_query,
    strip_parameters,
    merge_slashes,
    remove_dot_segments,
    remove_encoded_dot_segments,
];

/// All distinct views, the raw path first.
pub(super) fn readings(path: &str) -> Result<Vec<String>, TargetError> {
    let mut found = vec![path.to_owned()];
    for text in [Some(path.to_owned()), backslash_as_slash(path)] {
        let rest = text.as_deref().and_then(cut_authority);
        rest.map_or(Ok(()), |rest| add(&mut found, rest))?;
    }
    let mut level = 0;
    for decodings in 0..=DECODINGS {
        let mut at = level;
        while let Some(text) = found.get(at).cloned() {
            for rewritten in REWRITES.iter().filter_map(|rewrite| rewrite(&text)) {
                add(&mut found, rewritten)?;
            }
            at += 1;
        }
        if decodings == DECODINGS {
            break;
        }
        let decoded_less = level..found.len();
        level = found.len();
        for at in decoded_less {
            let text = found.get(at).filter(|text| text.contains('%')).cloned();
            if let Some(text) = text {
                add(&mut found, decode(&text)?.into_owned())?;
                add(&mut found, decode_but_slashes(&text)?)?;
            }
        }
    }
    Ok(found)
}

fn add(found: &mut Vec<String>, view: String) -> Result<(), TargetError> {
    if found.contains(&view) {
        return Ok(());
    }
    if found.len() == MAX_VIEWS {
        return Err(TargetError::Readings);
    }
    found.push(view);
    Ok(())
}

/// Decodes once what is no encoded slash: a router that splits before it decodes.
fn decode_but_slashes(text: &str) -> Result<String, TargetError> {
    let kept = text.replace("%2f", "%252f").replace("%2F", "%252F");
    decode(&kept).map(std::borrow::Cow::into_owned)
}

/// What `new URL(target, base)` makes of a target with two leading slashes: they start an authority.
fn cut_authority(text: &str) -> Option<String> {
    let authority = text.strip_prefix("//")?.trim_start_matches('/');
    let path = authority.find('/').and_then(|at| authority.get(at..));
    Some(path.unwrap_or("/").to_owned())
}

/// Whether any reading of the text has a segment `.` or `..`.
pub(super) fn has_dot_segment(text: &str) -> bool {
    text.split(['/', '\\'])
        .map(|segment| segment.split([';', '?', '#']).next().unwrap_or(segment))
        .any(|segment| matches!(segment, "." | ".."))
}

/// `\` read as `/`.
fn backslash_as_slash(text: &str) -> Option<String> {
    text.contains('\\').then(|| text.replace('\\', "/"))
}

/// What is left when a server decodes first and splits off query and fragment afterwards
/// (`/paid%3Fx`). Raw texts hold neither character.
fn cut_decoded_query(text: &str) -> Option<String> {
    text.split_once(['?', '#'])
        .map(|(path, _rest)| path.to_owned())
}

/// `;parameters` removed from every segment.
fn strip_parameters(text: &str) -> Option<String> {
    text.contains(';').then(|| {
        let mut stripped = String::with_capacity(text.len());
        for (index, segment) in text.split('/').enumerate() {
            if index > 0 {
                stripped.push('/');
            }
            stripped.push_str(segment.split(';').next().unwrap_or(segment));
        }
        stripped
    })
}

/// Runs of slashes as one.
fn merge_slashes(text: &str) -> Option<String> {
    text.contains("//").then(|| {
        let mut merged = String::with_capacity(text.len());
        for character in text.chars() {
            if character != '/' || !merged.ends_with('/') {
                merged.push(character);
            }
        }
        merged
    })
}

/// Dot segments removed as RFC 3986 5.2.4 says: `..` also eats an empty segment, nothing climbs
/// above the root, and a final dot segment leaves a trailing slash.
fn remove_dot_segments(text: &str) -> Option<String> {
    without_dots(text, |segment| segment)
}

/// The same where `%2e` is a dot although nothing else is decoded: the WHATWG URL standard, and
/// Envoy before a server that decodes.
fn remove_encoded_dot_segments(text: &str) -> Option<String> {
    let is_encoded = |segment: &str| segment.contains('%') && plain_dots(segment) != segment;
    text.split('/')
        .any(is_encoded)
        .then(|| without_dots(text, plain_dots))?
}

/// A dot segment in plain letters; any other segment as it is.
fn plain_dots(segment: &str) -> &str {
    match segment.len() {
        3 if segment.eq_ignore_ascii_case("%2e") => ".",
        4 if segment.eq_ignore_ascii_case("%2e.") || segment.eq_ignore_ascii_case(".%2e") => "..",
        6 if segment.eq_ignore_ascii_case("%2e%2e") => "..",
        _ => segment,
    }
}

fn without_dots(text: &str, read: fn(&str) -> &str) -> Option<String> {
    let is_dots = |segment: &str| matches!(read(segment), "." | "..");
    if !text.split('/').any(is_dots) {
        return None;
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_dot = false;
    for segment in text.split('/').skip(1) {
        ends_in_dot = true;
        match read(segment) {
            "." => {}
            ".." => drop(kept.pop()),
            _ => {
                kept.push(segment);
                ends_in_dot = false;
            }
        }
    }
    let mut resolved = String::with_capacity(text.len());
    for segment in &kept {
        resolved.push('/');
        resolved.push_str(segment);
    }
    if ends_in_dot || resolved.is_empty() {
        resolved.push('/');
    }
    Some(resolved)
}
