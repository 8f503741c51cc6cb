//! An offer made ready for ownership: patterns compiled, troubles collected, records named.
//!
//! A [`Lineage`] is what an offer is apart from its routes; a [`Piece`] is one route of it, compiled
//! as far as it goes alone. A piece depends on its lineage and its route and on nothing else, neither
//! settings nor time, so it lives as long as both are unchanged.
//!
//! Nothing is dropped here. What cannot be understood keeps its place as a pattern that answers 503
//! (R3): its own pattern where that compiles, else the whole literal segments it starts with.

use super::closed::Record;
use super::owners::claim_of;
use super::{OfferIdentity, PathRecord};
use crate::offer::{Gate, Offer, Problem, Route};
use crate::route::{Pattern, PatternError, literal_prefix};
use jiff::Timestamp;
use std::sync::Arc;

/// An offer without its routes.
#[derive(Debug)]
pub(super) struct Lineage {
    pub(super) source: &'static str,
    pub(super) identity: Arc<OfferIdentity>,
    pub(super) generation: Option<i64>,
    problems: Box<[Problem]>,
    /// The subtree of the base path.
    pub(super) base: Option<Pattern>,
    trouble: Option<Arc<Trouble>>,
}

/// A route, compiled as far as it goes alone.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) lineage: Arc<Lineage>,
    /// `None` for the base path of a broken offer that has no routes.
    pub(super) route: Option<Arc<Route>>,
    /// What is compiled; its literal prefix where the text does not compile.
    pub(super) pattern: Pattern,
    pub(super) trouble: Option<Arc<Trouble>>,
    /// How the ledger names it.
    pub(super) record: Record,
}

/// Why a route is misconfigured or withdrawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) code: &'static str,
    pub(super) detail: String,
}

impl Lineage {
    pub(super) fn new(source: &'static str, offer: &Offer) -> Self {
        let mut trouble = Trouble::of(&offer.problems);
        let base = offer.base_path.as_deref().and_then(|path| {
            compiled(path, offer)
                .inspect_err(|error| {
                    trouble.get_or_insert_with(|| Trouble::new("invalid_path", error.to_string()));
                })
                .or_else(|_| Pattern::subtree(&literal_prefix(path)))
                .ok()
        });
        Self {
            source,
            identity: offer.identity.clone(),
            generation: offer.generation,
            problems: offer.problems.as_slice().into(),
            base,
            trouble: trouble.map(Arc::new),
        }
    }

    /// Whether `offer` is the same apart from its routes and phase.
    pub(super) fn is_of(&self, offer: &Offer) -> bool {
        self.is_at(offer)
            && self.generation == offer.generation
            && *self.problems == *offer.problems
    }

    /// Whether `offer` has the same names, owner, age and base: everything that decides about paths.
    pub(super) fn is_at(&self, offer: &Offer) -> bool {
        Arc::ptr_eq(&self.identity, &offer.identity) || self.identity == offer.identity
    }

    /// The order of offers: the operator's first (O2), then by age (O1).
    pub(super) fn rank(&self) -> (bool, Option<Timestamp>, Option<&str>) {
        if self.is_operators() {
            (false, None, None)
        } else {
            (true, self.identity.created, self.identity.uid.as_deref())
        }
    }

    /// Whether the operator's file declares it (O2).
    pub(super) fn is_operators(&self) -> bool {
        self.identity.tenant().is_none()
    }

    /// The pieces of an offer that has no routes: the base path of a broken one stays closed (R3).
    pub(super) fn without_routes(self: &Arc<Self>) -> Option<Piece> {
        let (trouble, pattern) = (self.trouble.clone()?, self.base.clone()?);
        Some(Piece::new(self, None, pattern, Some(trouble)))
    }

    /// One of its routes.
    pub(super) fn piece(self: &Arc<Self>, route: &Arc<Route>) -> Piece {
        let mut trouble = self
            .trouble
            .clone()
            .or_else(|| Trouble::of(&route.problems).map(Arc::new));
        let broken = |code, detail| Arc::new(Trouble::new(code, detail));
        let base = self.base.as_ref();
        let whole = base.filter(|base| base.as_str() == &*route.pattern);
        let pattern =
            whole.map_or_else(|| Pattern::shared(&route.pattern), |base| Ok(base.clone()));
        let pattern = pattern.or_else(|error| {
            trouble.get_or_insert_with(|| broken("invalid_pattern", error.to_string()));
            Pattern::subtree(&literal_prefix(&route.pattern))
        });
        // A literal prefix always compiles; the root closes everything if it ever did not.
        let pattern = pattern.unwrap_or_else(|_| Pattern::root());
        if trouble.is_none() && route.gate != Gate::Paid && !self.is_below_base(&pattern) {
            trouble = Some(broken(
                "outside_base_path",
                "free and auth routes act only below their offer's own path: \
                 move the pattern below it"
                    .to_owned(),
            ));
        }
        Piece::new(self, Some(route.clone()), pattern, trouble)
    }

    /// O1; the operator may open any path.
    fn is_below_base(&self, pattern: &Pattern) -> bool {
        self.is_operators()
            || self
                .base
                .as_ref()
                .is_some_and(|base| claim_of(pattern).starts_with(&claim_of(base)))
    }

    fn record(&self, pattern: &Pattern) -> Record {
        let identity = &self.identity;
        if identity.base_path.is_some() {
            return Record::Declared(identity.clone(), pattern.text().clone());
        }
        Record::Kept(Arc::new(PathRecord {
            host: identity.hostname.clone(),
            pattern: pattern.text().clone(),
            namespace: identity.namespace.clone(),
            name: identity.name.clone(),
            uid: identity.uid.clone().unwrap_or_default(),
            base: pattern.literal_prefix().into(),
            closed_at: None,
        }))
    }
}

impl Piece {
    fn new(
        lineage: &Arc<Lineage>,
        route: Option<Arc<Route>>,
        pattern: Pattern,
        trouble: Option<Arc<Trouble>>,
    ) -> Self {
        Self {
            record: lineage.record(&pattern),
            lineage: lineage.clone(),
            route,
            pattern,
            trouble,
        }
    }

    pub(super) fn text(&self) -> &Arc<str> {
        let declared = self.route.as_ref().map(|route| &route.pattern);
        declared.unwrap_or_else(|| self.pattern.text())
    }

    pub(super) fn gate(&self) -> Gate {
        self.route.as_ref().map_or(Gate::Paid, |route| route.gate)
    }

    /// Whether the ledger must know it: everything that is not free.
    pub(super) fn is_recorded(&self) -> bool {
        self.gate() != Gate::Free
    }

    /// Whether its owner made it free on purpose.
    pub(super) fn is_freed(&self) -> bool {
        self.gate() == Gate::Free && self.trouble.is_none()
    }

    /// Whether it stands at the same place and says the same about it: what is decided about paths
    /// is the same for both, whatever else differs.
    pub(super) fn stands_as(&self, other: &Self) -> bool {
        self.pattern == other.pattern
            && self.record.path() == other.record.path()
            && self.is_recorded() == other.is_recorded()
            && self.is_freed() == other.is_freed()
    }
}

/// The subtree of a base path. Most offers have one route, for all of it, and need one pattern.
fn compiled(path: &str, offer: &Offer) -> Result<Pattern, PatternError> {
    let base = Pattern::subtree(path)?;
    match offer.routes.first() {
        Some(first) if *first.pattern == *base.as_str() => Pattern::shared(&first.pattern),
        Some(_) | None => Ok(base),
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
