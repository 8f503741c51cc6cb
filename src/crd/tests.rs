//! The translation against compat 1.18 and 1.19, and against everything that is no offer at all.

use super::*;
use crate::offer::{Declared, Gate, Owner, Phase, Route, Withdrawal};
use crate::pricing::{FacilitatorSettings, Settings, Unmatched};
use crate::route::Target;
use crate::table::{Resolution, TableWriter, Update};
use kube::Resource;
use proptest::prelude::*;
use serde_json::{Value, json};

const SELLER: &str = "0x1111111111111111111111111111111111111111";
const OTHER: &str = "0x2222222222222222222222222222222222222222";
const BASE_USDC: &str = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913";

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

/// A sound offer as the API server completes it.
fn sound() -> Value {
    json!({
        "apiVersion": "obol.org/v1alpha1",
        "kind": "ServiceOffer",
        "metadata": {
            "namespace": "shop", "name": "llm", "uid": "u-1", "generation": 3,
            "resourceVersion": "42", "creationTimestamp": "2026-01-02T03:04:05Z",
        },
        "spec": {
            "type": "http",
            "upstream": {"service": "app", "namespace": "shop", "port": 8080, "healthPath": "/"},
            "payment": {
                "scheme": "exact", "network": "base", "payTo": SELLER,
                "maxTimeoutSeconds": 300, "price": {"perRequest": "0.001"},
            },
        },
    })
}

/// The sound offer with a value put in at a pointer; objects on the way are created.
fn with(pointer: &str, value: Value) -> Value {
    let mut object = sound();
    put(&mut object, pointer, value);
    object
}

fn put(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for step in pointer.split('/').skip(1) {
        at = match step.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[step],
        };
    }
    *at = value;
}

fn read(object: Value) -> Translated {
    translate(
        &ServiceOffer::from_json(object),
        &TranslateOptions::default(),
        now(),
    )
}

fn codes(offer: &Offer) -> Vec<&'static str> {
    let routes = offer.routes.iter().flat_map(|route| &route.problems);
    offer
        .problems
        .iter()
        .chain(routes)
        .map(|p| p.code)
        .collect()
}

fn patterns(offer: &Offer) -> Vec<&str> {
    offer.routes.iter().map(|route| &*route.pattern).collect()
}

fn price(route: &Route) -> Vec<(u64, u128)> {
    let terms = |o: &crate::offer::PaymentOption| (o.network.chain_id(), o.amount.0);
    route.options.iter().map(terms).collect()
}

/// Whether nothing below `path` is answered without a payment: some route covers all of it, and
/// every route is paid or broken.
fn is_gated(offer: &Offer, path: &str) -> bool {
    let whole = format!("{path}/*");
    let broken = !offer.problems.is_empty();
    let closed =
        |route: &Declared| broken || route.gate == Gate::Paid || !route.problems.is_empty();
    offer.routes.iter().any(|route| *route.pattern == *whole) && offer.routes.iter().all(closed)
}

#[test]
fn a_sound_offer_is_one_paid_route_below_its_path() {
    let Translated {
        offer,
        upstream_secret,
        next_change,
    } = read(sound());
    assert_eq!(codes(&offer), [""; 0]);
    assert_eq!((&*offer.namespace, &*offer.name), ("shop", "llm"));
    assert_eq!(
        (offer.uid.as_deref(), offer.generation),
        (Some("u-1"), Some(3))
    );
    assert_eq!(offer.created.unwrap().to_string(), "2026-01-02T03:04:05Z");
    assert_eq!(offer.owner(), Owner::Namespace("shop".into()));
    assert_eq!(offer.base_path.as_deref(), Some("/services/llm"));
    assert_eq!((&offer.hostname, &offer.phase), (&None, &Phase::Live));
    assert_eq!((upstream_secret, next_change), (None, None));
    let [route] = &*offer.routes else {
        panic!("{:?}", offer.routes)
    };
    assert_eq!(
        (&*route.pattern, route.gate),
        ("/services/llm/*", Gate::Paid)
    );
    let [option] = &*route.options else {
        panic!("{:?}", route.options)
    };
    assert_eq!((option.network.chain_id(), option.amount.0), (8453, 1000));
    assert_eq!(option.asset.checksummed(), BASE_USDC);
    assert_eq!(option.pay_to.to_string().to_lowercase(), SELLER);
    assert_eq!((option.max_timeout_seconds, &*option.price), (300, "0.001"));
}

#[test]
fn r3_an_offer_is_gated_whatever_its_status_says() {
    for status in [
        Value::Null,
        json!({"conditions": [{"type": "RoutePublished", "status": "False"}]}),
        json!({"conditions": "nonsense"}),
        json!(7),
    ] {
        let offer = read(with("/status", status)).offer;
        assert_eq!(patterns(&offer), ["/services/llm/*"]);
        assert_eq!(codes(&offer), [""; 0]);
    }
}

#[test]
fn paths_are_the_offers_own_or_named_after_it() {
    for (path, base) in [
        (json!("/shop"), "/shop"),
        (json!("/shop/v1/"), "/shop/v1"),
        (json!(""), "/services/llm"),
        (Value::Null, "/services/llm"),
        (json!("/"), "/"),
    ] {
        let offer = read(with("/spec/path", path)).offer;
        assert_eq!(codes(&offer), [""; 0]);
        assert_eq!(offer.base_path.as_deref(), Some(base));
        assert_eq!(
            patterns(&offer),
            [format!("{}/*", base.trim_end_matches('/'))]
        );
    }
}

#[test]
fn r3_a_path_that_cannot_be_used_is_closed_as_far_as_it_goes() {
    let deep = "/a".repeat(100);
    let long = format!("/a/b/{}", "x".repeat(5_000));
    for (path, base) in [
        ("shop", "/shop"),
        ("/shop/../other", "/shop/../other"),
        ("/shop//x", "/shop//x"),
        ("/shop/%2e", "/shop/%2e"),
        ("/shop/*", "/shop"),
        ("/shop?x=1", "/shop?x=1"),
        (&*deep, &"/a".repeat(30)),
        (&*long, "/a/b"),
    ] {
        let offer = read(with("/spec/path", json!(path))).offer;
        assert_eq!(offer.base_path.as_deref(), Some(base), "{path}");
        assert_eq!(codes(&offer), ["invalid_path"], "{path}");
        assert_eq!(patterns(&offer), [format!("{base}/*")], "{path}");
    }
}

#[test]
fn a_route_table_is_relative_to_the_path_and_exhaustive() {
    let routes = json!([
        {"path": "/", "gate": "free"},
        {"path": "/v1/*", "gate": "paid", "methods": ["POST"], "summary": "Ask"},
        {"path": "/models-*/info"},
        {"path": "/me", "gate": "auth"},
        {"path": "/docs", "gate": "", "price": {"perRequest": "", "perMTok": ""}},
    ]);
    let offer = read(with("/spec/routes", routes)).offer;
    assert_eq!(codes(&offer), [""; 0]);
    assert_eq!(
        patterns(&offer),
        [
            "/services/llm",
            "/services/llm/v1/*",
            "/services/llm/models-*/info",
            "/services/llm/me",
            "/services/llm/docs",
        ]
    );
    let gates: Vec<_> = offer.routes.iter().map(|route| route.gate).collect();
    assert_eq!(
        gates,
        [Gate::Free, Gate::Paid, Gate::Paid, Gate::Auth, Gate::Paid]
    );
    let options: Vec<_> = offer
        .routes
        .iter()
        .map(|route| route.options.len())
        .collect();
    assert_eq!(options, [0, 1, 1, 0, 1]);
    assert_eq!(offer.routes[1].description.as_deref(), Some("Ask"));
}

#[test]
fn a_route_with_a_price_of_its_own_is_sold_by_the_first_payment_alone() {
    let mut object = sound();
    let first = object["spec"]["payment"].clone();
    let mut second = first.clone();
    second["network"] = json!("eip155:84532");
    put(&mut object, "/spec/payments", json!([first, second]));
    put(
        &mut object,
        "/spec/routes",
        json!([{"path": "/a"}, {"path": "/b", "price": {"perRequest": "0.25"}}]),
    );
    let offer = read(object).offer;
    assert_eq!(codes(&offer), [""; 0]);
    assert_eq!(price(&offer.routes[0]), [(8453, 1_000), (84_532, 1_000)]);
    assert_eq!(price(&offer.routes[1]), [(8453, 250_000)]);
}

#[test]
fn price_models_become_the_price_of_one_request() {
    for (table, expected) in [
        (json!({"perRequest": "0.000001"}), Ok(1)),
        (json!({"perRequest": "$2"}), Ok(2_000_000)),
        (json!({"perMTok": "2.5"}), Ok(2_500)),
        (json!({"perRequest": "1", "perMTok": "9"}), Ok(1_000_000)),
        (json!({"perHour": "3"}), Ok(3_000_000)),
        (json!({"perMB": "0.5"}), Ok(500_000)),
        (json!({"perEpoch": "1"}), Err("invalid_price")),
        (json!({}), Err("invalid_price")),
        (json!({"perRequest": "0"}), Err("invalid_price")),
        (json!({"perRequest": "0,01"}), Err("invalid_price")),
        (json!({"perRequest": "0.0000001"}), Err("invalid_price")),
        (json!({"perMTok": "0.0001"}), Err("invalid_price")),
        (json!({"perRequest": "-1"}), Err("invalid_price")),
        (json!({"perRequest": "1e-3"}), Err("invalid_price")),
        (json!({"perRequest": 0.001}), Err("invalid_type")),
        (json!("0.001"), Err("invalid_type")),
    ] {
        let offer = read(with("/spec/payment/price", table.clone())).offer;
        match expected {
            Ok(amount) => assert_eq!(price(&offer.routes[0]), [(8453, amount)], "{table}"),
            Err(code) => {
                assert!(
                    codes(&offer).contains(&code),
                    "{table}: {:?}",
                    codes(&offer)
                );
                assert!(offer.routes[0].options.is_empty(), "{table}");
            }
        }
    }
}

#[test]
fn o7_a_recipient_is_the_sellers_own() {
    for (pay_to, code) in [
        (
            json!("0x0000000000000000000000000000000000000000"),
            "invalid_recipient",
        ),
        (json!(BASE_USDC), "invalid_recipient"),
        (json!("0x11"), "invalid_address"),
        (
            json!("1111111111111111111111111111111111111111"),
            "invalid_address",
        ),
        (json!(""), "invalid_recipient"),
        (Value::Null, "invalid_recipient"),
        (json!(1), "invalid_type"),
    ] {
        let offer = read(with("/spec/payment/payTo", pay_to.clone())).offer;
        assert!(
            codes(&offer).contains(&code),
            "{pay_to}: {:?}",
            codes(&offer)
        );
        assert!(is_gated(&offer, "/services/llm") && offer.routes[0].options.is_empty());
    }
}

#[test]
fn networks_and_tokens_are_known_or_described_in_full() {
    let token = json!({"address": OTHER, "symbol": "EURX", "decimals": 2, "eip712Name": "Euro",
                       "eip712Version": "1", "transferMethod": "permit2"});
    for (network, asset, expected) in [
        ("base-sepolia", json!({}), Ok((84_532, "USDC", 1_000))),
        (
            "EIP155:8453",
            json!({"symbol": "", "decimals": 0}),
            Ok((8453, "USDC", 1_000)),
        ),
        (
            "ethereum",
            json!({"symbol": "OBOL"}),
            Ok((1, "OBOL", 1_000_000_000_000_000)),
        ),
        ("base", token.clone(), Err("invalid_price")),
        ("solana", json!({}), Err("unknown_chain")),
        ("", json!({}), Err("unknown_chain")),
        ("eip155:31337", json!({}), Err("unknown_asset")),
        ("base", json!({"symbol": "DOGE"}), Err("unknown_asset")),
        ("base", json!({"decimals": 18}), Err("invalid_asset")),
        ("base", json!({"decimals": 255}), Err("invalid_asset")),
        (
            "base",
            json!({"transferMethod": "magic"}),
            Err("invalid_asset"),
        ),
        (
            "ethereum",
            json!({"symbol": "OBOL", "transferMethod": "eip3009"}),
            Err("invalid_asset"),
        ),
        ("base", json!({"address": "0x12"}), Err("invalid_address")),
        ("base", json!([]), Err("invalid_type")),
    ] {
        let mut object = with("/spec/payment/network", json!(network));
        put(&mut object, "/spec/payment/asset", asset.clone());
        let offer = read(object).offer;
        match expected {
            Ok((chain, symbol, amount)) => {
                let option = &offer.routes[0].options[0];
                let found = (
                    option.network.chain_id(),
                    &*option.asset.symbol,
                    option.amount.0,
                );
                assert_eq!(found, (chain, symbol, amount), "{asset}");
            }
            Err(code) => assert!(
                codes(&offer).contains(&code),
                "{asset}: {:?}",
                codes(&offer)
            ),
        }
    }
    let mut object = with("/spec/payment/asset", token);
    put(&mut object, "/spec/payment/price/perRequest", json!("1.5"));
    let offer = read(object).offer;
    assert_eq!(price(&offer.routes[0]), [(8453, 150)]);
    assert_eq!(
        offer.routes[0].options[0].asset.transfer.as_str(),
        "permit2"
    );
}

#[test]
fn max_timeout_is_the_fields_default_or_within_a_day() {
    for (seconds, expected) in [
        (Value::Null, 300),
        (json!(0), 600),
        (json!(-5), 600),
        (json!(1), 1),
        (json!(86_401), 86_400),
        (json!(i64::MAX), 86_400),
    ] {
        let offer = read(with("/spec/payment/maxTimeoutSeconds", seconds)).offer;
        assert_eq!(offer.routes[0].options[0].max_timeout_seconds, expected);
    }
}

#[test]
fn payments_are_the_truth_and_payment_equals_the_first() {
    let mut object = sound();
    let mut first = object["spec"]["payment"].clone();
    first["network"] = json!("eip155:8453");
    put(&mut object, "/spec/payments", json!([first]));
    let same = read(object.clone()).offer;
    assert_eq!(codes(&same), [""; 0], "another spelling is no difference");
    put(&mut object, "/spec/payments/0/payTo", json!(OTHER));
    let differs = read(object).offer;
    assert_eq!(codes(&differs), ["payment_mismatch"]);
    assert!(differs.routes[0].options.is_empty());
    let many = read(with("/spec/payments", json!(vec![json!({}); 17]))).offer;
    assert_eq!(codes(&many), ["invalid_payment"]);
}

#[test]
fn kinds_of_payment_that_are_not_ours_are_refused() {
    for (pointer, value) in [("method", "card"), ("scheme", "upto")] {
        let offer = read(with(&format!("/spec/payment/{pointer}"), json!(value))).offer;
        assert_eq!(codes(&offer), ["unsupported_method"]);
    }
}

#[test]
fn o3_an_offer_being_deleted_is_withdrawn_at_once() {
    for value in [
        json!("2026-11-21T11:59:00Z"),
        json!("2099-01-01T00:00:00Z"),
        json!("soon"),
    ] {
        let offer = read(with("/metadata/deletionTimestamp", value)).offer;
        assert_eq!(offer.phase, Phase::Withdrawn(Withdrawal::Deleting));
        assert_eq!(patterns(&offer), ["/services/llm/*"]);
    }
}

#[test]
fn a_drain_begins_at_its_time_and_ends_after_its_grace() {
    let until = |text: &str| Phase::Draining {
        until: text.parse().unwrap(),
    };
    for (at, grace, phase, next) in [
        (
            "2026-11-21T11:30:00Z",
            Value::Null,
            until("2026-11-21T12:30:00Z"),
            None,
        ),
        (
            "2026-11-21T13:30:00+02:00",
            json!("72h0m0s"),
            until("2026-11-24T11:30:00Z"),
            None,
        ),
        (
            "2026-11-21T11:30:00Z",
            json!("0s"),
            until("2026-11-21T11:30:00Z"),
            None,
        ),
        (
            "2026-11-21T11:30:00Z",
            json!("1h30m0.5s"),
            until("2026-11-21T13:00:00.5Z"),
            None,
        ),
        (
            "2026-11-22T00:00:00Z",
            Value::Null,
            Phase::Live,
            Some("2026-11-22T00:00:00Z"),
        ),
    ] {
        let mut object = with("/spec/drainAt", json!(at));
        put(&mut object, "/spec/drainGracePeriod", grace);
        let translated = read(object);
        assert_eq!(codes(&translated.offer), [""; 0]);
        assert_eq!(translated.offer.phase, phase);
        assert_eq!(
            translated.next_change,
            next.map(|text| text.parse().unwrap())
        );
    }
    for (key, value) in [
        ("drainAt", "tomorrow"),
        ("drainGracePeriod", "-1h"),
        ("drainGracePeriod", "1 fortnight"),
    ] {
        let offer = read(with(&format!("/spec/{key}"), json!(value))).offer;
        assert_eq!(codes(&offer), ["invalid_drain"], "{key} {value}");
    }
}

#[test]
fn the_predecessors_pause_withdraws_until_it_is_taken_back() {
    for (value, phase) in [
        ("true", Phase::Withdrawn(Withdrawal::Paused)),
        ("True", Phase::Withdrawn(Withdrawal::Paused)),
        ("false", Phase::Live),
        ("", Phase::Live),
    ] {
        let offer = read(with(
            "/metadata/annotations",
            json!({PAUSED_ANNOTATION: value}),
        ))
        .offer;
        assert_eq!(offer.phase, phase, "{value}");
    }
    assert_eq!(
        read(with("/spec/paused", json!(true))).offer.phase,
        Phase::Withdrawn(Withdrawal::Paused)
    );
}

#[test]
fn o6_an_upstream_is_of_the_offers_own_namespace_or_allowed() {
    for pointer in ["/spec/upstream/namespace", "/spec/agent"] {
        let value = match pointer {
            "/spec/agent" => json!({"ref": {"name": "a", "namespace": "vault"}}),
            _ => json!("vault"),
        };
        let object = ServiceOffer::from_json(with(pointer, value));
        let mut options = TranslateOptions::default();
        let offer = translate(&object, &options, now()).offer;
        assert_eq!(codes(&offer), ["foreign_upstream"]);
        options.foreign_upstreams.push(ForeignUpstream {
            offer_namespace: "shop".to_owned(),
            upstream_namespace: "vault".to_owned(),
        });
        assert_eq!(codes(&translate(&object, &options, now()).offer), [""; 0]);
    }
    let empty = json!({"service": "", "namespace": "", "port": 0});
    assert_eq!(codes(&read(with("/spec/upstream", empty)).offer), [""; 0]);
}

#[test]
fn a_hostname_binds_only_where_the_operator_bound_it() {
    let object = ServiceOffer::from_json(with("/spec/hostname", json!("API.Example.com.")));
    let mut options = TranslateOptions::default();
    assert_eq!(translate(&object, &options, now()).offer.hostname, None);
    options.bound_hosts.insert("api.example.com".into());
    let offer = translate(&object, &options, now()).offer;
    assert_eq!(offer.hostname.as_deref(), Some("api.example.com"));
    for host in ["https://x", "a b", "x:80", "-x.com", "x..com", "*.com"] {
        let offer = read(with("/spec/hostname", json!(host))).offer;
        assert_eq!(codes(&offer), ["invalid_hostname"], "{host}");
    }
}

#[test]
fn an_upstream_secret_is_named_listed_and_attached() {
    let named = |name: &str| {
        read(with(
            "/metadata/annotations",
            json!({UPSTREAM_SECRET_ANNOTATION: name}),
        ))
    };
    let unlisted = named("litellm-secrets");
    assert_eq!(
        (unlisted.upstream_secret, codes(&unlisted.offer)),
        (None, vec!["upstream_secret"])
    );
    let translated = named(DEFAULT_UPSTREAM_SECRET);
    assert_eq!(translated.upstream_secret.as_deref(), Some("x402-upstream"));
    let attach = |found| {
        let mut translated = translated.clone();
        translated.attach_upstream_auth(found);
        translated.offer
    };
    let offer = attach(Ok("Bearer s3cret\n".into()));
    assert_eq!(
        offer.routes[0]
            .upstream_auth
            .as_ref()
            .unwrap()
            .expose_secret(),
        "Bearer s3cret"
    );
    assert_eq!(codes(&offer), [""; 0]);
    for found in [
        Err(UpstreamSecretError::Missing),
        Ok("Bearer s3cret\nX: y".into()),
        Ok(" ".into()),
    ] {
        let offer = attach(found);
        assert_eq!(codes(&offer), ["upstream_secret"]);
        assert!(offer.routes[0].upstream_auth.is_none());
        assert!(!offer.problems[0].message.contains("s3cret"), "R13");
    }
}

#[test]
fn o2_no_offer_passes_for_the_operators_or_for_older_than_it_is() {
    let mut object = sound();
    object["metadata"] = json!({"namespace": "shop", "name": "llm"});
    let offer = read(object).offer;
    assert_eq!(offer.uid.as_deref(), Some("shop/llm"));
    assert_eq!(offer.created, Some(now()));
}

#[test]
fn an_object_is_read_whatever_surrounds_and_however_deep_it_is() {
    let mut text = serde_json::to_string(&sound()).unwrap();
    let deep = format!("{}1{}", "{\"a\":[".repeat(5_000), "]}".repeat(5_000));
    text.insert_str(text.len() - 1, &format!(",\"more\":{deep}"));
    let fields = format!("\"metadata\":{{\"managedFields\":{deep},");
    let text = text.replacen("\"metadata\":{", &fields, 1);
    let list = format!("[{text},{}]", sound());
    let list: Vec<ServiceOffer> = serde_json::from_str(&list).unwrap();
    assert_eq!(list[0], list[1]);
    let object = &list[0];
    assert_eq!(object.meta().resource_version.as_deref(), Some("42"));
    assert_eq!(
        ServiceOffer::url_path(&(), Some("shop")),
        "/apis/obol.org/v1alpha1/namespaces/shop/serviceoffers"
    );
    assert_eq!(object, &ServiceOffer::from_json(sound()));
}

#[test]
fn r3_every_field_of_a_wrong_type_leaves_the_path_gated() {
    let wrong = [
        json!(7),
        json!(true),
        json!("\u{0}nonsense"),
        json!([[]]),
        json!({"x": {}}),
        Value::Null,
    ];
    let fields = [
        "",
        "/path",
        "/hostname",
        "/upstream",
        "/upstream/namespace",
        "/agent",
        "/agent/ref",
        "/payment",
        "/payment/scheme",
        "/payment/network",
        "/payment/payTo",
        "/payment/price",
        "/payment/price/perRequest",
        "/payment/asset",
        "/payment/asset/decimals",
        "/payment/asset/address",
        "/payment/maxTimeoutSeconds",
        "/payments",
        "/routes",
        "/registration",
        "/registration/description",
        "/drainAt",
        "/drainGracePeriod",
        "/type",
        "/model",
        "/branding",
        "/limits",
    ];
    for field in fields {
        for value in &wrong {
            let offer = read(with(&format!("/spec{field}"), value.clone())).offer;
            let base = offer.base_path.as_deref().unwrap();
            assert!(is_gated(&offer, base), "{field} {value}: {offer:?}");
            if field != "/path" {
                assert_eq!(base, "/services/llm", "{field} {value}");
            }
        }
    }
    for field in ["", "/path", "/gate", "/price", "/price/perRequest"] {
        for value in &wrong {
            let mut object = with(
                "/spec/routes",
                json!([{"path": "/a", "gate": "free"}, {"path": "/b", "price": {}}]),
            );
            put(
                &mut object,
                &format!("/spec/routes/1{field}"),
                value.clone(),
            );
            let offer = read(object).offer;
            let route = &offer.routes[1];
            assert_eq!(route.gate, Gate::Paid, "{field} {value}");
            assert!(
                !route.problems.is_empty() || !route.options.is_empty(),
                "{field} {value}"
            );
            assert!(
                offer.routes[0].problems.is_empty(),
                "R3: it harms no other route"
            );
        }
    }
}

/// What a table of this one offer, without a managed prefix and with `unmatched: allow`, does with a
/// request: everything that is not declared is free there.
fn ask(offer: Offer, path: &str) -> String {
    let (mut writer, reader) = TableWriter::new();
    let settings = Settings {
        unmatched: Unmatched::Allow,
        managed_prefixes: Vec::new(),
        facilitator: "https://facilitator.example".into(),
        facilitators: [(
            "https://facilitator.example".into(),
            FacilitatorSettings::default(),
        )]
        .into(),
        ..Settings::default()
    };
    let document = Update::Document {
        settings: Box::new(settings),
        offers: Vec::new(),
    };
    writer.apply(document, now());
    writer.apply(
        Update::Offers {
            source: "kube",
            offers: vec![Arc::new(offer)],
        },
        now(),
    );
    let table = reader.load();
    let target = Target::parse(path, None).unwrap();
    match table
        .resolve(&target, Some("api.example.com"), None, now())
        .resolution
    {
        Resolution::Route(route) => format!("{:?} {:?}", route.gate, route.state),
        other @ (Resolution::Closed
        | Resolution::NoRoute
        | Resolution::Unmatched
        | Resolution::UnknownPin
        | Resolution::Ambiguous) => format!("{other:?}"),
    }
}

#[test]
fn r3_no_field_of_a_wrong_type_opens_the_path_in_a_table() {
    let live = with("/spec/path", json!("/shop/llm"));
    assert_eq!(ask(read(live.clone()).offer, "/shop/llm/x"), "Paid Live");
    assert_eq!(ask(read(live.clone()).offer, "/elsewhere"), "Unmatched");
    for field in [
        "/hostname",
        "/upstream",
        "/payment",
        "/payment/network",
        "/payment/price",
        "/payment/asset",
        "/payments",
        "/routes",
        "/drainAt",
        "/drainGracePeriod",
        "/paused",
        "/registration",
    ] {
        for value in [
            json!(7),
            json!("?"),
            json!([7]),
            json!({"x": 7}),
            Value::Null,
        ] {
            let mut object = live.clone();
            put(&mut object, &format!("/spec{field}"), value.clone());
            let answer = ask(read(object).offer, "/shop/llm/x");
            assert!(
                ["Paid Live", "Paid Misconfigured", "Paid Withdrawn"].contains(&&*answer),
                "{field} {value}: {answer}"
            );
        }
    }
    for path in [
        "/shop/llm//x",
        "/shop/llm/../x",
        "/shop/llm/*/x",
        "/shop/llm/%zz",
        "shop/llm",
        "/shop/llm?x",
    ] {
        let answer = ask(read(with("/spec/path", json!(path))).offer, "/shop/llm/x");
        assert!(answer.starts_with("Paid Misconfigured"), "{path}: {answer}");
    }
    let deep = "/a".repeat(100);
    let answer = ask(
        read(with("/spec/path", json!(deep))).offer,
        &format!("{deep}/x"),
    );
    assert_eq!(answer, "Paid Misconfigured");
}

#[test]
fn r3_a_bad_route_closes_itself_and_an_unreadable_one_the_whole_path() {
    let routes = |second: Value| {
        with(
            "/spec/routes",
            json!([{"path": "/open", "gate": "free"}, second]),
        )
    };
    for (second, open, other) in [
        (json!({"path": "/v1/*"}), "Free Live", "NoRoute"),
        (
            json!({"path": "/v1/*", "gate": "cheap"}),
            "Free Live",
            "NoRoute",
        ),
        (json!({"path": 7}), "Free Live", "Paid Misconfigured"),
        (json!("/v1/*"), "Free Live", "Paid Misconfigured"),
    ] {
        let offer = || read(routes(second.clone())).offer;
        assert_eq!(ask(offer(), "/services/llm/open"), open, "{second}");
        assert_eq!(ask(offer(), "/services/llm/other"), other, "{second}");
    }
}

#[test]
fn every_code_of_the_translation_has_a_reason_of_its_own_meaning() {
    let names: std::collections::HashSet<_> = Reason::ALL.map(Reason::as_str).into();
    assert_eq!(names.len(), Reason::ALL.len());
    assert_eq!(Reason::of("invalid_price"), Reason::InvalidPrice);
    assert_eq!(Reason::of("PathConflict").as_str(), "PathConflict");
    assert_eq!(Reason::of("never heard of"), Reason::InvalidSpec);
    assert!(Reason::ALL.is_sorted(), "the greatest is reported");
}

/// Any JSON, with the words of the kind among its keys so that it gets past the first look.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "path",
        "payment",
        "payments",
        "routes",
        "gate",
        "free",
        "price",
        "perRequest",
        "network",
        "base",
        "payTo",
        "asset",
        "decimals",
        "hostname",
        "drainAt",
        "upstream",
        "namespace",
        "/services/llm",
        "/",
        "/*",
        "0.1",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,40}".prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(word.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn r3_no_json_panics_and_every_offer_closes_the_path_it_names(spec in any_json(), meta in any_json()) {
        let named = spec.get("path").and_then(Value::as_str).map(str::trim).unwrap_or_default();
        let mut object = json!({"metadata": {"name": "llm", "namespace": "shop"}, "spec": spec.clone()});
        let offer = read(object.clone()).offer;
        let base = offer.base_path.clone().unwrap();
        prop_assert!(base.starts_with('/'));
        let usual = named.is_empty();
        prop_assert!(!usual || &*base == "/services/llm");
        prop_assert!(!offer.routes.is_empty());
        for route in &offer.routes {
            let below = route.pattern.strip_prefix(base.trim_end_matches('/'));
            prop_assert!(below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')), "{}", route.pattern);
            prop_assert!(route.gate != Gate::Paid || !route.problems.is_empty() || !route.options.is_empty());
        }
        put(&mut object, "/metadata", meta);
        let text = serde_json::to_string(&object).unwrap();
        let again: ServiceOffer = serde_json::from_str(&text).unwrap();
        prop_assert!(!translate(&again, &TranslateOptions::default(), now()).offer.routes.is_empty());
    }

    #[test]
    fn a_price_is_exact_or_refused(text in "[0-9]{0,9}(\\.[0-9]{0,9})?") {
        let offer = read(with("/spec/payment/price/perRequest", json!(text))).offer;
        match crate::money::parse_price(&text, 6) {
            Ok(amount) => prop_assert_eq!(price(&offer.routes[0]), [(8453, amount.0)]),
            Err(_) => prop_assert!(offer.routes[0].options.is_empty() && !codes(&offer).is_empty()),
        }
    }
}
