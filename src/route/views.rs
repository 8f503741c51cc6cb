//! The views of a path: every text an upstream might route by.
//!
//! Each step feeds the next, because upstreams compose them too: `/free/%2e%2e%3b/paid` is a dot
//! segment only after decoding *and* stripping its parameter. A step that changes nothing adds
//! nothing, so an honest path with one escape has two views, not a hundred.

use std::borrow::Cow;

/// Bound on the number of views: 3 decodings, each with and without 3 rewrites, each normalised in
/// 5 ways.
pub const MAX_VIEWS: usize = 3 * 2 * 2 * 2 * 5;

/// All distinct views, the raw path first.
pub(super) fn compose<'a>(
    path: &'a str,
    once: Option<&'a str>,
    twice: Option<&'a str>,
) -> Vec<Cow<'a, str>> {
    let mut views: Vec<Cow<'a, str>> = Vec::with_capacity(8);
    let mut add = |view: Cow<'a, str>| {
        if !views.contains(&view) {
            views.push(view);
        }
    };
    for text in [Some(path), once, twice].into_iter().flatten() {
        for text in with(Cow::Borrowed(text), backslash_as_slash) {
            for text in with(text, cut_decoded_query) {
                for text in with(text, strip_parameters) {
                    let merged = merge_slashes(&text);
                    let resolved = remove_dot_segments(&text);
                    let merged_then_resolved =
                        remove_dot_segments(merged.as_deref().unwrap_or(&text));
                    let resolved_then_merged = resolved.as_deref().and_then(merge_slashes);
                    add(text);
                    let rewritten = [merged, resolved, merged_then_resolved, resolved_then_merged];
                    rewritten
                        .into_iter()
                        .flatten()
                        .map(Cow::Owned)
                        .for_each(&mut add);
                }
            }
        }
    }
    views
}

/// Whether any reading of the text has a segment `.` or `..`.
pub(super) fn has_dot_segment(text: &str) -> bool {
    text.split(['/', '\\'])
        .map(|segment| segment.split([';', '?', '#']).next().unwrap_or(segment))
        .any(|segment| matches!(segment, "." | ".."))
}

/// The text, and the rewritten text where that differs.
fn with<'a>(
    text: Cow<'a, str>,
    rewrite: impl Fn(&str) -> Option<String>,
) -> impl Iterator<Item = Cow<'a, str>> {
    let rewritten = rewrite(&text).map(Cow::Owned);
    std::iter::once(text).chain(rewritten)
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
    if !text.split('/').any(|segment| matches!(segment, "." | "..")) {
        return None;
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_dot = false;
    for segment in text.split('/').skip(1) {
        ends_in_dot = true;
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            other => {
                kept.push(other);
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
