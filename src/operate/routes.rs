//! `routes`: the page `/routes` of a running verifier, for people.
//!
//! What is read here is what the admin port writes (`http/admin/page.rs`); a field that a newer
//! verifier adds is passed over.

use super::admin::{AdminPort, AskError};
use super::{MAX_PAGE, PATIENCE, columns, printable, short, unlike};
use crate::config::RoutesFilterArgs;
use bytes::Bytes;
use http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

/// Why there is no list of routes.
#[derive(Debug, thiserror::Error)]
pub enum RoutesError {
    /// Nobody could be asked.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Not the answer of a verifier of this version.
    #[error("{said}")]
    Refused {
        /// What was answered.
        said: String,
    },
    /// Not the page.
    #[error("the list of routes from {address} cannot be read: is that an x402-verifier?")]
    Unreadable {
        /// Who was asked.
        address: String,
        /// Cause.
        source: serde_json::Error,
    },
}

/// The page `/routes`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page {
    generation: u64,
    built_at: String,
    sources: Vec<Source>,
    pub(super) routes: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Source {
    name: String,
    state: String,
    error: Option<String>,
}

/// One row of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) pattern: String,
    pub(super) host: Option<String>,
    pub(super) source: String,
    pub(super) offer: Offer,
    pub(super) owner: Option<String>,
    state: String,
    gate: String,
    settle: String,
    #[serde(default)]
    accepts: Vec<Accept>,
    pub(super) reason: Option<String>,
    pub(super) detail: Option<String>,
    drains_until: Option<String>,
    pub(super) closed_since: Option<String>,
    pub(super) closed_until: Option<String>,
}

#[derive(Debug, Deserialize, serde::Serialize)]
pub(super) struct Offer {
    pub(super) namespace: String,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<String>,
    #[serde(skip_serializing)]
    generation: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Accept {
    network: String,
    asset: String,
    symbol: Option<String>,
    price: String,
}

impl Offer {
    /// `NAMESPACE/NAME`, `-` for a route of the file without names.
    pub(super) fn named(&self) -> String {
        match (self.namespace.as_str(), self.name.as_str()) {
            ("", "") => "-".to_owned(),
            (namespace, "") => namespace.to_owned(),
            (namespace, name) => format!("{namespace}/{name}"),
        }
    }
}

impl Row {
    /// What a request on it gets.
    fn terms(&self) -> String {
        match (self.state.as_str(), self.gate.as_str()) {
            ("closed", _) => match &self.closed_until {
                Some(until) => format!("410 until {}", short(Some(until))),
                None => "410".to_owned(),
            },
            ("misconfigured", _) => "503".to_owned(),
            ("conflict", _) => "not served".to_owned(),
            ("draining", _) => match &self.drains_until {
                Some(until) => format!("503, payments until {}", short(Some(until))),
                None => "503".to_owned(),
            },
            (_, "auth") => "sign-in".to_owned(),
            (_, "paid") => {
                let accepts: Vec<String> = self.accepts.iter().map(Accept::text).collect();
                let terms = accepts.join(", ");
                match self.settle.as_str() {
                    "never" => format!("{terms} (never settled)"),
                    _ => terms,
                }
            }
            (_, gate) => gate.to_owned(),
        }
    }

    /// Why it is as it is, on a line of its own.
    pub(super) fn story(&self) -> Option<String> {
        let text = match (&self.reason, &self.detail) {
            (None, None) => return None,
            (Some(reason), None) => reason.clone(),
            (None, Some(detail)) => detail.clone(),
            (Some(reason), Some(detail)) => format!("{reason}: {detail}"),
        };
        Some(printable(&format!("    {text}")))
    }
}

impl Accept {
    fn text(&self) -> String {
        let token = self.symbol.as_deref().unwrap_or(&self.asset);
        format!("{} {token} on {}", self.price, self.network)
    }
}

/// What `/routes` of the verifier at `admin` says, filtered: as it is (`as_json`), or for people.
///
/// # Errors
/// When nobody answers, or not as a verifier of this version.
pub async fn routes(
    admin: &str,
    filter: &RoutesFilterArgs,
    as_json: bool,
) -> Result<String, RoutesError> {
    let port = AdminPort::at(admin, PATIENCE, MAX_PAGE)?;
    let body = fetch(&port, &query(filter)).await?;
    if as_json {
        return Ok(String::from_utf8_lossy(&body).into_owned());
    }
    Ok(text(&parse(&port, &body)?))
}

/// The page for a query string.
pub(super) async fn page(port: &AdminPort, query: &str) -> Result<Page, RoutesError> {
    parse(port, &fetch(port, query).await?)
}

async fn fetch(port: &AdminPort, query: &str) -> Result<Bytes, RoutesError> {
    match port.get(&format!("/routes{query}")).await? {
        (StatusCode::OK, body) => Ok(body),
        (StatusCode::BAD_REQUEST, body) => Err(RoutesError::Refused {
            said: printable(String::from_utf8_lossy(&body).trim_end()),
        }),
        (status, _) => Err(RoutesError::Refused {
            said: unlike(port, "/routes", status),
        }),
    }
}

fn parse(port: &AdminPort, body: &[u8]) -> Result<Page, RoutesError> {
    serde_json::from_slice(body).map_err(|source| RoutesError::Unreadable {
        address: port.address.clone(),
        source,
    })
}

fn query(filter: &RoutesFilterArgs) -> String {
    let RoutesFilterArgs {
        namespace,
        name,
        state,
    } = filter;
    let given = [
        ("namespace", namespace.as_deref()),
        ("name", name.as_deref()),
        ("state", state.map(|state| state.as_str())),
    ];
    filtered(given)
}

/// A query string of the filters that are given.
pub(super) fn filtered<const N: usize>(filters: [(&str, Option<&str>); N]) -> String {
    let mut query = String::new();
    for (key, value) in filters {
        if let Some(value) = value {
            query.push(if query.is_empty() { '?' } else { '&' });
            query.push_str(key);
            query.push('=');
            query.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
    }
    query
}

fn text(page: &Page) -> String {
    let mut lines = vec![format!(
        "generation {} of {}",
        page.generation,
        short(Some(&page.built_at))
    )];
    for Source { name, state, error } in &page.sources {
        let error = error.as_deref().map(|error| format!(": {error}"));
        lines.push(printable(&format!(
            "source {name} {state}{}",
            error.unwrap_or_default()
        )));
    }
    if page.routes.is_empty() {
        lines.push("no route".to_owned());
        return lines.join("\n") + "\n";
    }
    let mut rows = vec![
        ["STATE", "PATH", "OFFER", "SOURCE", "TERMS"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in &page.routes {
        rows.push(vec![
            row.state.clone(),
            [row.host.as_deref().unwrap_or_default(), &row.pattern].concat(),
            match row.offer.generation {
                Some(generation) => format!("{} (generation {generation})", row.offer.named()),
                None => row.offer.named(),
            },
            row.source.clone(),
            row.terms(),
        ]);
    }
    let mut table = columns(&rows).into_iter();
    lines.extend(table.next());
    for (row, line) in page.routes.iter().zip(table) {
        lines.push(line);
        lines.extend(row.story());
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn page_of(routes: &serde_json::Value) -> Page {
        let page = json!({
            "generation": 3, "builtAt": "2026-11-21T18:00:00.123456789Z",
            "sources": [{"name": "file", "state": "ok", "lastSuccess": null},
                        {"name": "kube", "state": "failed", "error": "no\u{1b}[2Jroute"}],
            "routes": routes, "later": 1,
        });
        serde_json::from_value(page).unwrap()
    }

    #[test]
    fn a_page_is_columns_with_the_story_of_each_route_below_it() {
        let shown = text(&page_of(&json!([
            {"pattern": "/a/*", "source": "kube", "offer": {"namespace": "s", "name": "a", "generation": 2},
             "owner": "s", "state": "live", "gate": "paid", "settle": "before",
             "accepts": [{"network": "eip155:1", "asset": "0x1", "symbol": "USDC", "amount": "1", "price": "0.1", "payTo": "0x2"}]},
            {"pattern": "/old/*", "host": "h.example", "source": "ledger",
             "offer": {"namespace": "", "name": ""}, "state": "closed", "gate": "paid", "settle": "before",
             "accepts": [], "reason": "withdrawn", "detail": "was paid", "closedUntil": "2026-11-28T18:00:00.5Z"},
        ])));
        assert_eq!(
            shown,
            "generation 3 of 2026-11-21T18:00:00Z\n\
             source file ok\n\
             source kube failed: no?[2Jroute\n\
             STATE   PATH             OFFER               SOURCE  TERMS\n\
             live    /a/*             s/a (generation 2)  kube    0.1 USDC on eip155:1\n\
             closed  h.example/old/*  -                   ledger  410 until 2026-11-28T18:00:00Z\n    \
             withdrawn: was paid\n"
        );
        assert!(text(&page_of(&json!([]))).ends_with("\nno route\n"));
    }

    #[test]
    fn a_filter_cannot_change_the_question() {
        let query = filtered([
            ("namespace", Some("a&state=live")),
            ("name", None),
            ("state", Some("closed")),
        ]);
        assert_eq!(query, "?namespace=a%26state%3Dlive&state=closed");
        assert_eq!(filtered([("name", None)]), "");
    }
}
