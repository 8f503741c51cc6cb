//! What may be paid for a route: chain, token, recipient, price, validity.
//!
//! `payments` is taken verbatim if it has entries, else the route's own keys are one option; what
//! an option does not say comes from the document (`chain`, `wallet`), never from its neighbours
//! (compat 1.2). An option is whole or absent: whatever is wrong with one closes the route.

use super::assets::{self, Assets, address, unknown_chain};
use super::findings::Findings;
use super::keys;
use super::prices;
use super::read::Section;
use super::settings::Defaults;
use super::tree::Value;
use crate::money::{Asset, Network};
use crate::offer::quoted;
use crate::offer::{DEFAULT_MAX_TIMEOUT, MAX_MAX_TIMEOUT, PaymentOption};
use alloy_primitives::Address;
use std::time::Duration;

/// More do not fit into a challenge header.
const MAX_OPTIONS: usize = 16;

/// What may be paid for a route, in order of preference.
pub(super) fn read(
    route: &Section<'_>,
    defaults: &Defaults,
    shared: &mut Assets,
    findings: &mut Findings,
) -> Vec<PaymentOption> {
    let payments = match route.value("payments") {
        Some(_) => route.list("payments", findings),
        None => Some([].as_slice()),
    };
    let Some(payments) = payments else {
        return Vec::new();
    };
    if payments.is_empty() {
        return option(route, defaults, shared, findings)
            .into_iter()
            .collect();
    }
    let list = route.place.key("payments");
    if payments.len() > MAX_OPTIONS {
        findings.error(
            route.at("payments"),
            list,
            "too_many",
            format!("{} payments are more than {MAX_OPTIONS}", payments.len()),
        );
        return Vec::new();
    }
    for known in keys::PAYMENT {
        if route.sets(known.name) {
            findings.warn(
                route.at(known.name),
                route.place.key(known.name),
                "unused_key",
                format!(
                    "{} is not used beside payments: write it in their entries",
                    known.name
                ),
            );
        }
    }
    let mut options = Vec::with_capacity(payments.len());
    for (index, item) in payments.iter().enumerate() {
        let place = list.item(index);
        if let Some(section) = Section::new(item, &place, "a mapping with a price", findings) {
            section.check_keys(keys::PAYMENT, findings);
            options.extend(option(&section, defaults, shared, findings));
        }
    }
    options
}

/// One option; `None` whenever an error was left behind.
fn option(
    section: &Section<'_>,
    defaults: &Defaults,
    shared: &mut Assets,
    findings: &mut Findings,
) -> Option<PaymentOption> {
    let network = match section.filled("network", findings) {
        None if section
            .value("network")
            .is_none_or(|n| matches!(n.value, Value::Text(_))) =>
        {
            Some(defaults.chain)
        }
        None => None,
        Some(text) => {
            let network = Network::parse(text.text);
            if network.is_none() {
                text.error(
                    findings,
                    "unknown_chain",
                    unknown_chain("network", text.text),
                );
            }
            network
        }
    };
    let asset = match network {
        Some(network) => assets::asset(section, network, shared, findings),
        None => None,
    };
    let amount = prices::price(section, asset.as_deref(), findings);
    let max_timeout_seconds = max_timeout(section, findings);
    let pay_to = recipient(section, defaults, asset.as_deref(), findings);
    let (asset, amount) = (asset?, amount?);
    Some(PaymentOption {
        network: network?,
        amount,
        pay_to: pay_to?,
        max_timeout_seconds: max_timeout_seconds?,
        price: amount.to_decimal(asset.decimals).into(),
        asset,
    })
}

fn recipient(
    section: &Section<'_>,
    defaults: &Defaults,
    asset: Option<&Asset>,
    findings: &mut Findings,
) -> Option<Address> {
    const KEY: &str = "payTo";
    let (at, place) = (section.at(KEY), section.place.key(KEY));
    let own = section.filled(KEY, findings);
    let pay_to = match own {
        Some(text) => address(text, KEY, findings)?,
        None if section
            .value(KEY)
            .is_some_and(|node| !matches!(node.value, Value::Text(_))) =>
        {
            return None;
        }
        None => {
            let Some(wallet) = defaults.wallet else {
                findings.error(
                    at,
                    place,
                    "missing_recipient",
                    "nobody would be paid: write payTo here, or wallet at the top".to_owned(),
                );
                return None;
            };
            wallet
        }
    };
    let what = match own {
        Some(_) => "payTo",
        None => "wallet",
    };
    if pay_to.is_zero() {
        findings.error(
            at,
            place,
            "invalid_recipient",
            format!("{what} is the zero address: write the address that shall be paid"),
        );
        return None;
    }
    if asset.is_some_and(|asset| asset.address == pay_to) {
        findings.error(
            at,
            place,
            "invalid_recipient",
            format!("{what} is the token itself: write the address that shall be paid"),
        );
        return None;
    }
    Some(pay_to)
}

fn max_timeout(section: &Section<'_>, findings: &mut Findings) -> Option<u32> {
    const KEY: &str = "maxTimeoutSeconds";
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).ok();
    let Some(text) = section.filled(KEY, findings) else {
        return seconds(DEFAULT_MAX_TIMEOUT);
    };
    let digits = text.text.strip_prefix('-').unwrap_or(text.text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        text.error(
            findings,
            "invalid_number",
            format!(
                "maxTimeoutSeconds is {}: write whole seconds from 1 to {}",
                quoted(text.text),
                MAX_MAX_TIMEOUT.as_secs()
            ),
        );
        return None;
    }
    if digits.bytes().all(|b| b == b'0') || digits.len() < text.text.len() {
        return seconds(DEFAULT_MAX_TIMEOUT);
    }
    let most = seconds(MAX_MAX_TIMEOUT)?;
    match digits.parse::<u32>() {
        Ok(wanted) if wanted <= most => Some(wanted),
        _ => {
            text.warn(
                findings,
                "long_timeout",
                format!("maxTimeoutSeconds is {}: {most} is used", quoted(text.text)),
            );
            Some(most)
        }
    }
}
