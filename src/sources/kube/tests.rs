//! The informer with a paused clock and events that nobody sent over a network.

use super::*;
use crate::offer::Offer;
use crate::pricing::PathOwner;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::{advance, timeout};

const NOW: fn() -> Timestamp = || Timestamp::UNIX_EPOCH;

/// An informer and both of its ends.
struct Rig {
    messages: mpsc::Sender<Message>,
    updates: mpsc::Receiver<Update>,
    settings: latest::Sender<Option<Arc<Settings>>>,
    degraded: latest::Receiver<Vec<String>>,
    tasks: Tasks,
}

impl Rig {
    /// `scopes` lists of offers, and one list of Secrets per name in every namespace.
    fn new(scopes: usize, secrets: &[&str]) -> Self {
        Self::with_settings(scopes, secrets, Some(Arc::new(Settings::default())))
    }

    fn with_settings(scopes: usize, secrets: &[&str], settings: Option<Arc<Settings>>) -> Self {
        let mut credentials = Credentials::default();
        for name in secrets {
            credentials.add((*name).to_owned(), None, Form::Labelled);
        }
        let translation = TranslateOptions {
            upstream_secret_names: secrets.iter().map(|name| (*name).to_owned()).collect(),
            ..TranslateOptions::default()
        };
        let (messages, received) = mpsc::channel(MESSAGES);
        let (updates, sent) = mpsc::channel(1);
        let (settings, seen) = latest::channel(settings);
        let (told, degraded) = latest::channel(Vec::new());
        let tasks = Tasks::new();
        let informer = Informer {
            store: Store::new(scopes, translation, Vec::new(), credentials),
            troubles: vec![None; scopes],
            secret_troubles: vec![None; secrets.len()],
            degraded: told,
            settings: seen,
            configured: false,
            updates,
            pace: Pace::default(),
            dirty: false,
            synced: false,
            told: None,
            logged: None,
            now: NOW,
        };
        tasks.spawn("informer", informer.run(received, tasks.clone()));
        Self {
            messages,
            updates: sent,
            settings,
            degraded,
            tasks,
        }
    }

    /// One scope whose first list is these offers, delivered.
    async fn synced(objects: &[Value]) -> (Self, Vec<Arc<Offer>>) {
        let mut rig = Self::new(1, &[]);
        rig.list(0, objects).await;
        let first = rig.offers().await;
        (rig, first)
    }

    async fn offer(&self, event: Event<ServiceOffer>) {
        self.messages.send(Message::Offers(0, event)).await.unwrap();
    }

    async fn secret(&self, event: Event<SecretObject>) {
        self.messages
            .send(Message::Secrets(0, event))
            .await
            .unwrap();
    }

    /// A complete list.
    async fn list(&self, scope: usize, objects: &[Value]) {
        let page = objects.iter().map(parse).collect();
        for event in [Event::Begin, Event::Listed(page), Event::Complete] {
            let message = Message::Offers(scope, event);
            self.messages.send(message).await.unwrap();
        }
    }

    async fn update(&mut self) -> Update {
        let update = timeout(Duration::from_secs(1), self.updates.recv()).await;
        update.expect("an update within a second").unwrap()
    }

    async fn offers(&mut self) -> Vec<Arc<Offer>> {
        let update = self.update().await;
        let Update::Offers {
            source: NAME,
            offers,
        } = update
        else {
            panic!("{update:?}");
        };
        offers
    }

    async fn failure(&mut self) -> String {
        let update = self.update().await;
        let Update::Failed {
            source: NAME,
            error,
        } = update
        else {
            panic!("{update:?}");
        };
        error
    }

    /// Nothing is sent, however long one waits.
    async fn silence(&mut self) {
        let update = timeout(Duration::from_secs(600), self.updates.recv()).await;
        assert!(update.is_err(), "{update:?}");
    }
}

fn parse(object: &Value) -> ServiceOffer {
    ServiceOffer::from_json(object.clone())
}

fn object(namespace: &str, name: &str, version: &str, price: &str) -> Value {
    json!({
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": format!("uid-{namespace}-{name}"),
            "resourceVersion": version,
            "creationTimestamp": "2026-11-01T00:00:00Z",
        },
        "spec": {
            "upstream": {"service": "web", "port": 80},
            "payment": {
                "network": "base-sepolia",
                "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
                "price": {"perRequest": price},
            },
        },
    })
}

fn names(offers: &[Arc<Offer>]) -> Vec<String> {
    let name = |offer: &Arc<Offer>| format!("{}/{}", offer.namespace, offer.name);
    offers.iter().map(name).collect()
}

fn amount(offer: &Offer) -> u128 {
    offer.routes[0].options[0].amount.0
}

fn secret(value: &str) -> SecretObject {
    serde_json::from_value(json!({
        "metadata": {
            "namespace": "a",
            "name": "up",
            "labels": {"x402.obol.org/upstream-auth": "true"},
        },
        "data": {"authorization": value},
    }))
    .unwrap()
}

/// R2, R6: half of the lists is none.
#[tokio::test(start_paused = true)]
async fn nothing_is_sent_before_every_list_is_complete() {
    let mut rig = Rig::new(2, &[]);
    rig.list(0, &[object("a", "one", "1", "0.001")]).await;
    rig.silence().await;
    let half = Message::Offers(
        1,
        Event::Listed(vec![parse(&object("b", "two", "2", "0.001"))]),
    );
    rig.messages.send(half).await.unwrap();
    rig.silence().await;
    rig.messages
        .send(Message::Offers(1, Event::Complete))
        .await
        .unwrap();
    assert_eq!(names(&rig.offers().await), ["a/one", "b/two"]);
    rig.silence().await;
}

/// R2: which hosts the operator binds is part of what an offer means.
#[tokio::test(start_paused = true)]
async fn nothing_is_sent_before_there_are_settings() {
    let mut rig = Rig::with_settings(1, &[], None);
    rig.list(0, &[]).await;
    rig.silence().await;
    rig.settings
        .send_replace(Some(Arc::new(Settings::default())));
    assert_eq!(rig.offers().await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lone_change_is_sent_within_20_ms() {
    let (mut rig, _) = Rig::synced(&[object("a", "one", "1", "0.001")]).await;
    advance(Duration::from_secs(60)).await;
    let started = Instant::now();
    let changed = parse(&object("a", "one", "2", "0.002"));
    rig.offer(Event::Set(changed)).await;
    let offers = rig.offers().await;
    assert!(
        started.elapsed() <= Duration::from_millis(20),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(amount(&offers[0]), 2_000);
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_few_updates_and_none_waits_longer_than_250_ms() {
    let (mut rig, _) = Rig::synced(&[]).await;
    let mut waiting: Option<Instant> = None;
    let mut updates = 0;
    for version in 1..=1_000 {
        let version = version.to_string();
        let changed = parse(&object("a", "one", &version, "0.001"));
        let changed = ServiceOffer {
            spec: {
                let mut spec = changed.spec;
                spec["payment"]["price"]["perRequest"] = json!(format!("0.{version:0>6}"));
                spec
            },
            ..changed
        };
        rig.offer(Event::Set(changed)).await;
        let since = *waiting.get_or_insert_with(Instant::now);
        tokio::time::sleep(Duration::from_millis(5)).await;
        match rig.updates.try_recv() {
            Ok(Update::Offers { .. }) => {
                updates += 1;
                waiting = None;
            }
            Ok(other) => panic!("{other:?}"),
            Err(TryRecvError::Empty) => {
                assert!(
                    since.elapsed() <= Duration::from_millis(250),
                    "{:?}",
                    since.elapsed()
                );
            }
            Err(TryRecvError::Disconnected) => panic!("the informer ended"),
        }
    }
    // 5 s of changes, one update in 150 ms.
    assert!((20..=50).contains(&updates), "{updates}");
}

/// The table keeps what it made of an offer that is the same object.
#[tokio::test(start_paused = true)]
async fn what_did_not_change_is_the_same_object_and_is_not_sent() {
    let one = object("a", "one", "1", "0.001");
    let (mut rig, first) = Rig::synced(&[one.clone(), object("a", "two", "2", "0.001")]).await;

    let mut status = one.clone();
    status["metadata"]["resourceVersion"] = json!("9");
    status["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    rig.offer(Event::Set(parse(&status))).await;
    rig.list(0, &[status, object("a", "two", "2", "0.001")])
        .await;
    rig.silence().await;

    let changed = parse(&object("a", "two", "3", "0.002"));
    rig.offer(Event::Set(changed)).await;
    let second = rig.offers().await;
    assert!(Arc::ptr_eq(&first[0], &second[0]));
    assert!(!Arc::ptr_eq(&first[1], &second[1]));
}

/// R6: absence from a complete list is deletion, absence from half a list is nothing.
#[tokio::test(start_paused = true)]
async fn a_relist_is_applied_when_it_is_complete() {
    let objects = [
        object("a", "one", "1", "0.001"),
        object("a", "two", "2", "0.001"),
    ];
    let (mut rig, _) = Rig::synced(&objects).await;
    rig.offer(Event::Begin).await;
    rig.offer(Event::Listed(vec![parse(&objects[1])])).await;
    rig.silence().await;
    // It broke, and begins anew.
    rig.offer(Event::Begin).await;
    rig.offer(Event::Listed(vec![parse(&objects[0])])).await;
    rig.offer(Event::Complete).await;
    assert_eq!(names(&rig.offers().await), ["a/one"]);
}

/// R11: nothing of the old one survives, and its late deletion does not harm the new one.
#[tokio::test(start_paused = true)]
async fn an_offer_made_anew_under_its_name_is_another() {
    let (mut rig, first) = Rig::synced(&[object("a", "one", "1", "0.001")]).await;
    let mut anew = object("a", "one", "5", "0.001");
    anew["metadata"]["uid"] = json!("uid-2");
    rig.offer(Event::Set(parse(&anew))).await;
    let second = rig.offers().await;
    assert!(!Arc::ptr_eq(&first[0], &second[0]));
    assert_eq!(second[0].uid.as_deref(), Some("uid-2"));
    rig.offer(Event::Gone(parse(&object("a", "one", "1", "0.001"))))
        .await;
    rig.silence().await;
    rig.offer(Event::Gone(parse(&anew))).await;
    assert_eq!(rig.offers().await.len(), 0);
}

/// R6: what cannot be understood harms itself.
#[tokio::test(start_paused = true)]
async fn an_object_that_makes_no_sense_closes_its_paths_and_no_other() {
    let nonsense = json!({
        "metadata": {"namespace": "a", "name": "bad", "uid": "u", "resourceVersion": "3"},
        "spec": {"path": "/services/bad", "payment": "seven", "routes": 4},
    });
    let (_rig, offers) = Rig::synced(&[nonsense, object("a", "one", "1", "0.001")]).await;
    assert_eq!(names(&offers), ["a/bad", "a/one"]);
    assert!(!offers[0].problems.is_empty());
    assert!(offers[1].problems.is_empty());
}

/// R6: the last list stays; the loss is told once, and so is its end.
#[tokio::test(start_paused = true)]
async fn a_lost_api_is_a_failure_and_no_list() {
    let (mut rig, first) = Rig::synced(&[object("a", "one", "1", "0.001")]).await;
    rig.offer(Event::Trouble("refused".to_owned())).await;
    assert_eq!(rig.failure().await, "refused");
    rig.offer(Event::Trouble("refused".to_owned())).await;
    rig.silence().await;
    rig.offer(Event::Trouble("forbidden".to_owned())).await;
    assert_eq!(rig.failure().await, "forbidden");
    rig.offer(Event::Well).await;
    let after = rig.offers().await;
    assert!(Arc::ptr_eq(&first[0], &after[0]));
    rig.silence().await;
}

/// A change in one namespace does not hide that another cannot be read.
#[tokio::test(start_paused = true)]
async fn a_failure_of_one_list_outlives_the_changes_of_another() {
    let mut rig = Rig::new(2, &[]);
    let forbidden = Event::Trouble("forbidden".to_owned());
    rig.messages
        .send(Message::Offers(1, forbidden))
        .await
        .unwrap();
    assert_eq!(rig.failure().await, "forbidden");
    rig.list(0, &[]).await;
    rig.silence().await;
    let well = Message::Offers(1, Event::Well);
    rig.messages.send(well).await.unwrap();
    rig.list(1, &[]).await;
    assert_eq!(rig.offers().await.len(), 0);
    rig.messages
        .send(Message::Offers(1, Event::Trouble("gone".to_owned())))
        .await
        .unwrap();
    assert_eq!(rig.failure().await, "gone");
    rig.offer(Event::Set(parse(&object("a", "one", "1", "0.001"))))
        .await;
    assert_eq!(names(&rig.offers().await), ["a/one"]);
    assert_eq!(rig.failure().await, "gone");
}

/// Without a credential the offer is closed: a buyer must not pay for what the upstream refuses.
#[tokio::test(start_paused = true)]
async fn a_secret_opens_and_closes_the_offers_that_name_it() {
    let mut named = object("a", "one", "1", "0.001");
    named["metadata"]["annotations"] = json!({"x402.obol.org/upstream-secret": "up"});
    let mut rig = Rig::new(1, &["up"]);
    rig.list(0, &[named, object("a", "two", "2", "0.001")])
        .await;
    rig.silence().await;

    // R6: it cannot be read, which stops nobody else.
    rig.secret(Event::Trouble("forbidden".to_owned())).await;
    let offers = rig.offers().await;
    assert_eq!(offers[0].problems[0].code, "upstream_secret");
    assert!(offers[1].problems.is_empty());
    assert!(rig.degraded.borrow_and_update()[0].contains("forbidden"));

    rig.secret(Event::Well).await;
    rig.secret(Event::Listed(vec![secret("QmVhcmVyIGE=")]))
        .await;
    rig.secret(Event::Complete).await;
    let offers = rig.offers().await;
    assert!(offers[0].problems.is_empty());
    let auth = |offers: &[Arc<Offer>]| {
        let auth = offers[0].routes[0].upstream_auth.clone();
        auth.map(|auth| auth.expose_secret().to_owned())
    };
    assert_eq!(auth(&offers).as_deref(), Some("Bearer a"));
    assert!(rig.degraded.borrow_and_update().is_empty());

    rig.secret(Event::Set(secret("QmVhcmVyIGI="))).await;
    let changed = rig.offers().await;
    assert_eq!(auth(&changed).as_deref(), Some("Bearer b"));
    assert!(Arc::ptr_eq(&offers[1], &changed[1]));

    rig.secret(Event::Gone(secret(""))).await;
    let gone = rig.offers().await;
    assert_eq!(gone[0].problems[0].code, "upstream_secret");
    assert_eq!(auth(&gone), None);
}

/// O4.
#[tokio::test(start_paused = true)]
async fn a_host_that_the_operator_binds_later_changes_the_offers_on_it() {
    let mut hosted = object("a", "one", "1", "0.001");
    hosted["spec"]["hostname"] = json!("shop.example");
    let (mut rig, first) = Rig::synced(&[hosted, object("a", "two", "2", "0.001")]).await;
    assert_eq!(first[0].hostname, None);
    let mut settings = Settings::default();
    settings.path_owners.push(PathOwner {
        prefix: None,
        host: Some("shop.example".into()),
        namespaces: vec!["a".into()],
    });
    rig.settings.send_replace(Some(Arc::new(settings)));
    let bound = rig.offers().await;
    assert_eq!(bound[0].hostname.as_deref(), Some("shop.example"));
    assert!(Arc::ptr_eq(&first[1], &bound[1]));
    rig.settings.send_modify(|_| {});
    rig.silence().await;
}

#[tokio::test(start_paused = true)]
async fn the_informer_ends_with_the_process() {
    let (mut rig, _) = Rig::synced(&[]).await;
    rig.tasks.begin_shutdown();
    assert!(rig.updates.recv().await.is_none());
}

#[test]
fn a_namespace_is_read_once_and_none_is_all() {
    let mut options = KubeOptions::default();
    assert_eq!(namespaces(&options), [None]);
    options.namespaces = ["b", "a", "b"].map(str::to_owned).to_vec();
    assert_eq!(
        namespaces(&options),
        [Some("a".to_owned()), Some("b".to_owned())]
    );
}
