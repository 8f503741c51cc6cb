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
use axum::extract::{ConnectInfo, State};
use http::{HeaderMap, HeaderValue, Request, Response};
use secrecy::ExposeSecret;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// One of the forwarded headers as it was sent.
#[derive(Clone, Copy)]
struct Forwarded<'a> {
    name: &'static str,
    sent: Sent<'a>,
}

#[derive(Clone, Copy)]
enum Sent<'a> {
    Never,
    Once(&'a HeaderValue),
    Often,
}

const FORWARDED_HOST: &str = "x-forwarded-host";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The face as a router, for a port that has other endpoints too: `/verify` and its pins, everything
/// else is 404. A port of its own calls [`ForwardAuth::respond`].
pub fn router<F: Facilitator, L: Ledger>(face: Arc<ForwardAuth<F, L>>) -> Router {
    Router::new().fallback(handle::<F, L>).with_state(face)
}

async fn handle<F: Facilitator, L: Ledger>(
    State(face): State<Arc<ForwardAuth<F, L>>>,
    request: axum::extract::Request,
) -> Response<Body> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map(|peer| peer.0.ip());
    face.respond(request, peer).await
}

impl<F: Facilitator, L: Ledger> ForwardAuth<F, L> {
    /// Answers one request of `peer`.
    pub async fn respond<B>(
        self: Arc<Self>,
        request: Request<B>,
        peer: Option<IpAddr>,
    ) -> Response<Body> {
        let arrived = Instant::now();
        let Some(rest) = below_verify(request.uri().path()) else {
            return refuse(&Refusal::new(Reason::NoSuchEndpoint, None));
        };
        let headers = request.headers();
        let (outcome, catalog) = self.answer(rest, headers, peer, arrived).await;
        let took = arrived.elapsed();
        self.metrics.request(outcome.label(), took);
        log(&outcome, headers, took);
        respond(outcome, catalog.as_deref())
    }

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

/// What follows `/verify` in a path: nothing, or segments.
fn below_verify(path: &str) -> Option<&str> {
    path.strip_prefix("/verify")
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
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
    let (uri, method) = match settings.header_source {
        HeaderSource::XForwarded => ("x-forwarded-uri", "x-forwarded-method"),
        HeaderSource::XOriginal => ("x-original-uri", "x-original-method"),
    };
    let names = [uri, method, FORWARDED_HOST, FORWARDED_PROTO, FORWARDED_FOR];
    let [uri, method, host, proto, forwarded_for] = forwarded(headers, names)?;
    let uri = uri.filled()?;
    let method = method.text()?.unwrap_or_default();
    let authority = host
        .listless()?
        .filter(|host| !host.is_empty())
        .ok_or(HeaderProblem::Missing(FORWARDED_HOST))?;
    let scheme = proto.listless()?.unwrap_or("http");
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
        forwarded_for: forwarded_for.text().ok().flatten().unwrap_or_default(),
    })
}

/// The headers of these names, in one look at all that was sent: they are several, and a look-up
/// hashes its name each time. Refuses the name of one as only some servers spell it, but for
/// `X-Forwarded-For`, which decides nothing.
fn forwarded<'a, const N: usize>(
    headers: &'a HeaderMap,
    names: [&'static str; N],
) -> Result<[Forwarded<'a>; N], HeaderProblem> {
    let mut found = names.map(|name| Forwarded {
        name,
        sent: Sent::Never,
    });
    for (name, value) in headers {
        let name = name.as_str();
        for header in &mut found {
            if name == header.name {
                header.sent = match header.sent {
                    Sent::Never => Sent::Once(value),
                    Sent::Once(_) | Sent::Often => Sent::Often,
                };
            } else if header.name != FORWARDED_FOR && gate::is_spelling_of(name, header.name) {
                return Err(HeaderProblem::Aliased(header.name));
            }
        }
    }
    Ok(found)
}

impl<'a> Forwarded<'a> {
    /// The only value, as text.
    fn text(self) -> Result<Option<&'a str>, HeaderProblem> {
        match self.sent {
            Sent::Never => Ok(None),
            // Raw bytes beyond UTF-8 have no single meaning either.
            Sent::Once(value) => std::str::from_utf8(value.as_bytes())
                .map(Some)
                .map_err(|_not_text| HeaderProblem::Doubled(self.name)),
            Sent::Often => Err(HeaderProblem::Doubled(self.name)),
        }
    }

    fn filled(self) -> Result<&'a str, HeaderProblem> {
        match self.text()? {
            Some(value) if !value.is_empty() => Ok(value),
            Some(_) | None => Err(HeaderProblem::Missing(self.name)),
        }
    }

    /// The only value, which must not be a comma list.
    fn listless(self) -> Result<Option<&'a str>, HeaderProblem> {
        let value = self.text()?.map(str::trim);
        match value {
            Some(value) if value.bytes().any(|byte| byte == b',') => {
                Err(HeaderProblem::Doubled(self.name))
            }
            other => Ok(other),
        }
    }
}

impl From<HeaderProblem> for Unreadable {
    fn from(problem: HeaderProblem) -> Self {
        Self::Headers(problem)
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
fn log(outcome: &Outcome, headers: &HeaderMap, took: Duration) {
    // Fields are computed where the line is written, which for most requests is nowhere.
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let reason = || outcome.reason().map(Reason::as_str);
    let milliseconds = || u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Outcome::Free(_) | Outcome::Challenge(_) => tracing::debug!(
            outcome = outcome.name(),
            reason = reason(),
            request.id = text("x-request-id"),
            traceparent = text("traceparent"),
            duration_ms = milliseconds(),
            "request decided"
        ),
        Outcome::Admit(permit) => tracing::info!(
            outcome = outcome.name(),
            payment.payer = %permit.payer,
            payment.transaction =
                permit.receipt.as_ref().map_or("", |receipt| receipt.transaction.as_str()),
            request.id = text("x-request-id"),
            traceparent = text("traceparent"),
            duration_ms = milliseconds(),
            "request decided"
        ),
        Outcome::PaymentRefused(_)
        | Outcome::SettlementRejected(_)
        | Outcome::Refused(_)
        | Outcome::Unavailable(_)
        | Outcome::Withdrawn(_) => tracing::info!(
            outcome = outcome.name(),
            reason = reason(),
            request.id = text("x-request-id"),
            traceparent = text("traceparent"),
            duration_ms = milliseconds(),
            "request decided"
        ),
    }
}
