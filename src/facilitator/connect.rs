//! How a connection to a facilitator comes about: names, addresses, proxies, TLS.
//!
//! hyper-util's own connector divides its timeout by the number of addresses; ours gives each
//! address the whole of it, in the resolver's order, and bounds the sum. A proxy is used as curl
//! would: `CONNECT` for https, absolute form for http. Loopback never goes through a proxy, because
//! there it would name the proxy's own machine.
//!
//! An error of this module means that no request was written (`is_connect`).

use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tower::{BoxError, Service};

/// Connects to one facilitator by the way that was chosen when its pool was made.
#[derive(Clone)]
pub(super) struct Connector {
    way: Way,
    limit: Duration,
}

/// How the facilitator is reached.
#[derive(Clone)]
enum Way {
    Plain(Dialer),
    Tls(HttpsConnector<Dialer>),
    /// Plain http through a proxy, which gets the absolute form.
    Forward(Dialer, Uri),
    /// TLS inside a `CONNECT` tunnel.
    Tunnel(HttpsConnector<Tunnel<Dialer>>),
}

/// Resolves a name and tries its addresses one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialer {
    /// For each address.
    pub(super) timeout: Duration,
}

/// A connection, and whether its other end is a forwarding proxy.
pub(super) struct Stream {
    io: MaybeHttpsStream<TokioIo<TcpStream>>,
    forwarded: bool,
}

impl Connector {
    /// Straight to the facilitator; `tls` decides between https and http.
    pub(super) fn direct(dialer: Dialer, tls: Option<ClientConfig>) -> Self {
        let way = match tls {
            Some(tls) => Way::Tls(over_tls(tls, dialer)),
            None => Way::Plain(dialer),
        };
        Self::new(way, dialer)
    }

    /// Through the http proxy at `proxy`.
    pub(super) fn proxied(
        dialer: Dialer,
        tls: Option<ClientConfig>,
        proxy: Uri,
        authorization: Option<&http::HeaderValue>,
    ) -> Self {
        let way = match tls {
            Some(tls) => {
                let tunnel = Tunnel::new(proxy, dialer);
                let tunnel = match authorization {
                    Some(value) => tunnel.with_auth(value.clone()),
                    None => tunnel,
                };
                Way::Tunnel(over_tls(tls, tunnel))
            }
            None => Way::Forward(dialer, proxy),
        };
        Self::new(way, dialer)
    }

    fn new(way: Way, dialer: Dialer) -> Self {
        Self {
            way,
            limit: dialer.timeout * MAX_ADDRESSES + HANDSHAKE,
        }
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, facilitator: Uri) -> Self::Future {
        let mut way = self.way.clone();
        let limit = self.limit;
        let forwarded = matches!(way, Way::Forward(..));
        let connect = async move {
            match &mut way {
                Way::Plain(dialer) => Ok(MaybeHttpsStream::Http(dialer.call(facilitator).await?)),
                Way::Tls(tls) => tls.call(facilitator).await,
                Way::Forward(dialer, proxy) => {
                    Ok(MaybeHttpsStream::Http(dialer.call(proxy.clone()).await?))
                }
                Way::Tunnel(tunnel) => tunnel.call(facilitator).await,
            }
        };
        Box::pin(async move {
            match tokio::time::timeout(limit, connect).await {
                Ok(connected) => connected.map(|io| Stream { io, forwarded }),
                Err(_elapsed) => Err(timed_out("name, proxy or TLS handshake", limit).into()),
            }
        })
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let timeout = self.timeout;
        Box::pin(async move {
            let host = bare_host(&to).to_owned();
            let default = if to.scheme() == Some(&Scheme::HTTPS) {
                443
            } else {
                80
            };
            let port = to.port_u16().unwrap_or(default);
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            let addresses = lookup_host((host, port)).await?;
            for address in addresses.take(usize::try_from(MAX_ADDRESSES).unwrap_or(usize::MAX)) {
                match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
                    Ok(Ok(stream)) => {
                        stream.set_nodelay(true)?;
                        return Ok(TokioIo::new(stream));
                    }
                    Ok(Err(error)) => last = error,
                    Err(_elapsed) => last = timed_out("TCP connection", timeout),
                }
            }
            Err(last)
        })
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.forwarded)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

/// Whether a URL names this machine.
pub(super) fn is_loopback(url: &Uri) -> bool {
    let host = bare_host(url);
    host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
        || host
            .parse()
            .is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

/// The host without the brackets of an IPv6 literal.
fn bare_host(url: &Uri) -> &str {
    url.host()
        .unwrap_or_default()
        .trim_start_matches('[')
        .trim_end_matches(']')
}

fn over_tls<C>(tls: ClientConfig, inner: C) -> HttpsConnector<C> {
    HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(inner)
}

fn timed_out(what: &str, limit: Duration) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("{what} not done within {limit:?}"),
    )
}

/// Most addresses of a name that are tried.
const MAX_ADDRESSES: u32 = 4;
/// What name, proxy and TLS may take beside the addresses.
const HANDSHAKE: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_recognised_in_every_spelling() {
        for url in [
            "http://localhost:8080",
            "http://LOCALHOST",
            "http://pay.localhost",
            "http://127.0.0.1",
            "http://127.9.9.9:1",
            "http://[::1]:80",
            "http://[::ffff:127.0.0.1]",
        ] {
            assert!(is_loopback(&url.parse().unwrap()), "{url}");
        }
        for url in [
            "https://localhost.example",
            "http://10.0.0.1",
            "http://[2001:db8::1]",
        ] {
            assert!(!is_loopback(&url.parse().unwrap()), "{url}");
        }
    }
}
