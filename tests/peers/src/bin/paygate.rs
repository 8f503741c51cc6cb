//! The nearest Rust peer: `x402-axum`'s paygate in front of a handler, answering 402 to the unpaid.
//!
//! `paygate PORT [FACILITATOR_URL]`; the price is 0.001 USDC on Base Sepolia at `/paid`. Without a
//! facilitator it serves `/supported` itself, which is all that a 402 needs: no payment can succeed
//! then. Prints `listening on ADDRESS` once it does; PORT 0 picks a free one.

use alloy_primitives::address;
use axum::{Json, Router, routing::get};
use serde_json::json;
use x402_axum::X402Middleware;
use x402_chain_eip155::{KnownNetworkEip155, V2Eip155Exact};
use x402_types::networks::USDC;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let port = args
        .first()
        .ok_or("usage: paygate PORT [FACILITATOR_URL]")?;
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let own = format!("http://{}", listener.local_addr()?);
    let gate = X402Middleware::try_new(args.get(1).unwrap_or(&own))?
        .with_base_url(own.parse()?)
        .with_price_tag(V2Eip155Exact::price_tag(
            address!("0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65"), // anvil's account 4
            USDC::base_sepolia().parse("0.001")?,
        ));
    let supported = json!({
        "kinds": [{ "x402Version": 2, "scheme": "exact", "network": "eip155:84532" }],
        "extensions": [],
        "signers": {},
    });
    let app = Router::new()
        .route(
            "/paid",
            get(|| async { Json(json!({ "ok": true })) }).layer(gate),
        )
        .route(
            "/supported",
            get(move || std::future::ready(Json(supported.clone()))),
        );
    println!("listening on {}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
