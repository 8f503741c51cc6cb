//! The rig, proven without the verifier: when these fail, no other test against an API server means anything.

mod faults;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::parts::{
    control_plane::{
        ADMIN_TOKEN, Audit, Cluster, ControlPlane, NOBODY_TOKEN, OLDEST_EMULATED, Options, offer,
    },
    require,
};

const OFFERS: &str = "/apis/obol.org/v1alpha1/serviceoffers";
/// Long enough that what is to come would have come, when nothing is to come.
const SILENCE: Duration = Duration::from_millis(300);

/// The shared control plane with the field's CRD and a namespace of the test's own.
async fn shared(namespace: &str) -> (std::sync::Arc<ControlPlane>, Cluster) {
    let control = ControlPlane::shared().await;
    let cluster = control.cluster();
    cluster.install_field_crd().await;
    cluster.namespace(namespace).await;
    (control, cluster)
}

/// Everything that a watch from `version` on says within a second, as `(type, object)`.
async fn watched(cluster: &Cluster, version: &str) -> Vec<(String, Value)> {
    let url = format!("{OFFERS}?watch=true&timeoutSeconds=1&resourceVersion={version}");
    loop {
        match cluster.get_raw(&url).await {
            Ok(events) => return events.lines().map(event).collect(),
            // "storage is (re)initializing": an API server is ready before the caches of its CRDs are.
            Err(error) if code_of(&error) == 429 => tokio::time::sleep(SILENCE).await,
            Err(error) => return vec![("ERROR".to_owned(), json!({"code": code_of(&error)}))],
        }
    }
}

fn event(line: &str) -> (String, Value) {
    let event: Value = serde_json::from_str(line).unwrap();
    (
        event["type"].as_str().unwrap().to_owned(),
        event["object"].clone(),
    )
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

fn code_of(error: &kube::Error) -> u16 {
    if let kube::Error::Api(status) = error {
        status.code
    } else {
        0
    }
}

async fn refusal(cluster: &Cluster, path: &str) -> u16 {
    code_of(&cluster.get_raw(path).await.expect_err("refused"))
}

/// What must not come yet.
async fn silent<T>(it: impl Future<Output = T>) {
    assert!(tokio::time::timeout(SILENCE, it).await.is_err(), "it came");
}

#[tokio::test]
async fn offers_are_created_watched_and_deleted_under_the_fields_schema() {
    let (_control, cluster) = shared("rig-offers").await;
    let created = cluster
        .create_offer(&offer("rig-offers", "a", "0.001"))
        .await
        .unwrap();
    assert_eq!(
        created["spec"]["payment"]["maxTimeoutSeconds"], 300,
        "defaults are filled in"
    );
    let mut dear = created.clone();
    dear["spec"]["payment"]["price"]["perRequest"] = json!("0.002");
    cluster.replace_offer(&dear).await.unwrap();
    cluster
        .patch_offer(
            "rig-offers",
            "a",
            &json!({"metadata": {"labels": {"x": "y"}}}),
        )
        .await;
    cluster.delete_offer("rig-offers", "a").await;
    assert_eq!(cluster.offer("rig-offers", "a").await, None);
    assert!(
        cluster.all_offers().get_metadata("a").await.is_err(),
        "it has a namespace"
    );

    let mut events = watched(&cluster, version(&created)).await;
    events.retain(|(_, object)| object["metadata"]["namespace"] == "rig-offers");
    let kinds: Vec<&str> = events.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["MODIFIED", "MODIFIED", "DELETED"]);
    assert_eq!(
        events[2].1["spec"]["payment"]["price"]["perRequest"],
        "0.002"
    );

    let mut bad = offer("rig-offers", "bad", "1");
    bad["spec"]["payment"]["payTo"] = json!("nobody");
    assert_eq!(code_of(&cluster.create_offer(&bad).await.unwrap_err()), 422);
}

#[tokio::test]
async fn conditions_are_atomic_and_unknown_fields_are_pruned() {
    let (_control, cluster) = shared("rig-status").await;
    cluster
        .create_offer(&offer("rig-status", "a", "0.001"))
        .await
        .unwrap();
    let ready = json!({"type": "Ready", "status": "True", "reason": "Fine", "message": "", "observedGeneration": 1});
    let status = cluster
        .patch_offer_status("rig-status", "a", &json!({"conditions": [ready]}))
        .await;
    assert_eq!(status["status"]["conditions"][0]["type"], "Ready");
    assert_eq!(
        status["status"]["conditions"][0].get("observedGeneration"),
        None
    );
    let ours = json!({"type": "Other", "status": "True"});
    let status = cluster
        .patch_offer_status("rig-status", "a", &json!({"conditions": [ours]}))
        .await;
    assert_eq!(
        status["status"]["conditions"].as_array().unwrap().len(),
        1,
        "the list is one value"
    );
    assert_eq!(status["metadata"]["generation"], 1);
}

#[tokio::test]
async fn many_offers_are_created_at_once_and_listed_in_pages() {
    let (control, cluster) = shared("rig-many").await;
    let started = Instant::now();
    cluster
        .create_offers((0..500).map(|n| offer("rig-many", &format!("o{n}"), "0.001")))
        .await;
    println!("500 offers in {:?}", started.elapsed());
    let path = "/apis/obol.org/v1alpha1/namespaces/rig-many/serviceoffers?limit=200";
    let page: Value = serde_json::from_str(&cluster.get_raw(path).await.unwrap()).unwrap();
    assert_eq!(page["items"].as_array().unwrap().len(), 200);
    assert_eq!(page["metadata"]["remainingItemCount"], 300);

    let kubectl = Command::new(require("kube").join("kubectl"))
        .env(
            "KUBECONFIG",
            control.kubeconfig(control.address(), ADMIN_TOKEN),
        )
        .args(["get", "so", "--namespace=rig-many", "--output=name"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&kubectl.stdout).lines().count(),
        500,
        "{kubectl:?}"
    );
}

#[tokio::test]
async fn rights_are_given_and_taken_and_the_audit_log_names_every_request() {
    let (control, cluster) = shared("rig-rights").await;
    let token = cluster.service_account("rig-rights", "gate").await;
    let rules =
        json!([{"apiGroups": ["obol.org"], "resources": ["serviceoffers"], "verbs": ["list"]}]);
    cluster.allow("rig-rights", "gate", &rules).await;
    let gate = Cluster::connect(control.address(), &token);
    // The authorizer reads roles from a cache of its own.
    let started = Instant::now();
    while gate.get_raw(OFFERS).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(10), "never allowed");
    }
    assert_eq!(refusal(&gate, "/api/v1/secrets").await, 403);
    cluster.revoke("rig-rights", "gate").await;
    while gate.get_raw(OFFERS).await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(20), "never revoked");
    }
    assert_eq!(
        refusal(&Cluster::connect(control.address(), NOBODY_TOKEN), OFFERS).await,
        403
    );
    assert_eq!(
        refusal(&Cluster::connect(control.address(), "wrong"), OFFERS).await,
        401
    );

    let user = "system:serviceaccount:rig-rights:gate";
    let asked: Vec<_> = control
        .audit()
        .into_iter()
        .filter(|entry| entry.user == user)
        .collect();
    let of = |code| {
        asked
            .iter()
            .filter(|entry| entry.code == Some(code))
            .collect::<Vec<_>>()
    };
    assert!(
        of(200)
            .iter()
            .all(|entry| entry.verb == "list" && entry.target() == "serviceoffers")
    );
    assert!(
        of(403)
            .iter()
            .any(|entry| entry.target() == "secrets" && !entry.is_write())
    );
    assert!(asked.len() >= 3 && asked.iter().all(|entry| !entry.uri.is_empty()));
    assert!(control.audit().iter().all(|entry| entry.user != "admin"));
}

#[tokio::test]
async fn a_restart_keeps_the_data_and_after_a_compaction_an_old_version_is_gone() {
    let started = Instant::now();
    let options = Options {
        audit: Audit::RequestResponse,
        flags: vec!["--watch-cache=false".to_owned()],
        ..Options::default()
    };
    let mut control = ControlPlane::start_with(options).await;
    println!("control plane up in {:?}", started.elapsed());
    let cluster = control.cluster();
    cluster.install_field_crd().await;
    let old = cluster
        .create_offer(&offer("default", "a", "0.001"))
        .await
        .unwrap();
    cluster
        .create_offer(&offer("default", "b", "0.001"))
        .await
        .unwrap();
    assert_eq!(watched(&cluster, version(&old)).await.len(), 1);
    let page: Value =
        serde_json::from_str(&cluster.get_raw(&format!("{OFFERS}?limit=1")).await.unwrap())
            .unwrap();
    let rest = format!(
        "{OFFERS}?limit=1&continue={}",
        page["metadata"]["continue"].as_str().unwrap()
    );
    assert!(cluster.get_raw(&rest).await.is_ok());

    cluster
        .patch_offer("default", "b", &json!({"metadata": {"labels": {"x": "y"}}}))
        .await;
    let compacted = control.compact().await;
    assert!(compacted > version(&old).parse().unwrap());
    let events = watched(&cluster, version(&old)).await;
    assert_eq!(
        (events[0].0.as_str(), &events[0].1["code"]),
        ("ERROR", &json!(410))
    );
    assert_eq!(refusal(&cluster, &rest).await, 410);

    control.options().tokens.clear();
    control.options().audit = Audit::Off;
    control.kill_etcd();
    silent(cluster.get_raw(OFFERS)).await;
    control.start_etcd();
    let started = Instant::now();
    control.restart_api().await;
    println!("API server restarted in {:?}", started.elapsed());
    let cluster = control.cluster();
    assert!(cluster.offer("default", "b").await.is_some());
    let former = Cluster::connect(control.address(), NOBODY_TOKEN);
    assert_eq!(
        refusal(&former, OFFERS).await,
        401,
        "the token file is another"
    );

    let started = Instant::now();
    control.freeze_api().await;
    silent(cluster.get_raw("/readyz")).await;
    control.thaw_api();
    assert!(cluster.is_ready().await);
    println!("frozen and woken in {:?}", started.elapsed());
    drop(control);
    assert!(!cluster.is_ready().await);
}

#[tokio::test]
async fn a_compaction_reaches_a_watch_cache_with_the_next_start_and_the_oldest_version_is_emulated()
{
    let mut control = ControlPlane::start_with(Options {
        flags: vec![format!("--emulated-version={OLDEST_EMULATED}")],
        ..Options::default()
    })
    .await;
    let cluster = control.cluster();
    let version_seen = cluster.get_raw("/version").await.unwrap();
    let version_seen: Value = serde_json::from_str(&version_seen).unwrap();
    let emulated = [
        &version_seen["emulationMajor"],
        &version_seen["emulationMinor"],
    ];
    assert_eq!(
        emulated.map(|part| part.as_str().unwrap()).join("."),
        OLDEST_EMULATED
    );
    cluster.install_field_crd().await;
    let old = cluster
        .create_offer(&offer("default", "a", "0.001"))
        .await
        .unwrap();
    cluster
        .create_offer(&offer("default", "b", "0.001"))
        .await
        .unwrap();
    control.compact().await;
    assert_eq!(
        watched(&cluster, version(&old)).await.len(),
        1,
        "the cache remembers"
    );
    control.restart_api().await;
    let events = watched(&control.cluster(), version(&old)).await;
    assert_eq!(
        (events[0].0.as_str(), &events[0].1["code"]),
        ("ERROR", &json!(410))
    );
}

#[tokio::test]
async fn a_token_file_names_who_reads_secrets_in_one_namespace() {
    let (control, cluster) = shared("rig-secrets").await;
    cluster.namespace("rig-elsewhere").await;
    for namespace in ["rig-secrets", "rig-elsewhere"] {
        cluster
            .secret(namespace, "s", &[("kind", "test")], &[("key", "word")])
            .await;
    }
    let token = cluster.service_account("rig-secrets", "reader").await;
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"], "verbs": ["get"]}]);
    cluster
        .allow_within("rig-secrets", "rig-secrets", "reader", &rules)
        .await;

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), NOBODY_TOKEN).unwrap();
    let kubeconfig = control.kubeconfig_with_token_file(control.address(), file.path());
    let get = |namespace: &str| {
        let output = Command::new(require("kube").join("kubectl"))
            .env("KUBECONFIG", &kubeconfig)
            .args([
                "get",
                "secret",
                "s",
                "--output=jsonpath={.data.key}",
                "--namespace",
                namespace,
            ])
            .output()
            .unwrap();
        String::from_utf8_lossy(if output.status.success() {
            &output.stdout
        } else {
            &output.stderr
        })
        .into_owned()
    };
    assert!(get("rig-secrets").contains("Forbidden"));
    std::fs::write(file.path(), token).unwrap();
    let started = Instant::now();
    while get("rig-secrets") != "d29yZA==" {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{}",
            get("rig-secrets")
        );
    }
    assert!(get("rig-elsewhere").contains("Forbidden"));
    cluster.delete_secret("rig-secrets", "s").await;
    assert!(get("rig-secrets").contains("NotFound"));
    cluster
        .revoke_within("rig-secrets", "rig-secrets", "reader")
        .await;
    while !get("rig-secrets").contains("Forbidden") {
        assert!(started.elapsed() < Duration::from_secs(20), "never revoked");
    }
}
