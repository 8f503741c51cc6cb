//! What a facilitator answers, and the receipt that a buyer gets for it.
//!
//! Facilitators speak dialects: a refusal comes with status 200, 400, 412 or 500, fields are absent,
//! empty or named differently. So a body counts as a verdict by one thing only, the boolean
//! `isValid` or `success` of its object (M4). Without it, with another type, or with a field of ours
//! twice, there is no verdict and the caller goes by the status; for a settlement that means
//! unknown, never refused (R9).
//!
//! Everything else is text for comparison or for people, bounded and free of control characters. A
//! field of the wrong type keeps its JSON text instead of being dropped: a payer or transaction that
//! cannot be read must not pass for one that is absent.

use super::json::quoted;
use super::{Version, header_value, printable};
use crate::money::{Amount, Network};
use alloy_primitives::Address;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use serde::Deserialize;
use serde_json::Value;

/// A facilitator's answer to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyResponse {
    /// Verdict.
    pub is_valid: bool,
    /// `invalidReason`.
    pub invalid_reason: Option<String>,
    /// `invalidMessage`, `invalidReasonDetails` joined, bounded.
    pub invalid_message: Option<String>,
    /// `payer` text when present and not empty.
    pub payer: Option<String>,
}

/// A facilitator's answer to settle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettleResponse {
    /// Verdict.
    pub success: bool,
    /// Transaction hash text, may be empty.
    pub transaction: String,
    /// Network as named by the facilitator, may be empty on failure.
    pub network: String,
    /// `payer` text when present and not empty.
    pub payer: Option<String>,
    /// `amount` text when present.
    pub amount: Option<String>,
    /// `errorReason`.
    pub error_reason: Option<String>,
    /// `errorMessage`, bounded.
    pub error_message: Option<String>,
}

/// A receipt as the buyer gets it, in `PAYMENT-RESPONSE` and `X-PAYMENT-RESPONSE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Whether money moved.
    pub success: bool,
    /// Transaction hash, empty when none.
    pub transaction: String,
    /// Chain.
    pub network: Network,
    /// Payer.
    pub payer: Address,
    /// Settled atomic units.
    pub amount: Amount,
    /// `errorReason` of a refusal.
    pub error_reason: Option<String>,
    /// Decides the spelling of the network (v1 name for v1).
    pub version: Version,
}

/// The verify answer as it stands; serde refuses a known field that occurs twice.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VerifyWire {
    is_valid: bool,
    #[serde(default)]
    invalid_reason: Value,
    #[serde(default)]
    invalid_message: Value,
    /// x402-rs.
    #[serde(default)]
    invalid_reason_details: Value,
    #[serde(default)]
    payer: Value,
}

/// The settle answer as it stands.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SettleWire {
    success: bool,
    #[serde(default)]
    transaction: Value,
    #[serde(default)]
    network: Value,
    #[serde(default)]
    payer: Value,
    #[serde(default)]
    amount: Value,
    /// Snake case in one path of x402-rs.
    #[serde(default, alias = "error_reason")]
    error_reason: Value,
    #[serde(default, alias = "error_message")]
    error_message: Value,
}

/// Longest text taken from a facilitator, in characters.
const MAX_TEXT: usize = 300;

impl VerifyResponse {
    /// Reads a body that carries a verdict (an object with boolean `isValid`), else `None`.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let wire: VerifyWire = read_object(body)?;
        let messages: Vec<String> = [&wire.invalid_message, &wire.invalid_reason_details]
            .into_iter()
            .filter_map(text)
            .collect();
        Some(Self {
            is_valid: wire.is_valid,
            invalid_reason: text(&wire.invalid_reason),
            invalid_message: (!messages.is_empty())
                .then(|| printable(&messages.join(": "), MAX_TEXT)),
            payer: text(&wire.payer),
        })
    }
}

impl SettleResponse {
    /// Reads a body that carries a verdict (an object with boolean `success`), else `None`.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let wire: SettleWire = read_object(body)?;
        Some(Self {
            success: wire.success,
            transaction: text(&wire.transaction).unwrap_or_default(),
            network: text(&wire.network).unwrap_or_default(),
            payer: text(&wire.payer),
            amount: text(&wire.amount),
            error_reason: text(&wire.error_reason),
            error_message: text(&wire.error_message),
        })
    }
}

impl Receipt {
    /// Padded standard base64 of the receipt's JSON.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        header_value(STANDARD.encode(self.json()))
    }

    fn json(&self) -> String {
        let caip2 = self.network.caip2();
        let (network, amount) = match self.version {
            Version::V1 => (self.network.v1_name().unwrap_or(&caip2), String::new()),
            Version::V2 => (caip2.as_str(), format!(r#","amount":"{}""#, self.amount)),
        };
        let error = self
            .error_reason
            .as_deref()
            .map(|reason| format!(r#","errorReason":{}"#, quoted(&printable(reason, MAX_TEXT))))
            .unwrap_or_default();
        format!(
            r#"{{"success":{},"transaction":{},"network":"{network}","payer":"{}"{amount}{error}}}"#,
            self.success,
            quoted(&printable(&self.transaction, MAX_TEXT)),
            self.payer.to_checksum(None)
        )
    }
}

/// A derived struct also reads a list of its fields in order; a verdict is an object.
fn read_object<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Option<T> {
    body.trim_ascii_start()
        .starts_with(b"{")
        .then(|| serde_json::from_slice(body).ok())
        .flatten()
}

/// Text of a field; `None` when it is absent, null or empty.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(printable(text, MAX_TEXT)),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Some(printable(&value.to_string(), MAX_TEXT))
        }
    }
}

#[cfg(test)]
mod tests;
