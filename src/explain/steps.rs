//! The steps of one decision as text, and the response it leads to.
//!
//! It asks the same [`gate::decide`] that `serve` asks, of a table that was compiled offline or of
//! the one that requests see; what it adds is words. It does no I/O and changes nothing: a payment is
//! read and checked as far as that goes without a facilitator and a ledger.
//!
//! No secret is in the text (R13): a challenge is public, and of a payment only its payer, its nonce
//! and its verdict are told.

use super::add_line;
use crate::gate::{self, Facts, Outcome, Verdict};
use crate::http::respond::respond;
use crate::table::{ReportedState, RouteReport, Table};
use anyhow::bail;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use std::fmt;

/// Header of a challenge.
const PAYMENT_REQUIRED: &str = "payment-required";

/// Closed paths and refused offers that are told of one target.
const OTHERS: usize = 5;

/// Challenges are a few kilobytes.
const BODY_LIMIT: usize = 1 << 20;

/// The text being written, a line per step.
pub(super) struct Steps {
    text: String,
    /// What to say of a request that no route answers.
    unrouted: &'static str,
}

impl Steps {
    /// Of a table without a ledger.
    pub(super) const fn offline() -> Self {
        Self::new("no live route (closed paths live in the ledger, not here)")
    }

    /// Of the table that requests see.
    pub(super) const fn live() -> Self {
        Self::new("no live route")
    }

    const fn new(unrouted: &'static str) -> Self {
        Self {
            text: String::new(),
            unrouted,
        }
    }

    fn line(&mut self, what: fmt::Arguments<'_>) {
        add_line(&mut self.text, what);
    }

    pub(super) fn say(&mut self, step: &str, what: &str) {
        self.line(format_args!("{step:<12}{what}"));
    }

    pub(super) async fn decide(
        mut self,
        table: &Table,
        facts: &Facts<'_>,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> anyhow::Result<String> {
        let unpaid = gate::decide(table, facts, None, now);
        if let Some(class) = unpaid.ambiguity {
            self.say(
                "ambiguity",
                &format!("the views differ ({})", class.as_str()),
            );
        }
        match unpaid.route {
            Some(route) => {
                let offer = &route.offer;
                self.say("route", route.pattern());
                if !offer.name.is_empty() {
                    self.say("offer", &format!("{}/{}", offer.namespace, offer.name));
                }
                self.say(
                    "gate",
                    &format!(
                        "{:?}, {:?}, settle {:?}",
                        route.gate, route.state, route.settle
                    )
                    .to_lowercase(),
                );
                let row = table.report.row_of(route);
                if let Some(detail) = row.as_ref().and_then(|row| row.detail.as_deref()) {
                    self.say("problem", detail);
                }
                if route.upstream_auth.is_some() {
                    self.say(
                        "upstream",
                        "Authorization is answered to proven ingress only (M11)",
                    );
                }
            }
            None => self.say("route", self.unrouted),
        }
        self.say_others(table, facts);
        let paid = unpaid
            .route
            .is_some_and(|route| route.gate == gate::RouteGate::Paid);
        let outcome = match unpaid.verdict {
            Verdict::Done(outcome) => outcome,
            Verdict::Pay(_) => bail!("a decision without a payment asked to pay"),
        };
        if !paid || !gate::has_payment(headers) {
            if gate::has_payment(headers) {
                self.say("payment", "not read: nothing is sold here");
            }
            return self.answer(outcome, table).await;
        }
        let limit = table.settings.limits.payment_header_bytes;
        match gate::read_payment(headers, limit) {
            Ok(None) => self.answer(outcome, table).await,
            Err(error) => {
                self.say("payment", &format!("cannot be read: {error}"));
                let refused = unpaid.route.map_or(outcome, |route| {
                    gate::refuse_header(table, route, facts, &error)
                });
                self.answer(refused, table).await
            }
            Ok(Some(payment)) => {
                self.say(
                    "payment",
                    &format!("by {}, {:?}", payment.payer(), payment.version),
                );
                match gate::decide(table, facts, Some(&payment), now).verdict {
                    Verdict::Done(outcome) => self.answer(outcome, table).await,
                    Verdict::Pay(plan) => {
                        for (step, what) in plan.describe() {
                            self.say(step, &what);
                        }
                        self.say(
                            "response",
                            "200 once verified, claimed and settled; else as in docs/buyers.md",
                        );
                        Ok(self.text)
                    }
                }
            }
        }
    }

    /// What else says something about the target and answers nothing: closed paths, and offers that
    /// were refused.
    fn say_others(&mut self, table: &Table, facts: &Facts<'_>) {
        let others = table.report.others_at(&facts.target, facts.host.as_deref());
        for row in others.take(OTHERS) {
            let RouteReport {
                pattern,
                host,
                offer,
                ..
            } = row;
            let place = [host.as_deref().unwrap_or_default(), pattern].concat();
            let whose = match (&*offer.namespace, &*offer.name) {
                ("", "") => String::new(),
                (namespace, "") => format!(" of {namespace}"),
                (namespace, name) => format!(" of {namespace}/{name}"),
            };
            let why = row.detail.as_deref().or(row.reason).unwrap_or_default();
            let until = match row.closed_until {
                Some(until) if row.state == ReportedState::Closed => format!(" ({until})"),
                Some(_) | None => String::new(),
            };
            let step = if row.state == ReportedState::Closed {
                "closed"
            } else {
                "refused"
            };
            self.say(step, &format!("{place}{whose}: {why}{until}"));
        }
    }

    pub(super) async fn answer(
        mut self,
        outcome: Outcome,
        table: &Table,
    ) -> anyhow::Result<String> {
        self.say("outcome", outcome.name());
        let (head, body) = respond(outcome, table.settings.catalog_url.as_deref()).into_parts();
        self.say("response", &head.status.to_string());
        for (name, value) in &head.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            self.line(format_args!("    {name}: {value}"));
            // The one header that nobody reads as it stands.
            if let (true, Ok(json)) = (name == PAYMENT_REQUIRED, STANDARD.decode(value.as_bytes()))
            {
                let json = String::from_utf8_lossy(&json).into_owned();
                self.line(format_args!("    {name}, decoded: {json}"));
            }
        }
        let body = Limited::new(body, BODY_LIMIT).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the body cannot be read: {error}"))?;
        self.line(format_args!(
            "    {}",
            String::from_utf8_lossy(&body.to_bytes())
        ));
        Ok(self.text)
    }
}
