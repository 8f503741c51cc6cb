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

use crate::pricing::PathOwner;
use crate::route::{Glob, Pattern, Segment, Tail};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// One subtree that an offer wants.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// Folded literal segments.
    pub(super) segments: Vec<String>,
    /// The ledger remembers this very offer serving it: it does not wait for it (O3).
    pub(super) incumbent: bool,
}

/// One offer of a namespace that asks for its paths.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    pub(super) namespace: &'a Arc<str>,
    pub(super) hostname: Option<&'a Arc<str>>,
    /// Folded segments of its base path.
    pub(super) base: Option<&'a [String]>,
    pub(super) claims: Vec<Claim>,
}

/// What the operator holds by the file, or a closed path reserves.
#[derive(Debug)]
pub(super) struct Holding<'a> {
    pub(super) holder: Holder<'a>,
    pub(super) hostname: Option<&'a str>,
    pub(super) pattern: &'a Pattern,
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
pub(super) fn decide(
    operator: &[Holding<'_>],
    reserved: &[Holding<'_>],
    candidates: &[Candidate<'_>],
    path_owners: &[PathOwner],
) -> Vec<Option<Rejection>> {
    let bindings = Bindings::new(path_owners);
    let mut owners = Owners::new(&bindings);
    for holding in operator {
        owners.hold(holding, |domain| &mut domain.operator);
    }
    for holding in reserved {
        owners.hold(holding, |domain| &mut domain.reserved);
    }
    candidates
        .iter()
        .map(|candidate| owners.admit(candidate).err())
        .collect()
}

/// The subtree that a pattern claims: its whole literal segments, folded.
pub(super) fn claim_of(pattern: &Pattern) -> Vec<String> {
    pattern.literal_segments().map_while(fold).collect()
}

/// A segment as the most lenient upstream reads it.
fn fold(segment: &str) -> Option<String> {
    let name = segment.split(';').next().unwrap_or(segment);
    (!name.is_empty()).then(|| name.to_ascii_lowercase())
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
                let segments: Vec<String> = prefix.split('/').filter_map(fold).collect();
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
    fn forbids(&self, namespace: &Arc<str>, segments: &[String]) -> bool {
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

fn key(segments: &[String]) -> String {
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
    ids: HashMap<Box<str>, u32>,
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

impl<'a> Owners<'a> {
    fn new(bindings: &'a Bindings<'a>) -> Self {
        Self {
            bindings,
            ids: HashMap::new(),
            hostless: Domain::default(),
            hosts: HashMap::new(),
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
                let folded: Vec<Option<String>> = pattern.segments().iter().map(folded).collect();
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
    fn admit(&mut self, candidate: &Candidate<'_>) -> Result<(), Rejection> {
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
        for claim in &candidate.claims {
            self.check(candidate, claim, id, hostname)?;
        }
        let live = &mut self.domain(hostname).live;
        for claim in &candidate.claims {
            live.insert(
                claim.segments.iter().map(|segment| Step::Literal(segment)),
                false,
                id,
            );
        }
        Ok(())
    }

    fn check(
        &mut self,
        candidate: &Candidate<'_>,
        claim: &Claim,
        id: u32,
        hostname: Option<&str>,
    ) -> Result<(), Rejection> {
        let path = || format!("\"/{}\"", claim.segments.join("/"));
        if is_reserved(&claim.segments, candidate.base) {
            return Err(Rejection {
                code: "ReservedPath",
                detail: format!("{} is reserved: choose another path", path()),
            });
        }
        if self.bindings.forbids(candidate.namespace, &claim.segments) {
            return Err(Rejection::conflict(&path(), "belongs to another namespace"));
        }
        if self.hostless.operator.conflicts(&claim.segments, id) {
            return Err(Rejection::conflict(
                &path(),
                "is served by the operator's own configuration",
            ));
        }
        let domain = self.domain(hostname);
        if domain.operator.conflicts(&claim.segments, id) {
            return Err(Rejection::conflict(
                &path(),
                "is served by the operator's own configuration",
            ));
        }
        if !claim.incumbent && domain.reserved.conflicts(&claim.segments, id) {
            return Err(Rejection {
                code: "PathReserved",
                detail: format!(
                    "{} was served by another namespace and stays reserved for it for a while: \
                     wait or choose another path",
                    path()
                ),
            });
        }
        if domain.live.conflicts(&claim.segments, id) {
            return Err(Rejection::conflict(&path(), "belongs to another namespace"));
        }
        Ok(())
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
fn is_reserved(segments: &[String], base: Option<&[String]>) -> bool {
    match segments {
        [] => true,
        [root, ..] if RESERVED_ROOTS.contains(&root.as_str()) => true,
        [root] if root == "services" => true,
        _ => base
            .and_then(|base| segments.strip_prefix(base))
            .and_then(<[String]>::first)
            .is_some_and(|inside| inside == "auth"),
    }
}

/// One segment of what is held.
#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Literal(&'a str),
    Glob(&'a Glob),
    /// A literal that a lenient upstream reads as nothing at all (`;x`).
    Any,
}

impl<'a> Step<'a> {
    fn of((segment, folded): (&'a Segment, &'a Option<String>)) -> Self {
        match (segment, folded) {
            (Segment::Glob(glob), _) => Self::Glob(glob),
            (Segment::Literal(_), Some(text)) => Self::Literal(text),
            (Segment::Literal(_), None) => Self::Any,
        }
    }
}

/// The folded text of a literal segment.
fn folded(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Literal(text) => fold(text),
        Segment::Glob(_) => None,
    }
}

/// Holders by subtree.
#[derive(Debug)]
struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, u32>,
    /// `None` matches every segment.
    globs: Vec<(Option<Glob>, u32)>,
    /// Who holds this subtree.
    here: Holders,
    /// Who holds exactly this path.
    exact: Holders,
    /// Who holds anything below.
    below: Holders,
}

/// A summary of holders: enough to tell whether anybody else is among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Holders {
    #[default]
    None,
    One(u32),
    Many,
}

impl Holders {
    fn add(&mut self, id: u32) {
        *self = match *self {
            Self::None => Self::One(id),
            Self::One(there) if there == id => Self::One(id),
            Self::One(_) | Self::Many => Self::Many,
        };
    }

    fn has_other_than(self, id: u32) -> bool {
        match self {
            Self::None => false,
            Self::One(there) => there != id,
            Self::Many => true,
        }
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }
}

impl Tree {
    fn insert<'s>(&mut self, steps: impl Iterator<Item = Step<'s>>, exact: bool, id: u32) {
        let mut at = 0_u32;
        for step in steps {
            let new = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
            let Some(node) = self.nodes.get_mut(at as usize) else {
                return;
            };
            node.below.add(id);
            at = match step {
                Step::Literal(text) => match node.literals.get(text) {
                    Some(child) => *child,
                    None => *node.literals.entry(text.into()).or_insert(new),
                },
                Step::Glob(glob) => node.glob_child(Some(glob), new),
                Step::Any => node.glob_child(None, new),
            };
            if at == new {
                self.nodes.push(Node::default());
            }
        }
        if let Some(node) = self.nodes.get_mut(at as usize) {
            if exact {
                &mut node.exact
            } else {
                &mut node.here
            }
            .add(id);
        }
    }

    /// Whether somebody else holds the subtree, a part of it, or a subtree around it.
    fn conflicts(&self, segments: &[String], id: u32) -> bool {
        self.conflicts_from(0, segments, id)
    }

    fn conflicts_from(&self, at: u32, segments: &[String], id: u32) -> bool {
        let Some(node) = self.nodes.get(at as usize) else {
            return false;
        };
        if node.here.has_other_than(id) {
            return true;
        }
        let Some((segment, rest)) = segments.split_first() else {
            return node.exact.has_other_than(id) || node.below.has_other_than(id);
        };
        let literal = node.literals.get(segment.as_str()).copied();
        let globs = node
            .globs
            .iter()
            .filter(|(glob, _)| {
                glob.as_ref()
                    .is_none_or(|glob| glob.matches_folded(segment))
            })
            .map(|(_, child)| *child);
        literal
            .into_iter()
            .chain(globs)
            .any(|child| self.conflicts_from(child, rest, id))
    }
}

impl Node {
    fn glob_child(&mut self, glob: Option<&Glob>, new: u32) -> u32 {
        match self.globs.iter().find(|(there, _)| there.as_ref() == glob) {
            Some((_, child)) => *child,
            None => {
                self.globs.push((glob.cloned(), new));
                new
            }
        }
    }
}
