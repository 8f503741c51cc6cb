//! What the last update made of every source and route, for `/routes`, status and metrics.

use super::OfferEntry;
use super::closed::Closure;
use super::owners::Rejection;
use super::prepare::{PreparedRoute, Trouble};
use super::{RouteEntry, RouteState};
use crate::offer::{Gate, Offer, Owner, Settle};
use jiff::Timestamp;
use std::sync::Arc;

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
    pub network: Arc<str>,
    /// Token address, checksummed.
    pub asset: Arc<str>,
    /// Symbol.
    pub symbol: Arc<str>,
    /// Atomic units.
    pub amount: String,
    /// Price text.
    pub price: Arc<str>,
    /// Recipient, checksummed.
    pub pay_to: Arc<str>,
}

impl RouteReport {
    /// The row of a route as its offer declares it.
    pub(super) fn new(
        source: &'static str,
        offer: &Offer,
        identity: &Arc<OfferEntry>,
        route: &PreparedRoute<'_>,
    ) -> Self {
        Self {
            pattern: route.text.clone(),
            host: offer.hostname.clone(),
            source,
            offer: identity.clone(),
            offer_generation: offer.generation,
            owner: offer.owner.clone(),
            state: ReportedState::Live,
            gate: route.gate,
            settle: route.route.map_or(Settle::Before, |route| route.settle),
            accepts: Vec::new(),
            reason: None,
            detail: None,
            closed_until: None,
        }
    }

    /// The route is in the table.
    pub(super) fn serve(
        &mut self,
        entry: &RouteEntry,
        trouble: Option<Trouble>,
        accepts: Vec<AcceptReport>,
    ) {
        self.state = match entry.state {
            RouteState::Live => ReportedState::Live,
            RouteState::Draining { .. } => ReportedState::Draining,
            RouteState::Misconfigured => ReportedState::Misconfigured,
            RouteState::Withdrawn => ReportedState::Closed,
        };
        self.settle = entry.settle;
        self.accepts = accepts;
        if let Some(trouble) = trouble {
            self.reason = Some(trouble.code);
            self.detail = Some(trouble.detail);
        }
    }

    /// The offer lost its paths; it harms nobody.
    pub(super) fn reject(&mut self, rejection: &Rejection) {
        self.state = ReportedState::Conflict;
        self.reason = Some(rejection.code);
        self.detail = Some(rejection.detail.clone());
    }

    /// The row of a closed path.
    pub(super) fn closed(closure: &Closure, now: Timestamp) -> Self {
        let record = &closure.record;
        let uid = (!record.uid.is_empty()).then(|| record.uid.as_str().into());
        let namespace: Arc<str> = record.namespace.as_str().into();
        let (reason, detail) = if closure.until > now {
            (
                "withdrawn",
                "was paid and left: answers 410 until closedUntil",
            )
        } else {
            (
                "long_closed",
                "was paid and left: stays closed until it is released",
            )
        };
        Self {
            pattern: closure.pattern.as_str().into(),
            host: record.host.as_deref().map(Into::into),
            source: "ledger",
            owner: match uid {
                Some(_) => Owner::Namespace(namespace.clone()),
                None => Owner::Operator,
            },
            offer: Arc::new(OfferEntry {
                namespace,
                name: record.name.as_str().into(),
                uid,
            }),
            offer_generation: None,
            state: ReportedState::Closed,
            gate: Gate::Paid,
            settle: Settle::Before,
            accepts: Vec::new(),
            reason: Some(reason),
            detail: Some(detail.to_owned()),
            closed_until: Some(closure.until),
        }
    }

    /// Marks a live row that an equal pattern declared earlier hides.
    pub(super) fn mark_shadowed(&mut self) {
        if self.reason.is_none() {
            self.reason = Some("shadowed");
            self.detail = Some(
                "the same pattern is declared earlier and answers instead: remove one of them"
                    .to_owned(),
            );
        }
    }
}
