//! Records when a few routes left and a few arrived, without a look at all others.

use super::super::prepare::Piece;
use super::{Entry, Known};
use jiff::Timestamp;
use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::Arc;

impl Known {
    /// Whether [`Known::close_left`] and [`Known::record_arrived`] say all that
    /// [`Known::close_absent`] and [`Known::reconcile`] of all routes would: the routes that left
    /// stood alone at their paths, and those that arrived do now. Only after a reconciliation of
    /// complete lists.
    pub(in crate::table) fn can_exchange<'a>(
        &self,
        left: impl Iterator<Item = &'a Arc<Piece>>,
        arrived: impl Iterator<Item = &'a Arc<Piece>>,
    ) -> bool {
        let mut gone = HashSet::new();
        for piece in left.filter(|piece| piece.is_recorded()) {
            let Some(entry) = self.get(piece.record.path()) else {
                return false;
            };
            let path = self.keyed.hash_one(piece.record.path().key());
            let is_alone = entry.routes == 1 && !entry.is_closed && entry.is_of(&piece.record);
            if !is_alone || self.freed.contains(&path) {
                return false;
            }
            gone.insert(path);
        }
        arrived.filter(|piece| piece.is_recorded()).all(|piece| {
            let path = self.keyed.hash_one(piece.record.path().key());
            let stands = |entry: &Entry| !entry.is_closed && !gone.contains(&path);
            !self.get(piece.record.path()).is_some_and(stands)
        })
    }

    /// Closes what left and did not arrive again; the first half of an exchange.
    pub(in crate::table) fn close_left<'a>(
        &mut self,
        left: impl Iterator<Item = &'a Arc<Piece>>,
        arrived: impl Iterator<Item = &'a Arc<Piece>>,
        now: Timestamp,
    ) {
        self.see(arrived);
        let round = self.round;
        for piece in left.filter(|piece| piece.is_recorded()) {
            if let Some(entry) = self.get_mut(piece.record.path())
                && entry.seen != round
                && !entry.is_closed
            {
                entry.close(now);
                self.unsaved = true;
                self.version += 1;
            }
        }
    }

    /// Records what arrived; the second half of an exchange.
    pub(in crate::table) fn record_arrived<'a>(
        &mut self,
        arrived: impl Iterator<Item = &'a Arc<Piece>> + Clone,
    ) {
        self.round += 1;
        for piece in arrived.clone().filter(|piece| piece.is_recorded()) {
            self.record(&piece.record);
        }
        for piece in arrived.filter(|piece| piece.is_freed()) {
            self.free(piece.record.path(), |entry| entry.is_closed);
        }
    }
}
