//! Until when a subtree is reserved: what a seller who waits for it is told.
//!
//! Only a refusal needs it, so it is made when the first offer is refused for a closed path, and most
//! tables never make it.

use super::{Claim, Holder, Holding, claim_of, key};
use crate::route::Tail;
use jiff::Timestamp;
use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Ends of reservations, for whoever is refused.
#[derive(Debug, Default)]
pub(in crate::table) struct Ends<'a> {
    holdings: &'a [Holding<'a>],
    reserved: OnceCell<Reserved<'a>>,
}

/// By host and folded subtree.
#[derive(Debug)]
struct Reserved<'a>(BTreeMap<String, Vec<Reservation<'a>>>);

#[derive(Debug)]
struct Reservation<'a> {
    holder: Holder<'a>,
    /// Whether it is this path alone, without what is below.
    is_exact: bool,
    until: Timestamp,
}

impl<'a> Ends<'a> {
    /// Those of what is reserved.
    pub(in crate::table) const fn of(holdings: &'a [Holding<'a>]) -> Self {
        let reserved = OnceCell::new();
        Self { holdings, reserved }
    }

    /// When the last reservation of others ends that contains a claim or lies in it. A host competes
    /// by itself when it `is_bound` (O4), always the same ones.
    pub(super) fn until(
        &self,
        domain: Option<&str>,
        claim: &[Cow<'_, str>],
        namespace: &str,
        is_bound: impl Fn(&str) -> bool,
    ) -> Option<Timestamp> {
        let domain_of = |host: Option<&'a str>| host.filter(|host| is_bound(host));
        let make = || Reserved::new(self.holdings, domain_of);
        let reserved = self.reserved.get_or_init(make);
        reserved.until(domain, claim, namespace)
    }
}

impl<'a> Reserved<'a> {
    /// `domain` says under which host a hostname competes (O4).
    fn new(
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

    fn until(
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
