//! The operator's commands against a running verifier.
//!
//! Today that is `ready`: it asks `/readyz` on the admin port and says in a sentence what the
//! kubelet would act on, because the kubelet itself never shows the body. It serves exec probes (by
//! its exit status) and people (by its text).
//!
//! It prints nothing and exits nothing: what it found is a value, and `main` does the rest. It
//! never waits longer than [`DEADLINE`], and whatever goes wrong is an answer too: not ready, why,
//! and what to do.

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpStream;

/// For the whole exchange; a probe that takes longer has failed.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// A body of `/readyz` is a few lines.
const MAX_BODY: usize = 64 * 1024;

/// What `ready` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the verifier said that it is ready.
    pub ready: bool,
    /// The same as a sentence, with the cause; no trailing line feed.
    pub text: String,
}

/// Why nobody could be asked.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(
        "{0:?} is not the address of an admin port: use host and port, as in \"127.0.0.1:9090\""
    )]
    Address(String),
    #[error(
        "cannot reach the admin port at {address}: is x402-verifier running, and is this its \
         --admin-listen?"
    )]
    Connect {
        address: String,
        source: std::io::Error,
    },
    #[error(
        "no answer from the admin port at {address} within {} s: it hangs or something else \
         listens there",
        DEADLINE.as_secs()
    )]
    Deadline { address: String },
    #[error(
        "what listens at {address} does not answer as an admin port: is this the --admin-listen of \
         x402-verifier?"
    )]
    Exchange {
        address: String,
        source: Box<dyn Error + Send + Sync>,
    },
}

impl Verdict {
    /// 0 when ready, else 1.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        if self.ready {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Asks the admin port at `admin` (as in `--admin-listen`: `:9090`, `127.0.0.1:9090`) whether the
/// verifier is ready.
pub async fn ready(admin: &str) -> Verdict {
    match ask(admin).await {
        Ok((StatusCode::OK, _)) => Verdict {
            ready: true,
            text: "x402-verifier is ready".to_owned(),
        },
        Ok((status, body)) => Verdict {
            ready: false,
            text: explain(status, &body),
        },
        Err(error) => Verdict {
            ready: false,
            text: with_cause(&error),
        },
    }
}

/// A refusal as a sentence: the first line of the body is the state, the others are its cause.
fn explain(status: StatusCode, body: &str) -> String {
    let mut lines = body.lines().map(str::trim).filter(|line| !line.is_empty());
    let state = lines
        .next()
        .and_then(|line| line.strip_prefix("not ready: "));
    match state {
        Some(state) => {
            let mut text = format!("x402-verifier is not ready: {state}");
            for cause in lines {
                text.push_str("\n  ");
                text.push_str(cause);
            }
            text
        }
        None => format!(
            "the answer of /readyz is {status} and not one of x402-verifier: is this its \
             --admin-listen?"
        ),
    }
}

/// An error and what caused it, on one line.
fn with_cause(error: &AskError) -> String {
    match error.source() {
        Some(cause) => format!("{error} ({cause})"),
        None => error.to_string(),
    }
}

async fn ask(admin: &str) -> Result<(StatusCode, String), AskError> {
    let address = reachable(admin).ok_or_else(|| AskError::Address(admin.to_owned()))?;
    let exchange = async {
        let stream = TcpStream::connect(&address)
            .await
            .map_err(|source| AskError::Connect {
                address: address.clone(),
                source,
            })?;
        exchange(stream, &address)
            .await
            .map_err(|source| AskError::Exchange {
                address: address.clone(),
                source,
            })
    };
    tokio::time::timeout(DEADLINE, exchange)
        .await
        .unwrap_or_else(|_elapsed| {
            Err(AskError::Deadline {
                address: address.clone(),
            })
        })
}

async fn exchange(
    stream: TcpStream,
    address: &str,
) -> Result<(StatusCode, String), Box<dyn Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/readyz")
        .header(header::HOST, address)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY)
            .collect()
            .await?
            .to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    // The connection ends after the answer because the answer drops its sender; an error of it is
    // the answer's error too.
    let (answer, _connection) = tokio::join!(answer, connection);
    answer
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers one connection with `answer` and asks the question.
    async fn ready_at(answer: &'static str) -> Verdict {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        tokio::join!(ready(&address), serve).0
    }

    #[tokio::test]
    async fn a_ready_verifier_is_a_success() {
        let verdict =
            ready_at("HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{\"status\":\"ready\"}").await;
        assert_eq!(
            verdict,
            Verdict {
                ready: true,
                text: "x402-verifier is ready".to_owned()
            }
        );
        assert_eq!(verdict.exit_code(), ExitCode::SUCCESS);
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_its_cause() {
        let verdict = ready_at(
            "HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready: config not loaded\npricing.yaml: \
             no such file\n",
        )
        .await;
        let text = "x402-verifier is not ready: config not loaded\n  pricing.yaml: no such file";
        assert_eq!(
            verdict,
            Verdict {
                ready: false,
                text: text.to_owned()
            }
        );
        assert_eq!(verdict.exit_code(), ExitCode::FAILURE);
    }

    #[tokio::test]
    async fn somebody_else_is_not_ready() {
        for answer in [
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 503 Service Unavailable\r\n\r\n<html>",
            "SSH-2.0-OpenSSH\r\n",
            "",
        ] {
            let verdict = ready_at(answer).await;
            assert!(!verdict.ready, "{answer:?}");
            assert!(verdict.text.contains("--admin-listen"), "{}", verdict.text);
        }
    }

    #[tokio::test]
    async fn nobody_there_is_an_answer_that_says_what_to_do() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let verdict = ready(&address).await;
        assert!(!verdict.ready);
        assert!(
            verdict
                .text
                .starts_with("cannot reach the admin port at 127.0.0.1:")
        );
        assert!(
            verdict
                .text
                .contains("is x402-verifier running, and is this its --admin-listen?")
        );
        assert!(
            verdict.text.to_lowercase().contains("connection refused"),
            "{}",
            verdict.text
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_admin_port_that_hangs_is_not_ready_after_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let start = tokio::time::Instant::now();
        let verdict = ready(&listener.local_addr().unwrap().to_string()).await;
        assert!(!verdict.ready);
        assert!(verdict.text.contains("within 2 s"), "{}", verdict.text);
        assert_eq!(start.elapsed().as_secs(), DEADLINE.as_secs());
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_named() {
        let verdict = ready("nonsense").await;
        assert!(!verdict.ready && verdict.text.starts_with("\"nonsense\" is not the address"));
    }

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
