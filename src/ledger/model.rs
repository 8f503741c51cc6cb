//! A model of one row: random sequences of steps by two owners, compared with a few lines that say
//! what should happen (M3), and with what must never happen (R8).

use super::contract::{LEASE, START, Time, claim, owner_of};
use crate::gate::{Booked, ClaimOutcome, ClaimOwner, ClaimState, Ledger, NewClaim, Step};
use alloy_primitives::{Address, U256};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::Cell;
use std::time::Duration;
use tokio::runtime::Runtime;

const WAITER: Duration = Duration::from_secs(20);

/// One thing that happens.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// Owner 0 or 1 does this.
    By(usize, Act),
    /// The same payer comes with a new authorisation.
    NewPayment,
    /// Time passes.
    Pass(Duration),
    /// Upkeep runs; it must not change how anything reads.
    Upkeep,
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Claim,
    Begin,
    Book,
    Abandon,
    Answer,
    Release,
    MarkUnknown,
}

/// What the row should be; times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    Free,
    Claimed { by: usize, until: u64 },
    Settling { by: usize, until: u64 },
    Owed { by: usize, waiter: u64 },
    Unknown { by: Option<usize> },
    Released,
    Answered,
}

/// The row, the time, and what was given away.
#[derive(Debug)]
struct Model {
    row: Row,
    now: u64,
    settles: bool,
    booked: u32,
    answers: u32,
}

/// Runs `cases` random histories, each of a payment of its own, and panics at the first difference.
pub(super) fn follows(runtime: &Runtime, ledger: &impl Ledger, time: &Time, cases: u32) {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let payment = Cell::new(0_u64);
    let history = (any::<bool>(), prop::collection::vec(event(), 1..40));
    TestRunner::new(config)
        .run(&history, |(settles, events)| {
            payment.set(payment.get() + 1);
            runtime.block_on(follow(ledger, time, payment.get(), settles, &events))
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

fn event() -> impl Strategy<Value = Event> {
    let act = prop_oneof![
        3 => Just(Act::Claim),
        3 => Just(Act::Begin),
        3 => Just(Act::Book),
        1 => Just(Act::Abandon),
        2 => Just(Act::Answer),
        1 => Just(Act::Release),
        1 => Just(Act::MarkUnknown),
    ];
    prop_oneof![
        12 => (0..2_usize, act).prop_map(|(owner, act)| Event::By(owner, act)),
        2 => Just(Event::NewPayment),
        2 => prop::sample::select(vec![1, 19_999, 20_000, 30_000])
            .prop_map(|millis| Event::Pass(Duration::from_millis(millis))),
        1 => Just(Event::Upkeep),
    ]
}

async fn follow(
    ledger: &impl Ledger,
    time: &Time,
    payment: u64,
    settles: bool,
    events: &[Event],
) -> Result<(), TestCaseError> {
    let new = payment_of(payment, 0, settles);
    let mut model = Model {
        row: Row::Free,
        now: 0,
        settles,
        booked: 0,
        answers: 0,
    };
    let mut owners = [ClaimOwner([0xff; 16]); 2];
    for (number, event) in (1..).zip(events) {
        let (seen, expected) = match *event {
            Event::By(owner, act) => {
                let (seen, won) = do_it(ledger, &new, act, owners[owner]).await;
                if let Some(won) = won {
                    owners[owner] = won;
                }
                (seen, model.by(owner, act))
            }
            Event::NewPayment => {
                let other = payment_of(payment, number, settles);
                let outcome = ledger.claim(&other).await.unwrap();
                let seen = match outcome {
                    ClaimOutcome::Claimed(owner) => {
                        ledger.release(&other.key, owner).await.unwrap();
                        "claimed"
                    }
                    ClaimOutcome::CreditSpent { .. } => "credit spent",
                    ClaimOutcome::UnknownOutstanding => "unknown outstanding",
                    ClaimOutcome::Taken(_) => "taken",
                };
                (seen, model.new_payment())
            }
            Event::Pass(duration) => {
                time.pass(duration);
                model.pass(duration);
                ("", "")
            }
            Event::Upkeep => {
                ledger.upkeep(time.now()).await.unwrap();
                ("", "")
            }
        };
        prop_assert_eq!(seen, expected, "{:?} as event {}", event, number);
        let state = ledger.lookup(&new.key).await.unwrap().map(|row| row.state);
        prop_assert_eq!(
            state,
            model.state(),
            "after {:?} as event {}",
            event,
            number
        );
        prop_assert!(model.answers <= 1, "one payment, one answer (R8)");
        prop_assert!(
            !settles || model.answers <= model.booked,
            "no free pass (R1)"
        );
    }
    Ok(())
}

/// Does it; what came of it, and the owner when a claim was won.
async fn do_it(
    ledger: &impl Ledger,
    new: &NewClaim,
    act: Act,
    owner: ClaimOwner,
) -> (&'static str, Option<ClaimOwner>) {
    let key = &new.key;
    let step = match act {
        Act::Claim => {
            return match ledger.claim(new).await.unwrap() {
                outcome @ ClaimOutcome::Claimed(_) => ("done", Some(owner_of(&outcome))),
                ClaimOutcome::Taken(_) => ("lost", None),
                ClaimOutcome::CreditSpent { .. } => ("credit spent", None),
                ClaimOutcome::UnknownOutstanding => ("unknown outstanding", None),
            };
        }
        Act::Book => {
            let transaction = format!("{:#x}", new.key.payer);
            let booked = ledger
                .book_settled(key, owner, &transaction, WAITER)
                .await
                .unwrap();
            return match booked {
                Booked::Owed => ("done", None),
                Booked::DuplicateTransaction => ("duplicate", None),
                Booked::Lost => ("lost", None),
            };
        }
        Act::Begin => ledger.begin_settle(key, owner, LEASE).await,
        Act::Abandon => ledger.abandon(key, owner).await,
        Act::Answer => ledger.answer(key, owner).await,
        Act::Release => ledger.release(key, owner).await,
        Act::MarkUnknown => ledger.mark_unknown(key, owner, None).await,
    };
    match step.unwrap() {
        Step::Done => ("done", None),
        Step::Lost => ("lost", None),
    }
}

/// The `number`th authorisation of the payer that this history has for itself.
fn payment_of(payment: u64, number: u64, settles: bool) -> NewClaim {
    let mut new = claim(number);
    let payer = Address::from_word(U256::from(payment + 1).into());
    new.key.payer = payer;
    new.scope.payer = payer;
    new.settles = settles;
    new.valid_before = START + 1_000_000_000;
    new
}

impl Model {
    fn by(&mut self, me: usize, act: Act) -> &'static str {
        let now = self.now;
        let next = match (act, self.row) {
            (Act::Claim, Row::Free | Row::Released) => Row::Claimed {
                by: me,
                until: now + millis(LEASE),
            },
            (Act::Begin, Row::Claimed { by, .. }) if by == me && self.settles => Row::Settling {
                by: me,
                until: now + millis(LEASE),
            },
            (Act::Book, Row::Settling { by, .. } | Row::Unknown { by: Some(by) }) if by == me => {
                self.booked += 1;
                Row::Owed {
                    by: me,
                    waiter: now + millis(WAITER),
                }
            }
            (Act::Book, owed @ Row::Owed { by, .. }) if by == me => owed,
            (Act::Abandon, Row::Owed { by, .. }) if by == me => Row::Owed {
                by: me,
                waiter: now,
            },
            (Act::Answer, Row::Owed { by, .. }) if by == me => self.answered(),
            (Act::Answer, Row::Claimed { by, .. }) if by == me && !self.settles => self.answered(),
            (
                Act::Release,
                Row::Claimed { by, .. } | Row::Settling { by, .. } | Row::Unknown { by: Some(by) },
            ) if by == me => Row::Released,
            (Act::MarkUnknown, Row::Settling { by, .. } | Row::Unknown { by: Some(by) })
                if by == me =>
            {
                Row::Unknown { by: None }
            }
            _ => return "lost",
        };
        self.row = next;
        "done"
    }

    fn new_payment(&mut self) -> &'static str {
        match self.row {
            Row::Unknown { .. } if self.settles => "unknown outstanding",
            Row::Owed { waiter, .. } if waiter <= self.now => {
                self.row = self.answered();
                "credit spent"
            }
            Row::Free
            | Row::Claimed { .. }
            | Row::Settling { .. }
            | Row::Owed { .. }
            | Row::Unknown { .. }
            | Row::Released
            | Row::Answered => "claimed",
        }
    }

    fn answered(&mut self) -> Row {
        self.answers += 1;
        Row::Answered
    }

    fn pass(&mut self, duration: Duration) {
        self.now += millis(duration);
        if let Row::Claimed { until, .. } = self.row
            && until <= self.now
        {
            self.row = Row::Released;
        }
        if let Row::Settling { by, until } = self.row
            && until <= self.now
        {
            self.row = Row::Unknown { by: Some(by) };
        }
    }

    fn state(&self) -> Option<ClaimState> {
        match self.row {
            Row::Free => None,
            Row::Claimed { .. } => Some(ClaimState::Claimed),
            Row::Settling { .. } => Some(ClaimState::Settling),
            Row::Owed { .. } => Some(ClaimState::Owed),
            Row::Unknown { .. } => Some(ClaimState::Unknown),
            Row::Released => Some(ClaimState::Released),
            Row::Answered => Some(ClaimState::Answered),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}
