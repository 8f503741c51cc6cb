//! Tells sellers what became of their offers: our condition in the status of every `ServiceOffer`.
//!
//! ```text
//! tables (Report) ──┐                         ┌── lease: may we?
//!                   ├─> Reporter: Queue ──> Write: GET, compare, PATCH ──> API server
//! Observations ─────┘    (what differs)       └── an Event, when there is something to repair
//! ```
//!
//! One task compares what the table's report says of each offer ([`desired`]) with what the informer
//! last saw of our condition ([`Observations`]), and writes where they differ: a few at a time, each
//! offer at most once in two seconds, and only while this process holds the [`lease`].
//!
//! What it is not: a source of anything. Nothing depends on it; a gate that cannot write status
//! gates as well as one that can. It writes one condition, never another, never
//! `status.observedGeneration`, and never creates an object.
//!
//! Invariants: no result of an older generation, or of an object that was made anew, is written
//! (R11, [`write`]). What is so already is not written: an idle gate sends no writes. Nothing is
//! written after [`Running::stop`].
//!
//! Failure: a write that is refused because the object changed (404, 409, 422) is dropped; the
//! informer brings what changed. Missing RBAC is one warning, a counter and a line in what is
//! degraded, and is tried again every few minutes. An API server that does not answer is left alone
//! with growing pauses.

mod api;
mod desired;
mod event;
mod lease;
mod object;
mod queue;
mod write;

use self::api::{Api, Fault};
use self::lease::{Lease, Term};
use self::queue::{Queue, Want};
use self::write::{Outcome, Write};
use crate::crd::{Fingerprint, Observations};
use crate::lifecycle::Tasks;
use crate::metrics::{Metrics, StatusWrite};
use crate::table::{Report, TableReader};
use jiff::Timestamp;
use kube::Client;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// Name of the Lease unless the operator says another.
pub const DEFAULT_LEASE: &str = "x402-verifier-status";

/// Writes in flight.
const IN_FLIGHT: usize = 8;
/// Least and most time between two looks at tables; a look may take a twentieth of the time.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Offers that are looked at without letting others run.
const AT_A_TIME: usize = 256;
/// First and longest pause in a namespace whose RBAC refuses.
const REFUSED: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));
/// First and longest pause when the API server does not answer.
const SILENT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What the operator says about it; a change needs a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusOptions {
    /// Name of the Lease. Gates that serve different offers (`offerSelector`) need different ones.
    pub lease_name: String,
    /// Its namespace; `None` is that of the pod, or of the kubeconfig's context.
    pub lease_namespace: Option<String>,
    /// Who we are in the Lease, unlike any other process ([`identity`]).
    pub identity: String,
}

/// The writer of status.
pub struct Status {
    /// What the operator says.
    pub options: StatusOptions,
    /// The client to use; `None` until there is one. Whoever reads the cluster replaces it when
    /// credentials changed.
    pub clients: watch::Receiver<Option<Client>>,
    /// The tables.
    pub table: TableReader,
    /// Changes whenever a table was published.
    pub published: watch::Receiver<u64>,
    /// What the informer sees of our condition.
    pub observations: Observations,
    /// `status_writes_total`.
    pub metrics: Arc<Metrics>,
    /// Told what keeps status from being written, one sentence each.
    pub degraded: watch::Sender<Vec<String>>,
    /// The clock.
    pub now: fn() -> Timestamp,
}

/// A writer that was started.
#[derive(Debug)]
pub struct Running {
    stop: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

/// The task that decides what is written.
struct Reporter {
    api: Api,
    table: TableReader,
    observations: Observations,
    metrics: Arc<Metrics>,
    degraded: watch::Sender<Vec<String>>,
    now: fn() -> Timestamp,
    /// The report that [`Reporter::offers`] is about.
    report: Arc<Report>,
    offers: HashMap<Arc<str>, Wanted>,
    /// Counts looks at reports, to know which offers are gone.
    looks: u64,
    queue: Queue,
    want: watch::Sender<Option<Want>>,
    term: watch::Receiver<Term>,
    lease_refused: watch::Receiver<Option<String>>,
    finished: mpsc::Sender<Finished>,
    stopped: watch::Receiver<bool>,
    tasks: Tasks,
    /// Namespaces whose RBAC refuses, and until when they are left alone.
    refused: HashMap<Arc<str>, Refusal>,
    /// The API server is left alone until then.
    silent_until: Option<Instant>,
    silences: u32,
    /// Events are refused until then.
    no_events_until: Option<Instant>,
    warned: Warned,
}

/// What an offer's condition is to be.
#[derive(Debug)]
struct Wanted {
    look: u64,
    rows: Range<usize>,
    /// Of the rows, to know whether the condition has to be made again.
    digest: u64,
    generation: i64,
    condition: Fingerprint,
}

#[derive(Debug)]
struct Refusal {
    until: Instant,
    pause: Duration,
    why: String,
}

/// What was said once and is not said again.
#[derive(Debug, Default)]
struct Warned {
    status: bool,
    events: bool,
    lease: bool,
}

/// A write that is over.
#[derive(Debug)]
struct Finished {
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

impl Default for StatusOptions {
    fn default() -> Self {
        Self {
            lease_name: DEFAULT_LEASE.to_owned(),
            lease_namespace: None,
            identity: identity(),
        }
    }
}

/// The name of this process in a Lease: the pod's, and something that no other process has.
#[must_use]
pub fn identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "x402-verifier".to_owned());
    // Without randomness the number of the process has to do.
    let random = getrandom::u64().unwrap_or_else(|_| std::process::id().into());
    format!("{host}_{random:016x}")
}

impl Status {
    /// Starts the tasks.
    #[must_use]
    pub fn start(self, tasks: &Tasks) -> Running {
        let Self {
            options,
            clients,
            table,
            published,
            observations,
            metrics,
            degraded,
            now,
        } = self;
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = watch::channel(false);
        let (want, wanted) = watch::channel(None);
        let (term, may_until) = watch::channel(None);
        let (refused, lease_refused) = watch::channel(None);
        let (finished, results) = mpsc::channel(IN_FLIGHT);
        let api = Api::new(clients);
        let lease = Lease {
            api: api.clone(),
            name: options.lease_name,
            namespace: options.lease_namespace,
            identity: options.identity,
            want: wanted,
            term,
            refused,
            now,
        };
        let reporter = Reporter {
            api,
            table,
            observations,
            metrics,
            degraded,
            now,
            report: Arc::default(),
            offers: HashMap::new(),
            looks: 0,
            queue: Queue::default(),
            want,
            term: may_until,
            lease_refused,
            finished,
            stopped: stopped.clone(),
            tasks: tasks.clone(),
            refused: HashMap::new(),
            silent_until: None,
            silences: 0,
            no_events_until: None,
            warned: Warned::default(),
        };
        // They end when stopped, which may be before shutdown begins; that is no failure.
        tasks.spawn_finite("status", reporter.run(published, results));
        tasks.spawn_finite("status lease", async move {
            lease.run(stopped).await;
            end.send_replace(true);
        });
        Running { stop, ended }
    }
}

impl Running {
    /// Nothing is written from here on. To be called when the process is told to stop (SIGTERM).
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Stops and waits until the Lease was given back, or could not be.
    pub async fn ended(mut self) {
        self.stop();
        // An error means that the task is gone, which is an end as well.
        let _gone = self.ended.wait_for(|ended| *ended).await.is_err();
    }
}

impl Reporter {
    async fn run(
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
                    Ok(()) => self.lease_noted(),
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
        let due = self.silent_until.map_or(due, |until| until.max(due));
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
        if let Some(refusal) = self.refused.get(&offer.namespace)
            && refusal.until > now
        {
            self.queue.later(&uid, refusal.until);
            return;
        }
        let write = Write {
            api: self.api.clone(),
            offer: offer.clone(),
            uid: uid.clone(),
            condition,
            term: self.term.clone(),
            with_events: self.no_events_until.is_none_or(|until| until <= now),
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
        match outcome {
            Some(Outcome::Failed(fault)) => {
                let until = self.failed(&namespace, fault, now);
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
                self.succeeded(&namespace);
                self.event_noted(event, now);
                self.queue.wrote(&uid, wanted, observed.condition);
                self.observations.see(&uid, observed);
            }
            Some(Outcome::Same) => self.succeeded(&namespace),
            Some(Outcome::Dropped(why)) => {
                debug!(offer.uid = &*uid, why, "a status is not written");
                self.metrics.status_write(StatusWrite::Dropped);
                self.succeeded(&namespace);
            }
            None => {}
        }
        let is_overtaken = self.queue.done(&uid);
        if is_overtaken || !self.offers.contains_key(&uid) {
            self.compare(&uid);
        }
    }

    fn compare_if_gone(&mut self, uid: &Arc<str>) {
        if !self.offers.contains_key(uid) {
            self.queue.forget(uid);
        }
    }

    /// When to try again after a fault.
    fn failed(&mut self, namespace: &Arc<str>, fault: Fault, now: Instant) -> Instant {
        match fault {
            Fault::Forbidden(why) => {
                self.metrics.status_write(StatusWrite::Forbidden);
                let (first, longest) = REFUSED;
                let before = self.refused.get(namespace);
                let is_same = before.is_some_and(|before| before.until > now);
                let pause = match before {
                    None => first,
                    // Several were in flight.
                    Some(before) if is_same => before.pause,
                    Some(before) => (before.pause * 2).min(longest),
                };
                let until = now + pause;
                if !std::mem::replace(&mut self.warned.status, true) {
                    warn!(
                        cause = why,
                        "the status of offers cannot be written; they are gated all the same. Allow \
                         get on serviceoffers and patch on serviceoffers/status, or use \
                         --status=false"
                    );
                }
                self.refused
                    .insert(namespace.clone(), Refusal { until, pause, why });
                self.tell_degraded();
                until
            }
            Fault::Unavailable { why, retry_after } => {
                debug!(cause = why, "the status of an offer could not be written");
                self.metrics.status_write(StatusWrite::Error);
                let (first, longest) = SILENT;
                let pause = first.saturating_mul(1 << self.silences.min(8)).min(longest);
                if self.silent_until.is_none_or(|until| until <= now) {
                    self.silences = self.silences.saturating_add(1);
                    let wished = retry_after.unwrap_or_default().min(longest);
                    self.silent_until = Some(now + pause.max(wished));
                }
                self.silent_until.unwrap_or(now + pause)
            }
            // They are dropped before they come here.
            Fault::Gone | Fault::Conflict | Fault::Invalid(_) => now + REFUSED.0,
        }
    }

    fn succeeded(&mut self, namespace: &Arc<str>) {
        self.silences = 0;
        if self.refused.remove(namespace).is_some() {
            if self.refused.is_empty() {
                self.warned.status = false;
                info!("the status of offers can be written again");
            }
            self.tell_degraded();
        }
    }

    fn event_noted(&mut self, event: Option<Fault>, now: Instant) {
        let Some(fault) = event else {
            return;
        };
        if let Fault::Forbidden(why) = &fault {
            self.no_events_until = Some(now + REFUSED.1);
            if !std::mem::replace(&mut self.warned.events, true) {
                warn!(
                    cause = why,
                    "Events cannot be made; conditions are written. Allow create on events"
                );
            }
        } else {
            debug!(cause = %fault, "an Event could not be made");
        }
    }

    fn lease_noted(&mut self) {
        let refused = self.lease_refused.borrow_and_update().clone();
        if let Some(why) = refused {
            self.metrics.status_write(StatusWrite::Forbidden);
            if !std::mem::replace(&mut self.warned.lease, true) {
                warn!(
                    cause = why,
                    "the Lease for writing status cannot be had, so none is written; offers are \
                     gated all the same. Allow get, create and update on leases, or use \
                     --status=false"
                );
            }
        } else {
            self.warned.lease = false;
        }
        self.tell_degraded();
    }

    fn tell_degraded(&self) {
        let lease = self.lease_refused.borrow().clone();
        let first = self
            .refused
            .values()
            .next()
            .map(|refusal| refusal.why.clone());
        let sentences = lease.into_iter().chain(first);
        let told = sentences.map(|why| format!("the status of offers cannot be written: {why}"));
        self.degraded.send_replace(told.collect());
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

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Status")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter")
            .field("offers", &self.offers.len())
            .finish_non_exhaustive()
    }
}

/// Resolves when it is told to stop, or nobody is left to tell.
async fn told(stopped: &mut watch::Receiver<bool>) {
    let _nobody_left = stopped.wait_for(|stopped| *stopped).await.is_err();
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
