//! Typed fields of a payment: text, integers and bytes out of strict JSON, with the path of what is
//! wrong.
//!
//! Integers are decimal text, because JSON numbers lose digits in half of the world's parsers; hex,
//! signs, exponents, blanks and the empty text, which some of them accept, are refused. An error
//! names the field and shows a bounded excerpt of it, except for signatures.

use super::super::json::Json;
use super::super::printable;
use super::PaymentHeaderError;
use alloy_primitives::{Address, U256, hex};

/// An object inside the payment, with its path for errors.
#[derive(Clone, Copy)]
pub(super) struct Object<'j> {
    json: &'j Json<'j>,
    path: &'static str,
}

/// Decimal digits of the largest 256-bit number.
const MAX_DECIMAL_DIGITS: usize = 78;
/// Longest excerpt of a buyer's value in an error, in characters.
pub(super) const EXCERPT: usize = 48;

const DECIMAL: &str = "a decimal number below 2^256 in quotes, digits only, such as \"10000\"";
const TEXT: &str = "text in quotes";
const OBJECT: &str = "an object";

impl<'j> Object<'j> {
    /// The payment itself.
    pub(super) const fn root(json: &'j Json<'j>) -> Self {
        Self { json, path: "" }
    }

    /// The value of a key, be it `null`.
    ///
    /// A key that differs from it only in letter case is refused, alone or beside it: some readers
    /// ignore case, and would settle another nonce than the one that we claim (M2).
    pub(super) fn member(self, key: &str) -> Result<Option<&'j Json<'j>>, PaymentHeaderError> {
        let mut value = None;
        for (name, candidate) in self.json.members() {
            if name == key {
                value = Some(candidate);
            } else if equal_but_for_case(name, key) {
                return Err(PaymentHeaderError::KeySpelling {
                    field: self.field(key),
                    found: printable(name, EXCERPT),
                });
            }
        }
        Ok(value)
    }

    /// The value of a key, `None` when it is absent or null.
    pub(super) fn optional(self, key: &str) -> Result<Option<&'j Json<'j>>, PaymentHeaderError> {
        Ok(self
            .member(key)?
            .filter(|value| !matches!(value, Json::Null)))
    }

    pub(super) fn optional_integer(self, key: &str) -> Result<Option<u64>, PaymentHeaderError> {
        let Some(json) = self.optional(key)? else {
            return Ok(None);
        };
        match json.as_u64() {
            Some(integer) => Ok(Some(integer)),
            None => Err(self.invalid(key, "a whole number", describe(json))),
        }
    }

    pub(super) fn required(self, key: &str) -> Result<&'j Json<'j>, PaymentHeaderError> {
        self.optional(key)?
            .ok_or_else(|| PaymentHeaderError::Missing {
                field: self.field(key),
            })
    }

    pub(super) fn object(self, key: &str, path: &'static str) -> Result<Self, PaymentHeaderError> {
        let json = self.required(key)?;
        match json {
            Json::Object(_) => Ok(Self { json, path }),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_) => {
                Err(self.invalid(key, OBJECT, kind(json).to_owned()))
            }
        }
    }

    fn str(self, key: &str, expected: &'static str) -> Result<&'j str, PaymentHeaderError> {
        let json = self.required(key)?;
        json.as_str()
            .ok_or_else(|| self.invalid(key, expected, describe(json)))
    }

    pub(super) fn text(self, key: &str) -> Result<String, PaymentHeaderError> {
        self.str(key, TEXT).map(str::to_owned)
    }

    pub(super) fn decimal(self, key: &str) -> Result<U256, PaymentHeaderError> {
        let text = self.str(key, DECIMAL)?;
        parse_decimal(text).ok_or_else(|| self.invalid(key, DECIMAL, excerpt(text)))
    }

    pub(super) fn decimal_or_hex(self, key: &str) -> Result<U256, PaymentHeaderError> {
        const EXPECTED: &str =
            "a number below 2^256 in quotes, decimal digits or 0x and hex digits";
        let text = self.str(key, EXPECTED)?;
        let value = text
            .strip_prefix("0x")
            .map_or_else(|| parse_decimal(text), parse_hex);
        value.ok_or_else(|| self.invalid(key, EXPECTED, excerpt(text)))
    }

    pub(super) fn address(self, key: &str) -> Result<Address, PaymentHeaderError> {
        self.fixed_hex(key, "an address: 0x and 40 hex digits in quotes")
            .map(Address::new)
    }

    pub(super) fn fixed_hex<const N: usize>(
        self,
        key: &str,
        expected: &'static str,
    ) -> Result<[u8; N], PaymentHeaderError> {
        let text = self.str(key, expected)?;
        parse_fixed_hex(text).ok_or_else(|| self.invalid(key, expected, excerpt(text)))
    }

    /// Bytes of `signature`, of any length but none; contract wallets sign in forms of their own.
    /// The error tells only its size.
    pub(super) fn signature(self) -> Result<Vec<u8>, PaymentHeaderError> {
        const EXPECTED: &str = "0x and an even number of hex digits in quotes";
        let json = self.required("signature")?;
        let text = json
            .as_str()
            .ok_or_else(|| self.invalid("signature", EXPECTED, kind(json).to_owned()))?;
        text.strip_prefix("0x")
            .filter(|digits| !digits.is_empty())
            .and_then(decode_hex)
            .ok_or_else(|| {
                let found = format!("something else, with {} characters", text.chars().count());
                self.invalid("signature", EXPECTED, found)
            })
    }

    fn field(self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn invalid(self, key: &str, expected: &'static str, found: String) -> PaymentHeaderError {
        PaymentHeaderError::Invalid {
            field: self.field(key),
            expected,
            found,
        }
    }
}

/// Letter case as Go's JSON reader ignores it, which knows two letters beyond ASCII.
fn equal_but_for_case(name: &str, key: &str) -> bool {
    let fold = |character: char| match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    if name.is_ascii() {
        name.eq_ignore_ascii_case(key)
    } else {
        name.chars().map(fold).eq(key.chars().map(fold))
    }
}

fn parse_decimal(text: &str) -> Option<U256> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if text.is_empty() || text.len() > MAX_DECIMAL_DIGITS || !digits {
        return None;
    }
    match text.parse::<u64>() {
        Ok(small) => Some(U256::from(small)),
        Err(_large) => U256::from_str_radix(text, 10).ok(),
    }
}

fn parse_hex(digits: &str) -> Option<U256> {
    let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let fits = (1..=64).contains(&digits.len());
    (hex && fits)
        .then(|| U256::from_str_radix(digits, 16).ok())
        .flatten()
}

/// `0x` and exactly `N` bytes of hex in any letter case.
pub(in crate::x402) fn parse_fixed_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.strip_prefix("0x")?;
    // The decoder would accept a second prefix.
    if digits.len() != 2 * N || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(bytes)
}

fn decode_hex(digits: &str) -> Option<Vec<u8>> {
    let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex.then(|| hex::decode(digits).ok()).flatten()
}

/// A value in an error: short ones as they are, long ones cut.
pub(super) fn describe(json: &Json<'_>) -> String {
    match json {
        Json::Number(number) => format!("the number {number}"),
        Json::String(text) => excerpt(text),
        Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => kind(json).to_owned(),
    }
}

fn excerpt(text: &str) -> String {
    format!("\"{}\"", printable(text, EXCERPT))
}

const fn kind(json: &Json<'_>) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "true or false",
        Json::Number(_) => "a number",
        Json::String(_) => "text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}
