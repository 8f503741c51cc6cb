//! The order in which the parts of an installation start does not matter.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

use super::rbac::{Documented, becomes};
use crate::{
    harness::{Wallet, verdict},
    parts::{control_plane::offer, free_port, http},
    scripted::Scripted,
    soak::count,
};

/// T3.12, R2: the verifier first, then the API server, then the facilitator. It is ready when the offers are read,
/// not before and without a restart; and readiness never waits for a facilitator.
#[tokio::test]
async fn t3_12_verifier_api_server_and_facilitator_start_in_any_order() {
    let step = Duration::from_secs(count(3, 20) as u64);
    let mut scene = Documented::new(&["shop"]).await;
    scene.apply("cluster", &[]).await;
    scene
        .cluster
        .create_offer(&offer("shop", "a", "0.001"))
        .await
        .unwrap();
    let facilitator = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut verifier = scene
        .prepare("x402-verifier", &format!("http://{facilitator}"), &[])
        .await;
    scene.control.kill_api();

    verifier.launch();
    let launched = Instant::now();
    let mut answers = 0;
    while launched.elapsed() < step {
        if let Ok(answer) = http::get(&verifier.admin_url("/readyz")).await {
            answers += 1;
            assert_eq!(answer.status, 503);
            assert!(
                answer.text().starts_with("not ready: "),
                "{}",
                answer.text()
            );
            let unpaid = verifier.ask("/services/a/x").send().await;
            assert_eq!(verdict(&unpaid), (503, "not_ready".to_owned()), "R1");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(answers > 20, "{answers}");
    let body = verifier.admin("/readyz").await.text();
    assert!(body.starts_with("not ready: routes not loaded\n"), "{body}");
    assert!(body.contains("the API server cannot be reached"), "{body}");
    let born = verifier.metric("process_start_time_seconds", &[]).await;
    assert!(born.is_some());

    scene.control.launch_api();
    let started = Instant::now();
    while verifier.admin("/readyz").await.status == 503 {
        // Ready while the API server is not would be ready without a list.
        assert!(started.elapsed() < Duration::from_secs(60), "never ready");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    println!(
        "ready {:?} after the start of the API server",
        started.elapsed()
    );
    let unpaid = verifier.ask("/services/a/x").send().await;
    assert_eq!(unpaid.status, 402, "the first request after it is gated");
    scene.control.wait_api_ready().await;

    let challenge = verifier.challenge("/services/a/x").await;
    let paid = verifier
        .ask("/services/a/x")
        .pay(&Wallet::new(7).pay_v2(&challenge));
    while launched.elapsed() < step * 2 {
        let answer = paid.send().await;
        assert_eq!(
            verdict(&answer),
            (503, "facilitator_unreachable".to_owned()),
            "R9: no new challenge"
        );
        assert_eq!(verifier.admin("/readyz").await.status, 200);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let facilitator = Scripted::start_on(facilitator).await;
    verifier
        .eventually(Duration::from_secs(30), "a paid answer", || async {
            paid.send().await.status == 200
        })
        .await;
    assert_eq!(facilitator.settles(), 1);
    becomes(&verifier, "a", 402).await;
    assert_eq!(
        verifier.metric("process_start_time_seconds", &[]).await,
        born
    );
}
