//! What becomes of paths: removed, edited, brought back, forgotten, pinned, unmatched, under hosts
//! (R4, O3, design section 4). Every change is made as an operator makes it, in the file.

use crate::harness::{Ask, SELLER, Verifier, Wallet, verdict};
use crate::scripted::Scripted;
use std::fmt::Write;
use std::time::Duration;

/// How long a change of the file may take to be live on a busy machine: five times what is promised.
const LIVE: Duration = Duration::from_secs(5);

/// A pricing file with these top-level lines and these routes.
fn file(settings: &[&str], routes: &[&str]) -> String {
    let mut text =
        format!("chain: base-sepolia\nwallet: \"{SELLER}\"\nfacilitatorURL: http://127.0.0.1:9\n");
    for line in settings {
        writeln!(text, "{line}").expect("text grows");
    }
    text.push_str("routes:\n");
    for route in routes {
        writeln!(text, "- {{{route}}}").expect("text grows");
    }
    if routes.is_empty() {
        text.truncate(text.len() - 1);
        text.push_str(" []\n");
    }
    text
}

const REPORT: &str = "pattern: /paid/*, price: \"0.001\", offerNamespace: shop, offerName: report";
const OTHER: &str = "pattern: /other/*, price: \"0.002\", offerNamespace: shop, offerName: other";

/// Status and reason of an answer.
async fn is(ask: Ask) -> (u16, String) {
    verdict(&ask.send().await)
}

fn says(status: u16, reason: &str) -> (u16, String) {
    (status, reason.to_owned())
}

/// Waits until a call is answered like this.
async fn becomes(verifier: &Verifier, ask: &Ask, status: u16, reason: &str) {
    let expected = says(status, reason);
    let what = format!("{expected:?}");
    verifier
        .eventually(LIVE, &what, || async { is(ask.clone()).await == expected })
        .await;
}

/// Waits until the ledger knows of this process's paths: it was read, and written to once.
async fn remembered(verifier: &Verifier) {
    let labels = ["operation=\"paths\"", "result=\"ok\""];
    let name = "x402_verifier_ledger_operations_total";
    let written = || async { verifier.metric(name, &labels).await >= Some(2.0) };
    verifier.eventually(LIVE, "the ledger", written).await;
}

/// `kill -9`, and this file instead of the old one before the next start.
async fn edited_while_down(verifier: &mut Verifier, text: &str) {
    verifier.signal("KILL");
    verifier.exit_code(LIVE).await;
    verifier.write_pricing(text);
    verifier.launch();
    verifier.wait_ready().await;
}

#[tokio::test]
async fn r4_a_route_that_leaves_the_file_is_410_at_once_and_after_a_crash() {
    let mut verifier = Verifier::start(&file(&[], &[REPORT, OTHER])).await;
    let challenge = verifier.challenge("/paid/x").await;
    let payment = Wallet::new(40).pay_v2(&challenge);
    verifier.write_pricing(&file(&[], &[OTHER]));
    let paid = verifier.ask("/paid/x");
    becomes(&verifier, &paid, 410, "offer_withdrawn").await;
    let pinned = || verifier.ask("/paid/x").pinned("shop", "report");
    let withdrawn = says(410, "offer_withdrawn");
    assert_eq!(is(pinned()).await, withdrawn);
    assert_eq!(is(verifier.ask("/paid")).await, withdrawn, "its root too");
    assert_eq!(is(verifier.ask("/PAID/x")).await, withdrawn, "in any case");
    assert_eq!(
        is(verifier.ask("/paid/x").method("OPTIONS")).await,
        withdrawn
    );
    assert_eq!(
        is(paid.clone().pay(&payment)).await,
        withdrawn,
        "no payment is read"
    );
    assert_eq!(is(paid.clone().header("x-payment", "%")).await, withdrawn);
    let answer = paid.send().await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert!(!answer.headers.contains_key("payment-required"));
    assert_eq!(answer.json()["retriable"], false);
    assert_eq!(
        verifier.challenge("/other/x").await["accepts"][0]["amount"],
        "2000"
    );
    let listed = verifier.admin("/routes?name=report").await.json();
    assert_eq!(listed["routes"][0]["state"], "closed", "{listed}");
    assert!(listed["routes"][0]["closedUntil"].is_string(), "{listed}");

    verifier.crash_and_restart().await;
    assert_eq!(is(verifier.ask("/paid/x")).await, withdrawn);
    assert_eq!(
        is(verifier.ask("/paid/x").pinned("shop", "report")).await,
        withdrawn
    );
    assert_eq!(is(verifier.ask("/other/x")).await.0, 402);
}

#[tokio::test]
async fn r4_an_edit_while_the_process_was_down_closes_too() {
    let mut verifier = Verifier::start(&file(&["unmatched: allow"], &[REPORT, OTHER])).await;
    let withdrawn = says(410, "offer_withdrawn");
    remembered(&verifier).await;
    edited_while_down(&mut verifier, &file(&["unmatched: allow"], &[OTHER])).await;
    assert_eq!(is(verifier.ask("/paid/x")).await, withdrawn);
    assert_eq!(
        is(verifier.ask("/").pinned("shop", "report")).await,
        withdrawn
    );
    remembered(&verifier).await;
    edited_while_down(&mut verifier, &file(&["unmatched: allow"], &[])).await;
    assert_eq!(is(verifier.ask("/paid/x")).await, withdrawn);
    assert_eq!(is(verifier.ask("/other/x")).await, withdrawn);
    assert_eq!(is(verifier.ask("/elsewhere")).await.0, 200);
}

#[tokio::test]
async fn r4_after_the_retention_a_path_stays_closed_even_under_allow() {
    let settings = ["unmatched: allow", "closedPathRetention: 2s"];
    let mut verifier = Verifier::start(&file(&settings, &[REPORT, OTHER])).await;
    assert_eq!(is(verifier.ask("/elsewhere")).await.0, 200);
    assert_eq!(is(verifier.ask("/services")).await.0, 403);
    assert_eq!(is(verifier.ask("/services/x")).await, says(403, "no_route"));
    assert_eq!(is(verifier.ask("/servicesx")).await.0, 200);
    verifier.write_pricing(&file(&settings, &[OTHER]));
    let paid = verifier.ask("/paid/x");
    becomes(&verifier, &paid, 410, "offer_withdrawn").await;
    becomes(&verifier, &paid, 403, "no_route").await;
    let pinned = verifier.ask("/paid/x").pinned("shop", "report");
    becomes(&verifier, &pinned, 403, "unknown_offer").await;
    let closed = says(403, "no_route");
    for target in ["/paid", "/paid/", "/Paid/x", "/paid;a=b/x", "/x/../paid/y"] {
        let seen = is(verifier.ask(target)).await;
        assert!([400, 403].contains(&seen.0), "{target}: {seen:?}");
    }
    verifier.crash_and_restart().await;
    assert_eq!(is(verifier.ask("/paid/x")).await, closed, "remembered");
    edited_while_down(&mut verifier, &file(&settings, &[])).await;
    assert_eq!(is(verifier.ask("/paid/x")).await, closed);
    assert_eq!(is(verifier.ask("/elsewhere")).await.0, 200);
}

#[tokio::test]
async fn a_route_that_comes_back_is_live_again() {
    let mut verifier = Verifier::start(&file(&[], &[REPORT])).await;
    let paid = verifier.ask("/paid/x");
    verifier.write_pricing(&file(&[], &[]));
    becomes(&verifier, &paid, 410, "offer_withdrawn").await;
    verifier.write_pricing(&file(&[], &[REPORT]));
    becomes(&verifier, &paid, 402, "payment_required").await;
    assert_eq!(
        is(verifier.ask("/").pinned("shop", "report")).await.0,
        402,
        "its pin too"
    );
    verifier.crash_and_restart().await;
    assert_eq!(is(verifier.ask("/paid/x")).await.0, 402);
    // By another offer, too: both are the operator's.
    let taken_over = REPORT.replace("report", "successor");
    verifier.write_pricing(&file(&[], &[&taken_over]));
    let successor = verifier.ask("/paid/x").pinned("shop", "successor");
    becomes(&verifier, &successor, 402, "payment_required").await;
    assert_eq!(is(verifier.ask("/paid/x")).await.0, 402);
}

#[tokio::test]
async fn r4_an_edit_closes_what_it_no_longer_covers_and_only_gate_free_opens() {
    let allow = ["unmatched: allow"];
    let verifier = Verifier::start(&file(&allow, &[REPORT])).await;
    let narrow = REPORT.replace("/paid/*", "/paid/a/*");
    verifier.write_pricing(&file(&allow, &[&narrow]));
    let rest = verifier.ask("/paid/b");
    becomes(&verifier, &rest, 410, "offer_withdrawn").await;
    assert_eq!(is(verifier.ask("/paid/a/x")).await.0, 402);
    // A free route above it does not open what was sold below it.
    let above = "pattern: /*, gate: free, offerNamespace: shop, offerName: site";
    verifier.write_pricing(&file(&allow, &[&narrow, above]));
    let site = verifier.ask("/elsewhere").pinned("shop", "site");
    becomes(&verifier, &site, 200, "").await;
    assert_eq!(is(verifier.ask("/paid/b")).await.0, 410);
    assert_eq!(is(verifier.ask("/paid/a/x")).await.0, 402);
    // Saying so does.
    let free = REPORT.replace("price: \"0.001\"", "gate: free");
    verifier.write_pricing(&file(&allow, &[&free]));
    becomes(&verifier, &rest, 200, "").await;
}

#[tokio::test]
async fn a_broken_route_closes_its_path_and_its_repair_opens_it_again() {
    let verifier = Verifier::start(&file(&[], &[REPORT, OTHER])).await;
    let paid = verifier.ask("/paid/x");
    verifier.write_pricing(&file(&[], &[&REPORT.replace("0.001", "1e-3"), OTHER]));
    becomes(&verifier, &paid, 503, "offer_misconfigured").await;
    assert_eq!(
        is(verifier.ask("/other/x")).await.0,
        402,
        "R3: harms no other"
    );
    verifier.write_pricing(&file(&[], &[REPORT, OTHER]));
    becomes(&verifier, &paid, 402, "payment_required").await;
}

#[tokio::test]
async fn a_pin_chooses_the_offer_and_the_path_only_among_its_routes() {
    let verifier = Verifier::start(&file(
        &["unmatched: allow"],
        &[
            REPORT,
            "pattern: /paid/large/*, price: \"0.003\", offerNamespace: shop, offerName: report",
            "pattern: /paid/sample, gate: free, offerNamespace: shop, offerName: report",
            OTHER,
            "pattern: /open/*, gate: free, offerNamespace: shop, offerName: open",
        ],
    ))
    .await;
    let amount = async |target: &str| {
        let answer = verifier.ask(target).pinned("shop", "report").send().await;
        assert_eq!(verdict(&answer).0, 402, "{target}: {}", answer.text());
        crate::harness::challenge_of(&answer)["accepts"][0]["amount"]
            .as_str()
            .expect("text")
            .to_owned()
    };
    assert_eq!(amount("/paid/x").await, "1000");
    assert_eq!(amount("/paid/large/x").await, "3000");
    for elsewhere in ["/", "/other/x", "/open/x", "/services/x", "/elsewhere"] {
        assert_eq!(
            amount(elsewhere).await,
            "1000",
            "{elsewhere}: the offer's default"
        );
    }
    let sample = verifier.ask("/paid/sample");
    assert_eq!(is(sample.clone().pinned("shop", "report")).await.0, 200);
    assert_eq!(is(sample.clone().pinned("shop", "other")).await.0, 402);
    assert_eq!(
        is(sample.pinned("shop", "nobody")).await,
        says(403, "unknown_offer")
    );
    // An offer without a price has no default.
    let open = |target: &str| verifier.ask(target).pinned("shop", "open");
    assert_eq!(is(open("/open/x")).await.0, 200);
    assert_eq!(is(open("/elsewhere")).await, says(403, "no_route"));
    // A free view of a target does not make its paid view free.
    for target in [
        "/paid/x/../sample",
        "/paid/x/%2e%2e/sample",
        "/paid/x/..%2fsample",
    ] {
        let seen = is(verifier.ask(target).pinned("shop", "report")).await;
        assert_ne!(seen.0, 200, "{target}: {seen:?}");
    }
}

#[tokio::test]
async fn a_host_chooses_among_routes_and_an_unknown_one_gets_none() {
    let of = |host: &str, price: &str| {
        format!(
            "pattern: /paid/*, price: \"{price}\", hostname: {host}, offerNamespace: shop, offerName: report"
        )
    };
    let verifier = Verifier::start(&file(
        &["unmatched: allow"],
        &[&of("a.example", "0.001"), &of("B.Example", "0.002")],
    ))
    .await;
    let at = |host: &str| verifier.ask("/paid/x").header("x-forwarded-host", host);
    let amount = async |ask: Ask| {
        let answer = ask.send().await;
        assert_eq!(verdict(&answer).0, 402, "{ask:?}: {}", answer.text());
        crate::harness::challenge_of(&answer)["accepts"][0]["amount"].clone()
    };
    for (host, price) in [
        ("a.example", "1000"),
        ("A.EXAMPLE", "1000"),
        ("a.example:8443", "1000"),
        ("a.example.", "1000"),
        ("b.example", "2000"),
        ("b.example.:443", "2000"),
    ] {
        assert_eq!(amount(at(host)).await, price, "{host}");
        assert_eq!(
            amount(at(host).pinned("shop", "report")).await,
            price,
            "{host}, pinned"
        );
    }
    assert_eq!(
        is(at("c.example")).await.0,
        200,
        "another host's path is not sold"
    );
    let nameless = is(at("a.example").without("x-forwarded-host")).await;
    assert_ne!(
        nameless.0, 200,
        "R1: without a host nothing is free where hosts matter"
    );
    // Closed where it was sold, and only there.
    verifier.write_pricing(&file(&["unmatched: allow"], &[&of("a.example", "0.001")]));
    becomes(&verifier, &at("b.example"), 410, "offer_withdrawn").await;
    assert_eq!(is(at("a.example")).await.0, 402);
    assert_eq!(is(at("c.example")).await.0, 200);
}

#[tokio::test]
async fn unmatched_is_refused_unless_allowed_outside_managed_prefixes() {
    let managed = ["managedPrefixes: [\"/shop/\", \"/api\"]"];
    let verifier = Verifier::start(&file(&managed, &[REPORT])).await;
    for target in ["/", "/elsewhere", "/shop/x", "/services/x"] {
        assert_eq!(
            is(verifier.ask(target)).await,
            says(403, "no_route"),
            "{target}"
        );
    }
    verifier.write_pricing(&file(&[managed[0], "unmatched: allow"], &[REPORT]));
    becomes(&verifier, &verifier.ask("/elsewhere"), 200, "").await;
    for target in ["/", "/services/x", "/apix", "/shopping"] {
        assert_eq!(is(verifier.ask(target)).await.0, 200, "{target}");
    }
    for target in ["/shop/x", "/shop", "/shop/", "/api", "/api/v1", "/SHOP/x"] {
        assert_eq!(
            is(verifier.ask(target)).await,
            says(403, "no_route"),
            "{target}"
        );
    }
    for target in [
        "/x/../shop/y",
        "/%73hop/x",
        "//shop/x",
        "/shop;v=1/x",
        "/shop%2fx",
    ] {
        let seen = is(verifier.ask(target)).await;
        assert!([400, 403].contains(&seen.0), "{target}: {seen:?}");
    }
    // A pin never leads to what is unmatched.
    assert_eq!(
        is(verifier.ask("/elsewhere").pinned("shop", "report"))
            .await
            .0,
        402
    );
}

#[tokio::test]
async fn r8_a_payment_for_a_withdrawn_offer_is_never_settled() {
    let facilitator = Scripted::start().await;
    let served =
        |routes: &[&str]| file(&[], routes).replace("http://127.0.0.1:9", &facilitator.url());
    let verifier = Verifier::start(&served(&[REPORT])).await;
    let challenge = verifier.challenge("/paid/x").await;
    let payment = Wallet::new(41).pay_v2(&challenge);
    verifier.write_pricing(&served(&[OTHER]));
    becomes(&verifier, &verifier.ask("/paid/x"), 410, "offer_withdrawn").await;
    let refused = is(verifier.ask("/paid/x").pay(&payment)).await;
    assert_eq!(refused, says(410, "offer_withdrawn"));
    let elsewhere = is(verifier.ask("/other/x").pay(&payment)).await;
    assert_eq!(elsewhere, says(402, "no_matching_requirement"));
    assert!(facilitator.calls().is_empty());
    verifier.write_pricing(&served(&[REPORT]));
    let paid = verifier.ask("/paid/x");
    becomes(&verifier, &paid, 402, "payment_required").await;
    assert_eq!(is(paid.pay(&payment)).await.0, 200, "it is still good");
}
