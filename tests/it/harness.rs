//! The verifier under test: the real binary, a folder of its own, and a buyer that signs.
//!
//! [`Verifier::start`] runs the binary with a pricing file and a SQLite ledger on free loopback
//! ports and returns when it is ready. [`Ask`] is one forwardAuth call as Traefik would make it.
//! [`Wallet`] signs payments of both versions from nothing but a challenge, like any buyer.

use crate::parts::http::{self, Answer};
use crate::parts::process::{Process, supervised};
use crate::parts::{free_port, scratch_dir};
use alloy_primitives::{Address, B256, U256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use k256::ecdsa::SigningKey;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use x402_verifier::eip712::{TransferAuthorization, domain_separator, transfer_digest};

/// Recipient in every test's pricing file.
pub(crate) const SELLER: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";

/// A facilitator for tests that do not pay: nobody listens there.
pub(crate) const NO_FACILITATOR: &str = "http://127.0.0.1:9";

/// A running verifier and its folder.
#[derive(Debug)]
pub(crate) struct Verifier {
    process: Option<Process>,
    home: tempfile::TempDir,
    args: Vec<String>,
    env: Vec<(String, String)>,
    launcher: Vec<String>,
    traffic: u16,
    admin: u16,
}

impl Verifier {
    /// Starts with this pricing file and a SQLite ledger, and waits until it is ready.
    pub(crate) async fn start(pricing: &str) -> Self {
        Self::start_with(pricing, &[]).await
    }

    /// As [`Verifier::start`], with further flags.
    pub(crate) async fn start_with(pricing: &str, args: &[&str]) -> Self {
        let mut verifier = Self::prepare(pricing, args);
        verifier.launch();
        verifier.wait_ready().await;
        verifier
    }

    /// A folder and ports, nothing running.
    pub(crate) fn prepare(pricing: &str, args: &[&str]) -> Self {
        let home = scratch_dir("verifier-home");
        let verifier = Self {
            process: None,
            home,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: Vec::new(),
            launcher: Vec::new(),
            traffic: free_port(),
            admin: free_port(),
        };
        verifier.write_pricing(pricing);
        verifier
    }

    /// Gives every process from here on this variable.
    pub(crate) fn env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Lets every process from here on be started by this command, which must become it (`exec`).
    pub(crate) fn launched_by(&mut self, command: &[&str]) {
        self.launcher = command.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Starts the process and returns at once.
    pub(crate) fn launch(&mut self) {
        self.await_ports();
        let binary = env!("CARGO_BIN_EXE_x402-verifier");
        let mut command = match self.launcher.split_first() {
            None => supervised(binary),
            Some((program, words)) => {
                let mut command = supervised(program);
                command.args(words).arg(binary);
                command
            }
        };
        command
            .arg("serve")
            .arg(format!("--config={}", self.pricing().display()))
            .arg(format!("--listen=127.0.0.1:{}", self.traffic))
            .arg(format!("--admin-listen=127.0.0.1:{}", self.admin))
            .arg(format!("--ledger=sqlite:{}", self.ledger().display()))
            .arg("--log-format=json")
            .arg("--log-level=debug")
            .args(&self.args)
            .current_dir(self.home.path());
        for name in [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "http_proxy",
            "https_proxy",
            "ALL_PROXY",
            "KUBECONFIG",
        ] {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::start("verifier", command));
    }

    /// A process that was killed holds its ports for a moment longer than its supervisor lives.
    fn await_ports(&self) {
        let free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        let started = Instant::now();
        while !(free(self.traffic) && free(self.admin)) {
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "the ports of the verifier are taken"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) async fn wait_ready(&mut self) {
        let url = self.admin_url("/readyz");
        let process = self.process.as_mut().expect("launched");
        process
            .wait_until("the verifier to be ready", |_| {
                let url = url.clone();
                async move {
                    http::get(&url)
                        .await
                        .is_ok_and(|answer| answer.status == 200)
                }
            })
            .await;
    }

    /// `kill -9`; its ports are free when this returns.
    pub(crate) async fn kill(&mut self) {
        self.process = None;
        // What was killed may hold its sockets for a moment longer.
        for port in [self.traffic, self.admin] {
            while std::net::TcpListener::bind(("127.0.0.1", port)).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// `kill -9`, then a new process over the same folder and ports.
    pub(crate) async fn crash_and_restart(&mut self) {
        self.kill().await;
        self.launch();
        self.wait_ready().await;
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: &str) {
        self.process.as_ref().expect("running").signal(signal);
    }

    /// Waits for the process to end and returns its exit code.
    pub(crate) async fn exit_code(&mut self, within: Duration) -> Option<i32> {
        let started = Instant::now();
        let process = self.process.as_mut().expect("launched");
        while started.elapsed() < within {
            if let Some(status) = process.ended() {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!(
            "the verifier did not end within {within:?}:\n{}",
            process.log()
        );
    }

    /// Processor time of the running process so far, user and system.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.process.as_ref().expect("running").cpu_time()
    }

    pub(crate) fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn pricing(&self) -> PathBuf {
        self.home.path().join("pricing.yaml")
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.home.path().join("ledger.db")
    }

    /// Replaces the pricing file by rename, as careful editors do.
    pub(crate) fn write_pricing(&self, text: &str) {
        let next = self.home.path().join(".pricing.next");
        std::fs::write(&next, text).expect("the folder is writable");
        std::fs::rename(next, self.pricing()).expect("the folder is writable");
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.traffic)
    }

    pub(crate) fn admin_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin)
    }

    pub(crate) async fn admin(&self, path: &str) -> Answer {
        http::get(&self.admin_url(path))
            .await
            .expect("the admin port answers")
    }

    /// A forwardAuth call about this request target, as Traefik would make it.
    pub(crate) fn ask(&self, target: &str) -> Ask {
        Ask {
            url: self.url("/verify"),
            request: vec![
                ("x-forwarded-method".into(), "GET".into()),
                ("x-forwarded-proto".into(), "https".into()),
                ("x-forwarded-host".into(), "shop.example".into()),
                ("x-forwarded-for".into(), "192.0.2.7".into()),
                ("x-forwarded-uri".into(), target.as_bytes().to_vec()),
            ],
        }
    }

    /// The challenge for a target, decoded.
    pub(crate) async fn challenge(&self, target: &str) -> Value {
        let answer = self.ask(target).send().await;
        assert_eq!(answer.status, 402, "{}", answer.text());
        challenge_of(&answer)
    }

    /// The value of one series, `None` when it is absent. `labels` must all be on the line.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let page = self.admin("/metrics").await.text();
        page.lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with([' ', '{']))
            })
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .reduce(|sum, value| sum + value)
    }

    /// Waits until `probe` holds, at most `within`.
    pub(crate) async fn eventually<F>(
        &self,
        within: Duration,
        what: &str,
        mut probe: impl FnMut() -> F,
    ) where
        F: Future<Output = bool>,
    {
        let started = Instant::now();
        while !probe().await {
            assert!(
                started.elapsed() < within,
                "waited {within:?} for {what}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Verifier {
    /// Waits until an unpaid request for a path is answered with this status and reason.
    pub(crate) async fn becomes(&self, within: Duration, path: &str, wanted: (u16, &str)) {
        let what = format!("{wanted:?} at {path}");
        let is_so = || async {
            let (status, reason) = verdict(&self.ask(path).send().await);
            (status, reason.as_str()) == wanted
        };
        self.eventually(within, &what, is_so).await;
    }
}

/// One forwardAuth call.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    url: String,
    request: Vec<(String, Vec<u8>)>,
}

impl Ask {
    /// Replaces a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request.retain(|(known, _)| known != name);
        self.also(name, value)
    }

    /// Adds a header, beside any with that name.
    pub(crate) fn also(mut self, name: &str, value: &str) -> Self {
        self.request
            .push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.request.retain(|(known, _)| known != name);
        self
    }

    pub(crate) fn method(self, method: &str) -> Self {
        self.header("x-forwarded-method", method)
    }

    /// Calls `/verify/{namespace}/{name}`.
    pub(crate) fn pinned(mut self, namespace: &str, name: &str) -> Self {
        self.url = format!("{}/{namespace}/{name}", self.url);
        self
    }

    /// Calls this address of the traffic port instead of `/verify`.
    pub(crate) fn address(mut self, path: &str) -> Self {
        let origin = self.url.find("/verify").unwrap_or(self.url.len());
        self.url.replace_range(origin.., path);
        self
    }

    /// Presents a payment in the header of its version.
    pub(crate) fn pay(self, payment: &Value) -> Self {
        let name = if payment["x402Version"] == 1 {
            "x-payment"
        } else {
            "payment-signature"
        };
        self.header(name, &STANDARD.encode(payment.to_string()))
    }

    pub(crate) async fn send(&self) -> Answer {
        self.try_send().await.expect("the verifier answers")
    }

    pub(crate) async fn try_send(
        &self,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        http::send(self.request()).await
    }

    /// The call, for a client of the test's own.
    pub(crate) fn request(&self) -> ::http::Request<Full<Bytes>> {
        let mut request = ::http::Request::get(&self.url);
        for (name, value) in &self.request {
            request = request.header(name, value.as_slice());
        }
        request.body(Full::default()).expect("a request")
    }

    /// The raw bytes of the call, for tests that cut connections.
    pub(crate) fn raw(&self, host: &str) -> Vec<u8> {
        let path = self
            .url
            .split_once("127.0.0.1:")
            .map_or("/verify", |(_, rest)| {
                rest.find('/').map_or("/verify", |at| &rest[at..])
            });
        let mut bytes = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
        for (name, value) in &self.request {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}

/// The v2 challenge object of a 402.
pub(crate) fn challenge_of(answer: &Answer) -> Value {
    header_json(answer, "payment-required")
}

/// A base64 JSON header.
pub(crate) fn header_json(answer: &Answer, name: &str) -> Value {
    let value = answer
        .headers
        .get(name)
        .unwrap_or_else(|| panic!("no {name}: {answer:?}"));
    let bytes = STANDARD.decode(value).expect("padded standard base64");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// Status and reason code, what most refusals are about.
pub(crate) fn verdict(answer: &Answer) -> (u16, String) {
    let reason = answer
        .headers
        .get("x-payment-error")
        .map(|value| value.to_str().expect("ASCII").to_owned())
        .unwrap_or_default();
    (answer.status.as_u16(), reason)
}

/// A wallet that signs payments.
#[derive(Debug, Clone)]
pub(crate) struct Wallet {
    key: SigningKey,
    pub(crate) address: Address,
}

static NONCE: AtomicU64 = AtomicU64::new(1);

impl Wallet {
    /// The wallet of a number: same number, same key.
    pub(crate) fn new(number: u8) -> Self {
        let key = SigningKey::from_slice(&[number.max(1); 32]).expect("a valid scalar");
        let address = Address::from_public_key(key.verifying_key());
        Self { key, address }
    }

    /// The wallet of a private key in hex, as those of [`crate::parts::ACCOUNTS`]: real money.
    pub(crate) fn of_key(key: &str) -> Self {
        let key = alloy_primitives::hex::decode(key).expect("hex");
        let key = SigningKey::from_slice(&key).expect("a valid scalar");
        let address = Address::from_public_key(key.verifying_key());
        Self { key, address }
    }

    /// A payment for the first option of a challenge, x402 v2.
    pub(crate) fn pay_v2(&self, challenge: &Value) -> Value {
        self.pay_option(challenge, 0)
    }

    pub(crate) fn pay_option(&self, challenge: &Value, index: usize) -> Value {
        let option = &challenge["accepts"][index];
        let payload = self.exact(option, text(option, "amount"));
        json!({
            "x402Version": 2,
            "resource": challenge["resource"],
            "accepted": option,
            "payload": payload,
        })
    }

    /// A payment for the first v1 option of a challenge body.
    pub(crate) fn pay_v1(&self, body: &Value) -> Value {
        let option = &body["accepts"][0];
        let payload = self.exact(option, text(option, "maxAmountRequired"));
        json!({ "x402Version": 1, "scheme": "exact", "network": option["network"], "payload": payload })
    }

    fn exact(&self, option: &Value, amount: &str) -> Value {
        let chain_id = match text(option, "network") {
            "base-sepolia" => 84_532,
            "base" => 8_453,
            caip2 => caip2
                .strip_prefix("eip155:")
                .expect("EVM")
                .parse()
                .expect("a chain id"),
        };
        let timeout = option["maxTimeoutSeconds"].as_u64().expect("a number");
        let now = u64::try_from(jiff::Timestamp::now().as_second()).expect("after 1970");
        let started = std::process::id();
        let count = NONCE.fetch_add(1, Ordering::Relaxed);
        let nonce = alloy_primitives::keccak256(format!("{started} {count} {:?}", Instant::now()));
        let message = TransferAuthorization {
            from: self.address,
            to: text(option, "payTo").parse().expect("an address"),
            value: amount.parse().expect("a number"),
            valid_after: U256::ZERO,
            valid_before: U256::from(now + timeout),
            nonce,
        };
        let domain = domain_separator(
            text(&option["extra"], "name"),
            text(&option["extra"], "version"),
            chain_id,
            text(option, "asset").parse().expect("an address"),
        );
        json!({
            "signature": self.signature(transfer_digest(domain, &message)),
            "authorization": {
                "from": message.from.to_checksum(None),
                "to": message.to.to_checksum(None),
                "value": message.value.to_string(),
                "validAfter": "0",
                "validBefore": message.valid_before.to_string(),
                "nonce": message.nonce.to_string(),
            }
        })
    }

    fn signature(&self, digest: B256) -> String {
        let (signature, recovery) = self
            .key
            .sign_prehash_recoverable(digest.as_slice())
            .expect("signs");
        let mut bytes = signature.to_bytes().to_vec();
        bytes.push(27 + recovery.to_byte());
        format!("0x{}", alloy_primitives::hex::encode(bytes))
    }
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {value}"))
}

/// A pricing file with one pinned offer `shop/report` at `/paid/*` and `/paid`, free `/free/*`.
pub(crate) fn pricing(facilitator: &str) -> String {
    format!(
        "chain: base-sepolia\n\
         wallet: \"{SELLER}\"\n\
         facilitatorURL: {facilitator}\n\
         routes:\n\
         - {{pattern: \"/paid/*\", price: \"0.001\", offerNamespace: shop, offerName: report}}\n\
         - {{pattern: \"/free/*\", gate: free, offerNamespace: shop, offerName: report}}\n"
    )
}
