//! Which facilitators the routes ask for: every URL that a route names is in the settings, once,
//! for as long as any route names it.

use super::Settings;
use super::offers::Item;
use super::settings::Defaults;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a route wants of facilitators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    /// Nothing: it is not sold, or what it names is no URL.
    Nothing,
    /// The facilitator of the document.
    Assumed,
    /// The one it names.
    Named,
}

/// What all routes want.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Routes that name a URL.
    named: BTreeMap<Arc<str>, usize>,
    /// Routes that take the facilitator of the document.
    assumed: usize,
}

impl Asked {
    /// The shared copy of a URL.
    pub(super) fn share(&mut self, url: Arc<str>) -> Arc<str> {
        if let Some((known, _)) = self.named.get_key_value(&url) {
            return Arc::clone(known);
        }
        self.named.insert(Arc::clone(&url), 0);
        url
    }

    /// A route more.
    pub(super) fn add(&mut self, item: &Item) {
        match item.asks {
            Asks::Nothing => {}
            Asks::Assumed => self.assumed += 1,
            Asks::Named => {
                let url = Arc::clone(&item.route.facilitator);
                *self.named.entry(url).or_default() += 1;
            }
        }
    }

    /// A route less.
    pub(super) fn remove(&mut self, item: &Item) {
        match item.asks {
            Asks::Nothing => {}
            Asks::Assumed => self.assumed = self.assumed.saturating_sub(1),
            Asks::Named => {
                if let Some(count) = self.named.get_mut(&item.route.facilitator) {
                    *count = count.saturating_sub(1);
                }
            }
        }
    }

    /// Forgets the URLs that no route names, and adds the others to the settings. The document's own
    /// stays there also unasked: offers from elsewhere inherit it.
    pub(super) fn settle(&mut self, settings: &mut Settings) {
        self.named.retain(|_, count| *count > 0);
        for url in self.named.keys() {
            settings.facilitators.entry(Arc::clone(url)).or_default();
        }
    }

    /// Whether payments go where the document names no facilitator.
    pub(super) const fn assumes(&self, defaults: &Defaults) -> bool {
        !defaults.facilitator_named && self.assumed > 0
    }
}
