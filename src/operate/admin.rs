//! One request to the admin port of a running verifier.
//!
//! A connection for each request, a deadline for the whole exchange and a bound on the answer: what
//! listens there may be anything. It speaks plain HTTP/1.1, as the admin port does.

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::time::Duration;
use tokio::net::TcpStream;

/// Why nobody could be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Not HOST:PORT.
    #[error(
        "{0:?} is not the address of an admin port: use host and port, as in \"127.0.0.1:9090\""
    )]
    Address(String),
    /// Nobody listens.
    #[error(
        "cannot reach the admin port at {address}: is x402-verifier running, and is this its \
         --admin-listen?"
    )]
    Connect {
        /// Who was asked.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// No answer in time.
    #[error(
        "no answer from the admin port at {address} within {seconds} s: it hangs or something else \
         listens there"
    )]
    Deadline {
        /// Who was asked.
        address: String,
        /// For how long.
        seconds: u64,
    },
    /// An answer that is too long.
    #[error(
        "the answer of the admin port at {address} has more than {most} bytes: ask for less, with \
         --namespace, --name or --state"
    )]
    TooLong {
        /// Who was asked.
        address: String,
        /// How much is read.
        most: usize,
    },
    /// Not the HTTP of an admin port.
    #[error(
        "what listens at {address} does not answer as an admin port: is this the --admin-listen of \
         x402-verifier?"
    )]
    Exchange {
        /// Who was asked.
        address: String,
        /// What went wrong.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Where to ask, and for how long.
#[derive(Debug, Clone)]
pub(super) struct AdminPort {
    /// Host and port to connect to.
    pub(super) address: String,
    /// For one exchange.
    deadline: Duration,
    /// Largest body in bytes.
    most: usize,
}

impl AdminPort {
    /// The port that listens at `admin` (as in `--admin-listen`: `:9090`, `127.0.0.1:9090`).
    pub(super) fn at(admin: &str, deadline: Duration, most: usize) -> Result<Self, AskError> {
        let address = reachable(admin).ok_or_else(|| AskError::Address(admin.to_owned()))?;
        Ok(Self {
            address,
            deadline,
            most,
        })
    }

    pub(super) async fn get(&self, target: &str) -> Result<(StatusCode, Bytes), AskError> {
        self.ask(Method::GET, target, Bytes::new()).await
    }

    /// Posts JSON.
    pub(super) async fn post(
        &self,
        target: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), AskError> {
        self.ask(Method::POST, target, body).await
    }

    async fn ask(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), AskError> {
        let address = self.address.clone();
        let exchange = async {
            let stream =
                TcpStream::connect(&self.address)
                    .await
                    .map_err(|source| AskError::Connect {
                        address: self.address.clone(),
                        source,
                    })?;
            self.exchange(stream, method, target, body)
                .await
                .map_err(|source| self.failed(source))
        };
        tokio::time::timeout(self.deadline, exchange)
            .await
            .unwrap_or_else(|_elapsed| {
                Err(AskError::Deadline {
                    address,
                    seconds: self.deadline.as_secs(),
                })
            })
    }

    fn failed(&self, source: Box<dyn Error + Send + Sync>) -> AskError {
        let address = self.address.clone();
        if source.is::<LengthLimitError>() {
            AskError::TooLong {
                address,
                most: self.most,
            }
        } else {
            AskError::Exchange { address, source }
        }
    }

    async fn exchange(
        &self,
        stream: TcpStream,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Box<dyn Error + Send + Sync>> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, &self.address)
            .header(header::CONNECTION, "close")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let answer = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), self.most)
                .collect()
                .await?
                .to_bytes();
            Ok((status, body))
        };
        // The connection ends after the answer because the answer drops its sender; an error of it
        // is the answer's error too.
        let (answer, _connection) = tokio::join!(answer, connection);
        answer
    }
}

/// An address to connect to, from one to listen at: all interfaces are reached through loopback.
fn reachable(admin: &str) -> Option<String> {
    let address = admin
        .strip_prefix("http://")
        .unwrap_or(admin)
        .trim_end_matches('/');
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let host = match host {
        "" | "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        host => host,
    };
    Some(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_at_become_addresses_to_ask() {
        for (given, asked) in [
            (":9090", "127.0.0.1:9090"),
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("localhost:9090", "localhost:9090"),
            ("http://localhost:9090/", "localhost:9090"),
        ] {
            assert_eq!(reachable(given).as_deref(), Some(asked));
        }
        for given in ["", "9090", "localhost", "localhost:port", ":70000"] {
            assert_eq!(reachable(given), None, "{given:?}");
        }
    }
}
