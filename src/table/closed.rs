//! Paths that were gated once: what the ledger remembers, and what is closed because of it (R4).
//!
//! Every gated pattern of the table has a record, written while it is live (`closed_at` is none), so
//! that a removal while the process was down is noticed at the next start. A record whose pattern
//! left the table is closed: 410 for the retention, reserved for its namespace (O3); afterwards 403
//! for good, until the operator releases it. A record is forgotten only when the same path is served
//! again or its owner makes it free explicitly.
//!
//! Nothing closes before every expected source has delivered a complete list (R6): until then an
//! absent pattern may only be late. Nothing is reported to be written before the ledger was read,
//! because a record written too early could replace the one that reserves the path.

use super::PathRecord;
use crate::route::{Pattern, literal_prefix};
use jiff::{SignedDuration, Timestamp};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// All records by path.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By host, then by pattern text without a trailing slash; nested to be asked by reference.
    records: HashMap<Option<String>, HashMap<String, Entry>>,
    /// Whether the ledger was read.
    pub(super) remembered: bool,
    /// Counts reconciliations; an entry that one did not touch is absent.
    round: u64,
    /// Counts changes of what is closed.
    version: u64,
    removals: Vec<PathRecord>,
}

#[derive(Debug)]
struct Entry {
    record: PathRecord,
    seen: u64,
    /// Whether the ledger has yet to be told.
    unsaved: bool,
}

/// One closed subtree or pattern, for the table and the report.
#[derive(Debug, Clone)]
pub(super) struct Closure {
    /// The record.
    pub(super) record: PathRecord,
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
                    mine.unsaved = mine.record != record;
                    if !mine.record.same_offer(&record) {
                        self.removals.push(record);
                    }
                }
                Some(_) | None => self.put(Entry {
                    record,
                    seen: 0,
                    unsaved: false,
                }),
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
        self.records.get(&record.host)?.get(place(record))
    }

    fn get_mut(&mut self, record: &PathRecord) -> Option<&mut Entry> {
        self.records.get_mut(&record.host)?.get_mut(place(record))
    }

    fn put(&mut self, entry: Entry) {
        let patterns = self.records.entry(entry.record.host.clone()).or_default();
        patterns.insert(place(&entry.record).to_owned(), entry);
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.records.values().flat_map(HashMap::values)
    }

    /// Closes the live records that no present offer declares any more.
    pub(super) fn close_absent<'a>(
        &mut self,
        declared: impl Iterator<Item = &'a PathRecord>,
        now: Timestamp,
    ) {
        self.round += 1;
        for record in declared {
            let round = self.round;
            if let Some(entry) = self.get_mut(record)
                && entry.record.same_offer(record)
            {
                entry.seen = round;
            }
        }
        self.close_unseen(now);
    }

    /// Records what is live now. `free` are patterns their owner made free explicitly. Live records
    /// that are in neither close if `complete`.
    pub(super) fn reconcile<'a>(
        &mut self,
        live: impl Iterator<Item = &'a PathRecord>,
        free: impl Iterator<Item = &'a PathRecord>,
        complete: bool,
        now: Timestamp,
    ) {
        self.round += 1;
        let round = self.round;
        for record in live {
            if let Some(entry) = self.get_mut(record) {
                // The first of two equal patterns is the one that is served.
                if entry.seen == round {
                    continue;
                }
                if entry.record == *record {
                    entry.seen = round;
                    continue;
                }
                let old = std::mem::replace(&mut entry.record, record.clone());
                entry.seen = round;
                entry.unsaved = true;
                if !old.same_offer(record) || old.pattern != record.pattern {
                    self.removals.push(old);
                }
                self.version += 1;
            } else {
                self.put(Entry {
                    record: record.clone(),
                    seen: round,
                    unsaved: true,
                });
            }
        }
        for record in free {
            let outlived = self
                .get(record)
                .is_some_and(|entry| entry.seen != round && entry.record.same_owner(record));
            if outlived && let Some(patterns) = self.records.get_mut(&record.host) {
                self.removals
                    .extend(patterns.remove(place(record)).map(|entry| entry.record));
                self.version += 1;
            }
        }
        if complete {
            self.close_unseen(now);
        }
    }

    fn close_unseen(&mut self, now: Timestamp) {
        for entry in self.records.values_mut().flat_map(HashMap::values_mut) {
            if entry.record.closed_at.is_none() && entry.seen != self.round {
                entry.record.closed_at = Some(now);
                entry.unsaved = true;
                self.version += 1;
            }
        }
    }

    /// Bounds what a namespace may leave behind (O5): past `cap` closed offers its oldest ones that
    /// lie in one of `managed` give way to one wall around that whole prefix. The wall is a record
    /// closed at the epoch: it reserves nothing and never ends. What lies outside stays.
    pub(super) fn enforce_cap(&mut self, cap: usize, managed: &[(String, Pattern)]) {
        let mut by_namespace: HashMap<&str, Vec<(Timestamp, &str)>> = HashMap::new();
        for Entry { record, .. } in self.entries() {
            if let Some(closed_at) = record.closed_at
                && !record.uid.is_empty()
            {
                by_namespace
                    .entry(&record.namespace)
                    .or_default()
                    .push((closed_at, &record.base));
            }
        }
        let mut drops: HashMap<(String, String), PathRecord> = HashMap::new();
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
                    pattern: format!("{}/*", prefix.trim_end_matches('/')),
                    namespace: namespace.to_owned(),
                    name: String::new(),
                    uid: String::new(),
                    base: prefix.clone(),
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
        for patterns in self.records.values_mut() {
            patterns.retain(|_, Entry { record, .. }| {
                let place = (record.namespace.clone(), record.base.clone());
                let goes = record.closed_at.is_some()
                    && !record.uid.is_empty()
                    && drops.contains_key(&place)
                    && is_walled(record);
                if goes {
                    removals.push(record.clone());
                }
                !goes
            });
        }
        for record in drops.into_values() {
            if self.get(&record).is_none() {
                self.put(Entry {
                    record,
                    seen: 0,
                    unsaved: true,
                });
            }
        }
        self.version += 1;
    }

    /// Everything closed, in a stable order. An offer that is gone (`present` does not hold its UID)
    /// also closes its base path (O5).
    pub(super) fn closures(&self, retention: Duration, present: &HashSet<&str>) -> Vec<Closure> {
        let mut closures: Vec<Closure> = Vec::new();
        let mut bases = HashSet::new();
        for Entry { record, .. } in self.entries() {
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
            let gone = !record.uid.is_empty() && !present.contains(record.uid.as_str());
            if gone
                && record.base != "/"
                && let Ok(pattern) = Pattern::subtree(&record.base)
                && bases.insert((&record.host, &record.base, &record.uid))
            {
                let record = record.clone();
                closures.push(Closure {
                    record,
                    pattern,
                    collapsed: true,
                    until,
                });
            }
        }
        closures.sort_unstable_by(|left, right| left.order().cmp(&right.order()));
        closures
    }

    /// What must be written to and forgotten by the ledger since the last call; nothing before the
    /// ledger was read.
    pub(super) fn take_writes(&mut self) -> (Vec<PathRecord>, Vec<PathRecord>) {
        if !self.remembered {
            return (Vec::new(), Vec::new());
        }
        let mut changes = Vec::new();
        for entry in self.records.values_mut().flat_map(HashMap::values_mut) {
            if std::mem::take(&mut entry.unsaved) {
                changes.push(entry.record.clone());
            }
        }
        changes.sort_unstable();
        (changes, std::mem::take(&mut self.removals))
    }
}

impl Closure {
    fn order(&self) -> (&Option<String>, &str, bool) {
        (&self.record.host, self.pattern.as_str(), self.collapsed)
    }
}

/// The place of a record among those of its host: its pattern without a trailing slash.
fn place(record: &PathRecord) -> &str {
    match record.pattern.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed,
    }
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
