//! The Secrets that hold credentials for upstreams: what was read of them, by namespace and name.
//!
//! Only Secrets of the listed names are ever read, and of them only one key. A Secret that lacks the
//! label is not meant for this and its value is dropped unread; those of the predecessor have none,
//! and the operator lists each of them. Like the list of offers, a list of
//! Secrets counts when it is complete (R6); what was read once stays when the API is lost.

use super::wire::Object;
use crate::crd::{UPSTREAM_SECRET_KEY, UPSTREAM_SECRET_LABEL, UpstreamSecretError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// Namespace and name.
pub(super) type SecretKey = (String, String);

/// A Secret as it is read: metadata, and one key of its data. What else it holds is skipped.
#[derive(Deserialize)]
pub(super) struct SecretObject {
    metadata: Metadata,
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    namespace: String,
    name: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    resource_version: Option<String>,
}

/// In base64.
#[derive(Deserialize)]
struct Data {
    /// [`UPSTREAM_SECRET_KEY`]: the whole header.
    #[serde(default, deserialize_with = "secret_text")]
    authorization: Option<SecretString>,
    /// Of the predecessor: a bearer token.
    #[serde(
        default,
        rename = "LITELLM_MASTER_KEY",
        deserialize_with = "secret_text"
    )]
    litellm: Option<SecretString>,
    /// Of the predecessor: a bearer token.
    #[serde(default, rename = "API_SERVER_KEY", deserialize_with = "secret_text")]
    hermes: Option<SecretString>,
}

/// How a Secret is to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// With the label; the value is the header.
    Labelled,
    /// `litellm-secrets`.
    Litellm,
    /// `hermes-api-server`.
    Hermes,
}

/// What a Secret is worth.
type Found = Result<SecretString, UpstreamSecretError>;

/// Everything that was read.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    lists: Vec<SecretList>,
}

/// Secrets of one name, in one namespace or in all.
#[derive(Debug)]
struct SecretList {
    name: String,
    namespace: Option<String>,
    form: Form,
    /// A complete list was seen.
    read: bool,
    /// The first attempt came to an end, good or bad.
    settled: bool,
    found: BTreeMap<SecretKey, Found>,
    listing: BTreeMap<SecretKey, Found>,
}

impl Credentials {
    /// Adds a list, to be filled; the number by which it is known.
    pub(super) fn add(&mut self, name: String, namespace: Option<String>, form: Form) -> usize {
        self.lists.push(SecretList {
            name,
            namespace,
            form,
            read: false,
            settled: false,
            found: BTreeMap::new(),
            listing: BTreeMap::new(),
        });
        self.lists.len() - 1
    }

    /// The credential of an offer in `namespace` that names the Secret `name`.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Found {
        let list = self.lists.iter().find(|list| {
            let here = list.namespace.as_deref().is_none_or(|n| n == namespace);
            here && list.name == name
        });
        let Some(list) = list.filter(|list| list.read) else {
            return Err(UpstreamSecretError::NotRead);
        };
        let key = (namespace.to_owned(), name.to_owned());
        list.found
            .get(&key)
            .cloned()
            .unwrap_or(Err(UpstreamSecretError::Missing))
    }

    /// Whether every list was read or failed once: an offer that names a Secret means something.
    pub(super) fn settled(&self) -> bool {
        self.lists.iter().all(|list| list.settled)
    }

    /// The first attempt at a list came to an end.
    pub(super) fn settle(&mut self, list: usize) {
        if let Some(list) = self.lists.get_mut(list) {
            list.settled = true;
        }
    }

    pub(super) fn begin(&mut self, list: usize) {
        if let Some(list) = self.lists.get_mut(list) {
            list.listing.clear();
        }
    }

    pub(super) fn page(&mut self, list: usize, secrets: Vec<SecretObject>) {
        if let Some(list) = self.lists.get_mut(list) {
            let form = list.form;
            let read = secrets.into_iter().map(|secret| read(secret, form));
            list.listing.extend(read);
        }
    }

    /// The list is complete: its name, when offers that name it have to be looked at again.
    pub(super) fn complete(&mut self, list: usize) -> Option<String> {
        let list = self.lists.get_mut(list)?;
        let listed = std::mem::take(&mut list.listing);
        let changed = !list.read || !equal(&listed, &list.found);
        list.found = listed;
        list.read = true;
        list.settled = true;
        changed.then(|| list.name.clone())
    }

    /// A Secret is there; its key when its worth changed.
    pub(super) fn set(&mut self, list: usize, secret: SecretObject) -> Option<SecretKey> {
        let list = self.lists.get_mut(list)?;
        let (key, found) = read(secret, list.form);
        let same = list.found.get(&key).is_some_and(|old| alike(old, &found));
        list.found.insert(key.clone(), found);
        (!same).then_some(key)
    }

    /// A Secret was deleted; its key when it was known.
    pub(super) fn gone(&mut self, list: usize, secret: SecretObject) -> Option<SecretKey> {
        let list = self.lists.get_mut(list)?;
        let key = (secret.metadata.namespace, secret.metadata.name);
        list.found.remove(&key).map(|_found| key)
    }
}

impl Object for SecretObject {
    fn resource_version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }
}

impl std::fmt::Debug for SecretObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretObject")
            .field("namespace", &self.metadata.namespace)
            .field("name", &self.metadata.name)
            .finish_non_exhaustive()
    }
}

fn secret_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(SecretString::from))
}

fn read(secret: SecretObject, form: Form) -> (SecretKey, Found) {
    let SecretObject { metadata, data } = secret;
    let labelled = metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(UPSTREAM_SECRET_LABEL))
        .is_some_and(|value| value == "true");
    let found = match form {
        Form::Labelled if !labelled => Err(UpstreamSecretError::NotLabelled),
        Form::Labelled => decode(data.and_then(|data| data.authorization)),
        Form::Litellm => decode(data.and_then(|data| data.litellm)).map(|token| bearer(&token)),
        Form::Hermes => decode(data.and_then(|data| data.hermes)).map(|token| bearer(&token)),
    };
    ((metadata.namespace, metadata.name), found)
}

fn bearer(token: &SecretString) -> SecretString {
    SecretString::from(format!("Bearer {}", token.expose_secret().trim()))
}

fn decode(encoded: Option<SecretString>) -> Found {
    const { assert!(matches!(UPSTREAM_SECRET_KEY.as_bytes(), b"authorization")) };
    let encoded = encoded.ok_or(UpstreamSecretError::NoKey)?;
    let bytes = STANDARD
        .decode(encoded.expose_secret())
        .map_err(|_no_base64| UpstreamSecretError::NotAHeader)?;
    let text = String::from_utf8(bytes).map_err(|_no_text| UpstreamSecretError::NotAHeader)?;
    Ok(SecretString::from(text))
}

fn alike(left: &Found, right: &Found) -> bool {
    match (left, right) {
        (Ok(left), Ok(right)) => left.expose_secret() == right.expose_secret(),
        (Err(left), Err(right)) => left == right,
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    }
}

fn equal(left: &BTreeMap<SecretKey, Found>, right: &BTreeMap<SecretKey, Found>) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .zip(right)
            .all(|((a, x), (b, y))| a == b && alike(x, y))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(labelled: bool, value: &str) -> SecretObject {
        let labels = if labelled {
            serde_json::json!({UPSTREAM_SECRET_LABEL: "true"})
        } else {
            serde_json::json!({})
        };
        serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "demo", "name": "up", "labels": labels},
            "data": {"authorization": STANDARD.encode(value), "other": "AAAA"},
        }))
        .unwrap()
    }

    fn credentials() -> Credentials {
        let mut credentials = Credentials::default();
        credentials.add("up".to_owned(), None, Form::Labelled);
        credentials
    }

    fn text(found: Found) -> Result<String, UpstreamSecretError> {
        found.map(|secret| secret.expose_secret().to_owned())
    }

    /// R6: a list counts when it is complete.
    #[test]
    fn nothing_is_known_before_the_first_complete_list() {
        let mut seen = credentials();
        seen.page(0, vec![secret(true, "Bearer a")]);
        assert_eq!(
            text(seen.get("demo", "up")),
            Err(UpstreamSecretError::NotRead)
        );
        assert!(!seen.settled());
        assert_eq!(seen.complete(0).as_deref(), Some("up"));
        assert!(seen.settled());
        assert_eq!(text(seen.get("demo", "up")), Ok("Bearer a".to_owned()));
        assert_eq!(
            text(seen.get("other", "up")),
            Err(UpstreamSecretError::Missing)
        );
        assert_eq!(
            text(seen.get("demo", "no")),
            Err(UpstreamSecretError::NotRead)
        );
    }

    #[test]
    fn a_secret_appears_changes_and_goes() {
        let mut seen = credentials();
        seen.complete(0);
        let key = Some(("demo".to_owned(), "up".to_owned()));
        assert_eq!(seen.set(0, secret(true, "Bearer a")), key);
        assert_eq!(seen.set(0, secret(true, "Bearer a")), None);
        assert_eq!(seen.set(0, secret(true, "Bearer b")), key);
        assert_eq!(seen.gone(0, secret(true, "")), key);
        assert_eq!(
            text(seen.get("demo", "up")),
            Err(UpstreamSecretError::Missing)
        );
        assert_eq!(seen.gone(0, secret(true, "")), None);
    }

    /// O6: a Secret that is not meant for this is not used.
    #[test]
    fn o6_without_the_label_the_value_is_not_even_read() {
        let mut seen = credentials();
        seen.complete(0);
        seen.set(0, secret(false, "Bearer a"));
        assert_eq!(
            text(seen.get("demo", "up")),
            Err(UpstreamSecretError::NotLabelled)
        );
    }

    #[test]
    fn a_relist_that_finds_the_same_is_no_change() {
        let mut seen = credentials();
        seen.page(0, vec![secret(true, "Bearer a")]);
        assert!(seen.complete(0).is_some());
        seen.begin(0);
        seen.page(0, vec![secret(true, "Bearer a")]);
        assert!(seen.complete(0).is_none());
        seen.begin(0);
        assert!(seen.complete(0).is_some(), "it is gone");
    }

    #[test]
    fn a_token_of_the_predecessor_becomes_a_header() {
        let mut seen = Credentials::default();
        let namespace = Some("llm".to_owned());
        seen.add("litellm-secrets".to_owned(), namespace, Form::Litellm);
        let secret: SecretObject = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "llm", "name": "litellm-secrets"},
            "data": {"LITELLM_MASTER_KEY": STANDARD.encode("sk-1\n"), "API_SERVER_KEY": "AAAA"},
        }))
        .unwrap();
        seen.page(0, vec![secret]);
        seen.complete(0);
        let found = text(seen.get("llm", "litellm-secrets"));
        assert_eq!(found, Ok("Bearer sk-1".to_owned()));
        let elsewhere = text(seen.get("a", "litellm-secrets"));
        assert_eq!(elsewhere, Err(UpstreamSecretError::NotRead));
    }

    /// R13.
    #[test]
    fn r13_no_value_is_in_the_debug_text() {
        let mut seen = credentials();
        let object = secret(true, "Bearer hunter2");
        assert!(!format!("{object:?}").contains("hunter2"));
        seen.page(0, vec![object]);
        seen.complete(0);
        assert!(!format!("{seen:?}").contains("hunter2"));
        assert!(!format!("{seen:?}").contains(&STANDARD.encode("Bearer hunter2")));
    }
}
