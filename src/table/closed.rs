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
    record: Arc<PathRecord>,
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
            match self.get_mut(&record) {
                // The same owner: what this process saw last is newer.
                Some(mine) if mine.record.same_owner(&record) => {
                    mine.unsaved = *mine.record != record;
                    let is_newer = mine.unsaved;
                    if !mine.record.same_offer(&record) {
                        self.removals.push(record);
                    }
                    self.unsaved |= is_newer;
                }
                Some(_) | None => self.put(&Arc::new(record), 0, false),
            }
        }
        self.remembered = true;
        self.version += 1;
    }

    /// Whether the ledger remembers this very offer serving this pattern.
    pub(super) fn is_incumbent(&self, record: &PathRecord) -> bool {
        self.remembered
            && self.get(record).is_some_and(|entry| {
                entry.record.closed_at.is_none()
                    && entry.record.base == record.base
                    && entry.record.same_offer(record)
            })
    }

    /// A number that changes with what is closed.
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    fn get(&self, record: &PathRecord) -> Option<&Entry> {
        let hash = self.keyed.hash_one(key(record));
        self.records
            .find(hash, |entry| key(&entry.record) == key(record))
    }

    fn get_mut(&mut self, record: &PathRecord) -> Option<&mut Entry> {
        let hash = self.keyed.hash_one(key(record));
        self.records
            .find_mut(hash, |entry| key(&entry.record) == key(record))
    }

    /// Puts a record at its place, whatever stood there.
    fn put(&mut self, record: &Arc<PathRecord>, seen: u64, unsaved: bool) {
        let Self { records, keyed, .. } = self;
        let place = records.entry(
            keyed.hash_one(key(record)),
            |entry| key(&entry.record) == key(record),
            |entry| keyed.hash_one(key(&entry.record)),
        );
        let entry = Entry {
            record: record.clone(),
            seen,
            routes: 1,
            is_closed: record.closed_at.is_some(),
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

    fn take(&mut self, record: &PathRecord) -> Option<Entry> {
        let hash = self.keyed.hash_one(key(record));
        let found = self
            .records
            .find_entry(hash, |entry| key(&entry.record) == key(record));
        found.ok().map(|entry| entry.remove().0)
    }

    /// All closed records, in order.
    pub(super) fn closed(&mut self) -> Arc<[Arc<PathRecord>]> {
        match &self.closed {
            Some((version, closed)) if *version == self.version => closed.clone(),
            Some(_) | None => {
                let entries = self.records.iter().filter(|entry| entry.is_closed);
                let mut closed: Vec<_> = entries.map(|entry| entry.record.clone()).collect();
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
            if let Some(entry) = self.get_mut(&piece.record)
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
            self.free(&piece.record, |entry| entry.seen != round);
        }
        if complete {
            self.close_unseen(now);
        }
    }

    /// A route of an accepted offer stands there.
    fn record(&mut self, record: &Arc<PathRecord>) {
        let round = self.round;
        let Some(entry) = self.get_mut(record) else {
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
        if Arc::ptr_eq(&entry.record, record) {
            return;
        }
        let old = std::mem::replace(&mut entry.record, record.clone());
        entry.is_closed = record.closed_at.is_some();
        if *old == **record {
            return;
        }
        entry.unsaved = true;
        self.unsaved = true;
        if !old.same_offer(record) || old.pattern != record.pattern {
            self.removals.push(PathRecord::clone(&old));
        }
        self.version += 1;
    }

    /// A path was made free on purpose: what its owner left there before is forgotten.
    fn free(&mut self, record: &PathRecord, is_left: impl Fn(&Entry) -> bool) {
        self.freed.insert(self.keyed.hash_one(key(record)));
        let outlived = self
            .get(record)
            .is_some_and(|entry| is_left(entry) && entry.record.same_owner(record));
        if outlived && let Some(entry) = self.take(record) {
            self.removals.push(PathRecord::clone(&entry.record));
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
        for path in paths.iter().filter(|path| path.closed_at.is_some()) {
            let is_closed = self.get(path).is_some_and(|entry| *entry.record == *path);
            if is_closed && let Some(entry) = self.take(path) {
                // The command has removed it; a write that was on its way may have brought it back.
                self.removals.push(PathRecord::clone(&entry.record));
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
        let is_walled = |record: &PathRecord| {
            let prefix = literal_prefix(&record.pattern);
            managed.iter().any(|(_, subtree)| subtree.matches(&prefix))
        };
        self.records.retain(|Entry { record, .. }| {
            let goes = record.closed_at.is_some()
                && !record.uid.is_empty()
                && drops.contains_key(&(record.namespace.to_string(), record.base.to_string()))
                && is_walled(record);
            if goes {
                removals.push(PathRecord::clone(record));
            }
            !goes
        });
        for record in drops.into_values() {
            if self.get(&record).is_none() {
                self.put(&Arc::new(record), 0, true);
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
                    changes.push(PathRecord::clone(&entry.record));
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
    fn close(&mut self, now: Timestamp) {
        self.record = Arc::new(PathRecord {
            closed_at: Some(now),
            ..PathRecord::clone(&self.record)
        });
        self.is_closed = true;
        self.unsaved = true;
    }

    /// Whether its record is of the same offer as `record`; nearly always it is that very one.
    fn is_of(&self, record: &Arc<PathRecord>) -> bool {
        Arc::ptr_eq(&self.record, record) || self.record.same_offer(record)
    }
}

/// What a record is found by: its host, and its pattern without a trailing slash.
fn key(record: &PathRecord) -> (Option<&str>, &str) {
    let place = match record.pattern.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed,
    };
    (record.host.as_deref(), place)
}

impl PathRecord {
    /// Whether both are of one offer (one UID; one name for the operator's).
    fn same_offer(&self, other: &Self) -> bool {
        self.namespace == other.namespace && self.name == other.name && self.uid == other.uid
    }

    /// Whether both belong to one owner: the operator (no UID), or one namespace.
    fn same_owner(&self, other: &Self) -> bool {
        match (self.uid.is_empty(), other.uid.is_empty()) {
            (true, true) => true,
            (false, false) => self.namespace == other.namespace,
            (true, false) | (false, true) => false,
        }
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
