//! The SQL of every transition, each inside the writer's transaction.
//!
//! A transition is one UPDATE that names state and owner; one row or [`Step::Lost`] (M3). The
//! statements are plain SQL with numbered parameters and no SQLite arithmetic of their own beside
//! comparisons, so that a PostgreSQL twin can be laid next to them line by line.

use super::super::rows::{name, seconds_before, state, transaction_key, until};
use super::super::{UNKNOWN_MARGIN, rows};
use crate::gate::{
    Booked, ClaimKey, ClaimOutcome, ClaimOwner, ClaimRow, ClaimState, NewClaim, Step,
};
use alloy_primitives::{Address, B256};
use sqlx::SqliteConnection;
use std::time::Duration;

/// What a row that cannot be read says.
#[derive(Debug, thiserror::Error)]
#[error("a row of the ledger cannot be read: {column} holds {found}")]
struct BadRow {
    column: &'static str,
    found: String,
}

/// What a look-up reads.
#[derive(Debug, sqlx::FromRow)]
struct RowColumns {
    state: String,
    lease_until: i64,
    payload_hash: Vec<u8>,
    tx: Option<String>,
}

/// A step of one row by its owner.
#[derive(Debug, Clone, Copy)]
pub(super) struct Advance {
    pub(super) key: ClaimKey,
    pub(super) owner: ClaimOwner,
    pub(super) to: Target,
}

/// Where an [`Advance`] leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// `Claimed -> Settling`.
    Settling(Duration),
    /// `Owed` stays and becomes a credit; `CreditSpent -> Released` gives its credit back.
    Abandoned,
    /// `Owed -> Answered`, `Claimed -> Answered` where nothing settles.
    Answered,
    /// `Claimed`, `Settling` `-> Released`.
    Released,
    /// `Answered` back to what it was, because nobody heard that it was answered.
    Unanswered,
}

/// A settlement to book, or to declare unknown.
#[derive(Debug, Clone)]
pub(super) struct Settlement {
    pub(super) key: ClaimKey,
    pub(super) owner: ClaimOwner,
    pub(super) transaction: Option<String>,
}

/// Reads one row (M1).
pub(super) async fn find(
    connection: &mut SqliteConnection,
    key: &ClaimKey,
    now: i64,
) -> Result<Option<ClaimRow>, sqlx::Error> {
    let columns: Option<RowColumns> =
        sqlx::query_as("SELECT state, lease_until, payload_hash, tx FROM claims WHERE key = ?1")
            .bind(key_bytes(key))
            .fetch_optional(connection)
            .await?;
    columns.map(|columns| columns.read(now)).transpose()
}

impl RowColumns {
    fn read(self, now: i64) -> Result<ClaimRow, sqlx::Error> {
        let stored = state(&self.state).ok_or_else(|| bad_row("state", self.state))?;
        let length = self.payload_hash.len();
        let payload_hash = B256::try_from(self.payload_hash.as_slice())
            .map_err(|_wrong_length| bad_row("payload_hash", format!("{length} bytes")))?;
        Ok(ClaimRow {
            state: rows::as_read(stored, self.lease_until, now),
            payload_hash,
            transaction: self.tx,
        })
    }
}

/// Claims a key, or says why not (M3, M6).
pub(super) async fn claim(
    connection: &mut SqliteConnection,
    claim: &NewClaim,
    owner: ClaimOwner,
    now: i64,
) -> Result<ClaimOutcome, sqlx::Error> {
    let (unknown, credit) = buyer(connection, claim, now).await?;
    if let Some(row) = find(connection, &claim.key, now).await?
        && row.state != ClaimState::Released
    {
        return Ok(ClaimOutcome::Taken(row));
    }
    if claim.settles && unknown {
        return Ok(ClaimOutcome::UnknownOutstanding);
    }
    if credit
        && claim.may_spend_credit
        && let Some((credit, transaction)) = spend_credit(connection, claim, now).await?
    {
        let spent = ClaimState::CreditSpent;
        insert(connection, claim, spent, Some(owner), Some(credit), now).await?;
        let transaction = transaction.unwrap_or_default();
        return Ok(ClaimOutcome::CreditSpent { owner, transaction });
    }
    let claimed = ClaimState::Claimed;
    insert(connection, claim, claimed, Some(owner), None, now).await?;
    Ok(ClaimOutcome::Claimed(owner))
}

/// The one INSERT, or the one UPDATE of a released row (or of a claim whose lease is over). The
/// write lock is held since before `find`, so the row cannot have changed.
async fn insert(
    connection: &mut SqliteConnection,
    claim: &NewClaim,
    state: ClaimState,
    owner: Option<ClaimOwner>,
    spends: Option<Vec<u8>>,
    now: i64,
) -> Result<(), sqlx::Error> {
    let written = sqlx::query(
        "INSERT INTO claims (key, payload_hash, state, owner, lease_until, settles, payer, route, \
         chain_id, asset, amount, pay_to, offer_namespace, offer_name, tx, spends, valid_before, \
         created_at, updated_at, settled_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, \
         ?12, ?13, ?14, NULL, ?15, ?16, ?17, ?17, NULL) ON CONFLICT (key) DO UPDATE SET \
         payload_hash = ?2, state = ?3, owner = ?4, lease_until = ?5, settles = ?6, payer = ?7, \
         route = ?8, chain_id = ?9, asset = ?10, amount = ?11, pay_to = ?12, offer_namespace = \
         ?13, offer_name = ?14, tx = NULL, spends = ?15, valid_before = ?16, created_at = ?17, \
         updated_at = ?17, settled_at = NULL WHERE claims.state = 'released' OR (claims.state = \
         'claimed' AND claims.lease_until <= ?17)",
    )
    .bind(key_bytes(&claim.key))
    .bind(claim.payload_hash.to_vec())
    .bind(name(state))
    .bind(owner.map(|owner| owner.0.to_vec()))
    .bind(until(now, claim.lease))
    .bind(claim.settles)
    .bind(address(claim.scope.payer))
    .bind(&*claim.scope.route)
    .bind(chain(claim.scope.chain_id)?)
    .bind(address(claim.scope.asset))
    .bind(claim.scope.amount.to_string())
    .bind(address(claim.pay_to))
    .bind(&*claim.offer.0)
    .bind(&*claim.offer.1)
    .bind(spends)
    .bind(claim.valid_before)
    .bind(now)
    .execute(connection)
    .await?;
    if written.rows_affected() == 1 {
        Ok(())
    } else {
        Err(bad_row(
            "state",
            "a claim that nobody could have made".to_owned(),
        ))
    }
}

/// Whether an unknown of the payer and route stands in the way, and whether there may be a credit
/// to spend (M6).
async fn buyer(
    connection: &mut SqliteConnection,
    claim: &NewClaim,
    now: i64,
) -> Result<(bool, bool), sqlx::Error> {
    // The full IN list is what lets SQLite use the partial index `claims_open`.
    sqlx::query_as(
        "SELECT coalesce(max((state = 'unknown' OR (state = 'settling' AND lease_until <= ?3)) AND \
         valid_before >= ?4), 0), coalesce(max(state = 'owed' AND lease_until <= ?3), 0) FROM \
         claims WHERE payer = ?1 AND route = ?2 AND state IN ('settling', 'owed', 'unknown')",
    )
    .bind(address(claim.scope.payer))
    .bind(&*claim.scope.route)
    .bind(now)
    .bind(seconds_before(now, UNKNOWN_MARGIN))
    .fetch_one(connection)
    .await
}

/// Answers the oldest credit of the scope: its key and the transaction that had paid (M6).
async fn spend_credit(
    connection: &mut SqliteConnection,
    claim: &NewClaim,
    now: i64,
) -> Result<Option<(Vec<u8>, Option<String>)>, sqlx::Error> {
    sqlx::query_as(
        "UPDATE claims SET state = 'answered', updated_at = ?3 WHERE key = (SELECT key FROM claims \
         WHERE payer = ?1 AND route = ?2 AND state IN ('settling', 'owed', 'unknown') AND state = \
         'owed' AND lease_until <= ?3 AND chain_id = ?4 AND asset = ?5 AND amount = ?6 ORDER BY \
         created_at LIMIT 1) RETURNING key, tx",
    )
    .bind(address(claim.scope.payer))
    .bind(&*claim.scope.route)
    .bind(now)
    .bind(chain(claim.scope.chain_id)?)
    .bind(address(claim.scope.asset))
    .bind(claim.scope.amount.to_string())
    .fetch_optional(connection)
    .await
}

/// Gives a spent credit back, because nobody was there to be answered. It names the owner, so that
/// a repetition cannot take back what the same key spent and answered later.
async fn unspend_credit(
    connection: &mut SqliteConnection,
    key: &ClaimKey,
    owner: ClaimOwner,
    now: i64,
) -> Result<Step, sqlx::Error> {
    sqlx::query(
        "UPDATE claims SET state = 'owed', lease_until = ?3, updated_at = ?3 WHERE state = \
         'answered' AND key = (SELECT spends FROM claims WHERE key = ?1 AND owner = ?2 AND state = \
         'credit_spent')",
    )
    .bind(key_bytes(key))
    .bind(owner.0.to_vec())
    .bind(now)
    .execute(&mut *connection)
    .await?;
    let released = sqlx::query(
        "UPDATE claims SET state = 'released', owner = NULL, spends = NULL, updated_at = ?3 WHERE \
         key = ?1 AND owner = ?2 AND state = 'credit_spent'",
    )
    .bind(key_bytes(key))
    .bind(owner.0.to_vec())
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done(released.rows_affected()))
}

/// One step of one row.
pub(super) async fn advance(
    connection: &mut SqliteConnection,
    step: &Advance,
    now: i64,
) -> Result<Step, sqlx::Error> {
    let (sql, lease_until) = match step.to {
        Target::Settling(lease) => (
            "UPDATE claims SET state = 'settling', lease_until = ?4, updated_at = ?3 WHERE key = \
             ?1 AND owner = ?2 AND state = 'claimed' AND lease_until > ?3 AND settles = 1",
            until(now, lease),
        ),
        Target::Abandoned => (
            "UPDATE claims SET lease_until = ?4, updated_at = ?3 WHERE key = ?1 AND owner = ?2 AND \
             state = 'owed'",
            now,
        ),
        Target::Answered => (
            "UPDATE claims SET state = 'answered', lease_until = ?4, updated_at = ?3 WHERE key = \
             ?1 AND owner = ?2 AND (state = 'owed' OR (state = 'claimed' AND lease_until > ?3 AND \
             settles = 0))",
            now,
        ),
        // An expired settlement (stored as settling or as unknown) still has its owner, who may
        // bring the proof that nothing moved.
        Target::Released => (
            "UPDATE claims SET state = 'released', owner = NULL, lease_until = ?4, updated_at = ?3 \
             WHERE key = ?1 AND owner = ?2 AND ((state = 'claimed' AND lease_until > ?3) OR state \
             IN ('settling', 'unknown'))",
            now,
        ),
        Target::Unanswered => (
            "UPDATE claims SET state = CASE settles WHEN 1 THEN 'owed' ELSE 'released' END, \
             lease_until = ?4, updated_at = ?3 WHERE key = ?1 AND owner = ?2 AND state = \
             'answered'",
            now,
        ),
    };
    let changed = sqlx::query(sql)
        .bind(key_bytes(&step.key))
        .bind(step.owner.0.to_vec())
        .bind(now)
        .bind(lease_until)
        .execute(&mut *connection)
        .await?;
    if changed.rows_affected() == 0 && step.to == Target::Abandoned {
        return unspend_credit(connection, &step.key, step.owner, now).await;
    }
    Ok(done(changed.rows_affected()))
}

/// `Settling -> Owed`, unless the transaction paid for another row (M3).
pub(super) async fn book(
    connection: &mut SqliteConnection,
    settlement: &Settlement,
    waiter: Duration,
    now: i64,
) -> Result<Booked, sqlx::Error> {
    let key = key_bytes(&settlement.key);
    let owner = settlement.owner.0.to_vec();
    let transaction = settlement
        .transaction
        .as_deref()
        .map(transaction_key)
        .unwrap_or_default();
    sqlx::query(
        "INSERT INTO booked_transactions (chain_id, tx, key) SELECT chain_id, ?3, key FROM claims \
         WHERE key = ?1 AND owner = ?2 AND state IN ('settling', 'unknown') ON CONFLICT DO NOTHING",
    )
    .bind(&key)
    .bind(&owner)
    .bind(&transaction)
    .execute(&mut *connection)
    .await?;
    let owed = sqlx::query(
        "UPDATE claims SET state = 'owed', tx = ?3, lease_until = ?4, settled_at = ?5, updated_at \
         = ?6 WHERE key = ?1 AND owner = ?2 AND state IN ('settling', 'unknown') AND EXISTS \
         (SELECT 1 FROM booked_transactions b WHERE b.chain_id = claims.chain_id AND b.tx = ?3 AND \
         b.key = ?1)",
    )
    .bind(&key)
    .bind(&owner)
    .bind(&transaction)
    .bind(until(now, waiter))
    .bind(now / 1000)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    if owed.rows_affected() == 1 {
        return Ok(Booked::Owed);
    }
    if mark_unknown(connection, settlement, now).await? == Step::Done {
        return Ok(Booked::DuplicateTransaction);
    }
    // The same booking again, after a reply that came too late.
    let repeated: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM claims WHERE key = ?1 AND owner = ?2 AND state = 'owed' AND \
         tx = ?3)",
    )
    .bind(&key)
    .bind(&owner)
    .bind(&transaction)
    .fetch_one(connection)
    .await?;
    Ok(if repeated { Booked::Owed } else { Booked::Lost })
}

/// `Settling -> Unknown`; its owner has said all it knows.
pub(super) async fn mark_unknown(
    connection: &mut SqliteConnection,
    settlement: &Settlement,
    now: i64,
) -> Result<Step, sqlx::Error> {
    let changed = sqlx::query(
        "UPDATE claims SET state = 'unknown', owner = NULL, tx = ?3, updated_at = ?4 WHERE key = \
         ?1 AND owner = ?2 AND state IN ('settling', 'unknown')",
    )
    .bind(key_bytes(&settlement.key))
    .bind(settlement.owner.0.to_vec())
    .bind(settlement.transaction.as_deref().map(transaction_key))
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done(changed.rows_affected()))
}

pub(super) fn parse_amount(text: &str) -> Result<u128, sqlx::Error> {
    text.parse()
        .map_err(|_not_a_number| bad_row("amount", text.to_owned()))
}

pub(super) fn parse_address(text: &str) -> Result<Address, sqlx::Error> {
    text.parse()
        .map_err(|_not_an_address| bad_row("asset", text.to_owned()))
}

pub(super) fn bad_row(column: &'static str, found: String) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(BadRow { column, found }))
}

fn key_bytes(key: &ClaimKey) -> Vec<u8> {
    key.to_bytes().to_vec()
}

fn address(address: Address) -> String {
    format!("{address:#x}")
}

/// Chain ids are 64 bits unsigned, SQLite's integers signed.
fn chain(chain_id: u64) -> Result<i64, sqlx::Error> {
    i64::try_from(chain_id).map_err(|_too_large| bad_row("chain_id", chain_id.to_string()))
}

const fn done(rows: u64) -> Step {
    if rows == 1 { Step::Done } else { Step::Lost }
}
