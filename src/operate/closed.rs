//! `closed list` and `closed release`: paths that were paid once and left (R4), and the operator's
//! word that one of them may be taken again.
//!
//! The list is what requests see, read from the running verifier. A release is written into the
//! ledger, which only who may write that file can do; the verifier takes it up within seconds, and
//! one that does not run when it starts. Releasing opens nothing by itself: the path is nobody's
//! afterwards, so the next offer or route that names it takes it, and until then it is answered as
//! anything that matches nothing.
//!
//! Only what is closed can be released. A path that an offer still has, be it paused or drained, is
//! the offer's.

use super::admin::{AdminPort, AskError};
use super::routes::{Offer, Page, RoutesError, Row, filtered, page};
use super::{DEADLINE, MAX_BODY, MAX_PAGE, PATIENCE, columns, printable, short};
use crate::gate::PathRecord;
use crate::ledger::{LedgerUrl, LedgerUrlError, OperateError, OperatorLedger};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::time::Duration;

/// How long a release waits to be taken up; the verifier looks every second.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(10);

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Paths that are named in a message.
const NAMED: usize = 10;

/// Source of the rows of closed paths that nothing has any more.
const LEDGER: &str = "ledger";

/// Why paths are not listed, or one is not released.
#[derive(Debug, thiserror::Error)]
pub enum ClosedError {
    /// The running verifier did not say.
    #[error(transparent)]
    Routes(#[from] RoutesError),
    /// Nobody could be asked where the ledger is.
    #[error("which ledger? Name it with --ledger, as the verifier was started")]
    Where(#[source] AskError),
    /// The verifier did not say where it is.
    #[error("which ledger? The admin port does not say; name it with --ledger")]
    NotSaid,
    /// It said something that is none.
    #[error("which ledger? Name it with --ledger, as the verifier was started")]
    NotALedger(#[source] LedgerUrlError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] OperateError),
    /// Not closed.
    #[error(
        "{path} is not closed, so there is nothing to release{instead}; `closed list` shows what is"
    )]
    NotClosed {
        /// What was asked for.
        path: String,
        /// What may have been meant.
        instead: String,
    },
    /// An offer has it.
    #[error(
        "{path} is not released: {offer} is there and has it; a path is closed, and can be released, \
         when nothing has it any more"
    )]
    Held {
        /// What was asked for.
        path: String,
        /// Who has it.
        offer: String,
    },
    /// Several hosts or namespaces.
    #[error(
        "{path} was left by more than one: {found}; say which with --namespace, --host (\"\" is \
         every host) or both"
    )]
    Ambiguous {
        /// What was asked for.
        path: String,
        /// Namespaces and hosts.
        found: String,
    },
    /// It cannot be written as JSON.
    #[error("the list cannot be written as JSON")]
    Json(#[source] serde_json::Error),
}

/// Which path is to be released.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Pattern or base path, as `closed list` shows it.
    pub path: String,
    /// Only that of this host; empty for that of every host.
    pub host: Option<String>,
    /// Only that of this namespace.
    pub namespace: Option<String>,
}

/// `closed list --format json`.
#[derive(Debug, Serialize)]
struct List<'a> {
    closed: Vec<ListRow<'a>>,
}

#[derive(Debug, Serialize)]
struct ListRow<'a> {
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    /// Namespace; absent when the operator's file had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
    offer: &'a Offer,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    /// Whether `closed release` can reopen it: nothing has it any more.
    releasable: bool,
}

/// `/readyz?verbose`, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Process {
    ledger: String,
}

/// All closed paths of the verifier at `admin`.
///
/// # Errors
/// When nobody answers, or not as a verifier of this version.
pub async fn closed(admin: &str, as_json: bool) -> Result<String, ClosedError> {
    let port = AdminPort::at(admin, PATIENCE, MAX_PAGE).map_err(RoutesError::Ask)?;
    let page = page(&port, &filtered([("state", Some("closed"))])).await?;
    if as_json {
        let closed = page.routes.iter().map(ListRow::new).collect();
        let text = serde_json::to_string(&List { closed }).map_err(ClosedError::Json)?;
        return Ok(text + "\n");
    }
    Ok(text(&page))
}

fn text(page: &Page) -> String {
    if page.routes.is_empty() {
        return "no path is closed\n".to_owned();
    }
    let head = ["PATH", "HOST", "OWNER", "OFFER", "SINCE", "UNTIL", "REASON"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(page.routes.iter().map(|row| {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            row.pattern.clone(),
            or_none(&row.host),
            or_none(&row.owner),
            row.offer.named(),
            short(row.closed_since.as_deref()),
            short(row.closed_until.as_deref()),
            or_none(&row.reason),
        ]
    }));
    let mut text = columns(&rows).join("\n");
    text.push_str(
        "\n\nUNTIL ends the 410 and the reservation for OWNER; then the path stays 403 until it is \
         released.\nRows without UNTIL are of offers that still exist, and cannot be released.\n",
    );
    text
}

impl<'a> ListRow<'a> {
    fn new(row: &'a Row) -> Self {
        Self {
            path: &row.pattern,
            host: row.host.as_deref(),
            owner: row.owner.as_deref(),
            offer: &row.offer,
            since: row.closed_since.as_deref(),
            until: row.closed_until.as_deref(),
            reason: row.reason.as_deref(),
            detail: row.detail.as_deref(),
            releasable: row.source == LEDGER,
        }
    }
}

/// Releases a closed path in the ledger, the one that the verifier at `admin` names where `ledger`
/// is none; what was done, in sentences.
///
/// # Errors
/// When the path is not closed, or the ledger cannot be read or written.
pub async fn release(
    admin: &str,
    ledger: Option<LedgerUrl>,
    selection: &Selection,
    now: Timestamp,
) -> Result<String, ClosedError> {
    let url = match ledger {
        Some(url) => url,
        None => ledger_of(admin).await?,
    };
    let mut ledger = OperatorLedger::open(&url).await?;
    let known = ledger.paths().await?;
    let chosen = selection.choose(&known)?;
    let released = ledger.release(&chosen, now).await?;
    ledger.close().await;
    let mut text = String::new();
    for record in &released {
        // A String takes all that is written to it.
        let _infallible = writeln!(text, "released {}", told(record));
    }
    let Some(last) = released.last() else {
        return Err(selection.not_closed(&known));
    };
    let is_left = |record: &&PathRecord| !released.contains(record);
    if let Some(above) = known
        .iter()
        .filter(is_left)
        .find(|it| covers(it, &known, selection))
    {
        let above = told(above);
        let _infallible = writeln!(
            text,
            "it stays closed for it lies below {above}: release that, too"
        );
    }
    text.push_str(&taken_up(admin, last).await);
    text.push_str(
        "Nobody has it now: the next offer or route that names it takes it. Until then it is refused \
         (403 no_route), or passes without payment where `unmatched: allow` holds and no managed \
         prefix or other offer covers it.\n",
    );
    Ok(printable_lines(&text))
}

/// Waits until the verifier has taken up a release; what is to be said about it.
async fn taken_up(admin: &str, last: &PathRecord) -> String {
    let filter = filtered([
        ("state", Some("closed")),
        ("namespace", Some(&last.namespace)),
        ("name", Some(&last.name)),
    ]);
    let closed_at = last.closed_at.map(|time| time.to_string());
    let is_there = |row: &Row| {
        row.pattern == *last.pattern
            && row.host.as_deref() == last.host.as_deref()
            && row.closed_since == closed_at
    };
    let looking = async {
        loop {
            let port = AdminPort::at(admin, DEADLINE, MAX_PAGE).map_err(RoutesError::Ask)?;
            let page = page(&port, &filter).await?;
            if !page.routes.iter().any(is_there) {
                return Ok::<_, RoutesError>(port.address);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    match tokio::time::timeout(TAKEN_UP_WITHIN, looking).await {
        Ok(Ok(address)) => format!("The verifier at {address} has taken it up.\n"),
        Ok(Err(error)) => format!(
            "It is in the ledger; whether a running verifier has taken it up is not known: {error}. \
             One that runs does so within seconds, any other when it starts.\n"
        ),
        Err(_elapsed) => format!(
            "It is in the ledger, but the verifier at {admin} has not taken it up within {} s: does \
             it use this ledger?\n",
            TAKEN_UP_WITHIN.as_secs()
        ),
    }
}

/// Where the verifier at `admin` keeps its ledger.
async fn ledger_of(admin: &str) -> Result<LedgerUrl, ClosedError> {
    let port = AdminPort::at(admin, DEADLINE, MAX_BODY).map_err(ClosedError::Where)?;
    let (_ready_or_not, body) = port
        .get("/readyz?verbose")
        .await
        .map_err(ClosedError::Where)?;
    let process: Process =
        serde_json::from_slice(&body).map_err(|_another_page| ClosedError::NotSaid)?;
    process.ledger.parse().map_err(ClosedError::NotALedger)
}

impl Selection {
    /// The closed records that the selection means, all of one host and one namespace.
    fn choose(&self, known: &[PathRecord]) -> Result<Vec<PathRecord>, ClosedError> {
        let meant: Vec<&PathRecord> = known
            .iter()
            .filter(|record| self.is_asked(record) && self.names(record, known))
            .collect();
        let closed: Vec<&PathRecord> = meant
            .iter()
            .filter(|record| record.closed_at.is_some())
            .copied()
            .collect();
        let Some(first) = closed.first() else {
            return Err(match meant.first() {
                Some(held) => ClosedError::Held {
                    path: self.path.clone(),
                    offer: owner(held),
                },
                None => self.not_closed(known),
            });
        };
        let is_one =
            |record: &&PathRecord| record.host == first.host && record.namespace == first.namespace;
        if !closed.iter().all(is_one) {
            let mut found: Vec<String> = closed.iter().map(|record| told(record)).collect();
            found.dedup();
            return Err(ClosedError::Ambiguous {
                path: self.path.clone(),
                found: some_of(&found),
            });
        }
        Ok(closed.into_iter().cloned().collect())
    }

    /// Whether host and namespace are those that were asked for.
    fn is_asked(&self, record: &PathRecord) -> bool {
        let host = record.host.as_deref().unwrap_or_default();
        self.host.as_deref().is_none_or(|asked| asked == host)
            && self
                .namespace
                .as_deref()
                .is_none_or(|asked| asked == &*record.namespace)
    }

    /// Whether the path names a record: its pattern, or the base path that an offer that is gone
    /// leaves closed as a whole (O5).
    fn names(&self, record: &PathRecord, known: &[PathRecord]) -> bool {
        let is = |text: &str| trimmed(text) == trimmed(&self.path);
        let is_base = || is(&record.base) || is(&subtree(&record.base));
        is(&record.pattern) || (record.closed_at.is_some() && is_base() && is_gone(record, known))
    }

    fn not_closed(&self, known: &[PathRecord]) -> ClosedError {
        let above: Vec<String> = known
            .iter()
            .filter(|record| covers(record, known, self))
            .map(told)
            .collect();
        ClosedError::NotClosed {
            path: self.path.clone(),
            instead: match above.is_empty() {
                true => String::new(),
                false => format!(" (it lies below {})", some_of(&above)),
            },
        }
    }
}

/// Whether a closed record keeps the selected path closed from above.
fn covers(record: &PathRecord, known: &[PathRecord], selection: &Selection) -> bool {
    let path = trimmed(selection.path.strip_suffix("/*").unwrap_or(&selection.path));
    let is_below = |prefix: &str| {
        let prefix = trimmed(prefix);
        path == prefix
            || path
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with('/'))
    };
    let by_pattern = record.pattern.strip_suffix("/*").is_some_and(is_below);
    let by_base = || is_gone(record, known) && is_below(&record.base) && &*record.base != "/";
    record.closed_at.is_some() && selection.is_asked(record) && (by_pattern || by_base())
}

/// Whether the offer of a record has nothing any more: then its whole base path is closed.
fn is_gone(record: &PathRecord, known: &[PathRecord]) -> bool {
    let is_live = |other: &PathRecord| other.uid == record.uid && other.closed_at.is_none();
    !record.uid.is_empty() && !known.iter().any(is_live)
}

fn subtree(base: &str) -> String {
    format!("{}/*", base.trim_end_matches('/'))
}

/// A trailing slash makes no difference.
fn trimmed(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed,
    }
}

/// A record in words.
fn told(record: &PathRecord) -> String {
    let host = record.host.as_deref().unwrap_or_default();
    let since = record.closed_at.map(|time| time.to_string());
    let since = since.map(|time| format!(", closed {}", short(Some(&time))));
    let since = since.unwrap_or_default();
    format!("{host}{} ({}{since})", record.pattern, owner(record))
}

/// Whose a record is, in words.
fn owner(record: &PathRecord) -> String {
    let PathRecord {
        namespace, name, ..
    } = record;
    match (namespace.is_empty(), name.is_empty()) {
        (true, true) => "a route of the file".to_owned(),
        (false, true) => format!("namespace {namespace}"),
        (_, false) => format!("the offer {namespace}/{name}"),
    }
}

fn some_of(texts: &[String]) -> String {
    let named = texts.get(..NAMED.min(texts.len())).unwrap_or_default();
    let named = named.join("; ");
    match texts.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}; and {more} more"),
    }
}

/// Lines of a text without other control characters.
fn printable_lines(text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(printable).collect();
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pattern: &str, uid: &str, is_closed: bool) -> PathRecord {
        PathRecord {
            host: None,
            pattern: pattern.into(),
            namespace: if uid.is_empty() { "" } else { "shop" }.into(),
            name: uid.into(),
            uid: uid.into(),
            base: "/services/a".into(),
            closed_at: is_closed.then_some(Timestamp::UNIX_EPOCH),
        }
    }

    fn select(path: &str) -> Selection {
        Selection {
            path: path.to_owned(),
            host: None,
            namespace: None,
        }
    }

    fn chosen(path: &str, known: &[PathRecord]) -> Vec<String> {
        let chosen = select(path).choose(known).unwrap();
        chosen
            .iter()
            .map(|record| record.pattern.to_string())
            .collect()
    }

    #[test]
    fn a_path_is_named_by_its_pattern_or_by_the_base_of_an_offer_that_is_gone() {
        let known = [
            record("/services/a/v1/*", "gone", true),
            record("/services/a/v2/*", "gone", true),
            record("/services/a/v3/*", "there", true),
            record("/services/a/v4/*", "there", false),
        ];
        assert_eq!(chosen("/services/a/v1/*", &known), ["/services/a/v1/*"]);
        assert_eq!(chosen("/services/a/v3/*/", &known), ["/services/a/v3/*"]);
        for base in ["/services/a", "/services/a/", "/services/a/*"] {
            let both = ["/services/a/v1/*", "/services/a/v2/*"];
            assert_eq!(chosen(base, &known), both);
        }
    }

    #[test]
    fn what_is_not_closed_is_refused_with_what_was_meant() {
        let known = [
            record("/services/a/*", "gone", true),
            record("/x/*", "", false),
        ];
        let refused = |path: &str| select(path).choose(&known).unwrap_err().to_string();
        let below = refused("/services/a/v1");
        assert!(below.contains("/services/a/v1 is not closed"), "{below}");
        assert!(
            below
                .contains("below /services/a/* (the offer shop/gone, closed 1970-01-01T00:00:00Z)"),
            "{below}"
        );
        let held = refused("/x/*");
        assert!(
            held.contains("a route of the file is there and has it"),
            "{held}"
        );
        assert_eq!(
            refused("/elsewhere"),
            "/elsewhere is not closed, so there is nothing to release; `closed list` shows what is"
        );
    }

    #[test]
    fn what_several_left_is_released_for_one_of_them() {
        let mut hosted = record("/services/a/*", "one", true);
        hosted.host = Some("a.example".into());
        let known = [record("/services/a/*", "two", true), hosted.clone()];
        let error = select("/services/a/*").choose(&known).unwrap_err();
        assert!(error.to_string().contains("--host"), "{error}");
        let of_host = Selection {
            host: Some("a.example".to_owned()),
            ..select("/services/a/*")
        };
        assert_eq!(of_host.choose(&known).unwrap(), [hosted]);
        let of_every_host = Selection {
            host: Some(String::new()),
            ..select("/services/a/*")
        };
        assert_eq!(of_every_host.choose(&known).unwrap(), known[..1]);
    }
}
