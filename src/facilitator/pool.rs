//! One isolated connection pool per facilitator and credentials.
//!
//! The key is a hash over base URL and every configured header, so that a connection opened under
//! one credential never carries another (R13), and a facilitator that stalls holds nobody else's
//! connections. Pools that were not used for a minute are dropped when a new one is made, and their
//! number is bounded; a call in flight keeps its pool alive. Credentials that rotate leave pools
//! behind that hold no connection any more.

use super::connect::{Connector, Dialer, is_loopback};
use super::tls::{Tls, TlsError};
use crate::x402::Endpoint;
use alloy_primitives::{B256, Keccak256};
use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Uri};
use http_body_util::Full;
use hyper_util::client::legacy;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Why a facilitator cannot be called at all; found before anything is sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum PoolError {
    /// The base is no absolute http or https URL.
    #[error("the configured facilitator URL is not an http or https URL")]
    Url,
    /// A proxy variable names a proxy of a kind that is not spoken.
    #[error("the proxy that the environment names is not an http:// proxy")]
    Proxy,
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Everything that calls of one facilitator share.
pub(super) struct Pool {
    /// The connections.
    pub(super) client: legacy::Client<Connector, Full<Bytes>>,
    /// `{base}/verify`.
    pub(super) verify: Uri,
    /// `{base}/settle`.
    pub(super) settle: Uri,
    /// Goes with each request where a proxy forwards plain http.
    pub(super) proxy_authorization: Option<HeaderValue>,
    /// For logs.
    pub(super) authority: String,
}

/// The pools by key.
pub(super) struct Pools {
    entries: Mutex<HashMap<B256, Entry>>,
    dialer: Dialer,
    proxies: Matcher,
    tls: Tls,
}

struct Entry {
    pool: Arc<Pool>,
    last_used: Instant,
}

impl Pools {
    pub(super) fn new(connect_timeout: Duration, proxies: Matcher, tls: Tls) -> Self {
        let dialer = Dialer {
            timeout: connect_timeout,
        };
        Self {
            entries: Mutex::default(),
            dialer,
            proxies,
            tls,
        }
    }

    /// The pool of an endpoint, made if need be.
    pub(super) async fn get(&self, endpoint: &Endpoint) -> Result<Arc<Pool>, PoolError> {
        let key = key(endpoint);
        if let Some(pool) = self.find(key) {
            return Ok(pool);
        }
        let pool = self.make(endpoint).await?;
        Ok(self.keep(key, pool, Instant::now()))
    }

    fn find(&self, key: B256) -> Option<Arc<Pool>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get_mut(&key)?;
        entry.last_used = Instant::now();
        Some(Arc::clone(&entry.pool))
    }

    /// Stores a pool, unless somebody was faster, and drops what was not used for long.
    fn keep(&self, key: B256, pool: Pool, now: Instant) -> Arc<Pool> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| now.saturating_duration_since(entry.last_used) < UNUSED);
        if !entries.contains_key(&key) && entries.len() >= MAX_POOLS {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.last_used);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                entries.remove(&oldest);
            }
        }
        let entry = entries.entry(key).or_insert_with(|| Entry {
            pool: Arc::new(pool),
            last_used: now,
        });
        Arc::clone(&entry.pool)
    }

    async fn make(&self, endpoint: &Endpoint) -> Result<Pool, PoolError> {
        let url = |operation| {
            let text = format!("{}/{operation}", endpoint.base.trim_end_matches('/'));
            text.parse::<Uri>().map_err(|_invalid| PoolError::Url)
        };
        let (verify, settle) = (url("verify")?, url("settle")?);
        let tls = match verify.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => Some(self.tls.config().await?),
            Some(scheme) if *scheme == Scheme::HTTP => None,
            Some(_) | None => return Err(PoolError::Url),
        };
        let proxy = match is_loopback(&verify) {
            true => None,
            false => self.proxies.intercept(&verify),
        };
        let mut proxy_authorization = None;
        let connector = match proxy {
            None => Connector::direct(self.dialer, tls),
            Some(proxy) if proxy.uri().scheme() == Some(&Scheme::HTTP) => {
                if tls.is_none() {
                    proxy_authorization = proxy.basic_auth().cloned();
                }
                Connector::proxied(self.dialer, tls, proxy.uri().clone(), proxy.basic_auth())
            }
            Some(_) => return Err(PoolError::Proxy),
        };
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_max_buf_size(MAX_HEAD)
            .build(connector);
        let authority = authority_of(&endpoint.base).to_owned();
        Ok(Pool {
            client,
            verify,
            settle,
            proxy_authorization,
            authority,
        })
    }
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pools").finish_non_exhaustive()
    }
}

/// `host:port` of a base URL, without user information, for logs.
pub(super) fn authority_of(base: &str) -> &str {
    let rest = base.split_once("://").map_or(base, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
}

/// A hash over everything that makes two endpoints different, each part with its length before it.
fn key(endpoint: &Endpoint) -> B256 {
    let mut hasher = Keccak256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(bytes.len().to_be_bytes());
        hasher.update(bytes);
    };
    part(endpoint.base.as_bytes());
    let all: [&HeaderMap; 3] = [
        &endpoint.verify_headers,
        &endpoint.settle_headers,
        &endpoint.supported_headers,
    ];
    for headers in all {
        part(&headers.len().to_be_bytes());
        for (name, value) in headers {
            part(name.as_str().as_bytes());
            part(value.as_bytes());
        }
    }
    hasher.finalize()
}

/// How long a connection may idle. Node closes after 5 s unless told otherwise, and the official
/// facilitator is a Node server: a request on a connection that is being closed is a settlement
/// whose outcome is unknown. Settle follows verify within milliseconds, so little is lost.
const IDLE: Duration = Duration::from_secs(4);
/// Idle connections kept for each facilitator.
const MAX_IDLE: usize = 32;
/// Largest head of an answer.
const MAX_HEAD: usize = 64 * 1024;
/// Most pools at a time.
const MAX_POOLS: usize = 64;
/// After this long without a call a pool holds no connection and may go.
const UNUSED: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(base: &str, token: &'static str) -> Endpoint {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, HeaderValue::from_static(token));
        Endpoint {
            base: base.into(),
            verify_headers: headers.clone(),
            settle_headers: headers,
            supported_headers: HeaderMap::new(),
        }
    }

    fn pools(proxies: Matcher) -> Pools {
        Pools::new(Duration::from_secs(1), proxies, Tls::new(None).unwrap())
    }

    #[tokio::test]
    async fn equal_endpoints_share_a_pool_and_other_credentials_never_do_r13() {
        let pools = pools(Matcher::builder().build());
        let one = pools
            .get(&endpoint("http://127.0.0.1:1", "a"))
            .await
            .unwrap();
        let same = pools
            .get(&endpoint("http://127.0.0.1:1", "a"))
            .await
            .unwrap();
        let token = pools
            .get(&endpoint("http://127.0.0.1:1", "b"))
            .await
            .unwrap();
        let other = pools
            .get(&endpoint("http://127.0.0.1:2", "a"))
            .await
            .unwrap();
        assert!(Arc::ptr_eq(&one, &same));
        assert!(!Arc::ptr_eq(&one, &token));
        assert!(!Arc::ptr_eq(&one, &other));
    }

    #[tokio::test]
    async fn unused_pools_go_and_their_number_is_bounded() {
        let pools = pools(Matcher::builder().build());
        let count = || pools.entries.lock().unwrap().len();
        for port in 1..=200 {
            pools
                .get(&endpoint(&format!("http://127.0.0.1:{port}"), "a"))
                .await
                .unwrap();
        }
        assert_eq!(count(), MAX_POOLS);
        let late = endpoint("http://127.0.0.1:999", "a");
        let pool = pools.make(&late).await.unwrap();
        pools.keep(key(&late), pool, Instant::now() + UNUSED * 2);
        assert_eq!(count(), 1);
    }

    #[tokio::test]
    async fn a_base_that_is_no_url_and_a_proxy_of_another_kind_are_refused_m13() {
        let direct = pools(Matcher::builder().build());
        for base in ["", "facilitator", "ftp://f.example", "http//x"] {
            let refused = direct.get(&endpoint(base, "a")).await;
            assert!(matches!(refused, Err(PoolError::Url)), "{base:?}");
        }
        let socks = pools(Matcher::builder().all("socks5://127.0.0.1:1").build());
        let refused = socks.get(&endpoint("http://f.example", "a")).await;
        assert!(matches!(refused, Err(PoolError::Proxy)));
        assert!(
            socks
                .get(&endpoint("http://127.0.0.1:1", "a"))
                .await
                .is_ok()
        );
    }

    #[test]
    fn logs_name_host_and_port_only_r13() {
        assert_eq!(
            authority_of("https://user:secret@f.example:8443/x402?key=1"),
            "f.example:8443"
        );
        assert_eq!(authority_of("f.example"), "f.example");
    }
}
