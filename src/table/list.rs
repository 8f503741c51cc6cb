//! The last list of a source, and what was made of each of its offers.
//!
//! A source hands out the same `Arc` for an offer or a route that did not change, so pointers tell
//! what did: a new list is compared with the last one pointer by pointer, and what stayed keeps what
//! was made of it. The old list is kept until the comparison is over, so that no address can be given
//! to something else meanwhile. Being the same is all that pointers decide: what is another object
//! with equal contents is only made anew, for the same result.

use super::RouteEntry;
use super::owners::{Candidate, Rejection, key};
use super::prepare::{Lineage, Piece, Trouble};
use crate::offer::{Offer, Phase, Route, Withdrawal};
use jiff::Timestamp;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// What a source said last.
#[derive(Debug, Default)]
#[expect(
    clippy::vec_box,
    reason = "a list of 100,000 is shifted for one in its middle"
)]
pub(super) struct List {
    offers: Vec<Arc<Offer>>,
    /// One for each offer. Boxed, so that moving many is cheap.
    pub(super) units: Vec<Box<Unit>>,
}

/// What was made of one offer.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) lineage: Arc<Lineage>,
    pub(super) phase: Phase,
    pub(super) stage: Stage,
    pub(super) pieces: Vec<Arc<Piece>>,
    /// For each piece what the gate sees of it; `None` until it is built, and for a refused offer.
    pub(super) entries: Box<[Option<Arc<RouteEntry>>]>,
    /// Place of its first route in the table when it was assembled.
    pub(super) first: usize,
    /// Why it is not in the table.
    pub(super) rejection: Option<Arc<Rejection>>,
}

/// The phase of an offer at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Served.
    Live,
    /// Until then.
    Draining(Timestamp),
    /// Paused, or being deleted.
    Withdrawn(Withdrawal),
    /// Its drain ended then.
    Drained(Timestamp),
}

impl Stage {
    /// Why an offer in this stage answers 410; none of one that is served.
    pub(super) fn withdrawal(self) -> Option<Trouble> {
        let (code, why) = match self {
            Self::Live | Self::Draining(_) => return None,
            Self::Withdrawn(Withdrawal::Paused) => (
                "paused",
                "the offer is paused and its paths answer 410: to sell again, take back spec.paused \
                 or the annotation obol.org/paused, whichever is set"
                    .to_owned(),
            ),
            Self::Withdrawn(Withdrawal::Deleting) => (
                "deleting",
                "the offer is being deleted and its paths answer 410; they are kept for its namespace \
                 from the moment that it is gone"
                    .to_owned(),
            ),
            Self::Drained(until) => (
                "drained",
                format!(
                    "the drain of the offer ended at {until} and its paths answer 410: to sell \
                     again, remove spec.drainAt"
                ),
            ),
        };
        Some(Trouble::new(code, why))
    }
}

/// How a list differs from the last one.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "as they stood in their list")]
pub(super) struct Difference {
    /// Whether offers of the operator are others, or stand elsewhere: their order counts (O2).
    pub(super) is_reordered: bool,
    /// The unit and piece of each route that was made anew and stands where it stood.
    pub(super) changed: Vec<(usize, usize)>,
    /// Units that are not there any more, or not as they were.
    pub(super) left: Vec<Box<Unit>>,
    /// Units that were not there, or not as they are.
    pub(super) arrived: Vec<usize>,
}

/// What is not needed any more. It is freed after the publication, away from requests.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "as they stood in their list")]
pub(super) struct Leftovers {
    offers: Vec<Vec<Arc<Offer>>>,
    pub(super) units: Vec<Box<Unit>>,
    /// Entries that left the table; their counters are given back.
    pub(super) entries: Vec<Arc<RouteEntry>>,
}

impl Difference {
    /// Whether all is as it was.
    pub(super) const fn is_none(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty() && self.arrived.is_empty()
    }
}

impl List {
    /// Takes a new list.
    pub(super) fn replace(
        &mut self,
        source: &'static str,
        offers: Vec<Arc<Offer>>,
        leftovers: &mut Leftovers,
    ) -> Difference {
        let (old, new) = middles(&self.offers, &offers, |left, right| {
            Arc::ptr_eq(left, right)
        });
        let mut taken: Vec<Option<Box<Unit>>> = self.units.drain(old.clone()).map(Some).collect();
        let (before, after) = (
            self.offers.get(old.clone()).unwrap_or_default(),
            offers.get(new.clone()).unwrap_or_default(),
        );
        let mut difference = Difference::default();
        let mut partners = Partners::new(before);
        let mut made = Vec::with_capacity(after.len());
        for (position, offer) in after.iter().enumerate() {
            let partner = partners.of(position, offer);
            let previous = partner.and_then(|at| taken.get_mut(at)?.take());
            let at = new.start + position;
            let moved = partner != Some(position);
            let unit = match previous {
                Some(unit) if partners.is_same(partner, offer) => unit,
                Some(unit) => Box::new(unit.renew(source, offer, at, &mut difference, leftovers)),
                None => {
                    difference.arrived.push(at);
                    Box::new(Unit::new(source, offer))
                }
            };
            difference.is_reordered |= moved && unit.lineage.is_operators();
            made.push(unit);
        }
        self.units.splice(old.start..old.start, made);
        leftovers
            .offers
            .push(std::mem::replace(&mut self.offers, offers));
        for mut unit in taken.into_iter().flatten() {
            unit.retire(leftovers);
            difference.left.push(unit);
        }
        let mut left = difference.left.iter();
        difference.is_reordered |= left.any(|unit| unit.lineage.is_operators());
        difference
    }

    /// Forgets everything that was made, so that it is made from nothing.
    #[cfg(test)]
    pub(super) fn forget(&mut self, source: &'static str, leftovers: &mut Leftovers) {
        for (unit, offer) in self.units.iter_mut().zip(&self.offers) {
            unit.retire(leftovers);
            **unit = Unit::new(source, offer);
        }
    }
}

impl Unit {
    fn new(source: &'static str, offer: &Offer) -> Self {
        let lineage = Arc::new(Lineage::new(source, offer));
        let mut pieces: Vec<_> = offer
            .routes
            .iter()
            .map(|declared| Arc::new(lineage.piece(&declared.route)))
            .collect();
        if pieces.is_empty() {
            pieces.extend(lineage.without_routes().map(Arc::new));
        }
        Self {
            lineage,
            phase: offer.phase.clone(),
            stage: Stage::Live,
            entries: vec![None; pieces.len()].into(),
            pieces,
            first: 0,
            rejection: None,
        }
    }

    /// The same offer as it is now, with what did not change of it.
    fn renew(
        mut self,
        source: &'static str,
        offer: &Offer,
        at: usize,
        difference: &mut Difference,
        leftovers: &mut Leftovers,
    ) -> Self {
        let mut unit = if self.lineage.is_of(offer) && !offer.routes.is_empty() {
            self.keep(offer, leftovers)
        } else {
            Self::new(source, offer)
        };
        let pairs = self.pieces.iter().zip(&unit.pieces);
        let stands = self.lineage.is_at(offer)
            && self.phase == unit.phase
            && self.pieces.len() == unit.pieces.len()
            && pairs
                .clone()
                .all(|(before, after)| Arc::ptr_eq(before, after) || before.stands_as(after));
        unit.first = self.first;
        unit.stage = self.stage;
        if stands {
            let made = pairs.enumerate().filter(|(_, (l, r))| !Arc::ptr_eq(l, r));
            let made = made.map(|(position, _)| (at, position));
            difference.changed.extend(made);
            unit.rejection = self.rejection.clone();
        }
        self.retire(leftovers);
        if stands {
            leftovers.units.push(Box::new(self));
        } else {
            difference.arrived.push(at);
            difference.left.push(Box::new(self));
        }
        unit
    }

    /// Takes the pieces of the routes that are still there, and makes the others.
    fn keep(&mut self, offer: &Offer, leftovers: &mut Leftovers) -> Self {
        let is_same = |piece: &Arc<Piece>, declared: &crate::offer::Declared| {
            piece
                .route
                .as_ref()
                .is_some_and(|route| Arc::ptr_eq(route, &declared.route))
        };
        let (old, new) = middles(&self.pieces, &offer.routes, is_same);
        let mut pieces = Vec::with_capacity(offer.routes.len());
        pieces.extend_from_slice(self.pieces.get(..old.start).unwrap_or_default());
        let mut entries = Vec::with_capacity(offer.routes.len());
        let mut kept = std::mem::take(&mut self.entries).into_iter();
        entries.extend(kept.by_ref().take(old.start));
        let mut between: Vec<_> = kept.by_ref().take(old.len()).collect();
        let places: HashMap<*const Route, usize> = if old.is_empty() {
            HashMap::new()
        } else {
            let middle = self.pieces.get(old.clone()).unwrap_or_default();
            let routes = middle.iter().map(|piece| piece.route.as_ref());
            let places = routes.enumerate();
            places
                .filter_map(|(at, route)| Some((Arc::as_ptr(route?), at)))
                .collect()
        };
        for declared in offer.routes.get(new.clone()).unwrap_or_default() {
            match places.get(&Arc::as_ptr(&declared.route)) {
                Some(at) => {
                    pieces.extend(self.pieces.get(old.start + at).cloned());
                    // Of two equal routes only the first keeps the entry: each counts for itself.
                    entries.push(between.get_mut(*at).and_then(Option::take));
                }
                None => {
                    pieces.push(Arc::new(self.lineage.piece(&declared.route)));
                    entries.push(None);
                }
            }
        }
        leftovers.entries.extend(between.into_iter().flatten());
        pieces.extend_from_slice(self.pieces.get(old.end..).unwrap_or_default());
        entries.extend(kept);
        Self {
            lineage: self.lineage.clone(),
            phase: offer.phase.clone(),
            stage: self.stage,
            entries: entries.into(),
            pieces,
            first: 0,
            rejection: None,
        }
    }

    /// Takes its entries out of use.
    pub(super) fn retire(&mut self, leftovers: &mut Leftovers) {
        let entries = self.entries.iter_mut().filter_map(Option::take);
        leftovers.entries.extend(entries);
    }

    /// What asks for its paths; nobody asks for the operator's.
    pub(super) fn candidate(&self) -> Option<Candidate<'_>> {
        Some(Candidate {
            namespace: self.lineage.identity.tenant()?,
            hostname: self.lineage.identity.hostname.as_ref(),
            base: self.lineage.base.as_ref(),
            pieces: &self.pieces,
        })
    }

    /// The subtrees that it asks for, as text with a slash after each segment.
    pub(super) fn claims(&self) -> Vec<String> {
        let claims = self.candidate().map(|candidate| candidate.claims());
        claims
            .unwrap_or_default()
            .iter()
            .map(|it| key(it))
            .collect()
    }

    /// Its stage at `now`; entries of another stage go out of use.
    pub(super) fn step(&mut self, now: Timestamp, leftovers: &mut Leftovers) {
        let stage = match self.phase {
            Phase::Live => Stage::Live,
            Phase::Draining { until } if until > now => Stage::Draining(until),
            Phase::Draining { until } => Stage::Drained(until),
            Phase::Withdrawn(why) => Stage::Withdrawn(why),
        };
        if stage != self.stage {
            self.stage = stage;
            self.retire(leftovers);
        }
    }
}

/// Finds the offer of the last list that an offer of the new one was.
#[derive(Debug)]
struct Partners<'a> {
    before: &'a [Arc<Offer>],
    by_address: Option<HashMap<*const Offer, usize>>,
    by_name: Option<HashMap<Names<'a>, usize>>,
}

impl<'a> Partners<'a> {
    const fn new(before: &'a [Arc<Offer>]) -> Self {
        Self {
            before,
            by_address: None,
            by_name: None,
        }
    }

    fn of(&mut self, position: usize, offer: &Arc<Offer>) -> Option<usize> {
        let before = self.before;
        let opposite = before.get(position);
        if opposite.is_some_and(|there| Arc::ptr_eq(there, offer)) {
            return Some(position);
        }
        let by_address = self.by_address.get_or_insert_with(|| {
            let places = before.iter().enumerate();
            places.map(|(at, there)| (Arc::as_ptr(there), at)).collect()
        });
        if let Some(at) = by_address.get(&Arc::as_ptr(offer)) {
            return Some(*at);
        }
        if opposite.is_some_and(|there| names(there) == names(offer)) {
            return Some(position);
        }
        let by_name = self.by_name.get_or_insert_with(|| {
            let places = before.iter().enumerate();
            places.map(|(at, there)| (names(there), at)).collect()
        });
        by_name.get(&names(offer)).copied()
    }

    fn is_same(&self, partner: Option<usize>, offer: &Arc<Offer>) -> bool {
        partner
            .and_then(|at| self.before.get(at))
            .is_some_and(|there| Arc::ptr_eq(there, offer))
    }
}

/// Namespace, name and UID.
type Names<'a> = (&'a str, &'a str, Option<&'a str>);

fn names(offer: &Offer) -> Names<'_> {
    (&offer.namespace, &offer.name, offer.uid.as_deref())
}

/// What is left of two lists between their common start and their common end.
fn middles<L, R>(
    left: &[L],
    right: &[R],
    is_same: impl Fn(&L, &R) -> bool,
) -> (Range<usize>, Range<usize>) {
    let same = |(left, right): &(&L, &R)| is_same(left, right);
    let start = left.iter().zip(right).take_while(same).count();
    let rest = left.len().min(right.len()) - start;
    let tails = left.iter().rev().zip(right.iter().rev()).take(rest);
    let end = tails.take_while(same).count();
    (start..left.len() - end, start..right.len() - end)
}
