//! The stable reason codes, with the words and habits that belong to each (`docs/buyers.md`).
//!
//! Every refusal has exactly one. Not here: the status, which is the transport's (`http/respond`).

use crate::metrics::FailureReason;
use std::time::Duration;

/// Every reason code the product answers (design section 5, `docs/buyers.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Paid path, no payment.
    PaymentRequired,
    /// Payment header malformed, doubled, too large, wrong version.
    InvalidPaymentHeader,
    /// Payment matches no offer of ours.
    NoMatchingRequirement,
    /// Facilitator or local check says invalid.
    PaymentInvalid,
    /// Permit2 allowance missing.
    Permit2AllowanceRequired,
    /// The payment is being used.
    PaymentInUse,
    /// The payment was used.
    PaymentUsed,
    /// Settlement refused.
    SettlementRejected,
    /// Settlement outcome unknown.
    SettlementUnknown,
    /// Facilitator refused the connection, reset it, or limits us.
    FacilitatorUnreachable,
    /// Facilitator too slow.
    FacilitatorTimeout,
    /// Facilitator talks nonsense or rejects our credentials.
    FacilitatorError,
    /// Ledger down.
    LedgerUnavailable,
    /// Offer broken.
    OfferMisconfigured,
    /// Offer withdrawn.
    OfferWithdrawn,
    /// Offer draining.
    OfferDraining,
    /// Not loaded yet.
    NotReady,
    /// Nothing matches.
    NoRoute,
    /// The pinned offer does not exist.
    UnknownOffer,
    /// No room (permits, rates, too little time left).
    Busy,
    /// Target has no single meaning.
    AmbiguousTarget,
    /// Forwarded target missing.
    MissingForwardedUri,
    /// Forwarded headers doubled or aliased.
    AmbiguousForwardedHeaders,
    /// The peer is not a trusted proxy.
    UntrustedPeer,
    /// A wallet sign-in is needed.
    SignInRequired,
    /// No such endpoint on this port.
    NoSuchEndpoint,
    /// Internal error.
    InternalError,
}

impl Reason {
    /// The stable code.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PaymentRequired => "payment_required",
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
            Self::OfferMisconfigured => "offer_misconfigured",
            Self::OfferWithdrawn => "offer_withdrawn",
            Self::OfferDraining => "offer_draining",
            Self::NotReady => "not_ready",
            Self::NoRoute => "no_route",
            Self::UnknownOffer => "unknown_offer",
            Self::Busy => "busy",
            Self::AmbiguousTarget => "ambiguous_target",
            Self::MissingForwardedUri => "missing_forwarded_uri",
            Self::AmbiguousForwardedHeaders => "ambiguous_forwarded_headers",
            Self::UntrustedPeer => "untrusted_peer",
            Self::SignInRequired => "sign_in_required",
            Self::NoSuchEndpoint => "no_such_endpoint",
            Self::InternalError => "internal_error",
        }
    }

    /// The sentence for `error`.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::PaymentRequired => "Payment required for this resource",
            Self::InvalidPaymentHeader => "Invalid payment header",
            Self::NoMatchingRequirement => "The payment matches none of the accepted options",
            Self::PaymentInvalid => "The payment is not valid",
            Self::Permit2AllowanceRequired => "The token allowance for Permit2 is missing",
            Self::PaymentInUse => "This payment is being used by another request",
            Self::PaymentUsed => "This payment was used already",
            Self::SettlementRejected => "Payment settlement failed",
            Self::SettlementUnknown => "The outcome of the payment is not known yet",
            Self::FacilitatorUnreachable | Self::FacilitatorTimeout | Self::FacilitatorError => {
                "Payment verification failed"
            }
            Self::LedgerUnavailable => "Payments cannot be recorded right now",
            Self::OfferMisconfigured => "This offer is misconfigured by its seller",
            Self::OfferWithdrawn => "This offer was withdrawn",
            Self::OfferDraining => "This offer is being withdrawn and takes no new payments",
            Self::NotReady => "The payment gate is starting",
            Self::NoRoute => "No offer covers this path",
            Self::UnknownOffer => "No such offer",
            Self::Busy => "Too many payments are in flight",
            Self::AmbiguousTarget => "The request target has no single meaning",
            Self::MissingForwardedUri => "The proxy did not say which request this is",
            Self::AmbiguousForwardedHeaders => "The forwarded headers contradict each other",
            Self::UntrustedPeer => "This endpoint answers only the ingress",
            Self::SignInRequired => "A wallet sign-in is required",
            Self::NoSuchEndpoint => "No such endpoint",
            Self::InternalError => "Internal error",
        }
    }

    /// What the client should do, where the sentence does not say it.
    #[must_use]
    pub const fn hint(self) -> Option<&'static str> {
        match self {
            Self::PaymentInUse => Some("wait for the answer of the first request"),
            Self::PaymentUsed => Some(
                "sign a new payment; if this one was charged and not answered, the new one is not \
                 charged",
            ),
            Self::SettlementUnknown => Some(
                "the payment may have been charged: do not sign another one, retry after the given \
                 time",
            ),
            Self::FacilitatorUnreachable | Self::FacilitatorTimeout | Self::FacilitatorError => {
                Some("the payment was not used; send the same one again")
            }
            Self::LedgerUnavailable => Some(
                "send the same payment again; what was charged without an answer is kept as credit",
            ),
            Self::Busy => Some("nothing was charged; send the same payment again"),
            Self::NoMatchingRequirement => Some("pay one of the options in accepts as it stands"),
            Self::Permit2AllowanceRequired => Some("approve Permit2 for the token, then pay again"),
            Self::MissingForwardedUri => Some(
                "call this endpoint from a forwardAuth middleware; it sends X-Forwarded-Uri and -Host",
            ),
            Self::OfferMisconfigured => {
                Some("the seller finds the cause with `x402-verifier check` or in /routes")
            }
            Self::PaymentRequired
            | Self::InvalidPaymentHeader
            | Self::PaymentInvalid
            | Self::SettlementRejected
            | Self::OfferWithdrawn
            | Self::OfferDraining
            | Self::NotReady
            | Self::NoRoute
            | Self::UnknownOffer
            | Self::AmbiguousTarget
            | Self::AmbiguousForwardedHeaders
            | Self::UntrustedPeer
            | Self::SignInRequired
            | Self::NoSuchEndpoint
            | Self::InternalError => None,
        }
    }

    /// Whether the same request, payment included, may succeed later.
    #[must_use]
    pub const fn retriable(self) -> bool {
        match self {
            Self::PaymentInUse
            | Self::SettlementUnknown
            | Self::FacilitatorUnreachable
            | Self::FacilitatorTimeout
            | Self::FacilitatorError
            | Self::LedgerUnavailable
            | Self::OfferMisconfigured
            | Self::NotReady
            | Self::Busy
            | Self::InternalError => true,
            Self::PaymentRequired
            | Self::InvalidPaymentHeader
            | Self::NoMatchingRequirement
            | Self::PaymentInvalid
            | Self::Permit2AllowanceRequired
            | Self::PaymentUsed
            | Self::SettlementRejected
            | Self::OfferWithdrawn
            | Self::OfferDraining
            | Self::NoRoute
            | Self::UnknownOffer
            | Self::AmbiguousTarget
            | Self::MissingForwardedUri
            | Self::AmbiguousForwardedHeaders
            | Self::UntrustedPeer
            | Self::SignInRequired
            | Self::NoSuchEndpoint => false,
        }
    }

    pub(super) const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::SettlementUnknown => Some(Duration::from_secs(30)),
            Self::Busy | Self::NotReady => Some(Duration::from_secs(1)),
            Self::LedgerUnavailable => Some(Duration::from_secs(5)),
            Self::PaymentRequired
            | Self::InvalidPaymentHeader
            | Self::NoMatchingRequirement
            | Self::PaymentInvalid
            | Self::Permit2AllowanceRequired
            | Self::PaymentInUse
            | Self::PaymentUsed
            | Self::SettlementRejected
            | Self::FacilitatorUnreachable
            | Self::FacilitatorTimeout
            | Self::FacilitatorError
            | Self::OfferMisconfigured
            | Self::OfferWithdrawn
            | Self::OfferDraining
            | Self::NoRoute
            | Self::UnknownOffer
            | Self::AmbiguousTarget
            | Self::MissingForwardedUri
            | Self::AmbiguousForwardedHeaders
            | Self::UntrustedPeer
            | Self::SignInRequired
            | Self::NoSuchEndpoint
            | Self::InternalError => None,
        }
    }

    /// The label under which a failed payment is counted; `None` when no payment failed.
    #[must_use]
    pub const fn failure(self) -> Option<FailureReason> {
        match self {
            Self::InvalidPaymentHeader => Some(FailureReason::InvalidPaymentHeader),
            Self::NoMatchingRequirement => Some(FailureReason::NoMatchingRequirement),
            Self::PaymentInvalid => Some(FailureReason::PaymentInvalid),
            Self::Permit2AllowanceRequired => Some(FailureReason::Permit2AllowanceRequired),
            Self::PaymentInUse => Some(FailureReason::PaymentInUse),
            Self::PaymentUsed => Some(FailureReason::PaymentUsed),
            Self::SettlementRejected => Some(FailureReason::SettlementRejected),
            Self::SettlementUnknown => Some(FailureReason::SettlementUnknown),
            Self::FacilitatorUnreachable => Some(FailureReason::FacilitatorUnreachable),
            Self::FacilitatorTimeout => Some(FailureReason::FacilitatorTimeout),
            Self::FacilitatorError => Some(FailureReason::FacilitatorError),
            Self::LedgerUnavailable => Some(FailureReason::LedgerUnavailable),
            Self::Busy => Some(FailureReason::Busy),
            Self::PaymentRequired
            | Self::OfferMisconfigured
            | Self::OfferWithdrawn
            | Self::OfferDraining
            | Self::NotReady
            | Self::NoRoute
            | Self::UnknownOffer
            | Self::AmbiguousTarget
            | Self::MissingForwardedUri
            | Self::AmbiguousForwardedHeaders
            | Self::UntrustedPeer
            | Self::SignInRequired
            | Self::NoSuchEndpoint
            | Self::InternalError => None,
        }
    }
}
