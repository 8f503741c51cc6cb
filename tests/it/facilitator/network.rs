//! Faults below HTTP: names, refused and silent addresses, cut and stalled connections, proxies.

use super::*;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// What is never sent is unreachable (or a timeout) for verify and `NotSent` for settle.
async fn assert_never_sent(endpoint: &Arc<Endpoint>, kind: FaultKind) {
    let client = client();
    let lost = fault(verify(&client, endpoint).await);
    assert_eq!(lost.kind, kind, "{lost:?}");
    assert_presentable(&lost);
    let (class, lost) = class(settle(&client, endpoint).await);
    let lost = lost.expect("no verdict was given");
    assert_eq!((class, lost.kind), (Class::NotSent, kind), "{lost:?}");
    assert_presentable(&lost);
}

#[tokio::test]
async fn a_refused_connection_was_never_sent() {
    let facilitator = Scripted::start().await;
    let proxy = Chaos::start(facilitator.addr()).await;
    proxy.set(Mode::Refuse).await;
    assert_never_sent(&endpoint_on(proxy.addr()), FaultKind::Unreachable).await;
    assert!(facilitator.calls().is_empty());

    proxy.set(Mode::Pass).await;
    let (class, _) = class(settle(&client(), &endpoint_on(proxy.addr())).await);
    assert_eq!((class, facilitator.settles()), (Class::Verdict, 1));
}

#[tokio::test]
async fn a_name_that_does_not_resolve_was_never_sent() {
    assert_never_sent(
        &endpoint_at("http://facilitator.invalid"),
        FaultKind::Unreachable,
    )
    .await;
}

#[tokio::test]
async fn a_url_that_cannot_be_called_was_never_sent() {
    assert_never_sent(&endpoint_at("facilitator"), FaultKind::Error).await;
}

#[tokio::test]
async fn an_address_that_drops_syns_is_given_up_after_the_connect_timeout() {
    // A full accept queue drops further connection attempts.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let full = socket.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let mut parked = Vec::new();
    while let Ok(connected) = tokio::time::timeout(BRIEF, TcpStream::connect(address)).await {
        parked.push(connected.unwrap());
    }
    let started = Instant::now();
    assert_never_sent(&endpoint_on(address), FaultKind::Timeout).await;
    let both = Duration::from_secs(2);
    assert!(started.elapsed() >= both && started.elapsed() < both * SLACK);
}

#[tokio::test]
async fn a_deadline_that_passes_while_connecting_means_not_sent() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let full = socket.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let mut parked = Vec::new();
    while let Ok(connected) = tokio::time::timeout(BRIEF, TcpStream::connect(address)).await {
        parked.push(connected.unwrap());
    }
    let (class, late) = class(settle_within(&client(), &endpoint_on(address), BRIEF).await);
    let late = late.expect("no verdict was given");
    assert_eq!(
        (class, late.kind),
        (Class::NotSent, FaultKind::Timeout),
        "{late:?}"
    );
}

#[tokio::test]
async fn a_connection_that_is_closed_or_reset_at_accept_is_unreachable() {
    let facilitator = Scripted::start().await;
    for greeting in [Greeting::Close, Greeting::Reset] {
        facilitator.greet(greeting);
        let client = client();
        let endpoint = endpoint_at(&facilitator.url());
        assert_eq!(
            fault(verify(&client, &endpoint).await).kind,
            FaultKind::Unreachable
        );
        // Whether the request was on the wire before the end arrived is a matter of microseconds;
        // both answers are true, and neither is a refusal.
        let (class, lost) = class(settle(&client, &endpoint).await);
        assert!(
            matches!(class, Class::NotSent | Class::Unknown),
            "{class:?}"
        );
        assert_eq!(lost.expect("no verdict").kind, FaultKind::Unreachable);
    }
    assert!(facilitator.calls().is_empty());
    facilitator.greet(Greeting::Serve);
    assert_valid(verify(&client(), &endpoint_at(&facilitator.url())).await);
}

#[tokio::test]
async fn a_request_cut_on_its_way_up_is_an_unknown_settlement() {
    let facilitator = Scripted::start().await;
    let proxy = Chaos::start(facilitator.addr()).await;
    proxy.set(Mode::CutUp(60)).await;
    let client = client();
    let endpoint = endpoint_on(proxy.addr());
    assert_eq!(
        fault(verify(&client, &endpoint).await).kind,
        FaultKind::Unreachable
    );
    let (class, _) = class(settle(&client, &endpoint).await);
    assert_eq!(class, Class::Unknown, "part of it went out");
    assert!(facilitator.calls().is_empty());
}

#[tokio::test]
async fn an_answer_cut_on_its_way_down_is_an_unknown_settlement_sent_once() {
    for bytes in [10, 90] {
        let facilitator = Scripted::start().await;
        let proxy = Chaos::start(facilitator.addr()).await;
        proxy.set(Mode::CutDown(bytes)).await;
        let (class, lost) = class(settle(&client(), &endpoint_on(proxy.addr())).await);
        assert_eq!(class, Class::Unknown, "{lost:?}");
        assert_eq!(facilitator.settles(), 1);
    }
}

#[tokio::test]
async fn a_stalled_network_times_out_and_a_reset_one_is_unknown() {
    let facilitator = Scripted::start().await;
    let proxy = Chaos::start(facilitator.addr()).await;
    let client = client();
    let endpoint = endpoint_on(proxy.addr());
    proxy.set(Mode::Stall).await;
    let (class_, late) = class(settle_within(&client, &endpoint, BRIEF).await);
    assert_eq!(class_, Class::Unknown);
    assert_eq!(late.expect("no verdict").kind, FaultKind::Timeout);

    proxy.set(Mode::Pass).await;
    facilitator.on_settle(Reply::hang());
    let lost = async {
        let (class, lost) = class(settle(&client, &endpoint).await);
        (class, lost.expect("no verdict").kind)
    };
    let reset = async {
        while facilitator.settles() == 0 {
            tokio::task::yield_now().await;
        }
        proxy.set(Mode::Reset).await;
    };
    let (lost, ()) = tokio::join!(lost, reset);
    assert_eq!(lost, (Class::Unknown, FaultKind::Unreachable));
    assert_eq!(facilitator.settles(), 1);
}

#[tokio::test]
async fn a_slow_network_is_only_slow() {
    let facilitator = Scripted::start().await;
    let proxy = Chaos::start(facilitator.addr()).await;
    proxy.set(Mode::Delay(Duration::from_millis(50))).await;
    let started = Instant::now();
    assert_valid(verify(&client(), &endpoint_on(proxy.addr())).await);
    assert!(
        started.elapsed() >= Duration::from_millis(100),
        "once up, once down"
    );
}

fn through(proxies: Matcher) -> Client {
    Client::with_proxies(ClientConfig::default(), proxies).unwrap()
}

#[tokio::test]
async fn plain_http_goes_through_the_proxy_in_absolute_form_with_its_credentials() {
    // The scripted facilitator plays the forwarding proxy.
    let proxy = Scripted::start().await;
    let rule = format!("http://user:word@{}", proxy.addr());
    let client = through(Matcher::builder().http(rule).no("direct.test").build());
    assert_valid(verify(&client, &endpoint_at("http://facilitator.test:8402")).await);
    let call = &proxy.calls()[0];
    assert_eq!(call.path, "http://facilitator.test:8402/verify");
    assert_eq!(call.headers["host"], "facilitator.test:8402");
    assert_eq!(call.headers["proxy-authorization"], "Basic dXNlcjp3b3Jk");

    let direct = fault(verify(&client, &endpoint_at("http://direct.test")).await);
    assert_eq!(
        direct.kind,
        FaultKind::Unreachable,
        "NO_PROXY: the name is resolved here"
    );
    assert_eq!(proxy.calls().len(), 1);
}

#[tokio::test]
async fn loopback_is_never_proxied() {
    let (facilitator, proxy) = (Scripted::start().await, Scripted::start().await);
    let client = through(Matcher::builder().all(proxy.url()).build());
    assert_valid(verify(&client, &endpoint_at(&facilitator.url())).await);
    let named = format!("http://localhost:{}", facilitator.addr().port());
    assert_valid(verify(&client, &endpoint_at(&named)).await);
    assert_eq!((facilitator.verifies(), proxy.connections()), (2, 0));
}

#[tokio::test]
async fn a_proxy_that_refuses_the_tunnel_means_not_sent() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let rule = format!("http://{}", listener.local_addr().unwrap());
    let client = super::tls::client_through(Matcher::builder().https(rule).build());
    let endpoint = endpoint_at("https://facilitator.test");
    let refuse = async {
        // One attempt and its repetition.
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"CONNECT facilitator.test:443 "));
            stream
                .write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                .await
                .unwrap();
        }
    };
    let (reply, ()) = tokio::join!(settle(&client, &endpoint), refuse);
    let (class, lost) = class(reply);
    assert_eq!(class, Class::NotSent, "{lost:?}");
    assert_eq!(lost.expect("no verdict").kind, FaultKind::Unreachable);
}
