//! The ports of the gate: what it needs of a facilitator and of a ledger.
//!
//! Adapters (`facilitator.rs`, `ledger/`) implement these traits and decide nothing: a facilitator
//! reports what was said and whether bytes were sent, a ledger performs one named transition per
//! call. The money rules (M1 to M14) live in the gate.

use crate::money::{Amount, TransferMethod};
use crate::x402::{Endpoint, SettleResponse, VerifyResponse};
use alloy_primitives::{Address, B256, U256};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use crate::table::PathRecord;

/// Verifies and settles payments.
pub trait Facilitator: Send + Sync + 'static {
    /// `POST /verify`. May be repeated by the adapter when nothing was sent.
    fn verify(
        &self,
        endpoint: &Arc<Endpoint>,
        body: bytes::Bytes,
        trace: &Trace,
        deadline: Instant,
    ) -> impl Future<Output = VerifyReply> + Send;

    /// `POST /settle`. Repeated by the adapter only when provably nothing was sent.
    fn settle(
        &self,
        endpoint: &Arc<Endpoint>,
        body: bytes::Bytes,
        trace: &Trace,
        deadline: Instant,
    ) -> impl Future<Output = SettleReply> + Send;
}

/// How other systems' logs name the request that pays; it goes along to the facilitator, so that
/// one search finds all of a payment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    named: [Option<HeaderValue>; 2],
}

/// Headers that name a request, as proxies and OpenTelemetry write them.
const TRACE_HEADERS: [HeaderName; 2] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
];
/// Longest name that is carried on.
const MAX_TRACE: usize = 128;

impl Trace {
    /// What the headers of a request say, where they say one thing in a few visible letters.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let named = TRACE_HEADERS.map(|name| {
            let mut values = headers.get_all(name).iter();
            let only = values.next().filter(|_| values.next().is_none());
            only.filter(|value| {
                let bytes = value.as_bytes();
                (1..=MAX_TRACE).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
            })
            .cloned()
        });
        Self { named }
    }

    /// The headers that carry it on.
    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, &HeaderValue)> {
        let pairs = TRACE_HEADERS.into_iter().zip(&self.named);
        pairs.filter_map(|(name, value)| value.as_ref().map(|value| (name, value)))
    }
}

/// What came of a verify call.
#[derive(Debug, Clone)]
pub enum VerifyReply {
    /// A JSON verdict, whatever the status (M4).
    Verdict(VerifyResponse),
    /// No verdict.
    Fault(Fault),
}

/// What came of a settle call.
#[derive(Debug, Clone)]
pub enum SettleReply {
    /// A JSON verdict, whatever the status (M4).
    Verdict(SettleResponse),
    /// The request was never sent: money cannot have moved.
    NotSent(Fault),
    /// 401, 403 or 429 without a verdict: the facilitator did not act (M4).
    Declined(Fault),
    /// Sent, and no verdict came: money may have moved.
    Unknown(Fault),
}

/// A facilitator failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Class; decides status and reason.
    pub kind: FaultKind,
    /// `Retry-After` of the facilitator, bounded.
    pub retry_after: Option<Duration>,
    /// What happened, bounded, printable, no secrets.
    pub detail: String,
}

/// Class of a [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Refused, unresolvable, reset, closed: 503 `facilitator_unreachable`.
    Unreachable,
    /// Deadline: 504 `facilitator_timeout`.
    Timeout,
    /// 401, 403, 3xx, HTML, oversize, nonsense: 502 `facilitator_error`.
    Error,
    /// 429: 503 `facilitator_unreachable` with Retry-After.
    RateLimited,
}

/// Identity of an authorisation, as bytes (M2). No signature, no letter case, no version in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClaimKey {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Transfer method.
    pub method: TransferMethod,
    /// The token for EIP-3009, Permit2 itself for Permit2.
    pub contract: Address,
    /// Payer.
    pub payer: Address,
    /// Nonce as 256 bits.
    pub nonce: U256,
}

/// What a credit is bound to (M6).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CreditScope {
    /// Payer.
    pub payer: Address,
    /// `RouteEntry::key`.
    pub route: Arc<str>,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Token.
    pub asset: Address,
    /// Atomic units.
    pub amount: Amount,
}

/// A new claim.
#[derive(Debug, Clone)]
pub struct NewClaim {
    /// Key.
    pub key: ClaimKey,
    /// SHA-256 of the payload bytes.
    pub payload_hash: B256,
    /// Scope: payer, route, asset, amount.
    pub scope: CreditScope,
    /// Recipient.
    pub pay_to: Address,
    /// Offer namespace and name, for totals.
    pub offer: (Arc<str>, Arc<str>),
    /// End of validity, Unix seconds, saturated to `i64::MAX`.
    pub valid_before: i64,
    /// Whether it will be settled (`false` for `settle: never`).
    pub settles: bool,
    /// How long the claim (and each later step) is protected from other replicas.
    pub lease: Duration,
    /// Whether a credit of the scope may be spent by this payment (M6).
    pub may_spend_credit: bool,
}

/// State of a row (M3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClaimState {
    /// Claimed, nothing sent.
    Claimed,
    /// About to be or being settled.
    Settling,
    /// Money moved, no answer committed: a credit of its payer once its waiter is gone.
    Owed,
    /// Answer committed. Final.
    Answered,
    /// Nothing moved; may be claimed again.
    Released,
    /// Spent another payment's credit, itself unsettled. Final.
    CreditSpent,
    /// Money may have moved; ends by proof (M7).
    Unknown,
    /// Used by a transaction that is not ours. Final.
    SpentElsewhere,
}

/// A row as the gate sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRow {
    /// State, leases already applied (an expired `Claimed` reads as `Released`, an expired
    /// `Settling` as `Unknown`).
    pub state: ClaimState,
    /// Payload hash of the payment that claimed it.
    pub payload_hash: B256,
    /// Transaction, once known.
    pub transaction: Option<String>,
}

/// Token of ownership of a claimed row; every later step names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimOwner(pub [u8; 16]);

/// What a claim attempt found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The row is ours, `Claimed`.
    Claimed(ClaimOwner),
    /// The key exists in a state that cannot be claimed.
    Taken(ClaimRow),
    /// A credit of the scope was spent: this row is `CreditSpent`, the credit's row `Answered`.
    CreditSpent {
        /// Who may give it back with [`Ledger::abandon`], should nobody be there to answer.
        owner: ClaimOwner,
        /// Transaction that had paid.
        transaction: String,
    },
    /// An earlier settlement of this payer for this route is unknown; nothing was written (M6).
    UnknownOutstanding,
}

/// Result of a step that names state and owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// One row changed.
    Done,
    /// No row was in that state with that owner: stop.
    Lost,
}

/// Result of booking a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Booked {
    /// `Owed` now.
    Owed,
    /// (network, transaction) is booked for another payment: the row is `Unknown` now (M3).
    DuplicateTransaction,
    /// No row was ours in `Settling`.
    Lost,
}

/// Permanent totals of one offer and asset, pruned rows included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Total {
    /// Offer namespace.
    pub namespace: String,
    /// Offer name.
    pub name: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Token.
    pub asset: Address,
    /// Settled payments.
    pub count: u64,
    /// Settled atomic units.
    pub amount: u128,
    /// Unix seconds of the last settlement.
    pub last_success: u64,
}

/// A closed path that the operator released (R4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Its number in the ledger; each release has a greater one.
    pub seq: u64,
    /// The path as it was closed.
    pub path: PathRecord,
}

/// The ledger cannot do its work: 503 `ledger_unavailable`, never a pass (R1).
#[derive(Debug, thiserror::Error)]
#[error("the ledger cannot {operation}")]
pub struct LedgerError {
    /// What was tried (`claim a payment`).
    pub operation: &'static str,
    /// Cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Claims, credits and known paths. Each method is one atomic transition.
pub trait Ledger: Send + Sync + 'static {
    /// Read-only look-up of a key (M1).
    fn lookup(
        &self,
        key: &ClaimKey,
    ) -> impl Future<Output = Result<Option<ClaimRow>, LedgerError>> + Send;

    /// Claims a verified payment: one INSERT (or UPDATE of a `Released` row). In the same
    /// transaction: an unknown of the scope's payer and route stops it, a credit of the scope is
    /// spent instead (M6).
    fn claim(
        &self,
        claim: &NewClaim,
    ) -> impl Future<Output = Result<ClaimOutcome, LedgerError>> + Send;

    /// `Claimed -> Settling`, durable when it returns (M3). Renews the lease.
    fn begin_settle(
        &self,
        key: &ClaimKey,
        owner: ClaimOwner,
        lease: Duration,
    ) -> impl Future<Output = Result<Step, LedgerError>> + Send;

    /// `Settling -> Owed` with its transaction, durable. `waiter` is how long the row is kept from
    /// being a credit because a request still waits for it; zero when nobody waits.
    fn book_settled(
        &self,
        key: &ClaimKey,
        owner: ClaimOwner,
        transaction: &str,
        waiter: Duration,
    ) -> impl Future<Output = Result<Booked, LedgerError>> + Send;

    /// The waiter of an `Owed` row is gone: it is a credit from now on. Of a `CreditSpent` row: the
    /// credit it spent was not answered and is one again, the row itself is `Released`.
    fn abandon(
        &self,
        key: &ClaimKey,
        owner: ClaimOwner,
    ) -> impl Future<Output = Result<Step, LedgerError>> + Send;

    /// `Owed -> Answered` (or `Claimed -> Answered` for `settle: never`): the one compare-and-set
    /// before the first byte of a 2xx (M5), durable.
    fn answer(
        &self,
        key: &ClaimKey,
        owner: ClaimOwner,
    ) -> impl Future<Output = Result<Step, LedgerError>> + Send;

    /// `Claimed -> Released` or `Settling -> Released`: nothing moved, by proof.
    fn release(
        &self,
        key: &ClaimKey,
        owner: ClaimOwner,
    ) -> impl Future<Output = Result<Step, LedgerError>> + Send;

    /// `Settling -> Unknown`, with a transaction when one was named.
    fn mark_unknown(
        &self,
        key: &ClaimKey,
        owner: ClaimOwner,
        transaction: Option<&str>,
    ) -> impl Future<Output = Result<Step, LedgerError>> + Send;

    /// All remembered paths (R4).
    fn paths(&self) -> impl Future<Output = Result<Vec<PathRecord>, LedgerError>> + Send;

    /// What the operator released after number `after` (0: everything that is kept), in order. A gate
    /// asks again and again; the records are gone from [`paths`](Self::paths) already.
    fn releases(
        &self,
        after: u64,
    ) -> impl Future<Output = Result<Vec<Release>, LedgerError>> + Send;

    /// Writes and forgets remembered paths in one transaction.
    fn save_paths(
        &self,
        changes: &[PathRecord],
        removals: &[PathRecord],
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Applies expired leases, prunes final rows past `validBefore` plus a margin into the totals,
    /// and counts what is open.
    fn upkeep(&self, now: Timestamp) -> impl Future<Output = Result<Upkeep, LedgerError>> + Send;

    /// Totals per offer and asset.
    fn totals(&self) -> impl Future<Output = Result<Vec<Total>, LedgerError>> + Send;
}

/// What upkeep saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Upkeep {
    /// Rows `Unknown`.
    pub unknown: u64,
    /// Rows `Owed` without a waiter: open credits.
    pub credits: u64,
    /// Rows pruned into the totals.
    pub pruned: u64,
}

impl ClaimKey {
    /// 81 bytes: chain id (big endian), method (0 EIP-3009, 1 Permit2), contract, payer, nonce.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 81] {
        let mut bytes = [0; 81];
        let method = match self.method {
            TransferMethod::Eip3009 => 0,
            TransferMethod::Permit2 => 1,
        };
        let parts: [&[u8]; 5] = [
            &self.chain_id.to_be_bytes(),
            &[method],
            self.contract.as_slice(),
            self.payer.as_slice(),
            &self.nonce.to_be_bytes::<32>(),
        ];
        for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }
}

impl std::fmt::Debug for ClaimKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ClaimKey(eip155:{} {} nonce {})",
            self.chain_id, self.payer, self.nonce
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_carries_what_names_one_request_in_a_few_visible_letters() {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static("00-0a-0b-01"));
        let mut given = |value: &str| {
            headers.insert("x-request-id", HeaderValue::from_str(value).unwrap());
            let trace = Trace::of(&headers);
            trace.headers().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(given("r-1"), ["x-request-id", "traceparent"]);
        for refused in ["", "two words", &"r".repeat(MAX_TRACE + 1)] {
            assert_eq!(given(refused), ["traceparent"], "{refused:?}");
        }
        headers.append("traceparent", HeaderValue::from_static("00-0c-0d-01"));
        assert_eq!(Trace::of(&headers), Trace::default());
    }
}
