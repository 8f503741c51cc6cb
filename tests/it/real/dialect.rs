//! What the official facilitator says no with, and what a buyer gets to read.

use super::shop::{PAID, PRICE, Shop, wallet};
use super::upstream::Upstream;
use crate::harness::{Wallet, challenge_of, verdict};
use crate::parts::http;
use serde_json::json;

#[tokio::test]
async fn a_nonce_that_was_used_elsewhere_is_a_conflict() {
    let upstream = Upstream::start().await;
    let shop = Shop::open(&upstream.url()).await;
    let challenge = shop.challenge().await;
    let body = shop.get(PAID, &[]).await.json();

    let v2 = wallet(1).pay_v2(&challenge);
    let v1 = wallet(2).pay_v1(&body);
    for (payment, requirement, settled) in [
        (v2, &challenge["accepts"][0], 1),
        (v1, &body["accepts"][0], 2),
    ] {
        // Somebody saw it and settled it past us.
        let call = json!({
            "x402Version": payment["x402Version"],
            "paymentPayload": payment,
            "paymentRequirements": requirement,
        });
        let url = format!("{}/settle", shop.facilitator.url());
        let answer = http::post_json(&url, &call)
            .await
            .expect("it answers")
            .json();
        assert_eq!(answer["success"], true, "{answer}");
        assert_eq!(shop.earned().await, PRICE * settled);

        let refused = shop.present(&payment).await;
        assert_eq!(
            verdict(&refused),
            (409, "payment_used".to_owned()),
            "{}",
            refused.text()
        );
        assert!(
            !refused.headers.contains_key("payment-required"),
            "no second price"
        );
        assert_eq!(shop.earned().await, PRICE * settled);
    }
    assert!(upstream.take().is_empty());
}

#[tokio::test]
async fn a_wallet_without_tokens_is_told_so_and_may_pay_again() {
    let upstream = Upstream::start().await;
    let shop = Shop::open(&upstream.url()).await;
    let challenge = shop.challenge().await;
    let body = shop.get(PAID, &[]).await.json();
    let poor = Wallet::new(77);

    for payment in [poor.pay_v2(&challenge), poor.pay_v1(&body)] {
        let refused = shop.present(&payment).await;
        assert_eq!(
            verdict(&refused),
            (402, "payment_invalid".to_owned()),
            "{}",
            refused.text()
        );
        let detail = refused.json()["detail"].to_string();
        assert!(detail.contains("insufficient"), "{detail}");
        assert_eq!(
            challenge_of(&refused)["accepts"],
            challenge["accepts"],
            "a fresh price"
        );
    }
    assert_eq!(shop.facilitator.settlements(), 0);
    assert!(upstream.take().is_empty());
    assert_eq!(shop.balanced().await, 0);
}

#[tokio::test]
async fn a_signature_of_somebody_else_is_refused() {
    let upstream = Upstream::start().await;
    let shop = Shop::open(&upstream.url()).await;
    let mut payment = Wallet::new(78).pay_v2(&shop.challenge().await);
    let victim = wallet(1).address.to_checksum(None);
    payment["payload"]["authorization"]["from"] = json!(victim);

    let refused = shop.present(&payment).await;
    assert_eq!(refused.status, 402, "{}", refused.text());
    assert_eq!(verdict(&refused).1, "payment_invalid");
    assert_eq!(shop.facilitator.settlements(), 0);
    assert!(upstream.take().is_empty());
    assert_eq!(shop.balanced().await, 0);
}
