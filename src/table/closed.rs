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
    records: HashMap<Key, Entry>,
    /// Whether the ledger was read.
    pub(super) remembered: bool,
    /// Counts reconciliations; an entry that one did not touch is absent.
    round: u64,
    changes: HashSet<Key>,
    removals: Vec<PathRecord>,
}

/// Host and pattern text without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    host: Option<String>,
    pattern: String,
}

#[derive(Debug)]
struct Entry {
    record: PathRecord,
    seen: u64,
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
            let key = Key::of(&record);
            self.changes.remove(&key);
            let mut entry = Entry { record, seen: 0 };
            if let Some(mine) = self.records.get(&key)
                && mine.record.same_owner(&entry.record)
            {
                // The same offer: what this process saw last is newer.
                if mine.record != entry.record {
                    self.changes.insert(key.clone());
                    entry.record = mine.record.clone();
                }
            }
            self.records.insert(key, entry);
        }
        self.remembered = true;
    }

    /// Whether the ledger remembers this very offer serving this pattern.
    pub(super) fn is_incumbent(&self, record: &PathRecord) -> bool {
        self.remembered
            && self.records.get(&Key::of(record)).is_some_and(|entry| {
                entry.record.closed_at.is_none()
                    && entry.record.base == record.base
                    && entry.record.same_offer(record)
            })
    }

    /// Closes the live records that no present offer declares any more.
    pub(super) fn close_absent<'a>(
        &mut self,
        declared: impl Iterator<Item = &'a PathRecord>,
        now: Timestamp,
    ) {
        self.round += 1;
        for record in declared {
            if let Some(entry) = self.records.get_mut(&Key::of(record))
                && entry.record.same_offer(record)
            {
                entry.seen = self.round;
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
            let key = Key::of(record);
            match self.records.get_mut(&key) {
                // The first of two equal patterns is the one that is served.
                Some(entry) if entry.seen == round => continue,
                Some(entry) if entry.record == *record => {
                    entry.seen = round;
                    continue;
                }
                Some(entry) => {
                    if !entry.record.same_offer(record) {
                        self.removals.push(entry.record.clone());
                    }
                    *entry = Entry {
                        record: record.clone(),
                        seen: round,
                    };
                }
                None => {
                    let entry = Entry {
                        record: record.clone(),
                        seen: round,
                    };
                    self.records.insert(key.clone(), entry);
                }
            }
            self.changes.insert(key);
        }
        for record in free {
            let key = Key::of(record);
            if self
                .records
                .get(&key)
                .is_some_and(|entry| entry.seen != round && entry.record.same_owner(record))
                && let Some(entry) = self.records.remove(&key)
            {
                self.changes.remove(&key);
                self.removals.push(entry.record);
            }
        }
        if complete {
            self.close_unseen(now);
        }
    }

    fn close_unseen(&mut self, now: Timestamp) {
        for (key, entry) in &mut self.records {
            if entry.record.closed_at.is_none() && entry.seen != self.round {
                entry.record.closed_at = Some(now);
                self.changes.insert(key.clone());
            }
        }
    }

    /// Bounds what a namespace may leave behind (O5): past `cap` closed offers its oldest ones that
    /// lie in one of `managed` give way to one wall around that whole prefix. The wall is a record
    /// closed at the epoch: it reserves nothing and never ends. What lies outside stays.
    pub(super) fn enforce_cap(&mut self, cap: usize, managed: &[(String, Pattern)]) {
        let mut by_namespace: HashMap<&str, Vec<(Timestamp, &str)>> = HashMap::new();
        for entry in self.records.values() {
            let record = &entry.record;
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
        let (changes, removals) = (&mut self.changes, &mut self.removals);
        self.records.retain(|key, Entry { record, .. }| {
            let place = (record.namespace.clone(), record.base.clone());
            let goes =
                record.closed_at.is_some() && !record.uid.is_empty() && drops.contains_key(&place);
            if goes {
                changes.remove(key);
                removals.push(record.clone());
            }
            !goes
        });
        for wall in drops.into_values() {
            let key = Key::of(&wall);
            if !self.records.contains_key(&key) {
                self.records.insert(
                    key.clone(),
                    Entry {
                        record: wall,
                        seen: 0,
                    },
                );
                self.changes.insert(key);
            }
        }
    }

    /// Everything closed, in a stable order. An offer that is gone (`present` does not hold its UID)
    /// also closes its base path (O5).
    pub(super) fn closures(&self, retention: Duration, present: &HashSet<&str>) -> Vec<Closure> {
        let mut closures: Vec<Closure> = Vec::new();
        let mut bases = HashSet::new();
        for Entry { record, .. } in self.records.values() {
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
        let mut keys: Vec<Key> = self.changes.drain().collect();
        keys.sort_unstable();
        let changes = keys
            .into_iter()
            .filter_map(|key| self.records.get(&key).map(|entry| entry.record.clone()))
            .collect();
        (changes, std::mem::take(&mut self.removals))
    }
}

impl Closure {
    fn order(&self) -> (&Option<String>, &str, bool) {
        (&self.record.host, self.pattern.as_str(), self.collapsed)
    }
}

impl Key {
    fn of(record: &PathRecord) -> Self {
        let trimmed = record.pattern.trim_end_matches('/');
        let pattern = if trimmed.is_empty() { "/" } else { trimmed };
        Self {
            host: record.host.clone(),
            pattern: pattern.to_owned(),
        }
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
