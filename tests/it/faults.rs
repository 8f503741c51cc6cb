//! Every fault of a facilitator, as the buyer sees it: status, reason, no challenge where R9 forbids
//! one, no pass in any, and the payment still good where nothing can have moved.

use crate::harness::{Verifier, Wallet, pricing, verdict};
use crate::scripted::{Reply, Scripted};
use serde_json::{Value, json};
use std::time::Duration;

/// Short deadlines, so that a hang is a row like any other.
fn impatient(facilitator: &str) -> String {
    format!(
        "timeouts: {{answer: 6s, verify: 1s, settle: 3s, settleFloor: 1s}}\n{}",
        pricing(facilitator)
    )
}

async fn setup() -> (Scripted, Verifier, Value) {
    let facilitator = Scripted::start().await;
    let verifier = Verifier::start(&impatient(&facilitator.url())).await;
    let challenge = verifier.challenge("/paid/x").await;
    (facilitator, verifier, challenge)
}

#[tokio::test]
async fn r9_a_verify_that_gives_no_verdict_is_our_trouble() {
    let (facilitator, verifier, challenge) = setup().await;
    let other = "0x00000000000000000000000000000000000000aa";
    let rows: Vec<(&str, Reply, u16, &str)> = vec![
        ("closes", Reply::close(), 503, "facilitator_unreachable"),
        ("resets", Reply::reset(), 503, "facilitator_unreachable"),
        ("hangs", Reply::hang(), 504, "facilitator_timeout"),
        ("200 HTML", Reply::html(200), 502, "facilitator_error"),
        (
            "302",
            Reply::text(302, "").header("location", "http://127.0.0.1:1/"),
            502,
            "facilitator_error",
        ),
        (
            "401",
            Reply::text(401, "who are you"),
            502,
            "facilitator_error",
        ),
        (
            "403",
            Reply::json(403, json!({"error": "no"})),
            502,
            "facilitator_error",
        ),
        (
            "429",
            Reply::text(429, "slow down").header("retry-after", "7"),
            503,
            "facilitator_unreachable",
        ),
        ("500", Reply::text(500, "boom"), 502, "facilitator_error"),
        ("endless body", Reply::endless(), 502, "facilitator_error"),
        (
            "truncated",
            Reply::valid().truncated(),
            502,
            "facilitator_error",
        ),
        (
            "verdict as text",
            Reply::json(200, json!({"isValid": "true"})),
            502,
            "facilitator_error",
        ),
        (
            "wrong payer",
            Reply::valid_as(other),
            502,
            "facilitator_error",
        ),
    ];
    let mut number = 100;
    for (name, reply, status, reason) in rows {
        facilitator.on_verify(reply);
        number += 1;
        let payment = Wallet::new(number).pay_v2(&challenge);
        let answer = verifier.ask("/paid/x").pay(&payment).send().await;
        let seen = verdict(&answer);
        // A connection that ends early or never may look like either side of the same fault.
        assert_eq!(
            seen,
            (status, reason.to_owned()),
            "{name}: {}",
            answer.text()
        );
        assert!(
            !answer.headers.contains_key("payment-required"),
            "{name}: R9"
        );
        assert!(answer.json().get("accepts").is_none(), "{name}: R9");
        assert_eq!(answer.json()["retriable"], true, "{name}");
        if name == "429" {
            assert_eq!(answer.headers["retry-after"], "7");
        }
        facilitator.on_verify(Reply::valid());
        let again = verifier.ask("/paid/x").pay(&payment).send().await;
        assert_eq!(
            again.status,
            200,
            "{name}: the payment is still good: {}",
            again.text()
        );
    }
}

#[tokio::test]
async fn m4_a_settle_that_was_declined_or_never_sent_releases_the_payment() {
    let (facilitator, verifier, challenge) = setup().await;
    let rows: Vec<(&str, Reply, u16, &str)> = vec![
        (
            "401",
            Reply::text(401, "who are you"),
            502,
            "facilitator_error",
        ),
        (
            "403",
            Reply::json(403, json!({"error": "no"})),
            502,
            "facilitator_error",
        ),
        (
            "429",
            Reply::text(429, "").header("retry-after", "9"),
            503,
            "facilitator_unreachable",
        ),
    ];
    let mut number = 120;
    for (name, reply, status, reason) in rows {
        facilitator.next_settle(reply);
        number += 1;
        let payment = Wallet::new(number).pay_v2(&challenge);
        let answer = verifier.ask("/paid/x").pay(&payment).send().await;
        assert_eq!(
            verdict(&answer),
            (status, reason.to_owned()),
            "{name}: {}",
            answer.text()
        );
        assert!(
            !answer.headers.contains_key("payment-required"),
            "{name}: R9"
        );
        let again = verifier.ask("/paid/x").pay(&payment).send().await;
        assert_eq!(again.status, 200, "{name}: released: {}", again.text());
    }
}

#[tokio::test]
async fn m4_a_settle_that_was_sent_and_gave_no_proof_is_unknown() {
    let (facilitator, verifier, challenge) = setup().await;
    let hash = format!("0x{}", "cd".repeat(32));
    let payer = |number: u8| Wallet::new(number).address.to_string();
    let success = |changes: Value| {
        let mut body = json!({"success": true, "transaction": hash, "network": "eip155:84532"});
        for (key, value) in changes.as_object().expect("an object") {
            body[key] = value.clone();
        }
        Reply::json(200, body)
    };
    let rows: Vec<(&str, Reply)> = vec![
        ("closes", Reply::close()),
        ("resets", Reply::reset()),
        ("resets on the head", Reply::reset_on_head()),
        ("hangs", Reply::hang()),
        ("200 HTML", Reply::html(200)),
        (
            "302",
            Reply::text(302, "").header("location", "http://127.0.0.1:1/"),
        ),
        ("500", Reply::text(500, "boom")),
        ("endless body", Reply::endless()),
        ("truncated", Reply::settled().truncated()),
        ("empty transaction", success(json!({"transaction": ""}))),
        (
            "malformed transaction",
            success(json!({"transaction": "0x1234"})),
        ),
        ("another network", success(json!({"network": "eip155:1"}))),
        ("another payer", success(json!({"payer": payer(1)}))),
        ("another amount", success(json!({"amount": "1"}))),
        (
            "nonce used",
            Reply::settle_failed("invalid_exact_evm_nonce_already_used", ""),
        ),
        (
            "refused with a transaction",
            Reply::settle_failed("insufficient_funds", &hash),
        ),
        (
            "500 with unexpected_error",
            Reply::settle_failed("unexpected_error", "").status(500),
        ),
    ];
    let mut number = 130;
    for (name, reply) in rows {
        facilitator.on_settle(reply);
        number += 1;
        let before = facilitator.settles();
        let payment = Wallet::new(number).pay_v2(&challenge);
        let answer = verifier.ask("/paid/x").pay(&payment).send().await;
        let expected = (504, "settlement_unknown".to_owned());
        assert_eq!(verdict(&answer), expected, "{name}: {}", answer.text());
        assert!(
            !answer.headers.contains_key("payment-required"),
            "{name}: R9"
        );
        assert!(answer.headers.contains_key("retry-after"), "{name}");
        let again = verdict(&verifier.ask("/paid/x").pay(&payment).send().await);
        assert!([504, 409].contains(&again.0), "{name}: {again:?}");
        assert_eq!(
            facilitator.settles(),
            before + 1,
            "{name}: never sent twice"
        );
    }
}

#[tokio::test]
async fn m4_a_verdict_counts_whatever_its_status_code() {
    let (facilitator, verifier, challenge) = setup().await;
    for (number, status) in [(160, 400), (161, 412), (162, 500)] {
        let reply = Reply::invalid("invalid_exact_evm_signature").status(status);
        facilitator.on_verify(reply);
        let payment = Wallet::new(number).pay_v2(&challenge);
        let answer = verdict(&verifier.ask("/paid/x").pay(&payment).send().await);
        assert_eq!(answer, (402, "payment_invalid".to_owned()), "{status}");
    }
    facilitator.on_verify(Reply::valid().status(500));
    facilitator.on_settle(Reply::settled().status(500));
    let payment = Wallet::new(163).pay_v2(&challenge);
    assert_eq!(
        verifier.ask("/paid/x").pay(&payment).send().await.status,
        200
    );
}

#[tokio::test]
async fn r1_a_facilitator_that_is_down_gives_nothing_away() {
    let facilitator = Scripted::start().await;
    let url = facilitator.url();
    let address = facilitator.addr();
    let verifier = Verifier::start(&impatient(&url)).await;
    let challenge = verifier.challenge("/paid/x").await;
    drop(facilitator);
    let payment = Wallet::new(170).pay_v2(&challenge);
    let answer = verifier.ask("/paid/x").pay(&payment).send().await;
    assert_eq!(
        verdict(&answer),
        (503, "facilitator_unreachable".to_owned())
    );
    assert_eq!(verifier.admin("/readyz").await.status, 200, "R2");
    let _back = Scripted::start_on(address).await;
    let paid = || async { verifier.ask("/paid/x").pay(&payment).send().await.status == 200 };
    verifier
        .eventually(
            Duration::from_secs(10),
            "the facilitator to be found again",
            paid,
        )
        .await;
}
