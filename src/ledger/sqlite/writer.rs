//! The one writer of the SQLite ledger: a queue, a thread, and group commit.
//!
//! Whatever waits in the queue when a transaction begins goes into it, each write behind a
//! SAVEPOINT of its own, so that N payments in flight cost one fsync and not N, and a write that
//! fails takes no other with it. Replies go out after the commit: what a caller heard is on disk.
//!
//! Durability: a transaction that holds a step M3 calls durable commits with `synchronous=FULL`. A
//! claim alone commits with NORMAL: it survives `kill -9`, and a power cut that loses it harms
//! nobody, since nothing was sent yet; the next durable step syncs it along. A claim that turned out
//! to spend a credit is an answer, so the transaction that holds one is synced before it is told.
//!
//! A caller that stopped waiting: a write that only matters to it (a claim, a settlement about to
//! begin, an answer) is not done when its turn comes, and undone when it was committed and nobody
//! was there to hear it; the transition was never acted upon, so taking it back is safe, and a
//! buyer whose answer was lost that way keeps its credit (R9, M5). News of what the facilitator did
//! (booked, unknown, released) is written whether somebody waits or not (R10).
//!
//! Failure: when a transaction cannot begin or commit, every write in it is refused with the cause,
//! the connection is closed, and the next transaction opens a new one. So a full disk, a lock or a
//! vanished file is an error for as long as it lasts and no longer. Before each transaction the file
//! is compared with the one at the path, and inside it the ledger's id and write counter with what
//! was last seen (M14): another or an older ledger in its place is refused.

use super::Fault;
use super::paths;
use super::place::FileId;
use super::transitions::{self, Advance, Settlement, Target};
use super::upkeep;
use crate::gate::{
    Booked, ClaimKey, ClaimOutcome, ClaimOwner, LedgerError, NewClaim, PathRecord, Step,
};
use crate::ledger::{Clock, rows};
use jiff::Timestamp;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Writes that may wait. At a millisecond per commit and [`BATCH`] writes in each, the last one
/// waits some tens of milliseconds; on a disk that stalls it is refused instead of piling up.
pub(super) const QUEUE: usize = 1024;

/// Writes in one transaction.
const BATCH: usize = 128;

/// Keeps what one write did and goes on to the next, in one call. The last savepoint of a
/// transaction is empty and ends with it.
const NEXT_WRITE: &str = "RELEASE one_write; SAVEPOINT one_write";

/// Takes back what one write did and goes on to the next.
const NEXT_WRITE_INSTEAD: &str = "ROLLBACK TO one_write";

/// One queued write with the place for its result.
#[derive(Debug)]
pub(super) enum Write {
    Claim(Box<NewClaim>, ClaimOwner, Reply<ClaimOutcome>),
    Advance(Advance, Reply<Step>),
    Book(Settlement, Duration, Reply<Booked>),
    MarkUnknown(Settlement, Reply<Step>),
    SavePaths(Vec<PathRecord>, Vec<PathRecord>, Reply<()>),
    ApplyLeases(Reply<()>),
    Prune(Timestamp, Reply<usize>),
    /// A statement to run after the commit, outside of any transaction, to provoke faults.
    #[cfg(test)]
    Raw(&'static str, Reply<()>),
}

/// Where the result of a write waits for the commit, and who waits for it.
#[derive(Debug)]
pub(super) struct Reply<T> {
    to: Option<oneshot::Sender<Result<T, Fault>>>,
    result: Option<Result<T, Fault>>,
}

/// The writer's side of the queue.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) queue: mpsc::Receiver<Write>,
    pub(super) options: SqliteConnectOptions,
    pub(super) path: PathBuf,
    pub(super) clock: Clock,
    /// The connection, when there is one, and the file it has open.
    pub(super) open: Option<(SqliteConnection, FileId)>,
    /// What the last commit left in `meta` (M14).
    pub(super) seen: Identity,
    /// Whether the connection syncs at every commit.
    pub(super) syncs: bool,
}

/// The ledger's id and how many transactions it has seen (M14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: String,
    pub(super) writes: i64,
}

impl<T> Reply<T> {
    /// A reply and the end that waits for it.
    pub(super) fn new() -> (Self, oneshot::Receiver<Result<T, Fault>>) {
        let (to, from) = oneshot::channel();
        (
            Self {
                to: Some(to),
                result: None,
            },
            from,
        )
    }

    const fn nobody() -> Self {
        Self {
            to: None,
            result: None,
        }
    }

    fn is_given_up(&self) -> bool {
        self.to.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    /// Hands the result over; the result again when nobody heard it.
    fn deliver(&mut self, outcome: Result<(), Fault>) -> Option<T> {
        let result = match (self.result.take(), outcome) {
            (Some(Ok(value)), Ok(())) => Ok(value),
            (Some(Err(fault)), _) | (_, Err(fault)) => Err(fault),
            (None, Ok(())) => Err(Fault::Overdue),
        };
        match self.to.take()?.send(result) {
            Ok(()) => None,
            Err(unheard) => unheard.ok(),
        }
    }
}

impl Write {
    /// Whether its commit must be on the disk (M3).
    fn is_durable(&self) -> bool {
        match self {
            Self::Advance(advance, _) => match advance.to {
                Target::Settling(_) | Target::Answered => true,
                Target::Abandoned | Target::Released | Target::Unanswered => false,
            },
            Self::Book(..) | Self::SavePaths(..) => true,
            // A claim that spent a credit is only known afterwards.
            Self::Claim(_, _, reply) => {
                matches!(reply.result, Some(Ok(ClaimOutcome::CreditSpent { .. })))
            }
            Self::MarkUnknown(..) | Self::ApplyLeases(_) | Self::Prune(..) => false,
            #[cfg(test)]
            Self::Raw(..) => false,
        }
    }

    /// Whether it is pointless by now: it matters only to a caller that has gone.
    fn is_given_up(&self) -> bool {
        match self {
            Self::Claim(_, _, reply) => reply.is_given_up(),
            Self::Advance(advance, reply) => match advance.to {
                Target::Settling(_) | Target::Answered => reply.is_given_up(),
                Target::Abandoned | Target::Released | Target::Unanswered => false,
            },
            Self::Book(..)
            | Self::MarkUnknown(..)
            | Self::SavePaths(..)
            | Self::ApplyLeases(_)
            | Self::Prune(..) => false,
            #[cfg(test)]
            Self::Raw(..) => false,
        }
    }

    /// Does the write; the result waits for the commit.
    async fn execute(
        &mut self,
        connection: &mut SqliteConnection,
        now: i64,
    ) -> Result<(), sqlx::Error> {
        match self {
            Self::Claim(claim, owner, reply) => {
                let outcome = transitions::claim(connection, claim, *owner, now).await?;
                reply.result = Some(Ok(outcome));
            }
            Self::Advance(advance, reply) => {
                let step = transitions::advance(connection, advance, now).await?;
                reply.result = Some(Ok(step));
            }
            Self::Book(settlement, waiter, reply) => {
                let booked = transitions::book(connection, settlement, *waiter, now).await?;
                reply.result = Some(Ok(booked));
            }
            Self::MarkUnknown(settlement, reply) => {
                let step = transitions::mark_unknown(connection, settlement, now).await?;
                reply.result = Some(Ok(step));
            }
            Self::SavePaths(changes, removals, reply) => {
                paths::save(connection, changes, removals).await?;
                reply.result = Some(Ok(()));
            }
            Self::ApplyLeases(reply) => {
                upkeep::apply_leases(connection, now).await?;
                reply.result = Some(Ok(()));
            }
            Self::Prune(at, reply) => {
                let pruned = upkeep::prune(connection, rows::millis(*at)).await?;
                reply.result = Some(Ok(pruned));
            }
            #[cfg(test)]
            Self::Raw(_, reply) => reply.result = Some(Ok(())),
        }
        Ok(())
    }

    fn fail(&mut self, fault: Fault) {
        match self {
            Self::Claim(_, _, reply) => reply.result = Some(Err(fault)),
            Self::Advance(_, reply) | Self::MarkUnknown(_, reply) => {
                reply.result = Some(Err(fault));
            }
            Self::Book(_, _, reply) => reply.result = Some(Err(fault)),
            Self::SavePaths(_, _, reply) | Self::ApplyLeases(reply) => {
                reply.result = Some(Err(fault));
            }
            Self::Prune(_, reply) => reply.result = Some(Err(fault)),
            #[cfg(test)]
            Self::Raw(_, reply) => reply.result = Some(Err(fault)),
        }
    }

    /// Tells the caller; what must be taken back when it was done and nobody was there to hear it.
    fn deliver(self, outcome: Result<(), Fault>) -> Option<Self> {
        match self {
            Self::Claim(claim, owner, mut reply) => match reply.deliver(outcome)? {
                ClaimOutcome::Claimed(_) => Some(Self::undo(claim.key, owner, Target::Released)),
                ClaimOutcome::CreditSpent { .. } => {
                    Some(Self::undo(claim.key, owner, Target::Abandoned))
                }
                ClaimOutcome::Taken(_) | ClaimOutcome::UnknownOutstanding => None,
            },
            Self::Advance(Advance { key, owner, to }, mut reply) => {
                match (reply.deliver(outcome)?, to) {
                    (Step::Done, Target::Settling(_)) => {
                        Some(Self::undo(key, owner, Target::Released))
                    }
                    (Step::Done, Target::Answered) => {
                        Some(Self::undo(key, owner, Target::Unanswered))
                    }
                    (Step::Done, Target::Abandoned | Target::Released | Target::Unanswered)
                    | (Step::Lost, _) => None,
                }
            }
            Self::MarkUnknown(_, mut reply) => reply.deliver(outcome).and(None),
            Self::Book(_, _, mut reply) => reply.deliver(outcome).and(None),
            Self::SavePaths(_, _, mut reply) | Self::ApplyLeases(mut reply) => {
                reply.deliver(outcome).and(None)
            }
            Self::Prune(_, mut reply) => reply.deliver(outcome).and(None),
            #[cfg(test)]
            Self::Raw(_, mut reply) => reply.deliver(outcome).and(None),
        }
    }

    const fn undo(key: ClaimKey, owner: ClaimOwner, to: Target) -> Self {
        Self::Advance(Advance { key, owner, to }, Reply::nobody())
    }
}

impl Writer {
    /// Writes until every handle is gone and the queue is empty.
    pub(super) async fn run(mut self) {
        let mut taken_back = Vec::new();
        loop {
            let mut batch = std::mem::take(&mut taken_back);
            if batch.is_empty() {
                match self.queue.recv().await {
                    Some(write) => batch.push(write),
                    None => break,
                }
            }
            while batch.len() < BATCH
                && let Ok(write) = self.queue.try_recv()
            {
                batch.push(write);
            }
            batch.retain(|write| !write.is_given_up());
            if !batch.is_empty() {
                taken_back = self.write(batch).await;
            }
        }
        self.close().await;
    }

    /// One transaction with all of `batch`; what has to be taken back in the next.
    async fn write(&mut self, mut batch: Vec<Write>) -> Vec<Write> {
        let outcome = self.transact(&mut batch).await;
        if let Err(fault) = &outcome {
            tracing::warn!(
                error = fault as &dyn std::error::Error,
                writes = batch.len(),
                "the ledger could not write"
            );
            self.close().await;
        }
        batch
            .into_iter()
            .filter_map(|write| write.deliver(outcome.clone()))
            .collect()
    }

    async fn transact(&mut self, batch: &mut [Write]) -> Result<(), Fault> {
        let now = rows::millis(self.clock.now());
        let durable = batch.iter().any(Write::is_durable);
        self.connect().await?;
        self.sync_commits(durable).await?;
        let connection = self.connection()?;
        run(connection, "BEGIN IMMEDIATE").await?;
        run(connection, "SAVEPOINT one_write").await?;
        for write in &mut *batch {
            let done = write.execute(connection, now).await;
            // The caller may have left while it was done: not done is better than undone.
            let kept = done.is_ok() && !write.is_given_up();
            let next = if kept { NEXT_WRITE } else { NEXT_WRITE_INSTEAD };
            if let Err(lost) = sqlx::raw_sql(next).execute(&mut *connection).await {
                // A full disk ends the whole transaction; what it said first is the cause.
                return Err(done.err().unwrap_or(lost).into());
            }
            match done {
                Ok(()) if kept => {}
                // What was taken back here must not be undone once more after the commit.
                Ok(()) => write.fail(Fault::Overdue),
                Err(error) => write.fail(error.into()),
            }
        }
        self.commit().await?;
        #[cfg(test)]
        for write in &*batch {
            if let Write::Raw(sql, _) = write {
                sqlx::raw_sql(*sql).execute(self.connection()?).await?;
            }
        }
        if !durable && batch.iter().any(Write::is_durable) {
            self.sync_commits(true).await?;
            run(self.connection()?, "BEGIN IMMEDIATE").await?;
            self.commit().await?;
        }
        Ok(())
    }

    /// Counts the transaction, checks that this is still our ledger (M14), and commits.
    async fn commit(&mut self) -> Result<(), Fault> {
        let (id, writes): (String, i64) =
            sqlx::query_as("UPDATE meta SET writes = writes + 1 RETURNING ledger_id, writes")
                .fetch_one(self.connection()?)
                .await?;
        if id != self.seen.id || writes <= self.seen.writes {
            return Err(Fault::Replaced);
        }
        run(self.connection()?, "COMMIT").await?;
        self.seen.writes = writes;
        Ok(())
    }

    /// Makes sure that the connection has the file open that is at the path.
    async fn connect(&mut self) -> Result<(), Fault> {
        let present = FileId::of(&self.path).map_err(|source| Fault::Gone(Arc::new(source)))?;
        if self.open.as_ref().is_some_and(|(_, file)| *file != present) {
            self.close().await;
        }
        if self.open.is_none() {
            let connection = self.options.connect().await?;
            self.open = Some((connection, present));
            self.syncs = true;
        }
        Ok(())
    }

    fn connection(&mut self) -> Result<&mut SqliteConnection, Fault> {
        self.open
            .as_mut()
            .map(|(connection, _)| connection)
            .ok_or(Fault::WriterGone)
    }

    /// `synchronous` can only change between transactions.
    async fn sync_commits(&mut self, syncs: bool) -> Result<(), Fault> {
        if self.syncs != syncs {
            let sql = if syncs {
                "PRAGMA synchronous = FULL"
            } else {
                "PRAGMA synchronous = NORMAL"
            };
            run(self.connection()?, sql).await?;
            self.syncs = syncs;
        }
        Ok(())
    }

    /// Closes the connection; an open transaction is rolled back by that.
    async fn close(&mut self) {
        if let Some((connection, _)) = self.open.take()
            && let Err(error) = connection.close().await
        {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the ledger's connection did not close cleanly"
            );
        }
    }
}

async fn run(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(sql).execute(connection).await?;
    Ok(())
}

/// A [`LedgerError`] for `operation`.
pub(super) fn refused(operation: &'static str, fault: Fault) -> LedgerError {
    LedgerError {
        operation,
        source: Box::new(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::contract::{LEASE, claim, key};

    const OWNER: ClaimOwner = ClaimOwner([1; 16]);

    fn advance(to: Target) -> Write {
        let key = key(1);
        Write::Advance(
            Advance {
                key,
                owner: OWNER,
                to,
            },
            Reply::nobody(),
        )
    }

    fn settlement() -> Settlement {
        Settlement {
            key: key(1),
            owner: OWNER,
            transaction: None,
        }
    }

    fn claimed(outcome: ClaimOutcome) -> Write {
        let reply = Reply {
            to: None,
            result: Some(Ok(outcome)),
        };
        Write::Claim(Box::new(claim(1)), OWNER, reply)
    }

    #[test]
    fn what_m3_calls_durable_is_synced_and_a_plain_claim_is_not() {
        let spent = ClaimOutcome::CreditSpent {
            owner: OWNER,
            transaction: "0xc1".into(),
        };
        let synced = [
            advance(Target::Settling(LEASE)),
            Write::Book(settlement(), LEASE, Reply::nobody()),
            advance(Target::Answered),
            Write::SavePaths(Vec::new(), Vec::new(), Reply::nobody()),
            claimed(spent),
        ];
        for write in &synced {
            assert!(write.is_durable(), "{write:?}");
        }
        let not_synced = [
            claimed(ClaimOutcome::Claimed(OWNER)),
            advance(Target::Released),
            advance(Target::Abandoned),
            Write::MarkUnknown(settlement(), Reply::nobody()),
        ];
        for write in &not_synced {
            assert!(!write.is_durable(), "{write:?}");
        }
    }

    #[test]
    fn only_what_was_done_and_not_heard_is_taken_back() {
        let unheard = |to| {
            let (mut reply, from) = Reply::new();
            drop(from);
            reply.result = Some(Ok(Step::Done));
            Write::Advance(
                Advance {
                    key: key(1),
                    owner: OWNER,
                    to,
                },
                reply,
            )
        };
        let undone = unheard(Target::Answered).deliver(Ok(()));
        assert!(matches!(
            undone,
            Some(Write::Advance(
                Advance {
                    to: Target::Unanswered,
                    ..
                },
                _
            ))
        ));
        let undone = unheard(Target::Settling(LEASE)).deliver(Ok(()));
        assert!(matches!(
            undone,
            Some(Write::Advance(
                Advance {
                    to: Target::Released,
                    ..
                },
                _
            ))
        ));
        // The transaction failed: nothing was done.
        assert!(
            unheard(Target::Answered)
                .deliver(Err(Fault::Replaced))
                .is_none()
        );
        // Taken back by its savepoint already: a joiner may have answered since.
        let mut rolled_back = unheard(Target::Answered);
        rolled_back.fail(Fault::Overdue);
        assert!(rolled_back.deliver(Ok(())).is_none());
        // Heard.
        let (mut reply, from) = Reply::new();
        reply.result = Some(Ok(Step::Done));
        let to = Target::Answered;
        let heard = Write::Advance(
            Advance {
                key: key(1),
                owner: OWNER,
                to,
            },
            reply,
        );
        assert!(heard.deliver(Ok(())).is_none());
        drop(from);
    }
}
