//! https: an authority of one's own, one that nobody knows, handshakes that hang, tunnels.
//!
//! The certificates beside this file are valid for a century; the authority's key was thrown away.

use super::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

/// A client that trusts the test authority, without proxies.
fn trusting() -> Client {
    client_through(Matcher::builder().build())
}

/// A client that trusts the test authority and goes through these proxies.
pub(super) fn client_through(proxies: Matcher) -> Client {
    let extra_ca = Some(file("ca.pem"));
    Client::with_proxies(
        ClientConfig {
            extra_ca,
            ..ClientConfig::default()
        },
        proxies,
    )
    .unwrap()
}

fn file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/it/facilitator", name]
        .iter()
        .collect()
}

fn server_config() -> Arc<ServerConfig> {
    let chain = CertificateDer::from_pem_file(file("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server-key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    Arc::new(config)
}

/// Answers `requests` TLS connections with a valid verdict each, after an optional `CONNECT`, on a
/// thread of its own; what the proxy was asked comes back.
fn serve_tls(requests: usize, tunnel: bool) -> (SocketAddr, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let config = server_config();
    let server = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for _ in 0..requests {
            let (mut stream, _) = listener.accept().unwrap();
            if tunnel {
                asked.push(read_until_blank(&mut stream).unwrap());
                stream
                    .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    .unwrap();
            }
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(session, stream);
            // A client that does not trust us ends the handshake: that is its test.
            if read_until_blank(&mut stream).is_ok() {
                let body = json!({ "isValid": true, "payer": PAYER }).to_string();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).unwrap();
                stream.flush().unwrap();
            }
        }
        asked
    });
    (address, server)
}

/// Reads a head; what follows it is left to the end of the connection.
fn read_until_blank(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[tokio::test]
async fn an_extra_authority_is_trusted() {
    let (address, server) = serve_tls(1, false);
    let endpoint = endpoint_at(&format!("https://localhost:{}", address.port()));
    assert_valid(verify(&trusting(), &endpoint).await);
    assert!(server.join().unwrap().is_empty());
}

#[test]
fn a_missing_bundle_is_refused_at_start_and_missing_system_roots_are_not() {
    let missing = Some(file("no-such-file.pem"));
    let config = ClientConfig {
        extra_ca: missing,
        ..ClientConfig::default()
    };
    let error = Client::new(config).expect_err("the file is not there");
    assert!(error.to_string().contains("no-such-file.pem"), "{error}");
    assert!(Client::new(ClientConfig::default()).is_ok());
}

#[tokio::test]
async fn a_certificate_of_nobody_was_never_sent_anything() {
    // Two attempts of verify, two of settle.
    let (address, server) = serve_tls(4, false);
    let endpoint = endpoint_on_tls(address);
    let client = client();
    let lost = fault(verify(&client, &endpoint).await);
    let (class, settled) = class(settle(&client, &endpoint).await);
    assert_eq!(class, Class::NotSent, "{settled:?}");
    // On a machine without any root the reason is that; both name certificates.
    let lacking = lost.kind == FaultKind::Error && lost.detail.contains("no CA certificates");
    assert!(lacking || lost.kind == FaultKind::Unreachable, "{lost:?}");
    assert!(lost.detail.contains("certificate"), "{lost:?}");
    assert_presentable(&lost);
    if !lacking {
        server.join().unwrap();
    }
}

fn endpoint_on_tls(address: SocketAddr) -> Arc<Endpoint> {
    endpoint_at(&format!("https://{address}"))
}

#[tokio::test]
async fn a_handshake_that_hangs_is_a_timeout_and_not_sent() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = endpoint_on_tls(silent.local_addr().unwrap());
    let client = trusting();
    let limit = Duration::from_secs(1);
    let started = Instant::now();
    assert_eq!(
        fault(verify_within(&client, &endpoint, limit).await).kind,
        FaultKind::Timeout
    );
    let (class, late) = class(settle_within(&client, &endpoint, limit).await);
    let late = late.expect("no verdict was given");
    assert_eq!(
        (class, late.kind),
        (Class::NotSent, FaultKind::Timeout),
        "{late:?}"
    );
    assert!(started.elapsed() < limit * 2 * SLACK);
}

#[tokio::test]
async fn https_goes_through_a_connect_tunnel_and_the_proxy_sees_no_token() {
    let (address, server) = serve_tls(1, true);
    let rule = format!("http://user:word@{address}");
    let client = client_through(Matcher::builder().https(rule).build());
    assert_valid(verify(&client, &endpoint_at("https://facilitator.test")).await);
    let asked = server.join().unwrap();
    assert!(
        asked[0].starts_with("CONNECT facilitator.test:443 HTTP/1.1\r\n"),
        "{asked:?}"
    );
    assert!(
        asked[0].contains("Proxy-Authorization: Basic dXNlcjp3b3Jk\r\n"),
        "{asked:?}"
    );
    assert!(!asked[0].contains("sk-do-not-print"), "{asked:?}");
}
