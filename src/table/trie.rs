//! The index of patterns: one step per segment, whatever the number of patterns.
//!
//! The literal children of all nodes are [`Edges`]; globs stand in a short list per node.
//! The values of the patterns that end in a node are `u32`s whose meaning belongs to the caller. A
//! look-up visits every match and leaves the choice to the visitor, because precedence depends on
//! more than the pattern. It allocates nothing. A node with globs costs one try per glob, which only
//! the owner of that subtree pays for: tenants cannot put a glob above their own subtree (O1).
//!
//! A pattern may have a value in each [`Layer`], so that each can be taken away without a look at the
//! others. What is taken away leaves its nodes behind.

use super::edges::{Edges, with_slack};
use crate::route::{Glob, Pattern, Segment, Tail};
use std::borrow::Cow;

/// Patterns and their values.
#[derive(Debug, Clone)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    edges: Edges,
    /// The globs of the nodes that have any.
    globs: Vec<Vec<(Glob, u32)>>,
    /// The further layers of the nodes that have any.
    behind: Vec<Behind>,
    fold: bool,
}

/// Where a value stands; all of them are visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    /// Most patterns have a value only here.
    Routes,
    /// What is closed.
    Closed,
    /// What is never free by accident.
    Walls,
}

#[derive(Debug, Default, Clone)]
struct Node {
    /// Its place in `globs`.
    globs: Option<Value>,
    routes: Ends,
    /// Its place in `behind`.
    behind: Option<Value>,
}

/// The layers behind routes.
#[derive(Debug, Default, Clone)]
struct Behind {
    closed: Ends,
    walls: Ends,
}

/// The values of the patterns that end in a node, by tail.
#[derive(Debug, Default, Clone)]
struct Ends {
    exact: Option<Value>,
    subtree: Option<Value>,
    greedy: Option<Value>,
}

/// A value, stored so that `None` costs nothing.
#[derive(Debug, Clone, Copy)]
struct Value(std::num::NonZeroU32);

impl Trie {
    /// An empty trie that compares letters as they are, with room for so many patterns.
    pub(super) fn new(patterns: usize) -> Self {
        Self::empty(patterns, false)
    }

    /// An empty trie that ignores ASCII case; it is asked with lower-cased views.
    pub(super) fn folded() -> Self {
        Self::empty(0, true)
    }

    fn empty(patterns: usize, fold: bool) -> Self {
        let mut nodes = Vec::with_capacity(with_slack(patterns));
        nodes.push(Node::default());
        Self {
            nodes,
            edges: Edges::with_capacity(patterns),
            globs: Vec::new(),
            behind: Vec::new(),
            fold,
        }
    }

    /// Whether nothing was inserted.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.len() == 1 && self.nodes.first().is_some_and(Node::is_bare)
    }

    /// Inserts a pattern, unless an equal one is there: then its value is returned and stays.
    pub(super) fn insert(&mut self, pattern: &Pattern, layer: Layer, value: u32) -> Option<u32> {
        let mut at = 0;
        for segment in pattern.segments() {
            at = self.child(at, segment)?;
        }
        let slot = self.slot(at, pattern.tail(), layer)?;
        match slot {
            Some(there) => Some(there.get()),
            None => {
                *slot = Value::new(value);
                None
            }
        }
    }

    /// The value of a pattern.
    pub(super) fn get(&self, pattern: &Pattern, layer: Layer) -> Option<u32> {
        self.value(self.end_of(pattern)?, pattern.tail(), layer)
    }

    /// Takes the value of a pattern away.
    pub(super) fn remove(&mut self, pattern: &Pattern, layer: Layer) -> Option<u32> {
        let (at, tail) = (self.end_of(pattern)?, pattern.tail());
        // Nothing is made where nothing is to be taken.
        self.value(at, tail, layer)?;
        self.slot(at, tail, layer)?.take().map(Value::get)
    }

    /// The value in a node.
    fn value(&self, at: u32, tail: Tail, layer: Layer) -> Option<u32> {
        let node = self.nodes.get(at as usize)?;
        let ends = match layer {
            Layer::Routes => &node.routes,
            Layer::Closed => &self.behind(node)?.closed,
            Layer::Walls => &self.behind(node)?.walls,
        };
        ends.get(tail).map(Value::get)
    }

    /// The node in which a pattern ends.
    fn end_of(&self, pattern: &Pattern) -> Option<u32> {
        let mut at = 0;
        for segment in pattern.segments() {
            at = match segment {
                Segment::Literal(text) if self.fold => {
                    self.edges.get(at, &text.to_ascii_lowercase())?
                }
                Segment::Literal(text) => self.edges.get(at, text)?,
                Segment::Glob(glob) => {
                    let globs = self.globs(self.nodes.get(at as usize)?);
                    globs.iter().find(|(there, _)| there == glob)?.1
                }
            };
        }
        Some(at)
    }

    /// The place of a value in a node.
    fn slot(&mut self, at: u32, tail: Tail, layer: Layer) -> Option<&mut Option<Value>> {
        let node = self.nodes.get_mut(at as usize)?;
        let ends = match layer {
            Layer::Routes => &mut node.routes,
            Layer::Closed | Layer::Walls => {
                let place = match node.behind {
                    Some(place) => place,
                    None => {
                        let place = Value::new(u32::try_from(self.behind.len()).ok()?)?;
                        self.behind.push(Behind::default());
                        *node.behind.insert(place)
                    }
                };
                let behind = self.behind.get_mut(place.get() as usize)?;
                if layer == Layer::Closed {
                    &mut behind.closed
                } else {
                    &mut behind.walls
                }
            }
        };
        Some(match tail {
            Tail::Exact => &mut ends.exact,
            Tail::Subtree => &mut ends.subtree,
            Tail::Greedy => &mut ends.greedy,
        })
    }

    fn behind(&self, node: &Node) -> Option<&Behind> {
        self.behind.get(node.behind?.get() as usize)
    }

    /// Visits the value of every pattern that matches the view (as [`Pattern::matches`] says).
    pub(super) fn find(&self, view: &str, visit: &mut impl FnMut(u32)) {
        let path = view.strip_prefix('/').unwrap_or(view);
        let (body, slash) = match path.strip_suffix('/') {
            Some(body) => (body, true),
            None => (path, false),
        };
        self.walk(0, (!path.is_empty()).then_some(body), slash, visit);
    }

    fn walk(&self, mut at: u32, mut rest: Option<&str>, slash: bool, visit: &mut impl FnMut(u32)) {
        while let Some(node) = self.nodes.get(at as usize) {
            node.routes.visit(rest.is_some(), slash, visit);
            if let Some(Behind { closed, walls }) = self.behind(node) {
                closed.visit(rest.is_some(), slash, visit);
                walls.visit(rest.is_some(), slash, visit);
            }
            let Some(text) = rest else {
                return;
            };
            let (segment, after) = match text.split_once('/') {
                Some((segment, after)) => (segment, Some(after)),
                None => (text, None),
            };
            for (glob, child) in self.globs(node) {
                let matches = if self.fold {
                    Glob::matches_folded
                } else {
                    Glob::matches
                };
                if matches(glob, segment) {
                    self.walk(*child, after, slash, visit);
                }
            }
            let Some(child) = self.edges.get(at, segment) else {
                return;
            };
            (at, rest) = (child, after);
        }
    }

    fn globs(&self, node: &Node) -> &[(Glob, u32)] {
        node.globs
            .and_then(|place| self.globs.get(place.get() as usize))
            .map_or(&[], Vec::as_slice)
    }

    /// The child for a segment, made if missing.
    fn child(&mut self, at: u32, segment: &Segment) -> Option<u32> {
        let new = u32::try_from(self.nodes.len()).ok()?;
        let child = match segment {
            Segment::Literal(text) => {
                let text = if self.fold {
                    Cow::Owned(text.to_ascii_lowercase())
                } else {
                    Cow::Borrowed(&**text)
                };
                match self.edges.get(at, &text) {
                    Some(child) => child,
                    None => {
                        self.edges.add(at, &text, new)?;
                        new
                    }
                }
            }
            Segment::Glob(glob) => {
                let node = self.nodes.get_mut(at as usize)?;
                let place = match node.globs {
                    Some(place) => place,
                    None => {
                        let place = Value::new(u32::try_from(self.globs.len()).ok()?)?;
                        self.globs.push(Vec::new());
                        *node.globs.insert(place)
                    }
                };
                let globs = self.globs.get_mut(place.get() as usize)?;
                match globs.iter().find(|(there, _)| there == glob) {
                    Some((_, child)) => *child,
                    None => {
                        globs.push((glob.clone(), new));
                        new
                    }
                }
            }
        };
        if child == new {
            self.nodes.push(Node::default());
        }
        Some(child)
    }
}

impl Node {
    fn is_bare(&self) -> bool {
        self.behind.is_none() && self.routes.is_empty()
    }
}

impl Ends {
    fn is_empty(&self) -> bool {
        self.exact.is_none() && self.subtree.is_none() && self.greedy.is_none()
    }

    const fn get(&self, tail: Tail) -> Option<Value> {
        match tail {
            Tail::Exact => self.exact,
            Tail::Subtree => self.subtree,
            Tail::Greedy => self.greedy,
        }
    }

    /// Visits what matches a view that goes on, or ends here with or without a slash.
    fn visit(&self, goes_on: bool, slash: bool, visit: &mut impl FnMut(u32)) {
        if let Some(value) = self.subtree {
            visit(value.get());
        }
        if let Some(value) = self.greedy
            && (goes_on || slash)
        {
            visit(value.get());
        }
        if let Some(value) = self.exact
            && !goes_on
        {
            visit(value.get());
        }
    }
}

impl Value {
    fn new(value: u32) -> Option<Self> {
        std::num::NonZeroU32::new(value.checked_add(1)?).map(Self)
    }

    const fn get(self) -> u32 {
        self.0.get() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(trie: &Trie, view: &str) -> Vec<u32> {
        let mut found = Vec::new();
        trie.find(view, &mut |value| found.push(value));
        found.sort_unstable();
        found.dedup();
        found
    }

    fn pattern_text() -> impl Strategy<Value = String> {
        let segment = prop_oneof![
            3 => Just("a"), 3 => Just("b"), 1 => Just("ab"), 1 => Just("*"), 1 => Just("a*"),
            1 => Just("?"), 1 => Just("[ab]*"), 1 => Just("A"),
        ];
        (
            prop::collection::vec(segment, 0..5),
            prop_oneof![Just(""), Just("/*"), Just("/")],
        )
            .prop_map(|(segments, tail)| format!("/{}{tail}", segments.join("/")))
    }

    fn view() -> impl Strategy<Value = String> {
        let segment = prop_oneof![
            4 => Just("a"), 4 => Just("b"), 1 => Just("ab"), 1 => Just("A"), 1 => Just(""),
        ];
        prop::collection::vec(segment, 0..6).prop_map(|segments| format!("/{}", segments.join("/")))
    }

    proptest! {
        #[test]
        fn the_trie_finds_what_a_linear_scan_finds(
            texts in prop::collection::vec(pattern_text(), 0..24),
            view in view(),
        ) {
            let mut trie = Trie::new(0);
            let mut patterns = Vec::new();
            for text in texts {
                let Ok(pattern) = Pattern::parse(&text) else { continue };
                let value = u32::try_from(patterns.len()).unwrap();
                if trie.insert(&pattern, Layer::Routes, value).is_none() {
                    patterns.push(pattern);
                }
            }
            let scanned: Vec<u32> = (0..)
                .zip(&patterns)
                .filter(|(_, pattern)| pattern.matches(&view))
                .map(|(value, _)| value)
                .collect();
            prop_assert_eq!(found(&trie, &view), scanned);
        }
    }

    #[test]
    fn an_equal_pattern_keeps_the_first_value() {
        let mut trie = Trie::new(0);
        assert!(trie.is_empty());
        assert_eq!(
            trie.insert(&Pattern::parse("/a/*").unwrap(), Layer::Routes, 7),
            None
        );
        assert_eq!(
            trie.insert(&Pattern::parse("/a/*").unwrap(), Layer::Routes, 8),
            Some(7)
        );
        assert_eq!(
            trie.insert(&Pattern::parse("/a").unwrap(), Layer::Routes, 9),
            None
        );
        assert_eq!(found(&trie, "/a"), [7, 9]);
        assert!(!trie.is_empty());
    }

    #[test]
    fn layers_do_not_know_of_each_other() {
        let mut trie = Trie::new(0);
        let pattern = Pattern::parse("/a/b*/*").unwrap();
        for (layer, value) in [(Layer::Routes, 1), (Layer::Closed, 2), (Layer::Walls, 3)] {
            assert_eq!(trie.insert(&pattern, layer, value), None);
        }
        assert_eq!(found(&trie, "/a/bc/d"), [1, 2, 3]);
        assert_eq!(trie.remove(&pattern, Layer::Closed), Some(2));
        assert_eq!(trie.remove(&pattern, Layer::Closed), None);
        assert_eq!(found(&trie, "/a/bc/d"), [1, 3]);
        assert_eq!(trie.insert(&pattern, Layer::Routes, 4), Some(1));
    }

    #[test]
    fn a_folded_trie_ignores_the_case_of_its_patterns() {
        let mut trie = Trie::folded();
        trie.insert(&Pattern::parse("/Api/V[A-Z]*/x").unwrap(), Layer::Routes, 1);
        assert_eq!(found(&trie, "/api/vq1/x"), [1]);
        assert_eq!(found(&trie, "/api/v1/x"), Vec::<u32>::new());
    }
}
