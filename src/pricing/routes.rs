//! Routes of the document to offers.
//!
//! One bad route closes its own path and harms no other (R3): it becomes a [`Route`] with problems
//! and keeps its pattern, whose literal prefix the table closes. That needs a pattern; a route
//! without one, or whose pattern is broken and begins with a wildcard, says nothing about what it
//! wanted to protect, and then the whole document is refused. So is a route with two patterns:
//! closing one would leave the other open (R1).
//!
//! Routes of one `offerNamespace`, `offerName` and `hostname` are one offer, in the order of the
//! file; they all belong to the operator (O2).

use super::assets::Assets;
use super::findings::{Findings, quoted};
use super::payments;
use super::read::{Section, Text};
use super::settings::{self, Defaults};
use super::tree::Value;
use super::{FacilitatorSettings, Settings, keys, trust};
use crate::offer::{Declared, Gate, Location, Offer, Owner, Phase, Route, Settle};
use http::HeaderValue;
use secrecy::SecretString;
use std::collections::HashMap;
use std::sync::Arc;

/// Words of `settle`.
pub(super) const SETTLE: &[(&str, Settle)] = &[
    ("before", Settle::Before),
    ("after", Settle::After),
    ("never", Settle::Never),
];

/// Most routes of one file.
const MAX_ROUTES: usize = 250_000;
/// Longest pattern, in bytes.
const MAX_PATTERN: usize = 2_048;
/// Most segments of a pattern.
const MAX_SEGMENTS: usize = 64;
/// Hosted facilitators refuse longer descriptions.
const MAX_DESCRIPTION: usize = 500;

/// Offers under construction, found again by what names them.
#[derive(Debug, Default)]
struct Offers {
    list: Vec<Offer>,
    index: HashMap<String, usize>,
    key: String,
}

/// What every route is read with.
struct Reader<'a> {
    defaults: &'a Defaults,
    file: Arc<str>,
    settings: &'a mut Settings,
    assets: Assets,
    offers: Offers,
    /// A paid route uses the facilitator of the document.
    uses_default: bool,
}

/// Reads `routes`; the facilitators they name are added to the settings.
pub(super) fn read(
    root: &Section<'_>,
    defaults: &Defaults,
    settings: &mut Settings,
    file: &str,
    findings: &mut Findings,
) -> Vec<Arc<Offer>> {
    let mark = findings.mark();
    let items = match root.value("routes") {
        Some(_) => root.list("routes", findings).unwrap_or_default(),
        None => &[],
    };
    let list = root.place.key("routes");
    if items.len() > MAX_ROUTES {
        findings.error(
            root.at("routes"),
            list,
            "too_many",
            format!("{} routes are more than {MAX_ROUTES}", items.len()),
        );
    }
    if findings.any_error_since(mark) {
        findings.refuse();
        return Vec::new();
    }
    let mut reader = Reader {
        defaults,
        file: file.into(),
        settings,
        assets: Assets::default(),
        offers: Offers::default(),
        uses_default: false,
    };
    for (index, item) in items.iter().enumerate() {
        let place = list.item(index);
        match Section::new(item, &place, "a mapping with a pattern", findings) {
            Some(section) => reader.route(&section, findings),
            None => findings.refuse(),
        }
    }
    let uses_default = reader.uses_default;
    let offers = reader.offers.list.into_iter().map(Arc::new).collect();
    if !defaults.facilitator_named && uses_default {
        findings.warn(
            root.at,
            root.place.key("facilitatorURL"),
            "default_facilitator",
            format!(
                "no facilitatorURL is named, so payments go to {}",
                defaults.facilitator
            ),
        );
    }
    offers
}

impl Reader<'_> {
    fn route(&mut self, section: &Section<'_>, findings: &mut Findings) {
        let mark = findings.mark();
        section.check_keys(keys::ROUTE, findings);
        refuse_two_patterns(section, findings);
        let Some(pattern) = pattern(section, findings) else {
            findings.refuse();
            return;
        };
        let gate = gate(section, findings);
        let hostname = section
            .filled("hostname", findings)
            .and_then(|text| trust::hostname(text, findings));
        let namespace = offer_label(section, "offerNamespace", findings);
        let name = offer_label(section, "offerName", findings);
        if namespace.is_empty() != name.is_empty() {
            findings.warn(
                section.at,
                *section.place,
                "unpinnable_offer",
                "offerNamespace and offerName pin an offer only together: write both, or none"
                    .to_owned(),
            );
        }
        let preflight_pass = section
            .word(
                "preflight",
                &[("pass", true)],
                "invalid_preflight",
                findings,
            )
            .unwrap_or(false);
        let eoa_only = section
            .boolean("eoaOnly", findings)
            .unwrap_or(self.defaults.eoa_only);
        let settle = self.settle(section, gate, findings);
        let upstream_auth = self.upstream_auth(section, findings);
        let description = description(section, findings);
        let facilitator = self.facilitator(section, gate, findings);
        let options = match gate {
            Gate::Paid => payments::read(section, self.defaults, &mut self.assets, findings),
            Gate::Free | Gate::Auth => {
                note_unsold(section, findings);
                Vec::new()
            }
        };
        let mut problems = findings.errors_since(mark);
        if gate == Gate::Paid && *facilitator == *self.defaults.facilitator {
            problems.extend(self.defaults.facilitator_problem.clone());
        }
        let route = Route {
            pattern,
            gate,
            settle,
            preflight_pass,
            eoa_only,
            options,
            facilitator,
            upstream_auth,
            description,
            problems,
        };
        let at = Location {
            file: Arc::clone(&self.file),
            line: section.at.line,
            column: section.at.column,
        };
        self.offers
            .of(namespace, name, hostname)
            .routes
            .push(Declared {
                route: Arc::new(route),
                at: Some(at),
            });
    }

    fn settle(&self, section: &Section<'_>, gate: Gate, findings: &mut Findings) -> Settle {
        let own = section.word("settle", SETTLE, "invalid_settle", findings);
        let (at, place) = (section.at("settle"), section.place.key("settle"));
        match own {
            _ if gate != Gate::Paid => {}
            Some(Settle::Before | Settle::After) if self.defaults.verify_only => findings.error(
                at,
                place,
                "contradiction",
                "settle contradicts verifyOnly, which never settles: remove one of them".to_owned(),
            ),
            Some(Settle::After) => findings.warn(
                at,
                place,
                "settle_after",
                "settle: after acts as before on /verify, which cannot see the upstream's answer"
                    .to_owned(),
            ),
            Some(Settle::Never) => findings.warn(
                at,
                place,
                "settle_never",
                "settle: never verifies payments and does not settle them, so nobody is paid"
                    .to_owned(),
            ),
            Some(Settle::Before) | None => {}
        }
        own.unwrap_or(self.defaults.settle)
    }

    fn facilitator(
        &mut self,
        section: &Section<'_>,
        gate: Gate,
        findings: &mut Findings,
    ) -> Arc<str> {
        let Some(text) = section.filled("facilitatorURL", findings) else {
            self.uses_default |= gate == Gate::Paid;
            return Arc::clone(&self.defaults.facilitator);
        };
        let Some(url) = settings::facilitator(text, findings) else {
            return Arc::from("");
        };
        if url == self.defaults.facilitator {
            return Arc::clone(&self.defaults.facilitator);
        }
        if let Some((known, _)) = self.settings.facilitators.get_key_value(&url) {
            return Arc::clone(known);
        }
        self.settings
            .facilitators
            .insert(Arc::clone(&url), FacilitatorSettings::default());
        url
    }

    /// The value stays out of every message (R13).
    fn upstream_auth(
        &self,
        section: &Section<'_>,
        findings: &mut Findings,
    ) -> Option<SecretString> {
        let text = section.filled("upstreamAuth", findings)?;
        if HeaderValue::from_str(text.text).is_err() {
            text.error(
                findings,
                "invalid_upstream_auth",
                "upstreamAuth is not one line of visible ASCII: write the whole value of the \
                 Authorization header"
                    .to_owned(),
            );
            return None;
        }
        if !self.defaults.ingress_known {
            text.warn(
                findings,
                "upstream_auth_off",
                "upstreamAuth is answered only to a known ingress and is off: set trustedProxies \
                 or verifySecretFile"
                    .to_owned(),
            );
        }
        Some(SecretString::from(text.text))
    }
}

impl Offers {
    fn of(&mut self, namespace: &str, name: &str, hostname: Option<Arc<str>>) -> &mut Offer {
        self.key.clear();
        for part in [namespace, name, hostname.as_deref().unwrap_or_default()] {
            self.key.push_str(part);
            // Cannot be part of any of them.
            self.key.push('\0');
        }
        let next = self.list.len();
        let index = match self.index.get(&self.key) {
            Some(index) => *index,
            None => {
                self.index.insert(self.key.clone(), next);
                next
            }
        };
        if index == next {
            self.list.push(Offer {
                namespace: namespace.into(),
                name: name.into(),
                uid: None,
                generation: None,
                created: None,
                owner: Owner::Operator,
                base_path: None,
                hostname,
                routes: Vec::new(),
                phase: Phase::Live,
                problems: Vec::new(),
            });
        }
        #[expect(
            clippy::indexing_slicing,
            reason = "the index was found or pushed just above"
        )]
        &mut self.list[index]
    }
}

fn refuse_two_patterns(section: &Section<'_>, findings: &mut Findings) {
    let twice = |key: &str| {
        section
            .entries()
            .iter()
            .any(|entry| entry.first.is_some() && entry.key == key)
    };
    if twice("pattern") || twice("hostname") {
        findings.refuse();
    }
}

/// The pattern text, with a leading slash; `None` when nothing says which path to close.
fn pattern(section: &Section<'_>, findings: &mut Findings) -> Option<Arc<str>> {
    let Some(text) = section.filled("pattern", findings) else {
        if !matches!(
            section.node("pattern").map(|node| &node.value),
            Some(Value::List(_) | Value::Map(_))
        ) {
            findings.error(
                section.at("pattern"),
                section.place.key("pattern"),
                "missing_pattern",
                "the route has no pattern, so nothing says which path it guards: write one such \
                 as \"/services/app/*\""
                    .to_owned(),
            );
        }
        return None;
    };
    let Some(why) = broken(text.text) else {
        return Some(text.text.into());
    };
    text.error(
        findings,
        "invalid_pattern",
        format!("pattern {} {why}", quoted(text.text)),
    );
    if has_no_prefix(text.text) || text.text.contains("://") || text.text.len() > MAX_PATTERN {
        findings.hint("nothing says which path to close, so the whole document is refused");
        return None;
    }
    let slash = if text.text.starts_with('/') { "" } else { "/" };
    Some(format!("{slash}{}", text.text).into())
}

/// What is wrong with a pattern, as far as it shows without compiling it. The table compiles and
/// has the last word; here only what is certain is reported, with its place in the file.
fn broken(pattern: &str) -> Option<&'static str> {
    let Some(path) = pattern.strip_prefix('/') else {
        return Some("does not begin with \"/\": write the path from its root");
    };
    if pattern.len() > MAX_PATTERN || pattern.split('/').count() > MAX_SEGMENTS {
        return Some("is too long: write at most 2048 bytes and 64 segments");
    }
    if pattern.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Some("contains a space or control character: write a space as %20");
    }
    // As in the predecessor, only a `*` beyond a final `/*` makes the segments globs.
    let body = path.strip_suffix("/*").unwrap_or(path);
    let globs = body.contains('*') && body != "*";
    let body = body.strip_suffix('/').unwrap_or(body);
    if body.contains('#') || (!globs && body.contains('?')) {
        return Some("contains what ends a path: remove the query or fragment");
    }
    if !globs && body.contains('\\') {
        return Some("contains a backslash, which servers read as a slash: write \"/\"");
    }
    let mut segments = body.split('/');
    if !body.is_empty() && segments.clone().any(|s| matches!(s, "" | "." | "..")) {
        return Some("contains an empty or dot segment, which no request keeps: remove it");
    }
    if bad_escape(body) {
        return Some("has a percent sign that begins no escape: write it as %25");
    }
    if globs && body.contains("**") && !body.contains(['\\', '[']) {
        return Some("contains \"**\", which matches one segment: write \"/*\" at its end instead");
    }
    if globs && segments.any(unclosed) {
        return Some("has an unclosed \"[\" or a trailing \"\\\": close it within its segment");
    }
    None
}

fn bad_escape(path: &str) -> bool {
    path.split('%').skip(1).any(|after| {
        let mut digits = after.bytes().take(2);
        digits.len() < 2 || !digits.all(|b| b.is_ascii_hexdigit())
    })
}

/// Whether a glob segment ends inside a class or an escape.
fn unclosed(segment: &str) -> bool {
    let mut letters = segment.chars();
    let mut inside = false;
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if letters.next().is_none() => return true,
            '[' => inside = true,
            ']' => inside = false,
            _ => {}
        }
    }
    inside
}

/// Whether no whole plain segment stands at the beginning, so that closing the literal prefix of
/// the pattern would close everything.
fn has_no_prefix(pattern: &str) -> bool {
    let path = pattern.strip_prefix('/').unwrap_or(pattern);
    let first = path.split('/').next().unwrap_or_default();
    let plain = |b: u8| b > b' ' && b != 0x7f && !b"*?[\\#%".contains(&b);
    matches!(first, "" | "." | "..") || !first.bytes().all(plain)
}

fn gate(section: &Section<'_>, findings: &mut Findings) -> Gate {
    let words = [
        ("paid", Gate::Paid),
        ("free", Gate::Free),
        ("auth", Gate::Auth),
    ];
    if section.filled("gate", findings).is_none() {
        return Gate::Paid;
    }
    let gate = section.word("gate", &words, "invalid_gate", findings);
    if gate == Some(Gate::Auth) {
        findings.warn(
            section.at("gate"),
            section.place.key("gate"),
            "sign_in_missing",
            "gate: auth refuses every request until this version can sign wallets in".to_owned(),
        );
    }
    gate.unwrap_or(Gate::Paid)
}

/// `offerNamespace` and `offerName`: what `/verify/{namespace}/{name}` can name.
fn offer_label<'s>(section: &Section<'s>, key: &'s str, findings: &mut Findings) -> &'s str {
    let Some(Text { text, at, place }) = section.filled(key, findings) else {
        return "";
    };
    let plain = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if plain && text.len() <= 253 && !matches!(text, "." | "..") {
        return text;
    }
    findings.error(
        at,
        place,
        "invalid_offer_name",
        format!(
            "{key} is {}: write at most 253 letters, digits, \"-\", \"_\" and \".\"",
            quoted(text)
        ),
    );
    ""
}

fn description(section: &Section<'_>, findings: &mut Findings) -> Option<Arc<str>> {
    let text = section.filled("description", findings)?;
    match text.text.char_indices().nth(MAX_DESCRIPTION) {
        Some((end, _)) => {
            text.warn(
                findings,
                "long_description",
                format!("the description is cut after {MAX_DESCRIPTION} characters"),
            );
            text.text.get(..end).map(Arc::from)
        }
        None => Some(text.text.into()),
    }
}

/// A price on a route that is not sold is probably a mistake.
fn note_unsold(section: &Section<'_>, findings: &mut Findings) {
    for key in ["price", "perMTok", "payments"] {
        if section.sets(key) {
            findings.warn(
                section.at(key),
                section.place.key(key),
                "unused_key",
                format!("{key} is not used: the route's gate asks for no payment"),
            );
        }
    }
}
