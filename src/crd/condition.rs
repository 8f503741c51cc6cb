//! Our condition in the status of an offer: its type, and the closed list of its reasons.
//!
//! What a route of an offer came to is known to the table by a stable code; [`Reason::of`] gives
//! the code's word in a condition. The words are an interface: alerts and sellers read them, and
//! `docs/offers.md` explains each one.

/// Type of the one condition that we write.
pub const CONDITION_TYPE: &str = "PaymentGateEnforced";

/// Why the condition is what it is. Of several that apply to one offer the greatest is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Every route is served as declared. The condition is `True`.
    Enforced,
    /// A route is hidden by an earlier one with the same path. The condition is `True`.
    Shadowed,
    /// Draining: no new buyers, payments of earlier challenges are served. The condition is `True`.
    Draining,
    /// Paused, or its drain is over: its paths answer 410.
    Withdrawn,
    /// The operator's configuration lacks something that the offer needs.
    OperatorConfiguration,
    /// The Secret for the upstream's credential cannot be used.
    UpstreamSecret,
    /// The upstream is in another namespace (O6).
    ForeignUpstream,
    /// A price cannot be charged exactly.
    InvalidPrice,
    /// Network, token, recipient or another part of a payment cannot be used.
    InvalidPayment,
    /// A path or hostname cannot be used.
    InvalidPath,
    /// Another field cannot be understood.
    InvalidSpec,
    /// A path belongs to another namespace or to the operator (O1, O2). Nothing is closed.
    PathConflict,
    /// A path is still reserved for another namespace (O3). Nothing is closed.
    PathReserved,
    /// A path that no offer may have (O5). Nothing is closed.
    ReservedPath,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 14] = [
        Self::Enforced,
        Self::Shadowed,
        Self::Draining,
        Self::Withdrawn,
        Self::OperatorConfiguration,
        Self::UpstreamSecret,
        Self::ForeignUpstream,
        Self::InvalidPrice,
        Self::InvalidPayment,
        Self::InvalidPath,
        Self::InvalidSpec,
        Self::PathConflict,
        Self::PathReserved,
        Self::ReservedPath,
    ];

    /// The reason for a code in the table's report (`invalid_price`, `PathConflict`); a code that
    /// is not known here is [`Reason::InvalidSpec`].
    #[must_use]
    pub fn of(code: &str) -> Self {
        match code {
            "PathConflict" => Self::PathConflict,
            "PathReserved" => Self::PathReserved,
            "ReservedPath" => Self::ReservedPath,
            "shadowed" => Self::Shadowed,
            "withdrawn" | "long_closed" => Self::Withdrawn,
            "unknown_facilitator" | "invalid_facilitator_header" => Self::OperatorConfiguration,
            "upstream_secret" | "invalid_upstream_auth" => Self::UpstreamSecret,
            "foreign_upstream" => Self::ForeignUpstream,
            "invalid_price" => Self::InvalidPrice,
            "invalid_payment" | "payment_mismatch" | "unsupported_method" | "unknown_chain"
            | "invalid_asset" | "unknown_asset" | "invalid_address" | "invalid_recipient"
            | "no_payment_option" => Self::InvalidPayment,
            "invalid_path" | "invalid_pattern" | "outside_base_path" | "invalid_hostname" => {
                Self::InvalidPath
            }
            _ => Self::InvalidSpec,
        }
    }

    /// The word in `status.conditions[].reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforced => "Enforced",
            Self::Shadowed => "Shadowed",
            Self::Draining => "Draining",
            Self::Withdrawn => "Withdrawn",
            Self::OperatorConfiguration => "OperatorConfiguration",
            Self::UpstreamSecret => "UpstreamSecret",
            Self::ForeignUpstream => "ForeignUpstream",
            Self::InvalidPrice => "InvalidPrice",
            Self::InvalidPayment => "InvalidPayment",
            Self::InvalidPath => "InvalidPath",
            Self::InvalidSpec => "InvalidSpec",
            Self::PathConflict => "PathConflict",
            Self::PathReserved => "PathReserved",
            Self::ReservedPath => "ReservedPath",
        }
    }

    /// Whether the condition is `True` with this reason, else `False`.
    #[must_use]
    pub const fn is_enforced(self) -> bool {
        match self {
            Self::Enforced | Self::Shadowed | Self::Draining => true,
            Self::Withdrawn
            | Self::OperatorConfiguration
            | Self::UpstreamSecret
            | Self::ForeignUpstream
            | Self::InvalidPrice
            | Self::InvalidPayment
            | Self::InvalidPath
            | Self::InvalidSpec
            | Self::PathConflict
            | Self::PathReserved
            | Self::ReservedPath => false,
        }
    }
}
