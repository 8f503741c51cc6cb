//! One request to the API server: a deadline, and an answer that is text or a [`Fault`].
//!
//! What it is not: a place that repeats anything. Whoever asked decides what a fault means.

use http::{Method, Request, header};
use kube::Client;
use std::time::Duration;
use tokio::sync::watch;

/// Longest that one request may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest text of an API server that is repeated in a log line.
const TOLD: usize = 300;

/// The API server by whichever client is the present one.
#[derive(Clone)]
pub(super) struct Api {
    clients: watch::Receiver<Option<Client>>,
}

/// Bodies, as far as their type matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// `application/json`.
    Json,
    /// `application/json-patch+json`.
    JsonPatch,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// 404.
    #[error("there is no such object")]
    Gone,
    /// 409: made on an object that has changed, or there is one already.
    #[error("the object changed meanwhile")]
    Conflict,
    /// 422 and whatever else makes no sense to repeat.
    #[error("refused: {0}")]
    Invalid(String),
    /// 403.
    #[error("{0}")]
    Forbidden(String),
    /// Anything that may be better later.
    #[error("{why}")]
    Unavailable {
        /// What happened.
        why: String,
        /// When the API server wants to be asked again.
        retry_after: Option<Duration>,
    },
}

impl Api {
    pub(super) const fn new(clients: watch::Receiver<Option<Client>>) -> Self {
        Self { clients }
    }

    /// The namespace of the credentials: the pod's own, or that of the kubeconfig's context.
    pub(super) fn own_namespace(&self) -> Option<String> {
        let client = self.clients.borrow();
        Some(client.as_ref()?.default_namespace().to_owned())
    }

    pub(super) async fn get(&self, path: &str) -> Result<String, Fault> {
        self.call(Method::GET, path, Body::Json, Vec::new()).await
    }

    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Body,
        content: Vec<u8>,
    ) -> Result<String, Fault> {
        let client = self.clients.borrow().clone();
        let Some(client) = client else {
            return Err(Fault::unavailable("there are no credentials yet"));
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, body.content_type())
            .header(header::ACCEPT, Body::Json.content_type())
            .body(content)
            .map_err(|error| Fault::Invalid(error.to_string()))?;
        match tokio::time::timeout(DEADLINE, client.request_text(request)).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(error.into()),
            Err(_elapsed) => Err(Fault::unavailable("no answer in time")),
        }
    }
}

impl Body {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::JsonPatch => "application/json-patch+json",
        }
    }
}

impl Fault {
    fn unavailable(why: &str) -> Self {
        Self::Unavailable {
            why: why.to_owned(),
            retry_after: None,
        }
    }
}

impl From<kube::Error> for Fault {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::unavailable(&cut(&error.to_string()));
        };
        let why = cut(&status.message);
        match status.code {
            404 => Self::Gone,
            409 => Self::Conflict,
            403 => Self::Forbidden(why),
            // A token that is over is no lack of rights: whoever reads the cluster tells of it, and
            // the next client comes with the next token.
            401 => Self::unavailable("our credentials are not accepted (401)"),
            429 | 500..=599 => {
                let seconds = status
                    .details
                    .map_or(0, |details| details.retry_after_seconds);
                Self::Unavailable {
                    why,
                    retry_after: (seconds > 0).then(|| Duration::from_secs(seconds.into())),
                }
            }
            _ => Self::Invalid(why),
        }
    }
}

/// As much as a log line needs, without what would break it.
fn cut(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(TOLD).collect()
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}
