//! The SQL of known paths: which were gated, which are closed (R4), which the operator released.

use super::transitions::bad_row;
use crate::gate::{PathRecord, Release};
use jiff::Timestamp;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

/// Records that one INSERT of paths carries; 7 parameters each, SQLite allows 32,766.
const PATHS_PER_INSERT: usize = 500;

/// A row of `paths`, columns as in the table.
type PathRow = (
    String,
    String,
    String,
    String,
    String,
    String,
    Option<String>,
);

/// A row of `released_paths`, columns as in the table, the last one left out.
type ReleaseRow = (i64, String, String, String, String, String, String, String);

/// All of them.
pub(super) async fn all(connection: &mut SqliteConnection) -> Result<Vec<PathRecord>, sqlx::Error> {
    let rows: Vec<PathRow> = sqlx::query_as(
        "SELECT host, pattern, namespace, name, uid, base, closed_at FROM paths ORDER BY host, \
         pattern, namespace, name, uid",
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(record).collect()
}

/// Forgets `removals`, then writes `changes`: a record in both stays (R4).
pub(super) async fn save(
    connection: &mut SqliteConnection,
    changes: &[PathRecord],
    removals: &[PathRecord],
) -> Result<(), sqlx::Error> {
    for record in removals {
        of_record(
            "DELETE FROM paths WHERE host = ?1 AND pattern = ?2 AND namespace = ?3 AND name = ?4 \
             AND uid = ?5",
            record,
        )
        .execute(&mut *connection)
        .await?;
    }
    for records in changes.chunks(PATHS_PER_INSERT) {
        let mut insert = QueryBuilder::<Sqlite>::new(
            "INSERT INTO paths (host, pattern, namespace, name, uid, base, closed_at) ",
        );
        insert.push_values(records, |mut row, record| {
            row.push_bind(record.host.as_deref().unwrap_or_default())
                .push_bind(&*record.pattern)
                .push_bind(&*record.namespace)
                .push_bind(&*record.name)
                .push_bind(&*record.uid)
                .push_bind(&*record.base)
                .push_bind(record.closed_at.map(|time| time.to_string()));
        });
        insert.push(
            " ON CONFLICT DO UPDATE SET base = excluded.base, closed_at = excluded.closed_at",
        );
        insert.build().execute(&mut *connection).await?;
    }
    Ok(())
}

/// What was released after number `after`, in order.
pub(super) async fn releases(
    connection: &mut SqliteConnection,
    after: i64,
) -> Result<Vec<Release>, sqlx::Error> {
    let rows: Vec<ReleaseRow> = sqlx::query_as(
        "SELECT seq, host, pattern, namespace, name, uid, base, closed_at FROM released_paths \
         WHERE seq > ?1 ORDER BY seq",
    )
    .bind(after)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(seq, host, pattern, namespace, name, uid, base, closed)| {
            let row = (host, pattern, namespace, name, uid, base, Some(closed));
            let seq = u64::try_from(seq).map_err(|_negative| bad_row("seq", seq.to_string()))?;
            Ok(Release {
                seq,
                path: record(row)?,
            })
        })
        .collect()
}

/// Releases one closed path; whether it was there, closed at that very time.
pub(super) async fn release(
    connection: &mut SqliteConnection,
    record: &PathRecord,
    now_millis: i64,
) -> Result<bool, sqlx::Error> {
    let Some(closed_at) = record.closed_at else {
        return Ok(false);
    };
    let removed = of_record(
        "DELETE FROM paths WHERE host = ?1 AND pattern = ?2 AND namespace = ?3 AND name = ?4 AND \
         uid = ?5 AND closed_at = ?6",
        record,
    )
    .bind(closed_at.to_string())
    .execute(&mut *connection)
    .await?;
    if removed.rows_affected() == 0 {
        return Ok(false);
    }
    of_record(
        "INSERT INTO released_paths (host, pattern, namespace, name, uid, base, closed_at, \
         released_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        record,
    )
    .bind(&*record.base)
    .bind(closed_at.to_string())
    .bind(now_millis)
    .execute(connection)
    .await?;
    Ok(true)
}

/// Forgets what was released before; a gate has long read it, or read the paths since.
pub(super) async fn prune_releases(
    connection: &mut SqliteConnection,
    before_millis: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM released_paths WHERE released_at < ?1")
        .bind(before_millis)
        .execute(connection)
        .await?;
    Ok(())
}

/// A statement whose first five parameters are the key of a path.
fn of_record<'q>(sql: &'static str, record: &'q PathRecord) -> Query<'q, Sqlite, SqliteArguments> {
    sqlx::query(sql)
        .bind(record.host.as_deref().unwrap_or_default())
        .bind(&*record.pattern)
        .bind(&*record.namespace)
        .bind(&*record.name)
        .bind(&*record.uid)
}

fn record(row: PathRow) -> Result<PathRecord, sqlx::Error> {
    let (host, pattern, namespace, name, uid, base, closed_at) = row;
    let closed_at = closed_at
        .map(|text| {
            text.parse::<Timestamp>()
                .map_err(|_not_a_time| bad_row("closed_at", text))
        })
        .transpose()?;
    Ok(PathRecord {
        host: (!host.is_empty()).then(|| host.into()),
        pattern: pattern.into(),
        namespace: namespace.into(),
        name: name.into(),
        uid: uid.into(),
        base: base.into(),
        closed_at,
    })
}
