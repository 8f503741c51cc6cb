//! From an answer, or the lack of one, to how far the call got and what class of fault it is.
//!
//! Reads no verdicts (that is the wire's), and quotes nothing a facilitator wrote: `detail` is made
//! of our words, status codes and the operating system's error texts, because an error page may
//! echo the credential or the payment that was sent (R13).

use crate::gate::{Fault, FaultKind};
use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::response::Parts;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use std::error::Error;
use std::fmt::Display;
use std::io;
use std::time::Duration;

/// A call without a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Miss {
    /// How far it got.
    pub(super) stage: Stage,
    /// What happened.
    pub(super) fault: Fault,
}

/// How far a call got before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Provably nothing of the request was written.
    Unsent,
    /// It may have been written; no complete answer.
    Sent,
    /// A complete answer that carries no verdict.
    Answered {
        /// 401, 403, 429: the facilitator says that it did not act (M4).
        declined: bool,
    },
}

impl Miss {
    /// A call that ended before anything was sent.
    pub(super) fn unsent(kind: FaultKind, detail: impl Display) -> Self {
        Self::new(Stage::Unsent, kind, detail)
    }

    /// A deadline that passed after the request was given to a connection.
    pub(super) fn timed_out() -> Self {
        Self::new(
            Stage::Sent,
            FaultKind::Timeout,
            "no complete answer before the deadline",
        )
    }

    /// A call that broke before the head of an answer.
    ///
    /// `assigned` is whether the request was ever given to a connection. `Canceled` is hyper's
    /// statement that it hands the request back because the connection took nothing of it off the
    /// queue. Every other error may follow a write.
    pub(super) fn broken(error: &legacy::Error, assigned: bool) -> Self {
        let cause = chain(error)
            .last()
            .map(ToString::to_string)
            .unwrap_or_default();
        if error.is_connect() {
            let kind = match chain(error).any(is_time_out) {
                true => FaultKind::Timeout,
                false => FaultKind::Unreachable,
            };
            return Self::unsent(kind, format_args!("cannot connect: {cause}"));
        }
        let hyper = chain(error).find_map(|cause| cause.downcast_ref::<hyper::Error>());
        if !assigned || hyper.is_some_and(hyper::Error::is_canceled) {
            let detail = format_args!("connection closed before the request was sent: {cause}");
            return Self::unsent(FaultKind::Unreachable, detail);
        }
        // A head over the limit or that is no HTTP: an answer of a kind, and not one to ask for
        // again.
        if hyper.is_some_and(hyper::Error::is_parse) {
            let detail = format_args!("the answer is not acceptable HTTP: {cause}");
            return Self::new(
                Stage::Answered { declined: false },
                FaultKind::Error,
                detail,
            );
        }
        let detail = format_args!("connection lost before an answer: {cause}");
        Self::new(Stage::Sent, FaultKind::Unreachable, detail)
    }

    fn new(stage: Stage, kind: FaultKind, detail: impl Display) -> Self {
        let detail = printable(&detail.to_string());
        Self {
            stage,
            fault: Fault {
                kind,
                retry_after: None,
                detail,
            },
        }
    }
}

/// Reads an answer to its end, at most [`MAX_BODY`] bytes of it.
///
/// An answer whose end was not seen may have held a verdict: it never counts as declined, whatever
/// its status.
pub(super) async fn read(response: Response<Incoming>) -> Result<(Parts, Bytes), Miss> {
    let (head, body) = response.into_parts();
    let status = head.status.as_u16();
    let too_large = || {
        let detail = format_args!("answered {status} with more than {MAX_BODY} bytes");
        Miss::new(
            Stage::Answered { declined: false },
            FaultKind::Error,
            detail,
        )
    };
    if body.size_hint().lower() > u64::try_from(MAX_BODY).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok((head, body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_cut) => {
            let detail = format_args!("answered {status} and broke off before its end");
            Err(Miss::new(
                Stage::Answered { declined: false },
                FaultKind::Error,
                detail,
            ))
        }
    }
}

/// What a complete answer without a verdict means, by its status (M4).
pub(super) fn without_verdict(head: &Parts, body: &[u8]) -> Miss {
    let status = head.status;
    let (kind, declined, meaning) = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            (FaultKind::Error, true, "it rejects our credentials")
        }
        StatusCode::TOO_MANY_REQUESTS => (FaultKind::RateLimited, true, "it limits our rate"),
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            (FaultKind::Error, false, "the proxy rejects our credentials")
        }
        _ if status.is_redirection() => (
            FaultKind::Error,
            false,
            "redirects are not followed, configure the final address",
        ),
        _ => (FaultKind::Error, false, shape(body)),
    };
    let detail = format_args!("answered {} without a verdict: {meaning}", status.as_u16());
    let mut miss = Miss::new(Stage::Answered { declined }, kind, detail);
    miss.fault.retry_after = retry_after(&head.headers);
    miss
}

/// What a body without a verdict looks like, in a word that owes nothing to its text.
fn shape(body: &[u8]) -> &'static str {
    match body.trim_ascii_start().first() {
        None => "the body is empty",
        Some(b'<') => "the body is a page, not JSON",
        Some(b'{' | b'[') => "the body is not a facilitator's answer",
        Some(_) => "the body is not JSON",
    }
}

/// `Retry-After` in seconds or as a date, the date against the facilitator's own `Date`.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok();
    let value: &str = text(header::RETRY_AFTER)?.trim();
    let wait = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // Digits that do not fit are a very long time.
        value.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        let until = http_date(value)?;
        let now = http_date(text(header::DATE)?)?;
        until.duration_since(now).try_into().unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// An HTTP date in the one form that servers send today.
fn http_date(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text).ok()
}

/// The error and its causes, outermost first.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn is_time_out(error: &(dyn Error + 'static)) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|e| e.kind() == io::ErrorKind::TimedOut)
}

/// At most [`MAX_DETAIL`] characters, none of them a control character.
pub(super) fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(shown).take(MAX_DETAIL).collect()
}

/// Most bytes of a body that are read.
const MAX_BODY: usize = 1024 * 1024;
/// Most characters of a detail.
const MAX_DETAIL: usize = 200;
/// Longest wait that is passed on; a larger one is cut to it.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn head(status: u16, headers: &[(header::HeaderName, &'static str)]) -> Parts {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        response.into_parts().0
    }

    #[test]
    fn only_401_403_and_429_say_that_nothing_was_done_m4() {
        for status in 100..=599 {
            let declined = matches!(status, 401 | 403 | 429);
            let miss = without_verdict(&head(status, &[]), b"{}");
            assert_eq!(miss.stage, Stage::Answered { declined }, "{status}");
            let kind = if status == 429 {
                FaultKind::RateLimited
            } else {
                FaultKind::Error
            };
            assert_eq!(miss.fault.kind, kind, "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_never_longer_than_the_bound() {
        let date = (header::DATE, "Sat, 21 Nov 2026 12:00:00 GMT");
        let wait = |value, date: &[_]| {
            let mut headers = vec![(header::RETRY_AFTER, value)];
            headers.extend_from_slice(date);
            retry_after(&head(429, &headers).headers)
        };
        assert_eq!(wait("7", &[]), Some(Duration::from_secs(7)));
        assert_eq!(wait("86400", &[]), Some(MAX_RETRY_AFTER));
        assert_eq!(wait("99999999999999999999999", &[]), Some(MAX_RETRY_AFTER));
        let soon = "Sat, 21 Nov 2026 12:00:30 GMT";
        assert_eq!(
            wait(soon, std::slice::from_ref(&date)),
            Some(Duration::from_secs(30))
        );
        assert_eq!(
            wait("Fri, 20 Nov 2026 12:00:00 GMT", &[date]),
            Some(Duration::ZERO)
        );
        assert_eq!(
            wait(soon, &[]),
            None,
            "a date alone says nothing without a clock"
        );
        for nonsense in ["", "-1", "1.5", "soon"] {
            assert_eq!(wait(nonsense, &[]), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_detail_quotes_nothing_of_the_body_and_is_bounded_r13() {
        let body = b"<h1>Bearer sk-secret is not welcome</h1>";
        let miss = without_verdict(&head(500, &[]), body);
        assert_eq!(
            miss.fault.detail,
            "answered 500 without a verdict: the body is a page, not JSON"
        );
        let long = printable(&"a\r\n\u{7f}".repeat(1000));
        assert_eq!(long.chars().count(), MAX_DETAIL);
        assert!(!long.chars().any(char::is_control));
    }
}
