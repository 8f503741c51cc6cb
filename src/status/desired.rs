//! What our condition says about an offer: from its rows in the table's report, and from nothing
//! else. Pure, and the same for the same rows: no time and no generation of a table is in it, so a
//! reload that changes nothing for an offer changes nothing of its condition.
//!
//! The text is for a seller who reads `kubectl describe`: what is so, why, what to do. Rows name a
//! foreign owner only as "another namespace" (O7), and nothing is added to that here.

use crate::crd::{Condition, Reason};
use crate::table::{Gate, Report, ReportedState, RouteReport};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

/// Paths and problems that are named; the rest is counted.
const NAMED: usize = 5;
/// Longest message in characters; `kubectl describe` shows it whole.
const LONGEST: usize = 1_000;

/// The rows of one offer of the cluster, which stand together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OfferRows {
    pub(super) uid: Arc<str>,
    pub(super) range: Range<usize>,
}

/// The offers of the cluster in a report, by rows that stand together. Rows of paths that were left
/// may be among them; there is no [`condition`] of such.
pub(super) fn offers(report: &Report) -> impl Iterator<Item = OfferRows> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let (start, first) = (at, report.offer(at)?);
            at += 1;
            while report
                .offer(at)
                .is_some_and(|next| Arc::ptr_eq(next, first))
            {
                at += 1;
            }
            if let Some(uid) = first.uid.clone() {
                let range = start..at;
                return Some(OfferRows { uid, range });
            }
        }
    })
}

/// The rows of one offer.
pub(super) fn rows(report: &Report, range: Range<usize>) -> Vec<Cow<'_, RouteReport>> {
    range.filter_map(|position| report.row(position)).collect()
}

/// Everything of the rows that [`condition`] reads, in eight bytes: cheaper than the text.
pub(super) fn digest(rows: &[Cow<'_, RouteReport>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for row in rows {
        (row.offer_generation, row.state, row.reason, &row.detail).hash(&mut hasher);
        row.drains_until.hash(&mut hasher);
        (&row.host, &row.pattern, row.gate).hash(&mut hasher);
        for option in &row.accepts {
            (&option.price, &option.symbol, &option.network).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// The condition; `None` of no rows, and of a path that was left: only an object has a generation.
pub(super) fn condition(rows: &[Cow<'_, RouteReport>]) -> Option<Condition> {
    let generation = rows.first()?.offer_generation?;
    let reason = rows.iter().map(|row| reason(row)).max()?;
    let mut message = format!("generation {generation}: ");
    message.push_str(&sentence(reason, rows));
    Some(Condition {
        reason,
        message: cut(message),
        generation,
    })
}

fn reason(row: &RouteReport) -> Reason {
    match (row.state, row.reason) {
        (ReportedState::Closed, _) => Reason::Withdrawn,
        (ReportedState::Draining, _) => Reason::Draining,
        (ReportedState::Live, None) => Reason::Enforced,
        (
            ReportedState::Live | ReportedState::Conflict | ReportedState::Misconfigured,
            Some(code),
        ) => Reason::of(code),
        (ReportedState::Conflict | ReportedState::Misconfigured, None) => Reason::InvalidSpec,
    }
}

fn sentence(reason: Reason, rows: &[Cow<'_, RouteReport>]) -> String {
    match reason {
        Reason::Enforced => format!("enforced on {}", list(rows.iter().map(|row| terms(row)))),
        Reason::Shadowed => format!("enforced, but not as written: {}", problems(rows)),
        Reason::Draining => {
            let until = rows.iter().filter_map(|row| row.drains_until).max();
            let until = until.map_or("the grace ends".to_owned(), |until| until.to_string());
            format!(
                "draining: requests without a payment are refused with 503, payments of buyers who \
                 know the price are served until {until}, then its paths answer 410; to go on \
                 selling, remove spec.drainAt"
            )
        }
        Reason::Withdrawn => format!("withdrawn: {}", problems(rows)),
        Reason::PathConflict | Reason::PathReserved | Reason::ReservedPath => {
            format!(
                "not served, no route of this offer is in use: {}",
                problems(rows)
            )
        }
        Reason::OperatorConfiguration
        | Reason::UpstreamSecret
        | Reason::ForeignUpstream
        | Reason::InvalidPrice
        | Reason::InvalidPayment
        | Reason::InvalidPath
        | Reason::InvalidSpec => {
            let closed = rows
                .iter()
                .filter(|row| row.state == ReportedState::Misconfigured);
            let which = match (closed.count(), rows.len()) {
                (closed, all) if closed == all => "its paths answer".to_owned(),
                (closed, all) => format!("{closed} of {all} routes answer"),
            };
            format!(
                "{which} 503 to everybody until this is repaired: {}",
                problems(rows)
            )
        }
    }
}

/// What a route asks for.
fn terms(row: &RouteReport) -> String {
    let mut text = row.host.as_deref().unwrap_or_default().to_owned();
    text.push_str(&row.pattern);
    let price = match (row.gate, row.accepts.first()) {
        (Gate::Free, _) => "free".to_owned(),
        (Gate::Auth, _) => "sign-in".to_owned(),
        (Gate::Paid, None) => "paid".to_owned(),
        (Gate::Paid, Some(first)) => {
            let more = match row.accepts.len() {
                1 => "",
                _ => " or others",
            };
            format!(
                "{} {} on {}{more}",
                first.price, first.symbol, first.network
            )
        }
    };
    // A String takes all that is written to it.
    let _infallible = write!(text, " ({price})");
    text
}

/// What is wrong, each thing once, in the order of the routes.
fn problems(rows: &[Cow<'_, RouteReport>]) -> String {
    let mut told = BTreeSet::new();
    let distinct = rows.iter().filter_map(|row| {
        let detail = row.detail.as_deref().or(row.reason)?;
        told.insert(detail).then(|| detail.to_owned())
    });
    list(distinct)
}

fn list(texts: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = texts.collect();
    let named = all
        .get(..NAMED.min(all.len()))
        .unwrap_or_default()
        .join("; ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}; and {more} more"),
    }
}

fn cut(message: String) -> String {
    match message.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} ...", message.get(..end).unwrap_or_default()),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offer::{Owner, Settle};
    use crate::table::{AcceptReport, OfferIdentity};

    fn entry(uid: &str) -> Arc<OfferIdentity> {
        Arc::new(OfferIdentity::of_namespace(
            "a".into(),
            "b".into(),
            uid.into(),
        ))
    }

    fn live(offer: &Arc<OfferIdentity>, pattern: &str) -> RouteReport {
        RouteReport {
            pattern: pattern.into(),
            host: None,
            source: "kube",
            offer: offer.clone(),
            offer_generation: Some(3),
            owner: Owner::Namespace("a".into()),
            state: ReportedState::Live,
            gate: Gate::Paid,
            settle: Settle::Before,
            accepts: vec![AcceptReport {
                network: "eip155:84532".into(),
                asset: "0x".into(),
                symbol: "USDC".into(),
                amount: "1000".to_owned(),
                price: "0.001".into(),
                pay_to: "0x".into(),
            }],
            reason: None,
            detail: None,
            drains_until: None,
            closed_since: None,
            closed_until: None,
        }
    }

    fn with(
        mut row: RouteReport,
        state: ReportedState,
        code: &'static str,
        detail: &str,
    ) -> RouteReport {
        (row.state, row.reason, row.detail) = (state, Some(code), Some(detail.to_owned()));
        row
    }

    fn made(rows: &[RouteReport]) -> Condition {
        let rows: Vec<_> = rows.iter().map(Cow::Borrowed).collect();
        condition(&rows).unwrap()
    }

    #[test]
    fn an_offer_that_is_served_says_what_it_charges() {
        let offer = entry("u");
        let mut free = live(&offer, "/services/b/docs/*");
        free.gate = Gate::Free;
        let condition = made(&[live(&offer, "/services/b/*"), free]);
        assert_eq!(
            (condition.reason, condition.status()),
            (Reason::Enforced, "True")
        );
        assert_eq!(
            condition.message,
            "generation 3: enforced on /services/b/* (0.001 USDC on eip155:84532); \
             /services/b/docs/* (free)"
        );
    }

    #[test]
    fn of_several_reasons_the_greatest_is_told_and_every_problem_once() {
        let offer = entry("u");
        let broken = with(
            live(&offer, "/x"),
            ReportedState::Misconfigured,
            "invalid_price",
            "spec.x is 0: write a price",
        );
        let condition = made(&[live(&offer, "/services/b/*"), broken.clone(), broken]);
        assert_eq!(condition.reason, Reason::InvalidPrice);
        assert_eq!(
            condition.message,
            "generation 3: 2 of 3 routes answer 503 to everybody until this is repaired: \
             spec.x is 0: write a price"
        );
    }

    /// O7: the row's words, and no others.
    #[test]
    fn a_conflict_names_no_other_tenant() {
        let row = with(
            live(&entry("u"), "/p"),
            ReportedState::Conflict,
            "PathConflict",
            "/p belongs to another namespace: choose another path",
        );
        let condition = made(&[row]);
        assert_eq!(condition.reason, Reason::PathConflict);
        assert!(
            condition
                .message
                .ends_with("another namespace: choose another path"),
            "{}",
            condition.message
        );
    }

    #[test]
    fn an_offer_that_was_paused_or_drains_says_how_to_go_on_and_when_it_ends() {
        let offer = entry("u");
        let mut draining = live(&offer, "/p");
        draining.state = ReportedState::Draining;
        draining.drains_until = Some("2026-12-01T00:00:00Z".parse().unwrap());
        let condition = made(std::slice::from_ref(&draining));
        assert_eq!(condition.reason, Reason::Draining);
        assert!(
            condition
                .message
                .contains("until 2026-12-01T00:00:00Z, then")
        );
        assert!(condition.message.contains("spec.drainAt"));
        let mut longer = draining.clone();
        longer.drains_until = Some("2026-12-02T00:00:00Z".parse().unwrap());
        let digest_of = |row: &RouteReport| digest(&[Cow::Borrowed(row)]);
        assert_ne!(digest_of(&draining), digest_of(&longer));

        let closed = ReportedState::Closed;
        let paused = with(
            live(&offer, "/p"),
            closed,
            "paused",
            "take back spec.paused",
        );
        let condition = made(&[paused.clone(), paused]);
        assert_eq!(condition.reason, Reason::Withdrawn);
        assert_eq!(
            condition.message,
            "generation 3: withdrawn: take back spec.paused"
        );
    }

    #[test]
    fn a_message_has_an_end() {
        let offer = entry("u");
        let many: Vec<_> = (0..40)
            .map(|n| {
                with(
                    live(&offer, "/p"),
                    ReportedState::Misconfigured,
                    "x",
                    &format!("{n}{}", "é".repeat(400)),
                )
            })
            .collect();
        let message = made(&many).message;
        assert!(message.chars().count() <= LONGEST + 4, "{}", message.len());
        let few: Vec<_> = (0..7)
            .map(|n| {
                with(
                    live(&offer, "/p"),
                    ReportedState::Misconfigured,
                    "x",
                    &format!("p{n}"),
                )
            })
            .collect();
        assert!(made(&few).message.ends_with("p4; and 2 more"));
    }

    #[test]
    fn rows_of_the_file_and_of_closed_paths_are_nobodys() {
        let (first, second) = (entry("u"), entry("v"));
        let mut file = live(
            &Arc::new(OfferIdentity::of_operator("".into(), "".into())),
            "/f",
        );
        file.offer_generation = None;
        let mut closed = live(&entry("u"), "/old");
        closed.offer_generation = None;
        let rows_of_all = vec![
            file,
            live(&first, "/1"),
            live(&first, "/2"),
            live(&second, "/3"),
            closed,
        ];
        let report = Report::new(Vec::new(), rows_of_all);
        let found: Vec<_> = offers(&report)
            .filter(|offer| condition(&rows(&report, offer.range.clone())).is_some())
            .map(|offer| (offer.uid.to_string(), offer.range))
            .collect();
        assert_eq!(found, [("u".to_owned(), 1..3), ("v".to_owned(), 3..4)]);
    }

    #[test]
    fn a_digest_changes_with_whatever_the_text_says() {
        let offer = entry("u");
        let of = |row: &RouteReport| digest(&[Cow::Borrowed(row)]);
        let row = live(&offer, "/p");
        let mut generation = row.clone();
        generation.offer_generation = Some(4);
        let mut price = row.clone();
        price.accepts[0].price = "0.002".into();
        let conflict = with(row.clone(), ReportedState::Conflict, "PathConflict", "x");
        assert_eq!(of(&row), of(&live(&entry("u"), "/p")));
        for other in [generation, price, conflict] {
            assert_ne!(of(&row), of(&other));
        }
    }
}
