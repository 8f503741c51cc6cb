//! One route of the document.
//!
//! One bad route closes its own path and harms no other (R3): it becomes a [`Route`] with problems
//! and keeps its pattern, whose literal prefix the table closes. That needs a pattern; a route
//! without one, or whose pattern is broken and begins with a wildcard, says nothing about what it
//! wanted to protect, and then the whole document is refused. So is a route with two patterns:
//! closing one would leave the other open (R1).
//!
//! What becomes of a route depends on its own text and on [`Defaults`], on nothing else: neither on
//! its neighbours nor on its place. `edition.rs` relies on that when it keeps a route whose text
//! did not change.

use super::asked::{Asked, Asks};
use super::assets::Assets;
use super::findings::{Findings, Position};
use super::offers::Name;
use super::patterns::pattern;
use super::read::{Section, Text};
use super::settings::{self, Defaults};
use super::{keys, payments, trust};
use crate::offer::quoted;
use crate::offer::{Gate, Route, Settle};
use http::HeaderValue;
use secrecy::SecretString;
use std::sync::Arc;

/// Words of `settle`.
pub(super) const SETTLE: &[(&str, Settle)] = &[
    ("before", Settle::Before),
    ("after", Settle::After),
    ("never", Settle::Never),
];

/// Hosted facilitators refuse longer descriptions.
const MAX_DESCRIPTION: usize = 500;

/// What every route is read with.
pub(super) struct Reader<'a> {
    /// What the document says for all routes.
    pub(super) defaults: &'a Defaults,
    /// Tokens, shared by the routes that take them.
    pub(super) assets: &'a mut Assets,
    /// Facilitators, shared by the routes that name them.
    pub(super) asked: &'a mut Asked,
}

/// A route as it was read.
#[derive(Debug)]
pub(super) struct Made {
    /// The route.
    pub(super) route: Route,
    /// Where it was written.
    pub(super) at: Position,
    /// The offer it is part of.
    pub(super) offer: Name,
    /// What it wants of facilitators.
    pub(super) asks: Asks,
}

impl Reader<'_> {
    /// Reads a route; `None` after the document was refused for it.
    pub(super) fn route(&mut self, section: &Section<'_>, findings: &mut Findings) -> Option<Made> {
        let mark = findings.mark();
        section.check_keys(keys::ROUTE, findings);
        refuse_two_patterns(section, findings);
        let Some(pattern) = pattern(section, findings) else {
            findings.refuse();
            return None;
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
        let (facilitator, asks) = self.facilitator(section, gate, findings);
        let options = match gate {
            Gate::Paid => payments::read(section, self.defaults, self.assets, findings),
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
            problems: problems.into(),
        };
        Some(Made {
            route,
            at: section.at,
            offer: Name {
                namespace: namespace.into(),
                name: name.into(),
                hostname,
            },
            asks,
        })
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
    ) -> (Arc<str>, Asks) {
        let Some(text) = section.filled("facilitatorURL", findings) else {
            let asks = match gate {
                Gate::Paid => Asks::Assumed,
                Gate::Free | Gate::Auth => Asks::Nothing,
            };
            return (Arc::clone(&self.defaults.facilitator), asks);
        };
        match settings::facilitator(text, findings) {
            Some(url) if url == self.defaults.facilitator => {
                (Arc::clone(&self.defaults.facilitator), Asks::Named)
            }
            Some(url) => (self.asked.share(url), Asks::Named),
            None => (Arc::from(""), Asks::Nothing),
        }
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
