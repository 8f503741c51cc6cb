//! Where a text differs from the one before, and the new text without the items that are the same.
//!
//! The routes of a large document are a block list, one `-` below the other, and an edit changes a
//! few of them. At the `-` of an item the parser knows nothing but "in this list, at this column":
//! no quote, bracket or block scalar is open there, or the item would not begin. So what follows a
//! `-` depends on what is before it only in whether the parser gets there. When items `i` to `j`
//! were read before and their bytes did not change, then leaving them out changes nothing for the
//! rest, if (and only if) the text without them shows item `j` as an item of that list at its
//! place. That item, the *witness*, is read in both texts. A quote that was opened above swallows
//! it or makes it something else, and then the whole text is read.
//!
//! An [`Abridged`] text leaves out at most two runs of items: one up to the item in which the first
//! difference is, one from the first whole item after the last difference to the last item of all.
//! Everything outside the list stays in, so settings are always read. What is unusual is not
//! abridged: carriage returns, directives, lists that do not begin each item on a line of its own.

use super::tree::Lines;
use std::ops::Range;

/// What is not worth leaving out.
const SMALL: usize = 64 * 1024;
/// Bytes that are compared at a time.
const CHUNK: usize = 4_096;

/// The beginning of a line; a text that is read has far less than 2^32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    /// Bytes before it.
    offset: u32,
    /// Its 1-based number.
    line: u32,
}

/// Where the items of a block list are in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// 1-based column of every `-`.
    column: usize,
    /// The line of every `-`.
    items: Vec<Spot>,
}

/// A text without some of the items that are as they were.
#[derive(Debug)]
pub(super) struct Abridged {
    /// What is left.
    pub(super) text: String,
    /// What is left out, in lines.
    pub(super) lines: Lines,
    /// The items of the old text that are not known to be the same; all others are.
    pub(super) replaced: Range<usize>,
    /// Where in the new text the items are that take their place.
    from: Spot,
    until: usize,
    /// The last item in the new text, where it is the witness of what was left out before it.
    witness: Option<Spot>,
    /// How far what is after the change moved.
    pub(super) moved: Moved,
}

/// How far a text moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moved {
    bytes: i64,
    lines: i64,
}

impl Moved {
    /// The number that a line has now.
    pub(super) fn line(self, line: u32) -> Option<u32> {
        u32::try_from(i64::from(line).checked_add(self.lines)?).ok()
    }

    /// Whether lines are where they were.
    pub(super) const fn keeps_lines(self) -> bool {
        self.lines == 0
    }

    fn spot(self, spot: Spot) -> Option<Spot> {
        Some(Spot {
            offset: u32::try_from(i64::from(spot.offset).checked_add(self.bytes)?).ok()?,
            line: self.line(spot.line)?,
        })
    }
}

impl Spot {
    const START: Self = Self { offset: 0, line: 1 };

    fn offset(self) -> usize {
        number(self.offset)
    }
}

impl Layout {
    /// The layout of the list of the key at the line `key`, whose items' values begin at these lines
    /// in ascending order; `None` for a text that is never abridged.
    pub(super) fn of(text: &str, key: usize, values: impl Iterator<Item = usize>) -> Option<Self> {
        if text.contains('\r') {
            return None;
        }
        let mut values = values.peekable();
        let column = first_column(text, key, *values.peek()?)?;
        let items = dashes(text, Spot::START, column, values)?;
        let head = text.get(..items.first()?.offset())?;
        (!has_directive(head)).then_some(Self { column, items })
    }

    /// The new text without what need not be read again; `None` when all of it must.
    pub(super) fn abridge(&self, old: &str, new: &str) -> Option<Abridged> {
        let prefix = common_prefix(old.as_bytes(), new.as_bytes());
        let most = old.len().min(new.len()) - prefix;
        let suffix = common_suffix(old.as_bytes(), new.as_bytes()).min(most);
        // A `-` is one by what follows it, so that must be the same too.
        let before = self
            .items
            .partition_point(|item| item.offset() + self.column < prefix)
            .saturating_sub(1);
        // A line is one by the end of the line before it.
        let after = self
            .items
            .partition_point(|item| item.offset() <= old.len() - suffix);

        let mut text = String::new();
        let from = match (before, self.items.first(), self.items.get(before)) {
            (1.., Some(first), Some(from)) => {
                text.push_str(new.get(..first.offset())?);
                *from
            }
            _ => Spot::START,
        };
        let mut cuts = Lines::ALL.cuts;
        let [first_cut, last_cut] = &mut cuts;
        let begin = 1 + newlines(&text);
        if before > 0 {
            *first_cut = (begin, number(from.line) - begin);
        }
        let mut moved = Moved {
            bytes: i64::try_from(new.len()).ok()? - i64::try_from(old.len()).ok()?,
            lines: 0,
        };
        let (until, witness) = match (self.items.get(after), self.items.last()) {
            (Some(same), Some(last)) => {
                let until = moved.spot(*same)?.offset();
                let changed = newlines(new.get(from.offset()..until)?);
                let line = number(from.line) + changed;
                moved.lines = i64::try_from(line).ok()? - i64::from(same.line);
                *last_cut = (begin + changed, number(last.line - same.line));
                (until, Some(moved.spot(*last)?))
            }
            _ => (new.len(), None),
        };
        text.push_str(new.get(from.offset()..until)?);
        if let Some(witness) = witness {
            text.push_str(new.get(witness.offset()..)?);
        }
        if text.len() == new.len() || (text.len() > SMALL && text.len() > new.len() / 2) {
            return None;
        }
        if text.contains('\r') || has_directive(&text) {
            return None;
        }
        Some(Abridged {
            text,
            lines: Lines { cuts },
            replaced: before..after,
            from,
            until,
            witness,
            moved,
        })
    }

    /// Where the items are that take the place of [`Abridged::replaced`], if the abridged text was
    /// read as it must for the whole to be read so: a list whose items' values begin at these lines
    /// of the whole.
    pub(super) fn confirm(
        &self,
        abridged: &Abridged,
        new: &str,
        values: &[usize],
    ) -> Option<Vec<Spot>> {
        let values = match abridged.witness {
            Some(spot) => {
                let (value, values) = values.split_last()?;
                let text = new.get(spot.offset()..)?;
                let found = dashes(text, spot, self.column, std::iter::once(*value))?;
                if found != [spot] {
                    return None;
                }
                values
            }
            None => values,
        };
        let text = new.get(abridged.from.offset()..abridged.until)?;
        let items = dashes(text, abridged.from, self.column, values.iter().copied())?;
        let met = abridged.replaced.start == 0 || items.first() == Some(&abridged.from);
        met.then_some(items)
    }

    /// Makes this the layout of the new text.
    pub(super) fn splice(&mut self, abridged: &Abridged, items: Vec<Spot>) {
        let Range { start, end } = abridged.replaced;
        for item in self.items.iter_mut().skip(end) {
            // What moved is within the new text, whose size is bounded.
            *item = abridged.moved.spot(*item).unwrap_or(*item);
        }
        self.items.splice(start..end, items);
    }
}

/// The lines on which the items begin whose values begin at the lines `values`: each the last `-`
/// at that column before its value. Between the two are only comments and the like. `None` when an
/// item does not begin on a line of its own.
fn dashes(
    text: &str,
    begin: Spot,
    column: usize,
    values: impl Iterator<Item = usize>,
) -> Option<Vec<Spot>> {
    let mut found = Vec::with_capacity(values.size_hint().0);
    let mut lines = text.split_inclusive('\n');
    let mut next = begin;
    let mut dash = None;
    for value in values {
        while number(next.line) <= value {
            let line = lines.next()?;
            if is_item(line, column) {
                dash = Some(next);
            }
            next = Spot {
                offset: next.offset.checked_add(u32::try_from(line.len()).ok()?)?,
                line: next.line.checked_add(1)?,
            };
        }
        found.push(dash.take()?);
    }
    Some(found)
}

/// The column of the last `-` that begins a line behind that of a key, up to that of a value.
fn first_column(text: &str, key: usize, value: usize) -> Option<usize> {
    let lines = text.split_inclusive('\n').take(value).skip(key);
    let indents = lines.filter_map(|line| {
        let indent = line.bytes().take_while(|byte| *byte == b' ').count();
        is_item(line, indent + 1).then_some(indent + 1)
    });
    indents.last()
}

/// Whether a line begins with a `-` at that column, as an item of a list does.
fn is_item(line: &str, column: usize) -> bool {
    let mut bytes = line.bytes();
    let indented = column > 0 && bytes.by_ref().take(column - 1).all(|byte| byte == b' ');
    indented && bytes.next() == Some(b'-') && matches!(bytes.next(), Some(b' ' | b'\n'))
}

/// Directives change what follows them.
fn has_directive(text: &str) -> bool {
    text.starts_with('%') || text.contains("\n%")
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

/// A line, column or place, which are kept in 32 bits.
pub(super) fn number(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn common_prefix(one: &[u8], other: &[u8]) -> usize {
    let chunks = one.chunks_exact(CHUNK).zip(other.chunks_exact(CHUNK));
    let same = CHUNK * chunks.take_while(|(one, other)| one == other).count();
    let ends = one.iter().skip(same).zip(other.iter().skip(same));
    same + ends.take_while(|(one, other)| one == other).count()
}

fn common_suffix(one: &[u8], other: &[u8]) -> usize {
    let chunks = one.rchunks_exact(CHUNK).zip(other.rchunks_exact(CHUNK));
    let same = CHUNK * chunks.take_while(|(one, other)| one == other).count();
    let ends = one
        .iter()
        .rev()
        .skip(same)
        .zip(other.iter().rev().skip(same));
    same + ends.take_while(|(one, other)| one == other).count()
}
