//! The x402 wire, versions 1 and 2: headers, challenges, payments, receipts, facilitator messages.
//!
//! Stub: to be written in full; the types below are the contract.

use crate::money::{Amount, Asset, Network};
use alloy_primitives::{Address, B256, U256};
use http::{HeaderMap, HeaderValue};
use std::sync::Arc;

/// Protocol version of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// `X-PAYMENT` with top-level `scheme` and `network`.
    V1,
    /// `PAYMENT-SIGNATURE` (or `X-PAYMENT`) with `accepted`.
    V2,
}

/// A facilitator as it is called: base URL and the headers of each operation.
#[derive(Clone)]
pub struct Endpoint {
    /// Base URL without trailing slash.
    pub base: Arc<str>,
    /// Headers of `POST {base}/verify`; values are marked sensitive.
    pub verify_headers: HeaderMap,
    /// Headers of `POST {base}/settle`.
    pub settle_headers: HeaderMap,
    /// Headers of `GET {base}/supported`.
    pub supported_headers: HeaderMap,
}

/// One way to pay, compiled: typed for comparison, rendered for the wire.
#[derive(Debug, Clone)]
pub struct Requirement {
    /// Chain.
    pub network: Network,
    /// Token.
    pub asset: Arc<Asset>,
    /// Price.
    pub amount: Amount,
    /// Recipient.
    pub pay_to: Address,
    /// Advertised validity in seconds.
    pub max_timeout_seconds: u32,
    /// Whether `extra.paymentFlow` is `upfront` (settle before).
    pub upfront: bool,
    /// The v2 `PaymentRequirements` object exactly as it stands in `accepts` and in facilitator
    /// calls.
    json_v2: Arc<str>,
    /// The v1 object up to and from the per-request `resource` string, when the chain has a v1 name.
    json_v1: Option<(Arc<str>, Arc<str>)>,
}

/// All that a challenge of one route says, rendered once at table build.
#[derive(Debug, Clone)]
pub struct ChallengeTemplate {
    _private: (),
}

/// A rendered challenge.
#[derive(Debug, Clone)]
pub struct Challenge {
    /// Value of `PAYMENT-REQUIRED`: padded standard base64 of the v2 object.
    pub header: HeaderValue,
    /// JSON body: v1 object when a requirement has a v1 name, else the v2 object, with our error
    /// fields (`error`, `reason`, `detail`, `hint`, `retriable`) beside them.
    pub body: Vec<u8>,
}

/// What a repeated challenge says about the payment that failed (`extensions.paymentFailure`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Stable reason code.
    pub reason: &'static str,
    /// The sentence for `error`.
    pub error: &'static str,
    /// More, when known (bounded, printable).
    pub detail: Option<String>,
    /// What to do next.
    pub hint: Option<String>,
}

/// A decoded payment. Debug shows neither signature nor payload.
#[derive(Clone)]
pub struct Payment {
    /// Version of the payload.
    pub version: Version,
    /// The decoded JSON, byte for byte, to forward.
    pub json: Arc<str>,
    /// keccak256 of `json`: identity of this very payload (M1).
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
    /// Placeholder.
    #[error("payment header is not base64")]
    Base64,
}

/// Which field of `accepted` differs from our requirement, with both values as bounded text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Field name as on the wire (`payTo`).
    pub field: &'static str,
    /// What we ask for.
    pub expected: String,
    /// What the payment says.
    pub found: String,
}

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

impl Requirement {
    /// Compiles a requirement.
    #[must_use]
    pub fn new(
        _network: Network,
        _asset: Arc<Asset>,
        _amount: Amount,
        _pay_to: Address,
        _max_timeout_seconds: u32,
        _upfront: bool,
        _description: Option<&str>,
    ) -> Self {
        todo!()
    }
    /// The v2 object.
    #[must_use]
    pub fn json_v2(&self) -> &str {
        &self.json_v2
    }
    /// The v1 object for this resource URL, when the chain has a v1 name.
    #[must_use]
    pub fn json_v1(&self, _resource_url: &str) -> Option<String> {
        let _ = &self.json_v1;
        todo!()
    }
    /// Compares the buyer's copy with this requirement (protocol digest 4.2).
    ///
    /// # Errors
    /// The first field that differs.
    pub fn matches(&self, _accepted: &Accepted) -> Result<(), Mismatch> {
        todo!()
    }
    /// The body of `POST /verify` and `POST /settle`: version, the payment bytes unchanged, our
    /// requirement in the payment's version. `None` when a v1 payment meets a chain without v1 name.
    #[must_use]
    pub fn facilitator_body(&self, _payment: &Payment, _resource_url: &str) -> Option<Vec<u8>> {
        todo!()
    }
}

impl ChallengeTemplate {
    /// Renders what is constant: description, accepts (all requirements in order; at most one v1
    /// entry per network, M2), service name.
    #[must_use]
    pub fn new(
        _requirements: &[Requirement],
        _description: Option<&str>,
        _service_name: Option<&str>,
    ) -> Self {
        todo!()
    }
    /// Renders the challenge for one request. `failure` is `None` for the first challenge.
    #[must_use]
    pub fn render(&self, _resource_url: &str, _failure: Option<&Failure>) -> Challenge {
        todo!()
    }
}

/// Reads the payment headers of a request: `PAYMENT-SIGNATURE` (v2 only) or `X-PAYMENT` (v1, and v2
/// for compatibility); `Ok(None)` when neither is there. Both at once, a doubled header, a header
/// over `max_bytes`, a v1 payload in the v2 header, duplicate JSON keys at any depth, depth over 32
/// are errors.
///
/// # Errors
/// See [`PaymentHeaderError`].
pub fn read_payment(
    _headers: &HeaderMap,
    _max_bytes: usize,
) -> Result<Option<Payment>, PaymentHeaderError> {
    todo!()
}

/// Whether a payment header of either version is present (nothing is read).
#[must_use]
pub fn has_payment(headers: &HeaderMap) -> bool {
    headers.contains_key(PAYMENT_SIGNATURE) || headers.contains_key(X_PAYMENT)
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

impl std::fmt::Debug for Payment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payment")
            .field("version", &self.version)
            .field("hash", &self.hash)
            .field("payer", &self.payer())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("base", &self.base).finish_non_exhaustive()
    }
}

impl VerifyResponse {
    /// Reads a body that carries a verdict (an object with boolean `isValid`), else `None`.
    #[must_use]
    pub fn parse(_body: &[u8]) -> Option<Self> {
        todo!()
    }
}

impl SettleResponse {
    /// Reads a body that carries a verdict (an object with boolean `success`), else `None`.
    #[must_use]
    pub fn parse(_body: &[u8]) -> Option<Self> {
        todo!()
    }
}

impl Receipt {
    /// Padded standard base64 of the receipt's JSON.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        todo!()
    }
}

/// Request header of v2 payments.
pub const PAYMENT_SIGNATURE: &str = "payment-signature";
/// Request header of v1 payments.
pub const X_PAYMENT: &str = "x-payment";
/// Response header of v2 challenges.
pub const PAYMENT_REQUIRED: &str = "payment-required";
/// Response header of v2 receipts.
pub const PAYMENT_RESPONSE: &str = "payment-response";
/// Response header of v1 receipts.
pub const X_PAYMENT_RESPONSE: &str = "x-payment-response";
