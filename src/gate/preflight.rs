//! Which request is a CORS preflight (design section 4).
//!
//! Pure, and in one place, because every face and `explain` must agree: on a route with
//! `preflight: pass` a preflight passes unpaid, so what only looks like one must not (R1).

use crate::x402::has_payment;
use http::{HeaderMap, HeaderName};

/// Headers by which a body-less OPTIONS could still mean another method to an upstream.
const METHOD_OVERRIDES: [&str; 3] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// A CORS preflight in the strict sense (design section 4). Traefik passes on no length of a body,
/// but its type, which no browser sends with a preflight.
#[must_use]
pub fn is_preflight(method: &str, headers: &HeaderMap) -> bool {
    // First of all: this is asked of every request.
    if method != "OPTIONS" {
        return false;
    }
    let has = |name: &str| headers.contains_key(name);
    let body_less = headers
        .get(http::header::CONTENT_LENGTH)
        .is_none_or(|length| length == "0")
        && !has("transfer-encoding")
        && !has("content-type");
    let overrides = |name: &HeaderName| {
        METHOD_OVERRIDES
            .iter()
            .any(|real| is_spelling_of(name.as_str(), real))
    };
    has("origin")
        && has("access-control-request-method")
        && body_less
        && !headers.keys().any(overrides)
        && !has_payment(headers)
}

/// Whether some server takes the one header for the other: CGI, WSGI and Rack know no hyphens.
#[must_use]
pub fn is_spelling_of(name: &str, real: &str) -> bool {
    let canonical = |byte: u8| {
        if matches!(byte, b'_' | b'.') {
            b'-'
        } else {
            byte
        }
    };
    name.len() == real.len() && name.bytes().map(canonical).eq(real.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(rows: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in rows {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn r1_only_what_a_browser_sends_is_a_preflight() {
        let honest = [
            ("origin", "https://shop.example"),
            ("access-control-request-method", "POST"),
        ];
        assert!(is_preflight("OPTIONS", &headers(&honest)));
        for method in ["", "options", "GET", "OPTIONS, GET"] {
            assert!(!is_preflight(method, &headers(&honest)), "{method}");
        }
        for more in [
            ("content-length", "1"),
            ("transfer-encoding", "chunked"),
            // All that Traefik lets through of a body.
            ("content-type", "application/json"),
            ("x-http-method-override", "GET"),
            // WSGI and Rack read these as the one above.
            ("x_http_method_override", "GET"),
            ("x.method_override", "GET"),
            ("x-payment", "e30="),
            ("payment-signature", "e30="),
        ] {
            let headers = headers(&[&honest[..], &[more]].concat());
            assert!(!is_preflight("OPTIONS", &headers), "{more:?}");
        }
        assert!(!is_preflight("OPTIONS", &headers(&honest[..1])));
    }
}
