//! What may be paid for a route: chain, token, recipient, price.
//!
//! `payments` taken verbatim if it has entries, else one option from the route's own keys; what an
//! option does not say comes from the document (`chain`, `wallet`), never from its neighbours
//! (compat 1.2). A price is exact or refused (P-26); a token we do not know is described in full
//! or refused (P-28), because a wrong `decimals` sells at a millionth of the price and a wrong
//! EIP-712 name makes payments that verify and never settle.

use super::findings::{Findings, quoted};
use super::keys;
use super::read::{Section, Text};
use super::settings::{Defaults, address, unknown_chain};
use super::tree::Value;
use crate::money::{Amount, Asset, Network, TransferMethod, parse_price};
use crate::offer::{DEFAULT_MAX_TIMEOUT, MAX_MAX_TIMEOUT, PaymentOption};
use alloy_primitives::Address;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// More do not fit into a challenge header.
const MAX_OPTIONS: usize = 16;
/// No token has more decimals than its 128 bits can show.
const MAX_DECIMALS: u8 = 36;
/// Decimals with which a price is checked when its token is not known.
const SOME_DECIMALS: u8 = 24;
/// Longest symbol, EIP-712 name or version.
const MAX_NAME: usize = 64;
/// Tokens of a request as the predecessor counts them, so a price per million is divided by 1000.
const TOKENS_PER_REQUEST: &str = "1000";

/// Every asset once, shared by all routes that take it.
#[derive(Debug, Default)]
pub(super) struct Assets {
    standard: HashMap<Network, Option<Arc<Asset>>>,
    others: Vec<Arc<Asset>>,
}

/// How `priceModel` reads the price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Model {
    PerRequest,
    PerMTok,
    PerHour,
    PerMB,
    PerEpoch,
}

const MODELS: &[(&str, Model)] = &[
    ("perRequest", Model::PerRequest),
    ("perMTok", Model::PerMTok),
    ("perHour", Model::PerHour),
    ("perMB", Model::PerMB),
    ("perEpoch", Model::PerEpoch),
];

/// What a route or payment says about its token.
#[derive(Debug, Clone, Copy)]
struct Described<'s> {
    symbol: Option<Text<'s>>,
    decimals: Option<u8>,
    transfer: Option<TransferMethod>,
    name: Option<Text<'s>>,
    version: Option<Text<'s>>,
}

impl Assets {
    /// The default asset of a chain.
    fn standard(&mut self, network: Network) -> Option<Arc<Asset>> {
        self.standard
            .entry(network)
            .or_insert_with(|| network.default_asset().map(Arc::new))
            .clone()
    }

    /// The shared copy of an asset; a document of countless different assets shares only some.
    fn share(&mut self, asset: Asset) -> Arc<Asset> {
        const MOST: usize = 64;
        if let Some(known) = self.others.iter().find(|known| ***known == asset) {
            return Arc::clone(known);
        }
        let asset = Arc::new(asset);
        if self.others.len() < MOST {
            self.others.push(Arc::clone(&asset));
        }
        asset
    }
}

/// What may be paid for a route, in order of preference.
pub(super) fn read(
    route: &Section<'_>,
    defaults: &Defaults,
    assets: &mut Assets,
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
        return option(route, defaults, assets, findings)
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
        if filled(route, known.name) {
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
            options.extend(option(&section, defaults, assets, findings));
        }
    }
    options
}

fn filled(section: &Section<'_>, key: &str) -> bool {
    section.value(key).is_some_and(|node| match &node.value {
        Value::Null => false,
        Value::Text(text) => !matches!(&**text, "" | "0"),
        Value::List(_) | Value::Map(_) => true,
    })
}

/// One option; `None` whenever an error was left behind.
fn option(
    section: &Section<'_>,
    defaults: &Defaults,
    assets: &mut Assets,
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
        Some(network) => asset(section, network, assets, findings),
        None => None,
    };
    let amount = price(section, asset.as_deref(), findings);
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
    let seconds = |duration: std::time::Duration| u32::try_from(duration.as_secs()).ok();
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

/// The price in atomic units of the asset; without an asset only its text is checked.
fn price(section: &Section<'_>, asset: Option<&Asset>, findings: &mut Findings) -> Option<Amount> {
    let model = match section.filled("priceModel", findings) {
        Some(_) => Some(section.word("priceModel", MODELS, "invalid_price_model", findings)?),
        None => None,
    };
    let price = section.filled("price", findings);
    let per_million = section.filled("perMTok", findings);
    note_approximations(section, model, findings);
    let decimals = asset.map_or(SOME_DECIMALS, |asset| asset.decimals);
    let amount = match (model, price, per_million) {
        (Some(Model::PerEpoch), _, _) => {
            findings.error(
                section.at("priceModel"),
                section.place.key("priceModel"),
                "unsupported_price_model",
                "perEpoch names no price of a request: write price and priceModel: perRequest"
                    .to_owned(),
            );
            return None;
        }
        (_, Some(price), per_million) => {
            let amount = amount(price, price.text, decimals, findings)?;
            if let Some(per_million) = per_million {
                compare(amount, per_million, decimals, findings);
            }
            amount
        }
        (None | Some(Model::PerMTok), None, Some(per_million)) => {
            per_request(per_million, decimals, findings)?
        }
        (_, None, _) if malformed(section) => return None,
        (Some(Model::PerRequest | Model::PerHour | Model::PerMB), None, _)
        | (None | Some(Model::PerMTok), None, None) => {
            findings.error(
                section.at("price"),
                section.place.key("price"),
                "invalid_price",
                "price is empty: write a decimal number of tokens such as \"0.001\"".to_owned(),
            );
            return None;
        }
    };
    asset.map(|_| amount)
}

/// Whether a price is there that is no text; its error was left behind already.
fn malformed(section: &Section<'_>) -> bool {
    ["price", "perMTok"].iter().any(|key| {
        section
            .value(key)
            .is_some_and(|node| matches!(node.value, Value::List(_) | Value::Map(_)))
    })
}

fn note_approximations(section: &Section<'_>, model: Option<Model>, findings: &mut Findings) {
    let unit = match model {
        Some(Model::PerHour) => Some("hour"),
        Some(Model::PerMB) => Some("megabyte"),
        Some(Model::PerRequest | Model::PerMTok | Model::PerEpoch) | None => None,
    };
    if let Some(unit) = unit {
        findings.warn(
            section.at("priceModel"),
            section.place.key("priceModel"),
            "charged_in_full",
            format!("nothing is metered: the price of one {unit} is charged for every request"),
        );
    }
    let tokens = section.filled("approxTokensPerRequest", findings);
    if let Some(tokens) = tokens.filter(|t| !matches!(t.text, "0" | TOKENS_PER_REQUEST)) {
        tokens.warn(
            findings,
            "unused_key",
            format!(
                "approxTokensPerRequest is {}, but a request counts as {TOKENS_PER_REQUEST} \
                 tokens: write price for another amount",
                quoted(tokens.text)
            ),
        );
    }
}

fn amount(text: Text<'_>, price: &str, decimals: u8, findings: &mut Findings) -> Option<Amount> {
    parse_price(price, decimals)
        .map_err(|error| text.error(findings, "invalid_price", error.to_string()))
        .ok()
}

/// The price of a request from that of a million tokens.
fn per_request(text: Text<'_>, decimals: u8, findings: &mut Findings) -> Option<Amount> {
    let price = thousandth(text.text);
    if let Cow::Borrowed(price) = price {
        // No decimal number: refused in the words of what was written.
        return amount(text, price, decimals, findings);
    }
    parse_price(&price, decimals)
        .map_err(|error| {
            text.error(
                findings,
                "invalid_price",
                format!(
                    "perMTok {} is {price} for a request of {TOKENS_PER_REQUEST} tokens: {error}",
                    quoted(text.text)
                ),
            );
        })
        .ok()
}

fn compare(price: Amount, per_million: Text<'_>, decimals: u8, findings: &mut Findings) {
    if parse_price(&thousandth(per_million.text), decimals) != Ok(price) {
        per_million.warn(
            findings,
            "unused_key",
            "perMTok is not used beside price, and names another amount".to_owned(),
        );
    }
}

/// A decimal text divided by 1000, exactly: the point moves. Anything else comes back as it is.
fn thousandth(text: &str) -> Cow<'_, str> {
    let number = text.strip_prefix('$').unwrap_or(text);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || number.ends_with('.') || !digits(whole) || !digits(fraction) {
        return Cow::Borrowed(text);
    }
    let whole = format!("{whole:0>4}");
    let Some((left, right)) = whole.split_at_checked(whole.len() - 3) else {
        return Cow::Borrowed(text);
    };
    let places = format!("{right}{fraction}");
    match places.trim_end_matches('0') {
        "" => Cow::Owned(left.to_owned()),
        places => Cow::Owned(format!("{left}.{places}")),
    }
}

/// The token: the chain's own, one we know, or one described in full.
fn asset(
    section: &Section<'_>,
    network: Network,
    assets: &mut Assets,
    findings: &mut Findings,
) -> Option<Arc<Asset>> {
    let mark = findings.mark();
    let address = match section.filled("assetAddress", findings) {
        Some(text) => Some(address(text, "assetAddress", findings)?),
        None => None,
    };
    let described = describe(section, findings);
    if findings.any_error_since(mark) {
        return None;
    }
    if address.is_none() && described.is_empty() {
        let standard = assets.standard(network);
        if standard.is_none() {
            findings.error(
                section.at,
                section.place.key("assetAddress"),
                "unknown_asset",
                format!(
                    "{} has no default asset here: write assetAddress, assetSymbol, \
                     assetDecimals, eip712Name and eip712Version",
                    network.caip2()
                ),
            );
        }
        return standard;
    }
    let known = match (address, described.symbol) {
        (Some(address), _) => network.asset_at(address),
        (None, Some(symbol)) => network.asset_named(symbol.text),
        (None, None) => network.default_asset(),
    };
    let asset = match known {
        Some(known) => refine(section, known, described, findings)?,
        None => complete(section, network, address, described, findings)?,
    };
    Some(assets.share(asset))
}

impl Described<'_> {
    const fn is_empty(&self) -> bool {
        self.symbol.is_none()
            && self.decimals.is_none()
            && self.transfer.is_none()
            && self.name.is_none()
            && self.version.is_none()
    }
}

fn describe<'s>(section: &Section<'s>, findings: &mut Findings) -> Described<'s> {
    let mut named = |key: &'s str| {
        let text = section.filled(key, findings)?;
        if text.text.len() > MAX_NAME || text.text.chars().any(char::is_control) {
            text.error(
                findings,
                "invalid_asset",
                format!(
                    "{key} is {}: write at most {MAX_NAME} bytes",
                    quoted(text.text)
                ),
            );
        }
        Some(text)
    };
    let (symbol, name, version) = (
        named("assetSymbol"),
        named("eip712Name"),
        named("eip712Version"),
    );
    let decimals = match section.filled("assetDecimals", findings) {
        Some(_) => section
            .number("assetDecimals", 0..=u64::from(MAX_DECIMALS), findings)
            .and_then(|decimals| u8::try_from(decimals).ok()),
        None => None,
    };
    let methods =
        [TransferMethod::Eip3009, TransferMethod::Permit2].map(|method| (method.as_str(), method));
    let transfer = match section.filled("assetTransferMethod", findings) {
        Some(_) => section.word(
            "assetTransferMethod",
            &methods,
            "invalid_transfer_method",
            findings,
        ),
        None => None,
    };
    Described {
        symbol,
        decimals,
        transfer,
        name,
        version,
    }
}

/// A token we know, with what the document says differently about it.
fn refine(
    section: &Section<'_>,
    mut known: Asset,
    described: Described<'_>,
    findings: &mut Findings,
) -> Option<Asset> {
    if let Some(decimals) = described.decimals.filter(|d| *d != known.decimals) {
        findings.error(
            section.at("assetDecimals"),
            section.place.key("assetDecimals"),
            "invalid_asset",
            format!(
                "assetDecimals is {decimals}, but {} has {}: remove the key",
                known.symbol, known.decimals
            ),
        );
        return None;
    }
    if let Some(transfer) = described.transfer.filter(|t| *t != known.transfer) {
        if known.transfer == TransferMethod::Permit2 {
            findings.error(
                section.at("assetTransferMethod"),
                section.place.key("assetTransferMethod"),
                "invalid_asset",
                format!(
                    "{} moves by permit2 only: write permit2, or remove the key",
                    known.symbol
                ),
            );
            return None;
        }
        known.transfer = transfer;
    }
    let mut differ = |text: Option<Text<'_>>, value: &mut Arc<str>, what: &str| {
        if let Some(text) = text.filter(|text| *text.text != **value) {
            text.warn(
                findings,
                "asset_differs",
                format!(
                    "{what} is {}, but this token's is {}: payments may not settle",
                    quoted(text.text),
                    quoted(value)
                ),
            );
            *value = text.text.into();
        }
    };
    differ(described.name, &mut known.eip712_name, "eip712Name");
    differ(
        described.version,
        &mut known.eip712_version,
        "eip712Version",
    );
    if let Some(symbol) = described.symbol {
        known.symbol = symbol.text.into();
    }
    Some(known)
}

/// A token we do not know: all or nothing (P-28).
fn complete(
    section: &Section<'_>,
    network: Network,
    address: Option<Address>,
    described: Described<'_>,
    findings: &mut Findings,
) -> Option<Asset> {
    let missing: Vec<&str> = [
        ("assetAddress", address.is_none()),
        ("assetSymbol", described.symbol.is_none()),
        ("assetDecimals", described.decimals.is_none()),
        ("eip712Name", described.name.is_none()),
        ("eip712Version", described.version.is_none()),
    ]
    .iter()
    .filter_map(|(key, missing)| missing.then_some(*key))
    .collect();
    if let (Some(address), Some(symbol), Some(decimals), Some(name), Some(version)) = (
        address,
        described.symbol,
        described.decimals,
        described.name,
        described.version,
    ) {
        if address.is_zero() {
            findings.error(
                section.at("assetAddress"),
                section.place.key("assetAddress"),
                "invalid_asset",
                "assetAddress is the zero address: write the token's contract".to_owned(),
            );
            return None;
        }
        return Some(Asset {
            address,
            symbol: symbol.text.into(),
            decimals,
            transfer: described.transfer.unwrap_or(TransferMethod::Eip3009),
            eip712_name: name.text.into(),
            eip712_version: version.text.into(),
        });
    }
    let (at, key) = ["assetAddress", "assetSymbol"]
        .iter()
        .find(|key| section.value(key).is_some())
        .map_or((section.at, "assetAddress"), |key| (section.at(key), key));
    findings.error(
        at,
        section.place.key(key),
        "unknown_asset",
        format!(
            "this token is not known on {}: write {} too",
            network.caip2(),
            missing.join(", ")
        ),
    );
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_thousandth_moves_the_point_and_nothing_else() {
        for (text, expected) in [
            ("2.5", "0.0025"),
            ("1000", "1"),
            ("1", "0.001"),
            ("$12345.6", "12.3456"),
            ("0", "0"),
            ("0.0000010", "0.000000001"),
            ("1e3", "1e3"),
            ("-1", "-1"),
            (".5", ".5"),
            ("5.", "5."),
        ] {
            assert_eq!(thousandth(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_thousandth_is_exact(units in 1u64..1_000_000_000_000, places in 0u8..12) {
            let text = Amount(u128::from(units)).to_decimal(places);
            let divided = parse_price(&thousandth(&text), places + 3).expect("a price");
            prop_assert_eq!(divided, Amount(u128::from(units)));
        }
    }
}
