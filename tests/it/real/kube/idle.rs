//! Nothing happens: then a verifier leaves the API server, its store and the processor alone.
//!
//! Looking at resource versions would not do: a patch that changes nothing leaves them as they are and is a request
//! all the same, which the audit log shows. The store is asked for what was written, key by key, because an API
//! server writes some of its own all the time.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::rbac::{Documented, VISIBLE, condition};
use crate::{
    parts::control_plane::{AuditEntry, offer},
    soak::count,
};

const OFFERS: usize = 50;
/// What of a core may be used: 0.2 %, and five times that for a build without optimisation.
const OF_A_CORE: f64 = 0.002 * 5.0;
/// What an API server writes by itself: who it is, and where it listens.
const ITS_OWN: [&str; 3] = [
    "/registry/leases/kube-system/",
    "/registry/masterleases/",
    "compact_rev_key",
];

/// T4.12: under the field's CRD, which prunes what a naive comparison would miss for ever.
#[tokio::test]
async fn t4_12_an_idle_verifier_asks_to_change_nothing_and_uses_no_processor() {
    let mut scene = Documented::new(&["shop"]).await;
    scene.apply("cluster", &[]).await;
    let cluster = scene.cluster.clone();
    cluster
        .create_offers((0..OFFERS).map(|n| offer("shop", &format!("o{n}"), "0.001")))
        .await;
    let ready = json!({"type": "Ready", "status": "True", "reason": "Fine", "message": "by the controller", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"conditions": [ready]});
    cluster.patch_offer_status("shop", "o3", &status).await;
    let verifier = scene.start("x402-verifier", &[]).await;
    let started = Instant::now();
    for n in 0..OFFERS {
        let name = format!("o{n}");
        scene.says(&verifier, ("shop", &name), "Enforced").await;
    }
    println!("{OFFERS} conditions after {:?}", started.elapsed());
    let kept = cluster.offer("shop", "o3").await.unwrap();
    assert_eq!(kept["status"]["conditions"][0], ready);

    // The holder's last renewal may be on its way.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let writes = || -> Vec<String> {
        let asked = scene.asked("x402-verifier").into_iter();
        let writes = asked.filter(AuditEntry::is_write);
        writes
            .map(|entry| format!("{} {}", entry.verb, entry.uri))
            .collect()
    };
    let before = writes();
    let patches = before
        .iter()
        .filter(|write| write.starts_with("patch "))
        .count();
    assert_eq!(patches, OFFERS, "one each");
    let revision = scene.control.revision().await;
    let used = verifier.cpu_time();
    assert!(!used.is_zero(), "it is read from the right process");
    let started = Instant::now();
    tokio::time::sleep(Duration::from_secs(count(60, 600) as u64)).await;

    let share = (verifier.cpu_time() - used).as_secs_f64() / started.elapsed().as_secs_f64();
    println!("{:.2} % of a core", share * 100.0);
    let after = writes();
    assert_eq!(after.get(before.len()..), Some(&[][..]));
    let mut written = scene.control.written_since(revision).await;
    written.retain(|key| !ITS_OWN.iter().any(|own| key.starts_with(own)));
    assert_eq!(written, [""; 0]);
    assert!(share < OF_A_CORE, "{:.2} % of a core", share * 100.0);

    // And it is not dead.
    let dearer = json!({"spec": {"payment": {"price": {"perRequest": "0.002"}}}});
    cluster.patch_offer("shop", "o7", &dearer).await;
    verifier
        .eventually(VISIBLE, "the new price to be told", || async {
            let message = condition(&cluster, ("shop", "o7")).await["message"].to_string();
            message.contains("0.002 USDC")
        })
        .await;
    let written = scene.control.written_since(revision).await;
    assert!(
        written.contains(&"/registry/obol.org/serviceoffers/shop/o7".to_owned()),
        "{written:?}"
    );
}
