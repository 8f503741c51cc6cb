//! The one writer and its readers (R5).
//!
//! The writer keeps the last complete list of every source (R6) and what the ledger knows; each
//! update replaces one of them and everything is compiled anew. There is nothing incremental that
//! could go stale.

use super::closed::Known;
use super::compile::{Inputs, compile};
use super::index::Index;
use super::price::{CounterSets, LastSuccess};
use super::report::{Report, SourceReport};
use super::resolve::Pins;
use super::{PathRecord, Table, Update};
use crate::offer::Offer;
use crate::pricing::Settings;
use arc_swap::ArcSwap;
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What [`TableWriter::apply`] did, for the task that owns the writer.
#[derive(Debug)]
pub struct Applied {
    /// The table that was published, or the one that stays (after `Failed`).
    pub table: Arc<Table>,
    /// Paths whose record changed and must be written to the ledger; empty when nothing changed.
    pub path_changes: Vec<PathRecord>,
    /// Paths to forget in the ledger (released, replaced).
    pub path_removals: Vec<PathRecord>,
    /// When the next `Tick` is needed (a drain or retention ends).
    pub next_tick: Option<Timestamp>,
}

/// The only writer. Not `Clone` on purpose: two writers could publish generations out of order (R5).
#[derive(Debug)]
pub struct TableWriter {
    published: Arc<ArcSwap<Table>>,
    settings: Arc<Settings>,
    /// The last complete list of each source; `file` is one of them.
    lists: BTreeMap<&'static str, Vec<Arc<Offer>>>,
    /// Sources in the order of the report; the file comes first (O2).
    sources: Vec<SourceReport>,
    known: Known,
    last_success: LastSuccess,
}

/// The cheap reader.
#[derive(Debug, Clone)]
pub struct TableReader {
    published: Arc<ArcSwap<Table>>,
}

/// The source that delivers the pricing document.
const FILE: &str = "file";

impl TableWriter {
    /// An empty table of generation 0 (nothing resolves) and its reader.
    #[must_use]
    pub fn new() -> (Self, TableReader) {
        let settings = Arc::new(Settings::default());
        let table = Table {
            generation: 0,
            built_at: Timestamp::UNIX_EPOCH,
            settings: settings.clone(),
            report: Arc::default(),
            routes: Arc::default(),
            index: Arc::new(Index::new(0)),
            pins: Arc::new(Pins::new()),
            counters: Arc::new(CounterSets::new()),
            endpoints: HashMap::new(),
            next_tick: None,
        };
        let published = Arc::new(ArcSwap::from_pointee(table));
        let reader = TableReader {
            published: published.clone(),
        };
        let writer = Self {
            published,
            settings,
            lists: BTreeMap::new(),
            sources: vec![SourceReport::waiting(FILE)],
            known: Known::default(),
            last_success: LastSuccess::new(),
        };
        (writer, reader)
    }

    /// Names a source beside the file. Until each has delivered a complete list, no pattern is taken
    /// for removed (R4, R6).
    pub fn expect_source(&mut self, name: &'static str) {
        let source = self.source(name);
        self.put_source(source);
    }

    /// What the ledger knows of the last payment of an offer, for
    /// `last_payment_success_seconds`: `chain` is CAIP-2, `asset` checksummed. May arrive before or
    /// after the offer.
    pub fn restore_last_success(
        &mut self,
        namespace: &str,
        name: &str,
        chain: &str,
        asset: &str,
        unix_seconds: u64,
    ) {
        for ((_, labels), counters) in self.published.load().counters.iter() {
            let shown = [
                &labels.namespace,
                &labels.name,
                &labels.chain,
                &labels.asset,
            ];
            if shown.map(|label| &**label) == [namespace, name, chain, asset] {
                counters.restore_last_success(unix_seconds);
            }
        }
        let key = [namespace, name, chain, asset].map(str::to_owned).into();
        let seconds = self.last_success.entry(key).or_default();
        *seconds = unix_seconds.max(*seconds);
    }

    /// Applies one update and publishes the new table. Pure but for the publication.
    pub fn apply(&mut self, update: Update, now: Timestamp) -> Applied {
        // What the update replaces is freed after the publication: freeing 100,000 offers takes time.
        let replaced = match update {
            Update::Document { settings, offers } => {
                self.settings = Arc::from(settings);
                self.accept(FILE, offers, now)
            }
            Update::Offers { source, offers } => self.accept(source, offers, now),
            Update::Failed { source, error } => return self.fail(source, error, now),
            Update::Remembered { paths } => {
                self.known.remember(paths);
                None
            }
            Update::Tick => {
                let current = self.published.load_full();
                if current.next_tick.is_none_or(|due| due > now) {
                    return Applied::unchanged(current);
                }
                None
            }
        };
        let applied = self.rebuild(now);
        drop(replaced);
        applied
    }

    /// Takes a complete list (R6); returns the one that it replaces.
    fn accept(
        &mut self,
        name: &'static str,
        offers: Vec<Arc<Offer>>,
        now: Timestamp,
    ) -> Option<Vec<Arc<Offer>>> {
        let replaced = self.lists.insert(name, offers);
        let mut source = self.source(name);
        source.ok = true;
        source.last_success = Some(now);
        source.error = None;
        self.put_source(source);
        replaced
    }

    /// The last good routes stay (R6); only the report says that their source is in trouble.
    fn fail(&mut self, name: &'static str, error: String, now: Timestamp) -> Applied {
        let mut source = self.source(name);
        if !source.ok && source.error.as_deref() == Some(&error) {
            return Applied::unchanged(self.published.load_full());
        }
        source.ok = false;
        source.error = Some(error);
        self.put_source(source);
        let current = self.published.load();
        let report = Report {
            sources: self.sources.clone(),
            routes: current.report.routes.clone(),
        };
        let table = Arc::new(Table {
            generation: current.generation + 1,
            built_at: now,
            settings: current.settings.clone(),
            report: Arc::new(report),
            routes: current.routes.clone(),
            index: current.index.clone(),
            pins: current.pins.clone(),
            counters: current.counters.clone(),
            endpoints: current.endpoints.clone(),
            next_tick: current.next_tick,
        });
        self.published.store(table.clone());
        Applied::unchanged(table)
    }

    fn rebuild(&mut self, now: Timestamp) -> Applied {
        let previous = self.published.load_full();
        let complete = self
            .sources
            .iter()
            .all(|source| source.last_success.is_some());
        let offers = self.sources.iter().flat_map(|source| {
            let list = self.lists.get(source.name).map_or(&[][..], Vec::as_slice);
            list.iter().map(|offer| (source.name, &**offer))
        });
        let inputs = Inputs {
            settings: &self.settings,
            offers: offers.collect(),
            sources: &self.sources,
            complete,
            previous: &previous,
            last_success: &self.last_success,
            now,
        };
        let table = Arc::new(compile(&inputs, &mut self.known));
        self.published.store(table.clone());
        let (path_changes, path_removals) = self.known.take_writes();
        Applied {
            next_tick: table.next_tick,
            table,
            path_changes,
            path_removals,
        }
    }

    /// The state of a source; one that was never heard of is waiting.
    fn source(&self, name: &'static str) -> SourceReport {
        let found = self.sources.iter().find(|source| source.name == name);
        found
            .cloned()
            .unwrap_or_else(|| SourceReport::waiting(name))
    }

    fn put_source(&mut self, source: SourceReport) {
        match self
            .sources
            .iter_mut()
            .find(|there| there.name == source.name)
        {
            Some(there) => *there = source,
            None => self.sources.push(source),
        }
    }
}

impl Applied {
    fn unchanged(table: Arc<Table>) -> Self {
        let next_tick = table.next_tick;
        Self {
            table,
            path_changes: Vec::new(),
            path_removals: Vec::new(),
            next_tick,
        }
    }
}

impl SourceReport {
    const fn waiting(name: &'static str) -> Self {
        Self {
            name,
            ok: false,
            last_success: None,
            error: None,
        }
    }
}

impl TableReader {
    /// The current snapshot, without reference counting.
    #[must_use]
    pub fn load(&self) -> arc_swap::Guard<Arc<Table>> {
        self.published.load()
    }

    /// The current snapshot, to keep across awaits.
    #[must_use]
    pub fn load_full(&self) -> Arc<Table> {
        self.published.load_full()
    }
}
