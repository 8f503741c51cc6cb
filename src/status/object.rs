//! An offer as the API server has it now, and the patch that puts our condition into it.
//!
//! The field's list of conditions is atomic, so one condition is written by writing all. The others
//! are copied as text, byte for byte. The patch is refused by the API server unless the object is
//! the one that was read: a `test` on the UID (422 when it was made anew), and the
//! `resourceVersion` in the patched object (409 when anything changed). Tried against a real one: a
//! `test` on the version fences as well, but answers 422 for both.

use crate::crd::{Condition, Fingerprint, StoredCondition, Version};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// What was read of an offer.
#[derive(Debug, Deserialize)]
pub(super) struct Object<'a> {
    pub(super) metadata: Metadata,
    #[serde(borrow, default)]
    status: Option<Status<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) uid: String,
    pub(super) resource_version: String,
    #[serde(default)]
    pub(super) generation: Option<i64>,
    #[serde(default)]
    deletion_timestamp: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
struct Status<'a> {
    #[serde(borrow, default)]
    conditions: Option<Vec<&'a RawValue>>,
}

/// A patch, and what stood there before.
#[derive(Debug)]
pub(super) struct Change {
    /// JSON patch.
    pub(super) patch: String,
    /// The word for the reason before; `None` when our condition was not there.
    pub(super) reason_before: Option<String>,
}

#[derive(Serialize)]
struct Step<'a, T> {
    op: &'a str,
    path: &'a str,
    value: T,
}

#[derive(Serialize)]
struct NewStatus<'a> {
    conditions: &'a [&'a RawValue],
}

impl Metadata {
    /// The version that was read.
    pub(super) fn version(&self) -> Version {
        Version::of(&self.resource_version)
    }
}

impl<'a> Object<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    pub(super) const fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Our condition as stored.
    pub(super) fn condition(&self) -> Option<Fingerprint> {
        let items = self.items();
        let ours = StoredCondition::only(items.iter().map(|(_, item)| item));
        ours.map(|stored| stored.fingerprint())
    }

    /// What to write so that our condition is `wanted`; `None` when it is.
    pub(super) fn change(
        &self,
        wanted: &Condition,
        now: Timestamp,
    ) -> Result<Option<Change>, serde_json::Error> {
        let items = self.items();
        let only = StoredCondition::only(items.iter().map(|(_, item)| item));
        if only.is_some_and(|stored| stored.fingerprint() == wanted.fingerprint()) {
            return Ok(None);
        }
        let mut ours = items
            .iter()
            .filter_map(|(_, item)| StoredCondition::of(item));
        let before = ours.next();
        let new = serde_json::value::to_raw_value(&wanted.to_json(before, now))?;
        let mut list: Vec<&RawValue> = Vec::with_capacity(items.len() + 1);
        let mut is_placed = false;
        for (text, item) in &items {
            if StoredCondition::of(item).is_none() {
                list.push(text);
            } else if !std::mem::replace(&mut is_placed, true) {
                list.push(&new);
            }
        }
        if !is_placed {
            list.push(&new);
        }
        Ok(Some(Change {
            patch: self.patch(&list)?,
            reason_before: before.map(|stored| stored.reason.to_owned()),
        }))
    }

    fn patch(&self, conditions: &[&RawValue]) -> Result<String, serde_json::Error> {
        let Metadata {
            uid,
            resource_version,
            ..
        } = &self.metadata;
        let step = |op, path, value| Step { op, path, value };
        let fence = [
            serde_json::to_string(&step("test", "/metadata/uid", uid))?,
            serde_json::to_string(&step(
                "replace",
                "/metadata/resourceVersion",
                resource_version,
            ))?,
        ];
        // "add" replaces what is there, but needs what is above it.
        let write = if self.status.is_some() {
            serde_json::to_string(&Step {
                op: "add",
                path: "/status/conditions",
                value: conditions,
            })?
        } else {
            let value = NewStatus { conditions };
            serde_json::to_string(&Step {
                op: "add",
                path: "/status",
                value,
            })?
        };
        Ok(format!("[{},{write}]", fence.join(",")))
    }

    /// Everybody's conditions, as text and parsed.
    fn items(&self) -> Vec<(&'a RawValue, Value)> {
        let list = self
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref());
        let parsed = list.into_iter().flatten().map(|text| {
            // What cannot be parsed again is somebody else's.
            (*text, serde_json::from_str(text.get()).unwrap_or_default())
        });
        parsed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::Reason;
    use serde_json::json;

    const READY: &str = r#"{"status":"True",  "type":"Ready","lastTransitionTime":"2026-01-01T00:00:00Z","n":1e2,"big":340282366920938463463374607431768211455}"#;

    fn wanted(reason: Reason) -> Condition {
        Condition {
            reason,
            message: "generation 2: as it is".to_owned(),
            generation: 2,
        }
    }

    fn object(status: &str) -> String {
        format!(
            r#"{{"apiVersion":"x","metadata":{{"name":"n","uid":"u1","resourceVersion":"41","generation":2}},"spec":{{}}{status}}}"#
        )
    }

    fn change(text: &str, reason: Reason) -> Option<Change> {
        let object = Object::read(text).unwrap();
        object
            .change(&wanted(reason), Timestamp::UNIX_EPOCH)
            .unwrap()
    }

    /// R11: both fences, and in this order: of another object nothing is looked at.
    #[test]
    fn a_patch_is_fenced_by_uid_and_version() {
        let patch: Value =
            serde_json::from_str(&change(&object(""), Reason::Enforced).unwrap().patch).unwrap();
        assert_eq!(
            patch[0],
            json!({"op": "test", "path": "/metadata/uid", "value": "u1"})
        );
        assert_eq!(
            patch[1],
            json!({"op": "replace", "path": "/metadata/resourceVersion", "value": "41"})
        );
        assert_eq!(patch[2]["path"], "/status");
        assert_eq!(patch[2]["value"]["conditions"][0]["reason"], "Enforced");
        assert!(!patch.to_string().contains("/status/observedGeneration"));
    }

    #[test]
    fn the_conditions_of_others_stay_byte_for_byte_and_in_their_order() {
        let ours = wanted(Reason::Enforced).to_json(None, Timestamp::UNIX_EPOCH);
        let text = object(&format!(
            r#","status":{{"conditions":[{READY},{ours},7,{{"type":"Odd\u0041"}}],"endpoint":"e"}}"#
        ));
        let change = change(&text, Reason::InvalidPrice).unwrap();
        assert_eq!(change.reason_before.as_deref(), Some("Enforced"));
        assert!(change.patch.contains(READY), "{}", change.patch);
        assert!(
            change.patch.contains(r#",7,{"type":"Odd\u0041"}]"#),
            "{}",
            change.patch
        );
        let patch: Value = serde_json::from_str(&change.patch).unwrap();
        assert_eq!(patch[2]["path"], "/status/conditions");
        assert_eq!(patch[2]["value"][1]["reason"], "InvalidPrice");
        assert_eq!(patch[2]["value"].as_array().unwrap().len(), 4);
    }

    /// The field's schema prunes `observedGeneration`: what is stored without it is the same.
    #[test]
    fn what_would_change_nothing_is_no_patch() {
        let mut stored = wanted(Reason::Enforced).to_json(None, Timestamp::UNIX_EPOCH);
        stored.as_object_mut().unwrap().remove("observedGeneration");
        let text = object(&format!(r#","status":{{"conditions":[{READY},{stored}]}}"#));
        assert!(change(&text, Reason::Enforced).is_none());
        assert!(change(&text, Reason::Draining).is_some());
    }

    #[test]
    fn several_of_ours_become_one() {
        let stored = wanted(Reason::Enforced).to_json(None, Timestamp::UNIX_EPOCH);
        let text = object(&format!(
            r#","status":{{"conditions":[{stored},{READY},{stored}]}}"#
        ));
        let patch: Value =
            serde_json::from_str(&change(&text, Reason::Enforced).unwrap().patch).unwrap();
        assert_eq!(patch[2]["value"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn an_object_on_its_way_out_is_known() {
        let text = r#"{"metadata":{"uid":"u","resourceVersion":"1","deletionTimestamp":"2026-01-01T00:00:00Z"}}"#;
        assert!(Object::read(text).unwrap().is_deleting());
        assert!(
            !Object::read(&object(r#","status":{"conditions":null}"#))
                .unwrap()
                .is_deleting()
        );
    }
}
