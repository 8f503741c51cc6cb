//! `check`: every problem of a pricing file, and of manifests beside it, at once.
//!
//! The file is parsed and compiled as `serve` does it. Two parts find problems: the source that reads
//! a text (with its place in it), and the table (patterns that can never match, routes that hide each
//! other, paths that belong to somebody else). Here they become one list in the order of the text.
//!
//! Failure: only a file that cannot be read at all; everything else is a [`Problem`].

use super::manifests::{self, Manifests};
use super::{add_line, compile, load};
use crate::pricing::{Document, Finding, Severity};
use crate::table::{ReportedState, RouteReport};
use jiff::Timestamp;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What `check` found.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// Whether the file can be served as it is (`--strict`: without a warning).
    pub ok: bool,
    /// All problems, errors and warnings.
    pub problems: Vec<Problem>,
}

/// One problem of `check --format json`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// `error`, `warning` or `note`; a note is no reason to be not ok.
    pub severity: &'static str,
    /// Stable code.
    pub code: String,
    /// The file.
    pub file: String,
    /// 1-based line, 0 when the problem has no place.
    pub line: usize,
    /// 1-based column, 0 when the problem has no place.
    pub column: usize,
    /// Path in the document.
    pub path: String,
    /// What was found and what would do.
    pub message: String,
    /// What to do, when the message does not say it all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Checks a pricing file, and manifests beside it, as `serve` would load them.
///
/// # Errors
/// When a file cannot be read.
pub fn check(
    file: &Path,
    offers: &[PathBuf],
    strict: bool,
    now: Timestamp,
) -> anyhow::Result<Checked> {
    let name = file.display().to_string();
    let mut problems = match load(file, offers)? {
        Err(unusable) => unusable
            .findings
            .iter()
            .map(|finding| Problem::new(&name, finding))
            .collect(),
        Ok(document) => {
            let manifests = Manifests::load(offers, &document.settings, now)?;
            let mut problems: Vec<_> = document
                .findings
                .iter()
                .map(|finding| Problem::new(&name, finding))
                .collect();
            problems.extend(manifests.notices.iter().cloned());
            problems.extend(table_problems(&name, document, manifests, now));
            problems
        }
    };
    let place = |problem: &Problem| (problem.file != name, problem.file.clone());
    problems.sort_by(|a, b| {
        (place(a), a.line, a.column, &a.path).cmp(&(place(b), b.line, b.column, &b.path))
    });
    problems.dedup();
    let ok = problems.iter().all(|problem| match problem.severity {
        "note" => true,
        "warning" => !strict,
        _ => false,
    });
    Ok(Checked { ok, problems })
}

/// What only the table can see: patterns that can never match, shadowed and conflicting routes.
fn table_problems(
    file: &str,
    document: Document,
    manifests: Manifests,
    now: Timestamp,
) -> Vec<Problem> {
    let declared: Vec<_> = document
        .offers
        .iter()
        .flat_map(|offer| &offer.routes)
        .filter(|route| route.problems.is_empty())
        .map(|route| {
            (
                Arc::clone(&route.pattern),
                route.at.as_ref().map(ToString::to_string),
            )
        })
        .collect();
    let Manifests { offers, places, .. } = manifests;
    let table = compile(document, offers, now);
    let mut problems = Vec::new();
    for row in table.report.rows() {
        let Some(reason) = row.reason else { continue };
        if row.source == manifests::SOURCE {
            problems.extend(places.problem(&row, reason, severity(&row)));
            continue;
        }
        let mut places = declared
            .iter()
            .filter(|(pattern, _)| *pattern == row.pattern);
        // Of two routes with one pattern the later is the shadowed one.
        let Some((_, place)) = places.next_back() else {
            continue;
        };
        let severity = severity(&row);
        let (line, column) = place.as_deref().map_or((0, 0), line_and_column);
        problems.push(Problem {
            severity,
            code: reason.to_owned(),
            file: file.to_owned(),
            line,
            column,
            path: format!("routes[pattern={}]", row.pattern),
            message: row.detail.clone().unwrap_or_else(|| reason.to_owned()),
            hint: None,
        });
    }
    problems
}

/// How bad it is that a row has a reason.
fn severity(row: &RouteReport) -> &'static str {
    match row.state {
        // Its seller has paused or drained it.
        ReportedState::Closed if matches!(row.reason, Some("paused" | "drained")) => "note",
        ReportedState::Live | ReportedState::Draining => "warning",
        ReportedState::Misconfigured | ReportedState::Conflict | ReportedState::Closed => "error",
    }
}

/// `file:line:column`, as routes say where they were declared.
fn line_and_column(place: &str) -> (usize, usize) {
    let mut parts = place.rsplit(':');
    let column = parts.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let line = parts.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    (line, column)
}

impl Problem {
    fn new(file: &str, finding: &Finding) -> Self {
        Self {
            severity: match finding.severity {
                Severity::Warning => "warning",
                Severity::Error => "error",
            },
            code: finding.code.to_owned(),
            file: file.to_owned(),
            line: finding.line,
            column: finding.column,
            path: finding.path.clone(),
            message: finding.message.clone(),
            hint: finding.hint.clone(),
        }
    }
}

impl Checked {
    /// The result for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for problem in &self.problems {
            let Problem {
                severity,
                code,
                file,
                line,
                column,
                path,
                message,
                hint,
            } = problem;
            add_line(
                &mut text,
                format_args!("{file}:{line}:{column}: {severity}[{code}] {path}: {message}"),
            );
            if let Some(hint) = hint {
                add_line(&mut text, format_args!("    {hint}"));
            }
        }
        let count = |severity: &str| {
            let found = self.problems.iter();
            found.filter(|problem| problem.severity == severity).count()
        };
        let (errors, warnings) = (count("error"), count("warning"));
        let verdict = if self.ok { "ok" } else { "not ok" };
        add_line(
            &mut text,
            format_args!("{verdict}: {errors} error(s), {warnings} warning(s)"),
        );
        text
    }
}
