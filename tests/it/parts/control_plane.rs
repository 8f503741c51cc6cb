//! A real Kubernetes control plane on loopback: etcd and kube-apiserver as `make tools` built them, no imitation.
//!
//! What it is: an API server with RBAC, CRDs with their validation, watches, admission, tokens of
//! service accounts, an audit log, and the store behind it. Each can be killed, stopped, woken and started again on the same data.
//!
//! What it is not: a cluster. No controller manager and no kubelet run, so nothing collects garbage (owner references
//! delete nothing), a deleted namespace stays `Terminating`, pods are never scheduled.
//!
//! [`ControlPlane::start`] is one of the test's own, 3 to 4 s; [`ControlPlane::shared`] is the one that the tests of
//! this binary share, each with namespaces of its own. Only the owner may kill, stop or reconfigure it: those methods
//! take `&mut self`. [`Cluster`] speaks to it as the administrator, [`ControlPlane::kubeconfig`] is for everybody
//! else; give it the address of a [`StreamProxy`](super::stream_proxy::StreamProxy) or of [`ApiFaults`] to put that between. All
//! three present one certificate, that of the files beside this one, so one authority is right for all of them (they
//! are valid for a century; the authority's key was thrown away).

mod api_faults;
mod audit;
mod cluster;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use tempfile::TempDir;

pub(crate) use self::{
    api_faults::{ApiFaults, Ask, Fault, Verb},
    audit::AuditEntry,
    cluster::{Cluster, offer},
};
use super::{
    free_port, http,
    process::{Process, scratch_dir, supervised},
    require,
};

/// The token of the administrator (`system:masters`), whose requests the audit log leaves out.
pub(crate) const ADMIN_TOKEN: &str = "admin-token";
/// A token that is somebody's who may do nothing.
pub(crate) const NOBODY_TOKEN: &str = "nobody-token";
/// The oldest version that the API server can pretend to be (`--emulated-version`), and so the documented minimum.
pub(crate) const OLDEST_EMULATED: &str = "1.32";
/// The version that every API server pretends to be which is not started with another one; unset or empty is its own.
pub(crate) const EMULATED_VERSION: &str = "X402_EMULATED_VERSION";

/// How much of each request the audit log keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audit {
    /// Nothing: for benches, where the log would be what is measured.
    Off,
    /// Who asked what, and the answer's code.
    Metadata,
    /// The bodies of request and answer as well.
    RequestResponse,
}

/// What an API server of one's own is started with. The fields hold from the next start of the API server on.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) audit: Audit,
    /// Further flags of kube-apiserver, as `--watch-cache=false`; a repeated flag wins over ours.
    pub(crate) flags: Vec<String>,
    /// Static tokens besides the administrator's, as `(token, user)`. Without one that was there, its bearer gets 401.
    pub(crate) tokens: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            audit: Audit::Metadata,
            flags: Vec::new(),
            tokens: vec![(NOBODY_TOKEN.to_owned(), "nobody".to_owned())],
        }
    }
}

/// A running control plane; it and its data go with the guard.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    // Before the folder: what is dropped first must not write into a folder that is gone.
    api: Option<Process>,
    etcd: Option<Process>,
    options: Options,
    api_port: u16,
    etcd_port: u16,
    peer_port: u16,
    kubeconfigs: AtomicU64,
    dir: TempDir,
}

/// The shared one, for as long as somebody holds it.
static SHARED: tokio::sync::Mutex<Weak<ControlPlane>> = tokio::sync::Mutex::const_new(Weak::new());

impl ControlPlane {
    /// One of the caller's own, ready.
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// As [`ControlPlane::start`], with options.
    pub(crate) async fn start_with(options: Options) -> Self {
        let mut control = Self {
            api: None,
            etcd: None,
            options,
            api_port: free_port(),
            etcd_port: free_port(),
            peer_port: free_port(),
            kubeconfigs: AtomicU64::new(0),
            dir: scratch_dir("control-plane"),
        };
        control.start_etcd();
        control.start_api().await;
        control
    }

    /// The one that the tests of this binary share; it ends with its last holder.
    pub(crate) async fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&started);
        started
    }

    /// Where the API server listens.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.api_port))
    }

    /// A client of the administrator, straight to the API server. It belongs to the runtime that made it.
    pub(crate) fn cluster(&self) -> Cluster {
        Cluster::connect(self.address(), ADMIN_TOKEN)
    }

    /// Options for the next start of the API server.
    pub(crate) fn options(&mut self) -> &mut Options {
        &mut self.options
    }

    /// A kubeconfig file for the bearer of `token` who reaches the API server at `server`.
    pub(crate) fn kubeconfig(&self, server: SocketAddr, token: &str) -> PathBuf {
        self.kubeconfig_of(server, &json!({ "token": token }))
    }

    /// As [`ControlPlane::kubeconfig`], with the token in a file that may change.
    pub(crate) fn kubeconfig_with_token_file(&self, server: SocketAddr, token: &Path) -> PathBuf {
        self.kubeconfig_of(server, &json!({ "tokenFile": token }))
    }

    fn kubeconfig_of(&self, server: SocketAddr, user: &serde_json::Value) -> PathBuf {
        let number = self.kubeconfigs.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.path().join(format!("kubeconfig-{number}"));
        // JSON is YAML.
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{server}"),
                "certificate-authority": authority(),
            }}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        write(&path, &config.to_string());
        path
    }

    /// What everybody but the administrator and the API server itself has asked for so far, in order of arrival.
    ///
    /// A request is in it before its answer is sent, the answer's code a moment after it was sent.
    pub(crate) fn audit(&self) -> Vec<AuditEntry> {
        audit::read(&self.audit_log())
    }

    /// `kill -9` of the API server; its address refuses connections from here on.
    pub(crate) fn kill_api(&mut self) {
        self.api = None;
        wait_free(self.api_port);
    }

    /// Starts the API server on the same data and address, and waits until it is ready.
    ///
    /// A list or watch of a CRD's objects may still get 429 (`storage is (re)initializing`) for a moment more.
    pub(crate) async fn start_api(&mut self) {
        self.launch_api();
        self.wait_api_ready().await;
    }

    /// `kill -9` and start again on the same data.
    pub(crate) async fn restart_api(&mut self) {
        self.kill_api();
        self.start_api().await;
    }

    /// `kill -9` of the store. The API server stays: a request that needs the store waits for up to a minute.
    pub(crate) fn kill_etcd(&mut self) {
        self.etcd = None;
        wait_free(self.etcd_port);
        wait_free(self.peer_port);
    }

    /// Starts the store on its data.
    pub(crate) fn start_etcd(&mut self) {
        let mut etcd = supervised(require("kube").join("etcd"));
        let client = format!("http://127.0.0.1:{}", self.etcd_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        etcd.arg(format!(
            "--data-dir={}",
            self.dir.path().join("etcd").display()
        ))
        .args(["--log-level=warn", "--unsafe-no-fsync"])
        // 2 GB by default: a bench of 100,000 objects and their changes comes near.
        .arg("--quota-backend-bytes=8589934592")
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=default={peer}"));
        self.etcd = Some(Process::start("etcd", etcd));
    }

    /// SIGSTOP: the API server keeps its connections and says nothing more. Returns when it has stopped.
    pub(crate) async fn freeze_api(&self) {
        self.running_api().freeze().await;
    }

    /// SIGCONT.
    pub(crate) fn thaw_api(&self) {
        self.running_api().signal("CONT");
    }

    /// The store's current revision.
    pub(crate) async fn revision(&self) -> u64 {
        let answer = self.ask_etcd("maintenance/status", &json!({})).await;
        let revision = answer
            .pointer("/header/revision")
            .and_then(|it| it.as_str());
        revision
            .and_then(|digits| digits.parse().ok())
            .unwrap_or_else(|| panic!("no revision in {answer}"))
    }

    /// The keys of the store that were written after `revision` and are there, in the order of their names.
    pub(crate) async fn written_since(&self, revision: u64) -> Vec<String> {
        let wanted = json!({
            "key": STANDARD.encode("/"),
            "range_end": STANDARD.encode("0"),
            "keys_only": true,
            "min_mod_revision": (revision + 1).to_string(),
        });
        let answer = self.ask_etcd("kv/range", &wanted).await;
        let found = answer["kvs"].as_array().into_iter().flatten();
        found
            .map(|found| {
                let key = found["key"]
                    .as_str()
                    .and_then(|key| STANDARD.decode(key).ok());
                String::from_utf8(key.expect("a key")).expect("the API server's keys are text")
            })
            .collect()
    }

    /// Compacts the store: its history ends at the current revision, which is returned.
    ///
    /// A watch or `continue` token of an older one gets 410 from an API server that has no memory of its own: one
    /// with `--watch-cache=false`, or any that is started ([`ControlPlane::restart_api`]) after this. One that runs
    /// with its watch cache still answers from that.
    pub(crate) async fn compact(&self) -> u64 {
        let revision = self.revision().await;
        let wanted = json!({ "revision": revision.to_string(), "physical": true });
        self.ask_etcd("kv/compaction", &wanted).await;
        revision
    }

    async fn ask_etcd(&self, what: &str, body: &serde_json::Value) -> serde_json::Value {
        let url = format!("http://127.0.0.1:{}/v3/{what}", self.etcd_port);
        match http::post_json(&url, body).await {
            Ok(answer) if answer.status == 200 => answer.json(),
            Ok(answer) => panic!("etcd, {what}: {} {}", answer.status, answer.text()),
            Err(error) => panic!("etcd, {what}: {error}"),
        }
    }

    /// Starts the API server and returns at once, to see what happens before it is ready.
    pub(crate) fn launch_api(&mut self) {
        let dir = self.dir.path();
        let (tokens, policy) = (dir.join("tokens.csv"), dir.join("audit-policy.json"));
        let mut users = format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n");
        for (token, user) in &self.options.tokens {
            users.push_str(&format!("{token},{user},{user}\n"));
        }
        write(&tokens, &users);
        write(&policy, &audit::policy(self.options.audit).to_string());

        // One key for TLS and for ServiceAccount tokens: both are this API server's word.
        let key = file("server-key.pem");
        let mut api = supervised(require("kube").join("kube-apiserver"));
        api.arg(format!(
            "--etcd-servers=http://127.0.0.1:{}",
            self.etcd_port
        ))
        .args(["--bind-address=127.0.0.1", "--authorization-mode=RBAC"])
        .arg(format!("--secure-port={}", self.api_port))
        .arg(format!("--cert-dir={}", dir.join("certs").display()))
        .arg(format!("--tls-cert-file={}", file("server.pem").display()))
        .arg(format!("--tls-private-key-file={}", key.display()))
        .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
        .arg(format!("--service-account-key-file={}", key.display()))
        .arg(format!(
            "--service-account-signing-key-file={}",
            key.display()
        ))
        .arg("--service-cluster-ip-range=10.96.0.0/16")
        // It would want the ServiceAccounts that a controller makes.
        .arg("--disable-admission-plugins=ServiceAccount")
        .arg(format!("--token-auth-file={}", tokens.display()))
        .arg(format!("--audit-policy-file={}", policy.display()))
        .arg(format!("--audit-log-path={}", self.audit_log().display()))
        .args(&self.options.flags);
        // Given twice it is an error, unlike other flags.
        let own = |flag: &String| flag.starts_with("--emulated-version");
        let wanted = std::env::var(EMULATED_VERSION).unwrap_or_default();
        if !wanted.is_empty() && !self.options.flags.iter().any(own) {
            api.arg(format!("--emulated-version={wanted}"));
        }
        self.api = Some(Process::start("kube-apiserver", api));
    }

    /// Waits for an API server that was launched.
    pub(crate) async fn wait_api_ready(&mut self) {
        let cluster = self.cluster();
        if let Some(api) = &mut self.api {
            api.wait_until("the API server to be ready", |_| {
                let cluster = cluster.clone();
                async move { cluster.is_ready().await }
            })
            .await;
        }
    }

    fn running_api(&self) -> &Process {
        self.api.as_ref().expect("the API server runs")
    }

    fn audit_log(&self) -> PathBuf {
        self.dir.path().join("audit.log")
    }
}

/// The certificate of the authority that vouches for the API server and everything that stands in for it.
pub(crate) fn authority() -> PathBuf {
    file("ca.pem")
}

fn file(name: &str) -> PathBuf {
    [
        env!("CARGO_MANIFEST_DIR"),
        "tests/it/parts/control_plane",
        name,
    ]
    .iter()
    .collect()
}

fn write(path: &Path, text: &str) {
    if let Err(error) = std::fs::write(path, text) {
        panic!("cannot write {}: {error}", path.display());
    }
}

/// A process that was killed holds its port for a moment longer than its supervisor lives.
fn wait_free(port: u16) {
    let started = Instant::now();
    while TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "port {port} stays taken"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
