//! What `closed release` writes into the ledger, taken up by the process that serves (R4).
//!
//! The command and the process share the ledger and nothing else: the admin port changes nothing, so
//! whoever reaches it cannot open a path, and whoever can write the ledger could do worse anyway. The
//! process asks every [`EVERY`] what was released since; a row that it meets twice, after a restart
//! perhaps, releases nothing again, because it names the closing that it ended.
//!
//! Failure: a ledger that cannot be read is asked again. Until then the paths stay closed (R1).

use crate::gate::{Facilitator, Gate, Ledger};
use crate::lifecycle::Tasks;
use crate::table::Update;
use std::time::Duration;
use tokio::sync::mpsc::Sender;

/// One read of an index; the operator who waits for it waits at most this long.
const EVERY: Duration = Duration::from_secs(1);

/// Runs until shutdown.
pub(super) async fn follow<F: Facilitator, L: Ledger>(
    gate: Gate<F, L>,
    updates: Sender<Update>,
    tasks: Tasks,
) {
    let mut seen = 0;
    loop {
        match gate.ledger().releases(seen).await {
            Ok(releases) => {
                let last = releases.last().map(|release| release.seq);
                let paths: Vec<_> = releases.into_iter().map(|release| release.path).collect();
                // The writer is gone only at the end of the process.
                if !paths.is_empty() && updates.send(Update::Released { paths }).await.is_err() {
                    return;
                }
                seen = last.unwrap_or(seen);
            }
            // Upkeep says so where people look.
            Err(error) => tracing::debug!(
                error = &error as &dyn std::error::Error,
                "what was released cannot be read"
            ),
        }
        tokio::select! {
            () = tasks.stopping() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
