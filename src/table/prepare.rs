//! An offer made ready for ownership: patterns compiled, troubles collected, records named.
//!
//! Nothing is dropped here. What cannot be understood keeps its place as a pattern that answers 503
//! (R3): its own pattern where that compiles, else the whole literal segments it starts with.

use super::owners::{Candidate, Claim, claim_of};
use super::{OfferEntry, PathRecord};
use crate::offer::{Gate, Offer, Owner, Problem, Route};
use crate::route::{Pattern, literal_prefix};
use std::sync::Arc;

/// An offer, compiled as far as it goes alone.
#[derive(Debug)]
pub(super) struct Prepared<'a> {
    pub(super) source: &'static str,
    pub(super) offer: &'a Offer,
    pub(super) entry: Arc<OfferEntry>,
    /// The subtree of the base path.
    pub(super) base: Option<Pattern>,
    base_claim: Option<Vec<String>>,
    pub(super) routes: Vec<PreparedRoute<'a>>,
}

/// A route, compiled as far as it goes alone.
#[derive(Debug)]
pub(super) struct PreparedRoute<'a> {
    /// `None` for the base path of a broken offer that has no routes.
    pub(super) route: Option<&'a Route>,
    /// Text as configured.
    pub(super) text: Arc<str>,
    /// What is compiled; its literal prefix where the text does not compile.
    pub(super) pattern: Pattern,
    pub(super) gate: Gate,
    pub(super) trouble: Option<Trouble>,
    /// How the ledger names it.
    pub(super) record: PathRecord,
}

/// Why a route is misconfigured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) code: &'static str,
    pub(super) detail: String,
}

impl<'a> Prepared<'a> {
    pub(super) fn new(source: &'static str, offer: &'a Offer) -> Self {
        let entry = Arc::new(OfferEntry {
            namespace: offer.namespace.clone(),
            name: offer.name.clone(),
            uid: offer.uid.clone(),
        });
        let mut shared = Trouble::of(&offer.problems);
        let base = offer.base_path.as_deref().and_then(|path| {
            Pattern::subtree(path)
                .inspect_err(|error| {
                    shared.get_or_insert_with(|| Trouble::new("invalid_path", error.to_string()));
                })
                .or_else(|_| Pattern::subtree(&literal_prefix(path)))
                .ok()
        });
        let base_claim = base.as_ref().map(claim_of);
        let mut prepared = Self {
            source,
            offer,
            entry,
            base,
            base_claim,
            routes: Vec::with_capacity(offer.routes.len()),
        };
        for route in &offer.routes {
            let route = prepared.route(route, shared.as_ref());
            prepared.routes.push(route);
        }
        if let (true, Some(trouble), Some(base)) = (offer.routes.is_empty(), shared, &prepared.base)
        {
            let pattern = base.clone();
            prepared.routes.push(PreparedRoute {
                route: None,
                text: pattern.as_str().into(),
                gate: Gate::Paid,
                record: prepared.record(&pattern),
                pattern,
                trouble: Some(trouble),
            });
        }
        prepared
    }

    fn route(&self, route: &'a Route, shared: Option<&Trouble>) -> PreparedRoute<'a> {
        let mut trouble = shared.cloned().or_else(|| Trouble::of(&route.problems));
        let pattern = Pattern::parse(&route.pattern).or_else(|error| {
            trouble.get_or_insert_with(|| Trouble::new("invalid_pattern", error.to_string()));
            Pattern::subtree(&literal_prefix(&route.pattern))
        });
        // A literal prefix always compiles; the root closes everything if it ever did not.
        let pattern = pattern.unwrap_or_else(|_| Pattern::root());
        if trouble.is_none() && route.gate != Gate::Paid && !self.is_below_base(&pattern) {
            trouble = Some(Trouble::new(
                "outside_base_path",
                "free and auth routes act only below their offer's own path: \
                 move the pattern below it"
                    .to_owned(),
            ));
        }
        PreparedRoute {
            route: Some(route),
            text: route.pattern.clone(),
            gate: route.gate,
            record: self.record(&pattern),
            pattern,
            trouble,
        }
    }

    /// O1; the operator may open any path.
    fn is_below_base(&self, pattern: &Pattern) -> bool {
        self.offer.owner == Owner::Operator
            || self
                .base_claim
                .as_ref()
                .is_some_and(|base| claim_of(pattern).starts_with(base))
    }

    fn record(&self, pattern: &Pattern) -> PathRecord {
        let base = match &self.offer.base_path {
            Some(base) => base.to_string(),
            None => pattern.literal_prefix(),
        };
        PathRecord {
            host: self.offer.hostname.as_deref().map(str::to_owned),
            pattern: pattern.as_str().to_owned(),
            namespace: self.offer.namespace.to_string(),
            name: self.offer.name.to_string(),
            uid: self.offer.uid.as_deref().unwrap_or_default().to_owned(),
            base,
            closed_at: None,
        }
    }

    /// Whether the operator's file declares it (O2).
    pub(super) fn is_operators(&self) -> bool {
        self.offer.owner == Owner::Operator
    }

    /// Its records that the ledger must know: everything that is not free.
    pub(super) fn gated_records(&self) -> impl Iterator<Item = &PathRecord> {
        self.routes
            .iter()
            .filter(|route| route.gate != Gate::Free)
            .map(|route| &route.record)
    }

    /// Its patterns that are free on purpose.
    pub(super) fn free_records(&self) -> impl Iterator<Item = &PathRecord> {
        self.routes
            .iter()
            .filter(|route| route.gate == Gate::Free && route.trouble.is_none())
            .map(|route| &route.record)
    }

    /// What it asks for; `None` for the operator's, who does not ask.
    pub(super) fn candidate(
        &self,
        is_incumbent: impl Fn(&PathRecord) -> bool,
    ) -> Option<Candidate<'_>> {
        let Owner::Namespace(namespace) = &self.offer.owner else {
            return None;
        };
        let mut claims: Vec<Claim> = Vec::with_capacity(self.routes.len() + 1);
        let mut add = |segments: Vec<String>, incumbent: bool| match claims
            .iter_mut()
            .find(|claim| claim.segments == segments)
        {
            Some(claim) => claim.incumbent |= incumbent,
            None => claims.push(Claim {
                segments,
                incumbent,
            }),
        };
        let mut any = false;
        for route in &self.routes {
            let incumbent = route.gate != Gate::Free && is_incumbent(&route.record);
            any |= incumbent;
            add(claim_of(&route.pattern), incumbent);
        }
        if let Some(base) = &self.base_claim {
            add(base.clone(), any);
        }
        Some(Candidate {
            namespace,
            hostname: self.offer.hostname.as_ref(),
            base: self.base_claim.as_deref(),
            claims,
        })
    }
}

impl Trouble {
    pub(super) const fn new(code: &'static str, detail: String) -> Self {
        Self { code, detail }
    }

    /// The first code, all messages.
    fn of(problems: &[Problem]) -> Option<Self> {
        let first = problems.first()?;
        let messages: Vec<&str> = problems
            .iter()
            .map(|problem| problem.message.as_str())
            .collect();
        Some(Self::new(first.code, messages.join("; ")))
    }
}
