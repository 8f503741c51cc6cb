//! JSON as this wire needs it: read strictly, written in ASCII.
//!
//! A payment is read here by us and later by a facilitator, in another language. Whatever two
//! readers may understand differently is therefore refused, not interpreted: a key that occurs
//! twice at any depth (M2), nesting beyond [`MAX_DEPTH`], trailing text. The number of keys is
//! bounded because the duplicate check compares each key of an object with the others.
//!
//! Every paid request is read here before anything else is known about it, so reading is one pass
//! over the text into one list of nodes, in the order of the text; a value is the run of nodes that
//! it and its insides take. What is rare (escapes, fractions, the wording of a syntax error) is left
//! to `serde_json`, and a property test holds the two readers to each other in both directions.
//!
//! Written text is ASCII: quotes, backslashes, control characters, `<`, `>`, `&` and everything
//! beyond ASCII become escapes. Old clients decode base64 to Latin-1, and a challenge may end up
//! inside a script element.

use serde_json::Number;
use std::borrow::Cow;
use std::fmt::Write as _;

/// Deepest nesting of objects and arrays, the outermost counted as one.
pub(super) const MAX_DEPTH: usize = 32;
/// Most keys of one object; the duplicate check is quadratic in it.
pub(super) const MAX_KEYS_OF_OBJECT: usize = 64;
/// Most keys of one document.
pub(super) const MAX_KEYS: usize = 512;
/// Room for the nodes of an ordinary payment, which has about 25.
const USUAL_NODES: usize = 32;

/// A document that borrows what it can from its text; no object in it holds a key twice.
#[derive(Debug, PartialEq)]
pub(super) struct Document<'a> {
    nodes: Vec<Node<'a>>,
}

/// A value of a document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Json<'d> {
    kind: &'d Kind<'d>,
    /// The nodes inside, for objects and arrays.
    inside: &'d [Node<'d>],
}

/// What a value is; the members of an object and the items of an array stand behind it.
#[derive(Debug, PartialEq)]
pub(super) enum Kind<'a> {
    Null,
    Bool(bool),
    Number(Number),
    String(Cow<'a, str>),
    Array,
    Object,
}

/// One value in the order of the text.
#[derive(Debug, PartialEq)]
struct Node<'a> {
    /// The key under which it stands in an object; empty elsewhere.
    key: Cow<'a, str>,
    kind: Kind<'a>,
    /// Number of nodes inside, at any depth.
    inside: usize,
}

/// Why text is not acceptable JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JsonError {
    /// No JSON; the parser's message, which never repeats the text.
    Syntax(String),
    /// This key occurs twice in one object.
    DuplicateKey(String),
    /// Deeper than [`MAX_DEPTH`].
    TooDeep,
    /// More keys than [`MAX_KEYS_OF_OBJECT`] or [`MAX_KEYS`].
    TooManyKeys,
}

/// One reading of a text.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    keys: usize,
    nodes: Vec<Node<'a>>,
}

/// Why a reading stopped.
enum Stop {
    /// The text is no JSON; words for it are found later.
    Syntax,
    Refused(JsonError),
}

impl<'a> Document<'a> {
    /// Reads a whole document.
    pub(super) fn read(text: &'a str) -> Result<Self, JsonError> {
        let mut reader = Reader {
            text,
            at: 0,
            keys: 0,
            nodes: Vec::with_capacity(USUAL_NODES),
        };
        let read = reader.value(Cow::Borrowed(""), 0).and_then(|()| {
            if reader.next_token().is_none() {
                Ok(())
            } else {
                Err(Stop::Syntax)
            }
        });
        match read {
            Ok(()) => Ok(Self {
                nodes: reader.nodes,
            }),
            Err(Stop::Refused(error)) => Err(error),
            Err(Stop::Syntax) => Err(JsonError::Syntax(syntax_error(text))),
        }
    }

    /// The outermost value.
    pub(super) fn root(&self) -> Json<'_> {
        match self.nodes.split_first() {
            Some((root, inside)) => Json {
                kind: &root.kind,
                inside,
            },
            // A document that was read has a node.
            None => Json {
                kind: &Kind::Null,
                inside: &[],
            },
        }
    }
}

/// What is wrong with a text, by position.
fn syntax_error(text: &str) -> String {
    match serde_json::from_str::<serde_json::Value>(text) {
        Err(error) => error.to_string(),
        Ok(_) => "not understood".to_owned(),
    }
}

impl<'d> Json<'d> {
    /// What it is.
    pub(super) const fn kind(self) -> &'d Kind<'d> {
        self.kind
    }

    /// The members of an object; none for what is no object.
    pub(super) fn members(self) -> impl Iterator<Item = (&'d str, Self)> {
        self.children(matches!(self.kind, Kind::Object))
    }

    /// The items of an array; none for what is no array.
    fn items(self) -> impl Iterator<Item = Self> {
        self.children(matches!(self.kind, Kind::Array))
            .map(|(_, item)| item)
    }

    fn children(self, any: bool) -> impl Iterator<Item = (&'d str, Self)> {
        let mut rest = if any { self.inside } else { &[] };
        std::iter::from_fn(move || {
            let (node, behind) = rest.split_first()?;
            let (inside, behind) = behind.split_at_checked(node.inside)?;
            rest = behind;
            let kind = &node.kind;
            Some((&*node.key, Self { kind, inside }))
        })
    }

    /// The text of a string.
    pub(super) fn as_str(self) -> Option<&'d str> {
        if let Kind::String(text) = self.kind {
            Some(text)
        } else {
            None
        }
    }

    /// The value of a non-negative integer written without fraction or exponent.
    pub(super) fn as_u64(self) -> Option<u64> {
        if let Kind::Number(number) = self.kind {
            number.as_u64()
        } else {
            None
        }
    }

    /// An owned copy.
    pub(super) fn to_value(self) -> serde_json::Value {
        match self.kind {
            Kind::Null => serde_json::Value::Null,
            Kind::Bool(value) => serde_json::Value::Bool(*value),
            Kind::Number(number) => serde_json::Value::Number(number.clone()),
            Kind::String(text) => serde_json::Value::String(text.as_ref().to_owned()),
            Kind::Array => self.items().map(Self::to_value).collect(),
            Kind::Object => self
                .members()
                .map(|(key, value)| (key.to_owned(), value.to_value()))
                .collect(),
        }
    }
}

impl<'a> Reader<'a> {
    /// Reads one value and what is inside it.
    fn value(&mut self, key: Cow<'a, str>, depth: usize) -> Result<(), Stop> {
        let kind = match self.next_token() {
            Some(b'"') => Kind::String(self.string()?),
            Some(b'{') => return self.container(key, Kind::Object, depth),
            Some(b'[') => return self.container(key, Kind::Array, depth),
            Some(b'-' | b'0'..=b'9') => Kind::Number(self.number()?),
            Some(b't') => self.literal("true", Kind::Bool(true))?,
            Some(b'f') => self.literal("false", Kind::Bool(false))?,
            Some(b'n') => self.literal("null", Kind::Null)?,
            Some(_) | None => return Err(Stop::Syntax),
        };
        self.nodes.push(Node {
            key,
            kind,
            inside: 0,
        });
        Ok(())
    }

    /// Reads an object or an array from its bracket on.
    fn container(&mut self, key: Cow<'a, str>, kind: Kind<'a>, depth: usize) -> Result<(), Stop> {
        if depth == MAX_DEPTH {
            return Err(Stop::Refused(JsonError::TooDeep));
        }
        let is_object = matches!(kind, Kind::Object);
        let close = if is_object { b'}' } else { b']' };
        let place = self.nodes.len();
        self.nodes.push(Node {
            key,
            kind,
            inside: 0,
        });
        self.at += 1;
        let mut keys = 0;
        if self.next_token() == Some(close) {
            self.at += 1;
            return Ok(());
        }
        loop {
            let key = if is_object {
                keys += 1;
                self.key(place, keys)?
            } else {
                Cow::Borrowed("")
            };
            self.value(key, depth + 1)?;
            match self.next_token() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == close => break,
                Some(_) | None => return Err(Stop::Syntax),
            }
        }
        self.at += 1;
        let inside = self.nodes.len() - place - 1;
        if let Some(node) = self.nodes.get_mut(place) {
            node.inside = inside;
        }
        Ok(())
    }

    /// Reads the key that is number `keys` of the object at `place`, and its colon.
    fn key(&mut self, place: usize, keys: usize) -> Result<Cow<'a, str>, Stop> {
        if self.next_token() != Some(b'"') {
            return Err(Stop::Syntax);
        }
        let key = self.string()?;
        self.keys += 1;
        if keys > MAX_KEYS_OF_OBJECT || self.keys > MAX_KEYS {
            return Err(Stop::Refused(JsonError::TooManyKeys));
        }
        let mut other = place + 1;
        while let Some(node) = self.nodes.get(other) {
            if node.key == key {
                return Err(Stop::Refused(JsonError::DuplicateKey(key.into_owned())));
            }
            other += node.inside + 1;
        }
        if self.next_token() != Some(b':') {
            return Err(Stop::Syntax);
        }
        self.at += 1;
        Ok(key)
    }

    /// Reads a string from its quote on; only one with escapes is copied.
    fn string(&mut self) -> Result<Cow<'a, str>, Stop> {
        let open = self.at;
        let mut at = open + 1;
        let mut escaped = false;
        loop {
            at += plain_length(self.text.as_bytes().get(at..).unwrap_or_default());
            match self.text.as_bytes().get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at += 2;
                }
                Some(_) | None => return Err(Stop::Syntax),
            }
        }
        self.at = at + 1;
        if escaped {
            let quoted = self.text.get(open..=at).ok_or(Stop::Syntax)?;
            let text = serde_json::from_str::<String>(quoted).map_err(|_no_string| Stop::Syntax)?;
            return Ok(Cow::Owned(text));
        }
        let text = self.text.get(open + 1..at).ok_or(Stop::Syntax)?;
        Ok(Cow::Borrowed(text))
    }

    /// Reads a number; the usual one is a short integer.
    fn number(&mut self) -> Result<Number, Stop> {
        let open = self.at;
        let rest = self.text.get(open..).ok_or(Stop::Syntax)?;
        let is_part = |byte: u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let length = rest.bytes().take_while(|byte| is_part(*byte)).count();
        let text = rest.get(..length).ok_or(Stop::Syntax)?;
        self.at = open + length;
        let plain = text.len() < 19 && text.bytes().all(|byte| byte.is_ascii_digit());
        if plain && (text == "0" || !text.starts_with('0')) {
            let digits = text.bytes().map(|byte| u64::from(byte - b'0'));
            return Ok(digits.fold(0, |sum, digit| sum * 10 + digit).into());
        }
        serde_json::from_str(text).map_err(|_no_number| Stop::Syntax)
    }

    fn literal(&mut self, word: &str, kind: Kind<'a>) -> Result<Kind<'a>, Stop> {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return Err(Stop::Syntax);
        }
        self.at += word.len();
        Ok(kind)
    }

    /// The first byte of the next token, behind blanks; it is not taken.
    fn next_token(&mut self) -> Option<u8> {
        while let Some(byte) = self.text.as_bytes().get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }
}

/// Number of bytes before the first quote, backslash or control byte, eight at a time.
fn plain_length(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    const BLANKS: u64 = u64::from_le_bytes([b' '; 8]);
    const QUOTES: u64 = u64::from_le_bytes([b'"'; 8]);
    const BACKSLASHES: u64 = u64::from_le_bytes([b'\\'; 8]);
    // The high bit of each byte that is below its limit (at most 0x80). A borrow can mark the byte
    // above such a byte as well; only the lowest mark is used, and it is always right.
    let below = |word: u64, limits: u64| word.wrapping_sub(limits) & !word & HIGH;
    let mut rest = bytes;
    let mut length = 0;
    while let Some((chunk, behind)) = rest.split_first_chunk() {
        let word = u64::from_le_bytes(*chunk);
        let found =
            below(word, BLANKS) | below(word ^ QUOTES, ONES) | below(word ^ BACKSLASHES, ONES);
        if found != 0 {
            return length + (found.trailing_zeros() / 8) as usize;
        }
        length += 8;
        rest = behind;
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | ..b' ');
    length + rest.iter().position(special).unwrap_or(rest.len())
}

/// Appends `text` as the inside of a JSON string, in ASCII.
pub(super) fn escape_into(out: &mut String, text: &str) {
    for character in text.chars() {
        escape_char(out, character);
    }
}

/// `text` as a JSON string with its quotes, in ASCII.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    escape_into(&mut out, text);
    out.push('"');
    out
}

/// Like [`escape_into`], but stops before the character that would take more than `max` bytes.
pub(super) fn escape_into_at_most(out: &mut String, text: &str, max: usize) {
    let end = out.len() + max;
    for character in text.chars() {
        let before = out.len();
        escape_char(out, character);
        if out.len() > end {
            out.truncate(before);
            return;
        }
    }
}

fn escape_char(out: &mut String, character: char) {
    match character {
        '"' | '\\' => out.extend(['\\', character]),
        ' '..='~' if !matches!(character, '<' | '>' | '&') => out.push(character),
        other => {
            for unit in other.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                write!(out, "\\u{unit:04x}").unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn m2_a_key_that_occurs_twice_is_refused_at_any_depth_and_in_any_spelling() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"b":{"a":1,"c":2,"a":3}}"#,
            r#"[{"b":[[{"a":null,"a":null}]]}]"#,
            r#"{"a":1,"\u0061":2}"#,
        ] {
            assert_eq!(
                Document::read(text),
                Err(JsonError::DuplicateKey("a".to_owned())),
                "{text}"
            );
        }
        assert!(Document::read(r#"{"a":{"a":1},"A":2}"#).is_ok());
    }

    #[test]
    fn nesting_and_keys_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Document::read(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(
            Document::read(&nested(MAX_DEPTH + 1)),
            Err(JsonError::TooDeep)
        );
        assert_eq!(Document::read(&nested(100_000)), Err(JsonError::TooDeep));
        let object = |keys: usize| {
            let members: Vec<_> = (0..keys).map(|key| format!("\"{key}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        assert!(Document::read(&object(MAX_KEYS_OF_OBJECT)).is_ok());
        assert_eq!(
            Document::read(&object(MAX_KEYS_OF_OBJECT + 1)),
            Err(JsonError::TooManyKeys)
        );
        let many = vec![object(MAX_KEYS_OF_OBJECT); MAX_KEYS / MAX_KEYS_OF_OBJECT];
        assert!(Document::read(&format!("[{}]", many.join(","))).is_ok());
        assert_eq!(
            Document::read(&format!("[{},{{\"a\":0}}]", many.join(","))),
            Err(JsonError::TooManyKeys)
        );
    }

    #[test]
    fn what_is_no_json_document_is_refused() {
        for text in [
            "",
            "{",
            "{}{}",
            "{} x",
            "nul",
            "{'a':1}",
            "{\"a\":01}",
            "\"\\ud800\"",
            "1e999",
            "\u{feff}{}",
        ] {
            assert!(
                matches!(Document::read(text), Err(JsonError::Syntax(_))),
                "{text:?}"
            );
        }
    }

    #[test]
    fn written_strings_are_ascii_and_safe_inside_html() {
        assert_eq!(
            quoted("a\"b\\c\n</script>&\u{2028}\u{20ae}\u{1f600}\u{7f}"),
            "\"a\\\"b\\\\c\\u000a\\u003c/script\\u003e\\u0026\\u2028\\u20ae\\ud83d\\ude00\\u007f\""
        );
    }

    proptest! {
        #[test]
        fn a_written_string_reads_back(text: String) {
            let written = quoted(&text);
            prop_assert!(written.is_ascii());
            let read = Document::read(&written).expect("a string");
            prop_assert_eq!(read.root().as_str(), Some(&*text));
        }

        #[test]
        fn a_cut_string_keeps_whole_characters(text: String, max in 0..40_usize) {
            let mut out = String::from("\"");
            escape_into_at_most(&mut out, &text, max);
            prop_assert!(out.len() <= max + 1);
            out.push('"');
            let read = Document::read(&out).expect("a string");
            prop_assert!(text.starts_with(read.root().as_str().expect("a string")));
        }

        #[test]
        fn no_text_panics_and_what_reads_agrees_with_another_parser(
            text in "[\\[\\]{}:,\" a-c0-9.eE\\\\-]{0,60}",
        ) {
            agrees_with_another_parser(&text)?;
        }

        #[test]
        fn a_document_changed_at_random_is_read_as_another_parser_reads_it(
            document in json(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), ".{0,2}"), 0..3),
        ) {
            let mut text: Vec<char> = document.chars().collect();
            for (index, new) in edits {
                let at = index.index(text.len() + 1);
                text.splice(at..text.len().min(at + 1), new.chars());
            }
            agrees_with_another_parser(&String::from_iter(text))?;
        }

        #[test]
        fn strings_are_cut_where_a_bytewise_search_cuts_them(
            bytes in prop::collection::vec(prop_oneof![4 => any::<u8>(), 1 => 0x1e..0x24_u8, 1 => 0x5b..0x5e_u8], 0..40),
        ) {
            let first = bytes.iter().position(|byte| *byte < b' ' || matches!(byte, b'"' | b'\\'));
            prop_assert_eq!(plain_length(&bytes), first.unwrap_or(bytes.len()));
        }
    }

    /// Both read it and mean the same, or both do not; but ours may refuse more, by name.
    fn agrees_with_another_parser(text: &str) -> Result<(), TestCaseError> {
        let other = serde_json::from_str::<serde_json::Value>(text);
        match Document::read(text) {
            Ok(document) => prop_assert_eq!(document.root().to_value(), other.expect("reads too")),
            Err(JsonError::Syntax(_)) => prop_assert!(other.is_err(), "{text:?}"),
            Err(JsonError::DuplicateKey(_) | JsonError::TooDeep | JsonError::TooManyKeys) => {}
        }
        Ok(())
    }

    /// Documents with every kind of token, loosely spaced.
    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            Just("false".to_owned()),
            "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,3})?([eE][-+]?[0-9]{1,3})?",
            any::<String>().prop_map(|text| quoted(&text)),
            any::<String>().prop_map(|text| serde_json::to_string(&text).expect("a string")),
            "\"[a-zA-Z0-9 ]{0,30}\"",
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            let members = prop::collection::vec(("[a-c]{1,9}", inner.clone()), 0..5);
            prop_oneof![
                prop::collection::vec(inner, 0..5)
                    .prop_map(|items| format!("[ {} ]", items.join(" ,\n"))),
                members.prop_map(|members| {
                    let members: Vec<_> = members
                        .iter()
                        .map(|(key, value)| format!("\"{key}\" :\t{value}"))
                        .collect();
                    format!("{{{}}}\r", members.join(","))
                }),
            ]
        })
    }
}
