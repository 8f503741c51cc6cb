//! What may be paid for a route of an offer (compat 1.6, 1.18): chain, token, recipient, price.
//!
//! `payments`, when it has entries, is what the gate asks for; `payment` must then equal the first
//! of them, because everything that shows the offer to people reads `payment`. A route with a price
//! of its own is sold by the first payment at that price and by no other, as in the field.
//!
//! Prices and tokens are exact or refused (`money.rs`). Nothing is inherited: the operator's
//! `wallet` is not the seller's (O7), and a recipient is neither zero nor the token.

use super::read::Section;
use crate::money::{Amount, Asset, Network, TransferMethod, parse_price, thousandth};
use crate::offer::quoted;
use crate::offer::{DEFAULT_MAX_TIMEOUT, MAX_MAX_TIMEOUT, PaymentOption, Problem};
use alloy_primitives::Address;
use serde_json::Value;
use std::sync::Arc;

/// More do not fit into a challenge header.
const MAX_OPTIONS: usize = 16;
/// Default of the field's schema, for manifests that no API server has completed.
const FIELDS_MAX_TIMEOUT: u32 = 300;
/// Decimals with which a price is checked when its token is not known.
const SOME_DECIMALS: u8 = 24;
/// No token has more decimals than its 128 bits can show.
const MAX_DECIMALS: i64 = 36;
/// Longest symbol, EIP-712 name or version.
const MAX_NAME: usize = 64;

/// The ways to pay an offer: what its paid routes without a price of their own ask for.
#[derive(Debug, Default)]
pub(super) struct Terms {
    /// In order of preference; empty when anything is wrong.
    pub(super) options: Vec<PaymentOption>,
    /// What is wrong with them.
    pub(super) problems: Vec<Problem>,
    /// The first one without its price, for routes that name their own.
    primary: Option<Unpriced>,
}

/// A payment option before its price.
#[derive(Debug, Clone)]
struct Unpriced {
    network: Network,
    asset: Arc<Asset>,
    pay_to: Address,
    max_timeout_seconds: u32,
}

impl Terms {
    /// Reads `payment` and `payments` of a spec.
    pub(super) fn read(spec: &Section<'_>) -> Self {
        let mut terms = Self::default();
        let problems = &mut terms.problems;
        let payments = spec.list("payments", problems).unwrap_or_default();
        if payments.len() > MAX_OPTIONS {
            problems.push(problem(
                "invalid_payment",
                format!(
                    "{} has {} entries: write at most {MAX_OPTIONS}",
                    spec.at("payments"),
                    payments.len()
                ),
            ));
            return terms;
        }
        let single = spec.value("payment").unwrap_or(&Value::Null);
        let single = Section::new(single, spec.at("payment"), problems);
        if single.is_empty() {
            problems.push(problem(
                "invalid_payment",
                format!(
                    "{} is missing: write network, payTo and price",
                    single.path()
                ),
            ));
        }
        let first = read_option(&single, problems);
        let mut unpriced = vec![first.0];
        terms.options.extend(first.1);
        if !payments.is_empty() {
            unpriced.clear();
            let single = std::mem::take(&mut terms.options);
            for (index, value) in payments.iter().enumerate() {
                let path = format!("{}[{index}]", spec.at("payments"));
                let (one, option) = read_option(&Section::new(value, path, problems), problems);
                unpriced.push(one);
                terms.options.extend(option);
            }
            if problems.is_empty() && single.first().zip(terms.options.first()).is_none_or(differ) {
                problems.push(problem(
                    "payment_mismatch",
                    "spec.payment differs from spec.payments[0]: write the same in both, because \
                     catalogues show the one and the gate asks for the other"
                        .to_owned(),
                ));
            }
        }
        terms.primary = unpriced.into_iter().next().flatten();
        if !terms.problems.is_empty() {
            terms.options.clear();
        }
        terms.options.shrink_to_fit();
        terms
    }

    /// The one way to pay a route that names its own price; `None` left a problem behind, here or
    /// in [`Terms::problems`].
    pub(super) fn at_price(
        &self,
        price: &Section<'_>,
        problems: &mut Vec<Problem>,
    ) -> Option<PaymentOption> {
        let decimals = self.primary.as_ref().map(|primary| primary.asset.decimals);
        let amount = read_price(price, decimals.unwrap_or(SOME_DECIMALS), problems)?;
        Some(self.primary.as_ref()?.priced(amount))
    }
}

impl Unpriced {
    fn priced(&self, amount: Amount) -> PaymentOption {
        PaymentOption {
            network: self.network,
            asset: Arc::clone(&self.asset),
            amount,
            pay_to: self.pay_to,
            max_timeout_seconds: self.max_timeout_seconds,
            price: amount.to_decimal(self.asset.decimals).into(),
        }
    }
}

/// Whether two options, read without a problem, are not the same.
fn differ((one, other): (&PaymentOption, &PaymentOption)) -> bool {
    let terms = |option: &PaymentOption| {
        (
            option.network,
            option.amount,
            option.pay_to,
            option.max_timeout_seconds,
        )
    };
    terms(one) != terms(other) || one.asset != other.asset
}

/// One payment: without its price, and with it where both can be read.
fn read_option(
    section: &Section<'_>,
    problems: &mut Vec<Problem>,
) -> (Option<Unpriced>, Option<PaymentOption>) {
    if section.is_empty() {
        return (None, None);
    }
    check_kind(section, problems);
    let network = read_network(section, problems);
    let asset = network.and_then(|network| {
        let asset = section.section("asset", problems);
        read_asset(&asset, network, problems).map(Asset::shared)
    });
    let price = section.section("price", problems);
    let decimals = asset.as_ref().map_or(SOME_DECIMALS, |asset| asset.decimals);
    let amount = read_price(&price, decimals, problems);
    let pay_to = read_recipient(section, asset.as_deref(), problems);
    let max_timeout_seconds = read_max_timeout(section, problems);
    let unpriced = || {
        Some(Unpriced {
            network: network?,
            asset: asset?,
            pay_to: pay_to?,
            max_timeout_seconds: max_timeout_seconds?,
        })
    };
    let unpriced = unpriced();
    let option = unpriced.as_ref().zip(amount);
    let option = option.map(|(unpriced, amount)| unpriced.priced(amount));
    (unpriced, option)
}

/// The kinds of payment that exist in the field and not here.
fn check_kind(section: &Section<'_>, problems: &mut Vec<Problem>) {
    for (key, only) in [("method", "crypto"), ("scheme", "exact")] {
        if let Some(found) = section.text(key, problems).filter(|found| *found != only) {
            problems.push(problem(
                "unsupported_method",
                format!(
                    "{} is {}: this gate knows only \"{only}\"",
                    section.at(key),
                    quoted(found)
                ),
            ));
        }
    }
}

fn read_network(section: &Section<'_>, problems: &mut Vec<Problem>) -> Option<Network> {
    let Some(text) = section.text("network", problems) else {
        if section.value("network").is_none_or(Value::is_string) {
            problems.push(unknown_chain(&section.at("network"), "is missing"));
        }
        return None;
    };
    let network = Network::parse(text);
    if network.is_none() {
        let found = format!("is {}", quoted(text));
        problems.push(unknown_chain(&section.at("network"), &found));
    }
    network
}

fn unknown_chain(path: &str, found: &str) -> Problem {
    let names: Vec<&str> = Network::known()
        .filter_map(|network| network.names().first().copied())
        .collect();
    problem(
        "unknown_chain",
        format!(
            "{path} {found}: write \"eip155:<chain id>\" or one of {}",
            names.join(", ")
        ),
    )
}

/// The price of one request by the first model that is set, in the field's order. Nothing is
/// metered: a million tokens count as 1000 requests, an hour and a megabyte as one (compat 1.6).
fn read_price(section: &Section<'_>, decimals: u8, problems: &mut Vec<Problem>) -> Option<Amount> {
    let mark = problems.len();
    let models = ["perRequest", "perMTok", "perHour", "perMB"].map(|key| {
        let text = section.text(key, problems);
        text.map(|text| (key, text))
    });
    if problems.len() > mark {
        return None;
    }
    let Some((key, text)) = models.into_iter().flatten().next() else {
        problems.push(problem(
            "invalid_price",
            format!(
                "{} names no price of a request: write perRequest, such as \"0.001\"",
                section.path()
            ),
        ));
        return None;
    };
    let per_request = match key {
        "perMTok" => thousandth(text),
        _ => text.into(),
    };
    parse_price(&per_request, decimals)
        .map_err(|error| {
            problems.push(problem(
                "invalid_price",
                format!("{}: {error}", section.at(key)),
            ));
        })
        .ok()
}

/// O7: the seller's own, neither zero nor the token.
fn read_recipient(
    section: &Section<'_>,
    asset: Option<&Asset>,
    problems: &mut Vec<Problem>,
) -> Option<Address> {
    let mark = problems.len();
    let path = section.at("payTo");
    let Some(pay_to) = read_address(section, "payTo", problems) else {
        if problems.len() == mark {
            problems.push(problem(
                "invalid_recipient",
                format!("{path} is missing, so nobody would be paid: write your address"),
            ));
        }
        return None;
    };
    let what = if pay_to.is_zero() {
        "the zero address"
    } else if asset.is_some_and(|asset| asset.address == pay_to) {
        "the token itself"
    } else {
        return Some(pay_to);
    };
    problems.push(problem(
        "invalid_recipient",
        format!("{path} is {what}: write the address that shall be paid"),
    ));
    None
}

fn read_address(section: &Section<'_>, key: &str, problems: &mut Vec<Problem>) -> Option<Address> {
    let text = section.text(key, problems)?;
    let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 40);
    let address = digits.and_then(|digits| digits.parse().ok());
    if address.is_none() {
        problems.push(problem(
            "invalid_address",
            format!(
                "{} is {}: write an address, \"0x\" and 40 hexadecimal digits",
                section.at(key),
                quoted(text)
            ),
        ));
    }
    address
}

/// As in the field: nothing and less than one are a default, more than a day is a day.
fn read_max_timeout(section: &Section<'_>, problems: &mut Vec<Problem>) -> Option<u32> {
    const KEY: &str = "maxTimeoutSeconds";
    let Some(seconds) = section.number(KEY, problems) else {
        return section.value(KEY).is_none().then_some(FIELDS_MAX_TIMEOUT);
    };
    let least = if seconds > 0 {
        u64::try_from(seconds).unwrap_or(u64::MAX)
    } else {
        DEFAULT_MAX_TIMEOUT.as_secs()
    };
    u32::try_from(least.min(MAX_MAX_TIMEOUT.as_secs())).ok()
}

/// The chain's own token, one that `money.rs` knows, or one described in full.
fn read_asset(
    section: &Section<'_>,
    network: Network,
    problems: &mut Vec<Problem>,
) -> Option<Asset> {
    let mark = problems.len();
    let address = read_address(section, "address", problems);
    let mut named = |key: &str| {
        let text = section.text(key, problems)?;
        if text.len() > MAX_NAME || text.chars().any(char::is_control) {
            problems.push(problem(
                "invalid_asset",
                format!(
                    "{} is {}: write at most {MAX_NAME} bytes",
                    section.at(key),
                    quoted(text)
                ),
            ));
        }
        Some(text)
    };
    let (symbol, name, version) = (named("symbol"), named("eip712Name"), named("eip712Version"));
    let decimals = read_decimals(section, problems);
    let transfer = section.text("transferMethod", problems).and_then(|text| {
        let transfer = TransferMethod::parse(text);
        if transfer.is_none() {
            problems.push(problem(
                "invalid_asset",
                format!(
                    "{} is {}: write \"eip3009\" or \"permit2\"",
                    section.at("transferMethod"),
                    quoted(text)
                ),
            ));
        }
        transfer
    });
    if problems.len() > mark {
        return None;
    }
    let known = match (address, symbol) {
        (Some(address), _) => network.asset_at(address),
        (None, Some(symbol)) => network.asset_named(symbol),
        (None, None) => network.default_asset(),
    };
    let Some(mut asset) = known else {
        let described = (address, symbol, decimals, name, version);
        let (Some(address), Some(symbol), Some(decimals), Some(name), Some(version)) = described
        else {
            problems.push(unknown_asset(section, network));
            return None;
        };
        if address.is_zero() {
            problems.push(problem(
                "invalid_asset",
                format!(
                    "{} is the zero address: write the token's contract",
                    section.at("address")
                ),
            ));
            return None;
        }
        return Some(Asset {
            address,
            symbol: symbol.into(),
            decimals,
            transfer: transfer.unwrap_or(TransferMethod::Eip3009),
            eip712_name: name.into(),
            eip712_version: version.into(),
        });
    };
    // Zero is how the clients of the field write "not said".
    if let Some(decimals) = decimals.filter(|found| ![0, asset.decimals].contains(found)) {
        problems.push(problem(
            "invalid_asset",
            format!(
                "{} is {decimals}, but {} has {}: remove it",
                section.at("decimals"),
                asset.symbol,
                asset.decimals
            ),
        ));
        return None;
    }
    if let Some(transfer) = transfer.filter(|transfer| *transfer != asset.transfer) {
        if asset.transfer == TransferMethod::Permit2 {
            problems.push(problem(
                "invalid_asset",
                format!(
                    "{} is \"{}\", but {} moves by permit2 only: write permit2, or remove it",
                    section.at("transferMethod"),
                    transfer.as_str(),
                    asset.symbol
                ),
            ));
            return None;
        }
        asset.transfer = transfer;
    }
    let replace = |value: &mut Arc<str>, text: Option<&str>| {
        if let Some(text) = text {
            *value = text.into();
        }
    };
    replace(&mut asset.symbol, symbol);
    replace(&mut asset.eip712_name, name);
    replace(&mut asset.eip712_version, version);
    Some(asset)
}

fn read_decimals(section: &Section<'_>, problems: &mut Vec<Problem>) -> Option<u8> {
    let number = section.number("decimals", problems)?;
    let decimals = (0..=MAX_DECIMALS)
        .contains(&number)
        .then(|| u8::try_from(number).ok())
        .flatten();
    if decimals.is_none() {
        problems.push(problem(
            "invalid_asset",
            format!(
                "{} is {number}: write a number from 0 to {MAX_DECIMALS}",
                section.at("decimals")
            ),
        ));
    }
    decimals
}

fn unknown_asset(section: &Section<'_>, network: Network) -> Problem {
    let message = if section.is_empty() {
        format!(
            "{network} has no default token here: write {} with address, symbol, decimals, \
             eip712Name and eip712Version",
            section.path()
        )
    } else {
        format!(
            "{} is not known on {network}: write all of address, symbol, decimals, eip712Name and \
             eip712Version",
            section.path()
        )
    };
    problem("unknown_asset", message)
}

const fn problem(code: &'static str, message: String) -> Problem {
    Problem { code, message }
}
