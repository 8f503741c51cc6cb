//! How long a connection may take over a header block.
//!
//! hyper has one timer for a header block and the idle time before it, and none while it finds out
//! whether a new connection speaks HTTP/2: a client that sends three letters and stops would stay
//! for ever. One timer cannot be short for slow senders and long for idle proxies, so the short one
//! is here, at the socket: it runs from accept to the first request, and from the first byte of
//! each later header block to its request. hyper's timer is the long one.
//!
//! It never runs while a request is being answered, so a slow upload or a long settlement is not
//! its business; and not on HTTP/2, once there was a request, because frames that are no request
//! keep such a connection alive by design.

use axum::body::Body;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
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

/// A socket that fails a read when a header block takes too long.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    timer: Pin<Box<Sleep>>,
    /// Number of requests that had begun when the timer was started, while it runs.
    awaiting: Option<u64>,
    activity: Activity,
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
    /// A socket whose first request is due within `patience`.
    pub(super) fn new(stream: S, patience: Duration, activity: Activity) -> Self {
        let timer = Box::pin(tokio::time::sleep(patience));
        Self {
            stream,
            patience,
            timer,
            awaiting: Some(activity.begun()),
            activity,
        }
    }

    /// Stops the timer when what it waits for has come.
    fn reconsider(&mut self) {
        let activity = &self.activity;
        self.awaiting = self
            .awaiting
            .filter(|begun| *begun == activity.begun() && !activity.is_multiplexed());
    }

    /// Starts the timer when these bytes begin a header block.
    fn received(&mut self) {
        self.reconsider();
        let begins = self.activity.is_idle() && !self.activity.is_multiplexed();
        if begins && self.awaiting.is_none() {
            self.awaiting = Some(self.activity.begun());
            self.timer.as_mut().reset(Instant::now() + self.patience);
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
        self.reconsider();
        if self.awaiting.is_some() && self.timer.as_mut().poll(context).is_ready() {
            let late = "no complete request header in time";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, late)));
        }
        Poll::Pending
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
