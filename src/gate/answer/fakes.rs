//! A gate in one process: a scripted facilitator, a ledger that is slow or fails, a buyer, and time
//! that stands until everybody waits.

use super::*;
use crate::gate::ports::{Booked, ClaimOutcome, NewClaim, SettleReply, Trace, VerifyReply};
use crate::gate::{PathRecord, Release, Total, Upkeep};
use crate::ledger::{Clock, Store};
use crate::pricing;
use crate::route::Target;
use crate::table::{TableWriter, Update};
use crate::x402::{SettleResponse, VerifyResponse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::SignedDuration;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const START: i64 = 1_800_000_000;
const PRICING: &str = "chain: base-sepolia
wallet: '0x209693Bc6afc0C5328bA36FaF03C514EF312287C'
facilitatorURL: http://127.0.0.1:1
routes:
- {pattern: '/paid/*', price: '0.001', offerNamespace: shop, offerName: report}
- {pattern: '/never/*', price: '0.001', settle: never, offerNamespace: shop, offerName: report}
";

/// Random numbers that a printed seed brings back (xorshift).
#[derive(Debug)]
pub(super) struct Dice(AtomicU64);

/// A facilitator that does what it is told, and remembers.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) verify: Mutex<VecDeque<VerifyReply>>,
    pub(super) settle: Mutex<VecDeque<Told>>,
    pub(super) verifies: AtomicU64,
    /// Payloads as they came to settle.
    pub(super) settles: Mutex<Vec<Bytes>>,
    /// Payloads that it said were settled.
    pub(super) settled: Mutex<Vec<Bytes>>,
    jitter: Option<Arc<Dice>>,
}

/// What the facilitator does to a settle call, and when.
#[derive(Debug)]
pub(super) enum Told {
    Settle(Duration),
    Say(Duration, SettleReply),
    Panic,
}

/// A ledger in memory behind a slow and failing way.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) store: Store,
    /// Operations that fail, by the first word of their name.
    pub(super) failing: Mutex<Vec<&'static str>>,
    jitter: Option<Arc<Dice>>,
}

/// All of it.
pub(super) struct World {
    pub(super) gate: Gate<Arc<Script>, Arc<Way>>,
    pub(super) script: Arc<Script>,
    pub(super) way: Arc<Way>,
    pub(super) tasks: Tasks,
    pub(super) tables: TableReader,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        )))
    }

    /// A number below `limit`.
    pub(super) fn roll(&self, limit: u64) -> u64 {
        let mut state = self.0.load(Ordering::SeqCst);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.0.store(state, Ordering::SeqCst);
        (state >> 11) % limit
    }
}

async fn dawdle(jitter: Option<&Arc<Dice>>) {
    if let Some(dice) = jitter {
        match dice.roll(4) {
            0 => {}
            1 => tokio::task::yield_now().await,
            _ => tokio::time::sleep(Duration::from_millis(dice.roll(30))).await,
        }
    }
}

pub(super) fn settle_failed(reason: &str, transaction: &str) -> SettleReply {
    SettleReply::Verdict(SettleResponse {
        success: false,
        transaction: transaction.to_owned(),
        network: "eip155:84532".to_owned(),
        payer: None,
        amount: None,
        error_reason: Some(reason.to_owned()),
        error_message: None,
    })
}

pub(super) fn invalid(reason: &str) -> VerifyReply {
    VerifyReply::Verdict(VerifyResponse {
        is_valid: false,
        invalid_reason: Some(reason.to_owned()),
        invalid_message: None,
        payer: None,
    })
}

impl Facilitator for Arc<Script> {
    async fn verify(
        &self,
        _: &Arc<x402::Endpoint>,
        _: Bytes,
        _: &Trace,
        _: Instant,
    ) -> VerifyReply {
        self.verifies.fetch_add(1, Ordering::SeqCst);
        let told = self.verify.lock().unwrap().pop_front();
        dawdle(self.jitter.as_ref()).await;
        told.unwrap_or(VerifyReply::Verdict(VerifyResponse {
            is_valid: true,
            invalid_reason: None,
            invalid_message: None,
            payer: None,
        }))
    }

    async fn settle(
        &self,
        _: &Arc<x402::Endpoint>,
        body: Bytes,
        _: &Trace,
        _: Instant,
    ) -> SettleReply {
        self.settles.lock().unwrap().push(body.clone());
        let told = self.settle.lock().unwrap().pop_front();
        dawdle(self.jitter.as_ref()).await;
        match told.unwrap_or(Told::Settle(Duration::ZERO)) {
            Told::Panic => panic!("as the test wants"),
            Told::Say(after, reply) => {
                tokio::time::sleep(after).await;
                reply
            }
            Told::Settle(after) => {
                tokio::time::sleep(after).await;
                let mut settled = self.settled.lock().unwrap();
                settled.push(body);
                let number = settled.len();
                SettleReply::Verdict(SettleResponse {
                    success: true,
                    transaction: format!("0x{number:064x}"),
                    network: "eip155:84532".to_owned(),
                    payer: None,
                    amount: None,
                    error_reason: None,
                    error_message: None,
                })
            }
        }
    }
}

impl Way {
    async fn pass(&self, operation: &'static str) -> Result<(), LedgerError> {
        dawdle(self.jitter.as_ref()).await;
        if self.failing.lock().unwrap().contains(&operation) {
            let source = "as the test wants".into();
            return Err(LedgerError { operation, source });
        }
        Ok(())
    }
}

impl Ledger for Arc<Way> {
    async fn lookup(&self, key: &crate::gate::ClaimKey) -> Result<Option<ClaimRow>, LedgerError> {
        self.pass("lookup").await?;
        self.store.lookup(key).await
    }
    async fn claim(&self, claim: &NewClaim) -> Result<ClaimOutcome, LedgerError> {
        self.pass("claim").await?;
        let outcome = self.store.claim(claim).await;
        dawdle(self.jitter.as_ref()).await;
        outcome
    }
    async fn begin_settle(
        &self,
        key: &crate::gate::ClaimKey,
        owner: ClaimOwner,
        lease: Duration,
    ) -> Result<Step, LedgerError> {
        self.pass("begin").await?;
        let step = self.store.begin_settle(key, owner, lease).await;
        dawdle(self.jitter.as_ref()).await;
        step
    }
    async fn book_settled(
        &self,
        key: &crate::gate::ClaimKey,
        owner: ClaimOwner,
        transaction: &str,
        waiter: Duration,
    ) -> Result<Booked, LedgerError> {
        self.pass("book").await?;
        let booked = self
            .store
            .book_settled(key, owner, transaction, waiter)
            .await;
        dawdle(self.jitter.as_ref()).await;
        booked
    }
    async fn abandon(
        &self,
        key: &crate::gate::ClaimKey,
        owner: ClaimOwner,
    ) -> Result<Step, LedgerError> {
        self.pass("abandon").await?;
        self.store.abandon(key, owner).await
    }
    /// Commits last, as a ledger does that takes an unheard answer back.
    async fn answer(
        &self,
        key: &crate::gate::ClaimKey,
        owner: ClaimOwner,
    ) -> Result<Step, LedgerError> {
        self.pass("answer").await?;
        self.store.answer(key, owner).await
    }
    async fn release(
        &self,
        key: &crate::gate::ClaimKey,
        owner: ClaimOwner,
    ) -> Result<Step, LedgerError> {
        self.pass("release").await?;
        self.store.release(key, owner).await
    }
    async fn mark_unknown(
        &self,
        key: &crate::gate::ClaimKey,
        owner: ClaimOwner,
        transaction: Option<&str>,
    ) -> Result<Step, LedgerError> {
        self.pass("mark").await?;
        self.store.mark_unknown(key, owner, transaction).await
    }
    async fn paths(&self) -> Result<Vec<PathRecord>, LedgerError> {
        self.store.paths().await
    }
    async fn releases(&self, after: u64) -> Result<Vec<Release>, LedgerError> {
        self.store.releases(after).await
    }
    async fn save_paths(
        &self,
        changes: &[PathRecord],
        removals: &[PathRecord],
    ) -> Result<(), LedgerError> {
        self.store.save_paths(changes, removals).await
    }
    async fn upkeep(&self, now: Timestamp) -> Result<Upkeep, LedgerError> {
        self.store.upkeep(now).await
    }
    async fn totals(&self) -> Result<Vec<Total>, LedgerError> {
        self.store.totals().await
    }
}

fn wall() -> Timestamp {
    Timestamp::from_second(START).unwrap()
}

impl World {
    /// Needs a paused runtime; with dice, everything takes its time.
    pub(super) fn new(jitter: Option<Arc<Dice>>) -> Self {
        let document = pricing::parse(PRICING, "pricing.yaml", Path::new("/")).unwrap();
        let (mut writer, tables) = TableWriter::new();
        writer.apply(Update::Remembered { paths: Vec::new() }, wall());
        let settings = Box::new(document.settings);
        let offers = document.offers;
        writer.apply(Update::Document { settings, offers }, wall());
        let began = tokio::time::Instant::now();
        let clock = Clock::new(move || {
            let passed = SignedDuration::try_from(began.elapsed()).unwrap();
            wall().checked_add(passed).unwrap()
        });
        let script = Arc::new(Script {
            verify: Mutex::default(),
            settle: Mutex::default(),
            verifies: AtomicU64::new(0),
            settles: Mutex::default(),
            settled: Mutex::default(),
            jitter: jitter.clone(),
        });
        let way = Arc::new(Way {
            store: Store::memory(clock),
            failing: Mutex::default(),
            jitter,
        });
        let readiness = Readiness::new();
        readiness.config_loaded();
        readiness.routes_loaded();
        let tasks = Tasks::new();
        let gate = Gate::new(
            Arc::clone(&script),
            Arc::clone(&way),
            tables.clone(),
            readiness,
            tasks.clone(),
            Metrics::new("test").unwrap(),
            wall,
        );
        Self {
            gate,
            script,
            way,
            tasks,
            tables,
        }
    }

    /// The payment header of authorisation number `nonce` of one payer, for the first route.
    pub(super) fn payment(&self, nonce: u64) -> HeaderMap {
        let table = self.tables.load_full();
        let route = table.routes().next().unwrap();
        let accepted = route.requirements[0].json_v2();
        let json = format!(
            concat!(
                r#"{{"x402Version":2,"accepted":{},"payload":{{"signature":"0x{}","authorization":{{"#,
                r#""from":"0x857b06519E91e3A54538791bDbb0E22373e36b66","#,
                r#""to":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C","value":"1000","#,
                r#""validAfter":"0","validBefore":"{}","nonce":"0x{:064x}"}}}}}}"#
            ),
            accepted,
            "11".repeat(65),
            START + 600,
            nonce
        );
        let mut headers = HeaderMap::new();
        let value = STANDARD.encode(json).parse().unwrap();
        headers.insert("payment-signature", value);
        headers
    }

    pub(super) async fn ask(&self, headers: &HeaderMap) -> Outcome {
        self.ask_for("/paid/x", headers).await
    }

    /// One request, as the same client would repeat it.
    pub(super) async fn ask_for(&self, target: &str, headers: &HeaderMap) -> Outcome {
        let facts = Facts {
            method: "GET",
            host: Some("shop.example".into()),
            authority: "shop.example",
            scheme: "https",
            target: Target::parse(target, None).unwrap(),
            pin: None,
            preflight: false,
            proven_ingress: false,
            forwarded_for: "192.0.2.7",
        };
        let arrived = monotonic();
        let request = Request {
            facts,
            headers,
            arrived,
        };
        let table = self.gate.table().unwrap();
        self.gate.answer(&table, &request).await
    }

    /// Waits for every job.
    pub(super) async fn rest(&self) {
        assert!(self.tasks.wait_jobs(Duration::from_secs(600)).await);
    }

    pub(super) fn settles(&self) -> usize {
        self.script.settles.lock().unwrap().len()
    }

    pub(super) async fn upkeep(&self) -> Upkeep {
        self.way.store.upkeep(wall()).await.unwrap()
    }
}
