//! The composition root: builds every part, starts them in order, drains them in reverse.
//!
//! Order of start: addresses (a taken port is a start-up error), ledger, remembered paths, table
//! writer, sources, ports. Order of the end (M8): stay ready for `--shutdown-delay`; then every
//! HTTP/1.1 answer carries `Connection: close` and accepting stops; answers in flight finish
//! within their deadline; settlements finish as long as the grace of whoever stops us allows.
//!
//! Failure: what cannot be used at start is an error that says what to do (exit 1); a missing or
//! broken pricing file is not, `serve` stays up and unready until it can be read (R2).

mod explanations;
mod releases;
mod tables;

use crate::config::Config;
use crate::crd::Observations;
use crate::facilitator::{Client, ClientConfig};
use crate::gate::{Gate, Ledger};
use crate::http::admin::{self, Admin, AdminInfo};
use crate::http::forward_auth::{self, ForwardAuth};
use crate::http::listener::{self, Listener, routed};
use crate::ledger::{Clock, Store};
use crate::lifecycle::{Readiness, ReadyState, Tasks};
use crate::metrics::{self, BuildInfo, Metrics};
use crate::pricing::{self, Settings};
use crate::route::AmbiguityClass;
use crate::sources::file::{self, FileSource};
use crate::sources::kube::{self, ForStatus, KubeSource};
use crate::status::{self, Status};
use crate::table::{TableReader, TableWriter, Update};
use anyhow::{Context, anyhow, bail};
use jiff::Timestamp;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tables::Tables;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// Answers in flight may take their deadline and then as long as a ledger step (M8).
const LEDGER_GRACE: Duration = Duration::from_secs(5);

/// How often leases are applied and rows pruned.
const UPKEEP_EVERY: Duration = Duration::from_secs(15);

/// Updates that may wait for the table writer. Each is a complete list, so a second one that waits
/// would only make the first stale.
const UPDATES: usize = 1;

/// A running verifier.
#[derive(Debug)]
pub struct Server {
    tasks: Tasks,
    readiness: Readiness,
    table: TableReader,
    gate: Gate<Client, Store>,
    /// Writes the status of offers.
    reporter: Option<status::Running>,
    traffic: listener::Server,
    admin: Option<listener::Server>,
}

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// When a part cannot start, or a task that must run for ever ends.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let delay = config.shutdown_delay;
    let mut signals = Signals::listen()?;
    let server = start(config).await?;
    let failure = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, delay_seconds = delay.as_secs(), "shutting down");
            None
        }
        failure = server.failed() => {
            tracing::error!(error = %failure, "the process cannot go on");
            Some(failure)
        }
    };
    server.stop_writing_status();
    if failure.is_none() {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            name = signals.next() => tracing::info!(signal = name, "delay cut short"),
        }
    }
    // Also after a failure: payments in flight are not the fault of what failed (R10).
    let draining = server.shutdown();
    tokio::pin!(draining);
    loop {
        tokio::select! {
            done = &mut draining => {
                return match failure {
                    None => done,
                    Some(failure) => Err(failure.context("the process could not go on")),
                };
            }
            // A second signal loses no settlement: what is in flight is bounded anyway.
            name = signals.next() => tracing::info!(signal = name, "already draining"),
        }
    }
}

/// Starts every part.
///
/// # Errors
/// When an address, the ledger or the further root certificates cannot be used, or, without
/// `--watch`, the pricing file.
pub async fn start(config: Config) -> anyhow::Result<Server> {
    let Config {
        file,
        listen,
        admin_listen,
        watch,
        ledger,
        shutdown_delay: _,
        ca_file,
        kube,
        status,
    } = config;
    let traffic = Listener::bind(&listen).await?;
    let admin_port = if listen == admin_listen {
        None
    } else {
        Some(Listener::bind(&admin_listen).await?)
    };

    // Two settings are needed before the first table: the metric prefix and, without --watch,
    // whether there will be a table at all.
    let first = match file::load_once(&file) {
        Ok(loaded) => Some(loaded),
        Err(error) if watch => {
            tracing::debug!(error = &error as &dyn std::error::Error, "no settings yet");
            None
        }
        Err(error) => return Err(error.into()),
    };
    let settings = first
        .as_ref()
        .map_or_else(Settings::default, |loaded| loaded.document.settings.clone());
    let classes: Vec<_> = AmbiguityClass::ALL
        .iter()
        .map(|class| class.as_str())
        .collect();
    let families = Metrics::with_ambiguity_classes(&settings.metrics_prefix, &classes)
        .context("metrics.prefix cannot start the name of a metric")?;

    let tasks = Tasks::new();
    let readiness = Readiness::new();
    let ledger_name = ledger.to_string();
    let store = Store::open(&ledger, Clock::system(), Some(Arc::clone(&families))).await?;
    if settings.verify_only && !store.is_durable() {
        bail!(tables::FORGETFUL);
    }
    let (mut writer, table) = TableWriter::new();
    if kube.is_some() {
        writer.expect_source(kube::NAME);
    }
    recall(&mut writer, &store).await?;

    let facilitator = Client::new(ClientConfig {
        connect_timeout: settings.timeouts.facilitator_connect,
        extra_ca: ca_file,
        metrics: Some(Arc::clone(&families)),
    })?;
    let gate = Gate::new(
        facilitator,
        store,
        table.clone(),
        readiness.clone(),
        tasks.clone(),
        Arc::clone(&families),
        Timestamp::now,
    );
    let (updates, received) = mpsc::channel(UPDATES);
    let (settings_in_use, settings_seen) = watch::channel(None);
    let (published, publications) = watch::channel(0);
    let tables = Tables {
        durable: gate.ledger().is_durable(),
        writer,
        updates: received,
        gate: gate.clone(),
        readiness: readiness.clone(),
        metrics: Arc::clone(&families),
        settings: settings_in_use,
        published,
        now: Timestamp::now,
    };
    tasks.spawn("table writer", tables.run(tasks.clone()));
    let (cluster_troubles, cluster_degraded) = watch::channel(Vec::new());
    let (status_troubles, status_degraded) = watch::channel(Vec::new());
    let mut reporter = None;
    if let Some(options) = kube {
        let for_status = status.map(|options| {
            let (clients, client) = watch::channel(None);
            let observations = Observations::default();
            let writer = Status {
                options,
                clients: client,
                table: table.clone(),
                published: publications,
                observations: observations.clone(),
                metrics: Arc::clone(&families),
                degraded: status_troubles,
                now: Timestamp::now,
            };
            reporter = Some(writer.start(&tasks));
            ForStatus {
                observations,
                clients,
            }
        });
        let source = KubeSource {
            options,
            settings: settings_seen,
            degraded: cluster_troubles,
            status: for_status,
            now: Timestamp::now,
        };
        source.start(updates.clone(), &tasks);
    }
    tasks.spawn(
        "released paths",
        releases::follow(gate.clone(), updates.clone(), tasks.clone()),
    );
    let source = FileSource::new(file).starting_with(first);
    if watch {
        tasks.spawn("file source", source.run(updates, tasks.clone()));
    } else {
        source.once(&updates).await?;
        // The writer lives for as long as somebody might send.
        let stopping = tasks.clone();
        tasks.spawn("file source", async move {
            stopping.stopping().await;
            drop(updates);
        });
    }
    let (troubles, degraded) = watch::channel(Vec::new());
    tasks.spawn(
        "ledger upkeep",
        upkeep(gate.clone(), Arc::clone(&families), troubles, tasks.clone()),
    );

    let info = AdminInfo {
        build: BuildInfo::CURRENT,
        ledger: ledger_name,
        degraded: Box::new(move || {
            let mut all = degraded.borrow().clone();
            all.extend_from_slice(&cluster_degraded.borrow());
            all.extend_from_slice(&status_degraded.borrow());
            all
        }),
        per_offer: Box::new({
            let table = table.clone();
            move || per_offer(table.load().settings.metrics_per_offer)
        }),
        now: Timestamp::now,
        explain: explanations::answered_by(table.clone(), readiness.clone()),
    };
    let admin = Admin {
        table: table.clone(),
        readiness: readiness.clone(),
        metrics: Arc::clone(&families),
        info: Arc::new(info),
    };
    let face = Arc::new(ForwardAuth {
        gate: gate.clone(),
        metrics: families,
    });
    let (traffic, admin) = match admin_port {
        Some(port) => {
            let admin = routed(admin::router(admin));
            let admin = port.serve("admin", admin, &tasks, &readiness);
            let face = move |request, peer: SocketAddr| {
                Arc::clone(&face).respond(request, Some(peer.ip()))
            };
            let traffic = traffic.serve("traffic", face, &tasks, &readiness);
            (traffic, Some(admin))
        }
        None => {
            let both = admin::routes(admin).fallback_service(forward_auth::router(face));
            let both = traffic.serve("traffic", routed(both), &tasks, &readiness);
            (both, None)
        }
    };
    tracing::info!(
        listen.address = %traffic.local_addr(),
        admin.address = %admin.as_ref().unwrap_or(&traffic).local_addr(),
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
    Ok(Server {
        tasks,
        readiness,
        table,
        gate,
        reporter,
        traffic,
        admin,
    })
}

/// What a restart must not forget: closed paths (R4) and when offers were last paid.
async fn recall(writer: &mut TableWriter, ledger: &Store) -> anyhow::Result<()> {
    let unusable = "the ledger cannot be read";
    for total in ledger.totals().await.context(unusable)? {
        writer.restore_last_success(
            &total.namespace,
            &total.name,
            &crate::money::Network::from_chain_id(total.chain_id).caip2(),
            &total.asset.to_checksum(None),
            total.last_success,
        );
    }
    let paths = ledger.paths().await.context(unusable)?;
    writer.apply(Update::Remembered { paths }, Timestamp::now());
    Ok(())
}

/// The setting in the words of the renderer, which knows no settings.
const fn per_offer(setting: pricing::PerOffer) -> metrics::PerOffer {
    match setting {
        pricing::PerOffer::All => metrics::PerOffer::All,
        pricing::PerOffer::Active => metrics::PerOffer::Active,
        pricing::PerOffer::None => metrics::PerOffer::None,
    }
}

/// Applies leases, prunes, and counts what is open.
async fn upkeep<L: Ledger>(
    gate: Gate<Client, L>,
    metrics: Arc<Metrics>,
    troubles: watch::Sender<Vec<String>>,
    tasks: Tasks,
) {
    loop {
        let trouble = match gate.ledger().upkeep(Timestamp::now()).await {
            Ok(seen) => {
                metrics.set_payments_unknown(seen.unknown);
                Vec::new()
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "ledger upkeep failed"
                );
                vec![error.to_string()]
            }
        };
        troubles.send_replace(trouble);
        tokio::select! {
            () = tasks.stopping() => return,
            () = tokio::time::sleep(UPKEEP_EVERY) => {}
        }
    }
}

impl Server {
    /// Address of the traffic port.
    #[must_use]
    pub const fn traffic_address(&self) -> SocketAddr {
        self.traffic.local_addr()
    }

    /// Waits until `/readyz` would be 200.
    ///
    /// # Errors
    /// When it is not within `limit`, with the cause.
    pub async fn wait_ready(&self, limit: Duration) -> anyhow::Result<()> {
        let ready = async {
            while self.readiness.state() != ReadyState::Ready {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(limit, ready).await.is_err() {
            let cause = self.readiness.cause().unwrap_or_default();
            bail!("not ready: {}: {cause}", self.readiness.state().sentence());
        }
        Ok(())
    }

    /// Resolves with the reason when a part died that the process cannot be without: a task that must
    /// run until shutdown, or a ledger that can never write again (every payment would be refused
    /// until a restart).
    pub async fn failed(&self) -> anyhow::Error {
        tokio::select! {
            ended = self.tasks.failed() => ended.into(),
            () = self.gate.ledger().failed() => anyhow!("the ledger can never write again"),
        }
    }

    /// Writes no status of an offer from here on: whoever is told to stop may be replaced already.
    pub fn stop_writing_status(&self) {
        if let Some(reporter) = &self.reporter {
            reporter.stop();
        }
    }

    /// Drains and ends (M8).
    ///
    /// # Errors
    /// None today; the end of a process may yet have something to say.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        let Self {
            tasks,
            readiness,
            table,
            gate,
            reporter,
            traffic,
            admin,
        } = self;
        let answer = table.load().settings.timeouts.answer;
        readiness.begin_draining();
        tasks.begin_shutdown();
        let open = traffic.drain(answer + LEDGER_GRACE).await;
        let settlements = tasks.jobs();
        if settlements > 0 {
            tracing::info!(settlements, "waiting for settlements");
        }
        // Every job is bounded by its own deadline and lease; whoever stops us may end it sooner,
        // and then the row reads as unknown (M3). A ledger that is dead learns nothing more: what
        // still settles then is in the log, and its row reads as unknown.
        let finished = tokio::select! {
            finished = tasks.wait_jobs(Duration::MAX) => finished,
            () = gate.ledger().failed() => tasks.wait_jobs(LEDGER_GRACE).await,
        };
        if let Some(reporter) = reporter {
            reporter.ended().await;
        }
        if let Some(admin) = admin {
            admin.drain(LEDGER_GRACE).await;
        }
        tracing::info!(
            connections.open = open,
            settlements.finished = finished,
            "stopped"
        );
        Ok(())
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
        let interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
        Ok(Self {
            terminate,
            interrupt,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
