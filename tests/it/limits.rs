//! What nobody can send: too much, too slowly, or nonsense (M12). Raw bytes at the traffic port; the
//! process stays up and nothing of it is ever a pass (R1).

use crate::dice::Dice;
use crate::harness::{SELLER, Verifier, Wallet, challenge_of, pricing, verdict};
use crate::scripted::Scripted;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Random requests in all, and at a time.
const REQUESTS: u64 = 2_000;
const AT_A_TIME: u64 = 16;

async fn connect(verifier: &Verifier) -> TcpStream {
    let url = verifier.url("");
    let address = url.trim_start_matches("http://");
    TcpStream::connect(address).await.expect("it listens")
}

/// What a call is answered, up to the end of the connection or a pause.
async fn answer_to(mut stream: TcpStream, call: &[u8], patience: Duration) -> Vec<u8> {
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(call).await?;
        let mut chunk = [0; 4096];
        loop {
            match stream.read(&mut chunk).await? {
                0 => return Ok(()),
                length => answer.extend_from_slice(&chunk[..length]),
            }
        }
    };
    // Cut off in the middle or after a pause: what came before counts.
    let _end: Result<io::Result<()>, _> = tokio::time::timeout(patience, exchange).await;
    answer
}

/// The statuses of the answers in a stream.
fn statuses(answer: &[u8]) -> Vec<u16> {
    String::from_utf8_lossy(answer)
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|rest| {
            rest.get(..3)
                .and_then(|code| code.parse().ok())
                .unwrap_or(0)
        })
        .collect()
}

async fn setup() -> (Scripted, Verifier) {
    let facilitator = Scripted::start().await;
    let verifier = Verifier::start(&pricing(&facilitator.url())).await;
    (facilitator, verifier)
}

/// A free request with these further header lines.
fn free_with(lines: &str) -> Vec<u8> {
    format!(
        "GET /verify HTTP/1.1\r\nHost: v\r\nConnection: close\r\nX-Forwarded-Uri: /free/x\r\n\
         X-Forwarded-Host: shop.example\r\n{lines}\r\n"
    )
    .into_bytes()
}

#[tokio::test]
async fn m12_header_blocks_are_bounded_in_bytes_and_in_number() {
    let (_facilitator, verifier) = setup().await;
    let send = async |lines: &str| {
        let stream = connect(&verifier).await;
        statuses(&answer_to(stream, &free_with(lines), Duration::from_secs(5)).await)
    };
    let padding = |bytes: usize| format!("X-Padding: {}\r\n", "a".repeat(bytes));
    assert_eq!(send(&padding(60_000)).await, [200], "below the limit");
    assert_eq!(send(&padding(66_000)).await, [431], "above the limit");
    let many = |count: usize| {
        (0..count)
            .map(|n| format!("X-{n}: y\r\n"))
            .collect::<String>()
    };
    // Four are there already.
    assert_eq!(send(&many(96)).await, [200], "100 headers");
    assert_eq!(send(&many(97)).await, [431], "101 headers");
    // A block without an end is not collected.
    let endless = [free_with("").as_slice(), &b"X: y\r\n".repeat(200_000)].concat();
    let endless = &endless[..free_with("").len() - 2];
    let flood = [
        endless,
        &b"X-Flood: yyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(100_000),
    ]
    .concat();
    let stream = connect(&verifier).await;
    let answer = statuses(&answer_to(stream, &flood, Duration::from_secs(5)).await);
    assert!(answer.is_empty() || answer == [431], "{answer:?}");
    assert_eq!(
        verifier.ask("/free/x").send().await.status,
        200,
        "and it goes on"
    );
}

#[tokio::test]
async fn m12_a_header_that_comes_too_slowly_is_cut_off() {
    let (_facilitator, verifier) = setup().await;
    let started = Instant::now();
    let mut silent = connect(&verifier).await;
    let mut half = connect(&verifier).await;
    half.write_all(b"GET /verify HTTP/1.1\r\nHost: v\r\nX-Forwarded-Uri: /free/x")
        .await
        .expect("sent");
    let (mut trickle, mut writer) = connect(&verifier).await.into_split();
    let drip = tokio::spawn(async move {
        // Each byte is recent, the block is old.
        for byte in free_with("").iter().cycle() {
            if *byte == b'\n' {
                continue;
            }
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    });
    let ends = async |stream: &mut (dyn tokio::io::AsyncRead + Unpin + Send), name: &str| {
        let mut answer = Vec::new();
        let limit = Duration::from_secs(20).saturating_sub(started.elapsed());
        let end = tokio::time::timeout(limit, stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "{name} is still open");
        let seen = statuses(&answer);
        assert!(seen.is_empty() || seen == [408], "{name}: {seen:?}");
        started.elapsed()
    };
    for (name, stream) in [
        (
            "silent",
            &mut silent as &mut (dyn tokio::io::AsyncRead + Unpin + Send),
        ),
        ("half a header", &mut half),
        ("a trickle", &mut trickle),
    ] {
        let after = ends(stream, name).await;
        assert!(
            after >= Duration::from_secs(9),
            "{name}: cut after {after:?}"
        );
        assert!(
            after < Duration::from_secs(16),
            "{name}: cut after {after:?}"
        );
    }
    drip.abort();
    assert_eq!(verifier.ask("/free/x").send().await.status, 200);
}

#[tokio::test]
async fn huge_targets_cost_neither_time_nor_a_pass() {
    let (facilitator, verifier) = setup().await;
    let too_long = verifier.ask(&format!("/paid/{}", "a".repeat(60_000)));
    let seen = verdict(&too_long.send().await);
    assert_eq!(seen, (400, "ambiguous_target".to_owned()));
    let long = format!("{}?{}", "a".repeat(16_000), "b".repeat(30_000));
    let answer = verifier.ask(&format!("/paid/{long}")).send().await;
    assert_eq!(verdict(&answer), (402, "payment_required".to_owned()));
    let header = &answer.headers["payment-required"];
    assert!(
        header.len() < 8_192,
        "a challenge stays small: {}",
        header.len()
    );
    assert!(answer.body.len() < 8_192, "{}", answer.body.len());
    let url = challenge_of(&answer)["resource"]["url"]
        .as_str()
        .expect("text")
        .len();
    assert!(url <= 2_048, "{url}");
    let payment = Wallet::new(97).pay_v2(&challenge_of(&answer));
    let paid = verifier
        .ask(&format!("/paid/{long}"))
        .pay(&payment)
        .send()
        .await;
    assert_eq!(paid.status, 200, "{}", paid.text());
    assert_eq!(facilitator.settles(), 1);
    // What is just below the limits of a target is as expensive as a target can be.
    for (name, piece, below, above) in [
        ("escapes", "%41", 2_000, 15_000),
        ("escaped escapes", "%252525", 2_000, 8_000),
        ("dots", "../", 250, 15_000),
        ("escaped dots", "%2e%2e%2f", 250, 5_000),
        ("slashes", "/", 250, 50_000),
        ("backslashes", "\\", 250, 50_000),
        ("parameters", ";a=b", 4_000, 12_000),
        ("segments", "a/", 250, 25_000),
        ("everything", "a;b/..//%2f%5c%252f", 40, 3_000),
        ("a query", "?a=%", 12_000, 12_000),
    ] {
        for (prefix, count) in [("/paid/", below), ("/paid/", above), ("/nothing/", below)] {
            let target = format!("{prefix}{}", piece.repeat(count));
            let started = Instant::now();
            let seen = verdict(&verifier.ask(&target).send().await);
            let took = started.elapsed();
            assert!([400, 402, 403].contains(&seen.0), "{name}: {seen:?}");
            assert!(took < Duration::from_secs(2), "{name}: {took:?}");
        }
    }
    let address = format!("/verify/{}", "a/".repeat(20_000));
    let seen = verdict(&verifier.ask("/free/x").address(&address).send().await);
    assert_eq!(seen, (403, "unknown_offer".to_owned()));
    // A request line that is larger than a whole block may be.
    let line = format!(
        "GET /verify?{} HTTP/1.1\r\nHost: v\r\n\r\n",
        "a".repeat(70_000)
    );
    let stream = connect(&verifier).await;
    let answer = answer_to(stream, line.as_bytes(), Duration::from_secs(5)).await;
    assert!(
        statuses(&answer)
            .iter()
            .all(|status| [414, 431].contains(status)),
        "{answer:?}"
    );
}

/// Pieces that servers disagree about.
const SPICE: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b"%2e%2e",
    b"%2f",
    b"%00",
    b"%",
    b";",
    b"\\",
    b"//",
    b"/../",
    b"#",
    b"?",
    b"@",
    b"\xff\xfe",
    b"\xc0\xaf",
    b"HTTP/1.0",
    b"HTTP/2",
    b"X-Forwarded-Uri: /free\r\n",
    b"X_Forwarded_Uri: /x\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n",
    b"Connection: upgrade\r\n",
    b"X-Forwarded-Method: OPTIONS\r\n",
    b"Origin: null\r\nAccess-Control-Request-Method: GET\r\n",
    b"X-Payment: e30=\r\n",
    b"GET /verify HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
];

/// One request that once was sound.
fn nonsense(dice: &mut Dice, payment: &str) -> Vec<u8> {
    let method = dice.one(&[
        "GET", "GET", "HEAD", "POST", "OPTIONS", "CONNECT", "BREW", "",
    ]);
    let path = dice.one(&[
        "/verify",
        "/verify",
        "/verify",
        "/verify/shop/report",
        "/verify/shop/none",
        "/verify//",
        "/verify/~x/shop/report",
        "/",
        "*",
        "http://v/verify",
        "/verify?x=/free",
        "//verify",
        "/verify/%2e%2e/free",
        "/metrics",
    ]);
    let target = dice.one(&[
        "/", "/x", "/free", "/a/../b", "//", "/%2e%2e/", "/x?y=z", "x", "", "*",
    ]);
    let mut call = format!(
        "{method} {path} HTTP/1.1\r\nHost: v\r\nX-Forwarded-Uri: {target}\r\n\
         X-Forwarded-Method: {}\r\nX-Forwarded-Host: {}\r\nX-Forwarded-Proto: https\r\n",
        dice.one(&["GET", "OPTIONS", "HEAD", ""]),
        dice.one(&["shop.example", "", "a,b", "[::1]:80", "shop.example."]),
    );
    match dice.below(4) {
        0 => call.push_str(&format!("Payment-Signature: {payment}\r\n")),
        1 => call.push_str(&format!("X-Payment: {payment}\r\n")),
        _ => {}
    }
    let mut call = call.into_bytes();
    call.extend_from_slice(b"\r\n");
    for _ in 0..dice.below(5) {
        let at = dice.below(call.len());
        match dice.below(4) {
            0 => drop(call.splice(at..at, dice.one(SPICE).iter().copied())),
            1 => call[at] = u8::try_from(dice.below(256)).expect("a byte"),
            2 => {
                let end = (at + dice.below(20)).min(call.len());
                drop(call.drain(at..end));
            }
            _ => {
                let end = (at + dice.below(200)).min(call.len());
                let copy = call[at..end].to_vec();
                drop(call.splice(at..at, copy));
            }
        }
        if call.is_empty() {
            return call;
        }
    }
    call
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_two_thousand_random_requests_neither_pass_nor_hurt() {
    let facilitator = Scripted::start().await;
    // Everything is sold, so whatever passes is a bug.
    let text = format!(
        "chain: base-sepolia\n\
         wallet: \"{SELLER}\"\n\
         facilitatorURL: {}\n\
         routes:\n\
         - {{pattern: \"/*\", price: \"0.001\", offerNamespace: shop, offerName: report}}\n\
         - {{pattern: \"/x/*\", price: \"0.002\", preflight: pass, offerNamespace: shop, offerName: x}}\n",
        facilitator.url()
    );
    let verifier = Verifier::start(&text).await;
    let challenge = verifier.challenge("/").await;
    let mut broken = Wallet::new(98).pay_v2(&challenge);
    broken["accepted"]["amount"] = "1".into();
    let payment = STANDARD.encode(broken.to_string());
    let url = verifier.url("");
    let address = url.trim_start_matches("http://").to_owned();
    let mut workers = JoinSet::new();
    for worker in 0..AT_A_TIME {
        let (address, payment) = (address.clone(), payment.clone());
        workers.spawn(async move {
            let mut answered = 0;
            for number in 0..REQUESTS / AT_A_TIME {
                let mut dice = Dice::new(worker * REQUESTS + number + 1);
                let call = nonsense(&mut dice, &payment);
                let stream = TcpStream::connect(&address).await.expect("it listens");
                let answer = answer_to(stream, &call, Duration::from_millis(60)).await;
                let shown = || {
                    (
                        String::from_utf8_lossy(&call).into_owned(),
                        String::from_utf8_lossy(&answer).into_owned(),
                    )
                };
                for status in statuses(&answer) {
                    assert!(
                        (400..500).contains(&status) || status == 503,
                        "{status}: {:#?}",
                        shown()
                    );
                    answered += 1;
                }
            }
            answered
        });
    }
    let mut answered = 0;
    while let Some(worker) = workers.join_next().await {
        answered += worker.expect("every answer is a refusal");
    }
    assert!(answered > REQUESTS / 2, "only {answered} were answered");
    assert_eq!(facilitator.settles(), 0);
    assert!(!verifier.log().contains("panicked"), "{}", verifier.log());
    assert_eq!(verifier.admin("/readyz").await.status, 200);
    let good = Wallet::new(99).pay_v2(&challenge);
    assert_eq!(
        verifier.ask("/").pay(&good).send().await.status,
        200,
        "it goes on"
    );
}
