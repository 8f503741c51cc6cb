//! The pricing document (`pricing.yaml`): spanned parse, validation, [`Settings`] and offers out.
//!
//! The document is read in two steps. `tree.rs` makes a tree of it that keeps every scalar as the
//! text that was written (`0.10` stays `0.10`) and knows where it was written. Then `settings.rs`,
//! `routes.rs`, `payments.rs` and their helpers read that tree by the keys of `keys.rs`, and everything they
//! notice becomes a [`Finding`] with line, column and path: all problems at once, never the first.
//!
//! What is wrong decides how far it reaches (R3). A bad route becomes a route with problems, which
//! closes its own path and harms no other. A bad setting, a text that is not YAML, or a route that
//! does not say which path it guards leaves nothing sound to serve: [`Unusable`], and whoever
//! holds the last good document keeps it. Nothing here ever opens a path by mistake (R1): a value
//! that is not understood is an error, not the default.
//!
//! The module does no I/O but one: it reads the secret files that the document names, because
//! their content is part of what is validated. It does not watch anything (`sources/file.rs`), does
//! not compile patterns (`table.rs`), and knows nothing of requests.
//!
//! A document of 100,000 routes takes most of a second to read. Whoever reads one again and again
//! keeps a [`Memory`], and the next text costs what differs in it (`edition.rs`,
//! `difference.rs`), with the same result.

mod asked;
mod assets;
mod difference;
mod edition;
mod findings;
mod keys;
mod memory;
mod offers;
mod patterns;
mod payments;
mod prices;
mod read;
mod routes;
mod secrets;
mod settings;
#[cfg(test)]
mod tests;
mod tree;
mod trust;
mod urls;

use self::edition::Home;
pub use self::memory::Memory;
use crate::offer::Offer;
use ipnet::IpNet;
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Everything in the pricing document that is not a route. Part of the table (R5).
#[derive(Debug, Clone)]
pub struct Settings {
    /// What happens to a path that nothing matches.
    pub unmatched: Unmatched,
    /// Subtrees that are never free (`managedPrefixes`), normalised, default `/services/`.
    pub managed_prefixes: Vec<Arc<str>>,
    /// Subtrees or hosts bound to namespaces by the operator (O2).
    pub path_owners: Vec<PathOwner>,
    /// Peers that may call `/verify`; empty means all.
    pub trusted_proxies: Vec<IpNet>,
    /// Which forwarded headers are read.
    pub header_source: HeaderSource,
    /// `https://api.example.com`: overrides forwarded proto and host in `resource.url`.
    pub public_origin: Option<Arc<str>>,
    /// Secret path segment that also proves the ingress to `upstreamAuth` routes (M11).
    pub verify_secret: Option<SecretString>,
    /// `verifyOnly: true` means `settle: never` on `/verify` (M10).
    pub verify_only: bool,
    /// Slack on top of `maxTimeoutSeconds` for `validBefore` (M9), default 600 s.
    pub validity_slack: Duration,
    /// How long a closed path answers 410 and stays reserved (R4, O3), default 24 h.
    pub closed_path_retention: Duration,
    /// Closed entries a namespace may have before its managed prefix is closed as a whole (O5).
    pub closed_paths_per_namespace: usize,
    /// Facilitators by base URL (no trailing slash): every URL any route names is here.
    pub facilitators: BTreeMap<Arc<str>, FacilitatorSettings>,
    /// Facilitator of offers that name none ([`crate::offer::DOCUMENTS_FACILITATOR`]); usable only
    /// where it is in `facilitators`.
    pub facilitator: Arc<str>,
    /// Whether such offers take only signatures that recover to the payer (M9).
    pub eoa_only: bool,
    /// `Link: <...>; rel="catalog"` on challenges, only where set.
    pub catalog_url: Option<Arc<str>>,
    /// `serviceName` in the challenge's resource.
    pub service_name: Option<Arc<str>>,
    /// Bounds on what comes from outside (M12).
    pub limits: Limits,
    /// Deadlines of calls (M8).
    pub timeouts: Timeouts,
    /// Per-offer series: all, active or none.
    pub metrics_per_offer: PerOffer,
    /// Metric name prefix; restart-only, default `x402_verifier`.
    pub metrics_prefix: Arc<str>,
}

/// A path that nothing matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmatched {
    /// 403 `no_route` (default).
    Deny,
    /// 200 outside managed, closed and owned prefixes (the predecessor's behaviour).
    Allow,
}

/// A subtree or host that the operator bound to namespaces (O2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathOwner {
    /// Path prefix of whole segments (`/services/acme`), if this entry binds a path.
    pub prefix: Option<Arc<str>>,
    /// Host, lower case, if this entry binds a host.
    pub host: Option<Arc<str>>,
    /// Namespaces that may use it.
    pub namespaces: Vec<Arc<str>>,
}

/// One configured source of forwarded headers; there is no fallback to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderSource {
    /// `X-Forwarded-Uri`, `-Method`, `-Host`, `-Proto` (Traefik, Caddy).
    XForwarded,
    /// `X-Original-URI` (or `-URL`), `-Method`, `X-Forwarded-Host`, `-Proto` (nginx).
    XOriginal,
}

/// How a facilitator is reached.
#[derive(Debug, Clone, Default)]
pub struct FacilitatorSettings {
    /// Headers for `POST /verify` (name, value), read from `facilitatorHeadersFile`.
    pub verify_headers: Vec<(String, SecretString)>,
    /// Headers for `POST /settle`.
    pub settle_headers: Vec<(String, SecretString)>,
    /// Headers for `GET /supported`.
    pub supported_headers: Vec<(String, SecretString)>,
}

/// Bounds (M9, M12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a payment header before decoding, default 16384.
    pub payment_header_bytes: usize,
    /// Concurrent payments per facilitator, default 256.
    pub permits_per_facilitator: usize,
    /// Concurrent payments per offer, default 64.
    pub permits_per_offer: usize,
    /// Concurrent payments whose signature does not recover, default 8.
    pub permits_unrecovered: usize,
    /// Verify calls per second per payer, default 20 (burst the same).
    pub verify_rate_per_payer: u32,
    /// Verify calls per second per offer, default 500 (burst the same).
    pub verify_rate_per_offer: u32,
    /// Unsettled payments in flight per payer for `settle: after` and `never` (M9), default 4.
    pub max_unsettled_per_payer: usize,
}

/// Deadlines (M8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// From arrival to answer, default 25 s (Traefik gives up at 30).
    pub answer: Duration,
    /// Connecting to a facilitator, default 1 s.
    pub facilitator_connect: Duration,
    /// One verify call, default 5 s.
    pub verify: Duration,
    /// How long a detached settle listens, default 90 s.
    pub settle: Duration,
    /// No settle starts with less than this left, default 8 s.
    pub settle_floor: Duration,
}

/// How many per-offer series are exposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PerOffer {
    /// All of a live offer from the start.
    All,
    /// Only those with any traffic.
    Active,
    /// None.
    None,
}

/// A parsed and validated document.
#[derive(Debug, Clone)]
pub struct Document {
    /// Settings.
    pub settings: Settings,
    /// Offers of the file, in order; unnamed routes are one offer with empty names.
    pub offers: Vec<Arc<Offer>>,
    /// Routes of all offers.
    pub routes: usize,
    /// Routes with problems.
    pub misconfigured: usize,
    /// Everything noticed, errors of single routes included.
    pub findings: Vec<Finding>,
    /// Secret files that the document names, readable or not: a change of one changes the document.
    pub files: Vec<PathBuf>,
}

/// Something noticed in the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Error or warning.
    pub severity: Severity,
    /// Stable code (`unknown_key`, `invalid_price`, ...).
    pub code: &'static str,
    /// 1-based line.
    pub line: usize,
    /// 1-based column.
    pub column: usize,
    /// Path in the document (`routes[3].price`).
    pub path: String,
    /// What was found and what would do.
    pub message: String,
    /// What to do, when that is more than the message says.
    pub hint: Option<String>,
}

/// Severity of a [`Finding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; an error with `--strict`.
    Warning,
    /// Wrong; closes the route it is in, or refuses the document.
    Error,
}

/// The document as a whole cannot be used: the last good one stays.
#[derive(Debug, thiserror::Error)]
#[error("the pricing document cannot be used: {}", summary(findings))]
pub struct Unusable {
    /// All problems.
    pub findings: Vec<Finding>,
    /// Secret files that the document names, as far as they are known.
    pub files: Vec<PathBuf>,
}

/// Largest document, in bytes.
pub const MAX_BYTES: usize = tree::MAX_BYTES;

/// Parses and validates a document. `directory` resolves relative file names in it
/// (`facilitatorHeadersFile`), `file` names it in findings and `declared_at`.
///
/// # Errors
/// Only when nothing sound can be made of the document; a bad route is a finding and a
/// route with problems, never an error.
pub fn parse(text: &str, file: &str, directory: &Path) -> Result<Document, Unusable> {
    let home = Home {
        file: &file.into(),
        directory,
    };
    edition::whole(text, home, None).map(|(document, _)| document)
}

/// The number of errors and the first of them with its place.
fn summary(findings: &[Finding]) -> String {
    let mut errors = findings.iter().filter(|f| f.severity == Severity::Error);
    let Some(first) = errors.next() else {
        return "no problem is known".to_owned();
    };
    let more = match errors.count() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    format!("{first}{more}")
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, ", {}", self.path)?;
        }
        write!(f, ": {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            unmatched: Unmatched::Deny,
            managed_prefixes: vec!["/services/".into()],
            path_owners: Vec::new(),
            trusted_proxies: Vec::new(),
            header_source: HeaderSource::XForwarded,
            public_origin: None,
            verify_secret: None,
            verify_only: false,
            validity_slack: Duration::from_secs(600),
            closed_path_retention: Duration::from_secs(86_400),
            closed_paths_per_namespace: 1_000,
            facilitators: BTreeMap::new(),
            facilitator: "".into(),
            eoa_only: false,
            catalog_url: None,
            service_name: None,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            metrics_per_offer: PerOffer::All,
            metrics_prefix: "x402_verifier".into(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payment_header_bytes: 16_384,
            permits_per_facilitator: 256,
            permits_per_offer: 64,
            permits_unrecovered: 8,
            verify_rate_per_payer: 20,
            verify_rate_per_offer: 500,
            max_unsettled_per_payer: 4,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(25),
            facilitator_connect: Duration::from_secs(1),
            verify: Duration::from_secs(5),
            settle: Duration::from_secs(90),
            settle_floor: Duration::from_secs(8),
        }
    }
}
