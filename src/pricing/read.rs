//! Reads a mapping of the tree by key: text, bool, number, duration, list, section.
//!
//! Every reader answers `None` for what is not there and for what cannot be understood; the second
//! leaves an error behind, and whoever asked closes a route or refuses the document because of the
//! error, not because of the `None`. So a reader can go on and find the next problem too.
//!
//! A key without a value counts as absent where it is read as text, as in the predecessor; lists,
//! sections and file names must be written or left away, because "nobody" and "not said" differ.

use super::findings::{Findings, Place, Position};
use super::keys::{Known, Meaning, nearest};
use super::tree::{Entry, Node, Value};
use crate::offer::quoted;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A mapping being read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section<'s> {
    /// Where it begins.
    pub(super) at: Position,
    /// The way to it.
    pub(super) place: &'s Place<'s>,
    entries: &'s [Entry<'s>],
}

/// A text and where it was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'s> {
    /// The text as written.
    pub(super) text: &'s str,
    /// Where it begins.
    pub(super) at: Position,
    /// The way to it.
    pub(super) place: Place<'s>,
}

impl<'s> Section<'s> {
    /// The mapping at a node; anything else is an error that names what was expected.
    pub(super) fn new(
        node: &'s Node<'s>,
        place: &'s Place<'s>,
        expected: &str,
        findings: &mut Findings,
    ) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            let found = node.value.kind();
            findings.error(
                node.at,
                *place,
                "invalid_type",
                format!("found {found}: write {expected}"),
            );
            return None;
        };
        Some(Self {
            at: node.at,
            place,
            entries,
        })
    }

    /// All keys with their values, in order.
    pub(super) const fn entries(&self) -> &'s [Entry<'s>] {
        self.entries
    }

    /// The value of a key, whatever it is.
    pub(super) fn node(&self, key: &str) -> Option<&'s Node<'s>> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The value of a key as it was written, if it is there and not null.
    pub(super) fn value(&self, key: &str) -> Option<&'s Node<'s>> {
        self.node(key).filter(|node| node.value != Value::Null)
    }

    /// Whether a key has a value that asks for something.
    pub(super) fn sets(&self, key: &str) -> bool {
        self.node(key).is_some_and(is_set)
    }

    /// Where the value of a key is; this section if it is not there.
    pub(super) fn at(&self, key: &str) -> Position {
        self.node(key).map_or(self.at, |node| node.at)
    }

    /// Reports repeated keys, keys that mean nothing, and keys that this version does not use.
    pub(super) fn check_keys(&self, known: &[Known], findings: &mut Findings) {
        for entry in self.entries {
            let place = self.place.key(&entry.key);
            if let Some(first) = entry.first {
                findings.error(
                    entry.at,
                    place,
                    "duplicate_key",
                    format!(
                        "key {} is written twice, first at line {}: remove one",
                        quoted(&entry.key),
                        first.line
                    ),
                );
                continue;
            }
            match known.iter().find(|k| k.name == entry.key) {
                Some(Known {
                    meaning: Meaning::Read | Meaning::Silent,
                    ..
                }) => {}
                Some(Known {
                    meaning: Meaning::Unused(instead),
                    ..
                }) => {
                    if is_set(&entry.node) {
                        findings.warn(
                            entry.at,
                            place,
                            "unused_key",
                            format!("{} is not used by this version: {instead}", entry.key),
                        );
                    }
                }
                None => {
                    findings.warn(
                        entry.at,
                        place,
                        "unknown_key",
                        format!("unknown key {}", quoted(&entry.key)),
                    );
                    if let Some(hint) = nearest(&entry.key, known) {
                        findings.hint(hint);
                    }
                }
            }
        }
    }

    /// The text of a key; `None` when absent or null.
    pub(super) fn text(&self, key: &'s str, findings: &mut Findings) -> Option<Text<'s>> {
        let node = self.value(key)?;
        text_of(node, self.place.key(key), findings)
    }

    /// The text of a key where empty means absent, as in the predecessor.
    pub(super) fn filled(&self, key: &'s str, findings: &mut Findings) -> Option<Text<'s>> {
        self.text(key, findings)
            .filter(|text| !text.text.is_empty())
    }

    /// The text of a key that must have one if it is there at all.
    pub(super) fn required_text(&self, key: &'s str, findings: &mut Findings) -> Option<Text<'s>> {
        let node = self.node(key)?;
        let place = self.place.key(key);
        let text = match &node.value {
            Value::Null => None,
            Value::Text(_) | Value::List(_) | Value::Map(_) => {
                Some(text_of(node, place, findings)?)
            }
        };
        if text.is_none_or(|text| text.text.is_empty()) {
            findings.error(
                node.at,
                place,
                "missing_value",
                format!("{key} has no value: write one, or remove the key"),
            );
            return None;
        }
        text
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &'s str, findings: &mut Findings) -> Option<bool> {
        let text = self.text(key, findings)?;
        match text.text {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            other => {
                text.error(
                    findings,
                    "invalid_bool",
                    format!("{key} is {}: write true or false", quoted(other)),
                );
                None
            }
        }
    }

    /// A whole number within bounds.
    pub(super) fn number(
        &self,
        key: &'s str,
        bounds: RangeInclusive<u64>,
        findings: &mut Findings,
    ) -> Option<u64> {
        let text = self.text(key, findings)?;
        let number = text
            .text
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.text.parse::<u64>().ok())
            .flatten()
            .filter(|number| bounds.contains(number));
        if number.is_none() {
            text.error(
                findings,
                "invalid_number",
                format!(
                    "{key} is {}: write a whole number from {} to {}",
                    quoted(text.text),
                    bounds.start(),
                    bounds.end()
                ),
            );
        }
        number
    }

    /// A duration (`90s`, `1h30m`) within bounds.
    pub(super) fn duration(
        &self,
        key: &'s str,
        bounds: RangeInclusive<Duration>,
        findings: &mut Findings,
    ) -> Option<Duration> {
        let text = self.text(key, findings)?;
        let Some(duration) = parse_duration(text.text) else {
            text.error(
                findings,
                "invalid_duration",
                format!(
                    "{key} is {}: write a duration with its unit, such as \"90s\", \"10m\" or \
                     \"1h30m\"",
                    quoted(text.text)
                ),
            );
            return None;
        };
        if !bounds.contains(&duration) {
            text.error(
                findings,
                "invalid_duration",
                format!(
                    "{key} is {}: write a duration from {:?} to {:?}",
                    quoted(text.text),
                    bounds.start(),
                    bounds.end()
                ),
            );
            return None;
        }
        Some(duration)
    }

    /// One word of a closed list.
    pub(super) fn word<T: Copy>(
        &self,
        key: &'s str,
        words: &[(&str, T)],
        code: &'static str,
        findings: &mut Findings,
    ) -> Option<T> {
        let text = self.text(key, findings)?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text.text) {
            return Some(*meaning);
        }
        let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        text.error(
            findings,
            code,
            format!(
                "{key} is {}: write {}",
                quoted(text.text),
                allowed.join(" or ")
            ),
        );
        None
    }

    /// The items of a list that must be one if it is there at all.
    pub(super) fn list(&self, key: &'s str, findings: &mut Findings) -> Option<&'s [Node<'s>]> {
        let node = self.node(key)?;
        let Value::List(items) = &node.value else {
            findings.error(
                node.at,
                self.place.key(key),
                "invalid_type",
                format!(
                    "{key} is {}: write a list, `[]` for an empty one, or remove the key",
                    node.value.kind()
                ),
            );
            return None;
        };
        Some(items)
    }

    fn entry(&self, key: &str) -> Option<&'s Entry<'s>> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}

impl Text<'_> {
    /// Something wrong with this text.
    pub(super) fn error(&self, findings: &mut Findings, code: &'static str, message: String) {
        findings.error(self.at, self.place, code, message);
    }

    /// Something worth knowing about this text.
    pub(super) fn warn(&self, findings: &mut Findings, code: &'static str, message: String) {
        findings.warn(self.at, self.place, code, message);
    }
}

/// The text at a node; anything else is an error.
pub(super) fn text_of<'s>(
    node: &'s Node<'s>,
    place: Place<'s>,
    findings: &mut Findings,
) -> Option<Text<'s>> {
    let Value::Text(text) = &node.value else {
        let found = node.value.kind();
        findings.error(
            node.at,
            place,
            "invalid_type",
            format!("found {found}: write a single value"),
        );
        return None;
    };
    Some(Text {
        text,
        at: node.at,
        place,
    })
}

/// Whether ignoring this value could surprise: everything but nothing, `false` and empty ones.
fn is_set(node: &Node<'_>) -> bool {
    match &node.value {
        Value::Null => false,
        Value::Text(text) => !matches!(&**text, "" | "false" | "False" | "FALSE" | "0"),
        Value::List(items) => !items.is_empty(),
        Value::Map(entries) => {
            !entries.is_empty()
                && !entries
                    .iter()
                    .any(|entry| entry.key == "enabled" && !is_set(&entry.node))
        }
    }
}

/// `1h30m` and the like: whole numbers with units, each unit at most once, largest first.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    let mut rest = text;
    let mut total: u64 = 0;
    let mut smallest = None;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at_checked(digits)?;
        let letters = tail.bytes().take_while(|b| !b.is_ascii_digit()).count();
        let (unit, tail) = tail.split_at_checked(letters)?;
        let index = UNITS.iter().position(|(name, _)| *name == unit)?;
        if smallest.is_some_and(|smallest| index <= smallest) {
            return None;
        }
        smallest = Some(index);
        let (_, milliseconds) = UNITS.get(index)?;
        let part = number.parse::<u64>().ok()?.checked_mul(*milliseconds)?;
        total = total.checked_add(part)?;
        rest = tail;
    }
    smallest.map(|_| Duration::from_millis(total))
}
