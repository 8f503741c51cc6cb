//! What an operator sees: probes, `/routes`, metrics and logs (R2, R7, R13), and what nobody must
//! ever see there.

use crate::harness::{SELLER, Verifier, Wallet, pricing};
use crate::parts::http::{self, Answer};
use crate::scripted::{Reply, Scripted};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

const LIVE: Duration = Duration::from_secs(5);

async fn setup() -> (Scripted, Verifier) {
    let facilitator = Scripted::start().await;
    let verifier = Verifier::start(&pricing(&facilitator.url())).await;
    (facilitator, verifier)
}

/// Buys at a path; the answer has to be a pass.
async fn buy(verifier: &Verifier, target: &str, wallet: u8) {
    let challenge = verifier.challenge(target).await;
    let payment = Wallet::new(wallet).pay_v2(&challenge);
    let paid = verifier.ask(target).pay(&payment).send().await;
    assert_eq!(paid.status, 200, "{}", paid.text());
}

async fn admin_with(verifier: &Verifier, method: &str, path: &str) -> Answer {
    let request = ::http::Request::builder()
        .method(method)
        .uri(verifier.admin_url(path))
        .body(Full::<Bytes>::default())
        .expect("a request");
    http::send(request).await.expect("the admin port answers")
}

/// Series names with labels, without values.
async fn series(verifier: &Verifier) -> BTreeSet<String> {
    let page = verifier.admin("/metrics").await.text();
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(series, _)| series.to_owned())
        .collect()
}

#[tokio::test]
async fn probes_have_their_exact_bodies() {
    let (_facilitator, verifier) = setup().await;
    for path in ["/livez", "/healthz"] {
        let answer = verifier.admin(path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text().as_str()),
            (200, "{\"status\":\"ok\"}")
        );
        assert_eq!(answer.headers["content-type"], "application/json");
    }
    let ready = verifier.admin("/readyz").await;
    assert_eq!(
        (ready.status.as_u16(), ready.text().as_str()),
        (200, "{\"status\":\"ready\"}")
    );
    let verbose = verifier.admin("/readyz?verbose").await;
    assert_eq!(verbose.status, 200);
    let verbose = verbose.json();
    assert_eq!(verbose["status"], "ready");
    assert_eq!(
        verbose["latches"],
        serde_json::json!({"config": true, "routes": true})
    );
    assert_eq!(verbose["draining"], false);
    assert_eq!(verbose["degraded"], serde_json::json!([]));
    assert_eq!(verbose["sources"][0]["name"], "file");
    assert_eq!(verbose["sources"][0]["state"], "ok");
    assert!(verbose["table"]["generation"].as_u64() > Some(0));
    assert!(verbose["table"]["ageSeconds"].as_u64() < Some(60));
    let ledger = verbose["ledger"].as_str().expect("text");
    assert!(ledger.starts_with("sqlite:"), "{ledger}");
    let version = verifier.admin("/version").await.json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    let keys: Vec<_> = version
        .as_object()
        .expect("an object")
        .keys()
        .cloned()
        .collect();
    assert_eq!(
        BTreeSet::from_iter(keys),
        ["version", "commit", "built", "rustc"]
            .map(str::to_owned)
            .into()
    );
}

#[tokio::test]
async fn the_admin_port_is_read_only_and_knows_its_paths() {
    let (_facilitator, verifier) = setup().await;
    for path in [
        "/",
        "/verify",
        "/readyz/",
        "/debug/pprof",
        "/routesx",
        "/metrics/x",
    ] {
        let answer = verifier.admin(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.json()["reason"], "no_such_endpoint", "{path}");
    }
    for path in [
        "/livez", "/healthz", "/readyz", "/metrics", "/routes", "/version",
    ] {
        for method in ["POST", "PUT", "DELETE"] {
            let answer = admin_with(&verifier, method, path).await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.json()["reason"], "method_not_allowed");
            assert!(
                answer.headers["allow"]
                    .to_str()
                    .expect("ASCII")
                    .contains("GET")
            );
        }
        assert_eq!(
            admin_with(&verifier, "HEAD", path).await.status,
            200,
            "{path}"
        );
    }
}

#[tokio::test]
async fn routes_show_what_became_of_every_route() {
    let text = format!(
        "chain: base-sepolia\n\
         wallet: \"{SELLER}\"\n\
         facilitatorURL: http://127.0.0.1:9\n\
         routes:\n\
         - {{pattern: \"/paid/*\", price: \"0.001\", offerNamespace: shop, offerName: report}}\n\
         - {{pattern: \"/other/*\", price: \"0.5\", hostname: a.example, settle: never, offerNamespace: shop, offerName: other}}\n\
         - {{pattern: \"/free/*\", gate: free, offerNamespace: market, offerName: report}}\n\
         - {{pattern: \"/broken/*\", price: \"0,01\", offerNamespace: market, offerName: broken}}\n"
    );
    let verifier = Verifier::start(&text).await;
    let page = verifier.admin("/routes").await;
    assert_eq!(page.headers["content-type"], "application/json");
    let page = page.json();
    assert!(page["generation"].as_u64() > Some(0));
    let built: jiff::Timestamp = page["builtAt"]
        .as_str()
        .expect("text")
        .parse()
        .expect("a time");
    assert!(built <= jiff::Timestamp::now());
    assert_eq!(page["sources"][0]["name"], "file");
    let rows = |page: &Value| {
        let rows = page["routes"].as_array().expect("a list").iter();
        rows.map(|row| row["pattern"].as_str().expect("text").to_owned())
            .collect::<BTreeSet<_>>()
    };
    let patterns = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(
        rows(&page),
        patterns(&["/paid/*", "/other/*", "/free/*", "/broken/*"])
    );
    let row = |pattern: &str| {
        let mut rows = page["routes"].as_array().expect("a list").iter();
        rows.find(|row| row["pattern"] == pattern).expect("listed")
    };
    let paid = row("/paid/*");
    assert_eq!(paid["source"], "file");
    assert_eq!(
        paid["offer"],
        serde_json::json!({"namespace": "shop", "name": "report"})
    );
    assert_eq!(
        (&paid["state"], &paid["gate"], &paid["settle"]),
        (&"live".into(), &"paid".into(), &"before".into())
    );
    let accepts = &paid["accepts"][0];
    assert_eq!(accepts["network"], "eip155:84532");
    assert_eq!(
        (&accepts["amount"], &accepts["price"]),
        (&"1000".into(), &"0.001".into())
    );
    assert_eq!(accepts["payTo"], SELLER);
    assert!(accepts["asset"].as_str().expect("text").starts_with("0x"));
    assert_eq!(row("/other/*")["host"], "a.example");
    assert_eq!(row("/other/*")["settle"], "never");
    assert_eq!(row("/free/*")["gate"], "free");
    let broken = row("/broken/*");
    assert_eq!(broken["state"], "misconfigured");
    assert!(
        broken["reason"].is_string() && broken["detail"].is_string(),
        "{broken}"
    );
    for (query, expected) in [
        ("?namespace=shop", &["/paid/*", "/other/*"][..]),
        ("?name=report", &["/paid/*", "/free/*"]),
        ("?namespace=shop&name=report", &["/paid/*"]),
        ("?namespace=nobody", &[]),
    ] {
        let page = verifier.admin(&format!("/routes{query}")).await.json();
        assert_eq!(rows(&page), patterns(expected), "{query}");
    }
    let count = async |state: &str| {
        let label = format!("state=\"{state}\"");
        verifier.metric("x402_verifier_routes", &[&label]).await
    };
    assert_eq!(count("live").await, Some(3.0));
    assert_eq!(count("misconfigured").await, Some(1.0));
    for state in ["closed", "draining", "conflict"] {
        assert_eq!(count(state).await, Some(0.0), "{state}");
    }
    assert_eq!(
        verifier
            .metric("x402_verifier_settle_never_routes", &[])
            .await,
        Some(1.0)
    );
}

#[tokio::test]
async fn r7_live_offers_have_their_series_from_the_start_at_zero() {
    let (_facilitator, verifier) = setup().await;
    let block = [
        "offer_namespace=\"shop\"",
        "offer_name=\"report\"",
        "chain=\"eip155:84532\"",
        "asset_symbol=\"USDC\"",
    ];
    for family in [
        "requests_total",
        "payment_required_total",
        "payment_verified_total",
        "payment_failed_total",
        "charged_requests_total",
        "upstream_failed_after_verify_total",
        "charged_atomic_units_total",
    ] {
        let name = format!("x402_verifier_{family}");
        assert_eq!(verifier.metric(&name, &block).await, Some(0.0), "{family}");
    }
    assert_eq!(
        verifier
            .metric("x402_verifier_offer_info", &["decimals=\"6\""])
            .await,
        Some(1.0)
    );
    let reasons = "x402_verifier_payment_failure_reasons_total";
    for reason in [
        "payment_invalid",
        "no_matching_requirement",
        "facilitator_unreachable",
        "settlement_unknown",
    ] {
        let label = format!("reason=\"{reason}\"");
        assert_eq!(
            verifier.metric(reasons, &[&label]).await,
            Some(0.0),
            "{reason}"
        );
    }
    assert_eq!(verifier.metric(reasons, &["reason=\"busy\""]).await, None);
    assert_eq!(
        verifier
            .metric("x402_verifier_last_payment_success_seconds", &[])
            .await,
        None
    );
    for family in [
        "build_info",
        "table_generation",
        "table_age_seconds",
        "claims_in_flight",
        "payments_unknown",
    ] {
        let name = format!("x402_verifier_{family}");
        assert!(verifier.metric(&name, &[]).await.is_some(), "{family}");
    }
}

#[tokio::test]
async fn r7_what_is_charged_is_counted_exactly_and_survives_what_it_must() {
    let facilitator = Scripted::start().await;
    let text = pricing(&facilitator.url()).replace("0.001", "0.123457");
    let mut verifier = Verifier::start(&text).await;
    let started = u32::try_from(jiff::Timestamp::now().as_second()).expect("before 2106");
    for wallet in 60..63 {
        buy(&verifier, "/paid/x", wallet).await;
    }
    let ours = ["offer_name=\"report\""];
    let all = async |verifier: &Verifier| {
        let mut seen = Vec::new();
        for family in [
            "requests_total",
            "payment_required_total",
            "payment_verified_total",
            "charged_requests_total",
            "charged_atomic_units_total",
        ] {
            seen.push(
                verifier
                    .metric(&format!("x402_verifier_{family}"), &ours)
                    .await,
            );
        }
        seen
    };
    let counted = [6.0, 3.0, 3.0, 3.0, 370_371.0].map(Some);
    assert_eq!(all(&verifier).await, counted);
    let last = "x402_verifier_last_payment_success_seconds";
    let time = verifier.metric(last, &ours).await;
    assert!(time >= Some(f64::from(started)), "{time:?}");

    // An unrelated change leaves them alone, and so does another price.
    let more = format!(
        "{text}- {{pattern: \"/more/*\", price: \"1\", offerNamespace: shop, offerName: more}}\n"
    );
    verifier.write_pricing(&more.replace("0.123457", "0.2"));
    let live = || async { verifier.ask("/more/x").send().await.status == 402 };
    verifier.eventually(LIVE, "the new offer", live).await;
    assert_eq!(all(&verifier).await, counted);
    assert_eq!(verifier.metric(last, &ours).await, time);
    assert_eq!(
        verifier
            .metric(
                "x402_verifier_charged_requests_total",
                &["offer_name=\"more\""]
            )
            .await,
        Some(0.0)
    );

    verifier.crash_and_restart().await;
    assert_eq!(
        verifier.metric(last, &ours).await,
        time,
        "back from the ledger"
    );
    assert_eq!(verifier.metric(last, &["offer_name=\"more\""]).await, None);
    assert_eq!(
        verifier
            .metric("x402_verifier_charged_requests_total", &ours)
            .await,
        Some(0.0)
    );
}

#[tokio::test]
async fn r7_a_deleted_offer_has_no_series_and_nothing_brings_them_back() {
    let facilitator = Scripted::start().await;
    let keeps =
        "- {pattern: \"/kept/*\", price: \"0.001\", offerNamespace: shop, offerName: kept}\n";
    let both = format!("{}{keeps}", pricing(&facilitator.url()));
    let verifier = Verifier::start(&both).await;
    buy(&verifier, "/paid/x", 64).await;
    let ghosts = async || {
        let all = series(&verifier).await;
        all.into_iter()
            .filter(|series| series.contains("\"report\""))
            .count()
    };
    assert!(ghosts().await > 8);

    // A payment that is on its way while its offer is deleted.
    facilitator.on_settle(Reply::settled().after(Duration::from_millis(1500)));
    let settled = facilitator.settles();
    let challenge = verifier.challenge("/paid/x").await;
    let slow = verifier
        .ask("/paid/x")
        .pay(&Wallet::new(65).pay_v2(&challenge));
    let slow = tokio::spawn(async move { slow.send().await });
    let sent = || async { facilitator.settles() == settled + 1 };
    verifier.eventually(LIVE, "the settle call", sent).await;
    let one: String = both
        .lines()
        .filter(|line| !line.contains("report"))
        .map(|line| format!("{line}\n"))
        .collect();
    verifier.write_pricing(&one);
    let gone = || async { verifier.ask("/paid/x").send().await.status == 410 };
    verifier.eventually(LIVE, "the deletion", gone).await;
    assert_eq!(ghosts().await, 0, "gone with the reload that removes it");
    let paid = slow.await.expect("no panic");
    assert_eq!(
        paid.status,
        200,
        "what was taken is answered: {}",
        paid.text()
    );
    for _ in 0..10 {
        verifier.ask("/paid/x").send().await;
        verifier
            .ask("/paid/x")
            .pinned("shop", "report")
            .send()
            .await;
        assert_eq!(ghosts().await, 0, "and nothing brings it back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        verifier
            .metric("x402_verifier_requests_total", &["\"kept\""])
            .await,
        Some(0.0)
    );
}

#[tokio::test]
async fn the_prefix_and_the_amount_of_metrics_are_settings() {
    let facilitator = Scripted::start().await;
    let text = format!(
        "metrics: {{prefix: obol_x402_verifier, perOffer: none}}\n{}",
        pricing(&facilitator.url())
    );
    let verifier = Verifier::start(&text).await;
    buy(&verifier, "/paid/x", 66).await;
    let all = series(&verifier).await;
    for series in &all {
        let known = series.starts_with("obol_x402_verifier_") || series.starts_with("process_");
        assert!(known, "{series}");
        assert!(!series.contains("offer_name"), "{series}");
    }
    assert!(all.contains("obol_x402_verifier_table_generation"));
    // perOffer is live, the prefix waits for a restart.
    verifier.write_pricing(&text.replace("none", "active").replace("obol_", "new_"));
    let shown = || async {
        series(&verifier)
            .await
            .iter()
            .any(|series| series.contains("\"report\""))
    };
    verifier.eventually(LIVE, "the active offers", shown).await;
    let charged = verifier
        .metric("obol_x402_verifier_charged_requests_total", &["report"])
        .await;
    assert_eq!(charged, Some(1.0), "counted all the time");
    assert!(verifier.log().contains("needs a restart"));
}

const SECRETS: [(&str, &str); 4] = [
    ("bearer of the client", "client-bearer-5ec7e7"),
    ("credential of the upstream", "upstream-auth-5ec7e7"),
    ("headers of the facilitator", "facilitator-key-5ec7e7"),
    ("segment of the address", "segment-5ec7e7-0123456789"),
];

/// Everything that a payment must not leave behind: the header, and the signature in it.
fn traces(payment: &Value) -> Vec<String> {
    let signature = payment["payload"]["signature"].as_str().expect("text");
    vec![
        STANDARD.encode(payment.to_string()),
        signature[2..].to_owned(),
    ]
}

#[tokio::test]
async fn r13_no_secret_is_seen_anywhere() {
    let facilitator = Scripted::start().await;
    let [(_, bearer), (_, upstream), (_, key), (_, segment)] = SECRETS;
    let text = format!(
        "verifySecretFile: segment\n\
         facilitatorHeadersFile: headers.yaml\n\
         timeouts: {{answer: 4s, verify: 500ms, settle: 1s, settleFloor: 1s}}\n{}",
        pricing(&facilitator.url()).replace(
            "report}",
            &format!("report, upstreamAuth: \"Bearer {upstream}\"}}")
        )
    );
    let mut verifier = Verifier::prepare(&text, &[]);
    std::fs::write(verifier.home().join("segment"), segment).expect("written");
    std::fs::write(
        verifier.home().join("headers.yaml"),
        format!("authorization: Bearer {key}\n"),
    )
    .expect("written");
    verifier.launch();
    verifier.wait_ready().await;
    let challenge = verifier.challenge("/paid/x").await;
    let mut secrets: Vec<String> = SECRETS
        .iter()
        .map(|(_, secret)| (*secret).to_owned())
        .collect();
    let mut bodies = String::new();
    let mut keep = |answer: &Answer| {
        bodies.push_str(&answer.text());
        for (name, value) in &answer.headers {
            // The one place where the credential belongs.
            if name != "authorization" {
                bodies.push_str(&String::from_utf8_lossy(value.as_bytes()));
            }
        }
    };
    let address = format!("/verify/~{segment}");
    let scripts: Vec<(&str, Reply, Reply)> = vec![
        ("paid", Reply::valid(), Reply::settled()),
        (
            "invalid",
            Reply::invalid("invalid_exact_evm_signature"),
            Reply::settled(),
        ),
        ("nonsense", Reply::html(200), Reply::settled()),
        ("resets", Reply::reset(), Reply::settled()),
        ("hangs", Reply::hang(), Reply::settled()),
        ("unauthorized", Reply::text(401, "no"), Reply::settled()),
        (
            "redirects",
            Reply::text(302, "").header("location", "http://127.0.0.1:9/"),
            Reply::settled(),
        ),
        (
            "rejected",
            Reply::valid(),
            Reply::settle_failed("insufficient_funds", ""),
        ),
        ("unknown", Reply::valid(), Reply::text(500, "boom")),
        ("lost", Reply::valid(), Reply::reset()),
        ("late", Reply::valid(), Reply::hang()),
    ];
    for (wallet, (name, verify, settle)) in (70..).zip(scripts) {
        facilitator.on_verify(verify);
        facilitator.on_settle(settle);
        let payment = Wallet::new(wallet).pay_v2(&challenge);
        secrets.extend(traces(&payment));
        let ask = verifier
            .ask("/paid/x")
            .address(&address)
            .header("authorization", &format!("Bearer {bearer}"))
            .header("cookie", bearer)
            .pay(&payment);
        let first = ask.send().await;
        assert_eq!(
            first.status == 200,
            name == "paid",
            "{name}: {}",
            first.text()
        );
        keep(&first);
        keep(&ask.send().await);
    }
    facilitator.on_verify(Reply::valid());
    facilitator.on_settle(Reply::settled());
    let payment = Wallet::new(90).pay_v2(&challenge);
    secrets.extend(traces(&payment));
    let encoded = STANDARD.encode(payment.to_string());
    // Malformed, misplaced and misdirected.
    for ask in [
        verifier.ask("/paid/x").header("x-payment", &encoded[1..]),
        verifier
            .ask("/paid/x")
            .header("payment-signature", &payment.to_string()),
        verifier
            .ask("/paid/x")
            .header("payment-signature", &encoded)
            .also("x-payment", &encoded),
        verifier.ask("/free/x").pay(&payment).address(&address),
        verifier.ask("/nothing").pay(&payment),
        verifier
            .ask("/paid/x")
            .pay(&payment)
            .address(&format!("/verify/~{segment}x")),
        verifier
            .ask("/paid/x")
            .pay(&payment)
            .address(&format!("{address}/no/body")),
        verifier.ask("/paid/%zz").pay(&payment),
        verifier
            .ask("/paid/x")
            .pay(&payment)
            .without("x-forwarded-uri"),
        verifier
            .ask("/paid/x")
            .pay(&payment)
            .address(&format!("/x/{segment}")),
    ] {
        let ask = ask.header("authorization", &format!("Bearer {bearer}"));
        keep(&ask.send().await);
    }
    // A file that breaks around its secrets.
    std::fs::write(verifier.home().join("headers.yaml"), format!("{key}: [\n")).expect("written");
    std::fs::write(
        verifier.home().join("segment"),
        format!("{segment} {segment}"),
    )
    .expect("written");
    let broken = || async { verifier.log().contains("not loaded") };
    verifier
        .eventually(LIVE, "the broken secret files", broken)
        .await;
    std::fs::write(verifier.home().join("segment"), segment).expect("written");
    let closed = || async { verifier.ask("/paid/x").send().await.status == 503 };
    verifier
        .eventually(LIVE, "the broken headers", closed)
        .await;
    keep(&verifier.ask("/paid/x").pay(&payment).send().await);

    assert!(
        facilitator
            .calls()
            .iter()
            .all(|call| call.headers["authorization"] == format!("Bearer {key}"))
    );
    assert!(
        facilitator.calls().iter().all(|call| {
            let headers = format!("{:?}", call.headers);
            !headers.contains(bearer) && !headers.contains(upstream) && !headers.contains(segment)
        }),
        "to the facilitator goes what is its own"
    );
    let mut pages = vec![("the answers", bodies), ("the log", verifier.log())];
    for path in [
        "/metrics",
        "/routes",
        "/readyz",
        "/readyz?verbose",
        "/version",
    ] {
        pages.push((path, verifier.admin(path).await.text()));
    }
    for (place, text) in pages {
        assert!(text.len() > 10, "{place} was looked at");
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{place} shows {secret}");
            // A cut secret is one, too.
            let part = &secret[..secret.len().min(40)];
            assert!(!text.contains(part), "{place} shows a part of {secret}");
        }
    }
}

#[tokio::test]
async fn one_line_tells_of_every_paid_decision_and_carries_its_trace() {
    let (facilitator, verifier) = setup().await;
    let challenge = verifier.challenge("/paid/x").await;
    let trace =
        |name: &str| format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-{name}");
    let wallet = Wallet::new(67);
    let ask = |target: &str, name: &str| {
        verifier
            .ask(target)
            .header("x-request-id", &format!("request-{name}"))
            .header("traceparent", &trace(name))
    };
    let payment = wallet.pay_v2(&challenge);
    assert_eq!(
        ask("/paid/x", "paid").pay(&payment).send().await.status,
        200
    );
    assert_eq!(
        ask("/paid/x", "replayed").pay(&payment).send().await.status,
        409
    );
    let calls = facilitator.calls();
    assert_eq!(calls.len(), 2, "verify and settle");
    for call in calls {
        assert_eq!(call.headers["x-request-id"], "request-paid");
        assert_eq!(call.headers["traceparent"], trace("paid").as_str());
    }
    facilitator.on_verify(Reply::invalid("invalid_exact_evm_signature"));
    let other = wallet.pay_v2(&challenge);
    assert_eq!(
        ask("/paid/x", "invalid").pay(&other).send().await.status,
        402
    );
    assert_eq!(ask("/paid/x", "unpaid").send().await.status, 402);
    assert_eq!(ask("/free/x", "free").send().await.status, 200);
    let lines: Vec<Value> = verifier
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let of = |name: &str| {
        let id = format!("request-{name}");
        let mine: Vec<_> = lines
            .iter()
            .filter(|line| line.to_string().contains(&id))
            .filter(|line| line.to_string().contains("request decided"))
            .collect();
        assert_eq!(mine.len(), 1, "{name}: {mine:?}");
        assert!(
            mine[0].to_string().contains(&trace(name)),
            "{name}: {mine:?}"
        );
        mine[0].clone()
    };
    for (name, level, outcome) in [
        ("paid", "INFO", "admit"),
        ("replayed", "INFO", "refused"),
        ("invalid", "INFO", "payment_refused"),
        ("unpaid", "DEBUG", "challenge"),
        ("free", "DEBUG", "free"),
    ] {
        let line = of(name);
        assert_eq!(line["level"], level, "{name}: {line}");
        assert!(
            line.to_string()
                .contains(&format!("\"outcome\":\"{outcome}\"")),
            "{line}"
        );
    }
    let paid = of("paid").to_string();
    assert!(
        paid.contains(&wallet.address.to_checksum(None)),
        "who paid: {paid}"
    );
    assert!(paid.contains("transaction"), "by what: {paid}");
}

/// Traffic of every kind, so that every family has something to show.
async fn everything(facilitator: &Scripted, verifier: &Verifier) {
    buy(verifier, "/paid/x", 91).await;
    let challenge = verifier.challenge("/paid/x").await;
    for (wallet, verify, settle) in [
        (
            92,
            Reply::invalid("invalid_exact_evm_signature"),
            Reply::settled(),
        ),
        (93, Reply::html(200), Reply::settled()),
        (94, Reply::close(), Reply::settled()),
        (95, Reply::valid(), Reply::text(500, "boom")),
        (
            96,
            Reply::valid(),
            Reply::settle_failed("insufficient_funds", ""),
        ),
    ] {
        facilitator.on_verify(verify);
        facilitator.on_settle(settle);
        let payment = Wallet::new(wallet).pay_v2(&challenge);
        for _ in 0..2 {
            verifier.ask("/paid/x").pay(&payment).send().await;
        }
    }
    for target in [
        "/free/x",
        "/nothing",
        "/paid/%zz",
        "/free/%2e%2e/paid",
        "/PAID/x",
    ] {
        verifier.ask(target).send().await;
        verifier.ask(target).header("x-payment", "%").send().await;
    }
    verifier.ask("/x").without("x-forwarded-uri").send().await;
    verifier
        .ask("/x")
        .also("x-forwarded-uri", "/y")
        .send()
        .await;
    verifier.write_pricing("routes: [");
    let noticed = || async {
        verifier
            .metric("x402_verifier_reloads_total", &["error"])
            .await
            == Some(1.0)
    };
    verifier.eventually(LIVE, "the broken file", noticed).await;
}

#[tokio::test]
async fn no_series_stands_twice_whatever_happened() {
    let (facilitator, verifier) = setup().await;
    everything(&facilitator, &verifier).await;
    let page = verifier.admin("/metrics").await;
    assert!(
        page.headers["content-type"]
            .to_str()
            .expect("ASCII")
            .starts_with("text/plain; version=0.0.4")
    );
    let page = page.text();
    let mut seen = BTreeSet::new();
    for line in page.lines().filter(|line| !line.starts_with("# HELP")) {
        let name = line.rsplit_once(' ').expect("a value").0;
        assert!(seen.insert(name), "twice: {line}");
    }
    for part in ["0x70", SELLER, "/paid", "shop.example", "192.0.2"] {
        let labels = page.lines().filter(|line| !line.starts_with('#'));
        let mut outside = labels.filter(|line| !line.contains("asset=") && line.contains(part));
        assert_eq!(
            outside.next(),
            None,
            "nothing that a client chose is a label"
        );
    }
}

/// What needs tools.
mod real {
    use super::{Verifier, everything};
    use crate::harness::pricing;
    use crate::parts;
    use crate::scripted::Scripted;

    #[tokio::test]
    async fn a_live_scrape_pleases_promtool_after_traffic_of_every_kind() {
        let facilitator = Scripted::start().await;
        let unnamed = "- {pattern: \"/unnamed/*\", price: \"1\"}\n\
                       - {pattern: \"/nameless/*\", price: \"2\", network: base}\n";
        let text = format!("{}{unnamed}", pricing(&facilitator.url()));
        let verifier = Verifier::start(&text).await;
        everything(&facilitator, &verifier).await;
        let page = verifier.admin("/metrics").await.text();
        if let Err(complaints) = parts::check_metrics(&page).await {
            panic!("{complaints}\n{page}");
        }
    }
}
