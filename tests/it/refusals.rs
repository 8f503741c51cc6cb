//! Every refusal that `/verify` can give without anybody being asked: what the buyer and the
//! operator see of it. The refusals of facilitators and of money are in `faults` and `money`.
//!
//! A row of a table here is a situation, its status and its reason code; [`refused`] checks all the
//! rest of what design section 5 and the surface page promise of such an answer.

use crate::harness::{Ask, SELLER, Verifier, Wallet, challenge_of, verdict};
use crate::parts::http::{self, Answer};
use crate::parts::process::{Process, supervised};
use crate::parts::{free_port, scratch_dir};
use crate::scripted::{Reply, Scripted};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One situation, what is asked in it, and what is answered.
type Row = (&'static str, Ask, u16, &'static str);

/// One route of every gate, a broken one, and one that lets preflights through.
fn shop(facilitator: &str) -> String {
    format!(
        "chain: base-sepolia\n\
         wallet: \"{SELLER}\"\n\
         facilitatorURL: {facilitator}\n\
         routes:\n\
         - {{pattern: \"/paid/*\", price: \"0.001\", offerNamespace: shop, offerName: report}}\n\
         - {{pattern: \"/free/*\", gate: free, offerNamespace: shop, offerName: report}}\n\
         - {{pattern: \"/cors/*\", price: \"0.001\", preflight: pass, offerNamespace: shop, offerName: cors}}\n\
         - {{pattern: \"/club/*\", gate: auth, offerNamespace: shop, offerName: club}}\n\
         - {{pattern: \"/broken/*\", price: \"0,01\", offerNamespace: shop, offerName: broken}}\n"
    )
}

async fn open_shop(settings: &str) -> (Scripted, Verifier) {
    let facilitator = Scripted::start().await;
    let text = format!("{settings}\n{}", shop(&facilitator.url()));
    let verifier = Verifier::start(&text).await;
    (facilitator, verifier)
}

/// Checks everything that is promised of a refusal; `challenge` says whether it asks for money.
fn refused(name: &str, answer: &Answer, status: u16, reason: &str, challenge: bool) {
    let text = answer.text();
    let seen = (status, reason.to_owned());
    assert_eq!(verdict(answer), seen, "{name}: {text}");
    assert_eq!(answer.headers["content-type"], "application/json", "{name}");
    assert_eq!(answer.headers["cache-control"], "no-store", "{name}");
    assert_eq!(answer.headers["vary"], "Accept", "{name}");
    let body = answer.json();
    assert_eq!(body["reason"], reason, "{name}: {text}");
    let sentence = body["error"].as_str().unwrap_or_default();
    assert!(sentence.starts_with(char::is_uppercase), "{name}: {text}");
    let ours_to_mend = (500..=504).contains(&status) || reason == "payment_in_use";
    assert_eq!(body["retriable"], ours_to_mend, "{name}: {text}");
    let keys: BTreeSet<&str> = body
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    let mut known = BTreeSet::from(["error", "reason", "detail", "hint", "retriable"]);
    if challenge {
        known.extend(["x402Version", "accepts"]);
        assert!(keys.contains("x402Version") && keys.contains("accepts"));
        let offer = challenge_of(answer);
        assert_eq!(offer["x402Version"], 2, "{name}");
        assert_eq!(offer["accepts"][0]["scheme"], "exact", "{name}");
    } else {
        assert!(!answer.headers.contains_key("payment-required"), "{name}");
    }
    assert!(keys.is_subset(&known), "{name}: {text}");
    for pass in ["authorization", "x-payment-payer", "x-verified-wallet"] {
        assert!(!answer.headers.contains_key(pass), "{name}: {pass}");
    }
    // A receipt is only for what was sent to be settled.
    for receipt in ["payment-response", "x-payment-response"] {
        let there = answer.headers.contains_key(receipt);
        assert_eq!(there, reason == "settlement_rejected", "{name}: {receipt}");
    }
}

async fn each(rows: Vec<Row>) {
    for (name, ask, status, reason) in rows {
        let challenge = matches!(status, 402) || reason == "invalid_payment_header";
        refused(name, &ask.send().await, status, reason, challenge);
    }
}

#[tokio::test]
async fn r1_forwarded_headers_that_do_not_name_one_request_are_refused() {
    let (_facilitator, verifier) = open_shop("").await;
    let paid = || verifier.ask("/paid/x");
    let free = || verifier.ask("/free/x");
    let (missing, ambiguous) = ("missing_forwarded_uri", "ambiguous_forwarded_headers");
    each(vec![
        ("no URI", paid().without("x-forwarded-uri"), 403, missing),
        (
            "empty URI",
            paid().header("x-forwarded-uri", ""),
            403,
            missing,
        ),
        ("no host", free().without("x-forwarded-host"), 403, missing),
        (
            "two URIs",
            free().also("x-forwarded-uri", "/paid/x"),
            403,
            ambiguous,
        ),
        (
            "the same twice",
            free().also("x-forwarded-uri", "/free/x"),
            403,
            ambiguous,
        ),
        (
            "alias _",
            free().also("X_Forwarded_Uri", "/paid/x"),
            403,
            ambiguous,
        ),
        (
            "alias .",
            free().also("X.Forwarded.Uri", "/paid/x"),
            403,
            ambiguous,
        ),
        (
            "mixed alias",
            free().also("x-forwarded_uri", "/paid/x"),
            403,
            ambiguous,
        ),
        (
            "alias alone",
            free()
                .without("x-forwarded-uri")
                .also("X_Forwarded_Uri", "/free/x"),
            403,
            ambiguous,
        ),
        (
            "alias of the method",
            paid().also("X_Forwarded_Method", "OPTIONS"),
            403,
            ambiguous,
        ),
        (
            "alias of the host",
            paid().also("X_Forwarded_Host", "a.example"),
            403,
            ambiguous,
        ),
        (
            "alias of the scheme",
            paid().also("X_Forwarded_Proto", "http"),
            403,
            ambiguous,
        ),
        (
            "two hosts",
            free().also("x-forwarded-host", "b.example"),
            403,
            ambiguous,
        ),
        (
            "a list of hosts",
            free().header("x-forwarded-host", "a.example, b.example"),
            403,
            ambiguous,
        ),
        (
            "no host name",
            free().header("x-forwarded-host", "a b"),
            403,
            ambiguous,
        ),
        (
            "a URL as host",
            free().header("x-forwarded-host", "https://a.example/"),
            403,
            ambiguous,
        ),
        (
            "two methods",
            free().also("x-forwarded-method", "POST"),
            403,
            ambiguous,
        ),
        (
            "two schemes",
            free().also("x-forwarded-proto", "http"),
            403,
            ambiguous,
        ),
        (
            "a list of schemes",
            free().header("x-forwarded-proto", "https,http"),
            403,
            ambiguous,
        ),
    ])
    .await;
    for (class, least, most) in [
        ("missing_header", 3.0, 3.0),
        ("aliased_header", 7.0, 7.0),
        ("doubled_header", 7.0, 9.0),
        ("peer", 0.0, 0.0),
    ] {
        let class = format!("class=\"{class}\"");
        let name = "x402_verifier_untrusted_requests_total";
        let count = verifier.metric(name, &[&class]).await;
        assert!(
            count >= Some(least) && count <= Some(most),
            "{class}: {count:?}"
        );
    }
}

#[tokio::test]
async fn r1_addresses_and_targets_without_one_meaning_are_refused() {
    let (_facilitator, verifier) = open_shop("").await;
    let free = || verifier.ask("/free/x");
    let at = |path: &str| verifier.ask("/free/x").address(path);
    let (unknown, ambiguous) = ("unknown_offer", "ambiguous_target");
    each(vec![
        ("half a pin", at("/verify/shop"), 403, unknown),
        ("a slash and no pin", at("/verify/"), 403, unknown),
        ("an empty name", at("/verify/shop/"), 403, unknown),
        ("an empty namespace", at("/verify//report"), 403, unknown),
        ("three segments", at("/verify/shop/report/x"), 403, unknown),
        (
            "a slash behind the pin",
            at("/verify/shop/report/"),
            403,
            unknown,
        ),
        ("nobody's pin", at("/verify/shop/nobody"), 403, unknown),
        (
            "another's namespace",
            at("/verify/pohs/report"),
            403,
            unknown,
        ),
        ("an encoded pin", at("/verify/shop%2Freport"), 403, unknown),
        (
            "a pin in other case",
            at("/verify/Shop/Report"),
            403,
            unknown,
        ),
        (
            "a secret where there is none",
            at("/verify/~0123456789abcdef"),
            403,
            unknown,
        ),
        (
            "a secret and a pin",
            at("/verify/~0123456789abcdef/shop/report"),
            403,
            unknown,
        ),
        ("no leading slash", verifier.ask("free/x"), 400, ambiguous),
        ("a fragment", verifier.ask("/free/x#y"), 400, ambiguous),
        ("a bad escape", verifier.ask("/free/%zz"), 400, ambiguous),
        ("an encoded NUL", verifier.ask("/free/%00"), 400, ambiguous),
        (
            "an encoded line end",
            verifier.ask("/free/%0d%0a"),
            400,
            ambiguous,
        ),
        (
            "overlong UTF-8",
            verifier.ask("/free/%c0%af"),
            400,
            ambiguous,
        ),
        (
            "out of free by dots",
            verifier.ask("/free/../paid/x"),
            400,
            ambiguous,
        ),
        (
            "out of free by encoded dots",
            verifier.ask("/free/%2e%2e/paid/x"),
            400,
            ambiguous,
        ),
        (
            "another origin",
            verifier.ask("http://other.example/free/x"),
            400,
            ambiguous,
        ),
        ("nothing there", verifier.ask("/nothing"), 403, "no_route"),
        (
            "a prefix that is no segment",
            verifier.ask("/paidx"),
            403,
            "no_route",
        ),
        ("sign in", verifier.ask("/club/x"), 401, "sign_in_required"),
        (
            "broken",
            verifier.ask("/broken/x"),
            503,
            "offer_misconfigured",
        ),
        (
            "broken, at its prefix",
            verifier.ask("/broken"),
            503,
            "offer_misconfigured",
        ),
        (
            "broken, pinned",
            at("/verify/shop/broken"),
            503,
            "offer_misconfigured",
        ),
        ("not ours", at("/"), 404, "no_such_endpoint"),
        ("nearly ours", at("/verifyx"), 404, "no_such_endpoint"),
        ("upper case", at("/VERIFY"), 404, "no_such_endpoint"),
        (
            "admin on the traffic port",
            at("/metrics"),
            404,
            "no_such_endpoint",
        ),
        (
            "readiness on the traffic port",
            at("/readyz"),
            404,
            "no_such_endpoint",
        ),
    ])
    .await;
    // R3: the broken route harmed no other, and a sign-in is asked for as HTTP asks for it.
    assert_eq!(free().send().await.status, 200);
    assert_eq!(verifier.ask("/paid/x").send().await.status, 402);
    let sign_in = verifier.ask("/club/x").send().await;
    assert!(sign_in.headers.contains_key("www-authenticate"));
    let missing = verifier.ask("/x").without("x-forwarded-uri").send().await;
    assert!(
        missing.json()["hint"]
            .as_str()
            .is_some_and(|hint| hint.contains("forwardAuth"))
    );
}

#[tokio::test]
async fn r1_every_method_is_gated_and_free_paths_name_nobody() {
    let (facilitator, verifier) = open_shop("").await;
    for method in [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
        "TRACE",
        "CONNECT",
        "BREW",
        "get",
        "",
        "GET,OPTIONS",
    ] {
        let answer = verifier.ask("/paid/x").method(method).send().await;
        refused(method, &answer, 402, "payment_required", true);
        let free = verifier.ask("/free/x").method(method).send().await;
        assert_eq!(free.status, 200, "{method}");
    }
    let nameless = verifier.ask("/paid/x").without("x-forwarded-method");
    refused(
        "no method",
        &nameless.send().await,
        402,
        "payment_required",
        true,
    );
    // The method of the auth call itself is the ingress's affair.
    for method in ["HEAD", "POST", "DELETE"] {
        let call = ::http::Request::builder()
            .method(method)
            .uri(verifier.url("/verify"))
            .header("x-forwarded-uri", "/paid/x")
            .header("x-forwarded-host", "shop.example")
            .body(Full::<Bytes>::default())
            .expect("a request");
        let answer = http::send(call).await.expect("the verifier answers");
        assert_eq!(
            verdict(&answer),
            (402, "payment_required".to_owned()),
            "{method}"
        );
    }
    let free = verifier
        .ask("/free/x")
        .header("x-payment-payer", "0xforged")
        .header("authorization", "Bearer of-the-client")
        .header("x-payment", "nonsense, and not read")
        .send()
        .await;
    assert_eq!(free.status, 200, "{}", free.text());
    assert_eq!(free.headers["x-payment-payer"], "");
    assert_eq!(free.headers["x-verified-wallet"], "");
    assert_eq!(free.headers["cache-control"], "no-store");
    assert!(!free.headers.contains_key("authorization"));
    assert!(facilitator.calls().is_empty());
}

#[tokio::test]
async fn a_preflight_is_gated_unless_the_route_says_pass_and_then_strictly() {
    let (facilitator, verifier) = open_shop("").await;
    let preflight = |target: &str| {
        verifier
            .ask(target)
            .method("OPTIONS")
            .header("origin", "https://app.example")
            .header("access-control-request-method", "POST")
    };
    refused(
        "by default",
        &preflight("/paid/x").send().await,
        402,
        "payment_required",
        true,
    );
    let passed = preflight("/cors/x").send().await;
    assert_eq!(passed.status, 200, "{}", passed.text());
    assert_eq!(passed.headers["x-payment-payer"], "");
    let pinned = preflight("/cors/x").pinned("shop", "cors").send().await;
    assert_eq!(pinned.status, 200);
    let cors = || preflight("/cors/x");
    each(vec![
        (
            "no origin",
            cors().without("origin"),
            402,
            "payment_required",
        ),
        (
            "no wish",
            cors().without("access-control-request-method"),
            402,
            "payment_required",
        ),
        (
            "another method",
            cors().method("GET"),
            402,
            "payment_required",
        ),
        (
            "no method",
            cors().without("x-forwarded-method"),
            402,
            "payment_required",
        ),
        (
            "lower case",
            cors().method("options"),
            402,
            "payment_required",
        ),
        (
            "override",
            cors().header("x-http-method-override", "POST"),
            402,
            "payment_required",
        ),
        (
            "other override",
            cors().header("x-method-override", "POST"),
            402,
            "payment_required",
        ),
        (
            "third override",
            cors().header("x-http-method", "POST"),
            402,
            "payment_required",
        ),
        (
            "a payment",
            cors().header("x-payment", "e30="),
            400,
            "invalid_payment_header",
        ),
    ])
    .await;
    for body in ["Content-Length: 4", "Transfer-Encoding: chunked"] {
        let mut call = cors().raw("shop.example");
        call.truncate(call.len() - 2);
        let tail = format!("{body}\r\nConnection: close\r\n\r\n");
        call.extend_from_slice(tail.as_bytes());
        call.extend_from_slice(if body.starts_with('C') {
            b"body"
        } else {
            b"4\r\nbody\r\n0\r\n\r\n"
        });
        let answer = exchange(&verifier, &call).await;
        assert!(answer.starts_with("HTTP/1.1 402 "), "{body}: {answer}");
    }
    assert!(facilitator.calls().is_empty());
}

/// Raw bytes to the traffic port, and everything that comes back.
async fn exchange(verifier: &Verifier, call: &[u8]) -> String {
    let url = verifier.url("");
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(call).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_payment_header_that_cannot_be_read_is_400_with_a_challenge() {
    let (facilitator, verifier) = open_shop("").await;
    let challenge = verifier.challenge("/paid/x").await;
    let wallet = Wallet::new(31);
    let good = wallet.pay_v2(&challenge);
    let unpaid = verifier.ask("/paid/x").send().await;
    let v1 = STANDARD.encode(wallet.pay_v1(&unpaid.json()).to_string());
    let v2 = STANDARD.encode(good.to_string());
    let paid = || verifier.ask("/paid/x");
    let json = |value: &Value| STANDARD.encode(value.to_string());
    let with = |field: &str, value: Value| {
        let mut changed = good.clone();
        changed[field] = value;
        json(&changed)
    };
    let doubled_key = good.to_string().replacen('{', "{\"x402Version\":2,", 1);
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let rows = vec![
        ("empty", paid().header("payment-signature", "")),
        ("not base64", paid().header("payment-signature", "%%%")),
        ("not text", paid().header("payment-signature", "/////w==")),
        (
            "not JSON",
            paid().header("payment-signature", &STANDARD.encode("pay")),
        ),
        (
            "no object",
            paid().header("payment-signature", &STANDARD.encode("[]")),
        ),
        (
            "nothing in it",
            paid().header("payment-signature", &STANDARD.encode("{}")),
        ),
        (
            "too deep",
            paid().header("payment-signature", &STANDARD.encode(deep)),
        ),
        (
            "sent twice",
            paid()
                .header("payment-signature", &v2)
                .also("payment-signature", &v2),
        ),
        (
            "v1 twice",
            paid().header("x-payment", &v1).also("x-payment", &v1),
        ),
        (
            "both headers",
            paid()
                .header("payment-signature", &v2)
                .also("x-payment", &v1),
        ),
        (
            "too large",
            paid().header("payment-signature", &"A".repeat(20_000)),
        ),
        (
            "v1 in the v2 header",
            paid().header("payment-signature", &v1),
        ),
        (
            "version 3",
            paid().header("payment-signature", &with("x402Version", json!(3))),
        ),
        (
            "version as text",
            paid().header("payment-signature", &with("x402Version", json!("2"))),
        ),
        (
            "no payload",
            paid().header("payment-signature", &with("payload", Value::Null)),
        ),
        (
            "one key twice",
            paid().header("payment-signature", &STANDARD.encode(doubled_key)),
        ),
    ];
    for (name, ask) in rows {
        let answer = ask.send().await;
        refused(name, &answer, 400, "invalid_payment_header", true);
        let failure = &challenge_of(&answer)["extensions"]["paymentFailure"];
        assert_eq!(failure["reason"], "invalid_payment_header", "{name}");
        let detail = failure["detail"].as_str().unwrap_or_default();
        assert!(detail.len() > 10, "{name}: what is wrong: {detail:?}");
        assert!(
            !answer
                .text()
                .contains(good["payload"]["signature"].as_str().expect("text"))
        );
    }
    let ours = ["report", "invalid_payment_header"];
    let failed = "x402_verifier_payment_failure_reasons_total";
    assert_eq!(verifier.metric(failed, &ours).await, Some(16.0));
    assert!(facilitator.calls().is_empty(), "nobody was asked");
    let paid = paid().header("x-payment", &v2).send().await;
    assert_eq!(
        paid.status,
        200,
        "v2 in the old header pays: {}",
        paid.text()
    );
}

#[tokio::test]
async fn a_payment_that_matches_no_offer_is_told_which_field_differs() {
    let (facilitator, verifier) = open_shop("").await;
    let challenge = verifier.challenge("/paid/x").await;
    let wallet = Wallet::new(32);
    let other = "0x00000000000000000000000000000000000000aa";
    let rows: Vec<(&str, &str, Value)> = vec![
        ("scheme", "scheme", json!("upto")),
        ("network", "network", json!("eip155:8453")),
        ("amount", "amount", json!("1")),
        ("asset", "asset", json!(other)),
        ("payTo", "payTo", json!(other)),
    ];
    for (name, field, value) in rows {
        let mut payment = wallet.pay_v2(&challenge);
        payment["accepted"][field] = value;
        let answer = verifier.ask("/paid/x").pay(&payment).send().await;
        refused(name, &answer, 402, "no_matching_requirement", true);
        let failure = &challenge_of(&answer)["extensions"]["paymentFailure"];
        let words = failure.to_string();
        assert!(words.contains(name), "{name}: {words}");
    }
    let unpaid = verifier.ask("/paid/x").send().await;
    let mut v1 = wallet.pay_v1(&unpaid.json());
    v1["network"] = json!("polygon");
    let answer = verifier.ask("/paid/x").pay(&v1).send().await;
    refused("v1 network", &answer, 402, "no_matching_requirement", true);
    // What was signed has to agree with what was accepted.
    let mut less = wallet.pay_v2(&challenge);
    less["payload"]["authorization"]["value"] = json!("1");
    let answer = verifier.ask("/paid/x").pay(&less).send().await;
    assert_eq!(answer.status, 402, "{}", answer.text());
    assert!(facilitator.calls().is_empty(), "nobody was asked");
}

#[tokio::test]
async fn r9_refusals_of_money_have_the_same_form_and_ask_again_only_for_the_payers_fault() {
    let (facilitator, verifier) =
        open_shop("timeouts: {answer: 4s, verify: 300ms, settle: 2s, settleFloor: 1s}").await;
    let challenge = verifier.challenge("/paid/x").await;
    let pay = |wallet: u8| {
        verifier
            .ask("/paid/x")
            .pay(&Wallet::new(wallet).pay_v2(&challenge))
    };
    let rows: Vec<(&str, Reply, Reply, u16, &str)> = vec![
        (
            "invalid",
            Reply::invalid("invalid_exact_evm_signature"),
            Reply::settled(),
            402,
            "payment_invalid",
        ),
        (
            "allowance",
            Reply::invalid("permit2_allowance_required"),
            Reply::settled(),
            412,
            "permit2_allowance_required",
        ),
        (
            "nonce",
            Reply::invalid("nonce_already_used"),
            Reply::settled(),
            409,
            "payment_used",
        ),
        (
            "unreachable",
            Reply::close(),
            Reply::settled(),
            503,
            "facilitator_unreachable",
        ),
        (
            "slow",
            Reply::hang(),
            Reply::settled(),
            504,
            "facilitator_timeout",
        ),
        (
            "nonsense",
            Reply::html(200),
            Reply::settled(),
            502,
            "facilitator_error",
        ),
        (
            "rejected",
            Reply::valid(),
            Reply::settle_failed("insufficient_funds", ""),
            402,
            "settlement_rejected",
        ),
        (
            "unknown",
            Reply::valid(),
            Reply::text(500, "boom"),
            504,
            "settlement_unknown",
        ),
    ];
    for (wallet, (name, verify, settle, status, reason)) in (110..).zip(rows) {
        facilitator.on_verify(verify);
        facilitator.on_settle(settle);
        let challenge = matches!(reason, "payment_invalid" | "permit2_allowance_required");
        refused(name, &pay(wallet).send().await, status, reason, challenge);
    }
    facilitator.on_verify(Reply::valid());
    facilitator.on_settle(Reply::settled().after(Duration::from_millis(600)));
    let ask = pay(109);
    let first = ask.clone();
    let settles = facilitator.settles();
    let first = tokio::spawn(async move { first.send().await });
    let sent = || async { facilitator.settles() == settles + 1 };
    verifier
        .eventually(Duration::from_secs(5), "the settle call", sent)
        .await;
    refused("a copy", &ask.send().await, 409, "payment_in_use", false);
    assert_eq!(first.await.expect("no panic").status, 200);
    refused("a replay", &ask.send().await, 409, "payment_used", false);
}

#[tokio::test]
async fn trusted_proxies_refuse_every_other_peer() {
    let (_facilitator, verifier) = open_shop("trustedProxies: [10.0.0.0/8, \"fd00::/8\"]").await;
    for target in ["/paid/x", "/free/x", "/nothing"] {
        let ask = verifier.ask(target).header("x-forwarded-for", "10.0.0.1");
        refused(target, &ask.send().await, 403, "untrusted_peer", false);
        let pinned = ask.pinned("shop", "report").send().await;
        refused(target, &pinned, 403, "untrusted_peer", false);
    }
    let peers = verifier.metric(
        "x402_verifier_untrusted_requests_total",
        &["class=\"peer\""],
    );
    assert_eq!(peers.await, Some(6.0));
    let (_facilitator, verifier) = open_shop("trustedProxies: [127.0.0.1]").await;
    assert_eq!(verifier.ask("/free/x").send().await.status, 200);
    assert_eq!(verifier.ask("/paid/x").send().await.status, 402);
}

#[tokio::test]
async fn one_source_of_forwarded_headers_and_no_fallback() {
    let (_facilitator, verifier) = open_shop("headerSource: x-original").await;
    let original = |target: &str| {
        verifier
            .ask("/free/x")
            .header("x-original-uri", target)
            .header("x-original-method", "GET")
    };
    assert_eq!(original("/free/x").send().await.status, 200);
    let (missing, ambiguous) = ("missing_forwarded_uri", "ambiguous_forwarded_headers");
    each(vec![
        (
            "the other source differs",
            original("/paid/x"),
            402,
            "payment_required",
        ),
        (
            "the other source alone",
            verifier.ask("/free/x"),
            403,
            missing,
        ),
        (
            "two",
            original("/free/x").also("x-original-uri", "/paid/x"),
            403,
            ambiguous,
        ),
        (
            "alias",
            original("/free/x").also("X_Original_Uri", "/paid/x"),
            403,
            ambiguous,
        ),
    ])
    .await;
    // The default source does not look at nginx's.
    let (_facilitator, verifier) = open_shop("").await;
    let misled = verifier
        .ask("/paid/x")
        .header("x-original-uri", "/free/x")
        .send()
        .await;
    refused("misled", &misled, 402, "payment_required", true);
    let alone = verifier
        .ask("/x")
        .without("x-forwarded-uri")
        .header("x-original-uri", "/free/x");
    refused("alone", &alone.send().await, 403, missing, false);
}

/// A shop whose free and paid routes know a credential of the upstream.
async fn with_upstream_auth(settings: &str, secret: Option<&str>) -> (Scripted, Verifier) {
    let facilitator = Scripted::start().await;
    let mut text = shop(&facilitator.url()).replace(
        "offerName: report}",
        "offerName: report, upstreamAuth: \"Bearer upstream\"}",
    );
    text.insert_str(0, settings);
    let mut verifier = Verifier::prepare("", &[]);
    if let Some(secret) = secret {
        std::fs::write(verifier.home().join("secret"), secret).expect("writable");
    }
    verifier.write_pricing(&text);
    verifier.launch();
    verifier.wait_ready().await;
    (facilitator, verifier)
}

/// What the upstream would get as `Authorization` from a free, a preflight and a paid answer.
async fn credentials(verifier: &Verifier, address: &str, wallet: u8) -> Vec<Option<String>> {
    let challenge = verifier.challenge("/paid/x").await;
    let payment = Wallet::new(wallet).pay_v2(&challenge);
    let free = verifier.ask("/free/x").address(address).send().await;
    let paid = verifier
        .ask("/paid/x")
        .pay(&payment)
        .address(address)
        .send()
        .await;
    [free, paid]
        .into_iter()
        .map(|answer| {
            assert_eq!(answer.status, 200, "{}", answer.text());
            let value = answer.headers.get("authorization");
            value.map(|value| value.to_str().expect("ASCII").to_owned())
        })
        .collect()
}

#[tokio::test]
async fn m11_upstream_credentials_are_answered_only_to_a_proven_ingress() {
    let upstream = || Some("Bearer upstream".to_owned());
    let (_facilitator, verifier) = with_upstream_auth("", None).await;
    assert_eq!(credentials(&verifier, "/verify", 33).await, [None, None]);
    assert!(
        verifier.log().contains("upstream_auth_off"),
        "and it says so"
    );

    let (_facilitator, verifier) =
        with_upstream_auth("trustedProxies: [127.0.0.0/8]\n", None).await;
    assert_eq!(
        credentials(&verifier, "/verify", 33).await,
        [upstream(), upstream()]
    );
    let challenge = verifier.ask("/paid/x").send().await;
    assert!(
        !challenge.headers.contains_key("authorization"),
        "a 402 has none"
    );

    let secret = "0123456789abcdef-SECRET_x";
    let (_facilitator, verifier) =
        with_upstream_auth("verifySecretFile: secret\n", Some(secret)).await;
    assert_eq!(credentials(&verifier, "/verify", 34).await, [None, None]);
    assert_eq!(
        credentials(&verifier, "/verify/shop/report", 35).await,
        [None, None]
    );
    let address = format!("/verify/~{secret}");
    assert_eq!(
        credentials(&verifier, &address, 36).await,
        [upstream(), upstream()]
    );
    let pinned = format!("{address}/shop/report");
    assert_eq!(
        credentials(&verifier, &pinned, 37).await,
        [upstream(), upstream()]
    );
    let lower = secret.to_lowercase();
    for wrong in [
        "",
        &lower,
        &secret[1..],
        &format!("{secret}x"),
        "0123456789abcdef",
    ] {
        let address = format!("/verify/~{wrong}");
        let answer = verifier.ask("/free/x").address(&address).send().await;
        refused(wrong, &answer, 403, "unknown_offer", false);
    }

    // Both: knowing the secret does not make a stranger a trusted proxy.
    let both = "trustedProxies: [10.0.0.0/8]\nverifySecretFile: secret\n";
    let (_facilitator, verifier) = with_upstream_auth(both, Some(secret)).await;
    let answer = verifier.ask("/free/x").address(&address).send().await;
    refused(
        "a stranger who knows",
        &answer,
        403,
        "untrusted_peer",
        false,
    );
}

#[tokio::test]
async fn a_challenge_names_the_resource_as_the_buyer_asked_for_it() {
    let (_facilitator, verifier) = open_shop("").await;
    let url = |answer: &Answer| challenge_of(answer)["resource"]["url"].clone();
    let target = "/paid/x?a=1&b=%2F";
    let plain = verifier.ask(target).send().await;
    assert_eq!(url(&plain), "https://shop.example/paid/x?a=1&b=%2F");
    assert!(
        !plain.headers.contains_key("link"),
        "no catalogURL, no Link"
    );
    let local = verifier
        .ask(target)
        .header("x-forwarded-host", "shop.example:8443")
        .header("x-forwarded-proto", "http");
    assert_eq!(
        url(&local.send().await),
        "http://shop.example:8443/paid/x?a=1&b=%2F"
    );

    let settings =
        "publicOrigin: https://buy.example\ncatalogURL: https://buy.example/.well-known/x402";
    let (_facilitator, verifier) = open_shop(settings).await;
    let answer = verifier.ask(target).send().await;
    assert_eq!(url(&answer), "https://buy.example/paid/x?a=1&b=%2F");
    let link = "<https://buy.example/.well-known/x402>; rel=\"catalog\"";
    assert_eq!(answer.headers["link"], link);
    let refused = verifier
        .ask("/paid/x")
        .header("x-payment", "%")
        .send()
        .await;
    assert_eq!(refused.headers["link"], link, "on every challenge");
    for (target, status) in [("/nothing", 403), ("/free/x", 200), ("/broken/x", 503)] {
        let answer = verifier.ask(target).send().await;
        assert_eq!(answer.status.as_u16(), status);
        assert!(
            !answer.headers.contains_key("link"),
            "{target}: on no other answer"
        );
    }
}

/// A verifier on addresses of its own choice.
async fn serve_on(listen: &str, admin: &str) -> (Scripted, tempfile::TempDir, Process) {
    let facilitator = Scripted::start().await;
    let home = scratch_dir("verifier-addresses");
    std::fs::write(home.path().join("pricing.yaml"), shop(&facilitator.url())).expect("writable");
    let mut command = supervised(env!("CARGO_BIN_EXE_x402-verifier"));
    command
        .args(["--config=pricing.yaml", "--ledger=memory"])
        .arg(format!("--listen={listen}"))
        .arg(format!("--admin-listen={admin}"))
        .current_dir(home.path());
    let mut process = Process::start("verifier", command);
    process.wait_for_line("\"table published\"").await;
    (facilitator, home, process)
}

/// Asks `/verify` about a path.
async fn verify_at(origin: &str, target: &str) -> Answer {
    let call = ::http::Request::get(format!("{origin}/verify"))
        .header("x-forwarded-uri", target)
        .header("x-forwarded-host", "shop.example")
        .body(Full::<Bytes>::default())
        .expect("a request");
    http::send(call).await.expect("the verifier answers")
}

#[tokio::test]
async fn one_port_serves_both_faces_when_the_addresses_are_equal() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let (_facilitator, _home, _process) = serve_on(&address, &address).await;
    let origin = format!("http://{address}");
    let ready = http::get(&format!("{origin}/readyz"))
        .await
        .expect("answers");
    assert_eq!(
        (ready.status.as_u16(), ready.text().as_str()),
        (200, "{\"status\":\"ready\"}")
    );
    for path in ["/livez", "/healthz", "/metrics", "/routes", "/version"] {
        let answer = http::get(&format!("{origin}{path}"))
            .await
            .expect("answers");
        assert_eq!(answer.status, 200, "{path}");
    }
    let paid = verify_at(&origin, "/paid/x").await;
    refused("paid", &paid, 402, "payment_required", true);
    assert_eq!(verify_at(&origin, "/free/x").await.status, 200);
    let nothing = http::get(&format!("{origin}/nothing"))
        .await
        .expect("answers");
    refused("nothing", &nothing, 404, "no_such_endpoint", false);
}

#[tokio::test]
async fn ipv6_is_an_address_like_any_other() {
    let (traffic, admin) = (free_port(), free_port());
    let (_facilitator, _home, _process) =
        serve_on(&format!("[::1]:{traffic}"), &format!("[::1]:{admin}")).await;
    let ready = http::get(&format!("http://[::1]:{admin}/readyz"))
        .await
        .expect("answers");
    assert_eq!(ready.status, 200);
    let origin = format!("http://[::1]:{traffic}");
    assert_eq!(verify_at(&origin, "/paid/x").await.status, 402);

    // Without a host every interface is meant, of both families.
    let (traffic, admin) = (free_port(), free_port());
    let (_facilitator, _home, _process) =
        serve_on(&format!(":{traffic}"), &format!(":{admin}")).await;
    for host in ["127.0.0.1", "[::1]"] {
        let origin = format!("http://{host}:{traffic}");
        assert_eq!(verify_at(&origin, "/paid/x").await.status, 402, "{host}");
        let ready = http::get(&format!("http://{host}:{admin}/readyz")).await;
        assert_eq!(ready.expect("answers").status, 200, "{host}");
    }
}
