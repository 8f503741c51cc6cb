//! A stand-in for the API server that passes every request on, and answers, delays, holds or cuts those it was told to.
//!
//! It speaks TLS with the API server's own certificate, so a kubeconfig with its address is all that changes for a
//! client. A rule is an [`Ask`], which requests, and a [`Fault`], what becomes of them; the last rule that fits
//! counts. A rule on an answer's body acts on answers that are under way too: a watch that has run for a minute can be
//! held at its next event and then cut.
//!
//! Each request goes to the API server on a connection of its own: what breaks here broke because a rule said so, or
//! because the API server is away, which its clients see as the connection's end. Upgrades (exec) are not carried.

mod ask;
mod serve;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch, task::JoinSet};

pub(crate) use self::ask::{Ask, Seen, Verb};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Goes through: an exception from an earlier rule.
    Pass,
    /// Answered here with this status and, for 429 and 503, `Retry-After` in seconds; the API server never sees it.
    Answer(u16, Option<u32>),
    /// Goes on so much later.
    Delay(Duration),
    /// Waits here, unseen by the API server, until the rule is gone or another.
    Hold,
    /// The connection ends without an answer; the API server never sees it.
    Cut,
    /// The API server serves it, the connection ends without an answer.
    LoseAnswer,
    /// The answer stops after so many bytes of its body until the rule is gone or another.
    HoldBody(u64),
    /// The connection ends after so many bytes of the answer's body.
    CutBody(u64),
    /// Each piece of the answer's body passes so much later.
    DelayBody(Duration),
}

/// A rule that was set; for [`ApiFaults::remove`] and [`ApiFaults::hits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RuleId(u64);

#[derive(Debug, Clone)]
struct Rule {
    id: RuleId,
    ask: Ask,
    fault: Fault,
    /// How many more requests it is for.
    left: Option<u32>,
}

/// The stand-in. Dropping it ends its connections.
#[derive(Debug)]
pub(crate) struct ApiFaults {
    address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct State {
    target: SocketAddr,
    client: serve::Upstream,
    rules: watch::Sender<Vec<Rule>>,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    next_rule: u64,
    hits: HashMap<RuleId, u64>,
    seen: Vec<Seen>,
}

impl ApiFaults {
    /// Starts in front of the API server at `target`, without rules.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("loopback is there");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let state = Arc::new(State {
            target,
            client: serve::upstream(),
            rules: watch::Sender::new(Vec::new()),
            log: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve::accept(listener, Arc::clone(&state)));
        Self {
            address,
            state,
            _tasks: tasks,
        }
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds a rule; it wins over those before it.
    pub(crate) fn set(&self, ask: Ask, fault: Fault) -> RuleId {
        self.add(ask, fault, None)
    }

    /// As [`ApiFaults::set`], for the next `times` requests that fit, and no other after them.
    pub(crate) fn set_times(&self, times: u32, ask: Ask, fault: Fault) -> RuleId {
        self.add(ask, fault, Some(times))
    }

    fn add(&self, ask: Ask, fault: Fault, left: Option<u32>) -> RuleId {
        let mut log = self.state.log();
        let id = RuleId(log.next_rule);
        log.next_rule += 1;
        drop(log);
        let rule = Rule {
            id,
            ask,
            fault,
            left,
        };
        self.state.rules.send_modify(|rules| rules.push(rule));
        id
    }

    /// Gives a rule another fault; what it held meets that.
    pub(crate) fn change(&self, id: RuleId, fault: Fault) {
        self.state.rules.send_modify(|rules| {
            for rule in rules.iter_mut().filter(|rule| rule.id == id) {
                rule.fault = fault;
            }
        });
    }

    /// Takes a rule away; what it held goes on.
    pub(crate) fn remove(&self, id: RuleId) {
        self.state
            .rules
            .send_modify(|rules| rules.retain(|rule| rule.id != id));
    }

    /// Takes all rules away.
    pub(crate) fn clear(&self) {
        self.state.rules.send_modify(Vec::clear);
    }

    /// How many requests a rule has met so far.
    pub(crate) fn hits(&self, id: RuleId) -> u64 {
        self.state.log().hits.get(&id).copied().unwrap_or(0)
    }

    /// Waits until a rule has met so many requests.
    pub(crate) async fn wait_hits(&self, id: RuleId, wanted: u64) {
        let limit = tokio::time::Instant::now() + Duration::from_secs(60);
        while self.hits(id) < wanted {
            assert!(
                tokio::time::Instant::now() < limit,
                "{wanted} requests did not come: {:?}",
                self.seen()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Every request so far, in order of arrival.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.log().seen.clone()
    }
}

impl State {
    /// Records a request and finds the rule that it meets.
    fn meet(&self, seen: &Seen) -> Option<RuleId> {
        let mut met = None;
        self.rules.send_if_modified(|rules| {
            let fits = |rule: &&mut Rule| rule.left != Some(0) && rule.ask.fits(seen);
            if let Some(rule) = rules.iter_mut().rev().find(fits) {
                rule.left = rule.left.map(|left| left - 1);
                met = Some(rule.id);
            }
            // Nothing that anybody waits for has changed.
            false
        });
        let mut log = self.log();
        log.seen.push(seen.clone());
        if let Some(id) = met {
            *log.hits.entry(id).or_default() += 1;
        }
        met
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a rule says now; passing, once it is gone.
fn fault_of(rules: &[Rule], id: Option<RuleId>) -> Fault {
    let rule = rules.iter().find(|rule| Some(rule.id) == id);
    rule.map_or(Fault::Pass, |rule| rule.fault)
}

/// What the rules say now to the answer of a request that met `met`: a rule for a number of requests speaks to those
/// alone, any other to whatever fits it, also when it came later.
fn body_fault(rules: &[Rule], seen: &Seen, met: Option<RuleId>) -> Fault {
    let speaks = |rule: &&Rule| match rule.left {
        Some(_) => Some(rule.id) == met,
        None => rule.ask.fits(seen),
    };
    let rule = rules.iter().rev().find(speaks);
    rule.map_or(Fault::Pass, |rule| rule.fault)
}
