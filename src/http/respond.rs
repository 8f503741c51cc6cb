//! [`Outcome`] to response: status, headers, JSON. The only place that decides either.
//!
//! One exhaustive match, so a new outcome or reason cannot be forgotten. A refusal is
//! `{error, reason, detail?, hint?, retriable}` with the reason in `X-Payment-Error` too; a
//! challenge carries `PAYMENT-REQUIRED` and the body of whoever reads bodies (x402 v1).
//!
//! Invariants: only [`Outcome::Free`] and [`Outcome::Admit`] are a 2xx; every answer is
//! `Cache-Control: no-store`; faults of ours never carry a challenge (R9). Identity headers are
//! always present on a 2xx, empty where there is no identity, so that a proxy that copies them
//! replaces what a client sent.

use crate::gate::{FreePass, Outcome, Permit, Reason, Refusal};
use crate::x402::{self, Challenge};
use axum::body::Body;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LINK, RETRY_AFTER, VARY,
};
use http::{Response, StatusCode};
use serde::Serialize;

/// Response header with the stable reason code.
pub const X_PAYMENT_ERROR: HeaderName = HeaderName::from_static("x-payment-error");
/// Request header for the upstream: who paid, empty when nobody did.
pub const X_PAYMENT_PAYER: HeaderName = HeaderName::from_static("x-payment-payer");
/// Request header for the upstream: who signed in, empty until sign-in exists.
pub const X_VERIFIED_WALLET: HeaderName = HeaderName::from_static("x-verified-wallet");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const ACCEPT: HeaderValue = HeaderValue::from_static("Accept");
const EMPTY: HeaderValue = HeaderValue::from_static("");

/// The error body of every refusal (`reference` surface, traffic port).
#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    retriable: bool,
}

/// Turns an outcome into the response that the ingress passes on. `catalog` is the value of a
/// `Link: rel="catalog"` header for challenges.
#[must_use]
pub fn respond(outcome: Outcome, catalog: Option<&str>) -> Response<Body> {
    match outcome {
        Outcome::Free(pass) => free(pass),
        Outcome::Admit(permit) => admit(permit),
        Outcome::Challenge(challenge) => challenged(
            StatusCode::PAYMENT_REQUIRED,
            Reason::PaymentRequired,
            *challenge,
            catalog,
        ),
        Outcome::PaymentRefused(refused) => {
            let refused = *refused;
            challenged(
                status(refused.reason),
                refused.reason,
                refused.challenge,
                catalog,
            )
        }
        Outcome::SettlementRejected(rejected) => {
            let refusal = Refusal {
                reason: Reason::SettlementRejected,
                detail: rejected.detail,
                retry_after: None,
            };
            let mut response = refuse(&refusal);
            let receipt = rejected.receipt.header();
            let headers = response.headers_mut();
            headers.insert(x402::PAYMENT_RESPONSE, receipt.clone());
            headers.insert(x402::X_PAYMENT_RESPONSE, receipt);
            response
        }
        Outcome::Refused(refusal) | Outcome::Unavailable(refusal) | Outcome::Withdrawn(refusal) => {
            refuse(&refusal)
        }
    }
}

/// The response of a refusal without challenge.
#[must_use]
pub fn refuse(refusal: &Refusal) -> Response<Body> {
    let reason = refusal.reason;
    let body = ErrorBody {
        error: reason.sentence(),
        reason: reason.as_str(),
        detail: refusal.detail.as_deref(),
        hint: reason.hint(),
        retriable: reason.retriable(),
    };
    let mut response = json(status(reason), &body);
    let headers = response.headers_mut();
    headers.insert(X_PAYMENT_ERROR, HeaderValue::from_static(reason.as_str()));
    if let Some(after) = refusal.retry_after {
        // A fraction of a second still means "not at once".
        headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    if reason == Reason::SignInRequired {
        headers.insert(
            http::header::WWW_AUTHENTICATE,
            HeaderValue::from_static("SIWX"),
        );
    }
    response
}

/// The status of a reason (design section 5).
#[must_use]
pub const fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::InvalidPaymentHeader | Reason::AmbiguousTarget => StatusCode::BAD_REQUEST,
        Reason::SignInRequired => StatusCode::UNAUTHORIZED,
        Reason::PaymentRequired
        | Reason::NoMatchingRequirement
        | Reason::PaymentInvalid
        | Reason::SettlementRejected => StatusCode::PAYMENT_REQUIRED,
        Reason::NoRoute
        | Reason::UnknownOffer
        | Reason::MissingForwardedUri
        | Reason::AmbiguousForwardedHeaders
        | Reason::UntrustedPeer => StatusCode::FORBIDDEN,
        Reason::NoSuchEndpoint => StatusCode::NOT_FOUND,
        Reason::PaymentInUse | Reason::PaymentUsed => StatusCode::CONFLICT,
        Reason::OfferWithdrawn => StatusCode::GONE,
        Reason::Permit2AllowanceRequired => StatusCode::PRECONDITION_FAILED,
        Reason::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
        Reason::FacilitatorError => StatusCode::BAD_GATEWAY,
        Reason::FacilitatorUnreachable
        | Reason::LedgerUnavailable
        | Reason::OfferMisconfigured
        | Reason::OfferDraining
        | Reason::NotReady
        | Reason::Busy => StatusCode::SERVICE_UNAVAILABLE,
        Reason::FacilitatorTimeout | Reason::SettlementUnknown => StatusCode::GATEWAY_TIMEOUT,
    }
}

fn free(pass: FreePass) -> Response<Body> {
    passed(pass.upstream_auth, EMPTY)
}

fn admit(permit: Permit) -> Response<Body> {
    let payer = permit.payer.to_checksum(None);
    let payer = HeaderValue::from_str(&payer).unwrap_or(EMPTY);
    let mut response = passed(permit.upstream_auth, payer);
    if let Some(receipt) = permit.receipt {
        let receipt = receipt.header();
        let headers = response.headers_mut();
        headers.insert(x402::PAYMENT_RESPONSE, receipt.clone());
        headers.insert(x402::X_PAYMENT_RESPONSE, receipt);
    }
    response
}

fn passed(upstream_auth: Option<HeaderValue>, payer: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(X_PAYMENT_PAYER, payer);
    headers.insert(X_VERIFIED_WALLET, EMPTY);
    if let Some(authorization) = upstream_auth {
        headers.insert(AUTHORIZATION, authorization);
    }
    response
}

fn challenged(
    status: StatusCode,
    reason: Reason,
    challenge: Challenge,
    catalog: Option<&str>,
) -> Response<Body> {
    let mut response = Response::new(Body::from(challenge.body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.reserve(8);
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(VARY, ACCEPT);
    headers.insert(X_PAYMENT_ERROR, HeaderValue::from_static(reason.as_str()));
    headers.insert(x402::PAYMENT_REQUIRED, challenge.header);
    let link = catalog.map(|url| HeaderValue::from_str(&format!("<{url}>; rel=\"catalog\"")));
    if let Some(Ok(link)) = link {
        headers.insert(LINK, link);
    }
    response
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    // Serialising strings and booleans cannot fail; an empty object would still be valid JSON.
    let body = serde_json::to_vec(body).unwrap_or_else(|_| b"{}".to_vec());
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(VARY, ACCEPT);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[(Reason, u16)] = &[
        (Reason::PaymentRequired, 402),
        (Reason::InvalidPaymentHeader, 400),
        (Reason::NoMatchingRequirement, 402),
        (Reason::PaymentInvalid, 402),
        (Reason::Permit2AllowanceRequired, 412),
        (Reason::PaymentInUse, 409),
        (Reason::PaymentUsed, 409),
        (Reason::SettlementRejected, 402),
        (Reason::SettlementUnknown, 504),
        (Reason::FacilitatorUnreachable, 503),
        (Reason::FacilitatorTimeout, 504),
        (Reason::FacilitatorError, 502),
        (Reason::LedgerUnavailable, 503),
        (Reason::OfferMisconfigured, 503),
        (Reason::OfferWithdrawn, 410),
        (Reason::OfferDraining, 503),
        (Reason::NotReady, 503),
        (Reason::NoRoute, 403),
        (Reason::UnknownOffer, 403),
        (Reason::Busy, 503),
        (Reason::AmbiguousTarget, 400),
        (Reason::MissingForwardedUri, 403),
        (Reason::AmbiguousForwardedHeaders, 403),
        (Reason::UntrustedPeer, 403),
        (Reason::SignInRequired, 401),
        (Reason::NoSuchEndpoint, 404),
        (Reason::InternalError, 500),
    ];

    #[test]
    fn r1_no_refusal_is_a_success_and_each_has_its_row() {
        for (reason, expected) in ALL {
            let response = refuse(&Refusal::new(*reason, None));
            assert_eq!(response.status().as_u16(), *expected, "{}", reason.as_str());
            assert_eq!(response.headers()[X_PAYMENT_ERROR], reason.as_str());
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        }
    }

    #[test]
    fn r9_our_faults_carry_no_challenge() {
        for (reason, expected) in ALL {
            if *expected >= 500 {
                let response = refuse(&Refusal::new(*reason, None));
                assert!(!response.headers().contains_key(x402::PAYMENT_REQUIRED));
            }
        }
    }

    #[test]
    fn a_pass_always_names_identity_so_that_client_copies_are_replaced() {
        let outcome = Outcome::Free(FreePass {
            upstream_auth: None,
        });
        let response = respond(outcome, None);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[X_PAYMENT_PAYER], "");
        assert_eq!(response.headers()[X_VERIFIED_WALLET], "");
        assert!(!response.headers().contains_key(AUTHORIZATION));
    }
}
