//! The hot path in isolation: deciding without a payment, rendering a challenge, decoding a payment.
//!
//! `make bench` runs it and writes the figures to `docs/performance.md`. What counts are ratios in
//! one run (10 routes against 100,000), because machines are noisy.

#![expect(
    clippy::expect_used,
    reason = "a bench that cannot start is a bug in the bench"
)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use x402_verifier::gate::{Facts, Target, decide};
use x402_verifier::pricing;
use x402_verifier::table::{Table, TableWriter, Update};
use x402_verifier::x402::{PAYMENT_SIGNATURE, read_payment};

fn table(routes: usize) -> Arc<Table> {
    let mut text = String::from(
        "chain: base-sepolia\nwallet: \"0x209693Bc6afc0C5328bA36FaF03C514EF312287C\"\n\
         facilitatorURL: https://facilitator.example\nroutes:\n",
    );
    for n in 0..routes {
        text.push_str(&format!("- {{pattern: \"/services/offer-{n}/*\", price: \"0.001\", offerNamespace: shop, offerName: offer-{n}}}"));
        text.push('\n');
        if n % 2 == 0 {
            text.push_str(&format!("- {{pattern: \"/services/offer-{n}/free/*\", gate: free, offerNamespace: shop, offerName: offer-{n}}}"));
            text.push('\n');
        }
    }
    let document = pricing::parse(&text, "bench.yaml", Path::new(".")).expect("sound");
    let (mut writer, _reader) = TableWriter::new();
    let (settings, offers) = (Box::new(document.settings), document.offers);
    writer
        .apply(Update::Document { settings, offers }, Timestamp::now())
        .table
}

fn facts(target: &str) -> Facts<'_> {
    Facts {
        method: "GET",
        host: Some("shop.example".into()),
        authority: "shop.example",
        scheme: "https",
        target: Target::parse(target, Some("shop.example")).expect("a path"),
        pin: None,
        preflight: false,
        proven_ingress: false,
        forwarded_for: "192.0.2.7",
    }
}

fn deciding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    for routes in [10, 100_000] {
        let table = table(routes);
        let now = Timestamp::now();
        let middle = routes / 2 / 2 * 2;
        let free = format!("/services/offer-{middle}/free/v1/chat");
        group.bench_function(BenchmarkId::new("free", routes), |bench| {
            bench.iter(|| black_box(decide(&table, &facts(black_box(&free)), None, now)));
        });
        let paid = format!("/services/offer-{middle}/v1/chat");
        group.bench_function(BenchmarkId::new("challenge", routes), |bench| {
            bench.iter(|| black_box(decide(&table, &facts(black_box(&paid)), None, now)));
        });
        group.bench_function(BenchmarkId::new("no_route", routes), |bench| {
            bench.iter(|| black_box(decide(&table, &facts(black_box("/nowhere/x")), None, now)));
        });
        let twisted = format!("/services//offer-{middle}/./v1/chat");
        group.bench_function(BenchmarkId::new("ambiguous", routes), |bench| {
            bench.iter(|| black_box(decide(&table, &facts(black_box(&twisted)), None, now)));
        });
    }
    group.finish();
}

fn wire(criterion: &mut Criterion) {
    let payment = r#"{"x402Version":2,"resource":{"url":"https://api.example.com/premium","description":"Premium data","mimeType":"application/json"},"accepted":{"scheme":"exact","network":"eip155:84532","amount":"10000","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","payTo":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C","maxTimeoutSeconds":60,"extra":{"name":"USDC","version":"2"}},"payload":{"signature":"0x93841f22de24f5a698c2a2a211e99d3048e8d3e55b5c27de46e05ae6fc4ebb39409420e966f4f0e39af7810ba8cbc8ccc1a9ebcce2f323c6b79357c2c9daecf91b","authorization":{"from":"0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A","to":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C","value":"10000","validAfter":"0","validBefore":"4102444800","nonce":"0xf3746613c2d920b5fdabc0856f2aeb2d4f88ee6037b8cc5d04a71a4462f13480"}}}"#;
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_str(&STANDARD.encode(payment)).expect("ASCII");
    headers.insert(PAYMENT_SIGNATURE, value);
    criterion.bench_function("decode payment", |bench| {
        bench.iter(|| black_box(read_payment(black_box(&headers), 16_384)));
    });
    // The rest of a challenge is encoded at table build.
    let varying = r#"{"x402Version":2,"error":"Payment required for this resource","resource":{"url":"https://shop.example/services/offer-4/v1/chat""#;
    criterion.bench_function("base64 of what varies in a challenge", |bench| {
        bench.iter(|| black_box(STANDARD.encode(black_box(varying))));
    });
}

// What needs no table comes first, while the heap is as a fresh process has it.
criterion_group!(benches, wire, deciding);
criterion_main!(benches);
