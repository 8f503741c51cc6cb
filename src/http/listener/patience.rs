//! How long a connection may take over a header block, and how long it may be idle before one.
//!
//! hyper has one timer for both, and none while it finds out whether a new connection speaks HTTP/2:
//! a client that sends three letters and stops would stay for ever. One timer cannot be short for
//! slow senders and long for idle proxies, so both limits are here, at the socket, and hyper's
//! never ends ([`Reminder`]). The short one counts from accept to the first request, and from the first byte of each
//! later header block to its request; the long one from an answer to that first byte.
//!
//! Neither counts while a request is being answered, so a slow upload or a long settlement is not
//! their business; and not on HTTP/2, once there was a request, because frames that are no request
//! keep such a connection alive by design.
//!
//! A connection in use begins to wait anew with every request, tens of thousands of times a second,
//! and hardly ever waits long. So the timer is not moved each time: it is left to fire early, and
//! is then set to what is due.

use axum::body::Body;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::rt::Timer;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What the requests of a connection tell its socket. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Activity {
    inner: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    finished: AtomicU64,
    multiplexed: AtomicBool,
}

/// A request that is being answered, until this is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Activity);

/// A response body that keeps its request in flight until it was sent.
#[derive(Debug)]
pub(super) struct Attended {
    body: Body,
    _request: InFlight,
}

/// The limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// From accept to the first request, and from the first byte of a later header block to its
    /// request.
    pub(super) header: Duration,
    /// From an answer to the first byte of the next header block, on HTTP/1.
    pub(super) idle: Duration,
}

/// A socket that fails a read when a header block takes too long or does not come.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    limits: Limits,
    wait: Wait,
    /// When `wait` has lasted too long.
    until: Instant,
    /// Fires at `until` or before; later only while nothing is waited for.
    timer: Pin<Box<Sleep>>,
    /// Number of requests that had begun when bytes came that belong to none of them.
    received_after: Option<u64>,
    activity: Activity,
}

/// The timer that hyper is given, which never fires.
///
/// Only with a limit of its own does hyper read again as soon as an answer is out, and without that
/// read the socket would not learn that it waits. These timers cost nothing: they have no size, so
/// even their boxes are not allocated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reminder;

/// What the socket waits for. One that differs from the last is a new one, with time of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wait {
    /// Number of requests that had begun.
    begun: u64,
    /// For the rest of a header block, not for its first byte.
    header: bool,
}

impl Timer for Reminder {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(*self)
    }

    fn sleep_until(&self, _: std::time::Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(*self)
    }
}

impl hyper::rt::Sleep for Reminder {}

impl Future for Reminder {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Activity {
    /// A header block is complete.
    pub(super) fn begin(&self, multiplexed: bool) -> InFlight {
        self.inner.begun.fetch_add(1, Ordering::Relaxed);
        if multiplexed {
            self.inner.multiplexed.store(true, Ordering::Relaxed);
        }
        InFlight(self.clone())
    }

    /// Requests so far.
    pub(super) fn begun(&self) -> u64 {
        self.inner.begun.load(Ordering::Relaxed)
    }

    fn is_multiplexed(&self) -> bool {
        self.inner.multiplexed.load(Ordering::Relaxed)
    }

    fn is_idle(&self) -> bool {
        self.begun() == self.inner.finished.load(Ordering::Relaxed)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.inner.finished.fetch_add(1, Ordering::Relaxed);
    }
}

impl Attended {
    pub(super) const fn new(body: Body, request: InFlight) -> Self {
        Self {
            body,
            _request: request,
        }
    }
}

impl HttpBody for Attended {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<S> Patient<S> {
    /// A socket whose first request is due within `limits.header`.
    pub(super) fn new(stream: S, limits: Limits, activity: Activity) -> Self {
        let until = Instant::now() + limits.header;
        Self {
            stream,
            limits,
            wait: Wait {
                begun: activity.begun(),
                header: true,
            },
            until,
            timer: Box::pin(tokio::time::sleep_until(until)),
            received_after: None,
            activity,
        }
    }

    /// Notes where a header block begins.
    fn received(&mut self) {
        if self.activity.is_idle() {
            self.received_after = Some(self.activity.begun());
        }
    }

    /// Ready when the socket has waited too long.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.activity.is_idle() || self.activity.is_multiplexed() {
            return Poll::Pending;
        }
        let begun = self.activity.begun();
        let wait = Wait {
            begun,
            header: begun == 0 || self.received_after == Some(begun),
        };
        if wait != self.wait {
            self.wait = wait;
            let patience = if wait.header {
                self.limits.header
            } else {
                self.limits.idle
            };
            self.until = Instant::now() + patience;
        }
        if self.timer.deadline() > self.until {
            self.timer.as_mut().reset(self.until);
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            if self.until <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.until);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            if buffer.filled().len() > before {
                self.received();
            }
            return read;
        }
        ready!(self.poll_patience(context));
        let late = "no complete request header in time";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, late)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}
