//! Pages and watches as they come over HTTP.
//!
//! Read by hand from the client's body and not through kube's `Api`: that one logs a body that it
//! cannot parse, and the body may hold Secrets (R13); it hides how a watch ended; and it would hold
//! a page of any size.

use super::fault::{Fault, printable};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, header};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::time::Duration;

/// Largest page that is held; a page beyond it is asked for again with fewer objects.
const MAX_PAGE: usize = 32 * 1024 * 1024;
/// Objects that are read together.
const AT_A_TIME: usize = 16;
/// Largest line of a watch, several times of what etcd stores.
const MAX_LINE: usize = 16 * 1024 * 1024;
/// Largest refusal that is read.
const MAX_STATUS: usize = 64 * 1024;
/// Longest that a `Retry-After` is obeyed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// An object as it is listed and watched.
pub(super) trait Object: DeserializeOwned + Send + 'static {
    /// `metadata.resourceVersion`.
    fn resource_version(&self) -> Option<&str>;
}

/// A page of a list; its objects are still text.
#[derive(Debug)]
pub(super) struct Page<'a> {
    items: Vec<&'a RawValue>,
    /// The version of the whole list: a watch goes on from here.
    pub(super) resource_version: String,
    /// Token of the next page.
    pub(super) next: Option<String>,
}

/// One line of a watch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change<K> {
    /// Added or modified.
    Set(K),
    /// Deleted.
    Gone(K),
    /// Nothing changed up to this version.
    Bookmark(String),
}

/// A watch that was opened.
pub(super) struct Lines {
    body: Body,
    rest: BytesMut,
    /// How much of `rest` is known to hold no end of a line.
    searched: usize,
}

#[derive(Deserialize)]
struct ListJson<'a> {
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    r#continue: String,
}

#[derive(Deserialize)]
struct EventJson<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct BookmarkJson {
    metadata: ListMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StatusJson {
    code: u16,
    message: String,
    details: Option<DetailsJson>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DetailsJson {
    retry_after_seconds: u64,
}

/// The text of one page.
pub(super) async fn page(client: &Client, request: Request<Vec<u8>>) -> Result<BytesMut, Fault> {
    let body = send(client, request).await?;
    collect(body, MAX_PAGE).await
}

impl<'a> Page<'a> {
    /// Reads what the page says about itself.
    pub(super) fn read(text: &'a [u8]) -> Result<Self, Fault> {
        let list: ListJson<'a> = serde_json::from_slice(text).map_err(|error| unusable(&error))?;
        let ListMeta {
            resource_version,
            r#continue,
        } = list.metadata;
        if resource_version.is_empty() {
            // An empty object would be an empty list otherwise, and close every offer (R6).
            return Err(Fault::Unusable("a list without a version".to_owned()));
        }
        Ok(Self {
            items: list.items.unwrap_or_default(),
            resource_version,
            next: Some(r#continue).filter(|token| !token.is_empty()),
        })
    }

    /// Its objects, a few at a time: what is kept of an object is small and lives long, and would
    /// lie scattered among hundreds of whole ones.
    pub(super) fn objects<K: Object>(&self) -> impl Iterator<Item = Result<Vec<K>, Fault>> {
        self.items.chunks(AT_A_TIME).map(|some| {
            let objects = some.iter().map(|raw| serde_json::from_str(raw.get()));
            let objects: Result<_, _> = objects.collect();
            objects.map_err(|error| unusable(&error))
        })
    }
}

/// Opens a watch.
pub(super) async fn watch(client: &Client, request: Request<Vec<u8>>) -> Result<Lines, Fault> {
    Ok(Lines {
        body: send(client, request).await?,
        rest: BytesMut::new(),
        searched: 0,
    })
}

impl Lines {
    /// The next change; `None` when the API server ended the watch.
    pub(super) async fn next<K: Object>(&mut self) -> Result<Option<Change<K>>, Fault> {
        loop {
            if let Some(line) = self.line() {
                if !line.iter().all(u8::is_ascii_whitespace) {
                    return change(&line).map(Some);
                }
                continue;
            }
            if self.rest.len() > MAX_LINE {
                return Err(Fault::Unusable("a line of a watch is too long".to_owned()));
            }
            match self.body.frame().await {
                // Half a line at the end is an event that comes again.
                None => return Ok(None),
                Some(Err(error)) => return Err(Fault::Broken(printable(&error.to_string()))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn line(&mut self) -> Option<Bytes> {
        let unseen = self.rest.get(self.searched..).unwrap_or_default();
        match unseen.iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                let line = self.rest.split_to(self.searched + at + 1);
                self.searched = 0;
                Some(line.freeze())
            }
            None => {
                self.searched = self.rest.len();
                None
            }
        }
    }
}

fn change<K: Object>(line: &[u8]) -> Result<Change<K>, Fault> {
    let event: EventJson<'_> = serde_json::from_slice(line).map_err(|error| unusable(&error))?;
    let text = event.object.get();
    match &*event.r#type {
        "ADDED" | "MODIFIED" => object(text).map(Change::Set),
        "DELETED" => object(text).map(Change::Gone),
        "BOOKMARK" => {
            let bookmark: BookmarkJson =
                serde_json::from_str(text).map_err(|error| unusable(&error))?;
            Ok(Change::Bookmark(bookmark.metadata.resource_version))
        }
        "ERROR" => Err(status(text.as_bytes(), None, None)),
        other => Err(Fault::Unusable(printable(&format!(
            "an event of type {other:?}"
        )))),
    }
}

fn object<K: Object>(text: &str) -> Result<K, Fault> {
    serde_json::from_str(text).map_err(|error| unusable(&error))
}

/// Sends a request; an answer that is no success is a fault.
async fn send(client: &Client, request: Request<Vec<u8>>) -> Result<Body, Fault> {
    let answer = client
        .send(request.map(Body::from))
        .await
        .map_err(|error| {
            if let kube::Error::Service(inner) = &error {
                Fault::unreachable(&**inner)
            } else {
                Fault::unreachable(&error)
            }
        })?;
    if answer.status().is_success() {
        return Ok(answer.into_body());
    }
    let (head, body) = Response::into_parts(answer);
    let text = collect(body, MAX_STATUS).await.unwrap_or_default();
    Err(status(
        &text,
        Some(head.status.as_u16()),
        retry_after(&head.headers),
    ))
}

/// A refusal; proxies and overloaded API servers answer with plain text.
fn status(text: &[u8], code: Option<u16>, retry_after: Option<Duration>) -> Fault {
    let parsed = serde_json::from_slice::<StatusJson>(text);
    let plain = parsed.is_err();
    let status = parsed.unwrap_or_default();
    let after = retry_after.or_else(|| {
        let seconds = status.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(seconds))
    });
    let message = if plain {
        String::from_utf8_lossy(text)
    } else {
        Cow::Borrowed(&*status.message)
    };
    Fault::refused(
        code.unwrap_or(status.code),
        &message,
        after.map(|after| after.min(MAX_RETRY_AFTER)),
    )
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}

async fn collect(mut body: Body, most: usize) -> Result<BytesMut, Fault> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Fault::unreachable(&error))?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > most {
                return Err(Fault::TooLarge);
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole)
}

/// Where, never what: the text of a parser may repeat the value that it could not read (R13).
fn unusable(error: &serde_json::Error) -> Fault {
    Fault::Unusable(format!("JSON {:?} error", error.classify()).to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    struct Named {
        name: String,
    }

    impl Object for Named {
        fn resource_version(&self) -> Option<&str> {
            None
        }
    }

    fn lines(text: &str) -> Lines {
        Lines {
            body: Body::from(text.as_bytes().to_vec()),
            rest: BytesMut::new(),
            searched: 0,
        }
    }

    #[tokio::test]
    async fn lines_are_changes_and_half_a_line_at_the_end_is_none() {
        let mut lines = lines(
            "{\"type\":\"ADDED\",\"object\":{\"name\":\"a\"}}\n\n\
             {\"type\":\"DELETED\",\"object\":{\"name\":\"b\"}}\n\
             {\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"9\"}}}\n\
             {\"type\":\"ADDED\",\"obj",
        );
        let named = |name: &str| Named {
            name: name.to_owned(),
        };
        assert_eq!(lines.next().await, Ok(Some(Change::Set(named("a")))));
        assert_eq!(lines.next().await, Ok(Some(Change::Gone(named("b")))));
        assert_eq!(
            lines.next::<Named>().await,
            Ok(Some(Change::Bookmark("9".to_owned())))
        );
        assert_eq!(lines.next::<Named>().await, Ok(None));
    }

    #[tokio::test]
    async fn an_error_inside_a_watch_is_a_fault_with_its_code() {
        let mut gone = lines("{\"type\":\"ERROR\",\"object\":{\"code\":410}}\n");
        assert_eq!(gone.next::<Named>().await, Err(Fault::Expired));
        let mut storm = lines(
            "{\"type\":\"ERROR\",\"object\":{\"code\":500,\"message\":\"etcd\",\
             \"details\":{\"retryAfterSeconds\":7}}}\n",
        );
        let Err(fault) = storm.next::<Named>().await else {
            panic!("an error");
        };
        assert_eq!(fault.retry_after(), Some(Duration::from_secs(7)));
    }

    /// R13: Secrets come this way.
    #[test]
    fn a_parser_error_repeats_nothing_of_the_value() {
        let error = serde_json::from_str::<Named>("{\"name\": [\"hunter2\"]}").unwrap_err();
        let Fault::Unusable(text) = unusable(&error) else {
            panic!("unusable");
        };
        assert_eq!(text, "json data error");
    }
}
