//! The administrator's hands: manifests, offers, Secrets, rights and tokens.
//!
//! Objects go in and come out as JSON, as a seller's tools would send them: what a type of ours would refuse or drop
//! is what tests are about. Calls that must succeed panic with the API server's words; those that may be refused
//! return a [`kube::Result`].

use std::{fmt::Display, net::SocketAddr, time::Duration};

use k8s_openapi::{
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::ServiceAccount,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
    },
    discovery::{Scope, pinned_kind},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// The field's CRD, written by us: what a verifier finds in a cluster that another controller set up.
const FIELD_CRD: &str = include_str!("../../real/kube/field-crd.yaml");
/// How many creations are in flight at once; more brings nothing on two cores.
const IN_FLIGHT: usize = 32;
/// The shortest life that the API server gives a token.
const TOKEN_SECONDS: i64 = 600;
const LIMIT: Duration = Duration::from_secs(60);

/// A client of the API server. Cheap to clone; belongs to the runtime that made it.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
}

impl Cluster {
    /// As the bearer of `token`, at the API server or at something that stands in for it.
    pub(crate) fn connect(server: SocketAddr, token: &str) -> Self {
        let url = format!("https://{server}")
            .parse()
            .expect("an address is a URL's authority");
        let mut config = Config::new(url);
        let authority =
            CertificateDer::from_pem_file(super::authority()).expect("the file is ours");
        config.root_cert = Some(vec![authority.to_vec()]);
        config.proxy_url = None;
        // A test wants to see the refusal that the client would hide by asking again.
        config.default_retry = false;
        config.auth_info.token = Some(token.to_owned().into());
        Self {
            client: Client::try_from(config).expect("the configuration is complete"),
        }
    }

    /// For what the helpers below do not do.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Whether the API server says so within a second.
    pub(crate) async fn is_ready(&self) -> bool {
        let answer = tokio::time::timeout(Duration::from_secs(1), self.get_raw("/readyz")).await;
        matches!(answer, Ok(Ok(body)) if body == "ok")
    }

    /// The body of a GET of this path and query.
    pub(crate) async fn get_raw(&self, path: &str) -> kube::Result<String> {
        let request = http::Request::get(path).body(Vec::new()).expect("a path");
        self.client.request_text(request).await
    }

    /// Applies every document of a manifest, server-side, whoever owned its fields before. CRDs are served when this
    /// returns.
    pub(crate) async fn apply(&self, manifest: &str) {
        let documents: Vec<Value> = serde_saphyr::from_multiple(manifest)
            .unwrap_or_else(|error| panic!("not a manifest ({error}):\n{manifest}"));
        for document in documents.into_iter().filter(|document| !document.is_null()) {
            must(self.try_apply(&document).await, "apply", &document);
        }
    }

    /// Applies one object, which the API server may refuse.
    pub(crate) async fn try_apply(&self, object: &Value) -> kube::Result<Value> {
        let text = |pointer| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (kind, name) = (text("/kind"), text("/metadata/name"));
        let (group, version) = match text("/apiVersion").split_once('/') {
            Some(parts) => parts,
            None => ("", text("/apiVersion")),
        };
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let (resource, capabilities) = pinned_kind(&self.client, &gvk).await?;
        let api: Api<DynamicObject> = match (capabilities.scope, text("/metadata/namespace")) {
            (Scope::Cluster, _) => Api::all_with(self.client(), &resource),
            (Scope::Namespaced, "") => Api::default_namespaced_with(self.client(), &resource),
            (Scope::Namespaced, namespace) => {
                Api::namespaced_with(self.client(), namespace, &resource)
            }
        };
        let params = PatchParams::apply("tests").force();
        let applied = api.patch(name, &params, &Patch::Apply(object)).await?;
        if kind == "CustomResourceDefinition" {
            self.await_crd(name).await;
        }
        Ok(value_of(&applied))
    }

    /// Waits until a CRD's objects are served.
    pub(crate) async fn await_crd(&self, name: &str) {
        let crds: Api<CustomResourceDefinition> = Api::all(self.client());
        let served = async {
            let crd = loop {
                let crd = must(crds.get(name).await, "read the CRD", name);
                if is_established(&crd) {
                    break crd;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            // Established is what it says of itself; its handler may need a moment more.
            for version in crd.spec.versions.iter().filter(|version| version.served) {
                let (group, plural) = (&crd.spec.group, &crd.spec.names.plural);
                let list = format!("/apis/{group}/{}/{plural}?limit=1", version.name);
                while self.get_raw(&list).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        };
        if tokio::time::timeout(LIMIT, served).await.is_err() {
            panic!("the CRD {name} is not served after {LIMIT:?}");
        }
    }

    /// The field's CRD of `serviceoffers`, established.
    pub(crate) async fn install_field_crd(&self) {
        self.apply(FIELD_CRD).await;
    }

    /// A namespace; fine when it is there.
    pub(crate) async fn namespace(&self, name: &str) {
        self.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            .await;
    }

    /// A Secret with labels (`[]` for none) and text values, new or changed.
    pub(crate) async fn secret(
        &self,
        namespace: &str,
        name: &str,
        labels: &[(&str, &str)],
        data: &[(&str, &str)],
    ) {
        let map = |pairs: &[(&str, &str)]| -> Value {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), json!(value)))
                .collect()
        };
        self.put(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"namespace": namespace, "name": name, "labels": map(labels)},
            "stringData": map(data),
        }))
        .await;
    }

    /// Deletes a Secret that is there.
    pub(crate) async fn delete_secret(&self, namespace: &str, name: &str) {
        let api: Api<k8s_openapi::api::core::v1::Secret> =
            Api::namespaced(self.client(), namespace);
        must(
            api.delete(name, &DeleteParams::default()).await,
            "delete",
            name,
        );
    }
}

/// Offers.
impl Cluster {
    /// The offers of a namespace, as nobody's type.
    pub(crate) fn offers(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client(), namespace, &offer_resource())
    }

    /// The offers of all namespaces.
    pub(crate) fn all_offers(&self) -> Api<DynamicObject> {
        Api::all_with(self.client(), &offer_resource())
    }

    /// Creates an offer in the namespace of its metadata; what became of it.
    pub(crate) async fn create_offer(&self, offer: &Value) -> kube::Result<Value> {
        let object = object_of(offer);
        let api = self.offers(object.metadata.namespace.as_deref().unwrap_or("default"));
        let created = api.create(&PostParams::default(), &object).await?;
        Ok(value_of(&created))
    }

    /// Creates many, 32 at a time, in no order: about 900 a second.
    pub(crate) async fn create_offers(&self, offers: impl IntoIterator<Item = Value>) {
        let mut creations: JoinSet<()> = JoinSet::new();
        for offer in offers {
            while creations.len() >= IN_FLIGHT {
                joined(creations.join_next().await);
            }
            let cluster = self.clone();
            creations.spawn(async move {
                must(cluster.create_offer(&offer).await, "create", &offer);
            });
        }
        while !creations.is_empty() {
            joined(creations.join_next().await);
        }
    }

    /// The offer as the API server has it; none when it has none.
    pub(crate) async fn offer(&self, namespace: &str, name: &str) -> Option<Value> {
        let found = self.offers(namespace).get_opt(name).await;
        must(found, "get", name).as_ref().map(value_of)
    }

    /// Replaces an offer (PUT). Without a resourceVersion in it the last writer wins.
    pub(crate) async fn replace_offer(&self, offer: &Value) -> kube::Result<Value> {
        let mut object = object_of(offer);
        let namespace = object
            .metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let name = object.metadata.name.clone().unwrap_or_default();
        let api = self.offers(&namespace);
        if object.metadata.resource_version.is_none() {
            // The API server wants one of whoever replaces.
            object.metadata.resource_version = api.get(&name).await?.metadata.resource_version;
        }
        let replaced = api.replace(&name, &PostParams::default(), &object).await?;
        Ok(value_of(&replaced))
    }

    /// Merges `patch` into an offer.
    pub(crate) async fn patch_offer(&self, namespace: &str, name: &str, patch: &Value) -> Value {
        let (api, params) = (self.offers(namespace), PatchParams::default());
        let patched = api.patch(name, &params, &Patch::Merge(patch)).await;
        value_of(&must(patched, "patch", patch))
    }

    /// Merges `status` into an offer's status, as another controller would.
    pub(crate) async fn patch_offer_status(
        &self,
        namespace: &str,
        name: &str,
        status: &Value,
    ) -> Value {
        let (api, params) = (self.offers(namespace), PatchParams::default());
        let patch = Patch::Merge(json!({ "status": status }));
        let patched = api.patch_status(name, &params, &patch).await;
        value_of(&must(patched, "patch the status", status))
    }

    /// Deletes an offer that is there. One with a finalizer stays, with a `deletionTimestamp`.
    pub(crate) async fn delete_offer(&self, namespace: &str, name: &str) {
        let deleted = self
            .offers(namespace)
            .delete(name, &DeleteParams::default())
            .await;
        must(deleted, "delete", name);
    }
}

/// Identities and what they may do.
impl Cluster {
    /// A service account and a token of it that lives for ten minutes. Deleting it ends the token within 10 s.
    pub(crate) async fn service_account(&self, namespace: &str, name: &str) -> String {
        self.namespace(namespace).await;
        self.put(json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"namespace": namespace, "name": name},
        }))
        .await;
        self.token(namespace, name).await
    }

    /// A further token of a service account.
    pub(crate) async fn token(&self, namespace: &str, name: &str) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let wanted = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let issued = accounts
            .create_token_request(name, &PostParams::default(), &wanted)
            .await;
        must(issued, "issue a token of", name)
            .status
            .expect("a token")
            .token
    }

    /// Lets a service account do what `rules` (RBAC's, a JSON list) say, in all namespaces: a `ClusterRole` and its
    /// binding, both called NAMESPACE-NAME. Again with other rules replaces them.
    pub(crate) async fn allow(&self, namespace: &str, name: &str, rules: &Value) {
        self.grant(None, namespace, name, rules).await;
    }

    /// As [`Cluster::allow`], within the namespace `within` alone: a Role and its binding.
    pub(crate) async fn allow_within(
        &self,
        within: &str,
        namespace: &str,
        name: &str,
        rules: &Value,
    ) {
        self.grant(Some(within), namespace, name, rules).await;
    }

    /// Takes everything away that [`Cluster::allow`] gave.
    pub(crate) async fn revoke(&self, namespace: &str, name: &str) {
        self.allow(namespace, name, &json!([])).await;
    }

    /// Takes everything away that [`Cluster::allow_within`] gave.
    pub(crate) async fn revoke_within(&self, within: &str, namespace: &str, name: &str) {
        self.allow_within(within, namespace, name, &json!([])).await;
    }

    async fn grant(&self, within: Option<&str>, namespace: &str, name: &str, rules: &Value) {
        let (role, binding) = match within {
            Some(_) => ("Role", "RoleBinding"),
            None => ("ClusterRole", "ClusterRoleBinding"),
        };
        let called = format!("{namespace}-{name}");
        let metadata = match within {
            Some(within) => json!({"name": called, "namespace": within}),
            None => json!({"name": called}),
        };
        let version = "rbac.authorization.k8s.io/v1";
        self.put(
            json!({"apiVersion": version, "kind": role, "metadata": metadata, "rules": rules}),
        )
        .await;
        self.put(json!({
            "apiVersion": version,
            "kind": binding,
            "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": called},
            "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": name}],
        }))
        .await;
    }

    async fn put(&self, object: Value) {
        must(self.try_apply(&object).await, "apply", &object);
    }
}

/// An offer that the field's CRD accepts: `price` in USDC a request, at `/services/NAME`, sold by its namespace's
/// Service `web`. Change what the test is about.
pub(crate) fn offer(namespace: &str, name: &str, price: &str) -> Value {
    json!({
        "apiVersion": "obol.org/v1alpha1",
        "kind": "ServiceOffer",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "type": "http",
            "path": format!("/services/{name}"),
            "upstream": {"service": "web", "namespace": namespace, "port": 8080, "healthPath": "/health"},
            "payment": {
                "scheme": "exact",
                "network": "base-sepolia",
                "payTo": crate::harness::SELLER,
                "price": {"perRequest": price},
            },
        },
    })
}

fn offer_resource() -> ApiResource {
    let gvk = GroupVersionKind::gvk("obol.org", "v1alpha1", "ServiceOffer");
    ApiResource::from_gvk_with_plural(&gvk, "serviceoffers")
}

fn object_of(offer: &Value) -> DynamicObject {
    serde_json::from_value(offer.clone())
        .unwrap_or_else(|error| panic!("no object ({error}): {offer}"))
}

fn value_of(object: &DynamicObject) -> Value {
    serde_json::to_value(object).expect("an object is JSON")
}

fn must<T, E: Display>(result: Result<T, E>, what: &str, object: impl Display) -> T {
    result.unwrap_or_else(|error| panic!("cannot {what} {object}: {error}"))
}

fn joined(done: Option<Result<(), tokio::task::JoinError>>) {
    if let Some(Err(error)) = done {
        panic!("a creation failed: {error}");
    }
}

fn is_established(crd: &CustomResourceDefinition) -> bool {
    let conditions = crd
        .status
        .iter()
        .flat_map(|status| &status.conditions)
        .flatten();
    conditions
        .filter(|condition| condition.type_ == "Established")
        .any(|condition| condition.status == "True")
}
