//! The official Rust buyer, `x402-reqwest`: `buyer KEY URL` pays for one GET.
//!
//! Prints one JSON line, `{"status", "body", "receipt"}`, like every buyer under `tests/parts/buyers`;
//! `receipt` is the decoded payment response header or null. Exits 1 when no 200 was obtained.

use std::{process::ExitCode, sync::Arc};

use alloy_signer_local::PrivateKeySigner;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use x402_chain_eip155::{V1Eip155ExactClient, V2Eip155ExactClient};
use x402_reqwest::{ReqwestWithPayments, ReqwestWithPaymentsBuild, X402Client};

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<ExitCode, Error> {
    let args: Vec<String> = std::env::args().collect();
    let [_, key, url] = args.as_slice() else {
        return Err("usage: buyer PRIVATE_KEY URL".into());
    };
    let signer: Arc<PrivateKeySigner> = Arc::new(key.parse()?);
    let payer = X402Client::new()
        .register(V1Eip155ExactClient::new(signer.clone()))
        .register(V2Eip155ExactClient::new(signer));
    let response = reqwest::Client::new()
        .with_payments(payer)
        .build()
        .get(url)
        .send()
        .await?;

    let status = response.status();
    let receipt = ["payment-response", "x-payment-response"]
        .into_iter()
        .find_map(|name| response.headers().get(name))
        .map(|value| -> Result<Value, Error> {
            Ok(serde_json::from_slice(&STANDARD.decode(value)?)?)
        })
        .transpose()?;
    let text = response.text().await?;
    let body = serde_json::from_str::<Value>(&text).unwrap_or(Value::String(text));
    println!(
        "{}",
        json!({ "status": status.as_u16(), "body": body, "receipt": receipt })
    );
    Ok(if status.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
