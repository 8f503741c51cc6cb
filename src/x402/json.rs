//! JSON as this wire needs it: read strictly, written in ASCII.
//!
//! A payment is read here by us and later by a facilitator, in another language. Whatever two
//! readers may understand differently is therefore refused, not interpreted: a key that occurs
//! twice at any depth (M2), nesting beyond [`MAX_DEPTH`], trailing text. The number of keys is
//! bounded because the duplicate check compares each key of an object with the others.
//!
//! Written text is ASCII: quotes, backslashes, control characters, `<`, `>`, `&` and everything
//! beyond ASCII become escapes. Old clients decode base64 to Latin-1, and a challenge may end up
//! inside a script element.

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt::{self, Write as _};

/// Deepest nesting of objects and arrays, the outermost counted as one.
pub(super) const MAX_DEPTH: usize = 32;
/// Most keys of one object; the duplicate check is quadratic in it.
pub(super) const MAX_KEYS_OF_OBJECT: usize = 64;
/// Most keys of one document.
pub(super) const MAX_KEYS: usize = 512;

/// A JSON value that borrows what it can from its text; no object in it holds a key twice.
#[derive(Debug, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    Number(Number),
    String(Cow<'a, str>),
    Array(Vec<Self>),
    Object(Vec<(Cow<'a, str>, Self)>),
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

/// What one reading shares between all levels. The parser's error type carries only text, so the
/// cause of a refusal of ours is left here.
#[derive(Default)]
struct Reading {
    keys: Cell<usize>,
    refusal: RefCell<Option<JsonError>>,
}

/// Reads one value at a depth.
#[derive(Clone, Copy)]
struct Value<'r> {
    reading: &'r Reading,
    depth: usize,
}

/// A string or key, borrowed unless it holds escapes.
struct Text<'a>(Cow<'a, str>);

struct TextVisitor;

impl<'a> Json<'a> {
    /// Reads a whole document.
    pub(super) fn read(text: &'a str) -> Result<Self, JsonError> {
        let reading = Reading::default();
        let mut parser = serde_json::Deserializer::from_str(text);
        let value = Value {
            reading: &reading,
            depth: 0,
        }
        .deserialize(&mut parser)
        .and_then(|value| parser.end().map(|()| value));
        value.map_err(|error| {
            reading
                .refusal
                .into_inner()
                .unwrap_or_else(|| JsonError::Syntax(error.to_string()))
        })
    }

    /// The members of an object; none for what is no object.
    pub(super) fn members(&self) -> &[(Cow<'a, str>, Self)] {
        if let Self::Object(members) = self {
            members
        } else {
            &[]
        }
    }

    /// The text of a string.
    pub(super) fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self {
            Some(text)
        } else {
            None
        }
    }

    /// The value of a non-negative integer written without fraction or exponent.
    pub(super) fn as_u64(&self) -> Option<u64> {
        if let Self::Number(number) = self {
            number.as_u64()
        } else {
            None
        }
    }

    /// An owned copy.
    pub(super) fn to_value(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => serde_json::Value::Bool(*value),
            Self::Number(number) => serde_json::Value::Number(number.clone()),
            Self::String(text) => serde_json::Value::String(text.as_ref().to_owned()),
            Self::Array(items) => items.iter().map(Self::to_value).collect(),
            Self::Object(members) => members
                .iter()
                .map(|(key, value)| (key.as_ref().to_owned(), value.to_value()))
                .collect(),
        }
    }
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

impl Value<'_> {
    fn refuse<E: de::Error>(self, error: JsonError) -> E {
        *self.reading.refusal.borrow_mut() = Some(error);
        E::custom("refused")
    }

    /// The reader of what is inside a container at this place.
    fn inner<E: de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(self.refuse(JsonError::TooDeep));
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        // The parser refuses numbers beyond 64-bit floats, so this is never NaN or infinite.
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Json<'de>, A::Error> {
        let inner = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let inner = self.inner()?;
        let mut members: Vec<(Cow<'de, str>, Json<'de>)> = Vec::with_capacity(8);
        while let Some(Text(key)) = map.next_key()? {
            let keys = self.reading.keys.get();
            if members.len() == MAX_KEYS_OF_OBJECT || keys == MAX_KEYS {
                return Err(self.refuse(JsonError::TooManyKeys));
            }
            self.reading.keys.set(keys + 1);
            if members.iter().any(|(name, _)| *name == key) {
                return Err(self.refuse(JsonError::DuplicateKey(key.into_owned())));
            }
            members.push((key, map.next_value_seed(inner)?));
        }
        Ok(Json::Object(members))
    }
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
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
                Json::read(text),
                Err(JsonError::DuplicateKey("a".to_owned())),
                "{text}"
            );
        }
        assert!(Json::read(r#"{"a":{"a":1},"A":2}"#).is_ok());
    }

    #[test]
    fn nesting_and_keys_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Json::read(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(Json::read(&nested(MAX_DEPTH + 1)), Err(JsonError::TooDeep));
        assert_eq!(Json::read(&nested(100_000)), Err(JsonError::TooDeep));
        let object = |keys: usize| {
            let members: Vec<_> = (0..keys).map(|key| format!("\"{key}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        assert!(Json::read(&object(MAX_KEYS_OF_OBJECT)).is_ok());
        assert_eq!(
            Json::read(&object(MAX_KEYS_OF_OBJECT + 1)),
            Err(JsonError::TooManyKeys)
        );
        let many = vec![object(MAX_KEYS_OF_OBJECT); MAX_KEYS / MAX_KEYS_OF_OBJECT];
        assert!(Json::read(&format!("[{}]", many.join(","))).is_ok());
        assert_eq!(
            Json::read(&format!("[{},{{\"a\":0}}]", many.join(","))),
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
                matches!(Json::read(text), Err(JsonError::Syntax(_))),
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
            prop_assert_eq!(Json::read(&written), Ok(Json::String(text.into())));
        }

        #[test]
        fn a_cut_string_keeps_whole_characters(text: String, max in 0..40_usize) {
            let mut out = String::from("\"");
            escape_into_at_most(&mut out, &text, max);
            prop_assert!(out.len() <= max + 1);
            out.push('"');
            let read = Json::read(&out).expect("a string");
            prop_assert!(text.starts_with(read.as_str().expect("a string")));
        }

        #[test]
        fn no_text_panics_and_what_reads_agrees_with_another_parser(
            text in "[\\[\\]{}:,\" a-c0-9.eE\\\\-]{0,60}",
        ) {
            let other = serde_json::from_str::<serde_json::Value>(&text);
            if let Ok(json) = Json::read(&text) {
                prop_assert_eq!(json.to_value(), other.expect("reads too"));
            }
        }
    }
}
