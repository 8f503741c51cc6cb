//! Every metric family, the closed label enums, and the per-offer counters with their rendering.
//!
//! Stub: to be written in full; the signatures below are the contract.

use std::sync::Arc;
use std::time::Duration;

/// Process-wide families, behind the `prometheus` crate.
#[derive(Debug)]
pub struct Metrics {
    _private: (),
}

/// The label block shared by all per-offer families.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OfferLabels {
    /// `offer_namespace`.
    pub namespace: Arc<str>,
    /// `offer_name`.
    pub name: Arc<str>,
    /// `chain`, CAIP-2.
    pub chain: Arc<str>,
    /// `asset_symbol`, resolved.
    pub asset_symbol: Arc<str>,
    /// Label `asset` of `charged_atomic_units_total` and `offer_info`: token address, checksummed.
    pub asset: Arc<str>,
    /// Label `decimals` of `offer_info`.
    pub decimals: u8,
}

/// Counters of one label block of one offer; owned by the table, incremented by the gate (R7).
#[derive(Debug)]
pub struct OfferCounters {
    _private: (),
}

/// Label `reason` of `payment_failure_reasons_total`: the reason codes of payment failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureReason {
    /// `invalid_payment_header`.
    InvalidPaymentHeader,
    /// `no_matching_requirement`.
    NoMatchingRequirement,
    /// `payment_invalid`.
    PaymentInvalid,
    /// `permit2_allowance_required`.
    Permit2AllowanceRequired,
    /// `payment_in_use`.
    PaymentInUse,
    /// `payment_used`.
    PaymentUsed,
    /// `settlement_rejected`.
    SettlementRejected,
    /// `settlement_unknown`.
    SettlementUnknown,
    /// `facilitator_unreachable`.
    FacilitatorUnreachable,
    /// `facilitator_timeout`.
    FacilitatorTimeout,
    /// `facilitator_error`.
    FacilitatorError,
    /// `ledger_unavailable`.
    LedgerUnavailable,
    /// `busy`.
    Busy,
    /// `client_disconnected`: the buyer hung up before its answer.
    ClientDisconnected,
}

/// Label `outcome` of `request_duration_seconds`, one per `gate::Outcome` variant and reason class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutcomeLabel {
    /// Free path.
    Free,
    /// Unpaid 402.
    Challenge,
    /// Paid and admitted.
    Admit,
    /// A payment was refused with a fresh challenge (402, 400, 412).
    PaymentRefused,
    /// Settlement refused (402 with receipt).
    SettlementRejected,
    /// Refused without challenge (4xx).
    Refused,
    /// Our side cannot (5xx).
    Unavailable,
    /// 410.
    Withdrawn,
}

/// Label `operation` of facilitator families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FacilitatorOperation {
    /// `POST /verify`.
    Verify,
    /// `POST /settle`.
    Settle,
}

/// Label `result` of facilitator families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FacilitatorResult {
    /// Positive verdict.
    Ok,
    /// Negative verdict.
    Invalid,
    /// Connect failed or reset.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// Anything else.
    Error,
}

/// Label `operation` of ledger families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LedgerOperation {
    /// Read-only key look-up.
    Lookup,
    /// Claim.
    Claim,
    /// Any later state change.
    Advance,
    /// Closed paths read or written.
    Paths,
    /// Leases, pruning, counting.
    Upkeep,
}

/// Label `source` of `reloads_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReloadSource {
    /// The pricing file.
    File,
    /// The cluster.
    Kube,
}

/// Label `class` of `untrusted_requests_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UntrustedClass {
    /// Peer outside `trustedProxies`.
    Peer,
    /// Forwarded header missing.
    MissingHeader,
    /// Forwarded header doubled or a comma list.
    DoubledHeader,
    /// Alias such as `X_Forwarded_Uri`.
    AliasedHeader,
}

impl Metrics {
    /// Registers every process-wide family under `prefix` (no trailing underscore).
    ///
    /// # Errors
    /// When the prefix is not a metric name.
    pub fn new(_prefix: &str) -> Result<Arc<Self>, prometheus::Error> {
        todo!()
    }
    /// Counts and times one answered request.
    pub fn request(&self, _outcome: OutcomeLabel, _elapsed: Duration) {
        todo!()
    }
    /// Counts and times one facilitator call.
    pub fn facilitator_call(
        &self,
        _operation: FacilitatorOperation,
        _result: FacilitatorResult,
        _elapsed: Duration,
    ) {
        todo!()
    }
    /// Counts one ledger operation.
    pub fn ledger_operation(&self, _operation: LedgerOperation, _ok: bool) {
        todo!()
    }
    /// Counts one ambiguous target; `class` is `route::AmbiguityClass::as_str`.
    pub fn ambiguous_target(&self, _class: &'static str) {
        todo!()
    }
    /// Counts one refused peer or header set.
    pub fn untrusted_request(&self, _class: UntrustedClass) {
        todo!()
    }
    /// Counts one reload.
    pub fn reload(&self, _source: ReloadSource, _ok: bool) {
        todo!()
    }
    /// Adjusts `claims_in_flight`.
    pub fn claims_in_flight(&self, _delta: i64) {
        todo!()
    }
    /// Sets `payments_unknown`.
    pub fn set_payments_unknown(&self, _count: u64) {
        todo!()
    }
    /// The process-wide families as exposition text.
    #[must_use]
    pub fn render(&self) -> String {
        todo!()
    }
}

impl OfferCounters {
    /// Zeroed counters with the label block rendered.
    #[must_use]
    pub fn new(_labels: &OfferLabels) -> Self {
        todo!()
    }
    /// `requests_total`.
    pub fn request(&self) {
        todo!()
    }
    /// `payment_required_total`.
    pub fn payment_required(&self) {
        todo!()
    }
    /// `payment_verified_total`.
    pub fn payment_verified(&self) {
        todo!()
    }
    /// `payment_failed_total` and `payment_failure_reasons_total{reason}`.
    pub fn payment_failed(&self, _reason: FailureReason) {
        todo!()
    }
    /// `charged_requests_total`, `charged_atomic_units_total`, `last_payment_success_seconds`.
    pub fn charged(&self, _atomic_units: u128, _unix_seconds: u64) {
        todo!()
    }
    /// `upstream_failed_after_verify_total`.
    pub fn upstream_failed(&self) {
        todo!()
    }
    /// Restores `last_payment_success_seconds` from the ledger; never moves it back.
    pub fn restore_last_success(&self, _unix_seconds: u64) {
        todo!()
    }
}
