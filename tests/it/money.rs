//! The money rules from outside: the binary, its SQLite ledger, and a facilitator whose every answer
//! is scripted. Each test carries the number of the rule it shows.

use crate::harness::{Verifier, Wallet, challenge_of, header_json, pricing, verdict};
use crate::scripted::{Reply, Scripted};
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Copies sent at once (R8).
const COPIES: usize = 50;

async fn setup() -> (Scripted, Verifier, Value) {
    let facilitator = Scripted::start().await;
    let verifier = Verifier::start(&pricing(&facilitator.url())).await;
    let challenge = verifier.challenge("/paid/x").await;
    (facilitator, verifier, challenge)
}

fn lowered(payment: &Value) -> Value {
    let mut copy = payment.clone();
    let authorization = copy["payload"]["authorization"]
        .as_object_mut()
        .expect("an object");
    for value in authorization.values_mut() {
        *value = value.as_str().expect("text").to_lowercase().into();
    }
    copy
}

#[tokio::test]
async fn r8_fifty_copies_at_once_are_one_answer_and_one_settle() {
    let (facilitator, mut verifier, challenge) = setup().await;
    facilitator.on_settle(Reply::settled().after(Duration::from_millis(300)));
    let payment = Wallet::new(1).pay_v2(&challenge);
    let ask = verifier.ask("/paid/x").pay(&payment);
    let copies: Vec<_> = (0..COPIES)
        .map(|_| {
            let ask = ask.clone();
            tokio::spawn(async move { verdict(&ask.send().await) })
        })
        .collect();
    let mut answers = Vec::new();
    for copy in copies {
        answers.push(copy.await.expect("no panic"));
    }
    let passed = answers.iter().filter(|(status, _)| *status == 200).count();
    let conflicts = answers.iter().filter(|(status, _)| *status == 409).count();
    assert_eq!((passed, conflicts), (1, COPIES - 1), "{answers:?}");
    assert_eq!(facilitator.settles(), 1);

    let replayed = |verdict: (u16, String)| {
        assert_eq!(verdict, (409, "payment_used".to_owned()));
    };
    replayed(verdict(&ask.send().await));
    replayed(verdict(
        &verifier.ask("/paid/other").pay(&payment).send().await,
    ));
    replayed(verdict(
        &verifier.ask("/paid/x").pay(&lowered(&payment)).send().await,
    ));
    let v1 = serde_json::json!({
        "x402Version": 1, "scheme": "exact", "network": "base-sepolia", "payload": payment["payload"],
    });
    replayed(verdict(&verifier.ask("/paid/x").pay(&v1).send().await));
    verifier.crash_and_restart().await;
    replayed(verdict(&ask.send().await));
    assert_eq!(facilitator.settles(), 1);
}

#[tokio::test]
async fn both_versions_pay_and_get_a_receipt_in_their_own_words() {
    let (_facilitator, verifier, challenge) = setup().await;
    let wallet = Wallet::new(2);
    let paid = verifier
        .ask("/paid/x")
        .pay(&wallet.pay_v2(&challenge))
        .send()
        .await;
    assert_eq!(paid.status, 200, "{}", paid.text());
    assert_eq!(
        paid.headers["x-payment-payer"],
        wallet.address.to_checksum(None)
    );
    let receipt = header_json(&paid, "payment-response");
    assert_eq!(receipt["success"], true);
    assert_eq!(receipt["network"], "eip155:84532");

    let unpaid = verifier.ask("/paid/x").send().await;
    let v1 = wallet.pay_v1(&unpaid.json());
    let paid = verifier.ask("/paid/x").pay(&v1).send().await;
    assert_eq!(paid.status, 200, "{}", paid.text());
    assert_eq!(
        header_json(&paid, "x-payment-response")["network"],
        "base-sepolia"
    );
}

/// Sends a call and cuts the connection once `seen` holds.
async fn cut_when<F>(verifier: &Verifier, payment: &Value, what: &str, seen: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let url = verifier.url("");
    let address = url.trim_start_matches("http://");
    let mut connection = TcpStream::connect(address)
        .await
        .expect("the verifier listens");
    let bytes = verifier.ask("/paid/x").pay(payment).raw(address);
    connection.write_all(&bytes).await.expect("sent");
    verifier
        .eventually(Duration::from_secs(10), what, seen)
        .await;
    drop(connection);
}

#[tokio::test]
async fn m6_what_was_paid_and_not_answered_pays_the_next_request() {
    let (facilitator, verifier, challenge) = setup().await;
    facilitator.on_settle(Reply::settled().after(Duration::from_millis(400)));
    let wallet = Wallet::new(3);
    let cut = wallet.pay_v2(&challenge);
    cut_when(&verifier, &cut, "the settle call", || async {
        facilitator.settles() == 1
    })
    .await;
    let credit = || async {
        verifier
            .metric("x402_verifier_charged_requests_total", &["report"])
            .await
            == Some(1.0)
    };
    verifier
        .eventually(
            Duration::from_secs(10),
            "the settlement to be booked",
            credit,
        )
        .await;
    // Let the join window of M5 pass by using another forwarded client.
    let alone = verifier
        .ask("/paid/x")
        .pay(&cut)
        .header("x-forwarded-for", "192.0.2.99");
    let old = verdict(&alone.send().await);
    assert_eq!(
        old.0, 409,
        "the old authorisation alone gets nothing: {old:?}"
    );

    let next = wallet.pay_v2(&challenge);
    let paid = verifier.ask("/paid/x").pay(&next).send().await;
    assert_eq!(paid.status, 200, "{}", paid.text());
    assert_eq!(
        facilitator.settles(),
        1,
        "the credit paid, nothing was settled"
    );
    let replay = verdict(&verifier.ask("/paid/x").pay(&next).send().await);
    assert_eq!(
        replay,
        (409, "payment_used".to_owned()),
        "its authorisation ended"
    );

    let third = verifier
        .ask("/paid/x")
        .pay(&wallet.pay_v2(&challenge))
        .send()
        .await;
    assert_eq!(third.status, 200);
    assert_eq!(facilitator.settles(), 2, "a credit pays once");
}

#[tokio::test]
async fn m6_a_credit_is_its_payers_and_its_routes() {
    let (facilitator, verifier, challenge) = setup().await;
    facilitator.on_settle(Reply::settled().after(Duration::from_millis(300)));
    let payment = Wallet::new(4).pay_v2(&challenge);
    cut_when(&verifier, &payment, "the settle call", || async {
        facilitator.settles() == 1
    })
    .await;
    let booked = || async {
        verifier
            .metric("x402_verifier_charged_requests_total", &["report"])
            .await
            == Some(1.0)
    };
    verifier
        .eventually(Duration::from_secs(10), "the booking", booked)
        .await;
    let other = Wallet::new(5).pay_v2(&challenge);
    assert_eq!(verifier.ask("/paid/x").pay(&other).send().await.status, 200);
    assert_eq!(facilitator.settles(), 2, "another payer pays for itself");
}

#[tokio::test]
async fn m1_a_connection_cut_before_verify_answers_stores_nothing() {
    let (facilitator, verifier, challenge) = setup().await;
    facilitator.on_verify(Reply::valid().after(Duration::from_millis(400)));
    let payment = Wallet::new(6).pay_v2(&challenge);
    cut_when(&verifier, &payment, "the verify call", || async {
        facilitator.verifies() == 1
    })
    .await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(
        facilitator.settles(),
        0,
        "nobody waited, nothing was claimed"
    );
    let again = verifier.ask("/paid/x").pay(&payment).send().await;
    assert_eq!(
        again.status,
        200,
        "the same payment is still good: {}",
        again.text()
    );
    assert_eq!(facilitator.settles(), 1);
}

#[tokio::test]
async fn m5_an_auth_call_that_the_proxy_sends_again_joins() {
    let (facilitator, verifier, challenge) = setup().await;
    facilitator.on_settle(Reply::settled().after(Duration::from_millis(600)));
    let payment = Wallet::new(7).pay_v2(&challenge);
    cut_when(&verifier, &payment, "the settle call", || async {
        facilitator.settles() == 1
    })
    .await;
    // The drop of the first handler is noticed a moment after the cut.
    let started = Instant::now();
    let joined = loop {
        let answer = verifier.ask("/paid/x").pay(&payment).send().await;
        if answer.status != 409 || started.elapsed() > Duration::from_millis(500) {
            break answer;
        }
    };
    assert_eq!(joined.status, 200, "{}", joined.text());
    assert_eq!(facilitator.settles(), 1);
    let copy = verdict(&verifier.ask("/paid/x").pay(&payment).send().await);
    assert_eq!(
        copy,
        (409, "payment_used".to_owned()),
        "a joined answer is one answer"
    );
}

#[tokio::test]
async fn m4_a_failed_transaction_without_a_hash_is_unknown_and_blocks_its_payer() {
    let (facilitator, verifier, challenge) = setup().await;
    facilitator.on_settle(Reply::settle_failed(
        "invalid_exact_evm_transaction_failed",
        "",
    ));
    let wallet = Wallet::new(8);
    let payment = wallet.pay_v2(&challenge);
    let answer = verifier.ask("/paid/x").pay(&payment).send().await;
    assert_eq!(verdict(&answer), (504, "settlement_unknown".to_owned()));
    assert!(answer.headers.contains_key("retry-after"));
    assert!(
        !answer.headers.contains_key("payment-required"),
        "R9: no second challenge"
    );

    facilitator.on_settle(Reply::settled());
    let again = verdict(&verifier.ask("/paid/x").pay(&payment).send().await);
    assert_eq!(again, (504, "settlement_unknown".to_owned()));
    let new = verdict(
        &verifier
            .ask("/paid/x")
            .pay(&wallet.pay_v2(&challenge))
            .send()
            .await,
    );
    assert_eq!(
        new,
        (504, "settlement_unknown".to_owned()),
        "M6: not settled meanwhile"
    );
    assert_eq!(facilitator.settles(), 1);
    let other = Wallet::new(9).pay_v2(&challenge);
    assert_eq!(
        verifier.ask("/paid/x").pay(&other).send().await.status,
        200,
        "others go on"
    );
}

#[tokio::test]
async fn m3_two_payments_under_one_transaction_are_one_answer() {
    let (facilitator, verifier, challenge) = setup().await;
    let hash = format!("0x{}", "ab".repeat(32));
    facilitator.on_settle(Reply::settled_in(&hash));
    let first = Wallet::new(10).pay_v2(&challenge);
    assert_eq!(verifier.ask("/paid/x").pay(&first).send().await.status, 200);
    let second = Wallet::new(11).pay_v2(&challenge);
    let answer = verdict(&verifier.ask("/paid/x").pay(&second).send().await);
    assert_eq!(answer, (504, "settlement_unknown".to_owned()));
}

#[tokio::test]
async fn m4_a_pending_settle_is_sent_once_more_and_then_unknown() {
    let (facilitator, verifier, challenge) = setup().await;
    facilitator.next_settle(Reply::settle_failed(
        "settlement_pending",
        &format!("0x{}", "1".repeat(64)),
    ));
    let wallet = Wallet::new(12);
    let paid = verifier
        .ask("/paid/x")
        .pay(&wallet.pay_v2(&challenge))
        .send()
        .await;
    assert_eq!(paid.status, 200, "{}", paid.text());
    assert_eq!(facilitator.settles(), 2);
    let calls = facilitator.calls();
    let bodies: Vec<_> = calls
        .iter()
        .filter(|call| call.path == "/settle")
        .map(|call| &call.body)
        .collect();
    assert_eq!(bodies[0], bodies[1], "the same bytes");

    facilitator.on_settle(Reply::settle_failed(
        "settlement_pending",
        &format!("0x{}", "2".repeat(64)),
    ));
    let payment = Wallet::new(13).pay_v2(&challenge);
    let answer = verdict(&verifier.ask("/paid/x").pay(&payment).send().await);
    assert_eq!(answer, (504, "settlement_unknown".to_owned()));
    assert_eq!(facilitator.settles(), 4);
}

#[tokio::test]
async fn m1_verify_and_settle_get_the_payers_bytes_and_our_requirement() {
    let (facilitator, verifier, challenge) = setup().await;
    let mut payment = Wallet::new(14).pay_v2(&challenge);
    payment["unknownField"] = serde_json::json!({ "kept": [1, 2, 3] });
    payment["accepted"]["extra"]["added"] = "by the buyer".into();
    assert_eq!(
        verifier.ask("/paid/x").pay(&payment).send().await.status,
        200
    );
    let calls = facilitator.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].body, calls[1].body);
    assert_eq!(calls[0].body["paymentPayload"], payment);
    assert_eq!(
        calls[0].body["paymentRequirements"],
        challenge["accepts"][0]
    );
}

#[tokio::test]
async fn m2_the_form_that_is_asked_for_and_no_other() {
    let (facilitator, verifier, challenge) = setup().await;
    let mut both = Wallet::new(15).pay_v2(&challenge);
    both["payload"]["permit2Authorization"] = serde_json::json!({});
    let answer = verifier.ask("/paid/x").pay(&both).send().await;
    assert_eq!(verdict(&answer), (400, "invalid_payment_header".to_owned()));
    assert!(
        answer.headers.contains_key("payment-required"),
        "with a challenge"
    );
    assert_eq!(
        challenge_of(&answer)["extensions"]["paymentFailure"]["reason"],
        "invalid_payment_header"
    );
    assert!(facilitator.calls().is_empty());
}

#[tokio::test]
async fn m9_neither_expired_nor_valid_for_ever() {
    let (facilitator, verifier, challenge) = setup().await;
    let wallet = Wallet::new(16);
    let mut long = challenge.clone();
    // maxTimeoutSeconds 600 and the slack of 600, and a minute.
    long["accepts"][0]["maxTimeoutSeconds"] = (600 + 600 + 60).into();
    let mut payment = wallet.pay_v2(&long);
    payment["accepted"] = challenge["accepts"][0].clone();
    let answer = verifier.ask("/paid/x").pay(&payment).send().await;
    assert_eq!(
        verdict(&answer),
        (402, "payment_invalid".to_owned()),
        "{}",
        answer.text()
    );
    let mut short = challenge.clone();
    short["accepts"][0]["maxTimeoutSeconds"] = 1.into();
    let mut payment = wallet.pay_v2(&short);
    payment["accepted"] = challenge["accepts"][0].clone();
    let answer = verifier.ask("/paid/x").pay(&payment).send().await;
    assert_eq!(verdict(&answer), (402, "payment_invalid".to_owned()));
    assert!(
        facilitator.calls().is_empty(),
        "refused before anybody was asked"
    );
}

#[tokio::test]
async fn m13_a_price_edit_makes_older_payments_not_match() {
    let (facilitator, verifier, challenge) = setup().await;
    let old = Wallet::new(17).pay_v2(&challenge);
    verifier.write_pricing(&pricing(&facilitator.url()).replace("0.001", "0.002"));
    let live = || async { verifier.challenge("/paid/x").await["accepts"][0]["amount"] == "2000" };
    verifier
        .eventually(Duration::from_secs(5), "the new price", live)
        .await;
    let answer = verifier.ask("/paid/x").pay(&old).send().await;
    assert_eq!(
        verdict(&answer),
        (402, "no_matching_requirement".to_owned())
    );
    assert!(
        answer.text().contains("amount"),
        "names the field: {}",
        answer.text()
    );
    assert!(facilitator.calls().is_empty());
}

#[tokio::test]
async fn m10_verify_only_never_settles_and_still_answers_once() {
    let facilitator = Scripted::start().await;
    let text = format!("verifyOnly: true\n{}", pricing(&facilitator.url()));
    let verifier = Verifier::start(&text).await;
    let challenge = verifier.challenge("/paid/x").await;
    let payment = Wallet::new(18).pay_v2(&challenge);
    assert_eq!(
        verifier.ask("/paid/x").pay(&payment).send().await.status,
        200
    );
    let replay = verdict(&verifier.ask("/paid/x").pay(&payment).send().await);
    assert_eq!(replay, (409, "payment_used".to_owned()));
    assert_eq!(facilitator.settles(), 0);
    assert_eq!(
        verifier
            .metric("x402_verifier_settle_never_routes", &[])
            .await,
        Some(1.0)
    );
    assert_eq!(
        verifier
            .metric("x402_verifier_charged_requests_total", &[])
            .await,
        Some(0.0)
    );
}

#[tokio::test]
async fn m8_a_settle_that_outlives_the_answer_is_booked_and_becomes_a_credit() {
    let facilitator = Scripted::start().await;
    let text = format!(
        "timeouts: {{answer: 2s, settleFloor: 1s}}\n{}",
        pricing(&facilitator.url())
    );
    let verifier = Verifier::start(&text).await;
    let challenge = verifier.challenge("/paid/x").await;
    facilitator.next_settle(Reply::settled().after(Duration::from_secs(4)));
    let wallet = Wallet::new(19);
    let started = Instant::now();
    let answer = verifier
        .ask("/paid/x")
        .pay(&wallet.pay_v2(&challenge))
        .send()
        .await;
    assert_eq!(verdict(&answer), (504, "settlement_unknown".to_owned()));
    assert!(started.elapsed() < Duration::from_secs(10));
    let booked = || async {
        verifier
            .metric("x402_verifier_charged_requests_total", &["report"])
            .await
            == Some(1.0)
    };
    verifier
        .eventually(Duration::from_secs(20), "the late settlement", booked)
        .await;
    let next = verifier
        .ask("/paid/x")
        .pay(&wallet.pay_v2(&challenge))
        .send()
        .await;
    assert_eq!(next.status, 200, "{}", next.text());
    assert_eq!(facilitator.settles(), 1);
}

#[tokio::test]
async fn m8_sigterm_twice_loses_no_settlement() {
    let (facilitator, mut verifier, challenge) = setup().await;
    facilitator.on_settle(Reply::settled().after(Duration::from_secs(2)));
    let payment = Wallet::new(20).pay_v2(&challenge);
    let ask = verifier.ask("/paid/x").pay(&payment);
    let waiting = tokio::spawn(async move { ask.send().await });
    let settling = || async { facilitator.settles() == 1 };
    verifier
        .eventually(Duration::from_secs(10), "the settle call", settling)
        .await;
    verifier.signal("TERM");
    tokio::time::sleep(Duration::from_millis(200)).await;
    verifier.signal("TERM");
    let answer = waiting.await.expect("no panic");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.headers["connection"], "close");
    assert_eq!(
        verifier.exit_code(Duration::from_secs(30)).await,
        Some(0),
        "{}",
        verifier.log()
    );
    verifier.crash_and_restart().await;
    let replay = verdict(&verifier.ask("/paid/x").pay(&payment).send().await);
    assert_eq!(replay, (409, "payment_used".to_owned()));
}

#[tokio::test]
async fn m12_no_room_is_busy_and_nothing_is_charged() {
    let facilitator = Scripted::start().await;
    let text = format!(
        "limits: {{permitsPerOffer: 1}}\n{}",
        pricing(&facilitator.url())
    );
    let verifier = Verifier::start(&text).await;
    let challenge = verifier.challenge("/paid/x").await;
    facilitator.next_settle(Reply::settled().after(Duration::from_secs(2)));
    let slow = verifier
        .ask("/paid/x")
        .pay(&Wallet::new(21).pay_v2(&challenge));
    let slow = tokio::spawn(async move { slow.send().await });
    let settling = || async { facilitator.settles() == 1 };
    verifier
        .eventually(Duration::from_secs(10), "the settle call", settling)
        .await;
    let payment = Wallet::new(22).pay_v2(&challenge);
    let busy = verifier.ask("/paid/x").pay(&payment).send().await;
    assert_eq!(verdict(&busy), (503, "busy".to_owned()));
    assert!(busy.headers.contains_key("retry-after"));
    assert_eq!(slow.await.expect("no panic").status, 200);
    let again = verifier.ask("/paid/x").pay(&payment).send().await;
    assert_eq!(
        again.status,
        200,
        "the same payment is still good: {}",
        again.text()
    );
}

#[tokio::test]
async fn m4_an_invalid_payment_is_refused_with_a_challenge_and_remembered() {
    let (facilitator, verifier, challenge) = setup().await;
    facilitator.on_verify(Reply::invalid("invalid_exact_evm_insufficient_balance"));
    let payment = Wallet::new(23).pay_v2(&challenge);
    for _ in 0..3 {
        let answer = verifier.ask("/paid/x").pay(&payment).send().await;
        assert_eq!(verdict(&answer), (402, "payment_invalid".to_owned()));
        let failure = &challenge_of(&answer)["extensions"]["paymentFailure"];
        assert_eq!(failure["reason"], "payment_invalid");
        assert!(
            failure["detail"]
                .as_str()
                .expect("text")
                .contains("balance")
        );
    }
    assert_eq!(facilitator.verifies(), 1, "M12: asked once");
}

#[tokio::test]
async fn m4_a_missing_allowance_is_412_and_a_used_nonce_409() {
    let (facilitator, verifier, challenge) = setup().await;
    facilitator.next_verify(Reply::invalid("permit2_allowance_required"));
    let answer = verifier
        .ask("/paid/x")
        .pay(&Wallet::new(24).pay_v2(&challenge))
        .send()
        .await;
    assert_eq!(
        verdict(&answer),
        (412, "permit2_allowance_required".to_owned())
    );
    assert!(answer.headers.contains_key("payment-required"));
    facilitator.next_verify(Reply::invalid("invalid_exact_evm_nonce_already_used"));
    let used = Wallet::new(25).pay_v2(&challenge);
    for time in ["first", "remembered"] {
        let answer = verifier.ask("/paid/x").pay(&used).send().await;
        assert_eq!(verdict(&answer), (409, "payment_used".to_owned()), "{time}");
        assert!(
            !answer.headers.contains_key("payment-required"),
            "R9: a conflict has no challenge ({time})"
        );
    }
}

#[tokio::test]
async fn a_refused_settlement_is_402_with_a_receipt_and_no_challenge() {
    let (facilitator, verifier, challenge) = setup().await;
    facilitator.next_settle(Reply::settle_failed("insufficient_funds", ""));
    let wallet = Wallet::new(26);
    let payment = wallet.pay_v2(&challenge);
    let answer = verifier.ask("/paid/x").pay(&payment).send().await;
    assert_eq!(verdict(&answer), (402, "settlement_rejected".to_owned()));
    assert!(!answer.headers.contains_key("payment-required"));
    assert!(answer.json().get("accepts").is_none());
    let receipt = header_json(&answer, "payment-response");
    assert_eq!(
        (&receipt["success"], &receipt["transaction"]),
        (&false.into(), &"".into())
    );
    let again = verifier.ask("/paid/x").pay(&payment).send().await;
    assert_eq!(
        again.status,
        200,
        "M3: released, so it may be claimed again: {}",
        again.text()
    );
}

#[tokio::test]
async fn m3_the_ledger_that_cannot_write_passes_nothing() {
    let (facilitator, verifier, challenge) = setup().await;
    let locker = std::process::Command::new("python3")
        .args(["-c", "import sqlite3,sys,time\nc=sqlite3.connect(sys.argv[1],timeout=5)\nc.isolation_level=None\nc.execute('BEGIN EXCLUSIVE')\nprint('locked',flush=True)\ntime.sleep(60)"])
        .arg(verifier.ledger())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3");
    let mut locker = Killed(locker);
    let mut line = String::new();
    let output = locker.0.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("a line");
    assert_eq!(line, "locked\n");
    let payment = Wallet::new(27).pay_v2(&challenge);
    let answer = verifier.ask("/paid/x").pay(&payment).send().await;
    assert_eq!(verdict(&answer), (503, "ledger_unavailable".to_owned()));
    assert_eq!(facilitator.settles(), 0);
    assert_eq!(
        verifier.ask("/free/x").send().await.status,
        200,
        "free paths need no ledger"
    );
    assert_eq!(
        verifier.admin("/readyz").await.status,
        200,
        "R2: readiness is not about it"
    );
    drop(locker);
    let again = || async { verifier.ask("/paid/x").pay(&payment).send().await.status == 200 };
    verifier
        .eventually(Duration::from_secs(15), "recovery without a restart", again)
        .await;
    assert_eq!(facilitator.settles(), 1);
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
