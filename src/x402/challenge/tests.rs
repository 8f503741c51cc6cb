use super::super::fixtures::{PAY_TO, PAYER, URL, base_sepolia, permit2_usdc, requirement, usdc};
use super::*;
use crate::money::{Amount, Network};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

fn header(challenge: &Challenge) -> Value {
    let bytes = STANDARD
        .decode(challenge.header.as_bytes())
        .expect("padded base64");
    assert!(bytes.is_ascii());
    serde_json::from_slice(&bytes).expect("JSON")
}

fn body(challenge: &Challenge) -> Value {
    serde_json::from_slice(&challenge.body).expect("JSON")
}

fn template() -> ChallengeTemplate {
    let requirements = [requirement(base_sepolia(), usdc(), true)];
    ChallengeTemplate::new(&requirements, Some("Premium data"), Some("Example"))
}

fn failure() -> Failure {
    Failure {
        reason: "payment_invalid",
        error: "The facilitator refused the payment",
        detail: Some("insufficient_funds: \"0\"".to_owned()),
        hint: Some("fund the wallet".to_owned()),
    }
}

#[test]
fn the_first_challenge_serves_both_versions() {
    let ours = requirement(base_sepolia(), usdc(), true);
    let challenge = template().render(URL, None);
    assert_eq!(
        header(&challenge),
        json!({
            "x402Version": 2,
            "error": "Payment required for this resource",
            "resource": {
                "url": URL, "description": "Premium data", "mimeType": "", "serviceName": "Example",
            },
            "accepts": [serde_json::from_str::<Value>(ours.json_v2()).expect("JSON")],
        })
    );
    let v1 = ours.json_v1(URL).expect("a v1 form");
    assert_eq!(
        body(&challenge),
        json!({
            "x402Version": 1,
            "error": "Payment required for this resource",
            "reason": "payment_required",
            "detail": "0.01 USDC on base-sepolia",
            "hint": FIRST_HINT,
            "retriable": false,
            "accepts": [serde_json::from_str::<Value>(&v1).expect("JSON")],
        })
    );
}

#[test]
fn the_constant_head_of_the_first_challenge_is_what_it_says() {
    let head = format!(r#"{{"x402Version":2,"error":"{FIRST_ERROR}","resource":{{"url":""#);
    assert_eq!(FIRST_HEAD, STANDARD.encode(&head));
    assert_eq!(head.len() % 3, 0, "what follows could not be appended");
}

#[test]
fn a_repeated_challenge_says_in_both_places_what_failed() {
    let challenge = template().render(URL, Some(&failure()));
    let object = header(&challenge);
    assert_eq!(object["error"], "The facilitator refused the payment");
    assert_eq!(
        object["extensions"],
        json!({"paymentFailure": {
            "reason": "payment_invalid",
            "detail": "insufficient_funds: \"0\"",
            "hint": "fund the wallet",
        }})
    );
    assert_eq!(
        object["accepts"],
        header(&template().render(URL, None))["accepts"]
    );
    let object = body(&challenge);
    assert_eq!(object["x402Version"], 1);
    assert_eq!(object["reason"], "payment_invalid");
    assert_eq!(object["detail"], "insufficient_funds: \"0\"");
    assert_eq!(object["hint"], "fund the wallet");
    assert_eq!(object["retriable"], false);
    let bare = Failure {
        detail: None,
        hint: Some(String::new()),
        ..failure()
    };
    let object = header(&template().render(URL, Some(&bare)));
    assert_eq!(
        object["extensions"],
        json!({"paymentFailure": {"reason": "payment_invalid"}})
    );
}

#[test]
fn without_a_v1_form_the_body_is_the_v2_object_with_our_error_fields() {
    let ethereum = Network::from_chain_id(1);
    let ours = requirement(ethereum, ethereum.default_asset().expect("USDC"), false);
    let template = ChallengeTemplate::new(&[ours], None, None);
    for failure in [None, Some(&failure())] {
        let challenge = template.render(URL, failure);
        let mut object = body(&challenge);
        let members = object.as_object_mut().expect("an object");
        assert!(members.remove("reason").is_some() && members.remove("retriable").is_some());
        assert!(members.remove("detail").is_some() && members.remove("hint").is_some());
        assert_eq!(object, header(&challenge));
        assert_eq!(
            object["resource"],
            json!({"url": URL, "description": "", "mimeType": ""})
        );
    }
}

#[test]
fn m2_at_most_one_v1_entry_per_network_and_all_v2_entries_in_order() {
    let base = Network::from_chain_id(8453);
    let dearer = Requirement::new(
        base_sepolia(),
        Arc::new(usdc()),
        Amount(20_000),
        PAY_TO,
        60,
        false,
        None,
    );
    let requirements = [
        requirement(base_sepolia(), permit2_usdc(), false),
        requirement(base_sepolia(), usdc(), false),
        dearer,
        requirement(base, base.default_asset().expect("USDC"), false),
    ];
    let challenge = ChallengeTemplate::new(&requirements, None, None).render(URL, None);
    let offered = header(&challenge);
    let expected: Vec<Value> = requirements
        .iter()
        .map(|requirement| serde_json::from_str(requirement.json_v2()).expect("JSON"))
        .collect();
    assert_eq!(offered["accepts"], Value::Array(expected));
    let v1 = body(&challenge);
    let v1: Vec<_> = v1["accepts"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| (entry["network"].clone(), entry["maxAmountRequired"].clone()))
        .collect();
    assert_eq!(
        v1,
        [
            (json!("base-sepolia"), json!("10000")),
            (json!("base"), json!("10000"))
        ]
    );
}

#[test]
fn a_service_name_that_clients_refuse_is_left_out() {
    let requirements = [requirement(base_sepolia(), usdc(), false)];
    for name in ["", "caf\u{e9}", "tab\t", &"x".repeat(33)] {
        let template = ChallengeTemplate::new(&requirements, None, Some(name));
        assert_eq!(
            header(&template.render(URL, None))["resource"].get("serviceName"),
            None
        );
    }
}

#[test]
fn a_hostile_url_neither_breaks_out_nor_grows_the_header() {
    let hostile = format!(
        "https://x.example/?\"}},\"accepts\":[]</script>{}",
        "\u{2028}".repeat(9000)
    );
    let challenge = template().render(&hostile, Some(&failure()));
    assert!(
        challenge.header.len() < 8 * 1024,
        "{}",
        challenge.header.len()
    );
    let object = header(&challenge);
    assert_eq!(object["accepts"].as_array().map(Vec::len), Some(1));
    let url = object["resource"]["url"].as_str().expect("text");
    assert!(hostile.starts_with(url) && url.len() > 300);
    assert!(
        !String::from_utf8(challenge.body)
            .expect("UTF-8")
            .contains("</script>")
    );
}

#[test]
fn a_typical_header_is_small() {
    let challenge = template().render(URL, None);
    assert!(challenge.header.len() < 1024, "{}", challenge.header.len());
    let longest = template().render(&format!("{URL}?{}", "q".repeat(9000)), None);
    assert!(longest.header.len() < 4096, "{}", longest.header.len());
}

#[test]
fn no_payer_is_named_in_a_challenge() {
    let body = String::from_utf8(template().render(URL, Some(&failure())).body).expect("UTF-8");
    assert!(!body.contains(&PAYER.to_string()));
}

proptest! {
    #[test]
    fn any_url_reads_back_from_header_and_body(url in "\\PC{0,160}|[ -~\\n\\t\"\\\\<&]{0,200}") {
        for failure in [None, Some(&failure())] {
            let challenge = template().render(&url, failure);
            prop_assert_eq!(&header(&challenge)["resource"]["url"], &json!(url));
            prop_assert_eq!(&body(&challenge)["accepts"][0]["resource"], &json!(url));
        }
    }
}
