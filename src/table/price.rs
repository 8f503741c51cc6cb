//! The paid part of a route: requirements, challenge, counters, facilitator, upstream credential.
//!
//! Everything that many routes share is built once per table: the endpoint of a facilitator, the
//! rendered price of routes with equal terms, the texts of chains and addresses. Counters are taken
//! over from the previous table, so that a reload neither loses a count nor leaves a ghost (R7).

use super::prepare::{PreparedRoute, Trouble};
use super::{AcceptReport, OfferEntry, RouteEntry, RouteState};
use crate::metrics::{OfferCounters, OfferLabels};
use crate::money::{Amount, Network, TransferMethod};
use crate::offer::{DOCUMENTS_FACILITATOR, Gate, Offer, PaymentOption, Phase, Route, Settle};
use crate::pricing::{FacilitatorSettings, Settings};
use crate::x402::{ChallengeTemplate, Endpoint, Requirement};
use alloy_primitives::Address;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use std::collections::HashMap;
use std::sync::Arc;

/// Counters by offer (UID) and label block (R7).
pub(super) type CounterSets = HashMap<CounterKey, Arc<OfferCounters>>;

/// Identity of a set of counters.
pub(super) type CounterKey = (Option<Arc<str>>, OfferLabels);

/// When an offer was last paid, from the ledger: by namespace, name, CAIP-2, checksummed asset.
pub(super) type LastSuccess = HashMap<(String, String, String, String), u64>;

/// Builds route entries, sharing what is equal.
#[derive(Debug)]
pub(super) struct Pricer<'a> {
    settings: &'a Settings,
    previous_counters: &'a CounterSets,
    last_success: &'a LastSuccess,
    endpoints: HashMap<&'a str, Result<Arc<Endpoint>, Trouble>>,
    terms: HashMap<Terms<'a>, Priced>,
    chains: HashMap<Network, Arc<str>>,
    addresses: HashMap<Address, Arc<str>>,
    /// The counters of the table being built.
    pub(super) counters: CounterSets,
    now: Timestamp,
}

/// What equal terms share: at 100,000 routes with few prices this is most of the memory.
type Priced = (Arc<[Requirement]>, Arc<ChallengeTemplate>);

/// What makes two prices one.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Terms<'a> {
    options: Vec<OptionTerms<'a>>,
    upfront: bool,
    description: Option<&'a str>,
}

/// What makes two payment options one.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OptionTerms<'a> {
    network: Network,
    asset: (Address, &'a str, u8, TransferMethod),
    domain: (&'a str, &'a str),
    amount: Amount,
    pay_to: Address,
    max_timeout_seconds: u32,
}

impl<'a> Pricer<'a> {
    /// `known_endpoints` are those of the previous table: an unchanged one stays the same object.
    pub(super) fn new(
        settings: &'a Settings,
        known_endpoints: &HashMap<Arc<str>, Arc<Endpoint>>,
        previous_counters: &'a CounterSets,
        last_success: &'a LastSuccess,
        now: Timestamp,
    ) -> Self {
        let endpoints = settings
            .facilitators
            .iter()
            .map(|(base, facilitator)| {
                let built =
                    endpoint(base, facilitator).map(|new| match known_endpoints.get(base) {
                        Some(known) if is_same(known, &new) => known.clone(),
                        Some(_) | None => Arc::new(new),
                    });
                (&**base, built)
            })
            .collect();
        Self {
            settings,
            previous_counters,
            last_success,
            endpoints,
            terms: HashMap::new(),
            chains: HashMap::new(),
            addresses: HashMap::new(),
            counters: CounterSets::new(),
            now,
        }
    }

    /// The endpoints that can be called.
    pub(super) fn endpoints(&self) -> HashMap<Arc<str>, Arc<Endpoint>> {
        self.endpoints
            .values()
            .flatten()
            .map(|found| (found.base.clone(), found.clone()))
            .collect()
    }

    /// One route as the gate sees it, and what is wrong with it.
    pub(super) fn entry(
        &mut self,
        offer: &Offer,
        identity: &Arc<OfferEntry>,
        route: &PreparedRoute<'a>,
    ) -> (RouteEntry, Option<Trouble>) {
        let mut trouble = route.trouble.clone();
        let mut entry = RouteEntry {
            key: key(offer, &route.text),
            offer: identity.clone(),
            pattern: route.text.clone(),
            state: RouteState::Live,
            gate: route.gate,
            settle: Settle::Before,
            preflight_pass: false,
            eoa_only: false,
            requirements: Arc::default(),
            counters: Vec::new(),
            challenge: None,
            endpoint: None,
            upstream_auth: None,
        };
        if let Some(declared) = route.route {
            entry.settle = match declared.settle {
                // M10: verifyOnly is `never` for every route of `/verify`.
                Settle::Before | Settle::After if self.settings.verify_only => Settle::Never,
                // `/verify` cannot see the upstream's answer: after acts as before.
                Settle::Before | Settle::After => Settle::Before,
                Settle::Never => Settle::Never,
            };
            entry.preflight_pass = declared.preflight_pass;
            entry.eoa_only = declared.eoa_only;
            if trouble.is_none() {
                trouble = self.fill(&mut entry, offer, declared).err();
            }
        }
        entry.state = match (&offer.phase, &trouble) {
            (Phase::Withdrawn, _) => RouteState::Withdrawn,
            (Phase::Draining { until }, _) if *until <= self.now => RouteState::Withdrawn,
            (_, Some(_)) => RouteState::Misconfigured,
            (Phase::Draining { until }, None) => RouteState::Draining { until: *until },
            (Phase::Live, None) => RouteState::Live,
        };
        if trouble.is_some() || entry.state == RouteState::Withdrawn {
            entry.requirements = Arc::default();
            entry.counters = Vec::new();
            entry.challenge = None;
            entry.endpoint = None;
            entry.upstream_auth = None;
        }
        (entry, trouble)
    }

    fn fill(
        &mut self,
        entry: &mut RouteEntry,
        offer: &Offer,
        declared: &'a Route,
    ) -> Result<(), Trouble> {
        if let Some(secret) = &declared.upstream_auth {
            entry.upstream_auth = Some(sensitive(secret).ok_or_else(|| {
                Trouble::new(
                    "invalid_upstream_auth",
                    "the upstream credential is not a header value: remove control characters"
                        .to_owned(),
                )
            })?);
        }
        if entry.gate != Gate::Paid {
            return Ok(());
        }
        if declared.options.is_empty() {
            return Err(Trouble::new(
                "no_payment_option",
                "a paid route needs at least one way to pay".to_owned(),
            ));
        }
        let facilitator = if *declared.facilitator == *DOCUMENTS_FACILITATOR {
            entry.eoa_only |= self.settings.eoa_only;
            &self.settings.facilitator
        } else {
            &declared.facilitator
        };
        entry.endpoint = Some(match self.endpoints.get(&**facilitator) {
            Some(found) => found.clone()?,
            None => {
                return Err(Trouble::new(
                    "unknown_facilitator",
                    "its facilitator is not in the configuration: add it there".to_owned(),
                ));
            }
        });
        let upfront = entry.settle == Settle::Before;
        let (requirements, challenge) = self.terms(declared, upfront);
        entry.requirements = requirements;
        entry.challenge = Some(challenge);
        // A withdrawn offer is no live offer: it has no series (R7).
        let drained = matches!(offer.phase, Phase::Draining { until } if until <= self.now);
        if offer.phase != Phase::Withdrawn && !drained {
            entry.counters = declared
                .options
                .iter()
                .map(|option| self.counters(&entry.offer, option))
                .collect();
        }
        Ok(())
    }

    fn terms(&mut self, declared: &'a Route, upfront: bool) -> Priced {
        let description = declared.description.as_deref();
        let terms = Terms {
            options: declared.options.iter().map(OptionTerms::of).collect(),
            upfront,
            description,
        };
        let service = self.settings.service_name.as_deref();
        self.terms
            .entry(terms)
            .or_insert_with(|| {
                let requirements: Arc<[Requirement]> = declared
                    .options
                    .iter()
                    .map(|option| {
                        Requirement::new(
                            option.network,
                            option.asset.clone(),
                            option.amount,
                            option.pay_to,
                            option.max_timeout_seconds,
                            upfront,
                            description,
                        )
                    })
                    .collect();
                let challenge = ChallengeTemplate::new(&requirements, description, service);
                (requirements, Arc::new(challenge))
            })
            .clone()
    }

    fn counters(&mut self, offer: &OfferEntry, option: &PaymentOption) -> Arc<OfferCounters> {
        let labels = OfferLabels {
            namespace: offer.namespace.clone(),
            name: offer.name.clone(),
            chain: self.chain(option.network),
            asset_symbol: option.asset.symbol.clone(),
            asset: self.address(option.asset.address),
            decimals: option.asset.decimals,
        };
        let key = (offer.uid.clone(), labels);
        if let Some(counters) = self.counters.get(&key) {
            return counters.clone();
        }
        let counters = match self.previous_counters.get(&key) {
            Some(counters) => counters.clone(),
            None => Arc::new(OfferCounters::new(&key.1)),
        };
        if !self.last_success.is_empty() {
            let labels = &key.1;
            let [namespace, name, chain, asset] = [
                &labels.namespace,
                &labels.name,
                &labels.chain,
                &labels.asset,
            ]
            .map(ToString::to_string);
            if let Some(seconds) = self.last_success.get(&(namespace, name, chain, asset)) {
                counters.restore_last_success(*seconds);
            }
        }
        self.counters.insert(key, counters.clone());
        counters
    }

    /// The rows of `/routes` for a route's payment options.
    pub(super) fn accepts(&mut self, options: &[PaymentOption]) -> Vec<AcceptReport> {
        options
            .iter()
            .map(|option| AcceptReport {
                network: self.chain(option.network),
                asset: self.address(option.asset.address),
                symbol: option.asset.symbol.clone(),
                amount: option.amount.to_string(),
                price: option.price.clone(),
                pay_to: self.address(option.pay_to),
            })
            .collect()
    }

    fn chain(&mut self, network: Network) -> Arc<str> {
        self.chains
            .entry(network)
            .or_insert_with(|| network.caip2().into())
            .clone()
    }

    fn address(&mut self, address: Address) -> Arc<str> {
        self.addresses
            .entry(address)
            .or_insert_with(|| address.to_checksum(None).into())
            .clone()
    }
}

/// Stable identity across generations (M6): host, pattern, offer.
fn key(offer: &Offer, pattern: &str) -> Arc<str> {
    let host = offer.hostname.as_deref().unwrap_or_default();
    format!("{host}{pattern} {}/{}", offer.namespace, offer.name).into()
}

impl<'a> OptionTerms<'a> {
    fn of(option: &'a PaymentOption) -> Self {
        let asset = &option.asset;
        Self {
            network: option.network,
            asset: (asset.address, &asset.symbol, asset.decimals, asset.transfer),
            domain: (&asset.eip712_name, &asset.eip712_version),
            amount: option.amount,
            pay_to: option.pay_to,
            max_timeout_seconds: option.max_timeout_seconds,
        }
    }
}

fn endpoint(base: &Arc<str>, settings: &FacilitatorSettings) -> Result<Endpoint, Trouble> {
    Ok(Endpoint {
        base: base.clone(),
        verify_headers: header_map(&settings.verify_headers)?,
        settle_headers: header_map(&settings.settle_headers)?,
        supported_headers: header_map(&settings.supported_headers)?,
    })
}

fn header_map(headers: &[(String, SecretString)]) -> Result<HeaderMap, Trouble> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .ok()
            .zip(sensitive(value));
        let Some((name, value)) = parsed else {
            let shown: String = name
                .chars()
                .take(64)
                .filter(|shown| !shown.is_control())
                .collect();
            return Err(Trouble::new(
                "invalid_facilitator_header",
                format!(
                    "facilitator header \"{shown}\" is not a header: correct its name or value"
                ),
            ));
        };
        map.append(name, value);
    }
    Ok(map)
}

/// A header value that is never printed (R13).
fn sensitive(secret: &SecretString) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(secret.expose_secret()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn is_same(left: &Endpoint, right: &Endpoint) -> bool {
    left.base == right.base
        && left.verify_headers == right.verify_headers
        && left.settle_headers == right.settle_headers
        && left.supported_headers == right.supported_headers
}
