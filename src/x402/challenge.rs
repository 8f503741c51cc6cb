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
use std::borrow::Cow;
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

const FIRST_ERROR: &str = "Payment required for this resource";
const FIRST_REASON: &str = "payment_required";
const FIRST_HINT: &str = "sign a payment for one entry of accepts and repeat the request with it in \
                          PAYMENT-SIGNATURE (x402 v2) or X-PAYMENT (v1)";
/// Base64 of what stands in front of the URL in the v2 object of the first challenge; its length is
/// a multiple of three bytes.
const FIRST_HEAD: &str = "eyJ4NDAyVmVyc2lvbiI6MiwiZXJyb3IiOiJQYXltZW50IHJlcXVpcmVkIGZvciB0aGlzIHJlc2\
                          91cmNlIiwicmVzb3VyY2UiOnsidXJsIjoi";
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
        match failure {
            None => self.first(&url),
            Some(failure) => self.repeated(&url, failure),
        }
    }

    fn first(&self, url: &str) -> Challenge {
        let version = match self.body {
            Body::V1(_) => r#"{"x402Version":1,"error":""#,
            Body::V2(_) => r#"{"x402Version":2,"error":""#,
        };
        let members = [
            version,
            FIRST_ERROR,
            r#"","reason":""#,
            FIRST_REASON,
            r#"","detail":"#,
            &self.price,
            r#","hint":""#,
            FIRST_HINT,
            r#"","retriable":false,"#,
        ];
        Challenge {
            header: self.header(FIRST_HEAD, "", url),
            body: self.body(&members, url),
        }
    }

    fn repeated(&self, url: &str, failure: &Failure) -> Challenge {
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
        let members = format!(
            "{{\"x402Version\":{version},\"error\":{error},\"reason\":{reason}{detail}{hint},\
             \"retriable\":false,{body_extensions}"
        );
        let head = format!(r#"{{"x402Version":2,"error":{error},{extensions}"resource":{{"url":""#);
        Challenge {
            header: self.header("", &head, url),
            body: self.body(&[&members], url),
        }
    }

    /// The v2 object in base64: `encoded`, then `head` and the URL, then the constant rest.
    fn header(&self, encoded: &str, head: &str, url: &str) -> HeaderValue {
        let mut head = [head, url, "\"  "].concat();
        // Between two tokens, JSON does not mind zero, one or two blanks.
        head.truncate(head.len() - head.len() % 3);
        let size = encoded.len() + head.len() / 3 * 4 + self.header_tail.len();
        let mut value = String::with_capacity(size);
        value.push_str(encoded);
        STANDARD.encode_string(&head, &mut value);
        value.push_str(&self.header_tail);
        header_value(value)
    }

    fn body(&self, members: &[&str], url: &str) -> Vec<u8> {
        // Twice over the same texts: first their length, because a buffer that fits is never copied.
        let size = |texts: &[&str]| texts.iter().map(|text| text.len()).sum::<usize>();
        let mut body = Vec::new();
        match &self.body {
            Body::V2(rest) => {
                let resource = [r#""resource":{"url":""#, url, "\"", rest];
                body.reserve_exact(size(members) + size(&resource));
                extend(&mut body, members);
                extend(&mut body, &resource);
            }
            Body::V1(entries) => {
                let (open, close) = (r#""accepts":["#, "]}");
                let entry =
                    |entry: &V1Entry| entry.before_url.len() + url.len() + entry.after_url.len();
                let commas = entries.len().saturating_sub(1);
                let accepts = entries.iter().map(entry).sum::<usize>() + commas;
                body.reserve_exact(size(members) + open.len() + accepts + close.len());
                extend(&mut body, members);
                extend(&mut body, &[open]);
                for (position, entry) in entries.iter().enumerate() {
                    let comma = if position > 0 { "," } else { "" };
                    extend(
                        &mut body,
                        &[comma, &entry.before_url, url, &entry.after_url],
                    );
                }
                extend(&mut body, &[close]);
            }
        }
        body
    }
}

fn extend(bytes: &mut Vec<u8>, texts: &[&str]) {
    for text in texts {
        bytes.extend_from_slice(text.as_bytes());
    }
}

/// The URL as the inside of a JSON string, at most [`MAX_URL`] bytes, whole characters.
pub(super) fn escape_url(url: &str) -> Cow<'_, str> {
    // Nearly every URL is what it is when escaped.
    let means_itself =
        |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&');
    if url.len() <= MAX_URL && url.bytes().all(means_itself) {
        return Cow::Borrowed(url);
    }
    let mut out = String::with_capacity(url.len().min(MAX_URL));
    escape_into_at_most(&mut out, url, MAX_URL);
    Cow::Owned(out)
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
