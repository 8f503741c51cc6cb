//! A verifier that sells what one namespace of a real API server offers, paid through a scripted facilitator.
//!
//! It runs with the rights that the documentation grants, writing status included. Requests go over kept connections,
//! because the tests that use this ask thousands of times.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{informer, status};
use crate::{
    harness::{Ask, Verifier, challenge_of, pricing},
    parts::{
        control_plane::{Cluster, ControlPlane},
        http::{Answer, Pool},
    },
    scripted::Scripted,
};

/// A change is live within 100 ms; with the slack that a busy machine needs.
pub(super) const LIVE: Duration = Duration::from_secs(10);

/// What a busy test needs besides [`pricing`].
const ROOM: &str = "limits: {permitsPerFacilitator: 4000, permitsPerOffer: 4000, verifyRatePerPayer: 4000, verifyRatePerOffer: 4000}\n";

/// The parts, in the order in which they are to end.
pub(super) struct Seller {
    pub(super) verifier: Verifier,
    pub(super) facilitator: Scripted,
    pub(super) cluster: Cluster,
    pub(super) namespace: String,
    pub(super) pool: Pool,
}

impl Seller {
    /// In a namespace of this control plane, reached at `server`.
    pub(super) async fn open(control: &ControlPlane, server: SocketAddr, namespace: &str) -> Self {
        Self::open_with(control, server, namespace, "").await
    }

    /// As [`Seller::open`], with further lines in the pricing file.
    pub(super) async fn open_with(
        control: &ControlPlane,
        server: SocketAddr,
        namespace: &str,
        lines: &str,
    ) -> Self {
        let cluster = control.cluster();
        cluster.install_field_crd().await;
        let token = cluster.service_account(namespace, "gate").await;
        // Who reads and writes may what either may.
        let rules = [informer::rules(), status::gate::rules()];
        let rules = rules
            .iter()
            .flat_map(|rules| rules.as_array().expect("rules"));
        let rules = rules.cloned().collect();
        cluster.allow(namespace, "gate", &rules).await;
        let kubeconfig = control.kubeconfig(server, &token);
        let flags = [
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--watch-namespaces={namespace}"),
            format!("--status-lease-namespace={namespace}"),
        ];
        let mut args = vec!["--route-source=kube"];
        args.extend(flags.iter().map(String::as_str));
        let facilitator = Scripted::start().await;
        let document = format!("{}{ROOM}{lines}", pricing(&facilitator.url()));
        let verifier = Verifier::start_with(&document, &args).await;
        Self {
            verifier,
            facilitator,
            cluster,
            namespace: namespace.to_owned(),
            pool: Pool::default(),
        }
    }

    /// In a namespace of the shared control plane.
    pub(super) async fn shared(namespace: &str) -> (Arc<ControlPlane>, Self) {
        let control = ControlPlane::shared().await;
        let seller = Self::open(&control, control.address(), namespace).await;
        (control, seller)
    }

    /// A request for something of an offer.
    pub(super) fn ask(&self, name: &str) -> Ask {
        self.verifier.ask(&format!("/services/{name}/x"))
    }

    /// What became of a request; the verifier answers whatever it is.
    pub(super) async fn send(&self, ask: &Ask) -> Answer {
        send(&self.pool, ask).await
    }

    /// Status of an unpaid request.
    pub(super) async fn status(&self, name: &str) -> u16 {
        self.send(&self.ask(name)).await.status.as_u16()
    }

    /// Waits until an unpaid request is answered so; how long that took.
    pub(super) async fn becomes(&self, name: &str, status: u16) -> Duration {
        let started = Instant::now();
        while self.status(name).await != status {
            assert!(
                started.elapsed() < LIVE,
                "no {status} of {name}\n{}",
                self.verifier.log()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        started.elapsed()
    }

    /// The challenge, once there is one.
    pub(super) async fn challenge(&self, name: &str) -> Value {
        self.becomes(name, 402).await;
        challenge_of(&self.send(&self.ask(name)).await)
    }

    /// Lines of `/metrics` that name an offer.
    pub(super) async fn series(&self, name: &str) -> Vec<String> {
        let page = self.get("/metrics").await.text();
        let label = format!("offer_name=\"{name}\"");
        let lines = page.lines().filter(|line| line.contains(&label));
        lines.map(str::to_owned).collect()
    }

    /// `/routes` of the namespace, those in this state.
    pub(super) async fn routes(&self, state: &str) -> Vec<Value> {
        let path = format!("/routes?namespace={}", self.namespace);
        let routes = self.get(&path).await.json()["routes"].take();
        let Value::Array(mut routes) = routes else {
            panic!("no routes: {routes}")
        };
        routes.retain(|route| route["state"] == state);
        routes
    }

    /// An answer of the admin port.
    pub(super) async fn get(&self, path: &str) -> Answer {
        let answer = self.pool.get(&self.verifier.admin_url(path)).await;
        answer.expect("the admin port answers")
    }
}

/// As [`Seller::send`], for a task of its own.
pub(super) async fn send(pool: &Pool, ask: &Ask) -> Answer {
    let answer = pool.send(ask.request()).await;
    answer.expect("the verifier answers")
}
