//! What the verifier may do, and that it does nothing else.
//!
//! The manifests of `docs/operating.md` are read out of the page and applied as they stand, so what an operator
//! copies is what is tested. Then offers and Secrets live a whole life, and the API server's audit log is held
//! against the rules, both ways: no request outside of them, no request that was refused, and no right that was
//! never used. A request that a client of ours makes besides (discovery, a version) would show, too.
//!
//! Each test has a control plane of its own, because the page names its objects.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

use crate::{
    docs::blocks,
    harness::{NO_FACILITATOR, Verifier, pricing, verdict},
    parts::control_plane::{AuditEntry, Cluster, ControlPlane, offer},
};

/// Five times the 2 s within which a status is visible; requests are faster.
pub(super) const VISIBLE: Duration = Duration::from_secs(10);
const PAGE: &str = "docs/operating.md";

/// A control plane with the field's CRD, and what was granted in it.
pub(super) struct Documented {
    pub(super) control: ControlPlane,
    pub(super) cluster: Cluster,
    grants: Vec<Grant>,
}

/// One verb on one resource for one service account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    account: String,
    /// None is all of them.
    namespace: Option<String>,
    group: String,
    /// With its subresource, as RBAC writes it.
    resource: String,
    /// None is any.
    name: Option<String>,
    verb: String,
}

impl Documented {
    pub(super) async fn new(namespaces: &[&str]) -> Self {
        let control = ControlPlane::start().await;
        let cluster = control.cluster();
        cluster.install_field_crd().await;
        cluster.namespace("x402").await;
        for namespace in namespaces {
            cluster.namespace(namespace).await;
        }
        Self {
            control,
            cluster,
            grants: Vec::new(),
        }
    }

    /// Applies the manifests of the page's block, with other names where `renamed` says so, and returns when the API
    /// server knows them.
    pub(super) async fn apply(&mut self, name: &str, renamed: &[(&str, &str)]) {
        let mut text = block(name);
        for (from, to) in renamed {
            assert!(text.contains(from), "{from}: {text}");
            text = text.replace(from, to);
        }
        self.grant(&text).await;
    }

    async fn grant(&mut self, manifests: &str) {
        self.cluster.apply(manifests).await;
        let grants = grants(manifests);
        assert!(!grants.is_empty());
        for grant in &grants {
            let started = tokio::time::Instant::now();
            while !self.may(grant).await {
                assert!(started.elapsed() < VISIBLE, "not allowed: {grant:?}");
            }
        }
        self.grants.extend(grants);
    }

    /// What the API server's authorizer says. Asked by the administrator, so it is in no audit log.
    async fn may(&self, grant: &Grant) -> bool {
        let (resource, subresource) = match grant.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (grant.resource.as_str(), None),
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user(&grant.account)),
                resource_attributes: Some(ResourceAttributes {
                    namespace: grant.namespace.clone(),
                    group: Some(grant.group.clone()),
                    resource: Some(resource.to_owned()),
                    subresource,
                    name: grant.name.clone(),
                    verb: Some(grant.verb.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.cluster.client());
        let answer = reviews.create(&PostParams::default(), &review).await;
        answer.unwrap().status.unwrap().allowed
    }

    /// A verifier that is this service account of namespace `x402`, by a kubeconfig that the environment names.
    pub(super) async fn prepare(
        &self,
        account: &str,
        facilitator: &str,
        flags: &[&str],
    ) -> Verifier {
        let token = self.cluster.token("x402", account).await;
        let kubeconfig = self.control.kubeconfig(self.control.address(), &token);
        let mut args = vec!["--route-source=kube", "--status-lease-namespace=x402"];
        args.extend(flags);
        let mut verifier = Verifier::prepare(&pricing(facilitator), &args);
        verifier.env("KUBECONFIG", kubeconfig.to_str().unwrap());
        verifier
    }

    pub(super) async fn start(&self, account: &str, flags: &[&str]) -> Verifier {
        let mut verifier = self.prepare(account, NO_FACILITATOR, flags).await;
        verifier.launch();
        verifier.wait_ready().await;
        verifier
    }

    async fn create(&self, offer: &Value) {
        self.cluster.create_offer(offer).await.unwrap();
    }

    /// Waits until our condition of an offer has this reason.
    pub(super) async fn says(&self, verifier: &Verifier, at: (&str, &str), reason: &str) {
        let what = format!("{at:?} to say {reason}");
        verifier
            .eventually(VISIBLE, &what, || async {
                condition(&self.cluster, at).await["reason"] == reason
            })
            .await;
    }

    /// What an account of namespace `x402` asked for so far.
    pub(super) fn asked(&self, account: &str) -> Vec<AuditEntry> {
        let user = user(account);
        let mut asked = self.control.audit();
        asked.retain(|entry| entry.user == user);
        asked
    }

    /// Holds what these accounts asked for against what they were granted.
    fn judge(&self, accounts: &[&str]) {
        let mut unused: BTreeSet<&Grant> = self.grants.iter().collect();
        let mut outside = Vec::new();
        for account in accounts {
            let asked = self.asked(account);
            assert!(!asked.is_empty(), "{account}");
            for entry in asked {
                let mut granted = self.grants.iter();
                match granted.find(|grant| grant.account == *account && grant.covers(&entry)) {
                    Some(grant) => drop(unused.remove(grant)),
                    None => outside.push(format!("{} {}", entry.verb, entry.uri)),
                }
                let refused = entry.code.is_some_and(|code| matches!(code, 401 | 403));
                assert!(!refused, "{entry:?}");
            }
            unused.retain(|grant| accounts.contains(&grant.account.as_str()));
        }
        assert!(
            outside.is_empty(),
            "asked for and not documented: {outside:?}"
        );
        assert!(unused.is_empty(), "documented and never used: {unused:#?}");
    }
}

impl Grant {
    fn covers(&self, entry: &AuditEntry) -> bool {
        let in_scope = |namespace: &String| *namespace == entry.namespace;
        self.namespace.as_ref().is_none_or(in_scope)
            && self.group == entry.group
            && self.resource == entry.target()
            && self.verb == entry.verb
            && self.name.as_ref().is_none_or(|name| *name == entry.name)
    }
}

/// The block of the page with this name.
fn block(name: &str) -> String {
    let found = blocks(PAGE, &format!("yaml rbac {name}"));
    let [text] = found.as_slice() else {
        panic!("{PAGE} has {} blocks for rbac {name}", found.len());
    };
    text.clone()
}

fn user(account: &str) -> String {
    format!("system:serviceaccount:x402:{account}")
}

/// What the manifests grant: each rule, taken apart, for the account that the binding of its role names.
fn grants(manifests: &str) -> Vec<Grant> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifests).unwrap();
    let place = |document: &Value| {
        document["metadata"]["namespace"]
            .as_str()
            .map(str::to_owned)
    };
    let texts = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut found = Vec::new();
    for role in &documents {
        if !matches!(role["kind"].as_str(), Some("Role" | "ClusterRole")) {
            continue;
        }
        let binding = documents.iter().find(|binding| {
            binding["roleRef"]["kind"] == role["kind"]
                && binding["roleRef"]["name"] == role["metadata"]["name"]
                && place(binding) == place(role)
        });
        let subject = &binding.expect("a role is bound")["subjects"][0];
        assert_eq!(subject["namespace"], "x402");
        let account = subject["name"].as_str().unwrap();
        for rule in role["rules"].as_array().unwrap() {
            let mut names: Vec<_> = texts(&rule["resourceNames"])
                .into_iter()
                .map(Some)
                .collect();
            if names.is_empty() {
                names.push(None);
            }
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for name in &names {
                        found.extend(texts(&rule["verbs"]).into_iter().map(|verb| Grant {
                            account: account.to_owned(),
                            namespace: place(role),
                            group: group.clone(),
                            resource: resource.clone(),
                            name: name.clone(),
                            verb,
                        }));
                    }
                }
            }
        }
    }
    found
}

/// Our condition of an offer; null when it has none.
pub(super) async fn condition(cluster: &Cluster, (namespace, name): (&str, &str)) -> Value {
    let offer = cluster.offer(namespace, name).await.unwrap_or_default();
    let all = offer["status"]["conditions"].as_array().cloned();
    let mut all = all.unwrap_or_default().into_iter();
    all.find(|condition| condition["type"] == "PaymentGateEnforced")
        .unwrap_or_default()
}

/// Waits until an unpaid request for an offer's path is answered so.
pub(super) async fn becomes(verifier: &Verifier, name: &str, status: u16) {
    let path = format!("/services/{name}/x");
    verifier
        .eventually(VISIBLE, &format!("{status} at {path}"), || async {
            verdict(&verifier.ask(&path).send().await).0 == status
        })
        .await;
}

fn with_secret(mut offer: Value) -> Value {
    offer["metadata"]["annotations"] = json!({"x402.obol.org/upstream-secret": "x402-upstream"});
    offer
}

fn labelled(mut offer: Value, gate: &str) -> Value {
    offer["metadata"]["labels"] = json!({"gate": gate});
    offer
}

async fn upstream_secret(cluster: &Cluster, namespace: &str, value: &str) {
    let labels = [("x402.obol.org/upstream-auth", "true")];
    cluster
        .secret(
            namespace,
            "x402-upstream",
            &labels,
            &[("authorization", value)],
        )
        .await;
}

/// Everything that an offer and its Secret can go through, with a restart in the middle: each right is needed.
async fn life(scene: &Documented, verifier: &mut Verifier, namespace: &str, label: &str) {
    let cluster = &scene.cluster;
    let names = [
        format!("{namespace}-a"),
        format!("{namespace}-b"),
        format!("{namespace}-c"),
    ];
    let [a, b, c] = names.each_ref().map(String::as_str);
    let made = |name: &str| labelled(offer(namespace, name, "0.001"), label);
    let patch = async |name: &str, price: &str| {
        let price = json!({"spec": {"payment": {"price": {"perRequest": price}}}});
        cluster.patch_offer(namespace, name, &price).await;
    };
    scene.create(&made(a)).await;
    scene.create(&made(b)).await;
    scene.create(&with_secret(made(c))).await;
    for name in [a, b] {
        becomes(verifier, name, 402).await;
        scene.says(verifier, (namespace, name), "Enforced").await;
    }
    becomes(verifier, c, 503).await;
    scene.says(verifier, (namespace, c), "UpstreamSecret").await;
    upstream_secret(cluster, namespace, "Bearer one").await;
    becomes(verifier, c, 402).await;
    // From one reason to another: an Event.
    patch(b, "a lot").await;
    becomes(verifier, b, 503).await;
    scene.says(verifier, (namespace, b), "InvalidPrice").await;

    verifier.signal("TERM");
    assert_eq!(verifier.exit_code(VISIBLE).await, Some(0));
    cluster.delete_offer(namespace, a).await;
    patch(b, "0.002").await;
    verifier.launch();
    verifier.wait_ready().await;
    becomes(verifier, a, 410).await;
    becomes(verifier, b, 402).await;
    scene.says(verifier, (namespace, b), "Enforced").await;

    upstream_secret(cluster, namespace, "two\nlines").await;
    becomes(verifier, c, 503).await;
    cluster.delete_secret(namespace, "x402-upstream").await;
    scene.says(verifier, (namespace, c), "UpstreamSecret").await;
    cluster.delete_offer(namespace, c).await;
    becomes(verifier, c, 410).await;
    scene.create(&made(c)).await;
    becomes(verifier, c, 402).await;
    scene.says(verifier, (namespace, c), "Enforced").await;
}

/// Two verifiers, each with the documented rights under a name of its own: one has all offers but the canary's.
#[tokio::test]
async fn the_documented_cluster_role_is_all_that_is_asked_for_and_all_of_it_is_used() {
    let mut scene = Documented::new(&["shop"]).await;
    scene.apply("cluster", &[]).await;
    scene
        .apply("cluster", &[("x402-verifier", "x402-canary")])
        .await;
    let mut stable = scene
        .start("x402-verifier", &["--offer-selector=gate!=canary"])
        .await;
    let mut canary = scene
        .start(
            "x402-canary",
            &[
                "--offer-selector=gate=canary",
                "--status-lease=x402-canary-status",
            ],
        )
        .await;
    life(&scene, &mut stable, "shop", "stable").await;
    scene.cluster.namespace("lab").await;
    life(&scene, &mut canary, "lab", "canary").await;
    becomes(&canary, "shop-b", 403).await;
    becomes(&stable, "lab-b", 403).await;
    scene.judge(&["x402-verifier", "x402-canary"]);
}

/// `--watch-namespaces` needs nothing that reaches beyond them.
#[tokio::test]
async fn the_documented_roles_do_instead_of_a_cluster_role() {
    let mut scene = Documented::new(&["shop", "mall", "elsewhere"]).await;
    scene.apply("cluster", &[]).await;
    // What the page says: not needed.
    let gone = ["clusterrolebindings", "clusterroles"];
    for kind in gone {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/{kind}/x402-verifier");
        let request = http::Request::delete(path).body(Vec::new()).unwrap();
        scene.cluster.client().request_text(request).await.unwrap();
    }
    let everywhere = |grant: &Grant| grant.namespace.is_none();
    let taken: Vec<_> = scene
        .grants
        .extract_if(.., |grant| everywhere(grant))
        .collect();
    for grant in &taken {
        let started = tokio::time::Instant::now();
        while scene.may(grant).await {
            assert!(started.elapsed() < VISIBLE, "still allowed: {grant:?}");
        }
    }
    scene.apply("namespace", &[]).await;
    scene
        .apply("namespace", &[("namespace: shop", "namespace: mall")])
        .await;

    scene.create(&offer("elsewhere", "not-ours", "0.001")).await;
    scene.create(&offer("shop", "no-canary", "0.001")).await;
    let flags = [
        "--watch-namespaces=shop,mall",
        "--offer-selector=gate=canary",
    ];
    let mut verifier = scene.start("x402-verifier", &flags).await;
    life(&scene, &mut verifier, "shop", "canary").await;
    life(&scene, &mut verifier, "mall", "canary").await;
    for (namespace, name) in [("elsewhere", "not-ours"), ("shop", "no-canary")] {
        becomes(&verifier, name, 403).await;
        assert_eq!(
            condition(&scene.cluster, (namespace, name)).await,
            Value::Null
        );
    }
    scene.judge(&["x402-verifier"]);
}

/// What the page says may be left out, left out: the Role of the Lease with all of status, and the rule for Secrets.
#[tokio::test]
async fn without_the_rights_that_may_be_left_out_the_rest_works() {
    let mut scene = Documented::new(&["shop"]).await;
    let page = block("cluster");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&page).unwrap();
    let (mut kept, mut left_out) = (String::new(), 0);
    for mut document in documents {
        if document["metadata"]["name"] == "x402-verifier-status" {
            left_out += 1;
            continue;
        }
        if let Some(rules) = document.get_mut("rules").and_then(Value::as_array_mut) {
            left_out += rules.len() - 1;
            rules.retain(|rule| rule["resources"] == json!(["serviceoffers"]));
            rules[0]["verbs"] = json!(["list", "watch"]);
        }
        kept.push_str(&format!("---\n{document}\n"));
    }
    assert_eq!(left_out, 5);
    scene.grant(&kept).await;
    scene.create(&offer("shop", "plain", "0.001")).await;
    let named = with_secret(offer("shop", "named", "0.001"));
    scene.create(&named).await;

    let verifier = scene.start("x402-verifier", &["--status=false"]).await;
    becomes(&verifier, "plain", 402).await;
    becomes(&verifier, "named", 503).await;
    let verbose: Value = verifier.admin("/readyz?verbose").await.json();
    let degraded = verbose["degraded"].as_array().unwrap();
    assert_eq!(degraded.len(), 1, "{degraded:?}");
    let told = degraded[0].as_str().unwrap();
    assert!(
        told.contains("RBAC does not allow us to list secrets named \"x402-upstream\""),
        "{told}"
    );
    let sources = verbose["sources"].to_string();
    assert!(!sources.contains("failed"), "{sources}");

    // With the flag that goes with it, nothing is asked for in vain.
    drop(verifier);
    let before = scene.asked("x402-verifier").len();
    let flags = ["--status=false", "--upstream-secret-names="];
    let verifier = scene.start("x402-verifier", &flags).await;
    becomes(&verifier, "plain", 402).await;
    let asked = scene.asked("x402-verifier");
    let asked = asked.get(before..).unwrap();
    assert!(
        asked.iter().all(|entry| entry.target() == "serviceoffers"),
        "{asked:?}"
    );
    let verbose: Value = verifier.admin("/readyz?verbose").await.json();
    assert_eq!(verbose["degraded"], json!([]));
}
