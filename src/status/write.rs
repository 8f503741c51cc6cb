//! One write: read the offer, see whether it is still the one that the table means, put our
//! condition into it.
//!
//! R11: nothing is written unless UID and generation are those of the rows that the condition was
//! made from, and the API server refuses the write if the object changes after it was read. What
//! it refuses is dropped: whatever made the object another one comes by the informer, and leads
//! to another read and write if there is still something to write. Nothing is sent twice.

use super::api::{Api, Body, Fault};
use super::event;
use super::lease::Term;
use super::object::Object;
use crate::crd::{Condition, Fingerprint, GROUP, Observed, PLURAL, VERSION, Version};
use crate::table::OfferIdentity;
use http::Method;
use jiff::Timestamp;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// What is to be written where.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) api: Api,
    pub(super) offer: Arc<OfferIdentity>,
    pub(super) uid: Arc<str>,
    pub(super) condition: Condition,
    pub(super) term: watch::Receiver<Term>,
    /// Whether Events are made.
    pub(super) with_events: bool,
    pub(super) now: fn() -> Timestamp,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The API server has it.
    Written {
        /// What the object says now.
        observed: Observed,
        /// Why there is no Event that there should be.
        event: Option<Fault>,
    },
    /// It was so already.
    Same,
    /// The object is another one now, or is being deleted, or the write was refused.
    Dropped(String),
    /// The object changed after this version was read.
    Overtaken(Version),
    /// Somebody else writes.
    NotOurs,
    /// It could not be tried.
    Failed(Fault),
}

impl Write {
    pub(super) async fn run(self) -> Outcome {
        match self.attempt().await {
            Ok(outcome) => outcome,
            Err(fault @ (Fault::Gone | Fault::Conflict | Fault::Invalid(_))) => {
                Outcome::Dropped(fault.to_string())
            }
            Err(fault @ (Fault::Forbidden(_) | Fault::Unavailable { .. })) => {
                Outcome::Failed(fault)
            }
        }
    }

    async fn attempt(&self) -> Result<Outcome, Fault> {
        if !self.may_write() {
            return Ok(Outcome::NotOurs);
        }
        let path = self.path();
        let text = self.api.get(&path).await?;
        let object = Object::read(&text).map_err(|error| Fault::Invalid(error.to_string()))?;
        if let Some(why) = self.is_another(&object) {
            return Ok(Outcome::Dropped(why.to_owned()));
        }
        let change = object.change(&self.condition, (self.now)());
        let Some(change) = change.map_err(|error| Fault::Invalid(error.to_string()))? else {
            return Ok(Outcome::Same);
        };
        if !self.may_write() {
            return Ok(Outcome::NotOurs);
        }
        let path = format!("{path}/status");
        let patch = change.patch.into_bytes();
        let sent = self.api.call(Method::PATCH, &path, Body::JsonPatch, patch);
        match sent.await {
            Ok(answer) => Ok(Outcome::Written {
                observed: self.observed(&answer),
                event: self.tell(change.reason_before.as_deref()).await,
            }),
            Err(Fault::Conflict) => Ok(Outcome::Overtaken(object.metadata.version())),
            Err(fault) => Err(fault),
        }
    }

    fn may_write(&self) -> bool {
        self.term
            .borrow()
            .is_some_and(|until| Instant::now() < until)
    }

    fn is_another(&self, object: &Object<'_>) -> Option<&'static str> {
        if object.metadata.uid != *self.uid {
            return Some("it was made anew");
        }
        if object.is_deleting() {
            return Some("it is being deleted");
        }
        if object.metadata.generation != Some(self.condition.generation) {
            return Some("it has another generation");
        }
        None
    }

    fn observed(&self, answer: &str) -> Observed {
        let object = Object::read(answer).ok();
        Observed {
            generation: Some(self.condition.generation),
            is_deleting: object.as_ref().is_some_and(Object::is_deleting),
            condition: object.as_ref().and_then(Object::condition),
            version: object.map_or(Version::of(""), |object| object.metadata.version()),
        }
    }

    async fn tell(&self, reason_before: Option<&str>) -> Option<Fault> {
        if !self.with_events {
            return None;
        }
        let event = event::event(&self.offer, &self.condition, reason_before, (self.now)())?;
        let path = event::path(&self.offer.namespace);
        let posted = self
            .api
            .call(Method::POST, &path, Body::Json, event.into_bytes());
        posted.await.err()
    }

    fn path(&self) -> String {
        let OfferIdentity {
            namespace, name, ..
        } = &*self.offer;
        format!("/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}/{name}")
    }

    /// What it is compared by.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.condition.fingerprint()
    }
}
