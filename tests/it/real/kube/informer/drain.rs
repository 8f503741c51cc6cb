//! Drains, whose two ends are times and no events.

use jiff::{SignedDuration, Timestamp};

use super::*;

const DRAINING: (u16, &str) = (503, "offer_draining");
/// Longer than either end may be late, and shorter than the 50 s after which a watch is asked anew.
const LATE: Duration = Duration::from_secs(10);
const STEP: SignedDuration = SignedDuration::from_secs(4);

/// The row of an offer in `/routes`.
async fn row(verifier: &Verifier, name: &str) -> Value {
    let page = verifier.admin(&format!("/routes?name={name}")).await.json();
    page["routes"][0].clone()
}

/// Both ends come by the clock, in what requests see and in what people are shown: the API server says
/// nothing after the offer was made.
#[tokio::test]
async fn a_drain_begins_and_ends_by_the_clock() {
    let (_control, cluster, verifier) = shared("inf-drain").await;
    let begins = Timestamp::now() + STEP;
    let ends = begins + STEP;
    let mut made = offer("inf-drain", "going", "0.001");
    made["spec"]["drainAt"] = json!(begins.to_string());
    made["spec"]["drainGracePeriod"] = json!("4s");
    let made = cluster.create_offer(&made).await.unwrap();
    verifier.becomes(SOON, "/services/going/x", PAY).await;
    assert_eq!(row(&verifier, "going").await["state"], "live");

    verifier.becomes(LATE, "/services/going/x", DRAINING).await;
    assert!(Timestamp::now() >= begins, "not before its time");
    let draining = row(&verifier, "going").await;
    assert_eq!(draining["state"], "draining");
    assert_eq!(draining["drainsUntil"], ends.to_string());

    verifier.becomes(LATE, "/services/going/x", WITHDRAWN).await;
    assert!(Timestamp::now() >= ends, "not before its time");
    let shown = || async { row(&verifier, "going").await["state"] == "closed" };
    verifier.eventually(LATE, "the row to close", shown).await;
    let drained = row(&verifier, "going").await;
    assert_eq!(drained["reason"], "drained");
    let detail = drained["detail"].as_str().unwrap();
    assert!(detail.contains(&ends.to_string()), "{detail}");

    let now = cluster.offer("inf-drain", "going").await.unwrap();
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    assert_eq!(version(&now), version(&made), "no event came");

    // It is sold again by taking the drain back, and closed again by a pause, which needs no time.
    let back = json!({"spec": {"drainAt": null}});
    cluster.patch_offer("inf-drain", "going", &back).await;
    verifier.becomes(LATE, "/services/going/x", PAY).await;
    let pause = json!({"metadata": {"annotations": {"obol.org/paused": "true"}}});
    cluster.patch_offer("inf-drain", "going", &pause).await;
    verifier.becomes(LATE, "/services/going/x", WITHDRAWN).await;
    assert_eq!(row(&verifier, "going").await["reason"], "paused");
}
