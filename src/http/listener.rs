//! The accept loop of both ports: sockets in, requests to a handler, an orderly end.
//!
//! Everything from outside is bounded before a handler sees it: connections, time to send a header
//! block, its size and count, HTTP/2 streams and lists (M12). A handler that panics becomes a 500
//! and never a 2xx (R1). It is given the peer address with IPv4-mapped addresses reduced to IPv4, so
//! that `trustedProxies` compares what it means.
//!
//! A handler is a plain function of request and peer: the traffic port answers tens of thousands of
//! requests a second with one, and a router that boxes its way to it costs as much as the answer.
//! [`routed`] makes a handler of a router, where there are paths to tell apart.
//!
//! What it is not: it knows no path, no payment and no other port. It speaks no TLS.
//!
//! Shutdown has an order, and `serve` gives it:
//! 1. [`Readiness::begin_draining`]: every HTTP/1.1 answer carries `Connection: close`, so that
//!    proxies take their next request elsewhere while we still accept;
//! 2. [`Tasks::begin_shutdown`], then [`Server::drain`]: accepting stops, idle connections are
//!    closed, requests in flight are finished, at most for the grace;
//! 3. its answer says how many connections were still open at the end.
//!
//! Failure: an `accept` that fails because of one connection is passed over; one that fails for
//! want of descriptors or memory waits a little and goes on, with one warning line for each
//! episode. Nothing a client does ends the loop.

mod address;
mod patience;
#[cfg(test)]
mod tests;

pub use address::{AddressError, BindError, ListenAddress};

use crate::lifecycle::{Readiness, Tasks};
use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Request, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use patience::{Activity, Attended, Limits, Patient, Reminder};
use std::any::Any;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt;

/// Time from the first byte of a header block to its last, and from accept to the first request
/// (M12).
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be idle between requests.
///
/// Longer than the 90 s after which Go's clients (Traefik, Caddy) let go of theirs, so that it is
/// they who close and no request is sent into a connection that we are closing.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Bytes of a header block, request line included (M12).
pub const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Headers of a request (M12).
pub const MAX_HEADERS: usize = 100;

/// Streams of one HTTP/2 connection. Proxies open more connections when they need more.
const MAX_STREAMS: u32 = 128;

/// HTTP/2 connections are asked whether they still live, and closed if they do not answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections of one port. A proxy uses tens; what is above this waits in the kernel's backlog.
const MAX_CONNECTIONS: usize = 4096;

/// Pause after an `accept` that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

const LIMITS: Limits = Limits {
    header: HEADER_TIMEOUT,
    idle: IDLE_TIMEOUT,
};

/// What a connection without a request gets at shutdown to bring its first.
const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(250);

/// A bound socket that nobody is served from yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    /// Connections at a time.
    capacity: usize,
}

/// A port that is being served.
#[derive(Debug)]
#[must_use = "dropping it stops accepting, without waiting for what is in flight"]
pub struct Server {
    address: SocketAddr,
    /// Turned to true once. The accept loop and every connection hold a receiver, so the channel is
    /// closed when all of them have ended.
    stopping: watch::Sender<bool>,
    /// A permit is an open connection.
    permits: Arc<Semaphore>,
    capacity: usize,
}

/// What every connection of a port shares.
#[derive(Debug)]
struct Port<A> {
    name: &'static str,
    answer: A,
    protocol: auto::Builder<StreamTasks>,
    readiness: Readiness,
    tasks: Tasks,
}

/// What answers the requests of one connection.
#[derive(Debug)]
struct Conversation<A> {
    answer: A,
    readiness: Readiness,
    peer: SocketAddr,
    activity: Activity,
}

/// Runs HTTP/2 streams as supervised tasks.
#[derive(Debug, Clone)]
struct StreamTasks(Tasks);

impl Listener {
    /// Binds a socket.
    ///
    /// # Errors
    /// See [`BindError`].
    pub async fn bind(address: &ListenAddress) -> Result<Self, BindError> {
        let socket = address.bind().await?;
        let bound = socket
            .local_addr()
            .map_err(|source| address.error(source))?;
        Ok(Self {
            socket,
            address: bound,
            capacity: MAX_CONNECTIONS,
        })
    }

    /// The address that was bound, with the port the system chose for `:0`.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until [`Server::drain`]: `answer` is given each request and its peer, and what it
    /// does, a panic included, it does when its future is polled. `name` is the port in logs
    /// (`traffic`, `admin`).
    pub fn serve<A, F>(
        self,
        name: &'static str,
        answer: A,
        tasks: &Tasks,
        readiness: &Readiness,
    ) -> Server
    where
        A: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let port = Port {
            name,
            answer,
            protocol: protocol(tasks),
            readiness: readiness.clone(),
            tasks: tasks.clone(),
        };
        let permits = Arc::new(Semaphore::new(self.capacity));
        let (stopping, stop) = watch::channel(false);
        let server = Server {
            address: self.address,
            stopping,
            permits: Arc::clone(&permits),
            capacity: self.capacity,
        };
        tasks.spawn(name, async move {
            tokio::select! {
                () = stopped(stop.clone()) => {}
                () = port.accept(&self.socket, &permits, &stop) => {}
            }
            // In this order: who sees the channel closed may bind the address again.
            drop(self.socket);
            drop(stop);
        });
        server
    }
}

impl Server {
    /// The address that is served.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, closes idle connections and waits at most `grace` for what is in flight.
    /// Returns the number of connections that were still open then: 0 when all finished.
    ///
    /// [`Tasks::begin_shutdown`] comes first, else the end of the accept loop counts as a failure.
    pub async fn drain(self, grace: Duration) -> usize {
        self.stopping.send_replace(true);
        if tokio::time::timeout(grace, self.stopping.closed())
            .await
            .is_ok()
        {
            return 0;
        }
        self.capacity
            .saturating_sub(self.permits.available_permits())
    }
}

/// The requests of a port as a router sees them, with the peer as
/// [`ConnectInfo<SocketAddr>`](axum::extract::ConnectInfo).
pub fn routed(
    router: Router,
) -> impl Fn(Request<Incoming>, SocketAddr) -> Answering + Clone + Send + Sync + 'static {
    move |mut request, peer| {
        let router = router.clone();
        request.extensions_mut().insert(ConnectInfo(peer));
        Box::pin(async move {
            let Ok(response) = router.oneshot(request.map(Body::new)).await;
            response
        })
    }
}

/// An answer of a router.
pub type Answering = Pin<Box<dyn Future<Output = Response> + Send>>;

impl<A, F> Port<A>
where
    A: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    /// Accepts for ever.
    async fn accept(
        &self,
        socket: &TcpListener,
        permits: &Arc<Semaphore>,
        stop: &watch::Receiver<bool>,
    ) {
        // One warning line for each episode of either.
        let (mut full, mut failing) = (false, false);
        loop {
            let permit = match Arc::clone(permits).try_acquire_owned() {
                Ok(permit) => {
                    full = false;
                    permit
                }
                Err(_none_free) => {
                    if !full {
                        tracing::warn!(
                            port.name = self.name,
                            "all connections are in use, others wait"
                        );
                    }
                    full = true;
                    let Ok(permit) = Arc::clone(permits).acquire_owned().await else {
                        return; // The semaphore is never closed.
                    };
                    permit
                }
            };
            match socket.accept().await {
                Ok((stream, peer)) => {
                    failing = false;
                    self.start(stream, canonical(peer), permit, stop.clone());
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    if !failing {
                        tracing::warn!(port.name = self.name, %error, "cannot accept connections");
                    }
                    failing = true;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn start(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        stop: watch::Receiver<bool>,
    ) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot turn off Nagle's algorithm");
        }
        let activity = Activity::default();
        let stream = TokioIo::new(Patient::new(stream, LIMITS, activity.clone()));
        let conversation = Conversation {
            answer: self.answer.clone(),
            readiness: self.readiness.clone(),
            peer,
            activity: activity.clone(),
        };
        let service = service_fn(move |request| conversation.answer(request));
        let connection = self.protocol.serve_connection(stream, service).into_owned();
        let name = self.name;
        self.tasks.spawn_finite("connection", async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = told_to_stop(stop.clone(), &activity) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(port.name = name, %peer, %error, "connection ended early");
            }
            drop(permit);
            drop(stop);
        });
    }
}

impl<A, F> Conversation<A>
where
    A: Fn(Request<Incoming>, SocketAddr) -> F,
    F: Future<Output = Response>,
{
    fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<http::Response<Attended>, Infallible>> + use<A, F> {
        let multiplexed = request.version() == Version::HTTP_2;
        let in_flight = self.activity.begin(multiplexed);
        // hyper refuses too many headers itself on HTTP/1 only.
        let answering =
            (request.headers().len() <= MAX_HEADERS).then(|| (self.answer)(request, self.peer));
        let readiness = self.readiness.clone();
        async move {
            let mut response = match answering {
                Some(answering) => caught(answering).await,
                None => too_many_headers(),
            };
            if !multiplexed && readiness.is_draining() {
                response
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| Attended::new(body, in_flight)))
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamTasks {
    fn execute(&self, stream: F) {
        self.0.spawn_finite("http2 stream", stream);
    }
}

/// An answer, or the 500 of a handler that panicked.
async fn caught(answering: impl Future<Output = Response>) -> Response {
    let mut answering = pin!(answering);
    poll_fn(|context| {
        // What a panic leaves behind is dropped and not polled again.
        let polled = AssertUnwindSafe(|| answering.as_mut().poll(context));
        catch_unwind(polled).unwrap_or_else(|panic| Poll::Ready(panicked(panic.as_ref())))
    })
    .await
}

/// Resolves when the port stops, or when nobody can stop it any more.
async fn stopped(mut stop: watch::Receiver<bool>) {
    if stop.wait_for(|stopping| *stopping).await.is_err() {
        tracing::debug!("a port was dropped without a drain");
    }
}

/// Resolves when a connection has to finish. A new one gets a moment first: its request may be in
/// the socket already, and hyper would close it unread.
async fn told_to_stop(stop: watch::Receiver<bool>, activity: &Activity) {
    stopped(stop).await;
    if activity.begun() == 0 {
        tokio::time::sleep(FIRST_REQUEST_GRACE).await;
    }
}

fn protocol(tasks: &Tasks) -> auto::Builder<StreamTasks> {
    let mut protocol = auto::Builder::new(StreamTasks(tasks.clone()));
    protocol
        .http1()
        // The limits are those of `Patient`.
        .timer(Reminder)
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS);
    protocol
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    protocol
}

/// IPv4 clients of an IPv6 socket appear as `::ffff:10.0.0.1`; rules are written for `10.0.0.1`.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// Whether an `accept` failed because its client had gone, which says nothing about the next.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    [ConnectionAborted, ConnectionRefused, ConnectionReset].contains(&error.kind())
}

fn too_many_headers() -> Response {
    refusal(
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "too_many_headers",
        r#"{"error":"The request has too many headers.","reason":"too_many_headers","hint":"Send at most 100.","retriable":false}"#,
    )
}

/// A panic is our fault, and never a pass (R1). Its text stays in the log (R13).
fn panicked(panic: &(dyn Any + Send)) -> Response {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(
        panic = text.unwrap_or("without a text"),
        "a handler panicked"
    );
    refusal(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal_error",
        r#"{"error":"The verifier failed while handling this request.","reason":"internal_error","retriable":false}"#,
    )
}

fn refusal(status: StatusCode, reason: &'static str, body: &'static str) -> Response {
    let json = HeaderValue::from_static("application/json");
    let reason = HeaderValue::from_static(reason);
    let headers = [
        (header::CONTENT_TYPE, json),
        (HeaderName::from_static("x-payment-error"), reason),
    ];
    (status, headers, body).into_response()
}
