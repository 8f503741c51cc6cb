//! Offers by namespace and name, for `/verify/{namespace}/{name}`.
//!
//! The offers that are there and what offers have left behind are kept apart, so that either can be
//! changed alone.

use super::closed::Closure;
use super::edges::Keyed;
use super::index::{Index, MarkKind};
use super::resolve::Slot;
use super::{OfferIdentity, PathRecord};
use crate::route::Pattern;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use jiff::Timestamp;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;

/// All pins of a table.
#[derive(Debug, Default, Clone)]
pub(super) struct Pins {
    pins: HashTable<Pin>,
    keyed: Keyed,
    /// Whether any offer has routes enough for an index of its own.
    has_many: bool,
    /// What was left, by namespace and name.
    left: HashTable<Left>,
}

#[derive(Debug, Clone)]
struct Pin {
    offer: Arc<OfferIdentity>,
    places: Places,
}

/// What an offer, or one of its names before it, has left behind (R4).
#[derive(Debug, Clone)]
struct Left {
    /// One of it, for its names.
    record: Arc<PathRecord>,
    /// When the last of it is forgotten.
    until: Timestamp,
    closed: Vec<OwnClosed>,
}

/// What a pin leads to.
#[derive(Debug)]
pub(super) enum Pinned<'t> {
    /// The offer's routes, and the paths that it or an offer of its names has left.
    Offer(&'t Places, &'t [OwnClosed]),
    /// Deleted; 410 until then.
    Deleted(Timestamp),
}

/// The routes of a pinned offer, by place in the table, in declared order.
#[derive(Debug, Clone)]
pub(super) struct Places {
    first: u32,
    count: u32,
    more: Option<Box<More>>,
}

/// What few pinned offers have.
#[derive(Debug, Default, Clone)]
struct More {
    /// Whether another offer of the same owner and name has the pin, too, be it without routes.
    is_shared: bool,
    /// Further places: another offer of the same owner and name (one per host).
    places: Vec<u32>,
    /// Set for an offer with too many routes to try one by one.
    index: Option<Index>,
}

/// A closed path of a pinned offer.
#[derive(Debug, Clone)]
pub(super) struct OwnClosed {
    pub(super) host: Option<Arc<str>>,
    pub(super) pattern: Pattern,
    /// End of the 410.
    pub(super) until: Timestamp,
}

/// A pinned offer with more routes than this gets an index of its own.
const FEW_ROUTES: usize = 16;

impl Pins {
    /// No pins yet, and room for so many.
    pub(super) fn with_capacity(offers: usize) -> Self {
        Self {
            pins: HashTable::with_capacity(offers),
            ..Self::default()
        }
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Pinned<'_>> {
        let hash = self.keyed.hash_one((namespace, name));
        let is_it = |pin: &Pin| *pin.offer.namespace == *namespace && *pin.offer.name == *name;
        let found = self.pins.find(hash, is_it);
        let left = self.left.find(hash, |left| left.is_of(namespace, name));
        match (found, left) {
            (Some(pin), None) => Some(Pinned::Offer(&pin.places, &[])),
            (Some(pin), Some(left)) => Some(Pinned::Offer(&pin.places, &left.closed)),
            (None, Some(left)) => Some(Pinned::Deleted(left.until)),
            (None, None) => None,
        }
    }

    fn entry(&mut self, offer: &OfferIdentity) -> Entry<'_, Pin> {
        let Self { pins, keyed, .. } = self;
        let hash = |offer: &OfferIdentity| keyed.hash_one((&*offer.namespace, &*offer.name));
        pins.entry(
            hash(offer),
            |pin| pin.offer.namespace == offer.namespace && pin.offer.name == offer.name,
            |pin| hash(&pin.offer),
        )
    }

    /// Makes an offer reachable by its names; whether it has them for itself. The operator's come first
    /// and keep them; two offers of one owner and name (one per host) are one pin.
    pub(super) fn declare(
        &mut self,
        offer: &Arc<OfferIdentity>,
        places: Range<u32>,
        slots: &[Slot],
    ) -> bool {
        if offer.name.is_empty() || offer.namespace.is_empty() {
            return true;
        }
        let mut total = places.len();
        let is_new = match self.entry(offer) {
            Entry::Vacant(vacant) => {
                let places = Places {
                    first: places.start,
                    count: places.end - places.start,
                    more: None,
                };
                let offer = offer.clone();
                vacant.insert(Pin { offer, places });
                true
            }
            Entry::Occupied(mut there) => {
                let known = &mut there.get_mut().places;
                let first = known.iter().next();
                let other = first
                    .and_then(|place| slots.get(place as usize))
                    .is_some_and(|slot| slot.entry.offer.uid.is_none() != offer.uid.is_none());
                if !other {
                    let more = known.more.get_or_insert_default();
                    more.is_shared = true;
                    more.places.extend(places);
                }
                total = known.iter().count();
                false
            }
        };
        self.has_many |= total > FEW_ROUTES;
        is_new
    }

    /// Takes the pin of an offer away; whether it was that offer's alone.
    pub(super) fn retract(&mut self, offer: &OfferIdentity, first: u32) -> bool {
        if offer.name.is_empty() || offer.namespace.is_empty() {
            return true;
        }
        match self.entry(offer) {
            Entry::Occupied(there) if there.get().places.is_alone_at(first) => {
                there.remove();
                true
            }
            Entry::Occupied(_) | Entry::Vacant(_) => false,
        }
    }

    /// Routes at `from` and after it have moved in the table.
    pub(super) fn shift(&mut self, from: u32, by: i32) {
        let shift = |place: &mut u32| {
            if *place >= from {
                *place = place.saturating_add_signed(by);
            }
        };
        for Pin { places, .. } in &mut self.pins {
            shift(&mut places.first);
            if let Some(more) = &mut places.more {
                more.places.iter_mut().for_each(shift);
                if let Some(index) = &mut more.index {
                    index.shift(from, by);
                }
            }
        }
    }

    /// Indexes the offers that have many routes.
    pub(super) fn index(&mut self, slots: &[Slot]) {
        if self.has_many {
            let pins = self.pins.iter_mut();
            pins.for_each(|pin| pin.places.index_if_many(slots));
        }
    }

    /// Notes all closed paths: the pins of offers that are gone, and what present ones have left.
    pub(super) fn close(&mut self, closures: &[Closure]) {
        let Self { left, keyed, .. } = self;
        left.clear();
        for closure in closures {
            let record = &closure.record;
            if record.namespace.is_empty() || record.name.is_empty() {
                continue;
            }
            let hash = |record: &PathRecord| keyed.hash_one((&*record.namespace, &*record.name));
            let left = left.entry(
                hash(record),
                |left| left.is_of(&record.namespace, &record.name),
                |left| hash(&left.record),
            );
            let mut left = left.or_insert_with(|| Left {
                record: record.clone(),
                until: closure.until,
                closed: Vec::new(),
            });
            let left = left.get_mut();
            left.until = closure.until.max(left.until);
            left.closed.push(OwnClosed {
                host: record.host.clone(),
                pattern: closure.pattern.clone(),
                until: closure.until,
            });
        }
    }
}

impl Left {
    fn is_of(&self, namespace: &str, name: &str) -> bool {
        *self.record.namespace == *namespace && *self.record.name == *name
    }
}

impl Places {
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let more = self.more.iter().flat_map(|more| &more.places);
        (self.first..self.first.saturating_add(self.count)).chain(more.copied())
    }

    pub(super) fn index(&self) -> Option<&Index> {
        self.more.as_ref().and_then(|more| more.index.as_ref())
    }

    /// Whether the offer at this place has the pin for itself.
    fn is_alone_at(&self, first: u32) -> bool {
        self.first == first && self.more.as_ref().is_none_or(|more| !more.is_shared)
    }

    /// Indexes the routes of an offer that has many.
    fn index_if_many(&mut self, slots: &[Slot]) {
        let count = self.iter().count();
        if count <= FEW_ROUTES || self.index().is_some() {
            return;
        }
        let mut own = Index::new(count);
        for place in self.iter() {
            if let Some(slot) = slots.get(place as usize) {
                let kind = MarkKind::Gated(place);
                own.insert(slot.host(), slot.pattern(), kind, place as usize);
            }
        }
        self.more.get_or_insert_default().index = Some(own);
    }
}
