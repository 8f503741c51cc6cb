//! One payment, one answer, with real money: replay, copies, a buyer who hangs up.

use super::shop::{PAID, PRICE, Shop, payment_header, wallet};
use super::upstream::Upstream;
use crate::harness::verdict;
use crate::soak::count;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

fn unknown() -> (u16, String) {
    (504, "settlement_unknown".to_owned())
}

fn used() -> (u16, String) {
    (409, "payment_used".to_owned())
}

#[tokio::test]
async fn r8_copies_through_traefik_are_one_answer_and_one_transfer() {
    let upstream = Upstream::start().await;
    let mut shop = Shop::open(&upstream.url()).await;
    let copies = count(50, 500);
    let payment = wallet(1).pay_v2(&shop.challenge().await);
    let (name, value) = payment_header(&payment);
    let url = shop.url(PAID);
    let waiting: Vec<_> = (0..copies)
        .map(|_| {
            let (url, value) = (url.clone(), value.clone());
            tokio::spawn(async move { verdict(&super::shop::get(&url, &[(name, &value)]).await) })
        })
        .collect();
    let mut answers = Vec::new();
    for copy in waiting {
        answers.push(copy.await.expect("no panic"));
    }
    let of = |status| answers.iter().filter(|(seen, _)| *seen == status).count();
    assert_eq!((of(200), of(409)), (1, copies - 1), "{answers:?}");
    assert_eq!(upstream.take().len(), 1, "the service was called once");

    assert_eq!(verdict(&shop.present(&payment).await), used(), "replay");
    let elsewhere = shop.get("/report/tomorrow", &[(name, &value)]).await;
    assert_eq!(verdict(&elsewhere), used(), "on another path");
    shop.verifier.crash_and_restart().await;
    assert_eq!(
        verdict(&shop.present(&payment).await),
        used(),
        "after kill -9"
    );
    assert!(upstream.take().is_empty());
    assert_eq!(shop.facilitator.settlements(), 1);
    assert_eq!(shop.earned().await, PRICE);
}

#[tokio::test]
async fn m6_a_buyer_who_hangs_up_while_we_settle_pays_once() {
    let upstream = Upstream::start().await;
    let shop = Shop::open_slow(&upstream.url(), 2_000).await;
    let challenge = shop.challenge().await;
    let buyer = wallet(2);
    let cut = buyer.pay_v2(&challenge);

    let mut stream = TcpStream::connect(("127.0.0.1", shop.traefik.port("web")))
        .await
        .expect("Traefik listens");
    let (name, value) = payment_header(&cut);
    let request = format!("GET {PAID} HTTP/1.1\r\nHost: 127.0.0.1\r\n{name}: {value}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let verified = || async { shop.facilitator.log().contains(" verify ") };
    let patience = Duration::from_secs(20);
    shop.verifier
        .eventually(patience, "the verify call", verified)
        .await;
    // The facilitator is told to settle right after and takes two seconds for it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(shop.facilitator.settlements(), 0, "it is settling");
    drop(stream);

    shop.settled(1).await;
    let charged = || async { shop.balanced_now().await };
    shop.verifier
        .eventually(patience, "the settlement to be booked", charged)
        .await;
    assert!(upstream.take().is_empty(), "nobody waited for the answer");
    assert_eq!(shop.earned().await, PRICE);

    // Join window of M5: a copy within five seconds is the proxy's. It ends with the window.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        shop.present(&cut).await.status,
        409,
        "the old payment alone gets nothing"
    );

    let next = buyer.pay_v2(&challenge);
    let answer = shop.present(&next).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(shop.facilitator.settlements(), 1, "the credit paid");
    assert_eq!(shop.earned().await, PRICE, "charged once");
    assert_eq!(verdict(&shop.present(&next).await), used());

    let third = buyer.pay_v2(&challenge);
    assert_eq!(shop.present(&third).await.status, 200);
    assert_eq!(shop.balanced().await, 2 * PRICE, "a credit pays once");
    assert_eq!(upstream.take().len(), 2);
}

#[tokio::test]
async fn two_payment_headers_are_no_payment() {
    let upstream = Upstream::start().await;
    let shop = Shop::open(&upstream.url()).await;
    let challenge = shop.challenge().await;
    let payment = wallet(3).pay_v2(&challenge);
    let (name, value) = payment_header(&payment);
    let (_, other) = payment_header(&wallet(5).pay_v2(&challenge));
    for headers in [
        [(name, value.as_str()), (name, value.as_str())],
        [(name, value.as_str()), (name, other.as_str())],
        [(name, value.as_str()), ("x-payment", value.as_str())],
    ] {
        let answer = shop.get(PAID, &headers).await;
        assert_eq!(verdict(&answer), (400, "invalid_payment_header".to_owned()));
    }
    for version in [serde_json::json!(0), 3.into(), "2".into(), 2.5.into()] {
        let mut odd = payment.clone();
        odd["x402Version"] = version;
        assert_eq!(
            shop.present(&odd).await.status,
            400,
            "{}",
            odd["x402Version"]
        );
    }
    assert_eq!(shop.facilitator.settlements(), 0);
    assert!(upstream.take().is_empty());
    assert_eq!(
        shop.present(&payment).await.status,
        200,
        "none of that used it"
    );
    assert_eq!(shop.balanced().await, PRICE);
}

#[tokio::test]
async fn r10_a_kill_while_we_settle_charges_once_and_passes_nothing() {
    let upstream = Upstream::start().await;
    let mut shop = Shop::open_slow(&upstream.url(), 2_000).await;
    let challenge = shop.challenge().await;
    let buyer = wallet(2);
    let killed = buyer.pay_v2(&challenge);
    let (name, value) = payment_header(&killed);
    let url = shop.url(PAID);
    let waiting = tokio::spawn(async move { super::shop::get(&url, &[(name, &value)]).await });
    let verified = || async { shop.facilitator.log().contains(" verify ") };
    let patience = Duration::from_secs(20);
    shop.verifier
        .eventually(patience, "the verify call", verified)
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(shop.facilitator.settlements(), 0, "it is settling");
    shop.verifier.crash_and_restart().await;
    assert_eq!(waiting.await.expect("no panic").status, 500);
    shop.settled(1).await;
    assert_eq!(shop.earned().await, PRICE, "the money moved");

    // Nobody knows of it here: the old one passes nothing, a new one is not charged meanwhile (M6).
    let old = verdict(&shop.present(&killed).await);
    let new = verdict(&shop.present(&buyer.pay_v2(&challenge)).await);
    assert_eq!(
        (old, new),
        (unknown(), unknown()),
        "neither is settled again"
    );
    assert_eq!(shop.facilitator.settlements(), 1);
    assert_eq!(shop.earned().await, PRICE, "charged once");
    assert!(upstream.take().is_empty());
    let other = wallet(3).pay_v2(&challenge);
    assert_eq!(shop.present(&other).await.status, 200, "others go on");
}
