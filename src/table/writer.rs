//! The one writer and its readers (R5).
//!
//! The writer keeps the last complete list of every source (R6) and what the ledger knows; each
//! update replaces one of them, and the table is what a compilation of all of them from nothing would
//! give. It is not made from nothing: what was compiled of an offer or a route stays with it until
//! the offer, the route or what it depends on is another ([`Compiler`] says when). A property test
//! holds a writer that keeps everything against one that forgets it before every update.
//!
//! What is replaced is freed by the writer, after the publication: a request that lets go of an old
//! table must not find itself freeing 100,000 routes.

use super::compile::{Compiler, Inputs};
use super::index::Index;
use super::report::{Report, SourceReport};
use super::{PathRecord, Table, Update};
use crate::offer::Offer;
use crate::pricing::Settings;
use arc_swap::ArcSwap;
use jiff::Timestamp;
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
    /// Sources in the order of the report; the file comes first (O2).
    sources: Vec<SourceReport>,
    compiler: Compiler,
    /// Tables that some request may still read.
    retired: Vec<Arc<Table>>,
}

/// The cheap reader.
#[derive(Debug, Clone)]
pub struct TableReader {
    published: Arc<ArcSwap<Table>>,
}

/// The source that delivers the pricing document.
const FILE: &str = "file";
/// How many old tables wait for their last reader. Whoever holds an older one frees it.
const RETIRED: usize = 8;

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
            pins: Arc::default(),
            counters: Arc::default(),
            next_tick: None,
        };
        let published = Arc::new(ArcSwap::from_pointee(table));
        let reader = TableReader {
            published: published.clone(),
        };
        let writer = Self {
            published,
            settings,
            sources: vec![SourceReport::waiting(FILE)],
            compiler: Compiler::default(),
            retired: Vec::new(),
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
        let offer = [namespace, name, chain, asset];
        self.compiler.pricer.counters.restore(offer, unix_seconds);
    }

    /// Applies one update and publishes the new table. Pure but for the publication.
    pub fn apply(&mut self, update: Update, now: Timestamp) -> Applied {
        if let Some(applied) = self.take(update, now) {
            return applied;
        }
        let table = self.build(now);
        let replaced = self.swap(&table);
        self.close(table, replaced)
    }

    /// Takes note of an update; what it came to when no table has to be built for it.
    pub(super) fn take(&mut self, update: Update, now: Timestamp) -> Option<Applied> {
        match update {
            Update::Document { settings, offers } => {
                self.settings = Arc::from(settings);
                self.accept(FILE, offers, now);
            }
            Update::Offers { source, offers } => self.accept(source, offers, now),
            Update::Failed { source, error } => return Some(self.fail(source, error, now)),
            Update::Remembered { paths } => self.compiler.known.remember(paths),
            Update::Released { paths } => {
                if !self.compiler.known.release(&paths) {
                    return Some(Applied::unchanged(self.published.load_full()));
                }
            }
            Update::Tick => {
                let current = self.published.load_full();
                if current.next_tick.is_none_or(|due| due > now) {
                    return Some(Applied::unchanged(current));
                }
            }
        }
        None
    }

    /// Takes a complete list (R6).
    fn accept(&mut self, name: &'static str, offers: Vec<Arc<Offer>>, now: Timestamp) {
        self.compiler.replace(name, offers);
        let mut source = self.source(name);
        source.ok = true;
        source.last_success = Some(now);
        source.error = None;
        self.put_source(source);
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
            ..Report::clone(&current.report)
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
            next_tick: current.next_tick,
        });
        self.published.store(table.clone());
        Applied::unchanged(table)
    }

    /// The next table, which nobody sees yet.
    pub(super) fn build(&mut self, now: Timestamp) -> Arc<Table> {
        let previous = self.published.load_full();
        let complete = self
            .sources
            .iter()
            .all(|source| source.last_success.is_some());
        let inputs = Inputs {
            settings: &self.settings,
            sources: &self.sources,
            complete,
            previous: &previous,
            now,
        };
        Arc::new(self.compiler.compile(&inputs))
    }

    /// From here on requests see this table; what they saw until now.
    pub(super) fn swap(&self, table: &Arc<Table>) -> Arc<Table> {
        self.published.swap(table.clone())
    }

    /// Lets go of what hung on the table before, once no request finds it any more.
    pub(super) fn close(&mut self, table: Arc<Table>, replaced: Arc<Table>) -> Applied {
        let (path_changes, path_removals) = self.compiler.known.take_writes();
        drop(self.compiler.leftovers());
        self.retire(replaced);
        Applied {
            next_tick: table.next_tick,
            table,
            path_changes,
            path_removals,
        }
    }

    /// Keeps an old table while a request reads it, so that the request does not have to free it.
    fn retire(&mut self, table: Arc<Table>) {
        self.retired.push(table);
        self.retired.retain(|table| Arc::strong_count(table) > 1);
        let surplus = self.retired.len().saturating_sub(RETIRED);
        self.retired.drain(..surplus);
    }

    /// What is closed.
    #[cfg(test)]
    pub(super) fn known(&mut self) -> Arc<[Arc<super::PathRecord>]> {
        self.compiler.known.closed()
    }

    /// How many tables were the last one amended.
    #[cfg(test)]
    pub(super) const fn amended(&self) -> usize {
        self.compiler.amended
    }

    /// Forgets what it could make again.
    #[cfg(test)]
    pub(super) fn forget(&mut self) {
        self.compiler.forget();
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
