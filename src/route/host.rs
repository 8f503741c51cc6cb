//! Host names: one spelling, or none.

use std::borrow::Cow;

/// Normalises a host: lower case, no port, no trailing dot. `None` when it is not exactly one host.
#[must_use]
pub fn normalize_host(text: &str) -> Option<Cow<'_, str>> {
    let host = if text.starts_with('[') {
        let (host, port) = text.split_at_checked(text.find(']')? + 1)?;
        let address = host.strip_prefix('[')?.strip_suffix(']')?;
        address.parse::<std::net::Ipv6Addr>().ok()?;
        match port.strip_prefix(':') {
            Some(port) => is_port(port).then_some(host)?,
            None => port.is_empty().then_some(host)?,
        }
    } else {
        let host = match text.split_once(':') {
            Some((host, port)) => is_port(port).then_some(host)?,
            None => text,
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        is_name(host).then_some(host)?
    };
    Some(if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

/// Whether the text after the colon is a port; an empty one is allowed by RFC 3986.
fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Labels of letters, digits, hyphens and underscores; covers IPv4 as well.
fn is_name(host: &str) -> bool {
    host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_has_one_spelling() {
        for (text, expected) in [
            ("api.example.com", Some("api.example.com")),
            ("API.Example.com:8443", Some("api.example.com")),
            ("api.example.com.", Some("api.example.com")),
            ("api.example.com.:80", Some("api.example.com")),
            ("localhost:", Some("localhost")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("[::1]:8080", Some("[::1]")),
            ("[2001:DB8::1]", Some("[2001:db8::1]")),
            ("", None),
            (".", None),
            ("a..b", None),
            ("a, b", None),
            ("a,b", None),
            ("user@host", None),
            ("host/path", None),
            ("host:80:80", None),
            ("host:http", None),
            ("[::1", None),
            ("[::1]x", None),
            ("::1", None),
            ("h%6fst", None),
        ] {
            assert_eq!(normalize_host(text).as_deref(), expected, "{text:?}");
        }
    }
}
