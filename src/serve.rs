//! The composition root: builds every part, starts them in order, drains them in reverse.
//!
//! Order of start: addresses (a taken port is a start-up error), ledger, remembered paths, table
//! writer, sources, ports. Order of the end (M8): stay ready for `--shutdown-delay`; then every
//! HTTP/1.1 answer carries `Connection: close` and accepting stops; answers in flight finish
//! within their deadline; settlements finish as long as the grace of whoever stops us allows.
//!
//! Failure: what cannot be used at start is an error that says what to do (exit 1); a missing or
//! broken pricing file is not, `serve` stays up and unready until it can be read (R2).

mod tables;

use crate::config::Config;
use crate::facilitator;
use crate::gate::{Gate, Ledger};
use crate::http::admin;
use crate::http::forward_auth::{self, ForwardAuth};
use crate::http::listener::{Drain, Listener};
use crate::ledger::{Clock, Store};
use crate::lifecycle::{ReadyState, Readiness, Tasks};
use crate::metrics::Metrics;
use crate::pricing::Settings;
use crate::route::AmbiguityClass;
use crate::sources::file::FileSource;
use crate::table::{TableWriter, Update};
use anyhow::{Context, bail};
use jiff::Timestamp;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tables::Tables;

/// Answers in flight may take their deadline and then as long as a ledger step (M8).
const LEDGER_GRACE: Duration = Duration::from_secs(5);

/// How often leases are applied and rows pruned.
const UPKEEP_EVERY: Duration = Duration::from_secs(15);

/// A running verifier.
#[derive(Debug)]
pub struct Server {
    tasks: Tasks,
    readiness: Readiness,
    drain: Drain,
    traffic: SocketAddr,
    admin: SocketAddr,
}

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// When a part cannot start, or a task that must run for ever ends.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let delay = config.shutdown_delay;
    let mut signals = Signals::listen()?;
    let server = start(config).await?;
    tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, delay_seconds = delay.as_secs(), "shutting down");
        }
        ended = server.tasks.failed() => {
            return Err(ended).context("shutting down");
        }
    }
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        name = signals.next() => tracing::info!(signal = name, "delay cut short"),
    }
    let draining = server.shutdown();
    tokio::pin!(draining);
    loop {
        tokio::select! {
            done = &mut draining => return done,
            // A second signal loses no settlement: what is in flight is bounded anyway.
            name = signals.next() => tracing::info!(signal = name, "already draining"),
        }
    }
}

/// Starts every part.
///
/// # Errors
/// When an address, the ledger or the extra root certificates cannot be used, or, without
/// `--watch`, the pricing file.
pub async fn start(config: Config) -> anyhow::Result<Server> {
    let Config { file, listen, admin_listen, watch, ledger, shutdown_delay: _, ca_file } = config;
    let traffic = Listener::bind(&listen)?;
    let one_port = listen == admin_listen && traffic.local_addr()?.port() == listen.port();
    let admin_port = if one_port { None } else { Some(Listener::bind(&admin_listen)?) };

    let source = FileSource::new(file, watch);
    let first = source.first_look().await;
    let settings = first.as_ref().map_or_else(|| Settings::default(), |s| s.clone());
    let classes: Vec<_> = AmbiguityClass::ALL.iter().map(|class| class.as_str()).collect();
    let metrics = Metrics::with_ambiguity_classes(&settings.metrics_prefix, &classes)
        .context("metrics.prefix is not a metric name")?;

    let store = Store::open(&ledger, Clock::system(), Some(Arc::clone(&metrics))).await?;
    let store = Arc::new(store);
    let (mut writer, reader) = TableWriter::new();
    recall(&mut writer, &*store).await?;
    Ok(todo!())
}
