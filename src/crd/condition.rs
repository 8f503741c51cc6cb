//! Our condition in the status of an offer: its type, and the closed list of its reasons.
//!
//! What a route of an offer came to is known to the table by a stable code; [`Reason::of`] gives
//! the code's word in a condition. The words are an interface: alerts and sellers read them, and
//! `docs/offers.md` explains each one.
//!
//! Two conditions are the same if status, reason and message are ([`Fingerprint`]). Times are not
//! compared, and neither is `observedGeneration`: the field's schema prunes it from conditions, so
//! whoever compared it would find a difference for ever. The message carries the generation instead.

use jiff::Timestamp;
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Type of the one condition that we write.
pub const CONDITION_TYPE: &str = "PaymentGateEnforced";

/// Why the condition is what it is. Of several that apply to one offer the greatest is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Every route is served as declared. The condition is `True`.
    Enforced,
    /// A route is hidden by an earlier one with the same path. The condition is `True`.
    Shadowed,
    /// Draining: no new buyers, payments of earlier challenges are served. The condition is `True`.
    Draining,
    /// Paused, or its drain is over: its paths answer 410.
    Withdrawn,
    /// The operator's configuration lacks something that the offer needs.
    OperatorConfiguration,
    /// The Secret for the upstream's credential cannot be used.
    UpstreamSecret,
    /// The upstream is in another namespace (O6).
    ForeignUpstream,
    /// A price cannot be charged exactly.
    InvalidPrice,
    /// Network, token, recipient or another part of a payment cannot be used.
    InvalidPayment,
    /// A path or hostname cannot be used.
    InvalidPath,
    /// Another field cannot be understood.
    InvalidSpec,
    /// A path belongs to another namespace or to the operator (O1, O2). Nothing is closed.
    PathConflict,
    /// A path is still reserved for another namespace (O3). Nothing is closed.
    PathReserved,
    /// A path that no offer may have (O5). Nothing is closed.
    ReservedPath,
}

/// Our condition as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Why.
    pub reason: Reason,
    /// What its seller reads; begins with the generation that it is about.
    pub message: String,
    /// Generation of the offer that it is about.
    pub generation: i64,
}

/// Our condition as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredCondition<'a> {
    /// `True`, `False`, or whatever stands there.
    pub status: &'a str,
    /// The word of a [`Reason`], or whatever stands there.
    pub reason: &'a str,
    /// What its seller reads.
    pub message: &'a str,
    /// `lastTransitionTime` as written.
    pub last_transition: Option<&'a str>,
}

/// Status, reason and message of a condition in eight bytes. Only for comparisons in one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(u64);

impl Condition {
    /// `status` of the condition.
    #[must_use]
    pub const fn status(&self) -> &'static str {
        if self.reason.is_enforced() {
            "True"
        } else {
            "False"
        }
    }

    /// What it is compared by.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.status(), self.reason.as_str(), &self.message)
    }

    /// The item of `status.conditions` that takes the place of `before`. Its time is that of the
    /// last change of `status`, in whole seconds as the API has it.
    #[must_use]
    pub fn to_json(&self, before: Option<StoredCondition<'_>>, now: Timestamp) -> Value {
        let since = before
            .filter(|before| before.status == self.status())
            .and_then(|before| before.last_transition)
            .map_or_else(|| format!("{now:.0}"), str::to_owned);
        json!({
            "type": CONDITION_TYPE,
            "status": self.status(),
            "reason": self.reason.as_str(),
            "message": self.message,
            "observedGeneration": self.generation,
            "lastTransitionTime": since,
        })
    }
}

impl<'a> StoredCondition<'a> {
    /// Our condition, if this item of `status.conditions` is it.
    #[must_use]
    pub fn of(item: &'a Value) -> Option<Self> {
        let text = |key: &str| item.get(key).and_then(Value::as_str);
        (text("type") == Some(CONDITION_TYPE)).then(|| Self {
            status: text("status").unwrap_or_default(),
            reason: text("reason").unwrap_or_default(),
            message: text("message").unwrap_or_default(),
            last_transition: text("lastTransitionTime"),
        })
    }

    /// Our condition among all; `None` also when there are several, for that is to be repaired.
    pub fn only(items: impl IntoIterator<Item = &'a Value>) -> Option<Self> {
        let mut ours = items.into_iter().filter_map(Self::of);
        let first = ours.next()?;
        ours.next().is_none().then_some(first)
    }

    /// What it is compared by.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.status, self.reason, self.message)
    }
}

impl Fingerprint {
    fn of(status: &str, reason: &str, message: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (status, reason, message).hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 14] = [
        Self::Enforced,
        Self::Shadowed,
        Self::Draining,
        Self::Withdrawn,
        Self::OperatorConfiguration,
        Self::UpstreamSecret,
        Self::ForeignUpstream,
        Self::InvalidPrice,
        Self::InvalidPayment,
        Self::InvalidPath,
        Self::InvalidSpec,
        Self::PathConflict,
        Self::PathReserved,
        Self::ReservedPath,
    ];

    /// The reason for a code in the table's report (`invalid_price`, `PathConflict`); a code that
    /// is not known here is [`Reason::InvalidSpec`].
    #[must_use]
    pub fn of(code: &str) -> Self {
        match code {
            "PathConflict" => Self::PathConflict,
            "PathReserved" => Self::PathReserved,
            "ReservedPath" => Self::ReservedPath,
            "shadowed" => Self::Shadowed,
            "withdrawn" | "long_closed" | "paused" | "drained" | "deleting" => Self::Withdrawn,
            "unknown_facilitator" | "invalid_facilitator_header" => Self::OperatorConfiguration,
            "upstream_secret" | "invalid_upstream_auth" => Self::UpstreamSecret,
            "foreign_upstream" => Self::ForeignUpstream,
            "invalid_price" => Self::InvalidPrice,
            "invalid_payment" | "payment_mismatch" | "unsupported_method" | "unknown_chain"
            | "invalid_asset" | "unknown_asset" | "invalid_address" | "invalid_recipient"
            | "no_payment_option" => Self::InvalidPayment,
            "invalid_path" | "invalid_pattern" | "outside_base_path" | "invalid_hostname" => {
                Self::InvalidPath
            }
            _ => Self::InvalidSpec,
        }
    }

    /// The word in `status.conditions[].reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforced => "Enforced",
            Self::Shadowed => "Shadowed",
            Self::Draining => "Draining",
            Self::Withdrawn => "Withdrawn",
            Self::OperatorConfiguration => "OperatorConfiguration",
            Self::UpstreamSecret => "UpstreamSecret",
            Self::ForeignUpstream => "ForeignUpstream",
            Self::InvalidPrice => "InvalidPrice",
            Self::InvalidPayment => "InvalidPayment",
            Self::InvalidPath => "InvalidPath",
            Self::InvalidSpec => "InvalidSpec",
            Self::PathConflict => "PathConflict",
            Self::PathReserved => "PathReserved",
            Self::ReservedPath => "ReservedPath",
        }
    }

    /// Whether the condition is `True` with this reason, else `False`.
    #[must_use]
    pub const fn is_enforced(self) -> bool {
        match self {
            Self::Enforced | Self::Shadowed | Self::Draining => true,
            Self::Withdrawn
            | Self::OperatorConfiguration
            | Self::UpstreamSecret
            | Self::ForeignUpstream
            | Self::InvalidPrice
            | Self::InvalidPayment
            | Self::InvalidPath
            | Self::InvalidSpec
            | Self::PathConflict
            | Self::PathReserved
            | Self::ReservedPath => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enforced() -> Condition {
        Condition {
            reason: Reason::Enforced,
            message: "generation 3: enforced".to_owned(),
            generation: 3,
        }
    }

    #[test]
    fn a_condition_is_the_same_without_what_a_schema_prunes() {
        let mut stored = enforced().to_json(None, Timestamp::UNIX_EPOCH);
        let item = stored.as_object_mut().unwrap();
        assert_eq!(item.remove("observedGeneration"), Some(json!(3)));
        item.insert(
            "lastTransitionTime".to_owned(),
            json!("2000-01-01T00:00:00Z"),
        );
        let stored = StoredCondition::of(&stored).unwrap();
        assert_eq!(stored.fingerprint(), enforced().fingerprint());
        let other = Condition {
            message: "generation 4: enforced".to_owned(),
            ..enforced()
        };
        assert_ne!(stored.fingerprint(), other.fingerprint());
    }

    #[test]
    fn its_time_changes_with_its_status_alone() {
        let first = enforced().to_json(None, Timestamp::UNIX_EPOCH);
        assert_eq!(first["lastTransitionTime"], "1970-01-01T00:00:00Z");
        let later = Timestamp::from_second(90).unwrap();
        let shadowed = Condition {
            reason: Reason::Shadowed,
            ..enforced()
        };
        let second = shadowed.to_json(StoredCondition::of(&first), later);
        assert_eq!(second["lastTransitionTime"], "1970-01-01T00:00:00Z");
        let broken = Condition {
            reason: Reason::InvalidPrice,
            ..enforced()
        };
        let third = broken.to_json(StoredCondition::of(&second), later);
        assert_eq!(
            (&third["status"], &third["lastTransitionTime"]),
            (&json!("False"), &json!("1970-01-01T00:01:30Z"))
        );
    }

    #[test]
    fn two_of_ours_are_none_so_that_they_become_one() {
        let ours = enforced().to_json(None, Timestamp::UNIX_EPOCH);
        let other = json!({"type": "Ready", "status": "True"});
        assert!(StoredCondition::only([&other, &ours]).is_some());
        assert!(StoredCondition::only([&ours, &ours]).is_none());
        assert!(StoredCondition::only([&other, &json!(7)]).is_none());
    }

    #[test]
    fn every_reason_is_a_word_of_its_own() {
        let mut words: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
