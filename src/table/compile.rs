//! Offers, settings and remembered paths in; one table out.
//!
//! The order matters. First what is no longer declared is closed, because a closed path beats an
//! offer that waits for it (O3). Then ownership is decided, oldest first (O1). Then the routes of
//! those who own their paths are built and indexed; the rest is only reported, and closes nothing
//! (O5). Then the records follow what is live now. Walls come last, so that they never take a place
//! from a route.

use super::closed::{Closure, Known};
use super::index::{Index, MarkKind, Precedence};
use super::owners::{self, Holder, Holding, Rejection};
use super::prepare::Prepared;
use super::price::{LastSuccess, Pricer};
use super::report::{Report, RouteReport, SourceReport};
use super::resolve::{OwnClosed, Pinned, Pins, Slot, mark_of};
use super::{RouteState, Table};
use crate::offer::Offer;
use crate::pricing::Settings;
use crate::route::Pattern;
use jiff::Timestamp;
use std::collections::HashSet;
use std::sync::Arc;

/// Everything a table is made of.
#[derive(Debug)]
pub(super) struct Inputs<'a> {
    pub(super) settings: &'a Arc<Settings>,
    /// All offers with their source, the file's first.
    pub(super) offers: Vec<(&'static str, &'a Offer)>,
    pub(super) sources: &'a [SourceReport],
    /// Whether every expected source has delivered (R6).
    pub(super) complete: bool,
    pub(super) previous: &'a Table,
    pub(super) last_success: &'a LastSuccess,
    pub(super) now: Timestamp,
}

/// A pinned offer with more routes than this gets an index of its own.
const FEW_ROUTES: usize = 16;

/// Compiles a table and brings the records up to date.
pub(super) fn compile(inputs: &Inputs<'_>, known: &mut Known) -> Table {
    let now = inputs.now;
    let retention = inputs.settings.closed_path_retention;
    let mut prepared: Vec<Prepared<'_>> = inputs
        .offers
        .iter()
        .map(|(source, offer)| Prepared::new(source, offer))
        .collect();
    // The operator's first (O2), in declared order; then by age (O1). Stable, so ties keep order.
    prepared.sort_by_key(|prepared| {
        let offer = prepared.offer;
        let age = (!prepared.is_operators()).then(|| (offer.created, offer.uid.clone()));
        age.map_or((false, None, None), |(created, uid)| (true, created, uid))
    });
    if inputs.complete {
        known.close_absent(prepared.iter().flat_map(Prepared::gated_records), now);
    }
    let present: HashSet<&str> = prepared
        .iter()
        .filter_map(|prepared| prepared.offer.uid.as_deref())
        .collect();
    let version = known.version();
    let reserving = known.closures(retention, &present);
    let verdicts = decide(inputs, &prepared, &reserving, known);
    let accepted = || {
        prepared
            .iter()
            .zip(&verdicts)
            .filter(|(_, verdict)| verdict.is_none())
    };
    known.reconcile(
        accepted().flat_map(|(prepared, _)| prepared.gated_records()),
        accepted().flat_map(|(prepared, _)| prepared.free_records()),
        inputs.complete,
        now,
    );
    known.enforce_cap(
        inputs.settings.closed_paths_per_namespace,
        &managed(inputs.settings),
    );
    let closures = if known.version() == version {
        reserving
    } else {
        known.closures(retention, &present)
    };
    let routes = prepared.iter().map(|prepared| prepared.routes.len()).sum();
    let mut build = Build::new(inputs, routes);
    let mut bases = Vec::new();
    for (prepared, verdict) in prepared.into_iter().zip(&verdicts) {
        match verdict {
            None => bases.extend(build.admit(prepared)),
            Some(rejection) => build.reject(&prepared, rejection),
        }
    }
    build.close(&closures);
    build.wall(bases.iter().map(|(host, base)| (host.as_deref(), base)));
    build.finish()
}

fn decide<'a>(
    inputs: &Inputs<'_>,
    prepared: &'a [Prepared<'a>],
    reserving: &[Closure],
    known: &Known,
) -> Vec<Option<Rejection>> {
    let candidates: Vec<_> = prepared
        .iter()
        .filter_map(|prepared| prepared.candidate(|record| known.is_incumbent(record)))
        .collect();
    if candidates.is_empty() {
        return vec![None; prepared.len()];
    }
    let operator: Vec<Holding<'_>> = prepared
        .iter()
        .filter(|prepared| prepared.is_operators())
        .flat_map(|prepared| {
            prepared.routes.iter().map(|route| Holding {
                holder: Holder::Operator,
                hostname: prepared.offer.hostname.as_deref(),
                pattern: &route.pattern,
            })
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
        })
        .collect();
    let mut decided = owners::decide(
        &operator,
        &reserved,
        &candidates,
        &inputs.settings.path_owners,
    )
    .into_iter();
    prepared
        .iter()
        .map(|prepared| {
            if prepared.is_operators() {
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

/// A table being built.
struct Build<'a> {
    inputs: &'a Inputs<'a>,
    pricer: Pricer<'a>,
    slots: Vec<Slot>,
    index: Index,
    pins: Pins,
    rows: Vec<RouteReport>,
    next_tick: Option<Timestamp>,
}

impl<'a> Build<'a> {
    fn new(inputs: &'a Inputs<'a>, routes: usize) -> Self {
        let pricer = Pricer::new(
            inputs.settings,
            &inputs.previous.endpoints,
            &inputs.previous.counters,
            inputs.last_success,
            inputs.now,
        );
        Self {
            inputs,
            pricer,
            slots: Vec::with_capacity(routes),
            index: Index::new(routes),
            pins: Pins::new(),
            rows: Vec::with_capacity(routes),
            next_tick: None,
        }
    }

    /// Takes an offer into the table; what is left of it is its base path.
    fn admit(&mut self, prepared: Prepared<'a>) -> Option<(Option<Arc<str>>, Pattern)> {
        let Prepared {
            source,
            offer,
            entry: identity,
            base,
            routes,
            ..
        } = prepared;
        let host = offer.hostname.as_deref();
        let first = self.slots.len();
        for route in routes {
            let order = self.slots.len();
            let place = u32::try_from(order).ok()?;
            let (entry, trouble) = self.pricer.entry(offer, &identity, &route);
            if let RouteState::Draining { until } = entry.state {
                self.due(until);
            }
            let accepts = match route.route {
                Some(declared) if !entry.requirements.is_empty() => {
                    self.pricer.accepts(&declared.options)
                }
                Some(_) | None => Vec::new(),
            };
            let mut row = RouteReport::new(source, offer, &identity, &route);
            row.serve(&entry, trouble, accepts);
            let mark = mark_of(&entry, place);
            if self
                .index
                .insert(host, &route.pattern, mark, order)
                .is_some()
            {
                row.mark_shadowed();
            }
            self.rows.push(row);
            self.slots.push(Slot {
                entry: Arc::new(entry),
                precedence: Precedence::new(host.is_some(), &route.pattern, order),
                pattern: route.pattern,
                host: offer.hostname.clone(),
            });
        }
        self.pin(offer, first);
        base.map(|base| (offer.hostname.clone(), base))
    }

    /// Makes the offer reachable by its names. The operator's come first and keep them; two offers of
    /// one owner and name (one per host) are one pin.
    fn pin(&mut self, offer: &Offer, first: usize) {
        if offer.name.is_empty() || offer.namespace.is_empty() {
            return;
        }
        let places = (first..self.slots.len()).filter_map(|place| u32::try_from(place).ok());
        let names = self.pins.entry(offer.namespace.clone()).or_default();
        let pinned = names
            .entry(offer.name.clone())
            .or_insert_with(|| Pinned::Offer {
                routes: Vec::new(),
                index: None,
                closed: Vec::new(),
            });
        if let Pinned::Offer { routes, .. } = pinned {
            let owner = |slot: &Slot| slot.entry.offer.uid.is_none();
            let other = routes
                .first()
                .and_then(|place| self.slots.get(*place as usize))
                .is_some_and(|slot| owner(slot) != offer.uid.is_none());
            if !other {
                routes.extend(places);
            }
        }
    }

    fn reject(&mut self, prepared: &Prepared<'a>, rejection: &Rejection) {
        for route in &prepared.routes {
            let identity = &prepared.entry;
            let mut row = RouteReport::new(prepared.source, prepared.offer, identity, route);
            row.reject(rejection);
            self.rows.push(row);
        }
    }

    fn close(&mut self, closures: &[Closure]) {
        let now = self.inputs.now;
        for closure in closures {
            let host = closure.record.host.as_deref();
            let kind = if closure.until > now {
                MarkKind::Closed
            } else {
                MarkKind::Wall
            };
            self.index.insert(host, &closure.pattern, kind, usize::MAX);
            self.rows.push(RouteReport::closed(closure, now));
            if closure.until > now {
                self.due(closure.until);
            }
            self.close_pin(closure, now);
        }
    }

    /// The pin of an offer that is gone, or what a present one has left behind.
    fn close_pin(&mut self, closure: &Closure, now: Timestamp) {
        let record = &closure.record;
        if record.namespace.is_empty() || record.name.is_empty() {
            return;
        }
        let pinned = self
            .pins
            .get_mut(record.namespace.as_str())
            .and_then(|names| names.get_mut(record.name.as_str()));
        match pinned {
            Some(Pinned::Offer { closed, .. }) => closed.push(OwnClosed {
                host: record.host.as_deref().map(Into::into),
                pattern: closure.pattern.clone(),
                until: closure.until,
            }),
            Some(Pinned::Deleted(until)) => *until = closure.until.max(*until),
            None if closure.until > now => {
                let names = self
                    .pins
                    .entry(record.namespace.as_str().into())
                    .or_default();
                let deleted = Pinned::Deleted(closure.until);
                names.insert(record.name.as_str().into(), deleted);
            }
            None => {}
        }
    }

    /// Nothing below a managed prefix or an offer's base path is free by accident.
    fn wall<'b>(&mut self, bases: impl Iterator<Item = (Option<&'b str>, &'b Pattern)>) {
        for (host, base) in bases {
            self.index.insert(host, base, MarkKind::Wall, usize::MAX);
        }
        for (_, prefix) in managed(self.inputs.settings) {
            self.index.insert(None, &prefix, MarkKind::Wall, usize::MAX);
        }
    }

    fn due(&mut self, at: Timestamp) {
        self.next_tick = Some(self.next_tick.map_or(at, |due| due.min(at)));
    }

    fn finish(mut self) -> Table {
        for pinned in self.pins.values_mut().flat_map(|names| names.values_mut()) {
            if let Pinned::Offer { routes, index, .. } = pinned
                && routes.len() > FEW_ROUTES
            {
                let mut own = Index::new(routes.len());
                for place in routes.iter() {
                    if let Some(slot) = self.slots.get(*place as usize) {
                        let kind = MarkKind::Gated(*place);
                        own.insert(slot.host.as_deref(), &slot.pattern, kind, *place as usize);
                    }
                }
                *index = Some(Box::new(own));
            }
        }
        let inputs = self.inputs;
        let report = Report {
            sources: inputs.sources.to_vec(),
            routes: self.rows,
        };
        Table {
            generation: inputs.previous.generation + 1,
            built_at: inputs.now,
            settings: inputs.settings.clone(),
            report: Arc::new(report),
            routes: Arc::new(self.slots),
            index: Arc::new(self.index),
            pins: Arc::new(self.pins),
            endpoints: self.pricer.endpoints(),
            counters: Arc::new(self.pricer.counters),
            next_tick: self.next_tick,
        }
    }
}
