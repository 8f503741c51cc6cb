//! The informer against the real API server: every moment between two states that needs one.
//!
//! Deadlines have five times the slack of what is promised. What breaks a connection or an API
//! server has a control plane of its own; the others share one and stay in their namespaces.

mod drain;
mod loss;
mod steady;

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    harness::{NO_FACILITATOR, Verifier, pricing, verdict},
    parts::control_plane::{Cluster, ControlPlane, offer},
};

/// A change is live within 100 ms; five times that.
const SOON: Duration = Duration::from_millis(500);
/// A Secret is live within a second.
const SECRET_SOON: Duration = Duration::from_secs(5);
/// Longest pause of somebody who is not ready yet, and more.
const RETRIED: Duration = Duration::from_secs(30);

/// What the documented `ClusterRole` grants to read.
pub(super) fn rules() -> Value {
    json!([
        {"apiGroups": ["obol.org"], "resources": ["serviceoffers"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["x402-upstream"], "verbs": ["list", "watch"]},
    ])
}

/// A kubeconfig of a service account in `namespace` that may do what the `ClusterRole` says.
async fn allowed(control: &ControlPlane, cluster: &Cluster, namespace: &str) -> String {
    let token = cluster.service_account(namespace, "gate").await;
    cluster.allow(namespace, "gate", &rules()).await;
    flag(control, &token)
}

fn flag(control: &ControlPlane, token: &str) -> String {
    let file = control.kubeconfig(control.address(), token);
    format!("--kubeconfig={}", file.display())
}

/// A verifier that reads one namespace of the cluster beside an empty file.
async fn verifier_of(kubeconfig: &str, namespace: &str) -> Verifier {
    let namespaces = format!("--watch-namespaces={namespace}");
    let args = ["--route-source=kube", kubeconfig, &namespaces];
    Verifier::start_with(&pricing(NO_FACILITATOR), &args).await
}

/// Status and reason of an unpaid request.
async fn answer(verifier: &Verifier, path: &str) -> (u16, String) {
    verdict(&verifier.ask(path).send().await)
}

/// Waits until an unpaid request is asked for this much.
async fn costs(verifier: &Verifier, within: Duration, path: &str, amount: &str) {
    let what = format!("{path} to cost {amount}");
    verifier
        .eventually(within, &what, || async {
            let answer = verifier.ask(path).send().await;
            answer.status == 402
                && crate::harness::challenge_of(&answer)["accepts"][0]["amount"] == amount
        })
        .await;
}

const PAY: (u16, &str) = (402, "payment_required");
const WITHDRAWN: (u16, &str) = (410, "offer_withdrawn");
const NO_ROUTE: (u16, &str) = (403, "no_route");
const BROKEN: (u16, &str) = (503, "offer_misconfigured");

/// `/readyz?verbose`.
async fn verbose(verifier: &Verifier) -> Value {
    verifier.admin("/readyz?verbose").await.json()
}

/// The source `kube` in it.
async fn source(verifier: &Verifier) -> Value {
    let all = verbose(verifier).await;
    let sources = all["sources"].as_array().expect("sources");
    let kube = sources.iter().find(|source| source["name"] == "kube");
    kube.expect("the source").clone()
}

/// Waits until the source is in this state, its error containing a text.
async fn source_is(verifier: &Verifier, within: Duration, state: &str, error: &str) {
    let what = format!("the source to be {state} with {error:?}");
    verifier
        .eventually(within, &what, || async {
            let source = source(verifier).await;
            let text = source["error"].as_str().unwrap_or_default();
            source["state"] == state && text.contains(error)
        })
        .await;
}

fn price(price: &str) -> Value {
    json!({"spec": {"payment": {"price": {"perRequest": price}}}})
}

async fn shared(namespace: &str) -> (std::sync::Arc<ControlPlane>, Cluster, Verifier) {
    let control = ControlPlane::shared().await;
    let cluster = control.cluster();
    cluster.install_field_crd().await;
    let kubeconfig = allowed(&control, &cluster, namespace).await;
    // Rights are seen by the API server a moment after they were given.
    let verifier = verifier_of(&kubeconfig, namespace).await;
    (control, cluster, verifier)
}

/// R3, R4, R11, O3: what a request sees of an offer's life.
#[tokio::test]
async fn an_offer_is_gated_from_its_creation_and_closed_by_its_end() {
    let (_control, cluster, verifier) = shared("inf-life").await;
    assert_eq!(answer(&verifier, "/services/shop/x").await.0, 403);

    let made = offer("inf-life", "shop", "0.001");
    cluster.create_offer(&made).await.unwrap();
    verifier.becomes(SOON, "/services/shop/x", PAY).await;
    costs(&verifier, SOON, "/services/shop/x", "1000").await;

    cluster
        .patch_offer("inf-life", "shop", &price("0.002"))
        .await;
    costs(&verifier, SOON, "/services/shop/x", "2000").await;

    // A status is no change: no new table.
    let before = verbose(&verifier).await["table"]["generation"].clone();
    let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    cluster.patch_offer_status("inf-life", "shop", &ready).await;
    tokio::time::sleep(SOON).await;
    assert_eq!(verbose(&verifier).await["table"]["generation"], before);

    cluster.delete_offer("inf-life", "shop").await;
    verifier.becomes(SOON, "/services/shop/x", WITHDRAWN).await;

    let anew = offer("inf-life", "shop", "0.5");
    cluster.create_offer(&anew).await.unwrap();
    costs(&verifier, SOON, "/services/shop/x", "500000").await;

    // A finalizer holds the object; its paths are closed at once all the same.
    let held = json!({"metadata": {"finalizers": ["tests/hold"]}});
    cluster.patch_offer("inf-life", "shop", &held).await;
    cluster.delete_offer("inf-life", "shop").await;
    verifier.becomes(SOON, "/services/shop/x", WITHDRAWN).await;
    let released = json!({"metadata": {"finalizers": null}});
    cluster.patch_offer("inf-life", "shop", &released).await;
    tokio::time::sleep(SOON).await;
    assert_eq!(answer(&verifier, "/services/shop/x").await.0, 410);
    let reloads = ["source=\"kube\"", "result=\"ok\""];
    let reloads = verifier
        .metric("x402_verifier_reloads_total", &reloads)
        .await;
    assert!(reloads.is_some_and(|count| count >= 6.0), "{reloads:?}");
}

/// R3, R6.
#[tokio::test]
async fn a_broken_offer_harms_only_itself() {
    let (_control, cluster, verifier) = shared("inf-broken").await;
    let mut broken = offer("inf-broken", "broken", "0.001");
    broken["spec"]["payment"]["network"] = json!("no-such-chain");
    cluster.create_offer(&broken).await.unwrap();
    cluster
        .create_offer(&offer("inf-broken", "sound", "0.001"))
        .await
        .unwrap();
    verifier.becomes(SOON, "/services/sound/x", PAY).await;
    verifier.becomes(SOON, "/services/broken/x", BROKEN).await;
    let repair = json!({"spec": {"payment": {"network": "base-sepolia"}}});
    cluster.patch_offer("inf-broken", "broken", &repair).await;
    verifier.becomes(SOON, "/services/broken/x", PAY).await;
}

/// O2.
#[tokio::test]
async fn o2_the_file_beats_the_cluster() {
    let (_control, cluster, verifier) = shared("inf-file").await;
    cluster
        .create_offer(&offer("inf-file", "both", "0.001"))
        .await
        .unwrap();
    costs(&verifier, SOON, "/services/both/x", "1000").await;
    let own = "- {pattern: \"/services/both/*\", price: \"0.25\"}\n";
    verifier.write_pricing(&format!("{}{own}", pricing(NO_FACILITATOR)));
    costs(&verifier, SOON * 10, "/services/both/x", "250000").await;
    let routes = verifier.admin("/routes?namespace=inf-file").await.json();
    assert_eq!(routes["routes"][0]["reason"], "PathConflict", "{routes}");
    cluster
        .patch_offer("inf-file", "both", &price("0.002"))
        .await;
    tokio::time::sleep(SOON).await;
    costs(&verifier, SOON, "/services/both/x", "250000").await;
}

/// An offer whose credential is not there is closed, and opens with it.
#[tokio::test]
async fn a_secret_is_live_when_it_appears_and_when_it_goes() {
    let (_control, cluster, verifier) = shared("inf-secret").await;
    let mut named = offer("inf-secret", "with", "0.001");
    named["metadata"]["annotations"] = json!({"x402.obol.org/upstream-secret": "x402-upstream"});
    cluster.create_offer(&named).await.unwrap();
    cluster
        .create_offer(&offer("inf-secret", "without", "0.001"))
        .await
        .unwrap();
    verifier.becomes(SOON, "/services/without/x", PAY).await;
    verifier.becomes(SOON, "/services/with/x", BROKEN).await;

    let labels = [("x402.obol.org/upstream-auth", "true")];
    let data = [("authorization", "Bearer hunter2")];
    cluster
        .secret("inf-secret", "x402-upstream", &[], &data)
        .await;
    tokio::time::sleep(SOON).await;
    assert_eq!(
        answer(&verifier, "/services/with/x").await.0,
        503,
        "no label"
    );
    cluster
        .secret("inf-secret", "x402-upstream", &labels, &data)
        .await;
    verifier.becomes(SECRET_SOON, "/services/with/x", PAY).await;
    let other = [("authorization", "two\nlines")];
    cluster
        .secret("inf-secret", "x402-upstream", &labels, &other)
        .await;
    verifier
        .becomes(SECRET_SOON, "/services/with/x", BROKEN)
        .await;
    cluster
        .secret("inf-secret", "x402-upstream", &labels, &data)
        .await;
    verifier.becomes(SECRET_SOON, "/services/with/x", PAY).await;
    cluster.delete_secret("inf-secret", "x402-upstream").await;
    verifier
        .becomes(SECRET_SOON, "/services/with/x", BROKEN)
        .await;
    assert_eq!(answer(&verifier, "/services/without/x").await.0, 402);
    // R13, with the log at debug.
    assert!(!verifier.log().contains("hunter2"));
}

/// O6: the predecessor's Secret of another namespace, for whom the operator lists and nobody else.
#[tokio::test]
async fn o6_a_secret_of_the_predecessor_is_read_where_the_operator_says_so() {
    let control = ControlPlane::shared().await;
    let cluster = control.cluster();
    cluster.install_field_crd().await;
    let kubeconfig = allowed(&control, &cluster, "inf-old").await;
    cluster.namespace("inf-llm").await;
    let named = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["litellm-secrets"], "verbs": ["list", "watch"]}]);
    cluster
        .allow_within("inf-llm", "inf-old", "gate", &named)
        .await;
    let mut made = offer("inf-old", "chat", "0.001");
    made["spec"]["upstream"]["service"] = json!("litellm");
    made["spec"]["upstream"]["namespace"] = json!("inf-llm");
    cluster.create_offer(&made).await.unwrap();
    let args = [
        "--route-source=kube",
        &kubeconfig,
        "--watch-namespaces=inf-old",
        "--foreign-upstreams=inf-old=inf-llm",
        "--predecessor-secrets=inf-llm/litellm-secrets",
    ];
    let verifier = Verifier::start_with(&pricing(NO_FACILITATOR), &args).await;
    verifier.becomes(SOON, "/services/chat/x", BROKEN).await;
    let data = [("LITELLM_MASTER_KEY", "sk-hunter2")];
    cluster
        .secret("inf-llm", "litellm-secrets", &[], &data)
        .await;
    verifier.becomes(SECRET_SOON, "/services/chat/x", PAY).await;
    assert!(!verifier.log().contains("sk-hunter2"));
}

/// Roles instead of a `ClusterRole`, and a canary beside the predecessor.
#[tokio::test]
async fn of_a_cluster_only_the_named_namespaces_and_labels_are_read() {
    let control = ControlPlane::shared().await;
    let cluster = control.cluster();
    cluster.install_field_crd().await;
    for namespace in ["inf-one", "inf-two", "inf-not"] {
        cluster.namespace(namespace).await;
    }
    let token = cluster.service_account("inf-one", "gate").await;
    for namespace in ["inf-one", "inf-two"] {
        cluster
            .allow_within(namespace, "inf-one", "gate", &rules())
            .await;
    }
    let canary = |namespace: &str, name: &str| {
        let mut offer = offer(namespace, name, "0.001");
        offer["metadata"]["labels"] = json!({"gate": "canary"});
        offer
    };
    for made in [
        canary("inf-one", "one"),
        canary("inf-two", "two"),
        canary("inf-not", "not"),
        offer("inf-one", "plain", "0.001"),
    ] {
        cluster.create_offer(&made).await.unwrap();
    }
    let kubeconfig = flag(&control, &token);
    let args = [
        "--route-source=kube",
        &kubeconfig,
        "--watch-namespaces=inf-one,inf-two",
        "--offer-selector=gate=canary",
        "--status=false",
    ];
    let verifier = Verifier::start_with(&pricing(NO_FACILITATOR), &args).await;
    verifier.becomes(SOON, "/services/one/x", PAY).await;
    verifier.becomes(SOON, "/services/two/x", PAY).await;
    verifier.becomes(SOON, "/services/not/x", NO_ROUTE).await;
    verifier.becomes(SOON, "/services/plain/x", NO_ROUTE).await;

    let unlabelled = json!({"metadata": {"labels": {"gate": null}}});
    cluster.patch_offer("inf-one", "one", &unlabelled).await;
    verifier.becomes(SOON, "/services/one/x", WITHDRAWN).await;

    // It asks for nothing but what the Roles grant.
    let user = "system:serviceaccount:inf-one:gate";
    let asked = control.audit();
    let asked: Vec<_> = asked.iter().filter(|entry| entry.user == user).collect();
    assert!(asked.iter().any(|entry| entry.verb == "watch"));
    for entry in asked {
        assert!(
            ["list", "watch"].contains(&entry.verb.as_str()),
            "{entry:?}"
        );
        assert!(
            ["inf-one", "inf-two"].contains(&entry.namespace.as_str()),
            "{entry:?}"
        );
        assert!(entry.code.is_none_or(|code| code == 200), "{entry:?}");
    }
}

/// R2: not ready with the cause, and ready without a restart when it is gone.
#[tokio::test]
async fn what_is_missing_at_the_start_is_named_and_needs_no_restart() {
    let control = ControlPlane::start().await;
    let cluster = control.cluster();
    let token = cluster.service_account("default", "gate").await;
    let kubeconfig = flag(&control, &token);
    let args = ["--route-source=kube", &kubeconfig];
    let mut verifier = Verifier::prepare(&pricing(NO_FACILITATOR), &args);
    verifier.launch();
    let says = async |verifier: &Verifier, text: &str| {
        verifier
            .eventually(RETRIED, text, || async {
                let url = verifier.admin_url("/readyz");
                let Ok(answer) = crate::parts::http::get(&url).await else {
                    return false;
                };
                answer.status == 503 && answer.text().contains(text)
            })
            .await;
        let body = verifier.admin("/readyz").await.text();
        assert_eq!(body.lines().next(), Some("not ready: routes not loaded"));
        assert_eq!(
            answer(verifier, "/paid/x").await,
            (503, "not_ready".to_owned())
        );
    };
    says(
        &verifier,
        "not allow us to list serviceoffers.obol.org in every namespace",
    )
    .await;

    cluster.allow("default", "gate", &rules()).await;
    says(&verifier, "x402-verifier crd | kubectl apply -f -").await;

    cluster.install_field_crd().await;
    verifier.wait_ready().await;
    assert_eq!(answer(&verifier, "/paid/x").await.0, 402);
    let log = verifier.log();
    let warnings = log
        .lines()
        .filter(|line| line.contains("\"not ready\""))
        .count();
    assert!(
        (2..=8).contains(&warnings),
        "one line per change of cause, not {warnings}"
    );
    drop(control);
}
