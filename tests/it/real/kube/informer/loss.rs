//! The API server goes, hangs, refuses, forgets, and comes back (R6): the last table stays, the loss is visible, and
//! afterwards the table equals the cluster.

use super::steady::{Steady, equals_cluster};
use super::*;
use crate::parts::{
    control_plane::{ApiFaults, Ask, Fault, Options, Verb},
    stream_proxy::{Direction, StreamProxy},
};

/// Pauses between attempts grow to 30 s.
const RECOVERY: Duration = Duration::from_secs(90);

/// A control plane of one's own with the CRD and an offer `a`, faults in front of it, and a verifier behind them.
async fn scene(flags: &[&str]) -> (ControlPlane, Cluster, ApiFaults, Verifier) {
    let options = Options {
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        ..Options::default()
    };
    let control = ControlPlane::start_with(options).await;
    let cluster = control.cluster();
    cluster.install_field_crd().await;
    let token = cluster.service_account("default", "gate").await;
    cluster.allow("default", "gate", &rules()).await;
    cluster
        .create_offer(&offer("default", "a", "0.001"))
        .await
        .unwrap();
    let faults = ApiFaults::start(control.address()).await;
    let file = control.kubeconfig(faults.address(), &token);
    let kubeconfig = format!("--kubeconfig={}", file.display());
    let args = ["--route-source=kube", &kubeconfig];
    let verifier = Verifier::start_with(&pricing(NO_FACILITATOR), &args).await;
    verifier.becomes(SOON, "/services/a/x", PAY).await;
    (control, cluster, faults, verifier)
}

async fn still_ready_and_gated(verifier: &Verifier) {
    assert_eq!(verifier.admin("/readyz").await.status, 200);
    assert_eq!(answer(verifier, "/services/a/x").await.0, 402);
}

/// How many lists of offers were begun.
fn first_pages(faults: &ApiFaults) -> usize {
    let seen = faults.seen();
    let seen = seen.iter().filter(|seen| seen.resource == "serviceoffers");
    let lists = seen.filter(|seen| seen.verb == Some(Verb::List));
    lists.filter(|seen| !seen.continues).count()
}

/// From which versions offers were watched.
fn watched_versions(faults: &ApiFaults) -> Vec<u64> {
    let seen = faults.seen().into_iter();
    let watches = seen.filter(|seen| seen.resource == "serviceoffers");
    let from = watches.filter_map(|seen| {
        let (_, from) = seen.uri.split_once("resourceVersion=")?;
        from.split('&').next()?.parse().ok()
    });
    from.collect()
}

/// Each is loss of the API, and none of them an empty list.
#[tokio::test]
async fn no_refusal_is_an_empty_list() {
    let (_control, cluster, faults, verifier) = scene(&[]).await;
    let steady = Steady::at(&verifier, &["/services/a", "/paid"]);
    for (code, text) in [
        (401, "not authenticated"),
        (403, "not authorised"),
        (404, "is missing or does not serve v1alpha1"),
        (429, "429"),
        (500, "500"),
    ] {
        let rule = faults.set(Ask::of(Verb::Watch, "serviceoffers"), Fault::CutBody(0));
        faults.set(
            Ask::of(Verb::List, "serviceoffers"),
            Fault::Answer(code, None),
        );
        faults.change(rule, Fault::Answer(code, None));
        // The watch under way was not asked for again: it has to end first.
        let name = format!("while-{code}");
        let cut = faults.set(
            Ask::of(Verb::Watch, "serviceoffers").containing("timeoutSeconds"),
            Fault::CutBody(0),
        );
        source_is(&verifier, RECOVERY, "failed", "").await;
        faults.remove(cut);
        source_is(&verifier, RECOVERY, "failed", text).await;
        cluster
            .create_offer(&offer("default", &name, "0.001"))
            .await
            .unwrap();
        still_ready_and_gated(&verifier).await;
        faults.clear();
        verifier
            .becomes(RECOVERY, &format!("/services/{name}/x"), PAY)
            .await;
        source_is(&verifier, RECOVERY, "ok", "").await;
        still_ready_and_gated(&verifier).await;
    }
    let failed = ["source=\"kube\"", "result=\"error\""];
    let failed = verifier
        .metric("x402_verifier_reloads_total", &failed)
        .await;
    assert!(failed.is_some_and(|count| count >= 5.0), "{failed:?}");
    assert_eq!(first_pages(&faults), 1, "resumed, not listed again");
    equals_cluster(&verifier, &cluster, SOON).await;
    steady.held().await;
}

/// A restart on the same data, with a token file of which ours has a new token now.
#[tokio::test]
async fn an_api_server_that_restarts_with_another_token_is_followed_on() {
    let mut control = ControlPlane::start_with(Options {
        tokens: vec![("old-token".to_owned(), "gate".to_owned())],
        ..Options::default()
    })
    .await;
    let cluster = control.cluster();
    cluster.install_field_crd().await;
    let everything = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "gate"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "gate"}],
    });
    cluster.try_apply(&everything).await.unwrap();
    cluster
        .create_offer(&offer("default", "a", "0.001"))
        .await
        .unwrap();
    let home = tempfile::tempdir().unwrap();
    let token = home.path().join("token");
    std::fs::write(&token, "old-token").unwrap();
    let file = control.kubeconfig_with_token_file(control.address(), &token);
    let kubeconfig = format!("--kubeconfig={}", file.display());
    let args = ["--route-source=kube", &kubeconfig];
    let verifier = Verifier::start_with(&pricing(NO_FACILITATOR), &args).await;
    verifier.becomes(SOON, "/services/a/x", PAY).await;
    let steady = Steady::at(&verifier, &["/services/a", "/paid"]);

    control.kill_api();
    source_is(&verifier, RECOVERY, "failed", "cannot be reached").await;
    still_ready_and_gated(&verifier).await;
    let up = ["source=\"kube\""];
    assert_eq!(
        verifier.metric("x402_verifier_source_up", &up).await,
        Some(0.0)
    );

    control.options().tokens = vec![("new-token".to_owned(), "gate".to_owned())];
    control.start_api().await;
    source_is(&verifier, RECOVERY, "failed", "not authenticated").await;
    still_ready_and_gated(&verifier).await;

    std::fs::write(&token, "new-token").unwrap();
    source_is(&verifier, RECOVERY, "ok", "").await;
    let cluster = control.cluster();
    cluster
        .create_offer(&offer("default", "b", "0.001"))
        .await
        .unwrap();
    verifier.becomes(SOON, "/services/b/x", PAY).await;
    equals_cluster(&verifier, &cluster, SOON).await;
    steady.held().await;
}

/// A hung API server is noticed within 60 s.
#[tokio::test]
async fn a_silent_api_server_is_noticed_within_a_minute() {
    let (control, cluster, _faults, verifier) = scene(&[]).await;
    let steady = Steady::at(&verifier, &["/services/a", "/paid"]);
    control.freeze_api().await;
    source_is(
        &verifier,
        Duration::from_secs(60),
        "failed",
        "did not answer within",
    )
    .await;
    still_ready_and_gated(&verifier).await;
    control.thaw_api();
    source_is(&verifier, RECOVERY, "ok", "").await;
    cluster
        .create_offer(&offer("default", "b", "0.001"))
        .await
        .unwrap();
    verifier.becomes(SOON, "/services/b/x", PAY).await;
    equals_cluster(&verifier, &cluster, SOON).await;
    steady.held().await;
}

/// R6: changes that are no longer kept lead to a new list, and that counts when it is complete.
#[tokio::test]
async fn after_a_compaction_everything_is_listed_again_and_applied_at_once() {
    let (control, cluster, faults, verifier) = scene(&["--watch-cache=false"]).await;
    cluster
        .create_offers((0..600).map(|n| offer("default", &format!("o{n}"), "0.001")))
        .await;
    for n in [0, 599] {
        verifier
            .becomes(SOON * 4, &format!("/services/o{n}/x"), PAY)
            .await;
    }
    let both_sides = [
        "/services/a",
        "/services/o1",
        "/services/o300",
        "/services/o598",
    ];
    let steady = Steady::at(&verifier, &both_sides);
    let away = faults.set(Ask::of(Verb::Watch, "serviceoffers"), Fault::CutBody(0));
    faults.wait_hits(away, 1).await;
    for n in [0, 599] {
        cluster.delete_offer("default", &format!("o{n}")).await;
    }
    cluster
        .create_offer(&offer("default", "new", "0.001"))
        .await
        .unwrap();
    control.compact().await;
    let held = faults.set(
        Ask::of(Verb::List, "serviceoffers").further_pages(),
        Fault::Hold,
    );
    faults.remove(away);
    faults.wait_hits(held, 1).await;
    // Half a list is there: nothing of it shows.
    tokio::time::sleep(SOON).await;
    for n in [0, 1, 300, 598, 599] {
        assert_eq!(
            answer(&verifier, &format!("/services/o{n}/x")).await.0,
            402,
            "o{n}"
        );
    }
    assert_eq!(answer(&verifier, "/services/new/x").await.0, 403);
    faults.remove(held);
    verifier.becomes(RECOVERY, "/services/new/x", PAY).await;
    for (n, status) in [(0, 410), (1, 402), (300, 402), (598, 402), (599, 410)] {
        assert_eq!(
            answer(&verifier, &format!("/services/o{n}/x")).await.0,
            status,
            "o{n}"
        );
    }
    equals_cluster(&verifier, &cluster, SOON).await;
    steady.held().await;
}

/// An API server without a watch cache cannot go on from a version just before a compaction when the next change
/// overwrote what was compacted away: it opens the watch and answers 500 in it, for ever and never 410.
#[tokio::test]
async fn a_version_that_leads_nowhere_is_listed_again() {
    let (control, cluster, faults, verifier) = scene(&["--watch-cache=false"]).await;
    let steady = Steady::at(&verifier, &["/services/a", "/paid"]);
    let away = faults.set(Ask::of(Verb::Watch, "serviceoffers"), Fault::CutBody(0));
    faults.wait_hits(away, 1).await;
    // One change, and it is the one at which history begins.
    cluster.patch_offer("default", "a", &price("0.002")).await;
    control.compact().await;
    faults.remove(away);
    source_is(&verifier, RECOVERY, "failed", "PrevKv=nil").await;
    costs(&verifier, RECOVERY, "/services/a/x", "2000").await;
    source_is(&verifier, RECOVERY, "ok", "").await;
    equals_cluster(&verifier, &cluster, SOON).await;
    steady.held().await;
    assert_eq!(first_pages(&faults), 2);
}

/// SIGSTOP in the middle of a list: what there is of it shows as little as ever, and the list goes on where it was.
#[tokio::test]
async fn r6_an_api_server_that_stops_in_mid_list_is_waited_for() {
    let (control, cluster, faults, verifier) = scene(&["--watch-cache=false"]).await;
    cluster
        .create_offers((0..1_100).map(|n| offer("default", &format!("o{n}"), "0.001")))
        .await;
    equals_cluster(&verifier, &cluster, SOON * 10).await;
    let both_sides = ["/services/a", "/services/o1", "/services/o1099"];
    let steady = Steady::at(&verifier, &both_sides);
    let away = faults.set(Ask::of(Verb::Watch, "serviceoffers"), Fault::CutBody(0));
    faults.wait_hits(away, 1).await;
    cluster.delete_offer("default", "o0").await;
    cluster.patch_offer("default", "o2", &price("0.002")).await;
    control.compact().await;
    let further = Ask::of(Verb::List, "serviceoffers").further_pages();
    let held = faults.set(further.clone(), Fault::Hold);
    faults.remove(away);
    faults.wait_hits(held, 1).await;
    control.freeze_api().await;
    faults.remove(held);
    let seen = Duration::from_secs(60);
    source_is(&verifier, seen, "failed", "did not answer within").await;
    assert_eq!(answer(&verifier, "/services/o0/x").await.0, 402);
    costs(&verifier, SOON, "/services/o2/x", "1000").await;
    control.thaw_api();
    verifier
        .becomes(RECOVERY, "/services/o0/x", WITHDRAWN)
        .await;
    costs(&verifier, SOON, "/services/o2/x", "2000").await;
    source_is(&verifier, RECOVERY, "ok", "").await;
    equals_cluster(&verifier, &cluster, SOON).await;
    steady.held().await;
    assert_eq!(first_pages(&faults), 2, "the list that began went on");
}

/// Bookmarks: where nothing of ours changes, the version that we would go on from grows old all the same.
#[tokio::test]
async fn a_quiet_watch_moves_on_by_bookmarks() {
    let (_control, cluster, faults, verifier) = scene(&[]).await;
    let steady = Steady::at(&verifier, &["/services/a", "/paid"]);
    for n in 0..5 {
        cluster.namespace(&format!("elsewhere-{n}")).await;
    }
    // An API server's cache learns of them with the next consistent list of whoever.
    equals_cluster(&verifier, &cluster, SOON).await;
    // An API server ends each watch after the time that it was asked for, with a bookmark just before.
    let next = faults.set(Ask::of(Verb::Watch, "serviceoffers"), Fault::Pass);
    faults.wait_hits(next, 1).await;
    let versions = watched_versions(&faults);
    assert!(versions[1] >= versions[0] + 5, "{versions:?}");
    cluster.patch_offer("default", "a", &price("0.002")).await;
    costs(&verifier, SOON, "/services/a/x", "2000").await;
    equals_cluster(&verifier, &cluster, SOON).await;
    steady.held().await;
    assert_eq!(first_pages(&faults), 1, "resumed, not listed again");
}

/// R4: without a CRD there are no offers, which the API server says by deleting them; its 404 says nothing.
#[tokio::test]
async fn a_crd_that_is_deleted_closes_what_was_sold() {
    let (_control, cluster, _faults, verifier) = scene(&[]).await;
    let steady = Steady::at(&verifier, &["/paid"]);
    let crds: kube::Api<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> =
        kube::Api::all(cluster.client());
    crds.delete(
        "serviceoffers.obol.org",
        &kube::api::DeleteParams::default(),
    )
    .await
    .unwrap();
    verifier
        .becomes(SOON * 20, "/services/a/x", WITHDRAWN)
        .await;
    source_is(
        &verifier,
        RECOVERY,
        "failed",
        "CRD serviceoffers.obol.org is missing",
    )
    .await;
    assert_eq!(verifier.admin("/readyz").await.status, 200);
    cluster.install_field_crd().await;
    cluster
        .create_offer(&offer("default", "a", "0.002"))
        .await
        .unwrap();
    costs(&verifier, RECOVERY, "/services/a/x", "2000").await;
    equals_cluster(&verifier, &cluster, SOON).await;
    steady.held().await;
}

/// Each time the connections break a little later in what is said on them, while offers come, change and go.
#[tokio::test]
async fn connections_that_break_at_any_byte_lose_and_repeat_nothing() {
    let (control, cluster, _faults, _first) = scene(&[]).await;
    let proxy = StreamProxy::start(control.address()).await;
    let token = cluster.token("default", "gate").await;
    let file = control.kubeconfig(proxy.address(), &token);
    let kubeconfig = format!("--kubeconfig={}", file.display());
    let args = ["--route-source=kube", &kubeconfig];
    let verifier = Verifier::start_with(&pricing(NO_FACILITATOR), &args).await;
    let steady = Steady::at(&verifier, &["/services/a", "/paid"]);
    for round in 0..30_u64 {
        proxy.cut_after(Direction::Down, 37 * round % 1_500);
        let name = format!("r{round}");
        cluster
            .create_offer(&offer("default", &name, "0.001"))
            .await
            .unwrap();
        cluster.patch_offer("default", &name, &price("0.003")).await;
        if round % 3 == 0 {
            cluster.delete_offer("default", &name).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    proxy.release();
    for round in 0..30 {
        let path = format!("/services/r{round}/x");
        if round % 3 == 0 {
            let gone = |status: u16| status == 410 || status == 403;
            let within = "what is deleted to be closed";
            verifier
                .eventually(RECOVERY, within, || async {
                    gone(answer(&verifier, &path).await.0)
                })
                .await;
        } else {
            costs(&verifier, RECOVERY, &path, "3000").await;
        }
    }
    source_is(&verifier, RECOVERY, "ok", "").await;
    equals_cluster(&verifier, &cluster, SOON).await;
    steady.held().await;
}

/// RBAC is taken away and given back: the watch under way goes on until its end, then the loss is named.
#[tokio::test]
async fn rights_that_are_taken_away_and_given_back_need_no_restart() {
    let (_control, cluster, faults, verifier) = scene(&[]).await;
    let steady = Steady::at(&verifier, &["/services/a", "/paid"]);
    cluster.revoke("default", "gate").await;
    let cut = faults.set(Ask::of(Verb::Watch, "serviceoffers"), Fault::CutBody(0));
    faults.wait_hits(cut, 1).await;
    faults.remove(cut);
    source_is(
        &verifier,
        RECOVERY,
        "failed",
        "does not allow us to watch serviceoffers.obol.org",
    )
    .await;
    cluster
        .create_offer(&offer("default", "b", "0.001"))
        .await
        .unwrap();
    still_ready_and_gated(&verifier).await;
    cluster.allow("default", "gate", &rules()).await;
    verifier.becomes(RECOVERY, "/services/b/x", PAY).await;
    source_is(&verifier, RECOVERY, "ok", "").await;
    equals_cluster(&verifier, &cluster, SOON).await;
    steady.held().await;
}

/// Pages before the one that failed stay good: a list of 100,000 does not begin again for one answer of 500.
#[tokio::test]
async fn a_page_that_fails_is_asked_for_again_and_no_other() {
    let control = ControlPlane::start().await;
    let cluster = control.cluster();
    cluster.install_field_crd().await;
    let token = cluster.service_account("default", "gate").await;
    cluster.allow("default", "gate", &rules()).await;
    cluster
        .create_offers((0..1_100).map(|n| offer("default", &format!("o{n}"), "0.001")))
        .await;
    let faults = ApiFaults::start(control.address()).await;
    let further = Ask::of(Verb::List, "serviceoffers").further_pages();
    faults.set_times(1, further.clone(), Fault::Answer(500, None));
    faults.set_times(1, further, Fault::LoseAnswer);
    let file = control.kubeconfig(faults.address(), &token);
    let kubeconfig = format!("--kubeconfig={}", file.display());
    let args = ["--route-source=kube", &kubeconfig];
    let verifier = Verifier::start_with(&pricing(NO_FACILITATOR), &args).await;
    for n in [0, 499, 500, 999, 1_000, 1_099] {
        assert_eq!(
            answer(&verifier, &format!("/services/o{n}/x")).await.0,
            402,
            "o{n}"
        );
    }
    let lists = faults.seen();
    let lists = lists
        .iter()
        .filter(|seen| seen.verb == Some(Verb::List) && seen.resource == "serviceoffers");
    assert_eq!(lists.count(), 5, "three pages, and two of them again");
    equals_cluster(&verifier, &cluster, SOON).await;
}
