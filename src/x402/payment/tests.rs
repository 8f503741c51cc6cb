use super::super::fixtures::{LIMIT, PAY_TO, PAYER, PERMIT2, V1, V2, headers, payment};
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose;
use proptest::prelude::*;
use serde_json::{Value, json};

const NONCE: &str = "f3746613c2d920b5fdabc0856f2aeb2d4f88ee6037b8cc5d04a71a4462f13480";

fn refusal(name: &'static str, json: &str) -> PaymentHeaderError {
    read_payment(&headers(name, json), LIMIT).expect_err(json)
}

fn sha256(bytes: impl AsRef<[u8]>) -> B256 {
    B256::new(Sha256::digest(bytes).into())
}

/// [`V2`] with the value at a JSON pointer replaced, or removed.
fn edited(base: &str, pointer: &str, value: Option<Value>) -> String {
    let mut json: Value = serde_json::from_str(base).expect("JSON");
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let parent = json
        .pointer_mut(parent)
        .and_then(Value::as_object_mut)
        .expect("an object");
    match value {
        Some(value) => parent.insert(key.to_owned(), value),
        None => parent.remove(key),
    };
    json.to_string()
}

#[test]
fn no_payment_header_is_no_payment() {
    assert!(
        read_payment(&HeaderMap::new(), LIMIT)
            .expect("no error")
            .is_none()
    );
    assert!(!has_payment(&HeaderMap::new()));
    assert!(has_payment(&headers(X_PAYMENT, "")));
    assert!(has_payment(&headers(PAYMENT_SIGNATURE, "")));
}

#[test]
fn the_v2_vector_has_the_size_of_the_digest_and_reads_into_types() {
    assert_eq!(
        (V2.len(), general_purpose::STANDARD.encode(V2).len()),
        (725, 968)
    );
    let read = payment(PAYMENT_SIGNATURE, V2);
    assert_eq!(read.version, Version::V2);
    assert_eq!(&*read.json, V2);
    assert_eq!(read.hash, sha256(V2));
    assert_eq!(read.payer(), PAYER);
    assert_eq!(read.signature.len(), 65);
    assert_eq!(
        read.authorization,
        Authorization::Eip3009 {
            from: PAYER,
            to: PAY_TO,
            value: U256::from(10_000),
            valid_after: U256::ZERO,
            valid_before: U256::from(4_102_444_800_u64),
            nonce: NONCE.parse().expect("32 bytes"),
        }
    );
    assert_eq!(
        read.accepted,
        Accepted::V2 {
            scheme: "exact".to_owned(),
            network: "eip155:84532".to_owned(),
            amount: U256::from(10_000),
            asset: "0x036CbD53842c5426634e7929541eC2318f3dCF7e".to_owned(),
            pay_to: "0x209693Bc6afc0C5328bA36FaF03C514EF312287C".to_owned(),
            max_timeout_seconds: Some(60),
            extra: Some(json!({"name": "USDC", "version": "2"})),
        }
    );
}

#[test]
fn the_v1_header_carries_both_versions_and_the_v2_header_only_its_own() {
    let read = payment(X_PAYMENT, V1);
    assert_eq!(read.version, Version::V1);
    assert_eq!(
        read.accepted,
        Accepted::V1 {
            scheme: "exact".to_owned(),
            network: "base-sepolia".to_owned()
        }
    );
    assert_eq!(
        read.authorization,
        payment(PAYMENT_SIGNATURE, V2).authorization
    );
    assert_eq!(payment(X_PAYMENT, V2).version, Version::V2);
    assert_eq!(
        refusal(PAYMENT_SIGNATURE, V1),
        PaymentHeaderError::V1InV2Header
    );
}

#[test]
fn the_permit2_vector_reads_into_types_and_its_nonce_may_be_hex() {
    let expected = Authorization::Permit2 {
        from: PAYER,
        token: alloy_primitives::address!("036CbD53842c5426634e7929541eC2318f3dCF7e"),
        amount: U256::from(10_000),
        spender: alloy_primitives::address!("402085c248EeA27D92E8b30b2C58ed07f9E20001"),
        nonce: U256::from(1),
        deadline: U256::from(4_102_444_800_u64),
        to: PAY_TO,
        valid_after: U256::ZERO,
    };
    for nonce in ["1", "01", "0x1", "0x01"] {
        let text = edited(
            PERMIT2,
            "/payload/permit2Authorization/nonce",
            Some(nonce.into()),
        );
        assert_eq!(
            payment(PAYMENT_SIGNATURE, &text).authorization,
            expected,
            "{nonce}"
        );
    }
    for nonce in [
        "0x",
        "0xg",
        "-1",
        "1e3",
        "",
        " 1",
        &format!("0x1{}", "0".repeat(64)),
    ] {
        let text = edited(
            PERMIT2,
            "/payload/permit2Authorization/nonce",
            Some(nonce.into()),
        );
        let error = refusal(PAYMENT_SIGNATURE, &text);
        assert!(
            matches!(error, PaymentHeaderError::Invalid { .. }),
            "{nonce}: {error}"
        );
    }
}

#[test]
fn every_usual_base64_spelling_is_read() {
    let engines = [
        &general_purpose::STANDARD,
        &general_purpose::STANDARD_NO_PAD,
        &general_purpose::URL_SAFE,
        &general_purpose::URL_SAFE_NO_PAD,
    ];
    // One text per remainder of three, with bytes that encode to 62 and 63.
    for filler in ["~~~???", "~~~??? ", "~~~???  "] {
        let text = edited(V2, "/note", Some(filler.into()));
        for engine in engines {
            let value = HeaderValue::try_from(engine.encode(&text)).expect("base64");
            let headers = HeaderMap::from_iter([("x-payment".parse().expect("a name"), value)]);
            let read = read_payment(&headers, LIMIT)
                .expect("a payment")
                .expect("present");
            assert_eq!(&*read.json, text);
        }
    }
}

#[test]
fn what_is_not_one_bounded_header_is_refused_by_name() {
    let mut both = headers(PAYMENT_SIGNATURE, V2);
    both.extend(headers(X_PAYMENT, V1));
    assert_eq!(
        read_payment(&both, LIMIT).unwrap_err(),
        PaymentHeaderError::BothHeaders
    );
    for (name, header) in [
        (PAYMENT_SIGNATURE, "PAYMENT-SIGNATURE"),
        (X_PAYMENT, "X-PAYMENT"),
    ] {
        let mut doubled = headers(name, V2);
        doubled.append(name, HeaderValue::from_static("eyJ9"));
        let error = read_payment(&doubled, LIMIT).unwrap_err();
        assert_eq!(error, PaymentHeaderError::Repeated { header });
    }
    let one = headers(PAYMENT_SIGNATURE, V2);
    assert!(read_payment(&one, 968).is_ok());
    let error = read_payment(&one, 967).unwrap_err();
    assert_eq!(
        error,
        PaymentHeaderError::TooLarge {
            bytes: 968,
            limit: 967
        }
    );
    assert_eq!(refusal(X_PAYMENT, ""), PaymentHeaderError::Empty);
    for value in ["%%%", "e30=,e30=", "e3+_", "e", "\u{e9}"] {
        let mut broken = HeaderMap::new();
        broken.insert(
            X_PAYMENT,
            HeaderValue::from_bytes(value.as_bytes()).expect("a value"),
        );
        assert_eq!(
            read_payment(&broken, LIMIT).unwrap_err(),
            PaymentHeaderError::Base64
        );
    }
    let mut latin = HeaderMap::new();
    latin.insert(X_PAYMENT, HeaderValue::from_static("/////w=="));
    assert_eq!(
        read_payment(&latin, LIMIT).unwrap_err(),
        PaymentHeaderError::NotUtf8
    );
}

#[test]
fn what_is_not_one_unambiguous_json_object_is_refused_by_name() {
    assert!(matches!(
        refusal(X_PAYMENT, "{"),
        PaymentHeaderError::NotJson { .. }
    ));
    for text in ["null", "2", "\"x\"", "[]"] {
        assert_eq!(refusal(X_PAYMENT, text), PaymentHeaderError::NotObject);
    }
    assert_eq!(
        refusal(X_PAYMENT, &"[".repeat(10_000)),
        PaymentHeaderError::TooDeep
    );
    let members: Vec<_> = (0..100).map(|key| format!("\"{key}\":0")).collect();
    let many = format!("{{{}}}", members.join(","));
    assert_eq!(refusal(X_PAYMENT, &many), PaymentHeaderError::TooManyKeys);
}

#[test]
fn m2_a_key_twice_at_any_depth_is_refused() {
    for (once, twice) in [
        ("\"value\":\"10000\"", "\"value\":\"10000\",\"value\":\"1\""),
        (
            "\"payload\":{",
            "\"payload\":{\"\\u0073ignature\":\"0x00\",",
        ),
        ("\"x402Version\":2", "\"x402Version\":2,\"x402Version\":2"),
    ] {
        let error = refusal(PAYMENT_SIGNATURE, &V2.replace(once, twice));
        assert!(
            matches!(error, PaymentHeaderError::DuplicateKey { .. }),
            "{error}"
        );
    }
}

#[test]
fn m2_a_key_in_other_letters_is_refused_because_some_readers_take_it_for_the_same() {
    let other = json!(format!("0x{}", "00".repeat(32)));
    for (pointer, field) in [
        (
            "/payload/authorization/Nonce",
            "payload.authorization.nonce",
        ),
        (
            "/payload/permit2authorization",
            "payload.permit2Authorization",
        ),
        ("/payload/\u{17f}ignature", "payload.signature"),
        ("/X402VERSION", "x402Version"),
    ] {
        let error = refusal(PAYMENT_SIGNATURE, &edited(V2, pointer, Some(other.clone())));
        assert!(
            matches!(&error, PaymentHeaderError::KeySpelling { field: named, .. } if named == field),
            "{error}"
        );
    }
    let text = edited(V2, "/extensions", Some(json!({"a": 1, "A": 2})));
    assert_eq!(&*payment(PAYMENT_SIGNATURE, &text).json, text);
}

#[test]
fn m2_exactly_one_form_of_authorisation_is_read() {
    let permit = serde_json::from_str::<Value>(PERMIT2).expect("JSON");
    let permit = permit["payload"]["permit2Authorization"].clone();
    for second in [permit, Value::Null, json!(7)] {
        let text = edited(V2, "/payload/permit2Authorization", Some(second));
        assert_eq!(
            refusal(PAYMENT_SIGNATURE, &text),
            PaymentHeaderError::TwoAuthorizations
        );
    }
    let text = edited(V2, "/payload/authorization", None);
    assert_eq!(
        refusal(PAYMENT_SIGNATURE, &text),
        PaymentHeaderError::NoAuthorization
    );
}

#[test]
fn the_version_is_one_of_two_integers() {
    for version in [
        json!("2"),
        json!(2.0),
        json!(3),
        json!(0),
        json!(-1),
        json!(true),
        json!([2]),
    ] {
        let text = edited(V2, "/x402Version", Some(version));
        let error = refusal(PAYMENT_SIGNATURE, &text);
        assert!(
            matches!(error, PaymentHeaderError::UnknownVersion { .. }),
            "{text}"
        );
    }
    for version in [Some(Value::Null), None] {
        let text = edited(V2, "/x402Version", version);
        let field = "x402Version".to_owned();
        assert_eq!(
            refusal(PAYMENT_SIGNATURE, &text),
            PaymentHeaderError::Missing { field }
        );
    }
}

#[test]
fn a_required_field_that_is_absent_or_null_is_named() {
    for field in [
        "accepted",
        "payload",
        "accepted.scheme",
        "accepted.network",
        "accepted.amount",
        "accepted.asset",
        "accepted.payTo",
        "payload.signature",
        "payload.authorization.from",
        "payload.authorization.to",
        "payload.authorization.value",
        "payload.authorization.validAfter",
        "payload.authorization.validBefore",
        "payload.authorization.nonce",
    ] {
        let pointer = format!("/{}", field.replace('.', "/"));
        for value in [None, Some(Value::Null)] {
            let error = refusal(PAYMENT_SIGNATURE, &edited(V2, &pointer, value));
            assert_eq!(
                error,
                PaymentHeaderError::Missing {
                    field: field.to_owned()
                }
            );
        }
    }
}

#[test]
fn numbers_are_decimal_text_within_256_bits() {
    let max = U256::MAX.to_string();
    for field in ["value", "validAfter", "validBefore"] {
        let pointer = format!("/payload/authorization/{field}");
        for (text, number) in [
            ("0", U256::ZERO),
            ("00010", U256::from(10)),
            (max.as_str(), U256::MAX),
        ] {
            let read = payment(X_PAYMENT, &edited(V2, &pointer, Some(text.into())));
            let Authorization::Eip3009 {
                value,
                valid_after,
                valid_before,
                ..
            } = read.authorization
            else {
                panic!("another form");
            };
            assert!(
                [value, valid_after, valid_before].contains(&number),
                "{field} {text}"
            );
        }
        let too_large = format!("{}6", max.strip_suffix('5').expect("2^256 - 1 ends in 5"));
        for refused in [
            json!(10000),
            json!(1.5),
            json!(null),
            json!(["1"]),
            json!(""),
            json!("-1"),
            json!("+1"),
            json!("0x10"),
            json!("1e3"),
            json!(" 1"),
            json!("1 "),
            json!("1_000"),
            json!("1."),
            json!("\u{661}"),
            json!(too_large),
            json!("1".repeat(79)),
        ] {
            let error = refusal(X_PAYMENT, &edited(V2, &pointer, Some(refused.clone())));
            let by_name = if refused.is_null() {
                matches!(error, PaymentHeaderError::Missing { .. })
            } else {
                matches!(error, PaymentHeaderError::Invalid { .. })
            };
            assert!(
                by_name && error.to_string().contains(field),
                "{refused}: {error}"
            );
        }
    }
}

#[test]
fn addresses_and_nonces_have_their_length_and_any_letter_case() {
    let upper = format!("0x{}", NONCE.to_uppercase());
    let text = edited(V2, "/payload/authorization/nonce", Some(upper.into()));
    let text = edited(
        &text,
        "/payload/authorization/from",
        Some(PAYER.to_string().to_lowercase().into()),
    );
    assert_eq!(
        payment(X_PAYMENT, &text).authorization,
        payment(X_PAYMENT, V2).authorization
    );
    for (field, good) in [("nonce", format!("0x{NONCE}")), ("to", PAY_TO.to_string())] {
        let bare = good.trim_start_matches("0x");
        let mut cut = good.clone();
        cut.pop();
        let longer = format!("{good}0");
        let twice = format!("0x{good}");
        // As long as the good one, with a second prefix instead of its first digits.
        let inner = format!("0x0x{}", "0".repeat(good.len() - 4));
        for bad in [&cut, bare, &longer, &twice, &inner, "0x", ""] {
            let pointer = format!("/payload/authorization/{field}");
            let error = refusal(X_PAYMENT, &edited(V2, &pointer, Some(bad.into())));
            assert!(
                matches!(error, PaymentHeaderError::Invalid { .. }),
                "{bad}: {error}"
            );
        }
    }
}

#[test]
fn signatures_of_contract_wallets_are_read_and_broken_ones_are_not_repeated() {
    let long = format!("0x{}", "ab".repeat(500));
    let text = edited(V2, "/payload/signature", Some(long.into()));
    assert_eq!(payment(X_PAYMENT, &text).signature.len(), 500);
    for bad in [
        json!("0x"),
        json!("c0ffee"),
        json!("0xc0ffe"),
        json!("0xc0ffeg"),
        json!(0xc0_ffee),
    ] {
        let error = refusal(X_PAYMENT, &edited(V2, "/payload/signature", Some(bad)));
        assert!(
            matches!(error, PaymentHeaderError::Invalid { .. }),
            "{error}"
        );
        assert!(!error.to_string().contains("c0ff"), "{error}");
        assert!(!error.to_string().contains("12648430"), "{error}");
    }
}

#[test]
fn unknown_fields_and_a_string_resource_are_tolerated_and_kept() {
    let text = edited(V2, "/resource", Some("https://api.example.com".into()));
    let text = edited(
        &text,
        "/extensions",
        Some(json!({"bazaar": {"info": [1.5, {}]}})),
    );
    let text = edited(&text, "/accepted/extra/feePayer", Some(json!("0x00")));
    let spaced = text.replace("\"payload\":", "\n \"payload\" : ");
    assert_eq!(&*payment(PAYMENT_SIGNATURE, &spaced).json, spaced);
}

#[test]
fn r13_debug_shows_neither_signature_nor_payload() {
    let shown = format!("{:?}", payment(PAYMENT_SIGNATURE, V2));
    assert!(
        shown.contains("0x19e7e376e7c213b7e7e7e46cc70a5dd086daff2a"),
        "{shown}"
    );
    for secret in ["93841f22", "147, 132", "premium", "f3746613"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn every_error_says_what_to_do() {
    let text = String::new;
    for error in [
        PaymentHeaderError::BothHeaders,
        PaymentHeaderError::Repeated {
            header: "X-PAYMENT",
        },
        PaymentHeaderError::Empty,
        PaymentHeaderError::TooLarge { bytes: 2, limit: 1 },
        PaymentHeaderError::Base64,
        PaymentHeaderError::NotUtf8,
        PaymentHeaderError::NotJson { detail: text() },
        PaymentHeaderError::DuplicateKey { key: text() },
        PaymentHeaderError::KeySpelling {
            field: text(),
            found: text(),
        },
        PaymentHeaderError::TooDeep,
        PaymentHeaderError::TooManyKeys,
        PaymentHeaderError::NotObject,
        PaymentHeaderError::UnknownVersion { found: text() },
        PaymentHeaderError::V1InV2Header,
        PaymentHeaderError::Missing { field: text() },
        PaymentHeaderError::Invalid {
            field: text(),
            expected: "",
            found: text(),
        },
        PaymentHeaderError::NoAuthorization,
        PaymentHeaderError::TwoAuthorizations,
    ] {
        assert!(error.hint().len() > 20, "{error}");
        assert!(!error.to_string().ends_with('.'), "{error}");
    }
}

/// A valid payment with some of its bytes replaced, inserted or removed.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8, any::<u8>()), 0..6);
    (prop::sample::select(vec![V1, V2, PERMIT2]), edits).prop_map(|(text, edits)| {
        let mut bytes = text.as_bytes().to_vec();
        for (index, kind, byte) in edits {
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

proptest! {
    #[test]
    fn no_header_bytes_panic(bytes in prop::collection::vec(32..=255_u8, 0..200)) {
        let value = HeaderValue::from_bytes(&bytes);
        prop_assume!(value.is_ok());
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static(X_PAYMENT), value.expect("a value"))]);
        prop_assert!(read_payment(&headers, LIMIT).is_err());
    }

    /// Two decoders by different hands agree on what is base64, whole padding or none.
    #[test]
    fn base64_is_what_another_decoder_takes_for_it(
        text in "[-A-D+/_]{0,40}={0,3}|[-A-Za-z0-9+/_=]{0,70}", byte in any::<u8>(),
    ) {
        let mut text = text.into_bytes();
        for change in [false, true] {
            if change && let Some(last) = text.last_mut() {
                *last = byte;
            }
            let others = [
                &general_purpose::STANDARD,
                &general_purpose::STANDARD_NO_PAD,
                &general_purpose::URL_SAFE,
                &general_purpose::URL_SAFE_NO_PAD,
            ];
            let trimmed = text.trim_ascii();
            let theirs = others.iter().find_map(|engine| engine.decode(trimmed).ok());
            let expected = theirs.filter(|_| !trimmed.is_empty());
            match decode(&text, LIMIT) {
                Ok(found) => prop_assert_eq!(Some(found.into_bytes()), expected),
                Err(PaymentHeaderError::NotUtf8) => prop_assert!(expected.is_some()),
                Err(_) => prop_assert_eq!(None, expected),
            }
        }
    }

    #[test]
    fn no_decoded_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let value = HeaderValue::try_from(general_purpose::STANDARD.encode(&bytes)).expect("base64");
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static(X_PAYMENT), value)]);
        prop_assert!(read_payment(&headers, LIMIT).is_err());
    }

    #[test]
    fn no_mutation_of_a_payment_panics_and_what_still_reads_is_forwarded_unchanged(bytes in mutated()) {
        let value = HeaderValue::try_from(general_purpose::STANDARD.encode(&bytes)).expect("base64");
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static(X_PAYMENT), value)]);
        if let Ok(read) = read_payment(&headers, LIMIT) {
            let read = read.expect("present");
            prop_assert_eq!(read.json.as_bytes(), &bytes[..]);
            prop_assert_eq!(read.hash, sha256(&bytes));
        }
    }
}
