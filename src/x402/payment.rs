//! What a buyer sends: the payment headers, read once into types.
//!
//! A payment is untrusted text from the internet that names money. It is bounded before it is
//! decoded, read strictly (see [`super::json`]) and turned into integers and bytes at once, so that
//! neither letter case nor leading zeros nor the version of the protocol can make one authorisation
//! look like two (M2). Only its bytes go on, unchanged: [`Payment::json`] is what the facilitator
//! gets, and nothing is ever serialised again. Unknown fields are kept that way and never read.
//!
//! Reading decides nothing: whether the payment matches a requirement, whether it is still valid
//! and whose it is, is for others. An error here is a 400 `invalid_payment_header`, and its
//! [hint](PaymentHeaderError::hint) tells a buyer's engineer what to correct. No error repeats a
//! signature.

mod fields;

pub(super) use fields::parse_fixed_hex;

use super::json::{Document, Json, JsonError, Kind};
use super::{PAYMENT_SIGNATURE, X_PAYMENT, printable};
use alloy_primitives::{Address, B256, U256};
use fields::{EXCERPT, Field, Object, describe};
use http::{HeaderMap, HeaderName, HeaderValue};
use k256::sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::Arc;

/// Protocol version of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// `X-PAYMENT` with top-level `scheme` and `network`.
    V1,
    /// `PAYMENT-SIGNATURE` (or `X-PAYMENT`) with `accepted`.
    V2,
}

/// A decoded payment. Debug shows neither signature nor payload.
#[derive(Clone)]
pub struct Payment {
    /// Version of the payload.
    pub version: Version,
    /// The decoded JSON, byte for byte, to forward.
    pub json: String,
    /// SHA-256 of `json`: identity of this very payload (M1). No chain ever sees it, so it is the
    /// strong hash that processors have instructions for.
    pub hash: B256,
    /// What the buyer says it accepted.
    pub accepted: Accepted,
    /// The signed authorisation.
    pub authorization: Authorization,
    /// Signature bytes as sent.
    pub signature: Arc<[u8]>,
}

/// The buyer's copy of the requirement; never trusted, only compared.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// v1 names only scheme and network.
    V1 {
        /// Scheme, `exact`.
        scheme: String,
        /// Network by v1 name (or any alias).
        network: String,
    },
    /// v2 repeats the whole requirement.
    V2 {
        /// Scheme, `exact`.
        scheme: String,
        /// CAIP-2 (aliases are tolerated).
        network: String,
        /// Atomic units.
        amount: U256,
        /// Token address text.
        asset: String,
        /// Recipient address text.
        pay_to: String,
        /// Advertised validity, when present.
        max_timeout_seconds: Option<u64>,
        /// Scheme data (compared as a superset of ours).
        extra: Option<serde_json::Value>,
    },
}

/// What was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorization {
    /// EIP-3009 `transferWithAuthorization`.
    Eip3009 {
        /// Payer.
        from: Address,
        /// Recipient.
        to: Address,
        /// Atomic units.
        value: U256,
        /// Unix seconds, exclusive.
        valid_after: U256,
        /// Unix seconds, exclusive.
        valid_before: U256,
        /// Unordered nonce.
        nonce: B256,
    },
    /// Permit2 `permitWitnessTransferFrom`.
    Permit2 {
        /// Payer.
        from: Address,
        /// Permitted token.
        token: Address,
        /// Permitted atomic units.
        amount: U256,
        /// Spender, must be the exact proxy.
        spender: Address,
        /// Unordered nonce.
        nonce: U256,
        /// Unix seconds.
        deadline: U256,
        /// Witness recipient.
        to: Address,
        /// Witness `validAfter`, Unix seconds.
        valid_after: U256,
    },
}

/// Why payment headers are not a payment: 400 `invalid_payment_header`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaymentHeaderError {
    /// Two ways to pay at once.
    #[error("both PAYMENT-SIGNATURE and X-PAYMENT were sent")]
    BothHeaders,
    /// More than one value of one header.
    #[error("payment header {header} was sent more than once")]
    Repeated {
        /// Its name.
        header: &'static str,
    },
    /// No value.
    #[error("payment header is empty")]
    Empty,
    /// Over the size limit, before decoding.
    #[error("payment header has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Bytes found.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Neither the standard nor the URL-safe alphabet, or broken padding.
    #[error("payment header is not base64")]
    Base64,
    /// The decoded bytes are not text.
    #[error("payment header is not UTF-8 text after base64 decoding")]
    NotUtf8,
    /// The text is not JSON.
    #[error("payment is not JSON: {detail}")]
    NotJson {
        /// The parser's message, without the text.
        detail: String,
    },
    /// One key twice in one object, at any depth (M2).
    #[error("payment holds the key {key:?} twice in one object")]
    DuplicateKey {
        /// The key, bounded.
        key: String,
    },
    /// A key that we read, in other letters; some readers would take it for the same key (M2).
    #[error("payment holds the key {found:?} where {field} is meant")]
    KeySpelling {
        /// Path of the key that is meant.
        field: String,
        /// The key, bounded.
        found: String,
    },
    /// Nested too deeply.
    #[error("payment is nested more than {} levels deep", super::json::MAX_DEPTH)]
    TooDeep,
    /// Too many keys.
    #[error(
        "payment has too many keys: at most {} in one object and {} in all",
        super::json::MAX_KEYS_OF_OBJECT,
        super::json::MAX_KEYS
    )]
    TooManyKeys,
    /// JSON, but not an object.
    #[error("payment is not a JSON object")]
    NotObject,
    /// `x402Version` is not a version of this header.
    #[error("x402Version is {found}: known are the numbers 1 and 2")]
    UnknownVersion {
        /// What stands there, bounded.
        found: String,
    },
    /// A v1 payload in the v2 header; accepting it would skip the v2 comparison.
    #[error("PAYMENT-SIGNATURE carries an x402 v1 payment")]
    V1InV2Header,
    /// A required field is absent or null.
    #[error("payment has no {field}")]
    Missing {
        /// Its path.
        field: String,
    },
    /// A field of another type or form.
    #[error("{field} is {found}: expected {expected}")]
    Invalid {
        /// Its path.
        field: String,
        /// What would do.
        expected: &'static str,
        /// What was found, bounded.
        found: String,
    },
    /// Neither form of authorisation.
    #[error("payload has neither authorization nor permit2Authorization")]
    NoAuthorization,
    /// Both forms, which are two different claims (M2).
    #[error("payload has both authorization and permit2Authorization")]
    TwoAuthorizations,
}

/// Names that a look-up need not read again.
const V2_HEADER: HeaderName = HeaderName::from_static(PAYMENT_SIGNATURE);
const V1_HEADER: HeaderName = HeaderName::from_static(X_PAYMENT);

/// Reads the payment headers of a request: `PAYMENT-SIGNATURE` (v2 only) or `X-PAYMENT` (v1, and v2
/// for compatibility); `Ok(None)` when neither is there.
///
/// Both at once, a doubled header, a header over `max_bytes`, a v1 payload in the v2 header,
/// duplicate JSON keys at any depth, depth over 32 are errors.
///
/// # Errors
/// See [`PaymentHeaderError`].
pub fn read_payment(
    headers: &HeaderMap,
    max_bytes: usize,
) -> Result<Option<Payment>, PaymentHeaderError> {
    let v2_header = only_value(headers, &V2_HEADER, "PAYMENT-SIGNATURE")?;
    let v1_header = only_value(headers, &V1_HEADER, "X-PAYMENT")?;
    let value = match (v2_header, v1_header) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(PaymentHeaderError::BothHeaders),
        (Some(value), None) | (None, Some(value)) => value,
    };
    let json = decode(value.as_bytes(), max_bytes)?;
    let document = Document::read(&json)?;
    if !matches!(document.root().kind(), Kind::Object) {
        return Err(PaymentHeaderError::NotObject);
    }
    let [version, accepted, scheme, network, payload] = Object::root(document.root()).fields([
        "x402Version",
        "accepted",
        "scheme",
        "network",
        "payload",
    ])?;
    let version = read_version(version.required()?)?;
    if version == Version::V1 && v2_header.is_some() {
        return Err(PaymentHeaderError::V1InV2Header);
    }
    let accepted = match version {
        Version::V1 => Accepted::V1 {
            scheme: scheme.text()?,
            network: network.text()?,
        },
        Version::V2 => read_accepted(accepted.object("accepted")?)?,
    };
    let [transfer, permit, signature] = payload.object("payload")?.fields([
        "authorization",
        "permit2Authorization",
        "signature",
    ])?;
    let authorization = read_authorization(transfer, permit)?;
    let signature = signature.signature()?;
    let hash = B256::new(Sha256::digest(&json).into());
    Ok(Some(Payment {
        version,
        json,
        hash,
        accepted,
        authorization,
        signature,
    }))
}

/// Whether a payment header of either version is present (nothing is read).
#[must_use]
pub fn has_payment(headers: &HeaderMap) -> bool {
    headers.contains_key(&V2_HEADER) || headers.contains_key(&V1_HEADER)
}

impl Payment {
    /// The payer named in the authorisation.
    #[must_use]
    pub fn payer(&self) -> Address {
        match &self.authorization {
            Authorization::Eip3009 { from, .. } | Authorization::Permit2 { from, .. } => *from,
        }
    }
}

impl fmt::Debug for Payment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payment")
            .field("version", &self.version)
            .field("hash", &self.hash)
            .field("payer", &self.payer())
            .finish_non_exhaustive()
    }
}

impl PaymentHeaderError {
    /// What the buyer should do.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::BothHeaders => {
                "send PAYMENT-SIGNATURE for x402 v2 or X-PAYMENT for v1, never both"
            }
            Self::Repeated { .. } => "send the payment header once, with one payment",
            Self::Empty => "put the base64 of the payment JSON into the header, or leave it out",
            Self::TooLarge { .. } => {
                "send only the payment; leave out extensions that this challenge did not ask for"
            }
            Self::Base64 | Self::NotUtf8 => {
                "encode the payment JSON as UTF-8 and then as one base64 text without line breaks"
            }
            Self::NotJson { .. } | Self::NotObject => {
                "the decoded header must be the x402 payment object, \
                 {\"x402Version\":2,\"accepted\":{...},\"payload\":{...}}"
            }
            Self::DuplicateKey { .. } => "write every key once; readers differ on which one counts",
            Self::KeySpelling { .. } => {
                "write keys exactly as the x402 specification does; letter case counts"
            }
            Self::TooDeep | Self::TooManyKeys => {
                "send only the fields of the x402 payment object and the extensions asked for"
            }
            Self::UnknownVersion { .. } => {
                "send \"x402Version\":2 in PAYMENT-SIGNATURE, or \"x402Version\":1 in X-PAYMENT"
            }
            Self::V1InV2Header => {
                "send the v1 payment as X-PAYMENT, or sign a v2 payment with \"accepted\""
            }
            Self::Missing { .. } => {
                "v2 needs x402Version, accepted (the chosen entry of accepts, complete) and payload; \
                 v1 needs x402Version, scheme, network and payload"
            }
            Self::Invalid { .. } => "correct this field and send the payment again",
            Self::NoAuthorization | Self::TwoAuthorizations => {
                "send the one form that extra.assetTransferMethod names: authorization for eip3009, \
                 permit2Authorization for permit2"
            }
        }
    }
}

impl From<JsonError> for PaymentHeaderError {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::Syntax(detail) => Self::NotJson { detail },
            JsonError::DuplicateKey(key) => Self::DuplicateKey {
                key: printable(&key, EXCERPT),
            },
            JsonError::TooDeep => Self::TooDeep,
            JsonError::TooManyKeys => Self::TooManyKeys,
        }
    }
}

fn only_value<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    header: &'static str,
) -> Result<Option<&'h HeaderValue>, PaymentHeaderError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(PaymentHeaderError::Repeated { header }),
        (value, None) => Ok(value),
    }
}

fn decode(value: &[u8], limit: usize) -> Result<String, PaymentHeaderError> {
    if value.len() > limit {
        return Err(PaymentHeaderError::TooLarge {
            bytes: value.len(),
            limit,
        });
    }
    let value = value.trim_ascii();
    if value.is_empty() {
        return Err(PaymentHeaderError::Empty);
    }
    // Padding is whole or absent.
    let [standard, url_safe] = if value.ends_with(b"=") {
        [&base64_simd::STANDARD, &base64_simd::URL_SAFE]
    } else {
        [&base64_simd::STANDARD_NO_PAD, &base64_simd::URL_SAFE_NO_PAD]
    };
    // The alphabets differ in two letters, and a text with letters of both is read by neither.
    let bytes = standard
        .decode_to_vec(value)
        .or_else(|_where| url_safe.decode_to_vec(value))
        .map_err(|_where| PaymentHeaderError::Base64)?;
    String::from_utf8(bytes).map_err(|_where| PaymentHeaderError::NotUtf8)
}

fn read_version(json: Json<'_>) -> Result<Version, PaymentHeaderError> {
    match json.as_u64() {
        Some(1) => Ok(Version::V1),
        Some(2) => Ok(Version::V2),
        Some(_) | None => Err(PaymentHeaderError::UnknownVersion {
            found: describe(json),
        }),
    }
}

fn read_accepted(accepted: Object<'_>) -> Result<Accepted, PaymentHeaderError> {
    let [
        scheme,
        network,
        amount,
        asset,
        pay_to,
        max_timeout_seconds,
        extra,
    ] = accepted.fields([
        "scheme",
        "network",
        "amount",
        "asset",
        "payTo",
        "maxTimeoutSeconds",
        "extra",
    ])?;
    Ok(Accepted::V2 {
        scheme: scheme.text()?,
        network: network.text()?,
        amount: amount.decimal()?,
        asset: asset.text()?,
        pay_to: pay_to.text()?,
        max_timeout_seconds: max_timeout_seconds.optional_integer()?,
        extra: extra.optional().map(Json::to_value),
    })
}

/// M2: exactly one form. A form that is present as `null` counts as present, because another reader
/// may not agree that it is absent.
fn read_authorization(
    transfer: Field<'_>,
    permit: Field<'_>,
) -> Result<Authorization, PaymentHeaderError> {
    match (transfer.is_present(), permit.is_present()) {
        (false, false) => Err(PaymentHeaderError::NoAuthorization),
        (true, true) => Err(PaymentHeaderError::TwoAuthorizations),
        (true, false) => read_transfer(transfer.object("payload.authorization")?),
        (false, true) => read_permit(permit.object("payload.permit2Authorization")?),
    }
}

fn read_transfer(signed: Object<'_>) -> Result<Authorization, PaymentHeaderError> {
    let [from, to, value, valid_after, valid_before, nonce] =
        signed.fields(["from", "to", "value", "validAfter", "validBefore", "nonce"])?;
    Ok(Authorization::Eip3009 {
        from: from.address()?,
        to: to.address()?,
        value: value.decimal()?,
        valid_after: valid_after.decimal()?,
        valid_before: valid_before.decimal()?,
        nonce: B256::new(nonce.fixed_hex("0x and 64 hex digits in quotes")?),
    })
}

fn read_permit(signed: Object<'_>) -> Result<Authorization, PaymentHeaderError> {
    let [permitted, witness, from, spender, nonce, deadline] = signed.fields([
        "permitted",
        "witness",
        "from",
        "spender",
        "nonce",
        "deadline",
    ])?;
    let [token, amount] = permitted
        .object("payload.permit2Authorization.permitted")?
        .fields(["token", "amount"])?;
    let [to, valid_after] = witness
        .object("payload.permit2Authorization.witness")?
        .fields(["to", "validAfter"])?;
    Ok(Authorization::Permit2 {
        from: from.address()?,
        token: token.address()?,
        amount: amount.decimal()?,
        spender: spender.address()?,
        nonce: nonce.decimal_or_hex()?,
        deadline: deadline.decimal()?,
        to: to.address()?,
        valid_after: valid_after.decimal()?,
    })
}

#[cfg(test)]
mod tests;
