//! What the pricing file's source says: updates for the table, and lines of the log, none of them
//! twice.

use crate::pricing::{Document, Finding, Severity};
use crate::sources::file::{LoadError, NAME};
use crate::table::Update;
use std::path::Path;
use std::sync::Arc;
use tracing::{info, warn};

/// Findings that are logged one by one.
const LOGGED: usize = 20;

/// What was told last, so that nothing is told twice.
#[derive(Default)]
pub(super) struct Told {
    cause: Option<String>,
    findings: Vec<Finding>,
    /// The prefix the metrics were registered under.
    metrics_prefix: Option<Arc<str>>,
}

impl Told {
    /// The update for a document.
    pub(super) fn loaded(&mut self, path: &Path, document: Document) -> Update {
        let Document {
            settings,
            offers,
            routes,
            misconfigured,
            findings,
            files: _,
        } = document;
        let warnings = count(&findings, Severity::Warning);
        info!(
            config.path = %path.display(),
            routes,
            routes.misconfigured = misconfigured,
            warnings,
            "pricing file loaded"
        );
        self.cause = None;
        self.log_findings(path, findings);
        match &self.metrics_prefix {
            None => self.metrics_prefix = Some(Arc::clone(&settings.metrics_prefix)),
            Some(prefix) if *prefix != settings.metrics_prefix => warn!(
                config.path = %path.display(),
                "metrics.prefix changed and needs a restart: it is still {prefix}"
            ),
            Some(_) => {}
        }
        Update::Document {
            settings: Box::new(settings),
            offers,
        }
    }

    /// The update for a failure, unless its cause was told already.
    pub(super) fn failed(&mut self, path: &Path, error: &LoadError) -> Option<Update> {
        let cause = chain(error);
        if self.cause.as_ref() == Some(&cause) {
            return None;
        }
        warn!(
            config.path = %path.display(),
            error = %cause,
            "pricing file not loaded, the last good one stays in force"
        );
        if let LoadError::Unusable { source, .. } = error {
            self.log_findings(path, source.findings.clone());
        }
        self.cause = Some(cause.clone());
        Some(Update::Failed {
            source: NAME,
            error: cause,
        })
    }

    /// One line for each finding, unless the same ones were logged last.
    fn log_findings(&mut self, path: &Path, findings: Vec<Finding>) {
        if findings == self.findings {
            return;
        }
        for finding in findings.iter().take(LOGGED) {
            warn!(config.path = %path.display(), code = finding.code, "{finding}");
        }
        if let Some(more) = findings.len().checked_sub(LOGGED).filter(|more| *more > 0) {
            warn!(
                config.path = %path.display(),
                more,
                "more findings are listed by `x402-verifier check`"
            );
        }
        self.findings = findings;
    }
}

fn count(findings: &[Finding], severity: Severity) -> usize {
    findings.iter().filter(|f| f.severity == severity).count()
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
