//! Real sockets on loopback. Where a test is about time the clock is paused: it moves only when
//! everything waits.

use super::*;
use axum::routing::get;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::SendRequest;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::Instant;

/// A served port, with the handles that a test needs.
struct Served {
    server: Server,
    tasks: Tasks,
    readiness: Readiness,
}

impl Served {
    async fn at(address: &str, router: Router) -> Self {
        let (tasks, readiness) = (Tasks::new(), Readiness::new());
        let listener = Listener::bind(&address.parse().unwrap()).await.unwrap();
        let server = listener.serve("test", routed(router), &tasks, &readiness);
        Self {
            server,
            tasks,
            readiness,
        }
    }

    async fn new() -> Self {
        Self::at("127.0.0.1:0", router()).await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.server.local_addr()).await.unwrap()
    }
}

fn router() -> Router {
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route(
            "/peer",
            get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() }),
        )
        .route(
            "/slow",
            get(|| async {
                tokio::time::sleep(Duration::from_secs(60)).await;
                "slow"
            }),
        )
        .route("/panic", get(panics))
}

/// A handler that tells when a request has begun and answers when it is released.
fn held(begun: &Arc<Notify>, release: &Arc<Notify>) -> Router {
    let (tell, wait) = (Arc::clone(begun), Arc::clone(release));
    let handler = get(move || async move {
        tell.notify_one();
        wait.notified().await;
        "finished"
    });
    Router::new().route("/", handler)
}

async fn http2(served: &Served) -> SendRequest<Empty<Bytes>> {
    let io = TokioIo::new(served.connect().await);
    let executor = StreamTasks(served.tasks.clone());
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .unwrap();
    served
        .tasks
        .spawn_finite("client", async move { connection.await.unwrap() });
    sender
}

async fn panics() -> StatusCode {
    panic!("as the test wants, with a secret")
}

async fn send(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// One answer: head and as much body as its Content-Length says.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    loop {
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await.unwrap();
        assert_ne!(read, 0, "the connection ended within an answer: {text:?}");
        text.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return text;
        }
    }
}

async fn get_path(stream: &mut TcpStream, path: &str) -> String {
    send(stream, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    answer(stream).await
}

/// What still comes until the connection ends; a reset is an end too.
async fn until_end(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    let _reset = stream.read_to_end(&mut rest).await;
    String::from_utf8(rest).unwrap()
}

#[tokio::test]
async fn requests_are_answered_and_connections_kept() {
    let served = Served::new().await;
    let mut stream = served.connect().await;
    for _ in 0..3 {
        let text = get_path(&mut stream, "/").await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nhello"));
        assert!(!text.contains("connection:"), "{text}");
    }
}

/// `:8080` takes both families, and `trustedProxies` sees IPv4 peers as IPv4.
#[tokio::test]
async fn all_interfaces_take_both_families_and_peers_are_canonical() {
    let served = Served::at(":0", router()).await;
    let bound = served.server.local_addr();
    let mut ips = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
    if bound.is_ipv6() {
        ips.push(Ipv6Addr::LOCALHOST.into());
    }
    for ip in ips {
        let mut stream = TcpStream::connect((ip, bound.port())).await.unwrap();
        let text = get_path(&mut stream, "/peer").await;
        assert!(text.ends_with(&format!("\r\n\r\n{ip}")), "{text}");
    }
}

/// M12. The first three letters of an HTTP/2 preface are the case hyper does not time.
#[tokio::test(start_paused = true)]
async fn a_header_that_is_never_finished_ends_its_connection() {
    let served = Served::new().await;
    for beginning in [
        "",
        "PRI",
        "GET / HTTP/1.1\r\nHost:",
        "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n",
    ] {
        let start = Instant::now();
        let mut stream = served.connect().await;
        send(&mut stream, beginning).await;
        assert_eq!(until_end(&mut stream).await, "", "{beginning:?}");
        let seconds = start.elapsed().as_secs();
        assert_eq!(seconds, HEADER_TIMEOUT.as_secs(), "{beginning:?}");
    }
}

/// M12: a byte now and then does not prolong it, on a connection in use neither.
#[tokio::test(start_paused = true)]
async fn a_trickled_header_ends_its_connection() {
    let served = Served::new().await;
    let mut stream = served.connect().await;
    get_path(&mut stream, "/").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let start = Instant::now();
    for byte in "GET / HTTP/1.1\r\n".chars() {
        if stream.write_all(byte.to_string().as_bytes()).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    until_end(&mut stream).await;
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_outlives_those_of_its_clients() {
    let served = Served::new().await;
    let mut stream = served.connect().await;
    for _ in 0..3 {
        assert!(get_path(&mut stream, "/").await.contains("200 OK"));
        tokio::time::sleep(Duration::from_secs(100)).await;
    }
    let start = Instant::now();
    assert_eq!(until_end(&mut stream).await, "");
    assert!(start.elapsed() <= IDLE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_not_cut() {
    let served = Served::new().await;
    let mut stream = served.connect().await;
    assert!(get_path(&mut stream, "/slow").await.ends_with("slow"));
    assert!(get_path(&mut stream, "/").await.ends_with("hello"));
}

/// M12.
#[tokio::test]
async fn a_hundred_headers_are_allowed_and_no_more() {
    let served = Served::new().await;
    let with = |count: usize| {
        let headers: String = (1..count).map(|n| format!("x-{n}: y\r\n")).collect();
        format!("GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n")
    };
    let mut stream = served.connect().await;
    send(&mut stream, &with(MAX_HEADERS)).await;
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "));
    send(&mut stream, &with(MAX_HEADERS + 1)).await;
    assert!(until_end(&mut stream).await.starts_with("HTTP/1.1 431 "));
}

/// M12.
#[tokio::test]
async fn a_header_block_beyond_64_kib_is_refused() {
    let served = Served::new().await;
    let with = |bytes: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: x\r\na: {}\r\n\r\n",
            "a".repeat(bytes)
        )
    };
    let mut stream = served.connect().await;
    send(&mut stream, &with(60 * 1024)).await;
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "));
    send(&mut stream, &with(70 * 1024)).await;
    assert!(until_end(&mut stream).await.starts_with("HTTP/1.1 431 "));
}

/// R1, R13: a panic is a 500 that tells nothing, and ends nothing else.
#[tokio::test]
async fn a_panic_is_a_500_and_the_connection_goes_on() {
    let served = Served::new().await;
    let mut stream = served.connect().await;
    let text = get_path(&mut stream, "/panic").await;
    assert!(text.starts_with("HTTP/1.1 500 "), "{text}");
    assert!(text.contains("content-type: application/json\r\n"));
    assert!(
        text.contains(r#""reason":"internal_error""#) && !text.contains("secret"),
        "{text}"
    );
    assert!(get_path(&mut stream, "/").await.ends_with("hello"));
}

#[tokio::test]
async fn http2_is_spoken_with_the_same_bounds() {
    let served = Served::new().await;
    let mut sender = http2(&served).await;
    let mut status_with = async |headers: usize| {
        let mut request = Request::builder().uri("http://x/");
        for n in 0..headers {
            request = request.header(format!("x-{n}"), "y");
        }
        sender.ready().await.unwrap();
        let request = request.body(Empty::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status();
        (
            status,
            answer.into_body().collect().await.unwrap().to_bytes(),
        )
    };
    assert_eq!(status_with(3).await, (StatusCode::OK, "hello".into()));
    let (status, body) = status_with(MAX_HEADERS + 1).await;
    assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert!(String::from_utf8_lossy(&body).contains("too_many_headers"));
    assert_eq!(status_with(3).await.0, StatusCode::OK);
}

/// M12: what is above the capacity waits, and is served when there is room.
#[tokio::test]
async fn a_connection_above_the_capacity_waits_for_room() {
    let (tasks, readiness) = (Tasks::new(), Readiness::new());
    let mut listener = Listener::bind(&"127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    listener.capacity = 1;
    let server = listener.serve("test", routed(router()), &tasks, &readiness);
    let mut first = TcpStream::connect(server.local_addr()).await.unwrap();
    get_path(&mut first, "/").await;
    let mut second = TcpStream::connect(server.local_addr()).await.unwrap();
    send(&mut second, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    for _ in 0..3 {
        get_path(&mut first, "/").await;
        let early = second.try_read(&mut [0; 1]).unwrap_err();
        assert_eq!(early.kind(), io::ErrorKind::WouldBlock);
    }
    drop(first);
    assert!(answer(&mut second).await.ends_with("hello"));
}

/// Shutdown, step 1: still accepting, and every answer asks its client to go elsewhere.
#[tokio::test]
async fn while_draining_answers_close_their_connections() {
    let served = Served::new().await;
    let mut kept = served.connect().await;
    get_path(&mut kept, "/").await;
    served.readiness.begin_draining();
    for mut stream in [kept, served.connect().await] {
        let text = get_path(&mut stream, "/").await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(text.contains("\r\nconnection: close\r\n"), "{text}");
        assert_eq!(until_end(&mut stream).await, "");
    }
}

/// Shutdown, step 2 (M8): what is in flight gets its answer, what is idle is closed.
#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_and_accepts_nothing() {
    let (begun, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let served = Served::at("127.0.0.1:0", held(&begun, &release)).await;
    let address = served.server.local_addr();
    let mut idle = served.connect().await;
    let mut busy = served.connect().await;
    send(&mut busy, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    begun.notified().await;

    served.tasks.begin_shutdown();
    let (open, ()) = tokio::join!(served.server.drain(Duration::from_secs(30)), async {
        assert_eq!(until_end(&mut idle).await, "");
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
        release.notify_one();
        let text = until_end(&mut busy).await;
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("finished"),
            "{text}"
        );
        assert!(text.contains("\r\nconnection: close\r\n"), "{text}");
    });
    assert_eq!(open, 0);
}

/// A request that is in the socket when the port stops is not lost.
#[tokio::test(start_paused = true)]
async fn a_new_connection_may_bring_its_request_while_the_port_stops() {
    let served = Served::new().await;
    let mut stream = served.connect().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    served.readiness.begin_draining();
    served.tasks.begin_shutdown();
    let (open, ()) = tokio::join!(served.server.drain(Duration::from_secs(30)), async {
        tokio::time::sleep(FIRST_REQUEST_GRACE / 2).await;
        assert!(get_path(&mut stream, "/").await.ends_with("hello"));
    });
    assert_eq!(open, 0);
}

#[tokio::test]
async fn a_drain_finishes_http2_streams() {
    let (begun, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let served = Served::at("127.0.0.1:0", held(&begun, &release)).await;
    let mut sender = http2(&served).await;
    let request = Request::get("http://x/").body(Empty::new()).unwrap();
    let answer = sender.send_request(request);
    let (answer, open) = tokio::join!(answer, async {
        begun.notified().await;
        served.tasks.begin_shutdown();
        let (open, ()) = tokio::join!(served.server.drain(Duration::from_secs(30)), async {
            tokio::task::yield_now().await;
            release.notify_one();
        });
        open
    });
    assert_eq!(answer.unwrap().status(), StatusCode::OK);
    assert_eq!(open, 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_with_its_grace_and_says_what_is_open() {
    let served = Served::new().await;
    let mut busy = served.connect().await;
    send(&mut busy, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    served.tasks.begin_shutdown();
    let start = Instant::now();
    assert_eq!(served.server.drain(Duration::from_secs(25)).await, 1);
    assert_eq!(start.elapsed().as_secs(), 25);
    assert!(
        answer(&mut busy).await.ends_with("slow"),
        "the grace cancels nothing"
    );
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_says_what_to_do() {
    let first = Listener::bind(&"127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let taken: ListenAddress = first.local_addr().to_string().parse().unwrap();
    let error = Listener::bind(&taken).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "cannot listen on {taken}: another process listens there; stop it or choose another port"
        )
    );
    let foreign = "192.0.2.1:0".parse().unwrap();
    let error = Listener::bind(&foreign).await.unwrap_err().to_string();
    assert!(
        error.contains("this machine does not have that address"),
        "{error}"
    );
}

#[test]
fn listen_addresses_are_read_as_people_write_them() {
    for (text, shown) in [
        (":8080", ":8080"),
        ("[::]:8080", ":8080"),
        ("0.0.0.0:8080", "0.0.0.0:8080"),
        ("127.0.0.1:9090", "127.0.0.1:9090"),
        ("[::1]:9090", "[::1]:9090"),
        (":0", ":0"),
    ] {
        assert_eq!(
            text.parse::<ListenAddress>().unwrap().to_string(),
            shown,
            "{text}"
        );
    }
    for text in [
        "",
        ":",
        "8080",
        ":+80",
        ":-1",
        ":65536",
        "localhost:80",
        "::1:80",
        ":80 ",
        "http://x:80",
    ] {
        let error = text.parse::<ListenAddress>().unwrap_err().to_string();
        assert!(
            error.contains("use \":8080\" for all interfaces"),
            "{text:?}: {error}"
        );
    }
}
