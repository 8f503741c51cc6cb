//! Carrying a [`Plan`] out: verify, claim, settle, commit the answer (M1 to M8).
//!
//! The work of a payment runs in a job of [`Tasks`] that no client can cancel; the request holds a
//! seat in its flight and waits. What the job learns it books, whether or not somebody still
//! waits; what was paid and not answered is left as a credit (M6).
//!
//! Invariants:
//! - Verify precedes settle with the same bytes and the same requirement: both are in the plan.
//! - Nothing is stored before verify succeeded, nothing is sent to settle before `settling` is
//!   durable, no settle is ever sent twice (but `settlement_pending`, by protocol).
//! - The answer is committed by the ledger before this module returns a [`Permit`] (M5).
//!
//! Failure: a ledger that fails after money moved is asked again for as long as is reasonable; the
//! row reads as unknown meanwhile, visible, and never as refused (R9).

use super::flight::{Boarding, Flight, Flights, Landing, Phase, Waiter};
use super::lanes::{Claimant, Lanes, Room};
use super::payment::{Plan, Refused};
use super::ports::{
    Booked, ClaimOutcome, ClaimOwner, ClaimRow, ClaimState, Facilitator, Ledger, LedgerError,
    NewClaim, SettleReply, Step, VerifyReply,
};
use super::verdict::{self, SettleMeaning, Verified};
use super::{
    Decision, Facts, Outcome, Permit, Reason, Refusal, Settled, SettlementRejected, Verdict, decide,
};
use crate::lifecycle::{Readiness, ReadyState, Tasks};
use crate::metrics::{FailureReason, Metrics, OfferCounters};
use crate::table::{self, RouteEntry, Table, TableReader};
use crate::x402::{self, Receipt};
use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Carries payments out. Cheap to clone.
#[derive(Debug)]
pub struct Gate<F, L> {
    shared: Arc<Shared<F, L>>,
}

#[derive(Debug)]
struct Shared<F, L> {
    facilitator: F,
    ledger: L,
    tables: TableReader,
    readiness: Readiness,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    flights: Flights,
    lanes: Arc<Lanes>,
    clock: fn() -> Timestamp,
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

/// How long a claim is protected before its settle begins; what dies in it is released (M3).
const CLAIM_LEASE: Duration = Duration::from_secs(30);

/// How long news of a settlement is offered to a ledger that fails, beyond the longest listening.
const BOOKING_MARGIN: Duration = Duration::from_secs(60);

/// How long an owed row is kept for its waiter, who answers at once.
const WAITER_LEASE: Duration = Duration::from_secs(10);

/// Pause before the one repetition of a pending settle.
const PENDING_PAUSE: Duration = Duration::from_secs(1);

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
        let Decision {
            verdict,
            route,
            ambiguity,
            ..
        } = decide(table, &request.facts, None, now);
        if let Some(class) = ambiguity {
            self.shared.metrics.ambiguous_target(class.as_str());
        }
        let unpaid = match verdict {
            Verdict::Done(outcome) => outcome,
            Verdict::Pay(_) => unpayable(),
        };
        let Some(route) = route.filter(|route| route.gate == table::Gate::Paid) else {
            return unpaid;
        };
        let asked = matches!(&unpaid, Outcome::Challenge(_))
            || unpaid.reason() == Some(Reason::OfferDraining);
        if !asked || !x402::has_payment(request.headers) {
            count(route, 0, |counters| {
                counters.request();
                if asked {
                    counters.payment_required();
                }
            });
            return unpaid;
        }
        let (outcome, option) = self.pay_for(table, request, route, now).await;
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
        route: &Arc<RouteEntry>,
        now: Timestamp,
    ) -> (Outcome, usize) {
        let limit = table.settings.limits.payment_header_bytes;
        let payment = match x402::read_payment(request.headers, limit) {
            Ok(Some(payment)) => payment,
            Ok(None) => return (unpayable(), 0),
            Err(error) => {
                let refused = super::refuse_header(table, route, &request.facts, &error);
                return (refused, 0);
            }
        };
        let Decision {
            verdict, option, ..
        } = decide(table, &request.facts, Some(&payment), now);
        match verdict {
            Verdict::Done(outcome) => (outcome, option),
            Verdict::Pay(plan) => (
                self.carry_out(Arc::new(*plan), request.arrived).await,
                option,
            ),
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

/// Lands a flight however its job ends. A job that dies without a landing (a defect of ours) must
/// not leave its waiter waiting and its payload taken for good; what became of the money is in the
/// row, whose lease ends.
struct Runway<'a> {
    flights: &'a Flights,
    flight: &'a Arc<Flight>,
    landing: Option<Landing>,
}

impl Drop for Runway<'_> {
    fn drop(&mut self) {
        let landing = self.landing.take().unwrap_or_else(|| {
            let reason = if self.flight.is_settling() {
                Reason::SettlementUnknown
            } else {
                Reason::InternalError
            };
            Landing::Stopped {
                reason,
                detail: None,
            }
        });
        self.flights.land(self.flight, landing, monotonic());
    }
}

/// Keeps `claims_in_flight` true, also when the job dies.
struct InFlight<'a>(&'a Metrics);

impl<'a> InFlight<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.claims_in_flight(1);
        Self(metrics)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.claims_in_flight(-1);
    }
}

impl<F: Facilitator, L: Ledger> Shared<F, L> {
    /// The job of one payment.
    async fn fly(
        self: Arc<Self>,
        flight: Arc<Flight>,
        plan: Arc<Plan>,
        room: Room,
        arrived: Instant,
    ) {
        let mut runway = Runway {
            flights: &self.flights,
            flight: &flight,
            landing: None,
        };
        runway.landing = Some(self.run(&flight, &plan, arrived).await);
        drop(runway);
        drop(room);
        if let Some(owner) = self.flights.left_behind(&flight) {
            self.abandon(&plan, owner).await;
        }
    }

    async fn run(
        self: &Arc<Self>,
        flight: &Arc<Flight>,
        plan: &Arc<Plan>,
        arrived: Instant,
    ) -> Landing {
        let (Some(requirement), Some(endpoint)) =
            (plan.requirement(), plan.route.endpoint.as_ref())
        else {
            return Landing::Stopped {
                reason: Reason::OfferMisconfigured,
                detail: None,
            };
        };
        let Some(body) = requirement.facilitator_body(&plan.payment, &plan.resource_url) else {
            return Landing::Invalid(Refused {
                reason: Reason::NoMatchingRequirement,
                detail: Some("this network cannot be paid with x402 version 1".to_owned()),
                hint: None,
                option: plan.option,
            });
        };
        let body = Bytes::from(body);
        let timeouts = &plan.settings.timeouts;
        let answer_by = arrived + timeouts.answer;

        let verify_by = answer_by.min(monotonic() + timeouts.verify);
        match self
            .facilitator
            .verify(endpoint, body.clone(), verify_by)
            .await
        {
            VerifyReply::Fault(fault) => return Landing::Faulted(fault),
            VerifyReply::Verdict(response) => {
                match verdict::verified(&response, plan.payment.payer()) {
                    Verified::Valid => {}
                    Verified::Nonsense(detail) => {
                        return Landing::Faulted(verdict::nonsense(detail));
                    }
                    Verified::Invalid { reason, detail } => {
                        let option = plan.option;
                        return Landing::Invalid(Refused {
                            reason,
                            detail,
                            hint: None,
                            option,
                        });
                    }
                }
            }
        }
        count(&plan.route, plan.option, OfferCounters::payment_verified);

        if !self.flights.commit(flight) {
            return Landing::Abandoned;
        }
        let owner = match self.ledger.claim(&new_claim(plan)).await {
            Ok(ClaimOutcome::Claimed(owner)) => owner,
            Ok(ClaimOutcome::Taken(row)) => return taken(&row),
            Ok(ClaimOutcome::CreditSpent { owner, transaction }) => {
                return Landing::Credited { owner, transaction };
            }
            Ok(ClaimOutcome::UnknownOutstanding) => {
                return Landing::Stopped {
                    reason: Reason::SettlementUnknown,
                    detail: Some("an earlier payment of yours for this route".to_owned()),
                };
            }
            Err(error) => return unrecorded(&error),
        };
        let _counted = InFlight::new(&self.metrics);
        if plan.settles {
            self.settle(flight, plan, owner, body, answer_by).await
        } else {
            Landing::Answerable {
                owner,
                transaction: None,
            }
        }
    }

    /// `claimed -> settling -> owed`, or back (M3, M4, M8).
    async fn settle(
        self: &Arc<Self>,
        flight: &Flight,
        plan: &Arc<Plan>,
        owner: ClaimOwner,
        body: Bytes,
        answer_by: Instant,
    ) -> Landing {
        let timeouts = &plan.settings.timeouts;
        let book_until = monotonic() + timeouts.settle + BOOKING_MARGIN;
        let left = || answer_by.saturating_duration_since(monotonic());
        let too_late = Landing::Stopped {
            reason: Reason::Busy,
            detail: Some("too little time was left to settle".to_owned()),
        };
        if left() < timeouts.settle_floor {
            self.release(plan, owner, book_until).await;
            return too_late;
        }
        // From the deadline of the answer on nobody can be told how it ended, so for the payer it
        // is unknown, and the lease makes the row read so: a new payment waits (M6). The lease
        // binds others, not us: what is learned later is booked all the same.
        match self.ledger.begin_settle(&plan.key, owner, left()).await {
            Ok(Step::Done) if left() < timeouts.settle_floor => {
                self.release(plan, owner, book_until).await;
                return too_late;
            }
            Ok(Step::Done) => {}
            Ok(Step::Lost) => {
                return Landing::Stopped {
                    reason: Reason::PaymentInUse,
                    detail: None,
                };
            }
            Err(error) => {
                // Nothing was sent, whatever became of the row.
                self.release(plan, owner, book_until).await;
                return unrecorded(&error);
            }
        }
        match self.send_settle(plan, body).await {
            Sent::Settled { transaction } => {
                self.book(flight, plan, owner, transaction, book_until)
                    .await
            }
            Sent::NotDone(landing) => {
                self.release(plan, owner, book_until).await;
                landing
            }
            Sent::Unknown {
                transaction,
                detail,
            } => {
                tracing::warn!(
                    payment.key = ?plan.key,
                    payment.transaction = transaction.as_deref().unwrap_or_default(),
                    detail,
                    "settlement outcome unknown"
                );
                self.mark_unknown(plan, owner, transaction, book_until)
                    .await;
                Landing::Stopped {
                    reason: Reason::SettlementUnknown,
                    detail: verdict::disclosable(detail),
                }
            }
        }
    }

    /// The settle call and its meaning; repeated once, same bytes, only when it is pending (M4).
    async fn send_settle(&self, plan: &Plan, body: Bytes) -> Sent {
        let (Some(requirement), Some(endpoint)) =
            (plan.requirement(), plan.route.endpoint.as_ref())
        else {
            let reason = Reason::OfferMisconfigured;
            return Sent::NotDone(Landing::Stopped {
                reason,
                detail: None,
            });
        };
        let listen_until = monotonic() + plan.settings.timeouts.settle;
        let mut repeated = false;
        // What a pending answer named is kept: proof looks for it (M7).
        let mut named = None;
        loop {
            let reply = self
                .facilitator
                .settle(endpoint, body.clone(), listen_until)
                .await;
            let response = match reply {
                SettleReply::Verdict(response) => response,
                // After a pending answer the first request may still be on its way to the chain.
                SettleReply::NotSent(fault) | SettleReply::Declined(fault) if repeated => {
                    return Sent::Unknown {
                        transaction: named,
                        detail: fault.detail,
                    };
                }
                SettleReply::NotSent(fault) | SettleReply::Declined(fault) => {
                    return Sent::NotDone(Landing::Faulted(fault));
                }
                SettleReply::Unknown(fault) => {
                    return Sent::Unknown {
                        transaction: named,
                        detail: fault.detail,
                    };
                }
            };
            match verdict::settled(&response, requirement, &plan.payment) {
                SettleMeaning::Settled { transaction } => return Sent::Settled { transaction },
                SettleMeaning::Refused { reason, detail } if !repeated => {
                    return Sent::NotDone(Landing::Rejected { reason, detail });
                }
                SettleMeaning::Refused { detail, .. } => {
                    let detail = detail.unwrap_or_default();
                    return Sent::Unknown {
                        transaction: named,
                        detail,
                    };
                }
                SettleMeaning::Pending { transaction } if !repeated => {
                    named = transaction;
                    repeated = true;
                    tokio::time::sleep(PENDING_PAUSE).await;
                }
                SettleMeaning::Pending { transaction } => {
                    let detail = "the settlement is still pending".to_owned();
                    return Sent::Unknown {
                        transaction: transaction.or(named),
                        detail,
                    };
                }
                SettleMeaning::Unknown {
                    transaction,
                    detail,
                } => {
                    return Sent::Unknown {
                        transaction: transaction.or(named),
                        detail,
                    };
                }
            }
        }
    }

    /// Books a settlement: money moved, and the row must say so.
    async fn book(
        &self,
        flight: &Flight,
        plan: &Plan,
        owner: ClaimOwner,
        transaction: String,
        until: Instant,
    ) -> Landing {
        let waiter = if flight.has_waiter() {
            WAITER_LEASE
        } else {
            Duration::ZERO
        };
        let booked = self
            .insist(until, || {
                self.ledger
                    .book_settled(&plan.key, owner, &transaction, waiter)
            })
            .await;
        match booked {
            Some(Booked::Owed) => {
                let now = u64::try_from((self.clock)().as_second()).unwrap_or(0);
                count(&plan.route, plan.option, |counters| {
                    counters.charged(plan.scope.amount.0, now);
                });
                Landing::Answerable {
                    owner,
                    transaction: Some(transaction),
                }
            }
            Some(Booked::DuplicateTransaction) => {
                tracing::error!(
                    payment.key = ?plan.key,
                    payment.transaction = transaction,
                    "the facilitator named a transaction that another payment was booked under"
                );
                Landing::Stopped {
                    reason: Reason::SettlementUnknown,
                    detail: None,
                }
            }
            Some(Booked::Lost) | None => {
                tracing::error!(
                    payment.key = ?plan.key,
                    payment.transaction = transaction,
                    "a settled payment could not be booked; its row reads as unknown"
                );
                Landing::Stopped {
                    reason: Reason::SettlementUnknown,
                    detail: None,
                }
            }
        }
    }

    /// Gives a claim back. A ledger that cannot is asked again beside the answer, which is known
    /// already and must not turn into an unknown by waiting (R9).
    async fn release(self: &Arc<Self>, plan: &Arc<Plan>, owner: ClaimOwner, until: Instant) {
        // Lost is fine: the lease ended and the row was released (or claimed) without us.
        if self.ledger.release(&plan.key, owner).await.is_err() {
            let (shared, plan) = (Arc::clone(self), Arc::clone(plan));
            self.tasks.spawn_job("release", async move {
                shared
                    .insist(until, || shared.ledger.release(&plan.key, owner))
                    .await;
            });
        }
    }

    /// Writes down that a settlement is unknown, in the same way.
    async fn mark_unknown(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        owner: ClaimOwner,
        transaction: Option<String>,
        until: Instant,
    ) {
        let named = transaction.as_deref();
        let marked = self.ledger.mark_unknown(&plan.key, owner, named).await;
        if marked.is_err() {
            let (shared, plan) = (Arc::clone(self), Arc::clone(plan));
            self.tasks.spawn_job("mark unknown", async move {
                let mark = || {
                    let named = transaction.as_deref();
                    shared.ledger.mark_unknown(&plan.key, owner, named)
                };
                shared.insist(until, mark).await;
            });
        }
    }

    async fn abandon(&self, plan: &Plan, owner: ClaimOwner) {
        let until = monotonic() + BOOKING_MARGIN;
        if plan.settles {
            self.insist(until, || self.ledger.abandon(&plan.key, owner))
                .await;
        } else {
            // Nothing was paid: the claim itself is given back.
            self.insist(until, || self.ledger.release(&plan.key, owner))
                .await;
        }
    }

    /// Repeats a ledger step that must not be lost while the ledger fails, until `until`.
    async fn insist<T, R>(&self, until: Instant, step: impl Fn() -> R) -> Option<T>
    where
        R: Future<Output = Result<T, LedgerError>>,
    {
        let mut pause = Duration::from_millis(50);
        loop {
            match step().await {
                Ok(done) => return Some(done),
                Err(error) if monotonic() + pause < until => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "ledger step repeated"
                    );
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "ledger step lost");
                    return None;
                }
            }
        }
    }
}

/// What a settle call came to.
enum Sent {
    Settled {
        transaction: String,
    },
    NotDone(Landing),
    Unknown {
        transaction: Option<String>,
        detail: String,
    },
}

fn new_claim(plan: &Plan) -> NewClaim {
    let pay_to = plan
        .requirement()
        .map(|requirement| requirement.pay_to)
        .unwrap_or_default();
    NewClaim {
        key: plan.key,
        payload_hash: plan.payment.hash,
        scope: plan.scope.clone(),
        pay_to,
        offer: offer_key(&plan.route),
        valid_before: plan.valid_before,
        settles: plan.settles,
        lease: CLAIM_LEASE,
        may_spend_credit: plan.settles,
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

fn taken(row: &ClaimRow) -> Landing {
    let reason = match row.state {
        ClaimState::Claimed | ClaimState::Settling | ClaimState::Released => Reason::PaymentInUse,
        ClaimState::Owed
        | ClaimState::Answered
        | ClaimState::CreditSpent
        | ClaimState::SpentElsewhere => Reason::PaymentUsed,
        ClaimState::Unknown => Reason::SettlementUnknown,
    };
    Landing::Stopped {
        reason,
        detail: None,
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

fn unrecorded(error: &LedgerError) -> Landing {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "ledger unavailable"
    );
    Landing::Stopped {
        reason: Reason::LedgerUnavailable,
        detail: None,
    }
}

/// The clock that deadlines are kept by; tests pause it.
fn monotonic() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn offer_key(route: &RouteEntry) -> (Arc<str>, Arc<str>) {
    (
        Arc::clone(&route.offer.namespace),
        Arc::clone(&route.offer.name),
    )
}

fn count(route: &RouteEntry, option: usize, add: impl FnOnce(&OfferCounters)) {
    if let Some(counters) = route
        .counters
        .get(option)
        .or_else(|| route.counters.first())
    {
        add(counters);
    }
}

#[cfg(test)]
mod fakes;
#[cfg(test)]
mod tests;
