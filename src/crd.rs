//! `ServiceOffer` (`obol.org/v1alpha1`): the object as the API server stores it, and its pure
//! translation to the neutral [`Offer`].
//!
//! The kind belongs to another controller; we read it, and write one condition of its status. So an
//! object is taken as it comes: [`ServiceOffer`] deserialises from *any* JSON object, and what it
//! says is read field by field afterwards. Nothing that one seller writes, or that a later version
//! of the kind adds, can make a list unreadable for the others (R6).
//!
//! [`translate`] never fails. It finds the path of the offer even when nothing else makes sense, and
//! carries what is wrong as problems of the offer or of one route, because what cannot be understood
//! is closed, never absent (R3). Whether a route was published by the controller plays no part: an
//! offer is gated from the moment it exists.
//!
//! The module does no I/O and knows neither watch nor table. It validates what only the object
//! shows; patterns are compiled, and paths given to their owners, by the table.

mod condition;
mod manifest;
mod object;
mod observed;
mod payment;
mod read;
mod schema;
mod translate;

pub use condition::{CONDITION_TYPE, Condition, Fingerprint, Reason, StoredCondition};
pub use manifest::{Content, Manifest, manifests};
pub use object::ServiceOffer;
pub use observed::{Observations, Observed, Version};
pub use schema::{definition, policy};
pub use translate::translate;

// Part of this module's interface, for those who may import it and not the neutral offer.
pub use crate::offer::Offer;

use crate::offer::Problem;
use http::HeaderValue;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeSet;
use std::sync::Arc;

/// API group of the kind.
pub const GROUP: &str = "obol.org";
/// The version that is read and written.
pub const VERSION: &str = "v1alpha1";
/// Kind.
pub const KIND: &str = "ServiceOffer";
/// Resource name in URLs and RBAC.
pub const PLURAL: &str = "serviceoffers";

/// Annotation of an offer that names the Secret with its upstream's credential.
pub const UPSTREAM_SECRET_ANNOTATION: &str = "x402.obol.org/upstream-secret";
/// Label (`"true"`) that a Secret must carry to be used so.
pub const UPSTREAM_SECRET_LABEL: &str = "x402.obol.org/upstream-auth";
/// Key of that Secret whose value is the whole `Authorization` header.
pub const UPSTREAM_SECRET_KEY: &str = "authorization";
/// Name of that Secret unless the operator lists others.
pub const DEFAULT_UPSTREAM_SECRET: &str = "x402-upstream";
/// The predecessor's annotation (`"true"`) that takes an offer off the market at once.
pub const PAUSED_ANNOTATION: &str = "obol.org/paused";

/// What the operator decided about all offers; the same for every object.
#[derive(Debug, Clone)]
pub struct TranslateOptions {
    /// Names of Secrets that offers may name for their upstream's credential.
    pub upstream_secret_names: Vec<String>,
    /// Upstreams in a foreign namespace that are allowed (O6).
    pub foreign_upstreams: Vec<ForeignUpstream>,
    /// Hosts that `pathOwners` binds (lower case). Only there does an offer live on its `hostname`
    /// alone (O4); any other is gated on every host, because the field serves it on both.
    pub bound_hosts: BTreeSet<Arc<str>>,
}

/// One entry of the operator's allow list for upstreams in another namespace (O6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignUpstream {
    /// Namespace of the offer.
    pub offer_namespace: String,
    /// Namespace of its upstream.
    pub upstream_namespace: String,
}

/// What became of one object.
#[derive(Debug, Clone)]
pub struct Translated {
    /// The offer; problems included.
    pub offer: Offer,
    /// The Secret of the offer's own namespace that holds its upstream's credential. Whoever can
    /// read Secrets ends this with [`Translated::attach_upstream_auth`].
    pub upstream_secret: Option<Arc<str>>,
    /// When the same object translates to something else without an event (a drain that begins in
    /// the future). The end of a drain is the table's own timer.
    pub next_change: Option<Timestamp>,
}

/// Why the Secret that an offer names cannot be used. Displayed to the seller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum UpstreamSecretError {
    /// There is none of this name in the offer's namespace.
    #[error("there is no such Secret in this namespace: create it, or remove the annotation")]
    Missing,
    /// It is not meant for this.
    #[error("the Secret lacks the label {UPSTREAM_SECRET_LABEL}: \"true\": add it")]
    NotLabelled,
    /// It has no such key.
    #[error(
        "the Secret has no key \"{UPSTREAM_SECRET_KEY}\": write the whole value of the \
         Authorization header there"
    )]
    NoKey,
    /// The value is no header.
    #[error(
        "the value of the key \"{UPSTREAM_SECRET_KEY}\" is not one line of visible ASCII: write \
         the whole value of the Authorization header, such as \"Bearer ...\""
    )]
    NotAHeader,
    /// Secrets cannot be read now, and this one was never seen.
    #[error("Secrets of this name were not read yet: wait, or ask the operator for its RBAC")]
    NotRead,
}

impl Translated {
    /// Ends the translation of an offer that names a Secret: the credential goes to every route,
    /// or the reason why there is none closes the offer, because a buyer must not pay for what the
    /// upstream is going to refuse.
    pub fn attach_upstream_auth(&mut self, found: Result<SecretString, UpstreamSecretError>) {
        match found.and_then(|value| header(&value)) {
            Ok(value) => {
                for declared in &mut self.offer.routes {
                    Arc::make_mut(&mut declared.route).upstream_auth = Some(value.clone());
                }
            }
            Err(why) => self.offer.problems.push(Problem {
                code: "upstream_secret",
                message: format!(
                    "the annotation {UPSTREAM_SECRET_ANNOTATION} names {:?}: {why}",
                    self.upstream_secret.as_deref().unwrap_or_default()
                ),
            }),
        }
    }
}

/// The credential as a header value, surrounding whitespace aside.
fn header(value: &SecretString) -> Result<SecretString, UpstreamSecretError> {
    let text = value.expose_secret().trim();
    if text.is_empty() || HeaderValue::from_str(text).is_err() {
        return Err(UpstreamSecretError::NotAHeader);
    }
    Ok(SecretString::from(text))
}

impl Default for TranslateOptions {
    fn default() -> Self {
        Self {
            upstream_secret_names: vec![DEFAULT_UPSTREAM_SECRET.to_owned()],
            foreign_upstreams: Vec::new(),
            bound_hosts: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests;
