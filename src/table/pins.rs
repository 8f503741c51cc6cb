//! Offers by namespace and name, for `/verify/{namespace}/{name}`.

use super::OfferEntry;
use super::closed::Closure;
use super::edges::Keyed;
use super::index::{Index, MarkKind};
use super::resolve::Slot;
use crate::route::Pattern;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use jiff::Timestamp;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;

/// All pins of a table.
#[derive(Debug, Default)]
pub(super) struct Pins {
    pins: HashTable<Pin>,
    keyed: Keyed,
    /// Whether any offer has routes enough for an index of its own.
    has_many: bool,
}

#[derive(Debug)]
struct Pin {
    offer: Arc<OfferEntry>,
    pinned: Pinned,
}

/// What a pin leads to.
#[derive(Debug)]
pub(super) enum Pinned {
    /// The offer's routes.
    Offer(Places),
    /// Deleted; 410 until then.
    Deleted(Timestamp),
}

/// The routes of a pinned offer, by place in the table, in declared order.
#[derive(Debug)]
pub(super) struct Places {
    first: u32,
    count: u32,
    more: Option<Box<More>>,
}

/// What few pinned offers have.
#[derive(Debug, Default)]
struct More {
    /// Further places: another offer of the same owner and name (one per host).
    places: Vec<u32>,
    /// Set for an offer with too many routes to try one by one.
    index: Option<Index>,
    /// What it or an offer of its names has left behind (R4).
    closed: Vec<OwnClosed>,
}

/// A closed path of a pinned offer.
#[derive(Debug)]
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
            keyed: Keyed::default(),
            has_many: false,
        }
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&Pinned> {
        let hash = self.keyed.hash_one((namespace, name));
        let is_it = |pin: &Pin| *pin.offer.namespace == *namespace && *pin.offer.name == *name;
        self.pins.find(hash, is_it).map(|pin| &pin.pinned)
    }

    fn entry(&mut self, offer: &OfferEntry) -> Entry<'_, Pin> {
        let Self { pins, keyed, .. } = self;
        let hash = |offer: &OfferEntry| keyed.hash_one((&*offer.namespace, &*offer.name));
        pins.entry(
            hash(offer),
            |pin| pin.offer.namespace == offer.namespace && pin.offer.name == offer.name,
            |pin| hash(&pin.offer),
        )
    }

    /// Makes an offer reachable by its names. The operator's come first and keep them; two offers of
    /// one owner and name (one per host) are one pin.
    pub(super) fn declare(&mut self, offer: &Arc<OfferEntry>, places: Range<u32>, slots: &[Slot]) {
        if offer.name.is_empty() || offer.namespace.is_empty() {
            return;
        }
        let mut total = places.len();
        match self.entry(offer) {
            Entry::Vacant(vacant) => {
                let pinned = Pinned::Offer(Places {
                    first: places.start,
                    count: places.end - places.start,
                    more: None,
                });
                let offer = offer.clone();
                vacant.insert(Pin { offer, pinned });
            }
            Entry::Occupied(mut there) => {
                if let Pinned::Offer(known) = &mut there.get_mut().pinned {
                    let first = known.iter().next();
                    let other = first
                        .and_then(|place| slots.get(place as usize))
                        .is_some_and(|slot| slot.entry.offer.uid.is_none() != offer.uid.is_none());
                    if !other {
                        known.more.get_or_insert_default().places.extend(places);
                    }
                    total = known.iter().count();
                }
            }
        }
        self.has_many |= total > FEW_ROUTES;
    }

    /// Notes a closed path: the pin of an offer that is gone, or what a present one has left behind.
    pub(super) fn close(&mut self, closure: &Closure, now: Timestamp) {
        let record = &closure.record;
        if record.namespace.is_empty() || record.name.is_empty() {
            return;
        }
        let offer = OfferEntry {
            namespace: record.namespace.clone(),
            name: record.name.clone(),
            uid: None,
        };
        match self.entry(&offer) {
            Entry::Occupied(mut there) => match &mut there.get_mut().pinned {
                Pinned::Offer(places) => {
                    let more = places.more.get_or_insert_default();
                    more.closed.push(OwnClosed {
                        host: record.host.clone(),
                        pattern: closure.pattern.clone(),
                        until: closure.until,
                    });
                }
                Pinned::Deleted(until) => *until = closure.until.max(*until),
            },
            Entry::Vacant(vacant) if closure.until > now => {
                vacant.insert(Pin {
                    offer: Arc::new(offer),
                    pinned: Pinned::Deleted(closure.until),
                });
            }
            Entry::Vacant(_) => {}
        }
    }

    /// Indexes the offers that have many routes.
    pub(super) fn index(&mut self, slots: &[Slot]) {
        if !self.has_many {
            return;
        }
        for Pin { pinned, .. } in &mut self.pins {
            let Pinned::Offer(places) = pinned else {
                continue;
            };
            let count = places.iter().count();
            if count <= FEW_ROUTES {
                continue;
            }
            let mut own = Index::new(count);
            for place in places.iter() {
                if let Some(slot) = slots.get(place as usize) {
                    let kind = MarkKind::Gated(place);
                    own.insert(slot.host(), slot.pattern(), kind, place as usize);
                }
            }
            places.more.get_or_insert_default().index = Some(own);
        }
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

    pub(super) fn closed(&self) -> &[OwnClosed] {
        self.more.as_ref().map_or(&[], |more| &more.closed)
    }
}
