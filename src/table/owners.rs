//! Who owns a path (O1 to O5): tenants do not trust each other, and nobody inherits another's buyers.
//!
//! Pure: claims in, one verdict per offer out. A namespace claims *subtrees of whole literal
//! segments*, letter case and `;parameters` aside, because an upstream may read a path so; a glob
//! claims the literal subtree above it. Two claims of different namespaces conflict when one contains
//! the other; the older offer wins and the younger is refused as a whole. The operator's claims are
//! kept exactly (an exact `/` of the file takes nothing from tenants) and are never refused.
//!
//! The cost is linear in claims: each claim walks its own segments, and every node knows in summary
//! who holds something below it.

mod reserved;
mod tree;

pub(super) use self::reserved::Ends;
use self::tree::{Step, Tree, folded};
use super::edges::Keyed;
use super::prepare::Piece;
use crate::pricing::PathOwner;
use crate::route::{Pattern, Tail};
use jiff::Timestamp;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// One offer of a namespace that asks for its paths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) namespace: &'a Arc<str>,
    pub(super) hostname: Option<&'a Arc<str>>,
    /// The subtree of its base path.
    pub(super) base: Option<&'a Pattern>,
    pub(super) pieces: &'a [Arc<Piece>],
}

/// One subtree that an offer wants: folded literal segments.
pub(super) type Claim<'a> = Vec<Cow<'a, str>>;

/// What the operator holds by the file, or a closed path reserves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holding<'a> {
    pub(super) holder: Holder<'a>,
    pub(super) hostname: Option<&'a str>,
    pub(super) pattern: &'a Pattern,
    /// Of what is reserved: its end.
    pub(super) until: Option<Timestamp>,
}

/// Who holds something.
#[derive(Debug, Clone, Copy)]
pub(super) enum Holder<'a> {
    /// The operator.
    Operator,
    /// A namespace.
    Namespace(&'a str),
}

/// Why an offer is refused as a whole. Names no other tenant (O7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejection {
    /// `PathConflict`, `PathReserved` or `ReservedPath`.
    pub(super) code: &'static str,
    /// What its owner reads.
    pub(super) detail: String,
}

/// The code of a path that is nobody's.
pub(super) const RESERVED_PATH: &str = "ReservedPath";
/// Subtrees no namespace may claim (compat 1.18).
const RESERVED_ROOTS: [&str; 5] = ["api", "openapi.json", "skill.md", "rpc", ".well-known"];

/// The subtree that a pattern claims: its whole literal segments, folded.
pub(super) fn claim_of(pattern: &Pattern) -> Claim<'_> {
    let mut claim = Vec::with_capacity(pattern.segments().len());
    claim.extend(pattern.literal_segments().map_while(fold));
    claim
}

/// A segment as the most lenient upstream reads it.
fn fold(segment: &str) -> Option<Cow<'_, str>> {
    let name = segment.split(';').next().unwrap_or(segment);
    if name.is_empty() {
        return None;
    }
    let has_uppercase = name.bytes().any(|byte| byte.is_ascii_uppercase());
    Some(if has_uppercase {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

/// `pathOwners`, indexed.
#[derive(Debug, Default)]
struct Bindings {
    hosts: HashMap<Arc<str>, Vec<Arc<str>>>,
    /// By folded prefix with a trailing slash, so that a range is a subtree.
    prefixes: BTreeMap<String, Vec<Arc<str>>>,
}

impl Bindings {
    fn new(path_owners: &[PathOwner]) -> Self {
        let mut bindings = Self::default();
        for entry in path_owners {
            if let Some(host) = &entry.host {
                bindings
                    .hosts
                    .entry(host.clone())
                    .or_default()
                    .extend_from_slice(&entry.namespaces);
            }
            if let Some(prefix) = &entry.prefix {
                let segments: Claim<'_> = prefix.split('/').filter_map(fold).collect();
                bindings
                    .prefixes
                    .entry(key(&segments))
                    .or_default()
                    .extend_from_slice(&entry.namespaces);
            }
        }
        bindings
    }

    /// Whether the operator gave this subtree, or a part of it, to others.
    fn forbids(&self, namespace: &Arc<str>, segments: &[Cow<'_, str>]) -> bool {
        if self.prefixes.is_empty() {
            return false;
        }
        let foreign = |namespaces: &Vec<Arc<str>>| !namespaces.contains(namespace);
        let enclosing = (0..=segments.len())
            .rev()
            .filter_map(|length| segments.get(..length))
            .find_map(|prefix| self.prefixes.get(&key(prefix)));
        if enclosing.is_some_and(foreign) {
            return true;
        }
        let own = key(segments);
        self.prefixes
            .range::<str, _>((
                std::ops::Bound::Excluded(own.as_str()),
                std::ops::Bound::Unbounded,
            ))
            .take_while(|(prefix, _)| prefix.starts_with(&own))
            .any(|(_, namespaces)| foreign(namespaces))
    }
}

/// A subtree as text, with a slash after each segment: it is inside of another if it starts with it.
pub(super) fn key(segments: &[Cow<'_, str>]) -> String {
    let mut key = String::from("/");
    for segment in segments {
        key.push_str(segment);
        key.push('/');
    }
    key
}

/// Who holds what, per domain: without host, and per host that `pathOwners` binds (O4).
///
/// Offers are admitted oldest first. It can be kept and follow what comes and goes later, as long as
/// who comes wins against nobody who is there.
#[derive(Debug)]
pub(super) struct Owners {
    bindings: Bindings,
    ids: HashMap<Box<str>, u32, Keyed>,
    hostless: Domain,
    hosts: HashMap<Box<str>, Domain>,
}

#[derive(Debug, Default)]
struct Domain {
    operator: Tree,
    reserved: Tree,
    live: Tree,
}

/// The operator's id; namespaces count from 1.
const OPERATOR: u32 = 0;

impl Owners {
    /// Nobody holds anything yet; there is room for so many candidates.
    pub(super) fn new(path_owners: &[PathOwner], candidates: usize) -> Self {
        Self {
            bindings: Bindings::new(path_owners),
            ids: HashMap::default(),
            hostless: Domain {
                live: Tree::with_capacity(candidates),
                ..Domain::default()
            },
            hosts: HashMap::new(),
        }
    }

    /// What the operator holds.
    pub(super) fn operate<'h>(&mut self, holdings: impl Iterator<Item = Holding<'h>>) {
        for holding in holdings {
            self.hold(&holding, |domain| &mut domain.operator);
        }
    }

    /// What closed paths reserve; no others any more.
    pub(super) fn reserve<'h>(&mut self, holdings: impl Iterator<Item = Holding<'h>>) {
        self.hostless.reserved = Tree::default();
        for domain in self.hosts.values_mut() {
            domain.reserved = Tree::default();
        }
        for holding in holdings {
            self.hold(&holding, |domain| &mut domain.reserved);
        }
    }

    /// Takes the claims of an offer that was admitted away.
    pub(super) fn dismiss(&mut self, candidate: &Candidate<'_>) {
        let id = self.id(candidate.namespace);
        let live = &mut self.domain(candidate.hostname.map(|host| &**host)).live;
        for claim in candidate.claims() {
            live.remove(&claim, id);
        }
    }

    fn id(&mut self, namespace: &str) -> u32 {
        if let Some(id) = self.ids.get(namespace) {
            return *id;
        }
        let id = u32::try_from(self.ids.len())
            .unwrap_or(u32::MAX - 1)
            .saturating_add(1);
        self.ids.insert(namespace.into(), id);
        id
    }

    /// The domain of a host: its own when the operator bound it, else the one without host (O4).
    fn domain(&mut self, hostname: Option<&str>) -> &mut Domain {
        match hostname.filter(|host| self.bindings.hosts.contains_key(*host)) {
            Some(host) => self.hosts.entry(host.into()).or_default(),
            None => &mut self.hostless,
        }
    }

    fn hold(&mut self, holding: &Holding<'_>, tree: impl FnOnce(&mut Domain) -> &mut Tree) {
        let pattern = holding.pattern;
        match holding.holder {
            Holder::Operator => {
                let folded: Vec<Option<Cow<'_, str>>> =
                    pattern.segments().iter().map(folded).collect();
                let steps = pattern.segments().iter().zip(&folded).map(Step::of);
                let exact = pattern.tail() == Tail::Exact;
                tree(self.domain(holding.hostname)).insert(steps, exact, OPERATOR);
            }
            Holder::Namespace(namespace) => {
                let id = self.id(namespace);
                let claim = claim_of(pattern);
                let steps = claim.iter().map(|segment| Step::Literal(segment));
                tree(self.domain(holding.hostname)).insert(steps, false, id);
            }
        }
    }

    /// Admits an offer with all its claims, or none. `is_incumbent` tells whether the ledger remembers
    /// this very offer serving a pattern: it does not wait for it (O3). `ends` tells those who do.
    pub(super) fn admit(
        &mut self,
        candidate: &Candidate<'_>,
        is_incumbent: impl Fn(&Piece) -> bool,
        ends: &Ends<'_>,
    ) -> Result<(), Rejection> {
        let id = self.id(candidate.namespace);
        let hostname = candidate.hostname.map(|host| &**host);
        if let Some(namespaces) = hostname.and_then(|host| self.bindings.hosts.get(host))
            && !namespaces.contains(candidate.namespace)
        {
            return Err(Rejection::conflict(
                "its host",
                "belongs to another namespace",
            ));
        }
        let base = candidate.base.map(claim_of);
        let claims = candidate.claims();
        for claim in &claims {
            let incumbent = || {
                let mut pieces = candidate.pieces.iter();
                pieces.any(|piece| {
                    (base.as_ref() == Some(claim) || claim_of(&piece.pattern) == *claim)
                        && is_incumbent(piece)
                })
            };
            self.check(candidate, base.as_deref(), claim, id, incumbent, ends)?;
        }
        let live = &mut self.domain(hostname).live;
        for claim in &claims {
            let steps = claim.iter().map(|segment| Step::Literal(segment));
            live.insert(steps, false, id);
        }
        Ok(())
    }

    fn check(
        &mut self,
        candidate: &Candidate<'_>,
        base: Option<&[Cow<'_, str>]>,
        claim: &[Cow<'_, str>],
        id: u32,
        is_incumbent: impl Fn() -> bool,
        ends: &Ends<'_>,
    ) -> Result<(), Rejection> {
        let path = || format!("\"/{}\"", claim.join("/"));
        if is_reserved(claim, base) {
            return Err(Rejection {
                code: RESERVED_PATH,
                detail: format!("{} is reserved: choose another path", path()),
            });
        }
        if self.bindings.forbids(candidate.namespace, claim) {
            return Err(Rejection::conflict(&path(), "belongs to another namespace"));
        }
        if self.hostless.operator.conflicts(claim, id) {
            return Err(Rejection::conflict(
                &path(),
                "is served by the operator's own configuration",
            ));
        }
        let domain = self.domain(candidate.hostname.map(|host| &**host));
        if domain.operator.conflicts(claim, id) {
            return Err(Rejection::conflict(
                &path(),
                "is served by the operator's own configuration",
            ));
        }
        if domain.reserved.conflicts(claim, id) && !is_incumbent() {
            return Err(Rejection {
                code: "PathReserved",
                detail: format!(
                    "{} was served by another namespace and stays reserved for it {}: wait or \
                     choose another path",
                    path(),
                    self.reserved_until(candidate, claim, ends)
                ),
            });
        }
        if domain.live.conflicts(claim, id) {
            return Err(Rejection::conflict(&path(), "belongs to another namespace"));
        }
        Ok(())
    }
}

impl Owners {
    /// How long a claim of a candidate is reserved for others, in words. A time that stands still, so
    /// that the same table says the same.
    fn reserved_until(
        &self,
        candidate: &Candidate<'_>,
        claim: &[Cow<'_, str>],
        ends: &Ends<'_>,
    ) -> String {
        let is_bound = |host: &str| self.bindings.hosts.contains_key(host);
        let own = candidate.hostname.map(|host| &**host);
        let own = own.filter(|host| is_bound(host));
        match ends.until(own, claim, candidate.namespace, is_bound) {
            Some(until) => format!("until {until}"),
            None => "for a while".to_owned(),
        }
    }
}

impl<'a> Candidate<'a> {
    /// The base comes last, and once: most offers have one route, which is their base.
    pub(super) fn claims(&self) -> Vec<Claim<'a>> {
        let mut claims: Vec<Claim<'_>> = Vec::with_capacity(self.pieces.len() + 1);
        let base = self.base.map(claim_of);
        let own = self.pieces.iter().map(|piece| claim_of(&piece.pattern));
        for claim in own.chain(base) {
            if claims.last() != Some(&claim) {
                claims.push(claim);
            }
        }
        claims
    }
}

impl Rejection {
    fn conflict(what: &str, why: &str) -> Self {
        Self {
            code: "PathConflict",
            detail: format!("{what} {why}: choose another path"),
        }
    }
}

/// Compat 1.18: reserved roots, exactly `/` and `/services`, and `/auth` inside an offer.
fn is_reserved(segments: &[Cow<'_, str>], base: Option<&[Cow<'_, str>]>) -> bool {
    match segments {
        [] => true,
        [root, ..] if RESERVED_ROOTS.contains(&&**root) => true,
        [root] if root == "services" => true,
        _ => base
            .and_then(|base| segments.strip_prefix(base))
            .and_then(<[Cow<'_, str>]>::first)
            .is_some_and(|inside| inside == "auth"),
    }
}
