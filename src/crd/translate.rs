//! One object to one offer (compat 1.19).
//!
//! The path comes first, and everything that follows can only add problems: an offer whose `spec`
//! is nonsense is still an offer that closes `/services/<name>/*`. A declared route table is
//! exhaustive, so a route whose own path cannot be read closes the whole path of the offer.
//!
//! A `hostname` adds an origin to an offer and takes none away: the field rewrites requests to it
//! into the path of the offer, which stays in use. So its paths are gated on every host, but for the
//! hosts that the operator gave to somebody (O4).

use super::payment::Terms;
use super::read::Section;
use super::{PAUSED_ANNOTATION, UPSTREAM_SECRET_ANNOTATION};
use super::{ServiceOffer, TranslateOptions, Translated};
use crate::offer::{
    DOCUMENTS_FACILITATOR, Declared, Gate, Offer, OfferIdentity, Phase, Problem, Route, Settle,
    Withdrawal, quoted,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::sync::Arc;

/// Most routes of one offer (compat 1.18).
const MAX_ROUTES: usize = 128;
/// Longest path of a route (compat 1.18).
const MAX_ROUTE_PATH: usize = 512;
/// Longest path of an offer; leaves room for a route's within the longest pattern.
const MAX_PATH: usize = 1_024;
/// Most segments of either, for the same reason.
const MAX_SEGMENTS: usize = 30;
/// Hosted facilitators refuse longer descriptions.
const MAX_DESCRIPTION: usize = 500;
/// Grace of a drain that does not say (compat 1.18).
const DRAIN_GRACE: SignedDuration = SignedDuration::from_hours(1);

/// Translates an object. Never fails; what is wrong is in the offer's and the routes' problems.
#[must_use]
pub fn translate(object: &ServiceOffer, options: &TranslateOptions, now: Timestamp) -> Translated {
    let meta = &object.metadata;
    let namespace: Arc<str> = meta.namespace.as_deref().unwrap_or_default().into();
    let name: Arc<str> = meta.name.as_deref().unwrap_or_default().into();
    let mut problems = Vec::new();
    let spec = Section::new(&object.spec, "spec".to_owned(), &mut problems);
    let base: Arc<str> = base_path(&spec, &name, &mut problems).into();
    let hostname = hostname(&spec, &mut problems);
    let (phase, next_change) = phase(object, &spec, now, &mut problems);
    check_upstream(&spec, &namespace, options, &mut problems);
    let upstream_secret = upstream_secret(object, options, &mut problems);
    let routes = routes(&spec, &base, &mut problems);
    // Collected, it would keep the room of the larger routes.
    let mut declared = Vec::with_capacity(routes.len());
    declared.extend(routes.into_iter().map(Declared::from));
    let identity = OfferIdentity {
        // Without a UID the ledger would take it for the operator's (O2).
        uid: Some(match &meta.uid {
            Some(uid) if !uid.is_empty() => uid.as_str().into(),
            _ => format!("{namespace}/{name}").into(),
        }),
        // Nothing is older than the operator, so whoever has no age is the youngest (O1).
        created: Some(meta.creation_timestamp.as_ref().map_or(now, |time| time.0)),
        base_path: Some(base),
        hostname: hostname.filter(|host| options.bound_hosts.contains(host)),
        namespace,
        name,
    };
    let offer = Offer {
        identity: Arc::new(identity),
        generation: meta.generation,
        routes: declared,
        phase,
        problems,
    };
    Translated {
        offer,
        upstream_secret,
        next_change,
    }
}

/// The offer's path without a trailing slash; `/services/<name>` unless it says another. A path that
/// cannot be used is still the one that is closed, or its beginning where it is too long or holds a
/// wildcard.
fn base_path(spec: &Section<'_>, name: &str, problems: &mut Vec<Problem>) -> String {
    let Some(text) = spec.long_text("path", problems) else {
        return format!("/services/{name}");
    };
    if let Some(why) = unusable_path(text, "/_.-", MAX_PATH) {
        problems.push(problem(
            "invalid_path",
            format!(
                "{} is {}: {why}, such as \"/services/{name}\"",
                spec.at("path"),
                quoted(text)
            ),
        ));
    }
    let body = match text.split_once('*') {
        // A wildcard would make patterns of what is only to be closed.
        Some((before, _)) => before.rsplit_once('/').map_or("", |(whole, _)| whole),
        None => text,
    };
    let body = body.trim_matches('/');
    let end = body
        .match_indices('/')
        .map(|(at, _)| at)
        .chain([body.len()])
        .take(MAX_SEGMENTS)
        .take_while(|at| *at < MAX_PATH)
        .last();
    format!(
        "/{}",
        end.and_then(|end| body.get(..end)).unwrap_or_default()
    )
}

/// Why a text is no path, as a sentence that says what would do.
fn unusable_path(text: &str, punctuation: &str, longest: usize) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || punctuation.contains(c);
    let Some(path) = text.strip_prefix('/') else {
        return Some("write a path that begins with \"/\"".to_owned());
    };
    if !path.chars().all(allowed) {
        return Some(format!(
            "write a path of letters, digits and {punctuation:?}"
        ));
    }
    let body = path.strip_suffix('/').unwrap_or(path);
    if text.len() > longest || body.split('/').count() > MAX_SEGMENTS {
        return Some(format!(
            "write a path of at most {longest} bytes and {MAX_SEGMENTS} segments"
        ));
    }
    let vain = |segment: &str| matches!(segment, "" | "." | "..");
    if !body.is_empty() && body.split('/').any(vain) {
        return Some(
            "write a path without empty and dot segments, which no request keeps".to_owned(),
        );
    }
    None
}

fn hostname(spec: &Section<'_>, problems: &mut Vec<Problem>) -> Option<Arc<str>> {
    let text = spec.text("hostname", problems)?;
    let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() <= 253 && host.split('.').all(label) {
        return Some(host.into());
    }
    problems.push(problem(
        "invalid_hostname",
        format!(
            "{} is {}: write a DNS name without scheme, port and path",
            spec.at("hostname"),
            quoted(text)
        ),
    ));
    None
}

/// The life cycle, and when it begins another phase that no event announces.
///
/// A deletion counts from its first sign, also while a finalizer holds the object (O3). The
/// predecessor's pause, by annotation or field, is a drain without grace. A drain begins at `drainAt` and ends by the
/// table's timer.
fn phase(
    object: &ServiceOffer,
    spec: &Section<'_>,
    now: Timestamp,
    problems: &mut Vec<Problem>,
) -> (Phase, Option<Timestamp>) {
    let paused = annotation(object, PAUSED_ANNOTATION)
        .is_some_and(|value| value.trim().eq_ignore_ascii_case("true"));
    let drain = drain(spec, problems);
    let paused = spec.boolean("paused", problems).unwrap_or(false) || paused;
    // What is being deleted does not come back by being resumed.
    if object.metadata.deletion_timestamp.is_some() {
        return (Phase::Withdrawn(Withdrawal::Deleting), None);
    }
    if paused {
        return (Phase::Withdrawn(Withdrawal::Paused), None);
    }
    match drain {
        None => (Phase::Live, None),
        Some((from, _)) if from > now => (Phase::Live, Some(from)),
        Some((_, until)) => (Phase::Draining { until }, None),
    }
}

/// Begin and end of a drain.
fn drain(spec: &Section<'_>, problems: &mut Vec<Problem>) -> Option<(Timestamp, Timestamp)> {
    let grace = spec.text("drainGracePeriod", problems).and_then(|text| {
        let grace: Option<SignedDuration> = text
            .parse()
            .ok()
            .filter(|g| !SignedDuration::is_negative(g));
        if grace.is_none() {
            problems.push(problem(
                "invalid_drain",
                format!(
                    "{} is {}: write a duration such as \"1h\", \"90s\" or \"0s\"",
                    spec.at("drainGracePeriod"),
                    quoted(text)
                ),
            ));
        }
        grace
    });
    let text = spec.text("drainAt", problems)?;
    let Ok(from) = text.parse::<Timestamp>() else {
        problems.push(problem(
            "invalid_drain",
            format!(
                "{} is {}: write a time such as \"2026-11-21T15:00:00Z\"",
                spec.at("drainAt"),
                quoted(text)
            ),
        ));
        return None;
    };
    let until = from.checked_add(grace.unwrap_or(DRAIN_GRACE));
    Some((from, until.unwrap_or(Timestamp::MAX)))
}

/// O6: the upstream is in the offer's own namespace, unless the operator allows another.
fn check_upstream(
    spec: &Section<'_>,
    namespace: &str,
    options: &TranslateOptions,
    problems: &mut Vec<Problem>,
) {
    let upstream = spec.section("upstream", problems);
    let reference = spec.section("agent", problems).section("ref", problems);
    for section in [upstream, reference] {
        let Some(other) = section.text("namespace", problems) else {
            continue;
        };
        let allowed = other == namespace
            || options.foreign_upstreams.iter().any(|entry| {
                entry.offer_namespace == namespace && entry.upstream_namespace == other
            });
        if !allowed {
            problems.push(problem(
                "foreign_upstream",
                format!(
                    "{} is {}, which is not the offer's own: create the offer there, or ask the \
                     operator to allow it",
                    section.at("namespace"),
                    quoted(other)
                ),
            ));
        }
    }
}

fn upstream_secret(
    object: &ServiceOffer,
    options: &TranslateOptions,
    problems: &mut Vec<Problem>,
) -> Option<Arc<str>> {
    let name = annotation(object, UPSTREAM_SECRET_ANNOTATION)?.trim();
    if name.is_empty() {
        return None;
    }
    if options
        .upstream_secret_names
        .iter()
        .any(|listed| listed == name)
    {
        return Some(name.into());
    }
    problems.push(problem(
        "upstream_secret",
        format!(
            "the annotation {UPSTREAM_SECRET_ANNOTATION} names {}, which the operator does not \
             list: use one of {}",
            quoted(name),
            options.upstream_secret_names.join(", ")
        ),
    ));
    None
}

fn annotation<'o>(object: &'o ServiceOffer, key: &str) -> Option<&'o str> {
    let annotations = object.metadata.annotations.as_ref()?;
    annotations.get(key).map(String::as_str)
}

/// The routes; never none, so that the path of the offer is always gated.
fn routes(spec: &Section<'_>, base: &str, problems: &mut Vec<Problem>) -> Vec<Route> {
    let terms = Terms::read(spec);
    let description = spec.section("registration", problems);
    // What describes an offer is no reason to close it.
    let description = description.text("description", &mut Vec::new()).map(cut);
    let declared = spec.list("routes", problems).unwrap_or_default();
    if declared.len() > MAX_ROUTES {
        problems.push(problem(
            "invalid_routes",
            format!(
                "{} has {} entries: write at most {MAX_ROUTES}",
                spec.at("routes"),
                declared.len()
            ),
        ));
    }
    if declared.is_empty() || declared.len() > MAX_ROUTES {
        return vec![Route {
            options: terms.options,
            problems: terms.problems.into(),
            description,
            ..whole(base)
        }];
    }
    declared
        .iter()
        .enumerate()
        .map(|(index, value)| {
            let mut problems = Vec::new();
            let path = format!("{}[{index}]", spec.at("routes"));
            let section = Section::new(value, path, &mut problems);
            let mut route = route(&section, base, &terms, &mut problems);
            route.description = match &description {
                Some(description) => Some(Arc::clone(description)),
                None => section.text("summary", &mut Vec::new()).map(cut),
            };
            route.problems = problems.into();
            route
        })
        .collect()
}

/// One declared route; its path is relative to the offer's.
fn route(section: &Section<'_>, base: &str, terms: &Terms, problems: &mut Vec<Problem>) -> Route {
    let mut route = whole(base);
    if let Some(pattern) = pattern(section, base, problems) {
        route.pattern = pattern.into();
    }
    route.gate = match section.text("gate", problems) {
        None | Some("paid") => Gate::Paid,
        Some("free") => Gate::Free,
        Some("auth") => Gate::Auth,
        Some(other) => {
            problems.push(problem(
                "invalid_gate",
                format!(
                    "{} is {}: write \"paid\", \"free\" or \"auth\"",
                    section.at("gate"),
                    quoted(other)
                ),
            ));
            Gate::Paid
        }
    };
    if route.gate == Gate::Paid {
        let price = section.section("price", problems);
        if is_set(section.value("price")) {
            route.options.extend(terms.at_price(&price, problems));
        } else {
            route.options.clone_from(&terms.options);
        }
        problems.extend_from_slice(&terms.problems);
    }
    if !problems.is_empty() {
        route.options.clear();
    }
    route.options.shrink_to_fit();
    route
}

/// The pattern of a route; `None` when nothing says which path it means.
fn pattern(section: &Section<'_>, base: &str, problems: &mut Vec<Problem>) -> Option<String> {
    let mark = problems.len();
    let Some(text) = section.text("path", problems) else {
        if problems.len() == mark {
            problems.push(problem(
                "invalid_path",
                format!(
                    "{} is missing: write a path below the offer's, such as \"/v1/*\"",
                    section.at("path")
                ),
            ));
        }
        return None;
    };
    if let Some(why) = unusable_path(text, "/_.-*", MAX_ROUTE_PATH) {
        problems.push(problem(
            "invalid_path",
            format!(
                "{} is {}: {why}, such as \"/v1/*\"",
                section.at("path"),
                quoted(text)
            ),
        ));
        return None;
    }
    Some(match (base, text) {
        (base, "/") => base.to_owned(),
        ("/", below) => below.to_owned(),
        (base, below) => format!("{base}{below}"),
    })
}

/// Whether a price table says anything; the clients of the field write empty ones out.
fn is_set(price: Option<&Value>) -> bool {
    match price {
        None => false,
        Some(Value::Object(table)) => table
            .values()
            .any(|value| !value.is_null() && value.as_str() != Some("")),
        Some(_) => true,
    }
}

/// The one route that covers the whole path of an offer.
fn whole(base: &str) -> Route {
    Route {
        pattern: format!("{}/*", base.trim_end_matches('/')).into(),
        gate: Gate::Paid,
        settle: Settle::Before,
        preflight_pass: false,
        eoa_only: false,
        options: Vec::new(),
        facilitator: documents_facilitator(),
        upstream_auth: None,
        description: None,
        problems: Box::default(),
    }
}

/// [`DOCUMENTS_FACILITATOR`], which is nothing and takes no memory.
fn documents_facilitator() -> Arc<str> {
    const { assert!(DOCUMENTS_FACILITATOR.is_empty()) };
    Arc::default()
}

fn cut(text: &str) -> Arc<str> {
    match text.char_indices().nth(MAX_DESCRIPTION) {
        Some((end, _)) => text.get(..end).unwrap_or_default().into(),
        None => text.into(),
    }
}

const fn problem(code: &'static str, message: String) -> Problem {
    Problem { code, message }
}
