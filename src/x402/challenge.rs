//! The 402: one answer that both generations of clients can pay.
//!
//! A v2 client reads the header `PAYMENT-REQUIRED` and looks at no body; a v1 client reads the body
//! and knows no header. So the header always carries the v2 object, and the body the v1 object when
//! any requirement has a v1 form, else the v2 object. The body also says what every error of ours
//! says: `error`, `reason`, `detail`, `hint`, `retriable` (false: the same request again gets the
//! same answer).
//!
//! A 402 is the most frequent answer of all, so everything that does not depend on the request is
//! rendered at table build. The order of keys is ours to choose: what varies (error, extensions,
//! URL) stands first and is filled with blanks to a multiple of three bytes, so that the base64 of
//! the constant rest can simply be appended.
//!
//! The resource URL comes from the client. It is escaped for JSON and for HTML, and cut at
//! [`MAX_URL`] bytes.

use super::json::{escape_into_at_most, quoted};
use super::requirement::V1Entry;
use super::{Requirement, header_value, printable};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use std::collections::HashSet;

/// Longest resource URL in a challenge, in bytes after escaping. The header stays below the 4 KiB
/// that some proxies allow for one line.
pub const MAX_URL: usize = 2048;

/// All that a challenge of one route says, rendered once at table build.
#[derive(Debug, Clone)]
pub struct ChallengeTemplate {
    /// Base64 of the v2 object from behind the padded URL to its end.
    header_tail: Box<str>,
    body: Body,
    /// The options in words, the `detail` of the first challenge.
    price: Box<str>,
}

/// The constant part of the body.
#[derive(Debug, Clone)]
enum Body {
    /// Entries of the v1 object.
    V1(Box<[V1Entry]>),
    /// The v2 object from behind the URL to its end.
    V2(Box<str>),
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

/// The variable texts of one challenge.
struct Variable {
    /// Members of the v2 object in front of `resource`, commas included.
    v2_members: String,
    /// The same for the body of either version: all error fields, and extensions for v2.
    body_members: String,
}

const FIRST_ERROR: &str = "Payment required for this resource";
const FIRST_REASON: &str = "payment_required";
const FIRST_HINT: &str = "sign a payment for one entry of accepts and repeat the request with it in \
                          PAYMENT-SIGNATURE (x402 v2) or X-PAYMENT (v1)";
/// Longest detail or hint, in characters; both stand in the header, too.
const MAX_TEXT: usize = 300;
/// Longest `serviceName` that clients accept (protocol digest 1.2).
const MAX_SERVICE_NAME: usize = 32;

impl ChallengeTemplate {
    /// Renders what is constant: description, accepts (all requirements in order; at most one v1
    /// entry per network, M2), service name.
    ///
    /// A service name that clients would refuse (not printable ASCII, over 32 characters) is left
    /// out: it must not make an offer unpayable.
    #[must_use]
    pub fn new(
        requirements: &[Requirement],
        description: Option<&str>,
        service_name: Option<&str>,
    ) -> Self {
        let rest = render_rest(requirements, description.unwrap_or_default(), service_name);
        let mut networks = HashSet::new();
        let entries: Box<[V1Entry]> = requirements
            .iter()
            .filter_map(|requirement| Some((requirement.network, requirement.v1_entry()?)))
            .filter(|(network, _)| networks.insert(*network))
            .map(|(_, entry)| entry.clone())
            .collect();
        let price: Vec<String> = requirements.iter().map(Requirement::in_words).collect();
        Self {
            header_tail: STANDARD.encode(&rest).into(),
            body: if entries.is_empty() {
                Body::V2(rest.into())
            } else {
                Body::V1(entries)
            },
            price: quoted(&price.join(" or ")).into(),
        }
    }

    /// Renders the challenge for one request. `failure` is `None` for the first challenge.
    #[must_use]
    pub fn render(&self, resource_url: &str, failure: Option<&Failure>) -> Challenge {
        let url = escape_url(resource_url);
        let variable = match failure {
            None => self.first(),
            Some(failure) => self.repeated(failure),
        };
        Challenge {
            header: self.header(&variable, &url),
            body: self.body(&variable, &url).into_bytes(),
        }
    }

    fn first(&self) -> Variable {
        let is_v2 = matches!(self.body, Body::V2(_));
        Variable {
            v2_members: [r#""error":""#, FIRST_ERROR, r#"","#].concat(),
            body_members: [
                if is_v2 {
                    r#"{"x402Version":2,"#
                } else {
                    r#"{"x402Version":1,"#
                },
                r#""error":""#,
                FIRST_ERROR,
                r#"","reason":""#,
                FIRST_REASON,
                r#"","detail":"#,
                &self.price,
                r#","hint":""#,
                FIRST_HINT,
                r#"","retriable":false,"#,
            ]
            .concat(),
        }
    }

    fn repeated(&self, failure: &Failure) -> Variable {
        let text = |key: &str, text: &Option<String>| {
            let text = text.as_deref().filter(|text| !text.is_empty())?;
            Some(format!(",\"{key}\":{}", quoted(&printable(text, MAX_TEXT))))
        };
        let detail = text("detail", &failure.detail).unwrap_or_default();
        let hint = text("hint", &failure.hint).unwrap_or_default();
        let error = quoted(failure.error);
        let reason = quoted(failure.reason);
        let extensions =
            format!(r#""extensions":{{"paymentFailure":{{"reason":{reason}{detail}{hint}}}}},"#);
        let (version, body_extensions) = match self.body {
            Body::V1(_) => (1, ""),
            Body::V2(_) => (2, extensions.as_str()),
        };
        Variable {
            body_members: format!(
                "{{\"x402Version\":{version},\"error\":{error},\"reason\":{reason}{detail}{hint},\
                 \"retriable\":false,{body_extensions}"
            ),
            v2_members: format!("\"error\":{error},{extensions}"),
        }
    }

    fn header(&self, variable: &Variable, url: &str) -> HeaderValue {
        let mut head = [
            r#"{"x402Version":2,"#,
            &variable.v2_members,
            r#""resource":{"url":""#,
            url,
            "\"  ",
        ]
        .concat();
        // Between two tokens, JSON does not mind zero, one or two blanks.
        head.truncate(head.len() - head.len() % 3);
        let mut value = String::with_capacity(head.len() / 3 * 4 + self.header_tail.len());
        STANDARD.encode_string(&head, &mut value);
        value.push_str(&self.header_tail);
        header_value(value)
    }

    fn body(&self, variable: &Variable, url: &str) -> String {
        let members = variable.body_members.as_str();
        match &self.body {
            Body::V2(rest) => [members, r#""resource":{"url":""#, url, "\"", rest].concat(),
            Body::V1(entries) => {
                let size: usize = entries
                    .iter()
                    .map(|entry| entry.before_url.len() + url.len() + entry.after_url.len() + 1)
                    .sum();
                let mut body = String::with_capacity(members.len() + size + 16);
                body.push_str(members);
                body.push_str(r#""accepts":["#);
                for (position, entry) in entries.iter().enumerate() {
                    if position > 0 {
                        body.push(',');
                    }
                    body.push_str(&entry.before_url);
                    body.push_str(url);
                    body.push_str(&entry.after_url);
                }
                body.push_str("]}");
                body
            }
        }
    }
}

/// The URL as the inside of a JSON string, at most [`MAX_URL`] bytes, whole characters.
pub(super) fn escape_url(url: &str) -> String {
    let mut out = String::with_capacity(url.len().min(MAX_URL));
    escape_into_at_most(&mut out, url, MAX_URL);
    out
}

/// The v2 object from behind the URL to its end.
fn render_rest(
    requirements: &[Requirement],
    description: &str,
    service_name: Option<&str>,
) -> String {
    let accepts: Vec<&str> = requirements.iter().map(Requirement::json_v2).collect();
    let service_name = service_name
        .filter(|name| !name.is_empty() && name.len() <= MAX_SERVICE_NAME)
        .filter(|name| name.bytes().all(|byte| matches!(byte, b' '..=b'~')))
        .map(|name| format!(r#","serviceName":{}"#, quoted(name)))
        .unwrap_or_default();
    format!(
        r#","description":{},"mimeType":""{service_name}}},"accepts":[{}]}}"#,
        quoted(description),
        accepts.join(",")
    )
}

#[cfg(test)]
mod tests;
