//! Until when a subtree is reserved: what a seller who waits for it is told.
//!
//! Only a refusal needs it, so it is made when the first offer is refused for a closed path, and most
//! tables never make it.

use super::{Claim, Holder, Holding, claim_of, key};
use crate::route::Tail;
use jiff::Timestamp;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Ends of reservations by host and folded subtree.
#[derive(Debug)]
pub(super) struct Reserved<'a>(BTreeMap<String, Vec<Reservation<'a>>>);

#[derive(Debug)]
struct Reservation<'a> {
    holder: Holder<'a>,
    /// Whether it is this path alone, without what is below.
    is_exact: bool,
    until: Timestamp,
}

impl<'a> Reserved<'a> {
    /// `domain` says under which host a hostname competes (O4).
    pub(super) fn new(
        holdings: &'a [Holding<'a>],
        domain: impl Fn(Option<&'a str>) -> Option<&'a str>,
    ) -> Self {
        let mut all: BTreeMap<String, Vec<Reservation<'a>>> = BTreeMap::new();
        for holding in holdings {
            let Some(until) = holding.until else { continue };
            let claim: Claim<'_> = claim_of(holding.pattern);
            let is_exact = match holding.holder {
                Holder::Operator => holding.pattern.tail() == Tail::Exact,
                Holder::Namespace(_) => false,
            };
            let place = place(domain(holding.hostname), &claim);
            all.entry(place).or_default().push(Reservation {
                holder: holding.holder,
                is_exact,
                until,
            });
        }
        Self(all)
    }

    /// When the last reservation of others ends that contains a claim or lies in it.
    pub(super) fn until(
        &self,
        domain: Option<&str>,
        claim: &[Cow<'_, str>],
        namespace: &str,
    ) -> Option<Timestamp> {
        let above = (0..claim.len())
            .filter_map(|length| self.0.get(&place(domain, claim.get(..length)?)))
            .flatten()
            .filter(|reservation| !reservation.is_exact);
        let own = place(domain, claim);
        let from = (Bound::Included(own.as_str()), Bound::Unbounded);
        let below = self
            .0
            .range::<str, _>(from)
            .take_while(|(place, _)| place.starts_with(&own))
            .flat_map(|(_, reservations)| reservations);
        above
            .chain(below)
            .filter(|reservation| match reservation.holder {
                Holder::Operator => true,
                Holder::Namespace(holder) => holder != namespace,
            })
            .map(|reservation| reservation.until)
            .max()
    }
}

/// A host and a subtree as one text, so that a range is a subtree of one host.
fn place(domain: Option<&str>, claim: &[Cow<'_, str>]) -> String {
    domain.unwrap_or_default().to_owned() + &key(claim)
}
