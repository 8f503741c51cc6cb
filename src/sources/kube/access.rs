//! The way to the API server: kubeconfig or `ServiceAccount` to one HTTP client, made anew when it
//! may help.
//!
//! Token files are read again by the client itself, at least once a minute. That alone would leave
//! us out for a minute after the API server began to refuse the old token, and would never notice a
//! kubeconfig that was replaced; so whoever is refused or cannot connect asks for a new client, and
//! everything is read from disk again.
//!
//! The client is put together here and not by kube's builder, because that one repeats requests by
//! itself and logs each failure. No proxy is used for the API server.

use super::fault::{Fault, printable};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::Client;
use kube::client::ConfigExt;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use tower::{BoxError, ServiceBuilder};

/// How long a TCP connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections are closed after this: one that died unseen must not cost a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Hands out the client.
pub(super) struct Access {
    kubeconfig: Option<PathBuf>,
    /// Told of each new client.
    clients: Option<watch::Sender<Option<Client>>>,
    current: Mutex<Current>,
}

/// The client in use.
#[derive(Default)]
struct Current {
    /// Counts clients, so that of many who fail with one, the first replaces it.
    number: u64,
    client: Option<Client>,
}

/// A client, and which one it is.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) client: Client,
    number: u64,
}

impl Access {
    pub(super) fn new(kubeconfig: Option<PathBuf>) -> Self {
        Self {
            kubeconfig,
            clients: None,
            current: Mutex::default(),
        }
    }

    /// Tells of each new client.
    pub(super) fn told_to(mut self, clients: Option<watch::Sender<Option<Client>>>) -> Self {
        self.clients = clients;
        self
    }

    /// The client, made if there is none.
    pub(super) async fn client(&self) -> Result<Way, Fault> {
        let mut current = self.current.lock().await;
        let client = match &current.client {
            Some(client) => client.clone(),
            None => {
                let client = connect(self.kubeconfig.clone()).await?;
                current.number += 1;
                current.client = Some(client.clone());
                if let Some(clients) = &self.clients {
                    clients.send_replace(Some(client.clone()));
                }
                client
            }
        };
        Ok(Way {
            client,
            number: current.number,
        })
    }

    /// The next one who asks gets a client other than this one.
    pub(super) async fn renew(&self, failed: &Way) {
        let mut current = self.current.lock().await;
        if current.number == failed.number {
            current.client = None;
        }
    }
}

/// Reads the configuration and builds a client from it. On a thread that may block: a credential
/// plugin is a process that is waited for.
async fn connect(kubeconfig: Option<PathBuf>) -> Result<Client, Fault> {
    let runtime = Handle::current();
    let made = spawn_blocking(move || {
        runtime.block_on(async {
            let config = load(kubeconfig.as_deref()).await?;
            build(&config)
        })
    });
    match made.await {
        Ok(made) => made.map_err(|error| Fault::NoAccess(printable(&chain(&*error)))),
        Err(died) => Err(Fault::NoAccess(printable(&died.to_string()))),
    }
}

async fn load(kubeconfig: Option<&Path>) -> Result<Config, BoxError> {
    let Some(listed) = kubeconfig else {
        return Ok(Config::infer().await?);
    };
    // `KUBECONFIG` may list several files; the first that says something wins.
    let mut merged: Option<Kubeconfig> = None;
    for file in std::env::split_paths(listed) {
        let next = Kubeconfig::read_from(file)?;
        merged = Some(match merged {
            Some(before) => before.merge(next)?,
            None => next,
        });
    }
    let kubeconfig = merged.ok_or("--kubeconfig names no file")?;
    Ok(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

fn build(config: &Config) -> Result<Client, BoxError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let http = HyperClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build(tls);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("kubeconfig", &self.kubeconfig)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
";

    /// R2: what does not exist yet may exist later; nothing is remembered of a failure.
    #[tokio::test]
    async fn a_kubeconfig_that_appears_later_is_read_then() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let access = Access::new(Some(file.clone()));
        let Err(Fault::NoAccess(why)) = access.client().await else {
            panic!("there is no such file");
        };
        assert!(why.contains("config"), "{why}");
        std::fs::write(&file, KUBECONFIG).unwrap();
        let first = access.client().await.unwrap();
        assert_eq!(access.client().await.unwrap().number, first.number);
    }

    #[tokio::test]
    async fn of_many_that_failed_with_one_client_the_first_replaces_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        std::fs::write(&file, KUBECONFIG).unwrap();
        let access = Access::new(Some(file));
        let first = access.client().await.unwrap();
        access.renew(&first).await;
        let second = access.client().await.unwrap();
        assert_eq!(second.number, first.number + 1);
        access.renew(&first).await;
        assert_eq!(access.client().await.unwrap().number, second.number);
    }
}
