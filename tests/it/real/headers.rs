//! What the seller's service gets to see: who paid, and nothing that a buyer made up or should keep.

use super::shop::{FREE, PAID, PRICE, Shop, get, payment_header, wallet};
use super::upstream::{Head, Upstream};
use crate::harness::header_json;

const FORGED: &str = "forged";

/// Everything that a service might believe.
const FORGERIES: [(&str, &str); 10] = [
    ("x-payment-payer", FORGED),
    ("x-verified-wallet", FORGED),
    ("payment-response", FORGED),
    ("x-payment-response", FORGED),
    ("authorization", FORGED),
    ("x_payment_payer", FORGED),
    ("x.payment.payer", FORGED),
    ("x_verified_wallet", FORGED),
    ("payment_response", FORGED),
    ("x-forwarded-uri", "/report/sample"),
];

fn is_clean(head: &Head) {
    for (name, values) in &head.headers {
        assert!(
            !values.iter().any(|value| value.contains(FORGED)),
            "{name}: {values:?}"
        );
    }
    assert_eq!(
        head.values("payment-signature"),
        [""; 0],
        "the payment stays at the gate"
    );
    assert_eq!(
        head.values("x-payment"),
        [""; 0],
        "the payment stays at the gate"
    );
    assert_eq!(head.values("x-verified-wallet"), [""; 0]);
    assert_eq!(head.values("authorization"), [""; 0]);
}

#[tokio::test]
async fn m11_the_service_sees_who_paid_and_no_copy_of_the_buyers() {
    let upstream = Upstream::start().await;
    let shop = Shop::open(&upstream.url()).await;
    let challenge = shop.challenge().await;
    let body = shop.get(PAID, &[]).await.json();
    let buyer = wallet(1);

    for payment in [buyer.pay_v2(&challenge), buyer.pay_v1(&body)] {
        let (name, value) = payment_header(&payment);
        let mut headers = FORGERIES.to_vec();
        headers.push((name, &value));
        let answer = shop.get(PAID, &headers).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let receipt = if name == "x-payment" {
            "x-payment-response"
        } else {
            "payment-response"
        };
        assert_eq!(header_json(&answer, receipt)["success"], true);

        let seen = upstream.take();
        let [head] = seen.as_slice() else {
            panic!("one request reaches the service: {seen:?}");
        };
        is_clean(head);
        assert_eq!(head.target, PAID.as_bytes());
        assert_eq!(
            head.values("x-payment-payer"),
            [buyer.address.to_checksum(None)]
        );
        assert_eq!(head.values(receipt).len(), 1);
    }
    assert_eq!(shop.balanced().await, 2 * PRICE);
}

#[tokio::test]
async fn m11_a_free_path_is_as_clean_and_its_payment_is_not_taken() {
    let upstream = Upstream::start().await;
    let shop = Shop::open(&upstream.url()).await;
    let payment = wallet(1).pay_v2(&shop.challenge().await);
    let (name, value) = payment_header(&payment);
    let mut headers = FORGERIES.to_vec();
    headers.push((name, &value));
    headers.push(("x-payment", &value));

    let answer = shop.get(FREE, &headers).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = upstream.take();
    let [head] = seen.as_slice() else {
        panic!("one request reaches the service: {seen:?}");
    };
    is_clean(head);
    assert_eq!(head.values("x-payment-payer"), [""; 0], "nobody paid");
    assert_eq!(head.values("payment-response"), [""; 0]);
    assert_eq!(shop.facilitator.settlements(), 0);
    assert_eq!(shop.present(&payment).await.status, 200, "it is still good");
    assert_eq!(shop.balanced().await, PRICE);
}

#[tokio::test]
async fn a_forgery_alone_pays_for_nothing() {
    let upstream = Upstream::start().await;
    let shop = Shop::open(&upstream.url()).await;
    for (name, value) in FORGERIES {
        let answer = get(&shop.url(PAID), &[(name, value)]).await;
        assert_eq!(answer.status, 402, "{name}");
        assert!(answer.headers.contains_key("payment-required"), "{name}");
    }
    assert!(upstream.take().is_empty());
}
