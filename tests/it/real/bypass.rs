//! No way around the gate through a real Traefik: the table of `crate::hostile`, sent as raw bytes.
//!
//! Three entry points: as Traefik comes, with the documented options, and with its path cleaning
//! switched off. What counts is what reached the service: nothing there may be a paid path in
//! anybody's reading. Rules: R1, design section 4.

use super::shop::documented_entry_point;
use super::upstream::Upstream;
use crate::bypass::{exchange, shop as pricing};
use crate::harness::{SELLER, Verifier};
use crate::hostile::{self, Want, may_be_paid};
use crate::parts::Traefik;

/// All targets go to one middleware, as where one verifier guards a whole host.
fn dynamic(gate: &str, upstream: &str) -> String {
    format!(
        "http:
  routers:
    all: {{rule: \"PathPrefix(`/`)\", entryPoints: [web, documented, raw], middlewares: [pay], service: up}}
    strip: {{rule: \"Host(`strip.example`)\", entryPoints: [web, documented, raw], middlewares: [strip, pay], service: up}}
    rewrite: {{rule: \"Host(`rewrite.example`)\", entryPoints: [web, documented, raw], middlewares: [rewrite, pay], service: up}}
    late: {{rule: \"Host(`late.example`)\", entryPoints: [web, documented, raw], middlewares: [pay, strip], service: up}}
  middlewares:
    pay: {{forwardAuth: {{address: \"{gate}\", trustForwardHeader: false, maxResponseBodySize: 65536, authResponseHeaders: [Authorization, X-Payment-Payer, X-Verified-Wallet, Payment-Response, X-Payment-Response, Payment-Signature, X-Payment]}}}}
    strip: {{stripPrefix: {{prefixes: [/api]}}}}
    rewrite: {{replacePathRegex: {{regex: \"^/api(.*)\", replacement: \"/$1\"}}}}
  services: {{up: {{loadBalancer: {{servers: [{{url: \"{upstream}\"}}]}}}}}}
"
    )
}

struct Front {
    traefik: Traefik,
    upstream: Upstream,
}

impl Front {
    /// Traefik, asking whoever listens at this URL.
    async fn open(gate: &str) -> Self {
        let upstream = Upstream::start().await;
        let documented = documented_entry_point();
        let entry_points = [
            ("web", ""),
            ("documented", documented.as_str()),
            ("raw", "http: {sanitizePath: false}"),
        ];
        let dynamic = dynamic(gate, &upstream.url());
        let traefik = Traefik::start_with(&dynamic, &entry_points).await;
        Self { traefik, upstream }
    }

    /// Statuses, and the targets that reached the service.
    async fn send(&self, entry_point: &str, request: &[u8]) -> (Vec<u16>, Vec<Vec<u8>>) {
        let (statuses, _) = exchange(self.traefik.port(entry_point), request).await;
        let reached = self.upstream.take();
        let targets = reached.into_iter().map(|head| head.target);
        (statuses, targets.collect())
    }
}

async fn verifier(unmatched: &str) -> Verifier {
    Verifier::start(&pricing("http://127.0.0.1:9", SELLER, unmatched)).await
}

const ENTRY_POINTS: [&str; 3] = ["web", "documented", "raw"];

fn request(method: &str, host: &str, target: &[u8], rest: &str) -> Vec<u8> {
    let mut bytes = format!("{method} ").into_bytes();
    bytes.extend_from_slice(target);
    bytes.extend_from_slice(format!(" HTTP/1.1\r\nHost: {host}\r\n{rest}\r\n").as_bytes());
    bytes
}

const CLOSE: &str = "Connection: close\r\n";

async fn judge(unmatched: &str, address: &str) {
    let verifier = verifier(unmatched).await;
    let front = Front::open(&verifier.url(address)).await;
    // A pin sells whatever is not free.
    let open = unmatched == "allow" && address == "/verify";
    let mut wrong = Vec::new();
    let mut reached_something = 0;
    for entry_point in ENTRY_POINTS {
        for row in hostile::targets() {
            let bytes = request("GET", "shop.example", &row.target, CLOSE);
            let (statuses, reached) = front.send(entry_point, &bytes).await;
            let passed = reached.iter().find(|target| may_be_paid(target));
            let right = match row.want {
                // The proxy may clean it to what is really free.
                Want::Never => passed.is_none(),
                Want::Free => passed.is_none() && statuses == [200] && reached.len() == 1,
                Want::Unmatched if open => {
                    passed.is_none() && statuses == [200] && reached.len() == 1
                }
                Want::Unmatched => {
                    matches!(statuses.as_slice(), [400 | 402 | 403]) && reached.is_empty()
                }
            };
            reached_something += reached.len();
            if !right {
                let reached: Vec<_> = reached
                    .iter()
                    .map(|target| String::from_utf8_lossy(target))
                    .collect();
                wrong.push(format!(
                    "{entry_point}: {}: {:?} {statuses:?} {reached:?}",
                    row.name, row.want
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{address}, {unmatched}:\n{}",
        wrong.join("\n")
    );
    assert!(reached_something > 20, "the free rows reach the service");
}

#[tokio::test]
async fn r1_no_hostile_target_reaches_the_paid_handler_where_the_unmatched_is_denied() {
    judge("deny", "/verify").await;
}

#[tokio::test]
async fn r1_no_hostile_target_reaches_the_paid_handler_where_the_unmatched_is_allowed() {
    judge("allow", "/verify").await;
}

#[tokio::test]
async fn r1_no_hostile_target_reaches_the_paid_handler_behind_a_pin() {
    judge("allow", "/verify/shop/report").await;
}

#[tokio::test]
async fn r1_no_header_method_or_framing_reaches_the_paid_handler() {
    for unmatched in ["deny", "allow"] {
        let verifier = verifier(unmatched).await;
        let front = Front::open(&verifier.url("/verify")).await;
        for entry_point in ENTRY_POINTS {
            for row in hostile::HEADERS {
                // Of a framed second request the answer must be waited for.
                let framed = row.target != "/paid/x";
                let rest = if framed { "" } else { CLOSE }.to_owned() + row.rest;
                let bytes = request(row.method, "shop.example", row.target.as_bytes(), &rest);
                let (statuses, reached) = front.send(entry_point, &bytes).await;
                let passed = reached.iter().find(|target| may_be_paid(target));
                assert!(
                    passed.is_none(),
                    "{entry_point}: {}: {statuses:?}",
                    row.name
                );
                if !framed {
                    let refused = statuses.iter().all(|status| *status >= 400);
                    assert!(
                        refused && !statuses.is_empty(),
                        "{entry_point}: {}: {statuses:?}",
                        row.name
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn r1_no_rewriting_middleware_leads_around_the_gate() {
    for unmatched in ["deny", "allow"] {
        let verifier = verifier(unmatched).await;
        let front = Front::open(&verifier.url("/verify")).await;
        for entry_point in ENTRY_POINTS {
            for host in ["strip.example", "rewrite.example"] {
                for target in [
                    "/api../paid/x",
                    "/api/../paid/x",
                    "/api/..",
                    "/api/%2e%2e/paid/x",
                    "/api/paid/x",
                    "/api//paid/x",
                    "/api/./paid",
                    "/api%2fpaid/x",
                    "/api../admin",
                ] {
                    let bytes = request("GET", host, target.as_bytes(), CLOSE);
                    let (statuses, reached) = front.send(entry_point, &bytes).await;
                    let passed = reached.iter().find(|target| may_be_paid(target));
                    assert!(
                        passed.is_none(),
                        "{entry_point} {host} {target}: {statuses:?} {passed:?}"
                    );
                }
            }
            // Stripped behind the gate, the service's /paid is the buyer's /api/paid: the gate must not be
            // asked about another path than the buyer's.
            let bytes = request("GET", "late.example", b"/api../paid/x", CLOSE);
            let (statuses, reached) = front.send(entry_point, &bytes).await;
            assert!(
                !reached.iter().any(|target| may_be_paid(target)),
                "{statuses:?} {reached:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_table_finds_the_holes_of_a_gate_that_compares_texts() {
    let naive = Upstream::start_with(|head| {
        let target = head.values("x-forwarded-uri").concat();
        let paid = target == "/paid" || target.starts_with("/paid/") || target.starts_with("/u/");
        if paid { 402 } else { 200 }
    })
    .await;
    let front = Front::open(&naive.url()).await;
    for (entry_point, at_least) in [("web", 15), ("raw", 40)] {
        let mut holes = Vec::new();
        for row in hostile::targets() {
            let bytes = request("GET", "shop.example", &row.target, CLOSE);
            let (_, reached) = front.send(entry_point, &bytes).await;
            if reached.iter().any(|target| may_be_paid(target)) {
                holes.push(row.name);
            }
        }
        assert!(holes.len() >= at_least, "{entry_point}: {holes:?}");
    }
}
