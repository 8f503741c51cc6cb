//! The contract suite: what every backend must do, told once, in the port's words.
//!
//! [`holds`] runs every case, each on a fresh ledger with a clock that the case moves. A new backend
//! adds one test that calls it.

use super::Clock;
use crate::gate::{
    Booked, ClaimKey, ClaimOutcome, ClaimOwner, ClaimState, CreditScope, Ledger, NewClaim,
    PathRecord, Step, Total, Upkeep,
};
use crate::money::{Amount, TransferMethod};
use alloy_primitives::{Address, B256, U256};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Unix seconds at which every case begins.
pub(super) const START: i64 = 1_800_000_000;
pub(super) const LEASE: Duration = Duration::from_secs(30);
const WAITER: Duration = Duration::from_secs(25);
const BASE: u64 = 8453;

/// A clock that stands until it is moved.
#[derive(Debug, Clone)]
pub(super) struct Time(Arc<AtomicI64>);

/// A fresh ledger and its clock.
struct Fresh<L> {
    ledger: Arc<L>,
    time: Time,
}

impl Time {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(START * 1000)))
    }
    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.load(Ordering::SeqCst)).unwrap()
    }
    pub(super) fn pass(&self, duration: Duration) {
        let millis = i64::try_from(duration.as_millis()).unwrap();
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
    pub(super) fn clock(&self) -> Clock {
        let time = self.clone();
        Clock::new(move || time.now())
    }
}

impl<L: Ledger> Fresh<L> {
    async fn state(&self, nonce: u64) -> Option<ClaimState> {
        self.ledger
            .lookup(&key(nonce))
            .await
            .unwrap()
            .map(|row| row.state)
    }
    async fn claimed(&self, claim: &NewClaim) -> ClaimOwner {
        owner_of(&self.ledger.claim(claim).await.unwrap())
    }
    async fn settling(&self, claim: &NewClaim) -> ClaimOwner {
        let owner = self.claimed(claim).await;
        let step = self
            .ledger
            .begin_settle(&claim.key, owner, LEASE)
            .await
            .unwrap();
        assert_eq!(step, Step::Done);
        owner
    }
    async fn owed(&self, claim: &NewClaim, transaction: &str) -> ClaimOwner {
        let owner = self.settling(claim).await;
        let booked = self
            .ledger
            .book_settled(&claim.key, owner, transaction, WAITER)
            .await;
        assert_eq!(booked.unwrap(), Booked::Owed);
        owner
    }
    async fn answered(&self, claim: &NewClaim, transaction: &str) {
        let owner = self.owed(claim, transaction).await;
        assert_eq!(
            self.ledger.answer(&claim.key, owner).await.unwrap(),
            Step::Done
        );
    }
    async fn credit(&self, claim: &NewClaim, transaction: &str) -> ClaimOwner {
        let owner = self.owed(claim, transaction).await;
        assert_eq!(
            self.ledger.abandon(&claim.key, owner).await.unwrap(),
            Step::Done
        );
        owner
    }
    async fn upkeep(&self) -> Upkeep {
        self.ledger.upkeep(self.time.now()).await.unwrap()
    }
}

/// Runs every case.
pub(super) async fn holds<L: Ledger>(open: impl AsyncFn(Clock) -> L) {
    let fresh = async || {
        let time = Time::new();
        Fresh {
            ledger: Arc::new(open(time.clock()).await),
            time,
        }
    };
    a_key_nobody_claimed_is_not_there(fresh().await).await;
    a_claim_is_won_once(fresh().await).await;
    fifty_claims_at_once_have_one_winner(fresh().await).await;
    every_part_of_the_key_tells_payments_apart(fresh().await).await;
    a_paid_cycle_goes_through_every_state(fresh().await).await;
    a_step_from_another_state_or_owner_is_lost(fresh().await).await;
    a_claim_that_never_settles_is_answered_directly(fresh().await).await;
    an_expired_claim_is_released_and_has_a_new_owner(fresh().await).await;
    an_expired_settlement_is_unknown_and_never_claimed_again(fresh().await).await;
    late_news_of_its_owner_ends_an_expired_settlement(fresh().await).await;
    an_unknown_that_its_owner_declared_is_not_its_own_any_more(fresh().await).await;
    what_was_released_is_claimed_again_as_new(fresh().await).await;
    an_owed_row_is_a_credit_once_its_waiter_is_gone(fresh().await).await;
    a_joiner_answers_an_abandoned_row_unless_the_credit_was_spent(fresh().await).await;
    a_credit_is_spent_only_by_its_own_scope(fresh().await).await;
    the_old_authorisation_alone_gets_nothing(fresh().await).await;
    one_credit_is_spent_once_by_twenty_at_once(fresh().await).await;
    a_spent_credit_that_nobody_was_answered_with_is_given_back_once(fresh().await).await;
    an_unknown_stops_its_payer_and_route_until_it_is_over(fresh().await).await;
    an_unknown_that_becomes_known_stops_nobody(fresh().await).await;
    a_transaction_pays_for_one_payment(fresh().await).await;
    a_booking_may_be_repeated(fresh().await).await;
    final_rows_are_pruned_into_the_totals(fresh().await).await;
    unknown_and_owed_rows_are_never_pruned(fresh().await).await;
    a_booked_transaction_outlives_its_row(fresh().await).await;
    totals_are_kept_per_offer_and_asset_in_128_bits(fresh().await).await;
    thousands_of_rows_are_pruned_in_one_upkeep(fresh().await).await;
    paths_are_written_replaced_and_forgotten(fresh().await).await;
}

async fn a_key_nobody_claimed_is_not_there(f: Fresh<impl Ledger>) {
    assert_eq!(f.ledger.lookup(&key(1)).await.unwrap(), None);
    assert_eq!(
        f.ledger.answer(&key(1), ClaimOwner([0; 16])).await.unwrap(),
        Step::Lost
    );
}

async fn a_claim_is_won_once(f: Fresh<impl Ledger>) {
    f.claimed(&claim(1)).await;
    let mut copy = claim(1);
    copy.payload_hash = B256::repeat_byte(9);
    copy.scope.route = "/elsewhere".into();
    let ClaimOutcome::Taken(row) = f.ledger.claim(&copy).await.unwrap() else {
        panic!("a key was claimed twice (R8)")
    };
    assert_eq!(
        (row.state, row.payload_hash),
        (ClaimState::Claimed, claim(1).payload_hash)
    );
    assert_eq!(f.ledger.lookup(&key(1)).await.unwrap(), Some(row));
}

async fn fifty_claims_at_once_have_one_winner(f: Fresh<impl Ledger>) {
    let mut claims = JoinSet::new();
    for _ in 0..50 {
        let ledger = Arc::clone(&f.ledger);
        claims.spawn(async move { ledger.claim(&claim(1)).await.unwrap() });
    }
    let outcomes = claims.join_all().await;
    let won = outcomes
        .iter()
        .filter(|o| matches!(o, ClaimOutcome::Claimed(_)))
        .count();
    let taken = outcomes
        .iter()
        .filter(|o| matches!(o, ClaimOutcome::Taken(_)))
        .count();
    assert_eq!((won, taken), (1, 49));
}

async fn every_part_of_the_key_tells_payments_apart(f: Fresh<impl Ledger>) {
    let first = claim(1);
    f.claimed(&first).await;
    let changes: [fn(&mut ClaimKey); 5] = [
        |key| key.chain_id = 1,
        |key| key.method = TransferMethod::Permit2,
        |key| key.contract = Address::repeat_byte(0x77),
        |key| key.payer = Address::repeat_byte(0x78),
        |key| key.nonce = U256::MAX,
    ];
    for change in changes {
        let mut other = first.clone();
        change(&mut other.key);
        f.claimed(&other).await;
    }
}

async fn a_paid_cycle_goes_through_every_state(f: Fresh<impl Ledger>) {
    let (ledger, key) = (&f.ledger, key(1));
    let owner = f.claimed(&claim(1)).await;
    assert_eq!(f.state(1).await, Some(ClaimState::Claimed));
    assert_eq!(
        ledger.begin_settle(&key, owner, LEASE).await.unwrap(),
        Step::Done
    );
    assert_eq!(f.state(1).await, Some(ClaimState::Settling));
    let booked = ledger
        .book_settled(&key, owner, "0xAA", WAITER)
        .await
        .unwrap();
    assert_eq!(booked, Booked::Owed);
    let row = ledger.lookup(&key).await.unwrap().unwrap();
    assert_eq!(
        (row.state, row.transaction.as_deref()),
        (ClaimState::Owed, Some("0xaa"))
    );
    assert_eq!(ledger.answer(&key, owner).await.unwrap(), Step::Done);
    assert_eq!(f.state(1).await, Some(ClaimState::Answered));
    assert_eq!(ledger.answer(&key, owner).await.unwrap(), Step::Lost);
    let ClaimOutcome::Taken(row) = ledger.claim(&claim(1)).await.unwrap() else {
        panic!("an answered payment was claimed again (R8)")
    };
    assert_eq!(row.state, ClaimState::Answered);
}

async fn a_step_from_another_state_or_owner_is_lost(f: Fresh<impl Ledger>) {
    let stranger = ClaimOwner([7; 16]);
    let claimed = f.claimed(&claim(1)).await;
    let settling = f.settling(&claim(2)).await;
    let owed = f.owed(&claim(3), "0xc3").await;
    let answered = f.owed(&claim(4), "0xc4").await;
    f.ledger.answer(&key(4), answered).await.unwrap();
    let released = f.settling(&claim(5)).await;
    f.ledger.release(&key(5), released).await.unwrap();
    let rows = [
        // row, its owner, and which of the steps below it refuses to its own owner
        (1, claimed, [false, true, true, true, true, false]),
        (2, settling, [true, false, true, true, false, false]),
        (3, owed, [true, true, false, false, true, true]),
        (4, answered, [true; 6]),
        (5, released, [true; 6]),
    ];
    for (nonce, owner, refused) in rows {
        let before = f.ledger.lookup(&key(nonce)).await.unwrap();
        for (step, refused_to_owner) in refused.into_iter().enumerate() {
            assert!(
                lost(&*f.ledger, step, nonce, stranger).await,
                "step {step} of row {nonce}"
            );
            if refused_to_owner {
                assert!(
                    lost(&*f.ledger, step, nonce, owner).await,
                    "step {step} of row {nonce}"
                );
            }
        }
        assert_eq!(f.ledger.lookup(&key(nonce)).await.unwrap(), before);
    }
}

/// Whether the step with this number is refused.
async fn lost(ledger: &impl Ledger, step: usize, nonce: u64, owner: ClaimOwner) -> bool {
    let key = key(nonce);
    match step {
        0 => ledger.begin_settle(&key, owner, LEASE).await.unwrap() == Step::Lost,
        1 => {
            ledger
                .book_settled(&key, owner, "0xff", WAITER)
                .await
                .unwrap()
                == Booked::Lost
        }
        2 => ledger.answer(&key, owner).await.unwrap() == Step::Lost,
        3 => ledger.abandon(&key, owner).await.unwrap() == Step::Lost,
        4 => ledger.mark_unknown(&key, owner, None).await.unwrap() == Step::Lost,
        _ => ledger.release(&key, owner).await.unwrap() == Step::Lost,
    }
}

async fn a_claim_that_never_settles_is_answered_directly(f: Fresh<impl Ledger>) {
    let never = NewClaim {
        settles: false,
        ..claim(1)
    };
    let owner = f.claimed(&never).await;
    assert!(lost(&*f.ledger, 0, 1, owner).await);
    assert_eq!(f.ledger.answer(&key(1), owner).await.unwrap(), Step::Done);
    assert_eq!(f.state(1).await, Some(ClaimState::Answered));
    assert_eq!(f.ledger.totals().await.unwrap(), [], "nothing moved");
}

async fn an_expired_claim_is_released_and_has_a_new_owner(f: Fresh<impl Ledger>) {
    for (nonce, upkeep) in [(1, false), (2, true)] {
        let never = NewClaim {
            settles: nonce == 1,
            ..claim(nonce)
        };
        let first = f.claimed(&never).await;
        f.time.pass(LEASE - Duration::from_millis(1));
        assert_eq!(f.state(nonce).await, Some(ClaimState::Claimed));
        f.time.pass(Duration::from_millis(1));
        if upkeep {
            f.upkeep().await;
        }
        assert_eq!(f.state(nonce).await, Some(ClaimState::Released));
        for step in 0..6 {
            assert!(
                lost(&*f.ledger, step, nonce, first).await,
                "step {step} after its lease"
            );
        }
        let second = f.claimed(&claim(nonce)).await;
        assert_ne!(first, second);
        assert!(lost(&*f.ledger, 5, nonce, first).await);
        assert!(!lost(&*f.ledger, 5, nonce, second).await);
    }
}

async fn an_expired_settlement_is_unknown_and_never_claimed_again(f: Fresh<impl Ledger>) {
    let owner = f.settling(&claim(1)).await;
    f.time.pass(LEASE);
    for _ in 0..2 {
        assert_eq!(f.state(1).await, Some(ClaimState::Unknown));
        let ClaimOutcome::Taken(row) = f.ledger.claim(&claim(1)).await.unwrap() else {
            panic!("an unknown was claimed again (R10)")
        };
        assert_eq!(row.state, ClaimState::Unknown);
        assert!(lost(&*f.ledger, 0, 1, owner).await, "never re-sent");
        assert!(lost(&*f.ledger, 2, 1, owner).await);
        assert_eq!(f.upkeep().await.unknown, 1);
    }
}

async fn late_news_of_its_owner_ends_an_expired_settlement(f: Fresh<impl Ledger>) {
    for (nonce, upkeep) in [(1, false), (2, true)] {
        let booked = f.settling(&claim(nonce)).await;
        let refused = f.settling(&claim(nonce + 10)).await;
        f.time.pass(LEASE * 2);
        if upkeep {
            f.upkeep().await;
        }
        let late = f
            .ledger
            .book_settled(&key(nonce), booked, &format!("0xe{nonce}"), WAITER)
            .await;
        assert_eq!(late.unwrap(), Booked::Owed);
        assert_eq!(f.state(nonce).await, Some(ClaimState::Owed));
        assert_eq!(
            f.ledger.release(&key(nonce + 10), refused).await.unwrap(),
            Step::Done
        );
        assert_eq!(f.state(nonce + 10).await, Some(ClaimState::Released));
        assert_eq!(
            f.ledger.abandon(&key(nonce), booked).await.unwrap(),
            Step::Done
        );
        assert_eq!(
            f.ledger.answer(&key(nonce), booked).await.unwrap(),
            Step::Done
        );
    }
}

async fn an_unknown_that_its_owner_declared_is_not_its_own_any_more(f: Fresh<impl Ledger>) {
    let owner = f.settling(&claim(1)).await;
    assert_eq!(
        f.ledger
            .mark_unknown(&key(1), owner, Some("0xAB"))
            .await
            .unwrap(),
        Step::Done
    );
    let row = f.ledger.lookup(&key(1)).await.unwrap().unwrap();
    assert_eq!(
        (row.state, row.transaction.as_deref()),
        (ClaimState::Unknown, Some("0xab"))
    );
    for step in 0..6 {
        assert!(
            lost(&*f.ledger, step, 1, owner).await,
            "step {step} of an unknown (M7)"
        );
    }
    assert_eq!(f.ledger.totals().await.unwrap(), [], "named is not booked");
}

async fn what_was_released_is_claimed_again_as_new(f: Fresh<impl Ledger>) {
    let first = f.settling(&claim(1)).await;
    assert_eq!(f.ledger.release(&key(1), first).await.unwrap(), Step::Done);
    assert_eq!(f.state(1).await, Some(ClaimState::Released));
    let mut again = claim(1);
    again.payload_hash = B256::repeat_byte(0x55);
    let second = f.settling(&again).await;
    assert_ne!(first, second);
    let row = f.ledger.lookup(&key(1)).await.unwrap().unwrap();
    assert_eq!(
        (row.payload_hash, row.transaction),
        (again.payload_hash, None)
    );
    assert!(
        lost(&*f.ledger, 1, 1, first).await,
        "the first owner cannot book the second claim"
    );
}

async fn an_owed_row_is_a_credit_once_its_waiter_is_gone(f: Fresh<impl Ledger>) {
    f.owed(&claim(1), "0xc1").await;
    let paid = f.claimed(&claim(2)).await;
    assert_eq!(f.ledger.release(&key(2), paid).await.unwrap(), Step::Done);
    assert_eq!(f.upkeep().await.credits, 0, "somebody waits for it");
    f.time.pass(WAITER);
    assert_eq!(f.upkeep().await.credits, 1);
    let spent = f.ledger.claim(&claim(3)).await.unwrap();
    assert_eq!(credit_of(&spent), "0xc1");
    assert_eq!(f.state(1).await, Some(ClaimState::Answered));
    assert_eq!(f.state(3).await, Some(ClaimState::CreditSpent));
    assert_eq!(f.upkeep().await.credits, 0);
    let ClaimOutcome::Taken(row) = f.ledger.claim(&claim(3)).await.unwrap() else {
        panic!("credit_spent is final (M3)")
    };
    assert_eq!(row.state, ClaimState::CreditSpent);
    f.claimed(&claim(4)).await;
    let totals = f.ledger.totals().await.unwrap();
    assert_eq!(
        totals.iter().map(|total| total.count).sum::<u64>(),
        1,
        "charged once"
    );
}

async fn a_joiner_answers_an_abandoned_row_unless_the_credit_was_spent(f: Fresh<impl Ledger>) {
    let owner = f.credit(&claim(1), "0xc1").await;
    assert_eq!(
        f.ledger.answer(&key(1), owner).await.unwrap(),
        Step::Done,
        "the join of M5"
    );
    let owner = f.credit(&claim(2), "0xc2").await;
    let spent = f.ledger.claim(&claim(3)).await.unwrap();
    assert_eq!(credit_of(&spent), "0xc2");
    assert_eq!(
        f.ledger.answer(&key(2), owner).await.unwrap(),
        Step::Lost,
        "one answer (R8)"
    );
}

async fn a_credit_is_spent_only_by_its_own_scope(f: Fresh<impl Ledger>) {
    f.credit(&claim(1), "0xc1").await;
    let changes: [fn(&mut NewClaim); 6] = [
        |claim| claim.scope.payer = Address::repeat_byte(0x31),
        |claim| claim.scope.route = "/b".into(),
        |claim| claim.scope.chain_id = 1,
        |claim| claim.scope.asset = Address::repeat_byte(0x32),
        |claim| claim.scope.amount = Amount(1001),
        |claim| claim.may_spend_credit = false,
    ];
    for (nonce, change) in (10..).zip(changes) {
        let mut other = claim(nonce);
        change(&mut other);
        f.claimed(&other).await;
    }
    f.time.pass(Duration::from_secs(1));
    f.credit(
        &NewClaim {
            may_spend_credit: false,
            ..claim(2)
        },
        "0xc2",
    )
    .await;
    for transaction in ["0xc1", "0xc2"] {
        let spent = f
            .ledger
            .claim(&claim(if transaction == "0xc1" { 20 } else { 21 }))
            .await;
        assert_eq!(credit_of(&spent.unwrap()), transaction);
    }
    f.claimed(&claim(22)).await;
}

async fn the_old_authorisation_alone_gets_nothing(f: Fresh<impl Ledger>) {
    f.credit(&claim(1), "0xc1").await;
    let ClaimOutcome::Taken(row) = f.ledger.claim(&claim(1)).await.unwrap() else {
        panic!("a public authorisation was worth something (M6)")
    };
    assert_eq!(row.state, ClaimState::Owed);
}

async fn one_credit_is_spent_once_by_twenty_at_once(f: Fresh<impl Ledger>) {
    f.credit(&claim(1), "0xc1").await;
    let mut claims = JoinSet::new();
    for nonce in 100..120 {
        let ledger = Arc::clone(&f.ledger);
        claims.spawn(async move { ledger.claim(&claim(nonce)).await.unwrap() });
    }
    let outcomes = claims.join_all().await;
    let spent = outcomes
        .iter()
        .filter(|o| matches!(o, ClaimOutcome::CreditSpent { .. }))
        .count();
    let claimed = outcomes
        .iter()
        .filter(|o| matches!(o, ClaimOutcome::Claimed(_)))
        .count();
    assert_eq!((spent, claimed), (1, 19));
}

/// M6: money that was paid is not lost with the payment that was to spend it.
async fn a_spent_credit_that_nobody_was_answered_with_is_given_back_once(f: Fresh<impl Ledger>) {
    f.credit(&claim(1), "0xc1").await;
    let spent = f.ledger.claim(&claim(2)).await.unwrap();
    let ClaimOutcome::CreditSpent { owner, .. } = spent else {
        panic!("{spent:?}")
    };
    let abandon = async |owner| f.ledger.abandon(&key(2), owner).await.unwrap();
    assert_eq!(abandon(ClaimOwner([0xfe; 16])).await, Step::Lost);
    assert_eq!(f.state(1).await, Some(ClaimState::Answered));
    assert_eq!(abandon(owner).await, Step::Done);
    assert_eq!(f.state(1).await, Some(ClaimState::Owed));
    assert_eq!(f.state(2).await, Some(ClaimState::Released));
    assert_eq!(f.upkeep().await.credits, 1);
    let again = f.ledger.claim(&claim(2)).await.unwrap();
    assert_eq!(credit_of(&again), "0xc1");
    assert_eq!(abandon(owner).await, Step::Lost, "a repetition (R8)");
    assert_eq!(f.state(1).await, Some(ClaimState::Answered));
}

async fn an_unknown_stops_its_payer_and_route_until_it_is_over(f: Fresh<impl Ledger>) {
    let owner = f.settling(&claim(1)).await;
    f.ledger.mark_unknown(&key(1), owner, None).await.unwrap();
    let stopped = f.ledger.claim(&claim(2)).await.unwrap();
    assert_eq!(stopped, ClaimOutcome::UnknownOutstanding);
    assert_eq!(f.state(2).await, None, "nothing was written");
    let mut elsewhere = claim(4);
    elsewhere.scope.route = "/b".into();
    f.claimed(&elsewhere).await;
    let mut other_payer = claim(5);
    other_payer.scope.payer = Address::repeat_byte(0x31);
    f.claimed(&other_payer).await;
    f.claimed(&NewClaim {
        settles: false,
        ..claim(6)
    })
    .await;
    // validBefore is 600 s after the start, and the margin 300 s.
    f.time.pass(Duration::from_secs(900));
    let stopped = f.ledger.claim(&later_claim(7)).await.unwrap();
    assert_eq!(stopped, ClaimOutcome::UnknownOutstanding);
    f.time.pass(Duration::from_secs(1));
    f.claimed(&later_claim(7)).await;
    assert_eq!(
        f.state(1).await,
        Some(ClaimState::Unknown),
        "over is no proof (M7)"
    );
}

async fn an_unknown_that_becomes_known_stops_nobody(f: Fresh<impl Ledger>) {
    let owner = f.settling(&claim(1)).await;
    f.time.pass(LEASE);
    let stopped = f.ledger.claim(&claim(2)).await.unwrap();
    assert_eq!(
        stopped,
        ClaimOutcome::UnknownOutstanding,
        "an expired settlement is unknown"
    );
    f.ledger
        .book_settled(&key(1), owner, "0xc1", Duration::ZERO)
        .await
        .unwrap();
    let spent = f.ledger.claim(&claim(2)).await.unwrap();
    assert_eq!(credit_of(&spent), "0xc1");
}

async fn a_transaction_pays_for_one_payment(f: Fresh<impl Ledger>) {
    f.answered(&claim(1), "0xABCD").await;
    let second = f.settling(&claim(2)).await;
    let booked = f
        .ledger
        .book_settled(&key(2), second, "0xabcd", WAITER)
        .await
        .unwrap();
    assert_eq!(booked, Booked::DuplicateTransaction);
    assert_eq!(f.state(2).await, Some(ClaimState::Unknown));
    assert!(
        lost(&*f.ledger, 2, 2, second).await,
        "one transaction, one answer (M3)"
    );
    let mut other_chain = claim(3);
    other_chain.key.chain_id = 1;
    other_chain.scope.chain_id = 1;
    other_chain.scope.route = "/b".into();
    f.answered(&other_chain, "0xabcd").await;
}

async fn a_booking_may_be_repeated(f: Fresh<impl Ledger>) {
    let owner = f.owed(&claim(1), "0xc1").await;
    let again = f
        .ledger
        .book_settled(&key(1), owner, "0xC1", WAITER)
        .await
        .unwrap();
    assert_eq!(
        again,
        Booked::Owed,
        "the reply of the first may have been late"
    );
    let other = f
        .ledger
        .book_settled(&key(1), owner, "0xc2", WAITER)
        .await
        .unwrap();
    assert_eq!(other, Booked::Lost);
    assert_eq!(f.ledger.totals().await.unwrap()[0].count, 1);
}

async fn final_rows_are_pruned_into_the_totals(f: Fresh<impl Ledger>) {
    f.answered(&claim(1), "0xc1").await;
    f.credit(&claim(2), "0xc2").await;
    f.ledger.claim(&claim(3)).await.unwrap();
    f.claimed(&claim(4)).await;
    let never = NewClaim {
        settles: false,
        ..claim(5)
    };
    let owner = f.claimed(&never).await;
    f.ledger.answer(&key(5), owner).await.unwrap();
    let before = f.ledger.totals().await.unwrap();
    assert_eq!(before, [total("offer", 2, 2000)]);
    f.time.pass(Duration::from_secs(600 + 3600));
    assert_eq!(f.upkeep().await.pruned, 0, "the margin is an hour");
    f.time.pass(Duration::from_secs(1));
    assert_eq!(f.upkeep().await.pruned, 5);
    assert_eq!(f.state(1).await, None);
    assert_eq!(f.ledger.totals().await.unwrap(), before);
    assert_eq!(f.upkeep().await, Upkeep::default());
    f.answered(&later_claim(6), "0xc6").await;
    let after = f.ledger.totals().await.unwrap();
    let last_success = u64::try_from(f.time.now().as_second()).unwrap();
    assert_eq!(
        after,
        [Total {
            last_success,
            ..total("offer", 3, 3000)
        }]
    );
}

async fn unknown_and_owed_rows_are_never_pruned(f: Fresh<impl Ledger>) {
    f.owed(&claim(1), "0xc1").await;
    let mut elsewhere = claim(2);
    elsewhere.scope.route = "/b".into();
    let owner = f.settling(&elsewhere).await;
    f.ledger.mark_unknown(&key(2), owner, None).await.unwrap();
    let mut abandoned = claim(3);
    abandoned.scope.route = "/c".into();
    f.settling(&abandoned).await;
    f.time.pass(Duration::from_secs(365 * 86400));
    assert_eq!(
        f.upkeep().await,
        Upkeep {
            unknown: 2,
            credits: 1,
            pruned: 0
        }
    );
    assert_eq!(f.state(1).await, Some(ClaimState::Owed));
    assert_eq!(f.state(2).await, Some(ClaimState::Unknown));
    assert_eq!(f.state(3).await, Some(ClaimState::Unknown));
}

async fn a_booked_transaction_outlives_its_row(f: Fresh<impl Ledger>) {
    f.answered(&claim(1), "0xc1").await;
    f.time.pass(Duration::from_secs(86400));
    assert_eq!(f.upkeep().await.pruned, 1);
    let owner = f.settling(&later_claim(2)).await;
    let booked = f
        .ledger
        .book_settled(&key(2), owner, "0xC1", WAITER)
        .await
        .unwrap();
    assert_eq!(booked, Booked::DuplicateTransaction);
}

async fn totals_are_kept_per_offer_and_asset_in_128_bits(f: Fresh<impl Ledger>) {
    let large = u128::from(u64::MAX) * 1_000_000;
    for (nonce, name) in [(1, "a"), (2, "b"), (3, "b")] {
        let mut claim = claim(nonce);
        claim.offer = ("shop".into(), name.into());
        claim.scope.amount = Amount(large);
        f.answered(&claim, &format!("0xc{nonce}")).await;
    }
    let expected = [total("a", 1, large), total("b", 2, 2 * large)];
    assert_eq!(f.ledger.totals().await.unwrap(), expected);
    f.time.pass(Duration::from_secs(86400));
    f.upkeep().await;
    assert_eq!(f.ledger.totals().await.unwrap(), expected);
}

async fn thousands_of_rows_are_pruned_in_one_upkeep(f: Fresh<impl Ledger>) {
    let mut claims = JoinSet::new();
    for nonce in 0..2100 {
        let ledger = Arc::clone(&f.ledger);
        claims.spawn(async move {
            let never = NewClaim {
                settles: false,
                ..claim(nonce)
            };
            // More than the queue holds: those that find no room come back.
            loop {
                if let Ok(outcome) = ledger.claim(&never).await {
                    break owner_of(&outcome);
                }
                tokio::task::yield_now().await;
            }
        });
    }
    claims.join_all().await;
    f.time.pass(Duration::from_secs(86400));
    assert_eq!(
        f.upkeep().await,
        Upkeep {
            unknown: 0,
            credits: 0,
            pruned: 2100
        }
    );
}

async fn paths_are_written_replaced_and_forgotten(f: Fresh<impl Ledger>) {
    let path = |pattern: &str, closed_at: Option<Timestamp>| PathRecord {
        host: None,
        pattern: pattern.into(),
        namespace: "shop".into(),
        name: "offer".into(),
        uid: "".into(),
        base: "/a".into(),
        closed_at,
    };
    assert_eq!(f.ledger.paths().await.unwrap(), []);
    let closed = f.time.now() + SignedDuration::from_nanos(7);
    let hosted = PathRecord {
        host: Some("a.example".into()),
        ..path("/a/*", None)
    };
    let first = [
        path("/a/*", None),
        path("/b/*", Some(closed)),
        hosted.clone(),
    ];
    f.ledger.save_paths(&first, &[]).await.unwrap();
    let mut expected = first.to_vec();
    expected.sort();
    assert_eq!(sorted(f.ledger.paths().await.unwrap()), expected);

    let closing = path("/a/*", Some(closed));
    let moved = PathRecord {
        base: "/".into(),
        ..hosted.clone()
    };
    // Forgotten first, written then: what is in both lists stays (R4).
    f.ledger
        .save_paths(
            &[closing.clone(), moved.clone()],
            &[first[1].clone(), hosted],
        )
        .await
        .unwrap();
    let mut expected = vec![closing, moved];
    expected.sort();
    assert_eq!(sorted(f.ledger.paths().await.unwrap()), expected);
    f.ledger.save_paths(&[], &expected).await.unwrap();
    assert_eq!(f.ledger.paths().await.unwrap(), []);
}

fn sorted(mut records: Vec<PathRecord>) -> Vec<PathRecord> {
    records.sort();
    records
}

fn total(name: &str, count: u64, amount: u128) -> Total {
    Total {
        namespace: "shop".into(),
        name: name.into(),
        chain_id: BASE,
        asset: Address::repeat_byte(0xaa),
        count,
        amount,
        last_success: u64::try_from(START).unwrap(),
    }
}

/// The transaction of the credit that was spent.
pub(super) fn credit_of(outcome: &ClaimOutcome) -> &str {
    match outcome {
        ClaimOutcome::CreditSpent { transaction, .. } => transaction,
        other @ (ClaimOutcome::Claimed(_)
        | ClaimOutcome::Taken(_)
        | ClaimOutcome::UnknownOutstanding) => panic!("no credit was spent: {other:?}"),
    }
}

pub(super) fn owner_of(outcome: &ClaimOutcome) -> ClaimOwner {
    let ClaimOutcome::Claimed(owner) = *outcome else {
        panic!("not claimed: {outcome:?}")
    };
    owner
}

pub(super) fn key(nonce: u64) -> ClaimKey {
    ClaimKey {
        chain_id: BASE,
        method: TransferMethod::Eip3009,
        contract: Address::repeat_byte(0xaa),
        payer: Address::repeat_byte(0x11),
        nonce: U256::from(nonce),
    }
}

/// A claim of 1000 units for `/a`, valid for 600 s after [`START`].
pub(super) fn claim(nonce: u64) -> NewClaim {
    NewClaim {
        key: key(nonce),
        payload_hash: B256::from(U256::from(nonce + 1_000_000)),
        scope: CreditScope {
            payer: Address::repeat_byte(0x11),
            route: "/a".into(),
            chain_id: BASE,
            asset: Address::repeat_byte(0xaa),
            amount: Amount(1000),
        },
        pay_to: Address::repeat_byte(0x22),
        offer: ("shop".into(), "offer".into()),
        valid_before: START + 600,
        settles: true,
        lease: LEASE,
        may_spend_credit: true,
    }
}

/// A claim that is valid when those of [`claim`] are long over.
fn later_claim(nonce: u64) -> NewClaim {
    NewClaim {
        valid_before: START + 10 * 86400,
        ..claim(nonce)
    }
}
