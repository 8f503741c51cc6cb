//! No way around the gate: the hostile requests, put to `/verify` as bytes on a socket.
//!
//! `real::bypass` puts the same table to Traefik. Rules: R1, design section 4.

use crate::harness::{SELLER, Verifier};
use crate::hostile::{self, Want};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The shop that the table is written for. Nothing listens at its facilitator: nobody pays here.
pub(crate) fn shop(facilitator: &str, payee: &str, unmatched: &str) -> String {
    let offer = "offerNamespace: shop, offerName: report";
    format!(
        "chain: base-sepolia\n\
         wallet: \"{payee}\"\n\
         facilitatorURL: {facilitator}\n\
         unmatched: {unmatched}\n\
         routes:\n\
         - {{pattern: \"/paid\", price: \"0.001\", {offer}}}\n\
         - {{pattern: \"/paid/*\", price: \"0.001\", {offer}}}\n\
         - {{pattern: \"/u/*\", price: \"0.002\", {offer}}}\n\
         - {{pattern: \"/free/*\", gate: free, {offer}}}\n"
    )
}

/// Sends bytes and reads until the other side closes or falls silent; every status in the answer.
pub(crate) async fn exchange(port: u16, request: &[u8]) -> (Vec<u16>, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("it listens");
    // It may refuse and close before it has read everything.
    drop(stream.write_all(request).await);
    let mut bytes = Vec::new();
    let mut piece = vec![0; 16 * 1024];
    let mut patience = Duration::from_secs(20);
    while let Ok(Ok(read @ 1..)) = tokio::time::timeout(patience, stream.read(&mut piece)).await {
        bytes.extend_from_slice(&piece[..read]);
        patience = Duration::from_millis(500);
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let statuses = text
        .split("HTTP/1.1 ")
        .skip(1)
        .filter_map(|answer| answer.get(..3)?.parse().ok())
        .collect();
    (statuses, text)
}

fn asked(address: &str, method: &str, target: &[u8], rest: &str) -> Vec<u8> {
    let mut bytes = format!(
        "GET {address} HTTP/1.1\r\nHost: verifier\r\nConnection: close\r\n\
         X-Forwarded-Method: {method}\r\nX-Forwarded-Proto: http\r\n\
         X-Forwarded-Host: shop.example\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Uri: "
    )
    .into_bytes();
    bytes.extend_from_slice(target);
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(rest.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    bytes
}

async fn verifier(unmatched: &str) -> (Verifier, u16) {
    let verifier = Verifier::start(&shop("http://127.0.0.1:9", SELLER, unmatched)).await;
    let url = verifier.url("");
    let port = url
        .rsplit(':')
        .next()
        .expect("a port")
        .parse()
        .expect("a port");
    (verifier, port)
}

/// Collects what is wrong, so that one run shows all of it.
async fn judge(unmatched: &str, address: &str) {
    let (_verifier, port) = verifier(unmatched).await;
    let mut wrong = Vec::new();
    for row in hostile::targets() {
        let (statuses, _) = exchange(port, &asked(address, "GET", &row.target, "")).await;
        let pinned = address != "/verify";
        let right = match (row.want, statuses.as_slice()) {
            (Want::Never, [400 | 402 | 403 | 431]) => true,
            (Want::Free, [200]) => true,
            // A pin sells whatever is not free.
            (Want::Unmatched, [402 | 400]) => pinned,
            (Want::Unmatched, [200]) => unmatched == "allow" && !pinned,
            (Want::Unmatched, [403]) => unmatched == "deny" && !pinned,
            _ => false,
        };
        if !right {
            wrong.push(format!("{}: {:?} {statuses:?}", row.name, row.want));
        }
    }
    assert!(
        wrong.is_empty(),
        "{address}, {unmatched}:\n{}",
        wrong.join("\n")
    );
}

#[tokio::test]
async fn r1_no_hostile_target_passes_where_the_unmatched_is_denied() {
    judge("deny", "/verify").await;
}

#[tokio::test]
async fn r1_no_hostile_target_passes_where_the_unmatched_is_allowed() {
    judge("allow", "/verify").await;
}

#[tokio::test]
async fn r1_no_hostile_target_passes_a_pin() {
    judge("deny", "/verify/shop/report").await;
    judge("allow", "/verify/shop/report").await;
}

#[tokio::test]
async fn r1_no_header_makes_a_paid_path_free() {
    for unmatched in ["deny", "allow"] {
        let (_verifier, port) = verifier(unmatched).await;
        for row in hostile::HEADERS
            .iter()
            .filter(|row| row.target == "/paid/x")
        {
            let rest = row
                .rest
                .split("\r\n\r\n")
                .next()
                .unwrap_or_default()
                .trim_end();
            let rest = if rest.is_empty() {
                String::new()
            } else {
                format!("{rest}\r\n")
            };
            // A forwardAuth call has no body.
            let rest = rest
                .replace("Transfer-Encoding", "X-Was")
                .replace("Content-Length", "X-Was");
            for address in ["/verify", "/verify/shop/report"] {
                let request = asked(address, row.method, b"/paid/x", &rest);
                let (statuses, text) = exchange(port, &request).await;
                assert!(
                    matches!(statuses.as_slice(), [400 | 402 | 403]),
                    "{}: {statuses:?} {text}",
                    row.name
                );
            }
        }
    }
}

#[tokio::test]
async fn r1_a_call_without_forwarded_headers_is_no_pass() {
    let (_verifier, port) = verifier("allow").await;
    for (lines, expected) in [
        ("", 403),
        ("X-Original-Uri: /free/x\r\nX-Original-Method: GET\r\n", 403),
        ("X_Forwarded_Uri: /free/x\r\n", 403),
        (
            "X-Forwarded-Uri:\r\nX-Forwarded-Host: shop.example\r\n",
            403,
        ),
    ] {
        for target in [
            "/verify",
            "/verify?x=/free/x",
            "/verify/../free/x",
            "/verify/shop/nothing",
        ] {
            let request =
                format!("GET {target} HTTP/1.1\r\nHost: v\r\nConnection: close\r\n{lines}\r\n");
            let (statuses, text) = exchange(port, request.as_bytes()).await;
            assert_eq!(statuses, [expected], "{target} {lines:?}: {text}");
        }
    }
}

#[tokio::test]
async fn r1_every_method_is_gated_and_a_missing_one_too() {
    let (verifier, _) = verifier("allow").await;
    for method in ["GET", "HEAD", "OPTIONS", "POST", "DELETE", "BREW", ""] {
        let ask = verifier.ask("/paid/x").method(method);
        assert_eq!(ask.send().await.status, 402, "{method}");
        let pinned = ask.pinned("shop", "report");
        assert_eq!(pinned.send().await.status, 402, "{method}, pinned");
    }
    let ask = verifier.ask("/paid/x").without("x-forwarded-method");
    assert_eq!(ask.send().await.status, 402);
}
