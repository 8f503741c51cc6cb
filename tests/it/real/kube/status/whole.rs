//! The whole verifier: its informer sees, its table decides, its writer writes.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    gate::{self, Scene},
    ready,
};
use crate::{
    harness::{NO_FACILITATOR, Verifier, pricing},
    parts::control_plane::offer,
};

/// Five times the 2 s that are promised.
const VISIBLE: Duration = Duration::from_secs(10);

/// What the documentation grants: reading, and writing status.
pub(super) async fn allow_all(scene: &Scene) {
    let mut rules = gate::rules();
    rules.as_array_mut().unwrap().extend([
        json!({"apiGroups": ["obol.org"], "resources": ["serviceoffers"], "verbs": ["list", "watch"]}),
        json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["x402-upstream"], "verbs": ["list", "watch"]}),
    ]);
    scene.allow(&rules).await;
}

pub(super) async fn verifier(scene: &Scene, more: &[&str]) -> Verifier {
    let kubeconfig = scene
        .control
        .kubeconfig(scene.control.address(), &scene.token);
    let flags = [
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--watch-namespaces={}", scene.namespace),
        format!("--status-lease-namespace={}", scene.namespace),
    ];
    let mut args = vec!["--route-source=kube"];
    args.extend(flags.iter().map(String::as_str));
    args.extend(more);
    Verifier::start_with(&pricing(NO_FACILITATOR), &args).await
}

pub(super) async fn says(scene: &Scene, verifier: &Verifier, name: &str, reason: &str, text: &str) {
    let what = format!("{name} to say {reason}, {text:?}");
    verifier
        .eventually(VISIBLE, &what, || async {
            let condition = scene.condition(name).await;
            let message = condition["message"].as_str().unwrap_or_default();
            condition["reason"] == reason && message.contains(text)
        })
        .await;
}

#[tokio::test]
async fn the_condition_follows_the_offer_and_survives_whoever_removes_it() {
    let scene = Scene::new("whole-follow").await;
    allow_all(&scene).await;
    scene.create(&["a"]).await;
    let verifier = verifier(&scene, &[]).await;
    says(&scene, &verifier, "a", "Enforced", "generation 1: ").await;
    let price = |price: &str| json!({"spec": {"payment": {"price": {"perRequest": price}}}});
    scene
        .cluster
        .patch_offer("whole-follow", "a", &price("a lot"))
        .await;
    says(&scene, &verifier, "a", "InvalidPrice", "generation 2: ").await;
    scene
        .cluster
        .patch_offer("whole-follow", "a", &price("0.002"))
        .await;
    says(&scene, &verifier, "a", "Enforced", "0.002 USDC").await;
    let paused = json!({"metadata": {"annotations": {"obol.org/paused": "true"}}});
    scene
        .cluster
        .patch_offer("whole-follow", "a", &paused)
        .await;
    says(&scene, &verifier, "a", "Withdrawn", "obol.org/paused").await;
    let sold = json!({"metadata": {"annotations": {"obol.org/paused": null}}});
    scene.cluster.patch_offer("whole-follow", "a", &sold).await;
    says(&scene, &verifier, "a", "Enforced", "generation 3: ").await;
    // No offer changes by this, so no table does.
    scene
        .cluster
        .patch_offer_status("whole-follow", "a", &json!({"conditions": [ready()]}))
        .await;
    says(&scene, &verifier, "a", "Enforced", "generation 3: ").await;
    let conditions = scene.offer("a").await["status"]["conditions"].clone();
    assert_eq!(conditions[0], ready());
}

/// O7: one of two namespaces has the path; the other learns that, and not who.
#[tokio::test]
async fn a_path_of_another_namespace_is_told_without_its_name() {
    let scene = Scene::new("whole-conflict").await;
    allow_all(&scene).await;
    let elsewhere = "whole-elsewhere";
    scene.cluster.namespace(elsewhere).await;
    scene
        .cluster
        .create_offer(&offer(elsewhere, "theirs", "0.001"))
        .await
        .unwrap();
    // Creation times are whole seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let mut second = offer("whole-conflict", "ours", "0.001");
    second["spec"]["path"] = json!("/services/theirs");
    scene.cluster.create_offer(&second).await.unwrap();
    let both = format!("--watch-namespaces=whole-conflict,{elsewhere}");
    let verifier = verifier(&scene, &[&both]).await;
    says(
        &scene,
        &verifier,
        "ours",
        "PathConflict",
        "another namespace",
    )
    .await;
    assert!(!scene.message("ours").await.contains(elsewhere));
    scene.cluster.delete_offer(elsewhere, "theirs").await;
    says(
        &scene,
        &verifier,
        "ours",
        "PathReserved",
        "another namespace",
    )
    .await;
    assert!(!scene.message("ours").await.contains(elsewhere));
}

/// T4.3: frozen while the offer is made anew under its name.
#[tokio::test]
async fn t4_3_a_verifier_that_was_frozen_writes_nothing_old() {
    let scene = Scene::new("whole-frozen").await;
    allow_all(&scene).await;
    scene.create(&["a"]).await;
    let verifier = verifier(&scene, &[]).await;
    says(&scene, &verifier, "a", "Enforced", "0.001 USDC").await;
    let dearer = json!({"spec": {"payment": {"price": {"perRequest": "0.005"}}}});
    scene
        .cluster
        .patch_offer("whole-frozen", "a", &dearer)
        .await;
    verifier.signal("STOP");
    scene.cluster.delete_offer("whole-frozen", "a").await;
    let anew = offer("whole-frozen", "a", "0.009");
    scene.cluster.create_offer(&anew).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    verifier.signal("CONT");
    says(&scene, &verifier, "a", "Enforced", "0.009 USDC").await;
    assert!(scene.message("a").await.starts_with("generation 1: "));
    let bad = scene.asked("patch", "serviceoffers/status");
    assert!(bad.len() <= 4, "{bad:?}");
}

#[tokio::test]
async fn sigterm_ends_writing_and_leaves_the_lease_to_the_next() {
    let scene = Scene::new("whole-term").await;
    allow_all(&scene).await;
    scene.create(&["a"]).await;
    let mut first = verifier(&scene, &["--shutdown-delay=3s"]).await;
    says(&scene, &first, "a", "Enforced", "0.001").await;
    first.signal("TERM");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let dearer = json!({"spec": {"payment": {"price": {"perRequest": "0.005"}}}});
    scene.cluster.patch_offer("whole-term", "a", &dearer).await;
    assert_eq!(first.exit_code(Duration::from_secs(30)).await, Some(0));
    assert_eq!(scene.patches("serviceoffers/status"), 1);
    let started = Instant::now();
    let second = verifier(&scene, &[]).await;
    says(&scene, &second, "a", "Enforced", "0.005").await;
    println!("the next one wrote after {:?}", started.elapsed());
}

#[tokio::test]
async fn without_status_or_its_rbac_everything_else_works() {
    let scene = Scene::new("whole-off").await;
    scene
        .allow(&json!([{"apiGroups": ["obol.org"], "resources": ["serviceoffers"], "verbs": ["list", "watch"]}]))
        .await;
    scene.create(&["a"]).await;
    let no_secrets = "--upstream-secret-names=";
    let refused = verifier(&scene, &[no_secrets]).await;
    let off = verifier(&scene, &[no_secrets, "--status=false"]).await;
    for one in [&refused, &off] {
        let answer = one.ask("/services/a/x").send().await;
        assert_eq!(answer.status, 402);
    }
    refused
        .eventually(VISIBLE, "a word about it", || async {
            let verbose: Value = refused.admin("/readyz?verbose").await.json();
            verbose["degraded"].to_string().contains("status of offers")
        })
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let warnings = refused.log().matches("\"level\":\"WARN\"").count();
    assert_eq!(warnings, 1, "{}", refused.log());
    assert!(!off.log().contains("lease"), "{}", off.log());
    let verbose: Value = off.admin("/readyz?verbose").await.json();
    assert_eq!(verbose["degraded"], json!([]));
}
