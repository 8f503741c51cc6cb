//! Room for payments in flight: permits per facilitator and offer, the small lane, verify rates (M12).
//!
//! A payment takes its permits before verify and gives them back when its flight ends. What has no
//! room is 503 `busy`: a flood of nonsense signatures fills only the small lane, a loud payer or
//! offer only its own bucket. State is one mutex touched on the paid path alone; maps hold only
//! keys in flight or ahead of their rate, so they are bounded by traffic.

use crate::table::Limits;
use alloy_primitives::Address;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// All lanes of a gate.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    facilitators: HashMap<Arc<str>, usize>,
    offers: HashMap<OfferKey, usize>,
    unrecovered: usize,
    /// When each payer's (offer's) verifies so far will have been paid off at its rate.
    payer_rates: HashMap<Address, Instant>,
    /// Apart for signatures that do not recover: nonsense must not spend the rate of the others.
    offer_rates: HashMap<(OfferKey, bool), Instant>,
    swept: Option<Instant>,
}

/// An offer as lanes know it: namespace and name.
pub(super) type OfferKey = (Arc<str>, Arc<str>);

/// Room taken; given back on drop.
#[derive(Debug)]
pub(super) struct Room {
    lanes: Arc<Lanes>,
    facilitator: Arc<str>,
    offer: OfferKey,
    recovers: bool,
}

/// What is asked of the lanes for one payment.
#[derive(Debug)]
pub(super) struct Claimant<'a> {
    pub(super) facilitator: &'a Arc<str>,
    pub(super) offer: OfferKey,
    pub(super) payer: Address,
    pub(super) recovers: bool,
    pub(super) limits: &'a Limits,
}

/// Which bound was hit; the detail of `busy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRoom {
    #[error("the facilitator has its share of payments in flight")]
    Facilitator,
    #[error("this offer has its share of payments in flight")]
    Offer,
    #[error("too many payments with signatures that are not plain wallets' are in flight")]
    Unrecovered,
    #[error("this payer asks for verification too often")]
    PayerRate,
    #[error("this offer is asked for verification too often")]
    OfferRate,
}

impl Lanes {
    /// Takes all that one payment needs, or nothing.
    pub(super) fn enter(
        self: &Arc<Self>,
        claimant: Claimant<'_>,
        now: Instant,
    ) -> Result<Room, NoRoom> {
        let limits = claimant.limits;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.sweep(now);
        let used = |map: &HashMap<Arc<str>, usize>, key| map.get(key).copied().unwrap_or(0);
        if used(&state.facilitators, claimant.facilitator) >= limits.permits_per_facilitator {
            return Err(NoRoom::Facilitator);
        }
        if state.offers.get(&claimant.offer).copied().unwrap_or(0) >= limits.permits_per_offer {
            return Err(NoRoom::Offer);
        }
        if !claimant.recovers && state.unrecovered >= limits.permits_unrecovered {
            return Err(NoRoom::Unrecovered);
        }
        // A payer is proven only by its signature: nonsense must not spend another's rate.
        if claimant.recovers
            && !take(
                &mut state.payer_rates,
                claimant.payer,
                limits.verify_rate_per_payer,
                now,
            )
        {
            return Err(NoRoom::PayerRate);
        }
        let offer = claimant.offer;
        if !take(
            &mut state.offer_rates,
            (offer.clone(), claimant.recovers),
            limits.verify_rate_per_offer,
            now,
        ) {
            return Err(NoRoom::OfferRate);
        }
        *state
            .facilitators
            .entry(Arc::clone(claimant.facilitator))
            .or_default() += 1;
        *state.offers.entry(offer.clone()).or_default() += 1;
        if !claimant.recovers {
            state.unrecovered += 1;
        }
        drop(state);
        Ok(Room {
            lanes: Arc::clone(self),
            facilitator: Arc::clone(claimant.facilitator),
            offer,
            recovers: claimant.recovers,
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut state = self
            .lanes
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        give_back(&mut state.facilitators, &self.facilitator);
        give_back(&mut state.offers, &self.offer);
        if !self.recovers {
            state.unrecovered = state.unrecovered.saturating_sub(1);
        }
    }
}

impl State {
    /// Forgets rates that are paid off, once a second.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_none_or(|at| now.duration_since(at) >= BURST) {
            self.swept = Some(now);
            self.payer_rates.retain(|_, paid_off| *paid_off > now);
            self.offer_rates.retain(|_, paid_off| *paid_off > now);
        }
    }
}

/// How far ahead of its rate a payer or offer may run.
const BURST: Duration = Duration::from_secs(1);

/// Generic cell rate algorithm: every call costs `1 s / rate`, at most [`BURST`] is owed.
fn take<K: Hash + Eq>(map: &mut HashMap<K, Instant>, key: K, rate: u32, now: Instant) -> bool {
    let cost = BURST / rate.max(1);
    let paid_off = map.get(&key).map_or(now, |at| (*at).max(now)) + cost;
    let enough = paid_off <= now + BURST;
    if enough {
        map.insert(key, paid_off);
    }
    enough
}

fn give_back<K: Hash + Eq>(map: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = map.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimant<'a>(limits: &'a Limits, facilitator: &'a Arc<str>, recovers: bool) -> Claimant<'a> {
        Claimant {
            facilitator,
            offer: ("ns".into(), "name".into()),
            payer: Address::repeat_byte(7),
            recovers,
            limits,
        }
    }

    #[test]
    fn m12_permits_are_bounded_and_given_back() {
        let limits = Limits {
            permits_per_offer: 2,
            ..Limits::default()
        };
        let (lanes, facilitator) = (Arc::new(Lanes::default()), "https://f".into());
        let now = Instant::now();
        let first = lanes
            .enter(claimant(&limits, &facilitator, true), now)
            .unwrap();
        let _second = lanes
            .enter(claimant(&limits, &facilitator, true), now)
            .unwrap();
        let third = lanes.enter(claimant(&limits, &facilitator, true), now);
        assert_eq!(third.unwrap_err(), NoRoom::Offer);
        drop(first);
        assert!(
            lanes
                .enter(claimant(&limits, &facilitator, true), now)
                .is_ok()
        );
    }

    #[test]
    fn m12_signatures_that_do_not_recover_fill_only_the_small_lane() {
        let limits = Limits {
            permits_unrecovered: 1,
            ..Limits::default()
        };
        let (lanes, facilitator) = (Arc::new(Lanes::default()), "https://f".into());
        let now = Instant::now();
        let _nonsense = lanes
            .enter(claimant(&limits, &facilitator, false), now)
            .unwrap();
        let more = lanes.enter(claimant(&limits, &facilitator, false), now);
        assert_eq!(more.unwrap_err(), NoRoom::Unrecovered);
        assert!(
            lanes
                .enter(claimant(&limits, &facilitator, true), now)
                .is_ok()
        );
    }

    #[test]
    fn m12_verify_is_rate_limited_per_payer_and_refills() {
        let limits = Limits {
            verify_rate_per_payer: 2,
            ..Limits::default()
        };
        let (lanes, facilitator) = (Arc::new(Lanes::default()), "https://f".into());
        let now = Instant::now();
        for _ in 0..2 {
            assert!(
                lanes
                    .enter(claimant(&limits, &facilitator, true), now)
                    .is_ok()
            );
        }
        let third = lanes.enter(claimant(&limits, &facilitator, true), now);
        assert_eq!(third.unwrap_err(), NoRoom::PayerRate);
        let later = now + Duration::from_millis(600);
        assert!(
            lanes
                .enter(claimant(&limits, &facilitator, true), later)
                .is_ok()
        );
    }

    #[test]
    fn m12_nonsense_does_not_spend_the_rate_of_an_offer() {
        let limits = Limits {
            verify_rate_per_offer: 1,
            ..Limits::default()
        };
        let (lanes, facilitator) = (Arc::new(Lanes::default()), "https://f".into());
        let now = Instant::now();
        let enter = |recovers| lanes.enter(claimant(&limits, &facilitator, recovers), now);
        assert!(enter(false).is_ok());
        assert_eq!(enter(false).unwrap_err(), NoRoom::OfferRate);
        assert!(enter(true).is_ok());
        assert_eq!(enter(true).unwrap_err(), NoRoom::OfferRate);
    }

    #[test]
    fn maps_hold_nothing_when_nothing_is_in_flight() {
        let limits = Limits::default();
        let (lanes, facilitator) = (Arc::new(Lanes::default()), "https://f".into());
        let now = Instant::now();
        drop(
            lanes
                .enter(claimant(&limits, &facilitator, false), now)
                .unwrap(),
        );
        drop(
            lanes
                .enter(
                    claimant(&limits, &facilitator, true),
                    now + Duration::from_secs(5),
                )
                .unwrap(),
        );
        let state = lanes.state.lock().unwrap();
        assert!(state.facilitators.is_empty() && state.offers.is_empty());
        assert_eq!(state.unrecovered, 0);
        assert!(state.payer_rates.len() <= 1);
    }
}
