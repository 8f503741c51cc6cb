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
//! degraded, and is tried again every few minutes; an API server that does not answer is left alone
//! with growing pauses ([`trouble`]).

mod api;
mod desired;
mod event;
mod lease;
mod object;
mod queue;
mod reporter;
mod trouble;
mod write;

use self::api::Api;
use self::lease::Lease;
use self::queue::Queue;
use self::reporter::{IN_FLIGHT, Reporter};
use self::trouble::Trouble;
use crate::crd::Observations;
use crate::lifecycle::Tasks;
use crate::metrics::Metrics;
use crate::table::TableReader;
use jiff::Timestamp;
use kube::Client;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Name of the Lease unless the operator says another.
pub const DEFAULT_LEASE: &str = "x402-verifier-status";

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
            metrics: metrics.clone(),
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
            trouble: Trouble::new(metrics, degraded),
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

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Status")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Resolves when it is told to stop, or nobody is left to tell.
async fn told(stopped: &mut watch::Receiver<bool>) {
    let _nobody_left = stopped.wait_for(|stopped| *stopped).await.is_err();
}
