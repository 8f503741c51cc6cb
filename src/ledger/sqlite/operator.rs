//! The file as an operator's command sees it: beside the verifier that owns it, or without one.
//!
//! It takes no lock, migrates nothing, ends no lease and creates no file: whoever runs a command
//! changes what the command says and nothing else. Its transactions are small, and it pauses between
//! them: SQLite's lock has no queue, and the verifier's writer, which waits 250 ms for it, would not
//! get in between two that follow each other. Each counts itself in `meta` as the verifier's do (M14).

use super::paths;
use super::place;
use super::schema::{self, SchemaError};
use crate::gate::PathRecord;
use crate::ledger::{LedgerUrl, OpenError, rows};
use jiff::{SignedDuration, Timestamp};
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use std::time::{Duration, Instant};

/// Paths released in one transaction.
const BATCH: usize = 50;

/// Pause after a transaction, in times of what it took: more room for the verifier than for us.
const PAUSE: u32 = 3;

/// How long a command waits for the verifier's transaction: that one takes milliseconds.
const BUSY: Duration = Duration::from_secs(5);

/// How long releases are kept for a gate to read; one that starts later reads the paths instead.
const KEPT: SignedDuration = SignedDuration::from_hours(24);

/// Why an operator's command cannot do its work on a ledger.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// `--ledger memory`.
    #[error(
        "the ledger is kept in memory, where no command can change it: restart the verifier, which \
         forgets it, or serve with --ledger sqlite:PATH"
    )]
    Memory,
    /// No such file.
    #[error(
        "there is no ledger {path}: name the one that the verifier uses with --ledger sqlite:PATH, \
         and run the command where that file is (in its pod)"
    )]
    Missing {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Not migrated yet.
    #[error(
        "the ledger {path} was written by an older version: start this version's verifier on it \
         once, or run the command of the version that serves"
    )]
    Older {
        /// The file.
        path: String,
    },
    /// No ledger of this program, or out of reach.
    #[error(transparent)]
    Open(OpenError),
    /// SQLite failed.
    #[error("the ledger {ledger} cannot {what}: look at the cause and try again")]
    Failed {
        /// As in `--ledger`.
        ledger: String,
        /// What was tried.
        what: &'static str,
        /// Cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// See the module.
#[derive(Debug)]
pub struct OperatorLedger {
    connection: SqliteConnection,
    url: String,
}

impl OperatorLedger {
    /// Opens the ledger at `url`, which must be there.
    ///
    /// # Errors
    /// When there is no such file, it is no ledger of this version, or it is kept in memory.
    pub async fn open(url: &LedgerUrl) -> Result<Self, OperateError> {
        let path = match url {
            LedgerUrl::Memory => return Err(OperateError::Memory),
            LedgerUrl::Sqlite(path) => path,
        };
        if let Err(source) = std::fs::metadata(path) {
            return Err(OperateError::Missing {
                path: path.display().to_string(),
                source,
            });
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY)
            .synchronous(SqliteSynchronous::Full)
            .disable_statement_logging();
        let opened = async {
            let mut connection = options.connect().await?;
            schema::verify(&mut connection).await?;
            Ok::<_, SchemaError>(connection)
        };
        match opened.await {
            Ok(connection) => Ok(Self {
                connection,
                url: url.to_string(),
            }),
            Err(SchemaError::Older { .. }) => Err(OperateError::Older {
                path: path.display().to_string(),
            }),
            Err(error) => Err(OperateError::Open(place::explain(path, error))),
        }
    }

    /// All remembered paths.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn paths(&mut self) -> Result<Vec<PathRecord>, OperateError> {
        let read = paths::all(&mut self.connection).await;
        read.map_err(|source| self.failed("be read", source))
    }

    /// Releases closed paths; those that were still there, closed at the time that the record says.
    /// What it returned is on disk.
    ///
    /// # Errors
    /// When the file cannot be written; what was released before stays released.
    pub async fn release(
        &mut self,
        records: &[PathRecord],
        now: Timestamp,
    ) -> Result<Vec<PathRecord>, OperateError> {
        let mut released = Vec::with_capacity(records.len());
        let mut took = Duration::ZERO;
        for batch in records.chunks(BATCH) {
            if !released.is_empty() {
                tokio::time::sleep(took * PAUSE).await;
            }
            let begun = Instant::now();
            let done = release(&mut self.connection, batch, now).await;
            took = begun.elapsed();
            released.extend(done.map_err(|source| self.failed("be written", source))?);
        }
        Ok(released)
    }

    /// Closes the file.
    pub async fn close(self) {
        // What was told is committed; a connection that does not close cleanly loses nothing.
        self.connection.close().await.ok();
    }

    fn failed(&self, what: &'static str, source: sqlx::Error) -> OperateError {
        OperateError::Failed {
            ledger: self.url.clone(),
            what,
            source: Box::new(source),
        }
    }
}

async fn release(
    connection: &mut SqliteConnection,
    batch: &[PathRecord],
    now: Timestamp,
) -> Result<Vec<PathRecord>, sqlx::Error> {
    let kept_from = now.checked_sub(KEPT).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    paths::prune_releases(&mut transaction, rows::millis(kept_from)).await?;
    let mut released = Vec::new();
    for record in batch {
        if paths::release(&mut transaction, record, rows::millis(now)).await? {
            released.push(record.clone());
        }
    }
    sqlx::query("UPDATE meta SET writes = writes + 1")
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(released)
}
