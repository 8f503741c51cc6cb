//! Who is believed and who owns what: proxies, managed prefixes, path owners, hosts.
//!
//! These lists guard everything else, so they are read narrowly. A prefix is plain whole segments:
//! with an escape, a dot segment or a wildcard it would mean one thing to the operator and another
//! to the request it is compared with. A list that is there must be a list; only leaving the key
//! away means "none".

use super::findings::Findings;
use super::read::{Section, Text, text_of};
use super::{PathOwner, keys};
use crate::offer::quoted;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Most entries of one list.
const MAX_ENTRIES: usize = 10_000;

pub(super) fn managed_prefixes(
    root: &Section<'_>,
    findings: &mut Findings,
) -> Option<Vec<Arc<str>>> {
    let mut prefixes = Vec::new();
    texts(root, "managedPrefixes", findings, |text, findings| {
        if let Some(prefix) = path_prefix(text, findings) {
            let slash = if prefix.ends_with('/') { "" } else { "/" };
            prefixes.push(format!("{prefix}{slash}").into());
        }
    })?;
    Some(prefixes)
}

pub(super) fn trusted_proxies(root: &Section<'_>, findings: &mut Findings) -> Vec<IpNet> {
    let mut nets = Vec::new();
    texts(root, "trustedProxies", findings, |text, findings| {
        let net = text
            .text
            .parse::<IpNet>()
            .ok()
            .or_else(|| text.text.parse::<IpAddr>().ok().map(IpNet::from));
        match net {
            Some(net) => {
                if net.prefix_len() == 0 {
                    text.warn(
                        findings,
                        "trusts_everybody",
                        format!("{net} trusts every address: write the ingress's network"),
                    );
                }
                nets.push(net.trunc());
            }
            None => text.error(
                findings,
                "invalid_network",
                format!(
                    "{} is no address: write one such as \"10.0.0.7\", or a network such as \
                     \"10.42.0.0/16\"",
                    quoted(text.text)
                ),
            ),
        }
    });
    nets
}

pub(super) fn path_owners(root: &Section<'_>, findings: &mut Findings) -> Vec<PathOwner> {
    const KEY: &str = "pathOwners";
    let Some(items) = root.list(KEY, findings) else {
        return Vec::new();
    };
    let list = root.place.key(KEY);
    let mut owners = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let place = list.item(index);
        let expected = "a prefix or host with its namespaces";
        if let Some(section) = Section::new(item, &place, expected, findings) {
            owners.extend(path_owner(&section, findings));
        }
    }
    owners
}

fn path_owner(section: &Section<'_>, findings: &mut Findings) -> Option<PathOwner> {
    section.check_keys(keys::PATH_OWNER, findings);
    let prefix = section.required_text("prefix", findings);
    let host = section.required_text("host", findings);
    if section.node("prefix").is_some() == section.node("host").is_some() {
        findings.error(
            section.at,
            *section.place,
            "invalid_path_owner",
            "an entry binds either a prefix or a host: write exactly one of them".to_owned(),
        );
        return None;
    }
    let mut namespaces: Vec<Arc<str>> = Vec::new();
    let listed = texts(section, "namespaces", findings, |text, findings| {
        if is_label(text.text) {
            namespaces.push(text.text.into());
        } else {
            text.error(
                findings,
                "invalid_namespace",
                format!(
                    "{} is no namespace: write lower-case letters, digits and hyphens",
                    quoted(text.text)
                ),
            );
        }
    });
    if listed.is_none_or(|count| count == 0) {
        findings.error(
            section.at("namespaces"),
            section.place.key("namespaces"),
            "invalid_path_owner",
            "no namespace is named: write the namespaces that may use it".to_owned(),
        );
        return None;
    }
    let prefix = match prefix {
        Some(text) => {
            let prefix = path_prefix(text, findings)?;
            Some(match prefix.trim_end_matches('/') {
                "" => "/".into(),
                trimmed => trimmed.into(),
            })
        }
        None => None,
    };
    let host = match host {
        Some(text) => Some(hostname(text, findings)?),
        None => None,
    };
    Some(PathOwner {
        prefix,
        host,
        namespaces,
    })
}

/// The items of a list of bounded length with their places.
fn texts<'s>(
    root: &Section<'s>,
    key: &'s str,
    findings: &mut Findings,
    mut each: impl FnMut(Text<'_>, &mut Findings),
) -> Option<usize> {
    let items = root.list(key, findings)?;
    let list = root.place.key(key);
    if items.len() > MAX_ENTRIES {
        findings.error(
            root.at(key),
            list,
            "too_many",
            format!("{key} has {} entries, more than {MAX_ENTRIES}", items.len()),
        );
        return None;
    }
    for (index, item) in items.iter().enumerate() {
        if let Some(text) = text_of(item, list.item(index), findings) {
            each(text, findings);
        }
    }
    Some(items.len())
}

/// A subtree in plain characters: what a request can be compared with in every view.
fn path_prefix<'s>(text: Text<'s>, findings: &mut Findings) -> Option<&'s str> {
    let segments = |path: &str| {
        path.trim_end_matches('/')
            .split('/')
            .skip(1)
            .all(|segment| !matches!(segment, "" | "." | ".."))
    };
    let plain = |path: &str| {
        path.bytes()
            .all(|b| b.is_ascii_graphic() && !b"*?#%;\\[]".contains(&b))
    };
    let path = text.text;
    if path.starts_with('/') && !path.ends_with("//") && segments(path) && plain(path) {
        return Some(path);
    }
    text.error(
        findings,
        "invalid_prefix",
        format!(
            "{} is no path prefix: write whole segments such as \"/services/\", without \
             wildcards, escapes, dots or doubled slashes",
            quoted(path)
        ),
    );
    None
}

/// A host name in lower case; a port, a wildcard or a path is an error.
pub(super) fn hostname(text: Text<'_>, findings: &mut Findings) -> Option<Arc<str>> {
    let host = text.text.trim_end_matches('.').to_ascii_lowercase();
    let named = host.len() <= 253 && host.split('.').all(is_host_label);
    let literal = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    if named || literal {
        return Some(host.into());
    }
    text.error(
        findings,
        "invalid_hostname",
        format!(
            "{} is no host: write a name such as \"api.example.com\", without port, path or \
             wildcard",
            quoted(text.text)
        ),
    );
    None
}

fn is_host_label(label: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    label.len() <= 63
        && edge(label.bytes().next())
        && edge(label.bytes().last())
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// A Kubernetes namespace (RFC 1123 label).
fn is_label(text: &str) -> bool {
    text.len() <= 63
        && !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
