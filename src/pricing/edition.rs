//! Everything that was made of one text, in the pieces of which the next text's is made.
//!
//! [`whole`] reads a text. [`Edition::follow`] reads the next one by its difference
//! (`difference.rs`): settings and changed routes from the abridged text, everything else as it
//! was. The result is that of [`whole`], exactly: the same settings, offers, places and findings.
//! Whatever is in the way of that (another value that routes inherit, anything that refuses the
//! document, findings that name a line that moved, more of them than are kept) makes `follow`
//! give up before it has changed anything, and the text is read as a whole.
//!
//! Routes keep their `Arc` as long as they are the same, also when the text was read as a whole:
//! the table keeps what it made of them.

use super::asked::Asked;
use super::assets::Assets;
use super::difference::{Abridged, Layout, number};
use super::findings::{Findings, MAX_WARNINGS, Place, Position};
use super::offers::{self, Item, Slots};
use super::read::Section;
use super::routes::{Made, Reader};
use super::settings::{self, Defaults, Files};
use super::tree::{self, MAX_NODES, Node, Tree, Value};
use super::{Document, Finding, MAX_BYTES, Settings, Unusable};
use crate::offer::Offer;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Most routes of one file.
const MAX_ROUTES: usize = 250_000;

/// What was made of a text.
#[derive(Debug)]
pub(super) struct Edition {
    defaults: Defaults,
    /// Where its routes are written; `None` when the next text must be read as a whole.
    layout: Option<Layout>,
    items: Vec<Item>,
    /// The offers, by slot.
    offers: Vec<Arc<Offer>>,
    /// What was found in the items, in their order; nothing without a layout.
    notes: Vec<Note>,
    asked: Asked,
    assets: Assets,
    /// Routes with problems.
    misconfigured: usize,
    /// No fewer than the values and keys of the text.
    nodes: usize,
}

/// Something found in an item.
#[derive(Debug)]
struct Note {
    item: usize,
    finding: Finding,
}

/// Where a document is and what it is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Home<'h> {
    /// Names it in findings and places.
    pub(super) file: &'h Arc<str>,
    /// Resolves the names of files in it.
    pub(super) directory: &'h Path,
}

impl<'h> Home<'h> {
    const fn files(self) -> Files<'h> {
        Files {
            directory: self.directory,
            asked: Vec::new(),
        }
    }
}

impl Edition {
    /// Reads the next text by its difference from `old`, which this was made of. `None` when that
    /// cannot be told, and then nothing has changed.
    pub(super) fn follow(&mut self, old: &str, new: &str, home: Home<'_>) -> Option<Document> {
        if new.len() > MAX_BYTES {
            return None;
        }
        let layout = self.layout.as_ref()?;
        let abridged = layout.abridge(old, new)?;
        let tree = tree::parse_abridged(&abridged.text, abridged.lines).ok()?;
        let nodes = self.nodes.checked_add(tree.nodes)?;
        let mut findings = Findings::default();
        let mut files = home.files();
        let root = root(&tree, &mut findings)?;
        let (settings, defaults) = settings::read(&root, &mut files, &mut findings);
        let list = root.value("routes")?;
        let Value::List(items) = &list.value else {
            return None;
        };
        if nodes > MAX_NODES || !is_usual(&tree) || defaults != self.defaults {
            return None;
        }
        let lines: Vec<usize> = items.iter().map(|item| item.at.line).collect();
        let spots = layout.confirm(&abridged, new, &lines)?;

        let mark = findings.mark();
        let mut reader = Reader {
            defaults: &self.defaults,
            assets: &mut self.assets,
            asked: &mut self.asked,
        };
        let place = root.place.key("routes");
        let mut made = Vec::with_capacity(spots.len());
        let mut notes = Vec::new();
        for (item, node) in (abridged.replaced.start..).zip(items.iter().take(spots.len())) {
            let begin = findings.mark();
            made.push(route(&mut reader, node, place.item(item), &mut findings)?);
            let found = findings.take_since(begin).into_iter();
            notes.extend(found.map(|finding| Note { item, finding }));
        }
        let items = self.items.len() + made.len() - abridged.replaced.len();
        let found = mark + notes.len() + self.notes.len();
        let end = abridged.replaced.end;
        let moves = |note: &Note| note.item >= end && !abridged.moved.keeps_lines();
        if findings.refused()
            || items > MAX_ROUTES
            || found >= MAX_WARNINGS
            || self
                .notes
                .iter()
                .any(|note| moves(note) && names_a_line(&note.finding))
        {
            return None;
        }
        self.replace_notes(&abridged, made.len(), notes);
        self.replace_items(&abridged, made, home.file);
        if let Some(layout) = &mut self.layout {
            layout.splice(&abridged, spots);
        }
        self.nodes = nodes;
        findings.add(self.notes.iter().map(|note| note.finding.clone()));
        Some(self.document(settings, root.at, findings, files))
    }

    fn replace_notes(&mut self, abridged: &Abridged, made: usize, notes: Vec<Note>) {
        let Range { start, end } = abridged.replaced;
        let from = self.notes.partition_point(|note| note.item < start);
        let until = self.notes.partition_point(|note| note.item < end);
        for Note { item, finding } in self.notes.iter_mut().skip(until) {
            *item = *item - (end - start) + made;
            let line = u32::try_from(finding.line).ok();
            if let Some(line) = line.and_then(|line| abridged.moved.line(line)) {
                finding.line = number(line);
            }
            if made != end - start
                && let Some((_, rest)) = finding.path.split_once(']')
            {
                finding.path = format!("{}{rest}", Place::ROOT.key("routes").item(*item));
            }
        }
        self.notes.splice(from..until, notes);
    }

    fn replace_items(&mut self, abridged: &Abridged, made: Vec<Made>, file: &Arc<str>) {
        let Range { start, end } = abridged.replaced;
        let mut slots = Slots::new(std::mem::take(&mut self.offers));
        let replaced = self.items.get(start..end).unwrap_or_default();
        for item in replaced {
            slots.touch(item.slot);
            self.asked.remove(item);
            self.misconfigured -= usize::from(is_misconfigured(item));
        }
        let mut items: Vec<Item> = made
            .into_iter()
            .map(|made| item(made, &mut slots))
            .collect();
        keep_routes(&mut items, replaced);
        for item in &items {
            self.asked.add(item);
            self.misconfigured += usize::from(is_misconfigured(item));
        }
        if !abridged.moved.keeps_lines() {
            for item in self.items.iter_mut().skip(end) {
                // What moved is within the new text, whose lines are bounded.
                item.line = abridged.moved.line(item.line).unwrap_or(item.line);
                slots.touch(item.slot);
            }
        }
        self.items.splice(start..end, items);
        self.offers = slots.gather(&mut self.items, file);
    }

    /// The document, from its settings, what was found in it, and everything of this edition.
    fn document(
        &mut self,
        mut settings: Settings,
        root: Position,
        mut findings: Findings,
        files: Files<'_>,
    ) -> Document {
        self.asked.settle(&mut settings);
        note_default(&self.asked, &self.defaults, root, &mut findings);
        let (findings, _) = findings.finish();
        Document {
            settings,
            offers: self.offers.clone(),
            routes: self.items.len(),
            misconfigured: self.misconfigured,
            findings,
            files: files.asked,
        }
    }
}

/// Reads a text as a whole; routes and offers of `before` that are in it too are handed out again.
pub(super) fn whole(
    text: &str,
    home: Home<'_>,
    before: Option<&Edition>,
) -> Result<(Document, Edition), Unusable> {
    let mut findings = Findings::default();
    let mut files = home.files();
    let read = read(text, home, before, &mut files, &mut findings);
    match read {
        Some((settings, root, mut edition)) if !findings.refused() => {
            let document = edition.document(settings, root, findings, files);
            Ok((document, edition))
        }
        _ => Err(Unusable {
            findings: findings.finish().0,
            files: files.asked,
        }),
    }
}

fn read(
    text: &str,
    home: Home<'_>,
    before: Option<&Edition>,
    files: &mut Files<'_>,
    findings: &mut Findings,
) -> Option<(Settings, Position, Edition)> {
    let bare = text.strip_prefix('\u{feff}').unwrap_or(text);
    let tree = match tree::parse(bare) {
        Ok(tree) => tree,
        Err(flaw) => {
            findings.error(flaw.at, Place::ROOT, flaw.code, flaw.message);
            if let Some(hint) = flaw.hint {
                findings.hint(hint);
            }
            return None;
        }
    };
    let root = root(&tree, findings)?;
    let (settings, defaults) = settings::read(&root, files, findings);
    let nodes = list(&root, findings)?;
    let mut assets = Assets::default();
    let mut asked = Asked::default();
    let mut reader = Reader {
        defaults: &defaults,
        assets: &mut assets,
        asked: &mut asked,
    };
    let mut slots = Slots::new(Vec::new());
    let mut items = Vec::with_capacity(nodes.len());
    let mut found = Vec::new();
    let place = root.place.key("routes");
    for (index, node) in nodes.iter().enumerate() {
        let mark = findings.mark();
        let made = route(&mut reader, node, place.item(index), findings);
        items.extend(made.map(|made| item(made, &mut slots)));
        if findings.mark() > mark {
            found.push((index, mark..findings.mark()));
        }
    }
    items.iter().for_each(|item| asked.add(item));
    if findings.refused() {
        note_default(&asked, &defaults, root.at, findings);
        return None;
    }
    if let Some(before) = before {
        keep_routes(&mut items, &before.items);
    }
    let mut offers = slots.gather(&mut items, home.file);
    if let Some(before) = before {
        offers::keep(&mut offers, &before.offers);
    }
    let usual = bare.len() == text.len() && is_usual(&tree) && findings.mark() < MAX_WARNINGS;
    let key = root.entries().iter().find(|entry| entry.key == "routes");
    let layout = key.filter(|_| usual).and_then(|key| {
        let values = nodes.iter().map(|node| node.at.line);
        Layout::of(text, key.at.line, values)
    });
    let notes = found
        .into_iter()
        .filter(|_| layout.is_some())
        .flat_map(|(item, marks)| {
            let found = findings.noticed(marks).iter().cloned();
            found.map(move |finding| Note { item, finding })
        })
        .collect();
    let edition = Edition {
        layout,
        misconfigured: items.iter().filter(|item| is_misconfigured(item)).count(),
        items,
        offers,
        notes,
        asked,
        assets,
        nodes: tree.nodes,
        defaults,
    };
    Some((settings, root.at, edition))
}

/// Says where payments go when nobody said it.
fn note_default(asked: &Asked, defaults: &Defaults, root: Position, findings: &mut Findings) {
    if asked.assumes(defaults) {
        findings.warn(
            root,
            Place::ROOT.key("facilitatorURL"),
            "default_facilitator",
            format!(
                "no facilitatorURL is named, so payments go to {}",
                defaults.facilitator
            ),
        );
    }
}

/// The keys of the document.
fn root<'s>(tree: &'s Tree<'s>, findings: &mut Findings) -> Option<Section<'s>> {
    let expected = "a mapping of keys such as `routes`";
    Section::new(&tree.root, &Place::ROOT, expected, findings)
}

/// Whether the keys of the document begin their lines.
const fn is_usual(tree: &Tree<'_>) -> bool {
    tree.root.at.column == 1
}

/// The items of `routes`; `None` after the document was refused for it.
fn list<'s>(root: &Section<'s>, findings: &mut Findings) -> Option<&'s [Node<'s>]> {
    let mark = findings.mark();
    let items = match root.value("routes") {
        Some(_) => root.list("routes", findings).unwrap_or_default(),
        None => &[],
    };
    if items.len() > MAX_ROUTES {
        findings.error(
            root.at("routes"),
            root.place.key("routes"),
            "too_many",
            format!("{} routes are more than {MAX_ROUTES}", items.len()),
        );
    }
    if findings.any_error_since(mark) {
        findings.refuse();
        return None;
    }
    Some(items)
}

/// The route at a node; `None` after the document was refused for it.
fn route(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    place: Place<'_>,
    findings: &mut Findings,
) -> Option<Made> {
    match Section::new(node, &place, "a mapping with a pattern", findings) {
        Some(section) => reader.route(&section, findings),
        None => {
            findings.refuse();
            None
        }
    }
}

fn item(made: Made, slots: &mut Slots) -> Item {
    Item {
        route: Arc::new(made.route),
        slot: slots.named(made.offer),
        // A text has far less than 2^32 bytes.
        line: u32::try_from(made.at.line).unwrap_or(u32::MAX),
        column: u32::try_from(made.at.column).unwrap_or(u32::MAX),
        asks: made.asks,
    }
}

fn is_misconfigured(item: &Item) -> bool {
    !item.route.problems.is_empty()
}

/// Whether a finding says in its words where something else is.
fn names_a_line(finding: &Finding) -> bool {
    finding.code == "duplicate_key"
}

/// Hands out the routes of before where they are the same: from the beginning, from the end, and
/// what is between by pattern.
fn keep_routes(items: &mut [Item], before: &[Item]) {
    let keep = |(item, old): (&mut Item, &Item)| {
        let same = *item.route == *old.route;
        if same {
            item.route = Arc::clone(&old.route);
        }
        same
    };
    let forth = items.iter_mut().zip(before).map(keep);
    let first = forth.take_while(|same| *same).count();
    let (Some(items), Some(before)) = (items.get_mut(first..), before.get(first..)) else {
        return;
    };
    let back = items.iter_mut().rev().zip(before.iter().rev()).map(keep);
    let last = back.take_while(|same| *same).count();
    let (items_left, before_left) = (items.len() - last, before.len() - last);
    let old: HashMap<&str, &Item> = before
        .iter()
        .take(before_left)
        .map(|item| (&*item.route.pattern, item))
        .collect();
    for item in items.iter_mut().take(items_left) {
        if let Some(old) = old.get(&*item.route.pattern) {
            keep((item, old));
        }
    }
}
