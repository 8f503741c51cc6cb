//! Local checks over a real table: what a payment must say, and which authorisation it is.

use super::*;
use crate::pricing;
use crate::route::Target;
use crate::table::{TableReader, TableWriter, Update};
use crate::x402;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

const NOW: i64 = 1_800_000_000;
const PAYER: &str = "0x857b06519E91e3A54538791bDbb0E22373e36b66";
const SELLER: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
const PRICING: &str = "chain: base-sepolia
wallet: '0x209693Bc6afc0C5328bA36FaF03C514EF312287C'
facilitatorURL: http://127.0.0.1:1
routes:
- {pattern: '/a/*', price: '0.001', offerName: a}
- {pattern: '/b/*', price: '0.001', offerName: b}
- {pattern: '/never/*', price: '0.001', settle: never, offerName: a}
";

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn tables() -> TableReader {
    let document = pricing::parse(PRICING, "pricing.yaml", Path::new("/")).unwrap();
    let (mut writer, tables) = TableWriter::new();
    writer.apply(Update::Remembered { paths: Vec::new() }, now());
    let settings = Box::new(document.settings);
    let offers = document.offers;
    writer.apply(Update::Document { settings, offers }, now());
    tables
}

fn facts<'a>(method: &'a str, target: &'a str, forwarded_for: &'a str) -> Facts<'a> {
    Facts {
        method,
        host: Some("shop.example".into()),
        authority: "shop.example",
        scheme: "https",
        target: Target::parse(target, None).unwrap(),
        pin: None,
        preflight: false,
        proven_ingress: false,
        forwarded_for,
    }
}

fn payload(valid_before: &str) -> Value {
    json!({
        "signature": format!("0x{}", "11".repeat(65)),
        "authorization": {
            "from": PAYER, "to": SELLER, "value": "1000", "validAfter": "0",
            "validBefore": valid_before, "nonce": format!("0x{}", "ab".repeat(32)),
        },
    })
}

fn v2(table: &Table, payload: &Value) -> Value {
    let route = table.routes().next().unwrap();
    let accepted: Value = serde_json::from_str(route.requirements[0].json_v2()).unwrap();
    json!({ "x402Version": 2, "accepted": accepted, "payload": payload })
}

fn read(header: &'static str, json: &Value) -> Payment {
    let mut headers = HeaderMap::new();
    headers.insert(header, STANDARD.encode(json.to_string()).parse().unwrap());
    x402::read_payment(&headers, 16_384).unwrap().unwrap()
}

fn planned(table: &Table, facts: &Facts<'_>, payment: &Payment) -> Result<Plan, Refused> {
    let resolved = table.resolve(&facts.target, facts.host.as_deref(), None, now());
    let crate::table::Resolution::Route(route) = resolved.resolution else {
        panic!("a route")
    };
    plan(
        table,
        route,
        facts,
        payment.clone(),
        "https://shop.example/a/x",
        now(),
    )
}

fn soon() -> String {
    (NOW + 600).to_string()
}

#[test]
fn m2_version_and_letter_case_give_one_key() {
    let table = tables().load_full();
    let facts = facts("GET", "/a/x", "");
    let key = |header, json: &Value| planned(&table, &facts, &read(header, json)).unwrap().key;
    let payment = v2(&table, &payload(&soon()));
    let first = key("payment-signature", &payment);

    let mut lowered = payment.clone();
    let signed = lowered["payload"]["authorization"].as_object_mut().unwrap();
    for value in signed.values_mut() {
        *value = value.as_str().unwrap().to_lowercase().into();
    }
    lowered["payload"]["signature"] = format!("0x{}", "22".repeat(65)).into();
    assert_eq!(key("payment-signature", &lowered), first);
    let v1 = json!({
        "x402Version": 1, "scheme": "exact", "network": "base-sepolia",
        "payload": payment["payload"],
    });
    assert_eq!(key("x-payment", &v1), first);

    let mut other = payment;
    other["payload"]["authorization"]["nonce"] = format!("0x{}", "cd".repeat(32)).into();
    assert_ne!(key("payment-signature", &other), first);
}

#[test]
fn m1_every_signed_term_must_be_ours() {
    let table = tables().load_full();
    let facts = facts("GET", "/a/x", "");
    let changes = [
        ("to", PAYER.to_owned(), Reason::NoMatchingRequirement),
        ("value", "999".to_owned(), Reason::NoMatchingRequirement),
        ("value", "1001".to_owned(), Reason::NoMatchingRequirement),
        (
            "value",
            U256::MAX.to_string(),
            Reason::NoMatchingRequirement,
        ),
        ("from", Address::ZERO.to_string(), Reason::PaymentInvalid),
    ];
    for (field, value, reason) in changes {
        let mut payment = v2(&table, &payload(&soon()));
        payment["payload"]["authorization"][field] = value.clone().into();
        let refused = planned(&table, &facts, &read("payment-signature", &payment)).unwrap_err();
        assert_eq!(refused.reason, reason, "{field} {value}");
    }
}

/// M5: what makes a copy another request, one by one.
#[test]
fn m5_a_copy_is_the_same_request_only_when_all_of_it_is() {
    let table = tables().load_full();
    let payment = read("payment-signature", &v2(&table, &payload(&soon())));
    let fingerprint = |facts: &Facts<'_>| planned(&table, facts, &payment).unwrap().fingerprint;
    let first = fingerprint(&facts("GET", "/a/x", "192.0.2.7"));
    assert_eq!(fingerprint(&facts("GET", "/a/x", "192.0.2.7")), first);
    for other in [
        facts("POST", "/a/x", "192.0.2.7"),
        facts("GET", "/a/y", "192.0.2.7"),
        facts("GET", "/a/x", "192.0.2.8"),
        facts("GET", "/b/x", "192.0.2.7"),
    ] {
        assert_ne!(fingerprint(&other), first, "{other:?}");
    }
    let facts = facts("GET", "/a/x", "192.0.2.7");
    let routes: Vec<_> = table.routes().collect();
    let of = |route: &Arc<RouteEntry>| {
        let planned = plan(&table, route, &facts, payment.clone(), "", now()).unwrap();
        (planned.fingerprint, planned.settles)
    };
    assert_eq!(of(routes[0]), (first, true));
    assert_ne!(of(routes[1]).0, first, "another pin is another request");
    let never = routes.iter().find(|route| route.settle == Settle::Never);
    let (never, settles) = of(never.unwrap());
    assert!(never != first && !settles);
}

proptest! {
    /// M9, in 256 bits.
    #[test]
    fn m9_the_window_is_exact(words in any::<[u64; 4]>(), near in -1_500_i64..1_500, far in any::<bool>()) {
        let valid_before = if far {
            U256::from_limbs(words)
        } else {
            U256::from(u64::try_from(NOW + near).unwrap())
        };
        let table = tables().load_full();
        let facts = facts("GET", "/a/x", "");
        let payment = v2(&table, &payload(&valid_before.to_string()));
        let found = planned(&table, &facts, &read("payment-signature", &payment));
        let now = u64::try_from(NOW).unwrap();
        let timeout = u64::from(table.routes().next().unwrap().requirements[0].max_timeout_seconds);
        let window = U256::from(now + 6)..=U256::from(now + timeout + 600);
        prop_assert_eq!(found.is_ok(), window.contains(&valid_before));
        if let Err(refused) = found {
            prop_assert_eq!(refused.reason, Reason::PaymentInvalid);
        }
    }
}
