//! The writer of status against the real API server: what it writes, what it must not, and when it must be silent.
//!
//! Most tests drive the writer as a library, with a table of their own and a look at the cluster ([`gate`]) in the
//! place of the informer, so that a test decides what it knows when. What it asks for is counted in the API server's
//! audit log: a write that changes nothing leaves no other trace.

pub(super) mod gate;
mod races;
mod replicas;
mod story;
mod whole;

use std::time::Duration;

use serde_json::{Value, json};

use self::gate::{Gate, SETTLED, Scene};
use crate::parts::control_plane::offer;

/// The CRD with what we add to it; only the field that matters here.
async fn with_observed_generation(scene: &Scene) {
    let mut crd: Value = serde_saphyr::from_str(include_str!("field-crd.yaml")).unwrap();
    let conditions = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/conditions/items/properties";
    crd.pointer_mut(conditions).unwrap()["observedGeneration"] = json!({"type": "integer"});
    scene.cluster.apply(&crd.to_string()).await;
}

fn ready() -> Value {
    json!({"type": "Ready", "status": "True", "reason": "Fine", "message": "by the controller", "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

#[tokio::test]
async fn the_condition_appears_beside_those_of_the_controller_and_then_there_is_silence() {
    let scene = Scene::new("status-plain").await;
    scene.create(&["a", "b"]).await;
    let status =
        json!({"conditions": [ready()], "endpoint": "http://there", "observedGeneration": 7});
    scene
        .cluster
        .patch_offer_status(&scene.namespace, "a", &status)
        .await;

    let mut gate = Gate::start(&scene, "one").await;
    gate.sync(&scene).await;
    let written = gate.until_reason(&scene, "a", "Enforced").await;
    gate.until_reason(&scene, "b", "Enforced").await;
    assert_eq!(written["status"]["conditions"][0], ready());
    assert_eq!(
        written["status"]["observedGeneration"], 7,
        "the controller's"
    );
    assert_eq!(written["status"]["endpoint"], "http://there");
    let ours = &written["status"]["conditions"][1];
    assert_eq!(
        ours["message"],
        "generation 1: enforced on /services/a/* (0.001 USDC on eip155:84532)"
    );
    assert_eq!(
        ours.get("observedGeneration"),
        None,
        "the field's schema prunes it"
    );

    // As many tables and looks as there may be: nothing is asked for any more.
    let before = scene.writes().len();
    gate.live(&scene, SETTLED * 2).await;
    assert_eq!(scene.writes().len(), before, "{:?}", scene.writes());
    assert_eq!(scene.patches("serviceoffers/status"), 2);
    gate.stop().await;
}

#[tokio::test]
async fn under_a_schema_that_keeps_the_generation_it_is_kept_and_written_once() {
    let scene = Scene::alone("status-ours").await;
    with_observed_generation(&scene).await;
    scene.create(&["a"]).await;
    let mut gate = Gate::start(&scene, "one").await;
    gate.sync(&scene).await;
    let written = gate.until_reason(&scene, "a", "Enforced").await;
    assert_eq!(written["status"]["conditions"][0]["observedGeneration"], 1);
    gate.live(&scene, SETTLED).await;
    assert_eq!(scene.patches("serviceoffers/status"), 1);
    gate.stop().await;
}

#[tokio::test]
async fn a_change_is_visible_within_two_seconds_and_a_burst_is_two_writes() {
    let scene = Scene::new("status-burst").await;
    scene.create(&["a"]).await;
    let mut gate = Gate::start(&scene, "one").await;
    gate.sync(&scene).await;
    let first = gate.until_reason(&scene, "a", "Enforced").await;
    for n in 2..=10 {
        let price = json!({"spec": {"payment": {"price": {"perRequest": format!("0.00{n}")}}}});
        scene
            .cluster
            .patch_offer(&scene.namespace, "a", &price)
            .await;
        gate.sync(&scene).await;
    }
    let changed = tokio::time::Instant::now();
    loop {
        gate.sync(&scene).await;
        if scene.message("a").await.contains("generation 10: ") {
            break;
        }
        assert!(
            changed.elapsed() < Duration::from_secs(10),
            "{}",
            scene.message("a").await
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("visible after {:?}", changed.elapsed());
    assert!(scene.patches("serviceoffers/status") <= 3);
    let last = scene.offer("a").await;
    assert_eq!(
        last["status"]["conditions"][0]["lastTransitionTime"],
        first["status"]["conditions"][0]["lastTransitionTime"],
        "the status did not change"
    );
    gate.stop().await;
}

#[tokio::test]
async fn what_a_seller_has_to_repair_is_an_event_once_and_kubectl_describes_all_of_it() {
    let scene = Scene::new("status-event").await;
    scene.create(&["a"]).await;
    let mut broken = offer(&scene.namespace, "b", "1.5");
    broken["spec"]["path"] = json!("/services/b");
    broken["spec"]["payment"]["price"]["perRequest"] = json!("a lot");
    scene.cluster.create_offer(&broken).await.unwrap();
    let mut gate = Gate::start(&scene, "one").await;
    gate.sync(&scene).await;
    gate.until_reason(&scene, "a", "Enforced").await;
    let written = gate.until_reason(&scene, "b", "InvalidPrice").await;
    assert_eq!(written["status"]["conditions"][0]["status"], "False");
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    scene
        .cluster
        .patch_offer(&scene.namespace, "b", &label)
        .await;
    gate.live(&scene, SETTLED).await;
    let created = |scene: &Scene| scene.asked("create", "events").len();
    assert_eq!(
        created(&scene),
        1,
        "none for what is as it should be, one for a reason"
    );
    gate.stop().await;

    // Another process is no change of the reason.
    let mut next = Gate::start(&scene, "two").await;
    next.sync(&scene).await;
    next.live(&scene, SETTLED).await;
    assert_eq!(
        (created(&scene), scene.patches("serviceoffers/status")),
        (1, 2)
    );
    next.stop().await;

    let text = scene.describe("b");
    println!("{text}");
    for part in [
        "PaymentGateEnforced",
        "InvalidPrice",
        "503 to everybody until this is repaired",
        "Warning  InvalidPrice",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn a_condition_that_somebody_takes_away_comes_back_ever_more_slowly() {
    let scene = Scene::new("status-quarrel").await;
    scene.create(&["a"]).await;
    let mut gate = Gate::start(&scene, "one").await;
    gate.sync(&scene).await;
    gate.until_reason(&scene, "a", "Enforced").await;
    let started = tokio::time::Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        let theirs = json!({"conditions": [ready()]});
        scene
            .cluster
            .patch_offer_status(&scene.namespace, "a", &theirs)
            .await;
        gate.sync(&scene).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let patches = scene.patches("serviceoffers/status");
    assert!((2..=4).contains(&patches), "at 0 s, 2 s, 6 s: {patches}");
    gate.stop().await;
}

#[tokio::test]
async fn without_rbac_nothing_is_written_there_is_one_warning_and_it_is_tried_slowly() {
    let scene = Scene::new("status-rbac").await;
    scene.create(&["a", "b", "c"]).await;
    scene.allow(&json!([
        {"apiGroups": ["obol.org"], "resources": ["serviceoffers"], "verbs": ["get"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
    ]))
    .await;
    let mut gate = Gate::start(&scene, "one").await;
    gate.sync(&scene).await;
    gate.live(&scene, SETTLED).await;
    let refused = scene.patches("serviceoffers/status");
    assert!((1..=3).contains(&refused), "{refused}");
    let degraded = gate.degraded();
    assert_eq!(degraded.len(), 1, "{degraded:?}");
    assert!(degraded[0].contains("serviceoffers/status"), "{degraded:?}");
    assert!(gate.counted("forbidden") >= 1.0);
    gate.stop().await;
}

#[tokio::test]
async fn without_rbac_for_leases_nothing_is_written_and_it_says_why() {
    let scene = Scene::new("status-no-lease").await;
    scene.create(&["a"]).await;
    scene
        .allow(&json!([
            {"apiGroups": ["obol.org"], "resources": ["serviceoffers"], "verbs": ["get"]},
            {"apiGroups": ["obol.org"], "resources": ["serviceoffers/status"], "verbs": ["patch"]},
        ]))
        .await;
    let mut gate = Gate::start(&scene, "one").await;
    gate.sync(&scene).await;
    gate.live(&scene, SETTLED).await;
    assert_eq!(scene.patches("serviceoffers/status"), 0);
    assert!(
        gate.degraded()[0].contains("leases"),
        "{:?}",
        gate.degraded()
    );
    gate.stop().await;
}

#[tokio::test]
async fn without_rbac_for_events_conditions_are_written_all_the_same() {
    let scene = Scene::new("status-no-events").await;
    let mut broken = offer(&scene.namespace, "b", "1.5");
    broken["spec"]["payment"]["price"]["perRequest"] = json!("a lot");
    scene.cluster.create_offer(&broken).await.unwrap();
    scene.allow(&gate::rules_without("events")).await;
    let mut gate = Gate::start(&scene, "one").await;
    gate.sync(&scene).await;
    gate.until_reason(&scene, "b", "InvalidPrice").await;
    gate.stop().await;
}
