//! Real Traefik on the same offers, by `IngressRoute`s of the same API server (R1, R4): between an offer and no offer
//! there is no moment in which its service is reached unpaid.
//!
//! The routes are owned by their offers, as a controller makes them. The garbage collector that would delete them runs
//! in the controller manager, which the rig does not have; the test deletes them in its place, a moment after the
//! offers, and that moment is what the gate stands alone in. One offer is sold at a pinned address; the other, outside
//! the managed prefixes, at the bare one of a verifier that passes what it does not know.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};

use super::seller::Seller;
use crate::{
    harness::{Wallet, challenge_of},
    parts::{
        Traefik,
        control_plane::{Cluster, ControlPlane, offer},
        http::Pool,
        require,
    },
    real::{
        shop::{documented_entry_point, payment_header},
        upstream::Upstream,
    },
    soak::count,
};

const NAMESPACE: &str = "ingress";
/// What T4.14 gives the route to be gone, 2 s, with the slack of a busy machine.
const GONE: Duration = Duration::from_secs(10);
/// Traefik and the verifier hear of a new offer, on a busy machine.
const LIVE: Duration = Duration::from_secs(20);

/// What the service is behind, in the cluster: a Service, a Middleware and an `IngressRoute` owned by the offer.
fn manifests(offer: &Value, gate: &str, port: u16) -> [Value; 3] {
    let text = |pointer: &str| {
        offer
            .pointer(pointer)
            .and_then(Value::as_str)
            .expect("an offer")
            .to_owned()
    };
    let (name, path) = (text("/metadata/name"), text("/spec/path"));
    let owner = json!([{
        "apiVersion": "obol.org/v1alpha1", "kind": "ServiceOffer", "name": name, "uid": text("/metadata/uid"),
    }]);
    [
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": name},
            "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"name": "web", "port": port}]},
        }),
        json!({
            "apiVersion": "traefik.io/v1alpha1", "kind": "Middleware", "metadata": {"namespace": NAMESPACE, "name": name},
            "spec": {"forwardAuth": {"address": gate, "trustForwardHeader": false, "maxResponseBodySize": 65536}},
        }),
        json!({
            "apiVersion": "traefik.io/v1alpha1", "kind": "IngressRoute",
            "metadata": {"namespace": NAMESPACE, "name": name, "ownerReferences": owner},
            "spec": {"entryPoints": ["web"], "routes": [{
                "kind": "Rule", "match": format!("PathPrefix(`{path}`)"), "middlewares": [{"name": name}],
                "services": [{"name": name, "port": port}],
            }]},
        }),
    ]
}

/// As the garbage collector would, once the owner is gone.
async fn collect(cluster: &Cluster, name: &str) {
    let kind = GroupVersionKind::gvk("traefik.io", "v1alpha1", "IngressRoute");
    let resource = ApiResource::from_gvk_with_plural(&kind, "ingressroutes");
    let routes: Api<DynamicObject> = Api::namespaced_with(cluster.client(), NAMESPACE, &resource);
    let route = routes.get(name).await.expect("the route");
    assert_eq!(route.metadata.owner_references.unwrap()[0].name, name);
    assert_eq!(
        cluster.offer(NAMESPACE, name).await,
        None,
        "its owner is gone"
    );
    routes.delete(name, &DeleteParams::default()).await.unwrap();
}

/// Every change of what an unpaid request gets, and when.
type Seen = Arc<Mutex<Vec<(u16, Instant)>>>;

async fn watch(pool: Pool, url: String, seen: Seen, over: Arc<AtomicBool>) {
    while !over.load(Ordering::SeqCst) {
        let status = pool
            .get(&url)
            .await
            .expect("Traefik answers")
            .status
            .as_u16();
        {
            let mut seen = seen.lock().unwrap();
            if seen.last().is_none_or(|(last, _)| *last != status) {
                seen.push((status, Instant::now()));
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until all of them say this; meanwhile nobody is let through.
async fn all_say(seen: &[Seen; 2], status: u16) {
    let started = Instant::now();
    loop {
        let said = seen.each_ref().map(statuses);
        let passed = said.iter().flatten().any(|status| *status < 400);
        assert!(!passed, "R1: a free pass: {said:?}");
        if said.iter().all(|said| said.last() == Some(&status)) {
            return;
        }
        assert!(started.elapsed() < LIVE, "{LIVE:?} for {status}: {said:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn statuses(seen: &Seen) -> Vec<u16> {
    let seen = seen.lock().unwrap();
    seen.iter().map(|(status, _)| *status).collect()
}

/// T4.14.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_14_through_traefik_a_deleted_offer_is_never_reached_again() {
    let quiet = Duration::from_secs(count(10, 120) as u64);
    let control = ControlPlane::shared().await;
    let seller =
        Seller::open_with(&control, control.address(), NAMESPACE, "unmatched: allow\n").await;
    let crds = require("traefik-crds").join("crds.yaml");
    seller
        .cluster
        .apply(&std::fs::read_to_string(crds).unwrap())
        .await;

    let upstream = Upstream::start().await;
    let port = upstream.url().rsplit(':').next().unwrap().parse().unwrap();
    let mut bare = offer(NAMESPACE, "bare", "0.001");
    bare["spec"]["path"] = json!("/shop/bare");
    let gate = |address: &str| seller.verifier.url(address);
    for (offer, gate) in [
        (
            offer(NAMESPACE, "pinned", "0.001"),
            gate("/verify/ingress/pinned"),
        ),
        (bare, gate("/verify")),
    ] {
        let offer = seller.cluster.create_offer(&offer).await.unwrap();
        for manifest in manifests(&offer, &gate, port) {
            seller.cluster.try_apply(&manifest).await.unwrap();
        }
    }
    let options = documented_entry_point();
    let traefik = Traefik::start_in_cluster(&control, NAMESPACE, &[("web", &options)]).await;
    let urls =
        ["/services/pinned/x", "/shop/bare/x"].map(|path| format!("{}{path}", traefik.url("web")));
    let pool = Pool::default();
    for url in &urls {
        let started = Instant::now();
        while pool.get(url).await.unwrap().status != 402 {
            assert!(started.elapsed() < LIVE, "no price at {url}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let challenge = challenge_of(&pool.get(url).await.unwrap());
        let (name, value) = payment_header(&Wallet::new(1).pay_v2(&challenge));
        let paid = ::http::Request::get(url).header(name, value);
        let answer = pool
            .send(paid.body(Default::default()).unwrap())
            .await
            .unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.text().as_str()),
            (200, "paid")
        );
    }
    assert_eq!(upstream.take().len(), 2);

    let over = Arc::new(AtomicBool::new(false));
    let seen: [Seen; 2] = Default::default();
    let watchers: Vec<_> = urls
        .iter()
        .zip(&seen)
        .map(|(url, seen)| {
            tokio::spawn(watch(
                pool.clone(),
                url.clone(),
                Arc::clone(seen),
                Arc::clone(&over),
            ))
        })
        .collect();
    all_say(&seen, 402).await;
    for name in ["pinned", "bare"] {
        seller.cluster.delete_offer(NAMESPACE, name).await;
    }
    // Until the collector comes, the gate alone answers.
    all_say(&seen, 410).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for name in ["pinned", "bare"] {
        collect(&seller.cluster, name).await;
    }
    let collected = Instant::now();
    all_say(&seen, 404).await;
    tokio::time::sleep(quiet).await;
    over.store(true, Ordering::SeqCst);
    for watcher in watchers {
        watcher.await.unwrap();
    }
    for seen in &seen {
        assert_eq!(
            statuses(seen),
            [402, 410, 404],
            "R1, R4: once each, in this order"
        );
        let took = seen.lock().unwrap()[2]
            .1
            .saturating_duration_since(collected);
        println!("404 after {took:?}");
        assert!(took < GONE, "{took:?}");
    }
    assert!(
        upstream.take().is_empty(),
        "R1: nothing reached the service"
    );
    for name in ["pinned", "bare"] {
        assert_eq!(seller.cluster.offer(NAMESPACE, name).await, None);
        assert!(seller.series(name).await.is_empty(), "R7");
    }
    assert_eq!(seller.facilitator.settles(), 2);
}
