//! Pages that are written while they are sent.

use super::{RoutesFilter, SourceRow};
use crate::metrics::CHUNK;
use crate::table::{AcceptReport, OfferIdentity, Report, ReportedState, RouteReport};
use bytes::Bytes;
use http_body::{Body, Frame};
use jiff::Timestamp;
use serde::Serialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A body of text chunks, made one at a time as the client takes them.
///
/// After each chunk it steps back once, so that a long page does not keep a worker from requests.
#[derive(Debug)]
pub(super) struct Chunked<I> {
    chunks: I,
    stepped_back: bool,
}

/// `/routes` as chunks of text. It keeps the report of one generation until it is read or dropped.
#[derive(Debug)]
pub(super) struct RoutesPage {
    generation: u64,
    built_at: Timestamp,
    report: Arc<Report>,
    filter: RoutesFilter,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    Head,
    /// Next row of the report, and whether a row was written before it.
    Rows(usize, bool),
    Done,
}

/// One row (`reference/surface.md`, admin port).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RouteRow<'a> {
    pattern: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    source: &'a str,
    offer: OfferRow<'a>,
    /// The owning namespace; absent when the operator's file owns it.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
    state: &'static str,
    gate: &'static str,
    settle: &'static str,
    accepts: Vec<AcceptRow<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drains_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_until: Option<String>,
}

#[derive(Debug, Serialize)]
struct OfferRow<'a> {
    namespace: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<i64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AcceptRow<'a> {
    network: &'a str,
    asset: &'a str,
    symbol: &'a str,
    amount: &'a str,
    price: &'a str,
    pay_to: &'a str,
}

/// The word for a state in `/routes` and `routes{state}`.
pub(super) const fn state_name(state: ReportedState) -> &'static str {
    match state {
        ReportedState::Live => "live",
        ReportedState::Closed => "closed",
        ReportedState::Draining => "draining",
        ReportedState::Misconfigured => "misconfigured",
        ReportedState::Conflict => "conflict",
    }
}

impl<I> Chunked<I> {
    pub(super) const fn new(chunks: I) -> Self {
        Self {
            chunks,
            stepped_back: true,
        }
    }
}

impl<I: Iterator<Item = String> + Unpin> Body for Chunked<I> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.stepped_back {
            self.stepped_back = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.stepped_back = false;
        Poll::Ready(
            self.chunks
                .next()
                .map(|chunk| Ok(Frame::data(Bytes::from(chunk)))),
        )
    }
}

impl RoutesPage {
    pub(super) const fn new(
        generation: u64,
        built_at: Timestamp,
        report: Arc<Report>,
        filter: RoutesFilter,
    ) -> Self {
        Self {
            generation,
            built_at,
            report,
            filter,
            progress: Progress::Head,
        }
    }

    fn head(&self) -> String {
        let sources: Vec<_> = self.report.sources.iter().map(SourceRow::new).collect();
        format!(
            r#"{{"generation":{},"builtAt":"{}","sources":{},"routes":["#,
            self.generation,
            self.built_at,
            json(&sources)
        )
    }

    /// Rows from `position` until the chunk is full, and the end of the page after the last.
    fn rows(&mut self, mut position: usize, mut separated: bool) -> String {
        let mut text = String::new();
        while let Some(offer) = self.report.offer(position) {
            if text.len() >= CHUNK {
                self.progress = Progress::Rows(position, separated);
                return text;
            }
            let state = self.report.state(position);
            if self.filter.shows(offer)
                && self.filter.shows_state(state)
                && let Some(route) = self.report.row(position)
            {
                if separated {
                    text.push(',');
                }
                separated = true;
                text.push_str(&json(&RouteRow::new(&route)));
            }
            position += 1;
        }
        self.progress = Progress::Done;
        text.push_str("]}\n");
        text
    }
}

impl Iterator for RoutesPage {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        match self.progress {
            Progress::Head => {
                self.progress = Progress::Rows(0, false);
                Some(self.head())
            }
            Progress::Rows(position, separated) => Some(self.rows(position, separated)),
            Progress::Done => None,
        }
    }
}

impl RoutesFilter {
    fn shows(&self, offer: &OfferIdentity) -> bool {
        let is = |wanted: &Option<String>, value: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == value)
        };
        is(&self.namespace, &offer.namespace) && is(&self.name, &offer.name)
    }

    fn shows_state(&self, state: Option<ReportedState>) -> bool {
        self.state
            .as_deref()
            .is_none_or(|wanted| state.is_some_and(|state| state_name(state) == wanted))
    }
}

impl<'a> RouteRow<'a> {
    fn new(route: &'a RouteReport) -> Self {
        Self {
            pattern: &route.pattern,
            host: route.host.as_deref(),
            source: route.source,
            offer: OfferRow {
                namespace: &route.offer.namespace,
                name: &route.offer.name,
                uid: route.offer.uid.as_deref(),
                generation: route.offer_generation,
            },
            owner: route.owner.namespace(),
            state: state_name(route.state),
            gate: route.gate.as_str(),
            settle: route.settle.as_str(),
            accepts: route.accepts.iter().map(AcceptRow::new).collect(),
            reason: route.reason,
            detail: route.detail.as_deref(),
            drains_until: route.drains_until.map(|time| time.to_string()),
            closed_since: route.closed_since.map(|time| time.to_string()),
            closed_until: route.closed_until.map(|time| time.to_string()),
        }
    }
}

impl<'a> AcceptRow<'a> {
    fn new(accept: &'a AcceptReport) -> Self {
        Self {
            network: &accept.network,
            asset: &accept.asset,
            symbol: &accept.symbol,
            amount: &accept.amount,
            price: &accept.price,
            pay_to: &accept.pay_to,
        }
    }
}

/// JSON of something made of text and numbers, which cannot fail.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| {
        tracing::error!(%error, "a row of /routes cannot be written as JSON");
        "null".to_owned()
    })
}
