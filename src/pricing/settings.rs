//! Everything outside `routes`: read, checked, and refused as a whole when any of it is wrong.
//!
//! A bad route closes itself; a bad setting has nothing smaller to close. An unreadable
//! `trustedProxies` must not become "trust all", a misspelt `unmatched` must not become "allow",
//! so any error here refuses the document and the last good one stays.
//!
//! The one exception is `facilitatorHeadersFile`: without it the facilitator would be called
//! unauthenticated, so only the routes of that facilitator close.

use super::assets::{address, unknown_chain};
use super::findings::{Findings, Place};
use super::read::{Section, Text};
use super::secrets::{self, HeadersFile};
use super::urls::{self, Facilitator};
use super::{
    FacilitatorSettings, HeaderSource, Limits, PerOffer, Settings, Timeouts, Unmatched, keys, trust,
};
use crate::money::Network;
use crate::offer::{Problem, Settle};
use alloy_primitives::Address;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Used where the document names none, as in the predecessor (compat 1.2).
const DEFAULT_FACILITATOR: &str = "https://x402.gcp.obol.tech";
/// How long a facilitator drops a longer one (x402 `ResourceInfo`).
const MAX_SERVICE_NAME: usize = 32;

/// What routes inherit from the document, all of it: equal defaults read a route alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Defaults {
    /// `chain`.
    pub(super) chain: Network,
    /// `wallet`: the recipient of the file's own routes (O7: of no other offer).
    pub(super) wallet: Option<Address>,
    /// `facilitatorURL`.
    pub(super) facilitator: Arc<str>,
    /// Why no route may use [`Defaults::facilitator`].
    pub(super) facilitator_problem: Option<Problem>,
    /// `facilitatorURL` was written, not assumed.
    pub(super) facilitator_named: bool,
    /// `settle`.
    pub(super) settle: Settle,
    /// `verifyOnly`.
    pub(super) verify_only: bool,
    /// `eoaOnly`.
    pub(super) eoa_only: bool,
    /// `upstreamAuth` can be answered to somebody (M11).
    pub(super) ingress_known: bool,
}

/// Where secrets are read from.
#[derive(Debug)]
pub(super) struct Files<'d> {
    /// Resolves relative names.
    pub(super) directory: &'d Path,
    /// Every file that was asked for, readable or not.
    pub(super) asked: Vec<PathBuf>,
}

impl Files<'_> {
    /// The file of that name, noted as one that the document depends on.
    fn resolve(&mut self, name: &str) -> PathBuf {
        let path = self.directory.join(name);
        self.asked.push(path.clone());
        path
    }
}

/// Reads everything but the routes.
pub(super) fn read(
    root: &Section<'_>,
    files: &mut Files<'_>,
    findings: &mut Findings,
) -> (Settings, Defaults) {
    let mark = findings.mark();
    root.check_keys(keys::ROOT, findings);
    let standard = Settings::default();
    let mut settings = Settings {
        unmatched: root
            .word(
                "unmatched",
                &[("deny", Unmatched::Deny), ("allow", Unmatched::Allow)],
                "invalid_unmatched",
                findings,
            )
            .unwrap_or(standard.unmatched),
        managed_prefixes: trust::managed_prefixes(root, findings)
            .unwrap_or(standard.managed_prefixes),
        path_owners: trust::path_owners(root, findings),
        trusted_proxies: trust::trusted_proxies(root, findings),
        header_source: root
            .word(
                "headerSource",
                &[
                    ("x-forwarded", HeaderSource::XForwarded),
                    ("x-original", HeaderSource::XOriginal),
                ],
                "invalid_header_source",
                findings,
            )
            .unwrap_or(standard.header_source),
        public_origin: checked(
            root,
            "publicOrigin",
            "invalid_origin",
            urls::origin,
            findings,
        ),
        verify_secret: root
            .required_text("verifySecretFile", findings)
            .and_then(|text| {
                let path = files.resolve(text.text);
                secrets::path_segment(&path)
                    .map_err(|error| text.error(findings, "invalid_secret_file", error.to_string()))
                    .ok()
            }),
        verify_only: root.boolean("verifyOnly", findings).unwrap_or(false),
        validity_slack: root
            .duration("validitySlack", span("0s", "24h"), findings)
            .unwrap_or(standard.validity_slack),
        closed_path_retention: root
            .duration("closedPathRetention", span("1s", "3650d"), findings)
            .unwrap_or(standard.closed_path_retention),
        closed_paths_per_namespace: size(
            root,
            "closedPathsPerNamespace",
            1..=1_000_000,
            standard.closed_paths_per_namespace,
            findings,
        ),
        facilitator: "".into(),
        eoa_only: false,
        facilitators: standard.facilitators,
        catalog_url: checked(root, "catalogURL", "invalid_url", urls::catalog, findings),
        service_name: checked(
            root,
            "serviceName",
            "invalid_service_name",
            service_name,
            findings,
        ),
        limits: limits(root, findings),
        timeouts: timeouts(root, findings),
        metrics_per_offer: PerOffer::All,
        metrics_prefix: standard.metrics_prefix,
    };
    metrics(root, &mut settings, findings);
    let mut defaults = defaults(root, &settings, findings);
    if findings.any_error_since(mark) {
        findings.refuse();
    }
    settings.facilitator = Arc::clone(&defaults.facilitator);
    settings.eoa_only = defaults.eoa_only;
    let headers = facilitator_headers(root, files, findings);
    match headers {
        Ok(headers) => {
            settings
                .facilitators
                .insert(Arc::clone(&defaults.facilitator), headers);
        }
        Err(problem) => defaults.facilitator_problem = Some(problem),
    }
    (settings, defaults)
}

fn defaults(root: &Section<'_>, settings: &Settings, findings: &mut Findings) -> Defaults {
    let chain = root.filled("chain", findings).and_then(|text| {
        let network = Network::parse(text.text);
        if network.is_none() {
            text.error(findings, "unknown_chain", unknown_chain("chain", text.text));
        }
        network
    });
    let wallet = root.filled("wallet", findings).and_then(|text| {
        address(text, "wallet", findings).filter(|wallet| {
            if wallet.is_zero() {
                text.error(
                    findings,
                    "invalid_recipient",
                    "wallet is the zero address: write the address that shall be paid".to_owned(),
                );
            }
            !wallet.is_zero()
        })
    });
    let named = root.filled("facilitatorURL", findings);
    let facilitator = named.and_then(|text| facilitator(text, findings));
    let settle = root.word("settle", super::routes::SETTLE, "invalid_settle", findings);
    if settings.verify_only {
        root.warn_at(
            "verifyOnly",
            "verify_only",
            "verifyOnly is true: payments are verified on /verify and never settled, so nobody \
             is paid",
            findings,
        );
        if matches!(settle, Some(Settle::Before | Settle::After)) {
            findings.error(
                root.at("settle"),
                root.place.key("settle"),
                "contradiction",
                "settle contradicts verifyOnly, which never settles: remove one of them".to_owned(),
            );
        }
    }
    match settle {
        Some(Settle::After) => root.warn_at(
            "settle",
            "settle_after",
            "settle: after acts as before on /verify, which cannot see the upstream's answer",
            findings,
        ),
        Some(Settle::Never) => root.warn_at(
            "settle",
            "settle_never",
            "settle: never verifies payments and does not settle them, so nobody is paid",
            findings,
        ),
        Some(Settle::Before) | None => {}
    }
    Defaults {
        chain: chain.unwrap_or(Network::from_chain_id(8453)),
        wallet,
        facilitator: facilitator.unwrap_or_else(|| DEFAULT_FACILITATOR.into()),
        facilitator_problem: None,
        facilitator_named: named.is_some(),
        settle: settle.unwrap_or(Settle::Before),
        verify_only: settings.verify_only,
        eoa_only: root.boolean("eoaOnly", findings).unwrap_or(false),
        ingress_known: !settings.trusted_proxies.is_empty() || settings.verify_secret.is_some(),
    }
}

impl<'s> Section<'s> {
    fn warn_at(&self, key: &'s str, code: &'static str, message: &str, findings: &mut Findings) {
        findings.warn(self.at(key), self.place.key(key), code, message.to_owned());
    }
}

/// A facilitator's base URL in its one spelling; an insecure one inside a container host warns.
pub(super) fn facilitator(text: Text<'_>, findings: &mut Findings) -> Option<Arc<str>> {
    match urls::facilitator(text.text) {
        Ok(Facilitator { url, exposed }) => {
            if exposed {
                text.warn(
                    findings,
                    "insecure_facilitator",
                    format!(
                        "{url} is not encrypted: whoever can read the network between can read \
                         payments and forge verdicts"
                    ),
                );
            }
            Some(url.into())
        }
        Err(why) => {
            text.error(
                findings,
                "invalid_facilitator_url",
                format!("facilitatorURL is {}: {why}", urls::shown(text.text)),
            );
            None
        }
    }
}

fn facilitator_headers(
    root: &Section<'_>,
    files: &mut Files<'_>,
    findings: &mut Findings,
) -> Result<FacilitatorSettings, Problem> {
    const KEY: &str = "facilitatorHeadersFile";
    if root.node(KEY).is_none() {
        return Ok(FacilitatorSettings::default());
    }
    let mark = findings.mark();
    let read = root.required_text(KEY, findings).and_then(|text| {
        let HeadersFile { settings, errors } = secrets::headers(&files.resolve(text.text));
        for error in errors {
            text.error(findings, "facilitator_headers", error);
        }
        settings
    });
    match (read, findings.any_error_since(mark)) {
        (Some(settings), false) => Ok(settings),
        _ => Err(Problem {
            code: "facilitator_headers",
            message: "the headers for the facilitator cannot be read, and it is never called \
                      without them: see facilitatorHeadersFile"
                .to_owned(),
        }),
    }
}

/// One text that a function understands or explains why not.
fn checked(
    root: &Section<'_>,
    key: &'static str,
    code: &'static str,
    check: fn(&str) -> Result<String, &'static str>,
    findings: &mut Findings,
) -> Option<Arc<str>> {
    let text = root.filled(key, findings)?;
    match check(text.text) {
        Ok(value) => Some(value.into()),
        Err(why) => {
            text.error(
                findings,
                code,
                format!("{key} is {}: {why}", urls::shown(text.text)),
            );
            None
        }
    }
}

fn service_name(text: &str) -> Result<String, &'static str> {
    let printable = text.bytes().all(|b| (b' '..=b'~').contains(&b));
    if text.len() <= MAX_SERVICE_NAME && printable {
        Ok(text.to_owned())
    } else {
        Err("write at most 32 printable ASCII characters")
    }
}

fn limits(root: &Section<'_>, findings: &mut Findings) -> Limits {
    let standard = Limits::default();
    let place = root.place.key("limits");
    let Some(section) = subsection(root, "limits", &place, keys::LIMITS, findings) else {
        return standard;
    };
    let mut number = |key, bounds, otherwise| size(&section, key, bounds, otherwise, findings);
    let permits = || 1..=100_000;
    Limits {
        payment_header_bytes: number(
            "paymentHeaderBytes",
            1_024..=65_536,
            standard.payment_header_bytes,
        ),
        permits_per_facilitator: number(
            "permitsPerFacilitator",
            permits(),
            standard.permits_per_facilitator,
        ),
        permits_per_offer: number("permitsPerOffer", permits(), standard.permits_per_offer),
        permits_unrecovered: number(
            "permitsUnrecovered",
            permits(),
            standard.permits_unrecovered,
        ),
        max_unsettled_per_payer: number(
            "maxUnsettledPerPayer",
            permits(),
            standard.max_unsettled_per_payer,
        ),
        verify_rate_per_payer: rate(
            &section,
            "verifyRatePerPayer",
            standard.verify_rate_per_payer,
            findings,
        ),
        verify_rate_per_offer: rate(
            &section,
            "verifyRatePerOffer",
            standard.verify_rate_per_offer,
            findings,
        ),
    }
}

fn timeouts(root: &Section<'_>, findings: &mut Findings) -> Timeouts {
    let standard = Timeouts::default();
    let place = root.place.key("timeouts");
    let Some(section) = subsection(root, "timeouts", &place, keys::TIMEOUTS, findings) else {
        return standard;
    };
    let mut duration = |key, from, to, otherwise| {
        section
            .duration(key, span(from, to), findings)
            .unwrap_or(otherwise)
    };
    let timeouts = Timeouts {
        answer: duration("answer", "1s", "5m", standard.answer),
        facilitator_connect: duration(
            "facilitatorConnect",
            "10ms",
            "30s",
            standard.facilitator_connect,
        ),
        verify: duration("verify", "100ms", "60s", standard.verify),
        settle: duration("settle", "1s", "10m", standard.settle),
        settle_floor: duration("settleFloor", "0s", "60s", standard.settle_floor),
    };
    if timeouts.settle_floor >= timeouts.answer {
        findings.error(
            section.at("settleFloor"),
            place,
            "contradiction",
            format!(
                "settleFloor {:?} is not below answer {:?}, so no payment could ever be settled: \
                 raise answer or lower settleFloor",
                timeouts.settle_floor, timeouts.answer
            ),
        );
    }
    if timeouts.answer >= Duration::from_secs(30) {
        findings.warn(
            section.at("answer"),
            place.key("answer"),
            "slow_answer",
            "Traefik gives up after 30 s by default: an answer after that is lost".to_owned(),
        );
    }
    timeouts
}

fn metrics(root: &Section<'_>, settings: &mut Settings, findings: &mut Findings) {
    let place = root.place.key("metrics");
    let Some(section) = subsection(root, "metrics", &place, keys::METRICS, findings) else {
        return;
    };
    let words = [
        ("all", PerOffer::All),
        ("active", PerOffer::Active),
        ("none", PerOffer::None),
    ];
    if let Some(per_offer) = section.word("perOffer", &words, "invalid_per_offer", findings) {
        settings.metrics_per_offer = per_offer;
    }
    let prefix = checked(
        &section,
        "prefix",
        "invalid_prefix",
        metric_prefix,
        findings,
    );
    if let Some(prefix) = prefix {
        settings.metrics_prefix = prefix;
    }
}

fn metric_prefix(text: &str) -> Result<String, &'static str> {
    let name = text.trim_end_matches('_');
    let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let begins = name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    if begins && name.len() <= 64 && name.bytes().all(letters) {
        Ok(name.to_owned())
    } else {
        Err("write letters, digits and underscores, such as \"x402_verifier\"")
    }
}

fn subsection<'s>(
    root: &Section<'s>,
    key: &'s str,
    place: &'s Place<'s>,
    known: &[keys::Known],
    findings: &mut Findings,
) -> Option<Section<'s>> {
    let section = Section::new(root.value(key)?, place, "a mapping of its keys", findings)?;
    section.check_keys(known, findings);
    Some(section)
}

fn size(
    section: &Section<'_>,
    key: &'static str,
    bounds: RangeInclusive<u64>,
    otherwise: usize,
    findings: &mut Findings,
) -> usize {
    section
        .number(key, bounds, findings)
        .and_then(|number| usize::try_from(number).ok())
        .unwrap_or(otherwise)
}

fn rate(section: &Section<'_>, key: &'static str, otherwise: u32, findings: &mut Findings) -> u32 {
    section
        .number(key, 1..=1_000_000, findings)
        .and_then(|number| u32::try_from(number).ok())
        .unwrap_or(otherwise)
}

/// Bounds of a duration, written as in the document.
fn span(from: &str, to: &str) -> RangeInclusive<Duration> {
    let read = |text| super::read::parse_duration(text).unwrap_or_default();
    read(from)..=read(to)
}
