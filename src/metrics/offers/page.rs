//! The page of per-offer counters, written straight from them.
//!
//! Different offers may have one label block (file routes without names, two assets with one
//! symbol). Prometheus refuses a page with a duplicate series, so [`OfferPage`] sums them into one.
//! Two blocks are the same when their rendered text is.
//!
//! The page is an iterator of chunks of about [`CHUNK`] bytes, one family after the other as the
//! format demands; the whole page never exists in memory.

use super::{AssetLabels, OfferCounters};
use crate::metrics::labels::{FailureReason, Label};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Size at which a chunk of the page is handed on: large enough that the cost of passing it does
/// not matter, small enough that a scrape holds a worker for well under a millisecond at a time.
pub const CHUNK: usize = 128 * 1024;

/// Label blocks up to which reasons that are expected have their series from the start. Four zeros for
/// each of very many offers are a third of all series, and 10,000 offers are to be under 100,000.
pub(in crate::metrics) const ZERO_REASONS_UP_TO: usize = 8_000;

/// How much of the per-offer families a page shows (`metrics.perOffer`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PerOffer {
    /// Every live offer, zeros included.
    #[default]
    All,
    /// Only offers that had a request or a charge: for very large installations. The first
    /// increment of a series is then invisible to `increase()`.
    Active,
    /// No per-offer families.
    None,
}

/// The per-offer part of the metrics page, as chunks of text.
///
/// It keeps the counters it renders, not the table: a scrape that is slow to read pins nothing else.
#[derive(Debug)]
pub struct OfferPage {
    prefix: String,
    groups: Vec<Group>,
    /// Whether expected reasons are shown before they happened.
    zero_reasons: bool,
    family: usize,
    /// Next group of the family.
    position: usize,
    /// Whether HELP and TYPE of the family were written; they wait for its first series.
    announced: bool,
}

/// All counters with one label block; nearly always one.
#[derive(Debug)]
struct Group {
    first: Arc<OfferCounters>,
    others: Vec<Arc<OfferCounters>>,
}

/// Identity of a label block, for grouping.
struct BlockKey<'a> {
    hash: u64,
    block: &'a str,
}

/// One family of the page.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    series: Series,
}

/// How a family is read from the counters of a group.
enum Series {
    /// The sum of one counter.
    Sum(fn(&OfferCounters) -> u64),
    /// The latest time, absent when there is none.
    LastSuccess,
    /// One series for each reason that is expected or happened.
    Reasons,
    /// Charged units by asset.
    Units,
    /// The constant 1 by asset and decimals.
    Info,
}

/// The families in page order. Names and meanings are the predecessor's (compat 1.21), the last two
/// are ours.
const FAMILIES: &[Family] = &[
    Family {
        name: "requests_total",
        kind: "counter",
        help: "Requests evaluated by the x402 verifier for matched paid routes.",
        series: Series::Sum(|counters| counters.requests.load(Ordering::Relaxed)),
    },
    Family {
        name: "payment_required_total",
        kind: "counter",
        help: "Requests rejected with 402 because payment was required.",
        series: Series::Sum(|counters| counters.payment_required.load(Ordering::Relaxed)),
    },
    Family {
        name: "payment_verified_total",
        kind: "counter",
        help: "Requests approved after successful x402 payment verification.",
        series: Series::Sum(|counters| counters.payment_verified.load(Ordering::Relaxed)),
    },
    Family {
        name: "payment_failed_total",
        kind: "counter",
        help: "Requests rejected after a provided x402 payment failed, whoever's fault it was.",
        series: Series::Sum(|counters| counters.payment_failed.load(Ordering::Relaxed)),
    },
    Family {
        name: "charged_requests_total",
        kind: "counter",
        help: "Requests that incurred a paid x402 charge.",
        series: Series::Sum(|counters| counters.charged_requests.load(Ordering::Relaxed)),
    },
    Family {
        name: "last_payment_success_seconds",
        kind: "gauge",
        help: "Unix timestamp (seconds) of the most recent successful paid x402 charge.",
        series: Series::LastSuccess,
    },
    Family {
        name: "payment_failure_reasons_total",
        kind: "counter",
        help: "Payment failures split by reason code; rare reasons appear with their first failure.",
        series: Series::Reasons,
    },
    Family {
        name: "upstream_failed_after_verify_total",
        kind: "counter",
        help: "Paid requests whose x402 payment verified but whose upstream returned an error (not settled).",
        series: Series::Sum(|counters| counters.upstream_failed.load(Ordering::Relaxed)),
    },
    Family {
        name: "charged_atomic_units_total",
        kind: "counter",
        help: "Amount charged, in atomic units of the asset (see decimals of offer_info).",
        series: Series::Units,
    },
    Family {
        name: "offer_info",
        kind: "gauge",
        help: "What an offer charges in: asset address and decimals, always 1.",
        series: Series::Info,
    },
];

impl OfferPage {
    /// A page of `counters` in their order, with names under `prefix` (no trailing underscore).
    #[must_use]
    pub fn new<'a>(
        prefix: &str,
        counters: impl Iterator<Item = &'a Arc<OfferCounters>>,
        shown: PerOffer,
    ) -> Self {
        let mut groups = match shown {
            PerOffer::All | PerOffer::Active => group(counters),
            PerOffer::None => Vec::new(),
        };
        if shown == PerOffer::Active {
            groups.retain(|group| group.members().any(OfferCounters::is_active));
        }
        Self {
            prefix: prefix.to_owned(),
            zero_reasons: groups.len() <= ZERO_REASONS_UP_TO,
            groups,
            family: 0,
            position: 0,
            announced: false,
        }
    }
}

impl Iterator for OfferPage {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        // A group with many assets may overshoot the chunk; one with one asset has short lines.
        let mut text = String::with_capacity(CHUNK + 4096);
        while let Some(family) = FAMILIES.get(self.family) {
            let head = [&self.prefix, "_", family.name, "{"].concat();
            while let Some(group) = self.groups.get(self.position) {
                if text.len() >= CHUNK {
                    return Some(text);
                }
                self.position += 1;
                if !family.series.has(group, self.zero_reasons) {
                    continue;
                }
                if !self.announced {
                    family.announce(&self.prefix, &mut text);
                    self.announced = true;
                }
                family.write(&head, group, self.zero_reasons, &mut text);
            }
            self.family += 1;
            self.position = 0;
            self.announced = false;
        }
        (!text.is_empty()).then_some(text)
    }
}

impl Series {
    /// Whether a group has a line in the family.
    fn has(&self, group: &Group, zero_reasons: bool) -> bool {
        match self {
            Self::LastSuccess => group.last_success() != 0,
            Self::Reasons => zero_reasons || group.has_failed(),
            Self::Sum(_) | Self::Units | Self::Info => true,
        }
    }
}

impl Family {
    fn announce(&self, prefix: &str, text: &mut String) {
        let Self {
            name, kind, help, ..
        } = self;
        push(text, &["# HELP ", prefix, "_", name, " ", help, "\n"]);
        push(text, &["# TYPE ", prefix, "_", name, " ", kind, "\n"]);
    }

    /// The series of one group; `head` is the name with its opening brace.
    fn write(&self, head: &str, group: &Group, zero_reasons: bool, text: &mut String) {
        let open = [head, &group.first.block];
        let units = |text: &mut String, asset: &str, units: u128| {
            push(text, &open);
            push(text, &[",asset=\"", asset, "\""]);
            end_line(text, units);
        };
        let info = |text: &mut String, asset: &AssetLabels| {
            push(text, &open);
            push(text, &[",asset=\"", &asset.address, "\",decimals=\""]);
            number(text, asset.decimals.into());
            text.push_str("\"} 1\n");
        };
        match &self.series {
            Series::Sum(read) => {
                push(text, &open);
                end_line(text, group.sum(read));
            }
            Series::LastSuccess => {
                push(text, &open);
                end_line(text, group.last_success());
            }
            Series::Reasons => {
                for reason in FailureReason::ALL {
                    let count = group.failures(*reason);
                    if count != 0 || (zero_reasons && reason.is_expected()) {
                        push(text, &open);
                        push(text, &[",reason=\"", reason.as_str(), "\""]);
                        end_line(text, count);
                    }
                }
            }
            Series::Units => match group.only() {
                Some(one) => units(text, &one.asset.address, one.charged_units()),
                None => {
                    for (asset, sum) in group.units_by_asset() {
                        units(text, asset, sum);
                    }
                }
            },
            Series::Info => match group.only() {
                Some(one) => info(text, &one.asset),
                None => {
                    let assets: BTreeSet<_> = group.members().map(|one| &*one.asset).collect();
                    for asset in assets {
                        info(text, asset);
                    }
                }
            },
        }
    }
}

impl Group {
    fn new(first: &Arc<OfferCounters>) -> Self {
        Self {
            first: Arc::clone(first),
            others: Vec::new(),
        }
    }

    /// The set of a group of one.
    fn only(&self) -> Option<&OfferCounters> {
        self.others.is_empty().then_some(&*self.first)
    }

    /// A set that was named twice (by two routes of one offer) must not be summed with itself.
    fn count_each_set_once(&mut self) {
        self.others.sort_unstable_by_key(Arc::as_ptr);
        self.others.dedup_by(|one, other| Arc::ptr_eq(one, other));
        let first = &self.first;
        self.others.retain(|one| !Arc::ptr_eq(one, first));
    }

    fn members(&self) -> impl Iterator<Item = &OfferCounters> {
        std::iter::once(&self.first)
            .chain(&self.others)
            .map(Arc::as_ref)
    }

    fn sum(&self, read: impl Fn(&OfferCounters) -> u64) -> u64 {
        match self.only() {
            Some(one) => read(one),
            None => self.members().map(read).fold(0, u64::saturating_add),
        }
    }

    /// The latest, 0 when there is none.
    fn last_success(&self) -> u64 {
        let times = self.members();
        let times = times.map(|one| one.last_success.load(Ordering::Relaxed));
        times.max().unwrap_or_default()
    }

    /// Whether a series of a reason is above zero.
    fn has_failed(&self) -> bool {
        self.members()
            .any(|one| one.failure_reasons.get().is_some())
    }

    fn failures(&self, reason: FailureReason) -> u64 {
        self.sum(|one| {
            let failures = one.failure_reasons.get();
            let counter = failures.and_then(|failures| failures.get(reason.index()));
            counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
        })
    }

    fn units_by_asset(&self) -> BTreeMap<&str, u128> {
        let mut units = BTreeMap::<&str, u128>::new();
        for one in self.members() {
            let sum = units.entry(&*one.asset.address).or_default();
            *sum = sum.saturating_add(one.charged_units());
        }
        units
    }
}

/// Counters by label block, in the order in which each block came first.
fn group<'a>(counters: impl Iterator<Item = &'a Arc<OfferCounters>>) -> Vec<Group> {
    let counters: Vec<_> = counters.collect();
    let mut hashes: Vec<_> = counters.iter().map(|one| one.block_hash).collect();
    hashes.sort_unstable();
    let all_differ = hashes.is_sorted_by(|one, next| one < next);
    drop(hashes);
    if all_differ {
        // As it should be, and sorting numbers is quicker than a map of texts.
        return counters.into_iter().map(Group::new).collect();
    }
    let mut positions = HashMap::with_capacity(counters.len());
    let mut groups = Vec::<Group>::with_capacity(counters.len());
    for one in counters {
        let position = *positions
            .entry(BlockKey {
                hash: one.block_hash,
                block: &one.block,
            })
            .or_insert(groups.len());
        match groups.get_mut(position) {
            Some(group) => group.others.push(Arc::clone(one)),
            None => groups.push(Group::new(one)),
        }
    }
    for group in &mut groups {
        group.count_each_set_once();
    }
    groups
}

impl PartialEq for BlockKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.block == other.block
    }
}

impl Eq for BlockKey<'_> {}

impl Hash for BlockKey<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

fn push(text: &mut String, parts: &[&str]) {
    for part in parts {
        text.push_str(part);
    }
}

fn number(text: &mut String, value: u128) {
    let written = match u64::try_from(value) {
        Ok(value) => write!(text, "{value}"), // Several times quicker.
        Err(_beyond) => write!(text, "{value}"),
    };
    debug_assert!(written.is_ok(), "writing to a string cannot fail");
}

fn end_line(text: &mut String, value: impl Into<u128>) {
    match value.into() {
        // Nearly every series of a large page.
        0 => text.push_str("} 0\n"),
        value => {
            text.push_str("} ");
            number(text, value);
            text.push('\n');
        }
    }
}
