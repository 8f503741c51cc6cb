//! The closed label enums.
//!
//! A label value comes from one of these enums or from a live offer, from nothing else: a value
//! that a client can choose is a memory leak with a public address. Every enum lists all of its
//! values ([`Label::ALL`]), so every series exists from the start at 0 and the first increment is
//! not lost to `increase()` (P-54).

/// A label with a closed set of values.
pub trait Label: Copy + 'static {
    /// All values, in declaration order.
    const ALL: &'static [Self];

    /// The label value on the page.
    fn as_str(self) -> &'static str;

    /// Position in [`Label::ALL`].
    fn index(self) -> usize;
}

/// One value for each value of a closed label, without hashing: the hot path only indexes.
#[derive(Debug)]
pub(super) struct PerLabel<L, T> {
    values: Box<[T]>,
    label: std::marker::PhantomData<L>,
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

/// Label `result` of `status_writes_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatusWrite {
    /// Written.
    Written,
    /// Dropped because the offer had changed, or was gone.
    Dropped,
    /// RBAC does not allow it.
    Forbidden,
    /// The API server could not be reached or could not.
    Error,
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

/// Label `result` of families that know only two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Success {
    /// It worked.
    Ok,
    /// It did not.
    Error,
}

impl<L: Label, T> PerLabel<L, T> {
    /// Makes one value for each label.
    pub(super) fn new(make: impl FnMut(L) -> T) -> Self {
        Self {
            values: L::ALL.iter().copied().map(make).collect(),
            label: std::marker::PhantomData,
        }
    }

    /// The value of a label.
    #[expect(
        clippy::indexing_slicing,
        reason = "as long as ALL, and an index is below its length"
    )]
    pub(super) fn of(&self, label: L) -> &T {
        &self.values[label.index()]
    }
}

impl Label for FailureReason {
    const ALL: &'static [Self] = &[
        Self::InvalidPaymentHeader,
        Self::NoMatchingRequirement,
        Self::PaymentInvalid,
        Self::Permit2AllowanceRequired,
        Self::PaymentInUse,
        Self::PaymentUsed,
        Self::SettlementRejected,
        Self::SettlementUnknown,
        Self::FacilitatorUnreachable,
        Self::FacilitatorTimeout,
        Self::FacilitatorError,
        Self::LedgerUnavailable,
        Self::Busy,
        Self::ClientDisconnected,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::InvalidPaymentHeader => "invalid_payment_header",
            Self::NoMatchingRequirement => "no_matching_requirement",
            Self::PaymentInvalid => "payment_invalid",
            Self::Permit2AllowanceRequired => "permit2_allowance_required",
            Self::PaymentInUse => "payment_in_use",
            Self::PaymentUsed => "payment_used",
            Self::SettlementRejected => "settlement_rejected",
            Self::SettlementUnknown => "settlement_unknown",
            Self::FacilitatorUnreachable => "facilitator_unreachable",
            Self::FacilitatorTimeout => "facilitator_timeout",
            Self::FacilitatorError => "facilitator_error",
            Self::LedgerUnavailable => "ledger_unavailable",
            Self::Busy => "busy",
            Self::ClientDisconnected => "client_disconnected",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for OutcomeLabel {
    const ALL: &'static [Self] = &[
        Self::Free,
        Self::Challenge,
        Self::Admit,
        Self::PaymentRefused,
        Self::SettlementRejected,
        Self::Refused,
        Self::Unavailable,
        Self::Withdrawn,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Challenge => "challenge",
            Self::Admit => "admit",
            Self::PaymentRefused => "payment_refused",
            Self::SettlementRejected => "settlement_rejected",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Withdrawn => "withdrawn",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for FacilitatorOperation {
    const ALL: &'static [Self] = &[Self::Verify, Self::Settle];

    fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Settle => "settle",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for FacilitatorResult {
    const ALL: &'static [Self] = &[
        Self::Ok,
        Self::Invalid,
        Self::Unreachable,
        Self::Timeout,
        Self::Error,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Invalid => "invalid",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Error => "error",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for LedgerOperation {
    const ALL: &'static [Self] = &[
        Self::Lookup,
        Self::Claim,
        Self::Advance,
        Self::Paths,
        Self::Upkeep,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Claim => "claim",
            Self::Advance => "advance",
            Self::Paths => "paths",
            Self::Upkeep => "upkeep",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for ReloadSource {
    const ALL: &'static [Self] = &[Self::File, Self::Kube];

    fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Kube => "kube",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for StatusWrite {
    const ALL: &'static [Self] = &[Self::Written, Self::Dropped, Self::Forbidden, Self::Error];

    fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Dropped => "dropped",
            Self::Forbidden => "forbidden",
            Self::Error => "error",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for UntrustedClass {
    const ALL: &'static [Self] = &[
        Self::Peer,
        Self::MissingHeader,
        Self::DoubledHeader,
        Self::AliasedHeader,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::MissingHeader => "missing_header",
            Self::DoubledHeader => "doubled_header",
            Self::AliasedHeader => "aliased_header",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for Success {
    const ALL: &'static [Self] = &[Self::Ok, Self::Error];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl FailureReason {
    /// Whether its series exists from the start. The others appear with their first failure: all of
    /// them for every offer would more than double the page.
    #[must_use]
    pub const fn is_expected(self) -> bool {
        match self {
            Self::PaymentInvalid
            | Self::NoMatchingRequirement
            | Self::FacilitatorUnreachable
            | Self::SettlementUnknown => true,
            Self::InvalidPaymentHeader
            | Self::Permit2AllowanceRequired
            | Self::PaymentInUse
            | Self::PaymentUsed
            | Self::SettlementRejected
            | Self::FacilitatorTimeout
            | Self::FacilitatorError
            | Self::LedgerUnavailable
            | Self::Busy
            | Self::ClientDisconnected => false,
        }
    }
}

impl From<bool> for Success {
    fn from(ok: bool) -> Self {
        if ok { Self::Ok } else { Self::Error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_closed<L: Label + std::fmt::Debug>() {
        let mut names: Vec<_> = L::ALL.iter().map(|label| label.as_str()).collect();
        for (position, label) in L::ALL.iter().enumerate() {
            assert_eq!(label.index(), position, "{label:?}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(
            names.len(),
            L::ALL.len(),
            "two values of one label have one name"
        );
    }

    #[test]
    fn every_label_knows_all_its_values_in_order() {
        is_closed::<FailureReason>();
        is_closed::<OutcomeLabel>();
        is_closed::<FacilitatorOperation>();
        is_closed::<FacilitatorResult>();
        is_closed::<LedgerOperation>();
        is_closed::<ReloadSource>();
        is_closed::<StatusWrite>();
        is_closed::<UntrustedClass>();
        is_closed::<Success>();
    }
}
