//! The task that decides which offers are written, and when.
//!
//! It is woken by tables, by what the informer sees, by writes that are over, and by time. All it
//! does with a piece of news is to compare: what an offer's condition is to be with what it was
//! last seen to be. Texts are made when they are written and not kept; of 100,000 offers only
//! digests are.

use super::api::Api;
use super::desired;
use super::lease::Term;
use super::queue::{Queue, Want};
use super::told;
use super::trouble::Trouble;
use super::write::{Outcome, Write};
use crate::crd::{Fingerprint, Observations};
use crate::lifecycle::{Tasks, sleep_until};
use crate::metrics::{Metrics, StatusWrite};
use crate::table::{Report, TableReader};
use jiff::Timestamp;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::debug;

/// Writes in flight.
pub(super) const IN_FLIGHT: usize = 8;
/// Least and most time between two looks at tables; a look may take a twentieth of the time.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Offers that are looked at without letting others run.
const AT_A_TIME: usize = 256;
/// The task that decides what is written.
pub(super) struct Reporter {
    pub(super) api: Api,
    pub(super) table: TableReader,
    pub(super) observations: Observations,
    pub(super) metrics: Arc<Metrics>,
    pub(super) now: fn() -> Timestamp,
    /// The report that [`Reporter::offers`] is about.
    pub(super) report: Arc<Report>,
    pub(super) offers: HashMap<Arc<str>, Wanted>,
    /// Counts looks at reports, to know which offers are gone.
    pub(super) looks: u64,
    pub(super) queue: Queue,
    pub(super) want: watch::Sender<Option<Want>>,
    pub(super) term: watch::Receiver<Term>,
    pub(super) lease_refused: watch::Receiver<Option<String>>,
    pub(super) finished: mpsc::Sender<Finished>,
    pub(super) stopped: watch::Receiver<bool>,
    pub(super) tasks: Tasks,
    pub(super) trouble: Trouble,
}

/// What an offer's condition is to be.
#[derive(Debug)]
pub(super) struct Wanted {
    look: u64,
    rows: Range<usize>,
    /// Of the rows, to know whether the condition has to be made again.
    digest: u64,
    generation: i64,
    condition: Fingerprint,
}

/// A write that is over.
#[derive(Debug)]
pub(super) struct Finished {
    uid: Arc<str>,
    namespace: Arc<str>,
    wanted: Fingerprint,
    /// `None` when it was stopped or died.
    outcome: Option<Outcome>,
}

/// Reports a write's end however it ends.
struct Ticket {
    finished: Option<Finished>,
    to: mpsc::Sender<Finished>,
}

impl Reporter {
    pub(super) async fn run(
        mut self,
        mut published: watch::Receiver<u64>,
        mut results: mpsc::Receiver<Finished>,
    ) {
        let mut stopped = self.stopped.clone();
        let mut look_at = Some(Instant::now());
        let mut next_look = Instant::now();
        loop {
            let due = self.next_write();
            let observations = self.observations.clone();
            tokio::select! {
                biased;
                () = told(&mut stopped) => return,
                Some(finished) = results.recv() => self.finish(finished),
                changed = published.changed() => match changed {
                    Ok(()) => look_at = Some(look_at.unwrap_or(next_look)),
                    Err(_no_tables_any_more) => return,
                },
                () = sleep_until(look_at) => {
                    look_at = None;
                    let begun = Instant::now();
                    self.look().await;
                    let (least, most) = LOOK_EVERY;
                    next_look = begun + (begun.elapsed() * 20).clamp(least, most);
                }
                () = observations.changed() => {
                    for uid in observations.take_changed() {
                        self.compare(&uid);
                    }
                }
                changed = self.lease_refused.changed() => match changed {
                    Ok(()) => {
                        let refused = self.lease_refused.borrow_and_update().clone();
                        self.trouble.lease(refused);
                    }
                    Err(_no_lease_any_more) => return,
                },
                changed = self.term.changed() => if changed.is_err() {
                    return;
                },
                () = sleep_until(due) => self.write_next(),
            }
            self.want.send_if_modified(|told| {
                let wanted = self.queue.wanted(Instant::now());
                std::mem::replace(told, wanted) != wanted
            });
        }
    }

    /// When there may be something to begin: not while all places are taken or the API server is
    /// left alone, and what is due already waits for the Lease.
    fn next_write(&self) -> Option<Instant> {
        if self.queue.running() >= IN_FLIGHT {
            return None;
        }
        let due = self.queue.next_due()?;
        let due = self
            .trouble
            .silent_until()
            .map_or(due, |until| until.max(due));
        (due > Instant::now() || self.may_write()).then_some(due)
    }

    fn may_write(&self) -> bool {
        self.term
            .borrow()
            .is_some_and(|until| Instant::now() < until)
    }

    /// Looks at the latest report.
    async fn look(&mut self) {
        let report = self.table.load().report.clone();
        self.looks += 1;
        for (count, offer) in desired::offers(&report).enumerate() {
            if count % AT_A_TIME == AT_A_TIME - 1 {
                tokio::task::yield_now().await;
            }
            if let Some(known) = self.offers.get_mut(&offer.uid)
                && report.has_same(offer.range.clone(), &self.report, known.rows.clone())
            {
                // Nearly every offer of nearly every table; its rows need not be written.
                known.look = self.looks;
                known.rows = offer.range;
                continue;
            }
            let rows = desired::rows(&report, offer.range.clone());
            let digest = desired::digest(&rows);
            if let Some(known) = self.offers.get_mut(&offer.uid)
                && known.digest == digest
            {
                known.look = self.looks;
                known.rows = offer.range;
                continue;
            }
            let Some(condition) = desired::condition(&rows) else {
                continue;
            };
            let wanted = Wanted {
                look: self.looks,
                rows: offer.range,
                digest,
                generation: condition.generation,
                condition: condition.fingerprint(),
            };
            self.offers.insert(offer.uid.clone(), wanted);
            self.compare(&offer.uid);
        }
        self.report = report;
        let looks = self.looks;
        let queue = &mut self.queue;
        self.offers.retain(|uid, wanted| {
            let is_there = wanted.look == looks;
            if !is_there {
                queue.forget(uid);
            }
            is_there
        });
        self.queue.tidy(Instant::now());
        self.trouble.tidy(Instant::now());
    }

    /// Whether an offer is to be written, by what is known here of both sides.
    fn compare(&mut self, uid: &Arc<str>) {
        let Some(wanted) = self.offers.get(uid) else {
            return self.queue.forget(uid);
        };
        let differs = self.observations.get(uid).is_some_and(|observed| {
            // Of another generation than the table: the next table is about it (R11).
            observed.generation == Some(wanted.generation)
                && !observed.is_deleting
                && observed.condition != Some(wanted.condition)
                && !self
                    .queue
                    .is_settled(uid, wanted.condition, observed.condition)
        });
        if differs {
            self.queue.want(uid, wanted.condition, Instant::now());
        } else {
            self.queue.unwant(uid);
        }
    }

    fn write_next(&mut self) {
        let now = Instant::now();
        if !self.may_write() {
            return;
        }
        let Some(uid) = self.queue.next(now) else {
            return;
        };
        let rows = self.offers.get(&uid).map(|wanted| wanted.rows.clone());
        let rows = desired::rows(&self.report, rows.unwrap_or_default());
        let (Some(condition), Some(offer)) = (
            desired::condition(&rows),
            rows.first().map(|row| row.offer.clone()),
        ) else {
            self.queue.done(&uid);
            return;
        };
        if let Some(until) = self.trouble.refused_until(&offer.namespace, now) {
            self.queue.later(&uid, until);
            return;
        }
        let write = Write {
            api: self.api.clone(),
            offer: offer.clone(),
            uid: uid.clone(),
            condition,
            term: self.term.clone(),
            with_events: self.trouble.allows_events(now),
            now: self.now,
        };
        let mut ticket = Ticket {
            finished: Some(Finished {
                uid,
                namespace: offer.namespace.clone(),
                wanted: write.fingerprint(),
                outcome: None,
            }),
            to: self.finished.clone(),
        };
        let mut stopped = self.stopped.clone();
        self.tasks.spawn_finite("status write", async move {
            let outcome = tokio::select! {
                () = told(&mut stopped) => return,
                outcome = write.run() => outcome,
            };
            if let Some(finished) = &mut ticket.finished {
                finished.outcome = Some(outcome);
            }
        });
    }

    fn finish(&mut self, finished: Finished) {
        let Finished {
            uid,
            namespace,
            wanted,
            outcome,
        } = finished;
        let now = Instant::now();
        // Whether the informer knows more than this attempt did.
        let mut is_past = false;
        match outcome {
            Some(Outcome::Failed(fault)) => {
                let until = self.trouble.failed(&namespace, fault, now);
                self.queue.later(&uid, until);
                // It may have left the table meanwhile, or be as it should be.
                self.compare_if_gone(&uid);
                return;
            }
            Some(Outcome::NotOurs) => {
                self.queue.later(&uid, now);
                self.compare_if_gone(&uid);
                return;
            }
            Some(Outcome::Written { observed, event }) => {
                self.metrics.status_write(StatusWrite::Written);
                self.trouble.allowed(&namespace);
                if let Some(fault) = event {
                    self.trouble.event_failed(&fault, now);
                }
                self.queue.wrote(&uid, wanted, observed.condition);
                self.observations.wrote(&uid, observed);
            }
            Some(Outcome::Same) => self.trouble.answered(),
            Some(Outcome::Overtaken(version)) => {
                self.metrics.status_write(StatusWrite::Dropped);
                self.trouble.allowed(&namespace);
                is_past = self.observations.is_past(&uid, version);
            }
            Some(Outcome::Dropped(why)) => {
                debug!(offer.uid = &*uid, why, "a status is not written");
                self.metrics.status_write(StatusWrite::Dropped);
                self.trouble.answered();
            }
            None => {}
        }
        let is_overtaken = self.queue.done(&uid);
        if is_overtaken || is_past || !self.offers.contains_key(&uid) {
            self.compare(&uid);
        }
    }

    fn compare_if_gone(&mut self, uid: &Arc<str>) {
        if !self.offers.contains_key(uid) {
            self.queue.forget(uid);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(finished) = self.finished.take() {
            // There is a place for each write in flight; nobody listens after the end.
            let _listening = self.to.try_send(finished).is_ok();
        }
    }
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter")
            .field("offers", &self.offers.len())
            .finish_non_exhaustive()
    }
}
