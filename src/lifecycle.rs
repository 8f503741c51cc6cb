//! Supervised tasks, readiness latches, and shutdown with a deadline.
//!
//! Stub: to be written in full; the signatures below are the contract.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Spawns every task of the process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tasks {
    _inner: Arc<()>,
}

/// What `/readyz` reads: two latches and the draining flag. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness {
    _inner: Arc<()>,
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

/// A task that must run for as long as the process ended.
#[derive(Debug, thiserror::Error)]
#[error("task {name} ended unexpectedly")]
pub struct TaskEnded {
    /// Name given to [`Tasks::spawn`].
    pub name: &'static str,
}

impl Tasks {
    /// A new supervisor.
    #[must_use]
    pub fn new() -> Self {
        todo!()
    }
    /// Spawns a task that must run until shutdown; its end (or panic) before that makes
    /// [`Tasks::failed`] return.
    pub fn spawn(&self, _name: &'static str, _task: impl Future<Output = ()> + Send + 'static) {
        todo!()
    }
    /// Spawns a finite job that nobody may cancel (a settlement). A panic is logged.
    pub fn spawn_job(&self, _name: &'static str, _job: impl Future<Output = ()> + Send + 'static) {
        todo!()
    }
    /// Number of jobs running.
    #[must_use]
    pub fn jobs(&self) -> usize {
        todo!()
    }
    /// Resolves when a task spawned with [`Tasks::spawn`] ended before shutdown began.
    pub async fn failed(&self) -> TaskEnded {
        todo!()
    }
    /// Marks the beginning of shutdown: [`Tasks::stopping`] resolves, task ends are expected.
    pub fn begin_shutdown(&self) {
        todo!()
    }
    /// Resolves when shutdown has begun.
    pub async fn stopping(&self) {
        todo!()
    }
    /// Waits until no job runs, at most `grace`; `true` when all finished.
    pub async fn wait_jobs(&self, _grace: Duration) -> bool {
        todo!()
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Not ready, both latches open.
    #[must_use]
    pub fn new() -> Self {
        todo!()
    }
    /// The configuration is in the table that requests see.
    pub fn config_loaded(&self) {
        todo!()
    }
    /// Every source's first complete list is in the table that requests see.
    pub fn routes_loaded(&self) {
        todo!()
    }
    /// Detail line for the 503 body (`pricing.yaml: no such file`), replaced by the next.
    pub fn set_cause(&self, _cause: Option<String>) {
        todo!()
    }
    /// The latest cause.
    #[must_use]
    pub fn cause(&self) -> Option<String> {
        todo!()
    }
    /// State; once ready it stays ready.
    #[must_use]
    pub fn state(&self) -> ReadyState {
        todo!()
    }
    /// Shutdown began: `/readyz` is 503 `draining`, `/verify` goes on with `Connection: close`.
    pub fn begin_draining(&self) {
        todo!()
    }
    /// Whether shutdown began.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        todo!()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}
