//! Which counters are in use, and by how many routes (R7).
//!
//! Counters belong to an offer (UID) and a label block. A route that is built takes them from here;
//! a route that leaves the table gives them back, after those that replace it have taken theirs. So
//! counters pass from table to table while any route needs them, and one that nobody needs is gone
//! for good: the next offer of that name starts at zero.

use super::OfferIdentity;
use super::edges::Keyed;
use crate::metrics::{AssetLabels, OfferCounters, OfferLabels};
use crate::money::{Asset, Network};
use alloy_primitives::Address;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

/// When an offer was last paid, from the ledger: by namespace, name, CAIP-2, checksummed asset.
type LastSuccess = HashMap<(String, String, String, String), u64>;

/// Label texts worth forgetting.
const FEW_TEXTS: usize = 64;

/// Network and asset as labels.
type Texts = (Arc<str>, Arc<AssetLabels>);

/// All counters in use.
#[derive(Debug, Default)]
pub(super) struct CounterBook {
    sets: HashTable<Set>,
    keyed: Keyed,
    last_success: LastSuccess,
    /// Of each network and asset: offers outnumber them.
    texts: HashMap<(Network, Address, u8), Texts, Keyed>,
    /// All counters, as the table shows them; `None` when that has changed.
    shown: Option<Arc<[Arc<OfferCounters>]>>,
}

#[derive(Debug)]
struct Set {
    offer: Arc<OfferIdentity>,
    network: Network,
    asset: Arc<Asset>,
    counters: Arc<OfferCounters>,
    /// How many payment options of routes count here.
    uses: u32,
}

/// What makes two sets one: the UID and the texts of the labels.
type SetKey<'a> = (
    (Option<&'a str>, &'a str, &'a str),
    Network,
    (&'a str, [u8; 20], u8),
);

fn key<'a>(offer: &'a OfferIdentity, network: Network, asset: &'a Asset) -> SetKey<'a> {
    (
        (offer.uid.as_deref(), &offer.namespace, &offer.name),
        network,
        (&asset.symbol, asset.address.into_array(), asset.decimals),
    )
}

impl Set {
    fn key(&self) -> SetKey<'_> {
        key(&self.offer, self.network, &self.asset)
    }
}

impl CounterBook {
    /// The counters of a payment option, for one use.
    pub(super) fn take(
        &mut self,
        offer: &Arc<OfferIdentity>,
        network: Network,
        asset: &Arc<Asset>,
    ) -> Arc<OfferCounters> {
        let Self {
            sets, keyed, texts, ..
        } = self;
        let wanted = key(offer, network, asset);
        let place = sets.entry(
            keyed.hash_one(wanted),
            |set| set.key() == wanted,
            |set| keyed.hash_one(set.key()),
        );
        match place {
            Entry::Occupied(mut there) => {
                let set = there.get_mut();
                set.uses = set.uses.saturating_add(1);
                set.counters.clone()
            }
            Entry::Vacant(vacant) => {
                self.shown = None;
                let kind = (network, asset.address, asset.decimals);
                let text = texts.entry(kind).or_insert_with(|| {
                    let checksummed = asset.address.to_checksum(None);
                    let labels = AssetLabels::new(&checksummed, asset.decimals);
                    (network.caip2().into(), Arc::new(labels))
                });
                let labels = OfferLabels {
                    namespace: offer.namespace.clone(),
                    name: offer.name.clone(),
                    chain: text.0.clone(),
                    asset_symbol: asset.symbol.clone(),
                    asset: text.1.clone(),
                };
                let counters = Arc::new(OfferCounters::new(&labels));
                if !self.last_success.is_empty() {
                    let texts = [
                        &*labels.namespace,
                        &labels.name,
                        &labels.chain,
                        labels.asset.address(),
                    ];
                    let key = texts.map(str::to_owned).into();
                    if let Some(seconds) = self.last_success.get(&key) {
                        counters.restore_last_success(*seconds);
                    }
                }
                vacant.insert(Set {
                    offer: offer.clone(),
                    network,
                    asset: asset.clone(),
                    counters: counters.clone(),
                    uses: 1,
                });
                counters
            }
        }
    }

    /// Gives one use back.
    pub(super) fn give_back(&mut self, offer: &OfferIdentity, network: Network, asset: &Asset) {
        let wanted = key(offer, network, asset);
        let hash = self.keyed.hash_one(wanted);
        if let Ok(mut there) = self.sets.find_entry(hash, |set| set.key() == wanted) {
            let set = there.get_mut();
            set.uses = set.uses.saturating_sub(1);
            if set.uses == 0 {
                there.remove();
                self.shown = None;
            }
        }
        // Somebody makes up assets.
        if self.texts.len() > self.sets.len() + FEW_TEXTS {
            self.texts.clear();
        }
    }

    /// All distinct counters, shared until they change.
    pub(super) fn shown(&mut self) -> Arc<[Arc<OfferCounters>]> {
        let sets = &self.sets;
        self.shown
            .get_or_insert_with(|| sets.iter().map(|set| set.counters.clone()).collect())
            .clone()
    }

    /// What the ledger knows of the last payment of an offer, now and when it comes.
    pub(super) fn restore(&mut self, offer: [&str; 4], unix_seconds: u64) {
        let [namespace, name, chain, asset] = offer;
        for set in &self.sets {
            if &*set.offer.namespace == namespace
                && &*set.offer.name == name
                && set.network.caip2() == chain
                && set.asset.address.to_checksum(None) == asset
            {
                set.counters.restore_last_success(unix_seconds);
            }
        }
        let key = offer.map(str::to_owned).into();
        let seconds = self.last_success.entry(key).or_default();
        *seconds = unix_seconds.max(*seconds);
    }
}
