//! The ledger in memory: the port's words in their plainest form.
//!
//! One lock around everything, held for microseconds and never across an await. It forgets all at
//! the end of the process and never fails. Beside serving `--ledger memory` it is the yardstick
//! that the contract suite and the model hold next to the databases, so it does what they do and
//! nothing smarter.

use super::rows::{as_read, millis, seconds_before, transaction_key, until};
use super::{Clock, PRUNE_MARGIN, UNKNOWN_MARGIN};
use crate::gate::{
    Booked, ClaimKey, ClaimOutcome, ClaimOwner, ClaimRow, ClaimState, Ledger, LedgerError,
    NewClaim, PathRecord, Release, Step, Total, Upkeep,
};
use alloy_primitives::Address;
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(super) struct MemoryLedger {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rows: HashMap<ClaimKey, Row>,
    /// Rows that were sent to settle, by payer and route; the ended ones leave when next seen.
    open: HashMap<(Address, Arc<str>), Vec<ClaimKey>>,
    /// Transactions that paid, by (chain, hash), for good.
    booked: HashMap<(u64, String), ClaimKey>,
    paths: BTreeMap<PathId, PathRecord>,
    totals: BTreeMap<TotalId, Sum>,
    owners: u128,
}

#[derive(Debug)]
struct Row {
    claim: NewClaim,
    state: ClaimState,
    owner: Option<ClaimOwner>,
    /// Of a `CreditSpent` row: the credit it spent.
    spends: Option<ClaimKey>,
    /// Milliseconds. Of an `Owed` row: until when a waiter keeps it from being a credit.
    lease_until: i64,
    transaction: Option<String>,
    created_at: i64,
    settled_at: i64,
}

/// Host, pattern, namespace, name, UID.
type PathId = (Option<Arc<str>>, Arc<str>, Arc<str>, Arc<str>, Arc<str>);
/// Offer namespace, offer name, chain, asset.
type TotalId = (String, String, u64, Address);

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    count: u64,
    amount: u128,
    last_success: u64,
}

impl MemoryLedger {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            state: Mutex::default(),
        }
    }

    /// A poisoned lock is taken over: no critical section leaves a row half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the row of `key` and `owner` if `may` allows it.
    fn step(
        &self,
        key: &ClaimKey,
        owner: ClaimOwner,
        may: impl FnOnce(&Row, i64) -> bool,
        change: impl FnOnce(&mut Row, i64),
    ) -> Step {
        let now = millis(self.clock.now());
        match self.state().rows.get_mut(key) {
            Some(row) if row.owner == Some(owner) && may(row, now) => {
                change(row, now);
                Step::Done
            }
            Some(_) | None => Step::Lost,
        }
    }
}

impl Ledger for MemoryLedger {
    async fn lookup(&self, key: &ClaimKey) -> Result<Option<ClaimRow>, LedgerError> {
        let now = millis(self.clock.now());
        Ok(self.state().rows.get(key).map(|row| row.seen(now)))
    }

    async fn claim(&self, claim: &NewClaim) -> Result<ClaimOutcome, LedgerError> {
        let now = millis(self.clock.now());
        Ok(self.state().claim(claim, now))
    }

    async fn begin_settle(
        &self,
        key: &ClaimKey,
        owner: ClaimOwner,
        lease: Duration,
    ) -> Result<Step, LedgerError> {
        let now = millis(self.clock.now());
        let State { rows, open, .. } = &mut *self.state();
        let Some(row) = rows
            .get_mut(key)
            .filter(|row| row.owner == Some(owner) && row.is_live_claim(now) && row.claim.settles)
        else {
            return Ok(Step::Lost);
        };
        row.state = ClaimState::Settling;
        row.lease_until = until(now, lease);
        open.entry(buyer(&row.claim)).or_default().push(*key);
        Ok(Step::Done)
    }

    async fn book_settled(
        &self,
        key: &ClaimKey,
        owner: ClaimOwner,
        transaction: &str,
        waiter: Duration,
    ) -> Result<Booked, LedgerError> {
        let now = millis(self.clock.now());
        let transaction = transaction_key(transaction);
        let State { rows, booked, .. } = &mut *self.state();
        let Some(row) = rows.get_mut(key).filter(|row| row.owner == Some(owner)) else {
            return Ok(Booked::Lost);
        };
        if row.state == ClaimState::Owed && row.transaction.as_ref() == Some(&transaction) {
            return Ok(Booked::Owed);
        }
        if !row.is_settling() {
            return Ok(Booked::Lost);
        }
        let place = (row.claim.scope.chain_id, transaction.clone());
        row.transaction = Some(transaction);
        if booked.entry(place).or_insert(*key) == key {
            row.state = ClaimState::Owed;
            row.lease_until = until(now, waiter);
            row.settled_at = now / 1000;
            return Ok(Booked::Owed);
        }
        row.state = ClaimState::Unknown;
        row.owner = None;
        Ok(Booked::DuplicateTransaction)
    }

    async fn abandon(&self, key: &ClaimKey, owner: ClaimOwner) -> Result<Step, LedgerError> {
        let now = millis(self.clock.now());
        let State { rows, open, .. } = &mut *self.state();
        let Some(row) = rows.get_mut(key).filter(|row| row.owner == Some(owner)) else {
            return Ok(Step::Lost);
        };
        if row.state == ClaimState::CreditSpent {
            row.state = ClaimState::Released;
            row.owner = None;
            let credit = row.spends.take();
            if let Some(credit) = credit.and_then(|key| rows.get_mut(&key)) {
                credit.give_back(now);
                let open = open.entry(buyer(&credit.claim)).or_default();
                if !open.contains(&credit.claim.key) {
                    open.push(credit.claim.key);
                }
            }
            return Ok(Step::Done);
        }
        if row.state != ClaimState::Owed {
            return Ok(Step::Lost);
        }
        row.lease_until = now;
        Ok(Step::Done)
    }

    async fn answer(&self, key: &ClaimKey, owner: ClaimOwner) -> Result<Step, LedgerError> {
        Ok(self.step(
            key,
            owner,
            |row, now| {
                row.state == ClaimState::Owed || (row.is_live_claim(now) && !row.claim.settles)
            },
            |row, _| row.state = ClaimState::Answered,
        ))
    }

    async fn release(&self, key: &ClaimKey, owner: ClaimOwner) -> Result<Step, LedgerError> {
        Ok(self.step(
            key,
            owner,
            |row, now| row.is_live_claim(now) || row.is_settling(),
            |row, _| {
                row.state = ClaimState::Released;
                row.owner = None;
            },
        ))
    }

    async fn mark_unknown(
        &self,
        key: &ClaimKey,
        owner: ClaimOwner,
        transaction: Option<&str>,
    ) -> Result<Step, LedgerError> {
        Ok(self.step(
            key,
            owner,
            |row, _| row.is_settling(),
            |row, _| {
                row.state = ClaimState::Unknown;
                row.owner = None;
                row.transaction = transaction.map(transaction_key);
            },
        ))
    }

    async fn paths(&self) -> Result<Vec<PathRecord>, LedgerError> {
        Ok(self.state().paths.values().cloned().collect())
    }

    /// No command reaches into the memory of a process.
    async fn releases(&self, _after: u64) -> Result<Vec<Release>, LedgerError> {
        Ok(Vec::new())
    }

    async fn save_paths(
        &self,
        changes: &[PathRecord],
        removals: &[PathRecord],
    ) -> Result<(), LedgerError> {
        let mut state = self.state();
        for record in removals {
            state.paths.remove(&path_id(record));
        }
        for record in changes {
            state.paths.insert(path_id(record), record.clone());
        }
        Ok(())
    }

    async fn upkeep(&self, now: Timestamp) -> Result<Upkeep, LedgerError> {
        let lease_now = millis(self.clock.now());
        let over = seconds_before(millis(now), PRUNE_MARGIN);
        let State { rows, totals, .. } = &mut *self.state();
        let mut seen = Upkeep::default();
        rows.retain(|_, row| {
            row.state = row.seen(lease_now).state;
            if row.state == ClaimState::Released {
                row.owner = None;
            }
            if row.is_final() && row.claim.valid_before < over {
                if row.is_settled() {
                    add(totals, row);
                }
                seen.pruned += 1;
                return false;
            }
            if row.state == ClaimState::Unknown {
                seen.unknown += 1;
            } else if row.is_credit(lease_now) {
                seen.credits += 1;
            }
            true
        });
        Ok(seen)
    }

    async fn totals(&self) -> Result<Vec<Total>, LedgerError> {
        let state = self.state();
        let mut totals = state.totals.clone();
        for row in state.rows.values().filter(|row| row.is_settled()) {
            add(&mut totals, row);
        }
        Ok(totals
            .into_iter()
            .map(|((namespace, name, chain_id, asset), sum)| Total {
                namespace,
                name,
                chain_id,
                asset,
                count: sum.count,
                amount: sum.amount,
                last_success: sum.last_success,
            })
            .collect())
    }
}

impl State {
    fn claim(&mut self, claim: &NewClaim, now: i64) -> ClaimOutcome {
        if let Some(row) = self.rows.get(&claim.key) {
            let seen = row.seen(now);
            if seen.state != ClaimState::Released {
                return ClaimOutcome::Taken(seen);
            }
        }
        let open = self.open_rows(&buyer(claim));
        let valid_since = seconds_before(now, UNKNOWN_MARGIN);
        let mut rows = open.iter().filter_map(|key| self.rows.get(key));
        if claim.settles && rows.any(|row| row.blocks(valid_since, now)) {
            return ClaimOutcome::UnknownOutstanding;
        }
        let oldest = open
            .iter()
            .filter_map(|key| self.rows.get(key))
            .filter(|row| row.is_credit(now) && row.claim.scope == claim.scope)
            .min_by_key(|row| row.created_at)
            .map(|row| row.claim.key);
        // Unique is all an owner must be, inside one process.
        self.owners += 1;
        let owner = ClaimOwner(self.owners.to_be_bytes());
        if claim.may_spend_credit
            && let Some(credit) = oldest.and_then(|key| self.rows.get_mut(&key))
        {
            credit.state = ClaimState::Answered;
            let transaction = credit.transaction.clone().unwrap_or_default();
            let mut row = Row::new(claim, ClaimState::CreditSpent, Some(owner), now);
            row.spends = Some(credit.claim.key);
            self.rows.insert(claim.key, row);
            return ClaimOutcome::CreditSpent { owner, transaction };
        }
        self.rows.insert(
            claim.key,
            Row::new(claim, ClaimState::Claimed, Some(owner), now),
        );
        ClaimOutcome::Claimed(owner)
    }

    /// Keys of a buyer's rows that are settling, owed or unknown.
    fn open_rows(&mut self, buyer: &(Address, Arc<str>)) -> Vec<ClaimKey> {
        let Some(keys) = self.open.get_mut(buyer) else {
            return Vec::new();
        };
        keys.retain(|key| self.rows.get(key).is_some_and(Row::is_open));
        let open = keys.clone();
        if open.is_empty() {
            self.open.remove(buyer);
        }
        open
    }
}

impl Row {
    fn new(claim: &NewClaim, state: ClaimState, owner: Option<ClaimOwner>, now: i64) -> Self {
        Self {
            claim: claim.clone(),
            state,
            owner,
            spends: None,
            lease_until: until(now, claim.lease),
            transaction: None,
            created_at: now,
            settled_at: 0,
        }
    }

    fn seen(&self, now: i64) -> ClaimRow {
        ClaimRow {
            state: as_read(self.state, self.lease_until, now),
            payload_hash: self.claim.payload_hash,
            transaction: self.transaction.clone(),
        }
    }

    fn is_live_claim(&self, now: i64) -> bool {
        self.state == ClaimState::Claimed && self.lease_until > now
    }

    /// In settlement, for the owner that is asked for beside this: an expired one keeps its owner
    /// until somebody says what became of it.
    const fn is_settling(&self) -> bool {
        matches!(self.state, ClaimState::Settling | ClaimState::Unknown)
    }

    fn is_credit(&self, now: i64) -> bool {
        self.state == ClaimState::Owed && self.lease_until <= now
    }

    /// Takes back that this credit was spent.
    fn give_back(&mut self, now: i64) {
        if self.state == ClaimState::Answered {
            self.state = ClaimState::Owed;
            self.lease_until = now;
        }
    }

    const fn is_settled(&self) -> bool {
        matches!(self.state, ClaimState::Owed | ClaimState::Answered) && self.transaction.is_some()
    }

    const fn is_final(&self) -> bool {
        matches!(
            self.state,
            ClaimState::Answered
                | ClaimState::Released
                | ClaimState::CreditSpent
                | ClaimState::SpentElsewhere
        )
    }

    const fn is_open(&self) -> bool {
        self.is_settling() || matches!(self.state, ClaimState::Owed)
    }

    /// Whether this is an unknown that a new claim of its buyer must wait for (M6).
    fn blocks(&self, valid_since: i64, now: i64) -> bool {
        self.seen(now).state == ClaimState::Unknown && self.claim.valid_before >= valid_since
    }
}

fn add(totals: &mut BTreeMap<TotalId, Sum>, row: &Row) {
    let (namespace, name) = &row.claim.offer;
    let scope = &row.claim.scope;
    let id = (
        namespace.to_string(),
        name.to_string(),
        scope.chain_id,
        scope.asset,
    );
    let sum = totals.entry(id).or_default();
    sum.count += 1;
    sum.amount = sum.amount.saturating_add(scope.amount.0);
    sum.last_success = sum
        .last_success
        .max(u64::try_from(row.settled_at).unwrap_or(0));
}

fn buyer(claim: &NewClaim) -> (Address, Arc<str>) {
    (claim.scope.payer, Arc::clone(&claim.scope.route))
}

fn path_id(record: &PathRecord) -> PathId {
    (
        record.host.clone(),
        record.pattern.clone(),
        record.namespace.clone(),
        record.name.clone(),
        record.uid.clone(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Store, contract, model};
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn memory_keeps_the_contract() {
        contract::holds(async |clock| Store::memory(clock)).await;
    }

    #[test]
    fn memory_follows_the_model() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let time = contract::Time::new();
        model::follows(&runtime, &MemoryLedger::new(time.clock()), &time, 2000);
    }
}
