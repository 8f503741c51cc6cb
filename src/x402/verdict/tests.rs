use super::super::fixtures::{PAYER, base_sepolia};
use super::*;
use proptest::prelude::*;
use serde_json::json;

fn verify(text: &str) -> Option<VerifyResponse> {
    VerifyResponse::parse(text.as_bytes())
}

fn settle(text: &str) -> Option<SettleResponse> {
    SettleResponse::parse(text.as_bytes())
}

fn receipt(version: Version) -> Receipt {
    Receipt {
        success: true,
        transaction: "0xabc".to_owned(),
        network: base_sepolia(),
        payer: PAYER,
        amount: Amount(10_000),
        error_reason: None,
        version,
    }
}

fn decoded(receipt: &Receipt) -> Value {
    let bytes = STANDARD
        .decode(receipt.header().as_bytes())
        .expect("padded base64");
    serde_json::from_slice(&bytes).expect("JSON")
}

#[test]
fn both_official_dialects_of_verify_are_read() {
    let valid = verify(r#"{"isValid":true,"payer":"0xAb","extra":{}}"#).expect("a verdict");
    assert_eq!(
        valid,
        VerifyResponse {
            is_valid: true,
            invalid_reason: None,
            invalid_message: None,
            payer: Some("0xAb".to_owned()),
        }
    );
    // The TypeScript facilitator.
    let refused = verify(
        r#"{"isValid":false,"invalidReason":"invalid_exact_evm_signature","invalidMessage":"no"}"#,
    )
    .expect("a verdict");
    assert_eq!(
        refused.invalid_reason.as_deref(),
        Some("invalid_exact_evm_signature")
    );
    assert_eq!(refused.invalid_message.as_deref(), Some("no"));
    // x402-rs: another name, an empty payer.
    let refused = verify(
        r#"{"isValid":false,"invalidReason":"unexpected_error","invalidReasonDetails":"revert","payer":""}"#,
    )
    .expect("a verdict");
    assert_eq!(refused.invalid_message.as_deref(), Some("revert"));
    assert_eq!(refused.payer, None);
    let joined = verify(r#"{"isValid":false,"invalidMessage":"a","invalidReasonDetails":"b"}"#);
    assert_eq!(
        joined.and_then(|it| it.invalid_message).as_deref(),
        Some("a: b")
    );
}

#[test]
fn both_official_dialects_of_settle_are_read() {
    let done = settle(
        r#"{"success":true,"transaction":"0x12","network":"eip155:84532","payer":"0xAb","amount":"7"}"#,
    )
    .expect("a verdict");
    assert_eq!(
        done,
        SettleResponse {
            success: true,
            transaction: "0x12".to_owned(),
            network: "eip155:84532".to_owned(),
            payer: Some("0xAb".to_owned()),
            amount: Some("7".to_owned()),
            error_reason: None,
            error_message: None,
        }
    );
    // A lost race, with the hash of the reverted transaction.
    let reverted = settle(
        r#"{"success":false,"errorReason":"invalid_exact_evm_transaction_failed","transaction":"0x34","network":"base"}"#,
    )
    .expect("a verdict");
    assert_eq!(
        (reverted.success, reverted.transaction.as_str()),
        (false, "0x34")
    );
    // x402-rs, in either case; the hosted one omits the transaction.
    for text in [
        r#"{"success":false,"network":"","transaction":"","errorReason":"x","errorMessage":"m","payer":""}"#,
        r#"{"success":false,"error_reason":"x","error_message":"m","transaction":null}"#,
    ] {
        let refused = settle(text).expect("a verdict");
        assert_eq!(refused.error_reason.as_deref(), Some("x"));
        assert_eq!(refused.error_message.as_deref(), Some("m"));
        assert_eq!(
            (refused.transaction.as_str(), refused.network.as_str()),
            ("", "")
        );
        assert_eq!(refused.payer, None);
    }
}

#[test]
fn m4_without_one_boolean_there_is_no_verdict() {
    for field in ["isValid", "success"] {
        for text in [
            String::new(),
            "<html></html>".to_owned(),
            "null".to_owned(),
            "[true]".to_owned(),
            "[true,null,null,null,null,null,null]".to_owned(),
            "{}".to_owned(),
            format!("{{\"{field}\":\"true\"}}"),
            format!("{{\"{field}\":1}}"),
            format!("{{\"{field}\":null}}"),
            format!("{{\"{field}\":false,\"{field}\":true}}"),
            format!("{{\"{field}\":true,\"payer\":\"a\",\"payer\":\"b\"}}"),
            format!("{{\"{field}\":true}} trailing"),
            format!("{{\"{field}\":true"),
            format!("{{\"{}\":true}}", field.to_uppercase()),
            format!("{{\"data\":{{\"{field}\":true}}}}"),
        ] {
            assert_eq!(verify(&text), None, "{text}");
            assert_eq!(settle(&text), None, "{text}");
        }
    }
    assert_eq!(settle(r#"{"isValid":true}"#), None);
    assert_eq!(verify(r#"{"success":true}"#), None);
}

#[test]
fn r9_a_field_of_the_wrong_type_does_not_pass_for_an_absent_one() {
    let odd = settle(r#"{"success":false,"transaction":{"hash":"0x1"},"payer":7,"amount":10000}"#)
        .expect("a verdict");
    assert_eq!(odd.transaction, r#"{"hash":"0x1"}"#);
    assert_eq!(odd.payer.as_deref(), Some("7"));
    assert_eq!(odd.amount.as_deref(), Some("10000"));
}

#[test]
fn texts_of_a_facilitator_are_bounded_and_printable() {
    let long = json!({"isValid": false, "invalidReason": "a\r\nb", "invalidMessage": "x".repeat(9000),
        "invalidReasonDetails": "y".repeat(9000)});
    let refused = verify(&long.to_string()).expect("a verdict");
    assert_eq!(
        refused.invalid_reason.as_deref(),
        Some("a\u{fffd}\u{fffd}b")
    );
    assert_eq!(
        refused.invalid_message.map(|text| text.chars().count()),
        Some(MAX_TEXT + 3)
    );
}

#[test]
fn receipts_spell_the_network_as_the_version_of_the_payment_does() {
    assert_eq!(
        decoded(&receipt(Version::V2)),
        json!({
            "success": true,
            "transaction": "0xabc",
            "network": "eip155:84532",
            "payer": "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A",
            "amount": "10000",
        })
    );
    let refused = Receipt {
        success: false,
        transaction: String::new(),
        error_reason: Some("insufficient_funds\n".to_owned()),
        ..receipt(Version::V1)
    };
    assert_eq!(
        decoded(&refused),
        json!({
            "success": false,
            "transaction": "",
            "network": "base-sepolia",
            "payer": "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A",
            "errorReason": "insufficient_funds\u{fffd}",
        })
    );
    let unnamed = Receipt {
        network: Network::from_chain_id(1),
        ..receipt(Version::V1)
    };
    assert_eq!(decoded(&unnamed)["network"], "eip155:1");
}

proptest! {
    #[test]
    fn no_facilitator_body_panics(body in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(VerifyResponse::parse(&body), None);
        prop_assert_eq!(SettleResponse::parse(&body), None);
    }

    #[test]
    fn any_receipt_is_a_header(transaction: String, reason: Option<String>) {
        let receipt = Receipt { transaction, error_reason: reason, ..receipt(Version::V2) };
        prop_assert!(decoded(&receipt)["success"].as_bool().expect("a verdict"));
    }
}
