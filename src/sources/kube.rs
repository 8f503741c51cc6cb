//! The cluster as a source: follows `ServiceOffer`s and the Secrets they name, and sends what they
//! became.
//!
//! ```text
//! API server --watch (one per list)--> Message --> Informer: Store --> Update --> table
//! ```
//!
//! One task per list reads ([`watch`]); one task owns the [`Store`] and sends. An update is always
//! the whole list, of offers that are the same objects as before where nothing changed. The first is
//! sent when every list is complete (R6), so the process is not ready on half of them (R2). Changes
//! wait a few milliseconds for their neighbours, and longer only while more keep coming.
//!
//! Failure: the API can be lost at any time, and its loss changes nothing but the report: the last
//! list stays, [`Update::Failed`] says why, and the source tries again for ever. No answer of an API
//! server that fails is an empty list. Nobody here ends the process. Secrets that cannot be read are
//! less than that: offers that name one stay closed until it is read, all others are untouched; it
//! shows as a degraded state.
//!
//! Not here: what an object means (`crd`), who owns a path (`table`), writing anything to the
//! cluster. kube-runtime's watcher is not used, because it does not tell when a lost API answers
//! again, and has no deadline for a page.

mod access;
mod credentials;
mod fault;
mod predecessor;
mod store;
mod target;
mod watch;
mod wire;

use self::access::Access;
use self::credentials::{Credentials, Form, SecretObject};
pub use self::predecessor::PredecessorSecret;
use self::store::Store;
use self::target::{Resource, Target};
use self::watch::{Event, Watch};
pub use crate::crd::ForeignUpstream;

use crate::crd::{DEFAULT_UPSTREAM_SECRET, Observations, ServiceOffer, TranslateOptions};
use crate::lifecycle::{Tasks, sleep_until};
use crate::pricing::Settings;
use crate::table::Update;
use jiff::Timestamp;
use kube::Client;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::{mpsc, watch as latest};
use tokio::time::Instant;
use tracing::{info, warn};

/// Name of this source in `/routes`.
pub const NAME: &str = "kube";

/// A change waits this long for another one.
const QUIET: Duration = Duration::from_millis(10);
/// And no longer than this for all that follow; the table's build comes on top (250 ms in all).
const LONGEST: Duration = Duration::from_millis(150);
/// Messages between those who read and the one who sends; a page is many.
const MESSAGES: usize = 16;
/// Longest sleep until an offer changes by time alone; the wall clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Sentences of an error that are told; the rest is counted.
const TOLD: usize = 3;

/// What the operator says about the cluster; a change needs a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeOptions {
    /// Files of `--kubeconfig` or `KUBECONFIG`, separated like a search path; `None` looks for
    /// `~/.kube/config` and then for the `ServiceAccount` of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// Namespaces that are read; empty is all of them.
    pub namespaces: Vec<String>,
    /// Label selector of offers.
    pub offer_selector: Option<String>,
    /// Names of Secrets that offers may name; empty reads no Secrets.
    pub upstream_secret_names: Vec<String>,
    /// Upstreams in a foreign namespace that are allowed (O6).
    pub foreign_upstreams: Vec<ForeignUpstream>,
    /// Secrets of the predecessor that are read; none unless listed.
    pub predecessor_secrets: Vec<PredecessorSecret>,
}

/// What this source leaves to the writer of status.
pub struct ForStatus {
    /// Told what is seen of our condition.
    pub observations: Observations,
    /// Told of each new client.
    pub clients: latest::Sender<Option<Client>>,
}

/// The cluster.
#[derive(Debug)]
pub struct KubeSource {
    /// What is read.
    pub options: KubeOptions,
    /// The settings in use, `None` before there are any: which hosts the operator binds (O4).
    pub settings: latest::Receiver<Option<Arc<Settings>>>,
    /// Told what does not work without being a failure of the source, one sentence each.
    pub degraded: latest::Sender<Vec<String>>,
    /// For whoever writes status.
    pub status: Option<ForStatus>,
    /// The clock.
    pub now: fn() -> Timestamp,
}

/// What a reader tells the informer; the number is that of the list.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a few wait at a time, and most hold a page behind a pointer"
)]
enum Message {
    Offers(usize, Event<ServiceOffer>),
    Secrets(usize, Event<SecretObject>),
}

/// Owns the store and sends.
struct Informer {
    store: Store,
    /// Trouble of each list of offers, and of each list of Secrets.
    troubles: Vec<Option<String>>,
    secret_troubles: Vec<Option<String>>,
    degraded: latest::Sender<Vec<String>>,
    settings: latest::Receiver<Option<Arc<Settings>>>,
    /// Settings were seen: hosts are known.
    configured: bool,
    updates: mpsc::Sender<Update>,
    pace: Pace,
    /// The list changed since it was sent.
    dirty: bool,
    /// A list was sent.
    synced: bool,
    /// The error that the table knows, and the one that the log knows.
    told: Option<String>,
    logged: Option<String>,
    now: fn() -> Timestamp,
}

/// When what changed is to be sent.
#[derive(Debug, Default)]
struct Pace {
    first: Option<Instant>,
    due: Option<Instant>,
}

impl std::fmt::Debug for ForStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ForStatus").finish_non_exhaustive()
    }
}

impl Default for KubeOptions {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            namespaces: Vec::new(),
            offer_selector: None,
            upstream_secret_names: vec![DEFAULT_UPSTREAM_SECRET.to_owned()],
            foreign_upstreams: Vec::new(),
            predecessor_secrets: Vec::new(),
        }
    }
}

impl KubeSource {
    /// Starts the tasks of this source; they end with the process.
    pub fn start(self, updates: mpsc::Sender<Update>, tasks: &Tasks) {
        let Self {
            options,
            settings,
            degraded,
            status,
            now,
        } = self;
        let (observations, clients) = status.map_or(
            (None, None),
            |ForStatus {
                 observations,
                 clients,
             }| { (Some(observations), Some(clients)) },
        );
        let access = Arc::new(Access::new(options.kubeconfig.clone()).told_to(clients));
        let namespaces = namespaces(&options);
        let (events, messages) = mpsc::channel(MESSAGES);

        let mut credentials = Credentials::default();
        let secrets = secrets(&options, &namespaces);
        let secret_lists = secrets.len();
        for (name, namespace, form) in secrets {
            let list = credentials.add(name.clone(), namespace.clone(), form);
            let secrets = Watch {
                target: Target {
                    resource: Resource::Secret { name },
                    namespace,
                },
                access: access.clone(),
                events: events.clone(),
                wrap: Box::new(move |event| Message::Secrets(list, event)),
            };
            tasks.spawn("kube secrets", secrets.run(tasks.clone()));
        }
        for (list, namespace) in namespaces.iter().enumerate() {
            let offers = Watch {
                target: Target {
                    resource: Resource::Offers {
                        selector: options.offer_selector.clone(),
                    },
                    namespace: namespace.clone(),
                },
                access: access.clone(),
                events: events.clone(),
                wrap: Box::new(move |event| Message::Offers(list, event)),
            };
            tasks.spawn("kube offers", offers.run(tasks.clone()));
        }
        let translation = TranslateOptions {
            upstream_secret_names: options.upstream_secret_names,
            foreign_upstreams: options.foreign_upstreams,
            bound_hosts: BTreeSet::new(),
        };
        let informer = Informer {
            store: Store::new(
                namespaces.len(),
                translation,
                options.predecessor_secrets,
                credentials,
            )
            .observed_by(observations),
            troubles: vec![None; namespaces.len()],
            secret_troubles: vec![None; secret_lists],
            degraded,
            settings,
            configured: false,
            updates,
            pace: Pace::default(),
            dirty: false,
            synced: false,
            told: None,
            logged: None,
            now,
        };
        tasks.spawn("kube source", informer.run(messages, tasks.clone()));
    }
}

/// The namespaces to read, each once; `None` is all of them.
fn namespaces(options: &KubeOptions) -> Vec<Option<String>> {
    if options.namespaces.is_empty() {
        return vec![None];
    }
    let named = BTreeSet::from_iter(&options.namespaces);
    named.into_iter().cloned().map(Some).collect()
}

/// The Secrets to read: name, namespace (`None` is all of them), and how they are understood.
fn secrets(
    options: &KubeOptions,
    namespaces: &[Option<String>],
) -> Vec<(String, Option<String>, Form)> {
    let mut lists = Vec::new();
    for name in BTreeSet::from_iter(&options.upstream_secret_names) {
        for namespace in namespaces {
            lists.push((name.clone(), namespace.clone(), Form::Labelled));
        }
    }
    for secret in &options.predecessor_secrets {
        let form = if secret.name == predecessor::HERMES {
            Form::Hermes
        } else {
            Form::Litellm
        };
        let namespace = Some(secret.namespace.clone());
        lists.push((secret.name.to_owned(), namespace, form));
    }
    lists
}

impl Informer {
    /// Runs until shutdown, or until nobody applies updates any more.
    async fn run(mut self, mut messages: mpsc::Receiver<Message>, tasks: Tasks) {
        self.settings_changed();
        loop {
            let next_change = self.store.next_change();
            let next_change = next_change.map(|at| instant_of(at, (self.now)()));
            tokio::select! {
                () = tasks.stopping() => return,
                message = messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                changed = self.settings.changed() => match changed {
                    Ok(()) => self.settings_changed(),
                    Err(_writer_gone) => return,
                },
                () = sleep_until(next_change) => {
                    let changed = self.store.pass_time((self.now)());
                    self.note(changed);
                }
                () = self.pace.wait() => {
                    if self.send(&tasks).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Offers(list, event) => self.take_offers(list, event),
            Message::Secrets(list, event) => self.take_secrets(list, event),
        }
    }

    fn take_offers(&mut self, list: usize, event: Event<ServiceOffer>) {
        let now = (self.now)();
        let changed = match event {
            Event::Begin => {
                self.store.begin(list);
                false
            }
            Event::Listed(objects) => {
                self.store.page(list, objects, now);
                false
            }
            Event::Complete => self.store.complete(list),
            Event::Set(object) => self.store.set(list, &object, now),
            Event::Gone(object) => self.store.gone(list, &object),
            Event::Trouble(sentence) => return self.trouble(list, Some(sentence)),
            Event::Well => return self.trouble(list, None),
        };
        self.note(changed);
    }

    fn take_secrets(&mut self, list: usize, event: Event<SecretObject>) {
        let now = (self.now)();
        let was_complete = self.store.is_complete();
        let credentials = self.store.credentials();
        let changed = match event {
            Event::Begin => {
                credentials.begin(list);
                false
            }
            Event::Listed(secrets) => {
                credentials.page(list, secrets);
                false
            }
            Event::Complete => match credentials.complete(list) {
                Some(name) => self.store.secrets_read(&name, now),
                None => false,
            },
            Event::Set(secret) => match credentials.set(list, secret) {
                Some(key) => self.store.secret_changed(&key, now),
                None => false,
            },
            Event::Gone(secret) => match credentials.gone(list, secret) {
                Some(key) => self.store.secret_changed(&key, now),
                None => false,
            },
            Event::Trouble(sentence) => {
                credentials.settle(list);
                self.secret_trouble(list, Some(sentence));
                false
            }
            Event::Well => {
                self.secret_trouble(list, None);
                false
            }
        };
        self.note(changed || self.store.is_complete() != was_complete);
    }

    fn trouble(&mut self, list: usize, sentence: Option<String>) {
        if let Some(trouble) = self.troubles.get_mut(list) {
            *trouble = sentence;
        }
        if self.troubles.iter().all(Option::is_none) {
            self.logged = None;
        }
        self.pace.note(Instant::now());
    }

    fn secret_trouble(&mut self, list: usize, sentence: Option<String>) {
        if let Some(sentence) = &sentence {
            warn!(
                cause = sentence.as_str(),
                "upstream credentials cannot be read; offers keep the ones that were read before"
            );
        }
        if let Some(trouble) = self.secret_troubles.get_mut(list) {
            *trouble = sentence;
        }
        let degraded = self
            .secret_troubles
            .iter()
            .flatten()
            .map(|sentence| format!("upstream credentials cannot be read: {sentence}"));
        self.degraded.send_replace(degraded.collect());
    }

    fn settings_changed(&mut self) {
        let hosts = match &*self.settings.borrow_and_update() {
            None => return,
            Some(settings) => settings
                .path_owners
                .iter()
                .filter_map(|owner| owner.host.as_deref())
                .map(|host| Arc::from(host.to_ascii_lowercase()))
                .collect(),
        };
        let changed = self.store.bind_hosts(hosts, (self.now)());
        let first = !std::mem::replace(&mut self.configured, true);
        self.note(changed || first);
    }

    fn note(&mut self, changed: bool) {
        if changed {
            self.dirty = true;
            self.pace.note(Instant::now());
        }
    }

    /// Sends what is to be known now: the list, then the error if there is one.
    async fn send(&mut self, tasks: &Tasks) -> Result<(), SendError<()>> {
        let mut place = self.place(tasks).await?;
        // After waiting for the place, so that what is sent is what is true now.
        self.pace = Pace::default();
        let error = self.error();
        let complete = self.configured && self.store.is_complete();
        let well_again = self.told.is_some() && error.is_none();
        let list_is_news = complete && (self.dirty || well_again);
        if list_is_news {
            let offers = self.store.offers();
            if !self.synced {
                info!(offers = offers.len(), "the cluster's offers are read");
            } else if well_again {
                info!(offers = offers.len(), "the cluster can be read again");
            }
            place.send(Update::Offers {
                source: NAME,
                offers,
            });
            self.synced = true;
            self.dirty = false;
            // The table takes a list for the end of all trouble.
            self.told = None;
            if error.is_none() {
                return Ok(());
            }
            place = self.place(tasks).await?;
        }
        if let Some(error) = error.filter(|error| self.told.as_ref() != Some(error)) {
            if self.synced && self.logged.as_ref() != Some(&error) {
                warn!(
                    cause = error.as_str(),
                    "the cluster cannot be read; its last offers stay"
                );
            }
            self.logged = Some(error.clone());
            self.told = Some(error.clone());
            place.send(Update::Failed {
                source: NAME,
                error,
            });
        }
        Ok(())
    }

    /// A place in the channel of updates; an error when there is nothing more to send.
    async fn place(&self, tasks: &Tasks) -> Result<OwnedPermit<Update>, SendError<()>> {
        tokio::select! {
            () = tasks.stopping() => Err(SendError(())),
            place = self.updates.clone().reserve_owned() => place.map_err(|_gone| SendError(())),
        }
    }

    /// What keeps offers from being read, in one line.
    fn error(&self) -> Option<String> {
        let distinct: BTreeSet<&String> = self.troubles.iter().flatten().collect();
        let more = distinct.len().saturating_sub(TOLD);
        let told: Vec<&str> = distinct
            .into_iter()
            .take(TOLD)
            .map(String::as_str)
            .collect();
        if told.is_empty() {
            return None;
        }
        let text = told.join("; ");
        Some(if more == 0 {
            text
        } else {
            format!("{text}; and {more} more")
        })
    }
}

impl Pace {
    /// Something changed.
    fn note(&mut self, now: Instant) {
        let first = *self.first.get_or_insert(now);
        self.due = Some((now + QUIET).min(first + LONGEST));
    }

    /// Resolves when it is time to send.
    async fn wait(&self) {
        sleep_until(self.due).await;
    }
}

/// When a moment of the calendar is, as far as anybody sleeps.
fn instant_of(at: Timestamp, now: Timestamp) -> Instant {
    let wait = Duration::try_from(now.duration_until(at)).unwrap_or_default();
    Instant::now() + wait.min(LONGEST_SLEEP)
}

#[cfg(test)]
mod tests;
