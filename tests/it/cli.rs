//! The command from outside: exit statuses, messages, and what each subcommand prints.

use crate::harness::{Verifier, pricing};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

fn run(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_x402-verifier"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("X402_")) {
        command.env_remove(name);
    }
    command
        .args(args)
        .current_dir(folder)
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn folder_with(pricing: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("pricing.yaml"), pricing).expect("writable");
    folder
}

#[test]
fn help_names_every_command_and_flag() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(folder.path(), &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for word in [
        "serve",
        "check",
        "explain",
        "ready",
        "demo",
        "--config",
        "--listen",
        "--admin-listen",
        "--route-source",
        "--watch",
        "--kubeconfig",
        "--watch-namespaces",
        "--offer-selector",
        "--ledger",
        "--shutdown-delay",
        "--log-format",
        "X402_LEDGER",
        "KUBECONFIG",
    ] {
        assert!(help.contains(word), "{word} is missing:\n{help}");
    }
}

#[test]
fn bad_flags_are_exit_2() {
    let folder = folder_with(&pricing("https://facilitator.example"));
    for args in [
        &["--listen", "nowhere"][..],
        &["--ledger", "redis:x"],
        &["--shutdown-delay", "5"],
        &["--frobnicate"],
        &["--route-source", "configmap"],
        &["--watch-namespaces", "a", "--config", "pricing.yaml"],
        &["--route-source", "kube", "--watch-namespaces", "A"],
        &["--route-source", "kube", "--predecessor-secrets", "a/other"],
    ] {
        let output = run(folder.path(), args);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {}",
            text(&output.stderr)
        );
        assert!(!output.stderr.is_empty(), "{args:?} says why");
    }
}

#[test]
fn what_cannot_start_is_exit_1_and_says_what_to_do() {
    let folder = folder_with(&pricing("https://facilitator.example"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("bound");
    let serve = |args: &[&str]| {
        let output = run(
            folder.path(),
            &[&["--admin-listen=127.0.0.1:0"], args].concat(),
        );
        assert_eq!(
            output.status.code(),
            Some(1),
            "{args:?}: {}",
            text(&output.stderr)
        );
        text(&output.stderr)
    };
    let busy = serve(&["--config=pricing.yaml", &format!("--listen={taken}")]);
    assert!(busy.contains(&taken.to_string()), "{busy}");
    let unwritable = serve(&[
        "--config=pricing.yaml",
        "--listen=127.0.0.1:0",
        "--ledger=sqlite:/proc/no/ledger.db",
    ]);
    assert!(unwritable.contains("--ledger"), "{unwritable}");
    assert!(unwritable.contains("memory"), "{unwritable}");
    let missing = serve(&["--listen=127.0.0.1:0", "--watch=false", "--config=no.yaml"]);
    assert!(missing.contains("no.yaml"), "{missing}");
}

#[test]
fn check_reports_every_problem_with_its_place() {
    let folder = folder_with(
        "chain: base-sepolia\n\
         wallet: \"0x209693Bc6afc0C5328bA36FaF03C514EF312287C\"\n\
         facilitatorURL: https://facilitator.example\n\
         facilitatorUrl2: x\n\
         routes:\n\
         - {pattern: /a, price: \"1e-3\"}\n\
         - {pattern: /b, price: \"0\"}\n\
         - {pattern: /c, price: \"0.001\"}\n",
    );
    let args = ["check", "--config", "pricing.yaml", "--format", "json"];
    let output = run(folder.path(), &args);
    assert_eq!(output.status.code(), Some(1));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(found["ok"], false);
    let lines: Vec<_> = found["problems"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|problem| {
            (
                problem["severity"].as_str().unwrap(),
                problem["line"].as_u64().unwrap(),
            )
        })
        .collect();
    assert!(lines.contains(&("warning", 4)), "{found}");
    assert!(lines.contains(&("error", 6)), "{found}");
    assert!(lines.contains(&("error", 7)), "{found}");
    assert!(!lines.iter().any(|(_, line)| *line == 8), "{found}");
}

#[test]
fn check_strict_turns_warnings_into_failure() {
    let text = format!("{}unknownKey: 1\n", pricing("https://facilitator.example"));
    let folder = folder_with(&text);
    let relaxed = run(folder.path(), &["check", "--config", "pricing.yaml"]);
    assert_eq!(
        relaxed.status.code(),
        Some(0),
        "{}",
        self::text(&relaxed.stdout)
    );
    let strict = run(
        folder.path(),
        &["check", "--config", "pricing.yaml", "--strict"],
    );
    assert_eq!(strict.status.code(), Some(1));
    assert!(self::text(&strict.stdout).contains("unknownKey"));
}

#[test]
fn explain_shows_the_steps_and_the_response() {
    let folder = folder_with(&pricing("https://facilitator.example"));
    let explain = |target: &str| {
        let args = ["explain", "--config", "pricing.yaml", "GET", target];
        let output = run(folder.path(), &args);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let paid = explain("https://shop.example/paid/x");
    assert!(paid.contains("/paid/*") && paid.contains("402"), "{paid}");
    assert!(
        paid.contains("payment-required, decoded: {\"x402Version\":2"),
        "{paid}"
    );
    assert!(explain("/free/x").contains("200"));
    assert!(explain("/elsewhere").contains("no_route"));
    assert!(explain("/free/%2e%2e/paid/x").contains("400"));
}

#[test]
fn explain_knows_a_preflight_as_serve_does() {
    let open = pricing("https://facilitator.example")
        .replace("price: \"0.001\",", "price: \"0.001\", preflight: pass,");
    let folder = folder_with(&open);
    let explain = |more: &[&str]| {
        let fixed = [
            "explain",
            "--config",
            "pricing.yaml",
            "--header",
            "Origin: https://a.example",
        ];
        let asked = [
            "--header",
            "Access-Control-Request-Method: GET",
            "OPTIONS",
            "/paid/x",
        ];
        let output = run(folder.path(), &[&fixed[..], more, &asked[..]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert!(explain(&[]).contains("200 OK"));
    assert!(explain(&["--header", "X_HTTP_Method_Override: GET"]).contains("402"));
    assert!(explain(&["--header", "Content-Type: text/plain"]).contains("402"));
}

#[tokio::test]
async fn ready_prints_the_readiness_and_exits_0_or_1() {
    let mut verifier = Verifier::prepare("routes: [", &[]);
    verifier.launch();
    let admin = verifier.admin_url("");
    let admin = admin.trim_start_matches("http://").to_owned();
    let home = verifier.home().to_owned();
    let ask = move || run(&home, &["ready", "--admin", &admin]);
    let log_has_cause = || async { verifier.log().contains("pricing.yaml") };
    verifier
        .eventually(Duration::from_secs(10), "a cause in the log", log_has_cause)
        .await;
    let unready = ask();
    assert_eq!(unready.status.code(), Some(1));
    let sentence = text(&unready.stdout) + &text(&unready.stderr);
    assert!(sentence.contains("config not loaded"), "{sentence}");
    verifier.write_pricing(&pricing("https://facilitator.example"));
    verifier.wait_ready().await;
    let ready = ask();
    assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
    verifier.signal("KILL");
}

#[test]
fn demo_pays_a_request_on_this_machine() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(folder.path(), &["demo"]);
    let told = text(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{told}\n{}",
        text(&output.stderr)
    );
    for word in [
        "SIMULATED",
        "402",
        "0.001 USDC",
        "200",
        "receipt",
        "409",
        "payment_used",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(
        std::fs::read_dir(folder.path())
            .expect("a folder")
            .next()
            .is_none()
    );
}
