//! `x402-verifier demo`: a paid request on one machine, loopback only.
//!
//! Starts the real verifier (the same composition as `serve`) with a sample paid route and a SQLite
//! ledger in a temporary folder, beside a *simulated* facilitator that keeps balances in memory and
//! checks real EIP-712 signatures, and then plays Traefik and a buyer against it. Nothing leaves
//! the machine and no money exists; the output says so.
//!
//! Failure: any step that does not come out as told is an error and exit status 1.

use crate::config::Config;
use crate::eip712::{self, TransferAuthorization};
use crate::serve;
use crate::x402;
use alloy_primitives::{Address, B256, U256};
use anyhow::{Context, bail, ensure};
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use jiff::Timestamp;
use k256::ecdsa::SigningKey;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const SELLER: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
const PRICE: &str = "0.001";
const STARTING_BALANCE: u64 = 1_000_000;

/// Runs the demo and prints its steps.
///
/// # Errors
/// When any step does not come out as the demo tells.
pub async fn run() -> anyhow::Result<()> {
    let folder = Folder::create()?;
    let result = tell(&folder.path).await;
    drop(folder);
    result
}

async fn tell(folder: &Path) -> anyhow::Result<()> {
    let buyer = Buyer::new()?;
    let facilitator = SimulatedFacilitator::start(buyer.address).await?;
    let pricing = folder.join("pricing.yaml");
    std::fs::write(&pricing, pricing_file(&facilitator.url))?;
    let server = serve::start(config(folder, pricing)?).await?;
    server.wait_ready(Duration::from_secs(10)).await?;
    let ingress = Ingress::new(server.traffic_address().to_string());

    say("x402-verifier demo: everything below happens on this machine.");
    say(
        "The facilitator is SIMULATED: balances in memory, no chain, no money; signatures are real.",
    );
    say("");

    say("1. A request without payment: GET /report");
    let answer = ingress.ask(None).await?;
    ensure!(
        answer.status == StatusCode::PAYMENT_REQUIRED,
        "expected 402, got {}",
        answer.status
    );
    let challenge = decode_header(&answer.headers, x402::PAYMENT_REQUIRED)?;
    let option = challenge
        .pointer("/accepts/0")
        .context("the challenge offers nothing")?
        .clone();
    say(&format!(
        "   <- {}: {}",
        answer.status,
        answer.text("error")
    ));
    say(&format!("      price: {}", price_in_words(&option)?));
    say("");

    say("2. The buyer signs exactly that and asks again");
    let payment = buyer.sign(&challenge, &option)?;
    let paid = ingress.ask(Some(&payment)).await?;
    ensure!(
        paid.status == StatusCode::OK,
        "expected 200, got {}: {}",
        paid.status,
        paid.body
    );
    let receipt = decode_header(&paid.headers, x402::PAYMENT_RESPONSE)?;
    say(&format!(
        "   <- {}: the request goes on to the seller's service",
        paid.status
    ));
    say(&format!(
        "      receipt: transaction {}",
        text(&receipt, "/transaction")
    ));
    say(&format!("      payer:   {}", text(&receipt, "/payer")));
    say(&format!("      balances: {}", facilitator.balances()));
    say("");

    say("3. The same payment once more (a replay)");
    let replay = ingress.ask(Some(&payment)).await?;
    ensure!(
        replay.status == StatusCode::CONFLICT,
        "expected 409, got {}",
        replay.status
    );
    say(&format!(
        "   <- {}: {}",
        replay.status,
        replay.text("error")
    ));
    say(&format!("      reason: {}", replay.text("reason")));
    say("");

    say("4. A new payment whose amount was lowered after signing");
    let mut tampered = buyer.sign(&challenge, &option)?;
    let value = tampered
        .pointer_mut("/payload/authorization/value")
        .context("no value")?;
    *value = json!("1");
    let refused = ingress.ask(Some(&tampered)).await?;
    ensure!(
        refused.status == StatusCode::PAYMENT_REQUIRED,
        "expected 402, got {}",
        refused.status
    );
    say(&format!(
        "   <- {}: {}",
        refused.status,
        refused.text("error")
    ));
    say(&format!("      detail: {}", refused.text("detail")));
    say(&format!(
        "      balances: {} (nothing more was charged)",
        facilitator.balances()
    ));
    ensure!(
        facilitator.settled() == 1,
        "exactly one payment must have been settled"
    );
    say("");
    say("All four happened as they should. Next: README.md, quick start with Traefik.");

    server.shutdown().await
}

#[expect(clippy::print_stdout, reason = "the demo talks to a person")]
fn say(line: &str) {
    println!("{line}");
}

fn pricing_file(facilitator: &str) -> String {
    format!(
        "chain: base-sepolia\n\
         wallet: \"{SELLER}\"\n\
         facilitatorURL: {facilitator}\n\
         routes:\n\
         - pattern: /report\n  \
           price: \"{PRICE}\"\n  \
           description: A sample report\n  \
           offerNamespace: demo\n  \
           offerName: report\n"
    )
}

fn config(folder: &Path, file: PathBuf) -> anyhow::Result<Config> {
    let ledger = format!("sqlite:{}", folder.join("ledger.db").display());
    Ok(Config {
        file,
        listen: "127.0.0.1:0".parse()?,
        admin_listen: "127.0.0.1:0".parse()?,
        watch: false,
        ledger: ledger.parse()?,
        shutdown_delay: Duration::ZERO,
        ca_file: None,
        kube: None,
        status: None,
    })
}

/// `0.001 USDC on eip155:84532 to 0x...`
fn price_in_words(option: &Value) -> anyhow::Result<String> {
    let amount: u64 = text(option, "/amount").parse()?;
    // USDC has six decimals.
    let (whole, fraction) = (amount / 1_000_000, amount % 1_000_000);
    let fraction = format!("{fraction:06}");
    Ok(format!(
        "{whole}.{} {} on {} to {}",
        fraction.trim_end_matches('0'),
        text(option, "/extra/name"),
        text(option, "/network"),
        text(option, "/payTo")
    ))
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or("?")
}

fn decode_header(headers: &HeaderMap, name: &str) -> anyhow::Result<Value> {
    let value = headers
        .get(name)
        .with_context(|| format!("the answer has no {name}"))?;
    Ok(serde_json::from_slice(&STANDARD.decode(value)?)?)
}

/// A folder that goes away with the demo.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn create() -> anyhow::Result<Self> {
        let random = random_word()?;
        let path = std::env::temp_dir()
            .join(format!("x402-demo-{:x}", random.0[0]))
            .with_extension(format!("{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A leftover folder harms nobody and the demo has nothing better to do about it.
        drop(std::fs::remove_dir_all(&self.path));
    }
}

fn random_word() -> anyhow::Result<B256> {
    let mut word = [0; 32];
    getrandom::fill(&mut word).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(B256::from(word))
}

/// A wallet with a fresh key.
struct Buyer {
    key: SigningKey,
    address: Address,
}

impl Buyer {
    fn new() -> anyhow::Result<Self> {
        let key = SigningKey::from_slice(random_word()?.as_slice())?;
        let address = Address::from_public_key(key.verifying_key());
        Ok(Self { key, address })
    }

    /// Signs what a challenge asks for (x402 v2, exact scheme, EIP-3009).
    fn sign(&self, challenge: &Value, option: &Value) -> anyhow::Result<Value> {
        let chain_id = text(option, "/network")
            .strip_prefix("eip155:")
            .context("not EVM")?
            .parse()?;
        let domain = eip712::domain_separator(
            text(option, "/extra/name"),
            text(option, "/extra/version"),
            chain_id,
            text(option, "/asset").parse()?,
        );
        let valid_for = option
            .get("maxTimeoutSeconds")
            .and_then(Value::as_u64)
            .context("no timeout")?;
        let message = TransferAuthorization {
            from: self.address,
            to: text(option, "/payTo").parse()?,
            value: text(option, "/amount").parse()?,
            valid_after: U256::ZERO,
            valid_before: U256::from(u64::try_from(Timestamp::now().as_second())? + valid_for),
            nonce: random_word()?,
        };
        let digest = eip712::transfer_digest(domain, &message);
        let (signature, recovery) = self.key.sign_prehash_recoverable(digest.as_slice())?;
        let mut bytes = signature.to_bytes().to_vec();
        bytes.push(27 + recovery.to_byte());
        Ok(json!({
            "x402Version": 2,
            "resource": challenge.get("resource"),
            "accepted": option,
            "payload": {
                "signature": format!("0x{}", alloy_primitives::hex::encode(bytes)),
                "authorization": {
                    "from": message.from.to_checksum(None),
                    "to": message.to.to_checksum(None),
                    "value": message.value.to_string(),
                    "validAfter": message.valid_after.to_string(),
                    "validBefore": message.valid_before.to_string(),
                    "nonce": message.nonce.to_string(),
                }
            }
        }))
    }
}

/// Asks `/verify` as Traefik's forwardAuth would.
struct Ingress {
    client: Client<HttpConnector, Empty<bytes::Bytes>>,
    verifier: String,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn text(&self, field: &str) -> &str {
        self.body.get(field).and_then(Value::as_str).unwrap_or("?")
    }
}

impl Ingress {
    fn new(verifier: String) -> Self {
        let executor = hyper_util::rt::TokioExecutor::new();
        Self {
            client: Client::builder(executor).build_http(),
            verifier,
        }
    }

    async fn ask(&self, payment: Option<&Value>) -> anyhow::Result<Answer> {
        let mut request = Request::get(format!("http://{}/verify/demo/report", self.verifier))
            .header("x-forwarded-method", "GET")
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", "shop.example")
            .header("x-forwarded-uri", "/report");
        if let Some(payment) = payment {
            request = request.header(
                x402::PAYMENT_SIGNATURE,
                STANDARD.encode(payment.to_string()),
            );
        }
        let response = self.client.request(request.body(Empty::new())?).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, 1 << 20).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer cannot be read: {error}"))?;
        let body = serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null);
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    }
}

/// A facilitator in memory: real signatures, invented money.
struct SimulatedFacilitator {
    url: String,
    book: Arc<Mutex<Book>>,
    _server: Server,
}

/// A task that ends with its owner.
struct Server(tokio::task::JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Default)]
struct Book {
    balances: HashMap<Address, u64>,
    nonces: HashSet<String>,
}

impl SimulatedFacilitator {
    async fn start(buyer: Address) -> anyhow::Result<Self> {
        let book = Arc::new(Mutex::new(Book::default()));
        lock(&book).balances.insert(buyer, STARTING_BALANCE);
        let router = Router::new()
            .route("/verify", post(verify))
            .route("/settle", post(settle))
            .route("/supported", get(supported))
            .with_state(Arc::clone(&book));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        #[expect(
            clippy::disallowed_methods,
            reason = "a stand-in that ends with the demo"
        )]
        let task = tokio::spawn(async move {
            // It serves until it is aborted; there is nobody to tell if it ends before.
            drop(axum::serve(listener, router).await);
        });
        Ok(Self {
            url,
            book,
            _server: Server(task),
        })
    }

    fn settled(&self) -> usize {
        lock(&self.book).nonces.len()
    }

    fn balances(&self) -> String {
        let book = lock(&self.book);
        let seller = SELLER.parse().unwrap_or_default();
        let of = |address: &Address| book.balances.get(address).copied().unwrap_or(0);
        let buyers: u64 = book
            .balances
            .iter()
            .filter(|(who, _)| **who != seller)
            .map(|(_, units)| units)
            .sum();
        format!("buyer {buyers}, seller {} (atomic units)", of(&seller))
    }
}

fn lock(book: &Mutex<Book>) -> std::sync::MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn supported() -> Json<Value> {
    Json(json!({ "kinds": [{ "x402Version": 2, "scheme": "exact", "network": "eip155:84532" }] }))
}

async fn verify(State(book): State<Arc<Mutex<Book>>>, Json(call): Json<Value>) -> Json<Value> {
    Json(match check(&lock(&book), &call) {
        Ok(transfer) => json!({ "isValid": true, "payer": transfer.from.to_checksum(None) }),
        Err(reason) => json!({ "isValid": false, "invalidReason": reason.to_string() }),
    })
}

async fn settle(State(book): State<Arc<Mutex<Book>>>, Json(call): Json<Value>) -> Json<Value> {
    let mut book = lock(&book);
    let network = text(&call, "/paymentRequirements/network").to_owned();
    Json(match check(&book, &call) {
        Ok(transfer) => {
            book.nonces.insert(transfer.nonce.to_string());
            let value = u64::try_from(transfer.value).unwrap_or(u64::MAX);
            let payer = book.balances.entry(transfer.from).or_default();
            *payer = payer.saturating_sub(value);
            *book.balances.entry(transfer.to).or_default() += value;
            let transaction = alloy_primitives::keccak256(transfer.nonce).to_string();
            let payer = transfer.from.to_checksum(None);
            json!({ "success": true, "transaction": transaction, "network": network, "payer": payer })
        }
        Err(reason) => json!({
            "success": false, "errorReason": reason.to_string(), "transaction": "", "network": network,
        }),
    })
}

/// Signature, recipient, amount, balance and nonce, as a real facilitator checks them.
fn check(book: &Book, call: &Value) -> anyhow::Result<TransferAuthorization> {
    let field = |name: &str| {
        text(
            call,
            &format!("/paymentPayload/payload/authorization/{name}"),
        )
    };
    let asked = |name: &str| text(call, &format!("/paymentRequirements/{name}"));
    let transfer = TransferAuthorization {
        from: field("from").parse()?,
        to: field("to").parse()?,
        value: field("value").parse()?,
        valid_after: field("validAfter").parse()?,
        valid_before: field("validBefore").parse()?,
        nonce: field("nonce").parse()?,
    };
    let chain_id = asked("network")
        .strip_prefix("eip155:")
        .context("invalid_network")?
        .parse()?;
    let domain = eip712::domain_separator(
        asked("extra/name"),
        asked("extra/version"),
        chain_id,
        asked("asset").parse()?,
    );
    let signature = alloy_primitives::hex::decode(text(call, "/paymentPayload/payload/signature"))?;
    let digest = eip712::transfer_digest(domain, &transfer);
    if eip712::recover(digest, &signature) != Ok(transfer.from) {
        bail!("invalid_exact_evm_signature");
    }
    if asked("payTo").parse::<Address>()? != transfer.to {
        bail!("invalid_exact_evm_recipient_mismatch");
    }
    if asked("amount").parse::<U256>()? != transfer.value {
        bail!("invalid_exact_evm_payload_authorization_value_mismatch");
    }
    if book.nonces.contains(&transfer.nonce.to_string()) {
        bail!("invalid_exact_evm_nonce_already_used");
    }
    let balance = book.balances.get(&transfer.from).copied().unwrap_or(0);
    if U256::from(balance) < transfer.value {
        bail!("invalid_exact_evm_insufficient_balance");
    }
    Ok(transfer)
}
