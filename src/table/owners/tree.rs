//! Who holds which subtree, with a summary at every node.

use super::super::edges::Edges;
use super::fold;
use crate::route::{Glob, Segment};
use std::borrow::Cow;

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
}

#[derive(Debug, Default)]
struct Node {
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
        Self::with_capacity(0)
    }
}

impl Tree {
    /// A tree with room for so many subtrees.
    pub(super) fn with_capacity(subtrees: usize) -> Self {
        let mut nodes = Vec::with_capacity(subtrees.saturating_add(1));
        nodes.push(Node::default());
        Self {
            nodes,
            edges: Edges::with_capacity(subtrees),
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
