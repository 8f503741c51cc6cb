//! The admin port: probes, metrics, and what the verifier made of every route.
//!
//! For the kubelet, Prometheus and people; never for buyers. It listens apart from the traffic
//! port (or on it, for old manifests: [`routes`] has no fallback and merges with the traffic
//! router), and nothing on it can change the process or admit a request.
//!
//! - `/livez`, `/healthz`: the process answers. They look at nothing, so nothing outside can make
//!   the kubelet restart us.
//! - `/readyz`: the latches of [`Readiness`] and nothing else (R2); `?verbose` adds the rest.
//! - `/metrics`, `/routes`: rendered from the table that requests see, in chunks; with 100,000
//!   offers the page is over 100 MB and never exists as a whole.
//! - `/version`.
//! - `/explain`: what would happen to one request. It takes POST, because a payment header has no
//!   place in a URL (R13), and changes nothing all the same. Who answers it is the composition root.
//!
//! No secret is within reach: the table's [`Report`] has none, and error texts come bounded and
//! printable from their sources (R13).

mod page;
#[cfg(test)]
mod tests;

use crate::lifecycle::{Readiness, ReadyState};
use crate::metrics::{BuildInfo, Metrics, OfferPage, PerOffer, TableGauges};
use crate::table::{Report, ReportedState, SourceReport, Table, TableReader};
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use page::{Chunked, RoutesPage};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// What the admin port reads. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    /// The table that requests see.
    pub table: TableReader,
    /// Latches and the draining flag.
    pub readiness: Readiness,
    /// Process-wide families.
    pub metrics: Arc<Metrics>,
    /// What only the composition root knows.
    pub info: Arc<AdminInfo>,
}

/// What only the composition root knows.
pub struct AdminInfo {
    /// What was built.
    pub build: BuildInfo,
    /// The ledger in words, without credentials (`sqlite:x402-verifier.db`).
    pub ledger: String,
    /// What does not work right now, one sentence each (`the ledger is unavailable: ...`). It must
    /// be quick: it is asked by every `/readyz?verbose`. It does not change readiness (R2).
    pub degraded: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    /// How much of the per-offer families is shown, from the settings of the current table.
    pub per_offer: Box<dyn Fn() -> PerOffer + Send + Sync>,
    /// The clock.
    pub now: fn() -> Timestamp,
    /// Answers `/explain`.
    pub explain: Explain,
}

/// Explains one request, given as JSON of at most [`MAX_QUESTION`] bytes: the text, or why the
/// question cannot be answered.
pub type Explain = Box<dyn Fn(Bytes) -> Explaining + Send + Sync>;

/// An [`Explain`] at work.
pub type Explaining = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// Largest body of `/explain`: as much as the traffic port takes in headers (M12).
pub const MAX_QUESTION: usize = 64 * 1024;

/// Filter of `/routes`; an absent field matches all.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RoutesFilter {
    /// Offer namespace, exact.
    pub namespace: Option<String>,
    /// Offer name, exact.
    pub name: Option<String>,
    /// State, in the words of the page.
    pub state: Option<String>,
}

/// `/readyz?verbose`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VerboseReadiness<'a> {
    /// `ready`, `draining`, or the first line of the 503.
    status: String,
    latches: Latches,
    draining: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    sources: Vec<SourceRow<'a>>,
    table: TableRow,
    ledger: &'a str,
    degraded: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Latches {
    config: bool,
    routes: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TableRow {
    generation: u64,
    built_at: String,
    age_seconds: u64,
}

/// One source in `/routes` and `/readyz?verbose`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SourceRow<'a> {
    name: &'a str,
    /// `ok`, `failed` (the last good list is served), or `pending` (there was none yet).
    state: &'static str,
    last_success: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// `/version`.
#[derive(Debug, Serialize)]
struct Version {
    version: &'static str,
    commit: &'static str,
    built: &'static str,
    rustc: &'static str,
}

/// An error body of this port.
#[derive(Debug, Serialize)]
struct ErrorBody {
    error: &'static str,
    reason: &'static str,
    hint: &'static str,
    retriable: bool,
}

/// How long the body of a question may take.
const QUESTION_WITHIN: Duration = Duration::from_secs(10);

/// States of `routes{state}`, all of them.
const STATES: [ReportedState; 5] = [
    ReportedState::Live,
    ReportedState::Closed,
    ReportedState::Draining,
    ReportedState::Misconfigured,
    ReportedState::Conflict,
];

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const EXPOSITION: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The admin port as a whole: what is not there is 404 `no_such_endpoint`.
pub fn router(admin: Admin) -> Router {
    routes(admin).fallback(no_such_endpoint)
}

/// The endpoints alone, to be merged with the traffic router when both share a port.
pub fn routes(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(alive))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/routes", get(all_routes))
        .route("/version", get(version))
        .route("/explain", post(explain))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(admin)
}

async fn alive() -> Response {
    answer(StatusCode::OK, JSON, r#"{"status":"ok"}"#)
}

async fn ready(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    let table = admin.table.load();
    let refusal = refusal(&admin.readiness);
    let status = match refusal {
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
        None => StatusCode::OK,
    };
    if is_verbose(query.as_deref()) {
        let now = (admin.info.now)();
        return json(status, &verbose(&admin.readiness, &table, &admin.info, now));
    }
    match refusal {
        None => answer(status, JSON, r#"{"status":"ready"}"#),
        Some(line) => {
            let sources = &table.report.sources;
            let known = if admin.readiness.is_draining() {
                &[]
            } else {
                sources.as_slice()
            };
            answer(status, TEXT, refusal_body(line, known))
        }
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let table = admin.table.load_full();
    let process = admin.metrics.render(&gauges(&table, (admin.info.now)()));
    // By address, because the page reads all counters once for each family, and in the order of a
    // hash map each of them would come from another corner of memory.
    let mut counters: Vec<_> = table.counters().collect();
    counters.sort_unstable_by_key(|counters| Arc::as_ptr(counters));
    let offers = OfferPage::new(
        admin.metrics.prefix(),
        counters.into_iter(),
        (admin.info.per_offer)(),
    );
    let page = Chunked::new(std::iter::once(process).chain(offers));
    answer(StatusCode::OK, EXPOSITION, Body::new(page))
}

async fn all_routes(State(admin): State<Admin>, Query(filter): Query<RoutesFilter>) -> Response {
    let table = admin.table.load_full();
    let page = RoutesPage::new(
        table.generation,
        table.built_at,
        Arc::clone(&table.report),
        filter,
    );
    answer(StatusCode::OK, JSON, Body::new(Chunked::new(page)))
}

async fn version(State(admin): State<Admin>) -> Response {
    let BuildInfo {
        version,
        commit,
        built,
        rustc,
    } = admin.info.build;
    json(
        StatusCode::OK,
        &Version {
            version,
            commit,
            built,
            rustc,
        },
    )
}

async fn explain(State(admin): State<Admin>, body: Body) -> Response {
    let read = Limited::new(body, MAX_QUESTION).collect();
    let question = match tokio::time::timeout(QUESTION_WITHIN, read).await {
        Ok(Ok(question)) => question.to_bytes(),
        Ok(Err(_too_long_or_cut)) => {
            let said = format!("a question has at most {MAX_QUESTION} bytes\n");
            return answer(StatusCode::PAYLOAD_TOO_LARGE, TEXT, said);
        }
        Err(_elapsed) => {
            let said = "the question did not arrive in time\n";
            return answer(StatusCode::REQUEST_TIMEOUT, TEXT, said);
        }
    };
    match (admin.info.explain)(question).await {
        Ok(text) => answer(StatusCode::OK, TEXT, text),
        Err(why) => answer(StatusCode::BAD_REQUEST, TEXT, why + "\n"),
    }
}

async fn no_such_endpoint() -> Response {
    let body = ErrorBody {
        error: "There is no such endpoint on the admin port.",
        reason: "no_such_endpoint",
        hint: "Ask /livez, /healthz, /readyz, /metrics, /routes, /version or /explain.",
        retriable: false,
    };
    json(StatusCode::NOT_FOUND, &body)
}

async fn method_not_allowed() -> Response {
    let body = ErrorBody {
        error: "The endpoints of the admin port are read only.",
        reason: "method_not_allowed",
        hint: "Use GET; /explain alone takes its question by POST.",
        retriable: false,
    };
    json(StatusCode::METHOD_NOT_ALLOWED, &body)
}

/// The first line of a 503, `None` when ready.
fn refusal(readiness: &Readiness) -> Option<&'static str> {
    if readiness.is_draining() {
        return Some("not ready: draining");
    }
    match readiness.state() {
        ReadyState::ConfigNotLoaded => Some("not ready: config not loaded"),
        ReadyState::RoutesNotLoaded => Some("not ready: routes not loaded"),
        ReadyState::Ready => None,
    }
}

/// The refusal, then what is known of each source that is not there yet or not well.
fn refusal_body(line: &str, sources: &[SourceReport]) -> String {
    let mut lines = vec![line.to_owned()];
    for source in sources {
        match (&source.error, source.last_success) {
            (Some(error), _) => lines.push(format!("{}: {error}", source.name)),
            (None, None) => lines.push(format!(
                "{}: waiting for the first complete list",
                source.name
            )),
            (None, Some(_)) => {}
        }
    }
    lines.join("\n") + "\n"
}

fn verbose<'a>(
    readiness: &Readiness,
    table: &'a Table,
    info: &'a AdminInfo,
    now: Timestamp,
) -> VerboseReadiness<'a> {
    VerboseReadiness {
        status: refusal(readiness).unwrap_or("ready").to_owned(),
        latches: Latches {
            config: readiness.is_config_loaded(),
            routes: readiness.is_routes_loaded(),
        },
        draining: readiness.is_draining(),
        cause: readiness.cause(),
        sources: table.report.sources.iter().map(SourceRow::new).collect(),
        table: TableRow {
            generation: table.generation,
            built_at: table.built_at.to_string(),
            age_seconds: age(table.built_at, now).as_secs(),
        },
        ledger: &info.ledger,
        degraded: (info.degraded)(),
    }
}

/// Whether a query asks for `verbose`, with or without a value.
fn is_verbose(query: Option<&str>) -> bool {
    let mut keys = query.into_iter().flat_map(|query| query.split('&'));
    keys.any(|pair| matches!(pair, "verbose" | "verbose=" | "verbose=1" | "verbose=true"))
}

fn gauges(table: &Table, now: Timestamp) -> TableGauges {
    TableGauges {
        generation: table.generation,
        age: age(table.built_at, now),
        sources: table
            .report
            .sources
            .iter()
            .map(|source| (source.name, source.ok))
            .collect(),
        ..route_gauges(&table.report)
    }
}

fn route_gauges(report: &Report) -> TableGauges {
    let mut counts = STATES.map(|state| (state, 0));
    let mut settle_never_routes = 0;
    for (found, gate, settle) in report.states() {
        for (state, count) in &mut counts {
            *count += u64::from(*state == found);
        }
        let live = found == ReportedState::Live && gate.as_str() == "paid";
        settle_never_routes += u64::from(live && settle.as_str() == "never");
    }
    let routes = counts
        .map(|(state, count)| (page::state_name(state), count))
        .to_vec();
    TableGauges {
        routes,
        settle_never_routes,
        ..TableGauges::default()
    }
}

/// Time since the table was built; zero when the clock was set back.
fn age(built_at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(built_at)).unwrap_or_default()
}

fn answer(status: StatusCode, content_type: HeaderValue, body: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, content_type)], body.into()).into_response()
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(text) => answer(status, JSON, text),
        Err(error) => {
            tracing::error!(%error, "an admin answer cannot be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

impl<'a> SourceRow<'a> {
    fn new(source: &'a SourceReport) -> Self {
        let state = match (source.ok, source.last_success) {
            (true, _) => "ok",
            (false, Some(_)) => "failed",
            (false, None) => "pending",
        };
        Self {
            name: source.name,
            state,
            last_success: source.last_success.map(|time| time.to_string()),
            error: source.error.as_deref(),
        }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AdminInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminInfo")
            .field("build", &self.build)
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}
