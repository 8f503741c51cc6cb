use super::*;
use crate::offer::{Gate, Owner, Settle};
use crate::table::{AcceptReport, OfferIdentity, RouteReport, TableWriter};
use http::{HeaderMap, Method, Request};
use serde_json::{Value, json};
use tower::ServiceExt;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn admin(readiness: &Readiness) -> Admin {
    let info = AdminInfo {
        build: BuildInfo {
            version: "0.1.0",
            commit: "abc",
            built: "unknown",
            rustc: "1.95.0",
        },
        ledger: "sqlite:x402-verifier.db".to_owned(),
        degraded: Box::new(|| vec!["the ledger is unavailable: disk full".to_owned()]),
        per_offer: Box::new(|| PerOffer::All),
        now: || at("2026-11-21T12:00:00Z"),
        explain: Box::new(|question| {
            Box::pin(async move {
                match question.len() {
                    0 => Err("no question".to_owned()),
                    length => Ok(format!("{length} bytes asked")),
                }
            })
        }),
    };
    let (_, table) = TableWriter::new();
    let metrics = Metrics::new("x402_verifier").unwrap();
    Admin {
        table,
        readiness: readiness.clone(),
        metrics,
        info: Arc::new(info),
    }
}

fn ready_now() -> Readiness {
    let readiness = Readiness::new();
    readiness.config_loaded();
    readiness.routes_loaded();
    readiness
}

async fn ask(router: Router, method: Method, path: &str) -> (StatusCode, HeaderMap, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(Body::empty())
        .unwrap();
    let (head, body) = router.oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (
        head.status,
        head.headers,
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

async fn get_from(readiness: &Readiness, path: &str) -> (StatusCode, HeaderMap, String) {
    ask(router(admin(readiness)), Method::GET, path).await
}

fn route(namespace: &str, name: &str, state: ReportedState) -> RouteReport {
    RouteReport {
        pattern: "/services/shop/*".into(),
        host: None,
        source: "kube",
        offer: Arc::new(OfferIdentity::of_namespace(
            namespace.into(),
            name.into(),
            "u-1".into(),
        )),
        offer_generation: Some(4),
        owner: Owner::Namespace(namespace.into()),
        state,
        gate: Gate::Paid,
        settle: Settle::Before,
        accepts: vec![AcceptReport {
            network: "eip155:84532".into(),
            asset: "0x036CbD53842c5426634e7929541eC2318f3dCF7e".into(),
            symbol: "USDC".into(),
            amount: "1000".to_owned(),
            price: "0.001".into(),
            pay_to: "0x0000000000000000000000000000000000000001".into(),
        }],
        reason: None,
        detail: None,
        drains_until: None,
        closed_since: None,
        closed_until: None,
    }
}

fn report(routes: Vec<RouteReport>) -> Report {
    let file = SourceReport {
        name: "file",
        ok: true,
        last_success: Some(at("2026-11-21T11:59:00Z")),
        error: None,
    };
    let kube = SourceReport {
        name: "kube",
        ok: false,
        last_success: None,
        error: Some("connection refused".to_owned()),
    };
    Report::new(vec![file, kube], routes)
}

fn routes_page(routes: Vec<RouteReport>, filter: RoutesFilter) -> Value {
    let report = Arc::new(report(routes));
    let page = RoutesPage::new(9, at("2026-11-21T11:59:30Z"), report, filter);
    serde_json::from_str(&page.collect::<String>()).unwrap()
}

#[tokio::test]
async fn liveness_depends_on_nothing() {
    let readiness = Readiness::new();
    readiness.begin_draining();
    for path in ["/livez", "/healthz"] {
        let (status, headers, body) = get_from(&readiness, path).await;
        assert_eq!(
            (status, body.as_str()),
            (StatusCode::OK, r#"{"status":"ok"}"#),
            "{path}"
        );
        assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    }
}

/// R2: the letters are the predecessor's (compat 1.22).
#[tokio::test]
async fn readiness_names_the_missing_latch_and_then_its_cause() {
    let readiness = Readiness::new();
    let (status, headers, body) = get_from(&readiness, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body, "not ready: config not loaded\n");
    assert_eq!(headers[header::CONTENT_TYPE], "text/plain; charset=utf-8");

    readiness.config_loaded();
    let (status, _, body) = get_from(&readiness, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body, "not ready: routes not loaded\n");

    readiness.routes_loaded();
    let (status, _, body) = get_from(&readiness, "/readyz").await;
    assert_eq!(
        (status, body.as_str()),
        (StatusCode::OK, r#"{"status":"ready"}"#)
    );
}

#[tokio::test]
async fn a_draining_process_is_not_ready() {
    let readiness = ready_now();
    readiness.begin_draining();
    let (status, _, body) = get_from(&readiness, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body, "not ready: draining\n");
}

/// R2: the causes of two sources are told apart.
#[test]
fn a_refusal_names_each_source_that_is_not_there() {
    let waiting = SourceReport {
        name: "file",
        ok: false,
        last_success: None,
        error: None,
    };
    let body = refusal_body("not ready: config not loaded", &[waiting]);
    assert_eq!(
        body,
        "not ready: config not loaded\nfile: waiting for the first complete list\n"
    );

    let body = refusal_body("not ready: routes not loaded", &report(vec![]).sources);
    assert_eq!(
        body,
        "not ready: routes not loaded\nkube: connection refused\n"
    );
}

#[tokio::test]
async fn verbose_readiness_is_json_with_the_same_status() {
    let readiness = Readiness::new();
    readiness.config_loaded();
    let (status, _, body) = get_from(&readiness, "/readyz?verbose").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["status"], "not ready: routes not loaded");
    assert_eq!(body["latches"], json!({"config": true, "routes": false}));
    assert_eq!(body["draining"], false);
    assert_eq!(body["table"]["generation"], 0);
    assert!(body["table"]["ageSeconds"].is_u64() && body["sources"].is_array());
    assert_eq!(body["ledger"], "sqlite:x402-verifier.db");
    assert_eq!(
        body["degraded"],
        json!(["the ledger is unavailable: disk full"])
    );

    let (status, _, body) = get_from(&ready_now(), "/readyz?verbose=true").await;
    assert_eq!(
        status,
        StatusCode::OK,
        "what is degraded does not change readiness (R2)"
    );
    assert_eq!(
        serde_json::from_str::<Value>(&body).unwrap()["status"],
        "ready"
    );
}

#[test]
fn verbose_is_a_query_key() {
    for query in ["verbose", "verbose=1", "a=b&verbose", "verbose=true"] {
        assert!(is_verbose(Some(query)), "{query}");
    }
    for query in [
        None,
        Some(""),
        Some("verbose=false"),
        Some("verbosely"),
        Some("a=verbose"),
    ] {
        assert!(!is_verbose(query), "{query:?}");
    }
}

#[tokio::test]
async fn metrics_are_one_readable_page() {
    let (status, headers, body) = get_from(&ready_now(), "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        headers[header::CONTENT_TYPE],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let series = crate::metrics::tests::read(&body).unwrap();
    assert_eq!(series["x402_verifier_table_generation"], 0.0);
    assert_eq!(series["x402_verifier_routes{state=\"conflict\"}"], 0.0);
}

#[test]
fn gauges_count_every_state_and_unsettled_routes() {
    let mut never = route("shop", "b", ReportedState::Live);
    never.settle = Settle::Never;
    let mut never_but_closed = route("shop", "c", ReportedState::Closed);
    never_but_closed.settle = Settle::Never;
    let mut free = route("shop", "d", ReportedState::Live);
    (free.gate, free.settle) = (Gate::Free, Settle::Never);
    let live = route("shop", "a", ReportedState::Live);
    let gauges = route_gauges(&report(vec![live, never, never_but_closed, free]));
    assert_eq!(
        gauges.routes,
        [
            ("live", 3),
            ("closed", 1),
            ("draining", 0),
            ("misconfigured", 0),
            ("conflict", 0)
        ]
    );
    assert_eq!(gauges.settle_never_routes, 1);
}

#[test]
fn the_age_of_a_table_is_never_negative() {
    let (early, late) = (at("2026-11-21T11:59:30Z"), at("2026-11-21T12:00:00Z"));
    assert_eq!(age(early, late), Duration::from_secs(30));
    assert_eq!(age(late, early), Duration::ZERO);
}

#[test]
fn a_route_is_shown_with_all_that_is_known_of_it() {
    let mut closed = route("shop", "api", ReportedState::Closed);
    closed.host = Some("api.example.com".into());
    closed.reason = Some("offer_withdrawn");
    closed.detail = Some("closed by \"a delete\"\n".to_owned());
    closed.closed_since = Some(at("2026-11-21T12:00:00Z"));
    closed.closed_until = Some(at("2026-11-22T12:00:00Z"));
    let page = routes_page(vec![closed], RoutesFilter::default());
    let expected = json!({
        "generation": 9,
        "builtAt": "2026-11-21T11:59:30Z",
        "sources": [
            {"name": "file", "state": "ok", "lastSuccess": "2026-11-21T11:59:00Z"},
            {
                "name": "kube", "state": "pending", "lastSuccess": null,
                "error": "connection refused",
            },
        ],
        "routes": [{
            "pattern": "/services/shop/*",
            "host": "api.example.com",
            "source": "kube",
            "offer": {"namespace": "shop", "name": "api", "uid": "u-1", "generation": 4},
            "owner": "shop",
            "state": "closed",
            "gate": "paid",
            "settle": "before",
            "accepts": [{
                "network": "eip155:84532",
                "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
                "symbol": "USDC",
                "amount": "1000",
                "price": "0.001",
                "payTo": "0x0000000000000000000000000000000000000001",
            }],
            "reason": "offer_withdrawn",
            "detail": "closed by \"a delete\"\n",
            "closedSince": "2026-11-21T12:00:00Z",
            "closedUntil": "2026-11-22T12:00:00Z",
        }],
    });
    assert_eq!(page, expected);
}

#[test]
fn a_route_of_the_operator_names_no_owner_and_no_absent_field() {
    let mut file = route("", "", ReportedState::Live);
    file.owner = Owner::Operator;
    file.offer = Arc::new(OfferIdentity::of_operator("".into(), "".into()));
    file.offer_generation = None;
    let page = routes_page(vec![file], RoutesFilter::default());
    let row = page["routes"][0].as_object().unwrap();
    for absent in [
        "owner",
        "host",
        "reason",
        "detail",
        "drainsUntil",
        "closedSince",
        "closedUntil",
    ] {
        assert!(!row.contains_key(absent), "{absent}");
    }
    assert_eq!(row["offer"], json!({"namespace": "", "name": ""}));
}

#[test]
fn routes_are_filtered_by_namespace_and_name() {
    let all = || {
        [("a", "x"), ("a", "y"), ("b", "x")]
            .map(|(namespace, name)| route(namespace, name, ReportedState::Live))
            .to_vec()
    };
    let count = |namespace: Option<&str>, name: Option<&str>| {
        let filter = RoutesFilter {
            namespace: namespace.map(Into::into),
            name: name.map(Into::into),
            state: None,
        };
        routes_page(all(), filter)["routes"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(count(None, None), 3);
    assert_eq!(count(Some("a"), None), 2);
    assert_eq!(count(None, Some("x")), 2);
    assert_eq!(count(Some("b"), Some("x")), 1);
    assert_eq!(count(Some("b"), Some("y")), 0);
    assert_eq!(count(Some(""), None), 0);
}

#[test]
fn routes_are_filtered_by_state() {
    let all = || {
        [
            ReportedState::Live,
            ReportedState::Closed,
            ReportedState::Live,
        ]
        .map(|state| route("a", "x", state))
        .to_vec()
    };
    let count = |state: &str| {
        let filter = RoutesFilter {
            state: Some(state.to_owned()),
            ..RoutesFilter::default()
        };
        routes_page(all(), filter)["routes"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(
        (count("live"), count("closed"), count("draining")),
        (2, 1, 0)
    );
    assert_eq!(count("sold"), 0);
}

#[tokio::test]
async fn explain_takes_a_bounded_question_by_post_and_nothing_else() {
    let ask = |method: Method, body: Vec<u8>| async {
        let request = Request::builder()
            .method(method)
            .uri("/explain")
            .body(Body::from(body))
            .unwrap();
        let answer = router(admin(&ready_now())).oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    let asked = |bytes: usize| ask(Method::POST, vec![b'x'; bytes]);
    assert_eq!(
        asked(MAX_QUESTION).await,
        (StatusCode::OK, "65536 bytes asked".to_owned())
    );
    assert_eq!(
        asked(MAX_QUESTION + 1).await.0,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    assert_eq!(
        asked(0).await,
        (StatusCode::BAD_REQUEST, "no question\n".to_owned())
    );
    let (status, body) = ask(Method::GET, Vec::new()).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(body.contains("by POST"), "{body}");
}

#[test]
fn a_long_list_of_routes_comes_in_bounded_chunks() {
    let routes = (0..2_000).map(|n| route("shop", &format!("offer-{n}"), ReportedState::Live));
    let report = Arc::new(report(routes.collect()));
    let page = RoutesPage::new(
        1,
        at("2026-11-21T11:59:30Z"),
        report,
        RoutesFilter::default(),
    );
    let chunks: Vec<_> = page.collect();
    assert!(chunks.len() > 5);
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk.len() < crate::metrics::CHUNK + 4_096)
    );
    let page: Value = serde_json::from_str(&chunks.concat()).unwrap();
    assert_eq!(page["routes"].as_array().unwrap().len(), 2_000);
}

#[tokio::test]
async fn routes_and_version_are_json() {
    let (status, headers, body) = get_from(&ready_now(), "/routes?namespace=a%20b&name=c").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(
        serde_json::from_str::<Value>(&body).unwrap()["routes"],
        json!([])
    );

    let (status, _, body) = get_from(&ready_now(), "/version").await;
    assert_eq!(status, StatusCode::OK);
    let version =
        json!({"version": "0.1.0", "commit": "abc", "built": "unknown", "rustc": "1.95.0"});
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), version);
}

#[tokio::test]
async fn what_is_not_there_is_a_404_with_a_reason() {
    for path in [
        "/",
        "/verify",
        "/verify/shop/api",
        "/metrics/",
        "/debug/pprof",
    ] {
        let (status, _, body) = get_from(&ready_now(), path).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(
            serde_json::from_str::<Value>(&body).unwrap()["reason"],
            "no_such_endpoint"
        );
    }
}

#[tokio::test]
async fn the_admin_port_is_read_only() {
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        for path in ["/livez", "/readyz", "/metrics", "/routes", "/version"] {
            let (status, headers, body) =
                ask(router(admin(&ready_now())), method.clone(), path).await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_eq!(headers[header::ALLOW], "GET,HEAD");
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["reason"], "method_not_allowed");
        }
    }
}

/// `--admin-listen` equal to `--listen`.
#[tokio::test]
async fn the_endpoints_merge_with_a_traffic_router() {
    let traffic = Router::new()
        .route("/verify", get(|| async { "traffic" }))
        .fallback(|| async { "traffic fallback" });
    let both = traffic.merge(routes(admin(&ready_now())));
    let of = |path: &'static str| {
        let both = both.clone();
        async move { ask(both, Method::GET, path).await.2 }
    };
    assert_eq!(of("/verify").await, "traffic");
    assert_eq!(of("/elsewhere").await, "traffic fallback");
    assert_eq!(of("/readyz").await, r#"{"status":"ready"}"#);
}
