//! What was last seen of our condition on every offer: from whoever reads the cluster to whoever
//! writes status.
//!
//! A change of status changes no offer, so no table tells that somebody removed our condition, or
//! that it is there already. Reading every object before each comparison would cost a request per
//! offer and table. So the informer says in a few bytes what it saw, and the writer asks the API
//! server only about offers whose condition seems to differ.
//!
//! It is a hint and no fence: it may be older than the object. A write carries its own fence (R11).

use super::{Fingerprint, ServiceOffer, StoredCondition};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// A `resourceVersion` in eight bytes; it tells versions apart and not which is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version(u64);

/// What an object says, as far as the writer of status cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// It has a `deletionTimestamp`: nothing is written to it any more.
    pub is_deleting: bool,
    /// Our condition as stored; `None` when it is not there exactly once.
    pub condition: Option<Fingerprint>,
    /// The version that says so.
    pub version: Version,
}

/// What was seen, by UID. Cheap to clone; one who sees, one who takes.
#[derive(Debug, Clone, Default)]
pub struct Observations {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Seen {
    offers: HashMap<Arc<str>, Observed>,
    /// Those that differ from what they were when somebody last took this set.
    changed: HashSet<Arc<str>>,
    /// Those of which any other version is news.
    awaited: HashSet<Arc<str>>,
}

impl Version {
    /// Of a `resourceVersion`.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl Observed {
    /// What an object says.
    #[must_use]
    pub fn of(object: &ServiceOffer) -> Self {
        let ours = StoredCondition::only(object.conditions());
        Self {
            generation: object.metadata.generation,
            is_deleting: object.metadata.deletion_timestamp.is_some(),
            condition: ours.map(|stored| stored.fingerprint()),
            version: Version::of(
                object
                    .metadata
                    .resource_version
                    .as_deref()
                    .unwrap_or_default(),
            ),
        }
    }

    fn says_the_same_as(&self, other: &Self) -> bool {
        (self.generation, self.is_deleting, self.condition)
            == (other.generation, other.is_deleting, other.condition)
    }
}

impl Observations {
    /// An object was seen. It is news when it says something else than before.
    pub fn see(&self, uid: &Arc<str>, observed: Observed) {
        self.take_note(uid, observed, false);
    }

    fn take_note(&self, uid: &Arc<str>, observed: Observed, only_if_known: bool) {
        let mut seen = self.lock();
        if only_if_known && !seen.offers.contains_key(uid) {
            return;
        }
        let before = seen.offers.insert(uid.clone(), observed);
        let is_other = before.is_none_or(|before| before.version != observed.version);
        let is_news = before.is_none_or(|before| !before.says_the_same_as(&observed))
            || (is_other && seen.awaited.contains(uid));
        if !is_news {
            return;
        }
        seen.awaited.remove(uid);
        seen.changed.insert(uid.clone());
        drop(seen);
        self.shared.wake.notify_one();
    }

    /// What the API server made of a write. As seen, unless the object is gone meanwhile: the answer to
    /// a write is no sign of life, and nobody would forget it again (R11).
    pub fn wrote(&self, uid: &Arc<str>, observed: Observed) {
        self.take_note(uid, observed, true);
    }

    /// An object is gone, or is not followed any more.
    pub fn forget(&self, uid: &str) {
        let mut seen = self.lock();
        seen.offers.remove(uid);
        seen.changed.remove(uid);
        seen.awaited.remove(uid);
    }

    /// Whether another version than this was seen last. If not, the next one is news whatever it
    /// says.
    #[must_use]
    pub fn is_past(&self, uid: &Arc<str>, version: Version) -> bool {
        let mut seen = self.lock();
        match seen.offers.get(uid) {
            Some(observed) if observed.version != version => true,
            Some(_) => {
                seen.awaited.insert(uid.clone());
                false
            }
            None => false,
        }
    }

    /// What an object said last.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<Observed> {
        self.lock().offers.get(uid).copied()
    }

    /// Resolves when something changed that was not taken.
    pub async fn changed(&self) {
        self.shared.wake.notified().await;
    }

    /// Those that changed since this was last asked for.
    #[must_use]
    pub fn take_changed(&self) -> HashSet<Arc<str>> {
        std::mem::take(&mut self.lock().changed)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // A map is whole at every step.
        self.shared
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn observed(conditions: &serde_json::Value) -> Observed {
        at("1", conditions)
    }

    fn at(version: &str, conditions: &serde_json::Value) -> Observed {
        Observed::of(&ServiceOffer::from_json(json!({
            "metadata": {"uid": "u", "generation": 2, "resourceVersion": version},
            "status": {"conditions": conditions},
        })))
    }

    #[tokio::test]
    async fn only_what_changes_our_condition_is_news() {
        let observations = Observations::default();
        let uid: Arc<str> = "u".into();
        let ready = json!({"type": "Ready", "status": "True", "message": "1"});
        observations.see(&uid, observed(&json!([ready])));
        observations.changed().await;
        assert_eq!(observations.take_changed().len(), 1);
        let heartbeat = json!({"type": "Ready", "status": "True", "message": "2"});
        observations.see(&uid, observed(&json!([heartbeat])));
        assert!(observations.take_changed().is_empty());
        let ours = json!({"type": "PaymentGateEnforced", "status": "True"});
        observations.see(&uid, observed(&json!([ready, ours])));
        assert!(observations.get("u").unwrap().condition.is_some());
        assert_eq!(observations.take_changed().len(), 1);
    }

    /// After a conflict: the version that was read is not worth another look, any other is.
    #[test]
    fn the_next_version_is_news_to_whoever_waits_for_it() {
        let (observations, uid): (_, Arc<str>) = (Observations::default(), "u".into());
        observations.see(&uid, at("1", &json!([])));
        assert_eq!(observations.take_changed().len(), 1);
        assert!(!observations.is_past(&uid, Version::of("1")));
        observations.see(&uid, at("1", &json!([])));
        assert!(observations.take_changed().is_empty());
        observations.see(&uid, at("2", &json!([])));
        assert_eq!(observations.take_changed().len(), 1);
        observations.see(&uid, at("3", &json!([])));
        assert!(
            observations.take_changed().is_empty(),
            "nobody waits any more"
        );
        assert!(observations.is_past(&uid, Version::of("2")));
    }

    /// R11: nothing is kept of what is gone, also when nobody takes.
    #[test]
    fn what_is_forgotten_is_nowhere() {
        let observations = Observations::default();
        observations.see(&"u".into(), observed(&json!([])));
        observations.forget("u");
        assert_eq!(observations.get("u"), None);
        assert!(observations.take_changed().is_empty());
    }

    /// R11: a write whose answer is late does not bring it back.
    #[test]
    fn what_is_forgotten_stays_forgotten_when_a_write_is_answered() {
        let (observations, uid): (_, Arc<str>) = (Observations::default(), "u".into());
        observations.see(&uid, at("1", &json!([])));
        let ours = json!([{"type": "PaymentGateEnforced", "status": "True"}]);
        observations.wrote(&uid, at("2", &ours));
        assert!(observations.get("u").unwrap().condition.is_some());
        observations.forget("u");
        observations.wrote(&uid, at("3", &json!([])));
        assert_eq!(observations.get("u"), None);
        assert!(observations.take_changed().is_empty());
    }

    #[test]
    fn whatever_stands_in_status_can_be_seen() {
        for conditions in [json!(null), json!("x"), json!([1, {"type": 2}])] {
            assert_eq!(observed(&conditions).condition, None);
        }
        assert_eq!(observed(&json!([])).generation, Some(2));
    }
}
