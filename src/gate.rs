//! The gate: what a request may do, and what money must move first.
//!
//! Two halves. [`decide`] is pure and total: a table, the facts of a request and perhaps a decoded
//! payment go in, a [`Decision`] comes out; `serve` and `explain` call the same function. What it
//! cannot decide without I/O it returns as a [`Plan`], and [`Gate::answer`] carries the plan out by
//! the money rules (M1 to M14): verify, claim, settle, commit the answer.
//!
//! It is not a proxy and knows neither HTTP servers nor SQL: the facilitator and the ledger are
//! ports, and an [`Outcome`] becomes a response elsewhere.
//!
//! Invariants:
//! - A 2xx on a paid route needs a [`Permit`], and only this module can make one (R1).
//! - A payment header is read only where it can buy something; on a free or closed path it is not.
//! - Every fault of ours is `Unavailable` and carries no challenge (R9).
//!
//! Failure: the port errors are values; each has a row in the status table of the design.

mod answer;
mod flight;
mod lanes;
mod payment;
mod ports;
mod preflight;
mod reason;
mod settlement;
mod verdict;

use crate::metrics::{Label, OutcomeLabel};
use crate::route::AmbiguityClass;
use crate::table::{self, Resolution, RouteEntry, RouteState};
use crate::x402::{Challenge, ChallengeTemplate, Failure, Payment, PaymentHeaderError, Receipt};
use alloy_primitives::Address;
use http::HeaderValue;
use jiff::Timestamp;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

pub use answer::{Gate, Request};
pub use payment::Plan;
pub use ports::{
    Booked, ClaimKey, ClaimOutcome, ClaimOwner, ClaimRow, ClaimState, CreditScope, Facilitator,
    Fault, FaultKind, Ledger, LedgerError, NewClaim, PathRecord, Release, SettleReply, Step, Total,
    Trace, Upkeep, VerifyReply,
};
pub use preflight::{is_preflight, is_spelling_of};
pub use reason::Reason;

// What the faces and `explain` build a request from: part of this module's interface.
pub use crate::route::{Target, TargetError, normalize_host};
pub use crate::table::{Gate as RouteGate, HeaderSource, Pin, Settings, Table};
pub use crate::x402::{has_payment, read_payment};

/// What a request is, as far as the gate cares.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Forwarded method; empty when the header was missing (gated like any other).
    pub method: &'a str,
    /// Forwarded host, lower case, no port; what routes match.
    pub host: Option<Cow<'a, str>>,
    /// Forwarded host as sent, with its port; what `resource.url` shows.
    pub authority: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Forwarded target.
    pub target: Target<'a>,
    /// The offer that the ingress chose.
    pub pin: Option<Pin<'a>>,
    /// A CORS preflight in the strict sense: body-less OPTIONS with Origin and
    /// Access-Control-Request-Method, without a payment or method-override header.
    pub preflight: bool,
    /// The peer is a trusted proxy or knew the secret path segment (M11).
    pub proven_ingress: bool,
    /// `X-Forwarded-For`; part of what makes a copy "the same request" (M5).
    pub forwarded_for: &'a str,
}

/// What [`decide`] found.
#[derive(Debug)]
pub struct Decision<'t> {
    /// The answer, or what must be done for it.
    pub verdict: Verdict,
    /// The route it concerns, for counters.
    pub route: Option<&'t Arc<RouteEntry>>,
    /// Index of the payment option it concerns; the first when none was chosen.
    pub option: usize,
    /// Set when the views of the target differed.
    pub ambiguity: Option<AmbiguityClass>,
}

/// The answer, or what must be done for it.
#[derive(Debug)]
pub enum Verdict {
    /// No I/O is needed.
    Done(Outcome),
    /// A payment passed every local check and is to be verified, claimed and settled.
    Pay(Box<Plan>),
}

/// Everything a request can come to. One exhaustive match turns it into a response.
#[derive(Debug)]
pub enum Outcome {
    /// Passes without payment: a free route, a preflight, an unmatched path under `allow`.
    Free(FreePass),
    /// 402: payment required, none was presented.
    Challenge(Box<Challenge>),
    /// Passes, paid.
    Admit(Permit),
    /// The payment was refused; a fresh challenge says why (402, 400 or 412).
    PaymentRefused(Box<PaymentRefused>),
    /// The facilitator refused to settle: 402 with a receipt and no challenge.
    SettlementRejected(Box<SettlementRejected>),
    /// Refused without a challenge: 400, 401, 403, 409.
    Refused(Refusal),
    /// We, the facilitator or the ledger cannot: 502, 503, 504, never a challenge (R9).
    Unavailable(Refusal),
    /// 410: was sold here once (R4).
    Withdrawn(Refusal),
}

/// A pass without payment.
#[derive(Debug, Clone)]
pub struct FreePass {
    /// `Authorization` for the upstream, when the route has one and the peer may learn it (M11).
    pub upstream_auth: Option<HeaderValue>,
}

/// Proof that a request was paid for. Only the gate makes one.
///
/// ```compile_fail
/// let permit = x402_verifier::gate::Permit { payer: Default::default(), receipt: None,
///     upstream_auth: None, settled: x402_verifier::gate::Settled::Never, _made_by_the_gate: () };
/// ```
#[derive(Debug, Clone)]
#[expect(
    clippy::manual_non_exhaustive,
    reason = "the attribute would still let the rest of this crate make one"
)]
pub struct Permit {
    /// Who paid.
    pub payer: Address,
    /// The receipt; absent when nothing was settled (`never`).
    pub receipt: Option<Receipt>,
    /// `Authorization` for the upstream, when the peer may learn it (M11).
    pub upstream_auth: Option<HeaderValue>,
    /// When money moved; transport cannot choose otherwise.
    pub settled: Settled,
    _made_by_the_gate: (),
}

/// When the money of a [`Permit`] moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Before this answer, by this payment.
    Before,
    /// Earlier, by a payment of the same payer that got no answer (M6).
    ByCredit,
    /// Never: `verifyOnly` or `settle: never` (M10).
    Never,
}

/// A payment that was refused with a fresh challenge.
#[derive(Debug)]
pub struct PaymentRefused {
    /// Why.
    pub reason: Reason,
    /// The challenge, which carries the detail.
    pub challenge: Challenge,
}

/// A settlement that the facilitator refused by name.
#[derive(Debug)]
pub struct SettlementRejected {
    /// Receipt with `success: false`.
    pub receipt: Receipt,
    /// The facilitator's reason, bounded.
    pub detail: Option<String>,
}

/// A refusal without challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable code.
    pub reason: Reason,
    /// What exactly, when known; bounded, no secrets.
    pub detail: Option<String>,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
}

/// What a request means before anything is known of its payment: the first half of [`decide`].
enum Found<'t> {
    /// Payment changes nothing.
    Decided {
        outcome: Outcome,
        route: Option<&'t Arc<RouteEntry>>,
        ambiguity: Option<AmbiguityClass>,
    },
    /// It is a matter of payment.
    Priced(Priced<'t>),
}

/// A paid route that was asked for.
struct Priced<'t> {
    route: &'t Arc<RouteEntry>,
    template: &'t ChallengeTemplate,
    /// Sells to those who hold a payment, and asks nobody for a new one.
    draining: bool,
    ambiguity: Option<AmbiguityClass>,
}

/// What a request on `facts` means in `table`, given the payment it carries, at `now`.
///
/// No I/O, total, the same function for `serve` and `explain`. Without a payment a paid route is a
/// challenge; callers that hold a payment header decode it only then and ask again (a payment on a
/// free or closed path is not read). [`Gate::answer`] takes its two halves one by one instead, so
/// that a paid request is looked up once and no challenge is rendered for it.
#[must_use]
pub fn decide<'t>(
    table: &'t Table,
    facts: &Facts<'_>,
    payment: Option<&Payment>,
    now: Timestamp,
) -> Decision<'t> {
    match find(table, facts, now) {
        Found::Decided {
            outcome,
            route,
            ambiguity,
        } => Decision {
            verdict: Verdict::Done(outcome),
            route,
            option: 0,
            ambiguity,
        },
        Found::Priced(priced) => {
            let (verdict, option) = match payment {
                None => (Verdict::Done(priced.unpaid(table, facts)), 0),
                Some(payment) => priced.paid(table, facts, payment.clone(), now),
            };
            Decision {
                verdict,
                route: Some(priced.route),
                option,
                ambiguity: priced.ambiguity,
            }
        }
    }
}

/// The first half of [`decide`]: the route, and whether payment matters there.
fn find<'t>(table: &'t Table, facts: &Facts<'_>, now: Timestamp) -> Found<'t> {
    let resolved = table.resolve(&facts.target, facts.host.as_deref(), facts.pin, now);
    let ambiguity = resolved.ambiguity;
    let refused = |reason, detail: Option<&str>| Outcome::Refused(Refusal::new(reason, detail));
    let outcome = match resolved.resolution {
        Resolution::Route(route) => return find_on_route(route, facts, ambiguity, now),
        Resolution::Closed => withdrawn(),
        Resolution::NoRoute => refused(Reason::NoRoute, None),
        Resolution::UnknownPin => refused(Reason::UnknownOffer, None),
        Resolution::Ambiguous => refused(
            Reason::AmbiguousTarget,
            Some("proxies and servers read this target differently; send it in plain form"),
        ),
        Resolution::Unmatched => Outcome::Free(FreePass {
            upstream_auth: None,
        }),
    };
    Found::Decided {
        outcome,
        route: None,
        ambiguity,
    }
}

fn find_on_route<'t>(
    route: &'t Arc<RouteEntry>,
    facts: &Facts<'_>,
    ambiguity: Option<AmbiguityClass>,
    now: Timestamp,
) -> Found<'t> {
    let decided = |outcome| Found::Decided {
        outcome,
        route: Some(route),
        ambiguity,
    };
    let draining = match route.state {
        RouteState::Live => false,
        RouteState::Draining { until } if now < until => true,
        RouteState::Draining { .. } | RouteState::Withdrawn => return decided(withdrawn()),
        RouteState::Misconfigured => return decided(misconfigured()),
    };
    match route.gate {
        table::Gate::Free => {
            return decided(Outcome::Free(FreePass {
                upstream_auth: upstream_auth(route, facts),
            }));
        }
        table::Gate::Auth => {
            return decided(Outcome::Refused(Refusal::new(Reason::SignInRequired, None)));
        }
        table::Gate::Paid => {}
    }
    if facts.preflight && route.preflight_pass {
        return decided(Outcome::Free(FreePass {
            upstream_auth: None,
        }));
    }
    match &route.challenge {
        Some(template) => Found::Priced(Priced {
            route,
            template,
            draining,
            ambiguity,
        }),
        None => decided(misconfigured()),
    }
}

impl Priced<'_> {
    /// The outcome without a payment.
    fn unpaid(&self, table: &Table, facts: &Facts<'_>) -> Outcome {
        if self.draining {
            return Outcome::Unavailable(Refusal::new(Reason::OfferDraining, None));
        }
        let challenge = self.template.render(&facts.resource_url(table), None);
        Outcome::Challenge(Box::new(challenge))
    }

    /// The verdict on a payment, and the index of the payment option it concerns.
    fn paid(
        &self,
        table: &Table,
        facts: &Facts<'_>,
        payment: Payment,
        now: Timestamp,
    ) -> (Verdict, usize) {
        let resource_url = facts.resource_url(table);
        match payment::plan(table, self.route, facts, payment, &resource_url, now) {
            Ok(plan) => {
                let option = plan.option;
                (Verdict::Pay(Box::new(plan)), option)
            }
            Err(refused) => {
                let outcome = refuse_payment(self.route, &resource_url, &refused);
                (Verdict::Done(outcome), refused.option)
            }
        }
    }
}

/// A payment header that is no payment: 400 with a fresh challenge.
#[must_use]
pub fn refuse_header(
    table: &Table,
    route: &RouteEntry,
    facts: &Facts<'_>,
    error: &PaymentHeaderError,
) -> Outcome {
    let refused = payment::Refused {
        reason: Reason::InvalidPaymentHeader,
        detail: Some(error.to_string()),
        hint: Some(error.hint().to_owned()),
        option: 0,
    };
    refuse_payment(route, &facts.resource_url(table), &refused)
}

/// A payment refused with a fresh challenge; 503 when the route cannot be challenged any more.
pub(crate) fn refuse_payment(
    route: &RouteEntry,
    resource_url: &str,
    refused: &payment::Refused,
) -> Outcome {
    let Some(template) = &route.challenge else {
        return Outcome::Unavailable(Refusal::new(Reason::OfferMisconfigured, None));
    };
    let failure = Failure {
        reason: refused.reason.as_str(),
        error: refused.reason.sentence(),
        detail: refused.detail.clone(),
        hint: refused
            .hint
            .clone()
            .or_else(|| refused.reason.hint().map(str::to_owned)),
    };
    Outcome::PaymentRefused(Box::new(PaymentRefused {
        reason: refused.reason,
        challenge: template.render(resource_url, Some(&failure)),
    }))
}

fn withdrawn() -> Outcome {
    Outcome::Withdrawn(Refusal::new(Reason::OfferWithdrawn, None))
}

fn misconfigured() -> Outcome {
    Outcome::Unavailable(Refusal::new(Reason::OfferMisconfigured, None))
}

fn upstream_auth(route: &RouteEntry, facts: &Facts<'_>) -> Option<HeaderValue> {
    if facts.proven_ingress {
        route.upstream_auth.as_deref().cloned()
    } else {
        None
    }
}

impl Facts<'_> {
    /// `resource.url` of a challenge: `publicOrigin`, else forwarded proto and host.
    #[must_use]
    pub fn resource_url(&self, table: &Table) -> String {
        let raw = self.target.raw();
        // An absolute-form target already names its origin; the challenge shows the path of it.
        let path_and_query = if raw.starts_with('/') {
            raw
        } else {
            self.target.path()
        };
        let mut url = String::with_capacity(self.authority.len() + path_and_query.len() + 16);
        if let Some(origin) = &table.settings.public_origin {
            url.push_str(origin);
        } else {
            url.push_str(self.scheme);
            url.push_str("://");
            url.push_str(self.authority);
        }
        url.push_str(path_and_query);
        url
    }
}

impl Refusal {
    /// A refusal without `Retry-After`.
    #[must_use]
    pub fn new(reason: Reason, detail: Option<&str>) -> Self {
        Self {
            reason,
            detail: detail.map(str::to_owned),
            retry_after: reason.retry_after(),
        }
    }

    /// The same with a detail made for this request.
    #[must_use]
    pub fn with_detail(reason: Reason, detail: String) -> Self {
        Self {
            reason,
            detail: Some(detail),
            retry_after: reason.retry_after(),
        }
    }
}

impl Outcome {
    /// Name of the outcome: the metric label and the log field.
    #[must_use]
    pub const fn label(&self) -> OutcomeLabel {
        match self {
            Self::Free(_) => OutcomeLabel::Free,
            Self::Challenge(_) => OutcomeLabel::Challenge,
            Self::Admit(_) => OutcomeLabel::Admit,
            Self::PaymentRefused(_) => OutcomeLabel::PaymentRefused,
            Self::SettlementRejected(_) => OutcomeLabel::SettlementRejected,
            Self::Refused(_) => OutcomeLabel::Refused,
            Self::Unavailable(_) => OutcomeLabel::Unavailable,
            Self::Withdrawn(_) => OutcomeLabel::Withdrawn,
        }
    }

    /// The label's text, for logs and people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.label().as_str()
    }

    /// The reason code it is answered with; `None` when the request passes.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Free(_) | Self::Admit(_) => None,
            Self::Challenge(_) => Some(Reason::PaymentRequired),
            Self::PaymentRefused(refused) => Some(refused.reason),
            Self::SettlementRejected(_) => Some(Reason::SettlementRejected),
            Self::Refused(refusal) | Self::Unavailable(refusal) | Self::Withdrawn(refusal) => {
                Some(refusal.reason)
            }
        }
    }
}
