//! What a verifier missed while it could not see the cluster (R2, R6): found by comparing, applied at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::task::JoinSet;

use super::seller::{Seller, send};
use crate::{
    harness::{Ask, challenge_of},
    parts::{
        control_plane::{
            ApiFaults, Ask as ApiAsk, Cluster, ControlPlane, Fault, Options, Verb, offer,
        },
        http::Pool,
        stream_proxy::StreamProxy,
    },
    soak::count,
};

/// What T4.6 gives a list to be the table, 2 s, with the slack of a busy machine.
const APPLIED: Duration = Duration::from_secs(10);
/// Pauses between attempts grow to 30 s.
const RECOVERY: Duration = Duration::from_secs(90);

/// Offers that are there all the time, asked for by whoever does not pay.
struct Steady {
    wrong: Arc<std::sync::Mutex<Vec<String>>>,
    asked: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Steady {
    fn start(pool: &Pool, asks: &[Ask]) -> Self {
        let mut steady = Self {
            wrong: Arc::default(),
            asked: Arc::default(),
            over: Arc::default(),
            clients: JoinSet::new(),
        };
        for client in 0..4 {
            let (pool, mut asks) = (pool.clone(), asks.to_owned());
            let (wrong, asked, over) = (
                Arc::clone(&steady.wrong),
                Arc::clone(&steady.asked),
                Arc::clone(&steady.over),
            );
            let first = client % asks.len();
            asks.rotate_left(first);
            steady.clients.spawn(async move {
                for ask in asks.iter().cycle() {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    let answer = send(&pool, ask).await;
                    if answer.status != 402 {
                        wrong.lock().unwrap().push(format!(
                            "{ask:?}: {} {}",
                            answer.status,
                            answer.text()
                        ));
                    }
                    asked.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
        steady
    }

    /// Goes on until so many were asked, and no answer was another than the price.
    async fn end(self, at_least: usize) {
        while self.asked.load(Ordering::SeqCst) < at_least {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.over.store(true, Ordering::SeqCst);
        self.clients.join_all().await;
        let wrong = self.wrong.lock().unwrap();
        let (asked, few) = (
            self.asked.load(Ordering::SeqCst),
            wrong.iter().take(5).collect::<Vec<_>>(),
        );
        assert!(wrong.is_empty(), "{} of {asked}: {few:#?}", wrong.len());
    }
}

/// Every number of live routes that `/routes` showed, looked at all the time.
async fn watch_routes(
    pool: Pool,
    url: String,
    seen: Arc<std::sync::Mutex<BTreeSet<usize>>>,
    over: Arc<AtomicBool>,
) {
    while !over.load(Ordering::SeqCst) {
        let routes = pool.get(&url).await.expect("the admin port answers").json();
        let live = routes["routes"].as_array().expect("routes").iter();
        let live = live.filter(|route| route["state"] == "live").count();
        seen.lock().unwrap().insert(live);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// T4.6: ten of twenty go while nobody looks; `forgotten` is whether the API server no longer keeps the changes, so
/// that everything is listed again.
async fn t4_6(namespace: &str, forgotten: bool) {
    let control = ControlPlane::shared().await;
    let faults = ApiFaults::start(control.address()).await;
    let seller = Seller::open(&control, faults.address(), namespace).await;
    let names: Vec<String> = (0..20)
        .map(|number| format!("{namespace}-{number}"))
        .collect();
    let (going, staying) = names.split_at(10);
    seller
        .cluster
        .create_offers(names.iter().map(|name| offer(namespace, name, "0.001")))
        .await;
    for name in &names {
        seller.becomes(name, 402).await;
    }
    let asks: Vec<_> = staying.iter().map(|name| seller.ask(name)).collect();
    let steady = Steady::start(&seller.pool, &asks);
    let (seen, over) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let routes = seller
        .verifier
        .admin_url(&format!("/routes?namespace={namespace}"));
    let watcher = tokio::spawn(watch_routes(
        seller.pool.clone(),
        routes,
        Arc::clone(&seen),
        Arc::clone(&over),
    ));

    // Every watch breaks at its first byte.
    let away = faults.set(ApiAsk::of(Verb::Watch, "serviceoffers"), Fault::CutBody(0));
    let label = serde_json::json!({"metadata": {"labels": {"touched": "yes"}}});
    seller
        .cluster
        .patch_offer(namespace, &staying[0], &label)
        .await;
    faults.wait_hits(away, 1).await;
    for name in going {
        seller.cluster.delete_offer(namespace, name).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    for name in going {
        assert_eq!(seller.status(name).await, 402, "the last table stays");
    }
    let listed = if forgotten {
        let held = faults.set(ApiAsk::of(Verb::List, "serviceoffers"), Fault::Hold);
        let expired = faults.set_times(
            1,
            ApiAsk::of(Verb::Watch, "serviceoffers"),
            Fault::Answer(410, None),
        );
        faults.wait_hits(expired, 1).await;
        faults.remove(away);
        faults.wait_hits(held, 1).await;
        // While the list is under way nothing of it shows.
        tokio::time::sleep(Duration::from_millis(200)).await;
        for name in &names {
            assert_eq!(seller.status(name).await, 402, "{name}, during the list");
        }
        let listed = Instant::now();
        faults.remove(held);
        listed
    } else {
        let resumed = faults.set(ApiAsk::of(Verb::Watch, "serviceoffers"), Fault::Pass);
        faults.wait_hits(resumed, 1).await;
        Instant::now()
    };
    for name in going {
        seller.becomes(name, 410).await;
    }
    let applied = listed.elapsed();
    println!("applied after {applied:?}");
    assert!(applied < APPLIED, "{applied:?}");

    steady.end(count(1_000, 5_000)).await;
    over.store(true, Ordering::SeqCst);
    watcher.await.unwrap();
    let seen = seen.lock().unwrap().clone();
    if forgotten {
        assert_eq!(seen, BTreeSet::from([10, 20]), "ten go at once");
    }
    assert_eq!(
        (seen.first(), seen.last()),
        (Some(&10), Some(&20)),
        "{seen:?}"
    );
    let live: BTreeSet<_> = seller.routes("live").await.iter().map(name_of).collect();
    assert_eq!(live, staying.iter().cloned().collect());
    for name in going {
        assert!(seller.series(name).await.is_empty(), "R7");
        assert_eq!(seller.status(name).await, 410);
    }
}

fn name_of(route: &Value) -> String {
    route["offer"]["name"].as_str().expect("a name").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_6_a_list_after_a_gap_removes_exactly_what_is_gone() {
    t4_6("gap-listed", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_6_a_watch_resumed_after_a_gap_removes_exactly_what_is_gone() {
    t4_6("gap-resumed", false).await;
}

/// What the cluster has, by what was done to it: the price of each offer that is there, none of each that was.
type Model = BTreeMap<String, Option<u32>>;

/// One change after the other. Returns when it is done, whatever the API server was doing meanwhile.
async fn churn(cluster: &Cluster, model: &mut Model, step: usize) {
    let name = format!("churn-{}", step * 7 % 12);
    let there = model.get(&name).copied().flatten();
    let price = u32::try_from(step % 900 + 1).unwrap();
    let per_request = format!("0.{price:03}");
    let now = match (there, step % 3) {
        (Some(_), 0) => {
            cluster.delete_offer("default", &name).await;
            None
        }
        (Some(_), _) => {
            let dearer =
                serde_json::json!({"spec": {"payment": {"price": {"perRequest": per_request}}}});
            cluster.patch_offer("default", &name, &dearer).await;
            Some(price)
        }
        (None, _) => {
            cluster
                .create_offer(&offer("default", &name, &per_request))
                .await
                .unwrap();
            Some(price)
        }
    };
    model.insert(name, now);
}

/// What is asked for each of the model's offers, in its words; `Err` is an answer that no model has.
async fn told(seller: &Seller, model: &Model) -> BTreeMap<String, Result<Option<u32>, u16>> {
    let mut told = BTreeMap::new();
    for name in model.keys() {
        let answer = seller.send(&seller.ask(name)).await;
        let told_of_it = match answer.status.as_u16() {
            402 => {
                let amount = challenge_of(&answer)["accepts"][0]["amount"]
                    .as_str()
                    .expect("an amount")
                    .to_owned();
                Ok(Some(amount.parse::<u32>().expect("a number") / 1_000))
            }
            // Never seen at all is gone as well.
            410 | 403 => Ok(None),
            other => Err(other),
        };
        told.insert(name.clone(), told_of_it);
    }
    told
}

/// T4.7, R1, R2, R6: the store forgets, the API server dies and comes back, and offers change all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_7_compactions_and_restarts_during_churn_lose_nothing() {
    let rounds = count(2, 10);
    // Without a cache of its own the API server says 410 as soon as the store has forgotten.
    let options = Options {
        flags: vec!["--watch-cache=false".to_owned()],
        ..Options::default()
    };
    let mut control = ControlPlane::start_with(options).await;
    let proxy = StreamProxy::start(control.address()).await;
    let seller = Seller::open(&control, proxy.address(), "default").await;
    let steadily: Vec<_> = (0..5).map(|number| format!("steady-{number}")).collect();
    for name in &steadily {
        seller
            .cluster
            .create_offer(&offer("default", name, "0.001"))
            .await
            .unwrap();
        seller.becomes(name, 402).await;
    }
    let asks: Vec<_> = steadily.iter().map(|name| seller.ask(name)).collect();
    let steady = Steady::start(&seller.pool, &asks);
    let over = Arc::new(AtomicBool::new(false));
    let probes = tokio::spawn({
        let (pool, url, over) = (
            seller.pool.clone(),
            seller.verifier.admin_url("/readyz"),
            Arc::clone(&over),
        );
        async move {
            let mut probes = 0;
            while !over.load(Ordering::SeqCst) {
                let answer = pool.get(&url).await.expect("the admin port answers");
                assert_eq!(answer.status, 200, "R2: {}", answer.text());
                probes += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            probes
        }
    });

    let (mut model, mut step) = (Model::new(), 0);
    for round in 0..rounds {
        let cluster = control.cluster();
        for phase in 0..3 {
            for _ in 0..15 {
                churn(&cluster, &mut model, step).await;
                step += 1;
            }
            match phase {
                0 => {
                    // While nobody looks, what happened is forgotten: 410, and everything is listed again.
                    proxy.refuse().await;
                    for connection in proxy.open() {
                        connection.cut();
                    }
                    for _ in 0..5 {
                        churn(&cluster, &mut model, step).await;
                        step += 1;
                    }
                    control.compact().await;
                    proxy.accept().await;
                }
                1 => control.restart_api().await,
                _ => {
                    control.compact().await;
                    for connection in proxy.open() {
                        connection.cut();
                    }
                }
            }
            for name in model.keys() {
                let status = seller.status(name).await;
                assert!(matches!(status, 402 | 403 | 410), "R1: {name}: {status}");
            }
        }
        let wanted: BTreeMap<_, _> = model
            .iter()
            .map(|(name, price)| (name.clone(), Ok(*price)))
            .collect();
        let quiet = Instant::now();
        loop {
            let told = told(&seller, &model).await;
            if told == wanted {
                break;
            }
            assert!(
                quiet.elapsed() < RECOVERY,
                "{told:?} instead of {wanted:?}\n{}",
                seller.verifier.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("round {round}: as the model after {:?}", quiet.elapsed());
    }
    let live: BTreeSet<_> = seller.routes("live").await.iter().map(name_of).collect();
    let there = model
        .iter()
        .filter(|(_, price)| price.is_some())
        .map(|(name, _)| name.clone());
    assert_eq!(live, there.chain(steadily).collect());
    steady.end(count(1_000, 5_000)).await;
    over.store(true, Ordering::SeqCst);
    println!("{} probes", probes.await.unwrap());
}
