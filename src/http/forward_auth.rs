//! The forwardAuth face: `/verify`, asked by the ingress before every request.
//!
//! Reads the forwarded headers of one configured source, turns them into [`Facts`], asks the gate
//! and answers. It holds no state but what it was given and reads no body.
//!
//! What it is not: a place where money or routes are decided.
//!
//! Invariants:
//! - One source of forwarded headers, no fallback; a header that is missing, doubled, a list, or
//!   present under an alias (`X_Forwarded_Uri`, `X.Forwarded.Uri`) is refused.
//! - `/verify` is 503 until the table is loaded, whatever the kubelet thinks (R2).
//! - Any shape below `/verify/` but a pin is 403 (design section 4).

use crate::gate::{
    self, Facilitator, Facts, Gate, HeaderSource, Ledger, Outcome, Pin, Reason, Refusal, Settings,
    Table, Target, TargetError,
};
use crate::http::respond::{refuse, respond};
use crate::metrics::{Metrics, UntrustedClass};
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use http::{HeaderMap, HeaderName, Response};
use secrecy::ExposeSecret;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// What the face needs.
#[derive(Debug)]
pub struct ForwardAuth<F, L> {
    /// Decides and pays.
    pub gate: Gate<F, L>,
    /// Process-wide families.
    pub metrics: Arc<Metrics>,
}

/// Why the forwarded headers do not name one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeaderProblem {
    Missing(&'static str),
    Doubled(&'static str),
    Aliased(&'static str),
}

/// Names of the forwarded headers of one source.
struct HeaderNames {
    uri: &'static str,
    method: &'static str,
}

const FORWARDED_HOST: &str = "x-forwarded-host";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The router of the traffic port: `/verify` and its pins; everything else is 404.
pub fn router<F: Facilitator, L: Ledger>(face: Arc<ForwardAuth<F, L>>) -> Router {
    Router::new().fallback(handle::<F, L>).with_state(face)
}

async fn handle<F: Facilitator, L: Ledger>(
    State(face): State<Arc<ForwardAuth<F, L>>>,
    request: Request,
) -> Response<Body> {
    let arrived = Instant::now();
    let (parts, _body) = request.into_parts();
    let Some(rest) = parts.uri.path().strip_prefix("/verify") else {
        return refuse(&Refusal::new(Reason::NoSuchEndpoint, None));
    };
    if !rest.is_empty() && !rest.starts_with('/') {
        return refuse(&Refusal::new(Reason::NoSuchEndpoint, None));
    }
    let peer = parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map(|peer| peer.0.ip());
    let (outcome, catalog) = face.answer(rest, &parts.headers, peer, arrived).await;
    face.metrics.request(outcome.label(), arrived.elapsed());
    log(&outcome, &parts.headers, arrived);
    respond(outcome, catalog.as_deref())
}

impl<F: Facilitator, L: Ledger> ForwardAuth<F, L> {
    async fn answer(
        &self,
        rest: &str,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
        arrived: Instant,
    ) -> (Outcome, Option<Arc<str>>) {
        let table = match self.gate.table() {
            Ok(table) => table,
            Err(refusal) => return (Outcome::Unavailable(refusal), None),
        };
        let outcome = self.decide(&table, rest, headers, peer, arrived).await;
        let catalog = table.settings.catalog_url.clone();
        let_go(table);
        (outcome, catalog)
    }

    async fn decide(
        &self,
        table: &Table,
        rest: &str,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
        arrived: Instant,
    ) -> Outcome {
        let settings = &table.settings;
        match Address::read(rest, settings, peer) {
            Err(refusal) => {
                if refusal.reason == Reason::UntrustedPeer {
                    self.metrics.untrusted_request(UntrustedClass::Peer);
                }
                Outcome::Refused(refusal)
            }
            Ok(address) => match facts(&address, headers, settings) {
                Ok(facts) => {
                    let request = gate::Request {
                        facts,
                        headers,
                        arrived,
                    };
                    self.gate.answer(table, &request).await
                }
                Err(Unreadable::Headers(problem)) => {
                    self.metrics.untrusted_request(problem.class());
                    Outcome::Refused(problem.refusal())
                }
                Err(Unreadable::Target(error)) => {
                    self.metrics.ambiguous_target(error.class().as_str());
                    let detail = error.to_string();
                    Outcome::Refused(Refusal::with_detail(Reason::AmbiguousTarget, detail))
                }
                Err(Unreadable::Host) => {
                    let detail = Some("the forwarded host is not one host name");
                    Outcome::Refused(Refusal::new(Reason::AmbiguousForwardedHeaders, detail))
                }
            },
        }
    }
}

/// Gives a table back. Whoever held a replaced one last frees it, which takes a tenth of a second at
/// 100,000 routes: not on a thread that answers requests.
fn let_go(table: Arc<Table>) {
    if let Some(replaced) = Arc::into_inner(table) {
        tokio::task::spawn_blocking(move || drop(replaced));
    }
}

/// What the address that the ingress called says: which offer, and whether it knew the secret.
#[derive(Debug, Clone, Copy)]
struct Address<'a> {
    pin: Option<Pin<'a>>,
    proven_ingress: bool,
}

impl<'a> Address<'a> {
    fn read(rest: &'a str, settings: &Settings, peer: Option<IpAddr>) -> Result<Self, Refusal> {
        let mut segments = rest.split('/').skip(1).peekable();
        let mut proven = !settings.trusted_proxies.is_empty();
        if let Some(secret) = segments.peek().and_then(|first| first.strip_prefix('~')) {
            let known = settings
                .verify_secret
                .as_ref()
                .is_some_and(|expected| same(expected.expose_secret(), secret));
            if !known {
                return Err(Refusal::new(Reason::UnknownOffer, None));
            }
            proven = true;
            segments.next();
        }
        let trusted = |ip: IpAddr| {
            let ip = ip.to_canonical();
            settings
                .trusted_proxies
                .iter()
                .any(|network| network.contains(&ip))
        };
        if !settings.trusted_proxies.is_empty() && !peer.is_some_and(trusted) {
            let detail = Some("the peer is outside trustedProxies");
            return Err(Refusal::new(Reason::UntrustedPeer, detail));
        }
        let pin = match (segments.next(), segments.next(), segments.next()) {
            (None, None, None) => None,
            (Some(namespace), Some(name), None) if !namespace.is_empty() && !name.is_empty() => {
                Some(Pin { namespace, name })
            }
            _ => return Err(Refusal::new(Reason::UnknownOffer, None)),
        };
        Ok(Self {
            pin,
            proven_ingress: proven,
        })
    }
}

/// Compares in time that depends on the length only.
fn same(expected: &str, given: &str) -> bool {
    let difference = expected
        .bytes()
        .zip(given.bytes())
        .fold(0, |difference, (left, right)| difference | (left ^ right));
    expected.len() == given.len() && difference == 0
}

enum Unreadable {
    Headers(HeaderProblem),
    Target(TargetError),
    Host,
}

/// Reads the forwarded headers of the configured source.
fn facts<'a>(
    address: &Address<'a>,
    headers: &'a HeaderMap,
    settings: &Settings,
) -> Result<Facts<'a>, Unreadable> {
    let names = match settings.header_source {
        HeaderSource::XForwarded => HeaderNames {
            uri: "x-forwarded-uri",
            method: "x-forwarded-method",
        },
        HeaderSource::XOriginal => HeaderNames {
            uri: "x-original-uri",
            method: "x-original-method",
        },
    };
    refuse_aliases(headers, &names).map_err(Unreadable::Headers)?;
    let uri = required(headers, names.uri).map_err(Unreadable::Headers)?;
    let method = single(headers, names.method)
        .map_err(Unreadable::Headers)?
        .unwrap_or_default();
    let authority = listless(headers, FORWARDED_HOST)?
        .filter(|host| !host.is_empty())
        .ok_or(Unreadable::Headers(HeaderProblem::Missing(FORWARDED_HOST)))?;
    let scheme = listless(headers, FORWARDED_PROTO)?.unwrap_or("http");
    // Exactly one host (design section 4): without it neither routes bound to one nor the
    // challenge's `resource.url` mean anything.
    let host = Some(gate::normalize_host(authority).ok_or(Unreadable::Host)?);
    let target = Target::parse(uri, host.as_deref()).map_err(Unreadable::Target)?;
    Ok(Facts {
        method,
        host,
        authority,
        scheme: if matches!(scheme, "https" | "wss") {
            "https"
        } else {
            "http"
        },
        target,
        pin: address.pin,
        preflight: gate::is_preflight(method, headers),
        proven_ingress: address.proven_ingress,
        forwarded_for: single(headers, FORWARDED_FOR)
            .ok()
            .flatten()
            .unwrap_or_default(),
    })
}

/// Refuses a forwarded header under a name that only some servers take for it.
fn refuse_aliases(headers: &HeaderMap, names: &HeaderNames) -> Result<(), HeaderProblem> {
    for name in headers.keys().map(HeaderName::as_str) {
        if !name.contains(['_', '.']) {
            continue;
        }
        for real in [names.uri, names.method, FORWARDED_HOST, FORWARDED_PROTO] {
            if gate::is_spelling_of(name, real) {
                return Err(HeaderProblem::Aliased(real));
            }
        }
    }
    Ok(())
}

fn required<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, HeaderProblem> {
    match single(headers, name)? {
        Some(value) if !value.is_empty() => Ok(value),
        Some(_) | None => Err(HeaderProblem::Missing(name)),
    }
}

/// The only value of a header, as text.
fn single<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> Result<Option<&'a str>, HeaderProblem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(HeaderProblem::Doubled(name));
    }
    // Raw bytes beyond UTF-8 have no single meaning either.
    std::str::from_utf8(value.as_bytes())
        .map(Some)
        .map_err(|_not_text| HeaderProblem::Doubled(name))
}

/// The only value of a header that is not a comma list.
fn listless<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Unreadable> {
    let value = single(headers, name)
        .map_err(Unreadable::Headers)?
        .map(str::trim);
    match value {
        Some(value) if value.contains(',') => {
            Err(Unreadable::Headers(HeaderProblem::Doubled(name)))
        }
        other => Ok(other),
    }
}

impl HeaderProblem {
    const fn class(self) -> UntrustedClass {
        match self {
            Self::Missing(_) => UntrustedClass::MissingHeader,
            Self::Doubled(_) => UntrustedClass::DoubledHeader,
            Self::Aliased(_) => UntrustedClass::AliasedHeader,
        }
    }

    fn refusal(self) -> Refusal {
        match self {
            Self::Missing(name) => Refusal::with_detail(
                Reason::MissingForwardedUri,
                format!("the header {name} is missing or empty"),
            ),
            Self::Doubled(name) => Refusal::with_detail(
                Reason::AmbiguousForwardedHeaders,
                format!("the header {name} has more than one value or is not text"),
            ),
            Self::Aliased(name) => Refusal::with_detail(
                Reason::AmbiguousForwardedHeaders,
                format!("an alias of the header {name} was sent"),
            ),
        }
    }
}

/// One line per decision: info where money or refusal is involved, debug for free passes.
fn log(outcome: &Outcome, headers: &HeaderMap, arrived: Instant) {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let outcome_name = outcome.name();
    let reason = outcome.reason().map(Reason::as_str);
    let request_id = text("x-request-id");
    let traceparent = text("traceparent");
    let duration_ms = u64::try_from(arrived.elapsed().as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Outcome::Free(_) | Outcome::Challenge(_) => tracing::debug!(
            outcome = outcome_name,
            reason,
            request.id = request_id,
            traceparent,
            duration_ms,
            "request decided"
        ),
        Outcome::Admit(permit) => tracing::info!(
            outcome = outcome_name,
            payment.payer = %permit.payer,
            payment.transaction =
                permit.receipt.as_ref().map_or("", |receipt| receipt.transaction.as_str()),
            request.id = request_id,
            traceparent,
            duration_ms,
            "request decided"
        ),
        Outcome::PaymentRefused(_)
        | Outcome::SettlementRejected(_)
        | Outcome::Refused(_)
        | Outcome::Unavailable(_)
        | Outcome::Withdrawn(_) => tracing::info!(
            outcome = outcome_name,
            reason,
            request.id = request_id,
            traceparent,
            duration_ms,
            "request decided"
        ),
    }
}
