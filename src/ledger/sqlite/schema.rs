//! The schema of the SQLite ledger and its versions.
//!
//! `PRAGMA user_version` counts the migrations that ran; each runs with its number in one
//! transaction. They only expand, so that a rollback to an older program works: what refuses a
//! program is not a newer schema but `meta.needs_schema`, the oldest schema a program must know to
//! write here. `PRAGMA application_id` keeps us from adopting another program's database.

use sqlx::{Connection, SqliteConnection};

/// "x402" in ASCII.
const APPLICATION_ID: i64 = 0x7834_3032;

/// Every migration, in order.
const MIGRATIONS: [&str; 2] = [
    include_str!("../../../migrations/sqlite/0001_claims.sql"),
    include_str!("../../../migrations/sqlite/0002_releases.sql"),
];

/// Newest schema of this program.
#[expect(clippy::cast_possible_wrap, reason = "a constant of a few")]
pub(super) const UNDERSTOOD: i64 = MIGRATIONS.len() as i64;

/// Why a database is not a ledger of this program.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaError {
    /// It has tables and is not ours.
    #[error("the database belongs to another program")]
    Foreign,
    /// A newer program wrote it.
    #[error("the schema needs a program that understands version {found}")]
    Newer {
        /// `meta.needs_schema`.
        found: i64,
    },
    /// An older program wrote it, and it was not migrated yet.
    #[error("the schema is version {found}")]
    Older {
        /// `user_version`.
        found: i64,
    },
    /// SQLite failed.
    #[error(transparent)]
    Sqlite(#[from] sqlx::Error),
}

/// Brings an empty or older database to [`UNDERSTOOD`], one transaction per step.
pub(super) async fn migrate(connection: &mut SqliteConnection) -> Result<(), SchemaError> {
    // The write lock first: of two starters, one migrates and the other finds it done.
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let application: i64 = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(&mut *transaction)
        .await?;
    let version: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *transaction)
        .await?;
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema")
        .fetch_one(&mut *transaction)
        .await?;
    let is_new = application == 0 && version == 0 && tables == 0;
    if !is_new && application != APPLICATION_ID {
        return Err(SchemaError::Foreign);
    }
    if is_new {
        run(
            &mut transaction,
            format!("PRAGMA application_id = {APPLICATION_ID}"),
        )
        .await?;
    }
    for (number, migration) in (1_i64..)
        .zip(MIGRATIONS)
        .skip_while(|(number, _)| *number <= version)
    {
        run(&mut transaction, migration.to_owned()).await?;
        run(&mut transaction, format!("PRAGMA user_version = {number}")).await?;
    }
    is_understood(&mut transaction).await?;
    transaction.commit().await?;
    Ok(())
}

/// Whether the database is a ledger that this program understands as it is; changes nothing.
pub(super) async fn verify(connection: &mut SqliteConnection) -> Result<(), SchemaError> {
    let application: i64 = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(&mut *connection)
        .await?;
    if application != APPLICATION_ID {
        return Err(SchemaError::Foreign);
    }
    let version: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?;
    if version < UNDERSTOOD {
        return Err(SchemaError::Older { found: version });
    }
    is_understood(connection).await
}

/// Refuses what a newer program wrote for its like alone.
async fn is_understood(connection: &mut SqliteConnection) -> Result<(), SchemaError> {
    let found: i64 = sqlx::query_scalar("SELECT needs_schema FROM meta")
        .fetch_one(connection)
        .await?;
    if found > UNDERSTOOD {
        return Err(SchemaError::Newer { found });
    }
    Ok(())
}

async fn run(connection: &mut SqliteConnection, sql: String) -> Result<(), sqlx::Error> {
    // Only constants of this file come here.
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(connection)
        .await?;
    Ok(())
}
