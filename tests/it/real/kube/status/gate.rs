//! A gate that is nothing but a table and the writer of status, and the namespace it is tested in.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use x402_verifier::{
    crd::{self, Observations, Observed, ServiceOffer, TranslateOptions},
    lifecycle::Tasks,
    metrics::{Metrics, TableGauges},
    pricing,
    status::{Running, Status, StatusOptions},
    table::{TableWriter, Update},
};

use crate::{
    harness,
    parts::{
        control_plane::{ADMIN_TOKEN, Audit, AuditEntry, Cluster, ControlPlane, Options, offer},
        require,
    },
};

/// Longer than any pace of the writer.
pub(super) const SETTLED: Duration = Duration::from_secs(5);
/// A condition is visible within 2 s; five times that.
const VISIBLE: Duration = Duration::from_secs(10);

/// A namespace, an account that may do what the documentation says, and the administrator.
pub(super) struct Scene {
    pub(super) control: Arc<ControlPlane>,
    pub(super) cluster: Cluster,
    pub(super) namespace: String,
    pub(super) token: String,
}

/// The writer with a table of its own.
pub(super) struct Gate {
    writer: TableWriter,
    published: watch::Sender<u64>,
    observations: Observations,
    known: BTreeSet<Arc<str>>,
    degraded: watch::Receiver<Vec<String>>,
    metrics: Arc<Metrics>,
    running: Running,
    _tasks: Tasks,
    _clients: watch::Sender<Option<kube::Client>>,
}

/// What the documentation lets the writer do.
pub(in crate::real::kube) fn rules() -> Value {
    json!([
        {"apiGroups": ["obol.org"], "resources": ["serviceoffers"], "verbs": ["get"]},
        {"apiGroups": ["obol.org"], "resources": ["serviceoffers/status"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
    ])
}

/// The same without a resource.
pub(super) fn rules_without(resource: &str) -> Value {
    let mut rules = rules();
    let list = rules.as_array_mut().unwrap();
    list.retain(|rule| rule["resources"] != json!([resource]));
    rules
}

impl Scene {
    /// What `kubectl describe` tells the seller of an offer.
    pub(super) fn describe(&self, name: &str) -> String {
        let output = Command::new(require("kube").join("kubectl"))
            .env("KUBECONFIG", self.admin_kubeconfig())
            .args(["describe", "serviceoffer", name, "--namespace"])
            .arg(&self.namespace)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// In the shared control plane.
    pub(super) async fn new(namespace: &str) -> Self {
        Self::within(ControlPlane::shared().await, namespace).await
    }

    /// In a control plane of its own.
    pub(super) async fn alone(namespace: &str) -> Self {
        Self::within(Arc::new(ControlPlane::start().await), namespace).await
    }

    /// In a control plane of its own whose audit log keeps what was sent.
    pub(super) async fn audited(namespace: &str) -> Self {
        let options = Options {
            audit: Audit::RequestResponse,
            ..Options::default()
        };
        Self::within(Arc::new(ControlPlane::start_with(options).await), namespace).await
    }

    async fn within(control: Arc<ControlPlane>, namespace: &str) -> Self {
        let cluster = control.cluster();
        cluster.install_field_crd().await;
        let token = cluster.service_account(namespace, "gate").await;
        let scene = Self {
            control,
            cluster,
            namespace: namespace.to_owned(),
            token,
        };
        scene.allow(&rules()).await;
        scene
    }

    /// Lets the account do this, and returns when the API server knows.
    pub(super) async fn allow(&self, rules: &Value) {
        self.cluster.allow(&self.namespace, "gate", rules).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    pub(super) async fn create(&self, names: &[&str]) {
        for name in names {
            let wanted = offer(&self.namespace, name, "0.001");
            self.cluster.create_offer(&wanted).await.unwrap();
        }
    }

    pub(super) async fn offer(&self, name: &str) -> Value {
        self.cluster
            .offer(&self.namespace, name)
            .await
            .expect("the offer")
    }

    /// Our condition of an offer; `null` when it is not there.
    pub(super) async fn condition(&self, name: &str) -> Value {
        let offer = self.offer(name).await;
        let conditions = offer["status"]["conditions"].as_array().cloned();
        let mut all = conditions.unwrap_or_default().into_iter();
        all.find(|item| item["type"] == crd::CONDITION_TYPE)
            .unwrap_or_default()
    }

    pub(super) async fn message(&self, name: &str) -> String {
        self.condition(name).await["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// What the account asked for, in order.
    pub(super) fn asked(&self, verb: &str, target: &str) -> Vec<AuditEntry> {
        let all = self.all_asked().into_iter();
        all.filter(|entry| entry.verb == verb && entry.target() == target)
            .collect()
    }

    /// Everything that the account asked to change, Leases included.
    pub(super) fn writes(&self) -> Vec<String> {
        let writes = self.all_asked().into_iter().filter(AuditEntry::is_write);
        writes
            .map(|entry| format!("{} {}", entry.verb, entry.uri))
            .collect()
    }

    pub(super) fn patches(&self, target: &str) -> usize {
        self.asked("patch", target).len()
    }

    fn all_asked(&self) -> Vec<AuditEntry> {
        let user = format!("system:serviceaccount:{}:gate", self.namespace);
        let all = self.control.audit().into_iter();
        all.filter(|entry| entry.user == user).collect()
    }

    pub(super) fn admin_kubeconfig(&self) -> PathBuf {
        self.control.kubeconfig(self.control.address(), ADMIN_TOKEN)
    }
}

impl Gate {
    /// Straight to the API server.
    pub(super) async fn start(scene: &Scene, identity: &str) -> Self {
        let client = Cluster::connect(scene.control.address(), &scene.token).client();
        Self::start_with(scene, identity, client, "")
    }

    /// By this client, with further lines in the pricing file.
    pub(super) fn start_with(
        scene: &Scene,
        identity: &str,
        client: kube::Client,
        lines: &str,
    ) -> Self {
        let text = format!("{}{lines}", harness::pricing(harness::NO_FACILITATOR));
        let document = pricing::parse(&text, "pricing.yaml", Path::new(".")).unwrap();
        let (mut writer, table) = TableWriter::new();
        writer.expect_source("kube");
        writer.apply(
            Update::Document {
                settings: Box::new(document.settings),
                offers: document.offers,
            },
            Timestamp::now(),
        );
        let (published, publications) = watch::channel(0);
        let (clients, client) = watch::channel(Some(client));
        let (troubles, degraded) = watch::channel(Vec::new());
        let observations = Observations::default();
        let metrics = Metrics::with_ambiguity_classes("x", &[]).unwrap();
        let tasks = Tasks::new();
        let status = Status {
            options: StatusOptions {
                lease_name: "gate".to_owned(),
                lease_namespace: Some(scene.namespace.clone()),
                identity: identity.to_owned(),
            },
            clients: client,
            table,
            published: publications,
            observations: observations.clone(),
            metrics: metrics.clone(),
            degraded: troubles,
            now: Timestamp::now,
        };
        Self {
            running: status.start(&tasks),
            writer,
            published,
            observations,
            known: BTreeSet::new(),
            degraded,
            metrics,
            _tasks: tasks,
            _clients: clients,
        }
    }

    /// Looks at the cluster, as an informer does all the time.
    pub(super) async fn sync(&mut self, scene: &Scene) {
        let objects = read(scene).await;
        self.see(&objects);
        self.publish(&objects);
    }

    /// What an informer sees.
    pub(super) fn see(&mut self, objects: &[ServiceOffer]) {
        let mut there = BTreeSet::new();
        for object in objects {
            let uid: Arc<str> = object.metadata.uid.as_deref().unwrap().into();
            self.observations.see(&uid, Observed::of(object));
            there.insert(uid);
        }
        for gone in self.known.difference(&there) {
            self.observations.forget(gone);
        }
        self.known = there;
    }

    /// Whether anything is kept of what an offer was seen with.
    pub(super) fn remembers(&self, uid: &str) -> bool {
        self.observations.get(uid).is_some()
    }

    /// What the table makes of it.
    pub(super) fn publish(&mut self, objects: &[ServiceOffer]) {
        let (options, now) = (TranslateOptions::default(), Timestamp::now());
        let translated = objects
            .iter()
            .map(|object| Arc::new(crd::translate(object, &options, now).offer));
        let update = Update::Offers {
            source: "kube",
            offers: translated.collect(),
        };
        let applied = self.writer.apply(update, now);
        self.published.send_replace(applied.table.generation);
    }

    /// Looks again and again for so long.
    pub(super) async fn live(&mut self, scene: &Scene, time: Duration) {
        let started = Instant::now();
        while started.elapsed() < time {
            self.sync(scene).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Looks until the offer has our condition with this reason, for as long as that may take; the offer.
    pub(super) async fn until_reason(&mut self, scene: &Scene, name: &str, reason: &str) -> Value {
        let started = Instant::now();
        loop {
            if scene.condition(name).await["reason"] == reason {
                // The writer's answer may still be under way; the informer's news are not.
                self.sync(scene).await;
                return scene.offer(name).await;
            }
            assert!(
                started.elapsed() < VISIBLE,
                "no {reason} at {name}: {}, {:?}",
                scene.offer(name).await["status"],
                scene.writes()
            );
            self.sync(scene).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) fn degraded(&self) -> Vec<String> {
        self.degraded.borrow().clone()
    }

    /// `status_writes_total` of a result.
    pub(super) fn counted(&self, result: &str) -> f64 {
        let page = self.metrics.render(&TableGauges::default());
        let series = format!("x_status_writes_total{{result=\"{result}\"}} ");
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(series.as_str()));
        line.expect("the series").parse().unwrap()
    }

    /// As SIGTERM does; returns when the Lease was given back.
    pub(super) async fn stop(self) {
        self.running.ended().await;
    }
}

/// The offers of the namespace, as the API server has them now.
pub(super) async fn read(scene: &Scene) -> Vec<ServiceOffer> {
    let list = scene
        .cluster
        .offers(&scene.namespace)
        .list(&ListParams::default())
        .await
        .unwrap();
    let objects = list.items.iter();
    objects
        .map(|object| ServiceOffer::from_json(serde_json::to_value(object).unwrap()))
        .collect()
}
