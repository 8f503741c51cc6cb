//! Every metric family, the closed label enums, and the per-offer counters with their rendering.
//!
//! Two kinds of families make the page of `/metrics`:
//! - *process-wide* families live in [`Metrics`], behind the `prometheus` crate. Every label
//!   combination exists from the start at 0, because a series that is born with its first failure
//!   hides that failure from `increase()` (P-54). Handles are resolved at construction; counting is
//!   one index and one atomic.
//! - *per-offer* families live in [`OfferCounters`], owned by the table and rendered by
//!   [`OfferPage`] from the table that requests see (R7).
//!
//! What describes the table (its routes, generation and age) is not stored here at all: the admin
//! port computes [`TableGauges`] at each scrape, so it cannot go stale.
//!
//! Nothing here is labelled by what a client chooses: no path, host, payer or transaction (R13).

mod labels;
mod offers;
#[cfg(test)]
pub(crate) mod tests;

pub use labels::{
    FacilitatorOperation, FacilitatorResult, FailureReason, Label, LedgerOperation, OutcomeLabel,
    ReloadSource, StatusWrite, UntrustedClass,
};
pub use offers::page::{CHUNK, OfferPage, PerOffer};
pub use offers::{AssetLabels, OfferCounters, OfferLabels};

use labels::{PerLabel, Success};
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Error, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};
use std::sync::Arc;
use std::time::Duration;

/// Seconds. A free or unpaid answer takes microseconds and a good paid one as long as its
/// facilitator (tenths of a second to seconds); the answer's deadline is 25 s (M8), so what lies
/// above the last bucket is a bug.
const REQUEST_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0,
];

/// Seconds. Nothing over a network is faster than the first; 5 s is the limit of a verify call, 25 s
/// the deadline of an answer, and a settle call is listened to for 90 s (M8).
const FACILITATOR_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 90.0,
];

/// Class under which a name that is not in the closed list is counted.
const OTHER_CLASS: &str = "other";

/// Process-wide families, behind the `prometheus` crate.
pub struct Metrics {
    prefix: String,
    registry: Registry,
    requests: PerLabel<OutcomeLabel, Histogram>,
    facilitator_calls: PerLabel<FacilitatorOperation, PerLabel<FacilitatorResult, Histogram>>,
    ledger_operations: PerLabel<LedgerOperation, PerLabel<Success, IntCounter>>,
    reloads: PerLabel<ReloadSource, PerLabel<Success, IntCounter>>,
    status_writes: PerLabel<StatusWrite, IntCounter>,
    untrusted_requests: PerLabel<UntrustedClass, IntCounter>,
    /// A handful: a scan is as fast as a look-up and only ambiguous requests pay for it.
    ambiguous_targets: Vec<(&'static str, IntCounter)>,
    ambiguous_other: IntCounter,
    claims_in_flight: IntGauge,
    payments_unknown: IntGauge,
}

/// What was built, for `build_info` and `/version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildInfo {
    /// Package version.
    pub version: &'static str,
    /// Git commit, `unknown` when the build was not told.
    pub commit: &'static str,
    /// Build time in RFC 3339, `unknown` when the build was not told.
    pub built: &'static str,
    /// Compiler, `unknown` when the build was not told.
    pub rustc: &'static str,
}

/// What the table says of itself, computed at scrape.
#[derive(Debug, Clone, Default)]
pub struct TableGauges {
    /// `routes{state}`: every state with its count, zeros included.
    pub routes: Vec<(&'static str, u64)>,
    /// `table_generation`.
    pub generation: u64,
    /// `table_age_seconds`: time since the table that requests see was built.
    pub age: Duration,
    /// `settle_never_routes`: live paid routes that are never settled (M10).
    pub settle_never_routes: u64,
    /// `source_up{source}`: whether the latest read of each source succeeded.
    pub sources: Vec<(&'static str, bool)>,
}

impl Metrics {
    /// Registers every process-wide family under `prefix`. A trailing underscore is ignored.
    /// `ambiguous_targets_total` has only the class `other`; the process uses
    /// [`Metrics::with_ambiguity_classes`].
    ///
    /// # Errors
    /// When the prefix is not a metric name.
    pub fn new(prefix: &str) -> Result<Arc<Self>, Error> {
        Self::with_ambiguity_classes(prefix, &[])
    }

    /// As [`Metrics::new`], with the closed list of classes of `ambiguous_targets_total` (this
    /// module may not import the enum they come from).
    ///
    /// # Errors
    /// When the prefix is not a metric name.
    pub fn with_ambiguity_classes(
        prefix: &str,
        classes: &[&'static str],
    ) -> Result<Arc<Self>, Error> {
        let prefix = metric_prefix(prefix)?;
        let families = Families {
            prefix,
            registry: Registry::new(),
        };
        families.build_info(BuildInfo::CURRENT)?;
        families.register(ProcessCollector::for_self())?;

        let requests = families.histogram(
            "request_duration_seconds",
            "Time from arrival of a /verify request to its answer, by what the answer was.",
            &["outcome"],
            REQUEST_BUCKETS,
        )?;
        let facilitator = families.histogram(
            "facilitator_request_duration_seconds",
            "Time of one facilitator call, by operation and what came of it.",
            &["operation", "result"],
            FACILITATOR_BUCKETS,
        )?;
        let ledger = families.counter(
            "ledger_operations_total",
            "Ledger operations, by operation and result.",
            &["operation", "result"],
        )?;
        let reloads = families.counter(
            "reloads_total",
            "Complete lists read from a source and applied (ok) or not (error: the last good one stays).",
            &["source", "result"],
        )?;
        let status = families.counter(
            "status_writes_total",
            "Attempts to write our condition into the status of an offer, by what came of them.",
            &["result"],
        )?;
        let untrusted = families.counter(
            "untrusted_requests_total",
            "Requests refused because of their peer or their forwarded headers, by class.",
            &["class"],
        )?;
        let ambiguous = families.counter(
            "ambiguous_targets_total",
            "Request targets that parsers may read differently, by class.",
            &["class"],
        )?;
        let class = |name: &'static str| ambiguous.with_label_values(&[name]);
        Ok(Arc::new(Self {
            requests: PerLabel::new(|outcome: OutcomeLabel| {
                requests.with_label_values(&[outcome.as_str()])
            }),
            facilitator_calls: per_pair(|operation, result| {
                facilitator.with_label_values(&[operation, result])
            }),
            ledger_operations: per_pair(|operation, result| {
                ledger.with_label_values(&[operation, result])
            }),
            reloads: per_pair(|source, result| reloads.with_label_values(&[source, result])),
            status_writes: PerLabel::new(|result: StatusWrite| {
                status.with_label_values(&[result.as_str()])
            }),
            untrusted_requests: PerLabel::new(|class: UntrustedClass| {
                untrusted.with_label_values(&[class.as_str()])
            }),
            ambiguous_targets: classes.iter().map(|name| (*name, class(name))).collect(),
            ambiguous_other: class(OTHER_CLASS),
            claims_in_flight: families.gauge(
                "claims_in_flight",
                "Payments between their claim and their answer.",
            )?,
            payments_unknown: families.gauge(
                "payments_unknown",
                "Payments whose settlement is unknown: money may have moved, nobody was answered.",
            )?,
            prefix: families.prefix,
            registry: families.registry,
        }))
    }

    /// Counts and times one answered request.
    pub fn request(&self, outcome: OutcomeLabel, elapsed: Duration) {
        self.requests.of(outcome).observe(elapsed.as_secs_f64());
    }

    /// Counts and times one facilitator call.
    pub fn facilitator_call(
        &self,
        operation: FacilitatorOperation,
        result: FacilitatorResult,
        elapsed: Duration,
    ) {
        self.facilitator_calls
            .of(operation)
            .of(result)
            .observe(elapsed.as_secs_f64());
    }

    /// Counts one ledger operation.
    pub fn ledger_operation(&self, operation: LedgerOperation, ok: bool) {
        self.ledger_operations.of(operation).of(ok.into()).inc();
    }

    /// Counts one ambiguous target; `class` is `route::AmbiguityClass::as_str`. A class that was not
    /// listed at construction counts as `other`.
    pub fn ambiguous_target(&self, class: &'static str) {
        let known = self
            .ambiguous_targets
            .iter()
            .find(|(name, _)| *name == class);
        known
            .map_or(&self.ambiguous_other, |(_, counter)| counter)
            .inc();
    }

    /// Counts one attempt to write the status of an offer.
    pub fn status_write(&self, result: StatusWrite) {
        self.status_writes.of(result).inc();
    }

    /// Counts one refused peer or header set.
    pub fn untrusted_request(&self, class: UntrustedClass) {
        self.untrusted_requests.of(class).inc();
    }

    /// Counts one reload.
    pub fn reload(&self, source: ReloadSource, ok: bool) {
        self.reloads.of(source).of(ok.into()).inc();
    }

    /// Adjusts `claims_in_flight`.
    pub fn claims_in_flight(&self, delta: i64) {
        self.claims_in_flight.add(delta);
    }

    /// Sets `payments_unknown`.
    pub fn set_payments_unknown(&self, count: u64) {
        self.payments_unknown
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The prefix of all names, without trailing underscore.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The process-wide families as exposition text; a few kilobytes.
    #[must_use]
    pub fn render(&self, table: &TableGauges) -> String {
        let mut page = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut page) {
            // The crate checks names when they are registered, so this is a bug in it or in us.
            tracing::error!(%error, "metrics cannot be rendered");
        }
        table.render(&self.prefix, &mut page);
        page
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl BuildInfo {
    /// This build, as `build.rs` found it.
    pub const CURRENT: Self = Self {
        version: env!("CARGO_PKG_VERSION"),
        commit: or_unknown(option_env!("X402_BUILD_COMMIT")),
        built: or_unknown(option_env!("X402_BUILD_DATE")),
        rustc: or_unknown(option_env!("X402_BUILD_RUSTC")),
    };
}

const fn or_unknown(value: Option<&'static str>) -> &'static str {
    match value {
        Some(value) => value,
        None => "unknown",
    }
}

impl TableGauges {
    fn render(&self, prefix: &str, page: &mut String) {
        let routes: Vec<_> = self
            .routes
            .iter()
            .map(|(state, count)| (format!("{{state=\"{state}\"}}"), count.to_string()))
            .collect();
        let sources: Vec<_> = self
            .sources
            .iter()
            .map(|(name, up)| (format!("{{source=\"{name}\"}}"), u64::from(*up).to_string()))
            .collect();
        let one = |value: String| vec![(String::new(), value)];
        let families = [
            ("routes", "Routes in the table, by state.", routes),
            (
                "table_generation",
                "Generation of the table that requests see; it grows with every change.",
                one(self.generation.to_string()),
            ),
            (
                "table_age_seconds",
                "Seconds since the table that requests see was built.",
                one(self.age.as_secs_f64().to_string()),
            ),
            (
                "settle_never_routes",
                "Live paid routes whose payments are verified and never settled (verifyOnly).",
                one(self.settle_never_routes.to_string()),
            ),
            (
                "source_up",
                "Whether a source of routes could be read last (0: its last good list is served).",
                sources,
            ),
        ];
        for (name, help, series) in families {
            page.push_str(&format!(
                "# HELP {prefix}_{name} {help}\n# TYPE {prefix}_{name} gauge\n"
            ));
            for (labels, value) in series {
                page.push_str(&format!("{prefix}_{name}{labels} {value}\n"));
            }
        }
    }
}

/// Creates and registers families under one prefix.
struct Families {
    prefix: String,
    registry: Registry,
}

impl Families {
    fn register(&self, collector: impl Collector + 'static) -> Result<(), Error> {
        self.registry.register(Box::new(collector))
    }

    fn build_info(&self, build: BuildInfo) -> Result<(), Error> {
        let opts = Opts::new("build_info", "What is running, always 1.")
            .namespace(&self.prefix)
            .const_label("version", build.version)
            .const_label("commit", build.commit)
            .const_label("rustc", build.rustc);
        let info = IntGauge::with_opts(opts)?;
        info.set(1);
        self.register(info)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        let gauge = IntGauge::with_opts(Opts::new(name, help).namespace(&self.prefix))?;
        self.register(gauge.clone())?;
        Ok(gauge)
    }

    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
        let counter = IntCounterVec::new(Opts::new(name, help).namespace(&self.prefix), labels)?;
        self.register(counter.clone())?;
        Ok(counter)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, Error> {
        let opts = HistogramOpts::new(name, help)
            .namespace(&self.prefix)
            .buckets(buckets.to_vec());
        let histogram = HistogramVec::new(opts, labels)?;
        self.register(histogram.clone())?;
        Ok(histogram)
    }
}

/// One handle for each pair of two closed labels.
fn per_pair<A: Label, B: Label, T>(
    make: impl Fn(&'static str, &'static str) -> T,
) -> PerLabel<A, PerLabel<B, T>> {
    PerLabel::new(|first: A| PerLabel::new(|second: B| make(first.as_str(), second.as_str())))
}

/// A prefix as it stands before the underscore of every name.
fn metric_prefix(text: &str) -> Result<String, Error> {
    let prefix = text.trim_end_matches('_');
    let starts_well = prefix.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if starts_well
        && prefix
            .chars()
            .all(|one| one.is_ascii_alphanumeric() || one == '_')
    {
        return Ok(prefix.to_owned());
    }
    Err(Error::Msg(format!(
        "{text:?} cannot prefix metric names: use letters, digits and underscores, not starting \
         with a digit, as in \"x402_verifier\""
    )))
}
