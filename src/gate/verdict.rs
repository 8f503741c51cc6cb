//! What a facilitator's answer means for money (M4).
//!
//! Pure. A settle is *refused* only for a reason in a closed list and with an empty transaction;
//! it is *settled* only with a well-formed hash on our network by our payer for our amount. All
//! else may have moved money and is unknown; "nonce already used" is unknown too, because it may
//! have been used by the very transfer we asked for.

use super::Reason;
use super::ports::{Fault, FaultKind};
use crate::money::Network;
use crate::x402::{Payment, Requirement, SettleResponse, VerifyResponse};
use alloy_primitives::{Address, U256};

/// Meaning of a verify verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verified {
    /// Valid, by the payer who signed.
    Valid,
    /// The payer's fault.
    Invalid {
        /// 402 `payment_invalid`, 412 `permit2_allowance_required` or 409 `payment_used`.
        reason: Reason,
        /// The facilitator's words.
        detail: Option<String>,
    },
    /// The facilitator contradicts itself or could not look: 502.
    Nonsense(String),
}

/// Meaning of a settle verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SettleMeaning {
    /// Money moved by this transaction.
    Settled {
        /// `0x` and 64 hex digits, lower case.
        transaction: String,
    },
    /// Nothing moved, for a reason of the payer's.
    Refused {
        /// `errorReason`.
        reason: String,
        /// The facilitator's words.
        detail: Option<String>,
    },
    /// `settlement_pending`: the same bytes may be sent once more.
    Pending {
        /// Transaction, when one was named.
        transaction: Option<String>,
    },
    /// Money may have moved.
    Unknown {
        /// Transaction, when one was named.
        transaction: Option<String>,
        /// Why this is not known.
        detail: String,
    },
}

/// Reasons that prove that nothing was broadcast (design M4: signature, recipient, value, scheme,
/// network, not yet valid, expired, balance, allowance), in the spelling of both official
/// facilitators, the hosted one and the specification.
const REFUSALS: &[&str] = &[
    "insufficient_funds",
    "insufficient_balance",
    "invalid_exact_evm_insufficient_balance",
    "permit2_insufficient_balance",
    "permit2_allowance_required",
    "invalid_signature",
    "invalid_exact_evm_signature",
    "invalid_exact_evm_payload_signature",
    "invalid_exact_evm_failed_to_parse_signature",
    "invalid_permit2_signature",
    "recipient_mismatch",
    "invalid_exact_evm_recipient_mismatch",
    "invalid_exact_evm_payload_recipient_mismatch",
    "invalid_exact_evm_payload_authorization_recipient_mismatch",
    "invalid_permit2_recipient_mismatch",
    "invalid_payment_amount",
    "amount_too_low",
    "invalid_exact_evm_authorization_value",
    "invalid_exact_evm_payload_authorization_value",
    "invalid_exact_evm_payload_authorization_value_mismatch",
    "permit2_amount_mismatch",
    "unsupported_scheme",
    "invalid_scheme",
    "invalid_exact_evm_scheme",
    "invalid_network",
    "unsupported_chain",
    "chain_id_mismatch",
    "invalid_exact_evm_network_mismatch",
    "invalid_payment_early",
    "invalid_exact_evm_payload_authorization_valid_after",
    "permit2_not_yet_valid",
    "payment_expired",
    "invalid_payment_expired",
    "invalid_exact_evm_payload_authorization_valid_before",
    "permit2_deadline_expired",
];

/// Reasons by which a facilitator says that the authorisation was used on chain.
const NONCE_USED: &[&str] = &[
    "invalid_exact_evm_nonce_already_used",
    "invalid_exact_evm_payload_authorization_nonce_used",
    "nonce_already_used",
    "invalid_permit2_nonce",
    "permit2_invalid_nonce",
    "duplicate_settlement",
];

/// Reasons by which a facilitator says, in the form of a verdict, that it failed itself (a chain it
/// cannot reach, a defect). That is no fault of the payer: no challenge, nothing remembered (R9).
const FACILITATOR_FAULTS: &[&str] = &[
    "unexpected_verify_error",
    "unexpected_settle_error",
    "unexpected_error",
    "internal_error",
    "internal_server_error",
];

/// Longest word of a facilitator that is repeated: a hash or an address, no signature.
const LONGEST_WORD: usize = 66;

/// Reads a verify verdict (M4).
pub(super) fn verified(response: &VerifyResponse, payer: Address) -> Verified {
    if response.is_valid {
        return match names_other(response.payer.as_deref(), payer) {
            None => Verified::Valid,
            Some(other) => Verified::Nonsense(format!("verify names another payer: {other}")),
        };
    }
    let code = response.invalid_reason.as_deref().unwrap_or_default();
    if FACILITATOR_FAULTS.contains(&code) {
        return Verified::Nonsense(format!("verify failed at the facilitator: {code}"));
    }
    let reason = if NONCE_USED.contains(&code) {
        Reason::PaymentUsed
    } else if code == "permit2_allowance_required" {
        Reason::Permit2AllowanceRequired
    } else {
        Reason::PaymentInvalid
    };
    let detail = joined(
        response.invalid_reason.as_deref(),
        response.invalid_message.as_deref(),
    );
    Verified::Invalid { reason, detail }
}

/// Reads a settle verdict (M4).
pub(super) fn settled(
    response: &SettleResponse,
    requirement: &Requirement,
    payment: &Payment,
) -> SettleMeaning {
    let transaction = transaction_hash(&response.transaction);
    if response.success {
        let problem =
            if transaction.is_none() {
                Some("success without a transaction hash".to_owned())
            } else if Network::parse(&response.network) != Some(requirement.network) {
                Some("success on another network".to_owned())
            } else if let Some(other) = names_other(response.payer.as_deref(), payment.payer()) {
                Some(format!("success for another payer: {other}"))
            } else if response.amount.as_deref().is_some_and(|amount| {
                amount.parse::<U256>() != Ok(U256::from(requirement.amount.0))
            }) {
                Some("success for another amount".to_owned())
            } else {
                None
            };
        return match (problem, transaction) {
            (None, Some(transaction)) => SettleMeaning::Settled { transaction },
            (problem, transaction) => SettleMeaning::Unknown {
                transaction,
                detail: problem.unwrap_or_default(),
            },
        };
    }
    let code = response.error_reason.as_deref().unwrap_or_default();
    let detail = joined(
        response.error_reason.as_deref(),
        response.error_message.as_deref(),
    );
    if code == "settlement_pending" {
        return SettleMeaning::Pending { transaction };
    }
    if is_refusal(response) {
        return SettleMeaning::Refused {
            reason: code.to_owned(),
            detail,
        };
    }
    SettleMeaning::Unknown {
        transaction,
        detail: detail.unwrap_or_else(|| "failure without a reason".to_owned()),
    }
}

/// Whether a failure proves that nothing was broadcast.
fn is_refusal(response: &SettleResponse) -> bool {
    response.transaction.trim().is_empty()
        && response
            .error_reason
            .as_deref()
            .is_some_and(|code| REFUSALS.contains(&code))
}

/// The reason code of a facilitator fault.
pub(super) const fn fault_reason(kind: FaultKind) -> Reason {
    match kind {
        FaultKind::Unreachable | FaultKind::RateLimited => Reason::FacilitatorUnreachable,
        FaultKind::Timeout => Reason::FacilitatorTimeout,
        FaultKind::Error => Reason::FacilitatorError,
    }
}

/// A fault that means "contradicts itself".
pub(super) const fn nonsense(detail: String) -> Fault {
    Fault {
        kind: FaultKind::Error,
        retry_after: None,
        detail,
    }
}

fn transaction_hash(text: &str) -> Option<String> {
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))?;
    (digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .then(|| format!("0x{}", digits.to_ascii_lowercase()))
}

/// The other payer that a verdict names, if it names one.
fn names_other(named: Option<&str>, payer: Address) -> Option<String> {
    let named = named?.trim();
    if named.is_empty() || named.parse::<Address>() == Ok(payer) {
        None
    } else {
        Some(named.to_owned())
    }
}

/// What a buyer may read of a text that names the inside of our or the facilitator's house: all of
/// it, or nothing.
pub(super) fn disclosable(detail: String) -> Option<String> {
    is_disclosable(&detail).then_some(detail)
}

/// Whether a text names no address, credential or signature (R13).
///
/// Client libraries of facilitators put the URL of their chain node (and the key in its path), the
/// request that failed and its signature into error texts; TLS and resolver errors name internal
/// hosts. A text is kept whole or dropped whole, half a secret is one too.
fn is_disclosable(text: &str) -> bool {
    let plain = |word: &str| {
        word.len() <= LONGEST_WORD
            && !word.contains(['@', '='])
            && !word.contains("://")
            && !is_host(word)
            && !word.eq_ignore_ascii_case("bearer")
    };
    !text.is_empty() && text.split_whitespace().all(plain)
}

/// A name or an address with a dot or several colons inside: `rpc.internal`, `10.0.0.1:8545`, `::1`.
/// A decimal number, the dot at the end of a sentence and a CAIP-2 chain are none.
fn is_host(word: &str) -> bool {
    if word.contains("::") {
        return true;
    }
    let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let number = word
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let dots = word.bytes().filter(|byte| *byte == b'.').count();
    let has_port = word
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let is_chain = word.starts_with("eip155:");
    dots > usize::from(number) || (has_port && !is_chain)
}

fn joined(reason: Option<&str>, message: Option<&str>) -> Option<String> {
    match (
        reason.filter(|text| is_disclosable(text)),
        message.filter(|text| is_disclosable(text)),
    ) {
        (Some(reason), Some(message)) => Some(format!("{reason}: {message}")),
        (Some(only), None) | (None, Some(only)) => Some(only.to_owned()),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0xAB00000000000000000000000000000000000000000000000000000000000001";

    fn refused(reason: &str, transaction: &str) -> SettleResponse {
        SettleResponse {
            success: false,
            transaction: transaction.to_owned(),
            network: "eip155:84532".to_owned(),
            payer: None,
            amount: None,
            error_reason: Some(reason.to_owned()),
            error_message: None,
        }
    }

    #[test]
    fn m4_only_a_listed_reason_without_a_transaction_is_a_refusal() {
        for reason in REFUSALS {
            assert!(refusal(reason, ""), "{reason}");
            assert!(
                !refusal(reason, HASH),
                "{reason} with a transaction may have moved money"
            );
        }
        for reason in [
            "",
            "invalid_exact_evm_transaction_failed",
            "invalid_exact_evm_nonce_already_used",
            "invalid_exact_evm_transaction_simulation_failed",
            "unexpected_settle_error",
            "unexpected_error",
            "duplicate_settlement",
        ] {
            assert!(!refusal(reason, ""), "{reason}");
        }
    }

    fn refusal(reason: &str, transaction: &str) -> bool {
        is_refusal(&refused(reason, transaction))
    }

    #[test]
    fn m4_a_transaction_hash_is_well_formed_or_none() {
        assert_eq!(transaction_hash(HASH), Some(HASH.to_ascii_lowercase()));
        let long = format!("{HASH}00");
        let bare = HASH.trim_start_matches("0x");
        for text in ["", "0x", "0x1", bare, long.as_str(), "0xzz"] {
            assert_eq!(transaction_hash(text), None, "{text}");
        }
    }

    #[test]
    fn m4_verify_reads_the_payer_as_bytes() {
        let payer = Address::repeat_byte(0xab);
        let says = |named: Option<&str>| {
            let response = VerifyResponse {
                is_valid: true,
                invalid_reason: None,
                invalid_message: None,
                payer: named.map(str::to_owned),
            };
            verified(&response, payer)
        };
        assert_eq!(says(None), Verified::Valid);
        assert_eq!(says(Some("")), Verified::Valid);
        assert_eq!(
            says(Some(&payer.to_string().to_lowercase())),
            Verified::Valid
        );
        let other = Address::repeat_byte(1).to_string();
        assert!(matches!(says(Some(&other)), Verified::Nonsense(_)));
    }

    #[test]
    fn r9_a_facilitator_that_failed_itself_is_no_fault_of_the_payer() {
        for reason in FACILITATOR_FAULTS {
            let response = VerifyResponse {
                is_valid: false,
                invalid_reason: Some((*reason).to_owned()),
                invalid_message: Some("HTTP request failed".to_owned()),
                payer: None,
            };
            let meaning = verified(&response, Address::ZERO);
            assert!(matches!(meaning, Verified::Nonsense(_)), "{meaning:?}");
        }
    }

    #[test]
    fn r13_what_names_the_inside_of_a_house_is_dropped_whole() {
        let signature = "ab".repeat(65);
        for text in [
            "HTTP request failed. URL: https://base.g.alchemy.example/v2/KEY",
            "cannot connect: certificate not valid for name \"facilitator.payments.svc\"",
            "connect ECONNREFUSED 10.0.0.7:8545",
            "connect ECONNREFUSED ::1",
            "no route to redis:6379",
            "rejected Authorization Bearer abc",
            "key=abc",
            &format!("reverted with args 0x{signature}"),
            "",
        ] {
            assert_eq!(disclosable(text.to_owned()), None, "{text}");
        }
        for text in [
            "invalid_exact_evm_insufficient_balance",
            "balance is 0.5, and 1.25 is needed.",
            "answered 500 without a verdict: the body is a page, not JSON",
            "cannot connect: Connection refused (os error 111)",
            "the network eip155:84532 is not supported",
            "success for another payer: 0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
        ] {
            assert!(disclosable(text.to_owned()).is_some(), "{text}");
        }
        let told = joined(Some("invalid_scheme"), Some("see http://10.0.0.7/"));
        assert_eq!(told.as_deref(), Some("invalid_scheme"));
    }

    #[test]
    fn m4_a_used_nonce_is_a_conflict_and_a_missing_allowance_a_precondition() {
        let says = |reason: &str| {
            let response = VerifyResponse {
                is_valid: false,
                invalid_reason: Some(reason.to_owned()),
                invalid_message: None,
                payer: None,
            };
            match verified(&response, Address::ZERO) {
                Verified::Invalid { reason, .. } => reason,
                other @ (Verified::Valid | Verified::Nonsense(_)) => panic!("{other:?}"),
            }
        };
        assert_eq!(
            says("invalid_exact_evm_nonce_already_used"),
            Reason::PaymentUsed
        );
        assert_eq!(
            says("permit2_allowance_required"),
            Reason::Permit2AllowanceRequired
        );
        assert_eq!(says("invalid_exact_evm_signature"), Reason::PaymentInvalid);
        assert_eq!(says(""), Reason::PaymentInvalid);
    }
}
