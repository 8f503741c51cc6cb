//! Changes of the pricing file under traffic: how fast they are live, what never becomes a table,
//! and what no request ever sees (R1, R2, R5, R6).

use crate::harness::{Ask, SELLER, Verifier, Wallet, challenge_of, pricing, verdict};
use crate::scripted::Scripted;
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Promised is 1 s; this is what a busy machine may take.
const LIVE: Duration = Duration::from_secs(5);
/// Reloads under traffic.
const FLIPS: usize = 50;

fn priced(price: &str) -> String {
    pricing("http://127.0.0.1:9").replace("0.001", price)
}

/// Waits until the paid path costs so many atomic units.
async fn costs(verifier: &Verifier, amount: &str) {
    let live = || async {
        let answer = verifier.ask("/paid/x").send().await;
        assert_ne!(answer.status, 200, "R1");
        answer.status == 402 && challenge_of(&answer)["accepts"][0]["amount"] == amount
    };
    verifier.eventually(LIVE, amount, live).await;
}

#[tokio::test]
async fn a_change_is_live_however_it_is_written() {
    let verifier = Verifier::start(&priced("0.001")).await;
    costs(&verifier, "1000").await;
    fs::write(verifier.pricing(), priced("0.002")).expect("in place");
    costs(&verifier, "2000").await;
    verifier.write_pricing(&priced("0.003"));
    costs(&verifier, "3000").await;
    fs::remove_file(verifier.pricing()).expect("removed");
    verifier.write_pricing(&priced("0.004"));
    costs(&verifier, "4000").await;
    // A touch is no change, and neither is the same text again.
    let generation = verifier.metric("x402_verifier_table_generation", &[]).await;
    verifier.write_pricing(&priced("0.004"));
    tokio::time::sleep(Duration::from_millis(800)).await;
    let after = verifier.metric("x402_verifier_table_generation", &[]).await;
    assert_eq!(generation, after);
}

/// What a kubelet makes of a ConfigMap: a folder of this version behind `..data`, swapped at once.
fn publish_config_map(home: &Path, version: &str, text: &str) {
    let folder = format!("..{version}");
    fs::create_dir(home.join(&folder)).expect("a new version");
    fs::write(home.join(&folder).join("pricing.yaml"), text).expect("written");
    symlink(&folder, home.join("..data_tmp")).expect("linked");
    fs::rename(home.join("..data_tmp"), home.join("..data")).expect("swapped");
}

#[tokio::test]
async fn a_config_map_is_followed_through_its_link() {
    let mut verifier = Verifier::prepare("", &[]);
    let home = verifier.home().to_owned();
    fs::remove_file(verifier.pricing()).expect("removed");
    publish_config_map(&home, "v1", &priced("0.001"));
    symlink("..data/pricing.yaml", verifier.pricing()).expect("linked");
    verifier.launch();
    verifier.wait_ready().await;
    costs(&verifier, "1000").await;
    for (version, price, amount) in [("v2", "0.002", "2000"), ("v3", "0.003", "3000")] {
        publish_config_map(&home, version, &priced(price));
        costs(&verifier, amount).await;
    }
    fs::remove_dir_all(home.join("..v1")).expect("the kubelet tidies up");
    publish_config_map(&home, "v4", &priced("0.004"));
    costs(&verifier, "4000").await;
}

/// Free above, paid within it: every beginning of this file that is a document by itself gives
/// something away or withdraws something.
fn treacherous(price: &str) -> String {
    format!(
        "chain: base-sepolia\n\
         wallet: \"{SELLER}\"\n\
         facilitatorURL: http://127.0.0.1:9\n\
         unmatched: allow\n\
         routes:\n\
         - {{pattern: \"/app/*\", gate: free}}\n\
         - {{pattern: \"/app/one/*\", price: \"{price}\"}}\n\
         - {{pattern: \"/app/two/*\", price: \"{price}\"}}\n\
         - {{pattern: \"/app/three/*\", price: \"{price}\"}}\n"
    )
}

/// Writes in place line by line, with a pause behind each.
async fn write_slowly(path: &Path, text: &str, pause: Duration) {
    let mut file = File::create(path).expect("in place");
    for line in text.split_inclusive('\n') {
        file.write_all(line.as_bytes()).expect("written");
        file.flush().expect("written");
        tokio::time::sleep(pause).await;
    }
}

#[tokio::test]
async fn r1_a_half_written_file_never_becomes_a_table() {
    let mut verifier = Verifier::start(&treacherous("0.001")).await;
    for (price, pause) in [("0.002", 20), ("0.003", 350)] {
        let path = verifier.pricing();
        let text = treacherous(price);
        let generation = verifier.metric("x402_verifier_table_generation", &[]).await;
        let pause = Duration::from_millis(pause);
        let writing = tokio::spawn(async move { write_slowly(&path, &text, pause).await });
        while !writing.is_finished() {
            for target in ["/app/one/x", "/app/two/x", "/app/three/x"] {
                let seen = verdict(&verifier.ask(target).send().await);
                assert_eq!(seen.0, 402, "{pause:?}, {target}: {seen:?}");
            }
        }
        writing.await.expect("no panic");
        let amount = format!("{}000", &price[4..]);
        let live = || async {
            let answer = verifier.ask("/app/three/x").send().await;
            challenge_of(&answer)["accepts"][0]["amount"] == amount.as_str()
        };
        verifier.eventually(LIVE, &amount, live).await;
        let after = verifier.metric("x402_verifier_table_generation", &[]).await;
        assert_eq!(after, generation.map(|before| before + 1.0), "one table");
    }
    // The same at the first start, where no earlier table stands behind.
    verifier.signal("KILL");
    verifier.exit_code(LIVE).await;
    fs::remove_file(verifier.pricing()).expect("removed");
    fs::remove_file(verifier.ledger()).expect("a new beginning");
    verifier.launch();
    let path = verifier.pricing();
    let text = treacherous("0.004");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let writing =
        tokio::spawn(async move { write_slowly(&path, &text, Duration::from_millis(350)).await });
    while !writing.is_finished() {
        for target in ["/app/one/x", "/app/two/x", "/app/three/x"] {
            let seen = verifier.ask(target).try_send().await;
            let status = seen.map_or(0, |answer| answer.status.as_u16());
            assert!([0, 402, 503].contains(&status), "{target}: {status}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    verifier.wait_ready().await;
    assert_eq!(verifier.ask("/app/three/x").send().await.status, 402);
}

async fn reloads(verifier: &Verifier, result: &str) -> Option<f64> {
    let result = format!("result=\"{result}\"");
    let labels = ["source=\"file\"", result.as_str()];
    verifier
        .metric("x402_verifier_reloads_total", &labels)
        .await
}

#[tokio::test]
async fn r6_a_broken_file_keeps_the_last_good_table_and_everybody_can_see_it() {
    let verifier = Verifier::start(&priced("0.001")).await;
    assert_eq!(reloads(&verifier, "ok").await, Some(1.0));
    assert_eq!(reloads(&verifier, "error").await, Some(0.0));
    let breakages: [(&str, Option<&str>); 4] = [
        ("no YAML", Some("routes: [")),
        ("a wrong setting", Some("unmatched: alow\nroutes: []\n")),
        (
            "a route without a pattern",
            Some("routes: [{price: \"1\"}]\n"),
        ),
        ("gone", None),
    ];
    for (count, (name, text)) in breakages.into_iter().enumerate() {
        match text {
            Some(text) => verifier.write_pricing(text),
            None => fs::remove_file(verifier.pricing()).expect("removed"),
        }
        let failures = f64::from(u32::try_from(count).expect("few")) + 1.0;
        let noticed = || async { reloads(&verifier, "error").await == Some(failures) };
        verifier.eventually(LIVE, name, noticed).await;
        let challenge = verifier.challenge("/paid/x").await;
        assert_eq!(challenge["accepts"][0]["amount"], "1000", "{name}");
        assert_eq!(verifier.ask("/free/x").send().await.status, 200, "{name}");
        let ready = verifier.admin("/readyz").await;
        assert_eq!(ready.text(), "{\"status\":\"ready\"}", "R2, {name}");
        for page in ["/readyz?verbose", "/routes"] {
            let source = verifier.admin(page).await.json()["sources"][0].clone();
            assert_eq!(source["name"], "file", "{name}, {page}");
            assert_eq!(source["state"], "failed", "{name}, {page}");
            assert!(source["lastSuccess"].is_string(), "{name}, {page}");
            let error = source["error"].as_str().unwrap_or_default();
            assert!(error.contains("pricing.yaml"), "{name}, {page}: {error}");
        }
        let told = verifier.log().matches("pricing file not loaded").count();
        assert_eq!(told, count + 1, "one line for each cause");
    }
    verifier.write_pricing(&priced("0.002"));
    costs(&verifier, "2000").await;
    assert_eq!(reloads(&verifier, "ok").await, Some(2.0));
    let source = verifier.admin("/routes").await.json()["sources"][0].clone();
    assert_eq!(source["state"], "ok");
    assert!(source.get("error").is_none(), "{source}");
}

#[tokio::test]
async fn without_watch_the_file_is_read_once() {
    let verifier = Verifier::start_with(&priced("0.001"), &["--watch=false"]).await;
    verifier.write_pricing(&priced("0.002"));
    fs::write(verifier.pricing(), priced("0.003")).expect("in place");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    costs(&verifier, "1000").await;
    assert_eq!(reloads(&verifier, "ok").await, Some(1.0));
}

/// Asks from the launch on until the verifier is ready, and a little longer. A 2xx on the free path
/// has to mean that it is ready; on the paid path there is none.
async fn hammer_start(verifier: &Verifier, mut until: impl FnMut() -> bool) -> Vec<u16> {
    let (paid, free) = (verifier.ask("/paid/x"), verifier.ask("/free/x"));
    let mut seen = Vec::new();
    let started = Instant::now();
    let mut after = 0;
    while after < 20 {
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "{}",
            verifier.log()
        );
        for (ask, sold) in [(&paid, true), (&free, false)] {
            // Nobody listens yet: no answer is no pass.
            let Ok(answer) = ask.try_send().await else {
                continue;
            };
            let status = answer.status.as_u16();
            seen.push(status);
            if status == 503 {
                assert_eq!(verdict(&answer).1, "not_ready");
                assert!(answer.headers.contains_key("retry-after"));
                assert!(!answer.headers.contains_key("payment-required"));
            } else if sold {
                assert_eq!(status, 402, "R1: {}", answer.text());
            } else {
                assert_eq!(status, 200, "{}", answer.text());
                let ready = verifier.admin("/readyz").await;
                assert_eq!(ready.status, 200, "R2: a pass before ready");
            }
        }
        after += usize::from(until() && seen.last() == Some(&200));
    }
    seen
}

#[tokio::test]
async fn r2_nothing_passes_before_ready_in_any_start() {
    let mut verifier = Verifier::prepare(&priced("0.001"), &[]);
    verifier.launch();
    hammer_start(&verifier, || true).await;
    for _ in 0..5 {
        verifier.signal("KILL");
        verifier.exit_code(LIVE).await;
        verifier.launch();
        hammer_start(&verifier, || true).await;
    }
}

#[tokio::test]
async fn r2_a_missing_file_is_not_ready_with_its_cause_until_it_appears() {
    let mut verifier = Verifier::prepare("", &[]);
    fs::remove_file(verifier.pricing()).expect("removed");
    verifier.launch();
    let waits = || async {
        verifier.ask("/free/x").try_send().await.is_ok()
            && verifier.log().contains("pricing file not loaded")
    };
    verifier.eventually(LIVE, "the first answer", waits).await;
    let told = || async { verifier.admin("/readyz").await.text().lines().count() > 1 };
    verifier.eventually(LIVE, "the cause", told).await;
    for target in ["/paid/x", "/free/x", "/nothing"] {
        for ask in [
            verifier.ask(target),
            verifier.ask(target).pinned("shop", "report"),
            verifier.ask(target).without("x-forwarded-uri"),
        ] {
            let answer = ask.send().await;
            assert_eq!(verdict(&answer), (503, "not_ready".to_owned()), "{target}");
            let body = answer.json();
            assert_eq!(body["retriable"], true);
            assert_eq!(body["detail"], "config not loaded");
        }
    }
    let ready = verifier.admin("/readyz").await;
    assert_eq!(ready.status, 503);
    let text = ready.text();
    assert_eq!(text.lines().next(), Some("not ready: config not loaded"));
    assert!(text.contains("pricing.yaml"), "{text}");
    assert_eq!(verifier.admin("/livez").await.status, 200, "it is alive");
    let verbose = verifier.admin("/readyz?verbose").await;
    assert_eq!(verbose.status, 503);
    let verbose = verbose.json();
    assert_eq!(verbose["status"], "not ready: config not loaded");
    assert_eq!(verbose["latches"]["config"], false);
    assert_eq!(verbose["sources"][0]["state"], "pending");

    // A broken one does not help, and is another cause.
    verifier.write_pricing("routes: [");
    let told = || async { verifier.log().matches("pricing file not loaded").count() == 2 };
    verifier.eventually(LIVE, "the other cause", told).await;
    assert_eq!(verifier.ask("/free/x").send().await.status, 503);

    let path = verifier.pricing();
    let appears = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&appears);
    let writing = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        flag.store(true, Ordering::SeqCst);
        fs::write(path, priced("0.001")).expect("in place");
    });
    let seen = hammer_start(&verifier, || appears.load(Ordering::SeqCst)).await;
    writing.await.expect("no panic");
    assert_eq!(seen.first(), Some(&503));
    assert_eq!(
        verifier.admin("/readyz").await.text(),
        "{\"status\":\"ready\"}"
    );
    assert_eq!(
        verifier.admin("/readyz?verbose").await.json()["status"],
        "ready"
    );
}

/// Everything that belongs together in one version of the file.
struct Version {
    amount: &'static str,
    pay_to: &'static str,
    origin: &'static str,
}

const VERSIONS: [Version; 2] = [
    Version {
        amount: "1000",
        pay_to: "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
        origin: "https://a.example",
    },
    Version {
        amount: "2000",
        pay_to: "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        origin: "https://b.example",
    },
];

impl Version {
    fn file(&self, facilitator: &str) -> String {
        let Self {
            amount,
            pay_to,
            origin,
        } = self;
        let price = format!("0.00{}", &amount[..1]);
        format!(
            "chain: base-sepolia\n\
             wallet: \"{pay_to}\"\n\
             facilitatorURL: {facilitator}\n\
             publicOrigin: {origin}\n\
             catalogURL: {origin}/catalog\n\
             routes:\n\
             - {{pattern: \"/paid/*\", price: \"{price}\", offerNamespace: shop, offerName: report}}\n"
        )
    }

    /// The version whose price this is.
    fn of(amount: &Value) -> &'static Self {
        VERSIONS
            .iter()
            .find(|version| amount == version.amount)
            .unwrap_or_else(|| panic!("a price of no version: {amount}"))
    }
}

/// Asks without payment until told to stop; every answer has to be of one version alone.
async fn hammer(ask: Ask, stop: Arc<AtomicBool>, asked: Arc<AtomicUsize>) {
    while !stop.load(Ordering::SeqCst) {
        let answer = ask.send().await;
        assert_eq!(verdict(&answer), (402, "payment_required".to_owned()), "R1");
        let (offer, body) = (challenge_of(&answer), answer.json());
        let version = Version::of(&offer["accepts"][0]["amount"]);
        assert_eq!(offer["accepts"][0]["payTo"], version.pay_to, "R5");
        assert_eq!(
            body["accepts"][0]["maxAmountRequired"], version.amount,
            "R5"
        );
        assert_eq!(body["accepts"][0]["payTo"], version.pay_to, "R5");
        let url = format!("{}/paid/x", version.origin);
        assert_eq!(offer["resource"]["url"], url.as_str(), "R5");
        let link = format!("<{}/catalog>; rel=\"catalog\"", version.origin);
        assert_eq!(answer.headers["link"], link.as_str(), "R5");
        asked.fetch_add(1, Ordering::SeqCst);
    }
}

/// Pays what it was asked for, all the time; a price that changed meanwhile is no match.
async fn buy(ask: Ask, stop: Arc<AtomicBool>) -> usize {
    let (wallet, mut bought) = (Wallet::new(50), 0);
    while !stop.load(Ordering::SeqCst) {
        let challenge = challenge_of(&ask.send().await);
        let answer = ask.clone().pay(&wallet.pay_v2(&challenge)).send().await;
        match verdict(&answer) {
            (200, _) => bought += 1,
            (402, reason) => assert_eq!(reason, "no_matching_requirement"),
            other => panic!("{other:?}: {}", answer.text()),
        }
    }
    bought
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_no_request_sees_two_versions_while_they_alternate() {
    let facilitator = Scripted::start().await;
    let text = VERSIONS[0].file(&facilitator.url());
    let verifier = Verifier::start(&format!(
        "limits: {{verifyRatePerPayer: 10000, verifyRatePerOffer: 10000}}\n{text}"
    ))
    .await;
    let (stop, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let hammers: Vec<_> = (0..3)
        .map(|_| tokio::spawn(hammer(verifier.ask("/paid/x"), stop.clone(), asked.clone())))
        .collect();
    let buyer = tokio::spawn(buy(verifier.ask("/paid/x"), stop.clone()));
    let mut generation = 0;
    for flip in 1..=FLIPS {
        let version = &VERSIONS[flip % 2];
        verifier.write_pricing(&version.file(&facilitator.url()));
        let grows = || async {
            let page = verifier.admin("/routes").await.json();
            let route = page["routes"][0]["accepts"][0].clone();
            assert_eq!(route["payTo"], Version::of(&route["amount"]).pay_to, "R5");
            page
        };
        let started = Instant::now();
        loop {
            let page = grows().await;
            let now = page["generation"].as_u64().expect("a number");
            assert!(now >= generation, "R5: generation {now} after {generation}");
            generation = now;
            if page["routes"][0]["accepts"][0]["amount"] == version.amount {
                break;
            }
            assert!(started.elapsed() < LIVE, "flip {flip}: {}", verifier.log());
        }
    }
    stop.store(true, Ordering::SeqCst);
    for hammer in hammers {
        hammer.await.expect("every answer of one version");
    }
    let bought = buyer.await.expect("every payment bought or did not match");
    let asked = asked.load(Ordering::SeqCst);
    assert!(asked > 10 * FLIPS, "only {asked} requests");
    assert!(bought > 0, "somebody bought");
    assert_eq!(facilitator.settles(), bought, "R8");
    for call in facilitator.calls() {
        // M1: our requirement, one version of it, and the one that was signed.
        let ours = &call.body["paymentRequirements"];
        let signed = &call.body["paymentPayload"]["payload"]["authorization"];
        assert_eq!(ours["payTo"], Version::of(&ours["amount"]).pay_to);
        assert_eq!(
            (&ours["payTo"], &ours["amount"]),
            (&signed["to"], &signed["value"])
        );
    }
}
