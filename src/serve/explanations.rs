//! The answer to `/explain`: the steps of a decision, over the table that requests see.
//!
//! The admin port knows neither the gate nor `explain`, so it gets this as a handler. A question is
//! answered beside the request threads, because it may look through all closed paths, and one at a
//! time, so that nobody can make it cost more than one thread.
//!
//! Nothing of a question is logged: it may carry a payment (R13).

use crate::explain::{self, Question};
use crate::http::admin::Explain;
use crate::lifecycle::{Readiness, ReadyState, work_behind};
use crate::table::TableReader;
use bytes::Bytes;
use jiff::Timestamp;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

/// The handler.
pub(super) fn answered_by(table: TableReader, readiness: Readiness) -> Explain {
    let turn = Arc::new(Mutex::new(()));
    Box::new(move |question| {
        let (table, readiness) = (table.clone(), readiness.clone());
        let turn = Arc::clone(&turn);
        Box::pin(async move {
            let turn = turn.lock_owned().await;
            let here = Handle::current();
            let answered = work_behind(move || {
                let answer = here.block_on(answer(&table, &readiness, &question));
                drop(turn);
                answer
            });
            answered
                .await
                .unwrap_or_else(|_panic| Err("the answer could not be made".to_owned()))
        })
    })
}

async fn answer(
    table: &TableReader,
    readiness: &Readiness,
    question: &Bytes,
) -> Result<String, String> {
    let question: Question = serde_json::from_slice(question).map_err(|error| {
        format!("a question is JSON with method, target, headers and address: {error}")
    })?;
    let state = readiness.state();
    let not_ready = match state {
        ReadyState::Ready => None,
        ReadyState::ConfigNotLoaded | ReadyState::RoutesNotLoaded => Some(state.sentence()),
    };
    let steps = explain::live(&table.load_full(), not_ready, &question, Timestamp::now()).await;
    steps.map_err(|error| format!("{error:#}"))
}
