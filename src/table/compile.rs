//! Offers, settings and remembered paths in; one table out.
//!
//! A table has *contents* (what a route costs, who verifies it) and a *shape* (which patterns stand
//! where, who owns them, what is closed). While the shape is the same, and no drain or retention has
//! ended, the next table is the last one with the changed routes at their places. When a few offers of
//! the cluster came or went, it is the last one *amended*, where that is as good. Everything else is
//! assembled: all there is to do, over pieces of which most were made before. All three give what a
//! compilation from nothing gives; the tests hold them against one.
//!
//! In an assembly the order matters. First what is no longer declared is closed, because a closed
//! path beats an offer that waits for it (O3). Then ownership is decided, oldest first (O1). Then the
//! routes of those who own their paths are built and indexed; the rest is only reported, and closes
//! nothing (O5). Then the records follow what is live now.

use super::assembly::{Assembly, Moments, place_of};
use super::closed::{Closure, Known};
use super::index::Index;
use super::list::{Difference, Leftovers, List, Unit};
use super::owners::{Ends, Holder, Holding, Owners, RESERVED_PATH, Rejection};
use super::pins::Pins;
use super::prepare::Piece;
use super::price::Pricer;
use super::report::{Report, RouteReport, SourceReport};
use super::resolve::{Slot, is_free};
use super::{RouteEntry, RouteState, Table};
use crate::offer::Offer;
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
    pub(super) lists: BTreeMap<&'static str, List>,
    pub(super) pricer: Pricer,
    pub(super) known: Known,
    /// What the last table leaves for the next; `None` when that must be assembled.
    pub(super) kept: Option<Kept>,
    /// How the list of a source differs from the one of the last table.
    difference: Option<(&'static str, Difference)>,
    pub(super) leftovers: Leftovers,
    /// Counts tables that were amended.
    #[cfg(test)]
    pub(super) amended: usize,
}

/// What a table leaves for the next one.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) shape: Shape,
    /// `None` where everything is the operator's.
    pub(super) owners: Option<Owners>,
    /// What is closed in it.
    pub(super) closures: Vec<Closure>,
    /// UIDs of offers that are there and have left something closed.
    pub(super) present: HashSet<Arc<str>>,
    /// Rows of refused offers, and the claims of each.
    pub(super) refused_rows: usize,
    pub(super) refused: Vec<Vec<String>>,
    /// Of the offers alone.
    pub(super) moments: Moments,
}

/// What the shape of a table depends on beside the lists.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape {
    managed_prefixes: Vec<Arc<str>>,
    path_owners: Vec<PathOwner>,
    retention: Duration,
    cap: usize,
    complete: bool,
    /// Of what was closed when ownership was decided.
    pub(super) version: u64,
    /// When a drain or retention ends that it counts on.
    pub(super) ends: Option<Timestamp>,
}

impl Compiler {
    /// Takes the new list of a source.
    pub(super) fn replace(&mut self, source: &'static str, offers: Vec<Arc<Offer>>) {
        let list = self.lists.entry(source).or_default();
        let difference = list.replace(source, offers, &mut self.leftovers);
        if difference.is_reordered || self.difference.is_some() {
            self.kept = None;
        }
        if let Some((_, before)) = self.difference.replace((source, difference)) {
            self.leftovers.units.extend(before.left);
        }
    }

    /// Compiles a table and brings the records up to date.
    pub(super) fn compile(&mut self, inputs: &Inputs<'_>) -> Table {
        let is_rebased = self.pricer.settle_on(inputs.settings);
        let ends = self.kept.as_ref().and_then(|kept| kept.shape.ends);
        let shape = self.kept.as_ref().map(|kept| &kept.shape);
        let holds = shape == Some(&self.shape_of(inputs, ends))
            && inputs.previous.built_at <= inputs.now
            && ends.is_none_or(|ends| inputs.now < ends)
            && !is_rebased;
        let difference = self.difference.take();
        let followed = if holds {
            self.follow(inputs, difference.as_ref())
        } else {
            None
        };
        let mut table = followed.unwrap_or_else(|| self.assemble(inputs, is_rebased));
        if let Some((_, difference)) = difference {
            self.leftovers.units.extend(difference.left);
        }
        // After the entries that replace them have taken theirs (R7).
        for entry in &self.leftovers.entries {
            self.pricer.release(entry);
        }
        table.counters = self.pricer.counters.shown();
        table
    }

    /// The last table with what changed, where that is all there is to do.
    fn follow(
        &mut self,
        inputs: &Inputs<'_>,
        difference: Option<&(&'static str, Difference)>,
    ) -> Option<Table> {
        let previous = inputs.previous;
        let routes = match difference {
            None => previous.routes.clone(),
            Some((_, difference)) if difference.is_none() => previous.routes.clone(),
            Some((source, difference)) => {
                if !difference.left.is_empty() || !difference.arrived.is_empty() {
                    return self.amend(inputs, source, difference);
                }
                let mut routes = Vec::clone(&previous.routes);
                self.patch(&mut routes, source, &difference.changed)?;
                Arc::new(routes)
            }
        };
        Some(inputs.table(
            routes,
            previous.report.others.clone(),
            previous.index.clone(),
            previous.pins.clone(),
            previous.next_tick,
        ))
    }

    /// What is not needed any more, to be dropped when nobody waits.
    pub(super) fn leftovers(&mut self) -> Leftovers {
        self.pricer.tidy();
        std::mem::take(&mut self.leftovers)
    }

    pub(super) fn shape_of(&self, inputs: &Inputs<'_>, ends: Option<Timestamp>) -> Shape {
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

    /// Puts the changed routes in their places; `None` if one of them changes more than its contents.
    pub(super) fn patch(
        &mut self,
        routes: &mut [Slot],
        source: &'static str,
        changed: &[(usize, usize)],
    ) -> Option<()> {
        let units = &mut self.lists.get_mut(source)?.units;
        for (unit, piece) in changed {
            let unit = units.get_mut(*unit)?;
            if unit.rejection.is_some() {
                return None;
            }
            let place = place_of(routes, unit) + piece;
            let slot = routes.get_mut(place)?;
            let made = unit.pieces.get(*piece)?;
            let entry = unit.entries.get_mut(*piece)?;
            let entry = entry.get_or_insert_with(|| Arc::new(self.pricer.entry(made, unit.stage)));
            let drains = |entry: &RouteEntry| matches!(entry.state, RouteState::Draining { .. });
            if is_free(entry) != is_free(&slot.entry) || drains(entry) != drains(&slot.entry) {
                return None;
            }
            slot.entry = entry.clone();
        }
        Some(())
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
                .filter_map(|unit| unit.lineage.identity.uid.clone());
            uids.filter(|uid| closed_uids.contains(uid)).collect()
        };
        let version = known.version();
        let reserving = known.closures(retention, &present);
        let (owners, verdicts) = decide(inputs, &units, &reserving, known);
        let accepted = units
            .iter()
            .zip(&verdicts)
            .filter(|(_, verdict)| verdict.is_none());
        let pieces = accepted.flat_map(|(unit, _)| &unit.pieces);
        known.reconcile(pieces, inputs.complete, now);
        let managed = managed(inputs.settings);
        known.enforce_cap(inputs.settings.closed_paths_per_namespace, &managed);
        let closures = if known.version() == version {
            reserving
        } else {
            known.closures(retention, &present)
        };
        let mut assembly = Assembly::new(now, &units);
        let mut refused = Vec::new();
        for (unit, verdict) in units.iter_mut().zip(verdicts) {
            unit.rejection = verdict.map(Arc::new);
            match &unit.rejection {
                None => assembly.admit(unit, &mut self.pricer),
                Some(rejection) => {
                    assembly.refuse(unit, rejection);
                    let claims = unit.claims();
                    // Nobody else has a say in that.
                    if claims.len() > 1 || rejection.code != RESERVED_PATH {
                        refused.push(claims);
                    }
                    unit.retire(&mut self.leftovers);
                }
            }
        }
        assembly.wall_prefixes(&managed);
        let (refused_rows, moments) = (assembly.others.len(), assembly.moments);
        assembly.close(&[], &closures);
        let shape = Shape {
            version,
            ..self.shape_of(inputs, assembly.moments.ends)
        };
        self.kept = Some(Kept {
            shape,
            owners,
            closures,
            present,
            refused_rows,
            refused,
            moments,
        });
        assembly.finish(inputs)
    }

    /// Forgets everything but the lists, what the ledger knows and the counters in use.
    #[cfg(test)]
    pub(super) fn forget(&mut self) {
        for (source, list) in &mut self.lists {
            list.forget(source, &mut self.leftovers);
        }
        self.known.forget();
        self.kept = None;
    }
}

impl Inputs<'_> {
    pub(super) fn table(
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
        let (is_tenants, created, _) = unit.lineage.rank();
        let uid = is_tenants.then(|| unit.lineage.identity.uid.clone());
        (is_tenants, created, uid)
    });
}

/// Who is refused, and why; and who owns what then.
fn decide(
    inputs: &Inputs<'_>,
    units: &[&mut Unit],
    reserving: &[Closure],
    known: &Known,
) -> (Option<Owners>, Vec<Option<Rejection>>) {
    if units.iter().all(|unit| unit.lineage.is_operators()) {
        return (None, vec![None; units.len()]);
    }
    let mut owners = Owners::new(&inputs.settings.path_owners, units.len());
    let operators = units.iter().filter(|unit| unit.lineage.is_operators());
    let pieces = operators.flat_map(|unit| &unit.pieces);
    owners.operate(pieces.map(|piece| Holding {
        holder: Holder::Operator,
        hostname: piece.lineage.identity.hostname.as_deref(),
        pattern: &piece.pattern,
        until: None,
    }));
    let reserved: Vec<_> = reserved(reserving, inputs.now).collect();
    owners.reserve(reserved.iter().copied());
    let ends = Ends::of(&reserved);
    let candidates = units.iter().map(|unit| unit.candidate());
    let verdicts = candidates
        .map(|candidate| {
            let is_incumbent = |piece: &Piece| is_incumbent(known, piece);
            owners.admit(&candidate?, is_incumbent, &ends).err()
        })
        .collect();
    (Some(owners), verdicts)
}

/// Whether the ledger remembers this very offer serving a pattern.
pub(super) fn is_incumbent(known: &Known, piece: &Piece) -> bool {
    piece.is_recorded() && known.is_incumbent(piece.record.path())
}

/// What closed paths reserve (O3).
pub(super) fn reserved(closures: &[Closure], now: Timestamp) -> impl Iterator<Item = Holding<'_>> {
    let lasting = closures.iter().filter(move |closure| closure.until > now);
    lasting.map(|closure| Holding {
        holder: if closure.record.uid.is_empty() {
            Holder::Operator
        } else {
            Holder::Namespace(&closure.record.namespace)
        },
        hostname: closure.record.host.as_deref(),
        pattern: &closure.pattern,
        until: Some(closure.until),
    })
}

/// The managed prefixes that compile. The source has validated them; a broken one closes its literal
/// part.
pub(super) fn managed(settings: &Settings) -> Vec<(String, Pattern)> {
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
