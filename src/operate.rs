//! The operator's commands against a running verifier.
//!
//! - `ready` asks `/readyz` on the admin port and says in a sentence what the kubelet would act on,
//!   because the kubelet itself never shows the body. It serves exec probes (by its exit status) and
//!   people (by its text).
//! - `routes` ([`routes`](routes()), `operate/routes.rs`) shows what became of every route.
//! - `explain --live` ([`explain_live`]) asks what would happen to one request.
//! - `closed list` and `closed release` (`operate/closed.rs`) show and reopen closed paths (R4).
//!
//! Who reads asks the admin port; who changes something writes the ledger, because nothing on the
//! admin port can change the process. All of it works inside a pod, by `kubectl exec POD --
//! /x402-verifier ...`, where address and ledger are those of the pod's own environment.
//!
//! It prints nothing and exits nothing: what it found is a value, and `main` does the rest. It never
//! waits without end, and whatever goes wrong is an answer too: what it was, and what to do.

mod admin;
mod closed;
mod routes;

pub use admin::AskError;
pub use closed::{ClosedError, Selection, closed, release};
pub use routes::{RoutesError, routes};

use admin::AdminPort;
use bytes::Bytes;
use http::StatusCode;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

/// For the whole exchange of `ready`; a probe that takes longer has failed.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// A body of `/readyz` is a few lines.
const MAX_BODY: usize = 64 * 1024;

/// For one answer to a person. A table of 100,000 routes is searched or written within a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Largest answer of `/routes` that is read: 200,000 routes.
const MAX_PAGE: usize = 256 * 1024 * 1024;

/// What `ready` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the verifier said that it is ready.
    pub ready: bool,
    /// The same as a sentence, with the cause; no trailing line feed.
    pub text: String,
}

/// Why `explain --live` has no answer.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// Nobody could be asked.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The question was refused.
    #[error("{said}")]
    Refused {
        /// The words of the verifier.
        said: String,
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
    let asked = match AdminPort::at(admin, DEADLINE, MAX_BODY) {
        Ok(port) => port.get("/readyz").await,
        Err(error) => Err(error),
    };
    match asked {
        Ok((StatusCode::OK, _)) => Verdict {
            ready: true,
            text: "x402-verifier is ready".to_owned(),
        },
        Ok((status, body)) => Verdict {
            ready: false,
            text: explain(status, &String::from_utf8_lossy(&body)),
        },
        Err(error) => Verdict {
            ready: false,
            text: with_cause(&error),
        },
    }
}

/// Asks the verifier at `admin` to explain a request, given as the JSON of an `explain::Question`;
/// the steps, as `explain` prints them.
///
/// # Errors
/// When nobody answers, or not as a verifier that understands the question.
pub async fn explain_live(admin: &str, question: Vec<u8>) -> Result<String, LiveError> {
    let port = AdminPort::at(admin, PATIENCE, MAX_PAGE)?;
    let (status, body) = port.post("/explain", Bytes::from(question)).await?;
    let said = String::from_utf8_lossy(&body).into_owned();
    match status {
        StatusCode::OK => Ok(said),
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => Err(LiveError::Refused {
            said: said.trim_end().to_owned(),
        }),
        status => Err(LiveError::Refused {
            said: unlike(&port, "/explain", status),
        }),
    }
}

/// An answer that an admin port of this version does not give.
fn unlike(port: &AdminPort, endpoint: &str, status: StatusCode) -> String {
    format!(
        "the answer of {endpoint} at {} is {status}: is this the --admin-listen of an x402-verifier \
         of this version?",
        port.address
    )
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

/// Text in columns, two spaces apart; what is in the last column is not padded. What could move a
/// terminal's cursor is replaced: names and patterns are written by strangers.
fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let padded: Vec<String> = cells
            .map(|(cell, width)| {
                let cell = printable(cell);
                format!("{cell:<width$}")
            })
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Without control characters.
fn printable(text: &str) -> String {
    let shown = |letter: char| if letter.is_control() { '?' } else { letter };
    text.chars().map(shown).collect()
}

/// A time of JSON to the second, `-` where there is none.
fn short(time: Option<&str>) -> String {
    let Some(time) = time else {
        return "-".to_owned();
    };
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
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
}
