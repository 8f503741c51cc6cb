//! A seller with everything: chain, official facilitator, verifier, Traefik.

use crate::harness::{Verifier, Wallet, challenge_of};
use crate::parts::http::{self, Answer};
use crate::parts::{ACCOUNTS, Anvil, PAYEE, Traefik, TsFacilitator};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value;
use std::time::{Duration, Instant};

/// What `/report/*` costs in `examples/pricing.yaml`, in atomic units.
pub(super) const PRICE: u128 = 1000;
/// A path that costs [`PRICE`].
pub(super) const PAID: &str = "/report/today";
/// A path below it that is free.
pub(super) const FREE: &str = "/report/sample";

/// The parts, in the order in which they are to end.
#[derive(Debug)]
pub(super) struct Shop {
    pub(super) traefik: Traefik,
    pub(super) verifier: Verifier,
    pub(super) facilitator: TsFacilitator,
    pub(super) chain: Anvil,
}

impl Shop {
    /// In front of this upstream.
    pub(super) async fn open(upstream: &str) -> Self {
        Self::open_slow(upstream, 0).await
    }

    /// With settlements that take so much longer.
    pub(super) async fn open_slow(upstream: &str, settle_delay_ms: u64) -> Self {
        let chain = Anvil::start().await;
        let facilitator = TsFacilitator::start(&chain, settle_delay_ms).await;
        let pricing = documented_pricing(facilitator.url());
        let verifier = Verifier::start(&pricing).await;
        let dynamic = documented(&verifier.url(""), upstream);
        let options = documented_entry_point();
        let traefik = Traefik::start_with(&dynamic, &[("web", &options)]).await;
        Self {
            traefik,
            verifier,
            facilitator,
            chain,
        }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.traefik.url("web"))
    }

    /// `GET path` through Traefik with these headers.
    pub(super) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        get(&self.url(path), headers).await
    }

    /// The challenge that Traefik hands through.
    pub(super) async fn challenge(&self) -> Value {
        let answer = self.get(PAID, &[]).await;
        assert_eq!(answer.status, 402, "{}", answer.text());
        challenge_of(&answer)
    }

    /// Presents a payment in the header of its version.
    pub(super) async fn present(&self, payment: &Value) -> Answer {
        let (name, value) = payment_header(payment);
        self.get(PAID, &[(name, &value)]).await
    }

    /// What the seller has on the chain.
    pub(super) async fn earned(&self) -> u128 {
        self.chain.balance_of(PAYEE.address).await
    }

    /// How many forwardAuth calls the verifier answered.
    pub(super) async fn asked(&self) -> f64 {
        self.verifier
            .metric("x402_verifier_requests_total", &[])
            .await
            .expect("the family is there")
    }

    /// Waits until so many settlements were answered by the facilitator.
    pub(super) async fn settled(&self, count: usize) {
        let started = Instant::now();
        while self.facilitator.settlements() < count {
            let log = self.facilitator.log();
            assert!(started.elapsed() < Duration::from_secs(30), "{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ledger, metrics and chain tell the same: the invariant at the end of every test that pays.
    ///
    /// Returns the sum in atomic units.
    pub(super) async fn balanced(&self) -> u128 {
        let earned = self.earned().await;
        assert_eq!(
            self.booked().await,
            earned,
            "the ledger and the chain agree"
        );
        let charged = self
            .verifier
            .metric("x402_verifier_charged_atomic_units_total", &[])
            .await;
        assert_eq!(
            charged.map(|units| format!("{units}")),
            Some(earned.to_string()),
            "the metrics and the chain agree"
        );
        earned
    }

    /// Whether what the chain moved is booked by now.
    pub(super) async fn balanced_now(&self) -> bool {
        self.booked().await == self.earned().await
    }

    /// Sum of what the ledger has under a transaction, pruned rows included.
    async fn booked(&self) -> u128 {
        let output = tokio::process::Command::new("python3")
            .args(["-c", SUM])
            .arg(self.verifier.ledger())
            .output()
            .await
            .expect("python3 is there");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        text.trim()
            .parse()
            .unwrap_or_else(|error| panic!("{error}: {text}{stderr}"))
    }
}

const SUM: &str = "
import sqlite3, sys
db = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True)
rows = db.execute('select amount from claims join booked_transactions using (key)').fetchall()
rows += db.execute('select amount from totals').fetchall()
print(sum(int(amount) for amount, in rows))
";

/// Name and value of the header for a payment.
pub(super) fn payment_header(payment: &Value) -> (&'static str, String) {
    let name = if payment["x402Version"] == 1 {
        "x-payment"
    } else {
        "payment-signature"
    };
    (name, STANDARD.encode(payment.to_string()))
}

/// The wallet of an account of [`ACCOUNTS`].
pub(super) fn wallet(account: usize) -> Wallet {
    Wallet::of_key(ACCOUNTS[account].key)
}

pub(super) async fn get(url: &str, headers: &[(&str, &str)]) -> Answer {
    try_get(url, headers)
        .await
        .unwrap_or_else(|error| panic!("{url}: {error}"))
}

pub(super) async fn try_get(
    url: &str,
    headers: &[(&str, &str)],
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let mut request = ::http::Request::get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    http::send(request.body(Full::<Bytes>::default())?).await
}

/// Traefik's documented dynamic configuration with these addresses.
pub(super) fn documented(verifier: &str, upstream: &str) -> String {
    let text = example("traefik-dynamic.yml");
    let text = replaced(&text, "http://127.0.0.1:8080", verifier);
    replaced(&text, "http://127.0.0.1:8081", upstream)
}

/// The options of the documented entry point, as [`Traefik::start_with`] takes them.
pub(super) fn documented_entry_point() -> String {
    let document: Value =
        serde_saphyr::from_str(&example("traefik-static.yml")).expect("the example is YAML");
    let mut web = document["entryPoints"]["web"].clone();
    web.as_object_mut()
        .expect("the example has an entry point `web`")
        .remove("address");
    // JSON is YAML in flow style.
    let flow = web.to_string();
    flow.trim_start_matches('{')
        .strip_suffix('}')
        .expect("an object")
        .to_owned()
}

/// The documented pricing file for this facilitator and our payee.
fn documented_pricing(facilitator: &str) -> String {
    let text = example("pricing.yaml");
    let text = replaced(&text, "https://x402.org/facilitator", facilitator);
    replaced(&text, crate::harness::SELLER, PAYEE.address)
}

fn example(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "the example no longer has {from}");
    text.replace(from, to)
}
