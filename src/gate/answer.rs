//! The request's side of a payment: decide, board its flight, wait in its seat, take the answer.
//!
//! A request holds a seat in the flight of its payload and waits; the work runs in a job
//! (`settlement`) that no client can cancel. The seat is given up on drop, whenever the client hangs
//! up, and what was paid and not answered is then left as a credit (M6).
//!
//! Invariant: the ledger committed the answer before a [`Permit`] is returned (M5, R8).
//!
//! Failure: at its deadline (M8) a request is answered by where its flight is; a settlement that is
//! still running is unknown, never refused (R9).

use super::flight::{Boarding, Flight, Flights, Landing, Phase, Waiter};
use super::lanes::Claimant;
use super::payment::{Plan, Refused};
use super::ports::{
    ClaimOwner, ClaimRow, ClaimState, Facilitator, Ledger, LedgerError, Step, Trace,
};
use super::settlement::{Shared, count, monotonic, offer_key};
use super::verdict;
use super::{
    Facts, Found, Outcome, Permit, Priced, Reason, Refusal, Settled, SettlementRejected, Verdict,
    find,
};
use crate::lifecycle::{Readiness, ReadyState, Tasks};
use crate::metrics::{FailureReason, Metrics};
use crate::table::{self, Table, TableReader};
use crate::x402::{self, Receipt};
use http::HeaderMap;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Instant;

/// Carries payments out. Cheap to clone.
#[derive(Debug)]
pub struct Gate<F, L> {
    shared: Arc<Shared<F, L>>,
}

/// One request to answer.
#[derive(Debug)]
pub struct Request<'a> {
    /// What it is.
    pub facts: Facts<'a>,
    /// Its headers; only payment headers are read, and only on a paid route.
    pub headers: &'a HeaderMap,
    /// When it arrived; the deadline of M8 counts from here.
    pub arrived: Instant,
}

impl<F, L> Clone for Gate<F, L> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<F: Facilitator, L: Ledger> Gate<F, L> {
    /// A gate over these ports and tables. `clock` is the wall clock.
    #[must_use]
    pub fn new(
        facilitator: F,
        ledger: L,
        tables: TableReader,
        readiness: Readiness,
        tasks: Tasks,
        metrics: Arc<Metrics>,
        clock: fn() -> Timestamp,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                facilitator,
                ledger,
                tables,
                readiness,
                tasks,
                metrics,
                flights: Flights::default(),
                lanes: Arc::default(),
                clock,
            }),
        }
    }

    /// The table that the next request is to be read and answered with (R5); until every latch is
    /// set there is none, and the answer is the refusal (R2).
    ///
    /// # Errors
    /// `not_ready` with the cause.
    pub fn table(&self) -> Result<Arc<Table>, Refusal> {
        let state = self.shared.readiness.state();
        if state == ReadyState::Ready {
            Ok(self.shared.tables.load_full())
        } else {
            Err(Refusal::new(Reason::NotReady, Some(state.sentence())))
        }
    }

    /// Answers one request: decides, and pays where a payment is to be made.
    pub async fn answer(&self, table: &Table, request: &Request<'_>) -> Outcome {
        let now = (self.shared.clock)();
        let found = find(table, &request.facts, now);
        let (Found::Decided { ambiguity, .. } | Found::Priced(Priced { ambiguity, .. })) = &found;
        if let Some(class) = ambiguity {
            self.shared.metrics.ambiguous_target(class.as_str());
        }
        let priced = match found {
            Found::Decided { outcome, route, .. } => {
                if let Some(route) = route.filter(|route| route.gate == table::Gate::Paid) {
                    count(route, 0, |counters| counters.request());
                }
                return outcome;
            }
            Found::Priced(priced) => priced,
        };
        let route = priced.route;
        if !x402::has_payment(request.headers) {
            count(route, 0, |counters| {
                counters.request();
                counters.payment_required();
            });
            return priced.unpaid(table, &request.facts);
        }
        // Boxed: with all that a payment may need it is kilobytes, and a future that is not boxed is
        // copied whole several times on its way into a connection, by the unpaid as well.
        let (outcome, option) = Box::pin(self.pay_for(table, request, &priced, now)).await;
        count(route, option, |counters| {
            counters.request();
            if let Some(failure) = outcome.reason().and_then(Reason::failure) {
                counters.payment_failed(failure);
            }
        });
        outcome
    }

    /// The ledger, for upkeep and commands.
    #[must_use]
    pub fn ledger(&self) -> &L {
        &self.shared.ledger
    }

    async fn pay_for(
        &self,
        table: &Table,
        request: &Request<'_>,
        priced: &Priced<'_>,
        now: Timestamp,
    ) -> (Outcome, usize) {
        let limit = table.settings.limits.payment_header_bytes;
        let payment = match x402::read_payment(request.headers, limit) {
            Ok(Some(payment)) => payment,
            Ok(None) => return (unpayable(), 0),
            Err(error) => {
                let refused = super::refuse_header(table, priced.route, &request.facts, &error);
                return (refused, 0);
            }
        };
        let (verdict, option) = priced.paid(table, &request.facts, payment, now);
        match verdict {
            Verdict::Done(outcome) => (outcome, option),
            Verdict::Pay(mut plan) => {
                plan.trace = Trace::of(request.headers);
                let outcome = self.carry_out(Arc::new(*plan), request.arrived).await;
                (outcome, option)
            }
        }
    }

    /// Boards the payment's flight, starts it if it is the first, and waits.
    async fn carry_out(&self, plan: Arc<Plan>, arrived: Instant) -> Outcome {
        let shared = &self.shared;
        let payload = plan.payment.hash;
        if !shared.flights.knows(payload) {
            match shared.ledger.lookup(&plan.key).await {
                Ok(row) => {
                    if let Some(stopped) = row.as_ref().and_then(stopped_by) {
                        return stopped;
                    }
                }
                Err(error) => return ledger_unavailable(&error),
            }
        }
        let Some(endpoint) = plan.route.endpoint.as_ref() else {
            return unpayable();
        };
        let now = monotonic();
        let waiter = match shared.flights.board(payload, plan.fingerprint, now) {
            Boarding::Occupied => return refused(Reason::PaymentInUse),
            Boarding::Answered => return refused(Reason::PaymentUsed),
            Boarding::KnownInvalid(refused) => return invalid(&plan, refused),
            Boarding::Joined(waiter) => waiter,
            Boarding::First(waiter) => {
                let claimant = Claimant {
                    facilitator: &endpoint.base,
                    offer: offer_key(&plan.route),
                    payer: plan.scope.payer,
                    recovers: plan.recovers,
                    limits: &plan.settings.limits,
                };
                let room = match shared.lanes.enter(claimant, now) {
                    Ok(room) => room,
                    Err(full) => {
                        shared.flights.land(&waiter.flight, Landing::Abandoned, now);
                        let detail = full.to_string();
                        return Outcome::Unavailable(Refusal::with_detail(Reason::Busy, detail));
                    }
                };
                let job = Arc::clone(shared).fly(
                    Arc::clone(&waiter.flight),
                    Arc::clone(&plan),
                    room,
                    arrived,
                );
                shared.tasks.spawn_job("payment", job);
                waiter
            }
        };
        let seat = Seat {
            shared,
            plan: &plan,
            waiter: Some(waiter),
            answered: false,
            at_stake: None,
        };
        seat.wait(arrived + plan.settings.timeouts.answer).await
    }
}

/// A request's seat: when it is dropped before an answer, what was paid becomes a credit (M6).
struct Seat<'a, F: Facilitator, L: Ledger> {
    shared: &'a Arc<Shared<F, L>>,
    plan: &'a Arc<Plan>,
    waiter: Option<Waiter>,
    answered: bool,
    /// The landing was taken and its answer is not committed.
    at_stake: Option<ClaimOwner>,
}

impl<F: Facilitator, L: Ledger> Seat<'_, F, L> {
    async fn wait(mut self, deadline: Instant) -> Outcome {
        let Some(waiter) = self.waiter.as_mut() else {
            return unpayable();
        };
        let phase = waiter.landing(deadline).await;
        let flight = Arc::clone(&waiter.flight);
        let outcome = match phase {
            Phase::Landed(landing) => self.answer(&flight, landing).await,
            Phase::Verifying => {
                Outcome::Unavailable(Refusal::new(Reason::FacilitatorTimeout, None))
            }
            Phase::Settling => Outcome::Unavailable(Refusal::new(Reason::SettlementUnknown, None)),
        };
        self.answered = true;
        outcome
    }

    async fn answer(&mut self, flight: &Flight, landing: Landing) -> Outcome {
        let plan = self.plan;
        match landing {
            Landing::Answerable { owner, transaction } => {
                if !flight.consume() {
                    return refused(Reason::PaymentUsed);
                }
                self.at_stake = Some(owner);
                let committed = self.shared.ledger.answer(&plan.key, owner).await;
                if committed.is_ok() {
                    self.at_stake = None;
                }
                match committed {
                    Ok(Step::Done) => {
                        let settled = if transaction.is_some() {
                            Settled::Before
                        } else {
                            Settled::Never
                        };
                        admit(plan, transaction, settled)
                    }
                    // Another payment of this payer spent it as a credit.
                    Ok(Step::Lost) => refused(Reason::PaymentUsed),
                    Err(error) => ledger_unavailable(&error),
                }
            }
            Landing::Credited { transaction, .. } => {
                if flight.consume() {
                    admit(plan, Some(transaction), Settled::ByCredit)
                } else {
                    refused(Reason::PaymentUsed)
                }
            }
            Landing::Invalid(refused) => invalid(plan, refused),
            Landing::Stopped { reason, detail } => stopped(reason, detail),
            Landing::Faulted(fault) => Outcome::Unavailable(Refusal {
                reason: verdict::fault_reason(fault.kind),
                retry_after: fault.retry_after,
                detail: verdict::disclosable(fault.detail),
            }),
            Landing::Rejected { reason, detail } => rejected(plan, reason, detail),
            Landing::Abandoned => Outcome::Unavailable(Refusal::new(Reason::Busy, None)),
        }
    }
}

impl<F: Facilitator, L: Ledger> Drop for Seat<'_, F, L> {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else {
            return;
        };
        let flight = Arc::clone(&waiter.flight);
        drop(waiter);
        if !self.answered {
            count(&self.plan.route, self.plan.option, |counters| {
                counters.payment_failed(FailureReason::ClientDisconnected);
            });
        }
        let left = self.at_stake.take();
        if let Some(owner) = left.or_else(|| self.shared.flights.left_behind(&flight)) {
            let shared = Arc::clone(self.shared);
            let plan = Arc::clone(self.plan);
            self.shared.tasks.spawn_job("abandon", async move {
                shared.abandon(&plan, owner).await;
            });
        }
    }
}

fn admit(plan: &Plan, transaction: Option<String>, settled: Settled) -> Outcome {
    let receipt = transaction.map(|transaction| receipt(plan, true, transaction, None));
    Outcome::Admit(Permit {
        payer: plan.payment.payer(),
        receipt,
        upstream_auth: plan.upstream_auth.clone(),
        settled,
        _made_by_the_gate: (),
    })
}

fn rejected(plan: &Plan, reason: String, detail: Option<String>) -> Outcome {
    let receipt = receipt(plan, false, String::new(), Some(reason));
    Outcome::SettlementRejected(Box::new(SettlementRejected { receipt, detail }))
}

fn receipt(
    plan: &Plan,
    success: bool,
    transaction: String,
    error_reason: Option<String>,
) -> Receipt {
    Receipt {
        success,
        transaction,
        network: crate::money::Network::from_chain_id(plan.scope.chain_id),
        payer: plan.scope.payer,
        amount: plan.scope.amount,
        error_reason,
        version: plan.payment.version,
    }
}

/// What the state of an existing row means for a payment that presents its key.
fn stopped_by(row: &ClaimRow) -> Option<Outcome> {
    match row.state {
        ClaimState::Released => None,
        ClaimState::Claimed | ClaimState::Settling => Some(refused(Reason::PaymentInUse)),
        ClaimState::Owed
        | ClaimState::Answered
        | ClaimState::CreditSpent
        | ClaimState::SpentElsewhere => Some(refused(Reason::PaymentUsed)),
        ClaimState::Unknown => Some(stopped(Reason::SettlementUnknown, None)),
    }
}

/// A payment that a facilitator found invalid: a fresh challenge, but a conflict when it was used.
fn invalid(plan: &Plan, refused: Refused) -> Outcome {
    if refused.reason == Reason::PaymentUsed {
        return stopped(Reason::PaymentUsed, refused.detail);
    }
    super::refuse_payment(&plan.route, &plan.resource_url, &refused)
}

/// A stop without challenge: the payer's copy is a 409, our trouble a 5xx.
fn stopped(reason: Reason, detail: Option<String>) -> Outcome {
    let refusal = Refusal {
        detail,
        ..Refusal::new(reason, None)
    };
    if matches!(reason, Reason::PaymentInUse | Reason::PaymentUsed) {
        Outcome::Refused(refusal)
    } else {
        Outcome::Unavailable(refusal)
    }
}

fn refused(reason: Reason) -> Outcome {
    Outcome::Refused(Refusal::new(reason, None))
}

/// A paid route that cannot be paid: the table never publishes one as live.
fn unpayable() -> Outcome {
    Outcome::Unavailable(Refusal::new(Reason::OfferMisconfigured, None))
}

fn ledger_unavailable(error: &LedgerError) -> Outcome {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "ledger unavailable"
    );
    Outcome::Unavailable(Refusal::new(Reason::LedgerUnavailable, None))
}

#[cfg(test)]
mod fakes;
#[cfg(test)]
mod tests;
