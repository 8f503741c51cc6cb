//! Who holds which subtree, with a summary at every node.
//!
//! What was inserted can be taken away again; its nodes stay behind.

use super::super::edges::{Edges, with_slack};
use super::fold;
use crate::route::{Glob, Segment};
use std::borrow::Cow;
use std::collections::HashMap;

/// One segment of what is held.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'a> {
    Literal(&'a str),
    Glob(&'a Glob),
    /// A literal that a lenient upstream reads as nothing at all (`;x`).
    Any,
}

impl<'a> Step<'a> {
    pub(super) fn of((segment, folded): (&'a Segment, &'a Option<Cow<'a, str>>)) -> Self {
        match (segment, folded) {
            (Segment::Glob(glob), _) => Self::Glob(glob),
            (Segment::Literal(_), Some(text)) => Self::Literal(text),
            (Segment::Literal(_), None) => Self::Any,
        }
    }
}

/// The folded text of a literal segment.
pub(super) fn folded(segment: &Segment) -> Option<Cow<'_, str>> {
    match segment {
        Segment::Literal(text) => fold(text),
        Segment::Glob(_) => None,
    }
}

/// Holders by subtree.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    edges: Edges,
    /// The globs of the nodes that have any; `None` matches every segment.
    globs: HashMap<u32, Vec<(Option<Glob>, u32)>>,
}

#[derive(Debug, Default)]
struct Node {
    /// Who holds this subtree.
    here: Holders,
    /// Who holds exactly this path.
    exact: Holders,
    /// Who holds anything below.
    below: Holders,
}

/// Holders, and how many times each: enough to tell whether anybody else is among them.
#[derive(Debug, Default)]
#[expect(
    clippy::box_collection,
    reason = "few nodes have many holders, and all nodes would be as large"
)]
enum Holders {
    #[default]
    None,
    /// Nearly every node has one.
    One(u32, u32),
    Many(Box<HashMap<u32, u32>>),
}

impl Holders {
    fn add(&mut self, id: u32) {
        match self {
            Self::None => *self = Self::One(id, 1),
            Self::One(there, times) if *there == id => *times += 1,
            Self::One(there, times) => {
                *self = Self::Many(Box::new(HashMap::from([(*there, *times), (id, 1)])));
            }
            Self::Many(all) => *all.entry(id).or_default() += 1,
        }
    }

    fn take(&mut self, id: u32) {
        match self {
            Self::One(there, times) if *there == id && *times > 1 => *times -= 1,
            Self::One(there, _) if *there == id => *self = Self::None,
            Self::None | Self::One(..) => {}
            Self::Many(all) => {
                if let Some(times) = all.get_mut(&id) {
                    *times -= 1;
                    if *times == 0 {
                        all.remove(&id);
                    }
                }
            }
        }
    }

    fn has_other_than(&self, id: u32) -> bool {
        match self {
            Self::None => false,
            Self::One(there, _) => *there != id,
            Self::Many(all) => all.keys().any(|there| *there != id),
        }
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl Tree {
    /// A tree with room for so many subtrees.
    pub(super) fn with_capacity(subtrees: usize) -> Self {
        let mut nodes = Vec::with_capacity(with_slack(subtrees));
        nodes.push(Node::default());
        Self {
            nodes,
            edges: Edges::with_capacity(subtrees),
            globs: HashMap::new(),
        }
    }

    /// Notes that `id` holds a subtree, or exactly a path.
    pub(super) fn insert<'s>(
        &mut self,
        steps: impl Iterator<Item = Step<'s>>,
        exact: bool,
        id: u32,
    ) {
        let mut at = 0_u32;
        for step in steps {
            let new = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
            let Some(node) = self.nodes.get_mut(at as usize) else {
                return;
            };
            node.below.add(id);
            at = match step {
                Step::Literal(text) => match self.edges.get(at, text) {
                    Some(child) => child,
                    None => match self.edges.add(at, text, new) {
                        Some(()) => new,
                        None => return,
                    },
                },
                Step::Glob(glob) => self.glob_child(at, Some(glob), new),
                Step::Any => self.glob_child(at, None, new),
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

    /// Undoes an insertion of a subtree by its literal segments.
    pub(super) fn remove(&mut self, segments: &[Cow<'_, str>], id: u32) {
        let mut at = 0_u32;
        for segment in segments {
            let Some(child) = self.edges.get(at, segment) else {
                return;
            };
            if let Some(node) = self.nodes.get_mut(at as usize) {
                node.below.take(id);
            }
            at = child;
        }
        if let Some(node) = self.nodes.get_mut(at as usize) {
            node.here.take(id);
        }
    }

    /// Whether somebody else holds the subtree, a part of it, or a subtree around it.
    pub(super) fn conflicts(&self, segments: &[Cow<'_, str>], id: u32) -> bool {
        self.conflicts_from(0, segments, id)
    }

    fn conflicts_from(&self, at: u32, segments: &[Cow<'_, str>], id: u32) -> bool {
        let Some(node) = self.nodes.get(at as usize) else {
            return false;
        };
        if node.here.has_other_than(id) {
            return true;
        }
        let Some((segment, rest)) = segments.split_first() else {
            return node.exact.has_other_than(id) || node.below.has_other_than(id);
        };
        let literal = self.edges.get(at, segment);
        let globs = self.globs.get(&at).into_iter().flatten();
        let globs = globs
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

    fn glob_child(&mut self, at: u32, glob: Option<&Glob>, new: u32) -> u32 {
        let globs = self.globs.entry(at).or_default();
        match globs.iter().find(|(there, _)| there.as_ref() == glob) {
            Some((_, child)) => *child,
            None => {
                globs.push((glob.cloned(), new));
                new
            }
        }
    }
}
