//! The SQL of what runs in the background: leases written down, final rows pruned into the totals,
//! and the counts and sums that operators see.

use super::super::PRUNE_MARGIN;
use super::super::rows::seconds_before;
use super::transitions::{bad_row, parse_address, parse_amount};
use crate::gate::Total;
use sqlx::SqliteConnection;
use std::collections::BTreeMap;

/// Rows that one pruning transaction takes: it holds the writer for some milliseconds.
pub(super) const PRUNE_BATCH: usize = 1000;

/// Writes down what expired leases already mean. An unknown keeps its owner, who may still know.
pub(super) async fn apply_leases(
    connection: &mut SqliteConnection,
    now: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE claims SET state = 'released', owner = NULL, updated_at = ?1 WHERE state IN \
         ('claimed', 'settling') AND state = 'claimed' AND lease_until <= ?1",
    )
    .bind(now)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE claims SET state = 'unknown', updated_at = ?1 WHERE state IN ('claimed', \
         'settling') AND state = 'settling' AND lease_until <= ?1",
    )
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// A row that is about to be pruned: key, offer, chain, asset, amount, and when it settled.
type Prunable = (Vec<u8>, String, String, i64, String, String, Option<i64>);

/// Removes at most [`PRUNE_BATCH`] final rows; what they settled goes to the totals first.
pub(super) async fn prune(
    connection: &mut SqliteConnection,
    now_millis: i64,
) -> Result<usize, sqlx::Error> {
    let rows: Vec<Prunable> = sqlx::query_as(
        "SELECT key, offer_namespace, offer_name, chain_id, asset, amount, CASE WHEN state = \
         'answered' AND tx IS NOT NULL THEN settled_at END FROM claims WHERE valid_before < ?1 AND \
         state IN ('answered', 'released', 'credit_spent', 'spent_elsewhere') ORDER BY \
         valid_before LIMIT ?2",
    )
    .bind(seconds_before(now_millis, PRUNE_MARGIN))
    .bind(i64::try_from(PRUNE_BATCH).unwrap_or(i64::MAX))
    .fetch_all(&mut *connection)
    .await?;
    let mut settled: BTreeMap<_, (i64, u128, i64)> = BTreeMap::new();
    for (_, namespace, name, chain_id, asset, amount, settled_at) in &rows {
        let Some(settled_at) = *settled_at else {
            continue;
        };
        let sum = settled
            .entry((namespace, name, *chain_id, asset))
            .or_default();
        sum.0 += 1;
        sum.1 = sum.1.saturating_add(parse_amount(amount)?);
        sum.2 = sum.2.max(settled_at);
    }
    for ((namespace, name, chain_id, asset), (count, amount, last)) in settled {
        let before: Option<String> = sqlx::query_scalar(
            "SELECT amount FROM totals WHERE offer_namespace = ?1 AND offer_name = ?2 AND chain_id \
             = ?3 AND asset = ?4",
        )
        .bind(namespace)
        .bind(name)
        .bind(chain_id)
        .bind(asset)
        .fetch_optional(&mut *connection)
        .await?;
        let before = before.as_deref().map_or(Ok(0), parse_amount)?;
        sqlx::query(
            "INSERT INTO totals (offer_namespace, offer_name, chain_id, asset, count, amount, \
             last_success) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE SET count = \
             totals.count + ?5, amount = ?6, last_success = max(totals.last_success, ?7)",
        )
        .bind(namespace)
        .bind(name)
        .bind(chain_id)
        .bind(asset)
        .bind(count)
        .bind(before.saturating_add(amount).to_string())
        .bind(last)
        .execute(&mut *connection)
        .await?;
    }
    for (key, ..) in &rows {
        sqlx::query("DELETE FROM claims WHERE key = ?1")
            .bind(key)
            .execute(&mut *connection)
            .await?;
    }
    Ok(rows.len())
}

/// How many rows are unknown, and how many are credits.
pub(super) async fn count_open(
    connection: &mut SqliteConnection,
    now: i64,
) -> Result<(i64, i64), sqlx::Error> {
    sqlx::query_as(
        "SELECT count(*) FILTER (WHERE state = 'unknown' OR (state = 'settling' AND lease_until <= \
         ?1)), count(*) FILTER (WHERE state = 'owed' AND lease_until <= ?1) FROM claims WHERE state \
         IN ('settling', 'owed', 'unknown')",
    )
    .bind(now)
    .fetch_one(connection)
    .await
}

/// The permanent totals plus the rows that settled and are still here, of one instant.
pub(super) async fn totals(connection: &mut SqliteConnection) -> Result<Vec<Total>, sqlx::Error> {
    // One statement, so that no pruning falls between the two halves.
    let rows: Vec<(String, String, i64, String, i64, String, i64)> = sqlx::query_as(
        "SELECT offer_namespace, offer_name, chain_id, asset, count, amount, last_success FROM \
         totals UNION ALL SELECT offer_namespace, offer_name, chain_id, asset, 1, amount, \
         coalesce(settled_at, 0) FROM claims WHERE state IN ('owed', 'answered') AND tx IS NOT \
         NULL",
    )
    .fetch_all(connection)
    .await?;
    let mut totals: BTreeMap<_, Total> = BTreeMap::new();
    for (namespace, name, chain_id, asset, count, amount, last) in rows {
        let number = |column, value: i64| {
            u64::try_from(value).map_err(|_negative| bad_row(column, value.to_string()))
        };
        let chain_id = number("chain_id", chain_id)?;
        let asset = parse_address(&asset)?;
        let total = totals
            .entry((namespace.clone(), name.clone(), chain_id, asset))
            .or_insert(Total {
                namespace,
                name,
                chain_id,
                asset,
                count: 0,
                amount: 0,
                last_success: 0,
            });
        total.count = total.count.saturating_add(number("count", count)?);
        total.amount = total.amount.saturating_add(parse_amount(&amount)?);
        total.last_success = total.last_success.max(number("last_success", last)?);
    }
    Ok(totals.into_values().collect())
}
