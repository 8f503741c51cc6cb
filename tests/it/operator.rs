//! The operator's commands from outside, against a running verifier: `closed list`, `closed release`,
//! `routes` and `explain --live`, as `kubectl exec POD -- /x402-verifier ...` runs them.

use crate::harness::{NO_FACILITATOR, SELLER, Verifier, Wallet, pricing};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

/// A release is taken up within a second; five times that.
const TAKEN_UP: Duration = Duration::from_secs(5);
const WITHDRAWN: (u16, &str) = (410, "offer_withdrawn");

/// Runs a command in the verifier's folder with an environment as in its pod; whether it succeeded,
/// and what it said.
async fn run_with(
    verifier: &Verifier,
    environment: &[(&str, &str)],
    args: &[&str],
) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_x402-verifier"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("X402_")) {
        command.env_remove(name);
    }
    command
        .args(args)
        .envs(environment.iter().copied())
        .current_dir(verifier.home());
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("no panic")
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

/// The same where only the admin address is not the default.
async fn run(verifier: &Verifier, args: &[&str]) -> (bool, String) {
    let admin = verifier.admin_url("");
    let admin = admin.trim_start_matches("http://");
    let environment = [("X402_ADMIN_LISTEN", admin)];
    run_with(verifier, &environment, args).await
}

pub(crate) async fn succeeds(verifier: &Verifier, args: &[&str]) -> String {
    let (ok, said) = run(verifier, args).await;
    assert!(ok, "{args:?}: {said}");
    said
}

pub(crate) async fn fails(verifier: &Verifier, args: &[&str]) -> String {
    let (ok, said) = run(verifier, args).await;
    assert!(!ok, "{args:?}: {said}");
    assert!(said.starts_with("x402-verifier: "), "{said}");
    said
}

async fn closed(verifier: &Verifier) -> Vec<Value> {
    let said = succeeds(verifier, &["closed", "list", "--format", "json"]).await;
    let list: Value = serde_json::from_str(&said).expect("JSON");
    list["closed"].as_array().expect("a list").clone()
}

/// The routes of [`pricing`] without the paid one.
fn without_paid(settings: &str) -> String {
    let text = pricing(NO_FACILITATOR);
    let rest: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("/paid/*"))
        .collect();
    format!("{settings}{}\n", rest.join("\n"))
}

/// R4: what was paid stays closed until the operator releases it, and then it is nobody's.
#[tokio::test]
async fn r4_a_closed_path_is_listed_and_released_by_the_operator_alone() {
    let mut verifier = Verifier::start(&pricing(NO_FACILITATOR)).await;
    assert_eq!(
        succeeds(&verifier, &["closed", "list"]).await,
        "no path is closed\n"
    );
    let live = fails(&verifier, &["closed", "release", "/paid/*"]).await;
    assert!(
        live.contains("the offer shop/report is there and has it"),
        "R3: {live}"
    );
    verifier
        .becomes(TAKEN_UP, "/paid/x", (402, "payment_required"))
        .await;

    verifier.write_pricing(&without_paid("unmatched: allow\n"));
    verifier.becomes(TAKEN_UP, "/paid/x", WITHDRAWN).await;
    let rows = closed(&verifier).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    let row = &rows[0];
    assert_eq!(
        (&row["path"], &row["reason"], &row["releasable"]),
        (&json!("/paid/*"), &json!("withdrawn"), &json!(true))
    );
    assert_eq!(row["offer"], json!({"namespace": "shop", "name": "report"}));
    let time = |key: &str| -> jiff::Timestamp { row[key].as_str().unwrap().parse().unwrap() };
    assert!(time("since") < time("until"));
    let text = succeeds(&verifier, &["closed", "list"]).await;
    for part in ["PATH", "UNTIL", "/paid/*", "shop/report", "withdrawn"] {
        assert!(text.contains(part), "{part}: {text}");
    }

    // What is not closed is refused with what may have been meant; nothing has changed by it.
    for (path, why) in [
        ("/paid/x", "it lies below /paid/*"),
        ("/elsewhere", "/elsewhere is not closed"),
        ("/free/*", "/free/* is not closed"),
    ] {
        let said = fails(&verifier, &["closed", "release", path]).await;
        assert!(said.contains(why), "{path}: {said}");
    }
    verifier.becomes(TAKEN_UP, "/paid/x", WITHDRAWN).await;

    // A crash in between: the ledger remembers what is closed.
    verifier.crash_and_restart().await;
    verifier.becomes(TAKEN_UP, "/paid/x", WITHDRAWN).await;

    let said = succeeds(&verifier, &["closed", "release", "/paid/*"]).await;
    assert!(
        said.starts_with("released /paid/* (the offer shop/report, closed 20"),
        "{said}"
    );
    assert!(said.contains("has taken it up"), "{said}");
    // It is what it would be had it never been sold: `unmatched: allow`.
    assert_eq!(verifier.ask("/paid/x").send().await.status, 200);
    assert!(closed(&verifier).await.is_empty());
    let again = fails(&verifier, &["closed", "release", "/paid/*"]).await;
    assert!(again.contains("is not closed"), "{again}");

    verifier.crash_and_restart().await;
    assert_eq!(verifier.ask("/paid/x").send().await.status, 200);
    // Sold and left once more, it is closed once more: the release was of that closing.
    verifier.write_pricing(&pricing(NO_FACILITATOR));
    verifier
        .becomes(TAKEN_UP, "/paid/x", (402, "payment_required"))
        .await;
    verifier.write_pricing(&without_paid("unmatched: allow\n"));
    verifier.becomes(TAKEN_UP, "/paid/x", WITHDRAWN).await;
    verifier.crash_and_restart().await;
    verifier.becomes(TAKEN_UP, "/paid/x", WITHDRAWN).await;
}

/// Nobody runs while it is released, and it says so; the ledger is named by flag.
#[tokio::test]
async fn a_path_is_released_while_no_verifier_runs() {
    let mut verifier = Verifier::start(&pricing(NO_FACILITATOR)).await;
    verifier.write_pricing(&without_paid(""));
    verifier.becomes(TAKEN_UP, "/paid/x", WITHDRAWN).await;
    verifier.signal("TERM");
    assert_eq!(
        verifier.exit_code(Duration::from_secs(20)).await,
        Some(0),
        "it ends"
    );
    let unknown = fails(&verifier, &["closed", "release", "/paid/*"]).await;
    assert!(unknown.contains("Name it with --ledger"), "{unknown}");
    let ledger = format!("sqlite:{}", verifier.ledger().display());
    let args = ["closed", "release", "/paid/*", "--ledger", &ledger];
    let said = succeeds(&verifier, &args).await;
    assert!(said.contains("is not known"), "{said}");
    assert!(said.contains("when it starts"), "{said}");
    verifier.launch();
    verifier.wait_ready().await;
    verifier
        .becomes(TAKEN_UP, "/paid/x", (403, "no_route"))
        .await;
    assert!(closed(&verifier).await.is_empty());
}

#[tokio::test]
async fn what_cannot_be_released_is_told_with_what_to_do() {
    let verifier = Verifier::start(&pricing(NO_FACILITATOR)).await;
    let memory = ["closed", "release", "/paid/*", "--ledger", "memory"];
    let memory = fails(&verifier, &memory).await;
    assert!(memory.contains("kept in memory"), "{memory}");
    let missing = [
        "closed",
        "release",
        "/x",
        "--ledger",
        "sqlite:/nowhere/x.db",
    ];
    let missing = fails(&verifier, &missing).await;
    assert!(
        missing.contains("there is no ledger /nowhere/x.db"),
        "{missing}"
    );
    let file = verifier.home().join("notes.txt");
    std::fs::write(&file, "no database, but some text").expect("writable");
    let url = format!("sqlite:{}", file.display());
    let other = fails(&verifier, &["closed", "release", "/x", "--ledger", &url]).await;
    assert!(other.contains("damaged or no SQLite file"), "{other}");
    assert_eq!(
        std::fs::read_to_string(&file).expect("there"),
        "no database, but some text"
    );
}

/// The same steps as offline, of the table that requests see, and what only that knows.
#[tokio::test]
async fn explain_live_answers_from_the_running_table() {
    let verifier = Verifier::start(&pricing(NO_FACILITATOR)).await;
    let live = |args: &'static [&'static str]| {
        let verifier = &verifier;
        async move { succeeds(verifier, &[&["explain", "--live"], args].concat()).await }
    };
    let offline = |args: &'static [&'static str]| {
        let verifier = &verifier;
        async move {
            let fixed = ["explain", "--config", "pricing.yaml"];
            succeeds(verifier, &[&fixed, args].concat()).await
        }
    };
    for args in [
        &["GET", "https://shop.example/paid/x"][..],
        &["GET", "/free/x"],
        &["GET", "/free/%2e%2e/paid/x"],
        &["--address", "/verify/shop/report", "POST", "/undeclared"],
        &["--header", "X-PAYMENT: %", "GET", "/paid/x"],
    ] {
        let (table, steps) = live(args).await.split_once('\n').map(owned).unwrap();
        assert!(
            table.starts_with("table       generation 2 of 20"),
            "{table}"
        );
        let (_file, expected) = offline(args).await.split_once('\n').map(owned).unwrap();
        let expected = expected.replace(" (closed paths live in the ledger, not here)", "");
        assert_eq!(steps, expected, "{args:?}");
    }

    // What came after the start, and what is closed.
    verifier.write_pricing(&without_paid(""));
    verifier.becomes(TAKEN_UP, "/paid/x", WITHDRAWN).await;
    let said = live(&["GET", "/paid/x"]).await;
    assert!(said.contains("\nroute       no live route\n"), "{said}");
    assert!(
        said.contains("closed      /paid/* of shop/report: was paid and left: answers 410"),
        "{said}"
    );
    assert!(said.contains("410 Gone"), "{said}");
}

fn owned((head, rest): (&str, &str)) -> (String, String) {
    (head.to_owned(), rest.to_owned())
}

/// R13: a payment is read, its signature stays out of the answer and of the log.
#[tokio::test]
async fn r13_explain_live_tells_no_secret() {
    let text = format!(
        "{}- {{pattern: \"/up/*\", price: \"0.001\", upstreamAuth: \"Bearer tell-nobody\"}}\n",
        pricing(NO_FACILITATOR)
    );
    let verifier = Verifier::start(&text).await;
    let wallet = Wallet::new(1);
    let payment = wallet.pay_v2(&verifier.challenge("/up/x").await);
    let header = format!(
        "Payment-Signature: {}",
        base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            payment.to_string()
        )
    );
    let args = ["explain", "--live", "--header", &header, "GET", "/up/x"];
    let said = succeeds(&verifier, &args).await;
    assert!(said.contains("signature   recovers to the payer"), "{said}");
    assert!(said.contains("200 once verified"), "{said}");
    let signature = payment["payload"]["signature"].as_str().unwrap();
    let log = verifier.log();
    for secret in [signature, header.as_str(), "tell-nobody"] {
        assert!(!said.contains(secret), "{said}");
        assert!(!log.contains(secret));
    }
    // Nothing was claimed, verified or settled by asking.
    assert_eq!(
        verifier.metric("x402_verifier_claims_in_flight", &[]).await,
        Some(0.0)
    );
    let calls = "x402_verifier_facilitator_request_duration_seconds_count";
    assert!(matches!(
        verifier.metric(calls, &[]).await,
        None | Some(0.0)
    ));
}

#[tokio::test]
async fn explain_live_refuses_what_is_no_question() {
    let verifier = Verifier::start(&pricing(NO_FACILITATOR)).await;
    for (args, why) in [
        (&["--header", "nonsense", "GET", "/x"][..], "Name: value"),
        (
            &["--address", "/elsewhere", "GET", "/x"],
            "/verify/NAMESPACE/NAME",
        ),
        (&["GET", "ftp://x/y"], "neither a path nor"),
    ] {
        let said = fails(&verifier, &[&["explain", "--live"], args].concat()).await;
        assert!(said.contains(why), "{said}");
    }
    let long = format!("X-Long: {}", "x".repeat(70_000));
    let args = ["explain", "--live", "--header", &long, "GET", "/x"];
    let said = fails(&verifier, &args).await;
    assert!(said.contains("at most 65536 bytes"), "{said}");
    let nobody = [("X402_ADMIN_LISTEN", "127.0.0.1:1")];
    let (ok, said) = run_with(&verifier, &nobody, &["explain", "--live", "GET", "/x"]).await;
    assert!(
        !ok && said.contains("cannot reach the admin port"),
        "{said}"
    );
}

/// R2: before it is ready every request is refused, whatever the table says.
#[tokio::test]
async fn r2_explain_live_says_that_the_process_is_not_ready() {
    let mut verifier = Verifier::prepare("routes: [", &[]);
    verifier.launch();
    let has_cause = || async { verifier.log().contains("pricing.yaml") };
    verifier
        .eventually(Duration::from_secs(10), "a cause in the log", has_cause)
        .await;
    let said = succeeds(&verifier, &["explain", "--live", "GET", "/x"]).await;
    assert!(
        said.contains("process     config not loaded: every request gets 503"),
        "{said}"
    );
}

#[tokio::test]
async fn routes_are_shown_for_people_and_for_machines() {
    let text = format!(
        "{}- {{pattern: \"/broken/*\", price: \"0,1\"}}\n",
        pricing(NO_FACILITATOR)
    );
    let verifier = Verifier::start(&text).await;
    let said = succeeds(&verifier, &["routes"]).await;
    for part in [
        "source file ok",
        "0.001 USDC on eip155:84532",
        "misconfigured  /broken/*  -            file    503",
        "    invalid_price: ",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let args = [
        "routes", "--name", "report", "--state", "live", "--format", "json",
    ];
    let page: Value = serde_json::from_str(&succeeds(&verifier, &args).await).expect("JSON");
    let routes = page["routes"].as_array().unwrap();
    assert_eq!(routes.len(), 2, "{page}");
    assert_eq!(routes[0]["accepts"][0]["payTo"], SELLER);
    assert_eq!(routes[0]["accepts"][0]["symbol"], "USDC");
    let (ok, _) = run(&verifier, &["routes", "--state", "sold"]).await;
    assert!(!ok);
}
