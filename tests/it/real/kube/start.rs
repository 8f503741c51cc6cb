//! Starts (R1, R2): buyers ask from before the process listens until after it is ready, and nothing passes unpaid.
//!
//! The verifier runs with `unmatched: allow`, where whatever is not in the table yet would be free: one offer lies
//! outside the managed prefixes, so that only the gate's own 503 stands before it. Each start is a fresh process at the
//! same address, asked directly and through one real Traefik that runs all the time. What delays it comes in turn, for
//! how long by lot (the seed is printed): an API server that refuses, is silent or slow, a pricing file that is late, a
//! ledger that remembers or not.
//!
//! A free pass is a 2xx, or an arrival at the service, that no settlement of the facilitator stands for.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    dice::Dice,
    harness::{Ask, Verifier, Wallet, challenge_of, pricing},
    parts::{
        Traefik,
        control_plane::{ControlPlane, offer},
        http::{Answer, Pool},
        stream_proxy::StreamProxy,
    },
    real::{
        shop::{documented_entry_point, payment_header},
        upstream::Upstream,
    },
    scripted::Scripted,
    soak::count,
};

const NAMESPACE: &str = "start";
/// What costs something: by the file, by an offer, by an offer outside the managed prefixes.
const PAID: [&str; 3] = ["/paid/x", "/services/a/x", "/shop/b/x"];
/// What is free: by the file, by an offer.
const FREE: [&str; 2] = ["/free/x", "/services/a/health"];
/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a start may take on a busy machine, back-off included.
const LIMIT: Duration = Duration::from_secs(60);

/// What stands in the way of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    Well,
    Refuses,
    Silent,
    Slow,
}

/// One start.
#[derive(Debug)]
struct Plan {
    api: Api,
    /// The pricing file is there only after so long.
    file_after: Option<Duration>,
    /// When the API server is well again.
    well_after: Duration,
    /// The ledger is that of the start before.
    remembers: bool,
}

impl Plan {
    /// Every combination in turn, at random times.
    fn draw(dice: &mut Dice, number: usize) -> Self {
        let mut wait = |most| Duration::from_millis(dice.below(most) as u64);
        let (well_after, file_after) = (wait(500), wait(300));
        let api = [Api::Well, Api::Refuses, Api::Silent, Api::Slow];
        Self {
            api: api[number % api.len()],
            file_after: number.is_multiple_of(3).then_some(file_after),
            well_after,
            remembers: dice.below(2) == 0,
        }
    }
}

/// What became of the requests of one start, by what was asked and how it was answered; no answer is 0.
#[derive(Debug, Default)]
struct Tally {
    answers: BTreeMap<(&'static str, &'static str, u16), usize>,
    wrong: Vec<String>,
}

/// Who asks, and whether it is to go on.
#[derive(Clone)]
struct Crowd {
    pool: Pool,
    traefik: String,
    tally: Arc<Mutex<Tally>>,
    over: Arc<AtomicBool>,
}

impl Crowd {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::SeqCst)
    }

    fn note(
        &self,
        way: &'static str,
        what: &'static str,
        answer: Option<&Answer>,
        allowed: &[u16],
    ) {
        let status = answer.map_or(0, |answer| answer.status.as_u16());
        let mut tally = self.tally.lock().expect("no panic inside");
        *tally.answers.entry((way, what, status)).or_default() += 1;
        if status != 0 && !allowed.contains(&status) {
            let text = answer.map(Answer::text).unwrap_or_default();
            tally.wrong.push(format!("{way} {what}: {status} {text}"));
        }
    }

    fn count(&self, way: &str, what: &str, status: u16) -> usize {
        let tally = self.tally.lock().expect("no panic inside");
        let fits = |key: &(&str, &str, u16)| key.0 == way && key.1 == what && key.2 == status;
        let counts = tally.answers.iter().filter(|(key, _)| fits(key));
        counts.map(|(_, count)| count).sum()
    }

    async fn direct(&self, ask: &Ask) -> Option<Answer> {
        self.pool.send(ask.request()).await.ok()
    }

    /// As a buyer; Traefik answers 500 when nobody answers it.
    async fn through(&self, path: &str, header: Option<(&str, String)>) -> Option<Answer> {
        let mut request = ::http::Request::get(format!("{}{path}", self.traefik));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.body(Default::default()).expect("a request");
        self.pool.send(request).await.ok()
    }

    /// Asks for everything without paying, and for what is free.
    async fn browse(self, asks: Vec<(Ask, bool)>) {
        while self.goes_on() {
            for (ask, free) in &asks {
                let (what, granted) = if *free {
                    ("free", 200)
                } else {
                    ("unpaid", 402)
                };
                let answer = self.direct(ask).await;
                self.note("direct", what, answer.as_ref(), &[503, granted]);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn browse_through(self) {
        while self.goes_on() {
            for path in PAID.into_iter().chain(FREE) {
                let free = FREE.contains(&path);
                let (what, granted) = if free { ("free", 200) } else { ("unpaid", 402) };
                let answer = self.through(path, None).await;
                self.note("traefik", what, answer.as_ref(), &[500, 503, granted]);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Presents each payment until it is good, then the next one.
    async fn pay(self, direct: Option<Ask>, wallet: Wallet, challenge: Value) {
        while self.goes_on() {
            let payment = wallet.pay_v2(&challenge);
            while self.goes_on() {
                let answer = match &direct {
                    Some(ask) => self.direct(&ask.clone().pay(&payment)).await,
                    None => self.through(PAID[1], Some(payment_header(&payment))).await,
                };
                let (way, more): (_, &[u16]) = match &direct {
                    Some(_) => ("direct", &[503, 200]),
                    None => ("traefik", &[500, 503, 200]),
                };
                self.note(way, "paying", answer.as_ref(), more);
                // A payer is asked about twenty times a second at most (M12).
                tokio::time::sleep(Duration::from_millis(60)).await;
                if answer.is_some_and(|answer| answer.status == 200) {
                    break;
                }
            }
        }
    }
}

/// Every change of what `/readyz` says, from the first answer on.
async fn watch_readiness(url: String, said: Arc<Mutex<Vec<(u16, String)>>>, over: Arc<AtomicBool>) {
    let pool = Pool::default();
    while !over.load(Ordering::SeqCst) {
        if let Ok(answer) = pool.get(&url).await {
            let now = (answer.status.as_u16(), answer.text());
            let mut said = said.lock().expect("no panic inside");
            if said.last() != Some(&now) {
                said.push(now);
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn dynamic(gate: &str, upstream: &str) -> String {
    format!(
        "http:
  routers: {{all: {{rule: \"PathPrefix(`/`)\", entryPoints: [web], middlewares: [pay], service: up}}}}
  middlewares:
    pay: {{forwardAuth: {{address: \"{gate}\", trustForwardHeader: false, maxResponseBodySize: 65536}}}}
  services: {{up: {{loadBalancer: {{servers: [{{url: \"{upstream}\"}}]}}}}}}
"
    )
}

/// Everything that stays while verifiers come and go.
struct Stage {
    _control: Arc<ControlPlane>,
    proxy: StreamProxy,
    facilitator: Scripted,
    document: String,
    verifier: Verifier,
    upstream: Upstream,
    traefik: Traefik,
    challenge: Value,
    /// Of each start that was seen with a cause, which.
    causes: BTreeMap<&'static str, usize>,
}

impl Stage {
    async fn set() -> Self {
        let control = ControlPlane::shared().await;
        let cluster = control.cluster();
        cluster.install_field_crd().await;
        let token = cluster.service_account(NAMESPACE, "gate").await;
        let rules = json!([{"apiGroups": ["obol.org"], "resources": ["serviceoffers"], "verbs": ["list", "watch"]}]);
        cluster.allow(NAMESPACE, "gate", &rules).await;
        let mut a = offer(NAMESPACE, "a", "0.001");
        a["spec"]["routes"] = json!([{"path": "/*"}, {"path": "/health", "gate": "free"}]);
        let mut b = offer(NAMESPACE, "b", "0.001");
        b["spec"]["path"] = json!("/shop/b");
        for offer in [&a, &b] {
            cluster.create_offer(offer).await.unwrap();
        }
        let proxy = StreamProxy::start(control.address()).await;
        let kubeconfig = control.kubeconfig(proxy.address(), &token);
        let facilitator = Scripted::start().await;
        let document = format!("{}unmatched: allow\n", pricing(&facilitator.url()));
        let flags = [
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--watch-namespaces={NAMESPACE}"),
        ];
        let [kubeconfig, namespaces] = flags.each_ref().map(String::as_str);
        let args = [
            "--route-source=kube",
            kubeconfig,
            namespaces,
            "--upstream-secret-names=",
            "--status=false",
        ];
        let verifier = Verifier::start_with(&document, &args).await;
        let first = verifier.ask(PAID[1]);
        let asked = || async { first.send().await.status == 402 };
        verifier.eventually(LIMIT, "the price", asked).await;
        let upstream = Upstream::start().await;
        let options = documented_entry_point();
        let dynamic = dynamic(&verifier.url("/verify"), &upstream.url());
        let traefik = Traefik::start_with(&dynamic, &[("web", &options)]).await;
        Self {
            _control: control,
            proxy,
            facilitator,
            document,
            verifier,
            upstream,
            traefik,
            challenge: challenge_of(&first.send().await),
            causes: BTreeMap::new(),
        }
    }

    /// Everybody who asks during one start.
    fn crowd(&self, crowd: &Crowd, clients: &mut JoinSet<()>) {
        let mut asks = vec![(self.verifier.ask(PAID[1]).pinned(NAMESPACE, "a"), false)];
        asks.extend(PAID.map(|path| (self.verifier.ask(path), false)));
        asks.extend(FREE.map(|path| (self.verifier.ask(path), true)));
        let mut reversed = asks.clone();
        reversed.reverse();
        clients.spawn(crowd.clone().browse(asks));
        clients.spawn(crowd.clone().browse(reversed));
        clients.spawn(crowd.clone().browse_through());
        let direct = self.verifier.ask(PAID[1]);
        let challenge = &self.challenge;
        clients.spawn(
            crowd
                .clone()
                .pay(Some(direct), Wallet::new(1), challenge.clone()),
        );
        clients.spawn(crowd.clone().pay(None, Wallet::new(2), challenge.clone()));
    }

    /// One start, with the load of buyers from before it to after it.
    async fn start(&mut self, plan: &Plan) {
        self.verifier.kill().await;
        if !plan.remembers {
            for ending in ["", "-wal", "-shm"] {
                let file = format!("{}{ending}", self.verifier.ledger().display());
                drop(std::fs::remove_file(file));
            }
        }
        if plan.file_after.is_some() {
            std::fs::remove_file(self.verifier.pricing()).unwrap();
        }
        match plan.api {
            Api::Well => {}
            Api::Refuses => self.proxy.refuse().await,
            Api::Silent => self.proxy.hold(),
            Api::Slow => self.proxy.delay(Duration::from_millis(40)),
        }
        self.upstream.take();
        let settled = self.facilitator.settles();

        let over = Arc::new(AtomicBool::new(false));
        let crowd = Crowd {
            pool: Pool::default(),
            traefik: self.traefik.url("web"),
            tally: Arc::default(),
            over: Arc::clone(&over),
        };
        let said: Arc<Mutex<Vec<(u16, String)>>> = Arc::default();
        let mut clients = JoinSet::new();
        clients.spawn(watch_readiness(
            self.verifier.admin_url("/readyz"),
            Arc::clone(&said),
            Arc::clone(&over),
        ));
        self.crowd(&crowd, &mut clients);
        let nobody = |way| crowd.count(way, "unpaid", if way == "direct" { 0 } else { 500 }) > 0;
        self.until("requests before it listens", || {
            nobody("direct") && nobody("traefik")
        })
        .await;
        self.verifier.launch();
        self.until("the admin port to answer", || {
            !said.lock().unwrap().is_empty()
        })
        .await;
        let file = async {
            if let Some(after) = plan.file_after {
                tokio::time::sleep(after).await;
                self.verifier.write_pricing(&self.document);
            }
        };
        let api = async {
            tokio::time::sleep(plan.well_after).await;
            self.proxy.accept().await;
            self.proxy.release();
        };
        tokio::join!(file, api);
        let served = || {
            let both =
                |way| crowd.count(way, "unpaid", 402) > 3 && crowd.count(way, "paying", 200) > 0;
            both("direct") && both("traefik") && said.lock().unwrap().last().unwrap().0 == 200
        };
        self.until("everybody to be served", served).await;
        over.store(true, Ordering::SeqCst);
        clients.join_all().await;

        self.judge_answers(plan, &crowd, settled);
        self.judge_readiness(plan, &said.lock().unwrap());
        for way in ["direct", "traefik"] {
            *self.causes.entry(way).or_default() += crowd.count(way, "unpaid", 503);
        }
    }

    async fn until(&self, what: &str, done: impl Fn() -> bool) {
        let started = Instant::now();
        while !done() {
            assert!(
                started.elapsed() < LIMIT,
                "waited for {what}\n{}",
                self.verifier.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// R1.
    fn judge_answers(&self, plan: &Plan, crowd: &Crowd, settled: usize) {
        let tally = crowd.tally.lock().unwrap();
        assert!(tally.wrong.is_empty(), "{plan:?}: {:#?}", tally.wrong);
        drop(tally);
        let paid = ["direct", "traefik"].map(|way| crowd.count(way, "paying", 200));
        assert_eq!(
            paid[0] + paid[1],
            self.facilitator.settles() - settled,
            "{plan:?}: each answer was paid"
        );
        let arrived = self.upstream.take();
        let arrived = arrived
            .iter()
            .filter(|head| !FREE.iter().any(|path| head.target == path.as_bytes()));
        assert_eq!(
            arrived.count(),
            paid[1],
            "{plan:?}: what reached the service was paid"
        );
    }

    /// R2.
    fn judge_readiness(&mut self, plan: &Plan, said: &[(u16, String)]) {
        let ready: Vec<_> = said.iter().map(|(status, _)| *status).collect();
        let changes = ready.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!(
            (ready.last(), changes),
            (Some(&200), usize::from(ready[0] == 503)),
            "{plan:?}: {said:?}"
        );
        let mut causes: Vec<_> = said
            .iter()
            .filter_map(|(_, text)| text.lines().next())
            .collect();
        causes.dedup();
        let order = [
            "not ready: config not loaded",
            "not ready: routes not loaded",
            r#"{"status":"ready"}"#,
        ];
        assert!(
            causes.is_sorted_by_key(|cause| order.iter().position(|known| known == cause)),
            "{plan:?}: {said:?}"
        );
        assert!(
            causes.iter().all(|cause| order.contains(cause)),
            "{plan:?}: {said:?}"
        );
        for (name, text) in [
            ("config", "not ready: config not loaded"),
            ("routes", "not ready: routes not loaded"),
            ("unreachable", "cannot be reached"),
            ("waiting", "kube: waiting for the first complete list"),
        ] {
            let seen = said.iter().any(|(_, body)| body.contains(text));
            *self.causes.entry(name).or_default() += usize::from(seen);
        }
        let late = plan.file_after.is_some();
        assert!(causes.contains(&order[0]) || !late, "{plan:?}: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_r2_no_start_lets_anything_pass_and_readiness_changes_once() {
    let seed = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap();
    println!("seed {seed}");
    let mut dice = Dice::new(seed);
    let mut stage = Stage::set().await;
    let starts = count(20, 100);
    for number in 0..starts {
        let plan = Plan::draw(&mut dice, number);
        println!("start {number}: {plan:?}");
        stage.start(&plan).await;
    }
    println!("seen before ready: {:?}", stage.causes);
    // Without these nothing was tried.
    for name in [
        "direct",
        "traefik",
        "config",
        "routes",
        "unreachable",
        "waiting",
    ] {
        assert!(stage.causes[name] > 0, "{name}: {:?}", stage.causes);
    }
}
