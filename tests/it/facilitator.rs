//! The facilitator client against a scripted facilitator and a hostile network: every row of the
//! fault table, what class it is, and how often the facilitator was asked.
//!
//! "Seen" counts requests that arrived. A settlement that was sent is never sent again (R9, R10).

mod network;
mod tls;

use crate::chaos::{Chaos, Mode};
use crate::scripted::{Greeting, Reply, Scripted};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use hyper_util::client::proxy::matcher::Matcher;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use x402_verifier::facilitator::{Client, ClientConfig};
use x402_verifier::gate::{Facilitator, Fault, FaultKind, SettleReply, Trace, VerifyReply};
use x402_verifier::x402::Endpoint;

const PAYER: &str = "0x857b06519E91e3A54538791bDbb0E22373e36b66";
const NONCE: &str = "0xf3746613c2d920b5fdabc0856f2aeb2d4f88ee6037b8cc5d04a71a4462f13480";
const TOKEN: &str = "Bearer sk-do-not-print";
const SIGNATURE: &str = "0x2d6a7588d6acca505cbf0d9a4a227e0c52c6c34008c8e8986a1283259764173608a2";

/// How a settle call ended.
#[derive(Debug, PartialEq, Eq)]
enum Class {
    Verdict,
    NotSent,
    Declined,
    Unknown,
}

/// A client without proxies and metrics.
fn client() -> Client {
    Client::with_proxies(ClientConfig::default(), Matcher::builder().build()).unwrap()
}

fn endpoint_at(base: &str) -> Arc<Endpoint> {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::AUTHORIZATION, HeaderValue::from_static(TOKEN));
    let supported_headers = HeaderMap::new();
    let (verify_headers, settle_headers) = (headers.clone(), headers);
    Arc::new(Endpoint {
        base: base.into(),
        verify_headers,
        settle_headers,
        supported_headers,
    })
}

fn endpoint_on(address: SocketAddr) -> Arc<Endpoint> {
    endpoint_at(&format!("http://{address}"))
}

/// A body as the gate sends it.
fn body() -> Bytes {
    let payment = json!({
        "x402Version": 2,
        "payload": {
            "signature": SIGNATURE,
            "authorization": { "from": PAYER, "nonce": NONCE },
        },
    });
    let requirement = json!({ "scheme": "exact", "network": "eip155:84532" });
    json!({ "x402Version": 2, "paymentPayload": payment, "paymentRequirements": requirement })
        .to_string()
        .into()
}

async fn verify_within(client: &Client, endpoint: &Arc<Endpoint>, limit: Duration) -> VerifyReply {
    client
        .verify(endpoint, body(), &Trace::default(), Instant::now() + limit)
        .await
}

async fn settle_within(client: &Client, endpoint: &Arc<Endpoint>, limit: Duration) -> SettleReply {
    client
        .settle(endpoint, body(), &Trace::default(), Instant::now() + limit)
        .await
}

async fn verify(client: &Client, endpoint: &Arc<Endpoint>) -> VerifyReply {
    verify_within(client, endpoint, PATIENT).await
}

async fn settle(client: &Client, endpoint: &Arc<Endpoint>) -> SettleReply {
    settle_within(client, endpoint, PATIENT).await
}

#[track_caller]
fn fault(reply: VerifyReply) -> Fault {
    match reply {
        VerifyReply::Fault(fault) => fault,
        VerifyReply::Verdict(verdict) => panic!("a verdict: {verdict:?}"),
    }
}

/// Class and fault; a verdict has none.
fn class(reply: SettleReply) -> (Class, Option<Fault>) {
    match reply {
        SettleReply::Verdict(_) => (Class::Verdict, None),
        SettleReply::NotSent(fault) => (Class::NotSent, Some(fault)),
        SettleReply::Declined(fault) => (Class::Declined, Some(fault)),
        SettleReply::Unknown(fault) => (Class::Unknown, Some(fault)),
    }
}

#[track_caller]
fn assert_valid(reply: VerifyReply) {
    match reply {
        VerifyReply::Verdict(verdict) => assert!(verdict.is_valid),
        VerifyReply::Fault(fault) => panic!("{fault:?}"),
    }
}

/// Nothing that is secret, and nothing long or unprintable (R13).
#[track_caller]
fn assert_presentable(fault: &Fault) {
    let text = format!("{fault:?}").to_lowercase();
    for secret in [
        "sk-do-not-print",
        SIGNATURE.trim_start_matches("0x"),
        NONCE.trim_start_matches("0x"),
        &PAYER.trim_start_matches("0x").to_lowercase(),
    ] {
        assert!(!text.contains(secret), "{text}");
    }
    assert!(
        !fault.detail.is_empty() && fault.detail.chars().count() <= 200,
        "{text}"
    );
    assert!(!fault.detail.chars().any(char::is_control), "{text}");
}

/// Long enough to never be the reason.
const PATIENT: Duration = Duration::from_secs(20);
/// Short enough to wait for.
const BRIEF: Duration = Duration::from_millis(300);
/// A deadline may be overrun by this on a busy machine.
const SLACK: u32 = 5;

#[tokio::test]
async fn a_verify_verdict_counts_whatever_its_status_m4() {
    let (facilitator, client) = (Scripted::start().await, client());
    let endpoint = endpoint_at(&facilitator.url());
    for status in [200, 302, 400, 401, 403, 412, 429, 500, 503] {
        facilitator.on_verify(Reply::valid_as(PAYER).status(status));
        let VerifyReply::Verdict(verdict) = verify(&client, &endpoint).await else {
            panic!("no verdict from {status}")
        };
        assert!(verdict.is_valid);
        assert_eq!(verdict.payer.as_deref(), Some(PAYER));

        facilitator.on_verify(Reply::invalid("insufficient_funds").status(status));
        let VerifyReply::Verdict(verdict) = verify(&client, &endpoint).await else {
            panic!("no verdict from {status}")
        };
        assert!(!verdict.is_valid);
        assert_eq!(
            verdict.invalid_reason.as_deref(),
            Some("insufficient_funds")
        );
    }
    assert_eq!(facilitator.verifies(), 18);
}

#[tokio::test]
async fn a_settle_verdict_counts_whatever_its_status_m4() {
    let (facilitator, client) = (Scripted::start().await, client());
    let endpoint = endpoint_at(&facilitator.url());
    for status in [200, 302, 400, 401, 403, 412, 429, 500, 503] {
        facilitator.on_settle(Reply::settled_in("0xabc").status(status));
        let SettleReply::Verdict(verdict) = settle(&client, &endpoint).await else {
            panic!("no verdict from {status}")
        };
        assert!(verdict.success);
        assert_eq!(verdict.transaction, "0xabc");
        assert_eq!(verdict.network, "eip155:84532");
        assert_eq!(verdict.payer.as_deref(), Some(PAYER));

        let failed = Reply::settle_failed("invalid_exact_evm_transaction_failed", "");
        facilitator.on_settle(failed.status(status));
        let SettleReply::Verdict(verdict) = settle(&client, &endpoint).await else {
            panic!("no verdict from {status}")
        };
        assert!(!verdict.success);
        let reason = verdict.error_reason.as_deref();
        assert_eq!(reason, Some("invalid_exact_evm_transaction_failed"));
    }
    assert_eq!(
        facilitator.settles_of(&NONCE.to_uppercase().replace("0X", "0x")),
        18
    );
}

/// Answers without a verdict, their kind, and their class for settle.
fn answers_without_verdict() -> Vec<(&'static str, Reply, FaultKind, Class)> {
    use FaultKind::{Error, RateLimited};
    let echo = format!("no access with {TOKEN} for {SIGNATURE}");
    vec![
        ("200 HTML", Reply::html(200), Error, Class::Unknown),
        ("200 empty", Reply::text(200, ""), Error, Class::Unknown),
        (
            "200 half JSON",
            Reply::text(200, "{\"isValid\":tr"),
            Error,
            Class::Unknown,
        ),
        (
            "200 other JSON",
            Reply::json(200, json!({ "ok": true })),
            Error,
            Class::Unknown,
        ),
        (
            "200 text verdict",
            Reply::json(200, json!({ "isValid": "true", "success": "true" })),
            Error,
            Class::Unknown,
        ),
        (
            "302",
            Reply::text(302, "").header("Location", "/elsewhere"),
            Error,
            Class::Unknown,
        ),
        (
            "308",
            Reply::text(308, "").header("Location", "/elsewhere"),
            Error,
            Class::Unknown,
        ),
        (
            "400",
            Reply::json(400, json!({ "error": "bad request" })),
            Error,
            Class::Unknown,
        ),
        ("401", Reply::text(401, &echo), Error, Class::Declined),
        ("403", Reply::html(403), Error, Class::Declined),
        ("404", Reply::html(404), Error, Class::Unknown),
        ("407", Reply::text(407, &echo), Error, Class::Unknown),
        ("429", Reply::text(429, &echo), RateLimited, Class::Declined),
        ("500", Reply::text(500, &echo), Error, Class::Unknown),
        ("502", Reply::html(502), Error, Class::Unknown),
        ("503", Reply::text(503, ""), Error, Class::Unknown),
        ("endless body", Reply::endless(), Error, Class::Unknown),
        ("endless head", Reply::endless_head(), Error, Class::Unknown),
        (
            "truncated verdict",
            Reply::settled().truncated(),
            Error,
            Class::Unknown,
        ),
        (
            "truncated 401",
            Reply::text(401, &echo).truncated(),
            Error,
            Class::Unknown,
        ),
    ]
}

#[tokio::test]
async fn verify_without_a_verdict_is_an_error_and_is_not_repeated() {
    for (name, reply, kind, _) in answers_without_verdict() {
        let (facilitator, client) = (Scripted::start().await, client());
        facilitator.on_verify(reply);
        let fault = fault(verify(&client, &endpoint_at(&facilitator.url())).await);
        assert_eq!(fault.kind, kind, "{name}: {fault:?}");
        assert_eq!(facilitator.verifies(), 1, "{name}");
        assert_presentable(&fault);
    }
}

#[tokio::test]
async fn settle_without_a_verdict_is_unknown_but_for_401_403_429_and_is_never_repeated_m4_r9() {
    for (name, reply, kind, expected) in answers_without_verdict() {
        let (facilitator, client) = (Scripted::start().await, client());
        facilitator.on_settle(reply);
        let (class, fault) = class(settle(&client, &endpoint_at(&facilitator.url())).await);
        let fault = fault.expect("no verdict was given");
        assert_eq!((class, fault.kind), (expected, kind), "{name}: {fault:?}");
        assert_eq!(facilitator.settles(), 1, "{name}");
        assert_presentable(&fault);
    }
}

#[tokio::test]
async fn retry_after_of_a_429_is_passed_on_bounded() {
    let (facilitator, client) = (Scripted::start().await, client());
    let endpoint = endpoint_at(&facilitator.url());
    for (text, seconds) in [("7", Some(7)), ("1000000", Some(300)), ("later", None)] {
        facilitator.on_verify(Reply::text(429, "").header("Retry-After", text));
        let fault = fault(verify(&client, &endpoint).await);
        assert_eq!(fault.kind, FaultKind::RateLimited);
        assert_eq!(fault.retry_after, seconds.map(Duration::from_secs));
    }
}

#[tokio::test]
async fn a_connection_lost_after_sending_repeats_verify_once_and_settle_never() {
    let cases = [("close", Reply::close()), ("reset", Reply::reset())];
    for (name, reply) in cases
        .into_iter()
        .chain([("reset on head", Reply::reset_on_head())])
    {
        let (facilitator, client) = (Scripted::start().await, client());
        let endpoint = endpoint_at(&facilitator.url());
        facilitator.on_verify(reply.clone());
        facilitator.on_settle(reply.clone());

        let lost = fault(verify(&client, &endpoint).await);
        assert_eq!(lost.kind, FaultKind::Unreachable, "{name}: {lost:?}");
        assert_eq!(facilitator.verifies(), 2, "{name}");
        assert_presentable(&lost);

        let (class, lost) = class(settle(&client, &endpoint).await);
        let lost = lost.expect("no verdict was given");
        assert_eq!(
            (class, lost.kind),
            (Class::Unknown, FaultKind::Unreachable),
            "{name}"
        );
        assert_eq!(facilitator.settles(), 1, "{name}");
        assert_presentable(&lost);

        facilitator.on_verify(Reply::valid());
        facilitator.next_verify(reply);
        assert_valid(verify(&client, &endpoint).await);
        assert_eq!(facilitator.verifies(), 4, "{name}");
    }
}

#[tokio::test]
async fn a_deadline_after_sending_is_a_timeout_asked_once_and_an_unknown_settlement() {
    for reply in [
        Reply::hang(),
        Reply::hang_in_body(),
        Reply::valid().after(PATIENT),
    ] {
        let (facilitator, client) = (Scripted::start().await, client());
        let endpoint = endpoint_at(&facilitator.url());
        facilitator.on_verify(reply.clone());
        facilitator.on_settle(reply);
        let started = Instant::now();

        let late = fault(verify_within(&client, &endpoint, BRIEF).await);
        assert_eq!(late.kind, FaultKind::Timeout, "{late:?}");
        assert_eq!(facilitator.verifies(), 1);

        let (class, late) = class(settle_within(&client, &endpoint, BRIEF).await);
        assert_eq!(class, Class::Unknown);
        assert_eq!(late.expect("no verdict").kind, FaultKind::Timeout);
        assert_eq!(facilitator.settles(), 1);
        assert!(started.elapsed() >= BRIEF * 2 && started.elapsed() < BRIEF * 2 * SLACK);
    }
}

#[tokio::test]
async fn a_slow_answer_within_the_deadline_is_an_answer() {
    let (facilitator, client) = (Scripted::start().await, client());
    facilitator.on_settle(Reply::settled().after(BRIEF));
    let (class, _) = class(settle(&client, &endpoint_at(&facilitator.url())).await);
    assert_eq!((class, facilitator.settles()), (Class::Verdict, 1));
}

#[tokio::test]
async fn endless_answers_are_left_after_their_bound() {
    // What the sockets of both ends may hold beyond what was read.
    const SOCKETS: u64 = 12 * 1024 * 1024;
    for reply in [Reply::endless(), Reply::endless_head()] {
        let (facilitator, client) = (Scripted::start().await, client());
        facilitator.on_settle(reply);
        let started = Instant::now();
        let (class, _) = class(settle(&client, &endpoint_at(&facilitator.url())).await);
        assert_eq!(class, Class::Unknown);
        assert!(
            started.elapsed() < PATIENT / 2,
            "the size ended it, not the deadline"
        );
        assert!(facilitator.written() < SOCKETS, "{}", facilitator.written());
    }
}

#[tokio::test]
async fn a_large_verdict_within_the_bound_is_read_and_one_beyond_is_not() {
    let (facilitator, client) = (Scripted::start().await, client());
    let endpoint = endpoint_at(&facilitator.url());
    let padded = |size| json!({ "isValid": true, "payer": PAYER, "padding": "x".repeat(size) });
    facilitator.on_verify(Reply::json(200, padded(1_000_000)));
    assert_valid(verify(&client, &endpoint).await);
    facilitator.on_verify(Reply::json(200, padded(1_050_000)));
    assert_eq!(
        fault(verify(&client, &endpoint).await).kind,
        FaultKind::Error
    );
}

#[tokio::test]
async fn the_request_is_what_the_contract_says() {
    let (facilitator, client) = (Scripted::start().await, client());
    // A trailing slash in the base does not double.
    let endpoint = endpoint_at(&format!("{}/x402/", facilitator.url()));
    assert_valid(verify(&client, &endpoint).await);
    let (class, _) = class(settle(&client, &endpoint).await);
    assert_eq!(class, Class::Verdict);
    let calls = facilitator.calls();
    assert_eq!(calls[0].path, "/x402/verify");
    assert_eq!(calls[1].path, "/x402/settle");
    for call in &calls {
        assert_eq!(call.headers["content-type"], "application/json");
        let agent = call.headers["user-agent"].to_str().unwrap();
        assert!(agent.starts_with("x402-verifier/"), "{agent}");
        assert_eq!(call.headers["authorization"], TOKEN);
        assert_eq!(
            call.headers["host"],
            facilitator.addr().to_string().as_str()
        );
        assert_eq!(call.body.to_string().into_bytes(), body(), "byte for byte");
        assert_eq!((call.payer(), call.nonce()), (Some(PAYER), Some(NONCE)));
    }
}

#[tokio::test]
async fn two_facilitators_and_two_credentials_share_no_connection_r13() {
    let (one, other, client) = (Scripted::start().await, Scripted::start().await, client());
    let mine = endpoint_at(&one.url());
    let mut theirs = Endpoint::clone(&mine);
    let token = HeaderValue::from_static("Bearer another");
    theirs
        .verify_headers
        .insert(http::header::AUTHORIZATION, token);
    let theirs = Arc::new(theirs);
    for _ in 0..5 {
        assert_valid(verify(&client, &mine).await);
        assert_valid(verify(&client, &theirs).await);
        assert_valid(verify(&client, &endpoint_at(&other.url())).await);
    }
    assert_eq!((one.connections(), other.connections()), (2, 1));
    for call in one.calls() {
        let first = call.connection == 1;
        assert_eq!(
            call.headers["authorization"] == TOKEN,
            first,
            "one credential each"
        );
    }
}

#[tokio::test]
async fn connections_are_reused_but_not_after_idling_as_long_as_servers_keep_them() {
    let (facilitator, client) = (Scripted::start().await, client());
    let endpoint = endpoint_at(&facilitator.url());
    for _ in 0..3 {
        assert_valid(verify(&client, &endpoint).await);
    }
    assert_eq!(facilitator.connections(), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(4_500)).await;
    tokio::time::resume();
    assert_valid(verify(&client, &endpoint).await);
    assert_eq!(facilitator.connections(), 2, "Node closes after 5 s");
}

#[tokio::test]
async fn a_dropped_call_ends_its_request() {
    let (facilitator, client) = (Scripted::start().await, client());
    let endpoint = endpoint_at(&facilitator.url());
    facilitator.next_verify(Reply::hang());
    assert!(
        tokio::time::timeout(BRIEF, verify(&client, &endpoint))
            .await
            .is_err()
    );
    // The connection of the dropped call is not in the pool: its answer would be taken for another.
    assert_valid(verify(&client, &endpoint).await);
    let connections: Vec<_> = facilitator.calls().iter().map(|c| c.connection).collect();
    assert_eq!(connections, [1, 2]);
}

#[tokio::test]
async fn a_facilitator_that_hangs_does_not_slow_another() {
    let (slow, quick, client) = (Scripted::start().await, Scripted::start().await, client());
    slow.on_verify(Reply::hang());
    let (slow_at, quick_at) = (endpoint_at(&slow.url()), endpoint_at(&quick.url()));
    let hanging = verify_within(&client, &slow_at, BRIEF * SLACK);
    let answered = async {
        for _ in 0..20 {
            assert_valid(verify_within(&client, &quick_at, BRIEF * SLACK).await);
        }
        Instant::now()
    };
    let ((late, ended), answered) =
        tokio::join!(async { (hanging.await, Instant::now()) }, answered);
    assert_eq!(fault(late).kind, FaultKind::Timeout);
    assert!(answered < ended);
}

#[tokio::test]
async fn a_restarted_facilitator_is_found_again_and_a_dead_pooled_connection_costs_no_settlement() {
    let client = client();
    let mut facilitator = Scripted::start().await;
    let endpoint = endpoint_at(&facilitator.url());
    for round in 0..10 {
        assert_valid(verify(&client, &endpoint).await);
        facilitator = Scripted::start_on(facilitator.stop().await).await;
        // Wait for the end of the old connection to arrive, as it has long before a real restart is
        // over.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let (class, fault) = class(settle(&client, &endpoint).await);
        assert_eq!(class, Class::Verdict, "round {round}: {fault:?}");
        assert_eq!(facilitator.settles(), 1);
    }
}

#[tokio::test]
async fn keep_alive_promises_that_are_broken_never_repeat_a_settlement_that_arrived() {
    let (facilitator, client) = (Scripted::start().await, client());
    let endpoint = endpoint_at(&facilitator.url());
    facilitator.on_verify(Reply::valid().then_close());
    facilitator.on_settle(Reply::settled().then_close());
    let mut answered = 0;
    for _ in 0..200 {
        assert_valid(verify(&client, &endpoint).await);
        match class(settle(&client, &endpoint).await) {
            (Class::Verdict, _) => answered += 1,
            (Class::Unknown | Class::NotSent, fault) => {
                assert_eq!(fault.expect("no verdict").kind, FaultKind::Unreachable);
            }
            (Class::Declined, fault) => panic!("{fault:?}"),
        }
    }
    assert_eq!(
        facilitator.settles(),
        answered,
        "each that arrived was answered once"
    );
    assert!(
        answered >= 190,
        "{answered} of 200: the race should be rare"
    );
}

#[tokio::test]
async fn a_queue_and_a_function_script_single_calls() {
    let (facilitator, client) = (Scripted::start().await, client());
    let endpoint = endpoint_at(&facilitator.url());
    facilitator.verify_with(|call| match call.nonce() {
        Some(NONCE) => Reply::valid(),
        _ => Reply::invalid("unknown nonce"),
    });
    facilitator.settle_with(|call| Reply::settled_in(&format!("0x{}", call.sequence)));
    facilitator.next_settle(Reply::settle_failed("settlement_pending", "0xfeed"));
    assert_valid(verify(&client, &endpoint).await);
    let SettleReply::Verdict(pending) = settle(&client, &endpoint).await else {
        panic!()
    };
    assert_eq!(
        (pending.success, pending.transaction.as_str()),
        (false, "0xfeed")
    );
    let SettleReply::Verdict(done) = settle(&client, &endpoint).await else {
        panic!()
    };
    assert_eq!((done.success, done.transaction.as_str()), (true, "0x3"));
}
