//! What only a file can show: crashes, faults, schema versions, durability, speed of bulk writes.

use super::super::contract::{self, Time, claim, credit_of, key, owner_of};
use super::super::{LedgerUrl, OpenError, Store, beside, model};
use super::*;
use crate::gate::ClaimState;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use tempfile::TempDir;

const LEASE: Duration = contract::LEASE;

async fn open(path: &Path, time: &Time) -> SqliteLedger {
    SqliteLedger::open(path, time.clock()).await.unwrap()
}

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    (folder, path)
}

/// The whole chain of causes in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

async fn raw(ledger: &SqliteLedger, sql: &'static str) {
    ledger
        .write("provoke a fault", |reply| Write::Raw(sql, reply))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_keeps_the_contract() {
    let (folder, _) = place();
    let number = std::sync::atomic::AtomicU32::new(0);
    contract::holds(async |clock| {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let url = LedgerUrl::Sqlite(folder.path().join(format!("{number}.db")));
        Store::open(&url, clock, None).await.unwrap()
    })
    .await;
}

#[test]
fn sqlite_follows_the_model() {
    let (_folder, path) = place();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let time = Time::new();
    let ledger = runtime.block_on(open(&path, &time));
    model::follows(&runtime, &ledger, &time, 60);
}

#[tokio::test]
async fn everything_is_there_after_a_restart_and_the_id_stays_m14() {
    let (_folder, path) = place();
    let time = Time::new();
    let url = LedgerUrl::Sqlite(path.clone());
    let first = Store::open(&url, time.clock(), None).await.unwrap();
    let id = first.id().to_owned();
    assert!(first.is_durable() && id.len() == 32);
    let owner = owner_of(&first.claim(&claim(1)).await.unwrap());
    first.close().await;
    let second = Store::open(&url, time.clock(), None).await.unwrap();
    assert_eq!(second.id(), id);
    let row = second.lookup(&key(1)).await.unwrap().unwrap();
    assert_eq!(row.state, ClaimState::Released, "nobody is left to settle");
    assert_eq!(
        second.begin_settle(&key(1), owner, LEASE).await.unwrap(),
        Step::Lost
    );
    second.close().await;
    let url = LedgerUrl::Sqlite(path.with_extension("other"));
    let other = Store::open(&url, time.clock(), None).await.unwrap();
    assert_ne!(other.id(), id);
}

#[tokio::test]
async fn the_files_are_private() {
    let (_folder, path) = place();
    let ledger = open(&path, &Time::new()).await;
    ledger.claim(&claim(1)).await.unwrap();
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let mode = std::fs::metadata(beside(&path, suffix))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
}

#[tokio::test]
async fn a_second_process_is_refused_and_told_who_is_there() {
    let (_folder, path) = place();
    let first = open(&path, &Time::new()).await;
    let error = SqliteLedger::open(&path, Clock::system())
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, OpenError::InUse { .. }));
    assert!(
        text.contains(&format!("(process {})", std::process::id())),
        "{text}"
    );
    drop(first);
    open(&path, &Time::new()).await;
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_a_clear_error() {
    let (folder, path) = place();
    let missing = folder.path().join("missing").join("ledger.db");
    let below_a_file = {
        std::fs::write(&path, "").unwrap();
        path.join("ledger.db")
    };
    for place in [
        missing,
        below_a_file,
        folder.path().to_owned(),
        "/proc/ledger.db".into(),
    ] {
        let error = SqliteLedger::open(&place, Clock::system())
            .await
            .unwrap_err();
        assert!(
            matches!(error, OpenError::CannotWrite { .. }),
            "{place:?}: {error:?}"
        );
        assert!(
            error
                .to_string()
                .contains("--ledger memory, which gives up")
        );
    }
}

#[tokio::test]
async fn what_is_no_ledger_is_refused_and_left_as_it_is() {
    let (folder, path) = place();
    let garbage = "not a database, ".repeat(1000);
    std::fs::write(&path, &garbage).unwrap();
    let error = SqliteLedger::open(&path, Clock::system())
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), garbage);

    let foreign = folder.path().join("foreign.db");
    let mut connection = SqliteConnectOptions::new()
        .filename(&foreign)
        .create_if_missing(true)
        .connect()
        .await
        .unwrap();
    sqlx::raw_sql("CREATE TABLE dear (data TEXT)")
        .execute(&mut connection)
        .await
        .unwrap();
    let error = SqliteLedger::open(&foreign, Clock::system())
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_both_numbers_and_an_expanded_one_is_used() {
    let (_folder, path) = place();
    let time = Time::new();
    let ledger = open(&path, &time).await;
    // An expand-only successor: a column more, which an older program does not know (rollback).
    raw(
        &ledger,
        "PRAGMA user_version = 7; ALTER TABLE claims ADD COLUMN later TEXT",
    )
    .await;
    ledger.close().await;
    let ledger = open(&path, &time).await;
    owner_of(&ledger.claim(&claim(1)).await.unwrap());
    raw(&ledger, "UPDATE meta SET needs_schema = 8").await;
    ledger.close().await;
    let error = SqliteLedger::open(&path, time.clock()).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(
        error,
        OpenError::NewerSchema {
            found: 8,
            understood: 2,
            ..
        }
    ));
    assert!(
        text.contains("schema 8") && text.contains("up to 2"),
        "{text}"
    );
}

#[tokio::test]
async fn a_full_disk_is_an_error_for_as_long_as_it_lasts() {
    let (_folder, path) = place();
    let ledger = open(&path, &Time::new()).await;
    let owner = owner_of(&ledger.claim(&claim(1)).await.unwrap());
    raw(&ledger, "PRAGMA max_page_count = 1").await;
    let error = fill(&ledger).await;
    assert!(causes(&error).contains("full"), "{}", causes(&error));
    // The fault closed the connection, and with it went the limit: the cause has ended.
    owner_of(&ledger.claim(&claim(2_000_000)).await.unwrap());
    assert_eq!(
        ledger.begin_settle(&key(1), owner, LEASE).await.unwrap(),
        Step::Done
    );
}

/// Claims until the disk is full.
async fn fill(ledger: &SqliteLedger) -> LedgerError {
    for nonce in 1000..2000 {
        if let Err(error) = ledger.claim(&claim(nonce)).await {
            let row = ledger.lookup(&key(nonce)).await.unwrap();
            assert_eq!(row, None, "refused and written");
            return error;
        }
    }
    panic!("the disk never became full");
}

#[tokio::test]
async fn a_lock_by_another_program_is_an_error_for_as_long_as_it_lasts() {
    let (_folder, path) = place();
    let ledger = open(&path, &Time::new()).await;
    let owner = owner_of(&ledger.claim(&claim(1)).await.unwrap());
    let mut other = SqliteConnectOptions::new()
        .filename(&path)
        .connect()
        .await
        .unwrap();
    sqlx::raw_sql("BEGIN EXCLUSIVE")
        .execute(&mut other)
        .await
        .unwrap();
    let error = ledger
        .begin_settle(&key(1), owner, LEASE)
        .await
        .unwrap_err();
    assert_eq!(error.operation, "begin a settlement");
    assert!(causes(&error).contains("locked"), "{}", causes(&error));
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    assert_eq!(
        ledger.begin_settle(&key(1), owner, LEASE).await.unwrap(),
        Step::Done
    );
}

#[tokio::test]
async fn a_read_only_database_refuses_writes_and_recovers() {
    let (_folder, path) = place();
    let ledger = open(&path, &Time::new()).await;
    raw(&ledger, "PRAGMA query_only = ON").await;
    let error = ledger.claim(&claim(1)).await.unwrap_err();
    assert!(causes(&error).contains("readonly"), "{}", causes(&error));
    assert_eq!(ledger.lookup(&key(1)).await.unwrap(), None);
    owner_of(&ledger.claim(&claim(1)).await.unwrap());
}

#[tokio::test]
async fn a_file_that_is_gone_or_replaced_is_refused_until_it_is_back_m14() {
    let (folder, path) = place();
    let time = Time::new();
    let ledger = open(&path, &time).await;
    let owner = owner_of(&ledger.claim(&claim(1)).await.unwrap());
    raw(&ledger, "PRAGMA wal_checkpoint(TRUNCATE)").await;

    let away = folder.path().join("away.db");
    let older = folder.path().join("older.db");
    std::fs::copy(&path, &older).unwrap();
    std::fs::rename(&path, &away).unwrap();
    let error = ledger.claim(&claim(2)).await.unwrap_err();
    assert!(causes(&error).contains("gone"), "{}", causes(&error));

    let stranger = folder.path().join("stranger.db");
    open(&stranger, &time).await.close().await;
    std::fs::copy(&stranger, &path).unwrap();
    let error = ledger.claim(&claim(2)).await.unwrap_err();
    assert!(
        causes(&error).contains("another or an older ledger"),
        "{}",
        causes(&error)
    );

    remove(&path);
    std::fs::rename(&away, &path).unwrap();
    assert_eq!(
        ledger.begin_settle(&key(1), owner, LEASE).await.unwrap(),
        Step::Done
    );

    // A backup of the same ledger, made before the last writes.
    remove(&path);
    std::fs::copy(&older, &path).unwrap();
    let error = ledger.claim(&claim(3)).await.unwrap_err();
    assert!(
        causes(&error).contains("another or an older ledger"),
        "{}",
        causes(&error)
    );
}

fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(beside(path, suffix)).ok();
    }
}

#[tokio::test]
async fn a_damaged_page_is_an_error_and_no_pass() {
    let (_folder, path) = place();
    let time = Time::new();
    let ledger = open(&path, &time).await;
    for nonce in 0..200 {
        ledger.claim(&claim(nonce)).await.unwrap();
    }
    ledger.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    for byte in bytes.iter_mut().skip(2 * 4096) {
        *byte = 0xa5;
    }
    std::fs::write(&path, bytes).unwrap();
    match SqliteLedger::open(&path, time.clock()).await {
        Err(OpenError::Damaged { .. }) => {}
        Err(other) => panic!("{other:?}"),
        Ok(ledger) => {
            let error = ledger.lookup(&key(1)).await.unwrap_err();
            assert!(causes(&error).contains("malformed"), "{}", causes(&error));
            let error = ledger.claim(&claim(1)).await.unwrap_err();
            assert!(causes(&error).contains("malformed"), "{}", causes(&error));
        }
    }
}

#[tokio::test]
async fn one_write_that_fails_takes_no_other_of_its_transaction_with_it() {
    let (_folder, path) = place();
    let ledger = open(&path, &Time::new()).await;
    let mut impossible = claim(1);
    impossible.scope.chain_id = u64::MAX;
    let second = claim(2);
    let (first, second) = tokio::join!(ledger.claim(&impossible), ledger.claim(&second));
    assert!(causes(&first.unwrap_err()).contains("chain_id"));
    owner_of(&second.unwrap());
    assert_eq!(ledger.lookup(&key(1)).await.unwrap(), None);
}

/// Polls once, so that the write is queued, and leaves.
async fn start_and_leave(write: impl Future<Output = Result<Step, LedgerError>>) {
    let mut write = std::pin::pin!(write);
    std::future::poll_fn(|context| {
        assert!(write.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_leaves_a_credit_m5_r9() {
    let (_folder, path) = place();
    let ledger = open(&path, &Time::new()).await;
    // Whether the writer sees the caller leave before, during or after its commit is up to the
    // scheduler; the row must end as a credit every time.
    for nonce in 1..=40 {
        let owner = owner_of(
            &ledger
                .claim(&NewClaim {
                    may_spend_credit: false,
                    ..claim(nonce)
                })
                .await
                .unwrap(),
        );
        ledger
            .begin_settle(&key(nonce), owner, LEASE)
            .await
            .unwrap();
        let transaction = format!("0x{nonce}");
        ledger
            .book_settled(&key(nonce), owner, &transaction, Duration::ZERO)
            .await
            .unwrap();
        start_and_leave(ledger.answer(&key(nonce), owner)).await;
    }
    for nonce in 1001..=1040 {
        let outcome = ledger.claim(&claim(nonce)).await.unwrap();
        assert!(
            matches!(outcome, ClaimOutcome::CreditSpent { .. }),
            "{nonce}: {outcome:?}"
        );
    }
    owner_of(&ledger.claim(&claim(2000)).await.unwrap());
}

#[tokio::test]
async fn what_was_committed_unheard_is_taken_back() {
    let (_folder, path) = place();
    let time = Time::new();
    let ledger = open(&path, &time).await;
    let owner = owner_of(&ledger.claim(&claim(1)).await.unwrap());
    ledger.begin_settle(&key(1), owner, LEASE).await.unwrap();
    ledger
        .book_settled(&key(1), owner, "0xc1", Duration::ZERO)
        .await
        .unwrap();
    ledger.answer(&key(1), owner).await.unwrap();
    let undo = Advance {
        key: key(1),
        owner,
        to: Target::Unanswered,
    };
    ledger
        .write("take an answer back", |reply| Write::Advance(undo, reply))
        .await
        .unwrap();
    let state = async |nonce| ledger.lookup(&key(nonce)).await.unwrap().unwrap().state;
    assert_eq!(state(1).await, ClaimState::Owed);

    let spent = ledger.claim(&claim(2)).await.unwrap();
    assert_eq!(credit_of(&spent), "0xc1");
    let ClaimOutcome::CreditSpent { owner, .. } = spent else {
        panic!("{spent:?}")
    };
    ledger.abandon(&key(2), owner).await.unwrap();
    assert_eq!(
        (state(1).await, state(2).await),
        (ClaimState::Owed, ClaimState::Released)
    );
    let spent = ledger.claim(&claim(2)).await.unwrap();
    assert_eq!(credit_of(&spent), "0xc1");
}

#[tokio::test]
async fn a_full_queue_is_an_error() {
    let (_folder, path) = place();
    let ledger = open(&path, &Time::new()).await;
    let mut other = SqliteConnectOptions::new()
        .filename(&path)
        .connect()
        .await
        .unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let claims: Vec<_> = (0..4 * QUEUE as u64).map(claim).collect();
    // The callers stay: a write that nobody waits for would leave the queue unseen.
    let mut waiting = Vec::new();
    let mut refused = None;
    for claim in &claims {
        let mut write = Box::pin(ledger.claim(claim));
        let polled =
            std::future::poll_fn(|context| std::task::Poll::Ready(write.as_mut().poll(context)))
                .await;
        match polled {
            std::task::Poll::Pending => waiting.push(write),
            std::task::Poll::Ready(result) => {
                refused = Some(result.unwrap_err());
                break;
            }
        }
    }
    let refused = causes(&refused.expect("the queue took everything"));
    assert!(refused.contains("writes wait for the disk"), "{refused}");
    assert!(waiting.len() >= QUEUE);
}

#[tokio::test]
async fn an_overdue_disk_is_an_error_and_what_was_refused_is_not_done_later() {
    let (_folder, path) = place();
    let ledger = open(&path, &Time::new()).await;
    let mut other = SqliteConnectOptions::new()
        .filename(&path)
        .connect()
        .await
        .unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    // The paused clock jumps to the deadline, as nothing else happens on this thread.
    tokio::time::pause();
    let error = ledger.claim(&claim(1)).await.unwrap_err();
    tokio::time::resume();
    assert!(
        causes(&error).contains("did not answer in time"),
        "{}",
        causes(&error)
    );
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    owner_of(&ledger.claim(&claim(2)).await.unwrap());
    let row = ledger.lookup(&key(1)).await.unwrap();
    assert!(
        row.is_none_or(|row| row.state == ClaimState::Released),
        "claimed for nobody"
    );
}

#[tokio::test]
async fn a_writer_that_died_refuses_everything_and_is_noticed() {
    let (_folder, path) = place();
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (time, breaks) = (Time::new(), Arc::clone(&broken));
    let clock = Clock::new(move || {
        assert!(
            !breaks.load(std::sync::atomic::Ordering::SeqCst),
            "a planted panic"
        );
        time.now()
    });
    let url = LedgerUrl::Sqlite(path);
    let store = Store::open(&url, clock, None).await.unwrap();
    owner_of(&store.claim(&claim(1)).await.unwrap());
    broken.store(true, std::sync::atomic::Ordering::SeqCst);
    for nonce in 2..4 {
        let error = store.claim(&claim(nonce)).await.unwrap_err();
        assert!(
            causes(&error).contains("writer has ended"),
            "{}",
            causes(&error)
        );
    }
    store.failed().await;
}

#[tokio::test]
async fn a_hundred_thousand_paths_are_saved_at_once_r4() {
    let (_folder, path) = place();
    let ledger = open(&path, &Time::new()).await;
    let records: Vec<_> = (0..100_000)
        .map(|number| PathRecord {
            host: None,
            pattern: format!("/services/offer-{number}/*").into(),
            namespace: format!("team-{}", number % 100).into(),
            name: format!("offer-{number}").into(),
            uid: format!("00000000-0000-4000-8000-{number:012}").into(),
            base: format!("/services/offer-{number}").into(),
            closed_at: None,
        })
        .collect();
    let begun = Instant::now();
    let saved = ledger.save_paths(&records, &[]).await;
    println!("100,000 paths saved in {:?}", begun.elapsed());
    saved.unwrap();
    let begun = Instant::now();
    assert_eq!(ledger.paths().await.unwrap().len(), records.len());
    println!("100,000 paths read in {:?}", begun.elapsed());
}

/// A closed path of the operator's, one of many.
fn closed_path(number: usize) -> PathRecord {
    PathRecord {
        host: number.is_multiple_of(2).then(|| "a.example".into()),
        pattern: format!("/old/{number}/*").into(),
        namespace: "shop".into(),
        name: "offer".into(),
        uid: "".into(),
        base: "/old".into(),
        closed_at: Some(Timestamp::from_nanosecond(1_800_000_000_000_000_007).unwrap()),
    }
}

/// R4: the command beside the process; what it wrote the process reads, once, by number.
#[tokio::test]
async fn a_path_is_released_beside_the_process_and_read_by_it() {
    let (_folder, path) = place();
    let ledger = open(&path, &Time::new()).await;
    let live = PathRecord {
        closed_at: None,
        ..closed_path(9)
    };
    let known = [closed_path(1), closed_path(2), live.clone()];
    ledger.save_paths(&known, &[]).await.unwrap();
    let url = LedgerUrl::Sqlite(path.clone());
    let mut desk = OperatorLedger::open(&url).await.unwrap();
    assert_eq!(desk.paths().await.unwrap().len(), 3);
    let other = PathRecord {
        closed_at: Some(Timestamp::UNIX_EPOCH),
        ..closed_path(1)
    };
    let now = Timestamp::now();
    let asked = [other, live.clone(), closed_path(2), closed_path(3)];
    let released = desk.release(&asked, now).await.unwrap();
    assert_eq!(released, [closed_path(2)], "closed, at that very time");
    assert_eq!(desk.release(&released, now).await.unwrap(), []);
    let seen = ledger.releases(0).await.unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].path, closed_path(2));
    assert_eq!(ledger.releases(seen[0].seq).await.unwrap(), []);
    let mut left = ledger.paths().await.unwrap();
    left.sort();
    assert_eq!(left, [closed_path(1), live]);

    // M14: the process counts on, and numbers never come again.
    desk.release(&[closed_path(1)], now).await.unwrap();
    let next = ledger.releases(seen[0].seq).await.unwrap();
    assert_eq!(next.len(), 1);
    owner_of(&ledger.claim(&claim(1)).await.unwrap());
    desk.close().await;
    ledger.close().await;
    let ledger = open(&path, &Time::new()).await;
    assert_eq!(ledger.releases(0).await.unwrap().len(), 2);
    // What is old is forgotten with the next release.
    let mut desk = OperatorLedger::open(&url).await.unwrap();
    ledger.save_paths(&[closed_path(4)], &[]).await.unwrap();
    let later = now + jiff::SignedDuration::from_hours(25);
    desk.release(&[closed_path(4)], later).await.unwrap();
    let kept = ledger.releases(0).await.unwrap();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].seq > next[0].seq);
}

/// A release of many keeps no payment waiting for longer than its writer waits for the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_go_on_while_many_paths_are_released() {
    let (_folder, path) = place();
    let ledger = open(&path, &Time::new()).await;
    let many: Vec<_> = (0..5_000).map(closed_path).collect();
    ledger.save_paths(&many, &[]).await.unwrap();
    let url = LedgerUrl::Sqlite(path);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let releasing = async {
        let mut desk = OperatorLedger::open(&url).await.unwrap();
        let released = desk.release(&many, Timestamp::now()).await.unwrap().len();
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        released
    };
    let paying = async {
        let (mut claimed, mut locked) = (0, 0);
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
            match ledger.claim(&claim(claimed + locked)).await {
                Ok(_) => claimed += 1,
                Err(_) => locked += 1,
            }
        }
        (claimed, locked)
    };
    let (released, (claimed, locked)) = tokio::join!(releasing, paying);
    println!("{claimed} claimed, {locked} found the file locked");
    assert_eq!(released, many.len());
    // A disk that stalls for 250 ms is no fault of ours.
    assert!(locked * 20 <= claimed, "{locked} of {claimed}");
    assert_eq!(ledger.paths().await.unwrap(), []);
    assert_eq!(ledger.releases(0).await.unwrap().len(), many.len());
}

#[tokio::test]
async fn a_command_opens_only_a_ledger_of_its_own_version_and_makes_none() {
    let (folder, path) = place();
    let url = LedgerUrl::Sqlite(path.clone());
    let error = OperatorLedger::open(&url).await.unwrap_err();
    assert!(matches!(error, OperateError::Missing { .. }), "{error}");
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
    let ledger = open(&path, &Time::new()).await;
    raw(&ledger, "PRAGMA user_version = 1").await;
    let error = OperatorLedger::open(&url).await.unwrap_err();
    assert!(matches!(error, OperateError::Older { .. }), "{error}");
    raw(&ledger, "UPDATE meta SET needs_schema = 9").await;
    raw(&ledger, "PRAGMA user_version = 9").await;
    let error = OperatorLedger::open(&url).await.unwrap_err();
    assert!(error.to_string().contains("schema 9"), "{error}");
    let error = OperatorLedger::open(&LedgerUrl::Memory).await.unwrap_err();
    assert!(error.to_string().contains("kept in memory"), "{error}");
}

/// Rollback and forward: a ledger of the first schema gets the table of releases.
#[tokio::test]
async fn a_ledger_of_the_first_schema_is_migrated_with_its_paths() {
    let (_folder, path) = place();
    let ledger = open(&path, &Time::new()).await;
    ledger.save_paths(&[closed_path(1)], &[]).await.unwrap();
    raw(
        &ledger,
        "DROP TABLE released_paths; PRAGMA user_version = 1",
    )
    .await;
    ledger.close().await;
    let ledger = open(&path, &Time::new()).await;
    assert_eq!(ledger.paths().await.unwrap(), [closed_path(1)]);
    assert_eq!(ledger.releases(0).await.unwrap(), []);
}

#[tokio::test]
async fn the_queries_of_a_claim_use_their_index() {
    let (_folder, path) = place();
    let ledger = open(&path, &Time::new()).await;
    let plans = [
        (
            "claims_open",
            "SELECT max(state = 'owed'), max(valid_before >= 2) FROM claims WHERE payer = 'a' AND \
             route = 'b' AND state IN ('settling', 'owed', 'unknown')",
        ),
        (
            "claims_open",
            "SELECT key FROM claims WHERE payer = 'a' AND route = 'b' AND state IN \
          ('settling', 'owed', 'unknown') AND state = 'owed' AND lease_until <= 1 ORDER BY \
          created_at LIMIT 1",
        ),
        (
            "claims_leased",
            "UPDATE claims SET state = 'unknown' WHERE state IN ('claimed', \
          'settling') AND state = 'settling' AND lease_until <= 1",
        ),
        (
            "claims_valid_before",
            "SELECT key FROM claims WHERE valid_before < 1 AND state IN \
          ('answered', 'released', 'credit_spent', 'spent_elsewhere') ORDER BY valid_before LIMIT 9",
        ),
    ];
    for (index, query) in plans {
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}")))
                .fetch_all(&ledger.readers)
                .await
                .unwrap();
        assert!(
            plan.iter().any(|step| step.3.contains(index)),
            "{query}: {plan:?}"
        );
    }
}

/// Where the child of the crash test stops, and how each row reads: to itself, and to the process
/// that opens the file after it.
const CRASHES: [(&str, ClaimState, ClaimState); 6] = [
    ("claimed", ClaimState::Claimed, ClaimState::Released),
    ("settling", ClaimState::Settling, ClaimState::Unknown),
    ("owed", ClaimState::Owed, ClaimState::Owed),
    ("answered", ClaimState::Answered, ClaimState::Answered),
    ("released", ClaimState::Released, ClaimState::Released),
    ("unknown", ClaimState::Unknown, ClaimState::Unknown),
];

/// Brings the row of `nonce` to the step, as the gate would.
async fn bring_to(ledger: &SqliteLedger, step: &str, nonce: u64) {
    let mut new = claim(nonce);
    new.scope.route = step.into();
    let key = new.key;
    let owner = owner_of(&ledger.claim(&new).await.unwrap());
    if step == "claimed" {
        return;
    }
    ledger.begin_settle(&key, owner, LEASE).await.unwrap();
    match step {
        "settling" => {}
        "released" => assert_eq!(ledger.release(&key, owner).await.unwrap(), Step::Done),
        "unknown" => assert_eq!(
            ledger.mark_unknown(&key, owner, None).await.unwrap(),
            Step::Done
        ),
        _ => {
            ledger
                .book_settled(&key, owner, &format!("0x{nonce}"), LEASE)
                .await
                .unwrap();
            if step == "answered" {
                assert_eq!(ledger.answer(&key, owner).await.unwrap(), Step::Done);
            }
        }
    }
}

/// Kills on drop, so that a failed assertion leaves no process behind.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The body of the child: with the variable set, works until it is killed; as a plain test of the
/// suite, the same steps without the kill.
#[tokio::test]
async fn crash_child() {
    let given = std::env::var_os("X402_TEST_CRASH_LEDGER");
    let (_folder, path) = place();
    let ledger = open(given.as_deref().map_or(&path, Path::new), &Time::new()).await;
    for (nonce, (step, ..)) in (1..).zip(CRASHES) {
        bring_to(&ledger, step, nonce).await;
    }
    if given.is_some() {
        println!("confirmed");
        std::future::pending::<()>().await;
    }
    for (nonce, (step, state, _)) in (1..).zip(CRASHES) {
        let row = ledger.lookup(&key(nonce)).await.unwrap().unwrap();
        assert_eq!(row.state, state, "{step}");
    }
}

#[tokio::test]
async fn a_killed_process_leaves_every_row_as_m3_says() {
    let (_folder, path) = place();
    let mut child = Killed(
        Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "ledger::sqlite::tests::crash_child",
                "--nocapture",
            ])
            .env("X402_TEST_CRASH_LEDGER", &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut output = io::BufReader::new(child.0.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("confirmed") {
        line.clear();
        let read = io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_ne!(read, 0, "the child ended before it was killed");
    }
    drop(child);

    // No time passes: who holds the lock need not wait for a dead process's leases (R9).
    let time = Time::new();
    let ledger = open(&path, &time).await;
    let upkeep = ledger.upkeep(time.now()).await.unwrap();
    assert_eq!((upkeep.unknown, upkeep.credits), (2, 1));
    for (nonce, (step, _, afterwards)) in (1..).zip(CRASHES) {
        let row = ledger.lookup(&key(nonce)).await.unwrap().unwrap();
        assert_eq!(row.state, afterwards, "{step}, M3, R10");
    }
}
