use super::super::fixtures::{
    PAY_TO, URL, V1, V2, base_sepolia, payment, permit2_usdc, requirement, usdc,
};
use super::super::{PAYMENT_SIGNATURE, X_PAYMENT};
use super::*;
use serde_json::json;

fn ours() -> Requirement {
    requirement(base_sepolia(), usdc(), false)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// What a client that repeats our entry verbatim sends as `accepted`.
fn echo(requirement: &Requirement) -> Value {
    json(requirement.json_v2())
}

/// Reads `accepted` through a whole payment, as from the wire.
fn accepted(value: Value) -> Accepted {
    let mut whole = json(V2);
    whole["accepted"] = value;
    payment(PAYMENT_SIGNATURE, &whole.to_string()).accepted
}

#[test]
fn the_v2_object_has_exactly_seven_keys() {
    assert_eq!(
        json(ours().json_v2()),
        json!({
            "scheme": "exact",
            "network": "eip155:84532",
            "amount": "10000",
            "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
            "maxTimeoutSeconds": 60,
            "extra": {"name": "USDC", "version": "2", "assetTransferMethod": "eip3009"},
        })
    );
    let upfront = requirement(base_sepolia(), permit2_usdc(), true);
    assert_eq!(
        json(upfront.json_v2())["extra"],
        json!({
            "name": "USDC", "version": "2", "assetTransferMethod": "permit2", "paymentFlow": "upfront",
        })
    );
}

#[test]
fn the_v1_object_is_what_the_legacy_client_can_parse() {
    let upfront = requirement(base_sepolia(), usdc(), true);
    let object = upfront
        .json_v1("https://x.example/a?q=\"<\n")
        .expect("a v1 form");
    assert!(object.is_ascii() && !object.contains('<'));
    assert_eq!(
        json(&object),
        json!({
            "scheme": "exact",
            "network": "base-sepolia",
            "maxAmountRequired": "10000",
            "resource": "https://x.example/a?q=\"<\n",
            "description": "Premium data",
            "mimeType": "",
            "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
            "maxTimeoutSeconds": 60,
            "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            "extra": {"name": "USDC", "version": "2"},
        })
    );
}

#[test]
fn a_chain_without_v1_name_and_a_permit2_asset_have_no_v1_form() {
    let ethereum = Network::from_chain_id(1);
    let asset = ethereum.default_asset().expect("USDC");
    for requirement in [
        requirement(ethereum, asset, false),
        requirement(base_sepolia(), permit2_usdc(), false),
    ] {
        assert_eq!(requirement.json_v1(URL), None);
        let v1 = payment(X_PAYMENT, V1);
        assert_eq!(requirement.facilitator_body(&v1, URL), None);
        assert!(requirement.matches(&v1.accepted).is_err());
    }
}

#[test]
fn a_verbatim_echo_matches_and_so_does_every_harmless_difference() {
    let ours = requirement(base_sepolia(), usdc(), true);
    ours.matches(&accepted(echo(&ours))).expect("verbatim");
    for (key, value) in [
        ("network", json!("base-sepolia")),
        ("amount", json!("0010000")),
        ("asset", json!("0x036cbd53842c5426634e7929541ec2318f3dcf7e")),
        ("payTo", json!("0x209693BC6AFC0C5328BA36FAF03C514EF312287C")),
        ("maxTimeoutSeconds", json!(null)),
        ("unknown", json!({"a": [1]})),
    ] {
        let mut theirs = echo(&ours);
        theirs[key] = value;
        assert_eq!(ours.matches(&accepted(theirs)), Ok(()), "{key}");
    }
    let mut theirs = echo(&ours);
    theirs["extra"]["added"] = json!({"by": "the client"});
    assert_eq!(ours.matches(&accepted(theirs)), Ok(()));
}

#[test]
fn every_field_that_differs_is_named_with_both_values() {
    let ours = requirement(base_sepolia(), usdc(), true);
    for (pointer, field, value, expected, found) in [
        ("/scheme", "scheme", json!("upto"), "exact", "upto"),
        ("/scheme", "scheme", json!("Exact"), "exact", "Exact"),
        (
            "/network",
            "network",
            json!("eip155:8453"),
            "eip155:84532",
            "eip155:8453",
        ),
        (
            "/network",
            "network",
            json!("solana:x"),
            "eip155:84532",
            "solana:x",
        ),
        ("/amount", "amount", json!("9999"), "10000", "9999"),
        ("/amount", "amount", json!("10001"), "10000", "10001"),
        (
            "/asset",
            "asset",
            json!("0x209693Bc6afc0C5328bA36FaF03C514EF312287C"),
            "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
        ),
        (
            "/payTo",
            "payTo",
            json!("merchant"),
            "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
            "merchant",
        ),
        (
            "/maxTimeoutSeconds",
            "maxTimeoutSeconds",
            json!(61),
            "60",
            "61",
        ),
        ("/extra", "extra.name", json!(null), "USDC", "nothing"),
        ("/extra", "extra.name", json!("USDC"), "USDC", "nothing"),
        (
            "/extra/name",
            "extra.name",
            json!("USD Coin"),
            "USDC",
            "USD Coin",
        ),
        ("/extra/version", "extra.version", json!(2), "2", "2"),
        (
            "/extra/assetTransferMethod",
            "extra.assetTransferMethod",
            json!("permit2"),
            "eip3009",
            "permit2",
        ),
        (
            "/extra/paymentFlow",
            "extra.paymentFlow",
            json!("escrow"),
            "upfront",
            "escrow",
        ),
    ] {
        let mut theirs = echo(&ours);
        *theirs.pointer_mut(pointer).expect("a field") = value;
        let mismatch = ours.matches(&accepted(theirs)).expect_err(pointer);
        assert_eq!(
            mismatch,
            Mismatch {
                field,
                expected: expected.to_owned(),
                found: found.to_owned()
            }
        );
    }
}

#[test]
fn what_a_mismatch_repeats_is_bounded_and_printable() {
    let mut theirs = echo(&ours());
    theirs["payTo"] = json!("\n".repeat(1_000));
    let mismatch = ours().matches(&accepted(theirs)).expect_err("no address");
    assert_eq!(mismatch.found.chars().count(), FOUND + 3);
    assert!(!mismatch.found.contains('\n'));
}

#[test]
fn a_v1_payment_is_compared_by_scheme_and_network_in_any_alias() {
    let v1 = |scheme: &str, network: &str| Accepted::V1 {
        scheme: scheme.to_owned(),
        network: network.to_owned(),
    };
    assert_eq!(ours().matches(&v1("exact", "base-sepolia")), Ok(()));
    assert_eq!(ours().matches(&v1("exact", "eip155:84532")), Ok(()));
    assert_eq!(
        ours()
            .matches(&v1("exact", "base"))
            .expect_err("other")
            .field,
        "network"
    );
    assert_eq!(
        ours()
            .matches(&v1("upto", "base-sepolia"))
            .expect_err("other")
            .field,
        "scheme"
    );
    let permit2 = requirement(base_sepolia(), permit2_usdc(), false);
    let mismatch = permit2
        .matches(&v1("exact", "base-sepolia"))
        .expect_err("v2 only");
    assert_eq!(mismatch.field, "x402Version");
}

#[test]
fn m1_the_facilitator_gets_the_payment_bytes_unchanged_and_our_requirement() {
    let spaced = V2.replace("\"payload\":", "\n \"payload\" : ");
    let ours = requirement(base_sepolia(), usdc(), true);
    let body = ours
        .facilitator_body(&payment(PAYMENT_SIGNATURE, &spaced), URL)
        .expect("v2");
    let text = String::from_utf8(body).expect("UTF-8");
    assert_eq!(
        text,
        format!(
            r#"{{"x402Version":2,"paymentPayload":{spaced},"paymentRequirements":{}}}"#,
            ours.json_v2()
        )
    );
    let body = ours
        .facilitator_body(&payment(X_PAYMENT, V1), URL)
        .expect("v1");
    let body = json(&String::from_utf8(body).expect("UTF-8"));
    assert_eq!(body["x402Version"], 1);
    assert_eq!(body["paymentPayload"], json(V1));
    assert_eq!(body["paymentRequirements"]["network"], "base-sepolia");
    assert_eq!(body["paymentRequirements"]["resource"], URL);
}

#[test]
fn names_beyond_ascii_keep_their_meaning() {
    let asset = Asset {
        eip712_name: "USD\u{20ae}0".into(),
        ..usdc()
    };
    let flare = Network::from_chain_id(14);
    let ours = Requirement::new(flare, Arc::new(asset), Amount(1), PAY_TO, 60, false, None);
    assert!(ours.json_v2().is_ascii());
    ours.matches(&accepted(echo(&ours))).expect("verbatim");
}
