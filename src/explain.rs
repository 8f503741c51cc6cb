//! `check` and `explain`: what a pricing file and manifests of offers say, and what would happen to
//! one request.
//!
//! Both run the production code: the file is parsed and compiled as `serve` does it, and `explain`
//! asks the same [`gate::decide`]; neither opens a ledger or a socket. `explain` therefore does not
//! know closed paths of deleted offers, and says so. Manifests (`--offer`, `explain/manifests.rs`) go
//! the way of the cluster's objects; only what lives in the cluster alone (Secrets, other offers) is
//! missing.
//!
//! `explain --live` is [`live`]: the same steps of the same code, over the table that requests see.
//! `serve` answers it on the admin port; the question comes from outside, so it is bounded and
//! nothing of it is logged (R13).
//!
//! Failure: a file that cannot be used is exit status 1 with every problem; `explain` exits 0
//! whenever a decision was made.

mod check;
mod manifests;
mod steps;

pub use check::{Checked, Problem, check};

use self::manifests::Manifests;
use self::steps::Steps;
use crate::crd::Offer;
use crate::gate::{self, Facts, Outcome, Pin, Target};
use crate::pricing::{self, Document, Unusable};
use crate::table::{Table, TableWriter, Update};
use anyhow::{Context, bail};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The request of `explain`; as JSON what `explain --live` sends.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Method of the client's request.
    pub method: String,
    /// URL or path of it.
    pub target: String,
    /// Its headers, `Name: value`.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Address that the ingress calls (`/verify` or `/verify/NAMESPACE/NAME`).
    #[serde(default = "bare")]
    pub address: String,
}

/// The address of an ingress that pins no offer.
fn bare() -> String {
    "/verify".to_owned()
}

/// Headers may carry a payment (R13).
impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question")
            .field("method", &self.method)
            .field("target", &self.target)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Explains every step of the decision on one request and the response it leads to.
///
/// # Errors
/// When a file cannot be used or the question is not a request.
pub async fn explain(
    file: &Path,
    offers: &[PathBuf],
    question: &Question,
    now: Timestamp,
) -> anyhow::Result<String> {
    let document = match load(file, offers)? {
        Ok(document) => document,
        Err(unusable) => bail!("{unusable}; `x402-verifier check` lists all problems"),
    };
    let manifests = Manifests::load(offers, &document.settings, now)?;
    let table = compile(document, manifests.offers, now);
    let mut steps = Steps::offline();
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
    decision(steps, &table, question, now).await
}

/// The same for the table that requests see. `not_ready` is what `/readyz` says while it refuses.
///
/// # Errors
/// When the question is not a request.
pub async fn live(
    table: &Table,
    not_ready: Option<&str>,
    question: &Question,
    now: Timestamp,
) -> anyhow::Result<String> {
    let mut steps = Steps::live();
    let Table {
        generation,
        built_at,
        report,
        ..
    } = table;
    let routes = report.len();
    steps.say(
        "table",
        &format!("generation {generation} of {built_at} ({routes} routes)"),
    );
    for source in report.sources.iter() {
        if let Some(error) = &source.error {
            steps.say("source", &format!("{}: {error}", source.name));
        }
    }
    if let Some(cause) = not_ready {
        let meanwhile = "every request gets 503 until then; below is what this table would answer";
        steps.say("process", &format!("{cause}: {meanwhile}"));
    }
    decision(steps, table, question, now).await
}

/// The steps from the address to the response.
async fn decision(
    mut steps: Steps,
    table: &Table,
    question: &Question,
    now: Timestamp,
) -> anyhow::Result<String> {
    let headers = headers(&question.headers)?;
    let (scheme, authority, raw) = split(&question.target, &headers)?;
    let host = gate::normalize_host(&authority);
    let pin = pin(&question.address)?;
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
            return steps.answer(Outcome::Refused(refusal), table).await;
        }
    };
    let views = target.views().join("  ");
    steps.say("views", &views);
    let facts = Facts {
        method: &question.method,
        host,
        authority: &authority,
        scheme: &scheme,
        target,
        pin,
        preflight: gate::is_preflight(&question.method, &headers),
        proven_ingress: false,
        forwarded_for: "",
    };
    steps.decide(table, &facts, &headers, now).await
}

/// Appends a line; writing to a `String` cannot fail.
fn add_line(text: &mut String, what: fmt::Arguments<'_>) {
    if text.write_fmt(what).is_ok() {
        text.push('\n');
    }
}

/// Where the pricing file is unless `--config` says another.
const DEFAULT_FILE: &str = "/config/pricing.yaml";

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
