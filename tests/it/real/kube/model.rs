//! Random operations against a model, with requests running (R1, R3 to R6, R11).
//!
//! A seller and an operator do what comes to their minds: they add, change, move, break, repair, delete and recreate
//! offers, leave finalizers on them, edit the file well and badly. Meanwhile connections are cut at any byte, held and
//! refused, and versions are forgotten so that everything is listed again. [`world`] says what each path may answer
//! after each operation; it is a few plain lines, so that it is obviously right. [`requests`] asks all the time and
//! compares. After each round `/routes` has to come to equal the model.
//!
//! `X402_MODEL_SEED` brings a run back, as far as operations go: how they meet the process is the machine's dice.

mod requests;
mod world;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use self::{
    requests::{History, Requests},
    world::{FILE_ROUTES, File, Life, OFFERS, SIDES, Shops, payee, price},
};
use crate::{
    dice::Dice,
    harness::{NO_FACILITATOR, Verifier, pricing},
    parts::{
        control_plane::{
            ADMIN_TOKEN, ApiFaults, Ask, Cluster, ControlPlane, Fault, Options, Verb, offer,
        },
        stream_proxy::{Direction, StreamProxy},
    },
    soak::count,
};

/// Where the offers are.
const NAMESPACE: &str = "default";
/// A change is live within 100 ms, and how soon exactly is for other tests: this one loads the machine on purpose, and
/// only wants to know that it comes.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pauses between attempts grow to 30 s.
const RECOVERY: Duration = Duration::from_secs(90);
const REQUESTERS: u64 = 2;
/// What keeps an object after its deletion.
const FINALIZER: &str = "tests/hold";

/// What a round does to the way between the process and its API server, before its operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    /// Every connection breaks after so many more bytes.
    Cut(Direction, u64),
    /// No byte passes for the length of the round.
    Hold,
    /// The watch breaks and cannot be resumed; what was missed is no longer kept, so everything is listed.
    Relist,
    /// The next requests are refused, and connections break so that there are any.
    Storm(u16, u32),
    /// The API server dies after the operations and starts again on the same data.
    Restart,
}

/// The seed of `X402_MODEL_SEED`, else one of the clock's.
fn seed() -> u64 {
    match std::env::var("X402_MODEL_SEED") {
        Ok(text) => text.parse().expect("X402_MODEL_SEED is a number"),
        Err(_unset) => jiff::Timestamp::now().as_microsecond().unsigned_abs() % 1_000_000,
    }
}

/// Everything that runs.
struct Scene {
    dice: Dice,
    control: ControlPlane,
    cluster: Cluster,
    faults: ApiFaults,
    proxy: StreamProxy,
    verifier: Verifier,
    requests: Requests,
    shops: Shops,
    file: File,
    /// It has good edits that were not seen in the table yet.
    file_is_new: bool,
    /// The number of the last terms; each is used once.
    terms: u64,
    done: BTreeMap<&'static str, usize>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_to_r6_after_any_operations_the_table_equals_the_model_and_every_answer_had_its_moment()
{
    let seed = seed();
    println!("X402_MODEL_SEED={seed}");
    let wanted = count(80, 1_000);
    let mut scene = Scene::start(seed).await;
    let started = Instant::now();
    while scene.operations() < wanted {
        scene.round().await;
        scene.requests.history().assert_sound();
    }
    let lists = scene.lists();
    let Scene {
        requests,
        done,
        verifier,
        ..
    } = scene;
    let asked = requests.stop().await;
    println!(
        "{done:?}, {asked} requests, {lists} lists in {:?}",
        started.elapsed()
    );
    assert!(asked > wanted, "only {asked} requests");
    let relists = done.get("relist").copied().unwrap_or_default();
    assert!(lists > relists, "{relists} relists, {lists} lists");
    assert_eq!(verifier.admin("/readyz").await.status, 200);
}

impl Scene {
    /// No offers, an empty file but for what is always there, and requests.
    async fn start(seed: u64) -> Self {
        let options = Options {
            // Else an API server remembers what its store no longer has, and nothing has to be listed again.
            flags: vec!["--watch-cache=false".to_owned()],
            ..Options::default()
        };
        let control = ControlPlane::start_with(options).await;
        let cluster = control.cluster();
        cluster.install_field_crd().await;
        let faults = ApiFaults::start(control.address()).await;
        let proxy = StreamProxy::start(faults.address()).await;
        // The administrator's, because others end after ten minutes.
        let kubeconfig = control.kubeconfig(proxy.address(), ADMIN_TOKEN);
        let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
        let args = ["--route-source=kube", &kubeconfig, "--status=false"];
        let verifier = Verifier::start_with(&pricing(NO_FACILITATOR), &args).await;
        let (shops, file) = (Shops::default(), File::default());
        let history = History::new(shops.clone(), file.clone());
        let requests = Requests::start(&verifier, NAMESPACE, history, seed, REQUESTERS);
        let mut scene = Self {
            dice: Dice::new(seed),
            control,
            cluster,
            faults,
            proxy,
            verifier,
            requests,
            shops,
            file,
            file_is_new: false,
            terms: 0,
            done: BTreeMap::new(),
        };
        scene.confirm(DEADLINE).await;
        scene
    }

    fn operations(&self) -> usize {
        self.done.values().sum()
    }

    fn lists(&self) -> usize {
        let seen = self.faults.seen();
        seen.iter()
            .filter(|seen| seen.verb == Some(Verb::List) && seen.resource == "serviceoffers")
            .filter(|seen| !seen.continues)
            .count()
    }

    /// Trouble or none, a few operations, the end of the trouble, and the table has to follow.
    async fn round(&mut self) {
        let trouble = self.trouble();
        let operations = self.dice.between(1, 4);
        let watching = Ask::of(Verb::Watch, "serviceoffers");
        match trouble {
            Trouble::None => self.operate(operations).await,
            Trouble::Restart => {
                self.count("restart of the API server");
                self.operate(operations).await;
                self.control.restart_api().await;
                self.cluster.await_crd("serviceoffers.obol.org").await;
            }
            Trouble::Cut(direction, bytes) => {
                self.count("cut");
                self.proxy.cut_after(direction, bytes);
                self.operate(operations).await;
            }
            Trouble::Hold => {
                self.count("hold of the connection");
                self.proxy.hold_only(Direction::Down);
                self.operate(operations).await;
                self.proxy.release();
            }
            Trouble::Relist => {
                self.count("relist");
                let away = self.faults.set(watching, Fault::CutBody(0));
                self.faults.wait_hits(away, 1).await;
                self.operate(operations).await;
                self.control.compact().await;
                self.faults.remove(away);
            }
            Trouble::Storm(code, times) => {
                self.count("storm");
                let refused = Ask::on("serviceoffers");
                let storm = self
                    .faults
                    .set_times(times, refused, Fault::Answer(code, None));
                self.proxy.cut();
                self.operate(operations).await;
                self.faults.wait_hits(storm, u64::from(times)).await;
                self.faults.clear();
            }
        }
        let deadline = if trouble == Trouble::None {
            DEADLINE
        } else {
            RECOVERY
        };
        self.confirm(deadline).await;
    }

    fn trouble(&mut self) -> Trouble {
        let direction = [Direction::Down, Direction::Up][self.dice.below(2)];
        if self.dice.below(40) == 0 {
            return Trouble::Restart;
        }
        match self.dice.below(12) {
            0..=3 => Trouble::None,
            4..=6 => Trouble::Cut(direction, self.dice.below(2_000) as u64),
            7 => Trouble::Hold,
            8..=9 => Trouble::Relist,
            _ => {
                let code = [401, 403, 404, 429, 500][self.dice.below(5)];
                Trouble::Storm(code, 1 + u32::from(self.dice.below(2) == 1))
            }
        }
    }

    async fn operate(&mut self, operations: usize) {
        for _ in 0..operations {
            if self.dice.below(4) == 0 {
                self.change_the_file().await;
            } else {
                self.change_an_offer().await;
            }
        }
        self.end_with_news().await;
    }

    /// Changes what nothing else changes, so that no table of the round but its last can look like the model.
    async fn end_with_news(&mut self) {
        let terms = self.new_terms();
        let news = &mut self.shops.0[OFFERS];
        let first = news.life == Life::Never;
        news.open(0, terms, false);
        self.requests.history().sent_to_cluster(self.shops.clone());
        if first {
            let made = self.object(OFFERS);
            self.cluster.create_offer(&made).await.expect("creates");
        } else {
            self.apply(OFFERS).await;
        }
        if self.file_is_new {
            self.file.0[FILE_ROUTES] = Life::Live { terms, free: false };
            self.requests.history().sent_to_file(self.file.clone());
            self.write_file();
        }
    }

    /// Waits until `/routes` says what the model says; from then on no answer may be older.
    async fn confirm(&mut self, within: Duration) {
        let started = Instant::now();
        loop {
            let routes = self.verifier.admin("/routes").await.json();
            if self.is_model(&routes, started.elapsed() < within) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.requests.history().confirm();
        self.file_is_new = false;
    }

    /// Whether `/routes` is what the model says; it has to be when there is no more time.
    fn is_model(&self, routes: &Value, there_is_time: bool) -> bool {
        let history = self.requests.history();
        history.assert_sound();
        let compared = history.compare(routes);
        if let Err(differs) = &compared {
            let operations = history.last_operations();
            assert!(there_is_time, "{differs}\n{operations}");
        }
        compared.is_ok()
    }

    fn count(&mut self, operation: &'static str) {
        *self.done.entry(operation).or_default() += 1;
        self.requests.history().note(operation);
    }

    fn new_terms(&mut self) -> u64 {
        self.terms += 1;
        self.terms
    }

    /// Books an operation on an offer: from here on it may show.
    fn sends(&mut self, operation: &'static str, number: usize) {
        self.count(operation);
        let shop = self.shops.0[number].clone();
        let mut history = self.requests.history();
        history.note(&format!("  n{number} becomes {shop:?}"));
        history.sent_to_cluster(self.shops.clone());
    }

    /// One operation of a seller, among those that its offer's state allows.
    async fn change_an_offer(&mut self) {
        let number = self.dice.below(OFFERS);
        let name = format!("n{number}");
        let side = self.dice.below(SIDES);
        let choice = self.dice.below(10);
        let terms = self.new_terms();
        let shop = &mut self.shops.0[number];
        match shop.life {
            Life::Never | Life::Gone => {
                let free = choice < 3;
                let again = shop.life == Life::Gone;
                shop.open(side, terms, free);
                let made = self.object(number);
                self.sends(if again { "recreate" } else { "add" }, number);
                self.cluster.create_offer(&made).await.expect("creates");
            }
            Life::Live { free, .. } => match choice {
                0..=2 => {
                    shop.life = Life::Live { terms, free };
                    self.sends("change", number);
                    self.apply(number).await;
                }
                3 => {
                    shop.life = Life::Live { terms, free: !free };
                    self.sends("free or not", number);
                    self.apply(number).await;
                }
                4 => {
                    let other = 1 - shop.side;
                    shop.open(other, terms, free);
                    self.sends("move", number);
                    self.apply(number).await;
                }
                5 => {
                    shop.life = Life::Broken;
                    self.sends("break", number);
                    let broken =
                        json!({"spec": {"payment": {"network": "no-such-chain"}, "routes": null}});
                    self.cluster.patch_offer(NAMESPACE, &name, &broken).await;
                }
                6..=7 => self.delete(number, &name).await,
                8 => {
                    let held = json!({"metadata": {"finalizers": [FINALIZER]}});
                    self.cluster.patch_offer(NAMESPACE, &name, &held).await;
                    self.shops.0[number].life = Life::Held;
                    self.sends("hold by finalizer", number);
                    self.cluster.delete_offer(NAMESPACE, &name).await;
                }
                _ => {
                    self.delete(number, &name).await;
                    self.shops.0[number].open(side, terms, free);
                    self.sends("recreate", number);
                    let made = self.object(number);
                    self.cluster.create_offer(&made).await.expect("creates");
                }
            },
            Life::Broken if choice < 6 => {
                shop.life = Life::Live { terms, free: false };
                self.sends("repair", number);
                self.apply(number).await;
            }
            Life::Broken => self.delete(number, &name).await,
            Life::Held if choice < 7 => {
                self.shops.0[number].life = Life::Gone;
                self.sends("release of a finalizer", number);
                let released = json!({"metadata": {"finalizers": null}});
                self.cluster.patch_offer(NAMESPACE, &name, &released).await;
            }
            Life::Held => {
                self.sends("change while held", number);
                let dearer = json!({"spec": {"payment": {"price": {"perRequest": price(terms)}}}});
                self.cluster.patch_offer(NAMESPACE, &name, &dearer).await;
            }
        }
    }

    async fn delete(&mut self, number: usize, name: &str) {
        self.shops.0[number].life = Life::Gone;
        self.sends("delete", number);
        self.cluster.delete_offer(NAMESPACE, name).await;
    }

    /// The whole spec in one write, so that its parts belong together.
    async fn apply(&self, number: usize) {
        let object = self.object(number);
        let mut patch = json!({"spec": object["spec"]});
        if patch["spec"].get("routes").is_none() {
            patch["spec"]["routes"] = Value::Null;
        }
        let name = format!("n{number}");
        self.cluster.patch_offer(NAMESPACE, &name, &patch).await;
    }

    /// The object of an offer that lives.
    fn object(&self, number: usize) -> Value {
        let shop = &self.shops.0[number];
        let Life::Live { terms, free } = shop.life else {
            panic!("{shop:?} has no object of its own");
        };
        let mut object = offer(NAMESPACE, &format!("n{number}"), &price(terms));
        object["spec"]["path"] = json!(world::base(number, shop.side));
        object["spec"]["payment"]["payTo"] = json!(payee(terms));
        if free {
            object["spec"]["routes"] = json!([{"path": "/*"}, {"path": "/free/*", "gate": "free"}]);
        }
        object
    }

    /// One edit of the operator, in one of five cases a bad one: then the last good file stays (R6).
    async fn change_the_file(&mut self) {
        if self.dice.below(5) == 0 {
            self.count("bad file");
            self.verifier.write_pricing("routes: [{pattern");
            return;
        }
        let route = self.dice.below(FILE_ROUTES);
        let terms = self.new_terms();
        let keep = self.dice.below(3) != 0;
        let is_live = matches!(self.file.0[route], Life::Live { .. });
        self.file.0[route] = if is_live && !keep {
            Life::Gone
        } else {
            Life::Live { terms, free: false }
        };
        self.count("file reload");
        let state = self.file.0[route].clone();
        let mut history = self.requests.history();
        history.note(&format!("  f{route} becomes {state:?}"));
        history.sent_to_file(self.file.clone());
        drop(history);
        self.file_is_new = true;
        self.write_file();
    }

    fn write_file(&self) {
        let text = format!("{}{}", pricing(NO_FACILITATOR), self.file.lines());
        self.verifier.write_pricing(&text);
    }
}
