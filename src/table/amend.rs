//! The next table when a few offers of the cluster came, went, or stand elsewhere now.
//!
//! A copy of the last table is changed, and so are the owners and the records, by no more than the
//! offers in question. That is as good as an assembly as long as nobody else is concerned: who comes
//! wins against nobody and shares no place, who goes leaves no place to another, and no refused offer
//! wants what either has. Where any of this is in doubt there is no amendment, and what was done until
//! then is what an assembly does first: closing what left.

use super::Table;
use super::assembly::Assembly;
use super::compile::{Compiler, Inputs, is_incumbent, managed, reserved};
use super::list::{Difference, Stage, Unit};
use super::owners::Ends;
use super::prepare::Piece;

/// Most offers that come or go at a time: each costs a walk over all places.
const MOST: usize = 64;

impl Compiler {
    /// The last table with what changed; `None` if an assembly has to tell.
    pub(super) fn amend(
        &mut self,
        inputs: &Inputs<'_>,
        source: &'static str,
        difference: &Difference,
    ) -> Option<Table> {
        let now = inputs.now;
        let edits = difference.left.len() + difference.arrived.len();
        if edits > MOST || !inputs.complete || inputs.previous.index.is_worn() {
            return None;
        }
        let units = &mut self.lists.get_mut(source)?.units;
        for at in &difference.arrived {
            units.get_mut(*at)?.step(now, &mut self.leftovers);
        }
        if !self.concerns_nobody_else(source, difference) {
            return None;
        }

        let moments = self.kept.as_ref()?.moments;
        let mut assembly = Assembly::of(inputs.previous, moments, now);
        self.patch(&mut assembly.slots, source, &difference.changed)?;
        let Self {
            lists,
            pricer,
            known,
            kept,
            ..
        } = self;
        let (units, kept) = (&mut lists.get_mut(source)?.units, kept.as_mut()?);
        let owners = kept.owners.as_mut()?;
        for unit in &difference.left {
            assembly.remove(unit)?;
            owners.dismiss(&unit.candidate()?);
        }
        let mut arrived = difference.arrived.clone();
        arrived.sort_by_key(|at| units.get(*at).map(|unit| unit.lineage.rank()));
        for at in &arrived {
            assembly.insert(units.get_mut(*at)?, pricer)?;
        }
        kept.moments = assembly.moments;

        let arrived = || arrived.iter().filter_map(|at| units.get(*at));
        let pieces = || arrived().flat_map(|unit| &unit.pieces);
        let left = difference.left.iter().flat_map(|unit| &unit.pieces);
        known.close_left(left, pieces(), now);
        let closed_uids = known.closed_uids();
        for unit in &difference.left {
            kept.present
                .retain(|uid| Some(uid) != unit.lineage.identity.uid.as_ref());
        }
        kept.present
            .extend(arrived().filter_map(|unit| unit.lineage.identity.uid.clone()));
        kept.present.retain(|uid| closed_uids.contains(uid));
        let (version, retention) = (known.version(), inputs.settings.closed_path_retention);
        let mut closures = known.closures(retention, &kept.present);
        owners.reserve(reserved(&closures, now));
        for unit in arrived() {
            let candidate = unit.candidate()?;
            let is_incumbent = |piece: &Piece| is_incumbent(known, piece);
            // An assembly tells who is refused until when.
            let verdict = owners.admit(&candidate, is_incumbent, &Ends::default());
            verdict.ok()?;
        }
        known.record_arrived(pieces());
        let cap = inputs.settings.closed_paths_per_namespace;
        known.enforce_cap(cap, &managed(inputs.settings));
        if known.version() != version {
            closures = known.closures(retention, &kept.present);
        }

        let others = inputs.previous.report.others.iter();
        assembly
            .others
            .extend(others.take(kept.refused_rows).cloned());
        assembly.close(&kept.closures, &closures);
        kept.closures = closures;
        // Whoever was refused may be better off now that less is closed: the next one tells.
        let is_final = kept.refused.is_empty();
        let ends = assembly.moments.ends;
        let mut shape = self.shape_of(inputs, ends);
        if !is_final {
            shape.version = version;
        }
        self.kept.as_mut()?.shape = shape;
        #[cfg(test)]
        {
            self.amended += 1;
        }
        Some(assembly.finish(inputs))
    }

    /// Whether what came and went is all there is to look at.
    fn concerns_nobody_else(&self, source: &'static str, difference: &Difference) -> bool {
        let (Some(list), Some(kept)) = (self.lists.get(source), &self.kept) else {
            return false;
        };
        let arrived = difference.arrived.iter();
        let arrived = arrived.filter_map(|at| list.units.get(*at));
        let left = difference.left.iter();
        let mut concerned = left.clone().chain(arrived.clone());
        // A drain that is gone, or a letter case that hides another, has to be looked for among all.
        let was_served =
            |unit: &Unit| unit.rejection.is_none() && !matches!(unit.stage, Stage::Draining(_));
        let has_case = |unit: &Unit| {
            let patterns = unit.pieces.iter().map(|piece| &piece.pattern);
            let mut patterns = patterns.chain(&unit.lineage.base);
            patterns.any(|pattern| pattern.has_uppercase())
        };
        let mut gone = left.clone();
        if !gone.all(|unit| was_served(unit)) || concerned.clone().any(|unit| has_case(unit)) {
            return false;
        }
        let is_wanted = |claim: &String| {
            let mut refused = kept.refused.iter().flatten();
            refused.any(|other| other.starts_with(claim) || claim.starts_with(other))
        };
        if !kept.refused.is_empty() && concerned.any(|unit| unit.claims().iter().any(&is_wanted)) {
            return false;
        }
        let left = left.flat_map(|unit| &unit.pieces);
        self.known
            .can_exchange(left, arrived.flat_map(|unit| &unit.pieces))
    }
}
