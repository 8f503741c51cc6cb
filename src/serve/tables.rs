//! The one task that owns the [`TableWriter`] (R5): updates in, tables out, remembered paths to the
//! ledger (R4).
//!
//! Building a table is CPU work and runs beside the request threads; publishing is the writer's.
//! What the ledger could not take is kept and offered again, so a ledger that is down never stops
//! a reload. A path that is live in the ledger and missing from a complete list is closed at the
//! next start; only what went live and left again while the ledger was down is not remembered.

use crate::gate::{Facilitator, Gate, Ledger};
use crate::lifecycle::{Readiness, Tasks, sleep_until, work_behind};
use crate::metrics::{Metrics, ReloadSource};
use crate::pricing::Settings;
use crate::sources::{file, kube};
use crate::table::{Applied, PathRecord, Table, TableWriter, Update};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::time::Instant;

/// Pause before the ledger is offered the same paths again.
const RETRY: Duration = Duration::from_secs(5);

/// Why `verifyOnly` is refused where the ledger forgets.
pub(super) const FORGETFUL: &str = "verifyOnly needs a ledger that survives a restart, or a payment \
     buys an answer after each one (M10): use --ledger sqlite:PATH";

/// Owns the writer.
#[derive(Debug)]
pub(super) struct Tables<F, L> {
    /// Whether the ledger survives a restart.
    pub(super) durable: bool,
    pub(super) writer: TableWriter,
    pub(super) updates: Receiver<Update>,
    pub(super) gate: Gate<F, L>,
    pub(super) readiness: Readiness,
    pub(super) metrics: Arc<Metrics>,
    /// The settings in use, for sources that need them.
    pub(super) settings: watch::Sender<Option<Arc<Settings>>>,
    /// The generation of each table that was published.
    pub(super) published: watch::Sender<u64>,
    /// The clock, read by whoever builds when the build begins.
    pub(super) now: fn() -> Timestamp,
}

/// Paths whose record the ledger does not have yet: `true` to write, `false` to forget.
#[derive(Debug, Default)]
struct Unsaved {
    paths: BTreeMap<PathIdentity, (PathRecord, bool)>,
}

type PathIdentity = (Option<Arc<str>>, Arc<str>, Arc<str>, Arc<str>, Arc<str>);

impl<F: Facilitator, L: Ledger> Tables<F, L> {
    /// Runs until every source is gone or shutdown begins.
    pub(super) async fn run(mut self, tasks: Tasks) {
        let mut unsaved = Unsaved::default();
        let mut next_tick: Option<Instant> = None;
        let mut retry: Option<Instant> = None;
        loop {
            let wake = [next_tick, retry].into_iter().flatten().min();
            let update = tokio::select! {
                () = tasks.stopping() => return,
                update = self.updates.recv() => match update {
                    Some(update) => update,
                    None => return,
                },
                () = sleep_until(wake) => Update::Tick,
            };
            let Some(applied) = self.apply(self.checked(update)).await else {
                return;
            };
            next_tick = applied.next_tick.map(instant_of);
            unsaved.add(applied.path_changes, applied.path_removals);
            retry = self.save(&mut unsaved).await;
        }
    }

    /// An update, or why it cannot be applied here (M10): the last good state stays (R6).
    fn checked(&self, update: Update) -> Update {
        match update {
            Update::Document { settings, .. } if settings.verify_only && !self.durable => {
                Update::Failed {
                    source: file::NAME,
                    error: FORGETFUL.to_owned(),
                }
            }
            other @ (Update::Document { .. }
            | Update::Offers { .. }
            | Update::Failed { .. }
            | Update::Remembered { .. }
            | Update::Released { .. }
            | Update::Tick) => other,
        }
    }

    /// Applies one update beside the request threads; `None` when the build itself died.
    async fn apply(&mut self, update: Update) -> Option<Applied> {
        let source = Source::of(&update);
        let (empty, _) = TableWriter::new();
        let mut writer = std::mem::replace(&mut self.writer, empty);
        let now = self.now;
        let built = work_behind(move || {
            let applied = writer.apply(update, now());
            (writer, applied)
        });
        let (writer, applied) = match built.await {
            Ok(built) => built,
            Err(panic) => {
                tracing::error!(error = %panic, "the table build died; the last table stays");
                return None;
            }
        };
        self.writer = writer;
        self.published.send_replace(applied.table.generation);
        self.tell(source, &applied.table);
        Some(applied)
    }

    /// Tells readiness, metrics and the log what an update came to, once requests see it.
    fn tell(&self, source: Source, table: &Arc<Table>) {
        match source {
            Source::Delivered { name, settings } => {
                self.readiness.set_cause(name, None);
                if settings {
                    self.readiness.config_loaded();
                    self.settings.send_replace(Some(table.settings.clone()));
                }
                // R2: a source counts when its first complete list is in this table.
                let sources = &table.report.sources;
                if sources.iter().all(|source| source.last_success.is_some()) {
                    self.readiness.routes_loaded();
                }
                self.metrics.reload(reload_source(name), true);
                tracing::info!(
                    source = name,
                    table.generation = table.generation,
                    table.routes = table.report.len(),
                    "table published"
                );
            }
            Source::Failed { name, error } => {
                self.readiness.set_cause(name, Some(error));
                self.metrics.reload(reload_source(name), false);
            }
            Source::Released { paths } => tracing::info!(
                paths,
                table.generation = table.generation,
                "closed paths released by the operator"
            ),
            Source::Other => {}
        }
    }

    /// Writes what is unsaved; when to try again if the ledger could not.
    async fn save(&self, unsaved: &mut Unsaved) -> Option<Instant> {
        if unsaved.paths.is_empty() {
            return None;
        }
        let (changes, removals) = unsaved.split();
        match self.gate.ledger().save_paths(&changes, &removals).await {
            Ok(()) => {
                unsaved.paths.clear();
                None
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(
                    error,
                    paths = unsaved.paths.len(),
                    "closed paths not saved yet"
                );
                Some(Instant::now() + RETRY)
            }
        }
    }
}

/// What an update says about the sources.
enum Source {
    Delivered { name: &'static str, settings: bool },
    Failed { name: &'static str, error: String },
    Released { paths: usize },
    Other,
}

impl Source {
    fn of(update: &Update) -> Self {
        match update {
            Update::Document { .. } => Self::Delivered {
                name: file::NAME,
                settings: true,
            },
            Update::Offers { source, .. } => Self::Delivered {
                name: source,
                settings: false,
            },
            Update::Failed { source, error } => Self::Failed {
                name: source,
                error: error.clone(),
            },
            Update::Released { paths } => Self::Released { paths: paths.len() },
            Update::Remembered { .. } | Update::Tick => Self::Other,
        }
    }
}

/// The source in the words of the metrics.
fn reload_source(name: &str) -> ReloadSource {
    if name == kube::NAME {
        ReloadSource::Kube
    } else {
        ReloadSource::File
    }
}

impl Unsaved {
    fn add(&mut self, changes: Vec<PathRecord>, removals: Vec<PathRecord>) {
        for (records, keep) in [(removals, false), (changes, true)] {
            for record in records {
                self.paths.insert(identity(&record), (record, keep));
            }
        }
    }

    fn split(&self) -> (Vec<PathRecord>, Vec<PathRecord>) {
        let (keep, forget): (Vec<_>, Vec<_>) = self.paths.values().partition(|(_, keep)| *keep);
        let records = |list: Vec<&(PathRecord, bool)>| {
            list.into_iter().map(|(record, _)| record.clone()).collect()
        };
        (records(keep), records(forget))
    }
}

fn identity(record: &PathRecord) -> PathIdentity {
    (
        record.host.clone(),
        record.pattern.clone(),
        record.namespace.clone(),
        record.name.clone(),
        record.uid.clone(),
    )
}

fn instant_of(at: Timestamp) -> Instant {
    let wait = Timestamp::now().duration_until(at);
    Instant::now() + Duration::try_from(wait).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests;
