//! What a target means: all its views together (design section 4, step 3), or an offer by its pin.
//!
//! Nothing here is free by accident. A target whose views differ is free only if every view is free
//! or unmatched; it is priced only if all gated views cost the same and the target hides no
//! structure; everything else is ambiguous (R1). Letter case is looked at only where nothing more
//! specific matched as written.

use super::index::{MarkKind, Precedence, Reading};
use super::pins::{OwnClosed, Pinned, Places};
use super::{Pin, Resolution, Resolved, RouteEntry, RouteState, Table};
use crate::offer::Gate;
use crate::pricing::Unmatched;
use crate::route::{AmbiguityClass, Pattern, Target, normalize_host};
use crate::x402::Requirement;
use jiff::Timestamp;
use std::borrow::Cow;
use std::sync::Arc;

/// A route at its place in the table.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) entry: Arc<RouteEntry>,
    /// Whether an equal pattern declared earlier answers instead.
    pub(super) is_shadowed: bool,
}

impl Slot {
    pub(super) fn pattern(&self) -> &Pattern {
        &self.entry.piece.pattern
    }

    pub(super) fn host(&self) -> Option<&str> {
        self.entry.piece.lineage.identity.hostname.as_deref()
    }
}

impl Table {
    pub(super) fn resolve_path(&self, target: &Target<'_>, host: Option<&str>) -> Resolved<'_> {
        let host = match self.host(host) {
            Ok(host) => host,
            Err(refused) => return refused,
        };
        let host = host.as_deref();
        if target.is_plain() {
            let (reading, folded) = self.index.read(target.path(), host);
            return match folded {
                None => self.sure(reading, host),
                Some(folded) => {
                    self.combine(&[reading, folded], target, AmbiguityClass::Case, host)
                }
            };
        }
        let views = target.views();
        let mut readings: Vec<Reading> = Vec::with_capacity(views.len());
        for view in &views {
            let (reading, folded) = self.index.read(view, host);
            readings.push(reading);
            readings.extend(folded);
        }
        self.combine(&readings, target, target.class(), host)
    }

    pub(super) fn resolve_pin(
        &self,
        target: &Target<'_>,
        host: Option<&str>,
        pin: Pin<'_>,
        now: Timestamp,
    ) -> Resolved<'_> {
        let routes = match self.pins.get(pin.namespace, pin.name) {
            None => return Resolved::sure(Resolution::UnknownPin),
            Some(Pinned::Deleted(until)) if until <= now => {
                return Resolved::sure(Resolution::UnknownPin);
            }
            Some(Pinned::Deleted(_)) => return Resolved::sure(Resolution::Closed),
            Some(Pinned::Offer(places, closed)) => Own {
                table: self,
                places,
                closed,
            },
        };
        let host = host.and_then(normalize_host);
        let host = host.as_deref();
        if target.is_plain()
            && let (entry, None) = routes.read(target.path(), host)
        {
            let resolution = entry.map_or(Resolution::NoRoute, Resolution::Route);
            return Resolved::sure(routes.unless_closed(resolution, target, host, now));
        }
        let mut found = Vec::new();
        for view in target.views() {
            let (entry, folded) = routes.read(&view, host);
            found.push(entry);
            found.extend(folded.map(Some));
        }
        let mut gated: Option<&Arc<RouteEntry>> = None;
        let mut free: Option<&Arc<RouteEntry>> = None;
        let (mut differ, mut unpriced, mut unequal) = (false, false, false);
        for entry in found {
            let Some(entry) = entry else {
                unpriced = true;
                continue;
            };
            let seen = if is_free(entry) {
                &mut free
            } else {
                &mut gated
            };
            match seen {
                None => *seen = Some(entry),
                Some(first) if Arc::ptr_eq(first, entry) => {}
                Some(first) => {
                    differ = true;
                    unequal |= !is_free(entry) && !costs_the_same(first, entry);
                }
            }
        }
        differ |= free.is_some() && (gated.is_some() || unpriced);
        differ |= gated.is_some() && unpriced;
        let resolution = match (gated, free) {
            _ if unequal => Resolution::Ambiguous,
            (Some(entry), _) => Resolution::Route(entry),
            (None, Some(_)) if unpriced && target.hides_structure() => Resolution::Ambiguous,
            (None, Some(_)) if unpriced => Resolution::NoRoute,
            (None, Some(entry)) => Resolution::Route(entry),
            (None, None) => Resolution::NoRoute,
        };
        Resolved {
            resolution: routes.unless_closed(resolution, target, host, now),
            ambiguity: differ.then(|| target.class()),
        }
    }

    /// The host to look under. A host that is not one host is refused where hosts matter.
    fn host<'h>(&self, host: Option<&'h str>) -> Result<Option<Cow<'h, str>>, Resolved<'_>> {
        match host {
            Some(text) if self.index.has_hosts() => match normalize_host(text) {
                Some(host) => Ok(Some(host)),
                None => Err(Resolved::sure(Resolution::NoRoute)),
            },
            Some(_) | None => Ok(None),
        }
    }

    /// One meaning in every view.
    fn sure(&self, reading: Reading, host: Option<&str>) -> Resolved<'_> {
        // Without a host nothing is free where hosts matter: it could be gated there.
        let blind = host.is_none() && self.index.has_hosts();
        Resolved::sure(match reading {
            Reading::Route(route) => match self.routes.get(route as usize) {
                Some(slot) if blind && is_free(&slot.entry) => Resolution::NoRoute,
                Some(slot) => Resolution::Route(&slot.entry),
                None => Resolution::NoRoute,
            },
            Reading::Closed => Resolution::Closed,
            Reading::Walled => Resolution::NoRoute,
            Reading::Nothing if blind => Resolution::NoRoute,
            Reading::Nothing => match self.settings.unmatched {
                Unmatched::Deny => Resolution::NoRoute,
                Unmatched::Allow => Resolution::Unmatched,
            },
        })
    }

    /// The meaning of several views.
    fn combine(
        &self,
        readings: &[Reading],
        target: &Target<'_>,
        class: AmbiguityClass,
        host: Option<&str>,
    ) -> Resolved<'_> {
        let first = readings.first().copied().unwrap_or(Reading::Nothing);
        if readings.iter().all(|reading| *reading == first) {
            return self.sure(first, host);
        }
        let chosen = self.choose(readings, target.hides_structure());
        let resolution = match chosen {
            Some(reading) => self.sure(reading, host).resolution,
            None => Resolution::Ambiguous,
        };
        Resolved {
            resolution,
            ambiguity: Some(class),
        }
    }

    /// The one reading that may stand for views that differ; `None` when there is none.
    fn choose(&self, readings: &[Reading], hides_structure: bool) -> Option<Reading> {
        let (mut gated, mut free) = (None::<Reading>, None::<Reading>);
        let (mut walled, mut unmatched) = (false, false);
        for reading in readings {
            match *reading {
                Reading::Nothing => unmatched = true,
                Reading::Walled => walled = true,
                Reading::Route(route) if self.is_free_route(route) => {
                    free = free.or(Some(*reading));
                }
                Reading::Route(_) | Reading::Closed => match gated {
                    None => gated = Some(*reading),
                    Some(first) if self.means_the_same(first, *reading) => {}
                    Some(_) => return None,
                },
            }
        }
        let denied = unmatched && self.settings.unmatched == Unmatched::Deny;
        if hides_structure && (gated.is_some() || walled || denied) {
            return None;
        }
        gated.or_else(|| walled.then_some(Reading::Walled)).or(free)
    }

    fn is_free_route(&self, route: u32) -> bool {
        self.routes
            .get(route as usize)
            .is_some_and(|slot| is_free(&slot.entry))
    }

    fn means_the_same(&self, left: Reading, right: Reading) -> bool {
        match (left, right) {
            (Reading::Route(left), Reading::Route(right)) => {
                let entry = |route: u32| self.routes.get(route as usize).map(|slot| &slot.entry);
                match (entry(left), entry(right)) {
                    (Some(left), Some(right)) => costs_the_same(left, right),
                    (None, _) | (_, None) => false,
                }
            }
            (left, right) => left == right,
        }
    }
}

/// The routes of a pinned offer.
struct Own<'t> {
    table: &'t Table,
    places: &'t Places,
    closed: &'t [OwnClosed],
}

/// One of them.
#[derive(Clone, Copy)]
struct OwnRoute<'t> {
    slot: &'t Slot,
    place: u32,
}

impl OwnRoute<'_> {
    fn precedence(self) -> Precedence {
        let has_host = self.slot.host().is_some();
        Precedence::new(has_host, self.slot.pattern(), self.place as usize)
    }
}

impl<'t> Own<'t> {
    /// The route that a view selects, or the default: the first paid one. And the one that it
    /// selects when letters have no case, where that is more specific.
    fn read(
        &self,
        view: &str,
        host: Option<&str>,
    ) -> (Option<&'t Arc<RouteEntry>>, Option<&'t Arc<RouteEntry>>) {
        let (selected, folded) = match self.places.index() {
            Some(index) if host.is_some() || !index.has_hosts() => {
                let (reading, folded) = index.read(view, host);
                (
                    self.read_route(reading),
                    folded.and_then(|folded| self.read_route(folded)),
                )
            }
            Some(_) | None => {
                let selected = self.best(host, |pattern| pattern.matches(view));
                (selected, self.best_folded(view, host, selected))
            }
        };
        let is_paid = |route: &OwnRoute<'_>| route.slot.entry.gate == Gate::Paid;
        let selected = selected.or_else(|| self.routes().find(is_paid));
        (
            selected.map(|route| &route.slot.entry),
            folded.map(|route| &route.slot.entry),
        )
    }

    fn read_route(&self, reading: Reading) -> Option<OwnRoute<'t>> {
        match reading {
            Reading::Route(place) => self.route(place),
            Reading::Closed | Reading::Walled | Reading::Nothing => None,
        }
    }

    fn best(&self, host: Option<&str>, matches: impl Fn(&Pattern) -> bool) -> Option<OwnRoute<'t>> {
        self.routes()
            .filter(|OwnRoute { slot, .. }| {
                // Without a host nothing of one host is free: it could be gated on another.
                let unknown = host.is_none() && !is_free(&slot.entry);
                slot.host().is_none() || unknown || slot.host() == host
            })
            .filter(|route| matches(route.slot.pattern()))
            .max_by_key(|route| route.precedence())
    }

    fn best_folded(
        &self,
        view: &str,
        host: Option<&str>,
        selected: Option<OwnRoute<'_>>,
    ) -> Option<OwnRoute<'t>> {
        let has_uppercase = view.bytes().any(|byte| byte.is_ascii_uppercase());
        let may_fold = |route: OwnRoute<'_>| route.slot.pattern().has_uppercase();
        if !has_uppercase && !self.routes().any(may_fold) {
            return None;
        }
        self.best(host, |pattern| pattern.matches_folded(view))
            .filter(|folded| {
                selected.is_none_or(|written| folded.precedence().outranks(written.precedence()))
            })
    }

    /// What was decided, but for a free route around a path that the offer once sold (R4): only a
    /// free route as specific as the closed path opens it.
    fn unless_closed(
        &self,
        resolution: Resolution<'t>,
        target: &Target<'_>,
        host: Option<&str>,
        now: Timestamp,
    ) -> Resolution<'t> {
        let Resolution::Route(entry) = resolution else {
            return resolution;
        };
        if self.closed.is_empty() || !is_free(entry) {
            return resolution;
        }
        let free = Some(entry.piece.pattern.specificity());
        let views = target.views();
        let behind = self
            .closed
            .iter()
            .filter(|closed| {
                host.is_none() || closed.host.is_none() || closed.host.as_deref() == host
            })
            .filter(|closed| Some(closed.pattern.specificity()) > free)
            .find(|closed| views.iter().any(|view| closed.pattern.matches_folded(view)));
        match behind {
            None => resolution,
            Some(closed) if closed.until > now => Resolution::Closed,
            Some(_) => Resolution::NoRoute,
        }
    }

    fn routes(&self) -> impl Iterator<Item = OwnRoute<'t>> {
        self.places.iter().filter_map(|place| self.route(place))
    }

    fn route(&self, place: u32) -> Option<OwnRoute<'t>> {
        let slot = self.table.routes.get(place as usize)?;
        Some(OwnRoute { slot, place })
    }
}

impl<'t> Resolved<'t> {
    const fn sure(resolution: Resolution<'t>) -> Self {
        Self {
            resolution,
            ambiguity: None,
        }
    }
}

/// The mark of a route.
pub(super) fn mark_of(entry: &RouteEntry, route: u32) -> MarkKind {
    if is_free(entry) {
        MarkKind::Free(route)
    } else {
        MarkKind::Gated(route)
    }
}

/// Whether a route passes without payment. A broken or withdrawn free route does not.
pub(super) fn is_free(entry: &RouteEntry) -> bool {
    entry.gate == Gate::Free && entry.state == RouteState::Live
}

/// Whether two gated routes ask for the same thing, so that either may stand for both.
fn costs_the_same(left: &Arc<RouteEntry>, right: &Arc<RouteEntry>) -> bool {
    let base = |entry: &RouteEntry| {
        entry
            .endpoint
            .as_ref()
            .map(|endpoint| endpoint.base.clone())
    };
    Arc::ptr_eq(left, right)
        || (left.gate == right.gate
            && left.state == right.state
            && left.settle == right.settle
            && left.eoa_only == right.eoa_only
            && left.preflight_pass == right.preflight_pass
            && left.upstream_auth == right.upstream_auth
            && base(left) == base(right)
            && left.requirements.len() == right.requirements.len()
            && left
                .requirements
                .iter()
                .zip(right.requirements.iter())
                .all(|(l, r)| is_equal(l, r)))
}

fn is_equal(left: &Requirement, right: &Requirement) -> bool {
    left.network == right.network
        && left.asset == right.asset
        && left.amount == right.amount
        && left.pay_to == right.pay_to
        && left.max_timeout_seconds == right.max_timeout_seconds
        && left.upfront == right.upfront
}
