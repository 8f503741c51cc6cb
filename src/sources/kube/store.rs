//! What the cluster's offers are now: the one place that turns objects into a complete list.
//!
//! Of an object only its translation is kept, and the version it was made from; 100,000 objects
//! with everything in them are gigabytes. The few whose meaning depends on more than themselves (a
//! Secret, a host that the operator binds, a drain that begins later) keep their text to be
//! translated again.
//!
//! An offer that did not change keeps its `Arc`, and so do the unchanged routes of one that did: the
//! table keeps what it made of them. A relist is applied when it is complete (R6); whatever it lacks
//! is gone. Several scopes (namespaces) make one list, complete when each of them is.

use super::credentials::{Credentials, SecretKey};
use super::predecessor::{self, PredecessorSecret};
use crate::crd::{self, Observations, Observed, ServiceOffer, TranslateOptions, Version};
use crate::offer::{Offer, OfferIdentity, Problem};
use jiff::Timestamp;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Namespace and name.
type Key = (Arc<str>, Arc<str>);
type Entries = BTreeMap<Key, Entry>;

/// All offers, by scope.
#[derive(Debug)]
pub(super) struct Store {
    scopes: Vec<Scope>,
    translator: Translator,
    /// When an entry means something else without an event.
    due: BTreeSet<(Timestamp, Key)>,
    /// Told what is seen of our condition, for whoever writes it.
    observations: Option<Observations>,
}

/// One list: a namespace, or all.
#[derive(Debug, Default)]
struct Scope {
    /// A complete list was seen.
    complete: bool,
    entries: Entries,
    /// A list that is not complete yet.
    listing: Entries,
}

/// What is kept of one object.
#[derive(Debug)]
struct Entry {
    version: Version,
    offer: Arc<Offer>,
    again: Option<Box<Again>>,
}

/// What it takes to translate an object again.
#[derive(Debug)]
struct Again {
    /// The object in JSON, as far as the translation reads it.
    text: Box<str>,
    secret: Option<SecretKey>,
    next_change: Option<Timestamp>,
}

/// Objects to offers.
#[derive(Debug)]
struct Translator {
    options: TranslateOptions,
    /// Secrets of the predecessor that the operator lists.
    predecessor: Vec<PredecessorSecret>,
    credentials: Credentials,
    /// Of the last offer: lists come by namespace, and one text does for all of it.
    namespace: Arc<str>,
}

impl Store {
    /// A store of `scopes` lists, none of them complete.
    pub(super) fn new(
        scopes: usize,
        options: TranslateOptions,
        predecessor: Vec<PredecessorSecret>,
        credentials: Credentials,
    ) -> Self {
        Self {
            scopes: (0..scopes).map(|_| Scope::default()).collect(),
            translator: Translator {
                options,
                predecessor,
                credentials,
                namespace: Arc::default(),
            },
            due: BTreeSet::new(),
            observations: None,
        }
    }

    /// Tells what is seen of our condition, too.
    pub(super) fn observed_by(mut self, observations: Option<Observations>) -> Self {
        self.observations = observations;
        self
    }

    /// Every scope has had its complete list, and Secrets that offers name mean something.
    pub(super) fn is_complete(&self) -> bool {
        self.scopes.iter().all(|scope| scope.complete) && self.translator.credentials.settled()
    }

    /// All offers, in a stable order.
    pub(super) fn offers(&self) -> Vec<Arc<Offer>> {
        let entries = self.scopes.iter().flat_map(|scope| scope.entries.values());
        entries.map(|entry| entry.offer.clone()).collect()
    }

    /// What Secrets say.
    pub(super) const fn credentials(&mut self) -> &mut Credentials {
        &mut self.translator.credentials
    }

    /// A list begins.
    pub(super) fn begin(&mut self, scope: usize) {
        if let Some(scope) = self.scopes.get_mut(scope) {
            scope.listing.clear();
        }
    }

    /// A part of a list. Nothing is visible before it is complete (R6).
    pub(super) fn page(&mut self, scope: usize, objects: Vec<ServiceOffer>, now: Timestamp) {
        let Some(scope) = self.scopes.get_mut(scope) else {
            return;
        };
        for object in objects {
            let Some(key) = key_of(&object) else { continue };
            let old = scope.entries.get(&key);
            let entry = match old.and_then(|old| old.unchanged(&object)) {
                Some(same) => same,
                None => self.translator.entry(&object, old, now),
            };
            see(self.observations.as_ref(), &entry, &object);
            scope.listing.insert(entry.key(), entry);
        }
    }

    /// The list is complete and replaces what was there; whether anything changed.
    pub(super) fn complete(&mut self, scope: usize) -> bool {
        let Some(scope) = self.scopes.get_mut(scope) else {
            return false;
        };
        // In order they fill the nodes of a tree, which one by one they half fill.
        let listed = std::mem::take(&mut scope.listing).into_iter().collect();
        let replaced = std::mem::replace(&mut scope.entries, listed);
        let first = !std::mem::replace(&mut scope.complete, true);
        let changed = first || !same_offers(&replaced, &scope.entries);
        for (key, entry) in replaced {
            forget(&mut self.due, &key, &entry);
            let now = scope.entries.get(&key);
            lose(self.observations.as_ref(), &entry, now);
        }
        for (key, entry) in &scope.entries {
            remember(&mut self.due, key, entry);
        }
        changed
    }

    /// An object is there, or is different; whether its offer changed.
    pub(super) fn set(&mut self, scope: usize, object: &ServiceOffer, now: Timestamp) -> bool {
        let (Some(scope), Some(key)) = (self.scopes.get_mut(scope), key_of(object)) else {
            return false;
        };
        let old = scope.entries.get(&key);
        let entry = self.translator.entry(object, old, now);
        let changed = old.is_none_or(|old| !Arc::ptr_eq(&old.offer, &entry.offer));
        let key = entry.key();
        remember(&mut self.due, &key, &entry);
        see(self.observations.as_ref(), &entry, object);
        let moment = entry.next_change();
        if let Some(old) = scope.entries.insert(key.clone(), entry) {
            lose(self.observations.as_ref(), &old, scope.entries.get(&key));
            if old.next_change() != moment {
                forget(&mut self.due, &key, &old);
            }
        }
        changed
    }

    /// An object was deleted; whether there was an offer of it.
    pub(super) fn gone(&mut self, scope: usize, object: &ServiceOffer) -> bool {
        let (Some(scope), Some(key)) = (self.scopes.get_mut(scope), key_of(object)) else {
            return false;
        };
        // Of the same name, but not the same: made anew meanwhile (R11).
        let uid = object.metadata.uid.as_deref();
        if scope
            .entries
            .get(&key)
            .is_none_or(|entry| entry.offer.uid.as_deref() != uid)
        {
            return false;
        }
        if let Some(entry) = scope.entries.remove(&key) {
            forget(&mut self.due, &key, &entry);
            lose(self.observations.as_ref(), &entry, None);
        }
        true
    }

    /// The operator binds other hosts; whether any offer changed.
    pub(super) fn bind_hosts(&mut self, hosts: BTreeSet<Arc<str>>, now: Timestamp) -> bool {
        if self.translator.options.bound_hosts == hosts {
            return false;
        }
        self.translator.options.bound_hosts = hosts;
        self.again(now, |_| true)
    }

    /// Secrets of a name were read; whether any offer changed.
    pub(super) fn secrets_read(&mut self, name: &str, now: Timestamp) -> bool {
        self.again(now, |again| {
            let secret = again.secret.as_ref();
            secret.is_some_and(|(_, named)| named == name)
        })
    }

    /// One Secret changed; whether any offer changed.
    pub(super) fn secret_changed(&mut self, secret: &SecretKey, now: Timestamp) -> bool {
        self.again(now, |again| again.secret.as_ref() == Some(secret))
    }

    /// When [`Store::pass_time`] has something to do.
    pub(super) fn next_change(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Time passed; whether any offer changed.
    pub(super) fn pass_time(&mut self, now: Timestamp) -> bool {
        if self.next_change().is_none_or(|at| at > now) {
            return false;
        }
        self.again(now, |again| again.next_change.is_some_and(|at| at <= now))
    }

    /// Translates again what `which` says, also in lists that are not complete yet.
    fn again(&mut self, now: Timestamp, which: impl Fn(&Again) -> bool) -> bool {
        let mut changed = false;
        for scope in &mut self.scopes {
            changed |= translate_again(
                &mut scope.entries,
                &mut self.translator,
                Some(&mut self.due),
                now,
                &which,
            );
            translate_again(&mut scope.listing, &mut self.translator, None, now, &which);
        }
        changed
    }
}

impl Translator {
    /// What is kept of an object; what did not change keeps its place in memory.
    fn entry(&mut self, object: &ServiceOffer, old: Option<&Entry>, now: Timestamp) -> Entry {
        let mut translated = crd::translate(object, &self.options, now);
        self.share_namespace(&mut translated.offer.identity);
        let secret = if let Some(name) = &translated.upstream_secret {
            let (namespace, name) = (translated.offer.namespace.to_string(), name.to_string());
            translated.attach_upstream_auth(self.credentials.get(&namespace, &name));
            Some((namespace, name))
        } else {
            let foreign = &self.options.foreign_upstreams;
            let secret = predecessor::secret_of(object, &self.predecessor, foreign);
            if let Some((namespace, name)) = &secret {
                match self.credentials.get(namespace, name) {
                    Ok(found) => translated.attach_upstream_auth(Ok(found)),
                    Err(why) => translated.offer.problems.push(Problem {
                        code: "upstream_secret",
                        message: format!("the Secret {name} of the upstream: {why}"),
                    }),
                }
            }
            secret
        };
        let depends_on_more = secret.is_some()
            || translated.next_change.is_some()
            || object.spec.get("hostname").is_some();
        let again = depends_on_more.then(|| {
            Box::new(Again {
                text: json!({
                    "metadata": object.metadata,
                    "spec": object.spec,
                    "status": object.status,
                })
                .to_string()
                .into_boxed_str(),
                secret,
                next_change: translated.next_change,
            })
        });
        Entry {
            version: version_of(object),
            offer: settle(old.map(|old| &old.offer), translated.offer),
            again,
        }
    }
}

impl Translator {
    fn share_namespace(&mut self, identity: &mut Arc<OfferIdentity>) {
        if self.namespace != identity.namespace {
            self.namespace = identity.namespace.clone();
            return;
        }
        Arc::make_mut(identity).namespace = self.namespace.clone();
    }
}

impl Entry {
    fn key(&self) -> Key {
        (self.offer.namespace.clone(), self.offer.name.clone())
    }

    fn next_change(&self) -> Option<Timestamp> {
        self.again.as_ref()?.next_change
    }

    /// This entry again, if the object is the one it was made from and nothing else could have
    /// changed its meaning.
    fn unchanged(&self, object: &ServiceOffer) -> Option<Self> {
        let same = self.version == version_of(object)
            && self.offer.uid.as_deref() == object.metadata.uid.as_deref()
            && self.again.is_none();
        same.then(|| Self {
            version: self.version,
            offer: self.offer.clone(),
            again: None,
        })
    }
}

fn translate_again(
    entries: &mut Entries,
    translator: &mut Translator,
    mut due: Option<&mut BTreeSet<(Timestamp, Key)>>,
    now: Timestamp,
    which: impl Fn(&Again) -> bool,
) -> bool {
    let mut changed = false;
    for (key, entry) in entries {
        let Some(again) = entry.again.as_ref().filter(|again| which(again)) else {
            continue;
        };
        // Our own JSON: it was an object before, and every object can be read.
        let Ok(object) = serde_json::from_str::<ServiceOffer>(&again.text) else {
            continue;
        };
        let new = translator.entry(&object, Some(entry), now);
        changed |= !Arc::ptr_eq(&entry.offer, &new.offer);
        if let Some(due) = due.as_deref_mut() {
            forget(due, key, entry);
            remember(due, key, &new);
        }
        *entry = new;
    }
    changed
}

fn remember(due: &mut BTreeSet<(Timestamp, Key)>, key: &Key, entry: &Entry) {
    if let Some(at) = entry.next_change() {
        due.insert((at, key.clone()));
    }
}

fn forget(due: &mut BTreeSet<(Timestamp, Key)>, key: &Key, entry: &Entry) {
    if let Some(at) = entry.next_change() {
        due.remove(&(at, key.clone()));
    }
}

/// Tells what an object says of our condition.
fn see(observations: Option<&Observations>, entry: &Entry, object: &ServiceOffer) {
    if let (Some(observations), Some(uid)) = (observations, &entry.offer.uid) {
        observations.see(uid, Observed::of(object));
    }
}

/// Tells that an object is gone, unless `now` is the same one.
fn lose(observations: Option<&Observations>, gone: &Entry, now: Option<&Entry>) {
    if let (Some(observations), Some(uid)) = (observations, gone.offer.uid.as_deref())
        && now.is_none_or(|now| now.offer.uid.as_deref() != Some(uid))
    {
        observations.forget(uid);
    }
}

/// The old offer when the new one is equal to it, else the new one with the old one's equal routes.
fn settle(old: Option<&Arc<Offer>>, mut new: Offer) -> Arc<Offer> {
    let Some(old) = old else {
        return Arc::new(new);
    };
    if **old == new {
        return old.clone();
    }
    if old.identity == new.identity {
        new.identity = old.identity.clone();
    }
    for declared in &mut new.routes {
        let same = old.routes.iter().find(|old| *old.route == *declared.route);
        if let Some(same) = same {
            declared.route = same.route.clone();
        }
    }
    Arc::new(new)
}

fn same_offers(left: &Entries, right: &Entries) -> bool {
    left.len() == right.len()
        && left
            .values()
            .zip(right.values())
            .all(|(left, right)| Arc::ptr_eq(&left.offer, &right.offer))
}

/// Where an object belongs; one without a name cannot come from an API server.
fn key_of(object: &ServiceOffer) -> Option<Key> {
    let metadata = &object.metadata;
    let namespace = metadata.namespace.as_deref()?;
    Some((namespace.into(), metadata.name.as_deref()?.into()))
}

fn version_of(object: &ServiceOffer) -> Version {
    Version::of(
        object
            .metadata
            .resource_version
            .as_deref()
            .unwrap_or_default(),
    )
}

impl super::wire::Object for ServiceOffer {
    fn resource_version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }
}
