//! How the table hashes, and the edges of its trees.
//!
//! What requests bring is only looked up, but what stands in the maps is partly written by tenants.
//! Nobody outside sees a seed or a hash, so nobody can choose names that meet in one bucket; each
//! process, and each hasher in it, has its own.
//!
//! [`Edges`] keeps all literal children of all nodes of a tree in one hash table, keyed by parent and
//! segment, and all their texts in one piece of memory: a tree of 100,000 names is a handful of
//! allocations, so that it is built and freed in milliseconds.

use foldhash::SharedSeed;
use foldhash::fast::{FoldHasher, SeedableRandomState};
use hashbrown::HashTable;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A hash function with a seed of the operating system.
#[derive(Debug, Clone)]
pub(super) struct Keyed(SeedableRandomState);

/// The literal children of all nodes of a tree.
#[derive(Debug, Default, Clone)]
pub(super) struct Edges {
    table: HashTable<Edge>,
    /// The segments of all edges, one after the other.
    texts: Vec<u8>,
    keyed: Keyed,
}

/// The way from a node to its child by a literal segment.
#[derive(Debug, Clone, Copy)]
struct Edge {
    parent: u32,
    child: u32,
    /// Where its segment starts in `texts`, and how long it is.
    start: u32,
    length: u32,
}

/// What a segment is expected to have in bytes.
const SEGMENT: usize = 16;

/// Room for so many and a few more: walls and prefixes come on top, and whatever outgrows its room
/// by one takes twice of it.
pub(super) const fn with_slack(count: usize) -> usize {
    if count == 0 {
        return 0;
    }
    count.saturating_add(count / 16).saturating_add(16)
}

impl Keyed {
    /// The hash of a text below a node.
    fn edge(&self, parent: u32, text: &[u8]) -> u64 {
        let mut hasher = self.build_hasher();
        hasher.write_u32(parent);
        hasher.write(text);
        hasher.finish()
    }
}

impl Default for Keyed {
    fn default() -> Self {
        let seed = RandomState::new().hash_one(0_u8);
        Self(SeedableRandomState::with_seed(
            seed,
            SharedSeed::global_random(),
        ))
    }
}

impl BuildHasher for Keyed {
    type Hasher = FoldHasher<'static>;

    fn build_hasher(&self) -> Self::Hasher {
        self.0.build_hasher()
    }
}

impl Edges {
    /// No edges yet, and room for so many.
    pub(super) fn with_capacity(edges: usize) -> Self {
        Self {
            table: HashTable::with_capacity(edges),
            texts: Vec::with_capacity(with_slack(edges).saturating_mul(SEGMENT)),
            keyed: Keyed::default(),
        }
    }

    /// The child of a node by a segment.
    pub(super) fn get(&self, parent: u32, segment: &str) -> Option<u32> {
        let segment = segment.as_bytes();
        let is_it = |edge: &Edge| edge.parent == parent && edge.text(&self.texts) == segment;
        self.table
            .find(self.keyed.edge(parent, segment), is_it)
            .map(|edge| edge.child)
    }

    /// Adds an edge that is not there; `None` past what 32 bits can count.
    pub(super) fn add(&mut self, parent: u32, segment: &str, child: u32) -> Option<()> {
        let edge = Edge {
            parent,
            child,
            start: u32::try_from(self.texts.len()).ok()?,
            length: u32::try_from(segment.len()).ok()?,
        };
        self.texts.extend_from_slice(segment.as_bytes());
        let Self {
            table,
            texts,
            keyed,
        } = self;
        let hash = |edge: &Edge| keyed.edge(edge.parent, edge.text(texts));
        table.insert_unique(hash(&edge), edge, hash);
        Some(())
    }
}

impl Edge {
    fn text<'t>(&self, texts: &'t [u8]) -> &'t [u8] {
        let start = self.start as usize;
        texts
            .get(start..start + self.length as usize)
            .unwrap_or_default()
    }
}
