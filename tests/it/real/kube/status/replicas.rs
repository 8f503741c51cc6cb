//! Two replicas report while a controller writes all the time (T4.13, R11): nobody's word goes back.
//!
//! The controller changes specs and its own part of the status, as controllers do: by what it read, under its version.
//! Every state that the API server ever had is looked at, in order, through a watch.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    gate::{Gate, SETTLED, Scene},
    ready,
};
use crate::{
    parts::control_plane::{ApiFaults, Ask, Cluster, Fault, Verb},
    soak::count,
};

const OFFERS: usize = 10;
/// As long as both may take to say the last word about every offer.
const SAID: Duration = Duration::from_secs(20);

/// What must never go back in an offer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Marks {
    /// The generation that our condition speaks of.
    ours: u64,
    /// `status.observedGeneration`, the controller's.
    observed: u64,
    /// The count in the controller's condition.
    theirs: u64,
}

impl Marks {
    fn of(object: &Value) -> Self {
        let message = |kind: &str| {
            let mut conditions = object["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten();
            let found = conditions.find(|condition| condition["type"] == kind);
            found
                .and_then(|condition| condition["message"].as_str())
                .unwrap_or_default()
                .to_owned()
        };
        let digits = |text: &str| {
            let digits: String = text.chars().filter(char::is_ascii_digit).collect();
            digits.parse().unwrap_or(0)
        };
        Self {
            ours: digits(
                message("PaymentGateEnforced")
                    .split(": ")
                    .next()
                    .unwrap_or_default(),
            ),
            observed: object["status"]["observedGeneration"].as_u64().unwrap_or(0),
            theirs: digits(&message("Ready")),
        }
    }

    fn goes_back_to(self, next: Self) -> bool {
        next.ours < self.ours || next.observed < self.observed || next.theirs < self.theirs
    }
}

/// Every state of every offer, from a version on.
#[derive(Debug, Default)]
struct History {
    last: BTreeMap<String, Marks>,
    states: usize,
    wrong: Vec<String>,
}

impl History {
    fn add(&mut self, event: &Value) {
        let object = &event["object"];
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let (next, last) = (
            Marks::of(object),
            self.last.get(&name).copied().unwrap_or_default(),
        );
        let generation = object["metadata"]["generation"].as_u64().unwrap_or(0);
        self.states += 1;
        if event["type"] != "DELETED" && (last.goes_back_to(next) || next.ours > generation) {
            self.wrong.push(format!(
                "{name}: {last:?} to {next:?} at generation {generation}"
            ));
        }
        self.last.insert(name, next);
    }
}

/// Reads one watch after the other, each from where the one before ended.
async fn read_history(
    cluster: Cluster,
    namespace: String,
    from: String,
    history: Arc<Mutex<History>>,
    over: Arc<AtomicBool>,
) {
    let mut version = from;
    loop {
        let last = over.load(Ordering::SeqCst);
        let path = format!("/apis/obol.org/v1alpha1/namespaces/{namespace}/serviceoffers");
        let url = format!("{path}?watch=true&timeoutSeconds=1&resourceVersion={version}");
        let events = cluster.get_raw(&url).await.expect("the history is kept");
        for line in events.lines() {
            let event: Value = serde_json::from_str(line).expect("an event");
            assert_ne!(event["type"], "ERROR", "{event}");
            version = event["object"]["metadata"]["resourceVersion"]
                .as_str()
                .expect("a version")
                .to_owned();
            history.lock().unwrap().add(&event);
        }
        if last {
            return;
        }
    }
}

/// The controller's part: what it read, with its own word in it; whether nobody else was quicker.
async fn control(scene: &Scene, name: &str, beat: usize) -> bool {
    let mut seen = scene.offer(name).await;
    let conditions = seen["status"]["conditions"].as_array().cloned();
    let mut conditions = conditions.unwrap_or_default();
    conditions.retain(|condition| condition["type"] != "Ready");
    let mut own = ready();
    own["message"] = json!(format!("beat {beat}"));
    conditions.insert(0, own);
    seen["status"] =
        json!({"conditions": conditions, "observedGeneration": seen["metadata"]["generation"]});
    let object = serde_json::from_value(seen).unwrap();
    let offers = scene.cluster.offers(&scene.namespace);
    offers
        .replace_status(name, &kube::api::PostParams::default(), &object)
        .await
        .is_ok()
}

#[tokio::test]
async fn t4_13_under_a_thousand_patches_no_word_of_two_replicas_goes_back() {
    let patches = count(60, 1_000);
    let scene = Scene::audited("status-replicas").await;
    let names: Vec<String> = (0..OFFERS).map(|number| format!("o{number}")).collect();
    let from = scene
        .cluster
        .get_raw("/apis/obol.org/v1alpha1/serviceoffers")
        .await
        .unwrap();
    let from: Value = serde_json::from_str(&from).unwrap();
    let from = from["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    let (history, over) = (
        Arc::<Mutex<History>>::default(),
        Arc::new(AtomicBool::new(false)),
    );
    let reading = tokio::spawn(read_history(
        scene.cluster.clone(),
        scene.namespace.clone(),
        from,
        Arc::clone(&history),
        Arc::clone(&over),
    ));
    scene
        .create(&names.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    // A late write is what a version is for.
    let faults = ApiFaults::start(scene.control.address()).await;
    let late = Ask::of(Verb::Patch, "serviceoffers/status");
    let late = faults.set(late, Fault::Delay(Duration::from_millis(200)));
    let replica = |identity| {
        let client = Cluster::connect(faults.address(), &scene.token).client();
        Gate::start_with(&scene, identity, client, "")
    };
    let mut replicas = [replica("one"), replica("two")];

    let mut conflicts = 0;
    for beat in 1..=patches {
        let name = &names[beat % OFFERS];
        let price = json!({"spec": {"payment": {"price": {"perRequest": format!("0.{:03}", beat % 900 + 1)}}}});
        scene
            .cluster
            .patch_offer(&scene.namespace, name, &price)
            .await;
        while !control(&scene, name, beat).await {
            conflicts += 1;
        }
        // Each replica hears of it at its own time.
        if beat % 3 == 0 {
            replicas[beat % 2].sync(&scene).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let wanted: BTreeMap<String, u64> = {
        let mut wanted = BTreeMap::new();
        for name in &names {
            wanted.insert(
                name.clone(),
                scene.offer(name).await["metadata"]["generation"]
                    .as_u64()
                    .unwrap(),
            );
        }
        wanted
    };
    faults.remove(late);
    let started = Instant::now();
    loop {
        for replica in &mut replicas {
            replica.sync(&scene).await;
        }
        let mut told = BTreeMap::new();
        for name in &names {
            told.insert(name.clone(), Marks::of(&scene.offer(name).await).ours);
        }
        if told == wanted {
            break;
        }
        assert!(started.elapsed() < SAID, "{told:?} instead of {wanted:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    for name in &names {
        scene.cluster.delete_offer(&scene.namespace, name).await;
    }
    for replica in &mut replicas {
        replica.sync(&scene).await;
    }
    // What was on its way when the offers went is refused by the API server.
    let before = scene.patches("serviceoffers/status");
    let settled = Instant::now();
    while settled.elapsed() < SETTLED {
        for replica in &mut replicas {
            replica.sync(&scene).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(
        scene.patches("serviceoffers/status"),
        before,
        "nobody writes what is gone"
    );

    over.store(true, Ordering::SeqCst);
    reading.await.unwrap();
    for replica in replicas {
        replica.stop().await;
    }
    let written = scene.asked("patch", "serviceoffers/status");
    assert!(written.len() >= OFFERS);
    let lost = written
        .iter()
        .filter(|entry| entry.code == Some(409))
        .count();
    let history = history.lock().unwrap();
    println!(
        "{} states, {} writes of ours, {lost} of them too late, {conflicts} of the controller's",
        history.states,
        written.len()
    );
    assert!(history.wrong.is_empty(), "{:#?}", history.wrong);
    assert!(history.states > patches * 2 && lost > 0, "it was tried");

    // Every write named the object and the version that it was made of.
    for entry in &written {
        let steps = entry
            .request
            .as_ref()
            .and_then(Value::as_array)
            .expect("a JSON patch");
        let has = |op: &str, path: &str| {
            steps
                .iter()
                .any(|step| step["op"] == op && step["path"] == path && step["value"].is_string())
        };
        assert!(
            has("test", "/metadata/uid") && has("replace", "/metadata/resourceVersion"),
            "{entry:?}"
        );
    }
}
