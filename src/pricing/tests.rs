//! Findings by line and column, what they close, and what a sound document becomes.

use super::*;
use crate::money::Amount;
use crate::offer::{Gate, Offer, Owner, Route, Settle};
use alloy_primitives::address;
use proptest::prelude::*;
use secrecy::ExposeSecret;
use std::time::Instant;

const WALLET: &str = "0x1111111111111111111111111111111111111111";

fn document(text: &str) -> Document {
    parse(text, "pricing.yaml", Path::new("/nonexistent")).expect("a usable document")
}

fn refused(text: &str) -> Vec<Finding> {
    parse(text, "pricing.yaml", Path::new("/nonexistent"))
        .expect_err("an unusable document")
        .findings
}

fn routes(document: &Document) -> Vec<&Route> {
    document
        .offers
        .iter()
        .flat_map(|o| &o.routes)
        .map(|declared| &*declared.route)
        .collect()
}

/// A document with a wallet, a facilitator, and one route with these lines.
fn route_with(lines: &str) -> Document {
    let lines = lines.replace('\n', "\n    ");
    document(&format!(
        "wallet: \"{WALLET}\"\nfacilitatorURL: https://f.example\nroutes:\n  - pattern: /a/*\n    {lines}\n"
    ))
}

fn only(document: &Document) -> &Route {
    let routes = routes(document);
    assert_eq!(routes.len(), 1);
    routes[0]
}

/// `severity code line:column path`, as the tables below write it.
fn brief(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    format!(
        "{severity} {} {}:{} {}",
        finding.code, finding.line, finding.column, finding.path
    )
}

fn briefs(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(brief).collect()
}

#[test]
fn the_predecessors_document_is_read_as_it_is() {
    let text = "\
wallet: '0x1111111111111111111111111111111111111111'
chain: base-sepolia
facilitatorURL: https://x402.org/facilitator/
verifyOnly: false
routes:
  - pattern: /services/app/*
    price: \"0.10\"
    description: An app
    offerNamespace: llm
    offerName: app
    agentSkills: [a, b]
    branding: {title: x}
  - pattern: /services/app/cheap
    price: 0.001
    offerNamespace: llm
    offerName: app
    payments:
  - pattern: /rpc/*
    payments:
      - {price: '$0.5', network: base, payTo: '0x2222222222222222222222222222222222222222', maxTimeoutSeconds: 60}
      - {price: '1', network: ethereum, assetSymbol: OBOL}
  - pattern: /free
    gate: free
";
    let document = document(text);
    assert_eq!(briefs(&document.findings), Vec::<String>::new());
    assert_eq!(document.offers.len(), 2, "named and unnamed routes");
    let app = &document.offers[0];
    assert_eq!((&*app.namespace, &*app.name), ("llm", "app"));
    assert_eq!((app.owner(), &app.base_path), (Owner::Operator, &None));
    assert_eq!(app.routes.len(), 2);
    let first = &app.routes[0];
    assert_eq!(first.options[0].amount, Amount(100_000));
    assert_eq!(&*first.options[0].price, "0.1");
    assert_eq!(first.options[0].network.chain_id(), 84532);
    assert_eq!(first.options[0].max_timeout_seconds, 600);
    assert_eq!(first.settle, Settle::Before);
    assert_eq!(&*first.facilitator, "https://x402.org/facilitator");
    assert_eq!(first.at.as_ref().unwrap().to_string(), "pricing.yaml:6:5");
    assert_eq!(app.routes[1].options[0].amount, Amount(1_000));
    assert!(Arc::ptr_eq(
        &first.options[0].asset,
        &app.routes[1].options[0].asset
    ));
    let unnamed: &Offer = &document.offers[1];
    assert_eq!((&*unnamed.namespace, &*unnamed.name), ("", ""));
    let rpc = &unnamed.routes[0];
    assert_eq!(rpc.options[0].amount, Amount(500_000));
    assert_eq!(rpc.options[0].max_timeout_seconds, 60);
    assert_eq!(
        rpc.options[0].pay_to,
        address!("2222222222222222222222222222222222222222")
    );
    assert_eq!(rpc.options[1].amount, Amount(10u128.pow(18)));
    assert_eq!(&*rpc.options[1].asset.symbol, "OBOL");
    assert_eq!(
        rpc.options[1].pay_to,
        address!("1111111111111111111111111111111111111111")
    );
    assert_eq!(unnamed.routes[1].gate, Gate::Free);
    assert!(unnamed.routes[1].options.is_empty());
    assert_eq!(
        document
            .settings
            .facilitators
            .keys()
            .map(|k| &**k)
            .collect::<Vec<_>>(),
        ["https://x402.org/facilitator"]
    );
}

#[test]
fn every_setting_of_ours_is_read() {
    let text = "\
unmatched: allow
managedPrefixes: [/services, /paid/x/]
pathOwners:
  - {prefix: /services/acme/, namespaces: [acme]}
  - host: API.acme.example
    namespaces:
      - acme
      - acme-test
trustedProxies: [10.42.0.7/16, '::1', 192.0.2.1]
headerSource: x-original
publicOrigin: https://API.example.com/
settle: after
eoaOnly: true
validitySlack: 1m30s
closedPathRetention: 7d
closedPathsPerNamespace: 5
catalogURL: https://example.com/catalog
serviceName: My service
limits: {paymentHeaderBytes: 2048, permitsPerFacilitator: 1, permitsPerOffer: 2, permitsUnrecovered: 3, verifyRatePerPayer: 4, verifyRatePerOffer: 5, maxUnsettledPerPayer: 6}
timeouts: {answer: 20s, facilitatorConnect: 500ms, verify: 2s, settle: 1m, settleFloor: 4s}
metrics: {perOffer: active, prefix: obol_x402_verifier}
facilitatorURL: http://localhost:4021
routes:
  - {pattern: /a, price: '1', payTo: '0x2222222222222222222222222222222222222222'}
  - {pattern: /b, price: '1', payTo: '0x2222222222222222222222222222222222222222', settle: before, eoaOnly: false, preflight: pass, facilitatorURL: 'https://other.example/'}
";
    let document = document(text);
    assert_eq!(
        briefs(&document.findings),
        ["warning settle_after 12:9 settle"]
    );
    let s = &document.settings;
    assert_eq!(s.unmatched, Unmatched::Allow);
    assert_eq!(
        s.managed_prefixes.iter().map(|p| &**p).collect::<Vec<_>>(),
        ["/services/", "/paid/x/"]
    );
    assert_eq!(s.path_owners[0].prefix.as_deref(), Some("/services/acme"));
    assert_eq!(s.path_owners[1].host.as_deref(), Some("api.acme.example"));
    assert_eq!(s.path_owners[1].namespaces.len(), 2);
    assert_eq!(
        s.trusted_proxies
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["10.42.0.0/16", "::1/128", "192.0.2.1/32"]
    );
    assert_eq!(s.header_source, HeaderSource::XOriginal);
    assert_eq!(s.public_origin.as_deref(), Some("https://api.example.com"));
    assert_eq!(s.validity_slack, Duration::from_secs(90));
    assert_eq!(s.closed_path_retention, Duration::from_secs(604_800));
    assert_eq!(s.closed_paths_per_namespace, 5);
    assert_eq!(
        s.catalog_url.as_deref(),
        Some("https://example.com/catalog")
    );
    assert_eq!(s.service_name.as_deref(), Some("My service"));
    assert_eq!(
        s.limits,
        Limits {
            payment_header_bytes: 2048,
            permits_per_facilitator: 1,
            permits_per_offer: 2,
            permits_unrecovered: 3,
            verify_rate_per_payer: 4,
            verify_rate_per_offer: 5,
            max_unsettled_per_payer: 6,
        }
    );
    assert_eq!(
        s.timeouts,
        Timeouts {
            answer: Duration::from_secs(20),
            facilitator_connect: Duration::from_millis(500),
            verify: Duration::from_secs(2),
            settle: Duration::from_secs(60),
            settle_floor: Duration::from_secs(4),
        }
    );
    assert_eq!(s.metrics_per_offer, PerOffer::Active);
    assert_eq!(&*s.metrics_prefix, "obol_x402_verifier");
    assert_eq!(s.facilitators.len(), 2);
    let routes = routes(&document);
    assert_eq!(
        (routes[0].settle, routes[0].eoa_only),
        (Settle::After, true)
    );
    assert_eq!(
        (routes[1].settle, routes[1].eoa_only),
        (Settle::Before, false)
    );
    assert!(routes[1].preflight_pass && !routes[0].preflight_pass);
    assert_eq!(&*routes[1].facilitator, "https://other.example");
}

#[test]
fn everything_wrong_is_reported_at_once_with_its_place() {
    let text = "\
wallet: \"0x1111111111111111111111111111111111111111\"
facilitatorURL: https://f.example
wallett: x
routes:
  - pattern: /a
    price: 1e-3
    payTo: \"0x0000000000000000000000000000000000000000\"
    gate: payed
    network: solana
  - pattern: /sound
    price: \"0.01\"
  - pattern: /b
    prise: \"1\"
    price: \"1\"
    price: \"2\"
  - pattern: /c
    payments:
      - price: \"0\"
      - price: [1]
        network: base
";
    let document = document(text);
    assert_eq!(
        briefs(&document.findings),
        [
            "warning unknown_key 3:1 wallett",
            "error invalid_price 6:12 routes[0].price",
            "error invalid_recipient 7:12 routes[0].payTo",
            "error invalid_gate 8:11 routes[0].gate",
            "error unknown_chain 9:14 routes[0].network",
            "warning unknown_key 13:5 routes[2].prise",
            "error duplicate_key 15:5 routes[2].price",
            "error invalid_price 18:16 routes[3].payments[0].price",
            "error invalid_type 19:16 routes[3].payments[1].price",
        ]
    );
    assert_eq!(
        document.findings[0].hint.as_deref(),
        Some("did you mean wallet?")
    );
    assert_eq!(
        document.findings[3].message,
        "gate is \"payed\": write paid or free or auth"
    );
    // R3: each bad route is closed, keeps its pattern, and the sound one is untouched.
    let routes = routes(&document);
    let closed: Vec<(&str, usize)> = routes
        .iter()
        .map(|r| (&*r.pattern, r.problems.len()))
        .collect();
    assert_eq!(closed, [("/a", 4), ("/sound", 0), ("/b", 1), ("/c", 2)]);
    assert_eq!(routes[0].gate, Gate::Paid, "a misspelt gate never opens");
    assert_eq!(routes[0].problems[0].code, "invalid_price");
}

#[test]
fn a_bad_setting_refuses_the_document() {
    for (text, expected) in [
        ("unmatched: alow", "error invalid_unmatched 1:12 unmatched"),
        ("unmatched: ''", "error invalid_unmatched 1:12 unmatched"),
        (
            "trustedProxies: [10.0.0.0/33]",
            "error invalid_network 1:18 trustedProxies[0]",
        ),
        (
            "trustedProxies: 10.0.0.0/8",
            "error invalid_type 1:17 trustedProxies",
        ),
        ("trustedProxies:", "error invalid_type 1:1 trustedProxies"),
        ("chain: solana", "error unknown_chain 1:8 chain"),
        ("wallet: 0x12", "error invalid_address 1:9 wallet"),
        (
            "wallet: '0x0000000000000000000000000000000000000000'",
            "error invalid_recipient 1:9 wallet",
        ),
        (
            "facilitatorURL: http://x402.org",
            "error invalid_facilitator_url 1:17 facilitatorURL",
        ),
        ("verifyOnly: yes", "error invalid_bool 1:13 verifyOnly"),
        (
            "validitySlack: 90",
            "error invalid_duration 1:16 validitySlack",
        ),
        (
            "validitySlack: 30d",
            "error invalid_duration 1:16 validitySlack",
        ),
        (
            "limits: {permitsPerOffer: 0}",
            "error invalid_number 1:27 limits.permitsPerOffer",
        ),
        (
            "timeouts: {answer: 5s}",
            "error contradiction 1:11 timeouts",
        ),
        (
            "metrics: {prefix: 9lives}",
            "error invalid_prefix 1:19 metrics.prefix",
        ),
        (
            "managedPrefixes: [/a/*]",
            "error invalid_prefix 1:19 managedPrefixes[0]",
        ),
        (
            "managedPrefixes: [/a/../b]",
            "error invalid_prefix 1:19 managedPrefixes[0]",
        ),
        (
            "pathOwners: [{prefix: /a, host: b, namespaces: [c]}]",
            "error invalid_path_owner 1:14 pathOwners[0]",
        ),
        (
            "pathOwners: [{prefix: /a}]",
            "error invalid_path_owner 1:14 pathOwners[0].namespaces",
        ),
        (
            "serviceName: a name that is longer than is allowed",
            "error invalid_service_name 1:14 serviceName",
        ),
        (
            "publicOrigin: https://a/b",
            "error invalid_origin 1:15 publicOrigin",
        ),
        (
            "verifySecretFile: none",
            "error invalid_secret_file 1:19 verifySecretFile",
        ),
        ("settle: later", "error invalid_settle 1:9 settle"),
        ("routes: x", "error invalid_type 1:9 routes"),
        ("routes: [x]", "error invalid_type 1:10 routes[0]"),
        ("chain: base\nchain: base", "error duplicate_key 2:1 chain"),
        ("- a", "error invalid_type 1:1 "),
    ] {
        let findings = refused(text);
        assert_eq!(briefs(&findings), [expected], "{text}");
    }
}

#[test]
fn a_text_that_is_no_document_is_refused() {
    for (text, code) in [
        ("", "empty_document"),
        ("# nothing\n", "empty_document"),
        ("---\n", "empty_document"),
        ("a: [1", "syntax"),
        ("a: \"x", "syntax"),
        ("a: 1\n b: 2", "syntax"),
        ("a: &x 1\nb: *x", "alias"),
        ("a: *x", "alias"),
        ("a: &x {b: *x}", "alias"),
        ("a: !secret x", "tag"),
        ("a: 1\n---\nb: 1", "several_documents"),
        ("? [a]\n: b", "invalid_key"),
        ("{[a]: b}", "invalid_key"),
        ("~: b", "invalid_key"),
    ] {
        let findings = refused(text);
        assert_eq!(findings.len(), 1, "{text}");
        assert_eq!(findings[0].code, code, "{text}: {}", findings[0].message);
    }
    let deep = "[".repeat(40);
    assert_eq!(refused(&format!("a: {deep}"))[0].code, "syntax");
    let deep = "{a: ".repeat(40) + &"}".repeat(40);
    assert!(matches!(refused(&deep)[0].code, "syntax" | "too_deep"));
    let error = parse("a: [1", "p.yaml", Path::new(".")).expect_err("not YAML");
    assert_eq!(
        error.to_string(),
        "the pricing document cannot be used: line 1, column 4: not valid YAML: unclosed bracket '['"
    );
}

#[test]
fn r3_a_route_that_names_no_path_refuses_the_document() {
    for (route, code) in [
        ("{price: '1'}", "missing_pattern"),
        ("{pattern: '', price: '1'}", "missing_pattern"),
        ("{pattern: , price: '1'}", "missing_pattern"),
        ("{pattern: [/a], price: '1'}", "invalid_type"),
        ("{pattern: '/[a*/b', price: '1'}", "invalid_pattern"),
        ("{pattern: '/a b', price: '1'}", "invalid_pattern"),
        ("{pattern: '//a', price: '1'}", "invalid_pattern"),
        ("{pattern: '*', price: '1'}", "invalid_pattern"),
        ("{pattern: 'https://h/a', price: '1'}", "invalid_pattern"),
        ("{pattern: /a, pattern: /b, price: '1'}", "duplicate_key"),
    ] {
        let text =
            format!("wallet: '{WALLET}'\nfacilitatorURL: https://f.example\nroutes: [{route}]");
        let findings = refused(&text);
        assert_eq!(findings.len(), 1, "{route}: {:?}", briefs(&findings));
        assert_eq!(findings[0].code, code, "{route}");
    }
}

#[test]
fn r3_a_broken_pattern_with_a_literal_prefix_closes_it() {
    for (written, kept) in [
        ("rpc/*", "/rpc/*"),
        ("/rpc/[a*", "/rpc/[a*"),
        ("/rpc/x\\", "/rpc/x\\"),
        ("/rpc/a?x=1", "/rpc/a?x=1"),
        ("/rpc//x/*", "/rpc//x/*"),
        ("/rpc/../x", "/rpc/../x"),
        ("/rpc/%zz", "/rpc/%zz"),
        ("/rpc/**", "/rpc/**"),
    ] {
        let text = format!(
            "wallet: '{WALLET}'\nfacilitatorURL: https://f.example\nroutes: [{{pattern: '{written}', price: '1'}}]"
        );
        let document = document(&text);
        let route = only(&document);
        assert_eq!(&*route.pattern, kept);
        assert_eq!(route.problems[0].code, "invalid_pattern", "{written}");
    }
    for sound in [
        "/", "/*", "/a/", "/a/*/b", "/a/*[!x]", "/a/[x", "/a*/\\*", "/a*/b?", "/*/b/*", "/a/*/",
    ] {
        let text = format!(
            "wallet: '{WALLET}'\nfacilitatorURL: https://f.example\nroutes: [{{pattern: '{sound}', price: '1'}}]"
        );
        assert_eq!(document(&text).findings, Vec::new(), "{sound}");
    }
}

#[test]
fn p26_a_price_is_exact_or_refused_by_name() {
    for (price, units) in [
        ("0.001", 1_000),
        ("\"$0.001\"", 1_000),
        ("0.10", 100_000),
        ("1", 1_000_000),
        ("'0.000001'", 1),
    ] {
        let document = route_with(&format!("price: {price}"));
        assert_eq!(document.findings, Vec::new(), "{price}");
        assert_eq!(only(&document).options[0].amount, Amount(units), "{price}");
    }
    for (price, word) in [
        ("\"\"", "empty"),
        ("0", "zero"),
        ("0x00", "\"0x00\""),
        ("-1", "negative"),
        ("0,01", "comma"),
        ("1e-3", "exponent"),
        ("0.0000001", "decimals"),
        (".inf", "\".inf\""),
    ] {
        let document = route_with(&format!("price: {price}"));
        let route = only(&document);
        assert_eq!(document.findings.len(), 1, "{price}");
        assert_eq!(route.problems.len(), 1, "{price}");
        assert_eq!(route.problems[0].code, "invalid_price", "{price}");
        let message = &route.problems[0].message;
        assert!(message.contains(word), "{price}: {message}");
        assert!(route.options.is_empty(), "{price}");
    }
}

#[test]
fn price_models_are_read_as_compat_says() {
    for (lines, units, warnings) in [
        ("priceModel: perRequest\nprice: '0.5'", 500_000, 0),
        ("priceModel: perMTok\nperMTok: '2.5'", 2_500, 0),
        ("perMTok: '2.5'\napproxTokensPerRequest: 1000", 2_500, 0),
        ("perMTok: '1000'", 1_000_000, 0),
        ("perMTok: '2.5'\napproxTokensPerRequest: 50", 2_500, 1),
        ("price: '0.0025'\nperMTok: '2.5'", 2_500, 0),
        ("price: '1'\nperMTok: '2.5'", 1_000_000, 1),
        ("priceModel: perHour\nprice: '1'", 1_000_000, 1),
        ("priceModel: perMB\nprice: '1'", 1_000_000, 1),
    ] {
        let document = route_with(lines);
        let route = only(&document);
        assert_eq!(*route.problems, [], "{lines}");
        assert_eq!(route.options[0].amount, Amount(units), "{lines}");
        assert_eq!(document.findings.len(), warnings, "{lines}");
    }
    for (lines, code) in [
        (
            "priceModel: perEpoch\nprice: '1'",
            "unsupported_price_model",
        ),
        ("priceModel: perMTok\nperMTok: '0.0005'", "invalid_price"),
        ("priceModel: perMTok\nperMTok: 1e3", "invalid_price"),
        ("priceModel: perRequest\nperMTok: '1'", "invalid_price"),
        ("priceModel: perDay\nprice: '1'", "invalid_price_model"),
        ("description: nothing to pay", "invalid_price"),
    ] {
        let document = route_with(lines);
        let codes: Vec<&str> = only(&document).problems.iter().map(|p| p.code).collect();
        assert_eq!(codes, [code], "{lines}");
    }
}

#[test]
fn p28_an_unknown_token_is_described_in_full_or_refused() {
    const TOKEN: &str = "assetAddress: '0x3333333333333333333333333333333333333333'";
    let full = format!(
        "price: '3'\n{TOKEN}\nassetSymbol: TKN\nassetDecimals: 0\neip712Name: Token\neip712Version: '1'"
    );
    let document = route_with(&full);
    let option = &only(&document).options[0];
    assert_eq!((option.amount, option.asset.decimals), (Amount(3), 0));
    assert_eq!(&*option.asset.eip712_version, "1");
    for missing in [
        "assetSymbol",
        "assetDecimals",
        "eip712Name",
        "eip712Version",
    ] {
        let lines: Vec<&str> = full.lines().filter(|l| !l.starts_with(missing)).collect();
        let document = route_with(&lines.join("\n"));
        let problems = &only(&document).problems;
        assert_eq!(problems.len(), 1, "{missing}");
        assert_eq!(problems[0].code, "unknown_asset");
        assert!(problems[0].message.contains(missing), "{missing}");
    }
    for (lines, code) in [
        ("price: '1'\nassetSymbol: NOPE", "unknown_asset"),
        ("price: '1'\nassetDecimals: 18", "invalid_asset"),
        ("price: '1'\nassetDecimals: 37", "invalid_number"),
        (
            "price: '1'\nassetTransferMethod: cash",
            "invalid_transfer_method",
        ),
        ("price: '1'\nnetwork: eip155:424242", "unknown_asset"),
        (
            "price: '1'\nnetwork: ethereum\nassetSymbol: OBOL\nassetTransferMethod: eip3009",
            "invalid_asset",
        ),
    ] {
        let document = route_with(lines);
        let codes: Vec<&str> = only(&document).problems.iter().map(|p| p.code).collect();
        assert_eq!(codes, [code], "{lines}");
    }
    // A known token fills itself, and saying what it is changes nothing.
    for lines in [
        "price: '1'\nassetSymbol: USDC\nassetDecimals: 6\neip712Name: USD Coin\neip712Version: '2'\nassetTransferMethod: eip3009",
        "price: '1'\nassetAddress: '0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913'",
    ] {
        let document = route_with(lines);
        assert_eq!(document.findings, Vec::new(), "{lines}");
        let asset = &only(&document).options[0].asset;
        assert_eq!(
            Some(&**asset),
            crate::money::Network::from_chain_id(8453)
                .default_asset()
                .as_ref()
        );
    }
}

#[test]
fn o7_the_recipient_is_neither_nobody_nor_the_token() {
    for (lines, message) in [
        (
            "price: '1'\npayTo: '0x0000000000000000000000000000000000000000'",
            "payTo is the zero address: write the address that shall be paid",
        ),
        (
            "price: '1'\npayTo: '0x833589fcd6edb6e08f4c7c32d4f71b54bda02913'",
            "payTo is the token itself: write the address that shall be paid",
        ),
    ] {
        let document = route_with(lines);
        assert_eq!(only(&document).problems[0].message, message);
    }
    let nobody = document(
        "facilitatorURL: https://f.example\nwallet: ''\nroutes: [{pattern: /a, price: '1'}]",
    );
    assert_eq!(
        briefs(&nobody.findings),
        ["error missing_recipient 3:10 routes[0].payTo"]
    );
    let typo = route_with("price: '1'\npayTo: '0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02914'");
    assert_eq!(
        briefs(&typo.findings),
        ["warning address_checksum 6:12 routes[0].payTo"]
    );
}

#[test]
fn m10_verify_only_warns_and_contradicts_a_route_that_settles() {
    let head = format!("wallet: '{WALLET}'\nfacilitatorURL: https://f.example\nverifyOnly: true\n");
    let document = document(&format!(
        "{head}routes:\n- {{pattern: /a, price: '1'}}\n- {{pattern: /b, price: '1', settle: before}}\n- {{pattern: /c, price: '1', settle: never}}"
    ));
    assert_eq!(
        briefs(&document.findings),
        [
            "warning verify_only 3:13 verifyOnly",
            "error contradiction 6:37 routes[1].settle",
            "warning settle_never 7:37 routes[2].settle",
        ]
    );
    assert!(document.settings.verify_only);
    assert_eq!(
        briefs(&refused(&format!("{head}settle: after")))[1],
        "error contradiction 4:9 settle"
    );
}

#[test]
fn what_a_route_says_beside_its_price_is_checked() {
    for (lines, expected) in [
        ("price: '1'\nmaxTimeoutSeconds: 0", &[][..]),
        (
            "price: '1'\nmaxTimeoutSeconds: 999999",
            &["warning long_timeout 6:24 routes[0].maxTimeoutSeconds"],
        ),
        (
            "price: '1'\nmaxTimeoutSeconds: 1.5",
            &["error invalid_number 6:24 routes[0].maxTimeoutSeconds"],
        ),
        (
            "price: '1'\nsettle: after",
            &["warning settle_after 6:13 routes[0].settle"],
        ),
        (
            "price: '1'\npreflight: yes",
            &["error invalid_preflight 6:16 routes[0].preflight"],
        ),
        (
            "price: '1'\nhostname: a.example:80",
            &["error invalid_hostname 6:15 routes[0].hostname"],
        ),
        (
            "price: '1'\nofferName: a/b\nofferNamespace: x",
            &[
                "error invalid_offer_name 6:16 routes[0].offerName",
                "warning unpinnable_offer 4:5 routes[0]",
            ],
        ),
        (
            "price: '1'\nupstreamAuth: Bearer x",
            &["warning upstream_auth_off 6:19 routes[0].upstreamAuth"],
        ),
        (
            "price: '1'\nupstreamURL: http://x",
            &["warning unused_key 6:5 routes[0].upstreamURL"],
        ),
        ("price: '1'\nasync: false\nfreeQuota: 0", &[]),
        (
            "price: '1'\nasync: true",
            &["warning unused_key 6:5 routes[0].async"],
        ),
        (
            "price: '1'\ntrustedProxies: []",
            &["warning unknown_key 6:5 routes[0].trustedProxies"],
        ),
        (
            "gate: free\nprice: '1'",
            &["warning unused_key 6:12 routes[0].price"],
        ),
        (
            "gate: auth",
            &["warning sign_in_missing 5:11 routes[0].gate"],
        ),
        ("gate: ''\nprice: '1'", &[]),
        (
            "price: '1'\npayTo: x\npayments: [{price: '2'}]",
            &[
                "warning unused_key 5:12 routes[0].price",
                "warning unused_key 6:12 routes[0].payTo",
            ],
        ),
    ] {
        let document = route_with(lines);
        let mut found = briefs(&document.findings);
        let mut expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{lines}");
    }
    let long = route_with(&format!(
        "price: '1'\ndescription: {}",
        "\u{e9}".repeat(501)
    ));
    assert_eq!(long.findings[0].code, "long_description");
    assert_eq!(
        only(&long)
            .description
            .as_deref()
            .map(|d| d.chars().count()),
        Some(500)
    );
}

#[test]
fn routes_of_one_name_and_host_are_one_offer() {
    let document = document(&format!(
        "wallet: '{WALLET}'\nfacilitatorURL: https://f.example\nroutes:\n\
         - {{pattern: /a, price: '1', offerNamespace: n, offerName: o}}\n\
         - {{pattern: /b, price: '1', offerNamespace: n, offerName: p}}\n\
         - {{pattern: /c, price: '1', offerNamespace: n, offerName: o}}\n\
         - {{pattern: /d, price: '1', offerNamespace: n, offerName: o, hostname: H.example.}}\n\
         - {{pattern: /e, price: '1'}}\n"
    ));
    let shape: Vec<(String, Option<&str>, Vec<&str>)> = document
        .offers
        .iter()
        .map(|o| {
            (
                format!("{}/{}", o.namespace, o.name),
                o.hostname.as_deref(),
                o.routes.iter().map(|r| &*r.pattern).collect(),
            )
        })
        .collect();
    assert_eq!(
        shape,
        [
            ("n/o".to_owned(), None, vec!["/a", "/c"]),
            ("n/p".to_owned(), None, vec!["/b"]),
            ("n/o".to_owned(), Some("h.example"), vec!["/d"]),
            ("/".to_owned(), None, vec!["/e"]),
        ]
    );
}

#[test]
fn an_unnamed_facilitator_is_the_predecessors_and_says_so() {
    let paid = document(&format!(
        "wallet: '{WALLET}'\nroutes: [{{pattern: /a, price: '1'}}]"
    ));
    assert_eq!(paid.findings[0].code, "default_facilitator");
    assert!(
        paid.settings
            .facilitators
            .contains_key(&only(&paid).facilitator)
    );
    let free = document("routes: [{pattern: /a, gate: free}]");
    assert_eq!(free.findings, Vec::new());
    let settings = free.settings;
    assert!(
        settings.facilitators.contains_key(&settings.facilitator),
        "offers from elsewhere inherit it"
    );
}

#[test]
fn secret_files_are_read_and_never_repeated() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        std::fs::write(directory.path().join(name), text).expect("a file");
    };
    let text = format!(
        "wallet: '{WALLET}'\nfacilitatorURL: https://f.example\nfacilitatorHeadersFile: headers\n\
         verifySecretFile: segment\nroutes:\n- {{pattern: /a, price: '1'}}\n\
         - {{pattern: /b, price: '1', facilitatorURL: 'https://other.example'}}\n"
    );
    let read = || parse(&text, "pricing.yaml", directory.path());
    write("segment", "0123456789abcdef\n");
    write(
        "headers",
        "{\"verify\": {\"X-Key\": \"s3cret\"}, \"settle\": {}}",
    );
    let document = read().expect("usable");
    assert_eq!(document.findings, Vec::new());
    assert_eq!(document.files.len(), 2);
    let secret = document.settings.verify_secret.as_ref().expect("a secret");
    assert_eq!(secret.expose_secret(), "0123456789abcdef");
    let headers = &document.settings.facilitators["https://f.example"];
    assert_eq!(headers.verify_headers[0].0, "x-key");
    assert_eq!(headers.verify_headers[0].1.expose_secret(), "s3cret");
    assert!(headers.settle_headers.is_empty() && headers.supported_headers.is_empty());
    assert!(
        document.settings.facilitators["https://other.example"]
            .verify_headers
            .is_empty()
    );
    assert!(!format!("{document:?}").contains("s3cret"), "R13");

    write("headers", "Authorization: Bearer s3cret\n");
    let document = read().expect("usable");
    let headers = &document.settings.facilitators["https://f.example"];
    for list in [
        &headers.verify_headers,
        &headers.settle_headers,
        &headers.supported_headers,
    ] {
        assert_eq!(list[0].0, "authorization");
    }

    // A bad header file closes the routes of that facilitator and no other.
    for bad in [
        "",
        "- s3cret",
        "a b: s3cret",
        "x: [s3cret]",
        "Host: s3cret",
        "x: \"s3cret\\n\"",
        "x: s3cret: y",
        "verify: {x: s3cret}\ns3cret: {}",
        "x: s3cret\nX: s3cret",
    ] {
        write("headers", bad);
        let document = read().expect("usable");
        let errors: Vec<&Finding> = document.findings.iter().collect();
        assert_eq!(errors.len(), 1, "{bad}: {errors:?}");
        assert_eq!(
            brief(errors[0]),
            "error facilitator_headers 3:25 facilitatorHeadersFile",
            "{bad}"
        );
        assert!(!format!("{document:?}").contains("s3cret"), "R13: {bad}");
        let routes = routes(&document);
        assert_eq!(
            (routes[0].problems.len(), routes[1].problems.len()),
            (1, 0),
            "{bad}"
        );
        assert!(
            !document
                .settings
                .facilitators
                .contains_key("https://f.example")
        );
    }
    for bad in ["", "short", "0123456789abcdef/../x", "0123456789 abcdef"] {
        write("segment", bad);
        let error = read().expect_err("unusable");
        assert_eq!(error.files.len(), 2);
        assert!(!format!("{error:?}").contains("0123456789"), "R13: {bad}");
    }
}

#[test]
fn r13_credentials_are_never_repeated() {
    let document = route_with("price: '1'\nupstreamAuth: \"Bearer s3cret\\n\"");
    assert_eq!(only(&document).problems[0].code, "invalid_upstream_auth");
    assert!(!format!("{document:?}").contains("s3cret"));
    let document = route_with("price: '1'\nfacilitatorURL: https://user:s3cret@f.example");
    assert_eq!(only(&document).problems[0].code, "invalid_facilitator_url");
    assert!(!format!("{document:?}").contains("s3cret"));
    for key in ["facilitatorURL", "publicOrigin", "catalogURL"] {
        let findings = refused(&format!("{key}: https://user:s3cret@f.example"));
        assert!(!format!("{findings:?}").contains("s3cret"), "{key}");
    }
    let document = route_with("price: '1'\nupstreamAuth: Bearer s3cret");
    assert!(!format!("{document:?}").contains("s3cret"));
}

#[test]
fn durations_are_written_with_units() {
    for (text, milliseconds) in [
        ("90s", 90_000),
        ("10m", 600_000),
        ("24h", 86_400_000),
        ("1h30m", 5_400_000),
        ("1d", 86_400_000),
        ("1s500ms", 1_500),
        ("0s", 0),
    ] {
        let expected = Some(Duration::from_millis(milliseconds));
        assert_eq!(read::parse_duration(text), expected, "{text}");
    }
    for text in [
        "",
        "90",
        "s",
        "1.5h",
        "-1s",
        "1m1h",
        "1s1s",
        "1 s",
        "1S",
        "99999999999999999999s",
        "1y",
    ] {
        assert_eq!(read::parse_duration(text), None, "{text}");
    }
}

#[test]
fn a_large_document_is_read_in_time() {
    let mut text = format!("wallet: '{WALLET}'\nfacilitatorURL: https://f.example\nroutes:\n");
    for index in 0..20_000 {
        text.push_str(&format!(
            "  - pattern: /services/app{index}/*\n    price: \"0.001\"\n    offerNamespace: n\n    offerName: app{index}\n"
        ));
    }
    let begin = Instant::now();
    let document = document(&text);
    // Linear: 100,000 routes take under 2 s in release; a debug build is given 20 times that.
    assert!(
        begin.elapsed() < Duration::from_secs(8),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(document.offers.len(), 20_000);
    assert_eq!(document.findings, Vec::new());
}

/// Text made of the pieces that documents are made of, so that much of it parses.
fn document_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("wallet: ".to_owned()),
        Just("routes:\n".to_owned()),
        Just("  - pattern: /a\n".to_owned()),
        Just("    price: ".to_owned()),
        Just("    payments: [{price: '1'}, ".to_owned()),
        Just("trustedProxies: ".to_owned()),
        Just("timeouts: {answer: ".to_owned()),
        Just("}\n".to_owned()),
        Just("]\n".to_owned()),
        Just("\n".to_owned()),
        Just(WALLET.to_owned()),
        "[ -~\n]{0,12}",
        "\\PC{0,4}",
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_panics_and_no_broken_paid_route_sells(text in document_text()) {
        if let Ok(document) = parse(&text, "p.yaml", Path::new("/nonexistent")) {
            for route in routes(&document) {
                prop_assert!(!route.pattern.is_empty());
                prop_assert!(
                    route.gate != Gate::Paid || !route.options.is_empty() || !route.problems.is_empty()
                );
            }
        }
    }

    #[test]
    fn the_text_of_a_price_is_what_was_written(whole in "(0|[1-9][0-9]{0,6})", fraction in "[0-9]{0,5}[1-9]") {
        let price = format!("{whole}.{fraction}");
        let document = route_with(&format!("price: {price}"));
        let option = &only(&document).options[0];
        prop_assert_eq!(Ok(option.amount), crate::money::parse_price(&price, 6));
        prop_assert_eq!(&*option.price, price.as_str());
    }

    #[test]
    fn every_scalar_is_kept_as_text(value in "[A-Za-z0-9_.+][A-Za-z0-9_.+-]{0,19}") {
        let text = format!("k: {value}");
        let tree = tree::parse(&text).expect("YAML");
        let tree::Value::Map(entries) = &tree.root.value else { panic!("a mapping") };
        if let tree::Value::Text(kept) = &entries[0].node.value {
            prop_assert_eq!(&**kept, value.as_str());
        } else {
            prop_assert!(matches!(value.as_str(), "null" | "Null" | "NULL"));
        }
    }
}
