//! Which offers are to be written, and when at the earliest.
//!
//! A set by UID: an offer that changes often waits in it once, and what is written is what is true
//! when its turn comes. Pure; time is an argument.
//!
//! An offer is tried at most once in [`PACE`]. If the same condition has to be written again and
//! again, somebody takes it away: then the pace halves each time, so that two writers who do not
//! know of each other end up quiet.

use crate::crd::Fingerprint;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Least time between two writes of one offer.
pub(super) const PACE: Duration = Duration::from_secs(2);
/// Most time between two writes of the same condition.
const SLOWEST: Duration = Duration::from_secs(300);

/// The set.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: HashMap<Arc<str>, Entry>,
    due: BTreeSet<(Instant, Arc<str>)>,
    running: usize,
    /// Since when there is something to write.
    since: Option<Instant>,
    /// Counts what came to be wanted.
    news: u64,
}

#[derive(Debug, Default)]
struct Entry {
    state: State,
    last: Option<Attempt>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Waiting(Instant),
    Running,
    /// Running, and something changed meanwhile.
    Overtaken,
}

/// The last attempt.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    at: Instant,
    /// What was written, if it was.
    written: Option<Fingerprint>,
    /// What the API server made of it.
    stored: Option<Fingerprint>,
    /// How often the same was written.
    repeats: u32,
}

/// That something is to be written, for whoever competes for the right to do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    /// Since when without a pause.
    pub(super) since: Instant,
    /// Grows with every offer that joins.
    pub(super) news: u64,
}

impl Queue {
    /// The offer is to become `wanted`.
    pub(super) fn want(&mut self, uid: &Arc<str>, wanted: Fingerprint, now: Instant) {
        let entry = self.entries.entry(uid.clone()).or_default();
        let due = entry.earliest(wanted, now);
        match entry.state {
            State::Running | State::Overtaken => entry.state = State::Overtaken,
            State::Waiting(before) if before == due => {}
            State::Waiting(before) => {
                self.due.remove(&(before, uid.clone()));
                entry.state = State::Waiting(due);
                self.due.insert((due, uid.clone()));
            }
            State::Idle => {
                entry.state = State::Waiting(due);
                self.due.insert((due, uid.clone()));
                self.since.get_or_insert(now);
                self.news = self.news.wrapping_add(1);
            }
        }
    }

    /// The offer is as it should be, or cannot be written now.
    pub(super) fn unwant(&mut self, uid: &Arc<str>) {
        let Some(entry) = self.entries.get_mut(uid) else {
            return;
        };
        match entry.state {
            State::Waiting(due) => {
                self.due.remove(&(due, uid.clone()));
                entry.state = State::Idle;
            }
            State::Overtaken => entry.state = State::Running,
            State::Idle | State::Running => {}
        }
        self.rest();
    }

    /// The next offer whose time has come; it runs until [`Queue::done`] or [`Queue::later`].
    pub(super) fn next(&mut self, now: Instant) -> Option<Arc<str>> {
        let (due, _) = self.due.first()?;
        if *due > now {
            return None;
        }
        let (_, uid) = self.due.pop_first()?;
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.state = State::Running;
            let last = entry.last.get_or_insert(Attempt {
                at: now,
                written: None,
                stored: None,
                repeats: 0,
            });
            last.at = now;
        }
        self.running += 1;
        Some(uid)
    }

    /// When [`Queue::next`] has something.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// How many run.
    pub(super) const fn running(&self) -> usize {
        self.running
    }

    /// `wanted` was written, and `stored` is what the API server made of it.
    pub(super) fn wrote(&mut self, uid: &str, wanted: Fingerprint, stored: Option<Fingerprint>) {
        if let Some(last) = self
            .entries
            .get_mut(uid)
            .and_then(|entry| entry.last.as_mut())
        {
            let is_repeated = last.written == Some(wanted);
            last.repeats = if is_repeated {
                last.repeats.saturating_add(1)
            } else {
                0
            };
            last.written = Some(wanted);
            last.stored = stored;
        }
    }

    /// Whether `observed` is what the API server makes of `wanted`.
    pub(super) fn is_settled(
        &self,
        uid: &str,
        wanted: Fingerprint,
        observed: Option<Fingerprint>,
    ) -> bool {
        let last = self.entries.get(uid).and_then(|entry| entry.last.as_ref());
        last.is_some_and(|last| {
            last.written == Some(wanted) && last.stored.is_some() && last.stored == observed
        })
    }

    /// An attempt is over; whether something changed meanwhile, so that it is to be looked at again.
    pub(super) fn done(&mut self, uid: &Arc<str>) -> bool {
        self.running = self.running.saturating_sub(1);
        let before = self
            .entries
            .get_mut(uid)
            .map(|entry| std::mem::take(&mut entry.state));
        self.rest();
        before == Some(State::Overtaken)
    }

    /// An attempt is over that could not be made; the next is not before `at`.
    pub(super) fn later(&mut self, uid: &Arc<str>, at: Instant) {
        self.running = self.running.saturating_sub(1);
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.state = State::Waiting(at);
            self.due.insert((at, uid.clone()));
        }
    }

    /// The offer is not in the table any more.
    pub(super) fn forget(&mut self, uid: &Arc<str>) {
        self.unwant(uid);
        if self
            .entries
            .get(uid)
            .is_some_and(|entry| entry.state == State::Idle)
        {
            self.entries.remove(uid);
        }
    }

    /// Forgets what has no bearing on any later attempt.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.entries.retain(|_, entry| {
            let is_recent = entry.last.is_some_and(|last| {
                // What a schema changed is remembered for as long as the offer lives.
                last.stored != last.written || now.saturating_duration_since(last.at) < SLOWEST * 2
            });
            entry.state != State::Idle || is_recent
        });
    }

    /// Whether something is to be written now, or is being written.
    pub(super) fn wanted(&self, now: Instant) -> Option<Want> {
        let is_due = self.next_due().is_some_and(|due| due <= now);
        let since = self.since.filter(|_| is_due || self.running > 0)?;
        Some(Want {
            since,
            news: self.news,
        })
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn rest(&mut self) {
        if self.due.is_empty() && self.running == 0 {
            self.since = None;
        }
    }
}

impl Entry {
    fn earliest(&self, wanted: Fingerprint, now: Instant) -> Instant {
        let Some(last) = self.last else {
            return now;
        };
        let pause = if last.written == Some(wanted) {
            // The first time it may be a race; from then on it is a quarrel.
            PACE.saturating_mul(1 << last.repeats.min(10)).min(SLOWEST)
        } else {
            PACE
        };
        (last.at + pause).max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{Condition, Reason};

    fn print(message: &str) -> Fingerprint {
        Condition {
            reason: Reason::Enforced,
            message: message.to_owned(),
            generation: 1,
        }
        .fingerprint()
    }

    fn uid() -> Arc<str> {
        "u".into()
    }

    fn written(queue: &mut Queue, what: &str, now: Instant) {
        let running = queue.next(now).unwrap();
        queue.wrote(&running, print(what), Some(print(what)));
        assert!(!queue.done(&running));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_write_is_at_once_and_the_next_after_the_pace() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        queue.want(&uid(), print("1"), start);
        written(&mut queue, "1", start);
        assert_eq!(queue.wanted(start), None);
        for change in 0..100 {
            queue.want(&uid(), print(&format!("2.{change}")), start);
        }
        assert_eq!(queue.next_due(), Some(start + PACE));
        assert!(queue.next(start + PACE / 2).is_none());
        assert!(queue.next(start + PACE).is_some());
        assert_eq!(queue.next_due(), None, "a hundred changes are one write");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_away_again_and_again_is_written_ever_less() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        let (mut now, mut writes) = (start, 0);
        while now < start + Duration::from_secs(3600) {
            queue.want(&uid(), print("1"), now);
            now = queue.next_due().unwrap();
            written(&mut queue, "1", now);
            writes += 1;
        }
        assert!(writes < 25, "{writes}");
        queue.want(&uid(), print("2"), now);
        assert_eq!(
            queue.next_due(),
            Some(now + PACE),
            "another condition is another matter"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_while_it_is_written_is_looked_at_again() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.want(&uid(), print("1"), now);
        let running = queue.next(now).unwrap();
        queue.want(&uid(), print("2"), now);
        assert_eq!(
            (queue.next_due(), queue.running()),
            (None, 1),
            "one at a time"
        );
        assert!(queue.done(&running));
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_tried_waits_and_stays_wanted() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.want(&uid(), print("1"), now);
        let running = queue.next(now).unwrap();
        queue.later(&running, now + PACE * 9);
        assert_eq!(queue.next_due(), Some(now + PACE * 9));
        assert_eq!(queue.wanted(now), None, "nothing to renew a Lease for");
        assert_eq!(
            queue.wanted(now + PACE * 9).map(|want| want.since),
            Some(now)
        );
        queue.unwant(&uid());
        assert_eq!((queue.next_due(), queue.wanted(now)), (None, None));
    }

    /// What a schema makes of a condition is no reason to write it again.
    #[tokio::test(start_paused = true)]
    async fn what_a_schema_makes_of_it_is_settled() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.want(&uid(), print("1"), now);
        let running = queue.next(now).unwrap();
        queue.wrote(&running, print("1"), Some(print("1, cut")));
        queue.done(&running);
        assert!(queue.is_settled("u", print("1"), Some(print("1, cut"))));
        assert!(!queue.is_settled("u", print("1"), None));
        assert!(!queue.is_settled("u", print("2"), Some(print("1, cut"))));
    }

    /// Nothing is kept of what is gone (T4.11).
    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_of_offers_that_are_gone_or_long_written() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for n in 0..10_000 {
            let uid: Arc<str> = format!("u{n}").into();
            queue.want(&uid, print("1"), now);
            queue.next(now).unwrap();
            queue.wrote(&uid, print("1"), Some(print("1")));
            queue.done(&uid);
            if n % 2 == 0 {
                queue.forget(&uid);
            }
        }
        assert_eq!(queue.len(), 5_000);
        queue.tidy(now + SLOWEST * 3);
        assert_eq!((queue.len(), queue.running()), (0, 0));
    }
}
