//! The ledger: which payment was claimed, which settled, who is owed an answer, which paths were
//! ever paid.
//!
//! It implements the gate's port ([`Ledger`]) and decides nothing: each method is one named
//! transition of one row (M3), atomic, refused as [`Step::Lost`] when the row is not in the state
//! and with the owner that the caller names. The money rules are the gate's; what the ledger adds
//! is that two callers can never both succeed, and that what it confirmed outlives a crash.
//!
//! ```text
//! claimed -> settling -> owed -> answered          claimed -> answered   (settle: never)
//!    |          |  |       ^
//!    |          |  +-> unknown     late news of the owner, or proof (M7), ends an unknown
//!    +----------+----> released -> claimed         a new owner
//!  (new key) -> credit_spent, and the credit's row owed -> answered      (M6)
//! ```
//!
//! One type, [`Store`], stands for every backend, so the gate is generic over one thing:
//!
//! - `memory`: for tests, and for who accepts that a restart forgets everything;
//! - `sqlite:PATH`: the default, one process, one file, group commit by one writer.
//!
//! Both pass one contract suite (`ledger/contract.rs`), which is the definition of the port's
//! words; the next backend is one more line in its list.
//!
//! Beside the port stands [`OperatorLedger`]: the file as a command sees it that somebody runs while
//! the verifier serves (`closed release`).
//!
//! Time: leases are measured by the ledger's own [`Clock`] (M3), never by a caller's. A `claimed`
//! row whose lease is over *reads* as released and a `settling` one as unknown, whether or not
//! upkeep has written that down yet. The lease protects a row from others, not from its owner: a
//! settlement that ends after its lease may still be booked by the owner that started it, as long
//! as nobody resolved the row meanwhile.
//!
//! Failure: whatever cannot be done is a [`LedgerError`], never a guess (R1). Nothing here is fatal
//! after start: a full disk, a locked or a vanished file fails calls until its cause ends.

use crate::gate::{
    Booked, ClaimKey, ClaimOutcome, ClaimOwner, ClaimRow, Ledger, LedgerError, NewClaim,
    PathRecord, Release, Step, Total, Upkeep,
};
use crate::metrics::{LedgerOperation, Metrics};
use jiff::Timestamp;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

mod memory;
mod rows;
mod sqlite;

pub use sqlite::{OperateError, OperatorLedger};

#[cfg(test)]
mod contract;
#[cfg(test)]
mod model;

/// Final rows are kept this long after the end of their validity, so that a replay meets its row
/// and not only the chain's refusal.
const PRUNE_MARGIN: Duration = Duration::from_secs(3600);

/// An unknown stops new payments of its payer and route until this long after `validBefore` (M6):
/// the margin is for a transaction that was mined in time and seen late. It proves nothing; the
/// row stays unknown and visible.
const UNKNOWN_MARGIN: Duration = Duration::from_secs(300);

/// Where the ledger is kept: the value of `--ledger`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerUrl {
    /// `memory`: in this process, forgotten at its end.
    Memory,
    /// `sqlite:PATH`: one file, one process.
    Sqlite(PathBuf),
}

/// Why a `--ledger` value names no ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerUrlError {
    /// Unknown form.
    #[error("\"{found}\" names no ledger: write sqlite:PATH or memory")]
    Unknown {
        /// The value, shortened, credentials never included.
        found: String,
    },
    /// `sqlite:` and nothing else, or SQLite's own in-memory database.
    #[error("sqlite: needs the path of a file: write sqlite:x402-verifier.db, or memory")]
    NoPath,
    /// `postgres://...`
    #[error("this version has no PostgreSQL ledger: write sqlite:PATH (one replica), or memory")]
    Postgres,
}

/// Why a ledger could not be opened. Start-up errors: exit 1.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file or its directory is missing, read-only, or not ours.
    #[error(
        "the ledger {path} cannot be written: name a writable place with --ledger sqlite:PATH (in \
         Kubernetes a mounted volume), or --ledger memory, which gives up everything at a restart: \
         used payments are remembered by the chain alone, buyers lose their credits, payments \
         whose settlement is unknown are forgotten, and paths that were closed open again as \
         unmatched"
    )]
    CannotWrite {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A second process.
    #[error(
        "the ledger {path} is in use by another x402-verifier{holder}: stop that one first, or \
         name another file; a SQLite ledger belongs to one replica (in Kubernetes: replicas 1 and \
         strategy Recreate)"
    )]
    InUse {
        /// The file.
        path: String,
        /// ` (process 123)`, or nothing.
        holder: String,
    },
    /// A newer version of this program wrote it.
    #[error(
        "the ledger {path} has schema {found} and this version understands schemas up to \
         {understood}: run the newer version of x402-verifier, or restore a backup made before it"
    )]
    NewerSchema {
        /// The file.
        path: String,
        /// Oldest schema that a program must understand to use the file.
        found: i64,
        /// Newest schema of this program.
        understood: i64,
    },
    /// A database, but not a ledger.
    #[error("{path} is the database of another program: name another file with --ledger")]
    Foreign {
        /// The file.
        path: String,
    },
    /// Not a database, or one that is damaged.
    #[error(
        "the ledger {path} is damaged or no SQLite file: restore it from a backup, or keep the \
         damaged file elsewhere and start with an empty one (payments that it recorded could then \
         be presented again until they expire)"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What SQLite said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Locked, full, or out of reach right now.
    #[error(
        "the ledger {path} cannot be used now: look at the cause below (a full disk, or another \
         program that locks the file) and start again"
    )]
    Unavailable {
        /// The file.
        path: String,
        /// Cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The clock that leases are measured with (M3). Tests pass one that they move.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

/// A ledger of any kind.
#[derive(Debug)]
pub struct Store {
    backend: Backend,
    metrics: Option<Arc<Metrics>>,
}

#[derive(Debug)]
enum Backend {
    Memory(memory::MemoryLedger),
    Sqlite(sqlite::SqliteLedger),
}

impl Clock {
    /// A clock that reads `now`.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The clock of this machine.
    #[must_use]
    pub fn system() -> Self {
        Self::new(Timestamp::now)
    }

    fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

impl FromStr for LedgerUrl {
    type Err = LedgerUrlError;

    fn from_str(text: &str) -> Result<Self, LedgerUrlError> {
        if text == "memory" {
            return Ok(Self::Memory);
        }
        if let Some(path) = text.strip_prefix("sqlite:") {
            // `sqlite:///data/x.db` is the URL spelling of `sqlite:/data/x.db`.
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path {
                "" | ":memory:" => Err(LedgerUrlError::NoPath),
                path => Ok(Self::Sqlite(PathBuf::from(path))),
            };
        }
        match text.split(':').next() {
            Some("postgres" | "postgresql") => Err(LedgerUrlError::Postgres),
            // Only the scheme: what follows may carry a password (R13).
            Some(scheme) if scheme.len() < text.len() => Err(LedgerUrlError::Unknown {
                found: shorten(&format!("{scheme}:...")),
            }),
            Some(_) | None => Err(LedgerUrlError::Unknown {
                found: shorten(text),
            }),
        }
    }
}

impl fmt::Display for LedgerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

impl Store {
    /// Opens the ledger at `url`, creating and migrating it when needed.
    ///
    /// # Errors
    /// When the place cannot be written, is used by another process, or holds something that is
    /// not a ledger of this version; the message says what to do.
    pub async fn open(
        url: &LedgerUrl,
        clock: Clock,
        metrics: Option<Arc<Metrics>>,
    ) -> Result<Self, OpenError> {
        let backend = match url {
            LedgerUrl::Memory => Backend::Memory(memory::MemoryLedger::new(clock)),
            LedgerUrl::Sqlite(path) => {
                Backend::Sqlite(sqlite::SqliteLedger::open(path, clock).await?)
            }
        };
        Ok(Self { backend, metrics })
    }

    /// A ledger in memory, for tests and for what needs no file.
    #[must_use]
    pub fn memory(clock: Clock) -> Self {
        Self {
            backend: Backend::Memory(memory::MemoryLedger::new(clock)),
            metrics: None,
        }
    }

    /// Identity of this ledger (M14): another id at the same place is another ledger. `memory` for
    /// the one that has no other life.
    #[must_use]
    pub fn id(&self) -> &str {
        match &self.backend {
            Backend::Memory(_) => "memory",
            Backend::Sqlite(ledger) => ledger.id(),
        }
    }

    /// Whether it survives a restart (M10 demands that where nothing settles).
    #[must_use]
    pub const fn is_durable(&self) -> bool {
        match &self.backend {
            Backend::Memory(_) => false,
            Backend::Sqlite(_) => true,
        }
    }

    /// Resolves when the ledger can never write again, by a defect of its own: every payment would
    /// be refused until the process is restarted, so the process should end.
    pub async fn failed(&self) {
        match &self.backend {
            Backend::Memory(_) => std::future::pending().await,
            Backend::Sqlite(ledger) => ledger.failed().await,
        }
    }

    /// Finishes what is queued and closes the file. Dropping the store does the same without
    /// waiting for it.
    pub async fn close(self) {
        match self.backend {
            Backend::Memory(_) => {}
            Backend::Sqlite(ledger) => ledger.close().await,
        }
    }

    fn counted<T>(
        &self,
        operation: LedgerOperation,
        result: Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        if let Some(metrics) = &self.metrics {
            metrics.ledger_operation(operation, result.is_ok());
        }
        result
    }
}

impl Ledger for Store {
    async fn lookup(&self, key: &ClaimKey) -> Result<Option<ClaimRow>, LedgerError> {
        let result = match &self.backend {
            Backend::Memory(ledger) => ledger.lookup(key).await,
            Backend::Sqlite(ledger) => ledger.lookup(key).await,
        };
        self.counted(LedgerOperation::Lookup, result)
    }

    async fn claim(&self, claim: &NewClaim) -> Result<ClaimOutcome, LedgerError> {
        let result = match &self.backend {
            Backend::Memory(ledger) => ledger.claim(claim).await,
            Backend::Sqlite(ledger) => ledger.claim(claim).await,
        };
        self.counted(LedgerOperation::Claim, result)
    }

    async fn begin_settle(
        &self,
        key: &ClaimKey,
        owner: ClaimOwner,
        lease: Duration,
    ) -> Result<Step, LedgerError> {
        let result = match &self.backend {
            Backend::Memory(ledger) => ledger.begin_settle(key, owner, lease).await,
            Backend::Sqlite(ledger) => ledger.begin_settle(key, owner, lease).await,
        };
        self.counted(LedgerOperation::Advance, result)
    }

    async fn book_settled(
        &self,
        key: &ClaimKey,
        owner: ClaimOwner,
        transaction: &str,
        waiter: Duration,
    ) -> Result<Booked, LedgerError> {
        let result = match &self.backend {
            Backend::Memory(ledger) => ledger.book_settled(key, owner, transaction, waiter).await,
            Backend::Sqlite(ledger) => ledger.book_settled(key, owner, transaction, waiter).await,
        };
        self.counted(LedgerOperation::Advance, result)
    }

    async fn abandon(&self, key: &ClaimKey, owner: ClaimOwner) -> Result<Step, LedgerError> {
        let result = match &self.backend {
            Backend::Memory(ledger) => ledger.abandon(key, owner).await,
            Backend::Sqlite(ledger) => ledger.abandon(key, owner).await,
        };
        self.counted(LedgerOperation::Advance, result)
    }

    async fn answer(&self, key: &ClaimKey, owner: ClaimOwner) -> Result<Step, LedgerError> {
        let result = match &self.backend {
            Backend::Memory(ledger) => ledger.answer(key, owner).await,
            Backend::Sqlite(ledger) => ledger.answer(key, owner).await,
        };
        self.counted(LedgerOperation::Advance, result)
    }

    async fn release(&self, key: &ClaimKey, owner: ClaimOwner) -> Result<Step, LedgerError> {
        let result = match &self.backend {
            Backend::Memory(ledger) => ledger.release(key, owner).await,
            Backend::Sqlite(ledger) => ledger.release(key, owner).await,
        };
        self.counted(LedgerOperation::Advance, result)
    }

    async fn mark_unknown(
        &self,
        key: &ClaimKey,
        owner: ClaimOwner,
        transaction: Option<&str>,
    ) -> Result<Step, LedgerError> {
        let result = match &self.backend {
            Backend::Memory(ledger) => ledger.mark_unknown(key, owner, transaction).await,
            Backend::Sqlite(ledger) => ledger.mark_unknown(key, owner, transaction).await,
        };
        self.counted(LedgerOperation::Advance, result)
    }

    async fn paths(&self) -> Result<Vec<PathRecord>, LedgerError> {
        let result = match &self.backend {
            Backend::Memory(ledger) => ledger.paths().await,
            Backend::Sqlite(ledger) => ledger.paths().await,
        };
        self.counted(LedgerOperation::Paths, result)
    }

    /// Not counted: it is asked every other second.
    async fn releases(&self, after: u64) -> Result<Vec<Release>, LedgerError> {
        match &self.backend {
            Backend::Memory(ledger) => ledger.releases(after).await,
            Backend::Sqlite(ledger) => ledger.releases(after).await,
        }
    }

    async fn save_paths(
        &self,
        changes: &[PathRecord],
        removals: &[PathRecord],
    ) -> Result<(), LedgerError> {
        let result = match &self.backend {
            Backend::Memory(ledger) => ledger.save_paths(changes, removals).await,
            Backend::Sqlite(ledger) => ledger.save_paths(changes, removals).await,
        };
        self.counted(LedgerOperation::Paths, result)
    }

    async fn upkeep(&self, now: Timestamp) -> Result<Upkeep, LedgerError> {
        let result = match &self.backend {
            Backend::Memory(ledger) => ledger.upkeep(now).await,
            Backend::Sqlite(ledger) => ledger.upkeep(now).await,
        };
        self.counted(LedgerOperation::Upkeep, result)
    }

    async fn totals(&self) -> Result<Vec<Total>, LedgerError> {
        let result = match &self.backend {
            Backend::Memory(ledger) => ledger.totals().await,
            Backend::Sqlite(ledger) => ledger.totals().await,
        };
        self.counted(LedgerOperation::Upkeep, result)
    }
}

/// The file name of a companion of `path` (`x.db` and `.lock` give `x.db.lock`).
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ledger_values_are_parsed_and_print_as_they_were_written() {
        let cases = [
            ("memory", LedgerUrl::Memory, "memory"),
            (
                "sqlite:x.db",
                LedgerUrl::Sqlite("x.db".into()),
                "sqlite:x.db",
            ),
            (
                "sqlite:/data/x.db",
                LedgerUrl::Sqlite("/data/x.db".into()),
                "sqlite:/data/x.db",
            ),
            (
                "sqlite:///data/x.db",
                LedgerUrl::Sqlite("/data/x.db".into()),
                "sqlite:/data/x.db",
            ),
            (
                "sqlite://x.db",
                LedgerUrl::Sqlite("x.db".into()),
                "sqlite:x.db",
            ),
        ];
        for (text, url, shown) in cases {
            assert_eq!(text.parse(), Ok(url.clone()));
            assert_eq!(url.to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_ledger_is_refused_by_name_and_never_echoes_a_password() {
        let parse = |text: &str| text.parse::<LedgerUrl>().unwrap_err();
        assert_eq!(parse("sqlite:"), LedgerUrlError::NoPath);
        assert_eq!(parse("sqlite::memory:"), LedgerUrlError::NoPath);
        assert_eq!(
            parse("postgres://u:secret@host/db"),
            LedgerUrlError::Postgres
        );
        assert_eq!(
            parse("redis://u:secret@host"),
            LedgerUrlError::Unknown {
                found: "redis:...".into()
            }
        );
        assert_eq!(
            parse("x402.db").to_string(),
            "\"x402.db\" names no ledger: write sqlite:PATH or memory"
        );
        assert!(
            !parse("mysql://u:secret@host")
                .to_string()
                .contains("secret")
        );
    }

    #[test]
    fn a_place_that_cannot_be_written_names_the_alternatives_and_what_memory_gives_up() {
        let error = OpenError::CannotWrite {
            path: "/ro/x.db".into(),
            source: "read-only file system".into(),
        };
        let text = error.to_string();
        for part in [
            "/ro/x.db",
            "--ledger sqlite:PATH",
            "--ledger memory",
            "gives up",
            "credits",
        ] {
            assert!(text.contains(part), "{part:?} is missing in {text:?}");
        }
    }
}
