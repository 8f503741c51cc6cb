//! As in a pod: no kubeconfig, the API server's address in the environment, credentials in a mounted folder.
//!
//! The folder's path is fixed (`/var/run/secrets/kubernetes.io/serviceaccount`), so the verifier runs in a mount
//! namespace of its own, where a folder of the test stands at that path. It is laid out as a kubelet lays it out:
//! links through `..data` to a folder with the files, replaced as a whole by renaming the link.
//!
//! A machine that has no mount namespaces for us cannot run this; `tools.sh` writes that down as missing (`unshare`),
//! and `test.sh` leaves this module out and names it. Here it fails.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command, time::Duration};

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, api::PostParams};
use serde_json::json;
use tokio::time::Instant;

use super::rbac::{Documented, VISIBLE, becomes};
use crate::{
    harness::{NO_FACILITATOR, Verifier, pricing},
    parts::control_plane::{ApiFaults, Ask, Cluster, Fault, Verb, authority, offer},
};

/// The first word is the folder; `/var/run` is hidden by an empty one, so that nothing of this machine changes.
const MOUNT: &str = r#"
set -eu
mount -t tmpfs tmpfs /var/run
mkdir -p /var/run/secrets/kubernetes.io/serviceaccount
mount --bind "$0" /var/run/secrets/kubernetes.io/serviceaccount
exec "$@"
"#;
/// From the first refusal: a new client, and a pause of 200 ms. A client that keeps a token for a minute is too slow.
const FOLLOWED: Duration = Duration::from_secs(10);

/// A token that dies with the Secret `bound_to`, as a pod's dies with the pod.
async fn token(cluster: &Cluster, bound_to: &str) -> String {
    cluster.secret("x402", bound_to, &[], &[]).await;
    let wanted = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(600),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Secret".to_owned()),
                name: Some(bound_to.to_owned()),
                uid: None,
            }),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client(), "x402");
    let issued = accounts
        .create_token_request("x402-verifier", &PostParams::default(), &wanted)
        .await;
    issued.unwrap().status.unwrap().token
}

/// Writes the files into a folder of this name and swings the link there.
fn mount(folder: &Path, name: &str, token: &str) {
    let files = folder.join(name);
    fs::create_dir(&files).unwrap();
    fs::write(files.join("token"), token).unwrap();
    fs::write(files.join("namespace"), "x402").unwrap();
    fs::copy(authority(), files.join("ca.crt")).unwrap();
    symlink(name, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    for file in ["token", "namespace", "ca.crt"] {
        let link = folder.join(file);
        if link.symlink_metadata().is_err() {
            symlink(Path::new("..data").join(file), link).unwrap();
        }
    }
}

/// `unshare` with what it takes here: root, or a user namespace in which we are.
fn unshare() -> Vec<&'static str> {
    for words in [
        &["unshare", "--mount"][..],
        &["unshare", "--map-root-user", "--mount"],
    ] {
        let tried = Command::new("unshare")
            .args(&words[1..])
            .arg("true")
            .output();
        if tried.is_ok_and(|tried| tried.status.success()) {
            return words.to_vec();
        }
    }
    panic!("no mount namespace can be had (unshare --mount): run this as root");
}

#[tokio::test]
async fn a_pods_service_account_is_used_and_its_token_may_be_replaced_at_any_time() {
    let mut scene = Documented::new(&["shop"]).await;
    scene.apply("cluster", &[]).await;
    let cluster = scene.cluster.clone();
    cluster
        .create_offer(&offer("shop", "a", "0.001"))
        .await
        .unwrap();
    let faults = ApiFaults::start(scene.control.address()).await;
    let folder = tempfile::tempdir().unwrap();
    mount(folder.path(), "..first", &token(&cluster, "first").await);

    let mut verifier = Verifier::prepare(&pricing(NO_FACILITATOR), &["--route-source=kube"]);
    let mut launcher = unshare();
    let path = folder.path().to_str().unwrap().to_owned();
    launcher.extend(["sh", "-c", MOUNT, &path]);
    verifier.launched_by(&launcher);
    let server = faults.address();
    verifier.env("KUBERNETES_SERVICE_HOST", &server.ip().to_string());
    verifier.env("KUBERNETES_SERVICE_PORT", &server.port().to_string());
    let home = verifier.home().to_str().unwrap().to_owned();
    verifier.env("HOME", &home);
    verifier.launch();
    verifier.wait_ready().await;
    becomes(&verifier, "a", 402).await;
    // The Lease is in the namespace that the folder names.
    scene.says(&verifier, ("shop", "a"), "Enforced").await;
    assert!(
        faults
            .seen()
            .iter()
            .any(|seen| seen.uri.contains("/namespaces/x402/leases"))
    );

    // The kubelet writes a new token, and then the old one ends.
    mount(folder.path(), "..second", &token(&cluster, "second").await);
    cluster.delete_secret("x402", "first").await;
    let old = fs::read_to_string(folder.path().join("..first/token")).unwrap();
    let old = Cluster::connect(scene.control.address(), &old);
    let started = Instant::now();
    while old
        .get_raw("/apis/obol.org/v1alpha1/serviceoffers")
        .await
        .is_ok()
    {
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "the old token lives on"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // The writer of status looks at its Lease every 4 s, and is refused. That is no lack of rights, and no reason to
    // leave the Lease alone for a minute.
    let refused = Ask::of(Verb::Get, "leases");
    let looked = faults.set(refused, Fault::Pass);
    faults.wait_hits(looked, 1).await;
    faults.remove(looked);
    // Watches that run were authenticated once; let the next ones begin.
    let cut = faults.set(Ask::of(Verb::Watch, "serviceoffers"), Fault::CutBody(0));
    faults.wait_hits(cut, 1).await;
    faults.remove(cut);
    let rotated = Instant::now();
    let dearer = json!({"spec": {"payment": {"price": {"perRequest": "0.5"}}}});
    cluster.patch_offer("shop", "a", &dearer).await;
    verifier
        .eventually(FOLLOWED, "the new price", || async {
            let answer = verifier.ask("/services/a/x").send().await;
            assert_eq!(answer.status, 402);
            crate::harness::challenge_of(&answer)["accepts"][0]["amount"] == "500000"
        })
        .await;
    println!("followed {:?} after the watch ended", rotated.elapsed());
    verifier
        .eventually(VISIBLE, "the status to follow, too", || async {
            let condition = super::rbac::condition(&cluster, ("shop", "a")).await;
            condition["message"].to_string().contains("0.5 USDC")
        })
        .await;
    assert_eq!(verifier.admin("/readyz").await.status, 200);
    assert_eq!(
        verifier.log().matches("\"listening\"").count(),
        1,
        "no restart"
    );
}
