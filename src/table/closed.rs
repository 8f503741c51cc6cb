//! Paths that were gated once: what the ledger remembers, and what is closed because of it (R4).
//!
//! Every gated pattern of the table has a record, written while it is live (`closed_at` is none), so
//! that a removal while the process was down is noticed at the next start. A record whose pattern
//! left the table is closed: 410 for the retention, reserved for its namespace (O3); afterwards 403
//! for good, until the operator releases it. A record is forgotten only when the same path is served
//! again, its owner makes it free explicitly, or the operator releases it: then the path is nobody's
//! and the next owner may take it.
//!
//! Nothing closes before every expected source has delivered a complete list (R6): until then an
//! absent pattern may only be late. Nothing is reported to be written before the ledger was read,
//! because a record written too early could replace the one that reserves the path.

mod exchange;
mod record;

pub(super) use record::{Path, Record};

use super::PathRecord;
use super::edges::Keyed;
use super::prepare::Piece;
use crate::route::{Pattern, literal_prefix};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

/// All records by path.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By host and pattern text without a trailing slash.
    records: HashTable<Entry>,
    keyed: Keyed,
    /// Whether the ledger was read.
    pub(super) remembered: bool,
    /// Counts reconciliations; an entry that one did not touch is absent.
    round: u64,
    /// Counts changes of what is closed.
    version: u64,
    /// What is closed, as of a version.
    closed: Option<(u64, Arc<[Arc<PathRecord>]>)>,
    /// Whether any entry is unsaved.
    unsaved: bool,
    removals: Vec<PathRecord>,
    /// Hashes of the paths that were free on purpose when all routes were looked at.
    freed: HashSet<u64>,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    seen: u64,
    /// How many routes of accepted offers stand here, while it is live.
    routes: u32,
    /// As the record says, without a look at it: all of them are gone through.
    is_closed: bool,
    /// Whether the ledger has yet to be told.
    unsaved: bool,
}

/// One closed subtree or pattern, for the table and the report.
#[derive(Debug, Clone)]
pub(super) struct Closure {
    /// The record.
    pub(super) record: Arc<PathRecord>,
    /// What is closed.
    pub(super) pattern: Pattern,
    /// Whether it is the collapsed base of an offer that is gone, not the record's own pattern.
    pub(super) collapsed: bool,
    /// End of the 410 and of the reservation.
    pub(super) until: Timestamp,
}

impl Known {
    /// Takes over what the ledger knows. What this process closed or saw live meanwhile stays only
    /// where the ledger has nothing: its record is older and may reserve the path (O3).
    pub(super) fn remember(&mut self, paths: Vec<PathRecord>) {
        for record in paths {
            let path = Path::from(&record);
            match self.get_mut(path) {
                // The same owner: what this process saw last is newer.
                Some(mine) if mine.path().same_owner(path) => {
                    mine.unsaved = mine.path() != path;
                    let (is_newer, is_others) = (mine.unsaved, !mine.path().same_offer(path));
                    if is_others {
                        self.removals.push(record);
                    }
                    self.unsaved |= is_newer;
                }
                Some(_) | None => self.put(&Record::Kept(Arc::new(record)), 0, false),
            }
        }
        self.remembered = true;
        self.version += 1;
    }

    /// Whether the ledger remembers this very offer serving this pattern.
    pub(super) fn is_incumbent(&self, path: Path<'_>) -> bool {
        self.remembered
            && self.get(path).is_some_and(|entry| {
                let there = entry.path();
                there.closed_at.is_none() && there.base == path.base && there.same_offer(path)
            })
    }

    /// A number that changes with what is closed.
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    fn get(&self, path: Path<'_>) -> Option<&Entry> {
        let hash = self.keyed.hash_one(path.key());
        self.records
            .find(hash, |entry| entry.path().key() == path.key())
    }

    fn get_mut(&mut self, path: Path<'_>) -> Option<&mut Entry> {
        let hash = self.keyed.hash_one(path.key());
        self.records
            .find_mut(hash, |entry| entry.path().key() == path.key())
    }

    /// Puts a record at its place, whatever stood there.
    fn put(&mut self, record: &Record, seen: u64, unsaved: bool) {
        let Self { records, keyed, .. } = self;
        let path = record.path();
        let place = records.entry(
            keyed.hash_one(path.key()),
            |entry| entry.path().key() == path.key(),
            |entry| keyed.hash_one(entry.path().key()),
        );
        let entry = Entry {
            record: record.clone(),
            seen,
            routes: 1,
            is_closed: path.closed_at.is_some(),
            unsaved,
        };
        match place {
            Place::Occupied(mut there) => *there.get_mut() = entry,
            Place::Vacant(vacant) => {
                vacant.insert(entry);
            }
        }
        self.unsaved |= unsaved;
    }

    fn take(&mut self, path: Path<'_>) -> Option<Entry> {
        let hash = self.keyed.hash_one(path.key());
        let found = self
            .records
            .find_entry(hash, |entry| entry.path().key() == path.key());
        found.ok().map(|entry| entry.remove().0)
    }

    /// All closed records, in order.
    pub(super) fn closed(&mut self) -> Arc<[Arc<PathRecord>]> {
        match &self.closed {
            Some((version, closed)) if *version == self.version => closed.clone(),
            Some(_) | None => {
                let entries = self.records.iter().filter(|entry| entry.is_closed);
                let mut closed: Vec<_> = entries.map(|entry| entry.record.kept()).collect();
                closed.sort_unstable();
                let closed: Arc<[_]> = closed.into();
                self.closed = Some((self.version, closed.clone()));
                closed
            }
        }
    }

    /// Closes the live records that no present offer declares any more.
    pub(super) fn close_absent<'a>(
        &mut self,
        declared: impl Iterator<Item = &'a Arc<Piece>>,
        now: Timestamp,
    ) {
        self.see(declared);
        self.close_unseen(now);
    }

    /// Begins a round: marks the records of the very offers that declare these.
    fn see<'a>(&mut self, declared: impl Iterator<Item = &'a Arc<Piece>>) {
        self.round += 1;
        let round = self.round;
        for piece in declared.filter(|piece| piece.is_recorded()) {
            if let Some(entry) = self.get_mut(piece.record.path())
                && entry.is_of(&piece.record)
            {
                entry.seen = round;
            }
        }
    }

    /// Records what is live now, given the routes of the accepted offers: those that are gated, and
    /// the patterns that their owner made free explicitly. Live records that are in neither close if
    /// `complete`.
    pub(super) fn reconcile<'a>(
        &mut self,
        accepted: impl Iterator<Item = &'a Arc<Piece>> + Clone,
        complete: bool,
        now: Timestamp,
    ) {
        self.round += 1;
        for piece in accepted.clone().filter(|piece| piece.is_recorded()) {
            self.record(&piece.record);
        }
        self.freed.clear();
        for piece in accepted.filter(|piece| piece.is_freed()) {
            let round = self.round;
            self.free(piece.record.path(), |entry| entry.seen != round);
        }
        if complete {
            self.close_unseen(now);
        }
    }

    /// A route of an accepted offer stands there.
    fn record(&mut self, record: &Record) {
        let round = self.round;
        let Some(entry) = self.get_mut(record.path()) else {
            self.put(record, round, true);
            return;
        };
        // The first of two equal patterns is the one that is served.
        if entry.seen == round {
            entry.routes = entry.routes.saturating_add(1);
            return;
        }
        entry.seen = round;
        entry.routes = 1;
        if entry.record.is(record) {
            return;
        }
        let old = std::mem::replace(&mut entry.record, record.clone());
        entry.is_closed = false;
        let (before, now) = (old.path(), record.path());
        if before == now {
            return;
        }
        entry.unsaved = true;
        self.unsaved = true;
        if !before.same_offer(now) || before.pattern != now.pattern {
            self.removals.push(old.to_record());
        }
        self.version += 1;
    }

    /// A path was made free on purpose: what its owner left there before is forgotten.
    fn free(&mut self, path: Path<'_>, is_left: impl Fn(&Entry) -> bool) {
        self.freed.insert(self.keyed.hash_one(path.key()));
        let outlived = self
            .get(path)
            .is_some_and(|entry| is_left(entry) && entry.path().same_owner(path));
        if outlived && let Some(entry) = self.take(path) {
            self.removals.push(entry.record.to_record());
            self.version += 1;
        }
    }

    fn close_unseen(&mut self, now: Timestamp) {
        let mut closed = 0;
        for entry in &mut self.records {
            if entry.seen != self.round && !entry.is_closed {
                entry.close(now);
                closed += 1;
            }
        }
        self.unsaved |= closed > 0;
        self.version += closed;
    }

    /// Forgets closed paths that the operator released; whether any of them was closed here, at that
    /// very time. A path that is live, or was closed again since, is another matter and stays.
    pub(super) fn release(&mut self, paths: &[PathRecord]) -> bool {
        let mut is_changed = false;
        for record in paths.iter().filter(|path| path.closed_at.is_some()) {
            let path = Path::from(record);
            let is_closed = self.get(path).is_some_and(|entry| entry.path() == path);
            if is_closed && self.take(path).is_some() {
                // The command has removed it; a write that was on its way may have brought it back.
                self.removals.push(record.clone());
                self.version += 1;
                is_changed = true;
            }
        }
        is_changed
    }

    /// Bounds what a namespace may leave behind (O5): past `cap` closed offers its oldest ones that
    /// lie in one of `managed` give way to one wall around that whole prefix. The wall is a record
    /// closed at the epoch: it reserves nothing and never ends. What lies outside stays.
    pub(super) fn enforce_cap(&mut self, cap: usize, managed: &[(String, Pattern)]) {
        let closed = self.closed();
        let mut by_namespace: BTreeMap<&str, Vec<(Timestamp, &str)>> = BTreeMap::new();
        for record in closed.iter() {
            if let Some(closed_at) = record.closed_at
                && !record.uid.is_empty()
            {
                let bases = by_namespace.entry(&record.namespace).or_default();
                bases.push((closed_at, &record.base));
            }
        }
        let mut drops: BTreeMap<(String, String), PathRecord> = BTreeMap::new();
        for (namespace, mut bases) in by_namespace {
            if bases.len() <= cap {
                continue;
            }
            // Newest closure of each base first.
            bases.sort_unstable_by(|left, right| right.cmp(left));
            let mut distinct = HashSet::new();
            bases.retain(|(_, base)| distinct.insert(*base));
            for (_, base) in bases.into_iter().skip(cap) {
                let Some((prefix, _)) = managed.iter().find(|(_, subtree)| subtree.matches(base))
                else {
                    continue;
                };
                let wall = PathRecord {
                    host: None,
                    pattern: format!("{}/*", prefix.trim_end_matches('/')).into(),
                    namespace: namespace.into(),
                    name: Arc::default(),
                    uid: Arc::default(),
                    base: prefix.as_str().into(),
                    closed_at: Some(Timestamp::UNIX_EPOCH),
                };
                drops.insert((namespace.to_owned(), base.to_owned()), wall);
            }
        }
        if drops.is_empty() {
            return;
        }
        let removals = &mut self.removals;
        // A pattern outside its offer's base path may lie outside the wall: it stays.
        let is_walled = |path: Path<'_>| {
            let prefix = literal_prefix(path.pattern);
            managed.iter().any(|(_, subtree)| subtree.matches(&prefix))
        };
        self.records.retain(|entry| {
            let path = entry.path();
            let goes = path.closed_at.is_some()
                && !path.uid.is_empty()
                && drops.contains_key(&(path.namespace.to_owned(), path.base.to_owned()))
                && is_walled(path);
            if goes {
                removals.push(entry.record.to_record());
            }
            !goes
        });
        for record in drops.into_values() {
            if self.get(Path::from(&record)).is_none() {
                self.put(&Record::Kept(Arc::new(record)), 0, true);
            }
        }
        self.version += 1;
    }

    /// The UIDs of the offers that left something closed.
    pub(super) fn closed_uids(&mut self) -> HashSet<Arc<str>> {
        let closed = self.closed();
        let uids = closed.iter().map(|record| &record.uid);
        uids.filter(|uid| !uid.is_empty()).cloned().collect()
    }

    /// Everything closed, in a stable order. An offer that is gone (`present` does not hold its UID)
    /// also closes its base path (O5).
    pub(super) fn closures(
        &mut self,
        retention: Duration,
        present: &HashSet<Arc<str>>,
    ) -> Vec<Closure> {
        let mut closures: Vec<Closure> = Vec::new();
        let mut bases: HashMap<_, usize> = HashMap::new();
        let closed = self.closed();
        for record in closed.iter() {
            let Some(closed_at) = record.closed_at else {
                continue;
            };
            let until = add(closed_at, retention);
            let Some(pattern) = compile(&record.pattern) else {
                continue;
            };
            closures.push(Closure {
                record: record.clone(),
                pattern,
                collapsed: false,
                until,
            });
            let gone = !record.uid.is_empty() && !present.contains(&record.uid);
            if !gone || &*record.base == "/" {
                continue;
            }
            // A base stays closed as long as the last of its patterns.
            let base = (&record.host, &record.base, &record.uid);
            match bases.get(&base).and_then(|at| closures.get_mut(*at)) {
                Some(there) if there.until < until => {
                    there.record = record.clone();
                    there.until = until;
                }
                Some(_) => {}
                None => {
                    if let Ok(pattern) = Pattern::subtree(&record.base) {
                        bases.insert(base, closures.len());
                        closures.push(Closure {
                            record: record.clone(),
                            pattern,
                            collapsed: true,
                            until,
                        });
                    }
                }
            }
        }
        // Of two at one place the one that lasts longer comes first.
        let order = |left: &Closure, right: &Closure| {
            let place = left.order().cmp(&right.order());
            place.then_with(|| right.until.cmp(&left.until))
        };
        closures.sort_by(order);
        closures
    }

    /// Forgets what it could collect again.
    #[cfg(test)]
    pub(super) fn forget(&mut self) {
        self.closed = None;
    }

    /// What must be written to and forgotten by the ledger since the last call; nothing before the
    /// ledger was read.
    pub(super) fn take_writes(&mut self) -> (Vec<PathRecord>, Vec<PathRecord>) {
        if !self.remembered {
            return (Vec::new(), Vec::new());
        }
        let mut changes = Vec::new();
        if std::mem::take(&mut self.unsaved) {
            for entry in &mut self.records {
                if std::mem::take(&mut entry.unsaved) {
                    changes.push(entry.record.to_record());
                }
            }
        }
        changes.sort_unstable();
        (changes, std::mem::take(&mut self.removals))
    }
}

impl Closure {
    fn order(&self) -> (&Option<Arc<str>>, &str, bool) {
        (&self.record.host, self.pattern.as_str(), self.collapsed)
    }
}

impl Entry {
    fn path(&self) -> Path<'_> {
        self.record.path()
    }

    fn close(&mut self, now: Timestamp) {
        self.record = Record::Kept(Arc::new(PathRecord {
            closed_at: Some(now),
            ..self.record.to_record()
        }));
        self.is_closed = true;
        self.unsaved = true;
    }

    /// Whether its record is of the same offer as `record`; nearly always it is that very one.
    fn is_of(&self, record: &Record) -> bool {
        self.record.is(record) || self.path().same_offer(record.path())
    }
}

/// A recorded pattern; one that an older version could compile and this one cannot closes its
/// literal prefix.
fn compile(text: &str) -> Option<Pattern> {
    Pattern::parse(text)
        .or_else(|_| Pattern::subtree(&literal_prefix(text)))
        .ok()
}

/// `at + duration`, saturating.
pub(super) fn add(at: Timestamp, duration: Duration) -> Timestamp {
    SignedDuration::try_from(duration)
        .ok()
        .and_then(|duration| at.checked_add(duration).ok())
        .unwrap_or(Timestamp::MAX)
}
