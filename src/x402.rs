//! The x402 wire, versions 1 and 2: headers, challenges, payments, receipts, facilitator messages.
//!
//! Two generations of clients are paid by one answer and read by one reader; what differs between
//! them ends in this module. Beyond it there are integers, addresses and chains, and no JSON. The
//! parts follow the life of a payment:
//!
//! - `requirement`: what we ask for, and whether a buyer's copy of it is equal;
//! - `challenge`: the 402 that says so;
//! - `payment`: the header that comes back, read strictly;
//! - `verdict`: what the facilitator answered, and the receipt for the buyer;
//! - `json`: the strict reader and the ASCII writer that they share.
//!
//! Everything here is pure: no clock, no I/O, no configuration. Nothing decides whether a payment is
//! good; that is the gate's work. Whatever arrives from outside is bounded before it is decoded, and
//! no input panics. The facts come from the protocol digest (sections 1 to 4), the reason codes and
//! bodies from the surface page.

mod challenge;
#[cfg(test)]
mod fixtures;
mod json;
mod payment;
mod requirement;
mod verdict;

pub use challenge::{Challenge, ChallengeTemplate, Failure, MAX_URL};
pub use payment::{
    Accepted, Authorization, Payment, PaymentHeaderError, Version, has_payment, read_payment,
};
pub use requirement::{Mismatch, Requirement};
pub use verdict::{Receipt, SettleResponse, VerifyResponse};

use http::{HeaderMap, HeaderValue};
use std::sync::Arc;

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

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

/// Foreign text for an error, a log or a buyer: at most `max` characters, control and invisible
/// formatting characters replaced, so that it cannot forge a line or reorder what is displayed.
fn printable(text: &str, max: usize) -> String {
    let mut characters = text.chars();
    let mut out: String = characters.by_ref().take(max).map(visible).collect();
    if characters.next().is_some() {
        out.push_str("...");
    }
    out
}

fn visible(character: char) -> char {
    let hidden = character.is_control()
        || matches!(
            character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        );
    if hidden { '\u{fffd}' } else { character }
}

/// A header value of base64 text. Base64 is always a valid value; the empty one stands in for the
/// error that cannot occur.
fn header_value(base64: String) -> HeaderValue {
    HeaderValue::try_from(base64).unwrap_or_else(|_impossible| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn r13_an_endpoint_shows_no_header_in_debug() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer secret"));
        let endpoint = Endpoint {
            base: "https://facilitator.example".into(),
            verify_headers: headers.clone(),
            settle_headers: headers.clone(),
            supported_headers: headers,
        };
        let shown = format!("{endpoint:?}");
        assert!(
            shown.contains("facilitator.example") && !shown.contains("secret"),
            "{shown}"
        );
    }

    #[test]
    fn foreign_text_is_cut_and_cannot_forge_lines() {
        assert_eq!(printable("a\nb\u{202e}c", 10), "a\u{fffd}b\u{fffd}c");
        assert_eq!(printable("abcdef", 3), "abc...");
        assert_eq!(printable("abc", 3), "abc");
    }

    proptest! {
        #[test]
        fn printable_text_is_bounded(text: String, max in 0..50_usize) {
            let shown = printable(&text, max);
            prop_assert!(shown.chars().count() <= max + 3);
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }
}
