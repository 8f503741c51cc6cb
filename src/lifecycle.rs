//! Supervised tasks, readiness latches, and shutdown with a deadline.
//!
//! A task that nobody joins fails silently, and a readiness flag that somebody sets can be unset by
//! a bug. So every task of the process starts here ([`Tasks`]) and is joined by a supervisor that
//! reports its panic and its unexpected end, and readiness ([`Readiness`]) is a pair of latches
//! that only close (R2).
//!
//! There are three kinds of tasks:
//! - a *task* runs until shutdown; if it ends earlier, [`Tasks::failed`] resolves and the process
//!   ends with a failure, because a verifier without its file watcher or listener is not healthy;
//! - a *job* is finite and nobody may cancel it, because money may be moving (R10): it is counted,
//!   and shutdown waits for it with [`Tasks::wait_jobs`];
//! - a *finite* task (a connection) belongs to whoever started it; its end means nothing, its panic
//!   is logged.
//!
//! Work that keeps a processor busy goes through [`work_behind`], off the request threads and after
//! them.
//!
//! What it is not: it handles no signals and knows no order of shutdown; `serve` does. Nothing here
//! aborts a task. A future that is dropped with the runtime simply stops.
//!
//! Readiness never depends on the ledger, a facilitator or an upstream: a pod that is taken away is
//! a 500 from Traefik for every buyer (R2).

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How far work goes behind the request threads (`nice`): next to a busy core it gets a tenth of it.
const POLITENESS: i32 = 10;

/// Spawns every task of the process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tasks {
    inner: Arc<Supervision>,
}

/// What the supervisors of all tasks share.
#[derive(Debug)]
struct Supervision {
    /// The first task that ended before shutdown began.
    failed: watch::Sender<Option<&'static str>>,
    stopping: watch::Sender<bool>,
    jobs: watch::Sender<usize>,
}

/// What `/readyz` reads: two latches and the draining flag. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness {
    inner: Arc<Latches>,
}

#[derive(Debug, Default)]
struct Latches {
    config: AtomicBool,
    routes: AtomicBool,
    draining: AtomicBool,
    /// Why a source has nothing new to give, by its name.
    causes: Mutex<BTreeMap<&'static str, String>>,
}

/// State of [`Readiness`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadyState {
    /// Configuration was not applied yet (first line `not ready: config not loaded`).
    ConfigNotLoaded,
    /// A source's first complete list was not applied yet (`not ready: routes not loaded`).
    RoutesNotLoaded,
    /// Ready.
    Ready,
}

impl ReadyState {
    /// The state in words, as `/readyz` and `/verify` say it.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::ConfigNotLoaded => "config not loaded",
            Self::RoutesNotLoaded => "routes not loaded",
            Self::Ready => "ready",
        }
    }
}

/// A task that must run for as long as the process ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task {name} ended unexpectedly")]
pub struct TaskEnded {
    /// Name given to [`Tasks::spawn`].
    pub name: &'static str,
}

impl Tasks {
    /// A new supervisor.
    #[must_use]
    pub fn new() -> Self {
        let inner = Supervision {
            failed: watch::Sender::new(None),
            stopping: watch::Sender::new(false),
            jobs: watch::Sender::new(0),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Spawns a task that must run until shutdown; its end (or panic) before that makes
    /// [`Tasks::failed`] return.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let task = start(task);
        let inner = Arc::clone(&self.inner);
        start(async move {
            join(name, task).await;
            inner.task_ended(name);
        });
    }

    /// Spawns a finite job that nobody may cancel (a settlement). A panic is logged.
    ///
    /// The job is counted before this returns, so a shutdown that begins now waits for it.
    pub fn spawn_job(&self, name: &'static str, job: impl Future<Output = ()> + Send + 'static) {
        self.inner
            .jobs
            .send_modify(|jobs| *jobs = jobs.saturating_add(1));
        let job = start(job);
        let inner = Arc::clone(&self.inner);
        start(async move {
            join(name, job).await;
            inner
                .jobs
                .send_modify(|jobs| *jobs = jobs.saturating_sub(1));
        });
    }

    /// Spawns a finite task that its caller keeps track of (a connection). A panic is logged; it is
    /// not counted as a job and its end is expected.
    pub fn spawn_finite(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        start(join(name, start(task)));
    }

    /// Number of jobs running.
    #[must_use]
    pub fn jobs(&self) -> usize {
        *self.inner.jobs.borrow()
    }

    /// Resolves when a task spawned with [`Tasks::spawn`] ended before shutdown began. It names the
    /// first one, to every caller.
    pub async fn failed(&self) -> TaskEnded {
        let mut failed = self.inner.failed.subscribe();
        loop {
            if let Some(name) = *failed.borrow_and_update() {
                return TaskEnded { name };
            }
            if failed.changed().await.is_err() {
                // The sender lives in `self`: this cannot happen, and waiting is the safe answer.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Marks the beginning of shutdown: [`Tasks::stopping`] resolves, task ends are expected.
    pub fn begin_shutdown(&self) {
        self.inner.stopping.send_replace(true);
    }

    /// Resolves when shutdown has begun.
    pub async fn stopping(&self) {
        wait_until(&self.inner.stopping, |stopping| *stopping).await;
    }

    /// Waits until no job runs, at most `grace`; `true` when all finished.
    pub async fn wait_jobs(&self, grace: Duration) -> bool {
        let idle = wait_until(&self.inner.jobs, |jobs| *jobs == 0);
        tokio::time::timeout(grace, idle).await.is_ok()
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervision {
    fn task_ended(&self, name: &'static str) {
        if *self.stopping.borrow() {
            tracing::debug!(task.name = name, "task stopped");
            return;
        }
        tracing::error!(task.name = name, "task ended unexpectedly");
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert(name);
            first
        });
    }
}

/// Runs work that keeps a processor busy (parsing, building a table) behind whatever answers
/// requests.
///
/// A blocking thread alone competes with the request threads as an equal: on two cores a reload of
/// 100,000 routes made one answer in a hundred wait for a time slice. Its priority can be lowered but not raised
/// again, so each work has a thread of its own, which a thread of tokio's waits for (a paused clock
/// stands still meanwhile). The priority counts within one container only.
pub fn work_behind<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(move || {
        let thread = std::thread::Builder::new().name("work-behind".to_owned());
        let worked = thread.spawn(move || {
            if let Err(error) = rustix::process::nice(POLITENESS) {
                tracing::debug!(%error, "the priority of a thread was not lowered");
            }
            work()
        });
        match worked.map(std::thread::JoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => std::panic::panic_any(format!("no thread for it: {error}")),
        }
    })
}

/// The one place that starts a task.
#[expect(
    clippy::disallowed_methods,
    reason = "this module supervises what it spawns"
)]
fn start(future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(future)
}

/// Waits for a task to end and logs its panic.
async fn join(name: &'static str, task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(task.name = name, %error, "task panicked");
    }
}

async fn wait_until<T>(sender: &watch::Sender<T>, done: impl FnMut(&T) -> bool) {
    // The sender is borrowed for as long as we wait, so the channel cannot be closed.
    let closed = sender.subscribe().wait_for(done).await.is_err();
    debug_assert!(!closed, "the sender outlives the wait");
}

impl Readiness {
    /// Not ready, both latches open.
    #[must_use]
    pub fn new() -> Self {
        Self {
            inner: Arc::default(),
        }
    }

    /// The configuration is in the table that requests see.
    pub fn config_loaded(&self) {
        self.inner.config.store(true, Ordering::Release);
    }

    /// Every source's first complete list is in the table that requests see.
    pub fn routes_loaded(&self) {
        self.inner.routes.store(true, Ordering::Release);
    }

    /// What keeps a source from being read (`pricing.yaml: no such file`), replaced by the next of
    /// the same source; `None` when it is well. What is known of other sources stays.
    ///
    /// The kubelet never shows a body, so while the process is not ready each *change* of cause is
    /// also one warning line here; callers need not log it again.
    pub fn set_cause(&self, source: &'static str, cause: Option<String>) {
        let mut causes = self.causes();
        let Some(cause) = cause else {
            causes.remove(source);
            return;
        };
        if causes.get(source) == Some(&cause) {
            return;
        }
        if self.state() != ReadyState::Ready {
            tracing::warn!(source, cause = cause.as_str(), "not ready");
        }
        causes.insert(source, cause);
    }

    /// What is known of every source that is not well (`kube: ...`), in one line.
    #[must_use]
    pub fn cause(&self) -> Option<String> {
        let causes = self.causes();
        let lines: Vec<_> = causes
            .iter()
            .map(|(source, cause)| format!("{source}: {cause}"))
            .collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }

    fn causes(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.inner
            .causes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// State; once ready it stays ready.
    #[must_use]
    pub fn state(&self) -> ReadyState {
        if !self.inner.config.load(Ordering::Acquire) {
            ReadyState::ConfigNotLoaded
        } else if !self.inner.routes.load(Ordering::Acquire) {
            ReadyState::RoutesNotLoaded
        } else {
            ReadyState::Ready
        }
    }

    /// Whether the configuration latch is closed.
    #[must_use]
    pub fn is_config_loaded(&self) -> bool {
        self.inner.config.load(Ordering::Acquire)
    }

    /// Whether the routes latch is closed.
    #[must_use]
    pub fn is_routes_loaded(&self) -> bool {
        self.inner.routes.load(Ordering::Acquire)
    }

    /// Shutdown began: `/readyz` is 503 `draining`, `/verify` goes on with `Connection: close`.
    pub fn begin_draining(&self) {
        self.inner.draining.store(true, Ordering::Release);
    }

    /// Whether shutdown began.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Acquire)
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

/// Sleeps until a moment; for ever when there is none. For the arm of a loop whose next task may
/// not exist.
pub async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;
    use tokio::time::Instant;

    const GRACE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_early_is_named() {
        let tasks = Tasks::new();
        tasks.spawn("forever", std::future::pending());
        tasks.spawn("short", tokio::time::sleep(Duration::from_secs(5)));
        assert_eq!(tasks.failed().await, TaskEnded { name: "short" });
        assert_eq!(
            tasks.failed().await.to_string(),
            "task short ended unexpectedly"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_named() {
        let tasks = Tasks::new();
        tasks.spawn("broken", async { panic!("as the test wants") });
        assert_eq!(tasks.failed().await, TaskEnded { name: "broken" });
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_task_to_end_is_reported_to_everybody() {
        let tasks = Tasks::new();
        tasks.spawn("second", tokio::time::sleep(Duration::from_secs(2)));
        tasks.spawn("first", tokio::time::sleep(Duration::from_secs(1)));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(tasks.failed().await.name, "first");
        assert_eq!(tasks.clone().failed().await.name, "first");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_after_shutdown_began_is_expected() {
        let tasks = Tasks::new();
        let stop = tasks.clone();
        tasks.spawn("watcher", async move { stop.stopping().await });
        tasks.begin_shutdown();
        tasks.stopping().await;
        let failed = tokio::time::timeout(GRACE, tasks.failed()).await;
        assert!(failed.is_err(), "a stopped task is no failure");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_finite_task_is_no_failure_and_no_job() {
        let tasks = Tasks::new();
        let (done, ended) = oneshot::channel();
        tasks.spawn_finite("connection", async move { done.send(()).unwrap() });
        tasks.spawn_finite("connection", async { panic!("as the test wants") });
        ended.await.unwrap();
        assert_eq!(tasks.jobs(), 0);
        assert!(tokio::time::timeout(GRACE, tasks.failed()).await.is_err());
    }

    /// R10: shutdown waits for a settlement.
    #[tokio::test(start_paused = true)]
    async fn jobs_are_counted_at_once_and_awaited() {
        let tasks = Tasks::new();
        let start = Instant::now();
        tasks.spawn_job("settle", tokio::time::sleep(Duration::from_secs(20)));
        assert_eq!(tasks.jobs(), 1);
        assert!(tasks.wait_jobs(GRACE).await);
        assert_eq!(tasks.jobs(), 0);
        assert_eq!(start.elapsed(), Duration::from_secs(20));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_jobs_ends_with_the_grace_and_does_not_cancel_them() {
        let tasks = Tasks::new();
        let (done, finished) = oneshot::channel();
        tasks.spawn_job("settle", async move {
            tokio::time::sleep(GRACE * 2).await;
            done.send(()).unwrap();
        });
        assert!(!tasks.wait_jobs(GRACE).await);
        assert_eq!(tasks.jobs(), 1);
        finished.await.unwrap();
        assert!(tasks.wait_jobs(GRACE).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_panics_is_not_waited_for_and_fails_nothing() {
        let tasks = Tasks::new();
        tasks.spawn_job("settle", async { panic!("as the test wants") });
        assert!(tasks.wait_jobs(GRACE).await);
        assert!(tokio::time::timeout(GRACE, tasks.failed()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_to_wait_for_needs_no_time() {
        assert!(Tasks::new().wait_jobs(Duration::ZERO).await);
    }

    /// R2.
    #[test]
    fn readiness_needs_both_latches_and_names_the_missing_one() {
        let readiness = Readiness::new();
        assert_eq!(readiness.state(), ReadyState::ConfigNotLoaded);
        readiness.routes_loaded();
        assert_eq!(readiness.state(), ReadyState::ConfigNotLoaded);
        readiness.config_loaded();
        assert_eq!(readiness.state(), ReadyState::Ready);

        let readiness = Readiness::new();
        readiness.config_loaded();
        assert_eq!(readiness.state(), ReadyState::RoutesNotLoaded);
    }

    /// R2: a pod is not taken away because a later reload fails.
    #[test]
    fn once_ready_a_cause_changes_nothing() {
        let readiness = Readiness::new();
        readiness.config_loaded();
        readiness.routes_loaded();
        readiness.set_cause("file", Some("no such file".to_owned()));
        assert_eq!(readiness.state(), ReadyState::Ready);
        assert_eq!(readiness.cause().as_deref(), Some("file: no such file"));
        readiness.set_cause("file", None);
        assert_eq!(readiness.cause(), None);
    }

    /// R2: the causes of two sources are told apart.
    #[test]
    fn a_source_that_is_well_clears_its_own_cause_only() {
        let readiness = Readiness::new();
        readiness.set_cause("kube", Some("no CRD".to_owned()));
        readiness.set_cause("file", Some("no such file".to_owned()));
        let both = "file: no such file; kube: no CRD";
        assert_eq!(readiness.cause().as_deref(), Some(both));
        readiness.set_cause("file", None);
        assert_eq!(readiness.cause().as_deref(), Some("kube: no CRD"));
        readiness.set_cause("kube", Some("not authorised".to_owned()));
        assert_eq!(readiness.cause().as_deref(), Some("kube: not authorised"));
    }

    #[test]
    fn draining_is_apart_from_the_latches_and_shared_by_clones() {
        let readiness = Readiness::new();
        let seen_by_listener = readiness.clone();
        assert!(!seen_by_listener.is_draining());
        readiness.begin_draining();
        assert!(seen_by_listener.is_draining());
        assert_eq!(seen_by_listener.state(), ReadyState::ConfigNotLoaded);
    }
}
