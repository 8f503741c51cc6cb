//! URLs that the operator writes: where payments are sent, and what challenges point to.
//!
//! A facilitator's verdict is money, so it is reached over https; plain http only where the
//! traffic does not leave the machine (loopback) or where the predecessor allowed it for local
//! clusters (compat 1.2). Texts are checked and given one spelling, because the base URL is the
//! identity of a facilitator: one pool, one set of permits, one set of credentials.

use crate::offer::quoted;
use http::Uri;
use std::net::IpAddr;

/// Longest URL that is read.
const LONGEST: usize = 2_048;

/// A facilitator's base URL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facilitator {
    /// Scheme and host in lower case, no trailing slash.
    pub(super) url: String,
    /// Plain http to a host that is not loopback.
    pub(super) exposed: bool,
}

/// The base URL of a facilitator, or what would do.
pub(super) fn facilitator(text: &str) -> Result<Facilitator, &'static str> {
    let uri = parse(text)?;
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    let exposed = match uri.scheme_str() {
        Some("https") => false,
        Some("http") if is_loopback(&host) => false,
        Some("http") if matches!(&*host, "host.k3d.internal" | "host.docker.internal") => true,
        _ => return Err("a facilitator URL must use https (http only for localhost)"),
    };
    if uri.query().is_some() {
        return Err("write the base URL alone, without a query");
    }
    Ok(Facilitator {
        url: format!("{}{}", origin_of(&uri), uri.path().trim_end_matches('/')),
        exposed,
    })
}

/// Scheme, host and port alone, or what would do.
pub(super) fn origin(text: &str) -> Result<String, &'static str> {
    let uri = parse(text)?;
    if uri.query().is_some() || uri.path() != "/" {
        return Err("write scheme and host alone, such as \"https://api.example.com\"");
    }
    Ok(origin_of(&uri))
}

/// A link target for the `Link` header: absolute, or a path of the same origin.
pub(super) fn catalog(text: &str) -> Result<String, &'static str> {
    if text.contains(['<', '>', '"']) {
        return Err("write a URL without quotes or angle brackets");
    }
    if text.starts_with('/') && !text.starts_with("//") && text.len() <= LONGEST {
        return text
            .parse::<Uri>()
            .map(|uri| uri.to_string())
            .map_err(|_not_a_path| "write an absolute URL or a path");
    }
    parse(text).map(|_| text.to_owned())
}

/// A URL as a message may repeat it: not with what may be a password (R13).
pub(super) fn shown(text: &str) -> String {
    if text.contains('@') {
        "a text with \"@\"".to_owned()
    } else {
        quoted(text)
    }
}

fn parse(text: &str) -> Result<Uri, &'static str> {
    if text.len() > LONGEST {
        return Err("write at most 2048 characters");
    }
    if text.contains('#') {
        return Err("write the URL without a fragment");
    }
    let uri: Uri = text
        .parse()
        .map_err(|_not_a_uri| "write an absolute URL, such as \"https://host/path\"")?;
    let Some(authority) = uri.authority() else {
        return Err("write an absolute URL, such as \"https://host/path\"");
    };
    if authority.as_str().contains('@') {
        return Err("write the URL without user name and password");
    }
    if authority.host().is_empty() || !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("write an absolute URL, such as \"https://host/path\"");
    }
    let port = authority.as_str().strip_prefix(authority.host());
    let port = port.and_then(|rest| rest.strip_prefix(':'));
    if port.is_some_and(|port| !matches!(port.parse::<u16>(), Ok(1..))) {
        return Err("write a port from 1 to 65535, or none");
    }
    Ok(uri)
}

fn origin_of(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    match (scheme, uri.port_u16()) {
        (_, None) | ("https", Some(443)) | ("http", Some(80)) => format!("{scheme}://{host}"),
        (_, Some(port)) => format!("{scheme}://{host}:{port}"),
    }
}

fn is_loopback(host: &str) -> bool {
    let ip = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    host == "localhost" || ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_facilitator_url_has_one_spelling() {
        for (text, url) in [
            (
                "https://x402.org/facilitator/",
                "https://x402.org/facilitator",
            ),
            ("https://X402.ORG:443", "https://x402.org"),
            ("HTTPS://x402.org/F", "https://x402.org/F"),
            ("http://localhost:4021/", "http://localhost:4021"),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
            ("http://[::1]:9/", "http://[::1]:9"),
        ] {
            let expected = Facilitator {
                url: url.to_owned(),
                exposed: false,
            };
            assert_eq!(facilitator(text), Ok(expected), "{text}");
        }
        for text in [
            "http://host.k3d.internal:4021",
            "http://host.docker.internal",
        ] {
            assert!(facilitator(text).is_ok_and(|f| f.exposed), "{text}");
        }
    }

    #[test]
    fn m13_a_facilitator_is_reached_over_https_or_loopback_only() {
        for text in [
            "http://x402.org",
            "http://localhost.evil.com",
            "http://127.0.0.1.evil.com",
            "http://10.0.0.1",
            "http://0.0.0.0",
            "ftp://localhost",
            "localhost:4021",
            "/facilitator",
            "",
            "https://",
            "https://user:pass@x402.org",
            "https://x402.org@evil.com",
            "https://x402.org/?a=b",
            "https://x402.org/#f",
            "https://x402.org:0",
            "https://x402.org:99999",
            "https://x402.org:",
            "https://x 402.org",
        ] {
            assert!(facilitator(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_origin_has_no_path_and_a_catalog_may_have_one() {
        assert_eq!(
            origin("https://API.example.com/"),
            Ok("https://api.example.com".to_owned())
        );
        assert!(origin("https://api.example.com/x").is_err());
        assert_eq!(catalog("/catalog.json"), Ok("/catalog.json".to_owned()));
        assert!(catalog("https://a.example/c?x=1").is_ok());
        for text in [
            "//evil.example",
            "x",
            "https://a/>; rel=x",
            "/a b",
            "javascript:1",
        ] {
            assert!(catalog(text).is_err(), "{text}");
        }
    }
}
