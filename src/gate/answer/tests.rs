//! The money rules where only one process can show them: time, hanging up, failing in between.

use super::fakes::{Dice, Told, World, invalid, settle_failed};
use super::*;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

const AT_ONCE: Duration = Duration::ZERO;

/// How an outcome reads in an assertion.
fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Admit(permit) => match permit.settled {
            Settled::Before => "paid",
            Settled::ByCredit => "credit",
            Settled::Never => "never",
        },
        Outcome::Free(_)
        | Outcome::Challenge(_)
        | Outcome::PaymentRefused(_)
        | Outcome::SettlementRejected(_)
        | Outcome::Refused(_)
        | Outcome::Unavailable(_)
        | Outcome::Withdrawn(_) => outcome.reason().map_or("free", Reason::as_str),
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn m1_one_payment_is_one_answer_and_one_settle() {
    let world = World::new(None);
    let payment = world.payment(1);
    let (first, copy) = tokio::join!(world.ask(&payment), world.ask(&payment));
    let mut words = [word(&first), word(&copy)];
    words.sort_unstable();
    assert_eq!(words, ["paid", "payment_in_use"]);
    assert_eq!(word(&world.ask(&payment).await), "payment_used");
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(word(&world.ask(&payment).await), "payment_used");
    assert_eq!(world.settles(), 1);
}

/// R10, M1: the waiter is told at once, and nothing of the flight stays behind.
#[tokio::test(start_paused = true)]
async fn r10_a_job_that_dies_lands_its_flight() {
    let world = World::new(None);
    world.script.settle.lock().unwrap().push_back(Told::Panic);
    let began = tokio::time::Instant::now();
    let payment = world.payment(1);
    assert_eq!(word(&world.ask(&payment).await), "settlement_unknown");
    assert_eq!(began.elapsed(), AT_ONCE, "not at the deadline");
    world.rest().await;
    tokio::time::sleep(seconds(60)).await;
    let later = word(&world.ask(&payment).await);
    assert_eq!(later, "settlement_unknown", "the ledger is asked again");
    assert_eq!(world.upkeep().await.unknown, 1, "and visible");
    assert_eq!(world.settles(), 1);
}

/// M6, M8: from the deadline of the answer on the settlement is unknown to its payer.
#[tokio::test(start_paused = true)]
async fn m6_a_payment_after_an_overdue_answer_waits_for_the_first() {
    let world = World::new(None);
    let slow = Told::Settle(seconds(60));
    world.script.settle.lock().unwrap().push_back(slow);
    let began = tokio::time::Instant::now();
    let outcome = world.ask(&world.payment(1)).await;
    assert_eq!(word(&outcome), "settlement_unknown");
    assert_eq!(began.elapsed(), seconds(25));
    tokio::time::sleep(seconds(5)).await;
    let outcome = world.ask(&world.payment(2)).await;
    assert_eq!(word(&outcome), "settlement_unknown");
    assert_eq!(world.settles(), 1, "R9: not charged twice for our trouble");
    tokio::time::sleep(seconds(40)).await;
    world.rest().await;
    assert_eq!(word(&world.ask(&world.payment(3)).await), "credit");
    assert_eq!(world.settles(), 1);
}

/// R9, M6: what was charged and not answered is credit at once, not when a lease ends.
#[tokio::test(start_paused = true)]
async fn m6_an_answer_that_cannot_be_committed_is_a_credit_at_once() {
    let world = World::new(None);
    world.way.failing.lock().unwrap().push("answer");
    let outcome = world.ask(&world.payment(1)).await;
    assert_eq!(word(&outcome), "ledger_unavailable");
    world.way.failing.lock().unwrap().clear();
    world.rest().await;
    assert_eq!(word(&world.ask(&world.payment(2)).await), "credit");
    assert_eq!(world.settles(), 1);
}

/// M6, R10: a credit is not lost with the client of the payment that was to spend it.
#[tokio::test(start_paused = true)]
async fn m6_a_credit_spent_for_nobody_is_given_back() {
    for seed in 0..60 {
        let dice = Dice::new(seed);
        let world = World::new(Some(Arc::clone(&dice)));
        let patience = Duration::from_millis(dice.roll(150));
        let slow = Told::Settle(seconds(1));
        world.script.settle.lock().unwrap().push_back(slow);
        let payment = world.payment(1);
        let cut = tokio::time::timeout(seconds(1), world.ask(&payment));
        assert!(cut.await.is_err());
        world.rest().await;
        assert_eq!(world.upkeep().await.credits, 1, "seed {seed}");
        let payment = world.payment(2);
        let answered = tokio::time::timeout(patience, world.ask(&payment)).await;
        world.rest().await;
        let credits = u64::from(answered.is_err());
        assert_eq!(world.upkeep().await.credits, credits, "seed {seed}");
        let next = world.ask(&world.payment(3)).await;
        let expected = if answered.is_err() { "credit" } else { "paid" };
        assert_eq!(word(&next), expected, "seed {seed}");
    }
}

/// R9: a known end is told, whatever the ledger can write of it.
#[tokio::test(start_paused = true)]
async fn r9_a_ledger_that_cannot_release_holds_no_answer_back() {
    let world = World::new(None);
    let refused = Told::Say(AT_ONCE, settle_failed("insufficient_funds", ""));
    world.script.settle.lock().unwrap().push_back(refused);
    world.way.failing.lock().unwrap().push("release");
    let began = tokio::time::Instant::now();
    let payment = world.payment(1);
    assert_eq!(word(&world.ask(&payment).await), "settlement_rejected");
    assert_eq!(began.elapsed(), AT_ONCE);
    world.way.failing.lock().unwrap().clear();
    world.rest().await;
    assert_eq!(word(&world.ask(&payment).await), "paid", "released since");
}

/// M8: no settle starts with less than the floor left.
#[tokio::test(start_paused = true)]
async fn m8_the_floor_is_kept_and_the_payment_stays_good() {
    let world = World::new(None);
    let payment = world.payment(1);
    let arrived = monotonic();
    tokio::time::sleep(seconds(18)).await;
    let table = world.gate.table().unwrap();
    let facts = Facts {
        method: "GET",
        host: None,
        authority: "",
        scheme: "https",
        target: crate::route::Target::parse("/paid/x", None).unwrap(),
        pin: None,
        preflight: false,
        proven_ingress: false,
        forwarded_for: "",
    };
    let request = Request {
        facts,
        headers: &payment,
        arrived,
    };
    assert_eq!(word(&world.gate.answer(&table, &request).await), "busy");
    assert_eq!(world.settles(), 0);
    assert_eq!(word(&world.ask(&payment).await), "paid");
}

/// M4: what a facilitator says of itself is not the payer's fault, and not remembered.
#[tokio::test(start_paused = true)]
async fn r9_a_verify_that_failed_at_the_facilitator_has_no_challenge() {
    let world = World::new(None);
    let says = |reason| {
        world
            .script
            .verify
            .lock()
            .unwrap()
            .push_back(invalid(reason));
    };
    let payment = world.payment(1);
    says("unexpected_verify_error");
    let outcome = world.ask(&payment).await;
    assert_eq!(word(&outcome), "facilitator_error");
    assert!(matches!(outcome, Outcome::Unavailable(_)));
    assert_eq!(word(&world.ask(&payment).await), "paid");

    let payment = world.payment(2);
    says("invalid_exact_evm_nonce_already_used");
    for time in ["first", "remembered"] {
        let outcome = world.ask(&payment).await;
        assert!(matches!(outcome, Outcome::Refused(_)), "{time}");
        assert_eq!(word(&outcome), "payment_used", "{time}");
    }
    assert_eq!(world.script.verifies.load(Ordering::SeqCst), 3);
}

/// M4, M7: a transaction that was named once is kept with the unknown.
#[tokio::test(start_paused = true)]
async fn m7_a_pending_transaction_is_kept() {
    let world = World::new(None);
    let hash = format!("0x{}", "7".repeat(64));
    let pending = Told::Say(AT_ONCE, settle_failed("settlement_pending", &hash));
    let lost = Told::Say(AT_ONCE, settle_failed("unexpected_settle_error", ""));
    world.script.settle.lock().unwrap().extend([pending, lost]);
    let payment = world.payment(1);
    assert_eq!(word(&world.ask(&payment).await), "settlement_unknown");
    assert_eq!(world.settles(), 2);
    let read = x402::read_payment(&payment, 16_384).unwrap().unwrap();
    let x402::Authorization::Eip3009 { from, nonce, .. } = read.authorization else {
        panic!("EIP-3009")
    };
    let table = world.tables.load_full();
    let requirement = &table.routes().next().unwrap().requirements[0];
    let key = crate::gate::ClaimKey {
        chain_id: 84_532,
        method: crate::money::TransferMethod::Eip3009,
        contract: requirement.asset.address,
        payer: from,
        nonce: nonce.into(),
    };
    let row = world.way.store.lookup(&key).await.unwrap().unwrap();
    assert_eq!(row.state, ClaimState::Unknown);
    assert_eq!(row.transaction, Some(hash));
}

/// M10: nothing is settled, and one payment is still one answer, whoever hangs up.
#[tokio::test(start_paused = true)]
async fn m10_never_answers_once_also_when_clients_hang_up() {
    for seed in 0..60 {
        let dice = Dice::new(seed);
        let world = World::new(Some(Arc::clone(&dice)));
        let payment = world.payment(1);
        let ask = || world.ask_for("/never/x", &payment);
        let patience = Duration::from_millis(dice.roll(120));
        let cut = tokio::time::timeout(patience, ask()).await;
        let cut = cut.as_ref().map_or("cut", word);
        world.rest().await;
        // A claim that was about to be answered is protected until its lease ends.
        tokio::time::sleep(seconds(31)).await;
        let again = word(&ask().await);
        let expected = if cut == "cut" {
            "never"
        } else {
            "payment_used"
        };
        assert_eq!(again, expected, "seed {seed}: first {cut}");
        assert_eq!(world.settles(), 0);
    }
}

/// One random history: two copies and a second payment of one payer, each of which may hang up at
/// any time, over a slow ledger and a facilitator of moods.
async fn history(seed: u64) {
    let dice = Dice::new(seed);
    let world = World::new(Some(Arc::clone(&dice)));
    for _ in 0..4 {
        let after = Duration::from_millis(dice.roll(60));
        let told = match dice.roll(8) {
            0 => Told::Say(after, settle_failed("insufficient_funds", "")),
            1 => Told::Say(after, settle_failed("settlement_pending", "")),
            2 => Told::Say(after, settle_failed("unexpected_settle_error", "")),
            3 => Told::Settle(seconds(20 + dice.roll(20))),
            _ => Told::Settle(after),
        };
        world.script.settle.lock().unwrap().push_back(told);
    }
    let requests = [1, 1, 2].map(|nonce| {
        let begin = Duration::from_millis(dice.roll(200));
        let patience = match dice.roll(2) {
            0 => Duration::from_millis(dice.roll(300)),
            _ => seconds(60),
        };
        (nonce, begin, patience)
    });
    let run = async |(nonce, begin, patience)| {
        tokio::time::sleep(begin).await;
        let payment = world.payment(nonce);
        let outcome = tokio::time::timeout(patience, world.ask(&payment)).await;
        (nonce, outcome.as_ref().map_or("cut", word))
    };
    let [first, copy, other] = requests;
    let (first, copy, other) = tokio::join!(run(first), run(copy), run(other));
    let mut answers = vec![first, copy, other];
    world.rest().await;
    for nonce in [1, 2, 3] {
        let payment = world.payment(nonce);
        answers.push((nonce, word(&world.ask(&payment).await)));
        world.rest().await;
    }
    let told = format!("seed {seed}: {answers:?}");
    let passed = |word: &str| matches!(word, "paid" | "credit");
    let mut permits: HashMap<u64, u64> = HashMap::new();
    for (nonce, _) in answers.iter().filter(|(_, word)| passed(word)) {
        *permits.entry(*nonce).or_default() += 1;
    }
    assert!(permits.values().all(|count| *count == 1), "R8: {told}");
    let permits: u64 = permits.values().sum();
    let paid = world.script.settled.lock().unwrap().clone();
    let settled = u64::try_from(paid.len()).unwrap();
    // Waiters' leases end, so that what is owed reads as what it is.
    tokio::time::sleep(seconds(11)).await;
    let seen = world.upkeep().await;
    assert_eq!(
        settled,
        permits + seen.credits,
        "no money lost (R10): {told}"
    );
    let once: HashSet<Bytes> = paid.iter().cloned().collect();
    assert_eq!(once.len(), paid.len(), "settled twice: {told}");
}

#[tokio::test(start_paused = true)]
async fn r8_r10_every_settlement_is_one_answer_or_one_credit_in_random_histories() {
    for seed in 0..300 {
        history(seed).await;
    }
}
