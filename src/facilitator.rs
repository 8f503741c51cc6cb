//! The facilitator client: `POST /verify` and `POST /settle`, and an honest account of each call.
//!
//! It implements [`gate::Facilitator`](crate::gate::Facilitator) and decides nothing about money.
//! What the gate needs of it is one fact that only transport knows: *how far a call got*. Money
//! may have moved as soon as a request may have been sent, so every failure is put into exactly
//! one of three stages (`Stage`), and a settlement is repeated only from the first:
//!
//! - **unsent**: the request was never given to a connection, or hyper handed it back unstarted.
//!   These are the only proofs accepted. "The body was not polled" is none: the head goes first.
//! - **sent**: it was given to a connection and no complete answer came. Verify may be repeated
//!   once, it is read-only; a settlement is unknown.
//! - **answered**: a complete answer without a verdict. Only 401, 403 and 429 say that the
//!   facilitator did not act (M4).
//!
//! A JSON verdict counts first, whatever the status: facilitators put verdicts into 400, 412 and
//! 500 (M4). A timeout is never repeated.
//!
//! Invariants: every byte and second is bounded (the caller's deadline for the whole call, 1 MiB
//! of body, 64 KiB of head); no redirect is followed with a payment in the body (M13); no text
//! that a facilitator wrote outside a verdict reaches a [`Fault`](crate::gate::Fault), so none can echo a credential
//! or a payload there (R13).
//!
//! It is not: a scheduler (permits and deadlines are the gate's, M8, M12), a store, or a guardian
//! of the call. Dropping the future aborts the request, so whoever settles runs it as a job.

mod answer;
mod connect;
mod pool;
mod tls;

use crate::gate::{Facilitator, FaultKind, SettleReply, Trace, VerifyReply};
use crate::metrics::{FacilitatorOperation, FacilitatorResult, Metrics};
use crate::x402::{Endpoint, SettleResponse, VerifyResponse};
use answer::{Miss, Stage};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request};
use http_body_util::Full;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::client::proxy::matcher::Matcher;
use pool::{Pool, Pools};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use tls::ClientError;

/// Calls facilitators. Cheap to clone; clones share the pools.
#[derive(Debug, Clone)]
pub struct Client {
    pools: Arc<Pools>,
    metrics: Option<Arc<Metrics>>,
}

/// What the client needs to know at start; a change needs a restart.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// How long one address may take to accept a TCP connection.
    pub connect_timeout: Duration,
    /// A PEM bundle trusted beside the system's roots (`--ca-file`).
    pub extra_ca: Option<PathBuf>,
    /// Where calls are counted and timed.
    pub metrics: Option<Arc<Metrics>>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            extra_ca: None,
            metrics: None,
        }
    }
}

impl Client {
    /// A client that honours `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, read now.
    ///
    /// # Errors
    /// When the extra CA bundle cannot be read or holds no usable certificate. Missing system
    /// roots are no error here: they matter only to a facilitator that is called over https.
    pub fn new(config: ClientConfig) -> Result<Self, ClientError> {
        Self::with_proxies(config, Matcher::from_env())
    }

    /// A client with these proxy rules instead of the environment's.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_proxies(config: ClientConfig, proxies: Matcher) -> Result<Self, ClientError> {
        let tls = tls::Tls::new(config.extra_ca.as_deref())?;
        let pools = Arc::new(Pools::new(config.connect_timeout, proxies, tls));
        Ok(Self {
            pools,
            metrics: config.metrics,
        })
    }

    /// One operation with its repetition: at most two attempts, both before `deadline`.
    async fn call<V>(&self, call: Call<'_>, parse: fn(&[u8]) -> Option<V>) -> Result<V, Miss> {
        let pool = match self.pools.get(call.endpoint).await {
            Ok(pool) => pool,
            Err(error) => return Err(Miss::unsent(FaultKind::Error, &error)),
        };
        let miss = match attempt(&pool, &call, parse).await {
            Ok(verdict) => return Ok(verdict),
            Err(miss) => miss,
        };
        let may_repeat = match (miss.stage, call.operation) {
            (Stage::Unsent, FacilitatorOperation::Verify | FacilitatorOperation::Settle)
            | (Stage::Sent, FacilitatorOperation::Verify) => miss.fault.kind != FaultKind::Timeout,
            (Stage::Sent, FacilitatorOperation::Settle)
            | (
                Stage::Answered { .. },
                FacilitatorOperation::Verify | FacilitatorOperation::Settle,
            ) => false,
        };
        if !may_repeat || Instant::now() + REPEAT_PAUSE >= call.deadline {
            return Err(miss);
        }
        tracing::debug!(facilitator = %pool.authority, detail = %miss.fault.detail, "repeating");
        tokio::time::sleep(REPEAT_PAUSE).await;
        attempt(&pool, &call, parse).await
    }

    /// Counts, times and, on failure, logs one call.
    fn record<V>(
        &self,
        call: &Call<'_>,
        started: Instant,
        outcome: &Result<V, Miss>,
        positive: impl FnOnce(&V) -> bool,
    ) {
        let result = match outcome {
            Ok(verdict) if positive(verdict) => FacilitatorResult::Ok,
            Ok(_) => FacilitatorResult::Invalid,
            Err(miss) => match miss.fault.kind {
                FaultKind::Unreachable => FacilitatorResult::Unreachable,
                FaultKind::Timeout => FacilitatorResult::Timeout,
                FaultKind::Error | FaultKind::RateLimited => FacilitatorResult::Error,
            },
        };
        let elapsed = started.elapsed();
        if let Err(miss) = outcome {
            tracing::warn!(
                operation = ?call.operation,
                facilitator = pool::authority_of(&call.endpoint.base),
                kind = ?miss.fault.kind,
                stage = ?miss.stage,
                detail = %miss.fault.detail,
                elapsed_ms = elapsed.as_millis(),
                "facilitator gave no verdict",
            );
        }
        if let Some(metrics) = &self.metrics {
            metrics.facilitator_call(call.operation, result, elapsed);
        }
    }
}

impl Facilitator for Client {
    async fn verify(
        &self,
        endpoint: &Arc<Endpoint>,
        body: Bytes,
        trace: &Trace,
        deadline: Instant,
    ) -> VerifyReply {
        let started = Instant::now();
        let operation = FacilitatorOperation::Verify;
        let call = Call {
            operation,
            endpoint,
            body,
            trace,
            deadline,
        };
        let outcome = self.call(call.clone(), VerifyResponse::parse).await;
        self.record(&call, started, &outcome, |verdict| verdict.is_valid);
        match outcome {
            Ok(verdict) => VerifyReply::Verdict(verdict),
            Err(miss) => VerifyReply::Fault(miss.fault),
        }
    }

    async fn settle(
        &self,
        endpoint: &Arc<Endpoint>,
        body: Bytes,
        trace: &Trace,
        deadline: Instant,
    ) -> SettleReply {
        let started = Instant::now();
        let operation = FacilitatorOperation::Settle;
        let call = Call {
            operation,
            endpoint,
            body,
            trace,
            deadline,
        };
        let outcome = self.call(call.clone(), SettleResponse::parse).await;
        self.record(&call, started, &outcome, |verdict| verdict.success);
        match outcome {
            Ok(verdict) => SettleReply::Verdict(verdict),
            Err(Miss {
                stage: Stage::Unsent,
                fault,
            }) => SettleReply::NotSent(fault),
            Err(Miss {
                stage: Stage::Answered { declined: true },
                fault,
            }) => SettleReply::Declined(fault),
            Err(Miss {
                stage: Stage::Sent | Stage::Answered { declined: false },
                fault,
            }) => SettleReply::Unknown(fault),
        }
    }
}

/// What is asked of which facilitator, until when.
#[derive(Clone)]
struct Call<'a> {
    operation: FacilitatorOperation,
    endpoint: &'a Endpoint,
    body: Bytes,
    trace: &'a Trace,
    deadline: Instant,
}

impl Call<'_> {
    /// The request, and the handle that tells whether it was ever given to a connection.
    fn request(&self, pool: &Pool) -> (Request<Full<Bytes>>, CaptureConnection) {
        let (uri, configured) = match self.operation {
            FacilitatorOperation::Verify => (&pool.verify, &self.endpoint.verify_headers),
            FacilitatorOperation::Settle => (&pool.settle, &self.endpoint.settle_headers),
        };
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers(configured, pool.proxy_authorization.as_ref());
        for (name, value) in self.trace.headers() {
            // A configured header of that name stands: the facilitator may need it.
            request
                .headers_mut()
                .entry(name)
                .or_insert_with(|| value.clone());
        }
        let capture = capture_connection(&mut request);
        (request, capture)
    }
}

/// Sends once and reads the whole answer, all before the deadline.
async fn attempt<V>(
    pool: &Pool,
    call: &Call<'_>,
    parse: fn(&[u8]) -> Option<V>,
) -> Result<V, Miss> {
    let (request, capture) = call.request(pool);
    // The request was given to a connection at some time. Its absence proves that nothing was sent;
    // its presence proves nothing (the request may have been handed back since), so it counts as
    // sent.
    let assigned = || capture.connection_metadata().is_some();
    let exchange = async {
        let response = pool.client.request(request).await;
        let response = response.map_err(|error| Miss::broken(&error, assigned()))?;
        let (head, body) = answer::read(response).await?;
        parse(&body).ok_or_else(|| answer::without_verdict(&head, &body))
    };
    match tokio::time::timeout_at(call.deadline.into(), exchange).await {
        Ok(outcome) => outcome,
        Err(_elapsed) if !assigned() => Err(Miss::unsent(
            FaultKind::Timeout,
            "no connection before the deadline",
        )),
        Err(_elapsed) => Err(Miss::timed_out()),
    }
}

/// Ours first, then the configured ones over them, but never those that frame the message.
fn headers(configured: &HeaderMap, proxy_authorization: Option<&HeaderValue>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(configured.len() + 4);
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    for name in configured.keys().filter(|name| !FRAMING.contains(name)) {
        headers.remove(name);
        for value in configured.get_all(name) {
            let mut value = value.clone();
            value.set_sensitive(true);
            headers.append(name, value);
        }
    }
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    if let Some(value) = proxy_authorization {
        headers.insert(header::PROXY_AUTHORIZATION, value.clone());
    }
    headers
}

/// Pause before the one repetition: long enough for a listener that is being replaced.
const REPEAT_PAUSE: Duration = Duration::from_millis(25);
const USER_AGENT: &str = concat!("x402-verifier/", env!("CARGO_PKG_VERSION"));
/// Headers that decide where a message ends or who it is for; a configuration cannot set them.
const FRAMING: [HeaderName; 7] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_headers_are_sensitive_and_cannot_reframe_the_request() {
        let mut configured = HeaderMap::new();
        configured.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer k"));
        configured.insert(header::USER_AGENT, HeaderValue::from_static("seller/1"));
        configured.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        configured.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let headers = headers(&configured, None);
        assert!(headers[header::AUTHORIZATION].is_sensitive());
        assert_eq!(headers[header::USER_AGENT], "seller/1");
        assert_eq!(headers[header::CONTENT_TYPE], "application/json");
        assert!(!headers.contains_key(header::CONTENT_LENGTH));
    }
}
