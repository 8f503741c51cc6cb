//! What the last update made of every source and route, for `/routes`, status and metrics.
//!
//! A row of a route that is in the table is written when it is asked for, from the route itself: a
//! stored copy of 100,000 rows would cost more than the table. Only what is not in the table, refused
//! offers and closed paths, is kept as rows.

use super::OfferIdentity;
use super::closed::Closure;
use super::list::Unit;
use super::owners::Rejection;
use super::prepare::Piece;
use super::resolve::Slot;
use super::{RouteEntry, RouteState};
use crate::offer::{Gate, Owner, PaymentOption, Settle};
use crate::route::{Pattern, Target};
use jiff::Timestamp;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// What the last update made of every source and route.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// Sources.
    pub sources: Vec<SourceReport>,
    /// The routes of the table.
    pub(super) served: Arc<Vec<Slot>>,
    /// Refused offers in table order, then closed paths.
    pub(super) others: Arc<Vec<RouteReport>>,
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
    pub offer: Arc<OfferIdentity>,
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
    /// Of a draining offer: when its paths begin to answer 410.
    pub drains_until: Option<Timestamp>,
    /// Of a closed path: when it was closed.
    pub closed_since: Option<Timestamp>,
    /// Of a closed path: the end of its 410 and of its reservation (O3).
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

impl Report {
    /// A report of rows that are in no table.
    #[must_use]
    pub fn new(sources: Vec<SourceReport>, rows: Vec<RouteReport>) -> Self {
        Self {
            sources,
            served: Arc::default(),
            others: Arc::new(rows),
        }
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.served.len() + self.others.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A row: routes in table order, then those of refused offers, then closed paths.
    #[must_use]
    pub fn row(&self, position: usize) -> Option<Cow<'_, RouteReport>> {
        match self.served.get(position) {
            Some(slot) => Some(Cow::Owned(RouteReport::served(slot))),
            None => self.other(position).map(Cow::Borrowed),
        }
    }

    /// All rows. For one look at many, [`Report::states`] and [`Report::offer`] cost much less.
    pub fn rows(&self) -> impl Iterator<Item = Cow<'_, RouteReport>> {
        (0..self.len()).filter_map(|position| self.row(position))
    }

    /// The offer of a row.
    #[must_use]
    pub fn offer(&self, position: usize) -> Option<&Arc<OfferIdentity>> {
        match self.served.get(position) {
            Some(slot) => Some(&slot.entry.offer),
            None => self.other(position).map(|row| &row.offer),
        }
    }

    /// The state of a row.
    #[must_use]
    pub fn state(&self, position: usize) -> Option<ReportedState> {
        match self.served.get(position) {
            Some(slot) => Some((&slot.entry.state).into()),
            None => self.other(position).map(|row| row.state),
        }
    }

    /// Whether rows are those of the same objects as rows of another report, and so say the same.
    #[must_use]
    pub fn has_same(&self, rows: Range<usize>, other: &Self, theirs: Range<usize>) -> bool {
        let pair = self.served.get(rows).zip(other.served.get(theirs));
        pair.is_some_and(|(ours, theirs)| {
            let same = |(one, other): (&Slot, &Slot)| {
                Arc::ptr_eq(&one.entry, &other.entry) && one.is_shadowed == other.is_shadowed
            };
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(same)
        })
    }

    /// State, gate and settlement of every row.
    pub fn states(&self) -> impl Iterator<Item = (ReportedState, Gate, Settle)> + '_ {
        let served = self.served.iter().map(|slot| &slot.entry);
        let served = served.map(|entry| ((&entry.state).into(), entry.gate, entry.settle));
        let others = self.others.iter();
        served.chain(others.map(|row| (row.state, row.gate, row.settle)))
    }

    /// The row of a route of the table.
    #[must_use]
    pub fn row_of(&self, route: &Arc<RouteEntry>) -> Option<RouteReport> {
        let mut served = self.served.iter();
        let slot = served.find(|slot| Arc::ptr_eq(&slot.entry, route))?;
        Some(RouteReport::served(slot))
    }

    /// Rows of refused offers and closed paths whose pattern a reading of the target matches. They
    /// are searched one by one: for people, not for requests.
    pub fn others_at<'r>(
        &'r self,
        target: &Target<'_>,
        host: Option<&str>,
    ) -> impl Iterator<Item = &'r RouteReport> {
        let views: Vec<String> = target.views().into_iter().map(Cow::into_owned).collect();
        let host = host.map(str::to_owned);
        self.others.iter().filter(move |row| {
            row.host
                .as_deref()
                .is_none_or(|own| host.as_deref() == Some(own))
                && Pattern::shared(&row.pattern)
                    .is_ok_and(|pattern| views.iter().any(|view| pattern.matches_folded(view)))
        })
    }

    fn other(&self, position: usize) -> Option<&RouteReport> {
        self.others.get(position.checked_sub(self.served.len())?)
    }
}

impl From<&RouteState> for ReportedState {
    fn from(state: &RouteState) -> Self {
        match state {
            RouteState::Live => Self::Live,
            RouteState::Draining { .. } => Self::Draining,
            RouteState::Misconfigured => Self::Misconfigured,
            RouteState::Withdrawn => Self::Closed,
        }
    }
}

impl RouteReport {
    /// The row of a route as its offer declares it.
    fn declared(piece: &Piece) -> Self {
        let lineage = &piece.lineage;
        let settle = piece.route.as_ref().map(|route| route.settle);
        Self {
            pattern: piece.text().clone(),
            host: lineage.identity.hostname.clone(),
            source: lineage.source,
            offer: lineage.identity.clone(),
            offer_generation: lineage.generation,
            owner: lineage.identity.owner(),
            state: ReportedState::Live,
            gate: piece.gate(),
            settle: settle.unwrap_or(Settle::Before),
            accepts: Vec::new(),
            reason: None,
            detail: None,
            drains_until: None,
            closed_since: None,
            closed_until: None,
        }
    }

    /// The route is in the table.
    fn served(slot: &Slot) -> Self {
        let entry: &RouteEntry = &slot.entry;
        let mut row = Self::declared(&entry.piece);
        row.state = (&entry.state).into();
        row.settle = entry.settle;
        if !entry.requirements.is_empty() {
            let options = entry.piece.route.iter().flat_map(|route| &route.options);
            row.accepts = options.map(AcceptReport::of).collect();
        }
        if let RouteState::Draining { until } = entry.state {
            row.drains_until = Some(until);
        }
        if let Some(trouble) = &entry.trouble {
            row.reason = Some(trouble.code);
            row.detail = Some(trouble.detail.clone());
        } else if slot.is_shadowed {
            row.reason = Some("shadowed");
            row.detail = Some(
                "the same pattern is declared earlier and answers instead: remove one of them"
                    .to_owned(),
            );
        }
        row
    }

    /// The rows of an offer that lost its paths; it harms nobody.
    pub(super) fn refused(unit: &Unit, rejection: &Rejection) -> impl Iterator<Item = Self> {
        unit.pieces.iter().map(|piece| Self {
            state: ReportedState::Conflict,
            reason: Some(rejection.code),
            detail: Some(rejection.detail.clone()),
            ..Self::declared(piece)
        })
    }

    /// The row of a closed path.
    pub(super) fn closed(closure: &Closure, now: Timestamp) -> Self {
        let record = &closure.record;
        let (namespace, name) = (record.namespace.clone(), record.name.clone());
        let identity = if record.uid.is_empty() {
            OfferIdentity::of_operator(namespace, name)
        } else {
            OfferIdentity::of_namespace(namespace, name, record.uid.clone())
        };
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
            pattern: closure.pattern.text().clone(),
            host: record.host.clone(),
            source: "ledger",
            owner: identity.owner(),
            offer: Arc::new(identity),
            offer_generation: None,
            state: ReportedState::Closed,
            gate: Gate::Paid,
            settle: Settle::Before,
            accepts: Vec::new(),
            reason: Some(reason),
            detail: Some(detail.to_owned()),
            drains_until: None,
            closed_since: record.closed_at,
            closed_until: Some(closure.until),
        }
    }
}

impl AcceptReport {
    fn of(option: &PaymentOption) -> Self {
        Self {
            network: option.network.caip2().into(),
            asset: option.asset.address.to_checksum(None).into(),
            symbol: option.asset.symbol.clone(),
            amount: option.amount.to_string(),
            price: option.price.clone(),
            pay_to: option.pay_to.to_checksum(None).into(),
        }
    }
}
