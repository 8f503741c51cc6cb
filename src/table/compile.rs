//! Offers, settings and remembered paths in; one table out.
//!
//! A table has *contents* (what a route costs, who verifies it) and a *shape* (which patterns stand
//! where, who owns them, what is closed). While the shape is the same, and no drain or retention has
//! ended, the next table is the last one with the changed routes at their places. Everything else is
//! [`Assembly`], which does all there is to do, over pieces of which most were made before. Both give
//! what a compilation from nothing gives; the tests hold them against one.
//!
//! In an assembly the order matters. First what is no longer declared is closed, because a closed
//! path beats an offer that waits for it (O3). Then ownership is decided, oldest first (O1). Then the
//! routes of those who own their paths are built and indexed; the rest is only reported, and closes
//! nothing (O5). Then the records follow what is live now. Walls come last, so that they never take a
//! place from a route.

use super::closed::{Closure, Known};
use super::index::{Index, MarkKind};
use super::list::{Leftovers, List, Stage, Unit};
use super::owners::{self, Candidate, Holder, Holding, Rejection};
use super::pins::Pins;
use super::price::Pricer;
use super::report::{Report, RouteReport, SourceReport};
use super::resolve::{Slot, is_free, mark_of};
use super::{RouteState, Table};
use crate::offer::{Offer, Owner};
use crate::pricing::{PathOwner, Settings};
use crate::route::Pattern;
use jiff::Timestamp;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// What a table is made of beside the lists.
#[derive(Debug)]
pub(super) struct Inputs<'a> {
    pub(super) settings: &'a Arc<Settings>,
    /// In the order of the report; the file comes first (O2).
    pub(super) sources: &'a [SourceReport],
    /// Whether every expected source has delivered (R6).
    pub(super) complete: bool,
    pub(super) previous: &'a Table,
    pub(super) now: Timestamp,
}

/// Compiles tables, and keeps what was made for the next one.
#[derive(Debug, Default)]
pub(super) struct Compiler {
    /// The last complete list of each source.
    lists: BTreeMap<&'static str, List>,
    pub(super) pricer: Pricer,
    pub(super) known: Known,
    /// What the shape of the last table depends on; `None` when it must be assembled.
    shape: Option<Shape>,
    /// Routes that were made anew since, by source, unit and piece.
    changed: Vec<(&'static str, usize, usize)>,
    leftovers: Leftovers,
}

/// What the shape of a table depends on beside the lists.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    managed_prefixes: Vec<Arc<str>>,
    path_owners: Vec<PathOwner>,
    retention: Duration,
    cap: usize,
    complete: bool,
    /// Of what was closed when ownership was decided.
    version: u64,
    /// When a drain or retention ends that it counts on.
    ends: Option<Timestamp>,
}

impl Compiler {
    /// Takes the new list of a source.
    pub(super) fn replace(&mut self, source: &'static str, offers: Vec<Arc<Offer>>) {
        let list = self.lists.entry(source).or_default();
        let difference = list.replace(source, offers, &mut self.leftovers);
        if difference.is_reshaped {
            self.shape = None;
        }
        let changed = difference.changed.into_iter();
        self.changed
            .extend(changed.map(|(unit, piece)| (source, unit, piece)));
    }

    /// Compiles a table and brings the records up to date.
    pub(super) fn compile(&mut self, inputs: &Inputs<'_>) -> Table {
        let is_rebased = self.pricer.settle_on(inputs.settings);
        let ends = self.shape.as_ref().and_then(|shape| shape.ends);
        let holds = self.shape.as_ref() == Some(&self.shape_of(inputs, ends))
            && inputs.previous.built_at <= inputs.now
            && ends.is_none_or(|ends| inputs.now < ends)
            && !is_rebased;
        let same_shape = holds.then(|| self.patch(inputs.previous)).flatten();
        self.changed.clear();
        let mut table = match same_shape {
            Some(routes) => inputs.table(
                routes,
                inputs.previous.report.others.clone(),
                inputs.previous.index.clone(),
                inputs.previous.pins.clone(),
                inputs.previous.next_tick,
            ),
            None => self.assemble(inputs, is_rebased),
        };
        // After the entries that replace them have taken theirs (R7).
        for entry in &self.leftovers.entries {
            self.pricer.release(entry);
        }
        table.counters = self.pricer.counters.shown();
        table
    }

    /// What is not needed any more, to be dropped when nobody waits.
    pub(super) fn leftovers(&mut self) -> Leftovers {
        self.pricer.tidy();
        std::mem::take(&mut self.leftovers)
    }

    fn shape_of(&self, inputs: &Inputs<'_>, ends: Option<Timestamp>) -> Shape {
        let settings = inputs.settings;
        Shape {
            managed_prefixes: settings.managed_prefixes.clone(),
            path_owners: settings.path_owners.clone(),
            retention: settings.closed_path_retention,
            cap: settings.closed_paths_per_namespace,
            complete: inputs.complete,
            version: self.known.version(),
            ends,
        }
    }

    /// The routes of the last table with the changed ones in their places; `None` if one of them
    /// changes more than its contents.
    fn patch(&mut self, previous: &Table) -> Option<Arc<Vec<Slot>>> {
        if self.changed.is_empty() {
            return Some(previous.routes.clone());
        }
        let mut routes = Vec::clone(&previous.routes);
        for (source, unit, piece) in &self.changed {
            let unit = self.lists.get_mut(source)?.units.get_mut(*unit)?;
            let slot = routes.get_mut(unit.first + piece)?;
            if unit.rejection.is_some() {
                return None;
            }
            let made = unit.pieces.get(*piece)?;
            let entry = unit.entries.get_mut(*piece)?;
            let entry = entry.get_or_insert_with(|| Arc::new(self.pricer.entry(made, unit.stage)));
            if is_free(entry) != is_free(&slot.entry) || entry.state != slot.entry.state {
                return None;
            }
            slot.entry = entry.clone();
        }
        Some(Arc::new(routes))
    }

    fn assemble(&mut self, inputs: &Inputs<'_>, is_rebased: bool) -> Table {
        let now = inputs.now;
        let retention = inputs.settings.closed_path_retention;
        let mut lists: BTreeMap<_, _> = self.lists.iter_mut().collect();
        let mut units: Vec<&mut Unit> = Vec::new();
        for source in inputs.sources {
            if let Some(list) = lists.remove(&source.name) {
                units.extend(list.units.iter_mut().map(|unit| &mut **unit));
            }
        }
        rank(&mut units);
        for unit in &mut units {
            unit.step(now, &mut self.leftovers);
            if is_rebased {
                unit.retire(&mut self.leftovers);
            }
        }
        let known = &mut self.known;
        if inputs.complete {
            known.close_absent(units.iter().flat_map(|unit| &unit.pieces), now);
        }
        let closed_uids = known.closed_uids();
        let present: HashSet<Arc<str>> = if closed_uids.is_empty() {
            HashSet::new()
        } else {
            let uids = units
                .iter()
                .filter_map(|unit| unit.lineage.entry.uid.clone());
            uids.filter(|uid| closed_uids.contains(uid)).collect()
        };
        let version = known.version();
        let reserving = known.closures(retention, &present);
        let verdicts = decide(inputs, &units, &reserving, known);
        let accepted = units
            .iter()
            .zip(&verdicts)
            .filter(|(_, verdict)| verdict.is_none());
        let pieces = accepted.flat_map(|(unit, _)| &unit.pieces);
        known.reconcile(pieces, inputs.complete, now);
        known.enforce_cap(
            inputs.settings.closed_paths_per_namespace,
            &managed(inputs.settings),
        );
        let closures = if known.version() == version {
            reserving
        } else {
            known.closures(retention, &present)
        };
        let mut assembly = Assembly::new(now, &units);
        for (unit, verdict) in units.iter_mut().zip(verdicts) {
            unit.rejection = verdict.map(Arc::new);
            match &unit.rejection {
                None => assembly.admit(unit, &mut self.pricer),
                Some(rejection) => {
                    assembly.refuse(unit, rejection);
                    unit.retire(&mut self.leftovers);
                }
            }
        }
        assembly.close(&closures);
        assembly.wall(&units, inputs.settings);
        let shape = Shape {
            version,
            ..self.shape_of(inputs, assembly.ends)
        };
        self.shape = Some(shape);
        assembly.finish(inputs)
    }

    /// Forgets everything but the lists, what the ledger knows and the counters in use.
    #[cfg(test)]
    pub(super) fn forget(&mut self) {
        for (source, list) in &mut self.lists {
            list.forget(source, &mut self.leftovers);
        }
        self.known.forget();
        self.shape = None;
    }
}

impl Inputs<'_> {
    fn table(
        &self,
        routes: Arc<Vec<Slot>>,
        others: Arc<Vec<RouteReport>>,
        index: Arc<Index>,
        pins: Arc<Pins>,
        next_tick: Option<Timestamp>,
    ) -> Table {
        let report = Report {
            sources: self.sources.to_vec(),
            served: routes.clone(),
            others,
        };
        Table {
            generation: self.previous.generation + 1,
            built_at: self.now,
            settings: self.settings.clone(),
            report: Arc::new(report),
            routes,
            index,
            pins,
            counters: Arc::default(),
            next_tick,
        }
    }
}

/// Puts the operator's first (O2), in declared order; then by age (O1). Stable, so ties keep order.
fn rank(units: &mut [&mut Unit]) {
    if units.iter().all(|unit| unit.lineage.is_operators()) {
        return;
    }
    units.sort_by_cached_key(|unit| {
        let lineage = &unit.lineage;
        let age = (!lineage.is_operators()).then(|| (lineage.created, lineage.entry.uid.clone()));
        age.map_or((false, None, None), |(created, uid)| (true, created, uid))
    });
}

fn decide(
    inputs: &Inputs<'_>,
    units: &[&mut Unit],
    reserving: &[Closure],
    known: &Known,
) -> Vec<Option<Rejection>> {
    if units.iter().all(|unit| unit.lineage.is_operators()) {
        return vec![None; units.len()];
    }
    let candidates: Vec<Candidate<'_>> = units
        .iter()
        .filter_map(|unit| match &unit.lineage.owner {
            Owner::Operator => None,
            Owner::Namespace(namespace) => Some(Candidate {
                namespace,
                hostname: unit.lineage.hostname.as_ref(),
                base: unit.lineage.base.as_ref(),
                pieces: &unit.pieces,
            }),
        })
        .collect();
    let operators = units.iter().filter(|unit| unit.lineage.is_operators());
    let operator: Vec<Holding<'_>> = operators
        .flat_map(|unit| &unit.pieces)
        .map(|piece| Holding {
            holder: Holder::Operator,
            hostname: piece.lineage.hostname.as_deref(),
            pattern: &piece.pattern,
            until: None,
        })
        .collect();
    let reserved: Vec<Holding<'_>> = reserving
        .iter()
        .filter(|closure| closure.until > inputs.now)
        .map(|closure| Holding {
            holder: if closure.record.uid.is_empty() {
                Holder::Operator
            } else {
                Holder::Namespace(&closure.record.namespace)
            },
            hostname: closure.record.host.as_deref(),
            pattern: &closure.pattern,
            until: Some(closure.until),
        })
        .collect();
    let path_owners = &inputs.settings.path_owners;
    let mut decided = owners::decide(&operator, &reserved, &candidates, path_owners, |piece| {
        piece.is_recorded() && known.is_incumbent(&piece.record)
    })
    .into_iter();
    units
        .iter()
        .map(|unit| {
            if unit.lineage.is_operators() {
                None
            } else {
                decided.next().flatten()
            }
        })
        .collect()
}

/// The managed prefixes that compile. The source has validated them; a broken one closes its literal
/// part.
fn managed(settings: &Settings) -> Vec<(String, Pattern)> {
    settings
        .managed_prefixes
        .iter()
        .filter_map(|prefix| {
            Pattern::subtree(prefix)
                .ok()
                .map(|pattern| (prefix.to_string(), pattern))
        })
        .collect()
}

/// A table being put together.
struct Assembly {
    now: Timestamp,
    slots: Vec<Slot>,
    index: Index,
    pins: Pins,
    others: Vec<RouteReport>,
    next_tick: Option<Timestamp>,
    /// When a drain or retention ends.
    ends: Option<Timestamp>,
}

impl Assembly {
    fn new(now: Timestamp, units: &[&mut Unit]) -> Self {
        let routes = units.iter().map(|unit| unit.pieces.len()).sum();
        let named = |unit: &&&mut Unit| !unit.lineage.entry.name.is_empty();
        Self {
            now,
            slots: Vec::with_capacity(routes),
            index: Index::new(routes),
            pins: Pins::with_capacity(units.iter().filter(named).count()),
            others: Vec::new(),
            next_tick: None,
            ends: None,
        }
    }

    /// Takes an offer into the table.
    fn admit(&mut self, unit: &mut Unit, pricer: &mut Pricer) {
        unit.first = self.slots.len();
        if let Stage::Draining(until) = unit.stage {
            self.ends = earlier(self.ends, until);
        }
        for (piece, made) in unit.pieces.iter().zip(&mut unit.entries) {
            let order = self.slots.len();
            let Ok(place) = u32::try_from(order) else {
                return;
            };
            let entry = made.get_or_insert_with(|| Arc::new(pricer.entry(piece, unit.stage)));
            if let RouteState::Draining { until } = entry.state {
                self.next_tick = earlier(self.next_tick, until);
            }
            let host = piece.lineage.hostname.as_deref();
            let mark = mark_of(entry, place);
            let there = self.index.insert(host, &piece.pattern, mark, order);
            self.slots.push(Slot {
                entry: entry.clone(),
                is_shadowed: there.is_some(),
            });
        }
        let place = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        let places = place(unit.first)..place(self.slots.len());
        self.pins.declare(&unit.lineage.entry, places, &self.slots);
    }

    fn refuse(&mut self, unit: &Unit, rejection: &Rejection) {
        self.others.extend(RouteReport::refused(unit, rejection));
    }

    fn close(&mut self, closures: &[Closure]) {
        let now = self.now;
        for closure in closures {
            let host = closure.record.host.as_deref();
            let kind = if closure.until > now {
                MarkKind::Closed
            } else {
                MarkKind::Wall
            };
            self.index.insert(host, &closure.pattern, kind, usize::MAX);
            self.others.push(RouteReport::closed(closure, now));
            if closure.until > now {
                self.next_tick = earlier(self.next_tick, closure.until);
                self.ends = earlier(self.ends, closure.until);
            }
            self.pins.close(closure, now);
        }
    }

    /// Nothing below a managed prefix or an offer's base path is free by accident.
    fn wall(&mut self, units: &[&mut Unit], settings: &Settings) {
        let accepted = units.iter().filter(|unit| unit.rejection.is_none());
        for unit in accepted {
            if let Some(base) = &unit.lineage.base {
                // Where a route of the offer stands already there is nothing to add.
                let stands = |pattern: &Pattern| pattern.as_str() == base.as_str();
                if !unit.pieces.iter().any(|piece| stands(&piece.pattern)) {
                    let host = unit.lineage.hostname.as_deref();
                    self.index.insert(host, base, MarkKind::Wall, usize::MAX);
                }
            }
        }
        for (_, prefix) in managed(settings) {
            self.index.insert(None, &prefix, MarkKind::Wall, usize::MAX);
        }
    }

    fn finish(mut self, inputs: &Inputs<'_>) -> Table {
        self.pins.index(&self.slots);
        inputs.table(
            Arc::new(self.slots),
            Arc::new(self.others),
            Arc::new(self.index),
            Arc::new(self.pins),
            self.next_tick,
        )
    }
}

fn earlier(due: Option<Timestamp>, at: Timestamp) -> Option<Timestamp> {
    Some(due.map_or(at, |due| due.min(at)))
}
