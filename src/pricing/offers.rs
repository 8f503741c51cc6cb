//! Routes gathered to offers: those of one `offerNamespace`, `offerName` and `hostname` are one
//! offer, in the order of the file; they all belong to the operator (O2).
//!
//! An offer is a slot while it is gathered, and every [`Item`] knows its slot, so that a change
//! costs what it touches: offers whose routes are where they were are handed out as they are, the
//! same `Arc`, and only the others are made again.

use super::asked::Asks;
use super::difference::number;
use crate::offer::{Declared, Location, Offer, OfferIdentity, Phase, Route};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// A route of the document.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// What it became.
    pub(super) route: Arc<Route>,
    /// The offer it is part of.
    pub(super) slot: u32,
    /// Where it was written.
    pub(super) line: u32,
    /// Where in that line.
    pub(super) column: u32,
    /// What it wants of facilitators.
    pub(super) asks: Asks,
}

/// What names an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    /// `offerNamespace`, empty when not written.
    pub(super) namespace: Arc<str>,
    /// `offerName`, empty when not written.
    pub(super) name: Arc<str>,
    /// The host it is bound to.
    pub(super) hostname: Option<Arc<str>>,
}

/// The parts of a name, to compare and to hash.
type Parts<'n> = (&'n str, &'n str, Option<&'n str>);

impl Name {
    fn parts(&self) -> Parts<'_> {
        (&self.namespace, &self.name, self.hostname.as_deref())
    }
}

/// Offers while their routes are gathered.
#[derive(Debug)]
pub(super) struct Slots {
    offers: Vec<Arc<Offer>>,
    /// Whether the routes of an offer are other ones than it has.
    stale: Vec<bool>,
    /// Slots by the hash of their name, or by the next number that was free.
    index: Option<HashMap<u64, u32>>,
    hasher: RandomState,
    /// Slots that are likely to be asked for.
    likely: Vec<u32>,
}

/// More likely slots than these are found by the index.
const LIKELY: usize = 8;

impl Slots {
    /// Begins with offers that were gathered before.
    pub(super) fn new(offers: Vec<Arc<Offer>>) -> Self {
        Self {
            stale: vec![false; offers.len()],
            offers,
            index: None,
            hasher: RandomState::new(),
            likely: Vec::new(),
        }
    }

    /// The routes of this offer are not what they were.
    pub(super) fn touch(&mut self, slot: u32) {
        if let Some(stale) = self.stale.get_mut(number(slot)) {
            *stale = true;
        }
        if self.likely.len() < LIKELY {
            self.likely.push(slot);
        }
    }

    /// The offer of that name, which gets another route.
    pub(super) fn named(&mut self, name: Name) -> u32 {
        let is = |slot: u32| {
            let offer = self.offers.get(number(slot));
            offer.is_some_and(|offer| parts(offer) == name.parts())
        };
        if let Some(slot) = self.likely.iter().copied().find(|slot| is(*slot)) {
            self.touch(slot);
            return slot;
        }
        let mut hash = self.hasher.hash_one(name.parts());
        let index = self
            .index
            .get_or_insert_with(|| indexed(&self.offers, &self.hasher));
        while let Some(slot) = index.get(&hash).copied() {
            if is(slot) {
                self.touch(slot);
                return slot;
            }
            hash = hash.wrapping_add(1);
        }
        // Far fewer than 2^32, because routes are bounded.
        let slot = u32::try_from(self.offers.len()).unwrap_or(u32::MAX);
        index.insert(hash, slot);
        self.add(name);
        slot
    }

    fn add(&mut self, name: Name) {
        // Neighbours mostly share their namespace.
        let namespace = match self.offers.last() {
            Some(last) if last.namespace == name.namespace => Arc::clone(&last.namespace),
            _ => name.namespace,
        };
        self.stale.push(true);
        self.offers.push(Arc::new(blank(Arc::new(OfferIdentity {
            hostname: name.hostname,
            ..OfferIdentity::of_operator(namespace, name.name)
        }))));
    }

    /// The offers in the order of their first routes; slots are numbered by that from now on.
    pub(super) fn gather(self, items: &mut [Item], file: &Arc<str>) -> Vec<Arc<Offer>> {
        let mut places = vec![None; self.offers.len()];
        let mut order = Vec::with_capacity(self.offers.len());
        let mut found: Vec<_> = self.offers.into_iter().zip(self.stale).map(Some).collect();
        for item in items {
            let slot = number(item.slot);
            if let Some((offer, stale)) = found.get_mut(slot).and_then(Option::take) {
                if let Some(place) = places.get_mut(slot) {
                    *place = u32::try_from(order.len()).ok();
                }
                order.push(Gathered::new(offer, stale));
            }
            // Every slot has its offer, and every offer its place since its first route.
            item.slot = places.get(slot).copied().flatten().unwrap_or(u32::MAX);
            if let Some(gathered) = order.get_mut(number(item.slot)) {
                gathered.push(item, file);
            }
        }
        let mut offers = Vec::with_capacity(order.len());
        offers.extend(order.into_iter().map(Gathered::finish));
        offers
    }
}

/// An offer with its latest routes.
struct Gathered {
    offer: Arc<Offer>,
    /// Its routes; `None` where the offer has them.
    routes: Option<Vec<Declared>>,
}

impl Gathered {
    fn new(offer: Arc<Offer>, stale: bool) -> Self {
        // Most offers have one route.
        let routes = stale.then(|| Vec::with_capacity(offer.routes.len().max(1)));
        Self { offer, routes }
    }

    fn push(&mut self, item: &Item, file: &Arc<str>) {
        if let Some(routes) = &mut self.routes {
            routes.push(Declared {
                route: Arc::clone(&item.route),
                at: Some(Location {
                    file: Arc::clone(file),
                    line: number(item.line),
                    column: number(item.column),
                }),
            });
        }
    }

    fn finish(self) -> Arc<Offer> {
        let Self { mut offer, routes } = self;
        let Some(mut routes) = routes else {
            return offer;
        };
        routes.shrink_to_fit();
        if let Some(new) = Arc::get_mut(&mut offer) {
            new.routes = routes;
            return offer;
        }
        Arc::new(Offer {
            routes,
            ..blank(Arc::clone(&offer.identity))
        })
    }
}

/// An offer without routes.
const fn blank(identity: Arc<OfferIdentity>) -> Offer {
    Offer {
        identity,
        generation: None,
        routes: Vec::new(),
        phase: Phase::Live,
        problems: Vec::new(),
    }
}

fn parts(offer: &Offer) -> Parts<'_> {
    (&offer.namespace, &offer.name, offer.hostname.as_deref())
}

fn indexed(offers: &[Arc<Offer>], hasher: &RandomState) -> HashMap<u64, u32> {
    let mut index = HashMap::with_capacity(offers.len());
    for (slot, offer) in (0..).zip(offers) {
        let mut hash = hasher.hash_one(parts(offer));
        while index.contains_key(&hash) {
            hash = hash.wrapping_add(1);
        }
        index.insert(hash, slot);
    }
    index
}

/// Hands out the offers of before where nothing in them changed, as far as both lists agree from
/// their beginning and from their end.
pub(super) fn keep(offers: &mut [Arc<Offer>], before: &[Arc<Offer>]) {
    let same = |(new, old): (&mut Arc<Offer>, &Arc<Offer>)| {
        let same = is_same(new, old);
        if same {
            *new = Arc::clone(old);
        }
        same
    };
    let count = offers
        .iter_mut()
        .zip(before)
        .map(same)
        .take_while(|same| *same)
        .count();
    let rest = offers.iter_mut().skip(count).rev();
    rest.zip(before.iter().skip(count).rev())
        .map(same)
        .take_while(|same| *same)
        .for_each(drop);
}

fn is_same(one: &Offer, other: &Offer) -> bool {
    parts(one) == parts(other)
        && one.routes.len() == other.routes.len()
        && one
            .routes
            .iter()
            .zip(&other.routes)
            .all(|(one, other)| Arc::ptr_eq(&one.route, &other.route) && one.at == other.at)
}
