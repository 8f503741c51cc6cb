//! `check` and `explain`: what a pricing file and manifests of offers say, and what would happen to
//! one request.
//!
//! Both run the production code: the file is parsed and compiled as `serve` does it, and `explain`
//! asks the same [`gate::decide`]; neither opens a ledger or a socket. `explain` therefore does not
//! know closed paths of deleted offers, and says so. Manifests (`--offer`, `explain/manifests.rs`) go
//! the way of the cluster's objects; only what lives in the cluster alone (Secrets, other offers) is
//! missing.
//!
//! Failure: a file that cannot be used is exit status 1 with every problem; `explain` exits 0
//! whenever a decision was made.

mod manifests;

use self::manifests::Manifests;
use crate::crd::Offer;
use crate::gate::{self, Facts, Outcome, Pin, Target, Verdict};
use crate::http::respond::respond;
use crate::pricing::{self, Document, Finding, Severity, Unusable};
use crate::table::{ReportedState, RouteReport, Table, TableWriter, Update};
use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use serde::Serialize;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What `check` found.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// Whether the file can be served as it is (`--strict`: without a warning).
    pub ok: bool,
    /// All problems, errors and warnings.
    pub problems: Vec<Problem>,
}

/// One problem of `check --format json`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// `error`, `warning` or `note`; a note is no reason to be not ok.
    pub severity: &'static str,
    /// Stable code.
    pub code: String,
    /// The file.
    pub file: String,
    /// 1-based line, 0 when the problem has no place.
    pub line: usize,
    /// 1-based column, 0 when the problem has no place.
    pub column: usize,
    /// Path in the document.
    pub path: String,
    /// What was found and what would do.
    pub message: String,
    /// What to do, when the message does not say it all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The request of `explain`.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// Method of the client's request.
    pub method: &'a str,
    /// URL or path of it.
    pub target: &'a str,
    /// Its headers, `Name: value`.
    pub headers: &'a [String],
    /// Address that the ingress calls (`/verify` or `/verify/NAMESPACE/NAME`).
    pub address: &'a str,
}

/// Checks a pricing file, and manifests beside it, as `serve` would load them.
///
/// # Errors
/// When a file cannot be read.
pub fn check(
    file: &Path,
    offers: &[PathBuf],
    strict: bool,
    now: Timestamp,
) -> anyhow::Result<Checked> {
    let name = file.display().to_string();
    let mut problems = match load(file, offers)? {
        Err(unusable) => unusable
            .findings
            .iter()
            .map(|finding| Problem::new(&name, finding))
            .collect(),
        Ok(document) => {
            let manifests = Manifests::load(offers, &document.settings, now)?;
            let mut problems: Vec<_> = document
                .findings
                .iter()
                .map(|finding| Problem::new(&name, finding))
                .collect();
            problems.extend(manifests.notices.iter().cloned());
            problems.extend(table_problems(&name, document, manifests, now));
            problems
        }
    };
    let place = |problem: &Problem| (problem.file != name, problem.file.clone());
    problems.sort_by(|a, b| {
        (place(a), a.line, a.column, &a.path).cmp(&(place(b), b.line, b.column, &b.path))
    });
    problems.dedup();
    let ok = problems.iter().all(|problem| match problem.severity {
        "note" => true,
        "warning" => !strict,
        _ => false,
    });
    Ok(Checked { ok, problems })
}

/// What only the table can see: patterns that can never match, shadowed and conflicting routes.
fn table_problems(
    file: &str,
    document: Document,
    manifests: Manifests,
    now: Timestamp,
) -> Vec<Problem> {
    let declared: Vec<_> = document
        .offers
        .iter()
        .flat_map(|offer| &offer.routes)
        .filter(|route| route.problems.is_empty())
        .map(|route| {
            (
                Arc::clone(&route.pattern),
                route.at.as_ref().map(ToString::to_string),
            )
        })
        .collect();
    let Manifests { offers, places, .. } = manifests;
    let table = compile(document, offers, now);
    let mut problems = Vec::new();
    for row in table.report.rows() {
        let Some(reason) = row.reason else { continue };
        if row.source == manifests::SOURCE {
            problems.extend(places.problem(&row, reason, severity(&row)));
            continue;
        }
        let mut places = declared
            .iter()
            .filter(|(pattern, _)| *pattern == row.pattern);
        // Of two routes with one pattern the later is the shadowed one.
        let Some((_, place)) = places.next_back() else {
            continue;
        };
        let severity = severity(&row);
        let (line, column) = place.as_deref().map_or((0, 0), line_and_column);
        problems.push(Problem {
            severity,
            code: reason.to_owned(),
            file: file.to_owned(),
            line,
            column,
            path: format!("routes[pattern={}]", row.pattern),
            message: row.detail.clone().unwrap_or_else(|| reason.to_owned()),
            hint: None,
        });
    }
    problems
}

/// How bad it is that a row has a reason.
const fn severity(row: &RouteReport) -> &'static str {
    match row.state {
        ReportedState::Live | ReportedState::Draining => "warning",
        ReportedState::Misconfigured | ReportedState::Conflict | ReportedState::Closed => "error",
    }
}

/// `file:line:column`, as routes say where they were declared.
fn line_and_column(place: &str) -> (usize, usize) {
    let mut parts = place.rsplit(':');
    let column = parts.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let line = parts.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    (line, column)
}

impl Problem {
    fn new(file: &str, finding: &Finding) -> Self {
        Self {
            severity: match finding.severity {
                Severity::Warning => "warning",
                Severity::Error => "error",
            },
            code: finding.code.to_owned(),
            file: file.to_owned(),
            line: finding.line,
            column: finding.column,
            path: finding.path.clone(),
            message: finding.message.clone(),
            hint: finding.hint.clone(),
        }
    }
}

impl Checked {
    /// The result for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for problem in &self.problems {
            let Problem {
                severity,
                code,
                file,
                line,
                column,
                path,
                message,
                hint,
            } = problem;
            add_line(
                &mut text,
                format_args!("{file}:{line}:{column}: {severity}[{code}] {path}: {message}"),
            );
            if let Some(hint) = hint {
                add_line(&mut text, format_args!("    {hint}"));
            }
        }
        let count = |severity: &str| {
            let found = self.problems.iter();
            found.filter(|problem| problem.severity == severity).count()
        };
        let (errors, warnings) = (count("error"), count("warning"));
        let verdict = if self.ok { "ok" } else { "not ok" };
        add_line(
            &mut text,
            format_args!("{verdict}: {errors} error(s), {warnings} warning(s)"),
        );
        text
    }
}

/// Explains every step of the decision on one request and the response it leads to.
///
/// # Errors
/// When a file cannot be used or the question is not a request.
pub async fn explain(
    file: &Path,
    offers: &[PathBuf],
    question: &Question<'_>,
    now: Timestamp,
) -> anyhow::Result<String> {
    let document = match load(file, offers)? {
        Ok(document) => document,
        Err(unusable) => bail!("{unusable}; `x402-verifier check` lists all problems"),
    };
    let manifests = Manifests::load(offers, &document.settings, now)?;
    let table = compile(document, manifests.offers, now);
    let headers = headers(question.headers)?;
    let (scheme, authority, raw) = split(question.target, &headers)?;
    let host = gate::normalize_host(&authority);
    let mut steps = Steps::default();
    let routes = table.report.len();
    steps.say(
        "file",
        &format!("{} ({routes} routes)", described(file, offers)),
    );
    for notice in &manifests.notices {
        let Problem {
            file,
            line,
            message,
            ..
        } = notice;
        steps.say("note", &format!("{file}:{line}: {message}"));
    }
    let pin = pin(question.address)?;
    steps.say(
        "address",
        &match pin {
            Some(pin) => format!("pinned to the offer {}/{}", pin.namespace, pin.name),
            None => "bare /verify: the path chooses among all offers".to_owned(),
        },
    );
    steps.say(
        "host",
        host.as_deref().unwrap_or("none that is a host name"),
    );
    let target = match Target::parse(&raw, host.as_deref()) {
        Ok(target) => target,
        Err(error) => {
            steps.say("target", &format!("refused: {error}"));
            let detail = error.to_string();
            let refusal = gate::Refusal::with_detail(gate::Reason::AmbiguousTarget, detail);
            return steps.answer(Outcome::Refused(refusal), &table).await;
        }
    };
    let views = target.views().join("  ");
    steps.say("views", &views);
    let facts = Facts {
        method: question.method,
        host,
        authority: &authority,
        scheme: &scheme,
        target,
        pin,
        preflight: gate::is_preflight(question.method, &headers),
        proven_ingress: false,
        forwarded_for: "",
    };
    steps.decide(&table, &facts, &headers, now).await
}

/// The text being written, a line per step.
#[derive(Default)]
struct Steps {
    text: String,
}

impl Steps {
    fn line(&mut self, what: fmt::Arguments<'_>) {
        add_line(&mut self.text, what);
    }

    fn say(&mut self, step: &str, what: &str) {
        self.line(format_args!("{step:<12}{what}"));
    }

    async fn decide(
        mut self,
        table: &Table,
        facts: &Facts<'_>,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> anyhow::Result<String> {
        let unpaid = gate::decide(table, facts, None, now);
        if let Some(class) = unpaid.ambiguity {
            self.say(
                "ambiguity",
                &format!("the views differ ({})", class.as_str()),
            );
        }
        match unpaid.route {
            Some(route) => {
                let offer = &route.offer;
                self.say("route", &route.pattern);
                if !offer.name.is_empty() {
                    self.say("offer", &format!("{}/{}", offer.namespace, offer.name));
                }
                self.say(
                    "gate",
                    &format!(
                        "{:?}, {:?}, settle {:?}",
                        route.gate, route.state, route.settle
                    )
                    .to_lowercase(),
                );
                let row = table
                    .report
                    .rows()
                    .find(|row| row.offer == route.offer && row.pattern == route.pattern);
                if let Some(detail) = row.as_ref().and_then(|row| row.detail.as_deref()) {
                    self.say("problem", detail);
                }
                if route.upstream_auth.is_some() {
                    self.say(
                        "upstream",
                        "Authorization is answered to proven ingress only (M11)",
                    );
                }
            }
            None => self.say(
                "route",
                "no live route (closed paths live in the ledger, not here)",
            ),
        }
        let paid = unpaid
            .route
            .is_some_and(|route| route.gate == gate::RouteGate::Paid);
        let outcome = match unpaid.verdict {
            Verdict::Done(outcome) => outcome,
            Verdict::Pay(_) => bail!("a decision without a payment asked to pay"),
        };
        if !paid || !gate::has_payment(headers) {
            if gate::has_payment(headers) {
                self.say("payment", "not read: nothing is sold here");
            }
            return self.answer(outcome, table).await;
        }
        let limit = table.settings.limits.payment_header_bytes;
        match gate::read_payment(headers, limit) {
            Ok(None) => self.answer(outcome, table).await,
            Err(error) => {
                self.say("payment", &format!("cannot be read: {error}"));
                let refused = unpaid.route.map_or(outcome, |route| {
                    gate::refuse_header(table, route, facts, &error)
                });
                self.answer(refused, table).await
            }
            Ok(Some(payment)) => {
                self.say(
                    "payment",
                    &format!("by {}, {:?}", payment.payer(), payment.version),
                );
                match gate::decide(table, facts, Some(&payment), now).verdict {
                    Verdict::Done(outcome) => self.answer(outcome, table).await,
                    Verdict::Pay(plan) => {
                        for (step, what) in plan.describe() {
                            self.say(step, &what);
                        }
                        self.say(
                            "response",
                            "200 once verified, claimed and settled; else as in docs/buyers.md",
                        );
                        Ok(self.text)
                    }
                }
            }
        }
    }

    async fn answer(mut self, outcome: Outcome, table: &Table) -> anyhow::Result<String> {
        self.say("outcome", outcome.name());
        let (head, body) = respond(outcome, table.settings.catalog_url.as_deref()).into_parts();
        self.say("response", &head.status.to_string());
        for (name, value) in &head.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            self.line(format_args!("    {name}: {value}"));
            // The one header that nobody reads as it stands.
            if let (true, Ok(json)) = (name == PAYMENT_REQUIRED, STANDARD.decode(value.as_bytes()))
            {
                let json = String::from_utf8_lossy(&json).into_owned();
                self.line(format_args!("    {name}, decoded: {json}"));
            }
        }
        let body = Limited::new(body, BODY_LIMIT).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the body cannot be read: {error}"))?;
        self.line(format_args!(
            "    {}",
            String::from_utf8_lossy(&body.to_bytes())
        ));
        Ok(self.text)
    }
}

/// Appends a line; writing to a `String` cannot fail.
fn add_line(text: &mut String, what: fmt::Arguments<'_>) {
    if text.write_fmt(what).is_ok() {
        text.push('\n');
    }
}

/// Where the pricing file is unless `--config` says another.
const DEFAULT_FILE: &str = "/config/pricing.yaml";

/// Header of a challenge.
const PAYMENT_REQUIRED: &str = "payment-required";

/// Challenges are a few kilobytes.
const BODY_LIMIT: usize = 1 << 20;

/// Whether there are manifests alone: a seller has no pricing file, and the defaults of an empty one
/// hold.
fn is_without_file(file: &Path, offers: &[PathBuf]) -> bool {
    !offers.is_empty() && file == Path::new(DEFAULT_FILE) && !file.exists()
}

/// Where the routes come from.
fn described(file: &Path, offers: &[PathBuf]) -> String {
    let mut names: Vec<String> = offers
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    if is_without_file(file, offers) {
        names.push("no pricing file".to_owned());
    } else {
        names.insert(0, file.display().to_string());
    }
    names.join(", ")
}

/// The pricing file.
fn load(file: &Path, offers: &[PathBuf]) -> anyhow::Result<Result<Document, Unusable>> {
    let text = if is_without_file(file, offers) {
        "routes: []".to_owned()
    } else {
        std::fs::read_to_string(file)
            .with_context(|| format!("{} cannot be read", file.display()))?
    };
    let directory = file.parent().unwrap_or_else(|| Path::new("."));
    Ok(pricing::parse(
        &text,
        &file.display().to_string(),
        directory,
    ))
}

fn compile(document: Document, manifests: Vec<Arc<Offer>>, now: Timestamp) -> Arc<Table> {
    let (mut writer, _reader) = TableWriter::new();
    if !manifests.is_empty() {
        let source = manifests::SOURCE;
        let offers = manifests;
        writer.apply(Update::Offers { source, offers }, now);
    }
    let Document {
        settings, offers, ..
    } = document;
    writer
        .apply(
            Update::Document {
                settings: Box::new(settings),
                offers,
            },
            now,
        )
        .table
}

fn headers(lines: &[String]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .with_context(|| format!("--header {line:?}: write it as 'Name: value'"))?;
        let name: HeaderName = name.trim().parse().context("--header: not a header name")?;
        let value: HeaderValue = value
            .trim()
            .parse()
            .context("--header: not a header value")?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Scheme, host with port, and the target as a proxy would forward it.
fn split(target: &str, headers: &HeaderMap) -> anyhow::Result<(String, String, String)> {
    let host = headers.get("host").and_then(|host| host.to_str().ok());
    let Some((scheme, rest)) = target
        .split_once("://")
        .filter(|_| !target.starts_with('/'))
    else {
        let host = host.unwrap_or("localhost").to_owned();
        return Ok(("https".to_owned(), host, target.to_owned()));
    };
    if !matches!(scheme, "http" | "https") {
        bail!("{target:?} is neither a path nor an http or https URL");
    }
    let (authority, path) = rest
        .find(['/', '?'])
        .map_or((rest, ""), |at| rest.split_at(at));
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    Ok((
        scheme.to_owned(),
        host.unwrap_or(authority).to_owned(),
        path,
    ))
}

fn pin(address: &str) -> anyhow::Result<Option<Pin<'_>>> {
    let mut segments = address.trim_end_matches('/').split('/');
    match (
        segments.next(),
        segments.next(),
        segments.next(),
        segments.next(),
        segments.next(),
    ) {
        (Some(""), Some("verify"), None, ..) => Ok(None),
        (Some(""), Some("verify"), Some(namespace), Some(name), None) => {
            Ok(Some(Pin { namespace, name }))
        }
        _ => bail!("--address {address:?}: write /verify or /verify/NAMESPACE/NAME"),
    }
}
