//! The smallest HTTP client that the parts need: one request, one bounded answer, no redirects.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

type Error = Box<dyn std::error::Error + Send + Sync>;

const LIMIT: Duration = Duration::from_secs(60);
const MAX_BODY: usize = 64 << 20;

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as text; bytes that are not UTF-8 are replaced.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }
}

/// One request to a plain `http://` URL.
pub(crate) async fn send(request: Request<Full<Bytes>>) -> Result<Answer, Error> {
    Pool::default().send(request).await
}

/// A client that keeps its connections, for those who ask often. Cheap to clone; belongs to the runtime that used it.
#[derive(Debug, Clone)]
pub(crate) struct Pool(Client<HttpConnector, Full<Bytes>>);

impl Default for Pool {
    fn default() -> Self {
        Self(Client::builder(TokioExecutor::new()).build_http())
    }
}

impl Pool {
    /// One request to a plain `http://` URL.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
        let exchange = async {
            let (head, body) = self.0.request(request).await?.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await?.to_bytes();
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        tokio::time::timeout(LIMIT, exchange).await?
    }

    /// `GET url`.
    pub(crate) async fn get(&self, url: &str) -> Result<Answer, Error> {
        self.send(Request::get(url).body(Full::default())?).await
    }
}

/// `GET url`.
pub(crate) async fn get(url: &str) -> Result<Answer, Error> {
    send(Request::get(url).body(Full::default())?).await
}

/// `POST url` with a JSON body.
pub(crate) async fn post_json(url: &str, body: &Value) -> Result<Answer, Error> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(url)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_string()))?;
    send(request).await
}
