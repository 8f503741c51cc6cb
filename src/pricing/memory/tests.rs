//! A text that is read by its difference becomes what it becomes when it is read as a whole.

use super::*;
use crate::offer::Route;
use crate::pricing::parse;
use proptest::prelude::*;
use secrecy::ExposeSecret;

const DIRECTORY: &str = "/nonexistent";

fn memory() -> Memory {
    Memory::new("pricing.yaml", Path::new(DIRECTORY))
}

/// Everything in a result, credentials included.
fn shown(result: &Result<Document, Unusable>) -> String {
    let auths: Vec<_> = result
        .iter()
        .flat_map(|document| &document.offers)
        .flat_map(|offer| &offer.routes)
        .filter_map(|route| route.upstream_auth.as_ref())
        .map(|auth| auth.expose_secret().to_owned())
        .collect();
    format!("{result:#?}\n{auths:?}")
}

fn as_a_whole(text: &str) -> String {
    shown(&parse(text, "pricing.yaml", Path::new(DIRECTORY)))
}

/// Reads the next text; whether by its difference.
fn follows(memory: &mut Memory, text: &str) -> bool {
    let before = memory.followed;
    let read = shown(&memory.read(text.to_owned()));
    assert_eq!(read, as_a_whole(text), "{text}");
    memory.followed > before
}

fn routes(document: &Document) -> Vec<&Arc<Route>> {
    let routes = document.offers.iter().flat_map(|offer| &offer.routes);
    routes.map(|declared| &declared.route).collect()
}

const BEFORE: &str = "\
chain: base-sepolia
wallet: \"0x1111111111111111111111111111111111111111\"
facilitatorURL: https://f.example
routes:
# the first
- {pattern: /a, price: \"0.1\", offerNamespace: shop, offerName: a}
- {pattern: /b, price: \"0.2\", offerNamespace: shop, offerName: b, unknown: 1}
- pattern: /c
  price: \"0.3\"
  description: |
    - {pattern: /none}

- {pattern: /d, price: wrong, facilitatorURL: \"https://g.example\"}
- {pattern: /e, gate: free}
# the last
unmatched: deny
";

/// Replacements in [`BEFORE`]; whether the result is read by its difference.
const EDITS: &[(&str, &str, bool)] = &[
    ("0.1", "0.4", true),
    ("0.3", "0.35", true),
    ("/none", "/some", true),
    ("gate: free", "gate: paid", true),
    ("# the first\n", "", true),
    ("# the first\n", "- {pattern: /0, price: 1}\n", true),
    ("- {pattern: /e, gate: free}\n", "", true),
    ("offerName: b", "offerName: a", true),
    ("https://g.example", "https://h.example", true),
    ("# the last\n", "- {pattern: /f, gate: free}\n", true),
    ("  description: |\n", "  description: |\n    more\n", true),
    ("unmatched: deny", "unmatched: allow", true),
    ("unmatched: deny\n", "", true),
    (
        "chain: base-sepolia\n",
        "chain: base-sepolia\nserviceName: shop\n",
        true,
    ),
    (
        "chain: base-sepolia\n",
        "# chain\n\nchain: base-sepolia\n",
        true,
    ),
    // What routes inherit.
    ("base-sepolia", "base", false),
    ("0x1111", "0x2222", false),
    ("https://f.example", "https://i.example", false),
    // What the next items are part of, or no more.
    ("/a,", "\"/a,", false),
    ("\"0.1\"", "[\"0.1\"", false),
    ("  description: |", "  description: \"", false),
    ("- pattern: /c", "  pattern: /c", false),
    ("routes:", "limits:", false),
    ("routes:\n", "routes:\nlimits:\n", false),
    ("# the first", "...", false),
    ("# the last", "---", false),
    // What is never read by its difference.
    ("# the first\n", "# the first\r\n", false),
    (
        "chain: base-sepolia",
        "%TAG !! tag:example.org,2000:\n---\nchain: base-sepolia",
        false,
    ),
];

#[test]
fn an_edit_is_read_by_its_difference_where_that_is_safe() {
    for (from, to, followed) in EDITS {
        let after = BEFORE.replacen(from, to, 1);
        assert_ne!(after, BEFORE);
        let mut memory = memory();
        assert!(!follows(&mut memory, BEFORE));
        assert_eq!(
            follows(&mut memory, &after),
            *followed,
            "{from:?} to {to:?}"
        );
        // A text that is refused is forgotten, so the way back is by difference from the last.
        follows(&mut memory, BEFORE);
    }
}

#[test]
fn a_file_that_is_put_right_is_read_by_its_difference_from_the_last_usable_one() {
    let mut memory = memory();
    follows(&mut memory, BEFORE);
    assert!(!follows(&mut memory, &BEFORE.replacen("/a,", "\"/a,", 1)));
    assert_eq!(memory.text(), Some(BEFORE));
    assert!(follows(&mut memory, &BEFORE.replacen("0.1", "0.2", 1)));
}

#[test]
fn unchanged_routes_and_offers_are_the_same() {
    let mut memory = memory();
    let first = memory.read(BEFORE.to_owned()).expect("usable");
    // Nothing moves: only the offer of the route is another.
    let changed = BEFORE.replacen("0.2", "0.5", 1);
    let second = memory.read(changed.clone()).expect("usable");
    let same = |one: &Document, other: &Document| -> Vec<bool> {
        let pairs = one.offers.iter().zip(&other.offers);
        pairs.map(|(one, other)| Arc::ptr_eq(one, other)).collect()
    };
    assert_eq!(same(&first, &second), [true, false, true]);
    // Everything moves: offers know their places, routes do not.
    let moved = memory.read(format!("# moved\n{changed}")).expect("usable");
    assert_eq!(same(&second, &moved), [false, false, false]);
    let both = routes(&second).into_iter().zip(routes(&moved));
    assert!(both.clone().count() == 5 && both.clone().all(|(one, other)| Arc::ptr_eq(one, other)));
    // Read as a whole: what is the same stays the same, whatever its order.
    let text = changed.replace('\n', "\r\n");
    let followed = memory.followed;
    let whole = memory.read(text).expect("usable");
    assert_eq!(memory.followed, followed);
    assert_eq!(same(&second, &whole), [false, false, false], "moved back");
    let lines = changed.replacen("# the first\n", "", 1).replacen(
        "- {pattern: /e, gate: free}\n",
        "- {pattern: /e, gate: free}\n- {pattern: /e2, gate: free}\n",
        1,
    );
    let whole = memory.read(lines.replace('\n', "\r\n")).expect("usable");
    let kept = |document: &Document| -> Vec<*const Route> {
        routes(document).into_iter().map(Arc::as_ptr).collect()
    };
    let (old, new) = (kept(&second), kept(&whole));
    assert!(old.iter().all(|route| new.contains(route)));
}

#[test]
fn a_facilitator_is_in_the_settings_for_as_long_as_a_route_names_it() {
    let mut memory = memory();
    let named = |document: &Document| -> Vec<String> {
        let urls = document.settings.facilitators.keys();
        urls.map(|url| url.to_string()).collect()
    };
    let first = memory.read(BEFORE.to_owned()).expect("usable");
    assert_eq!(named(&first), ["https://f.example", "https://g.example"]);
    let text = BEFORE.replacen(", facilitatorURL: \"https://g.example\"", "", 1);
    let second = memory.read(text).expect("usable");
    assert_eq!(named(&second), ["https://f.example"]);
}

#[test]
fn r13_a_memory_shows_nothing_of_the_text() {
    let mut memory = memory();
    let text = "trustedProxies: [10.0.0.1]\nroutes:\n- {pattern: /a, gate: free, upstreamAuth: Bearer abc}\n";
    memory.read(text.to_owned()).expect("usable");
    let shown = format!("{memory:?}");
    assert!(!shown.contains("abc") && !shown.contains("/a"), "{shown}");
}

/// Lines of a document outside its routes.
const SETTINGS: &[&str] = &[
    "chain: base-sepolia",
    "wallet: \"0x1111111111111111111111111111111111111111\"",
    "facilitatorURL: https://f.example",
    "unmatched: allow",
    "# settings: 1",
    "",
    "verifyOnly: true",
    "eoaOnly: true",
    "settle: after",
    "trustedProxies: [10.0.0.0/8]",
    "limits:\n  permitsPerOffer: 7",
    "pathOwners:\n- prefix: /a\n  namespaces: [a]\n- prefix: /b\n  namespaces: [b]",
    "serviceName: \"a\n  b\"",
    "description: |\n  - {pattern: /x}",
    "facilitatorHeadersFile: none",
    "unknown: 1",
    "? catalogURL\n: https://c.example",
];

/// Beginnings of the list.
const LISTS: &[&str] = &[
    "routes:",
    "routes: # all",
    "routes: &all",
    "routes: !!seq",
    "? routes\n:",
    "routes: []",
    "routes: [",
];

/// Items, `N` replaced by a number.
const ITEMS: &[&str] = &[
    "- {pattern: /aN, price: \"0.00N1\", offerNamespace: shop, offerName: oN}",
    "- {pattern: /AN, price: \"0.00N1\", offerNamespace: shop, offerName: oN, hostname: hN.example}",
    "- {pattern: /a/*, gate: free}",
    "- pattern: /bN/*\n  price: \"0.1\"\n  description: |\n    text\n    - {pattern: /x}\n",
    "- pattern: /BN/*\n  price: \"0.1\"\n  description: |+\n    text\n\n\n",
    "- pattern: /qN\n  gate: free\n  description: \"one\n    two\n    - three\"",
    "- pattern: /QN\n  gate: free\n  description: 'one\n\n    # two\n    - three'",
    "- pattern: /kN\n  gate: free\n  description: plain\n   - continued",
    "- {pattern: /fN, price: 1, facilitatorURL: \"https://fN.example\"}",
    "- {pattern: /gN, price: 1, facilitatorURL: \"https://x402.gcp.obol.tech\"}",
    "- {pattern: /dN, price: 1, price: 2}",
    "- {pattern: /eN, price: bad}",
    "- {pattern: /pN, payments: [{price: 1, price: 1}, {price: x}]}",
    "- pattern: /PN\n  payments:\n  - price: \"1\"\n  - price: \"2\"",
    "- # comment\n  pattern: /cN\n  gate: free",
    "-\n  pattern: /nN\n  gate: free",
    "-   pattern: /wN\n    gate: free",
    "# - {pattern: /no}",
    "",
    "    # far",
    "- &x {pattern: /anN, gate: free}",
    "- !!map\n  pattern: /tN\n  gate: free",
    "- {pattern: /mN,\n   gate: free}",
    "- {pattern: /lN,\n- gate: free}",
    "- {pattern: /uN, gate: free, unknown: 1}",
    "- {pattern: /sN, price: 1, upstreamAuth: Bearer N}",
    "- {pattern: /oN, gate: free, offerName: half}",
];

/// Pieces of single bytes and their like.
const PIECES: &[&str] = &[
    "\"",
    "'",
    "[",
    "]",
    "{",
    "}",
    ":",
    ": ",
    "-",
    "- ",
    "#",
    " #",
    "|",
    ">",
    "&a ",
    "*a",
    "!",
    "!!str ",
    "%",
    "\n%",
    "\t",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r",
    ",",
    "\u{feff}",
    "é",
    "\n---\n",
    "\n...\n",
    "0",
    "\n- ",
    "\\",
    "~",
    "? ",
    "\n  ",
    "a: b\n",
    "\nroutes:\n",
];

#[derive(Debug, Clone)]
enum Edit {
    Delete(usize, usize),
    Insert(usize, &'static str),
    DeleteLines(usize, usize),
    InsertLine(usize, String),
    CopyLine(usize, usize),
    MoveLine(usize, usize),
    Indent(usize, usize),
    Outdent(usize),
    Back,
}

fn item() -> impl Strategy<Value = String> {
    let item = prop_oneof![
        4 => proptest::sample::select(&ITEMS[..4]),
        3 => proptest::sample::select(ITEMS),
    ];
    (item, 0..6u8).prop_map(|(item, number): (&str, u8)| item.replace('N', &number.to_string()))
}

fn indented(text: &str, by: usize) -> String {
    let indent = " ".repeat(by);
    text.split('\n')
        .map(|line| format!("{indent}{line}\n"))
        .collect()
}

fn settings_text() -> impl Strategy<Value = String> {
    proptest::sample::subsequence(SETTINGS, 0..4)
        .prop_map(|lines| lines.into_iter().map(|line| format!("{line}\n")).collect())
}

fn document() -> impl Strategy<Value = String> {
    let list = prop_oneof![9 => Just(LISTS[0]), 1 => proptest::sample::select(LISTS)];
    let indent = prop_oneof![3 => Just(0usize), 3 => Just(2), 1 => Just(5)];
    let items = proptest::collection::vec(item(), 0..14);
    (settings_text(), list, indent, items, settings_text()).prop_map(
        |(head, list, indent, items, tail)| {
            let items: String = items.iter().map(|item| indented(item, indent)).collect();
            format!("{head}{list}\n{items}{tail}")
        },
    )
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = any::<usize>;
    prop_oneof![
        2 => (place(), 1..6usize).prop_map(|(at, count)| Edit::Delete(at, count)),
        4 => (place(), proptest::sample::select(PIECES)).prop_map(|(at, what)| Edit::Insert(at, what)),
        3 => (place(), 1..4usize).prop_map(|(at, count)| Edit::DeleteLines(at, count)),
        4 => (place(), item(), 0..3usize)
            .prop_map(|(at, item, by)| Edit::InsertLine(at, indented(&item, by * 2))),
        1 => (place(), proptest::sample::select(SETTINGS))
            .prop_map(|(at, line)| Edit::InsertLine(at, format!("{line}\n"))),
        2 => (place(), place()).prop_map(|(from, to)| Edit::CopyLine(from, to)),
        2 => (place(), place()).prop_map(|(from, to)| Edit::MoveLine(from, to)),
        1 => (place(), 1..4usize).prop_map(|(at, by)| Edit::Indent(at, by)),
        1 => place().prop_map(Edit::Outdent),
        2 => Just(Edit::Back),
    ]
}

fn edited(text: &str, last: &str, edit: &Edit) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let letter = |at: usize| at % (letters.len() + 1);
    let line = |at: usize| at % (lines.len() + 1);
    let without = |from: usize, count: usize, insert: &str| {
        let head: String = letters.iter().take(from).collect();
        let tail: String = letters.iter().skip(from + count).collect();
        format!("{head}{insert}{tail}")
    };
    match edit {
        Edit::Delete(at, count) => return without(letter(*at), *count, ""),
        Edit::Insert(at, what) => return without(letter(*at), 0, what),
        Edit::Back => return last.to_owned(),
        Edit::DeleteLines(at, count) => {
            let from = line(*at);
            lines.drain(from..(from + count).min(lines.len()));
        }
        Edit::InsertLine(at, what) => lines.insert(line(*at), what.clone()),
        Edit::CopyLine(from, to) | Edit::MoveLine(from, to) => {
            let (from, to) = (line(*from), line(*to));
            if let Some(copy) = lines.get(from).cloned() {
                lines.insert(to, copy);
                if matches!(edit, Edit::MoveLine(..)) {
                    lines.remove(if to <= from { from + 1 } else { from });
                }
            }
        }
        Edit::Indent(at, by) => {
            let at = line(*at);
            if let Some(line) = lines.get_mut(at) {
                line.insert_str(0, &" ".repeat(*by));
            }
        }
        Edit::Outdent(at) => {
            let at = line(*at);
            if let Some(line) = lines.get_mut(at) {
                *line = line.strip_prefix("  ").unwrap_or(line).to_owned();
            }
        }
    }
    lines.concat()
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    /// Every text of a chain of edits, usable or not, is what it is when it is read as a whole.
    #[test]
    fn a_text_read_by_its_difference_is_what_it_is_as_a_whole(
        first in document(),
        edits in proptest::collection::vec(edit(), 1..8),
    ) {
        let mut memory = memory();
        let mut last = first.clone();
        let mut text = first;
        follows(&mut memory, &text);
        for edit in &edits {
            let next = edited(&text, &last, edit);
            last = std::mem::replace(&mut text, next);
            follows(&mut memory, &text);
        }
    }
}
