//! The route table: offers and settings compiled to one immutable snapshot.
//!
//! ```text
//! Update --> TableWriter --compile--> Table --ArcSwap--> TableReader
//!                |            |
//!              Known        Report
//! ```
//!
//! The writer keeps what every source said last and what was made of it. An update says the same as
//! a table compiled from nothing out of all of it: what did not change is only not computed again.
//! [`Table::resolve`] then answers what a target means, without allocating for a plain one and at a
//! cost that does not grow with the number of offers.
//!
//! It sees neither Kubernetes nor HTTP, decides nothing about money, and does no I/O; the one effect
//! is the publication of a snapshot.
//!
//! Invariants: a request sees one generation, and generations only grow (R5). A list is applied whole
//! (R6). A pattern that cannot be understood is closed, not absent (R3); one that was gated and left
//! is closed, not free (R4). Namespaces own subtrees, and a conflict harms only the offer that loses
//! it (O1 to O7). Counters move with their offer and label block from table to table (R7).

mod amend;
mod assembly;
mod closed;
mod compile;
mod counting;
mod edges;
mod index;
mod list;
mod owners;
mod pins;
mod prepare;
mod price;
mod report;
mod resolve;
mod trie;
mod writer;

pub use report::{AcceptReport, Report, ReportedState, RouteReport, SourceReport};
pub use writer::{Applied, TableReader, TableWriter};

// Part of this module's interface, for those who may import the table and not its inputs.
pub use crate::offer::{Gate, OfferIdentity, Settle};
pub use crate::pricing::{HeaderSource, Limits, PerOffer, Settings};

use crate::metrics::OfferCounters;
use crate::offer::Offer;
use crate::route::{AmbiguityClass, Target};
use crate::x402::{ChallengeTemplate, Endpoint, Requirement};
use http::HeaderValue;
use jiff::Timestamp;
use std::sync::Arc;

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
    routes: Arc<Vec<resolve::Slot>>,
    index: Arc<index::Index>,
    pins: Arc<pins::Pins>,
    counters: Arc<[Arc<OfferCounters>]>,
    /// When a drain or retention ends next.
    next_tick: Option<Timestamp>,
}

/// One route as the gate sees it.
#[derive(Debug)]
pub struct RouteEntry {
    /// The offer it belongs to.
    pub offer: Arc<OfferIdentity>,
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
    /// What may be paid, in order; empty unless paid and live. One object for equal terms.
    pub requirements: Arc<[Requirement]>,
    /// Counters, one per requirement (same index); shared between equal label blocks.
    pub counters: Box<[Arc<OfferCounters>]>,
    /// The challenge; `None` unless paid and live. One object for equal terms.
    pub challenge: Option<Arc<ChallengeTemplate>>,
    /// The facilitator.
    pub endpoint: Option<Arc<Endpoint>>,
    /// `Authorization` for the upstream, sensitive (M11 decides whether it is answered).
    pub upstream_auth: Option<Box<HeaderValue>>,
    /// What it was built from.
    piece: Arc<prepare::Piece>,
    /// Why it is misconfigured or withdrawn.
    trouble: Option<Arc<prepare::Trouble>>,
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
    /// 410 although the offer still exists: paused, drained, or being deleted (O3).
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
    pub host: Option<Arc<str>>,
    /// Pattern text.
    pub pattern: Arc<str>,
    /// Namespace of the offer, may be empty. The owner is that namespace if `uid` is not empty, else
    /// the operator.
    pub namespace: Arc<str>,
    /// Offer name, may be empty.
    pub name: Arc<str>,
    /// Offer UID, may be empty.
    pub uid: Arc<str>,
    /// The offer's base path (or the literal prefix of the pattern) to which it collapses (O5).
    pub base: Arc<str>,
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
        offers: Vec<Arc<Offer>>,
    },
    /// The complete list of another source.
    Offers {
        /// Source name as in `/routes` (`kube`).
        source: &'static str,
        /// All offers of it.
        offers: Vec<Arc<Offer>>,
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
    /// Closed paths that the operator released (R4), as they were closed.
    Released {
        /// What is to be forgotten.
        paths: Vec<PathRecord>,
    },
    /// Time passed: retentions and drains end.
    Tick,
}

impl Table {
    /// What `target` means for `host`, as chosen by the ingress (`pin`) or by path.
    #[must_use]
    pub fn resolve<'t>(
        &'t self,
        target: &Target<'_>,
        host: Option<&str>,
        pin: Option<Pin<'_>>,
        now: Timestamp,
    ) -> Resolved<'t> {
        match pin {
            Some(pin) => self.resolve_pin(target, host, pin, now),
            None => self.resolve_path(target, host),
        }
    }

    /// All distinct per-offer counters of this table, for rendering.
    pub fn counters(&self) -> impl Iterator<Item = &Arc<OfferCounters>> {
        self.counters.iter()
    }

    /// All routes, in table order.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<RouteEntry>> {
        self.routes.iter().map(|slot| &slot.entry)
    }
}

impl RouteEntry {
    /// Stable identity of the route across generations, for credits (M6): host, pattern, offer. Made
    /// when a payment asks for it, because most routes of a table are never paid between two tables.
    #[must_use]
    pub fn key(&self) -> Arc<str> {
        let host = self.offer.hostname.as_deref().unwrap_or_default();
        let OfferIdentity {
            namespace, name, ..
        } = &*self.offer;
        let key = [host, self.pattern(), " ", namespace, "/", name].concat();
        key.into()
    }

    /// Pattern text as declared.
    #[must_use]
    pub fn pattern(&self) -> &Arc<str> {
        self.piece.text()
    }
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
