//! What has to stay while something else is lost, and what has to be equal when it is found again.
//!
//! [`Steady`] asks for paths that exist before and after, all the time, and reads `/routes` beside it: no moment may
//! come with one of them missing, free or refused otherwise, nor one without readiness. [`equals_cluster`] takes the
//! API server itself for the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::task::JoinSet;

use super::PAY;
use crate::{
    harness::{Verifier, verdict},
    parts::{control_plane::Cluster, http},
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until it is asked what it saw.
#[must_use = "it says nothing before it is asked"]
pub(super) struct Steady {
    seen: Arc<Mutex<Seen>>,
    looking: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    looks: usize,
    wrong: Vec<String>,
}

impl Steady {
    /// Below each of these paths everything costs something, from here on.
    pub(super) fn at(verifier: &Verifier, bases: &[&str]) -> Self {
        let asks: Vec<_> = bases
            .iter()
            .map(|base| verifier.ask(&format!("{base}/x")))
            .collect();
        let patterns: BTreeSet<_> = bases.iter().map(|base| format!("{base}/*")).collect();
        let (routes, ready) = (verifier.admin_url("/routes"), verifier.admin_url("/readyz"));
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let told = seen.clone();
        let mut looking = JoinSet::new();
        looking.spawn(async move {
            loop {
                let mut wrong = Vec::new();
                for ask in &asks {
                    match ask.try_send().await.map(|answer| verdict(&answer)) {
                        Ok((status, reason)) if (status, reason.as_str()) == PAY => {}
                        other => wrong.push(format!("{other:?} from {ask:?}")),
                    }
                }
                match http::get(&routes).await {
                    Ok(answer) => {
                        let live = live(&answer.json());
                        let missing: Vec<_> = patterns.difference(&live).collect();
                        if !missing.is_empty() {
                            wrong.push(format!("not live in /routes: {missing:?}"));
                        }
                    }
                    Err(error) => wrong.push(error.to_string()),
                }
                match http::get(&ready).await {
                    Ok(answer) if answer.status == 200 => {}
                    other => wrong.push(format!("/readyz: {other:?}")),
                }
                {
                    let mut seen = told.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.looks += 1;
                    seen.wrong.append(&mut wrong);
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { seen, looking }
    }

    /// Ends it: all of them were there at every look.
    pub(super) async fn held(mut self) {
        self.looking.abort_all();
        while let Some(ended) = self.looking.join_next().await {
            assert!(ended.is_err_and(|ended| ended.is_cancelled()), "it died");
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(seen.looks > 1, "it hardly looked");
        let some: Vec<_> = seen.wrong.iter().take(5).collect();
        assert!(some.is_empty(), "{} times, as {some:#?}", seen.wrong.len());
    }
}

fn rows(routes: &Value) -> &[Value] {
    routes["routes"].as_array().expect("rows")
}

/// The patterns of live rows.
fn live(routes: &Value) -> BTreeSet<String> {
    let live = rows(routes).iter().filter(|row| row["state"] == "live");
    live.map(|row| row["pattern"].as_str().expect("text").to_owned())
        .collect()
}

/// Waits until the offers that are live are those that the API server has, at its prices.
pub(super) async fn equals_cluster(verifier: &Verifier, cluster: &Cluster, within: Duration) {
    let (offers, all) = (cluster.all_offers(), kube::api::ListParams::default());
    let listed = offers.list(&all).await.expect("the API server is well");
    let wanted: BTreeMap<_, _> = listed
        .items
        .into_iter()
        .filter(|object| object.metadata.deletion_timestamp.is_none())
        .map(|object| {
            let price = &object.data["spec"]["payment"]["price"]["perRequest"];
            let price = price.as_str().unwrap_or_default().to_owned();
            (object.metadata.name.unwrap_or_default(), price)
        })
        .collect();
    let what = format!("the {} offers of the cluster", wanted.len());
    verifier
        .eventually(within, &what, || async {
            let routes = verifier.admin("/routes").await.json();
            let rows = rows(&routes).iter();
            let live = rows.filter(|row| row["state"] == "live" && row["source"] == "kube");
            let found: BTreeMap<_, _> = live
                .map(|row| {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    let price = text(&row["accepts"][0]["price"]);
                    (text(&row["offer"]["name"]), price)
                })
                .collect();
            found == wanted
        })
        .await;
}
