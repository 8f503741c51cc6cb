//! Typed fields of a payment: text, integers and bytes out of strict JSON, with the path of what is
//! wrong.
//!
//! Integers are decimal text, because JSON numbers lose digits in half of the world's parsers; hex,
//! signs, exponents, blanks and the empty text, which some of them accept, are refused. An error
//! names the field and shows a bounded excerpt of it, except for signatures.

use super::super::json::{Json, Kind};
use super::super::printable;
use super::PaymentHeaderError;
use alloy_primitives::{Address, U256, hex};
use std::sync::Arc;

/// An object inside the payment, with its path for errors.
#[derive(Clone, Copy)]
pub(super) struct Object<'j> {
    json: Json<'j>,
    path: &'static str,
}

/// What stands under one key of an object, be it nothing.
#[derive(Clone, Copy)]
pub(super) struct Field<'j> {
    json: Option<Json<'j>>,
    key: &'static str,
    /// Path of the object.
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
    pub(super) const fn root(json: Json<'j>) -> Self {
        Self { json, path: "" }
    }

    /// What stands under each of these keys, looked up in one pass.
    ///
    /// A key that differs from one of them only in letter case is refused, alone or beside it: some
    /// readers ignore case, and would settle another nonce than the one that we claim (M2).
    pub(super) fn fields<const N: usize>(
        self,
        keys: [&'static str; N],
    ) -> Result<[Field<'j>; N], PaymentHeaderError> {
        let path = self.path;
        let mut fields = keys.map(|key| Field {
            json: None,
            key,
            path,
        });
        for (name, json) in self.json.members() {
            if let Some(field) = fields.iter_mut().find(|field| field.key == name) {
                field.json = Some(json);
            } else if let Some(field) = fields
                .iter()
                .find(|field| equal_but_for_case(name, field.key))
            {
                return Err(PaymentHeaderError::KeySpelling {
                    field: field.name(),
                    found: printable(name, EXCERPT),
                });
            }
        }
        Ok(fields)
    }
}

impl<'j> Field<'j> {
    /// Whether the key is there, be its value `null`.
    pub(super) const fn is_present(self) -> bool {
        self.json.is_some()
    }

    /// The value, `None` when it is absent or null.
    pub(super) fn optional(self) -> Option<Json<'j>> {
        self.json
            .filter(|value| !matches!(value.kind(), Kind::Null))
    }

    pub(super) fn optional_integer(self) -> Result<Option<u64>, PaymentHeaderError> {
        let Some(json) = self.optional() else {
            return Ok(None);
        };
        match json.as_u64() {
            Some(integer) => Ok(Some(integer)),
            None => Err(self.invalid("a whole number", describe(json))),
        }
    }

    pub(super) fn required(self) -> Result<Json<'j>, PaymentHeaderError> {
        self.optional()
            .ok_or_else(|| PaymentHeaderError::Missing { field: self.name() })
    }

    /// The object, whose own path is `path`.
    pub(super) fn object(self, path: &'static str) -> Result<Object<'j>, PaymentHeaderError> {
        let json = self.required()?;
        match json.kind() {
            Kind::Object => Ok(Object { json, path }),
            Kind::Null | Kind::Bool(_) | Kind::Number(_) | Kind::String(_) | Kind::Array => {
                Err(self.invalid(OBJECT, kind(json).to_owned()))
            }
        }
    }

    fn str(self, expected: &'static str) -> Result<&'j str, PaymentHeaderError> {
        let json = self.required()?;
        json.as_str()
            .ok_or_else(|| self.invalid(expected, describe(json)))
    }

    pub(super) fn text(self) -> Result<String, PaymentHeaderError> {
        self.str(TEXT).map(str::to_owned)
    }

    pub(super) fn decimal(self) -> Result<U256, PaymentHeaderError> {
        let text = self.str(DECIMAL)?;
        parse_decimal(text).ok_or_else(|| self.invalid(DECIMAL, excerpt(text)))
    }

    pub(super) fn decimal_or_hex(self) -> Result<U256, PaymentHeaderError> {
        const EXPECTED: &str =
            "a number below 2^256 in quotes, decimal digits or 0x and hex digits";
        let text = self.str(EXPECTED)?;
        let value = text
            .strip_prefix("0x")
            .map_or_else(|| parse_decimal(text), parse_hex);
        value.ok_or_else(|| self.invalid(EXPECTED, excerpt(text)))
    }

    pub(super) fn address(self) -> Result<Address, PaymentHeaderError> {
        self.fixed_hex("an address: 0x and 40 hex digits in quotes")
            .map(Address::new)
    }

    pub(super) fn fixed_hex<const N: usize>(
        self,
        expected: &'static str,
    ) -> Result<[u8; N], PaymentHeaderError> {
        let text = self.str(expected)?;
        parse_fixed_hex(text).ok_or_else(|| self.invalid(expected, excerpt(text)))
    }

    /// Bytes of a signature, of any length but none; contract wallets sign in forms of their own.
    /// The error tells only its size.
    pub(super) fn signature(self) -> Result<Arc<[u8]>, PaymentHeaderError> {
        const EXPECTED: &str = "0x and an even number of hex digits in quotes";
        let json = self.required()?;
        let text = json
            .as_str()
            .ok_or_else(|| self.invalid(EXPECTED, kind(json).to_owned()))?;
        // That of a key is as long as this and is not copied.
        if let Some(usual) = parse_fixed_hex::<65>(text) {
            return Ok(Arc::from(usual));
        }
        bare_hex(text)
            .and_then(|digits| hex::decode(digits).ok())
            .map(Arc::from)
            .ok_or_else(|| {
                let found = format!("something else, with {} characters", text.chars().count());
                self.invalid(EXPECTED, found)
            })
    }

    fn name(self) -> String {
        if self.path.is_empty() {
            self.key.to_owned()
        } else {
            format!("{}.{}", self.path, self.key)
        }
    }

    fn invalid(self, expected: &'static str, found: String) -> PaymentHeaderError {
        PaymentHeaderError::Invalid {
            field: self.name(),
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
    // Our keys are ASCII, and each of those two letters takes more bytes than the one it stands for.
    if name.len() == key.len() {
        name.eq_ignore_ascii_case(key)
    } else {
        name.len() > key.len()
            && !name.is_ascii()
            && name.chars().map(fold).eq(key.chars().map(fold))
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
    let mut bytes = [0; N];
    hex::decode_to_slice(bare_hex(text)?, &mut bytes).ok()?;
    Some(bytes)
}

/// The digits behind `0x`; the decoder checks them, but would accept a second prefix.
fn bare_hex(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("0x")?;
    let twice = digits.starts_with("0x") || digits.starts_with("0X");
    (!digits.is_empty() && !twice).then_some(digits)
}

/// A value in an error: short ones as they are, long ones cut.
pub(super) fn describe(json: Json<'_>) -> String {
    match json.kind() {
        Kind::Number(number) => format!("the number {number}"),
        Kind::String(text) => excerpt(text),
        Kind::Null | Kind::Bool(_) | Kind::Array | Kind::Object => kind(json).to_owned(),
    }
}

fn excerpt(text: &str) -> String {
    format!("\"{}\"", printable(text, EXCERPT))
}

const fn kind(json: Json<'_>) -> &'static str {
    match json.kind() {
        Kind::Null => "null",
        Kind::Bool(_) => "true or false",
        Kind::Number(_) => "a number",
        Kind::String(_) => "text",
        Kind::Array => "a list",
        Kind::Object => "an object",
    }
}
