//! The Event beside the condition, which `kubectl describe` shows under the object.
//!
//! One for each change of the reason to one that its seller has to act on, never one for each
//! reload: it is made only when a condition with another reason was replaced, so a restart makes
//! none. It is made once and not repeated; the condition stays, the Event passes.

use crate::crd::{Condition, GROUP, KIND, Reason, VERSION};
use crate::table::OfferIdentity;
use jiff::Timestamp;
use serde_json::json;

/// Name under which Events and requests of ours are known.
const COMPONENT: &str = "x402-verifier";
/// Longest message of an Event that an API server takes.
const LONGEST: usize = 1_000;

/// The Event for a condition that took the place of one with `reason_before`; `None` when there is
/// nothing to say.
pub(super) fn event(
    offer: &OfferIdentity,
    condition: &Condition,
    reason_before: Option<&str>,
    now: Timestamp,
) -> Option<String> {
    if !is_telling(condition.reason) || reason_before == Some(condition.reason.as_str()) {
        return None;
    }
    let at = format!("{now:.0}");
    let message: String = condition.message.chars().take(LONGEST).collect();
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": offer.namespace, "generateName": "payment-gate-"},
        "involvedObject": {
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": KIND,
            "namespace": offer.namespace,
            "name": offer.name,
            "uid": offer.uid,
        },
        "type": "Warning",
        "reason": condition.reason.as_str(),
        "message": message,
        "source": {"component": COMPONENT},
        "count": 1,
        "firstTimestamp": at,
        "lastTimestamp": at,
    });
    Some(event.to_string())
}

/// Where an Event of a namespace is posted.
pub(super) fn path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/events")
}

/// Whether there is something for the seller to repair: a pause or the end of a drain is its own doing.
fn is_telling(reason: Reason) -> bool {
    !reason.is_enforced() && reason != Reason::Withdrawn
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(reason: Reason, before: Option<&str>) -> Option<serde_json::Value> {
        let offer = OfferIdentity::of_namespace("a".into(), "b".into(), "u".into());
        let condition = Condition {
            reason,
            message: "generation 1: so".to_owned(),
            generation: 1,
        };
        event(&offer, &condition, before, Timestamp::UNIX_EPOCH)
            .map(|text| serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn only_a_change_to_what_must_be_repaired_is_an_event() {
        assert_eq!(made(Reason::Enforced, None), None);
        assert_eq!(made(Reason::PathConflict, Some("PathConflict")), None);
        let event = made(Reason::PathConflict, Some("Enforced")).unwrap();
        assert_eq!(
            (&event["reason"], &event["type"]),
            (&json!("PathConflict"), &json!("Warning"))
        );
        assert_eq!(event["involvedObject"]["uid"], "u");
        assert!(made(Reason::InvalidPrice, None).is_some());
    }
}
