//! The route table: offers and settings compiled to one immutable snapshot.
//!
//! Stub: to be written in full; the types below are the contract.

use crate::metrics::OfferCounters;
use crate::offer::{Offer, Owner};
use crate::route::{AmbiguityClass, Target};
use crate::x402::{ChallengeTemplate, Endpoint, Requirement};
use arc_swap::ArcSwap;
use http::HeaderValue;
use jiff::Timestamp;
use std::sync::Arc;

// Vocabulary of the table's own interface, for those who may import the table and not its inputs.
pub use crate::offer::{Gate, Settle};
pub use crate::pricing::{HeaderSource, Limits, PerOffer, Settings};

/// One snapshot: everything a request needs (R5).
#[derive(Debug)]
pub struct Table {
    /// Strictly increasing.
    pub generation: u64,
    /// When it was built.
    pub built_at: Timestamp,
    /// The settings it was built with.
    pub settings: Arc<Settings>,
    /// What was made of every route, for `/routes` and status.
    pub report: Arc<Report>,
}

/// One route as the gate sees it.
#[derive(Debug)]
pub struct RouteEntry {
    /// Stable identity of the route across generations, for credits (M6): host, pattern, offer.
    pub key: Arc<str>,
    /// The offer it belongs to.
    pub offer: Arc<OfferEntry>,
    /// Pattern text.
    pub pattern: Arc<str>,
    /// State.
    pub state: RouteState,
    /// What guards it.
    pub gate: Gate,
    /// When `/verify` settles: `Before` or `Never` (`After` acts as `Before`; M10 is applied).
    pub settle: Settle,
    /// A CORS preflight passes.
    pub preflight_pass: bool,
    /// Only signatures that recover to the payer (M9).
    pub eoa_only: bool,
    /// What may be paid, in order; empty unless paid and live.
    pub requirements: Vec<Requirement>,
    /// Counters, one per requirement (same index); shared between equal label blocks.
    pub counters: Vec<Arc<OfferCounters>>,
    /// The challenge; `None` unless paid and live.
    pub challenge: Option<ChallengeTemplate>,
    /// The facilitator.
    pub endpoint: Option<Arc<Endpoint>>,
    /// `Authorization` for the upstream, sensitive (M11 decides whether it is answered).
    pub upstream_auth: Option<HeaderValue>,
}

/// Identity of an offer in the table.
#[derive(Debug, PartialEq, Eq)]
pub struct OfferEntry {
    /// Namespace, may be empty.
    pub namespace: Arc<str>,
    /// Name, may be empty.
    pub name: Arc<str>,
    /// UID of a cluster offer.
    pub uid: Option<Arc<str>>,
}

/// State of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteState {
    /// Served.
    Live,
    /// 503 `offer_draining` without payment; a valid payment is served until `until`, after which
    /// it counts as withdrawn even if no event arrives.
    Draining {
        /// End of grace.
        until: Timestamp,
    },
    /// 503 `offer_misconfigured`.
    Misconfigured,
    /// 410 although the offer still exists: `deletionTimestamp` (O3).
    Withdrawn,
}

/// A path that was paid once and is closed now (R4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedPath {
    /// The record.
    pub record: PathRecord,
    /// Until when it answers 410 and stays reserved (O3); afterwards 403 for good under
    /// `unmatched: allow`.
    pub until: Timestamp,
}

/// A path that was or is gated, as the ledger remembers it across restarts (R4).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathRecord {
    /// Host, when bound to one.
    pub host: Option<String>,
    /// Pattern text.
    pub pattern: String,
    /// Owner namespace; empty for the operator's file.
    pub namespace: String,
    /// Offer name, may be empty.
    pub name: String,
    /// Offer UID, may be empty.
    pub uid: String,
    /// The offer's base path (or the literal prefix of the pattern) to which it collapses (O5).
    pub base: String,
    /// When it was closed; `None` while live.
    pub closed_at: Option<Timestamp>,
}

/// An ingress-chosen offer: `/verify/{namespace}/{name}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
}

/// What a target means in a table, and whether its views disagreed.
#[derive(Debug)]
pub struct Resolved<'t> {
    /// The meaning.
    pub resolution: Resolution<'t>,
    /// Set when the views of the target differed, to be counted.
    pub ambiguity: Option<AmbiguityClass>,
}

/// What a target means.
#[derive(Debug)]
pub enum Resolution<'t> {
    /// A route (any state, any gate).
    Route(&'t Arc<RouteEntry>),
    /// A closed path inside its retention: 410 `offer_withdrawn`. Also a pin of a deleted offer.
    Closed,
    /// 403 `no_route`: nothing matches, or a managed, reserved or long-closed prefix.
    NoRoute,
    /// Nothing matches and `unmatched: allow` lets it pass.
    Unmatched,
    /// 403 `unknown_offer`.
    UnknownPin,
    /// 400 `ambiguous_target`.
    Ambiguous,
}

/// A complete change from one source (R6).
#[derive(Debug)]
pub enum Update {
    /// The pricing document, parsed: settings and all file offers.
    Document {
        /// Settings.
        settings: Box<Settings>,
        /// All offers of the file.
        offers: Vec<Offer>,
    },
    /// The complete list of another source.
    Offers {
        /// Source name as in `/routes` (`kube`).
        source: &'static str,
        /// All offers of it.
        offers: Vec<Offer>,
    },
    /// A source could not be read; the last good state stays (R6).
    Failed {
        /// Source name (`file`, `kube`).
        source: &'static str,
        /// What happened, for people.
        error: String,
    },
    /// Closed and known paths read from the ledger at start (R4).
    Remembered {
        /// Everything the ledger knows.
        paths: Vec<PathRecord>,
    },
    /// Time passed: retentions and drains end.
    Tick,
}

/// What the last update made of every source and route.
#[derive(Debug, Default)]
pub struct Report {
    /// Sources.
    pub sources: Vec<SourceReport>,
    /// Routes, closed paths included, in table order.
    pub routes: Vec<RouteReport>,
}

/// One source in the report.
#[derive(Debug, Clone)]
pub struct SourceReport {
    /// `file`, `kube`.
    pub name: &'static str,
    /// Whether its last update was applied.
    pub ok: bool,
    /// Last applied update.
    pub last_success: Option<Timestamp>,
    /// Last error since.
    pub error: Option<String>,
}

/// State of a row in `/routes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReportedState {
    /// Served.
    Live,
    /// Closed path.
    Closed,
    /// Draining.
    Draining,
    /// Cannot be understood.
    Misconfigured,
    /// Owned by somebody else (O1 to O3); harms nobody.
    Conflict,
}

/// One row of `/routes` (`reference/surface.md`, admin port).
#[derive(Debug, Clone)]
pub struct RouteReport {
    /// Pattern text.
    pub pattern: Arc<str>,
    /// Host.
    pub host: Option<Arc<str>>,
    /// Source name.
    pub source: &'static str,
    /// Offer.
    pub offer: Arc<OfferEntry>,
    /// Offer generation.
    pub offer_generation: Option<i64>,
    /// Owner.
    pub owner: Owner,
    /// State.
    pub state: ReportedState,
    /// Gate.
    pub gate: Gate,
    /// Settlement.
    pub settle: Settle,
    /// Accepted payments: network, asset, amount, price, payTo as text.
    pub accepts: Vec<AcceptReport>,
    /// Reason code (`PathConflict`, `PathReserved`, `ReservedPath`, `invalid_price`, `shadowed`...).
    pub reason: Option<&'static str>,
    /// Sentence; names a foreign owner only as "another namespace" (O7).
    pub detail: Option<String>,
    /// For closed rows.
    pub closed_until: Option<Timestamp>,
}

/// One payment option in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptReport {
    /// CAIP-2.
    pub network: String,
    /// Token address, checksummed.
    pub asset: String,
    /// Symbol.
    pub symbol: Arc<str>,
    /// Atomic units.
    pub amount: String,
    /// Price text.
    pub price: Arc<str>,
    /// Recipient, checksummed.
    pub pay_to: String,
}

/// What [`TableWriter::apply`] did, for the task that owns the writer.
#[derive(Debug)]
pub struct Applied {
    /// The table that was published, or the one that stays (after `Failed`).
    pub table: Arc<Table>,
    /// Paths whose record changed and must be written to the ledger; empty when nothing changed.
    pub path_changes: Vec<PathRecord>,
    /// Paths to forget in the ledger (released, replaced).
    pub path_removals: Vec<PathRecord>,
    /// When the next `Tick` is needed (a drain or retention ends).
    pub next_tick: Option<Timestamp>,
}

/// The only writer. Not `Clone` on purpose: two writers could publish generations out of order (R5).
#[derive(Debug)]
pub struct TableWriter {
    _published: Arc<ArcSwap<Table>>,
}

/// The cheap reader.
#[derive(Debug, Clone)]
pub struct TableReader {
    published: Arc<ArcSwap<Table>>,
}

impl Table {
    /// What `target` means for `host`, as chosen by the ingress (`pin`) or by path.
    #[must_use]
    pub fn resolve<'t>(
        &'t self,
        _target: &Target<'_>,
        _host: Option<&str>,
        _pin: Option<Pin<'_>>,
        _now: Timestamp,
    ) -> Resolved<'t> {
        todo!()
    }
    /// All distinct per-offer counters of this table, for rendering.
    pub fn counters(&self) -> impl Iterator<Item = &Arc<OfferCounters>> {
        [].iter()
    }
}

impl TableWriter {
    /// An empty table of generation 0 (nothing resolves) and its reader.
    #[must_use]
    pub fn new() -> (Self, TableReader) {
        todo!()
    }
    /// Stub.
    pub fn restore_last_success(&mut self, _: &str, _: &str, _: &str, _: &str, _: u64) {}
    /// Applies one update and publishes the new table. Pure but for the publication.
    pub fn apply(&mut self, _update: Update, _now: Timestamp) -> Applied {
        todo!()
    }
}

impl TableReader {
    /// The current snapshot, without reference counting.
    #[must_use]
    pub fn load(&self) -> arc_swap::Guard<Arc<Table>> {
        self.published.load()
    }
    /// The current snapshot, to keep across awaits.
    #[must_use]
    pub fn load_full(&self) -> Arc<Table> {
        self.published.load_full()
    }
}
