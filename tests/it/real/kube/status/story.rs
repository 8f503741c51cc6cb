//! One story, told twice: `/routes` tells the operator what `kubectl describe serviceoffer` tells the
//! seller, less the name of a foreign owner (O7).

use jiff::{SignedDuration, Timestamp};

use super::whole::{allow_all, says, verifier};
use super::*;
use crate::operator;

/// Puts a key of an offer's spec.
fn with(mut offer: Value, key: &str, value: Value) -> Value {
    offer["spec"][key] = value;
    offer
}

#[tokio::test]
async fn seller_and_operator_are_told_one_story_and_the_operator_can_change_its_end() {
    let scene = Scene::new("story").await;
    allow_all(&scene).await;
    let elsewhere = "story-elsewhere";
    scene.cluster.namespace(elsewhere).await;
    let theirs = offer(elsewhere, "theirs", "0.001");
    scene.cluster.create_offer(&theirs).await.unwrap();
    // Creation times are whole seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let of = |name: &str| offer("story", name, "0.001");
    let begun = (Timestamp::now() - SignedDuration::from_mins(1)).to_string();
    let ended = (Timestamp::now() - SignedDuration::from_hours(9)).to_string();
    let mut broken = of("broken");
    broken["spec"]["payment"]["price"]["perRequest"] = json!("a lot");
    let mut paused = of("paused");
    paused["metadata"]["annotations"] = json!({"obol.org/paused": "true"});
    let offers = [
        of("sold"),
        paused,
        with(of("going"), "drainAt", json!(begun)),
        with(of("gone"), "drainAt", json!(ended)),
        with(of("waits"), "path", json!("/services/theirs/part")),
        broken,
    ];
    for offer in &offers {
        scene.cluster.create_offer(offer).await.unwrap();
    }
    let both = format!("--watch-namespaces=story,{elsewhere}");
    let verifier = verifier(&scene, &[&both]).await;
    says(
        &scene,
        &verifier,
        "waits",
        "PathConflict",
        "another namespace",
    )
    .await;
    scene.cluster.delete_offer(elsewhere, "theirs").await;

    for (name, reason, text) in [
        ("sold", "Enforced", "0.001 USDC on eip155:84532"),
        ("paused", "Withdrawn", "the offer is paused"),
        ("going", "Draining", "are served until 20"),
        ("gone", "Withdrawn", "the drain of the offer ended at 20"),
        ("waits", "PathReserved", "stays reserved for it until 20"),
        ("broken", "InvalidPrice", "503 to everybody"),
    ] {
        says(&scene, &verifier, name, reason, text).await;
        let message = scene.message(name).await;
        assert!(!message.contains(elsewhere), "O7: {message}");
        let page = format!("/routes?namespace=story&name={name}");
        let row = verifier.admin(&page).await.json()["routes"][0].clone();
        assert_eq!(
            (&row["source"], &row["owner"], &row["offer"]["generation"]),
            (&json!("kube"), &json!("story"), &json!(1)),
            "{row}"
        );
        for fact in ["detail", "drainsUntil"] {
            let fact = row[fact].as_str().unwrap_or_default();
            assert!(message.contains(fact), "{message} without {fact:?}");
        }
        // Also what is long: kubectl wraps nothing.
        let described = scene.describe(name);
        for part in [reason, &message] {
            assert!(described.contains(part), "{part}: {described}");
        }
    }

    // The times in it stand still: there is nothing to write for them.
    let patches = scene.patches("serviceoffers/status");
    tokio::time::sleep(SETTLED).await;
    assert_eq!(scene.patches("serviceoffers/status"), patches);

    // O3, R4: the operator ends the reservation, and who waited has the path.
    let listed = operator::succeeds(&verifier, &["closed", "list"]).await;
    for part in [
        "/services/theirs/*",
        elsewhere,
        "withdrawn",
        "paused",
        "drained",
    ] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    let held = operator::fails(&verifier, &["closed", "release", "/services/gone/*"]).await;
    assert!(held.contains("story/gone is there and has it"), "{held}");
    let release = ["closed", "release", "/services/theirs/*"];
    let released = operator::succeeds(&verifier, &release).await;
    assert!(released.contains("has taken it up"), "{released}");
    says(
        &scene,
        &verifier,
        "waits",
        "Enforced",
        "/services/theirs/part",
    )
    .await;
    let asked = ["explain", "--live", "GET", "/services/theirs/part/x"];
    let answer = operator::succeeds(&verifier, &asked).await;
    assert!(
        answer.contains("story/waits") && answer.contains("402"),
        "{answer}"
    );
}
