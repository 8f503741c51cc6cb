//! Per-offer counters, owned by the table and incremented by the gate (R7).
//!
//! The counters are atomics: a rebuilt table takes over those whose UID and label block are
//! unchanged, and the page is rendered from the table that requests see. So no series
//! can outlive its offer and no in-flight request can bring one back; there is nothing to prune. The
//! `prometheus` crate's `*Vec` types cost 9 KiB an offer and seconds a scrape at 100,000 offers; these
//! cost a few hundred bytes and milliseconds.

pub(super) mod page;

use super::labels::{FailureReason, Label};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The label block shared by all per-offer families.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OfferLabels {
    /// `offer_namespace`.
    pub namespace: Arc<str>,
    /// `offer_name`.
    pub name: Arc<str>,
    /// `chain`, CAIP-2.
    pub chain: Arc<str>,
    /// `asset_symbol`, resolved.
    pub asset_symbol: Arc<str>,
    /// What is charged; shared, because offers outnumber assets.
    pub asset: Arc<AssetLabels>,
}

/// What an offer charges in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AssetLabels {
    /// Label `asset` of `charged_atomic_units_total` and `offer_info`, escaped.
    address: Box<str>,
    /// Label `decimals` of `offer_info`.
    decimals: u8,
}

impl AssetLabels {
    /// Of a token address, checksummed.
    #[must_use]
    pub fn new(address: &str, decimals: u8) -> Self {
        Self {
            address: escape(address).into(),
            decimals,
        }
    }

    /// The token address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// Counters of one label block of one offer; owned by the table, incremented by the gate (R7).
#[derive(Debug)]
pub struct OfferCounters {
    /// The four shared labels as they stand between the braces, escaped.
    block: Box<str>,
    /// Hash of `block`, so that grouping a page does not read the text.
    block_hash: u64,
    asset: Arc<AssetLabels>,
    requests: AtomicU64,
    payment_required: AtomicU64,
    payment_verified: AtomicU64,
    payment_failed: AtomicU64,
    charged_requests: AtomicU64,
    upstream_failed: AtomicU64,
    /// Unix seconds; 0 is never.
    last_success: AtomicU64,
    /// 128 bits, because 64 overflow at 18.4 tokens of 18 decimals. A lock, because two 64-bit
    /// halves can be read torn; it is taken once for each charged request and scrape.
    charged_units: Mutex<u128>,
    /// From the first failure on: most offers never have one.
    failure_reasons: OnceLock<Box<Failures>>,
}

/// By [`Label::index`].
type Failures = [AtomicU64; FailureReason::ALL.len()];

impl OfferCounters {
    /// Zeroed counters with the label block rendered.
    #[must_use]
    pub fn new(labels: &OfferLabels) -> Self {
        let block = [
            ("offer_namespace", &labels.namespace),
            ("offer_name", &labels.name),
            ("chain", &labels.chain),
            ("asset_symbol", &labels.asset_symbol),
        ]
        .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
        .join(",")
        .into_boxed_str();
        let mut hasher = DefaultHasher::new();
        block.hash(&mut hasher);
        Self {
            block,
            block_hash: hasher.finish(),
            asset: Arc::clone(&labels.asset),
            requests: AtomicU64::new(0),
            payment_required: AtomicU64::new(0),
            payment_verified: AtomicU64::new(0),
            payment_failed: AtomicU64::new(0),
            charged_requests: AtomicU64::new(0),
            upstream_failed: AtomicU64::new(0),
            last_success: AtomicU64::new(0),
            charged_units: Mutex::new(0),
            failure_reasons: OnceLock::new(),
        }
    }

    /// `requests_total`.
    pub fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// `payment_required_total`.
    pub fn payment_required(&self) {
        self.payment_required.fetch_add(1, Ordering::Relaxed);
    }

    /// `payment_verified_total`.
    pub fn payment_verified(&self) {
        self.payment_verified.fetch_add(1, Ordering::Relaxed);
    }

    /// `payment_failed_total` and `payment_failure_reasons_total{reason}`.
    pub fn payment_failed(&self, reason: FailureReason) {
        self.payment_failed.fetch_add(1, Ordering::Relaxed);
        let failures = self
            .failure_reasons
            .get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
        if let Some(counter) = failures.get(reason.index()) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// `charged_requests_total`, `charged_atomic_units_total`, `last_payment_success_seconds`.
    pub fn charged(&self, atomic_units: u128, unix_seconds: u64) {
        {
            let mut units = self
                .charged_units
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *units = units.saturating_add(atomic_units);
        }
        self.charged_requests.fetch_add(1, Ordering::Relaxed);
        self.last_success.fetch_max(unix_seconds, Ordering::Relaxed);
    }

    /// `upstream_failed_after_verify_total`.
    pub fn upstream_failed(&self) {
        self.upstream_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Restores `last_payment_success_seconds` from the ledger; never moves it back.
    pub fn restore_last_success(&self, unix_seconds: u64) {
        self.last_success.fetch_max(unix_seconds, Ordering::Relaxed);
    }

    fn charged_units(&self) -> u128 {
        *self
            .charged_units
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anything was ever asked or charged.
    fn is_active(&self) -> bool {
        self.requests.load(Ordering::Relaxed) != 0 || self.last_success.load(Ordering::Relaxed) != 0
    }
}

/// A label value as the exposition format wants it.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            other => escaped.push(other),
        }
    }
    escaped
}
