//! `x402-verifier crd --policy`: what a seller is told when an offer is applied, and that it is the truth.
//!
//! Every offer of [`cases`] is sent three times: under our definition with the policy that warns, then with the one
//! that denies, and under the field's definition, whose own schema may refuse it first. Each is also given to
//! `x402-verifier check --offer`, because a policy that is of another mind than the gate would be worse than none.
//! Warnings are read from the header of the answer, where kubectl and every other client finds them.

use std::{path::Path, process::Command, time::Duration};

use http::header;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::schema::{kubectl, printed};
use crate::{
    harness::SELLER,
    parts::control_plane::{Cluster, ControlPlane, offer},
};

/// A policy is compiled and bound by the API server a moment after it was applied.
const BOUND: Duration = Duration::from_secs(20);
const NAME: &str = "serviceoffers.x402.obol.org";

/// An offer, and a part of what its seller is told; none when it is sound.
struct Case {
    name: String,
    offer: Value,
    told: Option<&'static str>,
}

/// What the API server said to a creation.
#[derive(Debug)]
struct Said {
    code: u16,
    /// Values of `Warning` headers, without code, agent and quotes.
    warnings: Vec<String>,
    message: String,
}

/// An offer with this at a pointer below its spec; objects on the way are made.
fn with(mut offer: Value, pointer: &str, value: Value) -> Value {
    let mut at = &mut offer["spec"];
    for step in pointer.split('/') {
        at = match step.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_name) => &mut at[step],
        };
    }
    *at = value;
    offer
}

fn without(mut offer: Value, parent: &str, name: &str) -> Value {
    let at = offer.pointer_mut(parent).unwrap();
    at.as_object_mut().unwrap().remove(name);
    offer
}

fn cases() -> Vec<Case> {
    let sound = || offer("shop", "x", "0.001");
    let payment = sound()["spec"]["payment"].clone();
    let other = |pointer: &str, value: Value| {
        let mut other = payment.clone();
        other[pointer] = value;
        other
    };
    let price = |text: &str| with(sound(), "payment/price/perRequest", json!(text));
    let path = |text: &str| with(sound(), "path", json!(text));
    let route = |route: Value| with(sound(), "routes", json!([route]));
    let number = Some("a price is no decimal number above zero: write digits");
    let nothing = Some("a price names no price of a request: write perRequest");
    let payee = Some("spec.payment.payTo is missing or no address that can be paid");
    let network = Some("spec.payment.network is missing or no network: write a CAIP-2 id");
    let first = Some("spec.payment differs from spec.payments[0]: write the same in both");
    let no_path = Some("spec.path is no path that a request can have: write one such as");
    let reserved = Some("spec.path is reserved: choose another");
    let no_route = Some("the path of a route is no path that a request can have");
    let zero = format!("0x{}", "0".repeat(40));
    let list = [
        ("plain", sound(), None),
        (
            "per million tokens",
            with(sound(), "payment/price", json!({"perMTok": "2.5"})),
            None,
        ),
        (
            "several payments",
            with(
                sound(),
                "payments",
                json!([payment, other("network", json!("base"))]),
            ),
            None,
        ),
        (
            "payments with defaults",
            with(
                sound(),
                "payments",
                json!([other("maxTimeoutSeconds", json!(300))]),
            ),
            None,
        ),
        ("dollars", price("$1"), None),
        ("no path", without(sound(), "/spec", "path"), None),
        ("deep path", path("/services/shop/v1/"), None),
        (
            "routes",
            with(
                sound(),
                "routes",
                json!([
                    {"path": "/"}, {"path": "/v1/*", "price": {"perRequest": "1"}}, {"path": "/models-*/info", "gate": "free"},
                ]),
            ),
            None,
        ),
        ("comma", price("0,01"), number),
        ("zero", price("0.000"), number),
        ("negative", price("-1"), number),
        ("exponent", price("1e3"), number),
        ("words", price("a lot"), number),
        (
            "price of a route",
            route(json!({"path": "/x", "price": {"perRequest": "x"}})),
            number,
        ),
        (
            "no price",
            with(sound(), "payment/price", json!({"perEpoch": "1"})),
            nothing,
        ),
        ("empty price", price(""), nothing),
        (
            "payee zero",
            with(sound(), "payment/payTo", json!(zero)),
            payee,
        ),
        (
            "payee a name",
            with(sound(), "payment/payTo", json!("seller.eth")),
            payee,
        ),
        (
            "payee missing",
            without(sound(), "/spec/payment", "payTo"),
            payee,
        ),
        (
            "payee the token",
            with(
                with(
                    sound(),
                    "payment/asset",
                    json!({"address": SELLER.to_lowercase()}),
                ),
                "payment/payTo",
                json!(SELLER),
            ),
            Some("spec.payment.payTo is the token itself"),
        ),
        (
            "a card",
            with(
                sound(),
                "payment",
                json!({"method": "card", "card": {"account": "acct_1"}, "price": {"perRequest": "1"}}),
            ),
            Some("spec.payment.method is not crypto: this gate knows only crypto"),
        ),
        (
            "network a title",
            with(sound(), "payment/network", json!("Base Mainnet")),
            network,
        ),
        (
            "payments differ",
            with(
                sound(),
                "payments",
                json!([other("network", json!("base"))]),
            ),
            first,
        ),
        (
            "payments swapped",
            with(
                sound(),
                "payments",
                json!([other("network", json!("base")), payment]),
            ),
            first,
        ),
        ("dots", path("/a/../b"), no_path),
        ("empty segment", path("/a//b"), no_path),
        ("root", path("/"), no_path),
        ("all services", path("/services/"), reserved),
        ("api", path("/API/x"), reserved),
        (
            "route with dots",
            route(json!({"path": "/a/../b"})),
            no_route,
        ),
        (
            "route with stars",
            route(json!({"path": "/a/**"})),
            no_route,
        ),
        (
            "route to sign in",
            route(json!({"path": "/auth/x"})),
            no_route,
        ),
    ];
    let numbered = list.into_iter().enumerate();
    numbered
        .map(|(n, (name, mut offer, told))| {
            offer["metadata"]["name"] = json!(format!("case-{n}"));
            Case {
                name: name.to_owned(),
                offer,
                told,
            }
        })
        .collect()
}

/// All that the policy has to say.
fn messages() -> Vec<String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&printed(&["--policy"])).unwrap();
    let validations = documents[0]["spec"]["validations"].as_array().unwrap();
    let messages = validations
        .iter()
        .map(|one| one["message"].as_str().unwrap());
    messages.map(str::to_owned).collect()
}

/// Creates an offer and deletes it again, if it was let in.
async fn send(cluster: &Cluster, offer: &Value) -> Said {
    let said = request(cluster, http::Method::POST, "", "application/json", offer).await;
    if said.code == 201 {
        let name = offer["metadata"]["name"].as_str().unwrap();
        cluster.delete_offer("shop", name).await;
    }
    said
}

async fn request(
    cluster: &Cluster,
    method: http::Method,
    below: &str,
    kind: &str,
    body: &Value,
) -> Said {
    let uri = format!("/apis/obol.org/v1alpha1/namespaces/shop/serviceoffers{below}");
    let request = http::Request::builder()
        .method(method)
        .uri(uri)
        .header(header::CONTENT_TYPE, kind)
        .body(kube::client::Body::from(body.to_string().into_bytes()))
        .unwrap();
    let answer = cluster.client().send(request).await.unwrap();
    let warnings = answer.headers().get_all(header::WARNING).iter();
    let warnings = warnings.map(|value| {
        let value = value.to_str().expect("a header of ASCII");
        let text = value
            .strip_prefix("299 - \"")
            .and_then(|text| text.strip_suffix('"'));
        text.unwrap_or(value).replace("\\\"", "\"")
    });
    let (code, warnings) = (answer.status().as_u16(), warnings.collect());
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let message = body["message"].as_str().unwrap_or_default().to_owned();
    Said {
        code,
        warnings,
        message,
    }
}

/// A control plane with a definition and a namespace.
async fn scene(definition: Option<&str>) -> (ControlPlane, Cluster) {
    let control = ControlPlane::start().await;
    let cluster = control.cluster();
    match definition {
        Some(definition) => cluster.apply(definition).await,
        None => cluster.install_field_crd().await,
    }
    cluster.namespace("shop").await;
    (control, cluster)
}

/// Applies what the binary prints, as the page says, and waits until a bad offer gets this.
async fn bind(
    control: &ControlPlane,
    cluster: &Cluster,
    flags: &[&str],
    bound: impl Fn(&Said) -> bool,
) {
    let (ok, said, error) = kubectl(control, &["apply", "-f", "-"], &printed(flags));
    assert!(ok && error.is_empty(), "{said}{error}");
    let mut bad = offer("shop", "probe", "0.001");
    bad["spec"]["payment"]["price"]["perRequest"] = json!("nothing");
    let started = Instant::now();
    loop {
        let said = send(cluster, &bad).await;
        if bound(&said) {
            return;
        }
        assert!(started.elapsed() < BOUND, "{said:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a person reads: whole sentences in one line, that say what to do.
fn assert_readable(case: &str, text: &str) {
    assert!(
        text.is_ascii() && !text.contains('\n') && text.len() < 400,
        "{case}: {text}"
    );
    assert!(
        !text.contains("failed expression") && !text.contains("error:"),
        "{case}: {text}"
    );
}

#[tokio::test]
async fn sellers_are_warned_of_what_the_gate_would_close_and_of_nothing_else() {
    let (control, cluster) = scene(Some(&printed(&[]))).await;
    bind(&control, &cluster, &["--policy"], |said| {
        !said.warnings.is_empty()
    })
    .await;
    let mut wrong = Vec::new();
    let mut unheard = messages();
    for case in cases() {
        let said = send(&cluster, &case.offer).await;
        // Some are refused by the schema, with its own words.
        let by_schema = said.code == 422 && said.warnings.is_empty();
        let fits = match case.told {
            None => said.code == 201 && said.warnings.is_empty(),
            Some(told) => {
                let prefix = format!(
                    "Validation failed for ValidatingAdmissionPolicy '{NAME}' with binding '{NAME}': "
                );
                for warning in &said.warnings {
                    assert_readable(&case.name, warning);
                    unheard.retain(|message| !warning.ends_with(message));
                }
                let of_it = |warning: &String| {
                    let text = warning.strip_prefix(&prefix);
                    text.is_some_and(|text| text.starts_with(told))
                };
                by_schema || (said.code == 201 && said.warnings.iter().any(of_it))
            }
        };
        if !fits {
            wrong.push(format!("{}: {said:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(unheard.is_empty(), "no case is told this: {unheard:#?}");

    // What a seller sees who has kubectl.
    let mut bad = offer("shop", "seen", "0.001");
    bad["spec"]["payment"]["price"]["perRequest"] = json!("0,01");
    let (ok, said, error) = kubectl(&control, &["apply", "-f", "-"], &bad.to_string());
    assert!(ok && said.contains("created"), "{said}{error}");
    assert_eq!(
        error.trim_end(),
        format!(
            "Warning: Validation failed for ValidatingAdmissionPolicy '{NAME}' with binding '{NAME}': a price is no \
             decimal number above zero: write digits with at most one point and no thousands separator, such as \
             \"0.001\", or gate free to ask for no payment"
        )
    );
}

#[tokio::test]
async fn by_flag_they_are_refused_and_what_is_there_already_stays_usable() {
    let (control, cluster) = scene(Some(&printed(&[]))).await;
    let mut old = offer("shop", "old", "0.001");
    old["spec"]["payment"]["price"]["perRequest"] = json!("a lot");
    old["metadata"]["finalizers"] = json!(["tests/hold"]);
    cluster.create_offer(&old).await.unwrap();
    // From the one to the other, as an operator would.
    bind(&control, &cluster, &["--policy"], |said| {
        !said.warnings.is_empty()
    })
    .await;
    bind(&control, &cluster, &["--policy", "--deny"], |said| {
        said.code != 201
    })
    .await;
    let mut wrong = Vec::new();
    for case in cases() {
        let said = send(&cluster, &case.offer).await;
        let by_policy =
            format!("ValidatingAdmissionPolicy '{NAME}' with binding '{NAME}' denied request: ");
        let fits = match case.told {
            None => said.code == 201 && said.warnings.is_empty(),
            Some(told) => match said.message.split_once(&by_policy) {
                Some((_, text)) => {
                    assert_readable(&case.name, text);
                    said.code == 422 && said.message.contains(told)
                }
                None => said.code == 422,
            },
        };
        if !fits {
            wrong.push(format!("{}: {said:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");

    // An offer from before the policy: labels, status and deletion are nobody's mistake, a spec that stays wrong is.
    let merge = "application/merge-patch+json";
    let patch = async |below: &str, body: Value| {
        request(&cluster, http::Method::PATCH, below, merge, &body).await
    };
    let labelled = patch("/old", json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!(
        (labelled.code, labelled.warnings.len()),
        (200, 0),
        "{labelled:?}"
    );
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let written = patch("/old/status", status).await;
    assert_eq!(
        (written.code, written.warnings.len()),
        (200, 0),
        "{written:?}"
    );
    let price = |price: &str| json!({"spec": {"payment": {"price": {"perRequest": price}}}});
    assert_eq!(patch("/old", price("even more")).await.code, 422);
    assert_eq!(patch("/old", price("0.5")).await.code, 200);
    cluster.delete_offer("shop", "old").await;
    let released = patch("/old", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(released.code, 200, "{released:?}");

    // And back.
    bind(&control, &cluster, &["--policy"], |said| {
        said.code == 201 && !said.warnings.is_empty()
    })
    .await;
}

/// The field's definition has neither `perMB` nor cards: the policy must not stumble over what is not there.
#[tokio::test]
async fn the_policy_works_under_the_fields_definition_too() {
    let (control, cluster) = scene(None).await;
    bind(&control, &cluster, &["--policy", "--deny"], |said| {
        said.message.contains(NAME)
    })
    .await;
    for case in cases() {
        let said = send(&cluster, &case.offer).await;
        let wanted = if case.told.is_none() { 201 } else { 422 };
        assert_eq!(said.code, wanted, "{}: {said:?}", case.name);
        assert!(
            !said.message.contains("no such key"),
            "{}: {said:?}",
            case.name
        );
    }
}

/// The gate's own opinion, by the code that runs in the cluster.
#[test]
fn the_gate_and_the_policy_are_of_one_mind() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("offer.yaml");
    let mut wrong = Vec::new();
    for case in cases() {
        std::fs::write(&file, case.offer.to_string()).unwrap();
        let (is_sound, said) = check(&file);
        if is_sound != case.told.is_none() {
            wrong.push(format!("{}: {said}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn check(file: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_x402-verifier"))
        .arg("check")
        .arg("--offer")
        .arg(file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (
        output.status.success(),
        said + &String::from_utf8_lossy(&output.stderr),
    )
}
