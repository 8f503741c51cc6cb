//! The paid part of a route: requirements, challenge, counters, facilitator, upstream credential.
//!
//! Everything that many routes share is one object for all of them, from table to table: the endpoint
//! of a facilitator, and the rendered price of routes with equal terms. What the settings say about
//! routes is the [`Basis`]; entries that were built on one basis stand until there is another.

use super::counting::CounterBook;
use super::edges::Keyed;
use super::list::Stage;
use super::prepare::{Piece, Trouble};
use super::{RouteEntry, RouteState};
use crate::money::{Amount, Asset, Network};
use crate::offer::{DOCUMENTS_FACILITATOR, Gate, PaymentOption, Route, Settle};
use crate::pricing::{FacilitatorSettings, Settings};
use crate::x402::{ChallengeTemplate, Endpoint, Requirement};
use alloy_primitives::Address;
use http::{HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Builds route entries, sharing what is equal.
#[derive(Debug, Default)]
pub(super) struct Pricer {
    basis: Basis,
    terms: HashMap<Terms, Priced, Keyed>,
    /// Size of `terms` at which those that no route has any more are dropped.
    tidy_at: usize,
    pub(super) counters: CounterBook,
}

/// The part of the settings that entries depend on.
#[derive(Debug, Default)]
struct Basis {
    verify_only: bool,
    /// What offers from elsewhere inherit.
    eoa_only: bool,
    facilitator: Arc<str>,
    service: Option<Arc<str>>,
    endpoints: HashMap<Arc<str>, Result<Arc<Endpoint>, Trouble>>,
}

/// What equal terms share: at 100,000 routes with few prices this is most of the memory.
type Priced = (Arc<[Requirement]>, Arc<ChallengeTemplate>);

/// What makes two prices one.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Terms {
    options: Box<[OptionTerms]>,
    upfront: bool,
    description: Option<Arc<str>>,
}

/// What makes two payment options one.
#[derive(Debug, PartialEq, Eq)]
struct OptionTerms {
    network: Network,
    asset: Arc<Asset>,
    amount: Amount,
    pay_to: Address,
    max_timeout_seconds: u32,
}

/// Fewest terms worth tidying up.
const FEW_TERMS: usize = 1024;

impl Pricer {
    /// Takes new settings; whether entries must be built anew. An unchanged facilitator stays the
    /// same object.
    pub(super) fn settle_on(&mut self, settings: &Settings) -> bool {
        let known = &self.basis.endpoints;
        let endpoints: HashMap<_, _> = settings
            .facilitators
            .iter()
            .map(|(base, facilitator)| {
                let built = endpoint(base, facilitator).map(|new| match known.get(base) {
                    Some(Ok(known)) if is_same(known, &new) => known.clone(),
                    Some(_) | None => Arc::new(new),
                });
                (base.clone(), built)
            })
            .collect();
        let same_endpoint = |(base, built): (&Arc<str>, &Result<Arc<Endpoint>, Trouble>)| match (
            built,
            known.get(base),
        ) {
            (Ok(new), Some(Ok(known))) => Arc::ptr_eq(new, known),
            (Err(new), Some(Err(known))) => new == known,
            (Ok(_) | Err(_), _) => false,
        };
        let same = endpoints.len() == known.len()
            && endpoints.iter().all(same_endpoint)
            && self.basis.verify_only == settings.verify_only
            && self.basis.eoa_only == settings.eoa_only
            && self.basis.facilitator == settings.facilitator
            && self.basis.service == settings.service_name;
        if self.basis.service != settings.service_name {
            self.terms.clear();
        }
        self.basis = Basis {
            verify_only: settings.verify_only,
            eoa_only: settings.eoa_only,
            facilitator: settings.facilitator.clone(),
            service: settings.service_name.clone(),
            endpoints,
        };
        !same
    }

    /// One route as the gate sees it.
    pub(super) fn entry(&mut self, piece: &Arc<Piece>, stage: Stage) -> RouteEntry {
        let mut entry = RouteEntry {
            offer: piece.lineage.identity.clone(),
            state: RouteState::Live,
            gate: piece.gate(),
            settle: Settle::Before,
            preflight_pass: false,
            eoa_only: false,
            requirements: Arc::default(),
            counters: Box::default(),
            challenge: None,
            endpoint: None,
            upstream_auth: None,
            piece: piece.clone(),
            trouble: piece.trouble.clone(),
        };
        if let Some(declared) = &piece.route {
            entry.settle = match declared.settle {
                // M10: verifyOnly is `never` for every route of `/verify`.
                Settle::Before | Settle::After if self.basis.verify_only => Settle::Never,
                // `/verify` cannot see the upstream's answer: after acts as before.
                Settle::Before | Settle::After => Settle::Before,
                Settle::Never => Settle::Never,
            };
            entry.preflight_pass = declared.preflight_pass;
            entry.eoa_only = declared.eoa_only;
            if entry.trouble.is_none() {
                let filled = self.fill(&mut entry, declared, stage);
                entry.trouble = filled.err().map(Arc::new);
            }
        }
        entry.state = match (stage, &entry.trouble) {
            (Stage::Withdrawn(_) | Stage::Drained(_), _) => RouteState::Withdrawn,
            (Stage::Live | Stage::Draining(_), Some(_)) => RouteState::Misconfigured,
            (Stage::Draining(until), None) => RouteState::Draining { until },
            (Stage::Live, None) => RouteState::Live,
        };
        if let Some(why) = stage.withdrawal() {
            entry.trouble = Some(Arc::new(match entry.trouble {
                // Its code is what has to be repaired before it can be sold again.
                Some(trouble) => Trouble::new(
                    trouble.code,
                    format!("{}; besides, {}", why.detail, trouble.detail),
                ),
                None => why,
            }));
        }
        if entry.trouble.is_some() {
            entry.requirements = Arc::default();
            entry.challenge = None;
            entry.endpoint = None;
            entry.upstream_auth = None;
        }
        entry
    }

    fn fill(
        &mut self,
        entry: &mut RouteEntry,
        declared: &Route,
        stage: Stage,
    ) -> Result<(), Trouble> {
        if let Some(secret) = &declared.upstream_auth {
            let value = sensitive(secret).ok_or_else(|| {
                Trouble::new(
                    "invalid_upstream_auth",
                    "the upstream credential is not a header value: remove control characters"
                        .to_owned(),
                )
            })?;
            entry.upstream_auth = Some(Box::new(value));
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
            entry.eoa_only |= self.basis.eoa_only;
            &self.basis.facilitator
        } else {
            &declared.facilitator
        };
        entry.endpoint = Some(match self.basis.endpoints.get(facilitator) {
            Some(found) => found.clone()?,
            None => {
                return Err(Trouble::new(
                    "unknown_facilitator",
                    "its facilitator is not in the configuration: add it there".to_owned(),
                ));
            }
        });
        // A withdrawn offer is no live offer: it has no series (R7).
        if stage.withdrawal().is_some() {
            return Ok(());
        }
        let upfront = entry.settle == Settle::Before;
        let (requirements, challenge) = self.terms(declared, upfront);
        entry.requirements = requirements;
        entry.challenge = Some(challenge);
        let counters = declared.options.iter().map(|option| {
            self.counters
                .take(&entry.offer, option.network, &option.asset)
        });
        entry.counters = counters.collect();
        Ok(())
    }

    fn terms(&mut self, declared: &Route, upfront: bool) -> Priced {
        let terms = Terms {
            options: declared.options.iter().map(OptionTerms::of).collect(),
            upfront,
            description: declared.description.clone(),
        };
        if let Some(priced) = self.terms.get(&terms) {
            return priced.clone();
        }
        let description = declared.description.as_deref();
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
        let service = self.basis.service.as_deref();
        let challenge = ChallengeTemplate::new(&requirements, description, service);
        let priced = (requirements, Arc::new(challenge));
        self.terms.insert(terms, priced.clone());
        priced
    }

    /// Takes an entry out of use: gives its counters back.
    pub(super) fn release(&mut self, entry: &RouteEntry) {
        for (requirement, _) in entry.requirements.iter().zip(&entry.counters) {
            self.counters
                .give_back(&entry.offer, requirement.network, &requirement.asset);
        }
    }

    /// Drops terms that no route has any more, now and then.
    pub(super) fn tidy(&mut self) {
        if self.terms.len() > self.tidy_at.max(FEW_TERMS) {
            self.terms
                .retain(|_, (_, challenge)| Arc::strong_count(challenge) > 1);
            self.tidy_at = self.terms.len().saturating_mul(2);
        }
    }
}

impl OptionTerms {
    fn of(option: &PaymentOption) -> Self {
        Self {
            network: option.network,
            asset: option.asset.clone(),
            amount: option.amount,
            pay_to: option.pay_to,
            max_timeout_seconds: option.max_timeout_seconds,
        }
    }
}

impl Hash for OptionTerms {
    /// Of what tells most prices apart; equality looks at all of it.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let asset = &self.asset.address;
        (self.network, asset, self.amount, self.pay_to).hash(state);
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
