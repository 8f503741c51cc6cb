//! What is known of a path, as little of it as must be held.
//!
//! The ledger's [`PathRecord`] repeats what the table holds of an offer anyway, so of offers that are
//! there a record is two references. Both forms are looked at as a [`Path`].

use crate::table::{OfferIdentity, PathRecord};
use jiff::Timestamp;
use std::sync::Arc;

/// A record, as little of it as must be held: what an offer with a base path declares is all there
/// in its identity.
#[derive(Debug, Clone)]
pub(in crate::table) enum Record {
    /// A route of an offer that is there: who, and its pattern.
    Declared(Arc<OfferIdentity>, Arc<str>),
    /// Everything else: what was left, what the ledger says, what has no base path.
    Kept(Arc<PathRecord>),
}

/// A record to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::table) struct Path<'a> {
    pub(super) host: Option<&'a str>,
    pub(super) pattern: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) uid: &'a str,
    pub(super) base: &'a str,
    pub(super) closed_at: Option<Timestamp>,
}

impl Record {
    pub(in crate::table) fn path(&self) -> Path<'_> {
        match self {
            Self::Kept(record) => Path::from(&**record),
            Self::Declared(identity, pattern) => Path {
                host: identity.hostname.as_deref(),
                pattern,
                namespace: &identity.namespace,
                name: &identity.name,
                uid: identity.uid.as_deref().unwrap_or_default(),
                base: identity.base_path.as_deref().unwrap_or_default(),
                closed_at: None,
            },
        }
    }

    /// Whether both are the very same objects.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Kept(left), Self::Kept(right)) => Arc::ptr_eq(left, right),
            (Self::Declared(left, one), Self::Declared(right, other)) => {
                Arc::ptr_eq(left, right) && Arc::ptr_eq(one, other)
            }
            (Self::Kept(_), Self::Declared(..)) | (Self::Declared(..), Self::Kept(_)) => false,
        }
    }

    pub(super) fn kept(&self) -> Arc<PathRecord> {
        match self {
            Self::Kept(record) => record.clone(),
            Self::Declared(..) => Arc::new(self.to_record()),
        }
    }

    pub(super) fn to_record(&self) -> PathRecord {
        match self {
            Self::Kept(record) => PathRecord::clone(record),
            Self::Declared(identity, pattern) => PathRecord {
                host: identity.hostname.clone(),
                pattern: pattern.clone(),
                namespace: identity.namespace.clone(),
                name: identity.name.clone(),
                uid: identity.uid.clone().unwrap_or_default(),
                base: identity.base_path.clone().unwrap_or_default(),
                closed_at: None,
            },
        }
    }
}

impl<'a> From<&'a PathRecord> for Path<'a> {
    fn from(record: &'a PathRecord) -> Self {
        Self {
            host: record.host.as_deref(),
            pattern: &record.pattern,
            namespace: &record.namespace,
            name: &record.name,
            uid: &record.uid,
            base: &record.base,
            closed_at: record.closed_at,
        }
    }
}

impl<'a> Path<'a> {
    /// What a record is found by: its host, and its pattern without a trailing slash.
    pub(super) fn key(self) -> (Option<&'a str>, &'a str) {
        let place = match self.pattern.trim_end_matches('/') {
            "" => "/",
            trimmed => trimmed,
        };
        (self.host, place)
    }

    /// Whether both are of one offer (one UID; one name for the operator's).
    pub(super) fn same_offer(self, other: Path<'_>) -> bool {
        (self.namespace, self.name, self.uid) == (other.namespace, other.name, other.uid)
    }

    /// Whether both belong to one owner: the operator (no UID), or one namespace.
    pub(super) fn same_owner(self, other: Path<'_>) -> bool {
        match (self.uid.is_empty(), other.uid.is_empty()) {
            (true, true) => true,
            (false, false) => self.namespace == other.namespace,
            (true, false) | (false, true) => false,
        }
    }
}
