//! Flights: one running payment per payload hash, and who waits for it (M1, M5).
//!
//! A flight is started by the first request that carries a payload. Its work runs in a job that no
//! client can cancel (M8); requests only wait. There is one waiter's seat: a copy meanwhile is
//! `payment_in_use`, except that an identical request within [`JOIN_WINDOW`] may take the seat when
//! the first waiter is gone (Traefik sends an auth call again when a pooled connection breaks).
//!
//! The seat decides who may commit the answer, so a landing is consumed at most once here and, by
//! the ledger's compare-and-set, at most once anywhere (R8).

use super::ports::{ClaimOwner, Fault};
use super::{Reason, payment};
use alloy_primitives::B256;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long after its start an identical copy may join a flight (M5).
pub(super) const JOIN_WINDOW: Duration = Duration::from_secs(5);

/// How long an invalid verdict is remembered by payload hash (M12).
const INVALID_MEMORY: Duration = Duration::from_secs(30);

/// Invalid verdicts remembered at most.
const INVALID_CAPACITY: usize = 4_096;

/// All flights of a gate.
#[derive(Debug, Default)]
pub(super) struct Flights {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: HashMap<B256, Arc<Flight>>,
    by_age: VecDeque<Arc<Flight>>,
    invalid: HashMap<B256, payment::Refused>,
    invalid_by_age: VecDeque<(Instant, B256)>,
}

/// One running (or just landed) payment.
#[derive(Debug)]
pub(super) struct Flight {
    payload: B256,
    fingerprint: B256,
    started: Instant,
    seat_taken: AtomicBool,
    consumed: AtomicBool,
    phase: watch::Sender<Phase>,
}

/// Where a flight is.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// Before the claim; nothing is stored.
    Verifying,
    /// Claimed; money may be moving.
    Settling,
    /// Over.
    Landed(Landing),
}

/// How a flight ended.
#[derive(Debug, Clone)]
pub(super) enum Landing {
    /// The row waits for the answer's compare-and-set; `transaction` is `None` for `never`.
    Answerable {
        owner: ClaimOwner,
        transaction: Option<String>,
    },
    /// A credit was spent: the answer is committed already, for one consumer.
    Credited {
        owner: ClaimOwner,
        transaction: String,
    },
    /// The payer's fault, with a fresh challenge.
    Invalid(payment::Refused),
    /// 409, 503, 504 without challenge.
    Stopped {
        reason: Reason,
        detail: Option<String>,
    },
    /// The facilitator failed before money could move.
    Faulted(Fault),
    /// The facilitator refused to settle.
    Rejected {
        reason: String,
        detail: Option<String>,
    },
    /// Nobody waited any more before the claim: nothing happened.
    Abandoned,
}

/// What a request finds when it brings a payload.
#[derive(Debug)]
pub(super) enum Boarding {
    /// It starts the flight.
    First(Waiter),
    /// It took the free seat of its own earlier copy.
    Joined(Waiter),
    /// Another request sits there.
    Occupied,
    /// Its answer was given a moment ago.
    Answered,
    /// The same payload was found invalid a moment ago.
    KnownInvalid(payment::Refused),
}

/// The seat of a flight; leaves it free on drop.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) flight: Arc<Flight>,
    phases: watch::Receiver<Phase>,
}

impl Flights {
    /// Starts a flight for this payload, joins it, or says why not.
    pub(super) fn board(&self, payload: B256, fingerprint: B256, now: Instant) -> Boarding {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.sweep(now);
        if let Some(refused) = state.invalid.get(&payload) {
            return Boarding::KnownInvalid(refused.clone());
        }
        if let Some(flight) = state.running.get(&payload) {
            let young = now.duration_since(flight.started) <= JOIN_WINDOW;
            let same = flight.fingerprint == fingerprint;
            if young && same && flight.take_seat() {
                return Boarding::Joined(Waiter::new(Arc::clone(flight)));
            }
            if flight.consumed.load(Ordering::SeqCst) {
                return Boarding::Answered;
            }
            return Boarding::Occupied;
        }
        let flight = Arc::new(Flight {
            payload,
            fingerprint,
            started: now,
            seat_taken: AtomicBool::new(true),
            consumed: AtomicBool::new(false),
            phase: watch::Sender::new(Phase::Verifying),
        });
        state.running.insert(payload, Arc::clone(&flight));
        state.by_age.push_back(Arc::clone(&flight));
        Boarding::First(Waiter::new(flight))
    }

    /// Whether a flight of this payload exists (a copy then boards instead of asking the ledger).
    pub(super) fn knows(&self, payload: B256) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running.contains_key(&payload) || state.invalid.contains_key(&payload)
    }

    /// The last look before the claim: `false` when nobody waits any more, and then the flight is
    /// gone and nothing may be stored. Atomic with boarding, so a copy either takes the seat before
    /// and is served, or finds no flight and starts anew.
    pub(super) fn commit(&self, flight: &Arc<Flight>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if flight.has_waiter() {
            flight.phase.send_replace(Phase::Settling);
            return true;
        }
        state.forget(flight);
        flight.phase.send_replace(Phase::Landed(Landing::Abandoned));
        false
    }

    /// Ends a flight. A landing that can still be answered stays boardable for the join window;
    /// everything else ends with its waiter, and the ledger answers later copies.
    pub(super) fn land(&self, flight: &Arc<Flight>, landing: Landing, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Landing::Invalid(refused) = &landing {
            state.remember_invalid(flight.payload, refused.clone(), now);
        }
        let joinable = matches!(
            landing,
            Landing::Answerable { .. } | Landing::Credited { .. }
        );
        if !joinable || now.duration_since(flight.started) > JOIN_WINDOW {
            state.forget(flight);
        }
        flight.phase.send_replace(Phase::Landed(landing));
    }

    /// The owner of a row that nobody consumed: what is left behind for a credit.
    ///
    /// A settled row may still be answered by a joiner, the ledger decides who was first. A spent
    /// credit and a claim that settles nothing are taken back whole, so their flight ends here: a
    /// copy joins before (atomic with boarding) or starts anew.
    pub(super) fn left_behind(&self, flight: &Arc<Flight>) -> Option<ClaimOwner> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if flight.has_waiter() {
            return None;
        }
        let (owner, joinable) = match &*flight.phase.borrow() {
            Phase::Landed(Landing::Answerable { owner, transaction }) => {
                (*owner, transaction.is_some())
            }
            Phase::Landed(Landing::Credited { owner, .. }) => (*owner, false),
            Phase::Landed(_) | Phase::Verifying | Phase::Settling => return None,
        };
        if joinable {
            return (!flight.consumed.load(Ordering::SeqCst)).then_some(owner);
        }
        if !flight.consume() {
            return None;
        }
        state.forget(flight);
        Some(owner)
    }
}

impl State {
    /// Takes a flight out; never a later one of the same payload, which may be running by now.
    fn forget(&mut self, flight: &Arc<Flight>) {
        let there = self.running.get(&flight.payload);
        if there.is_some_and(|there| Arc::ptr_eq(there, flight)) {
            self.running.remove(&flight.payload);
        }
    }

    fn sweep(&mut self, now: Instant) {
        while let Some(oldest) = self
            .by_age
            .pop_front_if(|oldest| now.duration_since(oldest.started) > JOIN_WINDOW)
        {
            // A flight that is still running removes itself when it lands.
            if oldest.has_landed() {
                self.forget(&oldest);
            }
        }
        while let Some((at, payload)) = self.invalid_by_age.front() {
            if now.duration_since(*at) <= INVALID_MEMORY
                && self.invalid_by_age.len() <= INVALID_CAPACITY
            {
                break;
            }
            self.invalid.remove(payload);
            self.invalid_by_age.pop_front();
        }
    }

    fn remember_invalid(&mut self, payload: B256, refused: payment::Refused, now: Instant) {
        if self.invalid.insert(payload, refused).is_none() {
            self.invalid_by_age.push_back((now, payload));
        }
    }
}

impl Flight {
    /// Whether a request waits for the answer.
    pub(super) fn has_waiter(&self) -> bool {
        self.seat_taken.load(Ordering::SeqCst)
    }

    /// Takes the landing for an answer; `true` once.
    pub(super) fn consume(&self) -> bool {
        !self.consumed.swap(true, Ordering::SeqCst)
    }

    /// Whether it was claimed and has not landed.
    pub(super) fn is_settling(&self) -> bool {
        matches!(&*self.phase.borrow(), Phase::Settling)
    }

    fn has_landed(&self) -> bool {
        matches!(&*self.phase.borrow(), Phase::Landed(_))
    }

    fn take_seat(&self) -> bool {
        !self.consumed.load(Ordering::SeqCst)
            && self
                .seat_taken
                .compare_exchange(false, true, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
    }
}

impl Waiter {
    fn new(flight: Arc<Flight>) -> Self {
        let phases = flight.phase.subscribe();
        Self { flight, phases }
    }

    /// Waits for the landing until `deadline`; else where the flight is.
    pub(super) async fn landing(&mut self, deadline: Instant) -> Phase {
        let landed = self
            .phases
            .wait_for(|phase| matches!(phase, Phase::Landed(_)));
        match tokio::time::timeout_at(deadline.into(), landed).await {
            Ok(Ok(phase)) => phase.clone(),
            Ok(Err(_)) | Err(_) => self.flight.phase.borrow().clone(),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.flight.seat_taken.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(byte: u8) -> B256 {
        B256::repeat_byte(byte)
    }

    fn request(text: &str) -> B256 {
        alloy_primitives::keccak256(text)
    }

    fn answerable() -> Landing {
        Landing::Answerable {
            owner: ClaimOwner([1; 16]),
            transaction: Some("0x1".into()),
        }
    }

    #[test]
    fn m1_a_copy_meanwhile_finds_the_seat_occupied() {
        let (flights, now) = (Flights::default(), Instant::now());
        let first = flights.board(payload(1), request("GET\n/a"), now);
        assert!(matches!(first, Boarding::First(_)));
        assert!(matches!(
            flights.board(payload(1), request("GET\n/a"), now),
            Boarding::Occupied
        ));
        assert!(matches!(
            flights.board(payload(2), request("GET\n/a"), now),
            Boarding::First(_)
        ));
    }

    #[test]
    fn m5_an_identical_copy_joins_when_the_first_waiter_is_gone() {
        let (flights, now) = (Flights::default(), Instant::now());
        drop(flights.board(payload(1), request("GET\n/a"), now));
        let other = flights.board(payload(1), request("GET\n/b"), now);
        assert!(
            matches!(other, Boarding::Occupied),
            "another path is another request"
        );
        let late = now + JOIN_WINDOW + Duration::from_millis(1);
        let joined = flights.board(payload(1), request("GET\n/a"), now);
        assert!(matches!(joined, Boarding::Joined(_)));
        assert!(matches!(
            flights.board(payload(1), request("GET\n/a"), now),
            Boarding::Occupied
        ));
        drop(joined);
        assert!(matches!(
            flights.board(payload(1), request("GET\n/a"), late),
            Boarding::Occupied
        ));
    }

    #[test]
    fn m5_a_landing_is_consumed_once() {
        let (flights, now) = (Flights::default(), Instant::now());
        let Boarding::First(waiter) = flights.board(payload(1), request("x"), now) else {
            panic!("first")
        };
        assert!(flights.commit(&waiter.flight));
        flights.land(&waiter.flight, answerable(), now);
        assert!(waiter.flight.consume());
        assert!(!waiter.flight.consume());
        drop(waiter);
        assert!(matches!(
            flights.board(payload(1), request("x"), now),
            Boarding::Answered
        ));
    }

    #[test]
    fn nothing_is_claimed_when_nobody_waits() {
        let (flights, now) = (Flights::default(), Instant::now());
        let Boarding::First(waiter) = flights.board(payload(1), request("x"), now) else {
            panic!("first")
        };
        let flight = Arc::clone(&waiter.flight);
        drop(waiter);
        assert!(!flights.commit(&flight));
        assert!(matches!(
            flights.board(payload(1), request("x"), now),
            Boarding::First(_)
        ));
    }

    #[test]
    fn m5_what_nobody_answered_is_left_behind_for_a_credit() {
        let (flights, now) = (Flights::default(), Instant::now());
        let Boarding::First(waiter) = flights.board(payload(1), request("x"), now) else {
            panic!("first")
        };
        assert!(flights.commit(&waiter.flight));
        let flight = Arc::clone(&waiter.flight);
        flights.land(&flight, answerable(), now);
        assert_eq!(flights.left_behind(&flight), None, "somebody still waits");
        drop(waiter);
        assert_eq!(flights.left_behind(&flight), Some(ClaimOwner([1; 16])));
    }

    #[test]
    fn m12_an_invalid_verdict_is_remembered_for_a_while() {
        let (flights, now) = (Flights::default(), Instant::now());
        let Boarding::First(waiter) = flights.board(payload(1), request("x"), now) else {
            panic!("first")
        };
        let refused = payment::Refused {
            reason: Reason::PaymentInvalid,
            detail: None,
            hint: None,
            option: 0,
        };
        flights.land(&waiter.flight, Landing::Invalid(refused), now);
        drop(waiter);
        assert!(matches!(
            flights.board(payload(1), request("x"), now),
            Boarding::KnownInvalid(_)
        ));
        let later = now + INVALID_MEMORY + Duration::from_secs(1);
        assert!(matches!(
            flights.board(payload(1), request("x"), later),
            Boarding::First(_)
        ));
    }

    /// M1: what ended takes no later flight of the same payload with it.
    #[test]
    fn m1_a_flight_that_ended_does_not_remove_its_successor() {
        let (flights, now) = (Flights::default(), Instant::now());
        let Boarding::First(old) = flights.board(payload(1), request("x"), now) else {
            panic!("first")
        };
        let left = Arc::clone(&old.flight);
        drop(old);
        assert!(!flights.commit(&left), "nobody waits");
        let later = now + JOIN_WINDOW - Duration::from_millis(1);
        let successor = flights.board(payload(1), request("x"), later);
        assert!(matches!(successor, Boarding::First(_)));
        flights.land(&left, Landing::Abandoned, later);
        let copy = flights.board(payload(1), request("x"), later);
        assert!(matches!(copy, Boarding::Occupied), "{copy:?}");
        let copy = flights.board(payload(1), request("x"), now + JOIN_WINDOW * 2);
        assert!(matches!(copy, Boarding::Occupied), "swept: {copy:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_is_told_where_the_flight_is_at_its_deadline() {
        let (flights, now) = (Flights::default(), Instant::now());
        let Boarding::First(mut waiter) = flights.board(payload(1), request("x"), now) else {
            panic!("first")
        };
        let phase = waiter
            .landing(Instant::now() + Duration::from_secs(1))
            .await;
        assert!(matches!(phase, Phase::Verifying));
        assert!(flights.commit(&waiter.flight));
        let phase = waiter
            .landing(Instant::now() + Duration::from_secs(1))
            .await;
        assert!(matches!(phase, Phase::Settling));
    }
}
