//! Reads a JSON object by key: text, whole number, list, object.
//!
//! A reader answers `None` for what is not there and for what cannot be understood; the second
//! leaves a problem behind that names the field and what would do. An empty text and an empty
//! object count as absent, because the clients of the field write their zero values out.

use crate::offer::Problem;
use serde_json::{Map, Value};

/// Longest text that any field may have, in bytes.
const MAX_TEXT: usize = 4_096;

/// A JSON object being read, and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Section<'v> {
    map: Option<&'v Map<String, Value>>,
    path: String,
}

impl<'v> Section<'v> {
    /// The object in `value`; anything else but nothing is a problem.
    pub(super) fn new(value: &'v Value, path: String, problems: &mut Vec<Problem>) -> Self {
        if !value.is_object() && !value.is_null() {
            problems.push(wrong_type(&path, value, "an object"));
        }
        Self {
            map: value.as_object(),
            path,
        }
    }

    /// Where a field stands (`spec.payment.network`).
    pub(super) fn at(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    /// Where this object stands.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Whether there is anything in it.
    pub(super) fn is_empty(&self) -> bool {
        self.map.is_none_or(Map::is_empty)
    }

    /// A value that is there, whatever it is.
    pub(super) fn value(&self, key: &str) -> Option<&'v Value> {
        self.map?.get(key).filter(|value| !value.is_null())
    }

    /// A text of any length that is not empty, surrounding whitespace aside.
    pub(super) fn long_text(&self, key: &str, problems: &mut Vec<Problem>) -> Option<&'v str> {
        let value = self.value(key)?;
        let Some(text) = value.as_str() else {
            problems.push(wrong_type(&self.at(key), value, "a text in quotes"));
            return None;
        };
        Some(text.trim()).filter(|text| !text.is_empty())
    }

    /// A text that is not empty, surrounding whitespace aside.
    pub(super) fn text(&self, key: &str, problems: &mut Vec<Problem>) -> Option<&'v str> {
        let text = self.long_text(key, problems)?;
        if text.len() > MAX_TEXT {
            problems.push(Problem {
                code: "invalid_type",
                message: format!(
                    "{} is longer than {MAX_TEXT} bytes: shorten it",
                    self.at(key)
                ),
            });
            return None;
        }
        Some(text)
    }

    /// A whole number.
    pub(super) fn number(&self, key: &str, problems: &mut Vec<Problem>) -> Option<i64> {
        let value = self.value(key)?;
        let number = value.as_i64();
        if number.is_none() {
            problems.push(wrong_type(&self.at(key), value, "a whole number"));
        }
        number
    }

    /// Yes or no.
    pub(super) fn boolean(&self, key: &str, problems: &mut Vec<Problem>) -> Option<bool> {
        let value = self.value(key)?;
        let found = value.as_bool();
        if found.is_none() {
            problems.push(wrong_type(&self.at(key), value, "true or false"));
        }
        found
    }

    /// A list; absent is empty.
    pub(super) fn list(&self, key: &str, problems: &mut Vec<Problem>) -> Option<&'v [Value]> {
        let Some(value) = self.value(key) else {
            return Some(&[]);
        };
        let list = value.as_array();
        if list.is_none() {
            problems.push(wrong_type(&self.at(key), value, "a list"));
        }
        list.map(Vec::as_slice)
    }

    /// The object below a key; absent is empty.
    pub(super) fn section(&self, key: &str, problems: &mut Vec<Problem>) -> Self {
        Self::new(
            self.value(key).unwrap_or(&Value::Null),
            self.at(key),
            problems,
        )
    }
}

fn wrong_type(path: &str, found: &Value, wanted: &str) -> Problem {
    let found = match found {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Problem {
        code: "invalid_type",
        message: format!("{path} is {found}: write {wanted}"),
    }
}
