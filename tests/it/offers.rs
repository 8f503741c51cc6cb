//! Manifests of offers from outside: `crd`, `check --offer`, `explain --offer`, and the page about
//! them.

use std::path::Path;
use std::process::Command;
use x402_verifier::crd::Reason;

const SOUND: &str = r#"
apiVersion: obol.org/v1alpha1
kind: ServiceOffer
metadata: {name: llm, namespace: shop}
spec:
  payment:
    network: base
    payTo: "0x1111111111111111111111111111111111111111"
    price: {perRequest: "0.001"}
  routes:
  - {path: /v1/*}
  - {path: /health, gate: free}
"#;

fn run(args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_x402-verifier"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("X402_")) {
        command.env_remove(name);
    }
    let output = command.args(args).output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said)
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("writable");
    }
    folder
}

fn name(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn manifests_are_checked_without_a_pricing_file() {
    let folder = folder(&[("a.yaml", SOUND), ("notes.txt", "not looked at")]);
    let (status, said) = run(&["check", "--strict", "--offer", name(folder.path())]);
    assert_eq!(status, Some(0), "{said}");
}

#[test]
fn problems_name_file_and_document_and_other_kinds_are_skipped() {
    let broken = SOUND
        .replace("\"0.001\"", "\"0,001\"")
        .replace("name: llm", "name: other");
    let text = format!("kind: ConfigMap\n---{SOUND}---{broken}---\n{{broken\n---{SOUND}");
    let folder = folder(&[("offers.yaml", &text)]);
    let (status, said) = run(&["check", "--offer", name(folder.path())]);
    assert_eq!(status, Some(1), "{said}");
    for part in [
        "offers.yaml:1:1: note[skipped]",
        "document 1 is skipped: it is ConfigMap",
        "error[invalid_price] shop/other /services/other/v1/*: spec.payment.price.perRequest",
        "document 4 cannot be read: it is not YAML: line 27",
        "document 5 is the offer shop/llm again",
        "not ok: 3 error(s)",
    ] {
        assert!(said.contains(part), "{part} is missing:\n{said}");
    }
}

#[test]
fn explain_answers_what_the_cluster_would() {
    let broken = SOUND
        .replace("\"0.001\"", "0.001")
        .replace("name: llm", "name: other");
    let folder = folder(&[("a.yaml", SOUND), ("b.yaml", &broken)]);
    let offers = name(folder.path());
    for (target, parts) in [
        (
            "/services/llm/v1/x",
            ["shop/llm", "402 Payment Required", "eip155:8453"],
        ),
        (
            "/services/llm/health",
            ["shop/llm", "gate        free", "200 OK"],
        ),
        (
            "/services/llm/undeclared",
            ["no live route", "403 Forbidden", "no_route"],
        ),
        (
            "/services/other/v1/x",
            [
                "problem     spec.payment",
                "503 Service",
                "offer_misconfigured",
            ],
        ),
    ] {
        let (status, said) = run(&["explain", "--offer", offers, "GET", target]);
        assert_eq!(status, Some(0), "{said}");
        for part in parts {
            assert!(said.contains(part), "{target}: {part} is missing:\n{said}");
        }
    }
}

#[test]
fn o1_of_two_manifests_the_earlier_one_has_the_path() {
    let thief = SOUND
        .replace("namespace: shop", "namespace: a")
        .replace("spec:", "spec:\n  path: /services/llm/v1");
    let folder = folder(&[
        ("1.yaml", SOUND),
        ("2.yaml", &thief.replace("name: llm", "name: thief")),
    ]);
    let (status, said) = run(&["check", "--offer", name(folder.path())]);
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("2.yaml:1:1: error[PathConflict] a/thief"),
        "{said}"
    );
    assert!(!said.contains("1.yaml"), "{said}");
}

#[test]
fn o2_the_operators_file_beats_a_manifest() {
    let pricing = "facilitatorURL: https://facilitator.example\nroutes:\n- {pattern: /services/llm/v1/*, gate: free}\n";
    let folder = folder(&[("a.yaml", SOUND), ("pricing.txt", pricing)]);
    let file = folder.path().join("pricing.txt");
    let (status, said) = run(&[
        "check",
        "--config",
        name(&file),
        "--offer",
        name(folder.path()),
    ]);
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("PathConflict") && said.contains("operator"),
        "{said}"
    );
}

#[test]
fn the_definition_and_the_policy_are_printed() {
    let (status, said) = run(&["crd"]);
    assert_eq!(status, Some(0));
    assert!(said.contains("name: serviceoffers.obol.org"), "{said}");
    for (args, failure) in [
        (["crd", "--policy", ""], "failurePolicy: Ignore"),
        (["crd", "--policy", "--deny"], "failurePolicy: Fail"),
        (["crd", "--policy", "--enforce"], "failurePolicy: Fail"),
    ] {
        let args: Vec<_> = args.into_iter().filter(|arg| !arg.is_empty()).collect();
        let (status, said) = run(&args);
        assert_eq!(status, Some(0));
        assert!(said.contains(failure), "{said}");
    }
    assert_eq!(run(&["crd", "--deny"]).0, Some(2));
}

#[test]
fn every_reason_of_the_condition_is_explained_to_sellers() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/offers.md");
    let page = std::fs::read_to_string(page).expect("docs/offers.md");
    for reason in Reason::ALL {
        let row = format!("| `{}` |", reason.as_str());
        assert!(page.contains(&row), "{row} is missing");
    }
}

#[test]
fn every_offer_in_the_documentation_is_sound() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/offers.md");
    let page = std::fs::read_to_string(page).expect("docs/offers.md");
    let blocks: Vec<_> = page.split("```yaml offer\n").skip(1).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let text = block.split("```").next().expect("a block");
        let folder = folder(&[("offer.yaml", text)]);
        let (status, said) = run(&["check", "--strict", "--offer", name(folder.path())]);
        assert_eq!(status, Some(0), "{text}\n{said}");
    }
}
