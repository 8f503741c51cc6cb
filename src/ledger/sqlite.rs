//! The ledger in one SQLite file: the default, for one replica.
//!
//! Writes go through one writer thread with a bounded queue and group commit (`writer.rs`); reads
//! use two read-only connections beside it (WAL lets them see the last commit without waiting).
//! Every call ends within [`REPLY`] ([`BULK`] for work on whole tables), with a result or a
//! [`LedgerError`].
//!
//! One process per file: a lock on `PATH.lock` refuses a second verifier at start. That is for the
//! operator's sake, not for the money's: the transitions are safe with several writers, but two
//! replicas on one file are a mistake that should be loud. The lock ends with the process, however
//! it ends. An operator's command may open the file beside it. Whoever gets the lock knows that the
//! process before it is gone, and ends that one's leases at once instead of waiting for them.
//!
//! The file is created with mode 0600, and its WAL and shared-memory companions inherit that.

use self::place::FileId;
use self::schema::SchemaError;
use self::transitions::{Advance, Settlement, Target};
use self::writer::{Identity, QUEUE, Reply, Write, Writer, refused};
use super::{Clock, OpenError, rows};
use crate::gate::{
    Booked, ClaimKey, ClaimOutcome, ClaimOwner, ClaimRow, Ledger, LedgerError, NewClaim,
    PathRecord, Release, Step, Total, Upkeep,
};
use jiff::Timestamp;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, SqliteConnection};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

mod operator;
mod paths;
mod place;
mod schema;
mod transitions;
mod upkeep;
mod writer;

pub use operator::{OperateError, OperatorLedger};

#[cfg(test)]
mod tests;

/// How long a caller waits: well inside the gate's 25 s (M8), long enough for a disk's hiccup.
const REPLY: Duration = Duration::from_secs(2);

/// The same for work on whole tables, which runs at start and in the background: no request waits
/// for it, and 100,000 rows take about a second.
const BULK: Duration = Duration::from_secs(30);

/// How long SQLite waits for another process's lock before it says so.
const BUSY: Duration = Duration::from_millis(250);

/// Bytes of WAL file kept after a checkpoint; a bulk write may need more for a while.
const WAL_KEPT: &str = "16777216";

/// Read connections are renewed this often, in case the file was moved away and back.
const READER_LIFE: Duration = Duration::from_secs(60);

/// Pruning transactions of one upkeep: 100,000 rows; the rest is for the next one.
const PRUNE_ROUNDS: usize = 100;

/// See the module.
#[derive(Debug)]
pub(super) struct SqliteLedger {
    clock: Clock,
    id: String,
    writes: mpsc::Sender<Write>,
    readers: SqlitePool,
    /// Closed when the writer has finished.
    finished: oneshot::Receiver<()>,
    /// Held for as long as the ledger is open.
    _lock: File,
}

/// Why SQLite did not do what it was asked; shared by all writes of one transaction.
#[derive(Debug, Clone, thiserror::Error)]
enum Fault {
    #[error("SQLite failed")]
    Sqlite(#[source] Arc<sqlx::Error>),
    #[error("{QUEUE} writes wait for the disk already")]
    QueueFull,
    #[error("the disk did not answer in time")]
    Overdue,
    #[error("the writer has ended: restart the process")]
    WriterGone,
    #[error("the ledger file is gone: put it back")]
    Gone(#[source] Arc<io::Error>),
    #[error(
        "another or an older ledger is at this path: put the right file back, or restart to accept \
         this one (payments it does not know could be presented again)"
    )]
    Replaced,
    #[error("the system gives no random numbers: {0}")]
    NoRandomness(getrandom::Error),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlite(Arc::new(error))
    }
}

impl SqliteLedger {
    /// Opens or creates the file, migrates it, and starts the writer.
    pub(super) async fn open(path: &Path, clock: Clock) -> Result<Self, OpenError> {
        let lock = place::take_lock(path)?;
        place::create_private(path).map_err(|source| place::cannot_write(path, source))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("journal_size_limit", WAL_KEPT)
            .disable_statement_logging();
        let (connection, seen) = prepare(&options)
            .await
            .map_err(|error| place::explain(path, error))?;
        let file = FileId::of(path).map_err(|source| place::cannot_write(path, source))?;
        let readers = SqlitePoolOptions::new()
            .max_connections(2)
            .acquire_timeout(REPLY)
            .max_lifetime(READER_LIFE)
            // A file does not hang up: asking first would double the cost of a look-up.
            .test_before_acquire(false)
            .connect_lazy_with(options.clone().read_only(true).pragma("query_only", "ON"));
        let (writes, queue) = mpsc::channel(QUEUE);
        let (ended, finished) = oneshot::channel();
        let id = seen.id.clone();
        let writer = Writer {
            queue,
            options,
            path: path.to_owned(),
            clock: clock.clone(),
            open: Some((connection, file)),
            seen,
            syncs: true,
        };
        start(writer, ended).map_err(|source| OpenError::Unavailable {
            path: path.display().to_string(),
            source: Box::new(source),
        })?;
        Ok(Self {
            clock,
            id,
            writes,
            readers,
            finished,
            _lock: lock,
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The writer holds the other end for as long as it runs.
    pub(super) async fn failed(&self) {
        self.writes.closed().await;
    }

    /// Waits until everything queued is written and the file is closed.
    pub(super) async fn close(self) {
        let Self {
            writes,
            readers,
            finished,
            ..
        } = self;
        readers.close().await;
        drop(writes);
        // An error says that the writer is gone too.
        finished.await.ok();
    }

    fn now(&self) -> i64 {
        rows::millis(self.clock.now())
    }

    /// Queues one write and waits for its commit.
    async fn write<T>(
        &self,
        operation: &'static str,
        write: impl FnOnce(Reply<T>) -> Write,
    ) -> Result<T, LedgerError> {
        self.write_within(REPLY, operation, write).await
    }

    async fn write_within<T>(
        &self,
        patience: Duration,
        operation: &'static str,
        write: impl FnOnce(Reply<T>) -> Write,
    ) -> Result<T, LedgerError> {
        let (reply, mut result) = Reply::new();
        self.writes.try_send(write(reply)).map_err(|error| {
            let fault = match error {
                mpsc::error::TrySendError::Full(_) => Fault::QueueFull,
                mpsc::error::TrySendError::Closed(_) => Fault::WriterGone,
            };
            refused(operation, fault)
        })?;
        let result = match tokio::time::timeout(patience, &mut result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_dropped)) => Err(Fault::WriterGone),
            Err(_elapsed) => {
                // Either the reply is here after all, or the writer learns that nobody heard it.
                result.close();
                result.try_recv().unwrap_or(Err(Fault::Overdue))
            }
        };
        result.map_err(|fault| refused(operation, fault))
    }

    async fn advance(
        &self,
        operation: &'static str,
        key: &ClaimKey,
        owner: ClaimOwner,
        to: Target,
    ) -> Result<Step, LedgerError> {
        let advance = Advance {
            key: *key,
            owner,
            to,
        };
        self.write(operation, |reply| Write::Advance(advance, reply))
            .await
    }

    async fn read<T>(
        &self,
        patience: Duration,
        operation: &'static str,
        read: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, LedgerError> {
        let reading = async {
            let mut connection = self.readers.acquire().await?;
            read(&mut connection).await
        };
        match tokio::time::timeout(patience, reading).await {
            Ok(result) => result.map_err(|error| refused(operation, error.into())),
            Err(_elapsed) => Err(refused(operation, Fault::Overdue)),
        }
    }
}

impl Ledger for SqliteLedger {
    async fn lookup(&self, key: &ClaimKey) -> Result<Option<ClaimRow>, LedgerError> {
        let now = self.now();
        self.read(REPLY, "look up a payment", async |connection| {
            transitions::find(connection, key, now).await
        })
        .await
    }

    async fn claim(&self, claim: &NewClaim) -> Result<ClaimOutcome, LedgerError> {
        let mut owner = [0; 16];
        getrandom::fill(&mut owner)
            .map_err(|source| refused("claim a payment", Fault::NoRandomness(source)))?;
        let owner = ClaimOwner(owner);
        self.write("claim a payment", |reply| {
            Write::Claim(Box::new(claim.clone()), owner, reply)
        })
        .await
    }

    async fn begin_settle(
        &self,
        key: &ClaimKey,
        owner: ClaimOwner,
        lease: Duration,
    ) -> Result<Step, LedgerError> {
        self.advance("begin a settlement", key, owner, Target::Settling(lease))
            .await
    }

    async fn book_settled(
        &self,
        key: &ClaimKey,
        owner: ClaimOwner,
        transaction: &str,
        waiter: Duration,
    ) -> Result<Booked, LedgerError> {
        let settlement = Settlement {
            key: *key,
            owner,
            transaction: Some(transaction.to_owned()),
        };
        self.write("book a settlement", |reply| {
            Write::Book(settlement, waiter, reply)
        })
        .await
    }

    async fn abandon(&self, key: &ClaimKey, owner: ClaimOwner) -> Result<Step, LedgerError> {
        self.advance("keep a credit", key, owner, Target::Abandoned)
            .await
    }

    async fn answer(&self, key: &ClaimKey, owner: ClaimOwner) -> Result<Step, LedgerError> {
        self.advance("commit an answer", key, owner, Target::Answered)
            .await
    }

    async fn release(&self, key: &ClaimKey, owner: ClaimOwner) -> Result<Step, LedgerError> {
        self.advance("release a payment", key, owner, Target::Released)
            .await
    }

    async fn mark_unknown(
        &self,
        key: &ClaimKey,
        owner: ClaimOwner,
        transaction: Option<&str>,
    ) -> Result<Step, LedgerError> {
        let transaction = transaction.map(str::to_owned);
        let settlement = Settlement {
            key: *key,
            owner,
            transaction,
        };
        self.write("keep an unknown settlement", |reply| {
            Write::MarkUnknown(settlement, reply)
        })
        .await
    }

    async fn paths(&self) -> Result<Vec<PathRecord>, LedgerError> {
        self.read(BULK, "read the known paths", paths::all).await
    }

    async fn releases(&self, after: u64) -> Result<Vec<Release>, LedgerError> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        self.read(BULK, "read what was released", async |connection| {
            paths::releases(connection, after).await
        })
        .await
    }

    async fn save_paths(
        &self,
        changes: &[PathRecord],
        removals: &[PathRecord],
    ) -> Result<(), LedgerError> {
        if changes.is_empty() && removals.is_empty() {
            return Ok(());
        }
        let (changes, removals) = (changes.to_vec(), removals.to_vec());
        self.write_within(BULK, "save the known paths", |reply| {
            Write::SavePaths(changes, removals, reply)
        })
        .await
    }

    async fn upkeep(&self, now: Timestamp) -> Result<Upkeep, LedgerError> {
        self.write_within(BULK, "apply expired leases", Write::ApplyLeases)
            .await?;
        let mut pruned = 0_usize;
        for _round in 0..PRUNE_ROUNDS {
            let rows = self
                .write_within(BULK, "prune old payments", |reply| Write::Prune(now, reply))
                .await?;
            pruned = pruned.saturating_add(rows);
            if rows < upkeep::PRUNE_BATCH {
                break;
            }
        }
        let lease_now = self.now();
        let (unknown, credits): (i64, i64) = self
            .read(BULK, "count open payments", async |connection| {
                upkeep::count_open(connection, lease_now).await
            })
            .await?;
        Ok(Upkeep {
            unknown: u64::try_from(unknown).unwrap_or(0),
            credits: u64::try_from(credits).unwrap_or(0),
            pruned: u64::try_from(pruned).unwrap_or(u64::MAX),
        })
    }

    async fn totals(&self) -> Result<Vec<Total>, LedgerError> {
        self.read(BULK, "sum up settled payments", upkeep::totals)
            .await
    }
}

/// The writer has a thread of its own: a stalled disk stalls no request, and what is queued when
/// the runtime of the requests ends is still written.
fn start(writer: Writer, ended: oneshot::Sender<()>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    std::thread::Builder::new()
        .name("ledger-writer".to_owned())
        .spawn(move || {
            runtime.block_on(writer.run());
            drop(ended);
        })?;
    Ok(())
}

/// The migrated database, and what it says it is.
async fn prepare(
    options: &SqliteConnectOptions,
) -> Result<(SqliteConnection, Identity), SchemaError> {
    let mut connection = options.connect().await?;
    schema::migrate(&mut connection).await?;
    end_leases(&mut connection).await?;
    let (id, writes) = sqlx::query_as("SELECT ledger_id, writes FROM meta")
        .fetch_one(&mut connection)
        .await?;
    Ok((connection, Identity { id, writes }))
}

/// Ends the leases of the process that had the file before. The lock proves that it is gone, so
/// nobody finishes what it began: what it was settling is unknown from now on and keeps its payer
/// from being charged again (M6, R9), and an answer that it owed is a credit.
async fn end_leases(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE claims SET lease_until = 0 WHERE lease_until > 0 AND state IN ('claimed', \
         'settling', 'owed')",
    )
    .execute(connection)
    .await?;
    Ok(())
}
