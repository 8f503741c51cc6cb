//! The object as it is stored, read so that no object can be unreadable.
//!
//! A list is parsed as a whole, so one object that a parser refuses would hide all others (kube
//! issue 774). Two things are refused by parsers: a value of another type than expected, and deep
//! nesting, which a seller can store wherever a schema leaves a field open. So nothing is expected,
//! and what lies deeper than anything the gate reads is skipped, not built. `managedFields` is
//! skipped too: it repeats the depth of the object and is often the largest part of it.

use super::{GROUP, KIND, PLURAL, VERSION};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::core::NamespaceResourceScope;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// Deepest value that is kept; the deepest that is read is `spec.payments[].asset.address`.
const MAX_DEPTH: usize = 12;

/// A `ServiceOffer` as stored. Of the metadata only what the gate uses is kept: names, UID,
/// versions, times, labels and annotations.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceOffer {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// `spec`, whatever it is; `null` when absent.
    pub spec: Value,
    /// `status`, whatever it is; `null` when absent.
    pub status: Value,
}

impl ServiceOffer {
    /// The object in a JSON value. Never fails: what is not there or of another type is absent.
    #[must_use]
    pub fn from_json(mut object: Value) -> Self {
        let mut take = |key: &str| object.get_mut(key).map_or(Value::Null, Value::take);
        Self {
            metadata: metadata(&take("metadata")),
            spec: take("spec"),
            status: take("status"),
        }
    }

    /// `status.conditions` as stored, everybody's: the list is atomic, so whoever writes one
    /// condition writes all of them back.
    #[must_use]
    pub fn conditions(&self) -> &[Value] {
        let list = self.status.get("conditions").and_then(Value::as_array);
        list.map_or(&[], Vec::as_slice)
    }
}

impl<'de> Deserialize<'de> for ServiceOffer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Bounded(MAX_DEPTH)
            .deserialize(deserializer)
            .map(Self::from_json)
    }
}

impl kube::Resource for ServiceOffer {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

fn metadata(value: &Value) -> ObjectMeta {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    ObjectMeta {
        name: text("name"),
        namespace: text("namespace"),
        uid: text("uid"),
        resource_version: text("resourceVersion"),
        generation: value.get("generation").and_then(Value::as_i64),
        creation_timestamp: value.get("creationTimestamp").and_then(time),
        // Being deleted counts even if nobody can say since when.
        deletion_timestamp: value
            .get("deletionTimestamp")
            .filter(|value| !value.is_null())
            .map(|value| time(value).unwrap_or(Time(Timestamp::UNIX_EPOCH))),
        labels: texts(value.get("labels")),
        annotations: texts(value.get("annotations")),
        ..ObjectMeta::default()
    }
}

fn time(value: &Value) -> Option<Time> {
    value.as_str()?.parse().map(Time).ok()
}

fn texts(value: Option<&Value>) -> Option<BTreeMap<String, String>> {
    let texts = value?.as_object()?.iter();
    Some(
        texts
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
    )
}

/// A JSON value down to a depth; `null` stands for what is deeper.
struct Bounded(usize);

impl<'de> DeserializeSeed<'de> for Bounded {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Bounded {
    const fn below(&self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(depth) => Some(Self(depth)),
            None => None,
        }
    }
}

impl<'de> Visitor<'de> for Bounded {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    // What is too deep is passed over by `IgnoredAny`, which does not recurse.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let more = match self.below() {
                Some(below) => match list.next_element_seed(below)? {
                    Some(item) => {
                        items.push(item);
                        true
                    }
                    None => false,
                },
                None => list.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                return Ok(self.below().map_or(Value::Null, |_| items.into()));
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Map::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match self.below() {
                Some(below) if key != "managedFields" => {
                    let value = map.next_value_seed(below)?;
                    entries.insert(key.into_owned(), value);
                }
                Some(_) | None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(self.below().map_or(Value::Null, |_| entries.into()))
    }
}
