//! How the documented Traefik behaves around us: CORS, retries, and a verifier that is not there.

use super::shop::{PAID, PRICE, Shop, documented, payment_header, try_get, wallet};
use super::upstream::Upstream;
use crate::parts::{free_port, http};
use crate::soak::count;
use bytes::Bytes;
use http_body_util::Full;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Two servers for the documented service, the first of which is down.
fn with_a_dead_server(dynamic: &str, upstream: &str) -> String {
    let live = format!("- url: {upstream}");
    assert!(dynamic.contains(&live), "{dynamic}");
    let dead = format!("- url: http://127.0.0.1:{}", free_port());
    dynamic.replace(&live, &format!("{dead}\n          {live}"))
}

#[tokio::test]
async fn retries_in_the_documented_order_ask_once_and_charge_once() {
    let upstream = Upstream::start().await;
    let mut shop = Shop::open(&upstream.url()).await;
    let challenge = shop.challenge().await;
    let dynamic = documented(&shop.verifier.url(""), &upstream.url());
    let dynamic = with_a_dead_server(&dynamic, &upstream.url());
    shop.traefik.rewrite(&dynamic).await;

    let buyer = wallet(1);
    let rounds = count(4, 40);
    for round in 1..=rounds {
        let before = shop.asked().await;
        let answer = shop.present(&buyer.pay_v2(&challenge)).await;
        assert_eq!(answer.status, 200, "round {round}: {}", answer.text());
        assert_eq!(
            shop.asked().await - before,
            1.0,
            "round {round}: asked once"
        );
    }
    assert_eq!(upstream.take().len(), rounds);
    assert_eq!(shop.facilitator.settlements(), rounds);

    // The other way round: the dead server costs a second question, and the payment is used by then.
    let order = "[report-cors, report-payment, report-retry]";
    assert!(dynamic.contains(order));
    let swapped = dynamic.replace(order, "[report-cors, report-retry, report-payment]");
    shop.traefik.rewrite(&swapped).await;
    let before = shop.asked().await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let answer = shop.present(&buyer.pay_v2(&challenge)).await;
        statuses.push(answer.status.as_u16());
    }
    assert_eq!(
        shop.asked().await - before,
        3.0,
        "one of two was asked about twice"
    );
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409], "why the order is documented");
    assert_eq!(shop.balanced().await, PRICE * (rounds as u128 + 2));
}

#[tokio::test]
async fn cors_before_the_payment_answers_preflights_and_shows_the_price() {
    let upstream = Upstream::start().await;
    let shop = Shop::open(&upstream.url()).await;
    let asked = shop.asked().await;
    let preflight = ::http::Request::builder()
        .method("OPTIONS")
        .uri(shop.url(PAID))
        .header("origin", "https://app.example")
        .header("access-control-request-method", "GET")
        .header("access-control-request-headers", "payment-signature")
        .body(Full::<Bytes>::default())
        .expect("a request");
    let answer = http::send(preflight).await.expect("Traefik answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    let allowed = answer.headers["access-control-allow-headers"]
        .to_str()
        .expect("ASCII")
        .to_lowercase();
    assert!(allowed.contains("payment-signature") && allowed.contains("x-payment"));
    assert_eq!(shop.asked().await, asked, "the verifier was not asked");
    assert!(upstream.take().is_empty(), "nor the service");

    let unpaid = shop.get(PAID, &[("origin", "https://app.example")]).await;
    assert_eq!(unpaid.status, 402);
    assert_eq!(unpaid.headers["access-control-allow-origin"], "*");
    let exposed = unpaid.headers["access-control-expose-headers"]
        .to_str()
        .expect("ASCII")
        .to_lowercase();
    for name in ["payment-required", "payment-response", "x-payment-error"] {
        assert!(exposed.contains(name), "{exposed}");
    }

    // What is no preflight is not answered by CORS.
    let options = ::http::Request::builder()
        .method("OPTIONS")
        .uri(shop.url(PAID))
        .body(Full::<Bytes>::default())
        .expect("a request");
    let answer = http::send(options).await.expect("Traefik answers");
    assert_eq!(answer.status, 402, "{answer:?}");
    assert!(upstream.take().is_empty());
}

#[tokio::test]
async fn r1_a_verifier_that_is_killed_closes_the_door() {
    let upstream = Upstream::start().await;
    let mut shop = Shop::open(&upstream.url()).await;
    let payment = wallet(1).pay_v2(&shop.challenge().await);
    shop.verifier.signal("KILL");
    shop.verifier.exit_code(Duration::from_secs(10)).await;
    let (name, value) = payment_header(&payment);
    for path in [PAID, "/report/sample", "/report/../report/x"] {
        for headers in [&[][..], &[(name, value.as_str())]] {
            let answer = shop.get(path, headers).await;
            assert_eq!(answer.status, 500, "{path}: {}", answer.text());
            assert!(answer.body.is_empty(), "{}", answer.text());
        }
    }
    assert!(upstream.take().is_empty(), "nothing passed");
    shop.verifier.crash_and_restart().await;
    assert_eq!(
        shop.present(&payment).await.status,
        200,
        "and it opens again"
    );
    assert_eq!(shop.earned().await, PRICE);
}

#[tokio::test]
async fn r1_restarts_in_mid_traffic_give_no_free_pass() {
    let upstream = Upstream::start().await;
    let mut shop = Shop::open(&upstream.url()).await;
    let challenge = shop.challenge().await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (url, stop) = (shop.url(PAID), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(answer) = try_get(&url, &[]).await {
                        *statuses.entry(answer.status.as_u16()).or_default() += 1;
                    }
                }
                statuses
            })
        })
        .collect();
    for _ in 0..count(3, 30) {
        shop.verifier.crash_and_restart().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut all = std::collections::BTreeMap::<u16, usize>::new();
    for client in clients {
        for (status, times) in client.await.expect("no panic") {
            *all.entry(status).or_default() += times;
        }
    }
    let expected = |status: &u16| matches!(status, 402 | 500 | 502 | 503);
    assert!(all.keys().all(expected), "{all:?}");
    assert!(
        all.contains_key(&402) && all.contains_key(&500),
        "both were seen: {all:?}"
    );
    assert!(upstream.take().is_empty(), "nobody paid, nobody passed");
    let paid = shop.present(&wallet(1).pay_v2(&challenge)).await;
    assert_eq!(paid.status, 200, "{}", paid.text());
    assert_eq!(shop.earned().await, PRICE);
}
