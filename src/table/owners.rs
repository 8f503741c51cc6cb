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

use self::reserved::Reserved;
use self::tree::{Step, Tree, folded};
use super::edges::Keyed;
use super::prepare::Piece;
use crate::pricing::PathOwner;
use crate::route::{Pattern, Tail};
use jiff::Timestamp;
use std::borrow::Cow;
use std::cell::OnceCell;
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
type Claim<'a> = Vec<Cow<'a, str>>;

/// What the operator holds by the file, or a closed path reserves.
#[derive(Debug)]
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

/// Subtrees no namespace may claim (compat 1.18).
const RESERVED_ROOTS: [&str; 5] = ["api", "openapi.json", "skill.md", "rpc", ".well-known"];

/// Decides all offers. `candidates` must be in order of age; verdicts come in the same order.
/// `is_incumbent` tells whether the ledger remembers this very offer serving a pattern: it does not
/// wait for it (O3).
pub(super) fn decide(
    operator: &[Holding<'_>],
    reserved: &[Holding<'_>],
    candidates: &[Candidate<'_>],
    path_owners: &[PathOwner],
    is_incumbent: impl Fn(&Piece) -> bool,
) -> Vec<Option<Rejection>> {
    let bindings = Bindings::new(path_owners);
    let mut owners = Owners::new(&bindings, reserved, candidates.len());
    for holding in operator {
        owners.hold(holding, |domain| &mut domain.operator);
    }
    for holding in reserved {
        owners.hold(holding, |domain| &mut domain.reserved);
    }
    candidates
        .iter()
        .map(|candidate| owners.admit(candidate, &is_incumbent).err())
        .collect()
}

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
#[derive(Debug)]
struct Bindings<'a> {
    hosts: HashMap<&'a str, Vec<&'a Arc<str>>>,
    /// By folded prefix with a trailing slash, so that a range is a subtree.
    prefixes: BTreeMap<String, Vec<&'a Arc<str>>>,
}

impl<'a> Bindings<'a> {
    fn new(path_owners: &'a [PathOwner]) -> Self {
        let mut bindings = Self {
            hosts: HashMap::new(),
            prefixes: BTreeMap::new(),
        };
        for entry in path_owners {
            if let Some(host) = &entry.host {
                bindings
                    .hosts
                    .entry(host)
                    .or_default()
                    .extend(&entry.namespaces);
            }
            if let Some(prefix) = &entry.prefix {
                let segments: Claim<'_> = prefix.split('/').filter_map(fold).collect();
                bindings
                    .prefixes
                    .entry(key(&segments))
                    .or_default()
                    .extend(&entry.namespaces);
            }
        }
        bindings
    }

    /// Whether the operator gave this subtree, or a part of it, to others.
    fn forbids(&self, namespace: &Arc<str>, segments: &[Cow<'_, str>]) -> bool {
        if self.prefixes.is_empty() {
            return false;
        }
        let foreign = |namespaces: &Vec<&Arc<str>>| !namespaces.contains(&namespace);
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

fn key(segments: &[Cow<'_, str>]) -> String {
    let mut key = String::from("/");
    for segment in segments {
        key.push_str(segment);
        key.push('/');
    }
    key
}

/// Who holds what, per domain: without host, and per host that `pathOwners` binds (O4).
#[derive(Debug)]
struct Owners<'a> {
    bindings: &'a Bindings<'a>,
    ids: HashMap<Box<str>, u32, Keyed>,
    hostless: Domain,
    hosts: HashMap<Box<str>, Domain>,
    reserved: &'a [Holding<'a>],
    /// When reservations end, made when somebody has to be told.
    ends: OnceCell<Reserved<'a>>,
}

#[derive(Debug, Default)]
struct Domain {
    operator: Tree,
    reserved: Tree,
    live: Tree,
}

/// The operator's id; namespaces count from 1.
const OPERATOR: u32 = 0;

impl<'a> Owners<'a> {
    fn new(bindings: &'a Bindings<'a>, reserved: &'a [Holding<'a>], candidates: usize) -> Self {
        Self {
            bindings,
            ids: HashMap::default(),
            hostless: Domain {
                live: Tree::with_capacity(candidates),
                ..Domain::default()
            },
            hosts: HashMap::new(),
            reserved,
            ends: OnceCell::new(),
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
        match hostname.filter(|host| self.bindings.hosts.contains_key(host)) {
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

    /// Admits an offer with all its claims, or none.
    fn admit(
        &mut self,
        candidate: &Candidate<'_>,
        is_incumbent: impl Fn(&Piece) -> bool,
    ) -> Result<(), Rejection> {
        let id = self.id(candidate.namespace);
        let hostname = candidate.hostname.map(|host| &**host);
        if let Some(namespaces) = hostname.and_then(|host| self.bindings.hosts.get(host))
            && !namespaces.contains(&candidate.namespace)
        {
            return Err(Rejection::conflict(
                "its host",
                "belongs to another namespace",
            ));
        }
        let base = candidate.base.map(claim_of);
        // The base comes last, and once: most offers have one route, which is their base.
        let mut claims: Vec<Claim<'_>> = Vec::with_capacity(candidate.pieces.len() + 1);
        for claim in candidate
            .pieces
            .iter()
            .map(|piece| claim_of(&piece.pattern))
        {
            if claims.last() != Some(&claim) {
                claims.push(claim);
            }
        }
        if let Some(base) = &base
            && claims.last() != Some(base)
        {
            claims.push(base.clone());
        }
        for claim in &claims {
            let incumbent = || {
                let mut pieces = candidate.pieces.iter();
                pieces.any(|piece| {
                    (base.as_ref() == Some(claim) || claim_of(&piece.pattern) == *claim)
                        && is_incumbent(piece)
                })
            };
            self.check(candidate, base.as_deref(), claim, id, incumbent)?;
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
    ) -> Result<(), Rejection> {
        let path = || format!("\"/{}\"", claim.join("/"));
        if is_reserved(claim, base) {
            return Err(Rejection {
                code: "ReservedPath",
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
                    self.reserved_until(candidate, claim)
                ),
            });
        }
        if domain.live.conflicts(claim, id) {
            return Err(Rejection::conflict(&path(), "belongs to another namespace"));
        }
        Ok(())
    }
}

impl Owners<'_> {
    /// How long a claim of a candidate is reserved for others, in words. A time that stands still, so
    /// that the same table says the same.
    fn reserved_until(&self, candidate: &Candidate<'_>, claim: &[Cow<'_, str>]) -> String {
        let bound = &self.bindings.hosts;
        let ends = self.ends.get_or_init(|| {
            Reserved::new(self.reserved, |host| {
                host.filter(|host| bound.contains_key(host))
            })
        });
        let own = candidate.hostname.map(|host| &**host);
        let own = own.filter(|host| bound.contains_key(host));
        match ends.until(own, claim, candidate.namespace) {
            Some(until) => format!("until {until}"),
            None => "for a while".to_owned(),
        }
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
