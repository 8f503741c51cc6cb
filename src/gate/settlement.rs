//! The job of a payment: verify, claim, settle, book (M1 to M8).
//!
//! It runs in a job of [`Tasks`] that no client can cancel, while a request waits for its landing
//! (`answer`). What it learns it books, whether or not somebody still waits.
//!
//! Invariants:
//! - Verify precedes settle with the same bytes and the same requirement: both are in the plan.
//! - Nothing is stored before verify succeeded, nothing is sent to settle before `settling` is
//!   durable, no settle is ever sent twice (but `settlement_pending`, by protocol).
//!
//! Failure: a ledger that fails after money moved is asked again for as long as is reasonable; the
//! row reads as unknown meanwhile, visible, and never as refused (R9).

use super::Reason;
use super::flight::{Flight, Flights, Landing};
use super::lanes::{Lanes, Room};
use super::payment::{Plan, Refused};
use super::ports::{
    Booked, ClaimOutcome, ClaimOwner, ClaimRow, ClaimState, Facilitator, Ledger, LedgerError,
    NewClaim, SettleReply, Step, VerifyReply,
};
use super::verdict::{self, SettleMeaning, Verified};
use crate::lifecycle::{Readiness, Tasks};
use crate::metrics::{Metrics, OfferCounters};
use crate::table::{RouteEntry, TableReader};
use bytes::Bytes;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What every payment of a gate shares.
#[derive(Debug)]
pub(super) struct Shared<F, L> {
    pub(super) facilitator: F,
    pub(super) ledger: L,
    pub(super) tables: TableReader,
    pub(super) readiness: Readiness,
    pub(super) tasks: Tasks,
    pub(super) metrics: Arc<Metrics>,
    pub(super) flights: Flights,
    pub(super) lanes: Arc<Lanes>,
    pub(super) clock: fn() -> Timestamp,
}

/// How long a claim is protected before its settle begins; what dies in it is released (M3).
const CLAIM_LEASE: Duration = Duration::from_secs(30);

/// How long news of a settlement is offered to a ledger that fails, beyond the longest listening.
const BOOKING_MARGIN: Duration = Duration::from_secs(60);

/// How long an owed row is kept for its waiter, who answers at once.
const WAITER_LEASE: Duration = Duration::from_secs(10);

/// Pause before the one repetition of a pending settle.
const PENDING_PAUSE: Duration = Duration::from_secs(1);

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
    pub(super) async fn fly(
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
            .verify(endpoint, body.clone(), &plan.trace, verify_by)
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
                .settle(endpoint, body.clone(), &plan.trace, listen_until)
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

    pub(super) async fn abandon(&self, plan: &Plan, owner: ClaimOwner) {
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
pub(super) fn monotonic() -> Instant {
    tokio::time::Instant::now().into_std()
}

pub(super) fn offer_key(route: &RouteEntry) -> (Arc<str>, Arc<str>) {
    (
        Arc::clone(&route.offer.namespace),
        Arc::clone(&route.offer.name),
    )
}

pub(super) fn count(route: &RouteEntry, option: usize, add: impl FnOnce(&OfferCounters)) {
    if let Some(counters) = route
        .counters
        .get(option)
        .or_else(|| route.counters.first())
    {
        add(counters);
    }
}
