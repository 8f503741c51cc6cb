//! A table being put together: routes at their places, what is closed, what is walled.
//!
//! It begins with nothing, or with a copy of the last table whose routes are then taken out and put in.
//! A copy is cheap: indexes are a few pieces of plain memory, and routes are shared.

use super::closed::Closure;
use super::compile::Inputs;
use super::index::Index;
use super::list::{Stage, Unit};
use super::owners::Rejection;
use super::pins::Pins;
use super::prepare::Lineage;
use super::price::Pricer;
use super::report::RouteReport;
use super::resolve::{Slot, mark_of};
use super::{RouteState, Table};
use crate::route::Pattern;
use jiff::Timestamp;
use std::ops::Range;
use std::sync::Arc;

/// A table being put together.
#[derive(Debug)]
pub(super) struct Assembly {
    now: Timestamp,
    pub(super) slots: Vec<Slot>,
    index: Index,
    pins: Pins,
    pub(super) others: Vec<RouteReport>,
    pub(super) moments: Moments,
}

/// When time changes something.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Moments {
    /// A drain or retention ends that requests see.
    pub(super) next_tick: Option<Timestamp>,
    /// The same, also where a route is broken anyway.
    pub(super) ends: Option<Timestamp>,
}

impl Assembly {
    /// Nothing yet, with room for these units.
    pub(super) fn new(now: Timestamp, units: &[&mut Unit]) -> Self {
        let routes = units.iter().map(|unit| unit.pieces.len()).sum();
        let named = |unit: &&&mut Unit| !unit.lineage.identity.name.is_empty();
        Self {
            now,
            slots: Vec::with_capacity(routes),
            index: Index::new(routes),
            pins: Pins::with_capacity(units.iter().filter(named).count()),
            others: Vec::new(),
            moments: Moments::default(),
        }
    }

    /// What is in a table, but for its report of what is not; `moments` are those of its units.
    pub(super) fn of(table: &Table, moments: Moments, now: Timestamp) -> Self {
        Self {
            now,
            slots: Vec::clone(&table.routes),
            index: Index::clone(&table.index),
            pins: Pins::clone(&table.pins),
            others: Vec::new(),
            moments,
        }
    }

    /// Takes an offer into the table, after all others.
    pub(super) fn admit(&mut self, unit: &mut Unit, pricer: &mut Pricer) {
        unit.first = self.slots.len();
        self.put(unit, unit.first, pricer);
    }

    /// Takes an offer into the table, at its place; `None` if anybody stands in the same places.
    pub(super) fn insert(&mut self, unit: &mut Unit, pricer: &mut Pricer) -> Option<()> {
        let at = place_of(&self.slots, unit);
        let next = self.slots.get(at);
        if next.is_some_and(|next| next.lineage().rank() == unit.lineage.rank()) {
            return None;
        }
        self.shift(at, signed(unit.pieces.len())?)?;
        self.put(unit, at, pricer).then_some(())
    }

    /// Puts an offer at a place; whether it has its places for itself.
    fn put(&mut self, unit: &mut Unit, at: usize, pricer: &mut Pricer) -> bool {
        if let Stage::Draining(until) = unit.stage {
            self.moments.ends = earlier(self.moments.ends, until);
        }
        let mut is_alone = true;
        let mut slots = Vec::with_capacity(unit.pieces.len());
        for (piece, made) in unit.pieces.iter().zip(&mut unit.entries) {
            let order = at + slots.len();
            let Ok(place) = u32::try_from(order) else {
                return false;
            };
            let entry = made.get_or_insert_with(|| Arc::new(pricer.entry(piece, unit.stage)));
            if let RouteState::Draining { until } = entry.state {
                self.moments.next_tick = earlier(self.moments.next_tick, until);
            }
            let host = piece.lineage.identity.hostname.as_deref();
            let mark = mark_of(entry, place);
            let there = self.index.insert(host, &piece.pattern, mark, order);
            is_alone &= there.is_none();
            slots.push(Slot {
                entry: entry.clone(),
                is_shadowed: there.is_some(),
            });
        }
        // Nothing below the base path of an offer is free by accident.
        if let Some(base) = wall_of(unit) {
            self.index
                .wall(unit.lineage.identity.hostname.as_deref(), base);
        }
        let places = places(at..at + slots.len());
        self.slots.splice(at..at, slots);
        is_alone
            & self
                .pins
                .declare(&unit.lineage.identity, places, &self.slots)
    }

    /// Takes an offer out of the table; `None` if anybody stands in the same places.
    pub(super) fn remove(&mut self, unit: &Unit) -> Option<()> {
        let at = place_of(&self.slots, unit);
        let range = at..at + unit.pieces.len();
        let stands = |slot: &Slot| Arc::ptr_eq(&slot.entry.offer, &unit.lineage.identity);
        if !self.slots.get(range.clone())?.iter().all(stands) {
            return None;
        }
        let mut shadowed = self.slots.iter().filter(|slot| slot.is_shadowed);
        let is_over = |slot: &Slot| {
            let same = |pattern: &Pattern| pattern.as_str() == slot.pattern().as_str();
            slot.host() == unit.lineage.identity.hostname.as_deref()
                && unit.pieces.iter().any(|piece| same(&piece.pattern))
        };
        if shadowed.any(is_over) {
            return None;
        }
        let host = unit.lineage.identity.hostname.as_deref();
        for piece in &unit.pieces {
            self.index.remove(host, &piece.pattern);
        }
        if let Some(base) = wall_of(unit) {
            self.index.unwall(host, base);
        }
        let first = u32::try_from(at).ok()?;
        if !self.pins.retract(&unit.lineage.identity, first) {
            return None;
        }
        self.slots.drain(range.clone());
        self.shift(range.end, -signed(range.len())?)
    }

    /// Routes at a place and after it move.
    fn shift(&mut self, from: usize, by: i32) -> Option<()> {
        let from = u32::try_from(from).ok()?;
        self.index.shift(from, by);
        self.pins.shift(from, by);
        Some(())
    }

    /// Only reports an offer.
    pub(super) fn refuse(&mut self, unit: &Unit, rejection: &Rejection) {
        self.others.extend(RouteReport::refused(unit, rejection));
    }

    /// Nothing below a managed prefix is free by accident.
    pub(super) fn wall_prefixes(&mut self, managed: &[(String, Pattern)]) {
        for (_, prefix) in managed {
            self.index.wall(None, prefix);
        }
    }

    /// Closes what is closed; `before` is what was.
    pub(super) fn close(&mut self, before: &[Closure], closures: &[Closure]) {
        for closure in before {
            let host = closure.record.host.as_deref();
            self.index.reopen(host, &closure.pattern);
        }
        let now = self.now;
        for closure in closures {
            let host = closure.record.host.as_deref();
            let is_over = closure.until <= now;
            self.index.close(host, &closure.pattern, is_over);
            self.others.push(RouteReport::closed(closure, now));
            if !is_over {
                let Moments { next_tick, ends } = &mut self.moments;
                *next_tick = earlier(*next_tick, closure.until);
                *ends = earlier(*ends, closure.until);
            }
        }
        self.pins.close(closures);
    }

    pub(super) fn finish(mut self, inputs: &Inputs<'_>) -> Table {
        self.pins.index(&self.slots);
        inputs.table(
            Arc::new(self.slots),
            Arc::new(self.others),
            Arc::new(self.index),
            Arc::new(self.pins),
            self.moments.next_tick,
        )
    }
}

/// The place of the first route of an offer among all, or where it would be. The operator's stand
/// where they were put.
pub(super) fn place_of(slots: &[Slot], unit: &Unit) -> usize {
    if unit.lineage.is_operators() {
        return unit.first;
    }
    let rank = unit.lineage.rank();
    slots.partition_point(|slot| slot.lineage().rank() < rank)
}

impl Slot {
    fn lineage(&self) -> &Lineage {
        &self.entry.piece.lineage
    }
}

/// The base path of an offer, unless a route of it stands there.
fn wall_of(unit: &Unit) -> Option<&Pattern> {
    let base = unit.lineage.base.as_ref()?;
    let stands = |pattern: &Pattern| pattern.as_str() == base.as_str();
    let mut pieces = unit.pieces.iter();
    (!pieces.any(|piece| stands(&piece.pattern))).then_some(base)
}

fn signed(count: usize) -> Option<i32> {
    i32::try_from(count).ok()
}

fn places(range: Range<usize>) -> Range<u32> {
    let place = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
    place(range.start)..place(range.end)
}

fn earlier(due: Option<Timestamp>, at: Timestamp) -> Option<Timestamp> {
    Some(due.map_or(at, |due| due.min(at)))
}
