//! What stands between a client and the API server: bytes held and cut, requests refused and answers lost.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{OFFERS, SILENCE, refusal, shared, silent, version};
use crate::parts::{
    control_plane::{ADMIN_TOKEN, ApiFaults, Ask, Cluster, Fault, Verb, offer},
    stream_proxy::{Direction, StreamProxy},
};

#[tokio::test]
async fn a_stream_is_held_released_delayed_cut_and_refused() {
    let (control, cluster) = shared("rig-stream").await;
    let proxy = StreamProxy::start(control.address()).await;
    let through = Cluster::connect(proxy.address(), ADMIN_TOKEN);
    assert!(through.is_ready().await);
    assert_eq!(proxy.open().len(), 1);

    proxy.hold();
    silent(through.get_raw("/readyz")).await;
    assert!(cluster.is_ready().await, "the API server itself is well");
    proxy.release();
    assert!(through.is_ready().await);

    proxy.delay(Duration::from_millis(100));
    let started = Instant::now();
    assert!(through.is_ready().await);
    assert!(
        started.elapsed() >= Duration::from_millis(200),
        "once each way"
    );
    proxy.trickle(16, Duration::from_millis(1));
    assert!(through.is_ready().await);
    proxy.release();

    // A watch, cut within its first event.
    let from = cluster
        .create_offer(&offer("rig-stream", "a", "0.001"))
        .await
        .unwrap();
    let url = format!(
        "{OFFERS}?watch=true&timeoutSeconds=60&resourceVersion={}",
        version(&from)
    );
    let watch = tokio::spawn({
        let through = through.clone();
        async move { through.get_raw(&url).await }
    });
    let before = proxy.passed(Direction::Up);
    while proxy.passed(Direction::Up) == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(SILENCE).await;
    let seen: Vec<_> = proxy
        .open()
        .iter()
        .map(|it| it.passed(Direction::Down))
        .collect();
    proxy.cut_after(Direction::Down, 100);
    cluster
        .create_offer(&offer("rig-stream", "b", "0.001"))
        .await
        .unwrap();
    assert!(watch.await.unwrap().is_err(), "half an event and a reset");
    assert!(
        proxy
            .connections()
            .iter()
            .any(|it| !it.is_open() && seen.contains(&(it.passed(Direction::Down) - 100)))
    );

    assert!(through.is_ready().await, "a new connection");
    proxy.cut();
    proxy.refuse().await;
    assert!(!through.is_ready().await);
    let known = proxy.connections().len();
    proxy.accept().await;
    assert!(through.is_ready().await);
    assert_eq!(proxy.connections().len(), known + 1);
}

#[tokio::test]
async fn a_refusal_is_injected_for_one_verb_and_a_number_of_times() {
    let (control, _cluster) = shared("rig-faults").await;
    let faults = ApiFaults::start(control.address()).await;
    let through = Cluster::connect(faults.address(), ADMIN_TOKEN);
    for code in [401, 403, 404, 410, 500] {
        let rule = faults.set_times(
            1,
            Ask::of(Verb::List, "serviceoffers"),
            Fault::Answer(code, None),
        );
        assert!(through.get_raw("/api/v1/secrets?limit=1").await.is_ok());
        assert_eq!(refusal(&through, OFFERS).await, code);
        assert!(through.get_raw(OFFERS).await.is_ok(), "once only");
        assert_eq!(faults.hits(rule), 1);
    }
    faults.clear();
    let busy = faults.set(Ask::all(), Fault::Answer(429, Some(1)));
    let error = through.get_raw(OFFERS).await.unwrap_err();
    let kube::Error::Api(status) = error else {
        panic!("{error}")
    };
    assert_eq!(
        (status.code, status.details.unwrap().retry_after_seconds),
        (429, 1)
    );
    faults.set(Ask::all().containing("/readyz"), Fault::Cut);
    assert!(matches!(
        through.get_raw("/readyz").await,
        Err(kube::Error::Service(_) | kube::Error::HyperError(_))
    ));
    assert_eq!(faults.hits(busy), 1);
    faults.clear();
    assert!(through.is_ready().await);
}

#[tokio::test]
async fn a_request_or_an_answer_is_delayed() {
    let (control, _cluster) = shared("rig-delays").await;
    let faults = ApiFaults::start(control.address()).await;
    let through = Cluster::connect(faults.address(), ADMIN_TOKEN);
    let delay = Duration::from_millis(200);
    for fault in [Fault::Delay(delay), Fault::DelayBody(delay)] {
        let rule = faults.set(Ask::on("serviceoffers").first_page(), fault);
        let started = Instant::now();
        assert!(through.get_raw(OFFERS).await.is_ok());
        assert!(started.elapsed() >= delay);
        assert_eq!(faults.hits(rule), 1);
        faults.clear();
    }
    assert_eq!(faults.seen().len(), 2);
}

#[tokio::test]
async fn a_lists_second_page_is_held_and_a_lost_answer_was_served() {
    let (control, cluster) = shared("rig-pages").await;
    cluster
        .create_offers((0..5).map(|n| offer("rig-pages", &format!("o{n}"), "0.001")))
        .await;
    let faults = ApiFaults::start(control.address()).await;
    let through = Cluster::connect(faults.address(), ADMIN_TOKEN);
    let list = "/apis/obol.org/v1alpha1/namespaces/rig-pages/serviceoffers?limit=2";
    let held = faults.set(
        Ask::of(Verb::List, "serviceoffers").further_pages(),
        Fault::Hold,
    );

    let page: Value = serde_json::from_str(&through.get_raw(list).await.unwrap()).unwrap();
    let next = format!(
        "{list}&continue={}",
        page["metadata"]["continue"].as_str().unwrap()
    );
    let second = tokio::spawn({
        let through = through.clone();
        async move { through.get_raw(&next).await }
    });
    faults.wait_hits(held, 1).await;
    tokio::time::sleep(SILENCE).await;
    assert!(!second.is_finished());
    faults.remove(held);
    let page: Value = serde_json::from_str(&second.await.unwrap().unwrap()).unwrap();
    assert_eq!(page["items"].as_array().unwrap().len(), 2);

    // A page that ends in its middle is an error, not a short page.
    let torn = faults.set(Ask::of(Verb::List, "serviceoffers"), Fault::CutBody(200));
    assert!(through.get_raw(list).await.is_err());
    faults.remove(torn);
    faults.set(
        Ask::of(Verb::Patch, "serviceoffers/status"),
        Fault::LoseAnswer,
    );
    let patch = kube::api::Patch::Merge(json!({"status": {"endpoint": "there"}}));
    let (offers, params) = (
        through.offers("rig-pages"),
        kube::api::PatchParams::default(),
    );
    assert!(offers.patch_status("o1", &params, &patch).await.is_err());
    assert_eq!(
        cluster.offer("rig-pages", "o1").await.unwrap()["status"]["endpoint"],
        "there"
    );
}

#[tokio::test]
async fn a_watch_that_runs_is_held_released_and_cut() {
    let (control, cluster) = shared("rig-watch").await;
    let faults = ApiFaults::start(control.address()).await;
    let through = Cluster::connect(faults.address(), ADMIN_TOKEN);
    let from = cluster
        .create_offer(&offer("rig-watch", "a", "0.001"))
        .await
        .unwrap();
    let running = faults.set(Ask::of(Verb::Watch, "serviceoffers"), Fault::Pass);
    let url = format!(
        "/apis/obol.org/v1alpha1/namespaces/rig-watch/serviceoffers?watch=true&timeoutSeconds=2&resourceVersion={}",
        version(&from)
    );
    let watch = tokio::spawn({
        let (through, url) = (through.clone(), url.clone());
        async move { through.get_raw(&url).await }
    });
    faults.wait_hits(running, 1).await;
    faults.change(running, Fault::HoldBody(0));
    cluster
        .create_offer(&offer("rig-watch", "b", "0.001"))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!watch.is_finished(), "its time is over, its end is held");
    faults.change(running, Fault::Pass);
    assert_eq!(watch.await.unwrap().unwrap().lines().count(), 1);

    faults.change(running, Fault::CutBody(50));
    assert!(through.get_raw(&url).await.is_err());
}
