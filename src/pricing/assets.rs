//! Chains, tokens and addresses as a document names them.
//!
//! A token is the chain's own, one that `money.rs` knows, or one described in full (P-28): a wrong
//! `decimals` sells at a millionth of the price, and a wrong EIP-712 name makes payments that
//! verify and never settle. A known token fills itself; what a document says differently about it
//! is an error where it changes the price and a warning where it changes the signature.

use super::findings::Findings;
use super::read::{Section, Text};
use crate::money::{Asset, Network, TransferMethod};
use crate::offer::quoted;
use alloy_primitives::Address;
use std::collections::HashMap;
use std::sync::Arc;

/// No token has more decimals than its 128 bits can show.
const MAX_DECIMALS: u8 = 36;
/// Longest symbol, EIP-712 name or version.
const MAX_NAME: usize = 64;

/// Every asset once, shared by all routes that take it.
#[derive(Debug, Default)]
pub(super) struct Assets {
    standard: HashMap<Network, Option<Arc<Asset>>>,
    others: Vec<Arc<Asset>>,
}

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

/// The token: the chain's own, one we know, or one described in full.
pub(super) fn asset(
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

/// An address in hexadecimal; mixed case that is no EIP-55 checksum warns.
pub(super) fn address(text: Text<'_>, key: &str, findings: &mut Findings) -> Option<Address> {
    let digits = text
        .text
        .strip_prefix("0x")
        .or_else(|| text.text.strip_prefix("0X"))
        .filter(|digits| digits.len() == 40);
    let Some((address, digits)) =
        digits.and_then(|digits| Some((digits.parse::<Address>().ok()?, digits)))
    else {
        text.error(
            findings,
            "invalid_address",
            format!(
                "{key} is {}: write an address, \"0x\" and 40 hexadecimal digits",
                quoted(text.text)
            ),
        );
        return None;
    };
    let mixed = digits.bytes().any(|b| b.is_ascii_uppercase())
        && digits.bytes().any(|b| b.is_ascii_lowercase());
    if mixed && address.to_checksum(None).get(2..) != Some(digits) {
        text.warn(
            findings,
            "address_checksum",
            format!(
                "{key} is {}, whose letter case is not its EIP-55 checksum: check for a typing \
                 error, or write it in lower case",
                quoted(text.text)
            ),
        );
    }
    Some(address)
}

/// What to say about a chain that is not known.
pub(super) fn unknown_chain(key: &str, found: &str) -> String {
    let names: Vec<&str> = Network::known()
        .filter_map(|network| network.names().first().copied())
        .collect();
    format!(
        "{key} is {}: write \"eip155:<chain id>\" or one of {}",
        quoted(found),
        names.join(", ")
    )
}
