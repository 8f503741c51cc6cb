//! Late writers, objects made anew, conflicts, and two writers at once.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{
    gate::{self, Gate, SETTLED, Scene},
    ready,
};
use crate::{
    parts::control_plane::{ApiFaults, Ask, Cluster, Fault, Verb, offer},
    soak::count,
};

async fn behind(scene: &Scene) -> (ApiFaults, kube::Client) {
    let faults = ApiFaults::start(scene.control.address()).await;
    let client = Cluster::connect(faults.address(), &scene.token).client();
    (faults, client)
}

/// T4.4: what was deleted stays deleted, and the writer does not insist.
#[tokio::test]
async fn t4_4_a_write_that_arrives_after_the_delete_is_dropped_and_creates_nothing() {
    let scene = Scene::new("status-late").await;
    scene.create(&["a"]).await;
    let (faults, client) = behind(&scene).await;
    let held = faults.set(Ask::of(Verb::Patch, "serviceoffers/status"), Fault::Hold);
    let mut gate = Gate::start_with(&scene, "one", client, "");
    gate.sync(&scene).await;
    faults.wait_hits(held, 1).await;
    scene.cluster.delete_offer(&scene.namespace, "a").await;
    faults.remove(held);
    let released = Instant::now();
    while released.elapsed() < Duration::from_secs(count(5, 60) as u64) {
        gate.live(&scene, Duration::from_millis(300)).await;
        assert_eq!(scene.cluster.offer(&scene.namespace, "a").await, None);
    }
    let patches = scene.asked("patch", "serviceoffers/status");
    assert_eq!(patches.len(), 1, "one attempt");
    assert_eq!(patches[0].code, Some(404));
    assert_eq!(gate.counted("dropped"), 1.0);
    gate.stop().await;
}

/// T4.11: the API server wrote, and its answer is later than the news of the delete.
#[tokio::test]
async fn t4_11_an_answer_after_the_delete_leaves_nothing_of_the_offer() {
    let scene = Scene::new("status-answer").await;
    scene.create(&["a"]).await;
    let (faults, client) = behind(&scene).await;
    let held = faults.set(
        Ask::of(Verb::Patch, "serviceoffers/status"),
        Fault::HoldBody(0),
    );
    let mut gate = Gate::start_with(&scene, "one", client, "");
    gate.sync(&scene).await;
    let uid = scene.offer("a").await["metadata"]["uid"]
        .as_str()
        .unwrap()
        .to_owned();
    let started = Instant::now();
    while scene.condition("a").await["reason"] != "Enforced" {
        assert!(started.elapsed() < Duration::from_secs(10), "not written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(gate.remembers(&uid));
    scene.cluster.delete_offer(&scene.namespace, "a").await;
    gate.sync(&scene).await;
    assert!(!gate.remembers(&uid));
    faults.remove(held);
    while gate.counted("written") < 1.0 {
        assert!(started.elapsed() < Duration::from_secs(20), "no answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!gate.remembers(&uid), "the answer is no sign of life");
    gate.stop().await;
}

/// T4.3, the reporter's half: made anew under its name while a write is on its way, or not begun.
#[tokio::test]
async fn t4_3_nothing_of_the_former_offer_reaches_one_of_its_name() {
    let scene = Scene::new("status-anew").await;
    scene.create(&["a"]).await;
    let (faults, client) = behind(&scene).await;
    let held = faults.set(Ask::of(Verb::Patch, "serviceoffers/status"), Fault::Hold);
    let mut gate = Gate::start_with(&scene, "one", client, "");
    let former = gate::read(&scene).await;
    gate.see(&former);
    gate.publish(&former);
    faults.wait_hits(held, 1).await;
    scene.cluster.delete_offer(&scene.namespace, "a").await;
    let anew = offer(&scene.namespace, "a", "0.009");
    scene.cluster.create_offer(&anew).await.unwrap();
    // The writer that knows only the former one may act as it likes.
    faults.remove(held);
    for _ in 0..30 {
        gate.see(&former);
        gate.publish(&former);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(
        scene.condition("a").await,
        json!(null),
        "{:?}",
        scene.writes()
    );
    let patches = scene.asked("patch", "serviceoffers/status");
    assert_eq!(
        patches.iter().map(|entry| entry.code).collect::<Vec<_>>(),
        [Some(422)]
    );
    // Then it sees the new one.
    gate.sync(&scene).await;
    gate.until_reason(&scene, "a", "Enforced").await;
    assert!(scene.message("a").await.contains("0.009 USDC"));
    gate.stop().await;
}

/// R11: a result about an older generation changes nothing.
#[tokio::test]
async fn a_result_about_an_older_generation_is_not_written() {
    let scene = Scene::new("status-older").await;
    scene.create(&["a"]).await;
    let older = gate::read(&scene).await;
    let price = json!({"spec": {"payment": {"price": {"perRequest": "0.009"}}}});
    scene
        .cluster
        .patch_offer(&scene.namespace, "a", &price)
        .await;
    let mut gate = Gate::start(&scene, "one").await;
    gate.see(&older);
    gate.publish(&older);
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The informer is ahead of the table.
    let newer = gate::read(&scene).await;
    gate.see(&newer);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(scene.patches("serviceoffers/status"), 0);
    gate.publish(&newer);
    gate.until_reason(&scene, "a", "Enforced").await;
    assert!(scene.message("a").await.starts_with("generation 2: "));
    gate.stop().await;
}

/// An offer on its way out is left alone, however long a finalizer holds it.
#[tokio::test]
async fn an_offer_that_is_being_deleted_is_not_written() {
    let scene = Scene::new("status-held").await;
    let mut held = offer(&scene.namespace, "a", "0.001");
    held["metadata"]["finalizers"] = json!(["example.org/hold"]);
    scene.cluster.create_offer(&held).await.unwrap();
    scene.cluster.delete_offer(&scene.namespace, "a").await;
    let mut gate = Gate::start(&scene, "one").await;
    gate.live(&scene, SETTLED).await;
    assert_eq!(
        (
            scene.patches("serviceoffers/status"),
            scene.asked("get", "serviceoffers").len()
        ),
        (0, 0)
    );
    gate.stop().await;
    let free = json!({"metadata": {"finalizers": null}});
    scene
        .cluster
        .patch_offer(&scene.namespace, "a", &free)
        .await;
}

/// A controller that writes all the time: nothing of it is lost, and ours gets through.
#[tokio::test]
async fn in_a_storm_of_conflicts_no_word_of_the_controller_is_lost() {
    let scene = Scene::new("status-storm").await;
    scene.create(&["a"]).await;
    let (faults, client) = behind(&scene).await;
    // So that somebody always comes between reading and writing.
    let slow = faults.set(
        Ask::of(Verb::Patch, "serviceoffers/status"),
        Fault::Delay(Duration::from_millis(300)),
    );
    let mut gate = Gate::start_with(&scene, "one", client, "");
    let started = Instant::now();
    let mut beat = 0;
    while started.elapsed() < Duration::from_secs(7) {
        // As controllers do it: by what it read, all conditions, under the version.
        let mut seen = scene.offer("a").await;
        let mut conditions = seen["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        conditions.retain(|item| item["type"] != "Ready");
        let mut ready = ready();
        ready["message"] = json!(format!("{}", beat + 1));
        conditions.insert(0, ready);
        seen["status"] = json!({"conditions": conditions});
        if replace_status(&scene, &seen).await {
            beat += 1;
        }
        gate.sync(&scene).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let patches = scene.asked("patch", "serviceoffers/status");
    assert!(
        patches.iter().any(|entry| entry.code == Some(409)),
        "a conflict: {patches:?}"
    );
    assert!(
        patches.len() <= 5,
        "one attempt in two seconds: {}",
        patches.len()
    );
    faults.remove(slow);
    let last = gate.until_reason(&scene, "a", "Enforced").await;
    assert_eq!(
        last["status"]["conditions"][0]["message"],
        format!("{beat}")
    );
    gate.stop().await;
}

async fn replace_status(scene: &Scene, object: &serde_json::Value) -> bool {
    let name = object["metadata"]["name"].as_str().unwrap();
    let object = serde_json::from_value(object.clone()).unwrap();
    let offers = scene.cluster.offers(&scene.namespace);
    let params = kube::api::PostParams::default();
    offers.replace_status(name, &params, &object).await.is_ok()
}

/// T4.13: two of different minds; the holder of the Lease alone decides.
#[tokio::test]
async fn t4_13_two_writers_with_different_configurations_write_each_offer_once() {
    let scene = Scene::new("status-two").await;
    let names: Vec<String> = (0..20).map(|n| format!("o{n}")).collect();
    scene
        .create(&names.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    let client = || Cluster::connect(scene.control.address(), &scene.token).client();
    // To the second one every path belongs to somebody else.
    let foreign = "pathOwners:\n- {prefix: /services, namespaces: [elsewhere]}\n";
    let mut first = Gate::start_with(&scene, "one", client(), "");
    let mut second = Gate::start_with(&scene, "two", client(), foreign);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(30) {
        first.sync(&scene).await;
        second.sync(&scene).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(scene.patches("serviceoffers/status"), 20);
    let leases = scene.asked("update", "leases").len();
    assert!(leases <= 12, "asked and answered now and then: {leases}");
    let reason = scene.condition("o7").await["reason"].clone();
    let (holder, mut other, its) = if reason == "Enforced" {
        (first, second, "PathConflict")
    } else {
        (second, first, "Enforced")
    };
    // Told to stop, the holder leaves the Lease, and the other decides at once.
    holder.stop().await;
    let left = Instant::now();
    other.until_reason(&scene, "o7", its).await;
    println!("after {:?}", left.elapsed());
    other.live(&scene, SETTLED).await;
    assert_eq!(
        scene.patches("serviceoffers/status"),
        40,
        "two writes per offer"
    );
    other.stop().await;
}

/// A holder that died is followed by somebody who has something to write.
#[tokio::test]
async fn a_holder_that_died_is_followed() {
    let scene = Scene::new("status-dead").await;
    scene.create(&["a"]).await;
    let (faults, client) = behind(&scene).await;
    let mut first = Gate::start_with(&scene, "one", client, "");
    first.sync(&scene).await;
    first.until_reason(&scene, "a", "Enforced").await;
    faults.set(Ask::all(), Fault::Cut);
    scene.create(&["b"]).await;
    let mut second = Gate::start(&scene, "two").await;
    let started = Instant::now();
    while scene.condition("b").await["reason"] != "Enforced" {
        second.sync(&scene).await;
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{:?}",
            scene.writes()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("followed after {:?}", started.elapsed());
    assert!(
        started.elapsed() > Duration::from_secs(8),
        "not while the dead one may have written"
    );
    second.stop().await;
}

/// After SIGTERM nothing is written, also what was begun.
#[tokio::test]
async fn who_was_told_to_stop_writes_nothing_more() {
    let scene = Scene::new("status-stop").await;
    scene.create(&["a"]).await;
    let (faults, client) = behind(&scene).await;
    let held = faults.set(Ask::of(Verb::Get, "serviceoffers"), Fault::Hold);
    let mut gate = Gate::start_with(&scene, "one", client, "");
    gate.sync(&scene).await;
    faults.wait_hits(held, 1).await;
    gate.stop().await;
    faults.clear();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.patches("serviceoffers/status"), 0);
    let path = format!(
        "/apis/coordination.k8s.io/v1/namespaces/{}/leases/gate",
        scene.namespace
    );
    let lease: serde_json::Value =
        serde_json::from_str(&scene.cluster.get_raw(&path).await.unwrap()).unwrap();
    assert_eq!(
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default(),
        ""
    );
}
