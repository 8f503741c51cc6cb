//! A facilitator that believes everybody, to measure what a seller adds to its time. Never a test of money.
//!
//! `yes-facilitator PORT DELAY_MS`: `/verify` is valid and `/settle` succeeds with a transaction of its own,
//! each DELAY_MS after it was asked. `/supported` names the exact scheme on Base Sepolia. `/held` tells what
//! it took for each payment, both calls together, as JSON `{nonce: microseconds}`, to be subtracted.
//! Prints `listening on ADDRESS` once it does; PORT 0 picks a free one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use alloy_primitives::keccak256;
use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use serde_json::{Value, json};

type Error = Box<dyn std::error::Error>;

#[derive(Clone)]
struct Facilitator {
    delay: Duration,
    held: Arc<Mutex<HashMap<String, u64>>>,
}

impl Facilitator {
    /// Answers after the delay and books how long that really took.
    async fn answer(self, payment: &Value, answer: Value) -> Json<Value> {
        let asked = Instant::now();
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        let nonce = authorization(payment, "nonce").to_owned();
        let micros = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
        *self
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(nonce)
            .or_default() += micros;
        Json(answer)
    }
}

fn authorization<'v>(request: &'v Value, field: &str) -> &'v str {
    request
        .pointer("/paymentPayload/payload/authorization")
        .and_then(|authorization| authorization.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

async fn verify(State(state): State<Facilitator>, Json(request): Json<Value>) -> Json<Value> {
    let answer = json!({ "isValid": true, "payer": authorization(&request, "from") });
    state.answer(&request, answer).await
}

async fn settle(State(state): State<Facilitator>, Json(request): Json<Value>) -> Json<Value> {
    let answer = json!({
        "success": true,
        "payer": authorization(&request, "from"),
        "transaction": keccak256(authorization(&request, "nonce")).to_string(),
        "network": request.pointer("/paymentRequirements/network"),
    });
    state.answer(&request, answer).await
}

async fn supported() -> Json<Value> {
    Json(json!({
        "kinds": [{ "x402Version": 2, "scheme": "exact", "network": "eip155:84532" }],
        "extensions": [],
        "signers": {},
    }))
}

async fn held(State(state): State<Facilitator>) -> Json<HashMap<String, u64>> {
    Json(
        state
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone(),
    )
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [port, delay] = args.as_slice() else {
        return Err("usage: yes-facilitator PORT DELAY_MS".into());
    };
    let state = Facilitator {
        delay: Duration::from_millis(delay.parse()?),
        held: Arc::default(),
    };
    let app = Router::new()
        .route("/verify", post(verify))
        .route("/settle", post(settle))
        .route("/supported", get(supported))
        .route("/held", get(held))
        .with_state(state);
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on {}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
