//! The document as a tree whose every node knows where it was written.
//!
//! Typed YAML readers stop at the first error, lose positions, and turn `0.10` into a number; here
//! a scalar stays the text that was written, and nothing is interpreted but "no value" (`~`, `null`
//! or nothing at all, unquoted). What a text means is the reader's business (`read.rs`).
//!
//! Everything is bounded: size, depth, nodes. Aliases are refused instead of expanded, so a small
//! file cannot become a large tree. Repeated keys are kept with a note of the first one, because
//! what a repetition means depends on where it is: in a route it closes that route alone (R3).
//! Failure is one [`Flaw`]: a text that is not YAML has no second problem that could be trusted.

use super::findings::Position;
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Tag, options};
use std::borrow::Cow;
use std::collections::HashMap;

/// Largest document, in bytes: 100,000 routes with every key written take less than half of it.
pub(crate) const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Deepest nesting; the deepest that means anything is four.
const MAX_DEPTH: usize = 32;
/// Most values and keys together.
pub(super) const MAX_NODES: usize = 4_000_000;
/// Above this many keys a repetition is looked for by hash.
const FEW_KEYS: usize = 24;

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node<'t> {
    /// Where it begins; for a missing value, where its key begins.
    pub(super) at: Position,
    /// The value.
    pub(super) value: Value<'t>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value<'t> {
    /// Nothing, `~` or `null`.
    Null,
    /// Any scalar, as text.
    Text(Cow<'t, str>),
    /// A list.
    List(Vec<Node<'t>>),
    /// A mapping, in order.
    Map(Vec<Entry<'t>>),
}

/// One key of a mapping with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry<'t> {
    /// The key.
    pub(super) key: Cow<'t, str>,
    /// Where the key begins.
    pub(super) at: Position,
    /// The value.
    pub(super) node: Node<'t>,
    /// Where the same key was written before in the same mapping.
    pub(super) first: Option<Position>,
}

/// Why a text is not a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flaw {
    /// Where.
    pub(super) at: Position,
    /// Stable code.
    pub(super) code: &'static str,
    /// What was found.
    pub(super) message: String,
    /// What would do.
    pub(super) hint: Option<&'static str>,
}

/// A collection whose end was not read yet.
enum Open<'t> {
    List {
        at: Position,
        items: Vec<Node<'t>>,
    },
    Map {
        at: Position,
        entries: Vec<Entry<'t>>,
        key: Option<(Cow<'t, str>, Position)>,
    },
}

/// Which lines of a text were left out before it was read, so that positions are those of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lines {
    /// From this line on, so many lines are missing before; in ascending order.
    pub(super) cuts: [(usize, usize); 2],
}

/// A tree and what it weighs.
#[derive(Debug)]
pub(super) struct Tree<'t> {
    /// The outermost value, which is something.
    pub(super) root: Node<'t>,
    /// Values and keys together.
    pub(super) nodes: usize,
}

/// The tree under construction.
struct Builder<'t> {
    open: Vec<Open<'t>>,
    root: Option<Node<'t>>,
    nodes: usize,
}

impl Value<'_> {
    /// What this is, for a sentence that says what was found.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "no value",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

impl Lines {
    /// Nothing was left out.
    pub(super) const ALL: Self = Self {
        cuts: [(usize::MAX, 0); 2],
    };

    /// The line of the whole text.
    fn whole(self, line: usize) -> usize {
        self.cuts
            .iter()
            .filter(|(from, _)| line >= *from)
            .fold(line, |line, (_, missing)| line + missing)
    }
}

/// Reads a document.
pub(super) fn parse(text: &str) -> Result<Tree<'_>, Flaw> {
    parse_abridged(text, Lines::ALL)
}

/// Reads a document of which some lines were left out.
pub(super) fn parse_abridged(text: &str, lines: Lines) -> Result<Tree<'_>, Flaw> {
    if text.len() > MAX_BYTES {
        return Err(flaw(
            Position::START,
            "too_large",
            format!(
                "the document has {} bytes, more than {MAX_BYTES}",
                text.len()
            ),
            Some("split the routes over several instances"),
        ));
    }
    let mut options = options! {
        emit_unresolved_aliases: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    options.set_emit_comments(false);
    let mut builder = Builder {
        open: Vec::new(),
        root: None,
        nodes: 0,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| {
            flaw(
                position(lines.whole(error.marker().line()), error.marker().col()),
                "syntax",
                format!("not valid YAML: {}", error.info()),
                None,
            )
        })?;
        let line = lines.whole(span.start.line());
        builder.take(event, position(line, span.start.col()))?;
    }
    match builder.root {
        Some(Node {
            value: Value::Null, ..
        })
        | None => Err(flaw(
            Position::START,
            "empty_document",
            "the document is empty".to_owned(),
            Some("write at least `routes: []`"),
        )),
        Some(root) => Ok(Tree {
            root,
            nodes: builder.nodes,
        }),
    }
}

impl<'t> Builder<'t> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the parser's features and later versions add events about presentation"
    )]
    fn take(&mut self, event: Event<'t>, at: Position) -> Result<(), Flaw> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => Err(flaw(
                at,
                "several_documents",
                "a second YAML document begins here".to_owned(),
                Some("keep one document in the file"),
            )),
            Event::Alias(_) | Event::UnresolvedAlias(_) => Err(flaw(
                at,
                "alias",
                "a YAML alias (`*name`) is not expanded here".to_owned(),
                Some("write the value out"),
            )),
            Event::Scalar(text, style, _, tag) => {
                let tagged = check_tag(tag.as_deref(), at)?;
                let null = style == ScalarStyle::Plain
                    && !tagged
                    && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null { Value::Null } else { Value::Text(text) };
                self.complete(Node { at, value })
            }
            Event::SequenceStart(_, _, tag) => {
                check_tag(tag.as_deref(), at)?;
                self.begin(Open::List {
                    at,
                    items: Vec::new(),
                })
            }
            Event::MappingStart(_, _, tag) => {
                check_tag(tag.as_deref(), at)?;
                self.begin(Open::Map {
                    at,
                    entries: Vec::new(),
                    key: None,
                })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { at, items }) => self.complete(Node {
                    at,
                    value: Value::List(items),
                }),
                Some(Open::Map {
                    at, mut entries, ..
                }) => {
                    note_repetitions(&mut entries);
                    self.complete(Node {
                        at,
                        value: Value::Map(entries),
                    })
                }
                None => Ok(()),
            },
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd
            | Event::Anchor(..) => Ok(()),
            // Comments, and whatever later versions of the parser may tell about presentation.
            _ => Ok(()),
        }
    }

    fn begin(&mut self, collection: Open<'t>) -> Result<(), Flaw> {
        let at = match &collection {
            Open::List { at, .. } | Open::Map { at, .. } => *at,
        };
        if self.open.len() >= MAX_DEPTH {
            return Err(flaw(
                at,
                "too_deep",
                format!("more than {MAX_DEPTH} collections inside each other"),
                None,
            ));
        }
        if matches!(self.open.last(), Some(Open::Map { key: None, .. })) {
            return Err(not_a_key(at));
        }
        self.open.push(collection);
        Ok(())
    }

    fn complete(&mut self, mut node: Node<'t>) -> Result<(), Flaw> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(flaw(
                node.at,
                "too_large",
                format!("the document has more than {MAX_NODES} values"),
                None,
            ));
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, .. }) => match key.take() {
                Some((key, at)) => {
                    if node.value == Value::Null {
                        node.at = at;
                    }
                    entries.push(Entry {
                        key,
                        at,
                        node,
                        first: None,
                    });
                }
                None => match node.value {
                    Value::Text(text) => *key = Some((text, node.at)),
                    Value::Null | Value::List(_) | Value::Map(_) => return Err(not_a_key(node.at)),
                },
            },
        }
        Ok(())
    }
}

fn note_repetitions(entries: &mut [Entry<'_>]) {
    if entries.len() <= FEW_KEYS {
        for index in 1..entries.len() {
            let (before, rest) = entries.split_at_mut(index);
            if let Some(entry) = rest.first_mut() {
                entry.first = before.iter().find(|b| b.key == entry.key).map(|b| b.at);
            }
        }
        return;
    }
    let mut seen = HashMap::with_capacity(entries.len());
    for entry in entries {
        match seen.get(&entry.key) {
            Some(first) => entry.first = Some(*first),
            None => {
                seen.insert(entry.key.clone(), entry.at);
            }
        }
    }
}

/// Whether a core tag such as `!!str` was written; any other tag is refused.
fn check_tag(tag: Option<&Tag>, at: Position) -> Result<bool, Flaw> {
    match tag {
        None => Ok(false),
        Some(tag) if tag.core_suffix().is_some() => Ok(true),
        Some(_) => Err(flaw(
            at,
            "tag",
            "a YAML tag (`!name`) means nothing here".to_owned(),
            Some("remove the tag"),
        )),
    }
}

fn not_a_key(at: Position) -> Flaw {
    flaw(
        at,
        "invalid_key",
        "a key is a text, but this one is empty, a list or a mapping".to_owned(),
        None,
    )
}

const fn flaw(
    at: Position,
    code: &'static str,
    message: String,
    hint: Option<&'static str>,
) -> Flaw {
    Flaw {
        at,
        code,
        message,
        hint,
    }
}

/// The parser counts lines from 1 and columns from 0.
const fn position(line: usize, column: usize) -> Position {
    Position {
        line,
        column: column + 1,
    }
}
