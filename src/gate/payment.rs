//! Local checks of a payment: which requirement it pays, its claim key, its window, its signature.
//!
//! Everything here is pure and happens before the facilitator is asked (M1). A check that fails is
//! the payer's fault and ends in a fresh challenge; nothing here proves that a payment is good: a
//! recovered signature is a hint (contract wallets sign otherwise) and only the facilitator and
//! the ledger admit.

use super::{Facts, Reason};
use crate::eip712::{self, PermitTransfer, TransferAuthorization};
use crate::gate::ports::{ClaimKey, CreditScope, Trace};
use crate::money::TransferMethod;
use crate::table::{RouteEntry, Settings, Settle, Table};
use crate::x402::{Authorization, Payment, Requirement};
use alloy_primitives::{Address, B256, Keccak256, U256};
use http::HeaderValue;
use jiff::Timestamp;
use std::sync::Arc;

/// A payment that passed every local check, with all that carrying it out needs. It holds its
/// route and limits, so a table that changes meanwhile changes nothing for it (M1).
#[derive(Debug, Clone)]
pub struct Plan {
    /// The route it pays.
    pub(crate) route: Arc<RouteEntry>,
    /// Index of the requirement it pays.
    pub(crate) option: usize,
    /// The payment.
    pub(crate) payment: Payment,
    /// Identity of the authorisation (M2).
    pub(crate) key: ClaimKey,
    /// What a credit would be bound to (M6).
    pub(crate) scope: CreditScope,
    /// End of validity, Unix seconds, saturated.
    pub(crate) valid_before: i64,
    /// Whether the signature recovers to the payer.
    pub(crate) recovers: bool,
    /// `resource.url` of this request.
    pub(crate) resource_url: String,
    /// Upstream credential this request may be given (M11).
    pub(crate) upstream_auth: Option<HeaderValue>,
    /// How others name this request; `plan` sees no headers, so whoever carries it out says it.
    pub(crate) trace: Trace,
    /// Hash of what must be equal for a copy to be the same request (M5).
    pub(crate) fingerprint: B256,
    /// Whether money is to be moved (`false` for `settle: never`).
    pub(crate) settles: bool,
    /// Snapshot of the settings it was decided with.
    pub(crate) settings: Arc<Settings>,
}

/// A payment refused by a local check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) detail: Option<String>,
    pub(crate) hint: Option<String>,
    /// The requirement it was measured against, for the counters.
    pub(crate) option: usize,
}

/// Seconds an authorisation must still be valid: official facilitators refuse less (x402 exact EVM
/// scheme, verification step 8).
const MIN_REMAINING_SECONDS: u64 = 6;

impl Plan {
    /// What carrying it out would do, step by step, for people.
    #[must_use]
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        let facilitator = self
            .route
            .endpoint
            .as_ref()
            .map_or("none", |endpoint| &endpoint.base);
        let signature = if self.recovers {
            "recovers to the payer"
        } else {
            "does not recover to the payer (a contract wallet, or wrong): the facilitator decides"
        };
        let mut steps = vec![
            ("signature", signature.to_owned()),
            ("verify", format!("POST {facilitator}/verify")),
            ("claim", format!("{:?}", self.key)),
        ];
        if self.settles {
            steps.push((
                "settle",
                format!("POST {facilitator}/settle, before the answer"),
            ));
        } else {
            steps.push(("settle", "never (verifyOnly)".to_owned()));
        }
        steps
    }

    /// The requirement it pays.
    pub(crate) fn requirement(&self) -> Option<&Requirement> {
        self.route.requirements.get(self.option)
    }
}

impl Refused {
    fn new(reason: Reason, option: usize, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: Some(detail.into()),
            hint: None,
            option,
        }
    }
}

/// Checks a payment against a route (M1, M2, M9).
pub(super) fn plan(
    table: &Table,
    route: &Arc<RouteEntry>,
    facts: &Facts<'_>,
    payment: Payment,
    resource_url: &str,
    now: Timestamp,
) -> Result<Plan, Refused> {
    let (option, requirement) = choose(route, &payment)?;
    check_form(requirement, &payment, option)?;
    check_terms(requirement, &payment, option)?;
    let (key, valid_before) = claim_key(requirement, &payment);
    check_window(table, requirement, valid_before, option, now)?;
    let recovers = check_signature(route, requirement, &payment, option)?;
    let scope = CreditScope {
        payer: payment.payer(),
        route: route.key(),
        chain_id: requirement.network.chain_id(),
        asset: requirement.asset.address,
        amount: requirement.amount,
    };
    Ok(Plan {
        route: Arc::clone(route),
        option,
        payment,
        key,
        scope,
        valid_before: i64::try_from(valid_before).unwrap_or(i64::MAX),
        recovers,
        resource_url: resource_url.to_owned(),
        upstream_auth: super::upstream_auth(route, facts),
        trace: Trace::default(),
        fingerprint: fingerprint(route, requirement, facts),
        settles: route.settle != Settle::Never,
        settings: Arc::clone(&table.settings),
    })
}

/// Method, host, path and X-Forwarded-For of the request, and what it means here: a copy that came
/// by another pin or met another table would be admitted by another route's payment (R1). Hashed,
/// because flights outlive their requests and a target is as long as its sender likes.
fn fingerprint(route: &RouteEntry, requirement: &Requirement, facts: &Facts<'_>) -> B256 {
    let settle: &[u8] = match route.settle {
        Settle::Before => b"before",
        Settle::After => b"after",
        Settle::Never => b"never",
    };
    let mut hasher = Keccak256::new();
    for part in [
        facts.method.as_bytes(),
        facts.host.as_deref().unwrap_or_default().as_bytes(),
        facts.target.raw().as_bytes(),
        facts.forwarded_for.as_bytes(),
        route.key().as_bytes(),
        requirement.json_v2().as_bytes(),
        settle,
    ] {
        hasher.update(part.len().to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize()
}

/// The first requirement that the buyer's copy matches. A v1 payment names only scheme and network,
/// and at most one v1 entry per network was advertised, so the first is the one meant (M2).
fn choose<'r>(
    route: &'r RouteEntry,
    payment: &Payment,
) -> Result<(usize, &'r Requirement), Refused> {
    let mut nearest = None;
    for (option, requirement) in route.requirements.iter().enumerate() {
        match requirement.matches(&payment.accepted) {
            Ok(()) => return Ok((option, requirement)),
            Err(mismatch) => {
                // The option that agrees on scheme and network is the one the buyer meant.
                let rank = u8::from(mismatch.field != "scheme")
                    + u8::from(mismatch.field != "scheme" && mismatch.field != "network");
                if nearest.as_ref().is_none_or(|(best, _, _)| rank > *best) {
                    nearest = Some((rank, option, mismatch));
                }
            }
        }
    }
    let Some((_, option, mismatch)) = nearest else {
        return Err(Refused::new(
            Reason::NoMatchingRequirement,
            0,
            "this route accepts nothing",
        ));
    };
    Err(Refused::new(
        Reason::NoMatchingRequirement,
        option,
        format!(
            "accepted.{} is {}, but {} is asked for",
            mismatch.field, mismatch.found, mismatch.expected
        ),
    ))
}

/// Exactly the form that the requirement's transfer method names (M2).
fn check_form(requirement: &Requirement, payment: &Payment, option: usize) -> Result<(), Refused> {
    match (requirement.asset.transfer, &payment.authorization) {
        (TransferMethod::Eip3009, Authorization::Eip3009 { .. })
        | (TransferMethod::Permit2, Authorization::Permit2 { .. }) => Ok(()),
        (TransferMethod::Eip3009, Authorization::Permit2 { .. }) => Err(Refused::new(
            Reason::InvalidPaymentHeader,
            option,
            "this option is paid with payload.authorization (EIP-3009), not permit2Authorization",
        )),
        (TransferMethod::Permit2, Authorization::Eip3009 { .. }) => Err(Refused::new(
            Reason::InvalidPaymentHeader,
            option,
            "this option is paid with payload.permit2Authorization, not authorization",
        )),
    }
}

/// What was signed must be what we ask for: recipient, value, token, spender.
fn check_terms(requirement: &Requirement, payment: &Payment, option: usize) -> Result<(), Refused> {
    let differs = |field: &str, found: String, expected: String| {
        Refused::new(
            Reason::NoMatchingRequirement,
            option,
            format!("{field} is {found}, but {expected} is asked for"),
        )
    };
    let amount = U256::from(requirement.amount.0);
    let address = |field: &str, found: Address, expected: Address| {
        if found == expected {
            Ok(())
        } else {
            Err(differs(
                field,
                found.to_checksum(None),
                expected.to_checksum(None),
            ))
        }
    };
    let equal = |field: &str, found: U256| {
        if found == amount {
            Ok(())
        } else {
            Err(differs(field, found.to_string(), amount.to_string()))
        }
    };
    match &payment.authorization {
        Authorization::Eip3009 { to, value, .. } => {
            address("authorization.to", *to, requirement.pay_to)?;
            equal("authorization.value", *value)?;
        }
        Authorization::Permit2 {
            token,
            amount,
            spender,
            to,
            ..
        } => {
            address("permitted.token", *token, requirement.asset.address)?;
            equal("permitted.amount", *amount)?;
            address("spender", *spender, eip712::EXACT_PERMIT2_PROXY)?;
            address("witness.to", *to, requirement.pay_to)?;
        }
    }
    if payment.payer() == Address::ZERO {
        return Err(Refused::new(
            Reason::PaymentInvalid,
            option,
            "the payer is the zero address",
        ));
    }
    Ok(())
}

/// Key and end of validity (M2).
fn claim_key(requirement: &Requirement, payment: &Payment) -> (ClaimKey, U256) {
    let chain_id = requirement.network.chain_id();
    match &payment.authorization {
        Authorization::Eip3009 {
            from,
            nonce,
            valid_before,
            ..
        } => (
            ClaimKey {
                chain_id,
                method: TransferMethod::Eip3009,
                contract: requirement.asset.address,
                payer: *from,
                nonce: U256::from_be_bytes(nonce.0),
            },
            *valid_before,
        ),
        Authorization::Permit2 {
            from,
            nonce,
            deadline,
            ..
        } => (
            ClaimKey {
                chain_id,
                method: TransferMethod::Permit2,
                contract: eip712::PERMIT2,
                payer: *from,
                nonce: *nonce,
            },
            *deadline,
        ),
    }
}

/// M9: neither expired nor valid for longer than a row is worth keeping; compared as 256 bits.
fn check_window(
    table: &Table,
    requirement: &Requirement,
    valid_before: U256,
    option: usize,
    now: Timestamp,
) -> Result<(), Refused> {
    let now = u64::try_from(now.as_second()).unwrap_or(0);
    if valid_before < U256::from(now + MIN_REMAINING_SECONDS) {
        return Err(Refused::new(
            Reason::PaymentInvalid,
            option,
            format!("the authorisation ends at {valid_before}, and it is {now} (Unix seconds)"),
        ));
    }
    let longest = now
        .saturating_add(u64::from(requirement.max_timeout_seconds))
        .saturating_add(table.settings.validity_slack.as_secs());
    if valid_before > U256::from(longest) {
        return Err(Refused::new(
            Reason::PaymentInvalid,
            option,
            format!(
                "the authorisation is valid until {valid_before}, longer than maxTimeoutSeconds \
                 {} allows",
                requirement.max_timeout_seconds
            ),
        ));
    }
    Ok(())
}

/// Whether the signature recovers to the payer; an error only where the route demands it (M9).
fn check_signature(
    route: &RouteEntry,
    requirement: &Requirement,
    payment: &Payment,
    option: usize,
) -> Result<bool, Refused> {
    let digest = match &payment.authorization {
        Authorization::Eip3009 {
            from,
            to,
            value,
            valid_after,
            valid_before,
            nonce,
        } => eip712::transfer_digest(
            eip712::token_domain(&requirement.asset, requirement.network),
            &TransferAuthorization {
                from: *from,
                to: *to,
                value: *value,
                valid_after: *valid_after,
                valid_before: *valid_before,
                nonce: *nonce,
            },
        ),
        Authorization::Permit2 {
            token,
            amount,
            spender,
            nonce,
            deadline,
            to,
            valid_after,
            ..
        } => eip712::permit_digest(
            requirement.network,
            &PermitTransfer {
                token: *token,
                amount: *amount,
                spender: *spender,
                nonce: *nonce,
                deadline: *deadline,
                to: *to,
                valid_after: *valid_after,
            },
        ),
    };
    let recovered = eip712::recover(digest, &payment.signature);
    let recovers = recovered == Ok(payment.payer());
    if recovers || !route.eoa_only {
        return Ok(recovers);
    }
    let detail = match recovered {
        Ok(_) => "the signature was made by another key than the payer's, or over other terms \
                  (check name and version of the EIP-712 domain in extra)"
            .to_owned(),
        Err(error) => format!("{error}; this route accepts plain wallets only"),
    };
    Err(Refused::new(Reason::PaymentInvalid, option, detail))
}

#[cfg(test)]
mod tests;
