//! What one view of a path means: the tries by host, and the choice among their matches.
//!
//! Three kinds of marks stand in the tries. *Routes* and *closed* patterns compete by precedence: a
//! host's own before the host-less, then exact, longest prefix, longest literal part, declared order.
//! *Walls* (managed prefixes, base paths of offers, patterns closed long ago) never win against a
//! gated route; they only say that nothing there is free by accident: a free route passes a wall only
//! if it is at least as specific, that is, if somebody wrote it for exactly that place. The same
//! holds for a closed pattern and a free route of one host.
//!
//! The three kinds stand in layers of their own: at equal patterns a route goes before what is closed,
//! and that before a wall, whichever came first. So what is closed can be exchanged without a look at
//! the routes, and an index can follow a change of a few routes: routes can be taken out, and places
//! in the table be moved.

use super::edges::{Keyed, with_slack};
use super::trie::{Layer, Trie};
use crate::route::Pattern;
use std::collections::HashMap;

/// All patterns of a table.
#[derive(Debug, Clone)]
pub(super) struct Index {
    marks: Vec<Mark>,
    /// Places of marks that nothing stands for any more.
    unused: Vec<u32>,
    /// How many routes were taken away; their nodes are still there.
    removed: usize,
    hostless: Site,
    hosts: HashMap<Box<str>, Site, Keyed>,
}

/// The patterns of one host, or of none.
#[derive(Debug, Clone)]
struct Site {
    marks: usize,
    exact_case: Trie,
    /// Only patterns with upper-case letters; the others are found in `exact_case` by a lower-cased
    /// view.
    folded: Trie,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    precedence: Precedence,
    kind: MarkKind,
}

/// What stands at a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MarkKind {
    /// A route with no price, by its place in the table.
    Free(u32),
    /// Any other route, by its place in the table.
    Gated(u32),
    /// Closed within its retention.
    Closed,
    /// Never free by accident; how many times that was said.
    Wall(u32),
}

/// Packed for one comparison: host bit, exact bit, prefix, literal part, reversed order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence(u64);

/// What one view means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// A route, by its place in the table.
    Route(u32),
    /// A closed path.
    Closed,
    /// Nothing matches, behind a wall.
    Walled,
    /// Nothing matches.
    Nothing,
}

/// The best matches so far.
#[derive(Debug, Default)]
struct Best {
    active: Option<Mark>,
    wall: Option<Precedence>,
    closed: Option<Precedence>,
}

const HOST_BIT: u32 = 63;
const EXACT_BIT: u32 = 62;
const PREFIX_SHIFT: u32 = 46;
const LITERAL_SHIFT: u32 = 30;
/// Patterns that may be taken away before it is worth the while to make an index anew.
const FEW_REMOVED: usize = 256;
const ORDER_MASK: u32 = (1 << LITERAL_SHIFT) - 1;

impl Index {
    /// An empty index with room for so many patterns without a host.
    pub(super) fn new(patterns: usize) -> Self {
        Self {
            marks: Vec::with_capacity(with_slack(patterns)),
            unused: Vec::new(),
            removed: 0,
            hostless: Site::new(patterns),
            hosts: HashMap::default(),
        }
    }

    /// Whether any pattern is bound to a host.
    pub(super) fn has_hosts(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// Whether so much was taken away that it should be made anew.
    pub(super) fn is_worn(&self) -> bool {
        self.removed > self.marks.len() / 4 + FEW_REMOVED
    }

    /// Adds a route at a place of the table, unless one stands at an equal pattern already; that one is
    /// returned.
    pub(super) fn insert(
        &mut self,
        host: Option<&str>,
        pattern: &Pattern,
        kind: MarkKind,
        place: usize,
    ) -> Option<MarkKind> {
        let precedence = Precedence::new(host.is_some(), pattern, place);
        let mark = Mark { precedence, kind };
        let there = self.put(host, pattern, Layer::Routes, mark)?;
        Some(there.kind)
    }

    /// Takes the route away that stands at a pattern.
    pub(super) fn remove(&mut self, host: Option<&str>, pattern: &Pattern) {
        self.take(host, pattern, Layer::Routes);
    }

    /// Closes a pattern: within its retention, or for good. What was closed first stays.
    pub(super) fn close(&mut self, host: Option<&str>, pattern: &Pattern, is_for_good: bool) {
        let kind = if is_for_good {
            MarkKind::Wall(1)
        } else {
            MarkKind::Closed
        };
        let precedence = Precedence::new(host.is_some(), pattern, usize::MAX);
        self.put(host, pattern, Layer::Closed, Mark { precedence, kind });
    }

    /// Undoes [`Index::close`].
    pub(super) fn reopen(&mut self, host: Option<&str>, pattern: &Pattern) {
        self.take(host, pattern, Layer::Closed);
    }

    /// Nothing at a pattern is free by accident.
    pub(super) fn wall(&mut self, host: Option<&str>, pattern: &Pattern) {
        let precedence = Precedence::new(host.is_some(), pattern, usize::MAX);
        let kind = MarkKind::Wall(1);
        let mark = Mark { precedence, kind };
        if let Some(Mark {
            kind: MarkKind::Wall(times),
            ..
        }) = self.put(host, pattern, Layer::Walls, mark)
        {
            *times = times.saturating_add(1);
        }
    }

    /// Undoes one [`Index::wall`].
    pub(super) fn unwall(&mut self, host: Option<&str>, pattern: &Pattern) {
        let site = self.site(host);
        let value = site.and_then(|site| site.exact_case.get(pattern, Layer::Walls));
        let mark = value.and_then(|value| self.marks.get_mut(value as usize));
        match mark.map(|mark| &mut mark.kind) {
            Some(MarkKind::Wall(times)) if *times > 1 => *times -= 1,
            Some(_) | None => self.take(host, pattern, Layer::Walls),
        }
    }

    /// Routes at `from` and after it have moved in the table: by so many places, to the end or to the
    /// start.
    pub(super) fn shift(&mut self, from: u32, by: i32) {
        for Mark { precedence, kind } in &mut self.marks {
            if let MarkKind::Free(place) | MarkKind::Gated(place) = kind
                && *place >= from
            {
                *place = place.saturating_add_signed(by);
                *precedence = precedence.at(*place);
            }
        }
    }

    /// Puts a mark, unless one is there: that is returned.
    fn put(
        &mut self,
        host: Option<&str>,
        pattern: &Pattern,
        layer: Layer,
        mark: Mark,
    ) -> Option<&mut Mark> {
        let site = match host {
            None => &mut self.hostless,
            Some(host) => match self.hosts.get_mut(host) {
                Some(site) => site,
                None => self.hosts.entry(host.into()).or_insert(Site::new(0)),
            },
        };
        let unused = self.unused.last().copied();
        let value = match unused {
            Some(value) => value,
            None => u32::try_from(self.marks.len()).ok()?,
        };
        if let Some(there) = site.exact_case.insert(pattern, layer, value) {
            return self.marks.get_mut(there as usize);
        }
        if pattern.has_uppercase() {
            site.folded.insert(pattern, layer, value);
        }
        site.marks += 1;
        match unused.and_then(|value| self.marks.get_mut(value as usize)) {
            Some(place) => {
                *place = mark;
                self.unused.pop();
            }
            None => self.marks.push(mark),
        }
        None
    }

    fn take(&mut self, host: Option<&str>, pattern: &Pattern, layer: Layer) {
        let site = match host {
            None => Some(&mut self.hostless),
            Some(host) => self.hosts.get_mut(host),
        };
        let Some(site) = site else { return };
        let Some(value) = site.exact_case.remove(pattern, layer) else {
            return;
        };
        if pattern.has_uppercase() && site.folded.get(pattern, layer) == Some(value) {
            site.folded.remove(pattern, layer);
        }
        site.marks = site.marks.saturating_sub(1);
        if let Some(host) = host
            && site.marks == 0
        {
            self.hosts.remove(host);
        }
        self.unused.push(value);
        self.removed += usize::from(layer == Layer::Routes);
        // Nothing stands for it, and nothing is to be moved with it.
        if let Some(mark) = self.marks.get_mut(value as usize) {
            mark.kind = MarkKind::Closed;
        }
    }

    fn site(&self, host: Option<&str>) -> Option<&Site> {
        match host {
            None => Some(&self.hostless),
            Some(host) => self.hosts.get(host),
        }
    }

    /// What a view means for a host: letter by letter, and when ASCII letters have no case.
    ///
    /// The second is there only where a pattern that matches in another case is more specific than
    /// everything that matches as written, so that a case-insensitive upstream would prefer it:
    /// `/api/PAID` is not free because of a free `/api/*`, and `/Users` is not `/users` where both
    /// are declared.
    pub(super) fn read(&self, view: &str, host: Option<&str>) -> (Reading, Option<Reading>) {
        let mut best = Best::default();
        for site in self.sites(host) {
            site.exact_case
                .find(view, &mut |value| best.see(self.marks.get(value as usize)));
        }
        let folded =
            self.best_folded(view, host)
                .filter(|folded| match (folded.top(), best.top()) {
                    (Some(folded), Some(written)) => folded.outranks(written),
                    (folded, None) => folded.is_some(),
                    (None, Some(_)) => false,
                });
        (best.reading(), folded.map(|folded| folded.reading()))
    }

    fn best_folded(&self, view: &str, host: Option<&str>) -> Option<Best> {
        let has_uppercase = view.bytes().any(|byte| byte.is_ascii_uppercase());
        if !has_uppercase && self.sites(host).all(|site| site.folded.is_empty()) {
            return None;
        }
        let view = view.to_ascii_lowercase();
        let mut best = Best::default();
        for site in self.sites(host) {
            let mut see = |value: u32| best.see(self.marks.get(value as usize));
            site.exact_case.find(&view, &mut see);
            site.folded.find(&view, &mut see);
        }
        Some(best)
    }

    fn sites(&self, host: Option<&str>) -> impl Iterator<Item = &Site> {
        let own = host.and_then(|host| self.hosts.get(host));
        own.into_iter().chain(std::iter::once(&self.hostless))
    }
}

impl Site {
    fn new(patterns: usize) -> Self {
        Self {
            marks: 0,
            exact_case: Trie::new(patterns),
            folded: Trie::folded(),
        }
    }
}

impl Best {
    fn see(&mut self, mark: Option<&Mark>) {
        let Some(mark) = mark else { return };
        if mark.kind == MarkKind::Closed {
            let without_host = mark.precedence.of_pattern();
            self.closed = self.closed.max(Some(without_host));
        }
        if matches!(mark.kind, MarkKind::Wall(_)) {
            self.wall = self.wall.max(Some(mark.precedence));
        } else if self
            .active
            .is_none_or(|best| mark.precedence > best.precedence)
        {
            self.active = Some(*mark);
        }
    }

    /// The most specific match of any kind.
    fn top(&self) -> Option<Precedence> {
        let active = self.active.map(|mark| mark.precedence.of_pattern());
        let wall = self.wall.map(Precedence::of_pattern);
        active.max(wall).max(self.closed)
    }

    fn reading(&self) -> Reading {
        let Some(Mark { precedence, kind }) = self.active else {
            return if self.wall.is_some() {
                Reading::Walled
            } else {
                Reading::Nothing
            };
        };
        match kind {
            MarkKind::Free(_) if self.closed.is_some_and(|it| it.outranks(precedence)) => {
                Reading::Closed
            }
            MarkKind::Free(_) if self.wall.is_some_and(|wall| wall.outranks(precedence)) => {
                Reading::Walled
            }
            MarkKind::Free(route) | MarkKind::Gated(route) => Reading::Route(route),
            MarkKind::Closed => Reading::Closed,
            MarkKind::Wall(_) => Reading::Walled,
        }
    }
}

impl Precedence {
    /// The precedence of a pattern declared at place `order` (earlier wins a tie).
    pub(super) fn new(has_host: bool, pattern: &Pattern, order: usize) -> Self {
        let specificity = pattern.specificity();
        let order = u32::try_from(order).unwrap_or(u32::MAX).min(ORDER_MASK);
        Self(
            u64::from(has_host) << HOST_BIT
                | u64::from(specificity.exact) << EXACT_BIT
                | u64::from(specificity.prefix) << PREFIX_SHIFT
                | u64::from(specificity.literal) << LITERAL_SHIFT
                | u64::from(ORDER_MASK - order),
        )
    }

    /// The same at another place.
    fn at(self, order: u32) -> Self {
        let order = order.min(ORDER_MASK);
        Self(self.0 & !u64::from(ORDER_MASK) | u64::from(ORDER_MASK - order))
    }

    /// The precedence of the pattern alone.
    const fn of_pattern(self) -> Self {
        Self(self.0 & !(1 << HOST_BIT))
    }

    /// Whether the pattern alone is more specific, host and order aside.
    pub(super) fn outranks(self, other: Self) -> bool {
        let pattern = |precedence: Self| precedence.of_pattern().0 >> LITERAL_SHIFT;
        pattern(self) > pattern(other)
    }
}
